"""Each port of a head that another machine reaches refuses who comes without the token."""

import json
import subprocess
import sys
import time

import pytest

from tests.bench.execution.ray.test_lanes_cluster import HEAD, cluster  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

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


def test_from_another_machine_no_port_takes_a_word_without_the_token(cluster):  # noqa: F811 (as above)
    time.sleep(5)  # the agents open theirs after Ray says that it is up
    inside = ["ip", "netns", "exec", cluster.names[0], "ss", "--tcp", "--listening", "-nH"]
    places = [line.split()[3] for line in subprocess.check_output(inside, text=True).splitlines()]
    ports = {place.rpartition(":")[2] for place in places if "127.0.0.1" not in place}
    assert "6379" in ports
    asking = cluster.start(1, sys.executable, "-c", ASK, HEAD, *ports, stdout=subprocess.PIPE)
    told = json.loads(asking.communicate(timeout=200)[0])
    assert told.keys() == ports
    for port, (web, codes) in told.items():
        assert "OK" not in codes, port
        # 401, or no server of web pages; the agents' figures for Prometheus (SECURITY.md) alone are
        # given to everyone, whatever the path.
        assert web in {"401", "BadStatusLine", "ConnectionResetError", "# HELP"}, (port, web)
    assert told["6379"][1][0] == "UNAUTHENTICATED"
    refused = [port for port, (_, codes) in told.items() if "UNAUTHENTICATED" in codes]
    assert len(refused) >= 2, told  # the head's own, and the machine's
