"""The papers' claims: contrasts by scipy, measures by hand, answers that are planted."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from results import text
from results.claims import measures
from results.claims.across import other_best
from results.claims.answers import claims_of, holm
from results.claims.contrasts import Found, Lacking, apart, matched, of_folds
from results.claims.kept import Kept
from results.claims.scores import matched_scores
from results.claims.table import CLAIMS, SIX
from results.claims.terminal import lines
from results.report.sections.claims import claims
from results.run_folder import Recorded
from results.tables.schema import TRIALS
from results.tables.store import write_trial

FOLDS = 5
TRAIN, INNER, TEST = 320, 80, 100
METRICS = {
    name: {"direction": "max", "range": [0, 1], "unit": "1"}
    for name in ("auc", "dice", "specificity", "accuracy")
}
AXES = {
    "model": "vgg_small",
    "optimizer": "adam",
    "loss": "ce",
    "schedule": "constant",
    "regularizer": "none",
    "pretrained": None,
}
KEYS = {
    "model": "models",
    "optimizer": "optimizers",
    "loss": "losses",
    "schedule": "schedules",
    "regularizer": "regularizers",
    "pretrained": "pretrained",
}


def make_run(folder: Path, data: dict[str, dict], trials: list[dict], **study) -> Recorded:
    """Write a run: `data` are footers by name, `trials` columns of `trials` and rows of the others.

    A trial is given as {"dataset", "fold", ...} with `metrics`, `epochs` and `cases` beside them.
    """
    asked: dict[str, list] = {key: [] for key in KEYS.values()}
    for trial in trials:
        for column, key in KEYS.items():
            name = trial.get(column, AXES[column]) or "none"
            if {"name": name, "params": {}} not in asked[key]:
                asked[key].append({"name": name, "params": {}})
    content = {
        "name": "made-up",
        "data": [{"store": d, "name": d, **data[d].get("entry", {})} for d in data],
        **asked,
        "seeds": [0],
        "folds": FOLDS,
        "repeats": 1,
        "alpha": 0.05,
        "margin": 0.01,
        "primary": {"classification": "auc", "segmentation": "dice"},
        **study,
    }
    folder.mkdir()
    (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    footers = {name: {k: v for k, v in d.items() if k != "entry"} for name, d in data.items()}
    footer = {"metrics": METRICS, "data": footers, "versions": {}}
    at = datetime(2026, 11, 1, tzinfo=UTC)
    for number, given in enumerate(trials):
        trial_id = f"t{number:04d}"
        own = {k: v for k, v in given.items() if k not in ("metrics", "epochs", "cases")}
        groups = own.pop("groups", None)
        sizes = {"train": TRAIN, "val": INNER, "test": TEST}
        row = dict.fromkeys(TRIALS.names) | AXES | {
            "study": "made-up", "trial_id": trial_id, "task": "classification",
            "primary_metric": "auc", "status": "ok", "tuned": False, "repeat": 0, "seed": 0,
            "test_score": 0.8, "train_sec": 1.0, "wall_sec": 2.0,
            "started_at": at, "finished_at": at + timedelta(seconds=number),
            **{f"n_{part}_cases": n for part, n in sizes.items()},
            **{f"n_{part}_groups": groups or n for part, n in sizes.items()},
            **own,
        }  # fmt: skip
        tables = {
            name: [{"trial_id": trial_id, **r} for r in given.get(name, [])]
            for name in ("metrics", "epochs", "cases")
        }
        write_trial(folder, trial=row, footer=footer, **tables)
    return Recorded(folder)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("results.tables.store.os.fsync", lambda _: None)


REAL = {"source": "photographs of skin", "kind": "images", "axes": "yx", "regions": []}
EFFECT = 0.06


def noisy(seed: int, size: float = 0.004) -> np.ndarray:
    return size * np.random.default_rng(seed).standard_normal(FOLDS)


def scored(
    dataset: str, effects: dict[tuple, float], columns: tuple[str, ...], noise: float = 0.004
) -> list[dict]:
    """Return trials whose test score is 0.8 + effect + a fold's own + noise."""
    fold_effect = noisy(99, 0.03)
    return [
        {
            "dataset": dataset,
            "fold": fold,
            **dict(zip(columns, entries, strict=True)),
            "test_score": 0.8 + effect + fold_effect[fold] + noisy(n, noise)[fold],
        }
        for n, (entries, effect) in enumerate(effects.items())
        for fold in range(FOLDS)
    ]


