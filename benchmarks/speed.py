"""One outer iteration of TA-DFKD, ten student steps and one generator step: the library's loop beside the procedure as
released, and beside the time that its convolutions alone would take.

    python benchmarks/speed.py benchmarks/results/speed.json
    python benchmarks/speed.py benchmarks/results/speed.json --pairs "" --ranks --growth
    python benchmarks/speed.py benchmarks/results/speed.json --table results/performance.md

All ways run in one process on equal networks, each with its own copies, and take turns, so that whatever else the
machine does falls on all of them; figures are medians over rounds after a warm-up. The library runs the recipe
`cifar10` (the paper's schedule and weights) with the released generator, in float32 and bfloat16, with one view of
each image and with two (cropped and flipped); the released procedure (`published.py`) always makes two. Forward and
backward passes of each network are counted in an iteration that is not timed. What the limit is, `speed_limit.py` says.

Without `--teacher` teachers have random weights. Their confidence means nothing, and how many rounds of synthesis a
student batch takes depends on it: each way's kept share and rounds stand beside its time. Each run replaces what the
output file holds of the same pair, or of the growth.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from published import STUDENT_STEPS
from speed_curves import FILE, curves
from speed_growth import base_point, grow
from speed_limit import Limits, needed
from speed_page import page
from speed_profile import profiled
from speed_ranks import scaling
from speed_ways import NETWORKS, RANDOM, RECIPE, Made, Way, clock, counted, ours, published, random_teacher
from speed_ways import settings_of as settings_for
from torch.utils.flop_counter import FlopCounterMode

from lenient.core.runtime import resolve_device
from lenient.generators.upsampling import UpsamplingGenerator
from lenient.models import Network, build_student, load_network
from lenient.runs.folder import environment


@dataclass(frozen=True)
class Pair:
    """Teacher, student, and the batch they are timed with."""

    teacher: str
    student: str
    size: tuple[int, int, int]
    batch: int


PAIRS = {
    "cifar": Pair("lenient:resnet34", "lenient:resnet18", (3, 32, 32), 32),
    "mnist": Pair("lenient:wrn-10-2", "lenient:resnet8-half", (1, 28, 28), 128),
}
CLASSES = 10
PUBLISHED = "published"
VIEWS = ("none", "crop-flip")
SPECIAL: dict[str, dict[str, bool]] = {"overlap": {"overlap": True}, "compiled": {"compiled": True}}
"""Ways of the library's that change how the same passes are made, in bfloat16."""
OURS: dict[str, tuple[str, str, dict[str, bool]]] = {
    **{f"{precision}/{view}": (precision, view, {}) for precision in ("32", "bf16") for view in VIEWS},
    **{f"bf16, {name}/{view}": ("bf16", view, how) for name, how in SPECIAL.items() for view in VIEWS},
}
"""Way -> precision, augmentation, what else."""
PROFILED = "bf16/none"


def compare(
    pair: Pair, network: Network, batch: int, device: torch.device, rounds: int, warmup: int, seed: int
) -> dict[str, Any]:
    """Time, count and bound every way from one teacher to the pair's student."""
    student = build_student(pair.student, network.card, seed=seed)
    settings = {name: settings_for(batch, *how[:2], device, seed, **how[2]) for name, how in OURS.items()}
    plain = settings["32/crop-flip"]
    with ExitStack() as stack:
        ways = {PUBLISHED: published(network, student, plain)}
        ways |= {name: ours(stack, network, student, own) for name, own in settings.items()}
        for name, way in ways.items():
            for _ in range(warmup):
                print(f"warm-up, {name}: {clock(way.iterate, device)[0]:.2f} s", flush=True)
        timed = take_turns(ways, rounds, device)
        counts = {name: count(way) for name, way in ways.items() if not OURS.get(name, ("", "", {}))[2]}
        counts |= {f"bf16, {name}/{view}": counts[f"bf16/{view}"] for name in SPECIAL for view in VIEWS}
        profile = profiled(ways[PROFILED].iterate)
    generator = UpsamplingGenerator(network.card.input_size, plain.generator)
    networks = dict(zip(NETWORKS, (network.module, student.module, generator), strict=True))
    size = network.card.input_size
    examples = {"teacher": size, "student": size, "generator": (plain.generator.latent_dim,)}
    limits = Limits(networks, examples, batch, device)
    rows = {}
    for name, row in timed.items():
        precision, augmentation, _ = OURS.get(name, ("32", "crop-flip", {}))
        views, drawn = 1 if augmentation == "none" else 2, row["rounds_per_step"] * STUDENT_STEPS * batch
        passes = needed(batch, STUDENT_STEPS, row["kept"], views, drawn)
        limit = limits.seconds(passes, precision)
        rows[name] = {
            **row,
            **counts[name],
            "needed": [part._asdict() for part in passes],
            "needed_flops": limits.operations(passes),
            "limit_seconds": limit,
            "share_of_limit": limit / row["seconds"]["median"],
        }
        print(f"{name}: {row['seconds']['median']:.3f} s, limit {limit:.3f} s, {counts[name]['counts']}", flush=True)
    return {
        "teacher": network.card.arch or pair.teacher,
        "student": pair.student,
        "size": list(size),
        "batch": batch,
        "ways": rows,
        "flops_per_image": {f"{name} {mode}": value for (name, mode), value in limits.flops.items()},
        "layers": limits.layers(),
        "profile": profile,
        "settings": {"recipe": RECIPE, **plain.model_dump(mode="json", include={"method", "generator"})},
    }


