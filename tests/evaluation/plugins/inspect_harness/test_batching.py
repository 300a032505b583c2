"""Requests that come together are answered together, and none waits for ever."""

import threading
from collections.abc import Sequence

import pytest

pytest.importorskip("anyio")

import anyio

from fulgurite.evaluation.plugins.inspect_harness.batching import Batches


def test_requests_gather_while_a_batch_runs() -> None:
    seen: list[list[int]] = []
    go_on = threading.Event()

    def answer(asked: Sequence[int]) -> list[int | Exception]:
        seen.append(list(asked))
        go_on.wait(5)
        return [number * 10 for number in asked]

    told: dict[int, int] = {}

    async def run() -> None:
        batches: Batches[int, int] = Batches(answer)

        async def ask(number: int) -> None:
            told[number] = await batches.ask(number)

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(ask, number)
            while not seen:
                await anyio.sleep(0.01)
            for number in range(3, 8):
                group.start_soon(ask, number)
            await anyio.sleep(0.05)
            go_on.set()

    anyio.run(run)
    assert seen == [[0, 1, 2], [3, 4, 5, 6, 7]]
    assert told == {number: number * 10 for number in range(8)}


def test_an_exception_goes_to_its_own_request_and_a_failed_batch_to_all() -> None:
    def answer(asked: Sequence[int]) -> list[int | Exception]:
        if 9 in asked:
            raise RuntimeError("all of it")
        return [ValueError("odd") if number % 2 else number for number in asked]

    ended: dict[int, object] = {}

    async def run() -> None:
        batches: Batches[int, int] = Batches(answer)

        async def ask(number: int) -> None:
            try:
                ended[number] = await batches.ask(number)
            except (ValueError, RuntimeError) as error:
                ended[number] = str(error)

        for numbers in ((1, 2, 4), (8, 9)):
            async with anyio.create_task_group() as group:
                for number in numbers:
                    group.start_soon(ask, number)

    anyio.run(run)
    assert ended == {1: "odd", 2: 2, 4: 4, 8: "all of it", 9: "all of it"}


@pytest.mark.parametrize("when", ["gathering", "waiting", "running"])
def test_who_is_cancelled_takes_nobody_with_it(when: str) -> None:
    seen: list[list[int]] = []
    told: dict[int, int] = {}
    go_on = threading.Event()

    def answer(asked: Sequence[int]) -> list[int | Exception]:
        seen.append(list(asked))
        go_on.wait(5)
        return list(asked)

    async def run() -> None:
        batches: Batches[int, int] = Batches(answer, seconds=0.1)
        scopes = {}

        async def ask(number: int) -> None:
            with anyio.CancelScope() as scopes[number]:
                told[number] = await batches.ask(number)

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(ask, number)
                await anyio.sleep(0.05)
                if when == "running":
                    while not seen:
                        await anyio.sleep(0.01)
                scopes[1 if when == "waiting" else 0].cancel()
                go_on.set()

    anyio.run(run)
    assert told == {"waiting": {0: 0, 2: 2}, "gathering": {1: 1, 2: 2}, "running": {0: 0, 1: 1, 2: 2}}[when] or (
        when == "running" and told == {1: 1, 2: 2}
    )
    assert sum(map(len, seen)) == (3 if when == "running" else 2)
