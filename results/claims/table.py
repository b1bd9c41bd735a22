"""The claims of both papers, one row each: sentence, measure, what a study must have, the test.

Paper A: Xue, "Optimization of convolutional neural networks for medical images". Paper B: Skalozub,
Nesterenkov and Yarmosh, on gradient optimization methods for medical diagnostics. The sentences
paraphrase the papers, each as one statement that can be true or false.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from results.claims import across, measures
from results.claims.contrasts import Found, Lacking, Side, matched
from results.claims.kept import Kept
from results.claims.measures import Measure
from results.claims.scores import above_chance, matched_scores
from results.verdict.combinations import Contest

Answer = Found | Lacking
# Says why a data set cannot answer, or returns None if it can.
Need = Callable[[Kept, Contest], str | None]
Ask = Callable[[Kept], Iterator[Answer]]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim: `ask` gives what each data set of a run shows, or what it lacks.

    The claim says that the difference is above zero; for `says="below"`, below zero; for
    `says="not worse"`, above minus the study's margin. `margin`: whether the measure is a score, so
    that differences within the study's margin do not matter.
    """

    id: str
    paper: Literal["A", "B"]
    sentence: str
    measure: str
    needs: str
    says: Literal["above", "below", "not worse"] = "above"
    margin: bool = False
    ask: Ask


# ---- what a data set must be -----------------------------------------------------------------

# Words in the name or source of a data set that show what its images are. Assumption.
XRAY = re.compile(r"x-?ray|radiograph|chestmnist|pneumonia|cxr|chexpert", re.IGNORECASE)
SKIN = re.compile(r"skin|derma|isic|melanoma|ham10000", re.IGNORECASE)
# At most this many patients count as a small data set, and data with a score above this are not
# hard. Assumptions: the papers give no numbers.
LITTLE, EASY = 100, 0.9


def _shows(words: re.Pattern[str], what: str) -> Need:
    def need(run: Kept, contest: Contest) -> str | None:
        data = run.footer.get("data", {}).get(contest.dataset, {})
        said = f"{contest.dataset} {data.get('source', '')}"
        return None if words.search(said) else f"its name and source do not say that it is {what}"

    return need


def _cine(run: Kept, contest: Contest) -> str | None:
    axes = run.footer.get("data", {}).get(contest.dataset, {}).get("axes", "")
    return None if "t" in axes else "it has no loops"


def _real(run: Kept, contest: Contest) -> str | None:
    return "its images are phantoms" if is_phantom(run, contest.dataset) else None


def _little(_run: Kept, contest: Contest) -> str | None:
    patients = {
        sum(row[f"n_{part}_groups"] or 0 for part in ("train", "val", "test"))
        for row in contest.rows
        if row["n_train_groups"]
    }
    if patients and max(patients) <= LITTLE:
        return None
    return f"it has more than {LITTLE} patients"


def _hard(_run: Kept, contest: Contest) -> str | None:
    scores = [c.mean("test_score") or 0.0 for c in contest.judged]
    if contest.sign > 0 and scores and max(scores) <= EASY:
        return None
    return f"it is not hard: some combination scores above {EASY}"


def is_phantom(run: Kept, dataset: str) -> bool:
    """Return whether a data set says that its images are synthetic."""
    source = str(run.footer.get("data", {}).get(dataset, {}).get("source", ""))
    return source.startswith("phantom") or "phantom" in dataset


# ---- how a claim is asked --------------------------------------------------------------------


def _each(measure: Measure, one: Side, other: Side, *needs: Need) -> Ask:
    """Ask every data set of a run by itself."""

    def ask(run: Kept) -> Iterator[Answer]:
        for contest in run.contests:
            lacks = next((why for need in needs if (why := need(run, contest))), None)
            if lacks:
                yield Lacking(dataset=contest.dataset, reason=lacks)
            else:
                yield matched(contest, measure(run, contest), one, other)

    return ask


def _score(one: Side, other: Side, *needs: Need) -> Ask:
    """Ask every data set of a run by the primary test score."""

    def ask(run: Kept) -> Iterator[Answer]:
        for contest in run.contests:
            lacks = next((why for need in needs if (why := need(run, contest))), None)
            if lacks:
                yield Lacking(dataset=contest.dataset, reason=lacks)
            else:
                yield matched_scores(run, contest, one, other)

    return ask


