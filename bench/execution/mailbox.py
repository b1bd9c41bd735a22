"""The desk: where lanes ask, and where the process that holds the queue answers. Knows no Ray.

A module of its own because its process imports it: with bench.execution.lanes it would load torch,
300 MB.
"""

import asyncio
import itertools
from typing import Any, TypeAlias

# Number of the question (None: no answer is waited for), lane, what is asked, values.
Call: TypeAlias = tuple[int | None, str, str, tuple[Any, ...]]


class Desk:
    """An actor: holds what lanes ask until it is answered. Plain values alone pass through it."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[Call] = asyncio.Queue()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()

    async def ask(self, lane: str, call: str, *values: Any) -> Any:
        """Pass a call on and wait for its answer."""
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._told.put_nowait((number, lane, call, values))
        try:
            return await self._asked[number]
        finally:
            del self._asked[number]

    async def tell(self, lane: str, call: str, *values: Any) -> None:
        """Pass a call on that needs no answer."""
        self._told.put_nowait((None, lane, call, values))

    async def heard(self, seconds: float) -> list[Call]:
        """Return what came in, after waiting at most so long for the first of it."""
        try:
            found = [await asyncio.wait_for(self._told.get(), seconds)]
        except TimeoutError:
            return []
        while not self._told.empty():
            found.append(self._told.get_nowait())
        return found

    async def answer(self, number: int, value: Any) -> None:
        """Answer an `ask`; one whose lane is gone is let go."""
        if number in self._asked and not self._asked[number].done():
            self._asked[number].set_result(value)
