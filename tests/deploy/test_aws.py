"""`ray up ray_cluster.yaml`, with Amazon played by moto and ssh written down instead of run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.aws import CLUSTER, ROOT, Amazon, Runner, allowed, amazon
from tests.deploy.pages import commands

# Amazon is played, and a cluster brought up and down in it: half a minute.
pytestmark = pytest.mark.slow

AWS = ROOT / "deploy" / "aws"
# What EC2 asks for on the caller's behalf when it is told to rent a machine: no call of Ray's.
IMPLIED = {
    "head": {"ssm:GetParameters"},
    "launcher": {"ssm:GetParameters", "iam:PassRole"},
}


TOKEN = "0123456789abcdef" * 4


@dataclass(frozen=True, kw_only=True)
class Story:
    """A cluster that went up, rented a worker, ended it and went down: what was asked and made.

    `asked` is by whose rights it was: the launcher's or the head's.
    """

    cluster: dict[str, Any]
    group: str
    home: Path
    ran: list[str]
    head: dict[str, Any]
    worker: dict[str, Any]
    asked: dict[str, set[str]]
    kept: str


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Iterator[Story]:
    home = tmp_path_factory.mktemp("home")
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text(TOKEN)
    token.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch, amazon(patch, home) as played:
        yield told(played, home)


def told(played: Amazon, home: Path) -> Story:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.commands import _bootstrap_config, get_or_create_head_node
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE

    # `ray up`, down to each ssh that it would start.
    cluster = _bootstrap_config(played.cluster(), no_config_cache=True)
    runner = Runner()
    get_or_create_head_node(cluster, str(CLUSTER), False, False, True, None, _runner=runner)
    (head,) = played.machines()
    launcher, played.asked = played.asked, set()

    # What the autoscaler on the head does with a worker.
    provider = AWSNodeProvider(cluster["provider"], cluster["cluster_name"])
    config = cluster["available_node_types"]["gpu_worker"]["node_config"]
    tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: "gpu_worker"}
    provider.create_node(config, tags, 1)
    (name,) = provider.non_terminated_nodes(tags)
    (worker,) = [machine for machine in played.machines() if machine["InstanceId"] == name]
    provider.set_node_tags(name, {TAG_RAY_NODE_STATUS: "up-to-date"})
    assert provider.internal_ip(name)
    kept = str(played.machines())
    provider.terminate_node(name)
    assert provider.non_terminated_nodes(tags) == []
    asked, played.asked = played.asked, launcher

    # `ray down`.
    provider = AWSNodeProvider(cluster["provider"], cluster["cluster_name"])
    provider.terminate_nodes(provider.non_terminated_nodes({}))
    assert {machine["State"]["Name"] for machine in played.machines()} == {"terminated"}
    return Story(
        cluster=cluster,
        group=played.group,
        home=home,
        ran=runner.ran,
        head=head,
        worker=worker,
        asked={"launcher": launcher, "head": asked},
        kept=kept,
    )


def tags_of(machine: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in machine["Tags"]}


def test_the_head_is_as_the_file_says(story):
    assert story.head["InstanceType"] == "m7i.xlarge"
    profile = story.head["IamInstanceProfile"]["Arn"]
    assert profile.endswith("instance-profile/medoptbench-head")
    assert [group["GroupId"] for group in story.head["SecurityGroups"]] == [story.group]
    assert "InstanceLifecycle" not in story.head  # on demand
    assert tags_of(story.head)["ray-cluster-name"] == story.cluster["cluster_name"]


def test_workers_are_spot_machines_without_a_role(story):
    assert story.worker["InstanceType"] == "g6.2xlarge"
    assert story.worker["InstanceLifecycle"] == "spot"
    assert "IamInstanceProfile" not in story.worker


def test_a_machine_is_set_up_in_order(story):
    steps = (
        f"{story.home}/.ray/auth_token",
        ":~/medoptbench/",
        "mount -t nfs4",
        "-c ~/medoptbench/constraints.txt",
        "find ~/.ray/auth_token",
        "ray start --head",
    )
    where = [next(k for k, ran in enumerate(story.ran) if step in ran) for step in steps]
    assert where == sorted(where)
    started = story.ran[where[-1]]
    assert started.index("RAY_USAGE_STATS_ENABLED=1") < started.index("RAY_USAGE_STATS_ENABLED=0")
    assert '{"CPU":0}' in started


def test_nothing_is_installed_but_what_the_file_says(story):
    """Ray's defaults, where a file is silent: another Python's wheel, boto3 in the system's own."""
    installs = [ran for ran in story.ran if "pip install" in ran]
    assert len(installs) == 1
    assert "~/venv/bin/pip install" in installs[0]


