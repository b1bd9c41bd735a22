"""What a network is taught in place of the answers that a store has: one row each.

The training part alone is taught so: inner validation and the test fold keep their answers.
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
            summary="the store's answers: of several readers what prepare made of them (majority)",
            source="the study itself",
        ),
        Regularizer(
            what="labels",
            name="flipped",
            sets={"trial.flipped": "share"},
            defaults={"share": 0.1},
            bounds={"share": (0.0, 1.0)},
            tasks=("classification", "multilabel", "ordinal"),
            summary="a share of the training cases has another class, each other one as likely; of "
            "several findings the share of each is turned round",
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
            summary="the class that one of a case's readers gave, drawn by the trial's seed",
            source="paper A, section 2.3; Jensen et al. 2019, MICCAI, LNCS 11767",
        ),
    )
}
