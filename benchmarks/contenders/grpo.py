"""TRL's GRPOTrainer as a contender: with PEFT's LoRA and those settings that ours has too, for which alone both can be compared."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.contenders.low_rank import Placed, peft_placed
from benchmarks.contenders.trl import trl_missing, word_tokenizer

__all__ = ["grpo_missing", "make_grpo", "trainer_placed"]


def grpo_missing() -> str | None:
    """Why GRPOTrainer cannot take part; None if it can."""
    if found := trl_missing():
        return found
    try:
        import peft  # noqa: F401
    except ImportError:
        return "the package peft is not installed"
    return None


def make_grpo(
    model: Any,
    targets: str,
    rank: int,
    prompts: Sequence[str],
    reward: Callable[..., list[float]],
    words: int,
    on_cpu: bool,
    **options: Any,
) -> Any:
    """The trainer, which has not trained yet.

    Args:
        model: a model of transformers, or the folder of one.
        targets: regex of the adapted layers' names.
        rank: of LoRA; alpha is twice it.
        prompts: texts of the words of :func:`benchmarks.contenders.trl.word_tokenizer`.
        reward: TRL's kind of reward function.
        words: of the tokenizer.
        on_cpu: whether it trains on the CPU.
        options: of GRPOConfig.
    """
    import datasets
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(), gradient_checkpointing=False, bf16=False, report_to=[], use_cpu=on_cpu,
        disable_tqdm=True, save_strategy="no", logging_strategy="no", lr_scheduler_type="constant", warmup_steps=0,
        weight_decay=0.0, shuffle_dataset=False, temperature=1.0, top_p=1.0, top_k=0, max_grad_norm=1.0,
        use_bias_correction_kl=False,  # TRL's default multiplies k3 by the ratio; GRPO's paper and ours do not
        **options,
    )  # fmt: skip
    lora = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=f"({targets})", task_type="CAUSAL_LM"
    )
    rows = datasets.Dataset.from_list([{"prompt": prompt} for prompt in prompts])
    return GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=rows,
        processing_class=word_tokenizer(words),
        peft_config=lora,
    )


def trainer_placed(trainer: Any) -> Placed:
    """The factors of the trainer's adapter."""
    return peft_placed(trainer.model)
