"""The memory generator of PRE-DFKD: a small variational autoencoder that learns the stream and recalls it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.modes import mode
from lenient.core.reductions import batch_mean, batch_size_of, full
from lenient.core.runtime import Runtime
from lenient.core.seeding import Streams
from lenient.generators.encoder import Encoder
from lenient.generators.upsampling import GeneratorSettings, UpsamplingGenerator
from lenient.losses.distances import logit_l1
from lenient.losses.prior import ClassPrior, InformationEntropy
from lenient.replay import Recalled, RecallSettings
from lenient.teacher.batch import Batch, Clock, Response
from lenient.teacher.frozen import FrozenTeacher
from lenient.teacher.probes import Features


class MemorySettings(RecallSettings):
    """A memory generator learns the stream and recalls it (PRE-DFKD); figures of its released code."""

    name: Literal["generative"] = "generative"
    updates: int = Field(4, ge=1, le=10_000)
    """Updates of the memory in one round, one after each of the first student updates (released code: 4)."""
    lr: float = Field(5e-4, ge=0, le=1e3)
    """Learning rate of its Adam (released code: 0.02 / 40)."""
    pixel_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the L1 distance of images (in normalised space)."""
    logit_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the L1 distance of what the teacher says of original and reconstruction."""
    feature_weight: float = Field(0.0, ge=0, le=1e6)
    """Weight of the L1 distance of the teacher's features, which the paper describes; off in the released code."""
    kl_weight: float = Field(1e-5, ge=0, le=1e6)
    """Weight of the divergence of the code from N(0, I), summed over latents."""
    match_weight: float = Field(0.0, ge=0, le=1e6)
    """Weight of the latents' objective in the memory's own updates (released code: 1, through a leaking gradient)."""
    latent_steps: int = Field(1, ge=0, le=10_000)
    """Adam steps on the latents before recalling (released code: 1)."""
    latent_lr: float = Field(0.02, ge=0, le=1e3)
    """Learning rate of those steps; one step moves each latent by about as much."""
    prior_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the class prior on recalled images in the latents' objective."""
    entropy_weight: float = Field(5 / 2.302585, ge=0, le=1e6)
    """Weight of the information entropy there, in nats (released code: 5 in base 10)."""
    warm_up: int = Field(1, ge=0, le=10**9)
    """Updates of the memory before it is asked for images (released code: 0, which replays noise)."""


