"""The Python of a sandbox, and the folder with the code that runs inside: copied out of the package, compiled, readable
for other users.
"""

import compileall
import json
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

__all__ = ["Interpreter"]

_INSIDE = Path(__file__).parent.parent / "inside"
_ASK = """import json, os, sys, sysconfig
print(json.dumps([os.path.realpath(sys.executable), sys.base_prefix, sysconfig.get_paths()["purelib"]]))"""


class Interpreter:
    """A Python for judges and candidates.

    Args:
        python: its executable; None: the one that runs this.
        packages: whether programs may import what is installed for it.
    """

    def __init__(self, python: str | None = None, packages: bool = True) -> None:
        told = subprocess.run([python or sys.executable, "-c", _ASK], capture_output=True, text=True, check=True)
        self.executable, self.prefix, site = json.loads(told.stdout)
        self.packages = site if packages and os.path.isdir(site) else ""
        self.bundle = tempfile.mkdtemp(prefix="fulgurite-sandbox-")
        self._remove = weakref.finalize(self, shutil.rmtree, self.bundle, ignore_errors=True)
        os.mkdir(f"{self.bundle}/root")  # an empty folder for another root to be built on
        os.chmod(self.bundle, 0o755)
        inside = f"{self.bundle}/inside"
        shutil.copytree(_INSIDE, inside, ignore=shutil.ignore_patterns("__pycache__"))
        for path in [inside, *(entry.path for entry in os.scandir(inside))]:
            os.chmod(path, 0o755 if os.path.isdir(path) else 0o644)
        if python is None:
            compileall.compile_dir(inside, quiet=2)
        else:
            subprocess.run([python, "-m", "compileall", "-q", inside], check=False)

    def command(self, executable: str, bundle: str, control: int) -> list[str]:
        """The first process's command line. ``-s -S``: nothing of the user's or of site-packages' runs at its start."""
        code = f"import sys; sys.path[0] = {bundle!r}; from inside.start import main; main({control})"
        return [executable, "-s", "-S", "-c", code]

    def readable_by_others(self) -> bool:
        """Whether another user can read the standard library: every folder above it is open to all."""
        library = Path(self.prefix, "lib")
        return all(path.stat().st_mode & 1 for path in [library, *library.parents])