def test_a_machine_gets_the_token_by_ssh_alone(story):
    """What Amazon keeps of it (start-up script, tags) and each command are free of it."""
    assert "UserData" not in str(story.cluster["available_node_types"])
    assert TOKEN not in story.kept
    assert TOKEN not in str(story.ran)


@pytest.mark.parametrize("who", ["launcher", "head"])
def test_a_role_may_do_what_ray_asks_for_and_no_more(story, who):
    rights = allowed(AWS / f"{who}-policy.json")
    assert story.asked[who] | IMPLIED[who] == set(rights)


@pytest.mark.parametrize(("who", "kind"), [("head", "gpu_worker"), ("launcher", "head")])
def test_the_conditions_of_a_role_are_met_by_this_cluster(story, who, kind):
    rights = allowed(AWS / f"{who}-policy.json")
    made = story.worker if who == "head" else story.head
    (rent,) = [
        statement["Condition"]["StringEquals"]
        for statement in rights["ec2:RunInstances"]
        if "Condition" in statement
    ]
    assert rent.pop("aws:RequestTag/ray-cluster-name") == tags_of(made)["ray-cluster-name"]
    assert rent.pop("ec2:InstanceType") == [made["InstanceType"]]
    assert rent == ({"ec2:InstanceMarketType": "spot"} if who == "head" else {})
    (end,) = rights["ec2:TerminateInstances"]
    assert end["Condition"]["StringEquals"] == {
        "aws:ResourceTag/ray-cluster-name": tags_of(made)["ray-cluster-name"]
    }


def test_the_launcher_passes_one_role_on(story):
    (statement,) = allowed(AWS / "launcher-policy.json")["iam:PassRole"]
    head = story.cluster["available_node_types"]["head"]["node_config"]
    assert statement["Resource"].endswith(f":role/{head['IamInstanceProfile']['Name']}")


def test_a_policy_is_one_that_amazon_takes(story):
    """moto reads policies as IAM does: their elements, their actions' form, their resources."""
    import boto3

    iam = boto3.client("iam")
    for path in AWS.glob("*-policy.json"):
        iam.create_policy(PolicyName=path.stem, PolicyDocument=path.read_text(encoding="utf-8"))
    trust = (AWS / "head-trust.json").read_text(encoding="utf-8")
    iam.create_role(RoleName="medoptbench-head", AssumeRolePolicyDocument=trust)


def test_each_command_of_the_page_is_one_of_amazons():
    loaders = pytest.importorskip("botocore.loaders", reason="botocore is not installed")
    from botocore import xform_name
    from botocore.model import ServiceModel

    known = {"output", "query", "protocol", "port", "cidr", "source-group"}  # of the aws command
    found = commands(AWS / "README.md", "aws")
    assert len(found) >= 10
    for _, service, operation, *words in found:
        model = ServiceModel(loaders.Loader().load_service_model(service, "service-2"))
        name = {xform_name(n, "-"): n for n in model.operation_names}[operation]
        members = {xform_name(m, "-") for m in model.operation_model(name).input_shape.members}
        options = {word.removeprefix("--") for word in words if word.startswith("--")}
        assert options <= members | known, (operation, options - members)
