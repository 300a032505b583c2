"""The tasks of `fulgurite evaluate` at the end of Lightning's `test` or of a validation: a callback for any language module.

    fulgurite test --config runs/sft/config.yaml --ckpt_path best --trainer.callbacks+ TaskEvaluation \\
        --trainer.callbacks.tasks gsm8k,arc_easy --trainer.callbacks.path DATA
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.runner.plan import Plan, plan_of, text_hash
from fulgurite.evaluation.runner.results import TaskResult, result_of
from fulgurite.evaluation.runner.sampling import collect
from fulgurite.evaluation.runner.scoring import rate
from fulgurite.evaluation.runner.writers import Writers, in_process
from fulgurite.evaluation.tasks import Task, find_tasks
from fulgurite.generation import LoadedModel
from fulgurite.generation.protocol import SamplingSettings
from fulgurite.whole_files import write_text

__all__ = ["TaskEvaluation"]


class TaskEvaluation(Callback):
    """Asks the module's network the questions of benchmarks, judges the answers, and logs the numbers.

    Metrics are called `test_TASK_METRIC` (or `val_…`), as in `test_gsm8k_accuracy`. Samples, scores and results.json go to
    OUT/step-N-WEIGHTS, with the trainer's step and a hash of the weights; a run that was stopped goes on there. With several
    processes the first one works and the others wait. Rows, prompts and judges are those of `fulgurite evaluate`, and so are the
    numbers.

    Args:
        tasks: names with commas between them, or a list of names; `fulgurite evaluate --list` shows all.
        path: where the rows are: a file, a folder of data, hub, or builtin; for several tasks a mapping from names to paths.
        when: at the end of "test", or of each "validation".
        out: folder for samples and results; None takes `evaluation` in the trainer's default_root_dir.
        n: samples of each item; above 1 they are drawn, and pass@k and maj@k are logged too.
        limit: the first so many items of each task; None for all.
        shots: examples before each prompt; None takes what the task is defined with.
        shots_path: a file of training rows from which the examples come; for several tasks a mapping.
        chat: ask as a chat's user, with the chat template; False continues a text.
        max_new_tokens: tokens of an answer at most; None takes the task's.
        temperature: None takes 0 for one sample and 0.8 for several.
        seed: of the draws.
        batch_size: answers or choices that are computed at once.
        sandbox: how generated programs are held: auto, strict or limits.
        time_limit: seconds of a generated program's test.
        on_bad_row: few, skip or error, as in `fulgurite evaluate`.

    Raises:
        ValueError: an unknown task, options out of range, a module whose network writes no text, rows that are not there.
    """

    def __init__(
        self,
        tasks: str | list[str],
        path: str | dict[str, str] | None = None,
        when: Literal["test", "validation"] = "test",
        out: str | None = None,
        n: int = 1,
        limit: int | None = None,
        shots: int | None = None,
        shots_path: str | dict[str, str] | None = None,
        chat: bool = False,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        seed: int = 0,
        batch_size: int = 8,
        sandbox: Literal["auto", "strict", "limits"] = "auto",
        time_limit: float = 10.0,
        on_bad_row: Literal["few", "skip", "error"] = "few",
    ) -> None:
        names = tasks.split(",") if isinstance(tasks, str) else tasks
        self.tasks: list[Task] = find_tasks([name.strip() for name in names if name.strip()])
        if not self.tasks:
            raise ValueError("TaskEvaluation: no tasks were given; give names such as gsm8k,arc_easy")
        for name, value, least in (
            ("n", n, 1),
            ("limit", limit, 1),
            ("shots", shots, 0),
            ("batch_size", batch_size, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"TaskEvaluation: {name}={value}; give {least} or more")
        self.drawn = SamplingSettings(1, (0.0 if n == 1 else 0.8) if temperature is None else temperature, seed=seed)
        if n > 1 and self.drawn.temperature == 0:
            raise ValueError(f"TaskEvaluation: n={n} with temperature 0 would give the same answer {n} times; set n=1")
        for given in (path, shots_path):
            unknown = sorted(set(given) - {task.name for task in self.tasks}) if isinstance(given, dict) else []
            if unknown:
                raise ValueError(
                    f"TaskEvaluation: a path for {', '.join(unknown)}, which is none of the tasks "
                    f"{', '.join(task.name for task in self.tasks)}; correct the name"
                )
        self.path, self.shots_path = path, shots_path
        self.when, self.out = when, out
        self.n, self.limit, self.shots, self.chat = n, limit, shots, chat
        self.max_new_tokens, self.batch_size, self.on_bad_row = max_new_tokens, batch_size, on_bad_row
        self.how = How(sandbox, time_limit, None)
        self.results: list[TaskResult] = []
        self._plans: list[Plan] = []  # the rows are read once

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """What is missing is said before hours of training, not after them."""
        for task in self.tasks:
            if task.judge is not None:
                task.judge.check(self.how)
        self._plans = self._plans or [self._plan(task) for task in self.tasks]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A network that writes no text is refused before it is trained."""
        if self.when == "validation":
            _network(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A network that writes no text is refused before its rows are tested."""
        if self.when == "test":
            _network(pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Works if this is the time."""
        if self.when == "test":
            self._evaluate(trainer, pl_module, "test")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Works if this is the time, and not during Lightning's check before training."""
        if self.when == "validation" and not trainer.sanity_checking:
            self._evaluate(trainer, pl_module, "val")

    def _evaluate(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        found: dict[str, float] = {}
        if trainer.is_global_zero:
            network = LoadedModel(_network(module), _tokenizer(trainer), None)
            writers = in_process(network, self.batch_size, self.chat)
            # A test of a checkpoint begins at step 0: the weights tell one from another.
            weights = text_hash(writers.answers.identity())[:8]
            folder = Path(self.out or Path(trainer.default_root_dir) / "evaluation")
            folder /= f"step-{trainer.global_step}-{weights}"
            self.results = [self._one(replace(plan, folder=folder / plan.task.name), writers) for plan in self._plans]
            write_text(
                folder / "results.json",
                json.dumps({result.task: result.to_dict() for result in self.results}, indent=2, default=str) + "\n",
            )
            found = {
                f"{stage}_{result.task}_{metric}": number.value
                for result in self.results
                for metric, number in result.numbers.items()
            }
        found = trainer.strategy.broadcast(found)
        for name, value in found.items():
            module.log(name, value, rank_zero_only=False, sync_dist=False)

    def _one(self, plan: Plan, writers: Writers) -> TaskResult:
        done = collect(plan, writers.of(plan.task))
        result = result_of(plan, rate(plan, self.how, False))
        for warning in [*result.warnings, *(f"no answer: {text}" for text in done.failed[:1])]:
            rank_zero_warn(f"TaskEvaluation: {plan.task.name}: {warning}")
        return result

    def _plan(self, task: Task) -> Plan:
        return plan_of(
            task,
            _of(self.path, task),
            Path(),
            self.drawn,
            n=self.n,
            limit=self.limit,
            shots=self.shots,
            shots_path=_of(self.shots_path, task),
            chat=self.chat,
            max_new_tokens=self.max_new_tokens,
            on_bad_row=self.on_bad_row,
        )


def _of(given: str | dict[str, str] | None, task: Task) -> str | None:
    return given.get(task.name) if isinstance(given, dict) else given


def _network(module: LightningModule) -> Any:
    network: Any = getattr(module, "network", None)
    if not callable(getattr(network, "generate", None)):
        raise ValueError(
            f"TaskEvaluation: {type(module).__name__} has no `network` that writes text; use it with a language module such as "
            "SFTModule, PreferenceModule or UltraFuserModule"
        )
    return network


def _tokenizer(trainer: Trainer) -> Any:
    load = getattr(getattr(trainer, "datamodule", None), "load_tokenizer", None)
    if load is None:
        raise ValueError(
            "TaskEvaluation: the trainer has no data module with load_tokenizer(); give one of Fulgurite's"
        )
    return load()
