"""``grpo_step``: a whole step of GRPO, as `RLModule` takes it under Lightning's Trainer and as TRL's GRPOTrainer takes it.

Both load one folder (a Llama with random weights and a tokenizer of words), ask the same prompts of 256 words, draw eight answers
of at most 128 tokens to each at temperature 1, and are rewarded by one function: the share of words with an even number. The loss
(clip 0.2, mean of the answers' means, k3 against the base with weight 0.04), rank, learning rate and batch are the same; each has
its own LoRA, optimizer and loop. A step is one turn of the trainer's own loop, which waits in front of each
(:mod:`benchmarks.speed.rl.stepping`).

*Drawing* is writing the answers; *training* is all else: rewards, the reference, loss, backward, optimizer and the loop. Each has
random numbers of its own, so that the drawn tokens differ, and with them a little their number, which is told. Ours also computes
the log-probabilities of the policy before the step, and entropies, in a forward of their own; TRL leaves that forward out.

Before anything is timed, loss and gradients of each trainer on the same given answers are compared with a float64 computation.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.contenders.grpo import grpo_missing, make_grpo, trainer_placed
from benchmarks.contenders.low_rank import Factors, Placed
from benchmarks.contenders.models import ModelCase, make_base, on_random_factors
from benchmarks.contenders.trl import word_tokenizer
from benchmarks.harness.registry import OURS, Benchmark, Settings, Step, Workload, norm_error
from benchmarks.speed.preference import gradients
from benchmarks.speed.rl.policy import BETA, TRL, draw_up, our_loss, plain_loss_and_gradients, trl_batch
from benchmarks.speed.rl.stepping import Stepped

__all__ = ["BENCHMARK", "Folder", "even", "prepare"]

_ANSWERS, _PROMPTS = 8, 2
_RATE = 1e-5


class Folder:
    """A folder with the model, its tokenizer, and prompts; it goes when this object goes.

    Args:
        case: the model; its length is that of a prompt in words.
        longest: tokens of an answer.
    """

    def __init__(self, case: ModelCase, longest: int) -> None:
        self.longest = longest
        self._folder = tempfile.TemporaryDirectory()
        self.path = Path(self._folder.name)
        model: Any = make_base(case).model
        model.config.update({"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None, "use_cache": True})
        model.generation_config.update(eos_token_id=1, pad_token_id=0, bos_token_id=None)
        model.save_pretrained(self.path)
        word_tokenizer(case.vocabulary).save_pretrained(self.path)
        generator = torch.Generator().manual_seed(1)
        words = torch.randint(5, case.vocabulary, (32, case.length), generator=generator).tolist()
        self.prompts = [" ".join(f"w{word}" for word in row) for row in words]
        lines = [json.dumps({"prompt": prompt}) + "\n" for prompt in self.prompts]
        (self.path / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")


def even(groups: Sequence[Any]) -> list[list[float]]:
    """RLModule's kind of reward: the share of words with an even number."""
    return [[_even(answer.text) for answer in group.answers] for group in groups]


def _even(text: str) -> float:
    words = text.split()
    return sum(word[-1] in "02468" for word in words) / max(1, len(words))


def _all_imported() -> None:
    """What is imported here is no part of a contender's memory."""
    import fulgurite.datamodules
    import fulgurite.lightning_modules  # noqa: F401

    if grpo_missing() is None:
        import trl

        trl.GRPOTrainer  # noqa: B018 - its modules are loaded by the first look


def _base(case: ModelCase, longest: int) -> Folder:
    _all_imported()
    return Folder(case, longest)


