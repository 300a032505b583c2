"""Mixtures of experts: the loss is transformers' own, auxiliary loss included where the configuration asks for it."""

from __future__ import annotations

import pytest
import torch

from fulgurite.adapters import LoRA, attach
from fulgurite.data.rows.packed import PackedCollator
from fulgurite.lightning_modules import PreferenceModule
from fulgurite.lightning_modules.checks.before_training import say_what_is_left_out
from fulgurite.lightning_modules.metrics.measures import NamedMeasures
from fulgurite.lightning_modules.objectives.language import LanguageModelling

SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    pad_token_id=0,
    router_aux_loss_coef=0.5,
    initializer_range=0.3,
    num_experts_per_tok=2,
)
KINDS = {
    "Mixtral": dict(num_local_experts=4),
    "Olmoe": dict(num_experts=4),
    "GptOss": dict(num_local_experts=4, head_dim=8),
    "Qwen3Moe": dict(num_experts=4, moe_intermediate_size=24, head_dim=8, decoder_sparse_step=1),
}


def model_of(kind, asked=True):
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES, **KINDS[kind], output_router_logits=asked)
    return getattr(transformers, f"{kind}ForCausalLM")(config)


def batches():
    """The same three rows padded and packed; the pack's length is rounded up."""
    torch.manual_seed(1)
    rows = [torch.randint(1, 64, (n,)) for n in (9, 4, 6)]
    ids, labels = torch.zeros(3, 9, dtype=torch.int64), torch.full((3, 9), -100)
    mask = torch.zeros(3, 9, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
        labels[i, 2 : len(row)] = row[2:]
    pack = {
        "input_ids": torch.cat(rows),
        "labels": torch.cat([torch.cat([torch.full((2,), -100), row[2:]]) for row in rows]),
        "position_ids": torch.cat([torch.arange(len(row)) for row in rows]),
        "segment_lengths": torch.tensor([len(row) for row in rows]),
    }
    padded = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {"padded": padded, "packed": PackedCollator(0, 16).rows([pack])}


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("form", ["padded", "packed"])
def test_loss_and_gradients_are_transformers_own(form, kind, asked, adapted):
    model = model_of(kind, asked)
    if adapted:
        targets = r".*(q_proj|v_proj|gate|experts\.gate_up_proj|experts\.down_proj)"
        attach(model, LoRA(rank=2, targets=targets), check_forward=False)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_b" in name:
                    p.normal_(std=0.1)
    stock = model(**batches()["padded"]).loss
    own = [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(stock, own, allow_unused=True)
    if (form, kind) == ("packed", "GptOss"):
        with pytest.raises(
            ValueError, match="GptOssAttention uses s_aux, which packed rows do not; set packing to false"
        ):
            LanguageModelling()(model, batches()[form])
        return
    step = LanguageModelling()(model, batches()[form])
    loss = step.loss_sum / step.targets
    found = torch.autograd.grad(loss, own, allow_unused=True)
    assert float(loss) == pytest.approx(float(stock), rel=1e-5)
    norm = sum(float(g.square().sum()) for g in expected if g is not None) ** 0.5
    for one, other in zip(found, expected, strict=True):
        if other is not None:
            assert one is not None and float((one - other).norm()) <= 1e-5 * norm
    if asked and not adapted:
        assert float(stock) > float(model_of(kind, False)(**batches()["padded"]).loss) + 0.4


@torch.no_grad()
def test_evaluation_adds_it_to_the_loss_and_not_to_perplexity():
    model, batch = model_of("Mixtral").eval(), batches()["padded"]
    step = LanguageModelling()(model, batch)
    assert float(step.loss_sum / step.targets) == pytest.approx(float(model(**batch).loss), rel=1e-5)
    plain = model_of("Mixtral", asked=False).eval()(**batch).loss
    measures = NamedMeasures(("perplexity",), 1, (), "val_")
    measures.take(step, batch)
    assert float(measures.named()["val_perplexity"].compute()) == pytest.approx(float(plain.exp()), rel=1e-5)


def test_objectives_that_leave_it_out_say_so(recwarn):
    for owner, adds in (("SFTModule", True), ("PreferenceModule", False)):
        say_what_is_left_out(owner, model_of("Mixtral"), adds)
    say_what_is_left_out("PreferenceModule", model_of("Mixtral", asked=False), False)
    assert [str(w.message).partition(":")[0] for w in recwarn if "balances experts" in str(w.message)] == [
        "PreferenceModule"
    ]
    assert not PreferenceModule("playground").objective.balances_experts
