"""Public data sets with a known layout, and the settings that read each.

A row gives the source of its layout. A user's settings override those of the row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loaders.cases import BadSource


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One public set: its settings, and those of its table, which apply if that file exists."""

    source: str
    licence: str
    settings: Mapping[str, str | int]
    table: Mapping[str, str] = field(default_factory=dict)


LAYOUTS: Mapping[str, Layout] = {
    # From the folders of 2016, ISBI2016_ISIC_Part1_Training_Data and ..._GroundTruth, to those of
    # 2018, ISIC2018_Task1-2_Training_Input and ISIC2018_Task1_Training_GroundTruth. In 2017 there
    # are superpixels beside the images (.png), in 2018 masks of task 2 beside these (_attribute_).
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
    # benign (1).png, benign (1)_mask.png, benign (1)_mask_1.png; masks of normal images are black.
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
    # The masks are JPEG, so levels are inexact; the threshold is half of white.
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
    # Beside the two phases there is the sequence of half a beat, ..._half_sequence.nii.gz, in 3-D.
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
    # KiTS21 has the readers' majority beside each reader's segmentation (instances/). Its nested
    # regions are scored (hierarchical evaluation classes, kits-challenge.org/kits23).
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
    # In the challenge's own scores, "liver" includes its tumours.
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
    # File names do not matter: masks name the series on which they were drawn.
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
    """Return the settings combined with those of the layout they name; raises BadSource."""
    name = given.get("layout", "")
    if not name:
        return dict(given), None
    if name not in LAYOUTS:
        raise BadSource(f"option layout is {name!r}; it must be one of: {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    # A setting that expresses the same in another way replaces the layout's.
    without: dict[str, Any] = dict(layout.settings)
    if given.get("palette"):
        without.pop("labels", None)
    if given.get("labels"):
        without.pop("regions", None)
    there = bool(layout.table) and (source / layout.table["csv"]).is_file()
    return {**without, **(layout.table if there else {}), **given}, layout
