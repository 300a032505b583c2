"""`fulgurite score` and the export of reward models, through the command line: layouts agree, resuming, benchmarks, refusals."""

from __future__ import annotations

import json

import pytest
import torch

from fulgurite.cli import main
from fulgurite.commands.score import command
from fulgurite.data.playground import builtin_rows
from fulgurite.evaluation.reward_scoring import RewardScorer


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short reward training with an adapter."""
    folder = tmp_path_factory.mktemp("reward_run")
    words = ["fit", "--config", "configs/reward_minilm.yaml", "--trainer.default_root_dir", str(folder)]
    words += ["--data.limit_train", "40", "--data.cache_dir", str(folder / "cache"), "--trainer.max_steps", "5"]
    words += ["--model.adapter", "LoRA", "--model.learning_rate", "5e-3", "--trainer.limit_val_batches", "2"]
    words += ["--trainer.val_check_interval", "1.0", "--trainer.enable_progress_bar", "false"]
    words += ["--trainer.accelerator", "cpu", "--trainer.num_sanity_val_steps", "0"]
    assert main(words) == 0
    return folder


@pytest.fixture(scope="module")
def checkpoint(run):
    return str(run / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="module")
def rows():
    found = []
    for row in builtin_rows("ultrafeedback_binarized", "test", count=6):
        found.append({"prompt": row["prompt"], **{s: row[s][-1]["content"] for s in ("chosen", "rejected")}})
    return found


@pytest.mark.slow
def test_the_three_forms_of_a_model_give_the_same_rewards(run, checkpoint, rows, tmp_path, capsys):
    """The checkpoint, transformers' layout and UltraRM's."""
    for layout in ("sequence_classification", "regression_head"):
        words = [
            "export",
            "--ckpt_path",
            checkpoint,
            "--out",
            str(tmp_path / layout),
            "--format",
            "merged",
            "--layout",
            layout,
        ]
        assert main(words) == 0
    said = capsys.readouterr().out
    assert said.count("reloaded") == 2 and "transformers' own" in said
    source = write(tmp_path / "rows.jsonl", rows)
    found = {}
    for name, model in (
        ("checkpoint", checkpoint),
        *((n, str(tmp_path / n)) for n in ("sequence_classification", "regression_head")),
    ):
        out = tmp_path / f"{name}.jsonl"
        assert main(["score", "--model", model, "--file", source, "--output", str(out), "--device", "cpu"]) == 0
        found[name] = [[row["reward_chosen"], row["reward_rejected"]] for row in read(out)]
    expected = torch.tensor(found.pop("checkpoint"))
    assert expected.shape == (6, 2) and len(expected.unique()) > 6
    for other in found.values():
        torch.testing.assert_close(torch.tensor(other), expected, rtol=1e-4, atol=1e-4)
    said = capsys.readouterr().out
    assert "pair accuracy [95 %]" in said and "correlation with length" in said and "of 6" in said


def test_a_reward_head_is_not_lost_in_any_export(checkpoint, tmp_path, capsys):
    assert main(["export", "--ckpt_path", checkpoint, "--out", str(tmp_path / "peft")]) == 1
    assert "whose head on the last token PEFT does not know" in capsys.readouterr().err
    assert main(["export", "--ckpt_path", checkpoint, "--out", str(tmp_path / "a"), "--format", "adapter"]) == 0
    from safetensors.torch import load_file

    assert "regression_head.weight" in load_file(tmp_path / "a" / "adapter.safetensors")


def test_every_kind_of_row_has_its_rewards_and_what_is_too_long_has_none(checkpoint, rows, tmp_path, capsys):
    pair = rows[0]
    turns = [{"role": "user", "content": pair["prompt"]}, {"role": "assistant", "content": pair["chosen"]}]
    kinds = {
        "chat": {"messages": turns},
        "pair": pair,
        "one": {"prompt": pair["prompt"], "completion": pair["chosen"]},
        "several": {"prompt": turns[:1], "completions": [pair["chosen"], "word " * 400, pair["rejected"]]},
    }
    found = {}
    for name, row in kinds.items():
        source = write(tmp_path / f"{name}.jsonl", [row])
        out = tmp_path / f"{name}.out.jsonl"
        words = ["score", "--model", checkpoint, "--file", source, "--output", str(out), "--max_length", "300"]
        assert main([*words, "--device", "cpu"]) == 0
        (found[name],) = read(out)
    said = capsys.readouterr().out
    good, bad = found["pair"]["reward_chosen"], found["pair"]["reward_rejected"]
    assert found["chat"]["reward"] == found["one"]["reward"] == pytest.approx(good, abs=1e-5) and good != bad
    assert found["several"]["rewards"] == [pytest.approx(good, abs=1e-5), None, pytest.approx(bad, abs=1e-5)]
    assert "left out, longer than max_length" in said and "2 of 3" in said


def test_an_interrupted_scoring_goes_on_where_it_stopped(checkpoint, rows, tmp_path, capsys, monkeypatch):
    source, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    words = [
        "score",
        "--model",
        checkpoint,
        "--file",
        source,
        "--output",
        str(out),
        "--device",
        "cpu",
        "--batch_size",
        "1",
    ]
    assert main(words) == 0
    whole = read(out)
    out.unlink()
    monkeypatch.setattr("fulgurite.evaluation.reward_scoring._CHUNK", 4)
    original, calls = RewardScorer._chunk, []

    def killed(self, conversations, at):
        calls.append(len(conversations))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, conversations, at)

    monkeypatch.setattr(RewardScorer, "_chunk", killed)
    assert main(words) == 130 and not out.exists() and len(read(tmp_path / "out.jsonl.part")) == 4
    with open(tmp_path / "out.jsonl.part", "a") as stream:
        stream.write('{"prompt": "cut')
    monkeypatch.setattr(RewardScorer, "_chunk", original)
    capsys.readouterr()
    assert main(words) == 0
    assert "4 of 6 rows have rewards already" in capsys.readouterr().out
    assert read(out) == whole and not (tmp_path / "out.jsonl.part").exists()
    other = write(tmp_path / "other.jsonl", [*rows[:2], {**rows[2], "prompt": "another"}])
    words[words.index("--file") + 1] = other
    assert main(words) == 1 and "is there already with rewards of other rows" in capsys.readouterr().err
    assert read(out) == whole


def test_both_benchmarks(checkpoint, rows, tmp_path, capsys):
    first = [{**row, "subset": "hep-go" if i % 2 else "math-prm", "id": i} for i, row in enumerate(rows)]
    second = [
        {
            "prompt": r["prompt"],
            "chosen": [r["chosen"]],
            "rejected": [r["rejected"], "x", "y z"],
            "subset": "Math",
            "id": i,
        }
        for i, r in enumerate(rows)
    ]
    for kind in ("ref", "tied"):
        right = [rows[0]["chosen"]] + ["the same"] * (kind == "tied")
        item = {
            "prompt": rows[0]["prompt"],
            "chosen": right,
            "rejected": ["wrong"],
            "subset": "Ties",
            "id": f"{kind}:0",
        }
        second.append({**item, "num_correct": len(right)})
    for name, items in (("rewardbench", first), ("rewardbench2", second)):
        source = write(tmp_path / f"{name}.jsonl", items)
        words = ["score", "--model", checkpoint, "--file", source, "--benchmark", name, "--device", "cpu"]
        assert main([*words, "--output", str(tmp_path / f"{name}.out.jsonl")]) == 0
        assert len(read(tmp_path / f"{name}.out.jsonl")) == len(items)
    said = capsys.readouterr().out
    assert "Reasoning" in said and "Ties" in said and "mean of 1 sections" in said and "mean of 2 sections" in said


def test_refusals_name_the_row_and_the_way_out(checkpoint, rows, tmp_path, capsys, monkeypatch):
    source, out = write(tmp_path / "rows.jsonl", rows), str(tmp_path / "out.jsonl")
    base = ["score", "--model", checkpoint, "--device", "cpu"]
    cases = [
        (["--file", str(tmp_path / "none.jsonl"), "--output", out], "no such file"),
        (["--file", source], "no --output was given"),
        (["--file", source, "--output", source], "is the input itself"),
        (["--file", source, "--output", str(tmp_path / "out.csv")], "what is written is .jsonl"),
        (["--file", write(tmp_path / "a.jsonl", [{"text": "x"}]), "--output", out], "line 1: columns 'text'"),
        (
            [
                "--file",
                write(tmp_path / "b.jsonl", [{"messages": [{"role": "user", "content": "x"}]}]),
                "--output",
                out,
            ],
            "no answer",
        ),
        (
            ["--file", write(tmp_path / "c.jsonl", [{**rows[0], "reward": 1}]), "--output", out],
            "a column 'reward' is there",
        ),
        (["--file", source, "--output", out, "--benchmark", "rewardbench"], "no subset, id"),
    ]
    for words, message in cases:
        assert main([*base, *words]) == 1, words
        assert message in capsys.readouterr().err
    assert main(["score", "--model", "playground", "--file", source, "--output", out]) == 1
    assert "holds no reward head" in capsys.readouterr().err
    monkeypatch.setattr(command, "_rewards", lambda *a: ([[1.0, 1.0]] * 3, [[1, 1]] * 3))
    assert main([*base, "--file", source, "--output", out]) == 1
    assert "a constant reward orders nothing" in capsys.readouterr().err


def test_a_row_that_was_too_long_is_scored_when_the_limit_is_raised(checkpoint, rows, tmp_path, capsys):
    source = write(tmp_path / "a.jsonl", [rows[0], {**rows[1], "chosen": "word " * 60}])
    out = tmp_path / "o.jsonl"
    words = ["score", "--model", checkpoint, "--device", "cpu", "--file", source, "--output", str(out), "--max_length"]
    assert main([*words, "100"]) == 0 and read(out)[1]["reward_chosen"] is None
    capsys.readouterr()
    assert main([*words, "500"]) == 0
    assert "1 of 2 rows have rewards already" in capsys.readouterr().out
    assert all(isinstance(row["reward_chosen"], float) for row in read(out))


@pytest.mark.slow
@pytest.mark.parametrize("content", ["my notes\n", '{\n "a": 1\n}\n'])
def test_a_file_that_is_not_its_own_is_not_written_over(checkpoint, rows, tmp_path, capsys, content):
    source, out = write(tmp_path / "a.jsonl", rows[:1]), tmp_path / "o.jsonl"
    out.write_text(content)
    words = ["score", "--model", checkpoint, "--device", "cpu", "--file", source, "--output", str(out)]
    assert main(words) == 1 and "is there already" in capsys.readouterr().err
    assert out.read_text() == content
    assert main([*words, "--overwrite", "true"]) == 0 and "reward_chosen" in read(out)[0]


def test_half_a_character_in_a_column_that_is_not_scored_is_kept(checkpoint, rows, tmp_path):
    source, out = write(tmp_path / "a.jsonl", [{**rows[0], "note": "\ud83d"}]), tmp_path / "o.jsonl"
    assert main(["score", "--model", checkpoint, "--device", "cpu", "--file", source, "--output", str(out)]) == 0
    assert read(out)[0]["note"] == "\ud83d"


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("a.jsonl", {"prompt": "p", "completions": "abc"}, "a.jsonl, line 1: no answers: 'completions' holds str"),
        ("a.jsonl", {"prompt": "p", "completions": {"a": 1}}, "'completions' holds dict"),
        ("a.jsonl", {"prompt": "p", "completions": 5}, "'completions' holds int"),
        ("a.jsonl", {"prompt": "p", "completions": []}, "'completions' holds an empty list"),
        ("a.jsonl", {"prompt": "p", "completions": ["a", 5]}, "an answer is int"),
        ("a.jsonl", {"prompt": "p", "completion": None}, "columns 'prompt', and nothing in 'completion'; needed are"),
        ("a.jsonl", {"prompt": "half \ud83d", "completion": "a"}, "line 1: broken Unicode: turn 1 holds half a surrogate"),
        ("a.json", {"prompt": "p", "completion": 5}, "a.json, row 1: not an answer"),
        ("a.json", {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "a"}]}, "holds None"),
        ("a.json", {"messages": [{"role": "user", "content": ["x"]}, {"role": "assistant", "content": "a"}]}, "['x']"),
        ("a.json", {"messages": [{"role": "bot", "content": "x"}, {"role": "assistant", "content": "a"}]}, "role 'bot'"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_before_anything_is_scored(checkpoint, tmp_path, capsys, name, row, message):
    (tmp_path / name).write_text(json.dumps([row]) if name.endswith(".json") else json.dumps(row) + "\n")
    words = ["score", "--model", checkpoint, "--file", str(tmp_path / name), "--output", str(tmp_path / "o.jsonl")]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_tools_and_calls_are_part_of_what_is_scored():
    """They go to the chat template, and a row that differs in them alone is another row."""
    from fulgurite.commands.score.command import _hash
    from fulgurite.commands.score.rows import read_asked

    def asked(tools, **answer):
        messages = [{"role": "user", "content": "rain?"}, {"role": "assistant", "content": "No.", **answer}]
        return read_asked({"messages": messages, "tools": tools}, "rows.jsonl", 3, True).conversations

    rows = [asked(None), asked([{"name": "weather"}]), asked(None, reasoning_content="hm")]
    assert [json.loads(row[0].tools or "null") for row in rows] == [None, [{"name": "weather"}], None]
    assert len({_hash("", row) for row in rows}) == 3
    pair = {"prompt": "rain?", "chosen": "No.", "rejected": "Rain?", "system": "Be short."}
    for as_chat, roles in ((True, ["system", "user", "assistant"]), (False, ["prompt", "completion"])):
        for conversation in read_asked(pair, "rows.jsonl", 3, as_chat).conversations:
            assert [turn.role for turn in conversation.turns] == roles
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 3: tools: "):
        asked("weather")


def test_an_empty_answer_has_a_reward(checkpoint, tmp_path):
    source, out = write(tmp_path / "a.jsonl", [{"prompt": "p", "completions": ["", "b"]}]), tmp_path / "o.jsonl"
    assert main(["score", "--model", checkpoint, "--device", "cpu", "--file", source, "--output", str(out)]) == 0
    assert all(isinstance(value, float) for value in read(out)[0]["rewards"])


def test_a_folder_is_neither_a_model_nor_an_output(run, rows, tmp_path, capsys):
    source = write(tmp_path / "a.jsonl", rows[:1])
    (tmp_path / "o.jsonl").mkdir()
    assert main(["score", "--model", str(run), "--file", source, "--output", str(tmp_path / "o.jsonl")]) == 1
    assert "o.jsonl is a folder; give the name of a file" in capsys.readouterr().err
    assert main(["score", "--model", str(run), "--file", source, "--output", str(tmp_path / "p.jsonl")]) == 1
    error = capsys.readouterr().err
    assert "holds no config.json" in error and "give the checkpoint, " in error and "checkpoints/last.ckpt" in error


def test_an_error_of_the_template_names_file_and_line(checkpoint, tmp_path, capsys):
    strict = "{% if messages[0]['content'] == 'no' %}{{ raise_exception('not that') }}{% endif %}"
    strict += "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    (tmp_path / "t.jinja").write_text(strict + "{% if add_generation_prompt %}<assistant>{% endif %}")
    given = [{"prompt": text, "completion": "b"} for text in ("yes", "no")]
    words = ["score", "--model", checkpoint, "--device", "cpu", "--file", write(tmp_path / "a.jsonl", given)]
    words += ["--output", str(tmp_path / "o.jsonl"), "--template", str(tmp_path / "t.jinja")]
    assert main(words) == 1 and "a.jsonl, line 2: " in capsys.readouterr().err


@pytest.mark.slow
def test_a_resumed_run_gives_the_very_same_rewards(checkpoint, tmp_path):
    """Rows that are scored beside others differ in the last digits; the batches are those of the whole run."""
    rows = [
        {"prompt": f"{i}: " + "What is it? " * (i % 7), "completion": "A cat sat there. " * (1 + i % 5)}
        for i in range(40)
    ]
    source, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    words = [
        "score",
        "--model",
        checkpoint,
        "--file",
        source,
        "--output",
        str(out),
        "--device",
        "cpu",
        "--batch_size",
        "2",
    ]
    assert main(words) == 0
    whole = read(out)
    for kept in ([0, 2, 5, 33, 39], range(1, 40, 2), [*range(32)]):
        out.unlink()
        write(tmp_path / "out.jsonl.part", [whole[i] for i in kept])
        assert main(words) == 0
        assert read(out) == whole
