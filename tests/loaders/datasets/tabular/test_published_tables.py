"""Tables as they are published and as spreadsheets leave them, in miniature.

Headers are copied to the letter; each comment says from where. What must come out is worked out by
pandas, ast or hand.
"""

import ast
import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from loaders.cases import BadSource, Survey
from loaders.datasets.table import KINDS
from loaders.datasets.tabular.table_lines import listed
from loaders.formats.csv_table import open_table
from loaders.store.prepare import prepare
from loaders.store.read import open_store

PIXELS = np.random.default_rng(3).integers(0, 256, (7, 9)).astype(np.uint8)


def png(number: int = 0, kind: type = np.uint8) -> bytes:
    file = io.BytesIO()
    Image.fromarray((PIXELS + np.uint8(number)).astype(kind)).save(file, "PNG")
    return file.getvalue()


def source_of(root: Path, names: Sequence[str], table: str | bytes, file: str = "t.csv") -> Path:
    """Write a picture of each name, and the table."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(number))
    (root / file).write_bytes(table.encode() if isinstance(table, str) else table)
    return root


def survey_of(source: Path, **options: Any) -> Survey:
    return KINDS["images"].survey(source, options)


def answers_of(survey: Survey) -> dict[str, int]:
    """Return the label of each picture, by its name without folder and suffix."""
    return {Path(row[0]).stem: row[2] for item in survey.items for row in item.extra["rows"]}


def groups_of(survey: Survey) -> list[str]:
    return [row[1] for item in survey.items for row in item.extra["rows"]]


# ---- layouts ----------------------------------------------------------------------------------

# Data_Entry_2017.csv of NIH ChestX-ray14: pandas reads a column "Unnamed: 11" from it, which public
# loaders drop by that name.
NIH = """Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,\
View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],
00000001_000.png,Cardiomegaly,0,1,058Y,M,PA,2682,2749,0.143,0.143,
00000001_001.png,Cardiomegaly|Emphysema,1,1,058Y,M,PA,2894,2729,0.143,0.143,
00000002_000.png,No Finding,0,2,081Y,M,PA,2500,2048,0.171,0.171,
"""


def test_nih_ends_its_lines_with_a_comma(tmp_path: Path) -> None:
    frame = pd.read_csv(io.StringIO(NIH))
    assert frame.columns[-1] == "Unnamed: 11"
    source = source_of(tmp_path / "set", [f"images/{name}" for name in frame["Image Index"]], NIH)
    options = {"label": "Finding Labels", "finding": "Emphysema", "group": "Patient ID"}
    survey = survey_of(source, **options)
    assert survey.rejected == ()
    wanted = frame["Finding Labels"].str.split("|").map(lambda words: int("Emphysema" in words))
    assert list(answers_of(survey).values()) == wanted.tolist()
    assert groups_of(survey) == frame["Patient ID"].astype(str).tolist()


@pytest.mark.parametrize("change", ["header", "lines"])
def test_commas_at_one_end_alone(tmp_path: Path, change: str) -> None:
    """The header's alone: BBox_List_2017.csv, `Image Index,Finding Label,Bbox [x,y,w,h],,,`."""
    head, *lines = NIH.splitlines()
    cut = [line.rstrip(",") for line in lines]
    text = [head + ",,", *cut] if change == "header" else [head.rstrip(","), *lines]
    names = [line.split(",")[0] for line in lines]
    source = source_of(tmp_path / "set", names, "\n".join(text))
    survey = survey_of(source, label="Finding Labels", finding="Emphysema")
    assert (list(answers_of(survey).values()), survey.rejected) == ([0, 1, 0], ())


def test_a_cell_behind_the_last_column_is_no_blank_one(tmp_path: Path) -> None:
    text = "image,label,\na.png,0,\nb.png,1,\nc.png,1,x\nd.png,1,,,\n"
    source = source_of(tmp_path / "set", ["a.png", "b.png", "c.png", "d.png"], text)
    survey = survey_of(source)
    assert answers_of(survey) == {"a": 0, "b": 1, "d": 1}
    assert [bad.reason for bad in survey.rejected] == [
        "the line has 3 cells but the table 2 columns"
    ]


