"""Public data sets whose layout is known by name: the settings that read each.

A row says where its layout was taken from. What a user sets wins over what stands here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loaders.cases import BadSource


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One public set: its settings, and those of its table, which count where that file is."""

    source: str
    licence: str
    settings: Mapping[str, str | int]
    table: Mapping[str, str] = field(default_factory=dict)


LAYOUTS: Mapping[str, Layout] = {
    # Folders of 2016, ISBI2016_ISIC_Part1_Training_Data and ..._GroundTruth, to 2018,
    # ISIC2018_Task1-2_Training_Input and ISIC2018_Task1_Training_GroundTruth. In 2017 superpixels
    # lie beside the images (.png), in 2018 those of task 2 beside the masks (_attribute_).
    "isic": Layout(
        source="Codella et al. 2018, arXiv 1902.03368; challenge.isic-archive.com/data; layout as "
        "in github.com/constantinpape/torch-em, isic.py",
        licence="CC0 or CC BY-NC, by image",
        settings={
            "images": "**/*_{split:Training|Validation|Test}*/ISIC_{id}.jpg",
            "masks": "**/*_{split}*GroundTruth/ISIC_{id}_segmentation.png",
            "labels": "0=background,255=lesion",
        },
    ),
    # benign (1).png, benign (1)_mask.png, benign (1)_mask_1.png; of normal ones the mask is black.
    "busi": Layout(
        source="Al-Dhabyani et al. 2020, 10.1016/j.dib.2019.104863; layout as in "
        "github.com/constantinpape/torch-em, busi.py",
        licence="CC0",
        settings={
            "images": "**/{finding:benign|malignant|normal}/*.png",
            "masks": "{folder}/{stem}_mask*.png",
            "several": "union",
            "labels": "0=background,255=lesion",
        },
    ),
    # JPEG masks, so that no level is exact; half of white is the middle between both.
    "kvasir": Layout(
        source="Jha et al. 2020, 10.1007/978-3-030-37734-2_37; datasets.simula.no/kvasir-seg; "
        "layout as in github.com/constantinpape/torch-em, kvasir.py",
        licence="research and education",
        settings={
            "images": "**/images/{id}.jpg",
            "masks": "**/masks/{id}.jpg",
            "labels": "background,polyp",
            "threshold": 128,
        },
    ),
    # mask/ holds the round field of view, not the vessels.
    "drive": Layout(
        source="Staal et al. 2004, 10.1109/TMI.2004.825627; drive.grand-challenge.org; layout as "
        "in github.com/constantinpape/torch-em, drive.py",
        licence="research and education",
        settings={
            "images": "**/{split:training|test}/images/{id}_{split}.tif",
            "masks": "**/{split}/1st_manual/{id}_manual1.gif",
            "labels": "0=background,255=vessel",
        },
    ),
    # Beside both phases lies the whole half of a beat, ..._half_sequence.nii.gz, in three axes.
    "camus": Layout(
        source="Leclerc et al. 2019, 10.1109/TMI.2019.2900516; database_nifti, as in "
        "github.com/constantinpape/torch-em, camus.py",
        licence="CC BY-NC-SA 4.0",
        settings={
            "images": "**/{patient}/{patient}_{view:2CH|4CH}_{phase:ED|ES}.nii.gz",
            "masks": "{folder}/{stem}_gt.nii.gz",
            "labels": "background,left ventricle,myocardium,left atrium",
            "modality": "other",
        },
    ),
    # KiTS21 has the majority of its readers beside segmentations by each (instances/). Scored are
    # its nested regions (hierarchical evaluation classes, kits-challenge.org/kits23).
    "kits": Layout(
        source="Heller et al. 2023, arXiv 2307.01984; github.com/neheller/kits23",
        licence="CC BY-NC-SA 4.0",
        settings={
            "images": "**/{patient}/imaging.nii.gz",
            "masks": "{folder}/{file:segmentation|aggregated_MAJ_seg}.nii.gz",
            "labels": "background,kidney,tumor,cyst",
            "regions": "kidney and masses=kidney+tumor+cyst,masses=tumor+cyst,tumor=tumor",
            "modality": "ct",
        },
    ),
    # "Liver" of the challenge's own scores is the liver with its tumours.
    "lits": Layout(
        source="Bilic et al. 2023, 10.1016/j.media.2022.102680; volume-N.nii and "
        "segmentation-N.nii of its training batches, competitions.codalab.org/competitions/17094",
        licence="CC BY-NC-ND 4.0",
        settings={
            "images": "**/volume-{n}.nii*",
            "masks": "**/segmentation-{n}.nii*",
            "labels": "background,liver,tumor",
            "regions": "liver=liver+tumor,tumor=tumor",
            "modality": "ct",
        },
    ),
    # Whatever the files are called: masks say which series they were drawn on.
    "dicom": Layout(
        source="DICOM series with segmentations or RT structure sets, as TCIA has them",
        licence="its own",
        settings={"images": "dicom", "masks": "dicom", "overlap": "regions"},
    ),
    "totalsegmentator": Layout(
        source="Wasserthal et al. 2023, 10.1148/ryai.230024; layout as its own "
        "resources/convert_dataset_to_nnunet.py reads it",
        licence="CC BY 4.0",
        settings={
            "images": "**/{case}/ct.nii.gz",
            "masks": "{folder}/segmentations/{structure}.nii.gz",
            "modality": "ct",
        },
        table={"csv": "meta.csv", "image": "image_id", "split": "split"},
    ),
}


def with_layout(source: Path, given: Mapping[str, Any]) -> tuple[dict[str, Any], Layout | None]:
    """Return the settings with those of the layout that they name; raises BadSource."""
    name = given.get("layout", "")
    if not name:
        return dict(given), None
    if name not in LAYOUTS:
        raise BadSource(f"option layout is {name!r}; it is one of: {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    # Another way to say what the layout says replaces it.
    without: dict[str, Any] = dict(layout.settings)
    if given.get("palette"):
        without.pop("labels", None)
    if given.get("labels"):
        without.pop("regions", None)
    there = bool(layout.table) and (source / layout.table["csv"]).is_file()
    return {**without, **(layout.table if there else {}), **given}, layout
