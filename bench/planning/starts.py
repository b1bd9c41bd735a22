"""The weights that combinations of one data set start from."""

from bench.study.components import Combination
from bench.study.dataset import DataSet
from bench.study.pretrained import InitialWeights, WeightsNeeded, find
from loaders.sampling.folds import Split
from results.tables.axes import AXES

# The entry of `pretrained` that means random initial weights.
SCRATCH = next(axis.plain for axis in AXES if axis.column == "pretrained")


class Starts:
    """Looks up the weights of a data set's combinations, each only once.

    They depend only on the model, the entry of `pretrained` and the split.
    """

    def __init__(self, data: DataSet) -> None:
        self._data = data
        self._found: dict[tuple[str, str, int, int], InitialWeights] = {}

    def of(self, combination: Combination, split: Split) -> InitialWeights | None:
        """Return the weights, None for random ones; raises what `find` does."""
        pretrained, model = combination.choices["pretrained"], combination.choices["model"]
        if pretrained.name == SCRATCH:
            return None
        key = model.label, pretrained.label, split.repeat, split.fold
        if key not in self._found:
            store = self._data.store
            self._found[key] = find(
                pretrained.name,
                pretrained.params,
                pretrained.label,
                combination.base,
                WeightsNeeded(
                    row=combination.own_model.row,
                    model=model.label,
                    dims=store.meta.dims,
                    test=self._data.people(split.test),
                ),
            )
        return self._found[key]
