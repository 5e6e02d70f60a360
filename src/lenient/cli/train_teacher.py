"""`lenient train-teacher`: train a classifier on real data."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lenient.cli import flags
from lenient.cli.progress import PLAIN_SECONDS
from lenient.core.errors import UsageError
from lenient.core.signals import save_on_signals
from lenient.core.text import visible

if TYPE_CHECKING:
    from lenient.supervised import Progress


def train_teacher(
    data: Annotated[str, typer.Option(metavar="DATA", help="digits, mnist, cifar10, cifar100 or imagefolder:DIR.")],
    arch: Annotated[str, typer.Option(metavar="SPEC", help="lenient:NAME, timm:NAME, torchvision:NAME or py:...")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="A .safetensors file.", show_default=False)
    ],
    epochs: Annotated[
        int, typer.Option(metavar="N", help="Passes over the data.", show_default="what suits the data")
    ] = 0,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of weights, order and augmentation.")] = 0,
    keep: Annotated[int, typer.Option(metavar="N", help="Save N checkpoints of this run, spread evenly.")] = 0,
    keep_above: Annotated[str, typer.Option(metavar="A", help="Only epochs above this accuracy (0 to 1).")] = "",
    setting: Annotated[
        list[str], typer.Option("-s", "--set", metavar="KEY=VALUE", help="E.g. lr=0.05, mixup=0.2.")
    ] = [],  # noqa: B006
    data_root: flags.DataRoot = "",
    input_size: flags.InputSize = "",
    split: Annotated[
        str, typer.Option(metavar="NAME", help="Training images: train, or fit to hold a tenth out.")
    ] = "train",
    device: flags.Device = "auto",
    precision: Annotated[str, typer.Option(metavar="NAME", help="32 or bf16.")] = "32",
    overwrite: flags.Overwrite = False,
) -> None:
    """Train a classifier on real data, to distil from. With --keep, FILE becomes FILE-e12.safetensors and so on."""
    from lenient.core.config import merge, parse, parse_overrides
    from lenient.core.files import check_new, disk_errors
    from lenient.core.runtime import resolve_device
    from lenient.data import load_data
    from lenient.models import Network, save_network
    from lenient.supervised import TeacherRecipe, default_recipe, train_classifier, untrained

    if output.suffix != ".safetensors":
        raise UsageError(f"-o {output}: name a file that ends in .safetensors")
    check_new(output, overwrite)
    if precision not in ("32", "bf16"):
        raise UsageError(f"--precision {precision}: there are 32, bf16")
    if keep < 0:
        raise UsageError(f"--keep {keep}: give how many checkpoints, from 1")
    above = flags.numbers("--keep-above", keep_above)
    if above is not None and (len(above) != 1 or not keep):
        raise UsageError(f"--keep-above {keep_above}: give one accuracy, such as 0.9, with --keep N")
    given: dict[str, Any] = {"seed": seed} | ({"epochs": epochs} if epochs else {})
    recipe = parse(TeacherRecipe, merge(default_recipe(data), given, parse_overrides(setting)))
    size: Any = flags.size(input_size)
    images = load_data(data, split=split, root=data_root or None, input_size=size)
    test = load_data(data, split="holdout" if split == "fit" else "test", root=data_root or None, input_size=size)
    if getattr(images.images, "paths", 0) == getattr(test.images, "paths", 1):
        raise UsageError(f"--data {data}: has no test images of its own; give --split fit, which holds a tenth out")
    network = untrained(arch, images, seed)
    with disk_errors(output):  # now, rather than when all is trained
        output.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output.parent).close()
    if keep:
        _check_kept(output, overwrite)
    print(f"{visible(arch)} on {len(images)} images of {visible(data)}, {recipe.epochs} epochs")
    _say_notes([*images.notes, *test.notes])
    # a folder that is nobody's yet; nothing else in the place is touched
    with tempfile.TemporaryDirectory(prefix=f".{output.stem}-epochs-", dir=output.parent) as kept_in:
        with _progress() as watch:
            result = train_classifier(
                network,
                images,
                recipe,
                test=test,
                device=resolve_device(device),
                precision=precision,
                on_epoch=_say,
                on_progress=watch,
                keep=keep,
                keep_above=above[0] if above else None,
                keep_dir=Path(kept_in) if keep else None,
            )
        _say_notes(result.notes)
        note = f"trained by lenient on {data}, its {split} images"
        save_network(output, Network(network.module, replace(network.card, notes=(note,))))
        print(output)
        for kept in result.kept:
            place = output.with_name(f"{output.stem}-e{kept.epoch:03d}.safetensors")
            kept.path.replace(place)
            print(f"{place}: epoch {kept.epoch}, accuracy {kept.accuracy:.2%}")


def _check_kept(output: Path, overwrite: bool) -> None:
    """Refuse to keep checkpoints where there are some, or folders of their names: which it will be is not known."""
    from lenient.core.files import check_new

    name = re.compile(re.escape(output.stem) + r"-e\d{3,}\.safetensors")
    for there in sorted(place for place in output.parent.iterdir() if name.fullmatch(place.name)):
        if not overwrite:
            raise UsageError(f"--keep: {there} exists; choose another -o, or replace it with --overwrite")
        check_new(there, overwrite)


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """Yield what says how far it is: on a terminal in one live line, elsewhere in a line every half minute.

    A scheduler's warning is answered: there is no checkpoint to write.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console, text, said = Console(stderr=True), Text("training"), time.monotonic()
    # lines for a file go there, those for the same terminal above the live one
    live = Live(text, console=console, transient=True, redirect_stdout=sys.stdout.isatty())
    with save_on_signals() as warned, live:

        def watch(now: Progress) -> None:
            nonlocal said
            if warned.is_set():
                warned.clear()
                print(
                    "warned by a signal: training goes on, and is lost where it is ended", file=sys.stderr, flush=True
                )
            left = now.seconds / now.step * (now.steps - now.step)
            where = f"epoch {now.epoch} of {now.epochs}, step {now.step} of {now.steps}"
            words = f"{where}, loss {now.loss:.4f}, {left:.0f} s left"
            text.plain = words
            if not console.is_terminal and time.monotonic() - said >= PLAIN_SECONDS:
                said = time.monotonic()
                print(words, file=sys.stderr, flush=True)

        yield watch


def _say_notes(notes: Iterable[str]) -> None:
    for note in dict.fromkeys(notes):
        print(f"note: {visible(note)}")


def _say(epoch: Any) -> None:
    measured = "" if epoch.test_accuracy is None else f", held-out accuracy {epoch.test_accuracy:.2%}"
    print(f"epoch {epoch.epoch}: loss {epoch.loss:.4f}{measured}, {epoch.seconds:.0f} s", flush=True)
