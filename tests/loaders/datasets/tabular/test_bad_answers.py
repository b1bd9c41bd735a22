"""Bad class folders, one-hot tables, several tables, findings, numbers and grades.

Of each what is told: one sentence with the choices, and that no good picture is lost.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loaders.cases import BadCase, BadSource
from loaders.datasets.table import KINDS
from loaders.store.prepare import prepare

# Files by their paths: None is a picture of its own, a text a file of that text.
Files = Mapping[str, str | None]
NUMBERS = tuple(range(1, 7))
PICTURES: Files = {f"{number}.png": None for number in NUMBERS}


def table(*lines: str, name: str = "t.csv") -> Files:
    """Return six pictures and a table; of each of its lines one picture, from the first on."""
    return {**PICTURES, name: "\n".join(lines) + "\n"}


def folders(**more: str | None) -> Files:
    good: Files = {f"{name}/{number}.png": None for name in "ab" for number in (1, 2, 3)}
    return {**good, **{path.replace("__", "/"): text for path, text in more.items()}}


def write(root: Path, files: Files) -> Path:
    for number, (name, text) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        elif text is not None:
            path.write_text(text, encoding="utf-8")
        else:
            image = np.random.default_rng(number).integers(0, 256, (8, 8)).astype(np.uint8)
            Image.fromarray(image).save(path)
    return root


# Files, settings, what is told, and how many cases are left (0: the source is refused).
Bad = tuple[Files, Mapping[str, str], str, int]
HEAD = "image,a,b,c"
HOT = ("1,1,0,0", "2,0,1,0", "3,0,0,1", "4,1,0,0", "5,0,1,0", "6,0,0,1")
ASKED = {"one_hot": "a,b,c"}


def hot(*changed: str) -> Files:
    return table(HEAD, *changed, *HOT[len(changed) :])


POSITIVE = {"positive": "b"}
FOLDERS: Mapping[str, Bad] = {
    "an empty class": (folders(**{"c/": None}), POSITIVE, "Folder c holds no picture", 6),
    "one class": ({"a/1.png": None, "a/2.png": None}, {}, "1 different values", 0),
    "no class": ({"notes/a.txt": "x"}, {}, "put the pictures into one folder per class", 0),
    "classes in two cases": ({**folders(), "A/1.png": None}, {}, "only in upper and lower case", 0),
    "a part beside a class": ({**folders(), "train/a/1.png": None}, {}, "move the others out", 0),
    "pictures loose": (folders(**{"7.png": None}), POSITIVE, "is not in a class folder", 6),
    "another file": (folders(**{"a/n.txt": "x"}), POSITIVE, "ending is not that of a picture", 6),
    "no picture": (folders(**{"a/n.png": "no"}), POSITIVE, "the file is text", 6),
    "an empty file": (folders(**{"a/n.png": ""}), POSITIVE, "the file is empty", 6),
    "positive unknown": (folders(), {"positive": "c"}, "'c'; the source has: a, b", 0),
    "positive not said": (folders(), {}, "choose the disease, positive=b or", 0),
    "of three a positive": (folders(**{"c/1.png": None}), POSITIVE, "positive is for two", 0),
    "a table's setting": (folders(), {"csv": "none", "group": "x"}, "is for a table", 0),
    "no such table": (folders(), {"csv": "x.csv"}, "there is no file x.csv", 0),
    "a pattern that fits none": (
        folders(),
        {**POSITIVE, "group_pattern": "(p[0-9]+)"},
        "group_pattern",
        0,
    ),
    "a pattern that is none": (folders(), {**POSITIVE, "group_pattern": "("}, "group_pattern", 0),
}
ONE_HOT: Mapping[str, Bad] = {
    "two classes": (hot("1,1,1,0"), ASKED, "the line has several classes: a, b", 5),
    "no class": (hot("1,0,0,0"), ASKED, "the line has no class", 5),
    "a share": (hot("1,0.7,0.3,0"), ASKED, "column a is neither 0 nor 1", 5),
    "a word": (hot("1,x,0,0"), ASKED, "column a is neither 0 nor 1", 5),
    "too few cells": (hot("1,1"), ASKED, "the line has 2 cells but the table 4 columns", 5),
    "too many cells": (hot("1,1,0,0,1"), ASKED, "the line has 5 cells but the table 4", 5),
    "no picture": (hot("9,1,0,0"), ASKED, "no file of that name", 5),
    "a path that leads out": (hot("../1,1,0,0"), ASKED, "a path outside the source", 5),
    "no name": (hot(",1,0,0"), ASKED, "column image has no value", 5),
    "twice, otherwise": (table(HEAD, *HOT, "1,0,1,0"), ASKED, "choose how they are combined", 0),
    "not asked for": (hot(), {}, "seems to have one column per class: set one_hot=a,b,c", 0),
    "a column that is not there": (
        hot(),
        {"one_hot": "a,b,d"},
        "no column 'd' for option one_h",
        0,
    ),
    "one column": (hot(), {"one_hot": "a"}, "it must be two columns or more, each once", 0),
    "a column twice": (hot(), {"one_hot": "a,a"}, "it must be two columns or more, each once", 0),
    "with a label": (hot(), {**ASKED, "label": "a"}, "leave out label and finding", 0),
    "with a finding": (hot(), {**ASKED, "finding": "a"}, "leave out label and finding", 0),
    "one class alone": (table(HEAD, "1,1,0,0", "2,1,0,0"), ASKED, "1 different values", 0),
}
LINES = ("image,label", "1,0", "2,1", "3,0")
MORE = "image,label\n4,1\n5,0\n6,1\n"
BOTH = {"csv": "t.csv,u.csv"}


def two(second: str) -> Files:
    return {**table(*LINES), "u.csv": second}


SEVERAL: Mapping[str, Bad] = {
    "which is not said": (two(MORE), {}, "csv=NAME, or csv=t.csv,u.csv for all of them", 0),
    "other columns": (two(MORE.replace("label", "class")), BOTH, "same columns: class, label", 0),
    "another order": (two("label,image\n1,4\n"), BOTH, "same columns, in another order", 0),
    "one is not there": (table(*LINES), BOTH, "there is no file u.csv", 0),
    "one is empty": (two(""), BOTH, "u.csv is empty", 0),
    "one is no table": (two("hello"), BOTH, "should name two or more columns", 0),
    "named twice": (two(MORE), {"csv": "t.csv,t.csv"}, "names a table twice", 0),
    "a path that leads out": (two(MORE), {"csv": "../t.csv"}, "it must be a path under", 0),
    "one line is bad": (two(MORE.replace("5,0", "5,")), BOTH, "column label has no value", 5),
    "a picture in both": (two(MORE.replace("4,1", "1,1")), BOTH, "choose how they are combined", 0),
    "joined by nothing": (two("who,age\na,1\n"), {"csv": "t.csv", "join": "u.csv"}, "in common", 0),
    "joined, a line lost": (
        two("image,who\n1,a\n2,b\n"),
        {"csv": "t.csv", "join": "u.csv"},
        "u.csv has no matching line",
        2,
    ),
    "joined, two lines": (
        two("image,who\n1,a\n1,b\n2,c\n3,d\n"),
        {"csv": "t.csv", "join": "u.csv"},
        "an earlier line with the same image",
        0,
    ),
}
FINDINGS_HEAD = "image,edema,mass"
FOUND = ("1,1,0", "2,0,1", "3,1,1", "4,0,0", "5,1,0", "6,0,1")
ALL = {"finding": "all"}
NIH = ("image,labels", "1,A|B", "2,A", "3,B", "4,No Finding", "5,A|B", "6,A")
WORDS = {"label": "labels", "finding": "all"}


def found(*changed: str) -> Files:
    return table(FINDINGS_HEAD, *changed, *FOUND[len(changed) :])


def nih(*changed: str) -> Files:
    return table(NIH[0], *changed, *NIH[1 + len(changed) :])


FINDINGS: Mapping[str, Bad] = {
    "a word": (found("1,maybe,0"), {"finding": "edema,mass"}, "is not 1, 0, -1 or blank", 5),
    "a number": (found("1,2,0"), {"finding": "edema,mass"}, "is not 1, 0, -1 or blank", 5),
    "nothing told": (
        found("1,,"),
        {**ALL, "blank": "missing"},
        "none of its findings is known",
        5,
    ),
    "no picture": (found("9,1,0"), ALL, "no file of that name", 5),
    "too few cells": (found("1,1"), ALL, "the line has 2 cells but the table 3 columns", 5),
    "unknown": (found(), {"finding": "edema,mas"}, "no column 'mas' for option finding", 0),
    "twice": (found(), {"finding": "edema,edema"}, "it must be two findings or more, each once", 0),
    "positive": (found(), {**ALL, "positive": "mass"}, "it is always the finding", 0),
    "blank": (found(), {**ALL, "blank": "no"}, "it must be one of: negative, missing", 0),
    "uncertain": (found(), {**ALL, "uncertain": "maybe"}, "exclude, negative, positive", 0),
    "no column of any": (table("image,age", "1,3", "2,4"), ALL, "set label=COLUMN or finding=", 0),
    "with grades": (found(), {**ALL, "grades": "0,1"}, "leave out finding and positive", 0),
    "words unknown": (nih(), {**WORDS, "finding": "A,C"}, "no finding 'C': set finding=NAME", 0),
    "words, uncertain": (nih(), {**WORDS, "uncertain": "negative"}, "in columns of their own", 0),
    "a list cut off": (nih("1,['A"), WORDS, "column labels has no value", 5),
    "no words": (nih("1,"), WORDS, "column labels has no value", 5),
    "rows that disagree": (table(FINDINGS_HEAD, *FOUND, "1,0,0"), ALL, "any or all", 0),
    "not asked for": (
        nih(),
        {"label": "labels"},
        "choose one, such as finding=B, or finding=all",
        0,
    ),
}
AGES = ("image,age", "1,61.5", "2,40", "3,52", "4,70", "5,33", "6,48")
VALUE = {"value": "age"}


def aged(*changed: str) -> Files:
    return table(AGES[0], *changed, *AGES[1 + len(changed) :])


REGRESSION: Mapping[str, Bad] = {
    "a date": (aged("1,2024-03-01"), VALUE, "'2024-03-01', which is not a number like 61.5", 5),
    "another date": (aged("1,01.03.2024"), VALUE, "which is not a number like 61.5", 5),
    "a month": (aged("1,Mar 24"), VALUE, "which is not a number like 61.5", 5),
    "a word": (aged("1,old"), VALUE, "'old', which is not a number like 61.5", 5),
    "a comma": (aged('1,"61,5"'), VALUE, "decimal=, would read the comma", 5),
    "thousands": (aged('1,"1.234,5"'), VALUE, "which is not a number like 61.5", 5),
    "a unit": (aged("1,61 years"), VALUE, "which is not a number like 61.5", 5),
    "a per cent": (aged("1,61%"), VALUE, "which is not a number like 61.5", 5),
    "infinity": (aged("1,inf"), VALUE, "which is not a number like 61.5", 5),
    "nan": (aged("1,nan"), VALUE, "column age has no value", 5),
    "nothing": (aged("1,"), VALUE, "column age has no value", 5),
    "an error of a sheet": (aged("1,#DIV/0!"), VALUE, "column age has", 5),
    "no column": (aged(), {"value": "ages"}, "has no column 'ages' for the label", 0),
    "one number": (table("image,age", "1,5", "2,5"), VALUE, "has 1 different numbers", 0),
    "no number": (table("image,age", "1,x", "2,y"), VALUE, "has 0 different numbers", 0),
    "rows that disagree": (table(*AGES, "1,60"), VALUE, "readers=mean or median", 0),
    "readers of classes": (
        aged(),
        {**VALUE, "readers": "any"},
        "it must be one of: mean, median",
        0,
    ),
    "with a label": (aged(), {**VALUE, "label": "age"}, "leave out label", 0),
    "with grades": (aged(), {**VALUE, "grades": "1,2"}, "leave out label, finding", 0),
    "a decimal mark": (aged(), {**VALUE, "decimal": "'"}, "it must be one of: . or ,", 0),
}
STAGES = ("image,stage", "1,mild", "2,moderate", "3,severe", "4,mild", "5,severe", "6,moderate")
GRADES = {"label": "stage", "grades": "mild,moderate,severe"}


def staged(*changed: str) -> Files:
    return table(STAGES[0], *changed, *STAGES[1 + len(changed) :])


ORDINAL: Mapping[str, Bad] = {
    "a grade more": (staged("1,dead"), GRADES, "list each once, in ascending order", 0),
    "a grade less": (staged(), {**GRADES, "grades": "mild,severe"}, "list each once", 0),
    "a grade misspelt": (staged(), {**GRADES, "grades": "mild,modrate,severe"}, "has mild, mod", 0),
    "a grade twice": (staged(), {**GRADES, "grades": "mild,mild,severe"}, "list each once", 0),
    "a date": (staged("1,01.02.2024"), GRADES, "column stage holds a date", 5),
    "nothing": (staged("1,"), GRADES, "column stage has no value", 5),
    "two cases": (staged("1,Mild"), GRADES, "only in upper and lower case", 0),
    "positive": (staged(), {**GRADES, "positive": "severe"}, "leave out finding and positive", 0),
    "one-sided readers": (staged(), {**GRADES, "readers": "any"}, "set readers=majority", 0),
    "rows that disagree": (table(*STAGES, "1,severe"), GRADES, "choose how they are combined", 0),
    "no column": (staged(), {**GRADES, "label": "grade"}, "has no column 'grade' for the", 0),
    "no picture": (staged("9,mild"), {**GRADES}, "no file of that name", 5),
}
EVERY = {
    f"{kind}: {name}": bad
    for kind, cases in {
        "folders": FOLDERS,
        "one-hot": ONE_HOT,
        "several tables": SEVERAL,
        "findings": FINDINGS,
        "numbers": REGRESSION,
        "grades": ORDINAL,
    }.items()
    for name, bad in cases.items()
}


@pytest.mark.parametrize("name", EVERY)
def test_one_sentence_and_nothing_is_lost(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    files, options, why, left = EVERY[name]
    source = write(tmp_path / "set", files)
    images, out = KINDS["images"], tmp_path / "store"
    more = {"options": {**options}, "key": b"k", "workers": 1}
    with caplog.at_level(logging.WARNING):
        if not left:
            with pytest.raises(BadSource) as refused:
                prepare(images, source, out, strict=False, **more)  # type: ignore[arg-type]  # settings as a dict
            told = [str(refused.value)]
            assert not out.exists()
        else:
            report = prepare(images, source, out, strict=False, **more)  # type: ignore[arg-type]  # as above
            assert report.n_cases == left
            # An empty folder is no case.
            assert len(report.rejected) == (name != "folders: an empty class")
            told = [bad.reason for bad in report.rejected] or caplog.messages
            for bad in report.rejected:
                assert bad.where
                assert isinstance(bad, BadCase)
    assert any(why in one for one in told), told
    assert all("\n" not in one and len(one) < 1000 for one in told)
