"""`fulgurite emulate`: clusters a model's layers by what they make of a support set, keeps one of each, and writes the emulator.

OUT gets the kept layers, the manifest emulator.json, the tokenizer, report.json and cka.png. The owner of the model runs this and
gives OUT to the owner of the data, who trains the chosen layers with OffsiteTuningModule; `fulgurite plug-in` puts these into the
full model.
"""

from __future__ import annotations

import json
from typing import Literal

import torch

from fulgurite import __version__
from fulgurite.commands.emulate.choosing import choose_layers
from fulgurite.commands.emulate.loading import load_language_model, load_tokenizer_of
from fulgurite.commands.emulate.measuring import measure
from fulgurite.commands.emulate.picture import draw
from fulgurite.commands.emulate.report import report_of, report_table
from fulgurite.commands.emulate.support import fitting, read_support
from fulgurite.commands.export.folder import check_target
from fulgurite.commands.shared.devices import usable_device
from fulgurite.commands.shared.unused import refuse_unused
from fulgurite.console import command_line, say, shortest
from fulgurite.data.playground import resolve_backbone
from fulgurite.models.emulator.folder import emulator_of, write_emulator
from fulgurite.models.emulator.layers import find_layers
from fulgurite.models.emulator.manifest import MANIFEST
from fulgurite.models.emulator.similarity import LEAST_ROWS, cka_matrix
from fulgurite.whole_files import whole_folder

__all__ = ["emulate"]


def emulate(
    model: str,
    out: str,
    support: str | None = None,
    task: str | None = None,
    column: str = "text",
    limit: int = 512,
    max_length: int = 512,
    method: Literal["crash", "uniform"] = "crash",
    keep: int | None = None,
    train: int = 4,
    placement: Literal["even", "borders", "ends"] | None = None,
    sharing: Literal["choose", "repeat-all", "repeat-non-trainable"] = "choose",
    pooling: Literal["weighted", "mean", "last"] = "weighted",
    unbiased: bool = False,
    batch_size: int = 8,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: str | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Makes an emulator of a model.

    Args:
        model: the full model: hub id, folder, or playground.
        out: the folder to make.
        support: rows by which layers are compared: a file with texts, builtin, or with --task whatever evaluate takes as --path;
            not needed with --method uniform.
        task: take questions with their right answers of this task, such as arc_easy, in place of texts.
        column: of the texts in the file.
        limit: the first so many rows.
        max_length: tokens of a row at most.
        method: crash clusters the layers by CKA and keeps one of each cluster; uniform drops layers at even distances.
        keep: layers that stay; none takes half.
        train: of these, how many are to be trained.
        placement: even spreads the trained layers over the kept ones as published; borders takes those behind the deepest cuts;
            ends takes the first and last layers, as Offsite-Tuning does; none takes even for crash, ends for uniform.
        sharing: choose leaves removed layers out; repeat-all has the nearest kept layer stand in for each; repeat-non-trainable
            prefers one that is not trained.
        pooling: of a row's states: weighted by position as published, mean, or the last token's.
        unbiased: the unbiased estimate of CKA in place of the published one.
        batch_size: rows at a time.
        dtype: in which the model is read, compared and written.
        device: cpu, cuda, cuda:1, mps; none takes a GPU if there is one.
        overwrite: replace the folder if an earlier emulator lies there.
        trust_remote_code: run code that came with the model.
    """
    for name, value in (("limit", limit), ("batch_size", batch_size), ("max_length", max_length - 1)):
        if value < 1:
            raise ValueError(f"emulate: {name}={value + (name == 'max_length')} was given; give a larger number")
    if support is None and method == "uniform":
        refuse_unused(
            "emulate", "without --support, over whose rows layers are compared", column=(column, "text"), limit=(limit, 512),
            max_length=(max_length, 512), pooling=(pooling, "weighted"), unbiased=(unbiased, False), batch_size=(batch_size, 8),
        )  # fmt: skip
    if task is not None and support is not None:
        refuse_unused("emulate", "with --task, whose rows have columns of their own", column=(column, "text"))
    placement = placement or ("even" if method == "crash" else "ends")
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
    base = resolve_backbone(model)
    target = check_target(out, base, overwrite, "emulate", "model", (MANIFEST,))
    place = usable_device("emulate", device)
    full = load_language_model("emulate", model, base, dtype, trust_remote_code).requires_grad_(False)
    layers = len(find_layers(full).modules)
    kept_count = max(2, layers // 2) if keep is None else keep
    if not 2 <= train <= kept_count <= layers:
        raise ValueError(
            f"emulate: {model} has {layers} layers, and --keep {kept_count} --train {train} were given; needed is 2 <= train <= "
            f"keep <= {layers}; give other numbers"
        )
    tokenizer = load_tokenizer_of("emulate", full, model, base)
    least = LEAST_ROWS[unbiased]
    rows = None
    if support is not None:
        most = fitting(full, max_length)
        rows = read_support("emulate", tokenizer, support, task, column, limit, most, least)
    full = full.to(place)
    seen = None if rows is None else measure(full, rows, batch_size, pooling)
    similarity = None if seen is None else cka_matrix(seen.features, unbiased)
    neighbours = None if similarity is None else similarity.diagonal(1).tolist()
    chosen = choose_layers(layers, kept_count, train, placement, neighbours if method == "crash" else None)
    emulator = emulator_of(full, base, chosen.kept, chosen.trained, sharing, method, chosen.clusters)
    perplexities = {}
    if rows is not None and seen is not None:
        perplexities = {"full": seen.perplexity, "emulator": measure(emulator.model, rows, batch_size).perplexity}
    report = report_of(
        emulator, similarity, perplexities, 0 if rows is None else len(rows), 0 if seen is None else seen.tokens
    )
    given = {"support": support, "task": task, "limit": limit, "max_length": max_length, "placement": placement}
    report |= {"options": {**given, "pooling": pooling, "unbiased": unbiased, "dtype": dtype}}
    report |= {"versions": {"fulgurite": __version__, "torch": torch.__version__}}
    full = full.to("cpu")  # what is loaded again is compared there, where both round alike
    with whole_folder(target) as folder:
        write_emulator(full, emulator.manifest, folder)
        tokenizer.save_pretrained(folder)
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        if similarity is not None:
            draw(similarity, emulator.manifest, folder / "cka.png")
    say(report_table(report))
    trained = command_line("fit", "--model", "OffsiteTuningModule", "--model.backbone", shortest(target))
    say(f"written: {shortest(target)}; train it with {trained}")
