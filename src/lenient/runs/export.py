"""Students as files that load anywhere: the `student/` folder of a run, and its other formats."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from lenient.core import files
from lenient.core.errors import MachineError, UsageError
from lenient.core.files import disk_errors
from lenient.core.manifest import FOLDERS
from lenient.core.packages import needs
from lenient.core.text import NOT_DATA_FREE, cell
from lenient.models import check_classifier, load_network, save_network
from lenient.models.card import Network, PixelClassifier
from lenient.models.facts import TeacherFacts
from lenient.models.files import described
from lenient.models.lending import copied_module
from lenient.models.low_bit import LowBit
from lenient.models.names import OWN, one_line, own_code
from lenient.models.stated import stated
from lenient.models.trust import Trusted
from lenient.runs.int8 import accuracies, agreement, calibration_images, write_int8
from lenient.runs.low_bit import fold_batch_norms, in_codes

log = logging.getLogger("lenient")

FORMATS = ("safetensors", "pt2", "onnx", "hub")
HUB = ("model.safetensors", "config.json", "student.pt2", "README.md", "report.json")
"""Files of a folder for a model hub."""
TOLERANCE = 1e-4
"""Largest difference of logits, relative to their range, at which `--check` calls two files equal."""
NAMED = 100
"""Names of classes that the page of a folder for a hub has."""
SEEN = 64
"""Images that networks in few bits are compared on."""
TIPPED = 0.25
"""Share of images that may be further apart in few bits whatever the reason."""
MORE = 4
"""So many times the effect of rounding its sums otherwise a network in few bits may be apart beyond that."""
ALIKE = 0.9
"""Share of images with the float network's class below which a file in 8 bits is called broken; sound ones are above
(`results/int8-check.md`)."""
LOST = 0.05
"""Accuracy that such a file may lose before it is called so."""
OPSETS = (13, 23)
"""Versions of ONNX's operators: below, the converter knows no way; above, torch knows none."""
TORCH_OPSET = 18
"""The least that torch writes by itself."""
ARITHMETIC_OPSET = 14
"""Where arithmetic came to take more types."""
CONVERTS = (1, 23)
"""The version of onnx from which its converter knows all that torch writes of a classifier: `ReduceMean` below opset 18
since 1.22, `Shape` below 15 since 1.23."""


