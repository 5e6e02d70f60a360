"""Folders of Hugging Face transformers: image classifiers, and how their processor makes images of pictures.

The package builds the network from what `config.json` says; its own readers of weights, and code in a
folder, stay unused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lenient.core import files
from lenient.core.errors import TeacherError
from lenient.core.packages import needs
from lenient.core.text import shown
from lenient.models.card import parameters
from lenient.models.facts import Facts, facts_of_config
from lenient.models.names import one_line
from lenient.models.weights import Weights

MAX_CONFIG = 4 * 2**20
"""Bytes of a `config.json`, which may name 20,000 classes."""
PROCESSOR = "preprocessor_config.json"
_VISITS = ("use_pretrained_backbone", "use_timm_backbone")
_LEFT_OUT = (
    "auto_map",
    "implementation",
    "kernels",
    "quantization_config",
    "name_or_path",
    "checkpoint_path",
    "cache_dir",
)
"""Parts of keys by which a configuration names code, or another place."""
_TIMM = "pretrained_cfg"
"""Key under which a network of timm, as transformers saves it, has size, mean and deviation; it has no processor."""
_CHANNELS = 3
"""Of networks whose configuration does not say."""
_FLIP = "do_flip_channel_order"
"""Key of processors whose networks take blue first; MobileViT's do so where it is missing."""
_MOST, _SPARE = 2, 10_000
"""A network has so many times the weights of its file at most, where it shares some, and so many more."""


def is_theirs(config: Mapping[str, Any] | None) -> bool:
    """Whether transformers wrote a folder's `config.json`."""
    return config is not None and isinstance(config.get("model_type"), str)


def loaded(folder: Path, weights: Weights) -> tuple[nn.Module, Facts]:
    """Build the classifier that a folder describes, put its weights in, and say what the folder says of it.

    Raises:
        TeacherError: transformers is missing or knows no such classifier, or the weights are not those of the network.
    """
    config = read_json(folder / "config.json") or {}
    if find_spec("transformers") is None:
        raise TeacherError(
            f"{folder}: was written by Hugging Face transformers, and building it {needs('transformers')}"
        )
    visits = next((key for key in _VISITS if config.get(key)), None)
    if visits is not None:
        raise TeacherError(f"{folder}: its config.json asks for another network by {visits}; set that to false")
    name = config.get("architecture", "")  # of timm
    if not isinstance(name, str) or ":" in name or "/" in name:
        raise TeacherError(f"{folder}: its config.json has the architecture {shown(name)}; give a plain name of timm's")
    try:
        module, described = _module(config, weights)
    except TeacherError as error:
        raise TeacherError(f"{folder}: {error}") from error
    except Exception as error:  # of transformers, which has many
        raise TeacherError(
            f"{folder}: transformers makes no image classifier of it ({one_line(error, 120)})"
        ) from error
    return module.eval(), _facts(folder, config, described)


