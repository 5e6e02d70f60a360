"""Collect what runs measured, and write the README's table from it: no figure is typed.

    python benchmarks/results.py add benchmarks/results/mnist.json runs/mnist-0 runs/mnist-1 ...
    python benchmarks/results.py table
    python benchmarks/results.py methods

`add` stores of each run what its folder says: command, settings, machine, accuracies, verdict. `table` rewrites the
part of README.md between the two `results` comments from every file in `benchmarks/results/` that `add` wrote;
`methods` that between the two `methods` comments, as `lenient methods --markdown` prints it.
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from lenient.cli.methods import markdown as table_of_methods
from lenient.methods import DEFAULT

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
RESULTS, METHODS = "results", "methods"

app = typer.Typer()


@app.command()
def add(
    output: Path,
    runs: list[Path],
    where: Annotated[str, typer.Option(help="What the machine was held to, which runs do not know.")] = "",
) -> None:
    """Store what RUNS say about themselves in OUTPUT, in place of what it held."""
    rows = [read(run) for run in runs]
    written = ({"where": where} if where else {}) | {"runs": rows}
    output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(f"{output}: {len(rows)} runs")


def read(run: Path) -> dict[str, Any]:
    """Return one run's row."""
    report, env = (json.loads((run / name).read_text(encoding="utf-8")) for name in ("report.json", "env.json"))
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    kept = ("method", "seed", "steps", "seconds", "eval_data", "teacher", "student", "noise_student")
    return {
        **{key: report[key] for key in kept if key in report},
        "verdict": report["health"]["verdict"],
        "command": re.sub(r"\S*/", "", " ".join(env["command"])).replace("__main__.py", "python -m lenient"),
        "machine": {key: env[key] for key in ("device_name", "threads", "precision", "torch", "lenient")},
        "settings": {key: value for key, value in config.items() if key not in ("run", "health")},
    }


@app.command()
def table() -> None:
    """Rewrite the table of results in README.md."""
    rewrite(RESULTS, markdown())


@app.command()
def methods() -> None:
    """Rewrite the table of methods in README.md."""
    rewrite(METHODS, table_of_methods())


def rewrite(block: str, table: str) -> None:
    """Put a table between the two comments of a block."""
    text = README.read_text(encoding="utf-8")
    first, last = f"<!-- {block} -->\n", f"<!-- end of {block} -->"
    before, rest = text.split(first)
    README.write_text(f"{before}{first}{table}{last}{rest.split(last)[1]}", encoding="utf-8")


def markdown() -> str:
    """Return the table: one row for each data set, method and pair of networks."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for path in sorted((HERE / "results").glob("*.json")):
        written = json.loads(path.read_text(encoding="utf-8"))
        for run in written.get("runs", []):
            if "eval_data" not in run:  # a table of another command
                continue
            names = (run["teacher"].get("arch") or "own", run["student"].get("arch") or "own")
            data = ", ".join(filter(None, (run["eval_data"], written.get("where"))))
            groups.setdefault((data, called(run), *names), []).append(run)
    lines = [
        "| data | method | teacher | student | teacher's accuracy | student's accuracy | verdict | minutes | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, runs in sorted(groups.items()):
        if any("noise_student" in run for run in runs):
            lines.append(noise_row(key, [run for run in runs if "noise_student" in run]))
        lines.append(row(key, runs))
    machines = {(run["machine"]["device_name"], run["machine"]["threads"]) for runs in groups.values() for run in runs}
    said = "; ".join(f"{name}, {threads} thread(s)" for name, threads in sorted(machines))
    return "\n".join(lines) + f"\n\nMedian (least to most) over seeds; last step, test images. Machine: {said}.\n"


def called(run: dict[str, Any]) -> str:
    """Return what the method of a run is called: its name, and whose weights it had where they are not those of now."""
    method: str = run["method"]
    weights = run["settings"]["method"]
    if method == "ta-dfkd" and (weights["beta"], weights["entropy_weight"]) != (1, 0):
        return f"{method}, our weights"
    return f"{method}, our default" if method == DEFAULT else method


def row(key: tuple[str, ...], runs: list[dict[str, Any]]) -> str:
    """Return one line of the table."""
    verdicts = ", ".join(sorted({run["verdict"] for run in runs}))
    minutes = statistics.median(run["seconds"] for run in runs) / 60
    accuracies = [run["student"]["accuracy"] for run in runs]
    return line(key, runs, accuracies, verdicts, f"{minutes:.1f}")


def noise_row(key: tuple[str, ...], runs: list[dict[str, Any]]) -> str:
    """Return the line of the noise students that the demo trains beside its own."""
    data, _, *networks = key
    return line((data, "noise", *networks), runs, [run["noise_student"]["accuracy"] for run in runs], "", "")


def line(key: tuple[str, ...], runs: list[dict[str, Any]], accuracies: list[float], verdicts: str, minutes: str) -> str:
    """Write one line, with the networks' sizes."""
    data, method, teacher, student = key
    share = runs[0]["student"]["params"] / runs[0]["teacher"]["params"]
    cells = (
        data,
        method,
        f"{teacher} ({runs[0]['teacher']['params']:,})",
        f"{student} ({runs[0]['student']['params']:,}, {share:.0%})",
        spread([run["teacher"]["accuracy"] for run in runs]),
        spread(accuracies),
        verdicts,
        minutes,
        str(len(runs)),
    )
    return f"| {' | '.join(cells)} |"


def spread(values: list[float]) -> str:
    """Write a median with its range, in percent."""
    middle = f"{statistics.median(values):.2%}"
    same = min(values) == max(values)
    return middle if same else f"{middle} ({min(values):.2%} to {max(values):.2%})"


if __name__ == "__main__":
    app()
