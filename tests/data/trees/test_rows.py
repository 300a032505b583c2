"""Trees as rows and batches: each branch holds what the unpacked row holds, whatever is packed, cut or padded."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from fulgurite.data.records.findings import Tally
from fulgurite.data.rows.packed import best_fit
from fulgurite.data.sampling.windows import Batch
from fulgurite.data.trees.comparisons import Comparison
from fulgurite.data.trees.encoding import EncodedComparison, Spool
from fulgurite.data.trees.growing import baseline_partners, grow_trees, load_trees, save_trees
from fulgurite.data.trees.rows import PackedTrees, TreeCollator, TreeRows
from tests.data.trees.tree_batches import completions, pairs

TAGS = ["maths", "code"]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path) as opened:
        yield opened


def comparison(row: int, **more: object) -> Comparison:
    values: dict[str, object] = {"prompt": (), "completions": (), "source": "s", "row": row, "where": f"s, row {row}"}
    return Comparison(**{**values, **more})  # type: ignore[arg-type]


def dialogues(spool: Spool, generator: random.Random, count: int, turns: int) -> list[EncodedComparison]:
    """Pairs of dialogues that go on after the rejected answer, as UltraInteract's do; rows of a group lie apart."""
    found = []
    for number in range(count):
        prompt = [number + 1, *(generator.randrange(9) for _ in range(generator.randint(1, 6)))]
        for turn in range(generator.randint(1, turns)):
            chosen, rejected = (
                [side, *(generator.randrange(4) for _ in range(generator.randint(1, 6)))] for side in (1, 2)
            )
            about = comparison(
                len(found),
                pairs=((0, 1, float(turn)),),
                group=f"g{number}",
                tag=TAGS[number % 2],
                weight=1 + turn / 4,
            )
            paths = tuple(spool.add(prompt + answer) for answer in (chosen, rejected))
            found.append(EncodedComparison(about, paths, (len(prompt),) * 2))
            prompt = prompt + rejected + [generator.randrange(9) for _ in range(generator.randint(1, 3))]
    generator.shuffle(found)
    return found


def expected(encoded: Sequence[EncodedComparison], spool: Spool) -> Counter:
    """All pairs as the rows have them."""
    found = []
    for item in encoded:
        paths = [(tuple(spool[number].tolist()), start) for number, start in zip(item.paths, item.starts, strict=True)]
        weight = item.comparison.weight
        found += [(paths[a], paths[b], margin, weight) for a, b, margin in item.comparison.pairs]
    return Counter(found)


def build(encoded: Sequence[EncodedComparison], spool: Spool, budget: int, **more: object) -> tuple[TreeRows, Tally]:
    tally = Tally()
    writer = grow_trees(encoded, spool, token_budget=budget, tally=tally, tags=TAGS, **more)  # type: ignore[arg-type]
    return writer.finish({}), tally


def batches(rows: TreeRows, budget: int, collator: TreeCollator, size: int = 2) -> list[dict[str, torch.Tensor]]:
    packs = PackedTrees(rows, best_fit(rows.lengths, budget))
    return [
        collator(([packs[i] for i in range(at, min(at + size, len(packs)))], Batch(())))
        for at in range(0, len(packs), size)
    ]


@pytest.mark.parametrize("turns", [1, 2, 3, 4, 5, 6])
def test_packed_cut_and_unpacked_rows_hold_the_same(spool: Spool, turns: int) -> None:
    for seed in range(6):
        generator = random.Random(f"{turns}|{seed}")
        encoded = dialogues(spool, generator, 6, turns)
        wanted = expected(encoded, spool)
        keys: dict[str, dict[object, int]] = {}
        layouts = {
            "trees": (400, True, TreeCollator(0)),
            "cut": (70 + 10 * turns, True, TreeCollator(0, pad_multiple=8)),
            "roots": (400, False, TreeCollator(0)),
            "padded": (400, False, TreeCollator(0, packing=False)),
        }
        sizes = {}
        for name, (budget, trees, collator) in layouts.items():
            rows, tally = build(encoded, spool, budget, trees=trees)
            assert tally.lost == 0
            made = batches(rows, budget, collator)
            assert Counter(pair for batch in made for pair in pairs(batch)) == wanted
            assert sum(rows.targets().tolist()) == sum(wanted.values())
            keys[name] = {
                path: key for batch in made for path, key in zip(completions(batch), batch["key"].tolist(), strict=True)
            }
            sizes[name] = int(rows.lengths.sum())
            assert int(rows.lengths.max()) <= budget
            assert int(rows.tensors["alone"].sum()) == sum(len(a[0]) + len(b[0]) for a, b, _, _ in wanted.elements())
        assert keys["trees"] == keys["cut"] == keys["roots"] == keys["padded"]
        assert len(set(keys["trees"].values())) == len(keys["trees"])
        assert sizes["trees"] <= sizes["cut"] <= sizes["roots"] == sizes["padded"]
        # Nothing that could be shared stands twice.
        assert sizes["trees"] == len({path[0][:i] for path in keys["trees"] for i in range(1, len(path[0]) + 1)})


