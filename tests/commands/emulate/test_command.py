"""`fulgurite emulate` on the playground's model: what it writes and says, and one clear sentence for each bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.cli import main
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.models import load_backbone
from fulgurite.models.emulator.folder import load_emulator
from fulgurite.models.emulator.similarity import linear_cka

QUESTIONS = [
    {
        "id": f"q{i}",
        "question": {
            "stem": f"what is {i} and {i}",
            "choices": [{"label": "A", "text": f"{2 * i} in all"}, {"label": "B", "text": "a red film"}],
        },
        "answerKey": "A",
    }
    for i in range(6)
]


def emulate(out: Path, *words: str) -> int:
    return main(["emulate", "--model", "playground", "--out", str(out), "--device", "cpu", *words])


def lines(file: Path, rows: list[Any]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def reference(texts: list[str]) -> tuple[list[torch.Tensor], float]:
    """Pooled states of the layers before the last, and the perplexity, by transformers alone, a text at a time."""
    folder = resolve_backbone("playground")
    model: Any = load_backbone(folder, "causal_lm").model.eval()
    tokenizer, states, loss, tokens = load_tokenizer("playground"), [], 0.0, 0
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"][:512]])
        with torch.no_grad():
            output = model(input_ids=ids, labels=ids, output_hidden_states=True)
        t = torch.arange(1.0, ids.shape[1] + 1)
        states.append(torch.stack([t / t.sum() @ h[0] for h in output.hidden_states[1:-1]]))
        loss, tokens = loss + float(output.loss) * (ids.shape[1] - 1), tokens + ids.shape[1] - 1
    return list(torch.stack(states, 1)), float(torch.tensor(loss / tokens).exp())


def test_a_shared_emulator_of_the_playground(tmp_path: Path, capsys) -> None:
    out = tmp_path / "emulator"
    texts = [f"{'the red film number ' * (i % 4 + 1)}{i} and {word}." for i in range(6) for word in ("good", "bad two")]
    support = lines(tmp_path / "texts.jsonl", [{"note": text} for text in texts])
    words = ["--support", support, "--column", "note", "--keep", "3", "--train", "2", "--sharing", "repeat-all"]
    assert emulate(out, *words, "--batch_size", "5") == 0, capsys.readouterr()
    said = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    states, perplexity = reference(texts)
    assert report["cka"][0][1] == pytest.approx(linear_cka(states[0], states[1]), abs=1e-5)
    assert report["cka"][1][2] == pytest.approx(linear_cka(states[1], states[2]), abs=1e-5)
    assert report["perplexity"]["full"] == pytest.approx(perplexity, rel=1e-4)
    neighbours = [report["cka"][i][i + 1] for i in range(3)]
    joined = neighbours.index(max(neighbours))
    assert report["clusters"] == [[i] for i in range(joined)] + [[joined, joined + 1]] + [
        [i] for i in range(joined + 2, 4)
    ]
    found = load_emulator(out)
    assert found.manifest.sources == report["sources"] and len(found.manifest.sources) == 4
    assert report["trained"] == [0, 3] and report["support_rows"] == 12
    assert report["perplexity"]["emulator"] > report["perplexity"]["full"]
    for part in ("perplexity, full", "weights given away", "repeat-all", "OffsiteTuningModule --model.backbone"):
        assert part in said
    assert (out / "cka.png").read_bytes().startswith(b"\x89PNG")
    assert len(load_tokenizer(str(out))) == len(load_tokenizer("playground"))
    assert emulate(out, *words) == 1 and "--overwrite true to replace" in capsys.readouterr().err
    assert emulate(out, *words, "--overwrite") == 0


def test_questions_count_by_their_answers_alone(tmp_path: Path, capsys) -> None:
    rows = lines(tmp_path / "questions.jsonl", QUESTIONS)
    words = ["--support", rows, "--task", "arc_easy", "--keep", "2", "--train", "2", "--unbiased"]
    assert emulate(tmp_path / "out", *words) == 0, capsys.readouterr()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    tokenizer = load_tokenizer("playground")
    expected = 0
    for row in QUESTIONS:
        prompt = f"Question: {row['question']['stem']}\nAnswer:"
        answer = row["question"]["choices"][0]["text"]
        expected += len(tokenizer(f"{prompt} {answer}")["input_ids"]) - len(tokenizer(prompt)["input_ids"])
    assert report["support_tokens"] == expected and report["kept"] == [0, 3]


def test_the_uniform_baseline_needs_no_support_set(tmp_path: Path, capsys) -> None:
    from transformers import AutoModelForCausalLM

    assert emulate(tmp_path / "out", "--method", "uniform", "--keep", "3", "--train", "2") == 0, capsys.readouterr()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["kept"] == [0, 2, 3] and report["cka"] is None and report["perplexity"] == {}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--support", "builtin", "--keep", "5"], "playground has 4 layers, and --keep 5 --train 4 were given"),
        (["--support", "builtin", "--keep", "3"], "needed is 2 <= train <= keep"),
        (["--support", "builtin", "--limit", "0"], "limit=0 was given"),
        (["--support", "builtin", "--max_length", "1"], "max_length=1 was given"),
        (["--keep", "2", "--train", "2"], "--method crash with no --support"),
        (["--support", "builtin", "--placement", "ends"], "--method crash with --placement ends"),
        (["--method", "uniform", "--placement", "borders"], "has no clusters"),
        (["--method", "uniform", "--task", "arc_easy"], "--task arc_easy without --support"),
        (["--support", "builtin", "--limit", "1", "--keep", "2", "--train", "2"], "holds 1 rows"),
        (
            ["--support", "builtin", "--limit", "3", "--keep", "2", "--train", "2", "--unbiased"],
            "over 4 examples or more",
        ),
        (["--support", "builtin", "--column", "note", "--keep", "2", "--train", "2"], "the columns are 'text'"),
        (["--support", "EMPTY", "--keep", "2", "--train", "2"], "EMPTY"),
        (["--support", "NOWHERE.jsonl", "--keep", "2", "--train", "2"], "NOWHERE.jsonl"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, capsys, words: list[str], said: str) -> None:
    (tmp_path / "EMPTY.jsonl").write_text("")
    words = [str(tmp_path / "EMPTY.jsonl") if word == "EMPTY" else word for word in words]
    assert emulate(tmp_path / "out", *words) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and error.startswith("fulgurite: error:")
    assert not (tmp_path / "out").exists()


def test_rows_that_are_all_alike_are_refused(tmp_path: Path, capsys) -> None:
    same = lines(tmp_path / "same.jsonl", [{"text": "the same red film"}] * 5)
    assert emulate(tmp_path / "out", "--support", same, "--keep", "2", "--train", "2") == 1
    assert "are the same for all 5 examples" in capsys.readouterr().err


def test_an_encoder_is_refused(tmp_path: Path, capsys) -> None:
    from transformers import BertConfig, BertLMHeadModel

    sizes = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48)
    BertLMHeadModel(BertConfig(vocab_size=67, **sizes)).save_pretrained(tmp_path / "bert")
    words = ["emulate", "--model", str(tmp_path / "bert"), "--out", str(tmp_path / "out"), "--support", "builtin"]
    assert main(words) == 1
    assert "it is an encoder, which predicts no next token" in capsys.readouterr().err
