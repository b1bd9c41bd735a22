"""What volumes are of, which decides how they are normalised: CT, MRI or another modality."""

from collections.abc import Collection, Sequence

from loaders.cases import BadSource
from loaders.datasets.decathlon.kind import CT_BELOW
from loaders.formats.nifti import NiftiError
from loaders.formats.volumes.volume import Volume

MODALITIES = ("auto", "ct", "mri", "other")
# What DICOM calls the modalities that have a scale of their own.
_OF_DICOM = {"CT": "ct", "MR": "mri"}


def modality_of(chosen: str, volumes: Sequence[Volume], headers: Collection[str] = ()) -> str:
    """Return what volumes are: as asked for, as DICOM headers say, else MRI.

    `headers` are the values of Modality. Raises BadSource where volumes go as low as CT does and
    nothing says what they are, and where headers are of several.
    """
    if chosen not in MODALITIES:
        raise BadSource(f"option modality is {chosen!r}; it is one of: {', '.join(MODALITIES)}")
    if chosen != "auto":
        return chosen
    if found := {_OF_DICOM.get(name, "other") for name in headers}:
        if len(found) > 1 or volumes:
            shown = ", ".join(sorted(set(headers)))
            raise BadSource(
                f"the series are {shown}{' and others are no DICOM' if volumes else ''}: say which "
                "scale all have, modality=ct, mri (each case its own) or other"
            )
        return found.pop()
    for volume in volumes:
        try:
            lowest = volume.load().min()
        except NiftiError:
            continue  # it is told when it is read
        if lowest < CT_BELOW:
            raise BadSource(
                f"an image goes down to {lowest:g}, as CT does: say modality=ct (one scale "
                "for all cases, from the training part) or modality=mri (each case has its "
                "own)"
            )
        break
    return "mri"
