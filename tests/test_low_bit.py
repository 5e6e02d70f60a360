"""Networks in few bits: what is rounded to what, how they learn, resume and load, and that ONNX says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lenient.api import distill, inspect, load
from lenient.cli.distill import describe
from lenient.core.batch_norm import one_batch
from lenient.core.errors import MachineError, TeacherError, UsageError
from lenient.models import build_student, load_network, save_network
from lenient.models.card import Network, PixelClassifier
from lenient.models.low_bit import IMAGE_BITS, OBSERVED, InputGrid, LowBit, WeightGrid, low_bit_layers
from lenient.models.names import own_code, parse_spec
from lenient.models.probing import last_block_by_size
from lenient.models.students import NAMELESS, copy_student
from lenient.models.trust import UntrustedError, effect
from lenient.runs.export import OnnxModule, _noise, export, export_onnx, write_student
from lenient.runs.folder import RunFolder, fingerprint
from lenient.runs.job import Job
from lenient.runs.low_bit import in_codes
from lenient.runs.request import Request
from test_methods import RefuseHost
from toys import QUICK, digits_like, tiny_card, tiny_teacher

ADADFQ: dict[str, Any] = {
    "method.warm_up": 2,
    "method.student_lr": 1e-3,
    "method.student_schedule": "constant",  # which does not know how long the run is
    "method.generator_lr": 0.01,
}


def quick(**changes: Any) -> dict[str, Any]:
    """Settings of a run of a few steps."""
    return {**QUICK, **ADADFQ, "report": {"images": False}, **changes}


def seen_by(student: LowBit, batches: int = 3, size: tuple[int, ...] = (1, 6, 5)) -> LowBit:
    """Let a student see some images in training mode."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        student.train()
        for _ in range(batches):
            student((torch.rand(32, *size) - 0.4) / 0.3)
    return student.eval()


def read_config(run: Path) -> dict[str, Any]:
    found = RunFolder(run).read_config()
    assert found is not None
    return found


def copied(bits: int = 8) -> tuple[Network, Network]:
    teacher = tiny_teacher()
    return teacher, copy_student(f"int{bits}:copy", teacher)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_are_whole_multiples_of_a_scale_per_channel(bits: int) -> None:
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    grid = WeightGrid(bits)
    most = 2 ** (bits - 1) - 1
    rounded, (codes, scale) = grid(weight), grid.codes(weight)
    for channel in range(5):
        step = weight[channel].detach().abs().max() / most
        wanted = (weight[channel] / step).round() * step
        torch.testing.assert_close(rounded[channel], wanted, atol=float(step) * 1e-5, rtol=0)
        assert scale[channel].item() == pytest.approx(step.item())
    assert codes.dtype == torch.int8
    assert codes.abs().max() == most, "the largest weight has the largest code"
    torch.testing.assert_close(codes * scale.view(-1, 1, 1, 1), rounded.detach())
    (rounded * torch.arange(135.0).view(5, 3, 3, 3)).sum().backward()
    assert torch.equal(weight.grad, torch.arange(135.0).view(5, 3, 3, 3)), "straight through"


