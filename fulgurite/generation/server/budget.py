"""How many requests and tokens a run may use; what is under way is counted in advance."""

from __future__ import annotations

__all__ = ["Budget"]


class Budget:
    """Counts what was used and what the requests under way may use at most.

    Args:
        requests: HTTP requests at most, repeated ones included; None: any number.
        tokens: tokens of prompts and answers at most, as the server counts them; None: any number.

    Attributes:
        sent: HTTP requests so far.
        tokens: tokens so far.
        waiting: requests under way.
    """

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        for name, limit in (("max_requests", requests), ("max_tokens", tokens)):
            if limit is not None and limit < 1:
                raise ValueError(f"ServerBackend: {name}={limit}; give 1 or more, or None for no limit")
        self.most_requests, self.most_tokens = requests, tokens
        self.sent = self.tokens = self.waiting = self._held = 0

    def spent(self) -> str | None:
        """Why no further HTTP request may be sent, None if one may."""
        if self.most_requests is not None and self.sent >= self.most_requests:
            return f"the budget of {self.most_requests} requests is used up"
        return None

    def why_not(self, tokens: int) -> str | None:
        """Why a request that may use so many tokens doesn't fit beside those under way, None if it does."""
        if self.most_requests is not None and self.sent + self.waiting >= self.most_requests:
            return f"the budget of {self.most_requests} requests is used up"
        if self.most_tokens is not None and self.tokens + self._held + tokens > self.most_tokens:
            return f"the budget of {self.most_tokens} tokens is used up ({self.tokens} used, the next request may take {tokens})"
        return None

    def begin(self, tokens: int) -> None:
        """Counts a request in advance."""
        self.waiting += 1
        self._held += tokens

    def end(self, held: int, used: int | None) -> None:
        """Counts what a request has used; None where the server does not say, or nothing came back: what was held for it."""
        self.waiting -= 1
        self._held -= held
        self.tokens += held if used is None else used
