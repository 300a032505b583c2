"""Log-likelihoods of choices with each question computed once: a third of the tokens of `fulgurite evaluate`, the same figures."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch

from fulgurite.evaluation.likelihood import ChoiceLikelihoods, encode_pair
from fulgurite.evaluation.tasks.task import Item
from fulgurite.kernels import linear_log_probs
from fulgurite.models import find_decoder, head_options
from fulgurite.models.heads import usable_head
from fulgurite.models.modes import evaluation_mode

__all__ = ["likelihoods"]


@torch.no_grad()
def likelihoods(model: Any, tokenizer: Any, items: Sequence[Item], batch_size: int = 16) -> list[ChoiceLikelihoods]:
    """Of each item, in order. The keys and values of the question serve all of its choices.

    Args:
        model: a causal language model on the CPU whose head is a plain linear layer, and which takes position_ids.
        tokenizer: its tokenizer.
        items: with choices; question and choice together fit the model's window.
        batch_size: questions at a time.
    """
    pairs = [[encode_pair(tokenizer, item.prompt, choice) for choice in item.choices] for item in items]
    if any(before != own[0][0] for own in pairs for before, _ in own):
        raise ValueError("likelihoods: the choices of an item begin within the question's last token; use ModelScorer")
    proved: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
    order = sorted(range(len(items)), key=lambda i: -len(pairs[i][0][0]))
    found: dict[int, ChoiceLikelihoods] = {}
    with evaluation_mode(model):
        head = usable_head(model, proved)
        if head is None:
            raise ValueError("likelihoods: the model's head is no plain linear layer; use ModelScorer")
        for at in range(0, len(order), batch_size):
            part = order[at : at + batch_size]
            questions = [pairs[i][0][0] for i in part]
            choices = [(place, after) for place, i in enumerate(part) for _, after in pairs[i]]
            sums = _sums(find_decoder(model), head, questions, choices)
            for place, i in enumerate(part):
                own = [value for (owner, _), value in zip(choices, sums, strict=True) if owner == place]
                found[i] = ChoiceLikelihoods(own, [len(after) for _, after in pairs[i]])
    return [found[i] for i in range(len(items))]


def _sums(decoder: Any, head: Any, questions: list[list[int]], choices: list[tuple[int, list[int]]]) -> list[float]:
    """Log-likelihood of each choice; a choice is the place of its question and its tokens."""
    from transformers import DynamicCache

    ids, mask = _padded(questions)
    cache: Any = DynamicCache(config=decoder.config)
    read = decoder(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True).last_hidden_state
    owners = torch.tensor([owner for owner, _ in choices])
    lengths = mask.sum(1)
    states = read[torch.arange(len(ids)), lengths - 1][owners][:, None]
    targets, wanted = _padded([after for _, after in choices])
    if targets.shape[1] > 1:
        cache.batch_select_indices(owners)
        rest = targets[:, :-1]
        seen = torch.cat([mask[owners], wanted[:, :-1]], 1)
        places = lengths[owners][:, None] + torch.arange(rest.shape[1])
        answer = decoder(
            input_ids=rest, attention_mask=seen, position_ids=places, past_key_values=cache, use_cache=True
        )
        states = torch.cat([states, answer.last_hidden_state], 1)
    counted = wanted.bool()
    values = linear_log_probs(states[counted], head.weight, targets[counted], **head_options(head))
    return [float(part.double().sum()) for part in values.split(counted.sum(1).tolist())]


def _padded(rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, (rows, longest), zeros behind."""
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    return ids, mask
