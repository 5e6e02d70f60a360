"""The front door from Python: every command has its function here, and the commands are thin wrappers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.progress import for_function, working
from lenient.core.text import visible
from lenient.evaluation import Measures
from lenient.generators.own import GeneratorFactory
from lenient.methods import METHODS
from lenient.methods.anatomy import MethodInfo, method_info
from lenient.methods.contract import Method
from lenient.models import load_network
from lenient.models.card import Network
from lenient.models.facts import TeacherFacts
from lenient.reporting import write_report
from lenient.reporting.compare import write_comparison
from lenient.runs.crops import Cropping
from lenient.runs.export import export as write_format
from lenient.runs.gathered import Order, Origin
from lenient.runs.images import SyntheticImages
from lenient.runs.inspection import Inspection, inspection
from lenient.runs.job import Job, load_teacher
from lenient.runs.measuring import measure_model
from lenient.runs.reopen import reopen
from lenient.runs.request import Request
from lenient.runs.student import Student
from lenient.runs.synthesis import INVERSION, Written, data_set, to_folder
from lenient.training.display import watching
from lenient.training.result import Result, Summary
from lenient.training.trainer import Observer

if TYPE_CHECKING:
    from lenient.data import ImageSet
    from lenient.supervised import Epoch, Progress, TrainingResult


def load(
    path: str | Path, *, trust_code: bool = False, progress: bool | str = "auto", **facts: Unpack[TeacherFacts]
) -> Student:
    """Load a student (or any classifier that `lenient distill` takes) as a module that takes pixels in [0, 1], and that
    says by `predict` what pictures show.

    `facts` are those of `load_teacher`; `trust_code` lets the file name code to run and places to visit; `progress` is
    that of `distill`.
    Raises TeacherError where it cannot be loaded, or is not the classifier that is described.

    Example:
        >>> import torch
        >>> student = lenient.load("runs/mine/student/model.safetensors")
        >>> student(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    with working(f"loading {visible(path)}", for_function(progress)):
        return Student.of(load_network(str(path), trust_code=trust_code, **facts))


def inspect(
    teacher: nn.Module | Network | str | Path,
    *,
    trust_code: bool = False,
    progress: bool | str = "auto",
    **facts: Unpack[TeacherFacts],
) -> Inspection:
    """Say what was found of a teacher, what can be done with it and what was assumed.

    Args:
        teacher: a file, a run folder, or SOURCE:NAME with source timm, torchvision, hf-hub, local-dir, lenient or py.
            Or any module that maps images to logits.
        trust_code: run code and contact hosts that files name; what you name yourself needs no flag. A run whose
            student would need that is described by its files alone.
        progress: auto, rich, plain or none. `auto`, or True, shows it on a terminal and in a notebook, and nothing
            elsewhere; False is none.
        facts: those of `distill`.

    Example:
        >>> found = lenient.inspect("teacher.safetensors")
        >>> found.card.input_size, found.card.num_classes, found.method
        ((1, 8, 8), 10, 'bn-adv')
    """
    with working(f"looking at {_named(teacher)}", for_function(progress)):
        return inspection(teacher, trust_code, facts)


def distill(
    teacher: nn.Module | Network | str | Path,
    student: nn.Module | Network | str = "auto",
    *,
    method: str | Method = "auto",
    output: str | Path | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    budget: str | None = None,
    preset: str | None = None,
    recipe: str | Sequence[str] = (),
    batch_size: int | Literal["auto"] | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    proxy_images: str | Path | None = None,
    eval_data: str | None = None,
    data_root: str | Path | None = None,
    select: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    compile: bool = False,
    generator: GeneratorFactory | None = None,
    resume: bool = False,
    overwrite: bool = False,
    trust_code: bool = False,
    observers: Sequence[Observer] = (),
    progress: bool | str = "auto",
    **facts: Unpack[TeacherFacts],
) -> Result:
    """Distil `teacher` into `student` without data.

    Args:
        teacher: a file, a run folder, or SOURCE:NAME with source timm, torchvision, hf-hub, local-dir, lenient or py.
            Or any module that maps images to logits; it comes back untouched.
        student: SOURCE:NAME, or auto. int8:copy (2 to 8) is the teacher in 8 bits, int8:SOURCE:NAME another network.
            Or a module to train in place.
        method: a name, auto, or py:FILE.py:CLASS. Or a method object of your own. What auto took is left for another,
            once, where the run is told that it is likely to fail; `fallback=false` keeps it.
        output: run folder. None keeps everything in memory.
        steps: student steps.
        epochs: epochs of steps_per_epoch steps.
        budget: as many steps as fit: 90s, 30m, 1h30m.
        preset: smoke, fast, standard, long, or paper: the recipe with its whole protocol. The others are lengths of a
            run with the method's defaults; `paper` takes no other recipe.
        recipe: YAML file, or a recipe's name. Of several the later ones win.
        batch_size: images per student step, or auto: what fits.
        seed: seed of all randomness. By default 0.
        settings: any setting, by its dotted name. {"method.student_lr": 0.1} or {"method": {"student_lr": 0.1}}; they
            win over `recipe` and `preset`.
        proxy_images: pictures of yours, in any folders: half of each batch, or all of it with --method proxy. A folder,
            whose pictures need no labels; `source.proxy_share` is another share of each batch, whose other images are
            the method's own. Such a student is not data-free in the strict sense.
        eval_data: labelled images to measure on; they never steer the run. One of the command's DATA.
        data_root: where data sets lie (default: $LENIENT_DATA, else ./data).
        select: student to deliver: last, ema or proxy.
        device: auto, cpu, cuda, cuda:N or mps (untested).
        precision: auto, 32, bf16, or 64 for checks.
        compile: compile the networks with torch.compile; takes a minute at the start.
        generator: the teacher's card to a generator of your own, for a method that has one: see `GeneratorFactory` in
            `lenient.generators.own`. A run with it goes on from Python, with the same one, and not from the command.
        resume: continue the run in the run folder.
        overwrite: replace what is at the destination.
        trust_code: run code and contact hosts that files name; what you name yourself needs no flag. Files are the
            teacher's and, with `resume`, the run's.
        observers: watch the run: displays of your own, trackers.
        progress: auto, rich, plain or none. `auto`, or True, shows it on a terminal and in a notebook, and nothing
            elsewhere; False is none.
        facts: `arch`, `input_size`, `num_classes`, `mean`, `std`, `checkpoint_key` and `classes` of the teacher, where
            they cannot be found: see `TeacherFacts` in `lenient.models.facts`.

    Under torchrun all processes call this alike, share the batch, and end up with the same student; the first one
    writes. Raises the errors of `lenient.errors`.

    Example:
        Ten steps show the way and teach nothing; without `steps` a run has those of the method's defaults.

        >>> result = lenient.distill(
        ...     "teacher.safetensors", "lenient:resnet8-half", steps=10, batch_size=16, output="runs/mine"
        ... )
        >>> result.summary.steps
        10
        >>> result.health.verdict == "ok"
        False
    """
    kind = for_function(progress)
    with working(f"loading {_named(teacher)}", kind):
        network = load_teacher(teacher, trust_code=trust_code, **facts)
    request = Request(
        preset=preset,
        recipes=recipe,
        settings=settings,
        steps=steps,
        epochs=epochs,
        budget=budget,
        batch_size=batch_size,
        seed=seed,
        device=device,
        precision=precision,
        select=select,
        proxy_images=proxy_images,
        compile=compile,
    )
    with ranks.joined():
        job = Job(
            network,
            student,
            request,
            method=method,
            source=str(teacher) if isinstance(teacher, (str, Path)) else None,
            facts=facts,
            eval_data=eval_data,
            data_root=data_root,
            trust_code=trust_code,
            generator=generator,
        )
        kind = kind if ranks.is_main() else "none"
        with working(job.opening(resume), kind):
            job.open(output, resume=resume, overwrite=overwrite)
        with watching(kind, observers if ranks.is_main() else ()) as watchers:
            return job.run(watchers)


def evaluate(
    model: nn.Module | Network | str | Path,
    data: str | ImageSet,
    *,
    teacher: nn.Module | Network | str | Path | None = None,
    split: str = "test",
    data_root: str | Path | None = None,
    statistics: str = "running",
    adapt_to: str | ImageSet | Tensor | None = None,
    adapt_images: int = 256,
    device: str = "auto",
    trust_code: bool = False,
    progress: bool | str = "auto",
    **facts: Unpack[TeacherFacts],
) -> Measures:
    """Measure a classifier on labelled images: accuracy, calibration, and agreement with a teacher.

    Args:
        model: a model as `lenient distill` takes it, or a run folder.
        data: digits, mnist, cifar10, cifar100 or imagefolder:DIR. Or a set of images.
        teacher: also measure agreement with this teacher.
        split: test, train, fit or holdout.
        data_root: where data sets lie (default: $LENIENT_DATA, else ./data).
        statistics: statistics that batch norms use: running, batch, adapted or synthetic. That is as stored; by the
            test images' own, which is transductive; estimated anew on `adapt_to`; or on images that the source of the
            run draws, where `model` is a run folder. The teacher's are as stored.
        adapt_to: images on which `adapted` estimates them; no label is read. Of a name its training images; a set, or a
            tensor (N, C, H, W) in pixel units, will do.
        adapt_images: number of these images. The same ones each time.
        device: auto, cpu, cuda, cuda:N or mps (untested).
        trust_code: run code and contact hosts that files name; what you name yourself needs no flag.
        progress: auto, rich, plain or none. `auto`, or True, shows it on a terminal and in a notebook, and nothing
            elsewhere; False is none.
        facts: those of the model, where they cannot be found.

    Raises:
        TeacherError: a network cannot be loaded.
        UsageError: the data does not fit it, or statistics that it cannot have.

    Example:
        >>> measures = lenient.evaluate("runs/mine", "digits", teacher="teacher.safetensors")
        >>> measures.n, 0 <= measures.accuracy <= 1, 0 <= measures.agreement <= 1
        (359, True, True)
    """
    with working(f"measuring {_named(model)}", for_function(progress)):
        return measure_model(
            model,
            data,
            teacher=teacher,
            split=split,
            data_root=data_root,
            statistics=statistics,
            adapt_to=adapt_to,
            adapt_images=adapt_images,
            device=device,
            trust_code=trust_code,
            **facts,
        ).measures


def export(
    run: str | Path,
    output: str | Path,
    format: str,
    *,
    check: bool = False,
    opset: int | None = None,
    int8: bool = False,
    calibrate: str | Path | None = None,
    eval_data: str | None = None,
    data_root: str | Path | None = None,
    overwrite: bool = False,
    trust_code: bool = False,
    progress: bool | str = "auto",
    **facts: Unpack[TeacherFacts],
) -> float | None:
    """Write the student of a run, or any network, as `safetensors`, `pt2`, `onnx` or `hub`.

    Args:
        run: a run folder, or a network as `lenient distill` takes it, e.g. a .pth file.
        output: file (hub: folder).
        format: safetensors, pt2, onnx or hub.
        check: read it back and compare its outputs.
        opset: ONNX opset, 13 to 23. By default torch's.
        int8: ONNX in 8-bit integers, their ranges from synthetic images. Weights have a scale for each output channel;
            batch norms are joined to their layers.
        calibrate: images for --int8: a folder of pictures, or a run's images.safetensors. By default those that the run
            has kept.
        eval_data: with --int8 and --check: measure accuracy on these images.
        data_root: where data sets lie (default: $LENIENT_DATA, else ./data).
        overwrite: replace what is at the destination.
        trust_code: run code and contact hosts that files name; what you name yourself needs no flag.
        progress: auto, rich, plain or none. `auto`, or True, shows it on a terminal and in a notebook, and nothing
            elsewhere; False is none.
        facts: those of the network, where they cannot be found; what is found otherwise, or assumed, is logged.

    Returns:
        With `check`, the largest difference between its logits and those of the source, relative to their range; with
        `int8`, the share of the images that both put into one class, or of `eval_data` that the file gets right.

    Raises:
        UsageError: an unknown format, a library that it needs is missing, or something lies at `output`.
        TeacherError: the network cannot be loaded, or does not fit what is said of it.
        MachineError: the file read back gives other outputs (of `int8` it is only told how many), or the disk refuses.

    Example:
        >>> lenient.export("runs/mine", "student.safetensors", "safetensors", check=True)
        0.0
    """
    with working(f"writing {visible(output)}", for_function(progress)):
        return write_format(
            Path(run),
            format,
            Path(output),
            check=check,
            opset=opset,
            int8=int8,
            calibrate=None if calibrate is None else Path(calibrate),
            eval_data=eval_data,
            data_root=data_root,
            overwrite=overwrite,
            trust_code=trust_code,
            **facts,
        )


def report(run: str | Path, *, progress: bool | str = "auto") -> Summary:
    """(Re)write `report.html` and `report.json` of a run, and return what `report.json` holds.

    Args:
        run: a run folder.
        progress: auto, rich, plain or none. `auto`, or True, shows it on a terminal and in a notebook, and nothing
            elsewhere; False is none.

    Returns:
        The summary that `distill` returned with its result; of a run that has not ended what is known so far, with the
        verdict `unfinished`.

    Raises what `lenient.reporting.write_report` does, and DamagedError where the end of the run is no summary.

    Example:
        >>> lenient.report("runs/mine").steps
        10
    """
    with working("drawing the page", for_function(progress)):
        return Summary.read(write_report(Path(run)), Path(run) / "report.json")


def compare(runs: Sequence[str | Path], output: str | Path, *, progress: bool | str = "auto") -> list[Summary]:
    """Write a page that compares several runs: what came of each, the settings that differ, images side by side.

    Args:
        runs: run folders, two at least. They stay as they are.
        output: a folder that is new or empty, or holds another comparison, for `report.html`, which needs nothing else,
            and `report.json`, the same for programs.
        progress: as for `distill`.

    Returns:
        What `report` returns of each run.

    Raises what `lenient.reporting.compare.write_comparison` does, and DamagedError where a run's end is no summary.

    Example:
        >>> plan = {"steps": 10, "batch_size": 16, "seed": 1}
        >>> other = lenient.distill("teacher.safetensors", "lenient:resnet8-half", output="runs/other", **plan)
        >>> first, second = lenient.compare(["runs/mine", "runs/other"], "compared")
        >>> first.seed, second.seed
        (0, 1)
    """
    paths = [Path(run) for run in runs]
    with working("drawing the page", for_function(progress)):
        told = write_comparison(paths, Path(output))
    return [Summary.read(values, path / "metrics.jsonl") for path, values in zip(paths, told, strict=True)]


def sample(
    run: str | Path,
    output: str | Path,
    count: int = 64,
    *,
    format: str = "png",
    crops: int = 0,
    crop_area: float = 0.08,
    crop_flip: float = 0.5,
    seed: int = 0,
    device: str | None = None,
    teacher: str | None = None,
    teacher_arch: str | None = None,
    checkpoint_key: str | None = None,
    student: str | None = None,
    trust_code: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[int], None] | None = None,
    progress: bool | str = "auto",
) -> Written:
    """Write synthetic images of a run as a data set: pictures or arrays, with the teacher's soft labels and a card.

    They are those of `synthesize` of this run: different ones of its pool, or what its generator draws and its
    selection accepts. The folder is there whole or not at all, and images are written as they are drawn, so that a
    large set takes no memory.

    Args:
        run: a run folder.
        output: a new folder. An empty one will do.
        count: number of images. Up to ten million; fewer, and a warning, where the run has no more.
        format: png, imagefolder, webdataset, npz or safetensors. `docs/data-set.md` describes each; all but the first
            have the teacher's logits, and `SyntheticImages.open` reads the last.
        crops: random crops of each image, with the teacher's answer to each. By default none.
        crop_area: least share of the image's area that a crop covers.
        crop_flip: share of crops that are mirrored.
        seed: another seed draws other images. And other crops.
        device: auto, cpu, cuda, cuda:N or mps (untested). By default as the run says.
        teacher: the teacher of RUN. Where it is now; by default as the run says.
        teacher_arch: architecture of a bare state dict.
        checkpoint_key: which network of a checkpoint, by dots, e.g. state_dict or model_ema.
        student: the student's network. By default as the run says.
        trust_code: run code and contact hosts that files name; what you name yourself needs no flag.
        overwrite: replace what is at the destination. Only another data set of this kind, as a whole.
        on_progress: called after each part with the images that are there.
        progress: auto, rich, plain or none. `auto`, or True, shows it on a terminal and in a notebook, and nothing
            elsewhere; False is none.

    Returns:
        How many images there are, and the share of values that were clipped to 8 bit.

    Raises:
        UsageError: not a run, a folder that holds other files, no image or more than fit on the disk, or a format that
            cannot hold them.
        DamagedError: a file of the run is.
        TeacherError: the teacher is no longer where it was, or is another one.
        MachineError: the disk refuses.

    Example:
        >>> written = lenient.sample("runs/mine", "pictures", 4)
        >>> written.images, 0 <= written.clipped <= 1
        (4, True)
    """
    cropping = Cropping.asked(crops, crop_area, crop_flip)
    order = Order(count, cropping, folder=Path(output), format=format, overwrite=overwrite)
    with working("drawing images", for_function(progress), total=count) as show:

        def tell(images: int) -> None:
            show(images)
            if on_progress is not None:
                on_progress(images)

        distillation, _ = reopen(
            Path(run),
            device,
            teacher=teacher,
            arch=teacher_arch,
            checkpoint_key=checkpoint_key,
            student=student,
            trust_code=trust_code,
        )
        return to_folder(distillation.draws, Origin.of(distillation), order, seed, tell)


