"""Measures against loops written from their definitions; nothing changed by measuring."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lenient.core.errors import UsageError
from lenient.data import ImageSet
from lenient.evaluation import accuracy, agreement, evaluate, in_eval_mode, latency, num_bytes, parameters
from lenient.evaluation.order import other_order
from lenient.models import Card, Network, PixelClassifier, load_network

CLASSES = 7


class Table(nn.Module):
    """Answers each image with the row of logits that its first pixel names."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not self.training
        self.calls += 1
        return self.rows[(images[:, 0, 0, 0] * 255).round().long()]


def toy(labels: Tensor, num_classes: int = CLASSES) -> ImageSet:
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    names = tuple(f"c{number}" for number in range(num_classes))
    return ImageSet("toy", "toy", "test", images, labels, names, (0.5,), (0.5,), (1, 2, 2))


@pytest.fixture
def problem() -> tuple[Table, Table, ImageSet]:
    generator = torch.Generator().manual_seed(0)
    first, second = (2 * torch.randn(50, CLASSES, generator=generator) for _ in range(2))
    labels = torch.randint(0, CLASSES - 1, (50,), generator=generator)  # the last class has no images
    return Table(first), Table(second), toy(labels)


def test_measures_equal_their_definitions(problem: tuple[Table, Table, ImageSet]) -> None:
    model, teacher, data = problem
    found = evaluate(model, data, teacher=teacher, batch_size=16)
    rows, others = model.rows.detach(), teacher.rows.detach()
    right, top5, nll, same = 0, 0, 0.0, 0
    hits: dict[int, list[int]] = {label: [] for label in range(CLASSES)}
    for row, other, label in zip(rows, others, data.labels.tolist(), strict=True):
        hit = int(row.argmax() == label)
        right += hit
        hits[label].append(hit)
        top5 += label in row.sort(descending=True).indices[:5]
        nll -= math.log(float(row.double().exp()[label] / row.double().exp().sum()))
        same += int(row.argmax() == other.argmax())
    assert found.n == 50
    assert found.accuracy == right / 50
    assert found.top5 == pytest.approx(top5 / 50)
    assert found.nll == pytest.approx(nll / 50, rel=1e-5)
    assert found.agreement == same / 50 == agreement(rows, others)
    assert found.per_class_accuracy["c2"] == pytest.approx(sum(hits[2]) / len(hits[2]))
    assert found.per_class_accuracy["c6"] is None
    assert accuracy(model, data, batch_size=7) == found.accuracy


def test_the_calibration_error_is_that_of_fifteen_bins() -> None:
    generator = torch.Generator().manual_seed(0)
    # here, for it imports scipy's signals and more, which no process that only collects the tests should wait for
    from torchmetrics.classification import MulticlassCalibrationError

    rows = 2 * torch.randn(250, CLASSES, generator=generator)
    labels = torch.multinomial(rows.softmax(1), 1, generator=generator).flatten()
    found = evaluate(Table(rows), toy(labels), batch_size=100).ece
    oracle, coarser = (MulticlassCalibrationError(CLASSES, n_bins=bins, norm="l1") for bins in (15, 14))
    assert found == pytest.approx(float(oracle(rows.softmax(1), labels)), abs=1e-6)
    assert abs(found - float(coarser(rows.softmax(1), labels))) > 1e-4


def test_the_batch_size_changes_nothing(problem: tuple[Table, Table, ImageSet]) -> None:
    model, _, data = problem
    whole, pieces = (evaluate(model, data, batch_size=size).to_dict() for size in (50, 3))
    assert whole.pop("per_class_accuracy") == pieces.pop("per_class_accuracy")
    assert whole == pytest.approx(pieces)
    assert model.calls == 1 + 17


def test_top5_and_agreement_are_left_out_where_they_say_nothing() -> None:
    found = evaluate(Table(torch.eye(4)), toy(torch.arange(4), 4))
    assert (found.accuracy, found.top5, found.agreement) == (1.0, None, None)


