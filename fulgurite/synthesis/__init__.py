"""Making data: preference trees, annotation by a judge, and what goes around them. No Lightning in here."""

from fulgurite.synthesis import steps
from fulgurite.synthesis.recipe import Recipe, read_recipe
from fulgurite.synthesis.running import Ran, run_recipe
from fulgurite.synthesis.step import STEPS, Step, register

__all__ = ["STEPS", "Ran", "Recipe", "Step", "read_recipe", "register", "run_recipe", "steps"]
