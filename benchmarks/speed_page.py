"""The page of `speed.py`: every figure on it is read or computed from the JSON file."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from published import STUDENT_STEPS
from speed_curves import FILE
from speed_text import duration, figures, machine, spread, table, wrapped

NAMES = {
    "published": "as released",
    "32/none": "ours, float32, one view",
    "32/crop-flip": "ours, float32, two views",
    "bf16/none": "ours, bfloat16, one view",
    "bf16/crop-flip": "ours, bfloat16, two views",
    "bf16, overlap/none": "ours, bfloat16, overlap, one view",
    "bf16, overlap/crop-flip": "ours, bfloat16, overlap, two views",
    "bf16, compiled/none": "ours, bfloat16, compiled, one view",
    "bf16, compiled/crop-flip": "ours, bfloat16, compiled, two views",
}
COUNTS = {
    "teacher forward": "teacher forward",
    "teacher backward": "teacher backward",
    "teacher weights": "of it to weights",
    "student forward": "student forward",
    "student backward": "student backward",
    "student weights": "of it to weights",
    "generator forward": "generator forward",
    "generator backward": "generator backward",
}
HEADS = {"batch": "batch", "size": "pixels a side", "classes": "classes", "teacher": "teacher"}
FULL_BATCH = 1024
FULL_RUNS = (("CIFAR-10", 32, 10, 72_000), ("Tiny-ImageNet", 64, 200, 180_000), ("ImageNet", 224, 1000, 180_000))
"""Data, pixels a side, classes, student steps: the paper's, but for ImageNet, which it does not have."""
DEVICES = (1, 8, 64)


def page(written: Mapping[str, Any], name: str) -> str:
    """Return the page; `name` is the JSON file's."""
    lines = [
        "# Speed and memory",
        "",
        *wrapped(
            f"Written by `benchmarks/speed.py` from `{name}`; no figure is typed. One *outer iteration* is ten student "
            "steps and one generator step of TA-DFKD."
        ),
    ]
    for pair in written["pairs"].values():
        lines += ["", *_pair(pair)]
    if "ranks" in written:
        lines += ["", *_ranks(written["ranks"])]
    if "growth" in written:
        lines += ["", *_growth(written["growth"])]
    lines += full_runs(written)
    lines += ["", "## Commands", "", "```bash", *_commands(written, f"benchmarks/results/{name}"), "```"]
    return "\n".join(lines) + "\n"


def _pair(pair: Mapping[str, Any]) -> list[str]:
    size = "x".join(str(number) for number in pair["size"])
    ways = {NAMES[name]: way for name, way in pair["ways"].items()}
    return [
        f"## `{pair['teacher']}` to `{pair['student']}`, {size}, batch {pair['batch']}",
        "",
        *wrapped(
            f"{machine(pair['machine'])}. Teacher: {pair['teacher_weights']}. Median (least to most) of "
            f"{pair['rounds']} rounds in which all ways take turns, after {pair['warmup']} warm-up. *Times as fast*: "
            "the ratio to the released procedure within each round. It always makes two views, so the ways with two "
            "are its like. Rounds of synthesis for a student batch follow from the share that the teacher vouches for "
            "(*kept*), which differs with the images drawn. *Rejects*: the share of student batches that is not "
            "vouched for, because there were too few rounds. *Overlap*: the next step's images are made on half of "
            "the threads while the student learns, which `overlap: auto` takes where a trial finds it faster."
        ),
        "",
        *table(
            ["way", "seconds", "times as fast", "kept", "rounds per student step", "rejects"],
            [
                [
                    name,
                    spread(way["seconds"]["values"]),
                    "1" if name == NAMES["published"] else spread(way["speedup"]["values"]),
                    f"{way['kept']:.0%}",
                    f"{way['rounds_per_step']:.2f}",
                    f"{way['shortfall']:.1%}",
                ]
                for name, way in ways.items()
            ],
        ),
        "",
        *wrapped(
            "Images that went through each network in one more iteration, which was not timed, and all floating-point "
            "operations of that iteration. A backward pass goes to the inputs; where it fills weight gradients as well "
            "it costs about twice as much."
        ),
        "",
        *table(
            ["way", *COUNTS.values(), "Gflop"],
            [
                [name, *(f"{way['counts'][key]:,}" for key in COUNTS), figures(way["flops"] / 1e9)]
                for name, way in ways.items()
            ],
        ),
        "",
        *wrapped(
            "The limit is the time that the convolutions and linear layers of the fewest passes would take alone, each "
            "at the best speed that the same layer reaches by itself on this machine. The fewest passes follow from "
            "each way's own kept share. `benchmarks/speed_limit.py` has the definition."
        ),
        "",
        *table(
            ["way", "Gflop needed", "limit, seconds", "Gflop/s at the limit", "limit / time"],
            [
                [
                    name,
                    figures(way["needed_flops"] / 1e9),
                    figures(way["limit_seconds"]),
                    figures(way["needed_flops"] / way["limit_seconds"] / 1e9),
                    f"{way['share_of_limit']:.0%}",
                ]
                for name, way in ways.items()
            ],
        ),
        "",
        *_profile(pair["profile"]),
    ]


