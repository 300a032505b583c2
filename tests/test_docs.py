"""The sentences that docs/checks.md quotes are those of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def sentences() -> list[str]:
    """Every text of the package, with … where a value is put in."""
    found = []
    for file in (ROOT / "fulgurite").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def quoted() -> list[str]:
    """What stands between backticks in the second column of a table with that heading."""
    found, quotes = [], False
    for line in (ROOT / "docs" / "checks.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            quotes = False
        elif cells[1] == "what is said":
            quotes = True
        elif quotes:
            found += re.findall(r"`([^`]+)`", cells[1])
    return found


def test_every_sentence_of_the_page_is_one_of_the_code() -> None:
    texts = sentences()
    quotes = quoted()
    assert len(quotes) > 50
    lost = []
    for quote in quotes:
        pattern = re.compile(".*".join(re.escape(part) for part in quote.split("…")), re.DOTALL)
        if not any(pattern.search(text) for text in texts):
            lost.append(quote)
    assert not lost
