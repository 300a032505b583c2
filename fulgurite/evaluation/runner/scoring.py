"""The second phase: verdicts on the samples that are there, appended one by one, without generating anything.

What nothing can be said about, because the sandbox is broken, is not written down: the next run tries again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fulgurite.evaluation.judging.verdicts import How, Verdict
from fulgurite.evaluation.runner.plan import Plan, text_hash
from fulgurite.evaluation.runner.record_file import IdentityError, RecordFile, read_records
from fulgurite.evaluation.runner.sampling import SAMPLE_KEY, check_requests
from fulgurite.evaluation.tasks.task import Item

__all__ = ["Scored", "rate"]

_DEFAULT = How()


@dataclass(frozen=True)
class Scored:
    """The samples of a task's items with their verdicts.

    Attributes:
        samples: of the items that are asked, in the order of items and indices.
        scores: of each sample; None where judging is broken.
        missing: samples that the run wants and that are not there.
        broken: what went wrong with judging, and how often.
        identity: of the samples.
        judge: what the verdicts depend on.
    """

    samples: list[dict[str, Any]]
    scores: list[dict[str, Any] | None]
    missing: int
    broken: Mapping[str, int]
    identity: dict[str, Any]
    judge: dict[str, Any]


def rate(plan: Plan, how: How = _DEFAULT, overwrite: bool = False, silent: bool = False) -> Scored:
    """Judges the samples that are not judged yet.

    Args:
        plan: the task.
        how: what the user chose about judging.
        overwrite: judge all of them anew.
        silent: show no progress.

    Raises:
        FileNotFoundError: there are no samples.
        IdentityError: the samples are of another task, another version of it, or other prompts.
    """
    identity, records = read_records(plan.samples_file, SAMPLE_KEY)
    _check(plan, identity)
    check_requests(plan, records)
    wanted = {(item.key, index): item for item in plan.items for index in range(1 if _choices(plan) else plan.n)}
    there = {(record["item"], record["index"]): record for record in records}
    samples = [there[key] for key in wanted if key in there]
    items = [wanted[key] for key in wanted if key in there]
    judge = None if plan.task.judge is None else plan.task.judge.identity(how)
    own = {"task": plan.task.name, "version": plan.task.version, "judge": judge, "samples": text_hash(identity)}
    marks = [_mark(sample) for sample in samples]
    with _scores(plan, own, samples, marks, overwrite) as file:
        known = {(record["item"], record["index"]): record for record in file.records}
        todo = [i for i, sample in enumerate(samples) if (sample["item"], sample["index"]) not in known]
        broken: Counter[str] = Counter()
        if _choices(plan):
            for i in todo:
                score = {**_start(samples[i], marks[i]), **_choice(plan, items[i], samples[i])}
                file.add(score)
                known[samples[i]["item"], samples[i]["index"]] = score
        else:
            _judge(plan, file, [(items[i], samples[i], marks[i]) for i in todo], known, broken, how, silent)
    scores = [known.get((sample["item"], sample["index"])) for sample in samples]
    return Scored(samples, scores, len(wanted) - len(samples), broken, identity, judge or {})


def _scores(
    plan: Plan, own: dict[str, Any], samples: list[dict[str, Any]], marks: list[str], overwrite: bool
) -> RecordFile:
    """The file of scores. It is made of samples: scores of other samples, or by another judge, are made anew."""
    try:
        file = RecordFile(plan.scores_file, "scores", own, SAMPLE_KEY, overwrite)
    except IdentityError:
        return RecordFile(plan.scores_file, "scores", own, SAMPLE_KEY, replace=True)
    there = {(record["item"], record["index"]): record["sample"] for record in file.records}
    if all(there.get((s["item"], s["index"]), mark) == mark for s, mark in zip(samples, marks, strict=True)):
        return file
    file.close()
    return RecordFile(plan.scores_file, "scores", own, SAMPLE_KEY, replace=True)


def _choices(plan: Plan) -> bool:
    return plan.task.kind == "choices"


def _mark(sample: Mapping[str, Any]) -> str:
    return text_hash([sample.get("text"), sample.get("log_likelihoods")])


def _start(sample: Mapping[str, Any], mark: str) -> dict[str, Any]:
    return {"item": sample["item"], "index": sample["index"], "sample": mark}


def _check(plan: Plan, identity: Mapping[str, Any]) -> None:
    """Refuses samples of another task, version, or way of asking; of another model they may be, if only scores are asked for."""
    here = plan.identity(identity.get("writer", {}))
    apart = [name for name in here if name != "settings" and identity.get(name) != here[name]]
    if apart:
        name = apart[0]
        raise IdentityError(
            f"{plan.samples_file} holds samples of another identity ({name}: {identity.get(name)!r} there, {here[name]!r} now); "
            "give another --out, the same options as then, or --overwrite true to make them anew"
        )


def _choice(plan: Plan, item: Item, sample: Mapping[str, Any]) -> dict[str, Any]:
    assert plan.task.metrics is not None
    return {"metrics": plan.task.metrics(item, sample["log_likelihoods"], sample["greedy"])}


def _judge(
    plan: Plan,
    file: RecordFile,
    todo: list[tuple[Item, dict[str, Any], str]],
    known: dict[tuple[str, int], dict[str, Any]],
    broken: Counter[str],
    how: How,
    silent: bool,
) -> None:
    from tqdm import tqdm

    judge = plan.task.judge
    assert judge is not None
    asked: list[tuple[Item, dict[str, Any], str, str]] = []

    def keep(sample: Mapping[str, Any], mark: str, answer: str | None, verdict: Verdict) -> None:
        score = {
            **_start(sample, mark),
            "answer": answer,
            "correct": verdict.correct,
            "status": verdict.status,
            "detail": verdict.detail,
            "group": verdict.group,
        }
        file.add(score)
        known[sample["item"], sample["index"]] = score

    for item, sample, mark in todo:
        answer = plan.task.answer(sample["text"], item)
        if answer is None:
            keep(sample, mark, None, Verdict(0.0, "empty", "no answer stands in the text"))
        else:
            asked.append((item, sample, mark, answer))
    with tqdm(
        total=len(asked),
        desc=f"{plan.task.name}: verdicts",
        unit="sample",
        disable=True if silent or not asked else None,
    ) as bar:

        def done(number: int, verdict: Verdict) -> None:
            _, sample, mark, answer = asked[number]
            bar.update()
            if verdict.correct is None:
                broken[f"{verdict.status}: {verdict.detail}"[:300]] += 1
            else:
                keep(sample, mark, answer, verdict)

        if asked:
            judge.judge([(item, answer) for item, _, _, answer in asked], done, how)
