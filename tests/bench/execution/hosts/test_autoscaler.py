"""A run on a cluster whose machines come when they are asked for: Ray's autoscaler, real.

Its provider starts processes instead of renting machines (Ray's own, for tests); the rest is as it
is in a cloud. All of it runs in one host of its own.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.bench.execution.hosts.cluster import Cluster, cluster, wait
from tests.bench.execution.hosts.namespaces import BIN, SHARED
from tests.bench.execution.hosts.study import Run, undisturbed

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]

MOST = 2
# By this name Ray's provider of processes knows the head.
HEAD = "f" * 51 + "00000"
MEMORY = 100_000_000
# A head that trains nothing, and machines of one core, which go when they idle for six seconds.
MACHINES = {
    "cluster_name": "grows",
    "provider": {"type": "fake_multinode", "launch_multiple": True, "head_node_id": HEAD},
    "max_workers": MOST,
    "idle_timeout_minutes": 0.1,
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "one": {
            "resources": {"CPU": 1, "object_store_memory": MEMORY},
            "node_config": {},
            "min_workers": 0,
            "max_workers": MOST,
        },
    },
}
# Ray's wheel has the provider without its file of defaults: the host sees that of another provider
# in its place, and nobody else does.
DEFAULTS = """
set -e
cp -r {provider} /tmp/provider
cp {provider}/../../local/defaults.yaml /tmp/provider/example.yaml
mount --bind /tmp/provider {provider}
"""
SETTINGS = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
}


@pytest.fixture(scope="module")
def growing(shared: Path) -> Iterator[Cluster]:
    with cluster(shared, ("head",)) as made:
        (shared / "machines.yaml").write_text(yaml.safe_dump(MACHINES))
        # Found, not imported: Ray reads its settings when it is imported.
        provider = Path(find_spec("ray").origin).parent / "autoscaler/_private/fake_multi_node"
        made.head.ask("sh", "-c", DEFAULTS.format(provider=provider))
        settings = [f"{name}={value}" for name, value in SETTINGS.items()]
        how = ["--head", "--port=6379", "--num-cpus=0", f"--object-store-memory={MEMORY}"]
        how += ["--include-dashboard=false", f"--node-ip-address={made.head.address}"]
        how += [f"--autoscaling-config={SHARED / 'machines.yaml'}"]
        made.head.ask("env", *settings, BIN / "ray", "start", *how)
        yield made


def test_machines_come_for_what_a_run_wants_and_go_when_it_is_done(growing):
    assert growing.look().alive == ["head"]
    run = Run(growing, "grows")
    run.start()
    wait(f"work on {MOST} machines", lambda: len(run.lanes()) == MOST or run.ended(), 600)
    assert not run.ended(), run.said()
    assert len(growing.look().alive) == 1 + MOST
    assert run.driver.wait(900) == 0, run.said()
    assert run.wrong(undisturbed(growing.folder)) == []
    wait("the machines' end", lambda: growing.look().alive == ["head"], 240)
