"""Students as files that load anywhere: the `student/` folder of a run, and its other formats."""

from __future__ import annotations

import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lenient.errors import MachineError, UsageError
from lenient.files import disk_errors
from lenient.models import load_network, save_network
from lenient.models.card import Network, PixelClassifier
from lenient.models.names import one_line

log = logging.getLogger("lenient")

FORMATS = ("safetensors", "pt2", "onnx", "hub")
TOLERANCE = 1e-4
"""Largest difference of logits, relative to their range, at which `--check` calls two files equal."""


def write_student(folder: Path, network: Network, extra: Mapping[str, Any] | None = None) -> None:
    """Write `model.safetensors`, `config.json`, `student.pt2` and a README that says how to load them.

    `student.pt2` takes pixels in [0, 1], (N, C, H, W), any N, and needs torch only. It is left out, with a warning in
    the log, for a network that `torch.export` cannot trace.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_network(folder / "model.safetensors", network)
    config = {**network.card.to_dict(), **(extra or {})}
    with disk_errors(folder):
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        program = folder / "student.pt2"
        program.unlink(missing_ok=True)
        try:
            export_pt2(network, program)
        except UsageError as error:
            log.warning("no student.pt2: %s", error)
        (folder / "README.md").write_text(_readme(network, program.exists()))


def export(source: Path, kind: str, output: Path, *, check: bool = False, arch: str | None = None) -> float | None:
    """Write the student of a run (or any network file) in another format; `arch` says which network of one's own code
    the weights belong to.

    Returns, with `check`, the largest difference between its logits and those of the source, relative to their range.

    Raises:
        UsageError: unknown format, or the library that a format needs is not installed.
        MachineError: the file read back gives other outputs.
    """
    if kind not in FORMATS:
        raise UsageError(f"--format {kind}: unknown; there are {', '.join(FORMATS)}")
    network = load_network(source, arch=arch)
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        if kind == "safetensors":
            save_network(output, network)
        elif kind == "pt2":
            export_pt2(network, output)
        elif kind == "onnx":
            export_onnx(network, output)
        else:
            export_hub(source, network, output)
    return _compare(network, kind, output, arch) if check else None


def export_pt2(network: Network, path: Path) -> None:
    """Write a `torch.export` program that takes pixels in [0, 1] and a free number of images."""
    classifier = _portable(network)
    sample = torch.rand(2, *network.card.input_size)
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        with _traceable("pt2"):
            program = torch.export.export(classifier, (sample,), dynamic_shapes=({0: batch},))
        content = io.BytesIO()  # torch's own writer has errors of its own for a full disk
        torch.export.save(program, content)
    path.write_bytes(content.getvalue())


def export_onnx(network: Network, path: Path) -> None:
    """Write an ONNX file with input `images` (pixels in [0, 1], free batch) and output `logits`."""
    _need("onnx", "onnxscript")
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        with _traceable("onnx"):
            program = torch.onnx.export(
                _portable(network),
                (torch.rand(2, *network.card.input_size),),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: batch},),
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        program.save(str(path))


def export_hub(source: Path, network: Network, folder: Path) -> None:
    """Write a folder ready for a model hub: weights, config, program, and a model card."""
    write_student(folder, network)
    card = network.card
    text = (folder / "README.md").read_text()
    front = "---\nlibrary_name: lenient\ntags:\n- image-classification\n- knowledge-distillation\n- data-free\n---\n\n"
    channels, height, width = card.input_size
    about = f"A classifier of {card.num_classes} classes for images of {height}x{width} pixels, {channels} channel(s)"
    about += "".join(f"; {note}" for note in card.notes) + ".\n\n"
    (folder / "README.md").write_text(front + text.replace("\n\n", f"\n\n{about}", 1))
    report = source / "report.json"
    if report.is_file():
        shutil.copyfile(report, folder / "report.json")


@contextmanager
def _traceable(kind: str) -> Iterator[None]:
    """Turn whatever a tracer stumbles over into one line."""
    try:
        yield
    except Exception as error:
        raise UsageError(
            f"--format {kind}: torch cannot trace this network ({one_line(error)}); use --format safetensors"
        ) from error


def _compare(network: Network, kind: str, path: Path, arch: str | None) -> float:
    images = torch.rand(8, *network.card.input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = _portable(network)(images)
        found = _read_back(kind, path, arch)(images)
    difference = float((found - expected).abs().max() / (expected.abs().max() + 1e-12))
    if not difference <= TOLERANCE:
        raise MachineError(f"--check: {path} gives other outputs, by {difference:.1e} of their range")
    return difference


def _read_back(kind: str, path: Path, arch: str | None) -> nn.Module:
    if kind == "pt2":
        return torch.export.load(path).module()
    if kind == "onnx":
        return _OnnxModule(path)
    return _portable(load_network(path, arch=arch))


class _OnnxModule(nn.Module):
    def __init__(self, path: Path) -> None:
        super().__init__()
        _need("onnxruntime")
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {"images": images.numpy()})[0])


def _portable(network: Network) -> nn.Module:
    return PixelClassifier(network.module, network.card).cpu().eval()


def _need(*modules: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UsageError(f"--format onnx: needs {', '.join(missing)}; pip install 'lenient[onnx]'")


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
    own_code = card.arch is None or card.arch.startswith("py:")  # which the file cannot bring along
    arch = ', arch="py:FILE.py:FACTORY"' if own_code else ""
    code = "; FACTORY is the function that makes the network" if own_code else ""
    return f"""# Student

Takes images in [0, 1], shape (N, {shape}); returns logits (N, {card.num_classes}).
`config.json` names the classes, where known, and the normalisation, which is built in below.
{alone if traced else ""}
With lenient, as a module to go on working with{code}:

```python
import lenient

student = lenient.load("model.safetensors"{arch})
```
"""
