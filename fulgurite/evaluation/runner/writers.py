"""What answers the tasks: a model in this process, which is loaded once for answers and choices, or a server's."""

from dataclasses import dataclass
from typing import Any

from fulgurite.data.encoding.templates import apply_template
from fulgurite.evaluation.likelihood import ChoiceScorer, ModelScorer
from fulgurite.evaluation.tasks import Task
from fulgurite.generation import FusedBackend, LoadedModel, ServerBackend, TransformersBackend
from fulgurite.generation.protocol import Backend
from fulgurite.models import FusedNetwork

__all__ = ["Writers", "in_process", "served"]


@dataclass(frozen=True)
class Writers:
    """The backend of each kind of task.

    Attributes:
        answers: writes answers.
        choices: computes log-likelihoods; None where that is not possible.
        why_not: why it isn't.
        tokenizer: of a model in this process.
    """

    answers: Backend
    choices: ChoiceScorer | None
    why_not: str = ""
    tokenizer: Any = None

    def of(self, task: Task) -> Backend | ChoiceScorer:
        """What answers a task.

        Args:
            task: the task.

        Raises:
            ValueError: it compares log-likelihoods, and there are none.
        """
        if task.kind == "answers":
            return self.answers
        if self.choices is None:
            raise ValueError(f"evaluate: {task.name} compares log-likelihoods of given texts; {self.why_not}")
        return self.choices


def in_process(loaded: LoadedModel, batch_size: int, chat: bool) -> Writers:
    """A model in this process.

    Args:
        loaded: with its tokenizer.
        batch_size: answers or choices that are computed at once.
        chat: whether a chat template is needed; the usual one is laid where there is none.
    """
    model: Any = loaded.model
    if chat and not loaded.tokenizer.chat_template:
        apply_template(loaded.tokenizer)
    if isinstance(model, FusedNetwork):
        why = "a fused network does not tell them; take a task of answers"
        return Writers(FusedBackend(model, loaded.tokenizer, batch_size), None, why, loaded.tokenizer)
    answers = TransformersBackend(model, loaded.tokenizer, batch_size)
    if model.config.is_encoder_decoder:
        return Writers(answers, None, "that takes a causal language model; take a task of answers", loaded.tokenizer)
    return Writers(answers, ModelScorer(model, loaded.tokenizer, batch_size), "", loaded.tokenizer)


def served(
    address: str,
    model: str | None,
    concurrency: int,
    max_requests: int | None,
    max_tokens: int | None,
    log_probs: bool = False,
    verb: str = "evaluate",
) -> Writers:
    """A server's model.

    Args:
        address: up to /v1.
        model: the name by which the server knows it.
        concurrency: requests at a time.
        max_requests: of one task at most; None: any number.
        max_tokens: of one task at most; None: any number.
        log_probs: ask for log-probabilities, which also tell how many tokens an answer has.
        verb: who asks, for the message.

    Raises:
        ValueError: no name.
    """
    if model is None:
        raise ValueError(f"{verb}: --server {address} without --served_model; give the name of the model there")
    backend = ServerBackend(
        model, address, concurrency=concurrency, max_requests=max_requests, max_tokens=max_tokens, log_probs=log_probs
    )
    return Writers(backend, None, "servers do not tell them; give --model, or take a task of answers")
