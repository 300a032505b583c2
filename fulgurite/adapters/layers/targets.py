"""Which layers an adapter goes to, and which layers cannot carry one."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterable

import regex
from torch import nn

from fulgurite.adapters.counting import scalars
from fulgurite.adapters.layers.layer import adaptable
from fulgurite.adapters.layers.own import inserted_modules
from fulgurite.adapters.layers.packed import packed_without_linear
from fulgurite.adapters.layers.stacks import expert_stacks
from fulgurite.adapters.patterns import Pattern

__all__ = ["find_targets", "match_modules", "tell_unreached"]

_MOST_ALTERNATIVES = 100  # of an expression that somebody typed; a program writes out hundreds of layers

_log = logging.getLogger(__name__)


def find_targets(
    model: nn.Module, targets: str, train: tuple[str, ...] = (), others: Collection[str] = ()
) -> dict[str, nn.Module]:
    """Layers to adapt, by qualified name in the model's order.

    Args:
        model: any module.
        targets: "all-linear": every linear layer inside a repeated block (a list of modules), or, in a model without any,
            every linear layer; else a regex that must match the whole qualified name.
        train: names (regexes, whole) of modules that are trained fully and therefore not adapted.
        others: names of what the caller can adapt beside linear layers; where the expression matches one of them, no linear layer
            has to match.

    Raises:
        ValueError: nothing matches, or a layer matches whose forward is bypassed, or whose packed weight cannot carry a branch.
    """
    trained = set(match_modules(model, train))
    inserted = inserted_modules(model)
    linear = {
        name: module
        for name, module in model.named_modules()
        if adaptable(module)
        and id(module) not in inserted
        and not any(name == t or name.startswith(t + ".") for t in trained)
    }
    bypassed, packed = _bypassed(model), packed_without_linear(model)
    if targets == "all-linear":
        _refuse_packed(packed)
        repeated = {name: module for name, module in linear.items() if _in_repeated_block(model, name)}
        own = [name for name, module in model.named_modules() if adaptable(module) and id(module) not in inserted]
        if not repeated and any(_in_repeated_block(model, name) for name in own):
            raise ValueError(
                f"attach: targets='all-linear' means the linear layers in the repeated blocks of {type(model).__name__}, and train "
                "trains all of them whole; leave some out of train, or name the layers to adapt in targets."
            )
        found = repeated or linear
        for name in [n for n in found if n in bypassed]:
            _log.warning("attach: %s is left out, %s", name, bypassed[name])
        found = {name: module for name, module in found.items() if name not in bypassed}
    else:
        pattern = Pattern(targets, "attach: targets")
        _refuse_packed({name: kind for name, kind in packed.items() if pattern.matches(name)})
        found = {name: module for name, module in linear.items() if pattern.matches(name)}
        beside = [name for name in others if pattern.matches(name)]
        for idle in _idle_alternatives(targets, [*found, *beside]):
            _log.warning("attach: targets=%r: the alternative %r matches no linear layer", targets, idle)
        for name in found:
            if name in bypassed:
                raise ValueError(
                    f"attach: targets={targets!r} matches {name}, but {bypassed[name]}; leave it out of the regex."
                )
        if beside:
            return found
    if not found:
        raise ValueError(_nothing(model, targets, linear))
    return found


def match_modules(model: nn.Module, patterns: tuple[str, ...]) -> dict[str, nn.Module]:
    """Modules whose whole qualified name matches one of the regexes.

    Raises:
        ValueError: a pattern that matches no module, is no valid expression, or takes too long.
    """
    inserted = inserted_modules(model)
    modules = {name: module for name, module in model.named_modules() if name and id(module) not in inserted}
    found: dict[str, nn.Module] = {}
    for pattern in patterns:
        compiled = Pattern(pattern, "attach: train pattern")
        hits = {name: module for name, module in modules.items() if compiled.matches(name)}
        if not hits:
            close = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise ValueError(f"attach: train pattern {pattern!r} matches no module of {type(model).__name__}.{hint}")
        found.update(hits)
    return found


def tell_unreached(model: nn.Module, reached: Iterable[nn.Module], train: tuple[str, ...]) -> None:
    """Log which weights of the repeated blocks "all-linear" leaves frozen because no linear layer holds them, if they are many.

    Experts of a mixture that are fused into one Parameter hold most of a block; convolutions and
    ``nn.MultiheadAttention.in_proj_weight`` are others. Less than 1 % of the blocks' weights is not worth a line.

    Args:
        model: before the branches are put in.
        reached: the layers that :func:`find_targets` found.
        train: regexes of the modules that are trained fully.
    """
    modules = list(reached)
    known = {id(p) for module in modules for p in module.parameters(recurse=False)}
    inserted = inserted_modules(model)
    known |= {id(p) for module in match_modules(model, train).values() for p in module.parameters()}
    blocks = {
        f"{layer}.{key}": p
        for layer, module in model.named_modules()
        for key, p in module._parameters.items()
        if p is not None and p.dim() >= 2 and id(module) not in inserted and _in_repeated_block(model, f"{layer}.{key}")
    }
    left = {name: p for name, p in blocks.items() if id(p) not in known}
    share = sum(map(scalars, left.values())) / max(1, sum(map(scalars, blocks.values())))
    if share >= 0.01:
        largest, way = max(left, key=lambda name: left[name].numel()), _way_to_experts(model, modules, left)
        _log.warning(
            "attach: targets='all-linear' adapts linear layers: %.0f %% of the weights in the repeated blocks of %s lie elsewhere "
            "and stay frozen (%d tensors, the largest is %s of the shape %s); %sAPET(targets='all') or full tuning trains them.",
            100 * share, type(model).__name__, len(left), largest, tuple(left[largest].shape), way,
        )  # fmt: skip


def _way_to_experts(model: nn.Module, reached: list[nn.Module], left: dict[str, nn.Parameter]) -> str:
    """An expression that adapts the linear layers and the experts as well; "" where no experts were left out."""
    stacked = [name for name in expert_stacks(model) if name in left]
    if not stacked:
        return ""
    known = set(map(id, reached))
    linear = [name for name, module in model.named_modules() if id(module) in known and adaptable(module)]
    ends = dict.fromkeys(name.rpartition(".")[2] for name in [*linear, *stacked])
    return f"LoRA and SoRA with targets='.*({'|'.join(ends)})' adapt the {len(stacked)} stacks of experts too, and "


def _in_repeated_block(model: nn.Module, name: str) -> bool:
    parts = name.split(".")
    return any(isinstance(model.get_submodule(".".join(parts[:i])), nn.ModuleList) for i in range(1, len(parts)))


def _bypassed(model: nn.Module) -> dict[str, str]:
    """Layers whose forward is never called, with the reason."""
    reasons = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            prefix = f"{name}." if name else ""
            reasons[f"{prefix}out_proj"] = "nn.MultiheadAttention reads its weight without calling it"
    return reasons


def _idle_alternatives(targets: str, found: list[str]) -> list[str]:
    """The alternatives of an expression, such as v_porj of ``.*(q_proj|v_porj)``, without which it matches the same names.

    Only groups that hold nothing but words and signs without a meaning of their own are looked at, and the whole expression.
    """
    whole = [] if regex.search(r"[()\[\]]", targets) else [("", targets, "")]
    groups = [
        (targets[: g.start(1)], g[1], targets[g.end(1) :]) for g in regex.finditer(r"\((?:\?:)?([\w.\\|-]+)\)", targets)
    ]
    idle = []
    for before, words, after in whole + groups:
        parts = words.split("|")
        for word in parts if 1 < len(parts) <= _MOST_ALTERNATIVES else []:
            if not any(Pattern(f"{before}{word}{after}", "attach: targets").matches(name) for name in found):
                idle.append(word)
    return idle


def _refuse_packed(layers: dict[str, str]) -> None:
    if layers:
        name, kind = next(iter(layers.items()))
        raise ValueError(
            f"attach: {name} is a {kind}, which keeps its weight packed in a form of its own and cannot carry a low-rank branch "
            f"({len(layers)} such layers); load the base in full precision, or quantised by bitsandbytes (nf4 or int8), or leave "
            "the layers out by targets=."
        )


def _nothing(model: nn.Module, targets: str, linear: dict[str, nn.Module]) -> str:
    if not linear:
        return f"attach: {type(model).__name__} has no linear layer that an adapter could go to."
    names = list(linear)
    close = difflib.get_close_matches(targets, names, n=2, cutoff=0.3)
    shown = ", ".join(dict.fromkeys([*close, *names[:4]]))
    return (
        f"attach: targets={targets!r} matches none of the {len(linear)} linear layers of {type(model).__name__}. "
        f"The regex must match the whole name, such as: {shown}. Example: '.*\\.{names[0].split('.')[-1]}'."
    )
