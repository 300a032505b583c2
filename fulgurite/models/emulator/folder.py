"""An emulator's folder: the kept layers as a plain transformers checkpoint, and the manifest.

choose     EMULATOR/config.json, model.safetensors, emulator.json: plain transformers loads it.
repeat-*   EMULATOR/layers/config.json, layers/model.safetensors, emulator.json: each layer stands on the disk once, and
           :func:`load_emulator` repeats it. Plain transformers finds no model in EMULATOR, so that nobody takes the kept
           layers alone for the emulator.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from fulgurite.models.emulator.hashes import layer_hash, weight_hashes
from fulgurite.models.emulator.layers import find_layers, logits_of_probe
from fulgurite.models.emulator.manifest import MANIFEST, Manifest, read_manifest
from fulgurite.models.emulator.stacking import restack
from fulgurite.models.loading import checkpoint_model, quiet

__all__ = ["Emulator", "emulator_of", "is_emulator", "load_emulator", "write_emulator"]

_KEPT = "layers"  # folder of a shared emulator's weights


class Emulator(NamedTuple):
    """A model that stands for the full one while layers of it are trained.

    Attributes:
        model: with the places of `manifest.sources`.
        manifest: what it is made of.
    """

    model: nn.Module
    manifest: Manifest


def is_emulator(folder: str | Path) -> bool:
    """Whether a folder holds an emulator, whole or not.

    Args:
        folder: hub ids are none.
    """
    return (Path(folder) / MANIFEST).is_file()


def emulator_of(
    full: nn.Module,
    origin: str,
    kept: list[int],
    trained: list[int],
    sharing: str,
    method: str,
    clusters: list[list[int]] | None = None,
) -> Emulator:
    """An emulator that shares the full model's Parameters.

    Args:
        full: a causal language model of transformers.
        origin: its name.
        kept: numbers of the layers that stay, rising, the first and the last among them.
        trained: those of them that are to be trained.
        sharing: one of :data:`fulgurite.models.emulator.sharing.SHARING`.
        method: how the layers were chosen.
        clusters: the clusters that they came from.

    Raises:
        ValueError: a model without layers that can be found, or whose layers cannot stand elsewhere.
    """
    name, layers = find_layers(full)
    hashes = weight_hashes(full, name)
    inside = {id(p): p for layer in layers for p in layer.parameters()}
    outside = _bytes([p for p in full.parameters() if id(p) not in inside])
    manifest = Manifest(
        origin=Path(origin).name,
        origin_class=type(full).__name__,
        origin_hash=hashes.whole,
        dtype=str(next(full.parameters()).dtype).removeprefix("torch."),
        layers_name=name,
        layers=len(layers),
        kept=list(kept),
        trained=list(trained),
        sharing=sharing,
        layer_hashes=[hashes.layers[number] for number in kept],
        rest_hash=hashes.rest,
        method=method,
        clusters=clusters,
        disclosed_bytes=outside + _bytes([p for number in kept for p in layers[number].parameters()]),
        full_bytes=outside + _bytes(list(inside.values())),
    )
    return Emulator(restack(full, manifest.sources, list(manifest.trained_places)), manifest)


def write_emulator(full: nn.Module, manifest: Manifest, folder: Path) -> None:
    """Write the kept layers and the manifest into a folder, load them again, and compare what they compute.

    Args:
        full: of which the emulator is made.
        manifest: of :func:`emulator_of`.
        folder: empty.

    Raises:
        ValueError: what was written computes something else, because the configuration cannot say what the kept layers need.
    """
    kept: Any = restack(full, manifest.kept)
    with quiet():
        kept.save_pretrained(folder / _KEPT if manifest.shares else folder)
    (folder / MANIFEST).write_text(json.dumps(manifest.to_dict(), indent=1) + "\n", encoding="utf-8")
    expected = logits_of_probe(restack(full, manifest.sources, list(manifest.trained_places))).float()
    found = logits_of_probe(load_emulator(folder, manifest.dtype).model).float().to(expected.device)
    if not bool((found - expected).abs().max() <= 1e-5 * expected.abs().max()):
        raise ValueError(
            f"emulator: {type(full).__name__} loaded from {folder.name} computes other logits than its layers in memory do: its "
            "configuration cannot describe some layers without the others; give a model of another architecture"
        )


def load_emulator(folder: str | Path, dtype: str | None = None, trust_remote_code: bool = False) -> Emulator:
    """An emulator with every shared layer held once, checked against its manifest.

    Args:
        folder: that `fulgurite emulate` wrote.
        dtype: of the weights; None takes the manifest's.
        trust_remote_code: run model code from the folder.

    Raises:
        FileNotFoundError: no emulator, or one without its weights.
        ValueError: a damaged file, or weights other than the manifest's.
    """
    from transformers import AutoModelForCausalLM

    manifest = read_manifest(folder)
    place = Path(folder) / _KEPT if manifest.shares else Path(folder)
    if not (place / "config.json").is_file():
        raise FileNotFoundError(
            f"emulator: {place} holds no config.json, so that the emulator is half-written; write it again with `fulgurite emulate`"
        )

    def load(kind: str) -> nn.Module:
        return checkpoint_model(AutoModelForCausalLM, str(place), kind, trust_remote_code=trust_remote_code).model

    loaded = load(manifest.dtype)
    _check(loaded, manifest, folder)
    if dtype not in (None, manifest.dtype):
        loaded = load(str(dtype))  # not `to`, which would cast the tables of rotary positions as well
    if manifest.shares:
        kept = {number: place for place, number in enumerate(manifest.kept)}
        loaded = restack(loaded, [kept[source] for source in manifest.sources], list(manifest.trained_places))
    return Emulator(loaded, manifest)


def _check(loaded: nn.Module, manifest: Manifest, folder: str | Path) -> None:
    name, layers = find_layers(loaded)
    if name != manifest.layers_name or len(layers) != len(manifest.kept):
        raise ValueError(
            f"emulator: {folder} holds {len(layers)} layers in {name}, its manifest says {len(manifest.kept)} in "
            f"{manifest.layers_name}; write it again with `fulgurite emulate`"
        )
    found = [*map(layer_hash, layers), weight_hashes(loaded, name).rest]
    for what, mine, stated in zip(
        [*(f"layer {number}" for number in manifest.kept), "the embeddings and head"],
        found,
        [*manifest.layer_hashes, manifest.rest_hash],
        strict=True,
    ):
        if mine != stated:
            raise ValueError(
                f"emulator: {folder}: the weights of {what} are not those that its manifest describes; the folder was changed, or "
                "mixed with another; write it again with `fulgurite emulate`"
            )


def _bytes(parameters: list[torch.Tensor] | list[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)
