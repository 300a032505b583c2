"""Study: are the statistics of `fulgurite scaling` right, by simulation, and what do they say of the Pythia counts?

    python -m benchmarks.studies.pass_rates.passuntil [--parts law,replay] [--repeats 400] [--json FILE]

Parts: estimators, intervals, law, instances, published, pythia, replay, task; all of them unless some are named.

The Pythia counts are read from FULGURITE_REAL_DATA, or ../shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fulgurite.evaluation.pass_until.counts import Count, Counts, table_of
from fulgurite.evaluation.pass_until.datasets import sizes_text
from fulgurite.evaluation.pass_until.estimators import interval, published, simulate, unbiased, variance
from fulgurite.evaluation.pass_until.forms import curvature
from fulgurite.evaluation.pass_until.instances import predict_instances
from fulgurite.evaluation.pass_until.law import fit_law, held_out, points_of, predicted
from fulgurite.evaluation.pass_until.stopping import ItemDraws, Until, stop_of
from fulgurite.evaluation.pass_until.study import study_of, verdict_of
from fulgurite.evaluation.runner.statistics import pass_at_k

__all__ = ["PARTS", "Replayed", "main", "planted", "pythia_counts", "replayed"]

_GOAL = 0.35  # relative s.d. of each model's score in the replays
SIZES = np.array([0.036e9, 0.109e9, 0.241e9, 0.498e9, 0.892e9, 1.54e9, 2.45e9])  # of arXiv 2310.03262


def folder() -> Path:
    """Where the real rows are."""
    return Path(os.environ.get("FULGURITE_REAL_DATA") or Path(__file__).parents[4] / "shared" / "data") / "scaling"


def pythia_counts(tokens: str = "300B") -> Counts:
    """The nine Pythia models after so many tokens, 128 problems of GSM8K, sizes without embeddings."""
    counts = folder() / "pass-counts"
    with (counts / "models_pythia.csv").open() as file:
        sizes = {row["Model Nickname"]: float(row["Parameters Excluding Embeddings"]) for row in csv.DictReader(file)}
    rows = []
    with (counts / "pythia_gsm8k_pass_at_k.k1.csv").open() as file:
        for row in csv.DictReader(file):
            name = row["Model Nickname"]
            if name.endswith(f"_{tokens}"):
                n, c = int(row["Num. Samples"]), int(float(row["Num. Samples Correct"]))
                rows.append(Count(name, sizes[name], row["prompt_idx"], n, c))
    return table_of(rows)


def planted(
    rng: np.random.Generator,
    sizes: np.ndarray = SIZES,
    items: int = 164,
    log_c: float = 8.6,
    alpha: float = 0.35,
    r: int = 5,
    cap: int = 20_000,
    bend: float = 0.0,
    spread: tuple[float, float] = (0.0, 0.0),
) -> tuple[Counts, np.ndarray]:
    """A simulated series, and its true rates [models, items].

    log(−log p) = log c − α log N + bend (log N − mean)², with normal spread over items of the level and of log α. With r = 0 the
    number of draws is fixed, `cap` for each item.
    """
    x = np.log(sizes)
    middle = x.mean()
    level = log_c - alpha * middle + spread[0] * rng.standard_normal(items)
    slopes = alpha * np.exp(spread[1] * rng.standard_normal(items))
    off = (x - middle)[:, None]
    p = np.exp(-np.exp(level - slopes * off + bend * off**2))
    n, c = simulate(p, cap, r, rng)
    shape = n.shape
    names = tuple(sizes_text(sizes))
    items_named = tuple(map(str, range(items)))
    whole = np.full(shape, cap)
    table = Counts(names, sizes, items_named, n, c, np.full(shape, r), whole, np.full(shape, np.nan))
    return table, p


def estimators(repeats: int) -> dict[str, Any]:
    """Mean of each estimator over the truth, its s.e., and the mean estimated variance over the true one."""
    rng = np.random.default_rng(0)
    rows = []
    for p in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        for r in (2, 3, 5, 10):
            for cap in (int(r / p * 1000), max(r, int(2 / p)), max(r, int(0.5 / p))):
                n, c = simulate(np.full(repeats * 1000, p), cap, r, rng)
                value, old = unbiased(n, c, r) / p, published(n, c, r) / p
                error = value.std() / np.sqrt(len(value))
                rows.append(
                    {
                        "p": p,
                        "r": r,
                        "cap": cap,
                        "unbiased": value.mean(),
                        "error": error,
                        "published": old.mean(),
                        "variance": variance(n, c, r).mean() / p**2 / value.var(),
                    }
                )
    worst = max(rows, key=lambda row: abs(row["unbiased"] - 1))
    return {"rows": rows, "worst": worst}


def intervals(repeats: int) -> dict[str, Any]:
    """Share of 95 % intervals that hold the truth."""
    rng = np.random.default_rng(1)
    rows = []
    for p in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        for r in (2, 5, 10):
            for cap in (int(r / p * 1000), int(r / p)):
                n, c = simulate(np.full(repeats * 250, p), cap, r, rng)
                low, high = interval(n, c, r)
                rows.append({"p": p, "r": r, "cap": cap, "covered": ((low <= p) & (p <= high)).mean()})
    return {"rows": rows}


def law(repeats: int) -> dict[str, Any]:
    """Planted lines: recovery, cover of the intervals, false alarms of each test, and power against a curve."""
    rng = np.random.default_rng(2)
    found: list[list[float]] = []
    for number in range(repeats):
        table, _ = planted(rng)
        points = points_of(table, 400, number)
        small = points.some(range(len(points.f) - 1))
        fit, bend, held = fit_law(small), curvature(points), held_out(points)
        last = predicted(fit, "largest", float(SIZES[-1]))
        true = float(np.exp(-np.exp(8.6 - 0.35 * np.log(SIZES[-1]))))
        assert bend is not None
        whole = fit_law(points)
        inside = whole.alpha_interval[0] <= 0.35 <= whole.alpha_interval[1]
        found.append(
            [
                fit.log_c,
                fit.alpha,
                inside,
                last.low <= true <= last.high,
                bend.label != "none",
                whole.p_value < 0.05,
                not held[0].agrees,
                verdict_of(whole, bend, held)[0] == "rejected",
            ]
        )
    curved = []
    for number in range(repeats):
        bend = curvature(points_of(planted(rng, bend=0.03)[0], 400, number))
        assert bend is not None
        curved.append(bend.label.startswith("convex"))
    values = np.array(found, float)
    names = (
        "alpha covered",
        "prediction covered",
        "curvature false alarm",
        "scatter false alarm",
        "held-out false alarm",
        "verdict false alarm",
    )
    return {
        "log_c": [values[:, 0].mean(), values[:, 0].std()],
        "alpha": [values[:, 1].mean(), values[:, 1].std()],
        **dict(zip(names, values[:, 2:].mean(0), strict=True)),
        "curvature found where planted": np.mean(curved),
        "repeats": repeats,
    }


def instances(repeats: int) -> dict[str, Any]:
    """Instances that differ: error of the predicted score by either fit, and cover of the instances' interval."""
    rng = np.random.default_rng(3)
    rows, fits = [], []
    for number in range(max(20, repeats // 4)):
        table, p = planted(rng, spread=(0.3, 0.3), items=100)
        small = table.of_models(range(6))
        result = predict_instances(small, {"largest": float(SIZES[-1])}, None, 60, number)
        one, true = result.predictions[0], p[-1].mean()
        fitted = fit_law(points_of(small, 400, number))
        line = predicted(fitted, "largest", float(SIZES[-1]))
        inside = [one.low <= true <= one.high, line.low <= true <= line.high]
        rows.append([one.pu / true - 1, line.pu / true - 1, *inside, result.p_value < 0.05, fitted.p_value < 0.05])
        fits.append([*result.fit.mean, *np.sqrt(np.diag(result.fit.spread))])
    values = np.array(rows, float)
    mean, deviation = values[:, :2].mean(0), values[:, :2].std(0)
    return {
        "instances: mean and s.d. of the relative error": [mean[0], deviation[0]],
        "task: mean and s.d. of the relative error": [mean[1], deviation[1]],
        "instances: interval covers": values[:, 2].mean(),
        "task: interval covers": values[:, 3].mean(),
        "instances: rejected": values[:, 4].mean(),
        "task: rejected by its scatter": values[:, 5].mean(),
        "mean of gamma, kappa, s.d. of gamma, kappa": list(np.mean(fits, 0)),
        "planted": [float(8.6 - 0.35 * np.log(SIZES[:6]).mean()), float(np.log(0.35)), 0.3, 0.3],
        "repeats": len(rows),
    }


def published_values(_: int) -> dict[str, Any]:
    """The published pass@k of the sample, from n and c; those with k above n are not defined, and were published as 1."""
    rows, beyond, worst = 0, [], 0.0
    with (folder() / "pass-counts" / "pythia_gsm8k_pass_at_k.all-k.sample.csv").open() as file:
        for row in csv.DictReader(file):
            n, c, k = int(row["Num. Samples"]), int(float(row["Num. Samples Correct"])), int(row["k"])
            if k > n:
                beyond.append((c, float(row["pass@k"])))
                continue
            worst = max(worst, abs(pass_at_k(n, c, k) - float(row["pass@k"])))
            rows += 1
    return {
        "values with k up to n": rows,
        "largest difference": worst,
        "values with k above n": len(beyond),
        "of these published as 1": sum(value == 1.0 for _, value in beyond),
        "of these without a single pass": sum(c == 0 for c, _ in beyond),
    }


def pythia(_: int) -> dict[str, Any]:
    """The law fitted up to 2.8B, asked for 6.9B and 12B, after three numbers of tokens."""
    found = {}
    for tokens in ("300B", "200B", "60B"):
        study = study_of(pythia_counts(tokens), 2.8e9)
        assert study.law is not None and study.curvature is not None
        found[tokens] = {
            "verdict": study.verdict,
            "reasons": study.reasons,
            "alpha": study.law.alpha,
            "p": study.law.p_value,
            "predictions": [one.to_dict() for one in study.predictions],
            "held out": [one.to_dict() for one in study.held_out],
        }
    return found


@dataclass(frozen=True)
class Replayed:
    """A task drawn by the product's own rule: draws that count, passes, and draws that were made."""

    n: int
    c: int
    made: int


def replayed(until: Until, rates: np.ndarray, rng: np.random.Generator, seed: int) -> Replayed:
    """Draws a task whose instances pass at these rates, by the rule that `fulgurite evaluate --until_passes_of task` stops by."""
    keys = [str(place) for place in range(len(rates))]
    stop = stop_of(until, keys, "replay", seed)
    draws = {key: ItemDraws(key) for key in keys}
    while wanted := stop.wanted(draws, {}):
        for key, start, count in wanted:
            passed = np.flatnonzero(rng.random(count) < rates[int(key)]) + start
            draws[key].drawn += count
            draws[key].passed += passed.tolist()
    found = stop.task(draws)
    assert found is not None
    return Replayed(found.n, found.c, sum(each.drawn for each in draws.values()))


def pythia_rates() -> np.ndarray:
    """c/n of the Pythia counts, [models, problems], as the true rates of a replay."""
    counts = pythia_counts()
    return np.asarray(counts.c / counts.n)


def fixed_draws(p: np.ndarray) -> np.ndarray:
    """The fixed number of draws of each instance that a model needs, [models]."""
    return np.asarray(np.ceil((p * (1 - p)).sum(1) / (_GOAL * p.sum(1)) ** 2))


def replay(repeats: int) -> dict[str, Any]:
    """Draws to a relative s.d. of 0.35 of each model's score, with c/n of the Pythia counts as the true rates.

    Fixed: n draws of each instance. Until r passes of each instance: r and the cap that need the fewest draws over the series. Both
    either with one setting for all models (nobody knows the rates beforehand), or with the best setting of each model, chosen with
    the truth known.
    """
    p, rng, goal = pythia_rates(), np.random.default_rng(4), _GOAL
    items, each = p.shape[1], fixed_draws(p)
    settings = []
    for r in (2, 3, 4, 5, 10):
        for cap in np.unique(np.geomspace(10, 100_000, 25).astype(int)):
            if cap < r:
                continue
            n, c = simulate(p, int(cap), r, rng, (repeats, *p.shape))
            mean = unbiased(n, c, r).mean(-1)
            settings.append((r, int(cap), n.sum(-1).mean(0), mean.std(0) / p.mean(1)))
    together = min((s for s in settings if (s[3] <= goal).all()), key=lambda s: s[2].sum(), default=None)
    best = [min((s for s in settings if s[3][i] <= goal), key=lambda s: s[2][i], default=None) for i in range(len(p))]
    fixed_one = float(each.max() * items * len(p))
    fixed_each = float(each.sum() * items)
    result: dict[str, Any] = {
        "fixed, one n": [int(each.max()), fixed_one],
        "fixed, n of each model": [each.tolist(), fixed_each],
    }
    if together is not None:
        draws = float(together[2].sum())
        result["until r, one setting"] = {
            "r": together[0],
            "cap": together[1],
            "draws": draws,
            "of fixed": draws / fixed_one,
        }
        result["relative s.d."] = together[3].tolist()
        result["draws of each model"] = together[2].tolist()
    if all(one is not None for one in best):
        draws = float(sum(one[2][i] for i, one in enumerate(best) if one is not None))
        result["until r, setting of each model"] = {"draws": draws, "of fixed": draws / fixed_each}
    return result


def replay_task(repeats: int) -> dict[str, Any]:
    """The same by the product's own stopping at r passes of the task; draws that are made count, those behind the r-th pass too."""
    p, rng = pythia_rates(), np.random.default_rng(5)
    each = fixed_draws(p)
    fixed_one, fixed_each = float(each.max() * p.size), float(each.sum() * p.shape[1])
    r = 11  # relative s.d. about 1 / sqrt(r − 2) for rare passes
    found = [[replayed(Until(r, 10**7, "task"), own, rng, seed) for seed in range(repeats)] for own in p]
    n, made = (np.array([[getattr(one, name) for one in own] for own in found], float) for name in ("n", "made"))
    counted, drawn = float(n.mean(1).sum()), float(made.mean(1).sum())
    return {
        "r": r,
        "draws made": drawn,
        "draws that count": counted,
        "of fixed, one n": drawn / fixed_one,
        "of fixed, n of each model": drawn / fixed_each,
        "mean over truth": (((r - 1) / (n - 1)).mean(1) / p.mean(1)).tolist(),
        "relative s.d.": (((r - 1) / (n - 1)).std(1) / p.mean(1)).tolist(),
        "repeats": repeats,
    }


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "estimators": estimators,
    "intervals": intervals,
    "law": law,
    "instances": instances,
    "published": published_values,
    "pythia": pythia,
    "replay": replay,
    "task": replay_task,
}


def main(arguments: list[str] | None = None) -> None:
    """Runs the parts and prints what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    found = {}
    for name in options.parts.split(","):
        begun = time.perf_counter()
        found[name] = json.loads(json.dumps(PARTS[name](options.repeats), default=float))
        print(f"{name} ({time.perf_counter() - begun:.0f} s)\n{json.dumps(found[name], indent=1)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
