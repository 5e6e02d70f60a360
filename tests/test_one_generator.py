"""The methods with one generator: what each paper says of its updates, and what they reduce to."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from lenient.core.errors import TeacherError, UsageError
from lenient.core.seeding import Streams
from lenient.generators.upsampling import GeneratorSettings, UpsamplingGenerator
from lenient.losses.distances import js_divergence, kl_divergence
from lenient.losses.prior import confidence_score
from lenient.methods import METHODS, method_class
from lenient.methods.anatomy import describe, needs_by_default
from lenient.methods.choice import choose, obstacles
from lenient.models import build_student
from lenient.models.card import Network
from lenient.models.probing import classifying_layer, last_block_by_size
from lenient.runs.request import Request, resolve
from lenient.synthesis.sampler import Sampler
from lenient.teacher.batch import Clock
from lenient.teacher.frozen import FrozenTeacher
from lenient.teacher.probes import BatchNorms, Blocks, Features
from lenient.training.settings import DistillSettings
from lenient.training.trainer import Distillation
from test_methods import BASE, INVERTING, QUICK_STREAM, last_output, same, take, weights
from toys import CPU, QUICK, TinyNet, distillation, tiny_card, tiny_student, tiny_teacher

# reductions


@pytest.mark.parametrize("name", ["mb-dfkd", "pre-dfkd", "meta-dfkd"])
def test_replay_of_size_zero_is_the_plain_method(name):
    plain = {**QUICK_STREAM, "replay": "none", "update": "plain"}
    none = take(distillation(method={**BASE[name], "replay": "none", "student_clip_norm": None}), 9)
    assert same(weights(none), weights(take(distillation(method={"name": "mb-dfkd", **plain}), 9)))


def test_selection_none_is_the_ablation():
    recipe = resolve(
        Request(method="ta-dfkd", recipes=["without-class-prior"], settings=QUICK, overrides=["method.student_steps=3"])
    )
    with FrozenTeacher(tiny_teacher(), CPU) as teacher:
        ablation = take(Distillation(teacher, tiny_student(), recipe, CPU), 9)
    paper = {
        "name": "ta-dfkd",
        "student_steps": 3,
        "student_lr": 0.2,
        "selection": "none",
        "beta": 1,
        "entropy_weight": 0,
    }
    ours = distillation(method=paper, generator={"output": "sigmoid"})
    first = ours.take_update()[1]
    source = ours.algorithm.updates["generator"].step.sampler
    torch.testing.assert_close(first.batch.images, source.sample(8, "student-latents/0", 0).images)
    ours = take(distillation(method=paper, generator={"output": "sigmoid"}), 9)
    assert same(weights(ours), weights(ablation))


@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_without_a_selection_the_teacher_is_asked_once_for_the_student(augmentation):
    run = distillation(method={**BASE["bn-adv"], "augmentation": augmentation})
    before = run.teacher.forwards
    name, output = run.take_update()
    assert (name, run.teacher.forwards - before) == ("student", 8)
    shown = output.batch.inputs["train"]
    assert (augmentation == "none") == torch.equal(shown, run.teacher.normalize(output.batch.images))
    torch.testing.assert_close(output.batch.logits("train", "teacher"), run.teacher.respond(shown).logits)
    assert output.selected.weight.tolist() == [1] * 8
    assert float(output.facts["shortfall"]) == 0


def test_mads_second_weight_zero_is_the_plain_adversary():
    mad = {**BASE["mad"], "replay": {"weight": 0.0}}
    without = {**BASE["mad"], "replay": "none"}
    assert same(weights(take(distillation(method=mad), 9)), weights(take(distillation(method=without), 9)))


def test_the_three_that_share_an_objective_start_alike():
    runs = [take(distillation(method=BASE[name]), 1) for name in ("mb-dfkd", "pre-dfkd", "meta-dfkd")]
    first, *others = [run.algorithm.updates["generator"].module.state_dict() for run in runs]
    assert all(same(first, other) for other in others)


# updates


def generator_gradient(name: str, **method: Any) -> tuple[Any, Any, list[torch.Tensor]]:
    run, output = last_output("generator", method={**BASE[name], **method})
    generator = run.algorithm.updates["generator"].module
    found = [p.grad.clone() for p in generator.parameters()]
    generator.zero_grad()
    return run, output, found


def redrawn(run: Any, output: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Its inputs again with gradient, and both networks' logits."""
    maker = run.algorithm.updates["generator"].step
    images = maker.sampler.sample(8, *maker.key("generator-latents", run.clock)).images
    inputs = run.teacher.normalize(images)
    torch.testing.assert_close(inputs, output.batch.inputs["clean"])
    return inputs, run.teacher.module(inputs), run.student(inputs)


