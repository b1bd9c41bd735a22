"""Test cases as pictures: slices with both outlines, and images with their class."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from results.report import plots
from results.run_folder import Recorded
from results.tables.tasks import TASKS
from results.verdict.combinations import Combination

# A few slices or pictures, which take a hundredth of it. Assumption.
MOST_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class _Example:
    """One case as it is shown: a picture, the words under it, and those for who cannot see it."""

    uri: str
    caption: str
    alt: str


def examples(
    run: Recorded, wanted: Mapping[str, str], by_name: Mapping[str, Combination]
) -> list[dict[str, Any]]:
    """Return the pictures of some combinations, from the first fold that left any.

    `wanted` maps the name of a combination to why it is shown.
    """
    shown = []
    for name, role in wanted.items():
        trial = _with_examples(run, by_name[name])
        if trial is not None:
            shown.append(
                {"name": name, "role": role, "fold": trial["fold"], **_pictures(run, trial)}
            )
    return shown


def _with_examples(run: Recorded, combination: Combination) -> Mapping[str, Any] | None:
    """Return the first trial (by repeat, fold, seed) that left examples."""
    for row in combination.scored:
        if (run.path / "examples" / f"{row['trial_id']}.npz").exists():
            return row
    return None


def _pictures(run: Recorded, trial: Mapping[str, Any]) -> dict[str, Any]:
    path = run.path / "examples" / f"{trial['trial_id']}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if sum(file.file_size for file in arrays.zip.infolist()) > MOST_BYTES:
                raise ValueError(f"they claim more than {MOST_BYTES >> 20} MiB")  # noqa: TRY301  # below
            task = TASKS[trial["task"]]
            content = {name: arrays[name] for name in task.arrays}
        draw = _outlined if task.outlined else _classified
        return {"pictures": list(draw(run, trial, content)), "problem": None}
    except (
        OSError,
        ValueError,
        KeyError,
        IndexError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        return {"pictures": [], "problem": f"The examples of this trial cannot be shown: {error}"}


def _outlined(
    run: Recorded, trial: Mapping[str, Any], content: Mapping[str, np.ndarray]
) -> Iterator[_Example]:
    del run, trial
    arrays = (content[name] for name in ("image", "reference", "prediction"))
    for number, (image, reference, prediction) in enumerate(zip(*arrays, strict=True), 1):
        overlap = 2 * int(((reference > 0) & (prediction > 0)).sum())
        size = int((reference > 0).sum()) + int((prediction > 0).sum())
        dice = f"Dice of this slice {overlap / size:.2f}" if size else "both empty on this slice"
        yield _Example(
            uri=plots.picture(image, reference, prediction),
            caption=f"Case {number}: {dice}",
            alt=f"Slice of test case {number} with reference and prediction outlined; {dice}.",
        )


def _classified(
    run: Recorded, trial: Mapping[str, Any], content: Mapping[str, np.ndarray]
) -> Iterator[_Example]:
    names: dict[str, list[str]] = {}
    for row in run.rows("cases", [trial["trial_id"]]):
        names.setdefault(row["case_id"], []).append(row["region"] or "")
    arrays = (content[name] for name in ("image", "label", "prob", "case_id"))
    for image, label, prob, case_id in zip(*arrays, strict=True):
        classes = names.get(str(case_id), [])
        if len(classes) != len(prob):
            classes = [f"class {i}" for i in range(len(prob))]
        truth, guess = classes[int(label)], int(prob.argmax())
        said = f"predicted {classes[guess]} ({prob[guess]:.2f})"
        yield _Example(
            uri=plots.picture(image),
            caption=f"{truth}: {said}",
            alt=f"Test image of class {truth}, {said}.",
        )
