"""expand(): the axes multiplied, ids that tell what decides, and skips with their reason."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from bench.core.references import StudyError
from bench.losses.table import LOSSES
from bench.planning.expand import expand, looks_of
from bench.study.dataset import DataSet, split_store
from bench.study.schema import Study
from loaders.store.read import Store


@pytest.fixture
def expanded(small_store):
    """Return a function of a study's keys -> (trials, skips) on a small set."""

    def make(task: str = "classification", devices: int = 1, **keys: object):
        store = small_store(task, 2)
        splits = split_store(store, folds=2, repeats=1, seed=0, inner_fraction=0.4)
        data = DataSet(name=store.meta.name, path=store.path, splits=splits)
        study = Study.model_validate(
            {
                "name": "s",
                "data": [{"store": str(store.path)}],
                "models": ["vgg_small" if task == "classification" else "unet_small"],
                "optimizers": ["adam"],
                "losses": ["ce"],
                "patch": [16, 16],
                "loader": "torch",
                "threads": 1,
                "device": "cpu",
                **keys,
            }
        )
        return expand(study, [data], Path.cwd(), devices=devices)

    return make


AXES = {
    "models": ["vgg_small", {"plain_cnn": {"pool": "average"}}],
    "optimizers": ["adam", {"adam": {"lr": 0.01}}],
    "losses": ["ce", {"focal": {"gamma": 3.0}}],
    "schedules": ["constant", {"cosine": {"warmup": 0.1}}],
    "regularizers": ["none", {"dropout": {"rate": 0.5}}, "mixup"],
    "seeds": [0, 1],
}


def test_the_axes_are_multiplied_and_every_id_is_another(expanded):
    trials, skips = expanded(**AXES)
    assert not skips
    assert len(trials) == 2 * 2 * 2 * 2 * 2 * 3 * 2  # the last: folds
    assert len({t.trial_id for t in trials}) == len(trials)
    # Fold by fold, so that a run cut short has whole folds to compare.
    assert [t.fold for t in trials] == sorted(t.fold for t in trials)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizers": [{"adam": {"lr": 0.5}}]},
        {"models": [{"vgg_small": {"dropout": 0.5}}]},
        {"losses": [{"ce": {"label_smoothing": 0.3}}]},
        {"schedules": ["cosine"]},
        {"regularizers": ["mixup"]},
        {"regularizers": ["strong_augmentation"]},
        {"precision": "bfloat16"},
        {"channels_last": True},
        {"compiled": True},
        {"epochs": 3},
        {"decay_norms": False},
        {"clip": 12.0},
        {"accumulate": 2},
        {"ema": 0.99},
        {"augment": {"rotate": 10.0}},
        {"normalize": "range"},
        {"degrade": ["blur"]},
    ],
)
def test_whatever_decides_a_result_is_in_the_id(expanded, change):
    before, after = (expanded(**keys)[0][0].trial_id for keys in ({}, change))
    assert before != after


@pytest.mark.parametrize(
    "same",
    [
        {"optimizers": [{"adam": {"lr": 1.0e-3}}]},  # the default, said aloud
        {"schedules": [{"constant": {"warmup": 0.0}}]},
        {"keep_weights": True},
        {"normalize": "z-score"},
        {"losses": ["ce", "focal"]},
    ],
)
def test_what_decides_nothing_is_not(expanded, same):
    before, after = (expanded(**keys)[0][0].trial_id for keys in ({}, same))
    assert before == after


