"""The loop: the learner writes, running says what fails, the teacher explains, the learner writes anew, up to T times.

No conversation is kept: each prompt shows the latest program, its error and its explanation. All open chains of all methods take a
turn together, so that the backend gets many prompts at once. What is asked, answered and run is one line each of OUT/TASK/FEEDBACK/
chains.jsonl; a run that is stopped at any byte goes on behind the last of them, and more turns or chains can be asked for later.

Independent sampling, the baseline, is the loop without memory: each program is drawn anew from the first prompt, and the draws of a
chain end as a repair does, when the feedback has nothing more to say. It goes on past T + 1 programs of a chain while it has used
fewer tokens in all than INTERVENOR has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fulgurite.evaluation.repair.book import KEY, Book, Chain, Place, cost_of
from fulgurite.evaluation.repair.examples import asserts_in
from fulgurite.evaluation.repair.feedback import NO_PROGRAM, NOTHING, error_fields, run_jobs
from fulgurite.evaluation.repair.plan import METHODS, SAMPLING, SHARED, RepairPlan, Role
from fulgurite.evaluation.repair.problems import Problem, judge_of
from fulgurite.evaluation.runner.plan import plain, text_hash
from fulgurite.evaluation.runner.record_file import IdentityError, RecordFile
from fulgurite.generation import ServerError
from fulgurite.generation.protocol import Request, SamplingSettings
from fulgurite.sandbox import Job

__all__ = ["MOST_ROUNDS", "Repaired", "repair"]

MOST_ROUNDS = 8  # times T + 1: programs of a chain that independent sampling draws at most
_SAID = {"explanation": "explanations", "program": "programs", "tests": "tests"}


@dataclass
class Repaired:
    """What a call of `repair` leaves.

    Attributes:
        book: all records.
        troubles: why chains are not done: answers that could not be had, a sandbox that is broken.
        stopped: the server's error after which nothing more was asked; None if there was none.
        new: answers that this call got.
        known: records that stood there.
        repaired: bytes of a torn last line that were cut off.
    """

    book: Book
    troubles: dict[tuple[str, str, int], str] = field(default_factory=dict)
    stopped: ServerError | None = None
    new: int = 0
    known: int = 0
    repaired: int = 0


@dataclass(frozen=True)
class _Asked:
    """One prompt: the place of its answer, who is asked, by which template, and how the answer is drawn."""

    place: Place
    step: str
    role: Role
    text: str
    settings: SamplingSettings


def repair(plan: RepairPlan, overwrite: bool = False, silent: bool = False) -> Repaired:
    """Runs all chains to their ends.

    Args:
        plan: task, feedback, roles.
        overwrite: begin anew.
        silent: show no progress.

    Raises:
        IdentityError: the file holds chains of another model, other settings, prompts, feedback or judge.
    """
    with RecordFile(plan.file, "repairs", plan.identity(), KEY, overwrite) as file:
        loop = _Loop(plan, Repaired(Book(file), known=len(file.records), repaired=file.repaired), silent)
        loop.run()
        return loop.done


class _Loop:
    def __init__(self, plan: RepairPlan, done: Repaired, silent: bool) -> None:
        self.plan, self.done, self.silent = plan, done, silent
        self.book, self.problems = done.book, {problem.item.key: problem for problem in plan.problems}
        self.chains = [(problem, index) for problem in plan.problems for index in range(plan.n)]
        self.ran: dict[Any, dict[str, Any]] = {}  # outcomes by item, program and tests
        for record in self.book:
            if record["step"] == "verdict" and record["program"] is not None and record["answered"]:
                item, program = record["item"], record["program"]
                self.ran[item, program, None] = record["hidden"]
                self.ran[item, program, tuple(record["tests"])] = record["feedback"]

    def run(self) -> None:
        """All stages in order."""
        if self.plan.feedback == "selfgen":
            self._ask([self._first(p, i, "tests", "tests") for p, i in self.chains])
        self._ask([self._first(p, i, "program", "write") for p, i in self.chains if p.given is None])
        self._judge([Place(SHARED, p.item.key, i, 0) for p, i in self.chains])
        for turn in range(1, self.plan.turns + 1):
            for step in ("explanation", "program"):
                self._ask(
                    self._next(method, problem, index, turn, step, template)
                    for method, problem, index in self._open(turn)
                    for name, template in METHODS[method]
                    if name == step
                )
            self._judge([Place(method, p.item.key, i, turn) for method, p, i in self._open(turn)])
        if self.plan.baselines:
            self._sample()

    def chain(self, method: str, problem: Problem, index: int, turns: int | None = None) -> Chain:
        """A chain so far."""
        return self.book.chain(method, problem.item.key, index, problem.given is not None, turns)

    def _open(self, turn: int) -> list[tuple[str, Problem, int]]:
        """The chains of repair that take this turn."""
        found = []
        for method in self.plan.methods:
            for problem, index in self.chains:
                chain = self.chain(method, problem, index, turn - 1)
                if (
                    len(chain.verdicts) == turn
                    and not chain.ended
                    and not self._troubled(method, problem.item.key, index)
                ):
                    found.append((method, problem, index))
        return found

    def _troubled(self, method: str, item: str, index: int) -> bool:
        return any((name, item, index) in self.done.troubles for name in (method, SHARED))

    def _first(
        self, problem: Problem, index: int, step: str, template: str, method: str = SHARED, turn: int = 0
    ) -> _Asked:
        """A prompt that knows of no program."""
        fields = {"task": problem.task, "start": problem.start, "entry_point": problem.entry_point}
        role, temperature = self.plan.learner, self.plan.sampling_temperature if method == SAMPLING else None
        return _Asked(
            Place(method, problem.item.key, index, turn),
            step,
            role,
            self.plan.templates.text(template, role.chat, fields),
            role.drawn(template, problem.start, temperature),
        )

    def _next(self, method: str, problem: Problem, index: int, turn: int, step: str, template: str) -> _Asked:
        """A prompt about the latest program of a chain; independent samples see the given one each time."""
        sampled = method == SAMPLING
        chain = self.chain(SHARED if sampled else method, problem, index, 0 if sampled else turn - 1)
        program, outcome = chain.program(turn - 1), chain.verdicts[-1]["feedback"]
        role = self.plan.teacher if step == "explanation" else self.plan.learner
        place = Place(method, problem.item.key, index, turn)
        told = self.book.get(place, "explanation")
        fields: dict[str, object] = {
            "task": problem.task,
            "start": problem.start,
            "entry_point": problem.entry_point,
            "program": (program or "").strip("\n"),
            "explanation": "" if told is None else told["text"].strip(),
            "turn": 1 if sampled else turn,
            **error_fields(outcome, program, problem.entry_point),
        }
        text = self.plan.templates.text(template, role.chat, fields)
        settings = role.drawn(template, problem.start, self.plan.sampling_temperature if sampled else None)
        return _Asked(place, step, role, text, settings)

    def _ask(self, asked: Iterable[_Asked]) -> None:
        """Gets the answers that are missing; those that are there must belong to the same prompts."""
        groups: dict[tuple[int, SamplingSettings], list[_Asked]] = {}
        for one in asked:
            record = self.book.get(one.place, one.step)
            if record is None:
                groups.setdefault((id(one.role.backend), one.settings), []).append(one)
            elif record["request"] != text_hash(plain(one.role.prompt(one.text))):
                raise IdentityError(
                    f"{self.plan.file}: the {one.step} of {self.plan.task.name} {one.place.item} in turn {one.place.turn} answers "
                    "another prompt than the one that would be asked now (other rows, or another version of fulgurite); they are "
                    "not mixed: give another --out, or --overwrite true"
                )
        for group in groups.values():
            self._sent([one for one in group if not self._troubled(one.place.method, one.place.item, one.place.index)])

    def _sent(self, group: list[_Asked]) -> None:
        """Sends prompts of one backend with the same settings; those that its window does not hold are answered by nothing."""
        from tqdm import tqdm

        fitting = []
        for one in group:
            tokens = one.role.tokens(one.text)
            if tokens is not None and one.role.window is not None and tokens >= one.role.window:
                self._keep(one, "", "window", 0, 0, 0)
            else:
                fitting.append((one, tokens))
        if not fitting or self.done.stopped is not None:
            for one, _ in fitting:
                self._trouble(one.place, "the server was given up before")
            return
        requests = [
            Request(one.role.prompt(one.text), f"{self.plan.task.name}/{'/'.join(map(str, vars(one.place).values()))}/{one.step}",
                    (one.place.index,))
            for one, _ in fitting
        ]  # fmt: skip
        first = fitting[0][0]
        what = f"{self.plan.task.name}, {self.plan.feedback}, turn {first.place.turn}: {_SAID[first.step]}"
        came = set()
        with tqdm(total=len(fitting), desc=what, unit="answer", disable=True if self.silent else None) as bar:
            try:
                for sample in first.role.backend.sample(requests, 1, first.settings):
                    one, tokens = fitting[sample.prompt]
                    came.add(sample.prompt)
                    bar.update()
                    if sample.finish == "error":
                        self._trouble(one.place, f"the {one.step} could not be had: {sample.error}")
                        continue
                    generated = None if sample.token_ids is None else len(sample.token_ids)
                    self._keep(one, sample.text, sample.finish, generated, sample.seed, tokens)
                    self.done.new += 1
            except ServerError as error:
                self.done.stopped = error
        for number, (one, _) in enumerate(fitting):
            if number not in came:
                self._trouble(one.place, f"the {one.step} did not come")

    def _keep(
        self, one: _Asked, text: str, finish: str, generated: int | None, seed: int, prompted: int | None
    ) -> None:
        prompt = plain(one.role.prompt(one.text))
        content = {"request": text_hash(prompt), "prompt": prompt, "text": text, "finish": finish, "seed": seed}
        sizes = {"tokens": generated, "prompt_tokens": prompted}
        self.book.add(one.place.record(one.step, {**content, **sizes}))

    def _trouble(self, place: Place, why: str) -> None:
        self.done.troubles.setdefault((place.method, place.item, place.index), f"turn {place.turn}: {why}")

    def _tests(self, problem: Problem, index: int) -> tuple[str, ...]:
        """The asserts of the feedback mode; of hidden none, since there the task's own test speaks."""
        if self.plan.feedback == "visible":
            return problem.examples
        record = self.book.get(Place(SHARED, problem.item.key, index, 0), "tests")
        if self.plan.feedback == "hidden" or record is None:
            return ()
        prompt = record["prompt"]
        lead = prompt.rpartition("```python\n")[2] if isinstance(prompt, str) else ""
        return asserts_in(lead + record["text"], problem.entry_point)

    def _judge(self, places: Sequence[Place]) -> None:
        """A verdict on the program of each place that has one and is not judged; equal programs are run once."""
        waiting: dict[Any, list[tuple[Place, Callable[[], None]]]] = {}
        jobs: dict[Any, Job] = {}
        for place in places:
            problem = self.problems[place.item]
            answer = self.book.get(place, "program")
            given = problem.given if place.turn == 0 else None
            if self.book.get(place, "verdict") is not None or (answer is None and given is None):
                continue
            if self._troubled(place.method, place.item, place.index):
                continue
            program = given if answer is None else problem.program(answer["text"])
            tests = self._tests(problem, place.index)
            write = self._writing(place, program, tests)
            missing = [] if program is None else self._missing(place.item, program, tests)
            for key in missing:
                waiting.setdefault(key, []).append((place, write))
                own = judge_of(self.plan.task).job(problem.item, str(program))
                jobs[key] = own if key[2] is None else problem.check(str(program), tests)
            if not missing:
                write()
        self._run(jobs, waiting)

    def _missing(
        self, item: str, program: str, tests: tuple[str, ...]
    ) -> list[tuple[str, str, tuple[str, ...] | None]]:
        """What has to be run: the hidden tests, and those of the feedback mode, unless an equal program was run against them."""
        keys: list[tuple[str, str, tuple[str, ...] | None]] = [(item, program, None)]
        keys += [(item, program, tests)] if tests else []
        return [key for key in keys if key not in self.ran]

    def _run(self, jobs: Mapping[Any, Job], waiting: Mapping[Any, list[tuple[Place, Callable[[], None]]]]) -> None:
        keys = list(jobs)

        def done(number: int, outcome: dict[str, Any] | None, why: str) -> None:
            if outcome is not None:
                self.ran[keys[number]] = outcome
            for place, write in waiting[keys[number]]:
                if outcome is None:
                    self._trouble(place, f"the program could not be run: {why}"[:300])
                write()

        if keys:
            run_jobs([jobs[key] for key in keys], self.plan.how, done)

    def _writing(self, place: Place, program: str | None, tests: tuple[str, ...]) -> Callable[[], None]:
        """Writes the verdict as soon as both outcomes are there."""

        def write() -> None:
            if program is None:
                hidden: dict[str, Any] | None = NO_PROGRAM
                feedback: dict[str, Any] | None = NO_PROGRAM
            else:
                hidden = self.ran.get((place.item, program, None))
                feedback = self.ran.get((place.item, program, tests)) if tests else NOTHING
                feedback = hidden if self.plan.feedback == "hidden" else feedback
            if hidden is None or feedback is None or self.book.get(place, "verdict") is not None:
                return
            content = {"program": program, "answered": program is not None, "tests": list(tests)}
            self.book.add(place.record("verdict", {**content, "feedback": feedback, "hidden": hidden}))

        return write

    def _sample(self) -> None:
        """Independent programs in rounds: T + 1 of each chain, then more until INTERVENOR's tokens are used up."""
        least, most = self.plan.turns, MOST_ROUNDS * (self.plan.turns + 1)
        ours = [self.chain("intervenor", p, i, least).answers for p, i in self.chains]
        budget = cost_of([answer for answers in ours for answer in answers]).tokens
        for number in range(most):
            chains = [(p, i, self.chain(SAMPLING, p, i, number - 1)) for p, i in self.chains]
            used = cost_of([answer for _, _, chain in chains for answer in chain.answers]).tokens
            if number > least and (budget is None or used is None or used >= budget):
                return
            open_ = [
                (p, i)
                for p, i, chain in chains
                if len(chain.verdicts) == number and not chain.ended and not self._troubled(SAMPLING, p.item.key, i)
                if p.given is None or number > 0  # the first program is given
            ]
            if not open_ and number > 0:
                return
            self._ask(self._draw(p, i, number) for p, i in open_)
            self._judge([Place(SAMPLING, p.item.key, i, number) for p, i in open_])

    def _draw(self, problem: Problem, index: int, number: int) -> _Asked:
        if problem.given is None:
            return self._first(problem, index, "program", "write", SAMPLING, number)
        return self._next(SAMPLING, problem, index, number, "program", "repair_error")
