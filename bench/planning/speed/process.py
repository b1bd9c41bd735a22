"""A process that times the work of trials for `bench.planning.speed.side_by_side`."""

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

# Cases of inner validation that are evaluated at once: few, as large volumes take seconds each, and
# several, so that windows of more than one go through the network together. Assumption.
CASES = 4
# Gradients that are timed at least; of evaluations one is enough, as it takes much longer.
FEWEST = {"gradient": 2, "evaluation": 1}


class Trials:
    """The trials to be timed, one at a time in memory."""

    def __init__(
        self, trials: Mapping[Kind, Trial], sets: Mapping[str, DataSet], base: Path, device: str
    ) -> None:
        """Take them; `base` is the folder that references in the study start at."""
        self._trials, self._sets, self._base = trials, sets, base
        self._device = torch.device(device)
        self._now: tuple[tuple[Kind, Settings, Part], Timed] | None = None

    def timed(self, kind: Kind, settings: Settings, part: Part, least: float) -> tuple[int, float]:
        """Do some work for `least` seconds; return (samples or cases done, seconds).

        Raises whatever torch does where the settings cannot be had here.
        """
        timed = self._made(kind, settings, part)
        timed.ready()
        done, spent, times = 0, 0.0, 0
        while times < FEWEST[part] or spent < least:
            start = perf_counter()
            done += _once(timed, part)
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            spent += perf_counter() - start
            times += 1
        return done, spent

    def _made(self, kind: Kind, settings: Settings, part: Part) -> Timed:
        """Return a trial that has been built, compiled and warmed up."""
        key = kind, settings, part
        if self._now is None or self._now[0] != key:
            self._now = None  # before the next is built: two may not fit
            trial = replace(self._trials[kind], **dict(settings))
            timed = Timed(trial, self._sets[kind[0]], self._base, self._device)
            _once(timed, part)
            self._now = key, timed
        return self._now[1]


def _once(timed: Timed, part: Part) -> int:
    """Do some work once; return how many samples or cases it was of."""
    if part == "evaluation":
        return timed.evaluate(CASES)
    timed.gradient()
    return timed.batch


def main() -> None:
    """Time what the other end of the pipe asks for, until it is closed."""
    pipe, cargo = begun_beside()
    begin(cargo["threads"])
    trials = Trials(**pickle.loads(cargo["asked"]))  # noqa: S301  # of the process that started this one
    while True:
        try:
            asked: tuple[Any, ...] = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)  # not by Python's own end, which waits for what compiles
        try:
            answer: tuple[int, float] | str = trials.timed(*asked)
        except Exception as error:  # noqa: BLE001  # whatever it is, the table says it
            answer = failure(error)
        pipe.send((answer,))
