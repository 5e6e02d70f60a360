"""ONNX files: rebuilt of torch's layers with their batch norms, answering as the network that was exported."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from commands import lenient
from lenient.core.errors import TeacherError
from lenient.methods.choice import choose
from lenient.models import (
    Card,
    Network,
    PixelClassifier,
    batch_norm_layers,
    check_classifier,
    choose_student,
    load_network,
)
from lenient.models.graphs.functions import OPERATORS
from lenient.models.graphs.network import GraphNetwork
from lenient.models.graphs.reading import read_graph
from lenient.models.probing import classifying_layer, same_but_for_a_last_function
from lenient.models.programs import GRAPH, Answers, load_program
from lenient.models.students import copy_student
from lenient.runs.export import export_onnx
from lenient.runs.folder import fingerprint
from toys import TinyNet

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


class Attending(nn.Module):
    """A transformer in small: patches, a token of its own, places, attention by hand, layer norms."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
        self.norm, self.three, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        rows, tokens, width = x.shape
        q, k, v = self.three(self.norm(x)).reshape(rows, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = ((q @ k.transpose(-2, -1)) * (width // 2) ** -0.5).softmax(-1) @ v
        return self.head(nn.functional.gelu(x + self.out(mixed.transpose(1, 2).reshape(rows, tokens, width)))[:, 0])


def plain() -> nn.Module:
    """Without batch norm, with pools, ceilings, uneven sizes and a softmax."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.LeakyReLU(0.1), nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.Conv2d(8, 8, 3, groups=4, padding=1), nn.Hardswish(), nn.AvgPool2d(2, 1),
        nn.Flatten(), nn.Linear(32, 4), nn.Softmax(1),
    )  # fmt: skip


def dense() -> nn.Module:
    """With a batch norm after a linear layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def own(name: str) -> nn.Module:
    return load_network(f"lenient:{name}", input_size=(3, 8, 8), num_classes=4).module


NETS: dict[str, Callable[[], nn.Module]] = {
    "tiny": lambda: TinyNet(3),
    "plain": plain,
    "dense": dense,
    "attending": Attending,
    "resnet8-half": lambda: own("resnet8-half"),
    "wrn-10-1": lambda: own("wrn-10-1"),
    "lenet5-half": lambda: own("lenet5-half"),
}


@cache
def net(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = NETS[name]()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 2)
        return module.eval()


def images(count: int = 3, size: tuple[int, int, int] = (3, 8, 8)) -> Tensor:
    return torch.rand(count, *size, generator=torch.Generator().manual_seed(1))


def exported(module: nn.Module, path: Path, *, free: bool = True, kept: bool = False, old: bool = True) -> Path:
    """Write a file by one of torch's exporters, for any number of images or one; `kept` keeps the batch norms."""
    example = images(2) if free else images(1)
    options: dict[str, Any] = {"dynamo": not old, "input_names": ["images"], "output_names": ["out"], "verbose": False}
    if old:
        mode = torch.onnx.TrainingMode.PRESERVE if kept else torch.onnx.TrainingMode.EVAL
        options |= {"training": mode, "dynamic_axes": {"images": {0: "n"}, "out": {0: "n"}} if free else None}
    elif free:
        options["dynamic_shapes"] = ({0: torch.export.Dim("n")},)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (example,), str(path), **options)
    return path


def same(path: Path, module: nn.Module, **facts: Any) -> Network:
    """Load a file without trust, and hold its answers and its gradients against those of what was exported."""
    found = check_classifier(load_network(path, **facts))
    ours, theirs = images().requires_grad_(), images().requires_grad_()
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (found.card.mean, found.card.std))
    answer, wanted = found.module((ours - mean) / std), module(theirs)
    if isinstance(module, nn.Sequential) and isinstance(module[-1], nn.Softmax):
        answer = answer.softmax(1)
    torch.testing.assert_close(answer, wanted, rtol=1e-4, atol=1e-4)  # folded batch norms round otherwise
    direction = torch.linspace(-1, 1, 4)
    (mine,), (given,) = (
        torch.autograd.grad((out * direction).sum(), x) for out, x in ((answer, ours), (wanted, theirs))
    )
    torch.testing.assert_close(mine, given, rtol=1e-3, atol=1e-4)
    assert found.behaviour.blocked == ""
    assert (found.card.input_size, found.card.num_classes) == ((3, 8, 8), 4)
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_a_file_answers_as_the_network_that_was_exported(tmp_path: Path, name: str, free: bool) -> None:
    found = same(exported(net(name), tmp_path / "net.onnx", free=free, kept=True), net(name))
    norms = [type(part) for part in net(name).modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert [type(part) for _, part in batch_norm_layers(found.module)] == norms
    assert choose(found).name == ("bn-adv" if norms else "dafl-adv")
    assert free or any("written for batches of 1" in note for note in found.card.notes)


def test_so_does_one_of_torchs_newer_exporter(tmp_path: Path) -> None:
    same(exported(net("attending"), tmp_path / "net.onnx", old=False), net("attending"))


def test_our_own_export_comes_back_with_its_constants(tmp_path: Path) -> None:
    card = Card("lenient:resnet8-half", (3, 8, 8), 4, (0.3, 0.4, 0.5), (0.2, 0.3, 0.4))
    network = Network(net("resnet8-half"), card)
    export_onnx(network, tmp_path / "student.onnx")
    found = check_classifier(load_network(tmp_path / "student.onnx"))
    assert found.card.mean == pytest.approx(card.mean, abs=1e-3)
    assert found.card.std == pytest.approx(card.std, abs=1e-3)
    torch.testing.assert_close(found.module(images()), network.module(images()), rtol=1e-3, atol=1e-3)
    assert any("convolutions have their batch norms folded in: no statistics; use --method dafl-adv" in note
               for note in found.card.notes)  # fmt: skip
    assert choose(found).name == "dafl-adv"
    assert choose_student(found)[0].startswith("lenient:")


class OfBytes(nn.Module):
    """A network of pixels up to 255 with channels last, as Keras writes them, and a border for its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net("tiny")

    def forward(self, images: Tensor) -> Tensor:
        scaled = (images / 127.5 - 1).permute(0, 3, 1, 2)
        return self.net(nn.functional.pad(scaled, (0, 1, 0, 1)))  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("flags", [{}, {"mean": [0.0], "std": [0.00392]}])
def test_a_file_that_scales_pixels_up_to_255_is_given_them(tmp_path: Path, flags: dict[str, Any]) -> None:
    given, module = images().permute(0, 2, 3, 1), OfBytes().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (given,), str(tmp_path / "net.onnx"), dynamo=False, verbose=False)
    found = check_classifier(load_network(tmp_path / "net.onnx", **flags))
    assert (found.card.mean, found.card.std) == ((0.5,) * 3, (0.5,) * 3)
    answer = PixelClassifier(found.module, found.card).eval()(images())
    torch.testing.assert_close(answer, module(given * 255), rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_layers_are_torchs_own(tmp_path: Path) -> None:
    found = load_network(exported(net("tiny"), tmp_path / "net.onnx", kept=True))
    layers = [type(part) for part in found.module.modules() if not next(part.children(), None)]
    assert [kind for kind in layers if kind is not nn.Module] == [
        nn.Conv2d, nn.BatchNorm2d, nn.Conv2d, nn.BatchNorm2d, nn.Linear
    ]  # fmt: skip
    head = classifying_layer(found.module, images(2), 4)
    assert isinstance(head, nn.Linear)
    torch.testing.assert_close(head.weight, net("tiny").head.weight)
    assert sum(p.numel() for p in found.module.parameters()) == sum(p.numel() for p in net("tiny").parameters())


class Several(nn.Module):
    """Makes features, logits and an embedding, and returns what it is asked; each under a name that says nothing."""

    def __init__(self, change: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head, self.embed = nn.Linear(6, 4), nn.Linear(6, 5)
        self.change = change

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.body(images)
        return self.change(features, self.head(features), self.embed(features))


def several(path: Path, change: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]) -> tuple[Path, Several]:
    module = Several(change).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (images(),), str(path), dynamo=False, verbose=False)
    return path, module


SEVERAL: list[tuple[Any, int | None]] = [
    (lambda features, logits, _: (features, logits), None),
    (lambda features, logits, _: (features, logits.softmax(1)), None),
    (lambda features, logits, _: (features, features.square(), logits, logits.softmax(1)), None),
    (lambda features, logits, _: (features.square(), logits), None),
    (lambda _, logits, embedding: (embedding, logits), 4),
    (lambda _, logits, embedding: (logits.argmax(1, keepdim=True), logits), None),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("change", "given"), SEVERAL)
def test_of_several_outputs_the_logits_are_taken(tmp_path: Path, change: Any, given: int | None) -> None:
    path, module = several(tmp_path / "net.onnx", change)
    found = check_classifier(load_network(path, num_classes=given))
    assert found.card.num_classes == 4
    assert any("is taken for the logits" in note for note in found.card.notes)
    torch.testing.assert_close(found.module(images()), module.head(module.body(images())), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("change", "given"), SEVERAL)
def test_of_several_outputs_that_are_run_the_logits_are_taken(tmp_path: Path, change: Any, given: int | None) -> None:
    pytest.importorskip("onnxruntime")
    path, module = several(tmp_path / "net.onnx", change)
    program, (facts, _) = load_program(path, GRAPH, given)
    assert isinstance(program, Answers)
    assert facts.num_classes == 4
    assert "is taken for the logits" in program.notes[0]
    assert same_but_for_a_last_function(module.head(module.body(images())).detach(), program(images()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_of_outputs_that_nothing_tells_apart_the_number_of_classes_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path, _ = several(tmp_path / "net.onnx", lambda _, logits, embedding: (embedding, logits))
    for load in (load_network, lambda path: load_program(path, GRAPH, None)):
        with pytest.raises(TeacherError, match=r"of 5 values, .* of 4 values, .*--num-classes"):
            load(path)


# written by hand


def test_a_copy_in_few_bits_learns(tmp_path: Path) -> None:
    teacher = load_network(exported(net("tiny"), tmp_path / "net.onnx", kept=True))
    student = copy_student("int8:copy", teacher).module.train()
    outputs = student(images(4))
    outputs.square().sum().backward()
    weights = dict(student.named_parameters())
    assert weights
    assert [name for name, weight in weights.items() if weight.grad is None or not weight.grad.any()] == []


def tensor(name: str, values: Any, kind: type = np.float32) -> Any:
    return onnx.numpy_helper.from_array(np.array(values, kind), name)


def file(path: Path, nodes: list[Any], constants: list[Any], shape: list[Any], **more: Any) -> Path:
    kind = more.get("kind", onnx.TensorProto.FLOAT)
    taken = [onnx.helper.make_tensor_value_info("x", kind, shape)] * more.get("inputs", 1)
    given = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 4])]
    graph = onnx.helper.make_graph(nodes, "g", taken, given, constants)
    opset = onnx.helper.make_opsetid("", more.get("version", 20))
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString())
    return path


def node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return onnx.helper.make_node(operator, inputs, outputs, **attributes)


def head(values: str = "x") -> tuple[list[Any], list[Any]]:
    """Nodes and constants from maps of three channels to four logits."""
    pool, flat = node("GlobalAveragePool", [values], ["p"]), node("Flatten", ["p"], ["f"])
    nodes = [pool, flat, node("MatMul", ["f", "w"], ["m"]), node("Add", ["m", "b"], ["y"])]
    return nodes, [tensor("w", np.arange(12).reshape(3, 4)), tensor("b", [1, 2, 3, 4])]


@pytest.mark.parametrize("first", [[], [node("Div", ["x", "two"], ["a"])]])
@pytest.mark.parametrize(
    ("shape", "perm", "size"),
    [
        (["n", 6, 5, 4], [0, 3, 1, 2], (4, 6, 5)),
        (["n", 3, 5, 3], [0, 3, 1, 2], (3, 3, 5)),
        (["n", 1, 5, 6], [0, 3, 1, 2], (1, 5, 6)),
        (["n", 6, 5, 4], [0, 2, 3, 1], (6, 5, 4)),
    ],
)
def test_channels_last_are_known_by_the_transpose_that_turns_them(
    tmp_path: Path, first: list[Any], shape: list[Any], perm: list[int], size: tuple[int, int, int]
) -> None:
    pytest.importorskip("onnxruntime")
    width = shape[perm[1]]
    nodes = [node("Transpose", ["a" if first else "x"], ["t"], perm=perm), *head("t")[0]]
    constants = [tensor("w", np.arange(4 * width).reshape(width, 4)), tensor("b", [1, 2, 3, 4]), tensor("two", 2)]
    path = file(tmp_path / "k.onnx", [*first, *nodes], constants, shape)
    found = check_classifier(load_network(path))
    assert found.card.input_size == size
    program = load_program(path, GRAPH, None)[0]
    torch.testing.assert_close(program(images(2, size)), found.module(images(2, size)))


def test_channels_last_are_turned_and_a_dense_layer_of_keras_is_one_layer(tmp_path: Path) -> None:
    nodes, constants = head("t")
    path = file(
        tmp_path / "k.onnx", [node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), *nodes], constants, ["n", 6, 5, 3]
    )
    found = check_classifier(load_network(path))
    assert found.card.input_size == (3, 6, 5)
    assert any("channels last" in note for note in found.card.notes)
    given = images(2, (3, 6, 5))
    wanted = given.mean((2, 3)) @ torch.arange(12.0).reshape(3, 4) + torch.tensor([1.0, 2, 3, 4])
    torch.testing.assert_close(found.module(given), wanted)
    assert isinstance(classifying_layer(found.module, given, 4), nn.Linear)


def test_what_the_file_leaves_open_is_asked_for_and_what_it_says_is_kept(tmp_path: Path) -> None:
    nodes, constants = head()
    path = file(tmp_path / "o.onnx", nodes, constants, ["n", 3, "h", "w"])
    with pytest.raises(TeacherError, match="--input-size 3,H,W"):
        load_network(path)
    assert load_network(path, input_size=(3, 7, 9)).card.input_size == (3, 7, 9)
    fixed = file(tmp_path / "f.onnx", nodes, constants, ["n", 3, 7, 9])
    with pytest.raises(TeacherError, match=r"--input-size: .* takes 3,7,9 and nothing else"):
        load_network(fixed, input_size=(3, 8, 9))
    with pytest.raises(TeacherError, match="leave --teacher-arch out"):
        load_network(path, arch="lenient:resnet8", input_size=(3, 7, 9))


def test_uneven_pads_are_those_of_the_format(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(3, 3, 3, 3))
    nodes, constants = head("a")
    first = [
        node("Conv", ["x", "k"], ["c"], kernel_shape=[3, 3], pads=[0, 1, 2, 0], strides=[2, 1]),
        node("MaxPool", ["c"], ["l"], kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
        node("AveragePool", ["l"], ["a"], kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
    ]
    path = file(tmp_path / "p.onnx", [*first, *nodes], [tensor("k", weight), *constants], ["n", 3, 6, 5])
    found = check_classifier(load_network(path))
    onnxruntime = pytest.importorskip("onnxruntime")
    given = images(2, (3, 6, 5))
    (wanted,) = onnxruntime.InferenceSession(str(path)).run(None, {"x": given.numpy()})
    torch.testing.assert_close(found.module(given), torch.from_numpy(wanted), rtol=1e-4, atol=1e-4)


def test_pools_are_those_of_the_format(tmp_path: Path) -> None:
    """Kernels, strides and pads by chance, as far as a runtime takes them: no pad is as long as its kernel."""
    onnxruntime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    shape = [2, 3, 9, 8]
    given = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
    for case in range(200):
        kernel = rng.integers(1, 5, 2).tolist()
        ends = rng.integers(0, np.array([*kernel, *kernel])).tolist()
        about = {"kernel_shape": kernel, "strides": rng.integers(1, 4, 2).tolist(), "ceil_mode": case % 2}
        about["pads"] = [*ends[:2], *ends[:2]] if case % 8 < 4 else ends
        whole = {"count_include_pad": case // 2 % 2} if case % 3 else {"dilations": rng.integers(1, 3, 2).tolist()}
        pool = node("AveragePool" if case % 3 else "MaxPool", ["x"], ["y"], **about, **whole)
        graph = onnx.helper.make_graph(
            [pool],
            "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        )
        made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
        (tmp_path / "p.onnx").write_bytes(made.SerializeToString())
        session = onnxruntime.InferenceSession(str(tmp_path / "p.onnx"), providers=["CPUExecutionProvider"])
        (wanted,) = session.run(None, {"x": given.numpy()})
        (read,) = read_graph(tmp_path / "p.onnx").nodes
        found = OPERATORS[read.operator].make(read, 19)(given)
        torch.testing.assert_close(found, torch.from_numpy(wanted), msg=lambda text, about=pool: f"{about}: {text}")


def against_the_runtime(path: Path, given: Tensor) -> Network:
    """Load a file and hold its answers against those of another runtime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    found = check_classifier(load_network(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(["y"], {session.get_inputs()[0].name: given.numpy()})
    torch.testing.assert_close(found.module(given), torch.from_numpy(wanted), rtol=1e-4, atol=1e-4)
    return found


@pytest.mark.parametrize(("one", "two"), [("w_2", "w"), ("training.weight", "pop"), ("a" * 70, "a" * 69)])
def test_layers_whose_names_meet_keep_their_own_weights(tmp_path: Path, one: str, two: str) -> None:
    rng = np.random.default_rng(0)
    names = [one, two, two]
    steps = [node("Conv", [f"x{i}" if i else "x", name], [f"x{i + 1}"]) for i, name in enumerate(names)]
    nodes, constants = head("x3")
    constants = [tensor("v", np.arange(12).reshape(3, 4)), tensor("b", [1, 2, 3, 4])]
    nodes[2] = node("MatMul", ["f", "v"], ["m"])
    weights = [tensor(name, rng.normal(size=(3, 3, 1, 1))) for name in (one, two)]
    path = file(tmp_path / "n.onnx", [*steps, *nodes], [*weights, *constants], ["n", 3, 6, 5])
    against_the_runtime(path, images(2, (3, 6, 5)))


def resized(path: Path, version: int, numbers: list[float] | list[int], **attributes: Any) -> Path:
    """Write a file that resizes its images, by scales or, where the numbers are whole, to sizes."""
    whole = isinstance(numbers[0], int)
    places = ["x", "n"] if version < 11 else ["x", "", "", "n"] if whole else ["x", "", "n"]
    nodes, constants = head("t")
    weight = tensor("k", np.random.default_rng(0).normal(size=(3, 3, 3, 3)))
    first = [node("Resize", places, ["r"], **attributes), node("Conv", ["r", "k"], ["c"]), node("Relu", ["c"], ["t"])]
    constants = [tensor("n", numbers, np.int64 if whole else np.float32), weight, *constants]
    return file(path, [*first, *nodes], constants, ["n", 3, 6, 5], version=version)


@pytest.mark.parametrize("size", [1, 3, 5, 2 * 10**7 + 1])
def test_responses_are_normalised_over_any_number_of_channels(tmp_path: Path, size: int) -> None:
    nodes, constants = head("e")
    norm = node("LRN", ["x"], ["e"], size=size, alpha=float(size), beta=0.75, bias=1.5)
    path = file(tmp_path / "l.onnx", [norm, *nodes], constants, ["n", 3, 6, 5])
    against_the_runtime(path, images(2, (3, 6, 5)))


def test_an_even_number_of_them_is_refused(tmp_path: Path) -> None:
    nodes, constants = head("e")
    path = file(tmp_path / "l.onnx", [node("LRN", ["x"], ["e"], size=2), *nodes], constants, ["n", 3, 6, 5])
    with pytest.raises(TeacherError, match="LRN over an even number"):
        load_network(path)


def test_a_bias_is_added_along_the_axis_that_the_format_says(tmp_path: Path) -> None:
    first = [node("GlobalAveragePool", ["x"], ["p"]), node("Flatten", ["p"], ["f"])]
    for shape in ([4], [1, 4], [1], [1, 1]):
        bias = tensor("b", np.arange(1, 1 + np.prod(shape)).reshape(shape))
        nodes, constants = [*first, node("Gemm", ["f", "w", "b"], ["y"])], [head()[1][0], bias]
        found = against_the_runtime(file(tmp_path / "g.onnx", nodes, constants, ["n", 3, 6, 5]), images(2, (3, 6, 5)))
        assert any(isinstance(part, nn.Linear) for part in found.module.modules())
    nodes = [*first, node("Gemm", ["f", "v", "b"], ["g"]), node("MatMul", ["g", "w"], ["y"])]
    constants = [tensor("v", np.arange(6).reshape(3, 2)), tensor("b", [[1], [2]]), tensor("w", np.ones((2, 4)))]
    with pytest.raises(TeacherError):  # one value for each image, and not for each of two classes
        check_classifier(load_network(file(tmp_path / "g.onnx", nodes, constants, ["n", 3, 6, 5])))


def test_a_product_of_constants_with_a_bias_is_no_layer(tmp_path: Path) -> None:
    nodes, constants = head("t")
    first = [
        node("MatMul", ["left", "right"], ["g"]),
        node("Add", ["g", "bias"], ["h"]),
        node("Mul", ["x", "h"], ["t"]),
    ]
    more = [tensor("left", np.arange(12).reshape(6, 2)), tensor("right", np.ones((2, 5))), tensor("bias", range(5))]
    path = file(tmp_path / "m.onnx", [*first, *nodes], [*more, *constants], ["n", 3, 6, 5])
    against_the_runtime(path, images(2, (3, 6, 5)))


@pytest.mark.parametrize("count", ["n", 1])
def test_a_squeeze_of_all_axes_leaves_one_image_an_image(tmp_path: Path, count: str | int) -> None:
    nodes, constants = head()
    nodes[1] = node("Squeeze", ["p"], ["f"])
    found = load_network(file(tmp_path / "s.onnx", nodes, constants, [count, 3, 6, 5]))
    assert found.card.num_classes == 4
    together = found.module(images(2, (3, 6, 5)))
    torch.testing.assert_close(found.module(images(2, (3, 6, 5))[:1]), together[:1])


STEPPED = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@pytest.mark.parametrize(
    ("version", "numbers", "attributes"),
    [
        (10, [1.0, 1.0, 2.0, 1.5], {"mode": "nearest"}),
        (13, [1.0, 1.0, 2.0, 0.8], STEPPED),
        (13, [1.0, 1.0, 2.0, 0.8], {"mode": "linear"}),
        (13, [1.0, 1.0, 2.0, 1.6], {"mode": "cubic", "cubic_coeff_a": -0.75}),
        (13, [2, 3, 9, 7], {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ],
)
def test_maps_are_resized_as_the_format_says(
    tmp_path: Path, version: int, numbers: list[Any], attributes: dict[str, Any]
) -> None:
    against_the_runtime(resized(tmp_path / "r.onnx", version, numbers, **attributes), images(2, (3, 6, 5)))


@pytest.mark.parametrize(
    ("version", "numbers", "attributes", "words"),
    [
        (10, [1.0, 1.0, 2.0, 1.5], {"mode": "linear"}, "by linear with asymmetric"),
        (10, [1.0, 1.0, 0.5, 1.0], {"mode": "nearest"}, "to less before opset 11"),
        (13, [1.0, 1.0, 2.0, 1.5], {"mode": "cubic", "cubic_coeff_a": -0.5}, "cubic_coeff_a"),
        (13, [1.0, 1.0, 2.0, 1.5], {"mode": "cubic", "exclude_outside": 1}, "exclude_outside"),
        (18, [2, 3, 9, 7], {"mode": "linear", "keep_aspect_ratio_policy": "not_larger"}, "keep_aspect_ratio_policy"),
        (13, [1.0, 2.0, 2.0, 1.0], {"mode": "linear"}, "other axes"),
        (13, [2, 6, 6, 5], {"mode": "linear"}, "other axes"),
    ],
)
def test_a_resize_of_another_form_is_refused(
    tmp_path: Path, version: int, numbers: list[Any], attributes: dict[str, Any], words: str
) -> None:
    with pytest.raises(TeacherError, match=f"has the operator 'Resize .*{words}.*not rebuilt here"):
        load_network(resized(tmp_path / "r.onnx", version, numbers, **attributes))


QUANTISED = [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("DequantizeLinear", ["q", "s", "z"], ["d"])]


def test_what_cannot_be_rebuilt_answers_without_gradient_where_the_user_trusts_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    nodes, constants = head("d")
    path = file(tmp_path / "q.onnx", [*QUANTISED, *nodes], constants, [1, 3, 6, 5])
    with pytest.raises(TeacherError, match=r"has the operator 'DynamicQuantizeLinear'.*--trust-code.*onnxruntime"):
        load_network(path)
    found = check_classifier(load_network(path, trust_code=True))
    assert isinstance(found.module, Answers)
    assert (found.card.input_size, found.card.num_classes) == ((3, 6, 5), 4)
    assert any("asked by onnxruntime, so that images get no gradient" in note for note in found.card.notes)
    assert found.behaviour.blocked
    assert choose(found).name == "stable"
    assert found.module(images(3, (3, 6, 5))).shape == (3, 4)
    assert "the teacher (16 parameters)" in choose_student(found)[1]
    told = lenient("inspect", path, "--trust-code", cwd=tmp_path).stdout
    assert "parameters    not counted in a program" in told


def test_what_is_run_is_told_apart_by_its_file_and_those_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    nodes, _ = head("d")
    outside = onnx.TensorProto(name="w", data_type=1, dims=[3, 4], data_location=1)
    outside.external_data.add(key="location", value="w.bin")

    def hashed(bias: float, weight: float) -> str:
        (tmp_path / "w.bin").write_bytes(np.full(12, weight, np.float32).tobytes())
        path = file(tmp_path / "q.onnx", [*QUANTISED, *nodes], [outside, tensor("b", [bias] * 4)], [1, 3, 6, 5])
        return fingerprint(load_network(path, trust_code=True).module)

    assert hashed(1, 2) == hashed(1, 2)
    assert len({hashed(1, 2), hashed(2, 2), hashed(1, 1)}) == 3


def test_what_is_written_for_a_batch_answers_any_number_of_images(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    nodes, constants = head("d")
    rounded = [node("QuantizeLinear", ["x", "step"], ["q"]), node("DequantizeLinear", ["q", "step"], ["d"])]
    path = file(
        tmp_path / "q.onnx", [*rounded, *nodes], [*constants, tensor("step", np.float32(1 / 255))], [4, 3, 6, 5]
    )
    found = check_classifier(load_network(path, trust_code=True))
    assert isinstance(found.module, Answers)
    assert any("written for batches of 4: asked in such" in note for note in found.card.notes)
    seven = images(7, (3, 6, 5))
    one_by_one = torch.cat([found.module(image[None]) for image in seven])
    torch.testing.assert_close(found.module(seven), one_by_one)


@pytest.mark.parametrize(("kind", "least"), [("UINT8", 0), ("INT8", -128), ("INT32", 0)])
@pytest.mark.parametrize("last", [False, True])
def test_images_of_whole_numbers_are_answered_without_gradient_where_the_user_trusts_it(
    tmp_path: Path, kind: str, least: int, last: bool
) -> None:
    pytest.importorskip("onnxruntime")
    nodes, constants = head("d")
    turned = [node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])] if last else []
    cast = node("Cast", ["t" if last else "x"], ["d"], to=onnx.TensorProto.FLOAT)
    shape = ["n", 6, 5, 3] if last else ["n", 3, 6, 5]
    number = getattr(onnx.TensorProto, kind)
    path = file(tmp_path / "w.onnx", [*turned, cast, *nodes], constants, shape, kind=number)
    with pytest.raises(TeacherError, match=rf"takes images as {kind.lower()}, which have no gradient.*--trust-code"):
        load_network(path)
    found = check_classifier(load_network(path, trust_code=True))
    assert isinstance(found.module, Answers)
    assert (found.card.input_size, found.behaviour.blocked) == ((3, 6, 5), "its answers have no gradient")
    assert choose(found).name == "stable"
    shown = images(3, (3, 6, 5)) * 1.2 - 0.1
    whole = (shown * 255).round() + least
    whole = whole if kind == "INT32" else whole.clamp(least, least + 255)
    pixels = PixelClassifier(found.module, found.card)(shown)
    weights, bias = torch.arange(12.0).view(3, 4), torch.tensor([1.0, 2, 3, 4])
    torch.testing.assert_close(pixels, whole.mean((2, 3)) @ weights + bias)


def test_a_batch_that_is_built_in_is_refused(tmp_path: Path) -> None:
    nodes, constants = head("s")
    mixed = [node("Softmax", ["x"], ["s"], axis=0)]
    path = file(tmp_path / "b.onnx", [*mixed, *nodes], constants, [1, 3, 6, 5])
    with pytest.raises(TeacherError, match="written for batches of 1, which its graph has built in"):
        load_network(path)


# hostile


def test_a_graph_cannot_ask_for_all_memory(tmp_path: Path) -> None:
    nodes, constants = head("e")
    bombs: dict[str, list[Any]] = {
        "Expand": [node("GlobalAveragePool", ["x"], ["g"]), node("Expand", ["g", "wide"], ["e"])],
        "Tile": [node("Tile", ["x", "wide"], ["e"])],
        "ConstantOfShape": [node("ConstantOfShape", ["wide"], ["c"]), node("Add", ["c", "c"], ["e"])],
        "Pad": [node("Pad", ["x", "pads"], ["e"])],
        "Conv": [node("Conv", ["x", "k"], ["e"], pads=[2**15] * 4)],
        "Strided": [node("Conv", ["x", "k"], ["e"], pads=[2**16, 2**16, 2**16 + 1, 2**16], strides=[2**15] * 2)],
        "MaxPool": [node("MaxPool", ["x"], ["e"], kernel_shape=[1, 1], pads=[2**15] * 4, strides=[2**15] * 2)],
        "AveragePool": [
            node("AveragePool", ["x"], ["e"], kernel_shape=[1, 1], pads=[0, 0, 2**15, 2**15], strides=[2**15] * 2)
        ],
        "Range": [node("Range", ["zero", "huge", "one"], ["e"])],
    }
    more = [tensor("wide", [1, 3, 2**16, 2**16], np.int64), tensor("pads", [0, 0, 2**15, 2**15] * 2, np.int64)]
    more += [tensor("k", np.ones((3, 3, 1, 1))), tensor("zero", 0, np.int64), tensor("huge", 2**60, np.int64)]
    more += [tensor("one", 1, np.int64)]
    for name, first in bombs.items():
        path = file(tmp_path / f"{name}.onnx", [*first, *nodes], [*constants, *more], [1, 3, 6, 5])
        with pytest.raises(TeacherError, match="Range" if name == "Range" else "GiB for one image") as caught:
            load_network(path)
        assert "\n" not in str(caught.value)


def test_nor_can_all_its_constants_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, constants = head("e")
    steps = [node("ConstantOfShape", ["wide"], ["c"]), node("Add", ["c", "c"], ["x1"])]
    steps += [node("Sqrt", [f"x{number}"], [f"x{number + 1}"]) for number in range(1, 4)]
    steps += [node("ReduceMax", ["x4"], ["m1"], keepdims=0), node("Add", ["x", "m1"], ["e"])]
    path = file(tmp_path / "c.onnx", [*steps, *nodes], [tensor("wide", [2**18], np.int64), *constants], ["n", 3, 6, 5])
    assert load_network(path).card.num_classes == 4
    monkeypatch.setattr("lenient.models.graphs.network.BUDGET", 3 * 2**20)
    with pytest.raises(TeacherError, match=r"describes constants of over .* GiB"):
        load_network(path)


def test_a_batch_that_is_built_in_is_tried_without_memory_where_it_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, constants = head("t")
    monkeypatch.setattr("lenient.models.graphs.classifier.BUDGET", 2 * 8 * 12 * 10 * 3 * 4 - 1)
    monkeypatch.setattr("lenient.models.graphs.classifier.derive", None)
    doubled = node("Resize", ["x", "", "n"], ["t"], **STEPPED)
    scales = tensor("n", [1.0, 1, 2, 2])
    path = file(tmp_path / "b.onnx", [doubled, *nodes], [*constants, scales], [8, 3, 6, 5])
    assert load_network(path).card.num_classes == 4
    mixed = [node("Add", ["x", "other"], ["r"]), node("Resize", ["r", "", "n"], ["t"], **STEPPED)]
    other = tensor("other", np.ones((8, 3, 6, 5)))
    path = file(tmp_path / "c.onnx", [*mixed, *nodes], [*constants, scales, other], [8, 3, 6, 5])
    with pytest.raises(TeacherError, match="written for batches of 8, which its graph has built in"):
        load_network(path)


def test_weights_are_read_from_beside_the_file_and_from_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    nodes, constants = head()
    values = np.arange(12, dtype=np.float32)
    (folder / "w.bin").write_bytes(values.tobytes())
    (tmp_path / "w.bin").write_bytes(values.tobytes())
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(tmp_path / "w.bin")

    def with_weights(location: str, **says: str) -> Path:
        outside = onnx.TensorProto(name="w", data_type=1, dims=[3, 4], data_location=1)
        for key, value in {"location": location, **says}.items():
            outside.external_data.add(key=key, value=value)
        return file(folder / "p.onnx", nodes, [outside, constants[1]], ["n", 3, 6, 5])

    assert load_network(with_weights("w.bin")).card.num_classes == 4
    for wrong in ("../w.bin", str(tmp_path / "w.bin"), "link", "pipe", "..", ""):
        with pytest.raises(TeacherError, match="which is no file beside it"):
            load_network(with_weights(wrong))
    with pytest.raises(TeacherError, match="which is not there"):
        load_network(with_weights("v.bin"))
    for says in ({"offset": "8"}, {"offset": "-4"}, {"length": "9999999999"}, {"offset": "x"}):
        with pytest.raises(TeacherError, match="damaged"):
            load_network(with_weights("w.bin", **says))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": 2}, "takes 2 inputs"),
        ({"version": 6}, "opset 6"),
        ({"kind": 2}, "takes images as uint8, which have no gradient"),
        ({"shape": ["n", 12]}, "not images"),
        ({"nodes": [node("Gelu", ["x"], ["y"], domain="com.microsoft")]}, "optimised for one runtime"),
        ({"nodes": [node("Relu", ["nothing"], ["y"])]}, "makes no sense"),
        ({"nodes": [node("Relu", ["x"], ["y"])]}, "no classifier"),
        ({"nodes": [node("Reshape", ["y"], ["y"])]}, "makes no sense"),
        ({"constants": [tensor("w", [1.0])]}, "makes no sense"),
    ],
)
def test_what_is_no_classifier_ends_in_one_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    nodes, constants = head()
    values = {"nodes": nodes, "constants": constants, "shape": ["n", 3, 6, 5]} | change
    path = file(tmp_path / "p.onnx", **values)
    with pytest.raises(TeacherError, match=words) as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x08\x0a", b"no ONNX file at all", bytes(range(256)) * 20])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.onnx").write_bytes(content)
    with pytest.raises(TeacherError, match="damaged or not an ONNX file") as caught:
        load_network(tmp_path / "p.onnx")
    assert "\n" not in str(caught.value)


def test_every_cut_of_a_file_is_one_line(tmp_path: Path) -> None:
    nodes, constants = head()
    whole = file(tmp_path / "p.onnx", nodes, constants, ["n", 3, 6, 5]).read_bytes()
    for end in range(1, len(whole), 7):
        (tmp_path / "p.onnx").write_bytes(whole[:end])
        with pytest.raises(TeacherError):
            load_network(tmp_path / "p.onnx")


def test_the_package_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, constants = head()
    path = file(tmp_path / "p.onnx", nodes, constants, ["n", 3, 6, 5])
    monkeypatch.setattr("lenient.models.graphs.reading.find_spec", lambda name: None)
    with pytest.raises(TeacherError, match=r"needs onnx; pip install onnx$"):
        load_network(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_rebuilt_network_is_copied_and_moved_as_any(tmp_path: Path) -> None:
    module = load_network(exported(net("attending"), tmp_path / "net.onnx")).module
    assert isinstance(module, GraphNetwork)
    torch.testing.assert_close(copy.deepcopy(module)(images()), module(images()))
    assert module.to("meta")(images().to("meta")).shape == (3, 4)
