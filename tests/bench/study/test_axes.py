"""The two sides of an axis have the same keys, and a study has a field for each."""

import pytest

from bench.study.axes import STUDY_AXES
from bench.study.schema import Study, parse_study
from results.tables.axes import AXES, COLUMNS
from results.tables.schema import TRIALS

STUDY = "name: s\ndata: [a]\nmodels: [plain_cnn]\noptimizers: [sgd]\nlosses: [ce]\n"


def test_every_axis_has_a_row_on_both_sides_a_field_and_a_column():
    assert [axis.key for axis in AXES] == list(STUDY_AXES)
    assert set(STUDY_AXES) <= set(Study.model_fields)
    assert set(COLUMNS) <= set(TRIALS.names)


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.key)
def test_an_axis_that_is_left_out_has_its_plain_entry(axis):
    entries = parse_study(STUDY, "study.yaml").entries(axis.key)
    dumped = parse_study(STUDY, "study.yaml").model_dump(mode="json")
    assert axis.asked(dumped) == [entry.label for entry in entries]
    if axis.plain:
        assert [entry.label for entry in entries] == [axis.plain]
        assert axis.said(entries[0].label) == ""


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.key)
def test_an_axis_of_no_entries_is_refused(axis):
    lines = [line for line in STUDY.splitlines() if not line.startswith(axis.key)]
    with pytest.raises(ValueError, match=f"{axis.key}: .*at least 1"):
        parse_study("\n".join([*lines, f"{axis.key}: []"]), "study.yaml")
