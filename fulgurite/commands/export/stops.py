"""Where an exported model stops: the end tokens of its chat template, in `generation_config.json`, which stock transformers reads.

A model that was trained with a template learnt to end its turns with that template's mark. Its base's generation configuration
knows the base's end of text alone, so that stock transformers would write on behind the answer.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fulgurite.data.encoding.answer_spans import end_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["check_stops", "stopping_config"]


def stopping_config(network: Any, tokenizer: "PreTrainedTokenizerBase") -> Any:
    """The network's generation configuration with every end token of the template beside its own; None where it writes no text.

    Args:
        network: a transformers model.
        tokenizer: with the chat template that was trained with.
    """
    own = getattr(network, "generation_config", None)
    if own is None:
        return None
    known = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ends = list(dict.fromkeys(i for i in [*known, *end_tokens(tokenizer)] if i is not None))
    if len(ends) > 1:
        own.eos_token_id = ends
    elif ends:
        own.eos_token_id = ends[0]
    return own


def check_stops(model: Any, folder: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Has stock transformers write with the folder's configuration, once with each end token as the likeliest.

    Args:
        model: loaded from the folder by stock transformers or PEFT.
        folder: of the export.
        tokenizer: with the chat template that was trained with.

    Raises:
        ValueError: it writes on behind an end token.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    config = GenerationConfig.from_pretrained(folder)
    for end in end_tokens(tokenizer):
        prompt = torch.tensor([[end]])

        def only(_: torch.Tensor, scores: torch.Tensor, end: int = end) -> torch.Tensor:
            return torch.full_like(scores, -torch.inf).index_fill(-1, torch.tensor([end], device=scores.device), 0.0)

        written = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            generation_config=config,
            logits_processor=LogitsProcessorList([only]),
            max_new_tokens=3,
            do_sample=False,
        )
        if written.shape[1] != 2:
            raise ValueError(
                f"export: stock transformers does not stop at {tokenizer.convert_ids_to_tokens(end)!r}, which ends a turn of the "
                "chat template; nothing was written; give --format adapter, and generate with fulgurite"
            )
