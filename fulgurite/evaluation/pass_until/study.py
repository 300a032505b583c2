"""Everything that is said of one series: scores, the law and its checks, predictions, and a verdict in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from fulgurite.evaluation.pass_until.counts import Counts
from fulgurite.evaluation.pass_until.datasets import Score, scores, sizes_text
from fulgurite.evaluation.pass_until.forms import Curvature, Form, Vote, compare_forms, curvature
from fulgurite.evaluation.pass_until.instances import InstanceFit, predict_instances
from fulgurite.evaluation.pass_until.law import (
    LEAST_SIZES,
    Law,
    Points,
    Prediction,
    fit_law,
    held_out,
    points_of,
    predicted,
)
from fulgurite.evaluation.pass_until.loss import LossFit, predict_by_loss

__all__ = ["Study", "study_of", "verdict_of"]

_REJECTED = 0.05


@dataclass(frozen=True)
class Study:
    """What was found.

    Attributes:
        counts: of all models.
        scores: of all models.
        points: F of all models that have one.
        fitted: names of the models that were fitted.
        law: the line of the task's score; None below three sizes.
        held_out: the largest, and the second largest, of the fitted models predicted from those smaller than it.
        predictions: of models beyond the fitted ones and of sizes that were asked for.
        curvature: the curvature test; None below four sizes.
        forms: the lowest AICc first.
        instances: the law of each instance; None below three sizes, and where the table counts the whole task.
        instances_p: how often chance alone would leave the fitted instances this far from the scores.
        loss: the fit that puts the reference answers' losses in place of passes for hard instances; None without losses.
        verdict: "rejected", "not rejected" or "not tested": whether the law holds for the task's score.
        reasons: of the verdict, in whole sentences.
        notes: what was left out, in whole sentences.
    """

    counts: Counts
    scores: list[Score]
    points: Points
    fitted: tuple[str, ...]
    law: Law | None
    held_out: list[Prediction]
    predictions: list[Prediction]
    curvature: Curvature | None
    forms: list[Form]
    instances: InstanceFit | None
    instances_p: float | None
    loss: LossFit | None
    verdict: Literal["rejected", "not rejected", "not tested"]
    reasons: list[str]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        per_instance = None
        if self.instances is not None:
            alpha = np.exp(self.instances.kappa)
            per_instance = {
                "p_value": self.instances_p,
                "log_c": dict(
                    zip(self.counts.instances, self.instances.gamma + alpha * self.instances.middle, strict=True)
                ),
                "alpha": dict(zip(self.counts.instances, map(float, alpha), strict=True)),
            }
        return {
            "verdict": self.verdict,
            "reasons": self.reasons,
            "notes": self.notes,
            "fitted": list(self.fitted),
            "scores": [score.to_dict() for score in self.scores],
            "law": None if self.law is None else self.law.to_dict(),
            "held_out": [found.to_dict() for found in self.held_out],
            "predictions": [found.to_dict() for found in self.predictions],
            "curvature": None if self.curvature is None else self.curvature.to_dict(),
            "forms": [form.to_dict() for form in self.forms],
            "instances": per_instance,
            "loss": None if self.loss is None else self.loss.to_dict(),
        }


def study_of(
    counts: Counts,
    fit_up_to: float | None = None,
    predict: Mapping[str, float] | None = None,
    vote: Vote = "softmax",
    temperature: float = 1.0,
    repeats: int = 2000,
    instance_repeats: int = 100,
    seed: int = 0,
) -> Study:
    """Studies a series.

    Args:
        counts: the table.
        fit_up_to: models above this size are predicted and compared, not fitted; None fits all.
        predict: further sizes to predict, by name.
        vote: how the two-circuit form weights its circuits.
        temperature: τ of its softmax.
        repeats: of the bootstrap of scores and lines.
        instance_repeats: of the bootstrap of the instances' fit.
        seed: of the bootstraps.

    Raises:
        ValueError: no pass at all, only passes, or no model at or below fit_up_to.
    """
    points = points_of(counts, repeats, seed)
    found = scores(counts, repeats, seed)
    chosen = [i for i, size in enumerate(counts.sizes) if fit_up_to is None or size <= fit_up_to]
    if not chosen:
        smallest = sizes_text([counts.sizes[0]])[0]
        raise ValueError(f"scaling: fit_up_to={fit_up_to:g} is below the smallest size, {smallest}; give a larger one")
    names = tuple(counts.models[i] for i in chosen)
    mine = points.some([i for i, name in enumerate(points.models) if name in names])
    notes = [*counts.notes, *points.notes]
    if len(mine.f) < LEAST_SIZES:
        notes.append(
            f"no law is fitted: {len(mine.f)} sizes have a score between 0 and 1, and a line that can be tested needs {LEAST_SIZES}"
        )
        return Study(
            counts, found, points, names, None, [], [], None, [], None, None, None, "not tested", notes[-1:], notes[:-1]
        )
    law = fit_law(mine)
    bend = curvature(mine)
    targets = {counts.models[i]: float(counts.sizes[i]) for i in range(len(counts.models)) if i not in chosen}
    targets |= dict(predict or {})
    truths = {score.model: (score.pu, score.measurement_error) for score in found}
    own = counts.of_models(chosen)
    predictions = [predicted(law, name, size, points) for name, size in targets.items()]
    held = held_out(mine)
    by_instances, loss = None, None
    if counts.whole:
        predictions, held = ([_of_same_instances(one) for one in some] for some in (predictions, held))
    else:
        by_instances = predict_instances(own, targets, truths, instance_repeats, seed)
        for last in range(len(chosen) - 1, max(LEAST_SIZES, len(chosen) - 2) - 1, -1):
            name = own.models[last]
            less = own.of_models(range(last))
            if less.c.any():
                last_one = {name: float(own.sizes[last])}
                held += predict_instances(less, last_one, truths, instance_repeats, seed).predictions
        loss, more, said = predict_by_loss(own, by_instances.fit, targets, truths)
        predictions += by_instances.predictions + more
        notes += said
    forms = compare_forms(mine, vote, temperature)
    testable = [form.p_value for form in forms if form.p_value is not None]
    if testable and max(testable) < _REJECTED:
        notes.append(
            f"none of the {len(testable)} forms fits within the errors of the points (the best p is {max(testable):.2g}); "
            "AICc only ranks them"
        )
    verdict, reasons = verdict_of(law, bend, [at for at in held if at.fit == "task"])
    if by_instances is not None and by_instances.p_value < _REJECTED:
        reasons.append(
            f"the laws of the instances do not give the measured scores either (deviance {by_instances.deviance:.1f} over "
            f"{len(own.models)} sizes, p = {by_instances.p_value:.3g})"
        )
    return Study(
        counts,
        found,
        points,
        names,
        law,
        held,
        predictions,
        bend,
        forms,
        None if by_instances is None else by_instances.fit,
        None if by_instances is None else by_instances.p_value,
        loss,
        verdict,
        reasons,
        notes,
    )


def _of_same_instances(one: Prediction) -> Prediction:
    """Without the interval by other instances, which counts of a whole task cannot give."""
    return replace(one, task_low=None, task_high=None)


def verdict_of(
    law: Law, bend: Curvature | None, held: Sequence[Prediction]
) -> tuple[Literal["rejected", "not rejected"], list[str]]:
    """Whether the law holds for the task's score: each of the tests has its share of 5 % (Bonferroni), and one is enough.

    Args:
        law: the line.
        bend: the curvature test.
        held: sizes that were held out.
    """
    tests = [
        (
            law.p_value,
            f"the points scatter around the line by more than their errors (deviance {law.deviance:.1f} with "
            f"{len(law.models) - 2} degrees of freedom, p = {law.p_value:.2g})",
        )
    ]
    if bend is not None:
        named = bend.label if bend.label != "none" else ("convex" if bend.value > 0 else "concave")
        tests.append((bend.p_value, f"the points are {named} (p = {bend.p_value:.2g}): {bend.reason}"))
    for one in held:
        if one.p_value is not None:
            told = (
                f"{one.model} held out: {one.pu:.4g} is predicted from {one.fitted} smaller sizes ({one.low:.4g} to "
                f"{one.high:.4g}), {one.truth:.4g} was measured (p = {one.p_value:.2g})"
            )
            tests.append((one.p_value, told))
    against = [told for p_value, told in tests if p_value < _REJECTED / len(tests)]
    if against:
        return "rejected", against
    least = min(p_value for p_value, _ in tests)
    return "not rejected", [f"of {len(tests)} tests the one that speaks most against it has p = {least:.2g}"]
