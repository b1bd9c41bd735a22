"""Broken studies through the command: each ends with 2, in sentences with file and place.

The study of a run's folder is the same kind of file: the report of a run is asked for too.
"""

import re
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench import cli

RECORDED = Path(__file__).parents[1] / "golden" / "recorded"
GOOD = """
name: broken
data: [stores/none]
models: [plain_cnn]
optimizers: [sgd, adam]
losses: [ce, focal]
epochs: 25
"""


def instead(line: str, of: str = "epochs: 25") -> bytes:
    """Return the good study with one line in the place of another."""
    assert of in GOOD
    return GOOD.replace(of, line).encode()


def optimizers(entry: str) -> bytes:
    return instead(f"[{entry}]", "[sgd, adam]")


def data(entry: str) -> bytes:
    return instead(f"[{entry}]", "[stores/none]")


BOMB = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9)
)
STRING_BOMB = f"s: &s {'x' * 50_000}\nl: [{', '.join(['*s'] * 1000)}]\n"

# Name -> the file, and what its sentence has to say: of text and YAML as such, then of a study.
TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "list": (b"[1, 2]", "a study must be a mapping"),
    "number": (b"3", "a study must be a mapping"),
    "latin": (instead("# Größe").decode().encode("latin-1"), "not in UTF-8: byte 0xf6 in line 7"),
    "shift_jis": (instead("# 検査").decode().encode("shift-jis"), "not in UTF-8"),
    "utf_16_without_mark": (GOOD.encode("utf-16-le"), "not valid YAML"),
    "utf_16_cut": (GOOD.encode("utf-16")[:-1], "not in UTF-8"),
    "random": (bytes(range(256)) * 8, "not in UTF-8"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not in UTF-8"),
    "nul": (instead("epochs: \0"), "unacceptable character"),
    "long": (b"#" * (2 << 20), "longer than 1 MiB"),
    "deep_list": (b"a: " + b"[" * 10_000, "more than 32 levels"),
    "deep_map": (b"{a: " * 10_000, "more than 32 levels"),
    "deep_blocks": (
        "\n".join("  " * n + "a:" for n in range(10_000))[: 1 << 19].encode(),
        "more than 32 levels",
    ),
    "bomb": (BOMB.encode(), "aliases make more than"),
    "string_bomb": (STRING_BOMB.encode(), "aliases make more than"),
    "alias_to_itself": (instead("augment: &a {flip: *a}"), "an alias is inside its own anchor"),
    "alias_of_none": (instead("augment: *a"), "undefined alias"),
    "key_twice": (instead("epochs: 25\nepochs: 26"), "the key 'epochs' appears twice"),
    "key_twice_deep": (optimizers("{adam: {lr: 0.1, lr: 0.2}}"), "the key 'lr' appears twice"),
    "code": (instead("epochs: !!python/object/apply:os.getpid []"), "determine a constructor"),
    "strange_tag": (instead("epochs: !epochs 3"), "determine a constructor"),
    "no_date": (instead("epochs: 2026-13-45"), "cannot be read as a value"),
    "no_number": (instead("epochs: !!int many"), "cannot be read as a value"),
    "digits": (instead("epochs: " + "9" * 5000), "cannot be read as a value"),
    "hex_digits": (instead("epochs: 0x" + "f" * 5000), "three hundred digits"),
    "half_a_letter": (instead('loader: "\\ud800"'), "control character U+D800"),
    "colours": (instead('loader: "\\e[31mred"'), "control character U+001B"),
    "two_documents": (GOOD.encode() + b"---\n" + GOOD.encode(), "another document"),
    "tab": (instead("\tepochs: 3"), "not valid YAML"),
    "cut": (instead("augment: {flip: "), "not valid YAML"),
    "key_of_a_list": (instead("? [a, b]\n: 3"), "unhashable key"),
    "merged_text": (instead("<<: text"), "not valid YAML"),
}
STUDIES: dict[str, tuple[bytes, str]] = {
    "empty_key": (instead("'': 3"), "unknown key ''"),
    "key_of_other_letters": (instead("größe: 3"), "unknown key 'größe'"),
    "key_in_brackets": (instead("'[red]epochs': 3"), "unknown key '[red]epochs'"),
    "key_of_a_number": (instead("3: 3"), "the key 3 is not a text"),
    "key_of_nothing": (instead("null: 3"), "is not a text"),
    "epochs_nan": (instead("epochs: .nan"), "epochs: "),
    "epochs_inf": (instead("epochs: .inf"), "epochs: "),
    "epochs_1e400": (instead("epochs: 1e400"), "epochs: "),
    "epochs_2_70": (instead(f"epochs: {2**70}"), "epochs: must lie between"),
    "epochs_true": (instead("epochs: yes"), "epochs: must be a number or a text, not true"),
    "clip_off": (instead("clip: off"), "put such a word in quotes"),
    "translate_two": (instead("augment: {translate: 2}"), "move by ± this share of the patch"),
    "seed_negative": (instead("seeds: [0, -1]"), "seeds: must lie between"),
    "seed_2_70": (instead(f"seeds: [{2**70}]"), "seeds: must lie between"),
    "patch_zero": (instead("patch: [0, 0]"), "patch: must lie between"),
    "patch_huge": (instead("patch: [100000, 100000]"), "patch: must lie between"),
    "patch_of_none": (instead("patch: []"), "patch: needs at least 1"),
    "patch_number": (instead("patch: 64"), "write `patch: [64]`"),
    "batch_huge": (instead(f"batch_size: {10**18}"), "batch_size: must lie between"),
    "folds_huge": (instead("folds: 1000000000"), "folds: must lie between"),
    "trials_huge": (
        instead("folds: 1000\nrepeats: 100\nseeds: [0, 1, 2]"),
        "trials; at most 1000000",
    ),
    "margin_inf": (instead("margin: .inf"), "margin: "),
    "target_nan": (instead("target: .nan"), "target: "),
    "threads_negative": (instead("threads: -1"), "threads: "),
    "overlap_nearly_one": (instead("overlap: 0.99999"), "overlap: must lie between"),
    "rate_nan": (optimizers("{adam: {lr: .nan}}"), "setting lr is nan"),
    "rate_inf": (optimizers("{adam: {lr: .inf}}"), "adam.lr must be like 0.001, not inf"),
    "rate_1e400": (optimizers("{adam: {lr: 1e400}}"), "adam.lr must be like 0.001"),
    "rate_of_nothing": (optimizers("{adam: {'': 1.0}}"), "no setting ''"),
    "entry_number": (optimizers("3"), "optimizers, entry 1: write `name` or"),
    "entry_null": (optimizers("sgd, null"), "optimizers, entry 2: write `name` or"),
    "entry_twice": (optimizers("sgd, sgd"), "'sgd' is listed twice"),
    "entry_in_brackets": (optimizers("'[bold]sgd'"), "unknown optimizer '[bold]sgd'"),
    "entry_of_nothing": (optimizers("''"), "optimizers, entry 1, name: "),
    "no_list": (instead("schedules: cosine"), "write `schedules: [cosine]`"),
    "shares_in_epochs": (instead("schedules: [{step: {at: [5, 9]}}]"), "step.at must lie between"),
    "floor_below": (instead("schedules: [{cosine: {floor: -1}}]"), "cosine.floor must lie between"),
    "mixup_below": (instead("regularizers: [{mixup: {alpha: -1}}]"), "mixup.alpha must lie"),
    "blur_huge": (instead("degrade: [{blur: {width: 1.0e+9}}]"), "blur.width must lie between"),
    "angle_huge": (instead("augment: {rotate: 1.0e+9}"), "augment.rotate: must lie between"),
    "shift_inf": (instead("augment: {shift: .inf}"), "augment.shift: "),
    "primary_list": (instead("primary: [auc]"), "primary: must be a mapping of keys"),
    "primary_of_no_task": (instead("primary: {detection: auc}"), "unknown task 'detection'"),
    "data_of_nothing": (data("''"), "data, entry 1, store: "),
    "data_number": (data("3"), "data, entry 1: write the folder of a store"),
    "data_long": (data("s" * 5000), "data, entry 1, store: string should have at most 1000"),
    "data_longer_than_a_name": (data("s" * 300), "there is no store"),
    "data_nowhere": (data("'[red]nowhere'"), "there is no store '[red]nowhere'"),
    "data_of_no_file": (data("nowhere.py:data"), "there is no file nowhere.py"),
    "name_outside": (instead("name: ../../outside", "name: broken"), "name: "),
    "name_of_nothing": (instead("name: ''", "name: broken"), "name: "),
}
# A rate below zero needs a store to be found out: tests/bench/planning/test_rehearsal.py has it.


