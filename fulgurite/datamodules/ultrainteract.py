"""UltraInteract's instructions with right answers (Eurus; Yuan et al., arXiv 2404.02078): code, maths, logic."""

from fulgurite.datamodules.conversations import ConversationDataModule

__all__ = ["UltraInteractDataModule"]


class UltraInteractDataModule(ConversationDataModule):
    """UltraInteract for supervised tuning; the tag of a row is its task, as the file has it (Coding, Math_CoT, …).

    Rows whose instructions descend from one question (`parent_id`) are never split between training and validation. The
    hub's revision is not pinned: no commit of it was published with results.
    """

    hub_path = "openbmb/UltraInteract_sft"
    builtin_schema = "ultrainteract_sft"