def answers(run: Recorded) -> dict[tuple[str, str], dict]:
    found = claims_of([run])
    return {(a["claim"], a["dataset"]): a for a in found["answered"]}


# ---- the test --------------------------------------------------------------------------------


def test_a_contrast_is_the_corrected_t_of_matched_differences(tmp_path):
    """Against scipy's paired t, whose statistic the correction divides by sqrt(1 + k r)."""
    effects = {(o, f): 0.01 * len(o) for o, f in product(("sgd", "adam", "adamw"), ("ce", "dice"))}
    trials = scored("skin", effects, ("optimizer", "loss"))
    run = make_run(tmp_path / "run", {"skin": REAL}, trials)
    (contest,) = run.contests
    found = matched(
        contest, measures.score(run, contest), {"optimizer": ["sgd"]}, {"optimizer": ["!sgd"]}
    )
    table = {(t["optimizer"], t["loss"], t["fold"]): t["test_score"] for t in trials}
    gaps = [
        np.mean([
            table["sgd", loss, fold] - np.mean([table[o, loss, fold] for o in ("adam", "adamw")])
            for loss in ("ce", "dice")
        ])
        for fold in range(FOLDS)
    ]  # fmt: skip
    plain = stats.ttest_1samp(gaps, 0.0, alternative="greater")
    assert isinstance(found, Found)
    assert found.estimate == pytest.approx(np.mean(gaps))
    t = plain.statistic / np.sqrt(1 + FOLDS * TEST / TRAIN)
    assert found.p_above(0) == pytest.approx(stats.t.sf(t, FOLDS - 1))
    assert found.p_below(0) == pytest.approx(1 - found.p_above(0))
    low, high = found.interval(0.05)
    assert found.p_above(low) == pytest.approx(0.025)
    assert found.p_below(high) == pytest.approx(0.025)


def test_places_count_alike_and_unmatched_combinations_do_not(tmp_path):
    """sgd stands at ce and dice, adamw at ce alone: the pair (sgd, adamw) is of ce alone."""
    effects = {("sgd", "ce"): 0.0, ("adam", "ce"): 0.1, ("adamw", "ce"): 0.3, ("sgd", "dice"): 0.0}
    effects |= {("adam", "dice"): 0.5, ("rmsprop", "focal"): 9.0}
    trials = [
        {**t, "test_score": effects[t["optimizer"], t["loss"]]}
        for t in scored("skin", effects, ("optimizer", "loss"))
    ]
    run = make_run(tmp_path / "run", {"skin": REAL}, trials)
    (contest,) = run.contests
    found = matched(
        contest, measures.score(run, contest), {"optimizer": ["!sgd"]}, {"optimizer": ["sgd"]}
    )
    assert isinstance(found, Found)
    assert found.estimate == pytest.approx(((0.1 + 0.3) / 2 + 0.5) / 2)
    assert found.compared == "adam, adamw against sgd"


def test_two_sets_are_compared_as_welch_does():
    class Made:
        dataset, ratio = "x", 0.0

    one, other = noisy(1, 0.02) + 0.1, noisy(2, 0.05)
    found = apart(of_folds(Made, one, ""), of_folds(Made, other, ""), "x", "")
    welch = stats.ttest_ind(one, other, equal_var=False, alternative="greater")
    assert found.p_above(0) == pytest.approx(welch.pvalue)
    assert found.df == pytest.approx(welch.df)


