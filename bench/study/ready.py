"""Finds a study: the user's own file, or one of the ready studies. Imports little."""

import os
from dataclasses import dataclass
from pathlib import Path

from bench.core.references import StudyError, meant

READY = Path(__file__).parents[1] / "ready_studies"


@dataclass(frozen=True, kw_only=True)
class StudyFile:
    """A study's file, its name in messages, and the folder that its paths are relative to."""

    path: Path
    called: str
    base: Path


def find_study(named: Path) -> StudyFile:
    """Return the file of a study, by its path or a ready study's name; raises StudyError."""
    ready = {p.stem: p for p in sorted(READY.glob("*.yaml"))}
    if os.path.isfile(named):  # noqa: PTH113  # False too for a name that no file can have
        return StudyFile(path=named, called=named.name, base=named.resolve().parent)
    if str(named) in ready:
        return StudyFile(path=ready[str(named)], called=str(named), base=Path.cwd())
    if os.path.isdir(named):  # noqa: PTH112  # as above
        inside = named / "study.yaml"
        hint = f" Its study is {inside}." if inside.is_file() else ""
        raise StudyError(f"{named} is a folder, not a study file.{hint}")
    raise StudyError(
        f"there is no study file {str(named)!r}, and no ready study of that name."
        f"{meant(str(named), ready)} Ready studies: {', '.join(ready)}."
    )
