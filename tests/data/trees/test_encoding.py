"""Paths of answers: before an answer stand the ids that `generate` would put there; nothing is cut; what is lost is counted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fulgurite.data.encoding.conversations import encode_prompt
from fulgurite.data.encoding.templates import apply_template
from fulgurite.data.records.conversation import Turn
from fulgurite.data.records.findings import Tally
from fulgurite.data.records.preference import Labelled, Preference, Ranked
from fulgurite.data.trees.comparisons import Comparison, compare
from fulgurite.data.trees.encoding import ComparisonEncoder, EncodedComparison, Spool
from fulgurite.data.trees.growing import grow_trees
from tests.data.chat_tokenizers import BUILT, HABITS, byte_level, playground, unopened

PROMPT = (
    Turn("system", "Be brief."),
    Turn("user", "What is 2 + 2?"),
    Turn("assistant", "Five."),
    Turn("user", "Sure?"),
)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path) as opened:
        yield opened


def encode(
    tokenizer: Any, spool: Spool, *records: Any, kind: str = "pairs", max_length: int = 500
) -> tuple[list[EncodedComparison], Tally]:
    tally = Tally()
    comparisons = [compare(record, kind) for record in records]  # type: ignore[arg-type]
    assert all(isinstance(item, Comparison) for item in comparisons)
    return ComparisonEncoder(tokenizer, max_length, spool, tally).encode(comparisons), tally  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(BUILT))
@pytest.mark.parametrize("habit", [None, *HABITS])
def test_before_each_answer_stands_what_generation_has(name: str, habit: str | None, spool: Spool) -> None:
    tokenizer = BUILT[name]()
    if habit is None:
        apply_template(tokenizer)
    else:
        tokenizer.chat_template = HABITS[habit]
    turns = PROMPT[1:] if habit == "llama2" else PROMPT
    (item,), tally = encode(tokenizer, spool, Preference(turns, "Four, I am sure.", "No.", "s", 1))
    prompt = encode_prompt(tokenizer, turns)
    if habit == "thinking":  # an answer without reasoning is not trained inside the <think> that the prompt opens
        assert prompt != unopened(tokenizer, turns)
        prompt = unopened(tokenizer, turns)
    for path, start, answer in zip(item.paths, item.starts, ("Four, I am sure.", "No."), strict=True):
        ids = spool[path].tolist()
        assert ids[:start] == prompt
        assert answer in tokenizer.decode(ids[start:])
        assert len(ids) == spool.length(path)
    if habit in ("llama3", "llama2") or habit is None:
        assert spool[item.paths[0]][-1] == spool[item.paths[1]][-1]  # both end their turn
    assert tally.lost == 0


def test_texts_without_a_template(spool: Spool) -> None:
    tokenizer = byte_level()
    (item,), _ = encode(tokenizer, spool, Preference((Turn("prompt", "2 + 2 ="),), " 4", " 5", "s", 1))
    ids = spool[item.paths[0]].tolist()
    assert ids[: item.starts[0]] == encode_prompt(tokenizer, (Turn("prompt", "2 + 2 ="),))
    assert tokenizer.decode(ids) == "2 + 2 = 4<eos>"
    (empty,), _ = encode(tokenizer, spool, Preference((Turn("prompt", ""),), "a", "b", "s", 1))
    assert empty.starts == (1, 1)  # nothing predicts the first token


def test_what_is_too_long_goes_with_its_pair_and_is_counted_by_place(spool: Spool) -> None:
    tokenizer = playground()
    records = [Preference((Turn("user", "hi"),), "good " * n, "bad", "s", n) for n in (1, 60)]
    (item,), tally = encode(tokenizer, spool, *records, max_length=40)
    assert item.comparison.row == 1
    assert tally.counts == {"longer than max_length": 1} and tally.first["longer than max_length"] == ["s, row 60"]
    ranked = Ranked((Turn("user", "hi"),), ("good " * 60, "fair", "bad"), (3, 2, 1), "s", 5)
    for kind, left in (("pairs", 1), ("labels", 4), ("groups", 2)):
        (item,), tally = encode(tokenizer, spool, ranked, kind=kind, max_length=40)
        found = item.comparison.pairs or item.comparison.labels or item.comparison.scores
        assert len(found) == left and len(item.paths) == 2 and tally.lost == 0
        assert list(tally.notes) == ["longer than max_length"]
    assert item.comparison.scores == (2, 1)
    labels, tally = encode(
        tokenizer, spool, Labelled((Turn("user", "hi"),), "good " * 60, True, "s", 1), kind="labels", max_length=40
    )
    assert labels == [] and tally.lost == 1


def test_answers_of_equal_ids_are_not_compared(spool: Spool) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = HABITS["llama3"]  # it trims
    left, tally = encode(tokenizer, spool, Preference((Turn("user", "hi"),), "a\u00a0", "a", "s", 1))
    assert left == [] and tally.counts == {"chosen equal to rejected": 1}
    groups, tally = encode(tokenizer, spool, Ranked((Turn("user", "hi"),), ("a", "a"), (2, 1), "s", 1), kind="groups")
    assert groups == [] and tally.counts == {"chosen equal to rejected": 1}


@pytest.mark.parametrize("name", list(BUILT))
@pytest.mark.parametrize("habit", [None, "llama3", "llama2", "rewriting", "straddling"])
def test_turns_of_one_dialogue_share_what_their_ids_share(name: str, habit: str | None, spool: Spool) -> None:
    """Whatever the template does with earlier turns, each branch holds its own ids, and the question stands once."""
    tokenizer = BUILT[name]()
    if habit is None:
        apply_template(tokenizer)
    else:
        tokenizer.chat_template = HABITS[habit]
    turns: tuple[Turn, ...] = (Turn("user", "Which number comes next: " + ", ".join(map(str, range(30))) + "?"),)
    records = []
    for turn, wrong in enumerate(("40", "It must be 41", "31, I think"), 1):
        records.append(Preference(turns, "30", wrong, "s", turn, group="g"))
        turns = (*turns, Turn("assistant", wrong), Turn("user", "Your answer is wrong."))
    encoded, _ = encode(tokenizer, spool, *records)
    trees = grow_trees(encoded, spool, token_budget=4000, tally=Tally(), tags=[]).finish({})
    assert len(trees) == 1
    alone = int(trees.tensors["alone"].sum())
    assert int(trees.lengths.sum()) < (0.45 if habit != "rewriting" else 0.6) * alone