class MemoryGenerator:
    """Encoder and decoder learn to reproduce the stream and their own recollections; the decoder recalls.

    Recalled images are drawn from N(0, I) after a few steps on the latents, towards sure and evenly spread classes and
    unit moments; gradients reach the latents only.
    """

    label = "generative"

    def __init__(
        self,
        size: int,
        teacher: FrozenTeacher,
        shape: GeneratorSettings,
        settings: MemorySettings,
        streams: Streams,
        runtime: Runtime,
    ) -> None:
        self.size, self.teacher, self.settings = size, teacher, settings
        self.streams, self.runtime, self.latent_dim = streams, runtime, shape.latent_dim
        decoder = UpsamplingGenerator(teacher.card.input_size, shape.model_copy(update={"spectral_norm": False}))
        encoder = Encoder(teacher.card.input_size, shape.latent_dim, shape.width, shape.bn_eps)
        self.learner: nn.Module | None = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
        self.encoder, self.decoder = encoder, decoder
        self.prior, self.entropy = ClassPrior(), InformationEntropy()
        self.recent: Tensor | None = None
        self.updates = 0

    def after_generator(self, clock: Clock, batch: Batch, bad: Tensor) -> None:
        """Take no note."""

    def after_student(self, clock: Clock, batch: Batch, bad: Tensor) -> None:
        """Remember the first half of the student's newest batch until the memory's update."""
        whole = ranks.gather(batch.images)
        self.recent = whole[: max(len(whole) // 2, 2)]

    def draw(self, clock: Clock) -> Recalled | None:
        """Return `size` recalled images, None before the warm-up is over."""
        if self.updates < self.settings.warm_up:
            return None
        images = self.recall("memory-latents", clock.update)
        return Recalled(images, len(images) * ranks.count())

    def recall(self, name: str, update: int) -> Tensor:
        """Draw latents, move them, decode them in eval mode; detached."""
        latents = self._latents(name, update)
        with mode(self.decoder, "eval"):
            return self._moved(latents)

    def _moved(self, latents: Tensor) -> Tensor:
        with torch.enable_grad():
            latents.requires_grad_(True)
            optimizer = torch.optim.Adam([latents], self.settings.latent_lr, fused=True)
            for _ in range(self.settings.latent_steps):
                (latents.grad,) = torch.autograd.grad(self.match(latents) / ranks.count(), [latents])
                optimizer.step()
        with torch.no_grad():
            return self.decode(latents.detach())

    def _latents(self, name: str, update: int) -> Tensor:
        return ranks.mine(
            self.streams.normal(name, update, (self.size, self.latent_dim)).to(self.runtime.dtype)
        ).clone()

    def decode(self, latents: Tensor) -> Tensor:
        """Return images in pixel units."""
        with self.runtime.autocast():
            images: Tensor = self.decoder(latents)
        if self.decoder.space == "normalized":
            images = self.teacher.denormalize(images)
        return self.runtime.images(images)

    def match(self, latents: Tensor) -> Tensor:
        """Class prior and entropy of what the latents decode to, and how far their own moments are from N(0, 1)."""
        inputs = self.teacher.normalize(self.decode(latents))
        answer = {"clean": {"teacher": self.teacher.respond(inputs)}}
        batch = Batch(inputs, torch.ones(len(inputs), device=inputs.device), answers=answer)
        mean = batch_mean(latents)
        count = batch_size_of(latents)
        variance = batch_mean((latents - mean).square()) * (count / max(count - 1, 1))
        moments = (variance - 1).square().mean() + mean.square().mean()
        s = self.settings
        return s.prior_weight * self.prior(batch) + s.entropy_weight * self.entropy(batch) + moments

    def learn(self, clock: Clock) -> tuple[dict[str, Tensor], Batch, int]:
        """Fill the gradients of encoder and decoder; returns detached losses, the targets' batch, and how many of its
        images were recalled by all ranks."""
        s = self.settings
        if self.recent is None:
            raise ValueError("the memory learns after a student update")
        images = ranks.mine(self.recent)
        if self.updates > 0:
            images = torch.cat([images, self.recall("memory-targets", clock.update)])
        self.updates += 1
        probes = (Features(),) if s.feature_weight > 0 else ()
        with torch.no_grad():
            targets = self.teacher.normalize(images)
            wanted = self.teacher.respond(targets, probes)
        with self.runtime.autocast():
            mean, log_variance = self.encoder(targets)
        mean, log_variance = full(mean), full(log_variance)
        groups = [len(self.recent), len(mean) * ranks.count() - len(self.recent)]  # stream, recollections
        noise = self.streams.normal("memory-code", clock.update, (sum(groups), self.latent_dim)).to(mean.dtype)
        noise = torch.cat([ranks.mine(part) for part in noise.split(groups)])
        rebuilt = self.teacher.normalize(self.decode(mean + torch.exp(log_variance / 2) * noise))
        answer = self.teacher.respond(rebuilt, probes)
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1)
        terms = {
            "memory_pixels": (s.pixel_weight, batch_mean((rebuilt - targets).abs().flatten(1).mean(dim=1))),
            "memory_logits": (s.logit_weight, batch_mean(logit_l1(full(wanted.logits), full(answer.logits)))),
            "memory_kl": (s.kl_weight, batch_mean(divergence)),
        }
        if probes:
            terms["memory_features"] = (s.feature_weight, batch_mean(_feature_l1(wanted, answer)))
        if s.match_weight:
            terms["memory_match"] = (s.match_weight, self.match(self._latents("memory-match", clock.update)))
        total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        total.backward()
        answers = {"clean": {"teacher": wanted}}
        batch = Batch(images, torch.ones(len(images), device=images.device), answers=answers, clock=clock)
        return {name: value.detach() for name, (_, value) in terms.items()}, batch, groups[1]

    def state_dict(self) -> dict[str, Any]:
        """Return what is not in the learner: the batch that waits for its update, and the count of these."""
        return {"recent": self.recent, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Go on from a saved state."""
        self.recent, self.updates = state["recent"], state["updates"]
        return None


def _feature_l1(wanted: Response, answer: Response) -> Tensor:
    return (full(wanted.of(Features)) - full(answer.of(Features))).abs().mean(dim=1)
