"""Parsers that answer a mistake with one sentence and the nearest name.

jsonargparse tries every member of a type and reports all that failed, so that a misspelt option of a module ends in a
page about unions. Here each inner parser (which reads the options of one class) writes down a short answer to the error
that it raises. If that error reaches the outermost parser, it prints the short answer, otherwise jsonargparse's message.
"""

import difflib
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from fulgurite.commands.shared.configuration import wrong_configuration
from fulgurite.console import shortest

__all__ = ["CommandParser", "TrainerParser", "nearest"]

_UNKNOWN_OPTION = re.compile(r"(?:Option|does not accept option) '([^']+)'")
_UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_NO_VALUE = re.compile(r"argument (?:-\w/)?(--\S+): expected (?:one|at least one) argument")
_NO_FILE = re.compile(r"Parser key \"(?:\w+\.)?config\": (File does not exist|Path is not a file|.*): '([^']+)'")
_MISSING = re.compile(r"arguments are required: (.+)")
_UNRECOGNIZED = re.compile(r"unrecognized arguments: (.+)", re.DOTALL)
_WRONG_VALUE = re.compile(r"Expected (?:an? )?(.+?)\. Got value: (.+)", re.DOTALL)
_REFUSED_VALUE = re.compile(r"Subtypes: \[(.+?)\]\n.*Given value: (.+)", re.DOTALL)
_KEY = re.compile(r"Parser key \"([^\"]+)\"")
_DOTTED = re.compile(r"(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*")


