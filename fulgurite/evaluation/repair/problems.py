"""Problems of the repair loop: what an item of a task of `fulgurite evaluate` asks for, without any of its hidden tests.

A task is made fit for the loop by a function from its items to problems, which a file of this room registers under the task's name.
The judge stays the task's own, so that a program is scored as `fulgurite evaluate` scores it.

| task | what is asked | examples that may be shown | given program |
|---|---|---|---|
| humaneval and its other languages | signature and docstring | those of the docstring | – |
| mbpp, mbpp_sanitized | the sentence and its first assert | the first assert | – |
| codeerror | docstring or comment of the buggy program | of the docstring; of MBPP's rows the first assert | the buggy one |
| humanevalfix_python | signature and docstring | of the docstring, else of `example_test` | the buggy one |
| humaneval_x_…_to_… | the source's program, and the declaration in the target's language | the row's `example_test` | – |

MBPP's first assert belongs to the problem's text in every feedback mode: without it nobody knows the function's name. It is one of
the asserts that programs are scored by, as are docstring examples that HumanEval's tests repeat.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fulgurite.evaluation.judging.programs import ProgramJudge
from fulgurite.evaluation.repair.examples import called, docstring_examples
from fulgurite.evaluation.tasks import TASKS, Item, Task
from fulgurite.evaluation.tasks.code.humaneval_x import LANGUAGES, job_of, program_of
from fulgurite.evaluation.tasks.code.mbpp import mbpp_job
from fulgurite.evaluation.tasks.code.programs import STOPS, fenced, from_continuation, whole_program
from fulgurite.evaluation.tasks.code.translation import TRANSLATIONS
from fulgurite.sandbox import Job

__all__ = ["PROBLEMS", "Problem", "judge_of", "problem_of"]

_COMMENT = re.compile(r"(?:^[ \t]*#.*\n)+", re.MULTILINE)
_DOCSTRING = re.compile(r'("""|\'\'\')(.*?)\1', re.DOTALL)
_SIGNATURE = re.compile(r"^(?:async )?def .*$", re.MULTILINE)
# A line that only Python has: a text without any is prose.
_CODE = re.compile(
    r"^\s*(?:(?:async )?def |class \w+.*:|return\b|import \w|from \w+ import|(?:if|for|while|with|elif|else|try|except)\b.*:\s*$"
    r"|@\w|[\w.\[\]\"', ]+\s*[-+*/%]?=\s*\S|\w[\w.]*\(.*\)\s*$|pass\s*$|raise\b|yield\b)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Problem:
    """What is asked for.

    Attributes:
        item: the task's.
        task: the request as the prompts show it: a sentence, or a signature with its docstring.
        start: the beginning of the program, which a completion model continues; "" where it writes all of it.
        entry_point: the function that the tests call.
        examples: asserts that may be shown.
        given: the buggy program to repair; None where a program is to be written.
        check: a job that runs a program against given asserts.
        language: of the program, as people write it.
        fence: what a chat calls the language.
        stops: texts that end a function's body.
        source: the program to translate; "" where nothing is translated.
        taken: the program in a text, where it is not Python.
    """

    item: Item
    task: str
    start: str
    entry_point: str
    examples: tuple[str, ...]
    given: str | None
    check: Callable[[str, Sequence[str]], Job]
    language: str = "Python"
    fence: str = "python"
    stops: tuple[str, ...] = STOPS
    source: str = ""
    taken: Callable[[str], str | None] | None = None

    @property
    def ends(self) -> tuple[str, ...]:
        """Texts that end a completion of the program's beginning; nothing where there is no beginning."""
        return self.stops if self.start else ()

    @property
    def fields(self) -> dict[str, object]:
        """The fields of every prompt about it."""
        own = ("task", "start", "entry_point", "language", "fence", "source")
        return {name: getattr(self, name) for name in own}

    def program(self, text: str) -> str | None:
        """The program in a text that a model wrote; None if there is none, only prose.

        Args:
            text: an answer, or the continuation of `start`.
        """
        if self.taken is not None:
            return self.taken(text)
        if self.start and not _another(text, self.entry_point):
            found = from_continuation(text, self.start, self.entry_point)
        else:
            found = whole_program(text, self.entry_point)
        if found is None or fenced(text) is not None or _CODE.search(text):
            return found
        return found if self.start and _indented(text) and _reads(found) else None


def _another(text: str, entry_point: str) -> bool:
    """Whether a text brings whole functions but not the one that is asked for; behind its signature they would hide that."""
    body = fenced(text, entry_point) or text
    names = re.findall(r"^(?:async )?def (\w+)", body, re.MULTILINE)
    return bool(names) and entry_point not in names and not _indented(body)


def _indented(text: str) -> bool:
    """Whether a text begins as a function's body goes on; it may be nothing but comments."""
    return next((line for line in text.splitlines() if line.strip()), "")[:1].isspace()


def _reads(program: str) -> bool:
    try:
        ast.parse(program)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


PROBLEMS: dict[str, Callable[[Item], Problem]] = {}


def problem_of(task: Task, item: Item) -> Problem:
    """An item as a problem.

    Args:
        task: with an entry in PROBLEMS.
        item: of the task.

    Raises:
        ValueError: the task has none.
    """
    if task.name not in PROBLEMS:
        raise ValueError(f"repair: {task.name} has no programs to repair; the tasks are: {', '.join(sorted(PROBLEMS))}")
    return PROBLEMS[task.name](item)


def judge_of(task: Task) -> ProgramJudge:
    """The judge of a task whose answers are programs.

    Args:
        task: with an entry in PROBLEMS.
    """
    judge = task.judge
    if not isinstance(judge, ProgramJudge):
        raise ValueError(f"repair: {task.name} is not judged by running programs; take another task")
    return judge


def _check_helped(item: Item) -> Callable[[str, Sequence[str]], Job]:
    """Asserts that may need the prompt's helper functions, as HumanEval's tests do."""
    helpers = item.data.get("helpers", item.data["prompt"])

    def job(program: str, tests: Sequence[str]) -> Job:
        return Job(program, "\n".join(tests), item.data["entry_point"], helpers=helpers)

    return job


def _humaneval(item: Item) -> Problem:
    prompt, name = item.data["prompt"], item.data["entry_point"]
    return Problem(item, prompt.strip(), prompt, name, docstring_examples(prompt, name), None, _check_helped(item))


def _mbpp(item: Item) -> Problem:
    tests = tuple(item.data["tests"])
    name = called(tests[0])
    task = f"{item.data['text']}\nThe program should pass this test:\n{tests[0]}"

    def job(program: str, given: Sequence[str]) -> Job:
        return mbpp_job(replace(item, data={**item.data, "tests": list(given)}), program)

    return Problem(item, task, "", name, tests[:1], None, job)


def _codeerror(item: Item) -> Problem:
    """The row's error message is left out: it quotes a hidden test."""
    buggy, name = item.data["buggy"], item.data["entry_point"]
    if str(item.data.get("original", "")).startswith("MBPP"):
        found = _COMMENT.search(buggy)
        examples = _asserts(item.data["test"])[:1]
        name = called(examples[0]) if examples else name
        words = "" if found is None else re.sub(r"^[ \t]*#[ \t]?", "", found.group(), flags=re.MULTILINE).strip()
        task = f"{words}\nThe program should pass this test:\n{examples[0]}" if examples else words
    else:
        docstring, signature = (
            _DOCSTRING.search(buggy.partition(f"def {name}")[2]),
            _SIGNATURE.search(item.data["start"]),
        )
        words = "" if docstring is None else docstring.group()
        task = f"{signature.group() if signature else name}\n    {words}"
        examples = docstring_examples(words, name)
    return Problem(item, task, "", name, examples, buggy, _check_helped(item))


def _asserts(test: str, entry_point: str = "") -> tuple[str, ...]:
    """The asserts of a `check(candidate)`, with the function's own name in place of the parameter's; nothing if it is no Python."""
    try:
        tree = ast.parse(textwrap.dedent(test))
    except (SyntaxError, ValueError):
        return ()
    for check in (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"):
        parameters = {argument.arg for argument in check.args.args}
        for node in ast.walk(check):
            if isinstance(node, ast.Name) and node.id in parameters and entry_point:
                node.id = entry_point
    found = tuple(ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Assert))
    return tuple(text for text in found if not entry_point or called(text) == entry_point)


def _pack(item: Item) -> Problem:
    """A row's `example_test` is at times its hidden test: an assert that stands in both is no example."""
    name, stated = item.data["entry_point"], item.data["helpers"]
    hidden = {_bare(text) for text in _asserts(item.data["test"], name)}
    further = tuple(text for text in _asserts(item.data["examples"], name) if _bare(text) not in hidden)
    examples = docstring_examples(stated, name) or further
    return Problem(item, stated.strip(), item.data["prompt"], name, examples, item.data["buggy"], _check_helped(item))


def _bare(test: str) -> str:
    """An assert without its message."""
    (node,) = ast.parse(test).body
    return ast.unparse(node.test) if isinstance(node, ast.Assert) else test


def _translation(item: Item) -> Problem:
    """A row's `example_test` that is its hidden test is no example. Python's is shown as the asserts in it."""
    language, test, shown = LANGUAGES[item.data["language"]], item.data["test"], item.data["examples"]
    name = item.data.get("entry_point", "")
    examples = (_asserts(shown, name) if name else ()) or (shown,)
    if not shown.strip() or shown.split() == test.split():
        examples = ()

    def job(program: str, tests: Sequence[str]) -> Job:
        if name:
            return _check_helped(item)(program, tests)
        return job_of(replace(item, data={**item.data, "test": "\n".join(tests)}), program)

    def taken(text: str) -> str | None:
        prose = fenced(text) is None and not re.search(r"[;{}]", text)  # which no program of these languages is without
        return None if prose else program_of(text, item)

    request, start, source = item.data["request"], item.data["prompt"], item.data["source"]
    more = (language.title, language.fence, language.stop, source)
    return Problem(item, request, start, name, examples, None, job, *more, None if name else taken)


PROBLEMS.update(dict.fromkeys(TRANSLATIONS, _translation))
PROBLEMS.update({"mbpp": _mbpp, "mbpp_sanitized": _mbpp, "codeerror": _codeerror, "humanevalfix_python": _pack})
PROBLEMS.update({name: _humaneval for name in TASKS if name == "humaneval" or name.startswith("humaneval_prompts_")})
