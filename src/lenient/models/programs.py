"""Files that are programs instead of weights: exported, scripted, or of another framework.

torch's loaders run code that such a file holds: `torch.export.load` unpickles sample inputs, constants and weights
without limits and opens compiled libraries, and a TorchScript program may read and write files. So one that somebody
else made is loaded only where the user trusts it.
"""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lenient.core.errors import TeacherError
from lenient.models.facts import Facts
from lenient.models.names import one_line

EXPORTED, SCRIPTED = "an exported program (torch.export)", "a TorchScript program"
LOADED = {EXPORTED: "torch.export", SCRIPTED: "torch.jit"}
"""Kinds that can be run, and what loads them."""


class Program(nn.Module):
    """A loaded program: it takes what it was traced with, in the one mode it was traced in, and shows no layers."""

    def __init__(self, run: nn.Module) -> None:
        super().__init__()
        self._run = [run]  # in a list, so that it is no submodule: its `train` and `eval` refuse
        for number, value in enumerate(run.parameters()):
            shared = nn.Parameter(value.detach(), requires_grad=False)
            self.register_parameter(f"parameter{number}", shared)
        for number, buffer in enumerate(run.buffers()):
            self.register_buffer(f"buffer{number}", buffer)

    def forward(self, images: Tensor) -> Any:
        """Run the program."""
        return self._run[0](images)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        self._run[0]._apply(fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


def program_kind(path: Path) -> str | None:
    """Return which kind of program a file is, None for one of weights; it is looked into, not loaded."""
    if path.suffix in (".onnx", ".tflite", ".h5", ".keras"):
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


def load_program(path: Path, kind: str) -> tuple[Program, Facts]:
    """Load a program that the user trusts, for the CPU, and say what it takes and returns; its code may run.

    Raises TeacherError where the file is damaged, or of a kind that is not run here.
    """
    if kind not in LOADED:
        raise TeacherError(f"{path}: is {kind}, which cannot be run here: give the weights and --teacher-arch")
    own = logging.getLogger("torch.export")
    level = own.level
    own.setLevel(logging.CRITICAL)  # a trace on the way to the error that it raises
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _exported(path) if kind == EXPORTED else _scripted(path)
    except Exception as error:
        raise TeacherError(f"{path}: {LOADED[kind]} cannot load it ({one_line(error, 120)})") from error
    finally:
        own.setLevel(level)


def _exported(path: Path) -> tuple[Program, Facts]:
    exported = torch.export.load(path)
    nodes = {node.name: node.meta.get("val") for node in exported.graph.nodes}
    taken = [nodes.get(name) for name in exported.graph_signature.user_inputs]
    given = [nodes.get(name) for name in exported.graph_signature.user_outputs]
    size = _fixed(taken[0], 4) if taken else None
    classes = _fixed(given[0], 2) if given else None
    facts = Facts(
        "the program's own shapes",
        channels=size[0] if size else None,
        size=(size[1], size[2]) if size else None,
        num_classes=classes[0] if classes else None,
    )
    return Program(exported.module()), facts


def _scripted(path: Path) -> tuple[Program, Facts]:
    return Program(torch.jit.load(str(path), map_location="cpu").eval()), Facts("the program")


def _fixed(value: object, dimensions: int) -> tuple[int, ...] | None:
    """Return the sizes after the first of a traced tensor, None where they are not numbers or not that many."""
    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
    if len(shape) != dimensions or not all(isinstance(size, int) for size in shape[1:]):
        return None
    return tuple(int(size) for size in shape[1:])
