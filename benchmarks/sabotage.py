"""Does the verdict tell a run that failed from a sound one? Runs on digits, sound and sabotaged, with real accuracy.

    python benchmarks/sabotage.py -o benchmarks/results/sabotage.json
    python benchmarks/sabotage.py -o benchmarks/results/sabotage.json --table results/sabotage.md

Sabotage: constants wrong by scale and offset, normalised twice, softmax or sigmoid on top, classes that are not there,
too few steps, losses that do not suit the data. Teachers: three of grey digits, two of digits in three channels of
other brightness. Runs that are in the file already are left out, so a killed command goes on. Test images are read for
the table only: no run looks at them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from lenient.api import distill
from lenient.core.errors import LenientError
from lenient.data import ImageSet, load_data
from lenient.evaluation import accuracy
from lenient.models import Card, Network, build_student
from lenient.runs.folder import environment
from lenient.supervised import TeacherRecipe, default_recipe, train_classifier
from lenient.training.verdict import EXPECTED, RELAXED, SHIFT, HealthSettings

PIXELS = ("contrast", "overshoot")
NEW = (*PIXELS, EXPECTED)
"""Checks that the column `before` does without; each is worth a warning."""
KEYS = ("name", "kind", "method", "seed")
METHODS = ("ta-dfkd", "dfad", "dafl", "pre-dfkd", "zskt", "cudfkd", "mad")
OUR_WEIGHTS = {"ta-dfkd": {"beta": 300.0, "entropy_weight": 100.0}}
"""With which the method was the default, `bn-adv` but for its selection."""
STEPS = 600
SHARE = 0.5
"""Share of the teacher's accuracy below which no run should be called ok."""


