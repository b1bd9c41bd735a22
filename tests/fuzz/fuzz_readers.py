"""Feed damaged files to their readers, for as long as is asked.

Not a test that pytest collects, but a script:

    python tests/fuzz/fuzz_readers.py --seed 0 --seconds 3600 --targets dicom video

Each input is a good file, damaged by one to four edits that a seed and the input's number decide:
bits flipped, bytes cut off, doubled, dropped or blanked, and edits of the format's own parts, as
header fields set to their extremes. A finding is whatever is neither a case nor one of the
readers' own refusals: another exception, an input that takes more than ten seconds, memory beyond
2 GiB, the death of the process. Inputs are read in a child process, so that even the last is
counted. Findings are printed and their inputs kept under --keep; `--only N` reads one again,
uncaught.
"""

import argparse
import faulthandler
import multiprocessing
import re
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import frame_inputs
import mask_inputs
import nifti_inputs
import numpy as np
import read_inputs
import table_inputs
from edits import File, Random, pick

from loaders.cases import BadCase, BadSource
from loaders.formats.nifti import NiftiError

MAX_SECONDS = 10
MAX_BYTES = 2 << 30
REFUSALS = (BadCase, BadSource, NiftiError)


@dataclass(frozen=True)
class Target:
    """A reader, and the making of its inputs."""

    make: Callable[[Random], list[File]]
    read: Callable[[Sequence[Path]], None]


TARGETS = {
    "nifti": Target(nifti_inputs.make_nifti, nifti_inputs.read_nifti),
    "xml": Target(read_inputs.make_read, read_inputs.read_reads),
    "table": Target(table_inputs.make_table, table_inputs.read_table),
    "dicom": Target(frame_inputs.make_dicom, frame_inputs.read_dicom),
    "video": Target(frame_inputs.make_video, frame_inputs.read_loops),
    "mask": Target(mask_inputs.make_mask, mask_inputs.read_masks),
    "scan": Target(mask_inputs.make_scan, mask_inputs.read_scans),
    "book": Target(mask_inputs.make_book, mask_inputs.read_book),
}


def one_input(
    seed: int, number: int, targets: Sequence[str], folder: Path
) -> tuple[str, list[Path]]:
    """Write one input; return the name of its target and its files."""
    random = np.random.default_rng([seed, number])
    kind = pick(targets, random)
    paths = []
    for old in folder.iterdir():
        old.unlink()
    for name, data in TARGETS[kind].make(random):
        (folder / name).write_bytes(data)
        paths.append(folder / name)
    return kind, paths


# ---- the child that reads, and the parent that counts -----------------------------------------


def child(seed: int, first: int, targets: Sequence[str], folder: Path, told: Connection) -> None:
    """Read inputs one after the other; tell of each by (number, target, outcome, detail)."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    warnings.simplefilter("ignore")
    number = first
    while True:
        kind, paths = one_input(seed, number, targets, folder)
        told.send((number, kind, "reading", ""))
        faulthandler.dump_traceback_later(MAX_SECONDS, exit=True)
        try:
            TARGETS[kind].read(paths)
            outcome, detail = "read", ""
        except REFUSALS as refusal:
            outcome, detail = "refused", str(refusal)
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            outcome, detail = "finding", f"{type(error).__name__}: {error}"
        faulthandler.cancel_dump_traceback_later()
        told.send((number, kind, outcome, detail))
        number += 1


def fuzz(seed: int, seconds: float, targets: Sequence[str], keep: Path) -> int:
    """Run until the time is over; print the counts and return the number of findings."""
    counts: Counter[tuple[str, str]] = Counter()
    sentences: Counter[str] = Counter()
    findings = 0
    end = time.monotonic() + seconds
    next_report = time.monotonic()
    number = 0
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        while time.monotonic() < end:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=child, args=(seed, number, targets, folder, sender))
            process.start()
            sender.close()
            reading = ("", False)
            while time.monotonic() < end:
                if time.monotonic() >= next_report:
                    print(f"{number} inputs, {findings} findings, {dict(counts)}", flush=True)
                    next_report += 60
                try:
                    number, kind, outcome, detail = receiver.recv()
                except EOFError:
                    break
                reading = (kind, outcome == "reading")
                if reading[1]:
                    continue
                counts[kind, outcome] += 1
                if outcome == "refused":
                    sentences[f"{kind}: {re.sub(r'[0-9][0-9.e+-]*', '#', detail)[:120]}"] += 1
                if outcome == "finding":
                    findings += 1
                    _keep(seed, number, targets, keep, f"{kind} {detail}")
                number += 1
            process.kill()
            process.join()
            if reading[1] and time.monotonic() < end:
                findings += 1
                counts[reading[0], "killed"] += 1
                _keep(
                    seed, number, targets, keep, f"{reading[0]} ended the process or took too long"
                )
                number += 1
    for sentence, count in sentences.most_common():
        print(f"{count:9} {sentence}")
    print(f"seed {seed}: {number} inputs in {seconds:.0f} s, {findings} findings, {dict(counts)}")
    return findings


def _keep(seed: int, number: int, targets: Sequence[str], keep: Path, what: str) -> None:
    print(f"FINDING input {number}: {what}", flush=True)
    folder = keep / f"{seed}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    one_input(seed, number, targets, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--targets", nargs="*", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "fuzz_findings"))
    parser.add_argument("--only", type=int, metavar="N", help="read input N alone, uncaught")
    arguments = parser.parse_args()
    if arguments.only is not None:
        with tempfile.TemporaryDirectory() as name:
            kind, paths = one_input(arguments.seed, arguments.only, arguments.targets, Path(name))
            TARGETS[kind].read(paths)
        return
    found = fuzz(arguments.seed, arguments.seconds, arguments.targets, arguments.keep)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
