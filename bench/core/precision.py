"""The precisions a study can ask for: one row each. Weights and optimizer state stay float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

# Imported late, here and below: a study is validated without torch.
if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Precision:
    """One precision of the table.

    `half` is the torch type in which autocast computes convolutions and matrix products, None for
    float32 throughout. `scaled`: gradients are scaled against underflow (torch.amp.GradScaler).
    `tf32`: a GPU rounds the factors of float32 products to TF32. `gpu_only`: why it cannot run on a
    CPU, None if it can.
    """

    name: str
    half: str | None
    scaled: bool
    tf32: bool = False
    gpu_only: str | None = None
    summary: str
    source: str

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which a forward pass runs."""
        if self.half is None:
            return nullcontext()
        import torch

        return torch.autocast(device.type, getattr(torch, self.half))

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Return the scaler of gradients; if none is needed, one that changes nothing."""
        import torch

        return torch.amp.GradScaler(device.type, enabled=self.scaled)


PRECISIONS: dict[str, Precision] = {
    row.name: row
    for row in (
        Precision(
            name="float32",
            half=None,
            scaled=False,
            summary="single precision throughout; on a GPU without TF32",
            source="IEEE 754",
        ),
        Precision(
            name="tf32",
            half=None,
            scaled=False,
            tf32=True,
            gpu_only="tf32 is a number format of NVIDIA's GPUs: take float32, or a GPU",
            summary="float32, but products round their factors to a mantissa of 10 bits",
            source="NVIDIA A100 white paper 2020; torch.backends.cudnn.allow_tf32",
        ),
        Precision(
            name="bfloat16",
            half="bfloat16",
            scaled=False,
            summary="bfloat16 by autocast: the range of float32, 8 bits of precision",
            source="Kalamkar et al. 2019, arXiv 1905.12322; torch.autocast",
        ),
        Precision(
            name="float16",
            half="float16",
            scaled=True,
            # Measured with ResNet-18 and larger, LOG.md.
            gpu_only="float16 on a CPU takes twenty times as long as float32: take bfloat16, or a "
            "GPU",
            summary="float16 by autocast, gradients scaled against underflow",
            source="Micikevicius et al. 2018, arXiv 1710.03740; torch.amp.GradScaler",
        ),
    )
}
