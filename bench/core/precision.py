"""The precisions a study can ask for: one row each. Weights and optimizer state stay float32."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Precision:
    """One precision of the table.

    `dtype` is what autocast computes convolutions and matrix products in, None for float32
    throughout. `scaled`: gradients are scaled against underflow (torch.amp.GradScaler).
    """

    name: str
    dtype: torch.dtype | None
    scaled: bool
    summary: str
    source: str

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which a forward pass runs."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(device.type, self.dtype)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Return the scaler of gradients; where none is needed, one that changes nothing."""
        return torch.amp.GradScaler(device.type, enabled=self.scaled)


PRECISIONS: dict[str, Precision] = {
    row.name: row
    for row in (
        Precision(
            name="float32",
            dtype=None,
            scaled=False,
            summary="single precision throughout",
            source="IEEE 754",
        ),
        Precision(
            name="bfloat16",
            dtype=torch.bfloat16,
            scaled=False,
            summary="bfloat16 by autocast: the range of float32, 8 bits of precision",
            source="Kalamkar et al. 2019, arXiv 1905.12322; torch.autocast",
        ),
        Precision(
            name="float16",
            dtype=torch.float16,
            scaled=True,
            summary="float16 by autocast, gradients scaled against underflow",
            source="Micikevicius et al. 2018, arXiv 1710.03740; torch.amp.GradScaler",
        ),
    )
}
