"""resize_embeddings: new tokens get rows that are trained, the old rows stay bit for bit, and what was trained leaves merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.cli import main
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.lightning_modules import PreferenceModule, SFTModule
from fulgurite.models import load_backbone
from fulgurite.models.growing import grow_embeddings, train_new_rows_only

BASE = resolve_backbone("playground")
ROWS = 1024  # of the playground's embedding


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The playground's tokenizer with two more tokens, the first of which its base's texts hold."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = load_tokenizer("playground")
    tokenizer.add_tokens([" the", "<new>"])
    tokenizer.save_pretrained(folder)
    assert len(load_tokenizer(str(folder))) > ROWS
    return str(folder)


def tiny(tied: bool) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = dict(vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=tied))


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_the_mean_and_gradients_reach_them_alone(tied: bool) -> None:
    model = tiny(tied)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    grown = grow_embeddings(model, 23)
    assert grown == {"model.embed_tokens": 20} | ({} if tied else {"lm_head": 20}) and model.config.vocab_size == 23
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    train_new_rows_only(model, grown)
    ids = torch.tensor([[3, 21, 5, 22]])
    model(ids, labels=ids).loss.backward()
    for name in grown:
        weight = model.get_submodule(name).weight
        old = before[f"{name}.weight"]
        assert torch.equal(weight[:20], old) and torch.allclose(weight[20:], old.mean(0).expand(3, -1), atol=1e-7)
        assert weight.grad[:20].abs().sum() == 0 and weight.grad[21:].abs().sum() > 0
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None
    assert grow_embeddings(model, 20) == {}


def test_modules_that_compare_with_a_base_do_not_have_the_option() -> None:
    with pytest.raises(TypeError, match="PreferenceModule: got an unexpected keyword argument 'resize_embeddings'"):
        PreferenceModule("playground", resize_embeddings="new")
    with pytest.raises(ValueError, match=r"resize_embeddings='some'; allowed are 'new', 'all', or none"):
        SFTModule("playground", resize_embeddings="some")


def words(verb: str, folder: Path, tokenizer: str, *more: str) -> list[str]:
    model = [
        "--model",
        "SFTModule",
        "--model.backbone",
        "playground",
        "--model.learning_rate",
        "1e-2",
        "--model.weight_decay",
        "0.1",
    ]
    data = [
        "--data",
        "UltraChatDataModule",
        "--data.path",
        "builtin",
        "--data.max_length",
        "96",
        "--data.tokenizer",
        tokenizer,
    ]
    trainer = [
        "--trainer.accelerator",
        "cpu",
        "--trainer.limit_val_batches",
        "1",
        "--trainer.default_root_dir",
        str(folder),
    ]
    return [verb, *model, *data, *trainer, *more]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["new", "all"])
def test_from_fit_to_export(mode: str, grown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    adapter = ["--model.adapter", "LoRA", "--model.adapter.rank", "2"]
    assert main(words("fit", run, grown, *adapter, "--trainer.max_steps", "1")) == 1
    assert "(--model.resize_embeddings new)" in capsys.readouterr().err
    more = [*adapter, "--model.resize_embeddings", mode]
    assert main(words("fit", run, grown, *more, "--trainer.max_steps", "2", "--overwrite")) == 0, (
        capsys.readouterr().err[-3000:]
    )
    checkpoint = run / "checkpoints" / "last.ckpt"
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    tokens = len(load_tokenizer(grown))
    rows = {key: len(value) for key, value in state.items() if key.endswith(("embed_tokens.weight", "lm_head.weight"))}
    assert (
        set(rows.values()) == {tokens - ROWS if mode == "new" else tokens}
        and "network.model.embed_tokens.weight" in rows
    )
    assert main(words("fit", run, grown, *more, "--trainer.max_steps", "4", "--ckpt_path", "last")) == 0, (
        capsys.readouterr().err[-3000:]
    )
    test = words("test", run, grown, *more, "--trainer.limit_test_batches", "1", "--ckpt_path", "last")
    assert main(test) == 0, capsys.readouterr().err[-3000:]
    for form, code in (("peft", 1), ("merged", 0)):
        capsys.readouterr()
        export = ["export", "--ckpt_path", str(checkpoint), "--format", form, "--out", str(tmp_path / form)]
        assert main(export) == code, capsys.readouterr().err[-3000:]
    assert "max |reloaded − adapter|" in capsys.readouterr().out
    weight = load_backbone(str(tmp_path / "merged"), "causal_lm").model.get_input_embeddings().weight
    base = load_backbone(BASE, "causal_lm").model.get_input_embeddings().weight
    assert len(weight) == tokens == len(load_tokenizer(str(tmp_path / "merged")))
    assert torch.equal(weight[:ROWS], base) == (mode == "new")
    assert (weight[ROWS:] - base.mean(0)).abs().max() > 1e-3  # trained
    answers = []
    for name in (str(checkpoint), str(tmp_path / "merged")):
        capsys.readouterr()
        generate = ["generate", "--model", name, "--prompt", "Say a sentence.", "--max_new_tokens", "6"]
        assert main(generate) == 0, capsys.readouterr().err
        answers.append(capsys.readouterr().out)
    assert answers[0].strip() and answers[0] == answers[1]
