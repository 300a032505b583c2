"""`fulgurite generate --file`: the rows of a file, with an answer each, as .jsonl.

Rows are answered some batches at a time, in the order of the file, and each answer is appended to `OUT.part` at once.
A row that stands in OUT or OUT.part already, with the same hash of prompt, template, model and settings, is taken over.
"""

import contextlib
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fulgurite.commands.shared.whole_text import check_text
from fulgurite.commands.shared.written_rows import json_line, written_rows
from fulgurite.console import say, shortest
from fulgurite.data.readers.base import BadRow
from fulgurite.data.readers.messages import TRAIN_KEYS, messages, tools_of
from fulgurite.data.records.conversation import CHAT_ROLES, Turn
from fulgurite.data.sources.formats import ending_of
from fulgurite.data.sources.tables import read_lines, read_table
from fulgurite.generation.texts import LoadedModel, check_prompts, generate_text
from fulgurite.generation.writers import GenerationSettings
from fulgurite.whole_files import whole_file

__all__ = ["check_target", "prompt_hash", "read_prompts", "refuse_lost", "run_file"]

_COLUMNS = ("messages", "prompt", "instruction", "question", "text")
_ADDED = ("completion", "completions", "prompt_hash")
_BATCHES = 4

Row = dict[str, Any]


def run_file(
    loaded: LoadedModel,
    source: Path,
    target: Path,
    start: tuple[Turn, ...],
    column: str | None,
    settings: GenerationSettings,
    identity: Mapping[str, Any],
    overwrite: bool,
    lead: str = "",
) -> None:
    """Answers every row of a file.

    Args:
        loaded: the model and its tokenizer.
        source: the prompts.
        target: the rows with `completion` (or `completions`, where several samples are drawn) and `prompt_hash`.
        start: the system's turn, or nothing; a row's own system's turn goes before it.
        column: the column with the prompts; None takes the first known one.
        settings: of the answers.
        identity: what else the answers depend on; part of the hash.
        overwrite: whether answers in `target` that are not these may be lost.
        lead: condition tokens in front of each prompt's last turn.
    """
    check_target(source, target)
    rows, prompts, places = read_prompts(source, start, column, bool(loaded.tokenizer.chat_template))
    prompts = [(*prompt[:-1], replace(prompt[-1], content=lead + prompt[-1].content)) for prompt in prompts]
    common = json.dumps([dict(identity), loaded.tokenizer.chat_template], sort_keys=True)
    hashes = [prompt_hash(common, prompt) for prompt in prompts]
    part = target.with_name(target.name + ".part")
    earlier = written_rows(target, foreign=True)
    known = _known([*earlier, *written_rows(part)])
    lost = set(_known(earlier)) - set(hashes)
    refuse_lost(target, earlier, len(lost), overwrite)
    answers: list[list[str] | None] = [known[key].pop(0) if known.get(key) else None for key in hashes]
    waiting = [i for i, answer in enumerate(answers) if answer is None]
    if len(waiting) < len(rows):
        say(f"{len(rows) - len(waiting)} of {len(rows)} rows are answered already, in {shortest(target)} or .part")
    check_prompts(loaded.model, loaded.tokenizer, [prompts[i] for i in waiting], [places[i] for i in waiting])
    target.parent.mkdir(parents=True, exist_ok=True)
    cut = part.is_file() and not part.read_bytes().endswith(b"\n")
    with open(part, "a", encoding="utf-8") as stream:
        stream.write("\n" if cut else "")  # what was cut off in mid-line stays a line of its own
        for i, texts in _generate(loaded, prompts, waiting, settings):
            answers[i] = texts
            stream.write(_line(rows[i], texts, hashes[i], settings))
            stream.flush()
    with whole_file(target) as scratch, open(scratch, "w", encoding="utf-8") as stream:
        for row, answer, key in zip(rows, answers, hashes, strict=True):
            assert answer is not None
            stream.write(_line(row, answer, key, settings))
    part.unlink(missing_ok=True)
    say(f"written: {shortest(target)}, {len(rows)} rows")


