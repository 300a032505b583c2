"""Study: supervised fine-tuning of the benchmark Llama against TRL's SFTTrainer, packing on for both.

A 6-layer, 768-wide Llama with random weights and GPT-2's vocabulary (50,257) is trained with LoRA (rank 16, every linear layer of
the blocks) on 500 alpaca rows, packs of up to 512 tokens, one pack per step, no activation checkpointing. Each run is a process of
its own; the two take turns. A figure is the median over a run's steps after the third, per token of the step; the table has the
median run. Memory is the peak resident size over that with only the model loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["report", "run"]

ROWS, LENGTH, RANK, STEPS, ROUNDS = 500, 512, 16, 16, 2
CONTENDERS = ("TRL", "fulgurite")


def run(real_data: Path) -> dict[str, Any]:
    """Every contender in turn, in float32 and on a bf16 base; prints a line per run."""
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _make_model(folder / "model", real_data / "tokenizers" / "gpt2")
        _make_rows(folder / "rows.jsonl", real_data / "sft" / "alpaca" / "alpaca_en_demo.json", folder / "model")
        for dtype in ("float32", "bfloat16"):
            for turn in range(ROUNDS):
                for name in CONTENDERS if turn % 2 == 0 else CONTENDERS[::-1]:
                    runs.append(_in_process(name, dtype, folder))
                    last = runs[-1]
                    print(
                        f"{dtype} {name}: {last['ms_per_step']:.0f} ms/step, {last['tokens_per_step']:.0f} tokens/step, "
                        f"{last['us_per_token']:.0f} µs/token, peak {last['peak_mib']:.0f} MiB",
                        flush=True,
                    )
    return {"rows": ROWS, "length": LENGTH, "rank": RANK, "steps": STEPS, "runs": runs}


def _make_model(folder: Path, vocabulary: Path) -> None:
    import torch
    import transformers
    from tokenizers import ByteLevelBPETokenizer

    pieces = ByteLevelBPETokenizer(str(vocabulary / "vocab.json"), str(vocabulary / "merges.txt"))
    end = "<|endoftext|>"
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, eos_token=end, pad_token=end)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=768, intermediate_size=2048, num_hidden_layers=6, num_attention_heads=12,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=tokenizer.pad_token_id, use_cache=False,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def _make_rows(path: Path, alpaca: Path, model: Path) -> None:
    """The first 500 rows that fit a pack (TRL would cut the others), as prompt and completion."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    lines = []
    for row in json.loads(alpaca.read_text(encoding="utf-8")):
        prompt = row["instruction"] + ("\n\n" + row["input"] if row["input"] else "") + "\n"
        if row["output"] and len(tokenizer(prompt + row["output"])["input_ids"]) < LENGTH:
            lines.append(json.dumps({"prompt": prompt, "completion": row["output"]}))
    path.write_text("\n".join(lines[:ROWS]) + "\n", encoding="utf-8")


