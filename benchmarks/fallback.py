"""Does falling back help? Runs on digits whose method `auto` takes, and that are told after a quarter of their steps
that they are likely to fail: kept at their method, and changed to the sturdier one, with a new student or their own.

    python benchmarks/fallback.py -o benchmarks/results/fallback.json
    python benchmarks/fallback.py -o benchmarks/results/fallback.json --table results/fallback.md
    python benchmarks/fallback.py -o benchmarks/results/fallback-dafl-adv.json --fallback dafl-adv

Of sound runs the alarm is forced, to see what a false one costs. Runs that are in the file already are left out, so a
killed command goes on. Test images are read for the table only: no run looks at them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from sabotage import Around, digits

from lenient.api import distill
from lenient.core.numbers import plain, significant
from lenient.evaluation import evaluate
from lenient.methods.choice import choose
from lenient.models import Card, Network, PixelClassifier, build_student, check_classifier
from lenient.runs import job
from lenient.runs.folder import environment
from lenient.supervised import TeacherRecipe, default_recipe, train_classifier
from lenient.training.trainer import Distillation
from lenient.training.verdict import HealthSettings

FLAT = f"py:{Path(__file__).parent / 'plain_networks.py'}:flat_vgg"


@dataclass(frozen=True)
class Case:
    """What is wrong with a run."""

    kinds: Sequence[str] = ("grey", "tinted")
    arch: str = "lenient:resnet8"
    twice: bool = False
    """Whether the teacher normalises images that are normalised already."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    forced: bool = False
    """Whether there is an alarm whatever is expected."""


CASES = {
    "normalised twice": Case(twice=True),
    "flat head": Case(("grey",), FLAT),
    "one latent number": Case(("grey",), settings={"generator": {"latent_dim": 1}}),
    "sound, alarm forced": Case(forced=True),
}
WAYS = ("method kept", "student anew", "student kept")
"""Without a fallback; with it; with it, and with the weights that the student has by then."""
STEPS, SEEDS = 400, (0, 1)
KEYS = ("case", "digits", "seed", "way")


def train(kind: str, arch: str, seed: int) -> Network:
    """Return a teacher of digits."""
    images = digits(kind, "train")
    card = Card(None, images.input_size, len(images.classes), images.mean, images.std, images.classes)
    network = build_student(arch, card, seed=seed, role="teacher")
    train_classifier(network, images, TeacherRecipe(**default_recipe("digits") | {"epochs": 15, "seed": seed}))
    return network


def measure(name: str, kind: str, seed: int, way: str, network: Network, other: str | None) -> dict[str, Any]:
    """Run one case and compare its student with its teacher on the test digits."""
    case, card = CASES[name], network.card
    teacher = Network(Around(network.module, card, normalised=True), card) if case.twice else network
    told: dict[str, float] = {}
    forecast = job.forecast
    change = Distillation._change

    def telling(run: Distillation, progress: float) -> dict[str, float] | None:
        found = forecast(run, progress)
        told.update(found or {})
        return {**found, "expected": 0.0} if found and case.forced else found

    def keeping(run: Distillation, *given: Any) -> None:
        run._untrained = run.student.state_dict()
        change(run, *given)

    plan = {"batch_size": 128, "log_every": 20, "overlap": False, "fallback": way != "method kept", **case.settings}
    with ExitStack() as patches:
        patches.enter_context(patch.object(job, "forecast", telling))
        if other is not None:
            patches.enter_context(patch.object(job, "choose", lambda found: choose(found)._replace(fallback=other)))
        if way == "student kept":
            patches.enter_context(patch.object(Distillation, "_change", keeping))
        result = distill(
            teacher, "lenient:resnet8-half", steps=STEPS, seed=seed, device="cpu", precision="32", settings=plan
        )
    if result.interrupted:
        raise typer.Exit(130)
    test, asked = digits(kind, "test"), check_classifier(teacher)
    found = evaluate(Network(result.student, asked.card), test, teacher=asked)
    with torch.no_grad():
        answers = PixelClassifier(asked.module, asked.card).eval()(test.images.float() / 255).argmax(dim=1)
    prediction, fell_back = result.summary.prediction, result.summary.fell_back
    return {
        "case": name,
        "digits": kind,
        "seed": seed,
        "way": way,
        "told": told.get("expected"),
        "step": None if fell_back is None else fell_back.step,
        "method": result.summary.method,
        "verdict": result.health.verdict,
        "expected": None if prediction is None else prediction.expected,
        "agreement": found.agreement,
        "chance": float(answers.bincount().max() / len(answers)),
        "accuracy": found.accuracy,
        "seconds": result.summary.seconds,
    }


