"""TRL's trainers as contenders: built around a model with PEFT's adapter, and asked for their loss on their own batch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["make_trainer", "trl_missing", "word_tokenizer"]


def trl_missing(function: str | None = None) -> str | None:
    """Why TRL cannot take part; None if it can.

    Args:
        function: a name out of ``trl.kernels`` that the contender needs.
    """
    try:
        import trl
    except ImportError:
        return "trl is not installed (extra peers)"
    if function is None:
        return None
    try:
        import trl.kernels as kernels
    except ImportError:
        return f"trl {trl.__version__} has no {function} (it came with 1.14)"
    return None if hasattr(kernels, function) else f"trl {trl.__version__} has no {function} (it came with 1.14)"


def word_tokenizer(words: int = 5) -> Any:
    """A tokenizer of words behind <pad> and <eos>: "a", "b" and "c", which trainers of TRL need before they look at any batch.

    Args:
        words: tokens in all; those behind the first five are called by their number, "w5" and so on.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = {"<pad>": 0, "<eos>": 1, "a": 2, "b": 3, "c": 4, **{f"w{i}": i for i in range(5, words)}}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def make_trainer(
    kind: str,
    model: Any,
    row: Mapping[str, str],
    configure: Callable[[Any], None] = lambda config: None,
    **options: Any,
) -> Any:
    """A trainer of TRL; it never trains on ``row``, which it only has to accept.

    Args:
        kind: "DPO", "Reward" or "SFT".
        model: with PEFT's adapter.
        row: of the data set that the trainer is given.
        configure: called with the configuration before the trainer is made.
        options: of the configuration, over what all contenders have.
    """
    import datasets
    import trl

    common: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(), "max_length": None, "gradient_checkpointing": False, "bf16": False,
        "report_to": [], "use_cpu": next(model.parameters()).device.type == "cpu", "disable_tqdm": True,
    }  # fmt: skip
    config = getattr(trl, f"{kind}Config")(**common | options)
    configure(config)
    rows = datasets.Dataset.from_list([dict(row)])
    return getattr(trl, f"{kind}Trainer")(
        model=model, args=config, train_dataset=rows, processing_class=word_tokenizer()
    )
