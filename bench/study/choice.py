"""One entry of a list in a study: a name, or a name with settings."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from bench.core.references import is_reference, unknown
from results.tables.axes import label_of


def _check_json(params: dict[str, Any]) -> dict[str, Any]:
    """Return `params`; raises ValueError that names the one that JSON cannot hold."""
    for name, value in params.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise ValueError(
                f"setting {name} is {value!r}; settings are numbers, text, true, false, and lists "
                f"and mappings of these."
            ) from error
    return params


class Choice(BaseModel):
    """A row of a table or a reference, and the settings made for it.

    These are what JSON can hold, since a trial's id is the hash of their JSON.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
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


def check_entries(
    key: str,
    what: str,
    entries: tuple[Choice, ...],
    table: Mapping[str, Any],
    *,
    references: bool = False,
) -> None:
    """Raise ValueError where an entry of the list `key` is not a row of `table`, or stands twice.

    `what` is what one entry is called; with `references` it may be something of the user's own.
    """
    labels = set()
    for entry in entries:
        if entry.name in table:
            try:
                table[entry.name].settings(entry.params)
            except ValueError as error:
                raise ValueError(f"{key}: {error}.") from error
        elif not (references and is_reference(entry.name)):
            raise ValueError(f"{key}: {unknown(what, entry.name, table)}")
        if entry.label in labels:
            raise ValueError(f"{key}: {entry.label!r} is listed twice.")
        labels.add(entry.label)
