"""What `auto` stands for on this machine: short trials on copies, which leave no trace."""

from __future__ import annotations

import copy
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from lenient.core import memory, processors, ranks
from lenient.core.conv_cpu import SmallMaps
from lenient.core.errors import MachineError, TeacherError, UsageError
from lenient.core.memory import memory_errors
from lenient.core.runtime import Runtime, threads
from lenient.core.seeding import Streams, untouched_global_rng
from lenient.core.timing import seconds_of
from lenient.methods.contract import STUDENT, Method, Phase
from lenient.models.behaviour import failure
from lenient.models.card import Network
from lenient.models.checking import without_gradient
from lenient.models.lending import copied_module
from lenient.synthesis.figures import drawings
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.settings import DistillSettings
from lenient.training.trainer import Distillation

log = logging.getLogger("lenient")

BF16_GAIN = 1.15
"""How much faster bfloat16 must be for `--precision auto` to take it."""
THREADS_GAIN = 1.1
"""How much faster updates must be on half of the threads for `threads: auto` to take that."""
THREADS_SECONDS = 1.0
"""How long two numbers of threads take turns: long beside the time for which a processor is lent to a process."""
OVERLAP_GAIN = 1.1
"""How much faster steps must be for `overlap: auto` to take it."""
LARGEST = 1024
"""Images in the largest batch that `--batch-size auto` takes: TA-DFKD's."""
SMALL = (16, 64)
"""Images on each device in the two trials that the memory of larger batches is worked out from."""
MOST_KEPT = 10_000
"""Times its own size that networks keep of an image for the backward pass at most; usual ones a hundredth of it."""
MEMORY_SHARE = 0.8
"""Share of the memory left that a batch may take."""
LOUD = 15.0
"""Deviation of logits from which they are divided: a class prior has no gradient left where the softmax is a corner."""
USUAL = 5.0
"""Deviation that they are brought to: that of classifiers of small images here."""
HEARD = 64
"""Images of noise, and as many of figures, on which it is measured."""


def fitting_temperature(teacher: Network, runtime: Runtime) -> float:
    """Return what to divide a teacher's logits by: 1, unless they deviate by more than `LOUD` from an image's mean on
    images that are not its own."""
    size = teacher.card.input_size
    noise = torch.rand(HEARD, *size, generator=torch.Generator().manual_seed(0)).to(runtime.device)
    images = torch.cat([noise, drawings(range(HEARD), size, Streams(0, runtime.device), "loudness")])
    with untouched_global_rng(), memory_errors(), FrozenTeacher(teacher, runtime) as frozen, torch.no_grad():
        parts = (frozen.normalize(runtime.images(part)) for part in images.split(16))  # few, for they may be large
        logits = torch.cat([frozen.respond(part).logits.float() for part in parts])
    spread = float((logits - logits.mean(dim=1, keepdim=True)).std())
    if not spread > LOUD:
        return 1.0
    found = float(f"{spread / USUAL:.2g}")
    log.info("teacher.temperature %g: its logits deviate by %.0f on images of chance", found, spread)
    return found


