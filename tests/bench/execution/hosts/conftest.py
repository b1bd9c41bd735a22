"""Hosts of a Ray cluster, made once for the tests of a module, and the study that runs on them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.execution.hosts.cluster import Cluster
from tests.bench.execution.hosts.cluster import cluster as made_cluster
from tests.bench.execution.hosts.namespaces import missing
from tests.bench.execution.hosts.study import make_studies, undisturbed


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three hosts, with no Ray on them yet, and the studies in the folder that they share."""
    if why := missing():
        pytest.skip(why)
    folder: Path = tmp_path_factory.mktemp("hosts")
    make_studies(folder)
    with made_cluster(folder) as made:
        yield made


@pytest.fixture(scope="module")
def expected(cluster: Cluster) -> dict[str, list[str]]:
    """The metrics of each trial as they should be: of a run in one process, without Ray."""
    return undisturbed(cluster.folder)
