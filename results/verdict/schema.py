"""The keys of `verdict.json`, which is the return value of `results.verdict.verdict.verdict`.

`verdict.schema.json` beside this file says the same as a JSON schema (`python -m
tests.results.verdict.test_schema` makes it).

A null score was not measured. Names of combinations are `model + optimizer + loss`, followed by
schedule, regularizer and pretrained weights if a study has them (null: constant, none, from
scratch), and by clinical data and labels (null: none, as given; older runs lack both keys).
"""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

State = Literal["better", "tie", "undecided", "none"]


class Price(TypedDict):
    """What a trial of the recommended costs, in seconds, and which others cost the same.

    `seconds` is the training time, `wall_seconds` the whole (null: not measured). `alike` are the
    members of the tied group whose training time cannot be told from the shortest, including the
    recommended one; `alike_seconds` is [shortest, longest] of their times.
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
    """What inner validation alone would choose; `nested`: if each fold makes its own choice."""

    name: str
    val_score: float
    in_tied_group: bool
    nested: Estimate


class Advantage(TypedDict):
    """Difference to the best of the others, simultaneous; positive is better for every metric."""

    estimate: float
    low: float
    high: float


class Lead(TypedDict):
    """How far the best is ahead of the next, with the interval of this single difference."""

    best: str
    over: str
    estimate: float
    low: float
    high: float
    degrees_of_freedom: float


class Shares(TypedDict):
    """Where the variance of the lead comes from; `seed` is null if every fold has one seed."""

    patients: float
    training: float
    seed: float | None


class Errors(TypedDict):
    """How certain the comparison is, and why.

    - `by`: "cases" if each patient's part in the scores is known, "folds" if errors are estimated
      from the scatter of folds alone; `reason` then says why.
    - `shares`: null if `by` is "folds".
    - `floor`: the smallest lead that these patients can show, however many seeds and repeats; null
      if `by` is "folds". `floor_is_about`: a single seed and repeat leave training noise in it.
    """

    by: Literal["cases", "folds"]
    reason: str | None
    shares: Shares | None
    floor: float | None
    floor_is_about: bool


class Claim(TypedDict):
    """One question, its answer and the sentence that says it.

    `of`: "procedure" (trained anew on other patients; the headline), "models" (the models trained
    here, on new patients), or the name of an axis (its levels, on average over the other axes).
    """

    of: str
    state: State
    best: str | None
    group: list[str]
    lead: Lead | None
    sentence: str


class Level(TypedDict):
    """A level of an axis by its mean over the other axes, against the best of the other levels."""

    name: str
    mean: float
    advantage: Advantage
    in_group: bool


class Margin(TypedDict):
    """The marginal table of an axis: its levels, best first, by means over `cells` cells.

    A cell is one choice on all other axes. `left_out`: levels and cells without complete results.
    `levels` is empty if no two levels share a cell; `claim` then says so.
    """

    axis: str
    levels: list[Level]
    cells: int
    left_out: list[str]
    claim: Claim


class Within(TypedDict):
    """What is best on one axis at one level of another."""

    level: str
    state: State
    best: str | None
    group: list[str]


class Interaction(TypedDict):
    """Whether what is best on one axis depends on another; `within` is empty if not."""

    axes: list[str]
    f: float | None
    degrees_of_freedom: list[float | None]
    p_value: float
    real: bool
    within: list[Within]
    sentence: str


class Second(TypedDict):
    """What another metric says about the same combinations; `agrees`: whether it answers the same.

    If it has no answer, `state` is "none", `agrees` is null and `sentence` says why.
    """

    metric: str
    state: State
    best: str | None
    group: list[str]
    agrees: bool | None
    sentence: str


class Option(TypedDict):
    """One way to learn more: a total `number` of folds, repeats, seeds or patients, and its effect.

    `half_width`: expected, of the lead's interval. `decides`: whether it is at most the larger of
    lead and margin. `seconds`: work for what is added; null if no time was measured, and for
    patients.
    """

    what: Literal["folds", "repeats", "seeds", "patients"]
    number: int
    half_width: float
    decides: bool
    seconds: float | None


class Next(TypedDict):
    """What to do next, in words, and the options that were considered; none if it is decided.

    More patients are no option if no practical number of them would decide.
    """

    sentence: str
    options: list[Option]


class Rule(TypedDict):
    """The rule as it was before the first trial: the study's hash, and what the verdict uses.

    For runs that began without a recorded rule, what the trials' footers do not say is null.
    `deviations`: data set -> standard deviation of its numbers, of which the margin is a share.
    """

    hash: str | None
    primary: dict[str, str]
    margin: float
    deviations: dict[str, float]
    alpha: float


class Seconds(TypedDict):
    """Where the seconds of a trial went."""

    setup: float
    data_wait: float
    gradients: float
    optimizer: float
    evaluation: float


class Judged(TypedDict):
    """One combination on one data set.

    - Its entry on each axis of `results.tables.axes`, eight of which are named here.
    - `tuned`, `hparams`: whether its settings were searched for, and every setting of its optimizer
      (null: no trial yet; `hparams` also if its trials differ).
    - `note`: why it is not judged, or null; `reasons`: those of its failed, diverged and dropped
      trials.
    - `test_low`, `test_high`: its own interval, not simultaneous; null with one fold.
    - `last_test_score`: by the weights at the end of training, not by the chosen ones.
    - `steady`: whether its spread is the typical one of the field, or null.
    """

    name: str
    model: str | None
    optimizer: str | None
    loss: str | None
    schedule: str | None
    regularizer: str | None
    pretrained: str | None
    clinical: NotRequired[str | None]
    labels: NotRequired[str | None]
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
    steady: bool | None
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

    - `reason`: the verdict in words, one paragraph per line; `warnings`: sentences.
    - `settings`: in words, which learning rates were compared and whether any was tuned; null
      before the first trial.
    - `margin`: a difference that does not matter, in `unit`; `alpha`: the level of all claims and
      intervals here, that of the study less what a race or several looks used of it.
    - `tied_group`: all that cannot be told from the best.
    - `expected`: trials per combination; `test_train_ratio`: cases in a test fold over those in its
      training part.
    - `claims`: first the procedure (its sentence opens `reason`), then the models trained here,
      the optimizer and every other axis with several levels; empty without a comparison, as are
      `margins`, `interactions` and `second`.
    - `lead`, `errors`, `next`: null without a comparison.
    - `combinations`: the judged, best first, then the others.
    """

    dataset: str
    task: str
    metric: str
    direction: Literal["max", "min"]
    unit: str | None
    margin: float
    alpha: float
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
    lead: Lead | None
    errors: Errors | None
    claims: list[Claim]
    margins: list[Margin]
    interactions: list[Interaction]
    second: list[Second]
    next: Next | None
    warnings: list[str]
    combinations: list[Judged]


class Rank(TypedDict):
    """A recipe's mean rank over data sets, and its p-value against the best if there is one."""

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
    """The verdict of a run; `across` is null with one data set, `statuses` counts trials.

    `rule`: as it was before the first trial, null if it was not recorded.
    """

    version: int
    study: str | None
    alpha: float
    margin: float
    rule: Rule | None
    n_trials: int
    statuses: dict[str, int]
    datasets: list[OfDataset]
    across: Across | None
