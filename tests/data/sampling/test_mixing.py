"""Shares of sources, the division into training and validation rows, and the report of lengths."""

from pathlib import Path

import pytest
import torch

from fulgurite.data.records.findings import Tally
from fulgurite.data.rows.report import draw_histogram, length_report, text_histogram
from fulgurite.data.sampling.mixing import largest_remainder, mix
from fulgurite.data.sampling.splits import held_out

TAG = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
NAMES = ["en", "fr", "zh"]


def counts(rows: torch.Tensor) -> list[int]:
    return torch.bincount(TAG[rows], minlength=3).tolist()


def test_largest_remainder() -> None:
    assert largest_remainder(10, [1, 1, 1]) == [4, 3, 3]
    assert largest_remainder(7, [0.5, 0.3, 0.2]) == [4, 2, 1]
    assert largest_remainder(0, [1, 2]) == [0, 0]
    assert sum(largest_remainder(101, [0.13, 0.29, 0.58])) == 101


def test_an_epoch_ends_with_the_first_source_and_repeats_nothing() -> None:
    weights = {"en": 0.2, "fr": 0.3, "zh": 0.5}
    rows = mix(TAG, NAMES, weights)
    assert counts(rows) == [8, 12, 20] and len(rows.unique()) == 40
    assert torch.equal(rows, mix(TAG, NAMES, weights)) and not torch.equal(rows, mix(TAG, NAMES, weights, seed=1))
    assert counts(mix(TAG, NAMES, {"en": 5, "fr": 3, "zh": 2})) == [
        50,
        30,
        20,
    ]  # as they are: every row, in float shares
    assert counts(mix(TAG, NAMES, {"en": 0, "fr": 1, "zh": 1})) == [0, 20, 20]
    assert counts(mix(TAG, NAMES, {"en": 0.1, "fr": 0.1, "zh": 0.8})) == [3, 2, 20]  # 25 rows at these shares


def test_shares_that_floats_do_not_hold_exactly() -> None:
    tag = torch.tensor([0] * 3 + [1] * 40)
    assert torch.bincount(tag[mix(tag, ["a", "b"], {"a": 0.01, "b": 0.08})]).tolist() == [3, 24]


def test_repeating_keeps_the_number_of_rows_and_spreads_the_repetitions() -> None:
    rows = mix(TAG, NAMES, {"en": 0.1, "fr": 0.35, "zh": 0.55}, "repeat")
    assert counts(rows) == [10, 35, 55] and len(rows) == 100
    times = torch.bincount(rows, minlength=100)
    assert times[:50].max() == 1 and set(times[50:80].tolist()) == {1, 2} and set(times[80:].tolist()) == {2, 3}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"en": 1.0}, r"fr, zh has none; the rows are: en 50, fr 30, zh 20"),
        ({"en": 1, "fr": 1, "zh": 1, "ru": 1}, r"no row belongs to ru"),
        ({"en": 1, "fr": 1, "zh": -1}, r"none may be negative"),
        ({"en": 0, "fr": 0, "zh": 0}, r"one at least must be above 0"),
        ({"en": 1, "fr": 1, "zh": float("nan")}, r"none may be negative"),
    ],
)
def test_weights_that_do_not_fit(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mix(TAG, NAMES, weights)


def test_rows_without_a_source_and_unknown_modes() -> None:
    with pytest.raises(ValueError, match="2 rows belong to no source"):
        mix(torch.tensor([-1, 0, -1]), ["a"], {"a": 1.0})
    with pytest.raises(ValueError, match="allowed are 'until_first_ends' and 'repeat'"):
        mix(TAG, NAMES, {}, "both")  # type: ignore[arg-type]


def test_equal_questions_are_never_in_both_parts() -> None:
    keys = [7, 3, 7, 1, 9, 3, 3, 8, 2, 6]
    mask = held_out(keys, 0.3)
    assert [k for k, v in zip(keys, mask.tolist(), strict=True) if v] == [1, 2]  # 3 would make five of ten
    assert held_out(keys, 0.5).sum() == 5
    assert held_out(keys, 0.001).sum() == 1 and held_out([5, 5, 6], 0.9).tolist() == [True, True, False]
    with pytest.raises(ValueError, match="cannot be split into training and validation"):
        held_out([4, 4], 0.5)


def test_rows_that_count_for_several_units_are_mixed_by_units() -> None:
    units = torch.cat([torch.full((50,), 6), torch.ones(30, dtype=torch.int64), torch.full((20,), 2)])
    weights = {"en": 0.5, "fr": 0.25, "zh": 0.25}
    rows = mix(TAG, NAMES, weights, units=units)
    got = torch.zeros(3, dtype=torch.int64).index_add_(0, TAG[rows], units[rows]).tolist()
    # fr's 30 units are a quarter: en gives 60 of its 300, zh 30 of its 40, met as nearly as whole rows can.
    assert got == [60, 30, 30] and len(rows.unique()) == len(rows)
    again = mix(TAG, NAMES, weights, "repeat", units=units)
    got = torch.zeros(3, dtype=torch.int64).index_add_(0, TAG[again], units[again]).tolist()
    assert (
        abs(got[0] - 185) <= 3 and abs(got[1] - 93) <= 1 and abs(got[2] - 92) <= 1 and len(again) > len(again.unique())
    )


def test_report() -> None:
    lengths = torch.tensor([10, 20, 30, 40, 100])
    tally = Tally(rows=7, kept=5, counts={"empty answer": 2}, first={"empty answer": ["a", "b"]})
    tags = (torch.tensor([0, 1, 0, -1, 0]), ["x", "y"])
    report = length_report(
        "train", lengths, lengths // 10, 100, tally, packs=3, rows_per_batch=2, accumulate=2, tags=tags
    )
    assert (report.tokens, report.supervised, report.batches, report.steps) == (200, 20, 2, 1)
    assert [report.percentile(p) for p in (1, 50, 90, 99, 100)] == [10, 30, 100, 100, 100]
    assert report.fill == pytest.approx(200 / 300) and report.shares == {"none": 1, "x": 3, "y": 1}
    text = "\n".join(report.lines())
    assert "rows    5; 7 were read, 2 left out" in text and "2 left out, empty answer: a; b" in text
    assert "3 of 100 tokens, 66.7% full" in text and "none 1 (20.0%), x 3 (60.0%), y 1 (20.0%)" in text
    padded = length_report("val", lengths, lengths, 100, tally, rows_per_batch=2)
    assert (padded.batches, padded.packs, padded.fill, padded.shares) == (3, None, 0.4, {})


def test_histograms(tmp_path: Path) -> None:
    lengths = torch.tensor([1, 10, 11, 20, 20, 55])
    lines = text_histogram(lengths, 100, width=10)
    assert [line.split()[0] for line in lines] == ["1–10", "11–20", "21–30", "31–40", "41–50", "51–60"]
    assert [line.split()[-1] for line in lines] == ["2", "3", "0", "0", "0", "1"]
    assert "█" * 10 in lines[1] and lines[2].split() == ["21–30", "0"]
    assert len(text_histogram(torch.tensor([7]), 3)) >= 1
    report = length_report("train", lengths, lengths, 100, Tally())
    assert draw_histogram([report, report], tmp_path / "deep" / "a.png")
    assert (tmp_path / "deep" / "a.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.png"]
