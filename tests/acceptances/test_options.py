"""Attempts with options: such as change nothing beside the others, contradict each other, or are no numbers that can be meant.

Each is a command line of a verb. What is shown is what must be said, in one line that names what was typed; nothing is left behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fulgurite.commands.repair.command as repair_command
from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.pass_until.counts import Count, table_of
from fulgurite.evaluation.runner.results import result_of
from fulgurite.evaluation.runner.sampling import collect
from fulgurite.evaluation.runner.scoring import rate
from fulgurite.sandbox import Limits
from tests.acceptances.said import csv_file, refusal, refused_by, rows_file
from tests.evaluation.runner.fakes import CHOICES, FakeScorer, plan_of

SUMS = ["evaluate", "--tasks", "gsm8k", "--path", "builtin", "--out", "OUT"]
MODEL = [*SUMS, "--model", "playground"]
SERVER = [*SUMS, "--server", "http://127.0.0.1:9/v1", "--served_model", "m"]
CHOOSING = ["evaluate", "--tasks", "piqa", "--path", "PIQA", "--out", "OUT", "--model", "playground"]
REPAIR = ["repair", "--model", "playground", "--tasks", "humaneval", "--path", "ROWS", "--out", "OUT"]
GENERATE = ["generate", "--model", "playground"]
SCORE = ["score", "--model", "playground", "--file", "ROWS"]
SCALING = ["scaling", "--counts", "COUNTS", "--out", "OUT"]
EMULATE = ["emulate", "--model", "playground", "--out", "OUT", "--device", "cpu", "--keep", "2", "--train", "2"]
PLUG = ["plug-in", "--ckpt_path", "NONE.ckpt", "--model", "playground", "--out", "OUT"]
LANDSCAPE = [
    "landscape",
    "--base",
    "playground",
    "--first",
    "playground",
    "--rows",
    "builtin",
    "--out",
    "OUT",
    "--device",
    "cpu",
]
THRESHOLDS = ["thresholds", "--out", "OUT"]
EXPORT = ["export", "--ckpt_path", "NONE.ckpt", "--out", "OUT"]
CONTROL = ["control", "--model", "playground", "--out", "OUT"]

ATTEMPTS = [
    # evaluate
    ([*MODEL, "--phase", "score"], "--model playground has no effect with --phase score", "a model for verdicts alone"),
    ([*MODEL, "--cap", "50"], "--cap 50 has no effect without --until_passes", "a cap of draws that are not counted"),
    ([*MODEL, "--until_passes_of", "task"], "--until_passes_of task has no effect", "a rule of stopping without passes"),
    ([*MODEL, "--max_tokens", "1000"], "--max_tokens 1000 has no effect without --server", "a budget of a model in this process"),
    ([*MODEL, "--concurrency", "2"], "--concurrency 2 has no effect without --server", "requests to no server"),
    ([*SERVER, "--dtype", "bfloat16"], "--dtype bfloat16 has no effect with --server", "a dtype of a server's model"),
    ([*SERVER, "--device", "cpu", "--batch_size", "2"], "--device cpu and --batch_size 2 have no effect", "a device of a server"),
    ([*MODEL, "--shots_path", "ROWS"], "--shots_path ROWS has no effect without --shots", "examples without their number"),
    ([*MODEL, "--top_p", "0.5"], "--top_p 0.5 has no effect with temperature 0", "a nucleus of the likeliest token"),
    ([*MODEL, "--phase", "generate", "--k", "1"], "--k 1 has no effect with --phase generate", "a pass@k that is not computed"),
    ([*CHOOSING, "--n", "4"], "--n 4 has no effect on tasks of choices", "four samples of a choice, which was reported as four"),
    ([*CHOOSING, "--chat"], "--chat true has no effect on tasks of choices", "a chat in which a choice is made"),
    ([*CHOOSING, "--max_new_tokens", "9"], "--max_new_tokens 9 has no effect", "the length of a choice"),
    ([*MODEL, "--path", "gsm8k=A,gsm8k=B"], "gives gsm8k a second path beside 'A'", "two paths of a task, of which the last won"),
    ([*MODEL, "--path", "gsm8k="], "has no path behind the =", "a path that was forgotten"),
    ([*MODEL, "--workers", "0"], "workers=0 were given", "no worker, which meant as many as there are processors"),
    ([*MODEL, "--time_limit", ".nan"], "time_limit=nan", "a time limit that never comes"),
    ([*MODEL, "--time_limit", ".inf"], "time_limit=inf", "a time without a limit, which was a traceback"),
    ([*MODEL, "--seed", str(2**70)], "seed=", "a seed of 71 bits"),
    # repair
    ([*REPAIR, "--baselines", "false", "--sampling_temperature", "0.5"], "--sampling_temperature 0.5 has no effect",
     "a temperature of samples that are not drawn"),
    ([*REPAIR, "--concurrency", "2"], "--concurrency 2 has no effect without a server", "requests of a repair to no server"),
    ([*REPAIR, "--baselines", "false", "--temperature", "0", "--top_k", "5"], "--top_k 5 has no effect with temperature 0",
     "the five likeliest tokens of a greedy repair"),
    ([*REPAIR, "--workers", "-1"], "workers=-1", "a negative number of workers, which was a traceback after all answers"),
    # generate, score, control, export
    ([*GENERATE, "--prompt", "a", "--column", "b"], "--column b has no effect without --file", "the column of a prompt"),
    ([*GENERATE, "--prompt", "a", "--overwrite", "true"], "--overwrite true has no effect", "overwriting the screen"),
    ([*GENERATE, "--file", "LINES", "--output", "OUT.jsonl", "--column", "b"], "no effect with a .txt file", "a column of lines"),
    ([*GENERATE, "--prompt", "a", "--top_k", "50", "--top_p", "0.9"], "--top_p 0.9 and --top_k 50 have no effect",
     "settings of drawing without a temperature"),
    ([*SCORE, "--benchmark", "rewardbench", "--overwrite", "true"], "--overwrite true has no effect without --output",
     "overwriting rewards that are not written"),
    ([*SCORE, "--output", "OUT.jsonl", "--as_chat", "false", "--template", "zephyr"], "--template zephyr has no effect with",
     "a template that is not laid"),
    ([*CONTROL, "--column", "b"], "--column b has no effect without --file", "the column of built-in instructions"),
    ([*CONTROL, "--file", "LINES", "--column", "b"], "no effect with a .txt file", "the column of instructions that are lines"),
    ([*EXPORT, "--format", "merged", "--rank_pattern", "true"], "--rank_pattern true has no effect with --format merged",
     "ranks of an adapter that is merged"),
    # scaling
    ([*SCALING, "--vote", "majority", "--temperature", "2"], "--temperature 2.0 has no effect with --vote majority",
     "the temperature of another vote"),
    ([*SCALING, "--temperature", ".nan"], "temperature=nan", "a temperature that is no number"),
    ([*SCALING, "--task", "gsm8k"], "--task gsm8k has no effect without a folder", "the task of a file"),
    ([*SCALING, "--models", "[s, medium]"], "no model matches --models medium", "one pattern of two that matches nothing"),
    ([*SCALING, "--sizes", '{"smal": 2e6}'], "--sizes names smal, of which there are no counts", "the size of a misspelt model"),
    ([*SCALING, "--columns", '{"loss": "Loss"}'], "lacks Loss", "a column that is not there"),
    # emulate, plug-in, landscape
    ([*EMULATE, "--method", "uniform", "--pooling", "last"], "--pooling last has no effect without", "pooling of no rows"),
    ([*EMULATE, "--method", "uniform", "--limit", "9"], "--limit 9 has no effect", "the first nine of no rows"),
    ([*EMULATE, "--support", "PIQA", "--task", "piqa", "--column", "goal"], "--column goal has no effect with --task",
     "the column of a task's rows"),
    ([*PLUG, "--max_length", "64"], "--max_length 64 has no effect without --rows", "the length of rows that are not measured"),
    ([*LANDSCAPE, "--task", "piqa", "--column", "goal"], "--column goal has no effect with --task", "the column of questions"),
    ([*LANDSCAPE, "--high", ".inf"], "both finite", "a line without an end"),
    ([*LANDSCAPE, "--max_length", "-5"], "max_length=-5 was given", "a negative length, which cut five tokens off each row"),
    # thresholds
    ([*THRESHOLDS, "--budgets", "[4]", "--ratio", "8"], "--ratio 8 has no effect with --budgets", "the ratio of given budgets"),
    ([*THRESHOLDS, "--budgets", "[4, 4]"], "allowed are different numbers", "one budget twice"),
    ([*THRESHOLDS, "--lora_targets", ".*q_proj"], "--lora_targets .*q_proj has no effect", "the layers of a method that is not"),
    ([*THRESHOLDS, "--full_tuning", "false", "--full_learning_rate", "1e-4"], "--full_learning_rate 0.0001 has no effect",
     "the rate of full tuning that is left out"),
    ([*THRESHOLDS, "--max_steps", "9", "--epochs", "5"], "--epochs 5 has no effect with --max_steps", "epochs and steps at once"),
    ([*THRESHOLDS, "--head_learning_rate", "1e-2"], "which has no new head", "the rate of a head that is not there"),
    ([*THRESHOLDS, "--tolerance", ".nan"], "tolerance nan", "a tolerance that is no number"),
]  # fmt: skip

HUMANEVAL = {
    "task_id": "H/0",
    "prompt": "def f(x):\n",
    "test": "def check(c):\n    assert c(1) == 1\n",
    "entry_point": "f",
}


@pytest.mark.parametrize(("words", "said"), [pytest.param(w, said, id=name) for w, said, name in ATTEMPTS])
def test_commands(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows_file(Path("ROWS.jsonl"), [HUMANEVAL])
    rows_file(Path("PIQA.jsonl"), [{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}])
    csv_file(Path("COUNTS.csv"), "model,size,instance,n,c\ns,1M,a,10,3\nl,2M,a,10,5\n")
    csv_file(Path("LINES.txt"), "a\n")
    places = {"ROWS": "ROWS.jsonl", "PIQA": "PIQA.jsonl", "COUNTS": "COUNTS.csv", "LINES": "LINES.txt"}
    before = sorted(tmp_path.iterdir())
    line = refused_by([places.get(word, word) for word in words], capsys)
    assert said.replace("ROWS", places["ROWS"]) in line
    assert sorted(tmp_path.iterdir()) == before, "nothing is left behind"


def test_one_feedback_named_twice_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run of the same chains only repeated the tables."""
    seen: list[str] = []

    class Ended(Exception):
        pass

    def plan(task: Any, rows: Any, folder: Path, mode: str, *more: Any, **options: Any) -> Any:
        seen.append(mode)
        return None

    def ended(*_: Any) -> Any:
        raise Ended

    monkeypatch.setattr(repair_command, "RepairPlan", plan)
    monkeypatch.setattr(repair_command, "load_model", lambda *_: type("Loaded", (), {"model": None})())
    monkeypatch.setattr(repair_command, "in_process", lambda *_: type("W", (), {"answers": None, "tokenizer": None})())
    monkeypatch.setattr(repair_command, "run_repairs", ended)
    rows = rows_file(tmp_path / "rows.jsonl", [HUMANEVAL])
    given = {
        "model": "m",
        "tasks": "humaneval",
        "path": rows,
        "out": str(tmp_path / "out"),
        "feedback": "hidden, hidden",
    }
    with pytest.raises(Ended):
        repair_command.repair(**given)
    assert seen == ["hidden"]


def test_samples_of_choices_are_one_each(tmp_path: Path) -> None:
    """Beside a task that is drawn four times, the table said 4 samples of each choice too."""
    plan = plan_of(tmp_path, n=4, task=CHOICES)
    collect(plan, FakeScorer(), silent=True)
    assert result_of(plan, rate(plan, silent=True)).samples == 1


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 0.0, -1.0])
def test_limits_that_are_none(seconds: float) -> None:
    assert "above 0" in refusal(lambda: How(seconds=seconds)) and "above 0" in refusal(lambda: Limits(seconds=seconds))


def test_a_size_that_is_infinite() -> None:
    rows = [Count("s", float("inf"), "a", 10, 3), Count("l", 2.0, "a", 10, 3)]
    assert "size inf was given" in refusal(lambda: table_of(rows))
