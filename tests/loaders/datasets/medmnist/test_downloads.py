"""Downloads, against a server on this machine that cuts, lies, refuses and redirects."""

import errno
import hashlib
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loaders.cases import BadSource
from loaders.datasets.medmnist import downloads
from loaders.datasets.medmnist import kind as medmnist
from loaders.datasets.medmnist.catalogue import BASE, INFO, MD5, SIZES, file_name
from loaders.datasets.medmnist.downloads import Remote, cache_folder, fetch
from loaders.datasets.table import KINDS

CONTENT = np.random.default_rng(0).bytes(600_000)


@dataclass
class Server:
    """What the server does, and what it was asked: settings that a test changes as it goes."""

    base: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes of the body, an answer each
    statuses: list[int] = field(default_factory=list)  # given instead, an answer each
    redirect: str = ""
    shift: int = 0  # of the part that is sent where another was asked for
    asked: list[str | None] = field(default_factory=list)

    def remote(self, **changes: Any) -> Remote:
        known = {
            "base": self.base,
            "path": "set.npz?download=1",
            "md5": md5(CONTENT),
            "page": "PAGE",
        }
        return Remote(**{**known, **changes})


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Answers(http.server.BaseHTTPRequestHandler):
    state: Server

    def do_GET(self) -> None:
        state = self.state
        asked = self.headers.get("Range")
        state.asked.append(asked)
        if state.statuses:
            self.send_error(state.statuses.pop(0))
            return
        # Taken before it is answered: the test may say where the next one leads as soon as it is.
        target, state.redirect = state.redirect, ""
        if target:
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and state.ranges else 0
        if start >= len(state.content):
            self.send_error(416)
            return
        start += state.shift
        body = state.content[start:]
        self.send_response(206 if asked and state.ranges else 200)
        if asked and state.ranges:
            whole = len(state.content)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if state.cut_after:
            body = body[: state.cut_after.pop(0)]
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    handler = type("Handler", (Answers,), {"state": state})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.base = f"http://127.0.0.1:{running.server_address[1]}/files"
        yield state
        running.shutdown()
        thread.join()


# As the suite may run behind a proxy, which knows no 127.0.0.1.
@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


get = partial(fetch, schemes=("http",), pauses=(0.0, 0.0))


def whole(folder: Path) -> bool:
    """Tell whether a folder holds the file and no half of one."""
    assert (folder / "set.npz").read_bytes() == CONTENT
    return sorted(path.name for path in folder.iterdir()) == ["set.npz", "set.npz.lock"]


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = get(server.remote(), tmp_path / "new", progress=lambda *at: told.append(at))
    assert path == tmp_path / "new" / "set.npz"
    assert whole(tmp_path / "new")
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(told) >= 3
    assert get(server.remote(), tmp_path / "new") == path
    assert server.asked == [None]


def test_a_cut_connection_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cut_after = [200_000, 100_000]
    get(server.remote(), tmp_path)
    assert whole(tmp_path)
    assert server.asked == [None, "bytes=200000-", "bytes=300000-"]


def test_a_later_process_goes_on_too(server: Server, tmp_path: Path) -> None:
    server.cut_after = [200_000, 100_000, 50_000]
    with pytest.raises(BadSource) as caught:
        get(server.remote(), tmp_path)
    assert (
        "the connection ended at byte 350000 of 600000. 350000 bytes arrived and are kept"
        in str(caught.value)
    )
    assert not (tmp_path / "set.npz").exists()
    get(server.remote(), tmp_path)
    assert whole(tmp_path)
    assert server.asked[-1] == "bytes=350000-"


def test_a_server_without_ranges_begins_anew(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cut_after = [200_000]
    get(server.remote(), tmp_path)
    assert whole(tmp_path)
    assert server.asked == [None, "bytes=200000-"]


def test_a_half_that_was_whole_already_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.npz.part").write_bytes(CONTENT)  # killed before the rename
    get(server.remote(), tmp_path)
    assert whole(tmp_path)
    assert server.asked == ["bytes=600000-"]


@pytest.mark.parametrize("left", [CONTENT[1:9000], CONTENT + b"more"])
def test_a_half_of_another_file_is_thrown_away(server: Server, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "set.npz.part").write_bytes(left)
    get(server.remote(), tmp_path)
    assert whole(tmp_path)
    assert server.asked[-1] is None


def test_another_file_than_the_published_one_is_never_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BadSource) as caught:
        get(server.remote(md5=md5(b"other")), tmp_path)
    assert "is not the published file" in str(caught.value)
    assert "the download was deleted" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["set.npz.lock"]
    (tmp_path / "set.npz").write_bytes(b"put there by hand")
    with pytest.raises(BadSource, match=r"is not the published file .*: remove it"):
        get(server.remote(), tmp_path)
    assert (tmp_path / "set.npz").read_bytes() == b"put there by hand"


