"""Source to store by a pool of readers; resumable after a kill, and complete or absent."""

import errno
import fcntl
import hmac
import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from loaders.cases import BadCase, BadSource, Item, Kind, Meta, Read, Survey, most_often
from loaders.memory import keep_freed_memory
from loaders.store.copies import Conflicts
from loaders.store.finalize import Making, arrange
from loaders.store.item_writer import ROWS, Built, build_item
from loaders.store.layout import (
    CASES,
    FORMAT,
    OPTIONAL,
    REJECTED,
    StoreError,
    building_folder,
    meta_to_json,
    read_description,
    read_table,
    sync_folder,
)
from loaders.store.pseudonyms import key_fingerprint, keyed_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The outcome of a source.

    `resumed` is the number of items kept from an earlier, interrupted run. `reused`: the complete
    store of the same source and settings existed, and nothing was done. `warnings` are sentences
    about copies among its cases.
    """

    n_cases: int
    rejected: tuple[BadCase, ...]
    reused: bool
    resumed: int
    warnings: tuple[str, ...] = ()


def write_store(
    kind: Kind,
    survey: Survey,
    out: Path,
    *,
    key: bytes,
    workers: int,
    strict: bool,
    conflicts: Conflicts = "keep",
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Read every item of a survey and write the store `out`; calls `progress(done, total)`.

    Cases of one image with several answers are kept in one group with a warning, or all rejected
    with `conflicts="reject"`.

    The store grows in `<out>.building` and is renamed when it is complete and on disk; an
    interrupted run is resumed, and a second process waits for the first. Raises BadSource if no
    case is usable, the first BadCase if `strict`, StoreError if `out` holds something else, and
    OSError if the disk is full (finished items are kept).
    """
    if strict and survey.rejected:
        raise survey.rejected[0]
    known = meta_to_json(survey.meta)
    plan = {_item_print(item, known, key): item for item in survey.items}
    if len(plan) < len(survey.items):
        raise BadSource("two items of the source have the same identifier and the same files")
    making = Making(
        meta=survey.meta,
        fingerprint=_survey_print(plan, survey, key, conflicts),
        key=key_fingerprint(key),
        conflicts=conflicts,
    )
    if out.exists() or out.is_symlink():
        return _reuse(out, making)
    with _locked(out) as building:
        if out.exists():
            shutil.rmtree(building)
            return _reuse(out, making)
        if _described(building) == making.fingerprint:
            # The earlier run was killed between the last file and the rename.
            _reveal(building, out)
            return _reuse(out, making)
        kept = _clear(building, plan)
        rejected = list(survey.rejected)
        names: dict[str, str] = {}
        tasks = [
            (kind.name, kind.read, item, survey.meta, building / "items" / name, key)
            for name, item in plan.items()
            if name not in kept
        ]
        if progress:
            progress(len(kept), len(plan))
        with closing(_outcomes(tasks, workers)) as outcomes:
            for n_done, built in enumerate(outcomes, start=len(kept) + 1):
                if strict and built.rejected:
                    raise built.rejected[0]
                rejected += built.rejected
                names |= built.names
                if progress:
                    progress(n_done, len(plan))
        ids = [(keyed_id(key, kind.name, bad.key or bad.where), bad.reason) for bad in rejected]
        arranged = arrange(building, making, ids)
        # Of items that an earlier run read, only the ids are known.
        contradicting = [_by_id(*row, names=names) for row in arranged.contradicting]
        if strict and contradicting:
            raise contradicting[0]
        rejected += contradicting
        if arranged.n_cases == 0:
            shutil.rmtree(building)
            raise BadSource(_nothing(rejected))
        _tell_of_empty_classes(building, survey.meta, rejected)
        _reveal(building, out)
    return Report(
        n_cases=arranged.n_cases,
        rejected=tuple(rejected),
        reused=False,
        resumed=len(kept),
        warnings=arranged.warnings,
    )


def _by_id(case_id: str, reason: str, *, names: Mapping[str, str] = {}) -> BadCase:
    return BadCase(reason, where=names.get(case_id, f"case {case_id}"))


def _nothing(rejected: list[BadCase]) -> str:
    if not rejected:
        return "the source holds no cases"
    return f"no case of the source is usable{most_often(rejected)}"


def _tell_of_empty_classes(building: Path, meta: Meta, rejected: list[BadCase]) -> None:
    """Warn if a class that the source names has no case in the store."""
    if meta.masked:
        return
    table = read_table(building / "cases.parquet", CASES, OPTIONAL)
    there = {k for held in table["class_counts"].to_pylist() for k, n in enumerate(held) if n}
    empty = [name for number, name in enumerate(meta.classes) if number not in there]
    if len(there) == 1 and meta.numbers is None:
        (only,) = there
        log.warning(
            "Every case of the store is %r: nothing can be learned from it%s.",
            meta.classes[only],
            most_often(rejected),
        )
    elif empty:
        log.warning("No case of the store is %s%s.", " or ".join(empty), most_often(rejected))