def test_a_table_that_pandas_wrote(tmp_path: Path) -> None:
    """Its first header is blank, above the index."""
    names = [f"{n}.png" for n in range(4)]
    frame = pd.DataFrame({"file": names, "label": [0, 1, np.nan, 1], "sick": [True, False] * 2})
    text = frame.to_csv()
    assert text.startswith(",file,")
    source = source_of(tmp_path / "set", names, text)
    survey = survey_of(source)
    assert answers_of(survey) == {"0": 0, "1": 1, "3": 1}
    assert [bad.reason for bad in survey.rejected] == ["column label has no value"]
    assert list(answers_of(survey_of(source, finding="sick")).values()) == [1, 0, 1, 0]
    # Written twice over, and with the names as the index.
    (source / "t.csv").write_text(pd.read_csv(io.StringIO(text)).to_csv())
    assert answers_of(survey_of(source)) == answers_of(survey)
    frame.set_index("file").rename_axis(None).to_csv(source / "t.csv")
    with pytest.raises(BadSource, match=r"cannot be both image and label: .* Unnamed: 0"):
        survey_of(source)
    assert answers_of(survey_of(source, image="Unnamed: 0")) == answers_of(survey)


# train.csv of CheXpert-v1.0-small, as torchxrayvision ships it (chexpert_train.csv.gz).
CHEXPERT = """Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,\
Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,\
Pleural Effusion,Pleural Other,Fracture,Support Devices
CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,\
0.0,,,,1.0
CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Female,87,Frontal,AP,,,-1.0,1.0,,\
-1.0,-1.0,,-1.0,,-1.0,,1.0,
CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg,Female,83,Frontal,AP,,,,1.0,,1.0,\
-1.0,,,,,,1.0,
"""


def test_chexpert_begins_its_paths_with_its_own_name(tmp_path: Path) -> None:
    frame = pd.read_csv(io.StringIO(CHEXPERT))
    source_of(tmp_path, frame["Path"].tolist(), CHEXPERT)
    source = tmp_path / "CheXpert-v1.0-small"
    (tmp_path / "t.csv").rename(source / "t.csv")
    survey = survey_of(source, finding="Edema", uncertain="positive", group_pattern="(patient.*?)/")
    assert survey.rejected == ()
    wanted = frame["Edema"].fillna(0).abs().astype(int).tolist()
    found = {row[0]: row[2] for item in survey.items for row in item.extra["rows"]}
    assert found == dict(zip(frame["Path"].str.split("/", n=1).str[1], wanted, strict=True))
    assert groups_of(survey) == ["patient00001", "patient00002", "patient00002"]
    # From the folder above, as the paths are.
    (source / "t.csv").rename(tmp_path / "t.csv")
    assert list(answers_of(survey_of(tmp_path, finding="Lung Opacity"))) == ["view1_frontal"]
    # From the folder below; and under another name, where whose files they are is not known.
    (tmp_path / "t.csv").rename(source / "train" / "t.csv")
    below = survey_of(source / "train", finding="Edema", uncertain="positive")
    assert below.rejected == ()
    source.rename(tmp_path / "other")
    survey = survey_of(tmp_path / "other" / "train", finding="Edema", uncertain="positive")
    (reason,) = {bad.reason for bad in survey.rejected}
    assert reason.endswith(
        "all names in the table begin with a folder that the source does not have"
    )


def test_a_folder_of_the_sources_name_is_meant_where_there_is_one(tmp_path: Path) -> None:
    names = ["set/a.png", "a.png", "set/b.png"]
    source = source_of(tmp_path / "set", names, "image,label\nset/a.png,0\nset/b.png,1\n")
    found = [row[0] for item in survey_of(source).items for row in item.extra["rows"]]
    assert found == ["set/a.png", "set/b.png"]


# PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv: the columns as BIMCV's page of the set lists
# them (BIMCV-CSUSP/Rx-thorax-automatic-captioning, README), the first being pandas' index.
PADCHEST = """,ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,\
ViewPosition_DICOM,Projection,MethodProjection,Pediatric,Modality_DICOM,Manufacturer_DICOM,\
PhotometricInterpretation_DICOM,PixelRepresentation_DICOM,PixelAspectRatio_DICOM,\
SpatialResolution_DICOM,BitsStored_DICOM,WindowCenter_DICOM,WindowWidth_DICOM,Rows_DICOM,\
Columns_DICOM,XRayTubeCurrent_DICOM,Exposure_DICOM,ExposureInuAs_DICOM,ExposureTime_DICOM,\
RelativeXRayExposure_DICOM,ReportID,Report,MethodLabel,Labels,Localizations,\
LabelsLocalizationsBySentence,LabelCUIS,LocalizationsCUIS"""
LISTS = (
    "['pulmonary fibrosis', 'chronic changes', 'effusion']",
    "['normal']",
    "[' effusion', 'Chilaiditi\\'s sign', \"Kerley's lines\"]",
    "['', 'nodule', nan]",
    "[]",
    "",
    "['a' 'b']",
    "[['effusion'], ['normal']]",
    "[__import__('os').system('touch hacked'), 'effusion']",
    "['effusion'",
)


def padchest(lists: Sequence[str]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, PADCHEST.split(","), restval="nan")
    writer.writeheader()
    for n, labels in enumerate(lists):
        row = {"": n, "ImageID": f"216840_0{n}.png", "ImageDir": 0, "PatientID": f"8384{n // 2}"}
        report = 'sin cambios, "estable"\nno se aprecia'
        writer.writerow({**row, "Report": report, "Labels": labels})
    return file.getvalue()


def test_padchest_writes_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"216840_0{n}.png" for n in range(len(LISTS))]
    source = source_of(tmp_path / "set", names, padchest(LISTS))
    survey = survey_of(source, label="Labels", finding="effusion", group="PatientID")
    wanted = [[word.strip() for word in ast.literal_eval(LISTS[n])] for n in range(3)]
    want = {f"216840_0{n}": int("effusion" in words) for n, words in enumerate(wanted)}
    # The fourth is no literal to Python.
    assert answers_of(survey) == {**want, "216840_03": 0}
    assert [bad.reason for bad in survey.rejected] == [
        "column Labels has an empty list",
        "column Labels has no value",
        *(["column Labels has a list that cannot be read"] * 4),
    ]
    assert not (tmp_path / "hacked").exists()
    with pytest.raises(BadSource, match="column Labels has several findings per image"):
        survey_of(source, label="Labels")


@pytest.mark.parametrize("text", ["[1]", "[benign]", "benign [see note]", "[x", "[sic] 'a'", "a|b"])
def test_what_is_no_list_of_texts_is_text(text: str) -> None:
    assert listed(text) == text


def test_lists_of_one_are_classes(tmp_path: Path) -> None:
    names = [f"216840_0{n}.png" for n in range(3)]
    source = source_of(tmp_path / "set", names, padchest(["['normal']", '["edema"]', "['normal']"]))
    survey = survey_of(source, label="Labels", positive="edema")
    assert survey.meta.classes == ("edema", "normal")
    assert list(answers_of(survey).values()) == [1, 0, 1]


# ---- several rows a picture -------------------------------------------------------------------

# stage_2_train_labels.csv of RSNA's pneumonia challenge, as torchxrayvision ships it.
RSNA = """patientId,x,y,width,height,Target
0004cfab,,,,,0
00436515,264.0,152.0,213.0,379.0,1
00436515,562.0,152.0,256.0,453.0,1
00569f44,,,,,0
"""


def test_rsna_has_a_row_a_box(tmp_path: Path) -> None:
    frame = pd.read_csv(io.StringIO(RSNA))
    names = [f"images/{name}.png" for name in frame["patientId"].unique()]
    source = source_of(tmp_path / "set", names, RSNA)
    survey = survey_of(source, label="Target", group="patientId")
    assert answers_of(survey) == frame.groupby("patientId")["Target"].max().to_dict()
    assert survey.rejected == ()
    assert len(set(groups_of(survey))) == 3