@pytest.mark.parametrize(
    ("task", "keys", "said"),
    [
        ("classification", {"models": ["vgg_small", "unet"]}, "model unet is for segmentation"),
        ("classification", {"losses": ["ce", "tversky"]}, "loss tversky is not for classification"),
        (
            "classification",
            {"optimizers": ["adam", "lbfgs"], "regularizers": ["none", "weight_decay"]},
            "lbfgs has no such setting",
        ),
        (
            "classification",
            {
                "optimizers": ["adam", "adamw"],
                "regularizers": ["none", {"weight_decay": {"factor": 1}}],
            },
            "weight_decay would change nothing of optimizer adamw with schedule constant",
        ),
        (
            "segmentation",
            {"batch_size": 1, "optimizers": ["adam"], "regularizers": ["none", "mixup"]},
            "regularizer mixup mixes the samples of a batch, and a batch here holds one",
        ),
        (
            "classification",
            {"optimizers": ["adam", "lbfgs"], "clip": 1.0},
            "lbfgs cannot take clipped gradients: its line search",
        ),
        (
            "classification",
            {"optimizers": ["adam", "sophia"], "clip": 1.0},
            "sophia cannot take clipped gradients: it differentiates",
        ),
        (
            "classification",
            {"optimizers": ["adam", "sophia"], "accumulate": 2},
            "sophia cannot take gradients summed over batches",
        ),
        (
            "classification",
            {"optimizers": ["adam", "schedule_free_sgd"], "ema": 0.9},
            "schedule_free_sgd is judged by its own averages",
        ),
        (
            "classification",
            {"optimizers": ["adam", {"prodigy": {"weight_decay": 0.1}}], "decay_norms": False},
            "prodigy takes one group of parameters: its weight decay cannot leave norms",
        ),
        (
            "classification",
            {"losses": ["ce", "focal"], "regularizers": ["label_smoothing"]},
            "sets label_smoothing of the loss",
        ),
        ("segmentation", {"regularizers": ["none", "resampling"]}, "not for segmentation"),
        (
            "classification",
            {"optimizers": ["adam", "lbfgs"], "precision": "float16", "device": "cuda"},
            "lbfgs cannot work on scaled gradients",
        ),
        (
            "classification",
            {"optimizers": ["adam", "sophia"], "compiled": True},
            "second derivatives, which torch.compile lacks",
        ),
        (
            "classification",
            {"optimizers": ["adam", "sophia"], "cuda_graph": True, "device": "cuda"},
            "second derivatives, which a CUDA graph lacks",
        ),
        (
            "classification",
            {"optimizers": ["adam", "sophia"], "devices": 2},
            "sophia trains a trial on one device",
        ),
        (
            "classification",
            {"models": ["vgg_small", "vgg16"], "optimizers": ["lbfgs", "adam"]},
            "GB of state for weights of",
        ),
    ],
)
def test_what_cannot_go_together_is_skipped_with_its_reason(expanded, task, keys, said):
    trials, skips = expanded(task, **keys)
    assert trials
    assert skips
    assert any(said in skip.reason for skip in skips), {s.reason for s in skips}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"device": "cpu"}, "cuda_graph is for GPUs"),
        ({"devices": 2}, "one GPU, and 2 share each trial"),
        ({"accumulate": 2}, "cannot sum gradients over several batches"),
    ],
)
def test_what_no_cuda_graph_can_record_is_refused(expanded, keys, said):
    with pytest.raises(StudyError, match=said):
        expanded("classification", **{"device": "cuda", "cuda_graph": True, **keys})


def test_a_cuda_graph_is_in_the_id(expanded):
    plain, graphed = (
        expanded("classification", device="cuda", cuda_graph=flag)[0][0].trial_id
        for flag in (False, True)
    )
    assert plain != graphed


@pytest.mark.parametrize(
    "keys",
    [
        {"optimizers": ["adam", {"adam": {"lr": 1.0e-3}}]},
        {"regularizers": ["none", {"dropout": {"rate": 0.0}}]},
    ],
)
def test_two_names_of_the_same_are_refused(expanded, keys):
    with pytest.raises(StudyError, match="two combinations have the same settings: "):
        expanded(**keys)


@pytest.mark.parametrize(
    "entry", [{"dropout": {"rate": 1.5}}, {"label_smoothing": {"amount": 2.0}}]
)
def test_a_regularizer_out_of_range_is_the_studys_mistake(expanded, entry):
    with pytest.raises(StudyError, match=r"(dropout|label_smoothing)"):
        expanded(regularizers=["none", entry])


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({}, {"constant": True, "warmup": True, "cosine": False, "one_cycle": False}),
        (
            {"early_stopping": True},
            dict.fromkeys(["constant", "warmup", "cosine", "one_cycle"], True),
        ),
        ({"early_stopping": False}, dict.fromkeys(["constant", "one_cycle"], False)),
    ],
)
def test_trials_stop_early_but_where_the_rate_falls_to_the_end(expanded, said, found):
    trials, _ = expanded(schedules=list(found), **said)
    assert {t.choices["schedule"].label: t.stops for t in trials} == found


