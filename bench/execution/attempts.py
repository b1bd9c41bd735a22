"""Records on disk the trials that ended their process, so that a restarted run knows of them.

`attempts.json` in a run folder maps trial ids to the number of processes that died in them. Each
`.in_hand.LANE` names the trial that a child process is training, so that if everything dies (a
machine out of memory) the trial is counted when the run is resumed.
"""

import json
import logging
from pathlib import Path

from results.tables.files import replace_file

log = logging.getLogger("medopt.run")

_MARK = ".in_hand"


class Attempts:
    """The deaths of a run's trials; every change is on disk when a method returns."""

    def __init__(self, folder: Path) -> None:
        """Read the records of earlier processes."""
        self._path = folder / "attempts.json"
        self._folder = folder
        self._deaths: dict[str, int] = {}
        if self._path.exists():
            try:
                self._deaths = {
                    str(k): int(v) for k, v in json.loads(self._path.read_text()).items()
                }
            except (ValueError, AttributeError, TypeError) as error:
                log.warning("attempts.json cannot be read (%s): counting deaths anew", error)

    def deaths(self, trial_id: str) -> int:
        """Return how many processes died in a trial."""
        return self._deaths.get(trial_id, 0)

    def died(self, trial_id: str) -> int:
        """Count a death; return how many there are now."""
        self._deaths[trial_id] = self.deaths(trial_id) + 1
        self._write()
        return self._deaths[trial_id]

    def forget(self, trial_id: str) -> None:
        """Count anew, since the trial has a result or was written down as failed."""
        if self._deaths.pop(trial_id, None) is not None:
            self._write()

    def begin(self, lane: str, trial_id: str) -> None:
        """Mark the trial that a process of this run is about to train."""
        replace_file(self._mark(lane), trial_id.encode())

    def end(self, lane: str) -> None:
        """Remove the mark: the trial's end is known, or was not the trial's fault."""
        self._mark(lane).unlink(missing_ok=True)

    def left(self) -> list[str]:
        """Return the trials that earlier processes died in, and remove their marks."""
        found = []
        for mark in sorted(self._folder.glob(f"{_MARK}*")):
            found.append(mark.read_text())
            mark.unlink()
        return found

    def _mark(self, lane: str) -> Path:
        return self._folder / f"{_MARK}.{lane.replace(' ', '-')}"

    def _write(self) -> None:
        if self._deaths:
            replace_file(self._path, json.dumps(self._deaths, indent=1, sort_keys=True).encode())
        else:
            self._path.unlink(missing_ok=True)
