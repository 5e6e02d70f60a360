"""A machine that is small or shared with others: how threads wait, how many there are, and what is said."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lenient.api import distill
from lenient.bench.launchers import make_launcher
from lenient.bench.tasks import _environment
from lenient.core import processors
from lenient.core.config import merge
from lenient.core.errors import UsageError
from lenient.core.processors import SAID, THREADS, WAITING, Others, available, given, prepare, quota, waiting
from lenient.runs import autotune, job, request
from lenient.runs.request import Request, decide, resolve
from test_ahead import Trial
from test_loop import StopAt
from toys import QUICK, tiny_student, tiny_teacher

pytestmark = pytest.mark.usefixtures("bare")


@pytest.fixture(autouse=True)
def torchs_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def open_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has said how many threads there are; torch has four, and this process as many processors."""
    monkeypatch.delenv(THREADS, raising=False)
    monkeypatch.setattr(processors, "available", lambda: 4)
    torch.set_num_threads(4)


# how threads wait


@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "PASSIVE"}])
def test_a_command_says_how_threads_wait_before_torch_is_loaded(own: dict[str, str], tmp_path: Path) -> None:
    """OpenMP tells at its start what it was told; a process of its own, for it does so once."""
    clean = {name: value for name, value in os.environ.items() if name not in SAID}
    words = [sys.executable, "-m", "lenient", "methods", "noise"]
    environment = clean | own | {"OMP_DISPLAY_ENV": "VERBOSE"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    told = [line for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if not told:
        pytest.skip("torch is built with another OpenMP here")
    count = "0" if own else WAITING["GOMP_SPINCOUNT"]
    assert all(f"'{count}'" in line for line in told)


@pytest.mark.parametrize("name", SAID)
def test_what_the_user_said_of_waiting_stays(name: str) -> None:
    assert waiting({name: "x", "OTHER": "y"}) == {name: "x", "OTHER": "y"}
    assert waiting({"OTHER": "y"}) == {"OTHER": "y", **WAITING}


def test_cells_wait_so_whoever_starts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SAID:
        monkeypatch.delenv(name, raising=False)
    assert _environment(3).items() >= {**WAITING, THREADS: "3"}.items()
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert not WAITING.keys() & _environment(3).keys()


def test_importing_the_library_changes_no_environment(tmp_path: Path) -> None:
    code = "import os; before = dict(os.environ); import lenient.cli, lenient.api; assert os.environ == before"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


# how many processors there are


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """Lay out the files of a kernel: `/proc/self/cgroup`, and files of control groups."""
    for name, text in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{key}": text for key, text in files.items()},
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(("groups", "files", "expected"), [
    ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "300000 100000\n"}, 2.0),  # the one above is tighter
    ("0::/a/b\n", {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5),
    ("0::/docker/of-the-host\n", {"cpu.max": "200000 100000\n"}, 2.0),  # in a container
    ("0::/../..\n", {"cpu.max": "200000 100000\n"}, 2.0),
    ("4:cpu,cpuacct:/a\n1:memory:/m\n",
     {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}, 2.5),
    ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n",
                            "cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "50000\n"}, 2.0),
    ("4:memory:/a\n", {"memory/a/cpu.max": "100000 100000\n"}, None),
    ("0::/\n", {"cpu.max": "nonsense"}, None),
    ("0::/\n", {"cpu.max": "1000 0"}, None),
    ("nonsense", {}, None),
    ("", {}, None),
])  # fmt: skip
def test_quotas_of_control_groups_are_read(
    tmp_path: Path, groups: str, files: dict[str, str], expected: float | None
) -> None:
    assert quota(machine(tmp_path, groups, files)) == expected


def test_a_machine_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert quota(tmp_path) is None


@pytest.mark.parametrize(("affinity", "limit", "expected"), [
    (8, "max 100000", 8), (8, "250000 100000", 3), (2, "800000 100000", 2), (4, "20000 100000", 1),
])  # fmt: skip
def test_processors_are_those_of_the_affinity_within_the_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, affinity: int, limit: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    assert available(machine(tmp_path, "0::/\n", {"cpu.max": limit})) == expected


def test_a_quota_becomes_the_number_of_threads_but_is_nobodys_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "_own_threads", None)
    monkeypatch.setattr(processors, "_affinity", lambda: 64)
    monkeypatch.setattr(processors, "quota", lambda _: 3.5)
    monkeypatch.setenv(THREADS, "7")
    prepare()
    assert (os.environ[THREADS], given()) == ("7", True)
    monkeypatch.delenv(THREADS)
    prepare()
    assert (os.environ[THREADS], given()) == ("4", False)
    for jobs, each in ((1, 4), (3, 1)):
        assert make_launcher("local", jobs, {}, Path()).threads == each  # type: ignore[attr-defined]


