"""UltraInteract's instructions with right answers (Eurus; Yuan et al., arXiv 2404.02078): code, maths, logic."""

from fulgurite.datamodules.conversations import ConversationDataModule
from fulgurite.datamodules.preferences import PreferenceDataModule

__all__ = ["UltraInteractDataModule", "UltraInteractPairDataModule"]


class UltraInteractDataModule(ConversationDataModule):
    """UltraInteract for supervised tuning; the tag of a row is its task, as the file has it (Coding, Math_CoT, …).

    Rows whose instructions descend from one question (`parent_id`) are never split between training and validation. The
    hub's revision is not pinned: no commit of it was published with results.
    """

    hub_path = "openbmb/UltraInteract_sft"
    builtin_schema = "ultrainteract_sft"


class UltraInteractPairDataModule(PreferenceDataModule):
    """UltraInteract for preference learning; the tag of a pair is its task (Coding, Math_CoT, …).

    Turn k + 1 goes on after the rejected action of turn k, so the pairs of one instruction (`parent_id`) are one tree. They
    are never split between training and validation. The hub's revision is not pinned: no commit of it was published with
    results.
    """

    hub_path = "openbmb/UltraInteract_pair"
    builtin_schema = "ultrainteract_pair"
