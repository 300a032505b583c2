"""`transformers serve` on a loopback port as the other side: the same answers and scores as in this process, greedily."""

from __future__ import annotations

import json
import shutil
import socket
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fulgurite.cli import main
from fulgurite.data.playground.registry import BACKBONES
from fulgurite.generation import SamplingSettings, ServerBackend, TransformersBackend, load_for_generation
from tests import forking

pytest.importorskip("openai")
pytest.importorskip("fastapi", reason="pip install fastapi uvicorn: transformers serve needs them")
pytest.importorskip("uvicorn")
pytestmark = pytest.mark.slow
_SERVE = "import sys; from transformers.cli.transformers import main; sys.exit(main())"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The playground's base with its end tokens written down, as `fulgurite export` leaves a model."""
    from transformers import AutoTokenizer, GenerationConfig

    folder = tmp_path_factory.mktemp("model") / "base"
    shutil.copytree(BACKBONES["playground"], folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")]
    GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def address(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server, up to /v1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = tmp_path_factory.mktemp("server") / "said.txt"
    words = ["serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32", model]
    with said.open("w") as stream:
        server = forking.popen(["-c", _SERVE, *words], stdout=stream, stderr=stream)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, said)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()


def _wait_for(url: str, server: forking.Forked, said: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, said.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(said.read_text())


@pytest.mark.parametrize("chat", [False, True], ids=["continued", "chat"])
def test_a_served_model_has_the_scores_of_the_model_in_this_process(
    tmp_path: Path, address: str, model: str, chat: bool
) -> None:
    shared = ["--tasks", "gsm8k", "--path", "builtin", "--limit", "6", "--max_new_tokens", "40", "--temperature", "0"]
    shared += ["--chat", str(chat).lower()]
    served = ["evaluate", "--server", address, "--served_model", model, *shared, "--out", str(tmp_path / "served")]
    assert main(served) == 0
    own = ["evaluate", "--model", model, "--dtype", "float32", *shared, "--out", str(tmp_path / "own")]
    assert main(own) == 0
    texts, scores = [], []
    for folder in (tmp_path / "served", tmp_path / "own"):
        lines = (folder / "gsm8k" / "samples.jsonl").read_text().splitlines()[1:]
        texts.append({record["item"]: record["text"] for record in map(json.loads, lines)})
        scores.append(json.loads((folder / "results.json").read_text())["results"]["gsm8k"]["numbers"])
    assert len(texts[0]) == 6 and texts[0] == texts[1]
    assert scores[0] == scores[1]


def test_a_stop_text_that_begins_in_the_prompt_does_not_end_an_answer(address: str, model: str) -> None:
    """transformers' server looks for stop texts in prompt and answer together."""
    prompt = "What is 12 + 7?\n"
    settings = SamplingSettings(max_new_tokens=24)
    loaded = load_for_generation(model)
    whole = next(iter(TransformersBackend(loaded.model, loaded.tokenizer).sample([prompt], 1, settings))).text
    stopped = replace(settings, stop=("\n" + whole[:2],))
    served = ServerBackend(model, address)
    with pytest.warns(UserWarning, match="begins in the prompt"):
        assert next(iter(served.sample([prompt], 1, stopped))).text == whole


def test_a_served_model_repairs_as_the_model_in_this_process(tmp_path: Path, address: str, model: str) -> None:
    shared = [
        "--tasks",
        "mbpp",
        "--path",
        "builtin",
        "--limit",
        "3",
        "--turns",
        "1",
        "--temperature",
        "0",
        "--chat",
        "true",
    ]
    shared += ["--max_new_tokens", "40", "--explanation_tokens", "24", "--baselines", "false"]
    assert (
        main(["repair", "--server", address, "--served_model", model, *shared, "--out", str(tmp_path / "served")]) == 0
    )
    assert main(["repair", "--model", model, "--dtype", "float32", *shared, "--out", str(tmp_path / "own")]) == 0
    found = []
    for folder in (tmp_path / "served", tmp_path / "own"):
        lines = (folder / "mbpp" / "visible" / "chains.jsonl").read_text().splitlines()[1:]
        records = [json.loads(line) for line in lines]
        key = ("method", "item", "turn", "step")
        found.append({tuple(r[k] for k in key): (r.get("prompt"), r.get("text"), r.get("hidden")) for r in records})
    assert len(found[0]) > 6 and found[0] == found[1]
    results = [json.loads((tmp_path / name / "results.json").read_text())["results"] for name in ("served", "own")]
    served, own = (found["mbpp visible"]["methods"]["intervenor"]["cost"] for found in results)
    assert served["calls"] == own["calls"] and own["prompted"] > own["generated"] > 0
    assert served == own, "transformers' server writes into its usage what this process counts"
