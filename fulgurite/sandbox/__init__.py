"""Running generated programs: candidate and test in separate processes, each shut off from the machine and from each
other.
"""

from .languages import LANGUAGES, available
from .layers import LAYERS
from .limits import Limits
from .pool import Job, run_many
from .results import STATUSES, Failure, Result, SandboxError
from .running import Sandbox, run_tests
from .workspaces import Workspace, WorkspaceGone

__all__ = [
    "LANGUAGES",
    "LAYERS",
    "STATUSES",
    "Failure",
    "Job",
    "Limits",
    "Result",
    "Sandbox",
    "SandboxError",
    "Workspace",
    "WorkspaceGone",
    "available",
    "run_many",
    "run_tests",
]
