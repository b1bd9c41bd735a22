"""NIfTI volumes and the folders that hold them: BraTS, the Decathlon, nnU-Net."""

import gzip
import itertools
import json
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loaders.cases import BadCase, BadSource, Case, Survey
from loaders.datasets.brats.kind import RELEASES
from loaders.datasets.table import KINDS
from loaders.formats.nifti import (
    NiftiError,
    found_labels,
    read_case,
    read_header,
    read_voxels,
    stem,
    to_ras,
)
from loaders.store import prepare as store_prepare
from loaders.store.layout import prepare_command, read_description
from loaders.store.pseudonyms import keyed_id
from loaders.store.read import Store, open_store, verify_store
from loaders.store.write import write_store

KEY = b"a secret"
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SHAPE = (4, 5, 6)
RAS = np.diag([1.0, 1.0, 1.0, 1.0])


def save(path: Path, voxels: Any, affine: Any = RAS, **header: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def a_brain(seed: int = 0, shape: Sequence[int] = SHAPE, dtype: str = "int16") -> Any:
    return np.random.default_rng(seed).integers(0, 250, shape).astype(dtype)


def a_label(values: Sequence[int], seed: int = 0, dtype: str = "uint8") -> Any:
    voxels = np.random.default_rng(seed).choice(values, SHAPE).astype(dtype)
    voxels.flat[: len(values)] = values
    return voxels


def prepare(
    kind: str, source: Path, out: Path, options: Mapping[str, Any] | None = None
) -> tuple[Store, Survey, dict[str, str]]:
    """Return the store, the survey, and what was rejected: where -> reason."""
    survey = KINDS[kind].survey(source, options or {})
    report = write_store(KINDS[kind], survey, out, key=KEY, workers=1, strict=False)
    store = open_store(out)
    assert report.n_cases == len(store)
    assert verify_store(out) == []
    rows = pq.read_table(out / "rejected.parquet")["reason"].to_pylist()
    assert sorted(rows) == sorted(bad.reason for bad in report.rejected)
    return store, survey, {bad.where: bad.reason for bad in report.rejected}


def index_of(store: Store, name: str) -> int:
    return store.case_ids.index(keyed_id(KEY, store.meta.kind, name))


# One file


@st.composite
def affines(draw: st.DrawFn) -> Any:
    """Any of the 48 ways to lay three axes, with its own spacing, offset and a little tilt."""
    order = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    lengths = draw(st.tuples(*[st.sampled_from([0.5, 1.0, 3.3])] * 3))
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * np.array(signs) * np.array(lengths)
    angle = draw(st.sampled_from([0.0, 0.3]))
    tilt = np.eye(4)
    tilt[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, 3] = draw(st.tuples(*[st.integers(-100, 100)] * 3))
    return tilt @ affine


@QUICK
@given(
    affine=affines(),
    dtype=st.sampled_from(["uint8", "int8", "int16", "uint16", "int32", "float32", "float64"]),
    order=st.sampled_from("<>"),
    channels=st.sampled_from([(), (1,), (3,)]),
    ending=st.sampled_from([".nii", ".nii.gz"]),
    slope=st.sampled_from([None, (2.0, -3.0)]),
    version=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
)
def test_a_volume_reads_as_nibabel_reads_it(
    tmp_path_factory: pytest.TempPathFactory,
    affine: Any,
    dtype: str,
    order: str,
    channels: tuple[int, ...],
    ending: str,
    slope: tuple[float, float] | None,
    version: Any,
) -> None:
    path = tmp_path_factory.mktemp("nifti") / f"a{ending}"
    voxels = a_brain(shape=SHAPE + channels).astype(np.dtype(dtype).newbyteorder(order))
    header = version.header_class(endianness=order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    image = version(voxels, affine, header)
    if slope:
        image.header.set_slope_inter(*slope)
        image = version(image.dataobj, affine, image.header)
    nib.save(image, path)

    known = nib.as_closest_canonical(nib.load(path))
    found = read_header(path)
    data, spacing = to_ras(read_voxels(path, found), found.affine)
    np.testing.assert_array_equal(data, known.get_fdata().reshape(data.shape))
    np.testing.assert_allclose(spacing, known.header.get_zooms()[:3], rtol=1e-5)


@pytest.mark.parametrize(
    ("order", "signs"),
    list(itertools.product(itertools.permutations(range(3)), [(1, 1, 1), (-1, 1, -1)])),
)
def test_x_runs_to_the_right_on_the_last_axis(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    """One bright voxel, at a known place of the patient, lies where (Z, Y, X) says."""
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * np.array(signs) * (2.0, 3.0, 4.0)
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[1, 2, 4] = 9
    image, label = (
        save(tmp_path / "i.nii", voxels, affine),
        save(tmp_path / "l.nii", voxels, affine),
    )
    case = read_case([image], label, key="k", group="k", label_values=[0, 9])
    (z, y, x), *_ = np.argwhere(case.image[0])
    assert case.mask is not None
    assert case.mask[z, y, x] == 1
    bright = affine @ (1, 2, 4, 1)
    corners = (affine @ np.array([*itertools.product(*((0, n - 1) for n in SHAPE), [1])]).T)[:3]
    lowest = corners.min(axis=1)
    np.testing.assert_allclose(lowest + np.array([x, y, z]) * case.spacing[::-1], bright[:3])


@pytest.mark.parametrize(("unit", "factor"), [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0)])
def test_spacing_is_in_millimetres(tmp_path: Path, unit: int, factor: float) -> None:
    path = save(tmp_path / "a.nii", a_brain(), np.diag([2.0, 3.0, 4.0, 1.0]), xyzt_units=unit)
    header = read_header(path)
    assert to_ras(read_voxels(path, header), header.affine)[1] == pytest.approx(
        (2.0 * factor, 3.0 * factor, 4.0 * factor)
    )


def test_hidden_files_are_none() -> None:
    assert stem(Path("a/case.x.nii.gz")) == "case.x"
    assert stem(Path("case.nii")) == "case"
    assert stem(Path("._case.nii.gz")) is None
    assert stem(Path("case.nii.bz2")) is None


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_cut_file_is_never_read(tmp_path: Path, ending: str) -> None:
    path = save(tmp_path / f"a{ending}", a_brain())
    whole = path.read_bytes()
    for length in (*range(0, len(whole), 7), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(NiftiError, match=r"truncated|is not a NIfTI file"):
            read_voxels(path, read_header(path))


def test_a_damaged_file_is_never_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", a_brain())
    whole = path.read_bytes()
    # From the compressed data on, to gzip's checksum and length at the end.
    for place in range(20, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(NiftiError):
            read_voxels(path, read_header(path))


@QUICK
@given(places=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=8))
def test_no_header_breaks_the_reader(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[int, int]]
) -> None:
    path = save(tmp_path_factory.mktemp("fuzz") / "a.nii", a_brain())
    raw = bytearray(path.read_bytes())
    for place, value in places:
        raw[place] = value
    path.write_bytes(raw)
    try:
        header = read_header(path)
        voxels = read_voxels(path, header)
    except NiftiError:
        return
    assert voxels.shape == header.shape
    assert voxels.nbytes <= 4 * len(raw)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dim", [3, 4000, 4000, 4000, 1, 1, 1, 1], "declares 119 GiB of voxels"),
        ("dim", [3, 400, 400, 400, 1, 1, 1, 1], "truncated: its header declares more voxels"),
        ("dim", [3, 4, 0, 6, 1, 1, 1, 1], "is empty: its shape is 4 x 0 x 6"),
        ("datatype", 128, "holds voxels of type RGB, not real numbers"),
        ("datatype", 1536, "holds voxels of type float128, not real numbers"),
        ("datatype", 0, "holds voxels of type none, not real numbers"),
        ("datatype", 77, "has a header whose datatype is not valid"),
        ("dim", [3, 4, -5, 6, 1, 1, 1, 1], "is empty: its shape is 4 x -5 x 6"),
        ("dim", [9, 4, 5, 6, 1, 1, 1, 1], r"has a header that declares \d+ axes"),
        ("magic", b"xxx", "is not a NIfTI file"),
        ("vox_offset", np.nan, "has a header whose vox_offset is not valid"),
        ("scl_inter", np.inf, "has a header whose scl_slope and scl_inter is not valid"),
        ("srow_x", [0, 0, 0, 0], "affine that is not invertible"),
        ("srow_x", [np.nan, 0, 0, 0], "affine that is not invertible"),
        ("srow_x", [5e6, 0, 0, 0], "affine that no scanner writes"),
    ],
)
def test_a_lying_header_is_named(tmp_path: Path, field: str, value: Any, message: str) -> None:
    raw = save(tmp_path / "a.nii", a_brain(), sform_code=1).read_bytes()
    header = np.frombuffer(raw[:348], nib.nifti1.header_dtype).copy()
    header[field] = value
    (tmp_path / "b.nii").write_bytes(header.tobytes() + raw[348:])
    with pytest.raises(NiftiError, match=message):
        read_header(tmp_path / "b.nii")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_extensions_are_passed_over(tmp_path: Path, ending: str) -> None:
    """AFNI and others write pages of text between the header and the voxels."""
    image = nib.Nifti1Image(a_brain(), RAS)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nib.save(image, tmp_path / f"a{ending}")
    header = read_header(tmp_path / f"a{ending}")
    assert header.offset > 5000
    np.testing.assert_array_equal(read_voxels(tmp_path / f"a{ending}", header), a_brain())


