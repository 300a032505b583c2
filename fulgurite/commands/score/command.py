"""`fulgurite score`: rewards of a file's answers by a reward model, or the score of RewardBench 1 or 2 on its rows.

A row is a conversation (`messages`), a pair (`prompt`, `chosen`, `rejected`), or a prompt with one answer (`completion`) or several
(`completions`). It comes out with `reward`, `reward_chosen` and `reward_rejected`, or `rewards`. Rewards are appended to
`OUT.part` as they come and written to `OUT` at the end; a run that was interrupted goes on where it stopped, because each row
carries a hash of its text, the model and the template.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from fulgurite.commands.score.report import benchmark_table, summary_table
from fulgurite.commands.score.rows import HASH, Asked, Row, read_asked, read_item
from fulgurite.commands.shared.options import ComputeOptions, with_options
from fulgurite.commands.shared.reward_models import load_reward_scorer, reads_chats
from fulgurite.commands.shared.unused import refuse_unused
from fulgurite.commands.shared.written_rows import json_line, stamp, written_rows
from fulgurite.console import say, shortest
from fulgurite.data.encoding.templates import NO_TEMPLATE
from fulgurite.data.playground import resolve_backbone
from fulgurite.data.records.conversation import Conversation
from fulgurite.data.sources.tables import read_table
from fulgurite.evaluation.reward_bench import benchmark_items, score_benchmark
from fulgurite.evaluation.reward_scoring import RewardScorer, Scored
from fulgurite.models.loading import check_folder
from fulgurite.whole_files import whole_file

__all__ = ["score"]

_BLOCK = 16  # batches whose rows are scored together, or taken over together
Rewards = tuple[list[float | None], list[int]]  # of each answer of a row, with its tokens


@with_options
def score(
    model: str,
    file: str,
    output: str | None = None,
    benchmark: Literal["rewardbench", "rewardbench2"] | None = None,
    as_chat: bool | None = None,
    whole_chat: bool | None = None,
    template: str | None = None,
    max_length: int = 2048,
    batch_size: int = 8,
    *,
    compute: ComputeOptions,
    overwrite: bool = False,
) -> None:
    """Scores answers with a reward model.

    Args:
        model: a .ckpt file of `fulgurite fit` (RewardModule), or a reward model's folder or hub id in either layout.
        file: .jsonl, .json, .csv, .tsv (also .gz), .parquet or .arrow, or a folder of datasets, with messages; or with prompt and
            chosen and rejected, completion, or completions.
        output: the .jsonl file for the rows with their rewards; may be left out with --benchmark.
        benchmark: the file holds rows of RewardBench 1 or 2; print the section scores.
        as_chat: lay the chat template over prompts and answers that are plain texts (true), or join them as they are (false); none
            does what the model was trained on: a checkpoint knows it, a folder has a chat template or has none.
        whole_chat: read the reward behind all that the chat template writes of a finished chat, such as ChatML's last newline, or
            at the end of the last turn (false), where ours are trained; none takes the end of the turn, and says so where the
            folder's template writes more: models trained with TRL need true.
        template: auto, a template's name or a Jinja file; none takes the stored one.
        max_length: tokens of prompt and answer at most; longer ones get no reward and are counted, never cut.
        batch_size: answers of a forward.
        compute: :class:`~fulgurite.commands.shared.options.ComputeOptions`.
        overwrite: replace an output that holds other rewards.
    """
    source = Path(file)
    if not source.exists():
        raise FileNotFoundError(f"score: --file {file}: no such file; check the path")
    if output is None and benchmark is None:
        raise ValueError("score: no --output was given; give the .jsonl file that the rewards go to")
    if output is not None and not output.endswith((".jsonl", ".ndjson")):
        raise ValueError(f"score: --output {output}; what is written is .jsonl; give a name that ends so")
    if output is not None and Path(output).resolve() == source.resolve():
        raise ValueError(f"score: --output {output} is the input itself; give another name")
    if output is not None and Path(output).is_dir():
        raise IsADirectoryError(f"score: --output {output} is a folder; give the name of a file")
    if output is None:
        refuse_unused("score", "without --output", overwrite=(overwrite, False))
    if as_chat is False and template != NO_TEMPLATE:
        refuse_unused("score", "with --as_chat false", template=(template, None))
    if not model.endswith(".ckpt"):
        check_folder(resolve_backbone(model))
    as_chat = reads_chats("score", model, as_chat, template)
    table = read_table(source, owner="score: --file")
    rows = list(zip(table.rows, table.places, strict=True))
    items = []
    if benchmark is not None:
        items = benchmark_items([(row, str(place)) for row, place in rows], benchmark)
        asked = [
            read_item(row, item.prompt, item.answers, place.source, place.row, as_chat)
            for (row, place), item in zip(rows, items, strict=True)
        ]
    else:
        asked = [read_asked(row, place.source, place.row, as_chat) for row, place in rows]
    scorer = load_reward_scorer("score", model, template, max_length, batch_size, compute, as_chat, whole_chat)
    rewards, lengths = _rewards(
        asked, scorer, None if output is None else Path(output), [model, stamp(model)], overwrite
    )
    flat = [value for row in rewards for value in row if value is not None]
    if len(flat) >= 4 and len(set(flat)) == 1:
        raise ValueError(
            f"score: all {len(flat)} rewards are {flat[0]:.6g}; a constant reward orders nothing. The model is broken, or "
            "not a reward model; look at its training, or at float16, which makes ties."
        )
    if benchmark is not None:
        say(benchmark_table(score_benchmark(items, rewards, benchmark), benchmark))
    say(summary_table([(a.kind, r, n) for a, r, n in zip(asked, rewards, lengths, strict=True)], scorer.omitted))
    if output is not None:
        say(f"written: {shortest(output)}, {len(asked)} rows")


def _rewards(
    asked: Sequence[Asked], scorer: RewardScorer, target: Path | None, identity: list[Any], overwrite: bool
) -> tuple[list[list[float | None]], list[list[int]]]:
    """Rewards and answer tokens of each row's answers; rows that stand in an earlier output are taken over."""
    behind = ["whole chat"] if scorer.reads_behind_the_turn else []
    common = json.dumps(
        [*identity, scorer.tokenizer.chat_template, str(next(scorer.model.parameters()).dtype), *behind]
    )
    hashes = [_hash(common, a.conversations) for a in asked]
    known: dict[str, Row] = {}
    part = None if target is None else target.with_name(target.name + ".part")
    if target is not None and part is not None:
        earlier, wanted = written_rows(target, foreign=True), set(hashes)
        if target.exists() and not overwrite and any(row.get(HASH) not in wanted for row in earlier):
            raise FileExistsError(
                f"score: {target} is there already with rewards of other rows, or of another model or settings, or with something "
                "else; give another --output, or --overwrite true to replace it"
            )
        known = {str(row[HASH]): row for row in [*earlier, *written_rows(part)] if HASH in row}
        target.parent.mkdir(parents=True, exist_ok=True)
    found: list[Rewards | None] = [_taken(known.get(key), a) for key, a in zip(hashes, asked, strict=True)]
    waiting = [i for i, values in enumerate(found) if values is None]
    if len(waiting) < len(asked):
        say(
            f"{len(asked) - len(waiting)} of {len(asked)} rows have rewards already, in {shortest(str(target))} or .part"
        )
    _score_waiting(asked, scorer, waiting, found, hashes, part)
    done = [values for values in found if values is not None]
    if target is not None and part is not None:
        with whole_file(target) as scratch, open(scratch, "w", encoding="utf-8") as stream:
            for a, (values, lengths), key in zip(asked, done, hashes, strict=True):
                stream.write(_line(a, values, lengths, key))
        part.unlink(missing_ok=True)
    return [values for values, _ in done], [lengths for _, lengths in done]


