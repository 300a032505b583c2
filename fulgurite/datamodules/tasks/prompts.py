"""`PromptsDataModule`: prompts that a policy answers, each with what its answers are judged by.

GSM8K, MBPP, UltraFeedback's instructions and files of one's own, by their columns (:mod:`fulgurite.data.readers.prompts`). A prompt
longer than `max_length` is left out and counted: without its beginning it would ask something else.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info

from fulgurite.data.encoding.prompts import encode_prompt
from fulgurite.data.encoding.templates import apply_template, stored_template
from fulgurite.data.readers.base import ON_BAD_ROW
from fulgurite.data.readers.prompts import PromptReader
from fulgurite.data.rows.prompts import EncodedPrompt, PromptCollator, PromptRows
from fulgurite.data.sampling.splits import chosen_records
from fulgurite.data.sources.locate import RowSource
from fulgurite.data.sources.row_files import RowFiles
from fulgurite.datamodules.base import LoaderDataModule
from fulgurite.datamodules.options import check_choice, inherits_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PromptsDataModule"]

_TOO_LONG = "longer than max_length"


@inherits_options(LoaderDataModule, without=("cache_dir", "pad_multiple"), batch_size=16, max_length=512)
class PromptsDataModule(LoaderDataModule):
    """Prompts for RLModule, with what their answers are judged by.

    Args:
        path: hub id; file; folder with files named after their split; "builtin", arithmetic of the playground in GSM8K's columns;
            or a list of these; None takes GSM8K of the hub.
        as_chat: ask each question as the user's turn of a chat; False gives it to the model as a bare text.
        batch_size: prompts of a step, for each of which several answers are drawn.
        max_length: tokens of a prompt at most; a longer prompt is left out and counted.
        limit_train: draw answers to that many random prompts only.
    """

    hub_path = "openai/gsm8k"
    hub_revision = "740312add88f781978c0658806c59bc2815b9866"
    task_type = "prompts"
    metric_names = ("reward",)

    def __init__(
        self,
        path: str | list[str] | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        schema: str = "auto",
        columns: dict[str, str] | None = None,
        template: str | None = None,
        as_chat: bool = True,
        on_bad_row: Literal["few", "skip", "error"] = "few",
        val_fraction: float = 0.05,
        revision: str | None = None,
        **loader: Any,
    ) -> None:
        super().__init__(**loader)
        owner = type(self).__name__
        check_choice(owner, "on_bad_row", on_bad_row, ON_BAD_ROW)
        if template is not None and not as_chat:
            raise ValueError(
                f"{owner}: template={template!r} with as_chat false, where no template is laid; give one or the other"
            )
        self.schema, self.columns, self.template, self.as_chat = schema, columns, template, as_chat
        self.on_bad_row, self.val_fraction = on_bad_row, val_fraction
        self.files = RowFiles(
            self.hub_path if path is None else path,
            owner=owner,
            builtin="gsm8k",
            revision=revision or (self.hub_revision if path is None else None),
            val_path=val_path,
            test_path=test_path,
            val_fraction=val_fraction,
        )
        self._read_rows: dict[tuple[str, ...], tuple[list[EncodedPrompt], list[int], Any]] = {}
        self._reader([])  # a schema or column that does not exist is told now

    def _with_template(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        return apply_template(tokenizer, self.template if self.as_chat else "none")

    @property
    def chat_template(self) -> str | None:
        """The template that prompts are asked with, so that a module can keep it; "none" for bare texts."""
        return stored_template(self.load_tokenizer(), self.template if self.as_chat else "none")

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt of the splits that have been read."""
        return max((int(rows.lengths.max()) for rows in self._splits.values() if rows is not None), default=0)

    def sample_prompts(self, count: int) -> list[tuple[list[int], str]]:
        """Prompt ids and known answer of the first validation rows; fewer where there are fewer.

        Args:
            count: how many.
        """
        rows = self._rows("val")
        return [] if rows is None else [(list(prompt.ids), prompt.answer) for prompt in rows.prompts[:count]]

    def has_test_split(self) -> bool:
        """Whether there are test rows; none is read for the answer."""
        return bool(self.files.split("test").sources)

    def describe(self) -> str:
        """What every split that has been read holds."""
        lines = [self._told(split, rows) for split, rows in self._splits.items() if rows is not None]
        return "\n".join(lines) if lines else "no split has been read; call setup() first"

    def _report(self, fitting: bool) -> None:
        new = [split for split, rows in self._splits.items() if rows is not None and split not in self._reported]
        self._reported |= set(new)
        for split in new:
            rank_zero_info(self._told(split, self._splits[split]))

    def _told(self, split: str, rows: PromptRows) -> str:
        lengths = rows.lengths
        lines = [f"{split}: {len(rows):,} prompts of {int(lengths.min())} to {int(lengths.max())} tokens"]
        return "\n  ".join([*lines, *rows.tally.lines()])

    def _rows(self, split: str) -> PromptRows | None:
        if split not in self._splits:
            where, rows = self.files.split(split), None
            if where.sources:
                prompts, groups, tally = self._encoded(where.sources)
                limit = self.limit_train if split == "train" else None
                keep = chosen_records(torch.tensor(groups), where.part, self.val_fraction, limit, self.seed)
                rows = PromptRows(prompts, tally).take(keep.nonzero().squeeze(1).tolist())
                if not len(rows):
                    raise ValueError(f"{type(self).__name__}: no prompt is left for {split}; give more rows")
            self._splits[split] = rows
        found: PromptRows | None = self._splits[split]
        return found

    def _reader(self, sources: Sequence[RowSource]) -> PromptReader:
        return PromptReader(
            sources, schema=self.schema, columns=self.columns, on_bad_row=self.on_bad_row, as_chat=self.as_chat
        )

    def _encoded(self, sources: Sequence[RowSource]) -> tuple[list[EncodedPrompt], list[int], Any]:
        """All prompts of some sources, a hash of each one's question, and what was counted; read once for all their splits."""
        name = tuple(source.name for source in sources)
        if name not in self._read_rows:
            tokenizer, reader = self.load_tokenizer(), self._reader(sources)
            prompts: list[EncodedPrompt] = []
            groups: list[int] = []
            long = []
            for record in self._shown(reader, "reading prompts", " prompts"):
                ids = encode_prompt(tokenizer, record.turns)
                if len(ids) > self.max_length:
                    long.append((record.where, _TOO_LONG, f"{len(ids)} tokens"))
                    continue
                turns = EncodedPrompt.written(record.turns)
                prompts.append(EncodedPrompt(tuple(ids), turns, record.reference, record.answer))
                groups.append(zlib.crc32(record.key.encode()))
            for finding in long:
                reader.tally.add(*finding)
            if not prompts:
                found = "\n  ".join(reader.tally.lines())
                raise ValueError(
                    f"{type(self).__name__}: no prompt of {', '.join(name[:3])} has at most {self.max_length} tokens; raise "
                    f"max_length\n  {found}"
                )
            self._read_rows[name] = (prompts, groups, reader.tally)
        return self._read_rows[name]

    def _forget_rows(self) -> None:
        self._read_rows.clear()

    def _padding_collator(self) -> PromptCollator:
        return PromptCollator()
