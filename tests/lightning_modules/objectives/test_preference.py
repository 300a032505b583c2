"""What the preference objective says before the first step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from fulgurite.lightning_modules.objectives.preference import PreferenceObjective
from fulgurite.lightning_modules.reference.model import Reference
from fulgurite.losses import PreferenceLoss
from tests.lightning_modules.reference.test_whole_pass import Base


def prepare(loss, labels):
    """Prepares a run on rows with so many (desirable, undesirable) labels."""
    reports = [SimpleNamespace(split="val", labels=(9, 1)), SimpleNamespace(split="train", labels=labels)]
    trainer = SimpleNamespace(datamodule=SimpleNamespace(reports=lambda: reports))
    PreferenceObjective(loss, Reference(Base()), cache=False).prepare(nn.Linear(1, 1), trainer)


def test_unbalanced_labels_of_the_training_rows_are_warned_of(recwarn):
    with pytest.warns(UserWarning, match=r"30 desirable rows of weight 1 against 10 .*set desirable_weight to between"):
        prepare(PreferenceLoss("kto"), (30, 10))
    recwarn.clear()
    prepare(PreferenceLoss("kto", undesirable_weight=3.0), (30, 10))
    prepare(PreferenceLoss("kto"), (10, 10))
    prepare(PreferenceLoss("nca"), None)
    assert not recwarn.list


def test_data_of_another_kind_is_refused_by_name():
    objective = PreferenceObjective(PreferenceLoss("kto"), Reference(Base()))
    objective.check_data("PreferenceModule", None)
    objective.check_data("PreferenceModule", SimpleNamespace(objective_kind="labels"))
    with pytest.raises(ValueError, match=r"PreferenceModule: kto reads labels, but the datamodule gives pairs\. Give"):
        objective.check_data("PreferenceModule", SimpleNamespace(objective_kind="pairs"))
