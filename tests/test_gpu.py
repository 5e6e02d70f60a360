"""What must hold on a GPU (`pytest -m gpu`), and that its checks are right where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import gpu_checks
from gpu_checks import (
    check_alike,
    check_bf16,
    check_compiled,
    check_never_waits,
    check_resumed,
    check_two_processes,
    distillation,
    take,
)
from lenient.core.runtime import Runtime, repeatable
from test_methods import FORMS

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
FEW = ("ta-dfkd", "fastdfkd", "meta-dfkd")
"""A generator, a pool, and second derivatives."""
on_a_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def gpu(test: object) -> object:
    """Mark a test as one that needs a GPU."""
    for mark in on_a_gpu:
        test = mark(test)
    return test


@gpu
@pytest.mark.parametrize("name", FORMS)
def test_three_updates_are_those_of_the_cpu(name: str) -> None:
    check_alike(name, CUDA)


@gpu
@pytest.mark.parametrize("name", FORMS)
def test_updates_never_wait_for_the_device(name: str) -> None:
    check_never_waits(name, CUDA)


@gpu
@pytest.mark.parametrize("name", FORMS)
def test_a_resumed_run_goes_on_to_the_bit(name: str, tmp_path: Path) -> None:
    check_resumed(name, CUDA, tmp_path)


@gpu
@pytest.mark.parametrize("name", FEW)
def test_bfloat16_is_near_float32(name: str) -> None:
    check_bf16(name, CUDA)


@gpu
def test_the_mixture_is_replayed() -> None:
    run = distillation("ta-dfkd", Runtime(CUDA))
    take(run, 6)
    recorded = list(run.algorithm.selection.graphs._recorded.values())
    assert recorded
    assert None not in recorded


@gpu
def test_bfloat16_never_waits_either() -> None:
    check_never_waits("ta-dfkd", CUDA, "bf16")


@gpu
def test_two_processes_on_one_gpu_are_one(tmp_path: Path) -> None:
    check_two_processes("ta-dfkd", CUDA, tmp_path)


@gpu
def test_compiled_updates_are_those_of_plain_ones() -> None:
    check_compiled("ta-dfkd", CUDA)


# the checks themselves, where there is no GPU


def test_the_checks_pass_on_the_cpu(tmp_path: Path) -> None:
    for name in FEW:
        check_alike(name, CPU)
        check_resumed(name, CPU, tmp_path / name)
        check_never_waits(name, CPU)
    check_bf16("ta-dfkd", CPU)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_the_checks_pass_on_the_cpu_for_every_method(name: str, tmp_path: Path) -> None:
    check_alike(name, CPU)
    check_resumed(name, CPU, tmp_path)


@pytest.mark.slow
def test_the_dear_checks_pass_on_the_cpu(tmp_path: Path) -> None:
    check_two_processes("ta-dfkd", CPU, tmp_path)
    check_compiled("ta-dfkd", CPU)


def test_a_device_that_comes_to_something_else_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    own, calls = gpu_checks.distillation, []

    def skewed(*args, **kwargs):
        run = own(*args, **kwargs)
        calls.append(run)
        if len(calls) == 2:
            next(run.student.parameters()).data.mul_(1.001)
        return run

    monkeypatch.setattr(gpu_checks, "distillation", skewed)
    with pytest.raises(AssertionError, match=r"student\.conv1\.weight"):
        check_alike("dfad", CPU)


def test_repeatable_algorithms_are_asked_for_on_cuda_alone_and_the_callers_come_back() -> None:
    own = torch.backends.cudnn
    before = own.benchmark, own.deterministic
    for device, deterministic in ((CPU, before[1]), (CUDA, True)):
        with repeatable(device):
            assert own.deterministic == deterministic
        assert (own.benchmark, own.deterministic) == before
