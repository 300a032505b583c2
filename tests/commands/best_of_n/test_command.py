"""`fulgurite best-of-n`: curves of a file and of a task, a judge, training rows that train, and one sentence for what is wrong."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from fulgurite.cli import main
from fulgurite.commands.best_of_n.command import best_of_n
from fulgurite.evaluation.selection.curves import best_of_n as expected_value
from tests.commands.best_of_n.models import reward_folder

WORDS = ("five", "six words", "a longer answer", "no", "yes it is", "seven")


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> str:
    return reward_folder(tmp_path_factory.mktemp("best_of_n") / "reward")


def candidates(folder: Path, count: int = 6, samples: int = 4, **more: Any) -> tuple[str, list[dict[str, Any]]]:
    """A file as `generate --best_of` writes it."""
    draw = random.Random(0)
    rows = []
    for number in range(count):
        texts = [f"{draw.choice(WORDS)} {number} {i}" for i in range(samples)]
        rows.append(
            {
                "prompt": f"Question {number}?",
                "asked": [{"role": "user", "content": f"Question {number}?"}],
                "completions": texts,
                "rewards": [round(draw.gauss(0, 1), 3) for _ in texts],
                "finishes": ["stop"] * samples,
                "answer_tokens": [len(text) for text in texts],
                **more,
            }
        )
    file = folder / "candidates.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file), rows


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_file_with_a_judge_beside_its_rewards(
    tmp_path: Path, reward: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, rows = candidates(tmp_path)
    out = tmp_path / "out"
    words = ["best-of-n", "--file", file, "--judge", reward, "--out", str(out), "--device", "cpu"]
    sft, pairs = tmp_path / "sft.jsonl", tmp_path / "pairs.jsonl"
    assert main([*words, "--sft", str(sft), "--pairs", str(pairs)]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "the judge's reward [95 %]" in said and "oracle" in said and "correlation of reward and length" in said
    result = json.loads((out / "results.json").read_text())["results"]["candidates.jsonl"]
    assert (result["samples"], result["prompts"], result["n"]) == (4, 6, [1, 2, 4])
    judged = {(r["item"], r["index"]): r["reward"] for r in lines(next(out.glob("rewards-*.jsonl")))[1:]}
    for k, n in enumerate(result["n"]):
        own = [
            expected_value(row["rewards"], [judged[str(i), j] for j in range(4)], n) for i, row in enumerate(rows, 1)
        ]
        assert result["curves"]["judge"]["best"][k]["value"] == pytest.approx(sum(x or 0 for x in own) / 6)
        proxy = [expected_value(row["rewards"], row["rewards"], n) for row in rows]
        assert result["curves"]["reward"]["best"][k]["value"] == pytest.approx(sum(x or 0 for x in proxy) / 6)
    assert (out / "best_of_n.png").read_bytes().startswith(b"\x89PNG")
    prompts = lines(out / "prompts.jsonl")
    mean = sum(row["values"]["judge"]["best"][-1] for row in prompts) / 6
    assert result["curves"]["judge"]["best"][-1]["value"] == pytest.approx(mean, abs=1e-5)
    for row, prompt, target, pair in zip(rows, prompts, lines(sft), lines(pairs), strict=True):
        best, worst = (row["completions"][row["rewards"].index(f(row["rewards"]))] for f in (max, min))
        assert prompt["text"] == best == target["messages"][-1]["content"] == pair["chosen"][-1]["content"]
        assert pair["rejected"][-1]["content"] == worst
    # What was scored is not scored again.
    scores = next(out.glob("rewards-*.jsonl"))
    before = scores.read_text().splitlines()
    changed = [json.dumps({**json.loads(before[1]), "reward": 123.0}), *before[2:-3]]
    scores.write_text("\n".join([before[0], *changed]) + "\n" + '{"item": "6", "ind')
    assert main(words) == 0
    assert next(row["reward"] for row in lines(scores)[1:]) == 123.0 and len(lines(scores)) == len(before)


def test_a_task_is_drawn_judged_scored_and_gone_on_with(
    tmp_path: Path, reward: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["best-of-n", "--tasks", "gsm8k", "--path", "builtin", "--limit", "3", "--n", "4", "--model", "playground"]
    words += ["--max_new_tokens", "16", "--out", str(out), "--device", "cpu"]
    assert main([*words, "--reward", reward]) == 0, capsys.readouterr().err
    curves = json.loads((out / "results.json").read_text())["results"]["gsm8k"]["curves"]
    assert set(curves["right"]) == {"one sample", "best", "majority", "weighted", "oracle"}
    for rule in curves["right"].values():
        assert all(
            0 <= point["value"] <= top["value"] for point, top in zip(rule, curves["right"]["oracle"], strict=True)
        )
    samples = (out / "gsm8k" / "samples.jsonl").read_text()
    first = json.loads((out / "results.json").read_text())["results"]["gsm8k"]
    capsys.readouterr()
    assert main([*words, "--reward", reward]) == 0
    assert "12 answers were there already, 0 are new" in capsys.readouterr().out
    assert (out / "gsm8k" / "samples.jsonl").read_text() == samples
    assert json.loads((out / "results.json").read_text())["results"]["gsm8k"] == first
    # Without a reward there are votes and the oracle, and the checker chooses what is trained on.
    assert main(words) == 0
    alone = json.loads((out / "results.json").read_text())["results"]["gsm8k"]
    assert set(alone["curves"]["right"]) == {"one sample", "majority", "oracle"} and alone["scorer"] is None


def test_a_checkers_wrong_answers_are_no_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, _ = candidates(tmp_path, count=2, correct=[0.0, 1.0, 0.0, 1.0])
    best_of_n(
        file=file, out=str(tmp_path / "out"), sft=str(tmp_path / "s.jsonl"), pairs=str(tmp_path / "p.jsonl"), top=4
    )
    assert [row["messages"][-1]["content"][-1] for row in lines(tmp_path / "s.jsonl")].count("0") == 0
    assert len(lines(tmp_path / "s.jsonl")) == 4 and len(lines(tmp_path / "p.jsonl")) == 2
    wrong, _ = candidates(tmp_path, count=2, correct=[0.0] * 4)
    with pytest.raises(ValueError, match=r"s\.jsonl: no row is left to write"):
        best_of_n(file=wrong, out=str(tmp_path / "out"), sft=str(tmp_path / "s.jsonl"))
    assert "2 prompts without a right answer" in capsys.readouterr().out
    equal, rows = candidates(
        tmp_path, count=2, correct=[1.0] * 4
    )  # nothing to reject: the targets are written all the same
    (tmp_path / "s.jsonl").unlink()
    with pytest.raises(ValueError, match=r"p\.jsonl: no row is left to write"):
        best_of_n(
            file=equal, out=str(tmp_path / "out"), pairs=str(tmp_path / "p.jsonl"), sft=str(tmp_path / "s.jsonl"), top=2
        )
    assert len(lines(tmp_path / "s.jsonl")) == 4 and len(rows) == 2


@pytest.mark.slow
def test_the_rows_train_and_the_trained_policy_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rejection sampling and one round of DPO; the policy's implicit reward then orders the same candidates."""
    file, _ = candidates(tmp_path, count=24)
    sft, pairs = tmp_path / "sft.jsonl", tmp_path / "pairs.jsonl"
    best_of_n(file=file, out=str(tmp_path / "out"), sft=str(sft), pairs=str(pairs))
    short = ["--trainer.max_steps", "2", "--trainer.limit_val_batches", "0", "--trainer.num_sanity_val_steps", "0"]
    short += ["--trainer.enable_progress_bar", "false", "--trainer.logger", "false", "--trainer.accelerator", "cpu"]
    for module, data, rows in (
        ("SFTModule", "SFTDataModule", sft),
        ("PreferenceModule", "PreferenceDataModule", pairs),
        ("PreferenceModule", "UltraFeedbackDataModule", pairs),
    ):
        words = ["fit", "--model", module, "--model.backbone", "playground", "--model.adapter", "LoRA"]
        words += ["--model.learning_rate", "1e-2", "--data", data, "--data.path", str(rows)]
        words += ["--data.on_bad_row", "error", "--data.max_length", "128", "--data.batch_size", "2"]
        words += ["--data.cache_dir", str(tmp_path / "cache"), "--trainer.default_root_dir", str(tmp_path / data)]
        assert main([*words, *short]) == 0, capsys.readouterr().err
    checkpoint = str(tmp_path / "PreferenceDataModule" / "checkpoints" / "last.ckpt")
    assert (
        main(["best-of-n", "--file", file, "--reward", checkpoint, "--out", str(tmp_path / "dpo"), "--device", "cpu"])
        == 0
    )
    result = json.loads((tmp_path / "dpo" / "results.json").read_text())["results"]["candidates.jsonl"]
    assert result["scorer"].endswith("last.ckpt") and result["identity"]["reward"]["beta"] == 0.1
    scored = [row["reward"] for row in lines(next((tmp_path / "dpo").glob("rewards-*.jsonl")))[1:]]
    assert len(set(scored)) > 20 and all(abs(reward) < 10 for reward in scored)
    words = [
        "best-of-n",
        "--file",
        file,
        "--reward",
        checkpoint,
        "--reward_reference",
        "playground",
        "--out",
        str(tmp_path),
    ]
    assert main(words) == 1 and "a checkpoint, which knows its reference" in capsys.readouterr().err


