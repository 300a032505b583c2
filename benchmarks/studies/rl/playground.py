"""Study: PPO, RLOO and GRPO against rejection sampling, DPO and best-of-n at equal numbers of drawn tokens, on the playground.

    python -m benchmarks.studies.rl.playground --out runs/rl-study [--seeds 0,1,2] [--docs docs] [--json FILE]

All begin with one SFT base. Each of the trained methods has as many learning rates to try, with a seed of its own and all of its
tokens; the one whose likeliest answers are right most often, on questions that are asked nowhere else, is taken. Then come the
seeds.
Rejection-sampling SFT and DPO draw all tokens from the base beforehand; best-of-n trains nothing and draws them at the held-out
questions themselves. No held-out question is among those that SFT, RL or the reward model learn from.

Then the same policy (GRPO, at the rate that was taken) has a reward model for its reward, which was trained on right and wrong
answers made for the purpose, and the checker only judges. Best-of-n by that reward model stands beside it.

Each arm that is finished is a line of OUT/arms.jsonl: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.science import machine
from benchmarks.studies.rl.arms import (
    DPO,
    RL,
    SFT,
    Settings,
    divergence,
    learn_policy,
    learn_reward,
    learn_rows,
    write_base,
)
from benchmarks.studies.rl.questions import Examiner, distinct, write_lines
from benchmarks.studies.rl.summary import BASE, BEST, FINAL, PROXY, TRIAL, chosen_rate, picture, summarise, table
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.evaluation.runner.record_file import RecordFile
from fulgurite.lightning_modules.rollouts.rewards import Rewards
from fulgurite.models import load_backbone
from fulgurite.whole_files import write_text

__all__ = ["RATES", "Arm", "Bench", "arms_of", "main"]

RATES: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(RL, (5e-4, 1e-3, 2e-3)),
    SFT: (1e-3, 2e-3, 4e-3),
    DPO: (1e-4, 3e-4, 1e-3),
}
BETAS = (0.0, 0.05)
_TRIAL_SEED = 100
_FIELDS = ("phase", "method", "rate", "beta", "seed")
_FEW = 100  # questions by whose answers KL is measured
Row = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One line of the file.

    Attributes:
        phase: of :mod:`benchmarks.studies.rl.summary`.
        method: what is trained; "" where nothing is.
        rate: learning rate; 0 where nothing is trained.
        beta: weight of KL.
        seed: of the draws.
    """

    phase: str
    method: str = ""
    rate: float = 0.0
    beta: float = 0.0
    seed: int = 0


def arms_of(records: list[Row], seeds: list[int]) -> Iterator[Arm]:
    """All arms in their order; the trials come first, and what they decide is read from ``records`` as it grows.

    Args:
        records: of the arms that are finished.
        seeds: the seeds.
    """
    yield Arm(BASE)
    for method, rates in RATES.items():
        yield from (Arm(TRIAL, method, rate, 0.0, _TRIAL_SEED) for rate in rates)
    for seed in seeds:
        yield from (Arm(FINAL, method, chosen_rate(records, method), 0.0, seed) for method in RATES)
    yield Arm(BEST)
    for seed in seeds:
        yield from (Arm(PROXY, "GRPO", chosen_rate(records, "GRPO"), beta, seed) for beta in BETAS)


