"""`fulgurite scaling`: from counts of passes to scores with their errors, the task scaling law, its checks and predictions.

Counts come from files (csv, JSON lines) or from folders of `fulgurite evaluate`. OUT gets scaling.json and four pictures.
"""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from fulgurite import __version__
from fulgurite.commands.scaling.pictures import draw
from fulgurite.commands.scaling.report import forms_table, predictions_table, scores_table
from fulgurite.commands.shared.unused import refuse_unused
from fulgurite.console import say, shortest
from fulgurite.evaluation.pass_until.counts import table_of
from fulgurite.evaluation.pass_until.datasets import sizes_text
from fulgurite.evaluation.pass_until.estimators import special_functions
from fulgurite.evaluation.pass_until.reading import read_counts, read_size
from fulgurite.evaluation.pass_until.study import study_of
from fulgurite.whole_files import write_text

__all__ = ["scaling"]


def scaling(
    counts: str,
    out: str,
    columns: dict[str, str] | None = None,
    sizes: dict[str, Any] | None = None,
    by: Literal["size", "compute"] = "size",
    models: list[str] | None = None,
    task: str | None = None,
    fit_up_to: str | float | None = None,
    predict: list[str | float] | None = None,
    vote: Literal["softmax", "proportional", "majority"] = "softmax",
    temperature: float = 1.0,
    repeats: int = 2000,
    instance_repeats: int = 100,
    seed: int = 0,
) -> None:
    """Pass rates of a series of models, the scaling law of the task, whether it holds, and what it predicts.

    Args:
        counts: files with commas between, such as .csv or .jsonl, with the columns model, size, instance, n, c and, where there are
            such, r, cap, loss, compute, settings, grader; or folders of `fulgurite evaluate`, one a model.
        out: folder for scaling.json and the pictures.
        columns: the files' own names of these columns, as '{"model": "Model Nickname", "n": "Num. Samples"}'.
        sizes: sizes by model where no column has them, as '{"small": "70M", "large": 1.4e9}'; parameters without embeddings.
        by: what the law goes by: size, or the column compute.
        models: only these models; names or patterns such as '*_300B'.
        task: which task of the folders of evaluate; needed where they hold several.
        fit_up_to: models above this size, such as 2.8B, are predicted and compared, not fitted; none fits all.
        predict: further sizes to predict, such as '[70B]'.
        vote: how the two-circuit form weights its circuits: by softmax of their pass rates, in proportion, or the better one alone.
        temperature: of that softmax.
        repeats: bootstrap repeats of scores and lines.
        instance_repeats: bootstrap repeats of the fit of instances, which takes longer.
        seed: of the bootstraps.
    """
    if Path(out).is_file():
        raise FileExistsError(f"scaling: --out {out} is a file; give a folder")
    special_functions()  # says at once where scipy is missing
    for name, value, least in (("repeats", repeats, 100), ("instance_repeats", instance_repeats, 20)):
        if value < least:
            raise ValueError(f"scaling: {name}={value} was given; allowed are {least} and more; give more")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"scaling: temperature={temperature} was given; allowed are numbers above 0; correct it")
    limit = None if fit_up_to is None else _size("fit_up_to", fit_up_to)
    targets = {sizes_text([size])[0]: size for size in (_size("predict", text) for text in predict or [])}
    known = {name: _size("sizes", value) for name, value in (sizes or {}).items()}
    if vote != "softmax":
        refuse_unused("scaling", f"with --vote {vote}, which takes none", temperature=(temperature, 1.0))
    paths = [Path(word.strip()) for word in counts.split(",") if word.strip()]
    if not paths:
        raise ValueError(
            "scaling: no counts were given; give --counts with .csv or .jsonl files, or folders of evaluate"
        )
    if not any(path.is_dir() for path in paths):
        refuse_unused("scaling", "without a folder of evaluate", task=(task, None))
    if all(path.is_dir() for path in paths):
        refuse_unused("scaling", "without a file of counts", columns=(columns, None))
    if by == "compute":
        refuse_unused("scaling", "with --by compute", sizes=(sizes, None))
    if by == "compute" and any(path.is_dir() for path in paths):
        raise ValueError(
            "scaling: by=compute with a folder of evaluate, which tells no compute; give its compute as --sizes and by=size"
        )
    rows = [row for path in paths for row in read_counts(path, columns, known, by, task, models)]
    found = {row.model for row in rows}
    idle = [pattern for pattern in models or [] if not any(fnmatchcase(model, pattern) for model in found)]
    if idle or not rows:
        raise ValueError(f"scaling: no model matches --models {', '.join(idle or models or [])}; correct the patterns")
    if models is None and (unknown := [name for name in known if name not in found]):
        raise ValueError(
            f"scaling: --sizes names {', '.join(unknown)}, of which there are no counts; the models are "
            f"{', '.join(sorted(found))}; correct the name"
        )
    table = table_of(rows)
    study = study_of(table, limit, targets, vote, temperature, repeats, instance_repeats, seed)
    folder = Path(out)
    content = {
        **study.to_dict(),
        "options": {
            "counts": counts,
            "by": by,
            "models": models,
            "fit_up_to": fit_up_to,
            "predict": predict,
            "vote": vote,
            "temperature": temperature,
            "repeats": repeats,
            "instance_repeats": instance_repeats,
            "seed": seed,
        },
        "versions": {"fulgurite": __version__},
    }
    write_text(folder / "scaling.json", json.dumps(_plain(content), indent=1) + "\n")
    pictures = draw(study, folder, by)
    say(scores_table(study))
    if study.law is not None:
        say(predictions_table(study), forms_table(study))
    for note in study.notes:
        say(f"note: {note}")
    verdict = {
        "rejected": "the law does not hold here",
        "not rejected": "the law is not rejected",
        "not tested": "the law was not tested",
    }
    say(f"{verdict[study.verdict]}: {'; '.join(study.reasons)}")
    say(f"results: {shortest(folder / 'scaling.json')}   pictures: {', '.join(shortest(file) for file in pictures)}")


def _size(name: str, value: object) -> float:
    try:
        size = read_size(value)
    except ValueError:
        size = 0.0
    if not 0 < size < float("inf"):
        raise ValueError(
            f"scaling: {name}={value!r} was given; allowed are numbers above 0 such as 1.4B or 1.4e9; correct it"
        )
    return size


def _plain(value: Any) -> Any:
    """For JSON: numbers that are none (nan) become null, tuples lists."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return None if value != value else float(value)
    return value
