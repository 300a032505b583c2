"""Causal classifiers: a row's logits are those of the row alone, whatever token pads and whatever the configuration names."""

from __future__ import annotations

import pytest
import torch

from fulgurite.models import load_backbone
from fulgurite.models.padding import name_padding, padding_named
from tests.lightning_modules.conftest import write_bert

ROWS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16]]


def write_classifier(folder, kind="Llama", **options):
    """A random causal classifier of three labels, 40 tokens; options of its configuration."""
    import transformers

    torch.manual_seed(0)
    sizes = (
        dict(n_embd=32, n_layer=2, n_head=4, n_positions=64)
        if kind == "GPT2"
        else dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    )
    config = getattr(transformers, f"{kind}Config")(vocab_size=40, num_labels=3, **sizes, **options)
    getattr(transformers, f"{kind}ForSequenceClassification")(config).save_pretrained(folder)
    return str(folder)


def batch_of(rows, pad, left=False):
    width = max(map(len, rows))
    fill = [([pad] * (width - len(row)), [0] * (width - len(row))) for row in rows]
    ids = [f + row if left else row + f for row, (f, _) in zip(rows, fill, strict=True)]
    mask = [m + [1] * len(row) if left else [1] * len(row) + m for row, (_, m) in zip(rows, fill, strict=True)]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("named", [None, 0, 1, -1, 40])
@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
@torch.no_grad()
def test_logits_of_short_rows_do_not_depend_on_their_neighbours(kind, named, left, tmp_path):
    """The tokenizer pads with 3; the configuration names another token, none, or one that the embedding has no row for."""
    folder = write_classifier(tmp_path, kind, bos_token_id=1, eos_token_id=2)
    model = load_backbone(folder, "classification", num_labels=3).model.eval()
    model.config.pad_token_id = named
    alone = torch.cat([model(input_ids=torch.tensor([row])).logits for row in ROWS])
    for rows in (ROWS, ROWS[1:], ROWS[:2]):
        batch = batch_of(rows, 3, left)
        if left:
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        found = model(**batch).logits
        assert torch.allclose(found, alone[[ROWS.index(row) for row in rows]], atol=1e-5)


def test_only_models_that_read_by_padding_take_the_tokenizers(tmp_path):
    causal = load_backbone(
        write_classifier(tmp_path / "llama", pad_token_id=None), "classification", num_labels=3
    ).model
    name_padding(causal, 3)
    assert causal.config.pad_token_id == padding_named(causal) == 3
    name_padding(causal, None)
    assert causal.config.pad_token_id == 3
    encoder = load_backbone(write_bert(tmp_path / "bert", 0.0), "classification", num_labels=3).model
    before = encoder.config.pad_token_id
    name_padding(encoder, before + 1)
    assert encoder.config.pad_token_id == before and padding_named(encoder) is None