def test_a_tree_of_five_turns_is_a_third_of_its_pairs(spool: Spool) -> None:
    generator, encoded, prompt = np.random.default_rng(0), [], [9] * 300
    for turn in range(5):
        chosen, rejected = ([side, *generator.integers(9, size=199).tolist()] for side in (1, 2))
        paths = (spool.add(prompt + chosen), spool.add(prompt + rejected))
        encoded.append(EncodedComparison(comparison(turn, pairs=((0, 1, 0.0),), group="a"), paths, (len(prompt),) * 2))
        prompt = prompt + rejected + generator.integers(9, size=100).tolist()
    rows, _ = build(encoded, spool, 4096)
    assert rows.lengths.tolist() == [300 + 10 * 200 + 4 * 100]
    assert int(rows.tensors["alone"].sum()) == 11_000
    item = rows[0]
    # The dialogue itself is one stretch, so that the ancestors of each chosen answer are a stretch too.
    chain = item["parents"].tolist()[: 2 * 4 + 1]
    assert chain == [-1, 0, 1, 2, 3, 4, 5, 6, 7]


def test_an_answer_in_several_pairs_is_computed_once(spool: Spool) -> None:
    paths = tuple(spool.add([7, 7, 7, answer, answer, 5]) for answer in range(4))
    scored = comparison(0, pairs=tuple((i, j, float(j - i)) for i in range(4) for j in range(i + 1, 4)))
    rows, _ = build([EncodedComparison(scored, paths, (3,) * 4)], spool, 100)
    (batch,) = batches(rows, 100, TreeCollator(0))
    assert rows.lengths.tolist() == [3 + 4 * 3] and rows.targets().tolist() == [6]
    assert batch["pairs"].tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert batch["ends"].tolist() == [5, 8, 11, 14]
    assert batch["pair_margin"].tolist() == [1, 2, 3, 1, 2, 1]
    assert batch["desirable"].tolist() == [-1] * 4 and not batch["kl"].any() and batch["group"].tolist() == [-1] * 4
    assert batch["score"].isnan().all()
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in batch.items()}
    assert dtypes == {
        "input_ids": "int64", "position_ids": "int64", "cu_seq_lens": "int32", "parents": "int32", "sources": "int64",
        "targets": "int64", "owner": "int64", "ends": "int64", "lengths": "int64", "pairs": "int64",
        "pair_weight": "float32", "pair_margin": "float32", "pair_direct": "bool", "desirable": "int8", "kl": "bool",
        "group": "int64", "score": "float32", "completion_weight": "float32", "key": "int64", "tag": "int64",
    }  # fmt: skip
    separate, _ = build([EncodedComparison(scored, paths, (3,) * 4)], spool, 100, trees=False)
    assert separate.lengths.tolist() == [12] * 6 and separate.targets().tolist() == [1] * 6


def test_an_answer_that_goes_on_elsewhere_ends_at_a_node(spool: Spool) -> None:
    """The rejected answer is a beginning of the next turn's prompt."""
    first = EncodedComparison(
        comparison(0, pairs=((0, 1, 0.0),), group="a"), (spool.add([1, 2]), spool.add([1, 3, 4])), (1, 1)
    )
    second = EncodedComparison(
        comparison(1, pairs=((0, 1, 0.0),), group="a"), (spool.add([1, 3, 4, 5, 6]), spool.add([1, 3, 4, 5, 7])), (4, 4)
    )
    rows, _ = build([first, second], spool, 100)
    (batch,) = batches(rows, 100, TreeCollator(0))
    assert int(rows.lengths.sum()) == 7
    assert Counter(pairs(batch)) == expected([first, second], spool)


def labelled(spool: Spool, labels: Sequence[bool], **more: object) -> list[EncodedComparison]:
    return [
        EncodedComparison(
            comparison(row, labels=((0, label),), **more), (spool.add([50 + row, 51 + row, 9, row]),), (2,)
        )
        for row, label in enumerate(labels)
    ]


