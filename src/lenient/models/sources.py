"""Building a network by name: our own, timm's, torchvision's, those of the Hub, and those of the user's factories."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import torch
from torch import nn

from lenient.core.errors import LenientError, TeacherError
from lenient.core.packages import needs
from lenient.models.factories import build_from_factory
from lenient.models.facts import Facts, Wanted, facts_of_attributes, facts_of_config, first_conv
from lenient.models.low_bit import LowBit
from lenient.models.names import NETS, WIDE, Spec, did_you_mean, one_line
from lenient.models.weights import INDEX

DEFAULT_SIZE = (32, 32)


@dataclass
class Built:
    """A module, the SPEC that builds it again, and what its source says about it."""

    module: nn.Module
    arch: str
    attributes: list[Facts] = field(default_factory=list)
    """What the module says of itself."""
    configs: list[Facts] = field(default_factory=list)
    """What a `pretrained_cfg` or published weights say."""
    has_card: bool = False
    """Whether it came with a card: what it applies to its images belongs to it, after what the card says."""


def build(spec: Spec, wanted: Wanted, *, pretrained: bool = False, new_head: bool = False, label: str) -> Built:
    """Build the network that `spec` names, in the shape `wanted`; what is None there stays the architecture's own.

    `pretrained` loads published weights; with `new_head` layers that do not fit `wanted` start at random instead of
    being an error. `label` names the flag in messages. Random weights come from torch's global stream.

    Raises TeacherError for an unknown name, a refused shape or weights that cannot be had.
    """
    if spec.bits is not None:
        if spec.copies:
            raise TeacherError(f"{label} {spec}: is the teacher in {spec.bits} bits, for --student of a run only")
        return in_few_bits(build(spec.whole, wanted, pretrained=pretrained, new_head=new_head, label=label), spec)
    try:
        if spec.source == "lenient":
            return Built(_lenient(spec, wanted, label), str(spec))
        if spec.source == "torchvision":
            return _torchvision(spec, wanted, pretrained, new_head, label)
        if spec.source == "py":
            module, attributes, configs, has_card = build_from_factory(spec, wanted, label)
            return Built(module, str(spec), attributes, configs, has_card)
        if spec.source in ("timm", "hf-hub", "local-dir"):
            return _timm(spec, wanted, pretrained, new_head, label)
    except LenientError:
        raise
    except Exception as error:
        remote = pretrained and spec.source != "local-dir"
        hint = "; offline, give a file and --teacher-arch" if remote else ""
        doing = "load the pretrained" if pretrained else "build the"
        raise TeacherError(f"{label} {spec}: could not {doing} network ({one_line(error)}){hint}") from error
    raise TeacherError(f"{label} {spec}: a path does not say how to build the network; give e.g. lenient:resnet8")


def in_few_bits(built: Built, spec: Spec) -> Built:
    """Return a network in as many bits as `spec` says; as it is, where that says nothing."""
    if spec.bits is None:
        return built
    return replace(built, module=LowBit(built.module, spec.bits), arch=f"{spec.source}:{built.arch}")


def draft(spec: Spec, wanted: Wanted, *, label: str) -> Built:
    """Build a network to compare shapes with: without memory for its weights, where its source is not one's own code
    and it is not in few bits, which torch cannot round without values.

    Errors are those of `build`.
    """
    if spec.source not in ("lenient", "timm", "torchvision"):
        return build(spec, wanted, label=label)
    try:
        with torch.device("meta"):
            return build(spec, wanted, label=label)
    except TeacherError:  # one that looks at its weights while it is built has none to look at
        return build(spec, wanted, label=label)


def weights_in(folder: Path) -> Path:
    """Return the file of weights in a folder; raises TeacherError where there is none."""
    names = ("model.safetensors", "pytorch_model.bin", f"model.safetensors{INDEX}", f"pytorch_model.bin{INDEX}")
    for name in names:
        if (folder / name).exists():
            return folder / name
    if (folder / "checkpoints").is_dir() and (folder / "config.yaml").is_file():
        again = f"lenient distill TEACHER --resume -o {folder}"
        raise TeacherError(f"{folder}: the run has no student yet; go on with it: {again}")
    raise TeacherError(f"{folder / names[0]}: no such file; give a run, its student/ or a file of weights")


def _lenient(spec: Spec, wanted: Wanted, label: str) -> nn.Module:
    input_size = (wanted.channels or 3, *(wanted.size or DEFAULT_SIZE))
    num_classes = wanted.num_classes or 10
    if wide := WIDE.fullmatch(spec.name):
        from lenient.models.wrn import WideResNet

        return WideResNet(input_size, num_classes, depth=int(wide[1]), width=int(wide[2]))
    if spec.name not in NETS:
        names = [*NETS, "wrn-16-1", "wrn-40-2"]
        raise TeacherError(
            f"{label} {spec}: lenient has no such network{did_you_mean(spec.name, names)}; "
            f"it has {', '.join(NETS)}, wrn-D-K"
        )
    home, _, function = NETS[spec.name].partition(":")
    builder: Callable[..., nn.Module] = getattr(import_module(home), function)
    return builder(input_size, num_classes)


def _timm(spec: Spec, wanted: Wanted, pretrained: bool, new_head: bool, label: str) -> Built:
    try:
        import timm
    except ImportError as error:
        raise TeacherError(f"{label} {spec}: {needs('timm')}") from error
    fixed = False
    if spec.source == "timm":
        base = spec.name.partition(".")[0]
        if not timm.is_model(base):
            raise TeacherError(f"{label} {spec}: timm has no such network{did_you_mean(base, timm.list_models())}")
        config = timm.get_pretrained_cfg(spec.name)
        fixed = bool(config is not None and config.fixed_input_size)
        if pretrained and not new_head and config is not None and wanted.num_classes not in (None, config.num_classes):
            _refuse_classes(spec, wanted, config.num_classes)
    elif spec.source == "local-dir" and not (Path(spec.name) / "config.json").is_file():
        raise TeacherError(f"{label} {spec}: no config.json in that folder; give a folder that timm wrote")
    options: dict[str, Any] = {"in_chans": wanted.channels, "img_size": wanted.size if fixed else None}
    if not pretrained or new_head:
        options["num_classes"] = wanted.num_classes
    name = spec.name if spec.source == "timm" else str(spec)
    module: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    own = getattr(module, "num_classes", None)
    if pretrained and not new_head and wanted.num_classes not in (None, own):
        _refuse_classes(spec, wanted, own)
    published: Any = getattr(module, "pretrained_cfg", None) or {}
    values = published if isinstance(published, Mapping) else published.to_dict()
    stated = facts_of_config(values, f"the pretrained_cfg of {spec}", assumed=not pretrained)
    return Built(module, _timm_arch(spec, module, values), [facts_of_attributes(module, str(spec))], [stated])


def _timm_arch(spec: Spec, module: nn.Module, config: Mapping[str, Any]) -> str:
    """Return `timm:NAME` for a network of the Hub or a folder where the name alone builds it again."""
    special = set(getattr(module, "_model_args", {"unknown": None})) - {"in_chans", "num_classes", "img_size"}
    if spec.source == "timm" or special or not config.get("architecture"):
        return str(spec)
    return f"timm:{config['architecture']}"


def _torchvision(spec: Spec, wanted: Wanted, pretrained: bool, new_head: bool, label: str) -> Built:
    try:
        from torchvision import models
    except ImportError as error:
        raise TeacherError(f"{label} {spec}: {needs('torchvision')}") from error
    name, _, tag = spec.name.partition(".")
    names = models.list_models(module=models)
    if name not in names:
        raise TeacherError(f"{label} {spec}: torchvision has no such classifier{did_you_mean(name, names)}")
    published = models.get_model_weights(name)
    if tag and tag not in published.__members__:
        raise TeacherError(f"{label} {spec}: no such weights{did_you_mean(tag, published.__members__)}; they are "
                           f"{', '.join(published.__members__)}")  # fmt: skip
    weights = published[tag] if tag else published.DEFAULT
    if pretrained and not new_head:
        _refuse_other_shape(spec, wanted, len(weights.meta["categories"]))
        module: nn.Module = models.get_model(name, weights=weights, progress=False)
    else:
        options = _torchvision_options(name, get_type_hints(models.get_model_builder(name))["return"], wanted)
        module = models.get_model(name, weights=None, **options)
        _take_channels(module, wanted.channels)
    if pretrained and new_head:
        _load_what_fits(module, weights.get_state_dict(progress=False))
    preset = weights.transforms()
    values: dict[str, Any] = {
        "input_size": (3, preset.crop_size[0], preset.crop_size[0]),
        "num_classes": len(weights.meta["categories"]),
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
        "classes": tuple(weights.meta["categories"]) if pretrained else None,
    }
    origin = f"the published weights of torchvision:{name}"
    if hasattr(module, "transform_input"):  # GoogLeNet and Inception turn other constants into 0.5 themselves
        module.transform_input = False  # type: ignore[assignment]
        values |= {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        origin += ", with what transform_input does inside"
    return Built(module, f"torchvision:{name}", configs=[facts_of_config(values, origin, assumed=not pretrained)])


def _refuse_other_shape(spec: Spec, wanted: Wanted, num_classes: int) -> None:
    if wanted.channels not in (None, 3):
        raise TeacherError(f"--input-size: {spec} was trained on 3 channels, not {wanted.channels}")
    if wanted.num_classes not in (None, num_classes):
        _refuse_classes(spec, wanted, num_classes)


def _refuse_classes(spec: Spec, wanted: Wanted, own: object) -> NoReturn:
    raise TeacherError(f"--num-classes: {spec} was trained on {own} classes, not {wanted.num_classes}; leave it out")


def _torchvision_options(name: str, kind: type[nn.Module], wanted: Wanted) -> dict[str, Any]:
    """Return what the builder of a network is told, of what its class takes."""
    takes = inspect.signature(kind).parameters
    options: dict[str, Any] = {}
    if wanted.num_classes is not None:
        options["num_classes"] = wanted.num_classes
    if wanted.size is not None and "image_size" in takes:
        if wanted.size[0] != wanted.size[1]:
            raise TeacherError(f"--input-size: torchvision:{name} takes square images only, not {wanted.size}")
        options["image_size"] = wanted.size[0]
    if wanted.size is not None and "input_size" in takes:
        options["input_size"] = wanted.size
    if "aux_logits" in takes:
        options |= {"aux_logits": False, "init_weights": True}
    return options


def _take_channels(module: nn.Module, channels: int | None) -> None:
    """Replace the first convolution by one that takes `channels`, with fresh weights, where the number differs."""
    found = first_conv(module)
    if channels is None or found is None or found[1].in_channels == channels:
        return
    name, old = found
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, new)


def _load_what_fits(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    own = module.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    module.load_state_dict(fitting, strict=False)
