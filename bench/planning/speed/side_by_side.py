"""Times real trials side by side, in as many processes as a run would have."""

import os
import pickle
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from time import monotonic
from typing import Protocol

from bench.core.processes import Beside, starting
from bench.planning.speed.choice import Kind, Way
from bench.planning.speed.factors import Part
from bench.study.dataset import DataSet
from bench.study.trial import Trial

# How long a way to compute may take to its first result, including compilation. Assumption.
LONGEST_SEC = 600.0
# How often to check whether processes are alive.
LOOK_SEC = 0.5
# Amount of work done and seconds, or why there are none.
_Answer = tuple[float, float] | str
_PROCESS = starting("bench.planning.speed.process")


class NotMeasuredError(Exception):
    """A way to compute that does not work here; its text says why."""


class Machine(Protocol):
    """Something that times the work of trials; tests provide their own."""

    def sample_sec(self, kind: Kind, way: Way, part: Part, least: float) -> float:
        """Return the seconds of a unit of work on the whole machine; raises NotMeasuredError."""

    def end(self) -> None:
        """End everything that was started."""


class Here:
    """This machine: for each number of threads the processes that fit, started when needed.

    `lanes` maps numbers of threads to numbers of trials side by side.
    """

    def __init__(
        self,
        trials: Mapping[Kind, Trial],
        sets: Mapping[str, DataSet],
        base: Path,
        *,
        device: str,
        lanes: Mapping[int, int],
    ) -> None:
        """Start nothing yet; `base` is the folder that references in the study are relative to."""
        asked = {"trials": trials, "sets": sets, "base": base, "device": device}
        self._asked = pickle.dumps(asked)
        self._gpu = device == "cuda"
        self._lanes = lanes
        self._processes: dict[int, list[Beside]] = {}

    def sample_sec(self, kind: Kind, way: Way, part: Part, least: float) -> float:
        """Time all processes with the way's threads at once, each for at least `least` seconds.

        Raises NotMeasuredError if one of them cannot do it, or ends; then they are started anew, on
        a GPU in either case.
        """
        self.start(way.threads)
        beside = self._processes[way.threads]
        for process in beside:
            process.say((kind, way.settings, part, least))
        rate = 0.0
        for answer in self._answers(way.threads, beside):
            if isinstance(answer, str):
                if self._gpu:
                    # After some errors CUDA refuses all further calls of a process.
                    self._ended(way.threads)
                raise NotMeasuredError(answer.strip().partition("\n")[0])
            done, sec = answer
            rate += done / sec
        return 1 / rate

    def start(self, threads: int) -> float:
        """Start the processes with these threads, unless they run; return the seconds it took.

        Raises NotMeasuredError if one of them ends.
        """
        start = monotonic()
        if threads not in self._processes:
            self._processes[threads] = self._started(threads)
            self._answers(threads, self._processes[threads])
        return monotonic() - start

    def _answers(self, threads: int, beside: Sequence[Beside]) -> list[_Answer]:
        found: dict[int, _Answer] = {}
        until = monotonic() + LONGEST_SEC
        while len(found) < len(beside):
            silent = [process for number, process in enumerate(beside) if number not in found]
            if monotonic() > until:
                self._ended(threads)
                raise NotMeasuredError(f"it took longer than {LONGEST_SEC / 60:g} min")
            wait([process.fileno() for process in silent], LOOK_SEC)
            for number, process in enumerate(beside):
                over = process.ended()  # checked first, so that its last messages are still read
                said = process.heard(0, lambda answer: answer) if number not in found else []
                if said:
                    found[number] = said[0]
                elif over and number not in found:
                    how = self._ended(threads)[number]
                    raise NotMeasuredError(f"it ended its process ({how})")
        return [found[number] for number in range(len(beside))]

    def _started(self, threads: int) -> list[Beside]:
        # As bench.execution.local starts those of a run.
        several = self._lanes[threads] > 1
        environment = {"OMP_NUM_THREADS": str(threads)} if several else {}
        with Path(os.devnull).open("wb") as nowhere:
            return [
                Beside(
                    _PROCESS,
                    {"threads": threads, "asked": self._asked},
                    nowhere.fileno(),
                    environment,
                )
                for _ in range(self._lanes[threads])
            ]

    def _ended(self, threads: int) -> list[str]:
        return [process.end() for process in self._processes.pop(threads)]

    def end(self) -> None:
        """End every process."""
        for threads in list(self._processes):
            self._ended(threads)
