"""Public layouts by name, each from a miniature with its traps, against PIL and nibabel."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from PIL import Image

from bench import api
from loaders.cases import BadCase, Case, Survey
from loaders.datasets.table import KINDS
from tests.loaders.datasets.pairs.made import MINIATURES

# Its functions are not annotated.
nib: Any = nibabel


def read(source: Path, **options: Any) -> tuple[Survey, dict[str, Case], list[BadCase]]:
    """Return a survey, its cases by their keys, and all that was rejected."""
    kind = KINDS["pairs"]
    survey = kind.survey(source, options)
    cases, rejected = {}, list(survey.rejected)
    for item in survey.items:
        for one in kind.read(item, survey.meta):
            if isinstance(one, BadCase):
                rejected.append(one)
            else:
                cases[one.key] = one
    return survey, cases, rejected


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path))


def canonical(path: Path) -> Any:
    """Return a NIfTI's voxels (Z, Y, X), turned to RAS by nibabel."""
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj).T


@pytest.fixture(params=MINIATURES)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_each_layout_is_read_whole(tmp_path: Path, layout: str) -> None:
    MINIATURES[layout](tmp_path)
    survey, cases, rejected = read(tmp_path, layout=layout)
    assert rejected == []
    assert len(cases) == (16 if layout == "camus" else 8)
    assert survey.meta.name == survey.meta.options["layout"] == layout
    assert all(case.mask is not None and case.mask.any() for case in cases.values()) == (
        layout != "busi"
    )


def test_isic(tmp_path: Path) -> None:
    MINIATURES["isic"](tmp_path)
    survey, cases, _ = read(tmp_path, layout="isic")
    assert survey.meta.classes == ("background", "lesion")
    assert len(survey.meta.channels) == 3
    assert [case.split for case in cases.values()] == ["train"] * 6 + ["val"] * 2
    for key, case in cases.items():
        truth = tmp_path / key.replace("Task1-2", "Task1").replace("Input", "GroundTruth")
        truth = truth.with_name(f"{truth.stem}_segmentation.png")
        np.testing.assert_array_equal(case.mask, pixels(truth) == 255)
        np.testing.assert_array_equal(case.image, np.moveaxis(pixels(tmp_path / key), -1, 0))


def test_isic_of_2016_says_segmentation_in_capitals(tmp_path: Path) -> None:
    image = np.full((8, 9, 3), 120, np.uint8)
    for folder, name in (("Training_Data", ""), ("Training_GroundTruth", "_Segmentation")):
        path = tmp_path / f"ISBI2016_ISIC_Part1_{folder}"
        path.mkdir()
        ending = "png" if name else "jpg"
        Image.fromarray(image[..., 0] * 2 + 15 if name else image).save(
            path / f"ISIC_0000001{name}.{ending}"
        )
    _, cases, rejected = read(tmp_path, layout="isic")
    (case,) = cases.values()
    assert rejected == []
    assert case.mask.all()


def test_busi_unites_the_masks_of_a_picture(tmp_path: Path) -> None:
    MINIATURES["busi"](tmp_path)
    survey, cases, _ = read(tmp_path, layout="busi")
    assert survey.meta.group_source == "case"
    for key, case in cases.items():
        path = tmp_path / key
        both = [path.with_name(f"{path.stem}_mask{end}.png") for end in ("", "_1")]
        np.testing.assert_array_equal(case.mask, (pixels(both[0]) > 0) | (pixels(both[1]) > 0))
        assert case.mask.any() == ("normal" not in key)
        assert case.files == (path, *both)


def test_kvasirs_masks_are_jpeg(tmp_path: Path) -> None:
    MINIATURES["kvasir"](tmp_path)
    survey, cases, _ = read(tmp_path, layout="kvasir")
    assert survey.meta.classes == ("background", "polyp")
    noise = set()
    for key, case in cases.items():
        levels = pixels(tmp_path / key.replace("images", "masks"))[..., 0]
        noise |= set(np.unique(levels).tolist())
        np.testing.assert_array_equal(case.mask, levels >= 128)
    assert len(noise) > 2


