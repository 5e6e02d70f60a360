"""The report of a run: what it promises to hold, and how it behaves when parts of the run are missing."""

from __future__ import annotations

import json
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lenient.core.errors import DamagedError, LenientError, UsageError
from lenient.core.manifest import MARKER
from lenient.core.numbers import THIN
from lenient.reporting import write_report
from lenient.reporting.cards import NOT_ACCURACY
from report_fixtures import DIGITS, SUMMARY, Links, events, logs, make_images, make_run, summary_with, write_metrics


def page(run: Path) -> str:
    write_report(run)
    return (run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def drawn(made_once: Callable[..., Path]) -> Path:
    """A whole run with its report, figures and all, made once for the tests that look at it; not to be changed."""
    return made_once("drawn-report", lambda folder: write_report(make_run(folder / "run"))) / "run"


@pytest.mark.usefixtures("bare")
def test_size_and_latency_stand_teacher_beside_student(tmp_path: Path) -> None:
    text = page(make_run(tmp_path / "run"))
    found = re.search(r'aria-label="Size and latency">(.*?)</table>', text, re.DOTALL)
    assert found
    rows = re.findall(r"<tr>(.*?)</tr>", found[1])
    cells = [[cell.replace(THIN, " ") for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]
    assert cells[1:] == [
        ["Parameters", "271 682", "77 562", "28.5 %"],
        ["Size in memory", "1.1 MB", "0.318 MB", "28.9 %"],
        ["One image", "2.6 ms", "1.2 ms", "44.8 %"],
        ["64 images", "31 ms", "9.8 ms", "31.2 %"],
    ]
    assert "measured on cpu, 2 threads.</p>" in text
    without = page(make_run(tmp_path / "bare", summary={}))
    assert "Size and latency" not in without


@pytest.mark.usefixtures("bare")
def test_json_holds_the_promised_keys_and_all_of_the_summary(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    returned = write_report(run)
    stored = json.loads((run / "report.json").read_text())
    assert stored == returned == SUMMARY
    for key in ("method", "seed", "steps", "images_synthesized", "seconds"):
        assert stored[key] is not None
    assert stored["health"]["verdict"] == "ok"
    assert stored["student"]["acc_last_k"] == SUMMARY["student"]["acc_last_k"]


def test_same_folder_gives_the_same_bytes(drawn: Path, tmp_path: Path) -> None:
    run = shutil.copytree(drawn, tmp_path / "run")
    first = {name: (run / name).read_bytes() for name in ("report.html", "report.json")}
    write_report(run)
    assert first == {name: (run / name).read_bytes() for name in first}
    leftovers = [path.name for path in run.iterdir() if path.name.startswith(".")]
    assert leftovers == [MARKER]
    assert stat.S_IMODE((run / "report.html").stat().st_mode) == stat.S_IMODE((run / "config.yaml").stat().st_mode)


def test_user_settings_of_matplotlib_do_not_change_the_page(drawn: Path, tmp_path: Path) -> None:
    import matplotlib

    run = shutil.copytree(drawn, tmp_path / "run")
    plain = (run / "report.html").read_text(encoding="utf-8")
    with matplotlib.rc_context({"font.size": 20, "axes.linewidth": 5, "svg.fonttype": "path"}):
        assert page(run) == plain


def test_everything_is_inside_the_page(drawn: Path) -> None:
    html = (drawn / "report.html").read_text(encoding="utf-8")
    links = Links()
    links.feed(html)
    assert links.fetched
    assert all(target.startswith(("data:", "#")) for target in links.fetched)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "@import" not in html
    assert len(links.ids) == len(set(links.ids))
    assert {f"#{name}" for name in links.ids} >= {target for target in links.fetched if target.startswith("#")}
    assert not links.unnamed


def test_sections_stand_in_order(tmp_path: Path) -> None:
    alarm = {"event": "alarm", "step": 1200, "name": "duplicates", "message": "The images look alike."}
    html = page(make_run(tmp_path / "run", lines=[*events(), alarm]))
    titles = [re.sub(r"<.*?>", "", title) for title in re.findall(r"<h2>(.*?)</h2>", html)]
    assert titles == [
        "OK", "Does the student learn?", "Losses", "Synthetic images", "What the teacher vouches for", "Health checks",
        "Size and latency", "Use the student", "How it was made", "Alarms",
    ]  # fmt: skip
    assert "The images look alike." in html
    assert "torch.rand(1, 1, 8, 8)" in html
    assert "Early, step 40" in html
    assert "Late, step 4\u202f000" in html
    assert "noise student" in html


@pytest.mark.parametrize(
    ("verdict", "word"), [("ok", "OK"), ("warning", "Warning"), ("failed", "Failed"), ("odd", "odd")]
)
def test_verdict_is_said_in_words(tmp_path: Path, verdict: str, word: str) -> None:
    health = {"verdict": verdict, "reasons": ["Because of this.", "And of that."], "checks": []}
    html = page(make_run(tmp_path / "run", summary=summary_with(health=health), lines=[]))
    assert f"<h2>{word}</h2>" in html
    assert "<li>Because of this.</li>" in html
    assert "<li>And of that.</li>" in html


@pytest.mark.usefixtures("bare")
def test_agreement_is_never_shown_without_its_caveat(tmp_path: Path) -> None:
    without = summary_with(student={"params": 10}, teacher={"params": 20}, noise_student=None)
    lines = [line for line in events() if line["event"] != "eval"]
    for name, summary, events_ in (("known", SUMMARY, None), ("unknown", without, lines), ("none", without, [])):
        html = page(make_run(tmp_path / name, summary=summary, lines=events_))
        after = html[html.index("Agreement with the teacher") :]
        assert NOT_ACCURACY in after[: after.index("</article>")]
        assert ("No test set was given" in html) == (name != "known")


def test_other_images_than_the_teachers_own_are_named(tmp_path: Path) -> None:
    assert "data-free" not in page(make_run(tmp_path / "own"))
    shown = page(make_run(tmp_path / "foreign", summary=summary_with(foreign=["procedural", "<photo>"])))
    assert "of procedural, &lt;photo&gt;: not data-free in the strict sense" in shown


def test_bare_summary_still_makes_a_page(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_metrics(run, [{"event": "end", "health": {"verdict": "ok"}}])
    html = page(run)
    assert "There is no student yet" in html
    assert "holds no synthetic images" in html
    stored = json.loads((run / "report.json").read_text())
    assert stored["student"]["params"] is None
    assert stored["health"] == {"verdict": "ok", "reasons": [], "checks": []}


@pytest.mark.usefixtures("bare")
def test_the_lines_that_load_the_student_are_of_files_that_are_there(tmp_path: Path) -> None:
    html = page(make_run(tmp_path / "run"))
    assert "student/student.pt2" in html
    assert 'lenient.load("student/model.safetensors")' in html
    run = make_run(tmp_path / "own", summary=summary_with(student={"arch": None}))
    (run / "student" / "student.pt2").unlink()
    html = page(run)
    assert "student/student.pt2" not in html
    assert "arch=&#34;py:FILE.py:FACTORY&#34;" in html


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("tail", ["", '{"event": "log", "ste', '{"event": "end"', "\n\n"])
def test_unfinished_run(tmp_path: Path, tail: str) -> None:
    run = make_run(tmp_path / "run", summary={}, lines=logs(800))
    (run / "student" / "model.safetensors").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write(tail)
    html = page(run)
    stored = json.loads((run / "report.json").read_text())
    assert "<h2>Unfinished</h2>" in html
    assert "There is no student yet" in html
    assert "Agreement" in html
    assert stored["health"]["verdict"] == "unfinished"
    assert (stored["method"], stored["seed"], stored["steps"]) == ("ta-dfkd", 0, 800)
    assert stored["images_synthesized"] == 256 * 800


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("metrics", [None, "", "without its end", "the end first"])
def test_the_report_of_a_run_that_is_done_is_not_replaced_by_one_of_a_run_that_is_not(
    tmp_path: Path, metrics: str | None
) -> None:
    run = make_run(tmp_path / "run")
    (run / "done").touch()
    page(run)
    before = {name: (run / name).read_bytes() for name in ("report.html", "report.json")}
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    if metrics is None:
        path.unlink()
    else:
        left = {"": [], "without its end": lines[:-1], "the end first": [lines[-1], *lines[:-1]]}
        path.write_text("".join(left[metrics]))
    with pytest.raises(DamagedError, match=r"metrics.jsonl is damaged \(the run is done, but its end is missing\)"):
        page(run)
    assert {name: (run / name).read_bytes() for name in before} == before
    (run / "done").unlink()
    assert "<h2>Unfinished</h2>" in page(run)


@pytest.mark.usefixtures("bare")
def test_unfinished_run_shows_the_accuracy_measured_so_far(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", summary={}, lines=[{"event": "eval", "step": 9, "accuracy": 0.5, "agreement": 0.6}]
    )
    html = page(run)
    assert "No test set was given" not in html
    assert json.loads((run / "report.json").read_text())["student"]["accuracy"] == 0.5


@pytest.mark.usefixtures("bare")
def test_run_continued_after_its_end_is_unfinished(tmp_path: Path) -> None:
    lines = [*logs(400), {"event": "end", **SUMMARY}, *logs(800)[10:]]
    assert write_report(make_run(tmp_path / "run", summary={}, lines=lines))["health"]["verdict"] == "unfinished"


def test_folder_without_a_step_yet(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("method: ta-dfkd\nseed: 3\n")
    assert write_report(tmp_path)["steps"] == 0
    assert "<h2>Unfinished</h2>" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("name", ["report.html", "report.json"])
def test_a_file_that_no_run_wrote_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.yaml").write_text("of: somebody's program\n")
    (tmp_path / name).write_text("precious")
    with pytest.raises(
        UsageError, match=rf"{name}: may be a file of yours, because .*\.lenient\.json is missing; move it elsewhere"
    ):
        write_report(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["config.yaml", name])
    assert (tmp_path / name).read_text() == "precious"
    (tmp_path / name).unlink()
    for _ in range(2):
        write_report(tmp_path)


def test_a_seed_may_be_as_large_as_settings_allow(tmp_path: Path) -> None:
    assert write_report(make_run(tmp_path / "run", summary=summary_with(seed=2**63 - 1)))["seed"] == 2**63 - 1


def test_not_a_run_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match="not a run folder"):
            write_report(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["{broken", '"text"', '{"step": 1}', "\udcff"])
def test_damaged_line_is_named(tmp_path: Path, damage: str) -> None:
    run = make_run(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[4] = damage
    (run / "metrics.jsonl").write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    with pytest.raises(LenientError, match="line 5 is damaged") as caught:
        write_report(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1]", '{"threads": -1, "classes": 5, "method": &a 1'])
@pytest.mark.parametrize("file", ["config.yaml", "env.json", "student/config.json", "samples/images.safetensors"])
def test_a_damaged_file_costs_its_part_and_a_warning(
    tmp_path: Path, file: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path / "run", lines=[])
    whole = write_report(run)
    (run / file).write_text(text)
    assert write_report(run) == whole  # of which the metrics have all
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{run / file} is damaged (")
    assert said.endswith("; the report leaves it out")
    assert len(said) <= 300
    html = (run / "report.html").read_text()
    assert ("python 3.11.9" in re.sub("<[^>]*>", " ", html).replace("  ", " ")) == (file != "env.json")
    assert ("<img" in html) == (file not in ("config.yaml", "samples/images.safetensors"))


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&$\\frac{"
    names = [evil, *DIGITS[1:]]
    alarm = {"event": "alarm", "step": 1, "name": evil, "message": evil}
    line = {"event": "log", "step": 1, f"loss/{evil}": 1.0, f"health/{evil}": 2.0}
    check = {"name": evil, "value": evil, "threshold": None, "status": evil, "text": evil}
    health = {"verdict": "failed", "reasons": [evil], "checks": [check]}
    run = make_run(tmp_path / "run", lines=[*events(), line, alarm], summary=summary_with(classes=names, health=health))
    (run / "config.yaml").write_text(yaml.safe_dump({"method": evil, "seed": evil}))
    (run / "env.json").write_text(json.dumps({evil: evil}))
    html = page(run)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    Links().feed(html)


def test_numbers_that_are_none_do_no_harm(tmp_path: Path) -> None:
    odd: list[dict[str, Any]] = [
        {"event": "log", "step": 10, "loss/a": None, "loss/b": None, "loss/c": 1e300},
        {"event": "log", "step": 20, "health/kept": None},
        {"event": "log", "step": 30, "loss/a": 1.0},
        {"event": "mixture", "step": 1, "edges": [0, 0], "counts": [3]},
        {"event": "mixture", "step": 1, "edges": [0, 1], "counts": [0], "means": [0.1], "limit": None, "kept": None},
        {"event": "classes", "step": 1, "histogram": []},
        {"event": "classes", "step": 1, "histogram": [0, 0]},
        {"event": "eval", "step": 1},
        {"event": "alarm"},
    ]  # fmt: skip
    summary = summary_with(seconds=None, latency={"student": {"1": 0.0}}, steps=0)
    run = make_run(tmp_path / "run", lines=odd, summary=summary)
    write_report(run)
    assert json.loads((run / "report.json").read_text())["seconds"] is None


@pytest.mark.usefixtures("bare")
def test_images_can_be_kept_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "config.yaml").write_text("report: {images: false}\n")
    html = page(run)
    assert "<img" not in html
    assert "can resemble private data" in html


@pytest.mark.usefixtures("bare")
def test_missing_or_damaged_images_are_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "samples" / "images.safetensors").write_bytes(b"cut")
    assert "could not be read" in page(run)
    shutil.rmtree(run / "samples")
    html = page(run)
    assert "<img" not in html
    assert "holds no synthetic images" in html


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 96, 80), (4, 5, 9), (2, 6, 6)])
def test_images_of_any_shape(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    run = make_run(tmp_path / "run", lines=[])
    make_images(run / "samples", shape=shape, num_classes=23, each=2)
    html = page(run)
    assert html.count("<img") == 20
    assert "The first 20 of 23 classes are shown." in html
    assert ("strips pixelated" in html) == (max(shape) < 64)


@pytest.mark.usefixtures("bare")
def test_classes_without_an_image_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", lines=[])
    make_images(run / "samples", num_classes=8)
    assert "No stored image for 2 of 10 classes: 8, 9." in page(run)


@pytest.mark.usefixtures("bare")
def test_a_run_without_selection_shows_no_mixture(tmp_path):
    run = make_run(tmp_path / "run")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("name: mixture", "name: none"))
    write_report(run)
    assert "What the teacher vouches for" not in (run / "report.html").read_text()
