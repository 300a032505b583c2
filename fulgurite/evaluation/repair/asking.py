"""Getting the answers of one stage of the loop: prompts of one backend and with the same settings are sent together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fulgurite.evaluation.repair.book import Place, Repaired
from fulgurite.evaluation.repair.plan import RepairPlan, Role
from fulgurite.evaluation.runner.plan import plain, text_hash
from fulgurite.evaluation.runner.record_file import IdentityError
from fulgurite.generation import ServerError
from fulgurite.generation.protocol import Request, SamplingSettings

__all__ = ["Asked", "Asker"]

_SAID = {"explanation": "explanations", "program": "programs", "tests": "tests"}


@dataclass(frozen=True)
class Asked:
    """One prompt: the place of its answer, who is asked, by which template, and how the answer is drawn."""

    place: Place
    step: str
    role: Role
    text: str
    settings: SamplingSettings


class Asker:
    """Asks learner and teacher, and keeps what they answer.

    Args:
        plan: what is run.
        done: where answers and troubles go.
        silent: show no progress.
    """

    def __init__(self, plan: RepairPlan, done: Repaired, silent: bool) -> None:
        self.plan, self.done, self.silent = plan, done, silent

    def ask(self, asked: Iterable[Asked]) -> None:
        """Gets the answers that are missing; those that are there must belong to the same prompts.

        Args:
            asked: prompts of one stage.

        Raises:
            IdentityError: an answer that is there belongs to another prompt.
        """
        groups: dict[tuple[int, SamplingSettings], list[Asked]] = {}
        for one in asked:
            record = self.done.book.get(one.place, one.step)
            if record is None:
                groups.setdefault((id(one.role.backend), one.settings), []).append(one)
            elif record["request"] != text_hash(plain(one.role.prompt(one.text))):
                raise IdentityError(
                    f"{self.plan.file}: the {one.step} of {self.plan.task.name} {one.place.item} in turn {one.place.turn} answers "
                    "another prompt than the one that would be asked now (other rows, or another version of fulgurite); they are "
                    "not mixed: give another --out, or --overwrite true"
                )
        for group in groups.values():
            self._sent(
                [one for one in group if not self.done.troubled(one.place.method, one.place.item, one.place.index)]
            )

    def _sent(self, group: list[Asked]) -> None:
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
                self.done.trouble(one.place, "the server was given up before")
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
                        self.done.trouble(one.place, f"the {one.step} could not be had: {sample.error}")
                        continue
                    prompted = sample.prompt_tokens if tokens is None else tokens
                    self._keep(one, sample.text, sample.finish, sample.tokens, sample.seed, prompted)
                    self.done.new += 1
            except ServerError as error:
                self.done.stopped = error
        for number, (one, _) in enumerate(fitting):
            if number not in came:
                self.done.trouble(one.place, f"the {one.step} did not come")

    def _keep(self, one: Asked, text: str, finish: str, generated: int | None, seed: int, prompted: int | None) -> None:
        prompt = plain(one.role.prompt(one.text))
        content = {"request": text_hash(prompt), "prompt": prompt, "text": text, "finish": finish, "seed": seed}
        sizes = {"tokens": generated, "prompt_tokens": prompted}
        self.done.book.add(one.place.record(one.step, {**content, **sizes}))
