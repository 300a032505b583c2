"""Before step 0: tokenizers larger than the embedding and rows longer than the table of positions are refused by both sizes."""

from __future__ import annotations

import pytest
import torch
from tokenizers import AddedToken

from fulgurite.adapters import LoRA
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.datamodules import (
    CPODataModule,
    GLUEDataModule,
    PETTasksDataModule,
    UltraChatDataModule,
    UltraFeedbackDataModule,
    UltraInteractPairDataModule,
)
from fulgurite.lightning_modules import (
    APETModule,
    ClassificationModule,
    CPOModule,
    PreferenceModule,
    RewardModule,
    SFTModule,
    SoRAModule,
)
from fulgurite.lightning_modules.checks.sizes import check_sizes
from tests.lightning_modules.checks.test_padding import write_llama
from tests.lightning_modules.fuser_cases import make_data, make_module, write_rows
from tests.lightning_modules.fuser_cases import make_trainer as fuser_trainer


def write_gpt2(folder, rows=None, positions=64):
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = load_tokenizer("playground")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=rows or len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=positions)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


def write_bart(folder, rows=None, positions=64):
    from transformers import BartConfig, BartForConditionalGeneration

    tokenizer = load_tokenizer("playground")
    tokenizer.save_pretrained(folder)
    sizes = dict(d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)
    ends = dict(pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None)
    config = BartConfig(
        vocab_size=rows or len(tokenizer),
        **sizes,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=positions,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
        **ends,
    )
    BartForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


def cases(backbone, max_length, cache):
    some = dict(path="builtin", tokenizer=backbone, limit_train=16, max_length=max_length, cache_dir=str(cache))
    yield ClassificationModule(backbone), GLUEDataModule(task="sst2", **some)
    yield SoRAModule(backbone=backbone, task="classification"), GLUEDataModule(task="sst2", **some)
    yield (
        APETModule(backbone, budget=8, selection="gradient", score_batches=1),
        GLUEDataModule(task="sst2", **some),
    )
    yield SFTModule(backbone, adapter=LoRA(rank=2)), UltraChatDataModule(**some)
    yield PreferenceModule(backbone, loss="simpo"), UltraFeedbackDataModule(**some)
    yield RewardModule(backbone), UltraInteractPairDataModule(**some)
    yield CPOModule(backbone), CPODataModule(stage="cpsft", **some)


@pytest.mark.slow
@pytest.mark.parametrize("place", range(7))
@pytest.mark.parametrize(
    ("rows", "positions", "words"), [(200, 96, r"{all} tokens.*200 rows"), (None, 64, r"96 tokens.*64 pos")]
)
def test_every_module_refuses_what_does_not_fit(place, rows, positions, words, make_trainer, tmp_path):
    backbone = write_gpt2(tmp_path / "gpt2", rows, positions)
    module, data = list(cases(backbone, 96, tmp_path / "cache"))[place]
    with pytest.raises(ValueError, match=words.format(all=len(load_tokenizer("playground")))):
        make_trainer(max_steps=1, max_epochs=1).fit(module, data)


@pytest.mark.parametrize(("rows", "length", "words"), [(200, 32, "200 rows"), (None, 96, "96 tokens.*64 positions")])
def test_encoder_decoders_too(rows, length, words, make_trainer, tmp_path):
    backbone = write_bart(tmp_path / "bart", rows)
    data = PETTasksDataModule(
        task="rte",
        task_type="seq2seq",
        path="builtin",
        tokenizer=backbone,
        max_length=length,
        limit_train=16,
        cache_dir=str(tmp_path),
    )
    module = SoRAModule(backbone=backbone, task="seq2seq")
    with pytest.raises(ValueError, match=words):
        make_trainer(max_steps=1, max_epochs=1).fit(module, data)


def test_specialists_positions_too(tmp_path):
    folders = [write_gpt2(tmp_path / name) for name in "ab"]
    data = make_data(tmp_path, write_rows(tmp_path / "rows"), templates=["ultrachat", "mistral"])
    with pytest.raises(ValueError, match=r"128 tokens.*64 positions"):
        fuser_trainer(tmp_path, []).fit(make_module(folders), data)


def test_computed_positions_have_no_end(make_trainer, tmp_path):
    backbone = write_llama(tmp_path / "llama", 0)
    data = GLUEDataModule(
        task="sst2",
        path="builtin",
        tokenizer=backbone,
        max_length=4096,
        limit_train=16,
        cache_dir=str(tmp_path / "cache"),
    )
    make_trainer(max_steps=1, max_epochs=1, limit_val_batches=0).fit(ClassificationModule(backbone), data)


def test_last_special_tokens_that_nothing_uses_need_no_row(tmp_path):
    """Gemma 3 1B: 262,145 tokens, of which the last stands for a picture, on 262,144 rows."""
    from fulgurite.models import load_backbone

    folder = write_gpt2(tmp_path)
    model = load_backbone(folder, "causal_lm").model

    class Data:
        tokenizer = load_tokenizer(folder)
        max_length = 16

        def load_tokenizer(self):
            return self.tokenizer

    data = Data()
    check_sizes("Module", model, folder, data)
    data.tokenizer.add_tokens([AddedToken("<picture>", special=True)], special_tokens=True)
    check_sizes("Module", model, folder, data)
    data.tokenizer.chat_template = "<picture>"
    with pytest.raises(ValueError, match=f"{len(data.tokenizer)} tokens.*{len(data.tokenizer) - 1} rows"):
        check_sizes("Module", model, folder, data)
