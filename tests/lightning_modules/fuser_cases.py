"""Three tiny random specialists of one vocabulary, rows of three domains, and a short fit, for the tests of UltraFuser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything

from fulgurite.datamodules import UltraChat2DataModule
from fulgurite.lightning_modules import UltraFuserModule

TEMPLATES = ["ultrachat", "mistral", "wizardmath"]


def write_specialist(folder: Path, seed: int, **options: Any) -> str:
    """A Llama of two layers with the playground's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from fulgurite.data.encoding.tokenizers import load_tokenizer

    torch.manual_seed(seed)
    tokenizer = load_tokenizer("playground")
    settings = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2,
    }  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**{**settings, **options})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_rows(folder: Path, count: int = 24) -> str:
    """A file per domain; the domains' answers differ in their letters."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, letters in (("text", "yes no"), ("code", "x = y"), ("maths", "1 2 3")):
        rows = [{"instruction": f"{name} {i}?", "output": f"{letters} {i}"} for i in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def make_data(folder: Path, rows: str, **options: Any) -> UltraChat2DataModule:
    defaults: dict[str, Any] = {"templates": TEMPLATES, "batch_size": [2, 1], "max_length": 128, "val_fraction": 0.15}
    return UltraChat2DataModule(rows, cache_dir=str(folder / "cache"), **{**defaults, **options})


def make_trainer(folder: Path, callbacks: list[Any], **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
        "num_sanity_val_steps": 0, "callbacks": callbacks, "default_root_dir": folder, "log_every_n_steps": 1,
        "enable_checkpointing": any("Checkpoint" in type(c).__name__ for c in callbacks),
    }  # fmt: skip
    return Trainer(**{**defaults, **options})


def make_module(specialists: list[str], **options: Any) -> UltraFuserModule:
    seed_everything(0, verbose=False)
    defaults: dict[str, Any] = {"gate_hidden": 16, "stage_steps": [3, 4], "learning_rate": 1e-2, "warmup_ratio": 0.0}
    return UltraFuserModule(specialists, **{**defaults, **options})
