"""Our tasks in inspect_ai: the same items, the same answers and the same verdicts as with `fulgurite evaluate`."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai", reason="pip install 'fulgurite[inspect]'")

import inspect_ai
from inspect_ai.model import ModelOutput, ModelUsage, get_model

from fulgurite.commands.evaluate.command import evaluate
from fulgurite.evaluation.judging.verdicts import Verdict
from fulgurite.evaluation.plugins.inspect_harness.registry import INSPECT_TASKS
from fulgurite.evaluation.plugins.inspect_harness.scoring import as_plain, from_plain, verdict
from fulgurite.evaluation.tasks import TASKS, Item
from fulgurite.evaluation.tasks.rows import items_of
from tests.commands.evaluate.test_command import PROGRAMS, rows_file

Rule = Callable[[str], str]


@pytest.fixture
def programs(tmp_path: Path) -> str:
    return rows_file(tmp_path / "humaneval.jsonl", PROGRAMS)


def run(task: Any, model: Any, folder: Path, **options: Any) -> Any:
    log = inspect_ai.eval(task, model=model, log_dir=str(folder), display="none", **options)[0]
    assert log.status == "success", log.error
    return log


def written(rule: Rule) -> Any:
    """A model that answers by a rule."""

    def answer(input: Any, tools: Any, tool_choice: Any, config: Any) -> ModelOutput:
        output = ModelOutput.from_content("mockllm/model", rule(input[-1].text))
        output.usage = ModelUsage(
            input_tokens=1, output_tokens=1, total_tokens=2
        )  # else it is counted with files of the internet
        return output

    return get_model("mockllm/model", custom_outputs=answer, memoize=False)


def solutions(task: str, path: str, limit: int | None = None) -> Rule:
    """The reference solution of the item that is asked, as a chat's answer."""
    by_question = {item.question or item.prompt: item for item in items_of(TASKS[task], path, limit).items}

    def rule(question: str) -> str:
        item = by_question[question]
        whole = (
            item.solution
            if "def " in item.solution and not item.solution.startswith(" ")
            else item.prompt + item.solution
        )
        return f"Here it is:\n```python\n{whole}\n```\nDone."

    return rule


def accuracy(log: Any) -> float:
    return float(log.results.scores[0].metrics["accuracy"].value)


def test_every_task_that_is_written_and_no_choice() -> None:
    assert set(INSPECT_TASKS) == {name for name, task in TASKS.items() if task.kind == "answers"}
    assert {"humaneval", "gsm8k", "mbpp", "codeerror"} <= set(INSPECT_TASKS) and "piqa" not in INSPECT_TASKS


def test_the_entry_point() -> None:
    found = [point for point in entry_points(group="inspect_ai") if point.name == "fulgurite"]
    if not found:
        pytest.skip("fulgurite is not installed with its metadata here: pip install -e .")
    assert found[0].load().INSPECT_TASKS is INSPECT_TASKS


def test_right_and_wrong_programs_in_our_sandbox(programs: str, tmp_path: Path) -> None:
    right = run(INSPECT_TASKS["humaneval"](path=programs), written(solutions("humaneval", programs)), tmp_path)
    assert accuracy(right) == 1.0 and len(right.samples) == len(PROGRAMS)
    assert right.eval.metadata["judge"]["layer"] in ("bubblewrap", "namespaces", "limits")
    assert right.eval.config.limit is None and right.eval.task_version == TASKS["humaneval"].version
    rule = solutions("humaneval", programs)

    def wrong(question: str) -> str:
        number = re.search(r"add(\d)", question)
        assert number is not None
        return {
            "0": rule(question),
            "1": rule(question).replace("+", "-"),
            "2": "",
            "3": "```\nimport os; os._exit(0)\n```",
        }[number[1]]

    mixed = run(INSPECT_TASKS["humaneval"](path=programs), written(wrong), tmp_path)
    found = {sample.id: sample.scores["verdict"] for sample in mixed.samples}
    assert [found[f"HumanEval/{i}"].value for i in range(4)] == [1.0, 0.0, 0.0, 0.0] and accuracy(mixed) == 0.25
    failed = found["HumanEval/1"].explanation
    assert (
        failed.startswith("failed: AssertionError")
        and "`assert candidate(1) == 2`" in failed
        and "got 0, expected 2" in failed
    )
    assert (found["HumanEval/2"].explanation, found["HumanEval/2"].reason) == (
        "empty: no answer stands in the text",
        "no_response",
    )
    assert found["HumanEval/3"].explanation.startswith("crash:")


def test_a_log_is_judged_again_without_a_model(programs: str, tmp_path: Path) -> None:
    log = run(INSPECT_TASKS["humaneval"](path=programs), written(solutions("humaneval", programs)), tmp_path)
    read = inspect_ai.log.read_eval_log(log.location)
    for sample in read.samples[:1]:
        sample.output.completion = "no program"
    again = inspect_ai.score(read, verdict("humaneval"), action="overwrite", display="none")
    assert accuracy(again) == 0.75


