"""What a bottleneck adapter and a soft prompt do in a model: modules beside layers, at work through forward hooks.

Both live in ``layer.branches[name]``, so that keys, checkpoints, saving and freezing are those of every adapter; their work is done
by hooks, which :meth:`InsertedAdapter.detach` removes. A soft prompt lengthens what goes into the base model by dummy tokens, lays
its vectors over their embeddings, and takes their positions out of the last hidden states again: everything behind, pooling and
heads, sees the tokens that were given. With a cache only the first call is lengthened.
"""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from fulgurite.adapters.baselines import Bottleneck, SoftPrompt, bottleneck_layers, embedding_of
from fulgurite.adapters.handle import Adapter
from fulgurite.adapters.layer import features, put_branch
from fulgurite.adapters.site import Site

__all__ = ["InsertedAdapter", "inserted_layers", "put_inserted"]


class BottleneckBranch(nn.Module):
    """W_up gelu(W_down h + b_down) + b_up; down from N(0, 0.01²), up zero: float32."""

    def __init__(self, features: int, width: int, device: torch.device) -> None:
        super().__init__()
        self.down = nn.Linear(features, width, device=device)
        self.up = nn.Linear(width, features, device=device)
        nn.init.normal_(self.down.weight, std=0.01)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """(…, N) -> (…, N), what is added to h."""
        x = h if torch.is_autocast_enabled(h.device.type) else h.to(self.down.weight.dtype)
        return cast(torch.Tensor, self.up(F.gelu(self.down(x), approximate="tanh"))).to(h.dtype)


class PromptBranch(nn.Module):
    """The vectors, (length, H) float32, and where a call stands: how many dummy tokens lie at which place, None outside one."""

    def __init__(self, embedding: nn.Embedding, config: SoftPrompt, at: int) -> None:
        super().__init__()
        weight = embedding.weight
        if config.init == "tokens":
            vectors = weight.detach()[torch.randint(weight.shape[0], (config.length,), device=weight.device)].float()
        else:
            vectors = 0.1 * torch.randn(config.length, weight.shape[1], device=weight.device)
        self.vectors = nn.Parameter(vectors)
        self.at, self.inserting = at, False

    @property
    def length(self) -> int:
        """Number of vectors."""
        return self.vectors.shape[0]


class InsertedAdapter(Adapter):
    """Handle of :class:`Bottleneck` and :class:`SoftPrompt`; see :class:`fulgurite.adapters.Adapter`.

    Neither is a change of weights: they cannot be merged, and other tools have no layout for them.
    """

    config: Bottleneck | SoftPrompt
    _described_as = "shape of each tensor"

    def __init__(
        self,
        model: nn.Module,
        name: str,
        config: Bottleneck | SoftPrompt,
        layer_names: list[str],
        head_names: list[str],
        train: tuple[str, ...],
        hooks: list[Any],
    ) -> None:
        super().__init__(model, name, config, layer_names, head_names, train)
        self._hooks = hooks

    def merge(self, reversible: bool = False) -> int:
        """Refused.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            f"merge: {type(self.config).__name__} is no change of the weights and cannot be folded into them; export with "
            "--format adapter, or keep the adapter attached."
        )

    def export_peft(
        self,
        folder: str | Path,
        *,
        rank_pattern: bool = False,
        base_model: str | None = None,
        task_type: str | None = None,
    ) -> None:
        """Refused.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            f"export_peft: {type(self.config).__name__} has no layout that PEFT loads with the same outputs; save() writes ours."
        )

    def summary(self) -> list[tuple[str, str]]:
        """(what, figure) for people."""
        return [("inserted modules", str(len(self.layer_names))), ("parameters", f"{self._own_parameters():,}")]

    def description(self) -> dict[str, Any]:
        """{"inserted": {layer name: {tensor: shape}}}."""
        return {
            "inserted": {
                name: {key: list(value.shape) for key, value in branch.state_dict().items()}
                for name, branch in self.branches.items()
            }
        }

    def _own_groups(self, lr: float, weight_decay: float, gate_lr: float | None) -> list[dict[str, Any]]:
        params = [p for branch in self.branches.values() for p in branch.parameters()]
        groups = [
            ("inserted", [p for p in params if p.dim() >= 2], weight_decay),
            ("inserted_no_decay", [p for p in params if p.dim() < 2], 0.0),
        ]
        return [{"name": n, "params": some, "lr": lr, "weight_decay": decay} for n, some, decay in groups if some]

    def _own_parameters(self) -> int:
        return sum(p.numel() for branch in self.branches.values() for p in branch.parameters())

    def _branch_keys(self) -> list[tuple[str, str]]:
        return [(name, next(iter(branch.state_dict()))) for name, branch in self.branches.items()]

    def _take_off(self) -> None:
        for hook in self._hooks:
            hook.remove()
        super()._take_off()


def inserted_layers(model: nn.Module, config: Bottleneck | SoftPrompt, train: tuple[str, ...]) -> dict[str, nn.Module]:
    """The layers that carry the modules: those that bottlenecks follow, or the input embedding.

    Raises:
        ValueError: none was found.
    """
    if isinstance(config, Bottleneck):
        return bottleneck_layers(model, config, train)
    embedding = embedding_of(_host(model)[0])  # an encoder may have one of its own, tied to the model's
    return {next(name for name, module in model.named_modules() if module is embedding): embedding}


