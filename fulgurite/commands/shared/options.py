"""Options that several verbs have, each written down once: a verb's function takes groups of them as dataclasses.

    @with_options
    def generate(prompt: str | None = None, *, source: SourceOptions, chat: bool = False, compute: ComputeOptions) -> None:

is `generate(prompt=…, model=…, adapter=…, template=…, chat=…, dtype=…, …)` to who calls it, to the command line and in `--help`:
the fields of each group stand where the group stands.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import textwrap
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "AskingOptions",
    "ComputeOptions",
    "DrawingOptions",
    "JudgingOptions",
    "RewardOptions",
    "RowsOptions",
    "ServerOptions",
    "SourceOptions",
    "WeightsOptions",
    "with_options",
]


@dataclass(frozen=True)
class SourceOptions:
    """Which model writes.

    Args:
        model: hub id, folder, playground, or a .ckpt file of `fulgurite fit`.
        adapter: folder of adapter.save() or of PEFT, or a .ckpt file, which knows its model.
        template: auto, a template's name or a Jinja file; none takes the stored one, and lays none where there is none.
    """

    model: str | None = None
    adapter: str | None = None
    template: str | None = None


@dataclass(frozen=True)
class ServerOptions:
    """Which server writes, in place of a model in this process.

    Args:
        server: address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1, in place of --model.
        served_model: the name by which the server knows the model.
        concurrency: requests at a time to the server.
    """

    server: str | None = None
    served_model: str | None = None
    concurrency: int = 8


@dataclass(frozen=True)
class DrawingOptions:
    """How tokens are drawn, beside temperature and length, whose defaults differ from verb to verb.

    Args:
        top_p: draw from the likeliest tokens that together have this probability.
        top_k: draw from that many tokens; 0 for all.
        repetition_penalty: above 1, tokens that stand there already become less likely.
        seed: of the draws.
        batch_size: answers (or choices of a question) that are computed at once.
    """

    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    batch_size: int = 8


@dataclass(frozen=True)
class RewardOptions:
    """What scores answers.

    Args:
        reward: a .ckpt file of RewardModule, or a reward model's folder or hub id; a .ckpt file of PreferenceModule, or with
            --reward_reference a language model, for the reward that its training implies; task:NAME for a task's checker; the
            address of a server that has /classify, such as http://127.0.0.1:8000.
        reward_served_model: the name by which that server knows its reward model.
        reward_reference: the model that --reward was trained from by DPO: hub id, folder or playground.
        reward_mean: take the implicit reward per token of the answer, in place of the sum that DPO defines.
        reward_template: as --template, for the reward model; none takes the stored one, and plain text where there is none.
        reward_whole_chat: as --whole_chat of `fulgurite score`; models trained with TRL need true.
        reward_max_length: tokens of prompt and answer at most; a longer answer gets no reward and is counted.
    """

    reward: str | None = None
    reward_served_model: str | None = None
    reward_reference: str | None = None
    reward_mean: bool = False
    reward_template: str | None = None
    reward_whole_chat: bool | None = None
    reward_max_length: int = 2048


@dataclass(frozen=True)
class ComputeOptions:
    """How and where a model computes.

    Args:
        dtype: dtype of the weights; none takes float32 on a CPU, bfloat16 elsewhere, and the checkpoint's own.
        device: cpu, cuda, cuda:1, mps; none takes a GPU if there is one.
        trust_remote_code: run code that came with a checkpoint's backbone; only as it is typed here, whatever a checkpoint says.
    """

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    device: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class RowsOptions:
    """How the rows are read that a model is run over, beside their number, whose default differs from verb to verb.

    Args:
        task: take the questions of this task of choices, such as arc_easy, with their right answers, in place of texts.
        column: of the texts in the file.
        max_length: tokens of a row at most.
        batch_size: rows at a time.
    """

    task: str | None = None
    column: str = "text"
    max_length: int = 512
    batch_size: int = 8


@dataclass(frozen=True)
class WeightsOptions:
    """How and where a verb computes that compares, mixes or writes weights, so that nothing is rounded unless it is said.

    Args:
        dtype: in which weights are read and computed with.
        device: cpu, cuda, cuda:1, mps; none takes a GPU if there is one.
        overwrite: replace what an earlier run of this verb wrote.
        trust_remote_code: run code that came with a model.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str | None = None
    overwrite: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class JudgingOptions:
    """How rows are read and generated programs are run.

    Args:
        sandbox: how generated programs are held: auto (the strongest layer that works), strict (never plain limits), limits.
        time_limit: seconds of a generated program's test.
        workers: programs that run at a time; none takes as many as there are processors.
        on_bad_row: rows that are no item are left out and counted up to a tenth of all (few), always (skip), or are an error.
    """

    sandbox: Literal["auto", "strict", "limits"] = "auto"
    time_limit: float = 10.0
    workers: int | None = None
    on_bad_row: Literal["few", "skip", "error"] = "few"


@dataclass(frozen=True)
class AskingOptions(JudgingOptions, ComputeOptions, DrawingOptions, ServerOptions, SourceOptions):
    """All of them: a model or a server is asked, and its answers are judged."""


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """A verb's function with the fields of its groups as keywords of their own, in signature, annotations and docstring.

    Args:
        function: parameters whose annotation is a dataclass are groups. In its docstring a group's line under `Args:` makes room
            for those of the fields.

    Raises:
        TypeError: two options of one name.
    """
    hints = typing.get_type_hints(function)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    described = inspect.getdoc(function) or ""
    for parameter in inspect.signature(function).parameters.values():
        group = hints[parameter.name]
        if dataclasses.is_dataclass(group):
            groups[parameter.name] = group
            kinds = typing.get_type_hints(group)
            parameters += [
                _keyword(field.name, field.default, kinds[field.name]) for field in dataclasses.fields(group)
            ]
            room = re.compile(rf"^    {parameter.name}: .*$", re.MULTILINE)
            described = _described(group).join(room.split(described, 1))
        else:
            parameters.append(_keyword(parameter.name, parameter.default, group))
    names = [parameter.name for parameter in parameters]
    if len(set(names)) < len(names):
        twice = sorted(name for name in set(names) if names.count(name) > 1)
        raise TypeError(
            f"with_options: {function.__name__} has two options of one name: {', '.join(twice)}; rename one"
        )

    @functools.wraps(function)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{f.name: given.pop(f.name) for f in dataclasses.fields(group) if f.name in given})
        function(**given)

    del run.__wrapped__  # type: ignore[attr-defined]  # else jsonargparse reads the groups, not their fields
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = described
    return run


def _keyword(name: str, default: Any, kind: Any) -> inspect.Parameter:
    # A dataclass says MISSING where a signature says empty.
    default = inspect.Parameter.empty if default is dataclasses.MISSING else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _described(group: Any) -> str:
    """The lines under `Args:` of a group's docstring, those of its bases first."""
    parts = ((kind.__doc__ or "").partition("Args:\n")[2] for kind in reversed(group.__mro__))
    return "\n".join(textwrap.indent(textwrap.dedent(part), "    ").rstrip() for part in parts if part)