def test_what_is_no_nifti_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    for content, message in (
        (b"", "is not a NIfTI file"),
        (b"hello", "is not a NIfTI file"),
        (b"\x1f\x8bhello world", "damaged: it cannot be decompressed"),
        (gzip.compress(b"hello"), "is not a NIfTI file"),
    ):
        path.write_bytes(content)
        with pytest.raises(NiftiError, match=message):
            read_header(path)
    with pytest.raises(NiftiError, match="cannot be read \\(No such file"):
        read_header(tmp_path / "none.nii")


def test_more_labels_than_a_mask_holds_are_refused(tmp_path: Path) -> None:
    label = save(tmp_path / "label.nii.gz", np.arange(24, dtype="uint16").reshape(2, 3, 4))
    image = save(tmp_path / "image.nii.gz", np.zeros((2, 3, 4), "int16"))
    for count in (255, 256):
        values = range(count)
        if count == 255:
            case = read_case([image], label, key="a", group="a", label_values=values)
            assert case.mask is not None
            assert sorted(case.mask.ravel().tolist()) == list(range(24))
        else:
            with pytest.raises(BadCase, match="the set has 256 labels; at most 255 are read"):
                read_case([image], label, key="a", group="a", label_values=values)


def test_gzip_in_several_members_is_read(tmp_path: Path) -> None:
    """As pigz, bgzip and a plain concatenation leave it, with or without zeros behind a member."""
    path = save(tmp_path / "a.nii", a_brain())
    raw = path.read_bytes()
    packed = tmp_path / "a.nii.gz"
    parts = [gzip.compress(raw[start : start + 100]) for start in range(0, len(raw), 100)]
    for content in (b"".join(parts), bytes(9).join(parts), b"".join(parts) + bytes(500)):
        packed.write_bytes(content)
        np.testing.assert_array_equal(read_voxels(packed, read_header(packed)), a_brain())
    packed.write_bytes(b"".join(parts) + b"garbage")
    with pytest.raises(NiftiError, match="is damaged"):
        read_voxels(packed, read_header(packed))
    packed.write_bytes(b"".join(parts)[:-3])
    with pytest.raises(NiftiError, match="is truncated"):
        read_voxels(packed, read_header(packed))


def test_a_file_with_more_than_it_declares_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", a_brain())
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw + bytes(512)))
    header = read_header(path)
    np.testing.assert_array_equal(read_voxels(path, header), a_brain())
    path.write_bytes(gzip.compress(raw + bytes(9 << 20)))
    with pytest.raises(NiftiError, match="more than its header declares"):
        read_voxels(path, read_header(path))


