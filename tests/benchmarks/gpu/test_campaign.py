"""The campaign: a piece that hangs or crashes does not stop it, results are on disk after each, what is done is skipped."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import replace

import pytest

from benchmarks.gpu import campaign
from benchmarks.gpu.campaign import Machine, Settings, load_state, run_pieces
from benchmarks.gpu.pieces import Piece

MACHINE = Machine({"device_name": "a device", "versions": {"torch": "1"}})
FIGURES = "import json, sys; json.dump({'workloads': []}, open(sys.argv[1], 'w'))"


def piece(name: str, script: str = FIGURES, seconds: int = 30, **options) -> Piece:
    command = ("{python}", "-c", script, "{figures}")
    fields = {"why": "a test", "decides": "nothing", "code": ("benchmarks/gpu/goals.py",), **options}
    return Piece(name, command=command, toy=command, seconds=seconds, **fields)


def run(pieces, folder, earlier=None, **settings):
    told: list[str] = []
    state = run_pieces(pieces, MACHINE, Settings(folder / "state.json", **settings), earlier, tell=told.append)
    assert json.loads((folder / "state.json").read_text()) == state
    return state, told


@pytest.mark.slow
def test_a_hung_and_a_crashed_piece_do_not_stop_the_campaign(tmp_path):
    """The hung one started a process of its own, which goes with it."""
    noted = tmp_path / "child"
    hang = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(noted)!r}, 'w').write(str(child.pid))\n"
        "print('before it hung', flush=True); time.sleep(600)"
    )
    began = time.monotonic()
    pieces = [piece("hangs", hang, seconds=2), piece("crashes", "import os; os.abort()"), piece("works")]
    state, _ = run(pieces, tmp_path)
    assert time.monotonic() - began < 20
    found = state["pieces"]
    assert [found[name]["status"] for name in ("hangs", "crashes", "works")] == ["timed out", "failed", "done"]
    assert "before it hung" in found["hangs"]["output"] and found["hangs"]["why"] == "it was not done after 2 s"
    assert found["crashes"]["why"] == "exit status -6" and found["works"]["figures"] == {"workloads": []}
    for _ in range(50):  # a killed process may still wait to be reaped
        stat = subprocess.run(["ps", "-o", "stat=", "-p", noted.read_text()], capture_output=True, text=True).stdout
        if not stat.strip() or stat.startswith("Z"):
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"the child of a hung piece lives on: {stat}")


def test_results_are_on_disk_before_the_next_piece_starts(tmp_path):
    file = tmp_path / "state.json"
    reader = f"import json; assert json.load(open({str(file)!r}))['pieces']['first']['status'] == 'done'; {FIGURES}"
    state, _ = run([piece("first"), piece("second", reader)], tmp_path)
    assert state["pieces"]["second"]["status"] == "done"


def test_what_is_done_is_skipped_unless_code_command_or_machine_changed(tmp_path, monkeypatch):
    marks = tmp_path / "marks"
    pieces = [piece(name, f"open({str(marks)!r}, 'a').write({name!r}); {FIGURES}") for name in "ab"]
    failing = piece("c", f"open({str(marks)!r}, 'a').write('c'); raise SystemExit(3)")

    def runs(pieces, earlier, machine=MACHINE):
        marks.write_text("")
        state = run_pieces(pieces, machine, Settings(tmp_path / "state.json"), earlier, tell=lambda line: None)
        return state, marks.read_text()

    state, ran = runs([*pieces, failing], None)
    assert ran == "abc" and state["pieces"]["c"]["why"] == "exit status 3"
    # What failed is tried again.
    assert runs([*pieces, failing], load_state(tmp_path / "state.json"))[1] == "c"
    longer = replace(pieces[1], command=(*pieces[1].command, "another"))
    assert runs([pieces[0], longer], state)[1] == "b"
    assert runs(pieces, state, Machine({**MACHINE.stamp, "device_name": "another device"}))[1] == "ab"
    monkeypatch.setattr(campaign, "code_hash", lambda code: "changed")
    assert runs(pieces, state)[1] == "ab"


def test_a_piece_that_does_not_fit_into_the_budget_is_left_and_a_shorter_one_runs(tmp_path):
    state, told = run([piece("long", seconds=60), piece("short", seconds=5)], tmp_path, budget=20)
    assert list(state["pieces"]) == ["short"] and state["pieces"]["short"]["status"] == "done"
    assert told[0].startswith("long: left out, its 60 s do not fit into the 20 s")


def test_what_a_machine_lacks_is_said(tmp_path):
    state, _ = run([piece("tool", missing=lambda: "the tool is not here")], tmp_path)
    assert state["pieces"]["tool"]["status"] == "cannot run here"
    assert state["pieces"]["tool"]["why"] == "the tool is not here"
    unfound = replace(piece("program"), command=("no-such-program",))
    state, _ = run([unfound], tmp_path)
    assert (
        state["pieces"]["program"]["status"] == "failed" and "could not be started" in state["pieces"]["program"]["why"]
    )


def test_a_wrong_contender_is_a_result_and_is_named(tmp_path):
    row = {"workloads": [{"name": "one", "contenders": {"TRL": {"wrong": True, "why": "error 1"}, "fulgurite": {}}}]}
    script = f"import json, sys; json.dump({row!r}, open(sys.argv[1], 'w')); sys.exit(1)"
    state, _ = run([piece("bench", script)], tmp_path)
    assert state["pieces"]["bench"]["status"] == "done"
    assert state["pieces"]["bench"]["wrong"] == ["one, TRL: error 1"]
    # Without figures an exit status of 0 is none either.
    state, _ = run([piece("silent", "pass")], tmp_path)
    assert state["pieces"]["silent"]["why"] == "it ended well and wrote no figures"


def test_pieces_see_the_checkout_and_their_own_scratch_folder(tmp_path):
    script = (
        "import json, os, sys; import benchmarks; json.dump({'cache': os.environ['FULGURITE_CACHE'],"
        "'offline': os.environ['HF_HUB_OFFLINE'], 'packed': os.environ['PACKED'], 'cwd': os.getcwd()}, open(sys.argv[1], 'w'))"
    )
    state, _ = run([piece("look", script)], tmp_path, environment={"PACKED": "yes"})
    seen = state["pieces"]["look"]["figures"]
    assert seen["offline"] == "1" and seen["packed"] == "yes" and os.path.samefile(seen["cwd"], campaign.ROOT)
    assert not os.path.exists(seen["cache"])


def test_a_file_that_holds_no_campaign_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="leave --resume out"):
        load_state(tmp_path / "nothing.json")
    for text in ("{", "[]", '{"pieces": 3}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match="holds no campaign"):
            load_state(tmp_path / "other.json")
