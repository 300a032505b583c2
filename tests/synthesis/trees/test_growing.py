"""Trees of scripted models equal the specification's pseudo-code: structure, ladder, unpaired nodes, ids, prompts, hints."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from fulgurite.evaluation.runner.record_file import IdentityError
from fulgurite.synthesis.problems import masked
from tests.synthesis.fakes import Rule, ran, written

MODELS = {name: {"model": "x"} for name in ("actor", "second", "third", "weak_one", "weak_two", "critic")}
STEP = {"name": "trees", "do": "trees", "actor": "actor", "ladder": ["second", "third"], "critic": "critic",
        "wrong": ["weak_one", "weak_two"], "turns": 5, "tries": 3, "wrong_tries": 2}  # fmt: skip
RUNGS = ("actor", "second", "third", "gold", None)
PART = {"actor": "right/0 actor", "second": "right/1 second", "third": "right/2 third", "gold": "right/gold"}
PREFIX = "Solve the following math problem step-by-step.\n"


def recipe_of(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Any:
    return written(folder, {"models": MODELS, "steps": [{**STEP, **options}]}, rows)


def problems(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"r{i}", "instruction": f"What is {i} + 90?", "answer": str(i + 90), "solution": f"{i} + 90 = {i + 90}"}
        for i in range(count)
    ]


def scripts(count: int, seed: int) -> dict[tuple[str, int], tuple[str | None, bool]]:
    """For each row and turn: the rung that first has a right action, and whether there is a wrong one."""
    draws = random.Random(seed)
    return {(f"r{i}", turn): (draws.choice(RUNGS), draws.random() < 0.8) for i in range(count) for turn in range(1, 6)}


def scripted(script: dict[tuple[str, int], tuple[str | None, bool]]) -> Rule:
    """Index 1 alone is right at the rung of the script, index 1 alone is wrong where there is a wrong one."""

    def rule(model: str, row: str, part: str, index: int, text: str) -> str:
        turn, what, target = int(part[5]), part[7:], str(int(row[1:]) + 90)
        rung, wrong = script[row, turn]
        if what == "critique":
            return f"critique {row} {turn}"
        if what == "wrong":
            return f"wrong {turn} by {model}. Answer: {0 if index == 1 and wrong else target}"
        right = rung is not None and what == PART[rung] and index == 1
        return f"right {turn} by {rung}. Answer: {target if right else 0}"

    return rule


def pseudo_code(row: dict[str, Any], script: dict[tuple[str, int], tuple[str | None, bool]]) -> list[dict[str, Any]]:
    """The specification's loop (eurus.md 1.1), told for one instruction."""
    history, nodes = [("user", PREFIX + row["instruction"])], []
    for turn in range(1, 6):
        rung, has_wrong = script[row["id"], turn]
        if rung is None and not has_wrong:
            break
        nodes.append({"turn": turn, "rung": rung, "wrong": has_wrong, "history": list(history)})
        if not has_wrong:
            break
        history += [("assistant", f"wrong {turn}"), ("user", f"Your answer is wrong.\ncritique {row['id']} {turn}")]
    return nodes