def test_what_is_not_there_is_said_at_once(server: Server, tmp_path: Path) -> None:
    server.statuses = [404]
    with pytest.raises(BadSource) as caught:
        get(server.remote(), tmp_path)
    text = str(caught.value)
    assert "/files/set.npz?download=1 cannot be fetched: the server says 404 Not Found" in text
    assert "Without a network: download it elsewhere (PAGE), and pass the file to medopt" in text
    assert f"or put it at {tmp_path / 'set.npz'}." in text
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    get(server.remote(), tmp_path)
    assert whole(tmp_path)
    server.statuses = [503] * 9
    with pytest.raises(BadSource, match="the server says 503"):
        get(server.remote(path="more.npz"), tmp_path)
    assert len(server.statuses) == 6


def test_no_network_is_one_sentence(tmp_path: Path) -> None:
    nobody = Remote(base="http://127.0.0.1:1/files", path="set.npz", md5="", page="PAGE")
    with pytest.raises(
        BadSource, match=r"the server cannot be reached \(.*0 bytes arrived.*Without a network"
    ):
        get(nobody, tmp_path)


def test_another_part_than_asked_for_is_not_appended(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.npz.part").write_bytes(CONTENT[:1000])
    server.shift = 5
    with pytest.raises(BadSource, match="a part of the file that was not requested"):
        get(server.remote(), tmp_path)
    assert (tmp_path / "set.npz.part").read_bytes() == CONTENT[:1000]


def test_only_https_is_spoken_unless_a_test_says_otherwise(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="which is not https"):
        fetch(server.remote(), tmp_path, pauses=())
    with pytest.raises(BadSource, match="which is not https"):
        fetch(server.remote(base=tmp_path.as_uri()), tmp_path, pauses=())
    assert server.asked == []


def test_a_redirection_is_followed_within_the_scheme(server: Server, tmp_path: Path) -> None:
    server.redirect = f"{server.base}/elsewhere"
    get(server.remote(), tmp_path)
    assert whole(tmp_path)
    for target in ("ftp://127.0.0.1/x", "file:///etc/passwd", "https://127.0.0.1:1/x"):
        server.redirect = target
        sentence = f"(it leads to {target}, which is not http|'{target}' is not allowed)"
        with pytest.raises(BadSource, match=sentence):
            get(server.remote(path="more.npz"), tmp_path)
        assert not (tmp_path / "more.npz").exists()


def test_a_full_disk_is_an_os_error_and_keeps_what_came(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set.npz.part").write_bytes(CONTENT[:1000])
    usage = type("usage", (), {"free": 598_999})
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        OSError, match="598999 bytes are free on the disk; 599000 are needed"
    ) as full:
        get(server.remote(), tmp_path)
    assert full.value.errno == errno.ENOSPC
    assert (tmp_path / "set.npz.part").stat().st_size == 1000


def test_two_at_once_fetch_it_once(server: Server, tmp_path: Path) -> None:
    threads = [threading.Thread(target=get, args=(server.remote(), tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert whole(tmp_path)
    assert server.asked == [None]


def test_the_cache_is_where_the_platform_and_the_user_want_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(downloads.sys, "platform", "linux")
    for name in ("MEDOPT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == tmp_path / ".cache" / "medoptbench"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "medoptbench"
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch")
    assert cache_folder() == Path("/scratch/medoptbench")
    monkeypatch.setattr(downloads.sys, "platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "medoptbench"
    monkeypatch.setenv("MEDOPT_CACHE", "/mine")
    assert cache_folder() == Path("/mine")


# ---- MedMNIST ---------------------------------------------------------------------------------


def test_every_set_has_its_files() -> None:
    assert set(MD5) == set(INFO)
    for name, sums in MD5.items():
        assert len(sums) == (4 if INFO[name].dims == 2 else 2)
        assert all(re.fullmatch("[0-9a-f]{32}", text) for text in sums)
    every = [text for sums in MD5.values() for text in sums]
    assert len(set(every)) == len(every) == 60
    assert BASE.startswith("https://zenodo.org/records/")
    assert (file_name("breastmnist", 28), file_name("breastmnist", 64)) == (
        "breastmnist.npz",
        "breastmnist_64.npz",
    )


def npz_of(folder: Path, name: str, side: int) -> Path:
    arrays = {}
    for seed, split in enumerate(("train", "val", "test")):
        random = np.random.default_rng(seed)
        arrays[f"{split}_images"] = random.integers(0, 256, (6, side, side)).astype(np.uint8)
        columns = len(INFO[name].classes) if name == "chestmnist" else 1
        arrays[f"{split}_labels"] = np.arange(6 * columns, dtype=np.uint8).reshape(6, -1) % 2
    path = folder / file_name(name, side)
    np.savez_compressed(path, **arrays)
    return path


@pytest.fixture
def published(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, int], None]:
    """Publish a small set on the server, in the place of the official one."""
    monkeypatch.setenv("MEDOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(medmnist, "BASE", server.base)
    monkeypatch.setattr(medmnist, "fetch_file", get)

    def publish(name: str, side: int) -> None:
        server.content = npz_of(tmp_path, name, side).read_bytes()
        sums = tuple(
            md5(server.content) if size == side else text
            for size, text in zip(SIZES, MD5[name], strict=False)
        )
        monkeypatch.setattr(medmnist, "MD5", {**MD5, name: sums})

    return publish


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"name": "breastmnist"}, 28),
        ({"name": "breastmnist", "size": "64"}, 64),
        ({"name": "breastmnist_64"}, 64),
        ({"name": "chestmnist", "finding": "edema"}, 28),
    ],
)
def test_a_set_is_fetched_by_name_and_size(
    published: Callable[[str, int], None],
    server: Server,
    tmp_path: Path,
    given: dict[str, str],
    size: int,
) -> None:
    name = given["name"].partition("_")[0]
    published(name, size)
    kind = KINDS["medmnist"]
    assert kind.fetch is not None
    path = kind.fetch(given, lambda *_: None)
    assert path == tmp_path / "cache" / "medmnist" / file_name(name, size)
    wanted = "chestmnist-edema" if "finding" in given else "breastmnist"
    assert kind.survey(path, given).meta.name == wanted


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "name the set to fetch, medmnist:NAME; the sets are: pathmnist"),
        ({"name": "breastmnits"}, "Did you mean 'breastmnist'?"),
        ({"name": "breastmnist_x"}, "there is no MedMNIST set 'breastmnist_x'"),
        ({"name": "breastmnist_64", "size": 28}, "there is no MedMNIST set 'breastmnist_64'"),
        ({"name": "breastmnist", "size": 32}, "has no size 32; its sizes are: 28, 64, 128, 224"),
        ({"name": "nodulemnist3d", "size": 224}, "has no size 224; its sizes are: 28, 64"),
        ({"name": "chestmnist"}, "set finding=NAME; the findings are: atelectasis"),
        ({"name": "chestmnist", "finding": "cancer"}, "there is no finding 'cancer'"),
        ({"name": "breastmnist", "finding": "any"}, "option finding is for chestmnist"),
    ],
)
def test_nothing_is_fetched_where_the_name_is_wrong(
    server: Server, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], sentence: str
) -> None:
    monkeypatch.setattr(medmnist, "BASE", server.base)
    fetched = KINDS["medmnist"].fetch
    assert fetched is not None
    with pytest.raises(BadSource, match=re.escape(sentence)):
        fetched(given, lambda *_: None)
    assert server.asked == []


