"""Steps of LoRA on the experts of a small random Mixtral: ours and PEFT's, from equal first weights on equal tokens.

    python -m benchmarks.studies.experts --json FILE

Each measurement is a process of its own, contenders in turn. Memory is the highest resident size during the steps over that before
them; time is the processor's, because other work may run beside it: the median over the steps but the first. Where the losses
differ, nothing is reported.
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
RANK = 8
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_local_experts": 8,
    "num_hidden_layers": 4,
    "vocab_size": 512,
}


def measure(contender: str, tokens: int, steps: int, sizes: dict[str, int] | None = None) -> dict[str, Any]:
    """Losses, memory in MiB and seconds of a few steps on random tokens.

    Args:
        contender: one of CONTENDERS.
        tokens: of a step.
        steps: of AdamW at 1e-3; the first is not timed.
        sizes: of the Mixtral; default: SIZES.
    """
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config: Any = MixtralConfig(**(sizes or SIZES), num_attention_heads=4, num_key_value_heads=4)
    run: Any = (_ours if contender == "fulgurite" else _peft)(MixtralForCausalLM(config)).train()
    trained = [p for p in run.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest size counts from here
    losses, seconds = [], []
    for _ in range(steps):
        batch = torch.randint(config.vocab_size, (1, tokens), generator=generator)
        started = time.process_time()
        loss = run(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - started)
        losses.append(loss.item())
    peak = _memory("VmHWM") - before
    trains = sum(p.numel() for p in trained)
    return {"peak": peak, "seconds": statistics.median(seconds[1:] or seconds), "losses": losses, "trained": trains}


def _ours(model: Any) -> Any:
    from fulgurite.adapters import LoRA, attach

    adapter = attach(model, LoRA(rank=RANK, alpha=float(RANK), targets=r".*(gate_up_proj|down_proj)"))
    for name, branch in adapter.branches.items():
        branch.lora_a.data.copy_(_first(name, branch.lora_a.flatten(0, 1).shape).view(branch.lora_a.shape))
    return model


def _peft(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    names = ["experts.gate_up_proj", "experts.down_proj"]
    options: Any = {"r": RANK, "lora_alpha": RANK, "target_modules": [], "target_parameters": names}
    run: Any = get_peft_model(model, LoraConfig(**options))
    for name, module in run.named_modules():
        if hasattr(module, "parameter_name"):
            weight = module.lora_A["default"].weight
            layer = name.removeprefix("base_model.model.").replace(".base_layer", "")
            weight.data.copy_(_first(f"{layer}.{module.parameter_name}", weight.shape))
    return run


def _first(name: str, shape: torch.Size) -> torch.Tensor:
    """A's first values at a stack of experts, the same for every contender."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))) * 0.02


def _memory(key: str) -> float:
    """A size of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def main(arguments: list[str] | None = None) -> None:
    """Measure both contenders in turn, print a line each, and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.experts", description=__doc__)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a contender, in a process of its own
    options = parser.parse_args(arguments)
    if options.one:
        torch.set_num_threads(1)
        print(json.dumps(measure(options.one, options.tokens, options.steps)))
        return
    runs = []
    for round_ in range(options.rounds):
        for contender in CONTENDERS:
            words = ["--tokens", str(options.tokens), "--steps", str(options.steps), "--one", contender]
            command = [sys.executable, "-m", "benchmarks.studies.experts", *words]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append({"contender": contender, "round": round_, **json.loads(done.stdout.splitlines()[-1])})
    for run in runs[1:]:
        if max(abs(a - b) / abs(b) for a, b in zip(run["losses"], runs[0]["losses"], strict=True)) > 1e-4:
            raise SystemExit(f"the losses differ: {run['losses']} of {run['contender']}, {runs[0]['losses']}")
    for run in runs:
        print(json.dumps(run), flush=True)
    if options.json:
        settings = {"sizes": SIZES, "tokens": options.tokens, "rank": RANK}
        write_text(Path(options.json), json.dumps({"machine": machine(), **settings, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