def test_drives_field_of_view_is_no_mask(tmp_path: Path) -> None:
    MINIATURES["drive"](tmp_path)
    _, cases, _ = read(tmp_path, layout="drive")
    assert sorted({case.split for case in cases.values()}) == ["test", "train"]
    for key, case in cases.items():
        path = tmp_path / key
        manual = path.parents[1] / "1st_manual" / f"{path.stem[:2]}_manual1.gif"
        white = np.asarray(Image.open(manual).convert("L")) == 255
        np.testing.assert_array_equal(case.mask, white)


def test_camus_is_flat_and_by_patient(tmp_path: Path) -> None:
    MINIATURES["camus"](tmp_path)
    survey, cases, _ = read(tmp_path, layout="camus")
    assert (survey.meta.dims, survey.meta.normalize) == (2, "train")
    assert survey.meta.group_source == "patient"
    for key, case in cases.items():
        assert case.group == Path(key).parent.name
        truth = canonical(tmp_path / key.replace(".nii.gz", "_gt.nii.gz"))
        np.testing.assert_array_equal(case.mask, truth[0])
        np.testing.assert_array_equal(case.image, canonical(tmp_path / key))
        assert case.spacing == (0.15, 0.3)


def test_kits_has_nested_regions(tmp_path: Path) -> None:
    MINIATURES["kits"](tmp_path)
    survey, cases, _ = read(tmp_path, layout="kits")
    assert survey.meta.regions == {
        "kidney and masses": (1, 2, 3),
        "masses": (2, 3),
        "tumor": (2,),
    }
    assert (survey.meta.normalize, survey.meta.fill) == ("train", -1000.0)
    for key, case in cases.items():
        folder = (tmp_path / key).parent
        np.testing.assert_array_equal(case.mask, canonical(folder / "segmentation.nii.gz"))
        scan = np.maximum(canonical(folder / "imaging.nii.gz"), -1000)
        np.testing.assert_array_equal(case.image[0], scan)
        assert case.spacing == (3.0, 0.8, 0.8)


def test_lits_counts_its_tumours_as_liver_too(tmp_path: Path) -> None:
    MINIATURES["lits"](tmp_path)
    survey, cases, _ = read(tmp_path, layout="lits")
    assert survey.meta.regions == {"liver": (1, 2), "tumor": (2,)}
    for key, case in cases.items():
        truth = tmp_path / key.replace("volume", "segmentation")
        np.testing.assert_array_equal(case.mask, canonical(truth))


def test_totalsegmentators_structures_are_files(tmp_path: Path) -> None:
    MINIATURES["totalsegmentator"](tmp_path)
    survey, cases, _ = read(tmp_path, layout="totalsegmentator")
    assert survey.meta.classes == ("background", "brain", "liver", "spleen")
    assert [case.split for case in cases.values()] == ["test"] + ["train"] * 7
    for key, case in cases.items():
        folder = (tmp_path / key).parent / "segmentations"
        for number, name in enumerate(survey.meta.classes[1:], start=1):
            np.testing.assert_array_equal(
                case.mask == number, canonical(folder / f"{name}.nii.gz") > 0
            )
    few = read(tmp_path, layout="totalsegmentator", structures="spleen")
    assert few[0].meta.classes == ("background", "spleen")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_layout_from_its_files_to_a_report(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDOPT_KEY", "test")
    monkeypatch.setattr("bench.core.startup.begin", lambda _threads: None)
    monkeypatch.setattr(api, "_begun", [])
    MINIATURES[layout](tmp_path / "source")
    report = api.prepare(
        "pairs", tmp_path / "source", out=tmp_path / "store", options={"layout": layout}, workers=1
    )
    assert (report.n_cases, report.rejected) == (16 if layout == "camus" else 8, ())
    study = {
        "name": "one",
        "data": [str(tmp_path / "store")],
        "models": ["unet_small"],
        "optimizers": ["adam"],
        "losses": ["dice_ce"],
        "folds": 2,
        "epochs": 1,
        "threads": 1,
        "early_stopping": False,
    }
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(study))
    planned = api.plan(tmp_path / "one.yaml", tmp_path / "run")
    assert len(planned.plan.trials) == 2
    ended = api.run(tmp_path / "one.yaml", tmp_path / "run")
    assert ended.page.is_file()
    assert layout in ended.page.read_text(encoding="utf-8")
