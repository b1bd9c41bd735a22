"""A user's own models, losses, optimizers and data: tried before a run, one sentence each."""

from pathlib import Path

import pytest

from bench.core.references import StudyError, load_reference
from bench.planning.expand import expand
from bench.planning.rehearsal import rehearse, rehearse_apart
from bench.study.dataset import DataSet, locate, split_store
from bench.study.schema import Study

OWN = """
import ctypes
import os
import signal
import sys
import time
import numpy as np
import torch
from torch import nn

NUMBER = 3


class Net(nn.Module):
    def __init__(self, in_channels, out_channels, dims, patch, width=4):
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.body, self.head = conv(in_channels, width, 3), nn.Linear(width, out_channels)
        self.each = conv(in_channels, out_channels, 1)

    def forward(self, x):
        return self.head(self.body(x).flatten(2).mean(2))


class Dense(Net):
    def forward(self, x):
        return self.each(x)


class Transposed(Net):
    def forward(self, x):
        return super().forward(x).T


class Tuple(Net):
    def forward(self, x):
        return (super().forward(x),) if self.training else super().forward(x)


class OnlyTraining(Net):
    def forward(self, x):
        return super().forward(x) if self.training else super().forward(x).argmax(1)


class Detached(Net):
    def forward(self, x):
        return super().forward(x).detach()


class Fixed(Net):
    def forward(self, x):
        return super().forward(x).detach().requires_grad_()


class Breaks(Net):
    def forward(self, x):
        raise RuntimeError("planted")


class Exits(Net):
    def forward(self, x):
        sys.exit(0)


def no_arguments():
    return nn.Linear(2, 2)


def no_module(in_channels, out_channels, dims, patch):
    return lambda x: x


def mean(logits, target):
    return nn.functional.cross_entropy(logits, target)


def each(logits, target, weight=1.0):
    return weight * nn.functional.cross_entropy(logits, target, reduction="none").reshape(
        len(logits), -1
    ).mean(1)


class Made:
    def __call__(self, logits, target):
        return mean(logits, target)


class NeedsArguments:
    def __init__(self, weight):
        pass


def one_argument(logits):
    return logits.mean()


def a_float(logits, target):
    return float(logits.mean())


def column(logits, target):
    return each(logits, target)[:, None]


def whole_numbers(logits, target):
    return logits.argmax(1).sum()


def no_gradient(logits, target):
    return each(logits.detach(), target)


def voxels(logits, target):
    return nn.functional.cross_entropy(logits[:, :, None, None], target[:, None, None])


def sgd(params, lr=0.1, weight_decay=0):
    return torch.optim.SGD(params, lr=lr, weight_decay=weight_decay)


def no_optimizer(params, lr=0.1):
    return list(params)


class Closing(torch.optim.SGD):
    needs_closure = True

    def step(self, closure):
        raise RuntimeError("planted")


class Leaves(Net):
    def forward(self, x):
        os._exit(3)


class Crashes(Net):
    def forward(self, x):
        ctypes.string_at(0)


class Stops(Net):
    def forward(self, x):
        time.sleep(1000)


class Copies(Net):
    def forward(self, x):
        os.fork()
        return super().forward(x)


def kills(logits, target):
    os.killpg(0, signal.SIGKILL)


def cuts(logits, target):
    os.closerange(3, 256)
    time.sleep(1)


def ends_python(params, lr=0.1):
    raise KeyboardInterrupt


def prints(logits, target):
    print("of the user's own")
    return mean(logits, target)
"""


@pytest.fixture
def expanded(small_store, tmp_path):
    """Return a function of a study's keys -> (trials, skips) on small sets of these tasks."""
    (tmp_path / "own.py").write_text(OWN)
    load_reference.cache_clear()

    def make(*tasks: str, tried=rehearse, **keys: object):
        sets = []
        for task in tasks or ("classification",):
            store = small_store(task, 2)
            splits = split_store(store, folds=2, repeats=1, seed=0, inner_fraction=0.4)
            sets.append(DataSet(name=task, path=store.path, splits=splits))
        study = Study.model_validate(
            {
                "name": "s",
                "data": [{"store": str(data.path), "name": data.name} for data in sets],
                "models": ["vgg_small", "unet_small"],
                "optimizers": ["adam"],
                "losses": ["ce"],
                "patch": [16, 16],
                "loader": "torch",
                "threads": 1,
                "device": "cpu",
                **keys,
            }
        )
        return expand(study, sets, tmp_path, tried=tried)

    return make


