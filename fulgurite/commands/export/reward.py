"""A trained reward model as a plain checkpoint, in transformers' layout or UltraRM's; written, loaded again and compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fulgurite.commands.export.checks import compare, in_fp32, logits_of, merge_checked, no_progress_bar, probe
from fulgurite.console import say
from fulgurite.data.encoding.answer_spans import end_with_the_turn
from fulgurite.data.encoding.conversations import ConversationEncoder, Omission
from fulgurite.data.records.conversation import Conversation, Turn
from fulgurite.models import RewardModel, load_reward_model, save_reward_model, save_sequence_classification

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fulgurite.lightning_modules import FinetuneModule

__all__ = ["write_reward_model"]


def write_reward_model(
    module: "FinetuneModule", tokenizer: "PreTrainedTokenizerBase", folder: Path, layout: str | None, tolerance: float
) -> None:
    """Writes the merged weights with the head.

    Args:
        module: of a checkpoint; its adapter is taken off.
        tokenizer: that goes with it; gets another padding token where texts end with the one that it has.
        folder: where to.
        layout: one of fulgurite.models.LAYOUTS; None takes sequence_classification where transformers has it.
        tolerance: largest difference allowed, relative to the largest reward.
    """
    network, adapter = module.network, module.adapter
    assert isinstance(network, RewardModel)
    network.eval()
    if tokenizer.chat_template:
        end_with_the_turn(tokenizer)
        _prove_rendering(tokenizer)
    batch = probe(tokenizer, module.task)
    merge_checked(network, adapter, batch, tolerance)
    ends = _ends(tokenizer)
    chosen = layout or "sequence_classification"
    if chosen == "sequence_classification":
        try:
            _pad_apart(tokenizer, ends)
            with no_progress_bar():
                save_sequence_classification(network, folder, _pad(tokenizer), ends)
        except ValueError as error:
            if layout is not None:
                raise
            say(f"{error}", "taking the layout regression_head")
            chosen = "regression_head"
    if chosen == "regression_head":
        save_reward_model(network, folder)
    stored = next(network.parameters()).dtype
    again = load_reward_model(str(folder), dtype="float32", require_head=True).model.eval()
    # Both from what was stored: rounded weights give rounded rewards.
    with in_fp32(network):
        stored_rewards = logits_of(network, batch)
        compare(f"reloaded ({chosen})", logits_of(again, batch), stored_rewards, tolerance)
    if chosen == "sequence_classification":
        compare("transformers' own", _by_transformers(folder, tokenizer, batch), stored_rewards, tolerance)
    if stored != torch.float32:
        say(f"the weights are stored in {stored}, as the base was; the figures above are those of float32")


def _prove_rendering(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Everybody's call, `apply_chat_template(messages)`, must give the tokens whose last one our rewards are read at."""
    turns = [
        Turn("user", "What is 2 + 3?"),
        Turn("assistant", "Five."),
        Turn("user", "Sure?"),
        Turn("assistant", "Yes."),
    ]
    (row,) = ConversationEncoder(tokenizer, 1 << 20, "last").encode([Conversation(tuple(turns), "export", 1)])[0]
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    stock = tokenizer.apply_chat_template(messages, return_dict=False)
    if isinstance(row, Omission) or row.input_ids != stock:
        say(
            "apply_chat_template(messages) of this tokenizer gives other tokens than those that the rewards were trained on, so "
            "that other programs read other rewards; score with `fulgurite score`, or render chats up to the end of the last turn"
        )
    else:
        say("apply_chat_template(messages) ends where the rewards are read: checked on a chat of two turns")


def _by_transformers(
    folder: Path, tokenizer: "PreTrainedTokenizerBase", batch: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Rewards by AutoModelForSequenceClassification, which looks for the padding token and not at the mask."""
    from transformers import AutoModelForSequenceClassification

    with no_progress_bar():
        model: Any = AutoModelForSequenceClassification.from_pretrained(folder)
    ids = batch["input_ids"].masked_fill(~batch["attention_mask"].bool(), _pad(tokenizer) or 0)
    return logits_of(model.float().eval(), {**batch, "input_ids": ids})


def _ends(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """The ids that a text of training may end with: eos, sep, and what the chat template ends an answer with."""
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id}
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
        ends.update(tokenizer(text.rstrip(), add_special_tokens=False)["input_ids"][-1:])
    return {int(end) for end in ends if isinstance(end, int)}


def _pad_apart(tokenizer: "PreTrainedTokenizerBase", ends: set[int]) -> None:
    """Pads with the unknown token where the padding token ends texts; transformers could not tell the two apart."""
    if _pad(tokenizer) in ends and isinstance(tokenizer.unk_token_id, int) and tokenizer.unk_token_id not in ends:
        say(f"padding with {tokenizer.unk_token!r}: {tokenizer.pad_token!r} is what texts end with")
        tokenizer.pad_token = tokenizer.unk_token


def _pad(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    return tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else None
