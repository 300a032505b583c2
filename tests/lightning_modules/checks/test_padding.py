"""Causal classifiers in a whole run: trained, exported, loaded by stock transformers, whatever the backbone's padding is."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from fulgurite.adapters import LoRA
from fulgurite.commands.export.command import export
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.datamodules import GLUEDataModule
from fulgurite.lightning_modules import ClassificationModule

TEXTS = ["fine", "the film is slow, long and much too loud for me", "I liked the film"]


def write_llama(folder, pad_token_id):
    tokenizer = load_tokenizer("playground")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        pad_token_id=pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("pad_token_id", [None, 7])
@pytest.mark.parametrize("adapter", [None, LoRA(rank=2)])
def test_a_run_and_its_export_read_each_row_alone(adapter, pad_token_id, make_trainer, tmp_path):
    backbone = write_llama(tmp_path / "llama", pad_token_id)
    data = GLUEDataModule(
        task="sst2", path="builtin", tokenizer=backbone, batch_size=8, limit_train=32, cache_dir=str(tmp_path / "cache")
    )
    module = ClassificationModule(backbone, adapter=adapter)
    make_trainer(max_steps=2, max_epochs=1, limit_val_batches=1).fit(module, data)
    export(str(tmp_path / "checkpoints" / "last.ckpt"), str(tmp_path / "out"), format="merged")

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert stock.config.pad_token_id == tokenizer.pad_token_id
    batch = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    batch.pop("token_type_ids", None)
    network = module.network.eval()
    with torch.no_grad():
        ours, theirs = network(**batch).logits, stock(**batch).logits
        alone = torch.cat(
            [stock(input_ids=tokenizer([text], return_tensors="pt")["input_ids"]).logits for text in TEXTS]
        )
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(theirs, alone, atol=1e-5)
