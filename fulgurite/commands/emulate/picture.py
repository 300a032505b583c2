"""How alike the layers are, as a map with the cuts between clusters, and the CKA of neighbours with the kept and trained layers."""

from __future__ import annotations

from pathlib import Path

import torch

from fulgurite.callbacks.picture import save
from fulgurite.models.emulator.manifest import Manifest

__all__ = ["draw"]


def draw(similarity: torch.Tensor, manifest: Manifest, file: Path) -> None:
    """Draws both.

    Args:
        similarity: CKA of each pair of layers, (L, L).
        manifest: of the emulator.
        file: where to.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11.0, 4.6), layout="constrained", dpi=110)
    heat, line = figure.subplots(1, 2)
    image = heat.imshow(similarity.numpy(), vmin=0.0, vmax=1.0, cmap="viridis", origin="lower")
    figure.colorbar(image, ax=heat, shrink=0.85)
    cuts = [cluster[0] - 0.5 for cluster in (manifest.clusters or [])[1:]]
    for cut in cuts:
        heat.axvline(cut, color="white", linewidth=0.6)
        heat.axhline(cut, color="white", linewidth=0.6)
    heat.set_title("CKA of layers; white: cuts", fontsize=9)
    heat.set_xlabel("layer")
    heat.set_ylabel("layer")
    neighbours = similarity.diagonal(1).tolist()
    line.plot([i + 0.5 for i in range(len(neighbours))], neighbours, ".-", linewidth=1, label="CKA of neighbours")
    for number, cut in enumerate(cuts):
        line.axvline(cut, color="C7", linewidth=0.8, label=None if number else "cut")
    foot = min(neighbours)
    frozen = [number for number in manifest.kept if number not in manifest.trained]
    line.plot(frozen, [foot] * len(frozen), "s", color="C0", markersize=5, label="kept, frozen")
    line.plot(manifest.trained, [foot] * len(manifest.trained), "^", color="C3", markersize=6, label="kept, trained")
    line.set_xlabel("layer")
    line.set_title(f"{len(manifest.kept)} of {manifest.layers} layers stay", fontsize=9)
    line.grid(alpha=0.3)
    line.legend(fontsize=7)
    for axis in (heat.xaxis, heat.yaxis, line.xaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    save(figure, file)
