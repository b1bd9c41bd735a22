"""Where the medopt command begins: it can be stopped from its first moment on, imports included."""

from bench.execution.stopping import STOPPING


def main() -> None:
    """Run the command line."""
    STOPPING.listen(at_once=True)
    from bench.cli import main as run

    run()
