"""The command line: one table of verbs, static help, dispatch, and what becomes of errors.

This file imports nothing heavy, so that `fulgurite`, `--help` and `--version` answer at once. The four verbs of
Lightning run in `fulgurite.commands.fit.trainer`; every other verb is a typed function of `fulgurite.commands`, whose
signature is its parser. Exit codes: 0 done, 1 the run failed, 2 the command line was wrong, 129 the terminal was closed,
130 stopped by Ctrl-C, 141 nobody reads the output any more, 143 stopped by SIGTERM.
"""

import contextlib
import difflib
import importlib
import linecache
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fulgurite import __version__

__all__ = ["VERBS", "Verb", "main"]


_INTERRUPTED, _TERMINATED, _HUNG_UP, _UNREAD = 130, 143, 129, 141  # 128 and the signal's number, as a shell has it
_STOPPED: dict[int, int] = {
    int(getattr(signal, name)): code
    for name, code in (("SIGTERM", _TERMINATED), ("SIGHUP", _HUNG_UP))
    if hasattr(signal, name)
}
# Options of which an empty text, such as of a shell's variable that is not set, would mean the current folder or nothing.
_PLACES = ("out", "output", "file", "model", "adapter", "ckpt_path", "server", "teacher", "base", "first", "second", "rows",
           "counts", "support", "prompts", "write_prompts", "shots_path", "template")  # fmt: skip
_REFUSALS = re.compile(r"^ +- ([A-Z]\w+: .+)", re.MULTILINE)


class Verb(NamedTuple):
    """One verb: its line in the help, the function behind it (None: LightningCLI's), the option that a first bare word is."""

    summary: str
    function: str | None = None
    first: str | None = None


VERBS = {
    "fit": Verb("train a model; resume with --ckpt_path last"),
    "validate": Verb("compute the metrics of a checkpoint on the validation split"),
    "test": Verb("compute the metrics of a checkpoint on the test split"),
    "predict": Verb("predict every row of the prediction split"),
    "export": Verb(
        "write a checkpoint's adapter for stock PEFT, or merged into the base, and check it",
        "fulgurite.commands.export.command:export",
    ),
    "convert": Verb(
        "write a GGUF file as a folder that stock transformers loads", "fulgurite.commands.convert.command:convert"
    ),
    "generate": Verb(
        "answer a prompt, a file of prompts, or a chat in the terminal", "fulgurite.commands.generate.command:generate"
    ),
    "best-of-n": Verb(
        "what choosing among n answers by a reward is worth, and training rows of what was chosen",
        "fulgurite.commands.best_of_n.command:best_of_n",
    ),
    "thresholds": Verb(
        "find how many tunable parameters a task takes: a sweep over budgets and seeds",
        "fulgurite.commands.thresholds.command:thresholds",
    ),
    "score": Verb(
        "rewards of a file's answers, or RewardBench, by a reward model", "fulgurite.commands.score.command:score"
    ),
    "evaluate": Verb(
        "benchmarks of a model or a server: maths, code in a sandbox, multiple choice",
        "fulgurite.commands.evaluate.command:evaluate",
    ),
    "repair": Verb(
        "programs mended in turns by a learner and a teacher, beside what the same budget solves without one",
        "fulgurite.commands.repair.command:repair",
    ),
    "synthesize": Verb(
        "make data by a recipe: preference trees, ratings and critiques, by models and the sandbox",
        "fulgurite.commands.synthesize.command:synthesize",
        "recipe",
    ),
    "control": Verb(
        "measure how closely answers follow the levels of objectives that are asked for",
        "fulgurite.commands.control.command:control",
    ),
    "scaling": Verb(
        "pass rates over a series of model sizes, the law that they follow, and whether it holds",
        "fulgurite.commands.scaling.command:scaling",
    ),
    "emulate": Verb(
        "a smaller model of some layers of a full one, on which these are trained elsewhere",
        "fulgurite.commands.emulate.command:emulate",
    ),
    "plug-in": Verb(
        "put layers that were tuned on an emulator into the full model", "fulgurite.commands.plug_in.command:plug_in"
    ),
    "landscape": Verb(
        "the loss along the line between two models, or over the plane through three",
        "fulgurite.commands.landscape.command:landscape",
    ),
}

_EPILOG = """\
a first run, offline, in about a minute:
  fulgurite fit --config configs/quickstart.yaml

without a file:
  fulgurite fit --model SoRAModule --model.backbone playground \\
    --data GLUEDataModule --data.task sst2 --data.path builtin

more help:
  fulgurite fit --help                      all options of a verb
  fulgurite fit --model.help SoRAModule     the options of one model (or --data.help GLUEDataModule)
  fulgurite fit --config FILE --print_config    the configuration in full

FULGURITE_DEBUG=1 shows the traceback of every error.
"""


