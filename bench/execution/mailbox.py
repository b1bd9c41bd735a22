"""The mailbox between lanes and the process that holds the queue.

It runs in its own process, which imports this module: so nothing here imports torch (300 MB), Ray
or numpy.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple


class Call(NamedTuple):
    """A call of a lane, in plain values; `number` is None if no answer is awaited."""

    number: int | None
    lane: str
    name: str
    values: tuple[Any, ...]


class Mailbox:
    """An actor that holds the lanes' calls until they are answered; it passes only plain values."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[Call] = asyncio.Queue()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()
        self._warnings: Counter[str] = Counter()

    async def ask(self, lane: str, call: str, *values: Any) -> Any:
        """Pass a call on and wait for its answer."""
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._told.put_nowait(Call(number, lane, call, values))
        try:
            return await self._asked[number]
        finally:
            del self._asked[number]

    async def tell(self, lane: str, call: str, *values: Any) -> int:
        """Pass a call on that needs no answer; return how often the lane was warned."""
        self._told.put_nowait(Call(None, lane, call, values))
        return self._warnings[lane]

    async def warn(self, lanes: Collection[str]) -> None:
        """Warn lanes, in the answer to their next `tell`, that they are about to be ended."""
        self._warnings.update(lanes)

    async def heard(self, seconds: float) -> list[Call]:
        """Return the calls that came in; wait at most `seconds` for one that awaits an answer.

        Other calls wait with it: fetching each by itself costs two processes a millisecond.
        """
        found: list[Call] = []
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while True:
            while not self._told.empty():
                found.append(self._told.get_nowait())
            if any(call.number is not None for call in found):
                return found
            try:
                found.append(await asyncio.wait_for(self._told.get(), until - clock()))
            except TimeoutError:
                return found

    async def answer(self, number: int, value: Any) -> None:
        """Answer an `ask`; the answer to a lane that is gone is dropped."""
        if number in self._asked and not self._asked[number].done():
            self._asked[number].set_result(value)
