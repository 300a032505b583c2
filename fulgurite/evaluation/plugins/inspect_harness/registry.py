"""What inspect_ai finds of ours: `--model fulgurite/MODEL`, `--sandbox fulgurite`, and the tasks `fulgurite/NAME`."""

from __future__ import annotations

from typing import Any

from inspect_ai.model import modelapi
from inspect_ai.util import sandboxenv

from fulgurite.evaluation.plugins.inspect_harness.environment import FulguriteSandbox
from fulgurite.evaluation.plugins.inspect_harness.scoring import verdict
from fulgurite.evaluation.plugins.inspect_harness.tasks import INSPECT_TASKS, continue_text

__all__ = ["INSPECT_TASKS", "FulguriteSandbox", "continue_text", "fulgurite", "verdict"]


@modelapi(name="fulgurite")
def fulgurite() -> Any:
    """The class of our models; torch is imported where one is asked for."""
    from fulgurite.evaluation.plugins.inspect_harness.model import FulguriteModel

    return FulguriteModel


sandboxenv(name="fulgurite")(FulguriteSandbox)