def take_turns(ways: dict[str, Way], rounds: int, device: torch.device) -> dict[str, dict[str, Any]]:
    """Time one iteration of each way in every round, each round beginning with another way."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    made: dict[str, list[Made]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            taken, done = clock(ways[name].iterate, device)
            seconds[name].append(taken)
            made[name].append(done)
        print(
            f"round {number + 1}/{rounds}:", {name: round(taken[-1], 3) for name, taken in seconds.items()}, flush=True
        )
    return {
        name: {
            "seconds": spread(seconds[name]),
            "speedup": spread([theirs / own for theirs, own in zip(seconds[PUBLISHED], seconds[name], strict=True)]),
            "kept": statistics.fmean(float(share) for done in own for share in done.kept),
            "shortfall": statistics.fmean(float(share) for done in own for share in done.shortfall),
            "rounds_per_step": statistics.fmean(number for done in own for number in done.rounds),
        }
        for name, own in made.items()
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return median, least and most, and the values themselves."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": list(values)}


def count(way: Way) -> dict[str, Any]:
    """Count one iteration: images per network and pass, and all floating-point operations that torch knows of."""
    with counted(way.networks) as seen, FlopCounterMode(display=False) as counter:
        done = way.iterate()
    return {
        "counts": seen,
        "counted_rounds": done.rounds,
        "counted_kept": [float(share) for share in done.kept],
        "flops": counter.get_total_flops(),
    }


def trained(files: list[Path]) -> dict[tuple[int, int, int], tuple[Network, str]]:
    """Load teachers, by the size of their images, with what is said of their weights."""
    networks = [(load_network(path), f"trained, {path.name}") for path in files]
    return {network.card.input_size: (network, text) for network, text in networks}


def main(
    output: Annotated[Path, typer.Argument(help="JSON file; what is not measured now stays in it.")],
    pairs: Annotated[str, typer.Option(help=f"Pairs, separated by commas: {', '.join(PAIRS)}.")] = ",".join(PAIRS),
    batch: Annotated[int, typer.Option(help="Images per batch; 0: each pair's own.")] = 0,
    rounds: int = 5,
    warmup: int = 1,
    teacher: Annotated[list[Path], typer.Option(help="A trained teacher for the pair of its image size.")] = [],  # noqa: B006
    seed: int = 0,
    device: str = "auto",
    threads: Annotated[int, typer.Option(help="torch's threads; 0: as they are.")] = 0,
    ranks: Annotated[bool, typer.Option("--ranks", help="Measure one and two processes, too.")] = False,
    growth: Annotated[bool, typer.Option("--growth", help="Measure growth, too.")] = False,
    base: Annotated[list[str], typer.Option(help="Change growth's base point, such as batch=128.")] = [],  # noqa: B006
    growth_student: str = "lenient:resnet8",
    growth_rounds: int = 3,
    precision: Annotated[str, typer.Option(help="Precision of growth.")] = "bf16",
    augmentation: Annotated[str, typer.Option(help="Views of growth.")] = "crop-flip",
    cap: Annotated[float, typer.Option(help="Seconds after which a point of growth begins no iteration.")] = 120.0,
    table: Annotated[Path | None, typer.Option(help="Write the page from OUTPUT, and run nothing.")] = None,
) -> None:
    """Measure, and write what came of it after each part."""
    written: dict[str, Any] = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {"pairs": {}}
    if table is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(page(written, output.name), encoding="utf-8")
        if "growth" in written:
            (table.parent / FILE).parent.mkdir(exist_ok=True)
            (table.parent / FILE).write_text(curves(written["growth"]), encoding="utf-8")
        return
    if threads:
        torch.set_num_threads(threads)
    place = resolve_device(device)
    files = trained(teacher)
    for name in filter(None, pairs.split(",")):
        pair = PAIRS[name]
        given, weights = files.get(pair.size) or (random_teacher(pair.teacher, pair.size, CLASSES, seed), RANDOM)
        found = compare(pair, given, batch or pair.batch, place, rounds, warmup, seed)
        how = {"teacher_weights": weights, "rounds": rounds, "warmup": warmup, "seed": seed}
        written["pairs"][name] = found | how | {"machine": machine(place)}
        store(output, written)
    if ranks:
        written["ranks"] = {"rows": scaling(rounds), "rounds": rounds, "machine": machine(place)}
        store(output, written)
    if growth:
        fixed = {"student": growth_student, "device": str(place), "precision": precision, "augmentation": augmentation}
        written["growth"] = grow(base_point(base), growth_rounds, cap, fixed) | {"machine": machine(place)}
        store(output, written)


def machine(device: torch.device) -> dict[str, Any]:
    """Return what may change figures, but the command, which names local paths, and one precision of two."""
    facts = environment(device, "")
    return {key: value for key, value in facts.items() if key not in ("command", "precision")}


def store(output: Path, written: dict[str, Any]) -> None:
    """Write the JSON file."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
