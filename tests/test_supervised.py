"""Training on real images: settings that do something, the same seed twice, checkpoints spread over a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lenient.core.config import parse
from lenient.core.errors import HealthError, UsageError
from lenient.data import DATA_NAMES, ImageSet, load_data
from lenient.evaluation import accuracy
from lenient.models import Network, load_network
from lenient.supervised import Epoch, TeacherRecipe, TrainingResult, default_recipe, lr_factor, train_classifier
from lenient.supervised.keeping import Keeper, nearest_to
from lenient.supervised.training import build_optimizer, mixed

TINY: dict[str, Any] = {"epochs": 2, "batch_size": 32, "lr": 0.05, "schedule": "onecycle", "augment": "shift"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_data("digits", split="fit").subset(torch.arange(160))


@pytest.fixture(scope="module")
def held() -> ImageSet:
    return load_data("digits", split="holdout")


def network(arch: str = "lenient:resnet8") -> Network:
    return load_network(arch, input_size=(1, 8, 8), num_classes=10, mean=(0.3055,), std=(0.376,), seed=0)


def train(data: ImageSet, *, arch: str = "lenient:resnet8", **settings: Any) -> tuple[Network, TrainingResult]:
    built = network(arch)
    return built, train_classifier(built, data, TeacherRecipe(**(TINY | settings)))


def weights(built: Network) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in built.module.state_dict().values()])


# --- training ---


def test_the_digits_recipe_learns_digits(held: ImageSet) -> None:
    built = network("lenient:resnet8")
    recipe = TeacherRecipe(**(default_recipe("digits") | {"epochs": 8}))
    seen: list[Epoch] = []
    result = train_classifier(built, load_data("digits", split="fit"), recipe, test=held, on_epoch=seen.append)
    last = result.history[-1]
    assert last.test_accuracy is not None
    assert last.test_accuracy > 0.93
    assert last.test_accuracy == accuracy(built, held)
    assert last.train_accuracy > 0.9
    assert last.loss < 0.3 < result.history[0].loss
    assert [line.epoch for line in result.history] == list(range(1, 9))
    assert seen == result.history
    assert not built.module.training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(digits: ImageSet) -> None:
    torch.manual_seed(1)
    first = weights(train(digits, mixup=0.3)[0])
    torch.manual_seed(2)
    assert torch.equal(first, weights(train(digits, mixup=0.3)[0]))
    assert not torch.equal(first, weights(train(digits, mixup=0.3, seed=1)[0]))


def test_dropout_follows_the_seed_too(digits: ImageSet) -> None:
    def run(seed: int) -> torch.Tensor:
        built = network("lenient:lenet5")
        built.module = nn.Sequential(nn.Dropout(0.5), built.module)
        train_classifier(built, digits, TeacherRecipe(**TINY, seed=seed))
        return weights(built)

    torch.manual_seed(5)
    first = run(0)
    torch.manual_seed(6)
    assert torch.equal(first, run(0))


def test_the_callers_random_state_is_untouched(digits: ImageSet) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    train(digits, mixup=0.2)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # type: ignore[index]


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 3},
        {"batch_size": 40},
        {"optimizer": "adam", "lr": 1e-3},
        {"lr": 0.02},
        {"momentum": 0.5},
        {"optimizer": "adam", "momentum": 0.5},
        {"nesterov": True},
        {"weight_decay": 0.0},
        {"schedule": "cosine"},
        {"schedule": "constant"},
        {"schedule": "multistep"},
        {"label_smoothing": 0.1},
        {"mixup": 0.5},
        {"augment": "none"},
        {"augment": "crop-flip"},
        {"seed": 7},
    ],
    ids=str,
)
def test_every_setting_changes_the_result(digits: ImageSet, change: dict[str, Any]) -> None:
    base = {"lr": 1e-3, "optimizer": "adam"} if change.get("optimizer") and "momentum" in change else {}
    plain = weights(train(digits, arch="lenient:lenet5", **base)[0])
    assert not torch.equal(plain, weights(train(digits, arch="lenient:lenet5", **(base | change))[0]))


@pytest.mark.parametrize("change", [{"drops": [0.3]}, {"drop_factor": 0.5}], ids=str)
def test_settings_of_multistep_change_the_result(digits: ImageSet, change: dict[str, Any]) -> None:
    base = {"schedule": "multistep", "drops": (0.5,)}
    plain = weights(train(digits, arch="lenient:lenet5", **base)[0])
    assert not torch.equal(plain, weights(train(digits, arch="lenient:lenet5", **(base | change))[0]))


def test_bf16_trains_to_float32_contiguous_weights(digits: ImageSet) -> None:
    built = network()
    result = train_classifier(built, digits, TeacherRecipe(**(TINY | {"epochs": 4})), precision="bf16")
    assert result.history[-1].loss < result.history[0].loss
    for value in built.module.state_dict().values():
        assert value.is_contiguous()
        assert value.dtype in (torch.float32, torch.int64)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_a_gpu_learns_and_comes_back(held: ImageSet) -> None:
    built, recipe = network(), TeacherRecipe(**(TINY | {"epochs": 8}))
    data = load_data("digits", split="fit")
    result = train_classifier(built, data, recipe, test=held, device="cuda", precision="bf16")
    assert result.history[-1].loss < 0.5
    assert all(value.device.type == "cpu" for value in built.module.state_dict().values())


def test_an_incomplete_last_batch_is_dropped_and_a_small_set_is_one_batch(digits: ImageSet) -> None:
    built = network()
    train_classifier(built, digits, TeacherRecipe(**(TINY | {"epochs": 1, "batch_size": 159})))
    tracked = [value for name, value in built.module.state_dict().items() if name.endswith("num_batches_tracked")]
    assert int(tracked[0]) == 1
    result = train(digits, batch_size=1000, epochs=1)[1]
    assert 0 <= result.history[0].train_accuracy <= 1


def test_the_first_step_is_that_of_a_hand_written_one(digits: ImageSet) -> None:
    recipe = TeacherRecipe(
        epochs=1, batch_size=160, lr=0.1, schedule="constant", augment="none", weight_decay=0, label_smoothing=0.2
    )
    trained, by_hand = network("lenient:lenet5"), network("lenient:lenet5")
    result = train_classifier(trained, digits, recipe)
    images = (digits.images[torch.arange(160)].float() / 255 - 0.3055) / 0.376
    log_probabilities = by_hand.module(images).log_softmax(1)
    target = 0.2 / 10 + 0.8 * nn.functional.one_hot(digits.labels, 10)
    loss = -(target * log_probabilities).sum(1).mean()
    loss.backward()
    assert result.history[0].loss == pytest.approx(float(loss.detach()), rel=1e-5)
    for parameter, reference in zip(trained.module.parameters(), by_hand.module.parameters(), strict=True):
        assert parameter.grad is None
        assert torch.allclose(parameter, reference - 0.1 * reference.grad, atol=1e-6)  # type: ignore[operator]


def test_divergence_stops_with_the_setting_to_lower(digits: ImageSet) -> None:
    with pytest.raises(HealthError, match=r"diverged in epoch 1 .*-s lr=1000"):
        train(digits, lr=1000, weight_decay=1e6, schedule="constant")


def test_what_cannot_be_trained_is_refused(digits: ImageSet) -> None:
    with pytest.raises(UsageError, match="takes 1x8x8"):
        train(load_data("digits", split="fit", input_size=(1, 16, 16)))
    with pytest.raises(UsageError, match="not enough"):
        train(digits.subset(torch.tensor([0])))


def test_progress_is_reported_while_an_epoch_runs(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lenient.supervised.training.PROGRESS_SECONDS", 0.0)
    seen: list[Any] = []
    train_classifier(network("lenient:lenet5"), digits, TeacherRecipe(**TINY), on_progress=seen.append)
    assert [line.step for line in seen] == list(range(1, 11))
    assert {line.steps for line in seen} == {10}
    assert [line.epoch for line in seen] == [1] * 5 + [2] * 5


# --- settings ---


@pytest.mark.parametrize("name", DATA_NAMES)
def test_the_recipes_of_all_data_are_valid(name: str) -> None:
    assert parse(TeacherRecipe, default_recipe(name)).epochs <= 90


def test_bad_settings_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="epochs"):
        parse(TeacherRecipe, {"epoch": 3})
    with pytest.raises(UsageError, match="nesterov needs"):
        parse(TeacherRecipe, {"optimizer": "adam", "nesterov": True})
    with pytest.raises(UsageError, match=r"drops\.0=80: input should be less than 1"):
        parse(TeacherRecipe, {"drops": [80, 120]})


def test_multistep_drops_exactly_at_the_published_epochs() -> None:
    recipe = TeacherRecipe()
    steps = 390
    factors = [lr_factor(recipe, epoch * steps / (500 * steps)) for epoch in range(500)]
    assert factors[:200] == [1.0] * 200
    assert factors[200:300] == pytest.approx([0.1] * 100)
    assert factors[300:] == pytest.approx([0.01] * 200)


def test_smooth_schedules_start_and_end_where_they_should() -> None:
    cosine, cycle = TeacherRecipe(schedule="cosine"), TeacherRecipe(schedule="onecycle")
    assert [lr_factor(cosine, p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1, 0.5, 0])
    assert [lr_factor(cycle, p) for p in (0.0, 0.15, 0.3, 0.65, 1.0)] == pytest.approx([0.04, 0.52, 1, 0.5, 0])


def test_adam_takes_its_settings() -> None:
    recipe = TeacherRecipe(optimizer="adam", lr=0.01, momentum=0.8, weight_decay=0.3)
    group = build_optimizer(nn.Linear(2, 2), recipe).param_groups[0]
    assert (group["lr"], group["betas"][0], group["weight_decay"]) == (0.01, 0.8, 0.3)


def test_mixup_mixes_images_and_targets_alike() -> None:
    images, targets = torch.eye(6).view(6, 1, 2, 3), torch.eye(6)
    blend, soft = mixed(images, targets, 1.0, torch.Generator().manual_seed(1))
    assert torch.allclose(blend.flatten(1), soft)
    assert torch.allclose(soft.sum(1), torch.ones(6))
    assert torch.equal(soft.argmax(1), torch.arange(6))
    assert not torch.equal(soft, targets)


# --- kept checkpoints ---


def simulate(tmp_path: Path, accuracies: list[float], keep: int, above: float | None, **settings: Any) -> Any:
    recipe = TeacherRecipe(epochs=len(accuracies), **settings)
    keeper = Keeper(network("lenient:lenet5-half"), recipe, keep, above, tmp_path / "kept")
    most = 0
    for epoch, reached in enumerate(accuracies, 1):
        keeper.consider(epoch, reached)
        most = max(most, len(list((tmp_path / "kept").iterdir())))
    kept, notes = keeper.finish()
    assert most <= keep + 1
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [item.path.name for item in kept]
    return [item.epoch for item in kept], notes


def test_kept_epochs_are_spread_evenly_from_the_first_good_one(tmp_path: Path) -> None:
    rising = [min(0.95, 0.5 + 0.02 * epoch) for epoch in range(50)]
    assert simulate(tmp_path, rising, 5, 0.6) == ([7, 18, 28, 39, 50], [])


def test_epochs_at_or_below_the_threshold_are_never_kept(tmp_path: Path) -> None:
    wavering = [0.92 if epoch % 3 == 0 else 0.91 for epoch in range(1, 51)]
    epochs, notes = simulate(tmp_path, wavering, 5, 0.91)
    assert notes == []
    assert len(epochs) == 5
    assert all(epoch % 3 == 0 for epoch in epochs)
    assert epochs[0] == 3
    assert epochs[-1] == 48
    assert max(abs(epoch - want) for epoch, want in zip(epochs, np.linspace(3, 50, 5), strict=True)) <= 2


def test_one_kept_checkpoint_is_the_last(tmp_path: Path) -> None:
    assert simulate(tmp_path, [0.9] * 10, 1, None)[0] == [10]


def test_missed_wishes_are_noted(tmp_path: Path) -> None:
    late = [0.5] * 8 + [0.95] * 2
    epochs, notes = simulate(tmp_path, late, 3, 0.9)
    assert epochs == [9, 10]
    assert "only 2 of 3" in notes[0]
    assert "before the first drop" in notes[1]
    assert simulate(tmp_path / "cosine", late, 2, 0.9, schedule="cosine")[1] == []


def test_nearest_epochs_are_taken_once() -> None:
    assert nearest_to([1.0, 5.5, 10.0], [1, 5, 6, 10]) == {1, 5, 10}
    assert nearest_to([1.0, 2.0, 3.0], [7]) == {7}
    assert nearest_to([1.0, 2.0], [1, 9]) == {1, 9}


def test_kept_files_are_the_networks_of_their_epochs(digits: ImageSet, held: ImageSet, tmp_path: Path) -> None:
    built = network()
    recipe = TeacherRecipe(**(TINY | {"epochs": 5}))
    result = train_classifier(built, digits, recipe, test=held, keep=3, keep_dir=tmp_path)
    assert [kept.epoch for kept in result.kept] == [1, 3, 5]
    assert result.notes == []
    for kept in result.kept:
        loaded = load_network(kept.path)
        assert loaded.card == built.card
        assert accuracy(loaded, held) == pytest.approx(kept.accuracy, abs=0.01)
        assert kept.accuracy == result.history[kept.epoch - 1].test_accuracy
    assert torch.equal(weights(load_network(result.kept[-1].path)), weights(built))


def test_keeping_needs_test_images_and_enough_epochs(digits: ImageSet, held: ImageSet) -> None:
    with pytest.raises(UsageError, match="--keep needs"):
        train_classifier(network(), digits, TeacherRecipe(**TINY), keep=2)
    with pytest.raises(UsageError, match="only 2 epochs"):
        train_classifier(network(), digits, TeacherRecipe(**TINY), test=held, keep=3)


def test_loss_of_untrained_classes_is_log_of_their_number(digits: ImageSet) -> None:
    result = train(digits, lr=1e-12, epochs=1)[1]
    assert result.history[0].loss == pytest.approx(math.log(10), abs=0.3)
