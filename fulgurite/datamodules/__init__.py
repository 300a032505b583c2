"""LightningDataModules: one file per family of data sets."""

from fulgurite.datamodules.base import TextDataModule
from fulgurite.datamodules.conversations import ConversationDataModule, SFTDataModule
from fulgurite.datamodules.cpo import CPODataModule
from fulgurite.datamodules.files import FilesDataModule
from fulgurite.datamodules.glue import GLUEDataModule
from fulgurite.datamodules.pet_tasks import PETTasksDataModule
from fulgurite.datamodules.preferences import PreferenceDataModule
from fulgurite.datamodules.ultrachat import UltraChatDataModule
from fulgurite.datamodules.ultrachat2 import UltraChat2DataModule
from fulgurite.datamodules.ultrafeedback import UltraCritiqueDataModule, UltraFeedbackDataModule
from fulgurite.datamodules.ultrainteract import UltraInteractDataModule, UltraInteractPairDataModule
from fulgurite.datamodules.ultralink import UltraLinkDataModule
from fulgurite.datamodules.ultrasafety import UltraSafetyDataModule

__all__ = [
    "CPODataModule",
    "ConversationDataModule",
    "FilesDataModule",
    "GLUEDataModule",
    "PETTasksDataModule",
    "PreferenceDataModule",
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
