"""A study file: what is refused and in which words, and what it expands to."""

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.core.references import StudyError
from bench.study.ready import READY
from bench.study.schema import AS_MAPPING, Study, parse_study
from bench.study.tasks import TASKS

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
        (("name: breast", "name: ../breast"), ["name", "letters, digits"]),
        (("epochs: 25", "seeds: [1, 1]"), ["seeds"]),
        (("[ce, focal]", "[{focal: {gama: 1}}]"), ["no setting 'gama'", "gamma"]),
        (("[plain_cnn]", "[{plain_cnn: {pool: 3}}]"), ["plain_cnn.pool must be like 'max'"]),
        (("epochs: 25", "schedules: [cosin]"), ["Did you mean 'cosine'?", "polynomial"]),
        (("epochs: 25", "schedules: [{step: {at: 0.5}}]"), ["step.at must be like (0.5, 0.75)"]),
        (("epochs: 25", "schedules: [{cosine: {warmup: 2}}]"), ["share of the budget"]),
        (("epochs: 25", "regularizers: [mixupp]"), ["Did you mean 'mixup'?"]),
        (("epochs: 25", "regularizers: [{none: {a: 1}}]"), ["'a'", "it has none"]),
        (("epochs: 25", "pretrained: {imagenet: {freeze: 3}}"), ["'freeze'", "freeze_until"]),
        (
            ("epochs: 25", "pretrained: {imagenet: {lower_rate: 0.0}}"),
            ["lower_rate must be above 0"],
        ),
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


@pytest.mark.parametrize("path", sorted(READY.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_ready_study_is_a_study(path):
    study = parse_study(path.read_text(encoding="utf-8"), path.name)
    assert study.name == path.stem


# YAML's own words for what no number of a study can be; 1e400 is a text in YAML, 1.0e+400 infinite.
@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "-1", "1e400", "1.0e+400", "true"])
@pytest.mark.parametrize(
    "key",
    [
        *("epochs", "batch_size", "patience", "folds", "repeats", "margin", "overlap", "threads"),
        "looks",
    ],
)
def test_an_absurd_number_is_refused_with_its_key(key, number):
    with pytest.raises(StudyError, match=rf"^mine\.yaml: {key}: ") as caught:
        parse_study(GOOD.replace("epochs: 25", f"{key}: {number}"), "mine.yaml")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"epochs: {2**70}", "epochs: must lie between 1 and 1000000"),
        (f"seeds: [{2**70}]", f"seeds: must lie between 0 and {2**63 - 1}"),
        ("seeds: [-1]", "seeds: must lie between 0"),
        ("split_seed: -1", "split_seed: "),
        ("patch: [0, 64]", "patch: must lie between 1 and 16384, not 0"),
        ("patch: [1000000, 64]", "patch: must lie between 1 and 16384"),
        ("patch: []", "patch: needs at least 1"),
        ("target: .nan", "target: "),
        ("overlap: 0.99999", "overlap: must lie between 0 and 0.95"),
        ("threads: 1000000", "threads: must lie between 1 and 1024"),
        ("augment: {rotate: 500}", "augment.rotate: must lie between 0 and 180, not 500"),
        ("augment: {rotate: [1, x]}", "augment.rotate, entry 2: "),
        ("augment: {rotate: far}", "augment.rotate: must be a number or a list of numbers"),
        ("augment: {shift: .inf}", "augment.shift: "),
        ("augment: 3", "augment: must be a mapping of keys to values, not 3"),
        ("schedules: [{step: {at: [5, 7]}}]", "step.at must lie between 0 and 1"),
        ("schedules: [{cosine: {floor: -3}}]", "cosine.floor must lie between 0 and 1"),
        ("schedules: [{one_cycle: {rise: 1}}]", "one_cycle.rise must be a share of the budget"),
        ("schedules: [{polynomial: {power: -1}}]", "polynomial.power must lie between"),
        ("regularizers: [{mixup: {alpha: -1}}]", "mixup.alpha must lie between 0 and 100"),
        ("degrade: [{blur: {width: 1000000000}}]", "blur.width must lie between 0 and 100"),
        (f"schedules: [{{step: {{factor: {10**400}}}}}]", "more than three hundred digits"),
        (f"schedules: [{{step: {{factor: {2**1000}}}}}]", "step.factor must lie between"),
        ("repeats: 100\nfolds: 1000\nseeds: [0, 1]", "make 1200000 trials; at most 1000000"),
    ],
)
def test_an_absurd_value_is_refused_with_its_place_and_what_can_be(line, said):
    with pytest.raises(StudyError, match=r"^mine\.yaml: ") as caught:
        parse_study(GOOD.replace("epochs: 25", line), "mine.yaml")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", [".nan", ".inf", "1e400", "1.0e+400", str(2**1023 * 2 - 1)])
