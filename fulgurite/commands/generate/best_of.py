"""`fulgurite generate --best_of N`: N answers to each prompt, scored; the best of them with all the others.

Rows are answered some at a time, in the order of the file: their answers are drawn (each prompt is read once), scored, and appended
to `OUT.part`. A row that stands in OUT or OUT.part already, with the same hash of prompt, model, settings and scorer, is taken
over. Every answer has a seed of its own, made of prompt and index, so that a run that was interrupted draws the same.

A row gets `completion` (the best answer, null where none has a reward), `reward`, `completions` with `rewards`, `finishes` and
`answer_tokens` in the order in which they were drawn, `asked` (the turns that were asked) and `prompt_hash`; where a task's checker
scores, `correct` too, so that no wrong answer becomes a target of training.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fulgurite.commands.generate.file import check_target, prompt_hash, read_prompts, refuse_lost
from fulgurite.commands.shared.rewards import read_as
from fulgurite.commands.shared.written_rows import json_line, written_rows
from fulgurite.console import say, shortest
from fulgurite.data.records.conversation import Turn
from fulgurite.evaluation.selection.candidates import CUT
from fulgurite.evaluation.selection.rules import best
from fulgurite.evaluation.selection.scorers import Asked, Scorer, rewards_of
from fulgurite.evaluation.tasks.task import Task
from fulgurite.generation.protocol import Backend, Request, Sample, SamplingSettings, by_request
from fulgurite.generation.texts import LoadedModel, check_prompts
from fulgurite.whole_files import whole_file

__all__ = ["BestOf", "answer_best", "run_best_of"]

_ADDED = ("completion", "reward", "completions", "rewards", "finishes", "answer_tokens", "asked", "prompt_hash")
_BATCHES = 4

Row = dict[str, Any]


class BestOf:
    """Draws and scores.

    Args:
        loaded: the model and its tokenizer.
        backend: draws its answers.
        scorer: scores them.
        n: answers of each prompt.
        settings: how they are drawn.
        lead: condition tokens in front of each prompt's last turn, which the scorer does not see.
        task: whose rows the file holds, where a task's checker scores.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        backend: Backend,
        scorer: Scorer,
        n: int,
        settings: SamplingSettings,
        lead: str = "",
        task: Task | None = None,
    ) -> None:
        if n < 2:
            raise ValueError(f"generate: best_of={n}; the best of 2 and more can be chosen; raise it, or leave it out")
        self.loaded, self.backend, self.scorer = loaded, backend, scorer
        self.n, self.settings, self.lead, self.task = n, settings, lead, task

    def led(self, prompt: tuple[Turn, ...]) -> tuple[Turn, ...]:
        """A prompt as the model gets it."""
        return (*prompt[:-1], replace(prompt[-1], content=self.lead + prompt[-1].content))

    def draw(
        self, prompts: Sequence[tuple[Turn, ...]], keys: Sequence[str], rows: Sequence[Row], places: Sequence[str]
    ) -> list[Row]:
        """The new columns of each row.

        Args:
            prompts: turns of each.
            keys: tell equal prompts apart; part of the seeds.
            rows: as they were read; of a task, where its checker scores.
            places: where each comes from.
        """
        requests = [Request(self._request(prompt), key) for prompt, key in zip(prompts, keys, strict=True)]
        drawn = by_request(self.backend.sample(requests, self.n, self.settings))
        items = [None if self.task is None else self.task.item(row, i) for i, row in enumerate(rows, 1)]
        asked = [
            Asked(prompt, sample.text, place, item)
            for prompt, samples, place, item in zip(prompts, drawn, places, items, strict=True)
            for sample in samples
        ]
        rewards = rewards_of(self.scorer, asked)
        return [
            self._added(prompt, samples, rewards[i * self.n : (i + 1) * self.n])
            for i, (prompt, samples) in enumerate(zip(prompts, drawn, strict=True))
        ]

    def _request(self, prompt: tuple[Turn, ...]) -> str | tuple[Turn, ...]:
        led = self.led(prompt)
        return led[0].content if led[0].role == "prompt" else led

    def _added(self, prompt: tuple[Turn, ...], samples: Sequence[Sample], rewards: Sequence[float | None]) -> Row:
        taken = best(rewards)
        return {
            **({} if self.task is None else {"correct": list(rewards)}),  # a checker's rewards say what is right
            "completion": None if taken is None else samples[taken].text,
            "reward": None if taken is None else rewards[taken],
            "completions": [sample.text for sample in samples],
            "rewards": list(rewards),
            "finishes": [sample.finish for sample in samples],
            "answer_tokens": [len(sample.token_ids or ()) for sample in samples],
            "asked": [{"role": turn.role, "content": turn.content} for turn in prompt],
        }


