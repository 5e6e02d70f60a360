"""Putting a network together that was pickled whole, where it is made of torch's own layers and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from lenient.core.errors import TeacherError
from lenient.models.archives import Entry
from lenient.models.card import precision_of
from lenient.models.pickles import Thing
from lenient.models.probing import hooked

_LAYERS: dict[str, type[nn.Module]] = {
    f"{kind.__module__}.{kind.__qualname__}": kind
    for kind in (
        *(nn.Sequential, nn.Identity, nn.Flatten, nn.Linear, nn.Conv1d, nn.Conv2d, nn.PixelUnshuffle),
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d),
        *(nn.LocalResponseNorm, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
        *(nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softmax, nn.LogSoftmax),
        *(nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d),
    )
}
_WRAPPERS = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
}
"""What only stands around a network, and the name of the network in it."""
_MAX_LAYERS, _MAX_NUMBER, _MAX_MAP = 1000, 2**20, 2**27
_MAX_WRAPPERS = 10
_TENSORS = ("_parameters", "_buffers", "_modules")


def rebuilt(thing: Thing) -> nn.Module | None:
    """Return the module that a pickle describes, or None where it is not of torch's layers alone.

    Nothing of the file is run: classes are those of a list here, their attributes plain numbers and texts, and hooks
    are refused. Errors of reading its tensors are those of `Entry.read`.
    """
    try:
        return _layer(thing, [0])
    except _UnknownError:
        return None


def bare(thing: Thing) -> Thing:
    """Return what a pickled wrapper of torch's holds, such as `DataParallel`; another network as it is."""
    for _ in range(_MAX_WRAPPERS):
        modules = thing.state.get("_modules") if isinstance(thing.state, Mapping) else None
        inner = modules.get(_WRAPPERS.get(thing.name)) if isinstance(modules, Mapping) else None
        if not isinstance(inner, Thing):
            break
        thing = inner
    return thing


def check_maps(module: nn.Module, input_size: tuple[int, int, int], where: object) -> None:
    """Follow the shapes of a rebuilt module's maps for one image, without memory for them.

    Raises TeacherError where one would be larger than half a gigabyte, so that numbers in a file cannot ask for it.
    """

    def measure(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.numel() > _MAX_MAP:
            kind, size = type(layer).__name__, output.numel() * 4 / 2**30
            raise TeacherError(
                f"{where}: describes a {kind} whose maps take {size:.3g} GiB for one image; "
                "correct --input-size, or make or fetch the file again"
            )

    twin = copy.deepcopy(module).to("meta").eval()
    images = torch.empty(1, *input_size, device="meta", dtype=precision_of(twin))
    errors = (RuntimeError, ValueError, IndexError, TypeError)  # whoever runs it for real says what is wrong
    with torch.no_grad(), hooked(list(twin.modules()), measure), suppress(*errors):
        twin(images)


class _UnknownError(Exception):
    """A part that is not one of torch's layers as they are."""


def _layer(thing: object, made: list[int]) -> nn.Module:
    thing = bare(thing) if isinstance(thing, Thing) else thing
    kind = _LAYERS.get(thing.name) if isinstance(thing, Thing) else None
    made[0] += 1
    if kind is None or not isinstance(thing, Thing) or not isinstance(thing.state, Mapping) or made[0] > _MAX_LAYERS:
        raise _UnknownError
    state = thing.state
    layer = kind.__new__(kind)
    nn.Module.__init__(layer)
    own = {name: _plain(value) for name, value in state.items() if name not in _TENSORS and not _empty(value)}
    if any(not isinstance(name, str) or callable(getattr(kind, name, None)) for name in own):
        raise _UnknownError
    layer.__setstate__({**layer.__dict__, **own})
    for name, value in _group(state, "_parameters"):
        layer.register_parameter(name, None if value is None else nn.Parameter(_tensor(value)))
    for name, value in _group(state, "_buffers"):
        layer.register_buffer(name, None if value is None else _tensor(value))
    for name, value in _group(state, "_modules"):
        layer.add_module(name, _layer(value, made))
    return layer


def _group(state: Mapping[Any, Any], name: str) -> list[tuple[str, Any]]:
    group = state.get(name)
    if not isinstance(group, Mapping) or not all(isinstance(key, str) and key and "." not in key for key in group):
        raise _UnknownError
    return list(group.items())


def _tensor(value: object) -> Tensor:
    if not isinstance(value, Entry) or not (value.dtype.is_floating_point or value.dtype == torch.int64):
        raise _UnknownError
    return value.read()


def _empty(value: object) -> bool:
    """Whether a dictionary or set of hooks is empty, as it has to be."""
    if isinstance(value, Thing):
        return not value.items and value.made_of in ((), ([],), None)
    return isinstance(value, Mapping) and not value


def _plain(value: object) -> object:
    """Return a number, a text or a tuple of numbers."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float) and abs(value) <= _MAX_NUMBER:
        return value
    if isinstance(value, tuple | list) and len(value) <= 8:
        return type(value)(_plain(item) for item in value)
    raise _UnknownError
