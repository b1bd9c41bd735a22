"""Test cases as pictures: slices with both outlines, and images with their classes."""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from results.report import plots
from results.run_folder import Recorded
from results.tables.tasks import TASKS, Answer
from results.verdict.combinations import Combination

# A file holds a few slices or pictures, about a hundredth of this size. Assumption.
MOST_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class _Example:
    """One case for the page: a picture, its caption, and a description for screen readers.

    `wrong`: the network predicted another class than the true one.
    """

    uri: str
    caption: str
    alt: str
    wrong: bool = False


def examples(
    run: Recorded,
    wanted: Mapping[str, str],
    by_name: Mapping[str, Combination],
    data: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return the example pictures of some combinations, from the first fold that has any.

    `wanted` maps the name of a combination to why it is shown; `data` is the description of the
    data set in the footers.
    """
    shown = []
    for name, role in wanted.items():
        trial = _with_examples(run, by_name[name])
        if trial is not None:
            pictures = _pictures(run, trial, data)
            shown.append({"name": name, "role": role, "fold": trial["fold"], **pictures})
    return shown


def _with_examples(run: Recorded, combination: Combination) -> Mapping[str, Any] | None:
    """Return the first trial (by repeat, fold, seed) that has saved examples."""
    for row in combination.scored:
        if (run.path / "examples" / f"{row['trial_id']}.npz").exists():
            return row
    return None


def _pictures(run: Recorded, trial: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    path = run.path / "examples" / f"{trial['trial_id']}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if sum(file.file_size for file in arrays.zip.infolist()) > MOST_BYTES:
                raise ValueError(f"they claim more than {MOST_BYTES >> 20} MiB")  # noqa: TRY301  # below
            task = TASKS[trial["task"]]
            content = {name: arrays[name] for name in task.arrays}
        made = _PICTURES[task.answer](run, trial, content, data)
        return {"pictures": list(made), "problem": None}
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
    _run: Recorded,
    _trial: Mapping[str, Any],
    content: Mapping[str, np.ndarray],
    data: Mapping[str, Any],
) -> Iterator[_Example]:
    regions = _regions(content, data)
    arrays = (content[name] for name in ("image", "reference", "prediction"))
    for number, (image, reference, prediction) in enumerate(zip(*arrays, strict=True), 1):
        found = []
        for name, labels in regions.items():
            dice = _dice(np.isin(reference, labels), np.isin(prediction, labels))
            if dice is not None:
                found.append(f"{name} {dice:.2f}")
        said = f"Dice of this slice: {', '.join(found)}" if found else "both empty in this slice"
        yield _Example(
            uri=plots.picture(image, reference, prediction),
            caption=f"Case {number}. {said}",
            alt=f"Slice of test case {number} with reference and prediction outlined. {said}.",
        )


def _regions(
    content: Mapping[str, np.ndarray], data: Mapping[str, Any]
) -> dict[str, Sequence[int]]:
    """Return the labels of each scored region, or of each class if a run does not name regions."""
    if data.get("regions"):
        return {region["name"]: region["labels"] for region in data["regions"]}
    labels = np.union1d(content["reference"], content["prediction"])
    return {f"class {label}": [int(label)] for label in labels if label}


def _dice(reference: np.ndarray, prediction: np.ndarray) -> float | None:
    """Return the Dice of two masks, None if both are empty."""
    size = int(reference.sum()) + int(prediction.sum())
    return 2 * int((reference & prediction).sum()) / size if size else None


def _classified(
    run: Recorded,
    trial: Mapping[str, Any],
    content: Mapping[str, np.ndarray],
    _data: Mapping[str, Any],
) -> Iterator[_Example]:
    names: dict[str, list[str]] = {}
    for row in run.rows("cases", [trial["trial_id"]], ("trial_id", "case_id", "region")):
        names.setdefault(row["case_id"], []).append(row["region"] or "")
    arrays = (content[name] for name in ("image", "label", "prob", "case_id"))
    for image, label, prob, case_id in zip(*arrays, strict=True):
        classes = names.get(str(case_id), [])
        if len(classes) != len(prob):
            classes = [f"class {i}" for i in range(len(prob))]
        truth, guess = classes[int(label)], int(prob.argmax())
        said = f"predicted {classes[guess]} ({prob[guess]:.2f})"
        wrong = guess != int(label)
        yield _Example(
            uri=plots.picture(image),
            caption=f"{truth}, {said}",
            alt=f"Test image of class {truth}, {'wrongly ' if wrong else ''}{said}.",
            wrong=wrong,
        )


def _with_findings(
    _run: Recorded,
    _trial: Mapping[str, Any],
    content: Mapping[str, np.ndarray],
    data: Mapping[str, Any],
) -> Iterator[_Example]:
    arrays = (content[name] for name in ("image", "label", "prob"))
    names = [each["name"] for each in data.get("classes", ())]
    count = content["prob"].shape[1]
    if len(names) != count:
        names = [f"finding {i}" for i in range(count)]
    for image, label, prob in zip(*arrays, strict=True):
        there = [name for name, known in zip(names, label, strict=True) if known == 1]
        called = [f"{name} ({p:.2f})" for name, p in zip(names, prob, strict=True) if p > 0.5]
        known = np.isfinite(label)
        wrong = bool(((prob > 0.5) != (label == 1))[known].any())
        said = f"{', '.join(there) or 'no finding'}; predicted {', '.join(called) or 'none'}"
        yield _Example(
            uri=plots.picture(image),
            caption=said,
            alt=f"Test image with {said}{', partly wrong' if wrong else ''}.",
            wrong=wrong,
        )


def _measured(
    _run: Recorded,
    _trial: Mapping[str, Any],
    content: Mapping[str, np.ndarray],
    data: Mapping[str, Any],
) -> Iterator[_Example]:
    name = next((each["name"] for each in data.get("classes", ())), "number")
    arrays = (content[name] for name in ("image", "label", "predicted"))
    for image, label, predicted in zip(*arrays, strict=True):
        said = f"{name} {float(label[0]):.4g}, predicted {float(predicted[0]):.4g}"
        yield _Example(uri=plots.picture(image), caption=said, alt=f"Test image with {said}.")


# Kind of answer -> (run, trial, arrays, description of the data set) -> its pictures.
_PICTURES: Mapping[Answer, Callable[..., Iterator[_Example]]] = {
    "class": _classified,
    "mask": _outlined,
    "findings": _with_findings,
    "number": _measured,
}
