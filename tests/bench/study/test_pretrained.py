"""Where the weights that trials start from are found, and what is said if they are not."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.core.references import StudyError
from bench.study.pretrained import People, WeightsNeeded, find, start_settings
from models.table import MODELS


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    file = tmp_path / "weights.pt"
    torch.save({"weight": torch.ones(2)}, file)
    return file


NOBODY = People(ids=frozenset(), images=frozenset(), kind="small", key="k")
NEEDED = WeightsNeeded(row=MODELS["resnet18"], model="resnet18", dims=2, test=NOBODY)


def test_imagenet_weights_come_from_torchs_cache_alone(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(StudyError) as caught:
        find("imagenet", {}, "imagenet", tmp_path, NEEDED)
    for part in ("not in torch's cache", "resnet18-f37072fd.pth", "TORCH_HOME", "get_state_dict"):
        assert part in str(caught.value)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "resnet18-f37072fd.pth").write_bytes(saved.read_bytes())
    with pytest.raises(StudyError, match="not what torchvision published"):
        find("imagenet", {}, "imagenet", tmp_path, NEEDED)
    # A file whose checksum its name gives, as torchvision's do.
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()

    class Published:
        url = f"https://example.invalid/resnet18-{digest[:8]}.pth"

    monkeypatch.setattr("torchvision.models.get_weight", lambda _name: Published)
    (cache / f"resnet18-{digest[:8]}.pth").write_bytes(saved.read_bytes())
    found = find("imagenet", {"freeze_until": "layer3"}, "imagenet", tmp_path, NEEDED)
    assert found.digest == digest
    assert found.freeze_until == "layer3"


def test_a_model_without_imagenet_weights_is_told(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no ImageNet weights for model unet in 2-D"):
        find("imagenet", {}, "imagenet", tmp_path, replace(NEEDED, row=MODELS["unet"]))
    with pytest.raises(LookupError, match="resnet18 in 3-D"):
        find("imagenet", {}, "imagenet", tmp_path, replace(NEEDED, dims=3))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no file or run 'w\.pt'"):
        find("w.pt", {}, "w", tmp_path, NEEDED)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"freeze": "x"}, "no setting 'freeze'"),
        ({"lower_rate": 1.5}, "lower_rate must be above 0 and at most 1"),
        ({"unfreeze_every": -1, "freeze_until": "x"}, "unfreeze_every must be 0 or a number"),
        ({"unfreeze_every": 2}, "set freeze_until"),
        ({"patients": "mine"}, "patients must be compared or others, not 'mine'"),
    ],
)
def test_settings_are_checked(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        start_settings(given)