def fastest_precision(teacher: Network, student: Network, device: torch.device, batch_size: int) -> str:
    """Return `bf16` where one student step with the teacher's forward is clearly faster in it here, else `32`."""
    if device.type == "mps":
        return "32"
    found = _failing(teacher, student, Runtime(device, "bf16"), batch_size)
    if found is not None:
        label = "teacher" if found[0] is teacher else "student"
        log.info("precision 32: the %s cannot run in bf16 (%s)", label, found[1])
        return "32"
    seconds: dict[str, float] = {}
    for precision in ("32", "bf16"):
        runtime = student.behaviour.applied(Runtime(device, precision))
        network = _copied(student)
        module = runtime.place(network.module).train()
        small = SmallMaps(module, runtime)
        size = (min(max(batch_size // ranks.count(), 2), 256), *teacher.card.input_size)
        images = runtime.images(torch.rand(size, generator=torch.Generator().manual_seed(0)))
        with FrozenTeacher(teacher, runtime) as frozen:

            def work(
                runtime: Runtime = runtime,
                frozen: FrozenTeacher = frozen,
                module: torch.nn.Module = module,
                small: SmallMaps = small,
            ) -> None:
                inputs = frozen.normalize(images)  # noqa: B023 - called within this round of the loop only
                with torch.no_grad():
                    frozen.respond(inputs)
                with runtime.autocast(), small.products():
                    loss = module(runtime.inputs(inputs)).float().square().mean()
                loss.backward()

            with memory_errors():
                seconds[precision] = seconds_of(work, device)
    return "bf16" if seconds["32"] > BF16_GAIN * seconds["bf16"] else "32"


def check_precision(teacher: Network, student: Network | None, runtime: Runtime, batch_size: int) -> None:
    """Make one pass through each network as a step of the run does.

    Raises:
        TeacherError: the teacher cannot run so on this device.
        UsageError: the student cannot; or both can, but not in the precision that was asked for.
    """
    found = _failing(teacher, student, runtime, batch_size)
    if found is None:
        return
    network, wrong = found
    label = "teacher" if network is teacher else "student"
    if runtime.precision == "bf16" and _failing(teacher, student, replace(runtime, precision="32"), batch_size) is None:
        raise UsageError(f"--precision bf16: the {label} cannot run in it ({wrong}); use --precision 32")
    kind = TeacherError if network is teacher else UsageError
    raise kind(f"the {label} cannot run on {runtime.device} in precision {runtime.precision}: {wrong}")


def _failing(
    teacher: Network, student: Network | None, runtime: Runtime, batch_size: int
) -> tuple[Network, str] | None:
    """Return the first network that cannot make its part of a step, and why."""
    count = max(2, batch_size // ranks.count())
    for network in (teacher, student):
        wrong = None if network is None else failure(network, runtime, count, training=network is student)
        if network is not None and wrong is not None:
            return network, wrong
    return None


def _copied(network: Network) -> Network:
    return replace(network, module=copied_module(network.module))


def threads_are_tried(device: torch.device) -> bool:
    """Whether a trial says how many threads a run has: on a CPU, by one process, where nobody else has said it."""
    return device.type == "cpu" and ranks.count() == 1 and not processors.given() and most_threads() > 1


def most_threads() -> int:
    """Return the most that a run takes by itself: torch's, but no more than processors that this process may use."""
    return min(torch.get_num_threads(), processors.available())


def fastest_threads(settings: DistillSettings, teacher: Network, student: Network, method: Method | None = None) -> int:
    """Return the number of threads on which the first updates are fastest here: all, or fewer by halves.

    With fewer they are clearly faster where other processes hold the processors, so that each operator waits for the
    thread that has none, or where a quota does, and for small networks on many processors.
    """
    plan = settings.model_copy(update={"overlap": False})
    runtime = plan.runtime()
    with untouched_global_rng(), memory_errors(), FrozenTeacher(teacher, runtime) as frozen:
        run = Distillation(frozen, _copied(student), plan, runtime, method=copy.deepcopy(method))

        def seconds(count: int) -> float:
            run.updates = 0
            with threads(count):
                start = time.perf_counter()
                run.take_update()
                run.take_update()
                return time.perf_counter() - start

        best = most_threads()
        while best > 1 and _median_ratio(seconds, best, best // 2) > THREADS_GAIN:
            best //= 2
        run.algorithm.source.close()
    return best


def _median_ratio(seconds: Callable[[int], float], first: int, second: int) -> float:
    """Return how many times as long one takes as the other, each in turn, after one that does not count."""
    seconds(first), seconds(second)
    ratios: list[float] = []
    end = time.monotonic() + THREADS_SECONDS
    while not ratios or time.monotonic() < end:
        ratios.append(seconds(first) / seconds(second))
    return statistics.median(ratios)


def overlap_pays(
    settings: DistillSettings,
    teacher: Network,
    student: Network,
    method: Method | None = None,
    *,
    together: int | None = None,
) -> bool:
    """Whether student steps are clearly faster here where the next one's images are made while the student learns.

    That takes two threads at least, and pays where both sides have about the same to do. Steps without it have torch's
    threads; with it `together`, by default as many, half of which each side gets.
    """
    device = torch.device(settings.device)
    alone = torch.get_num_threads()
    seconds: dict[bool, float] = {}
    for overlap, count in ((True, together or alone), (False, alone)):
        plan = settings.model_copy(update={"overlap": overlap, "steps": max(settings.steps, 10)})
        runtime = plan.runtime()
        copied = _copied(student)
        with threads(count), untouched_global_rng(), memory_errors(), FrozenTeacher(teacher, runtime) as frozen:
            if overlap and not runtime.threads_ahead:
                return False
            run = Distillation(frozen, copied, plan, runtime, method=copy.deepcopy(method))
            last, start = run.algorithm.schedule.phases[-1], run.algorithm.schedule.starts()[-1]
            if last.count(STUDENT) < 4:  # else there are hardly steps between which the generator rests
                return False
            run.updates = start + next(place for place in range(last.length) if last.name(place) == STUDENT)

            def steps(run: Distillation = run) -> None:
                run.take_update()
                run.take_update()

            seconds[overlap] = seconds_of(steps, device, repeats=1)
            run.algorithm.source.close()
    return seconds[False] > OVERLAP_GAIN * seconds[True]


def trial(
    settings: DistillSettings, teacher: Network, student: Network, method: Method | None = None
) -> dict[str, float]:
    """Make a few updates of each kind on copies.

    A stretch of many equal updates, such as a generator's start ahead of the student's, is worked out from ten of them.
    Where the last steps of a run cost more, they count by their share.

    Returns:
        `seconds_per_step` of the phase that goes on to the end, `seconds_before` it in phases ahead, `peak_bytes` of
        the device or the process, where the system says it, and `steps` made.
    """
    # epochs of one step, so that what is written at their ends is there to be replayed
    short = settings.model_copy(update={"steps_per_epoch": 1})
    runtime = settings.runtime()
    copied = _copied(student)
    memory.reset_peak(runtime.device)
    with untouched_global_rng(), memory_errors(), FrozenTeacher(teacher, runtime) as frozen:
        run = Distillation(frozen, copied, short, runtime, method=copy.deepcopy(method))
        schedule = run.algorithm.schedule
        # late in the run, when weights have climbed and there is something to replay
        late = schedule.round_start(schedule.updates_for(max(settings.steps * 4 // 5, 1)))
        starts = [*schedule.starts()[:-1], max(late, schedule.starts()[-1])]

        def stretch(first: int, updates: int) -> None:
            run.updates = first
            for _ in range(updates):
                run.take_update()

        def seconds(start: int, phase: Phase) -> float:
            stretches = list(_stretches(start, phase))
            for first, taken, _ in stretches:  # once unmeasured, since a first time takes longer
                stretch(first, taken)
            return sum(
                count / taken * seconds_of(partial(stretch, first, taken), runtime.device, repeats=1, warm_up=0)
                for first, taken, count in stretches
            )

        rounds = [seconds(start, phase) for start, phase in zip(starts, schedule.phases, strict=True)]
        ending, last = run.algorithm.ending, schedule.phases[-1]
        if ending > 0:
            end = max(schedule.round_start(schedule.updates_for(settings.steps) - 1), schedule.starts()[-1])
            rounds[-1] = (1 - ending) * rounds[-1] + ending * seconds(end, last)
    most = memory.peak(runtime.device)
    before = sum(of_one * (phase.rounds or 0) for of_one, phase in zip(rounds, schedule.phases, strict=True))
    return {
        "seconds_per_step": rounds[-1] / schedule.phases[-1].count(STUDENT),
        "seconds_before": before,
        **({} if most is None else {"peak_bytes": float(most)}),
        "steps": float(run.step),
    }


def _stretches(start: int, phase: Phase, at_most: int = 10) -> Iterator[tuple[int, int, int]]:
    """Yield (first update, updates to make, updates in all) for each stretch of a round that begins at `start`."""
    for _, count in phase.updates:
        yield start, min(count, at_most), count
        start += count


def memory_is_short(settings: DistillSettings, teacher: Network, student: Network | None) -> bool:
    """Whether what the teacher and a student, where one learns, keep of a batch for the backward pass is more than
    there is room for, as far as the system says; a line says so."""
    device = torch.device(settings.device)
    left, images = memory.left(device), settings.batch_size
    pixels = math.prod(teacher.card.input_size)
    if left is None or images * pixels * 4 * MOST_KEPT < MEMORY_SHARE * left:
        return False
    runtime = settings.runtime()
    of_one = 0.0 if without_gradient(teacher.behaviour) else _kept(teacher, runtime, learns=False)
    wanted = images * (of_one + (0.0 if student is None else _kept(student, runtime, learns=True)))
    if wanted <= MEMORY_SHARE * left:
        return False
    log.info(
        "recompute true: maps of %d images would take %.1f GB, of which %.1f GB are there; they are computed anew",
        *(images, wanted / 1e9, left / 1e9),
    )
    return True


def _kept(network: Network, runtime: Runtime, *, learns: bool) -> float:
    """Return the bytes that a network keeps of an image for the backward pass: of four, less those of two."""
    found = []
    with untouched_global_rng(), memory_errors(), FrozenTeacher(_copied(network), runtime) as frozen:
        for weight in frozen.module.parameters():
            weight.requires_grad_(learns and weight.is_floating_point())
        for count in (2, 4):
            images = runtime.images(torch.zeros(count, *network.card.input_size)).requires_grad_(not learns)
            held: dict[int, int] = {}

            def note(tensor: Tensor, held: dict[int, int] = held) -> Tensor:
                storage = tensor.untyped_storage()
                held[storage.data_ptr()] = storage.nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                answer = frozen.respond(images)
            found.append(sum(held.values()))
            del answer
    return max(found[1] - found[0], 0) / 2


def largest_batch(settings: DistillSettings, teacher: Network, student: Network, method: Method | None = None) -> int:
    """Return the largest power of two of images, up to `LARGEST` (TA-DFKD), that fits into memory with room to spare.

    Memory grows in a straight line with the batch: two small trials tell what a large one takes. On an accelerator the
    answer is tried, too, and halved until it fits.

    Raises:
        MachineError: not even the smallest fits.
        UsageError: this system does not say how much memory is used.
    """
    device = torch.device(settings.device)
    left = memory.left(device)
    if left is None or memory.peak(device) is None:
        raise UsageError("--batch-size auto: this system does not say what memory is left or used; give a number")
    first, second = (size * ranks.count() for size in SMALL)

    def used(size: int) -> float:
        return trial(settings.model_copy(update={"batch_size": size}), teacher, student, method)["peak_bytes"]

    small = used(first)
    slope = max(used(second) - small, 0.0) / (second - first)
    size = first
    while 2 * size <= max(LARGEST, first) and slope * (2 * size - first) < MEMORY_SHARE * left:
        size *= 2
    while device.type == "cuda" and size > first:
        try:
            used(size)
            break
        except MachineError:
            torch.cuda.empty_cache()
            size //= 2
    return size
