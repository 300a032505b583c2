"""All beginnings of a chat out of one rendering, where the template provably writes them so.

A conversation of n answers needs the text of each of its beginnings, and rendering every one of them costs n² messages. Most
templates go through the messages once, from the first to the last, in one loop. Such a rendering is watched: the template gets
something in place of the list of messages that hands out one message after the other and notices every other look at it. As
long as the template has seen nothing but the first k messages it does exactly what it would do for a chat that ends there. So
what it has written when it asks for message k + 1, with the loop's last round over, is what it writes for the first k
messages, and what follows is what it writes behind its loop. That is the same for all k where it reads nothing that a round of
the loop can change, which the template's syntax tree shows: no message, no namespace, no macro, no cycler.

Whatever else a template does (`loop.last`, `messages[-1]`, `messages | length`, a second loop, `break`) ends the attempt, and
each beginning is rendered by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from fulgurite.data.encoding.bounded import BoundedTemplate, Rendered

__all__ = ["Beginnings", "beginnings"]

# Filters and functions whose results nobody can change, and that keep nothing between two calls.
_FILTERS = frozenset(
    {"trim", "string", "lower", "upper", "capitalize", "title", "length", "count", "int", "tojson", "default"}
)
_FUNCTIONS = frozenset({"strftime_now", "raise_exception"})


class Beginnings:
    """What a template writes for the first n messages of a chat; see :func:`beginnings`.

    Args:
        rendered: of the whole chat.
        lengths: characters written when each message was asked for; the last one when it was found that there are no more.
        least: the fewest messages for which this holds.
    """

    def __init__(self, rendered: Rendered, lengths: dict[int, int], least: int) -> None:
        self._rendered, self._lengths, self._least = rendered, lengths, least
        self._tail = rendered.text[lengths[max(lengths)] :]

    def of(self, count: int) -> Rendered | None:
        """The text and the marks of the first messages; None where they have to be rendered.

        Args:
            count: how many messages.
        """
        at = self._lengths.get(count)
        if at is None or count < self._least:
            return None
        return Rendered(self._rendered.text[:at] + self._tail, [mark for mark in self._rendered.marks if mark[1] <= at])


def beginnings(
    template: BoundedTemplate, messages: list[dict[str, Any]], add_generation_prompt: bool, variables: dict[str, Any]
) -> Beginnings | None:
    """What a template writes for every beginning of a chat; None where one rendering does not tell.

    Args:
        template: compiled.
        messages: of the whole chat.
        add_generation_prompt: as in :meth:`BoundedTemplate.render`.
        variables: as there.
    """
    usable = _usable_loops(template)
    if not usable:
        return None
    seen = _Seen(messages, usable)
    try:
        rendered = template.render(_Messages(seen, 0), add_generation_prompt, variables, seen)
    except Exception:  # whatever it is, it comes again, or not, when the beginnings are rendered by themselves
        return None
    end = seen.lengths.get(len(messages))
    if seen.spoilt or not seen.ended or end is None or any(stop > end for _, stop in rendered.marks):
        return None
    return Beginnings(rendered, seen.lengths, seen.least)


class _Looked(Exception):
    """The template looked at messages that a shorter chat does not have, or at their number."""


class _Seen:
    """What a rendering has learnt of the messages.

    Attributes:
        lengths: Characters written when each message was asked for.
        least: The fewest messages for which it has learnt nothing else so far.
        spoilt: Whether it has looked at more.
        ended: Whether it knows that there are no more messages.
    """

    def __init__(self, messages: list[dict[str, Any]], usable: frozenset[int]) -> None:
        self.messages, self._usable = messages, usable
        self.lengths: dict[int, int] = {}
        self.least = 1
        self.spoilt = False
        self.ended = False
        self.taken = 0
        self._written = 0
        self._loop: int | None = None
        self._inside = False

    def wrote(self, characters: int) -> None:
        self._written = characters

    def opened(self, items: Any, loop: int | None) -> Iterable[Any]:
        if not isinstance(items, _Messages):
            return items  # type: ignore[no-any-return]
        if loop is None or loop not in self._usable or self._loop is not None:
            self.look()
        self._loop = loop
        self.least = max(self.least, items._first + 1)
        return self._hand_out(items._first)

    def round_ended(self, loop: int) -> None:
        if loop == self._loop:
            self._inside = False

    def _hand_out(self, first: int) -> Iterator[dict[str, Any]]:
        for place in range(first, len(self.messages) + 1):
            if self._inside:  # asked for in the middle of a round: `loop.last` and its like look ahead
                self.look()
            self.lengths[place] = self._written
            if place == len(self.messages):
                self.ended = True
                return
            self.taken, self._inside = place + 1, True
            yield self.messages[place]

    def look(self) -> None:
        self.spoilt = True  # remembered, because some of Jinja's tests swallow exceptions
        raise _Looked


class _Messages:
    """Stands for the list of messages from the number `first` on. What it does not know as known is a look."""

    def __init__(self, seen: _Seen, first: int) -> None:
        self._seen, self._first = seen, first

    def __getitem__(self, index: Any) -> Any:
        seen = self._seen
        if seen.ended:
            seen.look()
        if isinstance(index, slice):
            start = 0 if index.start is None else index.start
            if index.stop is not None or index.step not in (None, 1) or type(start) is not int or start < 0:
                seen.look()
            seen.least = max(seen.least, self._first + start)
            return _Messages(seen, self._first + start)
        if type(index) is not int or index < 0 or self._first + index >= max(seen.taken, 1):
            seen.look()
        return seen.messages[self._first + index]

    def __bool__(self) -> bool:
        if self._seen.ended or self._first >= len(self._seen.messages):
            self._seen.look()
        self._seen.least = max(self._seen.least, self._first + 1)
        return True

    def _look(self, *_: Any) -> Any:
        self._seen.look()

    __len__ = __iter__ = __contains__ = __reversed__ = __eq__ = __ne__ = __str__ = __repr__ = _look
    __add__ = __radd__ = __mul__ = __rmul__ = __lt__ = __le__ = __gt__ = __ge__ = __format__ = __getattr__ = _look
    __hash__ = None  # type: ignore[assignment]


@lru_cache(maxsize=64)
def _usable_loops(template: BoundedTemplate) -> frozenset[int]:
    """The outermost loops behind which the template reads nothing that their rounds can change."""
    constants = _Constants(template.tree)
    usable = set()
    for number, loop in enumerate(template.loops):
        behind = template.tree.body[template.tree.body.index(loop) + 1 :]
        if not loop.recursive and not loop.else_ and constants.only(behind):
            usable.add(number)
    return frozenset(usable)


class _Constants:
    """Which names of a template stand for values that no statement can change once they are set."""

    def __init__(self, tree: Any) -> None:
        from jinja2 import nodes

        self._nodes = nodes
        self._values: dict[str, list[Any]] = {}
        set_otherwise = {"self", "caller", "varargs", "kwargs"}
        targets = {
            id(n.target) for n in tree.find_all((nodes.Assign, nodes.AssignBlock)) if isinstance(n.target, nodes.Name)
        }
        for node in tree.find_all((nodes.Name, nodes.Macro, nodes.Import, nodes.FromImport)):
            if isinstance(node, nodes.Macro):
                set_otherwise.add(node.name)
            elif isinstance(node, nodes.Import):
                set_otherwise.add(node.target)
            elif isinstance(node, nodes.FromImport):
                set_otherwise |= {name if isinstance(name, str) else name[1] for name in node.names}
            elif node.ctx != "load" and id(node) not in targets:
                set_otherwise.add(node.name)
        for assignment in tree.find_all(nodes.Assign):
            if isinstance(assignment.target, nodes.Name):
                self._values.setdefault(assignment.target.name, []).append(assignment.node)
        for block in tree.find_all(nodes.AssignBlock):  # its value is text
            if block.filter is not None:
                set_otherwise |= {name.name for name in [block.target] if isinstance(name, nodes.Name)}
        self._changing = self._spread(set_otherwise)

    def _spread(self, changing: set[str]) -> set[str]:
        """The names that may change, and those whose values are made of them or of what cannot be told."""
        before = -1
        while len(changing) > before:
            before = len(changing)
            for name, values in self._values.items():
                if not all(self._settled(value, changing) for value in values):
                    changing.add(name)
        return changing

    def _settled(self, value: Any, changing: set[str]) -> bool:
        nodes = self._nodes
        allowed = (
            nodes.Const, nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Compare, nodes.Operand, nodes.UnaryExpr,
            nodes.BinExpr, nodes.CondExpr, nodes.Concat, nodes.Test, nodes.Filter, nodes.Call, nodes.List, nodes.Tuple, nodes.Dict,
            nodes.Pair, nodes.Keyword,
        )  # fmt: skip
        for node in [value, *value.find_all(nodes.Node)]:
            if not isinstance(node, allowed):
                return False
            if isinstance(node, nodes.Name) and node.name in changing:
                return False
            if isinstance(node, nodes.Filter) and node.name not in _FILTERS:
                return False
            if isinstance(node, nodes.Call) and not self._pure(node):
                return False
        return True

    def _pure(self, call: Any) -> bool:
        """A method, of a value that cannot change, or one of a few functions."""
        called = call.node
        return isinstance(called, self._nodes.Getattr) or (
            isinstance(called, self._nodes.Name) and called.name in _FUNCTIONS
        )

    def only(self, statements: Sequence[Any]) -> bool:
        """Whether these statements read nothing else."""
        nodes = self._nodes
        for statement in statements:
            if any(n.name in self._changing for n in statement.find_all(nodes.Name) if n.ctx == "load"):
                return False
        return True