def agree(found: list[torch.Tensor], module: nn.Module) -> None:
    for ours, slow in zip(found, module.parameters(), strict=True):
        torch.testing.assert_close(ours, slow.grad, atol=2e-5, rtol=2e-3)


def test_dafl_minimises_the_papers_sum():
    run, output, found = generator_gradient("dafl", class_prior_weight=0.7, entropy_weight=2.0, activation_weight=0.3)
    inputs, teacher, _ = redrawn(run, output)
    mean = teacher.softmax(1).mean(0)
    probed: list[torch.Tensor] = []
    handle = run.teacher.module.head.register_forward_pre_hook(lambda layer, args: probed.append(args[0]))
    run.teacher.module(inputs)
    handle.remove()
    prior = torch.nn.functional.cross_entropy(teacher, teacher.argmax(1))
    (0.7 * prior + 2.0 * (mean * mean.log()).sum() - 0.3 * probed[0].abs().mean()).backward()
    agree(found, run.algorithm.updates["generator"].module)


def test_dafls_student_learns_from_the_generators_very_images():
    run = distillation(method=BASE["dafl"])
    for _ in range(3):
        _, student = run.take_update()
        name, generator = run.take_update()
        assert name == "generator"
        assert torch.equal(student.batch.images, generator.batch.images)
    run = distillation(method={**BASE["dafl"], "batch": "fresh"})
    assert not torch.equal(run.take_update()[1].batch.images, run.take_update()[1].batch.images)


def test_dafls_student_minimises_kl():
    run, output = last_output("student", method=BASE["dafl"])
    found = [p.grad.clone() for p in run.student.parameters()]
    run.student.zero_grad()
    inputs = output.batch.inputs["train"]
    wanted = run.teacher.module(inputs).detach().log_softmax(1)
    (wanted.exp() * (wanted - run.student(inputs).log_softmax(1))).sum(1).mean().backward()
    agree(found, run.student)


def test_dfad_pushes_through_both_networks():
    run, output, found = generator_gradient("dfad")
    _, teacher, student = redrawn(run, output)
    (-(teacher - student).abs().mean()).backward()
    agree(found, run.algorithm.updates["generator"].module)


def test_zskt_generator_and_student():
    run, output, found = generator_gradient("zskt")
    assert run.updates == 0, "the generator moves first"
    _, teacher, student = redrawn(run, output)
    (-kl_divergence(teacher, student).mean()).backward()
    agree(found, run.algorithm.updates["generator"].module)


def test_zskt_compares_attention_on_blocks_of_equal_size():
    shape = {"channels": 1, "size": (8, 8), "classes": 4}
    card = tiny_card(**shape)
    teacher = build_student("lenient:wrn-10-2", card, seed=0, role="teacher")
    student = build_student("lenient:wrn-10-1", card, seed=1)
    run = distillation(teacher, student, method=BASE["zskt"])
    while run.algorithm.schedule.name(run.updates) != "student":
        run.take_update()
    _, output = run.take_update()
    blocks = [output.batch.answers["train"][network].of(Blocks) for network in ("teacher", "student")]
    assert [b.shape[2:] for b in blocks[0]] == [(8, 8), (4, 4), (2, 2)] == [b.shape[2:] for b in blocks[1]]
    assert {"student", "attention"} == set(output.losses)


def test_zskt_without_blocks_in_common_says_what_to_do():
    small = tiny_student()
    module = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.BatchNorm2d(3), nn.Flatten(), nn.LazyLinear(4))
    module(torch.zeros(2, 1, 6, 5))
    with pytest.raises(TeacherError, match=r"-s method\.attention_weight=0"):
        distillation(Network(module.eval(), tiny_card()), small, method=BASE["zskt"])


def test_zskts_same_batch_is_learned_for_a_cycle():
    run = distillation(method={**BASE["zskt"], "batch": "same"})
    run.take_update()
    first, second = (run.take_update()[1].batch.images for _ in range(2))
    run.take_update()
    assert torch.equal(first, second)
    assert not torch.equal(first, run.take_update()[1].batch.images)


@pytest.mark.parametrize("name", ["mb-dfkd", "pre-dfkd", "meta-dfkd"])
def test_the_familys_adversary_pushes_through_the_student_only(name):
    run, output, found = generator_gradient(name, class_prior_weight=0.5, entropy_weight=0, activation_weight=0)
    _, teacher, student = redrawn(run, output)
    prior = confidence_score(teacher).mean()
    (0.5 * prior + (1 - js_divergence(teacher.detach(), student, 3.0)).mean()).backward()
    agree(found, run.algorithm.updates["generator"].module)