# train.csv of VinBigData's challenge (VinDr-CXR on Kaggle), as torchxrayvision ships it: a row a
# box and reader.
VINDR = """image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max
50a4,No finding,14,R11,,,,
50a4,No finding,14,R7,,,,
50a4,No finding,14,R10,,,,
9a5f,Cardiomegaly,3,R10,691.0,1375.0,1653.0,1831.0
9a5f,Aortic enlargement,0,R10,1052.0,715.0,1299.0,966.0
9a5f,Aortic enlargement,0,R9,1061.0,732.0,1278.0,954.0
9a5f,No finding,14,R8,,,,
051d,Cardiomegaly,3,R9,900.0,1300.0,1700.0,1800.0
051d,Cardiomegaly,3,R8,912.0,1311.0,1722.0,1810.0
051d,Cardiomegaly,3,R8,100.0,1311.0,1722.0,1810.0
051d,Nodule/Mass,8,R10,1.0,2.0,3.0,4.0
063a,Cardiomegaly,3,R10,900.0,1300.0,1700.0,1800.0
063a,Cardiomegaly,3,R8,912.0,1311.0,1722.0,1810.0
063a,Cardiomegaly,3,R9,912.0,1311.0,1722.0,1810.0
"""
PICTURES = ["train/50a4.png", "train/9a5f.png", "train/051d.png", "train/063a.png"]


def readers_of(finding: str) -> "pd.Series[float]":
    """Return, for each picture, the share of its readers who say that the finding is there."""
    frame = pd.read_csv(io.StringIO(VINDR))
    frame["there"] = frame["class_name"] == finding
    each = frame.groupby(["image_id", "rad_id"])["there"].any()
    share: pd.Series[float] = each.groupby("image_id").mean()
    return share


@pytest.mark.parametrize("finding", ["Cardiomegaly", "No finding", "Aortic enlargement"])
@pytest.mark.parametrize("rule", ["majority", "any", "all"])
def test_the_readers_of_vindr_are_heard_by_a_rule(tmp_path: Path, finding: str, rule: str) -> None:
    source = source_of(tmp_path / "set", PICTURES, VINDR)
    survey = survey_of(source, label="class_name", finding=finding, readers=rule)
    share = readers_of(finding)
    wanted = {"majority": share > 0.5, "any": share > 0, "all": share == 1}[rule]
    assert answers_of(survey) == wanted.astype(int).to_dict()
    assert survey.rejected == ()
    assert survey.meta.options["readers"] == rule


def test_readers_who_disagree_are_not_left_out_unasked(tmp_path: Path) -> None:
    """What was left were the pictures that all agree on, which are the easy ones."""
    source = source_of(tmp_path / "set", PICTURES, VINDR)
    with pytest.raises(
        BadSource,
        match=r"2 of 4 pictures have several rows that disagree in column class_name \(the first "
        r"in lines 5 to 8\): choose how they are combined, readers=majority, any or all$",
    ):
        survey_of(source, label="class_name", finding="Cardiomegaly")
    with pytest.raises(BadSource, match=r"gives one picture several .* finding=NAME"):
        survey_of(source, label="class_name")
    with pytest.raises(BadSource, match="readers is 'most'; it must be one of: majority, any, all"):
        survey_of(source, label="class_name", readers="most")
    with pytest.raises(
        BadSource, match="readers=any needs a finding or two classes, but column clas"
    ):
        survey_of(source, label="class_name", readers="any")


# image_labels_train.csv of VinDr-CXR on PhysioNet 1.0.0: a row a reader, a column a finding.
LABELS = """image_id,rad_id,Aortic enlargement,Cardiomegaly,No finding
a,R1,0,1,0
a,R2,0,1,0
a,R3,0,0,1
b,R1,0,0,1
b,R2,0,1,0
b,R3,0,0,1
c,R1,1,1,0
c,R2,0,0,0
"""


def test_a_row_a_reader(tmp_path: Path) -> None:
    source = source_of(tmp_path / "set", ["a.png", "b.png", "c.png"], LABELS)
    frame = pd.read_csv(io.StringIO(LABELS)).groupby("image_id")["Cardiomegaly"]
    survey = survey_of(source, finding="Cardiomegaly", readers="any")
    assert answers_of(survey) == frame.max().to_dict()
    survey = survey_of(source, finding="Cardiomegaly", readers="all")
    assert answers_of(survey) == frame.min().to_dict()
    survey = survey_of(source, finding="Cardiomegaly", readers="majority")
    assert answers_of(survey) == {"a": 1, "b": 0}
    assert [(bad.where, bad.reason) for bad in survey.rejected] == [
        ("c.png", "its readers disagree, and no answer has a majority")
    ]


