"""Study: does the sandbox judge right? Every reference solution must pass, every buggy program must fail as its row says.

    python -m benchmarks.studies.sandbox_references [SET …] [--workers N]

The rows (FULGURITE_REAL_DATA, or ../shared/data beside the checkout) are for evaluation only. Programs that are known not to
do what their row says stand in :data:`KNOWN` with the reason; the table counts them apart, and one that behaves differently
from that list is named.
"""

import argparse
import gzip
import json
import os
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulgurite.sandbox import Job, Limits, Result, Sandbox, available, run_many

__all__ = ["KNOWN", "SETS", "Row", "main"]

LIMITS = Limits(seconds=10)

_WRAPPED = "the row's test wraps a function called `check` in a function of that name"
_METHOD = "the row's entry point is the method `__init__`"
_RAISES = "the bug raises this exception where the row says that the output is incorrect"
_LOOPS = "the bug loops where the row names another symptom"
_STOPS = "the bug gives a wrong value where the row says that it loops"
_VERSION = "one interpreter of Python 3.11 gives this result too"
_TEST = "the row's own test contradicts its reference: plain node reports failed assertions too"
_NO_TEST = "the row's test is commented out: a public harness counts it as passed"
_PACKAGE = "needs a package that is not installed"

# Set, why, rows: references that do not pass, and buggy programs that do not fail as stated.
_KNOWN: list[tuple[str, str, str, str]] = [
    ("codeerror", _WRAPPED, "CodeError", "85"),
    ("codeerror", _METHOD, "CodeError", "240 255"),
    ("humanevalpack-buggy", _RAISES, "Python", "25 47 48 75 137 162"),
    ("humanevalpack-buggy", _LOOPS, "Python", "10 160"),
    ("humanevalpack-buggy", _STOPS, "Python", "44 76"),
    (
        "codeerror-buggy",
        _VERSION,
        "CodeError",
        "4 108 149 151 161 179 181 185 188 190 191 208 212 228 230 244 250 257 268 270 275 280 298 299 308 322 323 325",
    ),
    ("humaneval-x-js", _TEST, "JavaScript", "112 155"),
    ("humaneval-x-js", _PACKAGE, "JavaScript", "162"),
    ("humaneval-x-cpp", _PACKAGE, "CPP", "22 137"),
    ("humaneval-x-rust", _PACKAGE, "Rust", "38 50 53 91 162"),
    ("humaneval-x-rust", _NO_TEST, "Rust", "32"),
]
KNOWN: dict[tuple[str, str], str] = {
    (name, f"{prefix}/{row}"): why for name, why, prefix, rows in _KNOWN for row in rows.split()
}


@dataclass(frozen=True)
class Row:
    """One program: its name, the job, and the outcome that its row states: a status, or "failed/TYPE"."""

    name: str
    job: Job
    stated: str = "passed"