def test_numbers_that_are_not_finite_become_null_in_json() -> None:
    found = evaluate(Table(torch.full((4, 4), float("nan"))), toy(torch.arange(4), 4))
    assert math.isnan(found.nll)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["nll"] is None


def test_a_network_brings_its_normalisation() -> None:
    class Brightness(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([-images.mean((1, 2, 3)), images.mean((1, 2, 3))], 1)

    labels = (torch.arange(200) > 100).long()
    card = Card(None, (1, 2, 2), 2, (100.5 / 255,), (0.1,))
    assert accuracy(Network(Brightness(), card), toy(labels, 2)) == 1.0
    assert accuracy(Network(Brightness(), Card(None, (1, 2, 2), 2, (0.0,), (1.0,))), toy(labels, 2)) < 0.6


def test_measuring_leaves_the_network_as_it_was() -> None:
    network = load_network("lenient:resnet8", input_size=(1, 8, 8), num_classes=3, seed=0)
    network.module.train()
    next(iter(network.module.children())).eval()
    modes = [part.training for part in network.module.modules()]
    state = {name: value.clone() for name, value in network.module.state_dict().items()}
    addresses = [parameter.data_ptr() for parameter in network.module.parameters()]
    data = ImageSet(
        "toy", "toy", "test", torch.randint(0, 256, (9, 1, 8, 8), dtype=torch.uint8), torch.arange(9) % 3,
        ("a", "b", "c"), (0.5,), (0.5,), (1, 8, 8),
    )  # fmt: skip
    evaluate(network, data, teacher=PixelClassifier(network.module, network.card), batch_size=4, precision="bf16")
    latency(network.module, (1, 8, 8), (1,), repeats=1, warmup=0)
    assert [part.training for part in network.module.modules()] == modes
    assert [parameter.data_ptr() for parameter in network.module.parameters()] == addresses
    assert all(torch.equal(value, state[name]) for name, value in network.module.state_dict().items())
    assert not any(parameter.is_inference() for parameter in network.module.parameters())


def test_tensors_come_back_even_if_replaced_meanwhile() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = {name: (value.data_ptr(), value.clone()) for name, value in module.state_dict().items()}
    with in_eval_mode(module, torch.device("cpu")):
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = torch.full_like(tensor, 7)  # as a move to another device would
    for name, value in module.state_dict().items():
        assert value.data_ptr() == before[name][0]
        assert torch.equal(value, before[name][1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_measuring_on_a_gpu_gives_the_same_numbers(problem: tuple[Table, Table, ImageSet]) -> None:
    model, teacher, data = problem
    there, here = (evaluate(model, data, teacher=teacher, device=device).to_dict() for device in ("cuda", "cpu"))
    assert there.pop("per_class_accuracy") == here.pop("per_class_accuracy")
    assert there == pytest.approx(here, rel=1e-5)
    assert model.rows.device.type == "cpu"


def test_modes_come_back_after_an_error(problem: tuple[Table, Table, ImageSet]) -> None:
    model, _, data = problem
    model.train()
    model.rows.data = model.rows.data[:3]
    with pytest.raises(UsageError, match="cannot answer 50 images: IndexError"):
        evaluate(model, data)
    assert model.training


def test_a_batch_that_does_not_fit_into_memory_goes_in_halves(problem: tuple[Table, Table, ImageSet]) -> None:
    first, second, data = problem

    class Small(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> Tensor:
            if len(images) > 3:
                raise torch.OutOfMemoryError
            return self.inner(images)

    assert evaluate(Small(first), data, teacher=second) == evaluate(first, data, teacher=second)
    timed = latency(Small(nn.Identity()), (1, 2, 2), batch_sizes=(1, 64), repeats=1)
    assert list(timed["milliseconds"]) == [1]


def test_data_that_does_not_fit_is_refused() -> None:
    network = load_network("lenient:resnet8", input_size=(1, 8, 8), num_classes=3, seed=0)
    with pytest.raises(UsageError, match="toy holds 1x2x2 images, the network takes 1x8x8"):
        evaluate(network, toy(torch.arange(3), 3))
    card = Card(None, (1, 2, 2), 5, (0.5,), (0.5,))
    with pytest.raises(UsageError, match="toy has 3 classes, the network 5"):
        evaluate(Network(nn.Identity(), card), toy(torch.arange(3), 3))
    card = replace(card, num_classes=3, classes=("c0", "c2", "c1"))
    with pytest.raises(UsageError, match="classes in another order: number 1 is 'c1', the network's 'c2'"):
        evaluate(Network(nn.Identity(), card), toy(torch.arange(3), 3))
    with pytest.raises(UsageError, match="no images"):
        evaluate(nn.Identity(), toy(torch.arange(0)))


def test_answers_that_are_right_in_another_order_are_noticed() -> None:
    labels = torch.arange(240) % 12
    names = tuple(sorted((str(number) for number in range(12)), key=str))
    outputs = torch.tensor([int(name) for name in names])
    noise = torch.randint(0, 12, (240,), generator=torch.Generator().manual_seed(0))
    answers = torch.where(torch.arange(240) % 10 == 0, noise, outputs[labels])
    said = other_order(answers, labels, names)
    assert said is not None
    assert "class 2 ('10') is the network's output 10" in said
    assert other_order(labels, labels, names) is None
    data = replace(toy(labels, 12), classes=names)
    found = evaluate(Table(torch.eye(12)[answers]), data)
    assert found.note == said
    assert found.to_dict()["note"] == said


@pytest.mark.parametrize("count", [2, 10, 100])
def test_chance_and_collapse_fit_no_other_order(count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(400) % count
    for answers in (
        torch.randint(0, count, (400,), generator=generator),
        torch.full((400,), count - 1),
        labels // 2 * 2,
    ):
        assert other_order(answers, labels, [str(label) for label in range(count)]) is None
    one = torch.zeros(1, dtype=torch.int64)
    assert other_order(one + 1, one, ["a", "b"]) is None
    swapped = other_order(1 - labels % 2, labels % 2, ["a", "b"])
    assert swapped is not None
    assert "accuracy is 0.0%, and 100.0%" in swapped


def test_agreement_takes_logits_or_classes() -> None:
    logits = torch.tensor([[0.0, 1.0], [3.0, 1.0], [0.0, 2.0]])
    assert agreement(logits, torch.tensor([1, 1, 1])) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="same samples"):
        agreement(logits, torch.tensor([1]))


def test_costs_count_shared_weights_once() -> None:
    layer = nn.Linear(3, 3)
    module = nn.Sequential(layer, nn.BatchNorm1d(3), layer)
    assert parameters(module) == 9 + 3 + 3 + 3
    assert num_bytes(module) == 4 * (18 + 3 + 3) + 8
    assert num_bytes(module.to(torch.bfloat16)) == 2 * 24 + 8


def test_latency_states_where_and_how_it_was_measured() -> None:
    found = latency(nn.Flatten(), (1, 4, 4), (1, 8), repeats=3, warmup=1)
    assert found["device"] == "cpu"
    assert found["threads"] == torch.get_num_threads()
    assert set(found["milliseconds"]) == {1, 8}
    assert all(value > 0 for value in found["milliseconds"].values())


def test_latency_is_the_median_after_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    passes, now = iter([9.0, 0.002, 0.001, 0.5]), [0.0]

    class Timed(nn.Flatten):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            now[0] += next(passes)
            return super().forward(images)

    monkeypatch.setattr("lenient.core.timing.time.perf_counter", lambda: now[0])
    found = latency(Timed(), (1, 4, 4), (1,), repeats=3, warmup=1)["milliseconds"]
    assert found == {1: pytest.approx(2.0)}
    assert next(passes, None) is None


def test_costs_can_be_measured_without_real_data_or_torchmetrics() -> None:
    code = "import sys, lenient.evaluation; print([m for m in ('lenient.data', 'torchmetrics') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
