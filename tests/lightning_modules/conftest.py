"""A tiny BERT with dropout, saved as transformers would, and rows for it; Trainers that write nothing but checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fulgurite.callbacks import AdapterCheckpoint, RandomState


def write_bert(folder: Path, dropout: float) -> str:
    """Two layers, 32 wide, the playground's vocabulary and tokenizer."""
    from transformers import BertConfig, BertModel

    from fulgurite.data.encoding.tokenizers import load_tokenizer

    torch.manual_seed(0)
    tokenizer = load_tokenizer("playground")
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """With dropout 0.1 everywhere."""
    return write_bert(tmp_path_factory.mktemp("tiny-bert"), 0.1)


@pytest.fixture(scope="session")
def plain_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Without dropout."""
    return write_bert(tmp_path_factory.mktemp("plain-bert"), 0.0)


@pytest.fixture
def make_trainer(tmp_path: Path):
    def make(*callbacks: Any, **options: Any) -> Trainer:
        # At the end of an epoch, and behind every step only where a run is to be killed: writing costs more than a tiny step.
        dies = any(getattr(callback, "crash_at", None) is not None for callback in callbacks)
        every = {"every_n_train_steps": 1} if dies else {"save_on_train_epoch_end": True}
        checkpoint = ModelCheckpoint(dirpath=tmp_path / "checkpoints", save_last=True, save_top_k=1, **every)
        defaults: dict[str, Any] = {
            "accelerator": "cpu",
            "max_epochs": 2,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
            "num_sanity_val_steps": 0,
        }
        return Trainer(
            callbacks=[AdapterCheckpoint(), RandomState(), checkpoint, *callbacks], **{**defaults, **options}
        )

    return make
