"""The processes that share a trial."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class World:
    """How many processes share a trial, and which of them this one is."""

    rank: int = 0
    size: int = 1

    @property
    def shard(self) -> tuple[int, int]:
        """Return (rank, size), as loaders take it."""
        return self.rank, self.size
