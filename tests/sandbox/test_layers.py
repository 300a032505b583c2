"""Each layer by itself, for root and for a user without rights: what a program sees of the machine, and what the choice
of a layer says.
"""

import os
from typing import Any

import pytest

from fulgurite.sandbox import LAYERS, Limits, Sandbox, SandboxError
from fulgurite.sandbox.layers import bubblewrap
from fulgurite.sandbox.layers.base import other_user
from tests.sandbox.other_user import SYSTEM_PYTHON, USER, run_as_other_user, why_not

FACTS = """
import json, os
def solve():
    status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
    return json.dumps({
        "uid": os.getuid(), "outside": [int(word) for word in open("/proc/self/uid_map").read().split()][:3],
        "root": sorted(os.listdir("/")), "tmp": os.listdir("/tmp"), "pids": sum(name.isdigit() for name in os.listdir("/proc")),
        "capabilities": int(status["CapEff"], 16), "no_new": status["NoNewPrivs"], "filter": status["Seccomp"],
        "namespaces": {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "mnt", "pid", "ipc", "uts", "user")},
        "network": [line.split(":")[0].strip() for line in open("/proc/self/net/dev") if ":" in line],
        "folder": os.getcwd(), "groups": os.getgroups(), "session": os.getsid(0) == os.getpid(),
    })
"""
CONFINED = """
import ctypes, os
def solve():
    ask = ctypes.CDLL(None).prctl
    return (os.getuid(), ask(39, 0, 0, 0, 0), ask(21, 0, 0, 0, 0), os.getsid(0) == os.getpid())
"""
SHOW = "import json\nfacts = json.loads(solve())\nassert facts == {}, facts\n"


def facts_of(record: dict[str, Any]) -> dict[str, Any]:
    assert record["status"] == "failed", record
    return eval(record["failure"]["message"])


def check_isolation(facts: dict[str, Any]) -> None:
    for kind in ("net", "mnt", "pid", "ipc", "uts"):
        assert facts["namespaces"][kind] != os.readlink(f"/proc/self/ns/{kind}"), kind
    assert facts["network"] == ["lo"] and facts["tmp"] == [] and facts["pids"] == 2
    assert not {"home", "root", "var", "work", "mnt", "sys"} & (set(facts["root"]) - {"root"})
    assert facts["capabilities"] == 0 and facts["no_new"] == "1" and facts["filter"] == "2" and facts["session"]


def layer_or_skip(name: str, **options: Any) -> Sandbox:
    try:
        return Sandbox(name, quiet=True, **options)
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["bubblewrap", "namespaces"])
def test_a_layer_shows_nothing_of_the_machine(name: str) -> None:
    result = layer_or_skip(name).run_tests(FACTS, SHOW)
    assert result.layer == name
    facts = facts_of(result.record())
    check_isolation(facts)
    if os.geteuid() == 0:  # another user of the machine itself, in no group of root's
        assert facts["uid"] > 1000 and facts["outside"][1] == 0 and 0 not in facts["groups"]
    else:
        assert facts["namespaces"]["user"] != os.readlink("/proc/self/ns/user")


@pytest.mark.parametrize("name", ["bubblewrap", "namespaces", "limits"])
def test_a_layer_works_for_a_user_without_rights(name: str) -> None:
    if why_not():
        pytest.skip(why_not())
    if name == "limits":  # Landlock keeps the program from /proc
        done = run_as_other_user(name, [CONFINED], f"assert solve() == ({USER}, 1, 2, True)", {"seconds": 5})
        assert [result["status"] for result in done["results"]] == ["passed"], done
        return
    done = run_as_other_user(name, [FACTS], SHOW, {"seconds": 5})
    if "refused" in done:
        pytest.skip(done["refused"])
    facts = facts_of(done["results"][0])
    check_isolation(facts)
    assert facts["outside"][1] in (USER, 0, 1000) and facts["uid"] == 1000
    assert facts["namespaces"]["user"] != os.readlink("/proc/self/ns/user")


def test_limits_only_still_takes_rights_and_calls_away(capsys: pytest.CaptureFixture[str]) -> None:
    box = layer_or_skip("limits", python=SYSTEM_PYTHON)
    assert "sandbox: no namespaces here: programs see this machine's processes" in capsys.readouterr().err
    test = "uid, *rest = solve()\nassert rest == [1, 2, True]\n" + ("assert uid > 1000" if os.geteuid() == 0 else "")
    assert box.run_tests(CONFINED, test).passed
    assert (
        box.run_tests("import os\ndef solve(): os.kill(os.getppid(), 0)", "solve()").failure.type == "PermissionError"
    )  # type: ignore[union-attr]


def test_limits_only_is_refused_for_root_where_another_user_could_not_read_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("fulgurite.sandbox.layers.interpreter.Interpreter.readable_by_others", lambda self: False)
    with pytest.raises(SandboxError, match="not readable for others"):
        Sandbox("limits", quiet=True)


def test_strict_never_takes_limits_only_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, *args: object) -> None:
        raise OSError("no namespaces here")

    for name in ("bubblewrap", "namespaces"):
        monkeypatch.setattr(LAYERS[name], "start", broken)
    with pytest.raises(SandboxError, match="bubblewrap: no namespaces here; namespaces: no namespaces here"):
        Sandbox("strict", quiet=True)


def test_the_next_layer_is_taken_where_one_does_not_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bubblewrap, "find_bwrap", lambda: None)
    try:
        box = Sandbox("auto")
    except SandboxError as error:
        pytest.skip(str(error))
    assert box.layer.name == "namespaces" and "bwrap is not installed" in box.reasons["bubblewrap"]
    assert capsys.readouterr().err == "sandbox: namespaces\n"
    assert box.run_tests("def f(): return 1", "assert f() == 1").layer == "namespaces"


def test_bwrap_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "find_bwrap", lambda: "/bin/false")
    with pytest.raises(SandboxError, match="bubblewrap: the sandbox's first process ended without a report"):
        Sandbox("bubblewrap", quiet=True)


def test_users_numbers_are_new_each_time_and_fit_the_map() -> None:
    if os.geteuid() != 0:
        assert other_user() is None
        return
    numbers = {other_user() for _ in range(20)}
    assert len(numbers) == 20 and all(number is not None and number > 1000 for number in numbers)


def test_installed_packages_are_there_unless_refused() -> None:
    program = "import numpy\ndef f(): return int(numpy.arange(3).sum())"
    assert Sandbox(quiet=True).run_tests(program, "assert f() == 3").passed
    refused = Sandbox(quiet=True, packages=False).run_tests(program, "assert f() == 3", limits=Limits(seconds=5))
    assert refused.failure is not None and refused.failure.type == "ModuleNotFoundError"