def test_a_lying_header_takes_no_memory(tmp_path: Path) -> None:
    """A compressed file of 6 MiB that declares 5 GiB, which deflate could hold."""
    header = nib.Nifti1Header()
    header.set_data_shape((1400, 1400, 1400))
    header.set_data_dtype(np.int16)
    noise = np.random.default_rng(0).bytes(6 << 20)
    (tmp_path / "a.nii.gz").write_bytes(
        gzip.compress(header.binaryblock + bytes(4) + noise, compresslevel=1)
    )
    code = """
        import resource, sys
        from pathlib import Path
        from loaders.formats.nifti import NiftiError, read_header, read_voxels

        path = Path(sys.argv[1])
        header = read_header(path)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read_voxels(path, header)
        except NiftiError as error:
            print(error, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "a.nii.gz")],
        capture_output=True,
        text=True,
        check=True,
    )
    *message, used = done.stdout.split()
    assert " ".join(message) == "is truncated"
    assert int(used) < 100  # MiB


# One case


def a_case(tmp_path: Path, image: Any, label: Any, **more: Any) -> Case:
    save(tmp_path / "image.nii.gz", image)
    save(tmp_path / "label.nii.gz", label, more.pop("affine", RAS))
    return read_case(
        [tmp_path / "image.nii.gz"],
        tmp_path / "label.nii.gz",
        key="k",
        group="g",
        **{"label_values": [0, 1, 2], **more},
    )


def test_channels_of_the_last_axis_come_first(tmp_path: Path) -> None:
    brain = a_brain(shape=(*SHAPE, 4))
    case = a_case(tmp_path, brain, a_label([0, 1, 2]))
    assert case.image.shape == (4, 6, 5, 4)
    for channel in range(4):
        np.testing.assert_array_equal(case.image[channel], brain[..., channel].transpose(2, 1, 0))


def test_labels_take_the_numbers_of_their_classes(tmp_path: Path) -> None:
    label = a_label([0, 1, 2, 4], dtype="float32")
    case = a_case(tmp_path, a_brain(), label, label_values=[0, 1, 2, 4])
    wanted = np.where(label == 4, 3, label).transpose(2, 1, 0)
    np.testing.assert_array_equal(case.mask, wanted)
    assert case.mask is not None
    assert case.mask.dtype == np.uint8


def test_ct_is_cut_at_air(tmp_path: Path) -> None:
    brain = a_brain() - np.int16(3000)
    brain[0, 0, 0] = 40
    case = a_case(tmp_path, brain, a_label([0, 1]), lowest=-1000.0)
    np.testing.assert_array_equal(case.image[0], np.maximum(brain, -1000).transpose(2, 1, 0))
    assert case.image.dtype == np.int16
    # Nothing below air: nothing to cut, whatever the type.
    save(tmp_path / "image.nii.gz", a_brain(dtype="uint8"))
    case = a_case(tmp_path, a_brain(dtype="uint8"), a_label([0, 1]), lowest=-1000.0)
    assert case.image.dtype == np.uint8


MOVED = np.array([[1.0, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("image", "label", "more", "reason"),
    [
        (a_brain(), a_label([0, 3]), {}, "the label holds 3; known labels are 0, 1, 2"),
        (a_brain(), a_label([0, 1]) * 0.5, {}, "the label holds numbers that are not whole"),
        (a_brain(), a_label([0, 1]) * np.nan, {}, "the label holds NaN or infinity"),
        (
            a_brain(),
            -a_label([0, 1]).astype("int16"),
            {},
            "the label holds -1, which is not a class",
        ),
        (a_brain(), a_label([0, 1]) * 1e9, {}, r"the label holds 1e\+09, which is not a class"),
        (
            a_brain(),
            np.zeros((4, 5, 7), "uint8"),
            {},
            "the label is 4 x 5 x 7, but the image 4 x 5 x 6",
        ),
        (
            a_brain(),
            np.zeros((*SHAPE, 2), "uint8"),
            {},
            "the label is 4 x 5 x 6 x 2, but the image",
        ),
        (a_brain(shape=(4,)), np.zeros((4,), "uint8"), {}, "the image has 1 axes"),
        (
            a_brain(),
            a_label([0, 1]),
            {"affine": MOVED},
            "affine puts it 0.5 mm away from the image",
        ),
        (a_brain(), a_label([0, 1]), {"affine": RAS * 1.001}, "affine puts it 0.00877 mm away"),
    ],
)
def test_a_case_whose_files_disagree_is_refused(
    tmp_path: Path, image: Any, label: Any, more: dict[str, Any], reason: str
) -> None:
    if reason.endswith("0.00877 mm away"):
        # A hundredth of a voxel is rounding, and passes.
        assert a_case(tmp_path, image, label, **more).image.shape == (1, 6, 5, 4)
        return
    with pytest.raises(BadCase, match=reason) as raised:
        a_case(tmp_path, image, label, **more)
    assert raised.value.where == "k"
    assert str(tmp_path) not in raised.value.reason


def test_found_labels_passes_bad_files_by(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / "a.nii.gz", a_label([1, 2])),
        save(tmp_path / "b.nii.gz", a_label([0, 7])),
        save(tmp_path / "c.nii.gz", a_label([0, 9]) * 0.5),
    ]
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    assert found_labels(paths) == [0, 1, 2]


# BraTS

OLD = {"flair": 3, "t1": 0, "t1ce": 1, "t2": 2}
NEW = {"t2f": 3, "t1n": 0, "t1c": 1, "t2w": 2}


def make_brats(
    folder: Path,
    case: str,
    roles: Mapping[str, int],
    labels: Sequence[int],
    *,
    between: str = "-",
    ending: str = ".nii.gz",
    seg: str | None = None,
) -> None:
    """Write one case whose channel c holds the number 10 * (c + 1) and a few others."""
    for role, channel in roles.items():
        voxels = a_brain(channel)
        voxels[0, 0, 0] = 1000 + channel
        save(folder / case / f"{case}{between}{role}{ending}", voxels)
    save(folder / case / f"{seg or f'{case}{between}seg'}{ending}", a_label(labels))


# Cases, the release they are of, and what their labels mean: the numbers that stand in the files.
USUAL = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
YEARS = [
    (["Brats17_2013_10_1", "Brats17_TCIA_101_1"], "2018", 2),
    (["Brats18_2013_2_1", "Brats18_TCIA01_147_1"], "2018", 2),
    (["BraTS19_CBICA_AAB_1", "BraTS19_CBICA_AAG_1"], "2018", 2),
    (["BraTS20_Training_001", "BraTS20_Training_002"], "2018", 2),
    (["BraTS2021_00000", "BraTS2021_00002"], "2018", 2),
    (["BraTS-GLI-00008-000", "BraTS-GLI-00008-001"], "2023", 1),
    (["BraTS-GLI-00002-000", "BraTS-SSA-00002-000"], "2023", 2),
    (["BraTS-MEN-00004-000", "BraTS-MEN-00004-001"], "2023-men", 1),
    (["BraTS-MET-00002-000", "BraTS-MET-00096-000"], "2023-met", 2),
    (["BraTS-MET-00002-000", "BraTS-MET-00002-001"], "2025-met", 1),
    (["BraTS-GoAT-00002", "BraTS-GoAT-00096"], "2024-goat", 2),
    (["BraTS-PED-00002-000", "BraTS-PED-00003-000"], "2023-ped", 2),
    (["BraTS-GLI-00005-100", "BraTS-GLI-00005-101"], "2024", 1),
    (["BraTS-PED-00002-000", "BraTS-PED-00003-000"], "2024-ped", 2),
]
PARTS: dict[str, dict[str, tuple[int, ...]]] = {
    "2018": {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)},
    "2023": USUAL,
    "2023-men": USUAL,
    "2023-met": USUAL,
    "2023-ped": USUAL,
    "2024": {**USUAL, "RC": (4,)},
    "2024-goat": USUAL,
    "2025-met": {**USUAL, "RC": (4,)},
    "2024-ped": {
        "WT": (1, 2, 3, 4),
        "TC": (1, 2, 3),
        "ET": (1,),
        "NET": (2,),
        "CC": (3,),
        "ED": (4,),
    },
}


def options_of(year: str) -> dict[str, str]:
    """Return the option that two releases of the same names need, and nothing for the others."""
    return {"release": year} if year.endswith(("ped", "met")) else {}


@pytest.mark.parametrize(("cases", "year", "groups"), YEARS)
def test_brats_of_every_year(tmp_path: Path, cases: list[str], year: str, groups: int) -> None:
    roles, between = (OLD, "_") if year == "2018" else (NEW, "-")
    parts = PARTS[year]
    labels = sorted({0, *itertools.chain(*parts.values())})
    for case in cases:
        make_brats(tmp_path / "raw" / "HGG", case, roles, labels, between=between)
    store, survey, rejected = prepare("brats", tmp_path / "raw", tmp_path / "s", options_of(year))
    assert rejected == {}
    both = " (GLI and SSA)" if any("SSA" in case for case in cases) else ""
    assert store.meta.name == RELEASES[year].name + both
    assert store.meta.channels == ("t1n", "t1c", "t2w", "t2f")
    assert store.meta.normalize == "case"
    assert len(set(store.source_groups)) == groups
    assert store.meta.group_source == ("case" if year in ("2018", "2024-goat") else "patient")
    assert [item.key for item in survey.items] == sorted(cases)
    label = a_label(labels)
    assert list(store.meta.regions) == list(parts)
    for index in range(2):
        image, mask = store.image(index), store.mask(index)
        assert [int(image[channel, 0, 0, 0]) for channel in range(4)] == [1000, 1001, 1002, 1003]
        for name, numbers in parts.items():
            np.testing.assert_array_equal(
                np.isin(mask, store.meta.regions[name]), np.isin(label, numbers).transpose(2, 1, 0)
            )


def test_brats_of_children_has_to_be_told_by_its_year(tmp_path: Path) -> None:
    """1 is the core in 2023 and the enhancing tumour in 2024, under the same names."""
    make_brats(tmp_path / "raw", "BraTS-PED-00002-000", NEW, (0, 1, 2, 3))
    brats = KINDS["brats"]
    with pytest.raises(BadSource, match="set release=2023-ped or release=2024-ped"):
        brats.survey(tmp_path / "raw", {})
    with pytest.raises(
        BadSource, match="option release is '2025'; it must be one of auto, 2018, 2023"
    ):
        brats.survey(tmp_path / "raw", {"release": "2025"})
    with pytest.raises(BadSource, match=r"no files named as in BraTS 2023 metastases \(files of"):
        brats.survey(tmp_path / "raw", {"release": "2023-met"})
    # A label that the year does not have is named, so a wrong year is found where 4 is met.
    make_brats(tmp_path / "raw", "BraTS-PED-00003-000", NEW, (0, 1, 4))
    _, _, rejected = prepare("brats", tmp_path / "raw", tmp_path / "s", {"release": "2023-ped"})
    assert list(rejected.values()) == ["the label holds 4; known labels are 0, 1, 2, 3"]


def test_metastases_after_treatment_have_to_be_told_by_their_year(tmp_path: Path) -> None:
    make_brats(tmp_path / "raw", "BraTS-MET-00002-000", NEW, (0, 1, 2, 3, 4))
    with pytest.raises(BadSource, match="set release=2023-met or release=2025-met"):
        KINDS["brats"].survey(tmp_path / "raw", {})
    store, _, _ = prepare("brats", tmp_path / "raw", tmp_path / "s", {"release": "2025-met"})
    assert store.meta.regions["RC"] == (4,)
    assert store.meta.regions["WT"] == (1, 2, 3)


def test_a_label_of_the_release_that_no_case_has_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """1, 2 and 3 are labels of the children's sets of both years, and mean other parts."""
    for number in (2, 3):
        make_brats(tmp_path, f"BraTS-PED-{number:05d}-000", NEW, (0, 1, 2, 3))
    KINDS["brats"].survey(tmp_path, {"release": "2023-ped"})
    assert caplog.messages == []
    KINDS["brats"].survey(tmp_path, {"release": "2024-ped"})
    (said,) = caplog.messages
    assert said.startswith("None of 2 cases has the label 4 (oedema) of BraTS 2024 paediatric.")
    make_brats(tmp_path, "BraTS-PED-00004-000", NEW, (0, 4))
    KINDS["brats"].survey(tmp_path, {"release": "2024-ped"})
    assert len(caplog.messages) == 1


