"""Messages between a workspace's process and the one that asks it: a JSON object, then bytes. Used at both ends."""

import json
import os
import struct
from typing import Any

__all__ = ["receive", "send"]

_HEADER = 32 * 2**20  # bytes of a message's JSON at most; a command with all its arguments stands in it
_PART = 2**20


def send(fd: int, what: dict[str, Any], data: bytes = b"") -> None:
    """Send one message.

    Args:
        fd: a stream socket.
        what: plain values.
        data: the bytes that follow them.
    """
    text = json.dumps(what).encode()
    for part in (struct.pack(">IQ", len(text), len(data)) + text, data):
        left = memoryview(part)
        while left:
            left = left[os.write(fd, left[:_PART]) :]


def receive(fd: int, most: int) -> tuple[dict[str, Any], bytes]:
    """Wait for one message.

    Args:
        fd: a stream socket.
        most: how many bytes may follow the JSON.

    Raises:
        EOFError: the other end is closed.
        ValueError: a message that is larger than allowed, or whose first part is no JSON object.
    """
    size, count = struct.unpack(">IQ", _read(fd, 12))
    if size > _HEADER or count > most:
        raise ValueError(f"frames: a message of {size} + {count} bytes; allowed are {_HEADER} + {most}")
    what = json.loads(_read(fd, size))
    if not isinstance(what, dict):
        raise ValueError("frames: the first part of a message is no JSON object")
    return what, _read(fd, count)


def _read(fd: int, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = os.read(fd, min(count - len(parts), _PART))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
