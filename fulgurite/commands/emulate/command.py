"""`fulgurite emulate`: clusters a model's layers by what they make of a support set, keeps one of each, and writes the emulator.

OUT gets the kept layers, the manifest emulator.json, the tokenizer, report.json and cka.png. The owner of the model runs this and
gives OUT to the owner of the data, who trains the chosen layers with OffsiteTuningModule; `fulgurite plug-in` puts these into the
full model.
"""

from __future__ import annotations

import json
import math
from typing import Literal

import torch

from fulgurite import __version__
from fulgurite.commands.emulate.choosing import choose_layers
from fulgurite.commands.emulate.distilling import DistillationOptions, distil
from fulgurite.commands.emulate.loading import load_language_model, load_tokenizer_of
from fulgurite.commands.emulate.measuring import measure
from fulgurite.commands.emulate.picture import draw
from fulgurite.commands.emulate.report import report_of, report_table
from fulgurite.commands.emulate.support import SupportRow, fitting, read_support
from fulgurite.commands.export.folder import check_target
from fulgurite.commands.shared.devices import usable_device
from fulgurite.commands.shared.options import RowsOptions, WeightsOptions, with_options
from fulgurite.commands.shared.unused import refuse_unused
from fulgurite.console import command_line, say, shortest
from fulgurite.data.playground import resolve_backbone
from fulgurite.models.emulator.folder import emulator_of, write_emulator
from fulgurite.models.emulator.layers import find_layers
from fulgurite.models.emulator.manifest import MANIFEST
from fulgurite.models.emulator.similarity import LEAST_ROWS, cka_matrix
from fulgurite.whole_files import whole_folder

__all__ = ["emulate"]


