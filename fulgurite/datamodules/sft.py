"""Conversations of any schema, in one file or several."""

from fulgurite.datamodules.conversations import ConversationDataModule

__all__ = ["SFTDataModule"]


class SFTDataModule(ConversationDataModule):
    """A user's own conversations: ShareGPT, Alpaca, messages, prompt and completion, text, or a published schema.

    With several paths the name of a row's file is its tag, unless the schema gives it one, and weights mix the files.
    """