def nearest(name: str, known: Iterable[str]) -> str:
    """The sentence that proposes the known name most like the one given, or nothing.

    Args:
        name: what was typed
        known: the names that exist
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f" Did you mean {by_lower[found[0]]!r}?" if found else ""


def _subclasses(base: type) -> list[type]:
    found: list[type] = []
    direct: list[type] = base.__subclasses__()
    for cls in direct:
        if not cls.__name__.startswith("_") and not inspect.isabstract(cls):
            found.append(cls)
        found.extend(_subclasses(cls))
    return found


def _classes_allowed(message: str) -> list[str]:
    """Names of the concrete classes that the base classes named in a message allow, ours first."""
    names: dict[str, bool] = {}
    subtypes = re.search(r"Subtypes: (.+)", message)
    for path in _DOTTED.findall(subtypes.group(1) if subtypes else message):
        module, _, name = path.rpartition(".")
        try:
            base = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
        if isinstance(base, type):
            for cls in _subclasses(base) or [base]:
                names[cls.__name__] = cls.__module__.startswith("fulgurite")
    return sorted(names, key=lambda name: (not names[name], name))


def _allowed(types: str) -> str:
    """Types as a message of jsonargparse writes them, in words: values of literals, names of classes."""
    types = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", types)
    types = re.sub(r"typing\.Literal\[([^\]]*)\]", r"\1", types)
    return types.replace(", NoneType", " or null").replace("typing.", "")


def _whole_numbers_first(kind: Any) -> Any:
    """A union in which int stands before float, so that 1 stays a number of batches and does not become 1.0, all of them.

    `typing` takes Optional[Union[int, float]] and Optional[Union[float, int]] for the same and gives whichever any imported package
    wrote first; jsonargparse tries the members in their order.
    """
    members = list(typing.get_args(kind)) if typing.get_origin(kind) in (typing.Union, types.UnionType) else []
    if float not in members or int not in members or members.index(int) < members.index(float):
        return kind
    a, b = members.index(float), members.index(int)
    members[a], members[b] = int, float
    return typing.Union[tuple(members)]  # noqa: UP007  of a list


def _listing(names: list[str], most: int = 24) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class _NearestName:
    """Mixin of a jsonargparse parser; see the module's docstring."""

    # Answers of the inner parsers of this process by the text of the error that they answer; read once, then emptied.
    _answers: dict[str, str] = {}  # noqa: RUF012  shared by all parsers on purpose: inner parsers are made by jsonargparse
    _owner = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        # An abbreviation that happens to be unique today is a different option tomorrow.
        options.setdefault("allow_abbrev", False)
        super().__init__(*args, **options)

    def add_class_arguments(self, theclass: type, *args: Any, **options: Any) -> Any:
        """Adds the options of a class, and remembers whose they are.

        Args:
            theclass: the class
            args: as jsonargparse's
            options: as jsonargparse's
        """
        if not self.exit_on_error:  # type: ignore[attr-defined]
            self._owner = getattr(theclass, "__name__", str(theclass))
        added = super().add_class_arguments(theclass, *args, **options)  # type: ignore[misc]
        for action in self._actions:  # type: ignore[attr-defined]
            if hasattr(action, "_typehint"):
                action._typehint = _whole_numbers_first(action._typehint)
        return added

    def parse_args(self, args: Any = None, *further: Any, **options: Any) -> Any:
        """Parses; a file among the words that is not UTF-8, or is no configuration, is one sentence.

        Args:
            args: the words
            further: as jsonargparse's
            options: as jsonargparse's
        """
        _hashes_are_letters()
        for name in _config_files(args or []):
            if (wrong := wrong_configuration(Path(name))) is not None:
                self.error(f"--config {wrong}")
        try:
            return super().parse_args(args, *further, **options)  # type: ignore[misc]
        except UnicodeDecodeError as error:
            named = next((word for word in _values(args or []) if _is_broken(word)), None)
            if named is None:
                raise
            self.error(
                f"{named}: byte {error.start} (0x{error.object[error.start]:02x}) is not UTF-8; save the file as UTF-8"
            )

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Says what is wrong in one sentence and exits with 2; an inner parser raises to the outer one instead.

        Args:
            message: jsonargparse's message
            ex: its cause
        """
        if not self.exit_on_error:  # type: ignore[attr-defined]
            answer = self._explain(message)
            if answer:
                self._answers.setdefault(message.strip(), answer)  # the innermost parser, first to fail, knows best
            super().error(message, ex)  # type: ignore[misc]
        noted = [answer for text, answer in self._answers.items() if _same(text, message)]
        self._answers.clear()
        answer = noted[0] if noted else self._explain(message) or message
        sys.stderr.write(f"fulgurite: error: {answer}\n")
        sys.exit(2)

    def _options(self) -> list[str]:
        skipped = ("help", "config", "print_config", "print_shtab", "subcommand")
        return [a.dest for a in self._actions if a.dest not in skipped and not a.dest.endswith(".help")]  # type: ignore[attr-defined]

    def _explain(self, message: str) -> str | None:
        """The short answer to a message about this parser's own options, None where there is none."""
        if match := _NO_VALUE.search(message):
            return f"{match.group(1)} stands without a value; write {match.group(1)} VALUE"
        if match := _NO_FILE.search(message):
            what = "is a folder" if "not a file" in match.group(1) else "no such file"
            return f"--config {shortest(match.group(2))}: {what}; give a YAML file with options"
        if match := _MISSING.search(message):
            return self._explain_missing(match.group(1))
        if match := _UNKNOWN_CLASS.search(message):
            return self._explain_class(match.group(1), message)
        if "before subcommand" in message:
            return "the verb comes first: write `fulgurite fit --config FILE`, not `fulgurite --config FILE fit`"
        if match := _UNKNOWN_OPTION.search(message):
            return self._explain_option(match.group(1), message)
        if match := _UNRECOGNIZED.search(message):
            return self._explain_option(match.group(1).split()[0].lstrip("-").split("=")[0].rstrip("+"), message)
        if match := _WRONG_VALUE.search(message):
            key = _KEY.search(message)
            allowed = _allowed(match.group(1))
            where = f"{self._owner}: " if self._owner else ""
            value = match.group(2).strip().splitlines()[0]
            return f"{where}option {key.group(1) if key else '?'!r} was given {value!r}; what is allowed: {allowed}"
        if match := _REFUSED_VALUE.search(message):
            key = _KEY.search(message)
            kinds = _allowed(match.group(1))
            where = f"{self._owner}: " if self._owner else ""
            value = match.group(2).strip().splitlines()[0]
            return f"{where}option {key.group(1) if key else '?'!r} was given {value!r}; what is allowed: {kinds}"
        return None

    def _explain_missing(self, names: str) -> str:
        missing = [name.strip() for name in names.split(",")]
        if self._owner:
            return f"{self._owner} needs a value for {', '.join(repr(name) for name in missing)}"
        bare = [name.split(".", 1)[-1] for name in missing]
        if any(
            name.endswith((".model", ".data")) for name in missing
        ):  # LightningCLI's options, which stand after the verb
            verb = missing[0].split(".")[0]
            return (
                f"{verb} needs {' and '.join('--' + name for name in bare)}, or a file that says them: "
                f"fulgurite {verb} --config FILE, or fulgurite {verb} --model SoRAModule --model.backbone NAME --data "
                "GLUEDataModule --data.task sst2"
            )
        return f"{getattr(self, 'prog', 'fulgurite')} needs {', '.join('--' + name for name in bare)}"

    def _explain_class(self, given: str, message: str) -> str:
        key = _KEY.search(message)
        where = f"{self._owner}.{key.group(1)}: " if self._owner and key else ""
        known = _classes_allowed(message)
        name = given.rpartition(".")[2]
        listing = f" Known: {_listing(known)}" if known else ""
        return f"{where}no class named {name!r}.{nearest(name, known)}{listing}"

    def _explain_option(self, option: str, message: str) -> str | None:
        options = self._options()
        if match := re.search(r"Subcommand '(\w+)'", message):
            choices = getattr(getattr(self, "_subcommands_action", None), "choices", None) or {}
            if match.group(1) in choices:
                options = choices[match.group(1)]._options()
        option = option.removeprefix("init_args.")
        if self._owner:
            guess, accepted = nearest(option, options), _listing(sorted(options))
            return f"{self._owner} has no option {option!r}.{guess} It accepts: {accepted}"
        if not any("." in name for name in options):
            return f"{self.prog} has no option {option!r}.{nearest(option, options)} It accepts: {_listing(options)}"  # type: ignore[attr-defined]
        section = option.split(".")[0]
        sections = sorted({name.split(".")[0] for name in options})
        if section not in sections:
            return f"no option {section!r}.{nearest(section, sections)} The sections are: {_listing(sections)}"
        inside = sorted(name for name in options if name.startswith(section + "."))
        accepted = f" {section} accepts: {_listing([name.split('.', 1)[1] for name in inside], 60)}" if inside else ""
        return f"no option {option!r}.{nearest(option, options)}{accepted}"


