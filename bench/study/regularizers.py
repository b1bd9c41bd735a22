"""The regularizers: one row each, defined by what it sets in the other parts of a combination.

Early stopping on inner validation is part of the protocol (`early_stopping`), so `none` is early
stopping alone; `no_stopping` trains to the end of the budget (inner validation still chooses the
weights).

`weight_decay` multiplies each optimizer's own decay, since one number for all would be less than
adamw's own and more than sgd_nesterov's. So `none` is not without decay: it leaves each optimizer
its own (`medopt list optimizers`), without which adamw would be adam. A factor of 0 removes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from bench.core.settings import Setting, check_bounds, merge

# What a regularizer can set: a setting of the model, optimizer or loss, a draw of the
# augmentation, or a field of the trial itself.
PARTS = ("model", "optimizer", "loss", "augment", "trial")


EVERY = ("classification", "segmentation", "multilabel", "ordinal", "regression")


@dataclass(frozen=True, kw_only=True)
class Regularizer:
    """One regularizer of the table.

    `sets` maps `part.field` to the setting that goes there; those in `multiplies` multiply the
    usual value. `defaults` names every setting that a study may change, `bounds` the least and
    greatest value of settings that no other part checks. `what` is the word for such a row in
    messages: other axes may have rows of this kind.
    """

    what: str = "regularizer"
    name: str
    sets: Mapping[str, str]
    multiplies: tuple[str, ...] = ()
    defaults: Mapping[str, Setting]
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    tasks: tuple[str, ...] = EVERY
    summary: str
    source: str

    def settings(self, given: Mapping[str, Any]) -> dict[str, Setting]:
        """Return every setting, `given` over the defaults.

        Raises ValueError as `merge` does, and for a value out of bounds.
        """
        found = merge(f"{self.what} {self.name}", self.defaults, given)
        check_bounds(f"{self.what} {self.name}", found, self.bounds)
        return found

    def changes(
        self, part: str, given: Mapping[str, Any], usual: Mapping[str, float]
    ) -> dict[str, Setting]:
        """Return field -> value to set in one of PARTS; `usual` are the values to multiply."""
        found = self.settings(given)
        made: dict[str, Setting] = {}
        for target, setting in self.sets.items():
            place, _, name = target.partition(".")
            value = found[setting]
            if place == part and target in self.multiplies:
                assert isinstance(value, float)
                made[name] = value * usual[name]
            elif place == part:
                made[name] = value
        return made

    def unfit(self, part: str, name: str, fields: Mapping[str, Any]) -> str | None:
        """Return why the row `name`, with the settings `fields`, cannot take this, or None."""
        for target in self.sets:
            place, _, wanted = target.partition(".")
            if place == part and wanted not in fields:
                known = ", ".join(fields) or "none"
                return (
                    f"{self.what} {self.name} sets {wanted} of the {part}, and {name} has no such "
                    f"setting (it has: {known})"
                )
        return None


REGULARIZERS: dict[str, Regularizer] = {
    row.name: row
    for row in (
        Regularizer(
            name="none",
            sets={},
            defaults={},
            summary="only early stopping, and each optimizer with its own weight decay",
            source="paper A: 10 epochs without a better inner validation",
        ),
        Regularizer(
            name="no_stopping",
            sets={"trial.stops": "stops"},
            defaults={"stops": False},
            summary="the whole budget, without early stopping",
            source="nnU-Net's protocol: a fixed number of epochs",
        ),
        Regularizer(
            name="weight_decay",
            sets={"optimizer.weight_decay": "factor"},
            multiplies=("optimizer.weight_decay",),
            # A decade, as wide as the search of rates. Krizhevsky et al. 2012 take 5e-4 and He et
            # al. 2016 1e-4, ten times 5e-5 and three times 3e-5; 0.1 in AdamW is usual.
            defaults={"factor": 10.0},
            bounds={"factor": (0.0, inf)},
            summary="ten times the optimizer's own decay; if that is 0, ten times 5e-5 (coupled) "
            "or 1e-5 / lr (decoupled, which shrinks weights as adamw does)",
            source="Krogh and Hertz 1992; Loshchilov and Hutter 2019, arXiv 1711.05101",
        ),
        Regularizer(
            name="dropout",
            sets={"model.dropout": "rate"},
            defaults={"rate": 0.3},  # assumption; the paper has 0.5 for fully connected layers
            summary="units dropped at random in training, where the network has dropout layers",
            source="Srivastava et al. 2014, JMLR 15",
        ),
        Regularizer(
            name="label_smoothing",
            sets={"loss.label_smoothing": "amount"},
            defaults={"amount": 0.1},
            summary="targets of 1 - 0.1 for the true class, the rest spread evenly",
            source="Szegedy et al. 2016, arXiv 1512.00567, section 7",
        ),
        Regularizer(
            name="mixup",
            sets={"trial.mixup": "alpha"},
            defaults={"alpha": 0.2},
            bounds={"alpha": (0.0, 100.0)},  # beyond that every share is one half: assumption
            summary="samples mixed in pairs, and their losses with them; share from Beta(0.2, 0.2)",
            source="Zhang et al. 2018, arXiv 1710.09412; alpha of its ImageNet runs",
        ),
        Regularizer(
            name="strong_augmentation",
            sets={
                f"augment.{name}": name for name in ("rotate", "zoom", "noise", "contrast", "gamma")
            },
            # nnU-Net's ranges (30 degrees, 0.7 to 1.4, a variance up to 0.1, 0.75 to 1.25 and 0.7
            # to 1.5), made symmetric; each with the probability that the study gives. Noise is for
            # images in standard deviations.
            defaults={"rotate": 30.0, "zoom": 0.3, "noise": 0.3, "contrast": 0.25, "gamma": 0.5},
            summary="rotation, zoom, noise, contrast and gamma on top of flips and crops",
            source="Isensee et al. 2021 (nnU-Net), supplementary note 4",
        ),
        Regularizer(
            name="augmentation",
            sets={
                f"augment.{name}": name
                for name in ("flip", "rotate", "zoom", "translate", "chance")
            },
            # Paper A names rotation, scaling, translation and flips without ranges: assumptions.
            defaults={"flip": True, "rotate": 15.0, "zoom": 0.1, "translate": 0.1, "chance": 0.5},
            summary="flips, rotation, scaling and translation, for a study that draws none itself",
            source="paper A: rotation, scaling, translation, flips",
        ),
        Regularizer(
            name="resampling",
            sets={"trial.balance": "balance"},
            defaults={"balance": True},
            # Segmentation balances its voxels by patches on the foreground instead.
            tasks=("classification", "ordinal"),
            summary="classes drawn equally often, the rarer ones repeated",
            source="Buda et al. 2018, arXiv 1710.05381: over-sampling to full balance",
        ),
    )
}
