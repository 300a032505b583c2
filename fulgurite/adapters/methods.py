"""The register of adapter methods: to each configuration class belongs the :class:`Method` that attaches, sizes and restores it.

A new method is one room and one registration. The room holds

- a frozen dataclass deriving from :class:`fulgurite.adapters.AdapterConfig`,
- a :class:`Method` whose ``plan`` looks at the model and gives back the function that puts the modules in
  (:func:`fulgurite.adapters.layers.layer.put_branch`, and forward hooks that go into ``adapter.hooks``),
- the handle that this function returns: an :class:`fulgurite.adapters.inserted.adapter.InsertedAdapter` where hooks do all the
  work, else a class deriving from :class:`fulgurite.adapters.Adapter`,

and ends with ``register_method(MyConfig, MyMethod())``. ``attach``, ``load_adapter``, ``within_budget`` and the configurations in
checkpoints then know the method. A test (``tests/adapters/test_methods.py``) adds one in this way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import nn

from fulgurite.adapters.config import AdapterConfig
from fulgurite.adapters.handle import Adapter
from fulgurite.adapters.layers.site import Site

__all__ = [
    "UNPROVED",
    "Choice",
    "Method",
    "Place",
    "Put",
    "config_from_dict",
    "largest_size",
    "method_names",
    "method_of",
    "register_method",
    "sized_names",
]

C = TypeVar("C", bound=AdapterConfig)
UNPROVED = "its training on shards was not compared with one process's"


class Choice(NamedTuple):
    """Trained scalars chosen outside of the configuration; see :func:`fulgurite.adapters.attach`."""

    positions: Mapping[str, torch.Tensor] | None = None
    scores: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]] | None = None


@dataclass(frozen=True)
class Place:
    """Where an adapter goes.

    Attributes:
        model: the base, frozen already.
        name: of the adapter.
        site: what the adapters of the model share.
        heads: qualified names of the fully trained modules.
        train: the patterns that chose them.
    """

    model: nn.Module
    name: str
    site: Site
    heads: list[str]
    train: tuple[str, ...]


Put = Callable[
    [Place], Adapter
]  # makes all modules before it puts in the first, so that it fails before the model is changed


class Method(ABC, Generic[C]):
    """What the package has to know of an adapter method."""

    takes_choice = False  # whether attach() takes positions= and scores= for it
    # Why its base cannot be cut into shards while it trains; None: it can.
    whole_because: str | None = UNPROVED

    @abstractmethod
    def plan(self, model: nn.Module, config: C, train: tuple[str, ...], choice: Choice) -> Put:
        """Look at the model without changing it, and give back the function that puts the adapter in.

        Args:
            model: the base, perhaps with other adapters on it.
            config: of the adapter.
            train: regexes of the modules that are trained fully and therefore not adapted.
            choice: empty unless ``takes_choice``.

        Raises:
            ValueError: the model cannot carry the adapter. Nothing has been changed then.
        """

    def sized(self, model: nn.Module, config: C, budget: int, train: tuple[str, ...]) -> C:
        """The configuration at the size at which it trains at most ``budget`` parameters.

        Raises:
            ValueError: even the smallest size is above the budget, or the method has no size to choose.
        """
        raise ValueError(
            f"within_budget: {type(config).__name__} has no size to choose; allowed are {', '.join(sized_names())}."
        )

    def restore(self, model: nn.Module, description: dict[str, Any], folder: Path) -> Choice:
        """What :func:`fulgurite.adapters.load_adapter` has to give to ``plan`` beside the configuration.

        Args:
            model: the base.
            description: the content of ``adapter.json``.
            folder: where the adapter was saved.

        Raises:
            FileNotFoundError, ValueError: missing or damaged files; another model.
        """
        return Choice()


_methods: dict[type[AdapterConfig], Method[Any]] = {}


def register_method(config_class: type[C], method: Method[C]) -> None:
    """Make a method known.

    Args:
        config_class: of its configurations; files name it by the last part of its class path.
        method: how it is attached, sized and restored.

    Raises:
        ValueError: another class of this name is registered.
    """
    if any(known.__name__ == config_class.__name__ and known is not config_class for known in _methods):
        raise ValueError(
            f"register_method: a configuration named {config_class.__name__} is registered already; give the class another name."
        )
    _methods[config_class] = method


def method_of(config: AdapterConfig) -> Method[Any]:
    """The method of a configuration, by its class or the nearest base class of it that is registered.

    Raises:
        ValueError: no configuration of a registered method.
    """
    for cls in type(config).__mro__:
        if cls in _methods:
            return _methods[cls]
    raise ValueError(f"attach: config is {type(config).__name__}; allowed are {', '.join(method_names())}.")


def method_names() -> list[str]:
    """Names of the registered configuration classes."""
    return [cls.__name__ for cls in _methods]


def sized_names() -> list[str]:
    """Names of the configuration classes that :func:`fulgurite.adapters.within_budget` takes."""
    return sorted(cls.__name__ for cls, method in _methods.items() if type(method).sized is not Method.sized)


def config_from_dict(data: dict[str, Any]) -> AdapterConfig:
    """The inverse of :func:`fulgurite.adapters.config.config_to_dict`, for the classes of registered methods only.

    Raises:
        ValueError: an unknown class, or arguments that it does not have.
    """
    name = str(data.get("class_path", "")).rpartition(".")[2]
    known: dict[str, Any] = {cls.__name__: cls for cls in _methods}
    if name not in known:
        raise ValueError(
            f"adapter config: class {data.get('class_path')!r} is unknown; allowed are {', '.join(known)}. A method from another "
            "package has to be imported first."
        )
    try:
        config: AdapterConfig = known[name](**data.get("init_args", {}))
    except TypeError as error:
        raise ValueError(f"adapter config: {name} cannot be made of {data.get('init_args')}: {error}") from None
    return config


def largest_size(
    config: AdapterConfig, model: nn.Module, budget: int, each: int, fixed: int = 0, most: int = 2**20
) -> int:
    """The largest n for which fixed + n · each parameters are at most ``budget``; for :meth:`Method.sized`.

    Args:
        config: whose class the message names.
        model: whose class the message names.
        budget: parameters.
        each: parameters per unit of size (a rank, say), over all layers.
        fixed: parameters at any size.
        most: the largest n allowed.

    Raises:
        ValueError: even n = 1 is above the budget.
    """
    size = min((budget - fixed) // each, most)
    if size < 1:
        raise ValueError(
            f"within_budget: {type(config).__name__} of the smallest size trains {fixed + each:,} parameters in "
            f"{type(model).__name__}, more than the budget of {budget:,}; raise the budget, or narrow targets."
        )
    return size
