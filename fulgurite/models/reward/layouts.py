"""The two layouts of reward checkpoints on disk: which of them a folder has, and how its weights are read.

    regression_head            model.*, regression_head.weight (1, H): UltraRM, Eurus-RM, ours
    sequence_classification    transformers' …ForSequenceClassification with one label (score.weight, or a classifier)

transformers finds a row's last token by comparing ids with the padding token. If a tokenizer pads with the very token that ends
answers, transformers reads the token before it; so :func:`fulgurite.models.save_sequence_classification` refuses such a tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from fulgurite.models.gguf import read_config
from fulgurite.models.loading import check_folder
from fulgurite.models.weight_files import WeightFiles, check_tensor, not_found, tensors_of, unreachable, weight_files

__all__ = ["LAYOUTS", "Layout", "read_layout"]

LAYOUTS = ("sequence_classification", "regression_head")
HEAD = "regression_head.weight"
SHARD_SIZE = "5GB"


@dataclass(frozen=True)
class Layout:
    """What a checkpoint holds.

    Attributes:
        name: hub id or folder.
        kind: one of ``LAYOUTS``, or "none" for a model without a reward head.
        labels: labels of its classification head, as the configuration has them.
        config: its configuration.
        stored: its files.
    """

    name: str
    kind: str
    labels: int
    config: Any
    stored: WeightFiles

    def load_into(self, model: nn.Module) -> None:
        """Fill a reward model with the weights of a checkpoint of kind regression_head.

        Args:
            model: a reward model of the same architecture: the backbone is its submodule ``model``.

        Raises:
            ValueError: a head of another width, tensors that are missing, of another shape, or that cannot be weights.
        """
        own = model.state_dict()
        wanted = {key: tuple(value.shape) for key, value in own.items()}
        missing = set(wanted)
        for file in self.stored.files:
            part = {_without_prefix(key): value for key, value in tensors_of(file)}
            for key, value in part.items():
                if key in wanted and own[key].is_floating_point():
                    check_tensor(file, key, value)
                if key in wanted and tuple(value.shape) != wanted[key]:
                    what = "a reward head" if key == HEAD else f"{key}"
                    raise ValueError(
                        f"load_reward_model: {self.name} has {what} of shape {tuple(value.shape)}, and the model needs "
                        f"{wanted[key]}; the weights and config.json do not belong together."
                    )
            model.load_state_dict({key: value for key, value in part.items() if key in wanted}, strict=False)
            missing -= set(part)
        state = model.state_dict()
        # A tensor with two names (tied embeddings) is stored under one of them.
        there = {state[key].data_ptr() for key in set(wanted) - missing}
        missing = {key for key in missing if state[key].data_ptr() not in there}
        if missing:
            backbone = type(model.get_submodule("model")).__name__
            raise ValueError(
                f"load_reward_model: {self.name} lacks {len(missing)} tensors of {backbone}, the first is {sorted(missing)[0]!r}; "
                "the folder is incomplete, or config.json is of another architecture."
            )


def read_layout(name: str, trust_remote_code: bool = False) -> Layout:
    """Which layout a checkpoint has, by its configuration and the names of its tensors; no weights are read.

    Args:
        name: hub id or folder.
        trust_remote_code: run configuration code from the checkpoint's repository.

    Raises:
        FileNotFoundError: no such folder or hub id.
        ValueError: a checkpoint that calls itself a reward model and has no head; files that are cut short.
    """
    check_folder(name)
    try:
        config = read_config(name, trust_remote_code)
    except unreachable() as error:
        raise FileNotFoundError(not_found(name, error)) from None
    stored = weight_files(name)
    architectures = [str(entry) for entry in getattr(config, "architectures", None) or []]
    kind = "none"
    if any(key.endswith(HEAD) for key in stored.keys):
        kind = "regression_head"
    elif any(entry.endswith("RewardModel") for entry in architectures):
        raise ValueError(
            f"load_reward_model: {name} calls itself {architectures[0]}, but its weights hold no {HEAD}: the head is lost. "
            "Save the reward model again, or give its base model to train a new head."
        )
    elif any(entry.endswith("ForSequenceClassification") for entry in architectures):
        kind = "sequence_classification"
    return Layout(name, kind, int(getattr(config, "num_labels", 1)), config, stored)


def _without_prefix(key: str) -> str:
    """Wrapped trainers leave a prefix before all names, such as ``module.``."""
    return key.removeprefix("module.")
