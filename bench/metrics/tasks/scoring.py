"""A network's output for some cases, in the form that functions for scoring a task take."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loaders.cases import Meta
from loaders.store.read import Store

# The channels of a colour picture, as the readers of images and loops name them.
_COLOURS = ("red", "green", "blue")
# Longest side in pixels of a picture kept for reports, which show it at about 300. Assumption.
_LONGEST = 512


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The mean and the standard deviation (k,) of numbers in training, by which they are scaled."""

    mean: np.ndarray
    deviation: np.ndarray

    def back(self, said: np.ndarray) -> np.ndarray:
        """Return a network's numbers (n, k) in the units of the source."""
        found: np.ndarray = said * self.deviation + self.mean
        return found

    def learned(self, target: Tensor) -> Tensor:
        """Return the source's numbers (n, k) in the scale that a network learns."""
        mean, deviation = (
            torch.as_tensor(values, dtype=target.dtype, device=target.device)
            for values in (self.mean, self.deviation)
        )
        return (target - mean) / deviation


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Cases of a store that went through a network together.

    - `cases` (n,): their indices. `pixels` (n, channels, *spatial): the images given to it.
    - `logits` (n, classes) or (n, classes, *spatial), float32, on the device. `target` (n,) or
      (n, *spatial): the answers of the store.
    - `presence` (classes,): the log-odds that each label is present anywhere in the only case;
      None for a network without that output.
    - `scale`: the scale of the logits if the answers are numbers learned in another unit; None: in
      their own.
    - `costly`: whether to compute distances, lesions and probabilities.
    """

    store: Store
    cases: np.ndarray
    pixels: np.ndarray
    logits: Tensor
    target: np.ndarray
    presence: np.ndarray | None
    costly: bool
    scale: Scale | None = None

    @property
    def meta(self) -> Meta:
        """What holds for every case of the store."""
        return self.store.meta

    def picture(self, place: int, at: int | None = None) -> np.ndarray:
        """Return the picture of a case for reports: of a volume its slice `at`, None: the middle.

        It is (H, W), the first channel as given to the network; for a colour data set (H, W, 3)
        uint8, the whole image as in the store.
        """
        colour = self.meta.channels == _COLOURS
        image = self.store.image(int(self.cases[place])) if colour else self.pixels[place]
        if image.ndim == 4:
            image = image[:, image.shape[1] // 2 if at is None else at]
        return _as_bytes(np.moveaxis(image, 0, -1)) if colour else image[0]

    @property
    def ids(self) -> list[dict[str, str]]:
        """Return the keyed ids of each case, as in the table `cases`."""
        return ids_of(self.store, self.cases)


def ids_of(store: Store, cases: np.ndarray) -> list[dict[str, str]]:
    """Return the keyed ids of some cases, as in the table `cases`."""
    return [{"case_id": store.case_ids[i], "group_id": store.groups[i]} for i in cases]


def _as_bytes(image: np.ndarray) -> np.ndarray:
    """Return an image as uint8; a deeper one is scaled from its lowest to its highest value."""
    if image.dtype == np.uint8:
        return np.array(image)
    low, span = float(image.min()), float(image.max()) - float(image.min())
    scaled: np.ndarray = ((image - low) * (255 / (span or 1.0))).round().astype(np.uint8)
    return scaled


def thinned(picture: np.ndarray) -> np.ndarray:
    """Return every n-th row and column of a picture, so that its longer side fits a page."""
    step = -(-max(picture.shape[:2]) // _LONGEST)
    return picture[::step, ::step]
