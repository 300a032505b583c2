"""`ConversationDataModule`: what every data module of conversations shares, from their files to packed batches.

`prepare_data` reads the conversations one by one, encodes them in chunks and writes their tokens to a cache file, which every
rank maps into memory: neither texts nor tokens have to fit into it. A source is read once: the rows for training, for validation
and of a limit are selections of one cache file. Its key is made of the bytes of the sources and of all that decides the tokens.
Before training a report says what was read and what was left out, how long the rows are, and how many steps an epoch has.

With packing the sampler's unit is a pack of rows. The order of the packs is drawn anew in each epoch, what is in a pack never
changes, so that an interrupted epoch resumes to the same batches. In evaluation packs stand in the order of their first rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from fulgurite.data.encoding.templates import apply_template, stored_template
from fulgurite.data.encoding.tokenizers import tokenizer_fingerprint
from fulgurite.data.readers.base import ON_BAD_ROW
from fulgurite.data.readers.conversations import ConversationReader
from fulgurite.data.records.conversation import Conversation
from fulgurite.data.rows.collate import CausalLMCollator, Seq2SeqCollator
from fulgurite.data.rows.encoded import EncodedRows, Rows, SelectedRows
from fulgurite.data.rows.report import LengthReport, length_report
from fulgurite.data.rows.store import MappedRows, TokenWriter, cache_key, load_or_write
from fulgurite.data.rows.writing import Encode, file_of, selected, tags_of, tally_of, write_conversations
from fulgurite.data.sampling.mixing import mix, tag_numbers
from fulgurite.data.sources.locate import RowSource
from fulgurite.data.sources.row_files import RowFiles
from fulgurite.datamodules.base import LoaderDataModule
from fulgurite.datamodules.options import check_choice, inherits_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ConversationDataModule", "SFTDataModule"]


@inherits_options(LoaderDataModule, batch_size=4, max_length=2048)
class ConversationDataModule(LoaderDataModule):
    """Base of the data modules of conversations.

    Attributes after `setup`: those of `LoaderDataModule`; `packing`, whether batches are packed; `tag_names`, what the
    numbers in a batch's `tag` stand for.

    Args:
        on_bad_row: a row that is no conversation is left out and counted, as long as a tenth of the rows at most is ("few") or
            however many are ("skip"), or stops the run ("error").
        max_length: tokens of a row or pack at most.
        limit_train: train on that many random conversations only; all of them are tokenised once, whatever the limit.
    """

    builtin_schema = "ultrachat_200k"

    def __init__(
        self,
        path: str | list[str] | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        schema: str = "auto",
        columns: dict[str, str] | None = None,
        template: str | None = None,
        supervise: Literal["assistant", "last", "all"] = "assistant",
        task_type: Literal["causal_lm", "seq2seq"] = "causal_lm",
        packing: bool = True,
        too_long: Literal["drop", "error", "cut"] = "drop",
        on_bad_row: Literal["few", "skip", "error"] = "few",
        val_fraction: float = 0.05,
        weights: dict[str, float] | None = None,
        mixing: Literal["until_first_ends", "repeat"] = "until_first_ends",
        revision: str | None = None,
        **loader: Any,
    ) -> None:
        super().__init__(**loader)
        name = type(self).__name__
        check_choice(name, "supervise", supervise, ("assistant", "last", "all"))
        check_choice(name, "task_type", task_type, ("causal_lm", "seq2seq"))
        check_choice(name, "too_long", too_long, ("drop", "error", "cut"))
        check_choice(name, "on_bad_row", on_bad_row, ON_BAD_ROW)
        check_choice(name, "mixing", mixing, ("until_first_ends", "repeat"))
        if task_type == "seq2seq" and supervise == "all":
            raise ValueError(
                f"{name}: supervise is 'all' with task_type 'seq2seq'; an encoder-decoder is trained on answers: allowed are "
                "'assistant' and 'last'"
            )
        self.schema, self.columns, self.template = schema, columns, template
        self.supervise, self.task_type = supervise, task_type
        self.too_long, self.on_bad_row = too_long, on_bad_row
        self.packing = packing and task_type == "causal_lm"
        self.val_fraction, self.weights, self.mixing = val_fraction, weights, mixing
        self.revision = revision or (self.hub_revision if path is None else None)
        builtin = self.builtin_schema if schema == "auto" else schema
        self.files = RowFiles(
            self.hub_path if path is None else path,
            owner=name,
            builtin={"ultrafeedback_critique": "ultrafeedback", "messages": "ultrachat_200k"}.get(builtin, builtin),
            revision=self.revision,
            val_path=val_path,
            test_path=test_path,
            val_fraction=val_fraction,
            choose=self._chosen_sources,
        )
        self.metric_names = ("perplexity", "token_accuracy")
        self.tag_names: list[str] = []
        self.tags: Sequence[str] | None = None
        self.critique_prompt: str | None = None
        self._reader([])  # a schema or column that does not exist is told now
        self._opened: tuple[Path, MappedRows] | None = None
        self._mixed: tuple[EncodedRows, Tensor | None, Rows] | None = None

    def _with_template(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        if self.task_type != "causal_lm" and self.template is None:
            return tokenizer
        return apply_template(tokenizer, self.template)

    @property
    def chat_template(self) -> str | None:
        """The template that is trained with, so that a module can keep it; "none" for plain text, None where nothing is known."""
        return stored_template(self.load_tokenizer(), self.template)

    def sample_prompts(self, count: int) -> list[tuple[list[int], str]]:
        """Prompt ids and reference answer of the first validation rows; fewer where there are fewer.

        Args:
            count: how many.
        """
        encoded, found = self._rows("val"), []
        tokenizer = self.load_tokenizer()
        for index in range(min(count, 0 if encoded is None else len(encoded))):
            assert encoded is not None
            row = encoded[index]
            ids, labels = row["input_ids"].tolist(), row["labels"].tolist()
            start = stop = 0
            if self.task_type == "causal_lm":
                flags = [label >= 0 for label in labels] + [False]
                start = flags.index(True)
                stop = flags.index(False, start)
            answer = labels[start:stop] if stop else labels
            found.append((ids[:start] if stop else ids, str(tokenizer.decode(answer, skip_special_tokens=True))))
        return found

    @property
    def _answers_apart(self) -> bool:
        """Whether rows keep their answers beside the input ids."""
        return self.task_type == "seq2seq"

    def reports(self) -> list[LengthReport]:
        """Rows, tokens, lengths, packs and steps of every split that has been read."""
        return [self._length_report(split, rows) for split, rows in self._splits.items() if rows is not None]

    def _rows(self, split: str) -> EncodedRows | None:
        if split not in self._splits:
            where = self.files.split(split)
            rows = None
            if where.sources:
                limit = self.limit_train if split == "train" else None
                encoded = self._load_or_encode(split, where.sources)
                rows = selected(encoded, where.part, self.val_fraction, limit, self.seed)
                if not len(rows):
                    raise self._empty(split, where.sources, tally_of(encoded).lines())
            self._splits[split] = rows
        found: EncodedRows | None = self._splits[split]
        return found

    def has_test_split(self) -> bool:
        """Whether there are test rows; none is read for the answer."""
        return bool(self.files.split("test").sources)

    def _empty(self, split: str, sources: Sequence[RowSource], lines: Sequence[str]) -> ValueError:
        found = "\n  ".join(lines)
        return ValueError(
            f"{type(self).__name__}: no conversation of {', '.join(s.name for s in sources[:3])} is left for "
            f"{split}; raise max_length, or correct the rows\n  {found}"
        )

    def _chosen_sources(self, sources: list[RowSource]) -> list[RowSource]:
        """The sources of a split that have to be read; a subclass that knows some to be of no use leaves them out."""
        return sources

    def _reader(self, sources: Sequence[RowSource]) -> ConversationReader:
        return ConversationReader(
            sources,
            self.schema,
            self.columns,
            self.on_bad_row,
            self.tags,
            tag_sources=len(self.files.paths) > 1,
            critique_prompt=self.critique_prompt,
        )

    def _reader_key(self) -> list[Any]:
        """What decides the rows beside the options of this class; a subclass whose reader has more says so here."""
        return []

    def _load_or_encode(self, split: str, sources: list[RowSource]) -> MappedRows:
        """All rows of some sources, with their tags numbered, out of the cache, or read once and written there."""
        tokenizer = self.load_tokenizer()
        how = [
            ["conversations", self.task_type, self.max_length, self.supervise, self.too_long, self.on_bad_row],
            [
                self.schema,
                self.columns,
                self.tags and sorted(self.tags),
                self.critique_prompt,
                len(self.files.paths) > 1,
            ],
            *self._identity(tokenizer, sources),
            *self._reader_key(),
        ]
        path = self.cache_dir / "conversations" / f"{cache_key(how)}.safetensors"

        def write() -> None:
            reader = self._reader(sources)
            with TokenWriter(path, self._answers_apart) as writer:
                tally = write_conversations(
                    writer,
                    reader,
                    self._encode_with(tokenizer),
                    lambda: reader.tally,
                    lambda items: self._shown(items, "encoding", " conversations"),
                )
                if writer.rows == 0:
                    raise self._empty(split, sources, tally.lines())
                writer.finish({"tally": json.dumps(tally.state()), "schemas": json.dumps(reader.schemas)})

        if self._opened is None or self._opened[0] != path:  # one mapping of the file for all of its splits
            self._opened = (path, self._tagged(load_or_write(path, write)))
        return self._opened[1]

    def _identity(self, tokenizer: PreTrainedTokenizerBase, sources: Sequence[RowSource]) -> list[Any]:
        """What a cache entry is made of: tokenizer, template, and the bytes of the sources."""
        made_of = [tokenizer_fingerprint(tokenizer), getattr(tokenizer, "chat_template", None)]
        return [made_of, self.files.identity(sources)]

    def _encode_with(self, tokenizer: PreTrainedTokenizerBase) -> Encode:
        if self.task_type == "seq2seq":
            from fulgurite.data.encoding.seq2seq import encode_pairs

            def encode(conversations: Sequence[Conversation]) -> Any:
                return encode_pairs(
                    tokenizer,
                    conversations,
                    self.max_length,
                    supervise="last" if self.supervise == "last" else "assistant",
                    too_long=self.too_long,
                )

            return encode
        from fulgurite.data.encoding.conversations import ConversationEncoder

        return ConversationEncoder(tokenizer, self.max_length, self.supervise, self.too_long).encode

    def _tagged(self, rows: MappedRows) -> MappedRows:
        """The rows with tags numbered as in `tag_names`, which grows by those that are new."""
        names = tags_of(rows)
        self.tag_names, numbers = tag_numbers(self.tag_names, names)
        return rows.with_tag(numbers[rows.tensors["tag"].long()] if names else None)

    def _arranged(self, encoded: Any, mixed: bool = False) -> Rows:
        """The rows packed; those of the training loader are mixed by `weights` before."""
        if not mixed:
            return self._packed(encoded, None)
        if self._mixed is None or self._mixed[0] is not encoded:
            chosen = None
            if self.weights is not None:
                tag = encoded.tensors.get("tag")
                tag = torch.full((len(encoded),), -1) if tag is None else tag
                chosen = mix(tag, self.tag_names, self.weights, self.mixing, self.seed)  # type: ignore[arg-type]
            self._mixed = (encoded, chosen, self._packed(encoded, chosen))
        return self._mixed[2]

    def _packed(self, encoded: EncodedRows, chosen: Tensor | None) -> Rows:
        if not self.packing:
            return encoded if chosen is None else SelectedRows(encoded, chosen)
        from fulgurite.data.rows.packed import PackedRows, best_fit

        lengths = encoded.lengths if chosen is None else encoded.lengths[chosen]
        packs = [sorted(pack) for pack in best_fit(lengths, self.max_length)]
        packs.sort(key=lambda pack: pack[0])
        if chosen is not None:
            rows = chosen.tolist()
            packs = [[rows[i] for i in pack] for pack in packs]
        return PackedRows(encoded, packs)

    def _collator(self) -> Any:
        if not self.packing:
            return self._padding_collator()
        from fulgurite.data.rows.packed import PackedCollator

        return PackedCollator(self._pad_token_id(), self.pad_multiple)

    def _padding_collator(self) -> Any:
        kind = Seq2SeqCollator if self.task_type == "seq2seq" else CausalLMCollator
        return kind(self._pad_token_id(), self.pad_multiple)

    def _length_report(self, split: str, rows: Any) -> LengthReport:
        train, file = split == "train", file_of(rows)
        arranged = self._arranged(rows, mixed=train)
        lengths, targets, tag = rows.lengths, rows.targets(), rows.tensors.get("tag")
        chosen = self._mixed[1] if train and self._mixed is not None else None
        if chosen is not None:
            lengths, targets, tag = lengths[chosen], targets[chosen], None if tag is None else tag[chosen]
        trainer = self.trainer
        return length_report(
            split,
            lengths,
            targets,
            self.max_length,
            tally_of(file),
            packs=len(arranged) if self.packing else None,
            rows_per_batch=(self.batch_size if train else self.eval_batch_size)
            * (trainer.world_size if trainer else 1),
            accumulate=self._accumulate() if train else 1,
            tags=None if tag is None else (tag, self.tag_names),
            schemas=json.loads(file.metadata["schemas"]),
            pairs=self._answers_apart,
        )


class SFTDataModule(ConversationDataModule):
    """A user's own conversations: ShareGPT, Alpaca, messages, prompt and completion, text, or a published schema.

    With several paths the name of a row's file is its tag, unless the schema gives it one, and weights mix the files.
    """
