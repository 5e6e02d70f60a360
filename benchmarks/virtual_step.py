"""What does META-DFKD's virtual step do? Both orders' gradients at the same points of runs, for several lengths alpha.

    python benchmarks/virtual_step.py -o benchmarks/results/virtual-step.json
    python benchmarks/virtual_step.py -o benchmarks/results/virtual-step.json --table results/virtual-step.md

A student learns by the recipe `digits`; every so many steps, where old images are recalled, the gradient that the
second order would hand to its optimizer is compared with the first order's, and with replay's: alpha 0.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from compare_settings import trained
from torch import Tensor

from lenient import distill
from lenient.core.config import parse_overrides
from lenient.data import load_data
from lenient.methods.contract import Algorithm, Context
from lenient.methods.meta_dfkd import METADFKD, METADFKDSettings
from lenient.methods.steps import StudentStep
from lenient.models.card import Network
from lenient.runs.folder import environment
from lenient.student.update import RetainSettings, RetainUpdate
from lenient.teacher.batch import Batch

ALPHAS = (0.01, 0.1, 0.2, 0.5, 0.9)
"""Up to the recipe's rate of the student, and the released code's, which has no effect there."""

Gradient = list[Tensor]


@dataclass
class Watched:
    """An update that compares gradients every so many steps before it does what it did."""

    update: RetainUpdate
    every: int
    seen: list[dict[str, Any]] = field(default_factory=list)
    calls: int = 0

    @property
    def label(self) -> str:
        """What the update calls itself."""
        return self.update.label

    def __call__(self, new: Batch, old: Batch | None = None) -> dict[str, Tensor]:
        """Compare, where it is time, and update."""
        self.calls += 1
        if old is not None and self.calls % self.every == 0:
            self.seen.append({"step": self.calls, **self._compared(new, old)})
        return self.update(new, old)

    def _compared(self, new: Batch, old: Batch) -> dict[str, Any]:
        replayed, plain = self._gradient(RetainSettings(order="first", alpha=0.0), new, old)
        found: dict[str, Any] = {"seconds": {"replay": plain}, "orders": {}, "replay": {}}
        for alpha in ALPHAS:
            first, found["seconds"]["first"] = self._gradient(RetainSettings(order="first", alpha=alpha), new, old)
            second, found["seconds"]["second"] = self._gradient(RetainSettings(order="second", alpha=alpha), new, old)
            found["orders"][str(alpha)], found["replay"][str(alpha)] = cosine(first, second), cosine(first, replayed)
        return found

    def _gradient(self, settings: RetainSettings, new: Batch, old: Batch) -> tuple[Gradient, float]:
        """Return what an update adds to the student's gradient, and its seconds; leave the student as it is."""
        module = self.update.student.module
        kept = {name: buffer.clone() for name, buffer in module.named_buffers()}
        other = RetainUpdate(
            self.update.objective, self.update.student, settings, self.update.rate, self.update.weight, self.update.view
        )
        began = time.process_time()
        other(new, old)
        seconds = time.process_time() - began
        gradient = [p.grad.clone() for p in module.parameters() if p.grad is not None]
        for parameter in module.parameters():
            parameter.grad = None
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(kept[name])
        return gradient, seconds


def cosine(first: Gradient, second: Gradient) -> float:
    """Return the cosine between two gradients of a network."""
    one, two = (torch.cat([part.double().flatten() for part in gradient]) for gradient in (first, second))
    return round(float(one @ two / (one.norm() * two.norm())), 6)


class Watching(METADFKD):
    """META-DFKD whose student's update is watched."""

    def __init__(self, settings: METADFKDSettings, every: int) -> None:
        super().__init__(settings)
        self.every = every

    def build(self, context: Context) -> Algorithm:
        """Put it together, with the update wrapped."""
        algorithm = super().build(context)
        learning = algorithm.updates["student"]
        assert isinstance(learning.step, StudentStep)
        assert isinstance(learning.step.update, RetainUpdate)
        self.watched = Watched(learning.step.update, self.every)
        step = learning.step.learning(self.watched)
        return replace(algorithm, updates={**algorithm.updates, "student": replace(learning, step=step)})


