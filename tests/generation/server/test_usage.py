"""What a server counted, shared among the samples of one request."""

from __future__ import annotations

from typing import Any

from fulgurite.generation import Request, SamplingSettings, ServerBackend
from fulgurite.generation.server.messages import shares_of, tokens_in
from tests.generation.server.local_server import answer, serving


def test_shares_add_up() -> None:
    usage = tokens_in({"usage": {"total_tokens": 17, "prompt_tokens": 10, "completion_tokens": 7}})
    assert usage is not None and usage.total == 17
    assert shares_of(usage, 3) == [(10, 3), (0, 2), (0, 2)]
    assert shares_of(tokens_in({"usage": {"total_tokens": 17}}), 2) == [None, None] == shares_of(None, 2)
    for broken in ({}, {"usage": None}, {"usage": {"total_tokens": -1}}, {"usage": {"total_tokens": True}}, []):
        assert tokens_in(broken) is None


def test_samples_tell_what_the_server_counted() -> None:
    def handle(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
        found = answer(path, body, [f"text {i}" for i in range(body.get("n", 1))])
        if body["prompt"] == "silent":
            del found["usage"]
        return found

    with serving(handle) as seen:
        backend = ServerBackend("m", seen.url)
        samples = list(backend.sample([Request("told"), Request("silent")], 2, SamplingSettings(8, 1.0)))
    by_prompt = {(sample.prompt, sample.index): sample for sample in samples}
    assert [by_prompt[0, i].usage for i in (0, 1)] == [(3, 2), (0, 2)]
    assert by_prompt[1, 0].usage is None and by_prompt[0, 0].to_dict()["usage"] == [3, 2]
