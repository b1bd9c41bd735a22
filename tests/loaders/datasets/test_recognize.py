"""What a folder seems to be, by its file names."""

from pathlib import Path

from loaders.datasets.recognize import recognize
from tests.loaders.datasets.pairs.made import blobs, picture, volume


def test_names_that_only_resemble_those_of_brats_give_way_to_what_fits(tmp_path: Path) -> None:
    image, mask = blobs(0, (9, 8, 3))
    volume(tmp_path / "BRATS_009_crop_image.nii.gz", image)
    volume(tmp_path / "BRATS_009_crop_label.nii.gz", mask)
    (found,) = recognize(tmp_path)
    assert (found.kind, found.cases, found.missing) == ("pairs", 1, "")
    assert found.why == "1 file is named like another file with _label.nii.gz in place of _image"


def test_names_that_only_resemble_those_of_brats_are_told_as_such(tmp_path: Path) -> None:
    volume(tmp_path / "BRATS_009.nii.gz", blobs(0, (9, 8, 3))[0])
    (found,) = recognize(tmp_path)
    assert found.kind == "brats"
    assert found.why == "the name of BRATS_009.nii.gz resembles those of BraTS"
    assert "holds no files named as in" in found.missing


def test_names_of_brats_are_told_as_such(tmp_path: Path) -> None:
    image, mask = blobs(0, (9, 8, 3))
    for end in ("flair", "t1", "t1ce", "t2"):
        volume(tmp_path / "BraTS20_Training_001" / f"BraTS20_Training_001_{end}.nii.gz", image)
    volume(tmp_path / "BraTS20_Training_001" / "BraTS20_Training_001_seg.nii.gz", mask)
    found = {seems.kind: seems.why for seems in recognize(tmp_path)}
    assert found["brats"] == "its files are named like those of BraTS"


def test_several_files_named_like_another_are_counted(tmp_path: Path) -> None:
    for number in range(2):
        image, mask = blobs(number, (9, 8))
        picture(tmp_path / f"{number}.png", image)
        picture(tmp_path / f"{number}_mask.png", mask * 255)
    (found, *_) = recognize(tmp_path)
    assert found.why.startswith("2 files are named like another file")
