"""UltraFeedback (Cui et al., arXiv 2310.01377) as preferences: four answers to each instruction, rated by GPT-4."""

from typing import Literal

from fulgurite.data.readers.critiques import critique_reader
from fulgurite.datamodules.conversations import ConversationDataModule
from fulgurite.datamodules.preferences import PreferenceDataModule

__all__ = ["UltraCritiqueDataModule", "UltraFeedbackDataModule"]


class UltraFeedbackDataModule(PreferenceDataModule):
    """UltraFeedback: all pairs of a row's answers with different scores, or its groups of four; the tag is the source.

    The revision is the one in which the overall scores were corrected. `score="mean"` and `pair_rule="all"` are Eurus' and
    the paper's choice; `"overall"` and `"best_vs_random"` Zephyr's. Its binarised descendants are read by their columns:
    give their hub id or file as path.
    """

    hub_path = "openbmb/UltraFeedback"
    hub_revision = "40b436560ca83a8dba36114c22ab3c66e43f6d5e"
    builtin_schema = "ultrafeedback"


class UltraCritiqueDataModule(ConversationDataModule):
    """UltraFeedback as critiques: one conversation per completion, which ends with feedback and a score.

    What the model is asked and answers is described in fulgurite.data.readers.critiques. The hub's revision is the one in which
    the overall scores were corrected.

    Args:
        prompt: what the model is asked, with {instruction} and {answer} in it; None takes our wording.
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

    hub_path = "openbmb/UltraFeedback"
    hub_revision = "40b436560ca83a8dba36114c22ab3c66e43f6d5e"
    builtin_schema = "ultrafeedback_critique"

    def __init__(
        self,
        prompt: str | None = None,
        path: str | list[str] | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        schema: str = "ultrafeedback_critique",
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
            path=path,
            val_path=val_path,
            test_path=test_path,
            schema=schema,
            columns=columns,
            template=template,
            supervise=supervise,
            task_type=task_type,
            packing=packing,
            too_long=too_long,
            on_bad_row=on_bad_row,
            val_fraction=val_fraction,
            weights=weights,
            mixing=mixing,
            revision=revision,
            tokenizer=tokenizer,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            max_length=max_length,
            num_workers=num_workers,
            seed=seed,
            cache_dir=cache_dir,
            limit_train=limit_train,
            pad_multiple=pad_multiple,
        )
        if prompt is not None:
            critique_reader(prompt)  # raises where a mark is missing
        self.critique_prompt = prompt
