"""Studies by splits that others made, and tested outside: who trains, who tests, what is told."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import LeaveOneGroupOut

from bench.core.references import StudyError
from bench.execution.local import run_here
from bench.execution.trial_queue import opened
from bench.planning.plan import Plan, resolve, save
from bench.planning.preflight import fits
from bench.study.schema import parse_study
from loaders.cases import BadCase, Case, Item, Kind, Meta, Survey
from loaders.datasets.medmnist.kind import MEDMNIST
from loaders.datasets.tabular.images import IMAGES
from loaders.store.prepare import prepare
from loaders.store.pseudonyms import user_key
from loaders.store.read import Store, open_store
from loaders.store.write import write_store
from results.report.write import load_verdicts, write_report
from results.tables import store as results
from tests.conftest import small_meta

NAMES = [f"case_{number:03d}" for number in range(48)]


def planned(
    tmp_path: Path, folds: str, data: str = "[store]", run: str = "run", **more: str
) -> Plan:
    lines = {
        "name": "given",
        "data": data,
        "models": "[plain_cnn]",
        "optimizers": "[sgd, adam]",
        "losses": "[ce]",
        "folds": folds,
        "epochs": "2",
        "batch_size": "8",
        "patch": "[8, 8]",
        "threads": "1",
        "device": "cpu",
        "loader": "torch",
        **more,
    }
    text = "\n".join(f"{key}: {value}" for key, value in lines.items() if value)
    return resolve(parse_study(text, "study.yaml"), tmp_path, tmp_path / run)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Store]:
    """Return a maker of stores of 48 images of 8 x 8 in two classes; patients have one or more."""
    monkeypatch.setenv("MEDOPT_KEY", "a test")

    def make(
        name: str = "store",
        *,
        parts: Sequence[str] | None = None,
        sites: Sequence[int] | None = None,
        patients: Sequence[str] = NAMES,
        labels: Sequence[int] = (0, 1) * 24,
        seed: int = 0,
        key: bytes | None = None,
        meta: Mapping[str, object] = {},
        twice: Mapping[int, int] = {},
        broken: Sequence[int] = (),
    ) -> Store:
        """`twice` says which case shows the pixels of which other; `broken` are rejected."""

        def image(number: int) -> np.ndarray:
            rng = np.random.default_rng([seed, twice.get(number, number)])
            return rng.integers(0, 99, (1, 8, 8)).astype(np.uint8)

        def read(_item: Item, _meta: Meta) -> Iterator[Case | BadCase]:
            for number, case in enumerate(NAMES):
                if number in broken:
                    yield BadCase("it is broken", where=case, key=case)
                    continue
                yield Case(
                    key=case,
                    group=patients[number],
                    image=image(number) + 60 * np.uint8(labels[number]),
                    label=int(labels[number]),
                    mask=None,
                    spacing=(1.0, 1.0),
                    split=parts[number] if parts else None,
                    columns={"site": sites[number]} if sites else None,
                )

        about = replace(small_meta("classification", 2), channels=("a",), **meta)
        kind = Kind(name="small", summary="", source="", survey=pytest.fail, read=read, options={})
        item = Item(key="all", paths=(), extra={})
        write_store(
            kind,
            Survey(meta=about, items=(item,), rejected=()),
            tmp_path / name,
            key=user_key() if key is None else key,
            workers=1,
            strict=False,
        )
        return open_store(tmp_path / name)

    return make


def trained(plan: Plan) -> list[dict[str, object]]:
    save(plan)
    with opened(plan, shared_device=False) as queue:
        run_here(plan, queue, lambda _state: None)
    rows: list[dict[str, object]] = results.read(plan.folder, "trials").to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    return rows


def numbers_of(plan: Plan, rows: np.ndarray) -> list[int]:
    """Return which of NAMES some rows of the first data set's store are."""
    from loaders.store.pseudonyms import keyed_id

    number = {keyed_id(user_key(), "small", name): k for k, name in enumerate(NAMES)}
    return sorted(number[plan.sets[0].store.case_ids[row]] for row in rows)


