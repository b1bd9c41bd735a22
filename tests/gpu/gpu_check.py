#!/usr/bin/env python3
"""Figures of MedOptBench on one GPU, in one call: prints one JSON, last, and keeps it in --out.

    python3 gpu_check.py --out $OUT                    # GPU, at most --seconds (420)
    python3 gpu_check.py --device cpu --quick --out x   # the same code, small, without a GPU

Run it in the repository's root. Data are made here; only public functions and the command line of
the project are used. A section that fails is an "error" in the JSON and the next one goes on; one
for which the time is too short is "skipped". Figures of a section are written as soon as it ends.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

START = time.monotonic()
sys.path.insert(0, str(Path.cwd()))
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np  # noqa: E402  # after the path
import torch  # noqa: E402  # after the path

CLI = [sys.executable, "-c", "from bench.cli import main; main()"]
# Published anchors: unit, value, where.
ANCHORS = {
    "nnunet_dali_a100_128_batch2_amp": ("volumes/s", 27.5, "NVIDIA nnU-Net for PyTorch, training"),
    "mlperf_storage_unet3d_h100": ("samples/s of 146 MB, one H100", 21.7, "3.2 GB/s"),
}


# ---- the data: made here, stored by loaders.store ------------------------------------------


def make_stores(root: Path, quick: bool):
    """name -> path. Images with a signal, cheap to make: one field, moved on from case to case."""
    from loaders.cases import Case, Item, Kind, Meta, Survey
    from loaders.store.write import write_store

    def meta(name, task, dims, channels, classes):
        masks = task == "segmentation"
        return Meta(
            kind="made",
            name=name,
            task=task,
            dims=dims,
            channels=tuple(f"c{i}" for i in range(channels)),
            classes=tuple(f"k{i}" for i in range(classes)),
            regions={f"k{i}": (i,) for i in range(1, classes)} if masks else {},
            positive=1 if not masks and classes == 2 else None,
            normalize="train",
            fill=0.0,
            unit="volume" if dims == 3 else "image",
            group_source="patient",
            source="made",
            licence="none",
            options={},
        )

    def read(item, about):
        extra = item.extra
        rng = np.random.default_rng(7)
        shape, dtype = tuple(extra["shape"]), np.dtype(extra["dtype"])
        field = rng.integers(0, 60, (len(about.channels), *shape)).astype(dtype)
        grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, s) for s in shape], indexing="ij"))
        ball = (grid**2).sum(0)
        for n in range(extra["count"]):
            label = n // 2 % len(about.classes)
            shift = int(rng.integers(0, max(shape)))
            image = np.roll(field, shift, -1)
            # Equal images would be one group.
            image.reshape(-1)[:64] = rng.integers(0, 60, 64)
            mask = None
            if about.task == "segmentation":
                size = 0.1 + 0.5 * rng.random()
                mask = sum((ball < size / k).astype(np.uint8) for k in range(1, len(about.classes)))
                mask = np.roll(mask, int(rng.integers(-3, 4)), -1).astype(np.uint8)
                image = image + (mask * 30).astype(dtype)
            else:
                image = image + dtype.type(12 * label)
            yield Case(
                key=f"case{n}",
                group=f"patient{n // 2}",
                image=image,
                label=None if mask is not None else label,
                mask=mask,
                spacing=(1.0,) * about.dims,
            )

    kind = Kind(
        name="made", summary="made", source="made", read=read, options={}, survey=lambda *_: None
    )
    small = [
        # name, task, dims, channels, classes, shape, dtype, count
        ("a2", "classification", 2, 1, 2, (28, 28), "uint8", 120 if quick else 780),
        ("a3", "classification", 2, 3, 9, (28, 28), "uint8", 180 if quick else 4096),
        (
            "b",
            "segmentation",
            2,
            1,
            2,
            (64, 64) if quick else (256, 256),
            "int16",
            16 if quick else 240,
        ),
        ("small3", "segmentation", 3, 2, 3, (24, 24, 24) if quick else (40, 40, 40), "int16", 24),
        (
            "c",
            "segmentation",
            3,
            4,
            4,
            (36, 36, 36) if quick else (155, 192, 160),
            "int16",
            8 if quick else 12,
        ),
    ]
    made = {}
    for name, task, dims, channels, classes, shape, dtype, count in small:
        path = root / "stores" / name
        if not path.exists():
            item = Item(key="all", paths=(), extra={"shape": shape, "dtype": dtype, "count": count})
            survey = Survey(
                meta=meta(name, task, dims, channels, classes), items=(item,), rejected=()
            )
            write_store(kind, survey, path, key=b"check", workers=1, strict=True)
        made[name] = path
    return made


# ---- NVML ---------------------------------------------------------------------------------------


class Watch:
    """Share of time with a kernel, highest memory and energy of the card, while in the block."""

    def __init__(self, device):
        self.figures = {}
        self._nvml = None
        if device.type == "cuda":
            with contextlib.suppress(Exception):
                import pynvml

                pynvml.nvmlInit()
                self._nvml = pynvml
                self._card = pynvml.nvmlDeviceGetHandleByIndex(0)

    def __enter__(self):
        self._start, self._stop, self._seen = time.perf_counter(), threading.Event(), []
        if self._nvml:
            self._energy = self._millijoules()
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def _millijoules(self):
        with contextlib.suppress(Exception):
            return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._card)
        return None

    def _sample(self):
        while not self._stop.wait(0.05):
            with contextlib.suppress(Exception):
                self._seen.append(
                    (
                        self._nvml.nvmlDeviceGetUtilizationRates(self._card).gpu,
                        self._nvml.nvmlDeviceGetMemoryInfo(self._card).used,
                        self._nvml.nvmlDeviceGetPowerUsage(self._card) / 1e3,
                    )
                )

    def __exit__(self, *_):
        self.figures["seconds"] = time.perf_counter() - self._start
        if not self._nvml:
            return
        self._stop.set()
        self._thread.join()
        after = self._millijoules()
        if self._energy is not None and after is not None:
            self.figures["joules"] = (after - self._energy) / 1e3
        if self._seen:
            busy, used, watts = map(np.array, zip(*self._seen, strict=False))
            self.figures |= {
                "gpu_busy_mean_percent": float(busy.mean()),
                "gpu_busy_p50_percent": float(np.median(busy)),
                "card_memory_max_bytes": int(used.max()),
                "watts_mean": float(watts.mean()),
            }


# ---- trials through the project's own plan ------------------------------------------------------


def plan_of(root, stores, device, name, data, **study):
    import yaml

    from bench.planning.plan import resolve
    from bench.study.schema import load_study

    text = {"name": name, "data": [str(stores[data])], "device": device.type, "folds": 4, **study}
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(text))
    asked, base = load_study(path)
    return resolve(asked, base, root / "runs" / name)


def one(plan, device, trial=None):
    from bench.training.train import run_trial

    trial = trial or plan.trials[0]
    return run_trial(trial, plan.data(trial.dataset), plan.base, device=device)


def figures_of(outcome, watch):
    row = outcome.trial
    keep = (
        "status",
        "reason",
        "samples_per_sec",
        "step_ms_p50",
        "step_ms_p95",
        "optimizer_step_ms_p50",
        "setup_sec",
        "train_sec",
        "eval_sec",
        "data_wait_sec",
        "wall_sec",
        "peak_memory_bytes",
        "flops_per_sample",
        "test_score",
        "test_loss",
        "infer_ms_per_case",
        "batch_size",
    )
    found = {k: row[k] for k in keep}
    # The first epoch carries one-off work (kernels, plans, memory): the best one is the rate.
    rates = [e["samples_per_sec"] for e in outcome.epochs]
    waits = [e["data_wait_sec"] for e in outcome.epochs[1:]] or [row["data_wait_sec"]]
    later = row["train_sec"] - outcome.epochs[0]["elapsed_sec"] or row["train_sec"]
    found |= {
        "samples_per_sec_best_epoch": max(rates),
        "data_wait_share_after_first_epoch": sum(waits) / later,
        "eval_share_of_wall": row["eval_sec"] / row["wall_sec"],
        "setup_share_of_wall": row["setup_sec"] / row["wall_sec"],
        "tflops_best_epoch": row["flops_per_sample"] * max(rates) / 1e12,
        **watch.figures,
    }
    if "joules" in watch.figures:
        found["joules_per_sample"] = watch.figures["joules"] / row["sample_gradients"]
    return found


# ---- sections -----------------------------------------------------------------------------------


def machine(ctx):
    device = ctx.device
    found = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "numpy": np.__version__,
    }
    with contextlib.suppress(Exception):
        import nvidia.dali as dali

        found["dali"] = dali.__version__
    if device.type == "cuda":
        found |= {
            "card": torch.cuda.get_device_name(),
            "cudnn": torch.backends.cudnn.version(),
            "conv_tf32": torch.backends.cudnn.allow_tf32,
            "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
        }
        host = torch.empty(256 << 20, dtype=torch.uint8)
        for name, source in (("pageable", host), ("pinned", host.pin_memory())):
            source.cuda()
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(4):
                source.to(device, non_blocking=True)
            torch.cuda.synchronize()
            found[f"h2d_{name}_gb_per_sec"] = 4 * 0.268435456 / (time.perf_counter() - start)
        big = torch.empty(2 << 30, dtype=torch.uint8, device=device)
        found["d2d_tb_per_sec"] = 2 * big.numel() / _seconds(big.clone, device, 5) / 1e12
        del big
        a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
        found["bf16_tflops"] = 2 * 8192**3 / _seconds(lambda: a @ a, device, 10) / 1e12
    return found


def _seconds(function, device, times):
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def doctor(ctx):
    done = subprocess.run(
        [*CLI, "doctor", "--json"], check=False, capture_output=True, text=True, timeout=120
    )
    return {
        "exit": done.returncode,
        "findings": {f["what"]: [f["state"], f["detail"]] for f in json.loads(done.stdout)},
    }


MOVES = {
    "translate": 0.1,
    "rotate": 15.0,
    "zoom": 0.1,
    "noise": 0.2,
    "contrast": 0.25,
    "gamma": 0.3,
    "chance": 0.5,
}


def batches(ctx):
    """Batches on the device against those of the torch loader on the CPU."""
    from bench.training.train import make_sampler
    from loaders.batches.table import LOADERS

    found = {}
    for data, patch in (("a3", None), ("b", None), ("small3", [20, 20, 20])):
        for extra in (False, True):
            augment = MOVES if extra else {}
            plan = plan_of(
                ctx.root,
                ctx.stores,
                ctx.device,
                f"batches-{data}-{int(extra)}",
                data,
                models=["unet_small" if data != "a3" else "plain_cnn"],
                optimizers=["sgd"],
                losses=["ce"],
                augment=augment,
                **({"patch": patch} if patch else {}),
            )
            trial = plan.trials[0]
            sampler = make_sampler(trial, plan.data(trial.dataset), 3)
            store = plan.data(trial.dataset).store
            size, count = trial.batch_size, 4 if ctx.quick else 24
            settings = {"batch_size": size, "batches": count, "threads": 2}
            with LOADERS["torch"].open(store, sampler, device=torch.device("cpu"), **settings) as s:
                wanted = [(i.clone(), t.clone()) for i, t, *_ in s]
            span = float(np.ptp(np.concatenate([i.numpy().ravel() for i, _ in wanted])))
            for loader in ("dali", "torch", "monai", "resident"):
                if not LOADERS[loader].available():
                    continue
                name = f"{data}/{'all' if extra else 'plain'}/{loader}"
                try:
                    got = _collect(LOADERS[loader], store, sampler, settings, ctx.device)
                    error = max(
                        float((g - w).abs().max())
                        for (g, _), (w, _) in zip(got, wanted, strict=False)
                    )
                    other = [
                        float((g.long() != w.long()).float().mean())
                        for (_, g), (_, w) in zip(got, wanted, strict=False)
                    ]
                    found[name] = {
                        "worst_error_of_range": error / span,
                        "bit_equal": all(
                            torch.equal(g, w) for (g, _), (w, _) in zip(got, wanted, strict=False)
                        ),
                        "labels_other_share": max(other),
                    }
                except Exception as error:  # noqa: BLE001  # a section that fails is an error in the JSON
                    found[name] = _fault(error)
    return found


def _collect(row, store, sampler, settings, device):
    """Take each batch away while the card is busy, and give its memory back at once.

    Where a loader used memory again before the work that was queued on it has run, what is copied
    here would be a later batch.
    """
    kept = []
    busy = torch.randn(4096, 4096, device=device) if device.type == "cuda" else None
    with row.open(store, sampler, device=device, **settings) as stream:
        for image, target, *_ in stream:
            if busy is not None:
                for _ in range(40):
                    busy @ busy
            kept.append((image.clone(), target.clone()))
            del image, target
    return [(i.cpu(), t.cpu()) for i, t in kept]


REPEATED = {
    "a2": ("plain_cnn", "resnet18", "densenet121"),
    "b": ("unet",),
    "small3": ("unet", "dynunet", "segresnet", "mednext_s"),
}


def repeat(ctx):
    """The same trial twice: is everything equal, weights included? Which operators are named?"""
    found = {}
    for data, models in REPEATED.items():
        for model in models if not ctx.quick else models[:1]:
            for precision in ("float32", "bfloat16"):
                name = f"{data}/{model}/{precision}"
                if ctx.left() < 60:
                    found[name] = "skipped"
                    continue
                try:
                    plan = plan_of(
                        ctx.root,
                        ctx.stores,
                        ctx.device,
                        name.replace("/", "-"),
                        data,
                        models=[model],
                        optimizers=["adam"],
                        losses=["ce" if data == "a2" else "dice_ce"],
                        epochs=2,
                        precision=precision,
                        keep_weights=True,
                        **({"patch": [24 if ctx.quick else 32] * 3} if data == "small3" else {}),
                    )
                    first, second = one(plan, ctx.device), one(plan, ctx.device)
                    mine, theirs = (torch.load(io.BytesIO(o.weights)) for o in (first, second))
                    found[name] = {
                        "weights_equal": all(torch.equal(mine[k], theirs[k]) for k in mine),
                        "losses_equal": [e["train_loss"] for e in first.epochs]
                        == [e["train_loss"] for e in second.epochs],
                        "metrics_equal": first.metrics == second.metrics,
                        "loss_gap": abs(
                            (first.trial["test_loss"] or 0) - (second.trial["test_loss"] or 0)
                        ),
                        "unrepeatable": first.trial["unrepeatable"],
                    }
                except Exception as error:  # noqa: BLE001  # a section that fails is an error in the JSON
                    found[name] = _fault(error)
    return found


def precision(ctx):
    """Scores of the precisions, and whether float32 is single precision in a convolution here."""
    found = {}
    if ctx.device.type == "cuda":
        x = torch.randn(8, 64, 32, 32, device=ctx.device)
        w = torch.randn(64, 64, 3, 3, device=ctx.device)
        exact = torch.nn.functional.conv2d(x.double(), w.double())
        got = torch.nn.functional.conv2d(x, w).double()
        # float32: under 1e-6; TF32: near 3e-4.
        found["conv_relative_error"] = float((got - exact).norm() / exact.norm())
    for kind in ("float32", "tf32", "bfloat16", "float16"):
        if ctx.device.type == "cpu" and kind in ("tf32", "float16"):
            continue
        plan = plan_of(
            ctx.root,
            ctx.stores,
            ctx.device,
            f"precision-{kind}",
            "small3",
            models=["unet"],
            optimizers=["adam"],
            losses=["dice_ce"],
            epochs=2 if ctx.quick else 12,
            precision=kind,
            patch=[24 if ctx.quick else 32] * 3,
        )
        with Watch(ctx.device) as watch:
            outcome = one(plan, ctx.device)
        found[kind] = figures_of(outcome, watch)
    return found


# How a trial may be computed: name -> loader, and settings of the study.
WAYS = {"dali": ("dali", {}), "torch": ("torch", {})}
# For small images and networks, whose steps are launches of kernels and the loader's work.
WAYS_FOR_SMALL = {
    "resident, CUDA graphs": ("resident", {"cuda_graph": True}),
    "resident": ("resident", {}),
    "torch, CUDA graphs": ("torch", {"cuda_graph": True}),
}


def work(ctx, data, model, loss, epochs, ways=WAYS, **study):
    """A trial in some ways, each loader alone, and the step alone by what is switched on."""
    from bench.training.train import make_sampler
    from loaders.batches.table import LOADERS

    found, plan = {}, None
    for way, (loader, own) in ways.items():
        if not LOADERS[loader].available() or (own and ctx.device.type == "cpu"):
            continue
        if ctx.left() < 45:
            found[way] = "skipped"
            continue
        try:
            plan = plan_of(
                ctx.root,
                ctx.stores,
                ctx.device,
                f"work-{data}-{model}-{''.join(c for c in way if c.isalpha())}",
                data,
                models=[model],
                optimizers=["adamw"],
                losses=[loss],
                epochs=2 if ctx.quick else epochs,
                loader=loader,
                **own,
                **study,
            )
            trial = plan.trials[0]
            with Watch(ctx.device) as watch:
                outcome = one(plan, ctx.device)
            found[way] = figures_of(outcome, watch)
            # The loader with nothing behind it.
            data_set = plan.data(trial.dataset)
            sampler = make_sampler(trial, data_set, 1)
            count = 4 if ctx.quick else (40 if len(trial.patch) == 3 else 200)
            with LOADERS[loader].open(
                data_set.store,
                sampler,
                batch_size=trial.batch_size,
                batches=count,
                threads=trial.threads,
                device=ctx.device,
            ) as stream:
                next(stream)
                start = time.perf_counter()
                for image, *_ in stream:  # noqa: B007  # the last one is measured below
                    pass
                if ctx.device.type == "cuda":
                    torch.cuda.synchronize()
                seconds = time.perf_counter() - start
            rate = (count - 1) * trial.batch_size / seconds
            store = data_set.store
            case = int(store.shapes[0].prod()) * (
                len(store.meta.channels) * store.image_type.itemsize + 1
            )
            found[way] |= {
                "loader_alone_samples_per_sec": rate,
                "loader_alone_patch_gb_per_sec": rate
                * image[0].numel()
                * store.image_type.itemsize
                / 1e9,
                "loader_alone_whole_case_gb_per_sec": rate * case / 1e9,
                "threads": trial.threads,
            }
        except Exception as error:  # noqa: BLE001  # a section that fails is an error in the JSON
            found[way] = _fault(error)
    if plan is not None and ctx.left() > 40:
        try:
            found["step_alone"] = _step_alone(ctx, plan)
        except Exception as error:  # noqa: BLE001  # a section that fails is an error in the JSON
            found["step_alone"] = _fault(error)
    return found


def _step_alone(ctx, plan):
    """Samples/s of forward, backward and update on one resident batch, by what is switched on."""
    from bench.core.precision import PRECISIONS
    from bench.losses.supervision import supervised
    from bench.losses.table import alone
    from bench.study.components import Combination, optimizer_row
    from bench.training.networks import build_model

    device, trial = ctx.device, plan.trials[0]
    parts = Combination(choices=trial.choices, base=plan.base)
    store = plan.data(trial.dataset).store
    gpu = device.type == "cuda"
    found = {}

    def rate(channels_last=False, graph=False):
        torch.manual_seed(0)
        model = build_model(parts.model, store.path, trial.patch).to(device).train()
        shape = (trial.batch_size, len(store.meta.channels), *trial.patch)
        image = torch.randn(shape, device=device)
        if channels_last:
            memory = {2: torch.channels_last, 3: torch.channels_last_3d}[len(trial.patch)]
            model, image = model.to(memory_format=memory), image.contiguous(memory_format=memory)
        masks = trial.task == "segmentation"
        target = torch.randint(
            0,
            len(store.meta.classes),
            (trial.batch_size, *(trial.patch if masks else ())),
            device=device,
        )
        optimizer = (
            torch.optim.AdamW(model.parameters(), capturable=True)
            if graph
            else optimizer_row("adamw", {}, plan.base).row.build(model.parameters())
        )
        values = supervised(parts.loss.row.bind({}), None, alone)
        kind = PRECISIONS[trial.precision]
        scaler = kind.scaler(device)

        def step():
            optimizer.zero_grad(set_to_none=True)
            with kind.autocast(device):
                given = model(image)
            scaler.scale(values(given, target).mean()).backward()
            scaler.step(optimizer)
            scaler.update()

        if graph:
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                for _ in range(4):
                    step()
            torch.cuda.synchronize()
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                step()
            run = captured.replay
        else:
            run = step
        for _ in range(3):
            run()
        once = _seconds(run, device, 2)
        return trial.batch_size / _seconds(run, device, max(2, min(300, int(2.0 / once))))

    def tried(name, **settings):
        if ctx.left() < 30:
            found[name] = "skipped"
            return
        try:
            found[name] = rate(**settings)
        except Exception as error:  # noqa: BLE001  # a section that fails is an error in the JSON
            found[name] = _fault(error)

    if gpu:
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
    tried("as run_trial sets it")
    if gpu:
        torch.utils.deterministic.fill_uninitialized_memory = False
        tried("no fill of fresh memory")
        tried("and channels last", channels_last=True)
        if trial.task == "classification" and trial.precision == "float32":
            tried("and one CUDA graph", graph=True)
        torch.backends.cudnn.benchmark = True
        tried("and cudnn.benchmark")
        torch.use_deterministic_algorithms(mode=False)
        tried("and not deterministic")
        torch.backends.cudnn.benchmark = False
        torch.utils.deterministic.fill_uninitialized_memory = True
    return found


def work_a(ctx):
    return {
        model: work(ctx, "a2", model, "ce", 10, WAYS | WAYS_FOR_SMALL, batch_size=32)
        for model in ("plain_cnn", "resnet18")
    }


def work_a128(ctx):
    return work(ctx, "a3", "resnet18", "ce", 3, WAYS | WAYS_FOR_SMALL, batch_size=128)


def work_b(ctx):
    return work(ctx, "b", "unet", "dice_ce", 3, batch_size=4 if ctx.quick else 16)


def work_c(ctx):
    side = 32 if ctx.quick else 128
    kind = "bfloat16" if ctx.device.type == "cpu" else "float16"
    found = work(ctx, "c", "dynunet", "dice_ce", 8, batch_size=2, patch=[side] * 3, precision=kind)
    if not ctx.quick:
        found["anchors"] = ANCHORS
    return found


def study(ctx):
    """`medopt run` of 36 small trials, as many side by side as there is room for."""
    return _run_of(ctx, _small_study(ctx))


def study_fast(ctx):
    """The same study by CUDA graphs, with its store on the card."""
    graphs = ctx.device.type == "cuda"
    return _run_of(ctx, _small_study(ctx, "fast", loader="resident", cuda_graph=graphs))


def study_alone(ctx):
    """The same study, one trial after the other."""
    return _run_of(ctx, _small_study(ctx), "--lanes", "1")


def study_planned(ctx):
    """What `medopt plan` said of it."""
    return _plan_of(ctx, _small_study(ctx))


def _small_study(ctx, name="small", **settings):
    plan_of(
        ctx.root,
        ctx.stores,
        ctx.device,
        name,
        "a2",
        models=["plain_cnn"],
        optimizers=["sgd", "adagrad", "rmsprop", "adam", "adamw", "lbfgs"],
        losses=["ce"] if ctx.quick else ["ce", "focal"],
        epochs=2 if ctx.quick else 10,
        batch_size=32,
        folds=3,
        **settings,
    )
    return ctx.root / f"{name}.yaml"


def _plan_of(ctx, path):
    start = time.perf_counter()
    said = _medopt(ctx, "plan", str(path), "--json")
    found = {"plan_exit": said.returncode, "plan_wall_sec": time.perf_counter() - start}
    if said.returncode:
        return found | {"plan_said": said.stderr[-500:]}
    plan = json.loads(said.stdout)
    keys = ("seconds", "seconds_low", "seconds_high", "lanes")
    found |= {f"planned_{key}": plan[key] for key in keys}
    return found | {"trials": len(plan["trials"]), "room": plan["room"]}


def _run_of(ctx, path, *lanes):
    run = ctx.root / "runs" / "-".join((path.stem, *lanes))
    start = time.perf_counter()
    with Watch(ctx.device) as watch:
        done = _medopt(ctx, "run", str(path), "--out", str(run), *lanes)
    found = {
        "run_exit": done.returncode,
        "run_wall_sec": time.perf_counter() - start,
        **watch.figures,
    }
    if done.returncode:
        found["run_said"] = (done.stdout + done.stderr)[-1500:]
    import pyarrow.dataset as ds

    files = [str(p) for p in run.rglob("*.parquet") if "trials" in str(p)]
    if files:
        table = ds.dataset(files).to_table().to_pandas()
        found["sum_of_trials_sec"] = float(table["wall_sec"].sum())
        for column in ("setup_sec", "train_sec", "eval_sec", "data_wait_sec"):
            found[f"share_{column}"] = float(table[column].sum() / table["wall_sec"].sum())
        found["statuses"] = table["status"].value_counts().to_dict()
        found["reasons"] = sorted(table["reason"].dropna().unique())[:5]
    return found


def _medopt(ctx, *words):
    return subprocess.run(
        [*CLI, *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=max(30, ctx.left() - 20),
        cwd=str(Path.cwd()),
    )


def stacked(ctx):
    """Samples/s of networks trained as one by torch.func, and one after the other: an experiment.

    Plain SGD on one resident batch, which all of them see.
    """
    from torch.func import functional_call, grad, stack_module_state, vmap

    from models.table import MODELS

    device, batch, found = ctx.device, 32, {}
    row = MODELS["plain_cnn"]
    shape = {"in_channels": 1, "out_channels": 2, "dims": 2, "patch": (28, 28)}
    image = torch.randn(batch, 1, 28, 28, device=device)
    target = torch.randint(0, 2, (batch,), device=device)

    def networks(count):
        torch.manual_seed(0)
        # Our own max pooling has a gradient of its own, which torch.func does not take.
        settings = {**row.settings, "dropout": 0.0, "pool": "average"}
        return [row.build(**shape, **settings).to(device).train() for _ in range(count)]

    def rate(step, count):
        step()
        seconds = _seconds(step, device, 5 if ctx.quick else 50)
        return count * batch / seconds

    for count in (2,) if ctx.quick else (8, 32):
        own = networks(count)
        parameters, buffers = stack_module_state(own)
        shared = own[0]

        def loss(weights, state, image, target, shared=shared):
            given = functional_call(shared, (weights, state), (image,))
            return torch.nn.functional.cross_entropy(given, target)

        gradients = vmap(grad(loss), in_dims=(0, 0, None, None))

        def as_one(parameters=parameters, buffers=buffers, gradients=gradients):
            found = gradients(parameters, buffers, image, target)
            with torch.no_grad():
                torch._foreach_add_(list(parameters.values()), list(found.values()), alpha=-0.01)

        found[f"{count} as one"] = rate(as_one, count)
    (alone,) = networks(1)
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.01)

    def one_alone():
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(alone(image), target).backward()
        optimizer.step()

    found["one at a time"] = rate(one_alone, 1)
    return found


def together(ctx):
    """Samples/s of K processes that train small trials on one card at once.

    Then by way of CUDA's multi-process service, where it can be started: a daemon of our own, in
    folders of its own, which changes no setting of the card.
    """
    found = {}
    for count in (1, 2) if ctx.quick else (1, 8):
        found[str(count)] = _beside(ctx, count, {})
    if ctx.device.type == "cuda":
        with _multi_process_service(ctx.root / "mps") as environment:
            found["8 by MPS"] = _beside(ctx, 8, environment) if environment else "no MPS here"
    for count in () if ctx.quick else (16, 4):
        found[str(count)] = _beside(ctx, count, {})
    return found


@contextlib.contextmanager
def _multi_process_service(folder):
    folder.mkdir(exist_ok=True)
    own = {f"CUDA_MPS_{kind}_DIRECTORY": str(folder) for kind in ("PIPE", "LOG")}
    control = ["nvidia-cuda-mps-control"]
    try:
        done = subprocess.run(
            [*control, "-d"],
            env={**os.environ, **own},
            timeout=20,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        yield {}
        return
    try:
        yield own if done.returncode == 0 else {}
    finally:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                control, env={**os.environ, **own}, timeout=20, check=False, input=b"quit\n"
            )


def _beside(ctx, count, environment):
    if ctx.left() < 25:
        return "skipped"
    go = ctx.root / f"go{count}{'-mps' * bool(environment)}"
    command = [
        sys.executable,
        __file__,
        "--device",
        ctx.device.type,
        "--worker",
        str(go),
        "--root",
        str(ctx.root),
        *["--quick"] * ctx.quick,
    ]
    running = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        for _ in range(count)
    ]

    def ready():
        return sum((ctx.root / f"{go.name}.{p.pid}").exists() for p in running)

    begun = time.monotonic()
    while ready() < count and time.monotonic() - begun < (60 if ctx.device.type == "cuda" else 300):
        if any(p.poll() is not None for p in running):
            break
        time.sleep(0.1)
    if ready() < count:
        for process in running:
            process.kill()
            process.communicate()
        return {"error": f"{count - ready()} of {count} did not begin in time"}
    with Watch(ctx.device) as watch:
        go.touch()
        said = [p.communicate(timeout=120)[0] for p in running]
    rows = [json.loads(s.splitlines()[-1]) for s in said if s.strip()]
    return {
        "samples_per_sec": sum(r["samples"] / r["seconds"] for r in rows),
        "trials_per_min": 60 * sum(r["trials"] / r["seconds"] for r in rows),
        "host_bytes_of_one": max(r["host_bytes"] for r in rows),
        **watch.figures,
    }


def worker(args):
    """One of several processes: a trial to warm up, then trials for some seconds."""
    from bench.core.startup import begin

    begin(1)
    root, go = Path(args.root), Path(args.worker)
    device = torch.device(args.device)
    stores = make_stores(root, args.quick)
    name = f"together-{os.getpid()}"
    plan = plan_of(
        root,
        stores,
        device,
        name,
        "a2",
        models=["plain_cnn"],
        optimizers=["adamw"],
        losses=["ce"],
        epochs=2 if args.quick else 10,
        batch_size=32,
        threads=1,
        loader="torch",
    )
    one(plan, device)  # to warm up
    (root / f"{go.name}.{os.getpid()}").touch()
    while not go.exists():
        time.sleep(0.01)
    start, samples, trials = time.perf_counter(), 0, 0
    while time.perf_counter() - start < (2 if args.quick else 5):
        samples += one(plan, device).trial["sample_gradients"]
        trials += 1
    own = {
        "samples": samples,
        "trials": trials,
        "seconds": time.perf_counter() - start,
        "host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(own))


# By how much is learnt a second, and what others wait for.
SECTIONS = (
    machine,
    doctor,
    batches,
    work_c,
    work_a,
    study,
    study_fast,
    repeat,
    together,
    work_b,
    precision,
    study_planned,
    study_alone,
    stacked,
    work_a128,
)


def _fault(error):
    lines = traceback.format_exc().strip().splitlines()
    return {"error": f"{type(error).__name__}: {str(error)[:400]}", "where": lines[-6:-1]}


class Context:
    def __init__(self, args):
        self.device, self.quick = torch.device(args.device), args.quick
        self.root, self.seconds = Path(args.root), args.seconds
        self.stores = {}

    def left(self):
        return self.seconds - (time.monotonic() - START)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--root", default=str(Path(tempfile.gettempdir()) / "gpu_check"))
    parser.add_argument("--out", default=".")
    parser.add_argument("--only", default="", help="sections, with commas")
    parser.add_argument("--worker", default="")
    args = parser.parse_args()
    if args.worker:
        worker(args)
        return
    ctx = Context(args)
    ctx.root.mkdir(parents=True, exist_ok=True)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    from bench.core.startup import begin

    begin(1 if args.device == "cpu" else 8)
    result = {"imports_sec": time.monotonic() - START}
    start = time.monotonic()
    ctx.stores = make_stores(ctx.root, args.quick)
    result["stores_sec"] = time.monotonic() - start
    wanted = [s for s in args.only.split(",") if s]
    for section in SECTIONS:
        name = section.__name__
        if wanted and name not in wanted:
            continue
        if ctx.left() < 20:
            result[name] = "skipped"
            continue
        begun = time.monotonic()
        print(f"[{begun - START:6.1f} s] {name}", file=sys.stderr, flush=True)
        try:
            result[name] = section(ctx)
        except Exception as error:  # noqa: BLE001  # a section that fails is an error in the JSON
            result[name] = _fault(error)
        if isinstance(result[name], dict):
            result[name]["section_sec"] = time.monotonic() - begun
        (out / "gpu_check.json").write_text(json.dumps(result, indent=1, default=str))
    result["total_sec"] = time.monotonic() - START
    (out / "gpu_check.json").write_text(json.dumps(result, indent=1, default=str))
    print(json.dumps(result, default=str))


if __name__ == "__main__":
    main()
