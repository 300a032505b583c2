"""The tables of `fulgurite scaling`."""

from __future__ import annotations

import math

from rich.table import Table

from fulgurite.evaluation.pass_until.datasets import sizes_text
from fulgurite.evaluation.pass_until.study import Study

__all__ = ["forms_table", "predictions_table", "scores_table"]


def scores_table(study: Study) -> Table:
    """A line of each model.

    Args:
        study: what was found.
    """
    items, whole = len(study.counts.instances), study.counts.whole
    title = (
        f"scores over {items} instances; mean of logs over the {study.scores[0].log_instances} that every model passes"
    )
    shown = _table(
        f"scores over {whole} instances, drawn in random order until the task has its passes" if whole else title,
        ("model", "left"),
        ("size", "right"),
        ("draws", "right"),
        ("passes" if whole else "passed", "right"),
        ("mean of instances, PU", "right"),
        ("± by draws", "right"),
        ("± by task", "right"),
        ("95 % by draws", "right"),
        ("log(−log PU)", "right"),
        ("mean of logs", "right"),
    )
    for score in study.scores:
        shown.add_row(
            score.model,
            sizes_text([score.size])[0],
            f"{score.draws:,}",
            str(score.passed) if whole else f"{score.passed}/{items}",
            f"{score.pu:.4g}",
            f"{score.measurement_error:.2g}",
            "" if math.isnan(score.task_error) else f"{score.task_error:.2g}",
            f"{score.low:.3g} to {score.high:.3g}",
            "" if score.f is None else f"{score.f:.4f}",
            "" if score.mean_log is None else f"{score.mean_log:.3f}",
        )
    return shown


def predictions_table(study: Study) -> Table:
    """What was held out, and what was asked for, beside what was measured.

    Args:
        study: what was found, with a law.
    """
    assert study.law is not None
    law = study.law
    warned = "; the law does not hold here: these are no forecasts" if study.verdict == "rejected" else ""
    shown = _table(
        f"log(−log PU) = {law.log_c:.3f} − {law.alpha:.4f} log N (α {law.alpha_interval[0]:.4f} to {law.alpha_interval[1]:.4f}); "
        f"predictions{warned}",
        ("model", "left"),
        ("fit", "left"),
        ("from", "right"),
        ("predicted", "right"),
        ("95 %", "right"),
        ("measured", "right"),
        ("error", "right"),
        ("agrees", "left"),
    )
    for held, group in ((True, study.held_out), (False, study.predictions)):
        for one in group:
            shown.add_row(
                f"{one.model}, held out" if held else one.model,
                one.fit,
                f"{one.fitted} sizes",
                f"{one.pu:.4g}",
                "" if math.isnan(one.low) else f"{one.low:.3g} to {one.high:.3g}",
                "" if one.truth is None else f"{one.truth:.4g}",
                "" if one.relative_error is None else f"{100 * one.relative_error:+.1f} %",
                "" if one.agrees is None else ("yes" if one.agrees else "no"),
            )
    return shown


def forms_table(study: Study) -> Table:
    """The forms by AICc, and the curvature test.

    Args:
        study: what was found.
    """
    bend = study.curvature
    told = "too few sizes for the curvature test" if bend is None else f"curvature: {bend.label}; {bend.reason}"
    shown = _table(
        f"forms of log(−log PU); {told}",
        ("form", "left"),
        ("parameters", "right"),
        ("deviance", "right"),
        ("p", "right"),
        ("AICc", "right"),
    )
    for form in study.forms:
        p_value = "" if form.p_value is None else f"{form.p_value:.2g}"
        aicc = "too few sizes" if form.aicc is None else f"{form.aicc:.1f}"
        shown.add_row(form.name, str(len(form.parameters)), f"{form.deviance:.1f}", p_value, aicc)
    return shown


def _table(title: str, *columns: tuple[str, str]) -> Table:
    shown = Table(title=title, title_justify="left", title_style="bold")
    for name, justify in columns:
        shown.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return shown