# how many threads a run has


@pytest.mark.parametrize(("fastest", "given_by", "device", "expected"), [
    (4, None, "cpu", 4),
    (2, None, "cpu", 2),
    (1, None, "cpu", 1),
    (1, "4", "cpu", 4),  # the user's word
    (1, None, "meta", 4),
])  # fmt: skip
def test_a_trial_takes_fewer_threads_where_they_are_faster(
    monkeypatch: pytest.MonkeyPatch, open_threads: None, fastest: int, given_by: str | None, device: str, expected: int
) -> None:
    tried = []

    def ratio(seconds: Any, first: int, second: int) -> float:
        tried.append((first, second))
        assert seconds(second) > 0
        assert torch.get_num_threads() == 4, "the caller's number comes back"
        return 1.5 if second >= fastest else 1.05

    monkeypatch.setattr(autotune, "_median_ratio", ratio)
    if given_by:
        monkeypatch.setenv(THREADS, given_by)
    if device == "meta":
        monkeypatch.setattr(request, "threads_are_tried", lambda _: autotune.threads_are_tried(torch.device("meta")))
    plan = resolve(Request(settings=QUICK))
    assert decide(plan, Request(), tiny_teacher(), tiny_student()).threads == expected
    assert len(tried) == (0 if given_by or device == "meta" else min(3 - fastest.bit_length() + 1, 2))


def test_no_more_threads_are_taken_than_a_quota_allows(monkeypatch: pytest.MonkeyPatch, open_threads: None) -> None:
    monkeypatch.setattr(autotune, "_median_ratio", lambda *_: 1.0)
    monkeypatch.setattr(processors, "available", lambda: 3)
    assert decide(resolve(Request(settings=QUICK)), Request(), tiny_teacher(), tiny_student()).threads == 3


@pytest.mark.parametrize(("fastest", "overlap", "gain", "expected"), [
    (1, "auto", 2.0, (True, 2)), (1, "auto", 0.95, (False, 1)), (2, "auto", 2.0, (True, 4)),
    (4, "auto", 2.0, (True, 4)), (1, True, 0.95, (True, 2)), (1, False, 2.0, (False, 1)),
])  # fmt: skip
def test_each_of_two_things_at_once_may_have_the_threads_that_are_fastest_for_one(
    monkeypatch: pytest.MonkeyPatch,
    open_threads: None,
    fastest: int,
    overlap: object,
    gain: float,
    expected: tuple[bool, int],
) -> None:
    """Where one thread alone is faster than two, a second one may still make the next images."""
    monkeypatch.setattr(autotune, "_median_ratio", lambda _, first, second: 1.5 if second >= fastest else 1.05)
    monkeypatch.setattr(autotune, "seconds_of", Trial(gain))
    asked = Request(settings=QUICK | {"overlap": overlap})
    found = decide(resolve(asked), asked, tiny_teacher(), tiny_student())
    assert (found.overlap, found.threads) == expected
    assert torch.get_num_threads() == 4


def test_two_numbers_of_threads_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "THREADS_SECONDS", 0.05)
    asked = []
    assert autotune._median_ratio(lambda count: asked.append(count) or float(count), 4, 2) == 2.0  # type: ignore[func-returns-value]
    assert len(asked) > 4
    assert asked == [4, 2] * (len(asked) // 2)


@pytest.mark.parametrize("value", [0, -1, 1025, True, "many", 1.5])
def test_a_number_of_threads_that_cannot_be_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="threads"):
        resolve(Request(settings={"threads": value}))


# what is said


