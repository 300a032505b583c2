"""The eleven tasks of APET's comparison (arXiv 2306.02320), as classes or text to text, with their metrics.

| task | metric | rows |
|---|---|---|
| sst2, rotten_tomatoes, imdb | accuracy | one text, 2 classes |
| mnli, qnli, rte | accuracy | a pair, 3 or 2 classes |
| qqp, mrpc | accuracy, F1 of class 1 | a pair, 2 classes |
| nq_open | F1 over tokens, exact match; the best over the right answers | a question and its answers |
| samsum, multi_news | ROUGE-L | a text and its summary |

Text to text, a class is chosen by the log-likelihood of its verbalised label, and an answer is generated greedily.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from fulgurite.data.encoding.text_to_text import TextToText
from fulgurite.data.encoding.tokenizers import tokenizer_fingerprint
from fulgurite.data.records.examples import Examples
from fulgurite.data.rows.encoded import EncodedRows
from fulgurite.data.rows.store import cache_key, load_or_build
from fulgurite.data.sampling.splits import held_out_indices, paper_validation_rows
from fulgurite.data.tasks.pet import AnsweredExamples, input_text, pet_task_named
from fulgurite.data.tasks.pet_files import pet_task_folder, read_pet_source
from fulgurite.datamodules.options import inherits_options
from fulgurite.datamodules.texts import TextDataModule

__all__ = ["PETTasksDataModule"]

_FORMS = ("classification", "causal_lm", "seq2seq")
_VERBALISERS = ("words", "digits")


@inherits_options(TextDataModule, batch_size=16)
class PETTasksDataModule(TextDataModule):
    """One of the eleven tasks on which parameter-efficient tuning is compared.

    Args:
        task: sst2, rotten_tomatoes, imdb, mnli, qnli, rte, qqp, mrpc, nq_open, samsum or multi_news.
        path: hub id, "" for the task's own; a file or folder in the task's published schema, in GLUE's TSV layout, or in
            CrossFit's two-column tsv; or "builtin".
        revision: commit of the hub's data set; None takes a fixed one for GLUE and the newest of the others.
        task_type: "classification" for a class of a text or pair; "causal_lm" or "seq2seq" for text to text.
        verbaliser: text to text, "words" answers with the label's word, "digits" with its index.
        max_answer_length: text to text, tokens of an answer at most.
        generate: text to text without classes, whether validation and test generate answers and score them.
        max_length: tokens per row at most, those of an answer not counted; longer inputs are cut.
        limit_eval: validate and test on that many rows only, the first ones.
    """

    def __init__(
        self,
        task: str = "sst2",
        path: str = "",
        revision: str | None = None,
        task_type: Literal["classification", "causal_lm", "seq2seq"] = "classification",
        verbaliser: Literal["words", "digits"] = "words",
        max_answer_length: int = 138,
        generate: bool = True,
        limit_eval: int | None = None,
        **loader: Any,
    ) -> None:
        super().__init__(**loader)
        self.task = pet_task_named(task)
        for option, value, allowed in (("task_type", task_type, _FORMS), ("verbaliser", verbaliser, _VERBALISERS)):
            if value not in allowed:
                raise ValueError(
                    f"PETTasksDataModule: {option} is {value!r}; allowed are {', '.join(map(repr, allowed))}"
                )
        if limit_eval is not None and limit_eval < 1:
            raise ValueError(f"PETTasksDataModule: limit_eval is {limit_eval}; it must be at least 1; raise it")
        if task_type == "classification" and not self.task.labels:
            raise ValueError(
                f"PETTasksDataModule: {task} has answers, no classes; task_type 'classification' does not fit; give "
                "'causal_lm' or 'seq2seq'"
            )
        self.path, self.revision = path, revision
        self.task_type, self.verbaliser = task_type, verbaliser
        self.max_answer_length, self.limit_eval = max_answer_length, limit_eval
        self.num_labels = len(self.task.labels)
        self.label_names = list(self.task.labels) or None
        scored = self.task.metrics if self.task.labels or generate else ()
        self.metric_names = scored if task_type == "classification" else (*scored, "perplexity", "token_accuracy")
        self._official: dict[str, AnsweredExamples | None] = {}
        self._answers: dict[str, list[tuple[str, ...]]] = {}

    @property
    def generates(self) -> bool:
        """Whether answers are to be generated and scored."""
        return self.task_type != "classification" and not self.task.labels and self.metric_names[0] != "perplexity"

    def choices(self) -> list[list[int]] | None:
        """Text to text, the ids of each class's verbalised label with the end token; None where answers are free."""
        if self.task_type == "classification" or not self.task.labels:
            return None
        return self._encoder().answers([self._verbalised(name) for name in self.task.labels])

    def references(self, split: str, rows: list[int]) -> list[tuple[str, ...]]:
        """The right answers of rows of "val" or "test", by the positions in a batch's `row`; () where they are hidden."""
        return [self._answers[split][row] for row in rows]

    def sample_prompts(self, count: int) -> list[tuple[list[int], str]]:
        """Prompt ids and right answer of the first validation rows; none for classes.

        Args:
            count: how many.
        """
        if self.task_type == "classification" or self._rows("val") is None:
            return []
        examples = self._split("val")
        assert examples is not None
        prompts, _ = self._encoder().prompts(self._inputs(examples.take(range(min(count, len(examples))))))
        return [
            (ids, self._verbalised((right or ("",))[0])) for ids, right in zip(prompts, examples.answers, strict=False)
        ]

    def _verbalised(self, answer: str) -> str:
        if self.task.labels and self.verbaliser == "digits" and answer in self.task.labels:
            return str(self.task.labels.index(answer))
        return answer

    def _encoder(self) -> TextToText:
        tokenizer = self.load_tokenizer()
        return TextToText(tokenizer, self.max_length, self.max_answer_length, self.task_type == "seq2seq")

    def _inputs(self, examples: AnsweredExamples) -> list[str]:
        pairs = [(text,) for text in examples.texts]
        if examples.pairs is not None:
            return [input_text(self.task, both) for both in zip(examples.texts, examples.pairs, strict=True)]
        return [input_text(self.task, one) for one in pairs]

    def _encode(self, examples: Examples) -> EncodedRows:
        if self.task_type == "classification":
            return super()._encode(examples)
        assert isinstance(examples, AnsweredExamples)
        encoder, inputs = self._encoder(), self._inputs(examples)
        first = [self._verbalised(right[0]) if right else None for right in examples.answers]
        how = ["pet", self.task_type, self.max_length, self.max_answer_length]
        key = cache_key(how, tokenizer_fingerprint(self.load_tokenizer()), inputs, first)
        progress = self._progress(len(inputs))
        return load_or_build(self.cache_dir / "tokens", key, lambda: encoder.encode(inputs, first, progress))

    def _collator(self) -> Any:
        if self.task_type == "seq2seq":
            from fulgurite.data.rows.collate import Seq2SeqCollator

            return Seq2SeqCollator(self._pad_token_id(), self.pad_multiple)
        return super()._collator()

    def _padding_collator(self) -> Any:
        return self._collator() if self.task_type == "seq2seq" else super()._padding_collator()

    def _read(self, split: str) -> AnsweredExamples | None:
        examples = self._split(split)
        if examples is not None and split != "train":
            examples = examples.take(range(min(len(examples), self.limit_eval or len(examples))))
            self._answers[split] = examples.answers
        return examples

    def _split(self, split: str) -> AnsweredExamples | None:
        """Official splits where the test rows have answers; else validation is cut from train and the official one is test.

        A single file is cut into training and validation rows.
        """
        validation, test = self._source("validation"), self._source("test")
        if test is not None and test.labelled() < len(test):
            test = None
        if validation is not None and test is not None:
            official = {"train": None, "val": validation, "test": test}[split]
            return self._train() if split == "train" else official
        if split == "test":
            return test if test is not None else validation
        train = self._train()
        if len(train) < 2:
            raise ValueError(
                f"{train.source}: one row cannot be split into training and validation rows; add rows, or files of validation "
                "and test rows with labels"
            )
        held_out, rest = held_out_indices(len(train), paper_validation_rows(len(train)))
        return train.take(held_out if split == "val" else rest)

    def _train(self) -> AnsweredExamples:
        train = self._source("train")
        if train is None:
            where = Path(self.path)
            files = sorted(p.name for p in pet_task_folder(self.task, where).iterdir())[:20] if where.is_dir() else []
            raise ValueError(
                f"PETTasksDataModule: {self.path} has no train file for {self.task.name}; found {', '.join(files) or 'nothing'}; "
                "add it"
            )
        if told := train.unlabelled("train", self.task.target, "label"):
            raise ValueError(told)
        return train

    def _source(self, name: str) -> AnsweredExamples | None:
        if name not in self._official:
            fixed = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c" if self.task.glue is not None and not self.path else None
            self._official[name] = read_pet_source(self.task, self.path, name, self.revision or fixed)
        return self._official[name]

    def _forget_rows(self) -> None:
        self._official.clear()