def write_student(folder: Path, network: Network, warn: Callable[[str], None] = log.warning) -> None:
    """Write `model.safetensors`, `config.json`, `student.pt2` and a README that says how to load them.

    `student.pt2` takes pixels in [0, 1], (N, C, H, W), any N, and needs torch only. It is left out, and `warn` says
    why, for a network that `torch.export` cannot trace.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    save_network(folder / "model.safetensors", network)
    with disk_errors(folder):
        files.write(folder / "config.json", json.dumps(described(network), indent=2) + "\n")
        program = folder / "student.pt2"
        program.unlink(missing_ok=True)
        try:
            export_pt2(network, program)
        except UsageError as error:
            warn(f"no student.pt2: {error}")
        files.write(folder / "README.md", _readme(network, program.exists()))


def export(
    source: Path,
    kind: str,
    output: Path,
    *,
    check: bool = False,
    opset: int | None = None,
    int8: bool = False,
    calibrate: Path | None = None,
    eval_data: str | None = None,
    data_root: str | Path | None = None,
    trust_code: Trusted = False,
    overwrite: bool = False,
    tell: Callable[[str], None] = log.info,
    note: Callable[[str], None] = log.info,
    **facts: Unpack[TeacherFacts],
) -> float | None:
    """Write the student of a run, or any network that `load_network` takes, in another format.

    `facts` say what its file does not, `trust_code` lets it name code; `opset` is the version of ONNX's operators. With
    `int8` an ONNX file computes in integers, with the ranges of the images at `calibrate`, or of a run's own.

    Returns, with `check`, the largest difference between its logits and those of the source, relative to their range;
    of `int8` the share of the images that both put into one class, or of those of `eval_data` that the file gets right.
    `tell` is given the same in words, and of how many images ranges were taken; `note` what is known of the network,
    and what was assumed, a line each.

    Raises:
        UsageError: unknown format, options that do not go together, no images for `int8`, the library that a format
            needs is not installed, or something lies at `output` and is not to be replaced (`overwrite`) or cannot be:
            the source's own files, a folder, a pipe.
        TeacherError: the network cannot be loaded, or is not the classifier that card and `facts` describe.
        MachineError: the file read back gives other outputs (of `int8` it is only told how many), or the disk refuses.
    """
    if kind not in FORMATS:
        raise UsageError(f"--format {kind}: unknown; there are {', '.join(FORMATS)}")
    if opset is not None and kind != "onnx":
        raise UsageError(f"--opset {opset}: is for --format onnx; leave it out for {kind}")
    _check_int8(kind, int8, check, calibrate, eval_data)
    with disk_errors(output):
        _check_output(source, kind, output, overwrite)
    network = check_classifier(load_network(source, trust_code=trust_code, **facts))
    for line in network.card.notes:
        note(line)
    if int8:
        return _export_int8(source, network, output, opset, calibrate, check, eval_data, data_root, tell)
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        if kind == "safetensors":
            save_network(output, network)
        elif kind == "pt2":
            export_pt2(network, output)
        elif kind == "onnx":
            export_onnx(network, output, opset)
        else:
            export_hub(source, network, output)
    if not check:
        return None
    return _compare(network, kind, output, tell)


def _check_int8(kind: str, int8: bool, check: bool, calibrate: Path | None, eval_data: str | None) -> None:
    if int8 and kind != "onnx":
        raise UsageError(f"--int8: is for --format onnx; leave it out for {kind}")
    if calibrate is not None and not int8:
        raise UsageError(f"--calibrate {calibrate}: is for --int8; leave it out")
    if eval_data is not None and not (int8 and check):
        raise UsageError(f"--eval-data {eval_data}: is for --int8 --check; leave it out")
    if int8:
        _need("onnx", "onnxscript", "onnxruntime")


def _export_int8(
    source: Path,
    network: Network,
    output: Path,
    opset: int | None,
    calibrate: Path | None,
    check: bool,
    eval_data: str | None,
    data_root: str | Path | None,
    tell: Callable[[str], None],
) -> float | None:
    if isinstance(network.module, LowBit):
        raise UsageError(f"--int8: {source} computes in {network.module.bits} bits by itself; leave it out")
    found = calibration_images(source, calibrate, network.card.input_size)
    tell(found.told())
    images = found.images
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="int8.") as beside:
            export_onnx(network, program := Path(beside) / "float.onnx", opset)
            write_int8(program, images, output)
    if not check:
        return None
    written = OnnxModule(str(output))
    if eval_data is not None:
        before, after = accuracies(network, written, eval_data, data_root)
        tell(
            f"accuracy on {eval_data}: {100 * after:.2f} %, in float {100 * before:.2f} %"
            + _broken(before - after > LOST)
        )
        return after
    alike = agreement(_portable(network), written, images)
    tell(
        f"the class is that of the float network on {100 * alike:.1f} % of {len(images):,} images"
        + _broken(alike < ALIKE)
    )
    return alike


def _broken(found: bool) -> str:
    return "; rounding to 8 bits does not explain this: give --calibrate DIR with other images" if found else ""


def _check_output(source: Path, kind: str, output: Path, overwrite: bool) -> None:
    own, place = source.resolve(), output.resolve()
    if place == own or any(own / folder in (place, *place.parents) for folder in FOLDERS):
        raise UsageError(f"-o {output}: belongs to {source} itself; choose another name")
    if kind == "hub":
        _check_folder(output, overwrite)
        return
    names = [output, _external(output)] if kind == "onnx" else [output]
    for name in names:
        files.check_new(name, overwrite)


def _check_folder(output: Path, overwrite: bool) -> None:
    files.check_folder(output)
    if not overwrite and output.exists() and any(output.iterdir()):
        raise UsageError(f"-o {output}: holds files; choose a new folder, or replace its files with --overwrite")
    files.check_kinds(output, HUB)


def export_pt2(network: Network, path: Path) -> None:
    """Write a `torch.export` program that takes pixels in [0, 1], any number of images, and says so (`stated`)."""
    classifier = _traced(network)
    sample = torch.rand(2, *network.card.input_size)
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        with _traceable("pt2"):
            program = torch.export.export(classifier, (sample,), dynamic_shapes=({0: batch},))
            content = io.BytesIO()  # torch's own writer has errors of its own for a full disk
            torch.export.save(program, content, extra_files=stated(network.card))
    files.write(path, content.getvalue())


def export_onnx(network: Network, path: Path, opset: int | None = None) -> None:
    """Write an ONNX file with input `images` (pixels in [0, 1], free batch) and output `logits`.

    Names of the classes, where known, are in the file's properties, a list in JSON under `lenient.classes`, and that it
    takes pixels under `lenient.pixels`, so that the file is read back for what it is. `opset` is the version of ONNX's
    operators; None means what torch takes by itself. Those below 18 are converted, and then run by onnxruntime, where
    that is installed.

    Raises:
        UsageError: torch cannot trace the network, or it cannot be written with these operators.
    """
    _need("onnx", "onnxscript")
    if opset is not None and not OPSETS[0] <= opset <= OPSETS[1]:
        raise UsageError(f"--opset {opset}: give {OPSETS[0]} to {OPSETS[1]}")
    classifier, sample = _traced(network), torch.rand(2, *network.card.input_size)
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        with _traceable("onnx"):
            program = torch.onnx.export(
                classifier,
                (sample,),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: batch},),
                dynamo=True,
                verbose=False,
                opset_version=None if opset is None else max(opset, TORCH_OPSET),
            )
        assert program is not None
        if isinstance(network.module, LowBit):
            fold_batch_norms(program.model)
        program.model.metadata_props.update(stated(network.card))
        if opset is None:
            _save_program(program, path)
            return
        with _convertible(opset):
            converted = _with_opset(program.model_proto, opset)
            if find_spec("onnxruntime") is not None:
                OnnxModule(converted.SerializeToString())(sample)
    files.write(path, converted.SerializeToString())


def _save_program(program: Any, path: Path) -> None:
    # beside, under its own name, for weights of over 2 GiB go to a second file that the first one names
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as beside:
        whole = Path(beside) / path.name
        program.save(str(whole))
        for written in (_external(whole), whole):
            if written.exists():
                with open(written, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(written, path.with_name(written.name))
    files.sync_folder(path.parent)


def _external(path: Path) -> Path:
    """Where `torch.onnx` puts weights that do not fit in the file itself."""
    return path.with_name(f"{path.name}.data")


def opset_of(path: Path) -> int:
    """Return the version of ONNX's own operators that a file uses."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    return _opset(model)


