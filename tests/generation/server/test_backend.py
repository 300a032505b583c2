"""A server that behaves, one that refuses fields, and one in trouble: no sample is lost or doubled, and what went wrong is said."""

import json
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from fulgurite.data.records.conversation import Turn
from fulgurite.generation import Request, Sample, SamplingSettings, ServerBackend, ServerError, by_request, sample_seed
from tests.generation.server.local_server import Reply, answer, serving

pytest.importorskip("openai")

DRAWN = SamplingSettings(max_new_tokens=7, temperature=0.9, seed=5)
PROMPTS = [f"prompt {i}" for i in range(6)]


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    # The waits between repetitions, not their order, are shortened.
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)
    monkeypatch.setattr("fulgurite.generation.server.backend.FIRST_WAIT", 0.01)


def texts(body: dict[str, Any]) -> list[str]:
    asked = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
    return [f"{asked} by {body['seed']}.{i}" for i in range(body.get("n", 1))]


def good(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
    return answer(path, body, texts(body))


def pairs(samples: list[Sample]) -> list[tuple[int, int]]:
    return sorted((sample.prompt, sample.index) for sample in samples)


def all_pairs(prompts: int, n: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(prompts) for j in range(n)]


def test_all_samples_of_a_prompt_in_one_request() -> None:
    with serving(good) as seen:
        backend = ServerBackend("m", seen.url, api_key="secret", concurrency=3)
        samples = list(backend.sample(PROMPTS, 4, DRAWN))
    assert pairs(samples) == all_pairs(6, 4)
    assert len(seen.requests) == 6 and seen.most_open <= 3
    assert {path for path, _ in seen.requests} == {"/v1/completions"}
    assert seen.keys == ["Bearer secret"] * 6
    for body in seen.bodies():
        place = PROMPTS.index(body["prompt"])
        seed = sample_seed(5, body["prompt"], 0) % 2**31
        assert body == {
            "model": "m", "prompt": PROMPTS[place], "max_tokens": 7, "temperature": 0.9, "top_p": 1.0, "top_k": 0,
            "repetition_penalty": 1.0, "seed": seed, "n": 4, "logprobs": 0,
        }  # fmt: skip
        for sample in samples:
            if sample.prompt == place:
                assert sample.text == f"{PROMPTS[place]} by {seed}.{sample.index}"
                assert sample.seed == seed and sample.finish == "stop"
                assert sample.model_log_probs == (-0.25, -0.5) and sample.log_probs is None
    assert "secret" not in json.dumps([sample.to_dict() for sample in samples])


def test_chats_and_single_requests() -> None:
    chats = [[Turn("system", "be brief"), Turn("user", prompt)] for prompt in PROMPTS[:2]]
    with serving(good) as seen:
        backend = ServerBackend("m", seen.url, group=False)
        samples = by_request(backend.sample(chats, 3, SamplingSettings(temperature=1.0)))
        assert {path for path, _ in seen.requests} == {"/v1/chat/completions"}
        assert len(seen.requests) == 6 and all("n" not in body and body["logprobs"] is True for body in seen.bodies())
        assert seen.bodies()[0]["messages"][0] == {"role": "system", "content": "be brief"}
        for chat, some in zip(chats, samples, strict=True):
            assert [s.seed for s in some] == [sample_seed(0, chat, i) % 2**31 for i in range(3)]
            assert all(s.log_probs == s.model_log_probs == (-0.25, -0.5) for s in some)
        mixed = ServerBackend("m", seen.url, endpoint="chat")
        assert next(iter(mixed.sample(["plain"]))).text.startswith("plain by")
        assert seen.requests[-1][0] == "/v1/chat/completions"
        assert next(iter(backend.sample([[5, 6]]))).text.startswith("[5, 6] by")
    for endpoint, prompt in (("completions", chats[0]), ("chat", [5, 6])):
        with pytest.raises(ValueError, match="does not take them"):
            ServerBackend("m", seen.url, endpoint=endpoint).sample([prompt])


@pytest.mark.parametrize(
    ("usage", "counted", "prompted"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}, 9, 5),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None, None),
        ({"prompt_tokens": "5", "completion_tokens": True}, None, None),
        (None, None, None),
    ],
)
def test_answers_without_ids_have_as_many_tokens_as_the_server_counts(usage: Any, counted: Any, prompted: Any) -> None:
    """A server that writes 0 has not counted, and the tokens of several answers are not those of one."""

    def handle(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
        return {**answer(path, body, ["so it is"] * body.get("n", 1)), "usage": usage}

    with serving(handle) as seen:
        backend = ServerBackend("m", seen.url, log_probs=False)
        (single,) = backend.sample(["a"])
        assert (single.tokens, single.counted, single.prompt_tokens) == (counted, counted, prompted)
        several = list(backend.sample(["a"], 2, SamplingSettings(temperature=1.0)))
        assert [(sample.tokens, sample.prompt_tokens) for sample in several] == [(None, prompted)] * 2
        (told,) = ServerBackend("m", seen.url).sample(["a"])
        assert told.tokens == (2 if counted is None else counted), "else there is a log-probability for each token"


def refusing(*names: str) -> Any:
    """As transformers' server: unknown fields are refused, all in one message."""

    def handle(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
        if found := {name for name in names if name in body}:
            raise Reply(422, {"detail": f"Unexpected fields in the request: {found}"})
        return answer(
            path, body, [f"{body['prompt']} by {body.get('seed')}.{i} END tail" for i in range(body.get("n", 1))]
        )

    return handle


def looking_back(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
    """As transformers' server: stop texts are looked for in prompt and answer together."""
    begin = "<|assistant|>\n" if "messages" in body else body["prompt"]
    text = begin
    for piece in ("```", "\nx = 1\n", "``", "`\nmore"):
        text += piece
        if any(text.rstrip("more").rstrip("\n").endswith(stop) for stop in body.get("stop", ())):
            break
    return answer(path, body, [text[len(begin) :]] * body.get("n", 1))


def test_a_stop_text_that_begins_in_the_prompt_does_not_end_the_answer() -> None:
    settings = SamplingSettings(stop=("\n```", "END"))
    prompts = ["def f():\n", "no newline", "def g():\n", [Turn("user", "write")]]
    with serving(looking_back) as seen, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        backend = ServerBackend("m", seen.url, concurrency=1, log_probs=False)
        samples = by_request(backend.sample(prompts, 1, settings))
        assert [some[0].text for some in samples] == ["```\nx = 1"] * 4
        assert len(seen.requests) == 5, "the first one is asked twice"
        assert [body.get("stop") for body in seen.bodies()] == [
            ["\n```", "END"], ["END"], ["\n```", "END"], ["END"], None,
        ]  # fmt: skip
        list(backend.sample(prompts[:1], 1, settings))
        assert len(seen.requests) == 6, "what was learned holds for the next call"
    assert [str(each.message)[:60] for each in told] == [
        "ServerBackend: an answer may have been ended by a stop text tha"[:60]
    ]


def test_fields_that_a_server_refuses_are_left_out_if_the_answers_stay_the_same() -> None:
    names = ("n", "logprobs", "seed", "top_k", "repetition_penalty", "stop")
    settings = SamplingSettings(temperature=0.9, stop=(" END", "never"))
    with serving(refusing(*names)) as seen:
        backend = ServerBackend("m", seen.url, concurrency=1)
        samples = list(backend.sample(PROMPTS[:2], 3, settings))
        assert len(seen.requests) == 7, "one refusal, then each sample once"
        assert pairs(samples) == all_pairs(2, 3)
        for sample in samples:
            assert sample.text == f"{PROMPTS[sample.prompt]} by None.0" and (sample.finish, sample.stop) == (
                "stop",
                " END",
            )
            assert sample.model_log_probs is None
        list(backend.sample(PROMPTS[:1], 1, settings))
        assert len(seen.requests) == 8, "what was refused is not sent again"


def test_a_refused_setting_that_changes_answers_stops_the_run() -> None:
    with (
        serving(refusing("top_k")) as seen,
        pytest.raises(ServerError, match=r"refuses top_k=5.*2 samples are missing"),
    ):
        list(ServerBackend("m", seen.url, concurrency=1).sample(PROMPTS[:2], 1, SamplingSettings(top_k=5)))
    assert len(seen.requests) == 1


def test_a_server_that_takes_no_notice_of_n_is_asked_again() -> None:
    def handle(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
        return answer(path, body, texts(body)[:1])

    with serving(handle) as seen:
        samples = list(ServerBackend("m", seen.url, concurrency=2).sample(PROMPTS[:3], 4, DRAWN))
    assert pairs(samples) == all_pairs(3, 4)
    assert len(seen.requests) == 12
    assert len({sample.text for sample in samples}) == 12


def test_a_server_that_decodes_greedily_whatever_is_asked_is_noticed() -> None:
    def handle(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
        return answer(path, body, [body["prompt"] * 6] * body.get("n", 1))

    with serving(handle) as seen:
        with pytest.warns(UserWarning, match="seems to decode greedily"):
            list(ServerBackend("m", seen.url).sample(PROMPTS, 2, DRAWN))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            list(ServerBackend("m", seen.url).sample(PROMPTS, 1, DRAWN))


def test_trouble_that_passes_costs_repetitions_and_no_sample() -> None:
    """Each prompt fails first: 429 with Retry-After, 500, a cut connection, a cut answer, broken JSON, no choices."""
    tries: dict[str, list[float]] = {}
    lock = threading.Lock()

    def handle(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
        prompt = body["prompt"]
        with lock:
            before = tries.setdefault(prompt, [])
            before.append(time.monotonic())
        if len(before) > 1:
            return good(path, body, number, handler)
        kind = PROMPTS.index(prompt)
        if kind == 0:
            raise Reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.4"})
        if kind == 1:
            raise Reply(500, {"error": {"message": "oops"}})
        if kind == 2:
            return None
        if kind == 3:
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b'{"choices": [')
            return None
        return b'{"choices": [{"te' if kind == 4 else {"choices": []}

    with serving(handle) as seen:
        samples = list(ServerBackend("m", seen.url, retries=2).sample(PROMPTS, 2, DRAWN))
    assert pairs(samples) == all_pairs(6, 2)
    assert {sample.finish for sample in samples} == {"stop"}
    assert [len(tries[prompt]) for prompt in PROMPTS] == [2] * 6
    assert tries[PROMPTS[0]][1] - tries[PROMPTS[0]][0] >= 0.4, "Retry-After is kept to"


@pytest.mark.parametrize("kind", ["stall", "trickle", "500", "broken", "cut", "too long"])
def test_trouble_that_stays_is_a_sample_with_its_error(kind: str) -> None:
    release = threading.Event()

    def handle(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
        if body["prompt"] != PROMPTS[1]:
            return good(path, body, number, handler)
        if kind == "stall":
            release.wait(5)
            return None
        if kind == "trickle":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            while not release.wait(0.05):
                handler.wfile.write(b" ")
                handler.wfile.flush()
            return None
        if kind == "500":
            raise Reply(500, {"error": {"message": "out of memory"}})
        if kind == "too long":
            raise Reply(400, {"error": {"message": "maximum context length is 9 tokens; 'max_tokens' is too large"}})
        return b"<html>" if kind == "broken" else None

    words = {
        "stall": "no answer within 0.3 s",
        "trickle": "no answer within 0.3 s",
        "500": "status 500: out of memory",
        "broken": "is no JSON",
        "cut": "connection failed",
        "too long": "maximum context length",
    }
    with serving(handle) as seen:
        start = time.monotonic()
        samples = list(ServerBackend("m", seen.url, timeout=0.3, retries=1).sample(PROMPTS[:3], 2, DRAWN))
        assert time.monotonic() - start < 3
        release.set()
    assert pairs(samples) == all_pairs(3, 2)
    for sample in samples:
        assert (sample.finish == "error") == (sample.prompt == 1)
        assert (sample.error is None) == (sample.prompt != 1)
        assert words[kind] in (sample.error or words[kind])
    tries = sum(body["prompt"] == PROMPTS[1] for body in seen.bodies())
    assert tries == (1 if kind == "too long" else 2)


def test_a_server_that_fails_again_and_again_stops_the_run() -> None:
    def handle(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
        raise Reply(503, {"error": {"message": "gone"}})

    found: list[Sample] = []
    with (
        serving(handle) as seen,
        pytest.raises(ServerError, match=r"3 requests in a row failed.*503: gone; 37 samples are missing"),
    ):
        for sample in ServerBackend("m", seen.url, retries=0, give_up=3, concurrency=1).sample(["a"] * 40, 1, DRAWN):
            found.append(sample)
    assert [sample.finish for sample in found] == ["error"] * 3


@pytest.mark.parametrize(("status", "words"), [(401, "bad key"), (404, "no such model")])
def test_what_cannot_succeed_stops_the_run_after_what_is_there(status: int, words: str) -> None:
    def handle(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
        if number >= 2:
            raise Reply(status, {"error": {"message": words}})
        return good(path, body, number, handler)

    found: list[Sample] = []
    with serving(handle) as seen, pytest.raises(ServerError, match=rf"status {status}: {words}.*4 samples are missing"):
        for sample in ServerBackend("m", seen.url, concurrency=1).sample(PROMPTS, 1, DRAWN):
            found.append(sample)
    assert pairs(found) == [(0, 0), (1, 0)]
    assert len(seen.requests) == 3


def test_no_server_there() -> None:
    with serving(good) as seen:
        url = seen.url
    backend = ServerBackend("m", url, retries=0, give_up=1)
    samples = backend.sample(PROMPTS, 1, DRAWN)
    with pytest.raises(ServerError, match="connection failed"):
        assert all(sample.finish == "error" for sample in samples)


def test_the_budget_of_requests_holds_with_repetitions() -> None:
    def handle(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
        if number % 2 == 0:
            raise Reply(500, {})
        return good(path, body, number, handler)

    found: list[Sample] = []
    with serving(handle) as seen, pytest.raises(ServerError, match="budget of 5 requests is used up"):
        for sample in ServerBackend("m", seen.url, max_requests=5, concurrency=4).sample(PROMPTS * 3, 1, DRAWN):
            found.append(sample)
    assert len(seen.requests) == 5
    assert 1 <= len(found) <= 3


def test_the_budget_of_tokens_holds() -> None:
    found: list[Sample] = []
    with serving(good) as seen, pytest.raises(ServerError, match="budget of 40 tokens is used up"):
        for sample in ServerBackend("m", seen.url, max_tokens=40, concurrency=4).sample(PROMPTS * 3, 1, DRAWN):
            found.append(sample)
    assert 20 <= 5 * len(found) <= 40, "each answer takes 5 tokens, and 10 are set aside before it comes"
    with serving(good) as seen:
        assert len(list(ServerBackend("m", seen.url, max_tokens=40).sample(PROMPTS, 1, DRAWN))) == 6


def test_an_adapter_is_loaded_by_name(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")

    def handle(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
        if path == "/v1/load_lora_adapter":
            if number:
                raise Reply(400, {"message": "The lora adapter 'mine' has already been loaded."})
            return b"Success"
        return good(path, body, number, handler)

    with serving(handle) as seen:
        backend = ServerBackend("m", seen.url, adapter="mine", adapter_path=str(tmp_path))
        samples = [next(iter(backend.sample(["a"]))) for _ in range(2)]
    assert seen.bodies()[0] == {"lora_name": "mine", "lora_path": str(tmp_path)}
    assert [body["model"] for path, body in seen.requests if path == "/v1/completions"] == ["mine", "mine"]
    record = samples[0].made_with
    assert (record["model"], record["adapter"]) == ("m", "mine") and record["adapter_hash"]
    (tmp_path / "adapter_config.json").write_text("{ }")
    assert backend.identity()["adapter_hash"] != record["adapter_hash"]

    def refuse(path: str, body: dict[str, Any], number: int, handler: Any) -> Any:
        raise Reply(404, {"detail": "Not Found"})

    with serving(refuse) as seen, pytest.raises(ServerError, match="does not load the adapter 'mine'"):
        list(ServerBackend("m", seen.url, adapter="mine", adapter_path=str(tmp_path)).sample(["a"]))


def test_address_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="OPENAI_BASE_URL is not set"):
        ServerBackend("m")
    with serving(good) as seen:
        monkeypatch.setenv("OPENAI_BASE_URL", seen.url)
        monkeypatch.setenv("OPENAI_API_KEY", "k1")
        backend = ServerBackend("m")
        assert next(iter(backend.sample(["a"], 1, DRAWN))).finish == "stop"
        assert seen.keys == ["Bearer k1"]
    record = ServerBackend("m", "https://me:word@host:1/v1").identity()
    assert record["server"] == "https://host:1/v1", "a password is never written"


def test_an_iterator_that_is_left_ends_its_thread() -> None:
    with serving(good) as seen:
        before = set(threading.enumerate())
        samples = ServerBackend("m", seen.url, concurrency=2).sample(
            [Request("a", str(i)) for i in range(200)], 1, DRAWN
        )
        assert next(iter(samples)).finish == "stop"
        samples.close()  # type: ignore[attr-defined]
        assert len(seen.requests) < 200
    deadline = time.monotonic() + 20  # the server's own threads end when their connection does
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def test_options_out_of_range_are_refused() -> None:
    for name, value in (
        ("endpoint", "responses"), ("concurrency", 0), ("timeout", 0), ("retries", -1), ("give_up", 0), ("max_requests", 0),
        ("max_tokens", 0), ("adapter_path", "x"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            ServerBackend("m", "http://127.0.0.1:1/v1", **{name: value})  # type: ignore[arg-type]
