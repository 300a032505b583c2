"""LoRA and SoRA: the adapter, its merging, the retirement of ranks, and the export to PEFT."""

from fulgurite.adapters.config import LoRA, SoRA
from fulgurite.adapters.low_rank.attaching import LoRAMethod, LowRankMethod
from fulgurite.adapters.methods import register_method

register_method(LoRA, LoRAMethod())
register_method(SoRA, LowRankMethod())
