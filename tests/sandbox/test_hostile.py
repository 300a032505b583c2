"""The hostile programs: all held, none passes that should not, nothing is left. The quick part takes those that end by
themselves.
"""

import pytest

from fulgurite.sandbox import Sandbox, SandboxError
from tests.sandbox.hostile_suite import Program, programs, report, run_programs

QUICK = ("equality", "forging", "reading")


def check(chosen: list[Program], sandbox: Sandbox, workers: int = 4) -> None:
    done, left = run_programs(chosen, sandbox, workers)
    assert [report(program, result) for program, result in done if not program.held(result)] == []
    assert left == []


def test_there_are_at_least_150_programs_and_names_are_unique() -> None:
    names = [(program.kind, program.name) for program in programs()]
    assert len(names) == len(set(names)) >= 150
    assert all(program.right for program in programs())


@pytest.mark.slow
def test_programs_that_forge_and_read() -> None:
    check(programs(QUICK), Sandbox(quiet=True))


@pytest.mark.slow
def test_programs_that_loop_fill_exit_reach_out_and_stay() -> None:
    check([program for program in programs() if program.kind not in QUICK], Sandbox(quiet=True))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_own_namespaces_hold_too() -> None:
    try:
        box = Sandbox("namespaces", quiet=True)
    except SandboxError as error:
        pytest.skip(str(error))
    kinds = ("exits", "files", "kernel", "leftovers", "memory", "network", "reading")  # judge and values are the same
    check([program for program in programs(kinds) if "timeout" not in program.right], box)
