"""UltraChat (Ding et al., arXiv 2305.14233) and UltraChat-200k, its filtered part that Zephyr was tuned on."""

from fulgurite.datamodules.conversations import ConversationDataModule

__all__ = ["UltraChatDataModule"]


class UltraChatDataModule(ConversationDataModule):
    """UltraChat-200k from the hub (`train_sft`, `test_sft`), or either of the two in files.

    The columns tell which: `prompt, messages` is UltraChat-200k, `id, data` the whole UltraChat. The hub's revision is not
    pinned: no commit of it was published with results.
    """

    hub_path = "HuggingFaceH4/ultrachat_200k"
    builtin_schema = "ultrachat_200k"
