"""A reward model of the playground's size, as a folder."""

from __future__ import annotations

from pathlib import Path

import torch

from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.models import load_reward_model, save_reward_model

__all__ = ["reward_folder"]


def reward_folder(folder: Path, seed: int = 0, scale: float = 1.0) -> str:
    """A reward model with a random head on the playground's base; with scale 0 every reward is 0.

    Args:
        folder: where to.
        seed: of the head.
        scale: of the head.
    """
    torch.manual_seed(seed)
    model = load_reward_model(resolve_backbone("playground")).model
    with torch.no_grad():
        model.regression_head.weight.copy_(torch.randn_like(model.regression_head.weight) * scale)
    folder.mkdir(parents=True, exist_ok=True)
    save_reward_model(model, folder)
    load_tokenizer("playground").save_pretrained(folder)
    return str(folder)