def test_of_several_sizes_in_a_folder_one_is_chosen(tmp_path: Path) -> None:
    for side in (28, 64):
        npz_of(tmp_path, "breastmnist", side)
    survey = KINDS["medmnist"].survey
    with pytest.raises(BadSource, match=r"found: breastmnist\.npz, breastmnist_64\.npz; name"):
        survey(tmp_path, {"name": "breastmnist"})
    for given in ({"size": 64}, {"name": "breastmnist_64"}, {"name": "breastmnist", "size": "64"}):
        (path,) = {item.paths[0].name for item in survey(tmp_path, given).items}
        assert path == "breastmnist_64.npz"
    with pytest.raises(BadSource, match="has images of side 28, not of size 64"):
        survey(tmp_path / "breastmnist.npz", {"size": 64})


def test_the_command_fetches_and_prepares(
    published: Callable[[str, int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from bench import cli

    published("breastmnist", 28)
    monkeypatch.setenv("MEDOPT_KEY", "test")
    out = str(tmp_path / "store")

    def medopt(*words: str) -> tuple[Any, str]:
        monkeypatch.setattr(cli.sys, "argv", ["medopt", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code, " ".join((said.out + said.err).split())

    command = ["prepare", "medmnist:breastmnist", "--out", out, "--workers", "1"]
    status, said = medopt(*command)
    assert (status, "18 cases, 0 rejected" in said) == (0, True)
    status, said = medopt(*command)
    assert (status, "is up to date" in said) == (0, True)
    status, said = medopt("prepare", "msd", "--out", out)
    assert (status, "msd needs SOURCE" in said) == (2, True)
