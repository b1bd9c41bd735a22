"""From an entry of a study to a row that builds what the entry says."""

from pathlib import Path

import pytest
import torch
from torch import nn

from bench.core.references import StudyError
from bench.study.components import model_row
from models.classification.pooling import MaxPool
from models.table import MODELS

HERE = Path(__file__).parent


def built(name: str, **settings: object) -> nn.Module:
    row = model_row(name, settings, HERE).row
    return row.build(in_channels=1, out_channels=2, dims=2, patch=(16, 16))


def test_build_gets_the_options_of_the_study() -> None:
    kinds = {type(layer) for layer in built("plain_cnn", pool="average", dropout=0.25).modules()}
    assert nn.AvgPool2d in kinds
    assert MaxPool not in kinds
    (dropout,) = (m for m in built("plain_cnn", dropout=0.25).modules() if type(m) is nn.Dropout)
    assert dropout.p == 0.25


def test_the_row_says_every_option_with_its_value() -> None:
    row = model_row("plain_cnn", {"dropout": 0.25}, HERE).row
    assert row.settings == {"pool": "max", "dropout": 0.25}
    assert model_row("plain_cnn", {}, HERE).row.settings == MODELS["plain_cnn"].settings
    assert model_row("plain_cnn", {"dropout": 0.25}, HERE).identity == "plain_cnn"


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("plain_cnn", {"width": 3}, "model plain_cnn has no setting 'width'; its settings are"),
        ("plain_cnn", {"dropout": "much"}, "must be like 0.0, not 'much'"),
        ("plain_cnn", {"dropout": 1.0}, "dropout must be from 0 to below 1, not 1.0"),
        ("plain_cnn", {"pool": "mean"}, "has no pool 'mean'; choices: max, average"),
        ("cnn_lstm", {"encoder": "unet"}, "has no encoder 'unet'; choices: plain_cnn"),
        ("mednext_s", {"dropout": 0.1}, "it has none"),
    ],
)
def test_settings_that_are_wrong(name: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        model_row(name, given, HERE)


def test_a_network_of_the_users_own_gets_its_options(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def make(*, in_channels, out_channels, dims, patch, width=4):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(width, out_channels))\n"
    )
    row = model_row("mine.py:make", {"width": 9}, tmp_path).row
    network = row.build(in_channels=1, out_channels=2, dims=2, patch=(16, 16))
    assert row.settings == {"width": 9}
    assert network(torch.zeros(1, 1, 16, 16)).shape == (1, 2)
    assert row.stages(network) == ("0", "3")