def page(written: Mapping[str, Any], output: str) -> str:
    """Return the page."""
    runs: Sequence[Mapping[str, Any]] = written["runs"]
    limit, first = HealthSettings().expected, ", ".join(sorted({run["first"] for run in runs}))
    other = ", ".join(sorted({run["method"] for run in runs if run["step"] is not None}))
    lines = [
        "# Falling back",
        "",
        f"Runs on digits of {STEPS} steps whose method `auto` took, then `{first}`, by its defaults. After a quarter",
        f"of them each is told what is expected of its student (*told*; below {limit:.0%} there is an alarm). It keeps",
        f"its method, or goes on with `{other}` over the steps that remain: with a student that starts",
        "anew, as the library does, or with the one that it has. *Agreement* with the teacher, as it is described, on",
        "test images, in %, beside the share of its commonest answer (*chance*), and accuracy. Means over seeds; each",
        "seed in parentheses. What is wrong: the teacher normalises images that are normalised already; its head sees",
        "where features are; the generator draws from one number; or nothing, and the alarm is forced. Without an",
        "alarm there is one way.",
        "",
        "| case | digits | told | chance | way | agreement | accuracy | verdicts | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, case in CASES.items():
        for kind in case.kinds:
            for way in WAYS:
                own = [run for run in runs if (run["case"], run["digits"], run["way"]) == (name, kind, way)]
                if own:
                    cells = [name, kind, _both("told", own), _both("chance", own), way]
                    cells += [_both("agreement", own), _both("accuracy", own)]
                    verdicts = ", ".join(run["verdict"] for run in own)
                    lines.append(f"| {' | '.join(cells)} | {verdicts} | {fmean(r['seconds'] for r in own):.0f} |")
    lines += ["", f"{len(runs)} runs in `{output}`. Machine: {written['machine']['device_name']}, one thread.", ""]
    return "\n".join(lines)


def _both(key: str, runs: Sequence[Mapping[str, Any]]) -> str:
    values = [100 * run[key] for run in runs if run[key] is not None]
    if not values:
        return ""
    return f"{fmean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"


def main(
    output: Annotated[Path, typer.Option("-o", help="JSON file; runs that it has are left out.")],
    table: Annotated[Path | None, typer.Option(help="Write the page, and run nothing.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Cases to run.")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Seeds of teacher and student.")] = None,
    fallback: Annotated[str | None, typer.Option(help="Another method to fall back to than the library's.")] = None,
) -> None:
    """Run what is not in the file, or write the page."""
    written = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {"runs": []}
    if table is not None:
        table.write_text(page(written, output.name), encoding="utf-8")
        return
    torch.set_num_threads(1)
    done = {tuple(run[key] for key in KEYS) for run in written["runs"]}
    for seed, kind, (name, case) in product(seeds or SEEDS, ("grey", "tinted"), CASES.items()):
        chosen = kind in case.kinds and name in (only or CASES)
        wanted = [way for way in WAYS if chosen and (name, kind, seed, way) not in done]
        network = train(kind, case.arch, seed) if wanted else None
        for way in wanted:
            assert network is not None, "some are wanted"
            before = [run for run in written["runs"] if [run[key] for key in KEYS[:3]] == [name, kind, seed]]
            if before and not case.forced and (before[0]["told"] or 1.0) >= HealthSettings().expected:
                break  # no alarm: all ways are one
            found = measure(name, kind, seed, way, network, fallback) | {"first": choose(network).name}
            written["runs"].append(plain(found, significant))
            machine = environment(torch.device("cpu"), "32")
            written["machine"] = {key: value for key, value in machine.items() if key != "command"}
            output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
            print(found, flush=True)


if __name__ == "__main__":
    typer.run(main)
