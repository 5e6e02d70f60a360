"""What a network does beside answering is found out, noted, and either given way to or refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lenient
from lenient.core.errors import TeacherError, UsageError
from lenient.core.runtime import Runtime, in_parts
from lenient.data import ImageSet
from lenient.evaluation import evaluate, latency
from lenient.methods.choice import choose
from lenient.models import check_classifier
from lenient.models.behaviour import failure
from lenient.models.card import Behaviour, Network
from lenient.models.lending import as_it_was, copied_module
from lenient.runs.folder import fingerprint
from lenient.teacher.frozen import FrozenTeacher
from toys import CPU, TinyNet, tiny_card, tiny_student, tiny_teacher


class Around(nn.Module):
    """A network with a habit of its forward around another."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny_teacher().module


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4 * 30, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.conv(images)).relu()
        return self.head(maps.view(len(maps), -1))


class ViewsWeights(TinyNet):
    def forward(self, images: Tensor) -> Tensor:
        weight = self.conv2.weight
        flat = weight.view(weight.size(0), -1)
        return super().forward(images) + flat.mean()


class WritesInPlace(Around):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.sub_(0.5).div_(2.0))


class WritesNothingNew(Around):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.clamp_(-100, 100))


class Counts(Around):
    def __init__(self, assigns: bool = False) -> None:
        super().__init__()
        self.assigns = assigns
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        if self.assigns:
            self.calls = self.calls + 1
        else:
            self.calls += 1
        return self.net(images) + self.calls


class CountsInAParameter(Around):
    def __init__(self) -> None:
        super().__init__()
        self.calls = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        self.calls.data += 1
        return self.net(images)


class StaysInTraining(Around):
    def forward(self, images: Tensor) -> Tensor:
        self.net.norm1.train()
        return self.net(images)


class DropsOut(Around):
    def forward(self, images: Tensor) -> Tensor:
        return F.dropout(self.net(images), 0.3)


class AcrossTheBatch(Around):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).softmax(0)


class NoGrad(Around):
    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


class Inference(Around):
    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


class Rounds(Around):
    def forward(self, images: Tensor) -> Tensor:
        return self.net((images * 255).round() / 255)


class Argmax(Around):
    def forward(self, images: Tensor) -> Tensor:
        return F.one_hot(self.net(images).argmax(1), 4)


class NoFirstLayerGradient(Around):
    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            images = self.net.conv1(images)
        maps = self.net.norm2(self.net.conv2(self.net.norm1(images).relu())).relu()
        return self.net.head(maps.mean(dim=(2, 3)))


class TurnsGradientsOff(Around):
    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images)
        torch.set_grad_enabled(False)
        return logits


class OnlyBatches(Around):
    def forward(self, images: Tensor) -> Tensor:
        if len(images) < 2:
            raise ValueError("Expected more than 1 value per channel when training")
        return self.net(images)


class Doubles(Around):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).double()


class Plain(Around):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


class Normalises(Around):
    def forward(self, images: Tensor) -> Tensor:
        return self.net((images - 0.5) / 2.0)


QUICK = {"preset": "smoke", "steps": 4, "batch_size": 8, "device": "cpu", "precision": "32"}


def distilled(teacher: nn.Module, student: nn.Module | None = None, **changes: Any) -> str:
    """The hash of the student that comes of a short run."""
    given = student or tiny_student().module
    result = lenient.distill(Network(teacher, tiny_card()), given, **{**QUICK, **changes})
    assert all(bool(value.isfinite().all()) for value in result.student.state_dict().values())
    return fingerprint(result.student)


def found(module: nn.Module) -> Network:
    before = fingerprint(module)
    network = check_classifier(Network(module, tiny_card()))
    assert fingerprint(module) == before
    return network


def test_a_well_behaved_network_has_the_default_behaviour():
    assert found(tiny_teacher().module).behaviour == Behaviour()


@pytest.mark.parametrize(
    ("module", "behaviour", "note"),
    [
        (Views(), {"contiguous": True}, "contiguous tensors"),
        (ViewsWeights(), {"contiguous": True}, "contiguous tensors"),
        (WritesInPlace(), {"writes": True}, "handed a copy"),
        (WritesNothingNew(), {"writes": True}, "handed a copy"),
        (nn.Sequential(nn.ReLU(inplace=True), TinyNet()), {"writes": True}, "handed a copy"),
        (CountsInAParameter(), {"changes": ("calls",)}, "changes calls in eval mode"),
        (OnlyBatches(), {"single": False}, "no image alone"),
        (DropsOut(), {"random": True}, None),
        (AcrossTheBatch(), {"depends": True}, None),
    ],
)
def test_habits_are_found_and_noted(module: nn.Module, behaviour: dict[str, Any], note: str | None) -> None:
    network = found(module)
    assert network.behaviour == Behaviour(**behaviour)
    assert note is None or note in network.card.notes[-1]
    assert check_classifier(network).card == network.card, "noted once"


