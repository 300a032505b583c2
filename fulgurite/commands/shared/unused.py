"""Options that would change nothing beside the others: whoever types one expects an effect, so it is refused and not passed over.

An option that stands at its default counts as not given: a verb cannot tell whether it was typed.
"""

from __future__ import annotations

from typing import Any

from fulgurite.commands.shared.options import ComputeOptions, DrawingOptions, SourceOptions

__all__ = ["COLD", "Options", "cutting_options", "model_options", "refuse_unused"]

Options = dict[str, tuple[object, object]]  # by name, the value and the default
COLD = "with temperature 0, which always takes the likeliest token"
_LONGEST = 60  # letters of a value in a message


def refuse_unused(verb: str, why: str, **options: tuple[object, object]) -> None:
    """Refuses options that were given and have no effect.

    Args:
        verb: who asks, for the message.
        why: what the message says behind "no effect", such as "without --server".
        options: by name, the value and the default.

    Raises:
        ValueError: one of them is not at its default.
    """
    given = [f"--{name} {_typed(value)}" for name, (value, default) in options.items() if value != default]
    if given:
        has, it = ("has", "it") if len(given) == 1 else ("have", "them")
        raise ValueError(f"{verb}: {' and '.join(given)} {has} no effect {why}; leave {it} out, or correct the command")


def _typed(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)[:_LONGEST]


def cutting_options(drawing: DrawingOptions) -> Options:
    """The options that cut the distribution that tokens are drawn from.

    Args:
        drawing: as they were given.
    """
    return {name: (getattr(drawing, name), getattr(DrawingOptions, name)) for name in ("top_p", "top_k")}


def model_options(given: Any) -> Options:
    """The options of a model in this process: its template, where and how it computes.

    Args:
        given: with the fields of SourceOptions, ComputeOptions and DrawingOptions.
    """
    found: Options = {"template": (given.template, SourceOptions.template)}
    found |= {
        name: (getattr(given, name), getattr(ComputeOptions, name)) for name in ("dtype", "device", "trust_remote_code")
    }
    return found | {"batch_size": (given.batch_size, DrawingOptions.batch_size)}