def check_target(source: Path, target: Path) -> None:
    """Refuses an output that is no .jsonl file, or the input itself.

    Args:
        source: the prompts.
        target: where the answers go.
    """
    if target.suffix not in (".jsonl", ".ndjson"):
        raise ValueError(f"generate: --output {target}; what is written is .jsonl; give a name that ends so")
    if target.resolve() == source.resolve():
        raise ValueError(f"generate: --output {target} is the input itself; give another name")
    if target.is_dir():
        raise IsADirectoryError(f"generate: --output {target} is a folder; give the name of a file")


def refuse_lost(target: Path, earlier: Sequence[Row], lost: int, overwrite: bool) -> None:
    """Refuses to replace answers of another run unasked.

    Args:
        target: where the answers go.
        earlier: the rows that stand there.
        lost: how many of them are answers that would not stand there afterwards.
        overwrite: whether they may be lost.
    """
    if target.exists() and (lost or not target.is_file()) and not overwrite:
        foreign = any("prompt_hash" not in row for row in earlier)
        held = f"{lost} answers to other prompts, or of another model or settings"
        raise FileExistsError(
            f"generate: {target} is there already with {'lines that are no answers of generate' if foreign else held}; "
            "give another --output, or --overwrite true to replace it"
        )


def _generate(
    loaded: LoadedModel, prompts: Sequence[tuple[Turn, ...]], waiting: Sequence[int], settings: GenerationSettings
) -> Iterator[tuple[int, list[str]]]:
    from tqdm import tqdm

    step = _BATCHES * settings.batch_size
    with tqdm(total=len(waiting), desc="generating", unit="row", disable=not waiting) as bar:
        for at in range(0, len(waiting), step):
            places = waiting[at : at + step]
            # Each chunk its own draws: with one seed for all, equal prompts of two chunks would get equal answers.
            seeded = settings if settings.seed is None else replace(settings, seed=settings.seed + places[0])
            found = generate_text(loaded.model, loaded.tokenizer, [prompts[i] for i in places], seeded)
            yield from zip(places, found, strict=True)
            bar.update(len(places))


def read_prompts(
    source: Path, start: tuple[Turn, ...], column: str | None, chat: bool, added: Sequence[str] | None = None
) -> tuple[list[Row], list[tuple[Turn, ...]], list[str]]:
    """The rows of a file, their prompts and their places.

    Args:
        source: the file, or a folder of datasets.
        start: the system's turn, or nothing.
        column: with the prompts; None takes the first known one.
        chat: whether the model reads chats.
        added: columns that the output will have, and that the file may not have; None for those of plain answers.
    """
    if ending_of(source) == ".txt":
        numbered = [(i, line) for i, line in enumerate(read_lines(source), 1) if line.strip()]
        rows: list[Row] = [{"prompt": line} for _, line in numbered]
        places, column = [f"{source}, line {i}" for i, _ in numbered], "prompt"
    else:
        table = read_table(source, owner="generate: --file")
        rows, places = table.rows, [str(place) for place in table.places]
        if column is not None:
            table.require(column)
        else:
            column = next((name for name in _COLUMNS if name in table.columns), None)
        if column is None:
            raise ValueError(
                f"generate: {source} has none of the columns {', '.join(map(repr, _COLUMNS))}; found "
                f"{', '.join(map(repr, table.columns))}; name the one with the prompts with --column"
            )
        if taken := [name for name in (_ADDED if added is None else added) if name in table.columns]:
            raise ValueError(
                f"generate: {source} has a column {taken[0]!r} already, which the answers would replace; rename it"
            )
    for row, where in zip(rows, places, strict=True):
        _refuse_tools(row, where)
    prompts = [_prompt(row, column, where, start, chat) for row, where in zip(rows, places, strict=True)]
    for turns, where in zip(prompts, places, strict=True):
        for turn in turns:
            check_text(turn.content, where)
    return rows, prompts, places


def _refuse_tools(row: Row, where: str) -> None:
    """Refuses a row that offers tools, which training lays before the model: without them the prompt is another one."""
    with contextlib.suppress(BadRow):  # no list of functions: another column of this name
        if tools_of(row.get("tools")) is not None:
            raise ValueError(
                f"{where}: the column 'tools' offers functions to call; generate writes texts and offers none; take the column "
                "out, or write what is to be known of them into the prompt"
            )


