"""Draws and passes of a series of models on the same instances, as one table that the statistics take."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fulgurite.evaluation.pass_until.estimators import Floats, Ints, unbiased, variance

__all__ = ["Count", "Counts", "table_of"]


@dataclass(frozen=True)
class Count:
    """The draws of one model on one instance, or on a whole task whose instances were drawn at random until r passes.

    Attributes:
        model: its name.
        size: parameters (without embeddings, for the law) or compute; any unit, the same for all models.
        instance: the instance's name; of a whole task, a name of its set of instances.
        n: draws.
        c: passes among them.
        r: passes at which the draws ended; 0 where their number was fixed beforehand.
        cap: draws at most; 0 where the number of draws was fixed.
        loss: summed negative log-likelihood of the reference answer, in nats; None where it isn't known.
        settings: how the draws were made, as text; it has to be the same everywhere.
        grader: who said what passes; it has to be the same everywhere.
        stop: what had r passes when the draws ended: "instance", or "task" for a row that counts a whole task.
        items: instances that such a row of a whole task counts; 0 for a row of one instance.
        where: file and line, for messages.
    """

    model: str
    size: float
    instance: str
    n: int
    c: int
    r: int = 0
    cap: int = 0
    loss: float | None = None
    settings: str = ""
    grader: str = ""
    stop: str = "instance"
    items: int = 0
    where: str = "a row"


@dataclass(frozen=True)
class Counts:
    """A series of models by rising size, on the instances that all of them have. Arrays are [models, instances].

    Where draws ended at the r-th pass of the whole task there is one column, which counts the task and no instance.

    Attributes:
        models: names.
        sizes: [models], rising.
        instances: names.
        n: draws.
        c: passes.
        r: passes at which the draws ended, 0 for a fixed number.
        cap: draws at most; where their number was fixed, that number.
        loss: of the reference answers in nats, nan where unknown.
        notes: what was left out or what a reader should know, in whole sentences.
        whole: instances of the task that the one column counts; 0 where each column is an instance.
    """

    models: tuple[str, ...]
    sizes: Floats
    instances: tuple[str, ...]
    n: Ints
    c: Ints
    r: Ints
    cap: Ints
    loss: Floats
    notes: tuple[str, ...] = field(default=())
    whole: int = 0

    @property
    def rates(self) -> Floats:
        """The unbiased estimate of each pass rate."""
        return unbiased(self.n, self.c, self.r)

    @property
    def variances(self) -> Floats:
        """The unbiased estimate of each one's variance by measurement."""
        return variance(self.n, self.c, self.r)

    def of_models(self, chosen: Sequence[int]) -> Counts:
        """The same table with some of its models.

        Args:
            chosen: their places.
        """
        places = list(chosen)
        return replace(
            self,
            models=tuple(self.models[i] for i in places),
            sizes=self.sizes[places],
            n=self.n[places],
            c=self.c[places],
            r=self.r[places],
            cap=self.cap[places],
            loss=self.loss[places],
        )


def table_of(rows: Sequence[Count]) -> Counts:
    """The table of a series.

    Args:
        rows: one of each model and instance, in any order.

    Raises:
        ValueError: impossible counts, a row twice, models of equal size, one model with two sizes, draws that were made or graded
            in different ways, draws that ended by the instance beside draws that ended by the task, r = 1, or no instance that all
            models have.
    """
    if not rows:
        raise ValueError("scaling: no counts were given; needed is a row of n and c for each model and instance")
    for row in rows:
        _check_row(row)
    _check_same(rows, "settings", "sampling settings", "draw all models in one way")
    _check_same(rows, "grader", "graders", "grade all models again with one")
    _check_stop(rows)
    cells: dict[tuple[str, str], Count] = {}
    sizes: dict[str, tuple[float, str]] = {}
    for row in rows:
        size, where = sizes.setdefault(row.model, (row.size, row.where))
        if size != row.size:
            raise ValueError(
                f"scaling: {row.model} has size {size:g} at {where} and {row.size:g} at {row.where}; a model has one size; "
                "correct it"
            )
        if (row.model, row.instance) in cells:
            raise ValueError(
                f"scaling: {row.model}, instance {row.instance} stands at {cells[row.model, row.instance].where} and at "
                f"{row.where}; one row each is allowed; add their draws together or remove one"
            )
        cells[row.model, row.instance] = row
    models = sorted(sizes, key=lambda name: sizes[name][0])
    for left, right in itertools.pairwise(models):
        if sizes[left][0] == sizes[right][0]:
            raise ValueError(
                f"scaling: {left} and {right} both have size {sizes[left][0]:g}; a series has one model of each size; "
                "choose with --models"
            )
    every = list(dict.fromkeys(row.instance for row in rows))
    common = [name for name in every if all((model, name) in cells for model in models)]
    if not common:
        raise ValueError(
            "scaling: no instance is counted for all models; give counts of the same instances for each model"
        )
    notes = _notes(rows, cells, models, every, common)

    def array(name: str, kind: type) -> np.ndarray:
        return np.array([[getattr(cells[model, item], name) for item in common] for model in models], kind)

    n, r = array("n", np.int64), array("r", np.int64)
    cap = np.where(r > 0, array("cap", np.int64), n)
    open_ones = (r > 0) & (array("c", np.int64) < r) & (n < cap)
    if open_ones.any():
        notes.append(
            f"{int(open_ones.sum())} instances ended before their {_listed(set(r[open_ones].tolist()))} passes and before their "
            "cap; their draws so far count as the cap"
        )
        cap = np.where(open_ones, n, cap)
    return Counts(
        tuple(models),
        np.array([sizes[model][0] for model in models], float),
        tuple(common),
        n,
        array("c", np.int64),
        r,
        cap,
        array("loss", np.float64),
        tuple(notes),
        rows[0].items,
    )


