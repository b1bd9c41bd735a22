"""The kinds of data that `medopt prepare` reads: one row each."""

from collections.abc import Iterator, Mapping
from importlib import import_module

from loaders.cases import Kind


class _Kinds(Mapping[str, Kind]):
    """Name to Kind, each imported on first use: readers' libraries are slow to load."""

    def __init__(self, where: Mapping[str, str]) -> None:
        self._where = where

    def __getitem__(self, name: str) -> Kind:
        module, _, attribute = self._where[name].partition(":")
        kind: Kind = getattr(import_module(module), attribute)
        return kind

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


KINDS: Mapping[str, Kind] = _Kinds(
    {
        "lidc": "loaders.datasets.lidc.kind:LIDC",
        "brats": "loaders.datasets.brats.kind:BRATS",
        "msd": "loaders.datasets.decathlon.kind:MSD",
        "nnunet": "loaders.datasets.decathlon.kind:NNUNET",
        "medmnist": "loaders.datasets.medmnist.kind:MEDMNIST",
        "pairs": "loaders.datasets.pairs.kind:PAIRS",
        "volumes": "loaders.datasets.volumes.kind:VOLUMES",
        "images": "loaders.datasets.tabular.images:IMAGES",
        "cine": "loaders.datasets.tabular.cine:CINE",
    }
)
