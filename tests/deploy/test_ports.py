"""`ray up deploy/onpremises.yaml` over ssh, from another machine, and what it brings up.

Four hosts in namespaces of this machine: three for the cluster, and the desk of the user, from
where everything is asked. Each port that Ray opens refuses who comes without the token.
"""

import json
from collections.abc import Iterator

import pytest
import yaml

from tests.bench.execution.hosts.cluster import Cluster, cluster, wait
from tests.bench.execution.hosts.namespaces import BIN, ROOT, SHARED, Host, missing
from tests.bench.execution.hosts.study import SEEDS, Run, make_studies, undisturbed

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]

FILE = ROOT / "deploy" / "onpremises.yaml"

# Without the token: what each port says to a browser, and to calls of Ray's own services.
ASK = """
import json, sys, urllib.error, urllib.request
import grpc

CALLS = ("NodeInfoGcsService/GetAllNodeInfo", "NodeManagerService/GetNodeStats")
told = {}
for port in sys.argv[2:]:
    try:
        with urllib.request.urlopen(f"http://{sys.argv[1]}:{port}/api/jobs/", timeout=5) as answer:
            web = answer.read(6).decode()
    except urllib.error.HTTPError as error:
        web = str(error.code)
    except Exception as error:
        web = type(error).__name__
    channel = grpc.insecure_channel(f"{sys.argv[1]}:{port}")
    codes = []
    for call in CALLS:
        try:
            channel.unary_unary(f"/ray.rpc.{call}")(b"", timeout=5)
            codes.append("OK")
        except grpc.RpcError as error:
            codes.append(error.code().name)
    told[port] = [web, codes]
print(json.dumps(told))
"""


def ray(desk: Host, command: str, *given: object) -> str:
    """Type a command of the file's page at the desk; return what it prints."""
    return desk.ask(BIN / "ray", command, SHARED / FILE.name, *given, seconds=900)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Host]]:
    """The cluster as shipped, its placeholders filled in as its page says; and the desk."""
    if why := missing():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("up")
    make_studies(folder)
    with cluster(folder, ("head", "left", "right", "desk")) as made:
        *machines, desk = made.hosts
        text = FILE.read_text(encoding="utf-8")
        for placeholder, host in zip(
            ("192.0.2.10", "192.0.2.11", "192.0.2.12"), machines, strict=True
        ):
            assert placeholder in text
            text = text.replace(placeholder, host.address)
        (folder / FILE.name).write_text(text)
        ray(desk, "up", "--yes", "--no-config-cache")
        raised = Cluster(hosts=tuple(machines), folder=folder)
        wait("all hosts", lambda: raised.look().alive == ["head", "left", "right"], 300)
        yield raised, desk


def test_it_comes_up_and_runs_a_study_of_forty_trials(up):
    raised, desk = up
    asked = f"study-{SEEDS}.yaml --ray auto --out runs/raised"
    (command,) = [
        line for line in FILE.read_text().replace("\\\n#  ", "").splitlines() if "ray exec" in line
    ]
    typed = command.partition("'")[2].rpartition("'")[0].replace("study.yaml --ray auto", asked)
    assert typed.endswith(asked)
    ray(desk, "exec", typed)
    assert Run(raised, "raised").wrong(undisturbed(raised.folder)) == []


def test_from_another_machine_no_port_takes_a_word_without_the_token(up):
    raised, desk = up
    for host in raised.hosts:
        listening = host.ask("ss", "--tcp", "--listening", "-nH").splitlines()
        places = [line.split()[3] for line in listening]
        ports = {place.rpartition(":")[2] for place in places if "127.0.0.1" not in place}
        ports -= {"22"}  # ssh's own
        assert ("6379" in ports) == (host is raised.head)
        told = json.loads(desk.ask("python", "-c", ASK, host.address, *sorted(ports)))
        assert told.keys() == ports
        for port, (web, codes) in told.items():
            assert "OK" not in codes, (host.name, port)
            # 401, or no server of web pages.
            assert web in {"401", "BadStatusLine", "ConnectionResetError"}, (host.name, port, web)
        refused = [port for port, (_, codes) in told.items() if "UNAUTHENTICATED" in codes]
        assert refused, told
        if host is raised.head:
            assert told["6379"][1][0] == "UNAUTHENTICATED"
            assert len(refused) >= 2, told  # the head's own, and the machine's


def test_every_start_that_is_shipped_opens_the_same_ports():
    """What was tried above holds for the others: the same options, or the same environment."""

    def starts(path):
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key in ("head_start_ray_commands", "worker_start_ray_commands"):
            start = told[key][-1].replace("/opt/medoptbench/.venv/", "~/venv/")
            yield start.replace("RAY_enable_autoscaler_v2=0 ", "")  # opens none

    assert list(starts(FILE)) == list(starts(ROOT / "ray_cluster.yaml"))
    closed = {"RAY_enable_metrics_collection": "0"}
    closed |= dict.fromkeys(("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT"), "-1")
    assert all(f"{name}={value}" in next(starts(FILE)) for name, value in closed.items())
    for name in ("cluster", "job"):
        told = yaml.safe_load((ROOT / f"deploy/kuberay/{name}.yaml").read_text(encoding="utf-8"))
        ray = told["spec"].get("rayClusterSpec", told["spec"])
        pods = [ray["headGroupSpec"], *ray["workerGroupSpecs"]]
        starts_ray = [c for pod in pods for c in pod["template"]["spec"]["containers"]]
        starts_ray += [ray[key] for key in ("autoscalerOptions",) if key in ray]
        for container in starts_ray:
            assert {each["name"]: each["value"] for each in container["env"]} == closed
    # No dashboard there.
    job = (ROOT / "deploy/slurm/medopt.sbatch").read_text(encoding="utf-8")
    assert "export RAY_enable_metrics_collection=0 AUTOSCALER_METRIC_PORT=-1\n" in job
    assert "--include-dashboard=false" in job