def _prompt(row: Row, column: str, where: str, start: tuple[Turn, ...], chat: bool) -> tuple[Turn, ...]:
    value = row[column]
    if row.get("system") and column != "system":  # before the user's turn, as in training; it goes before --system
        if not isinstance(row["system"], str):
            raise ValueError(
                f"{where}: the column 'system' holds {repr(row['system'])[:60]}; a text is needed; correct it"
            )
        if not chat:
            raise ValueError(
                f"{where}: the column 'system' holds a text, which needs a chat template, and none is stored; give --template auto "
                "or a name, or take the column out"
            )
        start = (Turn("system", row["system"]),)
    if isinstance(value, list):
        turns = tuple(_turn(item, where, column) for item in value)
        if not turns or turns[-1].role != "user":
            last = f"ends with the role {turns[-1].role!r}" if turns else "is empty"
            raise ValueError(
                f"{where}: the column {column!r} {last}; the last turn must be the user's; correct the row"
            )
        if not chat:
            raise ValueError(
                f"{where}: the column {column!r} holds a chat, and the model has no chat template; give --template auto"
            )
        if turns[0].role == "system" and row.get("system") not in (None, "", turns[0].content):
            raise ValueError(
                f"{where}: the column 'system' says {row['system'][:40]!r} and the first turn of {column!r} "
                f"{turns[0].content[:40]!r}; a chat has one system's text: take one of them out"
            )
        return turns if turns[0].role == "system" else (*start, *turns)
    if not isinstance(value, str) or not value.strip():
        found = "nothing" if value is None or value == "" else repr(value)[:60]
        raise ValueError(
            f"{where}: the column {column!r} holds {found}; a text or a list of turns is needed; correct the row"
        )
    if _holds_messages(value):
        raise ValueError(
            f"{where}: the column {column!r} holds messages as a JSON text, which would be asked as it stands; give them as a "
            "list, in a .jsonl or .parquet file"
        )
    more = row.get("input") if column == "instruction" else None  # Alpaca's second column
    if more is not None and not isinstance(more, str):
        raise ValueError(
            f"{where}: the column 'input' holds {repr(more)[:60]}; a text or nothing is needed beside 'instruction'; correct it"
        )
    text = f"{value}\n\n{more}" if more and more.strip() else value
    return (*start, Turn("user", text)) if chat else (Turn("prompt", text),)


def _holds_messages(text: str) -> bool:
    """Whether a text is a list of messages as JSON, as csv files hold them."""
    if not text.lstrip().startswith("["):
        return False
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return bool(found) and all(isinstance(each, dict) and {"role", "content"} <= each.keys() for each in found)


def _turn(item: object, where: str, column: str) -> Turn:
    if isinstance(item, dict) and item.get("role") in CHAT_ROLES:
        # What a message holds beside its text (tool_calls, reasoning) goes to the template, as in training.
        with contextlib.suppress(BadRow):
            (turn,) = messages([{key: value for key, value in item.items() if key not in TRAIN_KEYS}], column)
            if isinstance(turn.content, str):
                return turn
    raise ValueError(
        f"{where}: the column {column!r} holds the turn {repr(item)[:60]}; needed is {{'role': ..., 'content': ...}} with one of "
        f"the roles {', '.join(CHAT_ROLES)}; correct the row"
    )


def prompt_hash(common: str, prompt: Sequence[Turn]) -> str:
    """What an answer depends on, as 16 hexadecimal digits.

    Args:
        common: what all answers of the run depend on.
        prompt: the turns.
    """
    turns = json.dumps([[turn.role, turn.content, *([turn.extra] if turn.extra else [])] for turn in prompt])
    return hashlib.sha256(f"{common}\n{turns}".encode()).hexdigest()[:16]


def _line(row: Row, texts: list[str], key: str, settings: GenerationSettings) -> str:
    added = {"completion": texts[0]} if settings.num_samples == 1 else {"completions": texts}
    return json_line({**row, **added, "prompt_hash": key})


def _known(rows: Sequence[Row]) -> dict[str, list[list[str]]]:
    """Answers by hash; what stands there without one counts as another's."""
    found: dict[str, list[list[str]]] = defaultdict(list)
    for row in rows:
        texts = row.get("completions", [row.get("completion")])
        whole = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        found[str(row.get("prompt_hash"))].append(texts if whole else [])
    return {key: [texts for texts in several if texts] for key, several in found.items()}