def put_inserted(
    model: nn.Module,
    config: Bottleneck | SoftPrompt,
    name: str,
    site: Site,
    layers: dict[str, nn.Module],
    heads: list[str],
    train: tuple[str, ...],
) -> InsertedAdapter:
    """Put the modules beside their layers and the hooks to work; the site's flags are set already."""
    hooks: list[Any] = []
    if isinstance(config, Bottleneck):
        for layer in layers.values():
            device = next(layer.parameters()).device
            branch: nn.Module = BottleneckBranch(features(layer)[1], config.width, device)
            put_branch(layer, name, branch, site)
            hooks.append(layer.register_forward_hook(partial(_behind, branch, name)))
    else:
        (embedding,) = layers.values()
        host, at = _host(model)
        branch = PromptBranch(cast(nn.Embedding, embedding), config, at)
        put_branch(embedding, name, branch, site)
        hooks.append(host.register_forward_pre_hook(partial(_lengthen, branch, site, name), with_kwargs=True))
        hooks.append(embedding.register_forward_hook(partial(_lay_over, branch)))
        hooks.append(host.register_forward_hook(partial(_shorten, branch), always_call=True))
    return InsertedAdapter(model, name, config, list(layers), heads, train, hooks)


def _behind(branch: nn.Module, name: str, layer: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
    return output + branch(output) if name in layer.site.active else output


def _host(model: nn.Module) -> tuple[nn.Module, int]:
    """The module that takes the ids into the embedding, and the place of the prompt: 1 in an encoder, behind [CLS]; else 0."""
    embedding_of(model)
    config: Any = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        return cast(Any, model).get_encoder(), 0
    prefix = getattr(model, "base_model_prefix", "")
    host = getattr(model, prefix, model) if prefix else model
    if "input_ids" not in inspect.signature(host.forward).parameters:
        raise ValueError(
            f"SoftPrompt: {type(host).__name__}.forward takes no input_ids; a transformers model is needed."
        )
    embedding = embedding_of(host)
    path = next((name for name, module in host.named_modules() if module is embedding), "")
    # The innermost part that takes ids and their mask: OPT's language model calls its decoder past the model around it.
    for part in path.split(".")[:-1]:
        inner = getattr(host, part)
        if not {"input_ids", "attention_mask"} <= set(inspect.signature(inner.forward).parameters):
            break
        host, path = inner, path.partition(".")[2]
    # Encoders keep their input embedding in a part called `embeddings`; decoders hold it themselves.
    return cast(nn.Module, host), 1 if path.startswith("embeddings.") else 0


def _lengthen(branch: PromptBranch, site: Site, name: str, host: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    """Before the base model: dummy tokens for the vectors, and a mask that shows them."""
    if name not in site.active:
        return None
    if args:
        parameters = [p for p in inspect.signature(type(host).forward).parameters if p != "self"]
        kwargs = {**dict(zip(parameters, args, strict=False)), **kwargs}
    ids = kwargs.get("input_ids")
    if ids is None:
        raise ValueError("SoftPrompt: the model was called without input_ids; call it with token ids.")
    mask, past = kwargs.get("attention_mask"), _seen(kwargs.get("past_key_values"))
    if mask is not None and mask.dim() != 2:
        raise ValueError(
            "SoftPrompt: packed batches and masks of more than two dimensions are not supported; give padded batches."
        )
    count, at = branch.length, branch.at
    if mask is None:
        mask = ids.new_ones(ids.shape[0], ids.shape[1] + max(0, past - count))
    kwargs["attention_mask"] = _insert(mask, at, count, 1)
    places = kwargs.get("position_ids")
    kwargs.pop("cache_position", None)
    if past:
        if places is not None:
            kwargs["position_ids"] = places + count
        return (), kwargs
    window = getattr(getattr(host, "config", None), "max_position_embeddings", None)
    if isinstance(window, int) and ids.shape[1] + count > window:
        raise ValueError(
            f"SoftPrompt: {ids.shape[1]} tokens and {count} vectors are more than the {window} positions of "
            f"{type(host).__name__}; shorten the rows or the prompt."
        )
    kwargs["input_ids"] = _insert(ids, at, count, 0)
    if kwargs.get("token_type_ids") is not None:
        kwargs["token_type_ids"] = _insert(kwargs["token_type_ids"], at, count, 0)
    if places is not None:
        front = torch.arange(count, device=places.device).expand(places.shape[0], -1) + at
        kwargs["position_ids"] = torch.cat([places[:, :at], front, places[:, at:] + count], 1)
    branch.inserting = True
    return (), kwargs


def _lay_over(branch: PromptBranch, embedding: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    if not branch.inserting:
        return output
    vectors = branch.vectors.to(output.dtype).expand(output.shape[0], -1, -1)
    return torch.cat([output[:, : branch.at], vectors, output[:, branch.at + branch.length :]], 1)


def _shorten(branch: PromptBranch, host: nn.Module, args: Any, output: Any) -> Any:
    """Behind the base model: the hidden states of the given tokens alone."""
    if not branch.inserting:
        return output
    branch.inserting = False
    if output is None:  # the forward raised
        return output
    if isinstance(output, tuple):
        return (_cut(branch, output[0]), *output[1:])
    output.last_hidden_state = _cut(branch, output.last_hidden_state)
    if getattr(output, "hidden_states", None) is not None:
        output.hidden_states = tuple(_cut(branch, states) for states in output.hidden_states)
    return output


def _cut(branch: PromptBranch, states: torch.Tensor) -> torch.Tensor:
    return torch.cat([states[:, : branch.at], states[:, branch.at + branch.length :]], 1)


def _insert(tensor: torch.Tensor, at: int, count: int, value: int) -> torch.Tensor:
    middle = tensor.new_full((tensor.shape[0], count), value)
    return torch.cat([tensor[:, :at], middle, tensor[:, at:]], 1)


def _seen(cache: Any) -> int:
    """Tokens that a cache holds."""
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    return int(cache[0][0].shape[-2]) if len(cache) else 0
