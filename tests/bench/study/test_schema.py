"""A study file: what is refused and in which words, and what it expands to."""

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.core.references import StudyError
from bench.study.schema import STUDIES, Study, parse_study

GOOD = """
name: breast
data: [stores/breastmnist]
models: [plain_cnn]
optimizers: [sgd, adam, {lbfgs: {lr: 0.5}}]
losses: [ce, focal]
epochs: 25
"""


def test_nine_lines_are_a_study_and_the_rest_has_defaults():
    study = parse_study(GOOD, "study.yaml")
    assert [o.label for o in study.optimizers] == ["sgd", "adam", "lbfgs(lr=0.5)"]
    assert (study.folds, study.seeds, study.epochs, study.patience) == (5, (0,), 25, 10)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("epochs: 25", "epoch: 25"), ["epoch", "Did you mean 'epochs'?", "folds"]),
        (("[sgd, adam,", "[sgd, adamm,"), ["optimizer 'adamm'", "Did you mean 'adam'?", "lbfgs"]),
        (("[ce, focal]", "[ce, fokal]"), ["loss 'fokal'", "Did you mean 'focal'?"]),
        (("[plain_cnn]", "[resnet]"), ["model 'resnet'", "plain_cnn"]),
        (("[ce, focal]", "[ce, ce]"), ["losses", "'ce' is listed twice"]),
        (("epochs: 25", "epochs: 0"), ["epochs", "greater than or equal to 1", "0"]),
        (("epochs: 25", "loader: fast"), ["loader 'fast'", "auto", "torch"]),
        (("epochs: 25", "primary: {classification: dice}"), ["metric 'dice'", "auc"]),
        (("epochs: 25", "augment: {flips: true}"), ["flips", "Did you mean 'flip'?"]),
        (("name: breast\n", ""), ["name", "required"]),
        (("name: breast", "name: ../breast"), ["name", "pattern"]),
        (("epochs: 25", "seeds: [1, 1]"), ["seeds"]),
        (("[ce, focal]", "[{focal: {gama: 1}}]"), ["no setting 'gama'", "gamma"]),
        (("[plain_cnn]", "[{plain_cnn: {pool: 3}}]"), ["plain_cnn.pool must be like 'max'"]),
        (("epochs: 25", "schedules: [cosin]"), ["Did you mean 'cosine'?", "polynomial"]),
        (("epochs: 25", "schedules: [{step: {at: 0.5}}]"), ["step.at must be like (0.5, 0.75)"]),
        (("epochs: 25", "schedules: [{cosine: {warmup: 2}}]"), ["share of the budget"]),
        (("epochs: 25", "regularizers: [mixupp]"), ["Did you mean 'mixup'?"]),
        (("epochs: 25", "regularizers: [{none: {a: 1}}]"), ["'a'", "it has none"]),
        (("epochs: 25", "pretrained: {imagenet: {freeze: 3}}"), ["'freeze'", "freeze_until"]),
        (("epochs: 25", "pretrained: {imagenet: {lower_rate: 0.0}}"), ["lower_rate is above 0"]),
        (("epochs: 25", "normalize: minmax"), ["normalize", "'z-score' or 'range'", "minmax"]),
        (("epochs: 25", "precision: half"), ["precision 'half'", "bfloat16"]),
        (("[plain_cnn]", "[{a.py:Net: {when: 2026-01-01}}]"), ["models, entry 1", "setting when"]),
        (("[ce, focal]", "[ce, {a.py:f: {x: [1, !!set {a}]}}]"), ["losses, entry 2", "setting x"]),
    ],
)
def test_what_is_wrong_is_said_with_the_file_the_field_and_the_choices(change, said):
    with pytest.raises(StudyError) as caught:
        parse_study(GOOD.replace(*change), "mine.yaml")
    message = str(caught.value)
    assert message.startswith("mine.yaml: ")
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("clip", ["0", "-1", ".inf", ".nan", "much"]),
        ("accumulate", ["0", "-2", "1.5"]),
        ("ema", ["0", "1", "1.5", "-0.1", ".nan"]),
        ("decay_norms", ["3", "some"]),
        ("early_stopping", ["3", "never"]),
    ],
)
def test_absurd_settings_of_the_steps_are_refused_by_name(key, values):
    for value in values:
        with pytest.raises(StudyError, match=rf"^mine\.yaml: {key}: "):
            parse_study(f"{GOOD}\n{key}: {value}\n", "mine.yaml")


def test_every_problem_of_a_study_is_said_at_once():
    with pytest.raises(StudyError) as caught:
        parse_study(GOOD.replace("epochs: 25", "epochs: -1\nfold: 3"), "mine.yaml")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("text", ["", "[]", "3", "a: [", "a: !!python/object/apply:os.system [id]"])
def test_what_is_no_study_is_refused(text):
    with pytest.raises(StudyError, match=r"mine\.yaml"):
        parse_study(text, "mine.yaml")


# Building the strategy is slow on a busy machine; the inputs themselves are small.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(sorted(Study.model_fields)), st.integers() | st.text()))
def test_no_values_make_it_fall_over(raw):
    with pytest.raises(StudyError, match=r"^mine\.yaml: "):
        parse_study(yaml.safe_dump({**raw, "no_such_key": 1}), "mine.yaml")


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_ready_study_is_a_study(path):
    study = parse_study(path.read_text(encoding="utf-8"), path.name)
    assert study.name == path.stem