def test_scores_are_compared_by_folds_where_no_case_tells(tmp_path):
    """The corrected paired t; places weigh alike though they hold other numbers of losses."""
    effects = {("sgd", "ce"): 0.0, ("adam", "ce"): 0.1, ("adamw", "ce"): 0.3, ("sgd", "dice"): 0.0}
    effects |= {("adam", "dice"): 0.05}
    trials = scored("skin", effects, ("optimizer", "loss"))
    run = Kept(make_run(tmp_path / "run", {"skin": REAL}, trials))
    (contest,) = run.contests
    sides = {"optimizer": ["!sgd"]}, {"optimizer": ["sgd"]}
    found = matched_scores(run, contest, *sides)
    by_hand = matched(contest, measures.score(run, contest), *sides)
    assert isinstance(found, Found)
    assert isinstance(by_hand, Found)
    assert found.estimate == pytest.approx(by_hand.estimate)
    assert found.compared == by_hand.compared
    assert found.df == pytest.approx(FOLDS - 1)
    assert found.error == pytest.approx(by_hand.error)


def test_patients_tell_more_than_folds(tmp_path):
    """Of right and wrong calls of 5 x 40 patients: the paired variance over patients is in it.

    adam is right where sgd is, and on some more: the difference is sure over patients. The least
    error is that over patients alone, by hand: sum of squared deviations of the paired differences.
    """
    random = np.random.default_rng(1)
    trials, differences = [], []
    for fold in range(FOLDS):
        truth = np.arange(40) % 2
        right = {"sgd": random.random(40) < 0.6}
        right["adam"] = right["sgd"] | (random.random(40) < 0.5)
        gap = right["adam"].astype(float) - right["sgd"]
        differences.append(gap - gap.mean())
        for name, own in right.items():
            called = np.where(own, truth, 1 - truth)
            rows = cases("".join("ab"[v] for v in truth), "".join("ab"[v] for v in called))
            ids = [{**r, "case_id": f"{fold}-{r['case_id']}"} for r in rows]
            trials.append({
                "dataset": "skin", "fold": fold, "optimizer": name, "primary_metric": "accuracy",
                "test_score": float(own.mean()),
                "cases": [{**r, "group_id": r["case_id"]} for r in ids],
            })  # fmt: skip
    run = Kept(make_run(tmp_path / "run", {"skin": REAL}, trials))
    (contest,) = run.contests
    found = matched_scores(run, contest, {"optimizer": ["adam"]}, {"optimizer": ["sgd"]})
    assert isinstance(found, Found)
    assert run.evidence(contest)[1].influence is not None
    over_patients = np.sqrt(sum((d**2).sum() for d in differences)) / (40 * FOLDS)
    assert over_patients * 0.9 < found.error < over_patients * 2
    assert found.df > FOLDS - 1


def test_folds_that_are_all_alike_tell_by_their_sign_alone():
    """Five equal differences: a sign test's 0.5^5, not certainty, unless the measure is exact."""
    found = Found(dataset="x", estimate=-0.7, error=1e-17, df=4, folds=5, compared="")
    assert found.p_below(0) == 0.5**5
    assert found.p_above(0) == 1.0
    assert replace(found, exact=True).p_below(0) == 0.0


def test_anomalies_are_found_where_the_auc_is_above_chance(tmp_path):
    """Against scipy's t of one sample, corrected; optimizers that are not asked do not count."""
    effects = {("adam",): 0.0, ("rmsprop",): -0.1, ("sgd",): -0.5}
    trials = scored("chest x-ray", effects, ("optimizer",))
    run = make_run(tmp_path / "run", {"chest x-ray": REAL}, trials)
    found = answers(run)["xray-adam-rmsprop", "chest x-ray"]
    own = {(t["optimizer"], t["fold"]): t["test_score"] for t in trials}
    means = [(own["adam", f] + own["rmsprop", f]) / 2 - 0.5 for f in range(FOLDS)]
    reach = stats.t.ppf(0.975, FOLDS - 1) * np.std(means, ddof=1) * np.sqrt(0.2 + TEST / TRAIN)
    assert found["estimate"] == pytest.approx(np.mean(means))
    assert found["high"] - found["estimate"] == pytest.approx(reach, rel=1e-6)
    assert found["answer"] == "yes"


