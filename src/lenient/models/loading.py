"""Loading any classifier: a file, a folder, a published network, or what a user's factory builds."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lenient.core import files
from lenient.core.errors import LenientError, TeacherError, UsageError
from lenient.core.seeding import derive, untouched_global_rng
from lenient.core.text import shown
from lenient.models.archives import Entry
from lenient.models.card import Card, Network, PixelClassifier
from lenient.models.classes import Names, class_names
from lenient.models.factories import call_factory
from lenient.models.facts import (
    FLAGS,
    LARGEST_CONSTANT,
    Facts,
    classifying,
    facts_of_attributes,
    facts_of_card,
    facts_of_config,
    facts_of_structure,
    first_conv,
    make_card,
    wanted_of,
)
from lenient.models.files import UNDONE, card_of, undone_of
from lenient.models.fitting import check_fit, check_read, choose, put_weights
from lenient.models.graphs.classifier import classifier_of
from lenient.models.graphs.reading import ForeignError
from lenient.models.huggingface import is_theirs, loaded, read_json
from lenient.models.inside import taken_outside, undone_again
from lenient.models.names import SOURCES, Spec, did_you_mean, parse_spec
from lenient.models.programs import GRAPH, LOADED, Answers, conversion, load_program, program_kind
from lenient.models.rebuilding import bare, check_maps, rebuilt
from lenient.models.sources import build, draft, weights_in
from lenient.models.trust import Trusted, require
from lenient.models.weights import Weights, open_weights, refusals, weights_of

LABEL = "network"
METADATA = "the file's metadata"


def load_network(
    spec: str | Path,
    *,
    arch: str | None = None,
    input_size: Sequence[int] | None = None,
    num_classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    checkpoint_key: str | None = None,
    classes: Names | None = None,
    seed: int | None = None,
    pretrained: bool = True,
    trust_code: Trusted = False,
) -> Network:
    """Load the classifier that `spec` names, with its weights, on the CPU.

    `spec` is a file, a folder with `model.safetensors` (or a run, which holds one), or `SOURCE:NAME`. `arch`
    (`--teacher-arch`) says which network the weights of a file belong to. What is given here (`input_size` as C,H,W in
    pixels; `mean` and `std` in pixel units, one per channel or one for all) goes before what the file says, and that
    before what the architecture's own published weights say; the card's notes tell which it was. Of several networks in
    one checkpoint `checkpoint_key` takes the one under this dotted name, as "state_dict.model". `classes` are names
    as for `class_names`. `seed` draws the weights of networks that come without; the global random streams stay
    untouched. With `pretrained=False` networks of timm, torchvision and the Hub start at random too. A network of the
    user's own is run up to its first layer, to see whether it normalises inside; see also `check_classifier`.

    `spec` and `arch` are taken to be typed by the user. Where a file itself names code or a place (`py:`, `hf-hub:`,
    `local-dir:`) or is a program, that is used with `trust_code` only: True, or the names that may be.

    Raises TeacherError where the network cannot be found, read or fitted, its subclass UntrustedError where that would
    need trust, UsageError where a flag is not well formed.
    """
    if not isinstance(spec, str | os.PathLike):
        program = isinstance(spec, torch.export.ExportedProgram)
        advice = (
            "save it with torch.export.save and give the file" if program else "give a module, a file or SOURCE:NAME"
        )
        raise UsageError(f"{LABEL}: it cannot be of type {type(spec).__name__}; {advice}")
    flags = _flags(input_size, num_classes, mean, std, classes)
    parsed = parse_spec(str(spec), LABEL)
    with seeded(0 if seed is None else seed, f"weights/{parsed}"):
        network = _loaded(parsed, arch, flags, checkpoint_key, pretrained, trust_code)
    return replace(network, given=num_classes is not None)


def _loaded(
    parsed: Spec, arch: str | None, flags: Facts, checkpoint_key: str | None, pretrained: bool, trust_code: Trusted
) -> Network:
    if parsed.source == "path" or (parsed.source == "local-dir" and pretrained and _not_of_timm(Path(parsed.name))):
        return _from_path(Path(parsed.name).expanduser(), arch, flags, checkpoint_key, trust_code)
    if arch is None:
        if checkpoint_key is not None:
            raise UsageError(f"--checkpoint-key {checkpoint_key}: is for files, and {parsed} is none; leave it out")
        return _from_name(parsed, flags, pretrained)
    if parsed.source != "py":
        raise UsageError(f"--teacher-arch: {parsed} is an architecture itself; leave the flag out")
    content, _ = call_factory(parsed, wanted_of([flags]), LABEL)
    if isinstance(content, nn.Module | Network):
        raise UsageError(f"--teacher-arch: {parsed} returns a whole network; leave the flag out")
    weights = weights_of(content, parsed)
    return _fit(parse_spec(arch, "--teacher-arch"), weights, flags, None, str(parsed), checkpoint_key)


def network_from_module(
    module: nn.Module | Network,
    *,
    input_size: Sequence[int] | None = None,
    num_classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Names | None = None,
) -> Network:
    """Describe a module at hand; its own attributes and `pretrained_cfg` fill in what is not given.

    Arguments and errors are those of `load_network`. The card's `arch` is None: only the caller can build it again. One
    that has a card, as what `lenient.load` returns, keeps it, with what is given laid over.
    """
    flags = _flags(input_size, num_classes, mean, std, classes)
    if isinstance(module, Network | PixelClassifier):
        card = module.card
        made = make_card([flags, facts_of_card(card, "its card")], card.arch, LABEL, card.notes)
        known = module if isinstance(module, Network) else Network(module.module, card)
        return replace(known, card=_unless_equal(made, card), given=known.given or num_classes is not None)
    name = type(module).__name__
    facts = [flags, facts_of_attributes(module, f"attributes of {name}"), facts_of_structure(module)]
    config = getattr(module, "pretrained_cfg", None)
    if isinstance(config, Mapping):
        facts.append(facts_of_config(config, f"the pretrained_cfg of {name}", assumed=True))
    network = Network(module, make_card(facts, None, name), given=num_classes is not None)
    return taken_outside(network, stated=mean is not None)


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Draw what is drawn inside from (seed, name), and give the global random streams back as they were."""
    with untouched_global_rng():
        value = derive(seed, name)
        torch.default_generator.manual_seed(value)
        random.seed(value)
        yield


