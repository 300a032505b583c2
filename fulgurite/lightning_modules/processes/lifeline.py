"""A connection from each process of a run to process 0 that carries one thing: why the run ends.

Adding gradients up, or a barrier, waits for all processes. That one of them has gone is told by gloo as a broken connection, and by
NCCL not at all before its time-out. So each process keeps a socket open to process 0, which hands on what comes in: a process
that raises sends the error, one that finishes says goodbye, and where a socket closes without a goodbye its process was killed.
The system closes the socket whatever the process was doing; where a whole machine is lost, TCP's keep-alive notices in half a
minute. A process that is only stopped keeps its socket open: what ends the run then is the time-out of the process group.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Lifeline"]

_WAIT = 10.0  # seconds in which all processes of a run are to be connected
_LIMIT, _CAUSE = 1 << 14, 2000  # bytes of a message, letters of a cause
_KEEP_ALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))  # seconds, seconds, tries


class Store(Protocol):
    """What the processes of a run find each other by, such as torch's TCPStore."""

    def set(self, key: str, value: str) -> Any:
        """Write a value that all processes can read."""

    def get(self, key: str) -> bytes:
        """The value, which is waited for."""


class Lifeline:
    """The connection of one process.

    Args:
        rank: of this process.
        world: number of processes.
        address: host of process 0 as the others reach it.
        learn: called once, in a thread of its own, with a sentence that says which other process ended and why.
    """

    def __init__(self, rank: int, world: int, address: str, learn: Callable[[str], None]) -> None:
        self.rank, self.world, self.address = rank, world, address
        self._learn = learn
        self._peers: dict[socket.socket, str] = {}  # who is at the other end, in words
        self._whole = threading.Event()  # all connections stand, or could not be made
        self._told = self._closed = False
        self._lock = threading.Lock()

    @property
    def me(self) -> str:
        """This process, in words."""
        return f"process {self.rank} of {self.world} (pid {os.getpid()} on {socket.gethostname()})"

    def begin(self, store: Store, key: str) -> None:
        """Connect, and listen until the end. The caller gives it a thread.

        Args:
            store: that all processes share.
            key: of process 0's address there; another one for each run.

        Raises:
            OSError: process 0 cannot be reached.
        """
        try:
            if self.rank == 0:
                self._serve(store, key)
            else:
                self._join(store, key)
        finally:
            self._whole.set()

    def tell(self, cause: str) -> None:
        """Say why this process ends; only the first cause of a run counts. Waits until all processes can hear it."""
        self._whole.wait(_WAIT)
        with self._lock:
            self._closed = True  # what comes back from now on is an echo
        self._send({"cause": f"{self.me} ended the run: {cause}"[:_CAUSE]})

    def close(self) -> None:
        """Say goodbye: this process has finished its part."""
        with self._lock:
            self._closed = True
        self._send({"goodbye": True})

    def _serve(self, store: Store, key: str) -> None:
        local = self.address in ("127.0.0.1", "localhost", "::1")
        listener = socket.create_server(("127.0.0.1" if local else "", 0))
        token = secrets.token_hex(16)
        store.set(key, json.dumps([listener.getsockname()[1], token]))
        with selectors.DefaultSelector() as selector, listener:
            selector.register(listener, selectors.EVENT_READ)
            while len(self._peers) < self.world - 1 and not self._closed:
                for ready, _ in selector.select(timeout=1.0):
                    if ready.fileobj is listener:
                        self._accept(listener, token, selector)
                    else:
                        self._hear(ready.fileobj, selector)
            self._whole.set()
            selector.unregister(listener)
            self._listen(selector)

    def _accept(self, listener: socket.socket, token: str, selector: selectors.BaseSelector) -> None:
        peer, _ = listener.accept()
        peer.settimeout(_WAIT)
        given, _, name = _line(peer).partition(" ")
        if not secrets.compare_digest(given, token):  # somebody who is not of this run
            peer.close()
            return
        _keep_alive(peer)
        self._peers[peer] = name
        selector.register(peer, selectors.EVENT_READ)

    def _join(self, store: Store, key: str) -> None:
        port, token = json.loads(store.get(key))
        peer = socket.create_connection((self.address, int(port)), timeout=_WAIT)
        _keep_alive(peer)
        peer.sendall(f"{token} {self.me}\n".encode())
        self._peers[peer] = f"process 0 of {self.world} (on {self.address})"
        self._whole.set()
        with selectors.DefaultSelector() as selector:
            selector.register(peer, selectors.EVENT_READ)
            self._listen(selector)

    def _listen(self, selector: selectors.BaseSelector) -> None:
        while selector.get_map():
            for ready, _ in selector.select():
                self._hear(ready.fileobj, selector)

    def _hear(self, peer: Any, selector: selectors.BaseSelector) -> None:
        text = _line(peer)
        message = json.loads(text) if text else {}
        if not message.get("goodbye"):
            lost = (
                f"{self._peers[peer]} ended without a word: it was killed (kill -9, or the system was out of memory), or its "
                "machine was lost; see the log of the system there"
            )
            self._hand_on(message.get("cause", lost), peer)
        selector.unregister(peer)
        self._peers.pop(peer, None)
        peer.close()

    def _hand_on(self, cause: str, source: socket.socket) -> None:
        with self._lock:
            if self._closed or self._told:
                return
            self._told = True
        if self.rank == 0:
            self._send({"cause": cause}, but=source)
        self._learn(cause)

    def _send(self, message: dict[str, Any], but: socket.socket | None = None) -> None:
        for peer in [*self._peers]:
            if peer is not but:
                try:
                    peer.sendall((json.dumps(message) + "\n").encode())
                except OSError:  # it has gone already
                    continue


def _line(peer: socket.socket) -> str:
    """The next line, "" at the end of the connection."""
    text = b""
    try:
        while not text.endswith(b"\n") and len(text) < _LIMIT:
            part = peer.recv(1)
            if not part:
                return ""
            text += part
    except OSError:  # also a keep-alive that nobody answered
        return ""
    return text.decode(errors="replace").strip()


def _keep_alive(peer: socket.socket) -> None:
    peer.settimeout(None)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE:
        if hasattr(socket, name):  # macOS and Windows call some of them otherwise
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
