"""The commands that make the tables: they run, go on where they stopped, and write what they found."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from commands import python

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(*arguments: object, cwd: Path) -> str:
    done = python(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_settings_are_compared_cell_by_cell_and_the_page_follows(tmp_path):
    common = [BENCHMARKS / "compare_settings.py", "rates", "-o", "cells.json", "--teachers", "lenient:lenet5"]
    common += ["--teacher-set", "epochs=1", "--student", "lenient:lenet5-half", "--seeds", 1, "-s", "steps=4"]
    common += ["-s", "method.bn_weight=0", "--try", "slow=method.generator_lr=1e-4"]
    run(*common, cwd=tmp_path)
    first = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert [cell["variant"] for cell in first] == ["slow"]
    run(*common, "--try", "fast=method.generator_lr=1e-2", cwd=tmp_path)
    cells = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert [cell["variant"] for cell in cells] == ["slow", "fast"]
    assert cells[0] == first[0]
    assert all(0 <= cell[key] <= 1 for cell in cells for key in ("accuracy", "agreement", "teacher_accuracy"))
    run(*common, "--table", "page.md", cwd=tmp_path)
    page = (tmp_path / "page.md").read_text()
    assert "| fast | `method.generator_lr=1e-2` | " in page
    assert "2 runs in `cells.json`" in page


def test_settings_are_compared_at_equal_seconds(tmp_path):
    common = [BENCHMARKS / "compare_settings.py", "rates", "-o", "cells.json", "--teachers", "lenient:lenet5"]
    common += ["--teacher-set", "epochs=1", "--student", "lenient:lenet5-half", "--seeds", 1, "-s", "steps=100000"]
    common += ["-s", "method.bn_weight=0", "--try", "a=batch_size=8", "--read", "0.5", "--read", "1"]
    run(*common, cwd=tmp_path)
    (cell,) = json.loads((tmp_path / "cells.json").read_text())["cells"]
    first, last = cell["readings"]
    assert 0 < first["step"] < last["step"]
    assert 0.5 <= first["seconds"] < last["seconds"]
    assert (cell["accuracy"], cell["agreement"]) == (last["accuracy"], last["agreement"])
    run(*common, "--table", "page.md", cwd=tmp_path)
    assert "| variant | settings | after" in (tmp_path / "page.md").read_text()


def test_every_method_has_the_same_trials(tmp_path):
    common = [BENCHMARKS / "trials.py", "-o", "cells.json", "--teacher", "lenient:lenet5", "--teacher-set", "epochs=1"]
    common += ["--student", "lenient:lenet5-half", "--seeds", 1, "--steps", 2]
    run(*common, "--methods", "noise", cwd=tmp_path)
    run(*common, "--methods", "noise,dfad", cwd=tmp_path)
    cells = json.loads((tmp_path / "cells.json").read_text())["cells"]
    noise = [cell for cell in cells if cell["method"] == "noise"]
    assert [cell["trial"] for cell in noise] == ["as it is", "student / 3", "student x 3"]
    *_, slow, fast = [cell["settings"] for cell in cells if cell["method"] == "dfad"]
    assert fast["generator_lr"] == pytest.approx(9 * slow["generator_lr"], rel=0.02)
    assert {*fast} == {*slow} == {"generator_lr"}
    assert len(cells) == 3 + 5
    run(*common, "--table", "page.md", cwd=tmp_path)
    page = (tmp_path / "page.md").read_text()
    assert "| noise | " in page
    assert "8 runs in `cells.json`" in page


def test_steps_on_large_images_are_measured_once_with_maps_kept_and_computed_anew(tmp_path):
    common = [BENCHMARKS / "large_images.py", "-o", "cells.json", "--teacher", "lenient:resnet8", "--batch", 4]
    run(*common, "--classes", 3, "--sizes", "16", cwd=tmp_path)
    cells = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert [(cell["size"], cell["way"]) for cell in cells] == [(16, "kept"), (16, "computed anew")]
    assert all(cell["seconds_per_step"] > 0 and cell["classes"] == 3 for cell in cells)
    assert run(*common, "--sizes", "16", cwd=tmp_path) == ""
    run(*common, "--table", "page.md", cwd=tmp_path)
    assert "| 16 x 16 | " in (tmp_path / "page.md").read_text()


def test_both_orders_of_a_virtual_step_are_compared_along_a_run(tmp_path):
    common = [BENCHMARKS / "virtual_step.py", "-o", "seen.json"]
    measured = [*common, "--teachers", "lenient:lenet5", "--teacher-set", "epochs=1"]
    run(*measured, "--students", "lenient:resnet8-half", "--steps", 121, "--every", 60, cwd=tmp_path)
    (point,) = json.loads((tmp_path / "seen.json").read_text())["runs"][0]["seen"]
    orders, replay = (list(point[name].values()) for name in ("orders", "replay"))
    assert orders == sorted(orders, reverse=True), "the longer the step, the less alike"
    assert orders[0] > 0.999
    assert replay[0] > replay[-1]
    run(*common, "--table", "page.md", cwd=tmp_path)
    assert "| `lenient:resnet8-half` | 0.9 | " in (tmp_path / "page.md").read_text()


def test_the_page_of_a_shared_machine_says_how_busy_it_was(tmp_path):
    def row(way, busy, seconds, **more):
        return {"command": "bench run", "way": way, "busy": busy, "seconds": seconds, "others": 0.25, **more}

    rows = [
        row("before", 0, 10.0),
        row("now", 0, 8.0),
        row("before", 1, 70.0),
        row("now", 1, 15.0),
        row("now", 1, 17.0),
    ]
    steps = {"cpu_seconds": 5.0, "steps_seconds": 2.5, "threads": 2, "command": "distill"}
    rows += [row("now", busy, 8.0 + busy, **steps) for busy in (0, 1)]
    found = {"machine": {"device_name": "a toy", "threads": 1, "torch": "2"}, "processors": 2, "load": [1.5, 1, 1]}
    found |= {"rounds": 1, "steps": 3, "busy": 1, "rows": rows}
    (tmp_path / "crowded.json").write_text(json.dumps(found))
    run(BENCHMARKS / "crowded.py", "-o", "crowded.json", "--table", "page.md", "--rounds", 0, cwd=tmp_path)
    page = (tmp_path / "page.md").read_text()
    for words in ("fair share of 2 processors beside 1 is 2.00", "processors busy: 0.2 at most", "average 1.5 at the"):
        assert words in " ".join(page.split()), words
    assert "| before | 10.0 | 70.0 | 7.00 |" in page
    assert "| now | 8.00 | 16.0 (15.0 to 17.0) | 1.60 |" in page
    assert "| now | 8.00 | 9.00 |  | 5.00 | 5.00 | 2.50 | 2.50 | 2 | 2 |" in page


def test_students_of_poisoned_teachers_are_measured_with_and_without_a_defence(tmp_path):
    common = [BENCHMARKS / "abd.py", "-o", "runs.json", "--teacher-epochs", 1, "--steps", 10, "--seed", 7]
    run(*common, "--row", "none", cwd=tmp_path)
    first = json.loads((tmp_path / "runs.json").read_text())
    assert [entry["row"] for entry in first["runs"]] == ["none"]
    run(*common, "--row", "none", "--row", "both", cwd=tmp_path)
    written = json.loads((tmp_path / "runs.json").read_text())
    assert [entry["row"] for entry in written["runs"]] == ["none", "both"]
    assert written["runs"][0] == first["runs"][0]
    assert written["teachers"] == first["teachers"]
    assert all(0 <= entry[key] <= 1 for entry in written["runs"] for key in ("accuracy", "success"))
    run(*common, "--table", "page.md", cwd=tmp_path)
    page = (tmp_path / "page.md").read_text()
    assert '| both | `{"name": "abd", "shuffle": {"weight": 100' in page
    assert "2 runs in `runs.json`" in page


def test_copies_in_few_bits_are_measured_once_and_the_page_follows(digits_file, tmp_path):
    pytest.importorskip("onnxruntime")
    common = [BENCHMARKS / "low_bit.py", "-o", "runs.json"]
    measured = [*common, digits_file, "--data", "digits", "--steps", 2, "--images", 48, "--seeds", 1, "--rates", "3e-6"]
    told = [line for line in run(*measured, cwd=tmp_path).splitlines() if line.startswith("{")]
    assert len(told) == 5, "two numbers of bits, the recipes' rates, the own file"
    written = json.loads((tmp_path / "runs.json").read_text())
    found = [(entry["bits"], entry["rate"], len(entry.get("test", ()))) for entry in written["runs"]]
    assert found == [(8, 1e-6, 3), (8, 3e-6, 0), (4, 1e-6, 0), (4, 3e-6, 3)], "test images by the recipe alone"
    assert written["images"] == 48
    shares = [share for entry in written["runs"] for share in (entry["holdout"] | entry.get("test", {})).values()]
    assert all(0 <= share <= 1 for share in [*shares, *written["int8"].values()])
    assert written["int8"]["real"] > written["teacher"]["accuracy"] - 0.05
    assert not run(*measured, cwd=tmp_path)
    assert json.loads((tmp_path / "runs.json").read_text()) == written
    run(*common, "--table", "page.md", cwd=tmp_path)
    page = (tmp_path / "page.md").read_text()
    assert f"| {100 * written['int8']['noise']:.2f} |\n" in page
    assert "| bits | ranges only | 1e-06 | 3e-06 |" in page


def test_files_in_8_bits_are_measured_once_by_each_kind_of_images_and_the_page_follows(tmp_path):
    pytest.importorskip("onnxruntime")
    common = [BENCHMARKS / "int8_table.py", "-o", "rows.json"]
    measured = [*common, "digits", "lenient:resnet8", "--epochs", 2, "--precision", "32", "--steps", 3]
    run(*measured, cwd=tmp_path)
    teacher = (tmp_path / "runs/int8/digits-resnet8.safetensors").read_bytes()
    run(*measured, "--student", "lenient:resnet8-half", cwd=tmp_path)
    written = json.loads((tmp_path / "rows.json").read_text())
    assert [row["role"] for row in written["rows"]] == ["teacher", "student"]
    assert (tmp_path / "runs/int8/digits-resnet8.safetensors").read_bytes() == teacher, "the one that was there"
    for row in written["rows"]:
        assert (row["images"], row["method"], row["steps"]) == (359, "bn-adv", 3)
        assert all(len(row[kind]) == 3 and min(row[kind]) >= 0 for kind in ("real", "synthetic", "noise"))
    assert min(written["rows"][0]["real"]) > written["rows"][0]["float"] - 0.05 > 0.5
    run(*common, "--table", "page.md", cwd=tmp_path)
    page = (tmp_path / "page.md").read_text()
    assert "2 rows in `rows.json`" in page
    assert f"| digits | resnet8 | 2 | {100 * written['rows'][0]['float']:.2f} | " in page


def test_the_page_on_files_in_8_bits_says_where_noise_does_as_well(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = {"tough": [0.9, 0.899, 0.899], "tender": [0.6, 0.6, 0.602], "lucky": [0.901] * 3}
    rows = [
        {"data": "D", "network": name, "role": "teacher", "epochs": 1, "steps": 2, "method": "m", "images": 10_000,
         "float": 0.9, "real": [0.95] * 3 if name == "lucky" else [0.899, 0.9, 0.9], "synthetic": [0.899] * 3,
         "noise": noise}
        for name, noise in found.items()
    ]  # fmt: skip
    page = importlib.import_module("int8_table").page({"rows": rows, "machine": {"device_name": "M"}}, "rows.json")
    cells = "90.00 | 89.97 (89.90 to 90.00) | 89.90 (89.90 to 89.90) | 60.07 (60.00 to 60.20)"
    assert f"| D | tender | 1 | {cells} | m, 2 steps |\n" in page
    assert "- By *real* images 3 of 3 files lose at most half a point.\n" in page
    assert "- By *noise* images 2 of 3 files lose at most half a point; more: tender of D (29.93 points).\n" in page
    assert (
        "loses more than every draw of real images, by over a tenth of a point, in 1 of 3 rows: tender of D.\n" in page
    )


def test_what_the_check_of_a_file_in_8_bits_sees_becomes_a_page(tmp_path):
    pytest.importorskip("onnxruntime")
    common = [BENCHMARKS / "int8_check.py", "--archs", "lenient:lenet5", "--epochs", 8]
    run(*common, "--table", "page.md", cwd=tmp_path)
    rows = [line for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith("| lenient:lenet5")]
    assert len(rows) == 5
    assert "| black alone | 100.00 |" in rows[-1]
    assert rows[-1].endswith("|  | broken |")
    assert rows[0].endswith("|  |  |")


@pytest.mark.slow
def test_the_sabotage_table_goes_on_where_it_stopped(tmp_path):
    common = [BENCHMARKS / "sabotage.py", "-o", "runs.json"]
    for count in (1, 2):
        run(*common, "--at-most", count, cwd=tmp_path)
        assert len(json.loads((tmp_path / "runs.json").read_text())["runs"]) == count
    run(*common, "--table", "page.md", cwd=tmp_path)
    assert "2 runs in `runs.json`" in (tmp_path / "page.md").read_text()


def test_a_sheet_has_a_row_for_each_class(tmp_path):
    (tmp_path / "samples").mkdir()
    images = torch.zeros(5, 1, 4, 3, dtype=torch.uint8)
    images[4] = 200
    save_file({"images": images, "labels": torch.tensor([0, 2, 0, 2, 2])}, tmp_path / "samples" / "images.safetensors")
    run(BENCHMARKS / "sheet.py", tmp_path, "-o", "sheet.png", "--columns", 2, "--scale", 1, cwd=tmp_path)
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.size == (2 * 4, 2 * 5)
        assert drawn.convert("L").getpixel((0, 0)) == 0, "the third of a class is left out"
