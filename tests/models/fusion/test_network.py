"""The fused network: gate, hidden states at corresponding positions, and decoding that a one-hot gate makes a specialist's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GenerationConfig, __version__

from fulgurite.adapters import LoRA, attach
from fulgurite.kernels import fused_log_probs
from fulgurite.models import FusedNetwork, head_options
from fulgurite.models.fusion.specialists import Specialist
from tests.models.tiny import VOCABULARY, build

LENGTHS = [(3, 7, 5), (6, 4, 4), (2, 2, 9)]  # of each specialist's three prompts
NAMES = ["text", "code", "maths"]


def specialist(kind="llama", seed=0, vocabulary=VOCABULARY, **settings):
    model = build(kind, vocab_size=vocabulary, **settings).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.4)  # what is read matters to what is written
    return model


def network(kind="llama", count=3, **settings):
    torch.manual_seed(7)
    return FusedNetwork(
        [Specialist(specialist(kind, i, **settings), None) for i in range(count)], NAMES[:count], 16
    ).eval()


def one_base():
    """One model with three adapters, and the same three as models of their own."""
    base = specialist()
    alone = [specialist() for _ in range(3)]
    found = []
    for i, other in enumerate(alone):
        mine = attach(base, LoRA(rank=3), name=f"specialist{i}")
        theirs = attach(other, LoRA(rank=3), name=f"specialist{i}")
        with torch.no_grad():
            for one, two in zip(mine.branches.values(), theirs.branches.values(), strict=True):
                one.lora_b.normal_(generator=torch.Generator().manual_seed(i))
                one.lora_b.mul_(0.3)
                two.lora_a.copy_(one.lora_a)
                two.lora_b.copy_(one.lora_b)
        found.append((mine, theirs))
    torch.manual_seed(7)
    shared = FusedNetwork([Specialist(base, mine) for mine, _ in found], NAMES, 16).eval()
    apart = FusedNetwork(
        [Specialist(other, theirs) for other, (_, theirs) in zip(alone, found, strict=True)], NAMES, 16
    ).eval()
    apart.gates.load_state_dict(shared.gates.state_dict())
    return shared, apart


def prompts(pad="left", lengths=LENGTHS):
    generator = torch.Generator().manual_seed(5)
    ids, masks = [], []
    for place in range(len(lengths[0])):
        own = [row[place] for row in lengths]
        width = max(own)
        block, mask = torch.zeros(len(own), width, dtype=torch.int64), torch.zeros(len(own), width, dtype=torch.int64)
        for i, length in enumerate(own):
            part = slice(width - length, width) if pad == "left" else slice(0, length)
            block[i, part] = torch.randint(3, VOCABULARY, (length,), generator=generator)
            mask[i, part] = 1
        ids.append(block)
        masks.append(mask)
    return ids, masks


def listen_to(fused, place, monkeypatch):
    def scores(states):
        found = states[0].new_full((*states[0].shape[:-1], len(states)), -torch.inf)
        found[..., place] = 0
        return found

    monkeypatch.setattr(fused, "scores", scores)


def settings(**more):
    return GenerationConfig(max_new_tokens=12, eos_token_id=2, pad_token_id=0, use_cache=True, **more)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2", "gpt2", "bloom", "cohere", "gpt_neox"])
def test_a_one_hot_gate_decodes_as_that_specialist(kind, place, monkeypatch):
    fused = network(kind)
    listen_to(fused, place, monkeypatch)
    ids, masks = prompts()
    penalised = place == 0 and int(__version__.split(".")[0]) >= 5  # older versions penalise padding too
    config = settings(return_dict_in_generate=True, repetition_penalty=1.2 if penalised else 1.0)
    found = fused.generate(ids, masks, config)
    config.return_dict_in_generate = False
    expected = fused.specialist(place).generate(
        input_ids=ids[place], attention_mask=masks[place], generation_config=config
    )
    answers, wanted = found.sequences[:, ids[0].shape[1] :], expected[:, ids[place].shape[1] :]
    assert torch.equal(answers, wanted)
    assert len(set(answers.flatten().tolist())) > 2, "the answers say something"
    weights = found.gate_weights
    assert weights.shape == (*answers.shape, 3) and weights[0, 0].tolist() == [float(i == place) for i in range(3)]
    alone = [
        fused.generate([b[i : i + 1] for b in ids], [m[i : i + 1] for m in masks], settings())[0] for i in range(3)
    ]
    for row, other in zip(found.sequences, alone, strict=True):
        shown = other[ids[0].shape[1] :]
        assert config.repetition_penalty != 1.0 or torch.equal(row[ids[0].shape[1] :][: len(shown)], shown)


def without_cache(fused, ids, count):
    """Greedy tokens of one row, everything computed anew for each token, logits blended by hand."""
    rows = [part.clone() for part in ids]
    new = []
    for _ in range(count):
        hiddens, logits = [], []
        for place, row in enumerate(rows):
            with fused.only(place):
                out = fused.specialist(place)(input_ids=row, output_hidden_states=True)
            hiddens.append(out.hidden_states[-1][:, -1])
            logits.append(out.logits[:, -1, :VOCABULARY].float())
        weights = fused.scores(hiddens).softmax(-1)
        mixed = sum(weights[:, i : i + 1] * part for i, part in enumerate(logits))
        new.append(int(mixed.argmax(-1)))
        rows = [torch.cat([row, torch.tensor([[new[-1]]])], 1) for row in rows]
    return new


@pytest.mark.parametrize("case", ["three models", "one base", "other widths"])
def test_the_blend_decodes_as_without_caches(case):
    if case == "one base":
        fused, _ = one_base()
    elif case == "three models":
        fused = network()
    else:
        models = [specialist(), specialist(hidden_size=64, vocabulary=VOCABULARY + 5), specialist("gpt2", 2)]
        torch.manual_seed(7)
        fused = FusedNetwork([Specialist(model, None) for model in models], NAMES, 16).eval()
        assert [gate[0].in_features for gate in fused.gates] == [32, 64, 32]
    with torch.no_grad():  # a gate that decides
        for gate in fused.gates:
            gate[2].weight.mul_(20)
    ids, masks = prompts()
    config = GenerationConfig(max_new_tokens=8, return_dict_in_generate=True)
    found = fused.generate(ids, masks, config)
    for i, lengths in enumerate(LENGTHS):
        own = [part[i : i + 1, part.shape[1] - length :] for part, length in zip(ids, lengths, strict=True)]
        with torch.no_grad():
            assert found.sequences[i, ids[0].shape[1] :].tolist() == without_cache(fused, own, 8)
    torch.testing.assert_close(found.gate_weights.sum(-1), torch.ones(3, 8))
    assert found.gate_weights.std(dim=(0, 1)).min() > 1e-3, "the gate differs from token to token"


def test_equal_specialists_are_the_single_model_also_where_they_draw():
    model = specialist()
    fused = FusedNetwork([Specialist(model, None)] * 3, NAMES, 16).eval()
    assert len(fused.models) == 1 and len(fused.gates) == 1
    ids, masks = prompts()
    same = ([ids[1]] * 3, [masks[1]] * 3)
    for more in ({}, {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.3}):
        more |= {"num_return_sequences": 2} if more else {}
        torch.manual_seed(3)
        expected = model.generate(input_ids=ids[1], attention_mask=masks[1], generation_config=settings(**more))
        torch.manual_seed(3)
        assert torch.equal(fused.generate(*same, settings(**more)), expected)
        torch.manual_seed(3)
        assert torch.equal(fused.generate(ids[1], masks[1], settings(**more)), expected)


def test_permuting_specialists_permutes_the_gate_only():
    fused, order = network(), [2, 0, 1]
    turned = FusedNetwork([Specialist(fused.specialist(i), None) for i in order], [NAMES[i] for i in order], 16).eval()
    turned.gates.load_state_dict(fused.gates.state_dict())
    ids, masks = prompts()
    config = settings(return_dict_in_generate=True)
    first = fused.generate(ids, masks, config)
    second = turned.generate([ids[i] for i in order], [masks[i] for i in order], config)
    new = first.gate_weights.shape[1]
    assert torch.equal(first.sequences[:, -new:], second.sequences[:, -new:])
    torch.testing.assert_close(second.gate_weights, first.gate_weights[..., order])


def test_forward_gives_states_and_scores_at_corresponding_positions():
    fused = network()
    ids, masks = prompts("right")
    # Two answer tokens of each row: the last of each prompt and the one before.
    sources = [
        torch.tensor([i * part.shape[1] + row[place] - 1 - j for i, row in enumerate(LENGTHS) for j in (0, 1)])
        for place, part in enumerate(ids)
    ]
    found = fused(ids, masks, sources)
    for place, states in enumerate(found.hiddens):
        for k, (i, j) in enumerate((i, j) for i in range(3) for j in (0, 1)):
            end = LENGTHS[i][place] - j
            alone = fused.specialist(place).model(input_ids=ids[place][i : i + 1, :end]).last_hidden_state[0, -1]
            torch.testing.assert_close(states[k], alone, rtol=1e-4, atol=1e-5)
    by_hand = torch.cat([fused.gates[0](states) for states in found.hiddens], -1)
    torch.testing.assert_close(found.scores, by_hand)


@pytest.mark.parametrize("trained", ["gate", "adapters"])
def test_adapters_on_one_base_are_models_of_their_own(trained):
    """Log-probabilities and gradients; one head for all against three heads of equal numbers."""
    found = []
    for fused in one_base():
        for adapter in fused.adapters:
            for branch in adapter.branches.values():
                branch.requires_grad_(trained == "adapters")
        ids, masks = prompts("right")
        sources = [
            torch.tensor([i * p.shape[1] + row[place] - 1 for i, row in enumerate(LENGTHS)])
            for place, p in enumerate(ids)
        ]
        states = fused(ids, masks, sources)
        heads = fused.heads()
        loss = -fused_log_probs(
            states.hiddens, [h.weight for h in heads], states.scores, torch.tensor([4, 9, 30]),
            options=[head_options(h) for h in heads],
        ).sum()  # fmt: skip
        loss.backward()
        branches = [b for adapter in fused.adapters for b in adapter.branches.values()]
        found.append((loss.detach(), [p.grad for p in fused.gates.parameters()], [b.lora_b.grad for b in branches]))
    (loss, gate, low), (loss2, gate2, low2) = found
    torch.testing.assert_close(loss, loss2)
    torch.testing.assert_close(gate, gate2, rtol=1e-4, atol=1e-6)
    # The gate's last bias adds the same number to all scores, which a softmax does not see: its gradient is rounding, or 0.
    assert all(part is not None and part.any() for part in gate[:-1])
    if trained == "gate":
        assert all(part is None for part in low)
    else:
        torch.testing.assert_close(low, low2, rtol=1e-3, atol=1e-6)


def test_streamer_and_criteria_are_transformers_own():
    from transformers import StoppingCriteria, StoppingCriteriaList
    from transformers.generation.streamers import BaseStreamer

    class Collect(BaseStreamer):
        def __init__(self):
            self.seen, self.ended = [], 0

        def put(self, value):
            self.seen.append(value)

        def end(self):
            self.ended += 1

    class AtFour(StoppingCriteria):
        def __call__(self, input_ids, scores, **more):
            return torch.tensor([input_ids.shape[1] - 5 >= 4, input_ids.shape[1] - 5 >= 6])

    fused, streamer = network(), Collect()
    ids, masks = prompts(lengths=[(5, 7, 3), (5, 2, 9)])
    config = GenerationConfig(max_new_tokens=9, pad_token_id=0, return_dict_in_generate=True)
    found = fused.generate(ids, masks, config, None, StoppingCriteriaList([AtFour()]), streamer)
    assert found.sequences.shape == (2, 11) and found.sequences[0, 9:].tolist() == [0, 0]
    assert found.gate_weights[0, 4:].abs().sum() == 0 and found.gate_weights[1].sum() > 5.9
    assert torch.equal(streamer.seen[0], ids[0]) and streamer.ended == 1
    assert torch.equal(torch.stack(streamer.seen[1:], 1), found.sequences[:, 5:])
    config.min_new_tokens = 3
    config.eos_token_id = found.sequences[1, 5].item()
    late = fused.generate(ids[:], masks, config)
    assert config.eos_token_id not in late.sequences[1, 5:8]


def test_probs_blend_decodes_from_the_mixture():
    fused = network()
    fused.blend = "probs"
    ids, masks = prompts(lengths=[(5, 7, 3)])
    first = fused.generate(ids, masks, GenerationConfig(max_new_tokens=1))[0, -1]
    logits = [fused.specialist(p)(input_ids=part).logits[:, -1].softmax(-1) for p, part in enumerate(ids)]
    states = [fused.specialist(p).model(input_ids=part).last_hidden_state[:, -1] for p, part in enumerate(ids)]
    weights = fused.scores(states).softmax(-1)
    assert int(first) == int(sum(weights[:, i : i + 1] * part for i, part in enumerate(logits)).argmax())


def test_what_does_not_fit_is_refused_by_name():
    fused = network()
    ids, masks = prompts()
    for config, said in [
        (settings(num_beams=4), "the setting num_beams=4 is not known to fused decoding"),
        (GenerationConfig(max_length=4), "max_length=4, and the prompt has 6 tokens already"),
    ]:
        with pytest.raises(ValueError, match=said):
            fused.generate(ids, masks, config)
    with pytest.raises(ValueError, match=r"input_ids \[\(3, 6\), \(3, 7\)\].*specialists text, code, maths"):
        fused.generate(ids[:2], masks[:2], settings())
    with pytest.raises(ValueError, match="the prompts of 'code' are padded on the right"):
        fused.generate(ids, [masks[0], masks[1].flip(1), masks[2]], settings())
    with pytest.raises(ValueError, match="0 specialists and 0 names"):
        FusedNetwork([], [])
    with pytest.raises(ValueError, match=r"'text' \(LlamaModel\) has no output head"):
        FusedNetwork([Specialist(specialist().model, None)], ["text"])
    with pytest.raises(ValueError, match="'text' is an encoder-decoder"):
        FusedNetwork([Specialist(build("t5"), None)], ["text"])
    odd = network()
    odd.models[1].lm_head = nn.Sequential(odd.models[1].lm_head)
    odd.models[1].lm_head.weight = odd.models[1].lm_head[0].weight
    with pytest.raises(ValueError, match=r"the output head of 'code' \(LlamaForCausalLM\) is not a linear layer"):
        odd.heads()


def test_specialists_on_several_devices_meet_at_the_gates(monkeypatch):
    """The meta device stands for a GPU: it computes no numbers, but tells where every tensor lies."""
    fused = network()
    fused.gates.to("meta")
    listen_to(fused, 1, monkeypatch)  # there is no autocast on meta to switch off
    ids, masks = prompts("right")
    found = fused(ids, masks, [torch.arange(4)] * 3)
    assert [str(state.device) for state in fused.hidden(ids, masks)] == ["cpu"] * 3
    assert {str(part.device) for part in [*found.hiddens, found.scores]} == {"meta"}
    assert {str(head.weight.device) for head in fused.heads()} == {"meta"}
    assert {str(parameter.device) for parameter in fused.models.parameters()} == {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_specialists_on_a_gpu_and_on_the_cpu_answer_as_on_one_device():
    fused = network()
    ids, masks = prompts()
    expected = fused.generate(ids, masks, settings())
    fused.models[1].to("cuda")
    assert torch.equal(fused.generate(ids, masks, settings()), expected)
    fused.gates.to("cuda")
    assert torch.equal(fused.generate(ids, masks, settings()).cpu(), expected)


def test_nothing_is_left_behind():
    shared, _ = one_base()
    site = shared.adapters[0].site
    before = site.active
    ids, masks = prompts()
    shared.generate(ids, masks, settings())
    assert site.active == before and not shared.training and shared.generation_config is None