def test_an_absurd_rate_of_an_optimizer_is_refused(value):
    text = GOOD.replace("[sgd, adam,", f"[sgd, {{adam: {{lr: {value}}}}},")
    with pytest.raises(StudyError, match=r"optimizers, entry 2.*lr "):
        parse_study(text, "mine.yaml")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("schedules: cosine", "schedules: must be a list, not 'cosine'; write `schedules: [cos"),
        ("seeds: 3", "seeds: must be a list, not 3; write `seeds: [3]`"),
        ("patch: 64", "patch: must be a list, not 64; write `patch: [64]`"),
        ("schedules: {cosine: {floor: 0}}", "must be a list, not {'cosine': {'floor': 0}}"),
        ("schedules: [3]", "schedules, entry 1: write `name` or `name: {parameter: value}`, not 3"),
        ("schedules: [{cosine: 3}]", "schedules, entry 1, params: must be a mapping of keys"),
        ("schedules: [{cosine: {1: 3}}]", "schedules, entry 1, params: the key 1 is not a text"),
        ("schedules: [{'': {a: 3}}]", "schedules, entry 1, name: "),
        ("primary: auc", "primary: must be a mapping of keys to values, not 'auc'; write it as"),
        ("tuning: 5", "not 5; write it as in `tuning: {points: 5}`"),
        ("until_decided: 3", "not 3; write it as in `until_decided: {looks: 3}`"),
        ("augment: none", "not 'none'; write it as in `augment: {flip: false}`"),
        ("'': 3", "mine.yaml: unknown key ''. Choices: "),
        ("größe: 3", "mine.yaml: unknown key 'größe'. Choices: "),
        ("3: 3", "mine.yaml: the key 3 is not a text"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_with_what_to_write(line, said):
    with pytest.raises(StudyError) as caught:
        parse_study(GOOD.replace("epochs: 25", line), "mine.yaml")
    assert said in str(caught.value)


def test_each_setting_that_is_a_mapping_has_an_example_that_can_be_written():
    told = {}
    for key in sorted({*Study.model_fields} - {"resolved"}):
        try:
            parse_study(GOOD.replace("epochs: 25", f"{key}: word"), "mine.yaml")
        except StudyError as error:
            told[key] = str(error)
    wanting = {key for key, said in told.items() if "must be a mapping of keys to values" in said}
    assert wanting == {"augment", "primary", "tuning", "until_decided"}
    for key in wanting:
        example = AS_MAPPING[key]
        assert f"write it as in `{example}`" in told[key]
        assert parse_study(GOOD.replace("epochs: 25", example), "mine.yaml")
    speed = GOOD.replace("[stores/breastmnist]", "[{store: s, %s}]")
    assert parse_study(speed.replace("%s", AS_MAPPING["speed"]), "mine.yaml")
    with pytest.raises(StudyError, match=r"write it as in `speed: \{plain_cnn: "):
        parse_study(speed.replace("%s", "speed: fast"), "mine.yaml")


def test_an_error_of_one_field_hides_none_of_another():
    text = GOOD.replace("epochs: 25", "epochs: -1\nprecision: half\nprimary: {detection: auc}")
    text = text.replace("[ce, focal]", "[fokal, ce, gocal]").replace("adam,", "adamm,")
    with pytest.raises(StudyError) as caught:
        parse_study(text + "fold: 3\n", "mine.yaml")
    said = str(caught.value).splitlines()
    assert len(said) == 7
    for part in ("epochs", "'half'", "'detection'", "'fokal'", "'gocal'", "'adamm'", "'fold'"):
        assert any(part in line for line in said), part


def test_a_primary_metric_of_one_task_leaves_the_other_its_own():
    text = GOOD.replace("epochs: 25", "primary: {classification: mcc}")
    own = {name: row.primary for name, row in TASKS.items()}
    assert parse_study(text, "s").primary == {**own, "classification": "mcc"}


def test_a_list_for_one_data_set_is_told_of_with_its_place():
    text = GOOD.replace("[stores/breastmnist]", "[{store: a, augment: {zoom: 3, fli: 1}}, {}]")
    with pytest.raises(StudyError) as caught:
        parse_study(text, "s")
    said = str(caught.value).splitlines()
    assert said[0].startswith("s: data, entry 1, augment.zoom: ")
    assert said[1].startswith("s: data, entry 1, augment: unknown key 'fli'. Did you mean 'flip'?")
    assert said[2] == "s: data, entry 2, store: this key is required but missing."


@pytest.mark.parametrize(
    ("folds", "read"),
    [
        ("7", 7),
        ("'7'", 7),
        ("official", "official"),
        ("site", "site"),
        ("splits/splits_final.json", "splits/splits_final.json"),
    ],
)
def test_folds_are_a_number_or_name_splits_that_others_made(folds, read):
    study = parse_study(GOOD.replace("epochs: 25", f"folds: {folds}"), "s")
    assert study.folds == read


@pytest.mark.parametrize("folds", ["''", "' '", "2.5", "'2.5'", "[site]", "{leave_out: site}", "1"])
def test_folds_that_are_neither_are_one_sentence(folds):
    with pytest.raises(StudyError, match=r"^mine\.yaml: folds: ") as caught:
        parse_study(GOOD.replace("epochs: 25", f"folds: {folds}"), "mine.yaml")
    assert len(str(caught.value).splitlines()) == 1


def with_speed(said: str):
    return parse_study(GOOD.replace("epochs: 25", f"speed: {said}"), "mine.yaml")


def test_speed_is_off_auto_or_says_which_precisions_it_may_choose():
    assert parse_study(GOOD, "s").speed is None
    assert with_speed("auto").speed.precision == ()
    assert with_speed("{precision: [float32, bfloat16]}").speed.precision == ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("fast", r"speed: must be auto, {precision: \[.*\]} or null, not 'fast'"),
        ("true", "speed: .* not True|speed: must be a number or a text"),
        ("{precision: [float33]}", "speed.precision.*unknown precision 'float33'.*'float32'"),
        ("{threads: 1}", "speed: unknown key 'threads'"),
    ],
)
def test_another_speed_is_told_in_a_sentence(said, told):
    with pytest.raises(StudyError, match=told):
        with_speed(said)


def test_speeds_of_one_data_set_are_of_the_studys_models_and_written_as_they_were_said():
    data = "[{store: a, speed: {plain_cnn: {channels_last: true}}}]"
    study = parse_study(GOOD.replace("[stores/breastmnist]", data), "s")
    assert study.model_dump(mode="json")["data"][0]["speed"] == {
        "plain_cnn": {"channels_last": True}
    }
    wrong = GOOD.replace("[stores/breastmnist]", data.replace("plain_cnn", "plain_can"))
    with pytest.raises(StudyError, match=r"data, entry 1, speed: unknown model 'plain_can'"):
        parse_study(wrong, "s")
    wrong = GOOD.replace("[stores/breastmnist]", data.replace("channels_last", "chanels"))
    with pytest.raises(StudyError, match=r"data, entry 1, speed\.plain_cnn: unknown key 'chanels'"):
        parse_study(wrong, "s")