def _opset(model: Any) -> int:
    return next(int(entry.version) for entry in model.opset_import if entry.domain == "")


def _with_opset(model: Any, opset: int) -> Any:
    """Return an ONNX model with other operators, checked; raises errors of onnx where there is no way."""
    import onnx
    from onnx import version_converter

    said = {entry.key: entry.value for entry in model.metadata_props}
    if opset != _opset(model):
        model = version_converter.convert_version(model, max(opset, ARITHMETIC_OPSET))
    if opset < ARITHMETIC_OPSET:  # the converter knows no way past it, though for floats nothing differs
        next(entry for entry in model.opset_import if entry.domain == "").version = ARITHMETIC_OPSET - 1
        _drop(model, "noop_with_empty_axes", "training_mode", "allowzero")
    elif opset < TORCH_OPSET:
        _drop(model, "noop_with_empty_axes")
    onnx.checker.check_model(model, full_check=True)
    onnx.helper.set_model_props(model, said)  # which the converter leaves out
    return model


def _drop(model: Any, *names: str) -> None:
    """Take attributes away that older operators lack; torch writes them with their defaults."""
    for node in model.graph.node:
        kept = [attribute for attribute in node.attribute if attribute.name not in names]
        del node.attribute[:]
        node.attribute.extend(kept)


