"""Equality of expressions: canonical texts, math-verify in its own process, and comparisons that hang or crash."""

from collections.abc import Iterator
from typing import Any

import pytest

import fulgurite.evaluation.judging.expressions as expressions
from fulgurite.evaluation.judging.expressions import Comparer, ExpressionJudge, canonical_expression, last_boxed
from fulgurite.evaluation.judging.verdicts import How, Verdict
from fulgurite.evaluation.tasks import TASKS, Item


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("so \\boxed{\\frac{1}{2}}, not \\boxed{3} or \\boxed{x_{1}}.", "x_{1}"),
        ("\\boxed 5$", "5"),
        ("\\fbox{7}", "7"),
        ("\\boxed{never {closed}", None),
        ("none", None),
    ],
)
def test_last_boxed(text: str, found: str | None) -> None:
    assert last_boxed(text) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("$1{,}000$", "1000.0"),
        ("\\dfrac12", "\\frac{1}{2}"),
        ("\\text{Evelyn}", "Evelyn"),
        ("50\\%", "50"),
        ("\\left( x + 1 \\right)", "(x+1)"),
        ("90^\\circ", "90"),
    ],
)
def test_canonical_texts(one: str, other: str) -> None:
    assert canonical_expression(one) == canonical_expression(other)


def test_math_answers() -> None:
    row = {"problem": "What is it?", "solution": "It is $\\boxed{\\frac{1}{2}}$."}
    item = TASKS["math"].item(row, 1)
    assert (item.target, item.prompt) == ("\\frac{1}{2}", "Problem: What is it?\nAnswer:")
    for text in ("so \\boxed{0.5}", " 0.5\nmore", "It is $0.5$", "The answer is 0.5"):
        assert TASKS["math"].answer(text, item) == "0.5", text
    with pytest.raises(ValueError, match="no 'answer'"):
        TASKS["math"].item({"problem": "P", "solution": "none"}, 1)


def verdicts(pairs: list[tuple[str, str]], how: How | None = None) -> list[Verdict]:
    found: dict[int, Verdict] = {}
    items: list[tuple[Any, str]] = [(Item("1", "", target), answer) for target, answer in pairs]
    ExpressionJudge().judge(items, found.__setitem__, how or How(workers=1))
    return [found[number] for number in range(len(pairs))]


def test_equal_texts_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions.subprocess, "Popen", None)
    assert [verdict.status for verdict in verdicts([("1,000", "1000"), ("\\frac12", "\\dfrac{1}{2}")])] == ["right"] * 2


def test_without_math_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs math-verify; pip install 'fulgurite\[math\]'"):
        ExpressionJudge().check(How())


@pytest.fixture(scope="module")
def comparer() -> Iterator[Comparer]:
    pytest.importorskip("math_verify", reason="pip install 'fulgurite[math]'")
    with Comparer(seconds=1.0) as found:
        yield found


def test_by_math_verify(comparer: Comparer) -> None:
    assert comparer.equal("\\frac{1}{2}", "0.5") == (True, "")
    assert comparer.equal("x^2-1", "(x-1)(x+1)") == (True, "")
    assert comparer.equal("3", "4") == (False, "")
    assert comparer.equal("1", "") == (False, "")


def test_a_comparison_that_hangs_is_not_equal(comparer: Comparer) -> None:
    assert comparer.equal("10^{10^{10^{10}}}", "10^{10^{10^{9}}}") == (False, "timeout")
    assert comparer.equal("0.25", "\\frac{1}{4}") == (True, ""), "another process has taken its place"


def test_a_process_that_died_is_replaced(comparer: Comparer) -> None:
    assert comparer.equal("1", "1.0")[0]
    assert comparer._process is not None
    comparer._process.kill()
    comparer._process.wait()
    assert comparer.equal("1", "1.0") == (True, "")


def test_a_comparison_that_kills_its_process_is_not_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    child = "import os, sys\nprint('ready', flush=True)\nfor line in sys.stdin:\n    os.kill(os.getpid(), 11)\n"
    monkeypatch.setattr(expressions, "_CHILD", child)
    with Comparer(seconds=5.0) as comparer:
        assert comparer.equal("1", "1.0") == (False, "crash")
        assert comparer.equal("1", "1.0") == (False, "crash")


def test_the_judge_counts_what_hangs(comparer: Comparer) -> None:
    found = verdicts([("0.5", "\\frac{2}{4}"), ("10^{10^{10^{10}}}", "10^{10^{10^{9}}}")], How(seconds=1.0, workers=1))
    assert [verdict.status for verdict in found] == ["right", "comparison timeout"]
    assert found[0].group == canonical_expression("0.5"), "equal answers are one group, however they are written"
