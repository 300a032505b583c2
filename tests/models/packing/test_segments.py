"""The order in which a tree's segments stand, and attention along its paths against dense masks."""

from __future__ import annotations

import copy
import pickle
import random

import numpy as np
import pytest
import torch

from fulgurite.data.trees.prefix_tree import build_tree
from fulgurite.models.packing import tree_attention as fast
from fulgurite.models.packing.attention_functions import Rule, _flex, attend
from fulgurite.models.packing.packed_attention import structure_of
from fulgurite.models.packing.segments import Chain, Segments, packed_structure
from tests.models.packing.tree_cases import SHAPE, random_tree, tree


def test_preorder_and_chains():
    """The root, its longest path, then what branched off, the first one first."""
    given = tree((3, 1, 1, 2, 0, 4, 5), (-1, 0, 0, 2, 1, 4, -1))
    segments = Segments(given.bounds, given.parents)
    # Segment 4 is empty: 5 is the child of 1, and 0-1-5 is longer than 0-2-3.
    assert segments.lengths == [3, 1, 4, 1, 2, 5] and segments.parents == [-1, 0, 1, 0, 3, -1]
    assert segments.chains == [Chain(0, 3, ()), Chain(3, 5, ((0, 1),)), Chain(5, 6, ())]
    assert segments.depths == [0, 3, 4, 3, 4, 0] and segments.longest_path == 8
    assert segments.order.tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 4, 5, 6, *range(11, 16)]
    assert segments.order[segments.inverse].tolist() == list(range(16))
    nested = Segments(torch.tensor([0, 2, 9, 10, 12, 13]), torch.tensor([-1, 0, 0, 2, 2]))
    assert nested.order is None
    assert nested.chains == [Chain(0, 2, ()), Chain(2, 4, ((0, 1),)), Chain(4, 5, ((0, 1), (2, 3)))]


def test_trees_of_the_data_modules_stand_in_preorder():
    """Then nothing is brought in order, and ancestors are stretches of the row."""
    choose = random.Random(0)
    for _ in range(20):
        paths = [
            np.array([choose.randint(1, 2) for _ in range(choose.randint(1, 9))], dtype=np.int32) for _ in range(8)
        ]
        found = build_tree(paths)
        lengths = torch.tensor([0, *map(len, found.pieces)])
        assert Segments(lengths.cumsum(0), torch.tensor(found.parents)).order is None


def test_structure_moves_without_a_look():
    """The meta device has no values: whoever looked there would fail."""
    segments = Segments(SHAPE.bounds, SHAPE.parents)
    masks = []
    segments.block_mask(None, lambda sees, *rest, device: masks.append(sees))
    assert segments.to("cpu") is segments and list(segments._masks) == [None]
    moved = segments.to("meta", non_blocking=True)
    for name in ("boundaries", "given_parents", "order", "inverse"):
        assert getattr(moved, name).device.type == "meta" and getattr(segments, name).device.type == "cpu"
    assert (moved.lengths, moved.parents, moved.chains) == (segments.lengths, segments.parents, segments.chains)
    assert packed_structure(moved.carrier()) is moved and not moved._masks
    devices = []
    moved.block_mask(3, lambda sees, *rest, device: devices.append(device))
    assert [device.type for device in devices] == ["meta"]


def test_a_structure_that_is_not_the_batch_s_is_refused():
    segments = Segments(torch.tensor([0, 2, 5]))
    batch = {"cu_seq_lens": torch.tensor([0, 2, 5], dtype=torch.int32)}
    assert structure_of({**batch, "segments": segments}) is segments
    assert structure_of(batch).lengths == [2, 3]
    with pytest.raises(
        ValueError, match="cu_seq_lens changed after the batch's structure was read; take the key 'segments'"
    ):
        structure_of({"cu_seq_lens": torch.tensor([0, 3, 5]), "segments": segments})


def test_structure_is_read_back_from_the_mask_alone():
    segments = Segments(SHAPE.bounds, SHAPE.parents)
    mask = segments.carrier()
    assert mask.dtype == torch.int32 and packed_structure(mask) is segments
    for copied in (
        mask.clone(),
        copy.deepcopy(mask),
        pickle.loads(pickle.dumps(mask.clone())),
        mask.to("cpu", copy=True),
    ):
        again = packed_structure(copied)
        assert (again.lengths, again.parents, again.chains) == (segments.lengths, segments.parents, segments.chains)
        assert torch.equal(again.order, segments.order)


@pytest.mark.parametrize("parents", [[-1, 1], [-1, 2], [-2, 0], [-1], [-1, 0, 0], [0, 0]])
def test_parents_that_do_not_fit_are_refused(parents):
    with pytest.raises(ValueError, match="needs a parent before it, or -1 where it is a root"):
        Segments(torch.tensor([0, 3, 5]), torch.tensor(parents))


def dense_attention(query, key, value, given, rule):
    """(1, T, H, D) by definition."""
    sees, distance = given.dense()
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
    scores = query @ key.mT * rule.scaling
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    if rule.slopes is not None:
        scores = scores - rule.slopes[:, None, None] * distance
    if rule.window is not None:
        sees = sees & (distance < rule.window)
    return (scores.masked_fill(~sees, float("-inf")).softmax(-1) @ value).transpose(1, 2)


SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625], dtype=torch.float64)
RULES = {
    "plain": Rule(0.3),
    "window": Rule(0.3, 5),
    "wide window": Rule(0.3, 500),
    "cap": Rule(0.3, None, 0.7),
    "capped window": Rule(0.3, 5, 0.7),
    "slopes": Rule(0.3, None, None, 0.0, SLOPES),
}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_attention_is_what_the_dense_mask_gives(rule, heads, seed):
    given = random_tree(seed, longest=12)
    segments = Segments(given.bounds, given.parents)
    generator = torch.Generator().manual_seed(seed)
    tokens = len(given.ids)
    tensors = [torch.randn(1, n, tokens, 8, generator=generator, dtype=torch.float64) for n in (4, heads, heads)]
    weights = torch.randn(1, tokens, 4, 8, generator=generator, dtype=torch.float64)
    results = []
    for function, structure in ((dense_attention, given), (attend, segments)):
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        out = function(*inputs, structure, rule)
        results.append([out, *torch.autograd.grad((out * weights).sum(), inputs)])
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", [rule for rule in RULES.values() if rule.slopes is None])
def test_flex_attention_agrees_on_trees(rule):
    """The GPU's way, uncompiled: its mask and its score function are the same there."""
    given = tree((9, 4, 7, 11, 5, 6, 1), (-1, 0, 0, 2, 2, -1, 5))
    segments = Segments(given.bounds, given.parents)
    assert segments.order is not None
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, len(given.ids), 16, generator=generator)
    key, value = (torch.randn(1, 2, len(given.ids), 16, generator=generator) for _ in range(2))
    ordered = [tensor[:, :, segments.order] for tensor in (query, key, value)]
    found = _flex(*ordered, segments, rule)[:, segments.inverse]
    torch.testing.assert_close(found, dense_attention(query, key, value, given, rule), rtol=1e-5, atol=1e-6)


needs_groups = pytest.mark.skipif(
    not fast.GROUPED, reason="the CPU kernels of this torch want as many key heads as query heads"
)


@pytest.mark.parametrize("heads", [4, pytest.param(2, marks=needs_groups)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fast_way_is_taken_and_precise(dtype, heads, monkeypatch):
    given = random_tree(5, longest=40)
    segments = Segments(given.bounds, given.parents)
    generator = torch.Generator().manual_seed(1)
    exact = [torch.randn(1, n, len(given.ids), 16, generator=generator).to(dtype).double() for n in (4, heads, heads)]
    weights = torch.randn(1, len(given.ids), 4, 16, generator=generator).to(dtype)

    def run(function, tensors, structure):
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        out = function(*inputs, structure, Rule(0.25))
        return [out, *torch.autograd.grad((out * weights.to(out.dtype)).sum(), inputs)]

    wanted = run(dense_attention, exact, given)
    narrow = [tensor.to(dtype) for tensor in exact]
    calls = []
    monkeypatch.setattr(
        "fulgurite.models.packing.attention_functions.attend_tree",
        lambda *given: calls.append(1) or fast.attend_tree(*given),
    )
    found = run(attend, narrow, segments)
    assert calls
    monkeypatch.setattr("fulgurite.models.packing.attention_functions.applicable", lambda *given: False)
    masked = run(attend, narrow, segments)
    assert len(calls) == 1

    def error(results):
        return max(
            float((a.detach().double() - b).abs().max() / b.abs().max()) for a, b in zip(results, wanted, strict=True)
        )

    # Merging the stretches rounds a little more often than one softmax over a mask does.
    assert error(found) <= 2 * error(masked) + torch.finfo(dtype).eps


@pytest.mark.parametrize("grouped", [False, pytest.param(True, marks=needs_groups)])
def test_fast_way_is_proved_before_it_is_used(monkeypatch, grouped):
    check = fast.kernels_agree.__wrapped__
    assert check(torch.float32, grouped) and not check(torch.int32, grouped)
    right = fast._forward
    monkeypatch.setattr(fast, "_forward", lambda *given: (right(*given)[0] * 1.001, right(*given)[1]))
    assert not check(torch.float32, grouped)
    monkeypatch.setattr(fast, "_forward", lambda *given: (right(*given)[0], right(*given)[1] + 0.001))
    assert not check(torch.float32, grouped)

    def absent(*given):
        raise AttributeError("no such operator")

    monkeypatch.setattr(fast, "_forward", absent)
    assert not check(torch.float32, grouped)


def test_fewer_key_heads_are_not_tried_where_the_kernels_would_leave_their_tensors(monkeypatch):
    monkeypatch.setattr(fast, "GROUPED", False)
    monkeypatch.setattr(fast, "kernels_agree", lambda dtype, grouped: not grouped or pytest.fail("tried"))
    query, key = torch.zeros(1, 4, 3, 8), torch.zeros(1, 2, 3, 8)
    assert not fast.applicable(query, key, key) and fast.applicable(query, query, query)