def test_some_claims_alone_are_a_family_of_their_own(tmp_path):
    effects = {("dice",): EFFECT, ("ce",): 0.0}
    run = make_run(tmp_path / "run", {"skin": REAL}, scored("skin", effects, ("loss",)))
    assert [a["claim"] for a in claims_of([run], ["loss"])["answered"]] == ["loss"]
    with pytest.raises(ValueError, match="no claim is called 'los'"):
        claims_of([run], ["los"])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([]) == []


# ---- measures --------------------------------------------------------------------------------


def epochs(scores, losses=None, swings=None, norms=None, gradients=320):
    n = len(scores)
    return [
        {
            "epoch": i + 1,
            "train_loss": (losses or [1.0] * n)[i],
            "val_score": scores[i],
            "sample_gradients": gradients * (i + 1),
            "step_loss_sd_diff": (swings or [1.0] * n)[i],
            "step_norm": (norms or [1.0] * n)[i],
        }
        for i in range(n)
    ]


def two(tmp_path, one, other, data=REAL, **more) -> tuple[Recorded, tuple]:
    """Write a run of sgd and adam whose folds are all alike, and return their combinations."""
    trials = [
        {"dataset": "skin", "fold": fold, "optimizer": name, **part, **more}
        for name, part in (("sgd", one), ("adam", other))
        for fold in range(FOLDS)
    ]
    run = make_run(tmp_path / "run", {"skin": data}, trials)
    (contest,) = run.contests
    by_name = {c.entries["optimizer"]: c for c in contest.combinations}
    return run, (contest, by_name["sgd"], by_name["adam"])


def alike(gaps: dict) -> float:
    assert len(gaps) == FOLDS
    assert len(set(gaps.values())) == 1
    return next(iter(gaps.values()))


def test_samples_are_counted_to_nine_tenths_of_the_best_inner_score(tmp_path):
    """The best is 0.9, so 0.81 is waited for: sgd gets there in epoch 4, adam in epoch 2."""
    run, (contest, sgd, adam) = two(
        tmp_path,
        {"epochs": epochs([0.5, 0.6, 0.7, 0.82])},
        {"epochs": epochs([0.8, 0.85, 0.9, 0.7])},
    )
    assert alike(measures.samples_to_score(Kept(run), contest)(sgd, adam)) == pytest.approx(1.0)


def test_who_never_gets_there_counts_as_with_the_last_sample(tmp_path):
    run, (contest, sgd, adam) = two(
        tmp_path,
        {"epochs": epochs([0.5, 0.6])},
        {"epochs": epochs([0.9, 0.9, 0.9, 0.9])},
    )
    assert alike(measures.samples_to_score(Kept(run), contest)(sgd, adam)) == pytest.approx(2.0)


def test_swings_are_compared_at_equal_loss(tmp_path):
    """sgd's log2 swing is its loss + 1, adam's its loss: 1 apart wherever both have been.

    The first epochs, before 0.9 of the best score, do not count; adam's loss reaches far lower.
    """
    sgd_losses, adam_losses = [9.0, 3.0, 2.0, 1.0], [9.0, 2.5, 0.5, 0.25]
    run, (contest, sgd, adam) = two(
        tmp_path,
        {"epochs": epochs([0.1, 0.9, 0.9, 0.9], sgd_losses, [2 ** (v + 1) for v in sgd_losses])},
        {"epochs": epochs([0.1, 0.9, 0.9, 0.9], adam_losses, [2**v for v in adam_losses])},
    )
    assert alike(measures.swing(Kept(run), contest)(sgd, adam)) == pytest.approx(1.0)


def test_swings_without_a_common_loss_are_unknown(tmp_path):
    run, (contest, sgd, adam) = two(
        tmp_path,
        {"epochs": epochs([0.9] * 2, [2.0, 1.0])},
        {"epochs": epochs([0.9] * 2, [0.5, 0.4])},
    )
    assert measures.swing(Kept(run), contest)(sgd, adam) == {}


