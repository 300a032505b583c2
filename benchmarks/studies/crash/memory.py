"""Study: what training on a shared emulator holds, against training the same layers of the full model.

    python -m benchmarks.studies.crash.memory [--layers 16] [--keep 4] [--train 2] [--width 512] [--rows 2] [--tokens 32]

A Llama with random weights is written with its emulators. Each is then loaded in a process of its own, which takes two steps of
AdamW on the trained layers and says:

    weights      bytes of Parameters, each counted once
    training     bytes of the trained layers' gradients and of AdamW's two moments
    activations  bytes that autograd keeps for the backward at most, Parameters left out
    peak         largest resident size during loading and steps, less the resident size before

A shared emulator computes as many layers as the full model and keeps as many activations; of the weights it holds the kept layers
alone (and with repeat-all a frozen copy of each trained layer that stands in for another).
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import peak_so_far, reset_peak, return_freed_blocks

__all__ = ["main", "measure", "write"]

FULL = "full"
_VOCABULARY = 512


def write(folder: Path, layers: int, keep: int, train: int, width: int) -> None:
    """Writes the full model and its emulators, each as a folder.

    Args:
        folder: where to.
        layers: of the full model.
        keep: of these, that stay.
        train: of these, that are trained.
        width: of the hidden states.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from fulgurite.models.emulator.folder import emulator_of, write_emulator
    from fulgurite.models.emulator.sharing import SHARING, even_positions

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": width, "intermediate_size": 8 * width // 3, "num_hidden_layers": layers}
    heads: dict[str, Any] = {"num_attention_heads": width // 32, "num_key_value_heads": width // 32}
    full = LlamaForCausalLM(LlamaConfig(vocab_size=_VOCABULARY, **sizes, **heads)).eval().requires_grad_(False)
    full.save_pretrained(folder / FULL)
    kept = even_positions(layers, keep)
    trained = [kept[i] for i in even_positions(keep, train)]
    for sharing in SHARING:
        made = emulator_of(full, FULL, kept, trained, sharing, "uniform")
        (folder / sharing).mkdir()
        write_emulator(full, made.manifest, folder / sharing)


def measure(folder: Path, what: str, rows: int, tokens: int) -> dict[str, int]:
    """Loads a model and trains it, in this process.

    Args:
        folder: of :func:`write`.
        what: "full", or the emulator's kind of sharing.
        rows: of a batch.
        tokens: of a row.
    """
    from fulgurite.lightning_modules import OffsiteTuningModule
    from fulgurite.lightning_modules.objectives.language import LanguageModelling
    from fulgurite.models import load_backbone
    from fulgurite.models.emulator.manifest import read_manifest
    from fulgurite.optim import ProximalAdamW

    return_freed_blocks()
    warm = torch.randn(256, 256, requires_grad=True)
    (warm @ warm).relu().sum().backward()
    gc.collect()
    before = reset_peak()
    network: Any
    if what == FULL:
        manifest = read_manifest(folder / "choose")
        network = load_backbone(str(folder / FULL), "causal_lm").model.requires_grad_(False)
        for number in manifest.trained:
            network.get_submodule(manifest.layers_name)[number].requires_grad_(True)
    else:
        module = OffsiteTuningModule(str(folder / what))
        module.configure_model()
        network = module.network
    network.train()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = ProximalAdamW([{"params": trained, "weight_decay": 0.0}], lr=1e-4)
    ids = torch.arange(rows * tokens).reshape(rows, tokens) % _VOCABULARY
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    objective, own = LanguageModelling(), {p.untyped_storage().data_ptr() for p in network.parameters()}
    most = 0
    for _ in range(2):
        kept: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(_note(kept, own), lambda tensor: tensor):
            loss = objective(network, batch).loss_sum
        loss.backward()
        most = max(most, sum(kept.values()))
        optimizer.step()
        optimizer.zero_grad()
    return {
        "weights": _bytes(list(network.parameters())),
        "training": 3 * _bytes(trained),
        "activations": most,
        "peak": peak_so_far() - before,
    }


def _note(kept: dict[int, int], own: set[int]) -> Any:
    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    return note


def _bytes(parameters: list[Any]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def main(arguments: list[str] | None = None) -> None:
    """Measures each in a process of its own and prints a table; with --what one of them, as JSON.

    Args:
        arguments: words of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.crash.memory")
    defaults = {"layers": 16, "keep": 4, "train": 2, "width": 512, "rows": 2, "tokens": 32}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", type=Path, help="of a model that was written before, with --what")
    parser.add_argument("--what", help="measure this one here")
    options = parser.parse_args(arguments)
    if options.what:
        print(json.dumps(measure(options.folder, options.what, options.rows, options.tokens)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch), options.layers, options.keep, options.train, options.width)
        print("| | weights | training | activations | peak, MiB |\n|---|--:|--:|--:|--:|")
        for what in (FULL, "choose", "repeat-non-trainable", "repeat-all"):
            words = ["--folder", scratch, "--what", what, "--rows", str(options.rows), "--tokens", str(options.tokens)]
            command = [sys.executable, "-m", "benchmarks.studies.crash.memory", *words]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(f"| {what} | " + " | ".join(f"{value / 2**20:.1f}" for value in found.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
