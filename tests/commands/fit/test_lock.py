"""A run folder belongs to one fit at a time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fulgurite.commands.fit.lock import RunLock

HOLD = """
import sys
from pathlib import Path
from fulgurite.commands.fit.lock import RunLock
lock = RunLock()
lock.take(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_run_is_refused_until_the_first_has_ended_or_died(tmp_path):
    folder = tmp_path / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    mine = RunLock()
    with pytest.raises(ValueError, match=rf"process {other.pid} is training in .*default_root_dir"):
        mine.take(folder)
    other.kill()
    other.communicate()
    mine.take(folder)
    mine.take(folder)  # it is held already
    with pytest.raises(ValueError, match="is training in"):
        RunLock().take(folder)
    mine.release()
    third = RunLock()
    third.take(folder)
    third.release()


def test_a_folder_that_cannot_be_made_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    told = r"the run cannot be written to .*file/run \(Not a directory\); give --trainer.default_root_dir a folder"
    with pytest.raises(OSError, match=told):
        RunLock().take(tmp_path / "file" / "run")
