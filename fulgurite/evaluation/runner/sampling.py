"""The first phase: samples of answers, or log-likelihoods of choices, appended one by one as they come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fulgurite.evaluation.likelihood import ChoiceScorer
from fulgurite.evaluation.runner.plan import Plan
from fulgurite.evaluation.runner.record_file import IdentityError, RecordFile
from fulgurite.generation.protocol import Backend, Request

__all__ = ["SAMPLE_KEY", "Sampled", "check_requests", "collect"]

SAMPLE_KEY = ("item", "index")


@dataclass(frozen=True)
class Sampled:
    """What a call of `collect` did.

    Attributes:
        known: samples that stood there.
        new: samples that were added.
        failed: samples that could not be had, each with its reason; the next run asks for them again.
        repaired: bytes of a torn last line that were cut off.
    """

    known: int
    new: int
    failed: list[str]
    repaired: int


def collect(plan: Plan, backend: Backend | ChoiceScorer, overwrite: bool = False, silent: bool = False) -> Sampled:
    """Draws the samples that are missing.

    Args:
        plan: the task.
        backend: what writes answers, or for a task of choices what computes log-likelihoods.
        overwrite: begin anew, scores included.
        silent: show no progress.

    Raises:
        IdentityError: the file holds samples of another model, other settings or other prompts.
        ServerError: the run cannot go on; the samples that are there are kept.
    """
    identity = plan.identity(backend.identity())
    with RecordFile(plan.samples_file, "samples", identity, SAMPLE_KEY, overwrite) as file:
        if overwrite:
            plan.scores_file.unlink(missing_ok=True)
        check_requests(plan, file.records)
        plan.write_requests()
        there = {(record["item"], record["index"]) for record in file.records}
        failed: list[str] = []
        if isinstance(backend, ChoiceScorer):
            new = _choose(plan, backend, file, there, silent)
        else:
            new, failed = _write(plan, backend, file, there, silent)
        return Sampled(len(there), new, failed, file.repaired)


def check_requests(plan: Plan, records: Iterable[dict[str, Any]]) -> None:
    """Refuses samples whose prompt was another one.

    Args:
        plan: the task as it is asked now.
        records: samples that are there.

    Raises:
        IdentityError: the first of them.
    """
    asked = {item.key: plan.request(item) for item in plan.items}
    for record in records:
        now = asked.get(record["item"])
        if now is not None and now != record["request"]:
            raise IdentityError(
                f"{plan.samples_file}: the sample of {plan.task.name} {record['item']} answers another prompt than the one that "
                "would be asked now (other rows, examples or template); they are not mixed: give another --out, the same rows "
                "and options as then, or --overwrite true"
            )


def _write(
    plan: Plan, backend: Backend, file: RecordFile, there: set[tuple[str, int]], silent: bool
) -> tuple[int, list[str]]:
    """Answers; how many were added, and why others were not."""
    wanted = [(item, tuple(index for index in range(plan.n) if (item.key, index) not in there)) for item in plan.items]
    wanted = [(item, missing) for item, missing in wanted if missing]
    if not wanted:
        return 0, []
    requests = [Request(plan.prompt(item), f"{plan.task.name}/{item.key}", missing) for item, missing in wanted]
    new, failed = 0, []
    total = sum(len(missing) for _, missing in wanted)
    with _bar(total, f"{plan.task.name}: answers", "sample", silent) as bar:
        for sample in backend.sample(requests, plan.n, plan.settings):
            item = wanted[sample.prompt][0]
            bar.update()
            if sample.finish == "error":
                failed.append(f"{item.key}, sample {sample.index}: {sample.error}")
                continue
            log_prob = None if sample.model_log_probs is None else round(sum(sample.model_log_probs), 4)
            file.add(
                {
                    "item": item.key,
                    "index": sample.index,
                    "request": plan.request(item),
                    "text": sample.text,
                    "finish": sample.finish,
                    "stop": sample.stop,
                    "seed": sample.seed,
                    "tokens": sample.tokens,
                    "log_prob": log_prob,
                }
            )
            new += 1
    return new, failed


def _choose(plan: Plan, scorer: ChoiceScorer, file: RecordFile, there: set[tuple[str, int]], silent: bool) -> int:
    """Log-likelihoods of each item's choices."""
    wanted = [item for item in plan.items if (item.key, 0) not in there]
    asked: Sequence[tuple[str, Sequence[str]]] = [(str(plan.prompt(item)), item.choices) for item in wanted]
    new = 0
    with _bar(len(wanted), f"{plan.task.name}: log-likelihoods", "item", silent) as bar:
        for place, found in scorer.score(asked, plan.task.greedy):
            file.add(
                {
                    "item": wanted[place].key,
                    "index": 0,
                    "request": plan.request(wanted[place]),
                    "log_likelihoods": found.sums,
                    "tokens": found.tokens,
                    "greedy": found.greedy,
                    "cut": found.cut,
                }
            )
            new += 1
            bar.update()
    return new


def _bar(total: int, what: str, unit: str, silent: bool) -> Any:
    """Progress with the time that is left, on stderr; nothing where that is no terminal."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, disable=True if silent or total == 0 else None)
