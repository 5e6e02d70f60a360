"""Files that are programs instead of weights: exported, scripted, or of another framework.

torch's loaders run code that such a file holds: `torch.export.load` unpickles sample inputs, constants and weights
without limits and opens compiled libraries, and a TorchScript program may read and write files. So one that somebody
else made is loaded only where the user trusts it.
"""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_unflatten

from lenient.core import files
from lenient.core.errors import TeacherError
from lenient.core.text import visible
from lenient.models.card import flat_outputs, to_logits
from lenient.models.facts import Facts
from lenient.models.graphs.images import channels_last
from lenient.models.graphs.outputs import chosen_output
from lenient.models.graphs.reading import sketch
from lenient.models.names import one_line
from lenient.models.stated import CLASSES, PIXELS, facts_of_stated

EXPORTED, SCRIPTED, GRAPH = "an exported program (torch.export)", "a TorchScript program", "an ONNX file"
LOADED = {EXPORTED: "torch.export", SCRIPTED: "torch.jit", GRAPH: "onnxruntime"}
"""Kinds that can be run, and what loads them; an ONNX file is rebuilt, not run, where that can be (`graphs`)."""
_CONVERTED = {
    ".keras": "python -m tf2onnx.convert --keras",
    ".h5": "python -m tf2onnx.convert --keras",
    ".tflite": "python -m tf2onnx.convert --tflite",
    ".pb": "python -m tf2onnx.convert --saved-model",
}
"""Files of TensorFlow, and what makes ONNX of them (https://github.com/onnx/tensorflow-onnx)."""


