"""Names of languages, words of scripts without spaces, estimates of tokens; and which language a text is in (lingua)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fulgurite.synthesis.authors import Author
from fulgurite.synthesis.multilingual.languages import WORD, check_detector, name_of, other_language
from fulgurite.synthesis.steps.decontaminate import grams
from tests.synthesis.fakes import ran, written

GERMAN = "Die Flut steigt, weil der Mond das Wasser der Meere anzieht und die Erde sich dreht."
FRENCH = "La marée monte parce que la Lune attire l'eau des mers et que la Terre tourne."
CHINESE = "因为月亮吸引海水，而且地球在自转，所以潮水会上涨。"


def test_names() -> None:
    assert [name_of(code) for code in ("fr", "zh", "sw", "cu")] == ["French", "Chinese", "Swahili", "Church Slavonic"]
    with pytest.raises(ValueError, match="no language 'FR'; allowed are the two letters of ISO 639-1"):
        name_of("FR")


def test_words_of_scripts_without_spaces() -> None:
    assert WORD.findall("潮水上涨 twice, ソラ!") == [*"潮水上涨", "twice", *"ソラ"]
    assert WORD.findall("Die Flut 42") == ["Die", "Flut", "42"]
    assert len(grams("因为月亮吸引海水", 8)) == 1, "eight letters are eight words: a Chinese test row is found"


def test_a_chinese_test_row_is_found_again(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"question": "' + CHINESE[:12] + '吗？请说明"}\n')
    step = {
        "do": "decontaminate",
        "against": [str(tmp_path / "test.jsonl")],
        "test_column": "question",
        "substring": False,
    }
    done, _ = ran(written(tmp_path, {"steps": [step]}, [{"instruction": CHINESE}]), tmp_path / "out", lambda *_: "")
    assert done.ledger.steps[1].dropped == {"8 words of a test row": 1}


def test_tokens_are_estimated_by_bytes() -> None:
    assert Author.letters(CHINESE) == len(CHINESE) + 1, (
        "of Chinese a letter is about a token; a third of that overspends a budget"
    )
    assert Author.letters("abcdef") == 3 and Author.letters("") == 1


@pytest.fixture
def lingua() -> Any:
    return pytest.importorskip("lingua")


@pytest.mark.slow
def test_other_languages(lingua: Any) -> None:
    for text, code in ((GERMAN, "de"), (FRENCH, "fr"), (CHINESE, "zh")):
        assert other_language(text, code) is None
        assert other_language(text, "en") == code
    assert other_language("Ja.", "fr") is None, "too short to tell"
    assert other_language("42", "fr") is None
    with pytest.raises(ValueError, match="lingua does not know 'no'; allowed are nb and nn"):
        check_detector(["no"])
    with pytest.raises(ValueError, match="lingua does not know the language 'ht'; allowed are af, ar"):
        check_detector(["ht"])


@pytest.mark.slow
def test_documents_are_told_apart(lingua: Any, tmp_path: Path) -> None:
    rows = [{"text": text} for text in (GERMAN, FRENCH, CHINESE, "12 345", f"```\nprint(1)\n```\n{FRENCH}")]
    steps = [{"do": "identify", "languages": ["de", "fr"]}, {"do": "write", "table": "t", "columns": {"l": "language"}}]
    done, _ = ran(
        written(tmp_path, {"rows": {"reads": "documents"}, "steps": steps}, rows), tmp_path / "out", lambda *_: ""
    )
    assert [row["l"] for row in done.ledger.tables["t"].rows] == ["de", "fr", "fr"]
    assert done.ledger.steps[1].dropped == {"another language": 1, "a language that cannot be told": 1}
    assert done.ledger.steps[1].figures == {"rows in de": 1, "rows in fr": 2}


@pytest.mark.slow
def test_answers_in_another_language_are_asked_for_again(lingua: Any, tmp_path: Path) -> None:
    rows = [{"id": f"d{n}", "text": FRENCH} for n in range(3)]
    steps = [
        {"do": "identify", "language": "fr"},
        {"do": "question", "by": "m", "retries": 1},
        {"do": "converse", "by": "m", "retries": 1},
        {"do": "publish", "kind": "chat_specific"},
    ]
    prompts = []

    def rule(model: str, row: str, part: str, index: int, text: str) -> str:
        prompts.append(text)
        if (row, part) == ("d0", "question"):
            return "Warum steigt eigentlich jeden Tag die Flut an der Küste?"
        if (row, part) == ("d1", "answer 1") and not index:
            return GERMAN
        if (row, part) == ("d2", "answer 2"):
            return CHINESE
        if part.startswith("question"):
            return f"Pourquoi la marée monte-t-elle chaque jour sur la côte bretonne, {part} ?"
        return f"{FRENCH} Voilà pourquoi, {part}."

    recipe = written(tmp_path, {"models": {"m": {"model": "x"}}, "rows": {"reads": "documents"}, "steps": steps}, rows)
    done, _ = ran(recipe, tmp_path / "out", rule)
    assert done.ledger.steps[2].dropped == {"no question: another language": 1}
    assert done.ledger.steps[3].notes == {"ended early: no answer: another language": 1}
    table = done.ledger.tables["fr_chat_specific"].rows
    assert [len(row["data"]) > 2 for row in table] == [True, False]
    assert any("another language (de in place of fr)" in text for text in prompts)
