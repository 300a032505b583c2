"""What a reward is worth as a chooser: curves over n of every rule, from one set of N samples of each prompt.

The measures by which choices are judged:

| measure | of a sample | curves |
|---|---|---|
| `right` | 1 if a checker finds it right | one sample, best, majority, weighted, oracle |
| `judge` | another reward model's reward | one sample, best, majority and weighted where answers can be read, oracle |
| `reward` | the choosing reward itself | one sample, best |
| `tokens` | its length | one sample, best |

A reward that rises with n while the judge or the share of right answers falls is over-optimised (Gao et al., arXiv 2210.10760): the
judge's highest mean is reported, and how far it has fallen at the largest n. Intervals: bootstrap over prompts (95 %,
percentiles), all curves in the same resamples, so that differences are paired.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fulgurite.evaluation.runner.statistics import majority
from fulgurite.evaluation.selection.candidates import Candidates, Found
from fulgurite.evaluation.selection.curves import best_of_n, kl_bound, over_subsets, steps_to
from fulgurite.evaluation.selection.intervals import Bootstrap, Estimate
from fulgurite.evaluation.selection.rules import weighted

__all__ = ["Curve", "Study", "study_of"]

_MANY = 0.05  # share of answers from which on it is said that something is odd about them


@dataclass(frozen=True)
class Curve:
    """One rule under one measure.

    Attributes:
        measure: right, judge, reward or tokens.
        rule: one sample, best, majority, weighted or oracle.
        points: one for each n.
        values: of each prompt at each n, (P, steps); NaN where there is none.
    """

    measure: str
    rule: str
    points: list[Estimate]
    values: Any = field(repr=False)


@dataclass(frozen=True)
class Study:
    """Curves, and what else is known of rewards and answers.

    Attributes:
        samples: N, answers of each prompt.
        prompts: keys of the prompts that the curves are over.
        steps: the n of the curves.
        curves: of every rule and measure.
        leads: paired differences at N: (measure, "best − one sample" and the like) to the difference.
        falls: of right and judge, where the best's curve is highest, and how far it is above its end (negative: it fell).
        length_correlation: of rewards with the answers' tokens: over all answers, and within prompts.
        pair_accuracy: by measure, the share of a prompt's pairs of unequal value that the reward orders alike, ties half.
        counts: answers by what is odd about them.
        warnings: whole sentences.
    """

    samples: int
    prompts: list[str]
    steps: list[int]
    curves: list[Curve]
    leads: dict[str, dict[str, Estimate]]
    falls: dict[str, tuple[int, Estimate]]
    length_correlation: dict[str, float]
    pair_accuracy: dict[str, float]
    counts: dict[str, int]
    warnings: list[str]

    def curve(self, measure: str, rule: str) -> Curve | None:
        """A curve, if there is one."""
        return next((c for c in self.curves if (c.measure, c.rule) == (measure, rule)), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        curves: dict[str, dict[str, Any]] = {}
        for curve in self.curves:
            curves.setdefault(curve.measure, {})[curve.rule] = [point.to_dict() for point in curve.points]
        return {
            "samples": self.samples,
            "prompts": len(self.prompts),
            "n": self.steps,
            "kl_bound": [kl_bound(n) for n in self.steps],
            "curves": curves,
            "leads": {m: {name: e.to_dict() for name, e in found.items()} for m, found in self.leads.items()},
            "falls": {m: {"highest_at": n, "until_end": e.to_dict()} for m, (n, e) in self.falls.items()},
            "length_correlation": self.length_correlation,
            "pair_accuracy": self.pair_accuracy,
            "counts": self.counts,
            "warnings": self.warnings,
        }


def study_of(
    candidates: Sequence[Candidates],
    rewards: Sequence[Found] | None,
    judged: Sequence[Found] | None = None,
    tau: float = 1.0,
    seed: int = 0,
) -> Study:
    """The curves of candidates.

    Args:
        candidates: N answers of each prompt; prompts with fewer are left out and counted.
        rewards: by which answers are chosen, as many as there are answers; None: only votes, one sample and the oracle.
        judged: another reward of the same answers, by which choices are judged.
        tau: of the weights, see :mod:`.rules`.
        seed: of the bootstrap.

    Raises:
        ValueError: no prompt with two answers; another number of rewards than of answers; a constant reward; nothing to judge by.
    """
    for name, given in (("rewards", rewards), ("judged", judged)):
        if given is not None and [len(g) for g in given] != [len(c.texts) for c in candidates]:
            raise ValueError(
                f"study_of: the {name} are {sum(map(len, given))} of {len(given)} prompts for "
                f"{sum(len(c.texts) for c in candidates)} answers of {len(candidates)} prompts; give one for each answer"
            )
    samples = max((len(c.texts) for c in candidates), default=0)
    if samples < 2:
        raise ValueError(
            "study_of: no prompt has two answers; there is nothing to choose; draw 2 and more of each prompt"
        )
    kept = [i for i, c in enumerate(candidates) if len(c.texts) == samples]
    used = [candidates[i] for i in kept]
    measures: dict[str, list[Found]] = {}
    if any(c.correct for c in used):
        measures["right"] = [c.correct or [None] * samples for c in used]
    if judged is not None:
        measures["judge"] = [judged[i] for i in kept]
    chosen_by = None if rewards is None else [rewards[i] for i in kept]
    if chosen_by is not None:
        _refuse_constant(used, chosen_by)
        measures["reward"] = chosen_by
        if any(n is not None for c in used for n in c.lengths):
            measures["tokens"] = [
                [None if n is None else float(n) for n in c.lengths] or [None] * samples for c in used
            ]
    if not measures:
        raise ValueError("study_of: no rewards, no checker and no judge; give one of them")
    steps, draws = steps_to(samples), Bootstrap(len(used), seed)
    curves = [
        Curve(measure, rule, [draws.estimate(column, measure == "right") for column in values.T], values)
        for measure, found in measures.items()
        for rule, value in _rules(measure, used, found, chosen_by, tau)
        for values in (np.array([[_number(value(i, n)) for n in steps] for i in range(len(used))]),)
    ]
    study = Study(samples, [c.key for c in used], steps, curves, {}, {}, {}, {}, {}, [])
    _compare(study, draws)
    if chosen_by is not None:
        _about_rewards(study, used, chosen_by, measures)
    _about_answers(study, candidates, used, chosen_by)
    return study


Value = Callable[[int, int], float | None]


def _rules(
    measure: str, used: Sequence[Candidates], values: Sequence[Found], rewards: Sequence[Found] | None, tau: float
) -> list[tuple[str, Value]]:
    """The rules under a measure, each as a function of a prompt's number and n."""
    found: list[tuple[str, Value]] = [("one sample", lambda i, n: best_of_n([0.0] * len(values[i]), values[i], 1))]
    if rewards is not None:
        found.append(("best", lambda i, n: best_of_n(rewards[i], values[i], n)))
    if measure in ("reward", "tokens"):
        return found
    nothing = 0.0 if measure == "right" else None  # no answer to be read: not right, and without a reward

    def voted(i: int, n: int, choose: Callable[[Sequence[int]], int | None]) -> float | None:
        def value(places: Sequence[int]) -> float | None:
            winner = choose(places)
            return nothing if winner is None else values[i][places[winner]]

        return over_subsets(len(values[i]), n, value, f"{used[i].key}")

    if any(form is not None for c in used for form in c.forms):
        forms = [c.forms or (None,) * len(c.texts) for c in used]
        found.append(("majority", lambda i, n: voted(i, n, lambda places: majority([forms[i][p] for p in places]))))
        if rewards is not None:
            found.append(
                (
                    "weighted",
                    lambda i, n: voted(
                        i,
                        n,
                        lambda places: weighted([rewards[i][p] for p in places], [forms[i][p] for p in places], tau),
                    ),
                )
            )
    found.append(("oracle", lambda i, n: best_of_n(values[i], values[i], n)))
    return found


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _compare(study: Study, draws: Bootstrap) -> None:
    """Differences at N, and where the best's curve is highest."""
    for measure in ("right", "judge"):
        best = study.curve(measure, "best")
        if best is None or any(math.isnan(point.value) for point in best.points):
            continue
        study.leads[measure] = {
            f"best − {rule}": draws.estimate(best.values[:, -1] - other.values[:, -1])
            for rule in ("one sample", "majority", "weighted")
            if (other := study.curve(measure, rule)) is not None
        }
        top = max(range(len(study.steps)), key=lambda k: (best.points[k].value, -k))
        fall = draws.estimate(best.values[:, -1] - best.values[:, top])
        study.falls[measure] = (study.steps[top], fall)
        if fall.high is not None and fall.high < 0:
            study.warnings.append(
                f"over-optimised: by the measure {measure} the best of {study.steps[top]} is better than the best of "
                f"{study.samples} by {-fall.value:.4g} [{-fall.high:.4g}, {-(fall.low or 0):.4g}]; choose among fewer"
            )


