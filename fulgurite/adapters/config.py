"""What an adapter is made of: one frozen dataclass for each method of this package.

LoRA (arXiv 2106.09685), SoRA (arXiv 2311.11696), APET (arXiv 2306.02320), and what APET is compared with: BitFit (arXiv
2106.10199), bottleneck adapters (arXiv 1902.00751) and soft prompts (arXiv 2104.08691).

``AdapterConfig`` is a plain class without fields: command-line parsers choose among its subclasses by class path, which a
union of dataclasses would not allow.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fulgurite.adapters.patterns import Pattern

__all__ = [
    "APET",
    "AdapterConfig",
    "BitFit",
    "Bottleneck",
    "LoRA",
    "SELECTIONS",
    "SoRA",
    "SoftPrompt",
    "config_to_dict",
]


class AdapterConfig:
    """Base of every adapter's description."""


@dataclass(frozen=True)
class LoRA(AdapterConfig):
    """Low-rank adapter: ΔW = α/rank · B A.

    Args:
        rank: rank r of every adapted layer, from 1 to the smaller side of the layer.
        alpha: α; the branch is scaled by α/rank.
        dropout: dropout probability on the branch's input.
        targets: "all-linear" (every linear layer inside the repeated blocks), or a regex matched against whole names of modules and
            of the parameters in which the experts of a mixture are stacked.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str = "all-linear"

    def __post_init__(self) -> None:
        _check_low_rank(self)


@dataclass(frozen=True)
class SoRA(AdapterConfig):
    """Sparse low-rank adapter: ΔW = α/rank · B diag(g) A, with gates g shrunk towards zero after each step.

    Args:
        rank: largest rank r_max of every adapted layer, from 1 to the smaller side of the layer.
        alpha: α; the branch is scaled by α/r_max, also after ranks have died.
        dropout: dropout probability on the branch's input.
        targets: "all-linear" (every linear layer inside the repeated blocks), or a regex matched against whole names of modules and
            of the parameters in which the experts of a mixture are stacked.
        threshold: ξ of the proximal step, >= 0; with threshold_scaling "lr" its value at the peak learning rate.
        threshold_scaling: "lr" subtracts ξ·lr_t/lr_peak (the paper's η_t·λ); "constant" subtracts ξ at every step (its code).
        prox: "soft" is the soft threshold; "reference" is the released code's rule, which zeroes everything below 2ξ.
        gate_init: "normal" draws gates from N(0,1) as the released code does, "absnormal" from |N(0,1)|, "ones" starts as LoRA.
        l1: weight of the extra loss term l1 · mean|g|, which the released code adds on top of the proximal step.
        patience: optimizer steps that a gate must have been zero before its rank is retired for good; 0 never retires.
        look_every: optimizer steps between two looks at the gates (each look is one device synchronisation).
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str = "all-linear"
    threshold: float = 3e-4
    threshold_scaling: Literal["constant", "lr"] = "lr"
    prox: Literal["soft", "reference"] = "soft"
    gate_init: Literal["normal", "absnormal", "ones"] = "normal"
    l1: float = 0.0
    patience: int = 100
    look_every: int = 20

    def __post_init__(self) -> None:
        _check_low_rank(self)
        _check(self, "threshold", _is_number(self.threshold) and 0 <= self.threshold < math.inf, "a number >= 0")
        _check(self, "l1", _is_number(self.l1) and 0 <= self.l1 < math.inf, "a number >= 0")
        _check(self, "patience", _is_whole(self.patience, 0), "a number of steps >= 0 (0: never retire)")
        _check(self, "look_every", _is_whole(self.look_every, 1), "a number of steps >= 1")
        _check(self, "threshold_scaling", self.threshold_scaling in ("constant", "lr"), "'constant' or 'lr'")
        _check(self, "prox", self.prox in ("soft", "reference"), "'soft' or 'reference'")
        _check(self, "gate_init", self.gate_init in ("normal", "absnormal", "ones"), "'normal', 'absnormal' or 'ones'")


SELECTIONS = ("uniform_scalar", "tensor_greedy", "module_group", "per_module", "magnitude", "gradient", "mask")


@dataclass(frozen=True)
class APET(AdapterConfig):
    """Any scalars of the network at any positions: W ← W + δ at ``budget`` positions, δ trained, everything else frozen.

    Args:
        budget: number of trained scalars, exactly (whole tensors cannot always meet it); with selection "mask" it may be left out.
        selection: "uniform_scalar" draws among all eligible scalars; "per_module" gives every module the same number; "magnitude"
            takes the largest |w|; "gradient" the largest Fisher scores (see fisher_scores); "tensor_greedy" and "module_group" draw
            whole tensors and whole modules, as the released code does; "mask" takes yours.
        seed: seed of the draws; the same positions on every machine.
        targets: "all" (every floating-point parameter; tied ones count once), "all-linear" (weights of the linear layers inside
            the repeated blocks), or a regex matched against whole parameter names.
        mask: safetensors file for selection "mask": per parameter name a bool tensor of its shape, or flat int64 positions.
        storage: "seed" saves values only and draws the positions again, checked by a hash; "indices" saves them too, as the
            selections "gradient", "magnitude" and "mask" always do.
    """

    budget: int | None = None
    selection: Literal[
        "uniform_scalar", "tensor_greedy", "module_group", "per_module", "magnitude", "gradient", "mask"
    ] = "uniform_scalar"
    seed: int = 0
    targets: str = "all"
    mask: str | None = None
    storage: Literal["seed", "indices"] = "seed"

    def __post_init__(self) -> None:
        _check(self, "budget", self.budget is None or _is_whole(self.budget, 1), "a whole number of scalars >= 1")
        _check(self, "selection", self.selection in SELECTIONS, f"one of {', '.join(SELECTIONS)}")
        _check(self, "seed", _is_whole(self.seed, 0), "a whole number >= 0")
        _check(self, "storage", self.storage in ("seed", "indices"), "'seed' or 'indices'")
        _check(self, "mask", self.mask is None or self.selection == "mask", "left out unless selection is 'mask'")
        _check_targets(self, "'all', 'all-linear' or")


@dataclass(frozen=True)
class BitFit(AdapterConfig):
    """Train biases only (arXiv 2106.10199).

    Args:
        budget: how many bias values, drawn at random; None trains all of them.
        seed: seed of the draw.
        targets: regex that must match the whole name of a bias parameter.
    """

    budget: int | None = None
    seed: int = 0
    targets: str = r".*bias"

    def __post_init__(self) -> None:
        good = self.budget is None or _is_whole(self.budget, 1)
        _check(self, "budget", good, "a whole number >= 1, or left out for all biases")
        _check(self, "seed", _is_whole(self.seed, 0), "a whole number >= 0")
        _check_targets(self, "none, or")


@dataclass(frozen=True)
class Bottleneck(AdapterConfig):
    """A small network behind sublayers: h' = h + gelu(h W_down) W_up (arXiv 1902.00751).

    Args:
        width: of the hidden layer; the paper of APET takes 24.
        targets: "outputs" (the last linear layer of attention and feed-forward in every repeated block), or a regex matched against
            whole module names of linear layers.
    """

    width: int = 24
    targets: str = "outputs"

    def __post_init__(self) -> None:
        _check(self, "width", _is_whole(self.width, 1), "a whole number >= 1")
        _check_targets(self, "'outputs' or")


@dataclass(frozen=True)
class SoftPrompt(AdapterConfig):
    """Trained vectors before the input (arXiv 2104.08691).

    Args:
        length: number of vectors; the paper of APET takes 100.
        init: "normal" draws them from N(0, 0.1²) as the released code does; "tokens" copies embeddings of random tokens.
    """

    length: int = 100
    init: Literal["normal", "tokens"] = "normal"

    def __post_init__(self) -> None:
        _check(self, "length", _is_whole(self.length, 1), "a whole number >= 1")
        _check(self, "init", self.init in ("normal", "tokens"), "'normal' or 'tokens'")


def config_to_dict(config: AdapterConfig) -> dict[str, Any]:
    """{"class_path": …, "init_args": {…}}: the form that JSON, YAML and checkpoints hold."""
    cls = type(config)
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": asdict(config)}  # type: ignore[call-overload]


def _check(config: AdapterConfig, field: str, good: bool, allowed: str) -> None:
    if not good:
        raise ValueError(f"{type(config).__name__}: {field}={getattr(config, field)!r}; it must be {allowed}.")


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_low_rank(config: LoRA | SoRA) -> None:
    _check(config, "rank", _is_whole(config.rank, 1), "a whole number >= 1")
    _check(config, "alpha", _is_number(config.alpha) and 0 < config.alpha < math.inf, "a number > 0")
    _check(config, "dropout", _is_number(config.dropout) and 0 <= config.dropout < 1, "at least 0 and below 1")
    _check_targets(config, "'all-linear' or")


def _check_targets(config: LoRA | SoRA | APET | BitFit | Bottleneck, words: str) -> None:
    _check(config, "targets", isinstance(config.targets, str), f"{words} a regex that matches whole names")
    Pattern(config.targets, f"{type(config).__name__}: targets")
