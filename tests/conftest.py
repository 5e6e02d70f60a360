"""What many tests share."""

from __future__ import annotations

import gc
import importlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from filelock import FileLock

import browser as driven

if TYPE_CHECKING:  # the process that hands out the tests needs no torch, whose import all others would wait for
    from lenient.models.card import Network


class Once(Protocol):
    """See the fixture `made_once`."""

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path: ...


LONGEST = ("test_ranks", "test_bench_run", "test_cli", "test_health", "test_bench_report", "test_benchmarks")
"""Files with tests of many seconds; they begin, so that no process is left with one of them at the end."""


os.environ.setdefault("OMP_NUM_THREADS", "1")  # as `make test` has it: no run tries how many are best


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Take as many processes as there are processors for us: a quota is not seen otherwise."""
    from lenient.core.processors import available

    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else available()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nothing-missing", action="store_true", help="fail where a library is missing, do not skip")
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run the files in a random order")


def pytest_configure(config: pytest.Config) -> None:
    """A library that is missing skips its tests, unless it was to be there, as in `make test-slow`."""
    if config.getoption("--nothing-missing"):
        pytest.importorskip = _imported


def _imported(modname: str, *_: object, **__: object) -> Any:
    try:
        return importlib.import_module(modname)
    except ImportError as error:
        pytest.fail(f"--nothing-missing: {error}", pytrace=False)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    names = sorted({item.path.stem for item in items})
    seed = config.getoption("--shuffle")
    if seed is None:
        names.sort(key=lambda name: LONGEST.index(name) if name in LONGEST else len(LONGEST))
    else:
        random.Random(seed).shuffle(names)
    items.sort(key=lambda item: names.index(item.path.stem))
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector need not go through half a million objects again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes what several files need in a folder that all processes of the session share: `made_once(name, make)`.

    The first that asks calls `make(folder)`; the others wait for it. The folder is not to be changed: copy it.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder = root / "made" / name
        folder.parent.mkdir(exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                making = folder.with_name(f"{name}.part")
                shutil.rmtree(making, ignore_errors=True)  # of one that failed
                making.mkdir()
                make(making)
                making.rename(folder)
        return folder

    return once


@pytest.fixture(scope="session")
def browser(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[driven.Browser]:
    """A Chromium without a window; where none is installed, its tests are skipped, or fail by --nothing-missing."""
    if driven.INSTALLED is None:
        missing = pytest.fail if pytestconfig.getoption("--nothing-missing") else pytest.skip
        missing("no Chromium or Chrome is installed")
    with driven.started(tmp_path_factory.mktemp("browser") / "profile") as found:
        yield found


@pytest.fixture(scope="session")
def digits_file(made_once: Once) -> Path:
    """A digits teacher in a file: batch norm, 78 thousand parameters, about 97 %, made in seconds."""
    return made_once("digits", _train_digits) / "digits.safetensors"


def _train_digits(folder: Path) -> None:
    from lenient.data import load_data
    from lenient.models import build_student, save_network
    from lenient.models.card import Card
    from lenient.supervised import TeacherRecipe, default_recipe, train_classifier

    images = load_data("digits", split="train")
    card = Card(None, images.input_size, len(images.classes), tuple(images.mean), tuple(images.std), images.classes)
    network = build_student("lenient:resnet8", card, seed=0, role="teacher")
    train_classifier(network, images, TeacherRecipe(**(default_recipe("digits") | {"epochs": 12})))
    save_network(folder / "digits.safetensors", network)


@pytest.fixture
def digits_teacher(digits_file: Path) -> Network:
    """The same, loaded anew."""
    from lenient.models import load_network

    return load_network(digits_file)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs leave out what takes longer than their few steps: the figures of the report, and the traced student.

    A test that looks at them takes BARE out of the environment.
    """
    _leave_out(monkeypatch)


@pytest.fixture(scope="module")
def bare_module() -> Iterator[None]:
    """The same for all tests of a module and what it makes once."""
    with pytest.MonkeyPatch.context() as patch:
        _leave_out(patch)
        yield


def _leave_out(patch: pytest.MonkeyPatch) -> None:
    import bare  # noqa: F401

    patch.setenv("BARE", "1")
