"""The room for lanes on this machine, and what is said where a cluster or the room is missing."""

import pytest
import yaml

from bench.core.references import StudyError
from bench.execution import ray_cluster
from bench.execution.ray_cluster import LaneSize, Machine, capacity, check_room
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
    ],
)
def test_room_is_a_lane_a_gpu_or_for_some_cores(
    asked, monkeypatch, machines, study, lanes_asked, gpus_per_trial, found
):
    monkeypatch.setattr(
        ray_cluster, "this_machine", lambda: [Machine(cores=c, gpus=g) for c, g in machines]
    )
    made = capacity(asked(**study), address=None, lanes=lanes_asked, gpus_per_trial=gpus_per_trial)
    assert (made.lanes, made.workers_a_machine, made.cores, made.cuda) == found


def test_a_study_for_gpus_is_refused_where_there_is_none(asked, monkeypatch):
    monkeypatch.setattr(ray_cluster, "this_machine", lambda: [Machine(cores=4, gpus=0)])
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


def test_more_lanes_than_the_machines_hold_are_refused_with_what_there_is():
    machines = [Machine(cores=8, gpus=2), Machine(cores=3, gpus=1)]
    check_room(machines, 3, LaneSize(workers=1, threads=3, cuda=True))
    with pytest.raises(StudyError, match=r"room for 2 \(8 cores and 2 GPUs, 3 cores and 1 GPUs\)"):
        check_room(machines, 3, LaneSize(workers=1, threads=4, cuda=True))
    with pytest.raises(StudyError, match="room for 3"):
        check_room(machines, 4, LaneSize(workers=2, threads=3, cuda=False))
