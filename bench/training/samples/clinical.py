"""Clinical data beside images: numbers, scaled by the training part and fused late.

A batch carries them in an extra channel after those of the image, so that whatever happens to a
batch (mixing, splitting, other processes) happens to them too; `LateFusion` takes them off.
"""

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bench.study.trial import Trial
from loaders.batches.torch_loader import gather
from loaders.batches.upload import uploaded
from loaders.sampling.sampler import Draws
from loaders.store.read import Store
from models.output import Output


def width(store: Store) -> int:
    """Return how many numbers a network gets as clinical data."""
    words = store.categories
    return sum(len(words[name]) + 1 if name in words else 2 for name in store.clinical)


def digest(store: Store) -> str:
    """Return a hash of a store's clinical data, which its content hash does not cover."""
    found = {name: [value.hex() for value in column.tolist()] for name, column in _sorted(store)}
    text = json.dumps([found, {name: list(words) for name, words in store.categories.items()}])
    return hashlib.sha256(text.encode()).hexdigest()


def samples_of(
    store: Store, draws: Draws, device: torch.device, clinical: "Clinical | None"
) -> tuple[Tensor, np.ndarray]:
    """Return the images of draws on the device as a network gets them, and their answers."""
    pixels, answers = gather(store, draws)
    image = uploaded(pixels, device)
    return image if clinical is None else clinical.beside(image, draws.case), answers


def _sorted(store: Store) -> list[tuple[str, np.ndarray]]:
    return sorted(store.clinical.items())


@dataclass(frozen=True, kw_only=True)
class Clinical:
    """Clinical data of all n cases in the form that a network gets, (n, k) float32."""

    features: np.ndarray

    @classmethod
    def given(cls, trial: Trial, store: Store, train: np.ndarray) -> "Clinical | None":
        """Return what a trial's network gets, None if it gets images alone."""
        return cls.of(store, train) if trial.given_clinical else None

    @classmethod
    def of(cls, store: Store, train: np.ndarray) -> "Clinical":
        """Return those of a store, scaled by only its cases `train`.

        A number is in standard deviations from its mean there; a missing number is the mean, with a
        flag beside it. A category is one-hot over its words and unknown.
        """
        parts = []
        for name, values in _sorted(store):
            known = np.isfinite(values)
            if name in store.categories:
                count = len(store.categories[name])
                place = np.where(known, values, count).astype(int)
                parts.append(np.eye(count + 1)[place])
                continue
            seen = values[train][known[train]]
            mean = seen.mean() if len(seen) else 0.0
            deviation = seen.std() if len(seen) else 1.0
            scaled = (np.where(known, values, mean) - mean) / (deviation or 1.0)
            parts.append(np.stack([scaled, ~known], axis=1))
        return cls(features=np.concatenate(parts, axis=1).astype(np.float32))

    def beside(self, image: Tensor, cases: np.ndarray) -> Tensor:
        """Return images (n, C, *spatial) with the data of their cases in an extra last channel.

        Raises ValueError if an image has fewer pixels than there are numbers.
        """
        own = torch.from_numpy(self.features[cases]).to(image.device, image.dtype)
        pixels, numbers = math.prod(image.shape[2:]), own.shape[1]
        if numbers > pixels:
            raise ValueError(f"clinical: {numbers} numbers do not fit images of {pixels} pixels")
        channel = image.new_zeros(len(image), pixels)
        channel[:, :numbers] = own
        return torch.cat([image, channel.view(len(image), 1, *image.shape[2:])], dim=1)


class LateFusion(nn.Module):
    """A network whose logits also depend on `numbers` clinical numbers, through one linear layer.

    Appending them to the features of the last linear layer means adding a linear function of them
    to the logits: W [x, c] = W_x x + W_c c. So any network can be fused, whatever its head. That
    layer starts at zero, so training with and without it starts from the same function. (With the
    random start of a layer of two inputs, its logits drowned those of the image for hundreds of
    steps.)
    """

    def __init__(self, network: nn.Module, *, numbers: int, classes: int) -> None:
        super().__init__()
        self.network = network
        self.numbers = numbers
        self.beside = nn.Linear(numbers, classes, bias=False)
        nn.init.zeros_(self.beside.weight)

    def forward(self, image: Tensor) -> Tensor | Output:
        """Return logits of images (N, C + 1, *spatial) as `Clinical.beside` makes them."""
        given: Tensor | Output = self.network(image[:, :-1])
        added: Tensor = self.beside(image[:, -1].flatten(1)[:, : self.numbers])
        if isinstance(given, Output):
            return given._replace(logits=given.logits + added)
        return given + added
