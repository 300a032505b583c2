"""What `fulgurite emulate` says at its end, as a table and as report.json."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from rich.table import Table

from fulgurite.adapters.counting import scalars_in
from fulgurite.models.emulator.folder import Emulator

__all__ = ["report_of", "report_table"]


def report_of(
    emulator: Emulator,
    similarity: torch.Tensor | None,
    perplexities: dict[str, float],
    rows: int,
    tokens: int,
    distances: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Plain data for JSON.

    Args:
        emulator: with its model.
        similarity: CKA of each pair of layers, (L, L), or None.
        perplexities: of "full", "emulator" and "emulator, distilled" on the support set; empty without one.
        rows: of the support set.
        tokens: of it that count in the perplexity.
        distances: to the full model's states before and after distillation; None without one.
    """
    model, manifest = emulator
    return {
        "origin": manifest.origin,
        "method": manifest.method,
        "layers": manifest.layers,
        "kept": manifest.kept,
        "trained": manifest.trained,
        "sharing": manifest.sharing,
        "sources": manifest.sources,
        "clusters": manifest.clusters,
        "places": len(manifest.sources),
        "parameters_in_memory": scalars_in(model),
        "bytes_in_memory": sum(p.numel() * p.element_size() for p in model.parameters()),
        "disclosed_bytes": manifest.disclosed_bytes,
        "full_bytes": manifest.full_bytes,
        "distilled": None
        if manifest.distilled is None or distances is None
        else {**asdict(manifest.distilled), "distance_before": distances[0], "distance_after": distances[1]},
        "perplexity": perplexities,
        "support_rows": rows,
        "support_tokens": tokens,
        "cka": None if similarity is None else [[round(value, 6) for value in row] for row in similarity.tolist()],
    }


def report_table(report: dict[str, Any]) -> Table:
    """The report for people.

    Args:
        report: of :func:`report_of`.
    """
    table = Table(title=f"emulator of {report['origin']}", title_justify="left", title_style="bold", show_header=False)
    table.add_column("")
    table.add_column("", overflow="fold")
    if report["clusters"] is not None:
        runs = [f"{c[0]}" if len(c) == 1 else f"{c[0]}–{c[-1]}" for c in report["clusters"]]
        table.add_row("clusters", ", ".join(runs))
    table.add_row(f"kept, {len(report['kept'])} of {report['layers']} layers", _listed(report["kept"]))
    table.add_row("trained", _listed(report["trained"]))
    if report["sharing"] != "choose":
        table.add_row(f"layer at each place ({report['sharing']})", _listed(report["sources"]))
    mib = 2**20
    table.add_row("weights in memory", f"{report['bytes_in_memory'] / mib:.1f} MiB")
    share = report["disclosed_bytes"] / report["full_bytes"]
    given = f"{report['disclosed_bytes'] / mib:.1f} of {report['full_bytes'] / mib:.1f} MiB ({100 * share:.0f} %)"
    distilled = report["distilled"]
    if distilled is None:
        table.add_row("weights given away", f"{given}, unchanged")
    else:
        rest = (report["disclosed_bytes"] - distilled["bytes"]) / mib
        table.add_row(
            "weights given away", f"{given}: {rest:.1f} MiB unchanged, {distilled['bytes'] / mib:.1f} MiB distilled"
        )
        table.add_row("layers changed by distillation", _listed(distilled["layers"]))
        table.add_row(
            f"distance to the full model's states, {distilled['steps']} steps",
            f"{distilled['distance_before']:.4f} before, {distilled['distance_after']:.4f} after",
        )
    if report["perplexity"]:
        table.add_row("support set", f"{report['support_rows']} rows, {report['support_tokens']:,} tokens counted")
        for name, value in report["perplexity"].items():
            table.add_row(f"perplexity, {name}", f"{value:,.2f}")
    return table


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
