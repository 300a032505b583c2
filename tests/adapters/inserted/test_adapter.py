"""BitFit, bottlenecks and soft prompts: exact counts, what moves, off and on, saved and loaded, budgets, PEFT's prompt tuning."""

from __future__ import annotations

import pytest
import torch

from fulgurite.adapters import APET, BitFit, Bottleneck, LoRA, SoftPrompt, attach, load_adapter, within_budget
from tests.models.tiny import build

IDS = torch.randint(3, 60, (3, 7), generator=torch.Generator().manual_seed(0))
CONFIGS = [Bottleneck(width=3), SoftPrompt(length=4), BitFit()]


def bert(**settings):
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = BertConfig(vocab_size=67, max_position_embeddings=40, num_labels=2, **sizes, **settings)
    return BertForSequenceClassification(config).eval()


def inputs(name: str) -> dict[str, torch.Tensor]:
    mask = torch.ones_like(IDS)
    mask[1, 4:] = 0
    decoder = {"decoder_input_ids": IDS[:, :4]} if name == "t5" else {}
    return {"input_ids": IDS, "attention_mask": mask, **decoder}


@pytest.mark.parametrize("name", ["bert", "bloom", "gpt2", "t5"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
def test_only_the_method_is_trained_and_it_comes_off_again(name, config, tmp_path):
    model = bert() if name == "bert" else build(name).eval()
    if name == "t5" and isinstance(config, BitFit):
        with pytest.raises(ValueError, match="has no parameter that matches"):
            attach(model, config)
        return
    batch = inputs(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    base = model(**batch).logits.detach()
    adapter = attach(model, config, train=("classifier",) if name == "bert" else ())
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".branches.default." in key or key.startswith("classifier") for key in trained)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == adapter.trainable_parameters()
    optimizer = torch.optim.AdamW(adapter.param_groups(1e-2))
    for _ in range(2):  # a bottleneck's first gradient reaches W_up alone
        model(**batch).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    tuned = model(**batch).logits.detach()
    assert tuned.shape == base.shape and not torch.allclose(tuned, base, atol=1e-4)
    adapter.save(tmp_path)
    if name != "bert":
        with adapter.disabled():
            torch.testing.assert_close(model(**batch).logits, base, rtol=1e-5, atol=2e-6)
        assert torch.allclose(model(**batch).logits, tuned)
        fresh = build(name).eval()
        load_adapter(fresh, tmp_path)
        torch.testing.assert_close(fresh(**batch).logits, tuned, rtol=1e-5, atol=2e-6)
    adapter.detach()
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before if not key.startswith("classifier"))


def test_an_adapter_of_another_size_is_refused(tmp_path):
    model = build("gpt2")
    attach(model, SoftPrompt(length=4)).save(tmp_path)
    other = attach(build("gpt2"), SoftPrompt(length=5))
    with pytest.raises(ValueError, match="made for other layers"):
        other.load(tmp_path)
    for call in (other.merge, lambda: other.export_peft(tmp_path)):
        with pytest.raises(RuntimeError, match="SoftPrompt"):
            call()


def test_a_bottleneck_follows_its_layer():
    model = build("llama").eval()
    layer = model.model.layers[0].mlp.down_proj
    x = torch.randn(2, 48)
    plain = layer(x).detach()
    adapter = attach(model, Bottleneck(width=3, targets=r".*layers\.0\.mlp\.down_proj"), check_forward=False)
    branch = adapter.branches["model.layers.0.mlp.down_proj"]
    torch.nn.init.normal_(branch.up.weight)
    hidden = plain @ branch.down.weight.T + branch.down.bias
    expected = plain + torch.nn.functional.gelu(hidden, approximate="tanh") @ branch.up.weight.T
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
def test_prompt_tuning_equals_peft(name):
    peft = pytest.importorskip("peft")
    ours, theirs = build(name).eval(), build(name).eval()
    adapter = attach(ours, SoftPrompt(length=4))
    (branch,) = adapter.branches.values()
    wrapped = peft.get_peft_model(theirs, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    with torch.no_grad():
        wrapped.prompt_encoder["default"].embedding.weight.copy_(branch.vectors)
    batch = inputs(name)
    real = batch["attention_mask"].bool()
    expected = wrapped(**batch).logits[:, 4:]
    torch.testing.assert_close(ours(**batch).logits[real], expected[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "bloom", "gpt2", "t5"])
def test_a_prompt_generates_the_same_with_and_without_a_cache(name):
    model = build(name).eval()
    attach(model, SoftPrompt(length=4))
    mask = torch.ones_like(IDS)
    mask[1, :3] = 0  # generation pads on the left
    options = {"input_ids": IDS, "attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**options, use_cache=True), model.generate(**options, use_cache=False))


def test_a_classifier_still_pools_its_first_token():
    model = bert()
    adapter = attach(model, SoftPrompt(length=4))
    seen = []
    model.bert.pooler.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    model(**inputs("bert"))
    assert seen[0].shape[1] == 4 + IDS.shape[1], "the pooler sees the prompt behind the first token"
    with adapter.disabled():
        model(**inputs("bert"))
    assert seen[1].shape[1] == IDS.shape[1]
    with pytest.raises(ValueError, match="more than the 40 positions"):
        model(input_ids=torch.ones(1, 38, dtype=torch.int64))
    with pytest.raises(ValueError, match="packed batches"):
        model(input_ids=IDS, attention_mask=torch.ones(3, 1, 7, 7))


@pytest.mark.parametrize("config", [LoRA(rank=2, alpha=4), Bottleneck(), SoftPrompt(), BitFit(), APET(budget=1)])
@pytest.mark.parametrize("budget", [300, 3000])
def test_within_budget_takes_the_largest_size_that_fits(config, budget):
    model = bert()
    heads = ("classifier",)
    smallest = {LoRA: 832, Bottleneck: 388, SoftPrompt: 32, BitFit: 1, APET: 1}[type(config)]
    if budget < smallest:
        with pytest.raises(ValueError, match=f"trains {smallest:,} parameters"):
            within_budget(model, config, budget, heads)
        return
    found = within_budget(model, config, budget, heads)
    adapter = attach(model, found, train=heads)
    count = adapter.trainable_parameters() - sum(p.numel() for p in model.classifier.parameters())
    biases = sum(p.numel() for key, p in bert().named_parameters() if key.endswith("bias") and "classifier" not in key)
    unit = {LoRA: 832, Bottleneck: 260, SoftPrompt: 32, BitFit: 1, APET: 1}[type(config)]
    most = min(budget, biases) if isinstance(config, BitFit) else budget
    assert most - unit < count <= most
    if isinstance(found, LoRA):
        assert found.alpha / found.rank == config.alpha / config.rank


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bottleneck(width=0), "width=0"),
        (lambda: SoftPrompt(length=0), "length=0"),
        (lambda: SoftPrompt(init="zeros"), "init='zeros'"),
        (lambda: BitFit(budget=0), "budget=0"),
        (lambda: BitFit(targets="("), "no valid regular expression"),
        (lambda: attach(bert(), BitFit(budget=10**6)), "above the .* bias values"),
        (lambda: attach(torch.nn.Sequential(torch.nn.Linear(3, 3)), SoftPrompt()), "no get_input_embeddings"),
        (lambda: attach(torch.nn.Sequential(torch.nn.Linear(3, 3)), Bottleneck()), "are not known for Sequential"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_prompt_reaches_opt_and_pictures_have_none():
    """OPT's language model calls its decoder past the model around it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.OPTConfig(
        hidden_size=16, word_embed_proj_dim=16, ffn_dim=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=40,
        max_position_embeddings=32, dropout=0.0,
    )  # fmt: skip
    model = transformers.OPTForCausalLM(config).eval()
    ids = torch.tensor([[2, 5, 6, 7]])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=mask).logits
    adapter = attach(model, SoftPrompt(3))
    after = model(input_ids=ids, attention_mask=mask).logits
    assert after.shape == before.shape and not torch.allclose(after, before)
    after.sum().backward()
    assert all(
        p.grad is not None and bool(p.grad.any()) for group in adapter.param_groups(lr=1.0) for p in group["params"]
    )
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    text = transformers.CLIPTextConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    clip = transformers.CLIPModel(transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    with pytest.raises(ValueError, match="SoftPrompt"):
        attach(clip, SoftPrompt(3))
