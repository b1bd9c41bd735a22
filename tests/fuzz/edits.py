"""Damage of any file, whatever its format, as a generator of random numbers decides."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Random = np.random.Generator
Choice = TypeVar("Choice")
# A file of an input: its name, and what it holds.
File = tuple[str, bytes]


def pick(choices: Sequence[Choice], random: Random) -> Choice:
    return choices[int(random.integers(len(choices)))]


def how_many(random: Random) -> int:
    """Return how often to damage a file: mostly once, as the first of several refuses it."""
    return int(random.choice([1, 1, 1, 2, 4]))


def flip(data: bytes, random: Random) -> bytes:
    edited = bytearray(data)
    for place in random.integers(0, max(len(data), 1), random.integers(1, 9)):
        if edited:
            edited[place] ^= 1 << random.integers(0, 8)
    return bytes(edited)


def overwrite(data: bytes, random: Random) -> bytes:
    edited = bytearray(data)
    start, length = _span(data, random)
    edited[start : start + length] = random.bytes(length)
    return bytes(edited)


def blank(data: bytes, random: Random) -> bytes:
    start, length = _span(data, random)
    filler = bytes([int(random.choice([0, 32, 255]))])
    return data[:start] + filler * length + data[start + length :]


def cut(data: bytes, random: Random) -> bytes:
    return data[: random.integers(0, len(data) + 1)]


def double(data: bytes, random: Random) -> bytes:
    start, length = _span(data, random)
    times = int(random.choice([1, 1, 1, 2, 50]))
    return data[:start] + data[start : start + length] * times + data[start:]


def drop(data: bytes, random: Random) -> bytes:
    start, length = _span(data, random)
    return data[:start] + data[start + length :]


def insert(data: bytes, random: Random) -> bytes:
    start, length = _span(data, random)
    return data[:start] + random.bytes(length) + data[start:]


def _span(data: bytes, random: Random) -> tuple[int, int]:
    start = int(random.integers(0, len(data) + 1))
    length = int(2 ** random.uniform(0, 10))
    return start, min(length, len(data) - start)


BYTES = (flip, overwrite, blank, cut, double, drop, insert)
