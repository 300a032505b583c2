"""`fulgurite landscape`: the loss along the line between two models, or over the plane through three.

Such as the base, the base with plugged-in layers, and the fully tuned base. OUT gets points.jsonl, to which each point is added as
it is measured, so that a run goes on where it was stopped; landscape.json and landscape.png.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fulgurite.commands.emulate.measuring import measure
from fulgurite.commands.emulate.support import fitting, read_support
from fulgurite.commands.landscape.picture import draw
from fulgurite.commands.shared.devices import usable_device
from fulgurite.commands.shared.options import RowsOptions, WeightsOptions, with_options
from fulgurite.console import say, shortest
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.evaluation.runner.record_file import RecordFile
from fulgurite.models import load_backbone
from fulgurite.models.emulator.hashes import layer_hash
from fulgurite.models.landscape import WeightPlane
from fulgurite.whole_files import write_text

__all__ = ["landscape"]


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
    if count < 2 or not begin < end or limit < 1 or reading.batch_size < 1:
        raise ValueError(
            f"landscape: points={count}, low={begin}, high={end}, limit={limit}, batch_size={reading.batch_size} were given; "
            "needed are 2 points, low below high, and 1 row at least"
        )
    if Path(out).is_file():
        raise FileExistsError(f"landscape: --out {out} is a file; give a folder")
    where = [resolve_backbone(name) for name in (base, first, second) if name is not None]
    place = usable_device("landscape", weights.device)
    tokenizer = load_tokenizer(where[0])

    def load(name: str) -> Any:
        return load_backbone(
            name, "causal_lm", dtype=weights.dtype, trust_remote_code=weights.trust_remote_code
        ).model.eval()

    model = load(where[0]).to(place)
    read = read_support(
        "landscape", tokenizer, rows, reading.task, reading.column, limit, fitting(model, reading.max_length)
    )
    others = [load(name) for name in where[1:]]
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
    names = ["base", "first", "second"][: len(where)]
    lowest = min(losses, key=lambda point: losses[point])
    content = {
        "models": dict(zip(names, [base, first, *([second] if second else [])], strict=True)),
        "rows": len(read),
        "points": [{"a": a, "b": b, "loss": loss} for (a, b), loss in losses.items()],
        "lowest": {"a": lowest[0], "b": lowest[1], "loss": losses[lowest]},
    }
    write_text(Path(out) / "landscape.json", json.dumps(content, indent=1) + "\n")
    draw(losses, names, Path(out) / "landscape.png")
    say(f"{len(losses)} points; the lowest loss, {losses[lowest]:.4f}, is at a = {lowest[0]:g}, b = {lowest[1]:g}")
    say(f"results: {shortest(Path(out) / 'landscape.json')}   picture: {shortest(Path(out) / 'landscape.png')}")
