"""UltraInteract's pairs of actions (Eurus; Yuan et al., arXiv 2404.02078): multi-turn preference trees."""

from fulgurite.datamodules.preferences import PreferenceDataModule

__all__ = ["UltraInteractPairDataModule"]


class UltraInteractPairDataModule(PreferenceDataModule):
    """UltraInteract for preference learning; the tag of a pair is its task (Coding, Math_CoT, …).

    Turn k + 1 goes on after the rejected action of turn k, so the pairs of one instruction (`parent_id`) are one tree. They
    are never split between training and validation. The hub's revision is not pinned: no commit of it was published with
    results.
    """

    hub_path = "openbmb/UltraInteract_pair"
    builtin_schema = "ultrainteract_pair"
