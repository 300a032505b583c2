"""LightningDataModules: one file per family of data sets."""

from fulgurite.datamodules.base import TextDataModule
from fulgurite.datamodules.files import FilesDataModule
from fulgurite.datamodules.glue import GLUEDataModule

__all__ = ["FilesDataModule", "GLUEDataModule", "TextDataModule"]
