"""A sandbox that stays: files persist between commands, nothing gets out, and whatever a command does, the next one runs or says
that the workspace is gone.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fulgurite.sandbox import Limits, Sandbox, SandboxError
from fulgurite.sandbox.workspaces import Workspace, WorkspaceGone
from tests.sandbox.test_layers import layer_or_skip

MIB = 2**20
SMALL = Limits(disk=8 * MIB, file_size=4 * MIB, files=64, memory=512 * MIB, processes=16)


@pytest.fixture(scope="module", params=["bubblewrap", "namespaces"])
def box(request: pytest.FixtureRequest) -> Sandbox:
    return layer_or_skip(request.param)


@pytest.fixture
def place(box: Sandbox) -> Iterator[Workspace]:
    with Workspace(box, SMALL) as made:
        yield made


def sh(place: Workspace, line: str, **options: Any) -> str:
    ended = place.run(["sh", "-c", line], **options)
    assert ended.code == 0 and not ended.reason, ended
    return ended.out.decode()


def test_files_persist_and_are_its_own(box: Sandbox, place: Workspace) -> None:
    place.write("a/b.txt", b"one\r\ntwo\xff")
    assert place.read("a/b.txt") == b"one\r\ntwo\xff" == place.run(["cat", "a/b.txt"]).out
    sh(place, "echo three > c; cd a; pwd > ../d")
    assert (place.read("c"), place.read("/tmp/d")) == (b"three\n", b"/tmp/a\n")
    place.write("c", b"x")
    assert place.read("c") == b"x"
    with Workspace(box, SMALL) as other:
        assert sh(other, "ls -A") == ""
        assert not Path("/tmp/c").exists() and not Path("/tmp/a/b.txt").exists()


def test_how_commands_end(place: Workspace) -> None:
    assert place.run(["sh", "-c", "cat; echo err >&2; exit 7"], b"in\x00\n").__dict__ == {
        "code": 7, "out": b"in\x00\n", "err": b"err\n", "reason": "", "cut": False,
    }  # fmt: skip
    assert place.run(["sh", "-c", "kill -TERM $$"]).code == 143
    missing = place.run(["no-such-command"])
    assert (missing.code, missing.err) == (127, b"no-such-command: command not found\n")
    assert sh(place, "echo $A$HOME; pwd", cwd="/usr/bin", env={"A": "b"}) == "b/tmp\n/usr/bin\n"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        place.run(["ls"], cwd="nowhere")
    place.write("text", b"no program")
    with pytest.raises(PermissionError):
        place.run(["./text"])
    with pytest.raises(ValueError, match="command is empty"):
        place.run([])
    with pytest.raises(OSError, match="Invalid argument"):
        place.run(["echo", "a\0b"])


def test_python_is_the_sandboxs_own_and_has_no_network(place: Workspace) -> None:
    told = place.run(
        ["python3", "-c", "import sys, numpy; print(sys.version_info[:2]); import socket; socket.socket()"]
    )
    assert told.code == 1 and b"PermissionError" in told.err
    assert told.out.decode().strip() == str(sys.version_info[:2])
    assert sh(place, "grep -c : /proc/self/net/dev") == "1\n"  # the loopback device alone, which is down


def test_files_that_are_none(place: Workspace) -> None:
    sh(
        place,
        "mkfifo pipe; ln -s /etc link; ln -s ../../../../root outside; mkdir folder; touch locked; chmod 0 locked",
    )
    for path, error in {
        "nothing": FileNotFoundError, "folder": IsADirectoryError, "link": IsADirectoryError, "locked": PermissionError,
        "outside/.bashrc": OSError, "pipe": OSError, "/dev/zero": OSError, "a\0b": OSError,
    }.items():  # fmt: skip
        begun = time.monotonic()
        with pytest.raises(error):
            place.read(path)
        assert time.monotonic() - begun < 5  # a pipe or a device would never end
    for path in ("folder", "locked", "pipe", "/usr/x", "/sandbox/inside/start.py"):
        with pytest.raises(OSError):
            place.write(path, b"x")
    assert sh(place, "ls") == "folder\nlink\nlocked\noutside\npipe\n"


def test_a_link_to_this_machines_files_leads_to_nothing(place: Workspace, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("kept")
    sh(place, f"ln -s {secret} way; ln -s /etc/passwd users")
    for name in ("way", "users"):
        with pytest.raises(FileNotFoundError):
            place.read(name)
    with pytest.raises(OSError):
        place.write("way", b"lost")
    assert secret.read_text() == "kept"


def test_time_output_and_a_stop_end_a_command_with_all_its_children(place: Workspace) -> None:
    line = ["sh", "-c", "setsid sleep 1000 & sleep 1000 & sleep 1000"]
    begun = time.monotonic()
    assert place.run(line, seconds=0.5).reason == "timeout"
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    assert place.run(line, stopped=stop.is_set).reason == "stopped"
    assert place.run(["true"], stopped=stop.is_set).reason == "stopped"
    loud = place.run(["yes"], most=1000)
    assert (loud.cut, loud.out) == (True, b"y\n" * 500)  # ended by whichever limit it meets first
    slow = place.run(["sh", "-c", "while :; do echo y; sleep 0.01; done"], most=20)
    assert (slow.reason, slow.cut, slow.out) == ("output", True, b"y\n" * 10)
    assert place.run(["sh", "-c", "setsid sleep 1000 & echo left"]).out == b"left\n"
    assert time.monotonic() - begun < 20
    left = [line for line in sh(place, "ps aux").splitlines() if "sleep" in line and "defunct" not in line]
    assert left == []
    assert sh(place, "echo fine") == "fine\n"


def test_sizes(place: Workspace) -> None:
    assert place.run(["wc", "-c"], b"a" * (3 * MIB)).out == f"{3 * MIB}\n".encode()
    place.write("large", b"b" * (3 * MIB))
    assert place.read("large", 3 * MIB) == b"b" * (3 * MIB)
    assert place.read("large", 3 * MIB - 1) is None
    with pytest.raises(OSError, match=f"a file may have {4 * MIB}"):
        place.write("larger", b"c" * (4 * MIB + 1))
    place.write("second", b"b" * (4 * MIB))
    with pytest.raises(OSError, match="No space left"):
        place.write("third", b"b" * (4 * MIB))
    sh(place, "rm third")
    with pytest.raises(OSError, match="No space left"):
        place.run(["wc", "-c"], b"a" * (3 * MIB))  # never a part of the input without a word
    sh(place, "rm *")
    assert place.run(["sh", "-c", "head -c 5000000 /dev/zero > x"]).code != 0


KILLS = "import os; os.kill(os.getppid(), 9)"
MANY_FILES = "import os, time\nfor i in range(90):\n    os.makedirs(f'{i % 9}/{i}')\ntime.sleep(9)"
MUCH_MEMORY = """
import os, time
for _ in range(3):
    if not os.fork():
        kept = b"x" * 300_000_000
        time.sleep(9)
