"""One end of the line between judge and candidate: requests, answers, and requests inside requests (a callback).

A message is four bytes of length and that many bytes: ``Q`` a request (operation, target, name, args, kwargs), ``A``
its value, ``E`` the exception it raised, ``U`` a value that cannot travel. ``A`` and ``E`` begin with what became of
the containers that the request carried, if anything changed: the asking side updates its own lists and dicts in place,
as if the call had been made in its own process.
"""

import os
import struct
from collections.abc import Callable
from typing import Any

from .remote import Remote, Unsupported, remote_error
from .wire import MAX_MESSAGE, Decoder, Encoder, WireError

__all__ = ["Lost", "Peer"]

_LENGTH = struct.Struct(">I")


class Lost(BaseException):
    """The partner is gone or talks nonsense. A BaseException: no ``except Exception`` of a test may swallow it."""


class Peer:
    """Talks over a connected socket.

    Args:
        fd: the socket's file descriptor.
        perform: carries out a request that comes in: (operation, target, name, args, kwargs) to value.
        describe: turns an exception into what :func:`remote_error` reads.
        refuse: called with a text when something cannot travel; returns the exception to raise.
        exportable: whether an object of this side may be given as a handle.
    """

    def __init__(
        self,
        fd: int,
        perform: Callable[[str, Any, str, tuple[Any, ...], dict[str, Any]], Any],
        describe: Callable[[BaseException], tuple[Any, ...]],
        refuse: Callable[[str], Exception],
        exportable: Callable[[Any], bool],
    ) -> None:
        self.fd = fd
        self.perform = perform
        self.describe = describe
        self.refuse = refuse
        self.exportable = exportable
        self.lost = ""
        self.gone = False
        self.given: list[Any] = []
        self._numbers: dict[int, int] = {}

    def lose(self, why: str, gone: bool = False) -> Lost:
        """Note that the line is of no more use, because the partner is gone or talks nonsense; the exception to raise."""
        self.gone = gone if not self.lost else self.gone
        self.lost = self.lost or why
        return Lost(why)

    def request(self, operation: str, target: Any = None, name: str = "", args: Any = (), kwargs: Any = None) -> Any:
        """Ask the partner and wait for its answer, serving its own requests meanwhile."""
        encoder = Encoder(self._give)
        try:
            encoder.value((operation, target, name, args, kwargs or {}))
        except WireError as error:
            raise self.refuse(str(error)) from None
        self.send(b"Q" + encoder.out)
        while True:
            message = self.receive()
            if message[:1] != b"Q":
                return self._answered(message, encoder.containers)
            self.serve(message)

    def serve(self, message: bytes) -> None:
        """Carry out one request of the partner's and answer it."""
        decoder = Decoder(message[1:], self._take)
        try:
            operation, target, name, args, kwargs = decoder.value()
        except (WireError, ValueError, TypeError) as error:
            raise self.lose(f"a request that makes no sense: {error}") from None
        known = list(decoder.containers)
        before = self._states(known).out
        try:
            tag, value = b"A", self.perform(operation, target, name, args, kwargs)
        except (Lost, Unsupported):
            raise
        except BaseException as error:
            tag, value = b"E", self.describe(error)
        try:
            answer = self._answer(tag, value, known, before)
        except Exception as error:  # too deep, too large, or objects that break when they are looked at
            answer = b"U" + f"a value cannot be sent: {error}".encode("utf-8", "replace")[:1000]
        self.send(answer)

    def _answer(self, tag: bytes, value: Any, known: list[Any], before: bytearray) -> bytes:
        encoder = self._states(known)
        if encoder.out == before:
            encoder = Encoder(self._give, known)
            changed = b"-"
        else:
            changed = b"S"
        return tag + changed + encoder.value(value).out

    def _states(self, known: list[Any]) -> Encoder:
        encoder = Encoder(self._give, known)
        for item in known:
            encoder.contents(item)
        return encoder

    def _answered(self, message: bytes, known: list[Any]) -> Any:
        tag = message[:1]
        if tag == b"U":
            raise self.refuse(message[1:500].decode("utf-8", "replace"))
        decoder = Decoder(message[2:], self._take, known)
        try:
            if message[1:2] == b"S":
                for item in known:
                    decoder.fill(item)
            value = decoder.value()
        except (WireError, RecursionError) as error:
            raise self.lose(f"an answer that makes no sense: {error}") from None
        if tag == b"A":
            return value
        if tag != b"E" or not isinstance(value, tuple) or len(value) != 6 or not isinstance(value[1], tuple):
            raise self.lose("an answer of an unknown kind")
        raise remote_error(value)

    def _give(self, item: Any) -> tuple[bool, int, str]:
        if isinstance(item, Remote):
            return False, item._number, ""
        if not self.exportable(item):
            raise WireError(f"a {type(item).__name__} of the test cannot travel to the candidate")
        number = self._numbers.get(id(item))
        if number is None:
            number = self._numbers[id(item)] = len(self.given)
            self.given.append(item)
        return True, number, type(item).__name__

    def _take(self, mine: bool, number: int, name: str) -> Any:
        if mine:  # as the sender sees it
            return Remote(self.request, self.refuse, number, name)
        if number >= len(self.given):
            raise WireError("a handle that was never given")
        return self.given[number]

    def send(self, message: bytes) -> None:
        """Send one message whole."""
        data = memoryview(_LENGTH.pack(len(message)) + message)
        try:
            while data:
                data = data[os.write(self.fd, data) :]
        except OSError as error:
            raise self.lose(f"the partner is gone ({error})", gone=True) from None

    def receive(self) -> bytes:
        """Wait for one message."""
        (length,) = _LENGTH.unpack(self._read(4))
        if length > 2 * MAX_MESSAGE or length == 0:
            raise self.lose(f"a message of {length} bytes; at most {2 * MAX_MESSAGE} are allowed")
        return self._read(length)

    def _read(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            try:
                part = os.read(self.fd, min(count - len(parts), 2**20))
            except OSError as error:
                raise self.lose(f"the partner is gone ({error})", gone=True) from None
            if not part:
                raise self.lose("the partner is gone", gone=True)
            parts += part
        return bytes(parts)
