"""Whether a network is given clinical data beside the image: one row each."""

from bench.study.regularizers import Regularizer

CLINICAL: dict[str, Regularizer] = {
    row.name: row
    for row in (
        Regularizer(
            what="clinical",
            name="none",
            sets={},
            defaults={},
            summary="the image alone",
            source="the study itself",
        ),
        Regularizer(
            what="clinical",
            name="with_clinical",
            sets={"trial.given_clinical": "used"},
            defaults={"used": True},
            tasks=("classification", "multilabel", "ordinal", "regression"),
            summary="every clinical column of the store beside what the network makes of the "
            "image, before its last layer",
            source="paper A, section 7.4; joint fusion of Huang et al. 2020, npj Digit. Med. 3:136",
        ),
    )
}
