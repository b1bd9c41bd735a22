"""Amazon as moto plays it, in this process: no network, no account, no bill.

What is called is written down, so that the rights of a role can be held against it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "ray_cluster.yaml"
REGION = "eu-central-1"


class Amazon:
    """A made account: its security group, file system and head role; and what was asked of it."""

    def __init__(self, boto3: Any) -> None:
        self.asked: set[str] = set()
        self.ec2 = boto3.client("ec2", REGION)
        (vpc,) = self.ec2.describe_vpcs()["Vpcs"]
        made = self.ec2.create_security_group(
            GroupName="medoptbench", Description="the cluster's", VpcId=vpc["VpcId"]
        )
        self.group = made["GroupId"]
        iam = boto3.client("iam", REGION)
        iam.create_instance_profile(InstanceProfileName="medoptbench-head")
        self.image = self.ec2.describe_images()["Images"][0]["ImageId"]

    def note(self, model: Any, **_given: Any) -> None:
        """Write down a call, by the name that a policy has for it."""
        self.asked.add(f"{model.service_model.signing_name}:{model.name}")

    def machines(self) -> list[dict[str, Any]]:
        """Return what EC2 says of every machine, ended ones too."""
        told = self.ec2.describe_instances()["Reservations"]
        return [machine for reservation in told for machine in reservation["Instances"]]

    def cluster(self) -> dict[str, Any]:
        """Return the cluster as shipped, with the placeholders filled in as its page says.

        moto has no image behind Amazon's parameter, so one of its own stands there.
        """
        text = CLUSTER.read_text(encoding="utf-8").replace("sg-00000000000000000", self.group)
        cluster: dict[str, Any] = yaml.safe_load(text)
        for kind in cluster["available_node_types"].values():
            kind["node_config"]["ImageId"] = self.image
        return cluster


@contextmanager
def amazon(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Amazon]:
    """Play Amazon for the block; keys and tokens go to `home`."""
    moto = pytest.importorskip("moto", reason="moto, which plays Amazon, is not installed")
    import boto3
    from boto3 import session

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(ROOT)
    with moto.mock_aws():
        boto3.DEFAULT_SESSION = session.Session(region_name=REGION)
        played = Amazon(boto3)
        boto3.DEFAULT_SESSION.events.register("before-call.*.*", played.note)
        forget_clients()
        try:
            yield played
        finally:
            boto3.DEFAULT_SESSION = None
            forget_clients()


def forget_clients() -> None:
    """Ray keeps its clients for as long as the process lives."""
    from ray.autoscaler._private.aws import utils

    utils.resource_cache.cache_clear()
    utils.client_cache.cache_clear()


class Runner:
    """Stands where `ray up` starts ssh and rsync: writes down what was to run, runs nothing."""

    DEVNULL = None

    def __init__(self) -> None:
        self.ran: list[str] = []

    def check_call(self, command: list[str], *_given: Any, **_options: Any) -> None:
        self.ran.append(" ".join(map(str, command)))

    def check_output(self, command: list[str], *_given: Any, **_options: Any) -> bytes:
        self.check_call(command)
        return b"up 1 minute"


def allowed(policy: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the statements of a policy by each action that it allows."""
    found: dict[str, list[dict[str, Any]]] = {}
    for statement in json.loads(policy.read_text(encoding="utf-8"))["Statement"]:
        assert statement["Effect"] == "Allow"
        for action in statement["Action"]:
            found.setdefault(action, []).append(statement)
    return found
