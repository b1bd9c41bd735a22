"""A raw nnU-Net folder with voxels to be ignored, from files to the verdict and the page."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from bench import api
from loaders.store.read import open_store

SIDE, CASES = 32, 12


def made(source: Path) -> None:
    """Write pictures of which the lower rows of each are of no known class."""
    rng = np.random.default_rng(0)
    for number in range(CASES):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[4 + number % 3 : 14, 6:20] = 1
        image = (120 * (mask == 1) + rng.integers(0, 60, mask.shape)).astype(np.uint8)
        mask[20 + number % 4 :] = 2
        for folder, name, array in (("imagesTr", "_0000", image), ("labelsTr", "", mask)):
            (source / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(source / folder / f"case_{number:02d}{name}.png")
    about = {
        "channel_names": {"0": "grey"},
        "labels": {"background": 0, "lesion": 1, "ignore": 2},
        "numTraining": CASES,
        "file_ending": ".png",
    }
    (source / "dataset.json").write_text(json.dumps(about))


@pytest.mark.timeout(600)
def test_from_files_to_verdict_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDOPT_KEY", "test")
    monkeypatch.setattr("bench.core.startup.begin", lambda _threads: None)
    monkeypatch.setattr(api, "_begun", [])
    made(tmp_path / "raw")
    out = tmp_path / "store"
    assert api.prepare("nnunet", tmp_path / "raw", out=out, workers=1).n_cases == CASES
    store = open_store(out)
    study = {
        "name": "one",
        "data": [str(out)],
        "models": ["unet_small"],
        "optimizers": ["adam"],
        "losses": ["dice_ce", "dice_ce_batch", "weighted_ce", "boundary"],
        "folds": 2,
        "epochs": 1,
        "patch": [16, 16],
        "threads": 1,
        "device": "cpu",
    }
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(study))
    plan = api.plan(tmp_path / "one.yaml", tmp_path / "run").plan
    (skip,) = plan.skips
    assert skip.reason.startswith("loss boundary looks at where voxels lie")
    assert skip.reason.endswith("voxels to be ignored, of which nobody knows what they are")
    page = api.run(tmp_path / "one.yaml", tmp_path / "run").page
    assert page.is_file()
    rows = pq.read_table(tmp_path / "run" / "trials").to_pylist()
    assert sorted(row["status"] for row in rows) == ["ok"] * 6 + ["skipped"]
    counted = {store.case_ids[n]: int((np.asarray(store.mask(n)) < 2).sum()) for n in range(CASES)}
    cases = pq.read_table(tmp_path / "run" / "cases").to_pylist()
    assert len(cases) >= 3 * CASES
    for case in cases:
        assert case["tp"] + case["fp"] + case["fn"] + case["tn"] == counted[case["case_id"]]
    page, _ = api.show(out, tmp_path / "look.html")
    assert "ignored" in page.read_text()
