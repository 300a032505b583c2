"""Segments hold every paragraph, in order, below the limit."""

from __future__ import annotations

import random

from fulgurite.synthesis.multilingual.segments import segments_of


def words(text: str) -> int:
    return len(text.split())


def test_the_paragraph_that_overflows_begins_the_next_segment() -> None:
    text = "a a a\n\nb b b\n \nc c c c\nd"
    assert segments_of(text, 9, words) == ["a a a\nb b b", "c c c c\nd"]  # a line feed counts as one
    assert segments_of(text, 100, words) == ["a a a\nb b b\nc c c c\nd"]
    assert segments_of("one", 100, words) == ["one"] and segments_of(" \n", 100, words) == []


def test_a_long_paragraph_is_divided_at_sentences_words_letters() -> None:
    assert segments_of("A b c. D e f. G h i.", 6, words) == ["A b c.", "D e f.", "G h i."]
    joined = segments_of("One two. Three four! Five six? Seven eight.", 7, words)
    assert joined == ["One two. Three four!", "Five six? Seven eight."]  # the blank between two sentences stays
    assert segments_of("a b c d e", 5, words) == ["a b", "c d", "e"]
    assert segments_of("abcdefgh", 4, len) == ["ab", "cd", "ef", "gh"]
    assert segments_of("潮水上涨。月亮升起。太阳落下。", 8, len) == ["潮水上涨。", "月亮升起。", "太阳落下。"]


def test_nothing_is_lost() -> None:
    draw = random.Random(0)
    for _ in range(200):
        letters = "".join(draw.choices("ab .\n。", (8, 8, 4, 1, 1, 1), k=draw.randint(1, 300)))
        most = draw.randint(4, 60)
        for count in (len, words):
            found = segments_of(letters, most, count)
            assert "".join("".join(found).split()) == "".join(letters.split())
            assert all(count(segment) < most for segment in found)