def prepare(contender: str, case: ModelCase, base: Folder) -> Step:
    """One trainer, standing in front of its first step."""
    times: dict[str, list[float]] = {"drawing": [], "training": [], "tokens": []}
    begin = _begin_trl if contender == TRL else _begin_ours
    stepped, placed, loss_of = begin(case, base, times)
    short = draw_up(max(4, 512 // case.length), case.vocabulary)

    def facts() -> dict[str, Any]:
        kept = {name: values[-20:] for name, values in times.items()}
        parts = {name: round(1e3 * median(kept[name]), 1) for name in ("drawing", "training")}
        return {"parts_ms": parts, "drawn_tokens_per_step": round(sum(kept["tokens"]) / len(kept["tokens"]), 1)}

    def results() -> dict[str, torch.Tensor]:
        return gradients(placed, loss_of(short))

    return Step(
        stepped.step,
        partial(on_random_factors, placed, results),
        partial(on_random_factors, placed, partial(plain_loss_and_gradients, case, placed, short)),
        facts=facts,
    )


def _begin_ours(case: ModelCase, base: Folder, times: dict[str, list[float]]) -> Any:
    from lightning.pytorch import Callback, Trainer

    from fulgurite.adapters import LoRA
    from fulgurite.datamodules import PromptsDataModule
    from fulgurite.lightning_modules import RLModule

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            stepped.wait()
            self.begun = time.perf_counter()

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            found = trainer.callback_metrics
            drawing = float(found["train_draw_seconds"])
            times["drawing"].append(drawing)
            times["training"].append(time.perf_counter() - self.begun - drawing)
            times["tokens"].append(drawing * float(found["train_drawn_tokens_per_second"]))

    module = RLModule(
        str(base.path), f"{__name__}:even", advantage="group", adapter=LoRA(rank=case.rank, alpha=2 * case.rank), beta=BETA,
        answers=_ANSWERS, max_new_tokens=base.longest, loss_mean="answer", learning_rate=_RATE,
    )  # fmt: skip
    data = PromptsDataModule(
        str(base.path / "prompts.jsonl"), tokenizer=str(base.path), as_chat=False, val_fraction=0.0, batch_size=_PROMPTS
    )
    trainer = Trainer(
        accelerator="cpu" if case.device == "cpu" else "gpu", devices=1, max_epochs=-1, max_steps=10_000, limit_val_batches=0,
        num_sanity_val_steps=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Watch()], default_root_dir=base.path,
    )  # fmt: skip
    stepped = Stepped(lambda: trainer.fit(module, data))
    stepped.start()
    handle: Any = module.adapter
    factors = [Factors(b.lora_a, b.gate, b.lora_b, b.scaling) for b in handle.branches.values()]
    return (
        stepped,
        Placed(module.network, factors, handle),
        lambda short: our_loss(short, True, case.device)(module.network),
    )


def _begin_trl(case: ModelCase, base: Folder, times: dict[str, list[float]]) -> Any:
    from transformers import TrainerCallback

    def reward(completions: Sequence[str], **_: Any) -> list[float]:
        return [_even(text) for text in completions]

    trainer = make_grpo(
        str(base.path), case.targets, case.rank, base.prompts, reward, case.vocabulary, case.device == "cpu", beta=BETA,
        epsilon=0.2, loss_type="grpo", num_generations=_ANSWERS, per_device_train_batch_size=_PROMPTS * _ANSWERS,
        max_completion_length=base.longest, learning_rate=_RATE, max_steps=10_000,
    )  # fmt: skip
    original: Callable[..., Any] = trainer._generate_single_turn

    def generate(*arguments: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        found = original(*arguments, **options)
        times["drawing"].append(time.perf_counter() - begun)
        times["tokens"].append(float(sum(map(len, found[0]))))
        return found

    trainer._generate_single_turn = generate

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            stepped.wait()
            self.begun = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times["training"].append(time.perf_counter() - self.begun - times["drawing"][-1])

    trainer.add_callback(Watch())
    stepped = Stepped(trainer.train)
    stepped.start()

    def loss(short: Any) -> torch.Tensor:
        found: torch.Tensor = trainer.compute_loss(trainer.model, trl_batch(short, case.device))
        return found

    return stepped, trainer_placed(trainer), loss


def _workloads(settings: Settings) -> list[Workload]:
    case, longest = ModelCase("llama", 4, 1, 256, 16, torch.float32, settings.device, hidden=256), 128
    if settings.toy:
        case, longest = replace(case, layers=1, hidden=64, vocabulary=200, rank=4, length=16), 8
    elif settings.device.startswith("cuda"):
        case = replace(case, layers=16, hidden=2048, intermediate=8192, kv_heads=8, vocabulary=32000)
    contenders: dict[str, Any] = {
        TRL: grpo_missing() or partial(prepare, TRL, case),
        OURS: partial(prepare, OURS, case),
    }
    facts = {
        "layers": case.layers,
        "hidden": case.hidden,
        "vocabulary": case.vocabulary,
        "prompts": _PROMPTS,
        "answers": _ANSWERS,
    }
    name = f"{_PROMPTS} prompts of 256, {_ANSWERS} answers of 128"
    return [Workload(name, facts, partial(_base, case, longest), contenders, floor=TRL)]


BENCHMARK = Benchmark(
    "grpo_step",
    "A whole step of GRPO with LoRA, drawing and training: RLModule against TRL's GRPOTrainer.",
    _workloads,
    norm_error,
)