def test_what_is_wrong_gets_one_sentence(tmp_path: Path, reward: str) -> None:
    out = str(tmp_path / "out")
    file, rows = candidates(tmp_path)
    for options, words in (
        ({}, "--file or --tasks is needed, and neither was given"),
        ({"file": file, "tasks": "gsm8k"}, "and both were given"),
        ({"file": file, "limit": 3}, "--limit with --file"),
        ({"file": file, "tau": 0.0}, r"tau=0\.0"),
        ({"file": file, "sft": "rows.csv"}, r"--sft rows\.csv; what is written is \.jsonl"),
        ({"file": file, "top": 0}, "top=0"),
        ({"tasks": "gsm8k", "n": 1}, "n=1; give 2 or more"),
        ({"tasks": "piqa", "path": "builtin"}, "piqa compares log-likelihoods of choices"),
    ):
        with pytest.raises(ValueError, match=words):
            best_of_n(out=out, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no --out was given"):
        best_of_n(file=file)
    with pytest.raises(FileNotFoundError, match="no such file"):
        best_of_n(file=str(tmp_path / "nothing.jsonl"), out=out)

    def changed(**columns: Any) -> str:
        other = tmp_path / "changed.jsonl"
        found = [{k: v for k, v in {**rows[0], **columns}.items() if v != "gone"}, *rows[1:]]
        other.write_text("".join(json.dumps(row) + "\n" for row in found))
        return str(other)

    for columns, words in (
        ({"rewards": [1.0, 2.0]}, r"changed\.jsonl, line 1: 'rewards' holds 2 values for 4 answers"),
        ({"rewards": [1.0, float("nan"), 0.0, 0.0]}, "'rewards' holds nan; numbers are needed"),
        ({"rewards": "gone"}, "5 of 6 rows of .* have 'rewards'"),
        ({"completions": "one text"}, "'completions' holds 'one text'; a list of texts is needed"),
        ({"finishes": ["stop"]}, "'finishes' holds no word for each of the 4 answers"),
        ({"asked": "gone", "prompt": 7}, "'prompt' holds 7"),
        ({"asked": [{"role": "user"}]}, "missing column"),
    ):
        with pytest.raises(ValueError, match=words):
            best_of_n(file=changed(**columns), out=out)
    constant, _ = candidates(tmp_path, rewards=[1.0] * 4)
    with pytest.raises(ValueError, match="all 24 different answers have the reward 1; a constant reward"):
        best_of_n(file=constant, out=out)
    bare, _ = candidates(tmp_path, rewards=None)
    with pytest.raises(ValueError, match="no column 'rewards', and no --reward was given"):
        best_of_n(file=bare, out=out)
