"""A model of ours as a model of lm-evaluation-harness (extra `lm-eval`), for the tasks that we don't have.

    import lm_eval
    from fulgurite.evaluation.plugins.lm_harness import as_lm
    from fulgurite.generation import load_for_generation

    lm_eval.simple_evaluate(model=as_lm(*load_for_generation("MODEL", "ADAPTER")), tasks=["mmlu"])

Log-likelihoods come from `linear_log_probs`, answers from the refilled batch. Its tasks that run generated programs are better
run by `fulgurite evaluate`, which has a sandbox.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from fulgurite.evaluation.likelihood import ModelScorer, encode_pair
from fulgurite.generation.in_process.backend import TransformersBackend
from fulgurite.generation.protocol import SamplingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["as_lm", "sampling_of"]

_KNOWN = ("until", "max_gen_toks", "max_tokens", "max_new_tokens", "temperature", "do_sample", "top_p", "top_k")


def as_lm(model: nn.Module, tokenizer: PreTrainedTokenizerBase, batch_size: int = 8) -> Any:
    """An `lm_eval.api.model.LM`.

    Args:
        model: a causal language model of transformers, with its adapters.
        tokenizer: its tokenizer.
        batch_size: rows that are computed at once.

    Raises:
        ImportError: lm-eval is not installed.
        ValueError: a model that is no causal language model.
    """
    try:
        from lm_eval import utils
        from lm_eval.api.model import LM
    except ImportError as error:
        raise ImportError("as_lm: lm-evaluation-harness is not installed; pip install 'fulgurite[lm-eval]'") from error

    scorer, backend = ModelScorer(model, tokenizer, batch_size), TransformersBackend(model, tokenizer, batch_size)
    given: Any = tokenizer
    first = given.bos_token_id if given.bos_token_id is not None else given.eos_token_id

    class Fulgurite(LM):
        """The model."""

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            pairs = []
            for context, continuation in (request.args for request in requests):
                if context:
                    pairs.append(encode_pair(tokenizer, context, continuation))
                else:
                    after: list[int] = given.encode(continuation, add_special_tokens=False)
                    pairs.append(([first], after[1:] if after[:1] == [first] else after))
            return scorer.score_tokens(pairs)

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            pairs, owners = [], []
            for number, (text,) in enumerate(request.args for request in requests):
                windows = utils.get_rolling_token_windows(
                    token_list=given.encode(
                        text
                    ),  # a first token that the tokenizer adds counts, as in the harness's own
                    prefix_token=first,
                    max_seq_len=scorer.window,
                    context_len=1,
                )
                for window in map(utils.make_disjoint_window, windows):
                    pairs.append((list(window[0]), list(window[1])))
                    owners.append(number)
            totals = [0.0] * len(requests)
            for number, (value, _) in zip(owners, scorer.score_tokens(pairs), strict=True):
                totals[number] += value
            return totals

        def generate_until(self, requests: list[Any]) -> list[str]:
            texts = [""] * len(requests)
            groups: dict[SamplingSettings, list[int]] = defaultdict(list)
            for number, request in enumerate(requests):
                groups[sampling_of(request.args[1])].append(number)
            for settings, numbers in groups.items():
                prompts = [requests[number].args[0] for number in numbers]
                for sample in backend.sample(prompts, 1, settings):
                    texts[numbers[sample.prompt]] = sample.text
            return texts

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return str(
                given.apply_chat_template(
                    chat_history,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )

        @property
        def tokenizer_name(self) -> str:
            return str(given.name_or_path).replace("/", "__")

        def chat_template(self, chat_template: bool | str = False) -> str | None:
            return given.chat_template if chat_template else None

    return Fulgurite()


def sampling_of(given: dict[str, Any]) -> SamplingSettings:
    """lm-evaluation-harness's generation_kwargs as our settings.

    Args:
        given: `until`, `max_gen_toks` (256), `do_sample`, `temperature`, `top_p`, `top_k`.

    Raises:
        ValueError: an option that we don't have.
    """
    unknown = [name for name in given if name not in _KNOWN]
    if unknown:
        raise ValueError(
            f"as_lm: generation_kwargs {', '.join(unknown)}; known are {', '.join(_KNOWN)}; leave them out"
        )
    until: Any = given.get("until") or ()
    stop: Sequence[str] = (until,) if isinstance(until, str) else tuple(until)
    length = next((given[name] for name in ("max_gen_toks", "max_new_tokens", "max_tokens") if name in given), 256)
    settings = SamplingSettings(int(length), stop=tuple(text for text in stop if text))
    if not given.get("do_sample", False):
        return settings
    return replace(
        settings,
        temperature=float(given.get("temperature", 1.0)),
        top_p=float(given.get("top_p", 1.0)),
        top_k=int(given.get("top_k", 0)),
    )
