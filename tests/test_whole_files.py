"""Files and folders appear whole or not at all: under exceptions, kills, full disks and folders that cannot be written."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fulgurite.whole_files import clear_leftovers, scratch_folder, whole_file, whole_files, whole_folder, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 4 kB: the system refuses the write, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def killed(folder: Path, program: str) -> None:
    """Runs a program that kills itself with the folder as its current one."""
    begin = "import os, signal\nfrom pathlib import Path\nfrom fulgurite import whole_files as w\n"
    code = begin + textwrap.dedent(program)
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, timeout=60)
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()


def test_the_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    with whole_file(file) as scratch:
        scratch.write_text("whole")
        assert not file.exists() and scratch.parent == file.parent and str(os.getpid()) in scratch.name
    assert file.read_text() == "whole" and names(file.parent) == ["a.txt"]
    assert file.stat().st_mode & 0o777 == 0o666 & ~_umask(), "as any other file, not readable by its owner alone"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), KeyboardInterrupt(), SystemExit(143)])
def test_an_exception_leaves_what_stood_there_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(type(error)), whole_file(tmp_path / "a.txt") as scratch:
        scratch.write_text("half")
        raise error
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_text("old")
    with pytest.raises(type(error)), whole_folder(tmp_path / "folder") as scratch:
        (scratch / "half").write_text("half")
        raise error
    assert names(tmp_path) == ["a.txt", "folder"] and names(tmp_path / "folder") == ["kept"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_several_files_take_their_places_together(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("old")
    with pytest.raises(ZeroDivisionError), whole_files(tmp_path, ["one", "two"]) as (one, _):
        one.write_text("new")
        raise ZeroDivisionError
    assert names(tmp_path) == ["one"] and (tmp_path / "one").read_text() == "old"
    with whole_files(tmp_path, ["one", "two"]) as (one, two):
        one.write_text("new")
        two.write_text("new")
    assert names(tmp_path) == ["one", "two"] and (tmp_path / "one").read_text() == "new"


def test_a_folder_replaces_another_whole(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with whole_folder(tmp_path / "out") as scratch:
        (scratch / "deep").mkdir()
        (scratch / "deep" / "new").write_text("new")
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["deep"]


def test_a_folder_that_cannot_be_put_in_place_gives_back_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    replace = Path.replace
    once: list[int] = []

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".part") and not once:
            once.append(1)
            raise PermissionError(13, "Permission denied", str(self))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    told = r"out cannot be written to .* \(Permission denied\); free some space"
    with pytest.raises(PermissionError, match=told), whole_folder(tmp_path / "out") as scratch:
        (scratch / "new").write_text("new")
    assert once and names(tmp_path) == ["out"] and names(tmp_path / "out") == ["old"]


def test_what_killed_processes_left_is_removed_by_the_next(tmp_path: Path) -> None:
    killed(
        tmp_path,
        """
        with w.whole_file("a.txt") as file, w.whole_folder("out") as folder, w.scratch_folder("b") as scratch:
            for path in (file, folder / "x", scratch / "x"):
                path.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert len(names(tmp_path)) == 3 and all(name.endswith(".part") for name in names(tmp_path))
    foreign = tmp_path / ".a.txt.abcdef-1-0.part"
    foreign.write_text("of another machine")
    write_text(tmp_path / "a.txt", "whole")
    with whole_folder(tmp_path / "out"), scratch_folder(tmp_path / "b"):
        pass
    assert names(tmp_path) == [foreign.name, "a.txt", "out"]


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    program = (
        "from fulgurite.whole_files import whole_file\n"
        "with whole_file('a') as s:\n s.write_text('1')\n print(1, flush=True)\n input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "1\n"
    with whole_file(tmp_path / "a") as outer, whole_file(tmp_path / "a") as inner:
        outer.write_text("2")
        inner.write_text("3")
        assert len(names(tmp_path)) == 3
    assert (tmp_path / "a").read_text() == "2"
    other.communicate("\n", timeout=60)
    assert other.returncode == 0 and names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "1"


def test_a_folder_comes_back_whose_replacement_was_killed_half_way(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    killed(
        tmp_path,
        """
        def stop(scratch, target):
            os.kill(os.getpid(), signal.SIGKILL)
        replace = Path.replace
        Path.replace = lambda self, target: stop(self, target) if self.name.endswith(".part") else replace(self, target)
        with w.whole_folder("out") as scratch:
            (scratch / "new").write_text("new")
        """,
    )
    assert not (tmp_path / "out").exists()
    clear_leftovers(tmp_path / "out")
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["old"]


@pytest.mark.parametrize("writer", ["text", "stream", "safetensors", "torch"])
def test_a_full_disk_is_one_sentence(tmp_path: Path, full_disk: None, writer: str) -> None:
    (tmp_path / "a").write_text("old")
    tensor = torch.zeros(100_000)
    with (
        pytest.raises(
            OSError, match=r"^a cannot be written to .*; free some space, or give a folder that can be written$"
        ),
        whole_file(tmp_path / "a") as scratch,
    ):
        if writer == "text":
            scratch.write_text("x" * 10_000)
        elif writer == "stream":
            with open(scratch, "w") as stream:
                stream.write("x" * 10_000)
        elif writer == "safetensors":
            save_file({"a": tensor}, scratch)
        else:
            torch.save(tensor, scratch)
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = r"^the rows cannot be written to .*file/deep \(Not a directory\); set it$"
    with pytest.raises(OSError, match=told), whole_file(tmp_path / "file" / "deep" / "a", "the rows", "set it"):
        raise AssertionError("never reached")


def test_errors_of_other_files_keep_their_own_words(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No such file"), whole_file(tmp_path / "a"):
        open(tmp_path / "input")  # noqa: SIM115
    with pytest.raises(ValueError, match=r"^mine$"), whole_file(tmp_path / "a"):
        raise ValueError("mine")


def test_long_names(tmp_path: Path) -> None:
    write_text(tmp_path / ("x" * 255), "whole")
    assert names(tmp_path) == ["x" * 255]