def test_labels_get_the_answer_to_another_prompt_beside_them(spool: Spool) -> None:
    encoded = labelled(spool, [True, False, True, False, False])
    partners = baseline_partners(encoded, spool, 10, seed=0)
    assert sorted(partners) == [(row, 0) for row in range(5)]
    assert all(partners[row, 0] != (row, 2) for row in range(5))
    assert sorted(number for number, _ in partners.values()) == list(range(5))  # a circle: each is used once
    rows, _ = build(encoded, spool, 20, partners=partners)
    assert rows.targets().tolist() == [1] * 5
    for row, item in enumerate(rows[i] for i in range(5)):
        own, other = completions(TreeCollator(0).rows([item]))
        assert own == ((50 + row, 51 + row, 9, row), 2)
        assert other[0][:2] == own[0][:2] and other[1] == 2 and other[0][2:] != own[0][2:]
        assert item["kl"].tolist() == [False, True]
        assert item["desirable"].tolist() == [int(row in (0, 2)), -1]
    assert rows.labels().tolist() == [1, -1, 1, -1, -1]


def test_no_partner_has_the_same_prompt_or_is_too_long(spool: Spool) -> None:
    same = [EncodedComparison(comparison(i, labels=((0, True),)), (spool.add([1, 2, 9, i]),), (2,)) for i in range(3)]
    assert baseline_partners(same, spool, 10, seed=0) == {}
    long = [
        EncodedComparison(comparison(0, labels=((0, True),)), (spool.add([1, *[5] * 8]),), (1,)),
        EncodedComparison(comparison(1, labels=((0, False),)), (spool.add([2, 2, 2, 6]),), (3,)),
    ]
    assert sorted(baseline_partners(long, spool, 9, seed=0)) == [(0, 0)]
    assert sorted(baseline_partners(long, spool, 11, seed=0)) == [(0, 0), (1, 0)]


def test_an_answer_labelled_twice_counts_twice_and_is_computed_once(spool: Spool) -> None:
    paths = tuple(spool.add([7, answer, 5]) for answer in range(3))
    both = comparison(0, labels=((0, True), (1, False), (0, True), (2, False), (1, True), (2, False)), weight=0.5)
    encoded = [EncodedComparison(both, paths, (1,) * 3), *labelled(spool, [True, False])]
    partners = baseline_partners(encoded, spool, 10, seed=0)
    rows, _ = build(encoded, spool, 100, partners=partners)
    item = rows[0]
    assert rows.targets().tolist() == [6, 1, 1] and rows.labels().tolist() == [0, 1, -1]
    found = zip(completions(TreeCollator(0).rows([item])), item["desirable"].tolist(), strict=True)
    assert [(path[1], label) for (path, _), label in found if label >= 0] == [
        (0, 1),
        (1, 0),
        (0, 1),
        (2, 0),
        (1, 1),
        (2, 0),
    ]
    assert item["kl"].sum() == 3
    assert item["completion_weight"][item["desirable"] >= 0].tolist() == [0.5] * 6


