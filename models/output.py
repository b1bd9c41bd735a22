"""What a network returns if it has more to say than logits."""

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """Logits, and what some networks give beside them; other networks return plain logits.

    `deep` is given in training mode only, `presence` in both modes.
    """

    logits: Tensor  # (N, C), or (N, C, *patch) at full resolution
    # Logits of the coarser levels, finest first, (N, C, *sides of the level): deep supervision.
    deep: tuple[Tensor, ...] = ()
    # (N, C): logits for "this patch holds class c", of networks that classify and segment at once.
    presence: Tensor | None = None
