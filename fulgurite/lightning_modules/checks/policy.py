"""Options of reinforcement learning that contradict each other or that would be ignored, and runs that it cannot train."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from fulgurite.lightning_modules.rollouts.credit import ESTIMATORS
from fulgurite.losses.policy import KL_ESTIMATES
from fulgurite.models.sizes import positions_of

__all__ = ["check_estimator", "check_kl", "check_run", "check_sampling", "check_window"]

# Options that one estimator alone reads: given with another they would be ignored without a word.
_ONLY = {
    "gae": ("gamma", "gae_lambda", "whiten", "value_weight", "value_clip", "value_learning_rate"),
    "group": ("advantage_scale",),
    "reinforce": ("baseline_decay",),
}
_AT_LEAST_ONE = ("answers", "drawn_at_once", "inner_epochs", "minibatches", "token_budget")


def check_estimator(cls: type, given: Mapping[str, Any]) -> None:
    """Refuse options that the chosen advantage ignores, and numbers out of their range.

    Args:
        cls: the module's class, which knows the defaults.
        given: its arguments.

    Raises:
        ValueError: the first that is wrong.
    """
    chosen = given["advantage"]
    if chosen not in ESTIMATORS:
        raise ValueError(f"RLModule: advantage={chosen!r}; allowed are {', '.join(map(repr, ESTIMATORS))}")
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    for estimator, names in _ONLY.items():
        for name in names:
            if estimator != chosen and given[name] != parameters[name].default:
                raise ValueError(
                    f"RLModule: {name}={given[name]!r} is read by advantage {estimator!r}, not by {chosen!r}; leave it out, or "
                    "take that advantage"
                )
    for name in _AT_LEAST_ONE:
        if given[name] < 1:
            raise ValueError(f"RLModule: {name}={given[name]}; it must be at least 1")
    if chosen in ("rloo", "group") and given["answers"] < 2:
        raise ValueError(
            f"RLModule: answers={given['answers']} with advantage {chosen!r}, which compares answers; give at least 2"
        )
    if given["redraw_groups"] < 0 or (given["redraw_groups"] and chosen not in ("rloo", "group")):
        raise ValueError(
            f"RLModule: redraw_groups={given['redraw_groups']} with advantage {chosen!r}; allowed are 0 and, with 'rloo' and "
            "'group', which learn nothing from equal rewards, numbers above 0; leave it out"
        )
    ranges = (
        ("gamma", 0 <= given["gamma"] <= 1, "0 to 1"),
        ("gae_lambda", 0 <= given["gae_lambda"] <= 1, "0 to 1"),
        ("baseline_decay", 0 <= given["baseline_decay"] < 1, "0 up to, not including, 1"),
        ("value_weight", 0 < given["value_weight"] < float("inf"), "numbers above 0"),
        ("value_clip", 0 < given["value_clip"] < float("inf"), "numbers above 0"),
        ("value_learning_rate", (given["value_learning_rate"] or 1) > 0, "numbers above 0"),
        ("max_grad_norm", 0 <= given["max_grad_norm"] < float("inf"), "0 (no clipping) and more"),
    )
    for name, fine, allowed in ranges:
        if not fine:
            raise ValueError(f"RLModule: {name}={given[name]}; allowed are {allowed}")


def check_sampling(given: Mapping[str, Any]) -> None:
    """Refuse draws that would all be the same, and two ways at once to treat cut answers.

    Args:
        given: the module's arguments.

    Raises:
        ValueError: temperature 0, or mask_truncated with truncation_penalty, or a correction that does not exist.
    """
    if given["temperature"] == 0:
        raise ValueError(
            "RLModule: temperature=0 draws the likeliest answer each time; give a temperature above 0, such as 1"
        )
    if given["mask_truncated"] and given["truncation_penalty"]:
        raise ValueError(
            "RLModule: mask_truncated and truncation_penalty were both given; cut answers are left out or punished"
        )
    if not 0 <= given["truncation_penalty"] < float("inf"):
        raise ValueError(f"RLModule: truncation_penalty={given['truncation_penalty']}; allowed are numbers from 0")
    kinds = ("token", "sequence", "none")
    if given["correction"] not in kinds:
        raise ValueError(f"RLModule: correction={given['correction']!r}; allowed are {', '.join(map(repr, kinds))}")
    if not 1 <= given["correction_cap"] < float("inf"):
        raise ValueError(f"RLModule: correction_cap={given['correction_cap']}; it must be at least 1")


def check_kl(beta: float, given_in: str | None, given_estimate: str | None, kl_in: str, estimate: str) -> None:
    """Refuse a weight of KL that the loss would ignore, and options of KL without a weight.

    Args:
        beta: its weight.
        given_in: kl_in as it was given.
        given_estimate: kl_estimate as it was given.
        kl_in: where KL is.
        estimate: what estimates it.

    Raises:
        ValueError: the first that is wrong.
    """
    if kl_in not in ("reward", "loss"):
        raise ValueError(f"RLModule: kl_in={kl_in!r}; allowed are 'reward' and 'loss'")
    if estimate not in KL_ESTIMATES:
        raise ValueError(f"RLModule: kl_estimate={estimate!r}; allowed are {', '.join(map(repr, KL_ESTIMATES))}")
    if beta == 0 and (given_in is not None or given_estimate is not None):
        raise ValueError(
            "RLModule: kl_in or kl_estimate with beta=0, where KL has no weight; give beta above 0, or leave them out"
        )
    if beta > 0 and kl_in == "loss" and estimate == "k1":
        raise ValueError(
            f"RLModule: beta={beta} with kl_estimate 'k1' in the loss, whose gradient is 0 on average: beta would be ignored; "
            "take k2 or k3 in the loss, or k1 in the reward"
        )


def check_window(model: nn.Module, backbone: str, data: Any, new_tokens: int) -> None:
    """Refuse prompts behind which an answer has no room.

    Args:
        model: what is trained.
        backbone: its name.
        data: the datamodule, or None.
        new_tokens: of an answer at most.

    Raises:
        ValueError: the longest prompt and answer together are longer than the model's positions.
    """
    longest, most = getattr(data, "longest_prompt", None), positions_of(model)
    if longest is not None and most is not None and longest + new_tokens > most:
        raise ValueError(
            f"RLModule: the longest prompt has {longest} tokens and an answer up to {new_tokens}, but {backbone!r} knows {most} "
            f"positions; give --data.max_length {most - new_tokens} or a smaller max_new_tokens"
        )


def check_run(trainer: Any, stage: str) -> None:
    """Refuse a fit that this module does not train: float16 with a loss scale.

    Args:
        trainer: Lightning's.
        stage: fit, validate, test or predict.

    Raises:
        ValueError: it is such a fit.
    """
    if stage == "fit" and trainer.precision == "16-mixed":
        raise ValueError(
            "RLModule: precision 16-mixed scales the loss, which its own optimizer steps do not undo; take bf16-mixed or 32-true"
        )
