"""`fulgurite landscape`: the loss along the line between two models, or over the plane through three.

Such as the base, the base with plugged-in layers, and the fully tuned base. OUT gets points.jsonl, to which each point is added as
it is measured, so that a run goes on where it was stopped; landscape.json and landscape.png.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fulgurite.commands.emulate.loading import load_language_model, load_tokenizer_of
from fulgurite.commands.emulate.measuring import measure
from fulgurite.commands.emulate.support import fitting, read_support
from fulgurite.commands.landscape.picture import draw
from fulgurite.commands.shared.devices import usable_device
from fulgurite.commands.shared.options import RowsOptions, WeightsOptions, with_options
from fulgurite.commands.shared.unused import refuse_unused
from fulgurite.console import say, shortest
from fulgurite.data.playground import resolve_backbone
from fulgurite.evaluation.runner.record_file import RecordFile
from fulgurite.models.emulator.hashes import layer_hash
from fulgurite.models.landscape import WeightPlane
from fulgurite.whole_files import write_text

__all__ = ["landscape"]

# Of a model's configuration: what says nothing about how it computes.
_NO_ARITHMETIC = frozenset({
    "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "bos_token_id", "eos_token_id",
    "pad_token_id", "id2label", "label2id", "problem_type", "output_attentions", "output_hidden_states", "return_dict",
    "chunk_size_feed_forward", "is_encoder_decoder",
})  # fmt: skip


@with_options
def landscape(
    base: str,
    first: str,
    rows: str,
    out: str,
    second: str | None = None,
    limit: int = 256,
    points: int | None = None,
    low: float | None = None,
    high: float | None = None,
    *,
    reading: RowsOptions,
    weights: WeightsOptions,
) -> None:
    """Measures the loss at points between models of one architecture.

    Args:
        base: the model at the origin: hub id, folder, or playground.
        first: the model at a = 1, such as what plug-in wrote with --format merged.
        rows: measure on these: a file with texts, builtin, or with --task whatever evaluate takes as --path.
        out: the folder for points, numbers and picture.
        second: the model at b = 1, for a plane.
        limit: the first so many rows.
        points: along each axis; none takes 25 on a line, 11 over a plane.
        low: of each axis; none takes 0 on a line, -0.5 over a plane.
        high: of each axis; none takes 1 on a line, 1.5 over a plane.
        reading: how the rows are read.
        weights: how and where weights are mixed and computed with.
    """
    plane = second is not None
    count = (11 if plane else 25) if points is None else points
    begin = (-0.5 if plane else 0.0) if low is None else low
    end = (1.5 if plane else 1.0) if high is None else high
    if count < 2 or not -math.inf < begin < end < math.inf or limit < 1 or reading.batch_size < 1:
        raise ValueError(
            f"landscape: points={count}, low={begin}, high={end}, limit={limit}, batch_size={reading.batch_size} were given; "
            "needed are 2 points, low below high, both finite, and 1 row at least"
        )
    if reading.task is not None:
        refuse_unused(
            "landscape",
            "with --task, whose rows have columns of their own",
            column=(reading.column, RowsOptions.column),
        )
    if Path(out).is_file():
        raise FileExistsError(f"landscape: --out {out} is a file; give a folder")
    place = usable_device("landscape", weights.device)
    names = [name for name in (base, first, second) if name is not None]
    where = [resolve_backbone(name) for name in names]

    def load(number: int) -> Any:
        return load_language_model("landscape", names[number], where[number], weights.dtype, weights.trust_remote_code)

    model = load(0).to(place)
    tokenizer = load_tokenizer_of("landscape", model, base, where[0])
    read = read_support(
        "landscape", tokenizer, rows, reading.task, reading.column, limit, fitting(model, reading.max_length)
    )
    others = [load(number) for number in range(1, len(names))]
    for name, other in zip(names[1:], others, strict=True):
        _check_alike(model, other, name)
    identity = {
        "models": [layer_hash(each) for each in (model, *others)],
        "rows": hashlib.sha256(repr([(row.ids, row.start) for row in read]).encode()).hexdigest(),
        "dtype": weights.dtype,
    }
    step = (end - begin) / (count - 1)
    axis = [round(begin + i * step, 9) for i in range(count)]
    wanted = [(a, b) for a in axis for b in (axis if plane else [0.0])]
    losses: dict[tuple[float, float], float] = {}
    with (
        WeightPlane(model, *(dict(other.named_parameters()) for other in others)) as between,
        RecordFile(Path(out) / "points.jsonl", "points", identity, ("a", "b"), weights.overwrite) as file,
    ):
        del others
        known = {(record["a"], record["b"]): float(record["loss"]) for record in file.records}
        for a, b in tqdm(wanted, desc="landscape", unit="point", disable=None):
            if (a, b) not in known:
                between.go(a, b)
                known[a, b] = measure(model, read, reading.batch_size).loss
                file.add({"a": a, "b": b, "loss": known[a, b]})
            losses[a, b] = known[a, b]
    corners = ["base", "first", "second"][: len(names)]
    finite = [point for point in losses if math.isfinite(losses[point])]
    if not finite:
        raise ValueError(
            "landscape: no point has a finite loss; the models overflow in this dtype: give --dtype float32"
        )
    if len(finite) < len(losses):
        say(
            f"{len(losses) - len(finite)} of {len(losses)} points have no finite loss; they stand without one in the results"
        )
    lowest = min(finite, key=lambda point: losses[point])
    content = {
        "models": dict(zip(corners, names, strict=True)),
        "rows": len(read),
        "points": [{"a": a, "b": b, "loss": loss if math.isfinite(loss) else None} for (a, b), loss in losses.items()],
        "lowest": {"a": lowest[0], "b": lowest[1], "loss": losses[lowest]},
    }
    write_text(Path(out) / "landscape.json", json.dumps(content, indent=1) + "\n")
    drawn = {point: loss if math.isfinite(loss) else math.nan for point, loss in losses.items()}
    draw(drawn, corners, Path(out) / "landscape.png")
    say(f"{len(losses)} points; the lowest loss, {losses[lowest]:.4f}, is at a = {lowest[0]:g}, b = {lowest[1]:g}")
    say(f"results: {shortest(Path(out) / 'landscape.json')}   picture: {shortest(Path(out) / 'landscape.png')}")


def _check_alike(base: Any, other: Any, name: str) -> None:
    """Refuses a model that is not of the base's architecture, layer for layer: its weights would be read as something else."""
    mine, theirs = (dict(model.named_parameters()) for model in (base, other))
    if apart := sorted(mine.keys() ^ theirs.keys()):
        raise ValueError(
            f"landscape: {name} and the base differ in {len(apart)} parameters, the first is {apart[0]}; give models of one "
            "architecture"
        )
    here, there = (model.config.to_dict() for model in (base, other))
    differing = [
        key
        for key in sorted(here.keys() | there.keys())
        if key not in _NO_ARITHMETIC and here.get(key) != there.get(key)
    ]
    if differing:
        told = ", ".join(f"{key} {there.get(key)!r} instead of {here.get(key)!r}" for key in differing[:3])
        raise ValueError(
            f"landscape: {name} computes otherwise than the base ({told}); between them there is no line: give models of one "
            "configuration"
        )
