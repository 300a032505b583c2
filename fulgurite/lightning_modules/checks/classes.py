"""Names of a classifier's classes: class numbers mean something only beside the order of the labels that were trained on."""

from __future__ import annotations

import json
from typing import Any

from torch import nn

__all__ = ["agreed_names", "name_classes"]


def agreed_names(owner: str, trained: list[str] | None, given: list[str] | None) -> list[str] | None:
    """The names, where those trained on and those of the data are the same in the same order; plain numbers fit any names.

    Args:
        owner: the module, for the message.
        trained: of the checkpoint, or taken from data earlier; None if unknown.
        given: of the data now; None if unknown.

    Raises:
        ValueError: other labels, or another order of them.
    """
    numbers = [str(place) for place in range(len(given or trained or ()))]
    if not trained or not given or trained == given or given == numbers:
        return trained or given
    if trained == numbers:
        return given
    raise ValueError(
        f"{owner}: the classes of the data are {', '.join(given)}, in this order; it was trained on {', '.join(trained)}, and "
        f"class numbers would mean other labels. Give --data.label_names '{json.dumps(trained)}', or the data it was trained on."
    )


def name_classes(network: nn.Module | None, names: list[str] | None) -> None:
    """Write the names into a transformers configuration, so that an export says what its classes are."""
    config: Any = getattr(network, "config", None)
    if names and config is not None and getattr(config, "num_labels", 0) == len(names):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: place for place, name in enumerate(names)}
