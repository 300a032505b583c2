"""What `fulgurite synthesize` leaves of a server's throughput: a recipe's rows a second beside the server's answers a second.

    python -m benchmarks.studies.synthesis.throughput [--rows 2000] [--concurrency 16] [--wait 0.05] [--rounds 1] [--json FILE]

The server is a stand-in in a process of its own that answers after so many seconds (`stub`). *bare* is a plain client, a
thread and an open connection for each request at a time, that does nothing with the answers; *backend* is our ServerBackend alone;
*recipe* is a whole run of one step draw and one step write, with each answer on the disk before the next one is looked at, and
the rows written. They take turns. The goal is 0.9 of *bare*.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.harness.machine import stamp
from benchmarks.studies.synthesis.stub import Stub, serving
from fulgurite.data.records.conversation import Turn
from fulgurite.evaluation.judging.verdicts import How
from fulgurite.generation import ServerBackend
from fulgurite.generation.protocol import Request, SamplingSettings
from fulgurite.synthesis import read_recipe, run_recipe
from fulgurite.synthesis.authors import open_authors
from fulgurite.synthesis.prompts import templates_of
from fulgurite.synthesis.sources import first_rows

__all__ = ["backend", "bare", "main", "recipe"]


def bare(stub: Stub, texts: list[str], concurrency: int) -> float:
    """Seconds of a plain client.

    Args:
        stub: the server.
        texts: the prompts.
        concurrency: requests at a time.
    """
    place, left, lock = urlsplit(stub.url), list(reversed(texts)), threading.Lock()

    def work() -> None:
        connection = http.client.HTTPConnection(place.netloc)
        while True:
            with lock:
                if not left:
                    return
                text = left.pop()
            body = {"model": "bare", "seed": 0, "messages": [{"role": "user", "content": text}]}
            connection.request(
                "POST", f"{place.path}/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
            )
            json.loads(connection.getresponse().read())

    threads = [threading.Thread(target=work) for _ in range(concurrency)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def backend(stub: Stub, texts: list[str], concurrency: int) -> float:
    """Seconds of our backend alone.

    Args:
        stub: the server.
        texts: the prompts.
        concurrency: requests at a time.
    """
    writer = ServerBackend("backend", stub.url, concurrency=concurrency, log_probs=False, group=False)
    requests = [Request([Turn("user", text)], str(place), (0,)) for place, text in enumerate(texts)]
    began = time.perf_counter()
    answers = [sample.text for sample in writer.sample(requests, 1, SamplingSettings(64, 1.0))]
    seconds = time.perf_counter() - began
    if len(answers) != len(texts) or not all(answers):
        raise RuntimeError(f"throughput: {len(answers)} answers to {len(texts)} prompts")
    return seconds


def recipe(stub: Stub, texts: list[str], concurrency: int) -> float:
    """Seconds of a whole run, from reading the rows to writing the table.

    Args:
        stub: the server.
        texts: the instructions.
        concurrency: requests at a time.
    """
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        (folder / "rows.jsonl").write_text("".join(json.dumps({"instruction": text}) + "\n" for text in texts))
        model = {"server": stub.url, "served_model": "recipe", "concurrency": concurrency}
        steps = [
            {"do": "draw", "models": ["one"]},
            {"do": "write", "table": "rows", "columns": {"instruction": "instruction", "completions": "completions"}},
        ]
        given = {"rows": {"path": str(folder / "rows.jsonl")}, "models": {"one": model}, "steps": steps}
        (folder / "recipe.yaml").write_text(json.dumps(given))  # JSON is YAML
        what = read_recipe(str(folder / "recipe.yaml"))
        began = time.perf_counter()
        rows, count, _ = first_rows(what.rows, None, "few")
        ran = run_recipe(
            what, (rows, count), open_authors(what.models, 0), templates_of(), folder / "out", How(), silent=True
        )
        seconds = time.perf_counter() - began
        if len(ran.ledger.tables["rows"].rows) != len(texts):
            raise RuntimeError(f"throughput: {len(ran.ledger.tables['rows'].rows)} rows of {len(texts)}")
    return seconds


def main(words: list[str] | None = None) -> int:
    """The command at the top of this file; 1 if the recipe has less than 0.9 of the server's throughput.

    Args:
        words: None for the command line's.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--wait", type=float, default=0.05, help="seconds until the server answers")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(words)
    texts = [f"Tell me about the number {place}." for place in range(options.rows)]
    contenders = {"bare": bare, "backend": backend, "recipe": recipe}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as room, serving(Path(room) / "requests", options.wait) as stub:
        for _ in range(options.rounds):
            for name, run in contenders.items():
                rates[name].append(options.rows / run(stub, texts, options.concurrency))
                print(f"{name}: {rates[name][-1]:.1f} answers/s", flush=True)
        asked = len(stub.asked())
    if asked != options.rounds * len(contenders) * options.rows:
        raise RuntimeError(f"throughput: the server was asked {asked} times")
    medians = {name: statistics.median(found) for name, found in rates.items()}
    share = medians["recipe"] / medians["bare"]
    print(f"recipe {medians['recipe']:.1f} rows/s, the server alone {medians['bare']:.1f} answers/s: {share:.3f} of it")
    if options.json:
        found = {
            **stamp("cpu"),
            "options": {k: str(v) for k, v in vars(options).items()},
            "answers per second": rates,
            "share": share,
        }
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if share >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