def test_readers_of_classes(tmp_path: Path) -> None:
    """Without a column of the reader, too, and by another name."""
    grades = ["mild", "mild", "severe", "none", "mild", "severe", "none", "none"]
    text = "image,who,label\n" + "".join(
        f"{'aaabbbcc'[n]}.png,{'ABC'[n % 3]},{grade}\n" for n, grade in enumerate(grades)
    )
    source = source_of(tmp_path / "set", ["a.png", "b.png", "c.png"], text)
    for options in ({}, {"reader": "who"}):
        survey = survey_of(source, readers="majority", **options)
        assert survey.meta.classes == ("mild", "none", "severe")
        assert answers_of(survey) == {"a": 0, "c": 1}
        assert len(survey.rejected) == 1
    with pytest.raises(BadSource, match="or choose a finding, finding=NAME"):
        survey_of(source)


# finding_annotations.csv of VinDr-Mammo 1.0.0; its attributes as KP-AROB/AROB-VINDR-IMG lists
# them.
MAMMO = """study_id,series_id,image_id,laterality,view_position,height,width,breast_birads,\
breast_density,finding_categories,finding_birads,xmin,ymin,xmax,ymax,split
s1,r,m1,L,CC,3518,2800,BI-RADS 4,DENSITY C,['Mass'],BI-RADS 4,2355.1,1731.6,2482.9,1852.7,training
s1,r,m1,L,CC,3518,2800,BI-RADS 4,DENSITY C,"['Asymmetry', 'Skin Retraction']",BI-RADS 3,\
1.0,2.0,3.0,4.0,training
s2,r,m2,R,MLO,3518,2800,BI-RADS 1,DENSITY C,['No Finding'],,,,,,test
"""


def test_boxes_with_lists(tmp_path: Path) -> None:
    source = source_of(tmp_path / "set", ["s1/m1.png", "s2/m2.png"], MAMMO)
    options = {"image": "image_id", "label": "finding_categories", "group": "study_id"}
    for finding, wanted in (("Mass", 1), ("Skin Retraction", 1), ("No Finding", 0)):
        survey = survey_of(source, finding=finding, split="split", **options)
        assert answers_of(survey) == {"m1": wanted, "m2": int(finding == "No Finding")}
        assert survey.rejected == ()


def test_a_row_that_says_the_same_again_is_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """stage_2_detailed_class_info.csv of RSNA has a row a box and no box."""
    text = "patientId,class\na,Normal\nb,Lung Opacity\nb,Lung Opacity\nb.png,Lung Opacity\n"
    source = source_of(tmp_path / "set", ["a.png", "b.png"], text)
    survey = survey_of(source, label="class", positive="Lung Opacity")
    assert (answers_of(survey), survey.meta.positive) == ({"a": 1, "b": 0}, 0)
    assert [bad.where for bad in survey.rejected] == ["t.csv line 5 (b.png)"]
    assert caplog.messages == ["1 lines of t.csv repeat another line about the same picture."]


def test_a_bar_alone_is_a_class_and_no_crash(tmp_path: Path) -> None:
    source = source_of(tmp_path / "set", ["a.png", "b.png"], "image,label\na,|\nb,x\n")
    assert survey_of(source, positive="x").meta.classes == ("x", "|")


def test_rows_that_differ_in_the_patient_are_no_readers(tmp_path: Path) -> None:
    text = "image,label,patient\na.png,0,1\na.png,0,2\nb.png,1,3\nc.png,0,4\n"
    source = source_of(tmp_path / "set", ["a.png", "b.png", "c.png"], text)
    survey = survey_of(source, group="patient", readers="majority")
    assert answers_of(survey) == {"b": 1, "c": 0}
    assert {bad.reason for bad in survey.rejected} == {
        "the table names this file 2 times, with different patients or parts"
    }