def _in_parts(answer: Callable[[Tensor], Any], images: Tensor, rows: int) -> Any:
    """Return the answers to images that are given `rows` at a time, each of their tensors joined; what is said of those
    given again to fill the last part is cut."""
    places = torch.arange(-(-len(images) // rows) * rows, device=images.device)
    answers = [answer(images[part]) for part in (places % len(images)).split(rows)]

    def joined(*parts: Any) -> Any:
        by_image = all(isinstance(part, Tensor) and part.dim() and len(part) == rows for part in parts)
        return torch.cat(parts)[: len(images)] if by_image else parts[0]

    return tree_map(joined, *answers)


class Program(nn.Module):
    """A loaded program: it takes what it was traced with, in the one mode it was traced in, and shows no layers.

    `digest` is the hash of its file, and `rows` the number of images that it was traced for, where it takes no other.
    """

    def __init__(self, run: nn.Module, digest: str, rows: int | None = None) -> None:
        super().__init__()
        self.digest, self.rows = digest, rows
        self._run = [run]  # in a list, so that it is no submodule: its `train` and `eval` refuse
        self._share()

    def _share(self) -> None:
        """Show the very tensors that run, so that whoever moves what is shown moves what runs."""
        for number, value in enumerate(self._run[0].parameters()):
            value._is_param = True  # by which torch knows a parameter: TorchScript's are plain tensors
            self.register_parameter(f"parameter{number}", cast(nn.Parameter, value.requires_grad_(False)))
        for number, buffer in enumerate(self._run[0].buffers()):
            self.register_buffer(f"buffer{number}", buffer)

    def forward(self, images: Tensor) -> Any:
        """Run the program; where it takes just so many images, in parts, whose answers are joined."""
        return self._run[0](images) if self.rows is None else _in_parts(self._run[0], images, self.rows)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        self._run[0]._apply(fn)
        self._share()
        return self


def program_kind(path: Path) -> str | None:
    """Return which kind of program a file is, None for one of weights; it is looked into, not loaded."""
    if path.suffix == ".onnx":
        return GRAPH
    if path.suffix in _CONVERTED:
        return f"a {path.suffix[1:]} program"
    if path.suffix == ".pt2":
        return EXPORTED
    try:
        names = zipfile.ZipFile(path).namelist() if path.is_file() and zipfile.is_zipfile(path) else []
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return None  # whoever reads it says what is wrong
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        return EXPORTED
    return SCRIPTED if any("/code/" in name for name in names) else None


def conversion(path: Path) -> str | None:
    """Return the command that makes ONNX of a file or folder of Keras or TensorFlow; None for others."""
    folder = (path / "saved_model.pb").is_file()
    command = _CONVERTED.get(".pb" if folder else path.suffix)
    if command is None:
        return None
    given, made = (path.parent, "model.onnx") if path.suffix == ".pb" else (path, f"{path.stem}.onnx")
    return f"{command} {visible(given)} --output {visible(made)}"


_TYPES = {
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(uint8)": torch.uint8,
    "tensor(int8)": torch.int8,
    "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
}
"""How onnxruntime calls the types of images, besides float32."""


class Answers(nn.Module):
    """A program that onnxruntime runs, on the CPU: it answers, and gives images no gradient.

    Raises TeacherError where nothing tells which of its outputs are the logits; `num_classes` may.
    """

    def __init__(self, path: Path, num_classes: int | None) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        seen = sketch(path)
        self.values, self.digest = seen.values, "".join(map(files.file_hash, (path, *seen.beside)))
        chosen, self.notes = chosen_output(seen.nodes, seen.outputs, num_classes, path)
        self.given = self._session.get_inputs()
        self.made = next(value for value in self._session.get_outputs() if value.name == chosen.name)
        self.said: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        shape = self.given[0].shape
        self.rows, self.dtype = _rows(shape), _TYPES.get(self.given[0].type, torch.float32)
        self._last = len(shape) == 4 and channels_last(shape, seen.nodes, self.given[0].name)
        self.shape = [shape[0], shape[3], *shape[1:3]] if self._last else shape

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits for images (N, C, H, W), in as many runs as a batch that is built in asks for."""
        values = images.detach().cpu()
        values = values.permute(0, 2, 3, 1) if self._last else values
        if not self.dtype.is_floating_point:
            values = values.round().clamp(torch.iinfo(self.dtype).min, torch.iinfo(self.dtype).max)
        values = values.to(self.dtype)
        found: Tensor = _in_parts(self._answer, values, self.rows or len(values))
        return found.to(images.device, images.dtype)

    def _answer(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self._session.run([self.made.name], {self.given[0].name: images.numpy()})[0])


Loaded = Program | Answers


def load_program(path: Path, kind: str, num_classes: int | None) -> tuple[Loaded, tuple[Facts, ...]]:
    """Load a program of one of the kinds in `LOADED` that the user trusts, for the CPU, and say what it takes and
    returns, by its shapes and in its own words; its code may run.

    Raises TeacherError where the file is damaged, or nothing tells which outputs are the logits; `num_classes` may.
    """
    own = logging.getLogger("torch.export")
    level = own.level
    own.setLevel(logging.CRITICAL)  # a trace on the way to the error that it raises
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _answers(path, num_classes) if kind == GRAPH else _LOADERS[kind](path)
    except TeacherError:
        raise
    except Exception as error:
        raise TeacherError(f"{path}: {LOADED[kind]} cannot load it ({one_line(error, 120)})") from error
    finally:
        own.setLevel(level)


def _exported(path: Path) -> tuple[Loaded, tuple[Facts, ...]]:
    said: dict[str, Any] = dict.fromkeys((PIXELS, CLASSES), "")  # an empty one would not be filled
    exported = torch.export.load(path, extra_files=said)
    nodes = {node.name: node.meta.get("val") for node in exported.graph.nodes}
    signature = exported.graph_signature
    given = _shape(nodes.get(str(signature.user_inputs[0]))) if signature.user_inputs else ()
    made = tree_unflatten([nodes.get(str(name)) for name in signature.user_outputs], exported.call_spec.out_spec)
    own = facts_of_stated({key: value for key, value in said.items() if isinstance(value, str)})
    return Program(exported.module(), files.file_hash(path), _rows(given)), (
        _facts("the program's own shapes", given, _shape(_logits(made))),
        own,
    )


def _scripted(path: Path) -> tuple[Loaded, tuple[Facts, ...]]:
    run = torch.jit.load(str(path), map_location="cpu").eval()
    return Program(run, files.file_hash(path)), (Facts("the program"),)


_LOADERS = {EXPORTED: _exported, SCRIPTED: _scripted}


def _answers(path: Path, num_classes: int | None) -> tuple[Loaded, tuple[Facts, ...]]:
    module = Answers(path, num_classes)
    facts = _facts("the graph's own shapes", module.shape, module.made.shape)
    if not module.dtype.is_floating_point:  # 0 to 255, or -128 to 127
        least = 128 / 255 if module.dtype == torch.int8 else 0.0
        facts = replace(facts, origin="the graph's own shapes and type", mean=(least,), std=(1 / 255,))
    return module, (facts, facts_of_stated(module.said))


def _rows(shape: Sequence[object]) -> int | None:
    """Return the size of a batch that is built in, None where it is free."""
    return shape[0] if shape and isinstance(shape[0], int) and shape[0] > 0 else None


def _facts(origin: str, given: Sequence[object], made: Sequence[object]) -> Facts:
    """Return what the shapes of images and logits say, as far as they are numbers."""
    size, classes = _numbers(given, 4), _numbers(made, 2)
    return Facts(
        origin,
        channels=size[0] if size else None,
        size=(size[1], size[2]) if size else None,
        num_classes=classes[0] if classes else None,
    )


def _numbers(shape: Sequence[object], dimensions: int) -> tuple[int, ...] | None:
    """Return the sizes after the first, None where they are not numbers or not that many."""
    sizes = tuple(size for size in shape[1:] if isinstance(size, int))
    return sizes if len(shape) == dimensions == len(sizes) + 1 else None


def _logits(made: object) -> object:
    """Return what a traced answer has for logits, or something as wide; None where its outputs differ in that."""
    flat = list(flat_outputs(made).values())
    if len({str(value.shape[1]) for value in flat}) > 1:
        return None
    with suppress(TeacherError):
        return flat[0] if flat else to_logits(made)
    return None


def _shape(value: object) -> tuple[object, ...]:
    """Return the shape of a traced tensor; none where it is none."""
    return tuple(value.shape) if isinstance(value, Tensor) else ()
