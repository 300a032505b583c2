"""UltraSafety (Guo et al., arXiv 2402.19085): answers to harmful instructions, each judged harmless or not."""

from fulgurite.datamodules.preferences import PreferenceDataModule

__all__ = ["UltraSafetyDataModule"]


class UltraSafetyDataModule(PreferenceDataModule):
    """UltraSafety: a harmless answer against a harmful one, by the rating of harmlessness (0 or 1).

    Eurus's reward model takes one pair per instruction: set pair_rule to best_vs_random. The columns are known from a derived
    copy only (fulgurite.data.readers.preferences); the hub's revision is not pinned: no commit was published with results.
    """

    hub_path = "openbmb/UltraSafety"
    builtin_schema = "ultrasafety"
