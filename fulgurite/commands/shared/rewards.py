"""What `--reward` names: a reward model, here or behind an address, a policy trained with DPO, a task's checker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from fulgurite.commands.shared.checkpoint_files import load_module, read_checkpoint
from fulgurite.commands.shared.devices import usable_device
from fulgurite.commands.shared.options import ComputeOptions, RewardOptions
from fulgurite.commands.shared.reward_models import load_reward_scorer, reads_chats
from fulgurite.commands.shared.written_rows import stamp
from fulgurite.console import shortest
from fulgurite.data.encoding.templates import apply_template, lay_stored
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.selection.checker import CheckerReward
from fulgurite.evaluation.selection.endpoint import EndpointReward
from fulgurite.evaluation.selection.model_rewards import ImplicitReward, ModelReward
from fulgurite.evaluation.selection.scorers import Scorer
from fulgurite.evaluation.tasks import find_tasks
from fulgurite.generation.loading import load_for_generation
from fulgurite.models.loading import check_folder

__all__ = ["CHECKER", "load_scorer", "read_as"]

CHECKER = "task:"
_SHOWN = 160  # letters of an example
_BETA = 0.1  # PreferenceModule's default, where no checkpoint tells it; β changes no ranking


def load_scorer(
    verb: str, asked: RewardOptions, compute: ComputeOptions, batch_size: int = 8, how: How | None = None
) -> Scorer:
    """The scorer that a command was asked for.

    Args:
        verb: who asks, for messages.
        asked: the options; `reward` is given.
        compute: dtype, device and permission.
        batch_size: answers of a forward.
        how: programs of a task are run.

    Raises:
        ValueError, FileNotFoundError: nothing that scores, options that do not belong to it, or a model that was trained otherwise.
    """
    name = str(asked.reward)
    if asked.reward_max_length < 2:
        raise ValueError(
            f"{verb}: reward_max_length={asked.reward_max_length}; a prompt with an answer needs 2 and more"
        )
    if name.startswith(("http://", "https://")):
        if asked.reward_served_model is None:
            raise ValueError(
                f"{verb}: {name} without the name of the model there; give --reward_served_model, of a judge --judge_served_model"
            )
        return EndpointReward(name, asked.reward_served_model)
    if asked.reward_served_model is not None:
        raise ValueError(
            f"{verb}: {asked.reward_served_model!r} is the name of a served model, and {name} is no address; give http://…, or "
            "leave the name out"
        )
    if name.startswith(CHECKER):
        return CheckerReward(find_tasks([name.removeprefix(CHECKER)])[0], how)
    policy = asked.reward_reference is not None
    if name.endswith(".ckpt"):
        if policy:
            raise ValueError(
                f"{verb}: --reward_reference {asked.reward_reference} with a checkpoint, which knows its reference; leave it out"
            )
        if _written_by_preferences(name):
            return _of_checkpoint(verb, name, asked, compute, batch_size)
    else:
        if policy:
            return _of_models(verb, asked, compute, batch_size)
        check_folder(resolve_backbone(name))
    if asked.reward_mean:
        raise ValueError(
            f"{verb}: --reward_mean true is for implicit rewards of a policy, and {name} is none; leave it out"
        )
    chat = reads_chats(verb, name, None, asked.reward_template, "reward_")
    scorer = load_reward_scorer(
        verb,
        name,
        asked.reward_template,
        asked.reward_max_length,
        batch_size,
        compute,
        chat,
        asked.reward_whole_chat,
        "reward_",
    )
    identity = _identity(name, scorer.tokenizer, scorer.model, asked)
    return ModelReward(scorer, chat, shortest(name), {**identity, "whole_chat": scorer.reads_behind_the_turn})


def read_as(scorer: Scorer) -> str:
    """A line that shows how a scorer read the first answer.

    Args:
        scorer: that has read one.
    """
    text = str(scorer.example)
    shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} … {text[-_SHOWN // 2 :]}"
    return f"{scorer.name} read the first answer as {shown!r}"


def _written_by_preferences(checkpoint: str) -> bool:
    """Whether the module that wrote a checkpoint trains a policy against a reference."""
    written = read_checkpoint(checkpoint, mmap=True).get("hyper_parameters") or {}
    return str(written.get("_class_path")).rpartition(".")[2] == "PreferenceModule"


def _of_checkpoint(
    verb: str, path: str, asked: RewardOptions, compute: ComputeOptions, batch_size: int
) -> ImplicitReward:
    import torch

    place = usable_device(verb, compute.device)
    module: Any = load_module(path, compute.trust_remote_code)
    module.configure_model()
    chat = reads_chats(verb, path, None, asked.reward_template, "reward_")
    tokenizer = load_tokenizer(module.backbone)
    lay_stored(tokenizer, module.chat_template)
    if chat:
        apply_template(tokenizer, asked.reward_template)
    module = module.to(device=place)
    module = module if compute.dtype is None else module.to(getattr(torch, compute.dtype))
    policy: nn.Module = module.network
    return ImplicitReward(
        policy,
        (lambda: module.preferences.reference.network(policy)) if module.loss.needs_reference else None,
        tokenizer,
        chat,
        shortest(path),
        _identity(path, tokenizer, policy, asked),
        module.loss.beta,
        asked.reward_mean or "simpo" in module.loss.names,  # which trains on means
        asked.reward_max_length,
        batch_size,
    )


def _of_models(verb: str, asked: RewardOptions, compute: ComputeOptions, batch_size: int) -> ImplicitReward:
    place = usable_device(verb, compute.device)
    dtype = compute.dtype or ("float32" if place.type == "cpu" else "bfloat16")
    name, reference = str(asked.reward), str(asked.reward_reference)
    adapter = any((Path(name) / file).is_file() for file in ("adapter.json", "adapter_config.json"))  # ours, PEFT's
    policy = load_for_generation(
        reference if adapter else name, name if adapter else None, asked.reward_template, dtype, str(place)
    )
    base, own = load_for_generation(reference, None, None, dtype, str(place))
    if own.get_vocab() != policy.tokenizer.get_vocab():
        raise ValueError(
            f"{verb}: {shortest(name)} and its reference {shortest(reference)} have tokenizers with other tokens, so that their "
            "log-probabilities are not of the same texts; give the model that --reward was trained from"
        )

    @contextmanager
    def frozen() -> Iterator[nn.Module]:
        yield base

    return ImplicitReward(
        policy.model,
        frozen,
        policy.tokenizer,
        bool(policy.tokenizer.chat_template),
        shortest(name),
        {**_identity(name, policy.tokenizer, policy.model, asked), "reference": [reference, stamp(reference)]},
        _BETA,
        asked.reward_mean,
        asked.reward_max_length,
        batch_size,
    )


def _identity(name: str, tokenizer: Any, model: nn.Module, asked: RewardOptions) -> dict[str, Any]:
    """What rewards depend on beside the texts."""
    return {
        "reward": [name, stamp(name)],
        "template": tokenizer.chat_template,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "max_length": asked.reward_max_length,
    }