def test_mad_means_over_layers_and_asks_for_its_classes():
    run, output, found = generator_gradient("mad")
    inputs, teacher, student = redrawn(run, output)
    layers = run.teacher.respond(inputs, (BatchNorms(),)).of(BatchNorms)
    distance = sum((s.mean - s.running_mean).norm() + (s.variance - s.running_variance).norm() for s in layers) / 2
    (distance - kl_divergence(teacher, student).mean()).backward()
    agree(found, run.algorithm.updates["generator"].module)
    run, output = last_output("generator", method=BASE["mad, conditional"])
    assert set(output.losses) == {"adversarial", "bn", "class_prior", "embedding"}
    assert output.batch.labels.shape == (8,)
    assert run.algorithm.updates["generator"].module.embedding.weight.grad.abs().sum() > 0


def test_cudfkds_generator_draws_and_its_student_answers_in_eval_mode():
    run = distillation(method=BASE["cudfkd"])
    buffers = [b.clone() for b in run.student.buffers()]
    assert run.take_update()[0] == "generator"
    assert all(torch.equal(a, b) for a, b in zip(buffers, run.student.buffers(), strict=True))
    generator = run.algorithm.updates["generator"].module
    before = [b.clone() for b in generator.buffers()]
    assert run.take_update()[0] == "student"
    assert all(torch.equal(a, b) for a, b in zip(before, generator.buffers(), strict=True))
    assert generator.training
    assert run.student.training


