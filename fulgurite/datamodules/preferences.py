"""`PreferenceDataModule`: preferences of any published schema, as packs of trees.

`prepare_data` reads the records, encodes each answer once, grows the trees (fulgurite.data.trees.growing) and writes them to a
cache file for each split, which every rank reads. A source is read once for the rows that are trained on and those that are held
out; a second time where something has to be known before the first record is encoded (fulgurite.data.trees.preparing).

The sampler's unit is a pack of trees: the order of the packs is drawn anew in each epoch, what is in a pack never changes, and an
interrupted epoch resumes to the same batches. `tokens_in_window` counts units: pairs, labelled answers, or groups of scored
answers. With labels a pack holds wanted and unwanted answers alike (fulgurite.data.trees.packing).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fulgurite.data.encoding.conversations import PLAIN_TEXT
from fulgurite.data.encoding.templates import NO_TEMPLATE, apply_template, stored_template
from fulgurite.data.encoding.tokenizers import tokenizer_fingerprint
from fulgurite.data.readers.base import ON_BAD_ROW
from fulgurite.data.readers.preferences import PreferenceReader
from fulgurite.data.records.findings import Tally
from fulgurite.data.rows.encoded import Rows
from fulgurite.data.rows.report import LengthReport, length_report
from fulgurite.data.rows.store import cache_key
from fulgurite.data.sampling.mixing import mix, tag_numbers
from fulgurite.data.sources.locate import RowSource
from fulgurite.data.sources.row_files import RowFiles, SplitRows
from fulgurite.data.trees.comparisons import KINDS, PAIR_RULES, Kind
from fulgurite.data.trees.growing import load_trees, save_trees
from fulgurite.data.trees.packing import pack_trees
from fulgurite.data.trees.preparing import Selection, TreeOptions, prepare_trees
from fulgurite.data.trees.report import tree_report
from fulgurite.data.trees.rows import PackedTrees, TreeCollator, TreeRows, path_to
from fulgurite.datamodules.base import LoaderDataModule
from fulgurite.datamodules.options import check_choice, inherits_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PreferenceDataModule"]

_log = logging.getLogger(__name__)


@inherits_options(LoaderDataModule, batch_size=4, max_length=2048)
class PreferenceDataModule(LoaderDataModule):
    """Pairs of answers, answers with a label, or several answers with scores, in any schema.

    Attributes after `setup`: `objective_kind`, what a batch holds; `tag_names`, what the numbers in its `tag` stand for.

    Args:
        as_chat: lay the chat template over prompts and answers that are plain texts; false joins them as they are, and `score` and
            `generate` then do the same.
        objective_kind: what a loss sees: "pairs", "labels" (KTO) or "groups" (K-way); None: labels if the rows have them,
            else pairs.
        pair_rule: pairs of a row with several scored answers: "all", "best_vs_random" or "best_vs_worst".
        ties: best_vs_random may draw an answer as good as the best, as the published binarisation does.
        score: what ranks UltraFeedback's answers: "mean" of the ratings, "overall", or the name of an aspect.
        margin_scale: divides margins: a number, or "annotation" for the widest one that the ratings' scale allows (then at most
            1); None takes margins in points.
        augment: add Eurus's single-turn pairs of one instruction's actions (rows with a parent_id), for training only.
        trees: compute what answers share (prompt, earlier turns) once; False gives each pair rows of its own.
        packing: lay several trees into one row; False gives each answer a padded row of its own, without trees.
        token_budget: tokens of a pack; None takes twice max_length, for groups four times.
        on_bad_row: a row that is no preference is left out and counted, as long as a tenth of the rows at most is ("few") or
            however many are ("skip"), or stops the run ("error").
        weights: share of each path's pairs in the training rows, by its short name (with one path, of each tag); None takes
            the rows as they are.
        mixing: with weights, an epoch ends when the first path's rows do, or has as many pairs as there are and repeats.
        batch_size: packs per process and batch; without packing units (pairs, labels, groups).
        eval_batch_size: the same elsewhere; None takes batch_size.
        max_length: tokens of a prompt with its answer at most; longer ones are left out and counted, never cut.
        seed: decides the order of the packs, random pairs, and the mismatched answers of KTO's baseline.
        limit_train: train on that many rows of random groups only; those of them that are too long are left out.
    """

    builtin_schema = "ultrafeedback_binarized"

    def __init__(
        self,
        path: str | list[str] | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        schema: str = "auto",
        columns: dict[str, str] | None = None,
        as_chat: bool = True,
        template: str | None = None,
        objective_kind: Literal["pairs", "labels", "groups"] | None = None,
        pair_rule: Literal["all", "best_vs_random", "best_vs_worst"] = "all",
        ties: bool = False,
        score: str = "mean",
        margin_scale: float | Literal["annotation"] | None = None,
        augment: bool = False,
        trees: bool = True,
        packing: bool = True,
        token_budget: int | None = None,
        on_bad_row: Literal["few", "skip", "error"] = "few",
        val_fraction: float = 0.05,
        weights: dict[str, float] | None = None,
        mixing: Literal["until_first_ends", "repeat"] = "until_first_ends",
        revision: str | None = None,
        **loader: Any,
    ) -> None:
        name = type(self).__name__
        if loader["eval_batch_size"] is None:
            loader["eval_batch_size"] = loader["batch_size"]
        super().__init__(**loader)
        if isinstance(margin_scale, (int, float)) and not 0 < margin_scale < float("inf"):
            raise ValueError(
                f"{name}: margin_scale is {margin_scale}; allowed are numbers above 0, 'annotation' and None"
            )
        check_choice(name, "on_bad_row", on_bad_row, ON_BAD_ROW)
        check_choice(name, "mixing", mixing, ("until_first_ends", "repeat"))
        check_choice(name, "objective_kind", objective_kind or KINDS[0], KINDS)
        check_choice(name, "pair_rule", pair_rule, PAIR_RULES)
        if token_budget is not None and token_budget < self.max_length:
            raise ValueError(
                f"{name}: token_budget is {token_budget}; a pack must hold one path of max_length={self.max_length} tokens; "
                "raise it, or lower max_length"
            )
        self.schema, self.columns, self.template = schema, columns, template
        self.score, self.as_chat, self.margin_scale, self.augment = score, as_chat, margin_scale, augment
        self.pair_rule, self.ties = pair_rule, ties
        self.packing, self.trees = packing, trees and packing
        self.token_budget, self.on_bad_row = token_budget, on_bad_row
        self.val_fraction, self.weights, self.mixing = val_fraction, weights, mixing
        self.revision = revision or (self.hub_revision if path is None else None)
        self.files = RowFiles(
            self.hub_path if path is None else path,
            owner=name,
            builtin=self.builtin_schema if schema == "auto" else schema,
            revision=self.revision,
            val_path=val_path,
            test_path=test_path,
            val_fraction=val_fraction,
            use="prefs",
        )
        self.task_type = "preference"
        self.metric_names = ()
        self.tag_names: list[str] = []
        self._given_kind: Kind | None = objective_kind
        self.objective_kind: Kind | None = objective_kind
        self._reader([])  # a schema or column that does not exist is told now
        self._mixed: tuple[TreeRows, Tensor | None, Rows] | None = None

    def _with_template(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        return apply_template(tokenizer, self.template)

    @property
    def chat_template(self) -> str | None:
        """The template that is trained with, so that a module can keep it; "none" for plain text, None where nothing is known."""
        if not self.as_chat:
            found = [rows for rows in self._splits.values() if rows is not None] or [self._need("train", "fit")]
            if any(PLAIN_TEXT in json.loads(rows.metadata["tally"])["notes"] for rows in found):
                return NO_TEMPLATE
        return stored_template(self.load_tokenizer(), self.template)

    def reports(self) -> list[LengthReport]:
        """Units, trees, tokens, packs and steps of every split that has been read."""
        return [self._length_report(split, rows) for split, rows in self._splits.items() if rows is not None]

    def sample_prompts(self, count: int) -> list[tuple[list[int], str]]:
        """Prompt ids and the better answer of the first validation trees; fewer where there are fewer.

        Args:
            count: how many.
        """
        trees: Any = self._rows("val")
        tokenizer, found = self.load_tokenizer(), []
        collator = TreeCollator(self._pad_token_id())
        for index in range(min(count, 0 if trees is None else len(trees))):
            batch = collator.rows([trees[index]])
            good = batch["pairs"][:, 0] if len(batch["pairs"]) else (batch["desirable"] != 0).nonzero().squeeze(1)
            if not len(good):
                continue
            best = int(good[0])
            prompt = path_to(batch, int(batch["sources"][batch["owner"] == best][0])).tolist()
            answer = batch["targets"][batch["owner"] == best].tolist()
            found.append((prompt, str(tokenizer.decode(answer, skip_special_tokens=True))))
        return found

    def fixed_order_dataloader(self, split: str) -> DataLoader[Any] | None:
        """All units of a split once, in an order that does not change; None where there is no such split.

        Args:
            split: "train", "val" or "test".
        """
        rows = self._rows(split)
        return None if rows is None else self._evaluation_loader(rows, split)

    def train_subset_dataloader(self, count: int = 1000, seed: int = 42) -> DataLoader[Any]:
        """Random training trees in evaluation mode, with about `count` units.

        Args:
            count: number of units; all of them where there are fewer.
            seed: decides which.
        """
        rows: Any = self._need("train", "fit")
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        before = rows.targets()[order].cumsum(0) - rows.targets()[order]
        return self._evaluation_loader(rows, "train", order[before < count].sort().values)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of test rows; of validation rows where there is no test split."""
        rows: Any = self._rows("test")
        rows = self._need("val", "predict") if rows is None else rows
        # A plain loader: Lightning rebuilds it to keep track of the rows behind each prediction.
        packed: Any = self._packed(rows, None)
        collate: Callable[[list[Any]], Any] = self._collator().rows
        return DataLoader(packed, batch_size=self.eval_batch_size, collate_fn=collate, num_workers=self.num_workers)

    def _evaluation_loader(self, encoded: Any, split: str, chosen: Tensor | None = None) -> DataLoader[Any]:
        packed = encoded if isinstance(encoded, PackedTrees) else self._packed(encoded, chosen)
        return super()._evaluation_loader(packed, split)  # type: ignore[arg-type]

    def has_test_split(self) -> bool:
        """Whether there are test rows; none is read for the answer."""
        return bool(self.files.split("test").sources)

    def _rows(self, split: str) -> TreeRows | None:
        if split not in self._splits:
            where = self.files.split(split)
            self._splits[split] = self._tagged(self._load_or_grow(split, where)) if where.sources else None
        found: TreeRows | None = self._splits[split]
        return found

    def _reader(self, sources: Sequence[RowSource], training: bool = True) -> Any:
        """Reads the records of some sources; whether they are those of training rows matters to a subclass."""
        several = len(self.files.paths) > 1
        return PreferenceReader(
            sources,
            self.schema,
            self.columns,
            self.on_bad_row,
            None,
            tag_sources="all" if self.weights is not None and several else several,
            score=self.score,
            as_chat=self.as_chat,
        )

    def _reader_key(self, training: bool) -> list[Any]:
        """What decides the records beside the options of this class; a subclass whose reader has more says so here."""
        return []

    def _load_or_grow(self, split: str, where: SplitRows) -> TreeRows:
        """The trees of a split, out of the cache, or grown and written there."""
        tokenizer, path = self.load_tokenizer(), self._cache_file(split, where)
        if path.is_file():
            try:
                return load_trees(path)
            except ValueError as error:
                _log.warning("the cache entry %s is damaged (%s); it is built again", path, error)
        wanted = {split: self._selection(split, where)}
        other = {"train": "val", "val": "train"}.get(split)
        if other in self._coming and other is not None and where.part != "all":
            beside = self.files.split(other)
            if beside.part != "all" and not self._cache_file(other, beside).is_file():
                wanted[other] = self._selection(other, beside)  # out of the same reading
        grown = prepare_trees(
            self._reader(where.sources, split == "train" or where.part != "all"),
            tokenizer,
            wanted,
            self._tree_options(),
            owner=type(self).__name__,
            sources=[source.name for source in where.sources],
            progress=lambda items, what: self._shown(items, what, " rows"),
        )
        for name, rows in grown.items():
            save_trees(rows, self._cache_file(name, self.files.split(name)))
        return load_trees(path)

    def _selection(self, split: str, where: SplitRows) -> Selection:
        train = split == "train"
        return Selection(where.part, self.val_fraction, self.limit_train if train else None, self.augment and train)

    def _tree_options(self) -> TreeOptions:
        return TreeOptions(
            self._given_kind,
            self.pair_rule,
            self.ties,
            self.margin_scale,
            self.max_length,
            self.token_budget,
            self.trees,
            self.seed,
        )

    def _cache_file(self, split: str, where: SplitRows) -> Path:
        limit = self.limit_train if split == "train" else None
        tokenizer = self.load_tokenizer()
        how = [
            ["preferences", self.max_length, self.token_budget, self.on_bad_row, self.seed],
            [self._given_kind, self.pair_rule, self.ties, self.score, self.trees, self.as_chat, self.margin_scale],
            [self.schema, self.columns, len(self.files.paths) > 1, self.weights is not None],
            [self.augment and split == "train"],
            [tokenizer_fingerprint(tokenizer), getattr(tokenizer, "chat_template", None)],
            self.files.identity(where.sources),
            [where.part, self.val_fraction if where.part != "all" else None, limit],
            *self._reader_key(split == "train" or where.part != "all"),
        ]
        return self.cache_dir / "preferences" / f"{cache_key(how)}.safetensors"

    def _budget(self, kind: str | None) -> int:
        return self._tree_options().budget(kind)

    def _tagged(self, rows: TreeRows) -> TreeRows:
        """The rows with tags numbered as in `tag_names`, which grows by those that are new; the kind is set."""
        kind: Any = rows.metadata["kind"]
        if self.objective_kind is not None and kind != self.objective_kind:
            raise ValueError(
                f"{type(self).__name__}: one split holds {self.objective_kind} and another {kind}; give rows of one kind, or "
                "set objective_kind"
            )
        self.objective_kind = kind
        names = json.loads(rows.metadata["tag_names"])
        self.tag_names, numbers = tag_numbers(self.tag_names, names)
        if names:
            rows.tensors["tag"] = numbers[rows.tensors["tag"].long()]
        else:
            del rows.tensors["tag"]
        return rows

    def _arranged(self, encoded: Any, mixed: bool = False) -> Rows:
        if isinstance(encoded, PackedTrees):
            return encoded
        if not mixed:
            return self._packed(encoded, None)
        if self._mixed is None or self._mixed[0] is not encoded:
            chosen = None
            if self.weights is not None:
                names = self.tag_names if _tree_tags(encoded) is not None else []
                tags = torch.full((len(encoded),), -1) if not names else _tree_tags(encoded)
                chosen = mix(tags, names, self.weights, self.mixing, self.seed, encoded.targets())  # type: ignore[arg-type]
            self._mixed = (encoded, chosen, self._packed(encoded, chosen))
        return self._mixed[2]

    def _packed(self, encoded: Any, chosen: Tensor | None) -> Rows:
        """Trees in packs; without packing each unit is a pack."""
        trees = torch.arange(len(encoded)) if chosen is None else chosen
        if not self.packing:
            return PackedTrees(encoded, trees[:, None].tolist())
        labels = self.objective_kind == "labels"
        return pack_trees(encoded, trees, self._budget(self.objective_kind), labels, self.seed)

    def _collator(self) -> Any:
        return TreeCollator(self._pad_token_id(), self.pad_multiple, self.packing)

    def _length_report(self, split: str, rows: Any) -> LengthReport:
        train = split == "train"
        arranged = self._arranged(rows, mixed=train)
        trainer = self.trainer
        tag, lengths, units = rows.tensors.get("tag"), rows.lengths, rows.targets()
        chosen = self._mixed[1] if train and self._mixed is not None else None
        if chosen is not None:  # shares are then those of units, as weights are
            lengths, units = lengths[chosen], units[chosen]
            tag = _tree_tags(rows)[chosen].repeat_interleave(units)  # type: ignore[index]
        base = length_report(
            split,
            lengths,
            units,
            self._budget(self.objective_kind),
            Tally(**json.loads(rows.metadata["tally"])),
            packs=len(arranged) if self.packing else None,
            rows_per_batch=(self.batch_size if train else self.eval_batch_size)
            * (trainer.world_size if trainer else 1),
            accumulate=self._accumulate() if train else 1,
            tags=None if tag is None else (tag, self.tag_names),
            schemas=json.loads(rows.metadata["schemas"]),
        )
        limit = self.limit_train if train else None
        return tree_report(base, rows, self.objective_kind or "pairs", self.max_length, self.trees, chosen, limit)


def _tree_tags(rows: Any) -> Tensor | None:
    """The tag of each tree, (trees,) int64: its first completion's."""
    tag = rows.tensors.get("tag")
    return None if tag is None else tag[rows.tensors["tree_completions"][:-1]].long()
