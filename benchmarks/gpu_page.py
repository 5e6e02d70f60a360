"""The page of `gpu.py`: every figure on it is read or computed from the JSON files; what is not there is left empty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speed_text import duration, figures, machine, spread, table, wrapped

WAYS = {
    "published": "as released",
    "32/crop-flip": "ours, float32, two views",
    "bf16/crop-flip": "ours, bfloat16, two views",
    "bf16/none": "ours, bfloat16, one view",
    "bf16, tried/crop-flip": "ours, bfloat16, two views, cuDNN's algorithms tried",
    "bf16, compiled/crop-flip": "ours, bfloat16, two views, compiled",
}
BATCHES = (256, 1024)
TABLE_3 = 72_000 * 1024
"""Images that the student of a cell of the paper's Table 3 learns from, on CIFAR-10."""
RUNS = {"paper": "the paper's protocol, shortened", "default": "the library's defaults"}
Found = Mapping[str, Any]


def page(pieces: Mapping[str, Found]) -> str:
    """Return the page; a piece that was not measured is empty."""
    lines = [
        "# On a GPU",
        "",
        *wrapped(
            "Written by `benchmarks/gpu.py` from what it measured; no figure is typed. It takes nine minutes on a "
            "machine with one CUDA card, in four pieces that each write `OUT/PIECE.json` at once. A second call goes "
            "on from what OUT holds, or `--earlier FOLDER`."
        ),
        "",
        *_state(pieces),
        "",
        "```bash",
        "LENIENT_DATA=data python benchmarks/gpu.py OUT",
        "python benchmarks/gpu.py OUT --only speed --only distil",
        "python benchmarks/gpu.py OUT --table results/gpu.md",
        "```",
        "",
        *wrapped(
            "`OUT` also holds the teacher's weights, in parts of at most 15 MB; the project keeps the JSON files, in "
            "`benchmarks/results/gpu`. `lenient` and what it needs have to be installed; where the machine has all but "
            "`lenient`, `pip install --no-deps .` leaves its torch alone. `--device cpu --toy` runs all of it small, "
            "to see that it runs."
        ),
        *_speed(pieces["speed"]),
        *_teacher(pieces["teacher"]),
        *_distil(pieces["distil"]),
        *_tests(pieces["tests"]),
    ]
    return "\n".join(lines) + "\n"


def _state(pieces: Mapping[str, Found]) -> list[str]:
    rows = []
    for name, found in pieces.items():
        state = "measured" if found.get("done") else "in part" if found else "not measured"
        where = machine(found["machine"]).removeprefix("Machine: ") if found else "-"
        rows.append([f"`{name}`", state + (", a toy" if found.get("toy") else ""), where, found.get("error", "-")])
    return table(["piece", "", "machine", "error"], rows)


def _speed(found: Found) -> list[str]:
    known = found.get("batches", {})
    lines = [
        "",
        "## Speed",
        "",
        *wrapped(
            "One outer iteration, ten student steps and one generator step, of TA-DFKD from "
            f"`{found.get('teacher', 'lenient:resnet34')}` to `{found.get('student', 'lenient:resnet18')}`, as in "
            "[the measurements on a CPU](performance.md). The teacher's weights: "
            f"{found.get('weights', 'those of the piece `teacher`')}. Images/s: those that the student learns from. "
            "The released procedure makes two views. *Times as fast*: as the released procedure, by images/s; 20 are "
            "aimed at. *Of the convolutions*: the time that convolutions and linear layers would take alone, each at "
            "its best on this card, over the time; half is aimed at. *Busy*: the share of an iteration in which the "
            "card works; far below 100 %, launches are the limit. A cell of Table 3: 72,000 steps of 1,024 images at "
            "that speed, extrapolated and not run; 30 minutes are aimed at."
        ),
    ]
    for batch in map(int, known) if found.get("toy") else BATCHES:
        rows = [[WAYS[name], *_row(known.get(str(batch), {}), name)] for name in WAYS]
        heads = ["way", "seconds", "images/s", "times as fast", "of the convolutions", "peak MiB", "launches", "busy"]
        lines += ["", f"Batch {batch}:", "", *table([*heads, "a cell of Table 3"], rows)]
    return lines


