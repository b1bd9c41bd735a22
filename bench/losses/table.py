"""The losses: one row each.

A loss gives one value for each sample, and the loss of a batch is their mean. A loss that couples
the samples of a batch takes its sums over all processes of the trial (`total`) and distributes the
result equally over the samples. Value and gradient are then the same however a global batch is
split between GPUs. Probabilities are softmax probabilities; the number of classes C is at least 2.
Logits of half precision are widened to float32 first.

In the formulas p is the probability and g the reference (0 or 1) of a class in a voxel, y the true
class. sum: over the voxels of a sample; mean_fg: over the classes except the background (0);
mean_c: over all classes; mean: over the voxels. In classification an image is one voxel, unless a
row says that its sums run over the class vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial, wraps
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.core.settings import Setting, check_bounds, merge
from bench.losses.reductions import Total, alone, over_processes, wide
from models.late import late

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LOSSES", "Criterion", "Loss", "Total", "alone", "over_processes"]

# Imported when a loss is computed: the table loads in milliseconds.
compound = late("bench.losses.compound")
cross_entropy = late("bench.losses.cross_entropy")
overlap = late("bench.losses.overlap")
ranking = late("bench.losses.ranking")
errors = late("bench.losses.numbers.errors")
findings = late("bench.losses.numbers.findings")
boundary = late("bench.losses.shapes.boundary")
tubes = late("bench.losses.shapes.tubes")

# A loss with its settings: (logits, target, class weights, total) -> values (N,). If its row has
# `derive`, it may be called with `derived`, which it otherwise makes itself.
Criterion: TypeAlias = "Callable[..., Tensor]"

# Least and greatest value of a setting of our rows, by its name. If 0 would lead to a division by
# 0, the least value is far below what these rows resolve: assumption.
BOUNDS: dict[str, tuple[float, float]] = {
    "alpha": (0, inf),
    "balance": (0, 1),
    "beta": (0, inf),
    "delta": (0, 1),
    "epsilon": (-1, inf),  # below -1, wrong answers are rewarded
    "exponent": (0, inf),
    "gamma": (0, inf),
    "gamma_negative": (0, inf),
    "gamma_positive": (0, inf),
    "iterations": (1, 100),
    "label_smoothing": (0, 1),
    "margin": (0, 1),
    "q": (1e-3, 1),
    "rise": (0, inf),
    "share": (0, 1),
    "smooth": (1e-12, inf),
    "weight": (0, inf),
}


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One loss of the table.

    `function(logits, target, class_weights, total, **settings)` returns the values (N,) of this
    process's share of a global batch. Its logits and targets are:

    - classification: logits (N, C), target (N,) int64 in 0..C-1;
    - segmentation: logits (N, C, *spatial), target (N, *spatial) int64 in 0..C-1;
    - several findings (multilabel): logits (N, C), target (N, C) float32: 1, 0, or nan if the
      answer is missing;
    - numbers (regression): both (N, 1), in standard deviations from the mean of the training part.

    `class_weights` (C,) are the weights of classes (or of present findings) for rows that are
    `weighted`, and for rows that are `counted` how often each class is drawn in an epoch; the
    others take None. `total` sums over the processes; rows that do not couple samples ignore it.
    `defaults` names every setting that a study may change, `bounds` the least and greatest values.

    `derive(target, classes=C)` makes what the function also needs from the target (N, ...), such as
    distances, as (N, ...). In training a loader calls it during the step before, and the function
    gets the result as `derived`; in evaluation, and on the coarser levels of deep supervision, the
    function makes it itself. A row that is `spaced` takes the `spacing` of the voxels if its
    setting `mm` is true; so does its `derive`. `moves(settings, epoch)` gives the settings of an
    epoch of training, counted from 0; evaluation keeps those of the first epoch, so that losses can
    be compared.

    `ignoring` says how the loss leaves out ignored voxels: `sample` if a sample without them is
    just one of fewer voxels; `counted` if it takes a mask (N, *spatial) of voxels that count, under
    that name; empty if it must know the class at every place, as distances and skeletons do.
    `later` are settings that came when trials already had ids: they enter no id at their defaults.
    """

    name: str
    function: Callable[..., Tensor]
    defaults: Mapping[str, Setting] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=BOUNDS.copy)
    tasks: tuple[str, ...]
    weighted: bool = False
    counted: bool = False
    derive: Callable[..., Tensor] | None = None
    moves: Callable[[Mapping[str, Setting], int], dict[str, Setting]] | None = None
    later: frozenset[str] = frozenset()
    spaced: bool = False
    ignoring: str = "sample"
    formula: str
    summary: str
    source: str

    def settings(self, given: Mapping[str, Any]) -> dict[str, Setting]:
        """Return every setting, `given` over the defaults.

        Raises ValueError as `merge` does, and for a value out of bounds.
        """
        merged = merge(f"loss {self.name}", self.defaults, given)
        check_bounds(f"loss {self.name}", merged, self.bounds)
        return merged

    def at(self, settings: Mapping[str, Setting], epoch: int) -> Mapping[str, Setting]:
        """Return all settings in an epoch of training, counted from 0."""
        return self.moves(settings, epoch) if self.moves else settings

    def deciding(self, settings: Mapping[str, Setting]) -> dict[str, Setting]:
        """Return the settings that enter the id of a trial."""
        return {
            name: value
            for name, value in settings.items()
            if name not in self.later or value != self.defaults[name]
        }

    def bind(self, given: Mapping[str, Any]) -> Criterion:
        """Return the loss with its settings fixed; raises ValueError as `settings` does."""
        return partial(self.function, **self.settings(given))