@pytest.fixture
def medopt(monkeypatch, capsys, tmp_path):
    """Run a command line in this process; return its exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDOPT_KEY", "test")
    monkeypatch.setattr(cli, "out", Console(width=4000, highlight=False))
    monkeypatch.setattr(cli, "err", Console(width=4000, highlight=False, stderr=True))

    def call(*words: object) -> tuple[int | str | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["medopt", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return call


def check(status: object, out: str, err: str, words: str) -> None:
    """See that a command ended with 2 and sentences, one of which has these words."""
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert words in err
    assert not re.search(r"Traceback|0x[0-9a-f]{6}|<class|pydantic", err)
    for line in err.removeprefix("error: ").splitlines():
        assert len(line.split()) >= 3
        assert len(line) < 1400


def test_there_are_many():
    assert len(TEXTS) + len(STUDIES) >= 75


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("name", [*TEXTS, *STUDIES])
def test_a_broken_study_is_exit_2_and_sentences(medopt, tmp_path, name, command):
    content, words = {**TEXTS, **STUDIES}[name]
    (tmp_path / f"{name}.yaml").write_bytes(content)
    check(*medopt(command, f"{name}.yaml"), words)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{name}.yaml"]


@pytest.mark.parametrize("name", TEXTS)
def test_a_run_with_a_broken_study_is_exit_2_and_a_sentence(medopt, tmp_path, name):
    content, words = TEXTS[name]
    run = tmp_path / "run"
    shutil.copytree(RECORDED, run)
    (run / "study.yaml").write_bytes(content)
    check(*medopt("report", run), "study.yaml" if "mapping" in words or name == "empty" else words)
    assert not (run / "report.html").exists()
