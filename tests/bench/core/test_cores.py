"""Trials, lanes, Ray, preparing and `doctor` keep to the cores that this process may use."""

import importlib

import pytest

from bench import api, doctor
from bench.execution.ray import capacity
from bench.planning.plan import resolve
from bench.study.schema import load_study
from loaders import cores

STUDY = """
name: small
data: [{store}]
models: [plain_cnn]
optimizers: [sgd]
losses: [ce]
folds: 2
"""


@pytest.fixture(autouse=True)
def job_of_three_cores(monkeypatch):
    monkeypatch.setattr(cores, "_affinity", lambda: 64)
    monkeypatch.setattr(cores, "_quotas", lambda _root: ())
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")


def test_a_trial_gets_as_many_threads_as_there_are_cores_for_it(tmp_path, small_store, monkeypatch):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(store=small_store("classification", 2).path))
    asked, base = load_study(path)
    assert resolve(asked, base, tmp_path / "run").study.threads == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert resolve(asked, base, tmp_path / "run").study.threads == 2
    assert resolve(asked, base, tmp_path / "run", lanes=2).study.threads == 1


def test_a_ray_of_our_own_has_those_cores():
    (machine,) = capacity.this_machine()
    assert machine.cores == 3


def test_as_many_processes_read(tmp_path, monkeypatch):
    asked = []
    module = importlib.import_module("loaders.store.prepare")
    monkeypatch.setattr(module, "prepare", lambda *_, workers, **__: asked.append(workers))
    api.prepare("msd", tmp_path, out=tmp_path / "store")
    assert asked == [3]


def test_doctor_says_how_many(monkeypatch):
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 64)
    assert "64 cores, 3 of them usable" in doctor._processor().detail
