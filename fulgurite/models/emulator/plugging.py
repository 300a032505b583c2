"""Tuned layers on their way back into the full model: names of the emulator become names of the full model, and are checked.

The layer at place i of the emulator is the layer `trained_places[i]` of the full model; names inside of a layer stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from fulgurite.adapters import Adapter, AdapterConfig, attach, positions_in
from fulgurite.adapters.methods import method_of
from fulgurite.models.emulator.hashes import weight_hashes
from fulgurite.models.emulator.layers import find_layers
from fulgurite.models.emulator.manifest import Manifest
from fulgurite.models.emulator.within import within_layers

__all__ = ["attach_tuned", "check_base", "names_in_full_model", "put_layers"]


def check_base(full: nn.Module, manifest: Manifest, name: str) -> None:
    """Refuse a model that is not the one the emulator was made of.

    Args:
        full: in the manifest's dtype.
        manifest: of the emulator.
        name: of the model, for messages.

    Raises:
        ValueError: another architecture, another number of layers, or other weights.
    """
    found = find_layers(full)
    shape = (type(full).__name__, found.name, len(found.modules))
    if shape != (manifest.origin_class, manifest.layers_name, manifest.layers):
        raise ValueError(
            f"plug-in: {name} is a {shape[0]} with {shape[2]} layers in {shape[1]}; the emulator was made of {manifest.origin}, a "
            f"{manifest.origin_class} with {manifest.layers} in {manifest.layers_name}; give that model"
        )
    hashes = weight_hashes(full, found.name)
    if hashes.whole == manifest.origin_hash:
        return
    changed = manifest.distilled.layers if manifest.distilled else []  # whose hashes are not the base's in any case
    stated = [(n, value) for n, value in zip(manifest.kept, manifest.layer_hashes, strict=True) if n not in changed]
    other = [f"layer {number}" for number, value in stated if hashes.layers[number] != value]
    other += ["the embeddings or the head"] if hashes.rest != manifest.rest_hash else []
    where = (
        f"{', '.join(other[:4])}{' and more' if len(other) > 4 else ''}"
        if other
        else "a layer that was not kept or was distilled"
        if changed
        else "a layer that was not kept"
    )
    raise ValueError(
        f"plug-in: {name} is not the base that the emulator was made of ({manifest.origin}): it differs in {where}; give that "
        "base, untouched"
    )


def names_in_full_model(state: Mapping[str, torch.Tensor], manifest: Manifest) -> dict[str, torch.Tensor]:
    """The tensors of tuned layers under their names in the full model.

    Args:
        state: of the emulator, by its own names; what stands outside of the trained layers is left out unless it is an adapter's.
        manifest: of the emulator.

    Raises:
        ValueError: an adapter's tensors outside of the trained layers; NaN or infinity; nothing at all.
    """
    start, found = f"{manifest.layers_name}.", {}
    for key, tensor in state.items():
        place, _, inside = key.removeprefix(start).partition(".")
        number = manifest.trained_places.get(int(place)) if key.startswith(start) and place.isdigit() else None
        if number is None:
            if ".branches." in key:
                raise ValueError(
                    f"plug-in: {key} of an adapter lies outside of the trained layers; train with OffsiteTuningModule"
                )
            continue
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(
                f"plug-in: {key} holds NaN or infinity, so that the model would compute nothing of use; take an earlier "
                "checkpoint, or train again with a lower learning rate"
            )
        found[f"{start}{number}.{inside}"] = tensor
    if not found:
        raise ValueError(
            "plug-in: the checkpoint holds no tensor of a trained layer; give one that OffsiteTuningModule wrote"
        )
    return found


@torch.no_grad()
def put_layers(full: nn.Module, tensors: Mapping[str, torch.Tensor], manifest: Manifest) -> None:
    """Write whole tuned layers into the full model's own Parameters.

    Args:
        full: checked by :func:`check_base`.
        tensors: of :func:`names_in_full_model`.
        manifest: of the emulator.

    Raises:
        ValueError: a Parameter that is missing, unknown, or of another shape. Nothing has been changed then.
    """
    mine = {
        name: p
        for name, p in full.named_parameters()
        if any(name.startswith(f"{manifest.layers_name}.{number}.") for number in manifest.trained)
    }
    buffers = {name for name, _ in full.named_buffers()}
    given = {name: tensor for name, tensor in tensors.items() if name not in buffers}
    if wrong := sorted(set(mine) ^ set(given)):
        raise ValueError(
            f"plug-in: {wrong[0]} {'is missing in the checkpoint' if wrong[0] in mine else 'is unknown to the full model'} "
            f"({len(wrong)} such tensors); give a checkpoint and the base that belong together"
        )
    for name, parameter in mine.items():
        if given[name].shape != parameter.shape:
            raise ValueError(
                f"plug-in: {name} has the shape {tuple(given[name].shape)}, the full model's {tuple(parameter.shape)}; give a "
                "checkpoint and the base that belong together"
            )
    for name, parameter in mine.items():
        parameter.copy_(given[name])


def attach_tuned(
    model: nn.Module, config: AdapterConfig, tensors: Mapping[str, torch.Tensor], layers: str, numbers: Iterable[int]
) -> Adapter:
    """The adapter that was trained inside of the chosen layers, on the full model, or again on the emulator.

    Args:
        model: the full model, checked by :func:`check_base`, or the emulator.
        config: as the training was given it.
        tensors: of the adapter by the model's names; for the full model those of :func:`names_in_full_model`.
        layers: qualified name of the list of layers.
        numbers: places of the trained ones in the model.

    Raises:
        ValueError: tensors of another adapter, or too few of them.
    """
    numbers = list(numbers)
    narrowed = within_layers(config, model, layers, numbers)
    given = dict(tensors)
    if not method_of(narrowed).takes_choice:
        adapter = attach(model, narrowed, check_forward=False)
    else:
        positions = positions_in(given, "", "default")
        if positions is None:
            raise ValueError("plug-in: the checkpoint does not say at which positions it was trained; train it again")
        adapter = attach(model, narrowed, check_forward=False, positions=positions)
        # Beside the positions stands a hash with the layer's name, which was another in the emulator.
        own = model.state_dict()
        given |= {key: own[key] for key in given if key.endswith("_extra_state") and key in own}
    adapter.prepare_load(given, "")
    wanted = set(adapter.trained_keys())
    wrong = sorted(wanted - set(given)) or sorted(key for key in given if key not in model.state_dict())
    if wrong:
        adapter.detach()
        raise ValueError(
            f"plug-in: the tensors of the checkpoint are not those of {type(config).__name__} in the layers {numbers}, "
            f"the first is {wrong[0]!r}; give a checkpoint of OffsiteTuningModule as it was written"
        )
    model.load_state_dict(given, strict=False)
    return adapter