def synthesize(
    teacher: nn.Module | Network | Result | str | Path,
    n: int,
    method: str | Method = INVERSION,
    budget: str | None = None,
    *,
    student: nn.Module | Network | str = "auto",
    output: str | Path | None = None,
    format: str = "safetensors",
    crops: int = 0,
    crop_area: float = 0.08,
    crop_flip: float = 0.5,
    overwrite: bool = False,
    steps: int | None = None,
    recipe: str | Sequence[str] = (),
    batch_size: int | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    proxy_images: str | Path | None = None,
    generator: GeneratorFactory | None = None,
    device: str | None = None,
    precision: str | None = None,
    trust_code: bool = False,
    progress: bool | str = "auto",
    **facts: Unpack[TeacherFacts],
) -> SyntheticImages:
    """Make a data set of synthetic images with the teacher's soft labels, without data.

    Of a teacher, `method` runs in memory. With a pool (as `nayer` has, or `adi`) it runs until the pool holds
    `n` images, which are all different; the student learns beside it as the method's schedule says. With a generator it
    makes its `steps` first, then draws until the teacher's selection has accepted `n`, all that are drawn where the
    method has none. Of a run, `n` images are taken in the same way from what it left, and nothing learns. Equal
    arguments and seeds give equal images, unless a budget cuts them short.

    Args:
        teacher: as for `distill`; or a run to draw from, what `distill` returned or its folder. Teacher and student are
            left as they are.
        n: images, up to ten million.
        method: a name, or a method object of your own.
        budget: the time that may be taken, such as `30m`; where it is too little there are fewer images, and a line
            says so. A method with a generator makes as many steps as fit.
        student: who learns beside: for methods whose images depend on it, as `adi`.
        output: a folder that is new or empty; as safetensors, `SyntheticImages.open` reads it, and the images returned
            are then read from there.
        format: of the files: safetensors, png, imagefolder, webdataset or npz, as those of `sample`.
        crops: of each image, with the teacher's answer to each; `crop_area` and `crop_flip` as for `sample`.
        overwrite: whether another data set in the folder may be replaced.
        steps: of a method with a generator; with a pool the steps follow from `n`.
        seed: by default that of the settings; of a run, 0: draws others.
        proxy_images: as for `distill`. With the method `proxy` these pictures are the images, those that its selection
            keeps; with others the student learns from them, too, and the images are the method's own.
        generator: as for `distill`.
        device: where; of a run folder by default that of the run.
        trust_code: lets files, and a run folder, name code to run and places to visit.
        progress: as for `distill`.
        facts: those of `distill`; `recipe`, `batch_size`, `settings` and `precision` are its arguments, too.

    Under torchrun all processes call this alike, share the batches, and return the same data set; the first one writes,
    and who does not see its disk returns what it has in memory. The budget ends all where it is spent on one.

    Returns:
        Images of 8 bit with soft labels, steps, seconds and the verdict. Where that is not `ok`, a line says so.

    Raises:
        UsageError: arguments that cannot be used, or no image came of it; for a run, any that only making images needs.
        TeacherError: the teacher cannot be loaded or does not fit the method.
        HealthError: numbers were not finite for too long.
        MachineError: memory or disk gave out; DamagedError: a file of the run did.

    Example:
        >>> images = lenient.synthesize("runs/mine", 8, output="synthetic")
        >>> image, soft_labels = images[0]
        >>> image.shape, soft_labels.shape
        (torch.Size([1, 8, 8]), torch.Size([10]))
    """
    cropping = Cropping.asked(crops, crop_area, crop_flip)
    order = Order(n, cropping, budget, None if output is None else Path(output), format, overwrite)
    request = Request(
        recipes=recipe,
        settings=settings,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        device=device,
        precision=precision,
        proxy_images=proxy_images,
    )
    kind = for_function(progress)
    return data_set(teacher, order, request, method, student, generator, trust_code, facts, kind)