MAPPING = """Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID,TCGA_TCIA_subject_ID,\
BraTS_2019_subject_ID,BraTS_2020_subject_ID
HGG,Brats17_CBICA_AAB_1,Brats18_CBICA_AAB_1,NA,BraTS19_CBICA_AAB_1,BraTS20_Training_001
LGG,NA,NA,TCGA-DU-1,BraTS19_TMC_1_1,BraTS20_Training_002
LGG,NA,NA,TCGA-DU-1,NA,BraTS20_Training_003
HGG,NA,NA,NA,NA,BraTS20_Training_004
"""


def make_years(folder: Path, *cases: str) -> None:
    for case in cases:
        make_brats(folder, case, OLD, (0, 1, 2, 4), between="_")


def test_names_of_several_years_are_one_patient_by_the_mapping(tmp_path: Path) -> None:
    cases = (
        "BraTS19_CBICA_AAB_1",
        "Brats18_CBICA_AAB_1",
        "BraTS19_TMC_1_1",
        *(f"BraTS20_Training_{number:03d}" for number in range(1, 6)),
    )
    make_years(tmp_path / "raw", *cases)
    brats = KINDS["brats"]
    with pytest.raises(BadSource, match=r"cases of 2018 and 2019 and 2020: each year .* map"):
        brats.survey(tmp_path / "raw", {})
    (tmp_path / "raw" / "name_mapping.csv").write_text(MAPPING)
    options = {"mapping": "name_mapping.csv"}
    store, survey, rejected = prepare("brats", tmp_path / "raw", tmp_path / "s", options)
    assert store.meta.group_source == "patient"
    found: dict[str, list[str]] = {}
    for item in survey.items:
        found.setdefault(item.extra["group"], []).append(item.key)
    assert sorted(sorted(names) for names in found.values()) == [
        # 002 and 003 have a patient of TCGA in common.
        ["BraTS19_CBICA_AAB_1", "BraTS20_Training_001", "Brats18_CBICA_AAB_1"],
        ["BraTS19_TMC_1_1", "BraTS20_Training_002", "BraTS20_Training_003"],
        ["BraTS20_Training_004"],
    ]
    assert list(rejected.values()) == [
        "the mapping does not list the case, so its patient is unknown"
    ]
    # Two tables, as for the training and the validation part.
    (tmp_path / "raw" / "more.csv").write_text(
        "BraTS_2019_subject_ID,BraTS_2020_subject_ID\nNA,BraTS20_Training_005\n"
    )
    survey = brats.survey(tmp_path / "raw", {"mapping": "name_mapping.csv, more.csv"})
    assert survey.rejected == ()
    assert len({item.extra["group"] for item in survey.items}) == 4


@pytest.mark.parametrize("word", ["#N/A", "unknown", "-", "None", "<NA>", "#REF!"])
def test_a_missing_word_in_the_mapping_makes_nobody_one(tmp_path: Path, word: str) -> None:
    make_years(tmp_path, "BraTS19_TMC_1_1", "BraTS20_Training_002", "BraTS20_Training_003")
    (tmp_path / "m.csv").write_text(
        "BraTS_2018_subject_ID,BraTS_2019_subject_ID,BraTS_2020_subject_ID\n"
        f"{word},BraTS19_TMC_1_1,BraTS20_Training_002\n{word},{word},BraTS20_Training_003\n"
    )
    survey = KINDS["brats"].survey(tmp_path, {"mapping": "m.csv"})
    groups = {item.key: item.extra["group"] for item in survey.items}
    assert groups["BraTS19_TMC_1_1"] == groups["BraTS20_Training_002"]
    assert groups["BraTS20_Training_003"] != groups["BraTS20_Training_002"]


@pytest.mark.parametrize(
    ("mapping", "text", "message"),
    [
        ("none.csv", "", "there is no file none.csv under"),
        ("../m.csv", "", "mapping is '../m.csv'; it must be a path under"),
        ("m.csv", "Grade,name\nHGG,x\n", "no column of names like BraTS_2020_subject_ID; its col"),
        ("m.csv", "BraTS_2019,BraTS_2020\na,b,c\n", "m.csv line 2: the line has 3 cells"),
        ("m.csv", "", "m.csv is empty"),
    ],
)
def test_a_mapping_that_cannot_be_used(
    tmp_path: Path, mapping: str, text: str, message: str
) -> None:
    make_years(tmp_path, "BraTS20_Training_001")
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(BadSource, match=message):
        KINDS["brats"].survey(tmp_path, {"mapping": mapping})


def test_a_mapping_is_for_names_that_tell_no_patient(tmp_path: Path) -> None:
    make_brats(tmp_path, "BraTS-GLI-00002-000", NEW, (0, 1, 2, 3))
    with pytest.raises(BadSource, match="mapping is not for BraTS 2023, whose names contain"):
        KINDS["brats"].survey(tmp_path, {"mapping": "m.csv"})


