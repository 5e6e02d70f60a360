"""Files that are programs: refused unread, and run only where the user trusts them."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import lenient
from lenient.core.errors import TeacherError, UsageError
from lenient.core.runtime import Runtime
from lenient.models import PixelClassifier, check_classifier, load_network, to_logits
from lenient.models.checking import check_distillable
from lenient.models.lending import frozen
from lenient.models.loading import network_from_module
from lenient.models.programs import Program
from lenient.runs.export import export_pt2

MEMBERS = (
    "data/weights/model.pt",
    "data/weights/weight_0",
    "data/constants/model.pt",
    "data/constants/tensor_0",
    "data/constants/custom_obj_0",
    "data/constants/opaque_obj_0",
    "data/sample_inputs/model.pt",
    "data/aotinductor/model/model.so",
    "data.pkl",
    "serialized_state_dict.pt",
    "serialized_constants.pt",
    "serialized_example_inputs.pt",
)
"""Members of an archive that torch's loaders of programs, of this version or an older one, unpickle or open."""


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"{path.stem}/{name}", content)
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["p.pt2", "p.pt", "p.pth", "p.bin", "p.ckpt"])
@pytest.mark.parametrize("member", MEMBERS)
def test_no_member_of_an_exported_program_is_unpickled(tmp_path: Path, mark: Path, member: str, name: str) -> None:
    first = {"archive_format": b"pt2", "serialized_exported_program.json": b"{}", "version": b"8.1"}
    path = archive(tmp_path / name, first | {member: pickle.dumps(Trap(mark))})
    with pytest.raises(TeacherError, match="is an exported program") as caught:
        load_network(path)
    assert "--trust-code" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_so_many_disguises_are_tried() -> None:
    assert len(MEMBERS) * 5 == 60


@pytest.mark.parametrize("name", ["s.pt", "s.pth", "s.bin", "s.pkl"])
def test_a_scripted_program_is_not_unpickled(tmp_path: Path, mark: Path, name: str) -> None:
    trap = pickle.dumps(Trap(mark))
    path = archive(tmp_path / name, {"code/__torch__.py": b"", "data.pkl": trap, "constants.pkl": trap})
    with pytest.raises(TeacherError, match=r"is a TorchScript program.*--trust-code"):
        load_network(path)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", ["keras", "h5", "tflite", "pb"])
@pytest.mark.parametrize("trust", [False, True])
def test_a_program_of_another_framework_is_not_opened_and_its_conversion_is_named(
    tmp_path: Path, mark: Path, suffix: str, trust: bool
) -> None:
    path = tmp_path / f"p.{suffix}"
    path.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(
        TeacherError, match=rf"is a {suffix} program.*python -m tf2onnx.convert --\S+ \S+ --output"
    ) as caught:
        load_network(path, trust_code=trust, input_size=(1, 8, 8), num_classes=10)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_a_folder_of_tensorflow_is_told_how_to_become_onnx(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(TeacherError, match=r"tf2onnx.convert --saved-model \S+net --output net.onnx"):
        load_network(tmp_path / "net")


def test_our_own_program_answers_as_its_student_does(tmp_path: Path) -> None:
    student = load_network("lenient:lenet5-half", input_size=(1, 8, 8), num_classes=10, mean=[0.3], std=[0.4])
    student.module.eval()
    export_pt2(student, tmp_path / "student.pt2")
    with pytest.raises(TeacherError, match="--trust-code"):
        load_network(tmp_path / "student.pt2")
    found = check_classifier(load_network(tmp_path / "student.pt2", trust_code=True))
    assert isinstance(found.module, Program)
    assert (found.card.input_size, found.card.num_classes, found.card.arch) == ((1, 8, 8), 10, None)
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(found.module.train()(images), PixelClassifier(student.module, student.card)(images))
    assert sum(p.numel() for p in found.module.parameters()) == sum(p.numel() for p in student.module.parameters())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_scripted_program_that_the_user_trusts_runs(tmp_path: Path) -> None:
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images, self.layers(images)

    torch.jit.trace(Module(), torch.rand(2, 1, 8, 8)).save(str(tmp_path / "s.pt"))
    found = check_classifier(
        load_network(tmp_path / "s.pt", trust_code=True, input_size=(1, 8, 8), num_classes=10, mean=[0], std=[1])
    )
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(to_logits(found.module(images)), layers(images))
    assert any("a TorchScript program, which shows no layers" in note for note in found.card.notes)


def small_net() -> torch.nn.Sequential:
    """Return a classifier of images (1, 8, 8) in 5 classes, with batch norms."""
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten())
    return torch.nn.Sequential(*layers, torch.nn.Linear(144, 5)).eval()


