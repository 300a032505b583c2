"""Controllable preference optimisation (CPO; Guo et al., arXiv 2402.19085): answers rated for several objectives, in two stages.

The rows of both stages come from the same files. For "cpsft" they are conversations, packed as :class:`ConversationDataModule`
packs; for "cdpo" ranked answers, whose pairs grow trees as :class:`PreferenceDataModule` has them. What these two do (cache,
packing, trees, resuming) is theirs: this class holds one of them and hands on what trainer, module and callbacks ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule

from fulgurite.data.conditions.objectives import OBJECTIVES, Objectives
from fulgurite.data.conditions.rated import CONTROLS, Bucket, weights_of
from fulgurite.data.conditions.reader import RatedReader
from fulgurite.data.conditions.rows import Conditioned, Conditioning, tag_objectives
from fulgurite.data.sources.locate import RowSource
from fulgurite.datamodules.base import LoaderDataModule
from fulgurite.datamodules.conversations import ConversationDataModule
from fulgurite.datamodules.options import documented, inherits_options
from fulgurite.datamodules.preferences import PreferenceDataModule

__all__ = ["CPODataModule"]

_STAGES = ("cpsft", "cdpo")
_HUB, _REVISION = "openbmb/UltraFeedback", "40b436560ca83a8dba36114c22ab3c66e43f6d5e"


@documented
@inherits_options(LoaderDataModule, batch_size=4, max_length=2048)
class CPODataModule(LightningDataModule):
    """Rated answers for CPO: CPO's item schema, UltraFeedback or UltraSafety, with condition tokens in front.

    Attributes after `setup`: `conditions`, the objectives that training rows were controlled by, with scales and spelling;
    those of the data modules of conversations and preferences.

    Args:
        stage: "cpsft" for conversations conditioned on the answers' own ratings, "cdpo" for pairs under conditions.
        path: hub id; file; folder with files named after their split; "builtin"; or a list of these; None takes UltraFeedback.
        schema: "cpo", "completions" (UltraFeedback, UltraSafety), or "auto" to guess it from the columns.
        objectives: lowest and highest level by objective, in the order of the tokens; None: helpfulness and honesty 1 to 5,
            harmlessness 0 to 1.
        spelling: how conditions are written: "canonical", or as the publications have it "paper", "legacy", "legacy_cdpo".
        objective_weights: weight of each objective in an answer's value under a condition (default: 1 each).
        distance_weights: factor of a controlled objective's distance from the level asked for (default: 1 each).
        control: which objectives are controlled: a "random" subset of the rated ones, "all", or "none".
        conditions_per_row: conditions of each answer (cpsft) or row (cdpo).
        buckets: pairs by condition, such as {"helpfulness=5": 3000, "honesty=any": 3000, "none": 6000}, instead of control for
            the training rows of cdpo.
        supervise: in cpsft train on the answers ("assistant") or on every token, as published ("all").
        trees: in cdpo compute what answers share (prompt, tokens) once; False gives each pair rows of its own.
        packing: lay several conversations or trees into one row.
        token_budget: in cdpo tokens of a pack; None takes twice max_length.
        on_bad_row: a row without answers that can be used is left out and counted, as long as
            a tenth of the rows at most is ("few") or however many are ("skip"), or stops the run ("error").
        val_fraction: share of the training rows that validate where there are none, whole instructions; 0 for none.
        batch_size: training packs per process and batch.
        eval_batch_size: the same elsewhere; None takes batch_size.
        max_length: tokens of a prompt with its answer at most; longer ones are left out and counted, never cut.
        seed: decides conditions and the order of the packs.
        limit_train: train on that many random conversations or ranked rows only.
    """

    def __init__(
        self,
        stage: Literal["cpsft", "cdpo"] = "cpsft",
        path: str | list[str] | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        schema: str = "auto",
        columns: dict[str, str] | None = None,
        objectives: dict[str, list[float]] | None = None,
        spelling: Literal["canonical", "paper", "legacy", "legacy_cdpo"] = "canonical",
        objective_weights: dict[str, float] | None = None,
        distance_weights: dict[str, float] | None = None,
        control: Literal["random", "all", "none"] = "random",
        conditions_per_row: int = 1,
        buckets: dict[str, int] | None = None,
        template: str | None = None,
        supervise: Literal["assistant", "all"] = "assistant",
        trees: bool = True,
        packing: bool = True,
        token_budget: int | None = None,
        on_bad_row: Literal["few", "skip", "error"] = "few",
        val_fraction: float = 0.05,
        revision: str | None = None,
        **loader: Any,
    ) -> None:
        if stage not in _STAGES or control not in CONTROLS or conditions_per_row < 1:
            raise ValueError(
                f"CPODataModule: stage={stage!r}, control={control!r}, conditions_per_row={conditions_per_row}; allowed are stage "
                f"{' or '.join(map(repr, _STAGES))}, control {', '.join(map(repr, CONTROLS))}, conditions_per_row from 1"
            )
        if buckets is not None and stage == "cpsft":
            raise ValueError(
                "CPODataModule: buckets were given; they count pairs, and the data of stage 'cpsft' has no pairs; leave them out"
            )
        self.stage = stage
        self.objectives = Objectives(OBJECTIVES if objectives is None else objectives, spelling)
        self.conditioning = Conditioning(
            self.objectives,
            weights_of(self.objectives, objective_weights, "CPODataModule: objective_weights"),
            weights_of(self.objectives, distance_weights, "CPODataModule: distance_weights"),
            control,
            conditions_per_row,
            None if buckets is None else _buckets(self.objectives, buckets),
            loader["seed"],
        )
        shared: dict[str, Any] = {
            "path": _HUB if path is None else path,
            "val_path": val_path,
            "test_path": test_path,
            "schema": schema,
            "columns": columns,
            "template": template,
            "packing": packing,
            "on_bad_row": on_bad_row,
            "val_fraction": val_fraction,
            "revision": _REVISION if path is None and revision is None else revision,
            **loader,
        }
        if loader["eval_batch_size"] is None:
            shared["eval_batch_size"] = loader["batch_size"]
        self.rows: _Conversations | _Pairs
        if stage == "cpsft":
            self.rows = _Conversations(self.conditioning, supervise=supervise, **shared)
        else:
            self.rows = _Pairs(self.conditioning, trees=trees, token_budget=token_budget, **shared)
        super().__init__()

    @property
    def trainer(self) -> Any:
        """The trainer, which the rows' own data module must know too."""
        return self.rows.trainer

    @trainer.setter
    def trainer(self, trainer: Any) -> None:
        self.rows.trainer = trainer

    @property
    def conditions(self) -> Objectives | None:
        """The objectives that the training rows were controlled by; None before they were read, and where there is none."""
        rows: Any = self.rows._splits.get("train")
        tag = None if rows is None else rows.tensors.get("tag")
        seen = [] if tag is None else [self.rows.tag_names[i] for i in tag.unique().tolist() if i >= 0]
        return self.objectives.only(tag_objectives(seen))

    @property
    def task_type(self) -> str:
        """What a module's task must be."""
        return self.rows.task_type

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics of a validation, the main one first."""
        return self.rows.metric_names

    @property
    def tag_names(self) -> list[str]:
        """What the numbers in a batch's tag stand for: the sets of controlled objectives."""
        return self.rows.tag_names

    @property
    def objective_kind(self) -> str | None:
        """What a batch of stage "cdpo" holds: pairs."""
        return getattr(self.rows, "objective_kind", None)

    @property
    def chat_template(self) -> str | None:
        """The template that is trained with."""
        return self.rows.chat_template

    @property
    def cache_dir(self) -> Path:
        """Folder of the tokenised rows."""
        return self.rows.cache_dir

    def load_tokenizer(self) -> Any:
        """The tokenizer with its chat template, loaded once."""
        return self.rows.load_tokenizer()

    def prepare_data(self) -> None:
        """Tokenises the splits of the coming stage into the cache."""
        self.rows.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Reads the stage's splits and reports, once, what they hold."""
        self.rows.setup(stage)

    def train_dataloader(self) -> Any:
        """Batches of training rows in a new order each epoch, with `tokens_in_window`."""
        return self.rows.train_dataloader()

    def val_dataloader(self) -> Any:
        """Batches of validation rows; an empty list where there are none."""
        return self.rows.val_dataloader()

    def test_dataloader(self) -> Any:
        """Batches of test rows."""
        return self.rows.test_dataloader()

    def has_test_split(self) -> bool:
        """Whether there are test rows; none is read for the answer."""
        return bool(self.rows.has_test_split())

    def predict_dataloader(self) -> Any:
        """Batches of test rows; of validation rows where there is no test split."""
        return self.rows.predict_dataloader()

    def fixed_order_dataloader(self, split: str) -> Any:
        """All units of a split once, in an order that does not change, for the reference's pass; stage "cdpo" only."""
        if not isinstance(self.rows, _Pairs):
            raise ValueError(
                "CPODataModule: stage 'cpsft' has no reference whose rows could be listed; use stage 'cdpo'"
            )
        return self.rows.fixed_order_dataloader(split)

    def sample_prompts(self, count: int) -> list[tuple[list[int], str]]:
        """Prompt ids and reference answer of the first validation rows; fewer where there are fewer."""
        return self.rows.sample_prompts(count)

    def train_subset_dataloader(self, count: int = 1000, seed: int = 42) -> Any:
        """Random training rows in evaluation mode."""
        return self.rows.train_subset_dataloader(count, seed)

    def describe(self) -> str:
        """What every split that has been read holds."""
        return self.rows.describe()

    def state_dict(self) -> dict[str, Any]:
        """Where training stands."""
        return self.rows.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the position for the training loader that is made next."""
        self.rows.load_state_dict(state_dict)


class _Conversations(ConversationDataModule):
    """Rated answers as conversations."""

    builtin_schema = "cpo"

    def __init__(self, conditioning: Conditioning, **options: Any) -> None:
        self.conditioning = conditioning
        super().__init__(**options)

    def _reader(self, sources: Sequence[RowSource]) -> Any:
        rated = RatedReader(sources, self.conditioning.objectives, self.schema, self.columns, self.on_bad_row)
        return Conditioned(rated, self.conditioning, "cpsft")

    def _reader_key(self) -> list[Any]:
        return [["cpsft", *self.conditioning.key()]]


class _Pairs(PreferenceDataModule):
    """Rated answers as pairs; buckets are those of the training rows, validation rows have one random condition each."""

    builtin_schema = "cpo"

    def __init__(self, conditioning: Conditioning, **options: Any) -> None:
        self.conditioning = conditioning
        super().__init__(objective_kind="pairs", **options)

    def _reader(self, sources: Sequence[RowSource], training: bool = True) -> Any:
        # Validation rows that are cut off the training rows are drawn with them.
        how = self.conditioning if training else replace(self.conditioning, buckets=None)
        rated = RatedReader(sources, how.objectives, self.schema, self.columns, self.on_bad_row)
        return Conditioned(rated, how, "cdpo")

    def _reader_key(self, training: bool) -> list[Any]:
        return [["cdpo", training, *self.conditioning.key()]]


def _buckets(objectives: Objectives, given: dict[str, int]) -> tuple[Bucket, ...]:
    if not given or any(count < 1 for count in given.values()):
        raise ValueError(
            f"CPODataModule: buckets is {given}; a number of pairs from 1 by condition is needed; correct it"
        )
    return tuple((objectives.parse(text, any_level=True), count) for text, count in given.items())
