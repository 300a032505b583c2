r"""Rows of the published schemas of preferences to records.

| schema | columns (optional ones in brackets) | becomes |
|---|---|---|
| ultrainteract_pair | trajectory, chosen, rejected [task, parent_id] | pair; group: parent_id; tag: the task |
| ultrafeedback | instruction, completions [source] | ranked by `score`; tag: the source |
| ultrasafety | the same, with a rating of harmlessness | ranked by that rating (0 or 1) |
| chendrag | prompt, A0, A1, score_A0, score_A1 [A2, A3, score_A2, score_A3] | ranked |
| argilla | instruction, chosen_response, rejected_response [chosen_avg_rating, rejected_avg_rating] | pair |
| llamafactory_dpo | conversations, chosen, rejected [system], the answers one object each | pair |
| hh_rlhf | chosen, rejected: transcripts "\n\nHuman: …\n\nAssistant: …" | pair; prompt: what both begin with |
| preference | chosen, rejected [prompt, margin, weight, direct, score_chosen, score_rejected, …] | pair |
| unpaired | prompt, completion, label [weight] | labelled |
| llamafactory_kto | messages, label [system, weight] | labelled; the last message is the answer |

`preference` is the schema of TRL and of ultrafeedback_binarized. Its answers are texts, or lists of messages, which may hold
the prompt again; without a column `prompt` the prompt is what both lists begin with. A margin is given, or it is the
difference of two scores, which may stand in a column `metadata`. `direct` (true or false) says that the pair is right
against wrong, as UltraInteract's pairs are. How UltraFeedback's ratings are read: fulgurite.data.readers.ultrafeedback.

`auto` takes the first schema whose columns are all there and that fits the first row with something in each of these
columns. An empty field of a csv file is no value.

UltraSafety's columns are known from a derived copy only: the question is taken from `instruction`, and of an answer's
judgements of harmlessness the first one counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from fulgurite.data.readers.base import BadRow, RowReader, Schema
from fulgurite.data.readers.messages import messages, two_systems
from fulgurite.data.readers.ultrafeedback import SCORES, completion_score, score_scale
from fulgurite.data.records.conversation import CONTENT_KEYS, Turn
from fulgurite.data.records.findings import Finding, place
from fulgurite.data.records.preference import EQUAL, Labelled, Preference, PreferenceRecord, Ranked, checked_preference
from fulgurite.data.records.sequences import common_length
from fulgurite.data.sources.formats import Row
from fulgurite.data.sources.locate import RowSource

__all__ = ["PREFERENCE_SCHEMAS", "PreferenceReader"]

Read = Iterator[PreferenceRecord | Finding]

_SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")
_SCORE_COLUMNS = (
    ("score_chosen", "score_rejected"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
)
_SCALES = dict(zip(_SCORE_COLUMNS, (score_scale("overall"), score_scale("mean"), score_scale("mean")), strict=True))
_YES, _NO = ("true", "1", "1.0"), ("false", "0", "0.0")
_SCORE_NAMES = tuple(name for pair in _SCORE_COLUMNS for name in pair)


def _ultrainteract(row: Row, source: str, number: int) -> Read:
    prompt = messages(row["trajectory"], "trajectory")
    group, tag = _text_or_none(row.get("parent_id")), _text_or_none(row.get("task"))
    yield Preference(prompt, row["chosen"], row["rejected"], source, number, group=group, tag=tag, direct=True)


def _scored(row: Row, source: str, number: int, score: str) -> Read:
    """The answers of UltraFeedback or UltraSafety with their scores."""
    completions = row["completions"]
    if not isinstance(completions, Sequence) or isinstance(completions, str):
        raise BadRow("not a list", f"'completions' holds {type(completions).__name__}; a list of answers is needed")
    answers, scores = [], []
    for index, completion in enumerate(completions, 1):
        if not isinstance(completion, Mapping) or "response" not in completion:
            raise BadRow("not an answer", f"completion {index} has no 'response'")
        value, note = completion_score(completion, score)
        if note is not None and math.isnan(value):
            reason, _, detail = note.partition(": ")
            found = f"answer {index}: {detail}"
            yield Finding(place(source, number), f"an answer left out: {reason}", found, lost=False)
            continue
        if note is not None:
            yield Finding(place(source, number), note.split(":")[0], f"completion {index}", lost=False)
        answers.append(completion["response"])
        scores.append(value)
    prompt, tag = (Turn("user", row["instruction"]),), _text_or_none(row.get("source"))
    yield Ranked(prompt, tuple(answers), tuple(scores), source, number, tag=tag, scale=score_scale(score))


def _chendrag(row: Row, source: str, number: int) -> Read:
    answers, scores, prompt = [], [], _prompt(row["prompt"])
    for index in range(4):
        if row.get(f"A{index}") is None or (
            _given(row, f"A{index}") is None and _given(row, f"score_A{index}") is None
        ):
            continue
        before, answer = _answer(row[f"A{index}"], f"A{index}")
        prompt = before or prompt
        answers.append(answer)
        scores.append(_float(row.get(f"score_A{index}"), f"score_A{index}"))
    yield Ranked(prompt, tuple(answers), tuple(scores), source, number, scale=score_scale("overall"))


def _argilla(row: Row, source: str, number: int) -> Read:
    prompt = (Turn("user", row["instruction"]),)
    chosen, rejected = row["chosen_response"], row["rejected_response"]
    tag = _text_or_none(row.get("source"))
    yield Preference(prompt, chosen, rejected, source, number, _margin(row), tag=tag, scale=_scale(row))


def _llamafactory_dpo(row: Row, source: str, number: int) -> Read:
    prompt = (*_system(row), *messages(row["conversations"], "conversations"))
    chosen, rejected = (messages([row[name]], name)[0] for name in ("chosen", "rejected"))
    for name, turn in (("chosen", chosen), ("rejected", rejected)):
        if turn.role != "assistant":
            raise BadRow("answer of the wrong role", f"{name!r} is of role {turn.role!r}; 'assistant' is needed")
    yield Preference(
        prompt,
        _text(chosen, "chosen"),
        _text(rejected, "rejected"),
        source,
        number,
        _margin(row),
        _weight(row),
        scale=_scale(row),
    )


def _transcript(text: object, column: str) -> tuple[Turn, ...]:
    if not isinstance(text, str):
        raise BadRow("not a string", f"{column!r} holds {type(text).__name__}; a transcript is needed")
    before, *parts = _SPEAKER.split(text)
    if before.strip() or not parts:
        raise BadRow("not a transcript", f"{column!r} begins {text[:30]!r}; '\\n\\nHuman: ' is needed")
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple(Turn(roles[who], said.strip()) for who, said in zip(parts[::2], parts[1::2], strict=True))


def _hh_rlhf(row: Row, source: str, number: int) -> Read:
    prompt, chosen, rejected = _apart(*(_transcript(row[name], name) for name in ("chosen", "rejected")))
    yield Preference(prompt, chosen, rejected, source, number, _margin(row), _weight(row))


def _preference(row: Row, source: str, number: int) -> Read:
    chosen, rejected, prompt = row["chosen"], row["rejected"], row.get("prompt")
    margin, weight = _margin(row), _weight(row)
    direct = _given(row, "direct") is not None and _label(row["direct"], "direct")
    tag = _text_or_none(row.get("source"))
    if not isinstance(chosen, list) and not isinstance(rejected, list):
        if prompt is None:
            raise BadRow("no prompt", "'chosen' and 'rejected' are texts; a column 'prompt' is needed")
        turns = _prompt(prompt, chat=False)
    else:
        sides = [messages(row[name], name) for name in ("chosen", "rejected")]
        if isinstance(prompt, list):
            before = messages(prompt, "prompt")
            sides = [side if side[: len(before)] == before else (*before, *side) for side in sides]
        elif isinstance(prompt, str) and all(len(side) == 1 for side in sides):
            sides = [(Turn("user", prompt), *side) for side in sides]
        turns, chosen, rejected = _apart(*sides)
        if isinstance(prompt, str) and not any(prompt.strip() in turn.content for turn in turns):
            told = "'prompt' is in no turn of the dialogues, which are what is read"
            yield Finding(place(source, number), "a prompt that the dialogues do not hold", told, lost=False)
    yield Preference(turns, chosen, rejected, source, number, margin, weight, None, tag, direct, _scale(row))


def _unpaired(row: Row, source: str, number: int) -> Read:
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(completion, str):
        turns, answer = _prompt(prompt, chat=False), completion
    else:
        before, answer = _answer(completion, "completion")
        turns = before or _prompt(prompt)
    yield Labelled(turns, answer, _label(row["label"]), source, number, _weight(row))


def _llamafactory_kto(row: Row, source: str, number: int) -> Read:
    prompt, answer = _answer(row["messages"], "messages")
    system = _system(row)
    if prompt and prompt[0].role == "system":
        if system and system[0].content != prompt[0].content:
            yield two_systems(source, number)
        system = ()
    yield Labelled((*system, *prompt), answer, _label(row["label"]), source, number, _weight(row))


def _apart(chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> tuple[tuple[Turn, ...], str, str]:
    """The turns that two dialogues have in common at their beginning, and the last turn of each, its answer."""
    if chosen == rejected:
        raise BadRow(EQUAL, "both dialogues are the same")
    shared = common_length(chosen, rejected)
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        left = turns[shared:]
        if len(left) != 1:
            raise BadRow(
                "no single answer apart",
                f"{name!r} has {len(left)} turns that the other dialogue does not have; they may differ in their last turn only",
            )
        if left[0].role != "assistant":
            raise BadRow("answer of the wrong role", f"{name!r} ends with {left[0].role!r}; 'assistant' is needed")
    return chosen[:shared], _text(chosen[-1], "chosen"), _text(rejected[-1], "rejected")


def _text(answer: Turn, column: str) -> str:
    """The text of an answer, which is compared as a text: more than that would vanish."""
    if not answer.train:
        raise BadRow(
            "weight of a message", f"the answer of {column!r} says that it is not trained on; leave such rows out"
        )
    if more := [key for key in answer.extra_keys if key in CONTENT_KEYS]:
        raise BadRow(
            f"an answer with {', '.join(more)}", f"{column!r} holds more than a text; answers are compared as texts"
        )
    return answer.content


def _answer(value: object, column: str) -> tuple[tuple[Turn, ...], str]:
    """An answer as a text, a message or a list of messages; with it what stands before it, if anything."""
    if isinstance(value, str):
        return (), value
    turns = messages([value] if isinstance(value, Mapping) else value, column)
    if not turns or turns[-1].role != "assistant":
        raise BadRow("answer of the wrong role", f"{column!r} must end with a message of the assistant")
    return turns[:-1], _text(turns[-1], column)


def _prompt(value: object, chat: bool = True) -> tuple[Turn, ...]:
    """A prompt as a text, for a chat or as it is, or as a list of messages."""
    if isinstance(value, list):
        return messages(value, "prompt")
    return (Turn("user" if chat else "prompt", value),)  # type: ignore[arg-type]


def _system(row: Row) -> tuple[Turn, ...]:
    return (Turn("system", row["system"]),) if row.get("system") else ()


def _margin(row: Row) -> float | None:
    if _given(row, "margin") is not None:
        return _float(row["margin"], "margin")
    metadata = row.get("metadata")
    for where in (row, metadata if isinstance(metadata, Mapping) else {}):
        for better, worse in _SCORE_COLUMNS:
            if _given(where, better) is not None and _given(where, worse) is not None:
                return _float(where[better], better) - _float(where[worse], worse)
    return None


def _scale(row: Row) -> float | None:
    """The widest margin that the columns allow which a margin was taken from; None for a given margin."""
    if _given(row, "margin") is not None:
        return None
    metadata = row.get("metadata")
    for where in (row, metadata if isinstance(metadata, Mapping) else {}):
        for names, scale in _SCALES.items():
            if all(_given(where, name) is not None for name in names):
                return scale
    return None


def _weight(row: Row) -> float:
    return 1.0 if _given(row, "weight") is None else _float(row["weight"], "weight")


def _given(row: Mapping[str, Any], column: str) -> object:
    """What a column holds; None for an empty field, as csv files have them."""
    value = row.get(column)
    return None if isinstance(value, str) and not value.strip() else value


def _float(value: object, column: str) -> float:
    try:
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
            raise TypeError("true is no number, and 1_0 not 10")
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRow("not a number", f"{column!r} holds {str(value)[:40]!r}; a number is needed") from error


def _label(value: object, column: str = "label") -> bool:
    """The label; a csv file has it as a text, and pandas writes 1.0 where labels are missing elsewhere."""
    if isinstance(value, str) and value.strip().lower() in (*_YES, *_NO):
        return value.strip().lower() in _YES
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    raise BadRow("not a label", f"{column!r} holds {str(value)[:40]!r}; true or false is needed")


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _is_safety(name: str, row: Row) -> bool:
    completions = row.get("completions")
    first = completions[0] if isinstance(completions, list) and completions else None
    annotations = first.get("annotations") if isinstance(first, Mapping) else None
    return isinstance(annotations, Mapping) and set(annotations) == {"harmlessness"}


def _is_transcript(name: str, row: Row) -> bool:
    chosen = row.get("chosen")
    return isinstance(chosen, str) and row.get("prompt") is None and _SPEAKER.match(chosen) is not None


_PAIR = ("chosen", "rejected")
_SCHEMAS: dict[str, Schema[PreferenceRecord]] = {
    "ultrainteract_pair": Schema(("trajectory", *_PAIR), ("task", "parent_id"), _ultrainteract),
    "ultrasafety": Schema(
        ("instruction", "completions"), ("source",), partial(_scored, score="harmlessness"), _is_safety
    ),
    "ultrafeedback": Schema(("instruction", "completions"), ("source",), partial(_scored, score="mean")),
    "chendrag": Schema(("prompt", "A0", "A1", "score_A0", "score_A1"), ("A2", "A3", "score_A2", "score_A3"), _chendrag),
    "argilla": Schema(("instruction", "chosen_response", "rejected_response"), ("source", *_SCORE_NAMES), _argilla),
    "llamafactory_dpo": Schema(
        ("conversations", *_PAIR), ("system", "margin", "weight", "metadata", *_SCORE_NAMES), _llamafactory_dpo
    ),
    "hh_rlhf": Schema(_PAIR, ("margin", "weight"), _hh_rlhf, _is_transcript),
    "preference": Schema(
        _PAIR, ("prompt", "margin", "weight", "direct", "metadata", "source", *_SCORE_NAMES), _preference
    ),
    "unpaired": Schema(("prompt", "completion", "label"), ("weight",), _unpaired),
    "llamafactory_kto": Schema(("messages", "label"), ("system", "weight"), _llamafactory_kto),
}
PREFERENCE_SCHEMAS = tuple(_SCHEMAS)


class PreferenceReader(RowReader[PreferenceRecord]):
    """Reads sources one after the other, as one stream of preferences.

    After a reading `tally` holds what was found, and `schemas` the schema of each source by its name.

    Args:
        sources: what to read.
        schema: one of `PREFERENCE_SCHEMAS`, or "auto" to guess it from the columns of each source.
        columns: the source's column for columns of the schema that are called otherwise there.
        on_bad_row: rows that are no preference are counted and left out ("skip"),
            as long as they are at most a tenth of all ("few"), or the first one stops the reading ("error").
        tags: keep records of these tags only.
        tag_sources: give records without a tag of their own the name of their source; "all": every record.
        score: what ranks the answers of schema ultrafeedback, see fulgurite.data.trees.comparisons.
        as_chat: prompts and answers that are plain texts are a user's turn and an assistant's, so that the chat template is
            laid over them; otherwise they follow each other as they are, as TRL has it.
    """

    noun = "preference"
    table = _SCHEMAS

    def __init__(
        self,
        sources: Sequence[RowSource],
        schema: str = "auto",
        columns: Mapping[str, str] | None = None,
        on_bad_row: str = "skip",
        tags: Sequence[str] | None = None,
        tag_sources: bool | Literal["all"] = False,
        score: str = "mean",
        as_chat: bool = False,
    ) -> None:
        if score not in SCORES:
            raise ValueError(f"PreferenceReader: score {score!r}; allowed are {', '.join(SCORES)}; choose one of them")
        ranked = replace(_SCHEMAS["ultrafeedback"], read=partial(_scored, score=score))
        self.table = {**_SCHEMAS, "ultrafeedback": ranked}
        super().__init__(sources, schema, columns, on_bad_row, tags, tag_sources)
        self.as_chat = as_chat

    def _checked(self, item: PreferenceRecord) -> Read:
        if self.as_chat and item.prompt and item.prompt[0].role == "prompt":
            item = replace(item, prompt=(Turn("user", item.prompt[0].content),))
        return checked_preference(item)
