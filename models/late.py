"""Functions that are imported when they are called, so that tables are read without torch.

A table says what can be asked for; `medopt list`, and an error in a study, need that alone. What
its rows compute with takes seconds to import.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast


@dataclass(frozen=True)
class Late:
    """A function, or a class to be made, of a module: imported when it is called."""

    module: str
    name: str

    def found(self) -> Callable[..., Any]:
        """Import it; raises ImportError or AttributeError where there is none."""
        return cast("Callable[..., Any]", getattr(import_module(self.module), self.name))

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Call it."""
        return self.found()(*given, **named)


@dataclass(frozen=True)
class LateModule:
    """A module whose functions are all `Late`."""

    module: str

    def __getattr__(self, name: str) -> Any:
        """Return the function of this name; Python's own names are those of any object."""
        if name.startswith("__"):
            raise AttributeError(name)
        return Late(self.module, name)


def late(module: str) -> Any:
    """Return a stand-in for a module of functions; tests/test_architecture.py reads its name."""
    return LateModule(module)