def _chance(side: Side, need: Need) -> Ask:
    """Ask every data set of a run whether a side's AUC is above that of chance."""

    def ask(run: Kept) -> Iterator[Answer]:
        for contest in run.contests:
            if lacks := need(run, contest):
                yield Lacking(dataset=contest.dataset, reason=lacks)
            else:
                yield above_chance(run, contest, side)

    return ask


def _counted(measure: Measure, one: Side, other: Side) -> Ask:
    """Ask by a measure that is known exactly, such as the number of parameters."""

    def ask(run: Kept) -> Iterator[Answer]:
        for contest in run.contests:
            found = matched(contest, measure(run, contest), one, other)
            yield replace(found, exact=True) if isinstance(found, Found) else found

    return ask


# ---- sides -----------------------------------------------------------------------------------

SIX = ("sgd", "adagrad", "rmsprop", "adam", "adamw", "lbfgs")
PLAIN_NETS = ("plain_cnn", "unet", "unet_small")
RESIDUAL_NETS = ("resnet18", "resnet34", "resnet50", "small_resnet", "unet_res", "segresnet")
DICE = ("dice", "dice_squared", "dice_batch", "generalized_dice")
FOCAL = ("focal", "weighted_focal")
DICE_OR_FOCAL = (*DICE, *FOCAL, "dice_focal")
AUGMENTED = ("augmentation", "strong_augmentation")
REGULARIZED = ("weight_decay", "dropout", "label_smoothing", "mixup", *AUGMENTED)


# Paper A's two recipes.
AFTER: Side = {"model": RESIDUAL_NETS, "loss": DICE_OR_FOCAL, "regularizer": AUGMENTED}
BEFORE: Side = {"model": PLAIN_NETS, "loss": ["ce"], "regularizer": ["none"]}


def _optimizer(*names: str) -> tuple[Side, Side]:
    """Return some of paper B's six optimizers, and the other ones."""
    return {"optimizer": names}, {"optimizer": [n for n in SIX if n not in names]}


_FOLDS = "at least two folds"
_SIX = f"others of the six optimizers, {_FOLDS}"
_SAMPLES = (
    f"sample-gradients until the inner score is {measures.REACHED} of the best that any combination"
    " reaches at that fold and seed, log2; if never, those of the last sample used"
)
_SWING = (
    "standard deviation of loss differences between successive steps, at equal loss, log2, once "
    f"the inner score is {measures.REACHED} of the trial's best"
)

