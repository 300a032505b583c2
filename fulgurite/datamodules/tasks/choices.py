"""Eight tasks of questions whose answers are texts, as text to train on: the tasks of offsite tuning's comparison.

OpenBookQA, ARC-Easy and -Challenge, WebQuestions, PIQA, SciQ, RACE and HellaSwag. A row is the question with its right answer, of
which the answer is trained on. Prompt, answer and tokens are those that `fulgurite evaluate` scores: question and answer are
encoded together, with the blank between them counted to the answer, and no end token behind it. (The papers' code trains on answers
without that blank and scores them with it; `blank: false` does so too.)
"""

from __future__ import annotations

import logging
from typing import Any, Literal

from fulgurite.data.encoding.continuations import encode_continuations
from fulgurite.data.encoding.tokenizers import tokenizer_fingerprint
from fulgurite.data.records.examples import Examples
from fulgurite.data.rows.encoded import EncodedRows
from fulgurite.data.rows.store import cache_key, load_or_build
from fulgurite.data.sampling.splits import held_out_indices
from fulgurite.data.sources.row_files import tell_shared
from fulgurite.data.tasks import questions
from fulgurite.data.tasks.questions.rows import BAD_ROWS, question_rows
from fulgurite.data.tasks.questions.task import question_task_named
from fulgurite.datamodules.options import check_choice, inherits_options
from fulgurite.datamodules.texts import TextDataModule

__all__ = ["ChoiceTasksDataModule"]

_log = logging.getLogger(__name__)
_KNOWN = questions.__all__  # the room's files, which register the tasks


@inherits_options(TextDataModule, batch_size=16, max_length=512)
class ChoiceTasksDataModule(TextDataModule):
    """Questions with their right answers, of one of eight tasks.

    Args:
        task: openbookqa, arc_easy, arc_challenge, webquestions, piqa, sciq, race or hellaswag.
        path: None takes the hub's data set, where it is known; a file of training rows in a schema that `fulgurite evaluate`
            reads; a folder with a file for each split; or "builtin", sums in the task's schema.
        val_path: file of the validation rows; None takes those of path, or cuts val_fraction.
        test_path: file of the test rows; None takes those of path.
        blank: the answer begins with the blank that stands between question and answer; False as the papers' code trains.
        max_length: tokens of a row at most; longer rows lose the beginning of the question.
    """

    task_type = "causal_lm"
    metric_names = ("perplexity", "token_accuracy")

    def __init__(
        self,
        task: str = "arc_easy",
        path: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        blank: bool = True,
        on_bad_row: Literal["few", "skip", "error"] = "few",
        val_fraction: float = 0.1,
        **loader: Any,
    ) -> None:
        super().__init__(**loader)
        owner = type(self).__name__
        self.task = question_task_named(task, owner)
        check_choice(owner, "on_bad_row", on_bad_row, BAD_ROWS)
        if not 0.0 <= val_fraction < 1.0:
            raise ValueError(f"{owner}: val_fraction is {val_fraction}; allowed is 0 up to, not including, 1")
        tell_shared(owner, [path] if path else [], {"val": val_path, "test": test_path})
        self.path, self.val_path, self.test_path = path, val_path, test_path
        self.blank, self.on_bad_row, self.val_fraction = blank, on_bad_row, val_fraction
        self._found: dict[str, Examples | None] = {}

    def _read(self, split: str) -> Examples | None:
        validation = self._split("val") if split != "test" else None
        if split == "test":
            return self._split("test")
        if validation is not None or self.val_fraction == 0.0:
            return validation if split == "val" else self._train()
        train = self._train()
        if len(train) < 2:
            raise ValueError(
                f"{train.source}: one row cannot be split into training and validation rows; give val_path, or set "
                "val_fraction to 0"
            )
        size = min(len(train) - 1, max(1, round(len(train) * self.val_fraction)))
        held_out, rest = held_out_indices(len(train), size)
        return train.take(held_out if split == "val" else rest)

    def _train(self) -> Examples:
        train = self._split("train")
        if train is None:
            raise ValueError(
                f"{type(self).__name__}: {self.path or 'the hub'} has no training rows of {self.task.name}; give a file of them as "
                "path"
            )
        return train

    def _split(self, split: str) -> Examples | None:
        """The rows of a split, read once; None where there are none of its own."""
        if split not in self._found:
            given = {"val": self.val_path, "test": self.test_path}.get(split)
            path, owner = given or self.path, type(self).__name__
            found = question_rows(self.task, path, split, owner, given is not None, self.on_bad_row)
            if found is not None and found.bad:
                _log.warning(
                    "%s: %d rows are no questions and left out, the first: %s",
                    found.source,
                    len(found.bad),
                    found.bad[0],
                )
            examples = None
            if found is not None:
                answers = [self._answer(item.right_answer or "") for item in found.items]
                prompts = [item.prompt for item in found.items]
                examples = Examples(prompts, answers, None, found.source, found.numbers)
            self._found[split] = examples
        return self._found[split]

    def _answer(self, answer: str) -> str:
        return answer if self.blank or self.task.keeps_blank else answer.removeprefix(" ")

    def _forget_rows(self) -> None:
        self._found.clear()

    def _encode(self, examples: Examples) -> EncodedRows:
        tokenizer, prompts, answers = self.load_tokenizer(), examples.texts, examples.pairs or []
        key = cache_key(["continuations", self.max_length, tokenizer_fingerprint(tokenizer)], prompts, answers)
        progress = self._progress(len(examples))
        return load_or_build(
            self.cache_dir / "tokens",
            key,
            lambda: encode_continuations(tokenizer, prompts, answers, self.max_length, progress),
        )
