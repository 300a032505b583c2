"""What the scores of a task add up to: its numbers, what a reader should know about them, and all of it as plain data."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fulgurite.evaluation.runner.plan import Plan, text_hash
from fulgurite.evaluation.runner.scoring import Scored
from fulgurite.evaluation.runner.statistics import Number, majority_at_k, mean_of, pass_at_k

__all__ = ["TaskResult", "result_of"]

_MANY = 0.05  # share of truncated or empty samples from which on it is said
_KS = (1, 10, 100)


@dataclass(frozen=True)
class TaskResult:
    """The outcome of one task.

    Attributes:
        task: its name.
        source: where its rows come from.
        version: of the task.
        shots: examples in front of each prompt.
        samples: of each item.
        numbers: by metric; the first is the one to quote.
        counts: samples by status, and other counts.
        warnings: whole sentences.
        identity: what the samples depend on.
        judge: what the verdicts depend on, such as the layer of the sandbox.
        hashes: of the samples' identity, and of all that was asked.
    """

    task: str
    source: str
    version: int
    shots: int
    samples: int
    numbers: dict[str, Number]
    counts: dict[str, int]
    warnings: list[str]
    identity: dict[str, Any]
    judge: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**vars(self), "numbers": {name: number.to_dict() for name, number in self.numbers.items()}}


def result_of(plan: Plan, scored: Scored, ks: Sequence[int] | None = None) -> TaskResult:
    """The numbers of a task.

    Args:
        plan: the task.
        scored: its samples with their verdicts.
        ks: of pass@k and maj@k; None for 1, 10, 100 and the number of samples, as far as there are so many.
    """
    counts: dict[str, int] = {
        "items": len(plan.items),
        "rows left out": len(plan.found.bad),
        "samples": len(scored.samples),
        "missing": scored.missing,
        "broken": sum(scored.broken.values()),
    }
    warnings = []
    if plan.found.bad:
        warnings.append(f"{len(plan.found.bad)} broken rows were left out, the first: {plan.found.bad[0]}")
    if scored.missing:
        warnings.append(f"{scored.missing} samples are missing; run the same command again to get them")
    if scored.broken:
        reason, _ = Counter(scored.broken).most_common(1)[0]
        warnings.append(
            f"judging {counts['broken']} samples failed, which says nothing about them; they are not counted ({reason})"
        )
    if plan.task.kind == "choices":
        numbers = _of_choices(scored)
        cut = sum(1 for sample in scored.samples if sample["cut"])
        if cut:
            counts["cut"] = cut
            warnings.append(f"{cut} items are longer than the model's window and lost their beginning")
    else:
        numbers = _of_answers(scored, ks, "accuracy" if plan.task.judge is None else plan.task.judge.metric)
        by_status = Counter(score["status"] for score in scored.scores if score is not None)
        counts.update(sorted(by_status.items()))
        warnings += _about_answers(plan, scored, counts)
    hashes = {"samples": text_hash(scored.identity), "requests": text_hash([plan.request(item) for item in plan.items])}
    return TaskResult(
        task=plan.task.name,
        source=plan.found.source,
        version=plan.task.version,
        shots=plan.shots,
        samples=1 if plan.task.kind == "choices" else plan.n,
        numbers=numbers,
        counts=counts,
        warnings=warnings,
        identity=scored.identity,
        judge=scored.judge,
        hashes=hashes,
    )


def _of_choices(scored: Scored) -> dict[str, Number]:
    values: dict[str, list[float]] = defaultdict(list)
    for score in scored.scores:
        if score is not None:
            for name, value in score["metrics"].items():
                values[name].append(value)
    return {name: mean_of(found) for name, found in values.items()}


def _of_answers(scored: Scored, ks: Sequence[int] | None, metric: str) -> dict[str, Number]:
    """The share of right samples under its name, pass@k and maj@k; items of which nothing is known are left out."""
    items: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for score in scored.scores:
        if score is not None:
            items[score["item"]].append(score)
    if not items:
        return {}
    correct = {key: [score["correct"] for score in scores] for key, scores in items.items()}
    groups = {key: [score["group"] for score in scores] for key, scores in items.items()}
    found = {metric: mean_of([sum(marks) / len(marks) for marks in correct.values()])}
    least, most = min(map(len, correct.values())), max(map(len, correct.values()))
    if most == 1:
        return found
    whole = all(mark in (0.0, 1.0) for marks in correct.values() for mark in marks)
    chosen = sorted({k for k in (ks or (*_KS, least)) if k <= least})
    for k in chosen if whole else ():
        found[f"pass@{k}"] = mean_of([pass_at_k(len(marks), int(sum(marks)), k) for marks in correct.values()])
    if any(group is not None for own in groups.values() for group in own):
        for k in chosen:
            if k > 1:
                found[f"maj@{k}"] = mean_of([majority_at_k(groups[key], correct[key], k, key) for key in correct])
    return found


def _about_answers(plan: Plan, scored: Scored, counts: dict[str, int]) -> list[str]:
    """What is odd about the samples."""
    total = len(scored.samples)
    if total == 0:
        return []
    found = []
    counts["truncated"] = truncated = sum(sample["finish"] == "length" for sample in scored.samples)
    empty = counts.get("empty", 0)
    if truncated > _MANY * total:
        found.append(
            f"{truncated} of {total} answers were cut off at {plan.settings.max_new_tokens} tokens or the window's end; their "
            "score may be too low: raise max_new_tokens"
        )
    if empty > _MANY * total:
        found.append(f"in {empty} of {total} texts no answer was found; look at some of {plan.samples_file}")
    judged = [score for score in scored.scores if score is not None]
    if judged and all(score["correct"] == 0 for score in judged):
        found.append(
            f"not one of {len(judged)} answers is right: prompt, template or stop texts may not suit this model; see --dry_run "
            f"true and {plan.scores_file}"
        )
    if not plan.chat and plan.settings.stop and truncated == total:
        found.append("not one answer ended by itself or at a stop text: the model does not know the form of the answer")
    if counts.get("unsupported"):
        found.append(
            f"{counts['unsupported']} tests needed a value that cannot travel between the sandbox's processes; they count as "
            "not passed"
        )
    stopped = sum(counts.get(status, 0) for status in ("comparison timeout", "comparison crash"))
    if stopped:
        found.append(f"{stopped} comparisons of expressions hung or crashed and were stopped; they count as not equal")
    return found
