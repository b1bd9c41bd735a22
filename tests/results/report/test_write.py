"""The page of a run: one file, safe, legible to all, whole whatever the run lacks."""

import base64
import errno
import io
import json
import re
import subprocess
import sys
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image
from rich.console import Console

from bench.losses.table import LOSSES
from bench.optimizers.table import OPTIMIZERS
from results import text as words
from results.report import looks, plots, protocol
from results.report.data import about, unknown_answers
from results.report.page import _metrics
from results.report.write import leaderboard, load_verdicts, write_report
from results.tables.store import RunError, read
from tests.results.conftest import DATA, MadeUp, write

CLASSES = (("lung-nodules", "classification"),)
VOLUMES = (("brain-tumours", "segmentation"),)
SMALL = {"optimizers": ("adamw", "sgd"), "losses": ("ce", "focal"), "folds": 3}
EVIL = "<script>alert('x')</script> $x_1$ {{ 7*7 }} [bold red] &amp; \"q\" " + 30 * "verylong"
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """What a browser would find: tags in balance, attributes, text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.unbalanced += self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += f" {data}"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def page(run: Path) -> Page:
    return Page(write_report(run).page)


@pytest.fixture(scope="module")
def small_page(tmp_path_factory):
    """Return a function of data sets -> the page of a small run of them, made once."""

    @lru_cache
    def made(datasets):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("results.tables.store.os.fsync", lambda _: None)
            run = tmp_path_factory.mktemp("small") / "run"
            return page(write(run, MadeUp(datasets=datasets, **SMALL)))

    return made


def assert_sound(found: Page) -> None:
    """One file that asks nothing of a network, runs nothing, and says what its pictures show."""
    assert found.unbalanced == []
    assert found.all("script") == []
    for _, attributes in found.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith(("#", "data:image/png;base64,"))
            if name == "style":
                assert "url(" not in (value or "").replace("url(#", "")
    (style,) = re.findall(r"<style>(.*?)</style>", found.source, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [a["href"] for a in found.all("a")] + [a["xlink:href"] for a in found.all("use")]
    assert {target[1:] for target in targets if target} <= set(ids)
    assert all(image["alt"] for image in found.all("img"))
    for svg in found.all("svg"):
        assert svg["role"] == "img"
        assert svg["aria-label"]


def drawings(found: Page) -> list[dict[str, str | None]]:
    """Return the figures of a page, without the signs of their legends."""
    return [svg for svg in found.all("svg") if "class" not in svg]


def test_the_page_of_a_whole_run(make_run):
    run = make_run(
        lead=0.02,
        broken={
            ("lung-nodules", "lbfgs", "focal", 2): "diverged",
            ("brain-tumours", "sgd", "dice_ce", 1): "failed",
        },
        skips={("brain-tumours", "resnet18", "adamw", "focal"): "focal is not for volumes"},
        columns={"group_source": "case"},
    )
    found = page(run)
    assert_sound(found)
    content = load_verdicts(run)
    assert json.loads((run / "verdict.json").read_text(encoding="utf-8")) == content
    for dataset in content["datasets"]:
        assert " ".join(dataset["reason"].split()) in found.words
        assert dataset["recommended"] in found.words
        scores = [row["test_score"] for row in dataset["combinations"]]
        assert all(words.score(score) in found.words for score in scores if score is not None)
    for said in (
        "The source does not name patients",
        "diverged in 1 of 5 folds",
        "the training loss is not finite at epoch 3",
        "RuntimeError: CUDA out of memory",
        "focal is not for volumes",
        "NVIDIA H100 80GB HBM3: 85 trials",
        "0123456789abcdef",
        "How to cite",
        "No claim across data sets",
    ):
        assert said in found.words
    assert len(drawings(found)) == 6
    assert len(found.all("img")) == 12
    first_verdict = found.words.index(" ".join(content["datasets"][0]["reason"].split()))
    assert first_verdict < found.words.index("Ranking")
    assert str(run) not in (run / "report.html").read_text(encoding="utf-8")


def test_published_numbers_stand_beside_ours_and_are_marked_as_other_data(small_page):
    found = small_page(CLASSES + VOLUMES).words
    assert re.search(r"accuracy 0\.\d{3} 0\.896 0\.952", found)
    assert re.search(r"sensitivity 0\.\d{3} 0\.857 0\.935", found)
    assert re.search(r"specificity 0\.\d{3} 0\.910 0\.968", found)
    assert re.search(r"Dice \(skip empty\) 0\.\d{3} 0\.768 0\.885", found)
    assert "The published numbers come from another selection of these data" in found


def test_published_numbers_stand_beside_the_same_data_alone(make_run):
    other = {task: {**content, "kind": "images"} for task, content in DATA.items()}
    assert "Beside a published study" not in page(make_run(**SMALL, data=other)).words
    assert "Beside a published study" not in page(make_run("older", **SMALL, data={})).words


def test_the_page_says_what_the_data_are(make_run, small_page):
    found = small_page(CLASSES + VOLUMES).words
    for said in (
        "cases 500, each a lesion patients 470",
        "cases per fold training 320, inner validation 80, test 100",
        "size, z × y × x 16 × 32 × 32",
        "spacing, z × y × x 2 × 1 × 1 mm",
        "benign 350 70 %",
        "malignant 150 30 %",
        "size, z × y × x 140 to 155 × 240 × 240 (median 155 × 240 × 240)",
        "spacing, z × y × x unknown",
        "TC necrosis, enhancing 480",
        "source LIDC-IDRI, doi:10.7937/K9/TCIA.2015.LO9QL9SX",
    ):
        assert said in found
    older = page(make_run("older", **SMALL, data={}, columns={"group_source": "case"})).words
    assert "cases 500 patients unknown: the source does not name them" in older


def test_a_finding_has_its_share_of_those_that_it_is_known_of():
    """Of 10 cases 4 have it and 2 nobody knows of: half; untold how many, 40 % of all."""
    data = DATA["classification"] | {"cases": 10, "classes": [{"name": "Edema", "number": 4}]}
    told = about(data, (), "multilabel", {"Edema": 2})["table"]
    assert told["head"] == ("finding", "cases that have it", "not known", "share of those known")
    assert told["lines"] == [("Edema", 4, 2, "4 of 8: 50 %")]
    known = data | {"classes": [{"name": "Edema", "number": 4, "unknown": 2}]}
    assert about(known, (), "multilabel")["table"] == told
    of_88 = about({**data, "cases": 100, "classes": [{"name": "Edema", "number": 41}]}, (),
                  "multilabel", {"Edema": 12})  # fmt: skip
    assert of_88["table"]["lines"] == [("Edema", 41, 12, "41 of 88: 46.6 %")]
    untold = about(data, (), "multilabel")["table"]
    assert untold["head"][-1] == "share of all cases, known or not"
    assert untold["lines"] == [("Edema", 4, "40 %")]


def test_a_finding_is_not_known_where_no_tested_case_has_an_answer():
    """Two folds of a combination test all three cases, one of them of two trials."""
    answers = {("t0", "a"): 1, ("t0", "b"): None, ("t1", "b"): None, ("t1", "c"): 0}
    rows = [
        {"trial_id": t, "case_id": c, "region": "Edema", "label": label}
        for (t, c), label in answers.items()
    ]
    run = SimpleNamespace(footer={"data": {"d": {"cases": 3}}}, rows=lambda *_: rows)
    scored = SimpleNamespace(scored=[{"trial_id": "t0"}, {"trial_id": "t1"}])
    contest = SimpleNamespace(dataset="d", task="multilabel", combinations=[scored])
    assert unknown_answers(run, contest) == {"Edema": 1}
    run.footer["data"]["d"]["cases"] = 4
    assert unknown_answers(run, contest) is None


def test_a_number_has_no_table_of_classes():
    data = DATA["classification"] | {
        "classes": [{"name": "EF", "number": 80}],
        "numbers": [[20.2, 44.8, 65.0]],
    }
    found = about(data, (), "regression")
    assert ("EF", "20.2 to 65, median 44.8") in found["lines"]
    assert found["table"]["lines"] == []


def test_the_page_has_every_setting(make_run):
    hparams = json.dumps({"lr": 0.02, "betas": [0.9, 0.999], "nesterov": True})
    study = {"resolved": {"losses": {"ce": {"label_smoothing": 0.0}, "focal": {"gamma": 2.0}}}}
    found = page(make_run(datasets=CLASSES, **SMALL, columns={"hparams": hparams}, study=study))
    assert "No optimizer was tuned" in found.words
    assert "adamw 0.02 betas=(0.9, 0.999), nesterov=yes sgd 0.02 betas" in found.words
    assert "focal gamma=2" in found.words
    assert "resolved" not in found.words
    assert "rate" in [word for th in found.words.split("samples/s") for word in th.split()[-4:]]


def test_a_race_is_explained_among_the_settings():
    (line,) = protocol.settings({"race": None}, ())
    assert line["name"].startswith("Level at which a race drops")


def test_settings_that_another_axis_sets_have_a_line_of_their_own(make_run):
    run = make_run(datasets=CLASSES, **SMALL)
    rows = read(run, "trials").to_pylist()
    decayed = [r | {"trial_id": f"w{r['trial_id']}", "regularizer": "weight_decay"} for r in rows]
    for row in decayed:
        row["hparams"] = json.dumps({"lr": 1e-3, "weight_decay": 5e-4})
    lines = protocol.optimizers(decayed + rows, {"optimizers": ["sgd", "adamw"]})
    assert [(o["name"], o["under"], o["others"]) for o in lines] == [
        ("sgd", "with weight_decay", "weight_decay=0.0005"),
        ("sgd", "with none", "–"),
        ("adamw", "with weight_decay", "weight_decay=0.0005"),
        ("adamw", "with none", "–"),
    ]


def test_every_interval_says_its_level(make_run):
    found = page(make_run(datasets=CLASSES, study={"alpha": 0.1})).words
    assert found.count("90 % interval") >= 4  # the score, two choices, the comparison
    assert "95 %" not in found


def test_an_end_that_the_method_sets_at_zero_is_said_in_words(make_run):
    run = make_run(datasets=CLASSES, spread=0.05)
    content = load_verdicts(run)["datasets"][0]
    behind = [row for row in content["combinations"] if not row["in_tied_group"]]
    assert behind
    assert all(row["advantage"]["high"] == 0 for row in behind)
    printed, shown = printed_leaderboard(run, 140), page(run).words
    for row in behind:
        advantage = row["advantage"]
        said = f"{words.signed(advantage['estimate'])} (at most {-advantage['low']:.3f} behind)"
        assert said in shown
        assert said in printed
    assert "to 0.000)" not in shown + printed


def test_an_axis_that_is_decided_comes_before_combinations_that_are_not(make_run):
    run = make_run(datasets=CLASSES, spread=0.0, effect={"focal": -0.2, "dice_ce": -0.1})
    content = load_verdicts(run)["datasets"][0]
    assert content["state"] == "undecided"
    assert len(content["tied_group"]) == 3  # ce with each optimizer
    said = "On average over these optimizers, ce scores better than each of the other 2 (level 5 %)"
    for shown in (printed_leaderboard(run, 2000), page(run).words):
        assert 0 < shown.index(said) < shown.index("If trained anew on as many")


def test_a_single_winner_is_ahead_by_at_most_its_interval(make_run):
    run = make_run(datasets=CLASSES, lead=0.08)
    top = load_verdicts(run)["datasets"][0]["combinations"][0]
    assert top["advantage"]["low"] == 0
    assert f"(at most {top['advantage']['high']:.3f} ahead)" in page(run).words
    assert f"(at most {top['advantage']['high']:.3f} ahead)" in printed_leaderboard(run, 140)


def test_what_departs_from_the_usual_protocol_is_marked(make_run):
    found = page(make_run(datasets=CLASSES, **SMALL, study={"patience": 10, "stop_on": "loss"}))
    assert "Folds, grouped and stratified 3 default: 5" in found.words
    assert "Early stopping by loss default: score" in found.words
    assert "Patience, in looks at inner validation without a better score 10 Early" in found.words


@pytest.mark.parametrize("datasets", [CLASSES, VOLUMES])
def test_one_task_alone(small_page, datasets):
    found = small_page(datasets)
    assert_sound(found)
    assert "Across data sets" not in found.words
    caption = "predicted benign (0.80)" if datasets is CLASSES else "Dice of this slice: WT 0."
    assert caption in found.words


def test_a_partial_run_shows_what_there_is(make_run):
    missing = {("lung-nodules", o, f, 2) for o in ("adamw", "sgd") for f in ("ce", "focal")}
    found = page(make_run(datasets=CLASSES, **SMALL, missing=missing))
    assert_sound(found)
    assert "No verdict is possible" in found.words
    assert "1 of 3 trials are not finished" in found.words
    assert len(drawings(found)) == 3


def test_a_run_without_a_finished_trial(make_run):
    everything = {
        ("lung-nodules", o, f, k)
        for o in ("adamw", "sgd")
        for f in ("ce", "focal")
        for k in range(3)
    }
    found = page(make_run(datasets=CLASSES, **SMALL, missing=everything))
    assert_sound(found)
    assert "No trial has finished yet." in found.words


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_a_run_in_which_everything_broke(make_run, status):
    broken = {
        ("lung-nodules", o, f, k): status
        for o in ("adamw", "sgd")
        for f in ("ce", "focal")
        for k in range(3)
    }
    found = page(make_run(datasets=CLASSES, **SMALL, broken=broken))
    assert_sound(found)
    assert "No verdict is possible" in found.words


def test_a_model_for_another_task_is_one_line_and_no_map(make_run):
    skips = {("lung-nodules", "unet", o, f): "unet is for volumes" for o in "ab" for f in "xy"}
    options = {"models": ("unet", "cnn"), "optimizers": "ab", "losses": "xy", "folds": 2}
    found = page(make_run(datasets=CLASSES, skips=skips, **options))
    assert_sound(found)
    assert [a["aria-label"] for a in found.all("table") if a.get("class") == "heat"] == [
        "Mean test AUC by optimizer and loss, cnn"
    ]
    assert found.words.count("unet is for volumes") == 1
    assert "unet + a + x, unet + a + y, unet + b + x, unet + b + y" in found.words


@pytest.mark.parametrize(
    ("state", "options", "says"),
    [
        ("undecided", {"spread": 0, "noise": 0.04}, "recommended as a choice, not a finding"),
        (
            "tie",
            {"spread": 0, "noise": 0.001},
            "recommended from a group in which the choice does not matter",
        ),
    ],
)
def test_the_headline_claims_no_speed(make_run, state, options, says):
    run = make_run(datasets=CLASSES, **options)
    assert load_verdicts(run)["datasets"][0]["state"] == state
    assert says in page(run).words


def test_a_mean_over_fewer_folds_than_were_run_says_so():
    scored = [{"trial_id": f"t{fold}", "repeat": 0, "fold": fold} for fold in range(3)]
    of = dict.fromkeys(("region", "convention", "stratum", "degradation", "unit"))
    metrics = [
        {"trial_id": f"t{fold}", "split": "test", "metric": metric, "value": value, **of}
        for metric, values in {"auc": (0.5, 0.6, 0.7), "ece": (0.1, None, None)}.items()
        for fold, value in enumerate(values)
    ]
    run = SimpleNamespace(rows=lambda table, trials: metrics)
    combination = SimpleNamespace(scored=scored)
    found = {line["metric"]: line for line in _metrics(run, combination)}
    assert {name: line["fewer"] for name, line in found.items()} == {"auc": "", "ece": "1 fold"}
    assert (found["auc"]["mean"], found["ece"]["mean"]) == (pytest.approx(0.6), 0.1)


def test_one_fold_and_one_combination(make_run):
    found = page(
        make_run(datasets=VOLUMES, folds=1, optimizers=("adam",), losses=("ce",), with_study=False)
    )
    assert_sound(found)
    assert "its settings are not known" in found.words


def test_many_combinations(make_run):
    options = {"models": ("a", "b"), "optimizers": [f"o{i}" for i in range(9)], "folds": 2}
    run = make_run(datasets=CLASSES, losses=("x", "y"), examples=False, **options)
    found = page(run)
    assert_sound(found)
    assert "the best 6 of 36" in found.words
    assert len([a for a in found.all("table") if a.get("class") == "heat"]) == 2
    printed = printed_leaderboard(run, 140)
    assert "and 24 more in report.html" in printed


def test_names_and_texts_are_never_markup(make_run):
    run = make_run(
        name="x",
        datasets=((EVIL, "classification"), (EVIL + "2", "segmentation")),
        models=(EVIL,),
        optimizers=(EVIL, "adam"),
        losses=("ce", EVIL),
        folds=2,
        study={"name": EVIL, "note": EVIL, EVIL: EVIL},
        broken={(EVIL, "adam", "ce", 0): "failed"},
        columns={"device_name": EVIL, "reason": EVIL},
    )
    found = page(run)
    assert_sound(found)
    assert " ".join(EVIL.split()) in found.words
    assert "[bold red]" in printed_leaderboard(run, 2000)


def printed_leaderboard(run: Path, width: int) -> str:
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(leaderboard(load_verdicts(run)))
    return capture.get()


def test_the_terminal_says_how_sure_it_is(make_run):
    run = make_run(
        datasets=CLASSES,
        broken={("lung-nodules", "sgd", "ce", 0): "failed"},
        skips={("lung-nodules", "resnet18", "lbfgs", "ce"): "too large"},
        columns={"group_source": "case"},
    )
    printed = " ".join(printed_leaderboard(run, 140).split())
    content = load_verdicts(run)["datasets"][0]
    reason = " ".join(content["reason"].split())
    assert f"{words.STATES[content['state']]}: {reason}" in printed
    top = content["combinations"][0]
    name = top["name"].removeprefix("resnet18 + ")
    assert "★ recommended; ● may be the best" in printed
    assert printed.count("★") == 2 * len(load_verdicts(run)["datasets"])
    assert f"★ {content['recommended'].removeprefix('resnet18 + ')} " in printed
    assert f"● {name} {words.score(top['test_score'])}" in printed
    assert "all with resnet18" in printed
    assert "No optimizer was tuned" in printed
    assert "95 % interval" in printed
    assert words.signed(top["advantage"]["low"]) in printed
    assert "not judged: resnet18 + sgd + ce (1 of 5 trials failed)" in printed
    assert "skipped: resnet18 + lbfgs + ce (too large)" in printed
    assert "warning: The source does not name patients" in printed
    assert "Chosen by inner validation alone:" in printed


def test_examples_that_cannot_be_read_are_said_so(make_run):
    run = make_run(datasets=VOLUMES, **SMALL)
    for path in (run / "examples").iterdir():
        path.write_bytes(b"not an archive")
    found = page(run)
    assert_sound(found)
    assert "The examples of this trial cannot be shown" in found.words


def test_examples_are_never_unpickled(make_run, tmp_path):
    run = make_run(datasets=VOLUMES, **SMALL)
    for path in (run / "examples").iterdir():
        np.savez(path, image=np.array([{"a": 1}], dtype=object), prediction=np.zeros(1))
    assert "cannot be shown" in page(run).words


@pytest.mark.parametrize(
    ("text", "says"),
    [("a: [", "study.yaml: not valid YAML"), ("- 1", "must be a mapping")],
)
def test_a_damaged_study_is_named(make_run, text, says):
    run = make_run(datasets=CLASSES, **SMALL)
    (run / "study.yaml").write_text(text)
    with pytest.raises(RunError, match=says):
        write_report(run)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """Return a run of which a test may overwrite the study: nothing else of it is changed."""
    made = MadeUp(datasets=CLASSES, examples=False, **SMALL)
    return write(tmp_path_factory.mktemp("edited") / "run", made)


@pytest.mark.parametrize(
    "text",
    [
        *(f"{key}: {value}" for key in ("data", "losses", "degrade") for value in ("3", "", "[3]")),
        *("losses: [{params: {}}]", "losses: [{name: ce, params: 3}]", "losses: {ce: 3}"),
        *("folds: many", "folds: -1", "folds: 1.0e+300", "repeats: []", "seeds: 3", "name: [a]"),
        *("primary: auc", "alpha: 2", "alpha: x", "margin: .nan", "margin: -1"),
    ],
)
def test_a_study_that_was_edited_into_none_is_named(small_run, text):
    run = small_run
    (run / "study.yaml").write_text(text)
    with pytest.raises(RunError, match=rf"^study\.yaml: {text.partition(':')[0]} must be "):
        load_verdicts(run)


def test_a_deviation_that_was_edited_into_none_is_named(make_run):
    data = [{"name": CLASSES[0][0], "deviation": "wide"}]
    with pytest.raises(RunError, match=r"^study\.yaml: deviation must be a number"):
        load_verdicts(make_run(datasets=CLASSES, **SMALL, study={"data": data}))


def given_folds(number: object) -> dict[str, object]:
    """Return what of a study says that it was split by others, into so many folds."""
    return {"folds": "site", "data": [{"store": "s", "name": CLASSES[0][0], "n_folds": number}]}


def test_splits_that_others_made_have_as_many_folds_as_the_data_set_says(make_run):
    """Of 4 sites 3 are finished: nothing is judged, as with four folds that were dealt."""
    found = [
        load_verdicts(
            make_run(name, datasets=CLASSES, **{**SMALL, "folds": 3}, study=study, data={})
        )["datasets"][0]
        for name, study in (("given", given_folds(4)), ("dealt", {"folds": 4}))
    ]
    assert [f["expected"] for f in found] == [4, 4]
    assert [f["state"] for f in found] == ["none", "none"]
    assert found[0]["combinations"] == found[1]["combinations"]
    whole = make_run("whole", datasets=CLASSES, **{**SMALL, "folds": 4}, study=given_folds(4))
    assert load_verdicts(whole)["datasets"][0]["state"] != "none"
    assert "Given splits: official parts" in write_report(whole).page.read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [None, 0, "4", True])
def test_splits_without_their_number_are_named(make_run, number):
    run = make_run(datasets=CLASSES, **SMALL, study=given_folds(number))
    with pytest.raises(RunError, match=r"^study\.yaml: folds must be .*'site'.* has no n_folds"):
        load_verdicts(run)


def test_what_splits_leave_in_doubt_and_what_was_tested_on_stand_in_the_report(make_run):
    task = CLASSES[0][1]
    described = {
        **DATA[task],
        "notes": ["12 of 90 tested cases share a patient."],
        "tested_on": {**DATA[task], "cases": 77, "groups": 71, "source": "elsewhere"},
    }
    run = make_run(datasets=CLASSES, **SMALL, data={task: described})
    page = write_report(run).page.read_text(encoding="utf-8")
    assert "12 of 90 tested cases share a patient." in load_verdicts(run)["datasets"][0]["warnings"]
    assert "12 of 90 tested cases share a patient." in page
    assert "77 cases, 71 patients, elsewhere" in page


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        write_report(tmp_path)


def test_the_same_run_gives_the_same_page(make_run):
    run = make_run(datasets=CLASSES, **SMALL)
    first = write_report(run).page.read_bytes()
    assert write_report(run).page.read_bytes() == first
    assert not [p for p in run.iterdir() if p.name.endswith(".new")]


def test_a_full_disk_leaves_the_page_there_was(make_run, monkeypatch):
    run = make_run(datasets=CLASSES, **SMALL)
    before = write_report(run).page.read_bytes()
    real = Path.write_bytes

    def full(path, content):
        if "report.html" in path.name:
            real(path, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(run)
    assert (run / "report.html").read_bytes() == before
    assert not [p for p in run.iterdir() if p.name.endswith(".new")]


def test_a_report_needs_neither_pandas_nor_a_window_system():
    code = (
        "import sys, results.report.write\n"
        "print(*{'pandas', 'matplotlib.pyplot', 'tkinter'} & set(sys.modules))"
    )
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert loaded.split() == []


# ---- drawings --------------------------------------------------------------------------------


def decoded(uri: str) -> np.ndarray:
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    pixels = image.imread(io.BytesIO(base64.b64decode(content)), format="png")
    return (pixels[:, :, :3] * 255).round().astype(np.uint8)


def test_outlines_run_along_the_borders_of_the_masks():
    grey = np.zeros((32, 32), np.float32)
    reference = np.zeros((32, 32), np.uint8)
    reference[8:16, 8:16] = 1
    prediction = np.zeros((32, 32), np.uint8)
    prediction[20:30, 20:30] = 2
    pixels = decoded(plots.picture(grey, reference, prediction))
    times = pixels.shape[0] // 32
    for mask, colour in ((reference, plots.REFERENCE), (prediction, plots.PREDICTION)):
        drawn = (pixels == colour).all(axis=2)
        assert drawn.any()
        large = mask.repeat(times, axis=0).repeat(times, axis=1) > 0
        assert not (drawn & ~large).any()  # the outline is the mask's own rim
        rows, columns = np.nonzero(large)
        assert drawn[rows.min(), columns.min()]
        assert drawn[rows.max(), columns.max()]
        assert not drawn[(rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2]


def test_a_picture_in_colour_is_shown_in_its_colours():
    colours = np.zeros((16, 24, 3), np.uint8)
    colours[:8] = (200, 30, 60)
    colours[8:, :12] = (10, 180, 40)
    pixels = decoded(plots.picture(colours))
    times = pixels.shape[1] // 24
    assert (pixels == np.kron(colours, np.ones((times, times, 1), np.uint8))).all()


def test_dice_of_a_slice_is_said_by_region_and_never_of_all_together(make_run):
    """Classes that are mistaken for each other: together they overlap whole, apart not at all."""
    run = make_run(datasets=VOLUMES, **SMALL)
    reference = np.zeros((3, 20, 20), np.uint8)
    reference[:, :10], reference[0, 10:] = 1, 3
    prediction = np.where(reference == 1, 3, np.where(reference == 3, 1, 0)).astype(np.uint8)
    prediction[2] = reference[2] = 0
    for path in (run / "examples").iterdir():
        arrays = dict(np.load(path))
        arrays |= {"reference": reference, "prediction": prediction}
        np.savez(
            path, image=np.zeros((3, 20, 20)), **{k: arrays[k] for k in arrays if k != "image"}
        )
    found = page(run).words
    assert "Case 1. Dice of this slice: WT 1.00, TC 1.00, ET 0.00" in found
    assert "Case 2. Dice of this slice: WT 1.00, TC 1.00, ET 0.00" in found
    assert "Case 3. both empty in this slice" in found
    (run / "verdict.json").unlink()
    older = page(with_examples_of(run, make_run("older", datasets=VOLUMES, **SMALL, data={}))).words
    assert "Case 1. Dice of this slice: class 1 0.00, class 3 0.00" in older


def with_examples_of(run: Path, other: Path) -> Path:
    for path in (run / "examples").iterdir():
        (other / "examples" / path.name).write_bytes(path.read_bytes())
    return other


def test_a_wrong_call_is_marked_in_words_and_by_a_frame(small_page):
    found = small_page(CLASSES)
    # label, probabilities: 0 (.8 .2), 1 (.35 .65), 0 (.45 .55), of two combinations
    wrong = [a for a in found.all("figure") if a.get("class") == "wrong"]
    assert len(wrong) == 2
    assert found.words.count("wrong benign, predicted malignant (0.55)") == 2
    assert "wrong benign, predicted benign" not in found.words
    assert sum("wrongly predicted" in (a["alt"] or "") for a in found.all("img")) == 2


def test_a_picture_of_one_value_or_none_is_drawn():
    assert decoded(plots.picture(np.full((8, 20), 3.0))).shape[:2] == (112, 280)
    assert decoded(plots.picture(np.full((8, 8), np.nan))).max() == 0


@given(
    points=st.lists(st.tuples(st.floats(0.1, 1e4), st.floats(0, 1)), min_size=1, max_size=12),
    higher=st.booleans(),
)
def test_nothing_beats_the_front_in_both(points, higher):
    seconds, scores = [p[0] for p in points], [p[1] for p in points]
    front = plots.pareto(seconds, scores, higher=higher)
    sign = 1 if higher else -1

    def beats(i: int, j: int) -> bool:
        no_worse = seconds[i] <= seconds[j] and sign * scores[i] >= sign * scores[j]
        return no_worse and (seconds[i], scores[i]) != (seconds[j], scores[j])

    for j in range(len(points)):
        beaten = any(beats(i, j) for i in range(len(points)))
        twin = any((seconds[i], scores[i]) == (seconds[j], scores[j]) for i in front)
        assert twin != beaten
    assert [seconds[i] for i in front] == sorted(seconds[i] for i in front)


def contrast(background: str, ink: str) -> float:
    """WCAG 2.2: (lighter + 0.05) / (darker + 0.05) in relative luminance."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(background), luminance(ink)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("share", [-1, 0, 0.25, 0.5, 0.75, 1, 2])