@with_options
def emulate(
    model: str,
    out: str,
    support: str | None = None,
    limit: int = 512,
    method: Literal["crash", "uniform"] = "crash",
    keep: int | None = None,
    train: int = 4,
    placement: Literal["even", "borders", "ends"] | None = None,
    sharing: Literal["choose", "repeat-all", "repeat-non-trainable"] = "choose",
    pooling: Literal["weighted", "mean", "last"] = "weighted",
    unbiased: bool = False,
    *,
    distilling: DistillationOptions,
    reading: RowsOptions,
    weights: WeightsOptions,
) -> None:
    """Makes an emulator of a model.

    Args:
        model: the full model: hub id, folder, or playground.
        out: the folder to make.
        support: rows by which layers are compared: a file with texts, builtin, or with --task whatever evaluate takes as --path;
            not needed with --method uniform and no --distill_steps.
        limit: the first so many rows.
        method: crash clusters the layers by CKA and keeps one of each cluster; uniform drops layers at even distances.
        keep: layers that stay; none takes half.
        train: of these, how many are to be trained.
        placement: even spreads the trained layers over the kept ones as published; borders takes those behind the deepest cuts;
            ends takes the first and last layers, as Offsite-Tuning does; none takes even for crash, ends for uniform.
        sharing: choose leaves removed layers out; repeat-all has the nearest kept layer stand in for each; repeat-non-trainable
            prefers one that is not trained.
        pooling: of a row's states: weighted by position as published, mean, or the last token's.
        unbiased: the unbiased estimate of CKA in place of the published one.
        distilling: what the owner of the model does to the emulator beforehand.
        reading: how the rows are read.
        weights: how and where the model is computed with.
    """
    _check_numbers(limit, reading, distilling)
    _check_unused(method, support, limit, pooling, unbiased, reading, distilling)
    placement = placement or ("even" if method == "crash" else "ends")
    _check_together(method, placement, support, reading.task, distilling)
    base = resolve_backbone(model)
    target = check_target(out, base, weights.overwrite, "emulate", "model", (MANIFEST,))
    place = usable_device("emulate", weights.device)
    full = load_language_model("emulate", model, base, weights.dtype, weights.trust_remote_code).requires_grad_(False)
    layers = len(find_layers(full).modules)
    kept_count = max(2, layers // 2) if keep is None else keep
    if not 2 <= train <= kept_count <= layers:
        raise ValueError(
            f"emulate: {model} has {layers} layers, and --keep {kept_count} --train {train} were given; needed is 2 <= train <= "
            f"keep <= {layers}; give other numbers"
        )
    tokenizer = load_tokenizer_of("emulate", full, model, base)
    most = fitting(full, reading.max_length)

    def read_rows(path: str, limit: int | None, least: int = 1) -> list[SupportRow]:
        return read_support("emulate", tokenizer, path, reading.task, reading.column, limit, most, least)

    rows = None if support is None else read_rows(support, limit, LEAST_ROWS[unbiased])
    full = full.to(place)
    seen = None if rows is None else measure(full, rows, reading.batch_size, pooling)
    similarity = None if seen is None else cka_matrix(seen.features, unbiased)
    neighbours = None if similarity is None else similarity.diagonal(1).tolist()
    chosen = choose_layers(layers, kept_count, train, placement, neighbours if method == "crash" else None)
    emulator = emulator_of(full, base, chosen.kept, chosen.trained, sharing, method, chosen.clusters)
    perplexities, distances, owned = {}, None, full
    if rows is not None and seen is not None:
        perplexities = {
            "full": seen.perplexity,
            "emulator": measure(emulator.model, rows, reading.batch_size).perplexity,
        }
        if distilling.distill_steps:
            taught = rows if distilling.distill_rows is None else read_rows(distilling.distill_rows, None)
            done = distil(full, emulator, taught, distilling, reading.batch_size)
            owned, emulator, distances = done.full, done.emulator, (done.before, done.after)
            after = measure(emulator.model, rows, reading.batch_size).perplexity
            perplexities = {**perplexities, "emulator, distilled": after}
    report = report_of(
        emulator,
        similarity,
        perplexities,
        0 if rows is None else len(rows),
        0 if seen is None else seen.tokens,
        distances,
    )
    given = {
        "support": support,
        "task": reading.task,
        "limit": limit,
        "max_length": reading.max_length,
        "placement": placement,
        "distill_rows": distilling.distill_rows,
    }
    report |= {"options": {**given, "pooling": pooling, "unbiased": unbiased, "dtype": weights.dtype}}
    report |= {"versions": {"fulgurite": __version__, "torch": torch.__version__}}
    owned = owned.to("cpu")  # what is loaded again is compared there, where both round alike
    with whole_folder(target) as folder:
        write_emulator(owned, emulator.manifest, folder)
        tokenizer.save_pretrained(folder)
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        if similarity is not None:
            draw(similarity, emulator.manifest, folder / "cka.png")
    say(report_table(report))
    trained = command_line("fit", "--model", "OffsiteTuningModule", "--model.backbone", shortest(target))
    say(f"written: {shortest(target)}; train it with {trained}")


def _check_numbers(limit: int, reading: RowsOptions, distilling: DistillationOptions) -> None:
    given = {"limit": limit, "batch_size": reading.batch_size, "max_length": reading.max_length}
    given["distill_steps"] = distilling.distill_steps
    least = {"max_length": 2, "distill_steps": 0}
    for name, value in given.items():
        if value < least.get(name, 1):
            raise ValueError(f"emulate: {name}={value} was given; give a larger number")
    if not 0.0 < distilling.distill_learning_rate < math.inf:
        raise ValueError(
            f"emulate: distill_learning_rate={distilling.distill_learning_rate}; allowed are numbers above 0, such as 1e-4"
        )


def _check_unused(
    method: str,
    support: str | None,
    limit: int,
    pooling: str,
    unbiased: bool,
    reading: RowsOptions,
    distilling: DistillationOptions,
) -> None:
    """Refuses options that change nothing beside the others."""
    column = (reading.column, RowsOptions.column)
    if support is None and method == "uniform":
        refuse_unused(
            "emulate", "without --support, over whose rows layers are compared", column=column, limit=(limit, 512),
            max_length=(reading.max_length, RowsOptions.max_length), pooling=(pooling, "weighted"), unbiased=(unbiased, False),
            batch_size=(reading.batch_size, RowsOptions.batch_size),
        )  # fmt: skip
    if reading.task is not None and support is not None:
        refuse_unused("emulate", "with --task, whose rows have columns of their own", column=column)
    if not distilling.distill_steps:
        rate = (distilling.distill_learning_rate, DistillationOptions.distill_learning_rate)
        refuse_unused("emulate", "without --distill_steps", distill_learning_rate=rate)


def _check_together(
    method: str, placement: str, support: str | None, task: str | None, distilling: DistillationOptions
) -> None:
    """Refuses options that contradict one another."""
    if method == "crash" and (support is None or placement == "ends"):
        lack = "no --support" if support is None else "--placement ends"
        raise ValueError(
            f"emulate: --method crash with {lack}; it compares layers over the rows of --support, and trains layers at even places "
            "or at borders; or give --method uniform"
        )
    if task is not None and support is None:
        raise ValueError(
            f"emulate: --task {task} without --support; give the file of the task's rows, or leave --task out"
        )
    if method == "uniform" and placement == "borders":
        raise ValueError("emulate: --placement borders with --method uniform, which has no clusters; give even or ends")
    if distilling.distill_steps and support is None:
        raise ValueError(
            f"emulate: --distill_steps {distilling.distill_steps} without --support; give rows, on which the emulator is measured "
            "before and after, or leave --distill_steps out"
        )
    if distilling.distill_rows is not None and not distilling.distill_steps:
        raise ValueError(
            f"emulate: --distill_rows {distilling.distill_rows} without --distill_steps; give the number of steps, or leave "
            "--distill_rows out"
        )
