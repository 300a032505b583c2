"""`fulgurite plug-in`: puts layers that were tuned on an emulator into the untouched full model, at their places, and writes it.

The full model has to be the very base of the emulator: its weights are hashed and compared with the manifest that travels in the
checkpoint. Whole layers give a transformers checkpoint; an adapter inside of the layers leaves as an adapter of the full model that
stock PEFT loads, or merged. With rows to measure on, the full model, the emulator before and after the training, and the
full model with the tuned layers stand side by side.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fulgurite.adapters import Adapter
from fulgurite.adapters.methods import config_from_dict
from fulgurite.commands.emulate.loading import load_language_model, load_tokenizer_of
from fulgurite.commands.emulate.support import fitting, read_support
from fulgurite.commands.export.checks import (
    compare,
    in_fp32,
    logits_of,
    merge_checked,
    no_progress_bar,
    probe,
    with_peft,
)
from fulgurite.commands.export.folder import check_target, refuse_around
from fulgurite.commands.plug_in.measures import Rows, figures_of, figures_table
from fulgurite.commands.shared.checkpoint_files import read_checkpoint
from fulgurite.commands.shared.devices import usable_device
from fulgurite.commands.shared.options import RowsOptions, with_options
from fulgurite.commands.shared.unused import refuse_unused
from fulgurite.console import say, shortest
from fulgurite.data.playground import resolve_backbone
from fulgurite.evaluation.tasks import find_tasks
from fulgurite.evaluation.tasks.rows import items_of
from fulgurite.models import load_backbone
from fulgurite.models.emulator.folder import emulator_of, load_emulator
from fulgurite.models.emulator.manifest import Manifest
from fulgurite.models.emulator.plugging import attach_tuned, check_base, names_in_full_model, put_layers
from fulgurite.whole_files import whole_folder

__all__ = ["plug_in"]

_NETWORK = "network."


@with_options
def plug_in(
    ckpt_path: str,
    model: str,
    out: str,
    format: Literal["peft", "merged"] | None = None,
    rows: str | None = None,
    limit: int | None = None,
    emulator: str | None = None,
    *,
    reading: RowsOptions,
    tolerance: float = 1e-5,
    device: str | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Puts tuned layers into the full model.

    Args:
        ckpt_path: a .ckpt file that `fulgurite fit` wrote with OffsiteTuningModule.
        model: the full model, untouched: hub id, folder, or playground.
        out: the folder to make.
        format: peft writes the adapter alone, for the full model; merged writes a whole model; none takes peft where an adapter was
            trained, and merged where layers were trained whole.
        rows: measure on these: a file with texts, builtin, or with --task whatever evaluate takes as --path.
        limit: the first so many rows.
        emulator: the emulator's folder: needed to measure one that was distilled, whose frozen layers stand nowhere else.
        reading: how the rows are read.
        tolerance: largest difference allowed between what was trained and what was written, relative to the largest logit.
        device: for measuring: cpu, cuda, cuda:1, mps; none takes a GPU if there is one.
        overwrite: replace the folder if an earlier result lies there.
        trust_remote_code: run code that came with the model.
    """
    if tolerance <= 0 or reading.batch_size < 1:
        raise ValueError(
            f"plug-in: tolerance={tolerance}, batch_size={reading.batch_size}; needed are a number above 0, and 1 or more"
        )
    if emulator is not None and rows is None:
        raise ValueError(f"plug-in: --emulator {emulator} without --rows; give rows to measure it on, or leave it out")
    if reading.task is not None and rows is None:
        raise ValueError(f"plug-in: --task {reading.task} without --rows; give the file of the task's rows")
    column = (reading.column, RowsOptions.column)
    if rows is None:
        refuse_unused(
            "plug-in", "without --rows, on which models are measured", column=column, limit=(limit, None),
            max_length=(reading.max_length, RowsOptions.max_length), batch_size=(reading.batch_size, RowsOptions.batch_size),
        )  # fmt: skip
    if reading.task is not None:
        refuse_unused("plug-in", "with --task, whose rows have columns of their own", column=column)
    base = resolve_backbone(model)
    target = check_target(out, ckpt_path, overwrite, "plug-in")
    refuse_around(target, base, "full model", "plug-in")
    checkpoint = read_checkpoint(ckpt_path)
    if "emulator" not in checkpoint:
        raise ValueError(
            f"plug-in: {shortest(ckpt_path)} was not trained on an emulator; give a checkpoint of OffsiteTuningModule"
        )
    manifest = Manifest.from_dict(checkpoint["emulator"], f"plug-in: {shortest(ckpt_path)}")
    stored = checkpoint.get("adapter")
    if stored is None and format == "peft":
        raise ValueError(
            f"plug-in: {shortest(ckpt_path)} holds whole layers and no adapter; --format merged writes the model with them"
        )
    place = usable_device("plug-in", device)

    def load() -> Any:
        return load_language_model("plug-in", model, base, manifest.dtype, trust_remote_code)

    full = load()
    tokenizer = load_tokenizer_of("plug-in", full, model, base)
    check_base(full, manifest, model)
    on = None
    if rows is not None:
        on = _rows(tokenizer, rows, limit, fitting(full, reading.max_length), reading)
    full.requires_grad_(False)
    state = {k.removeprefix(_NETWORK): v for k, v in checkpoint["state_dict"].items() if k.startswith(_NETWORK)}
    tensors = names_in_full_model(state, manifest)
    student = None if on is None else _student(full, base, manifest, emulator)
    figures: dict[str, dict[str, Any]] = {}
    if on is not None:
        figures["full model"] = _on(place, full, on)
    if on is not None and student is not None:
        figures["emulator"] = _on(place, student, on)
    name, adapter = manifest.layers_name, None
    if stored is None:
        put_layers(full, tensors, manifest)
        if on is not None and student is not None:
            student.load_state_dict(state, strict=False)  # its trained layers; the names were checked above
            figures["emulator, tuned"] = _on(place, student, on)
    else:
        config = config_from_dict(stored)
        if on is not None and student is not None:
            own = {key: value for key, value in state.items() if ".branches." in key}
            there = attach_tuned(student, config, own, name, manifest.trained_places)
            figures["emulator, tuned"] = _on(place, student, on)
            there.detach()
        adapter = attach_tuned(full, config, tensors, name, manifest.trained)
    if on is not None:
        figures["plug-in"] = _on(place, full, on)
    left_out = on is not None and student is None
    del student
    full.to("cpu")
    with whole_folder(target) as folder:
        if adapter is not None and format != "merged":
            _write_adapter(full, adapter, tokenizer, folder, tolerance, load, base)
        else:
            _write_model(full, adapter, tokenizer, folder, tolerance, trust_remote_code)
        tokenizer.save_pretrained(folder)
        if figures:
            (folder / "plug_in.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    numbers = ", ".join(map(str, manifest.trained))
    say(f"layers {numbers} of {manifest.layers} were tuned: {'whole' if adapter is None else adapter.kind}")
    if figures:
        say(figures_table(figures))
    if left_out:
        say("the emulator was distilled, so its own figures are left out; give its folder with --emulator to have them")
    say(f"written: {shortest(target)}")


def _student(full: nn.Module, base: str, manifest: Manifest, folder: str | None) -> nn.Module | None:
    """The emulator: from its folder, or made of the full model, whose Parameters it shares then; None where that cannot be."""
    if folder is not None:
        found = load_emulator(folder)
        if found.manifest != manifest:
            raise ValueError(
                f"plug-in: --emulator {folder} is not the emulator that the checkpoint was trained on; give that one, or leave it "
                "out"
            )
        return found.model.eval().requires_grad_(False)
    if manifest.distilled is not None:
        return None
    return emulator_of(full, base, manifest.kept, manifest.trained, manifest.sharing, manifest.method).model


def _rows(tokenizer: Any, path: str, limit: int | None, max_length: int, reading: RowsOptions) -> Rows:
    read = read_support("plug-in", tokenizer, path, reading.task, reading.column, limit, max_length)
    if reading.task is None:
        return Rows(read, None, [], tokenizer, reading.batch_size)
    (known,) = find_tasks([reading.task])
    return Rows(read, known, items_of(known, path, limit).items, tokenizer, reading.batch_size)


def _on(place: torch.device, model: nn.Module, on: Rows) -> dict[str, Any]:
    """Measured on the device; a Module's `to` keeps its Parameters, and so those that other modules share."""
    return figures_of(model.to(place), on)  # type: ignore[call-overload]


def _write_adapter(
    full: nn.Module,
    adapter: Adapter,
    tokenizer: Any,
    folder: Path,
    tolerance: float,
    load: Callable[[], nn.Module],
    base: str,
) -> None:
    batch = probe(tokenizer, "causal_lm")
    with in_fp32(full):
        expected = logits_of(full, batch)
    adapter.export_peft(folder, base_model=base, task_type="CAUSAL_LM")
    loaded = with_peft(load, folder)
    if loaded is None:
        say("PEFT is not installed, so the folder was not loaded with it; pip install peft to have that checked too")
    else:
        compare("PEFT", logits_of(loaded, batch), expected, tolerance)


def _write_model(
    full: nn.Module, adapter: Adapter | None, tokenizer: Any, folder: Path, tolerance: float, remote: bool
) -> None:
    batch = probe(tokenizer, "causal_lm")
    if adapter is not None:
        merge_checked(full, adapter, batch, tolerance)
    with in_fp32(full):
        expected = logits_of(full, batch)
    written: Any = full
    with no_progress_bar():
        written.save_pretrained(folder)
    again = load_backbone(str(folder), "causal_lm", trust_remote_code=remote).model.eval()
    compare("reloaded", logits_of(again, batch), expected, tolerance)