class Bench:
    """Questions, base and reward model, made when they are first needed.

    Args:
        settings: of all arms.
        out: the study's folder.
    """

    def __init__(self, settings: Settings, out: Path) -> None:
        self.settings, self.out, self.base = settings, out, out / "base"
        write_base(self.base, settings)
        self.examiner = Examiner(load_tokenizer(str(self.base)), settings.longest)
        self.train, self.held = distinct("train", settings.questions), distinct("test", settings.held_out)
        self.chosen_on = distinct("validation", settings.chosen_on)
        self.questions = write_lines(out / "rows" / "questions.jsonl", self.train)
        self._reward = out / "reward" / "checkpoints" / "last.ckpt"

    def run(self, arm: Arm) -> Row:
        """The figures of an arm."""
        if arm.phase == BASE:
            return self.examiner.examine(self._untrained(), self.held)
        if arm.phase == BEST:
            return self._best_of_n()
        settings = self.settings
        more: Row = {}
        if arm.phase == PROXY:
            reward, more["reward_accuracy"] = self.reward()
            module, found = learn_policy(
                self.base, settings, arm.method, arm.rate, arm.seed, self.questions, reward, arm.beta
            )
        elif arm.method in RL:
            module, found = learn_policy(self.base, settings, arm.method, arm.rate, arm.seed, self.questions)
        else:
            module, found = learn_rows(self.base, settings, arm.method, arm.rate, arm.seed, self.drawn(arm.seed))
        module.network.eval()
        rows = self.chosen_on if arm.phase == TRIAL else self.held
        kl = divergence(module, self.examiner, rows[:_FEW])
        return {**found, **more, "kl": round(kl, 4), **self.examiner.examine(module.network, rows)}

    def drawn(self, seed: int) -> list[Row]:
        """Answers of the base to the training questions, until the tokens are used up; kept in a file.

        Args:
            seed: of the draws.
        """
        path = self.out / "rows" / f"drawn-{seed}.jsonl"
        if path.is_file():
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        network = self._untrained()
        found = [{"question": row["question"], "texts": [], "right": [], "cut": [], "tokens": []} for row in self.train]
        left, round_ = self.settings.tokens, 0
        while left > 0:
            for start in range(0, len(self.train), 500):
                part = slice(start, start + 500)
                groups = self.examiner.drawn(network, self.train[part], 2, 1.0, 1_000 * seed + round_)
                for own, group in zip(found[part], groups, strict=True):
                    own["texts"] += [answer.text for answer in group.answers]
                    own["right"] += [int(answer.reward) for answer in group.answers]
                    own["cut"] += [answer.cut for answer in group.answers]
                    own["tokens"] += [len(answer.tokens) for answer in group.answers]
                    left -= sum(len(answer.tokens) for answer in group.answers)
                if left <= 0:
                    break
            round_ += 1
        write_lines(path, found)
        return found

    def reward(self) -> tuple[str, float]:
        """The reward model's checkpoint, trained at the first call, and its accuracy on pairs it never saw."""
        told = self.out / "reward" / "accuracy.json"
        if not told.is_file():
            accuracy = learn_reward(self.base, self.settings, self._reward)
            write_text(told, json.dumps(accuracy))
        return str(self._reward), float(json.loads(told.read_text(encoding="utf-8")))

    def _best_of_n(self) -> Row:
        """Answers of the base to the held-out questions until the tokens are used up: verdicts and rewards of each."""
        network, checkpoint = self._untrained(), self.reward()[0]
        model = Rewards([checkpoint])
        model.prepare(next(network.parameters()).device)
        rights: list[str] = [""] * len(self.held)
        scores: list[list[float]] = [[] for _ in self.held]
        tokens = round_ = 0
        while tokens < self.settings.tokens:
            groups = self.examiner.drawn(network, self.held, 4, 1.0, 10**6 + round_)
            for place, group in enumerate(groups):
                rights[place] += "".join(str(int(answer.reward)) for answer in group.answers)
                tokens += sum(len(answer.tokens) for answer in group.answers)
            model(groups)
            for place, group in enumerate(groups):
                scores[place] += [round(answer.reward, 4) for answer in group.answers]
            round_ += 1
        return {"tokens": tokens, "rights": rights, "scores": scores}

    def _untrained(self) -> Any:
        return load_backbone(str(self.base), "causal_lm").model.eval()


def main(arguments: list[str] | None = None) -> None:
    """Runs the arms that are missing, prints the table, and writes figures, page and picture where it is told to.

    Args:
        arguments: words of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.rl.playground", description=(__doc__ or "")[:127]
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--docs", type=Path, help="folder for rl_playground.md and rl_playground.png")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    settings = Settings(**{name: getattr(options, name) for name in asdict(Settings())})
    seeds = [int(word) for word in options.seeds.split(",")]
    identity = {"settings": asdict(settings), "rates": {k: list(v) for k, v in RATES.items()}, "betas": list(BETAS)}
    with RecordFile(options.out / "arms.jsonl", "arms", identity, _FIELDS) as file:
        records = list(file.records)
        known = {tuple(record[name] for name in _FIELDS) for record in records}
        bench: Bench | None = None
        for arm in arms_of(records, seeds):
            if tuple(asdict(arm)[name] for name in _FIELDS) in known:
                continue
            bench = bench or Bench(settings, options.out)
            begun = time.perf_counter()
            record = {**asdict(arm), **bench.run(arm), "seconds": round(time.perf_counter() - begun, 1)}
            file.add(record)
            records.append(record)
            right = f"{100 * sum(map(int, record['right'])) / len(record['right']):.1f} %" if "right" in record else ""
            print(*asdict(arm).values(), right, f"KL {record.get('kl', 0):.2f}", record["seconds"], "s", flush=True)
    found = summarise(records)
    print("\n".join(table(found)))
    figures = {
        "study": "rl_playground",
        "machine": machine(),
        **identity,
        "seeds": seeds,
        "found": found,
        "arms": records,
    }
    if options.json:
        write_text(options.json, json.dumps(figures) + "\n")
    picture(found, (options.docs or options.out) / "rl_playground.png")


if __name__ == "__main__":
    main()