def test_structure_counts_and_ids_equal_the_pseudo_code(tmp_path: Path) -> None:
    rows, script = problems(16), scripts(16, 3)
    done, asked = ran(recipe_of(tmp_path, rows), tmp_path / "out", scripted(script))
    pairs = {row["id"]: row for row in done.ledger.tables["pair"].rows}
    right = {row["id"]: row for row in done.ledger.tables["sft"].rows}
    counts, expected_asks, unpaired = {"pair": 0, "sft": 0}, 0, 0
    for row in rows:
        nodes = pseudo_code(row, script)
        parent = hashlib.sha256((PREFIX + row["instruction"]).encode()).hexdigest()
        for node in nodes:
            own = f"{parent}_{len(nodes)}_{node['turn']}"
            unpaired += (node["rung"] is None) != (not node["wrong"]) if node["wrong"] or node["rung"] else 0
            if node["rung"] is not None:
                counts["sft"] += 1
                response = f"right {node['turn']} by {node['rung']}. Answer: {row['answer']}"
                assert right[own] == {
                    "task": "Math_CoT", "dataset": "own", "instruction": PREFIX + row["instruction"],
                    "response": response, "id": own, "parent_id": parent,
                }  # fmt: skip
            if node["rung"] is not None and node["wrong"]:
                counts["pair"] += 1
                said = [(turn["from"], turn["value"]) for turn in pairs[own]["trajectory"]]
                assert len(said) == 2 * node["turn"] - 1 and said[-1][0] == "user"
                assert [(who, text.partition(" by ")[0]) for who, text in said] == node["history"]
                assert pairs[own]["chosen"] == right[own]["response"]
                assert pairs[own]["rejected"].startswith(f"wrong {node['turn']} by weak_")
                assert pairs[own]["rejected"].endswith("Answer: 0")
        for turn in range(1, len(nodes) + 1 + (len(nodes) < 5 and (not nodes or nodes[-1]["wrong"]))):
            rung, has_wrong = script[row["id"], turn]
            expected_asks += 3 * (1 + RUNGS.index(rung) if rung is not None else 4) + 2
            expected_asks += has_wrong and turn < 5
    assert (len(pairs), len(right)) == (counts["pair"], counts["sft"]) and len(asked) == expected_asks
    figures = done.ledger.steps[1].figures
    assert figures["pairs"] == counts["pair"] and figures["right actions"] == counts["sft"]
    assert figures["unpaired"] == unpaired > 5 and set(figures["trees by turns"]) >= {"T1", "T2", "T5"}
    assert set(figures["right actions by rung"]) == {"actor", "second", "third", "gold"}
    weak = {row["rejected"].partition(" by ")[2].partition(".")[0] for row in pairs.values()}
    assert weak == {"weak_one", "weak_two"}, "the pool's models take turns at random"


def test_the_published_schema_is_read_in_strict_mode(tmp_path: Path) -> None:
    from fulgurite.data.readers.conversations import ConversationReader
    from fulgurite.data.readers.preferences import PreferenceReader
    from fulgurite.data.sources.locate import user_sources

    for kind in ("jsonl", "parquet"):
        recipe = written(tmp_path, {"models": MODELS, "format": kind, "steps": [STEP]}, problems(6))
        done, _ = ran(recipe, tmp_path / kind, scripted(scripts(6, 5)))
        read: Any
        for name, reader, schema in (
            ("pair", PreferenceReader, "ultrainteract_pair"),
            ("sft", ConversationReader, "ultrainteract_sft"),
        ):
            read = reader(user_sources(str(done.files[name]), owner="test"), on_bad_row="error")
            records = list(read)
            assert set(read.schemas.values()) == {schema} and len(records) == len(done.ledger.tables[name].rows) > 3
            assert read.tally.counts == {} and [note.split(": ")[1] for note in read.tally.notes] == ["dataset, id"]
        made = [json.loads(line) for line in (tmp_path / kind / "pair.made.jsonl").read_text().splitlines()]
        assert len(made) == len(done.ledger.tables["pair"].rows)
        for own, row in zip(made, done.ledger.tables["pair"].rows, strict=True):
            turn = int(row["id"].rpartition("_")[2])
            assert (
                own["row"] == f"r{int(row['trajectory'][0]['value'].split()[-3])}" and len(own["answers"]) == 2 * turn
            )
            assert {"model", "prompt", "templates", "seed", "tokens", "money"} <= set(own["answers"][0])


def test_the_actor_never_sees_the_answer_and_hints_are_masked(tmp_path: Path) -> None:
    seen: dict[str, list[str]] = {}

    def rule(model: str, row: str, part: str, index: int, text: str) -> str:
        seen.setdefault(part, []).append(text)
        return "Compute it." if part.endswith("critique") else "Answer: 0"

    rows = [
        {
            "id": "r1",
            "instruction": "How many are left?",
            "answer": "1,234",
            "solution": "<<1000+234=1234>>1234, so $1,234.",
        }
    ]
    done, _ = ran(recipe_of(tmp_path, rows, turns=2), tmp_path / "out", rule)
    hinted = [part for part in seen if part.endswith("gold")]
    assert hinted == ["turn 1/right/gold", "turn 2/right/gold"]
    for part in hinted:
        assert all(
            "1234" not in text and "1,234" not in text and "<<1000+234=[…]>>[…], so […]." in text for text in seen[part]
        )
    for part, texts in seen.items():
        assert ("1,234" in texts[0]) == part.endswith("critique"), "only the critic sees the gold answer"
        assert ("How many are left?" in texts[0]) and ("Your answer is wrong." in texts[0]) == (
            part.startswith("turn 2")
        )
    assert done.ledger.steps[1].notes["a turn without a right action"] == 2 and not done.ledger.tables["pair"].rows
    assert masked("4 of 40, 4.0 and 14", "4") == "[…] of 40, […] and 14"
    assert masked("So it is B. the dog, not AB.", "B") == "So it is […]. the dog, not AB."


