"""From labelled images to a teacher in a file: what `lenient train-teacher` and `lenient.train_teacher` share."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lenient.core.config import merge, parse
from lenient.core.errors import UsageError
from lenient.core.files import check_new, disk_errors
from lenient.core.runtime import resolve_device
from lenient.data import ImageSet, load_data
from lenient.models import Network, save_network
from lenient.supervised.recipe import TeacherRecipe, default_recipe
from lenient.supervised.training import Epoch, Progress, TrainingResult, train_classifier, untrained


@dataclass(frozen=True)
class TeacherJob:
    """A teacher that is to be trained: all is read and checked, nothing trained or written yet."""

    network: Network
    images: ImageSet
    test: ImageSet
    recipe: TeacherRecipe
    output: Path
    device: str
    precision: str
    keep: int
    keep_above: float | None
    made_of: str
    """Words for the network's card."""

    @classmethod
    def open(
        cls,
        data: str,
        arch: str,
        output: Path,
        *,
        epochs: int | None,
        seed: int,
        keep: int,
        keep_above: float | None,
        settings: Mapping[str, Any],
        data_root: str | Path | None,
        input_size: Sequence[int] | None,
        split: str,
        device: str,
        precision: str,
        overwrite: bool,
    ) -> TeacherJob:
        """Read the images, make the network and try the place; arguments are those of `lenient.train_teacher`.

        Raises:
            UsageError: an argument cannot be used, or something lies at `output`.
            MachineError: it cannot be written there.
        """
        if output.suffix != ".safetensors":
            raise UsageError(f"-o {output}: name a file that ends in .safetensors")
        check_new(output, overwrite)
        if precision not in ("32", "bf16"):
            raise UsageError(f"--precision {precision}: there are 32, bf16")
        if keep < 0:
            raise UsageError(f"--keep {keep}: give how many checkpoints, from 1")
        if keep_above is not None and not keep:
            raise UsageError(f"--keep-above {keep_above:g}: give one accuracy, such as 0.9, with --keep N")
        given = {"seed": seed} | ({} if epochs is None else {"epochs": epochs})
        recipe = parse(TeacherRecipe, merge(default_recipe(data), given, settings))
        size: Any = None if input_size is None else tuple(input_size)
        images, test = (
            load_data(data, split=part, root=data_root, input_size=size)
            for part in (split, "holdout" if split == "fit" else "test")
        )
        if getattr(images.images, "paths", 0) == getattr(test.images, "paths", 1):
            raise UsageError(f"--data {data}: has no test images of its own; give --split fit, which holds a tenth out")
        network = untrained(arch, images, seed)
        with disk_errors(output):  # now, rather than when all is trained
            output.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=output.parent).close()
        if keep:
            _check_kept(output, overwrite)
        place, words = str(resolve_device(device)), f"trained by lenient on {data}, its {split} images"
        return cls(network, images, test, recipe, output, place, precision, keep, keep_above, words)

    @property
    def notes(self) -> list[str]:
        """What was found of the images."""
        return list(dict.fromkeys([*self.images.notes, *self.test.notes]))

    def run(
        self, on_epoch: Callable[[Epoch], None] | None = None, on_progress: Callable[[Progress], None] | None = None
    ) -> TrainingResult:
        """Train the network and write it, and the epochs that are kept beside it; see `train_classifier`."""
        output = self.output
        # a folder that is nobody's yet; nothing else in the place is touched
        with tempfile.TemporaryDirectory(prefix=f".{output.stem}-epochs-", dir=output.parent) as kept_in:
            result = train_classifier(
                self.network,
                self.images,
                self.recipe,
                test=self.test,
                device=self.device,
                precision=self.precision,
                on_epoch=on_epoch,
                on_progress=on_progress,
                keep=self.keep,
                keep_above=self.keep_above,
                keep_dir=Path(kept_in) if self.keep else None,
            )
            card = replace(self.network.card, notes=(self.made_of,))
            save_network(output, Network(self.network.module, card))
            places = [output.with_name(f"{output.stem}-e{kept.epoch:03d}.safetensors") for kept in result.kept]
            for kept, place in zip(result.kept, places, strict=True):
                kept.path.replace(place)
        moved = [replace(kept, path=place) for kept, place in zip(result.kept, places, strict=True)]
        return replace(result, kept=moved)


def _check_kept(output: Path, overwrite: bool) -> None:
    """Refuse to keep checkpoints where there are some, or folders of their names: which it will be is not known."""
    name = re.compile(re.escape(output.stem) + r"-e\d{3,}\.safetensors")
    for there in sorted(place for place in output.parent.iterdir() if name.fullmatch(place.name)):
        if not overwrite:
            raise UsageError(f"--keep: {there} exists; choose another -o, or replace it with --overwrite")
        check_new(there, overwrite)
