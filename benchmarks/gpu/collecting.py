"""From a campaign's state to ``benchmarks/results/``: one file for each benchmark, as ``benchmarks.run --save`` writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fulgurite.whole_files import write_text

__all__ = ["collect", "figures_by_benchmark"]


def collect(state: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the figures of all pieces that were done; the files.

    Raises:
        ValueError: toy sizes, or figures of another device than a GPU: these are no results.
    """
    found = figures_by_benchmark(state)
    files = []
    for name, figures in found.items():
        path = folder / f"{name}_{figures['device']}_{figures['date']}.json"
        write_text(path, json.dumps(figures, indent=1) + "\n")
        files.append(path)
    return files


def figures_by_benchmark(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """One results dict for each benchmark; the workloads of several pieces stand in one.

    Args:
        state: of a campaign.
    """
    if state.get("toy"):
        raise ValueError(
            "benchmarks.gpu: this campaign ran at toy sizes, whose figures are no results; run it without --toy"
        )
    found: dict[str, dict[str, Any]] = {}
    for piece in state["pieces"].values():
        figures = piece.get("figures", {})
        if piece["status"] != "done" or "benchmark" not in figures:
            continue
        if figures["device"] != "cuda":
            raise ValueError(
                f"benchmarks.gpu: figures of {figures['benchmark']} were measured on {figures['device']}, not on a GPU"
            )
        before = found.get(figures["benchmark"])
        found[figures["benchmark"]] = figures if before is None else _joined(before, figures)
    return found


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Both's workloads; a workload of both is the newer's. The date is the newer one."""
    older, newer = sorted((one, other), key=lambda figures: str(figures["date"]))
    measured = {workload["name"] for workload in newer["workloads"]}
    rest = [workload for workload in older["workloads"] if workload["name"] not in measured]
    only = None if one["only"] is None or other["only"] is None else [*one["only"], *other["only"]]
    return {**newer, "only": only, "workloads": [*rest, *newer["workloads"]]}