class Around(nn.Module):
    """A teacher in a wrapper: normalised once more in front, and something on its outputs."""

    def __init__(self, module: nn.Module, card: Card, *, normalised: bool = False, outputs: str = "") -> None:
        super().__init__()
        self.module, self.outputs = module, outputs
        constants = (card.mean, card.std) if normalised else ((0.0,), (1.0,))
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in constants)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, or what the wrapper makes of them."""
        logits: Tensor = self.module((images - self.mean) / self.std)
        if self.outputs == "more classes":
            return torch.cat([logits, logits.new_full((len(logits), 5), -20.0)], dim=1)
        return {"": logits, "sigmoid": logits.sigmoid(), "softmax": logits.softmax(dim=1)}[self.outputs]


def digits(kind: str, split: str) -> ImageSet:
    """Return digits, grey or in three channels that are nothing alike."""
    images = load_data("digits", split=split)
    if kind == "grey":
        return images
    assert isinstance(images.images, Tensor)
    grey = images.images.float()
    tinted = torch.cat([grey, 64 + grey / 2, 255 - grey], dim=1).round().byte()
    mean, std = (tuple(f(tinted.float() / 255, dim=(0, 2, 3)).tolist()) for f in (torch.mean, torch.std))
    return dataclasses.replace(images, images=tinted, mean=mean, std=std, input_size=(3, *images.input_size[1:]))


def train(kind: str, seed: int) -> Network:
    """Return a teacher of digits."""
    images = digits(kind, "train")
    card = Card(None, images.input_size, len(images.classes), images.mean, images.std, images.classes)
    network = build_student("lenient:resnet8", card, seed=seed, role="teacher")
    recipe = default_recipe("digits") | {"epochs": 15, "seed": seed}
    train_classifier(network, images, TeacherRecipe(**recipe))
    return network


def cases() -> Iterator[dict[str, Any]]:
    """Yield name, teacher, method, steps and what is wrong: of the card, of the module, of the settings."""
    sound = {"card": {}, "wrapper": {}, "settings": {}, "method": "ta-dfkd", "steps": STEPS, "seed": 0}
    for seed in (0, 1):
        for method in METHODS:
            steps = 2 * STEPS if method in ("dafl", "zskt") else STEPS
            yield sound | {"name": "sound", "kind": "grey", "method": method, "steps": steps, "seed": seed}
        losses = {"beta": 1.0, "entropy_weight": 0.0, "student_steps": 10, "generator_lr": 1e-3}
        yield sound | {"name": "losses of another data set", "kind": "grey", "settings": losses, "seed": seed}
    for kind in ("grey", "tinted"):
        base = sound | {"kind": kind}
        yield base | {"name": "sound, another seed", "seed": 2}
        for steps in (20, 60, 150):
            yield base | {"name": f"{steps} steps", "steps": steps}
        for factor in (0.02, 0.25, 0.5, 2.0, 4.0, 100.0):
            yield base | {"name": f"std x {factor:g}", "card": {"std": factor}}
        for offset in (-0.5, -0.25, 0.25, 0.5):
            yield base | {"name": f"mean {offset:+g}", "card": {"mean": offset}}
        yield base | {"name": "normalised twice", "wrapper": {"normalised": True}}
        for outputs in ("sigmoid", "softmax", "more classes"):
            yield base | {"name": outputs, "wrapper": {"outputs": outputs}}
    yield sound | {"name": "channels reversed", "kind": "tinted", "card": {"order": -1}}
    for method in ("dafl", "dfad", "zskt"):
        yield sound | {"name": "std x 4", "kind": "grey", "method": method, "card": {"std": 4.0}}
        yield sound | {"name": "mean +0.5", "kind": "grey", "method": method, "card": {"mean": 0.5}}
        yield sound | {"name": "60 steps", "kind": "grey", "method": method, "steps": 60}


def sabotaged(network: Network, case: Mapping[str, Any]) -> Network:
    """Return the teacher as the case has it described."""
    card, changes = network.card, case["card"]
    order = changes.get("order", 1)
    mean = tuple(max(-1.0, min(1.0, value + changes.get("mean", 0.0))) for value in card.mean[::order])
    std = tuple(min(10.0, value * changes.get("std", 1.0)) for value in card.std[::order])
    more = case["wrapper"].get("outputs") == "more classes"
    classes = {"num_classes": card.num_classes + 5, "classes": None} if more else {}
    module = Around(network.module, card, **case["wrapper"]) if case["wrapper"] else network.module
    return Network(module, dataclasses.replace(card, mean=mean, std=std, **classes))


def measure(case: Mapping[str, Any], network: Network) -> dict[str, Any]:
    """Run one case and measure its student on the test digits."""
    test = digits(case["kind"], "test")
    teacher = sabotaged(network, case)
    weights = OUR_WEIGHTS.get(case["method"], {}) | case["settings"]
    plan = {"batch_size": 128, "log_every": 20, "overlap": False, "report": {"images": False}}
    found = {key: case[key] for key in ("name", "kind", "method", "steps", "seed")}
    with TemporaryDirectory() as folder:
        try:
            result = distill(
                teacher,
                "lenient:resnet8-half",
                method=case["method"],
                recipe="digits",
                steps=case["steps"],
                seed=case["seed"],
                device="cpu",
                precision="auto",
                settings=plan | ({"method": weights} if weights else {}),
                output=Path(folder) / "run",
            )
        except LenientError as error:
            return found | {"refused": str(error)}
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    if result.interrupted:
        raise typer.Exit(130)
    checks = result.health.checks
    shifted = any(c.name == SHIFT and (c.value is None or c.value > c.threshold) for c in checks)
    before = worst(["warning" if shifted else "ok", *(c.status for c in checks if c.name not in NEW)])
    expected = result.summary.prediction
    return found | {
        "verdict": result.health.verdict,
        "before": before,
        "reasons": result.health.reasons,
        "values": {check.name: check.value for check in checks},
        "expected": [expected.low, expected.high] if expected else None,
        **early([json.loads(line) for line in lines], case["steps"]),
        "student": right(Network(result.student, dataclasses.replace(teacher.card, outputs="logits")), test),
        "teacher": right(teacher, test),
        "right_teacher": right(network, test),
    }


def early(events: Sequence[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """Return what a run showed within a third of its steps: `forecast`, None where there was none, and the log lines
    of `health/` nearest to a tenth, two and three tenths of it, as `early`."""
    logs = [line for line in events if line["event"] == "log" and 3 * line["step"] <= steps]
    told = next((line for line in events if line["event"] == "forecast"), None)
    chosen = (
        sorted({min(range(len(logs)), key=lambda i: abs(logs[i]["step"] - part * steps)) for part in (0.1, 0.2, 0.3)})
        if logs
        else []
    )
    return {
        "forecast": told,
        "early": [
            {k.removeprefix("health/"): v for k, v in logs[i].items() if k == "step" or k.startswith("health/")}
            for i in chosen
        ],
    }


def worst(statuses: Any) -> str:
    """Return the verdict that checks come to."""
    return max(statuses, key=("ok", "warning", "failed").index)


@torch.no_grad()
def right(network: Network, images: ImageSet) -> float:
    """Return the accuracy; a network may have more classes than the data."""
    if network.card.num_classes == len(images.classes):
        return accuracy(network, images)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (network.card.mean, network.card.std))
    network.module.eval()
    hits = [(network.module((x - mean) / std).argmax(dim=1) == y).float() for x, y in images.batches(256)]
    return float(torch.cat(hits).mean())


def page(written: Mapping[str, Any], output: str) -> str:
    """Return the page: each case, and how often a run that failed was called ok."""
    rows: Sequence[Mapping[str, Any]] = [row for row in written["runs"] if "refused" not in row]
    poor = [row for row in rows if row["student"] < SHARE * row["right_teacher"]]
    fine = [row for row in rows if row["name"].startswith("sound")]
    counts, kept = ([sum(row[key] == "ok" for row in group) for key in ("before", "verdict")] for group in (poor, fine))
    limits = HealthSettings()
    lines = [
        "# Sabotage",
        "",
        "Runs on digits whose teacher is described wrongly, or that are too short, beside sound ones. Accuracy on test",
        "images in %: of the student, of the teacher as it was described, and of the teacher with its own constants.",
        f"`before` is the verdict without the checks {', '.join(NEW)}, and by the batch-norm shift alone.",
        f"Now there is a warning of a contrast below {limits.contrast} (how much of black, 0, to white, 1, the middle",
        "nine tenths of the pixels span in the widest channel), of an overshoot above",
        f"{limits.overshoot} (how far they reach beyond in any), and where the teacher's answer is expected of the",
        f"student on less than {limits.expected:.0%} of real images at the lower end; where more is expected, a shift",
        f"of up to {RELAXED:g} times its limit warns no more. *Expected*: that interval in %, of the answers of the",
        "teacher as it was described, where the run was long enough to ask. With wrong constants the teacher",
        "sees what it would see with the right ones, so that nothing but the pixels can tell; where the error is",
        "small, they cannot. What is expected, and so the verdict, is by the library's table of the day of the runs.",
        "",
        f"Students below half of the right teacher: {len(poor)}. Called ok: {counts[0]} before, {counts[1]} now.",
        f"Sound runs: {len(fine)}. Called ok: {kept[0]} before, {kept[1]} now.",
        "",
        "| case | digits | method | steps | seed | student | expected | teacher | right teacher | contrast | overshoot "
        "| shift | before | now |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["student"]):
        student, teachers = (
            f"{100 * row['student']:.1f}",
            f"{100 * row['teacher']:.1f} | {100 * row['right_teacher']:.1f}",
        )
        facts = " | ".join(str(row[key]) for key in ("name", "kind", "method", "steps", "seed"))
        interval = " to ".join(f"{100 * end:.0f}" for end in row["expected"] or ())
        values = " | ".join(f"{row['values'][name]:.2f}" if name in row["values"] else "" for name in (*PIXELS, SHIFT))
        lines.append(
            f"| {facts} | {student} | {interval} | {teachers} | {values} | {row['before']} | {row['verdict']} |"
        )
    refused = [row for row in written["runs"] if "refused" in row]
    lines += ["", *(f"Refused: {row['name']} ({row['kind']}): {row['refused']}" for row in refused)]
    wanted = {tuple(case[key] for key in KEYS) for case in cases()}
    left = len(wanted - {tuple(row[key] for key in KEYS) for row in written["runs"]})
    lines += ["", f"Not run yet: {left} of {len(wanted)} cases."] if left else []
    lines += ["", f"{len(written['runs'])} runs in `{output}`. Machine: {written['machine']['device_name']}.", ""]
    return "\n".join(lines)


def main(
    output: Annotated[Path, typer.Option("-o", help="JSON file.")],
    table: Annotated[Path | None, typer.Option(help="Write the page, and run nothing.")] = None,
    at_most: Annotated[int, typer.Option(help="Cases, in order.")] = 10_000,
) -> None:
    """Run what is not in the file yet, or write the page."""
    runs = json.loads(output.read_text(encoding="utf-8"))["runs"] if output.exists() else []
    if table is not None:
        table.write_text(page(json.loads(output.read_text(encoding="utf-8")), output.name), encoding="utf-8")
        return
    torch.set_num_threads(1)
    machine = {key: v for key, v in environment(torch.device("cpu"), "auto").items() if key != "command"}
    teachers: dict[tuple[str, int], Network] = {}
    done = {tuple(run[key] for key in KEYS) for run in runs}
    for case in list(cases())[:at_most]:
        if tuple(case[key] for key in KEYS) in done:
            continue
        who = (case["kind"], case["seed"])
        if who not in teachers:
            teachers[who] = train(*who)
        runs.append(measure(case, teachers[who]))
        print(json.dumps(runs[-1]), flush=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({"runs": runs, "machine": machine}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
