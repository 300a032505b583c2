"""Chat templates compiled so that every rendering ends: the rounds of its loops, its time and its text have a limit.

A template comes with a tokenizer that somebody published, and Jinja sets no such limits: three nested loops run for years,
and `'a' * 10 ** 10` takes all memory. The text is the one of transformers: its environment is taken as it is, and only what
each loop runs over is wrapped, to count the rounds. Memory has a limit while a template is compiled and tried on a small
chat, which is where a broken template shows; Linux alone can set one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from jinja2 import Environment, Template, nodes

__all__ = ["BoundedTemplate", "Rendered", "TemplateRunsOn", "Watcher", "compiled"]

_ROUNDS = 10_000_000
_SECONDS = 20.0
_CHARACTERS = 1 << 26
_PER_CHARACTER = 8  # of the messages, beside those
_BITS = 1 << 20
_MEMORY = 1 << 31
_LOOK = 1024  # rounds between two looks at the clock
_WATCH, _ROUNDS_OF, _BEGIN, _END = "fulgurite_watch", "fulgurite_rounds", "fulgurite_begin", "fulgurite_end"
_ADVICE = "correct it, or choose another template"
_TRIED: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "a"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
]


class TemplateRunsOn(ValueError):
    """A template that does not end, or that writes or needs more than any chat does."""


class Watcher(Protocol):
    """Who is told how a rendering goes on (see fulgurite.data.encoding.prefixes)."""

    def wrote(self, characters: int) -> None:
        """So many characters have been written in all."""

    def opened(self, items: Any, loop: int | None) -> Iterable[Any]:
        """A loop begins to run over `items`; its number, where it stands outside of any other statement."""

    def round_ended(self, loop: int) -> None:
        """One round of such a loop is over."""


class Rendered(NamedTuple):
    """A chat as text, and the stretches of characters that `{% generation %}` marks."""

    text: str
    marks: list[tuple[int, int]]


class _Limits:
    """What one rendering has used."""

    def __init__(self, characters: int, watcher: Watcher | None) -> None:
        self.characters = characters
        self.watcher = watcher
        self.written = 0
        self.rounds = 0
        self.until = monotonic() + _SECONDS

    def wrote(self, characters: int) -> None:
        self.written += characters
        if self.written > self.characters:
            raise TemplateRunsOn(
                f"the chat template writes more than {self.characters:,} characters for one chat; {_ADVICE}"
            )
        if self.watcher is not None:
            self.watcher.wrote(self.written)

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.round_begins()
            yield item

    def round_begins(self) -> None:
        self.rounds += 1
        if self.rounds % _LOOK:
            return
        if self.rounds > _ROUNDS:
            raise TemplateRunsOn(
                f"the chat template does not end within {_ROUNDS:,} rounds of its loops and macros; {_ADVICE}"
            )
        if monotonic() > self.until:
            raise TemplateRunsOn(
                f"the chat template does not end within {_SECONDS:.0f} seconds for one chat; {_ADVICE}"
            )


class BoundedTemplate:
    """A compiled chat template.

    Args:
        source: its Jinja text.

    Attributes:
        tree: The parsed text, before anything was added.
        loops: The loops that stand outside of any other statement, by their numbers.

    Raises:
        jinja2.TemplateSyntaxError: the text is no Jinja.
        TemplateRunsOn: the template does not end, or needs more than 2 GiB, for a question and an answer of one letter.
        ImportError: this version of transformers compiles its templates elsewhere.
    """

    def __init__(self, source: str) -> None:
        from jinja2 import nodes

        self._environment = _environment()
        self._track = getattr(self._environment, "activate_tracker", None)
        try:
            with _limited_memory():
                self.tree = self._environment.parse(source)
                self.loops = [node for node in self.tree.body if isinstance(node, nodes.For)]
                self._template = _watched(self._environment, source)
                self._try()
        except MemoryError as error:
            raise TemplateRunsOn(
                f"the chat template needs more than {_MEMORY >> 30} GiB of memory for a short chat; {_ADVICE}"
            ) from error

    def render(
        self, messages: Any, add_generation_prompt: bool, variables: dict[str, Any], watcher: Watcher | None = None
    ) -> Rendered:
        """The text of a chat.

        Args:
            messages: a list of dicts, or what stands for one.
            add_generation_prompt: whether the beginning of an answer is written behind them.
            variables: all others that the template may read.
            watcher: who is told how far it is.

        Raises:
            TemplateRunsOn: a limit was reached.
        """
        size = sum(len(m.get("content") or "") for m in messages) if isinstance(messages, list) else 0
        limits = _Limits(_CHARACTERS + _PER_CHARACTER * size, watcher)
        blocks: list[str] = []
        marks: list[tuple[int, int]] = []
        given = {**variables, "messages": messages, "add_generation_prompt": add_generation_prompt, _WATCH: limits}
        with self._track(blocks, marks) if self._track is not None else nullcontext():
            for block in self._template.generate(given):
                blocks.append(block)
                limits.wrote(len(block))
        return Rendered("".join(blocks), [(int(start), int(end)) for start, end in marks])

    def _try(self) -> None:
        for messages in _TRIED:
            for prompt in (True, False):
                try:
                    self.render(messages, prompt, {"tools": None, "documents": None, "bos_token": "", "eos_token": ""})
                except (TemplateRunsOn, MemoryError):
                    raise
                except Exception:  # what a template refuses of so short a chat is told where a chat is refused
                    continue


@lru_cache(maxsize=64)
def compiled(source: str) -> BoundedTemplate:
    """The template of this text, compiled once; errors as of :class:`BoundedTemplate`.

    Args:
        source: its Jinja text.
    """
    return BoundedTemplate(source)


def _environment() -> Environment:
    """An environment as transformers makes it for chat templates, with products and powers that have a limit."""
    from jinja2 import pass_context
    from transformers.utils.chat_template_utils import _compile_jinja_template

    theirs: Any = _compile_jinja_template("").environment
    mine: Any = type(theirs)(
        trim_blocks=theirs.trim_blocks,
        lstrip_blocks=theirs.lstrip_blocks,
        extensions=[type(extension) for extension in theirs.extensions.values()],
    )
    for table in ("filters", "globals", "tests", "policies"):
        getattr(mine, table).update(getattr(theirs, table))
    mine.intercepted_binops = mine.intercepted_binops | {"*", "**"}
    mine.binop_table.update({"*": _product, "**": _power})

    @pass_context
    def rounds(context: Any, items: Any, loop: int | None) -> Iterator[Any]:
        limits: _Limits = context[_WATCH]
        return limits.counted(items if limits.watcher is None else limits.watcher.opened(items, loop))

    @pass_context
    def begin(context: Any, _: None) -> None:
        limits: _Limits = context[_WATCH]
        limits.round_begins()

    @pass_context
    def end(context: Any, loop: int) -> None:
        limits: _Limits = context[_WATCH]
        if limits.watcher is not None:
            limits.watcher.round_ended(loop)

    mine.filters.update({_ROUNDS_OF: rounds, _BEGIN: begin, _END: end})
    found: Environment = mine
    return found


def _watched(environment: Environment, source: str) -> Template:
    """The template with what each loop runs over wrapped, and marks: where whatever can call itself begins, and where a round of
    an outermost loop ends."""
    from jinja2 import nodes

    tree = environment.parse(source)
    numbers = {id(node): i for i, node in enumerate(n for n in tree.body if isinstance(n, nodes.For))}
    for loop in list(tree.find_all(nodes.For)):
        number = numbers.get(id(loop))
        loop.iter = _filter(loop.iter, _ROUNDS_OF, [nodes.Const(number)], loop.lineno)
        if number is not None:
            loop.body.append(nodes.ExprStmt(_filter(nodes.Const(number), _END, [], loop.lineno), lineno=loop.lineno))
    found: list[Any] = list(tree.find_all((nodes.Macro, nodes.CallBlock, nodes.Block, nodes.For)))
    for node in found:
        if not isinstance(node, nodes.For) or node.recursive:
            begin = _filter(nodes.Const(None), _BEGIN, [], node.lineno)
            node.body.insert(0, nodes.ExprStmt(begin, lineno=node.lineno))
    tree.set_environment(environment)
    return environment.from_string(tree)


def _filter(node: Any, name: str, arguments: list[nodes.Expr], line: int) -> nodes.Filter:
    from jinja2 import nodes

    return nodes.Filter(node, name, arguments, [], None, None, lineno=line)


def _product(left: Any, right: Any) -> Any:
    for items, times in ((left, right), (right, left)):
        if (
            isinstance(times, int)
            and isinstance(items, str | bytes | list | tuple)
            and len(items) * times > _CHARACTERS
        ):
            raise TemplateRunsOn(f"the chat template repeats a text or a list {times:,} times; {_ADVICE}")
    return left * right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _BITS:
        raise TemplateRunsOn(f"the chat template computes a number of more than {_BITS:,} bits; {_ADVICE}")
    return left**right


@contextmanager
def _limited_memory() -> Iterator[None]:
    """Lets the process take 2 GiB more at most; a MemoryError then says that it wanted them. Linux only."""
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    wanted = now + _MEMORY
    if any(limit != resource.RLIM_INFINITY and limit <= wanted for limit in (soft, hard)):
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
