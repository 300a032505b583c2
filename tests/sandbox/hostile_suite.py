"""The hostile programs: small attacks and accidents in the files of ``hostile/``, each with the results that count as
held.

A file is a list of programs. ``=== name | status/type status/type`` begins one: any of the given results is right, and
a status without a type takes any. ``#honest`` stands for a right answer: such a program passes if, and only if, its
attack fails. Words in braces are filled in: a file and a folder of the machine, a port that is listened on, a number of
seconds that marks a process, namespaces.
"""

import os
import re
import secrets
import socket
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fulgurite.sandbox import Job, Limits, Result, Sandbox, run_many

FOLDER = Path(__file__).parent / "hostile"
TEST = """
SECRET = {3: 1009, 4: [7, "z"], 5: {"k": 2.5}}
METADATA = {"author": "a test"}

def same(a, b):
    return a == b

def check(candidate):
    assert candidate(3) == 1009
    assert same(candidate(4), SECRET[4])
    assert len(candidate(4)) == 2
    assert candidate(5) == {"k": 2.5}
"""
HONEST = 'def solve(x):\n    return {3: 1000 + 9, 4: [7, "z"], 5: {"k": 2.5}}[x]\n'
LIMITS = Limits(seconds=10, memory=512 * 2**20)
LATE = Limits(seconds=1.5, memory=512 * 2**20)  # for programs that never end


@dataclass(frozen=True)
class Program:
    """One hostile program: its file, name, source and the results that are right."""

    kind: str
    name: str
    source: str
    right: tuple[str, ...]

    def limits(self) -> Limits:
        return LATE if "timeout" in self.right else LIMITS

    def held(self, result: Result) -> bool:
        kind = result.failure.type if result.failure else ""
        return any(want in (result.status, f"{result.status}/{kind}") for want in self.right)


def programs(kinds: Iterable[str] | None = None) -> list[Program]:
    """All programs, or those of some files."""
    found = []
    for path in sorted(FOLDER.glob("*.txt")):
        if kinds is not None and path.stem not in kinds:
            continue
        for part in re.split(r"^=== ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            head, _, source = part.partition("\n")
            name, _, right = head.partition("|")
            found.append(Program(path.stem, name.strip(), source, tuple(right.split())))
    return found


class Machine:
    """What a program must not see, reach or leave: a secret file, a listening port, and a count of what there was
    before.
    """

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="hostile-")
        os.chmod(self.folder, 0o755)
        self.file = Path(self.folder, f"secret-{secrets.token_hex(8)}")
        self.file.write_text("1009")
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.setblocking(False)
        self.marker = str(10**6 + secrets.randbelow(10**6))
        self.files = self._files()

    def fill(self, source: str) -> str:
        kinds = ("net", "mnt", "pid", "ipc", "uts")
        words = {
            "secret_file": str(self.file),
            "secret_folder": self.folder,
            "port": str(self.server.getsockname()[1]),
            "marker": self.marker,
            "namespaces": repr({kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}),
            "zeros": "\0" * 100,
            "nested": "(" * 3000 + ")" * 3000,
        }
        source = source.replace("#honest", HONEST)
        for word, text in words.items():
            source = source.replace("{" + word + "}", text)
        return source

    def left(self) -> list[str]:
        """What is there now and was not before: processes with the marker, files, a connection that was made."""
        found = []
        for name in os.listdir("/proc"):
            try:
                command = (
                    Path("/proc", name, "cmdline").read_bytes().decode("utf-8", "replace") if name.isdigit() else ""
                )
            except OSError:
                continue
            if self.marker in command or "hostile-program" in command:
                found.append(f"process {name}: {command}")
        found += sorted(self._files() - self.files)
        try:
            self.server.accept()[0].close()
            found.append("a connection")
        except BlockingIOError:
            pass
        return found

    def close(self) -> None:
        self.server.close()
        self.file.unlink()
        os.rmdir(self.folder)

    @staticmethod
    def _files() -> set[str]:
        folders = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/", "/home", "/etc")
        names = {
            os.path.join(folder, name) for folder in folders if os.path.isdir(folder) for name in os.listdir(folder)
        }
        return {name for name in names if "left-behind" in name or name == "/tmp/ran" or _foreign(name)}


def _foreign(name: str) -> bool:
    """Whether it is shared memory of another user, such as the programs run as; ours may be of a test that runs beside this one."""
    try:
        return name.startswith("/dev/shm/") and os.lstat(name).st_uid != os.getuid()
    except FileNotFoundError:
        return False


def run_programs(
    chosen: list[Program], sandbox: Sandbox, workers: int = 4
) -> tuple[list[tuple[Program, Result]], list[str]]:
    """Run programs; each with its result, and what was left on the machine."""
    machine = Machine()
    os.environ["FULGURITE_HOSTILE_SECRET"] = "1009"
    try:
        jobs = [Job(machine.fill(program.source), TEST, "solve", limits=program.limits()) for program in chosen]
        results = run_many(jobs, workers, sandbox, retry=False)
        return list(zip(chosen, results)), machine.left()
    finally:
        del os.environ["FULGURITE_HOSTILE_SECRET"]
        machine.close()


def report(program: Program, result: Result) -> str:
    """One line about a program that was not held."""
    failure = result.failure
    what = f"{result.status}/{failure.type}: {failure.message[:200]}" if failure else result.status
    return f"{program.kind}: {program.name}: {what} {result.detail[:200]} {result.errors[-300:]}; right: {' '.join(program.right)}"
