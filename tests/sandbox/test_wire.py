"""Values on the wire: what comes back, what keeps its shape, and that rubbish is refused without harm."""

import math
import random
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from fulgurite.sandbox.inside.wire import Decoder, Encoder, WireError

PLAIN = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    2**63,
    -(2**63),
    -(2**63) - 1,
    10**5000,
    1.5,
    -0.0,
    math.inf,
    1 + 2j,
    "",
    "häß\0\ud800",
    b"\0\xff",
    (),
    (1, (2,)),
    [],
    [1, [2]],
    {},
    {"a": 1, (1, 2): [3]},
    set(),
    pytest.param({1, "a"}, id="a set whose order changes"),
    frozenset({frozenset({1})}),
    bytearray(b"x"),
    Decimal("1.10"),
    Decimal("NaN").copy_abs().is_nan(),
    Fraction(-3, 7),
    date(2026, 2, 3),
    datetime(2026, 2, 3, 4, 5, 6, 7),
    timedelta(3, 4, 5),
    range(2, 10, 3),
    ...,
    Counter("aab"),
    OrderedDict(b=1, a=2),
    deque([1, 2]),
    int,
    ValueError,
]


def nobody(item: Any) -> tuple[bool, int, str]:
    raise WireError(f"{type(item).__name__} cannot travel")


def sent(item: Any) -> Any:
    decoder = Decoder(bytes(Encoder(nobody).value(item).out), lambda *handle: handle)
    value = decoder.value()
    assert decoder.at == len(decoder.data)
    return value


@pytest.mark.parametrize("item", PLAIN, ids=lambda item: repr(item)[:30] if type(item) is not int else "int")
def test_a_plain_value_comes_back_with_its_type(item: Any) -> None:
    value = sent(item)
    assert type(value) is type(item)
    assert value == item


def test_zero_keeps_its_sign_and_order_is_kept() -> None:
    assert math.copysign(1, sent(-0.0)) == -1
    assert math.isnan(sent(math.nan))
    assert list(sent({"z": 1, "a": 2})) == ["z", "a"]
    assert sent({}.keys()) == set() and sent({"a": 1}.items()) == {("a", 1)}


def test_a_default_dict_comes_without_its_function() -> None:
    value = sent(defaultdict(list, {"a": [1]}))
    assert value == {"a": [1]} and value.default_factory is None


def test_an_instance_of_a_subclass_is_sent_as_the_plain_value_and_what_it_overrides_is_not_asked() -> None:
    class Number(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __int__(self) -> int:
            return 5

        __hash__ = int.__hash__

    class Text(str):
        def encode(self, *args: Any) -> bytes:
            return b"other"

    class Items(list):
        def __iter__(self) -> Any:
            return iter("no")

    Point = namedtuple("Point", "x y")
    for item, plain in (
        (Number(3), 3),
        (Number(2**70), 2**70),
        (Text("a"), "a"),
        (Items([1]), [1]),
        (Point(1, 2), (1, 2)),
    ):
        value = sent(item)
        assert type(value) is type(plain) and value == plain


def test_shared_and_cyclic_containers_keep_their_shape() -> None:
    inner: list[Any] = [1]
    value = sent([inner, inner, (inner,)])
    assert value[0] is value[1] is value[2][0]
    inner.append(inner)
    value = sent(inner)
    assert value[1] is value
    table: dict[str, Any] = {}
    table["self"] = table
    assert (found := sent(table))["self"] is found


def test_known_containers_are_filled_in_place() -> None:
    mine, theirs = (
        [[3, 1], {"a": 1}, {1}, bytearray(b"x"), deque([1])],
        [[3, 1], {"a": 1}, {1}, bytearray(b"x"), deque([1])],
    )
    theirs[0].sort()
    theirs[0].append(theirs[1])
    theirs[1]["b"] = theirs[0]
    theirs[2].add(2)
    theirs[3][:] = b"yz"
    theirs[4].appendleft(0)
    encoder = Encoder(nobody, theirs)
    for item in theirs:
        encoder.contents(item)
    before = list(mine)
    decoder = Decoder(bytes(encoder.out), lambda *handle: handle, mine)
    for item in mine:
        decoder.fill(item)
    assert all(new is old for new, old in zip(mine, before))
    assert mine[0][:2] == [1, 3] and mine[0][2] is mine[1] and mine[1]["b"] is mine[0]
    assert (mine[2], mine[3], mine[4]) == ({1, 2}, bytearray(b"yz"), deque([0, 1]))


def test_what_is_too_deep_or_too_large_or_unknown_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(1000):
        deep = [deep]
    for item in (deep, "x" * 20_000_000, [0] * 5_000_000, object(), lambda: 0):
        with pytest.raises(WireError):
            Encoder(nobody).value(item)


def test_arrays_of_numpy_travel_and_its_numbers_become_pythons() -> None:
    numpy = pytest.importorskip("numpy")
    value = sent(numpy.arange(6.0).reshape(2, 3))
    assert value.shape == (2, 3) and (value == numpy.arange(6.0).reshape(2, 3)).all()
    assert type(sent(numpy.float64(1.5))) is float and type(sent(numpy.bool_(True))) is bool
    with pytest.raises(WireError):
        sent(numpy.array([object()]))


def test_no_bytes_make_the_decoder_do_anything_but_refuse_or_return_plain_values() -> None:
    """Random messages, and true ones with random faults: a WireError or a value, never another exception."""
    draw = random.Random(0)
    seeds = [bytes(Encoder(nobody).value(item).out) for item in PLAIN if type(item) is not int]
    outcomes = Counter()
    for number in range(6000):
        if number % 2:
            data = bytes(draw.randrange(256) for _ in range(draw.randrange(40)))
        else:
            data = bytearray(draw.choice(seeds))
            for _ in range(draw.randrange(1, 4)):
                data[draw.randrange(len(data))] = draw.choice([0, 255, 1, *b"NTFIifcstzCKxmyldqo", draw.randrange(256)])
        try:
            Decoder(bytes(data), lambda *handle: None).value()
            outcomes["value"] += 1
        except WireError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 1000 and outcomes["value"] > 100