def test_heat_map_cells_can_be_read(share):
    assert contrast(plots.shade(share), looks.INK) > 4.5


def themes(found: Page) -> list[dict[str, str]]:
    """Return the colours of the page by name: those of a light page, and those of a dark one."""
    blocks = re.findall(r":root \{(.*?)\}", found.source, re.DOTALL)
    return [dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", block)) for block in blocks]


def test_a_dark_page_is_as_legible_as_a_light_one(small_page):
    found = small_page(CLASSES)
    light, dark = themes(found)
    assert light.keys() == dark.keys()
    assert "@media (prefers-color-scheme: dark)" in found.source
    assert {m["content"] for m in found.all("meta") if m.get("name") == "color-scheme"} == {
        "light dark"
    }
    for theme in (light, dark):
        page_ = theme["page"]
        # WCAG 2.2: 4.5 for text, 3 for what is drawn
        for name in ("ink", "muted", "accent", "wrong", "undecided"):
            assert contrast(page_, theme[name]) > 4.5, name
        for name in ("better", "tie", "undecided", "none"):
            assert contrast(theme[name], theme["on-badge"]) > 4.5, name
        assert contrast(theme["warned"], theme["ink"]) > 4.5
        for i in range(len(looks.COLOURS)):
            assert contrast(page_, theme[f"c{i}"]) > 2.9, i
    assert [light[f"c{i}"] for i in range(8)] == list(looks.COLOURS)


def test_no_figure_has_a_colour_that_a_theme_does_not_know(make_run):
    found = page(make_run(datasets=CLASSES))
    drawn = re.findall(r"<svg.*?</svg>", found.source, re.DOTALL)
    assert drawn
    assert all(not re.search(r"(fill|stroke): #", svg) for svg in drawn)


def test_as_many_optimizers_and_losses_as_the_catalogue_has_look_different():
    assert len(set(looks.looks([f"o{i}" for i in range(48)]).values())) == 48
    assert len(set(looks.shapes([f"l{i}" for i in range(28)]).values())) == 28
    assert len(set(OPTIMIZERS)) <= 48
    # A figure is of one data set, and so of the losses of one task.
    for task in {task for row in LOSSES.values() for task in row.tasks}:
        assert sum(task in row.tasks for row in LOSSES.values()) <= 28
    signs = [looks.sign(shape, looks.Look(looks.INK, "full")) for shape in looks.SHAPES]
    signs += [looks.sign("o", look) for look in looks.looks([f"o{i}" for i in range(48)]).values()]
    # the full circle in ink is no optimizer's, so all are different drawings
    assert len(set(signs)) == len(signs)


def test_what_has_no_look_of_its_own_is_named_beside_the_one_it_shares():
    found = looks.looks([f"o{i}" for i in range(50)])
    names = [entry["name"] for entry in looks.legend(found, dict.fromkeys(found.values(), ""))]
    assert names[-1] == "o47, o48, o49"
    assert len(names) == 48


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return a run of 24 optimizers and 7 losses: 168 combinations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("results.tables.store.os.fsync", lambda _: None)
        made = MadeUp(
            datasets=CLASSES,
            optimizers=[f"optimizer_{i}" for i in range(24)],
            losses=[f"loss_{i}" for i in range(7)],
            folds=2,
        )
        return page(write(tmp_path_factory.mktemp("large") / "run", made))


def test_a_figure_of_168_combinations_repeats_no_look(large):
    assert_sound(large)
    legend = re.findall(r"<li>(<svg.*?</svg>)(optimizer_|loss_)", large.source, re.DOTALL)
    for kind, number in (("optimizer_", 24), ("loss_", 7)):
        signs = [sign for sign, name in legend if name == kind and 'class="sign"' in sign]
        assert len(signs) == len(set(signs)) == number


def test_no_two_ranks_of_168_are_written_over_each_other(large):
    (drawing,) = re.findall(
        r'<svg[^>]*aria-label="AUC on the test folds.*?</svg>', large.source, re.DOTALL
    )
    ranks = re.findall(
        r"translate\(([\d.]+) ([\d.]+)\)[^>]*>\s*(?:<!--.*?-->)?\s*(\d+)</text>", drawing
    )
    ranks += [
        (x, y, rank)
        for x, y, rank in re.findall(
            r'<text [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*>(\d+)</text>', drawing
        )
    ]
    boxes = [(float(x), float(y), float(x) + 6 * len(r), float(y) + 8) for x, y, r in ranks]
    assert 20 < len(boxes) < 168 + 20
    for i, one in enumerate(boxes):
        assert not any(plots._overlap(one, other) for other in boxes[:i])


@given(
    where=st.lists(st.tuples(st.floats(0, 200), st.floats(0, 100)), min_size=1, max_size=60),
    side=st.sampled_from([6.0, 9.0]),
)
def test_labels_cover_neither_each_other_nor_points_nor_edges(where, side):
    at = np.array(where)
    widths = [6.7 * len(str(i + 1)) for i in range(len(at))]
    found = plots.places(at, widths, (0, 0, 200, 100), side)
    boxes = [
        (x, y, x + width, y + 9)
        for corner, width in zip(found, widths, strict=True)
        if corner is not None
        for x, y in [corner]
    ]
    for i, (left, low, right, high) in enumerate(boxes):
        assert left >= 0
        assert low >= 0
        assert right <= 200
        assert high <= 100
        for x, y in at:
            assert not (left < x < right and low < y < high)
        for other in boxes[:i]:
            apart = right <= other[0] or other[2] <= left or high <= other[1] or other[3] <= low
            assert apart


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1, 8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (1.35, 1.35, [1, 2]),
        (0.9, 2.7, [0, 1, 2, 3]),
        (1, 60, [10, 20, 30, 40, 50, 60]),
        (5, 5, [5]),
        (1, 1000, [200, 400, 600, 800, 1000]),
        (0.2, 14, [0, 2, 4, 6, 8, 10, 12, 14]),
    ],
)
def test_epochs_are_whole(low, high, expected):
    assert plots.whole_epochs(low, high) == expected


