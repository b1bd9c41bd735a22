"""One entry of a list in a study: a name, or a name with settings."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from bench.core.references import is_reference, unknown
from results.tables.axes import label_of


def _check_json(params: dict[str, Any]) -> dict[str, Any]:
    """Return `params`; raises ValueError that names the one that JSON cannot hold."""
    for name, value in params.items():
        try:
            json.loads(json.dumps(value, sort_keys=True), parse_constant=_no_nan)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"setting {name} is {value!r}; settings must be numbers, text, true, false, or "
                f"lists and mappings of these."
            ) from error
    return params


def _no_nan(constant: str) -> float:
    if constant == "NaN":
        raise ValueError("no number")
    return float(constant)


class Choice(BaseModel):
    """A row of a table or a reference, with its settings.

    Settings are what JSON can hold, since a trial's id is the hash of their JSON.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=1000)]
    params: Annotated[dict[str, Any], AfterValidator(_check_json)] = {}

    @property
    def label(self) -> str:
        """Return the name that results carry: `sgd`, `sgd(lr=0.05)`, `my_net` for a reference."""
        return label_of(self.name, self.params)


def _choice(entry: Any) -> Any:
    if isinstance(entry, str):
        return {"name": entry}
    if isinstance(entry, dict) and len(entry) == 1 and "name" not in entry:
        ((name, params),) = entry.items()
        return {"name": name, "params": params or {}}
    return entry


Entry = Annotated[Choice, BeforeValidator(_choice)]


def check_entry(
    what: str, entry: Choice, table: Mapping[str, Any], *, references: bool = False
) -> None:
    """Raise ValueError if an entry is not a row of `table`, or sets what that row does not have.

    `what` is the word for an entry in messages; with `references` it may be the user's own code.
    """
    if entry.name in table:
        table[entry.name].settings(entry.params)
    elif not (references and is_reference(entry.name)):
        raise ValueError(unknown(what, entry.name, table))


def check_distinct(entries: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """Return the entries of a list; raises ValueError if one is listed twice."""
    labels = [entry.label for entry in entries]
    for place, label in enumerate(labels):
        if label in labels[:place]:
            raise ValueError(f"{label!r} is listed twice.")
    return entries
