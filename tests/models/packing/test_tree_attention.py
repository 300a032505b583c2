"""Trees in packed rows: each branch has the log-probabilities and gradients that its path alone has."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from fulgurite.adapters import SoRA, attach
from fulgurite.models import enable_activation_checkpointing, load_backbone
from fulgurite.models.packing import tree_attention as fast
from fulgurite.models.packing.attention_functions import _by_chain
from fulgurite.models.packing.packed_attention import enable_packing, enable_trees, packed_inputs
from fulgurite.models.packing.segments import Segments
from tests.models.packing.tree_cases import SHAPE, random_tree, tree
from tests.models.tiny import DECODERS, VOCABULARY, build

# Transformers 4's sdpa leaves Gemma 2's cap out, and BLOOM has one attention only.
BASES = [
    (name, base)
    for name in DECODERS
    for base in ("sdpa", "eager")
    if base == "eager" or name not in ("gemma2", "bloom")
]


def tree_log_probs(model, given):
    logits = model(**packed_inputs(model, given.batch())).logits[0]
    return torch.cat([-F.cross_entropy(logits[p[:-1]], given.ids[p[1:]], reduction="none") for p in given.paths()])


def alone_log_probs(model, given):
    rows = [given.ids[path] for path in given.paths()]
    return torch.cat([-F.cross_entropy(model(row[None]).logits[0, :-1], row[1:], reduction="none") for row in rows])


def errors(model, plain, given):
    """Largest error of the log-probabilities relative to the largest, and of all gradients relative to their norm."""
    wanted, found = alone_log_probs(plain, given), tree_log_probs(model, given)
    weights = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(5)).to(wanted.dtype)
    (wanted * weights).sum().backward()
    (found * weights).sum().backward()
    pairs = [
        (a, b) for a, b in zip(plain.named_parameters(), model.named_parameters(), strict=True) if a[1].requires_grad
    ]
    assert pairs and all(a[0] == b[0] and b[1].grad is not None for a, b in pairs)
    norm = sum(a[1].grad.double().square().sum() for a, _ in pairs).sqrt()
    distance = sum((a[1].grad - b[1].grad).double().square().sum() for a, b in pairs).sqrt()
    return float(((found - wanted).abs().max() / wanted.abs().max()).detach()), float(distance / norm)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize(("name", "base"), BASES)
def test_branches_equal_their_paths_alone(name, base, checkpointing):
    model = build(name, base)
    handle = None
    if checkpointing:
        handle = attach(model, SoRA(rank=3))
        with torch.no_grad():
            for branch in handle.branches.values():
                branch.lora_b.normal_(std=0.1)
    plain = copy.deepcopy(model)
    if checkpointing:
        enable_activation_checkpointing(model, handle)
        fast.kernels_agree.cache_clear()  # its own check runs inside of the checkpointed layer, too
    enable_packing(model)
    value, gradient = errors(model, plain, SHAPE)
    assert value < 1e-5 and gradient < 1e-5


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral", "gemma2", "gpt2", "bloom"])
def test_random_trees(name, seed):
    model = build(name)
    plain = copy.deepcopy(model)
    enable_packing(model)
    assert max(errors(model, plain, random_tree(seed))) < 1e-5


@pytest.mark.parametrize("name", DECODERS)
def test_branches_equal_their_paths_alone_in_float64(name):
    model = build(name).double()
    plain = copy.deepcopy(model)
    enable_trees(model)
    value, gradient = errors(model, plain, SHAPE)
    # Gemma 2 and BLOOM take softmax in float32 when they go eagerly; so do rotary tables and some norms of others.
    assert value < 2e-7 and gradient < 1e-6


@pytest.mark.real_data
def test_branches_of_a_trained_llama(real_data):
    model = load_backbone(str(real_data / "models" / "aidreams260K" / "hf_converted"), "causal_lm").model
    plain = copy.deepcopy(model)
    enable_trees(model)
    assert max(errors(model, plain, tree((40, 30, 21, 17, 30), (-1, 0, 0, 2, 2)))) < 1e-5


@pytest.mark.parametrize("name", ["llama", "mistral", "bloom"])
def test_trees_of_one_segment_equal_packing(name):
    model = build(name)
    enable_packing(model)
    batch = tree((3, 9, 1, 20), (-1, -1, -1, -1)).batch()
    with torch.no_grad():
        as_tree = model(**packed_inputs(model, batch)).logits
        parents = batch.pop("parents")
        packed = model(**packed_inputs(model, batch)).logits
    assert torch.equal(as_tree, packed)
    assert Segments(batch["cu_seq_lens"], parents).parents is None


def test_trees_of_a_row_do_not_see_one_another():
    model = build("llama")
    enable_packing(model)
    first, second = (9, 4, 6), (5, 3, 8)
    both = tree(first + second, (-1, 0, 0, -1, 3, 3))
    changed = both._replace(ids=torch.cat([both.ids[: sum(first)], both.ids[sum(first) :].flip(0)]))
    with torch.no_grad():
        logits = [model(**packed_inputs(model, given.batch())).logits[0, : sum(first)] for given in (both, changed)]
    assert torch.equal(*logits)


class LargestMatrix(torch.overrides.TorchFunctionMode):
    """Notes the shorter side of the largest matrix that anybody makes."""

    side = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dim() >= 2:
            self.side = max(self.side, min(out.shape[-2:]))
        return out


@pytest.mark.parametrize("name", ["llama", "gemma2", "bloom"])
def test_attention_costs_no_square_of_the_pack(name):
    model = build(name)
    batch = tree((16, *[15] * 12), (-1, *[0] * 12)).batch()
    tokens = batch["input_ids"].shape[1]
    mask = torch.ones_like(batch["input_ids"])
    mask[0, -1] = 0
    with LargestMatrix() as before:
        model.base_model(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False)
    enable_packing(model)
    with LargestMatrix() as packed:
        model.base_model(**packed_inputs(model, batch))
    # No other matrix of these models is more than 128 wide.
    assert before.side == tokens == 196 and packed.side <= 128


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_attention_dropout_is_on_in_training_only(name):
    model = build(name, attention_dropout=0.5)
    enable_packing(model)
    with torch.no_grad():
        assert not torch.allclose(tree_log_probs(model, SHAPE), tree_log_probs(model, SHAPE))
        model.eval()
        assert torch.equal(tree_log_probs(model, SHAPE), tree_log_probs(model, SHAPE))


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_autocast(name):
    model = build(name)
    enable_packing(model)
    with torch.autocast("cpu", torch.bfloat16):
        found = tree_log_probs(model, SHAPE)
        found.sum().backward()
    torch.testing.assert_close(found.float(), tree_log_probs(model, SHAPE), rtol=0.05, atol=0.05)


def test_proof_sees_attention_that_ignores_parents(monkeypatch):
    model = build("llama")
    enable_packing(model)

    def forgetful(query, key, value, segments, rule):
        return _by_chain(query, key, value, Segments(segments.boundaries), rule)

    monkeypatch.setattr("fulgurite.models.packing.attention_functions.attend", forgetful)
    with pytest.raises(ValueError, match=r"enable_trees: LlamaForCausalLM computes the branches.*trees to false"):
        enable_trees(model)
    assert model.config._attn_implementation == "fulgurite_sdpa"


def test_proof_sees_windows_over_places_instead_of_paths(monkeypatch):
    model = build("mistral", sliding_window=5)
    enable_packing(model)
    monkeypatch.setattr(Segments, "depths", property(lambda self: self.offsets[:-1]))
    with pytest.raises(ValueError, match=r"enable_trees: MistralForCausalLM computes the branches"):
        enable_trees(model)


def test_proof_sees_positions_that_run_on(monkeypatch):
    model = build("gpt2")
    enable_packing(model)
    forward = type(model.transformer).forward

    def ignoring(self, *args, position_ids=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model.transformer), "forward", ignoring)
    with pytest.raises(ValueError, match=r"enable_trees: GPT2LMHeadModel computes the branches"):
        enable_trees(model)


@pytest.mark.parametrize("name", DECODERS)
def test_proof_holds_and_leaves_no_trace(name):
    for dtype in (torch.float32, torch.bfloat16):
        model = build(name).to(dtype)
        state, training = torch.random.get_rng_state(), model.training
        enable_trees(model)
        enable_trees(model)
        assert torch.equal(state, torch.random.get_rng_state()) and model.training == training
        assert all(parameter.grad is None for parameter in model.parameters())


def test_models_without_trees_are_refused():
    import transformers

    with pytest.raises(ValueError, match=r"T5ForConditionalGeneration is an encoder-decoder"):
        enable_trees(build("t5"))
    config = transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(ValueError, match=r"MambaForCausalLM"):
        enable_trees(transformers.MambaForCausalLM(config))


def test_flash_attention_knows_no_trees(monkeypatch):
    model = build("llama")
    model.config._attn_implementation_internal = "flash_attention_2"
    monkeypatch.setattr("fulgurite.models.packing.packed_attention.prove_packing", lambda model: None)
    with pytest.raises(
        ValueError, match=r"enable_trees: LlamaForCausalLM runs with flash attention.*'sdpa', or set trees"
    ):
        enable_trees(model)
    with pytest.raises(ValueError, match=r"packed_inputs: LlamaForCausalLM runs with flash attention"):
        packed_inputs(model, SHAPE.batch())
    inputs = packed_inputs(model, tree((3, 2), (-1, -1)).batch())
    assert inputs["cu_seq_lens_q"].tolist() == [0, 3, 5]
