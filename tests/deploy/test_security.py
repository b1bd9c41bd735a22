"""What SECURITY.md promises of the files that are shipped."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [ROOT / "ray_cluster.yaml", *(p for p in (ROOT / "deploy").rglob("*") if p.is_file())]
# What a secret looks like: a key of Amazon's, a private key, a token as Ray makes it, a password.
SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|\b[0-9a-f]{32,}\b|"
    r"(?i:password|secret_?access_?key)\s*[:=]\s*\S"
)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_no_secret_stands_in_a_shipped_file(path):
    assert not SECRET.search(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "secret",
    ["AKIA0123456789ABCDEF", "-----BEGIN RSA PRIVATE KEY-----", "a: " + "0a" * 32, "password: x"],
)
def test_a_secret_would_be_seen(secret):
    assert SECRET.search(secret)


def starts(node: object) -> list[str]:
    match node:
        case dict():
            return [found for value in node.values() for found in starts(value)]
        case list():
            return [found for value in node for found in starts(value)]
        case str() if "ray start" in node:
            return [node]
    return []


def test_wherever_ray_is_started_the_token_is_on():
    """In YAML each start says it; KubeRay's and Slurm's are told beforehand, for all of them."""
    found = 0
    for path in SHIPPED:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".yaml":
            for document in yaml.safe_load_all(text):
                for command in starts(document):
                    found += 1
                    assert "RAY_AUTH_MODE=token" in command, path
                if str(document.get("kind", "")).startswith("Ray"):
                    found += 1
                    cluster = document["spec"].get("rayClusterSpec", document["spec"])
                    assert cluster["authOptions"]["mode"] == "token", path
        elif path.suffix == ".sbatch":
            found += 1
            assert text.index("RAY_AUTH_MODE=token") < text.index("    ray start --head")
    assert found == 7  # two files of `ray up`, twice; two manifests; a job