def test_cudfkds_adversary_climbs():
    run = distillation(method={**BASE["cudfkd"], "climb_begin": 0.0, "climb_end": 0.8}, steps=30)
    climb = run.algorithm.updates["generator"].step.objective.terms["adversarial"][0]
    weights_ = [climb(Clock(step=step, steps=30, epoch=step // 3, epochs=10)) for step in range(30)]
    assert weights_[0] == 0.5
    assert weights_ == sorted(weights_)
    assert weights_[-1] == 62


def test_memory_updates_follow_the_first_student_updates():
    run = distillation(method={**BASE["pre-dfkd"], "student_steps": 3, "replay": {"updates": 2}})
    assert [run.algorithm.schedule.name(update)[0] for update in range(7)] == list("gsmsmsg")
    assert run.algorithm.schedule.updates_for(3) == 6
    assert run.algorithm.schedule.steps_before(6) == 3


def test_replay_is_never_silently_none():
    run = distillation(method={**BASE["mb-dfkd"], "replay": {"share": 0.01}})
    assert run.algorithm.state["replay"].size == 2
    with pytest.raises(UsageError, match=r"-s method\.replay\.share"):
        distillation(method={**BASE["mb-dfkd"], "replay": {"share": 2.0}})


def test_where_the_adversary_has_no_weight_the_student_is_not_asked():
    run = distillation(method={**BASE["cudfkd"], "adversarial_start": 0.0, "climb_begin": 0.5})
    asked: list[int] = []
    run.student.register_forward_hook(lambda *_: asked.append(run.updates))
    name, _ = run.take_update()
    assert name == "generator"
    assert not asked


def test_mads_bound_follows_the_classes():
    def bound(classes: int, **method: Any) -> float | None:
        shape = {"classes": classes}
        run = distillation(tiny_teacher(**shape), tiny_student(**shape), method={**BASE["mad"], **method})
        return run.algorithm.updates["generator"].step.objective.terms["adversarial"][1].bound

    assert bound(10) is None
    assert bound(11) == pytest.approx(2 * math.log(11))
    assert bound(11, bound="none") is None
    assert bound(4, bound=0.7) == 0.7


def test_clipping_bounds_the_gradient_that_is_stepped():
    run = distillation(method={**BASE["dfad"], "student_clip_norm": 1e-3, "generator_clip_norm": 1e-3})
    for _ in range(3):
        name, _ = run.take_update()
        gradients = [p.grad for p in run.algorithm.updates[name].module.parameters()]
        assert torch.cat([g.flatten() for g in gradients]).norm() <= 1.001e-3


# what a method asks of a teacher


def test_a_method_that_wants_features_refuses_a_teacher_without_a_linear_head():
    class Headless(TinyNet):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.norm2(self.conv2(self.norm1(self.conv1(images)).relu())).mean(dim=(2, 3))[:, :4]

    teacher = Network(Headless().eval(), tiny_card())
    for name in ("dafl", "mb-dfkd"):
        with pytest.raises(TeacherError, match=r"-s method\.activation_weight=0"):
            distillation(teacher, method=BASE[name])
        take(distillation(teacher, method={**BASE[name], "activation_weight": 0.0}), 3)


def test_which_methods_fit_a_teacher_without_batch_norm():
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))
    kept, all_fit = obstacles(Network(module, tiny_card())), obstacles(tiny_teacher())
    assert {*kept} == {*METHODS} - {"noise", "photo"}
    assert {name for name, obstacle in all_fit.items() if obstacle} == {"proxy"}
    assert {kept[name] for name in ("bn-adv", "ta-dfkd", "mad", "cudfkd")} == {"no batch norm"}
    for name in (name for name, obstacle in kept.items() if not obstacle):
        quick = {**BASE[name], "attention_weight": 0.0} if name == "zskt" else BASE[name]
        take(distillation(Network(module, tiny_card()), method=quick), 4)


NEEDS = {
    "gradient": {*METHODS} - {"stable", "proxy", "photo", "noise"},
    "batch norm": {
        "bn-adv",
        "ta-dfkd",
        "mad",
        "cudfkd",
        "deepinversion",
        "adi",
        "fastdfkd",
        "nayer",
        "cpnet",
        "cmi",
        "adadfq",
    },
    "features": {"dafl", "mb-dfkd", "pre-dfkd", "meta-dfkd", "cpnet"},
    "last layer": {"zskd", "nayer", "cpnet"},
    "maps": {"zskt", "cmi", "cpnet"},
}
"""Written out from the papers: what their defaults ask of a teacher besides its answers."""


def test_what_each_method_needs_of_a_teacher():
    found = {name: needs_by_default(name) for name in METHODS}
    assert {need: {name for name, needs in found.items() if need in needs} for need in NEEDS} == NEEDS


def test_a_teacher_without_a_linear_end_is_an_obstacle_where_that_is_read():
    class Headless(TinyNet):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.norm2(self.conv2(self.norm1(self.conv1(images)).relu())).mean(dim=(2, 3))[:, :4]

    kept = obstacles(Network(Headless().eval(), tiny_card()))
    reading = NEEDS["features"] | NEEDS["last layer"]
    assert {name for name, obstacle in kept.items() if obstacle == "no linear layer at its end"} == reading
    for name in reading:
        with pytest.raises(TeacherError):
            distillation(Network(Headless().eval(), tiny_card()), method=BASE[name])


def test_what_is_taken_for_a_teacher_where_nobody_says():
    silent = replace(tiny_teacher(), behaviour=replace(tiny_teacher().behaviour, silent=True))
    blocked = replace(tiny_teacher(), behaviour=replace(tiny_teacher().behaviour, blocked="a detach"))
    assert choose(tiny_teacher()).name == "bn-adv"
    assert [choose(teacher).name for teacher in (silent, blocked)] == ["dafl-adv", "stable"]
    assert "batch norm" in choose(silent).reason
    assert "gradient" in choose(blocked).reason
    needing = {name for name, obstacle in obstacles(blocked).items() if obstacle}
    assert needing == {*METHODS} - {"noise", "photo", "stable"}


def test_features_are_the_input_of_the_last_layer():
    with FrozenTeacher(tiny_teacher(), CPU) as teacher:
        inputs = torch.rand(3, 1, 6, 5)
        answer = teacher.respond(inputs, (Features(),))
        torch.testing.assert_close(teacher.module.head(answer.of(Features)), answer.logits)
        assert not teacher.respond(inputs).probed
        assert not teacher.module.head._forward_hooks


def test_features_of_a_convolutional_classifier_are_averaged():
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = nn.Conv2d(1, 7, 3), nn.Conv2d(7, 4, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.last(self.body(images).relu()).mean(dim=(2, 3))

    module = Pooled()
    assert classifying_layer(module, torch.zeros(1, 1, 6, 5), 4) is module.last
    with FrozenTeacher(Network(module, tiny_card()), CPU) as teacher:
        answer = teacher.respond(torch.rand(3, 1, 6, 5), (Features(),))
    assert answer.of(Features).shape == (3, 7)


@pytest.mark.parametrize(
    ("arch", "sizes"),
    [
        ("resnet18", [16, 8, 4, 2]),
        ("mobilenet_v2", [32, 16, 8, 4, 2]),
        ("vgg11_bn", None),
        ("densenet121", [16, 8, 4, 2]),
    ],
)
def test_blocks_of_torchvisions_networks_are_their_outermost(arch, sizes):
    import torchvision

    module = getattr(torchvision.models, arch)(weights=None, num_classes=7).eval()
    found = last_block_by_size(module, torch.zeros(1, 3, 64, 64))
    depth = {part: name.count(".") for name, part in module.named_modules()}
    assert all(depth[layer] <= 1 for layer in found.values()), {s: type(m).__name__ for s, m in found.items()}
    if sizes:
        assert [size[0] for size in found] == sizes
    layer = classifying_layer(module, torch.zeros(1, 3, 64, 64), 7)
    assert isinstance(layer, nn.Linear)


def test_layers_that_run_twice_are_no_blocks():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.pool, self.head = (
                nn.Conv2d(1, 3, 3),
                nn.Conv2d(3, 4, 3),
                nn.MaxPool2d(2),
                nn.Linear(4, 4),
            )

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.pool(self.two(self.pool(self.one(images).relu())).relu())
            return self.head(maps.mean(dim=(2, 3)))

    shared = Shared()
    found = last_block_by_size(shared, torch.zeros(1, 1, 14, 14))
    assert found == {(12, 12): shared.one, (4, 4): shared.two}


def test_a_layer_as_wide_as_the_classes_is_no_classifier_by_that_alone():
    class Squeezed(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.aside = nn.Linear(4, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = super().forward(images)
            return logits + 0 * self.aside(logits).sum()

    module = Squeezed().eval()
    assert classifying_layer(module, torch.zeros(1, 1, 6, 5), 4) is module.head


def test_blocks_of_a_wide_residual_network_are_its_groups():
    network = build_student("lenient:wrn-16-1", tiny_card(1, (32, 32), 10), seed=0, role="teacher")
    found = last_block_by_size(network.module.eval(), torch.zeros(1, 1, 32, 32))
    assert list(found) == [(32, 32), (16, 16), (8, 8)]
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    probed = last_block_by_size(plain, torch.zeros(1, 1, 6, 6))
    assert list(probed.values()) == [plain[1], plain[2]]


# generators


@pytest.mark.parametrize("output", ["sigmoid", "tanh-bn", "bn"])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_what_a_generator_declares_is_what_it_draws(output, spectral_norm):
    shape = GeneratorSettings(latent_dim=5, width=8, output=output, spectral_norm=spectral_norm)
    generator = UpsamplingGenerator((2, 9, 6), shape).train()
    with FrozenTeacher(tiny_teacher(channels=2, size=(9, 6)), CPU) as teacher:
        images = Sampler(generator, 5, Streams(0), CPU, teacher).sample(64, "x", 0).images
    if output == "sigmoid":
        assert generator.space == "pixels"
        assert 0 < images.min() < images.max() < 1
        return
    assert generator.space == "normalized"
    inputs = (images - 0.4) / 0.3
    torch.testing.assert_close(inputs.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(inputs.var(dim=(0, 2, 3)), torch.ones(2), atol=2e-2, rtol=0)


def test_spectral_norm_divides_by_the_largest_singular_value():
    generator = UpsamplingGenerator((1, 8, 8), GeneratorSettings(latent_dim=3, width=6, spectral_norm=True)).train()
    for _ in range(60):
        generator(torch.randn(4, 3))
    for conv in generator.convs:
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_methods_general_defaults_hold_unless_said_otherwise(name):
    general = method_class(name).settings_type.general.get("generator", {})
    default = DistillSettings(method={"name": name}).generator
    assert {key: getattr(default, key) for key in general} == general
    if method_class(name).settings_type(name=name).takes("generator.output"):
        assert DistillSettings(method={"name": name}, generator={"output": "bn"}).generator.output == "bn"


WITHOUT_A_GENERATORS_TABLE = {"noise", "photo", "proxy", "stable", "kegnet", *INVERTING}


@pytest.mark.parametrize("name", sorted({*METHODS} - WITHOUT_A_GENERATORS_TABLE))
def test_the_anatomy_is_read_off_the_pieces(name):
    algorithm = distillation(method={"name": name}).algorithm
    described = describe(algorithm)
    assert {"student", "selection", "replay", "update", "schedule"} <= set(described)
    assert set(algorithm.objective.terms) <= {*described} | ({"tv", "l2"} if "image" in described else set())
    without = describe(distillation(method={"name": "ta-dfkd", "selection": "none", "replay": "bank"}).algorithm)
    assert without["selection"] == "none"
    assert without["replay"] == "bank, ring"