def test_decay_overfitting_loss_and_parameters_by_hand(tmp_path):
    run, (contest, sgd, adam) = two(
        tmp_path,
        {
            "epochs": epochs([0.9] * 3, [1.0, 0.1, 0.4], norms=[1.0, 0.5, 0.01]),
            "last_train_score": 0.95,
            "last_val_score": 0.85,
            "parameters": 4096,
        },
        {
            "epochs": epochs([0.9] * 3, [1.0, 0.5, 0.01], norms=[None, 0.5, 0.05]),
            "last_train_score": 0.9,
            "last_val_score": 0.88,
            "parameters": 1024,
        },
    )
    assert alike(measures.step_decay(Kept(run), contest)(sgd, adam)) == pytest.approx(-2 + 1)
    assert alike(measures.lowest_loss(Kept(run), contest)(sgd, adam)) == pytest.approx(-1 + 2)
    assert alike(measures.overfitting(Kept(run), contest)(sgd, adam)) == pytest.approx(0.1 - 0.02)
    assert alike(measures.parameters(Kept(run), contest)(sgd, adam)) == pytest.approx(2.0)


def cases(truths: str, calls: str) -> list[dict]:
    """Return rows of `cases` of classes a and b by their letters."""
    return [
        {"case_id": f"c{i}", "group_id": "g", "region": name, "label": int(name == true)}
        | {"prob": 0.9 if name == call else 0.1}
        for i, (true, call) in enumerate(zip(truths, calls, strict=True))
        for name in "ab"
    ]


def test_the_rarest_class_by_hand(tmp_path):
    """b is rarer: sgd finds 1 of 2 and calls 1 wrongly, adam finds both and calls 2 wrongly."""
    data = {**REAL, "classes": [{"name": "a", "number": 90}, {"name": "b", "number": 10}]}
    run, (contest, sgd, adam) = two(
        tmp_path, {"cases": cases("aaaabb", "baaaab")}, {"cases": cases("aaaabb", "bbaabb")}, data
    )
    sensitivity = measures.rarest_sensitivity(Kept(run), contest)
    assert alike(sensitivity(sgd, adam)) == pytest.approx(0.5 - 1.0)
    f1 = 2 * 1 / (2 * 1 + 1 + 1) - 2 * 2 / (2 * 2 + 2 + 0)
    assert alike(measures.rarest_f1(Kept(run), contest)(sgd, adam)) == pytest.approx(f1)


def dice(value, **where):
    row = {"split": "test", "metric": "dice", "unit": "image", "region": "mean", "headline": False}
    return row | {"convention": "skip_empty", "value": value} | where


def test_dice_of_small_lesions_and_of_the_rarest_region(tmp_path):
    data = {
        "source": "scans",
        "axes": "zyx",
        "classes": [{"name": n, "number": v} for n, v in (("bg", 900), ("oedema", 9), ("core", 3))],
        "regions": [
            {"name": "whole", "labels": [1, 2], "cases": 9},
            {"name": "core", "labels": [2], "cases": 9},
        ],
    }
    part = {
        "metrics": [
            dice(0.9, headline=True),
            dice(0.1, region="core", convention="empty_is_one"),
            dice(0.1, stratum="small", region="core"),
        ]
    }
    ours = {"metrics": [*part["metrics"], dice(0.7, stratum="small"), dice(0.5, region="core")]}
    theirs = {"metrics": [*part["metrics"], dice(0.4, stratum="small"), dice(0.3, region="core")]}
    run, (contest, sgd, adam) = two(tmp_path, ours, theirs, data)
    assert alike(measures.small_dice(Kept(run), contest)(sgd, adam)) == pytest.approx(0.3)
    assert alike(measures.rarest_f1(Kept(run), contest)(sgd, adam)) == pytest.approx(0.2)
    assert measures.rarest_sensitivity(Kept(run), contest)(sgd, adam) == {}


# ---- answers ---------------------------------------------------------------------------------