def test_the_axis_of_epochs_has_whole_numbers_alone():
    x = np.array([0.9, 1.35, 1.8])
    line = plots.Curve(colour="#000000", x=x, mean=x, low=x, high=x)
    svg = plots.curves([line], name="n", x_label="x", y_label="y", alt="a")
    ticks = re.findall(r'id="n-xtick_\d+".*?>([\d.]+)</text>', svg, re.DOTALL)
    assert ticks == ["0", "1", "2"]


def test_text_in_figures_is_never_mathematics_or_markup():
    x = np.arange(3.0)
    line = plots.Curve(colour="#000000", x=x, mean=x, low=x - 1, high=x + 1)
    svg = plots.curves([line], name="n", x_label="$x_1$ <b>", y_label="\\alpha", alt='"<&>')
    assert ">$x_1$ &lt;b&gt;</text>" in svg
    assert ">\\alpha</text>" in svg
    assert 'aria-label="&quot;&lt;&amp;&gt;"' in svg
    assert "<style" not in svg
    assert "http" not in svg.replace("http://www.w3.org/1999/xlink", "")


# ---- words -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (words.score(0.91234), "0.912"),
        (words.score(-0.0004), "0.000"),
        (words.score(-12.34), "−12.3"),
        (words.score(12.34), "12.3"),
        (words.score(None), "–"),
        (words.score(float("inf")), "–"),
        (words.signed(0.0123), "+0.012"),
        (words.signed(-0.0123), "−0.012"),
        (words.signed(-0.0001), "0.000"),
        (words.duration(0.84), "0.8 s"),
        (words.duration(12.4), "12 s"),
        (words.duration(59.7), "1 min 0 s"),
        (words.duration(250), "4 min 10 s"),
        (words.duration(3599.6), "1 h 0 min"),
        (words.duration(7500), "2 h 5 min"),
        (words.duration(7559), "2 h 6 min"),
        (words.duration(None), "–"),
        (words.duration(0.04), "under 0.1 s"),
        (words.interval(0.1, 0.25, 0.1), "90 % interval 0.100 to 0.250"),
        (words.duration(None, unknown="?"), "?"),
        (words.duration(0.84, clock=True), "1 s"),
        (words.duration(59.7, clock=True), "1 min 0 s"),
        (words.duration(250, clock=True), "4 min 10 s"),
        (words.duration(7559, clock=True), "2 h 5 min"),
        (words.rate(12345.6), "12\u202f346"),
        (words.rate(99.96), "100"),
        (words.rate(0.01234), "0.0123"),
        (words.percent(0.95), "95 %"),
        (words.percent(0.995), "99.5 %"),
        (words.listed(["a"]), "a"),
        (words.listed(["a", "b", "c"]), "a, b and c"),
        (words.count(1, "fold"), "1 fold"),
        (words.metric("balanced_accuracy"), "balanced accuracy"),
        (words.metric("auc"), "AUC"),
    ],
)
def test_numbers_as_people_write_them(written, expected):
    assert written == expected