def _refuse_constant(used: Sequence[Candidates], rewards: Sequence[Found]) -> None:
    found = {
        (text, r)
        for c, given in zip(used, rewards, strict=True)
        for text, r in zip(c.texts, given, strict=True)
        if r is not None
    }
    if not found:
        raise ValueError(
            "study_of: not one answer has a reward; nothing can be chosen; look at what was left out and why"
        )
    by_checker = all(own.correct == given for own, given in zip(used, rewards, strict=True))
    if len(found) >= 4 and not by_checker and len({reward for _, reward in found}) == 1:
        raise ValueError(
            f"study_of: all {len(found)} different answers have the reward {next(iter(found))[1]:.6g}; a constant reward chooses "
            "nothing. The reward model is broken, or no reward model"
        )


def _about_rewards(
    study: Study, used: Sequence[Candidates], rewards: Sequence[Found], measures: dict[str, list[Found]]
) -> None:
    """Correlation with length, and how often the reward orders two answers as a measure does."""
    pairs = [
        [(r, n) for r, n in zip(given, c.lengths, strict=True) if r is not None and n is not None]
        for c, given in zip(used, rewards, strict=True)
        if c.lengths
    ]
    within = [
        (r - statistics.fmean(a for a, _ in own), n - statistics.fmean(b for _, b in own))
        for own in pairs
        if own
        for r, n in own
    ]
    for name, points in (("all answers", [p for own in pairs for p in own]), ("within prompts", within)):
        if len(points) > 2 and all(max(p[k] for p in points) > min(p[k] for p in points) for k in (0, 1)):
            study.length_correlation[name] = statistics.correlation(*map(list, zip(*points, strict=True)))
    for measure in ("right", "judge"):
        agreed, compared = 0.0, 0
        for values, given in zip(measures.get(measure, []), rewards, strict=False):
            known = [(v, r) for v, r in zip(values, given, strict=True) if v is not None and r is not None]
            for v, r in known:
                for other, theirs in known:
                    if v > other:
                        compared += 1
                        agreed += 1.0 if r > theirs else 0.5 * (r == theirs)
        if compared:
            study.pair_accuracy[measure] = agreed / compared


