"""`cell.json`: what came of one cell, read from its run folder."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lenient
from lenient.bench.open_rows import AUTO
from lenient.core.numbers import plain, significant
from lenient.core.schemas import ANEW, damaged, read_metrics
from lenient.runs.folder import RunFolder

LOGGED = {"kept": "health/kept", "gradient_cosine": "loss/gradient_cosine", "bn_distance": "health/bn_distance"}
"""What the record keeps of each log line, where the method has it, and its name there."""
EXPECTED = ("low", "expected", "high")
"""Of what was expected of the student on real images, before any was seen."""
MACHINE = ("device_name", "threads", "torch", "precision", "python", "lenient")


def cell_record(
    spec: Mapping[str, Any], run: Path, cost: Mapping[str, Any], commit: str | None, data_title: str
) -> dict[str, Any]:
    """Return the record of a finished cell. Fractions lie in [0, 1], numbers have six significant digits.

    `method` is the one that ran; `asked` is `auto` where the teacher chose it, and `fell_back` says which one it had
    chosen, and for how many steps, where the run left that. `commit` is that of the code when the cell, or its last
    attempt, was started; `data_title` says what the copy of the data on this machine is ("CIFAR-10 (JPEG)").

    `checks` are the values that the verdict came of; `prediction` is what the run expected of the student's agreement,
    where it said so.

    `last`, `mean`, `variance` (of the evaluations themselves, not an estimate), `acc_max` and `curve` are accuracies on
    test images; `agreement` is with the teacher on them. `transductive` holds the same by statistics of the test batch,
    of a student that learned by those of its batches and whose own were estimated anew on `estimated_on` images. `log`
    has one list for each quantity, as long as `step`.
    """
    events = read_metrics(run / "metrics.jsonl")
    end = next((event for event in reversed(events) if event["event"] == "end"), None)
    curve = [[event["step"], event["accuracy"]] for event in events if event["event"] == "eval"]
    accuracies = [value for _, value in curve]
    config = RunFolder(run).read_config()
    if end is None or config is None or not accuracies:
        raise damaged(run, "its settings, its end or its evaluations are missing", ANEW)
    machine = RunFolder(run).read_env()
    student, health = end["student"], end["health"]
    transductive = _transductive(events, student.get("transductive"))
    record = {
        "id": spec["id"],
        "row": spec["row"],
        "method": config["method"]["name"],
        **({"asked": AUTO} if spec["method"] == AUTO else {}),
        "teacher": {key: value for key, value in spec["teacher"].items() if key != "path"},
        "num_classes": config["run"]["teacher"]["card"]["num_classes"],
        "student": spec["student"],
        "seed": spec["seed"],
        "data": spec["data"],
        "data_title": data_title,
        "steps": end["steps"],
        "batch_size": config["batch_size"],
        "steps_per_epoch": config["steps_per_epoch"],
        "settings": config["method"],
        **({"generator": config["generator"]} if "generator" in config else {}),
        "verdict": health["verdict"],
        "reasons": health["reasons"],
        "checks": {check["name"]: check["value"] for check in health["checks"]},
        "last": accuracies[-1],
        "acc_last_k": student["acc_last_k"],
        "k": student["k"],
        "acc_max": student["acc_max"],
        "mean": statistics.fmean(accuracies),
        "variance": statistics.pvariance(accuracies),
        "agreement": student["agreement"],
        "teacher_accuracy": end["teacher"]["accuracy"],
        "curve": curve,
        "curve_seconds": [event.get("seconds") for event in events if event["event"] == "eval"],
        "answers": end.get("answers"),
        **({} if transductive is None else {"estimated_on": end["estimated_on"], "transductive": transductive}),
        "log": logged([event for event in events if event["event"] == "log"]),
        "cost": {
            "seconds": end["seconds"],
            "cpu_seconds": cost.get("cpu_seconds"),
            "images": end["images_synthesized"],
            "teacher_forwards": end["teacher_forwards"],
            "peak_bytes": cost.get("peak_bytes"),
        },
        "machine": {key: machine.get(key) for key in MACHINE},
        "commit": commit,
    }
    if end.get("fell_back"):
        record["fell_back"] = end["fell_back"]
    if end.get("prediction"):
        record["prediction"] = {key: end["prediction"][key] for key in EXPECTED}
    if end.get("foreign"):
        record["foreign"] = end["foreign"]
    pictures = config.get("source", {})
    if pictures.get("proxy_images") is not None:
        record["source"] = {key: value for key, value in pictures.items() if key != "proxy_images"}
    rounded_record: dict[str, Any] = plain(record, significant)
    return rounded_record


def _transductive(events: Sequence[Mapping[str, Any]], found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what a student is measured at by statistics of the test batch; None of one that learned by stored ones."""
    if found is None:
        return None
    curve = [[event["step"], event["transductive"]] for event in events if event["event"] == "eval"]
    accuracies = [value for _, value in curve]
    return {
        "last": accuracies[-1],
        "acc_last_k": found["acc_last_k"],
        "acc_max": found["acc_max"],
        "mean": statistics.fmean(accuracies),
        "variance": statistics.pvariance(accuracies),
        "agreement": found["agreement"],
        "curve": curve,
    }


def logged(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns of the log that the record keeps; a quantity that no line has is absent."""
    columns = {name: [line.get(key) for line in lines] for name, key in LOGGED.items()}
    kept = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    return {"step": [line["step"] for line in lines], **kept}


def commit() -> str | None:
    """Return the git commit of the checkout that the package lies in, `-dirty` added where files differ from it.

    None where the package is installed: a repository that an environment happens to lie in says nothing.
    """
    home = Path(lenient.__file__).parent
    described = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    try:
        for arguments in (("ls-files", "--error-unmatch", "__init__.py"), described):
            done = subprocess.run(
                ["git", *arguments], cwd=home, capture_output=True, text=True, check=True, encoding="utf-8"
            )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None