def _hashes_are_letters() -> None:
    """Has a value such as `#hash` read as it is written: as YAML it would be a comment, and the option would have no value."""
    loader = get_loader("yaml")
    if getattr(loader, "hashes_are_letters", False):
        return

    def load(text: str) -> Any:
        return text if text.lstrip().startswith("#") and "\n" not in text.strip() else loader(text)

    load.hashes_are_letters = True  # type: ignore[attr-defined]
    set_loader("yaml", load, (yaml.YAMLError,))


def _config_files(words: Iterable[str]) -> Iterator[str]:
    """The files that the words give as --config."""
    before = ""
    for word in words:
        if before in ("--config", "-c"):
            yield word
        elif word.startswith("--config="):
            yield word.partition("=")[2]
        before = word


def _values(words: Iterable[str]) -> Iterator[str]:
    """Words and the values behind their equals signs."""
    for word in words:
        yield word.partition("=")[2] if word.startswith("--") else word


def _is_broken(name: str) -> bool:
    """Whether a word names a file that is not UTF-8."""
    try:
        Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return True
    except (OSError, ValueError):
        pass
    return False


def _same(noted: str, message: str) -> bool:
    """Whether the text of an inner error is part of an outer message, which indents and wraps it."""
    return " ".join(noted.split()) in " ".join(message.split())


class TrainerParser(_NearestName, LightningArgumentParser):
    """The parser of fit, validate, test and predict."""


class CommandParser(_NearestName, ArgumentParser):
    """The parser of the further verbs."""