def _about_answers(
    study: Study, candidates: Sequence[Candidates], used: Sequence[Candidates], rewards: Sequence[Found] | None
) -> None:
    """What is odd about the answers."""
    counts = study.counts
    total = len(used) * study.samples
    counts["answers"] = total
    counts["empty"] = sum(c.empty(i) for c in used for i in range(study.samples))
    counts["cut off"] = sum(c.cut(i) for c in used for i in range(study.samples))
    counts["prompts left out"] = len(candidates) - len(used)
    if counts["prompts left out"]:
        study.warnings.append(
            f"{counts['prompts left out']} of {len(candidates)} prompts have fewer than {study.samples} answers and are left out"
        )
    if rewards is not None:
        counts["without a reward"] = sum(reward is None for given in rewards for reward in given)
        counts["prompts whose rewards are all equal"] = sum(len(set(given)) == 1 for given in rewards)
    for name, advice in (
        ("cut off", "their rewards are of texts without an end: raise max_new_tokens"),
        ("empty", "they have no reward: look at the prompt and the stop texts"),
        ("without a reward", "they are chosen only where no other answer is: see what was left out"),
    ):
        if counts.get(name, 0) > _MANY * total:
            study.warnings.append(f"{counts[name]} of {total} answers are {name}; {advice}")
    if counts["empty"] == total:
        study.warnings.append("every answer is empty")
    oracle = study.curve("right", "oracle")
    if oracle is not None and oracle.points[-1].value == 0:
        study.warnings.append(
            f"not one of {total} answers is right, so that nothing is known of the rules: look at the answers, or draw more"
        )
