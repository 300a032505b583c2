"""A reward model behind an address: what is sent, what comes back, and what goes wrong."""

from __future__ import annotations

from typing import Any

import pytest

from fulgurite.data.records.conversation import Turn
from fulgurite.evaluation.selection.endpoint import EndpointReward
from fulgurite.evaluation.selection.scorers import rewards_of
from fulgurite.generation import ServerError
from tests.evaluation.selection.test_scorers import ASKED
from tests.generation.server.local_server import Reply, serving

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)


def classified(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
    reward = float(len(body["messages"][-1]["content"])) - 5
    return {"object": "list", "data": [{"index": 0, "label": None, "probs": [reward], "num_classes": 1}]}


def test_each_answer_is_asked_for_under_the_servers_own_template() -> None:
    with serving(classified) as seen:
        scorer = EndpointReward(seen.url.removesuffix("/v1"), "rm", concurrency=2)
        plain = ASKED[0]._replace(turns=(Turn("prompt", "What is 2 + 3?"),))
        assert rewards_of(scorer, [*ASKED, plain]) == [len(each.text) - 5.0 for each in (*ASKED, plain)]
    assert {path for path, _ in seen.requests} == {"/classify"} and seen.most_open <= 2
    body = next(body for body in seen.bodies() if len(body["messages"]) == 3)
    assert [turn["role"] for turn in body["messages"]] == ["system", "user", "assistant"]
    assert (body["model"], body["use_activation"], body["add_generation_prompt"]) == ("rm", False, False)
    assert scorer.identity() == {"server": seen.url.removesuffix("/v1"), "model": "rm"}


def test_what_the_server_refuses_has_no_reward_and_trouble_stops_the_run() -> None:
    def refusing(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
        if body["messages"][-1]["content"] == "5":
            raise Reply(400, {"message": "longer than 8 tokens"})
        return classified(path, body, number, handler)

    with serving(refusing) as seen:
        scorer = EndpointReward(seen.url, "rm")
        assert rewards_of(scorer, ASKED[:2]) == [None, len(ASKED[1].text) - 5.0]
    ((reason, count),) = scorer.omitted.items()
    assert count == 1 and "refused by the server" in reason and "longer than 8 tokens" in reason

    def broken(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
        raise Reply(500, {"message": "out of memory"})

    with serving(broken) as seen, pytest.raises(ServerError, match=r"row [123]: no reward from rm at .*status 500"):
        rewards_of(EndpointReward(seen.url, "rm", retries=1), ASKED)
    two = {"data": [{"probs": [0.4, 0.6]}]}
    with serving(lambda *_: two) as seen, pytest.raises(ServerError, match="one number is needed"):
        rewards_of(EndpointReward(seen.url, "rm"), ASKED[:1])
    with pytest.raises(ValueError, match="concurrency=0"):
        EndpointReward("http://127.0.0.1:1", "rm", concurrency=0)
