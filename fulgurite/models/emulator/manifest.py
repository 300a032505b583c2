"""What an emulator's folder says of itself in `emulator.json`: its full model, where each layer came from, what is trained."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fulgurite.models.emulator.sharing import sharing_map

__all__ = ["MANIFEST", "Distilled", "Manifest", "read_manifest"]

MANIFEST = "emulator.json"
_FORMAT = 1
_AGAIN = "write it again with `fulgurite emulate`"


@dataclass(frozen=True)
class Distilled:
    """What the owner of the full model changed in the emulator's frozen layers before giving it away.

    Attributes:
        layers: numbers of the layers whose weights are no longer the full model's, rising.
        bytes: of these weights.
        steps: of training.
        learning_rate: at its peak.
        rows: that it was trained on.
    """

    layers: list[int]
    bytes: int
    steps: int
    learning_rate: float
    rows: int


@dataclass(frozen=True)
class Manifest:
    """An emulator in words and numbers.

    Attributes:
        origin: last part of the full model's name.
        origin_class: its class, such as "LlamaForCausalLM".
        origin_hash: SHA-256 of its weights in `dtype`.
        dtype: in which the weights were read, hashed and stored.
        layers_name: qualified name of the list of layers.
        layers: how many the full model has, L.
        kept: their numbers, rising, (m,).
        trained: those that are to be trained, (t,).
        sharing: one of :data:`fulgurite.models.emulator.sharing.SHARING`.
        layer_hashes: SHA-256 of each kept layer as the folder holds it, in the order of `kept`.
        rest_hash: SHA-256 of all weights outside the layers.
        method: how the layers were chosen, "crash" or "uniform".
        clusters: numbers of the layers of each cluster; None without clustering.
        disclosed_bytes: of the weights that the folder gives away.
        full_bytes: of the full model's weights.
        distilled: which layers were changed, and how; None where every layer is the full model's own.
    """

    origin: str
    origin_class: str
    origin_hash: str
    dtype: str
    layers_name: str
    layers: int
    kept: list[int]
    trained: list[int]
    sharing: str
    layer_hashes: list[str]
    rest_hash: str
    method: str
    clusters: list[list[int]] | None
    disclosed_bytes: int
    full_bytes: int
    distilled: Distilled | None = None

    @property
    def sources(self) -> list[int]:
        """The full model's layer at each place of the emulator."""
        return sharing_map(self.layers, self.kept, self.trained, self.sharing)

    @property
    def shares(self) -> bool:
        """Whether layers stand in for removed ones."""
        return self.sharing != "choose"

    @property
    def trained_places(self) -> dict[int, int]:
        """Place in the emulator -> number in the full model, of each layer that is trained."""
        return {number if self.shares else self.kept.index(number): number for number in self.trained}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON and checkpoints."""
        entries = {name: value for name, value in asdict(self).items() if name != "distilled" or value is not None}
        return {"format": _FORMAT, **entries, "sources": self.sources}

    @classmethod
    def from_dict(cls, data: Any, where: str) -> Manifest:
        """The inverse of :meth:`to_dict`.

        Args:
            data: as read.
            where: it was read from, for messages.

        Raises:
            ValueError: another format, missing entries, or entries that contradict one another.
        """
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"{where}: no manifest of an emulator in format {_FORMAT} (found {found!r}); {_AGAIN}")
        entries = {name: value for name, value in data.items() if name not in ("format", "sources")}
        try:
            if entries.get("distilled") is not None:
                entries["distilled"] = Distilled(**entries["distilled"])
            made = cls(**entries)
            consistent = made.sources == data["sources"] and len(made.layer_hashes) == len(made.kept) >= 2
            changed = set(made.distilled.layers if made.distilled else ())
            consistent = consistent and changed <= set(made.kept) - set(made.trained)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{where}: the manifest is damaged ({error}); {_AGAIN}") from error
        if not consistent:
            raise ValueError(f"{where}: the manifest's layers contradict one another; {_AGAIN}")
        return made


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of an emulator's folder.

    Args:
        folder: that `fulgurite emulate` wrote.

    Raises:
        FileNotFoundError: no such folder, or one without a manifest.
        ValueError: a manifest that cannot be read.
    """
    file = Path(folder) / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(
            f"emulator: {folder} holds no {MANIFEST}, so that it is no emulator or a half-written one; give a folder that "
            "`fulgurite emulate` wrote"
        )
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); {_AGAIN}") from error
    return Manifest.from_dict(data, str(file))