def test_brats_2020_case_355(tmp_path: Path) -> None:
    make_brats(tmp_path, "BraTS20_Training_001", OLD, (0, 1, 2, 4), between="_", ending=".nii")
    make_brats(
        tmp_path,
        "BraTS20_Training_355",
        OLD,
        (0, 2, 4),
        between="_",
        ending=".nii",
        seg="W39_1998.09.19_Segm",
    )
    store, _, rejected = prepare("brats", tmp_path, tmp_path / "s")
    assert rejected == {}
    mask = store.mask(index_of(store, "BraTS20_Training_355"))
    np.testing.assert_array_equal(np.unique(mask), [0, 2, 3])


def test_brats_rejects_what_cannot_be_used(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    faults = ("no_label", "no_channel", "twice", "cut", "nan", "shape", "treated", "no_image")
    names = {name: f"BraTS-GLI-{number:05d}-000" for number, name in enumerate(("good", *faults))}
    for case in names.values():
        make_brats(raw, case, NEW, (0, 1, 2, 3))

    def file(name: str, role: str) -> Path:
        return raw / names[name] / f"{names[name]}-{role}.nii.gz"

    file("no_label", "seg").unlink()
    file("no_channel", "t1c").unlink()
    save(raw / names["twice"] / f"{names['twice']}-t1c.nii", a_brain())
    file("cut", "t2w").write_bytes(file("cut", "t2w").read_bytes()[:-30])
    save(file("nan", "t1n"), np.full(SHAPE, np.nan, np.float32))
    save(file("shape", "t2f"), a_brain(shape=(4, 5, 7)))
    save(file("treated", "seg"), a_label([0, 1, 4]))
    for role in NEW:
        file("no_image", role).unlink()
    store, _, rejected = prepare("brats", raw, tmp_path / "s")
    assert len(store) == 1
    found = {Path(where).name: reason for where, reason in rejected.items()}
    assert found == {
        names["no_label"]: "the image has no label",
        names["no_channel"]: "channel t1c is missing",
        names["twice"]: "there are 2 files for t1c",
        names["cut"]: "the image is truncated",
        names["nan"]: "the image holds NaN or infinity",
        names["shape"]: "the channel is 4 x 5 x 7, but the image 4 x 5 x 6",
        names["treated"]: "the label holds 4; known labels are 0, 1, 2, 3",
        names["no_image"]: "the label has no image",
    }


def test_brats_says_what_is_wrong_with_a_source(tmp_path: Path) -> None:
    brats = KINDS["brats"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSource, match="holds no files named as in BraTS 2017-2021, BraTS 2023"):
        brats.survey(tmp_path / "empty", {})
    make_brats(tmp_path / "rt", "BraTS-MEN-RT-00001-000", NEW, (0, 1))
    with pytest.raises(BadSource, match=r"\(files of BraTS-MEN-RT are there\)"):
        brats.survey(tmp_path / "rt", {})
    make_brats(tmp_path / "both", "BraTS-GLI-00001-000", NEW, (0, 1))
    make_brats(tmp_path / "both", "BraTS-GLI-00001-100", NEW, (0, 1))
    with pytest.raises(BadSource, match=r"BraTS 2023 and BraTS 2024 .* prepare them separately"):
        brats.survey(tmp_path / "both", {})


# The Decathlon


def make_msd(folder: Path, values: Sequence[int], **about: Any) -> None:
    for number in range(3):
        save(folder / "imagesTr" / f"case_{number}.nii.gz", a_brain(number))
        save(folder / "labelsTr" / f"case_{number}.nii.gz", a_label(values, number))
    # As the archives hold them, made on a Mac.
    (folder / "imagesTr" / "._case_0.nii.gz").write_bytes(b"Mac")
    if about:
        (folder / "dataset.json").write_text(json.dumps(about))


def test_msd_with_its_description(tmp_path: Path) -> None:
    make_msd(
        tmp_path / "raw",
        [0, 1, 2],
        name="Hippocampus",
        modality={"0": "MRI"},
        labels={"0": "background", "1": "Anterior", "2": "Posterior"},
        licence="CC-BY-SA 4.0",
        reference="Vanderbilt",
        training=[{"image": f"./imagesTr/case_{n}.nii.gz", "label": "x"} for n in range(4)],
    )
    store, _, rejected = prepare("msd", tmp_path / "raw", tmp_path / "s")
    assert rejected == {"case_3": "the image is missing"}
    meta = store.meta
    assert (meta.name, meta.licence, meta.source) == ("Hippocampus", "CC-BY-SA 4.0", "Vanderbilt")
    assert meta.classes == ("background", "Anterior", "Posterior")
    assert meta.regions == {"Anterior": (1,), "Posterior": (2,)}
    assert (meta.channels, meta.normalize, meta.fill) == (("MRI",), "case", 0.0)
    assert meta.group_source == "case"
    assert len(set(store.groups)) == 3
    for number in range(3):
        index = index_of(store, f"case_{number}")
        np.testing.assert_array_equal(store.image(index)[0], a_brain(number).transpose(2, 1, 0))
        mask = a_label([0, 1, 2], number).transpose(2, 1, 0)
        np.testing.assert_array_equal(store.mask(index), mask)


@pytest.mark.parametrize("name", [None, 7, "", " ", ["x"], {"a": 1}])
def test_a_description_whose_name_is_none(tmp_path: Path, name: Any) -> None:
    labels = {"0": "background", "1": "x"}
    make_msd(tmp_path, [0, 1], labels=labels, name=name, reference=name, license="CC0")
    meta = KINDS["msd"].survey(tmp_path, {}).meta
    assert (meta.name, meta.source, meta.licence) == ("msd", "unknown", "CC0")


def test_msd_without_description_takes_the_labels_it_finds(tmp_path: Path) -> None:
    make_msd(tmp_path / "raw", [0, 2, 5])
    store, _, _ = prepare("msd", tmp_path / "raw", tmp_path / "s")
    assert store.meta.classes == ("background", "label_2", "label_5")
    mask = store.mask(index_of(store, "case_0"))
    wanted = np.searchsorted([0, 2, 5], a_label([0, 2, 5], 0)).transpose(2, 1, 0)
    np.testing.assert_array_equal(mask, wanted)


def test_msd_labels_can_be_named(tmp_path: Path) -> None:
    make_msd(tmp_path / "raw", [0, 1, 2])
    options = {"labels": "background, edema, tumour, necrosis", "group": r"case_(\d)"}
    store, _, _ = prepare("msd", tmp_path / "raw", tmp_path / "s", options)
    assert store.meta.classes == ("background", "edema", "tumour", "necrosis")
    assert store.meta.group_source == "patient"
    assert set(store.groups) == {keyed_id(KEY, "msd", str(number)) for number in range(3)}


def test_msd_ct_is_normalised_over_the_training_part(tmp_path: Path) -> None:
    make_msd(tmp_path / "raw", [0, 1], modality={"0": "CT"}, labels={"0": "background", "1": "x"})
    save(tmp_path / "raw" / "imagesTr" / "case_0.nii.gz", a_brain() - np.int16(2000))
    store, _, _ = prepare("msd", tmp_path / "raw", tmp_path / "s")
    assert (store.meta.normalize, store.meta.fill) == ("train", -1000.0)
    assert (store.image(index_of(store, "case_0")) == -1000).all()
    mri, _, _ = prepare("msd", tmp_path / "raw", tmp_path / "t", {"modality": "mri"})
    assert mri.meta.normalize == "case"
    assert mri.image(index_of(mri, "case_0")).min() == -2000


def test_msd_brain_tumour_has_the_regions_of_brats(tmp_path: Path) -> None:
    names = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
    make_msd(tmp_path / "raw", [0, 1, 2, 3], labels=names, modality={"0": "FLAIR"})
    store, _, _ = prepare("msd", tmp_path / "raw", tmp_path / "s")
    assert store.meta.regions == {"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)}


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "is not a JSON object"),
        ('{"labels": {"0": "background"}}', "the labels are 0: 0 and at least one more are needed"),
        ('{"labels": {"1": "a", "2": "b"}}', "the labels are 1, 2: 0 and at least one more"),
        ('{"labels": {"zero": "a"}}', "'zero' is not the number of a label"),
        ('{"labels": {"0": "a", "99999999999": "b"}}', "99999999999 is outside 0 to 65535"),
        ('{"labels": [1]}', "has no 'labels', or it is not an object"),
        ('{"labels": {"0": "a", "1.7": "b"}}', "'1.7' is not the number of a label"),
        ('{"labels": {"0": "a", "1_0": "b"}}', "'1_0' is not the number of a label"),
        ('{"labels": {"0": "a", "1": "b", "01": "c"}}', "number 1 has two names"),
        ('{"labels": {"0": "a", "1": "b", "1": "c"}}', "is not JSON .'1' is listed twice"),
        ('{"labels": {"0": "a", "1": " "}}', "' ' is not the name of a label"),
        ('{"labels": {"0": "a", "1": ["b"]}}', r"\['b'\] is not the name of a label"),
        ('{"labels": {"0": "a", "1": true}}', "True is not the name of a label"),
        (
            '{"labels": {"0": "a", "1": "%s"}}' % ("b" * 201),
            "b' is not the name|bbb is not the name",
        ),
        (r'{"labels": {"0": "a", "1": "\ud800"}}', "half a character"),
        (r'{"name": "\ud800", "labels": {"0": "a", "1": "b"}}', "half a character"),
        ('{"modality": {"0": ""}, "labels": {"0": "a", "1": "b"}}', "'' is not the name"),
        ('{"labels": {"0": "a", "1": "a"}}', "two classes share a name"),
        ('{"channel_names": {"0": "CT"}}', "is an nnU-Net folder: prepare it as `nnunet`"),
    ],
)
def test_msd_with_a_broken_description(tmp_path: Path, about: str, message: str) -> None:
    make_msd(tmp_path, [0, 1])
    (tmp_path / "dataset.json").write_text(about)
    with pytest.raises(BadSource, match=message):
        KINDS["msd"].survey(tmp_path, {})


