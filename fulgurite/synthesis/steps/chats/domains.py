"""The three domains of UltraChat 2, and the lists that models write."""

from __future__ import annotations

import re

from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.rows import Row

__all__ = ["DOMAINS", "check_domains", "domain_of", "listed", "with_domain"]

DOMAINS = ("text", "code", "maths")
_SPELLED = {"math": "maths", "mathematics": "maths"}
_KINDS = {"Coding": "code", "Math_CoT": "maths", "Math_PoT": "maths", "Logic": "text"}
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]*\**(?:[A-Za-z-]+[ \t]+)?(\d{1,3})[.):]?\**[ \t]*(.*)$")
_NUMBER = re.compile(r"^[ \t]*\**(\d{1,3})[.):]\**[ \t]*(.*)$")
_POINT = re.compile(r"^[ \t]*[-*•][ \t]+(.*)$")


def domain_of(row: Row) -> str | None:
    """The domain of a row: its column `domain`, or what its problem's kind tells; None where neither does.

    Args:
        row: any.
    """
    given = row.data.get("domain")
    if given is None:
        return None if row.problem is None else _KINDS[row.problem.kind]
    name = str(given).strip().lower()
    name = _SPELLED.get(name, name)
    return name if name in DOMAINS else None


def with_domain(rows: list[Row], desk: Desk) -> list[tuple[Row, str]]:
    """Rows with their domains; those without one are left out and counted.

    Args:
        rows: of the step.
        desk: of the step.
    """
    found = []
    for row in rows:
        domain = domain_of(row)
        if domain is None:
            given = row.data.get("domain")
            desk.drop(row, "no domain", f"'domain' is {given!r}; allowed are {', '.join(DOMAINS)}")
        else:
            found.append((row, domain))
    return found


def check_domains(given: dict[str, object], option: str) -> None:
    """Refuses a table by domain that names another domain, or leaves all out.

    Args:
        given: the table.
        option: its name.

    Raises:
        ValueError: an unknown domain, or no domain.
    """
    unknown = [name for name in given if name not in DOMAINS]
    if unknown or not given:
        told = f"names {unknown[0]!r}" if unknown else "is empty"
        raise ValueError(f"synthesize: {option} {told}; allowed are {', '.join(DOMAINS)}; correct the recipe")


def listed(text: str) -> list[str]:
    """The entries of a list in a model's answer: behind headings with a number, numbered, or behind dashes.

    An entry goes on until the next one begins. Numbers have to follow each other from 1, so that a list inside an entry that stands
    behind a heading ends nothing.

    Args:
        text: what a model wrote.
    """
    lines = text.splitlines()
    for kind in (_HEADING, _NUMBER):
        found = _numbered(lines, kind)
        if found:
            return found
    return [entry for line in lines if (point := _POINT.match(line)) and (entry := _bare(point[1]))]


def _numbered(lines: list[str], kind: re.Pattern[str]) -> list[str]:
    entries: list[list[str]] = []
    for line in lines:
        begun = kind.match(line)
        if begun and int(begun[1]) == len(entries) + 1:
            entries.append([begun[2]])
        elif entries:
            entries[-1].append(line)
    return [entry for lines in entries if (entry := _bare("\n".join(lines)))]


def _bare(text: str) -> str:
    """Without blanks and bold marks around it."""
    text = text.strip()
    if len(text) > 4 and text.startswith("**") and text.endswith("**"):
        text = text[2:-2].strip()
    return text
