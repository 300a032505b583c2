"""Starting Python programs from tests without paying for their imports each time."""

from tests.forking.client import Forked, popen, run

__all__ = ["Forked", "popen", "run"]
