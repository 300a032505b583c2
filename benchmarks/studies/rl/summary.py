"""The tables and the picture of the playground's study.

    python -m benchmarks.studies.rl.summary OUT/arms.jsonl

prints the tables of what a run has found so far.

Intervals are 95 %, by bootstrap: seeds are drawn anew, and questions are drawn anew, the same for both sides of a difference. Three
seeds say little about how seeds vary, and the intervals are then rather too short.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fulgurite.evaluation.selection.curves import best_of_n, kl_bound, steps_to
from fulgurite.whole_files import whole_file

__all__ = ["BASE", "BEST", "FINAL", "PROXY", "TRIAL", "chosen_rate", "interval", "picture", "summarise", "table"]

BASE, TRIAL, FINAL, BEST, PROXY = "base", "trial", "final", "best of n", "reward model"
_DRAWS, _LAST = 2000, 5  # resamples; steps that an end of a curve is the mean of
Record = dict[str, Any]
Interval = tuple[float, float, float]


def chosen_rate(records: Sequence[Record], method: str) -> float:
    """The learning rate of a method whose trial has the largest share of right likeliest answers; of equal ones, of drawn ones.

    Args:
        records: with the trials of the method.
        method: which.
    """
    trials = _some(records, phase=TRIAL, method=method)
    best = max(trials, key=lambda trial: (_shares(trial, "right").mean(), _shares(trial, "drawn_right").mean()))
    return float(best["rate"])


def interval(values: np.ndarray) -> Interval:
    """Mean and its 95 % interval in percent.

    Args:
        values: of each seed and question, (S, Q).
    """
    rng = np.random.default_rng(0)
    seeds, questions = values.shape
    means = [
        values[rng.integers(0, seeds, seeds)][:, rng.integers(0, questions, questions)].mean() for _ in range(_DRAWS)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return 100 * float(values.mean()), 100 * float(low), 100 * float(high)


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """The lines of both tables and the curves of the picture; only of what is there yet.

    Args:
        records: lines of the study's file.
    """
    found: dict[str, Any] = {"methods": [], "trials": [], "curves": {}, "proxy": [], "best": []}
    for trial in _some(records, phase=TRIAL):
        right, drawn = (100 * float(_shares(trial, name).mean()) for name in ("right", "drawn_right"))
        found["trials"].append(
            {"method": trial["method"], "rate": trial["rate"], "right": right, "drawn": drawn, "kl": trial["kl"]}
        )
    base = _some(records, phase=BASE)
    if not base:
        return found
    found["methods"].append({"method": "the SFT base", **_accuracies(base, base)})
    finals = _some(records, phase=FINAL)
    for method in dict.fromkeys(record["method"] for record in finals):
        own = _some(finals, method=method)
        found["methods"].append({"method": method, "rate": own[0]["rate"], **_accuracies(own, base), **_run(own)})
        if "steps" in own[0]:
            found["curves"][method] = _curve(own, ("reward", "kl"))
    for best in _some(records, phase=BEST):
        found["best"] = _best(best)
    proxies = _some(records, phase=PROXY)
    for beta in dict.fromkeys(record["beta"] for record in proxies):
        own = _some(proxies, beta=beta)
        curve = _curve(own, ("kl", "reward", "true"))
        line = {"beta": beta, "accuracy_of_reward": own[0]["reward_accuracy"], "curve": curve}
        found["proxy"].append({**line, **_accuracies(own, base), **_run(own)})
    return found


def _best(record: Record) -> list[dict[str, Any]]:
    """For each n: the bound of KL, the share right where the checker chooses and where the reward model does, and its reward."""
    rights = [[float(letter) for letter in row] for row in record["rights"]]
    lines = []
    for n in steps_to(len(rights[0])):
        by_checker = np.array([[best_of_n(own, own, n) for own in rights]], dtype=float)
        by_model = np.array(
            [[best_of_n(s, own, n) for s, own in zip(record["scores"], rights, strict=True)]], dtype=float
        )
        proxy = float(np.mean([best_of_n(scores, scores, n) or 0.0 for scores in record["scores"]]))
        shares = {"checker": interval(by_checker), "model": interval(by_model)}
        lines.append({"n": n, "kl": kl_bound(n), "proxy": proxy, "tokens": record["tokens"], **shares})
    return lines


def _some(records: Sequence[Record], **wanted: Any) -> list[Record]:
    return [record for record in records if all(record[name] == value for name, value in wanted.items())]


def _shares(record: Record, name: str) -> np.ndarray:
    """Of each question, (Q,)."""
    divisor = record["drawn"] if name == "drawn_right" else 1
    return np.array([int(value) for value in record[name]], dtype=float) / divisor


def _accuracies(own: Sequence[Record], base: Sequence[Record]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("right", "drawn_right"):
        values = np.stack([_shares(record, name) for record in own])
        found[name] = interval(values)
        found[f"{name}_gain"] = interval(values - _shares(base[0], name))
    return found


def _run(own: Sequence[Record]) -> dict[str, Any]:
    """Means over the seeds."""
    mean = {name: float(np.mean([record[name] for record in own])) for name in ("kl", "tokens", "seconds")}
    mean |= {"most_kl": max(record["kl"] for record in own), "seeds": len(own)}
    if "steps" in own[0]:
        for name in ("reward", "true", "drawing", "training"):
            rows = [record["steps"][name] for record in own if name in record["steps"]]
            if rows:
                mean |= {f"{name}_first": float(np.mean([row[:_LAST] for row in rows]))}
                mean |= {f"{name}_last": float(np.mean([row[-_LAST:] for row in rows]))}
    return mean


def _curve(own: Sequence[Record], names: Sequence[str]) -> dict[str, list[float]]:
    """Figures of each step, averaged over the seeds, as long as all of them go on."""
    length = min(len(record["steps"]["reward"]) for record in own)
    return {
        name: np.mean([record["steps"][name][:length] for record in own], axis=0).round(4).tolist() for name in names
    }


def table(found: dict[str, Any]) -> list[str]:
    """All of it as Markdown.

    Args:
        found: of :func:`summarise`.
    """
    lines = [
        "| method | rate | likeliest answer right, % [95 %] | − base [95 %] | drawn answer right, % | − base [95 %] "
        "| reward, first and last 5 steps | KL, mean (most) | tokens drawn | s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in found["methods"]:
        cells = [row["method"], f"{row['rate']:g}" if "rate" in row else ""]
        for name in ("right", "drawn_right"):
            cells += [_shown(row[name]), _shown(row[f"{name}_gain"], "+") if "kl" in row else ""]
        cells.append(f"{row['reward_first']:.2f}, {row['reward_last']:.2f}" if "reward_first" in row else "")
        cells += (
            [f"{row['kl']:.2f} ({row['most_kl']:.2f})", f"{row['tokens']:,.0f}", f"{row['seconds']:.0f}"]
            if "kl" in row
            else [""] * 3
        )
        lines.append(_line(cells))
    if found["best"]:
        lines += [
            "",
            "| best of n | tokens drawn | right, chosen by the checker, % [95 %] | by the reward model | its reward | KL ≤ |",
            "|--:|--:|--:|--:|--:|--:|",
        ]
        most = found["best"][-1]["n"]
        for row in found["best"]:
            cells = [
                str(row["n"]),
                f"{row['tokens'] * row['n'] / most:,.0f}",
                _shown(row["checker"]),
                _shown(row["model"]),
            ]
            lines.append(_line([*cells, f"{row['proxy']:.2f}", f"{row['kl']:.2f}"]))
    if found["proxy"]:
        lines += [
            "",
            "| GRPO on the reward model: weight of KL | its reward, first and last 5 steps | truth then, % | KL, mean (most) "
            "| likeliest answer right, % [95 %] | − base [95 %] | drawn answer right, − base |",
            "|--:|--:|--:|--:|--:|--:|--:|",
        ]
    for row in found["proxy"]:
        truth = f"{100 * row['true_first']:.0f}, {100 * row['true_last']:.0f}"
        cells = [f"{row['beta']:g}", f"{row['reward_first']:.2f}, {row['reward_last']:.2f}", truth]
        cells += [f"{row['kl']:.2f} ({row['most_kl']:.2f})", _shown(row["right"]), _shown(row["right_gain"], "+")]
        lines.append(_line([*cells, _shown(row["drawn_right_gain"], "+")]))
    if found["trials"]:
        lines += [
            "",
            "Trials of learning rates (likeliest and drawn answers right, %, of questions that the table does not ask):",
        ]
        for method in dict.fromkeys(trial["method"] for trial in found["trials"]):
            own = [trial for trial in found["trials"] if trial["method"] == method]
            lines.append(f"- {method}: " + "; ".join(f"{t['rate']:g}: {t['right']:.1f}, {t['drawn']:.1f}" for t in own))
    return lines


def _shown(value: Interval, sign: str = "") -> str:
    mean, low, high = value
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def picture(found: dict[str, Any], path: Path) -> None:
    """Rewards over steps, gains over the base, and what the reward model says beside the truth.

    Args:
        found: of :func:`summarise`.
        path: the PNG file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (rewards, gains, over) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for method, curve in found["curves"].items():
        rewards.plot(_smooth(curve["reward"]), label=method)
    rewards.set(xlabel="step", ylabel="reward (right answers), mean of 5 steps", title="Training questions, checker")
    for place, row in enumerate(row for row in found["methods"] if "kl" in row):
        for shift, name in ((-0.15, "right_gain"), (0.15, "drawn_right_gain")):
            mean, low, high = row[name]
            colour = "#1b6ca8" if name == "right_gain" else "#d95f02"
            gains.errorbar(mean, place + shift, xerr=[[mean - low], [high - mean]], fmt="o", color=colour)
    gains.set_yticks(range(len(found["methods"]) - 1), [row["method"] for row in found["methods"] if "kl" in row])
    gains.axvline(0, color="black", lw=0.8)
    gains.set(
        xlabel="points over the SFT base (blue: likeliest answer, orange: drawn answer)", title="Held-out questions"
    )
    for number, row in enumerate(found["proxy"]):
        curve, colour = row["curve"], plt.get_cmap("tab10")(number)
        root = np.sqrt(np.clip(_smooth(curve["kl"]), 0, None))
        over.plot(root, _smooth(curve["true"]), color=colour, label=f"truth, KL weight {row['beta']:g}")
        over.plot(root, _scaled(_smooth(curve["reward"])), color=colour, ls="--", label="reward model (0 to 1)")
    if found["best"]:
        root = np.sqrt([row["kl"] for row in found["best"]])
        over.plot(
            root, [row["model"][0] / 100 for row in found["best"]], "k.-", label="truth, best of n by the reward model"
        )
    over.set(xlabel="√KL", title="A reward model for the reward")
    for axes in (rewards, over):
        if axes.lines:
            axes.legend(fontsize=7)
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=110, format="png")
    plt.close(figure)


def _smooth(values: Sequence[float]) -> np.ndarray:
    width = min(_LAST, len(values))
    return np.convolve(np.asarray(values, dtype=float), np.ones(width) / width, mode="valid")


def _scaled(values: np.ndarray) -> np.ndarray:
    spread = float(np.ptp(values))
    return np.asarray((values - values.min()) / spread if spread > 0 else np.zeros_like(values))


def main(arguments: list[str]) -> None:
    """Prints the tables of a study's file.

    Args:
        arguments: the file.
    """
    whole = Path(arguments[0]).read_text(encoding="utf-8").rpartition("\n")[0]
    print("\n".join(table(summarise([json.loads(line) for line in whole.splitlines()[1:]]))))


if __name__ == "__main__":
    main(sys.argv[1:])
