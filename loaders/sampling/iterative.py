"""Assignment of groups so that each of several attributes of cases is as frequent in all bins.

Iterative stratification: Sechidis, Tsoumakas and Vlahavas 2011, "On the Stratification of
Multi-label Data", ECML PKDD, algorithm 1, with groups of cases in place of single cases.
"""

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def iterative(
    group: Indices, has: NDArray[np.bool_], bins: int, generator: np.random.Generator
) -> Indices:
    """Return the bin (n,) of each of n cases; those of one group are in one bin.

    `group` (n,): the number of each case's group. `has` (n, k): which of k attributes it has. The
    attribute that the fewest unassigned cases have comes first. A group with it goes to the bin
    that still needs most of it; ties go to the bin that needs most cases, then to a random one.
    """
    _, number = np.unique(group, return_inverse=True)
    size = np.bincount(number)
    # Cases of each group with each attribute; how many each bin still needs, and of all cases.
    count = np.stack([np.bincount(number[own], minlength=len(size)) for own in has.T], axis=1)
    wanted = np.tile(count.sum(axis=0) / bins, (bins, 1))
    room = np.full(bins, len(group) / bins)
    place = np.full(len(size), -1, dtype=np.int64)

    def seat(one: int, first: NDArray[np.float64]) -> None:
        best = np.lexsort((generator.random(bins), -room, -first))[0]
        place[one] = best
        wanted[best] -= count[one]
        room[best] -= size[one]

    while (left := count[place < 0].sum(axis=0)).any():
        thing = int(np.where(left > 0, left, len(group) + 1).argmin())
        mine = generator.permutation(np.flatnonzero((place < 0) & (count[:, thing] > 0)))
        # Large groups first, while later ones can still balance them.
        for one in mine[np.argsort(-count[mine, thing], kind="stable")]:
            seat(int(one), wanted[:, thing])
    for one in generator.permutation(np.flatnonzero(place < 0)):
        seat(int(one), room)
    return place[number]