def test_a_few_contradictions_are_mistakes(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(100)]
    text = "image,label\n" + "".join(f"{name},{n % 2}\n" for n, name in enumerate(names))
    source = source_of(tmp_path / "set", names, text + "7.png,0\n")
    survey = survey_of(source)
    assert len(answers_of(survey)) == 99
    assert [bad.reason for bad in survey.rejected] == [
        "the table names this file 2 times, with different answers"
    ] * 2
    (source / "t.csv").write_text(text + "7.png,0\n8.png,1\n")
    with pytest.raises(BadSource, match="2 of 100 pictures have several rows that disagree"):
        survey_of(source)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("b,0\nc,1\nd,1\n", "Every case of the store is '0': nothing can be learned from it; 2 "),
        ("b,1\nc,2\nd,2\n", "No case of the store is 2; 2 rejected, the first, t.csv line 4 (c): "),
    ],
)
def test_a_class_without_a_case_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: str, said: str
) -> None:
    source = source_of(tmp_path / "set", ["a.png", "b.png"], f"image,label\na,0\n{lines}")
    with caplog.at_level(logging.WARNING):
        prepare(KINDS["images"], source, tmp_path / "s", options={}, key=b"k", strict=False)
    assert [message[: len(said)] for message in caplog.messages] == [said]


# ---- spreadsheets -----------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [";", ",", "\t", "|", "^"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_first_line_may_say_what_separates(tmp_path: Path, mark: str, encoding: str) -> None:
    """As Excel reads it; the cells hold what would be taken for separators otherwise."""
    lines = [f"sep={mark}", mark.join(["image", "label", "note, a; b\tc"])]
    lines += [mark.join([f"{n}.png", str(n % 2), "x"]) for n in range(3)]
    text = "\r\n".join(lines)
    if mark in ",;\t":
        text = text.replace("note, a; b\tc", "note")
    source = source_of(tmp_path / "set", ["0.png", "1.png", "2.png"], text.encode(encoding))
    survey = survey_of(source)
    assert (answers_of(survey), survey.rejected) == ({"0": 0, "1": 1, "2": 0}, ())


QUOTED = (
    'plain "word" inside',
    '"Portable" AP',
    '"no end',
    '"',
    '5" tube',
    '"a ""doubled"" one"',
    '"a, b"',
    '"',
    '"" x',
    "end",
)


def test_a_quotation_mark_in_a_column_that_is_not_used(tmp_path: Path) -> None:
    """Each line stands by itself: pandas reads as many without quoting, but for the true comma."""
    names = [f"{n}.png" for n in range(len(QUOTED))]
    text = "image,label,note\n" + "".join(
        f"{name},{n % 2},{note}\n" for n, (name, note) in enumerate(zip(names, QUOTED, strict=True))
    )
    source = source_of(tmp_path / "set", names, text)
    survey = survey_of(source)
    frame = pd.read_csv(
        io.StringIO(text.replace('"a, b"', "ab")), quoting=csv.QUOTE_NONE, dtype={"label": int}
    )
    stems = frame["image"].str.removesuffix(".png")
    assert answers_of(survey) == dict(zip(stems, frame["label"], strict=True))
    assert survey.rejected == ()


def test_a_quotation_mark_in_a_column_that_is_used(tmp_path: Path) -> None:
    text = 'image,label\na.png,x\nb.png,"y\nc.png,y\n"d.png,x\ne.png,"x"\n'
    source = source_of(tmp_path / "set", [f"{name}.png" for name in "abcde"], text)
    survey = survey_of(source, positive="x")
    assert answers_of(survey) == {"a": 0, "c": 1, "e": 0}
    assert [(bad.where, bad.reason) for bad in survey.rejected] == [
        ("t.csv line 3", "the line is not CSV: a quotation mark in column label is not closed"),
        ("t.csv line 5", "the line is not CSV: a quotation mark in column image is not closed"),
    ]


def test_a_cell_may_run_over_lines(tmp_path: Path) -> None:
    text = 'image,label,note\na.png,0,"one\ntwo, three\r\n\r\nfour"\nb.png,1,"x"\n'
    assert len(pd.read_csv(io.StringIO(text))) == 2
    source = source_of(tmp_path / "set", ["a.png", "b.png"], text)
    survey = survey_of(source)
    assert (answers_of(survey), survey.rejected) == ({"a": 0, "b": 1}, ())