def answer_best(best_of: BestOf, prompt: tuple[Turn, ...]) -> None:
    """One prompt: every answer behind its reward, the best first.

    Args:
        best_of: draws and scores.
        prompt: the turns.
    """
    (row,) = best_of.draw([prompt], [""], [{}], ["the prompt"])
    found = sorted(
        zip(row["rewards"], row["completions"], strict=True), key=lambda one: (one[0] is None, -(one[0] or 0))
    )
    for reward, text in found:
        sys.stdout.write(f"[{'no reward' if reward is None else format(reward, '+.4f')}] {text}\n")


def run_best_of(
    best_of: BestOf,
    source: Path,
    target: Path,
    start: tuple[Turn, ...],
    column: str | None,
    identity: Mapping[str, Any],
    batch_size: int,
    overwrite: bool,
) -> None:
    """Answers every row of a file with the best of N.

    Args:
        best_of: draws and scores.
        source: the prompts.
        target: the rows with the new columns.
        start: the system's turn, or nothing; a row's own system's turn goes before it.
        column: the column with the prompts; None takes the first known one.
        identity: what the answers depend on beside model settings and scorer; part of the hash.
        batch_size: answers at a time.
        overwrite: whether answers in `target` that are not these may be lost.

    Raises:
        ValueError: a row that cannot be asked; a reward that is no number, or the same for every answer.
    """
    check_target(source, target)
    loaded, scorer = best_of.loaded, best_of.scorer
    rows, prompts, places = read_prompts(
        source, start, column, bool(loaded.tokenizer.chat_template), (*_ADDED, "correct")
    )
    own = {"best_of": best_of.n, "scorer": scorer.identity(), "settings": best_of.settings.to_dict(), **identity}
    common = json.dumps([own, best_of.lead, loaded.tokenizer.chat_template], sort_keys=True, default=str)
    seen: Counter[str] = Counter()
    hashes, keys = [], []
    for prompt in prompts:
        plain = prompt_hash(common, prompt)
        again = str(seen[plain]) if seen[plain] else ""  # equal prompts get draws of their own
        seen[plain] += 1
        keys.append(again)
        hashes.append(prompt_hash(common + again, prompt))
    part = target.with_name(target.name + ".part")
    earlier = written_rows(target, foreign=True)
    known = {str(row["prompt_hash"]): row for row in [*earlier, *written_rows(part)] if "prompt_hash" in row}
    lost = {row.get("prompt_hash") for row in earlier} - set(hashes)
    refuse_lost(target, earlier, len(lost), overwrite)
    found: list[Row | None] = [_taken(known.get(key), best_of.n) for key in hashes]
    waiting = [i for i, row in enumerate(found) if row is None]
    if len(waiting) < len(rows):
        say(f"{len(rows) - len(waiting)} of {len(rows)} rows are answered already, in {shortest(target)} or .part")
    check_prompts(
        loaded.model, loaded.tokenizer, [best_of.led(prompts[i]) for i in waiting], [places[i] for i in waiting]
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    torn = part.is_file() and not part.read_bytes().endswith(b"\n")
    with open(part, "a", encoding="utf-8") as stream:
        stream.write("\n" if torn else "")  # what was cut off in mid-line stays a line of its own
        for i, added in _drawn(best_of, rows, prompts, places, keys, waiting, batch_size):
            found[i] = added
            stream.write(json_line({**rows[i], **added, "prompt_hash": hashes[i]}))
            stream.flush()
    done = [row for row in found if row is not None]
    _check(scorer, done)
    with whole_file(target) as scratch, open(scratch, "w", encoding="utf-8") as stream:
        for row, added, key in zip(rows, done, hashes, strict=True):
            stream.write(json_line({**row, **added, "prompt_hash": key}))
    part.unlink(missing_ok=True)
    for line in _told(done, scorer):
        say(line)
    say(f"written: {shortest(target)}, {len(rows)} rows")


def _drawn(
    best_of: BestOf,
    rows: Sequence[Row],
    prompts: Sequence[tuple[Turn, ...]],
    places: Sequence[str],
    keys: Sequence[str],
    waiting: Sequence[int],
    batch_size: int,
) -> Iterator[tuple[int, Row]]:
    from tqdm import tqdm

    step = max(1, _BATCHES * batch_size // best_of.n)
    with tqdm(total=len(waiting), desc="generating", unit="row", disable=not waiting) as bar:
        for at in range(0, len(waiting), step):
            part = waiting[at : at + step]
            found = best_of.draw(
                [prompts[i] for i in part], [keys[i] for i in part], [rows[i] for i in part], [places[i] for i in part]
            )
            yield from zip(part, found, strict=True)
            bar.update(len(part))


def _taken(row: Row | None, n: int) -> Row | None:
    """The new columns of a row of an earlier output, if they are whole."""
    if row is None or any(name not in row for name in _ADDED):
        return None
    lists = [row[name] for name in ("completions", "rewards", "finishes", "answer_tokens")]
    if not all(isinstance(each, list) and len(each) == n for each in lists):
        return None
    return {name: row[name] for name in (*_ADDED, "correct") if name in row and name != "prompt_hash"}


def _check(scorer: Scorer, rows: Sequence[Row]) -> None:
    """Refuses rewards that choose nothing."""
    scored = {(text, reward) for row in rows for text, reward in zip(row["completions"], row["rewards"], strict=True)}
    rewards = [reward for _, reward in scored if reward is not None]
    if rows and not rewards:
        why = ", ".join(f"{reason}: {count}" for reason, count in scorer.omitted.items()) or "see --reward_max_length"
        raise ValueError(
            f"generate: not one answer has a reward ({why}); nothing can be chosen. The answers are kept in the output's .part"
        )
    if len(rewards) >= 4 and len(set(rewards)) == 1 and not scorer.name.startswith("task:"):
        raise ValueError(
            f"generate: {scorer.name} gives all {len(rewards)} different answers the reward {rewards[0]:.6g}; a constant reward "
            "chooses nothing. The model is broken, or no reward model. The answers are kept in the output's .part"
        )


def _told(rows: Sequence[Row], scorer: Scorer) -> list[str]:
    """What a reader should know about the answers."""
    lines = [] if scorer.example is None else [read_as(scorer)]
    total = sum(len(row["completions"]) for row in rows)
    tied = sum(len({reward for reward in row["rewards"] if reward is not None}) == 1 for row in rows)
    cut = sum(finish == CUT for row in rows for finish in row["finishes"])
    none = sum(row["completion"] is None for row in rows)
    for reason, count in sorted(scorer.omitted.items()):
        lines.append(f"{count} answers of this run have no reward: {reason}")
    if cut:
        lines.append(f"{cut} of {total} answers were cut off: raise --max_new_tokens")
    if tied:
        lines.append(
            f"of {tied} of {len(rows)} prompts all answers have the same reward, so that the first one was taken"
        )
    if none:
        lines.append(f"{none} of {len(rows)} prompts have no answer with a reward: their completion is null")
    return lines