def _module(config: Mapping[str, Any], weights: Weights) -> tuple[nn.Module, Any]:
    from transformers import AutoModelForImageClassification
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.utils import logging as progress

    if config["model_type"] not in CONFIG_MAPPING:
        raise TeacherError(f"transformers has no network {shown(config['model_type'])}; a newer one may")
    described = CONFIG_MAPPING[config["model_type"]].from_dict(_harmless(config))
    described.architectures = described.architectures or []  # by which the class is chosen where there are several
    with torch.device("meta"):
        drafted = AutoModelForImageClassification.from_config(described, trust_remote_code=False)
    asked = parameters(drafted)
    held = sum(math.prod(entry.shape) for entry in weights.entries.values())
    if asked > _MOST * held + _SPARE:
        raise TeacherError(f"its config.json describes {asked:,} weights, and there are {held:,}; fetch it again")
    state = {name: entry.read() for name, entry in weights.entries.items()}
    shows, says = progress.is_progress_bar_enabled(), progress.get_verbosity()
    progress.disable_progress_bar()
    progress.set_verbosity_error()
    try:
        module, found = type(drafted).from_pretrained(
            None, config=described, state_dict=state, output_loading_info=True, ignore_mismatched_sizes=True
        )
    finally:
        progress.set_verbosity(says)
        if shows:
            progress.enable_progress_bar()
    other = [key if isinstance(key, str) else key[0] for key in found["mismatched_keys"]]
    wrong = [*found["missing_keys"], *found["unexpected_keys"], *other]
    if wrong:
        raise TeacherError(f"{len(wrong)} weights are missing or do not fit (first {shown(sorted(wrong)[0])})")
    return module, described


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what a file of settings holds, None where there is none; raises TeacherError where it is damaged."""
    if not path.exists():
        return None
    try:
        config = json.loads(files.read_text(path, MAX_CONFIG))
    except (ValueError, RecursionError, OSError) as error:
        raise TeacherError(f"{path}: damaged ({getattr(error, 'strerror', None) or one_line(error, 100)})") from error
    return config if isinstance(config, dict) else None


def _harmless(config: Any) -> Any:
    """Return a configuration without what names code, or places to visit."""
    if isinstance(config, list):
        return [_harmless(part) for part in config]
    if not isinstance(config, dict):
        return config
    return {
        key: _harmless(value)
        for key, value in config.items()
        if not key.startswith("_") and not any(part in key for part in _LEFT_OUT)
    }


def _facts(folder: Path, config: Mapping[str, Any], described: Any) -> Facts:
    """Return channels, classes and size of the network, and what its processor does to pictures."""
    processor = read_json(folder / PROCESSOR)
    if processor is not None and processor.get(_FLIP, _is_of("MobileViT", processor)):
        raise TeacherError(f"{folder / PROCESSOR}: swaps red and blue ({_FLIP}), which is not done here; "
                           "load the network by a py: factory that swaps them inside")  # fmt: skip
    channels = getattr(described, "num_channels", None)
    names = [described.id2label.get(place) for place in range(described.num_labels)]
    known = all(isinstance(name, str) and not name.startswith("LABEL_") for name in names)
    size = _size(processor or {}) or _pair(config.get("image_size"))
    values = {
        "input_size": None if size is None else (channels if isinstance(channels, int) else _CHANNELS, *size),
        "num_classes": described.num_labels,
        "label_names": names if known else None,
        **({} if processor is None else _normalisation(processor)),
    }
    own = config.get(_TIMM)
    both = f"config.json and {PROCESSOR}" if processor is not None else "config.json"
    found = {key: value for key, value in values.items() if value is not None}
    return facts_of_config({**(own if isinstance(own, Mapping) else {}), **found}, f"{both} of {folder}")


def _is_of(family: str, processor: Mapping[str, Any]) -> bool:
    """Whether a processor is that of a family of networks, whose defaults may be its own."""
    kind = processor.get("image_processor_type") or processor.get("feature_extractor_type")
    return isinstance(kind, str) and kind.startswith((f"{family}ImageProcessor", f"{family}FeatureExtractor"))


def _size(processor: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return height and width of what a processor hands to the network."""
    crops = processor.get("do_center_crop", False) and processor.get("crop_size")
    size = (processor.get("crop_size") if crops else None) or processor.get("size")
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or (size.get("height"), size.get("width"))
    return _pair(size)


def _pair(size: object) -> tuple[int, int] | None:
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    found = [side for side in sides if isinstance(side, int) and side > 0]
    return (found[0], found[1]) if len(found) == len(sides) == 2 else None


def _normalisation(processor: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return mean and deviation in pixel units (0 to 1): a processor scales 0..255 by a factor of its own before.

    EfficientNet's divides by its deviation once more for classifiers (`include_top`, by default), normalised or not.
    """
    scale = 255 * (processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1)
    normalises = processor.get("do_normalize", True)
    mean = processor.get("image_mean") if normalises else [0.0]
    std = processor.get("image_std") if normalises else [1.0]
    shift = 1.0 if processor.get("rescale_offset", False) else 0.0  # to -1..1 by a factor of 1/127.5
    try:
        means, stds = ([float(value) for value in values or ()] for values in (mean, std))
        if processor.get("include_top", _is_of("EfficientNet", processor)):
            again = [float(value) for value in processor.get("image_std") or ()]
            count = max(len(means), len(again))
            means, stds = (values * count if len(values) == 1 else values for values in (means, stds))
            stds = [value * more for value, more in zip(stds, again, strict=True)]
        found = [round((value + shift) / scale, 9) for value in means], [round(value / scale, 9) for value in stds]
        return dict(zip(("mean", "std"), found, strict=True)) if means and stds else {}
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return {}