def folder() -> Path:
    """Where the rows of code tasks are."""
    return (
        Path(os.environ.get("FULGURITE_REAL_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data") / "code"
    )


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, packed or not."""
    path = folder() / name
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.decode("utf-8").splitlines() if line.strip()]


def humaneval() -> Iterator[Row]:
    """HumanEval's 164 references."""
    for row in rows_of("humaneval/HumanEval.jsonl.gz"):
        yield Row(row["task_id"], _check(row["prompt"], row["canonical_solution"], row["test"], row["entry_point"]))


def _check(prompt: str, body: str, test: str, entry: str) -> Job:
    return Job(prompt + body, test, entry, helpers=prompt, limits=LIMITS)


def mbpp() -> Iterator[Row]:
    """MBPP's 974 references, with their challenge tests; the set-up of a test runs with the test."""
    for number, (code, test) in _mbpp_parts().items():
        yield Row(number, Job(code, test, limits=LIMITS))


def _mbpp_parts() -> dict[str, tuple[str, str]]:
    parts = {}
    for row in rows_of("mbpp/mbpp.jsonl"):
        test = "\n".join([row["test_setup_code"], *row["test_list"], *row["challenge_test_list"]])
        parts[f"MBPP/{row['task_id']}"] = (row["code"].replace("\r\n", "\n"), test.replace("\r\n", "\n").strip())
    return parts


def humanevalpack() -> Iterator[Row]:
    """HumanEvalPack's Python references."""
    for row in rows_of("humanevalpack/humanevalpack_python.jsonl"):
        yield Row(row["task_id"], _check(row["prompt"], row["canonical_solution"], row["test"], row["entry_point"]))


def humanevalpack_buggy() -> Iterator[Row]:
    """HumanEvalPack's buggy Python programs, each with its symptom."""
    outcomes = {
        "incorrect output": "failed/AssertionError",
        "infinite loop": "timeout",
        "stackoverflow": "failed/RecursionError",
    }
    for row in rows_of("humanevalpack/humanevalpack_python.jsonl"):
        stated = outcomes[row["failure_symptoms"]]
        yield Row(row["task_id"], _check(row["prompt"], row["buggy_solution"], row["test"], row["entry_point"]), stated)


def codeerror() -> Iterator[Row]:
    """CodeError's references: its own for HumanEval, MBPP's for the others, whose own are broken."""
    originals = _mbpp_parts()
    for row in rows_of("codeerror/codeerror_python.jsonl"):
        code = originals.get(row["original_task_id"], (row["canonical_code"], ""))[0]
        yield Row(row["task_id"], Job(code, row["test"], row["entry_point"], limits=LIMITS))


def codeerror_buggy() -> Iterator[Row]:
    """CodeError's buggy programs, each with the type of its error."""
    for row in rows_of("codeerror/codeerror_python.jsonl"):
        job = Job(row["buggy_code"].replace("\r\n", "\n"), row["test"], row["entry_point"], limits=LIMITS)
        yield Row(row["task_id"], job, f"failed/{row['error_type']}")


def humaneval_x_python() -> Iterator[Row]:
    """HumanEval-X's Python references."""
    for row in rows_of("humaneval-x/humaneval_python.jsonl.gz"):
        entry = re.findall(r"^check\((\w+)\)", row["test"], re.MULTILINE)[-1]
        yield Row(row["task_id"], _check(row["prompt"], row["canonical_solution"], row["test"], entry))


def _compiled(language: str, short: str, begin: Callable[[dict[str, Any]], str]) -> Callable[[], Iterator[Row]]:
    def rows() -> Iterator[Row]:
        for row in rows_of(f"humaneval-x/humaneval_{short}.jsonl.gz"):
            program = begin(row) + row["canonical_solution"]
            yield Row(row["task_id"], Job(program, row["test"], language=language, limits=LIMITS))

    rows.__doc__ = f"HumanEval-X's {language} references."
    return rows


def _rust_head(row: dict[str, Any]) -> str:
    """The declaration without the imports of crates that only three rows use: a sandbox has no crates."""
    return re.sub(r"^use (rand|regex|md5)\b.*;\s*$", "", row["declaration"], flags=re.MULTILINE)


SETS: dict[str, Callable[[], Iterator[Row]]] = {
    "humaneval": humaneval,
    "mbpp": mbpp,
    "humanevalpack": humanevalpack,
    "humanevalpack-buggy": humanevalpack_buggy,
    "codeerror": codeerror,
    "codeerror-buggy": codeerror_buggy,
    "humaneval-x-python": humaneval_x_python,
    "humaneval-x-cpp": _compiled("cpp", "cpp", lambda row: row["prompt"]),
    "humaneval-x-java": _compiled("java", "java", lambda row: row["prompt"]),
    "humaneval-x-js": _compiled("javascript", "js", lambda row: row["prompt"]),
    "humaneval-x-rust": _compiled("rust", "rust", _rust_head),
}


def as_stated(row: Row, result: Result) -> bool:
    """Whether a program ended as its row states."""
    kind = result.failure.type if result.failure and result.status == "failed" else ""
    return row.stated in (result.status, f"{result.status}/{kind}")


def describe(result: Result) -> str:
    """A result in one line."""
    failure = result.failure
    text = f"{result.status}/{failure.type}: {failure.message} {failure.source}" if failure else result.status
    return " ".join(f"{text} {result.detail}".split())[:200]


def run(name: str, sandbox: Sandbox, workers: int) -> dict[str, Any]:
    """Run one set; its counts, its time and every program that did not end as stated."""
    rows = list(SETS[name]())
    languages = {row.job.language for row in rows} - set(available())
    if languages:
        return {"set": name, "skipped": f"{', '.join(languages)} is not installed"}
    begun = time.monotonic()
    results = run_many([row.job for row in rows], workers, sandbox)
    seconds = time.monotonic() - begun
    odd = {row.name: describe(result) for row, result in zip(rows, results) if not as_stated(row, result)}
    known = {row for set_name, row in KNOWN if set_name == name}
    return {
        "set": name,
        "programs": len(rows),
        "as_stated": len(rows) - len(odd),
        "known": len(known & odd.keys()),
        "unexpected": {row: text for row, text in odd.items() if row not in known},
        "no_longer": sorted(known - odd.keys()),
        "statuses": dict(Counter(result.status for result in results)),
        "retried": sum(result.retried for result in results),
        "seconds": round(seconds, 1),
        "median_seconds": round(statistics.median(result.seconds for result in results), 4),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the sets, print the table; 1 if a program behaves in a way that is neither stated nor known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sets", nargs="*", choices=[*SETS, []], help="sets to run; all if none is named")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--layer", default="auto")
    parser.add_argument("--seconds", type=float, default=LIMITS.seconds, help="time for each program")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    sandbox = Sandbox(options.layer)
    reports = []
    print(
        f"{'set':22} {'programs':>8} {'as stated':>9} {'known':>6} {'other':>6} {'seconds':>8} {'median':>7}  statuses"
    )
    for name in options.sets or SETS:
        report = run(name, sandbox, options.workers)
        reports.append(report)
        if "skipped" in report:
            print(f"{name:22} skipped: {report['skipped']}")
            continue
        print(
            f"{name:22} {report['programs']:8} {report['as_stated']:9} {report['known']:6} {len(report['unexpected']):6} "
            f"{report['seconds']:8.1f} {report['median_seconds']:7.3f}  {report['statuses']}",
            flush=True,
        )
        for row, text in report["unexpected"].items():
            print(f"    {row}: {text}")
        for row in report["no_longer"]:
            print(f"    {row}: is as stated now, though it is listed as known not to be")
    if options.json:
        figures = {"layer": sandbox.layer.name, "python": sys.version.split()[0], "sets": reports}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return int(any(report.get("unexpected") or report.get("no_longer") for report in reports))


if __name__ == "__main__":
    sys.exit(main())
