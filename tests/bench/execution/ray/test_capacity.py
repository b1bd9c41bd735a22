"""What a study may count on: lanes, cores and GPUs of a machine, and of a cluster that grows."""

from contextlib import nullcontext

import pytest
import yaml

from bench.core.references import StudyError
from bench.execution.ray import capacity as module
from bench.execution.ray.capacity import capacity
from bench.execution.ray.cluster import Machine, workers_in
from bench.study.schema import parse_study


@pytest.fixture
def asked():
    def make(**changes):
        text = {"name": "s", "data": ["a"], "models": ["plain_cnn"], "losses": ["ce"]}
        return parse_study(yaml.safe_dump(text | {"optimizers": ["sgd"]} | changes), "s.yaml")

    return make


@pytest.mark.parametrize(
    ("machines", "study", "lanes_asked", "gpus_per_trial", "found"),
    [
        ([(16, 0)], {}, None, 1, (4, 4, 16, False)),
        ([(2, 0)], {}, None, 1, (1, 1, 2, False)),
        ([(2, 0)], {}, 2, 1, (2, 2, 2, False)),
        ([(16, 0)], {"threads": 2}, None, 1, (8, 8, 16, False)),
        ([(64, 4)], {}, None, 1, (4, 4, 64, True)),
        ([(64, 4)], {}, None, 2, (2, 4, 64, True)),
        ([(64, 4)], {"device": "cpu"}, 3, 1, (3, 3, 64, False)),
        ([(8, 0), (64, 4), (32, 4)], {}, None, 2, (4, 4, 32, True)),
        # A head that trains nothing.
        ([(0, 0), (16, 0), (8, 0)], {}, None, 1, (6, 3, 8, False)),
    ],
)
def test_room_is_a_lane_a_gpu_or_for_some_cores(
    asked, monkeypatch, machines, study, lanes_asked, gpus_per_trial, found
):
    monkeypatch.setattr(
        module, "this_machine", lambda: [Machine(cores=c, gpus=g) for c, g in machines]
    )
    made = capacity(asked(**study), address=None, lanes=lanes_asked, gpus_per_trial=gpus_per_trial)
    assert (made.lanes, made.workers_a_machine, made.cores, made.cuda) == found


def test_a_study_for_gpus_is_refused_where_there_is_none(asked, monkeypatch):
    monkeypatch.setattr(module, "this_machine", lambda: [Machine(cores=4, gpus=0)])
    with pytest.raises(StudyError, match="none of the machines has a GPU"):
        capacity(asked(device="cuda"), address=None, lanes=None, gpus_per_trial=1)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://head:10001", "address `auto`"),
        ("127.0.0.1:1", "nothing answers"),
        ("head", "no cluster"),
    ],
)
def test_a_cluster_that_is_not_there_is_said_at_once(asked, address, said):
    with pytest.raises(StudyError, match=said):
        capacity(asked(), address=address, lanes=1, gpus_per_trial=1)


def test_a_token_that_others_can_read_is_refused(asked, monkeypatch, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    for mode, said in ((0o644, "can read the cluster's token"), (0o600, "nothing answers")):
        token.chmod(mode)
        with pytest.raises(StudyError, match=said):
            capacity(asked(), address="127.0.0.1:1", lanes=1, gpus_per_trial=1)


class Grows:
    """A cluster with an autoscaler, which adds one machine, if it has such a kind."""

    def __init__(self, monkeypatch, machines, kinds):
        self.machines, self.asked = list(machines), []
        monkeypatch.setattr(module, "connected", lambda _address: nullcontext())
        monkeypatch.setattr(module, "machines_of_cluster", lambda: list(self.machines))
        monkeypatch.setattr(module, "machines_to_come", list)
        monkeypatch.setattr(module, "there_is_one", lambda: True)
        monkeypatch.setattr(module, "first_machine", lambda size: self._first(kinds, size))

    def _first(self, kinds, size):
        self.asked.append(size.resources)
        fits = [kind for kind in kinds if workers_in([kind], size)]
        self.machines += fits[:1]
        return list(self.machines) if fits else []


HEAD = Machine(cores=0, gpus=0)
CPU, GPU = Machine(cores=8, gpus=0), Machine(cores=4, gpus=1)


@pytest.mark.parametrize(
    ("machines", "kinds", "device", "asked_for", "cuda"),
    [
        ([HEAD], [CPU, GPU], "auto", [{"CPU": 1.0, "GPU": 1.0}], True),
        ([HEAD], [CPU], "auto", [{"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}], False),
        ([HEAD], [CPU, GPU], "cpu", [{"CPU": 1.0}], False),
        ([HEAD, CPU], [GPU], "cuda", [{"CPU": 1.0, "GPU": 1.0}], True),
        ([HEAD, CPU], [GPU], "auto", [], False),
        ([HEAD, GPU], [], "cuda", [], True),
    ],
)
def test_a_cluster_that_begins_with_its_head_is_asked_for_a_first_machine(
    asked, monkeypatch, machines, kinds, device, asked_for, cuda
):
    cluster = Grows(monkeypatch, machines, kinds)
    found = capacity(asked(device=device), address="auto", lanes=None, gpus_per_trial=1)
    assert (cluster.asked, found.cuda) == (asked_for, cuda)
    assert found.cores == (4 if cuda else 8)


def test_a_cluster_whose_autoscaler_has_no_gpu_is_told_for_a_study_that_wants_one(
    asked, monkeypatch
):
    Grows(monkeypatch, [HEAD], [CPU])
    with pytest.raises(StudyError, match="none of the machines has a GPU"):
        capacity(asked(device="cuda"), address="auto", lanes=None, gpus_per_trial=1)