def _score_waiting(
    asked: Sequence[Asked],
    scorer: RewardScorer,
    waiting: Sequence[int],
    found: list[Rewards | None],
    hashes: Sequence[str],
    part: Path | None,
) -> None:
    """Scores the rows that wait, in the batches that a run without interruption would make: with others beside it a row's reward
    differs in the last digits, so that a block in which some rows are known already is computed whole."""
    from tqdm import tqdm

    flat = [(i, conversation) for i, row in enumerate(asked) for conversation in row.conversations]
    size, wanted = _BLOCK * scorer.batch_size, set(waiting)
    blocks = [flat[at : at + size] for at in range(0, len(flat), size)]
    blocks = [block for block in blocks if any(i in wanted for i, _ in block)]
    partly: dict[int, Rewards] = {}
    stream = None if part is None else open(part, "ab")  # noqa: SIM115  closed below
    try:
        if stream is not None and stream.tell() and part is not None and not part.read_bytes().endswith(b"\n"):
            stream.write(b"\n")  # what was cut off in mid-line stays a line of its own
        total = sum(map(len, blocks))
        with tqdm(total=total, desc="scoring", unit="answer", disable=not total) as bar:
            for places, chunk in _scored(blocks, scorer):
                for i, (reward, length) in zip(places, chunk, strict=True):
                    if i not in wanted:
                        continue
                    values, lengths = partly.setdefault(i, ([], []))
                    values.append(reward)
                    lengths.append(length)
                    if len(values) == len(asked[i].conversations):
                        found[i] = partly.pop(i)
                        if stream is not None:
                            stream.write(_line(asked[i], values, lengths, hashes[i]).encode())
                if stream is not None:
                    stream.flush()
                bar.update(len(chunk))
    finally:
        if stream is not None:
            stream.close()