def _profile(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        *wrapped("Where the host's time goes in one iteration of ours in bfloat16 with one view, by torch's profiler."),
        "",
        *table(
            ["operator", "share", "calls"],
            [[f"`{row['operator']}`", f"{row['share']:.1%}", f"{row['calls']:,}"] for row in rows],
        ),
    ]


def _ranks(found: Mapping[str, Any]) -> list[str]:
    alone = {row["pair"]: row["seconds"] for row in found["rows"] if (row["processes"], row["threads"]) == (1, 1)}
    rows = [
        [
            row["pair"],
            f"{row['batch']}",
            f"{row['processes']}",
            f"{row['threads']}",
            spread(row["seconds"]),
            f"{statistics.median(alone[row['pair']]) / statistics.median(row['seconds']):.2f}",
        ]
        for row in found["rows"]
    ]
    return [
        "## Several processes",
        "",
        *wrapped(
            f"{machine(found['machine'])} here and there, see the table. One outer iteration of ours, bfloat16, one "
            f"view, random teachers, the same batch on all processes together: median (least to most) of "
            f"{found['rounds']} after a warm-up."
        ),
        "",
        *table(["pair", "batch", "processes", "threads each", "seconds", "times as fast as one thread"], rows),
    ]


def _growth(growth: Mapping[str, Any]) -> list[str]:
    base = growth["base"]
    lines = [
        "## Growth",
        "",
        *wrapped(
            f"{machine(growth['machine'])}. The library's loop from `{base['teacher']}` to `{growth['student']}`, "
            f"batch {base['batch']}, {base['size']}x{base['size']} pixels, {base['classes']} classes, precision "
            f"{growth['precision']}, augmentation {growth['augmentation']}, random teachers, "
            f"{growth['synthesis_rounds']} rounds of synthesis for each student batch; one value changed at a time, "
            "each in a process of its own."
        ),
        "",
        *wrapped(
            f"Seconds are an outer iteration's, divided by its {STUDENT_STEPS} student steps: median (least to most) "
            f"of {growth['rounds']} at most. The factor is to the line above. Memory is the process's peak (on a GPU: "
            "the device's), of which *before* was there without a network. A point begins no iteration that would end "
            f"after {figures(growth['cap'])} s: with `*` its first one, the warm-up, is all there is. After twice "
            "that time it is ended. The dotted line is in proportion to the number of images, or of pixels."
        ),
        "",
        f"![Time and memory of student steps against batch, image size, classes and teacher]({FILE})",
    ]
    for axis, points in growth["axes"].items():
        rows: list[list[str]] = []
        above: float | None = None
        for point in points:
            seconds = _median(point)
            factor = f"{seconds / above:.2f}" if seconds and above else "-"
            above = seconds or above
            rows.append([f"{point[axis]}", *(_measured(point, factor) if seconds else _missing(point))])
        heads = [HEADS[axis], "seconds per student step", "factor", "ms per image", "peak MiB", "before, MiB"]
        lines += ["", *table(heads, rows)]
    return lines


def _measured(point: Mapping[str, Any], factor: str) -> list[str]:
    seconds = spread(point["seconds_per_step"]) + ("" if point["warm"] else " *")
    per_image = 1e3 * statistics.median(point["seconds_per_step"]) / point["batch"]
    memory = [f"{point[key] / 2**20:,.0f}" for key in ("peak_bytes", "bytes_before")]
    return [seconds, factor, figures(per_image), *memory]


def _missing(point: Mapping[str, Any]) -> list[str]:
    return ["over the time" if point["ended"] == "time" else f"ended: {point['ended']}", *["-"] * 4]


