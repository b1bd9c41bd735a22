"""The table of optimizers: one row each, with what the training loop must do for it.

Search spaces: every first-order rule gets a learning rate of one decade either side of its default
on a logarithmic scale. The width is that of AlgoPerf's AdamW baseline (1e-4 to 1e-2); giving every
rule the same is an assumption, made because the search space alone can decide a comparison (Choi
et al. 2020, arXiv 1910.05446). "library" in a source is pytorch-optimizer, version 4.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bench.core.settings import Setting
from bench.optimizers import state_size
from bench.optimizers.library import ademamix, library, mars
from bench.optimizers.spec import Optimizer, Space
from bench.optimizers.state_size import Shapes
from models.late import late

if TYPE_CHECKING:
    import torch

__all__ = ["OPTIMIZERS", "Optimizer"]

# Imported when an optimizer is built: the table loads in milliseconds.
_optim = late("torch.optim")
_muon = late("bench.optimizers.own.muon")
_kron = late("bench.optimizers.own.kron")
_cautious = late("bench.optimizers.own.cautious")
_shampoo = late("bench.optimizers.shampoo")

# 1e-2 is nnU-Net's rate and 0.9 the momentum of He et al. 2016, section 3.4.
_SGD: Mapping[str, Setting] = {
    "lr": 1e-2,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.0,
}

# What SAM can be built on: rows that take one plain gradient, a rate and a decay.
_SAM_BASES = ("sgd", "sgd_nesterov", "rmsprop", "adam", "adamw", "nadam", "radam")
_SAM: Mapping[str, Setting] = {"rho": 0.05, "adaptive": False}  # the paper's rho
_RHO = Space(low=1e-2, high=5e-1, log=True)  # which the paper searches


def _sam(
    params: Iterable[Any], *, base: str, rho: float, adaptive: bool, **settings: Any
) -> torch.optim.Optimizer:
    build = library("SAM", base_optimizer=OPTIMIZERS[base].constructor)
    return build(params, rho=rho, adaptive=adaptive, **settings)


def _on_base(choices: Mapping[str, Setting]) -> Mapping[str, Any]:
    """Return what a base brings: its settings with their defaults, and the space of its rate."""
    base = OPTIMIZERS[str(choices["base"])]
    return {
        "defaults": {**choices, **base.defaults, **_SAM},
        "decay": base.decay,
        "scale_free": base.scale_free,
        "space": {"lr": base.space["lr"], "rho": _RHO},
    }


def _sam_state(shapes: Shapes, settings: Mapping[str, Setting]) -> float:
    base = OPTIMIZERS[str(settings["base"])]
    own = {name: value for name, value in settings.items() if name in base.defaults}
    return base.state_numbers(shapes, own) or 0.0


_SHAMPOO: Mapping[str, Setting] = {
    "lr": 1e-3,
    # The library's second is 0.999; squares have no bias correction, which makes the first steps
    # 1 / sqrt(1 - beta2) times too long.
    "betas": (0.9, 0.99),
    "weight_decay": 0.0,
    "graft": "rmsprop",
    # Assumption; the library's period of 1000 is longer than many trials here.
    "precondition_frequency": 20,
    # The library's 512 merges the sides of small convolutions until the state of a small U-Net is
    # 164 times its weights; 128 makes that 40 (measured).
    "block_size": 128,
    "no_preconditioning_for_layers_with_dim_gt": 8192,
    "matrix_eps": 1e-6,
}
# Steps are as long as the graft's, so the rate is that of the graft's row: rmsprop's, adagrad's,
# and ten times sgd's, whose momentum of 0.9 sums gradients where this one takes their mean.
_GRAFT_RATES = {"rmsprop": 1e-3, "adagrad": 1e-2, "sgd": 1e-1}


def _on_graft(choices: Mapping[str, Setting]) -> Mapping[str, Any]:
    rate = _GRAFT_RATES[str(choices["graft"])]
    return {
        "defaults": {**_SHAMPOO, **choices, "lr": rate},
        "scale_free": choices["graft"] != "sgd",
        "space": {"lr": Space(low=rate / 10, high=rate * 10, log=True)},
    }


OPTIMIZERS: dict[str, Optimizer] = {
    row.name: row
    for row in (
        Optimizer(
            name="sgd",
            constructor=_optim.SGD,
            defaults=_SGD,
            scale_free=False,
            decay="coupled",
            space={
                "lr": Space(low=1e-3, high=1e-1, log=True),
                "momentum": Space(low=0.8, high=0.99, log=False),
            },
            state_floats=state_size.sgd_state,
            summary="stochastic gradient descent with momentum",
            source="Sutskever et al. 2013, On the importance of initialization and momentum",
        ),
        Optimizer(
            name="adagrad",
            constructor=_optim.Adagrad,
            defaults={
                "lr": 1e-2,
                "lr_decay": 0.0,
                "initial_accumulator_value": 0.0,
                "eps": 1e-10,
                "weight_decay": 0.0,
            },
            decay="coupled",
            space={"lr": Space(low=1e-3, high=1e-1, log=True)},
            state_floats=1,
            summary="each parameter's rate falls with the sum of its squared gradients",
            source="Duchi et al. 2011, JMLR 12; defaults of torch.optim.Adagrad",
        ),
        Optimizer(
            name="rmsprop",
            constructor=_optim.RMSprop,
            defaults={
                "lr": 1e-3,
                "alpha": 0.9,
                "eps": 1e-8,
                "momentum": 0.0,
                "centered": False,
                "weight_decay": 0.0,
            },
            decay="coupled",
            space={"lr": Space(low=1e-4, high=1e-2, log=True)},
            state_floats=state_size.rmsprop_state,
            summary="Adagrad with a running mean of squared gradients in place of the sum",
            # 1e-3 and 0.9 are Hinton's, as given by Ruder 2016, arXiv 1609.04747, section 4.5;
            # torch's own are 1e-2 and 0.99.
            source="Tieleman and Hinton 2012, Coursera lecture 6.5",
        ),
        Optimizer(
            name="adam",
            constructor=_optim.Adam,
            defaults={"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
            decay="coupled",
            space={"lr": Space(low=1e-4, high=1e-2, log=True)},
            state_floats=2,
            summary="running means of the gradient and its square, with bias correction",
            source="Kingma and Ba 2015, arXiv 1412.6980, algorithm 1",
        ),
        Optimizer(
            name="adamw",
            constructor=_optim.AdamW,
            defaults={"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2},
            decay="decoupled",
            space={
                "lr": Space(low=1e-4, high=1e-2, log=True),
                # AlgoPerf's baseline searches 5e-3 to 1.
                "weight_decay": Space(low=5e-3, high=1.0, log=True),
            },
            state_floats=2,
            summary="Adam with weight decay decoupled from the gradient",
            source="Loshchilov and Hutter 2019, arXiv 1711.05101; defaults of torch.optim.AdamW",
        ),
        Optimizer(
            name="lbfgs",
            constructor=_optim.LBFGS,
            defaults={
                "lr": 1.0,
                "max_iter": 20,
                "max_eval": 25,
                # torch's default of 100 would keep 202 numbers for each parameter.
                "history_size": 10,
                "tolerance_grad": 1e-7,
                "tolerance_change": 1e-9,
                "line_search_fn": "strong_wolfe",
            },
            space={"lr": Space(low=1e-1, high=1.0, log=True)},
            choices={"line_search_fn": ("strong_wolfe",)},
            step="closure",
            scalable=False,  # torch.amp.GradScaler takes no closure
            one_group=True,
            # Gradient differences are noise where the batch is small. 8 is an assumption.
            batch_multiple=8,
            state_floats=state_size.lbfgs_state,
            summary="quasi-Newton with a strong Wolfe line search, for large batches",
            source="Liu and Nocedal 1989; Nocedal and Wright 2006, algorithms 3.5 and 7.5",
        ),
        Optimizer(
            name="sgd_nesterov",
            constructor=_optim.SGD,
            defaults={"lr": 1e-2, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5},
            scale_free=False,
            decay="coupled",
            space={
                "lr": Space(low=1e-3, high=1e-1, log=True),
                "momentum": Space(low=0.8, high=0.999, log=False),
            },
            state_floats=state_size.sgd_state,
            summary="SGD with Nesterov momentum as in nnU-Net, which lowers the rate to 0",
            source="Nesterov 1983; Isensee et al. 2021, nnU-Net, Nature Methods 18",
        ),
        Optimizer(
            name="nadam",
            constructor=_optim.NAdam,
            defaults={
                "lr": 2e-3,
                "betas": (0.9, 0.999),
                "eps": 1e-8,
                "momentum_decay": 4e-3,
                "weight_decay": 0.0,
            },
            decay="coupled",
            space={"lr": Space(low=2e-4, high=2e-2, log=True)},
            state_floats=2,
            summary="Adam with Nesterov momentum",
            source="Dozat 2016; defaults of torch.optim.NAdam",
        ),
        Optimizer(
            name="radam",
            constructor=_optim.RAdam,
            defaults={"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
            scale_free=False,  # for its first five steps, which are SGD
            decay="coupled",
            space={"lr": Space(low=1e-4, high=1e-2, log=True)},
            state_floats=2,
            summary="Adam whose first steps are SGD, until its second moment can be trusted",
            source="Liu et al. 2020, arXiv 1908.03265; defaults of torch.optim.RAdam",
        ),
        Optimizer(
            name="adafactor",
            constructor=_optim.Adafactor,
            defaults={"lr": 1e-2, "beta2_decay": -0.8, "d": 1.0, "weight_decay": 0.0},
            decay="decoupled",
            space={"lr": Space(low=1e-3, high=1e-1, log=True)},
            state_floats=state_size.adafactor_state,
            summary="squared gradients factored into rows and columns, no momentum: least memory",
            source="Shazeer and Stern 2018, arXiv 1804.04235; defaults of torch.optim.Adafactor",
        ),
        Optimizer(
            name="muon",
            constructor=_muon.Muon,
            # Rate, decay, betas and eps are AdamW's, as the scaling allows (arXiv 2502.16982,
            # section 2.2); momentum and steps are torch.optim.Muon's defaults.
            defaults={
                "lr": 1e-3,
                "weight_decay": 1e-2,
                "momentum": 0.95,
                "nesterov": True,
                "ns_steps": 5,
                "betas": (0.9, 0.999),
                "eps": 1e-8,
            },
            decay="decoupled",
            space={
                "lr": Space(low=1e-4, high=1e-2, log=True),
                "weight_decay": Space(low=5e-3, high=1.0, log=True),
            },
            drives=(
                "hidden weights, convolutions as matrices (out, in x kernel); AdamW drives the "
                "first and the last weight, biases and norms"
            ),
            driven=state_size.muon_driven,
            state_floats=state_size.muon_state,
            summary="momentum, orthogonalised matrix by matrix in five Newton-Schulz steps",
            source="Jordan et al. 2024, kellerjordan.github.io/posts/muon; torch.optim.Muon",
        ),
        Optimizer(
            name="lion",
            constructor=library("Lion"),
            # A third of AdamW's rate and three times its decay: section 5 of the paper.
            defaults={"lr": 3e-4, "betas": (0.9, 0.99), "weight_decay": 3e-2},
            decay="decoupled",
            space={
                "lr": Space(low=3e-5, high=3e-3, log=True),
                "weight_decay": Space(low=5e-3, high=1.0, log=True),
            },
            state_floats=1,
            summary="the sign of an interpolated momentum, found by program search",
            source="Chen et al. 2023, arXiv 2302.06675; library",
        ),
        Optimizer(
            name="lamb",
            # As in the paper: decay inside the ratio, and a ratio that no correction of the start
            # makes longer (the library divides by 1 - beta1^t after it unless told so).
            constructor=library("Lamb", weight_decouple=False, adam_debias=True),
            # 5e-3 is the paper's rate for ResNet-50 at its smallest batch of 512.
            defaults={"lr": 5e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 1e-2},
            decay="decoupled",
            space={"lr": Space(low=5e-4, high=5e-2, log=True)},
            state_floats=2,
            summary="Adam's step scaled to each layer's weights, for large batches",
            source="You et al. 2020, arXiv 1904.00962; library",
        ),
        Optimizer(
            name="adan",
            constructor=library("Adan"),
            defaults={
                "lr": 1e-3,
                "betas": (0.98, 0.92, 0.99),
                "eps": 1e-8,
                "weight_decay": 2e-2,
            },
            decay="decoupled",
            space={"lr": Space(low=1e-4, high=1e-2, log=True)},
            state_floats=4,
            summary="Adam with Nesterov momentum from differences of gradients",
            # The paper's decay; all else the library's.
            source="Xie et al. 2022, arXiv 2208.06677; library",
        ),
        Optimizer(
            name="ademamix",
            constructor=ademamix,
            defaults={
                "lr": 1e-3,
                "betas": (0.9, 0.999, 0.9999),
                "alpha": 5.0,
                "eps": 1e-8,
                "weight_decay": 1e-2,
                "warmup_steps": 0,
            },
            decay="decoupled",
            space={"lr": Space(low=1e-4, high=1e-2, log=True)},
            state_floats=3,
            summary="AdamW with a second, slow mean of the gradient",
            source="Pagliardini et al. 2024, arXiv 2409.03137; library, decay that of adamw here",
        ),
        Optimizer(
            name="prodigy",
            constructor=library("Prodigy"),
            defaults={
                "lr": 1.0,
                "betas": (0.9, 0.999),
                "d0": 1e-6,
                "d_coef": 1.0,
                # Measured: without it, it leaves a plain network without norms dead.
                "bias_correction": True,
                "safeguard_warmup": False,
                "eps": 1e-8,
                "weight_decay": 0.0,
            },
            decay="decoupled",
            found_rate=1e-3,  # about Adam's: assumption
            # The authors leave the rate at 1 and name 0.5 and 2 for d_coef.
            space={"d_coef": Space(low=0.5, high=2.0, log=True)},
            # Its distance and its rate are the first group's.
            one_group=True,
            state_floats=4,
            summary="Adam that estimates its own rate from the distance it has travelled",
            source="Mishchenko and Defazio 2024, arXiv 2306.06101; library",
        ),
        Optimizer(
            name="soap",
            constructor=library("SOAP"),
            defaults={
                "lr": 3e-3,
                "betas": (0.95, 0.95),
                "eps": 1e-8,
                "weight_decay": 1e-2,
                "precondition_frequency": 10,
                "max_precondition_dim": 10000,
            },
            decay="decoupled",
            space={"lr": Space(low=3e-4, high=3e-2, log=True)},
            drives="weights of two or more dimensions; on vectors it is Adam",
            driven=state_size.soap_driven,
            state_floats=state_size.soap_state,
            widths=state_size.soap_widths,
            summary="Adam in the eigenbasis of Shampoo's matrices, one per side of a weight",
            source="Vyas et al. 2024, arXiv 2409.11321; library",
        ),
        Optimizer(
            name="shampoo",
            constructor=_shampoo.shampoo,
            defaults=_SHAMPOO,
            decay="decoupled",
            space={"lr": Space(low=1e-4, high=1e-2, log=True)},
            brings=_on_graft,
            choices={"graft": ("sgd", "adagrad", "rmsprop")},
            drives="weights of more than `block_size` numbers; on others it is its graft",
            driven=state_size.shampoo_driven,
            state_floats=state_size.shampoo_state,
            widths=state_size.shampoo_widths,
            summary="gradients times inverse roots of their second moments, block by block",
            source="Gupta et al. 2018, arXiv 1802.09568; Anil et al. 2020, 2002.09018; library",
        ),
        Optimizer(
            name="sophia",
            constructor=library("SophiaH"),
            defaults={
                "lr": 6e-2,
                "betas": (0.96, 0.99),
                "p": 1e-2,
                "update_period": 10,
                "num_samples": 1,
                "eps": 1e-12,
                "weight_decay": 0.0,
            },
            decay="decoupled",
            space={"lr": Space(low=6e-3, high=6e-1, log=True)},
            step="create_graph",
            scalable=False,  # scaled gradients would have to be unscaled inside their own graph
            one_device=True,  # DDP averages gradients outside the graph that the Hessian needs
            # Momentum, the mean of Hutchinson's estimates, and the last of them.
            state_floats=3,
            summary="momentum divided by a diagonal Hessian, each step clipped",
            source="Liu et al. 2023, arXiv 2305.14342; library",
        ),
        Optimizer(
            name="schedule_free_adamw",
            constructor=library("ScheduleFreeAdamW"),
            defaults={
                "lr": 2.5e-3,
                "betas": (0.9, 0.999),
                "eps": 1e-8,
                "weight_decay": 0.0,
                "warmup_steps": 0,
            },
            decay="decoupled",
            space={"lr": Space(low=2.5e-4, high=2.5e-2, log=True)},
            averages=True,
            state_floats=2,
            summary="AdamW with an average of its weights in place of a schedule",
            source="Defazio et al. 2024, arXiv 2405.15682; library",
        ),
        Optimizer(
            name="schedule_free_sgd",
            constructor=library("ScheduleFreeSGD"),
            # Ten times sgd's rate: the README of schedule_free names 10 to 50 times.
            defaults={"lr": 1e-1, "momentum": 0.9, "weight_decay": 0.0, "warmup_steps": 0},
            scale_free=False,
            decay="decoupled",
            space={"lr": Space(low=1e-2, high=1.0, log=True)},
            averages=True,
            state_floats=1,
            summary="SGD with an average of its weights in place of a schedule",
            source="Defazio et al. 2024, arXiv 2405.15682; library",
        ),
        Optimizer(
            name="adopt",
            constructor=library("ADOPT", weight_decouple=True),
            defaults={"lr": 1e-3, "betas": (0.9, 0.9999), "eps": 1e-6, "weight_decay": 0.0},
            decay="decoupled",
            space={"lr": Space(low=1e-4, high=1e-2, log=True)},
            state_floats=2,
            summary="Adam that converges for any beta2: it divides by the previous second moment",
            source="Taniguchi et al. 2024, arXiv 2411.02853; library",
        ),
        Optimizer(
            name="psgd_kron",
            constructor=_kron.Kron,
            # kron_torch's and the library's
            defaults={
                "lr": 1e-3,
                "momentum": 0.9,
                "weight_decay": 0.0,
                "max_size_triangular": 8192,
            },
            # The factors start at 1 and grow by a tenth a step at most.
            scale_free=False,
            decay="decoupled",
            space={"lr": Space(low=1e-4, high=1e-2, log=True)},
            state_floats=state_size.kron_state,
            widths=state_size.kron_widths,
            summary="momentum whitened by one triangular factor per side of a weight; no decay on "
            "biases and norms",
            source="Li 2015, arXiv 1512.04202; Li 2022, arXiv 2211.04422; as library's Kron",
        ),
        Optimizer(
            name="mars",
            constructor=mars,
            # The library's and the authors'; the decay is that of adamw here.
            defaults={
                "lr": 3e-3,
                "betas": (0.95, 0.99),
                "gamma": 0.025,
                "eps": 1e-8,
                "weight_decay": 1e-2,
                "betas_1d": (0.9, 0.95),
            },
            decay="decoupled",
            space={"lr": Space(low=3e-4, high=3e-2, log=True)},
            drives="weights of two or more dimensions; AdamW drives biases and norms",
            driven=state_size.matrices_driven,
            state_floats=3,
            summary="AdamW on gradients corrected by their last change, to lower their variance",
            source="Yuan et al. 2024, arXiv 2411.10438, MARS-AdamW with the gradient of the batch "
            "before; library",
        ),
        Optimizer(
            name="lars",
            constructor=library("LARS"),
            # The trust coefficient is the paper's.
            defaults={
                "lr": 1.0,
                "momentum": 0.9,
                "nesterov": False,
                "trust_coefficient": 1e-3,
                "weight_decay": 0.0,
            },
            scale_free=False,  # on biases and norms it is SGD
            decay="coupled",
            space={"lr": Space(low=1e-1, high=1e1, log=True)},
            drives="weights of two or more dimensions; SGD drives biases and norms",
            driven=state_size.matrices_driven,
            state_floats=state_size.sgd_state,
            summary="SGD with a rate for each layer by the norm of its weights, for large batches",
            source="You et al. 2017, arXiv 1708.03888, equation 6 and algorithm 1; library",
        ),
        Optimizer(
            name="cautious_adamw",
            constructor=_cautious.CautiousAdamW,
            defaults={"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2},
            decay="decoupled",
            space={
                "lr": Space(low=1e-4, high=1e-2, log=True),
                "weight_decay": Space(low=5e-3, high=1.0, log=True),
            },
            state_floats=2,
            summary="AdamW that moves a weight only if momentum and gradient agree in sign",
            source="Liang et al. 2024, arXiv 2411.16085, algorithm 1; defaults of adamw here",
        ),
        Optimizer(
            name="sam",
            constructor=_sam,
            defaults={"base": "sgd", **_SGD, **_SAM},
            scale_free=False,
            decay="coupled",
            space={"lr": Space(low=1e-3, high=1e-1, log=True), "rho": _RHO},
            brings=_on_base,
            choices={"base": _SAM_BASES},
            step="two_pass",
            scalable=False,  # two gradients a step, of which a scaler unscales one
            state_floats=_sam_state,
            summary="sharpness-aware: another optimizer on the gradient at the worst nearby point",
            source="Foret et al. 2021, arXiv 2010.01412; library",
        ),
    )
}
