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

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from fulgurite.adapters.config import APET, AdapterConfig, BitFit, Bottleneck, LoRA, SoftPrompt
from fulgurite.adapters.inserted.places import bottleneck_layers, embedding_of
from fulgurite.adapters.layers.layer import features
from fulgurite.adapters.layers.targets import find_targets
from fulgurite.adapters.sparse.eligible import eligible_scalars

__all__ = ["within_budget"]


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
