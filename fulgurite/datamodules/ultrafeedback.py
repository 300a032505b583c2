"""UltraFeedback (Cui et al., arXiv 2310.01377) as preferences: four answers to each instruction, rated by GPT-4."""

from fulgurite.datamodules.preferences import PreferenceDataModule

__all__ = ["UltraFeedbackDataModule"]


class UltraFeedbackDataModule(PreferenceDataModule):
    """UltraFeedback: all pairs of a row's answers with different scores, or its groups of four; the tag is the source.

    The revision is the one in which the overall scores were corrected. `score="mean"` and `pair_rule="all"` are Eurus' and
    the paper's choice; `"overall"` and `"best_vs_random"` Zephyr's. Its binarised descendants are read by their columns:
    give their hub id or file as path.
    """

    hub_path = "openbmb/UltraFeedback"
    hub_revision = "40b436560ca83a8dba36114c22ab3c66e43f6d5e"
    builtin_schema = "ultrafeedback"