def _help() -> str:
    width = max(map(len, VERBS)) + 2
    verbs = "\n".join(f"  {name:<{width}}{verb.summary}" for name, verb in VERBS.items())
    return f"usage: fulgurite VERB [options]\n\nFine-tuning on PyTorch Lightning.\n\nverbs:\n{verbs}\n\n{_EPILOG}"


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):  # the terminal may be gone
        sys.stderr.write(f"fulgurite: error: {message}\n")
    return code


def _hold_standard_streams() -> None:
    """Where the shell has closed output or errors (``>&-``), they go nowhere; else the next file that is opened would get them."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the lowest descriptor that is free is the one that was closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  as long as the process


def _unwritten(error: OSError, silent: bool = False) -> int:
    """The end of a command whose output nobody takes any more; Python is not to try it again at its own end. 0 if silent."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if silent:
        return 0
    if isinstance(error, BrokenPipeError):
        return _fail("whoever read the output has gone", _UNREAD)
    return _fail(f"the output cannot be written ({error.strerror or error})", 1)


def main(args: list[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        args: the words after `fulgurite`; None takes them from the command line
    """
    _hold_standard_streams()
    code = _run(list(sys.argv[1:] if args is None else args))
    if code == _INTERRUPTED and args is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Python is about to end: another Ctrl-C ends it at once, without the traceback of its exit functions.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        sys.stdout.flush()
    except OSError as error:  # what was written last did not get out
        return _unwritten(error, silent=code != 0) or code
    return code


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return 0
    if words[0] in ("--version", "-V"):
        sys.stdout.write(f"fulgurite {__version__}\n")
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        later = next((word for word in rest if word in VERBS), None)
        if verb.startswith("-") and later:
            return _fail(f"the verb comes first: fulgurite {later} {verb} ...", 2)
        close = difflib.get_close_matches(verb, VERBS, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        return _fail(f"no verb {verb!r}.{guess} The verbs are: {', '.join(VERBS)}", 2)
    _show_all_letters()
    # PEFT imports bitsandbytes where it is installed, which then advertises a kernel that nothing here calls.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    return _guarded(lambda: _dispatch(verb, rest))


def _dispatch(verb: str, rest: list[str]) -> None:
    target = VERBS[verb].function
    if target is None:
        from fulgurite.commands.fit.trainer import run_trainer_verb

        run_trainer_verb([verb, *_with_values(rest, {"--overwrite"})])
        return
    from fulgurite.commands.shared.parser import CommandParser

    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    parser = CommandParser(prog=f"fulgurite {verb}", description=VERBS[verb].summary)
    parser.add_function_arguments(function, as_group=False, fail_untyped=True)
    flags = {f"--{name}" for name, kind in function.__annotations__.items() if kind in (bool, "bool")}
    first = VERBS[verb].first
    if first is not None and rest and not rest[0].startswith("-"):
        rest = [f"--{first}", *rest]
    words = _with_values(rest, flags)
    values = parser.instantiate_classes(parser.parse_args(words)).as_dict()
    if empty := [name for name in _PLACES if values.get(name) == ""]:
        raise ValueError(f"{verb}: --{empty[0]} is empty; give a path or a name, or leave it out")
    function(**{**values, **_texts_called_null(words, function, values)})


def _texts_called_null(words: list[str], function: Callable[..., None], values: dict[str, Any]) -> dict[str, str]:
    """Texts such as `null` and `~` as they were typed: YAML reads them as no value, which leaving the option out says too."""
    found = {}
    for word, after in zip(words, [*words, ""][1:], strict=True):
        name, equals, value = word.removeprefix("--").partition("=")
        text = value if equals else after
        optional = str(function.__annotations__.get(name)) in ("str | None", "typing.Optional[str]")
        if word.startswith("--") and text and optional and values[name] is None:
            found[name] = text
    return found


class _Stopped(SystemExit):
    """SIGTERM or SIGHUP: ends the program as an error does, so that temporary files are removed."""


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise _Stopped. Signals that somebody else handles, or that are ignored (nohup), stay
    what they are; once Lightning has taken SIGTERM over, which ends a fit behind the current batch, ours does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        if signal.getsignal(number) is stop:
            raise _Stopped(_STOPPED[number])

    ours = [number for number in _STOPPED if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _with_values(words: list[str], flags: set[str]) -> list[str]:
    """The words with `true` behind each yes-or-no option that stands alone, such as `--chat`."""
    followers = [*words, "--"][1:]
    return [
        w
        for word, after in zip(words, followers, strict=True)
        for w in ([word, "true"] if word in flags and after.startswith("--") else [word])
    ]


def _show_all_letters() -> None:
    """On a terminal of few letters (Latin-1, ASCII) the others come out as escapes instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "")
        if not encoding.startswith("utf") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _guarded(run: Callable[[], None]) -> int:
    """Runs, and turns errors that the user can mend into one line; all others keep their traceback."""
    try:
        with _ended_by_signals():
            run()
    except _Stopped as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        return _fail("the terminal was closed" if code == _HUNG_UP else "terminated", code)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns one into the other
            return _fail("interrupted", _INTERRUPTED)
        if isinstance(stop.__context__, BrokenPipeError):  # rich turns one into the other
            return _unwritten(stop.__context__)
        if type(stop).__name__ == "SIGTERMException":  # Lightning's, without a code
            return _fail("terminated", _TERMINATED)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return _fail("interrupted", _INTERRUPTED)
    except BrokenPipeError as error:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            return _unwritten(error)
        return _fail(str(error), 1)  # another pipe than the output
    except Exception as error:
        if os.environ.get("FULGURITE_DEBUG"):
            traceback.print_exc()
            return 1
        mendable = _for_the_user(error)
        if mendable is None:
            raise
        text = mendable.args[0] if isinstance(mendable, KeyError) and mendable.args else str(mendable)
        return _fail(str(text).strip() or type(mendable).__name__, 1)
    return 0


def _known_trouble(error: BaseException | None) -> BaseException | None:
    """One sentence for troubles of the machine or of the installation that libraries raise in words of their own."""
    text = str(error)
    if isinstance(error, RuntimeError) and (match := re.match(r"Symlink loop from '(.+)'", text)):
        return OSError(f"{match.group(1)}: symbolic links that lead to each other; give another path")
    # jsonargparse wraps what a constructor raises into a ValueError of its own.
    if isinstance(error, RuntimeError | ValueError) and "Could not determine home directory" in text:
        return OSError(
            "this user has no home folder; set HOME, or FULGURITE_CACHE and HF_HOME, to folders that can be written"
        )
    if isinstance(error, RuntimeError) and re.match(r"process \d+ of \d+ \(.+\) ended ", text):
        return error  # another process of the run, in the words of EndTogether
    if isinstance(error, RuntimeError) and re.search(
        r"(Timed out waiting|timed? ?out after) \d+ms|timeout caused pair closure", text
    ):
        return RuntimeError(
            "this process waited for another one of the run until --process_timeout was over; see whether one was stopped or "
            "hangs, and go on with --ckpt_path last; give more seconds if one works alone for longer (preparing the data)"
        )
    if match := re.search(r"class_path '([\w.]+)':\s+Requirement '([^']+)' not met", text):
        name = match.group(1).rpartition(".")[2]
        return ValueError(
            f"{name}: a package that it needs is not installed; pip install '{match.group(2)}', or choose another"
        )
    if isinstance(error, ImportError) and (match := re.match(r"Requirement '([^']+)' not met", text)):
        return ValueError(
            f"a package that was asked for is not installed; pip install '{match.group(1)}', or choose another strategy, device or "
            "logger"
        )
    if match := re.search(r"class_path '([\w.]+)':\s+((?:Neither|No module named) .+)", text):
        name = match.group(1).rpartition(".")[2]
        return ValueError(
            f"{name}: a package that it needs is not installed ({match.group(2)}); pip install it, or choose another"
        )
    return None


def _for_the_user(error: BaseException | None) -> BaseException | None:
    """The error that the user can mend: a missing file, a misuse that Lightning names, a `raise` of ours; else None.

    Lightning names misuses by its MisconfigurationException and by ValueErrors that it raises itself.

    jsonargparse wraps what a constructor raises into a message about types. Behind that message the cause is looked for; some
    versions lose it, and then its text is taken from the list of what each type of a union said.
    """
    told = _known_trouble(error)
    if told is not None:
        return told
    wrapped = [match for match in _REFUSALS.findall(str(error)) if not match.startswith("Expected a ")]
    while error is not None:
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        file = Path(frame.tb_frame.f_code.co_filename) if frame is not None else Path()
        line = linecache.getline(str(file), frame.tb_lineno).strip() if frame is not None else ""
        if Path(__file__).parent in file.parents and line.startswith("raise "):
            return error
        if isinstance(error, ValueError) and "lightning" in file.parts and line.startswith("raise "):
            return error
        if isinstance(error, OSError) or type(error).__name__ == "MisconfigurationException":
            return error
        if "jsonargparse" not in file.parts:
            return None
        error = error.__cause__ or error.__context__
    return ValueError(wrapped[0]) if wrapped else None
