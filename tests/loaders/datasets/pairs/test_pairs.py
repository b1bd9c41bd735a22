"""What masks may be, whose images are, and real files by two patterns, beside other readers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from loaders.cases import BadCase, BadSource
from loaders.datasets.pairs.patterns import Files, compiled, stem_of
from loaders.datasets.table import KINDS
from loaders.store.prepare import prepare
from loaders.store.read import Store, open_store
from tests.loaders.datasets.pairs.made import blobs, picture, stray, volume
from tests.loaders.datasets.pairs.test_layouts import canonical, read
from tests.loaders.formats.test_volumes import mha, nrrd

nib: Any = nibabel
PNG = {"images": "images/*.png", "masks": "masks/{stem}_mask.png"}
RED, GREEN = (255, 0, 0), (0, 128, 0)


def folder_of(root: Path, paint: Callable[[Any], Any], count: int = 6, **more: Any) -> Path:
    """Write images and masks; `paint` turns a mask of 0, 1, 2 into what is written."""
    for number in range(count):
        image, mask = blobs(number, (16, 20), 2)
        picture(root / "images" / f"case {number} [a].png", image)
        picture(root / "masks" / f"case {number} [a]_mask.png", paint(mask), **more)
    stray(root / "images")
    stray(root / "masks")
    return root


def masks_of(cases: Any) -> list[Any]:
    return [case.mask for _, case in sorted(cases.items())]


def truth(count: int = 6) -> list[Any]:
    return [blobs(number, (16, 20), 2)[1] for number in range(count)]


def coloured(mask: Any) -> Any:
    return np.array([(0, 0, 0), RED, GREEN], np.uint8)[mask]


def indexed(mask: Any) -> Image.Image:
    image = Image.fromarray(mask, "P")
    image.putpalette([0, 0, 0, *RED, *GREEN])
    return image


# ---- patterns ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "name", "parts"),
    [
        ("images/*.png", "images/a (1) [x].png", {}),
        ("images/*.png", "images/deep/a.png", None),
        ("**/*.png", "a.png", {}),
        ("**/*.png", "b/c/a.png", {}),
        ("{p}/{p}_{view:2CH|4CH}.nii.gz", "p1/p1_4CH.nii.gz", {"p": "p1", "view": "4CH"}),
        ("{p}/{p}_{view:2CH|4CH}.nii.gz", "p1/p2_4CH.nii.gz", None),
        ("{p}/{p}_{view:2CH|4CH}.nii.gz", "p1/p1_3CH.nii.gz", None),
        ("a+b/{id}.(x)", "a+b/7.(x)", {"id": "7"}),
        ("IMAGES/{id}.PNG", "images/7.png", {"id": "7"}),
    ],
)
def test_patterns_fit(pattern: str, name: str, parts: dict[str, str] | None) -> None:
    found = compiled(pattern, {}).fullmatch(name)
    assert (found.groupdict() if found else None) == parts


def test_files_looked_up_are_those_of_a_search_through_all(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        place = "/".join(random.choice(["a", "b", "a b"], random.integers(0, 3)))
        path = tmp_path / place / f"{random.choice(['x', 'y_', 'X.y'])}{random.integers(9)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    files = Files(tmp_path)
    every = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert sorted(files.names) == every
    known = {"stem": "x", "folder": "a/b"}
    for pattern in (
        "**/{stem}*.png",
        "{folder}/*.png",
        "{folder}/{stem}{n}.png",
        "**/*",
        "*/y*.png",
    ):
        wanted = [name for name in every if compiled(pattern, known).fullmatch(name)]
        assert sorted(name for name, _ in files.fitting(pattern, known)) == wanted
    assert stem_of("a/b.nii.gz") == "b"


# ---- what masks may be ------------------------------------------------------------------------


def test_a_path_that_is_known_is_found_in_any_case_of_its_letters(tmp_path: Path) -> None:
    """As an expression finds it, whose rules for letters beyond ASCII are other than lower()'s."""
    for name in ("Masks/Ask_Mask.PNG", "masks/a\u017fk_mask.png", "masks/ask_mask.png.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for known in ("ask", "ASK", "a\u017fk"):
        found = Files(tmp_path).fitting("masks/{stem}_mask.png", {"stem": known})
        regex = compiled("masks/{stem}_mask.png", {"stem": known})
        near = [name for name in Files(tmp_path).names if known.casefold() in name.casefold()]
        assert found == [(name, {}) for name in near if regex.fullmatch(name)]
        assert found
    (tmp_path / "masks/a\u017fk_mask.png").unlink()
    found = Files(tmp_path).fitting("masks/{stem}_mask.png", {"stem": "aSK"})
    assert found == [("Masks/Ask_Mask.PNG", {})]


def test_numbers_are_classes(tmp_path: Path) -> None:
    survey, cases, rejected = read(folder_of(tmp_path, lambda mask: mask), **PNG)
    assert rejected == []
    assert survey.meta.classes == ("background", "label_1", "label_2")
    assert survey.meta.regions == {"label_1": (1,), "label_2": (2,)}
    for mask, wanted in zip(masks_of(cases), truth(), strict=True):
        np.testing.assert_array_equal(mask, wanted)


@pytest.mark.parametrize(
    ("paint", "more"),
    [
        (lambda mask: (mask > 0).astype(np.uint8) * 255, {}),
        (lambda mask: Image.fromarray(mask > 0), {}),
        (lambda mask: (mask > 0).astype(np.uint16) * 65535, {}),
        (lambda mask: np.stack([(mask > 0).astype(np.uint8) * 255] * 3, -1), {}),
        (lambda mask: Image.fromarray((mask > 0).astype(np.uint8) * 255).convert("RGBA"), {}),
        (lambda mask: Image.fromarray((mask > 0).astype(np.uint8) * 255).convert("P"), {}),
    ],
    ids=["0 and 255", "1 bit", "16 bits", "grey as RGB", "RGBA without holes", "a grey palette"],
)
def test_black_and_white_is_background_and_foreground(
    tmp_path: Path, paint: Callable[[Any], Any], more: dict[str, Any]
) -> None:
    survey, cases, rejected = read(folder_of(tmp_path, paint, **more), **PNG)
    assert rejected == []
    assert survey.meta.classes == ("background", "foreground")
    for mask, wanted in zip(masks_of(cases), truth(), strict=True):
        np.testing.assert_array_equal(mask, wanted > 0)


def test_colours_are_asked_for_and_the_answer_that_is_offered_works(tmp_path: Path) -> None:
    source = folder_of(tmp_path, coloured)
    counts = np.bincount(np.concatenate([mask.ravel() for mask in truth()]))
    with pytest.raises(BadSource) as told:
        read(source, **PNG)
    sentence = str(told.value)
    assert f"#000000 ({counts[0]} pixels), #ff0000 ({counts[1]} pixels)" in sentence
    offered = sentence.split("'")[-2].removeprefix("palette=")
    assert offered == "#000000=background,#ff0000=NAME,#008000=NAME"
    palette = offered.replace("NAME", "tumour", 1).replace("NAME", "vessel")
    survey, cases, rejected = read(source, **PNG, palette=palette)
    assert rejected == []
    assert survey.meta.classes == ("background", "tumour", "vessel")
    for mask, wanted in zip(masks_of(cases), truth(), strict=True):
        np.testing.assert_array_equal(mask, wanted)
    # Two colours may be one class, and one that is not named rejects its cases.
    merged = read(source, **PNG, palette="000000=background,ff0000=any,008000=any")
    assert all(((a > 0) == b).all() for a, b in zip(truth(), masks_of(merged[1]), strict=True))
    _, _, rejected = read(source, **PNG, palette="#000000=background,#ff0000=tumour")
    assert {bad.reason.split(", in")[0] for bad in rejected} == {"the mask holds #008000"}


def test_a_palette_counts_by_its_numbers_or_by_its_colours(tmp_path: Path) -> None:
    source = folder_of(tmp_path, indexed)
    survey, cases, _ = read(source, **PNG)
    assert survey.meta.classes == ("background", "label_1", "label_2")
    palette = "#000000=background,#008000=vessel,#ff0000=tumour"
    _, named, _ = read(source, **PNG, palette=palette)
    for mask, by_colour, wanted in zip(masks_of(cases), masks_of(named), truth(), strict=True):
        np.testing.assert_array_equal(mask, wanted)
        np.testing.assert_array_equal(by_colour, np.array([0, 2, 1])[wanted])


@pytest.mark.parametrize("way", ["palette", "grey", "colours"])
def test_what_nobody_labelled_is_asked_for_and_ignored(tmp_path: Path, way: str) -> None:
    """As in PASCAL VOC: 255, in a palette and in its colour there, around what is labelled."""

    def bordered(mask: Any) -> Any:
        mask = np.where(binary_dilation(mask > 0) & (mask == 0), 255, mask).astype(np.uint8)
        image = indexed(mask)
        colours = np.zeros((256, 3), np.uint8)
        colours[[1, 2, 255]] = RED, GREEN, (224, 224, 192)
        image.putpalette(colours.ravel().tolist())
        return {"palette": image, "grey": mask, "colours": colours[mask]}[way]

    source = folder_of(tmp_path, bordered)
    with pytest.raises(BadSource) as told:
        read(source, **PNG)
    name, offered = str(told.value).split("'")[1].split("=", 1)
    found = {
        "labels": "0=background,1=label_1,2=label_2,255=ignore",
        "palette": "#000000=background,#ff0000=NAME,#e0e0c0=ignore,#008000=NAME",
    }
    assert sorted(offered.split(",")) == sorted(found[name].split(","))
    offered = found[name].replace("NAME", "label_1", 1).replace("NAME", "label_2", 1)
    survey, cases, rejected = read(source, **PNG, **{name: offered})
    assert rejected == []
    assert survey.meta.classes == ("background", "label_1", "label_2")
    assert survey.meta.regions == {"label_1": (1,), "label_2": (2,)}
    assert survey.meta.ignored == 3
    for mask, wanted in zip(masks_of(cases), truth(), strict=True):
        around = binary_dilation(wanted > 0) & (wanted == 0)
        np.testing.assert_array_equal(mask, np.where(around, 3, wanted))
    # Whoever says that it is a class has one.
    as_class = read(source, **PNG, **{name: offered.replace("ignore", "edge")})[0].meta
    assert (len(as_class.classes), as_class.ignored) == (4, None)


def test_palettes_that_differ_mean_nothing(tmp_path: Path) -> None:
    source = folder_of(tmp_path, indexed)
    image = indexed(truth()[0])
    image.putpalette([0, 0, 0, *GREEN, *RED])
    image.save(source / "masks" / "case 3 [a]_mask.png")
    with pytest.raises(BadSource, match=r"number 1 is #ff0000 .* and #008000 in that of another"):
        read(source, **PNG)


def test_jpeg_masks_are_asked_for_a_threshold_or_the_nearest_colour(tmp_path: Path) -> None:
    options = {"images": "images/*.png", "masks": "masks/{stem}_mask.jpg"}
    for number, mask in enumerate(truth()):
        image = blobs(number, (16, 20), 2)[0]
        picture(tmp_path / "images" / f"{number}.png", image)
        picture(tmp_path / "masks" / f"{number}_mask.jpg", (mask > 0).astype(np.uint8) * 255)
        picture(
            tmp_path / "colours" / f"{number}_mask.jpg", coloured(mask), quality=95, subsampling=0
        )
    with pytest.raises(BadSource, match=r"as after JPEG or smoothing, .*threshold=128"):
        read(tmp_path, **options)
    survey, cases, _ = read(tmp_path, **options, threshold="128")
    assert survey.meta.classes == ("background", "foreground")
    for number, mask in enumerate(masks_of(cases)):
        levels = np.asarray(Image.open(tmp_path / "masks" / f"{number}_mask.jpg"))
        np.testing.assert_array_equal(mask, levels >= 128)
    options["masks"] = "colours/{stem}_mask.jpg"
    with pytest.raises(BadSource, match="nearest=true"):
        read(tmp_path, **options)
    palette = "#000000=background,#ff0000=tumour,#008000=vessel"
    _, cases, rejected = read(tmp_path, **options, palette=palette, nearest="true")
    assert rejected == []
    for number, mask in enumerate(masks_of(cases)):
        with Image.open(tmp_path / "colours" / f"{number}_mask.jpg") as image:
            pixels = np.asarray(image).astype(int)[..., None, :]
        apart = ((pixels - np.array([(0, 0, 0), RED, GREEN])) ** 2).sum(-1)
        np.testing.assert_array_equal(mask, apart.argmin(-1))
        assert (mask == truth()[number]).mean() > 0.9


def test_values_are_named_and_the_first_is_the_background(tmp_path: Path) -> None:
    source = folder_of(tmp_path, lambda mask: np.array([255, 128, 0], np.uint8)[mask])
    labels = "255=background,128=disc,0=cup"
    survey, cases, _ = read(source, **PNG, labels=labels, regions="disc=disc+cup,cup=cup")
    assert survey.meta.classes == ("background", "disc", "cup")
    assert survey.meta.regions == {"disc": (1, 2), "cup": (2,)}
    for mask, wanted in zip(masks_of(cases), truth(), strict=True):
        np.testing.assert_array_equal(mask, wanted)


def test_structures_that_overlap(tmp_path: Path) -> None:
    """A disc as a whole, and the cup in it."""
    options = {"images": "{id}/image.png", "masks": "{id}/{structure}.tif"}
    for number, mask in enumerate(truth()):
        picture(tmp_path / str(number) / "image.png", blobs(number, (16, 20), 2)[0])
        picture(tmp_path / str(number) / "disc.tif", (mask > 0).astype(np.uint8) * 255)
        picture(tmp_path / str(number) / "cup.tif", (mask > 1).astype(np.uint8))
    survey, cases, rejected = read(tmp_path, **options)
    overlapping = [bool((mask > 1).any()) for mask in truth()]
    assert len(rejected) == sum(overlapping) > 0
    assert all("cup and disc overlap" in bad.reason for bad in rejected)
    survey, cases, rejected = read(tmp_path, **options, overlap="regions")
    assert rejected == []
    assert survey.meta.classes == ("background", "cup", "disc", "cup+disc")
    assert survey.meta.regions == {"cup": (1, 3), "disc": (2, 3)}
    for mask, wanted in zip(masks_of(cases), truth(), strict=True):
        np.testing.assert_array_equal(np.isin(mask, (1, 3)), wanted > 1)
        np.testing.assert_array_equal(np.isin(mask, (2, 3)), wanted > 0)
    _, cases, _ = read(tmp_path, **options, overlap="last", structures="disc,cup")
    for mask, wanted in zip(masks_of(cases), truth(), strict=True):
        np.testing.assert_array_equal(mask, wanted)


def test_a_picture_is_shrunk_with_its_mask(tmp_path: Path) -> None:
    source = folder_of(tmp_path, lambda mask: np.kron(mask > 0, np.ones((4, 4))).astype(np.uint8))
    for path in (source / "images").glob("*.png"):
        if not path.name.startswith("."):
            image = np.asarray(Image.open(path))
            picture(path, np.kron(image, np.ones((4, 4), np.uint8)))
    _, cases, rejected = read(source, **PNG, size="20")
    assert rejected == []
    for mask, wanted in zip(masks_of(cases), truth(), strict=True):
        np.testing.assert_array_equal(mask, wanted > 0)


# ---- formats of volumes -----------------------------------------------------------------------


def test_nrrd_mha_and_nifti_give_the_same_cases(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    scan = random.integers(0, 200, (5, 4, 3)).astype(np.int16)
    mask = (scan > 100).astype(np.int16)
    for name, write in (("nrrd", nrrd), ("mha", mha)):
        for number in range(2):
            for what, voxels in (("image", scan + number), ("mask", mask)):
                path = tmp_path / name / f"{number}_{what}.{name}"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(write(voxels))
    from loaders.formats.volumes.open import open_volume

    for number in range(2):
        for what in ("image", "mask"):
            made = open_volume(tmp_path / "nrrd" / f"{number}_{what}.nrrd")
            volume(tmp_path / "nii" / f"{number}_{what}.nii.gz", made.load(), affine=made.affine)
    found = {
        ending: read(
            tmp_path / ending[:4].removesuffix("."),
            images=f"{{n}}_image.{ending}",
            masks=f"{{n}}_mask.{ending}",
        )
        for ending in ("nrrd", "mha", "nii.gz")
    }
    for _, cases, rejected in found.values():
        assert rejected == []
        for number, case in enumerate(cases.values()):
            path = tmp_path / "nii" / f"{number}_image.nii.gz"
            np.testing.assert_array_equal(case.image[0], canonical(path))
            np.testing.assert_array_equal(
                case.mask, canonical(path.with_name(f"{number}_mask.nii.gz"))
            )
            np.testing.assert_allclose(case.spacing, (3.0, 0.5, 2.0))


def test_an_image_and_its_mask_may_be_of_two_formats(tmp_path: Path) -> None:
    scan = np.arange(60).reshape(5, 4, 3).astype(np.int16)
    (tmp_path / "a.mha").write_bytes(mha(scan))
    (tmp_path / "a_seg.nrrd").write_bytes(nrrd((scan > 9).astype(np.int16)))
    _, cases, rejected = read(tmp_path, images="*.mha", masks="{stem}_seg.*")
    assert rejected == []
    (case,) = cases.values()
    np.testing.assert_array_equal(case.mask, case.image[0] > 9)


# ---- patients ---------------------------------------------------------------------------------


def test_patients_by_pattern_by_part_and_by_table(tmp_path: Path) -> None:
    source = folder_of(tmp_path, lambda mask: mask)
    key = "images/case {} [a].png"
    _, cases, _ = read(source, **PNG, group_pattern=r"case ([0-2]|.)")
    assert cases[key.format(4)].group == "4"
    lines = [
        f"case {number} [a].png;P{number // 2};{'test' if number > 3 else 'train'}"
        for number in range(6)
    ]
    (source / "people.csv").write_text("\n".join(["file;patient;part", *lines]))
    table = {"csv": "people.csv", "group": "patient", "split": "part"}
    survey, cases, rejected = read(source, **PNG, **table)
    assert (survey.meta.group_source, rejected) == ("patient", [])
    assert [(case.group, case.split) for _, case in sorted(cases.items())] == [
        (f"P{number // 2}", "test" if number > 3 else "train") for number in range(6)
    ]
    (source / "people.csv").write_text("\n".join(["file;patient;part", *lines[1:]]))
    with pytest.raises(BadSource, match=r"no line for 1 of 6 images, the first images/case 0"):
        read(source, **PNG, **table)


def test_images_that_share_a_mask_stay_together(tmp_path: Path) -> None:
    for number in range(4):
        image, mask = blobs(number, (8, 9))
        picture(tmp_path / f"{number}_t1.png", image)
        picture(tmp_path / f"{number}_t2.png", 255 - image)
        picture(tmp_path / f"{number}_mask.png", mask)
    _, cases, _ = read(tmp_path, images="{n}_{kind:t1|t2}.png", masks="{n}_mask.png")
    groups = {key: case.group for key, case in cases.items()}
    assert len(cases) == 8
    assert groups["2_t1.png"] == groups["2_t2.png"] != groups["1_t1.png"]


# ---- a store ----------------------------------------------------------------------------------


def stored(kind: str, source: Path, out: Path, **options: Any) -> Store:
    prepare(KINDS[kind], source, out, options=options, key=b"k", workers=1, strict=False)
    return open_store(out)


def test_no_name_of_a_patient_reaches_a_store(tmp_path: Path) -> None:
    for number in range(3):
        image, mask = blobs(number, (8, 9))
        picture(tmp_path / "s" / f"Mustermann_{number}.png", image)
        picture(tmp_path / "s" / f"Mustermann_{number}_seg.png", mask)
    picture(tmp_path / "s" / "Mustermann_9.png", image)
    options = {"images": "{patient}_{n}.png", "masks": "{patient}_{n}_seg.png"}
    stored("pairs", tmp_path / "s", tmp_path / "store", **options)
    for path in (tmp_path / "store").rglob("*"):
        assert path.is_dir() or b"ustermann" not in path.read_bytes()


def test_an_nnunet_folder_of_png_and_of_nrrd(tmp_path: Path) -> None:
    for name, ending in (("flat", ".png"), ("deep", ".nrrd")):
        for number in range(3):
            shape = (12, 14) if ending == ".png" else (12, 14, 4)
            image, mask = blobs(number, shape, 2)
            for folder, end, array in (("imagesTr", "_0000", image), ("labelsTr", "", mask)):
                path = tmp_path / name / folder / f"case_{number}{end}{ending}"
                if ending == ".png":
                    colour = np.stack([array, array // 2, array // 3], -1) if end else array
                    picture(path, colour)
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(nrrd(array.astype(np.int16)))
        about = {
            "channel_names": {"0": "R", "1": "G", "2": "B"} if ending == ".png" else {"0": "T1"},
            "labels": {"background": 0, "whole": [1, 2], "core": 2},
            "regions_class_order": [1, 2],
            "numTraining": 3,
            "file_ending": ending,
        }
        (tmp_path / name / "dataset.json").write_text(json.dumps(about))
    flat = stored("nnunet", tmp_path / "flat", tmp_path / "a")
    assert (flat.meta.dims, flat.meta.channels) == (2, ("R", "G", "B"))
    assert flat.meta.regions == {"whole": (1, 2), "core": (2,)}
    sums = sorted(int(blobs(n, (12, 14), 2)[1].sum()) for n in range(3))
    assert sorted(int(np.asarray(flat.mask(n)).sum()) for n in range(3)) == sums
    deep = stored("nnunet", tmp_path / "deep", tmp_path / "b")
    assert (deep.meta.dims, deep.meta.channels, len(deep)) == (3, ("T1",), 3)
    sums = sorted(int(blobs(n, (12, 14, 4), 2)[1].sum()) for n in range(3))
    assert sorted(int(np.asarray(deep.mask(n)).sum()) for n in range(3)) == sums


# ---- real files -------------------------------------------------------------------------------


def test_skin_images_with_masks_from_a_threshold(shared_data: Path, tmp_path: Path) -> None:
    images = sorted((shared_data / "isic_uda1" / "images").glob("*.jpg"))[:40]
    for path in images:
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"))
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
        dark = (grey < np.percentile(grey, 30)).astype(np.uint8) * 255
        picture(tmp_path / "masks" / f"{path.stem}_mask.png", dark)
    survey, cases, rejected = read(tmp_path, images="images/*.jpg", masks="masks/{stem}_mask.png")
    assert (len(cases), rejected) == (40, [])
    assert survey.meta.channels == ("red", "green", "blue")
    for path in images:
        case = cases[f"images/{path.name}"]
        with Image.open(path) as image:
            np.testing.assert_array_equal(case.image, np.moveaxis(np.asarray(image), -1, 0))
            grey = np.asarray(image.convert("L"))
        np.testing.assert_array_equal(case.mask, grey < np.percentile(grey, 30))


def test_hippocampus_is_the_same_store_by_three_kinds(shared_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "msd"
    real = shared_data / "msd_hippocampus"
    for folder in ("imagesTr", "labelsTr"):
        (source / folder).mkdir(parents=True)
        for path in sorted((real / folder).glob("hippo*.nii.gz"))[:12]:
            (source / folder / path.name).write_bytes(path.read_bytes())
    for path in (source / "labelsTr").iterdir():
        label = nib.load(path)
        values = np.asarray(label.dataobj)
        assert np.unique(values).tolist() == [0, 1, 2]
        folder = tmp_path / "structures" / path.name.removesuffix(".nii.gz")
        for number in (1, 2):
            part = (values == number).astype(np.uint8)
            volume(folder / "segmentations" / f"label_{number}.nii.gz", part, affine=label.affine)
        (folder / "mri.nii.gz").write_bytes((source / "imagesTr" / path.name).read_bytes())
    by_msd = stored("msd", source, tmp_path / "a")
    by_pairs = stored(
        "pairs", source, tmp_path / "b", images="imagesTr/*.nii.gz", masks="labelsTr/{stem}.nii.gz"
    )
    by_structure = stored(
        "pairs",
        tmp_path / "structures",
        tmp_path / "c",
        images="{case}/mri.nii.gz",
        masks="{case}/segmentations/{structure}.nii.gz",
    )
    assert len(by_msd) == 12
    assert by_msd.content_hash == by_pairs.content_hash == by_structure.content_hash
    whole = [canonical(path) for path in sorted((source / "labelsTr").iterdir())]
    volumes = sorted(int((np.asarray(by_structure.mask(n)) > 0).sum()) for n in range(12))
    assert volumes == sorted(int((mask > 0).sum()) for mask in whole)


def test_a_bad_case_is_named_by_its_path(tmp_path: Path) -> None:
    source = folder_of(tmp_path, lambda mask: mask)
    (source / "images" / "case 1 [a].png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    _, cases, rejected = read(source, **PNG)
    assert len(cases) == 5
    (bad,) = rejected
    assert isinstance(bad, BadCase)
    assert (bad.where, bad.key) == ("images/case 1 [a].png", "images/case 1 [a].png")
