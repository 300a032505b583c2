"""A stand-in for a language model's server, in a process of its own: it waits, answers by what it is asked, and logs every request.

An answer is one of some texts, chosen by the hash of the request: a right-looking answer, lists, ratings, code. Equal requests get
equal answers. The log has a line `MODEL SEED HASH` for each request at the moment it arrives; HASH is that of its turns in the
records of `fulgurite synthesize`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fulgurite.evaluation.runner.plan import text_hash

__all__ = ["Stub", "serving"]

_TEXTS = (
    "Step by step. Answer: {0}",
    "yes",
    "Good.\nOverall Score: {0}\nRating: {1}",
    "#### Text 1\nRationale: Fine.\nRating: {1}\n\n#### Text 2\nRationale: Poor.\nRating: 1",
    "1. Two words | it belongs | people\n2. Three other words {0} | it does | all",
    "### 1\nTell me about {0} and {1}.\n### 2\nAdd {0} to {1}.",
    "It is {0}.",
    "```python\ndef f(x):\n    return x + {1}\n```",
)


class Stub:
    """A running server.

    Attributes:
        url: its address, up to /v1.
        log: of its requests.
    """

    def __init__(self, url: str, log: Path) -> None:
        self.url, self.log = url, log

    def asked(self) -> list[str]:
        """All requests so far, a line each, in the order in which they came."""
        return self.log.read_text(encoding="utf-8").splitlines()


def _answer(body: dict[str, Any]) -> dict[str, Any]:
    mark = int(text_hash([body.get("seed"), body["messages"], body["model"]]), 16)
    text = _TEXTS[mark % len(_TEXTS)].format(mark // 8 % 20, 1 + mark // 160 % 5)
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}, "logprobs": None}
    usage = {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [choice],
        "usage": usage,
    }


async def _serve(log: Path, seconds: float, tell: int) -> None:
    with log.open("a", encoding="utf-8") as lines:

        async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    size = int(head.split(b"content-length:")[1].split(b"\r\n")[0]) if b"content-length:" in head else 0
                    content: Any = {"data": []}
                    if size:
                        body = json.loads(await reader.readexactly(size))
                        lines.write(f"{body['model']} {body.get('seed')} {text_hash(body['messages'])}\n")
                        lines.flush()
                        await asyncio.sleep(seconds)
                        content = _answer(body)
                    sent = json.dumps(content).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                    writer.write(f"Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
                    await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()  # the client is gone, perhaps killed

        server = await asyncio.start_server(connection, "127.0.0.1", 0)
        os.write(tell, str(server.sockets[0].getsockname()[1]).encode())
        os.close(tell)
        await server.serve_forever()


@contextmanager
def serving(log: Path, seconds: float) -> Iterator[Stub]:
    """A server for the block, in a forked process.

    Args:
        log: the file for its requests.
        seconds: until each answer.
    """
    log.touch()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(told)
            asyncio.run(_serve(log, seconds, tell))
        finally:
            os._exit(0)
    os.close(tell)
    port = os.read(told, 16).decode()
    os.close(told)
    try:
        yield Stub(f"http://127.0.0.1:{port}/v1", log)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
