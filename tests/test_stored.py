"""What is read back from folders: a damaged file is named in one line, whatever it holds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from lenient.core import schemas
from lenient.core.errors import DamagedError

CARD = {"input_size": [1, 8, 8], "num_classes": 10, "mean": [0.3], "std": [0.4], "outputs": "logits"}
CONFIG: dict[str, Any] = {
    "method": {"name": "noise"},
    "steps": 20,
    "batch_size": 16,
    "steps_per_epoch": 10,
    "device": "cpu",
    "run": {
        "teacher": {"source": "t.safetensors", "sha256": "0" * 64, "facts": {"arch": None}, "card": CARD},
        "student": {"arch": "lenient:resnet8", "reason": "asked for"},
        "eval_data": None,
    },
}
COST = {"step": 5, "cpu_seconds": 1.5, "peak_bytes": 10}


def config_file(folder: Path, **changes: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG | changes))
    return path


def said(path: Path, call: Any) -> str:
    with pytest.raises(DamagedError) as caught:
        call()
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) <= 300
    return text


def test_a_sound_config_comes_back_as_it_is(tmp_path: Path) -> None:
    assert schemas.read_config(config_file(tmp_path)) == CONFIG
    assert schemas.read_config(tmp_path / "none.yaml") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "5",
        "[1]",
        "a: [1",
        "\tx",
        "[" * 3000,
        '{"a":' * 2000,
        "run: 5",
        "steps: 2020-13-77",
        "a: !!python/x 1",
    ],
)
def test_a_config_of_another_kind_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    said(path, lambda: schemas.read_config(path))


@pytest.mark.parametrize(
    "changes",
    [
        *({"steps": value} for value in (10**30, -1, True, "x", None, float("inf"))),
        *({"batch_size": value} for value in (10**12, 0)),
        *({"run": value} for value in (5, [], {}, {"teacher": []})),
        {"run": CONFIG["run"] | {"student": {"arch": 5}}},
        {"run": CONFIG["run"] | {"teacher": CONFIG["run"]["teacher"] | {"facts": {"bogus": 1}}}},
        {"run": CONFIG["run"] | {"teacher": CONFIG["run"]["teacher"] | {"source": "x" * 30_000}}},
        {"run": CONFIG["run"] | {"teacher": CONFIG["run"]["teacher"] | {"card": CARD | {"mean": [float("nan")]}}}},
    ],
)
def test_a_value_that_cannot_be_is_named_with_the_cure(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = config_file(tmp_path, **changes)
    assert "--overwrite" in said(path, lambda: schemas.read_config(path))


@pytest.mark.parametrize(
    "line",
    [
        *({"event": "log", "step": value} for value in (-1, 10**30, "x", None, True, 1.5)),
        {"event": "log", "step": 1, "loss/x": "high"},
        {"event": "eval", "step": 1, "accuracy": 7},
        {"event": "end", "health": 5},
        {"event": 5},
        {"step": 1},
    ],
)
def test_a_line_that_cannot_be_is_named_by_its_number(tmp_path: Path, line: dict[str, Any]) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"event": "log", "step": 1}}\n{json.dumps(line)}\n{{"event": "log", "step": 3}}\n')
    assert "line 2 is damaged" in said(path, lambda: schemas.read_metrics(path))


def test_a_last_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "log", "step": 1}\n{"event": "lo')
    assert schemas.read_metrics(path) == [{"event": "log", "step": 1}]


@pytest.mark.parametrize(
    "text", ["NaN", "1e999", "9" * 5000, '{"a": Infinity}', "[" * 100_000, "", "null", "[1]", "\x00"]
)
def test_json_of_another_kind_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    said(path, lambda: schemas.read_json(path, schemas.Report, "write it again"))


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "env.json"
    with open(path, "wb") as file:
        file.truncate(2**40)
    assert "MiB" in said(path, lambda: schemas.read_json(path, schemas.Environment, "remove it"))


def test_400_damaged_files_end_in_one_line_or_are_sound(tmp_path: Path) -> None:
    chance, named, wrong = random.Random(0), 0, 0
    readers: dict[str, tuple[str, Any]] = {
        "config.yaml": (yaml.safe_dump(CONFIG), schemas.read_config),
        "metrics.jsonl": ('{"event": "log", "step": 1, "loss/x": 0.5}\n' * 4, schemas.read_metrics),
        "cost.jsonl": (json.dumps(COST), lambda path: schemas.read_json(path, schemas.Cost, "remove it")),
        "report.json": ('{"health": {"verdict": "ok"}}', lambda path: schemas.read_json(path, schemas.Report, "again")),
    }
    for number in range(400):
        name = list(readers)[number % 4]
        text, read = readers[name]
        content = bytearray(text.encode())
        for _ in range(chance.randint(1, 8)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path = tmp_path / name
        path.write_bytes(bytes(content[: chance.randint(0, len(content))]))
        try:
            read(path)
        except DamagedError as error:
            named += 1
            wrong += name not in str(error) or len(str(error)) > 300
    assert named > 200
    assert not wrong
