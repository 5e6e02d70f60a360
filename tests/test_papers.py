"""The recipes `paper` and `published` hold the constants of papers and released codes, written out here from those and
not taken from the package."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from lenient.api import distill
from lenient.core.config import flatten
from lenient.core.rates import rate_factor
from lenient.methods import METHODS, recipes
from lenient.runs.request import Request, resolve
from toys import digits_like, quick

NATURAL = 1 / math.log(10)
"""Turns a weight of an entropy in base 10 into one in nats."""

SHARED: dict[str, Any] = {
    # PRE-, MB- and META-DFKD: 1 one-hot, 5 entropy in base 10, 0.1 activation, 1 adversary at temperature 3, the
    # teacher's side without gradient; 1 generator step of Adam at 0.02, then 10 of SGD at 0.1 on a cosine; L1 of logits
    "method.class_prior_weight": 1,
    "method.entropy_weight": 5 * NATURAL,
    "method.activation_weight": 0.1,
    "method.adversarial_weight": 1,
    "method.temperature": 3,
    "method.detach_teacher": True,
    "method.student_steps": 10,
    "method.generator_steps": 1,
    "method.student_optimizer": "sgd",
    "method.student_lr": 0.1,
    "method.student_momentum": 0.9,
    "method.student_weight_decay": 5e-4,
    "method.student_schedule": "cosine",
    "method.generator_lr": 0.02,
    "method.generator_schedule": "constant",
    "method.student_clip_norm": None,
    "method.generator_clip_norm": None,
    "method.augmentation": "none",
    "method.selection.name": "none",
    "method.replay.share": 1 / 8,
    "method.replay.weight": None,
    "generator.output": "tanh-bn",
    "generator.stem_activation": False,
    "generator.spectral_norm": True,
    "generator.latent_dim": 1000,
    "generator.width": 128,
    "generator.bn_eps": 0.8,
    "student.init": "torch",
}
AT_1024 = {"batch_size": 1024, "steps": 400 * 36 * 10, "steps_per_epoch": 36 * 10}
AT_512 = {"batch_size": 512, "steps": 400 * 72 * 10, "steps_per_epoch": 72 * 10}
BANK = {
    "method.replay.name": "bank",
    "method.replay.slots": 10,
    "method.replay.every": 5,
    "method.replay.policy": "ring",
    "method.replay.granularity": "slot",
}
VAE = {
    "method.replay.name": "generative",
    "method.replay.updates": 4,
    "method.replay.lr": 0.02 / 40,
    "method.replay.pixel_weight": 1,
    "method.replay.logit_weight": 1,
    "method.replay.feature_weight": 0,
    "method.replay.kl_weight": 1e-5,
    "method.replay.latent_steps": 1,
    "method.replay.latent_lr": 0.02,
    "method.replay.prior_weight": 1,
    "method.replay.entropy_weight": 5 * NATURAL,
    "method.replay.warm_up": 0,
}
CODED, EXACT = {"method.adversarial": "js-coded"}, {"method.adversarial": "js"}
PLAIN = {"method.update.name": "plain"}

TA_DFKD: dict[str, Any] = {
    # 1 adversary, 10 statistics, TV and L2 of 1.5e-5 and 6e-3 beside them, nothing else; 36 rounds of 10 : 1 an epoch
    "method.beta": 1,
    "method.gamma": 10,
    "method.bn_weight": 1,
    "method.tv_weight": 1.5e-5 / 10,
    "method.l2_weight": 6e-3 / 10,
    "method.class_prior_weight": 0,
    "method.entropy_weight": 0,
    "method.temperature": 3,
    "method.detach_teacher": False,
    "method.selection.name": "mixture",
    "method.selection.tau": 0.5,
    "method.selection.max_iterations": 10,
    "method.selection.tolerance": 1e-2,
    "method.selection.variance_floor": 5e-4,
    "method.selection.acceptance": "posterior",
    "method.selection.carry_leftovers": False,
    "method.selection.max_rounds": None,
    "method.replay.name": "none",
    "method.update.name": "plain",
    "method.student_steps": 10,
    "method.generator_steps": 1,
    "method.student_optimizer": "sgd",
    "method.student_lr": 0.01,
    "method.student_momentum": 0.9,
    "method.student_weight_decay": 5e-4,
    "method.generator_lr": 1e-3,
    "method.generator_schedule": "constant",
    "method.student_clip_norm": None,
    "method.generator_clip_norm": None,
    "generator.output": "sigmoid",
    "generator.stem_activation": True,
    "generator.spectral_norm": False,
    "generator.latent_dim": 1000,
    "generator.width": 128,
    "generator.bn_eps": 0.8,
    "student.init": "torch",
    "batch_size": 1024,
    "steps": 200 * 36 * 10,
    "steps_per_epoch": 36 * 10,
}
DAFL: dict[str, Any] = {
    "method.class_prior_weight": 1,
    "method.entropy_weight": 5 * NATURAL,
    "method.activation_weight": 0.1,
    "method.temperature": 1,
    "method.batch": "same",
    "method.student_steps": 1,
    "method.generator_steps": 1,
    "method.generator_schedule": "constant",
    "method.augmentation": "none",
    "method.selection.name": "none",
    "method.replay.name": "none",
    "generator.output": "tanh-bn",
    "generator.stem_activation": False,
    "generator.width": 128,
    "generator.bn_eps": 0.8,
    "student.init": "torch",
    "steps_per_epoch": 120,
}
DFAD: dict[str, Any] = {
    "method.adversarial": "l1",
    "method.student_steps": 5,
    "method.generator_steps": 1,
    "method.student_optimizer": "sgd",
    "method.student_momentum": 0.9,
    "method.generator_lr": 1e-3,
    "method.augmentation": "none",
    "method.selection.name": "none",
    "method.replay.name": "none",
    "generator.output": "tanh-bn",
    "generator.stem_activation": False,
    "generator.width": 128,
    "generator.bn_eps": 1e-5,
    "student.init": "he",
    "steps_per_epoch": 50 * 5,
}
ADADFQ: dict[str, Any] = {
    # band [0.1, 0.8], 0.2 and 0.1 of the labelled sums, one each of band, balance and statistics; 400 epochs of 200,
    # the first 4 of the generator alone; both rates a tenth at 100, 200, 300; weight decay 1e-4
    "method.lower": 0.1,
    "method.upper": 0.8,
    "method.entropy_scale": "batch",
    "method.band_weight": 1,
    "method.difference_weight": 0.2,
    "method.sum_weight": 0.1,
    "method.bn_weight": 1,
    "method.temperature": 20,
    "method.warm_up": 4 * 200,
    "method.batch": "same",
    "method.student_steps": 1,
    "method.generator_steps": 1,
    "method.student_optimizer": "sgd",
    "method.student_lr": 1e-4,
    "method.student_momentum": 0.9,
    "method.student_weight_decay": 1e-4,
    "method.student_schedule": "drops",
    "method.generator_lr": 1e-3,
    "method.generator_schedule": "drops",
    "method.drops": (96 / 396, 196 / 396, 296 / 396),
    "method.augmentation": "none",
    "generator.output": "tanh-bn",
    "generator.stem_activation": False,
    "generator.latent_dim": 100,
    "generator.width": 128,
    "generator.bn_eps": 0.8,
    "batch_size": 16,
    "steps": 396 * 200,
    "steps_per_epoch": 200,
}
ZSKT: dict[str, Any] = {
    # KL at temperature 1; attention of 250 beside a KL divided by ten classes; one batch for a generator and ten
    # student steps of Adam at 2e-3, on cosines, 80,000 times
    "method.adversarial": "kl",
    "method.temperature": 1,
    "method.attention_weight": 250 * 10,
    "method.batch": "same",
    "method.student_steps": 10,
    "method.generator_steps": 1,
    "method.student_optimizer": "adam",
    "method.student_lr": 2e-3,
    "method.student_weight_decay": 0,
    "method.student_schedule": "cosine",
    "method.generator_schedule": "cosine",
    "method.augmentation": "none",
    "method.selection.name": "none",
    "method.replay.name": "none",
    "generator.output": "bn",
    "generator.stem_activation": False,
    "generator.latent_dim": 100,
    "generator.width": 128,
    "generator.bn_eps": 1e-5,
    "student.init": "he",
    "batch_size": 128,
    "steps": 80_000 * 10,
}

FASTDFKD: dict[str, Any] = {
    # 20 batches of 256, then 200 epochs of one batch and 400 student steps; 5 steps on a batch; the common start learns
    # at 5 times the rate of its copy, and its first layers are new after 120 batches
    "method.iterations": 5,
    "method.batch_images": None,
    "method.round_batches": 1,
    "method.generator_lr": 3e-3,
    "method.codes_lr": 0.01,
    "method.meta": "fomaml",
    "method.reset_after": 120,
    "method.label_weight": 0.5,
    "method.bn_weight": 10,
    "method.bn_momentum": 0.9,
    "method.adversarial_weight": 1.33,
    "method.student_optimizer": "sgd",
    "method.adversarial": "kl-agreeing",
    "method.temperature": 1,
    "method.first_batches": 20,
    "method.student_steps": 400,
    "method.student_temperature": 20,
    "method.student_lr": 0.2,
    "method.student_lr_end": 2e-4,
    "method.student_momentum": 0.9,
    "method.student_weight_decay": 1e-4,
    "method.student_schedule": "cosine",
    "method.augmentation": "crop-flip",
    "generator.output": "sigmoid",
    "generator.stem_activation": False,
    "generator.conv_bias": False,
    "generator.latent_dim": 256,
    "generator.width": 2 * 64,
    "student.init": "torch",
    "batch_size": 256,
    "steps": 200 * 400,
    "steps_per_epoch": 400,
}

NAYER: dict[str, Any] = {
    # CIFAR-10: 20 epochs of 10 batches of 400, then 100 of two batches and 400 student steps of 512; 30 steps on a
    # batch; a new generator every 10 epochs
    "method.iterations": 30,
    "method.first_batches": 20 * 10,
    "method.first_life": 10 * 10,
    "method.round_batches": 2,
    "method.generator_life": 10 * 2,
    "method.batch_images": 400,
    "method.student_optimizer": "sgd",
    "method.generator_lr": 4e-3,
    "method.label_weight": 0.5,
    "method.bn_weight": 10,
    "method.bn_momentum": 0.9,
    "method.adversarial_weight": 1.33,
    "method.adversarial": "kl-agreeing",
    "method.temperature": 1,
    "method.student_steps": 400,
    "method.student_temperature": 20,
    "method.student_lr": 0.2,
    "method.student_lr_end": 2e-4,
    "method.student_momentum": 0.9,
    "method.student_weight_decay": 1e-4,
    "method.student_schedule": "cosine",
    "method.augmentation": "crop-flip",
    "generator.output": "sigmoid",
    "generator.stem_activation": False,
    "generator.conv_bias": False,
    "generator.latent_dim": 1000,
    "generator.width": 128,
    "student.init": "torch",
    "batch_size": 512,
    "steps": 100 * 400,
    "steps_per_epoch": 400,
}

CPNET: dict[str, Any] = {
    # CIFAR-10: NAYER's script; four cuts, of ResNet-34 the last batch norm of each stage; KL(S, T); the alignment
    # weighs as the adversary does, on whole images and mixed ones alike; half of the steps show boxes
    **{key: value for key, value in NAYER.items() if not key.startswith("generator.")},
    "method.adversarial": "kl-swapped-agreeing",
    "method.cuts": None,
    "method.coupling_weight": 1,
    "method.coupling_view": "shown",
    "method.align_weight": 1.33,
    "method.align_mixed": True,
    "method.cutmix": 0.5,
    "generator.latent_dim": 1000,
}

CMI: dict[str, Any] = {
    "student.init": "as-is",
    # CIFAR-10 from nothing: 200 epochs of a batch of 256, 200 steps, and 400 student steps of 128
    "method.iterations": 200,
    "method.first_batches": 0,
    "method.round_batches": 1,
    "method.batch_images": 256,
    "method.generator_lr": 1e-3,
    "method.projection_lr": 1e-3,
    "method.label_weight": 1,
    "method.bn_weight": 1,
    "method.adversarial_weight": 0.5,
    "method.adversarial": "kl-agreeing",
    "method.temperature": 1,
    "method.contrastive_weight": 0.8,
    "method.contrastive_temperature": 0.1,
    "method.features": "batch-norms",
    "method.bank_size": 40_960,
    "method.bank_drawn": 4096,
    "method.student_optimizer": "sgd",
    "method.local_area": 0.25,
    "method.student_steps": 400,
    "method.student_temperature": 20,
    "method.student_lr": 0.1,
    "method.student_lr_end": 0,
    "method.student_momentum": 0.9,
    "method.student_weight_decay": 1e-4,
    "method.student_schedule": "cosine",
    "method.augmentation": "crop-flip",
    "generator.output": "sigmoid",
    "generator.stem_activation": False,
    "generator.conv_bias": False,
    "generator.latent_dim": 256,
    "generator.width": 128,
    "batch_size": 128,
    "steps": 200 * 400,
    "steps_per_epoch": 400,
}

PHOTO: dict[str, Any] = {
    "student.init": "as-is",
    # CIFAR: batches of 512 of 50,000 patches for 1000 epochs, the last batch of each filled; Adam, constant
    "method.cutmix": 0.25,
    "method.augmentation": "crop-flip",
    "method.student_temperature": 8,
    "method.student_lr": 1e-3,
    "method.student_weight_decay": 0,
    "method.student_schedule": "constant",
    "batch_size": 512,
    "steps": 1000 * math.ceil(50_000 / 512),
    "steps_per_epoch": math.ceil(50_000 / 512),
}

CONSTANTS: dict[tuple[str, str], dict[str, Any]] = {
    ("ta-dfkd", "paper"): TA_DFKD
    | EXACT
    | {
        "method.bn_images": "all",
        "method.image_norm": "per-image",
        "method.augmentation": "none",
        "method.student_schedule": "cosine",
        "method.selection.min_rounds": 1,
    },
    ("ta-dfkd", "published"): TA_DFKD
    | CODED
    | {
        "method.bn_images": "selected",
        "method.image_norm": "whole-batch",
        "method.augmentation": "crop-flip-batch",
        "method.student_schedule": "cosine-early",
        "method.selection.min_rounds": 2,
    },
    # CIFAR-10: 2000 epochs of 120 batches of 1024, a tenth of the rate from epochs 800 and 1600 on
    ("dafl", "paper"): DAFL
    | {
        "method.student_optimizer": "sgd",
        "method.student_lr": 0.1,
        "method.student_momentum": 0.9,
        "method.student_weight_decay": 5e-4,
        "method.student_schedule": "drops",
        "method.drops": (800 / 2000, 1600 / 2000),
        "method.generator_lr": 0.02,
        "generator.latent_dim": 1000,
        "batch_size": 1024,
        "steps": 2000 * 120,
    },
    # MNIST: 200 epochs of 120 batches of 512, both networks by Adam at constant rates
    ("dafl", "published"): DAFL
    | {
        "method.student_optimizer": "adam",
        "method.student_lr": 2e-3,
        "method.student_weight_decay": 0,
        "method.student_schedule": "constant",
        "method.generator_lr": 0.2,
        "generator.latent_dim": 100,
        "batch_size": 512,
        "steps": 200 * 120,
    },
    # CIFAR-10: 500 epochs of 50 rounds, both rates a tenth from epochs 100 and 200 on
    ("dfad", "paper"): DFAD
    | {
        "method.student_lr": 0.1,
        "method.student_weight_decay": 5e-4,
        "method.student_schedule": "drops",
        "method.generator_schedule": "drops",
        "method.drops": (100 / 500, 200 / 500),
        "generator.latent_dim": 256,
        "batch_size": 256,
        "steps": 500 * 50 * 5,
    },
    # MNIST: 40 epochs of 50 rounds, constant rates
    ("dfad", "published"): DFAD
    | {
        "method.student_lr": 0.01,
        "method.student_weight_decay": 1e-4,
        "method.student_schedule": "constant",
        "method.generator_schedule": "constant",
        "generator.latent_dim": 100,
        "batch_size": 512,
        "steps": 40 * 50 * 5,
        "student.init": "as-is",  # it has LeNets, whose start is not told
    },
    ("adadfq", "paper"): ADADFQ,
    ("zskt", "paper"): ZSKT
    | {"method.generator_lr": 2e-3, "method.student_clip_norm": None, "method.generator_clip_norm": None},
    # clipped at 5 beside a KL divided by ten classes
    ("zskt", "published"): ZSKT
    | {"method.generator_lr": 1e-3, "method.student_clip_norm": 5 * 10, "method.generator_clip_norm": 5 * 10},
    ("pre-dfkd", "paper"): SHARED | VAE | EXACT | PLAIN | AT_1024 | {"method.replay.match_weight": 0},
    ("pre-dfkd", "published"): SHARED | VAE | CODED | PLAIN | AT_1024 | {"method.replay.match_weight": 1},
    ("mb-dfkd", "published"): SHARED | BANK | CODED | PLAIN | AT_1024,
    ("meta-dfkd", "paper"): SHARED
    | BANK
    | EXACT
    | AT_512
    | {
        "method.update.name": "retain",
        "method.update.order": "second",
        "method.update.alpha": 0.9,
        "method.update.joint": False,
    },
    ("meta-dfkd", "published"): SHARED | BANK | CODED | PLAIN | AT_512,
    ("meta-dfkd", "published-generative"): SHARED | VAE | CODED | PLAIN | AT_512 | {"method.replay.match_weight": 1},
    ("fastdfkd", "paper"): FASTDFKD,
    ("fastdfkd", "published"): FASTDFKD,
    ("nayer", "published"): NAYER,
    ("cpnet", "published"): CPNET,
    ("cmi", "published"): CMI,
    ("photo", "published"): PHOTO,
    # CIFAR-10: 200 epochs of 196 steps of 256; our rate falls as a cosine, theirs with the loss on test images
    ("noise", "published"): {
        "student.init": "as-is",
        "method.distribution": "normal",
        "method.statistics": "batch",
        "method.student_loss": "cross-entropy",
        "method.student_optimizer": "adam",
        "method.student_lr": 1e-3,
        "method.student_momentum": 0.9,
        "method.student_weight_decay": 0,
        "method.student_schedule": "cosine",
        "batch_size": 256,
        "steps": 196 * 200,
        "steps_per_epoch": 196,
    },
    # MNIST: five generators, 200 epochs of 100 updates of 256; a set of 32,000, 400 epochs of 500 steps of 64
    ("kegnet", "published"): {
        "student.init": "as-is",
        "method.generators": 5,
        "method.iterations": 200 * 100,
        "method.generator_batch": 256,
        "method.generator_lr": 1e-3,
        "method.decoder_weight": 1,
        "method.decoder_layers": 1,
        "method.diversity_weight": 0,
        "method.images": 6400,
        "method.student_temperature": 1,
        "method.student_optimizer": "adam",
        "method.student_lr": 1e-5,
        "method.student_weight_decay": 0,
        "method.student_schedule": "constant",
        "method.augmentation": "none",
        "generator.latent_dim": 10,
        "generator.width": 64,
        "batch_size": 64,
        "steps": 400 * 500,
        "steps_per_epoch": 500,
    },
    # CIFAR-10, AlexNet to its half: 40,000 images, both factors of the similarities undone, 500 epochs of 625 steps
    ("zskd", "published"): {
        "student.init": "as-is",
        "method.iterations": 1500,
        "method.pixels_lr": 1e-3,
        "method.concentrations": (1.0,),
        "method.temperature": 20,
        "method.first_batches": 2 * 10 * 20,  # factors, classes, batches of each
        "method.batch_images": 100,
        "method.round_batches": 1,
        "method.student_steps": None,
        "method.student_temperature": 20,
        "method.student_optimizer": "adam",
        "method.student_lr": 1e-3,
        "method.student_weight_decay": 0,
        "method.student_schedule": "constant",
        "method.augmentation": "distorted",
        "batch_size": 64,
        "steps": 500 * 625,
        "steps_per_epoch": 625,
    },
    # CIFAR-10, ResNet-34 to 18: 250 epochs of 40 rounds; the adversary climbs by 0.5 in each epoch from 63 to 186, 124
    # times; what counts half rises from 2 by 1e-4 a student step
    ("cudfkd", "paper"): {
        "method.class_prior_weight": 1,
        "method.entropy_weight": 20,
        "method.entropy_temperature": 20,
        "method.bn_weight": 1,
        "method.adversarial": "kl-agreeing",
        "method.temperature": 3,
        "method.adversarial_start": 0,
        "method.adversarial_end": 124 * 0.5,
        "method.climb_begin": 0.25,
        "method.climb_end": 0.75,
        "method.imitation": "l1",
        "method.pace_form": "log",
        "method.pace_start": 2,
        "method.pace_end": 2 + 1e-4 * 250 * 40 * 10,
        "method.student_steps": 10,
        "method.generator_steps": 1,
        "method.student_optimizer": "sgd",
        "method.student_lr": 0.1,
        "method.student_momentum": 0.9,
        "method.student_weight_decay": 1e-4,
        "method.student_schedule": "cosine",
        "method.generator_lr": 1e-3,
        "method.generator_beta2": 0.99,
        "method.generator_schedule": "constant",
        "method.draw_mode": "eval",
        "method.student_mode": "eval",
        "method.augmentation": "none",
        "method.selection.name": "none",
        "method.replay.name": "none",
        "generator.output": "sigmoid",
        "generator.stem_activation": False,
        "generator.halve_each_stage": True,
        "generator.latent_dim": 512,
        "generator.width": 256,
        "student.init": "torch",
        "batch_size": 512,
        "steps": 250 * 40 * 10,
        "steps_per_epoch": 40 * 10,
    },
}


@pytest.mark.parametrize(("method", "recipe"), CONSTANTS, ids=str)
def test_a_recipe_holds_the_constants_of_its_paper_or_code(method: str, recipe: str) -> None:
    found = flatten(resolve(Request(method=method, recipes=[recipe])).model_dump())
    for key, value in CONSTANTS[method, recipe].items():
        exact = value is None or isinstance(value, (str, bool))
        assert found[key] == (value if exact else pytest.approx(value, rel=1e-6)), key


def test_no_recipe_goes_without_its_constants() -> None:
    claiming = {
        (method, recipe)
        for method in METHODS
        for recipe in recipes(method)
        if recipe == "paper" or recipe.startswith("published")
    }
    assert claiming == CONSTANTS.keys()


@pytest.mark.parametrize(("method", "recipe"), CONSTANTS, ids=str)
def test_no_setting_of_the_method_is_left_to_our_default_unseen(method: str, recipe: str) -> None:
    """What the table does not name is a part that is off, or a figure without effect there."""
    found = flatten(resolve(Request(method=method, recipes=[recipe])).model_dump())
    idle = {"method.name", "method.selection.name", "method.replay.name", "method.update.name"}
    idle |= {"method.student_clip_norm", "method.generator_clip_norm", "method.student_momentum"}
    idle |= {"method.drops"} if "drops" not in found.values() else set()
    idle |= {"method.imitation_temperature"} if method == "cudfkd" else set()
    idle |= {"method.temperature"} if method == "dfad" else set()  # of forms other than L1
    idle |= {"method.pool_size"} if "method.first_batches" in found else set()
    idle |= (
        {"method.embeddings"} if method in ("nayer", "cpnet") else set()
    )  # the released ones are a file of the user's
    idle |= {"method.meta_lr"} if method == "fastdfkd" else set()  # none: the rate times the steps
    idle |= (
        {"method.pool_size", "method.student_lr_end"} if method in ("zskd", "kegnet") else set()
    )  # all fit; a constant rate
    assert {key for key in found if key.startswith("method.")} - CONSTANTS[method, recipe].keys() <= idle


DROPPING = [(place, table["method.drops"]) for place, table in CONSTANTS.items() if "method.drops" in table]


@pytest.mark.parametrize(("place", "shares"), DROPPING, ids=str)
def test_rates_drop_with_the_epochs_of_the_paper(place: tuple[str, str], shares: tuple[float, ...]) -> None:
    """A share that was rounded up comes an epoch late."""
    settings = resolve(Request(method=place[0], recipes=[place[1]]))
    epochs = settings.steps // settings.steps_per_epoch
    rates = [rate_factor("drops", epoch / epochs, drops=settings.method.drops) for epoch in range(epochs)]
    falls = [epoch for epoch in range(1, epochs) if rates[epoch] < rates[epoch - 1]]
    assert falls == [round(share * epochs) for share in shares]


def test_the_released_code_that_does_not_select_keeps_the_adversary_from_the_teacher() -> None:
    plan = resolve(Request(method="ta-dfkd", recipes=["published", "unselecting"])).method
    released = resolve(Request(method="ta-dfkd", recipes=["published"])).method
    assert (plan.selection.name, plan.detach_teacher, plan.bn_images) == ("none", True, "selected")
    assert plan == released.model_copy(update={"selection": plan.selection, "detach_teacher": True})


def test_fastdfkds_common_start_learns_at_the_released_rate() -> None:
    """Its copies' rate times the steps: written so in the one recipe, the method's own default in the other."""
    assert resolve(Request(method="fastdfkd", recipes=["paper"])).method.meta_lr == pytest.approx(5 * 3e-3)
    assert resolve(Request(method="fastdfkd", recipes=["published"])).method.meta_lr is None


TRIED = re.compile(r"^  (\w+): (\S+) # the best of five trials on digits", re.MULTILINE)


def test_recipes_for_mnist_have_the_rates_that_lost_least_on_digits() -> None:
    both = [own for own in map(recipes, METHODS) if {"digits", "mnist"} <= own.keys()]
    tried = {
        own["digits"].parent.name: [TRIED.findall(own[n].read_text()) for n in ("digits", "mnist")] for own in both
    }
    assert {"noise", "photo", "kegnet", "zskd", "stable"} <= {method for method, (digits, _) in tried.items() if digits}
    for method, (digits, mnist) in tried.items():
        assert digits == mnist, method


def test_kegnets_students_are_shown_distortions_by_both_recipes() -> None:
    """Without them, and at the released rate over fewer updates, a student was near chance."""
    for recipe in ("digits", "mnist"):
        method = resolve(Request(method="kegnet", recipes=[recipe])).method
        assert (method.augmentation, method.generator_lr) == ("distorted", 0.01)


SHORT: dict[str, dict[str, Any]] = {
    "fastdfkd": {"first_batches": 1},
    "nayer": {"first_batches": 1, "iterations": 2, "batch_images": 8},
    "cpnet": {"first_batches": 1, "iterations": 2, "batch_images": 8},
    "cmi": {"iterations": 2, "batch_images": 8},
    "zskd": {"first_batches": 1, "iterations": 3, "batch_images": 8},
    "kegnet": {"iterations": 2, "images": 20, "generator_batch": 8},
}


@pytest.mark.parametrize(("method", "recipe"), CONSTANTS, ids=str)
def test_a_recipe_runs(method: str, recipe: str) -> None:
    """Its losses, rates and schedule, on little generators and batches."""
    small: dict[str, Any] = {"generator": {"latent_dim": 4, "width": 4}, "precision": "32", "overlap": False}
    small = quick(method, small)
    small["method"] = SHORT.get(method, {})
    more = {"method": method, "recipe": recipe, "device": "cpu", "settings": small}
    result = distill(digits_like(), "lenient:resnet8", steps=12, batch_size=8, **more)
    assert result.summary.steps == 12
    assert all(torch.isfinite(weight).all() for weight in result.student.parameters())