time.sleep(9)
"""


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (KILLS, "its process has ended with -9"),
        (MANY_FILES, "more files than they may"),
        (MUCH_MEMORY, "more memory than they may"),
    ],
)
def test_programs_that_end_the_workspace(place: Workspace, program: str, why: str) -> None:
    if program == MANY_FILES and place.layer == "namespaces":  # there the file system itself refuses them
        assert b"No space left" in place.run(["python3", "-c", program]).err
        return
    with pytest.raises(WorkspaceGone, match=why):
        place.run(["python3", "-c", program], seconds=8)
    with pytest.raises(WorkspaceGone, match="it is closed"):
        place.read("x")
    assert place._box.process.poll() is not None


def test_a_process_that_halts_the_workspace_is_found_out(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fulgurite.sandbox.workspaces._GRACE", 0.5)
    with pytest.raises(WorkspaceGone):
        place.run(["python3", "-c", "import os, time; os.kill(os.getppid(), 19); time.sleep(9)"], seconds=1)


def test_the_workspaces_own_process_cannot_be_read(place: Workspace) -> None:
    told = place.run(["sh", "-c", "cat /proc/$PPID/mem; ls /proc/$PPID/fd; cat /proc/$PPID/environ"])
    assert told.code != 0 and told.out == b"" and told.err.count(b"ermission denied") == 3


def test_closing_leaves_nothing(box: Sandbox) -> None:
    before = set(os.listdir("/proc/self/fd"))
    place = Workspace(box, SMALL)
    process = place._box.process
    place.run(["sh", "-c", "echo x > y"])
    place.close()
    place.close()
    assert process.poll() is not None and set(os.listdir("/proc/self/fd")) == before


def test_limits_only_hold_no_workspace(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(box.layer), "isolates", False)
    with pytest.raises(SandboxError, match="keeps no files apart"):
        Workspace(box)
