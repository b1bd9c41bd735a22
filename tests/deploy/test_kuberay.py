"""The Kubernetes manifests against KubeRay's own schema, and the image that they want.

`kuberay_schema.json` says where it is from. Kubernetes drops a field that it does not know without
a word, so here such a field is an error.
"""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from bench.execution.ray.lanes import LOOK_SEC
from bench.execution.worker import EPOCH_SEC

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kuberay"
KINDS = {"cluster.yaml": "RayCluster", "job.yaml": "RayJob"}


def closed(schema: Any) -> Any:
    """Return a schema that refuses each field which it does not name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    names = isinstance(schema.get("properties"), dict) and "type" in schema
    if names and "x-kubernetes-preserve-unknown-fields" not in schema:
        found.setdefault("additionalProperties", False)
    return found


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    given = json.loads(Path(__file__).with_name("kuberay_schema.json").read_text())
    shut = closed({name: schema for name, schema in given.items() if name != "comment"})
    return {kind: {**shut[kind], "definitions": shut["definitions"]} for kind in KINDS.values()}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


@pytest.fixture(params=KINDS, ids=KINDS.get)
def manifest(request) -> dict[str, Any]:
    (found,) = documents(request.param)
    assert found["kind"] == KINDS[request.param]
    return found


def cluster_of(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"].get("rayClusterSpec", manifest["spec"])


def pods(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = cluster_of(manifest)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"] for group in groups]


def test_kuberay_accepts_the_manifest(schemas, manifest):
    jsonschema.validate(manifest, schemas[manifest["kind"]])


WRONG = [
    (("spec",), "rayVersions", "2.60.0"),
    (("cluster", "headGroupSpec"), "replica", 1),
    (("cluster", "workerGroupSpecs", 0), "maxReplica", 3),
    (("cluster", "workerGroupSpecs", 0, "template", "spec", "containers", 0), "image_", "x"),
    (("cluster", "workerGroupSpecs", 0, "template", "spec"), "nodeSelectors", {}),
    (("cluster", "authOptions"), "mode", "tokens"),
    (("cluster", "workerGroupSpecs", 0), "maxReplicas", "four"),
]


@pytest.mark.parametrize(("where", "key", "value"), WRONG)
def test_a_slip_in_the_manifest_is_refused(schemas, manifest, where, key, value):
    node: Any = manifest
    for step in where:
        node = cluster_of(node) if step == "cluster" else node[step]
    node[key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, schemas[manifest["kind"]])


def test_pods_and_the_rest_are_what_kubernetes_knows(manifest):
    checker = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate (108 MB) is not installed"
    )
    rest = documents("namespace.yaml")
    assert [each["kind"] for each in rest] == [
        "Namespace",
        "PersistentVolumeClaim",
        "NetworkPolicy",
    ]
    as_pods = [{"apiVersion": "v1", "kind": "Pod", **template} for template in pods(manifest)]
    for each in (*rest, *as_pods):
        checker.validate(each, checker.latest_version(), strict=True)
        with pytest.raises(checker.ValidationError):
            checker.validate(
                each | {"spec": {**each.get("spec", {}), "slip": 1}},
                checker.latest_version(),
                strict=True,
            )


def test_the_token_is_made_by_the_operator_and_stands_nowhere(manifest):
    assert cluster_of(manifest)["authOptions"] == {"mode": "token"}
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "kind: Secret" not in text
        assert not re.search(r"\b[0-9a-f]{32,}\b", text), path


def test_no_pod_is_root_or_can_become_it(manifest):
    for template in pods(manifest):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert "hostNetwork" not in pod
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


def test_every_pod_has_the_image_the_folder_and_what_it_asks_for(manifest):
    (claim,) = (each for each in documents("namespace.yaml") if each["kind"].endswith("Claim"))
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    templates = pods(manifest)
    assert len({c["image"] for t in templates for c in t["spec"]["containers"]}) == 1
    for template in templates:
        (shared,) = (v for v in template["spec"]["volumes"] if "persistentVolumeClaim" in v)
        assert shared["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (container,) = template["spec"]["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"shared": "/mnt/shared", "memory": "/dev/shm"}
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
    worker = templates[1]["spec"]
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert worker["nodeSelector"].keys() == {"nvidia.com/gpu.product"}


def test_a_worker_that_is_ended_says_so_and_stays_for_the_states_of_its_trials(manifest):
    from ray.scripts.scripts import cli  # not before: Ray reads settings when it is imported

    (container,) = pods(manifest)[1]["spec"]["containers"]
    shell, flag, script = container["lifecycle"]["preStop"]["exec"]["command"]
    assert (shell, flag) == ("sh", "-c")
    said, stays = script.split(";")
    ray, *words = shlex.split(said)
    # What Ray itself refuses in its command is refused here.
    read = cli.commands[words[0]].make_context("drain-node", words[1:]).params
    assert (ray, read["reason"]) == ("ray", "DRAIN_NODE_REASON_PREEMPTION")
    # Kubernetes ends it after 30 s whatever it does, since no other time is set.
    assert LOOK_SEC + EPOCH_SEC < int(stays.split()[1]) <= 20
    assert read["deadline_remaining_seconds"] <= 30


def test_both_manifests_have_the_same_pods():
    (cluster,), (job,) = documents("cluster.yaml"), documents("job.yaml")
    assert pods(cluster) == pods(job)
    assert cluster_of(cluster)["rayVersion"] == cluster_of(job)["rayVersion"]


def test_ray_is_the_pinned_one(manifest):
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster_of(manifest)['rayVersion']}" in pinned


def test_a_fault_is_tried_again_and_the_cluster_goes_when_the_study_is_done():
    (job,) = documents("job.yaml")
    assert job["spec"]["backoffLimit"] >= 1
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["entrypoint"].startswith("medopt run /mnt/shared/")


def test_the_image_holds_the_project_the_pinned_set_and_no_root():
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    steps = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    copied = [source for name, *words in steps if name == "COPY" for source in words[:-1]]
    assert all((ROOT / source).exists() for source in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    licences = project["project"]["license-files"]
    wanted = {name.rstrip("*") for name in packages} | set(licences)
    assert wanted | {project["project"]["readme"], "pyproject.toml"} <= set(copied)
    (install,) = (step for step in steps if step[:3] == ["RUN", "pip", "install"])
    assert install[install.index("-c") + 1] == "constraints.txt"
    (python,) = (step[1] for step in steps if step[0] == "FROM")
    assert python.startswith("python:3.11-")
    (user,) = (step[1] for step in steps if step[0] == "USER")
    assert steps.index(["USER", user]) > steps.index(install)
    (cluster,) = documents("cluster.yaml")
    assert {t["spec"]["securityContext"]["runAsUser"] for t in pods(cluster)} == {int(user)}
