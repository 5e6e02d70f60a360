"""What a data set says of itself: `README.md` for people and hubs, `dataset.json` for programs."""

from __future__ import annotations

import json

from lenient.core.text import NOT_DATA_FREE, cell
from lenient.runs.formats.shape import Shape
from lenient.runs.parts import About

FILE = "dataset.json"
PRIVACY = (
    "Synthetic images can resemble the private data that a teacher was trained on: look at them before you publish."
)
LOGITS = "the teacher's logits (natural scale, before softmax) on the image as it is stored"
READING = {
    "png": """import csv

for row in csv.DictReader(open("labels.csv", encoding="utf-8")):
    print(row["file"], row["label"])""",
    "imagefolder": """from pathlib import Path

from safetensors.torch import load_file
from torchvision.datasets import ImageFolder

images = ImageFolder("train", allow_empty=True)
soft = load_file("soft_labels.safetensors")
path, label = images.samples[0]
logits = soft["logits"][int(Path(path).stem)]""",
    "webdataset": """from glob import glob

import webdataset

shards = webdataset.WebDataset(sorted(glob("train-*.tar")), shardshuffle=False).decode("torchrgb")
image, label, logits = next(iter(shards.to_tuple("png", "cls", "logits.npy")))""",
    "npz": """import numpy as np

data = np.load("images.npz")
images, logits = data["images"], data["logits"]""",
    "safetensors": """import lenient

images = lenient.SyntheticImages.open(".")
image, soft_labels = images[0]""",
}
SPLITS = {"imagefolder": "train/**", "webdataset": "train-*.tar"}
"""Files that a hub's viewer and the library datasets take."""
WHERE = {
    "png": "`labels.csv` has a probability of 6 decimals for each class, and the class that the teacher is surest of",
    "imagefolder": f"`soft_labels.safetensors`, row NUMBER for `train/CLASS/NUMBER.png`: `logits` float32, {LOGITS}; "
    "`labels` int64, the largest one's class",
    "webdataset": f"`NUMBER.logits.npy` float32: {LOGITS}; `NUMBER.cls`: the largest one's class",
    "npz": f"`logits` float32: {LOGITS}; `labels` int64, the largest one's class",
    "safetensors": f"`logits` float32: {LOGITS}; `labels` int64, the largest one's class",
}


def readme(kind: str, count: int, shape: Shape, about: About) -> str:
    """Return the card, in Markdown with YAML in front as a hub wants it."""
    channels, height, width = shape.input_size
    names = ", ".join(cell(name, "markdown") for name in shape.classes[:100])
    names += f" and {len(shape.classes) - 100} more (`{FILE}`)" if len(shape.classes) > 100 else ""
    reasons = "; ".join(about.health.reasons)
    foreign = f" They come of {', '.join(about.foreign)}, too: {NOT_DATA_FREE}." if about.foreign else ""
    return f"""{_front(kind)}# Synthetic images

{count:,} images of {height}x{width} pixels, {channels} channel(s), 8 bit, drawn for a classifier of
{len(shape.classes):,} classes (the teacher) without its training data.{foreign}

- teacher: {cell(about.teacher or "a network of somebody's own code", "markdown")}
- method: {cell(about.method, "markdown")}, {about.steps:,} student steps; seed {about.seed}
- verdict about the images: {about.health.verdict}{f" ({cell(reasons, 'markdown', 2000)})" if reasons else ""}
- {about.clipped:.2%} of the values lay outside of black and white, and were clipped
- classes, in the order of the outputs: {names}

{PRIVACY}

## Labels

{WHERE[kind]}.
{_crops(kind, about)}
## Reading

```python
{READING[kind]}
```

`{FILE}` says the same for programs.
"""


def _front(kind: str) -> str:
    configs = ""
    if kind in SPLITS:
        configs = f'configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: "{SPLITS[kind]}"\n'
    return (
        f"---\ntask_categories:\n- image-classification\ntags:\n- synthetic\n- knowledge-distillation\n{configs}---\n\n"
    )


def _crops(kind: str, about: About) -> str:
    if about.cropping is None:
        return ""
    own, many = ("NUMBER.crop_{}.npy", "R") if kind == "webdataset" else ("crop_{}", "N, R")
    boxes, flips, logits = (f"`{own.format(name)}`" for name in ("boxes", "flips", "logits"))
    how = about.cropping
    return f"""
Each image has R = {how.count:,} crops, with labels of their own:

- {boxes} ({many}, 4) int32: top, left, height and width in pixels;
- {flips} ({many}) bool: whether left and right are swapped;
- {logits} ({many}, K) float16: the teacher's logits on the crop.

A crop is the box of the image, as float32 in [0, 1], enlarged to the image's size (bilinear, antialiased), then
mirrored: torchvision's `resized_crop(image / 255, top, left, height, width, size, antialias=True)`, then `hflip`. Boxes
cover {how.area:.0%} to 100% of the image, and {how.flip:.0%} of them are mirrored.
"""


def described(kind: str, count: int, held: int, shape: Shape, about: About) -> str:
    """Return the same as JSON: of a folder that holds so many files with this one."""
    content = {"format": kind, "images": count, "input_size": list(shape.input_size), "files": held, **about.to_dict()}
    return json.dumps(content, indent=1) + "\n"
