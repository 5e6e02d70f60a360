"""A generator of a user's own: any module that turns latents into images of the teacher's size."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor, nn

from lenient.core.errors import LenientError, TeacherError, UsageError
from lenient.core.runtime import Runtime
from lenient.core.text import VALUE, shown, visible
from lenient.generators.upsampling import Space
from lenient.models.card import Card
from lenient.models.factories import named
from lenient.models.lending import as_it_was, copied_module
from lenient.models.names import one_line, parse_spec

FLAG = "-s generator.factory"

GeneratorFactory = Callable[[Card], nn.Module]
"""The teacher's card to a generator: a module that takes latents (N, latent_dim), and classes (N,) int64 where the
method asks for classes, and returns images (N, C, H, W) of `card.input_size`.

The module may say two things by attributes. `space`: `pixels`, the default, where real images lie in [0, 1], or
`normalized`, what the teacher's own normalisation makes of them. `latent_dim`: the length of its latents, by default
the setting `generator.latent_dim`. The factory is called for each trial and for the run. Copies of what it returns
learn, and start from the weights that it has.
"""


def named_factory(name: str) -> GeneratorFactory:
    """Return the factory that lies where `name` says, `py:FILE.py:FUNCTION`; it is imported whenever it is called, and
    can import its neighbours then, and raises UsageError where it is not there."""

    def make(card: Card) -> nn.Module:
        try:
            with named(parse_spec(name, FLAG), FLAG) as (found, _):
                module: nn.Module = found(card)
                return module
        except TeacherError as error:
            raise UsageError(str(error)) from error

    return make


def own_generator(make: GeneratorFactory, card: Card, latent_dim: int) -> tuple[nn.Module, int]:
    """Return a copy of what the factory makes, and the length of its latents.

    Raises:
        UsageError: it raises, or gives no module, one without parameters to learn, or one of an unknown `space`.
    """
    try:
        made: object = make(card)
    except LenientError:
        raise
    except Exception as error:
        raise UsageError(f"generator: the factory raised {one_line(error)}") from error
    if not isinstance(made, nn.Module):
        raise UsageError(f"generator: the factory returned a {type(made).__name__}, not a torch.nn.Module")
    generator = copied_module(made)
    if not any(parameter.requires_grad for parameter in generator.parameters()):
        raise UsageError("generator: has no parameters that learn; give a module that has some")
    space, length = getattr(generator, "space", "pixels"), getattr(generator, "latent_dim", latent_dim)
    if space not in get_args(Space):
        raise UsageError(f"generator: its space is {shown(space)}; give {' or '.join(get_args(Space))}")
    if type(length) is not int or length < 1:
        raise UsageError(f"generator: its latent_dim is {shown(length)}; give a number from 1")
    return generator, length


def check_drawing(generator: nn.Module, latent_dim: int, card: Card, runtime: Runtime, conditional: bool) -> None:
    """Let a generator that is placed draw two images, in eval mode.

    Raises:
        UsageError: it cannot, or they are not of the size of `card`.
    """
    random = torch.Generator().manual_seed(0)
    given: list[Tensor] = [torch.randn(2, latent_dim, generator=random).to(runtime.device, runtime.dtype)]
    if conditional:
        given.append(torch.arange(2, device=runtime.device) % card.num_classes)
    try:
        with as_it_was(generator), torch.no_grad(), runtime.autocast():
            drawn: object = generator.eval()(*given)
    except Exception as error:
        takes = f"latents (2, {latent_dim})" + (" and classes (2,)" if conditional else "")
        raise UsageError(f"generator: given {takes}, it raised {one_line(error)}") from error
    wanted = (2, *card.input_size)
    if not isinstance(drawn, Tensor) or not drawn.is_floating_point() or tuple(drawn.shape) != wanted:
        what = f"images {tuple(drawn.shape)} of {drawn.dtype}" if isinstance(drawn, Tensor) else type(drawn).__name__
        raise UsageError(f"generator: draws {visible(what, VALUE)}; the teacher takes {wanted}, in floating point")