def _scored(
    blocks: Sequence[Sequence[tuple[int, Conversation]]], scorer: RewardScorer
) -> Iterator[tuple[list[int], list[Scored]]]:
    """The scorer's answers as they come, with the rows that they belong to."""
    for block in blocks:
        at = 0
        for chunk in scorer.score([conversation for _, conversation in block]):
            yield [i for i, _ in block[at : at + len(chunk)]], chunk
            at += len(chunk)


def _line(asked: Asked, values: Sequence[float | None], lengths: Sequence[int], key: str) -> str:
    if asked.kind == "pair":
        added: Row = {"reward_chosen": values[0], "reward_rejected": values[1]}
    elif asked.kind == "completions":
        added = {"rewards": list(values)}
    else:
        added = {"reward": values[0]}
    return json_line({**asked.row, **added, "answer_tokens": list(lengths), HASH: key})


def _taken(row: Row | None, asked: Asked) -> Rewards | None:
    """Rewards and lengths of an earlier output's row; None where one is missing, as with a smaller --max_length."""
    if row is None:
        return None
    values = row.get(
        "rewards", [row.get("reward")] if "reward" in row else [row.get("reward_chosen"), row.get("reward_rejected")]
    )
    lengths = row.get("answer_tokens")
    wanted = len(asked.conversations)
    if not isinstance(values, list) or not isinstance(lengths, list) or not len(values) == len(lengths) == wanted:
        return None
    if not all(isinstance(value, float | int) for value in values):
        return None
    return values, lengths


def _hash(common: str, conversations: Sequence[Conversation]) -> str:
    # What is beside the texts counts where it is there: rows of texts keep the hash of earlier versions.
    turns = json.dumps(
        [
            [[turn.role, turn.content, *([turn.extra] if turn.extra else [])] for turn in each.turns]
            + ([each.tools] if each.tools else [])
            for each in conversations
        ]
    )
    return hashlib.sha256(f"{common}\n{turns}".encode()).hexdigest()[:16]