@pytest.mark.parametrize(
    ("channels", "modality"),
    [
        (["CT"], "ct"),
        ([" ct "], "ct"),
        (["CT arterial", "CTA"], "ct"),
        (["non-contrast CT"], "ct"),
        (["T1", "T2 tract", "PET"], "mri"),
        (["CT", "PET"], None),
        (["MR", "CBCT"], None),
    ],
)
def test_the_modality_is_as_the_channels_are_named(
    tmp_path: Path, channels: list[str], modality: str | None
) -> None:
    make_msd(
        tmp_path, [0, 1], modality=dict(enumerate(channels)), labels={"0": "background", "1": "x"}
    )
    msd = KINDS["msd"]
    if modality is None:
        said = f"of the channels {channels[0]}, {channels[1]} only some are CT: set mod"
        with pytest.raises(BadSource, match=said):
            msd.survey(tmp_path, {})
        modality = "ct"
        survey = msd.survey(tmp_path, {"modality": "ct"})
    else:
        survey = msd.survey(tmp_path, {})
    assert survey.meta.options["modality"] == modality


def test_ct_that_nobody_named_is_not_taken_for_mri(tmp_path: Path) -> None:
    make_msd(tmp_path, [0, 1])
    (tmp_path / "imagesTr" / "case_0.nii.gz").write_bytes(b"broken")
    assert KINDS["msd"].survey(tmp_path, {}).meta.normalize == "case"
    save(tmp_path / "imagesTr" / "case_1.nii.gz", a_brain() - np.int16(1024))
    with pytest.raises(
        BadSource, match=r"case_1.nii.gz has values down to -1\d{3}, like CT, .*: set"
    ):
        KINDS["msd"].survey(tmp_path, {})
    assert KINDS["msd"].survey(tmp_path, {"modality": "ct"}).meta.normalize == "train"
    assert KINDS["msd"].survey(tmp_path, {"modality": "mri"}).meta.normalize == "case"
    # Who says what the channels are is believed.
    about = {"labels": {"0": "background", "1": "x"}, "modality": {"0": "MRI"}}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    assert KINDS["msd"].survey(tmp_path, {}).meta.normalize == "case"


@pytest.mark.parametrize("version", ["modality", None])
def test_msd_on_a_folder_of_nnunet_says_so(tmp_path: Path, version: str | None) -> None:
    """Version 1 has the Decathlon's words in dataset.json; and it may be missing."""
    make_nnunet(tmp_path, {"0": "background", "1": "core"}, [0, 1])
    about = json.loads((tmp_path / "dataset.json").read_text())
    if version is None:
        (tmp_path / "dataset.json").unlink()
    else:
        about[version] = about.pop("channel_names")
        (tmp_path / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(BadSource, match=r"named CASE_0000, .* prepare it as `nnunet`"):
        KINDS["msd"].survey(tmp_path, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "pet"}, "option modality is 'pet'; it must be one of auto, ct, mri"),
        ({"group": "("}, "is not a regular expression with a group"),
        ({"group": "case"}, "is not a regular expression with a group"),
        ({"group": "x(.)"}, "finds no patient in case_0"),
        ({"labels": "background"}, "0 and at least one more are needed"),
    ],
)
def test_msd_with_wrong_options(tmp_path: Path, options: dict[str, str], message: str) -> None:
    make_msd(tmp_path, [0, 1])
    with pytest.raises(BadSource, match=message):
        KINDS["msd"].survey(tmp_path, options)


def test_msd_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="neither a folder imagesTr nor files CASE_image"):
        KINDS["msd"].survey(tmp_path, {})
    (tmp_path / "imagesTr").mkdir()
    with pytest.raises(BadSource, match="has no folder labelsTr"):
        KINDS["msd"].survey(tmp_path, {})
    (tmp_path / "labelsTr").mkdir()
    save(tmp_path / "imagesTr" / "a.nii.gz", a_brain())
    with pytest.raises(BadSource, match="no image with its label: a: the image has no label"):
        KINDS["msd"].survey(tmp_path, {})


# nnU-Net


def make_nnunet(folder: Path, names: Any, values: Sequence[int], **about: Any) -> None:
    for number in range(3):
        for channel in range(2):
            name = f"case_{number}_{channel:04d}.nii.gz"
            save(folder / "imagesTr" / name, a_brain(10 * number + channel))
        save(folder / "labelsTr" / f"case_{number}.nii.gz", a_label(values, number))
    known = {"labels": names, "channel_names": {"1": "T2", "0": "T1"}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**known, **about}))


