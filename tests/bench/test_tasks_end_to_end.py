"""Findings, grades and numbers from a table of files to the verdict, the page and the exports."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from bench import api
from results.export.recipe import recipe
from results.export.scores import export_scores
from results.run_folder import Recorded, made_of
from results.verdict.evidence import by_primary, read_cases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Task -> the table's columns behind the file's name, a case's cells, what `prepare` is told, and
# the losses: one that serves, one more, one that does not.
MADE: dict[str, tuple[str, Any, dict[str, str], list[str]]] = {
    "multilabel": (
        "patient,mass,nodule",
        lambda n: f"p{n // 2},{n % 2},{'' if n % 5 == 0 else n // 2 % 2}",
        {"finding": "all", "blank": "missing", "group": "patient"},
        ["bce", "weighted_bce", "ce"],
    ),
    "ordinal": (
        "patient,stage",
        lambda n: f"p{n // 2},{('mild', 'moderate', 'severe')[n % 2 + n // 2 % 2]}",
        {"label": "stage", "grades": "mild,moderate,severe", "group": "patient"},
        ["ce", "squared_emd", "l1"],
    ),
    "regression": (
        "patient,EF",
        lambda n: f"p{n // 2},{50 + 10 * (n % 2) - 5 * (n // 2 % 2)}",
        {"value": "EF", "group": "patient"},
        ["l1", "huber", "ce"],
    ),
}


@pytest.mark.parametrize("task", MADE)
def test_from_files_to_verdict_page_and_exports(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDOPT_KEY", "test")
    monkeypatch.setattr("bench.core.startup.begin", lambda _threads: None)
    monkeypatch.setattr(api, "_begun", [])
    head, cells, options, losses = MADE[task]
    rng = np.random.default_rng(0)
    source = tmp_path / "source"
    source.mkdir()
    lines = [f"image,{head}"]
    for n in range(48):
        level = 100 * np.array([n % 2, n // 2 % 2])[:, None]
        image = np.kron(level, np.ones((8, 16))) + rng.integers(0, 120, (16, 16))
        Image.fromarray(image.astype(np.uint8)).save(source / f"{n}.png")
        lines.append(f"{n}.png,{cells(n)}")
    (source / "table.csv").write_text("\n".join(lines))
    out = tmp_path / "store"
    report = api.prepare("images", source, out=out, options=options, workers=1)
    assert report.n_cases == 48
    study = {
        "name": "one",
        "data": [str(out)],
        "models": ["plain_cnn"],
        "optimizers": ["adam"],
        "losses": losses,
        "folds": 3,
        "epochs": 2,
        "threads": 1,
        "device": "cpu",
    }
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(study))
    plan = api.plan(tmp_path / "one.yaml", tmp_path / "run").plan
    assert len(plan.trials) == 6
    (skip,) = plan.skips
    assert skip.reason == f"loss {losses[-1]} is not for {task}"
    page = api.run(tmp_path / "one.yaml", tmp_path / "run").page
    assert page.is_file()

    def judged(run: Recorded) -> tuple[int | None, str | None]:
        (found,), (contest,) = run.verdict["datasets"], run.contests
        assert found["task"] == task
        assert len(contest.judged) == 2
        known = by_primary(contest, contest.judged, read_cases(contest.judged, run.columns_of))
        return known.evidence.patients, known.folds_alone

    # Cases tell how far scores vary: they give the recorded scores again.
    assert made_of(tmp_path / "run", judged) == (24, None)
    # An ejection fraction is judged by a share of how far ejection fractions are apart.
    (judged_on,) = made_of(tmp_path / "run", lambda run: run.verdict)["datasets"]
    assert judged_on["margin"] == pytest.approx(0.01 * (5.59 if task == "regression" else 1))
    trials = pq.read_table(tmp_path / "run" / "trials").to_pylist()
    assert {row["status"] for row in trials} == {"ok", "skipped"}
    assert all(p.stat().st_size for p in export_scores(tmp_path / "run", tmp_path / "scores"))
    for form in ("pytorch", "monai"):
        compile(
            recipe(tmp_path / "run", form, name=f"plain_cnn + adam + {losses[0]}"), form, "exec"
        )