@pytest.mark.parametrize(("busy", "said"), [(1.0, True), (0.1, False), (None, False)])
def test_a_crowded_machine_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    open_threads: None,
    caplog: pytest.LogCaptureFixture,
    busy: float | None,
    said: bool,
) -> None:
    monkeypatch.setattr(autotune, "_median_ratio", lambda *_: 1.0)
    monkeypatch.setattr(Others, "processors", lambda _: busy)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    with caplog.at_level(logging.WARNING, "lenient"):
        job.Job(tiny_teacher(), tiny_student(), Request(settings=QUICK)).open(None)
    notes = [record.getMessage() for record in caplog.records if "crowded" in record.getMessage()]
    line = "the machine is crowded: other processes keep 1.0 of 4 processors busy, so steps take longer"
    assert notes == ([line] if said else [])


def test_others_are_counted_without_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now, own, ticks = [100.0], [5.0], os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(processors.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(processors.time, "process_time", lambda: own[0])

    def stat(busy: float, idle: float) -> None:
        whole, half = ([int(busy * ticks / part), 0, 0, int(idle * ticks / part), 7, 0, 0, 0, 0, 0] for part in (1, 2))
        lines = {"cpu": [10 * count for count in whole], "cpu2": half, "cpu3": whole, "cpu7": half}
        text = "".join(f"{name}  {' '.join(map(str, counts))}\n" for name, counts in lines.items())
        (tmp_path / "proc/stat").write_text(f"{text}intr 1 2\n")

    (tmp_path / "proc").mkdir()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 7}, raising=False)
    stat(1000, 500)
    others = Others(tmp_path)
    assert others.processors() is None, "no time has gone by"
    now[0], own[0] = 102.0, 6.0
    stat(1004, 503)  # four seconds, one of them ours, in two
    assert others.processors() == pytest.approx(1.5)
    assert Others(tmp_path / "elsewhere").processors() is None
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert Others(tmp_path).processors() is None


# what goes on


@pytest.fixture
def begun(tmp_path: Path, open_threads: None) -> Path:
    """A run that began with two threads, at step 3 of 6."""
    plan = merge(QUICK, {"threads": 2})
    assert distill(
        tiny_teacher(), tiny_student(), output=tmp_path / "cut", settings=plan, observers=[StopAt(3)]
    ).interrupted
    assert torch.get_num_threads() == 4, "a run leaves the caller's number"
    return tmp_path / "cut"


def threads_of(folder: Path) -> tuple[int, int]:
    """Return how many threads a run's settings and its environment name."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    return config["threads"], json.loads((folder / "env.json").read_text())["threads"]


def differences(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "not to the bit" in record.getMessage()]


def test_a_run_goes_on_with_the_threads_that_it_began_with(
    tmp_path: Path, begun: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.set_num_threads(1)
    distill(tiny_teacher(), tiny_student(), output=begun, resume=True)
    assert threads_of(begun) == (2, 2)
    assert differences(caplog) == []
    assert torch.get_num_threads() == 1
    distill(tiny_teacher(), tiny_student(), output=tmp_path / "whole", settings=merge(QUICK, {"threads": 2}))
    whole, cut = (load_file(folder / "student" / "model.safetensors") for folder in (tmp_path / "whole", begun))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_a_run_of_an_earlier_version_goes_on_with_those_of_its_environment(
    begun: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = begun / "config.yaml"
    config.write_text("".join(line for line in config.open() if not line.startswith("threads:")))
    distill(tiny_teacher(), tiny_student(), output=begun, resume=True)
    assert threads_of(begun) == (2, 2)
    assert differences(caplog) == []


@pytest.mark.parametrize("by", ["environment", "setting"])
def test_other_threads_that_are_asked_for_are_taken_and_said(
    monkeypatch: pytest.MonkeyPatch, begun: Path, caplog: pytest.LogCaptureFixture, by: str
) -> None:
    torch.set_num_threads(1)
    more: dict[str, Any] = {}
    if by == "environment":
        monkeypatch.setenv(THREADS, "1")
    else:
        more["settings"] = {"threads": 1}
    distill(tiny_teacher(), tiny_student(), output=begun, resume=True, **more)
    assert threads_of(begun) == (1, 1)
    assert differences(caplog) == ["--resume: threads was 2, is 1: not to the bit"]