def full_runs(written: Mapping[str, Any]) -> list[str]:
    """Return the section that estimates whole runs; nothing where the pair or the growth is missing."""
    pair, growth = written["pairs"].get("cifar"), written.get("growth")
    if pair is None or growth is None:
        return []
    name, way = min(
        ((name, way) for name, way in pair["ways"].items() if name.endswith("/crop-flip")),
        key=lambda item: float(item[1]["seconds"]["median"]),
    )
    per_image = way["seconds"]["median"] / (STUDENT_STEPS * pair["batch"])
    rows = []
    for data, size, classes, steps in FULL_RUNS:
        larger = relative(growth["axes"]["size"], "size", pair["size"][1], size, power=2)
        more = relative(growth["axes"]["classes"], "classes", 10, classes, power=1)
        if larger is None or more is None:
            continue
        seconds = per_image * FULL_BATCH * steps * larger[0] * more[0]
        factors = [f"{factor:.2f}{'' if known else ' *'}" for factor, known in (larger, more)]
        rows.append([data, f"{steps:,}", *factors, *(duration(seconds / count) for count in DEVICES)])
    heads = ["data", "student steps", "size factor", "classes factor"]
    heads += [f"{count} device{'' if count == 1 else 's'}" for count in DEVICES]
    assumed = (
        f"One device is the machine of the first table. Time is linear in images: a step of {FULL_BATCH} takes as long "
        f"per image as one of {pair['batch']}, {figures(1e3 * per_image)} ms ({NAMES[name]}; `{pair['teacher']}` to "
        f"`{pair['student']}`; {pair['teacher_weights']}; kept: {way['kept']:.0%}).",
        "Larger images and more classes cost the factors that the tables of growth have, though for other networks. "
        "With `*` a value was not measured: between two points it is interpolated, beyond the last one time grows with "
        "the number of pixels and of classes.",
        "Several devices divide the time by their number. Such perfect scaling was not measured.",
        "Steps are the paper's. It has no ImageNet; there Tiny-ImageNet's stand.",
        "Log lines, evaluations and checkpoints take no time.",
    )
    lines = ["", "## What whole runs would take", "", "Estimates, not measurements. They assume:", ""]
    for text in assumed:
        lines += wrapped(text, "- ")
    return [*lines, "", *table(heads, rows)]


def relative(
    points: Sequence[Mapping[str, Any]], axis: str, start: float, value: float, power: int
) -> tuple[float, bool] | None:
    """Return how many times the time at `start` an axis has at `value`, and whether both were measured.

    Between two points it is interpolated; beyond the last one it grows with `power` of the axis. None where nothing was
    measured up to `start`.
    """
    known = sorted((float(point[axis]), _median(point) or 0.0) for point in points if _median(point))
    if not known or min(start, value) < known[0][0]:
        return None

    def at(place: float) -> float:
        below = max(item for item in known if item[0] <= place)
        above = min((item for item in known if item[0] >= place), default=None)
        if above is None:
            return below[1] * (place / below[0]) ** power
        if above[0] == below[0]:
            return below[1]
        return below[1] + (above[1] - below[1]) * (place - below[0]) / (above[0] - below[0])

    return at(value) / at(start), {start, value} <= {place for place, _ in known}


def _commands(written: Mapping[str, Any], path: str) -> list[str]:
    """Return the commands that measure the same again; trained teachers' files are named without their folder."""
    start = f"python benchmarks/speed.py {path}"
    lines = []
    for name, pair in written["pairs"].items():
        options = "".join(f" --{key} {pair[key]}" for key in ("batch", "rounds", "warmup", "seed"))
        weights = pair["teacher_weights"].partition("trained, ")[2]
        options += f" --threads {pair['machine']['threads']}" + (f" --teacher {weights}" if weights else "")
        lines.append(f"{start} --pairs {name}{options}")
    if "ranks" in written:
        found = written["ranks"]
        lines.append(f'{start} --pairs "" --ranks --rounds {found["rounds"]} --threads {found["machine"]["threads"]}')
    if "growth" in written:
        growth = written["growth"]
        options = "".join(f" --base {axis}={value}" for axis, value in growth["base"].items())
        options += f" --growth-student {growth['student']} --growth-rounds {growth['rounds']} --cap {growth['cap']:g}"
        options += f" --precision {growth['precision']} --augmentation {growth['augmentation']}"
        lines.append(f'{start} --pairs "" --growth{options} --threads {growth["machine"]["threads"]}')
    return [*lines, f"{start} --table results/performance.md"]


def _median(point: Mapping[str, Any]) -> float | None:
    return statistics.median(point["seconds_per_step"]) if point["seconds_per_step"] else None
