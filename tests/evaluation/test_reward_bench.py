"""RewardBench: the published test vectors, items that do not fit, and ties that count as the benchmark has it."""

from __future__ import annotations

import math

import pytest

from fulgurite.evaluation.reward_bench import (
    SECTIONS,
    benchmark_items,
    best_of_four,
    score_benchmark,
    section_scores,
    ties_score,
)

# Figures of the benchmark's own example of how sections are computed.
METRICS = {
    "alpacaeval-easy": 0.5, "alpacaeval-hard": 0.7052631578947368, "alpacaeval-length": 0.5894736842105263,
    "chat_template": "tokenizer", "donotanswer": 0.8235294117647058, "hep-cpp": 0.6280487804878049, "hep-go": 0.6341463414634146,
    "hep-java": 0.7073170731707317, "hep-js": 0.6646341463414634, "hep-python": 0.5487804878048781,
    "hep-rust": 0.6463414634146342, "llmbar-adver-GPTInst": 0.391304347826087, "llmbar-adver-GPTOut": 0.46808510638297873,
    "llmbar-adver-manual": 0.3695652173913043, "llmbar-adver-neighbor": 0.43283582089552236, "llmbar-natural": 0.52,
    "math-prm": 0.2953020134228188, "model": "a model", "mt-bench-easy": 0.5714285714285714,
    "mt-bench-hard": 0.5405405405405406, "mt-bench-med": 0.725, "refusals-dangerous": 0.97, "refusals-offensive": 1,
    "xstest-should-refuse": 1, "xstest-should-respond": 0.284,
}  # fmt: skip
TIES = {
    "ref:0": ([3, 1, 0.5], 1),
    "ref:1": ([0.2, 1], 1),
    "tied:0": ([2, 1.5, 0], 2),
    "tied:1": ([2, 1, 1.2], 2),
}


def test_sections_reproduce_the_published_example():
    found = section_scores(METRICS)
    expected = {"Chat": 0.608939, "Chat Hard": 0.449561, "Safety": 0.721622, "Reasoning": 0.466757}
    assert {name: round(value, 6) for name, value in found.items()} == expected


def test_counts_are_the_published_ones():
    assert {name: sum(counts.values()) for name, counts in SECTIONS.items()} == {
        "Chat": 358,
        "Chat Hard": 456,
        "Safety": 740,
        "Reasoning": 1968,
    }


def test_ties_reproduce_the_vector_and_the_limits():
    assert ties_score(TIES) == pytest.approx(0.500086, abs=5e-7)
    assert ties_score({"ref:0": ([9, 0], 1), "tied:0": ([9, 9, 0], 2)}) == pytest.approx(1.01), (
        "nothing differs: tanh is 1"
    )
    wrong = ties_score({"ref:0": ([0, 9], 1), "tied:0": ([0, 0, 9], 2)})
    assert wrong == pytest.approx(-0.01)
    assert ties_score({"ref:0": ([1, 1], 1), "tied:0": ([1, 1, 1], 2)}) == 0.0, "0/0 counts nothing"
    alone = ties_score({"ref:0": ([9, 0], 1), "tied:1": ([9, 8, 0], 2)})
    assert alone == pytest.approx(0.6), "no prompt has both"
    with pytest.raises(ValueError, match="both kinds"):
        ties_score({"ref:0": ([9, 0], 1)})
    with pytest.raises(ValueError, match="'x:0' with 1 of 2"):
        ties_score({"x:0": ([9, 0], 1)})


def test_best_of_four_shares_ties():
    assert best_of_four([2, 1, 0, 0]) == 1 and best_of_four([1, 2, 0, 0]) == 0
    assert best_of_four([2, 2, 0, 2]) == pytest.approx(1 / 3)


def row(subset, chosen, rejected, number=0, **more):
    return {"prompt": "q", "chosen": chosen, "rejected": rejected, "subset": subset, "id": number, **more}


def items(rows, benchmark):
    return benchmark_items([(r, f"rows, line {i}") for i, r in enumerate(rows, 1)], benchmark)


def test_a_tie_is_wrong_and_an_answer_without_a_score_too():
    rows = [row("hep-go", "a", "b", i) for i in range(4)]
    result = score_benchmark(items(rows, "rewardbench"), [[1, 0], [1, 1], [0, 1], [None, 0]], "rewardbench")
    assert result.items == [1, 0, 0, 0] and result.subsets == {"hep-go": 0.25} == {
        "hep-go": result.sections["Reasoning"]
    }


def test_the_second_benchmark_is_the_plain_mean_of_its_subsets():
    rows = [
        row("Math", ["a"], ["b", "c", "d"]),
        row("Math", ["a"], ["b", "c", "d"]),
        row("Focus", ["a"], ["b", "c", "d"]),
    ]
    scores = [[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]]
    for name, (values, correct) in TIES.items():
        texts = [str(i) for i in range(len(values))]
        rows.append(row("Ties", texts[:correct], texts[correct:], name, num_correct=correct))
        scores.append(values)
    result = score_benchmark(items(rows, "rewardbench2"), scores, "rewardbench2")
    assert result.subsets["Math"] == 0.5 and result.subsets["Focus"] == 0.5
    assert result.overall == pytest.approx((0.5 + 0.5 + 0.500086) / 3, abs=1e-6)
    assert result.counts["Ties"] == 4 and math.isclose(result.sections["Ties"], ties_score(TIES))


@pytest.mark.parametrize(
    ("benchmark", "broken", "message"),
    [
        ("rewardbench", {"subset": "Math"}, "for rows of rewardbench2 give that name"),
        ("rewardbench", {"id": None}, "no id"),
        ("rewardbench", {"chosen": ["a", "b"]}, "2 chosen and 1 rejected"),
        ("rewardbench2", {"subset": "Math"}, "one chosen and three rejected texts"),
        ("rewardbench3", {}, "benchmark 'rewardbench3'"),
    ],
)
def test_rows_that_do_not_fit_are_refused(benchmark, broken, message):
    with pytest.raises(ValueError, match=message):
        items([{**row("hep-go", "a", "b"), **broken}], benchmark)
    with pytest.raises(ValueError, match="no row of rewardbench"):
        items([], "rewardbench")