def test_what_is_good_is_taken(expanded):
    trials, skips = expanded(
        models=["own.py:Net", {"own.py:Net": {"width": 3}}],
        optimizers=["own.py:sgd"],
        losses=["own.py:mean", "own.py:each", {"own.py:each": {"weight": 2.0}}, "own.py:Made"],
    )
    assert len(trials) == 2 * 4 * 2
    assert not skips


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "own.py:NUMBER",
            "models: own.py:NUMBER is an int; expected a class or function that mak",
        ),
        ("math:pi", "models: math:pi is a float; expected"),
        ("math:sqrt", "math:sqrt cannot be built with in_channels=.*TypeError"),
        ("torch:nn", "models: torch:nn is a module; expected"),
        (
            "own.py:no_arguments",
            "no_arguments cannot be built with in_channels=.*unexpected keyword",
        ),
        ("own.py:no_module", "no_module made a function; expected a class or function"),
        ("own.py:mean", "mean cannot be built with .*unexpected keyword argument"),
        (
            "own.py:Transposed",
            r"images \(3, \d, 16, 16\) .* gave a tensor \(2, 3\) of float32; wan",
        ),
        ("own.py:Tuple", "in training and gave a tuple; wanted are logits"),
        ("own.py:OnlyTraining", "in evaluation and gave a tensor .* of int64; wanted are logits"),
        ("own.py:Detached", "gave logits without a gradient"),
        ("own.py:Fixed", "gave logits that no parameter affects"),
        ("own.py:Breaks", "failed with RuntimeError: planted; wanted are logits"),
        ("own.py:Exits", "failed with SystemExit: 0; wanted are logits"),
        ("own.py:Dense", "gave a tensor .* of float32; wanted are logits"),
    ],
)
def test_a_model_that_cannot_be_trained_is_one_sentence(expanded, name, said):
    with pytest.raises(StudyError, match=said) as caught:
        expanded(models=[name])
    assert len(str(caught.value).splitlines()) == 1
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("own.py:NUMBER", "losses: own.py:NUMBER is an int; expected a function of logits and"),
        ("own.py:NeedsArguments", "is a class that fails with TypeError: .*; expected a function"),
        ("own.py:one_argument", "failed with TypeError: .*positional argument.*; expected"),
        ("own.py:a_float", "failed with TypeError: it returned a float, not a tensor; expected"),
        ("own.py:column", r"gave a tensor \(3, 1\) of float32; expected a function"),
        ("own.py:whole_numbers", r"gave a tensor .* of int64; expected"),
        ("own.py:no_gradient", "gave values without a gradient; expected"),
        ({"own.py:each": {"wieght": 2.0}}, "'wieght': 2.0}, and failed with TypeError: .*wieght"),
        ({"own.py:each": {"total": 2.0}}, "failed with TypeError: .*total"),
        ("torch.nn:L1Loss", "failed with RuntimeError: .*; expected"),
        ("torch.nn:Module", "failed with .*; expected"),
    ],
)
def test_a_loss_that_cannot_be_used_is_one_sentence(expanded, entry, said):
    with pytest.raises(StudyError, match=said) as caught:
        expanded(losses=[entry], models=["vgg_small"])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("own.py:NUMBER", "optimizers: own.py:NUMBER is an int; expected"),
        ("own.py:no_optimizer", "it made a list, which has no step, zero_grad"),
        ("own.py:Closing", "fails with RuntimeError: planted; expected"),
        ("builtins:dict", "optimizers: builtins:dict cannot be driven"),
        ("math:sqrt", "optimizers: math:sqrt cannot be driven"),
        ({"adam": {"lr": -1.0}}, "optimizers: adam cannot be made with .*-1.0.*nvalid learning"),
        ({"adam": {"betas": [0.9, 7]}}, "optimizers: adam cannot be made with .*beta"),
        ({"sgd": {"momentum": -0.5}}, "optimizers: sgd cannot be made with .*momentum"),
        ({"lion": {"lr": -1.0}}, "optimizers: lion cannot be made with"),
    ],
)
def test_an_optimizer_that_cannot_be_made_is_one_sentence(expanded, entry, said):
    with pytest.raises(StudyError, match=said) as caught:
        expanded(optimizers=[entry], models=["vgg_small"])
    assert len(str(caught.value).splitlines()) == 1


def test_a_zoom_that_a_regularizer_sets_is_tried_too(expanded):
    with pytest.raises(StudyError, match=r"with strong_augmentation\(zoom=5.0\): zoom: "):
        expanded(regularizers=[{"strong_augmentation": {"zoom": 5.0}}])


