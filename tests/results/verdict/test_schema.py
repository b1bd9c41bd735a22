"""`verdict.schema.json` is what the types say, and recorded and made-up verdicts are valid by it.

`python -m tests.results.verdict.test_schema` makes the file anew.
"""

import json
from importlib.resources import files
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from results.report.write import load_verdicts
from results.verdict.schema import Verdict
from results.verdict.verdict import VERDICT_VERSION

KEPT = files("results.verdict") / "verdict.schema.json"
RECORDED = Path(__file__).parents[2] / "golden" / "verdict.json"


def made() -> str:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"MedOptBench verdict, version {VERDICT_VERSION}",
        **{k: v for k, v in TypeAdapter(Verdict).json_schema().items() if k != "title"},
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def test_the_published_schema_is_what_the_types_say():
    assert KEPT.read_text(encoding="utf-8") == made()


def check(content):
    """Raise where a verdict is not as the published schema has it."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(KEPT.read_text(encoding="utf-8"))
    jsonschema.validate(content, schema)


def test_the_recorded_verdict_is_valid():
    content = json.loads(RECORDED.read_text(encoding="utf-8"))
    TypeAdapter(Verdict).validate_python(content, strict=True)
    check(content)


@pytest.mark.parametrize("folds", [1, 5])
def test_a_made_up_verdict_is_valid(make_run, folds):
    content = load_verdicts(make_run(optimizers=("adam", "sgd"), losses=("ce",), folds=folds))
    TypeAdapter(Verdict).validate_python(content, strict=True)
    check(content)


def test_what_is_no_verdict_is_refused():
    content = json.loads(RECORDED.read_text(encoding="utf-8"))
    content["datasets"][0]["claims"][0]["state"] = "perhaps"
    del content["margin"]
    with pytest.raises(ValidationError) as told:
        TypeAdapter(Verdict).validate_python(content, strict=True)
    assert {error["type"] for error in told.value.errors()} == {"literal_error", "missing"}


if __name__ == "__main__":
    Path(str(KEPT)).write_text(made(), encoding="utf-8")
