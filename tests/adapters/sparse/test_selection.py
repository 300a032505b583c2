"""Which scalars APET trains: exact budgets, the same everywhere, the released rule as it is, and what is refused."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fulgurite.adapters import APET, attach, eligible_scalars, fisher_scores
from fulgurite.adapters.sparse.draw import distinct, equal_shares, permutation
from fulgurite.adapters.sparse.scores import TopScores
from tests.adapters.toys import Mixed, Toy


def count(adapter) -> int:
    return sum(len(index) for index in adapter.positions.values())


def random_net(rng: random.Random) -> nn.Module:
    """A chain of layers of random kinds and sizes, sometimes with tied weights."""
    width = rng.randint(1, 9)
    layers: list[nn.Module] = [nn.Embedding(rng.randint(2, 30), width)]
    for _ in range(rng.randint(1, 5)):
        layers.append(rng.choice([nn.LayerNorm(width), nn.Linear(width, width), nn.Conv1d(width, width, 1)]))
    if rng.random() < 0.5:
        twin = nn.Linear(width, layers[0].num_embeddings, bias=False)
        twin.weight = layers[0].weight
        layers.append(twin)
    return nn.ModuleList(layers)


def test_budgets_are_met_exactly_on_random_networks():
    rng = random.Random(0)
    for trial in range(60):
        torch.manual_seed(trial)
        net = random_net(rng)
        total = sum(p.numel() for p in net.parameters())  # parameters() counts tied ones once
        assert eligible_scalars(net) == total
        for selection in ("uniform_scalar", "per_module", "magnitude"):
            budget = rng.choice([1, total, rng.randint(1, total)])
            adapter = attach(net, APET(budget=budget, selection=selection, seed=rng.randint(0, 99)))
            assert count(adapter) == budget == adapter.trainable_parameters()
            for name, index in adapter.positions.items():
                assert index.dtype == torch.int64 and (index[1:] > index[:-1]).all()
                assert index[0] >= 0 and index[-1] < dict(net.named_parameters())[name].numel()
            adapter.detach()


@pytest.mark.parametrize(
    ("total", "size"), [(10, 0), (10, 10), (1, 1), (7, 3), (10**12, 500), (1000, 501), (1000, 999)]
)
def test_draws_are_distinct_and_sorted(total, size):
    drawn = distinct(total, size, seed=3)
    assert len(drawn) == size == len(set(drawn.tolist())) and (np.diff(drawn) > 0).all()
    assert size == 0 or (drawn[0] >= 0 and drawn[-1] < total)


def test_draws_are_uniform_nested_and_independent():
    hits = np.zeros(20)
    for seed in range(4000):
        hits[distinct(20, 5, seed)] += 1
    assert np.abs(hits / 4000 - 0.25).max() < 0.03  # 4 standard deviations
    pairs = sum(1 for seed in range(4000) if {0, 19} <= set(distinct(20, 5, seed).tolist()))
    assert abs(pairs / 4000 - 5 * 4 / (20 * 19)) < 0.015
    assert set(distinct(10**6, 100, 7).tolist()) < set(distinct(10**6, 5000, 7).tolist())
    assert distinct(1000, 10, 7, stream=1).tolist() != distinct(1000, 10, 7, stream=2).tolist()
    assert sorted(permutation(50, 1)) == list(range(50)) and permutation(50, 1) != permutation(50, 2)


def test_draws_never_change():
    """Files that hold a seed only depend on these numbers."""
    assert distinct(10**9, 4, seed=0).tolist() == KNOWN[0]
    assert distinct(1000, 4, seed=5, stream=2).tolist() == KNOWN[1]
    assert permutation(6, 3) == KNOWN[2]


KNOWN = ([134865286, 339664431, 454167410, 775609448], [299, 531, 648, 914], [4, 1, 5, 0, 3, 2])


def test_equal_shares():
    for seed in range(200):
        rng = random.Random(seed)
        room = [rng.randint(0, 30) for _ in range(rng.randint(1, 8))]
        budget = rng.randint(0, sum(room))
        shares = equal_shares(room, budget, seed)
        assert sum(shares) == budget and all(0 <= s <= r for s, r in zip(shares, room, strict=True))
        level = max(shares, default=0)
        assert all(s >= level - 1 or s == r for s, r in zip(shares, room, strict=True))


def test_per_module_counts_weight_and_bias_of_a_layer_together():
    adapter = attach(Toy(), APET(budget=53, selection="per_module"))
    per_layer: dict[str, int] = {}
    for name, index in adapter.positions.items():
        layer = name.rpartition(".")[0]
        per_layer[layer] = per_layer.get(layer, 0) + len(index)
    assert sorted(per_layer.values()) == [10, 10, 11, 11, 11]


def test_magnitude_takes_the_largest_and_breaks_ties_by_place():
    model = Toy().to(torch.bfloat16)  # many equal values
    everything = torch.cat([p.detach().flatten().abs().float() for p in model.parameters()])
    expected = torch.sort(everything, descending=True, stable=True).indices[:200].sort().values
    adapter = attach(model, APET(budget=200, selection="magnitude"))
    starts, start = {}, 0
    for name, p in model.named_parameters():
        if "branches." not in name:
            starts[name], start = start, start + p.numel()
    found = torch.cat([index + starts[name] for name, index in adapter.positions.items()])
    assert torch.equal(found, expected)


def test_top_scores_do_not_depend_on_the_order_they_are_shown_in():
    parts = [(torch.tensor([1.0, 3.0, 3.0]), 0), (torch.tensor([3.0, 0.0]), 3), (torch.tensor([5.0, 3.0]), 5)]
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        top = TopScores(3)
        for i in order:
            top.add(*parts[i])
        assert top.positions().tolist() == [1, 2, 5]
    with pytest.raises(ValueError, match="not finite"):
        TopScores(1).add(torch.tensor([float("nan")]), 0)


def test_gradient_takes_the_largest_fisher_scores_in_chunks_and_leaves_the_model_alone():
    torch.manual_seed(0)
    model = Mixed().double().train()
    model.norm.weight.requires_grad_(False)
    batches = [torch.randint(0, 11, (3, 7)) for _ in range(3)]

    def loss_fn(model, ids):
        return model(ids).square().mean()

    expected = {}
    for name, p in model.named_parameters():
        p.requires_grad_(True)
        expected[name] = torch.zeros_like(p)
    for batch in batches:
        for (name, _), g in zip(
            model.named_parameters(), torch.autograd.grad(loss_fn(model, batch), list(model.parameters())), strict=True
        ):
            expected[name] += g**2 / len(batches)
    model.norm.weight.requires_grad_(False)
    whole = dict(fisher_scores(model, batches, loss_fn))
    chunks = dict(fisher_scores(model, batches, loss_fn, chunk=100))
    for name, score in expected.items():
        torch.testing.assert_close(whole[name], score.float())
        torch.testing.assert_close(chunks[name], score.float())
    assert model.training and not model.norm.weight.requires_grad and model.up.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    adapter = attach(model, APET(budget=90, selection="gradient"), scores=fisher_scores(model, batches, loss_fn))
    assert count(adapter) == 90
    least = min(float(expected[n].view(-1)[i].min()) for n, i in adapter.positions.items())
    others = sum(int((score > least * 1.0001).sum()) for score in expected.values())
    assert others <= 90
    with pytest.raises(ValueError, match="no batches"):
        next(fisher_scores(Toy(), [], loss_fn))


def test_tensor_greedy_is_the_released_rule_for_native_tensors(caplog):
    model = Toy()
    adapter = attach(model, APET(budget=700, selection="tensor_greedy", seed=2))
    names = list(dict(Toy().named_parameters()))
    sizes = {name: p.numel() for name, p in Toy().named_parameters()}
    random.Random(700 * 2).shuffle(names)
    left, taken = 700, set()
    for name in names:
        if sizes[name] <= left:
            taken.add(name)
            left -= sizes[name]
    assert set(adapter.positions) == taken and count(adapter) == 700 - left
    assert all(len(index) == sizes[name] for name, index in adapter.positions.items())
    assert left == 0 or f"{700 - left:,} scalars in {len(taken)} tensors for a budget of 700" in caplog.text


def test_inserted_tensors_get_half_and_a_group_may_overshoot(caplog):
    class Delta(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(10, 10)
            self.lora = nn.ModuleDict({"pair": nn.Linear(5, 6)})  # 30 + 6: fits by its first tensor

    adapter = attach(Delta(), APET(budget=64, selection="tensor_greedy"))
    assert set(adapter.positions) == {"body.bias", "lora.pair.weight", "lora.pair.bias"}
    assert count(adapter) == 46 and "46 scalars in 3 tensors for a budget of 64 (71.9 %)" in caplog.text


def test_module_group_takes_whole_modules():
    adapter = attach(Toy(), APET(budget=630, selection="module_group", seed=1))
    layers = {name.rpartition(".")[0] for name in adapter.positions}
    assert set(adapter.positions) == {f"{layer}.{key}" for layer in layers for key in ("weight", "bias")}


def test_whole_tensors_that_do_not_fit_select_nothing_and_say_so():
    with pytest.raises(ValueError, match=r"no whole tensor within budget=2 \(the smallest has 3 scalars\)"):
        attach(Toy(), APET(budget=2, selection="tensor_greedy"))


def test_masks_by_hand_and_from_a_file(tmp_path):
    weight = torch.zeros(24, 12, dtype=torch.bool)
    weight[3, 4] = weight[20, 0] = True
    masks = {"blocks.0.up.weight": weight, "head.bias": torch.tensor([2, 0])}
    adapter = attach(Toy(), APET(selection="mask"), positions=masks)
    assert {k: v.tolist() for k, v in adapter.positions.items()} == {
        "blocks.0.up.weight": [3 * 12 + 4, 240],
        "head.bias": [0, 2],
    }
    save_file(masks, tmp_path / "mask.safetensors")
    same = attach(Toy(), APET(budget=4, selection="mask", mask=str(tmp_path / "mask.safetensors")))
    assert {k: v.tolist() for k, v in same.positions.items()} == {k: v.tolist() for k, v in adapter.positions.items()}


class Quantised(nn.Module):
    def __init__(self, parameter=True):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.packed = nn.Module()
        if parameter:
            self.packed.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
        else:
            self.packed.register_buffer("qweight", torch.zeros(4, 4, dtype=torch.int32))


HERE = "blocks.0.up.bias"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: attach(Toy(), APET(budget=0)), "budget=0; it must be a whole number of scalars >= 1"),
        (lambda: attach(Toy(), APET(budget=0.1)), "budget=0.1"),
        (lambda: attach(Toy(), APET(budget=1264)), "budget=1,264 is above the 1,263 eligible scalars of Toy"),
        (lambda: attach(Toy(), APET()), "budget is not given; it must be a whole number from 1 to 1,263"),
        (lambda: attach(Toy(), APET(budget=3, selection="best")), "selection='best'; it must be one of uniform_scalar"),
        (lambda: attach(Toy(), APET(budget=3, seed=-1)), "seed=-1"),
        (lambda: attach(Toy(), APET(budget=3, storage="zip")), "storage='zip'"),
        (lambda: attach(Toy(), APET(budget=3, mask="m")), "left out unless selection is 'mask'"),
        (lambda: attach(Toy(), APET(budget=3, targets="(")), "valid regular expression"),
        (lambda: attach(Toy(), APET(budget=3, targets="up")), r"matches none of the 10 parameters.*blocks\.0\.up\.weight"),
        (lambda: attach(nn.ReLU(), APET(budget=3)), "no parameter that APET could train"),
        (lambda: attach(Toy(), APET(selection="mask")), "needs mask="),
        (lambda: attach(Toy(), APET(budget=3, selection="gradient")), "needs scores"),
        (lambda: attach(Toy(), APET(budget=3, selection="gradient"), scores={}), "10 eligible tensors have no score"),
        (lambda: attach(Toy(), APET(selection="mask"), positions={"nope": torch.tensor([0])}), "'nope', which is no eligible"),
        (lambda: attach(Toy(), APET(selection="mask"), positions={HERE: torch.ones(3, dtype=torch.bool)}), r"shape \(3,\)"),
        (lambda: attach(Toy(), APET(selection="mask"), positions={HERE: torch.tensor([1, 5, 1])}), "position 1 .* twice"),
        (lambda: attach(Toy(), APET(selection="mask"), positions={HERE: torch.tensor([24])}), "allowed are 0 to 23"),
        (lambda: attach(Toy(), APET(selection="mask"), positions={HERE: torch.tensor([-1])}), "from -1 to -1"),
        (lambda: attach(Toy(), APET(selection="mask"), positions={HERE: torch.tensor([0.5])}), "float32"),
        (lambda: attach(Toy(), APET(selection="mask"), positions={HERE: torch.zeros(24, dtype=torch.bool)}), "selects nothing"),
        (lambda: attach(Toy(), APET(budget=2, selection="mask"), positions={HERE: torch.tensor([0])}), "selects 1 scalars"),
        (lambda: attach(Quantised(), APET(budget=3)), r"packed\.weight of Module is quantised or packed \(torch\.uint8\)"),
        (lambda: attach(Quantised(False), APET(budget=3)), r"packed is a quantised Module \(it stores qweight\)"),
        (lambda: attach(nn.ModuleList([nn.LSTM(2, 2)]), APET(budget=3, targets=".*")), "flattened copies"),
        (
            lambda: attach(nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last), APET(budget=3)),
            "must be contiguous",
        ),
    ],
)  # fmt: skip
def test_bad_input_changes_nothing(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_failed_attach_leaves_the_model_as_it_was():
    model = Toy()
    with pytest.raises(ValueError, match="above the"):
        attach(model, APET(budget=10**6))
    assert all(p.requires_grad for p in model.parameters()) and type(model.head) is nn.Linear
    assert "_fulgurite_site" not in model.__dict__


def test_quantised_layers_can_be_left_out_by_targets():
    adapter = attach(Quantised(), APET(budget=5, targets=r"first\..*"))
    assert count(adapter) == 5 and all(name.startswith("first.") for name in adapter.positions)


def test_fsdp_is_refused_by_name():
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (2,))
        with pytest.raises(ValueError, match="is a DTensor, sharded by FSDP"):
            attach(fully_shard(Toy(), mesh=mesh), APET(budget=5))
        model = Toy()
        adapter = attach(model, APET(budget=50))
        fully_shard(model, mesh=mesh)
        with pytest.raises(ValueError, match="sharded by FSDP"):
            adapter.sync()
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_select_the_same():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch; from tests.adapters.toys import Mixed; from fulgurite.adapters import APET, attach\n"
        "torch.manual_seed(0)\n"
        "for s in ('uniform_scalar', 'per_module', 'magnitude', 'tensor_greedy', 'module_group'):\n"
        "    a = attach(Mixed(), APET(budget=300, selection=s, seed=4))\n"
        "    print(s, a.description()['positions'])\n"
    )
    outs = [
        subprocess.run(
            [sys.executable, "-c", script, str(Path(__file__).resolve().parents[3])],
            capture_output=True, text=True, check=True, env={**__import__("os").environ, "PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in (1, 2)
    ]  # fmt: skip
    assert outs[0] == outs[1] and len({line.split()[1] for line in outs[0].splitlines()}) == 5