def written(path: Path, kind: str, module: torch.nn.Module, images: torch.Tensor, *, free: bool = True) -> Path:
    """Write a program of a kind, traced with `images`; an exported one for any number of them where `free`."""
    if kind == "exported":
        shapes = ({0: torch.export.Dim("batch")},) if free else None
        torch.export.save(torch.export.export(module, (images,), dynamic_shapes=shapes), path)
    else:
        made = torch.jit.script(module) if kind == "scripted" else torch.jit.trace(module, images)
        made.save(str(path))
    return path


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "name"), [("exported", "p.pt2"), ("scripted", "p.pt"), ("traced", "p.pt")])
def test_what_runs_of_a_program_is_what_is_placed(tmp_path: Path, kind: str, name: str, dtype: torch.dtype) -> None:
    module = small_net().to(dtype)
    path = written(tmp_path / name, kind, module, torch.rand(2, 1, 8, 8, dtype=dtype))
    found = check_classifier(
        load_network(path, trust_code=True, input_size=(1, 8, 8), num_classes=5, mean=[0], std=[1])
    )
    assert not found.behaviour.blocked
    program, module = found.module, module.double()
    assert isinstance(program, Program)
    images = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    with frozen(program, Runtime(torch.device("cpu"), "64")):
        torch.testing.assert_close(program(images), module(images))
    assert {tensor.dtype for tensor in program.parameters()} == {dtype}
    program.to("meta")
    assert {tensor.device.type for tensor in program._run[0].parameters()} == {"meta"}
    if kind != "traced":  # of which torch 2.8 has no convolution there
        assert program(images.to("meta", dtype)).is_meta


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_an_exported_program_of_a_fixed_batch_takes_any_number_of_images(tmp_path: Path, batch: int) -> None:
    module = small_net()
    path = written(tmp_path / "p.pt2", "exported", module, torch.rand(batch, 1, 8, 8), free=False)
    found = check_classifier(load_network(path, trust_code=True))
    assert (found.card.input_size, found.card.num_classes) == ((1, 8, 8), 5)
    assert any(f"written for batches of {batch}: asked in such" in note for note in found.card.notes)
    images = torch.rand(5, 1, 8, 8, requires_grad=True)
    torch.testing.assert_close(found.module(images), module(images))
    ours, theirs = (torch.autograd.grad(net(images).square().sum(), images)[0] for net in (found.module, module))
    torch.testing.assert_close(ours, theirs)


def test_a_program_of_a_fixed_batch_returns_what_logits_can_be_read_of(tmp_path: Path) -> None:
    class Two(torch.nn.Module):
        def __init__(self, same: bool) -> None:
            super().__init__()
            self.net, self.same = small_net(), same

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.net(images)
            return {"out": logits, "more": logits if self.same else images}

    def loaded(module: torch.nn.Module) -> Any:
        path = written(tmp_path / "p.pt2", "exported", module, torch.rand(2, 1, 8, 8), free=False)
        return load_network(path, trust_code=True, num_classes=5)

    module = Two(same=False).eval()
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(to_logits(check_classifier(loaded(module)).module(images)), module(images)["out"])
    with pytest.raises(TeacherError, match=r"^the network returns 2 tensors, of 5 and 5 values .* wrap it"):
        check_classifier(loaded(Two(same=True).eval()))


@pytest.mark.parametrize("free", [True, False])
def test_of_several_outputs_of_an_exported_program_the_logits_are_taken(tmp_path: Path, free: bool) -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = self.net[:-1](images)
            return features, self.net[-1](features)

    path = written(tmp_path / "p.pt2", "exported", Two().eval(), torch.rand(2, 1, 8, 8), free=free)
    found = check_classifier(load_network(path, trust_code=True, num_classes=5))
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(found.module(images), small_net()(images))
    with pytest.raises(TeacherError, match=r"the number of classes is not known: give --num-classes N"):
        load_network(path, trust_code=True)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("kind", "name"), [("exported", "p.pt2"), ("traced", "p.pt")])
def test_a_program_in_training_mode_is_told_to_be_exported_anew(tmp_path: Path, kind: str, name: str) -> None:
    path = written(tmp_path / name, kind, small_net().train(), torch.rand(2, 1, 8, 8))
    found = check_classifier(load_network(path, trust_code=True, input_size=(1, 8, 8), num_classes=5))
    with pytest.raises(TeacherError, match=r"depends on the other images .* training mode\? Export module\.eval\(\)"):
        check_distillable(found)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_quantised_by_each_batch_is_told_so() -> None:
    net = torch.ao.quantization.quantize_dynamic(small_net(), {torch.nn.Linear})
    found = check_classifier(network_from_module(net, input_size=(1, 8, 8), num_classes=5))
    with pytest.raises(
        TeacherError, match=r"depends on the other images .* Dynamic quantisation\? Quantise statically"
    ):
        check_distillable(found)


def test_a_program_that_is_no_file_is_told_to_become_one() -> None:
    program: Any = torch.export.export(small_net(), (torch.rand(1, 1, 8, 8),))
    with pytest.raises(
        UsageError, match=r"^network: it cannot be of type ExportedProgram; save it with torch\.export\.save"
    ):
        lenient.inspect(program, progress=False)
    nothing: Any = None
    with pytest.raises(UsageError, match="of type NoneType; give a module, a file or SOURCE:NAME"):
        load_network(nothing)


@pytest.mark.parametrize("name", ["p.pt2", "p.onnx"])
def test_a_pipe_is_no_program(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)  # opening it would wait for the other end
    with pytest.raises(TeacherError, match="is a pipe or a device, not a file of weights"):
        load_network(tmp_path / name, trust_code=True)


def test_a_damaged_program_is_one_line_though_trusted(tmp_path: Path) -> None:
    (tmp_path / "p.pt2").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(TeacherError, match=r"torch\.export cannot load it") as caught:
        load_network(tmp_path / "p.pt2", trust_code=True)
    assert "\n" not in str(caught.value)