@pytest.mark.parametrize("more", [{"accumulate": 2}, {"optimizers": ["lbfgs"]}])
def test_mixup_has_what_to_mix_where_a_step_takes_several_batches_of_one(expanded, more):
    trials, skips = expanded("segmentation", batch_size=1, regularizers=["mixup"], **more)
    assert trials
    assert not skips


def test_without_stopping_is_skipped_where_nothing_stops_anyway(expanded):
    trials, skips = expanded(schedules=["constant", "cosine"], regularizers=["none", "no_stopping"])
    assert [s.reason for s in skips] == [
        "regularizer no_stopping would change nothing of optimizer adam with schedule cosine"
    ] * len(skips)
    assert {(t.choices["schedule"].label, t.choices["regularizer"].label) for t in trials} == {
        ("constant", "none"),
        ("constant", "no_stopping"),
        ("cosine", "none"),
    }


def test_a_data_set_says_for_itself_how_it_is_normalised(expanded):
    own = [{"store": "s", "normalize": "range"}]
    assert {t.normalize for t in expanded()[0]} == {"z-score"}
    assert {t.normalize for t in expanded(data=own)[0]} == {"range"}
    other = [{"store": "s", "normalize": "z-score"}]
    assert {t.normalize for t in expanded(data=other, normalize="range")[0]} == {"z-score"}
    ids = [
        {t.trial_id for t in expanded(**keys)[0]}
        for keys in ({"data": own}, {"normalize": "range"})
    ]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("precision", "instead"),
    [("float16", "take bfloat16, or a GPU"), ("tf32", "take float32, or a GPU")],
)
def test_a_precision_of_gpus_is_refused_on_a_cpu_with_what_to_take(expanded, precision, instead):
    with pytest.raises(StudyError, match=instead):
        expanded(precision=precision)


def test_nothing_left_is_an_error_with_the_reasons(expanded):
    with pytest.raises(StudyError, match="no combination of this study can run: model unet is for"):
        expanded(models=["unet"])


def test_imagenet_weights_that_a_model_has_not_are_a_skip(expanded):
    trials, skips = expanded(pretrained=["none", "imagenet"])
    assert {t.start for t in trials} == {None}
    assert {s.combination["pretrained"] for s in skips} == {"imagenet"}
    assert "no ImageNet weights for model vgg_small in 2-D" in skips[0].reason


def test_whole_images_are_other_trials_where_the_network_takes_them(expanded):
    def found(task, model, **keys):
        trials, _ = expanded(task, models=[model], **keys)
        return {t.trial_id for t in trials}, {t.inference for t in trials}

    whole = {"inference": "whole"}
    ids, how = found("segmentation", "unet_small")
    others, other = found("segmentation", "unet_small", **whole)
    assert (how, other) == ({"windows"}, {"whole"})
    assert not ids & others
    # One that takes patches alone, and a task whose cases are patches.
    for task, model in (("segmentation", "unet_resnet_both"), ("classification", "vgg_small")):
        assert found(task, model) == found(task, model, **whole)


def test_a_patch_of_other_dims_is_told_that_a_data_set_can_have_its_own(expanded):
    with pytest.raises(
        StudyError, match=r"^patch: \[8, 8, 8\] has 3 sides, .* have 2\. "
    ) as caught:
        expanded(patch=[8, 8, 8])
    own = str(caught.value).rsplit("`", 2)[1]
    assert own.startswith("{store: ..., patch: [")
    patch = yaml.safe_load(own)["patch"]
    trials, _ = expanded(data=[{"store": "here", "patch": patch}], patch=[8, 8, 8])
    assert {trial.patch for trial in trials} == {tuple(patch)}


