"""Typed values as bytes: what the judge and the candidate tell each other. Never pickle: a value that is read can only
be a plain one.

One tag byte, then the value. None, bool, int of any size, float, complex, str, bytes, tuple and frozenset go by value;
list, dict, set, bytearray, deque, Counter, OrderedDict and defaultdict are *containers*: each gets a number when it is
first written, later mentions are that number, so shared and cyclic structures keep their shape. :class:`Encoder` and
:class:`Decoder` may start from containers that both sides already know (the arguments of a call): an answer can then
say what became of them.

Decimal, Fraction, dates, range, the views of a dict and classes of ``builtins`` are written as a name and plain fields
(:mod:`.named`). An instance of a subclass of a plain type is sent as that plain type's value: what its class overrides
does not travel. Anything else is a *handle*: a number in the sender's table, with the name of its type.
"""

import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

from .named import FROM_NAME, name_of

__all__ = ["MAX_DEPTH", "MAX_MESSAGE", "Decoder", "Encoder", "WireError"]

MAX_DEPTH = 200
MAX_MESSAGE = 16 * 2**20
_U32 = struct.Struct(">I")
_I64 = struct.Struct(">q")
_F64 = struct.Struct(">d")
_C128 = struct.Struct(">dd")
_SMALL = 2**63

KINDS: dict[type, bytes] = {
    list: b"l",
    dict: b"d",
    set: b"s",
    bytearray: b"b",
    deque: b"q",
    Counter: b"c",
    OrderedDict: b"o",
    defaultdict: b"D",
}
MAKE: dict[bytes, Callable[[], Any]] = {kind: cls for cls, kind in KINDS.items()}
_MAPPINGS = b"dcoD"
_PLAIN = (bool, int, float, complex, str, bytes, tuple, frozenset, *KINDS)


class WireError(Exception):
    """A message that no honest partner writes, or a value that cannot be written."""