def _flags(
    input_size: Sequence[int] | None,
    num_classes: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    classes: Names | None,
) -> Facts:
    if input_size is not None and (len(input_size) != 3 or min(input_size) < 1):
        raise UsageError(f"--input-size: {list(input_size)} is not C,H,W with values from 1; e.g. 3,32,32")
    if num_classes is not None and num_classes < 2:
        raise UsageError(f"--num-classes: {num_classes} is too few; a classifier has 2 or more")
    if (mean is None) != (std is None):
        raise UsageError("--mean and --std go together; give both, in pixel units")
    means, stds = check_constants(mean, std)
    size = None if input_size is None else (int(input_size[1]), int(input_size[2]))
    return Facts(
        FLAGS,
        channels=None if input_size is None else int(input_size[0]),
        size=size,
        num_classes=num_classes,
        mean=means,
        std=stds,
        classes=None if classes is None else class_names(classes),
    )


def check_constants(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return the constants of a normalisation, one per channel or one for all, as they were given.

    Raises:
        UsageError: a mean beyond +-1e6, a deviation that is not between 1e-6 and 1e6, or what is no number.
    """
    most = LARGEST_CONSTANT
    return (
        _bounded("--mean", mean, -most, f"write numbers of at most {most:g}, e.g. 0.49,0.48,0.45"),
        _bounded("--std", std, 1 / most, f"write numbers from {1 / most:g} to {most:g}, e.g. 0.25,0.24,0.26"),
    )


def _bounded(flag: str, values: Sequence[float] | None, least: float, advice: str) -> tuple[float, ...] | None:
    if values is None:
        return None
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        found = ()
    if not found or not all(least <= value <= LARGEST_CONSTANT for value in found):
        raise UsageError(f"{flag} {shown(values)}: {advice}")
    return found


def _from_name(spec: Spec, flags: Facts, pretrained: bool) -> Network:
    if spec.source == "lenient" and flags.num_classes is None:
        raise TeacherError(f"{LABEL} {spec}: untrained, so its number of classes is free: give --num-classes N")
    published = pretrained and spec.source in ("timm", "torchvision", "hf-hub", "local-dir")
    built = build(spec, wanted_of([flags]), pretrained=published, label=LABEL)
    structure = [facts_of_structure(built.module)]
    rest = [*built.configs, *structure] if published else [*structure, *built.configs]
    layers = [flags, *built.attributes, *rest]
    notes = () if published or spec.source == "py" else (f"random weights: {spec} was not trained",)
    made = Network(built.module, make_card(layers, built.arch, f"{LABEL} {spec}", notes))
    own = spec.source == "py" and not built.has_card
    return taken_outside(made, stated=flags.mean is not None) if own else made


class Described(nn.Module):
    """A network, or a part of one, whose tensors alone are known: it cannot be run."""


def outline(path: str | Path) -> Network:
    """Return a run's student as its files describe it, with its tensors by name, in a module that cannot be run.

    That builds nothing, so nothing has to be trusted.

    Raises TeacherError where the files are damaged, or do not say what they hold.
    """
    with _held(Path(path)) as held:
        if held.card is None:
            raise TeacherError(_nameless(held.path))
        state = {name: entry.read() for name, entry in held.weights.entries.items()}
    module = Described()
    for name, value in state.items():
        *parents, leaf = name.split(".")
        part: nn.Module = module
        for parent in parents:
            inner = part._modules.get(parent) or Described()
            part._modules[parent] = inner
            part = inner
        if leaf.startswith(("running_", "num_batches_")) or not value.is_floating_point():
            part._buffers[leaf] = value
        else:
            part._parameters[leaf] = nn.Parameter(value, requires_grad=False)
    return Network(module, held.card)


@dataclass(frozen=True)
class _Held:
    """What a file of weights holds; its tensors can be read as long as it is open."""

    path: Path
    weights: Weights
    card: Card | None


def _from_path(path: Path, arch: str | None, flags: Facts, key: str | None, trust: Trusted) -> Network:
    if path.is_dir() and arch is None and key is None:
        folder = _student_in(path)
        config = read_json(folder / "config.json")
        if is_theirs(config):
            with _held(folder) as held, refusals(held.path):
                module, found = loaded(folder, held.weights)
            return Network(module, make_card([flags, found, facts_of_structure(module)], None, str(path)))
        if config is not None and "architecture" in config:
            return _from_name(Spec("local-dir", str(folder)), flags, pretrained=True)
    kind = program_kind(path) if path.is_file() else None
    if kind == GRAPH and arch is None and key is None:
        return _from_graph(path, flags, trust)
    if kind in LOADED and trust is True and arch is None:
        note = f"{kind}, which shows no layers: statistics of its batch norms cannot be matched"
        return _from_program(path, kind, flags, note)
    with _held(path) as held:
        said = str(held.path)
        if arch is not None:
            return _fit(parse_spec(arch, "--teacher-arch"), held.weights, flags, held.card, said, key)
        known = None if held.card is None else held.card.arch
        if known is None:
            return _whole(held.weights, flags, held.path)
        require(known, trust, where=held.path, again="--teacher-arch NAME")
        with _named(said):
            return _fit(
                parse_spec(known, said), held.weights, flags, held.card, said, key, label=f"{said}: its network"
            )


def _from_graph(path: Path, flags: Facts, trust: Trusted) -> Network:
    """Rebuild a network from an ONNX file; what cannot be rebuilt is asked by onnxruntime, where the user trusts it."""
    try:
        return classifier_of(path, flags)
    except ForeignError as error:
        if trust is not True:
            raise TeacherError(f"{error}, or --trust-code to have answers without gradients by onnxruntime") from error
        note = f"asked by onnxruntime, so that images get no gradient: {str(error).removeprefix(f'{path}: ')}"
        return _from_program(path, GRAPH, flags, note)


def _from_program(path: Path, kind: str, flags: Facts, *notes: str) -> Network:
    program, found = load_program(path, kind, flags.num_classes)
    if isinstance(program, Answers):
        notes = (*notes, *program.notes)
    if program.rows is not None:
        notes = (*notes, f"written for batches of {program.rows}: asked in such, one after the other, which takes "
                         "longer; export it for any number of images (dynamic_shapes)")  # fmt: skip
    return Network(program, make_card([flags, *found], None, str(path), notes))


@contextmanager
def _held(path: Path) -> Iterator[_Held]:
    config: dict[str, Any] | None = None
    if path.is_dir():
        if command := conversion(path):
            raise TeacherError(f"{path}: is a program of TensorFlow: convert it to ONNX ({command}) and give that")
        folder = _student_in(path)
        config = read_json(folder / "config.json")
        path = weights_in(folder)
    if not path.exists():
        raise TeacherError(_no_file(path))
    if not path.is_file():
        raise TeacherError(f"{path}: is {files.kind_of(path.resolve())}, not a file of weights")
    with _unwritten(path), open_weights(path) as weights:
        if weights.metadata is None and config is not None and "input_size" in config:
            weights.metadata = config
        yield _Held(path, weights, card_of(weights.metadata, path))


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Have each error name the file whose card said which network to build."""
    try:
        yield
    except LenientError as error:
        if where in str(error):
            raise
        raise type(error)(f"{where}: {error}") from error


@contextmanager
def _unwritten(path: Path) -> Iterator[None]:
    """Refuse a file that is written while it is read, as by a training script that is run for its class."""
    before = _version(path)

    def check() -> None:
        if _version(path) != before:
            raise TeacherError(
                f"{path}: was written while it was read: where the code of --teacher-arch does so, as a script that "
                "trains, put the network into a file of its own, and fetch the weights again"
            )

    try:
        yield
    except TeacherError:
        check()
        raise
    check()


def _version(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _student_in(folder: Path) -> Path:
    """Return where a folder's network lies: of a run, its student's folder, even if that has lost its weights."""
    student = folder / "student"
    return student if any(files.kind_of(student / name) for name in ("model.safetensors", "config.json")) else folder


def _nameless(path: Path) -> str:
    return (
        f"{path}: holds weights, but not which network they belong to: give --teacher-arch, for example "
        "lenient:resnet18, timm:resnet18, torchvision:resnet18 or py:my_net.py:build"
    )


def _whole(weights: Weights, flags: Facts, path: Path) -> Network:
    """Return the network that a file holds as a whole, where it can be put together of torch's own layers."""
    name, thing = next(iter(weights.networks.items()), ("", None))
    if thing is None:
        raise TeacherError(_nameless(path))
    kind = bare(thing).name[-60:]
    if len(weights.networks) > 1 or (module := rebuilt(thing)) is None:
        raise TeacherError(f"{path}: holds a whole {kind}, whose code is not run: {_advice(kind)}")
    made = make_card([flags, facts_of_structure(module)], None, str(path))
    check_maps(module, made.input_size, path)
    note = f"put together from the layers that the file describes{f' under {name[-60:]!r}' if name else ''}"
    return Network(module, replace(made, notes=(note, *made.notes)))


def _advice(kind: str) -> str:
    """Say how a network is given whose class has this name."""
    home, _, own = kind.rpartition(".")
    library = home.partition(".")[0]
    if library in ("torchvision", "timm"):
        return f"give --teacher-arch {library}:NAME with the name that it was made by, for example {library}:resnet18"
    if library == "transformers":
        return "write it with its save_pretrained and give that folder"
    where = ", in a file of its own (the script that trained would train anew)" if home == "__main__" else ""
    return f"give --teacher-arch with the function or class that makes one{where}, for example py:my_net.py:{own}"


def _fit(
    arch: Spec,
    weights: Weights,
    flags: Facts,
    card: Card | None,
    where: str,
    key: str | None,
    label: str = "--teacher-arch",
) -> Network:
    """Build `arch` in the shape that the flags, the file's card and its tensors ask for, and put the tensors in.

    Args:
        label: what has named `arch`.
    """
    if arch.source == "path":
        raise UsageError(
            f"{label} {arch}: names no network; write its source before it, for example timm:resnet18 or "
            "py:my_net.py:build"
        )
    known = [flags] if card is None else [flags, facts_of_card(card, METADATA)]
    built = draft(arch, wanted_of(known), label=label)
    chosen = choose(weights, list(built.module.state_dict()), where, key)
    check_read(weights, built.module, chosen.state, where)
    tensors = _facts_of_tensors(built.module, chosen.state)
    wanted, own = wanted_of([*known, tensors]), wanted_of([facts_of_structure(built.module)])
    if (wanted.channels, wanted.num_classes) != (own.channels, own.num_classes):
        built = draft(arch, wanted, label=label)
    check_fit(built.module, chosen.state, where, str(arch))
    if any(tensor.is_meta for tensor in built.module.state_dict().values() if isinstance(tensor, Tensor)):
        built = build(arch, wanted, label=label)
    if any(entry.dtype == torch.float64 for entry in chosen.state.values()):
        built.module.double()
    put_weights(built.module, chosen.state, where, str(arch))
    guesses = [replace(facts, assumed=True) for facts in built.configs]
    layers = [*known, tensors, *built.attributes, facts_of_structure(built.module), *guesses]
    made = make_card(layers, str(arch), where, (*(() if card is None else card.notes), *chosen.notes))
    if card is not None and not chosen.notes:
        made = _unless_equal(made, card)
    network = Network(built.module, made)
    if arch.whole.source != "py":
        return network
    if card is not None:
        return _as_saved(network, weights, chosen.state, where)
    return network if arch.bits or built.has_card else taken_outside(network, stated=flags.mean is not None)


def _unless_equal(made: Card, card: Card) -> Card:
    """Return the new card, or the old one where only notes are new: on where each value is from."""
    return card if replace(made, notes=()) == replace(card, notes=()) else made


def _as_saved(network: Network, weights: Weights, state: Mapping[str, Entry], where: str) -> Network:
    """Return a network of the user's own, of a file with a card, as it was when that was written.

    One that a run has trained may normalise inside, too, after what its card says: both belong to it.
    """
    said = weights.metadata or {}
    if UNDONE not in said:  # of before: what was put around the network stands in its tensors' names
        return network if all(name in weights.entries for name in state) else undone_again(network, None)
    constants = undone_of(said, network.card.input_size[0], where)
    return network if constants is None else undone_again(network, constants)


def _not_of_timm(folder: Path) -> bool:
    """Whether a folder was written by `export --format hub` or by transformers, and not by timm."""
    config = read_json(folder.expanduser() / "config.json")
    return is_theirs(config) or (config is not None and "architecture" not in config and "input_size" in config)


def _facts_of_tensors(module: nn.Module, state: Mapping[str, Entry]) -> Facts:
    """Return channels and classes from the shapes that a file has where `module` has its first and last layer."""
    conv, head = first_conv(module), classifying(module)
    inputs = None if conv is None else state.get(f"{conv[0]}.weight")
    outputs = None if head is None else state.get(f"{head[0]}.weight")
    dimensions = None if head is None else head[1].weight.dim()
    return Facts(
        "the shapes of the file's tensors",
        channels=inputs.shape[1] * conv[1].groups if conv and inputs is not None and len(inputs.shape) == 4 else None,
        num_classes=outputs.shape[0] if outputs is not None and len(outputs.shape) == dimensions else None,
    )


def _no_file(path: Path) -> str:
    siblings = [str(path.with_name(other.name)) for other in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = did_you_mean(str(path), siblings)
    if path.parent == Path() and not path.suffix:
        hint += f"; a network by name needs its source, such as timm:{path} (sources: {', '.join(SOURCES)})"
    elif not path.suffix and re.fullmatch(r"[\w-]+/[\w-]+", str(path)) and not path.parent.exists():
        hint += f"; a repository of the Hub is hf-hub:{path} (timm's) or Student.from_pretrained({str(path)!r}) (ours)"
    return f"{path}: no such file or folder{hint}"
