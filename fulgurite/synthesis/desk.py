"""What a step works with: asks models, has answers judged, and says what became of each row.

Every answer is a line of OUT/steps/STEP.jsonl before the next one is looked at, and is found there by row, part and index the next
time: a run that was stopped at any byte asks for nothing twice. An answer that stands there must belong to the prompt that would be
asked now. Verdicts stand in OUT/steps/STEP.verdicts.jsonl in the same way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulgurite.data.records.conversation import Turn
from fulgurite.data.records.findings import half_pair
from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.prompt_files import PromptFiles
from fulgurite.evaluation.runner.plan import plain, text_hash
from fulgurite.evaluation.runner.record_file import IdentityError, RecordFile
from fulgurite.generation import ServerBackend, ServerError
from fulgurite.generation.protocol import Request
from fulgurite.synthesis.account import Account
from fulgurite.synthesis.authors import Author
from fulgurite.synthesis.ledger import Ledger, StepCount
from fulgurite.synthesis.rows import Row

__all__ = ["ANSWER_KEY", "VERDICT_KEY", "Answer", "Ask", "Desk", "Dry", "open_desk"]

ANSWER_KEY = ("row", "part", "index")
VERDICT_KEY = ("row", "answer")
_OPEN = "…"  # stands in a dry run for every answer


@dataclass(frozen=True)
class Ask:
    """One prompt.

    Attributes:
        row: key of the row that it is asked for.
        part: which of the step's answers for that row it is.
        model: the recipe's name of who is asked.
        turns: the prompt.
        index: number of the draw.
        templates: names of the template files in the prompt.
    """

    row: str
    part: str
    model: str
    turns: tuple[Turn, ...]
    index: int = 0
    templates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What came.

    Attributes:
        text: the answer.
        finish: how it ended: "stop", "length", "window" where the prompt does not fit into the model's window.
        made: its provenance.
    """

    text: str
    finish: str
    made: Mapping[str, Any]


@dataclass
class Dry:
    """A dry run: prompts are shown, nothing is asked.

    Attributes:
        asks: of each step, in order.
        tokens: the most that prompts and answers may take.
        money: the most that they may cost.
    """

    asks: dict[str, list[Ask]]
    tokens: int = 0
    money: float = 0.0


