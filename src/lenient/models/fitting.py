"""Choosing the tensors of one network in a checkpoint that holds more, and putting them into a module."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lenient.core.errors import TeacherError
from lenient.models.archives import Entry
from lenient.models.names import did_you_mean
from lenient.models.weights import Weights, refusals, unreadable

_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
_USUAL = frozenset(("", "state_dict", "model_state_dict", "model", "net", "network", "module", "state", "weights"))
_WRAPPED = re.compile(r"(^|\.)(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)(?=\.)")
_AVERAGED = re.compile(r"(^|[._])(ema|averaged?|swa)([._]|$)|^n_averaged$", re.IGNORECASE)
_OTHER_USE = re.compile(r"criterion|loss|metric|acc(uracy)?\b|ema\b|swa\b|averag|teacher|optim|scheduler|scaler", re.I)


@dataclass(frozen=True)
class Chosen:
    """The tensors for one network, under its own names."""

    state: dict[str, Entry]
    notes: tuple[str, ...] = ()
    """What was taken where there was a choice, and what was left out."""


def choose(weights: Weights, own: Sequence[str], where: object, key: str | None = None) -> Chosen:
    """Return the tensors for a network whose state dict has the names `own`.

    They are those under the prefix that has them all, "state_dict.model." for example. Of averaged and raw weights the
    averaged ones are taken, with a note. `key` (`--checkpoint-key`) is that prefix, or the beginning of it. Where
    nothing has all the names, those that have most come back, for `put_weights` to say what is wrong.

    Raises TeacherError where several prefixes fit that no rule tells apart, or nothing lies under `key`.
    """
    entries = {_plain(name): entry for name, entry in weights.entries.items()}
    needed = [name for name in own if not name.endswith("num_batches_tracked")] or list(own)
    fitting = _fitting(entries, needed, key)
    inner = entries
    while not fitting and any(".module." in name for name in inner):  # a part of it was in DataParallel, or in two such
        inner = {name.replace(".module.", ".", 1): entry for name, entry in inner.items()}
        if fitting := _fitting(inner, needed, key):
            entries = inner
    if key and not any(_under(name, _plain(key)) for name in entries):
        tops = list(dict.fromkeys(name.partition(".")[0] for name in entries))
        raise TeacherError(
            f"--checkpoint-key {key[:60]}: {where} has no weights there{did_you_mean(key, tops)}; it has "
            f"{', '.join(repr(name[:30]) for name in tops[:4])}"
        )
    if not fitting:
        return _take(entries, own, _closest(entries, needed, key), ())
    fresh = _fresh(entries, own, fitting)
    return _take(entries, own, _preferred(fresh, where), fitting)


def _plain(name: str) -> str:
    """Drop what torch.compile, activation checkpointing and FSDP put into names."""
    return _WRAPPED.sub("", name).removeprefix(".")


def _under(name: str, key: str) -> bool:
    return name == key or name.startswith(f"{key}.")


def _fitting(entries: Mapping[str, Entry], needed: Sequence[str], key: str | None) -> list[str]:
    """Return the prefixes under which all names are."""
    rarest = max(needed, key=len, default="")
    heads = [name.removesuffix(rarest) for name in entries if name == rarest or name.endswith(f".{rarest}")]
    heads = [head for head in heads if key is None or _under(head.removesuffix("."), _plain(key))]
    return [head for head in heads[:256] if all(head + name in entries for name in needed)]


def _preferred(fitting: Sequence[str], where: object) -> str:
    """Return the prefix to take: averaged weights before raw ones, usual names before others."""
    averaged = [head for head in fitting if _AVERAGED.search(head)]
    group = averaged or list(fitting)
    usual = [head for head in group if {*head.split(".")} <= _USUAL]
    if len(group) > 1 and len(usual) == 1:
        return usual[0]
    nested = [head for head in group if all(other.startswith(head) for other in group)]
    if len(group) > 1 and not nested:
        names = ", ".join(repr(_named(head)) for head in group[:4])
        raise TeacherError(f"{where}: holds {len(group)} networks that fit: {names}; choose one with --checkpoint-key")
    return nested[0] if nested else group[0]


def _fresh(entries: Mapping[str, Entry], own: Sequence[str], fitting: Sequence[str]) -> list[str]:
    """Leave averaged weights out whose batch norms never saw an image, as those of torch's AveragedModel may be."""
    counter = next((name for name in own if name.endswith("num_batches_tracked")), None)
    counts = {head: entries.get(f"{head}{counter}") for head in fitting}
    seen = {head: int(entry.read()) for head, entry in counts.items() if entry is not None and entry.shape == ()}
    return [head for head in fitting if seen.get(head) != 0 or not any(seen.values())]


def _named(head: str) -> str:
    return head.removesuffix(".")[-60:]