# ---- official parts ------------------------------------------------------------------------


def test_official_parts_are_those_of_the_published_file(tmp_path: Path) -> None:
    """By the pixels themselves, as numpy reads them from the .npz."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 30), ("val", 8), ("test", 12)):
        arrays[f"{part}_images"] = rng.integers(0, 255, (count, 28, 28), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 2)[:, None].astype(np.uint8)
    np.savez(tmp_path / "breastmnist.npz", **arrays)
    prepare(MEDMNIST, tmp_path / "breastmnist.npz", tmp_path / "store", key=b"k", strict=True)
    plan = planned(tmp_path, "official", patch="")
    (data,) = plan.sets
    (split,) = data.splits
    for part, rows in (("train", split.train), ("val", split.inner), ("test", split.test)):
        mine = sorted(data.store.image(int(row))[0].tobytes() for row in rows)
        assert mine == sorted(image.tobytes() for image in arrays[f"{part}_images"])
    assert len(plan.trials) == 2
    assert len(data.notes) == 1
    assert "only one, predefined fold" in data.notes[0]


def test_breastmnists_official_parts_share_one_image(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "breastmnist" / "breastmnist.npz"
    with np.load(source) as file:
        parts = {part: file[f"{part}_images"] for part in ("train", "val", "test")}
    known = {image.tobytes() for part in ("train", "val") for image in parts[part]}
    shared = sum(image.tobytes() in known for image in parts["test"])
    prepare(MEDMNIST, source, tmp_path / "store", key=b"k", strict=True)
    (data,) = planned(tmp_path, "official", patch="").sets
    (split,) = data.splits
    assert [len(part) for part in (split.train, split.inner, split.test)] == [546, 78, 156]
    assert [len(parts[part]) for part in ("train", "val", "test")] == [546, 78, 156]
    assert shared == 1
    assert f"and {shared} has the same pixels as a case there" in data.notes[1]


def test_patients_and_copies_across_official_parts_are_counted_and_left(
    tmp_path: Path, made: Callable[..., Store]
) -> None:
    parts = ["train"] * 32 + ["val"] * 8 + ["test"] * 8
    patients = [*NAMES[:40], NAMES[0], NAMES[0], NAMES[33], *NAMES[43:]]
    made(parts=parts, patients=patients, twice={47: 1})
    plan = planned(tmp_path, "official")
    (split,) = plan.sets[0].splits
    assert numbers_of(plan, split.test) == list(range(40, 48))
    # Three of a patient in training or validation; the last is a copy of case 1, of its class too.
    assert "3 of 8 tested cases share a patient" in plan.sets[0].notes[1]
    assert "and 1 has the same pixels" in plan.sets[0].notes[1]


@pytest.mark.slow
def test_a_run_by_official_parts_says_so_wherever_it_is_read(
    tmp_path: Path, made: Callable[..., Store]
) -> None:
    made(parts=["train"] * 30 + ["val"] * 8 + ["test"] * 10, twice={47: 1})
    plan = planned(tmp_path, "official", seeds="[0, 1]")
    rows = trained(plan)
    assert len(rows) == 4
    counts = {(r["n_train_cases"], r["n_val_cases"], r["n_test_cases"]) for r in rows}
    assert counts == {(30, 8, 10)}
    page = write_report(plan.folder).page.read_text(encoding="utf-8")
    (found,) = load_verdicts(plan.folder)["datasets"]
    assert (found["folds"], found["expected"]) == (1, 2)
    # One fold cannot tell what another training set would change: the models alone are compared.
    assert [claim["of"] for claim in found["claims"]] == ["models"]
    assert all(note in found["warnings"] for note in plan.sets[0].notes)
    assert "official" in page
    assert "the same pixels as a case there" in page
    again = planned(tmp_path, "official", seeds="[0, 1]")
    assert [t.trial_id for t in again.trials] == [t.trial_id for t in plan.trials]
    assert set(results.finished(plan.folder)) == {t.trial_id for t in plan.trials}
    with pytest.raises(StudyError, match=r"made with 'official', .* now says 4"):
        planned(tmp_path, "4", seeds="[0, 1]")


def test_a_store_without_parts_is_told_with_the_choices(
    tmp_path: Path, made: Callable[..., Store]
) -> None:
    made(sites=[0, 1] * 24)
    with pytest.raises(
        StudyError, match=r"folds: official: .*does not say which part its.*\(here: site\)"
    ):
        planned(tmp_path, "official")


def test_an_empty_official_part_is_told(tmp_path: Path, made: Callable[..., Store]) -> None:
    made(parts=["train"] * 40 + ["val"] * 8)
    with pytest.raises(StudyError, match=r"official of data .*no cases of test \(train 40, val 8"):
        planned(tmp_path, "official")


def test_a_class_that_a_part_lacks_is_refused_in_training_and_told_in_a_test(
    tmp_path: Path, made: Callable[..., Store]
) -> None:
    labels = [0] * 30 + [0, 1] * 9
    made(parts=["train"] * 30 + ["val"] * 8 + ["test"] * 10, labels=labels)
    with pytest.raises(StudyError, match="'bright' has 0 cases in the training part and 9 in all"):
        planned(tmp_path, "official")
    made("other", parts=["test"] * 10 + ["val"] * 4 + ["train"] * 34, labels=labels)
    with pytest.raises(StudyError, match="auc has no value on any test part"):
        list(fits(planned(tmp_path, "official", "[other]")))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"repeats": "2"}, "repeats: predefined splits"),
        (
            {"data": "[{store: store, test: other}]"},
            "has a test store, so folds must be a number",
        ),
    ],
)
def test_what_goes_with_a_number_of_folds_alone_is_refused(tmp_path, more, said) -> None:
    with pytest.raises(StudyError, match=said):
        planned(tmp_path, "official", **more)


# ---- a column ------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_site_is_left_out_at_a_time(tmp_path: Path, made: Callable[..., Store]) -> None:
    sites = [(number // 2) % 3 for number in range(48)]
    made(sites=sites)
    plan = planned(tmp_path, "site")
    theirs = LeaveOneGroupOut().split(np.zeros(48), groups=sites)
    for split, (training, test) in zip(plan.sets[0].splits, theirs, strict=True):
        assert numbers_of(plan, split.test) == test.tolist()
        both = np.concatenate([split.train, split.inner])
        assert numbers_of(plan, both) == training.tolist()
    assert plan.sets[0].notes == ()
    rows = trained(plan)
    assert sorted({row["fold"] for row in rows}) == [0, 1, 2]
    write_report(plan.folder)
    (found,) = load_verdicts(plan.folder)["datasets"]
    assert (found["folds"], found["expected"]) == (3, 3)
    assert found["state"] != "none"


def test_a_column_that_cannot_split_is_told(tmp_path: Path, made: Callable[..., Store]) -> None:
    made(sites=[2] * 48)
    with pytest.raises(StudyError, match="only one value"):
        planned(tmp_path, "site")
    with pytest.raises(StudyError, match=r"unknown column 'sites'\. Did you mean 'site'\?"):
        planned(tmp_path, "sites")


def test_columns_of_a_table_are_kept_as_numbers_and_asked_for_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDOPT_KEY", "a test")
    lines = ["image,label,hospital,fold"]
    (tmp_path / "source").mkdir()
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "source" / f"{number}.png")
        place = ("Zug", "Aarau", "Basel")[number % 3]
        lines.append(f"{number}.png,{number // 3 % 2},{place},{(11, 9)[number % 2]}")
    (tmp_path / "source" / "table.csv").write_text("\n".join(lines))

    def store(name: str, **options: str) -> Store:
        prepare(
            IMAGES, tmp_path / "source", tmp_path / name, options=options, key=b"k", strict=True
        )
        return open_store(tmp_path / name)

    plain, kept = store("plain"), store("store", keep="hospital,fold")
    # By the alphabet Aarau, Basel, Zug; by size 9 and 11.
    place = {row: k for k, row in enumerate(plain.case_ids)}
    order = [place[case] for case in kept.case_ids]
    assert kept.columns == ("fold", "hospital")
    images = [kept.image(row)[0].tobytes() for row in range(24)]
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)
        row = images.index(pixels.tobytes())
        assert kept.column("hospital")[row] == (2, 0, 1)[number % 3]
        assert kept.column("fold")[row] == (1, 0)[number % 2]
    said = json.dumps(kept.table.to_pydict(), default=str) + (kept.path / "store.json").read_text()
    assert "hospital" in said
    assert not any(name in said for name in ("Zug", "Aarau", "Basel"))
    # A store without it is as ever, down to the hash of its content.
    assert plain.columns == ()
    assert "columns" not in plain.table.schema.names
    assert kept.content_hash == plain.content_hash
    assert order == list(range(24))
    assert len(planned(tmp_path, "hospital").sets[0].splits) == 3
    called = "[{store: plain, name: clinic}]"
    with pytest.raises(StudyError, match=r"column 'hospital'.*'clinic'.*--set keep=hospital"):
        planned(tmp_path, "hospital", called)
    with pytest.raises(StudyError, match=r"official: .*'clinic'.*--set split=COLUMN"):
        planned(tmp_path, "official", called)


def test_too_few_for_folds_is_told_by_the_studys_name(
    tmp_path: Path, made: Callable[..., Store]
) -> None:
    made(labels=[0] * 46 + [1] * 2)
    with pytest.raises(StudyError, match=r"^data 'hip': .*too few for 5 folds"):
        planned(tmp_path, "5", "[{store: store, name: hip}]")


# ---- nnU-Net's file ------------------------------------------------------------------------


def written(tmp_path: Path, folds: object) -> None:
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))


def test_folds_of_a_file_are_its_named_cases(tmp_path: Path, made: Callable[..., Store]) -> None:
    made(broken=[5])
    written(
        tmp_path,
        [
            {"train": NAMES[:32], "val": NAMES[32:40]},
            {"train": NAMES[8:40], "val": NAMES[:8]},
        ],
    )
    plan = planned(tmp_path, "splits_final.json")
    first, second = plan.sets[0].splits
    assert numbers_of(plan, first.test) == list(range(32, 40))
    learned = np.concatenate([first.train, first.inner])
    assert numbers_of(plan, learned) == [k for k in range(32) if k != 5]
    assert numbers_of(plan, second.test) == [0, 1, 2, 3, 4, 6, 7]
    (note,) = plan.sets[0].notes
    assert note.startswith("8 of 47 cases are in no part of these splits")
    save(plan)
    assert [t.trial_id for t in planned(tmp_path, "splits_final.json").trials] == [
        t.trial_id for t in plan.trials
    ]
    written(tmp_path, [{"train": NAMES[:32], "val": NAMES[32:40]}])
    with pytest.raises(StudyError, match="split differently than when this run was made"):
        planned(tmp_path, "splits_final.json")


def test_a_name_that_no_case_has_is_told_with_file_fold_and_part(
    tmp_path: Path, made: Callable[..., Store]
) -> None:
    made()
    written(tmp_path, [{"train": [*NAMES[:32], "case_900"], "val": NAMES[32:]}])
    with pytest.raises(
        StudyError, match=r"splits_final\.json: fold 0: train names 'case_900', .*'hip' \(1 of 33"
    ):
        planned(tmp_path, "splits_final.json", "[{store: store, name: hip}]")
    written(tmp_path, [{"train": NAMES[:32], "val": NAMES[30:]}])
    with pytest.raises(StudyError, match="fold 0: train and val share cases, 2 in all"):
        planned(tmp_path, "splits_final.json")


def test_names_cannot_be_told_with_another_key(tmp_path: Path, made: Callable[..., Store]) -> None:
    made(key=b"another")
    written(tmp_path, [{"train": NAMES[:32], "val": NAMES[32:]}])
    with pytest.raises(StudyError, match="another key than yours: set MEDOPT_KEY"):
        planned(tmp_path, "splits_final.json")


# ---- tested outside ------------------------------------------------------------------------

OUTSIDE = "[{store: store, test: outside}]"
OTHERS = [f"other {number}" for number in range(48)]


def test_a_store_outside_is_tested_on_and_nothing_else(
    tmp_path: Path, made: Callable[..., Store]
) -> None:
    own = made()
    outside = made("outside", seed=1, patients=OTHERS)
    plan = planned(tmp_path, "3", OUTSIDE)
    (data,) = plan.sets
    assert len(data.store) == 96
    inner = np.concatenate([split.inner for split in data.splits])
    assert np.sort(inner).tolist() == list(range(48))  # each case once
    for split in data.splits:
        assert np.sort(np.concatenate([split.train, split.inner])).tolist() == list(range(48))
        assert [data.store.case_ids[row] for row in split.test] == outside.case_ids
        for row in split.test:
            np.testing.assert_array_equal(data.store.image(int(row)), outside.image(int(row) - 48))
    assert data.store.content_hash not in (own.content_hash, outside.content_hash)
    rows = trained(plan)
    assert {row["n_test_cases"] for row in rows} == {48}
    cases = results.read(plan.folder, "cases").to_pylist()
    assert {row["case_id"] for row in cases} == set(outside.case_ids)
    write_report(plan.folder)
    (found,) = load_verdicts(plan.folder)["datasets"]
    assert any("tested on the same 48 cases" in warning for warning in found["warnings"])


def test_what_only_the_store_outside_holds_changes_no_training(
    tmp_path: Path, made: Callable[..., Store]
) -> None:
    """Losses of every epoch, and the weights that are chosen, are as with any other test store."""
    made()
    made("outside", seed=1, patients=OTHERS)
    made("planted", seed=2, patients=OTHERS, labels=[1, 0] * 24)
    epochs = []
    for name in ("outside", "planted"):
        data = OUTSIDE.replace("outside", name)
        plan = planned(tmp_path, "3", data, name, optimizers="[adam]", patch="")
        trained(plan)
        found = results.read(plan.folder, "epochs").to_pylist()
        order = {trial.trial_id: trial.fold for trial in plan.trials}
        found.sort(key=lambda row: (order[row["trial_id"]], row["epoch"]))
        epochs.append([(row["train_loss"], row["val_loss"], row["val_score"]) for row in found])
    assert epochs[0] == epochs[1]
    assert len(epochs[0]) == 6


@pytest.mark.parametrize(
    ("outside", "said"),
    [
        ({"seed": 0, "patients": OTHERS}, "48 of 48 cases of test 'outside' have the pixels"),
        ({"seed": 0, "key": b"another"}, "48 of 48 cases of test 'outside' have the pixels"),
        ({"seed": 1, "patients": [NAMES[0], *OTHERS[1:]]}, "1 of 48 cases .* `patients: others`"),
        ({"seed": 1, "meta": {"classes": ("bright", "dark")}}, "its classes is .'bright', 'dark'."),
        ({"seed": 1, "meta": {"fill": -1024.0}}, r"its fill is -1024\.0, that of the first 0\.0"),
    ],
)
def test_a_store_outside_that_cannot_tell_is_refused(tmp_path, made, outside, said) -> None:
    made()
    made("outside", **outside)
    with pytest.raises(StudyError, match=said):
        planned(tmp_path, "3", OUTSIDE)


def test_people_that_ids_cannot_tell_apart_are_told(tmp_path, made) -> None:
    made()
    made("outside", seed=1)  # patients of the same names
    others = "[{store: store, test: outside, patients: others}]"
    (data,) = planned(tmp_path, "3", others).sets
    assert len(data.notes) == 1
    made("elsewhere", seed=1, key=b"another")
    (data,) = planned(tmp_path, "3", "[{store: store, test: elsewhere}]").sets
    assert "the ids of the two were made with other keys" in data.notes[1]
