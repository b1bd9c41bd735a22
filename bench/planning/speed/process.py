"""A process that times the work of trials, to find what is fastest and to estimate a run."""

import os
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from bench.core.processes import begun_beside
from bench.core.references import failure
from bench.core.startup import begin
from bench.planning.cost.timed import Timed
from bench.planning.speed.choice import Kind, Settings
from bench.planning.speed.factors import Part
from bench.study.dataset import DataSet
from bench.study.trial import Trial

# Cases of inner validation to evaluate at once: few, since large volumes take seconds each, but
# several, so that windows of more than one go through the network together. Assumption.
CASES = 4
# If one case takes longer than this, as large volumes do on a CPU, only one is used. Assumption.
LONG_SEC = 2.0
# How often a part is done at least; other parts, which take longer, at least once.
FEWEST: dict[Part, int] = {"load": 2, "gradient": 2, "update": 2}


class Trials:
    """The trials to time, one at a time in memory."""

    def __init__(
        self, trials: Mapping[Kind, Trial], sets: Mapping[str, DataSet], base: Path, device: str
    ) -> None:
        """Take them; `base` is the folder that references in the study are relative to."""
        self._trials, self._sets, self._base = trials, sets, base
        self._device = torch.device(device)
        self._now: tuple[tuple[Kind, Settings], Timed, set[Part]] | None = None
        # The same number for all settings of a model.
        self._cases: dict[Kind, int] = {}

    def timed(
        self, kind: Kind, settings: Settings, part: Part, least: float
    ) -> tuple[float, float]:
        """Do some work for at least `least` seconds; return (amount of work, seconds).

        The amount is in samples, for evaluations in passes through the network, for updates and
        set-ups their number. Raises torch's errors if the settings do not work here.
        """
        if part == "setup":
            start = perf_counter()
            self._build(kind, settings)
            return 1.0, perf_counter() - start
        timed = self._warm(kind, settings, part)
        if part == "update":
            timed.drive_by(self._trials[kind])
        timed.ready()
        done, spent, times = 0.0, 0.0, 0
        while times < FEWEST.get(part, 1) or spent < least:
            start = perf_counter()
            done += self._once(timed, part, kind)
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            spent += perf_counter() - start
            times += 1
        return done, spent

    def _build(self, kind: Kind, settings: Settings) -> None:
        self._now = None  # before the next is built: two may not fit
        trial = replace(self._trials[kind], **dict(settings))
        timed = Timed(trial, self._sets[kind[0]], self._base, self._device)
        self._now = (kind[:2], settings), timed, set()

    def _warm(self, kind: Kind, settings: Settings, part: Part) -> Timed:
        """Return a trial that is built, compiled, and has done this work before."""
        if self._now is None or self._now[0] != (kind[:2], settings):
            self._build(kind, settings)
        assert self._now is not None
        _, timed, warm = self._now
        first: Part = "gradient" if part == "update" else part  # an update needs a gradient
        if first not in warm:
            if first in ("evaluation", "test") and kind[:2] not in self._cases:
                start = perf_counter()
                timed.evaluate(1, final=True)
                quick = perf_counter() - start < LONG_SEC
                self._cases[kind[:2]] = CASES if quick else 1
            self._once(timed, first, kind)
        warm.add(first)
        return timed

    def _once(self, timed: Timed, part: Part, kind: Kind) -> float:
        """Do some work once; return its amount."""
        if part in ("evaluation", "test"):
            return timed.evaluate(self._cases[kind[:2]], final=part == "test")
        if part == "update":
            timed.update()
            return 1.0
        work = timed.load if part == "load" else timed.gradient
        work()
        return float(timed.batch)


def main() -> None:
    """Time what the other end of the pipe asks for, until it is closed."""
    pipe, cargo = begun_beside()
    begin(cargo["threads"])
    trials = Trials(**pickle.loads(cargo["asked"]))  # noqa: S301  # of the process that started this one
    pipe.send(((0.0, 0.0),))  # it has started
    while True:
        try:
            asked: tuple[Any, ...] = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)  # not Python's normal exit, which waits for compilation
        try:
            answer: tuple[float, float] | str = trials.timed(*asked)
        except Exception as error:  # noqa: BLE001  # whatever it is, the table shows it
            answer = failure(error)
        pipe.send((answer,))
