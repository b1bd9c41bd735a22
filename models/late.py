"""Functions that are imported when they are called, so that tables are read without torch.

A table says what can be asked for, which is all that `medopt list` and an error in a study need.
What its rows compute with takes seconds to import.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast


@dataclass(frozen=True)
class Late:
    """A function or class of a module, imported when it is called."""

    module: str
    name: str

    def found(self) -> Callable[..., Any]:
        """Import it; raises ImportError or AttributeError if it does not exist."""
        return cast("Callable[..., Any]", getattr(import_module(self.module), self.name))

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Call it."""
        return self.found()(*given, **named)


@dataclass(frozen=True)
class LateModule:
    """A module whose functions are all `Late`."""

    module: str

    def __getattr__(self, name: str) -> Any:
        """Return the function of this name; raises AttributeError for Python's own names."""
        if name.startswith("__"):
            raise AttributeError(name)
        return Late(self.module, name)


def late(module: str) -> Any:
    """Return a stand-in for a module of functions; tests/test_architecture.py reads its name."""
    return LateModule(module)
