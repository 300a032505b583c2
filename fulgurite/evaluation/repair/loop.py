"""The loop: the learner writes, running says what fails, the teacher explains, the learner writes anew, up to T times.

No conversation is kept: each prompt shows the latest program, its error and its explanation. All open chains of all methods take a
turn together, so that the backend gets many prompts at once. What is asked, answered and run is one line each of OUT/TASK/FEEDBACK/
chains.jsonl; a run that is stopped at any byte goes on behind the last of them, and more turns or chains can be asked for later.

Independent sampling, the baseline, is the loop without memory: each program is drawn anew from the first prompt, and the draws of a
chain end as a repair does, when the feedback has nothing more to say. It goes on past T + 1 programs of a chain while it has used
fewer tokens in all than INTERVENOR has.
"""

from __future__ import annotations

from fulgurite.evaluation.repair.asking import Asked, Asker
from fulgurite.evaluation.repair.book import KEY, Book, Chain, Place, Repaired, cost_of
from fulgurite.evaluation.repair.feedback import error_fields
from fulgurite.evaluation.repair.judging import Verdicts
from fulgurite.evaluation.repair.plan import METHODS, SAMPLING, SHARED, RepairPlan
from fulgurite.evaluation.repair.problems import Problem
from fulgurite.evaluation.runner.record_file import RecordFile

__all__ = ["MOST_ROUNDS", "repair"]

MOST_ROUNDS = 8  # times T + 1: programs of a chain that independent sampling draws at most


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
        self.plan, self.done = plan, done
        self.asker, self.verdicts = Asker(plan, done, silent), Verdicts(plan, done)
        self.chains = [(problem, index) for problem in plan.problems for index in range(plan.n)]

    def run(self) -> None:
        """All stages in order."""
        if self.plan.feedback == "selfgen":
            self.asker.ask([self._first(p, i, "tests", "tests") for p, i in self.chains])
        self.asker.ask([self._first(p, i, "program", "write") for p, i in self.chains if p.given is None])
        self.verdicts.judge([Place(SHARED, p.item.key, i, 0) for p, i in self.chains])
        for turn in range(1, self.plan.turns + 1):
            self.done.spent = self._spent(turn)
            if self.done.spent:
                self.done.turns = turn - 1
                break
            for step in ("explanation", "program"):
                self.asker.ask(
                    self._next(method, problem, index, turn, step, template)
                    for method, problem, index in self._open(turn)
                    for name, template in METHODS[method]
                    if name == step
                )
            self.verdicts.judge([Place(method, p.item.key, i, turn) for method, p, i in self._open(turn)])
        if self.plan.baselines:
            self._sample()

    def _spent(self, turn: int) -> str:
        """Why a turn may not begin, "" if it may. Only the turns before it count, also where the file holds more."""
        chains = [self.chain("intervenor", p, i, turn - 1) for p, i in self.chains]
        answers = [answer for chain in chains for answer in chain.answers]
        programs = sum(answer["step"] == "program" for answer in answers)
        used = cost_of(answers, self.done.book.prompts_counted).tokens
        if self.plan.max_tokens is not None and used is None and self.done.stopped is None:
            raise ValueError(
                f"repair: max_tokens={self.plan.max_tokens} cannot be kept, because the server does not say how many tokens its "
                "answers have; give max_programs, or another server"
            )
        budgets = (("programs", self.plan.max_programs, programs), ("tokens", self.plan.max_tokens, used))
        for what, most, so_far in budgets:
            if most is not None and so_far is not None and so_far >= most and any(not chain.ended for chain in chains):
                return (
                    f"the budget of {most:,} {what} ended the run: intervenor has used {so_far:,} up to turn {turn - 1}, so that "
                    f"turn {turn} did not begin"
                )
        return ""

    def chain(self, method: str, problem: Problem, index: int, turns: int | None = None) -> Chain:
        """A chain so far."""
        return self.done.book.chain(method, problem.item.key, index, problem.given is not None, turns)

    def _open(self, turn: int) -> list[tuple[str, Problem, int]]:
        """The chains of repair that take this turn."""
        found = []
        for method in self.plan.methods:
            for problem, index in self.chains:
                chain = self.chain(method, problem, index, turn - 1)
                if (
                    len(chain.verdicts) == turn
                    and not chain.ended
                    and not self.done.troubled(method, problem.item.key, index)
                ):
                    found.append((method, problem, index))
        return found

    def _first(
        self, problem: Problem, index: int, step: str, template: str, method: str = SHARED, turn: int = 0
    ) -> Asked:
        """A prompt that knows of no program."""
        role, temperature = self.plan.learner, self.plan.sampling_temperature if method == SAMPLING else None
        return Asked(
            Place(method, problem.item.key, index, turn),
            step,
            role,
            self.plan.templates.text(template, role.chat, problem.fields),
            role.drawn(template, problem.ends, temperature),
        )

    def _next(self, method: str, problem: Problem, index: int, turn: int, step: str, template: str) -> Asked:
        """A prompt about the latest program of a chain; independent samples see the given one each time."""
        sampled = method == SAMPLING
        chain = self.chain(SHARED if sampled else method, problem, index, 0 if sampled else turn - 1)
        program, outcome = chain.program(turn - 1), chain.verdicts[-1]["feedback"]
        role = self.plan.teacher if step == "explanation" else self.plan.learner
        place = Place(method, problem.item.key, index, turn)
        told = self.done.book.get(place, "explanation")
        fields: dict[str, object] = {
            **problem.fields,
            "program": (program or "").strip("\n"),
            "explanation": "" if told is None else told["text"].strip(),
            "turn": 1 if sampled else turn,
            **error_fields(outcome, program, problem.entry_point),
        }
        text = self.plan.templates.text(template, role.chat, fields)
        settings = role.drawn(template, problem.ends, self.plan.sampling_temperature if sampled else None)
        return Asked(place, step, role, text, settings)

    def _sample(self) -> None:
        """Independent programs in rounds: T + 1 of each chain, then more until INTERVENOR's tokens are used up."""
        least = self.plan.turns if self.done.turns is None else self.done.turns
        most = MOST_ROUNDS * (least + 1)
        ours = [self.chain("intervenor", p, i, least).answers for p, i in self.chains]
        for number in range(most):
            chains = [(p, i, self.chain(SAMPLING, p, i, number - 1)) for p, i in self.chains]
            counted = self.done.book.prompts_counted
            budget = cost_of([answer for answers in ours for answer in answers], counted).tokens
            used = cost_of([answer for _, _, chain in chains for answer in chain.answers], counted).tokens
            if number > least and (budget is None or used is None or used >= budget):
                return
            open_ = [
                (p, i)
                for p, i, chain in chains
                if len(chain.verdicts) == number and not chain.ended and not self.done.troubled(SAMPLING, p.item.key, i)
                if p.given is None or number > 0  # the first program is given
            ]
            if not open_ and number > 0:
                return
            self.asker.ask(self._draw(p, i, number) for p, i in open_)
            self.verdicts.judge([Place(SAMPLING, p.item.key, i, number) for p, i in open_])

    def _draw(self, problem: Problem, index: int, number: int) -> Asked:
        if problem.given is None:
            return self._first(problem, index, "program", "write", SAMPLING, number)
        return self._next(SAMPLING, problem, index, number, "program", "repair_error")
