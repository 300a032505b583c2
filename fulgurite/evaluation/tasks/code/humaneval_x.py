"""HumanEval-X (arXiv 2303.17568): HumanEval's functions in C++, Java, JavaScript, Rust and Python.

Each language's prompt holds imports, docstring and signature; the answer is the function's body. A body ends where the next
item of the language begins at the margin. For all languages but Python the test is compiled into the program.

Rust's imports of the crates rand, regex and md5, which nearly all of its signatures have, are left out: a program that needs one
of them does not compile. Go is left out altogether: its tests need a module that cannot be fetched in a sandbox.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from fulgurite.evaluation.judging.programs import ProgramJudge
from fulgurite.evaluation.tasks.code.humaneval import check_job
from fulgurite.evaluation.tasks.code.programs import STOPS, fenced, from_continuation
from fulgurite.evaluation.tasks.task import Item, Row, Task, field_of, register
from fulgurite.sandbox import Job

__all__ = ["LANGUAGES", "Language", "job_of", "program_of", "python_entry"]


@dataclass(frozen=True)
class Language:
    """A language of the benchmark.

    Attributes:
        name: the sandbox's.
        title: as people write it.
        file: its part of the file's name.
        fence: what a chat calls it.
        stop: texts at which a body is over.
    """

    name: str
    title: str
    file: str
    fence: str
    stop: tuple[str, ...]


LANGUAGES = {
    "python": Language("python", "Python", "python", "python", STOPS),
    "cpp": Language("cpp", "C++", "cpp", "cpp", ("\nint main(", "\n#include", "\n}\n", "\n```")),
    "java": Language("java", "Java", "java", "java", ("\npublic ", "\nimport ", "\n    }\n", "\n```")),
    "js": Language("javascript", "JavaScript", "js", "javascript", ("\nconsole.", "\nconst ", "\n}\n", "\n```")),
    "rust": Language("rust", "Rust", "rust", "rust", ("\nfn ", "\n#[", "\n}\n", "\n```")),
}
# All of Rust's signatures import crates that few solutions use and no sandbox can fetch.
_CRATES = re.compile(r"^\s*use (?:rand|regex|md5)\b[^;]*;[ \t]*$", re.MULTILINE)
# The closing bracket is cut away with the text that ends the body: it is put back unless the body closed all its own.
_CLOSED = {"cpp": "\n}\n", "java": "\n    }\n}\n", "js": "\n}\n", "rust": "\n}\n"}


def _item(language: str) -> Callable[[Row, int], Item]:
    def item(row: Row, number: int) -> Item:
        prompt, test = field_of(row, "prompt"), field_of(row, "test")
        if language == "rust":  # its prompt is the comment alone, which belongs behind the signature
            prompt = f"{field_of(row, 'declaration')}{prompt}"
        data = {"prompt": prompt, "test": test, "language": language}
        fence = LANGUAGES[language].fence
        asked = f"Complete the following {fence} code. Answer with all of it in one block.\n\n```{fence}\n{prompt.rstrip()}\n```"
        if language == "python":
            data["entry_point"] = python_entry(test)
        return Item(
            str(field_of(row, "task_id", (str, int))),
            prompt,
            question=asked,
            solution=str(row.get("canonical_solution") or ""),
            data=data,
        )

    return item


def python_entry(test: str) -> str:
    """The function that a Python test calls at its end.

    Args:
        test: of a row.

    Raises:
        ValueError: it does not end so.
    """
    name = test.rpartition("check(")[2].partition(")")[0].strip()
    if not name.isidentifier():
        raise ValueError("'test' does not end with check(NAME)")
    return name


def program_of(text: str, item: Item) -> str | None:
    """The program in a text that a model wrote; None for nothing.

    Args:
        text: a continuation, or an answer.
        item: its data hold language and prompt.
    """
    language, prompt = item.data["language"], item.data["prompt"]
    if language == "python":
        return from_continuation(text, prompt, item.data["entry_point"])
    block = fenced(text)
    if block is not None:
        return block if block.strip() else None
    if not text.strip():
        return None
    # A body that closes the function closes one bracket more than it opens; brackets in texts and comments are not told apart.
    closed = text.count("}") > text.count("{")
    return f"{prompt}{text if closed else text.rstrip() + _CLOSED[language]}"


def job_of(item: Item, program: str) -> Job:
    """What is run for a program.

    Args:
        item: its data hold language and test.
        program: all of it.
    """
    language = item.data["language"]
    if language == "python":
        return check_job(item, program)
    if language == "rust":
        program = _CRATES.sub("", program)
    return Job(program, item.data["test"], language=LANGUAGES[language].name)


for _key, _language in LANGUAGES.items():
    _file = f"humaneval_{_language.file}.jsonl.gz"
    register(
        Task(
            f"humaneval_x_{_key}",
            f"HumanEval-X: 164 functions in {_language.name}",
            1,
            _item(_key),
            ProgramJudge(job_of, _language.name),
            files=(f"code/humaneval-x/{_file}", f"humaneval-x/{_file}", _file, _file.removesuffix(".gz")),
            stop=_language.stop,
            max_new_tokens=512,
            answer=program_of,
        )
    )
