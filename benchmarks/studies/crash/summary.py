"""The study's table: accuracies with intervals, paired differences, and the order that the paper states.

    python -m benchmarks.studies.crash.summary OUT/arms.jsonl

prints it of what a run has found so far.

A row's correctness is averaged over seeds first; intervals come from 10,000 bootstrap draws of the rows, the same draws for both
sides of a difference. They say how much would change with other questions, not with other seeds: the standard deviation over seeds
stands beside them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.crash.names import FULL, METHODS, ZERO

__all__ = ["interval", "order", "summarise", "table"]

_DRAWS = 10_000
Record = dict[str, Any]


def interval(*tasks: np.ndarray) -> tuple[float, float, float]:
    """Mean over rows and its 95 % interval.

    Args:
        tasks: (rows,) of each task, whose means are averaged.
    """
    rng = np.random.default_rng(0)
    draws = [part[rng.integers(0, len(part), (_DRAWS, len(part)))].mean(1) for part in tasks]
    means = np.mean(draws, axis=0)
    mean = float(np.mean([part.mean() for part in tasks]))
    return mean, float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def _rights(records: Sequence[Record], side: str) -> np.ndarray:
    """In percent, (rows,), averaged over seeds."""
    return 100 * np.mean([[int(c) for c in record[side]["right"]] for record in records], axis=0)


def _losses(records: Sequence[Record], side: str) -> np.ndarray:
    """−log p of the right answer, (rows,), averaged over seeds."""
    return np.asarray(np.mean([record[side]["loss"] for record in records], axis=0))


def _some(records: Sequence[Record], **wanted: Any) -> list[Record]:
    return [record for record in records if all(record[name] == value for name, value in wanted.items())]


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """The lines of the table, and the tests of the order.

    Args:
        records: lines of the study's file.
    """
    lines, tests = [], []
    tasks = list(dict.fromkeys(record["task"] for record in records))
    for task in tasks:
        mine = _some(records, task=task)
        zero = _some(mine, kind=ZERO)
        if not zero:
            continue
        lines.append({"task": task, "name": ZERO, **_model(zero, zero)})
        if full := _some(mine, kind=FULL):
            lines.append({"task": task, "name": FULL, **_model(full, zero)})
        tuned = _some(mine, kind="tuned")
        for key in dict.fromkeys((r["keep"], r["sharing"], r["method"]) for r in tuned):
            keep, sharing, method = key
            which = {"keep": keep, "sharing": sharing, "method": method}
            found, before = _some(tuned, **which), _some(mine, kind="before", **which)
            names = {"name": f"{method}, {sharing}", "keep": keep}
            share = before[0]["bytes"] / before[0]["full_bytes"]
            sides = {"before": _side(before), "after": _side(found), "share": share}
            lines.append({"task": task, **names, **_model(found, zero), **sides})
    keeps = sorted({record["keep"] for record in records} - {0})
    for keep in keeps:
        for chosen in (*([task] for task in tasks), *([tasks] if len(tasks) > 1 else [])):
            tests += order(records, keep, chosen)
    return {"lines": lines, "tests": tests}


def _model(found: list[Record], zero: list[Record]) -> dict[str, Any]:
    rights = [100 * np.mean([int(c) for c in record["model"]["right"]]) for record in found]
    return {
        "seeds": len(found),
        "accuracy": interval(_rights(found, "model")),
        "spread": float(np.std(rights, ddof=1)) if len(rights) > 1 else None,
        "gain": interval(_rights(found, "model") - _rights(zero, "model")),
        "loss": float(np.mean([record["model"]["mean_loss"] for record in found])),
    }


def _side(found: list[Record]) -> dict[str, float]:
    mean = float(np.mean([record["emulator"]["mean_loss"] for record in found]))
    return {"accuracy": float(_rights(found, "emulator").mean()), "loss": mean}


def order(records: Sequence[Record], keep: int, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """CRaSh's plug-in against uniform's, and both against zero-shot: each averaged over the kinds of sharing that both have.

    Args:
        records: lines of the study's file.
        keep: layers that stay.
        tasks: one, or several whose means are averaged.
    """
    measures: dict[str, Callable[[Sequence[Record], str], np.ndarray]] = {"accuracy": _rights, "loss": _losses}
    found = []
    for measure, values in measures.items():
        sides: dict[str, list[np.ndarray]] = {ZERO: [], **{method: [] for method in METHODS}}
        for task in tasks:
            mine = _some(records, task=task)
            tuned = _some(mine, kind="tuned", keep=keep)
            pairs = {m: {(r["sharing"], r["seed"]) for r in _some(tuned, method=m)} for m in METHODS}
            common = set.intersection(*pairs.values())
            zero = _some(mine, kind=ZERO)
            if not common or not zero:
                return []
            sides[ZERO].append(values(zero, "model"))
            for method in METHODS:
                both = [r for r in _some(tuned, method=method) if (r["sharing"], r["seed"]) in common]
                sides[method].append(values(both, "model"))
        for first, second in (("crash", "uniform"), ("crash", ZERO), ("uniform", ZERO)):
            apart = [a - b for a, b in zip(sides[first], sides[second], strict=True)]
            mean, low, high = interval(*apart)
            better = low > 0 if measure == "accuracy" else high < 0
            worse = high < 0 if measure == "accuracy" else low > 0
            said = "holds" if better else "the opposite" if worse else "not decided"
            what = {"keep": keep, "tasks": list(tasks), "measure": measure, "pair": [first, second]}
            found.append({**what, "difference": (mean, low, high), "said": said})
    return found


def table(found: dict[str, Any]) -> list[str]:
    """Both as Markdown.

    Args:
        found: of :func:`summarise`.
    """
    rows = [
        "| task | kept | model | emulator before: acc, loss | emulator tuned: acc, loss | full model: acc [95 %] (± seeds) | loss "
        "| − zero-shot, points [95 %] | seeds |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for line in found["lines"]:
        sides = [f"{line[s]['accuracy']:.1f}, {line[s]['loss']:.2f}" if s in line else "" for s in ("before", "after")]
        mean, low, high = line["accuracy"]
        spread = "" if line["spread"] is None else f" (± {line['spread']:.1f})"
        gain = "" if line["name"] == ZERO else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*line["gain"])
        values = [f"{mean:.1f} [{low:.1f}, {high:.1f}]{spread}", f"{line['loss']:.3f}", gain, str(line["seeds"])]
        rows.append("| " + " | ".join([line["task"], str(line.get("keep", "")), line["name"], *sides, *values]) + " |")
    rows += [
        "",
        "| kept | tasks | measure | difference of plug-ins | [95 %] | paper's order |",
        "|--:|---|---|---|--:|---|",
    ]
    for test in found["tests"]:
        mean, low, high = test["difference"]
        pair, tasks = " − ".join(test["pair"]), " and ".join(test["tasks"])
        shown = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
        rows.append(f"| {test['keep']} | {tasks} | {test['measure']} | {pair} | {shown} | {test['said']} |")
    return rows


def main(arguments: list[str]) -> None:
    """Prints the table of a study's file.

    Args:
        arguments: the file.
    """
    whole = Path(arguments[0]).read_text(encoding="utf-8").rpartition("\n")[0]
    print("\n".join(table(summarise([json.loads(line) for line in whole.splitlines()[1:]]))))


if __name__ == "__main__":
    main(sys.argv[1:])
