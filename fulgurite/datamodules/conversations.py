"""`ConversationDataModule`: what every data module of conversations shares, from the file to packed batches.

`prepare_data` reads the rows one by one, encodes them in chunks and writes the tokens to a cache file, which every rank
maps into memory: neither texts nor tokens need to fit. The cache is keyed by the bytes of the files and everything that
decides the tokens. Before training a report says what was read and left out, how long the rows are, and how many steps
an epoch has.

With packing a "row" of the sampler is a pack: the order of packs is drawn anew in each epoch, what is in a pack stays. An
interrupted epoch so resumes to the same batches. In evaluation the packs keep the order of the file by their first rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from fulgurite.data.encoding.tokenizers import tokenizer_fingerprint
from fulgurite.data.readers.base import short_name
from fulgurite.data.readers.conversations import ConversationReader
from fulgurite.data.records.conversation import Conversation
from fulgurite.data.rows.collate import CausalLMCollator, Seq2SeqCollator
from fulgurite.data.rows.encoded import EncodedRows, Rows, SelectedRows
from fulgurite.data.rows.report import LengthReport, draw_histogram, length_report
from fulgurite.data.rows.store import (
    Encode,
    MappedRows,
    TokenWriter,
    cache_key,
    load_or_write,
    numbered,
    tags_of,
    tally_of,
    write_conversations,
)
from fulgurite.data.sampling.mixing import mix
from fulgurite.data.sampling.splits import held_out
from fulgurite.data.sources.locate import RowSource, find_sources
from fulgurite.datamodules.base import TextDataModule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ConversationDataModule", "SFTDataModule"]

_FORMAT = 2  # raise it when conversations are read or encoded in another way: older caches are then not read


class ConversationDataModule(TextDataModule):
    """Base of the data modules of conversations.

    Attributes after `setup`: those of `TextDataModule`; `packing`, whether batches are packed; `tag_names`, what the
    numbers in a batch's `tag` stand for.

    Args:
        path: hub id; file; folder with files named after their split; "builtin"; or a list of these; None takes the hub
            id of the data set that the class is named after.
        val_path: file or folder of the validation rows; None takes those of path, or cuts val_fraction.
        test_path: file or folder of the test rows; None takes those of path.
        schema: how rows are read, see fulgurite.data.readers.conversations; "auto" guesses from the columns.
        columns: the file's name of columns that the schema calls otherwise.
        template: None takes the tokenizer's own chat template or our default; or a known name; or a jinja file.
        supervise: train on the answers ("assistant"), on the last of each conversation ("last"), or on every token.
        task_type: "causal_lm" or "seq2seq", an answer to all that stands before it.
        packing: lay several conversations into one row of max_length tokens, none of which sees another (causal_lm).
        too_long: a conversation longer than max_length is left out and counted ("drop"), stops the run ("error"), or
            loses the end of its answer and with it the mark where to stop ("cut").
        on_bad_row: a row that is no conversation is left out and counted ("skip") or stops the run ("error").
        val_fraction: share of the training rows that validate where there are none; 0 for no validation.
        weights: share of each tag (language, task, file) in the training rows; None takes the rows as they are.
        mixing: with weights, an epoch ends when the first tag's rows do, or has as many rows as there are and repeats.
        revision: commit of the hub's data set; None takes the one that we know, or the newest.
        tokenizer: hub id, folder or playground name; None takes the backbone of the module that is trained.
        batch_size: training rows, with packing packs, per process and batch.
        eval_batch_size: rows or packs per process and batch elsewhere; None takes four times batch_size.
        max_length: tokens of a row or pack at most.
        num_workers: processes that collate batches.
        seed: decides the order of the training rows.
        cache_dir: folder of the tokenised rows; None takes $FULGURITE_CACHE or ~/.cache/fulgurite.
        limit_train: train on that many random conversations only.
        pad_multiple: padded lengths are rounded up to a multiple of it.
    """

    hub_path: str | None = None
    hub_revision: str | None = None
    builtin_schema = "ultrachat_200k"
    used_for = "sft"  # which files and hub splits are this module's: those of conversations, or "prefs"

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
        on_bad_row: Literal["skip", "error"] = "skip",
        val_fraction: float = 0.05,
        weights: dict[str, float] | None = None,
        mixing: Literal["until_first_ends", "repeat"] = "until_first_ends",
        revision: str | None = None,
        tokenizer: str | None = None,
        batch_size: int = 4,
        eval_batch_size: int | None = None,
        max_length: int = 2048,
        num_workers: int = 0,
        seed: int = 42,
        cache_dir: str | None = None,
        limit_train: int | None = None,
        pad_multiple: int = 1,
    ) -> None:
        super().__init__(
            tokenizer, batch_size, eval_batch_size, max_length, num_workers, seed, cache_dir, limit_train, pad_multiple
        )
        name = type(self).__name__
        for option, value, allowed in (
            ("supervise", supervise, ("assistant", "last", "all")),
            ("task_type", task_type, ("causal_lm", "seq2seq")),
            ("too_long", too_long, ("drop", "error", "cut")),
            ("on_bad_row", on_bad_row, ("skip", "error")),
            ("mixing", mixing, ("until_first_ends", "repeat")),
        ):
            if value not in allowed:
                raise ValueError(f"{name}: {option} is {value!r}; allowed are {', '.join(map(repr, allowed))}")
        if task_type == "seq2seq" and supervise == "all":
            raise ValueError(
                f"{name}: supervise is 'all' with task_type 'seq2seq'; an encoder-decoder is trained on answers: allowed are "
                "'assistant' and 'last'"
            )
        if not 0.0 <= val_fraction < 1.0:
            raise ValueError(f"{name}: val_fraction is {val_fraction}; allowed is 0 up to, not including, 1")
        given = [self.hub_path] if path is None else [path] if isinstance(path, str) else list(path)
        self.paths = [entry for entry in given if entry]
        if len(self.paths) < len(given) or not given:
            raise ValueError(f"{name}: no path was given; give a hub id, a file, a folder, or 'builtin'")
        self.val_path, self.test_path = val_path, test_path
        self.schema, self.columns, self.template = schema, columns, template
        self.supervise, self.task_type = supervise, task_type
        self.too_long, self.on_bad_row = too_long, on_bad_row
        self.packing = packing and task_type == "causal_lm"
        self.val_fraction, self.weights, self.mixing = val_fraction, weights, mixing
        self.revision = revision or (self.hub_revision if path is None else None)
        self.metric_names = ("perplexity", "token_accuracy")
        self.tag_names: list[str] = []
        self.tags: Sequence[str] | None = None
        self.critique_prompt: str | None = None
        self._reader([])  # a schema or column that does not exist is told now
        self._fingerprints: dict[str, str] = {}
        self._mixed: tuple[EncodedRows, Tensor | None, Rows] | None = None
        self._reported: set[str] = set()

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer with its chat template, loaded once."""
        before = self._loaded_tokenizer
        tokenizer = super().load_tokenizer()
        if self._loaded_tokenizer is not before and (self.task_type == "causal_lm" or self.template is not None):
            from fulgurite.data.encoding.templates import apply_template

            tokenizer = apply_template(tokenizer, self.template)
            assert self._loaded_tokenizer is not None
            self._loaded_tokenizer = (self._loaded_tokenizer[0], tokenizer)
        return tokenizer

    @property
    def chat_template(self) -> str | None:
        """The template that is trained with, so that a module can keep it; None for a tokenizer without one."""
        template = getattr(self.load_tokenizer(), "chat_template", None)
        return template if isinstance(template, str) else None

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

    def setup(self, stage: str | None = None) -> None:
        """Reads the stage's splits and reports, once, what they hold."""
        super().setup(stage)
        self._report(stage in (None, "fit"))

    def describe(self) -> str:
        """What every split that has been read holds."""
        lines = [line for report in self.reports() for line in report.lines()]
        return "\n".join(lines) if lines else "no split has been read; call setup() first"

    def reports(self) -> list[LengthReport]:
        """Rows, tokens, lengths, packs and steps of every split that has been read."""
        return [
            self._length_report(split, rows) for split, rows in self._splits.items() if isinstance(rows, MappedRows)
        ]

    def _rows(self, split: str) -> EncodedRows | None:
        if split not in self._splits:
            sources, part = self._split(split)
            self._splits[split] = None if not sources else self._tagged(self._load_or_encode(split, sources, part))
        return self._splits[split]

    def has_test_split(self) -> bool:
        """Whether there are test rows; none is read for the answer."""
        return bool(self._split("test")[0])

    def _split(self, split: str) -> tuple[list[RowSource], str]:
        """The sources of a split, and which part of their rows belongs to it: "all", "train" or "held out"."""
        if split == "test":
            return self._sources("test"), "all"
        own = self.val_fraction == 0 or bool(self._sources("val"))
        if split == "train":
            return self._sources("train"), "all" if own else "train"
        return (self._sources("val"), "all") if own else (self._sources("train"), "held out")

    def _sources(self, split: str) -> list[RowSource]:
        given = {"val": self.val_path, "test": self.test_path}.get(split)
        builtin = self.builtin_schema if self.schema == "auto" else self.schema
        builtin = {"ultrafeedback_critique": "ultrafeedback", "messages": "ultrachat_200k"}.get(builtin, builtin)
        short = [short_name(path) for path in self.paths]
        found = []
        for path in self.paths if given is None else [given]:
            name = short_name(path)
            for source in find_sources(
                path,
                split,
                owner=type(self).__name__,
                builtin=builtin,
                revision=self.revision,
                only_split=given is not None,
                use=self.used_for,
            ):
                found.append(replace(source, group=name if short.count(name) < 2 else path))
        return found

    def _reader(self, sources: Sequence[RowSource]) -> ConversationReader:
        return ConversationReader(
            sources,
            self.schema,
            self.columns,
            self.on_bad_row,
            self.tags,
            tag_sources=len(self.paths) > 1,
            critique_prompt=self.critique_prompt,
        )

    def _reader_key(self) -> list[Any]:
        """What decides the rows beside the options of this class; a subclass whose reader has more says so here."""
        return []

    def _load_or_encode(self, split: str, sources: list[RowSource], part: str) -> MappedRows:
        tokenizer = self.load_tokenizer()
        limit = self.limit_train if split == "train" else None
        how = [
            [_FORMAT, self.task_type, self.max_length, self.supervise, self.too_long, self.on_bad_row],
            [self.schema, self.columns, self.tags and sorted(self.tags), self.critique_prompt, len(self.paths) > 1],
            *self._identity(tokenizer, sources),
            [part, self.val_fraction if part != "all" else None, limit, self.seed if limit else None],
            *self._reader_key(),
        ]
        path = self.cache_dir / "conversations" / f"{cache_key(how)}.safetensors"

        def write() -> None:
            reader = self._reader(sources)
            keep = self._kept(reader, part, limit)
            with TokenWriter(path, self._answers_apart) as writer:
                tally = write_conversations(
                    writer,
                    numbered(reader, keep),
                    self._encode_with(tokenizer),
                    lambda: reader.tally,
                    lambda items: self._shown(items, f"encoding {split}"),
                )
                if writer.rows == 0:
                    found = "\n  ".join(tally.lines())
                    raise ValueError(
                        f"{type(self).__name__}: no conversation of {', '.join(s.name for s in sources[:3])} is left for "
                        f"{split}; raise max_length, or correct the rows\n  {found}"
                    )
                writer.finish({"tally": json.dumps(tally.state()), "schemas": json.dumps(reader.schemas)})

        return load_or_write(path, write)

    def _identity(self, tokenizer: PreTrainedTokenizerBase, sources: Sequence[RowSource]) -> list[Any]:
        """What a cache entry was made of: tokenizer, template, and the bytes of the files."""
        for source in sources:
            if source.name not in self._fingerprints:
                self._fingerprints[source.name] = source.fingerprint()
        return [
            [tokenizer_fingerprint(tokenizer), getattr(tokenizer, "chat_template", None)],
            [[Path(source.name).name, source.group, self._fingerprints[source.name]] for source in sources],
        ]

    def _kept(self, reader: ConversationReader, part: str, limit: int | None) -> Tensor | None:
        """Which conversations are encoded; a reading of its own, before that of the encoding, where it takes one."""
        if part == "all" and limit is None:
            return None
        keys = [_hash(conversation) for conversation in self._shown(reader, "dividing rows")]
        keep = torch.ones(len(keys), dtype=torch.bool)
        if part != "all":
            validate = held_out(keys, self.val_fraction)
            keep = validate if part == "held out" else ~validate
        if limit is not None:
            kept = keep.nonzero().squeeze(1)
            order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(self.seed))
            keep = torch.zeros_like(keep)
            keep[kept[order[:limit]]] = True
        return keep

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

    def _shown(self, conversations: Iterable[Conversation], what: str) -> Iterable[Conversation]:
        """The conversations, with a progress bar once that takes longer than two seconds."""
        if self.trainer is not None and self.trainer.progress_bar_callback is None:
            return conversations
        from tqdm import tqdm

        return tqdm(conversations, desc=what, unit=" conversations", leave=False, delay=2.0)

    def _tagged(self, rows: MappedRows) -> MappedRows:
        """The rows with tags numbered as in `tag_names`, which grows by those that are new."""
        names = tags_of(rows)
        self.tag_names = self.tag_names + sorted(set(names) - set(self.tag_names))
        if not names:
            return rows.with_tag(None)
        numbers = torch.tensor([*(self.tag_names.index(name) for name in names), -1], dtype=torch.int32)
        return rows.with_tag(numbers[rows.tensors["tag"].long()])  # -1 takes the last

    def _arranged(self, encoded: EncodedRows, mixed: bool = False) -> Rows:
        """The rows packed, and those of the training loader mixed by `weights`."""
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

    def _pad_token_id(self) -> int:
        pad = self.load_tokenizer().pad_token_id
        assert isinstance(pad, int)
        return pad

    def _length_report(self, split: str, rows: MappedRows) -> LengthReport:
        train = split == "train"
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
            tally_of(rows),
            packs=len(arranged) if self.packing else None,
            rows_per_batch=(self.batch_size if train else self.eval_batch_size)
            * (trainer.world_size if trainer else 1),
            accumulate=self._accumulate() if train else 1,
            tags=None if tag is None else (tag, self.tag_names),
            schemas=json.loads(rows.metadata["schemas"]),
            pairs=self._answers_apart,
        )

    def _report(self, fitting: bool) -> None:
        """Says on the first process what the splits hold; before training it also draws their lengths."""
        trainer = self.trainer
        reports = [report for report in self.reports() if report.split not in self._reported]
        self._reported |= {report.split for report in reports}
        if not reports or (trainer is not None and not trainer.is_global_zero):
            return
        rank_zero_info("\n".join(line for report in reports for line in report.lines()))
        if fitting and trainer is not None and not getattr(trainer, "fast_dev_run", False):
            draw_histogram(reports, Path(trainer.default_root_dir) / "length_histogram.png")


def _hash(conversation: Conversation) -> int:
    return int.from_bytes(blake2b(conversation.key.encode(), digest_size=8).digest(), "little") >> 1


class SFTDataModule(ConversationDataModule):
    """A user's own conversations: ShareGPT, Alpaca, messages, prompt and completion, text, or a published schema.

    With several paths the name of a row's file is its tag, unless the schema gives it one, and weights mix the files.
    """
