"""The meta of the data sets that tests make."""

from typing import Any

from loaders.cases import Meta


def made_meta(**changes: Any) -> Meta:
    """Return the meta of grey pictures of two classes, but for what is said otherwise."""
    known: dict[str, Any] = {
        "kind": "made",
        "name": "made",
        "task": "classification",
        "dims": 2,
        "channels": ("a",),
        "classes": ("dark", "bright"),
        "regions": {},
        "positive": None,
        "normalize": "train",
        "fill": 0.0,
        "unit": "image",
        "group_source": "case",
        "source": "made by a test",
        "licence": "none",
        "options": {},
    }
    return Meta(**{**known, **changes})
