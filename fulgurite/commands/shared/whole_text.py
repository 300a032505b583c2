"""A check that a text can be encoded: JSON and command lines let half a surrogate pair through, at which a tokenizer stops."""

from fulgurite.data.records.findings import half_pair

__all__ = ["check_text"]


def check_text(text: str, where: str) -> None:
    """Refuses a text with half a surrogate pair.

    Args:
        text: from a file or the command line.
        where: its place, for the message.

    Raises:
        ValueError: it holds half a pair, at the character that is named.
    """
    at = half_pair(text)
    if at is not None:
        raise ValueError(
            f"{where}: half a surrogate pair, or a byte that is not UTF-8, at character {at} ({text[at]!a}); correct the text"
        )
