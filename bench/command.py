"""The start of the medopt command, which can be stopped at any time, even during imports."""

from bench.execution.stopping import STOPPING


def main() -> None:
    """Run the command line."""
    STOPPING.listen(at_once=True)
    from bench.cli import main as run

    run()