def train_teacher(
    data: str,
    arch: str,
    output: str | Path,
    *,
    epochs: int | None = None,
    seed: int = 0,
    keep: int = 0,
    keep_above: float | None = None,
    settings: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
    input_size: Sequence[int] | None = None,
    split: str = "train",
    device: str = "auto",
    precision: str = "32",
    overwrite: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    progress: bool | str = "auto",
) -> TrainingResult:
    """Train a classifier on real data, to distil from, and write it to a file.

    Args:
        data: digits, mnist, cifar10, cifar100 or imagefolder:DIR.
        arch: lenient:NAME, timm:NAME, torchvision:NAME or py:... As a SPEC of `distill`.
        output: a .safetensors file. `load` and `distill` read it.
        epochs: passes over the data. By default what suits the data.
        seed: seed of weights, order and augmentation.
        keep: save N checkpoints of this run, spread evenly. They lie beside the file, as FILE-e012.safetensors.
        keep_above: keep only epochs above this accuracy (0 to 1).
        settings: e.g. lr=0.05, mixup=0.2. Those of `lenient.supervised.TeacherRecipe`.
        data_root: where data sets lie (default: $LENIENT_DATA, else ./data).
        input_size: channels, height and width of the images, e.g. 3,32,32. By default the size of the images.
        split: training images: train, or fit to hold a tenth out.
        device: auto, cpu, cuda, cuda:N or mps (untested).
        precision: 32 or bf16.
        overwrite: replace what is at the destination.
        on_epoch: called after each epoch.
        on_progress: called about every two seconds.
        progress: auto, rich, plain or none. `auto`, or True, shows it on a terminal and in a notebook, and nothing
            elsewhere; False is none.

    Returns:
        The history, and which checkpoints were kept where.

    Raises:
        UsageError: an argument cannot be used, or something lies at `output`.
        HealthError: the loss became infinite or not a number.
        MachineError: memory or disk gave out.

    Example:
        >>> trained = lenient.train_teacher("digits", "lenient:resnet8-half", "teacher.safetensors", epochs=1)
        >>> trained.history[-1].epoch
        1
    """
    from lenient.core.config import nested
    from lenient.supervised.display import watching as watching_training
    from lenient.supervised.job import TeacherJob

    kind = for_function(progress)
    with working(f"reading {visible(data)}", kind):
        job = TeacherJob.open(
            data,
            arch,
            Path(output),
            epochs=epochs,
            seed=seed,
            keep=keep,
            keep_above=keep_above,
            settings=nested(settings or {}),
            data_root=data_root,
            input_size=input_size,
            split=split,
            device=device,
            precision=precision,
            overwrite=overwrite,
        )
    with watching_training(kind) as show:

        def tell(now: Progress) -> None:
            show(now)
            if on_progress is not None:
                on_progress(now)

        return job.run(on_epoch, tell)


def _named(network: object) -> str:
    """Return what a display calls a network."""
    return visible(network) if isinstance(network, str | Path) else type(network).__name__


def list_methods() -> dict[str, MethodInfo]:
    """Return what there is to know of each method, by name; those that were registered count.

    Example:
        >>> "ta-dfkd" in lenient.list_methods()
        True
    """
    return {name: method_info(name) for name in METHODS}
