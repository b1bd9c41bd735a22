"""NRRD and MHA: written by hand as their formats say, and by ITK where it is installed."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from loaders.formats.volumes.open import open_volume, volume_stem
from loaders.formats.volumes.volume import VolumeError

nib: Any = nibabel
RANDOM = np.random.default_rng(5)
VOXELS = RANDOM.integers(-900, 900, (5, 4, 3)).astype(np.int16)
# Columns: where a step along x, y and z leads, in LPS mm.
DIRECTION = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
SPACING = np.array([0.5, 2.0, 3.0])
ORIGIN = np.array([-10.0, 20.0, 30.5])
# By hand: RAS is LPS with the first two turned round.
AFFINE = np.array(
    [[0.0, 2.0, 0.0, 10.0], [-0.5, 0.0, 0.0, -20.0], [0.0, 0.0, 3.0, 30.5], [0.0, 0.0, 0.0, 1.0]]
)


def nrrd(
    voxels: Any = VOXELS,
    *,
    encoding: str = "raw",
    order: str = "<",
    type_: str = "short",
    **more: str,
) -> bytes:
    """Return an NRRD of voxels (X, Y, Z); fields as in its documentation's example."""
    steps = " ".join(f"({','.join(map(str, v))})" for v in (DIRECTION * SPACING).T)
    fields = {
        "type": type_,
        "dimension": str(voxels.ndim),
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, voxels.shape)),
        "space directions": steps,
        "kinds": "domain domain domain",
        "endian": "little" if order == "<" else "big",
        "encoding": encoding,
        "space origin": f"({','.join(map(str, ORIGIN))})",
        **more,
    }
    head = "NRRD0004\n# Complete NRRD file format specification at:\n" + "".join(
        f"{name}: {value}\n" for name, value in fields.items() if value
    )
    data = voxels.astype(voxels.dtype.newbyteorder(order)).tobytes(order="F")
    return head.encode() + b"\n" + (gzip.compress(data) if encoding == "gzip" else data)


def mha(voxels: Any = VOXELS, *, packed: bool = False, order: str = "<", **more: str) -> bytes:
    """Return an MHA of voxels (X, Y, Z) or (C, X, Y, Z); fields in the order that ITK writes."""
    data = voxels.astype(voxels.dtype.newbyteorder(order)).tobytes(order="F")
    data = zlib.compress(data) if packed else data
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": str(order == ">"),
        "CompressedData": str(packed),
        "TransformMatrix": " ".join(map(str, DIRECTION.T.ravel())),
        "Offset": " ".join(map(str, ORIGIN)),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": " ".join(map(str, SPACING)),
        "DimSize": " ".join(map(str, voxels.shape[-3:])),
        "ElementType": "MET_SHORT",
        "ElementDataFile": "LOCAL",
    }
    fields = {**fields, **more}
    last = fields.pop("ElementDataFile")
    lines = [f"{name} = {value}\n" for name, value in fields.items() if value]
    return ("".join(lines) + f"ElementDataFile = {last}\n").encode() + data


def written(folder: Path, raw: bytes, name: str = "a.bin") -> Path:
    path = folder / name
    path.write_bytes(raw)
    return path


GOOD = {
    "nrrd": nrrd(),
    "nrrd, gzip": nrrd(encoding="gzip"),
    "nrrd, big endian": nrrd(order=">"),
    "nrrd, the name of the type in full": nrrd(type_="signed short int"),
    "mha": mha(),
    "mha, zlib": mha(packed=True),
    "mha, big endian": mha(order=">"),
}


@pytest.mark.parametrize("name", GOOD)
def test_voxels_and_places_are_those_written(tmp_path: Path, name: str) -> None:
    volume = open_volume(written(tmp_path, GOOD[name]))
    assert volume.shape == VOXELS.shape
    np.testing.assert_allclose(volume.affine, AFFINE)
    np.testing.assert_array_equal(volume.load(), VOXELS)
    assert volume.load().dtype == np.int16


def test_an_nrrd_in_ras_lies_as_it_says(tmp_path: Path) -> None:
    volume = open_volume(written(tmp_path, nrrd(space="right-anterior-superior")))
    np.testing.assert_allclose(volume.affine[:3, 3], ORIGIN)
    np.testing.assert_allclose(volume.affine[:3, :3], DIRECTION * SPACING)


def test_channels_stand_behind(tmp_path: Path) -> None:
    several = np.stack([VOXELS, VOXELS + 1])
    raw = nrrd(several, kinds="vector domain domain domain")
    steps = raw.replace(b"space directions: (", b"space directions: none (")
    for made in (steps, mha(several, ElementNumberOfChannels="2")):
        volume = open_volume(written(tmp_path, made))
        assert volume.shape == (5, 4, 3, 2)
        np.testing.assert_array_equal(volume.load(), np.moveaxis(several, 0, -1))


