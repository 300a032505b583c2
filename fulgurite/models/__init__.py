"""Everything that knows transformers: loading backbones, their heads, packed attention, activation checkpointing."""

from fulgurite.models.checkpointing import enable_activation_checkpointing
from fulgurite.models.emulator.folder import Emulator, load_emulator
from fulgurite.models.emulator.similarity import linear_cka
from fulgurite.models.fusion.decoding import FusedGeneration
from fulgurite.models.fusion.network import FusedNetwork, FusedStates
from fulgurite.models.fusion.weight_arithmetic import average_weights, task_arithmetic
from fulgurite.models.heads import (
    HeadBranch,
    OutputHead,
    find_decoder,
    head_options,
    output_head,
    prove_head,
    usable_head,
)
from fulgurite.models.loading import TASKS, Backbone, load_backbone
from fulgurite.models.packing.packed_attention import (
    PACKABLE,
    disable_packing,
    enable_packing,
    enable_trees,
    packed_inputs,
    prove_packing,
    structure_of,
)
from fulgurite.models.reward.export import save_reward_model, save_sequence_classification
from fulgurite.models.reward.layouts import LAYOUTS
from fulgurite.models.reward.model import RewardModel, RewardOutput, load_reward_model

__all__ = [
    "LAYOUTS",
    "PACKABLE",
    "TASKS",
    "Backbone",
    "Emulator",
    "FusedGeneration",
    "FusedNetwork",
    "FusedStates",
    "HeadBranch",
    "OutputHead",
    "average_weights",
    "RewardModel",
    "RewardOutput",
    "disable_packing",
    "enable_activation_checkpointing",
    "enable_packing",
    "enable_trees",
    "find_decoder",
    "head_options",
    "linear_cka",
    "load_backbone",
    "load_emulator",
    "load_reward_model",
    "output_head",
    "packed_inputs",
    "structure_of",
    "prove_head",
    "prove_packing",
    "save_reward_model",
    "save_sequence_classification",
    "task_arithmetic",
    "usable_head",
]