CLAIMS: dict[str, Claim] = {
    claim.id: claim
    for claim in (
        Claim(
            id="sgd-fast",
            paper="B",
            sentence="SGD converges fast.",
            measure=f"{_SAMPLES}; SGD minus the others",
            needs=f"sgd and {_SIX}",
            says="below",
            ask=_each(measures.samples_to_score, *_optimizer("sgd")),
        ),
        Claim(
            id="sgd-oscillates",
            paper="B",
            sentence="SGD oscillates.",
            measure=f"{_SWING}; SGD minus the others",
            needs=f"sgd and {_SIX}, at least three steps per epoch",
            ask=_each(measures.swing, *_optimizer("sgd")),
        ),
        Claim(
            id="adagrad-decays",
            paper="B",
            sentence="Adagrad's rate decays.",
            measure="length of steps in the last epoch over that in the first, log10; Adagrad "
            "minus the others",
            needs=f"adagrad and {_SIX}, at least five steps per epoch",
            says="below",
            ask=_each(measures.step_decay, *_optimizer("adagrad")),
        ),
        Claim(
            id="adagrad-sparse",
            paper="B",
            sentence="Adagrad suits sparse data.",
            measure="test score, Adagrad minus the others: with the most zero entries minus the "
            "same with the fewest",
            needs="data sets NAME-zeros-P of one source, with P percent of entries set to zero; "
            f"adagrad and {_SIX}",
            margin=True,
            ask=across.more_zeros(*_optimizer("adagrad")),
        ),
        Claim(
            id="rmsprop-steadies",
            paper="B",
            sentence="RMSprop steadies training on hard data.",
            measure=f"{_SWING}; RMSprop minus SGD",
            needs=f"rmsprop and sgd; no mean test score above {EASY}",
            says="below",
            ask=_each(measures.swing, {"optimizer": ["rmsprop"]}, {"optimizer": ["sgd"]}, _hard),
        ),
        Claim(
            id="adam-fast",
            paper="B",
            sentence="Adam speeds convergence.",
            measure=f"{_SAMPLES}; Adam minus the others",
            needs=f"adam and {_SIX}",
            says="below",
            ask=_each(measures.samples_to_score, *_optimizer("adam")),
        ),
        Claim(
            id="adam-overfits-less",
            paper="B",
            sentence="Adam resists over-fitting.",
            measure="score of the last weights on training cases minus that on inner validation; "
            "Adam minus the others",
            needs=f"adam and {_SIX}",
            says="below",
            margin=True,
            ask=_each(measures.overfitting, *_optimizer("adam")),
        ),
        Claim(
            id="adamw-real",
            paper="B",
            sentence="AdamW is better on real medical images.",
            measure="test score, AdamW minus the others",
            needs=f"adamw and {_SIX}; images of patients, not phantoms",
            margin=True,
            ask=_score(*_optimizer("adamw"), _real),
        ),
        Claim(
            id="lbfgs-minima",
            paper="B",
            sentence="L-BFGS finds more exact minima on small data sets.",
            measure="lowest training loss of an epoch, log10; L-BFGS minus the others",
            needs=f"lbfgs and {_SIX}; at most {LITTLE} patients",
            says="below",
            ask=_each(measures.lowest_loss, *_optimizer("lbfgs"), _little),
        ),
        Claim(
            id="xray-adam-rmsprop",
            paper="B",
            sentence="Adam and RMSprop find the anomalies of chest X-rays.",
            measure="test AUC, mean of Adam and RMSprop, minus that of chance, 0.5",
            needs=f"adam or rmsprop; AUC as the primary metric; X-rays by name or source, {_FOLDS}",
            ask=_chance({"optimizer": ["adam", "rmsprop"]}, _shows(XRAY, "of X-rays")),
        ),
        Claim(
            id="cine-false-positives",
            paper="B",
            sentence="A CNN with an LSTM trained by SGD has fewer false positives in ultrasound.",
            measure="specificity in the test cases, cnn_lstm minus frame_cnn, both by SGD",
            needs="loops, cnn_lstm and frame_cnn, sgd",
            margin=True,
            ask=_each(
                measures.specificity,
                {"model": ["cnn_lstm"], "optimizer": ["sgd"]},
                {"model": ["frame_cnn"], "optimizer": ["sgd"]},
                _cine,
            ),
        ),
        Claim(
            id="cine-adam-rmsprop",
            paper="B",
            sentence="Adam and RMSprop train the CNN with an LSTM well.",
            measure="test score of cnn_lstm, mean of Adam and RMSprop, minus SGD; “well”: "
            "worse by no more than the margin",
            needs="loops, cnn_lstm, adam or rmsprop, sgd",
            says="not worse",
            margin=True,
            ask=_score(
                {"model": ["cnn_lstm"], "optimizer": ["adam", "rmsprop"]},
                {"model": ["cnn_lstm"], "optimizer": ["sgd"]},
                _cine,
            ),
        ),
        Claim(
            id="skin-regularized",
            paper="B",
            sentence="Regularization improves generalization on skin lesions.",
            measure="test score, mean of the regularizers, minus no regularizer",
            needs="skin by name or source; `none` and others on the axis of regularizers",
            margin=True,
            ask=_score(
                {"regularizer": REGULARIZED}, {"regularizer": ["none"]}, _shows(SKIN, "of skin")
            ),
        ),
        Claim(
            id="best-depends",
            paper="B",
            sentence="Which optimizer is best depends on the data.",
            measure="test score: the smaller of two leads, of one optimizer on one data set and of "
            "another on the other",
            needs="two data sets with the same primary metric, and two or more optimizers",
            ask=across.other_best,
        ),
        Claim(
            id="before-after",
            paper="A",
            sentence="The optimized network is better than the plain one.",
            measure="test score: residual network, Dice or Focal, augmentation, minus plain "
            "network, cross-entropy, no augmentation",
            needs="all of these in one study",
            margin=True,
            ask=_score(AFTER, BEFORE),
        ),
        Claim(
            id="structure",
            paper="A",
            sentence="Part of that gain comes from the network structure.",
            measure="test score, residual minus plain network, mean over losses and augmentation",
            needs="a plain and a residual network",
            margin=True,
            ask=_score({"model": RESIDUAL_NETS}, {"model": PLAIN_NETS}),
        ),
        Claim(
            id="loss",
            paper="A",
            sentence="Part of that gain comes from the loss.",
            measure="test score, Dice and Focal minus cross-entropy, mean over the rest",
            needs="ce and a Dice or Focal loss",
            margin=True,
            ask=_score({"loss": DICE_OR_FOCAL}, {"loss": ["ce"]}),
        ),
        Claim(
            id="augmentation",
            paper="A",
            sentence="Part of that gain comes from augmentation.",
            measure="test score with augmentation minus without, mean over the rest",
            needs="`none` and `augmentation` or `strong_augmentation`",
            margin=True,
            ask=_score({"regularizer": AUGMENTED}, {"regularizer": ["none"]}),
        ),
        Claim(
            id="densenet-exact",
            paper="A",
            sentence="DenseNet is as accurate as ResNet.",
            measure="test score, densenet121 minus the residual networks; “as accurate”: "
            "worse by no more than the margin",
            needs="densenet121 and a resnet",
            says="not worse",
            margin=True,
            ask=_score({"model": ["densenet121"]}, {"model": RESIDUAL_NETS}),
        ),
        Claim(
            id="densenet-fewer",
            paper="A",
            sentence="DenseNet has fewer parameters than ResNet.",
            measure="number of parameters, log2; densenet121 minus the residual networks",
            needs="densenet121 and a resnet",
            says="below",
            ask=_counted(measures.parameters, {"model": ["densenet121"]}, {"model": RESIDUAL_NETS}),
        ),
        Claim(
            id="dice-small",
            paper="A",
            sentence="Dice loss helps with small lesions.",
            measure="Dice of the small references in the test cases; Dice losses minus "
            "cross-entropy",
            needs="segmentation with small references, ce and a Dice loss",
            margin=True,
            ask=_each(measures.small_dice, {"loss": DICE}, {"loss": ["ce"]}),
        ),
        Claim(
            id="focal-rare",
            paper="A",
            sentence="Focal loss is better than Dice loss for rare classes.",
            measure="F1 (for masks: Dice) of the rarest class or region; Focal minus Dice losses",
            needs="a Focal and a Dice loss",
            margin=True,
            ask=_each(measures.rarest_f1, {"loss": FOCAL}, {"loss": DICE}),
        ),
        Claim(
            id="fine-tuning-time",
            paper="A",
            sentence="Fine-tuning the upper layers saves training time.",
            measure="seconds of training, log2; from pretrained weights minus from scratch",
            needs="pretrained weights and `none`",
            says="below",
            ask=_each(measures.seconds, {"pretrained": ["!none"]}, {"pretrained": ["none"]}),
        ),
        Claim(
            id="fine-tuning-small",
            paper="A",
            sentence="Fine-tuning the upper layers helps on small data sets.",
            measure="test score, from pretrained weights minus from scratch",
            needs=f"pretrained weights and `none`; at most {LITTLE} patients",
            margin=True,
            ask=_score({"pretrained": ["!none"]}, {"pretrained": ["none"]}, _little),
        ),
        Claim(
            id="minority-augmentation",
            paper="A",
            sentence="Augmentation raises the sensitivity to the minority class.",
            measure="sensitivity to the rarest class, with augmentation minus without",
            needs="classification; `none` and `augmentation` or `strong_augmentation`",
            margin=True,
            ask=_each(
                measures.rarest_sensitivity, {"regularizer": AUGMENTED}, {"regularizer": ["none"]}
            ),
        ),
        Claim(
            id="minority-weighting",
            paper="A",
            sentence="Class weighting raises the sensitivity to the minority class.",
            measure="sensitivity to the rarest class, weighted_ce minus ce",
            needs="classification; weighted_ce and ce",
            margin=True,
            ask=_each(measures.rarest_sensitivity, {"loss": ["weighted_ce"]}, {"loss": ["ce"]}),
        ),
        Claim(
            id="range-devices",
            paper="A",
            sentence="Scaling intensities to 0 to 1 helps across devices.",
            measure="test score on degraded images, a stand-in for other devices; range minus "
            "z-score",
            needs="the same store twice, with `normalize: range` and `z-score`; `degrade`",
            margin=True,
            ask=across.by_range,
        ),
        Claim(
            id="fusion-devices",
            paper="A",
            sentence="Fusion of several channels helps across devices.",
            measure="test score on degraded images, a stand-in for other devices; fusion of "
            "features (unet_late) minus fusion at the input (unet)",
            needs="segmentation with several channels, unet_late and unet; `degrade`",
            margin=True,
            ask=_each(measures.degraded, {"model": ["unet_late"]}, {"model": ["unet"]}),
        ),
    )
}