def _row(rows: Found, name: str) -> list[str]:
    row = rows.get(name, {})
    if "seconds" not in row:
        return [row.get("error", ""), *[""] * 7]
    released = rows.get("published", {}).get("images_per_second")
    launches = row.get("launches")
    return [
        spread(row["seconds"]["values"]),
        figures(row["images_per_second"]),
        figures(row["images_per_second"] / released) if released else "",
        f"{row['share_of_limit']:.0%}" if "share_of_limit" in row else "",
        f"{row['peak_bytes'] / 2**20:,.0f}",
        f"{launches:,}" if launches else "",
        f"{row['busy']:.0%}" if launches else "",
        duration(TABLE_3 / row["images_per_second"]),
    ]


def _teacher(found: Found) -> list[str]:
    lines = ["", "## A teacher", ""]
    if "curve" not in found:
        return [*lines, *wrapped("A ResNet-34 on CIFAR-10; 94 % are aimed at, in two minutes. Not measured.")]
    recipe = found["recipe"]
    accuracy = f"{found['accuracy']:.2%}" if "accuracy" in found else ""
    return [
        *lines,
        *wrapped(
            f"{found['data']}, {recipe['epochs']} epochs of batches of {recipe['batch_size']}, {found['precision']}; "
            f"accuracy on test images, as kept in half precision: {accuracy or 'not measured'}. 94 % are aimed at."
        ),
        "",
        *table(["epoch", "seconds", "accuracy"], [_point(point, "epoch") for point in _some(found["curve"])]),
    ]


def _distil(found: Found) -> list[str]:
    lines = ["", "## Distillation", ""]
    runs = found.get("runs", {})
    if not runs:
        return [*lines, *wrapped("TA-DFKD from that teacher to a ResNet-18, in the minutes left. Not measured.")]
    for name, words in RUNS.items():
        lines += [f"### {words[0].upper()}{words[1:]}", ""]
        run = runs.get(name)
        if run is None:
            lines += ["Not measured.", ""]
            continue
        lines += [
            *wrapped(
                f"{run['steps']:,} steps (the whole has {run['full_steps']:,}) of {run['batch']:,} images, "
                f"{figures(run['images_per_second'])} images/s with evaluations, verdict `{run['verdict']}`. One seed."
            ),
            "",
            *table(["step", "seconds", "accuracy"], [_point(point, "step") for point in _some(run["curve"])]),
            "",
        ]
    return lines[:-1]


def _point(point: Found, key: str) -> list[str]:
    return [f"{point[key]:,}", figures(point["seconds"]), f"{point['accuracy']:.2%}"]


def _some(curve: list[Found], most: int = 10) -> list[Found]:
    """About `most` points of a curve, the last among them."""
    every = max(-(-len(curve) // most), 1)
    return [point for place, point in enumerate(curve, 1) if place % every == 0 or place == len(curve)]


def _tests(found: Found) -> list[str]:
    lines = ["", "## Tests", ""]
    about = (
        "`pytest -m gpu`: every method three updates beside the CPU, bfloat16, compiled, resumed, without waiting for "
        "the card, two processes."
    )
    if "outcomes" not in found:
        return [*lines, *wrapped(f"{about} Not measured.")]
    counts = {kind: list(found["outcomes"].values()).count(kind) for kind in sorted(set(found["outcomes"].values()))}
    lines += wrapped(f"{about} {', '.join(f'{count} {kind}' for kind, count in counts.items())}.")
    failed = [name for name, outcome in found["outcomes"].items() if outcome in ("failed", "error")]
    return [*lines, *(["", *(f"- `{name}`" for name in failed)] if failed else [])]
