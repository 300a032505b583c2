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
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Interpreter"]

_INSIDE = Path(__file__).parent.parent / "inside"
_ASK = """import json, os, sys, sysconfig
print(json.dumps([os.path.realpath(sys.executable), sys.base_prefix, sysconfig.get_paths()["purelib"]]))"""


class Interpreter:
    """A Python for judges and candidates.

    Args:
        python: its executable; None: the one that runs this.
        packages: names of installed packages that programs may import; nothing else of its site-packages is shown, since
            task sets with their solutions are installed there too.
    """

    def __init__(self, python: str | None = None, packages: Sequence[str] = ("numpy",)) -> None:
        told = subprocess.run([python or sys.executable, "-c", _ASK], capture_output=True, text=True, check=True)
        self.executable, self.prefix, site = json.loads(told.stdout)
        self.site = site
        shown = [f"{site}/{name}{end}" for name in packages for end in ("", ".libs", ".py")]
        self.packages = [path for path in shown if os.path.exists(path)]
        folder = tempfile.mkdtemp(prefix="fulgurite-sandbox-")
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.bundle, self.root = f"{folder}/code", f"{folder}/root"  # the root: empty, for a private one to be built on
        for path in (folder, self.bundle, self.root):
            os.makedirs(path, exist_ok=True)
            os.chmod(path, 0o755)
        inside = f"{self.bundle}/inside"
        shutil.copytree(_INSIDE, inside, ignore=shutil.ignore_patterns("__pycache__"))
        for folder, _, names in os.walk(inside):
            os.chmod(folder, 0o755)
            for name in names:
                os.chmod(os.path.join(folder, name), 0o644)
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