def test_a_gold_solution_that_fails_leaves_its_row_out(tmp_path: Path) -> None:
    rows = problems(3)
    rows[1]["solution"] = "1 + 90 = 92"
    rows.append({"id": "r3", "instruction": "Write a poem."})
    done, asked = ran(recipe_of(tmp_path, rows), tmp_path / "out", scripted(scripts(4, 1)))
    count = done.ledger.steps[1]
    assert dict(count.dropped) == {"the gold solution fails": 1, "nothing to judge by": 1} and count.kept == 2
    assert {row for _, row, _, _ in asked} == {"r0", "r2"}


def test_actions_with_a_flaw_are_left_out_and_counted(tmp_path: Path) -> None:
    texts = {0: "", 1: "```python\nprint(1\n```\nAnswer: 90", 2: "Answer: 90"}

    def rule(model: str, row: str, part: str, index: int, text: str) -> str:
        return "Answer: 3" if "wrong" in part else texts[index] if "right" in part else "c"

    done, _ = ran(recipe_of(tmp_path, problems(1), turns=1), tmp_path / "out", rule)
    assert done.ledger.steps[1].notes == {
        "an action left out: empty action": 1, "an action left out: syntax error": 1,
    }  # fmt: skip
    assert done.ledger.tables["pair"].rows[0]["chosen"] == "Answer: 90"


def test_answers_that_cannot_be_had_wait_and_come_later(tmp_path: Path) -> None:
    rows, script = problems(6), scripts(6, 2)
    rule = scripted(script)

    def failing(model: str, row: str, part: str, index: int, text: str) -> str | None:
        return None if row == "r2" and part == "turn 1/wrong" and index == 1 else rule(model, row, part, index, text)

    _, everything = ran(recipe_of(tmp_path, rows), tmp_path / "whole", rule)
    first, asked = ran(recipe_of(tmp_path, rows), tmp_path / "out", failing)
    assert list(first.ledger.left) == ["r2"] and first.ledger.steps[1].notes["an answer could not be had"] == 1
    assert all(made["row"] != "r2" for made in first.ledger.tables["pair"].made)
    second, more = ran(recipe_of(tmp_path, rows), tmp_path / "out", rule)
    assert not set(asked) - {("weak_one", "r2", "turn 1/wrong", 1), ("weak_two", "r2", "turn 1/wrong", 1)} & set(more)
    assert sorted({*asked, *more}) == sorted(everything) and {one[1] for one in more} == {"r2"}
    assert (tmp_path / "out" / "pair.jsonl").read_bytes() == (tmp_path / "whole" / "pair.jsonl").read_bytes()
    assert second.ledger.left == {}


def test_other_prompts_or_models_are_not_mixed(tmp_path: Path) -> None:
    rows, rule = problems(2), scripted(scripts(2, 2))
    ran(recipe_of(tmp_path, rows), tmp_path / "out", rule)
    with pytest.raises(IdentityError, match="answers another prompt than the one that would be asked now"):
        ran(
            recipe_of(tmp_path, [{**row, "instruction": row["instruction"] + "!"} for row in rows]),
            tmp_path / "out",
            rule,
        )
    recipe = written(tmp_path, {"models": MODELS, "seed": 1, "steps": [STEP]}, rows)
    with pytest.raises(IdentityError, match="seed: 0 there, 1 now"):
        ran(recipe, tmp_path / "out", rule)
    again, asked = ran(recipe, tmp_path / "out", rule, overwrite=True)
    assert again.known == 0 and asked