class HalfBroken:
    """A judge whose sandbox fails for one program."""

    def judge(self, pairs: Any, done: Any, how: Any) -> None:
        broken = "add0" in pairs[0][1]
        done(0, Verdict(None, "sandbox", "no room") if broken else Verdict(1.0, "passed"))


def test_a_broken_sandbox_is_no_wrong_answer(programs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = INSPECT_TASKS["humaneval"](path=programs)
    monkeypatch.setitem(TASKS, "humaneval", replace(TASKS["humaneval"], judge=HalfBroken()))  # type: ignore[arg-type]
    task = inspect_ai.task_with(task, scorer=verdict("humaneval"))  # which looks its judge up anew
    log = run(task, written(solutions("humaneval", programs)), tmp_path)
    unscored = next(sample for sample in log.samples if sample.id == "HumanEval/0").scores["verdict"]
    assert (unscored.reason, unscored.explanation) == ("scoring_failed", "sandbox: no room")
    assert accuracy(log) == 1.0 and log.results.scores[0].unscored_samples == 1


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("name", ["humaneval", "gsm8k"])
def test_as_fulgurite_evaluate(name: str, chat: bool, programs: str, tmp_path: Path) -> None:
    path = programs if name == "humaneval" else "builtin"
    limit, most = 12, 24
    evaluate(
        name, path, str(tmp_path / "ours"), "playground", limit=limit, chat=chat, max_new_tokens=most, batch_size=3
    )
    task = INSPECT_TASKS[name](path=path, limit=limit, chat=chat)
    log = run(task, "fulgurite/playground", tmp_path / "logs", max_tokens=most)
    folder = tmp_path / "ours" / name
    samples, scores = (
        {row["item"]: row for row in map(json.loads, (folder / f"{kind}.jsonl").read_text().splitlines()[1:])}
        for kind in ("samples", "scores")
    )
    assert {sample.id for sample in log.samples} == set(samples) and len(samples) == (4 if name == "humaneval" else 12)
    for sample in log.samples:
        own = scores[sample.id]
        assert sample.output.completion == samples[sample.id]["text"]
        assert sample.output.usage.output_tokens == samples[sample.id]["tokens"]
        score = sample.scores["verdict"]
        assert (score.value, score.answer, score.metadata["status"]) == (own["correct"], own["answer"], own["status"])
    results = json.loads((tmp_path / "ours" / "results.json").read_text())["results"]
    number = results[name]["numbers"][TASKS[name].judge.metric]
    assert accuracy(log) == pytest.approx(number["value"])
    assert any(sample.output.completion for sample in log.samples)


def test_only_models_of_ours_continue_a_text(programs: str, tmp_path: Path) -> None:
    task = INSPECT_TASKS["humaneval"](path=programs, limit=1, chat=False)
    log = inspect_ai.eval(task, model="mockllm/model", log_dir=str(tmp_path), display="none")[0]
    assert log.status == "error" and "chat=false gives a text to continue" in log.error.message


def test_options_of_a_task(programs: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows were named"):
        INSPECT_TASKS["humaneval"]()
    with pytest.raises(ValueError, match="this task takes no examples"):
        INSPECT_TASKS["humaneval"](path=programs, shots=2)
    shots = INSPECT_TASKS["gsm8k"](path="builtin", limit=2, shots=2, shots_path=builtin_rows(tmp_path))
    assert shots.dataset[0].input[0].text.count("Question:") == 2
    assert [sample.id for sample in shots.dataset] == [
        item.key for item in items_of(TASKS["gsm8k"], "builtin", 2).items
    ]


def builtin_rows(folder: Path) -> str:
    made = TASKS["gsm8k"].builtin
    assert made is not None
    return rows_file(folder / "shots.jsonl", [dict(row) for row in list(made())[-4:]])


@pytest.mark.real_data
def test_items_come_back_from_a_log_whole(real_data: Path) -> None:
    looked_at = []
    for name in INSPECT_TASKS:
        try:
            found = items_of(TASKS[name], str(real_data), 40).items
        except FileNotFoundError:
            continue
        looked_at.append(name)
        for item in found:
            back = from_plain(json.loads(json.dumps(as_plain(item))))
            assert isinstance(back, Item) and back == replace(item, data=dict(item.data))
    assert len(looked_at) > 20 and {"humaneval", "mbpp", "codeerror", "gsm8k", "theoremqa"} <= set(looked_at)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["humaneval", "mbpp", "humaneval_x_python"])
def test_reference_solutions_of_real_rows(name: str, real_data: Path, tmp_path: Path) -> None:
    task = INSPECT_TASKS[name](path=str(real_data), limit=10)
    log = run(task, written(solutions(name, str(real_data), 10)), tmp_path)
    assert accuracy(log) == 1.0, [sample.scores["verdict"].explanation for sample in log.samples]
