"""Rewards of answers: checkers of the evaluation's tasks, reward models, functions of one's own; several of them, weighted.

A reward gives one number per answer. NaN says that it has no opinion: the answer is left out and counted, never read as 0. A reward
that raises, gives another number of values, or says nothing about any answer stops the run with its name.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_warn

from fulgurite.data.encoding.templates import NO_TEMPLATE, apply_template, lay_stored
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.data.records.item import Item
from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.reward_scoring import RewardScorer
from fulgurite.evaluation.selection.checker import CheckerReward
from fulgurite.evaluation.selection.model_rewards import ModelReward
from fulgurite.evaluation.selection.scorers import Asked, Scorer
from fulgurite.evaluation.tasks import TASKS, Task
from fulgurite.lightning_modules.checks.hyperparameters import overruled, public_path
from fulgurite.lightning_modules.checks.named_classes import refuse_local_classes
from fulgurite.lightning_modules.reward import RewardModule
from fulgurite.lightning_modules.rollouts.drawing import Group
from fulgurite.models import load_reward_model
from fulgurite.models.weight_files import check_finite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["REWARDS", "Rewards", "register_reward"]

RewardFunction = Callable[[Sequence[Group]], Sequence[Sequence[float]]]

REWARDS: dict[str, RewardFunction] = {}


def register_reward(name: str, function: RewardFunction) -> None:
    """Let ``RLModule(rewards=name)`` ask a function of groups, which returns the rewards of each group's answers.

    Raises:
        ValueError: another reward, or a task of the evaluation, has this name.
    """
    if REWARDS.get(name, function) is not function or name in TASKS:
        raise ValueError(f"register_reward: {name!r} is the name of another reward; choose another name")
    REWARDS[name] = function


class Rewards:
    """Several rewards and their weighted sum.

    Args:
        names: of tasks of `fulgurite evaluate` whose answers are judged (gsm8k, mbpp, …), of registered rewards, "module:function",
            or reward models: a .ckpt file of RewardModule, a folder or a hub id.
        weights: factor of each; None: 1 each.
        sandbox: how generated programs are held, see :class:`fulgurite.evaluation.judging.verdicts.How`.
        batch_size: rows of a reward model's forward.

    Raises:
        ValueError: a name that means nothing, or weights of another number.
    """

    def __init__(
        self, names: Sequence[str], weights: Sequence[float] | None = None, sandbox: str = "auto", batch_size: int = 16
    ) -> None:
        weights = [1.0] * len(names) if weights is None else list(weights)
        if not names or len(weights) != len(names) or len(set(names)) < len(names):
            raise ValueError(
                f"RLModule: rewards {list(names)} with reward_weights {weights}; give at least one reward, each once, and one "
                "weight for each"
            )
        if not all(math.isfinite(weight) and weight != 0 for weight in weights):
            raise ValueError(f"RLModule: reward_weights {weights}; each must be a number other than 0")
        self.weights = dict(zip(map(_short, names), weights, strict=True))
        self._names, self._how, self._batch_size = list(names), How(sandbox=sandbox), batch_size
        for name in names:
            _kind(name)
        self._functions: list[RewardFunction] | None = None

    def prepare(self, device: torch.device) -> None:
        """Load reward models and look whether checkers can work here; before anything is drawn.

        Args:
            device: where reward models compute.
        """
        if self._functions is None:
            self._functions = [_made(name, self._how, self._batch_size, device) for name in self._names]

    def __call__(self, groups: Sequence[Group], cut_penalty: float = 0.0) -> None:
        """Fill in ``rewards`` and ``reward`` of every answer, and look at them.

        Args:
            groups: answers to some prompts.
            cut_penalty: subtracted from the sum for an answer that was cut.

        Raises:
            RuntimeError: a reward that raised.
            ValueError: one that gave another number of values, or none that is a number.
        """
        self.fill(groups, cut_penalty)
        self.look(groups)

    def look(self, groups: Sequence[Group]) -> None:
        """Refuse a reward that has no opinion about any answer.

        Args:
            groups: all answers of a step, with their rewards.

        Raises:
            ValueError: such a reward.
        """
        answers = [answer for group in groups for answer in group.answers]
        for name in self.weights:
            if answers and not any(math.isfinite(answer.rewards[name]) for answer in answers):
                raise ValueError(
                    f"RLModule: the reward {name!r} gave no finite number for any of {len(answers)} answers"
                )

    def fill(self, groups: Sequence[Group], cut_penalty: float = 0.0) -> None:
        """Fill in ``rewards`` and ``reward`` of the answers of a part of a step; see ``__call__``."""
        assert self._functions is not None, "Rewards.prepare comes first"
        for name, function in zip(self.weights, self._functions, strict=True):
            try:
                found = [list(values) for values in function(groups)]
            except Exception as error:
                raise RuntimeError(f"RLModule: the reward {name!r} raised {type(error).__name__}: {error}") from error
            wanted = [len(group.answers) for group in groups]
            if [len(values) for values in found] != wanted:
                raise ValueError(
                    f"RLModule: the reward {name!r} gave {[len(values) for values in found]} values for groups of {wanted} "
                    "answers; give one for each answer, NaN where there is none"
                )
            for group, part in zip(groups, found, strict=True):
                for answer, value in zip(group.answers, part, strict=True):
                    answer.rewards[name] = float(value) if math.isfinite(value) else math.nan
        for answer in (answer for group in groups for answer in group.answers):
            total = sum(weight * answer.rewards[name] for name, weight in self.weights.items())
            answer.reward = total - (cut_penalty if answer.cut else 0.0)


def _short(name: str) -> str:
    """What a reward is called in logs: the name of a file or folder without the path to it."""
    place = Path(name)
    return (
        place.parent.parent.name
        if place.suffix == ".ckpt" and place.parent.name == "checkpoints"
        else place.name or name
    )


def _kind(name: str) -> str:
    if name in REWARDS:
        return "registered"
    if name in TASKS:
        if TASKS[name].judge is None:
            raise ValueError(
                f"RLModule: the task {name!r} is a choice by log-likelihood and judges no answers; take another reward"
            )
        return "task"
    module, _, function = name.partition(":")
    if function and all(part.isidentifier() for part in (*module.split("."), function)):
        return "function"
    if name.endswith(".ckpt") or Path(name).expanduser().exists() or name.startswith("playground"):
        return "model"
    if "/" in name and not name.startswith((".", "/", "~")) and name.count("/") == 1:
        return "model"
    known = [*REWARDS, *(task for task, of in TASKS.items() if of.judge is not None)]
    near = get_close_matches(name, known, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"RLModule: no reward {name!r}.{guess} Allowed are {', '.join(sorted(known))}, 'module:function', and reward models (a "
        ".ckpt file, a folder or a hub id)"
    )


def _made(name: str, how: How, batch_size: int, device: torch.device) -> RewardFunction:
    kind = _kind(name)
    if kind == "registered":
        return REWARDS[name]
    if kind == "task":
        return _checker(TASKS[name], how)
    if kind == "model":
        return _model(name, batch_size, device)
    module, _, function = name.partition(":")
    try:
        found: RewardFunction = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"RLModule: the reward {name!r} cannot be imported ({error}); give module:function") from error
    return found


class _Scored:
    """Rewards by a scorer of answers (see :mod:`fulgurite.evaluation.selection.scorers`); NaN where it gives none.

    Args:
        scorer: gives the rewards.
        item: of the row of a prompt, which a checker needs.
    """

    def __init__(self, scorer: Scorer, item: Callable[[Group], Item] | None = None) -> None:
        self.scorer, self.item = scorer, item

    def __call__(self, groups: Sequence[Group]) -> list[list[float]]:
        asked = []
        for group in groups:
            item = None if self.item is None else self.item(group)
            asked += [Asked(group.turns, answer.text, self.scorer.name, item) for answer in group.answers]
        found = iter(self.scorer.score(asked))
        return [[math.nan if (r := next(found)) is None else r for _ in group.answers] for group in groups]


def _checker(task: Task, how: How) -> _Scored:
    """1 for a right answer, 0 for a wrong one or none; where what judges is broken, NaN."""

    def item(group: Group) -> Item:
        try:
            return task.item(group.reference, 1)
        except ValueError as error:
            raise ValueError(f"the row of a prompt is none of the task {task.name!r}: {error}") from error

    return _Scored(CheckerReward(task, how), item)


def _model(name: str, batch_size: int, device: torch.device) -> _Scored:
    """A reward model, which reads prompt and answer as it was trained: by its own tokenizer, under its own template or plainly."""
    tokenizer: PreTrainedTokenizerBase
    trained_here = name.endswith(".ckpt")
    if trained_here:
        module = _trained(Path(name).expanduser())
        network, tokenizer = module._network(), load_tokenizer(module.backbone)
        lay_stored(tokenizer, module.chat_template)
        chat = module.chat_template != NO_TEMPLATE
    else:
        network = load_reward_model(resolve_backbone(name), require_head=True).model
        tokenizer = load_tokenizer(name)
        chat = bool(tokenizer.chat_template)
    if chat:
        apply_template(tokenizer)
    scorer = RewardScorer(network.requires_grad_(False).to(device), tokenizer, batch_size=batch_size)
    if not trained_here and scorer.writes_behind_the_turn():
        rank_zero_warn(
            f"RLModule: the reward {name} is read at the end of the answer's turn, behind which its chat template writes more: "
            "right for models of `fulgurite fit`, and not for one that was trained with TRL or the like"
        )
    return _Scored(ModelReward(scorer, chat, name, {}))


def _trained(file: Path) -> RewardModule:
    """The reward model of a checkpoint, which runs no code but ours."""
    if not file.is_file():
        raise FileNotFoundError(f"RLModule: no such reward model: {file}; give the .ckpt file that RewardModule wrote")
    written: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    options = written.get("hyper_parameters") or {}
    named = options.get("_class_path")
    if named != public_path(RewardModule):
        raise ValueError(
            f"RLModule: the reward {file} was written by {named}; give a checkpoint of RewardModule, or a folder that `fulgurite "
            "export` wrote of it"
        )
    refuse_local_classes(file, options)
    changed = overruled(file, options)
    module: RewardModule = RewardModule.load_from_checkpoint(file, map_location="cpu", weights_only=True, **changed)
    if name := check_finite(module):
        raise ValueError(f"RLModule: the reward {file} holds NaN or infinity in {name}; take an earlier checkpoint")
    return module
