"""Folders of Hugging Face transformers: the network, and how its processor makes images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lenient.core.errors import TeacherError
from lenient.methods.choice import choose
from lenient.models import batch_norm_layers, check_classifier, load_network
from lenient.models.huggingface import _facts, _harmless

RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
       "intermediate_size": 32, "image_size": 32, "patch_size": 8}  # fmt: skip
DEIT = {**VIT, "model_type": "deit"}
LEVIT = {"model_type": "levit", "image_size": 64, "hidden_sizes": [16, 16, 16], "depths": [1, 1, 1],
         "num_attention_heads": [1, 1, 1], "key_dim": [8, 8, 8]}  # fmt: skip
TIMM = {"model_type": "timm_wrapper", "architecture": "resnet10t", "num_classes": 4,
        "pretrained_cfg": {"input_size": [3, 48, 40], "mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.1],
                           "num_classes": 1000}}  # fmt: skip
PROCESSOR = {"do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.3, 0.2, 0.1],
             "size": {"height": 32, "width": 32}}  # fmt: skip
EFFICIENT = {**PROCESSOR, "image_processor_type": "EfficientNetImageProcessor"}


pytestmark = pytest.mark.optional


@pytest.fixture
def transformers() -> Any:
    """The package, which takes long to import and is installed by whoever asks for the extra."""
    return pytest.importorskip("transformers")


def written(folder: Path, config: dict[str, Any], transformers: Any, *, safe: bool = True) -> torch.nn.Module:
    """Make a folder as `save_pretrained` writes it, with the weights as the older ones had them where not `safe`."""
    kind = transformers.models.auto.configuration_auto.CONFIG_MAPPING[config["model_type"]]
    module = transformers.AutoModelForImageClassification.from_config(kind(**{**config, "num_labels": 4})).eval()
    for norm in (part for _, part in batch_norm_layers(module)):
        norm.running_mean.normal_()
    module.save_pretrained(folder)
    if not safe:
        (folder / "model.safetensors").unlink()
        torch.save(module.state_dict(), folder / "pytorch_model.bin")
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return module  # type: ignore[no-any-return]


@pytest.mark.parametrize(("config", "safe"), [(RESNET, True), (RESNET, False), (VIT, True)])
def test_a_folder_answers_as_its_network(tmp_path: Path, transformers: Any, config: dict[str, Any], safe: bool) -> None:
    module = written(tmp_path, config, transformers, safe=safe)
    found = check_classifier(load_network(tmp_path))
    assert (found.card.input_size, found.card.num_classes) == ((3, 32, 32), 4)
    assert (found.card.mean, found.card.std) == ((0.4, 0.5, 0.6), (0.3, 0.2, 0.1))
    assert any("from config.json and preprocessor_config.json" in note for note in found.card.notes)
    assert not found.behaviour.blocked
    assert choose(found).name == ("dafl-adv" if config is VIT else "bn-adv")
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(found.module.eval()(images).logits, module(images).logits)
    assert load_network(f"local-dir:{tmp_path}").card == found.card


@pytest.mark.parametrize(
    ("config", "kinds", "size"),
    [
        (DEIT, ["DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"], 32),
        (LEVIT, ["LevitForImageClassification", "LevitForImageClassificationWithTeacher"], 64),
    ],
)
def test_of_several_classes_for_a_network_the_one_that_was_saved_is_taken(
    tmp_path: Path, transformers: Any, config: dict[str, Any], kinds: list[str], size: int
) -> None:
    images = torch.rand(2, 3, size, size)
    described = transformers.models.auto.configuration_auto.CONFIG_MAPPING[config["model_type"]]
    for kind in kinds:
        module = getattr(transformers, kind)(described(**config, num_labels=4)).eval()
        module.save_pretrained(tmp_path)
        found = check_classifier(load_network(tmp_path, mean=[0.5], std=[0.2]))
        assert type(found.module).__name__ == kind
        torch.testing.assert_close(found.module.eval()(images).logits, module(images).logits)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**saved, "architectures": None}))
    with pytest.raises(TeacherError, match="missing or do not fit"):  # the first, which has no second head
        load_network(tmp_path)


def test_a_network_of_timm_saved_by_transformers_says_how_it_is_used(tmp_path: Path, transformers: Any) -> None:
    pytest.importorskip("timm")
    module = written(tmp_path, TIMM, transformers)
    (tmp_path / "preprocessor_config.json").unlink()  # their processor reads config.json
    found = check_classifier(load_network(tmp_path))
    assert (found.card.input_size, found.card.num_classes) == ((3, 48, 40), 4)
    assert (found.card.mean, found.card.std) == ((0.4, 0.5, 0.6), (0.3, 0.2, 0.1))
    images = torch.rand(2, 3, 48, 40)
    torch.testing.assert_close(found.module.eval()(images).logits, module(images).logits)
    config = json.loads((tmp_path / "config.json").read_text())
    for place in ("hf-hub:someone/net", "local-dir:net", "someone/net"):
        (tmp_path / "config.json").write_text(json.dumps({**config, "architecture": place}))
        with pytest.raises(TeacherError, match=rf"has the architecture '{place}'; give a plain name"):
            load_network(tmp_path)
    elsewhere = {"checkpoint_path": str(tmp_path / "other.pt"), "cache_dir": str(tmp_path)}
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_args": elsewhere}))
    load_network(tmp_path)


def test_a_folder_runs_no_code_visits_nothing_and_asks_for_no_memory(tmp_path: Path, transformers: Any) -> None:
    module = written(tmp_path, RESNET, transformers)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "net.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")

    def with_more(**more: Any) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(config | more))
        return tmp_path

    remote = {"AutoConfig": "net.Config", "AutoModelForImageClassification": "net.Net"}
    network = load_network(with_more(auto_map=remote, _attn_implementation="someone/kernel"))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network.module.eval()(images).logits, module(images).logits)
    assert not (tmp_path / "mark").exists()
    wrong = [
        ({"use_pretrained_backbone": True, "backbone": "someone/net"}, "asks for another network"),
        ({"hidden_sizes": [2**14, 2**14]}, "describes .* weights, and there are"),
        ({"hidden_sizes": [8, 12]}, "missing or do not fit"),
        ({"model_type": "no-such-net"}, "has no network 'no-such-net'"),
        ({"model_type": "bert"}, "makes no image classifier"),
        ({"depths": "many"}, "makes no image classifier"),
    ]
    for more, words in wrong:
        with pytest.raises(TeacherError, match=words) as caught:
            load_network(with_more(**more))
        assert "\n" not in str(caught.value)


def test_the_package_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RESNET))
    torch.save({"weight": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr("lenient.models.huggingface.find_spec", lambda name: None)
    with pytest.raises(TeacherError, match=r"needs transformers; pip install transformers$"):
        load_network(tmp_path)


class Described:
    num_channels, num_labels = 3, 2
    id2label = {0: "cat", 1: "dog"}  # noqa: RUF012


@pytest.mark.parametrize(
    ("processor", "size", "mean", "std"),
    [
        (PROCESSOR, (32, 32), (0.4, 0.5, 0.6), (0.3, 0.2, 0.1)),
        ({**PROCESSOR, "size": 24}, (24, 24), (0.4, 0.5, 0.6), (0.3, 0.2, 0.1)),
        ({**PROCESSOR, "size": {"shortest_edge": 40}, "crop_size": 36, "do_center_crop": True}, (36, 36),
         (0.4, 0.5, 0.6), (0.3, 0.2, 0.1)),
        ({**PROCESSOR, "size": {"shortest_edge": 40}, "crop_size": 36, "do_center_crop": False}, (40, 40),
         (0.4, 0.5, 0.6), (0.3, 0.2, 0.1)),
        ({**PROCESSOR, "do_normalize": False}, (32, 32), (0.0,), (1.0,)),
        ({**PROCESSOR, "rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}, (32, 32), (0.5,),
         (0.5,)),
        ({**PROCESSOR, "do_rescale": False, "image_mean": [127.5], "image_std": [51]}, (32, 32), (0.5,), (0.2,)),
        ({"image_mean": "x"}, (16, 16), None, None),
        (EFFICIENT, (32, 32), (0.4, 0.5, 0.6), (0.09, 0.04, 0.01)),
        ({**EFFICIENT, "image_processor_type": "EfficientNetImageProcessorFast"}, (32, 32), (0.4, 0.5, 0.6),
         (0.09, 0.04, 0.01)),
        ({**EFFICIENT, "include_top": False}, (32, 32), (0.4, 0.5, 0.6), (0.3, 0.2, 0.1)),
        ({**PROCESSOR, "include_top": True}, (32, 32), (0.4, 0.5, 0.6), (0.09, 0.04, 0.01)),
        ({**EFFICIENT, "do_normalize": False}, (32, 32), (0.0, 0.0, 0.0), (0.3, 0.2, 0.1)),
        ({**PROCESSOR, "image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": False}, (32, 32),
         (0.4, 0.5, 0.6), (0.3, 0.2, 0.1)),
    ],
)  # fmt: skip
def test_what_a_processor_does_is_told_in_pixel_units(
    tmp_path: Path, processor: dict[str, Any], size: Any, mean: Any, std: Any
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    facts = _facts(tmp_path, {"image_size": 16}, Described())
    assert (facts.channels, facts.size, facts.num_classes, facts.classes) == (3, size, 2, ("cat", "dog"))
    assert facts.mean == (None if mean is None else pytest.approx(mean))
    assert facts.std == (None if std is None else pytest.approx(std))


@pytest.mark.parametrize(
    "swaps", [{"do_flip_channel_order": True}, {"feature_extractor_type": "MobileViTFeatureExtractor"}]
)
def test_a_processor_that_swaps_colours_is_refused_in_a_line(tmp_path: Path, swaps: dict[str, Any]) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **swaps}))
    with pytest.raises(
        TeacherError, match=r"swaps red and blue \(do_flip_channel_order\).*; load the network by a py:"
    ):
        _facts(tmp_path, {}, Described())


def test_keys_that_name_code_or_places_are_left_out_at_every_depth() -> None:
    config = {
        "a": 1,
        "auto_map": {},
        "_x": 2,
        "part": {"attn_implementation": "b", "list": [{"use_kernels": 1, "c": 3}]},
    }
    assert _harmless(config) == {"a": 1, "part": {"list": [{"c": 3}]}}