PLANTED = {
    "adamw-real": (("optimizer",), [("adamw",)], [(o,) for o in SIX if o != "adamw"]),
    "skin-regularized": (("regularizer",), [("dropout",), ("mixup",)], [("none",)]),
    "loss": (("loss",), [("dice",), ("focal",)], [("ce",)]),
    "structure": (("model",), [("resnet18",)], [("plain_cnn",)]),
    "augmentation": (("regularizer",), [("augmentation",)], [("none",)]),
    "before-after": (
        ("model", "loss", "regularizer"),
        [("resnet18", "dice_focal", "augmentation")],
        [("plain_cnn", "ce", "none")],
    ),
}


@pytest.mark.parametrize("claim", PLANTED)
@pytest.mark.parametrize(
    ("effect", "noise", "answer"),
    [(EFFECT, 0.004, "yes"), (-EFFECT, 0.004, "no"), (0.005, 0.02, "undecided")],
)
def test_what_is_planted_is_found(tmp_path, claim, effect, noise, answer):
    columns, ones, others = PLANTED[claim]
    effects = dict.fromkeys(ones, effect) | dict.fromkeys(others, 0.0)
    run = make_run(tmp_path / "run", {"skin": REAL}, scored("skin", effects, columns, noise))
    found = answers(run)[claim, "skin"]
    assert found["answer"] == answer
    assert found["low"] < effect < found["high"]
    assert not found["tuned"]
    assert not found["phantom"]


def test_a_gain_that_does_not_matter_is_no_gain(tmp_path):
    """The margin is 0.01: a gain of 0.0001 that is known well is answered with no."""
    trials = [
        {**t, "test_score": 0.8 + (1e-5 * t["fold"] if t["loss"] == "ce" else 1e-4)}
        for t in scored("skin", {("dice",): 0.0, ("ce",): 0.0}, ("loss",))
    ]  # fmt: skip
    run = make_run(tmp_path / "run", {"skin": REAL}, trials)
    assert answers(run)["loss", "skin"]["answer"] == "no"


def test_as_exact_means_no_worse_than_by_the_margin(tmp_path):
    """-0.002 with little noise is as exact; -0.06 is not."""
    for name, effect, answer in (("equal", -0.002, "yes"), ("worse", -EFFECT, "no")):
        effects = {("densenet121",): effect, ("resnet18",): 0.0}
        trials = scored("skin", effects, ("model",))
        for trial in trials:
            trial["test_score"] = (
                0.8
                + effects[trial["model"],]
                + 1e-4 * trial["fold"] * (trial["model"] == "resnet18")
            )
            trial["parameters"] = {"densenet121": 7_000_000, "resnet18": 11_000_000}[trial["model"]]
        found = answers(make_run(tmp_path / name, {"skin": REAL}, trials))
        assert found["densenet-exact", "skin"]["answer"] == answer
        assert found["densenet-fewer", "skin"]["answer"] == "yes"
        assert found["densenet-fewer", "skin"]["estimate"] == pytest.approx(np.log2(7 / 11))


def test_phantoms_are_marked_and_say_nothing_of_real_images(tmp_path):
    effects = {(o,): EFFECT * (o == "adamw") for o in SIX}
    made = {**REAL, "source": "phantom images in the format of lidc, of no patient"}
    run = make_run(tmp_path / "run", {"lungs": made}, scored("lungs", effects, ("optimizer",)))
    found = claims_of([run])
    (lacks,) = [u for u in found["unanswered"] if u["claim"] == "adamw-real"]
    assert lacks["lacking"] == {"lungs": "its images are phantoms"}
    columns, ones, others = PLANTED["loss"]
    effects = dict.fromkeys(ones, EFFECT) | dict.fromkeys(others, 0.0)
    run = make_run(tmp_path / "two", {"lungs": made}, scored("lungs", effects, columns))
    assert answers(run)["loss", "lungs"]["phantom"]


