"""UltraFeedback's annotation by scripted judges: order of the texts, formats, schema, rules of pairs, agreement, resuming."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fulgurite.synthesis.annotation.agreement import agreement, weighted_kappa
from fulgurite.synthesis.annotation.binarising import RULES, Case, rows_of_rule
from fulgurite.synthesis.steps.draw import MIXES
from tests.synthesis.fakes import ran, written

POOL = ("one", "two", "three", "four", "five")
MODELS = {name: {"model": "x"} for name in (*POOL, "judge", "other")}
STEPS = [
    {"name": "completions", "do": "draw", "models": list(POOL), "n": 4, "principles": True},
    {"name": "ratings", "do": "rate", "by": "judge"},
    {"name": "second", "do": "rate", "by": "other", "into": "annotations_second", "aspects": ["honesty", "helpfulness"]},
    {"name": "critiques", "do": "critique", "by": "judge"},
    {"name": "agreement", "do": "agree"},
    {"name": "pairs", "do": "pair", "rules": list(RULES)},
]  # fmt: skip
WORTH = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}


def rows(count: int) -> list[dict[str, Any]]:
    sources = ["sharegpt", "truthful_qa", "flan", "evol_instruct"]
    return [
        {"id": f"r{i}", "instruction": f"Request number {i}, please.", "source": sources[i % 4]} for i in range(count)
    ]


def rule(model: str, row: str, part: str, index: int, text: str) -> str:
    """Texts say who wrote them, and both judges rate them by that, the second one higher by one."""
    if model in POOL:
        return f"By {model} for {row}."
    if part.startswith("completion"):
        worth = WORTH[re.findall(r"By (\w+) for", text)[0]]
        return f"It could be better.\nOverall Score: {2 * worth}"
    answers = re.findall(r"### Text \d+\nBy (\w+) for", text)
    more = 1 if model == "other" else 0
    lines = [
        f"#### Text {n}\nRationale: By {who}.\nRating: {min(5, WORTH[who] + more)}" for n, who in enumerate(answers, 1)
    ]
    return "\n\n".join(lines)


def test_a_whole_run(tmp_path: Path) -> None:
    from fulgurite.data.readers.preferences import PreferenceReader
    from fulgurite.data.sources.locate import user_sources

    done, asked = ran(written(tmp_path, {"models": MODELS, "steps": STEPS}, rows(8)), tmp_path / "out", rule)
    assert len(asked) == 8 * (4 + 4 + 2 + 4) and done.ledger.left == {}
    table = done.ledger.tables["ultrafeedback"].rows
    orders, pools = set(), set()
    for row in table:
        assert list(row) == ["source", "instruction", "models", "completions", "correct_answers", "incorrect_answers"]
        pools.add(tuple(row["models"]))
        for completion in row["completions"]:
            worth = WORTH[completion["model"]]
            assert completion["response"].startswith(f"By {completion['model']} for")
            given = completion["annotations"]
            assert {aspect: entry["Rating"] for aspect, entry in given.items()} == dict.fromkeys(
                ("instruction_following", "honesty", "truthfulness", "helpfulness"), str(worth)
            )
            assert all(entry["Rationale"] == f"By {completion['model']}." for entry in given.values())
            assert set(given["honesty"]) == {"Rating", "Rationale"}
            assert set(given["helpfulness"]) == {"Type", "Rating", "Rationale", "Rationale For Rating"}
            assert completion["overall_score"] == 2 * worth and completion["fine-grained_score"] == worth
            assert completion["critique"] == "It could be better."
            mix = MIXES.get(
                row["source"], {"helpfulness": 1, "truthfulness": 1, "honesty": 1, "verbalized_calibration": 1}
            )
            assert completion["principle"] in mix and completion["custom_system_prompt"]
    for _, row_key, part, _ in asked:
        orders.add((row_key, part))
    assert len(pools) > 3, "four of the pool at random"
    figures = done.ledger.steps[5].figures
    assert set(figures) == {"honesty", "helpfulness"} and figures["honesty"]["texts"] == 32
    assert figures["honesty"]["ordered alike"]["share"] == 1.0 and 0 < figures["honesty"]["second − first"] < 1
    reader = PreferenceReader(user_sources(str(done.files["ultrafeedback"]), owner="test"), on_bad_row="error")
    assert len(list(reader)) == 8 and set(reader.schemas.values()) == {"ultrafeedback"} and reader.tally.notes == {
        "columns that schema ultrafeedback does not read: models, correct_answers, incorrect_answers": 1
    }  # fmt: skip
    schemas = {"all": "preference", "zephyr": "preference", "argilla": "argilla", "argilla_cleaned": "preference",
               "argilla_kto": "unpaired", "chendrag": "chendrag", "trl": "unpaired"}  # fmt: skip
    counts = {}
    for name, schema in schemas.items():
        reader = PreferenceReader(user_sources(str(done.files[name]), owner="test"), on_bad_row="error")
        counts[name] = len(list(reader))
        assert set(reader.schemas.values()) == {schema}, name
        assert counts[name] == len(done.ledger.tables[name].rows)
    assert counts == {
        "all": 48, "zephyr": 6, "argilla": 8, "argilla_cleaned": 6, "argilla_kto": 12, "chendrag": 8, "trl": 32,
    }  # fmt: skip


def test_texts_come_in_random_order_and_ratings_go_back_to_their_own(tmp_path: Path) -> None:
    seen = {}

    def noting(model: str, row: str, part: str, index: int, text: str) -> str:
        if model == "judge" and not part.startswith("completion"):
            seen[row, part] = tuple(re.findall(r"### Text \d+\nBy (\w+) for", text))
        return rule(model, row, part, index, text)

    done, _ = ran(written(tmp_path, {"models": MODELS, "steps": STEPS[:2]}, rows(6)), tmp_path / "out", noting)
    assert len(seen) == 24 and len(set(seen.values())) > 12
    by_row = [len({order for (key, _), order in seen.items() if key == f"r{i}"}) for i in range(6)]
    assert max(by_row) > 1, "each aspect has an order of its own"
    assert done.ledger.tables == {}


def test_models_without_a_system_message_have_the_principle_before_the_request(tmp_path: Path) -> None:
    seen: dict[bool, list[str]] = {True: [], False: []}
    for system in (True, False):

        def noting(model: str, row: str, part: str, index: int, text: str, system: bool = system) -> str:
            seen[system].append(text)
            return "x"

        step = {**STEPS[0], "as_system": system, "models": ["one"], "n": 1}
        ran(written(tmp_path, {"models": MODELS, "steps": [step]}, rows(3)), tmp_path / str(system), noting)
    lines = [text.split("\n") for text in seen[True]]
    assert [parts[-1] for parts in lines] == [row["instruction"] for row in rows(3)] and all(
        len(parts) == 2 for parts in lines
    )
    assert seen[False] == [f"{parts[0]}\n\n{parts[1]}" for parts in lines]


def test_answers_in_other_formats_are_asked_for_again_and_counted(tmp_path: Path) -> None:
    broken = {("r0", "honesty", 0): "I'd say they are fine.", ("r1", "honesty", 0): "Text 1: 11\nText 2: 3",
              **{("r2", "helpfulness", i): "No." for i in range(3)}, ("r3", "completion 1", 0): "Nice."}  # fmt: skip
    again: list[tuple[str, str, int]] = []

    def judging(model: str, row: str, part: str, index: int, text: str) -> str:
        if model == "judge" and index:
            assert "exactly" in text, "the format is said once more"
            again.append((row, part, index))
        return broken.get((row, part, index)) or rule(model, row, part, index, text)

    steps = [STEPS[0], STEPS[1], STEPS[3], STEPS[5]]
    done, asked = ran(written(tmp_path, {"models": MODELS, "steps": steps}, rows(4)), tmp_path / "out", judging)
    assert sorted(again) == [
        ("r0", "honesty", 1), ("r1", "honesty", 1), ("r2", "helpfulness", 1), ("r2", "helpfulness", 2), ("r3", "completion 1", 1),
    ]  # fmt: skip
    assert done.ledger.steps[2].notes == {"no rating: no ratings in the answer": 4}
    table = {row["instruction"]: row for row in done.ledger.tables["ultrafeedback"].rows}
    lost = [
        completion["annotations"]["helpfulness"]["Rating"]
        for completion in table["Request number 2, please."]["completions"]
    ]
    assert lost == ["N/A"] * 4 and len(table) == 4, "no row is lost"
    assert all(c["fine-grained_score"] == WORTH[c["model"]] for c in table["Request number 2, please."]["completions"])
    again_asked = ran(written(tmp_path, {"models": MODELS, "steps": steps}, rows(4)), tmp_path / "out", judging)[1]
    assert again_asked == [] and len(asked) == 4 * 12 + 5


def completion(model: str, mean: int, overall: float | None, response: str = "") -> dict[str, Any]:
    given = {"helpfulness": {"Rating": str(mean)}, "honesty": {"Rating": "N/A"}}
    return {"model": model, "response": response or f"by {model}", "annotations": given, "overall_score": overall}


def case(*completions: dict[str, Any], source: str = "flan", seed: str = "0") -> Case:
    return Case("Ask.", source, completions, seed)


def test_rules_of_binarisation() -> None:
    four = (completion("a", 3, 6.0), completion("b", 5, 9.0), completion("c", 3, 9.0), completion("d", 1, 2.0))
    rows, reasons = rows_of_rule("all", case(*four))
    assert len(rows) == 5 and not reasons, "six pairs, one of them a tie"
    chosen = {rows_of_rule("zephyr", case(*four, seed=str(s)))[0][0]["chosen"][1]["content"] for s in range(20)}
    rejected = {rows_of_rule("zephyr", case(*four, seed=str(s)))[0][0]["rejected"][1]["content"] for s in range(20)}
    assert chosen == {"by b"} and rejected == {"by a", "by c", "by d"}, (
        "the first of two best; ties stay; not always the first one"
    )
    for seed in map(str, range(12)):
        row = rows_of_rule("argilla", case(*four, seed=seed))[0][0]
        assert row["chosen_avg_rating"] == 5 and row["rejected_avg_rating"] in (1, 3)
    tied = (completion("a", 3, 6.0), completion("b", 3, 6.0))
    assert rows_of_rule("argilla", case(*tied))[0][0]["rejected_avg_rating"] == 3, "equal in the worst case"
    assert rows_of_rule("argilla_cleaned", case(*tied)) == ([], ["a tie"])
    assert rows_of_rule("argilla_kto", case(*four))[0][0]["label"] is True
    assert rows_of_rule("all", case(*tied)) == ([], ["no two completions with different means"])
    for rule_name in ("zephyr", "argilla_cleaned", "argilla_kto"):
        assert rows_of_rule(rule_name, case(*four, source="truthful_qa"))[0] == []
    (row,), _ = rows_of_rule("chendrag", case(*four))
    assert [row[f"score_A{i}"] for i in range(4)] == [9.0, 9.0, 6.0, 2.0] and row["A0"][1]["content"] == "by b"
    assert rows_of_rule("chendrag", case(*four[:3]))[1] == ["not four completions with a score"]
    assert [row["label"] for row in rows_of_rule("trl", case(*four))[0]] == [False, True, False, False]
    unscored = (completion("a", 3, None), completion("b", 5, 7.0))
    assert rows_of_rule("zephyr", case(*unscored))[1] == ["fewer than two completions with a score"]
    same = (completion("a", 3, 7.0, "x"), completion("b", 5, 7.0, "x"))
    assert (
        rows_of_rule("zephyr", case(*same))[1] == ["all completions are the same"]
        and not rows_of_rule("all", case(*same))[0]
    )


def test_agreement_of_two_judges() -> None:
    # Kappa by hand: differences 0, 0, 1, −1 → mean square 0.5; chance: 1·1+… over both marginals = 2.5
    first, second = [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0]
    assert weighted_kappa(first, second) == pytest.approx(1 - 0.5 / 2.5)
    found = agreement([(first, second), ([5.0, None], [5.0, 3.0])])
    assert found["texts"] == 5 and found["same"]["share"] == 0.6 and found["within 1"]["share"] == 1.0
    assert found["pairs"] == 6 and found["ordered alike"]["share"] == pytest.approx(5 / 6, abs=1e-4)
    assert agreement([([None], [3.0])]) == {"texts": 0, "pairs": 0}
    constant = agreement([([3.0, 3.0], [3.0, 3.0])])
    assert constant["kappa"] is None and constant["spearman"] is None and constant["ordered alike"] is None


def test_a_budget_that_runs_out_within_a_step_goes_on_later(tmp_path: Path) -> None:
    recipe = {"models": MODELS, "steps": STEPS, "budget": {"requests": 50}}
    first, asked = ran(written(tmp_path, recipe, rows(4)), tmp_path / "out", rule)
    assert len(asked) == 50 and first.stopped == "the budget of 50 requests is used up"
    waiting = sum(sum(step.waiting.values()) for step in first.ledger.steps)
    done_rows = len(first.ledger.tables["ultrafeedback"].rows)
    assert waiting == len(first.ledger.left) > 0 and done_rows + waiting == 4
    second, more = ran(written(tmp_path, {**recipe, "budget": {"requests": 56}}, rows(4)), tmp_path / "out", rule)
    assert second.stopped is None and len(more) == 6 and not set(asked) & set(more)
    ran(written(tmp_path, {**recipe, "budget": {}}, rows(4)), tmp_path / "whole", rule)
    for file in (tmp_path / "whole").glob("*.jsonl"):
        if "made" not in file.name:
            assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes(), file.name


def test_money_is_never_overspent(tmp_path: Path) -> None:
    models = {name: {"model": "x", "price": {"prompt": 1000, "answer": 20000}} for name in MODELS}
    recipe = {"models": models, "steps": STEPS[:2], "budget": {"money": 20.0}}
    done, _ = ran(written(tmp_path, recipe, rows(8)), tmp_path / "out", rule)
    spent = done.account.spent
    assert done.stopped is not None and done.stopped.startswith("the budget of 20 is used up (")
    assert 15 < spent.money <= 20 and spent.money == pytest.approx((spent.prompt * 1000 + spent.answer * 20000) / 1e6)
