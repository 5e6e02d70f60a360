"""Commands that look and change nothing but a report: `inspect`, `evaluate`, `report`, `methods`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lenient.cli import flags
from lenient.text import visible

WIDE = 600
"""Characters of the longest line that describes a teacher."""


def inspect(
    teacher: flags.Teacher,
    teacher_arch: flags.TeacherArch = "",
    input_size: flags.InputSize = "",
    num_classes: flags.NumClasses = 0,
    mean: flags.Mean = "",
    std: flags.Std = "",
    checkpoint_key: flags.CheckpointKey = "",
    trust_code: flags.TrustCode = False,
    as_json: flags.AsJson = False,
) -> None:
    """Say what was found of TEACHER, what can be done with it, and what was assumed."""
    from lenient.api import inspect as look

    facts = flags.facts(teacher_arch, input_size, num_classes, mean, std, checkpoint_key)
    found = look(teacher, trust_code=trust_code, **facts)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    rows = {
        "architecture": found["arch"] or "given by its module only",
        "parameters": f"{found['params']:,} ({found['bytes'] / 2**20:.1f} MiB)",
        "input": "x".join(map(str, found["input_size"])) + " (channels x height x width)",
        "classes": str(found["num_classes"]) + (f": {', '.join(found['classes'][:10])}" if found["classes"] else ""),
        "mean": ", ".join(f"{v:.4g}" for v in found["mean"]),
        "std": ", ".join(f"{v:.4g}" for v in found["std"]),
        "outputs": found["outputs"],
        "batch norm": f"{found['batch_norm_layers']} layers with statistics",
        "methods": ", ".join(found["methods"]) or "none of the methods fits as it is",
        "student": f"{found['student']} ({found['student_reason']})",
    }
    for name, value in rows.items():
        print(f"{name:13} {visible(value, WIDE)}")
    for note in [*found["notes"], *found["advice"]]:
        print(f"  - {visible(note, WIDE)}")


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="What `lenient distill` takes, or a run folder.", show_default=False)
    ],
    data: Annotated[str, typer.Option(metavar="DATA", help="digits, mnist, cifar10, cifar100 or imagefolder:DIR.")],
    teacher: Annotated[str, typer.Option(metavar="TEACHER", help="Measure agreement with it, too.")] = "",
    teacher_arch: flags.TeacherArch = "",
    input_size: flags.InputSize = "",
    num_classes: flags.NumClasses = 0,
    mean: flags.Mean = "",
    std: flags.Std = "",
    checkpoint_key: flags.CheckpointKey = "",
    trust_code: flags.TrustCode = False,
    data_root: flags.DataRoot = "",
    split: Annotated[str, typer.Option(metavar="NAME", help="test, train, fit or holdout.")] = "test",
    device: flags.Device = "auto",
    as_json: flags.AsJson = False,
) -> None:
    """Measure MODEL on labelled images: accuracy, calibration, agreement with a teacher, latency."""
    from lenient.data import load_data
    from lenient.evaluation import evaluate as measure
    from lenient.evaluation import latency
    from lenient.job import load_teacher
    from lenient.runtime import resolve_device

    facts = flags.facts(teacher_arch, input_size, num_classes, mean, std, checkpoint_key)
    network = load_teacher(model, trust_code=trust_code, **facts)
    other = load_teacher(teacher, trust_code=trust_code) if teacher else None
    place = resolve_device(device)
    images = load_data(data, split=split, root=data_root or None, input_size=network.card.input_size)
    found: dict[str, Any] = measure(network, images, teacher=other, device=place).to_dict()
    found["latency"] = latency(network.module, network.card.input_size, device=place)
    for note in [*network.card.notes, *images.notes, *filter(None, [found["note"]])]:
        print(f"note         {visible(note, WIDE)}", file=sys.stderr)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"images       {found['n']} ({visible(data)}, {split})")
    print(f"accuracy     {found['accuracy']:.2%}")
    if found["top5"] is not None:
        print(f"top-5        {found['top5']:.2%}")
    if found["agreement"] is not None:
        print(f"agreement    {found['agreement']:.2%} with {visible(teacher)}")
    print(f"calibration  expected error {found['ece']:.3f}, log-likelihood {-found['nll']:.3f} nats")
    timed = found["latency"]
    for batch, value in timed["milliseconds"].items():
        print(f"latency      {value:.2f} ms for a batch of {batch} on {timed['device']} ({timed['threads']} threads)")


def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]) -> None:
    """(Re)write report.html and report.json of RUN."""
    from lenient.report import write_report

    write_report(run)
    print(visible(run / "report.html", 4096))


def methods(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="One method, in full.", show_default=False)] = "",
    as_json: flags.AsJson = False,
) -> None:
    """List the methods, or say of one: paper, settings with their defaults, recipes."""
    import inspect as python_inspect

    from lenient.config import keys_of
    from lenient.methods import METHODS, method_class, recipes
    from lenient.methods.anatomy import anatomy

    if not name:
        pieces = {key: anatomy(key) for key in METHODS}
        texts = {key: _first_line(python_inspect.getmodule(method_class(key))) for key in METHODS}
        if as_json:
            print(json.dumps({key: {"text": texts[key], "anatomy": pieces[key]} for key in METHODS}, indent=2))
            return
        for key, text in texts.items():
            print(f"{key:10} {text}")
        print("\nWhat each is made of (defaults; numbers are weights):\n")
        _table(pieces)
        return
    found = method_class(name)
    module = python_inspect.getmodule(found)
    paper = ((module.__doc__ if module else None) or name).strip()
    settings = {key: _field(found.settings_type, key) for key in keys_of(found.settings_type) if key != "name"}
    if as_json:
        fields = {key: {"default": str(default), "text": text} for key, (default, text) in settings.items()}
        row = {"name": name, "paper": paper, "anatomy": anatomy(name), "settings": fields}
        print(json.dumps(row | {"recipes": list(recipes(name))}, indent=2))
        return
    print(paper)
    print("\nMade of:")
    for column, text in anatomy(name).items():
        print(f"  {column:12} {text or 'none'}")
    print("\nSettings (-s method.NAME=VALUE):")
    for key, (default, text) in settings.items():
        print(f"  {key:25} {str(default)[:40]:10} {text}")
    print("\nRecipes (-c NAME):", ", ".join(recipes(name)) or "none")


def _field(model: Any, key: str) -> tuple[Any, str]:
    """Return default and text of a dotted key of a settings model."""
    head, _, rest = key.partition(".")
    field = model.model_fields[head]
    if rest:
        return _field(field.annotation, rest)
    return field.get_default(call_default_factory=True), field.description or ""


def _table(pieces: dict[str, dict[str, str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    columns = [column for column in next(iter(pieces.values())) if any(row[column] for row in pieces.values())]
    table = Table("", *columns, box=SIMPLE_HEAD, pad_edge=False)
    for name, row in pieces.items():
        table.add_row(name, *(row[column] or "-" for column in columns))
    console = Console()
    if not console.is_terminal:
        console.width = 180  # a file has no edge to wrap at
    console.print(table)


def _first_line(module: Any) -> str:
    return str((module.__doc__ or "").strip().splitlines()[0])