def _closest(entries: Mapping[str, Entry], needed: Sequence[str], key: str | None) -> str:
    """Return the prefix under which most of the names are, the shortest of equals."""
    wanted = {name.rpartition(".")[2]: name for name in needed}
    several = dict.fromkeys([*needed[:8], *needed[-8:], *wanted.values()])
    heads = Counter(
        name.removesuffix(own)
        for name in entries
        if key is None or _under(name, _plain(key))
        for own in several
        if name == own or name.endswith(f".{own}")
    )
    if heads:
        return max(heads, key=lambda head: (heads[head], -len(head)))
    parents = Counter(name.rpartition(".")[0].split(".")[0] for name in entries)
    outer = f"{_plain(key)}." if key else ""
    lone = len(parents) == 1 and not key and next(iter(parents)) in _USUAL - {""}
    return f"{next(iter(parents))}." if lone else outer


def _take(entries: Mapping[str, Entry], own: Sequence[str], prefix: str, fitting: Sequence[str]) -> Chosen:
    """Return what lies under a prefix, and say what else there is."""
    state: dict[str, Entry] = {}
    rest: Counter[str] = Counter()
    layers = {name.partition(".")[0] for name in own}
    others = [head for head in fitting if head != prefix]
    elsewhere = {head + name for head in others for name in own}
    for name, entry in entries.items():
        inner = name.removeprefix(prefix)
        if name.startswith(prefix) and name not in elsewhere and (inner in own or _belongs(inner, entry, layers)):
            state[inner] = entry
        elif name not in elsewhere and not inner.startswith(_AUXILIARY):
            rest[_group(name, prefix)] += 1
    notes = []
    if others:
        kind = "averaged" if _AVERAGED.search(prefix) else "raw"
        also = " and ".join(repr(_named(head)) for head in others[:2])
        notes.append(f"weights: the {kind} ones under {_named(prefix)!r}; for those under {also} give --checkpoint-key")
    if rest:
        listed = ", ".join(f"{name[:60]!r} ({count} tensors)" for name, count in rest.most_common(4))
        more = f" and {len(rest) - 4} more" if len(rest) > 4 else ""
        notes.append(f"left out of the file, for the network has no such parts: {listed}{more}")
    return Chosen(state, tuple(notes))


def _belongs(inner: str, entry: Entry, layers: set[str]) -> bool:
    """Whether a tensor beside a network's own is of a layer that the network should have: then it does not fit."""
    first = inner.partition(".")[0]
    if first in layers:
        return True
    if inner.startswith(_AUXILIARY) or _OTHER_USE.search(first):
        return False
    return len(entry.shape) > 1 and entry.dtype.is_floating_point


def _group(name: str, prefix: str) -> str:
    """Return the part of a checkpoint that a tensor belongs to: its name up to where it leaves the network's."""
    names, common = name.split("."), prefix.split(".")[:-1]
    shared = 0
    while shared < min(len(names) - 1, len(common)) and names[shared] == common[shared]:
        shared += 1
    return ".".join(names[: shared + 1])


def put_weights(module: nn.Module, state: Mapping[str, Entry], where: object, arch: str) -> None:
    """Copy chosen weights into `module`; raises TeacherError where they do not fit, or are damaged."""
    check_fit(module, state, where, arch)
    with refusals(where):
        tensors = {name: entry.read() for name, entry in state.items()}
    module.load_state_dict(tensors, strict=False)


def check_read(weights: Weights, module: nn.Module, state: Mapping[str, Entry], where: object) -> None:
    """Refuse chosen weights that lack what their file holds as something else than a plain tensor; TeacherError."""
    missing = {name for name in module.state_dict() if name not in state}
    for held, kind in weights.unread.items():
        parts = _plain(held).split(".")
        if any(".".join(parts[start:]) in missing for start in range(len(parts))):
            raise unreadable(where, held, kind)


def check_fit(module: nn.Module, state: Mapping[str, Entry], where: object, arch: str) -> None:
    """Compare names, shapes and types with those of `module`, which may be on the meta device; reads no tensor.

    Raises TeacherError with the first missing, unknown and differently shaped names where they do not fit.
    """
    own = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor) and not is_lazy(value)}
    other = [key for key in state if key in own and tuple(own[key].shape) != state[key].shape]
    problems = [
        f"{key[-60:]!r} is {list(state[key].shape)[:6]} in the file, {list(own[key].shape)} in {arch}"
        for key in other[:1]
    ]
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in module.state_dict()]
    problems += [f"{len(keys)} {kind} (first {keys[0][-60:]!r})" for kind, keys in
                 (("missing from the file", missing), ("not in the network", unknown)) if keys]  # fmt: skip
    if problems:
        flags = "--teacher-arch, --num-classes or --input-size"
        raise TeacherError(f"{where}: does not fit {arch}: {'; '.join(problems)}; correct {flags}")
    for key, entry in state.items():
        if key in own and _loses(entry.dtype, own[key].dtype):
            kind = str(entry.dtype).removeprefix("torch.")
            raise TeacherError(f"{where}: {key[-60:]!r} holds {kind} numbers, and {arch} takes real ones of floating "
                               "point; save the weights as float32")  # fmt: skip


def _loses(given: torch.dtype, own: torch.dtype) -> bool:
    """Whether numbers of one type are no weights of the other: complex ones as real, codes of a quantised net."""
    return (given.is_complex and not own.is_complex) or (own.is_floating_point and not given.is_floating_point)
