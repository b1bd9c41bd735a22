"""A loss of the user's own, as text: it notes each of its calls in training, then does as told."""

import textwrap

_SOURCE = """
import os
import time
from pathlib import Path

from torch.nn.functional import cross_entropy

HERE = Path(__file__).parent


def noted(logits, target):
    # Not where a plan tries it, with three samples.
    if logits.requires_grad and len(logits) > 3:
        with (HERE / "calls").open("a") as calls:
            calls.write(".")
{then}
    return cross_entropy(logits, target)
"""


def noted_loss(then: str) -> str:
    """Return the source of `noted`, which runs `then` after each note; calls lie in HERE/calls."""
    return _SOURCE.format(then=textwrap.indent(textwrap.dedent(then).strip(), " " * 8))
