"""Rows of a data set on the hub, or in the cache of the hub's client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["hub_rows", "hub_split"]

# The names that published data sets give to a split, the preferred first; those for one use end with `_sft` or `_prefs`.
_HUB_SPLITS = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}


def hub_rows(
    name: str, split: str, *, owner: str, revision: str | None, config: str | None = None, advice: str
) -> Sequence[dict[str, Any]]:
    """The rows of one split by the hub's own name for it.

    Args:
        name: id of the data set.
        split: as the hub calls it.
        owner: what messages call the caller.
        revision: a commit; None takes the newest.
        config: the configuration; None for the only one.
        advice: what to set a path to instead, for the message.
    """
    from datasets import load_dataset

    try:
        rows: Any = load_dataset(name, *([config] if config else []), split=split, revision=revision)
    except Exception as error:  # the hub's client raises a dozen kinds of its own
        raise _unloaded(owner, split, name, config, revision, error, advice) from error
    return rows  # type: ignore[no-any-return]


def hub_split(
    name: str, split: str, *, owner: str, revision: str | None, use: str
) -> tuple[str, Sequence[dict[str, Any]]] | None:
    """The hub's name for a split, and its rows; None where the data set has no such split.

    Args:
        name: id of the data set.
        split: "train", "val" or "test".
        owner: what messages call the caller.
        revision: a commit; None takes the newest.
        use: "sft" or "prefs": which of several splits is meant.
    """
    from datasets import get_dataset_split_names

    advice = "a local file or folder or to 'builtin'"
    try:
        names = get_dataset_split_names(name, revision=revision)
        preferred = (f"{_HUB_SPLITS[split][0]}_{use}", *_HUB_SPLITS[split])
        chosen = next((wanted for wanted in preferred if wanted in names), None)
        if chosen is None and split == "train":
            raise ValueError(f"its splits are {', '.join(names)}; one called train is needed")
    except Exception as error:  # the hub's client raises a dozen kinds of its own
        raise _unloaded(owner, f"{split} rows", name, None, revision, error, advice) from error
    if chosen is None:
        return None
    return chosen, hub_rows(name, chosen, owner=owner, revision=revision, advice=advice)


def _unloaded(
    owner: str, what: str, name: str, config: str | None, revision: str | None, error: Exception, advice: str
) -> ValueError:
    shown = f"{config}, revision" if config else "revision"
    return ValueError(
        f"{owner}: {what} of {name!r} ({shown} {revision or 'newest'}) cannot be loaded from the hub: {error}; "
        f"check the name and the network, or set path to {advice}"
    )