def test_everything_that_is_wrong_is_told_at_once(expanded):
    with pytest.raises(StudyError) as caught:
        expanded(
            models=["own.py:Breaks", "own.py:Tuple", "vgg_small"],
            losses=["own.py:column", "own.py:nowhere", "ce"],
            optimizers=["own.py:no_optimizer", {"adam": {"lr": -1.0}}],
        )
    said = str(caught.value).splitlines()
    assert len(said) == 6
    names = ("no_optimizer", "adam", "Breaks", "Tuple", "column", "nowhere")
    for name, line in zip(names, said, strict=True):
        assert name in line


@pytest.mark.slow
def test_what_ends_the_process_that_tries_it_is_told_with_the_rest(expanded, capfd):
    with pytest.raises(StudyError) as caught:
        expanded(
            models=["own.py:Leaves", "own.py:Net"],
            losses=["own.py:prints", "own.py:column"],
            tried=rehearse_apart,
        )
    ended, wrong = str(caught.value).splitlines()
    assert ended.startswith(
        "models: own.py:Leaves ended the process that it was tried in (exit status 3); expected a "
        "class or function that makes a torch.nn.Module"
    )
    assert wrong.startswith("losses: own.py:column was given logits")
    assert not capfd.readouterr().out  # stdout is for what was asked: --json


@pytest.mark.slow
def test_what_ends_the_process_that_tries_it_in_other_ways(expanded, tmp_path):
    (tmp_path / "leaving.py").write_text("import os; os._exit(5)")
    ends = {
        "optimizers: own.py:ends_python": "(SIGINT)",
        "models: leaving.py:Net": "(exit status 5)",
        "models: own.py:Crashes": "(SIGSEGV)",
        "losses: own.py:kills": "(SIGKILL, as when memory runs out)",
        "losses: own.py:cuts": "(",
    }
    named = {key: [] for key in ("models", "losses", "optimizers")}
    for what in ends:
        key, name = what.split(": ")
        named[key].append(name)
    with pytest.raises(StudyError) as caught:
        expanded(**named, tried=rehearse_apart)
    said = str(caught.value).splitlines()
    assert len(said) == len(ends)
    for line, (what, how) in zip(said, ends.items(), strict=True):
        assert line.startswith(f"{what} ended the process that it was tried in {how}")


@pytest.mark.slow
def test_what_is_tried_without_an_end_is_told(expanded, monkeypatch):
    monkeypatch.setattr("bench.planning.rehearsal.LONGEST_SEC", 3.0)
    with pytest.raises(StudyError, match=r"Stops did not finish within 0.05 min; expected"):
        expanded(models=["own.py:Stops"], tried=rehearse_apart)


@pytest.mark.slow
def test_a_copy_of_the_process_that_tries_it_is_not_heard(expanded):
    trials, skips = expanded(
        "classification", "segmentation", models=["own.py:Copies"], tried=rehearse_apart
    )
    assert {t.dataset for t in trials} == {"classification"}
    assert [s.combination["dataset"] for s in skips] == ["segmentation"]


def test_what_fails_on_one_data_set_is_skipped_there_with_the_reason(expanded):
    trials, skips = expanded(
        "classification", "segmentation", models=["own.py:Net", "own.py:Dense"], losses=["ce"]
    )
    assert {(t.dataset, t.choices["model"].label) for t in trials} == {
        ("classification", "Net"),
        ("segmentation", "Dense"),
    }
    reasons = {(s.combination["dataset"], s.combination["model"]): s.reason for s in skips}
    assert "wanted are logits (2, 3, 16, 16)" in reasons["segmentation", "Net"]
    assert "wanted are logits (3, 2)" in reasons["classification", "Dense"]
    assert len(reasons) == 2