def test_the_best_depends_where_each_set_has_its_own(tmp_path):
    one = {("sgd",): EFFECT, ("adam",): 0.0, ("adamw",): 0.0}
    other = {("sgd",): 0.0, ("adam",): EFFECT, ("adamw",): 0.0}
    data = {"skin": REAL, "lungs": REAL}
    crossed = make_run(
        tmp_path / "crossed",
        data,
        scored("skin", one, ("optimizer",)) + scored("lungs", other, ("optimizer",)),
    )
    found = answers(crossed)["best-depends", "skin and lungs"]
    assert found["answer"] == "yes"
    assert found["compared"] == "sgd before adam on skin, behind on lungs"
    same = make_run(
        tmp_path / "same",
        data,
        scored("skin", one, ("optimizer",)) + scored("lungs", one, ("optimizer",)),
    )
    assert answers(same)["best-depends", "skin and lungs"]["answer"] != "yes"


def test_the_best_is_not_said_to_depend_where_all_are_equal():
    """Over 400 pairs of sets with six equal optimizers, at most 2.5 % (plus chance) say so."""

    class Combination:
        state = "judged"

        def __init__(self, name, values):
            self.entries = {"optimizer": name}
            self.values = dict(enumerate(values))

        def by_fold(self, _column):
            return {(0, fold): value for fold, value in self.values.items()}

    class Contest:
        metric, sign, ratio = "auc", 1.0, TEST / TRAIN

        def __init__(self, dataset, random):
            self.folds = [(0, fold) for fold in range(FOLDS)]
            self.dataset = dataset
            # Overlapping training sets: errors of a combination have a correlation of 0.2.
            shared = random.standard_normal(6)[:, None] * np.sqrt(0.2)
            own = random.standard_normal((6, FOLDS)) * np.sqrt(0.8)
            self.combinations = [
                Combination(name, row) for name, row in zip(SIX, shared + own, strict=True)
            ]

    class Run:
        def __init__(self, random):
            self.contests = [Contest(name, random) for name in ("a", "b")]

    random = np.random.default_rng(5)
    said = 0
    for _ in range(400):
        (found,) = other_best(Run(random))
        said += found.p_above(0) < 0.025
    assert said <= 400 * 0.025 + 3 * np.sqrt(400 * 0.025)


def test_zeros_are_an_interaction(tmp_path):
    names = {"skin-zeros-0": 0.0, "skin-zeros-50": -1.0, "skin-zeros-90": EFFECT}
    trials = [
        trial
        for name, effect in names.items()
        for trial in scored(name, {("adagrad",): effect + 0.1, ("sgd",): 0.0}, ("optimizer",))
    ]
    run = make_run(tmp_path / "run", dict.fromkeys(names, REAL), trials)
    found = answers(run)["adagrad-sparse", "skin"]
    assert found["estimate"] == pytest.approx(EFFECT, abs=0.01)
    assert found["answer"] == "yes"


def test_range_is_compared_on_one_store(tmp_path):
    worse = {"split": "test", "metric": "auc", "headline": True, "degradation": "noise"}
    entries = {"ranged": ("c0", "range"), "plain": ("c0", "z-score"), "else": ("c1", "z-score")}
    data = {
        name: {**REAL, "entry": {"content": content, "normalize": how}}
        for name, (content, how) in entries.items()
    }
    trials = [
        {**trial, "metrics": [worse | {"value": 0.6 + 0.1 * (name == "ranged") + noisy(k)[fold]}]}
        for k, name in enumerate(data)
        for trial in scored(name, {("adam",): 0.0}, ("optimizer",))
        for fold in [trial["fold"]]
    ]
    found = answers(make_run(tmp_path / "run", data, trials))["range-devices", "ranged"]
    assert found["estimate"] == pytest.approx(0.1, abs=0.01)
    assert found["answer"] == "yes"


