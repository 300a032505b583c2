"""A few answers of the model after each validation, beside the reference: figures alone do not show a model that rambles.

The datamodule offers `sample_prompts(count)`: pairs of prompt ids and the reference's text. What is generated is printed
and appended to `samples.jsonl`, one line per sample and validation.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.table import Table
from rich.text import Text
from torch.distributed.fsdp import FSDPModule

from fulgurite.console import say
from fulgurite.data.encoding.answer_spans import end_tokens

__all__ = ["GenerationSamples"]

_SHOWN = 300


class GenerationSamples(Callback):
    """Generates greedily from the first validation prompts, on the first process only.

    Does nothing where the datamodule has no `sample_prompts` or the network cannot generate.

    Args:
        count: prompts; 0 for none
        max_new_tokens: tokens generated at most
        folder: where samples.jsonl goes; None takes the trainer's default_root_dir
    """

    def __init__(self, count: int = 2, max_new_tokens: int = 64, folder: str | None = None) -> None:
        if count < 0 or max_new_tokens < 1:
            raise ValueError(
                f"GenerationSamples: count is {count}, max_new_tokens {max_new_tokens}; allowed are count from 0 and "
                "max_new_tokens from 1"
            )
        self.count = count
        self.max_new_tokens = max_new_tokens
        self.folder = folder

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Generates, prints and writes.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        network: Any = getattr(pl_module, "network", None)
        prompts = getattr(getattr(trainer, "datamodule", None), "sample_prompts", None)
        # Before the first step Lightning validates a few batches: there the samples of the untrained model are taken.
        again = trainer.sanity_checking and trainer.global_step > 0
        sharded = isinstance(network, FSDPModule)  # then all processes have to compute, although one speaks
        silent = again or not (trainer.is_global_zero or sharded) or not self.count
        if silent or prompts is None or not callable(getattr(network, "generate", None)):
            return
        tokenizer: Any = trainer.datamodule.load_tokenizer()  # type: ignore[attr-defined]
        table = Table(title=f"step {trainer.global_step}", title_justify="left", title_style="bold", show_lines=True)
        for column in ("prompt", "generated", "reference"):
            table.add_column(column, overflow="fold")
        lines = []
        for ids, reference in prompts(self.count):
            answer = tokenizer.decode(self._generate(network, tokenizer, ids), skip_special_tokens=True)
            prompt = tokenizer.decode(ids, skip_special_tokens=False)
            # Text, not markup: [/INST] is no closing tag.
            table.add_row(Text(_ends(prompt)), Text(_start(answer)), Text(_start(reference)))
            row = {"step": trainer.global_step, "prompt": prompt, "generated": answer, "reference": reference}
            lines.append(json.dumps(row, ensure_ascii=False))
        if not lines or not trainer.is_global_zero:
            return
        folder = Path(self.folder or trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "samples.jsonl", "a", encoding="utf-8") as stream:
            stream.write("\n".join(lines) + "\n")
        say(table)

    def _generate(self, network: Any, tokenizer: Any, ids: Sequence[int]) -> list[int]:
        inputs = torch.tensor([list(ids)], device=network.device)
        with torch.no_grad():
            out = network.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                num_beams=1,
                use_cache=True,
                synced_gpus=isinstance(network, FSDPModule),
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=sorted(end_tokens(tokenizer)) or None,
            )
        start = 0 if network.config.is_encoder_decoder else inputs.shape[1]
        new: list[int] = out[0, start:].tolist()
        return new


def _start(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " …"


def _ends(text: str) -> str:
    """The beginning, where conditions and a system's words stand, and the end, where the question does."""
    half = _SHOWN // 2
    return text if len(text) <= _SHOWN else f"{text[:half]} … {text[-half:]}"
