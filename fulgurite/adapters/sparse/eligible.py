"""The tensors whose scalars an APET adapter may train: where they lie, which names mean one tied tensor, what is refused."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from fulgurite.adapters.layers.own import inserted_modules, own_parameters
from fulgurite.adapters.layers.sparse_branch import refuse_sharded
from fulgurite.adapters.layers.targets import find_targets, match_modules
from fulgurite.adapters.patterns import Pattern

__all__ = ["Eligible", "eligible_scalars", "find_eligible"]

_log = logging.getLogger(__name__)


class Eligible(NamedTuple):
    """One tensor.

    Attributes:
        name: in the model.
        layer: qualified name of the module that owns it.
        key: the attribute of that module.
        shape: of the tensor.
        numel: number of its scalars.
        tied: the other modules and attributes that hold the same tensor.
    """

    name: str
    layer: str
    key: str
    shape: tuple[int, ...]
    numel: int
    tied: tuple[tuple[str, str], ...]


def eligible_scalars(model: nn.Module, targets: str = "all", train: tuple[str, ...] = ()) -> int:
    """How many scalars ``APET(targets=…)`` chooses from: the largest budget. Tied tensors count once.

    Args:
        model: any module.
        targets: as in :class:`fulgurite.adapters.APET`.
        train: regexes of modules that are trained fully and therefore not eligible.
    """
    return sum(tensor.numel for tensor in find_eligible(model, targets, train))


def find_eligible(model: nn.Module, targets: str, train: tuple[str, ...] = ()) -> list[Eligible]:
    """The eligible tensors in the model's order.

    Args:
        model: any module.
        targets: "all", every floating-point Parameter; "all-linear", the weights of the linear layers inside repeated blocks; or a
            regex that must match a whole Parameter name.
        train: regexes (whole names) of modules that are trained fully and therefore left out.

    Raises:
        ValueError: nothing matches, a quantised layer, or a sharded parameter (FSDP).
    """
    trained = {id(p) for module in match_modules(model, train).values() for p in module.parameters()}
    places: dict[int, list[tuple[str, str]]] = {}
    parameters: dict[int, nn.Parameter] = {}
    inserted = inserted_modules(model)
    for layer, module in model.named_modules(remove_duplicate=True):
        if id(module) in inserted:
            continue
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in trained:
                places.setdefault(id(parameter), []).append((layer, key))
                parameters[id(parameter)] = parameter
    wanted = _matcher(model, targets, train)
    found = []
    for identity, parameter in parameters.items():
        names = [_joined(*place) for place in places[identity]]
        if not any(wanted(name) for name in names):
            continue
        layer, key = places[identity][0]
        module = model.get_submodule(layer)
        if isinstance(module, nn.RNNBase):
            reason = "nn.RNN, LSTM and GRU read flattened copies of their weights"
            if targets != "all":
                raise ValueError(f"attach: targets={targets!r} matches {names[0]}, but {reason}; leave it out.")
            _log.warning("attach: %s is left out, %s", names[0], reason)
            continue
        _refuse(module, names[0], parameter)
        others = tuple(places[identity][1:])
        found.append(Eligible(names[0], layer, key, tuple(parameter.shape), parameter.numel(), others))
    _refuse_packed(model, wanted)
    if not any(tensor.numel for tensor in found):
        raise ValueError(_nothing(model, targets))
    return found


_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _refuse(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    refuse_sharded(name, parameter)
    if type(parameter) is not nn.Parameter or parameter.dtype not in _DTYPES:
        kind = parameter.dtype if type(parameter) is nn.Parameter else type(parameter).__name__
        raise ValueError(
            f"APET: {name} of {type(module).__name__} is quantised or packed ({kind}); single scalars of it cannot be trained. "
            "Load the base in float32, bfloat16 or float16, or leave the layer out by targets=."
        )
    if not parameter.is_contiguous():
        raise ValueError(
            f"APET: {name} {tuple(parameter.shape)} has the strides {parameter.stride()}; it must be contiguous. Call "
            "model.to(memory_format=torch.contiguous_format) before attach()."
        )


def _refuse_packed(model: nn.Module, wanted: Callable[[str], bool]) -> None:
    """Raise a ValueError for quantised layers that keep their weight as a packed buffer instead of a Parameter."""
    for name, module in model.named_modules():
        packed = [key for key in ("qweight", "weight_packed") if key in module._buffers]
        if packed and wanted(_joined(name, "weight")):
            raise ValueError(
                f"APET: {name} is a quantised {type(module).__name__} (it stores {packed[0]}); single scalars of it cannot be "
                "trained. Load the base in full precision, or leave the layer out by targets=."
            )


def _matcher(model: nn.Module, targets: str, train: tuple[str, ...]) -> Callable[[str], bool]:
    if targets == "all":
        return lambda name: True
    if targets == "all-linear":
        names = {_joined(name, "weight") for name in find_targets(model, "all-linear", train)}
        return lambda name: name in names
    return Pattern(targets, "attach: targets").matches


def _joined(layer: str, key: str) -> str:
    return f"{layer}.{key}" if layer else key


def _nothing(model: nn.Module, targets: str) -> str:
    names = list(own_parameters(model))
    if not names:
        return f"attach: {type(model).__name__} has no parameter that APET could train."
    close = difflib.get_close_matches(targets, names, n=2, cutoff=0.3)
    shown = ", ".join(dict.fromkeys([*close, *names[:3]]))
    return (
        f"attach: targets={targets!r} matches none of the {len(names)} parameters of {type(model).__name__}. The regex must match "
        f"the whole parameter name, such as: {shown}. Example: '.*\\.{names[0].split('.')[-1]}'."
    )
