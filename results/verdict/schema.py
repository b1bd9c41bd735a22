"""The keys of `verdict.json`, which is the return value of `results.verdict.verdict.verdict`.

A score that is null was not measured. Names of combinations are `model + optimizer + loss`, with
schedule, regularizer and pretrained weights where a study has them (null: constant, none, from
scratch).
"""

from typing import Any, Literal, TypedDict

State = Literal["better", "tie", "undecided", "none"]


class Price(TypedDict):
    """What a trial of the recommended costs, in seconds, and which others cost alike.

    `seconds` are those of training, `wall_seconds` of all (null: not measured). `alike` are the
    members of the tied group whose training time cannot be told from the shortest of it, the
    recommended among them; `alike_seconds` is [least, greatest] of their times.
    """

    seconds: float | None
    wall_seconds: float | None
    alike: list[str]
    alike_seconds: list[float]


class Estimate(TypedDict):
    """A test score with its own interval."""

    test_score: float
    low: float
    high: float


class Chosen(Estimate):
    """What inner validation alone would choose; `nested`: where each fold makes its own choice."""

    name: str
    val_score: float
    in_tied_group: bool
    nested: Estimate


class Advantage(TypedDict):
    """Over the best of the others, simultaneous; positive is better, whatever the direction."""

    estimate: float
    low: float
    high: float


class Seconds(TypedDict):
    """Where the seconds of a trial went."""

    setup: float
    data_wait: float
    gradients: float
    optimizer: float
    evaluation: float


class Judged(TypedDict):
    """One combination on one data set.

    - Its entry on each axis: those of `results.tables.axes`, of which this names the first six.
    - `tuned`, `hparams`: whether its settings were searched for, and every setting of its optimizer
      (null: no trial yet; `hparams` also where its trials differ).
    - `note`: why it is not judged, or null; `reasons`: what its failed and diverged trials said.
    - `test_low`, `test_high`: of its own, not simultaneous; null with one fold.
    - `last_test_score`: by the weights that training ended with, not by those chosen.
    - `error_sd`: standard deviation of one fold in the comparison, or null.
    """

    name: str
    model: str | None
    optimizer: str | None
    loss: str | None
    schedule: str | None
    regularizer: str | None
    pretrained: str | None
    tuned: bool | None
    hparams: dict[str, Any] | None
    state: Literal["judged", "diverged", "dropped", "incomplete", "skipped"]
    note: str | None
    reasons: list[str]
    trials: dict[str, int]
    val_score: float | None
    test_score: float | None
    test_low: float | None
    test_high: float | None
    last_test_score: float | None
    fold_scores: list[float]
    advantage: Advantage | None
    error_sd: float | None
    in_tied_group: bool
    train_sec: float | None
    wall_sec: float | None
    samples_per_sec: float | None
    optimizer_step_ms: float | None
    peak_memory_bytes: float | None
    epochs_run: float | None
    seconds: Seconds | None


class OfDataset(TypedDict):
    """The verdict on one data set.

    - `reason`: the verdict in words; `warnings`: sentences.
    - `settings`: in words, which learning rates were compared and whether any was tuned; null
      before the first trial.
    - `tied_group`: all that cannot be told from the best.
    - `expected`: trials of a combination; `test_train_ratio`: cases of a test fold by those of its
      training part.
    - `critical_value`, `degrees_of_freedom`: null without a comparison.
    - `combinations`: the judged, best first, then the others.
    """

    dataset: str
    task: str
    metric: str
    direction: Literal["max", "min"]
    unit: str | None
    state: State
    recommended: str | None
    reason: str
    tied_group: list[str]
    price: Price | None
    settings: str | None
    selected_by_validation: Chosen | None
    folds: int
    seeds: int
    expected: int
    test_train_ratio: float
    critical_value: float | None
    degrees_of_freedom: int | None
    warnings: list[str]
    combinations: list[Judged]


class Rank(TypedDict):
    """A recipe's mean rank over data sets, and its p-value against the best where one is given."""

    name: str
    mean_rank: float
    p_value: float | None


class Across(TypedDict):
    """What several data sets say together."""

    datasets: list[str]
    claim: bool
    best: str | None
    reason: str
    ranks: list[Rank]


class Verdict(TypedDict):
    """The verdict of a run; `across` is null with one data set, `statuses` counts trials."""

    version: int
    study: str | None
    alpha: float
    margin: float
    n_trials: int
    statuses: dict[str, int]
    datasets: list[OfDataset]
    across: Across | None
