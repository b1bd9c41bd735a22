"""Masks that the survey looked at: decoded once, whatever they hold, unless they were changed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loaders.datasets.pairs import seen_masks
from loaders.datasets.pairs.kind import read, survey
from loaders.datasets.pairs.seen_masks import read_and_keep, read_kept
from tests.loaders.datasets.pairs.made import picture
from tests.loaders.datasets.pairs.test_pairs import PNG, folder_of, masks_of, truth

SIZE = (13, 19)
MASKS = {
    "two levels": 255 * np.random.default_rng(0).integers(0, 2, SIZE, np.uint8),
    "0 and 1": np.random.default_rng(1).integers(0, 2, SIZE, np.uint8),
    "no background": np.full(SIZE, 7, np.uint8),
    "nothing": np.zeros(SIZE, np.uint8),
    "many levels": np.random.default_rng(2).integers(0, 9, SIZE, np.uint8),
    "colours": np.random.default_rng(3).integers(0, 256, (*SIZE, 3), np.uint8),
    "16 bits": np.random.default_rng(4).integers(0, 65536, SIZE, np.uint16),
}


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the files that are decoded as masks from here on."""
    found: list[Path] = []
    plain = seen_masks.read_mask

    def noted(path: Path, where: str) -> Any:
        found.append(path)
        return plain(path, where)

    monkeypatch.setattr(seen_masks, "read_mask", noted)
    return found


@pytest.mark.parametrize("name", MASKS)
def test_what_is_kept_is_what_the_file_holds(tmp_path: Path, name: str, looks: list[Path]) -> None:
    path = tmp_path / "mask.png"
    picture(path, MASKS[name])
    first = read_and_keep(path, "")
    again = read_kept(path, "")
    if name == "colours":
        assert np.array_equal(again.colours, first.colours)
    else:
        assert again.levels is not None
        assert np.array_equal(again.levels, np.asarray(Image.open(path)))
        assert again.levels.dtype == MASKS[name].dtype
    assert len(looks) == (2 if name in ("colours", "16 bits") else 1)
    # It is given back once.
    read_kept(path, "")
    assert len(looks) == (3 if name in ("colours", "16 bits") else 2)


def test_a_mask_of_jpeg_stays_one(tmp_path: Path, looks: list[Path]) -> None:
    path = tmp_path / "mask.jpg"
    picture(path, MASKS["two levels"])
    assert read_and_keep(path, "").lossy
    assert read_kept(path, "").lossy
    assert len(looks) == 1


def test_a_mask_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    picture(path, MASKS["two levels"])
    read_and_keep(path, "")
    picture(path, MASKS["many levels"])
    assert np.array_equal(read_kept(path, "").levels, MASKS["many levels"])  # type: ignore[arg-type]  # it has levels


def test_no_more_is_kept_than_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: list[Path]
) -> None:
    monkeypatch.setattr(seen_masks, "_shelf", seen_masks._Shelf())
    monkeypatch.setattr(seen_masks, "_MOST", 3 * SIZE[0] * SIZE[1])
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for path in paths:
        picture(path, MASKS["many levels"])
        read_and_keep(path, "")
        held = seen_masks._shelf._held.values()
        assert sum(mask.values.nbytes for mask in held) == seen_masks._shelf._size
        assert seen_masks._shelf._size <= seen_masks._MOST
    for path in paths:
        assert np.array_equal(read_kept(path, "").levels, MASKS["many levels"])  # type: ignore[arg-type]  # it has levels
    # Of seven three fit, and three again: one is still there.
    assert len(looks) == 7 + 6
    assert seen_masks._shelf._size == 0


def test_a_source_is_decoded_once(tmp_path: Path, looks: list[Path]) -> None:
    folder = folder_of(tmp_path, lambda mask: mask)
    found = survey(folder, PNG)
    assert len(looks) == 6
    cases = [case for item in found.items for case in read(item, found.meta)]
    assert len(looks) == 6
    assert all(
        np.array_equal(mask, known)
        for mask, known in zip(masks_of({c.key: c for c in cases}), truth(), strict=True)
    )
