"""The options of commands and of their functions, defined once: name, default and help of each.

A command takes flag, default and help from here (`takes`), so that it writes names and types alone. Its function in
`lenient.api` writes its signature out, for that is what editors, type checkers and readers see; a test holds its names,
defaults and the beginnings of its descriptions against these. Bounds are where a value is used, and hold for both.
Nothing heavy is imported here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_type_hints

import typer

from lenient.methods import METHODS

C = TypeVar("C", bound=Callable[..., None])
REQUIRED: Any = ...
"""The default of what must be given."""


@dataclass(frozen=True)
class Option:
    """An option of a command, and an argument of its function."""

    help: str
    """What the description of the function's argument begins with, too."""
    metavar: str | None = None
    """Of a value; None for a switch."""
    default: Any = None
    """The function's, too; None where nothing is said."""
    more: str = ""
    """What the command's help says besides."""
    flag: str = ""
    """The flag, where it is not the name with dashes."""
    short: str = ""
    positional: bool = False
    shown: str = ""
    """What the command's help shows as the default, where None says nothing."""
    least: int | None = None
    """The least number that a flag takes which only the command has."""
    argument: str = ""
    """The function's argument, where it has another name."""
    parsed: bool = False
    """Whether the command reads the function's value from text."""
    alone: str = ""
    """Why only the command has it."""

    def flags(self, name: str) -> tuple[str, ...]:
        """Return the flags of a parameter of that name."""
        flag = self.flag or f"--{name.replace('_', '-')}"
        return (self.short, flag) if self.short else (flag,)

    def annotation(self, name: str) -> Any:
        """Return the annotation that typer reads of a parameter of that name, all but its default."""
        return typer.Option(*self.flags(name), metavar=self.metavar, help=self._words)

    def default_of(self, name: str, *, many: bool) -> Any:
        """Return the default that typer reads of a parameter; `many` where a flag may be given more than once."""
        default = [] if many and not self.default else self.default
        if self.positional:
            return typer.Argument(default, metavar=self.metavar, help=self._words, show_default=False)
        more: dict[str, Any] = {"show_default": self.shown or self.default is not REQUIRED, "min": self.least}
        return typer.Option(default, *self.flags(name), metavar=self.metavar, help=self._words, **more)

    @property
    def _words(self) -> str:
        return f"{self.help} {self.more}" if self.more else self.help


def takes(options: Mapping[str, Option]) -> Callable[[C], C]:
    """Give the parameters of a command, which must be just these, what typer wants to know of each."""

    def decorated(command: C) -> C:
        signature, kinds = inspect.signature(command), get_type_hints(command)
        if signature.parameters.keys() != options.keys():
            differ = sorted(signature.parameters.keys() ^ options.keys())
            raise TypeError(f"{command.__name__}: {', '.join(differ)} stands in one of parameters and options alone")
        parameters = [
            parameter.replace(
                annotation=kinds[name], default=options[name].default_of(name, many=kinds[name] == list[str])
            )
            for name, parameter in signature.parameters.items()
        ]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return decorated


# what several commands share

TEACHER = Option(
    "A file, a run folder, or SOURCE:NAME with source timm, torchvision, hf-hub, local-dir, lenient or py.",
    metavar="TEACHER",
    default=REQUIRED,
    positional=True,
)
RUN = Option("A run folder.", metavar="RUN", default=REQUIRED, positional=True)
TEACHER_ARCH = Option("Architecture of a bare state dict.", metavar="SPEC")
INPUT_SIZE = Option("Channels, height and width of the images, e.g. 3,32,32.", metavar="C,H,W", parsed=True)
CHECKPOINT_KEY = Option("Which network of a checkpoint, by dots, e.g. state_dict or model_ema.", metavar="KEY")
FACTS = {
    "teacher_arch": replace(TEACHER_ARCH, argument="arch"),
    "input_size": INPUT_SIZE,
    "num_classes": Option("Number of classes.", metavar="N", shown="detected"),
    "mean": Option("Normalisation mean per channel, pixels in [0, 1].", metavar="A,B,C", parsed=True),
    "std": Option("Normalisation standard deviation per channel.", metavar="A,B,C", parsed=True),
    "checkpoint_key": CHECKPOINT_KEY,
    "classes": Option(
        "Names of the classes: a text file with one on each line, or a folder with one for each class.",
        metavar="PATH",
    ),
}
DATA = Option("digits, mnist, cifar10, cifar100 or imagefolder:DIR.", metavar="DATA", default=REQUIRED)
DATA_ROOT = Option("Where data sets lie (default: $LENIENT_DATA, else ./data).", metavar="DIR")
PROXY_IMAGES = Option(
    "Pictures of yours, in any folders: half of each batch, or all of it with --method proxy.", metavar="DIR"
)
DEVICE = Option("auto, cpu, cuda, cuda:N or mps (untested).", metavar="NAME")
TRUST_CODE = Option("Run code and contact hosts that files name; what you name yourself needs no flag.", default=False)
OVERWRITE = Option("Replace what is at the destination.", default=False)
SETTING = Option(
    "Any setting, by its dotted name.", metavar="KEY=VALUE", flag="--set", short="-s", argument="settings", parsed=True
)
AS_JSON = Option("Print JSON.", flag="--json", default=False, alone="a function returns what is printed")
PROGRESS = Option("auto, rich, plain or none.", more="The outcome is always printed.", metavar="KIND", default="auto")

