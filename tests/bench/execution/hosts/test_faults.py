"""A study of 40 trials on a cluster of three hosts, in which machines and processes are lost.

Each fault twice here; ten times, and several in a run, by `make soak`.
"""

import pytest

from tests.bench.execution.hosts.cluster import wait
from tests.bench.execution.hosts.faults import FAULTS, nothing_left, tried
from tests.bench.execution.hosts.study import Run

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]

TIMES = 2


def test_three_hosts_give_what_one_process_gives(cluster, expected):
    cluster.mend()
    run = Run(cluster, "undisturbed")
    run.start()
    everywhere = {host.name for host in cluster.hosts}
    wait("work on all hosts", lambda: run.hosts() == everywhere or run.ended(), 600)
    assert not run.ended(), run.said()
    assert run.driver.wait(600) == 0, run.said()
    assert run.failed() == 0
    assert run.wrong(expected) == []
    nothing_left(cluster)


@pytest.mark.parametrize("time", range(TIMES))
@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_is_lost_every_trial_is_there_once_as_undisturbed(cluster, expected, fault, time):
    happened: list[tuple[str, str]] = []
    tried(cluster, f"{fault}-{time}", [fault], time, expected, happened.append)
    assert [kind for kind, _ in happened] == [fault]
