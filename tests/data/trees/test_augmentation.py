"""Eurus's pair augmentation: the grid without its diagonal, its limits, and no question in two splits."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from fulgurite.data.playground import builtin_rows
from fulgurite.data.records.conversation import Turn
from fulgurite.data.records.preference import Preference
from fulgurite.data.trees.augmentation import Augmenting, augment
from fulgurite.datamodules import UltraInteractPairDataModule


def trajectory(turns, group="g", start=0):
    """Pairs of one instruction: turn k + 1 follows the wrong action of turn k."""
    found, history = [], (Turn("system", "s"), Turn("user", "the question"))
    for k in range(turns):
        wrong = f"wrong {k}"
        found.append(
            Preference(history, f"right {k}", wrong, "rows", start + k + 1, group=group, tag="Coding", direct=True)
        )
        history = (*history, Turn("assistant", wrong), Turn("user", "Your answer is wrong."))
    return found


@pytest.mark.parametrize(("turns", "made"), [(1, 0), (2, 2), (3, 6), (4, 0), (5, 0)])
def test_the_grid_less_its_diagonal_up_to_three_turns(turns, made):
    found = augment(trajectory(turns))
    pairs = {(pair.chosen, pair.rejected) for pair in found}
    assert len(found) == len(pairs) == made
    if made:
        assert pairs == {(f"right {a}", f"wrong {b}") for a in range(turns) for b in range(turns) if a != b}
    for pair in found:
        assert pair.prompt == (Turn("system", "s"), Turn("user", "the question"))
        assert pair.direct and pair.group == "g" and pair.tag == "Coding"
    uses = Counter(action for pair in found for action in (pair.chosen, pair.rejected))
    assert all(count <= 3 for count in uses.values())


def test_equal_texts_make_no_pair_and_the_seed_decides_the_order():
    first, second = trajectory(2)
    same = Preference(second.prompt, first.rejected, "other", "rows", 2, group="g")
    assert [(p.chosen, p.rejected) for p in augment([first, same])] == [("right 0", "other")]
    orders = {tuple(p.chosen + p.rejected for p in augment(trajectory(3), seed)) for seed in range(5)}
    assert len(orders) > 1 and augment(trajectory(3), 1) == augment(trajectory(3), 1)


def test_new_pairs_follow_the_last_row_of_their_instruction_even_between_others():
    a, b, c = trajectory(2, "a"), trajectory(3, "b", 10), trajectory(4, "c", 20)
    alone = Preference((Turn("user", "x"),), "1", "2", "rows", 30)
    mixed = [a[0], *b[:2], *c[:2], a[1], alone, *c[2:], b[2]]
    augmenting = Augmenting(Counter(record.group for record in mixed))
    found = [item for record in mixed for item in (record, *augmenting.after(record))]
    assert [r for r in found if r in mixed] == mixed
    assert len(found) - len(mixed) == 2 + 6 and not augmenting.waiting
    assert found[: found.index(a[1])] == mixed[:5] and found[-7] == b[2]
    again = Augmenting(Counter(record.group for record in mixed))
    assert [item for record in mixed for item in (record, *again.after(record))] == found


def test_training_trees_hold_the_new_pairs_and_validation_none(tmp_path):
    for split, count in (("train", 80), ("validation", 20)):
        rows = builtin_rows("ultrainteract_pair", split, count=count)
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    units = {}
    for augmented in (False, True):
        data = UltraInteractPairDataModule(
            path=str(tmp_path), tokenizer="playground", max_length=512, augment=augmented, cache_dir=str(tmp_path / "c")
        )
        data.setup("fit")
        units[augmented] = {report.split: report.units for report in data.reports()}
        assert all(rows.tensors["pair_direct"].all() for rows in data._splits.values())
    sizes = Counter(row["parent_id"] for row in builtin_rows("ultrainteract_pair", "train", count=80))
    expected = sum({2: 2, 3: 6}.get(size, 0) for size in sizes.values())
    # Two wrong actions of a short task may be the same text as a right one's neighbour; such pairs are left out.
    assert 0.8 * expected <= units[True]["train"] - units[False]["train"] <= expected and expected > 10
    assert units[True]["val"] == units[False]["val"] == 20


def test_validation_rows_cut_from_training_stay_the_same(tmp_path):
    rows = builtin_rows("ultrainteract_pair", "train", count=80)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held = {}
    for augmented in (False, True):
        data = UltraInteractPairDataModule(
            path=str(tmp_path / "rows.jsonl"),
            tokenizer="playground",
            max_length=512,
            augment=augmented,
            val_fraction=0.3,
            cache_dir=str(tmp_path / "c"),
        )
        data.setup("fit")
        held[augmented] = data._splits["val"].tensors["key"].tolist()
        train = data._splits["train"].tensors["key"].tolist()
        assert not set(held[augmented]) & set(train)
    assert held[True] == held[False]