def test_groups_are_numbered_through_the_batch(spool: Spool) -> None:
    encoded = []
    for row in range(3):
        paths = tuple(spool.add([row // 2, 8, answer, row]) for answer in range(3))
        encoded.append(EncodedComparison(comparison(row, scores=(3.0, 1.0, 2.0)), paths, (2,) * 3))
    rows, _ = build(encoded, spool, 100)
    assert rows.targets().tolist() == [2, 1]  # the first two rows have one prompt
    batch = TreeCollator(0).rows([rows[0], rows[1]])
    assert batch["group"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert batch["score"].tolist() == [3, 1, 2] * 3
    assert batch["pairs"].shape == (0, 2)


def test_what_no_tree_can_hold_is_counted_by_place(spool: Spool) -> None:
    encoded = dialogues(spool, random.Random(1), 3, 3)
    for trees in (True, False):
        rows, tally = build(encoded, spool, 14, trees=trees)
        assert tally.lost > 0 and tally.lost + int(rows.targets().sum()) == len(encoded)
        assert "s, row" in tally.lines()[0] and "larger than token_budget" in tally.lines()[0]


def test_a_pack_that_fills_up_counts_for_nothing(spool: Spool) -> None:
    rows, _ = build(dialogues(spool, random.Random(2), 4, 2), spool, 60)
    packs = PackedTrees(rows, [[0], [1]])
    batch = TreeCollator(0)(([packs[0], packs[1]], Batch((0, 1), 1, 5)))
    assert int(batch["tokens_in_window"]) == 5
    assert pairs(batch) == pairs(TreeCollator(0).rows([packs[0]]))
    added = slice(len(packs[0]["ends"]), None)
    assert set(batch["completion_weight"][added].tolist()) == {0.0}
    assert set(batch["tag"][added].tolist()) == {-1}
    nothing = TreeCollator(0)(([packs[1]], Batch((1,), 1, 5)))
    assert nothing["pairs"].shape == (0, 2) and len(nothing["sources"]) > 0


def test_labels_and_groups_that_fill_up_count_for_nothing(spool: Spool) -> None:
    encoded = labelled(spool, [True, False])
    rows, _ = build(encoded, spool, 20, partners=baseline_partners(encoded, spool, 10, seed=0))
    batch = TreeCollator(0)(([rows[0], rows[1]], Batch((0, 1), 1, 1)))
    assert batch["desirable"].tolist() == [1, -1, -1, -1] and batch["kl"].tolist() == [False, True, False, False]
    scored = EncodedComparison(comparison(0, scores=(2.0, 1.0)), (spool.add([1, 2]), spool.add([1, 3])), (1, 1))
    rows, _ = build([scored], spool, 20)
    batch = TreeCollator(0)(([rows[0]], Batch((0,), 1, 1)))
    assert batch["group"].tolist() == [-1, -1] and batch["score"].isnan().all()


def test_keys_tell_where_an_answer_begins(spool: Spool) -> None:
    path = spool.add([1, 2, 3, 4])
    items = [
        EncodedComparison(comparison(i, labels=((0, True),)), (path,), (start,)) for i, start in enumerate((1, 2, 2))
    ]
    rows, _ = build(items, spool, 20)
    first, second, third = (int(rows.tensors["key"][i]) for i in range(3))
    assert first != second == third and first >= 0


def test_the_file_gives_back_the_trees_and_a_damaged_one_is_an_error(spool: Spool, tmp_path: Path) -> None:
    rows, _ = build(dialogues(spool, random.Random(3), 4, 3), spool, 60)
    rows.metadata = {"a": "b"}
    save_trees(rows, tmp_path / "cache" / "t.safetensors")
    again = load_trees(tmp_path / "cache" / "t.safetensors")
    assert again.metadata == {"a": "b"}
    assert all(torch.equal(tensor, again.tensors[name]) or name == "score" for name, tensor in rows.tensors.items())
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["t.safetensors"]
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cache" / "t.safetensors").read_bytes()[:-10])
    with pytest.raises(ValueError, match="not a whole file"):
        load_trees(tmp_path / "cut.safetensors")
    flipped = bytearray((tmp_path / "cache" / "t.safetensors").read_bytes())
    flipped[-5] ^= 16
    (tmp_path / "cut.safetensors").write_bytes(bytes(flipped))
    with pytest.raises(ValueError, match="the checksum differs"):
        load_trees(tmp_path / "cut.safetensors")


def test_references_are_found_by_key_and_refused_when_one_is_missing(spool: Spool) -> None:
    rows, _ = build(dialogues(spool, random.Random(4), 4, 3), spool, 60)
    keys = rows.tensors["key"].unique()
    values = torch.arange(len(keys), dtype=torch.float32)
    shuffled = torch.randperm(len(keys), generator=torch.Generator().manual_seed(0))
    rows.set_reference(keys[shuffled], values[shuffled])
    batch = TreeCollator(0).rows([rows[0], rows[1]])
    assert batch["reference"].tolist() == torch.searchsorted(keys, batch["key"]).float().tolist()
    with pytest.raises(ValueError, match=r"1 of .* completions have no reference"):
        other, _ = build(dialogues(spool, random.Random(4), 1, 1), spool, 60)
        other.set_reference(other.tensors["key"][:1], values[:1])


def test_path_lengths_and_lengths(spool: Spool) -> None:
    rows, _ = build(dialogues(spool, random.Random(5), 5, 4), spool, 80)
    lengths = [len(path) for i in range(len(rows)) for path, _ in completions(TreeCollator(0).rows([rows[i]]))]
    assert rows.path_lengths.tolist() == lengths
    packs = PackedTrees(rows, [[1, 0], [2]])
    assert packs.lengths.tolist() == [int(rows.lengths[:2].sum()), int(rows.lengths[2])]
    assert packs.targets().tolist() == [int(rows.targets()[:2].sum()), int(rows.targets()[2])]


def test_trees_cannot_be_padded(spool: Spool) -> None:
    rows, _ = build(dialogues(spool, random.Random(6), 2, 3), spool, 80)
    with pytest.raises(ValueError, match="trees=False"):
        TreeCollator(0, packing=False).rows([rows[0]])
