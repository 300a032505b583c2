"""Expressions over names: as ``re`` reads them, in bounded time, refused in one sentence."""

from __future__ import annotations

import re
import time

import pytest

from fulgurite.adapters.patterns import Pattern

NAMES = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.11.mlp.down_proj",
    "lm_head",
    "encoder.layer.3.output.dense",
    "",
]


@pytest.mark.parametrize(
    "text",
    [
        r".*\.(q|v)_proj",
        r"model\.layers\.\d+\..*",
        "lm_head",
        r"(?!.*attn).*proj",
        r".*\.[0-9]{1,2}\..*",
        "",
        r"(?i:LM)_head",
        "x|.*dense",
    ],
)
def test_whole_names_match_as_in_re(text):
    pattern = Pattern(text, "attach: targets")
    assert [pattern.matches(name) for name in NAMES] == [re.fullmatch(text, name) is not None for name in NAMES]


@pytest.mark.parametrize(
    "text",
    [
        r"([a-z0-9._]+)+[A-Z]",
        r"(a|a|.)*[A-Z]",
        r"(.*)*(.*)*(.*)*[A-Z]",
        r"(?:.|..|...)*[A-Z]",
        r"(?:.?){60}[A-Z]",
        r"((x{9999}){9999}){9999}",
        r"(x{99}){999}",
    ],
)
def test_no_expression_takes_long(text, monkeypatch):
    monkeypatch.setattr("fulgurite.adapters.patterns._SECONDS", 0.1)
    start = time.monotonic()
    try:
        pattern = Pattern(text, "attach: targets")
        assert not any(pattern.matches("a_module_whose_name_is_rather_long_for_a_module") for _ in range(50))
    except ValueError as error:
        assert re.search(r"^attach: targets=.*(takes too long to match|at most 10,000 in all are allowed)", str(error))
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("text", "words"), [("(", "no valid regular expression"), ("x" * 100_001, "100,001 characters; at most")]
)
def test_bad_expressions_are_named(text, words):
    with pytest.raises(ValueError, match=words):
        Pattern(text, "attach: targets")