def _check_row(row: Count) -> None:
    named = f"scaling: {row.where}: {row.model}, instance {row.instance}:"
    if row.n < 1 or not 0 <= row.c <= row.n:
        raise ValueError(
            f"{named} n={row.n}, c={row.c} was given; allowed are n from 1 and c from 0 to n; correct the row"
        )
    if not (np.isfinite(row.size) and row.size > 0):
        raise ValueError(f"{named} size {row.size:g} was given; allowed are numbers above 0; correct the row")
    if row.r == 1:
        raise ValueError(
            f"{named} r=1 was given; draws that end at the first pass have no useful unbiased estimate; draw until 2 or more passes"
        )
    if row.r < 0 or (row.r and row.c > row.r):
        raise ValueError(
            f"{named} c={row.c} with r={row.r} was given; draws end at the r-th pass, so that c is at most r; "
            "leave r out if n was fixed"
        )
    if row.r == 0 and row.n == 1:
        raise ValueError(f"{named} n=1 was given; one draw does not tell its own error; give counts of 2 draws or more")
    if row.r and row.cap < row.r:
        raise ValueError(f"{named} cap={row.cap} with r={row.r} was given; the cap is at least r; correct the row")
    if row.r and row.n > row.cap:
        raise ValueError(f"{named} n={row.n} with cap={row.cap} was given; n is at most the cap; correct the row")

    if row.stop not in ("instance", "task"):
        raise ValueError(f"{named} stop={row.stop!r} was given; allowed are instance and task; correct the row")
    if row.stop == "task" and (row.r < 2 or row.items < 1):
        raise ValueError(
            f"{named} stop=task with r={row.r} and items={row.items} was given; a row of a whole task needs r from 2 and the "
            "number of its instances; correct the row"
        )


def _check_stop(rows: Sequence[Count]) -> None:
    """Draws that ended with an instance and draws that ended with the task are counts of different things."""
    first = rows[0]
    for row in rows:
        if row.stop != first.stop:
            raise ValueError(
                f"scaling: draws ended at the r-th pass of the {first.stop} at {first.where}, of the {row.stop} at {row.where}; "
                "one table has one of them; draw all models with one --until_passes_of (draws that are there are used again)"
            )
        if row.stop == "task" and (row.instance, row.items) != (first.instance, first.items):
            raise ValueError(
                f"scaling: the tasks differ: {first.instance}, {first.items} instances, at {first.where}; {row.instance}, "
                f"{row.items} instances, at {row.where}; a series is asked the same instances; draw again"
            )


def _check_same(rows: Sequence[Count], name: str, plural: str, what_to_do: str) -> None:
    first = rows[0]
    for row in rows:
        if getattr(row, name) != getattr(first, name):
            raise ValueError(
                f"scaling: {plural} differ: {getattr(first, name) or 'none named'} at {first.where}, "
                f"{getattr(row, name) or 'none named'} at {row.where}; a series needs the same; {what_to_do}"
            )


def _notes(
    rows: Sequence[Count],
    cells: dict[tuple[str, str], Count],
    models: Sequence[str],
    every: Sequence[str],
    common: Sequence[str],
) -> list[str]:
    notes = []
    if rows[0].stop == "task":
        notes.append(
            f"the draws of a model ended at the r-th pass of the whole task, its {rows[0].items} instances in random order: there "
            "are the task's scores and their law, no rates and laws of instances, and no error by other instances"
        )
    if len(common) < len(every):
        lacking = [model for model in models if any((model, name) not in cells for name in every)]
        notes.append(
            f"{len(every) - len(common)} of {len(every)} instances are left out because not every model has them "
            f"(missing in {_listed(lacking)})"
        )
    caps = {(row.r, row.cap) for row in rows if row.r}
    if len(caps) > 1:
        shown = [f"r={r} with cap {cap}" for r, cap in sorted(caps)]
        notes.append(
            f"draws ended at different r or caps ({_listed(shown)}): the estimates stay unbiased, their errors differ"
        )
    if caps and any(not row.r for row in rows):
        notes.append(
            "some counts are of a fixed number of draws, some of draws until r passes; both are estimated without bias"
        )
    return notes


def _listed(values: Sequence[object] | set[object], most: int = 4) -> str:
    texts = [str(value) for value in values]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
