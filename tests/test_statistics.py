"""What a student's batch norms normalise by while it is measured, and statistics that are estimated anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import lenient
from lenient.core.errors import UsageError
from lenient.data import ImageSet, load_data
from lenient.evaluation import accuracy, evaluate, reestimate
from lenient.evaluation.statistics import even
from lenient.models.card import Network
from lenient.models.lending import copied_module
from toys import TinyNet, tiny_card, tiny_teacher


def of_noise(count: int = 40, seed: int = 0) -> ImageSet:
    """Images and labels of nothing, of the size of the small networks."""
    stream = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 6, 5), dtype=torch.uint8, generator=stream)
    labels = torch.arange(count) * 4 // count  # sorted by class
    return ImageSet("noise", "noise", "test", images, labels, tuple("abcd"), (0.4,), (0.3,), (1, 6, 5))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_statistics_are_the_average_over_batches(momentum):
    """Of means 1, 2, 4 that is 2.333333; a momentum of 0.1 would come from 0 to 0.661."""
    layer = nn.BatchNorm1d(1, momentum=momentum).eval()
    layer.running_mean.fill_(7.0)
    reestimate(
        [layer], layer, [torch.full((4, 1), mean) + torch.tensor([[-1.0], [-1], [1], [1]]) for mean in (1, 2, 4)]
    )
    assert float(layer.running_mean) == pytest.approx(2.333333, abs=1e-6)
    assert float(layer.running_var) == pytest.approx(4 / 3)
    assert int(layer.num_batches_tracked) == 3


def test_what_differs_between_batches_is_missing_from_the_variance():
    """{0, 0, 2, 2} and {4, 4, 6, 6} have 1.333 each, and 5 together."""
    layer = nn.BatchNorm1d(1).eval()
    batches = [torch.tensor([0.0, 0, 2, 2]).view(4, 1), torch.tensor([4.0, 4, 6, 6]).view(4, 1)]
    reestimate([layer], layer, batches)
    assert float(layer.running_var) == pytest.approx(1.333333, abs=1e-6)
    assert float(torch.cat(batches).var(correction=0)) == 5


def test_they_are_torchs_of_momentum_none_and_dropout_stays_off():
    net = nn.Sequential(TinyNet(), nn.Dropout(0.9), nn.BatchNorm1d(4)).eval()
    other, batches = copied_module(net), [torch.randn(5, 1, 6, 5) for _ in range(3)]
    reestimate([net[0].norm1, net[0].norm2, net[2]], net, batches)
    for part in other.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.reset_running_stats()
            part.momentum = None
            part.train()
    for batch in batches:
        other(batch)
    torch.testing.assert_close(net.state_dict(), other.state_dict())


def test_a_well_trained_nets_accuracy_stays_with_statistics_of_its_training_images(digits_teacher):
    """By less than half a point."""
    train, test = (load_data("digits", split=split) for split in ("train", "test"))
    before = evaluate(digits_teacher, test)
    after = evaluate(digits_teacher, test, statistics="adapted", images=train)
    assert (before.statistics, before.estimated_on) == ("running", None)
    assert (after.statistics, after.estimated_on) == ("adapted", len(train))
    assert before.accuracy > 0.9
    assert abs(before.accuracy - after.accuracy) < 0.005
    assert before.nll != after.nll


def test_measuring_leaves_what_is_stored_as_it_is():
    network, data = tiny_teacher(), of_noise()
    before = {key: value.clone() for key, value in network.module.state_dict().items()}
    for by in ({"statistics": "batch"}, {"statistics": "adapted", "images": torch.rand(9, 1, 6, 5)}):
        evaluate(network, data, **by)
    assert all(torch.equal(before[key], value) for key, value in network.module.state_dict().items())
    assert not {"running_mean", "running_var"} & vars(network.module.norm1).keys()


def test_by_the_batch_images_are_mixed_whatever_their_order_and_the_teacher_is_asked_as_it_is():
    network, data = tiny_teacher(), of_noise(300)
    found = evaluate(network, data, statistics="batch", batch_size=7, teacher=network)
    net = copied_module(network.module)
    net.norm1.train(), net.norm2.train()
    mixed = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    images = (data.images[mixed].float() / 255 - 0.4) / 0.3
    right = (net(images).argmax(dim=1) == data.labels[mixed]).float().mean()
    assert found.accuracy == pytest.approx(float(right))
    assert found.accuracy == accuracy(network, data, statistics="batch", batch_size=3)
    same = (net(images).argmax(dim=1) == network.module(images).argmax(dim=1)).float().mean()
    assert found.agreement == pytest.approx(float(same))
    assert found.agreement < 1


def test_batches_are_of_one_size_as_nearly_as_can_be():
    assert [even(count) for count in (40, 256, 359, 511, 512, 10_000)] == [40, 256, 359, 511, 256, 257]


class Narrow(TinyNet):
    """Memory suffices for twenty images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 20:
            raise torch.OutOfMemoryError
        return super().forward(images)


def test_a_batch_whose_statistics_count_is_never_asked_in_halves():
    network = Network(Narrow().eval(), tiny_card())
    evaluate(network, of_noise())
    for by in ({"statistics": "batch"}, {"statistics": "adapted", "images": torch.rand(40, 1, 6, 5)}):
        with pytest.raises(torch.OutOfMemoryError):
            evaluate(network, of_noise(), **by)


@pytest.mark.parametrize(("by", "said"), [
    ({"statistics": "bach"}, "--statistics bach: use one of running, batch, adapted, synthetic"),
    ({"statistics": "synthetic"}, "--statistics synthetic: name a run folder"),
    ({"statistics": "adapted"}, "--adapt-to: goes with --statistics adapted"),
    ({"adapt_to": "digits"}, "--adapt-to: goes with --statistics adapted"),
    ({"statistics": "adapted", "adapt_to": "digits", "adapt_images": 1}, "--adapt-images 1: at least 2"),
    ({"statistics": "adapted", "adapt_to": "digit"}, "--adapt-to digit: unknown; the nearest is digits"),
    ({"statistics": "adapted", "adapt_to": torch.rand(1, 1, 6, 5)}, "on two images at least"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused_by_the_flags_name(by, said):
    with pytest.raises(UsageError, match=said):
        lenient.evaluate(tiny_teacher(), of_noise(), device="cpu", **by)


def test_images_go_with_statistics_that_are_estimated_and_a_net_without_batch_norm_has_none():
    with pytest.raises(UsageError, match="--statistics adapted: needs images"):
        evaluate(tiny_teacher(), of_noise(), statistics="adapted")
    with pytest.raises(UsageError, match="--statistics batch: takes no images"):
        evaluate(tiny_teacher(), of_noise(), statistics="batch", images=torch.rand(4, 1, 6, 5))
    plain = Network(nn.Sequential(nn.Flatten(), nn.Linear(30, 4)).eval(), tiny_card())
    with pytest.raises(UsageError, match="0 batch-norm layers; leave it out"):
        evaluate(plain, of_noise(), statistics="batch")


def test_images_to_adapt_to_are_counted_and_the_same_ones_each_time():
    network = tiny_teacher()
    found = [
        lenient.evaluate(network, of_noise(), statistics="adapted", adapt_to=to, adapt_images=16, device="cpu")
        for to in (of_noise(60, seed=1), replace(of_noise(60, seed=1), labels=torch.zeros(60, dtype=torch.int64)),
                   of_noise(60, seed=1).images.float() / 255)
    ]  # fmt: skip
    assert {measures.estimated_on for measures in found} == {16}
    assert found[0] == found[1]
    assert found[0].nll == pytest.approx(found[2].nll)
