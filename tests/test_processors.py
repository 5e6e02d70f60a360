"""A machine that is small or shared with others: how threads wait, how many there are, and what is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lenient.bench.launchers import make_launcher
from lenient.bench.tasks import _environment
from lenient.core import processors
from lenient.core.processors import SAID, THREADS, WAITING, Others, available, given, prepare, quota, waiting

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


# what is said


def test_others_are_counted_without_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now, own, ticks = [100.0], [5.0], os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(processors.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(processors.time, "process_time", lambda: own[0])

    def stat(busy: float, idle: float) -> None:
        counts = [int(busy * ticks), 0, 0, int(idle * ticks), 7, 0, 0, 0, 0, 0]
        (tmp_path / "proc/stat").write_text(f"cpu  {' '.join(map(str, counts))}\ncpu0 1 2 3\n")

    (tmp_path / "proc").mkdir()
    stat(1000, 500)
    others = Others(tmp_path)
    assert others.processors() is None, "no time has gone by"
    now[0], own[0] = 102.0, 6.0
    stat(1004, 500)  # four seconds, one of them ours, in two
    assert others.processors() == pytest.approx(1.5)
    assert Others(tmp_path / "elsewhere").processors() is None