@dataclass
class Desk:
    """What one step works with.

    Attributes:
        step: name of the step.
        authors: the recipe's models.
        prompts: the templates.
        how: what the user chose about judging.
        seed: of all choices at random.
        folder: of the run.
        account: what was used so far.
        ledger: of the run.
        count: the step's counts.
        dry: collects prompts in place of asking.
        silent: show no progress.
        stopped: why nothing more is asked in this run; None while it goes on.
        new: answers that this step got in this run.
    """

    step: str
    authors: Mapping[str, Author]
    prompts: PromptFiles
    how: How
    seed: int
    folder: Path
    account: Account
    ledger: Ledger
    count: StepCount
    dry: Dry | None = None
    silent: bool = False
    stopped: str | None = None
    new: int = 0

    def __post_init__(self) -> None:
        self._files: dict[str, RecordFile] = {}
        self._checked: set[str] = set()
        self._known: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._judged: dict[tuple[Any, ...], dict[str, Any]] = {}

    def drop(self, row: Row, reason: str, detail: str = "") -> None:
        """Leaves a row out, counted by a short fixed phrase."""
        self.count.count(self.count.dropped, reason, row.key, detail)

    def wait(self, row: Row, reason: str = "") -> None:
        """Leaves a row for the next run, because an answer or a verdict is missing."""
        told = reason or self.stopped or "an answer could not be had"
        self.count.count(self.count.waiting, told.split(" (")[0], row.key, told)
        self.ledger.left[row.key] = told

    def note(self, row: str, reason: str, detail: str = "") -> None:
        """Counts something odd about a row or an answer that stays."""
        self.count.count(self.count.notes, reason, row, detail)

    def author(self, name: str) -> Author:
        """A model of the recipe.

        Raises:
            ValueError: the recipe has no such model.
        """
        if name not in self.authors:
            raise ValueError(
                f"synthesize: step {self.step} names the model {name!r}; the recipe's models are: {', '.join(self.authors)}"
            )
        return self.authors[name]

    def prompt(self, name: str, fields: Mapping[str, object]) -> str:
        """A rendered template, without blanks around it.

        Args:
            name: of the template, without its ending.
            fields: values.
        """
        return self.prompts.text(f"{name}.jinja", fields).strip()

    def ask(self, asks: Sequence[Ask], what: str = "answers") -> list[Answer | None]:
        """The answers, those that are missing asked for; None where one could not be had in this run.

        Args:
            asks: prompts; all of one call are sent together, model by model.
            what: what is asked for, for the progress bar.

        Raises:
            IdentityError: an answer that is there belongs to another prompt.
        """
        if self.dry is not None:
            return [self._dry(one, self.dry) for one in asks]
        if asks:
            self._answers_file(sorted({one.model for one in asks}))
        groups: dict[str, list[Ask]] = {}
        for one in asks:
            record = self._known.get((one.row, one.part, one.index))
            if record is None:
                groups.setdefault(one.model, []).append(one)
            elif record["prompt"] != text_hash(plain(one.turns)) or record["model"] != one.model:
                raise IdentityError(
                    f"{self.folder / 'steps' / self.step}.jsonl: {one.part} of row {one.row} answers another prompt than the one "
                    "that would be asked now (other rows, options or templates); they are not mixed: give another --out, or "
                    "--overwrite true"
                )
        for name, group in groups.items():
            self._send(self.author(name), group, what)
        found = [self._known.get((one.row, one.part, one.index)) for one in asks]
        return [None if record is None else _answer(self.step, record) for record in found]

    def _dry(self, one: Ask, dry: Dry) -> Answer:
        author = self.author(one.model)
        dry.asks.setdefault(self.step, []).append(one)
        prompt, most = author.tokens(one.turns), author.settings.max_new_tokens
        dry.tokens += prompt + most
        dry.money += author.price.of(prompt, most)
        return Answer(_OPEN, "stop", {})

    def _send(self, author: Author, asks: list[Ask], what: str) -> None:
        """Asks for what the budget holds, as long as there is something left of it."""
        from tqdm import tqdm

        waiting = []
        for one in asks:
            if any(half_pair(turn.content) is not None for turn in one.turns):
                self._keep(author, one, "", "broken Unicode", 0, (0, 0), True)
                continue
            tokens = author.tokens(one.turns)
            if author.window is not None and tokens >= author.window:
                self._keep(author, one, "", "window", 0, (0, 0), True)
            else:
                waiting.append((one, tokens))
        with tqdm(
            total=len(waiting),
            desc=f"{self.step}: {what} of {author.name}",
            unit="answer",
            disable=True if self.silent or not waiting else None,
        ) as bar:
            while waiting and self.stopped is None:
                most = [tokens + author.settings.max_new_tokens for _, tokens in waiting]
                cost = [author.price.of(tokens, author.settings.max_new_tokens) for _, tokens in waiting]
                fitting = self.account.fitting(list(zip(most, cost, strict=True)))
                if not fitting:
                    self.stopped = self.account.why(most[0], cost[0])
                    return
                self._sent(author, waiting[:fitting], bar)
                waiting = waiting[fitting:]

    def _sent(self, author: Author, asks: list[tuple[Ask, int]], bar: Any) -> None:
        requests, members = _requests(self.step, [one for one, _ in asks])
        backend, most = author.backend, self.account.budget.requests
        if isinstance(backend, ServerBackend):
            backend.max_requests = None if most is None else max(1, most - self.account.spent.requests)
        try:
            for sample in backend.sample(requests, 1, author.settings):
                one, prompted = asks[members[sample.prompt, sample.index]]
                bar.update()
                if sample.finish == "error":
                    self.count.count(self.count.notes, "an answer could not be had", one.row, str(sample.error))
                    continue
                usage = sample.usage or (prompted, author.letters(sample.text))
                self._keep(author, one, sample.text, sample.finish, sample.seed, usage, sample.usage is not None)
                self.new += 1
                bar.set_postfix_str(f"{self.account.spent.money:.4g} spent" if self.account.spent.money else "")
        except ServerError as error:
            self.stopped = str(error)

    def _keep(
        self, author: Author, one: Ask, text: str, finish: str, seed: int, usage: tuple[int, int], counted: bool
    ) -> None:
        record = {
            "row": one.row,
            "part": one.part,
            "index": one.index,
            "model": author.name,
            "prompt": text_hash(plain(one.turns)),
            "templates": {name: self.prompts.hashes[f"{name}.jinja"] for name in one.templates},
            "text": text,
            "finish": finish,
            "seed": seed,
            "tokens": list(usage),
            "counted": counted,
            "money": author.price.of(*usage),
        }
        self._answers_file([author.name]).add(record)
        self._known[one.row, one.part, one.index] = record
        self.account.add(self.step, record)

    def _answers_file(self, models: Iterable[str]) -> RecordFile:
        if "answers" not in self._files:
            path = self.folder / "steps" / f"{self.step}.jsonl"
            file = self._files["answers"] = RecordFile(
                path, "answers", {"step": self.step, "seed": self.seed}, ANSWER_KEY
            )
            self._known = {tuple(record[name] for name in ANSWER_KEY): record for record in file.records}
        for name in models:
            self._check_author(name)
        return self._files["answers"]

    def _check_author(self, name: str) -> None:
        """A file of its own says what each model is: others may join a recipe, but none may change under its answers."""
        if name not in self._checked:
            identity = self.author(name).identity()
            RecordFile(self.folder / "models" / f"{name}.jsonl", "answers of a model", identity, ("row",)).close()
            self._checked.add(name)

    def judged(
        self,
        wanted: Sequence[tuple[str, str]],
        judge: Callable[[Sequence[int], Callable[[int, dict[str, Any]], None]], None],
        identity: Callable[[], Mapping[str, Any]],
    ) -> list[dict[str, Any] | None]:
        """Verdicts, those that are missing made; None where what judges is broken.

        Args:
            wanted: key of the row and hash of all that the verdict is about.
            judge: makes the verdicts of these places, and hands each over with its place as soon as it is final.
            identity: what verdicts depend on.
        """
        if "verdicts" not in self._files:
            path = self.folder / "steps" / f"{self.step}.verdicts.jsonl"
            own = dict(identity())
            try:
                file = RecordFile(path, "verdicts", own, VERDICT_KEY)
            except IdentityError:  # verdicts of another judge cost nothing but time
                file = RecordFile(path, "verdicts", own, VERDICT_KEY, replace=True)
            self._files["verdicts"] = file
            self._judged = {tuple(record[name] for name in VERDICT_KEY): record for record in file.records}
        missing = {key: place for place, key in reversed(list(enumerate(wanted))) if key not in self._judged}

        def done(place: int, verdict: dict[str, Any]) -> None:
            if verdict["correct"] is None:
                self.count.count(self.count.notes, "what judges is broken", wanted[place][0], str(verdict["detail"]))
                return
            record = {"row": wanted[place][0], "answer": wanted[place][1], **verdict}
            self._judged[wanted[place]] = record
            fresh.append(record)

        fresh: list[dict[str, Any]] = []
        try:
            if missing:
                judge(sorted(missing.values()), done)
        finally:
            if fresh:
                self._files["verdicts"].extend(fresh)
        return [self._judged.get(key) for key in wanted]

    def close(self) -> None:
        """Ends the step's files."""
        for file in self._files.values():
            file.close()
        self._files.clear()


@contextlib.contextmanager
def open_desk(desk: Desk) -> Iterator[Desk]:
    """A desk whose files are closed at the end of the block."""
    try:
        yield desk
    finally:
        desk.close()


def _requests(step: str, asks: Sequence[Ask]) -> tuple[list[Request], dict[tuple[int, int], int]]:
    """Requests, draws of one prompt together; and the place of the ask of each request's sample."""
    grouped: dict[tuple[str, str, tuple[Turn, ...]], list[int]] = {}
    for place, one in enumerate(asks):
        grouped.setdefault((one.row, one.part, one.turns), []).append(place)
    requests: list[Request] = []
    members: dict[tuple[int, int], int] = {}
    for number, ((row, part, turns), places) in enumerate(grouped.items()):
        indices = tuple(asks[place].index for place in places)
        requests.append(Request(list(turns), f"{step}/{row}/{part}", indices))
        members |= {(number, asks[place].index): place for place in places}
    return requests, members


def _answer(step: str, record: Mapping[str, Any]) -> Answer:
    names = ("part", "index", "model", "prompt", "templates", "seed", "tokens", "money")
    return Answer(record["text"], record["finish"], {"step": step, **{name: record[name] for name in names}})