def test_looks_of_a_study_are_those_that_its_dearest_data_set_allows(small_store):
    def made(task, epochs, **keys):
        store = small_store(task, 2)
        splits = split_store(store, folds=2, repeats=1, seed=0, inner_fraction=0.4)
        data = DataSet(name=task, path=store.path, splits=splits)
        return {"store": str(store.path), "epochs": epochs, "patch": [8, 8], **keys}, data

    def found(*parts, **keys):
        study = Study.model_validate(
            {
                "name": "s",
                "models": ["unet_small"],
                "optimizers": ["adam"],
                "losses": ["ce"],
                "data": [entry for entry, _ in parts],
                "overlap": 0.0,
                **keys,
            }
        )
        return looks_of(study, [data for _, data in parts])

    images, masks = made("classification", 100), made("segmentation", 100)
    # An image costs its one pass, and inner validation is at most as large as training.
    assert found(images) > found(masks)
    # By hand: images of 16 to 20 pixels a side are 2 or 3 windows of 8 along it; of the splits the
    # one that allows the fewest decides.
    data = masks[1]
    sides = data.store.shapes
    windows = (-(-sides // 8)).prod(axis=1) * 1.5
    fewest = []
    for split in data.splits:
        spread = split.train[np.linspace(0, len(split.train) - 1, len(split.inner)).astype(int)]
        last = 2 * windows[split.test].sum() + windows[spread].sum()
        room = 3 * 100 * len(split.train) * 0.15 / 0.85 - last
        fewest.append(int(room / windows[split.inner].sum()))
    assert found(masks) == found(images, masks) == max(min(fewest), 5)
    assert found(masks, degrade=["noise"]) <= found(masks)
    assert found(masks, inference="whole") >= found(masks)


@pytest.mark.parametrize("name", ["boundary", "hausdorff"])
def test_settings_that_came_later_leave_the_ids_of_before(expanded, monkeypatch, name):
    row = LOSSES[name]
    now = [t.trial_id for t in expanded(task="segmentation", losses=[name])[0]]
    others = [
        [t.trial_id for t in expanded(task="segmentation", losses=[{name: {later: value}}])[0]]
        for later, value in {"mm": True, "balanced": True, "rise": 0.1, "rebalance": True}.items()
        if later in row.later
    ]
    assert all(not set(ids) & set(now) for ids in others)
    before = {n: value for n, value in row.defaults.items() if n not in row.later}
    assert len(before) < len(row.defaults)
    monkeypatch.setitem(
        LOSSES, name, replace(row, defaults=before, later=frozenset(), spaced=False)
    )
    assert [t.trial_id for t in expanded(task="segmentation", losses=[name])[0]] == now


def test_a_loss_in_mm_is_skipped_where_voxels_have_no_spacing(expanded, monkeypatch):
    losses = ["dice", {"boundary": {"mm": True}}, "boundary"]
    spacing = np.full((40, 2), 0.5)
    monkeypatch.setattr(Store, "spacing", property(lambda _: spacing))
    assert not expanded(task="segmentation", losses=losses)[1]
    spacing[3, 1] = np.nan
    trials, skips = expanded(task="segmentation", losses=losses)
    assert len(trials) == 2 * 2
    (reason,) = (skip.reason for skip in skips)
    assert reason == (
        "loss boundary with mm needs the spacing of voxels, which is unknown for 1 of 40 cases of "
        "'small-segmentation': leave mm out"
    )


@pytest.mark.parametrize(
    ("model", "side", "lowest"),
    [
        # Four levels halve a patch three times, three levels twice; kernels are of 3.
        ("unet", 16, 2),
        ("unet", 24, 3),
        ("unet_small", 8, 2),
        ("unet_small", 16, 4),
    ],
)
def test_bfloat16_on_a_cpu_is_refused_where_convolutions_are_over_less_than_their_kernel(
    small_store, model, side, lowest
):
    store = small_store("segmentation", 3, 24)
    splits = split_store(store, folds=2, repeats=1, seed=0, inner_fraction=0.4)
    data = DataSet(name="volumes", path=store.path, splits=splits)

    def skips(**keys):
        content = {
            "name": "s",
            "data": [{"store": str(store.path)}],
            "models": [model, "dynunet"],
            "optimizers": ["adam"],
            "losses": ["ce"],
            "patch": [side] * 3,
            "loader": "torch",
            "threads": 1,
            "device": "cpu",
            "precision": "bfloat16",
            **keys,
        }
        found = expand(Study.model_validate(content), [data], Path.cwd())[1]
        return [skip.reason for skip in found if f"model {model} " in skip.reason]

    wanted = (
        f"model {model} shrinks patches of {side} x {side} x {side} to {lowest} x {lowest} x "
        f"{lowest}, less than a convolution's kernel, where bfloat16 on a CPU computes wrong "
        f"gradients: take larger patches, or float32"
    )
    assert skips() == ([wanted] if lowest < 3 else [])
    assert not skips(precision="float32")
    assert not skips(device="cuda")
