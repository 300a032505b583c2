"""What `fulgurite export` checks with: a probe batch, both forwards in fp32, and the largest difference between them."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fulgurite.adapters import Adapter
from fulgurite.console import say
from fulgurite.data.playground import documents
from fulgurite.models.quantised import quantisation_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["compare", "in_fp32", "logits_of", "merge_checked", "no_progress_bar", "probe", "widened", "with_peft"]


def probe(tokenizer: "PreTrainedTokenizerBase", task: str) -> dict[str, torch.Tensor]:
    """A batch of four texts of different lengths, (4, at most 64) tokens."""
    texts = list(documents(seed=0, count=4))
    encoded = dict(tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt"))
    if task == "seq2seq":
        encoded["decoder_input_ids"] = encoded["input_ids"]
    return encoded


@contextlib.contextmanager
def no_progress_bar() -> Iterator[None]:
    """Within the block transformers draws no progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def widened(network: nn.Module) -> nn.Module:
    """The network with fp32 weights; one whose weights are stored quantised as it is."""
    return network if quantisation_of(network) is not None else network.float()


@contextlib.contextmanager
def in_fp32(network: nn.Module) -> Iterator[None]:
    """Within the block the weights are fp32, unless they are stored quantised; afterwards each has its dtype back."""
    dtypes = {name: parameter.dtype for name, parameter in network.named_parameters()}
    widened(network)
    try:
        yield
    finally:
        for name, parameter in network.named_parameters():
            if parameter.dtype != dtypes.get(name, parameter.dtype):
                parameter.data = parameter.data.to(dtypes[name])


@torch.no_grad()
def logits_of(network: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The network's logits in float32, those of padded positions left out."""
    logits: torch.Tensor = network(**batch).logits
    if "decoder_input_ids" in batch or logits.dim() == 2:
        return logits.float()
    # What stands at padded positions is nobody's prediction.
    return logits[batch["attention_mask"].bool()].float()


def compare(name: str, found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Prints the largest difference, and refuses one above the tolerance."""
    for whose, logits in (("trained", expected), (name, found)):
        if not logits.isfinite().all():
            raise ValueError(
                f"export: the {whose} model computes NaN or infinity, so that its weights are not finite, or overflow; nothing was "
                "written; take an earlier checkpoint, or train again with a lower learning rate"
            )
    largest = expected.abs().max().item()
    difference = (found - expected).abs().max().item()
    relative = difference / largest if largest else difference
    say(f"max |{name} − adapter| = {difference:.1e} ({relative:.1e} of the largest logit)")
    if not relative <= tolerance:
        raise ValueError(
            f"export: the {name} model differs from the trained one by {relative:.1e} of the largest logit, allowed is "
            f"{tolerance:.1e}; nothing was written; a base in bf16 may need a larger --tolerance"
        )


def merge_checked(
    network: nn.Module, adapter: Adapter | None, batch: dict[str, torch.Tensor], tolerance: float
) -> torch.Tensor:
    """Folds the adapter, if there is one, into the weights, takes it off, and returns the logits, which must not have changed.

    Args:
        network: in evaluation mode; in fp32 meanwhile.
        adapter: attached to it, or None.
        batch: of :func:`probe`.
        tolerance: largest difference allowed, relative to the largest logit.
    """
    with in_fp32(network):
        expected = logits_of(network, batch)
        if adapter is not None:
            adapter.merge()
            compare("merged", logits_of(network, batch), expected, tolerance)
            adapter.detach()
    return expected


def with_peft(load_base: Callable[[], nn.Module], folder: Path) -> nn.Module | None:
    """An adapter's folder on a fresh base, loaded by stock PEFT, in fp32; None where PEFT is not installed.

    Args:
        load_base: loads the base.
        folder: of the adapter.
    """
    try:
        from peft import PeftModel
    except ImportError:
        return None
    fresh: Any = widened(load_base())  # computed in fp32 like the figures it is compared with
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT uses names that transformers is about to rename
        loaded: nn.Module = PeftModel.from_pretrained(fresh, str(folder))
    return widened(loaded).eval()
