"""Fulgurite: fine-tuning methods for PyTorch Lightning.

Importing this package imports nothing heavy: torch, lightning and transformers together take more than ten seconds, and
`fulgurite --help` must answer at once. Subpackages load when they are first used (`fulgurite.adapters`, ...).
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"

_SUBPACKAGES = (
    "adapters",
    "callbacks",
    "cli",
    "commands",
    "data",
    "datamodules",
    "evaluation",
    "generation",
    "kernels",
    "lightning_modules",
    "losses",
    "models",
    "optim",
)

__all__ = ["__version__", *_SUBPACKAGES]


def __getattr__(name: str) -> ModuleType:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its parts are {', '.join(_SUBPACKAGES)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBPACKAGES])