# Fingerprints: keyed, since they cover names, and made from what a survey of the files shows.


def _item_print(item: Item, meta: Mapping[str, Any], key: bytes) -> str:
    files = [(path.name, *_size_and_date(path)) for path in item.paths]
    text = json.dumps([FORMAT, meta, item.key, files, repr(item.extra)])
    return hmac.digest(key, text.encode(), "sha256").hex()[:32]


def _size_and_date(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError:
        # The reader will report what is wrong with it.
        return -1, -1
    return state.st_size, state.st_mtime_ns


def _survey_print(plan: dict[str, Item], survey: Survey, key: bytes, conflicts: Conflicts) -> str:
    # Without the reasons: a store is of the same files whatever words a later version has for them.
    rejected = sorted(bad.where for bad in survey.rejected)
    text = json.dumps([FORMAT, meta_to_json(survey.meta), sorted(plan), rejected, conflicts])
    return hmac.digest(key, text.encode(), "sha256").hex()


def _reuse(out: Path, making: Making) -> Report:
    known = read_description(out)
    if known["fingerprint"] != making.fingerprint:
        now = meta_to_json(making.meta)
        changed = [name for name in now if now[name] != known["meta"].get(name)]
        changed += ["conflicts"] * (known["conflicts"] != making.conflicts)
        what = "other files" if known["key"] == making.key else "another key"
        what = f"other settings ({', '.join(changed)})" if changed else what
        held = known["meta"]
        # Another order of the same classes is another `positive` of the same data set.
        if held["kind"] != now["kind"] or sorted(held["classes"]) != sorted(now["classes"]):
            raise StoreError(
                f"{out} holds another data set ({held['name']}, of kind {held['kind']}): remove it "
                f"or choose another folder"
            )
        raise StoreError(f"{out} was made from {what}: remove it or choose another folder")
    table = read_table(out / "rejected.parquet", REJECTED).to_pylist()
    return Report(
        n_cases=known["n_cases"],
        rejected=tuple(_by_id(row["case_id"], row["reason"]) for row in table),
        reused=True,
        resumed=0,
        warnings=tuple(known["warnings"]),
    )


# The building folder: used by one process at a time, and holding only finished items.


@contextmanager
def _locked(out: Path) -> Iterator[Path]:
    building = building_folder(out)
    while True:
        building.mkdir(parents=True, exist_ok=True)
        lock = building / "lock"
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("another process is making the store %s: waiting for it", out.name)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # While this process waited, the folder may have become the store, or been removed.
        if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
            break
        os.close(descriptor)
    try:
        yield building
    finally:
        os.close(descriptor)


def _described(building: Path) -> str | None:
    # store.json is written last, so if it exists, everything else is complete.
    try:
        return str(read_description(building)["fingerprint"])
    except StoreError:
        return None


def _clear(building: Path, plan: dict[str, Item]) -> set[str]:
    """Remove all but the finished items of this plan; return their names."""
    (building / "store.json").unlink(missing_ok=True)
    shutil.rmtree(building / "arrays", ignore_errors=True)
    items = building / "items"
    items.mkdir(exist_ok=True)
    kept = set()
    for folder in items.iterdir():
        # An item with a rejected case is read again, so that the terminal can name the case; so is
        # one that an earlier version wrote with other columns.
        whole = (folder / ROWS).exists() and not (folder / "rejected").exists()
        if folder.name in plan and whole:
            kept.add(folder.name)
        else:
            shutil.rmtree(folder)
    return kept


def _reveal(building: Path, out: Path) -> None:
    building.rename(out)
    sync_folder(out.parent)
    shutil.rmtree(out / "items", ignore_errors=True)
    (out / "lock").unlink(missing_ok=True)


# Reading, in one process or in many.

# The arguments of build_item.
_Task = tuple[str, Read, Item, Meta, Path, bytes]


def _outcomes(tasks: list[_Task], workers: int) -> Generator[Built, None, None]:
    """Read every item; yield the outcome of each, in order."""
    if min(workers, len(tasks)) <= 1:
        with _one_thread():
            for task in tasks:
                yield build_item(*task)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=begin_worker,
    )
    try:
        for future in [pool.submit(build_item, *task) for task in tasks]:
            yield future.result()
    except BrokenProcessPool:
        raise OSError(
            errno.ENOMEM,
            "a reading process was killed, probably for lack of memory: run again with fewer "
            "workers; finished items are kept",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread() -> threadpool_limits:
    """Limit numpy's products to one thread while the context is open.

    They are small: on a busy machine, threads that wait for each other take twice the CPU time of
    all the rest (measured), and other processes read at the same time.
    """
    return threadpool_limits(limits=1, user_api="blas")


def begin_worker() -> None:
    """Start a process of a pool: set its memory and threads, and end it with its parent."""
    keep_freed_memory()
    _one_thread()
    _end_with_parent()


def _end_with_parent() -> None:
    """End this worker if its parent is killed; a pool's workers would otherwise wait for ever."""
    # Ctrl-C reaches every process of a terminal; only the parent acts on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
