"""Volumes of any supported format, recognized by content: NIfTI, NRRD, MetaImage."""

from functools import partial
from pathlib import Path

from loaders.formats import nifti
from loaders.formats.volumes.metaimage import BEGINS, open_metaimage
from loaders.formats.volumes.nrrd import MAGIC, open_nrrd
from loaders.formats.volumes.volume import Volume, VolumeError

# Endings of volumes, in lower case; .nhdr is listed for its message only.
ENDINGS = (*nifti.ENDINGS, ".nrrd", ".mha", ".mhd", ".nhdr")


def open_volume(path: Path) -> Volume:
    """Read a volume's header and check it against the file; raises VolumeError."""
    if path.exists() and not path.is_file():
        raise VolumeError("is not a file but a folder, a pipe or a device")
    try:
        with path.open("rb") as file:
            begin = file.read(16)
    except OSError as error:
        raise VolumeError(f"cannot be read ({error.strerror})") from None
    if begin.startswith(MAGIC):
        return open_nrrd(path)
    if begin.startswith(BEGINS):
        return open_metaimage(path)
    header = nifti.read_header(path)
    return Volume(
        shape=header.shape,
        dtype=header.read_as,
        affine=header.affine,
        load=partial(nifti.read_voxels, path, header),
    )


def volume_stem(name: str) -> str | None:
    """Return a file's name without the ending of a volume; None if it has none."""
    for ending in ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return None
