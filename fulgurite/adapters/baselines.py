"""What APET (arXiv 2306.02320) is compared with beside LoRA: BitFit, bottleneck adapters, soft prompts; and equal budgets.

- BitFit (arXiv 2106.10199): all biases of the base, or ``budget`` of them at random. It is APET over the bias vectors.
- Bottleneck (arXiv 1902.00751): h' = h + gelu(h W_down + b_down) W_up + b_up behind the attention's and the feed-forward's output
  layer of each block; W_up starts at zero, so that the model starts as the base.
- SoftPrompt (arXiv 2104.08691): trained vectors stand before the embedded input: behind the first token for an encoder, so that
  [CLS] stays the one that is pooled, and at the very front elsewhere. PEFT's prompt tuning gives the same outputs for a decoder
  (tested); of an encoder-decoder only the encoder sees the vectors, the decoder attends to the real tokens alone.

:func:`within_budget` gives a method the size at which it trains as many parameters as possible without exceeding a budget.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from fulgurite.adapters.config import APET, AdapterConfig, LoRA
from fulgurite.adapters.eligible import eligible_scalars
from fulgurite.adapters.layer import features
from fulgurite.adapters.targets import find_targets

__all__ = ["BitFit", "Bottleneck", "SoftPrompt", "bitfit_as_apet", "bottleneck_layers", "within_budget"]

# The last linear layer of attention and of the feed-forward part, as the families of transformers call them.
_OUTPUTS = (
    r".*(output\.dense|attention\.dense|attn\.(o_proj|out_proj|c_proj|dense)|attention\.out_lin|Attention\.o|DenseReluDense\.wo"
    r"|down_proj|dense_4h_to_h|mlp\.c_proj|\bfc2|\blin2)"
)


@dataclass(frozen=True)
class BitFit(AdapterConfig):
    """Train biases only (arXiv 2106.10199).

    Args:
        budget: how many bias values, drawn at random; None trains all of them.
        seed: seed of the draw.
        targets: regex that must match the whole name of a bias parameter.
    """

    budget: int | None = None
    seed: int = 0
    targets: str = r".*bias"

    def __post_init__(self) -> None:
        if self.budget is not None and self.budget < 1:
            raise ValueError(f"BitFit: budget={self.budget}; it must be at least 1, or left out for all biases.")
        _check_regex(self, self.targets)


@dataclass(frozen=True)
class Bottleneck(AdapterConfig):
    """A small network behind sublayers: h' = h + gelu(h W_down) W_up (arXiv 1902.00751).

    Args:
        width: of the hidden layer; the paper of APET takes 24.
        targets: "outputs" (the last linear layer of attention and feed-forward in every repeated block), or a regex matched against
            whole module names of linear layers.
    """

    width: int = 24
    targets: str = "outputs"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"Bottleneck: width={self.width}; it must be at least 1.")
        _check_regex(self, self.targets)


@dataclass(frozen=True)
class SoftPrompt(AdapterConfig):
    """Trained vectors before the input (arXiv 2104.08691).

    Args:
        length: number of vectors; the paper of APET takes 100.
        init: "normal" draws them from N(0, 0.1²) as the released code does; "tokens" copies embeddings of random tokens.
    """

    length: int = 100
    init: Literal["normal", "tokens"] = "normal"

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"SoftPrompt: length={self.length}; it must be at least 1.")
        if self.init not in ("normal", "tokens"):
            raise ValueError(f"SoftPrompt: init={self.init!r}; it must be 'normal' or 'tokens'.")


def bitfit_as_apet(model: nn.Module, config: BitFit, train: tuple[str, ...] = ()) -> APET:
    """The APET configuration that trains these biases.

    Raises:
        ValueError: a base without such biases, or fewer than the budget.
    """
    try:
        total = eligible_scalars(model, config.targets, train)
    except ValueError as error:
        raise ValueError(
            f"BitFit: {type(model).__name__} has no parameter that matches targets={config.targets!r}; models without biases "
            "(Llama) cannot be tuned so, take another method."
        ) from error
    if config.budget is not None and config.budget > total:
        raise ValueError(
            f"BitFit: budget={config.budget:,} is above the {total:,} bias values of {type(model).__name__}."
        )
    return APET(budget=config.budget or total, seed=config.seed, targets=config.targets)


def bottleneck_layers(model: nn.Module, config: Bottleneck, train: tuple[str, ...] = ()) -> dict[str, nn.Module]:
    """The layers that a bottleneck follows, by qualified name.

    Raises:
        ValueError: none was found.
    """
    if config.targets != "outputs":
        return find_targets(model, config.targets, train)
    found = {
        name: layer for name, layer in find_targets(model, "all-linear", train).items() if re.fullmatch(_OUTPUTS, name)
    }
    if not found:
        raise ValueError(
            f"Bottleneck: the output layers of attention and feed-forward are not known for {type(model).__name__}; give targets= "
            "a regex of whole module names of linear layers."
        )
    return found


def within_budget(model: nn.Module, config: AdapterConfig, budget: int, train: tuple[str, ...] = ()) -> AdapterConfig:
    """The configuration with the largest rank, width, length or number of biases that trains at most ``budget`` parameters.

    Args:
        model: the base, before attaching.
        config: LoRA, Bottleneck, SoftPrompt, BitFit or APET; everything but the size is kept.
        budget: parameters, those of trained heads not counted.
        train: regexes of the modules that are trained fully.

    Raises:
        ValueError: even the smallest size is above the budget; the message names it.
    """
    if isinstance(config, APET):
        return replace(config, budget=budget)
    if isinstance(config, BitFit):
        total = eligible_scalars(model, config.targets, train)
        return replace(config, budget=min(budget, total))
    fixed, each, most = _cost(model, config, train)
    size = min((budget - fixed) // each, most)
    if size < 1:
        raise ValueError(
            f"within_budget: {type(config).__name__} of the smallest size trains {fixed + each:,} parameters in "
            f"{type(model).__name__}, more than the budget of {budget:,}; raise the budget, or narrow targets."
        )
    made: Callable[[int], AdapterConfig]
    if isinstance(config, LoRA):
        # α grows with the rank, so that the branch's scale α/r stays what it was.
        made = lambda n: replace(config, rank=n, alpha=config.alpha / config.rank * n)  # noqa: E731
    elif isinstance(config, Bottleneck):
        made = lambda n: replace(config, width=n)  # noqa: E731
    else:
        assert isinstance(config, SoftPrompt)
        made = lambda n: replace(config, length=n)  # noqa: E731
    return made(int(size))


def _cost(model: nn.Module, config: AdapterConfig, train: tuple[str, ...]) -> tuple[int, int, int]:
    """(parameters at any size, parameters per unit of size, largest size)."""
    if isinstance(config, LoRA):
        sides = [features(layer) for layer in find_targets(model, config.targets, train).values()]
        return 0, sum(k + n for k, n in sides), min(min(pair) for pair in sides)
    if isinstance(config, Bottleneck):
        widths = [features(layer)[1] for layer in bottleneck_layers(model, config, train).values()]
        return sum(widths), sum(2 * n + 1 for n in widths), 2**20
    if isinstance(config, SoftPrompt):
        return 0, embedding_of(model).weight.shape[1], 2**20
    raise ValueError(
        f"within_budget: {type(config).__name__} has no size to choose; allowed are APET, BitFit, Bottleneck, LoRA and SoftPrompt."
    )


def embedding_of(model: nn.Module) -> nn.Embedding:
    """The input embedding of a transformers model (anything with ``get_input_embeddings``).

    Raises:
        ValueError: there is none.
    """
    get: Any = getattr(model, "get_input_embeddings", None)
    try:
        embedding = get() if callable(get) else None
    except NotImplementedError:  # models of pictures or sound
        embedding = None
    if not isinstance(embedding, nn.Module) or not isinstance(getattr(embedding, "weight", None), torch.Tensor):
        raise ValueError(f"SoftPrompt: {type(model).__name__} has no get_input_embeddings() that gives an embedding.")
    return embedding  # type: ignore[return-value]


def _check_regex(config: AdapterConfig, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"{type(config).__name__}: targets={pattern!r} is no valid regular expression ({error})."
        ) from None
