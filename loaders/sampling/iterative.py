"""Groups dealt out so that each of several things that cases have is as frequent in all bins.

Iterative stratification: Sechidis, Tsoumakas and Vlahavas 2011, "On the Stratification of
Multi-label Data", ECML PKDD, algorithm 1, with groups of cases in the place of single cases.
"""

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def iterative(
    group: Indices, has: NDArray[np.bool_], bins: int, generator: np.random.Generator
) -> Indices:
    """Return the bin (n,) of each of n cases; those of one group are in one.

    `group` (n,): the number of each case's group. `has` (n, k): which of k things it has. The thing
    that the fewest cases left to be dealt have comes first. A group with it goes to the bin that
    still wants the most of it; of several to the one that wants the most cases, then by chance.
    """
    _, number = np.unique(group, return_inverse=True)
    size = np.bincount(number)
    # Cases of each group with each thing; what each bin still wants of each, and of cases.
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
        # Large groups first, while there is room to make up for them.
        for one in mine[np.argsort(-count[mine, thing], kind="stable")]:
            seat(int(one), wanted[:, thing])
    for one in generator.permutation(np.flatnonzero(place < 0)):
        seat(int(one), room)
    return place[number]
