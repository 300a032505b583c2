"""UltraFeedback (Cui et al., arXiv 2310.01377), four answers to each instruction, rated by GPT-4, as preferences and critiques; and
UltraSafety (Guo et al., arXiv 2402.19085), answers to harmful instructions, each judged harmless or not.
"""

from typing import Literal

from fulgurite.data.readers.critiques import critique_reader
from fulgurite.datamodules.conversations import ConversationDataModule
from fulgurite.datamodules.preferences import PreferenceDataModule

__all__ = ["UltraCritiqueDataModule", "UltraFeedbackDataModule", "UltraSafetyDataModule"]


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
        on_bad_row: Literal["few", "skip", "error"] = "few",
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


class UltraSafetyDataModule(PreferenceDataModule):
    """UltraSafety: a harmless answer against a harmful one, by the rating of harmlessness (0 or 1).

    Eurus's reward model takes one pair per instruction: set pair_rule to best_vs_random. The columns are known from a derived
    copy only (fulgurite.data.readers.preferences); the hub's revision is not pinned: no commit was published with results.
    """

    hub_path = "openbmb/UltraSafety"
    builtin_schema = "ultrasafety"
