"""The room on a machine: how many trials fit, by hand arithmetic, and what a trial takes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bench.study.choice import Choice
from bench.training import room as rooms
from bench.training.room import UNKNOWN_BYTES, most_bytes, sharing_a_gpu, side_by_side

GIB = 2**30


@pytest.mark.parametrize(
    ("cores", "threads", "free", "needed", "lanes", "each"),
    [
        (2, None, 18 * GIB, GIB, 2, 1),
        (64, None, 1000 * GIB, GIB, 64, 1),
        # 0.8 of 4 GiB holds 3 of 1 GiB: the 8 cores are shared out among them.
        (8, None, 4 * GIB, GIB, 3, 2),
        (8, None, 4 * GIB, 3 * GIB, 1, 8),
        # What does not fit at all is tried all the same: the estimate is too high at worst.
        (8, None, GIB, 4 * GIB, 1, 8),
        # A study's own threads stand.
        (8, 4, 100 * GIB, GIB, 2, 4),
        (8, 3, 100 * GIB, GIB, 2, 3),
        (2, 4, 100 * GIB, GIB, 1, 4),
        (8, 1, 4 * GIB, GIB, 3, 1),
    ],
)
def test_cores_and_memory_say_how_many(cores, threads, free, needed, lanes, each):
    found = side_by_side(cores=cores, threads=threads, needed=needed, usable=free)
    assert (found.lanes, found.threads) == (lanes, each)


def test_it_says_why():
    few = side_by_side(cores=8, threads=None, needed=GIB, usable=4 * GIB)
    assert few.why == (
        "3 trials at once, 2 threads each, by the memory: 8 cores, memory for 3 (4.0 GiB free, a "
        "trial takes 1.0 GiB at most)"
    )
    many = side_by_side(cores=1, threads=None, needed=GIB, usable=64 * GIB)
    assert many.why.startswith(
        "1 trial at once, 1 thread each, by the cores: 1 core, memory for 51"
    )


# Sixteen cores beside a GPU of 80 GiB.
ON_A_GPU = {
    "cores": 16,
    "threads": None,
    "operations": 4e8,
    "needed": 2 * GIB,
    "free": 79 * GIB,
    "usable": 120 * GIB,
    "gpus": 1,
}


@pytest.mark.parametrize(
    ("here", "lanes", "each", "why"),
    [
        ({}, 8, 2, "by the cores: a step is 0.4 GFLOP, which leaves it idle"),
        ({"cores": 64}, 8, 8, "by the most that share a GPU"),
        # 0.8 of 10 GiB holds 4 of 2 GiB, 0.8 of 16 GiB of the machine's memory 3 processes.
        ({"free": 10 * GIB}, 4, 4, "by the GPU's memory"),
        ({"usable": 16 * GIB}, 3, 5, "by the memory"),
        ({"cores": 2}, 1, 2, "1 trial at once on the GPU, by the cores"),
        # A study's own threads stand.
        ({"threads": 4}, 4, 4, "by the cores"),
        # A network of 128 x 128 x 128 voxels fills the GPU; so may one that nobody counted.
        ({"operations": 5.8e12}, 1, 8, "1 trial at once on the GPU: a step is 5800 GFLOP"),
        ({"operations": None}, 1, 8, "1 trial at once on the GPU: a step is not known"),
        ({"gpus": 4}, 8, 2, "at once on the first of 4 GPUs (`--ray` takes them all), by the"),
    ],
)
def test_small_trials_share_a_gpu(here, lanes, each, why):
    found = sharing_a_gpu(**ON_A_GPU | here)
    assert (found.lanes, found.threads) == (lanes, each)
    assert why in found.why


def test_what_a_forward_pass_keeps_is_counted_once():
    """Two layers on n samples keep the images, the hidden values (once) and the second weights."""
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
        assert rooms._saved(network, torch.empty(10, 3)) == 4 * (10 * 3 + 10 * 4 + 2 * 4)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_more_samples_and_a_larger_state_take_more(make_trial, task):
    trial, data, base = make_trial(task)

    def bytes_of(*trials) -> int:
        return most_bytes(trials, lambda _name: data, base)

    usual = bytes_of(trial)
    more = replace(trial, batch_size=64 * trial.batch_size)
    second_order = replace(trial, choices={**trial.choices, "optimizer": Choice(name="lbfgs")})
    assert rooms.PROCESS_BYTES < usual < bytes_of(more)
    assert usual < bytes_of(second_order)
    # The largest of several decides.
    other = replace(more, dataset="another")
    assert bytes_of(trial, other) == bytes_of(other, trial) == bytes_of(more)


def test_a_network_of_the_users_own_is_not_called_for_it(make_trial, tmp_path):
    (tmp_path / "nets.py").write_text("def net(**given):\n    raise SystemExit('called')\n")
    trial, data, _ = make_trial("classification")
    own = replace(trial, choices={**trial.choices, "model": Choice(name="nets.py:net")})
    assert most_bytes([own], lambda _name: data, tmp_path) == UNKNOWN_BYTES
