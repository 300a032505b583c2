"""LightningDataModules: one file per family of data sets."""

from importlib import import_module
from typing import Any

from fulgurite.datamodules.conversations import ConversationDataModule, SFTDataModule
from fulgurite.datamodules.cpo import CPODataModule
from fulgurite.datamodules.files import FilesDataModule
from fulgurite.datamodules.glue import GLUEDataModule
from fulgurite.datamodules.pet_tasks import PETTasksDataModule
from fulgurite.datamodules.preferences import PreferenceDataModule
from fulgurite.datamodules.tasks.choices import ChoiceTasksDataModule
from fulgurite.datamodules.tasks.prompts import PromptsDataModule
from fulgurite.datamodules.texts import TextDataModule
from fulgurite.datamodules.ultrachat import UltraChatDataModule
from fulgurite.datamodules.ultrachat2 import UltraChat2DataModule
from fulgurite.datamodules.ultrafeedback import (
    UltraCritiqueDataModule,
    UltraFeedbackDataModule,
    UltraSafetyDataModule,
)
from fulgurite.datamodules.ultrainteract import UltraInteractDataModule, UltraInteractPairDataModule
from fulgurite.datamodules.ultralink import UltraLinkDataModule

__all__ = [
    "CPODataModule",
    "ChoiceTasksDataModule",
    "ConversationDataModule",
    "FilesDataModule",
    "GLUEDataModule",
    "PETTasksDataModule",
    "PreferenceDataModule",
    "PromptsDataModule",
    "SFTDataModule",
    "TextDataModule",
    "UltraChat2DataModule",
    "UltraChatDataModule",
    "UltraCritiqueDataModule",
    "UltraFeedbackDataModule",
    "UltraInteractDataModule",
    "UltraInteractPairDataModule",
    "UltraLinkDataModule",
    "UltraSafetyDataModule",
]

# Files whose class stands in another one now; configurations and checkpoints may still name them. jsonargparse looks an unknown
# module up as an attribute of the package.
_MOVED = {
    "sft": "conversations",
    "ultrafeedback_critique": "ultrafeedback",
    "ultrainteract_pairs": "ultrainteract",
    "ultrasafety": "ultrafeedback",
}


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        return import_module(f"{__name__}.{_MOVED[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