@pytest.mark.parametrize("assigns", [False, True])
def test_counters_are_found_and_do_not_make_answers_random(assigns: bool) -> None:
    behaviour = found(Counts(assigns)).behaviour
    assert behaviour == Behaviour(changes=("calls",))


def test_batch_norms_that_normalise_by_the_batch_are_named():
    network = found(StaysInTraining())
    assert network.behaviour.depends
    assert network.behaviour.batch_norms == ("net.norm1",)
    assert any("net.norm1 normalises by the batch" in note for note in network.card.notes)
    without = TinyNet()
    without.norm2 = nn.BatchNorm2d(6, track_running_stats=False)
    assert found(without).behaviour.batch_norms == ("norm2",)


@pytest.mark.parametrize("kind", [NoGrad, Inference, Rounds, Argmax, NoFirstLayerGradient])
def test_answers_without_gradient_are_refused_before_the_run(kind: type[nn.Module]) -> None:
    assert found(kind()).behaviour.blocked
    with pytest.raises(TeacherError, match="no gradient reaches the images") as caught:
        distilled(kind(), method="ta-dfkd")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300
    inspected = lenient.inspect(Network(kind(), tiny_card()))
    assert (inspected.method, inspected.methods) == ("stable", ("stable",))
    assert inspected.obstacles["dfad"] == "no gradient to the images"
    assert "no gradient reaches the images" in inspected.advice[0]


def test_a_last_layer_of_zeros_blocks_nothing():
    """As many networks start with; nothing can be told of the gradient before they have learned."""
    network = TinyNet()
    last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    assert not found(network).behaviour.blocked


def test_without_gradient_answers_alone_are_learned_from_where_nobody_names_a_method():
    assert distilled(NoGrad()) == distilled(NoGrad(), method="stable") != distilled(Plain())


def test_the_noise_student_needs_no_gradient():
    assert distilled(NoGrad(), method="noise") == distilled(Plain(), method="noise")


@pytest.mark.parametrize(
    ("kind", "words"), [(DropsOut, "differently each time"), (AcrossTheBatch, "depends on the other images")]
)
def test_answers_that_nobody_can_learn_are_refused(kind: type[nn.Module], words: str) -> None:
    with pytest.raises(TeacherError, match=words):
        distilled(kind())
    with pytest.raises(UsageError, match=f"the student does not fit the teacher: .*{words}"):
        distilled(tiny_teacher().module, kind())


@pytest.mark.parametrize("method", ["ta-dfkd", "dfad", "zskt", "mad", "dafl", "cudfkd"])
def test_a_forward_that_writes_into_its_images_teaches_as_one_that_does_not(method: str) -> None:
    assert distilled(WritesInPlace(), method=method) == distilled(Normalises(), method=method)


def test_so_does_a_student_that_writes():
    class Writes(TinyNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.mul_(1.0).add_(0.0))

    student = Writes(1, 4, 4)
    student.load_state_dict(tiny_student().module.state_dict())
    assert distilled(tiny_teacher().module, student) == distilled(tiny_teacher().module)


@pytest.mark.parametrize("make", [Counts, lambda: Counts(True), CountsInAParameter, StaysInTraining, TurnsGradientsOff])
def test_a_teacher_comes_back_and_answers_as_it_came(make: Any) -> None:
    module = make()
    before, hooks = fingerprint(module), [len(part._forward_pre_hooks) for part in module.modules()]
    distilled(module)
    assert torch.is_grad_enabled()
    assert fingerprint(module) == before
    assert [len(part._forward_pre_hooks) for part in module.modules()] == hooks
    with FrozenTeacher(found(module), CPU) as teacher, torch.no_grad():
        images = torch.rand(4, 1, 6, 5)
        assert torch.equal(teacher.respond(images).logits, teacher.respond(images).logits)


def test_gradients_go_through_a_forward_that_counts():
    with FrozenTeacher(found(Counts()), CPU) as teacher:
        images = torch.rand(4, 1, 6, 5, requires_grad=True)
        first, second = teacher.respond(images * 1), teacher.respond(images * 1)
        (first.logits.sum() + second.logits.sum()).backward()
        assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("precision", ["32", "auto"])
