"""APET on disk: values and positions or the seed, state dicts with and without the base, PEFT's SHiRA, two processes."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fulgurite.adapters import APET, LoRA, attach, find_adapters, fisher_scores, load_adapter, positions_in
from tests.adapters.toys import Mixed, Toy, bits, difference, move, same_bits

X = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
MASK = {"blocks.0.up.bias": torch.tensor([3, 1]), "head.weight": torch.tensor([7])}


def trained(config, **options):
    """(base, model with moved δ, its adapter)."""
    torch.manual_seed(0)
    model = Toy()
    base = copy.deepcopy(model)
    if config.selection == "gradient":
        options["scores"] = fisher_scores(model, [X], lambda model, x: model(x).square().mean())
    adapter = attach(model, config, **options)
    move(adapter)
    return base, model, adapter


@pytest.mark.parametrize(
    ("config", "options", "stored"),
    [
        (APET(budget=100), {}, False),
        (APET(budget=100, storage="indices"), {}, True),
        (APET(budget=100, selection="per_module", seed=3), {"train": ("head",)}, False),
        (APET(budget=100, selection="magnitude"), {}, True),
        (APET(budget=100, selection="gradient"), {}, True),
        (APET(selection="mask"), {"positions": MASK}, True),
        (APET(budget=3), {"positions": MASK}, True),
        (APET(budget=700, selection="tensor_greedy"), {}, False),
    ],
    ids=["seed", "indices", "per_module", "magnitude", "gradient", "mask", "by hand", "tensor_greedy"],
)
def test_save_and_load(config, options, stored, tmp_path):
    base, model, adapter = trained(config, **options)
    if "train" in options:
        nn.init.normal_(model.head.weight)
    adapter.save(tmp_path)
    tensors = load_file(tmp_path / "adapter.safetensors")
    assert any(key.endswith(".index") for key in tensors) == stored
    assert all(value.dtype == torch.int32 for key, value in tensors.items() if key.endswith(".index"))
    clean = bits(base)
    loaded = load_adapter(base, tmp_path, name="again")
    assert loaded.config == config and torch.equal(base(X), model(X))
    assert {k: v.tolist() for k, v in loaded.positions.items()} == {k: v.tolist() for k, v in adapter.positions.items()}
    if "train" not in options:
        loaded.detach()
        assert same_bits(base, clean)


def test_the_file_is_compact(tmp_path):
    for storage, bytes_per_scalar in (("seed", 4), ("indices", 8)):
        model = nn.Sequential(nn.Linear(1000, 300), nn.Linear(300, 1000))
        attach(model, APET(budget=50_000, storage=storage)).save(tmp_path / storage)
        size = (tmp_path / storage / "adapter.safetensors").stat().st_size
        assert size < 50_000 * bytes_per_scalar + 2000


def test_load_into_an_attached_adapter(tmp_path):
    _, model, adapter = trained(APET(budget=100))
    adapter.save(tmp_path)
    out = model(X)
    move(adapter, seed=5)
    assert not torch.equal(model(X), out)
    adapter.load(tmp_path)
    assert torch.equal(model(X), out)


def edit(folder: Path, **changes) -> None:
    description = json.loads((folder / "adapter.json").read_text())
    description["adapter"]["init_args"].update(changes)
    (folder / "adapter.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("target", "damage", "words"),
    [
        (lambda: Toy(16), lambda folder: None, "made for another model than this Toy; 6 of its 6 tensors differ"),
        (lambda: nn.Sequential(nn.Linear(2, 2)), lambda folder: None, "here no such parameter"),
        (Toy, lambda folder: edit(folder, seed=1), "trained at other positions"),
        (
            lambda: nn.ModuleDict({"blocks": Toy().blocks, "head": Toy().head, "more": nn.Linear(3, 3)}),
            lambda folder: None,
            r"\(1,263 eligible scalars there, 1,275 here\)",
        ),
        (Toy, lambda folder: (folder / "adapter.safetensors").unlink(), "incomplete"),
    ],
    ids=["width", "names", "another seed", "more tensors", "no file"],
)
def test_another_model_or_mask_is_one_clear_error_and_leaves_nothing(target, damage, words, tmp_path):
    _, _, adapter = trained(APET(budget=100))
    adapter.save(tmp_path)
    damage(tmp_path)
    model = target()
    before, keys = bits(model), list(model.state_dict())
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        load_adapter(model, tmp_path)
    assert list(model.state_dict()) == keys and same_bits(model, before) and not find_adapters(model)


def test_a_low_rank_folder_into_an_apet_handle(tmp_path):
    attach(Toy(), LoRA(rank=2)).save(tmp_path)
    with pytest.raises(ValueError, match="holds no APET adapter"):
        attach(Toy(), APET(budget=10)).load(tmp_path)


@pytest.mark.parametrize("around", [False, True], ids=["itself", "inside another module"])
def test_adapter_only_state_dicts_bring_the_live_weights_back(around):
    base, model, adapter = trained(APET(budget=100))
    state = {k: v.clone() for k, v in model.state_dict().items() if k not in adapter.frozen_keys()}
    assert all(".branches." in key for key in state)
    other = attach(base, APET(budget=100))
    clean = bits(base)
    if around:
        nn.ModuleDict({"inner": base}).load_state_dict({f"inner.{k}": v for k, v in state.items()}, strict=True)
    else:
        base.load_state_dict(state, strict=True)
    assert torch.equal(base(X), model(X))
    with other.disabled():
        assert same_bits(base, clean)


def test_whole_state_dicts_load_into_the_same_and_into_another_base():
    base, model, _ = trained(APET(budget=100))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    clean = bits(base)
    again = attach(base, APET(budget=100))
    base.load_state_dict(state)
    assert torch.equal(base(X), model(X))
    with again.disabled():
        assert same_bits(base, clean), "the same base: exact"
    torch.manual_seed(9)
    foreign = Toy()
    other = attach(foreign, APET(budget=100))
    foreign.load_state_dict(state)
    assert torch.equal(foreign(X), model(X))
    with other.disabled():
        for name, p in foreign.named_parameters():
            if ".branches." not in name:
                torch.testing.assert_close(p.detach(), clean[name], rtol=0, atol=1e-7)
    plain = Toy()
    plain.load_state_dict({k: v for k, v in state.items() if ".branches." not in k})
    assert torch.equal(plain(X), model(X)), "without the branches it is the tuned model"


def test_a_plain_base_loaded_under_an_adapter_becomes_its_base():
    _, model, adapter = trained(APET(budget=100))
    torch.manual_seed(7)
    other = Toy()
    model.load_state_dict(other.state_dict(), strict=False)
    with adapter.disabled():
        assert torch.equal(model(X), other(X))
    assert difference(model(X), other(X)) > 1e-4


def test_a_changed_mask_on_resume_is_one_clear_error():
    _, model, adapter = trained(APET(budget=100))
    state = {k: v.clone() for k, v in model.state_dict().items() if k not in adapter.frozen_keys()}
    for config in (APET(budget=100, seed=1), APET(budget=99), APET(budget=100, targets=r".*weight")):
        other = attach(Toy(), config)
        before = {k: v.clone() for k, v in other.deltas.items()}
        with pytest.raises(ValueError, match=r"trained at other positions.*budget, selection, seed, targets, mask"):
            other.prepare_load(state, "")
        with pytest.raises(ValueError, match="trained at other positions"):
            other.model.load_state_dict(state)
        assert all(torch.equal(before[k], v) for k, v in other.deltas.items())
    attach(Toy(), APET(budget=100)).prepare_load(state, "")


def test_positions_chosen_by_data_are_adopted_from_the_state_dict():
    _, model, adapter = trained(APET(budget=100, selection="gradient"))
    state = {f"network.{k}": v for k, v in model.state_dict().items() if k not in adapter.frozen_keys()}
    found = positions_in(state, "network.", "default")
    assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in adapter.positions.items()}
    torch.manual_seed(0)
    other = attach(Toy(), APET(budget=100, selection="gradient"), positions={"head.bias": torch.tensor([0])})
    other.prepare_load(state, "network.")
    nn.ModuleDict({"network": other.model}).load_state_dict(state)
    assert torch.equal(other.model(X), model(X))
    _, seeded, _ = trained(APET(budget=100))
    assert positions_in(seeded.state_dict(), "", "default") is None


def test_shira_export_is_loaded_by_stock_peft(tmp_path):
    peft = pytest.importorskip("peft")
    base, model, adapter = trained(APET(budget=150, targets="all-linear"), train=("head",))
    nn.init.normal_(model.head.bias)
    adapter.export_peft(tmp_path, base_model="somewhere/base")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    needed = max(-(-len(index) // 36) for index in adapter.positions.values())
    assert (config["peft_type"], config["r"], config["modules_to_save"]) == ("SHIRA", needed, ["head"])
    loaded = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert difference(loaded(X), model(X)) < 1e-6
    state = load_file(tmp_path / "adapter_model.safetensors")
    indices = state["base_model.model.blocks.0.up.shira_indices"]
    assert indices.shape == (2, needed * 36) and len({tuple(pair) for pair in indices.t().tolist()}) == needed * 36


def test_shira_export_refuses_what_peft_has_no_place_for(tmp_path):
    _, _, adapter = trained(APET(budget=150))
    outside = sum(len(i) for name, i in adapter.positions.items() if name.endswith("bias"))
    with pytest.raises(ValueError, match=f"{outside} trained scalars in . tensors do not lie.*blocks"):
        adapter.export_shira(tmp_path / "a")
    uneven = nn.Sequential(nn.Linear(12, 24), nn.Linear(24, 3))
    full = attach(uneven, APET(), positions={"0.weight": torch.arange(288), "1.weight": torch.tensor([5])})
    with pytest.raises(ValueError, match=r"0 needs r=8, but 1 \(24x3\) holds at most r=2"):
        full.export_shira(tmp_path / "b")
    tied = attach(Mixed(), APET(budget=30, targets=r"out\.weight"))
    with pytest.raises(ValueError, match=r"embedding\.weight"):
        tied.export_shira(tmp_path / "c")
    assert not (tmp_path / "a").exists() and not (tmp_path / "c").exists()


def _train_two(rank: int, folder: str) -> None:
    """One of two processes: other base weights than rank 0's at first, half of each batch."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(rank)
    model = Toy()
    adapter = attach(model, APET(budget=200))
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(adapter.param_groups(lr=1e-2))
    for step in range(5):
        x = torch.randn(8, 12, generator=torch.Generator().manual_seed(step))[rank * 4 : rank * 4 + 4]
        optimizer.zero_grad()
        (wrapped(x) - 1).square().mean().backward()
        optimizer.step()
    with adapter.disabled():
        base = bits(model)
    torch.save({"live": bits(model), "base": base}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(tmp_path):
    import torch.multiprocessing as mp

    other = mp.get_context("spawn").Process(target=_train_two, args=(1, str(tmp_path)))
    other.start()
    _train_two(0, str(tmp_path))
    other.join(timeout=60)
    assert other.exitcode == 0
    torch.manual_seed(0)
    model = Toy()
    clean = bits(model)
    adapter = attach(model, APET(budget=200))
    optimizer = torch.optim.AdamW(adapter.param_groups(lr=1e-2))
    for step in range(5):
        x = torch.randn(8, 12, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
    for rank in range(2):
        saved = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name, expected in bits(model).items():
            torch.testing.assert_close(saved["live"][name], expected, rtol=1e-4, atol=1e-5)
            assert torch.equal(saved["base"][name], clean[name]), "rank 1's base is the one DDP sent"
