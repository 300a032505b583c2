"""Questions, translations and verdicts in the form that was asked for, in other ones, and in none."""

from __future__ import annotations

import pytest

from fulgurite.synthesis.multilingual.parsing import CRITERIA, Unread, question_in, translation_in, verdict_in

ZEROS = "\n".join(f"{name}: 0" for name in CRITERIA)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Why do tides rise?", "Why do tides rise?"),
        ("Question: Why do tides rise?", "Why do tides rise?"),
        ("**Question 1:** Why do tides rise?\n", "Why do tides rise?"),
        ('"Why do tides rise?"', "Why do tides rise?"),
        ("« Pourquoi la mer monte-t-elle ? »", "Pourquoi la mer monte-t-elle ?"),
        ("1. Explain why tides rise.", "Explain why tides rise."),
        ("问题：潮水为什么会上涨？", "潮水为什么会上涨？"),
        ("Question:\nWhy do tides rise?", "Why do tides rise?"),
        ('"Tide" or "ebb"', '"Tide" or "ebb"'),
    ],
)
def test_questions(text: str, question: str) -> None:
    assert question_in(text) == question


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" \n", "empty"),
        ("?!", "empty"),
        ("1. Why?\n2. How?", "several lines in place of one question"),
        ("According to the text, why do tides rise?", "a question that points at the document"),
        ("根据文本，潮水为什么会上涨？", "a question that points at the document"),
        ("Selon le texte, pourquoi ?", "a question that points at the document"),
        ("Según el texto, ¿por qué?", "a question that points at the document"),
        ("Почему, согласно тексту, растёт вода?", "a question that points at the document"),
        ("Why? <document>", "marks of the prompt"),
    ],
)
def test_what_is_no_question(text: str, reason: str) -> None:
    with pytest.raises(Unread, match=reason):
        question_in(text)


def test_translations_stand_between_marks() -> None:
    assert translation_in("Sure!\n<translation>\nBonjour.\n</translation>") == "Bonjour."
    for text in ("Bonjour.", "<translation>Bon", "<translation>a</translation> or <translation>b</translation>"):
        with pytest.raises(Unread, match="another format"):
            translation_in(text)
    with pytest.raises(Unread, match="empty"):
        translation_in("")


def test_verdicts() -> None:
    assert not any(verdict_in(f"{ZEROS}\nTotal Score: 0").values())
    found = verdict_in("Here:\n- **Names**: 1 (Ann Lee)\n" + ZEROS.split("\n", 1)[1].upper() + "\n**Total Score: 1**")
    assert [name for name, met in found.items() if met] == ["names"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("It is fine.", "a criterion without 0 or 1"),
        (ZEROS.replace("places: 0", "places: 2"), "a criterion without 0 or 1"),
        (ZEROS.replace("places: 0", "places: 0.5"), "a criterion without 0 or 1"),
        (ZEROS.replace("places: 0", "places: N/A"), "a criterion without 0 or 1"),
        (ZEROS.replace("places: 0\n", ""), "a criterion without 0 or 1"),
        (f"{ZEROS}\nplaces: 1", "a criterion without 0 or 1"),
        (f"{ZEROS}\nTotal Score: 3", "a total that is not the sum"),
    ],
)
def test_what_is_no_verdict(text: str, reason: str) -> None:
    with pytest.raises(Unread, match=reason):
        verdict_in(text)
