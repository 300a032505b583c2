"""Texts that can be encoded: half a surrogate pair, which JSON and command lines let through, stops a tokenizer."""

from fulgurite.data.records.findings import half_pair

__all__ = ["check_text"]


def check_text(text: str, where: str) -> None:
    """Raises a ValueError for a text that is no whole Unicode.

    Args:
        text: from a file or the command line.
        where: its place, for the message.
    """
    at = half_pair(text)
    if at is not None:
        raise ValueError(
            f"{where}: half a surrogate pair, or a byte that is not UTF-8, at character {at} ({text[at]!a}); correct the text"
        )
