"""What `ray up` is given is a cluster that Ray accepts, and holds machines only."""

import importlib
import json
import os
import re
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
AWS, ON_PREMISES = ROOT / "ray_cluster.yaml", ROOT / "deploy" / "onpremises.yaml"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads((files("ray.autoscaler") / "ray-schema.json").read_text())


@pytest.fixture(params=[AWS, ON_PREMISES], ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def cluster(path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def keys(node: Any) -> set[str]:
    match node:
        case dict():
            return set(node) | {k for v in node.values() for k in keys(v)}
        case list():
            return {k for v in node for k in keys(v)}
    return set()


def test_ray_accepts_the_file(schema, cluster):
    jsonschema.validate(cluster, schema)


def test_the_schema_would_refuse_a_hyperparameter(schema, cluster):
    with pytest.raises(jsonschema.ValidationError, match="learning_rate"):
        jsonschema.validate(cluster | {"learning_rate": 0.1}, schema)


def test_no_setting_of_a_study_stands_in_it(cluster):
    study = importlib.import_module("bench.study.schema").Study
    # Ray's machines have labels too, which are no labels of cases.
    assert not keys(cluster) & set(study.model_fields) - {"labels"}


def test_every_node_starts_with_the_token(cluster):
    assert "~/.ray/auth_token" in cluster["file_mounts"]
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in cluster[key]
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)


@pytest.mark.parametrize(
    ("mode", "starts"),
    [(0o600, True), (0o400, True), (0o644, False), (0o640, False), (0o602, False), (None, False)],
)
def test_a_machine_whose_token_others_can_read_does_not_start(cluster, tmp_path, mode, starts):
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    if mode is not None:
        token.touch()
        token.chmod(mode)
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        first = cluster[key][0]
        done = subprocess.run(
            ["bash", "-c", first],
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            check=False,
        )
        assert (done.returncode == 0) == starts
        assert (b"chmod 600" in done.stderr) != starts


def test_the_recipe_makes_a_token_that_nobody_else_can_read(path, tmp_path):
    """With a `ray` that makes its file as Ray does: as the umask lets it."""
    ray = tmp_path / "ray"
    ray.write_text(
        '#!/bin/sh\nmkdir -p "$HOME/.ray" && echo secret | tee "$HOME/.ray/auth_token"\n'
    )
    ray.chmod(0o755)
    text = path.read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^#   (\(?.*get-auth-token.*?)     once", text, re.MULTILINE)
    own = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    shown = subprocess.check_output(["bash", "-c", f"umask 022; {recipe}"], env=os.environ | own)
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    assert shown == b""


def test_the_dashboard_is_reached_through_ssh_alone(cluster):
    (start,) = [c for c in cluster["head_start_ray_commands"] if "ray start" in c]
    assert "--dashboard-host=127.0.0.1" in start


def test_each_machine_is_counted():
    cluster = yaml.safe_load(ON_PREMISES.read_text(encoding="utf-8"))
    assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"])


def test_rented_machines_have_an_upper_end():
    """Ray adds up the kinds: more of a kind than in all would never be rented, nor told."""
    cluster = yaml.safe_load(AWS.read_text(encoding="utf-8"))
    kinds = cluster["available_node_types"]
    workers = {name: kind for name, kind in kinds.items() if name != cluster["head_node_type"]}
    assert sum(kind["max_workers"] for kind in workers.values()) == cluster["max_workers"]
    for kind in workers.values():
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert kind["resources"]["GPU"] >= 1
    head = kinds[cluster["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"] == {"CPU": 0}