def test_views_run_as_teachers_and_as_students(precision: str) -> None:
    distilled(Views(), precision=precision)
    distilled(tiny_teacher().module, Views(), precision=precision)
    distilled(tiny_teacher().module, Views(), method="mad", settings={"select": "ema"})


def test_answers_in_double_precision_and_double_weights_run():
    distilled(Doubles())
    distilled(Plain().double(), tiny_student().module.double())


def test_a_teacher_or_student_that_takes_batches_only_runs():
    distilled(OnlyBatches(), method="dafl")

    class Batches(TinyNet):
        def forward(self, images: Tensor) -> Tensor:
            assert len(images) > 1
            return super().forward(images)

    distilled(tiny_teacher().module, Batches(), batch_size=9)


def test_what_bfloat16_breaks_runs_in_float32_or_is_refused():
    class Stiff(Around):
        def forward(self, images: Tensor) -> Tensor:
            maps = self.net.conv1(images)
            return (
                self.net(images) + (torch.ones(1, maps.shape[1]) @ maps.mean(dim=(2, 3)).T).T.to(torch.float32)[:, :1]
            )

    class Breaks(Around):
        def forward(self, images: Tensor) -> Tensor:
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("expected m1 and m2 to have the same dtype, but got: float != c10::BFloat16")
            return self.net(images)

    distilled(Breaks(), precision="auto")
    with pytest.raises(UsageError, match=r"--precision bf16: the teacher cannot run in it .*; use --precision 32"):
        distilled(Breaks(), precision="bf16")
    student = Breaks()
    with pytest.raises(UsageError, match=r"--precision bf16: the student cannot"):
        distilled(tiny_teacher().module, student, precision="bf16")
    assert failure(Network(Stiff(), tiny_card()), CPU, 8) is None


