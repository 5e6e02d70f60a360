"""What a student's batch norms normalise by while it is measured, and statistics that are estimated anew."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import lenient
from lenient.bench.record import cell_record
from lenient.core.errors import TeacherError, UsageError
from lenient.data import ImageSet, load_data
from lenient.evaluation import accuracy, evaluate, reestimate
from lenient.evaluation.statistics import even
from lenient.losses.distances import cross_entropy, kl_divergence
from lenient.models import build_student, save_network
from lenient.models.card import Network
from lenient.models.lending import copied_module
from lenient.runs.request import Request, resolve
from lenient.training import trainer
from toys import TinyNet, digits_like, distillation, quick, tiny_card, tiny_student, tiny_teacher


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
    network, data = tiny_teacher(), of_noise(600)
    found = evaluate(network, data, statistics="batch", batch_size=7, teacher=network)
    net = copied_module(network.module)
    net.norm1.train(), net.norm2.train()
    mixed = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    images, labels = (data.images[mixed].float() / 255 - 0.4) / 0.3, data.labels[mixed]
    said = torch.cat([net(half).argmax(dim=1) for half in images.split(300)])
    assert found.accuracy == pytest.approx(float((said == labels).float().mean()))
    assert found.accuracy == accuracy(network, data, statistics="batch", batch_size=3)
    assert found.agreement == pytest.approx(float((said == network.module(images).argmax(dim=1)).float().mean()))
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
    ({"adapt_images": 16}, "--adapt-images 16: goes with --statistics adapted; leave it out"),
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


# students that learned by them

NOISE = {"name": "noise", "student_lr": 0.05, "statistics": "batch"}


def test_the_student_learns_what_the_teacher_says_by_statistics_of_the_batch():
    run = distillation(method=NOISE)
    _, output = run.take_update()
    said = output.batch.logits("train", "teacher")
    inputs = output.batch.inputs["train"]
    assert torch.equal(said, run.teacher.by("batch").respond(inputs).logits)
    assert not torch.allclose(said, run.teacher.respond(inputs).logits)
    assert run.teacher.forwards == 3 * len(inputs)


def test_a_defence_asks_the_teacher_by_the_same_statistics(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "lenient.defenses.none.NoDefense.defend", lambda self, algorithm, context: asked.append(context) or algorithm
    )
    distillation(method=NOISE)
    distillation(method={**NOISE, "statistics": "running"})
    assert [context.teacher.statistics for context in asked] == ["batch", "running"]


def test_the_teacher_is_as_it_was_and_one_without_batch_norm_is_refused():
    teacher = tiny_teacher()
    before = {key: value.clone() for key, value in teacher.module.state_dict().items()}
    lenient.distill(teacher, tiny_student(), settings=quick("noise") | {"method": NOISE})
    assert all(torch.equal(before[key], value) for key, value in teacher.module.state_dict().items())
    plain = Network(nn.Sequential(nn.Flatten(), nn.Linear(30, 4)).eval(), tiny_card())
    with pytest.raises(TeacherError, match=r"0 batch-norm layers.*-s method\.statistics=running"):
        lenient.distill(plain, tiny_student(), settings=quick("noise") | {"method": NOISE})


def test_the_student_is_delivered_with_statistics_estimated_anew(monkeypatch):
    monkeypatch.setattr(trainer, "STATISTICS_IMAGES", 40)
    network = tiny_student()
    run = distillation(student=network, method=NOISE)
    while run.step < 6:
        run.take_update()
    left = {name: value.clone() for name, value in network.module.state_dict().items()}
    wanted = copied_module(network.module).eval()
    images = [run.algorithm.source.sample(8, "statistics", number) for number in range(5)]
    reestimate([wanted.norm1, wanted.norm2], lambda x: wanted(run.teacher.normalize(x)), images)
    run.inspect(images[0])
    result = run.run()
    assert result.summary.estimated_on == 40
    assert network.module.training
    torch.testing.assert_close(network.module.state_dict(), wanted.state_dict())
    moved = {name for name, value in network.module.state_dict().items() if not torch.equal(value, left[name])}
    assert {name.split(".")[1] for name in moved} == {"running_mean", "running_var", "num_batches_tracked"}


def test_evaluations_on_the_way_are_of_the_student_as_it_would_be_delivered_and_leave_it_as_it_is():
    run = distillation(method=NOISE, steps=3)
    seen = {}

    def evaluate_student(student, statistics="running"):
        seen[statistics] = {name: value.clone() for name, value in student.state_dict().items()}
        return {"accuracy": {"running": 0.25, "batch": 0.75}[statistics]}

    run.evaluate = evaluate_student
    while run.step < 3:
        run.take_update()
    left = {name: value.clone() for name, value in run.student.state_dict().items()}
    assert run._measured() == {"accuracy": 0.25, "transductive": 0.75}
    assert all(torch.equal(left[name], value) for name, value in run.student.state_dict().items())
    assert not torch.equal(left["norm1.running_mean"], seen["running"]["norm1.running_mean"])
    run.inspect(torch.rand(8, 1, 6, 5))
    torch.testing.assert_close(run.run().student.state_dict(), seen["running"])


def test_a_student_without_batch_norm_has_nothing_to_estimate():
    student = Network(nn.Sequential(nn.Flatten(), nn.Linear(30, 4)), tiny_card())
    assert distillation(student=student, method=NOISE).run().summary.estimated_on is None


def test_a_run_says_in_report_card_and_log_what_its_numbers_are_by(tmp_path: Path, caplog):
    save_network(tmp_path / "teacher.safetensors", digits_like())
    settings = quick("noise")
    settings |= {"method": NOISE, "batch_size": 256}
    student = build_student("lenient:resnet8-half", digits_like().card, seed=0)
    with caplog.at_level(logging.WARNING, "lenient"):
        result = lenient.distill(
            tmp_path / "teacher.safetensors", student.card.arch, output=tmp_path / "run", settings=settings,
            eval_data="digits",
        )  # fmt: skip
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["estimated_on"] == result.summary.estimated_on == 1024
    other = report["student"]["transductive"]
    assert other.keys() == {"accuracy", "agreement", "ece", "nll", "acc_last_k", "acc_max"}
    found = {
        by: lenient.evaluate(tmp_path / "run", "digits", statistics=by, device="cpu")
        for by in ("running", "batch", "synthetic")
    }
    assert report["student"]["accuracy"] == pytest.approx(found["running"].accuracy)
    assert other["accuracy"] == pytest.approx(found["batch"].accuracy)
    assert found["synthetic"].nll == pytest.approx(found["running"].nll, rel=0.01)  # of the same images, mixed anew
    spec = {"id": "x", "row": "noise", "method": "noise", "teacher": {"label": "T"}, "student": "s", "seed": 3,
            "data": "digits"}  # fmt: skip
    record = cell_record(spec, tmp_path / "run", {}, None, "digits")
    assert record["estimated_on"] == 1024
    curve = [value for _, value in record["transductive"]["curve"]]
    assert curve == pytest.approx([entry.transductive for entry in result.history], abs=1e-5)
    assert record["transductive"]["last"] == curve[-1] == pytest.approx(other["accuracy"], abs=1e-5)
    assert record["last"] == pytest.approx(found["running"].accuracy, abs=1e-5)
    said = "estimated anew on 1,024 images of the method's source, so they do not describe real ones"
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    card = (tmp_path / "run" / "student" / "config.json").read_text(encoding="utf-8")
    assert said in page.replace("&#39;", "'")
    assert said in json.loads(card)["notes"][-1]
    assert said in caplog.text
    assert "with batch-norm statistics of the test batch: transductive" in page


def test_published_settings_are_those_of_the_released_code():
    settings = resolve(Request(method="noise", recipes=["published"]))
    assert (settings.steps, settings.batch_size, settings.steps_per_epoch) == (196 * 200, 256, 196)
    own = settings.method
    assert (own.distribution, own.statistics, own.student_loss, own.student_optimizer) == (
        "normal", "batch", "cross-entropy", "adam",
    )  # fmt: skip
    optimizer = distillation(method=own.model_dump()).algorithm.updates["student"].optimizer
    (group,) = optimizer.param_groups
    assert (type(optimizer), group["lr"], group["betas"]) == (torch.optim.Adam, 1e-3, (0.9, 0.999))


def test_soft_cross_entropy_has_the_gradient_of_kl_and_the_teachers_entropy_as_its_least_value():
    teacher, student = torch.randn(5, 4), torch.randn(5, 4, requires_grad=True)
    gradients = [torch.autograd.grad(loss(teacher, student).sum(), student) for loss in (cross_entropy, kl_divergence)]
    torch.testing.assert_close(*gradients)
    entropy = torch.distributions.Categorical(logits=teacher).entropy()
    torch.testing.assert_close(cross_entropy(teacher, teacher), entropy)
