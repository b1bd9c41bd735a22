"""The lanes, cores and GPUs that a study may count on, here or on a cluster."""

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

# CPU cores per lane if neither the threads nor the number of lanes is given: on small networks two
# lanes of one thread beat one lane of two (measured), but each lane needs more memory. Assumption.
CORES_A_LANE = 4
# How soon after its head a cluster's autoscaler reports. Assumption.
SOON_SEC = 15.0


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How many lanes there is room for, and what automatic settings depend on.

    `workers_a_machine` workers share a machine's `cores`; `cuda`: each of them has a GPU.
    """

    lanes: int
    workers_a_machine: int
    cores: int
    cuda: bool


def capacity(
    study: Study, *, address: str | None, lanes: int | None, gpus_per_trial: int
) -> Capacity:
    """Look at this machine, or at the cluster at `address`, before a study is resolved.

    `lanes` None takes one lane per `gpus_per_trial` GPUs, or without GPUs one per CORES_A_LANE
    cores (per the study's threads, if it sets them). Raises StudyError if the cluster cannot be
    reached, or has no GPU for a study that asks for one.
    """
    machines, coming = (this_machine(), []) if address is None else _look(address, study)
    if not any(machine.gpus for machine in machines):
        # A cluster may begin with only its head: its autoscaler says what it can add.
        machines = machines + [machine for machine, _ in coming if machine.gpus]
    gpus = sum(machine.gpus for machine in machines)
    if study.device == "cuda" and not gpus:
        raise StudyError("device: the study asks for cuda, but none of the machines has a GPU.")
    cuda = study.device != "cpu" and gpus > 0
    # A head usually has neither cores nor GPUs, and trains nothing.
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

    If it has none for the study and does not say, its autoscaler is asked for the first one.
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