def test_a_batch_that_no_machine_holds_is_refused(expanded):
    with pytest.raises(StudyError, match=r"a batch of .* patches \[16000, 16000\] .* GiB"):
        expanded(patch=[16000, 16000], batch_size=1000)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (":x", "is not the name of a module"),
        ("..own:x", "is not the name of a module"),
        ("a b:x", "is not the name of a module"),
        ("nothing_of_this_name:x", "no module 'nothing_of_this_name' is installed"),
        ("torch.nothing:x", "no module 'torch.nothing' is installed"),
        ("broken_module:x", "failed while it was imported: ZeroDivisionError"),
        ("leaving_module:x", "failed while it was imported: SystemExit"),
        ("needy_module:x", "failed while it was imported: ModuleNotFoundError"),
        ("sys:nothing", "unknown name 'nothing'"),
        ("own.py:", "unknown name ''"),
        ("nowhere.py:x", "there is no file nowhere.py"),
        (f"{'n' * 300}.py:x", "there is no file"),
        ("folder.py:x", "there is no file folder.py"),
        ("latin.py:x", "latin.py failed while it was loaded: SyntaxError"),
        ("leaving.py:x", "leaving.py failed while it was loaded: SystemExit"),
        ("cut.py:x", "cut.py failed while it was loaded: SyntaxError"),
        ("nul.py:x", "nul.py failed while it was loaded: "),
    ],
)
def test_a_reference_that_cannot_be_loaded_is_one_sentence(tmp_path, monkeypatch, text, said):
    (tmp_path / "own.py").write_text("x = 1\n")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "latin.py").write_bytes("x = 'größe'\n".encode("latin-1"))
    for name in ("leaving.py", "leaving_module.py"):
        (tmp_path / name).write_text("raise SystemExit(0)\n")
    (tmp_path / "cut.py").write_text("def x(:\n")
    (tmp_path / "nul.py").write_bytes(b"x = 1\0\n")
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    (tmp_path / "needy_module.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StudyError, match=said) as caught:
        load_reference(text, tmp_path)
    assert len(str(caught.value).splitlines()) == 1


DATA = """
import numpy as np
from loaders.cases import Case, Meta


def meta(**changes):
    known = dict(
        kind="own", name="own", task="classification", dims=2, channels=("intensity",),
        classes=("a", "b"), regions={}, positive=1, normalize="train", fill=0.0, unit="image",
        group_source="case", source="made by a test", licence="none", options={},
    )
    return Meta(**{**known, **changes})


def case(n, **changes):
    known = dict(
        key=str(n), group=str(n), image=np.full((1, 8, 8), n, np.uint8), label=n % 2, mask=None,
        spacing=(1.0, 1.0),
    )
    return Case(**{**known, **changes})


def good():
    return meta(), (case(n) for n in range(4))


NUMBER = 3


def needs(n):
    return good()


def nothing():
    pass


def only_meta():
    return meta()


def no_cases():
    return meta(), 3


def no_meta():
    return {}, [case(1)]


def elsewhere():
    return meta(name="../../elsewhere"), [case(1)]


def wrong_meta():
    return meta(task="guessing"), [case(1)]


def no_case():
    return meta(), [case(1), "picture.png"]


def breaks():
    yield meta()
    yield (case(1 // 0) for _ in range(2))


def wrong_label():
    return meta(), [case(1), case(2, label=7)]


def empty():
    return meta(), []
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NUMBER", "data: own.py:NUMBER is an int; expected a function without arguments that"),
        ("needs", "data: own.py:needs failed with TypeError: .*argument"),
        ("nothing", "data: own.py:nothing gave None; expected"),
        ("only_meta", "data: own.py:only_meta gave a Meta; expected"),
        ("no_cases", "data: own.py:no_cases gave a tuple; expected"),
        ("no_meta", "data: own.py:no_meta gave a dict first; expected"),
        ("elsewhere", "Meta with the name '../../elsewhere'"),
        ("wrong_meta", "data: own.py:wrong_meta failed with ValueError: task is 'guessing'"),
        ("no_case", "data: own.py:no_case gave a str as its case 2; expected"),
        ("breaks", "data: own.py:breaks failed at its case 1 with ZeroDivisionError"),
        ("wrong_label", "data: own.py:wrong_label, case '2': "),
    ],
)
def test_data_of_the_users_own_that_cannot_be_used_is_one_sentence(
    tmp_path, monkeypatch, name, said
):
    monkeypatch.setenv("MEDOPT_KEY", "test")
    (tmp_path / "own.py").write_text(DATA)
    with pytest.raises(StudyError, match=said) as caught:
        locate(f"own.py:{name}", tmp_path, tmp_path / "stores")
    assert len(str(caught.value).splitlines()) == 1
    assert [p.name for p in (tmp_path / "stores").glob("*") if p.suffix != ".building"] == []
    assert locate("own.py:good", tmp_path, tmp_path / "stores").is_dir()


def test_a_store_of_a_name_that_no_folder_can_have_is_not_there(tmp_path: Path):
    for name in ("s" * 5000, "s\0", "nowhere"):
        with pytest.raises(StudyError, match="data: there is no store"):
            locate(name, tmp_path, tmp_path / "stores")
