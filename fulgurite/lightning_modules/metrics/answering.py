"""Text-to-text tasks in validation and test: classes by the likelihood of their labels, answers by generating them.

If a task has classes, every verbalised label is appended to every prompt, and the label with the largest log-likelihood, summed
over its tokens and its end token, is the prediction. Other tasks generate their answers greedily and compare them with the right
answers (:mod:`fulgurite.evaluation.answers`). The datamodule says which kind a task is (`choices`, `generates`, `references`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torchmetrics
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from fulgurite.evaluation.answers import ANSWER_METRICS
from fulgurite.generation.texts import generate_from_ids
from fulgurite.generation.writers import GenerationSettings
from fulgurite.lightning_modules.objectives.step import Batch, Objective

__all__ = ["AnswerMetrics", "Answers", "answer", "choose", "prompt_ids"]

IGNORE = -100


class Answers(NamedTuple):
    """The answers to a batch, in its order: classes (B,) of a task that has classes, texts of any other."""

    classes: torch.Tensor | None
    texts: list[str] | None


class AnswerMetrics(nn.Module):
    """Means over rows of those metrics of :data:`fulgurite.evaluation.answers.ANSWER_METRICS` that are asked for.

    Args:
        names: of the metrics that are wanted; names of other kinds of metrics are passed over.
        prefix: put before each name, such as "val_".
    """

    def __init__(self, names: tuple[str, ...], prefix: str) -> None:
        super().__init__()
        self.names = tuple(name for name in names if name in ANSWER_METRICS)
        self.metrics = nn.ModuleList(torchmetrics.MeanMetric() for _ in self.names)
        self.prefix = prefix

    def update(self, texts: list[str], references: list[tuple[str, ...]]) -> None:
        """Take answers in; rows without a right answer do not count."""
        known = [(text, right) for text, right in zip(texts, references, strict=True) if right]
        for name, metric in zip(self.names, self.metrics, strict=True):
            for text, right in known:
                metric.update(ANSWER_METRICS[name](text, right))  # type: ignore[operator]

    def named(self) -> dict[str, Any]:
        """The metrics by the name they are logged under."""
        return {self.prefix + name: metric for name, metric in zip(self.names, self.metrics, strict=True)}


def answer(network: nn.Module, objective: Objective, batch: Batch, data: Any, seq2seq: bool) -> Answers | None:
    """The predictions for a text-to-text batch; None for other batches, and where nothing is to be generated.

    Args:
        network: the language model.
        objective: its :class:`~fulgurite.lightning_modules.objectives.language.LanguageModelling`.
        batch: with `row`, its rows' positions in their split.
        data: the datamodule, of the tasks.
        seq2seq: whether the network is an encoder-decoder.
    """
    if "row" not in batch or not hasattr(data, "choices"):
        return None
    prompts = prompt_ids(batch, seq2seq)
    choices = data.choices()
    if choices is not None:
        return Answers(choose(network, objective, prompts, choices, seq2seq), None)
    if not data.generates:
        return None
    settings = GenerationSettings(max_new_tokens=data.max_answer_length, batch_size=len(prompts))
    texts = generate_from_ids(network, data.load_tokenizer(), prompts, settings)
    return Answers(None, [several[0].strip() for several in texts])


def prompt_ids(batch: Batch, seq2seq: bool) -> list[list[int]]:
    """The ids before each answer of a padded batch."""
    lengths = batch["attention_mask"].sum(1)
    if not seq2seq:
        supervised = batch["labels"] != IGNORE
        first = torch.where(supervised.any(1), supervised.int().argmax(1), lengths)
        lengths = torch.minimum(first, lengths)
    rows = zip(batch["input_ids"].tolist(), lengths.tolist(), strict=True)
    return [ids[:length] for ids, length in rows]


@torch.no_grad()
def choose(
    network: nn.Module, objective: Objective, prompts: list[list[int]], choices: list[list[int]], seq2seq: bool
) -> torch.Tensor:
    """Index of the likeliest choice behind each prompt, (B,) int64; of equal ones the first."""
    device = next(network.parameters()).device
    scores = torch.empty(len(prompts), len(choices))
    for at, choice in enumerate(choices):
        rows = prompts if seq2seq else [prompt + choice for prompt in prompts]
        labels = [choice if seq2seq else [IGNORE] * len(prompt) + choice for prompt in prompts]
        batch = {
            "input_ids": _pad(rows, 0).to(device),
            "attention_mask": _pad([[1] * len(row) for row in rows], 0).to(device),
            "labels": _pad(labels, IGNORE).to(device),
        }
        losses = objective(network, batch).token_losses
        assert losses is not None
        scores[:, at] = -losses.view(len(prompts), len(choice)).sum(1).float().cpu()
    return scores.argmax(1)


def _pad(rows: list[list[int]], value: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)
