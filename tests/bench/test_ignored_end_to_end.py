"""A raw nnU-Net folder with voxels to be ignored, from files to the verdict and the page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from bench import api
from loaders.store.read import open_store
from results.export.recipe import recipe

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
    assert skip.reason.startswith("loss boundary depends on where voxels are")
    assert skip.reason.endswith("voxels to be ignored, whose classes are unknown")
    page = api.run(tmp_path / "one.yaml", tmp_path / "run").page
    assert page.is_file()
    rows = pq.read_table(tmp_path / "run" / "trials").to_pylist()
    assert sorted(row["status"] for row in rows) == ["ok"] * 6 + ["skipped"]
    counted = {store.case_ids[n]: int((np.asarray(store.mask(n)) < 2).sum()) for n in range(CASES)}
    cases = pq.read_table(tmp_path / "run" / "cases").to_pylist()
    assert len(cases) >= 3 * CASES
    for case in cases:
        assert case["tp"] + case["fp"] + case["fn"] + case["tn"] == counted[case["case_id"]]
    left = CASES * SIDE**2 - sum(counted.values())
    share = f"{100 * left / (CASES * SIDE**2):.2f} % of all"
    assert "ignored voxels" in page.read_text()
    assert f"{left} ({share})" in page.read_text()
    # Its recipes take the labels as they are in the store.
    mask = torch.from_numpy(np.asarray(store.mask(0))[None].astype(np.int64))
    for form in ("pytorch", "monai"):
        text = recipe(tmp_path / "run", form, name="unet_small + adam + dice_ce")
        space: dict[str, Any] = {}
        exec(compile(text, "recipe.py", "exec"), space)
        perfect = 50 * torch.nn.functional.one_hot(mask % 2, 2).movedim(-1, 1).float()
        assert float(space["loss_of"](perfect, mask)) < 1e-4
    page, _ = api.show(out, tmp_path / "look.html")
    assert "ignored" in page.read_text()