def measure(teacher: Network, student: str, seed: int, steps: int, every: int) -> list[dict[str, Any]]:
    """Return the comparisons along one run."""
    settings = METADFKDSettings(
        student_steps=5,
        student_lr=0.2,
        generator_lr=1e-3,
        student_schedule="constant",
        replay={"name": "bank", "every": 1, "weight": 0.125},
    )
    method = Watching(settings, every)
    distill(teacher, student, method=method, steps=steps, seed=seed, precision="32", device="cpu")
    return method.watched.seen


def page(written: Mapping[str, Any], name: str) -> str:
    """Return the page: for each student and length the cosines, and what an update costs."""
    runs: Sequence[Mapping[str, Any]] = written["runs"]
    seen = [point for run in runs for point in run["seen"]]
    lines = [
        "# What META-DFKD's virtual step does",
        "",
        "The gradient that an update hands to the student's optimizer, at the same weights and on the same images: of",
        "both orders, and of replay, which is a virtual step of length 0. Cosines as median (least) over the points of",
        f"runs with the recipe `digits` and a constant rate of the student of 0.2, read every {written['every']} of",
        f"{written['steps']} steps; {len(runs)} runs, {len(seen)} points.",
        "",
        "| student | length alpha | second order against first | first order against replay |",
        "|---|---|---|---|",
    ]
    for student in dict.fromkeys(run["student"] for run in runs):
        own = [point for run in runs if run["student"] == student for point in run["seen"]]
        for alpha in map(str, ALPHAS):
            columns = (_spread(own, lambda point, kind=kind: point[kind][alpha]) for kind in ("orders", "replay"))  # noqa: B023
            lines.append(f"| `{student}` | {alpha} | {' | '.join(columns)} |")
    cost = statistics.median(point["seconds"]["second"] / point["seconds"]["first"] for point in seen)
    lines += [
        "",
        f"An update of the second order takes {cost:.2f} times one of the first (median of single updates, in",
        "processor seconds).",
        "",
        f"All points are in `{name}`. Machine: {written['machine']['device_name']}, one thread.",
        "",
    ]
    return "\n".join(lines)


def _spread(points: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], float]) -> str:
    values = [of(point) for point in points]
    return f"{statistics.median(values):.4f} ({min(values):.4f})"


def main(
    output: Annotated[Path, typer.Option("-o", help="JSON file.")],
    teachers: str = "lenient:wrn-10-2,lenient:resnet20,lenient:wrn-16-1",
    teacher_set: Annotated[list[str], typer.Option(help="A setting of the teachers' training, e.g. lr=0.02.")] = [],  # noqa: B006
    students: str = "lenient:resnet8-half,lenient:resnet8",
    seeds: int = 1,
    steps: int = 600,
    every: int = 30,
    table: Annotated[Path | None, typer.Option(help="Write the page, and measure nothing.")] = None,
) -> None:
    """Measure along all runs, or write the page on what was measured."""
    if table is not None:
        table.write_text(page(json.loads(output.read_text(encoding="utf-8")), output.name), encoding="utf-8")
        return
    torch.set_num_threads(1)
    runs: list[dict[str, Any]] = []
    machine = {key: v for key, v in environment(torch.device("cpu"), "32").items() if key != "command"}
    fit = load_data("digits", split="fit")
    for arch in teachers.split(","):
        teacher = trained(arch, "digits", fit, parse_overrides(teacher_set), logit_spread=0)
        for student, seed in itertools.product(students.split(","), range(seeds)):
            seen = measure(teacher, student, seed, steps, every)
            runs.append({"teacher": arch, "student": student, "seed": seed, "seen": seen})
            written = {"steps": steps, "every": every, "runs": runs, "machine": machine}
            output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
            print(arch, student, seed, *(json.dumps(point["orders"]) for point in seen[-1:]), flush=True)


if __name__ == "__main__":
    typer.run(main)
