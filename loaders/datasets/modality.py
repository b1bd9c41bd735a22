"""The modality of volumes, which decides how they are normalised: CT, MRI or another."""

from collections.abc import Collection, Sequence

from loaders.cases import BadSource
from loaders.datasets.decathlon.kind import CT_BELOW
from loaders.formats.nifti import NiftiError
from loaders.formats.volumes.volume import Volume

MODALITIES = ("auto", "ct", "mri", "other")
# DICOM's names of the modalities that have a scale of their own.
_OF_DICOM = {"CT": "ct", "MR": "mri"}


def modality_of(chosen: str, volumes: Sequence[Volume], headers: Collection[str] = ()) -> str:
    """Return the modality of volumes: the chosen one, that of the DICOM headers, else MRI.

    `headers` are the values of Modality. Raises BadSource if volumes reach values as low as CT's
    and nothing states their modality, and if the headers name several.
    """
    if chosen not in MODALITIES:
        known = ", ".join(MODALITIES)
        raise BadSource(f"option modality is {chosen!r}; it must be one of: {known}")
    if chosen != "auto":
        return chosen
    if found := {_OF_DICOM.get(name, "other") for name in headers}:
        if len(found) > 1 or volumes:
            shown = ", ".join(sorted(set(headers)))
            raise BadSource(
                f"the series are {shown}{' and other volumes not DICOM' if volumes else ''}: set "
                "the scale of all, modality=ct, mri (each case has its own) or other"
            )
        return found.pop()
    for volume in volumes:
        try:
            lowest = volume.load().min()
        except NiftiError:
            continue  # reported when it is read
        if lowest < CT_BELOW:
            raise BadSource(
                f"an image has values down to {lowest:g}, like CT: set modality=ct (one scale "
                "for all cases, from the training part) or modality=mri (each case has its "
                "own)"
            )
        break
    return "mri"
