"""A small HTTP server on the loopback address that answers as a language model's server does, or as the test wants it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Reply", "Seen", "answer", "serving"]

Body = Mapping[str, Any]


class Reply(Exception):
    """Raised by a test's function: a status with a body, and perhaps headers."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, dict(headers or {})


class Seen:
    """What came in: paths, bodies and keys, in order; and how many requests were open at once at most."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[str | None] = []
        self.open = self.most_open = 0
        self.lock = threading.Lock()
        self.url = ""

    def bodies(self) -> list[dict[str, Any]]:
        """The bodies alone."""
        return [body for _, body in self.requests]


def answer(path: str, body: Body, texts: list[str], **more: Any) -> dict[str, Any]:
    """A complete response with these texts, each of two tokens."""
    chat = path.endswith("/chat/completions")
    choices = []
    for i, text in enumerate(texts):
        logs: Any = None
        if "logprobs" in body:
            values = [-0.25, -0.5]
            logs = (
                {"content": [{"token": "t", "logprob": v} for v in values]}
                if chat
                else {"tokens": ["t", "t"], "token_logprobs": values}
            )
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choices.append({"index": i, "finish_reason": "stop", "logprobs": logs, **said, **more})
    return {
        "id": "x",
        "object": "completion",
        "created": 0,
        "model": body.get("model"),
        "choices": choices,
        "usage": {"prompt_tokens": 3, "completion_tokens": 2 * len(texts), "total_tokens": 3 + 2 * len(texts)},
    }


@contextmanager
def serving(handle: Callable[[str, dict[str, Any], int, Any], Any]) -> Iterator[Seen]:
    """A server for the block.

    Args:
        handle: (path, body, number of the request, handler) -> what is sent as JSON (bytes go as they are, None: it has written
            itself); raises Reply for other statuses.
    """
    seen = Seen()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with seen.lock:
                number = len(seen.requests)
                seen.requests.append((self.path, body))
                seen.keys.append(self.headers.get("Authorization"))
                seen.open += 1
                seen.most_open = max(seen.most_open, seen.open)
            try:
                self._send(200, handle(self.path, body, number, self), {})
            except Reply as reply:
                self._send(reply.status, reply.body, reply.headers)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                with seen.lock:
                    seen.open -= 1

        def _send(self, status: int, body: Any, headers: Mapping[str, str]) -> None:
            if body is None:
                self.close_connection = True
                return
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Nothing: a test's output is its own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    seen.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