def test_a_channel_of_zeros_stays_zeros() -> None:
    assert torch.equal(WeightGrid(4)(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_a_range_follows_the_first_batches_and_stays_then() -> None:
    grid = InputGrid(4)
    values = torch.linspace(-1, 2, 31)
    assert torch.equal(grid.eval()(values), values), "nothing is rounded before anything was seen"
    grid.train()(values)
    assert (grid.low.item(), grid.high.item()) == (-1, 2)
    grid(values * 2)
    assert (grid.low.item(), grid.high.item()) == pytest.approx((-1.1, 2.2)), "a tenth of the way"
    before = grid.state_dict()
    grid.eval()(values * 9)
    assert before == grid.state_dict(), "eval mode only rounds"
    grid.seen.fill_(OBSERVED)
    grid.train()(values * 9)
    assert grid.high.item() == pytest.approx(2.2)
    assert grid.seen.item() == OBSERVED


def test_ranks_agree_on_a_range_within_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    others = torch.tensor([[-3.0, 1.0]])
    monkeypatch.setattr("lenient.core.batch_norm.ranks.gather", lambda own: torch.cat([own, others]))
    alone, among = InputGrid(8).train(), InputGrid(8).train()
    alone(torch.tensor([-1.0, 2]))
    with one_batch():
        among(torch.tensor([-1.0, 2]))
    assert (alone.low.item(), alone.high.item()) == (-1, 2), "a trial of one rank waits for nobody"
    assert (among.low.item(), among.high.item()) == (-3, 2)


@pytest.mark.parametrize(("bits", "low", "high"), [(4, 0.0, 3.0), (8, -1.0, 2.0), (4, -2.0, 0.0)])
def test_inputs_are_levels_between_two_numbers_one_of_which_is_zero(bits: int, low: float, high: float) -> None:
    grid = InputGrid(bits).train()
    values = torch.linspace(low, high, 1001)
    rounded = grid(values)
    step = (high - low) / (2**bits - 1)
    assert len(rounded.unique()) <= 2**bits
    assert (rounded - values).abs().max() <= step * 0.501 + (0 if low * high == 0 else step / 2)
    assert (grid(torch.zeros(1)) == 0).all(), "padding and dead units cost nothing"


def test_what_is_beyond_a_range_has_no_gradient() -> None:
    grid = InputGrid(4)
    grid.high.fill_(1.0), grid.seen.fill_(OBSERVED)
    values = torch.tensor([-0.5, 0.5, 1.5], requires_grad=True)
    grid(values).sum().backward()
    assert values.grad.tolist() == [0, 1, 0]


def test_a_copy_answers_nearly_as_its_teacher_and_leaves_it_alone() -> None:
    teacher, student = copied(8)
    before = fingerprint(teacher.module)
    images = (torch.rand(32, 1, 6, 5, generator=torch.Generator().manual_seed(1)) - 0.4) / 0.3
    expected = teacher.module(images)
    found = seen_by(student.module)(images)
    assert 0 < (found - expected).abs().max() < 0.03 * expected.abs().max()
    coarse = seen_by(copied(3)[1].module)(images)
    assert (coarse - expected).abs().max() > 3 * (found - expected).abs().max(), "fewer bits, more of it"
    assert fingerprint(teacher.module) == before
    assert not any(hasattr(part, "input_grid") for part in teacher.module.modules())


def test_a_copys_batch_norms_keep_their_statistics_and_their_factors_learn() -> None:
    _, student = copied()
    norm = student.module.train().network.norm1
    before = norm.running_mean.clone()
    student.module(torch.rand(8, 1, 6, 5)).sum().backward()
    assert torch.equal(norm.running_mean, before)
    assert norm.weight.grad.abs().sum() > 0
    random = build_student("int8:lenient:resnet8-half", tiny_card(size=(8, 8)), seed=0).module.train()
    norm = random.network.bn
    random(torch.rand(8, 1, 8, 8))
    assert norm.running_mean.abs().sum() > 0, "those of a student that starts at random are its own"


def test_the_first_layer_takes_pixels_of_eight_bits() -> None:
    grids = [grid.most for _, _, grid in low_bit_layers(copied(4)[1].module)]
    assert grids == [2**IMAGE_BITS - 1, 15, 15]


def test_pixels_are_rounded_between_black_and_white_whatever_images_come() -> None:
    """A generator's may be grey; a network that changes images first has no such room that is known."""
    _, student = copied()
    first = next(low_bit_layers(student.module))[2]
    assert (first.low.item(), first.high.item()) == pytest.approx((-0.4 / 0.3, 0.6 / 0.3))
    seen_by(student.module)
    assert first.high.item() == pytest.approx(0.6 / 0.3)
    inside = tiny_teacher()
    inside.module.conv1 = nn.Sequential(nn.AvgPool2d(1, 1), inside.module.conv1, nn.Identity())
    inside.module.conv1[0].forward = lambda images: images * 3
    assert next(low_bit_layers(copy_student("int8:copy", inside).module))[2].seen == 0


def test_the_device_is_asked_nothing() -> None:
    _, student = copied()
    with RefuseHost():
        student.module.train()(torch.rand(4, 1, 6, 5)).sum().backward()


@pytest.mark.parametrize("spec", ["int8:copy", "int4:lenient:resnet8", "int3:py:net.py:build"])
def test_a_spec_says_bits_and_network(spec: str) -> None:
    parsed = parse_spec(spec)
    assert parsed.bits == int(spec[3])
    assert str(parsed) == spec
    assert parsed.copies == spec.endswith("copy")
    assert parsed.whole.bits is None or parsed.copies


@pytest.mark.parametrize("spec", ["int8:", "int8:int4:copy", "int8:nothing", "int9:copy", "int1:copy", "int8:timm"])
def test_other_specs_are_refused_in_a_line(spec: str) -> None:
    with pytest.raises(UsageError, match=r"--student '?int"):
        parse_spec(spec, "--student")


def test_code_behind_the_bits_is_code() -> None:
    assert effect("int8:py:net.py:build") == effect("py:net.py:build") is not None
    assert effect("int8:hf-hub:a/b") == effect("hf-hub:a/b") is not None
    assert effect("int8:copy") is None
    assert own_code("int8:py:net.py:build") == "int8:py:FILE.py:FACTORY"
    assert own_code("py:net.py:build") == "py:FILE.py:FACTORY"
    assert own_code("int8:lenient:resnet8") == ""


def test_a_file_that_names_code_behind_bits_runs_none(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("raise SystemExit('ran')")
    _, student = copied()
    arch = f"int8:py:{tmp_path / 'net.py'}:build"
    save_network(tmp_path / "s.safetensors", Network(student.module, tiny_card(arch=arch)))
    with pytest.raises(UntrustedError, match=r"would run build\(\)"):
        load_network(tmp_path / "s.safetensors")


def test_networks_that_cannot_be_copied_are_refused_in_a_line() -> None:
    bare = Network(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(30)), tiny_card(classes=30))
    with pytest.raises(UsageError, match="--student int8:copy: there is no convolution or linear layer"):
        copy_student("int8:copy", bare)
    with pytest.raises(UsageError, match="is in 8 bits itself"):
        copy_student("int8:copy", copied()[1])
    asked = Network(nn.Module(), tiny_card())
    asked.module.session = (number for number in ())  # which nothing copies, as a runtime's
    with pytest.raises(UsageError, match="--student int8:copy: there is no convolution or linear layer in a Module"):
        copy_student("int8:copy", asked)
    hooked = tiny_teacher()
    hooked.module.conv1 = torch.nn.utils.weight_norm(hooked.module.conv1)
    with pytest.raises(UsageError, match="the weight of conv1 is computed by a hook"):
        copy_student("int8:copy", hooked)
    with pytest.raises(TeacherError, match="for --student of a run only"):
        load_network("int8:copy")


def test_a_copy_of_a_frozen_teacher_learns() -> None:
    teacher = tiny_teacher()
    teacher.module.requires_grad_(False)
    student = copy_student("int4:copy", teacher).module.train()
    student(torch.rand(4, 1, 6, 5)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in student.parameters())
    assert not any(weight.requires_grad for weight in teacher.module.parameters())


def test_a_copy_that_nothing_names_is_kept_as_a_program(tmp_path: Path) -> None:
    said: list[str] = []
    run = tmp_path / "run"
    describe(Job(tiny_teacher(), "int8:copy", Request(method="adadfq", settings=quick(steps=2))), said.append)
    assert f"          {NAMELESS}" in said
    assert len(said) < 9
    write_student(run, copied()[1])
    text = (run / "README.md").read_text()
    assert "FACTORY" not in text
    assert "lenient.load" not in text
    assert 'torch.export.load("student.pt2")' in text
    named = copy_student("int8:copy", digits_like())
    assert NAMELESS not in named.card.notes


def test_a_computed_weight_is_rounded_after_it_is_computed() -> None:
    teacher = tiny_teacher()
    torch.nn.utils.parametrizations.weight_norm(teacher.module.conv1)
    student = copy_student("int3:copy", teacher)
    assert len(student.module.network.conv1.weight[0].unique()) <= 7


def test_blocks_of_a_student_in_few_bits_are_those_of_the_network() -> None:
    plain = build_student("lenient:resnet8", tiny_card(size=(8, 8)), seed=0).module
    few = build_student("int8:lenient:resnet8", tiny_card(size=(8, 8)), seed=0).module
    image = torch.rand(1, 1, 8, 8)
    names = [
        {size: next(n for n, p in net.named_modules() if p is part) for size, part in blocks.items()}
        for net, blocks in ((net, last_block_by_size(net.eval(), image)) for net in (plain, few.network))
    ]
    assert names[0] == names[1]
    assert list(last_block_by_size(few.eval(), image)) == list(names[0])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a teacher whose file can be named, with its copy of 4 bits."""
    home = tmp_path_factory.mktemp("low-bit")
    save_network(home / "teacher.safetensors", digits_like())
    run = home / "run"
    distill(home / "teacher.safetensors", "int4:copy", method="adadfq", output=run, settings=quick())
    return run


def test_a_runs_student_loads_anywhere(finished: Path) -> None:
    network = load_network(finished)
    assert network.card.arch == "int4:lenient:resnet8"
    assert isinstance(network.module, LowBit)
    assert [int(grid.seen) for _, _, grid in low_bit_layers(network.module)][1:3] == [QUICK["steps"]] * 2
    assert load(finished)(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert inspect(finished).bits == 4
    assert inspect(finished.parent / "teacher.safetensors").bits is None


def test_it_goes_on_exactly_from_its_ranges(finished: Path, tmp_path: Path) -> None:
    teacher, given = finished.parent / "teacher.safetensors", {"method": "adadfq", "output": tmp_path / "run"}
    distill(teacher, "int4:copy", settings=quick(steps=3), **given)
    distill(teacher, resume=True, steps=6, **given)
    once, twice = (load_network(run).module.state_dict() for run in (finished, tmp_path / "run"))
    assert all(torch.equal(value, twice[name]) for name, value in once.items())
    assert read_config(tmp_path / "run")["run"]["student"]["arch"] == "int4:copy"


def test_another_student_is_refused_when_a_run_goes_on(finished: Path) -> None:
    with pytest.raises(UsageError, match=r"the student is int4:copy in .*, not int8:copy; leave --student out"):
        distill(finished.parent / "teacher.safetensors", "int8:copy", method="adadfq", output=finished, resume=True)


def graph_of(path: Path) -> list[Any]:
    onnx = pytest.importorskip("onnx")
    return list(onnx.load(str(path)).graph.node)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("opset", [None, 13])
def test_onnx_says_the_same_in_integers(tmp_path: Path, bits: int, opset: int | None) -> None:
    """A value between two levels may tip with the last bit of a sum: most images have none."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx", "1.23" if opset else None)
    _, student = copied(bits)
    with torch.no_grad():
        student.module.network.norm1.weight[::2] *= -1  # a sign that no scale can have
    seen_by(student.module)
    export_onnx(student, tmp_path / "s.onnx", opset)
    kinds = [node.op_type for node in graph_of(tmp_path / "s.onnx")]
    assert kinds.count("QuantizeLinear") == 3, "what each layer takes"
    assert kinds.count("DequantizeLinear") == 6, "and its weights"
    assert "BatchNormalization" not in kinds
    images = torch.rand(64, 1, 6, 5, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = PixelClassifier(student.module, student.card)(images)
        for literal in (True, False):
            found = OnnxModule(str(tmp_path / "s.onnx"), literal=literal)(images)
            apart = (found - expected).abs().amax(dim=1) / expected.abs().max()
            assert apart.median() < (1e-6 if literal else 1e-3), "onnxruntime rounds biases to integers"
            assert apart.max() < 2 / (2**bits - 1)


@pytest.mark.parametrize("bits", [2, 8])
def test_check_tells_a_broken_file_from_values_that_tip(
    tmp_path: Path, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    save_network(tmp_path / "s.safetensors", copy_student(f"int{bits}:copy", digits_like()))
    student = load_network(tmp_path / "s.safetensors")
    seen_by(student.module, size=(1, 8, 8))
    save_network(tmp_path / "s.safetensors", student)
    said: list[str] = []
    export(tmp_path / "s.safetensors", "onnx", tmp_path / "s.onnx", check=True, tell=said.append)
    assert "agree within 1e-04 of their range" in said[0]

    def wrong(module: LowBit) -> nn.Module:
        codes = in_codes(module)
        next(part for part in codes.modules() if type(part).__name__ == "_Codes").scale[::2] *= 1.1
        return codes

    monkeypatch.setattr("lenient.runs.export.in_codes", wrong)
    with pytest.raises(MachineError, match=r"--check: .*s\.onnx gives other outputs for .* rounding does not explain"):
        export(tmp_path / "s.safetensors", "onnx", tmp_path / "s.onnx", check=True, overwrite=True)


def test_sums_rounded_otherwise_move_what_tips_and_nothing_else() -> None:
    images = torch.rand(16, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    _, student = copied(4)
    seen_by(student.module)
    with torch.no_grad():
        expected = PixelClassifier(student.module, student.card)(images)
    apart = _noise(student, images, expected)
    assert apart.shape == (16,)
    assert 0 < apart.median() < 1e-5
    assert next(student.module.parameters()).dtype == torch.float32


def test_a_batch_norm_that_somebody_else_probes_stays(tmp_path: Path) -> None:
    """Of a residual network: the sum before it has no scale of its own."""
    pytest.importorskip("onnxruntime")
    student = build_student("int8:lenient:wrn-10-1", tiny_card(size=(8, 8)), seed=0)
    seen_by(student.module, size=(1, 8, 8))
    export_onnx(student, tmp_path / "s.onnx")
    kinds = [node.op_type for node in graph_of(tmp_path / "s.onnx")]
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in student.module.modules())
    assert 0 < kinds.count("BatchNormalization") < norms


def test_an_onnx_file_holds_integers_and_nothing_that_is_not_used(finished: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "s.onnx"
    difference = export(finished, "onnx", path, check=True)
    assert difference is not None
    graph = onnx.load(str(path)).graph
    read = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read
    large = [tensor.data_type for tensor in graph.initializer if len(tensor.raw_data) > 400]
    assert large
    assert {onnx.TensorProto.INT8} == set(large)


@pytest.mark.parametrize("kind", ["safetensors", "pt2"])
def test_other_formats_say_the_same_to_the_bit(finished: Path, tmp_path: Path, kind: str) -> None:
    difference = export(finished, kind, tmp_path / f"s.{kind}", check=True)
    assert difference is not None
    assert difference < 1e-6
