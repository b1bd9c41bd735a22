"""Rows of the axis `labels`: the answers that a network trains on, in place of the store's.

They replace answers of the training part only: inner validation and the test fold keep theirs.
"""

from bench.study.regularizers import Regularizer

LABELS: dict[str, Regularizer] = {
    row.name: row
    for row in (
        Regularizer(
            what="labels",
            name="as_given",
            sets={},
            defaults={},
            summary="the store's answers; for several readers, their majority as prepared",
            source="the study itself",
        ),
        Regularizer(
            what="labels",
            name="flipped",
            sets={"trial.flipped": "share"},
            defaults={"share": 0.1},
            bounds={"share": (0.0, 1.0)},
            tasks=("classification", "multilabel", "ordinal"),
            summary="a share of the training cases gets another class, every other class equally "
            "likely; of several findings, this share of each is inverted",
            source="paper A, section 2.3; symmetric noise: Patrini et al. 2017, arXiv 1609.03683",
        ),
        Regularizer(
            what="labels",
            name="soft_readers",
            sets={"trial.readers": "readers"},
            defaults={"readers": "soft"},
            tasks=("classification",),
            summary="the share of a case's readers that gave each class (LIDC's malignancy; a "
            "table's rows with readers=)",
            source="paper A, section 2.3; Jensen et al. 2019, MICCAI, LNCS 11767",
        ),
        Regularizer(
            what="labels",
            name="one_reader",
            sets={"trial.readers": "readers"},
            defaults={"readers": "one"},
            tasks=("classification",),
            summary="the class given by one of the case's readers, drawn by the trial's seed",
            source="paper A, section 2.3; Jensen et al. 2019, MICCAI, LNCS 11767",
        ),
    )
}
