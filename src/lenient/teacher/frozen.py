"""The frozen teacher: answers about images, gives gradients to the images, and comes back as it was."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.batch_norm import Statistics, by_batch
from lenient.core.errors import TeacherError, UsageError
from lenient.core.recomputing import Recomputed
from lenient.core.runtime import Runtime
from lenient.core.seeding import untouched_global_rng
from lenient.models.card import Card, Network, to_logits
from lenient.models.lending import copied_module, drop_hooks, frozen, own_grad_mode, unchanged
from lenient.models.probing import (
    batch_norm_layers,
    classifying_layer,
    convolutions,
    last_block_by_size,
    map_sizes,
)
from lenient.teacher.batch import Response
from lenient.teacher.probes import Probe

T = TypeVar("T")


class FrozenTeacher:
    """A view of a classifier in eval mode and full precision whose weights get no gradient.

    Its batch norms normalise by what they stored in training, or, in the view `by("batch")`, by each batch.

    Use it as a context manager: on leaving, the module has the tensors (device, dtype, strides, values), the mode of
    each submodule, the `requires_grad` flags and the hooks that it came with. It is asked as its `behaviour`, which
    `check_classifier` finds out, needs it: on contiguous tensors, on copies, its state put back after each forward.
    """

    statistics: Statistics = "running"
    """What its batch norms normalise by."""
    temperature: float = 1.0
    """What its logits are divided by."""

    def __init__(self, network: Network, runtime: Runtime) -> None:
        self.network = network
        self.module = network.module
        self.card: Card = network.card
        self._behaviour = network.behaviour
        self.runtime = network.behaviour.applied(runtime)
        self._asked = [0]
        self._loan = ExitStack()
        self._asking = threading.Lock()

    def __enter__(self) -> FrozenTeacher:
        with ExitStack() as loan:
            loan.enter_context(frozen(self.module, self.runtime))
            self._settle()
            self._loan = loan.pop_all()
        return self

    def twin(self) -> FrozenTeacher:
        """Return the same teacher with a count of its own, to be asked on another thread; one is answered at a time."""
        other = copy.copy(self)
        other._asked = [0]
        return other

    def by(self, statistics: Statistics) -> FrozenTeacher:
        """Return a view of the same teacher, with the same count, whose batch norms normalise by `statistics`.

        By those of the batch, an image's logits depend on the other images of it; buffers stay as they are, and all but
        the batch norms stays in eval mode.

        Raises:
            TeacherError: it has no batch norm, or none that runs, to which that would make a difference.
        """
        if statistics == "batch" and not self.batch_norms:
            raise TeacherError(
                "the teacher has 0 batch-norm layers, so that statistics of the batch are without effect; "
                "use -s method.statistics=running"
            )
        view = copy.copy(self)
        view.statistics = statistics
        return view

    def softened(self, temperature: float) -> FrozenTeacher:
        """Return a view of the same teacher, with the same count, whose logits are divided by `temperature`."""
        view = copy.copy(self)
        view.temperature = temperature
        return view

    @property
    def forwards(self) -> int:
        """Images the teacher was asked about, for the report of costs."""
        return self._asked[0]

    @forwards.setter
    def forwards(self, images: int) -> None:
        self._asked[0] = images

    def _settle(self) -> None:
        shape = (1, self.card.input_size[0], 1, 1)
        self._mean, self._std = (
            torch.tensor(values, dtype=self.runtime.dtype, device=self.runtime.device).view(shape)
            for values in (self.card.mean, self.card.std)
        )
        self.batch_norms = [] if self._behaviour.silent else [layer for _, layer in batch_norm_layers(self.module)]
        self._classifier: nn.Module | None = None
        self._lowered: dict[Tensor, tuple[Tensor, Tensor]] = {}  # weight: its data in full precision, and in bfloat16
        if self.runtime.precision == "bf16":
            self._lower()
        changing = bool(self._behaviour.changes)  # a compiled forward takes all tensors for constant
        self._plain = self.module if changing else self.runtime.compiled(self.module, constant=True)
        self._recomputed = Recomputed(self.module) if self.runtime.recompute and not changing else None

    def __exit__(self, *_: object) -> None:
        self._loan.close()

    @torch.no_grad()
    def _lower(self) -> None:
        """Keep in bfloat16 what autocast would cast anew in every forward, unless a bit of the answer changes."""
        layers = [m for m in self.module.modules() if type(m) in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)]
        weights = {tensor for layer in layers for tensor in layer.parameters(recurse=False)}
        images = self._example(4) + 0.5

        def answer() -> Tensor:
            with untouched_global_rng(), self.runtime.autocast():
                return to_logits(self.module(images), self.card.outputs)

        before = answer()
        self._lowered = {tensor: (tensor.data, tensor.data.to(torch.bfloat16)) for tensor in weights}
        self._use(lowered=True)
        if not torch.equal(before, answer()):  # some layer's weight is used outside of it
            self._use(lowered=False)
            self._lowered = {}

    def _use(self, lowered: bool) -> None:
        for tensor, forms in self._lowered.items():
            tensor.data = forms[lowered]

    @contextmanager
    def _in_full_precision(self) -> Iterator[None]:
        """Give the module its own weights back for a forward without autocast."""
        self._use(lowered=False)
        try:
            yield
        finally:
            self._use(lowered=True)

    def normalize(self, images: Tensor) -> Tensor:
        """Turn pixel units into what the teacher was trained on: (images - mean) / std."""
        return (images - self._mean) / self._std

    def denormalize(self, inputs: Tensor) -> Tensor:
        """Turn normalised inputs into pixel units."""
        return inputs * self._std + self._mean

    @property
    def classifier(self) -> nn.Module:
        """The layer that turns features into logits.

        Raises:
            TeacherError: no linear layer puts the logits out.
        """
        found = self._find_classifier()
        if found is None:
            raise TeacherError(
                "the teacher's logits come from no linear layer, whose input would be the features that this method "
                "wants; switch that term off knowingly with -s method.activation_weight=0"
            )
        return found

    def _find_classifier(self) -> nn.Module | None:
        if self._classifier is None:
            with self._in_full_precision():
                self._classifier = classifying_layer(self.module, self._example(), self.card.num_classes)
        return self._classifier

    @property
    def head(self) -> tuple[Tensor, Tensor] | None:
        """Weight (C, d) and bias (C,) of the layer that turns features into logits, copies in full precision over the
        temperature; None where no linear layer puts the logits out."""
        found = self._find_classifier()
        if found is None:
            return None
        with self._in_full_precision():
            weight, bias = found.weight, found.bias
            assert isinstance(weight, Tensor), "a linear layer or a convolution has one"
            rows = weight.detach().flatten(1) / self.temperature
            return rows, bias.detach() / self.temperature if isinstance(bias, Tensor) else torch.zeros_like(rows[:, 0])

    def blocks(self) -> dict[tuple[int, int], nn.Module]:
        """Return the last block of each map size, see `last_block_by_size`."""
        with self._in_full_precision():
            return last_block_by_size(self.module, self._example())

    def cuts(self, names: Sequence[str] | None = None) -> tuple[nn.Module, ...]:
        """Return the last batch norm of each size of maps that go into one, the smallest maps first; or those of given
        names, in their order.

        Raises:
            TeacherError: it has none over maps; UsageError: one of the names is none of these.
        """
        with self._in_full_precision():
            sizes = map_sizes(self.module, self._example(), self.batch_norms)
        if not sizes:
            raise TeacherError("the teacher has no batch norms over maps, at which its generator would be cut")
        if names is None:
            last = {size: layer for layer, size in sizes.items()}
            return tuple(last[size] for size in sorted(last))
        known = {name: part for name, part in batch_norm_layers(self.module) if part in sizes}
        wrong = [name for name in names if name not in known]
        if wrong or not names:
            what = ", ".join(wrong) or "nothing"
            raise UsageError(f"-s method.cuts: {what} is no batch norm over maps; the teacher has {', '.join(known)}")
        return tuple(known[name] for name in names)

    def convolutions(self) -> list[str]:
        """Return the names of its convolutions in the order of the forward, see `models.probing.convolutions`."""
        with self._in_full_precision():
            return convolutions(self.module, self.runtime.inputs(self._example()))

    def altered(self, change: Callable[[nn.Module], None]) -> FrozenTeacher:
        """Return a frozen teacher of its own, over a copy without hooks that `change` has worked on."""
        with self._asking, self._in_full_precision():
            module = copied_module(self.module)
        drop_hooks(module)
        change(module)
        other = FrozenTeacher(Network(module, self.card, self._behaviour), self.runtime).__enter__()
        return other.by(self.statistics).softened(self.temperature)

    def _example(self, count: int = 2) -> Tensor:
        return self.runtime.images(torch.zeros(count, *self.card.input_size))

    def respond(self, inputs: Tensor, probes: Sequence[Probe[Any]] = (), *, weight: Tensor | None = None) -> Response:
        """Ask the teacher once about normalised `inputs` (N, C, H, W).

        Probes are armed for this forward only, and the response holds what each of them found; images count by `weight`
        (N,), where it is given. Gradients reach `inputs` unless the caller is under `torch.no_grad()`.

        Raises:
            TeacherError: a probe found nothing to read.
        """
        self.forwards += inputs.shape[0] * ranks.count()
        with ExitStack() as stack:
            stack.enter_context(self._asking)  # a probe sees every forward
            reading = {type(probe): stack.enter_context(probe.armed(self, weight)) for probe in probes}
            stack.enter_context(self.runtime.autocast())
            stack.enter_context(own_grad_mode())
            stack.enter_context(unchanged(self.module, self._behaviour.changes))
            if self._recomputed and self.statistics == "running":
                stack.enter_context(self._recomputed.armed())
            plain = not probes and self.statistics == "running"  # in a compiled forward the stored ones are constants
            if self.statistics == "batch":
                stack.enter_context(by_batch(self.batch_norms))
            output = (self._plain if plain else self.module)(self.runtime.inputs(inputs))
        return Response(self._logits(output), {kind: probed() for kind, probed in reading.items()})

    def probed(self, probe: Probe[T]) -> T:
        """Return what a probe finds of two black images, without gradient; they are not counted."""
        before = self.forwards
        with torch.no_grad():
            answer = self.respond(self.normalize(self._example()), (probe,))
        self.forwards = before
        return answer.of(type(probe))

    def _logits(self, output: object) -> Tensor:
        """Return the logits, of no more precision than the run's: the losses hold them against the student's."""
        logits = to_logits(output, self.card.outputs)
        logits = logits.to(self.runtime.dtype) if logits.dtype == torch.float64 else logits
        return logits if self.temperature == 1 else logits / self.temperature
