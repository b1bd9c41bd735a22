"""Hosts of a Ray cluster, made once for the tests of a module, and the study that runs on them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.execution.hosts.cluster import Cluster
from tests.bench.execution.hosts.cluster import cluster as made_cluster
from tests.bench.execution.hosts.namespaces import missing
from tests.bench.execution.hosts.study import make_studies, undisturbed


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that hosts share, with the studies in it."""
    if why := missing():
        pytest.skip(why)
    folder: Path = tmp_path_factory.mktemp("hosts")
    make_studies(folder)
    return folder


@pytest.fixture(scope="module")
def cluster(shared: Path) -> Iterator[Cluster]:
    """Three hosts, with no Ray on them yet."""
    with made_cluster(shared) as made:
        yield made


@pytest.fixture(scope="module")
def expected(cluster: Cluster) -> dict[str, list[str]]:
    """The metrics of each trial as they should be: of a run in one process, without Ray."""
    return undisturbed(cluster.folder)
