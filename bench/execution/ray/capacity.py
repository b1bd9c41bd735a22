"""What a study may count on before it is resolved: lanes, cores, GPUs, here or on a cluster."""

import math
from dataclasses import dataclass
from time import monotonic, sleep

import torch

from bench.core.references import StudyError
from bench.execution.ray.autoscaler import first_machine, there_is_one
from bench.execution.ray.cluster import (
    LaneSize,
    Machine,
    connected,
    machines_of_cluster,
    machines_to_come,
    workers_in,
)
from bench.study.schema import Study
from loaders.cores import usable_cores

# CPU cores for a lane where neither the threads nor the number of lanes is given: two lanes of one
# thread beat one lane of two on small networks (measured), and each lane needs more memory.
# Assumption.
CORES_A_LANE = 4
# How soon after a cluster's head its autoscaler speaks. Assumption.
SOON_SEC = 15.0


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How many lanes there are room for, and what a study may fix its automatic settings by.

    `workers_a_machine` workers share a machine's `cores`; `cuda` says that they have a GPU each.
    """

    lanes: int
    workers_a_machine: int
    cores: int
    cuda: bool


def capacity(
    study: Study, *, address: str | None, lanes: int | None, gpus_per_trial: int
) -> Capacity:
    """Look at this machine, or at the cluster at `address`, before a study is resolved.

    `lanes` None takes one lane for `gpus_per_trial` GPUs, or without GPUs for each CORES_A_LANE
    cores (for the cores it needs, where the study sets its threads). Raises StudyError if the
    cluster cannot be reached, or has no GPU for a study that asks for one.
    """
    machines, coming = (this_machine(), []) if address is None else _look(address, study)
    if not any(machine.gpus for machine in machines):
        # A cluster may begin with its head alone: its autoscaler says what it can add.
        machines = machines + [machine for machine, _ in coming if machine.gpus]
    gpus = sum(machine.gpus for machine in machines)
    if study.device == "cuda" and not gpus:
        raise StudyError("device: cuda is asked for, and none of the machines has a GPU.")
    cuda = study.device != "cpu" and gpus > 0
    # A head as a rule has neither, and trains nothing.
    machines = [each for each in machines if (each.gpus if cuda else each.cores)] or machines
    if lanes is None:
        per_worker = study.threads or CORES_A_LANE
        workers = gpus if cuda else sum(max(m.cores // per_worker, 1) for m in machines)
        lanes = max(workers // gpus_per_trial, 1)
    return Capacity(
        lanes=lanes,
        workers_a_machine=math.ceil(lanes * gpus_per_trial / len(machines)),
        cores=min(machine.cores for machine in machines),
        cuda=cuda,
    )


def this_machine() -> list[Machine]:
    """Return this machine alone, with the cores that this process may use."""
    return [Machine(cores=usable_cores(), gpus=torch.cuda.device_count())]


def _look(address: str, study: Study) -> tuple[list[Machine], list[tuple[Machine, float]]]:
    """Return the machines that a cluster has, and those that it says it can add.

    Where it has none for the study and does not say, its autoscaler is asked for the first.
    """
    with connected(address):
        machines, coming = machines_of_cluster(), machines_to_come()
        gpu, core = (
            LaneSize(workers=1, threads=study.threads or 1, cuda=cuda) for cuda in (True, False)
        )
        sizes = {"cuda": [gpu], "cpu": [core]}.get(study.device, [gpu, core])
        if coming or any(workers_in(machines, size) for size in sizes) or not _autoscaler_speaks():
            return machines, coming
        came = next((found for size in sizes if (found := first_machine(size))), machines)
        return came, coming


def _autoscaler_speaks() -> bool:
    """Return whether the cluster has an autoscaler, which may have started a moment ago."""
    until = monotonic() + SOON_SEC
    while not (found := there_is_one()) and monotonic() < until:
        sleep(1)
    return found