def test_nnunet(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    make_nnunet(raw, {"background": 0, "edge": 2, "core": 1}, [0, 1, 2], name="Mine")
    (raw / "imagesTr" / "case_2_0001.nii.gz").unlink()
    save(raw / "labelsTr" / "case_9.nii.gz", a_label([0, 1]))
    store, _, rejected = prepare("nnunet", raw, tmp_path / "s")
    assert rejected == {
        "case_2": "the channel T2 is missing",
        "case_9": "the channel T1 is missing",
    }
    assert store.meta.name == "Mine"
    assert store.meta.classes == ("background", "core", "edge")
    assert store.meta.channels == ("T1", "T2")
    image = store.image(index_of(store, "case_1"))
    for channel in range(2):
        np.testing.assert_array_equal(image[channel], a_brain(10 + channel).transpose(2, 1, 0))


def test_nnunet_regions(tmp_path: Path) -> None:
    """As in KiTS 2023: a region unites labels, and labels without a name get one."""
    labels = {"background": 0, "kidney": [1, 2, 4], "masses": [2, 4], "tumor": 2}
    make_nnunet(tmp_path / "raw", labels, [0, 1, 2, 4])
    store, _, _ = prepare("nnunet", tmp_path / "raw", tmp_path / "s")
    assert store.meta.classes == ("background", "label_1", "tumor", "label_4")
    assert store.meta.regions == {"kidney": (1, 2, 3), "masses": (2, 3), "tumor": (2,)}


def test_voxels_to_be_ignored_are_no_class_and_no_region(tmp_path: Path) -> None:
    """Label maps hold them above the last class; nothing that is counted or drawn around has them.

    nnU-Net's documentation/ignore_label.md: the label is called `ignore` and is the highest.
    """
    labels = {"background": 0, "whole": [1, 4], "core": 4, "ignore": 7}
    make_nnunet(tmp_path / "raw", labels, [0, 1, 4, 7])
    store, _, rejected = prepare("nnunet", tmp_path / "raw", tmp_path / "s")
    assert not rejected
    assert store.meta.classes == ("background", "label_1", "core")
    assert store.meta.regions == {"whole": (1, 2), "core": (2,)}
    assert store.meta.ignored == 3
    for number in range(3):
        index = index_of(store, f"case_{number}")
        mask = store.mask(index)
        given = a_label([0, 1, 4, 7], number).transpose(2, 1, 0)
        for source, stored in {0: 0, 1: 1, 4: 2, 7: 3}.items():
            np.testing.assert_array_equal(mask == stored, given == source)
        counts = [int((given == source).sum()) for source in (0, 1, 4)]
        assert store.class_counts[index].tolist() == counts
        for region, sources in enumerate(((1, 4), (4,))):
            where = np.argwhere(np.isin(given, sources))
            box = [where.min(axis=0).tolist(), (where.max(axis=0) + 1).tolist()]
            assert store.boxes[index, region].tolist() == box
    again = prepare_command(tmp_path / "s", read_description(tmp_path / "s"))
    assert "--set ignore" not in again


def test_nnunet_of_version_1(tmp_path: Path) -> None:
    make_nnunet(tmp_path / "raw", {"0": "background", "1": "core"}, [0, 1])
    about = json.loads((tmp_path / "raw" / "dataset.json").read_text())
    about["modality"] = about.pop("channel_names")
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps(about))
    store, _, _ = prepare("nnunet", tmp_path / "raw", tmp_path / "s")
    assert (store.meta.classes, store.meta.channels) == (("background", "core"), ("T1", "T2"))


def test_nnunet_without_a_description(tmp_path: Path) -> None:
    """What is there tells channels and labels; names may be given for the labels."""
    raw = tmp_path / "raw"
    make_nnunet(raw, {"background": 0, "edge": 2, "core": 1}, [0, 1, 2])
    told, _, _ = prepare("nnunet", raw, tmp_path / "told")
    (raw / "dataset.json").unlink()
    (raw / "imagesTr" / "case_2_0001.nii.gz").unlink()
    store, _, rejected = prepare("nnunet", raw, tmp_path / "s")
    assert rejected == {"case_2": "the channel channel_1 is missing"}
    assert store.meta.channels == ("channel_0", "channel_1")
    assert store.meta.classes == ("background", "label_1", "label_2")
    for case in ("case_0", "case_1"):
        image, mask = (read(index_of(store, case)) for read in (store.image, store.mask))
        np.testing.assert_array_equal(image, told.image(index_of(told, case)))
        np.testing.assert_array_equal(mask, told.mask(index_of(told, case)))
    survey = KINDS["nnunet"].survey(raw, {"labels": "background,core,edge"})
    assert survey.meta.classes == ("background", "core", "edge")


def test_ct_in_any_channel_that_nobody_named_is_asked_about(tmp_path: Path) -> None:
    make_nnunet(tmp_path, {"background": 0, "a": 1}, [0, 1])
    (tmp_path / "dataset.json").unlink()
    save(tmp_path / "imagesTr" / "case_0_0001.nii.gz", a_brain() - np.int16(1024))
    with pytest.raises(BadSource, match=r"case_0_0001.nii.gz has values down to -1\d{3}, like CT"):
        KINDS["nnunet"].survey(tmp_path, {})
    assert KINDS["nnunet"].survey(tmp_path, {"modality": "ct"}).meta.normalize == "train"


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (
            {"labels": {"background": 0, "a": 2, "ignore": 1}},
            "'ignore' is 1; it must be the highest",
        ),
        ({"labels": {"background": 0, "a": 1, "ignore": 1}}, "the highest of all, above 1"),
        ({"labels": {"background": 0, "a": 1, "ignore": [2, 3]}}, "'ignore' is a list of numbers"),
        ({"labels": {"background": 1, "a": 0}}, "label 'background' is not 0"),
        ({"file_ending": ".gipl"}, "holds .gipl files; endings read are: .nii.gz, .nii, .nrrd"),
        ({"channel_names": {}}, "has no 'channel_names'"),
        ({"channel_names": {"0": "T1", "2": "T2"}}, "channels are numbered 0, 2 instead of 0, 1"),
        ({"labels": {"background": 0, "a": float("inf")}}, "inf is not the number of a label"),
        ({"labels": {"background": 0, "a": float("nan")}}, "nan is not the number of a label"),
        ({"labels": {"background": 0, "a": 1.7}}, "1.7 is not the number of a label"),
        ({"labels": {"background": 0, "a": True}}, "True is not the number of a label"),
        ({"labels": {"background": 0, "a": None}}, "None is not the number of a label"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "two names have the same label 1"),
        ({"labels": {"background": 0, "a": [1, 2], "b": [2, 1]}}, "have the same label 2, 1"),
        ({"labels": {"background": 0, "": 1}}, "'' is not the name of a label"),
    ],
)
def test_nnunet_that_is_not_read(tmp_path: Path, about: dict[str, Any], message: str) -> None:
    make_nnunet(tmp_path, {"background": 0, "a": 1}, [0, 1], **about)
    with pytest.raises(BadSource, match=message):
        KINDS["nnunet"].survey(tmp_path, {})


# Real images


def test_hippocampus(shared_data: Path, tmp_path: Path) -> None:
    """200 real volumes, one without a label, no description, two types, two scales."""
    source = shared_data / "msd_hippocampus"
    survey = KINDS["msd"].survey(source, {"labels": "background,anterior,posterior"})
    assert len(survey.items) == 199
    assert [(bad.where, bad.reason) for bad in survey.rejected] == [
        ("hippocampus_118", "the image has no label")
    ]
    # Ten are enough for the rest; the slow test below reads all.
    few = Survey(meta=survey.meta, items=survey.items[::20], rejected=survey.rejected)
    write_store(KINDS["msd"], few, tmp_path / "s", key=KEY, workers=1, strict=False)
    store = open_store(tmp_path / "s")
    assert store.meta.regions == {"anterior": (1,), "posterior": (2,)}
    for item in few.items:
        index = index_of(store, item.key)
        image, label = (nib.as_closest_canonical(nib.load(path)) for path in item.paths)
        stored = image.get_fdata(dtype=np.float32).T
        np.testing.assert_array_equal(store.image(index)[0], stored)
        np.testing.assert_array_equal(store.mask(index), np.asarray(label.dataobj).T)
        np.testing.assert_array_equal(store.spacing[index], [1.0, 1.0, 1.0])
        # The anterior part lies before the posterior one, so Y grows from back to front.
        (front, back) = (store.boxes[index, region, :, 1].mean() for region in range(2))
        assert front > back