def _in_process(name: str, dtype: str, folder: Path) -> dict[str, Any]:
    out = folder / "out.json"
    command = [sys.executable, "-m", "benchmarks.studies.sft_trl", name, dtype, str(folder), str(out)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "FULGURITE_CACHE": str(folder / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"sft_trl: {name} in {dtype} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return {"contender": name, "dtype": dtype, **json.loads(out.read_text())}


class _Clock:
    """Wall time and tokens of each step, and the memory over what was resident at the start."""

    def __init__(self) -> None:
        from benchmarks.memory import reset_peak

        self.before = reset_peak()
        self.times: list[float] = []
        self.tokens: list[int] = []
        self.losses: list[float] = []
        self._began = 0.0

    def start(self) -> None:
        self._began = time.perf_counter()

    def stop(self, tokens: int) -> None:
        self.times.append(time.perf_counter() - self._began)
        self.tokens.append(tokens)

    def figures(self) -> dict[str, Any]:
        from benchmarks.memory import peak_so_far

        pairs = list(zip(self.times, self.tokens, strict=True))[3:]
        return {
            "ms_per_step": 1e3 * statistics.median(t for t, _ in pairs),
            "tokens_per_step": statistics.mean(n for _, n in pairs),
            "us_per_token": 1e6 * statistics.median(t / n for t, n in pairs),
            "peak_mib": (peak_so_far() - self.before) / 2**20,
            "first_losses": self.losses[:2],
        }


def _train_trl(model_folder: Path, rows: Path, dtype: str, scratch: Path) -> _Clock:
    import datasets
    import torch
    import transformers
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=getattr(torch, dtype))
    data = datasets.load_dataset("json", data_files=str(rows), split="train", cache_dir=str(scratch / "datasets"))
    config = SFTConfig(
        output_dir=str(scratch / "trl"), max_steps=STEPS, per_device_train_batch_size=1, packing=True, max_length=LENGTH,
        gradient_checkpointing=False, learning_rate=2e-4, lr_scheduler_type="constant", report_to=[], logging_steps=1,
        save_strategy="no", use_cpu=True, bf16=False, completion_only_loss=True, disable_tqdm=True, seed=0,
    )  # fmt: skip
    clock = _Clock()

    class Timed(SFTTrainer):  # type: ignore[misc]
        """TRL's trainer with a clock around its training step; the optimizer's step is added by the callback."""

        def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
            clock.start()
            self.seen = int(inputs["input_ids"].numel())
            return super().training_step(model, inputs, *rest)

    class Stop(transformers.TrainerCallback):  # type: ignore[misc]
        """After the optimizer's step."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.stop(trainer.seen)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                clock.losses.append(float(logs["loss"]))

    adapter = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = Timed(
        model=model,
        args=config,
        train_dataset=data,
        processing_class=transformers.AutoTokenizer.from_pretrained(model_folder),
        peft_config=adapter,
        callbacks=[Stop()],
    )
    trainer.train()
    return clock


def _train_ours(model_folder: Path, rows: Path, dtype: str, scratch: Path) -> _Clock:
    import lightning.pytorch as pl

    from fulgurite.adapters import LoRA
    from fulgurite.datamodules import SFTDataModule
    from fulgurite.lightning_modules import SFTModule

    pl.seed_everything(0, verbose=False)
    module = SFTModule(
        str(model_folder),
        adapter=LoRA(rank=RANK, alpha=2 * RANK),
        learning_rate=2e-4,
        lr_schedule="constant",
        warmup_ratio=0.0,
        dtype=dtype,
    )
    module.configure_model()
    clock = _Clock()
    data = SFTDataModule(
        path=str(rows), schema="prompt_completion", val_fraction=0.0, batch_size=1, max_length=LENGTH, packing=True
    )

    class Timer(pl.Callback):
        """Before the batch moves through the module, and after the optimizer's step."""

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            clock.start()

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            clock.stop(batch["input_ids"].numel())
            clock.losses.append(float(outputs["loss"]))

    trainer = pl.Trainer(
        max_steps=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        callbacks=[Timer()], default_root_dir=str(scratch), enable_model_summary=False, log_every_n_steps=1, max_epochs=-1,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return clock


def report(figures: dict[str, Any], docs: Path) -> None:
    """docs/sft_trl.md, a table."""
    lines = [
        "# Supervised fine-tuning against TRL",
        "",
        *(line for line in (__doc__ or "").split("\n\n", 1)[1].strip().splitlines()),
        "",
        f"Machine: {figures['machine']['device']}; torch {figures['machine']['torch']}, "
        f"TRL {figures['machine'].get('trl', '1.16')}. "
        "Command: `python -m benchmarks.science sft_trl`.",
        "",
        "| base | contender | ms per step | tokens per step | µs per token | peak MiB over the model |",
        "|---|---|---|---|---|---|",
    ]
    for dtype in ("float32", "bfloat16"):
        for name in CONTENDERS:
            mine = [r for r in figures["runs"] if r["dtype"] == dtype and r["contender"] == name]
            middle = {k: statistics.median(r[k] for r in mine) for k in mine[0] if isinstance(mine[0][k], float)}
            lines.append(
                f"| {dtype} | {name} | {middle['ms_per_step']:.0f} | {middle['tokens_per_step']:.0f} | "
                f"{middle['us_per_token']:.0f} | {middle['peak_mib']:.0f} |"
            )
    (docs / "sft_trl.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("contender", "dtype", "folder", "out"):
        parser.add_argument(name)
    options = parser.parse_args()
    folder = Path(options.folder)
    train = {"TRL": _train_trl, "fulgurite": _train_ours}[options.contender]
    with tempfile.TemporaryDirectory() as scratch:
        clock = train(folder / "model", folder / "rows.jsonl", options.dtype, Path(scratch))
    Path(options.out).write_text(json.dumps(clock.figures()))


if __name__ == "__main__":
    _main()
