"""One request to the server, with the `openai` client's repetitions, and what went wrong as one sentence.

The client repeats requests after 408, 409, 429, 5xx, a broken connection and a time-out, waiting as long as Retry-After says (up to
two minutes) or 0.5 to 8 seconds. Two things are added: the time-out holds for a whole attempt, so that a server that sends a byte
now and then does not stall the run; and a response that is no answer (broken JSON) counts as a failed attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fulgurite.generation.server.budget import Budget

__all__ = ["FatalError", "RefusedError", "TroubleError", "open_client", "post"]


class TroubleError(Exception):
    """A request failed, also when it was repeated; others may succeed."""


class RefusedError(TroubleError):
    """The server does not take this request (400, 413, 422)."""


class FatalError(Exception):
    """No request can succeed: wrong key, unknown model, no such address, no budget left."""


def open_client(base_url: str, api_key: str, timeout: float, retries: int, budget: Budget) -> Any:
    """An asynchronous client of `openai` that counts each HTTP request.

    Args:
        base_url: the server's address, up to and with /v1.
        api_key: sent as a bearer token.
        timeout: seconds of one attempt, from sending to the last byte.
        retries: how often a failed request is repeated.
        budget: counts.
    """
    try:
        import httpx2
        import openai
    except ImportError as error:
        raise ImportError(
            "ServerBackend: the package openai (3.57 or later) is missing; pip install 'fulgurite[openai]'"
        ) from error

    class BudgetError(openai.OpenAIError):
        """Not a connection's error, so that the client doesn't repeat the request."""

    class Counted(openai.DefaultAsyncHttpxClient):
        async def send(self, *args: Any, **kwargs: Any) -> Any:
            if reason := budget.spent():
                raise BudgetError(reason)
            budget.sent += 1
            try:
                return await asyncio.wait_for(super().send(*args, **kwargs), timeout)
            except asyncio.TimeoutError:
                raise httpx2.ReadTimeout(f"no whole answer within {timeout} s") from None

    http = Counted(timeout=timeout)
    return openai.AsyncOpenAI(
        base_url=base_url, api_key=api_key, timeout=timeout, max_retries=retries, http_client=http
    )


async def post(client: Any, path: str, body: Mapping[str, Any]) -> bytes:
    """The body of the answer to one request.

    Args:
        client: of :func:`open_client`.
        path: such as "/completions".
        body: the fields.

    Raises:
        RefusedError, TroubleError, FatalError: what went wrong, as one sentence.
    """
    import httpx2
    import openai

    try:
        response = await client.post(path, cast_to=httpx2.Response, body=dict(body))
    except openai.APITimeoutError:
        raise TroubleError(f"no answer within {client.timeout} s, {client.max_retries} repetitions included") from None
    except openai.APIConnectionError as error:
        reason = error.__cause__ or error
        raise TroubleError(f"the connection failed ({type(reason).__name__}: {str(reason)[:120]})") from None
    except openai.APIStatusError as error:
        said = f"status {error.status_code}: {_said(error)}"
        if error.status_code in (400, 413, 422):
            raise RefusedError(said) from None
        if error.status_code in (401, 403, 404):
            raise FatalError(f"the server refuses the requests ({said})") from None
        raise TroubleError(said) from None
    except openai.OpenAIError as error:
        raise FatalError(str(error)) from None
    content: bytes = response.content
    return content


def _said(error: Any) -> str:
    """The server's own message, shortened."""
    body = error.body
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body
    named = f" (param: {error.param})" if getattr(error, "param", None) else ""
    return " ".join(str(body or error.message).split())[:300] + named
