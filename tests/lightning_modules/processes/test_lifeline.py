"""Each process of a run learns why it ends; here the processes are threads, and the store is a dictionary."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fulgurite.lightning_modules.processes.lifeline import Lifeline


class Store(dict[str, str]):
    """A value that is not there yet is waited for."""

    def set(self, key: str, value: str) -> None:
        self[key] = value

    def get(self, key: str) -> bytes:  # type: ignore[override]
        while key not in self:
            time.sleep(0.005)
        return self[key].encode()


class Run:
    """The lifelines of four processes, all connected, and what each has learned."""

    def __init__(self) -> None:
        store, self.learned = Store(), [queue.Queue[str]() for _ in range(4)]
        self.lines = [Lifeline(rank, 4, "127.0.0.1", self.learned[rank].put) for rank in range(4)]
        self.threads = [threading.Thread(target=line.begin, args=(store, "run"), daemon=True) for line in self.lines]
        for thread in self.threads:
            thread.start()
        for line in self.lines:
            assert line._whole.wait(5)

    def heard(self, rank: int) -> str:
        return self.learned[rank].get(timeout=5)

    def end(self, rank: int) -> None:
        """What the system does with the sockets of a process that is killed."""
        self.lines[rank]._closed = True  # its thread, which lives on here, has nothing to say any more
        for peer in [*self.lines[rank]._peers]:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def run() -> Iterator[Run]:
    made = Run()
    yield made
    for line in made.lines:
        line.close()
    for thread in made.threads:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("raises", [0, 2])
def test_the_others_learn_who_raised_what(run: Run, raises: int) -> None:
    run.lines[raises].tell("ValueError: row 17 has no label")
    for rank in {0, 1, 2, 3} - {raises}:
        heard = run.heard(rank)
        assert heard.startswith(f"process {raises} of 4 (pid ")
        assert heard.endswith(") ended the run: ValueError: row 17 has no label")
    assert run.learned[raises].empty(), "it knows"


@pytest.mark.parametrize("killed", [0, 3])
def test_a_process_that_was_killed_is_named(run: Run, killed: int) -> None:
    run.end(killed)
    for rank in {0, 1, 2, 3} - {killed}:
        heard = run.heard(rank)
        assert heard.startswith(f"process {killed} of 4 (") and "ended without a word: it was killed" in heard


def test_only_the_first_cause_counts(run: Run) -> None:
    run.lines[1].tell("first")
    assert run.heard(3).endswith("first")
    run.lines[3].tell("second, because of the first")
    assert run.heard(2).endswith("first") and run.heard(0).endswith("first")
    time.sleep(0.1)
    assert all(heard.empty() for heard in run.learned)


def test_who_finishes_earlier_is_not_missed(run: Run) -> None:
    for rank in (2, 0):
        run.lines[rank].close()
        run.end(rank)
    time.sleep(0.1)
    assert all(heard.empty() for heard in run.learned)


def test_a_long_cause_is_cut_and_strange_letters_survive(run: Run) -> None:
    run.lines[2].tell("é\n" * 5000)
    heard = run.heard(1)
    assert len(heard) == 2000 and heard.count("é\n") > 900


def test_a_stranger_cannot_end_the_run() -> None:
    store, learned = Store(), queue.Queue[str]()
    line: Any = Lifeline(0, 2, "127.0.0.1", learned.put)
    threading.Thread(target=line.begin, args=(store, "run"), daemon=True).start()
    port, _ = json.loads(store.get("run"))
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
        stranger.sendall(b'wrong somebody\n{"cause": "nonsense"}\n')
        with contextlib.suppress(ConnectionResetError):  # a refusal, with lines that were not read
            assert stranger.recv(1) == b"", "hung up"
    assert not line._whole.is_set() and learned.empty()
    line.close()
