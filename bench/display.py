"""The display of a running study: progress on stderr, nothing on stdout."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from results import text
from results.text import duration

if TYPE_CHECKING:
    # The display starts before torch, which this would import.
    from bench.execution.trial_queue import Progress as RunProgress
    from bench.execution.trial_queue import Running

# If a lane has made no step for this long, the time since its last step is shown: steps take
# seconds.
QUIET_SEC = 30.0
# In a log file or in CI, a line is printed this often in place of the moving display.
PLAIN_EVERY_SEC = 20.0
# A lane takes two lines; the rest of the display takes this many.
_OWN_LINES = 4


class RunDisplay:
    """Shows a run: a bar, the time left, and what each lane is working on.

    Its clocks keep running between updates. `ray`: trials run on Ray lanes, which take a while to
    start.
    """

    def __init__(self, console: Console, *, ray: bool = False) -> None:
        self._console = console
        self._ray = ray
        self._state: RunProgress | None = None
        self._heard = time.monotonic()
        self._spinner = Spinner("dots", style="bold")
        self._live: Live | None = None
        self._printed = time.monotonic()

    @contextmanager
    def showing(self) -> Iterator["RunDisplay"]:
        """Show the display from the first update until the block ends."""
        try:
            yield self
        finally:
            if self._live is not None:
                self._live.stop()
                self._live = None

    def changed(self, state: "RunProgress") -> None:
        """Show how far the run is."""
        now = time.monotonic()
        self._state, self._heard = state, now
        if not self._console.is_terminal:
            if now - self._printed >= PLAIN_EVERY_SEC or state.done == state.total:
                self._printed = now
                self._console.print(self._in_a_line(state), highlight=False, soft_wrap=True)
            return
        if self._live is None:
            self._live = Live(
                get_renderable=self._rendered, console=self._console, refresh_per_second=4
            )
            self._live.start()
        self._live.refresh()

    def _in_a_line(self, state: "RunProgress") -> str:
        counts = _counts(state)
        quiet = "".join(f"; {lane.lane}: {q}" for lane in state.running if (q := self._quiet(lane)))
        begun = f"{state.done}/{state.total} trials, {self._clock(state)}"
        return (f"{begun}  ({counts})" if counts else begun) + quiet

    def _clock(self, state: "RunProgress") -> str:
        """Return how long the run has taken, and how long it will still take."""
        since = time.monotonic() - self._heard
        gone = duration(state.seconds + since, clock=True)
        if state.done == state.total:
            return f"{gone} elapsed"
        if self._starting(state):
            return f"{gone} elapsed, {'Ray and its lanes are ' if self._ray else ''}starting"
        if state.seconds_left is None:
            return f"{gone} elapsed, time to go unknown"
        left = duration(max(state.seconds_left - since, 0.0), clock=True)
        return f"{gone} elapsed, about {left} to go"

    def _starting(self, state: "RunProgress") -> bool:
        """Return whether no lane has taken a trial yet."""
        return not state.running and state.done == state.reused < state.total

    def _quiet(self, lane: "Running") -> str:
        """Return for how long a lane has made no step, if that is long."""
        silent = lane.silent + time.monotonic() - self._heard
        return f"no step for {duration(silent, clock=True)}" if silent >= QUIET_SEC else ""

    def _rendered(self) -> RenderableType:
        """Return the present display; called several times a second."""
        state = self._state
        if state is None:
            return Text("")
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            self._spinner,
            "[bold]trials",
            ProgressBar(total=max(state.total, 1), completed=state.done, width=14),
            f"{state.done}/{state.total}",
            Text(self._clock(state), no_wrap=True, overflow="ellipsis"),
        )
        lines: list[RenderableType] = [bar]
        counts = _counts(state)
        if counts:
            lines.append(_line(f"  {counts}"))
        if self._starting(state) and self._ray:
            lines.append(_line("  The first trials begin within a minute or two."))
        room = max((self._console.height - _OWN_LINES) // 2, 1)
        for lane in state.running[:room]:
            lines += self._lane(lane)
        if len(state.running) > room:
            lines.append(_line(f"  and {text.count(len(state.running) - room, 'lane')} more"))
        return Group(*lines)

    def _lane(self, lane: "Running") -> Iterator[RenderableType]:
        found = [f"epoch {lane.epoch} of {lane.epochs}"]
        if lane.score is not None:
            found.append(f"{text.metric(lane.metric)} {text.score(lane.score)} on inner validation")
        yield _line(f"  {lane.lane}: {lane.label}")
        line = _line(f"    {', '.join(found)}", style="dim")
        if quiet := self._quiet(lane):
            line.append(f", {quiet}", style="yellow not dim")
        yield line


def _counts(state: "RunProgress") -> str:
    return ", ".join(f"{n} {status}" for status, n in sorted(state.statuses.items()))


def _line(content: str, style: str = "") -> Text:
    """Return one line, cut with an ellipsis if the terminal is narrower."""
    return Text(content, style=style, no_wrap=True, overflow="ellipsis")


@contextmanager
def counting(console: Console, what: str) -> Iterator["Counter"]:
    """Show a bar that counts things; calling the counter moves it."""
    bar = Progress(
        TextColumn(f"[bold]{what}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        yield Counter(bar)


class Counter:
    """Called with (done, total) as work goes on."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("work", total=None)

    def __call__(self, done: int, total: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=done, total=total)
