"""Log-probabilities of whole answers under a language model.

They are a score that needs no further model (an answer's mean per token, the baseline of fusion that chooses among whole
answers), and what the implicit reward of a DPO policy is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fulgurite.data.encoding.conversations import ConversationEncoder, EncodedConversation, Omission
from fulgurite.data.records.conversation import Conversation, Turn
from fulgurite.kernels import linear_log_probs
from fulgurite.models import find_decoder, head_options, output_head
from fulgurite.models.modes import evaluation_mode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["answer_log_probs", "summed_log_probs"]


@torch.no_grad()
def answer_log_probs(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    answers: Sequence[str],
    batch_size: int = 16,
    max_length: int = 2048,
) -> torch.Tensor:
    """Mean log-probability per token of each answer, its end of turn included, (N,) float32 on the CPU; -inf for no answer.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer with a chat template.
        prompts: N questions.
        answers: an answer to each.
        batch_size: rows that are computed at once.
        max_length: tokens of a prompt with its answer; longer ones lose their end.
    """
    if len(prompts) != len(answers):
        raise ValueError(
            f"answer_log_probs: {len(prompts)} prompts and {len(answers)} answers; give one answer for each prompt"
        )
    found = torch.full((len(answers),), -torch.inf)
    encoder = ConversationEncoder(tokenizer, max_length, "last", "cut", plain=True)
    places = [i for i, answer in enumerate(answers) if answer]
    conversations = [
        Conversation((Turn("user", prompts[i]), Turn("assistant", answers[i])), "answers", i + 1) for i in places
    ]
    rows = [(i, row[0]) for i, row in zip(places, encoder.encode(conversations), strict=True)]
    with evaluation_mode(model):
        for at in range(0, len(rows), batch_size):
            part = [(i, row) for i, row in rows[at : at + batch_size] if not isinstance(row, Omission)]
            if part:
                sums, tokens = summed_log_probs(model, [row for _, row in part])
                found[[i for i, _ in part]] = sums / tokens
    return found


@torch.no_grad()
def summed_log_probs(model: nn.Module, rows: Sequence[EncodedConversation]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the log-probabilities of each row's supervised tokens, and how many these are; (N,) float32, on the CPU.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        rows: N encoded conversations, computed as one batch padded on the right.
    """
    device = next(model.parameters()).device
    width = max(len(row.input_ids) for row in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.int64)
    mask, targets = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        size = len(row.input_ids)
        ids[i, :size], mask[i, :size] = torch.tensor(row.input_ids), 1
        marked = torch.tensor(row.supervised)
        targets[i, :size][marked] = ids[i, :size][marked]
    targets = targets[:, 1:].to(device)
    inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    states = find_decoder(model)(**inputs, use_cache=False).last_hidden_state[:, :-1]
    head = output_head(model)
    if head is None:
        logits = model(**inputs, use_cache=False).logits[:, :-1].float().log_softmax(-1)
        tokens = logits.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1).masked_fill(targets < 0, 0)
    else:
        tokens = linear_log_probs(states, head.weight, targets, **head_options(head))
    return tokens.sum(-1).float().cpu(), (targets >= 0).sum(-1).float().cpu()
