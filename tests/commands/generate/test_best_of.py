"""`generate --best_of`: the best of n with all the others, resumable, and one sentence for what chooses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fulgurite.cli import main
from fulgurite.commands.generate import best_of as module
from fulgurite.commands.generate.command import generate
from tests.commands.best_of_n.models import reward_folder

ASKED = ["What is 2 + 3?", "Write a word.", "What is 2 + 3?"]


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> str:
    return reward_folder(tmp_path_factory.mktemp("best_of") / "reward")


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def asked_file(folder: Path, name: str = "in.jsonl", **more: Any) -> str:
    file = folder / name
    file.write_text("".join(json.dumps({"id": i, "prompt": text, **more}) + "\n" for i, text in enumerate(ASKED)))
    return str(file)


def best(file: str, out: Path, reward: str, **more: Any) -> list[dict[str, Any]]:
    options: dict[str, Any] = {"model": "playground", "best_of": 3, "max_new_tokens": 6, "device": "cpu", **more}
    generate(file=file, output=str(out), reward=reward, **options)
    return rows_of(out)


def test_the_best_is_written_with_all_the_others(tmp_path: Path, reward: str) -> None:
    out = tmp_path / "out.jsonl"
    found = best(asked_file(tmp_path), out, reward)
    assert [row["prompt"] for row in found] == ASKED and [
        file.name for file in tmp_path.iterdir() if "part" in file.name
    ] == []
    for row in found:
        assert len(row["completions"]) == len(row["rewards"]) == len(row["finishes"]) == len(row["answer_tokens"]) == 3
        assert row["asked"] == [{"role": "user", "content": row["prompt"]}]
        best_reward = max(r for r in row["rewards"] if r is not None)
        assert (
            row["reward"] == best_reward and row["completion"] == row["completions"][row["rewards"].index(best_reward)]
        )
    # Equal prompts of one file get draws of their own.
    assert found[0]["completions"] != found[2]["completions"]
    # The rewards are those of `fulgurite score` on the same answers.
    again, scored = tmp_path / "again.jsonl", tmp_path / "scored.jsonl"
    again.write_text(
        "".join(json.dumps({"prompt": r["prompt"], "completions": r["completions"]}) + "\n" for r in found[:1])
    )
    assert main(["score", "--model", reward, "--file", str(again), "--output", str(scored), "--device", "cpu"]) == 0
    (row,) = rows_of(scored)
    for ours, theirs, text in zip(found[0]["rewards"], row["rewards"], row["completions"], strict=True):
        assert ours == (pytest.approx(theirs, abs=1e-5) if text.strip() else None)


def test_a_run_that_was_stopped_goes_on_to_the_same_answers(
    tmp_path: Path, reward: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, whole, out = asked_file(tmp_path), tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    expected = best(source, whole, reward, batch_size=1)
    drawn: list[int] = []
    draw = module.BestOf.draw

    def stopping(self: Any, prompts: Any, *rest: Any) -> Any:
        if drawn == [1]:
            raise KeyboardInterrupt
        drawn.append(len(prompts))
        return draw(self, prompts, *rest)

    monkeypatch.setattr(module.BestOf, "draw", stopping)
    with pytest.raises(KeyboardInterrupt):
        best(source, out, reward, batch_size=1)
    part = tmp_path / "out.jsonl.part"
    assert not out.exists() and len(rows_of(part)) == 1
    part.write_text(part.read_text() + '{"id": 1, "prom')  # a line that the crash has cut off
    drawn.clear()
    monkeypatch.setattr(module.BestOf, "draw", lambda self, *a: drawn.append(len(a[0])) or draw(self, *a))
    assert best(source, out, reward, batch_size=1) == expected
    assert sum(drawn) == 2 and not part.exists()
    drawn.clear()
    assert best(source, out, reward, batch_size=1) == expected and drawn == []
    with pytest.raises(FileExistsError, match="is there already with 3 answers"):
        best(source, out, reward, batch_size=1, best_of=2)


def test_one_prompt_shows_every_answer_the_best_first(reward: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "--model", "playground", "--prompt", ASKED[0], "--best_of", "3", "--reward", reward]
    assert main([*words, "--max_new_tokens", "6", "--device", "cpu", "--seed", "1"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    rewards = [float(line[1:].split("]")[0]) for line in lines if not line.startswith("[no")]
    assert len(lines) == 3 and rewards == sorted(rewards, reverse=True) and rewards


def test_a_checker_chooses_and_says_what_is_right(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "What is 2 + 3?", "answer": "#### 5"}) + "\n")
    (row,) = best(str(file), tmp_path / "out.jsonl", "task:gsm8k", best_of=4)
    assert row["correct"] == row["rewards"] and set(row["rewards"]) <= {0.0, 1.0, None}
    assert row["reward"] == max(r for r in row["rewards"] if r is not None)


def test_what_chooses_nothing_is_refused(tmp_path: Path, reward: str) -> None:
    source, out = asked_file(tmp_path), tmp_path / "out.jsonl"
    constant = reward_folder(tmp_path / "constant", scale=0.0)
    with pytest.raises(ValueError, match="different answers the reward 0; a constant reward chooses nothing"):
        best(source, out, constant)
    assert not out.exists() and len(rows_of(tmp_path / "out.jsonl.part")) == 3  # the answers are not lost
    with pytest.raises(ValueError, match=r"not one answer has a reward .*longer than max_length"):
        best(source, tmp_path / "long.jsonl", reward, reward_max_length=4)
    for options, words in (
        ({"best_of": None}, "--best_of and --reward belong together"),
        ({"best_of": 1}, "best_of=1; the best of 2"),
        ({"num_samples": 2}, "--best_of 3 with num_samples 2"),
        ({"temperature": 0.0}, "at temperature 0 would be the same answer"),
        ({"reward_mean": True}, "--reward_mean true is for implicit rewards"),
        (
            {"reward_template": "none", "system": "Be short."},
            "a chat of 2 turns, and the reward model was trained on plain texts",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            best(source, tmp_path / "other.jsonl", reward, **options)
    with pytest.raises(ValueError, match="has a column 'rewards' already"):
        best(asked_file(tmp_path, "taken.jsonl", rewards=[1]), tmp_path / "other.jsonl", reward)
    long = tmp_path / "long_prompt.jsonl"
    long.write_text(json.dumps({"prompt": "word " * 5000}) + "\n")
    with pytest.raises(ValueError, match=r"long_prompt\.jsonl, line 1: .*the model's window holds"):
        best(str(long), tmp_path / "other.jsonl", reward)
    with pytest.raises(ValueError, match="a checker needs rows with right answers"):
        generate(prompt="x", model="playground", best_of=2, reward="task:gsm8k")
