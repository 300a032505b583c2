"""What needs the whole network is refused by name with the strategy of shards, before anything is loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fulgurite.adapters import APET, LoRA, SoRA
from fulgurite.lightning_modules import (
    APETModule,
    ClassificationModule,
    CPOModule,
    PreferenceModule,
    RewardModule,
    SFTModule,
    SoRAModule,
)
from fulgurite.lightning_modules.processes.refusals import refuse_on_shards


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: APETModule("playground", task="causal_lm", budget=10), "this module was given .* was not compared"),
        (lambda: CPOModule("playground", adapter=LoRA()), "this module was given .* was not compared"),
        (lambda: RewardModule("playground", adapter=LoRA()), "this module was given .* was not compared"),
        (lambda: ClassificationModule("playground", adapter=LoRA()), "this module was given .* was not compared"),
        (lambda: SFTModule("playground", adapter=APET(budget=10)), "the adapter APET .* at positions of those"),
        (lambda: SFTModule("playground", adapter=LoRA(), quantize="nf4"), "quantize=nf4 .* packed weights"),
        (lambda: SFTModule("playground", adapter=LoRA(), resize_embeddings="new"), "resize_embeddings .* which is cut"),
        (lambda: SFTModule("playground", dtype="bfloat16"), "dtype=bfloat16 without an adapter .* float32 masters"),
        (lambda: SoRAModule("playground", task="seq2seq"), "an encoder-decoder was given"),
    ],
)
def test_what_needs_the_whole_network_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        refuse_on_shards(make(), None, "32-true")


def test_the_trainers_precision_and_the_data_are_looked_at() -> None:
    module = SFTModule("playground", adapter=SoRA())
    with pytest.raises(ValueError, match="SFTModule: precision bf16-true was given with the strategy fsdp2"):
        refuse_on_shards(module, None, "bf16-true")
    with pytest.raises(ValueError, match=r"SimpleNamespace was given .* answers row by row"):
        refuse_on_shards(module, SimpleNamespace(choices=list), "32-true")
    with pytest.raises(ValueError, match="precision bf16-mixed"):
        refuse_on_shards(SFTModule("playground"), None, "bf16-mixed")


def test_what_was_proved_is_allowed() -> None:
    for module in (
        SFTModule("playground"),
        SFTModule("playground", adapter=LoRA(), dtype="bfloat16"),
        SoRAModule("playground", task="causal_lm"),
        PreferenceModule("playground", adapter=LoRA()),
    ):
        refuse_on_shards(module, None, "32-true")
    refuse_on_shards(SFTModule("playground", adapter=LoRA()), None, "bf16-mixed")
