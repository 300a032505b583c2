"""Reward models as commands name them: a checkpoint of RewardModule, or a folder or hub id in either layout, with its tokenizer.

A reward model is asked as it was trained, under its own chat template or on plain texts; whoever asks otherwise is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fulgurite.commands.shared.checkpoint_files import load_module, read_checkpoint, tell_other_template
from fulgurite.commands.shared.devices import usable_device
from fulgurite.commands.shared.options import ComputeOptions
from fulgurite.console import say, shortest
from fulgurite.data.encoding.templates import NO_TEMPLATE, apply_template, lay_stored
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.evaluation.reward_scoring import RewardScorer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["load_reward_scorer", "reads_chats"]


def reads_chats(verb: str, model: str, asked: bool | None, template: str | None, lead: str = "") -> bool:
    """Whether plain texts are scored under a chat template: as the model was trained, and nothing else.

    Args:
        verb: who asks, for messages.
        model: a checkpoint, folder or hub id.
        asked: what the user says; None leaves it to the model.
        template: that the user gives.
        lead: what the verb's options for it begin with, for messages.

    Raises:
        ValueError: a checkpoint that was trained otherwise.
    """
    if template == NO_TEMPLATE:
        asked = False if asked is None else asked
    if not model.endswith(".ckpt"):
        if asked is not None or template is not None:
            return asked is not False
        return bool(load_tokenizer(model).chat_template)
    trained = read_checkpoint(model, mmap=True).get("chat_template") != NO_TEMPLATE
    if asked not in (None, trained) or (template not in (None, NO_TEMPLATE) and not trained):
        how = "under a chat template" if trained else "on plain text, without a chat template"
        raise ValueError(
            f"{verb}: {shortest(model)} was trained {how}, and its rewards mean nothing otherwise; leave "
            f"{'' if lead else '--as_chat and '}--{lead}template out"
        )
    return trained


def load_reward_scorer(
    verb: str,
    model: str,
    template: str | None,
    max_length: int,
    batch_size: int,
    compute: ComputeOptions,
    as_chat: bool,
    whole_chat: bool | None,
    lead: str = "",
) -> RewardScorer:
    """A reward model, ready to score.

    Args:
        verb: who asks, for messages.
        model: a checkpoint of RewardModule, or a reward model's folder or hub id.
        template: chat template; None takes the stored one.
        max_length: tokens of prompt and answer at most.
        batch_size: answers of a forward.
        compute: dtype, device and permission.
        as_chat: as `reads_chats` says.
        whole_chat: read the reward behind all that the template writes; None takes the end of the turn, and says so where the
            template of a folder writes more.
        lead: what the verb's options for it begin with, for messages.

    Raises:
        ValueError: a checkpoint of another module; weights without a reward head.
    """
    from fulgurite.lightning_modules.reward import RewardModule
    from fulgurite.models import load_reward_model

    place = usable_device(verb, compute.device)
    tokenizer: PreTrainedTokenizerBase
    if model.endswith(".ckpt"):
        module = load_module(model, compute.trust_remote_code)
        module.configure_model()
        if not isinstance(module, RewardModule) or module.network is None:
            raise ValueError(
                f"{verb}: {shortest(model)} was written by {type(module).__name__}, which gives no rewards; give a checkpoint of "
                "RewardModule"
            )
        network = module.network
        tokenizer = load_tokenizer(module.backbone)
        lay_stored(tokenizer, module.chat_template)
        network = network if compute.dtype is None else network.to(getattr(torch, compute.dtype))
    else:
        dtype = compute.dtype or ("float32" if place.type == "cpu" else "bfloat16")
        folder = resolve_backbone(model)
        network = load_reward_model(
            folder, dtype=dtype, require_head=True, trust_remote_code=compute.trust_remote_code
        ).model
        tokenizer = load_tokenizer(model)
    if as_chat:
        trained = tokenizer.chat_template
        apply_template(tokenizer, template)
        if model.endswith(".ckpt"):
            tell_other_template(model, trained, tokenizer.chat_template)
    scorer = RewardScorer(network.to(place), tokenizer, max_length, batch_size, bool(whole_chat))
    if whole_chat is None and not model.endswith(".ckpt") and scorer.writes_behind_the_turn():
        say(
            f"rewards are read at the end of the last turn, behind which the chat template of {shortest(model)} writes more: right "
            f"for models of `fulgurite fit`; give --{lead}whole_chat true for one that was trained with TRL or the like"
        )
    return scorer