# one mapping for each command that has a function: parameter of the command -> option

DISTILL = {
    "teacher": TEACHER,
    **FACTS,
    "student": Option(
        "SOURCE:NAME, or auto.", more="int8:copy: TEACHER in 8 bits (int2 to int8).", metavar="SPEC", default="auto"
    ),
    "method": Option(
        "A name, auto, or py:FILE.py:CLASS.", more=f"Names: {', '.join(METHODS)}.", metavar="NAME", default="auto"
    ),
    "preset": Option("smoke, fast, standard, long, or paper: the recipe with its whole protocol.", metavar="NAME"),
    "steps": Option("Student steps.", metavar="N"),
    "epochs": Option("Epochs of steps_per_epoch steps.", metavar="N"),
    "budget": Option("As many steps as fit: 90s, 30m, 1h30m.", metavar="TIME"),
    "batch_size": Option("Images per student step, or auto: what fits.", metavar="N", parsed=True),
    "seed": Option("Seed of all randomness.", metavar="N", shown="0"),
    "proxy_images": PROXY_IMAGES,
    "eval_data": Option("Labelled images to measure on; they never steer the run.", metavar="DATA"),
    "data_root": DATA_ROOT,
    "recipe": Option("YAML file, or a recipe's name.", metavar="RECIPE", default=(), short="-c"),
    "setting": SETTING,
    "output": Option("Run folder.", metavar="DIR", short="-o", shown="runs/NAME"),
    "resume": Option("Continue the run in the run folder.", default=False),
    "overwrite": OVERWRITE,
    "select": Option("Student to deliver: last, ema or proxy.", metavar="RULE"),
    "device": replace(DEVICE, more="Threads of a CPU: -s threads=N."),
    "devices": Option(
        "Processes that share each batch, one for each GPU.",
        metavar="N",
        default=1,
        least=1,
        alone="torchrun starts several from Python",
    ),
    "precision": Option("auto, 32, bf16, or 64 for checks.", metavar="NAME"),
    "compile": Option("Compile the networks with torch.compile; takes a minute at the start.", default=False),
    "dry_run": Option("Check everything, time a few steps, write nothing.", default=False, alone="it only prints"),
    "print_config": Option("Print the settings and stop.", default=False, alone="it only prints"),
    "trust_code": TRUST_CODE,
    "track": Option(
        "Send the log to wandb or mlflow, too.", metavar="NAME", default=(), alone="a function has observers"
    ),
    "progress": PROGRESS,
}
EVALUATE = {
    "model": Option(
        "A model as `lenient distill` takes it, or a run folder.", metavar="MODEL", default=REQUIRED, positional=True
    ),
    "data": DATA,
    "teacher": Option("Also measure agreement with this teacher.", metavar="TEACHER"),
    **FACTS,
    "trust_code": TRUST_CODE,
    "data_root": DATA_ROOT,
    "split": Option("test, train, fit or holdout.", metavar="NAME", default="test"),
    "statistics": Option(
        "Statistics that batch norms use: running, batch, adapted or synthetic.", metavar="NAME", default="running"
    ),
    "adapt_to": Option("Images on which `adapted` estimates them; no label is read.", metavar="DATA"),
    "adapt_images": Option("Number of these images.", metavar="N", default=256),
    "device": replace(DEVICE, default="auto"),
    "as_json": AS_JSON,
    "progress": PROGRESS,
}
EXPORT = {
    "run": Option(
        "A run folder, or a network as `lenient distill` takes it, e.g. a .pth file.",
        metavar="RUN",
        default=REQUIRED,
        positional=True,
    ),
    "format": Option("safetensors, pt2, onnx or hub.", metavar="NAME", default=REQUIRED),
    "output": Option("File (hub: folder).", metavar="PATH", default=REQUIRED, short="-o"),
    "check": Option(
        "Read it back and compare its outputs.",
        more="With --int8 it only reports: agreement, or accuracy with --eval-data.",
        default=False,
    ),
    **FACTS,
    "opset": Option("ONNX opset, 13 to 23.", metavar="N", shown="torch's"),
    "int8": Option("ONNX in 8-bit integers, their ranges from synthetic images.", default=False),
    "calibrate": Option(
        "Images for --int8: a folder of pictures, or a run's images.safetensors.",
        metavar="PATH",
        shown="RUN's samples",
    ),
    "eval_data": Option("With --int8 and --check: measure accuracy on these images.", metavar="DATA"),
    "data_root": DATA_ROOT,
    "trust_code": TRUST_CODE,
    "overwrite": OVERWRITE,
    "progress": PROGRESS,
}
INSPECT = {"teacher": TEACHER, **FACTS, "trust_code": TRUST_CODE, "as_json": AS_JSON, "progress": PROGRESS}
REPORT = {
    "runs": replace(
        RUN, more="Of several, -o names where the page goes that compares them.", argument="run", parsed=True
    ),
    "output": Option(
        "Folder for the page that compares several runs.", metavar="DIR", short="-o", alone="`compare` takes it"
    ),
    "progress": PROGRESS,
}
SAMPLE = {
    "run": RUN,
    "output": Option("A new folder.", metavar="DIR", default=REQUIRED, short="-o"),
    "count": Option("Number of images.", metavar="N", default=64, short="-n"),
    "format": Option("png, imagefolder, webdataset, npz or safetensors.", metavar="NAME", default="png"),
    "crops": Option("Random crops of each image, with the teacher's answer to each.", metavar="N", default=0),
    "crop_area": Option("Least share of the image's area that a crop covers.", metavar="A", default=0.08),
    "crop_flip": Option("Share of crops that are mirrored.", metavar="P", default=0.5),
    "device": DEVICE,
    "seed": Option("Another seed draws other images.", metavar="N", default=0),
    "teacher": Option("The teacher of RUN.", metavar="TEACHER", shown="as RUN says"),
    "teacher_arch": TEACHER_ARCH,
    "checkpoint_key": CHECKPOINT_KEY,
    "student": Option("The student's network.", metavar="SPEC", shown="as RUN says"),
    "trust_code": TRUST_CODE,
    "overwrite": OVERWRITE,
    "progress": PROGRESS,
}
TRAIN_TEACHER = {
    "data": DATA,
    "arch": Option("lenient:NAME, timm:NAME, torchvision:NAME or py:...", metavar="SPEC", default=REQUIRED),
    "output": Option("A .safetensors file.", metavar="FILE", default=REQUIRED, short="-o"),
    "epochs": Option("Passes over the data.", metavar="N", shown="what suits the data"),
    "seed": Option("Seed of weights, order and augmentation.", metavar="N", default=0),
    "keep": Option("Save N checkpoints of this run, spread evenly.", metavar="N", default=0),
    "keep_above": Option("Keep only epochs above this accuracy (0 to 1).", metavar="A", parsed=True),
    "setting": replace(SETTING, help="E.g. lr=0.05, mixup=0.2."),
    "data_root": DATA_ROOT,
    "input_size": INPUT_SIZE,
    "split": Option("Training images: train, or fit to hold a tenth out.", metavar="NAME", default="train"),
    "device": replace(DEVICE, default="auto"),
    "precision": Option("32 or bf16.", metavar="NAME", default="32"),
    "overwrite": OVERWRITE,
    "progress": PROGRESS,
}
