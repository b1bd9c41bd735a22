"""Gives the tests of this folder what stands beside them: test modules have no package."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def golden() -> ModuleType:
    """Return the module `made`."""
    spec = importlib.util.spec_from_file_location("golden_made", Path(__file__).parent / "made.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