def test_little_and_hard_data_are_asked_for(tmp_path):
    part = {"epochs": epochs([0.9] * 2, [0.5, 0.1])}
    lbfgs = {"epochs": epochs([0.9] * 2, [0.5, 0.01])}
    for name, groups, test_score in (("few", 20, 0.8), ("many", 200, 0.95)):
        trials = [
            {"dataset": "skin", "fold": f, "optimizer": o, "groups": groups, **own}
            | {"test_score": test_score}
            for o, own in (("sgd", part), ("rmsprop", part), ("lbfgs", lbfgs))
            for f in range(FOLDS)
        ]
        run = make_run(tmp_path / name, {"skin": REAL}, trials)
        found = answers(run)
        assert (("lbfgs-minima", "skin") in found) == (name == "few")
        assert (("rmsprop-steadies", "skin") in found) == (name == "few")
        if name == "few":
            assert found["lbfgs-minima", "skin"]["estimate"] == pytest.approx(-1)
            # All folds are alike: their sign tells, and no more.
            assert found["lbfgs-minima", "skin"]["p_value"] >= 2 * 0.5**FOLDS


def test_every_claim_is_told_of_once_and_in_full(tmp_path):
    """28 claims: each is answered or says what it needs; the content is JSON."""
    effects = {(o,): 0.0 for o in SIX}
    run = make_run(tmp_path / "run", {"skin": REAL}, scored("skin", effects, ("optimizer",)))
    found = claims_of([run])
    told = {a["claim"] for a in found["answered"]} | {u["claim"] for u in found["unanswered"]}
    assert told == set(CLAIMS)
    assert len(CLAIMS) == 28
    assert {claim.paper for claim in CLAIMS.values()} == {"A", "B"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for unanswered in found["unanswered"]:
        assert unanswered["needs"]


def test_several_runs_are_one_family(tmp_path):
    effects = {("dice",): EFFECT, ("ce",): 0.0}
    runs = [
        make_run(tmp_path / name, {name: REAL}, scored(name, effects, ("loss",)))
        for name in ("one", "two")
    ]
    alone, both = claims_of(runs[:1]), claims_of(runs)
    assert len(both["answered"]) == 2 * len(alone["answered"])
    by = {(a["claim"], a["dataset"]): a["p_value"] for a in both["answered"]}
    assert by["loss", "one"] >= alone["answered"][0]["p_value"]


def test_one_fold_answers_nothing(tmp_path):
    trials = [
        t for t in scored("skin", {("dice",): 1.0, ("ce",): 0.0}, ("loss",)) if t["fold"] == 0
    ]
    run = make_run(tmp_path / "run", {"skin": REAL}, trials, folds=1)
    assert claims_of([run])["answered"] == []


def test_what_is_missing_is_said(tmp_path):
    run = make_run(tmp_path / "run", {"skin": REAL}, scored("skin", {("ce",): 0.0}, ("loss",)))
    (contest,) = run.contests
    found = matched(contest, measures.score(run, contest), {"loss": ["dice"]}, {"loss": ["ce"]})
    assert isinstance(found, Lacking)
    assert found.reason == "no judged combination has loss dice"


def test_the_terminal_and_the_page_say_the_same(tmp_path):
    """Each answer with its interval, whose claim it is, and that nothing was tuned."""
    columns, ones, others = PLANTED["loss"]
    effects = dict.fromkeys(ones, EFFECT) | dict.fromkeys(others, 0.0)
    run = make_run(tmp_path / "run", {"skin": REAL}, scored("skin", effects, columns))
    found = claims_of([run])
    printed = "\n".join(line.plain for line in lines(found))
    shown = claims(run)
    assert shown is not None
    answer = next(a for a in shown["answered"] if a["claim"] == "loss")
    assert "yes  skin: dice, focal against ce" in printed
    assert f"p {text.p_value(answer['p_value'])}" in printed
    assert "SGD converges fast.  not answered: it needs sgd" in printed
    assert "No optimizer was tuned" in printed
    assert shown["note"] in printed
    bare = make_run(tmp_path / "bare", {"skin": REAL}, scored("skin", {("ce",): 0.0}, ("loss",)))
    assert claims(bare) is None


def test_no_p_value_is_zero():
    assert [text.p_value(p) for p in (0.0, 0.00099, 0.001, 1.0)] == [
        "< 0.001",
        "< 0.001",
        "0.001",
        "1.000",
    ]
