"""GPU kernels that repeat their bits, as far as a CPU can show it."""

import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch.profiler import profile

from bench.core.gpu.repeatable import before_cuda, repeat


@pytest.fixture(autouse=True)
def _as_it_was():
    """torch's state is the process': each test leaves it as it found it."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with warnings.catch_warnings():
        yield
    torch.use_deterministic_algorithms(mode=False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def put() -> None:
    """The one operator that warns on a CPU too, twice from one line of code."""
    for _ in range(2):
        torch.zeros(4).put_(torch.tensor([1]), torch.tensor([1.0]))


def test_an_operator_that_does_not_repeat_is_named_in_each_trial():
    first = repeat(tf32=False)
    put()
    assert first == {"put_"}
    second = repeat(tf32=False)
    assert second == set()
    put()
    assert second == {"put_"}


def test_other_warnings_go_where_they_would_go():
    with warnings.catch_warnings(record=True) as seen:
        named = repeat(tf32=False)
        warnings.warn("about something else", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["about something else"]
    assert named == set()


def kernels(names: list[str]) -> int:
    """How many of torch's kernels of these names making an empty tensor takes."""
    with profile() as seen:
        torch.empty(1000)
    return sum(event.name in names for event in seen.events())


def test_fresh_memory_is_not_filled():
    torch.use_deterministic_algorithms(mode=True)
    assert kernels(["aten::fill_"]) == 1
    repeat(tf32=False)
    assert kernels(["aten::fill_"]) == 0


@pytest.mark.parametrize("tf32", [True, False])
def test_products_are_of_the_precision_that_the_study_names(tf32):
    repeat(tf32=tf32)
    assert torch.backends.cuda.matmul.allow_tf32 is tf32
    assert torch.backends.cudnn.allow_tf32 is tf32
    # A step that takes second derivatives of recurrent layers runs them so.
    with torch.backends.cudnn.flags(enabled=False):
        pass


def test_cublas_is_told_before_cuda_starts_and_the_user_s_word_stands(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before_cuda()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    before_cuda()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_process_that_trains_tells_it():
    code = (
        "import os; from bench.core.startup import begin; begin(1); "
        "print(os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    )
    bare = {name: v for name, v in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == [":4096:8"]


@pytest.mark.gpu
def test_on_a_gpu_the_gradient_of_a_maximum_in_space_is_named():
    # torch's notes on reproducibility list it among those without a deterministic kernel.
    named = repeat(tf32=False)
    image = torch.rand(1, 1, 4, 4, 4, device="cuda", requires_grad=True)
    torch.nn.functional.max_pool3d(image, 2).sum().backward()
    assert named == {"max_pool3d_with_indices_backward_cuda"}


@pytest.mark.parametrize("benchmark", [True, False])
def test_cudnn_tries_its_kernels_where_a_trial_asks_for_it_alone(benchmark):
    before = torch.backends.cudnn.benchmark
    try:
        repeat(tf32=False, benchmark=benchmark)
        assert torch.backends.cudnn.benchmark is benchmark
        repeat(tf32=False)
        assert torch.backends.cudnn.benchmark is False
    finally:
        torch.backends.cudnn.benchmark = before
