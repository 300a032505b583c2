"""Real rows: references that need something special pass, buggy programs fail as one interpreter says. The study runs them all."""

from pathlib import Path

import pytest

from benchmarks.studies import sandbox_references
from fulgurite.sandbox import Sandbox, run_many

pytestmark = pytest.mark.real_data

# Prompts with helpers, objects of the program's classes, a function called sum or check, a module that the test does not import.
SPECIAL = {
    "humaneval": [f"HumanEval/{number}" for number in (0, 32, 33, 38, 50, 162)],
    "mbpp": [f"MBPP/{number}" for number in (56, 126, 349, 367, 596, 601, 927)],
    "humanevalpack": ["Python/0", "Python/32", "Python/38"],
    "humaneval-x-python": ["Python/50"],
    "codeerror-buggy": ["CodeError/1", "CodeError/6", "CodeError/19", "CodeError/109"],
    "humanevalpack-buggy": ["Python/0", "Python/1"],
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_rows_end_as_they_state(name: str, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULGURITE_REAL_DATA", str(real_data))
    rows = [row for row in sandbox_references.SETS[name]() if row.name in SPECIAL[name]]
    assert len(rows) == len(SPECIAL[name])
    results = run_many([row.job for row in rows], sandbox=Sandbox(quiet=True))
    odd = {row.name: sandbox_references.describe(result) for row, result in zip(rows, results)}
    for row, result in zip(rows, results):
        if sandbox_references.as_stated(row, result):
            del odd[row.name]
    assert odd == {}


def test_every_known_exception_is_a_row(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULGURITE_REAL_DATA", str(real_data))
    for name in {name for name, _ in sandbox_references.KNOWN}:
        rows = {row.name for row in sandbox_references.SETS[name]()}
        assert {row for other, row in sandbox_references.KNOWN if other == name} <= rows
