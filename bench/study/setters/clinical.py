"""Rows of the axis `clinical`: whether a network is given clinical data beside the image."""

from bench.study.regularizers import Regularizer

CLINICAL: dict[str, Regularizer] = {
    row.name: row
    for row in (
        Regularizer(
            what="clinical",
            name="none",
            sets={},
            defaults={},
            summary="only the image",
            source="the study itself",
        ),
        Regularizer(
            what="clinical",
            name="with_clinical",
            sets={"trial.given_clinical": "used"},
            defaults={"used": True},
            tasks=("classification", "multilabel", "ordinal", "regression"),
            summary="every clinical column of the store, joined to the features of the image "
            "before the last layer",
            source="paper A, section 7.4; joint fusion of Huang et al. 2020, npj Digit. Med. 3:136",
        ),
    )
}