def test_columns_that_are_not_used_may_share_a_name(tmp_path: Path) -> None:
    source = source_of(tmp_path / "set", ["a.png", "b.png"], "image,x,LABEL,x\na,,0,\nb,,1,\n")
    # And a name may be written in other case than the setting has it.
    assert answers_of(survey_of(source, image="Image")) == {"a": 0, "b": 1}
    with pytest.raises(BadSource, match=r"has 2 columns called 'x': .* name each used column once"):
        survey_of(source, label="x")


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ("file,label\na,Müller\n".encode("cp1252"), r"not UTF-8 text \(byte 14\).*; line 2 has"),
        ("file,label\n".encode("utf-16-le"), "holds NUL bytes: it is not text, or UTF-16 without"),
        (
            "file,label\n".encode("utf-16")[:-1],
            r"is not UTF-16 text .*: save it as CSV UTF-8; it begins like one but is damaged",
        ),
        (
            b"PK\x03\x04\xff\xfe",
            r"old workbook \(.xls\), damaged, or password-protected: save it as CSV UTF-8",
        ),
        (b"sep=;\nimage,label\n", "separated by ';' as stated there; found: image,label"),
        (b"\n\n,,\n,,", "found: none"),
        (b",,label,\n", "found: label"),
    ],
)
def test_a_table_in_another_form_gets_one_sentence(
    tmp_path: Path, raw: bytes, sentence: str
) -> None:
    (tmp_path / "t.csv").write_bytes(raw)
    with pytest.raises(BadSource, match=sentence):
        open_table(tmp_path / "t.csv")


def test_the_sentence_names_what_happened_to_most(tmp_path: Path) -> None:
    """Not what is wrong with the first line, which may be an odd one."""
    lines = "".join(f"{n},#N/A\n" for n in range(5))
    source = source_of(tmp_path / "set", ["a.png"], f'image,label\n"a,0\n{lines}')
    with pytest.raises(
        BadSource,
        match=r"has 0 different values .none.; .*; 6 rejected, 5 of them like t.csv line 3: column",
    ):
        survey_of(source)
    (source / "t.csv").write_text("image,label\n../a,0\n" + "".join(f"x{n},1\n" for n in range(5)))
    with pytest.raises(
        BadSource, match=r"6 rejected, 5 of them like t.csv line 3 .x0.: the source"
    ):
        prepare(KINDS["images"], source, tmp_path / "s", options={}, key=b"k", strict=False)


# ---- names of files ---------------------------------------------------------------------------


def test_absolute_paths_that_lie_under_the_source(tmp_path: Path) -> None:
    source = source_of(tmp_path / "set", ["images/a.png", "images/b.png"], "")
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "c.png").write_bytes(png())
    names = [source / "images" / "a.png", tmp_path / "link" / "images" / "b"]
    names += [tmp_path / "c.png", source / "images" / ".." / ".." / "c.png", "/images/a.png"]
    text = "image,label\n" + "".join(f"{name},{n % 2}\n" for n, name in enumerate(names))
    (source / "t.csv").write_text(text)
    survey = survey_of(tmp_path / "link")
    assert answers_of(survey) == {"a": 0, "b": 1}
    assert [bad.reason for bad in survey.rejected] == [
        "the table names a path outside the source"
    ] * 3


def test_a_difference_of_case_or_of_accents_is_none(tmp_path: Path) -> None:
    names = ["images/IMG_1.PNG", "images/img_2.png", "images/IMG_2.png", "M\u00fcller.png"]
    text = "image,label\nImages/img_1.png,0\nimg_2,1\nImg_2.png,0\nMu\u0308LLER.PNG,1\n"
    survey = survey_of(source_of(tmp_path / "set", names, text))
    found = [row[0] for item in survey.items for row in item.extra["rows"]]
    assert found == ["images/IMG_1.PNG", "images/img_2.png", "M\u00fcller.png"]
    assert [bad.reason for bad in survey.rejected] == [
        "2 files have that name: the table should give the path"
    ]


def hub_cache(root: Path) -> Path:
    """Make a snapshot as huggingface_hub's page "Understand caching" draws it."""
    repository = root / "datasets--clinic--chest"
    snapshot = repository / "snapshots" / "9a1b2c"
    (repository / "blobs").mkdir(parents=True)
    (snapshot / "images").mkdir(parents=True)
    files = {"images/a.png": png(1), "images/b.png": png(2), "t.csv": b"image,label\na,0\nb,1\n"}
    for number, (name, data) in enumerate(files.items()):
        (repository / "blobs" / f"{number:040x}").write_bytes(data)
        up = "../" * (2 + name.count("/"))
        (snapshot / name).symlink_to(f"{up}blobs/{number:040x}")
    return snapshot