def test_a_flat_image_has_one_slice(tmp_path: Path) -> None:
    flat = VOXELS[:, :, 0]
    raw = mha(
        VOXELS[:, :, :1],
        NDims="2",
        DimSize="5 4",
        TransformMatrix="1 0 0 1",
        Offset="1 2",
        ElementSpacing="0.5 0.25",
    )
    plain = nrrd(
        flat,
        **{
            "space": "",
            "space directions": "",
            "space origin": "",
            "kinds": "",
            "spacings": "0.5 0.25",
        },
    )
    for made in (raw, plain):
        volume = open_volume(written(tmp_path, made))
        assert volume.shape == (5, 4, 1)
        np.testing.assert_array_equal(volume.load()[..., 0], flat)
        np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), [0.5, 0.25, 1])


def test_a_nifti_is_told_by_its_content(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, AFFINE)
    volume = open_volume(written(tmp_path, gzip.compress(image.to_bytes()), "a.mha"))
    np.testing.assert_array_equal(volume.load(), VOXELS)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)


BAD = {
    "cut": (nrrd()[:-1], "truncated"),
    "cut in gzip": (nrrd(encoding="gzip")[:-30], "truncated"),
    "cut mha": (mha()[:-1], "truncated"),
    "no zlib": (mha(CompressedData="True"), "damaged"),
    "another file": (nrrd(**{"data file": "../../other.raw"}), "in another file"),
    "another file of mha": (mha(ElementDataFile="/etc/passwd"), "in another file"),
    "text": (nrrd(encoding="ascii"), "encoding 'ascii'"),
    "bombs": (nrrd(sizes="100000 100000 100000"), "GiB"),
    "bombs of mha": (mha(DimSize="100000 100000 100000"), "GiB"),
    "sizes": (nrrd(sizes="5 four 3"), "not numbers"),
    "dimension": (nrrd(dimension="4"), "do not match"),
    "flat space": (nrrd(**{"space directions": "(0,0,0) (0,1,0) (0,0,1)"}), "linearly dependent"),
    "scanner space": (nrrd(space="scanner-xyz"), "space 'scanner-xyz'"),
    "vector": (nrrd(**{"space origin": "(a,b,c)"}), "not a vector"),
    "complex": (nrrd(type_="block"), "type 'block'"),
    "type of mha": (mha(ElementType="MET_STRING"), "MET_STRING"),
    "matrix": (mha(TransformMatrix="1 0 0 1"), "do not match"),
    "infinite": (mha(ElementSpacing="inf 1 1"), "not a list of numbers"),
    "empty": (b"", "not a NIfTI"),
    "header alone": (b"NRRD0004\ntype: short\n", "without data"),
    "header of mha alone": (b"ObjectType = Image\nNDims = 3\n", "without data"),
    "negative": (nrrd(sizes="-5 4 3"), "is empty"),
    "four axes": (mha(NDims="4", DimSize="5 4 3 1"), "4 axes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    raw, why = BAD[name]
    with pytest.raises(VolumeError, match=why):
        open_volume(written(tmp_path, raw)).load()


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_file_is_a_fault_and_nothing_else(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    raw = bytearray(list(GOOD.values())[seed % len(GOOD)])
    for _ in range(4):
        raw[random.integers(0, min(len(raw), 420))] = random.integers(0, 256)
    told, size = "", 0
    try:
        size = open_volume(written(tmp_path, bytes(raw))).load().size
    except VolumeError as error:
        told = str(error)
    assert bool(told) != bool(size)
    assert str(tmp_path) not in told
    assert size <= len(raw) * 8


def test_stems() -> None:
    assert [volume_stem(n) for n in ("a.nii.gz", "b.NRRD", "c.mha", "d.png")] == [
        "a",
        "b",
        "c",
        None,
    ]


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
@pytest.mark.parametrize("kind", ["int16", "uint8", "float32", "float64", "uint16", "int32"])
@pytest.mark.parametrize("packed", [False, True])
def test_itk_writes_what_is_read(tmp_path: Path, ending: str, kind: str, packed: bool) -> None:
    itk = pytest.importorskip("SimpleITK", reason="needs SimpleITK (pip install .[tests])")
    image = itk.GetImageFromArray(np.abs(VOXELS).astype(kind).T)
    image.SetSpacing(SPACING.tolist())
    image.SetOrigin(ORIGIN.tolist())
    image.SetDirection(DIRECTION.ravel().tolist())
    path = tmp_path / f"a.{ending}"
    itk.WriteImage(image, str(path), packed)
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.load(), itk.GetArrayFromImage(itk.ReadImage(str(path))).T)
    assert volume.load().dtype == np.dtype(kind)
    corner = np.array([4, 3, 2, 1.0])
    lps = image.TransformIndexToPhysicalPoint((4, 3, 2))
    np.testing.assert_allclose((volume.affine @ corner)[:3], [-lps[0], -lps[1], lps[2]], atol=1e-6)
