"""What a model was trained on travels with its checkpoint: plain text or a chat template, for rewards and for answers alike."""

import json
from pathlib import Path

import pytest
import torch

from fulgurite.cli import main
from fulgurite.commands.generate.command import load_model
from fulgurite.commands.shared.options import ComputeOptions, SourceOptions
from fulgurite.data.encoding.prompts import encode_prompt
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.records.conversation import Turn
from fulgurite.models import load_reward_model

PAIRS = [{"prompt": f"What is {i} + 2? ", "chosen": f"It is {i + 2}.", "rejected": "I do not know."} for i in range(12)]


def fit(folder: Path, module: str, data: str, rows: list[dict[str, str]], *words: str) -> str:
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--model", module, "--model.backbone", "playground", "--data", data, "--data.path", str(source), *words]
    limits = [
        "--trainer.max_steps",
        "1",
        "--trainer.accelerator",
        "cpu",
        "--trainer.default_root_dir",
        str(folder / "run"),
    ]
    assert main(["fit", *given, *limits, "--trainer.limit_val_batches", "1"]) == 0
    return str(folder / "run" / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("plain")
    return fit(
        folder, "RewardModule", "PreferenceDataModule", PAIRS, "--data.as_chat", "false", "--data.val_fraction", "0.2"
    )


def stored(checkpoint: str) -> str | None:
    return torch.load(checkpoint, weights_only=True)["chat_template"]


@pytest.mark.slow
def test_rewards_of_a_model_of_plain_text_are_of_plain_text(plain: str, tmp_path: Path, capsys) -> None:
    assert stored(plain) == "none"
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in PAIRS[:3]))
    words = ["score", "--model", plain, "--file", str(source), "--output", str(out), "--device", "cpu"]
    assert main(words) == 0
    exported = tmp_path / "merged"
    assert main(["export", "--ckpt_path", plain, "--out", str(exported), "--format", "merged"]) == 0
    model, tokenizer = load_reward_model(str(exported)).model.eval(), load_tokenizer(str(exported))
    assert tokenizer.chat_template is None
    for row, line in zip(PAIRS, out.read_text().splitlines(), strict=False):
        for side in ("chosen", "rejected"):
            ids = [tokenizer.bos_token_id, *tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]]
            ids = torch.tensor(
                [[*ids, *tokenizer(row[side], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]]
            )
            with torch.no_grad():
                expected = float(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)
            assert json.loads(line)[f"reward_{side}"] == pytest.approx(expected, abs=1e-4)
    # The exported folder, which has no template, is scored alike; a contradiction is refused.
    again = tmp_path / "again.jsonl"
    assert (
        main(["score", "--model", str(exported), "--file", str(source), "--output", str(again), "--device", "cpu"]) == 0
    )
    rewards = [[json.loads(line)["reward_chosen"] for line in path.read_text().splitlines()] for path in (out, again)]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-4)
    capsys.readouterr()
    for more in (["--as_chat", "true"], ["--template", "ultrachat"]):
        assert main([*words, "--overwrite", "true", *more]) == 1
        assert "was trained on plain text, without a chat template" in capsys.readouterr().err


def test_plain_pairs_are_trained_as_chats_unless_told_otherwise(tmp_path: Path) -> None:
    checkpoint = fit(tmp_path, "RewardModule", "PreferenceDataModule", PAIRS, "--data.val_fraction", "0.2")
    assert stored(checkpoint) == load_tokenizer("playground").chat_template


@pytest.mark.slow
def test_an_export_gives_its_rewards_in_everybodys_call(tmp_path: Path, capsys) -> None:
    """The playground's template writes a newline behind the end of a turn, where rewards are read."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    words = ["--data.val_fraction", "0.2", "--model.learning_rate", "1e-2"]
    checkpoint = fit(tmp_path, "RewardModule", "PreferenceDataModule", PAIRS, *words)
    folder, source, out = tmp_path / "merged", tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    capsys.readouterr()
    assert main(["export", "--ckpt_path", checkpoint, "--out", str(folder), "--format", "merged"]) == 0
    assert "apply_chat_template(messages) ends where the rewards are read" in capsys.readouterr().out
    assert main(["score", "--model", checkpoint, "--file", str(source), "--output", str(out), "--device", "cpu"]) == 0
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    for line in out.read_text().splitlines():
        row = json.loads(line)
        chat = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}]
        ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=False)
        with torch.no_grad():
            assert float(model(input_ids=ids).logits) == pytest.approx(row["reward_chosen"], abs=1e-4)


def test_models_trained_elsewhere_are_read_where_everybody_reads_them(tmp_path: Path, capsys) -> None:
    """ChatML as published ends a finished chat with a newline, behind which TRL and RewardBench read the reward."""
    from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

    from fulgurite.data.encoding.templates import apply_template

    tokenizer = load_tokenizer("playground")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|user|>' + m.role + ': ' + m.content + '<|end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|user|>assistant: ' }}{% endif %}"
    )
    apply_template(tokenizer, "auto").save_pretrained(tmp_path / "model")
    torch.manual_seed(0)
    sizes = dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.5
    )
    config = LlamaConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=tokenizer.pad_token_id, **sizes)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "model")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in PAIRS[:3]))
    words = [
        "score",
        "--model",
        str(tmp_path / "model"),
        "--file",
        str(source),
        "--output",
        str(out),
        "--device",
        "cpu",
    ]
    assert main(words) == 0
    assert "give --whole_chat true for one that was trained with TRL" in " ".join(capsys.readouterr().out.split())
    turn = [json.loads(line)["reward_chosen"] for line in out.read_text().splitlines()]
    # The other place is other settings: what stands there is not taken over.
    words += ["--whole_chat", "true"]
    assert main(words) == 1
    assert main([*words, "--overwrite", "true"]) == 0
    read = [json.loads(line)["reward_chosen"] for line in out.read_text().splitlines()]
    assert "--whole_chat true for one" not in " ".join(capsys.readouterr().out.split())
    for place, row, reward in zip(range(3), PAIRS, read, strict=False):
        chat = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}]
        ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=False)
        with torch.no_grad():
            assert reward == pytest.approx(float(stock(input_ids=ids).logits), abs=1e-4)
        assert abs(reward - turn[place]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("template", [None, "none"])
def test_answers_are_asked_for_as_they_were_trained(template: str | None, tmp_path: Path, capsys) -> None:
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS]
    words = [] if template is None else ["--data.template", template]
    checkpoint = fit(
        tmp_path, "SFTModule", "SFTDataModule", rows, "--data.val_fraction", "0.2", "--model.adapter", "LoRA", *words
    )
    loaded = load_model("generate", SourceOptions(checkpoint), ComputeOptions(device="cpu"))
    asked = (Turn("prompt" if template else "user", "What is 1 + 2?"),)
    assert (loaded.tokenizer.chat_template is None) is (template == "none")
    ids = encode_prompt(loaded.tokenizer, asked)
    text = loaded.tokenizer.decode(ids)
    assert text == ("<bos>What is 1 + 2?" if template else "<bos><|user|>\nWhat is 1 + 2?<|end|>\n<|assistant|>\n")
    if template:
        capsys.readouterr()
        assert main(["generate", "--model", checkpoint, "--prompt", "Hi", "--template", "auto"]) == 1
        assert "was trained on plain text" in capsys.readouterr().err
