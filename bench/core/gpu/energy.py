"""The energy that a GPU has drawn, by NVIDIA's management library (NVML)."""

import pynvml
import torch

# NVML counts thousandths of a joule.
_PER_JOULE = 1000


class EnergyMeter:
    """Counts the joules that a whole GPU draws, for all of its users, since the meter was made.

    `joules()` is None if NVML does not tell: on a CPU, on GPUs before Volta, on a slice of a GPU
    (MIG), and without the driver's library.
    """

    def __init__(self, device: torch.device) -> None:
        self._card = _card(device)
        self._start = self._counter()

    def joules(self) -> float | None:
        """Return the joules since the meter was made."""
        now = self._counter()
        return None if now is None or self._start is None else (now - self._start) / _PER_JOULE

    def _counter(self) -> int | None:
        if self._card is None:
            return None
        try:
            return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._card))
        except pynvml.NVMLError:
            return None


def _card(device: torch.device) -> object | None:
    if device.type != "cuda":
        return None
    try:
        pynvml.nvmlInit()
        # By name, not number: CUDA_VISIBLE_DEVICES renumbers GPUs for CUDA, not for NVML.
        name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        card: object = pynvml.nvmlDeviceGetHandleByUUID(name)
    except pynvml.NVMLError:
        return None
    return card
