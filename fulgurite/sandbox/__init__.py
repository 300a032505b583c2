"""Running generated programs: candidate and test in separate processes, each shut off from the machine and from each other."""

from .limits import Limits
from .results import STATUSES, Failure, Result, SandboxError
from .running import Sandbox, run_tests

__all__ = ["STATUSES", "Failure", "Limits", "Result", "Sandbox", "SandboxError", "run_tests"]
