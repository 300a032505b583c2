"""Hyperparameters in the one form that load_from_checkpoint, resuming and the command line all read with weights_only.

``{"_class_path": …, "_instantiator": "lightning.pytorch.cli.instantiate_module", **arguments}``, adapter configs as
``{"class_path": …, "init_args": …}``: plain data, no pickled classes. The class path is the public one
(``fulgurite.lightning_modules.SFTModule``), so that files may move inside the package without making checkpoints unreadable.
"""

from __future__ import annotations

import inspect
import math
import sys
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule

from fulgurite.adapters import AdapterConfig
from fulgurite.adapters.config import config_to_dict

__all__ = ["INSTANTIATOR", "OF_THE_MACHINE", "check_rates", "described", "overruled", "public_path", "remember"]

INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"
# What belongs to the machine and not to the model: a checkpoint of a run with Triton's kernels is exported on a CPU.
OF_THE_MACHINE = ("kernels",)


def check_rates(owner: str, weight_decay: float, warmup_ratio: float, **rates: float | None) -> None:
    """Refuses learning rates, a weight decay or a warm-up that would not train, NaN among them.

    Args:
        owner: class name of the module, for the message.
        weight_decay: as the module was given it.
        warmup_ratio: as the module was given it.
        rates: learning rates by the names of their options; None for one that is not given.

    Raises:
        ValueError: a value outside what is allowed.
    """
    given = {name: rate for name, rate in rates.items() if rate is not None}
    good = all(0 < rate < math.inf for rate in given.values()) and 0 <= weight_decay < math.inf
    if not good or not 0 <= warmup_ratio <= 1:
        listed = ", ".join(f"{name}={rate}" for name, rate in given.items())
        raise ValueError(
            f"{owner}: {listed}, weight_decay={weight_decay}, warmup_ratio={warmup_ratio}; allowed are finite learning rates "
            "above 0, weight_decay >= 0 and 0 <= warmup_ratio <= 1."
        )


def overruled(path: object, hyperparameters: dict[str, Any], trust_remote_code: bool = False) -> dict[str, Any]:
    """What `load_from_checkpoint` is to be given beside the file: permissions and the machine's own options never come from it.

    Args:
        path: the checkpoint, for the message.
        hyperparameters: of the checkpoint.
        trust_remote_code: what the user says.

    Raises:
        ValueError: the file wants something called that makes no module.
    """
    asked = hyperparameters.get("_instantiator", INSTANTIATOR)
    if asked != INSTANTIATOR:  # Lightning before 2.6.6 calls whatever the file names
        raise ValueError(
            f"checkpoint {path}: it asks for {asked!r} to be called, which no checkpoint of `fulgurite fit` does; allowed is "
            f"{INSTANTIATOR}; take it as a file that runs foreign code"
        )
    # Files of earlier versions hold the machine's options.
    found: dict[str, Any] = {name: None for name in OF_THE_MACHINE if name in hyperparameters}
    if "trust_remote_code" in hyperparameters:
        found["trust_remote_code"] = trust_remote_code
    return found


def remember(module: LightningModule, arguments: dict[str, Any], cls: type) -> None:
    """Save the arguments of ``cls.__init__``, but those of the machine, as ``module.hparams``.

    Args:
        module: the module under construction.
        arguments: ``locals()`` of ``cls.__init__``.
        cls: the class whose ``__init__`` calls this. Where a user's subclass has an ``__init__`` of its own, the arguments are
            still saved, but without the class: that subclass says itself how it is made (``save_hyperparameters()``).
    """
    names = [name for name in inspect.signature(cls.__init__).parameters if name not in ("self", *OF_THE_MACHINE)]  # type: ignore[misc]
    saved = {name: _plain(arguments[name]) for name in names}
    if type(module).__init__ is cls.__init__:  # type: ignore[misc]
        saved["_class_path"] = public_path(type(module))
        saved["_instantiator"] = INSTANTIATOR
    module.save_hyperparameters(saved, frame=_outermost(), logger=False)


def _outermost() -> FrameType | None:
    """The frame of the program itself. Lightning would look for arguments in every ``__init__`` from a frame outwards; here all
    are given, and those that a class inherits are no local variables of its ``__init__``."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    return frame


def public_path(cls: type) -> str:
    """The import path of a class: that of the outermost package around its file that offers it under its own name.

    Args:
        cls: any class. One that no package offers keeps the path of its file.
    """
    package, best = cls.__module__, f"{cls.__module__}.{cls.__qualname__}"
    while package := package.rpartition(".")[0]:
        # Only what lies there already: a lazy package would import whatever it is asked for.
        if vars(sys.modules.get(package, object)).get(cls.__qualname__) is cls:
            best = f"{package}.{cls.__qualname__}"
    return best


def described(config: AdapterConfig) -> dict[str, Any]:
    """An adapter's configuration as plain data: ``class_path`` and ``init_args``."""
    return {**config_to_dict(config), "class_path": public_path(type(config))}


def _plain(value: Any) -> Any:
    if isinstance(value, AdapterConfig):
        return described(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
