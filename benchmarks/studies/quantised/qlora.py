"""Steps of LoRA beside a base in nf4: ours and PEFT's (prepare_model_for_kbit_training), from equal first weights on equal tokens.

    python -m benchmarks.studies.quantised.qlora --model FOLDER --json FILE

Each measurement is a process of its own, contenders in turn. Memory is the highest resident size during the steps over that before
them; time is the processor's, because other work may run beside it: the median over the steps but the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import torch

from benchmarks.science import machine
from fulgurite.whole_files import write_text

__all__ = ["main", "measure"]

CONTENDERS = ("fulgurite", "peft")
RANK = 16


def measure(contender: str, folder: str, dtype: str, tokens: int, steps: int, recompute: bool) -> dict[str, Any]:
    """Losses, memory in MiB and seconds of a few steps on consecutive tokens of the README.

    Args:
        contender: one of CONTENDERS.
        folder: of a Llama with its tokenizer.
        dtype: of what is not packed, and in which layers compute.
        tokens: of a step.
        steps: of AdamW at 1e-3; the first is not timed.
        recompute: whether activations are recomputed in the backward.
    """
    from fulgurite.data.encoding.tokenizers import load_tokenizer
    from fulgurite.models import load_backbone

    model = load_backbone(folder, "causal_lm", dtype=dtype, quantize="nf4").model
    run: Any = (_ours if contender == "fulgurite" else _peft)(model, recompute).train()
    trained = [p for p in run.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    text = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")
    ids = torch.tensor(load_tokenizer(folder)(text).input_ids)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest size counts from here
    losses, seconds = [], []
    for step in range(steps):
        batch = ids[step * tokens : (step + 1) * tokens][None]
        started = time.process_time()
        loss = run(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - started)
        losses.append(loss.item())
    peak = _memory("VmHWM") - before
    return {"loaded": before, "peak": peak, "seconds": statistics.median(seconds[1:] or seconds), "losses": losses}


def _ours(model: Any, recompute: bool) -> Any:
    from fulgurite.adapters import LoRA, attach
    from fulgurite.models import enable_activation_checkpointing

    adapter = attach(model, LoRA(rank=RANK, alpha=float(RANK)))
    for name, branch in adapter.branches.items():
        branch.lora_a.data.copy_(_first(name, branch.lora_a.shape))
    if recompute:
        enable_activation_checkpointing(model, adapter)
    return model


def _peft(model: Any, recompute: bool) -> Any:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    prepared = prepare_model_for_kbit_training(
        model, use_gradient_checkpointing=recompute, gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    run: Any = get_peft_model(prepared, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=r"model\.layers\..*_proj"))
    for name, module in run.named_modules():
        if hasattr(module, "lora_A"):
            weight = module.lora_A["default"].weight
            weight.data.copy_(_first(name.removeprefix("base_model.model."), weight.shape))
    return run


def _first(name: str, shape: torch.Size) -> torch.Tensor:
    """A's first values at a layer, the same for every contender."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))) * 0.02


def _memory(key: str) -> float:
    """A size of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def main(arguments: list[str] | None = None) -> None:
    """Measure both contenders in turn, print a line each, and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.quantised.qlora", description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a Llama with its tokenizer")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--one", nargs=3, help=argparse.SUPPRESS
    )  # contender, dtype, recompute: in a process of its own
    options = parser.parse_args(arguments)
    if options.one:
        contender, dtype, recompute = options.one
        torch.set_num_threads(1)
        found = measure(contender, options.model, dtype, options.tokens, options.steps, recompute == "True")
        print(json.dumps(found))
        return
    runs = []
    for dtype, recompute in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
        for round_ in range(options.rounds):
            for contender in CONTENDERS:
                words = ["--model", options.model, "--tokens", str(options.tokens), "--steps", str(options.steps)]
                command = [sys.executable, "-m", "benchmarks.studies.quantised.qlora", *words]
                command += ["--one", contender, dtype, str(recompute)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found = {"contender": contender, "dtype": dtype, "recompute": recompute, "round": round_}
                runs.append({**found, **json.loads(done.stdout.splitlines()[-1])})
                print(json.dumps(runs[-1]), flush=True)
    if options.json:
        settings = {"model": Path(options.model).name, "tokens": options.tokens, "rank": RANK}
        write_text(Path(options.json), json.dumps({"machine": machine(), **settings, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
