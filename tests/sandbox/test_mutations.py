"""Every protective measure is needed: with it switched off, or its line of code changed, a hostile program gets a wrong result.

A mutation is the name of a measure that the sandbox leaves out, or an edit of the copied code that runs inside. Beside it stand
the programs that notice. The unchanged sandbox holds all programs (test_hostile.py), here also in the layers that are tried
as a user without rights.
"""

import copy
import os
import signal
from pathlib import Path

import pytest

from fulgurite.sandbox import LAYERS, Sandbox, SandboxError
from fulgurite.sandbox.layers.base import other_user
from fulgurite.sandbox.layers.bubblewrap import find_bwrap
from tests.sandbox.hostile_suite import LIMITS, TEST, Machine, Program, programs, run_programs
from tests.sandbox.other_user import SYSTEM_PYTHON, run_as_other_user, why_not

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

LEFT_OUT: list[tuple[str, str, str]] = [  # layer, measure, the program that notices
    ("bubblewrap", "uid", "not the machine's root"),
    ("bubblewrap", "seccomp", "a filter is in force"),
    ("bubblewrap", "network", "see the machine's network"),
    ("bubblewrap", "queues space", "the same network as the machine"),
    ("bubblewrap", "disk", "many large files"),
    ("bubblewrap", "files", "many small files"),
    ("bubblewrap", "memory", "a mapping beyond memory"),
    ("bubblewrap", "total_memory", "many children with a little memory each"),
    ("bubblewrap", "cpu", "every limit is in force"),
    ("bubblewrap", "processes", "every limit is in force"),
    ("bubblewrap", "core", "every limit is in force"),
    ("bubblewrap", "file_size", "a huge sparse file"),
    ("bubblewrap", "open_files", "many open files"),
    ("bubblewrap", "allow socket", "listen"),
    ("bubblewrap", "allow memfd_create", "a file in memory"),
    ("bubblewrap", "allow shmget", "memory by a system call of old"),
    ("bubblewrap", "allow process_vm_readv", "read another process's memory"),
    ("bubblewrap", "allow perf_event_open", "performance counters"),
    ("bubblewrap", "allow pidfd_getfd", "another process's files"),
    ("namespaces", "mounts", "see the caller's file"),
    ("namespaces", "network", "see the machine's network"),
    ("namespaces", "queues space", "the same network as the machine"),
    ("namespaces", "hostname", "the same network as the machine"),
    ("namespaces", "capabilities", "no rights"),
    ("namespaces", "disk", "many large files"),
    ("namespaces", "seccomp", "a file in memory"),
]
AS_OTHER_USER: list[tuple[str, str, str]] = [  # several measures with a comma: each is enough
    ("bubblewrap", "dumpable", "read the first process's memory"),
    ("namespaces", "dumpable", "read the first process's files"),
    ("namespaces", "network", "see the machine's network"),
    ("limits", "landlock", "see users and passwords"),
    ("limits", "signals,landlock", "kill the parent"),
    ("limits", "processes", "every limit is in force"),
]
EDITS: list[tuple[str, str, str, str]] = [  # file, its code, what that becomes, the program that notices
    ("remote.py", "raise self._refuse(f\"comparing", "return self._ask('get', self, '__eq__')(other)\n        (f\"comparing",
     "an object that equals everything"),
    ("wire.py", "self.value(_plain_value(plain, item), depth)\n            return", "pass", "an int that equals everything"),
    ("judge.py", "if not hasattr(builtins, name)", "if True", "name functions like builtins"),
    ("wire.py", "MAX_MESSAGE = 16 * 2**20", "MAX_MESSAGE = 2**30", "a text of forty megabytes"),
    ("remote.py", "if issubclass(base_class, _ENDINGS):", "if False:", "stop an iteration"),
    ("start.py", "        os.close(control)\n", "", "nothing is open but the line"),
    ("watching.py", "reason = reason or _over(config)", "pass", "many children with a little memory each"),
]  # fmt: skip
BY_NAME: dict[str, Program] = {program.name: program for program in programs()}
LOOP = "\ndef check(candidate):\n    for value in map(candidate, [3, 4]):\n        assert value == 1009\n"


@pytest.fixture(scope="module")
def box() -> Sandbox:
    return Sandbox("strict", quiet=True)


def by_other_user(layer: str, name: str, without: tuple[str, ...]) -> bool:
    """Whether a program is held in a layer that a user without rights starts."""
    machine = Machine()
    try:
        limits = {"seconds": LIMITS.seconds, "memory": LIMITS.memory}
        done = run_as_other_user(layer, [machine.fill(BY_NAME[name].source)], TEST, limits, without)
    finally:
        machine.close()
    if "refused" in done:
        pytest.skip(done["refused"])
    record = done["results"][0]
    kind = (record["failure"] or {"type": ""})["type"]
    return any(want in (record["status"], f"{record['status']}/{kind}") for want in BY_NAME[name].right)


@pytest.mark.parametrize(("layer", "measure", "name"), LEFT_OUT)
def test_a_measure_that_is_left_out_is_noticed(box: Sandbox, layer: str, measure: str, name: str) -> None:
    if measure == "uid" and other_user() is None:
        pytest.skip("only root can become another user")
    if layer == "bubblewrap" and find_bwrap() is None:
        pytest.skip("bwrap is not installed")
    held = []
    for without in (frozenset[str](), frozenset({measure})):
        changed = copy.copy(box)
        changed.layer = LAYERS[layer](box.interpreter, without)
        [(program, result)], _ = run_programs([BY_NAME[name]], changed)
        held.append(program.held(result))
    assert held == [True, False], result


@pytest.mark.parametrize(("layer", "measure", "name"), AS_OTHER_USER)
def test_a_measure_is_noticed_by_a_user_without_rights(layer: str, measure: str, name: str) -> None:
    if why_not():
        pytest.skip(why_not())
    assert by_other_user(layer, name, ())
    assert not by_other_user(layer, name, tuple(measure.split(",")))


@pytest.mark.parametrize(("file", "old", "new", "name"), EDITS)
def test_a_changed_line_is_noticed(box: Sandbox, file: str, old: str, new: str, name: str) -> None:
    program, test = BY_NAME[name], LOOP if name == "stop an iteration" else TEST
    path = Path(box.interpreter.bundle, "inside", file)
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
    held = []
    machine = Machine()
    try:
        for code in (text, text.replace(old, new)):
            path.write_text(code)
            result = box.run_tests(machine.fill(program.source), test, "solve", limits=program.limits())
            held.append(program.held(result))
    finally:
        path.write_text(text)
        machine.close()
    assert held == [True, False]


def test_what_is_left_behind_under_limits_only_is_ended_by_us() -> None:
    """Without a process space of its own nothing but our own search ends a program's children."""
    try:
        box = Sandbox("limits", python=SYSTEM_PYTHON, quiet=True)
    except SandboxError as error:
        pytest.skip(str(error))
    chosen = [
        program for program in programs(["leftovers"]) if program.right == ("passed",) and "pool" not in program.name
    ]
    done, left = run_programs(chosen, box)
    assert [program.name for program, result in done if not result.passed] == []
    assert left == []
    box.layer = LAYERS["limits"](box.interpreter, frozenset({"leftovers"}))
    machine = Machine()
    try:
        box.run_tests(machine.fill(BY_NAME["a process in the background"].source), TEST, "solve")
        [process] = machine.left()
        assert machine.marker in process
        os.kill(int(process.split()[1].rstrip(":")), signal.SIGKILL)
    finally:
        machine.close()