def _each(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a row's function from one of (logits, target, **settings): each sample by itself."""

    @wraps(function)
    def loss(
        logits: Tensor,
        target: Tensor,
        class_weights: Tensor | None,
        total: Total,
        **settings: Any,
    ) -> Tensor:
        del class_weights, total
        return function(wide(logits), target, **settings)

    return loss


def _weighted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a row's function from one of (logits, target, class weights, **settings)."""

    @wraps(function)
    def loss(
        logits: Tensor,
        target: Tensor,
        class_weights: Tensor | None,
        total: Total,
        **settings: Setting,
    ) -> Tensor:
        del total
        if class_weights is None:
            raise ValueError("this loss needs class weights")
        logits = wide(logits)
        return function(logits, target, class_weights.to(logits), **settings)

    return loss


def _coupled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a row's function from one of (logits, target, total, **settings)."""

    @wraps(function)
    def loss(
        logits: Tensor,
        target: Tensor,
        class_weights: Tensor | None,
        total: Total,
        **settings: Any,
    ) -> Tensor:
        del class_weights
        return function(wide(logits), target, total, **settings)

    return loss


BOTH = ("classification", "segmentation", "ordinal")
MASKS = ("segmentation",)
FINDINGS = ("multilabel",)
NUMBERS = ("regression",)
GRADES = ("ordinal",)
IMAGES = ("classification", "ordinal")

# MONAI's and nnU-Net's: an absent class that is not predicted costs 0.
SMOOTH: Mapping[str, Setting] = {"smooth": 1e-5}
LABELS: Mapping[str, Setting] = {"label_smoothing": 0.0}
BINARY = "mean over the known findings of"
# Lin et al. 2017, section 5.1
FOCUS: Mapping[str, Setting] = {"gamma": 2.0}
# A tenth: TopK10 of nnU-Net
HARD: Mapping[str, Setting] = {"share": 0.1}
# The best of Salehi et al. 2017, used by Abraham and Khan 2019 too
MISSED: Mapping[str, Setting] = {"alpha": 0.3, "beta": 0.7}

DICE = "mean_fg(1 - (2 sum p g + smooth) / (sum p + sum g + smooth))"
CE = "mean(-log p_y)"
FOCAL = "mean(-(1 - p_y)^gamma log p_y)"
HARDEST = "mean of -log p_y over the share of each sample's voxels with the greatest values"
TVERSKY = "(tp + smooth) / (tp + alpha fp + beta fn + smooth)"
COUNTS = "tp = sum p g, fp = sum p - tp, fn = sum g - tp"
VECTOR = "in classification sum runs over the class vector"
LOG_P = "mean(-sum_c g_c log p_c), a share label_smoothing of g spread over all classes"

LOSSES: dict[str, Loss] = {
    row.name: row
    for row in (
        # ---- each voxel or image by itself ----
        Loss(
            name="ce",
            function=_each(cross_entropy.cross_entropy),
            defaults=LABELS,
            tasks=BOTH,
            formula=LOG_P,
            summary="cross-entropy",
            source="torch.nn.functional.cross_entropy",
        ),
        Loss(
            name="weighted_ce",
            function=_weighted(cross_entropy.weighted_cross_entropy),
            defaults=LABELS,
            tasks=BOTH,
            weighted=True,
            formula="mean(-w_y log p_y); label_smoothing as ce, each class with its own w_c",
            summary="cross-entropy, each class weighted by its inverse share of the drawn samples",
            source="torch.nn.functional.cross_entropy",
        ),
        Loss(
            name="ce_smooth",
            function=_each(cross_entropy.cross_entropy),
            defaults={"label_smoothing": 0.1},
            tasks=BOTH,
            formula=LOG_P,
            summary="cross-entropy with smoothed labels",
            source="Szegedy et al. 2016, arXiv 1512.00567, section 7",
        ),
        Loss(
            name="focal",
            function=_each(cross_entropy.focal),
            defaults=FOCUS,
            tasks=BOTH,
            formula=FOCAL,
            summary="cross-entropy that focuses on hard samples or voxels",
            source="Lin et al. 2017, arXiv 1708.02002, equation 4",
        ),
        Loss(
            name="weighted_focal",
            function=_weighted(cross_entropy.weighted_focal),
            defaults=FOCUS,
            tasks=BOTH,
            weighted=True,
            formula="mean(-w_y (1 - p_y)^gamma log p_y)",
            summary="Focal loss, each class weighted by its inverse share of the drawn samples",
            source="Lin et al. 2017, arXiv 1708.02002, equation 5",
        ),
        Loss(
            name="gce",
            function=_each(cross_entropy.generalized_cross_entropy),
            defaults={"q": 0.7},  # that of the paper's experiments
            tasks=BOTH,
            formula="mean((1 - p_y^q) / q)",
            summary="generalized cross-entropy, less sensitive to wrong labels",
            source="Zhang and Sabuncu 2018, arXiv 1805.07836",
        ),
        Loss(
            name="class_balanced",
            function=_weighted(cross_entropy.class_balanced),
            # Of the paper's 0.9 to 0.9999; a focal loss by gamma, as there.
            defaults={"beta": 0.9999, "gamma": 0.0},
            # Above, 1 - beta is no longer told from 0 in float32.
            bounds={"beta": (0, 1 - 1e-7), "gamma": (0, inf)},
            # A mask's voxels are so many that all classes would weigh the same.
            tasks=IMAGES,
            weighted=True,
            counted=True,
            formula="-w_y (1 - p_y)^gamma log p_y, w_c = (1 - beta) / (1 - beta^n_c) scaled to a "
            "mean of 1, n_c the cases of class c in an epoch",
            summary="cross-entropy, each class weighted by its effective number of cases",
            source="Cui et al. 2019, arXiv 1901.05555, equations 6 and 12",
        ),
        Loss(
            name="poly_ce",
            function=_each(cross_entropy.poly_cross_entropy),
            defaults={"epsilon": 1.0, **LABELS},  # the paper's code; it tunes epsilon by task
            tasks=BOTH,
            formula=f"{LOG_P}, + epsilon mean(1 - sum_c g_c p_c)",
            summary="cross-entropy with more weight on the first term of its series",
            source="Leng et al. 2022 (PolyLoss), arXiv 2204.12511, equation 5, Poly-1",
        ),
        Loss(
            name="mbls",
            function=_each(cross_entropy.margin_cross_entropy),
            # The authors' code: LogitMarginL1, github.com/by-liu/MbLS
            defaults={"weight": 0.1, "margin": 10.0, **LABELS},
            bounds={**BOUNDS, "margin": (0, inf)},
            tasks=BOTH,
            formula=f"{LOG_P}, + weight mean(mean_c max(0, max_k l_k - l_c - margin)), l the "
            "logits",
            summary="cross-entropy that penalises logits farther apart than a margin, for "
            "calibration",
            source="Liu et al. 2022 (MbLS), arXiv 2111.15430, equation 9; mean over the classes as "
            "in its code",
        ),
        Loss(
            name="asymmetric_ce",
            function=_each(cross_entropy.asymmetric_cross_entropy),
            # The defaults of the authors' ASLSingleLabel, github.com/Alibaba-MIIL/ASL
            defaults={"gamma_positive": 0.0, "gamma_negative": 4.0, "label_smoothing": 0.1},
            tasks=IMAGES,
            formula="-sum_c g_c w_c log p_c, w_c = (1 - p_c)^gamma_positive of the true class, "
            "p_c^gamma_negative of the others, a share label_smoothing of g spread over all",
            summary="the asymmetric loss for single-label classification",
            source="Ridnik et al. 2021, arXiv 2009.14119, section 4.4; its ASLSingleLabel",
        ),
        Loss(
            name="auc_margin",
            function=_coupled(ranking.auc_margin),
            defaults={"margin": 1.0},  # LibAUC's
            tasks=("classification", "multilabel"),
            formula="mean_c(var(p_c | c) + var(p_c | not c) + max(0, margin + mean(p_c | not c) - "
            "mean(p_c | c))^2) over the global batch, p the softmax, for findings the sigmoid",
            summary="squared AUC margin loss, each class against the others; its auxiliary "
            "variables are solved for each batch, so large batches suit it best",
            source="Yuan et al. 2021, arXiv 2012.03173, equation 3 (LibAUC's AUCMLoss, by class "
            "means); a, b, alpha in closed form in place of its optimizer",
        ),
        Loss(
            name="topk_ce",
            function=_each(cross_entropy.top_k_cross_entropy),
            defaults={**HARD, **LABELS},
            tasks=MASKS,
            formula=f"{HARDEST}; label_smoothing as ce",
            summary="cross-entropy of each sample's hardest voxels",
            source="Wu et al. 2016, arXiv 1605.06885; TopKLoss of nnU-Net, there by batch",
        ),
        # ---- each of several findings by itself ----
        Loss(
            name="bce",
            function=_each(findings.binary_cross_entropy),
            defaults=LABELS,
            tasks=FINDINGS,
            formula=f"{BINARY} -g log p - (1 - g) log(1 - p), p the sigmoid of the logit, g 1 "
            "if the finding is present; a share label_smoothing of g spread over yes and no",
            summary="binary cross-entropy of each finding",
            source="torch.nn.functional.binary_cross_entropy_with_logits",
        ),
        Loss(
            name="weighted_bce",
            function=_weighted(findings.weighted_binary_cross_entropy),
            defaults=LABELS,
            tasks=FINDINGS,
            weighted=True,
            formula=f"{BINARY} -w g log p - (1 - g) log(1 - p), w cases without it to one with it; "
            "label_smoothing as bce",
            summary="binary cross-entropy, each finding's presence and absence weighing the same",
            source="torch.nn.functional.binary_cross_entropy_with_logits with pos_weight",
        ),
        Loss(
            name="binary_focal",
            function=_each(findings.binary_focal),
            defaults=FOCUS,
            tasks=FINDINGS,
            formula=f"{BINARY} -(1 - q)^gamma log q, q the probability of the right answer",
            summary="binary cross-entropy that focuses on hard findings",
            source="Lin et al. 2017, arXiv 1708.02002, equation 4, for each finding",
        ),
        Loss(
            name="asymmetric",
            function=_each(findings.asymmetric),
            # The defaults of the authors' AsymmetricLoss, github.com/Alibaba-MIIL/ASL
            defaults={"gamma_positive": 1.0, "gamma_negative": 4.0, "margin": 0.05},
            tasks=FINDINGS,
            formula=f"{BINARY} -g (1 - p)^gamma_positive log p - (1 - g) m^gamma_negative "
            "log(1 - m), m = max(p - margin, 0)",
            summary="binary focal loss that discounts easy absences, which are most answers",
            source="Ridnik et al. 2021, arXiv 2009.14119, equation 7",
        ),
        # ---- a grade ----
        Loss(
            name="squared_emd",
            function=_each(cross_entropy.squared_earth_movers_distance),
            tasks=GRADES,
            formula="sum_k (P_k - G_k)^2, P_k and G_k the probability and the truth of grade k or "
            "one below it",
            summary="squared earth mover's distance: a grade farther off costs more",
            source="Hou et al. 2016, arXiv 1611.05916, equation 6",
        ),
        # ---- a number ----
        Loss(
            name="l1",
            function=_each(errors.absolute),
            tasks=NUMBERS,
            formula="|d|, d the prediction less the number, in standard deviations",
            summary="absolute error, minimised by the median",
            source="torch.nn.functional.l1_loss",
        ),
        Loss(
            name="l2",
            function=_each(errors.squared),
            tasks=NUMBERS,
            formula="d^2, d the prediction less the number, in standard deviations",
            summary="squared error, minimised by the mean",
            source="torch.nn.functional.mse_loss",
        ),
        Loss(
            name="huber",
            function=_each(errors.huber),
            defaults={"delta": 1.0},  # torch's
            bounds={"delta": (1e-3, inf)},
            tasks=NUMBERS,
            formula="d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2), d the prediction "
            "less the number, in standard deviations",
            summary="squared for small errors, absolute for large ones",
            source="Huber 1964, Annals of Mathematical Statistics 35; torch's huber_loss",
        ),
        Loss(
            name="log_cosh",
            function=_each(errors.log_cosh),
            tasks=NUMBERS,
            formula="log cosh d, d the prediction less the number, in standard deviations",
            summary="squared for small errors, absolute for large ones, smooth throughout",
            source="Green 1990, IEEE Transactions on Medical Imaging 9; as log_cosh of keras",
        ),
        # ---- overlap of each sample ----
        Loss(
            name="dice",
            function=_each(overlap.dice),
            defaults=SMOOTH,
            tasks=BOTH,
            formula=f"{DICE}; {VECTOR}",
            summary="Dice loss of each sample, linear",
            source="monai.losses.DiceLoss",
        ),
        Loss(
            name="dice_squared",
            function=_each(overlap.squared_dice),
            defaults=SMOOTH,
            tasks=BOTH,
            formula=f"mean_fg(1 - (2 sum p g + smooth) / (sum p^2 + sum g^2 + smooth)); {VECTOR}",
            summary="Dice loss of each sample, with squares in the denominator",
            source="Milletari et al. 2016, arXiv 1606.04797, section 3",
        ),
        Loss(
            name="dice_batch",
            function=_coupled(overlap.dice_batch),
            defaults=SMOOTH,
            tasks=MASKS,
            ignoring="counted",
            formula=f"{DICE}, sum over the voxels of the whole global batch",
            summary="linear Dice loss of the batch as if it were one image",
            source="SoftDiceLoss of nnU-Net with batch_dice",
        ),
        Loss(
            name="generalized_dice",
            function=_each(overlap.generalized_dice),
            defaults=SMOOTH,
            tasks=MASKS,
            formula="1 - (2 sum_c w_c tp_c + smooth) / (sum_c w_c (sum p_c + sum g_c) + smooth), "
            "tp_c = sum p_c g_c, c with the background, w_c = (least present sum g / sum g_c)^2, "
            "1 where the class is absent",
            summary="Dice loss with all classes in one ratio, small classes weighing more",
            source="Sudre et al. 2017, arXiv 1707.03237",
        ),
        Loss(
            name="jaccard",
            function=_each(overlap.jaccard),
            defaults=SMOOTH,
            tasks=BOTH,
            formula="mean_fg(1 - (2 sum p g + smooth) / (2 (sum p + sum g - sum p g) + smooth)); "
            + VECTOR,
            summary="intersection over union of each sample, linear",
            source="monai.losses.DiceLoss with jaccard",
        ),
        Loss(
            name="lovasz",
            function=_each(overlap.lovasz),
            tasks=MASKS,
            formula="mean_fg(sum_i e_i (J_i - J_i-1)), e the errors |g - p| from the largest down, "
            "J_i the Jaccard loss when the first i are wrong and the rest right; no smoothing",
            summary="convex extension of the Jaccard loss of the hard mask",
            source="Berman et al. 2018, arXiv 1705.08790, algorithm 1",
        ),
        Loss(
            name="tversky",
            function=_each(overlap.tversky),
            defaults={**MISSED, **SMOOTH},
            tasks=MASKS,
            formula=f"mean_fg(1 - {TVERSKY}), {COUNTS}",
            summary="Dice loss that counts missed voxels more than false positives",
            source="Salehi et al. 2017, arXiv 1706.05721; monai.losses.TverskyLoss",
        ),
        Loss(
            name="focal_tversky",
            function=_each(overlap.focal_tversky),
            # 1 / gamma of the paper with its gamma = 4/3
            defaults={**MISSED, "exponent": 0.75, **SMOOTH},
            tasks=MASKS,
            formula=f"mean_fg((1 - {TVERSKY})^exponent), {COUNTS}",
            summary="Tversky loss to a power, which focuses on the classes that overlap least",
            source="Abraham and Khan 2019, arXiv 1810.07842",
        ),
        Loss(
            name="log_cosh_dice",
            function=_each(overlap.log_cosh_dice),
            defaults=SMOOTH,
            tasks=MASKS,
            formula=f"log cosh of {DICE}",
            summary="linear Dice loss, smoothed by log cosh",
            source="Jadon 2020, arXiv 2006.14822",
        ),
        # ---- overlap and voxels together ----
        Loss(
            name="dice_ce",
            function=_each(compound.dice_cross_entropy),
            defaults={**SMOOTH, **LABELS},
            tasks=BOTH,
            formula=f"{DICE} + {CE}; label_smoothing as ce; {VECTOR}",
            summary="linear Dice loss of each sample plus cross-entropy",
            source="Isensee et al. 2021 (nnU-Net), doi 10.1038/s41592-020-01008-z; MONAI",
        ),
        Loss(
            name="dice_ce_batch",
            function=_coupled(compound.dice_batch_cross_entropy),
            defaults={**SMOOTH, **LABELS},
            tasks=MASKS,
            ignoring="counted",
            formula=f"{DICE}, sum over the voxels of the whole global batch, + {CE}; "
            "label_smoothing as ce",
            summary="linear Dice loss of the batch plus cross-entropy: nnU-Net's loss in 2-D, and "
            "in 3-D if there is a low-resolution stage",
            source="DC_and_CE_loss of nnU-Net with batch_dice",
        ),
        Loss(
            name="dice_focal",
            function=_each(compound.dice_focal),
            defaults={**SMOOTH, **FOCUS},
            tasks=BOTH,
            formula=f"{DICE} + {FOCAL}; {VECTOR}",
            summary="linear Dice loss of each sample plus Focal loss",
            source="Zhu et al. 2019 (AnatomyNet), arXiv 1808.05238; Dice linear",
        ),
        Loss(
            name="dice_topk",
            function=_each(compound.dice_top_k),
            defaults={**SMOOTH, **HARD, **LABELS},
            tasks=MASKS,
            formula=f"{DICE} + {HARDEST}; label_smoothing as ce",
            summary="linear Dice loss of each sample plus cross-entropy of its hardest voxels",
            source="Ma et al. 2021 (SegLossOdyssey), doi 10.1016/j.media.2021.102035; nnU-Net",
        ),
        Loss(
            name="unified_focal",
            function=_each(compound.unified_focal),
            # The authors' code: asym_unified_focal_loss, github.com/mlyg/unified-focal-loss
            defaults={"balance": 0.5, "delta": 0.6, "gamma": 0.5, **SMOOTH},
            tasks=MASKS,
            formula="balance mean(y = 0: -(1 - delta) (1 - p_0)^gamma log p_0, else -delta "
            "log p_y) + (1 - balance) mean_c(T_0, else T_c^(1 - gamma)), T_c = (delta fn + "
            f"(1 - delta) fp) / (tp + delta fn + (1 - delta) fp + smooth), {COUNTS}",
            summary="Focal and focal Tversky loss, asymmetric: every foreground class counts as "
            "rare",
            source="Yeung et al. 2022, arXiv 2102.04525, asymmetric Unified Focal loss",
        ),
        # ---- thin structures ----
        Loss(
            name="cldice",
            function=_each(tubes.dice_cldice),
            # The authors' code, github.com/jocpae/clDice; alpha is the largest of the paper's.
            defaults={"alpha": 0.5, "iterations": 3, "smooth": 1.0},
            bounds={**BOUNDS, "alpha": (0, 1)},
            tasks=MASKS,
            ignoring="",
            formula=f"(1 - alpha) {DICE} + alpha mean_fg(1 - 2 t s / (t + s)), t = (sum S(p) g + "
            "smooth) / (sum S(p) + smooth), s the same of S(g) and p, S the soft skeleton by "
            "iterations of erosion",
            summary="linear Dice loss and that of skeletons, for vessels and the like; iterations: "
            "the radius of the widest vessel in voxels",
            source="Shit et al. 2021, arXiv 2003.07311, equations 1 to 3, algorithm 1; "
            "monai.losses.SoftDiceclDiceLoss",
        ),
        Loss(
            name="skeleton_recall",
            function=_each(tubes.dice_skeleton_recall),
            derive=tubes.tubes,
            defaults={"weight": 1.0, **SMOOTH, **LABELS},  # an equal part, as there
            tasks=MASKS,
            ignoring="",
            formula=f"{DICE} + {CE} + weight mean_fg(1 - (sum p s + smooth) / (sum s + smooth)), s "
            "the class's voxels within two voxels of the skeleton of all; label_smoothing as ce",
            summary="linear Dice loss, cross-entropy and recall of the skeletons",
            source="Kirchhoff et al. 2024, arXiv 2404.03010, equation 3; Dice linear",
        ),
        # ---- borders ----
        Loss(
            name="hausdorff",
            function=_coupled(boundary.dice_hausdorff),
            # alpha: the paper's and MONAI's; an equal part, as of the other sums
            defaults={"alpha": 2.0, "weight": 1.0, **SMOOTH, "mm": False, "balanced": False},
            later=frozenset({"mm", "balanced"}),
            spaced=True,
            tasks=MASKS,
            ignoring="",
            formula=f"{DICE} + weight mean_fg(log(1 + h)), h = mean((p - g)^2 (d_p^alpha + "
            "d_g^alpha)), d the distance in voxels, with mm in mm, to the border of the reference, "
            "of the prediction at 1/2; balanced: h times what makes both terms equal in the global "
            "batch, for the logarithm (the paper: in the epoch before)",
            summary="linear Dice loss plus the distances of wrong voxels from the borders, "
            "computed on the CPU, 0.2 s per class at 512 x 512 or 64^3 voxels",
            source="Karimi and Salcudean 2019, arXiv 1904.10030; monai.losses.LogHausdorffDTLoss",
        ),
        Loss(
            name="boundary",
            function=_each(boundary.dice_boundary),
            derive=boundary.signed_distances,
            moves=boundary.risen,
            # the paper's weight in its first epoch; its rise is 0.01 an epoch, with rebalance
            defaults={"weight": 0.01, **SMOOTH, "mm": False, "rise": 0.0, "rebalance": False},
            later=frozenset({"mm", "rise", "rebalance"}),
            spaced=True,
            tasks=MASKS,
            ignoring="",
            formula=f"{DICE} + weight mean_fg(mean(p phi)), phi the distance in voxels, with mm in "
            "mm, to the border of the reference, negative inside; in training the weight grows by "
            "rise each epoch, and with rebalance Dice weighs 1 - weight, at least 0.01",
            summary="linear Dice loss plus the distances of predicted voxels from the border, "
            "computed on the CPU, 0.1 s per class at 512 x 512 or 64^3 voxels",
            source="Kervadec et al. 2019, arXiv 1812.07032; monai.losses.BoundaryLoss",
        ),
    )
}
