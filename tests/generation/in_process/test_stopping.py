"""A stop text may begin in one token and end in another, and bytes of a letter may come one by one."""

import random

import pytest

from fulgurite.generation import load_for_generation
from fulgurite.generation.in_process.stopping import cut_before, stops_of


def test_the_first_stop_cuts_and_of_several_there_the_longest() -> None:
    assert cut_before("a\n\nclass", ["\nclass", "\n\n"]) == ("a", "\n\n")
    assert cut_before("a\n\nclass", ["\n", "\n\n"]) == ("a", "\n\n")
    assert cut_before("abc", ["x"]) == ("abc", None)


def test_the_text_is_followed_token_by_token() -> None:
    tokenizer = load_for_generation("playground").tokenizer
    draw = random.Random(0)
    texts = [
        "What is 2 + 3? It is 5.",
        "naïve café — 漢字 🙂 ok",
        "two\n\nlines and  spaces",
        "def f(x):\n    return x",
    ]
    hits = 0
    for _ in range(200):
        text = draw.choice(texts)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        at = draw.randrange(1, len(ids))
        behind = whole[len(tokenizer.decode(ids[:at], skip_special_tokens=True)) :]
        if "\ufffd" in behind or not whole.startswith(tokenizer.decode(ids[:at], skip_special_tokens=True)):
            continue
        begin = draw.randrange(len(behind))
        stop = behind[begin : begin + draw.randrange(1, 5)]
        follow = stops_of(tokenizer, [], [], [stop]).follow
        assert follow is not None
        step, read = follow(ids[:at]), []
        for token in ids[at:]:
            read.append(token)
            if step(token) is not None:
                break
        else:
            pytest.fail(f"{stop!r} was not found in {behind!r}")
        shown = tokenizer.decode(ids[:at] + read, skip_special_tokens=True)[len(whole) - len(behind) :]
        before = tokenizer.decode(ids[:at] + read[:-1], skip_special_tokens=True)[len(whole) - len(behind) :]
        assert stop in shown and stop not in before, "at the very token that completes it"
        hits += 1
    assert hits > 100


def test_a_special_token_is_a_stop_by_its_name() -> None:
    tokenizer = load_for_generation("playground").tokenizer
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    stops = stops_of(tokenizer, [1], [2], ["<|end|>"])
    assert stops.tokens == {1: 1, 2: 2, end: "<|end|>"} and stops.follow is None
