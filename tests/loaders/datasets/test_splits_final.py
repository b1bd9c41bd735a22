"""nnU-Net's splits_final.json, written by hand as its documentation has it, and broken ones."""

import json

import pytest

from loaders.cases import BadSource
from loaders.datasets.decathlon.splits_final import read_splits_final


def test_folds_are_read_as_they_are_written(tmp_path) -> None:
    path = tmp_path / "splits_final.json"
    path.write_text(
        '[{"train": ["a_1", "a_2"], "val": ["a_3"]}, {"train": ["a_3"], "val": ["a_1"]}]'
    )
    first, second = read_splits_final(path)
    assert (first.train, first.val) == (("a_1", "a_2"), ("a_3",))
    assert (second.train, second.val) == (("a_3",), ("a_1",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("{}", "is not a list of folds"),
        ("[]", "is not a list of folds"),
        ("[[]]", "fold 0 is not a mapping"),
        ([{"train": ["a"]}], "fold 0: val is not a list of names"),
        ([{"train": ["a"], "val": "b"}], "fold 0: val is not a list of names"),
        ([{"train": ["a"], "val": [3]}], "fold 0: val is not a list of names"),
        ([{"train": ["a"], "val": ["b"]}, {"train": [], "val": ["a"]}], "fold 1: train is empty"),
        ([{"train": ["a", "a"], "val": ["b"]}], "fold 0: train lists 'a' 2 times"),
        (
            [{"train": ["a", "b"], "val": ["b"]}],
            "train and val share cases, 1 in all, such as 'b'",
        ),
    ],
)
def test_what_is_no_list_of_folds_is_told_with_file_fold_and_field(tmp_path, content, said) -> None:
    path = tmp_path / "splits_final.json"
    raw = json.dumps(content) if isinstance(content, list) else content
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    with pytest.raises(BadSource, match=rf"splits_final\.json.*{said}"):
        read_splits_final(path)


def test_a_file_that_is_not_there_is_told(tmp_path) -> None:
    with pytest.raises(BadSource, match=r"none\.json cannot be read .*No such file"):
        read_splits_final(tmp_path / "none.json")