@pytest.mark.slow
def test_hippocampus_whole(shared_data: Path, tmp_path: Path) -> None:
    store, _, rejected = prepare("msd", shared_data / "msd_hippocampus", tmp_path / "s")
    assert len(store) == 199
    assert rejected == {"hippocampus_118": "the image has no label"}
    assert store.meta.classes == ("background", "label_1", "label_2")
    assert (store.class_counts > 0).all()
    written = " ".join(path.name for path in (tmp_path / "s").rglob("*"))
    written += (tmp_path / "s" / "store.json").read_text() + str(store.table.to_pylist())
    assert "hippocampus" not in written


def test_brain_tumour(shared_data: Path, tmp_path: Path) -> None:
    """Four channels on the last axis of one file."""
    source = shared_data / "msd_braintumour"
    names = "background,edema,non-enhancing tumor,enhancing tumour"
    store, _, _ = prepare("msd", source, tmp_path / "s", {"labels": names})
    image = nib.load(source / "BRATS_009_crop_image.nii.gz")
    label = nib.load(source / "BRATS_009_crop_label.nii.gz")
    np.testing.assert_array_equal(store.image(0), np.asarray(image.dataobj).T)
    np.testing.assert_array_equal(store.mask(0), np.asarray(label.dataobj).T)
    assert store.image_type == np.int16
    assert store.image(0).shape == (4, 55, 141, 147)
    # Enhancing in the core in the whole, in every box.
    whole, core, enhancing = store.boxes[0]
    assert (whole[0] <= core[0]).all()
    assert (core[0] <= enhancing[0]).all()
    assert (whole[1] >= core[1]).all()


# The Decathlon numbers oedema, core and enhancing tumour 1, 2, 3 (its dataset.json). Each year's
# numbers for them; what a year has besides (cavity, cyst) is not in this volume.
NUMBERS = {
    "2018": (2, 1, 4),
    "2023": (2, 1, 3),
    "2023-men": (2, 1, 3),
    "2023-met": (2, 1, 3),
    "2023-ped": (2, 1, 3),
    "2024": (2, 1, 3),
    "2024-ped": (4, 2, 1),
    "2024-goat": (2, 1, 3),
    "2025-met": (2, 1, 3),
}
CASE_OF = {year: cases[0] for cases, year, _ in YEARS}
ORIENTATIONS = ("RAS", "LPS", "LAS", "RPI", "ASR", "SAL", "PIR", "IRP")


@pytest.fixture(scope="module", params=[2, pytest.param(1, marks=pytest.mark.slow)])
def tumour(shared_data: Path, request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """Return the real sub-volume, each second voxel or all: image (4, Z, Y, X), label (Z, Y, X)."""
    step = (slice(None, None, request.param),) * 3
    folder = shared_data / "msd_braintumour"
    image, label = (
        nib.as_closest_canonical(nib.load(folder / f"BRATS_009_crop_{what}.nii.gz"))
        for what in ("image", "label")
    )
    return np.asarray(image.dataobj)[step].T, np.asarray(label.dataobj)[step].T


def save_in(path: Path, voxels: Any, orientation: str) -> None:
    """Write (X, Y, Z) voxels whose axes run right, anterior, superior with theirs as named."""
    image = nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation)
    )
    turned = image.as_reoriented(turn)
    assert "".join(nib.aff2axcodes(turned.affine)) == orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(turned, path)


@pytest.mark.parametrize("year", list(RELEASES))
def test_a_real_tumour_is_the_same_in_every_year_and_orientation(
    tumour: tuple[Any, Any], tmp_path: Path, year: str
) -> None:
    """Named, numbered and laid as each year might have it: the same regions voxel for voxel."""
    image, label = tumour
    numbers = np.array((0, *NUMBERS[year]), dtype=np.uint8)[label]
    # The Decathlon's channels are FLAIR, T1w, t1gd, T2w; stored are t1n, t1c, t2w, t2f.
    channels = dict(zip(("t2f", "t1n", "t1c", "t2w"), image, strict=True))
    roles, between = (RELEASES[year].roles, "_" if year == "2018" else "-")
    for number, orientation in enumerate(ORIENTATIONS):
        case = f"{CASE_OF[year][:-1]}{number}"
        start = tmp_path / "raw" / case / case
        for role, channel in roles.items():
            save_in(Path(f"{start}{between}{role}.nii"), channels[channel].T, orientation)
        save_in(Path(f"{start}{between}seg.nii"), numbers.T, orientation)
    store, _, rejected = prepare("brats", tmp_path / "raw", tmp_path / "s", options_of(year))
    assert rejected == {}
    assert len(store) == len(ORIENTATIONS)
    wanted = {"WT": label > 0, "TC": label > 1, "ET": label == 3}
    assert all(region.any() for region in wanted.values())
    assert len(set(store.hashes)) == 1
    for index in range(len(store)):
        assert store.spacing[index].tolist() == [2.0, 2.0, 2.0]
        for place, channel in enumerate(store.meta.channels):
            np.testing.assert_array_equal(store.image(index)[place], channels[channel])
        for name, region in wanted.items():
            mine = np.isin(store.mask(index), store.meta.regions[name])
            np.testing.assert_array_equal(mine, region)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_real_tumour_of_the_decathlon_in_every_orientation(
    tumour: tuple[Any, Any], tmp_path: Path, orientation: str
) -> None:
    """Task01 keeps its four channels on the last axis of one file."""
    image, label = tumour
    raw = tmp_path / "raw"
    save_in(raw / "imagesTr" / "BRATS_009.nii", image.T, orientation)
    save_in(raw / "labelsTr" / "BRATS_009.nii", label.T, orientation)
    names = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
    modality = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    about = {"labels": names, "modality": modality}
    (raw / "dataset.json").write_text(json.dumps(about))
    store, _, _ = prepare("msd", raw, tmp_path / "s")
    assert store.meta.channels == ("FLAIR", "T1w", "t1gd", "T2w")
    np.testing.assert_array_equal(store.image(0), image)
    for name, region in {"WT": label > 0, "TC": label > 1, "ET": label == 3}.items():
        mine = np.isin(store.mask(0), store.meta.regions[name])
        np.testing.assert_array_equal(mine, region)


def test_reading_leaves_no_file_open(tmp_path: Path) -> None:
    make_msd(tmp_path / "raw", [0, 1])
    files = Path("/proc/self/fd")
    if not files.is_dir():
        pytest.skip("looks for open files in /proc")
    store_prepare.prepare(KINDS["msd"], tmp_path / "raw", tmp_path / "s", key=KEY, strict=False)
    # Only files of this test: what other tests left for the garbage collector may close meanwhile.
    held = []
    for entry in files.iterdir():
        try:
            held.append(entry.readlink())
        except FileNotFoundError:  # the folder's own descriptor, closed by the listing's end
            continue
    assert [path for path in held if path.is_relative_to(tmp_path)] == []