def test_a_batch_size_that_is_built_in_is_named():
    class OfTwo(TinyNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.view(2, 1, 6, 5))

    class First(TinyNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images)[:1]

    class UpToFour(TinyNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + torch.zeros(4, 1)[: len(images)]

    class OfFour(TinyNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.view(4, 1, 6, 5))

    for kind, size in ((OfTwo, 2), (OfFour, 4)):
        with pytest.raises(TeacherError, match=f"takes batches of {size} only"):
            found(kind())
    with pytest.raises(TeacherError, match="1 rows of logits for 4 images: the size of a batch is built in"):
        found(First())
    with pytest.raises(TeacherError, match="the teacher cannot run on cpu in precision 32"):
        distilled(UpToFour())


def test_advice_fits_the_fault():
    class TwoArguments(TinyNet):
        def forward(self, images: Tensor, features: bool) -> Tensor:  # type: ignore[override]
            return super().forward(images)

    class Elsewhere(TinyNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images - torch.zeros(1, device="meta"))

    with pytest.raises(TeacherError, match=r"a batch of images alone .*py: factory"):
        found(TwoArguments())
    with pytest.raises(TeacherError) as caught:
        found(Elsewhere())
    assert "--input-size" not in str(caught.value)


def test_what_has_no_values_or_no_gradient_by_its_kind_is_refused():
    with pytest.raises(TeacherError, match=r"conv1\.weight is on the meta device"):
        found_kind(TinyNet().to("meta"))
    with pytest.raises(TeacherError, match="has no values yet"):
        found_kind(nn.Sequential(nn.Flatten(), nn.LazyLinear(4)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_is_quantised_answers_without_gradient():
    ao = torch.ao.quantization

    class Beside(nn.Module):
        """Quantised layers, and a way beside them on which gradients pass."""

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                ao.QuantStub(), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(48, 4), ao.DeQuantStub()
            )

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images) + images.mean((1, 2, 3))[:, None]

    module = Beside().eval()
    module.qconfig = ao.get_default_qconfig(torch.backends.quantized.engine)
    observed = ao.prepare(module)
    observed(torch.rand(8, 1, 6, 5))
    network = check_classifier(Network(ao.convert(observed), tiny_card()))
    assert "its layer net.0 is quantised (Quantize), which has no gradient" in network.behaviour.blocked
    assert choose(network).name == "stable"
    assert failure(network, Runtime(torch.device("cpu")), 8) is None
    before = fingerprint(network.module)
    observed.net[3].weight.data.neg_()
    assert fingerprint(ao.convert(observed)) != before
    with pytest.raises(TeacherError, match=r"its layer net.0 is quantised .*: give the network as it was before"):
        check_classifier(Network(network.module, tiny_card()), plain=True)


def found_kind(module: nn.Module) -> None:
    check_classifier(Network(module, tiny_card()))


def program(module: nn.Module) -> nn.Module:
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(module, (torch.rand(2, 1, 6, 5),), dynamic_shapes=({0: batch},)).module()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("make", [torch.jit.script, program])
def test_programs_teach_where_no_hook_is_needed(make: Any) -> None:
    module = make(tiny_teacher().module)
    for method, settings in {"dfad": {}, "noise": {}, "dafl": {"method": {"activation_weight": 0}}}.items():
        assert distilled(module, method=method, settings=settings)
    for method, words in {"ta-dfkd": "no batch-norm layers", "dafl": "come from no linear layer"}.items():
        with pytest.raises(TeacherError, match=words):
            distilled(module, method=method)
    with pytest.raises(UsageError, match="give the module that was"):
        distilled(tiny_teacher().module, module)


def test_compiled_modules_run_as_their_plain_selves():
    expected = distilled(Plain())
    whole, inner, called = torch.compile(Plain(), backend="eager"), Plain(), Plain()
    inner.net = torch.compile(inner.net, backend="eager")
    called.compile(backend="eager")
    for module in (whole, inner, called):
        assert distilled(module) == expected
    assert type(inner.net).__name__ == "OptimizedModule"
    assert called._compiled_call_impl is not None


def test_fx_graphs_keep_their_hooks():
    assert found(torch.fx.symbolic_trace(Plain())).behaviour == Behaviour()


def test_hooks_of_the_user_stay_and_are_called():
    module, calls = Plain(), []
    module.net.register_forward_hook(lambda *_: calls.append(1))
    distilled(module)
    assert calls
    assert len(module.net._forward_hooks) == 1


def test_a_module_comes_back_as_it_was_after_an_error():
    module = Counts().train()
    module.net.norm1.eval()
    before = fingerprint(module)

    def use() -> None:
        with as_it_was(module):
            module.eval()
            module(torch.rand(2, 1, 6, 5))
            module.calls = torch.ones(())
            module.net.norm1.running_mean += 1
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        use()
    assert fingerprint(module) == before
    assert module.training
    assert not module.net.norm1.training


@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_modules_with_computed_weights_are_copied(wrap: Any) -> None:
    module = TinyNet()
    wrap(module.conv2)
    images = torch.rand(2, 1, 6, 5)
    expected = module.eval()(images)
    copied = copied_module(module)
    torch.testing.assert_close(copied(images), expected)
    copied(images).sum().backward()
    assert all(parameter.grad is None for parameter in module.parameters())


def test_measuring_takes_the_same_networks():
    images, labels = torch.randint(256, (9, 1, 6, 5), dtype=torch.uint8), torch.arange(9) % 4
    data = ImageSet("toy", "toy", "test", images, labels, ("a", "b", "c", "d"), (0.5,), (0.5,), (1, 6, 5))
    for module in (Views(), OnlyBatches(), NoGrad(), Counts()):
        assert evaluate(Network(module, tiny_card()), data, batch_size=4).n == 9

    class OwnGradient(Around):
        def forward(self, images: Tensor) -> Tensor:
            with torch.enable_grad():
                inner = images.detach().requires_grad_()
                slope = torch.autograd.grad(self.net(inner).sum(), inner)[0]
            return self.net(images + slope)

    assert evaluate(Network(OwnGradient(), tiny_card()), data).n == 9
    assert set(latency(OwnGradient(), (1, 6, 5), (1, 2), repeats=1)["milliseconds"]) == {1, 2}
    assert set(latency(OnlyBatches(), (1, 6, 5), (1, 2), repeats=1)["milliseconds"]) == {2}


def test_no_part_of_one_is_left_over():
    values = torch.arange(9)
    assert [len(part) for part in in_parts(values, 4)] == [3, 3, 3]
    assert [len(part) for part in in_parts(values, 5)] == [5, 4]
    assert [len(part) for part in in_parts(values[:1], 4)] == [1]
    assert torch.equal(torch.cat(in_parts(values, 4)), values)


def test_a_batch_too_large_for_memory_is_tried_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Hungry(Around):
        def forward(self, images: Tensor) -> Tensor:
            sizes.append(len(images))
            if len(images) > 8:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.net(images)

    assert failure(Network(Hungry(), tiny_card()), Runtime(torch.device("cpu")), 32) is None
    assert sizes == [4, 32, 16, 8]
