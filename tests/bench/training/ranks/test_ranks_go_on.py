"""A trial of two ranks goes on from the one state that the first of them sends, to the bit.

The processes are started by gloo.py; batch norms and dropout, so that running statistics and each
rank's own random draws have to go on too.
"""

import io
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.core.processes import World
from bench.execution import worker as workers
from bench.study.choice import Choice

SHARES = ((1, 1),)
CASES = "MEDOPT_TEST_CASES"
MODEL = Choice(name="vgg_small", params={"dropout": 0.3})
TIMES = ("sec", "_ms", "_at", "peak_memory")
NEVER = 1e9
KINDS = {
    "plain": {"optimizer": Choice(name="adam"), "epochs": 3, "ema": 0.9},
    "closure": {"optimizer": Choice(name="lbfgs", params={"max_iter": 2}), "epochs": 12},
    "two_pass": {"optimizer": Choice(name="sam"), "epochs": 4},
    "schedule_free": {"optimizer": Choice(name="schedule_free_adamw"), "epochs": 3},
    "mixed": {"optimizer": Choice(name="adam"), "epochs": 3, "mixup": 0.4, "accumulate": 2},
}


class Plan:
    """As much of a plan as a worker asks for: one data set, and the folder of the study."""

    def __init__(self, data, base):
        self.base, self._data = base, data

    def data(self, _name):
        return self._data


class Lane:
    """One rank of a lane: notes the states that are sent, and gives one to go on from."""

    def __init__(self, rank, size, kept=None, *, warned_in=None):
        self.kept, self._give = [], kept
        self._rank, self._warned_in, self.looks = rank, warned_in, 0
        self.worker = workers.Worker(
            world=World(rank=rank, size=size),
            place=("", os.getpid()),
            ask=None,
            tell=self.tell,
            broadcast=lambda value: value,
            barrier=lambda: None,
            device=lambda: torch.device("cpu"),
            stopping=self.stopping,
        )

    def tell(self, call, *values):
        if call == "keep":
            self.kept.append(values[1])

    def stopping(self):
        """Warn one rank alone, in its second epoch."""
        self.looks += 1
        return (self._rank, self.looks) == (self._warned_in, 2)

    def train(self, trial, plan, keep_sec):
        return workers._trained(
            trial, plan, self.worker, torch.device("cpu"), keep_sec, None, self._give
        )


def left_by(outcome):
    """Return all of an outcome but for times: rows, and the bytes of its weights."""

    def timeless(rows):
        return [{k: v for k, v in r.items() if not any(t in k for t in TIMES)} for r in rows]

    weights = torch.load(io.BytesIO(outcome.weights), weights_only=True)
    return {
        "rows": [
            timeless(rows)
            for rows in ([outcome.trial], outcome.metrics, outcome.epochs, outcome.cases)
        ],
        "weights": {name: value.numpy().tobytes() for name, value in weights.items()},
    }


def work(rank, shares):
    """Be one rank: train each trial whole, and once more from each of its states."""
    found = {}
    for name, (trial, data, base) in pickle.loads(Path(os.environ[CASES]).read_bytes()).items():
        plan = Plan(data, base)
        whole = Lane(rank, len(shares))
        expected = left_by(whole.train(trial, plan, 0.0))
        # What the first rank sent is all that there is.
        states = [whole.kept]
        torch.distributed.broadcast_object_list(states)
        again = []
        for packed in states[0]:
            torch.manual_seed(7)  # another process is in another random state
            lane = Lane(rank, len(shares), packed if rank == 0 else None)
            again.append(left_by(lane.train(trial, plan, NEVER)))
        warned = Lane(rank, len(shares), warned_in=1)
        warned.train(trial, plan, NEVER)
        damaged = Lane(rank, len(shares), b"damaged" if rank == 0 else None)
        found[name] = {
            "expected": expected,
            "again": again,
            "sent": len(whole.kept),
            "warned": len(warned.kept),
            "anew": left_by(damaged.train(trial, plan, NEVER)),
            "random": [
                [r["cpu"] for r in torch.load(io.BytesIO(s), weights_only=True)["random"]]
                for s in states[0]
            ],
        }
    return found


@pytest.fixture(scope="module")
def ranks(on_gloo, make_trial, tmp_path_factory):
    def run(kinds):
        given = {}
        for kind in kinds:
            changes = {"model": MODEL, "keep_weights": True, "batch_size": 5, **KINDS[kind]}
            given[kind] = make_trial("classification", **changes)
        file = tmp_path_factory.mktemp("cases") / "cases.pickle"
        file.write_bytes(pickle.dumps(given))
        with pytest.MonkeyPatch.context() as own:
            own.setenv(CASES, str(file))  # read by `work`, in the ranks
            (found,) = on_gloo("pytorch_optimizer", "monai.losses", seconds=1200).values()
        return found

    return run


@pytest.fixture(scope="module")
def few(ranks):
    return ranks(["plain"])


@pytest.fixture(scope="module")
def everything(ranks):
    return ranks(list(KINDS))


def hold(processes, kind):
    first, second = (process[kind] for process in processes)
    assert first["expected"] == second["expected"]
    assert first["sent"] == len(first["expected"]["rows"][2]) > 1  # one an epoch
    assert second["sent"] == 0
    for found in (first, second):
        # The state is the first's alone.
        assert found["again"] == [first["expected"]] * first["sent"]
        assert found["anew"] == first["expected"]
    for ours, theirs in first["random"]:
        assert not torch.equal(ours, theirs)


def test_two_ranks_go_on_from_the_state_of_the_first(few):
    hold(few, "plain")


def test_a_warning_to_one_rank_makes_the_first_send_a_state(few):
    assert [process["plain"]["warned"] for process in few] == [1, 0]


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_go_on_by_each_kind_of_step(everything, kind):
    hold(everything, kind)


def test_another_number_of_processes_starts_anew(make_trial):
    trial, data, base = make_trial("classification", epochs=2, keep_weights=True)
    alone = Lane(0, 1)
    expected = left_by(alone.train(trial, Plan(data, base), 0.0))
    packed = torch.load(io.BytesIO(alone.kept[0]), weights_only=True)
    buffer = io.BytesIO()
    torch.save({**packed, "processes": 2}, buffer)
    other = Lane(0, 1, buffer.getvalue())
    assert left_by(other.train(trial, Plan(data, base), NEVER)) == expected


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (RuntimeError("[/x/gloo/transport/tcp/pair.cc:545] Connection closed by peer"), True),
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("planted"), False),
    ],
)
def test_an_error_that_tells_of_another_process_is_no_failure_of_the_trial(
    monkeypatch, make_trial, error, gone
):
    trial, data, base = make_trial("classification")
    said = []

    def breaks(*_given):
        raise error

    monkeypatch.setattr(workers, "_trained", breaks)
    lane = replace(Lane(1, 2).worker, ask=lambda call, *values: said.append((call, *values)))
    with pytest.raises(type(error)):
        workers._run_one(trial, Plan(data, base), lane, NEVER, None, None)
    assert [call for call, *_ in said] == ([] if gone else ["fail"])