@contextmanager
def _convertible(opset: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        known = metadata.version("onnx")
        old = tuple(map(int, re.findall(r"\d+", known)[:2])) < CONVERTS
        newer = f"install onnx {'.'.join(map(str, CONVERTS))} or newer, for {known} converts less, or " if old else ""
        why, other = one_line(error, 100), f"{newer}give {TORCH_OPSET} or leave it out"
        raise UsageError(f"--opset {opset}: this network cannot be written so ({why}); {other}") from error


def save_hub(network: Network, folder: Path, *, overwrite: bool = False) -> None:
    """Write a network at hand as a folder for a model hub; raises UsageError where the folder holds files."""
    with disk_errors(folder):
        _check_folder(folder, overwrite)
        export_hub(None, network, folder)


def export_hub(source: Path | None, network: Network, folder: Path) -> None:
    """Write a folder ready for a model hub: weights, config, program, a model card, and the report of `source`, where
    that is a run."""
    write_student(folder, network)
    card = network.card
    text = (folder / "README.md").read_text(encoding="utf-8")
    front = "---\nlibrary_name: lenient\ntags:\n- image-classification\n- knowledge-distillation\n"
    front += "---\n\n" if any(NOT_DATA_FREE in note for note in card.notes) else "- data-free\n---\n\n"
    channels, height, width = card.input_size
    about = f"A classifier of {card.num_classes} classes for images of {height}x{width} pixels, {channels} channel(s)"
    about += "" if card.classes is None else f": {_listed(card.classes)}"
    about += "".join(f"; {note}" for note in card.notes) + ".\n\n"
    files.write(folder / "README.md", front + text.replace("\n\n", f"\n\n{about}", 1))
    report = None if source is None else source / "report.json"
    if report is not None and report.is_file():
        files.write(folder / "report.json", files.read_bytes(report))


def _listed(names: Sequence[str]) -> str:
    """Return the first of the classes' names for a page in markdown."""
    more = f" and {len(names) - NAMED} more (`config.json`)" if len(names) > NAMED else ""
    return ", ".join(cell(name, "markdown") for name in names[:NAMED]) + more


@contextmanager
def _traceable(kind: str) -> Iterator[None]:
    """Turn whatever a tracer stumbles over into one line."""
    try:
        yield
    except Exception as error:
        raise UsageError(
            f"--format {kind}: torch cannot trace this network ({one_line(error)}); use --format safetensors"
        ) from error


def _compare(network: Network, kind: str, path: Path, tell: Callable[[str], None]) -> float:
    few = kind == "onnx" and isinstance(network.module, LowBit)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(SEEN if few else 8, *network.card.input_size, generator=generator)
    with torch.no_grad():
        expected = _portable(network)(images)
        apart = _apart(_read_back(kind, path)(images), expected)
    largest = float(apart.max())
    if not few:
        if not largest <= TOLERANCE:
            raise MachineError(f"--check: {path} gives other outputs, by {largest:.1e} of their range")
        tell(f"outputs agree within {largest:.1e} of their range")
        return largest
    off = float((~(apart <= TOLERANCE)).float().mean())
    if off > TIPPED and not apart.mean() <= MORE * _noise(network, images, expected).mean():
        raise MachineError(f"--check: {path} gives other outputs for {off:.0%} of images, by up to {largest:.1e} of "
                           "their range, which rounding does not explain")  # fmt: skip
    tell(f"outputs for {1 - off:.0%} of images agree within {TOLERANCE:.0e} of their range, others, where a value tips "
         f"between two levels, within {largest:.1e}")  # fmt: skip
    return largest


def _apart(found: Tensor, expected: Tensor) -> Tensor:
    """Return each image's largest difference of logits (N,), relative to the range of all."""
    return (found - expected).abs().amax(dim=1) / (expected.abs().max() + 1e-12)


def _noise(network: Network, images: Tensor, expected: Tensor) -> Tensor:
    """Return how far apart (N,) a network in few bits is from itself with sums in double precision.

    A value between two levels tips with the last bit of a sum: in few images of small networks, in all of large ones.
    """
    exact = _portable(replace(network, module=copied_module(network.module))).double()
    with torch.no_grad():
        return _apart(exact(images.double()), expected)


def _read_back(kind: str, path: Path) -> nn.Module:
    """Load what was written just now, which names what this process has built already."""
    if kind == "pt2":
        return torch.export.load(path).module()
    if kind == "onnx":
        return OnnxModule(str(path), literal=True)
    return _portable(load_network(path, trust_code=True))


class OnnxModule(nn.Module):
    """An ONNX file of ours, run by onnxruntime on the CPU: a path or its bytes.

    With `literal` it computes operator by operator what the file says, and joins none to others in integers.
    """

    def __init__(self, source: str | bytes, *, literal: bool = False) -> None:
        super().__init__()
        _need("onnxruntime")
        import onnxruntime

        options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel
        if literal:
            options.graph_optimization_level = levels.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def forward(self, images: Tensor) -> Tensor:
        """Return logits for images in pixel units."""
        return torch.from_numpy(self.session.run(None, {"images": images.contiguous().numpy()})[0])


def _portable(network: Network) -> nn.Module:
    return PixelClassifier(network.module, network.card).cpu().eval()


def _traced(network: Network) -> nn.Module:
    return _portable(replace(network, module=in_codes(network.module)))


def _need(*modules: str) -> None:
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UsageError(f"--format onnx: {needs(*missing)}")


def _arch(network: Network) -> str:
    """Return which network it is; of one that only its module knows, that it is one's own."""
    few = f"int{network.module.bits}:" if isinstance(network.module, LowBit) else ""
    return network.card.arch or f"{few}{OWN}"


def _readme(network: Network, traced: bool) -> str:
    card = network.card
    shape = ", ".join(str(value) for value in card.input_size)
    alone = f"""
With torch alone:

```python
import torch

student = torch.export.load("student.pt2").module()
logits = student(torch.rand(1, {shape}))
print(logits.softmax(dim=1))
```
"""
    nameless = isinstance(network.module, LowBit) and card.arch is None  # a copy of what no name builds
    named = own_code(_arch(network))  # which the file cannot hold
    arch = f', arch="{named}"' if named else ""
    code = "; FACTORY is the function that makes the network" if named else ""
    within = f"""
With lenient, as a module to go on working with{code}:

```python
import lenient

student = lenient.load("model.safetensors"{arch})
```
"""
    weights = """
`model.safetensors` holds the weights in float32, for whoever has code that builds the teacher's network.
"""
    return f"""# Student

Takes images in [0, 1], shape (N, {shape}); returns logits (N, {card.num_classes}).
`config.json` names the classes, where known, and the normalisation, which is built in below.
{alone if traced else ""}{weights if nameless else within}"""
