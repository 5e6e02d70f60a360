"""Several runs on one page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import lenient
from commands import lenient as command
from lenient.core.errors import DamagedError, UsageError
from lenient.reporting.compare import CLASSES, write_comparison
from report_fixtures import SUMMARY, Links, make_images, make_run, summary_with

pytestmark = pytest.mark.usefixtures("bare")
BAD = {"verdict": "failed", "reasons": ["no <class> is learned"], "checks": []}


def settings_of(run: Path, **changes: Any) -> None:
    path = run / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """A sound run and a failed one, without a test set, which differ in two settings."""
    first = make_run(tmp_path / "one")
    student = {key: SUMMARY["student"][key] for key in ("arch", "params", "bytes")}
    second = make_run(tmp_path / "two", summary=summary_with(health=BAD, seed=7, student=student, steps=4001), lines=[])
    settings_of(second, seed=7, batch_size=32)
    return [first, second]


def table(page: str, name: str) -> list[list[str]]:
    """The cells of a table by the name of its region, tags left out."""
    found = re.search(rf'aria-label="{name}">(.*?)</table>', page, re.DOTALL)
    assert found, name
    rows = re.findall(r"<tr>(.*?)</tr>", found[1], re.DOTALL)
    return [[re.sub(r"<[^>]*>|\s+", " ", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)]
            for row in rows]  # fmt: skip


def test_the_page_says_what_differs_and_what_came_of_it(runs: list[Path], tmp_path: Path) -> None:
    before = {path: path.read_bytes() for run in runs for path in run.rglob("*") if path.is_file()}
    write_comparison(runs, tmp_path / "both")
    page = (tmp_path / "both/report.html").read_text(encoding="utf-8")
    assert table(page, "Settings that differ") == [
        ["Setting", "one", "two"], ["seed", "0", "7"], ["batch_size", "–", "32"],
    ]  # fmt: skip
    verdicts = table(page, "Verdicts")
    assert [row[0] for row in verdicts[1:]] == ["one", "two"]
    assert "OK" in verdicts[1][1]
    assert verdicts[2][1:] == ["✕ Failed", "no &lt;class&gt; is learned"]
    head, *rows = table(page, "What came of each")
    told = {title: values for title, *values in rows}
    assert head == ["Student", "one", "two"]
    assert told["Accuracy"] == ["96.8 %", "–"]
    assert told["Steps"] == ["4 000", "4 001"]
    assert told["Parameters"] == ["77 562"] * 2
    assert told["64 images"] == ["9.8 ms"] * 2
    assert "Expected agreement" not in told, "nobody has it"
    held = json.loads((tmp_path / "both/report.json").read_text(encoding="utf-8"))
    assert [run["name"] for run in held["runs"]] == ["one", "two"]
    assert {key: value for key, value in held["runs"][0].items() if key != "name"} == SUMMARY
    assert held["settings"] == {"seed": [0, 7], "batch_size": [None, 32]}
    assert before == {path: path.read_bytes() for run in runs for path in run.rglob("*") if path.is_file()}


def test_images_stand_side_by_side_and_nothing_is_fetched(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BARE")
    make_images(runs[1] / "samples", num_classes=3)
    settings_of(third := make_run(tmp_path / "three"), report={"images": False})
    write_comparison([*runs, third], tmp_path / "all")
    page = (tmp_path / "all/report.html").read_text(encoding="utf-8")
    links = Links()
    links.feed(page)
    assert links.unnamed == []
    assert all(link.startswith(("data:", "#")) for link in links.fetched)
    head, *rows = table(page, "Synthetic images")
    assert head == ["Class", "one", "two", "three"]
    assert len(rows) == CLASSES
    assert page.count("<img") == 10 + 3
    assert [row[2] for row in rows] == [""] * 3 + ["–"] * 7
    assert "three: The setting report.images=false keeps" in page


def test_the_same_runs_give_the_same_bytes_and_replace_what_was_there(runs: list[Path], tmp_path: Path) -> None:
    place = tmp_path / "both"
    write_comparison(runs[::-1], place)
    other = (place / "report.html").read_bytes()
    write_comparison(runs, place)
    first = (place / "report.html").read_bytes()
    write_comparison(runs, place)
    assert first == (place / "report.html").read_bytes() != other


def test_runs_of_one_name_are_told_apart_and_equal_settings_are_said_to_be(runs: list[Path], tmp_path: Path) -> None:
    again = shutil.copytree(runs[0], tmp_path / "more/one")
    write_comparison([runs[0], again], tmp_path / "both")
    page = (tmp_path / "both/report.html").read_text(encoding="utf-8")
    assert str(again) in page
    assert "all runs were made with the same settings" in page


def test_what_cannot_be_compared_is_refused_in_a_line(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/report.html").write_text("mine", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    cases: dict[str, tuple[list[Path], Path]] = {
        "1 run.*name as many": (runs[:1], tmp_path / "new"),
        "is named twice": ([runs[0], tmp_path / "two/../one"], tmp_path / "new"),
        "empty is not a run folder": ([*runs, tmp_path / "empty"], tmp_path / "new"),
        "mine: the folder holds other files": (runs, tmp_path / "mine"),
        "holds other files|belongs to no comparison": (runs, runs[0]),
    }
    for message, (named, place) in cases.items():
        with pytest.raises(UsageError, match=message) as caught:
            write_comparison(named, place)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "mine/report.html").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "new").exists()


def test_a_run_that_has_not_ended_and_one_without_settings_are_compared_too(runs: list[Path], tmp_path: Path) -> None:
    (runs[1] / "config.yaml").write_text("- no: [settings", encoding="utf-8")
    part = make_run(tmp_path / "part", summary={})
    settings_of(part, seed=3)
    write_comparison([*runs, part], tmp_path / "all")
    page = (tmp_path / "all/report.html").read_text(encoding="utf-8")
    assert "Unfinished" in page
    assert table(page, "Settings that differ")[1:] == [["seed", "0", "–", "3"]]


def test_the_command_and_the_function(runs: list[Path], tmp_path: Path) -> None:
    done = command("report", "one", "two", "-o", "both", cwd=tmp_path)
    assert done.stdout.strip() == "both/report.html"
    assert "2 runs: give -o DIR" in command("report", "one", "two", cwd=tmp_path, code=2).stderr
    told = lenient.compare(runs, tmp_path / "both")
    assert [(run.seed, run.health.verdict, run.steps) for run in told] == [(0, "ok", 4000), (7, "failed", 4001)]
    make_run(tmp_path / "odd", summary=summary_with(student=None, noise_student={"accuracy": "high"}))
    with pytest.raises(DamagedError, match=r"metrics\.jsonl is damaged"):
        lenient.compare([*runs, tmp_path / "odd"], tmp_path / "both")