def test_the_links_of_a_hubs_cache_are_its_own(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "hub")
    survey = survey_of(snapshot)
    assert (answers_of(survey), survey.rejected) == ({"a": 0, "b": 1}, ())
    prepare(KINDS["images"], snapshot, tmp_path / "s", options={}, key=b"k", strict=True)
    store = open_store(tmp_path / "s")
    assert sorted(image.sum() for image in map(store.image, range(2))) == sorted(
        int((PIXELS + np.uint8(n)).sum()) for n in (1, 2)
    )


@pytest.mark.parametrize(
    "target", ["../../../refs", "../../../blobs/deep", "../../../../other/blobs"]
)
def test_no_other_link_leads_out_of_a_hubs_cache(tmp_path: Path, target: str) -> None:
    snapshot = hub_cache(tmp_path / "hub")
    (snapshot / "images" / target).mkdir(parents=True, exist_ok=True)
    (snapshot / "images" / target / "x").write_bytes(png())
    (snapshot / "images" / "c.png").symlink_to(f"{target}/x")
    (snapshot / "t.csv").unlink()
    (snapshot / "t.csv").write_text("image,label\na,0\nb,1\nc,1\n")
    survey = survey_of(snapshot)
    assert answers_of(survey) == {"a": 0, "b": 1}
    assert [bad.reason for bad in survey.rejected] == [
        "the file is a link that leads out of the source"
    ]


def test_frames_may_be_links_of_a_hubs_cache(tmp_path: Path) -> None:
    repository = tmp_path / "datasets--clinic--echo"
    snapshot = repository / "snapshots" / "1"
    (repository / "blobs").mkdir(parents=True)
    for loop in "ab":
        (snapshot / loop).mkdir(parents=True)
        for n in range(3):
            (repository / "blobs" / f"{loop}{n}").write_bytes(png(n))
            (snapshot / loop / f"{n}.png").symlink_to(f"../../../blobs/{loop}{n}")
    (snapshot / "t.csv").write_text("loop,label\na,0\nb,1\n")
    survey = KINDS["cine"].survey(snapshot, {"frames": 3})
    assert (len(survey.items), survey.rejected) == (2, ())


# ---- the odd one out --------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [0, 5])
def test_one_picture_of_other_bits_is_the_one_that_is_rejected(tmp_path: Path, odd: int) -> None:
    names = [f"{n}.png" for n in range(6)]
    text = "image,label\n" + "".join(f"{name},{n % 2}\n" for n, name in enumerate(names))
    source = source_of(tmp_path / "set", names, text)
    (source / f"{odd}.png").write_bytes(png(odd, np.uint16))
    report = prepare(KINDS["images"], source, tmp_path / "s", options={}, key=b"k", strict=False)
    assert report.n_cases == 5
    assert [(bad.where, bad.reason) for bad in report.rejected] == [
        (f"{odd}.png", "the picture has more than 8 bits per value, others 8: another scale")
    ]
    assert open_store(tmp_path / "s").meta.options["bits"] == 8
    for n in range(3):
        (source / f"{n}.png").write_bytes(png(n, np.uint16))
    (source / "5.png").write_bytes(png(5))
    with pytest.raises(BadSource, match="some pictures have 8 bits and some more"):
        survey_of(source)


def test_one_loop_of_other_bits_is_the_one_that_is_rejected(tmp_path: Path) -> None:
    for loop in range(6):
        (tmp_path / "set" / f"{loop}").mkdir(parents=True)
        for n in range(2):
            kind = np.uint16 if loop == 0 else np.uint8
            (tmp_path / "set" / f"{loop}" / f"{n}.png").write_bytes(png(loop + n, kind))
    text = "loop,label\n" + "".join(f"{n},{n % 2}\n" for n in range(6))
    (tmp_path / "set" / "t.csv").write_text(text)
    options = {"frames": 2}
    report = prepare(
        KINDS["cine"], tmp_path / "set", tmp_path / "s", options=options, key=b"k", strict=False
    )
    assert (report.n_cases, [bad.where for bad in report.rejected]) == (5, ["0"])