class Encoder:
    """Writes values.

    Args:
        give: turns an object that cannot travel into (mine, number, type name): ``mine`` is False for a handle of the
            partner's.
        known: containers that both sides know already, by number.
    """

    def __init__(self, give: Callable[[Any], tuple[bool, int, str]], known: list[Any] | None = None) -> None:
        self.give = give
        self.out = bytearray()
        self.containers: list[Any] = list(known or [])
        self._numbers = {id(item): number for number, item in enumerate(self.containers)}

    def value(self, item: Any, depth: int = 0) -> "Encoder":
        """Append one value."""
        if depth > MAX_DEPTH:
            raise WireError(f"a value is nested more than {MAX_DEPTH} levels deep")
        write = _BY_TYPE.get(type(item))
        if write is not None:
            write(self, item, depth)
        elif type(item) in KINDS:
            self._container(item, depth)
        else:
            self._other(item, depth)
        if len(self.out) > MAX_MESSAGE:
            raise WireError(f"a value is larger than {MAX_MESSAGE} bytes")
        return self

    def contents(self, item: Any, depth: int = 0) -> None:
        """What a container holds, without its number."""
        if isinstance(item, bytearray):
            self._bytes(b"", bytes(item))
            return
        if isinstance(item, dict):
            self.out += _U32.pack(len(item))
            for key, held in item.items():
                self.value(key, depth + 1)
                self.value(held, depth + 1)
            return
        held_items = list(item)
        self.out += _U32.pack(len(held_items))
        for held in held_items:
            self.value(held, depth + 1)

    def _container(self, item: Any, depth: int) -> None:
        number = self._numbers.get(id(item))
        if number is not None:
            self.out += b"K" + _U32.pack(number)
            return
        self._numbers[id(item)] = len(self.containers)
        self.containers.append(item)  # also keeps it alive, so that no other object gets its id
        self.out += b"C" + KINDS[type(item)]
        self.contents(item, depth)

    def _other(self, item: Any, depth: int) -> None:
        named = name_of(item)
        if named is not None:
            name, fields = named
            self._bytes(b"x", name.encode())
            self.value(fields, depth + 1)
            return
        plain = next(
            (cls for cls in _PLAIN if issubclass(type(item), cls)), None
        )  # what ``__class__`` says does not count
        if plain is not None:
            self.value(_plain_value(plain, item), depth)
            return
        mine, number, name = self.give(item)
        self._bytes((b"m" if mine else b"y") + _U32.pack(number), name.encode("utf-8", "replace")[:200])

    def _bytes(self, tag: bytes, data: bytes) -> None:
        self.out += tag + _U32.pack(len(data)) + data

    def _int(self, item: int, depth: int) -> None:
        if -_SMALL <= item < _SMALL:
            self.out += b"i" + _I64.pack(item)
        else:
            self._bytes(b"I", item.to_bytes(item.bit_length() // 8 + 1, "big", signed=True))

    def _sequence(self, tag: bytes, item: Any, depth: int) -> None:
        self.out += tag + _U32.pack(len(item))
        for held in item:
            self.value(held, depth + 1)

    def _constant(self, tag: bytes) -> None:
        self.out += tag


def _plain_value(plain: type, item: Any) -> Any:
    """The value that an instance of a subclass has as the plain type itself; overridden methods are not asked."""
    if plain is int:
        return int.__add__(item, 0)
    if plain is float:
        return float.__add__(item, 0.0) if item == item else float("nan")
    if plain is complex:
        return complex.__add__(item, 0)
    if plain is str:
        return str.__str__(item) if type(str.__str__(item)) is str else "".join(str.__iter__(item))
    if plain is bytes:
        return bytes(bytearray(item))
    if plain in (dict, Counter, OrderedDict, defaultdict):
        made = plain()
        for key, held in plain.items(item):
            made[key] = held
        return made
    return plain(plain.__iter__(item))


_BY_TYPE: dict[type, Callable[[Encoder, Any, int], None]] = {
    type(None): lambda e, item, depth: e._constant(b"N"),
    bool: lambda e, item, depth: e._constant(b"T" if item else b"F"),
    int: Encoder._int,
    float: lambda e, item, depth: e._constant(b"f" + _F64.pack(item)),
    complex: lambda e, item, depth: e._constant(b"c" + _C128.pack(item.real, item.imag)),
    str: lambda e, item, depth: e._bytes(b"s", item.encode("utf-8", "surrogatepass")),
    bytes: lambda e, item, depth: e._bytes(b"b", item),
    tuple: lambda e, item, depth: e._sequence(b"t", item, depth),
    frozenset: lambda e, item, depth: e._sequence(b"z", item, depth),
}


class Decoder:
    """Reads values; every length is checked before anything of it is built.

    Args:
        data: the message.
        take: turns (mine, number, type name) into what stands for a handle here; ``mine`` as the sender sees it.
        known: containers that both sides know already, by number.
    """

    def __init__(self, data: bytes, take: Callable[[bool, int, str], Any], known: list[Any] | None = None) -> None:
        self.data = data
        self.at = 0
        self.take = take
        self.containers: list[Any] = list(known or [])

    def value(self, depth: int = 0) -> Any:
        """The next value."""
        if depth > MAX_DEPTH + 2:
            raise WireError("a value is nested too deep")
        tag = self._read(1)
        if tag in _CONSTANTS:
            return _CONSTANTS[tag]
        if tag == b"i":
            return _I64.unpack(self._read(8))[0]
        if tag == b"f":
            return _F64.unpack(self._read(8))[0]
        if tag == b"s":
            return self._text()
        if tag == b"C":
            return self._container(depth)
        if tag == b"t":
            return tuple([self.value(depth + 1) for _ in range(self._count())])
        if tag == b"K":
            return self._known()
        return self._rare(tag, depth)

    def fill(self, item: Any, depth: int = 0) -> None:
        """Read a container's contents into ``item``, in place."""
        if isinstance(item, bytearray):
            item[:] = self._read(self._count())
            return
        count = self._count()
        if isinstance(item, dict):
            pairs = [(self._key(depth), self.value(depth + 1)) for _ in range(count)]
            item.clear()
            for key, value in pairs:
                item[key] = value
        elif isinstance(item, set):
            members = [self._key(depth) for _ in range(count)]
            item.clear()
            item.update(members)
        else:
            members = [self.value(depth + 1) for _ in range(count)]
            item.clear()
            item.extend(members)

    def _container(self, depth: int) -> Any:
        make = MAKE.get(self._read(1))
        if make is None:
            raise WireError("an unknown kind of container")
        item = make()
        self.containers.append(item)
        self.fill(item, depth)
        return item

    def _known(self) -> Any:
        number = self._u32()
        if number >= len(self.containers):
            raise WireError("a mention of an unknown container")
        return self.containers[number]

    def _key(self, depth: int) -> Any:
        key = self.value(depth + 1)
        try:
            hash(key)
        except TypeError as error:
            raise WireError(f"a key that cannot be hashed: {error}") from None
        return key

    def _rare(self, tag: bytes, depth: int) -> Any:
        if tag == b"I":
            return int.from_bytes(self._read(self._count()), "big", signed=True)
        if tag == b"b":
            return self._read(self._count())
        if tag == b"c":
            return complex(*_C128.unpack(self._read(16)))
        if tag == b"z":
            return frozenset([self._key(depth) for _ in range(self._count())])
        if tag == b"x":
            name = self._text()
            fields = self.value(depth + 1)
            build = FROM_NAME.get(name)
            if build is None:
                raise WireError(f"an unknown named type {name[:60]!r}")
            try:
                return build(fields)
            except Exception as error:
                raise WireError(f"no {name} has these fields ({type(error).__name__})") from None
        if tag in (b"m", b"y"):
            number = self._u32()
            return self.take(tag == b"m", number, self._text())
        raise WireError(f"an unknown tag {tag!r}")

    def _read(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        if len(found) != count:
            raise WireError("a message that ends too early")
        self.at += count
        return found

    def _u32(self) -> int:
        return _U32.unpack(self._read(4))[0]

    def _count(self) -> int:
        count = self._u32()
        if count > len(self.data) - self.at:  # every item takes at least one byte
            raise WireError("a length beyond the message's end")
        return count

    def _text(self) -> str:
        try:
            return self._read(self._count()).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise WireError("text that is not UTF-8") from None


_CONSTANTS: dict[bytes, Any] = {b"N": None, b"T": True, b"F": False}
