"""Writing a reward model as a folder, in either of the two layouts of :mod:`fulgurite.models.reward.layouts`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fulgurite.models.loading import quiet
from fulgurite.models.reward.layouts import SHARD_SIZE
from fulgurite.models.reward.model import RewardModel

__all__ = ["save_reward_model", "save_sequence_classification"]


def save_reward_model(model: RewardModel, folder: Path) -> None:
    """Write ``model.*`` and ``regression_head.weight`` as safetensors, in shards of 5 GB, with the backbone's configuration.

    Args:
        model: without an adapter (merged and detached).
        folder: where to; is there.
    """
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(model.state_dict(), folder, max_shard_size=SHARD_SIZE)
    config = copy.deepcopy(model.config)
    config.architectures = [f"{type(model.model).__name__.removesuffix('Model')}RewardModel"]
    config.save_pretrained(folder)


def save_sequence_classification(
    model: RewardModel, folder: Path, pad_token_id: int | None, last_token_ids: set[int]
) -> None:
    """Write transformers' …ForSequenceClassification with one label.

    Args:
        model: of a causal architecture, without an adapter.
        folder: where to; is there.
        pad_token_id: of the tokenizer that goes with it.
        last_token_ids: the ids that texts may end with.

    Raises:
        ValueError: the architecture has no such class or its head is another; padding that reads as the end of a text.
    """
    import transformers

    config = copy.deepcopy(model.config)
    config.num_labels, config.pad_token_id = 1, pad_token_id
    name = type(model.model).__name__
    try:
        with torch.device("meta"):
            whole: Any = transformers.AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        whole = None
    score = getattr(whole, "score", None)
    if not isinstance(score, nn.Linear) or score.bias is not None:
        found = "none at all" if whole is None else "one that reads the first token"
        raise ValueError(
            f"save_sequence_classification: of {name} transformers has {found}, not a head on the last token; use the layout "
            "regression_head, or train with head='classifier'."
        )
    if pad_token_id is None or pad_token_id in last_token_ids:
        raise ValueError(
            f"save_sequence_classification: the tokenizer pads with token {pad_token_id}, which is also what texts end with; "
            "transformers would read the reward one token too early. Give the tokenizer a padding token of its own, or use the "
            "layout regression_head."
        )
    setattr(whole, whole.base_model_prefix, model.model)
    whole.score.weight = nn.Parameter(model.regression_head.weight.detach().clone())
    with quiet():
        whole.save_pretrained(folder, max_shard_size=SHARD_SIZE)
