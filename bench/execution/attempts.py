"""Which trials ended the process they ran in, on disk: the next start must know of the last.

`attempts.json` of a run folder maps trial ids to the number of processes that died in them, and
`.in_hand` names the trial that a process without lanes is training, so that one which dies with
everything around it (a machine out of memory) is counted when the run is asked for again.
"""

import json
import logging
from pathlib import Path

from results.tables.files import replace_file

log = logging.getLogger("medopt.run")


class Attempts:
    """The deaths of a run's trials; every change is on disk when a method returns."""

    def __init__(self, folder: Path) -> None:
        """Read what an earlier process left."""
        self._path = folder / "attempts.json"
        self.mark = folder / ".in_hand"
        self._deaths: dict[str, int] = {}
        if self._path.exists():
            try:
                self._deaths = {
                    str(k): int(v) for k, v in json.loads(self._path.read_text()).items()
                }
            except (ValueError, AttributeError, TypeError) as error:
                log.warning("attempts.json cannot be read (%s): deaths are counted anew", error)

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

    def begin(self, trial_id: str) -> None:
        """Mark the trial that the one process of this run is about to train."""
        replace_file(self.mark, trial_id.encode())

    def end(self) -> None:
        """Take the mark away: whatever ended the trial is known, or not of its doing."""
        self.mark.unlink(missing_ok=True)

    def left(self) -> str | None:
        """Return the trial that an earlier process died in, if one did; take its mark away."""
        if not self.mark.exists():
            return None
        trial_id = self.mark.read_text()
        self.end()
        return trial_id

    def _write(self) -> None:
        if self._deaths:
            replace_file(self._path, json.dumps(self._deaths, indent=1, sort_keys=True).encode())
        else:
            self._path.unlink(missing_ok=True)
