"""The fingerprint of a reference's weights: any changed element changes it, adapters that are switched off do not."""

import pytest
import torch
from torch import nn

from fulgurite.adapters import APET, LoRA, attach
from fulgurite.lightning_modules.reference.cache import ReferenceCache, weights_fingerprint


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 300), nn.BatchNorm1d(300), nn.Linear(300, 50))


@pytest.mark.parametrize("seed", range(10))
def test_a_merged_adapter_of_few_scalars_is_another_reference(seed: int) -> None:
    model = nn.Linear(512, 4000)
    before = weights_fingerprint(model)
    adapter = attach(model, APET(budget=64, seed=seed))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    adapter.sync()
    adapter.merge()
    adapter.detach()
    assert weights_fingerprint(model) != before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_single_element_counts(dtype: torch.dtype) -> None:
    model = network().to(dtype)
    before = weights_fingerprint(model)
    assert weights_fingerprint(network().to(dtype)) == before
    for tensor in (*model.parameters(), *model.buffers()):
        flat = tensor.detach().view(-1)
        place = (7 * len(flat)) // 11
        kept = flat[place].clone()
        flat[place] += 1
        assert weights_fingerprint(model) != before
        flat[place] = kept
    assert weights_fingerprint(model) == before
    assert weights_fingerprint(model, "bf16") != before


def test_an_adapter_beside_the_weights_is_left_out() -> None:
    model = network()
    before = weights_fingerprint(model)
    adapter = attach(model, LoRA(rank=2, targets=r"0|2"))
    with adapter.disabled():
        assert weights_fingerprint(model) == before


def test_a_module_of_the_base_called_branches_counts() -> None:
    model = nn.ModuleDict({"block": nn.ModuleDict({"branches": nn.Linear(4, 3)})})
    before = weights_fingerprint(model)
    adapter = attach(model, LoRA(rank=2, targets=r".*branches"), check_forward=False)
    with adapter.disabled():
        assert weights_fingerprint(model) == before
    with torch.no_grad():
        model["block"]["branches"].weight[0, 0] += 1  # type: ignore[index]
    assert weights_fingerprint(model) != before


def test_a_flipped_bit_is_not_a_reference(tmp_path):
    path = tmp_path / "reference.safetensors"
    ReferenceCache(torch.arange(5), torch.rand(5), "weights").save(path)
    assert len(ReferenceCache.load(path, "weights")) == 5
    content = bytearray(path.read_bytes())
    content[-2] ^= 4
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"reference\.safetensors: its content is not what was written .*delete it"):
        ReferenceCache.load(path, "weights")
