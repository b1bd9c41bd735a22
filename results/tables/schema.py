"""The columns of the four Parquet data sets of a run, and the words their rows use.

The types are fixed here and nowhere else: a column that is null in every row of a file would
otherwise lose its type, and DuckDB, Polars and pandas each fail in their own way on a directory
whose files differ. A value that was not measured, or is undefined, is null.
"""

import pyarrow as pa

from results.tables.axes import COLUMNS

#: Raised when a column is added, removed or changes its meaning; a new axis adds its column by
#: itself. 2 added the columns of `cases` from `nsd_2mm` on. 3 added `degradation` and `headline` to
#: `metrics`; before, `stratum` also held the degradation (results.tables.upgrade). 4 added columns,
#: and gave `hd95_mm` and `assd_mm` a value if a mask is empty: they were null before.
SCHEMA_VERSION = 4

#: Versions whose files can be read. What they lack is null, or derived from what they have.
READABLE = frozenset({1, 2, 3, SCHEMA_VERSION})

#: The outcomes of a trial. `ok`: trained and scored. `diverged`: went non-finite, which is a result
#: too. `failed`: broke (an error, a lost machine). `skipped`: cannot be run, for `reason`.
#: `dropped`: ended early, by the study's race or by a search.
STATUSES = ("ok", "diverged", "failed", "skipped", "dropped")

#: Statuses that running the study again does not change. A failed trial is run again.
FINAL_STATUSES = frozenset(STATUSES) - {"failed"}

#: Statuses of trials that ended by themselves, well or not.
ENDED_STATUSES = frozenset({"ok", "diverged"})

_TIME = pa.timestamp("us", tz="UTC")


def _columns(*groups: tuple[pa.DataType, str]) -> pa.Schema:
    """Return a schema from (type, "name name ...") pairs, in their order."""
    return pa.schema([pa.field(name, kind) for kind, names in groups for name in names.split()])


#: One row per trial. `hparams` and `versions` are JSON objects; seconds, milliseconds and bytes are
#: as the names say; `pretrained` names the weights a model started from (null: none) and `lane` the
#: worker group; `target` is the score of the `..._to_target` columns.
#: `weight_decay_kind` says how the optimizer's decay acts: coupled, decoupled, none or unknown;
#: `early_stopping` whether patience could end the trial. `val_score` and `test_score` are for the
#: weights that inner validation chose, the best of many noisy looks; `last_...` for those at the
#: end of training; `test_score_before_diverging` for those chosen before a trial diverged, its
#: only score. Nothing is chosen by the latter three. `point` is the point of a search that a
#: trial has its settings from, 0 for the defaults, out of `points`; null if nothing was searched.
#: `last_train_score`: also for the last weights, on as many cases of the training part as inner
#: validation has, evenly spread over it and not augmented; null for a point. `parameters`: number
#: of trainable parameters of the network. `looks`: looks at inner validation over the budget.
#: `inference`: whether segmented images were evaluated in `windows` or `whole`; null for other
#: tasks. `energy_joules`: energy used by the trial's GPU from start to end; null with several GPUs,
#: or if others trained on it meanwhile. `unrepeatable`: the operators that ran on a GPU without
#: giving the same bits each time, separated by spaces; null on a CPU, where all do.
TRIALS = _columns(
    (pa.string(), "study trial_id dataset task"),
    (pa.string(), " ".join(COLUMNS)),
    (pa.string(), "loader precision"),
    (pa.bool_(), "compiled"),
    (pa.int64(), "batch_size"),
    (pa.bool_(), "tuned"),
    (pa.string(), "hparams"),
    (pa.int64(), "repeat fold seed"),
    (pa.string(), "status reason"),
    (pa.int64(), "attempt"),
    (pa.int64(), "n_train_cases n_val_cases n_test_cases"),
    (pa.int64(), "n_train_groups n_val_groups n_test_groups"),
    (pa.string(), "group_source"),
    (pa.int64(), "epochs_run best_epoch gradient_evaluations sample_gradients"),
    (pa.string(), "primary_metric"),
    (pa.float64(), "val_score test_score test_loss target"),
    (pa.float64(), "setup_sec train_sec data_wait_sec eval_sec wall_sec"),
    (pa.float64(), "samples_per_sec voxels_per_sec"),
    (pa.float64(), "step_ms_p50 step_ms_p95 optimizer_step_ms_p50 infer_ms_per_case"),
    (pa.int64(), "optimizer_state_bytes peak_memory_bytes"),
    (pa.float64(), "energy_joules flops_per_sample sec_to_target"),
    (pa.int64(), "sample_gradients_to_target"),
    (pa.string(), "device_name"),
    (pa.int64(), "device_count threads"),
    (pa.string(), "lane"),
    (pa.bool_(), "shared_device"),
    (_TIME, "started_at finished_at"),
    (pa.string(), "git_commit versions"),
    (pa.string(), "weight_decay_kind"),
    (pa.bool_(), "early_stopping"),
    (pa.float64(), "last_val_score last_test_score test_score_before_diverging"),
    (pa.int64(), "point points"),
    (pa.float64(), "last_train_score"),
    (pa.int64(), "parameters looks"),
    (pa.string(), "inference unrepeatable"),
)

#: Long form: one row per trial x split (inner or test) x metric x unit x region x convention x
#: stratum (small: only small references and lesions; empty: all) x degradation of the test images
#: (empty: undegraded). `headline`: whether it is the one value of its split and degradation that
#: represents the metric.
METRICS = _columns(
    (pa.string(), "trial_id split metric unit region convention stratum degradation"),
    (pa.bool_(), "headline"),
    (pa.float64(), "value"),
)

#: One row per trial x epoch. `step_loss_sd_diff`: the standard deviation of the differences between
#: the losses of successive steps; `step_norm`: the geometric mean of the length (L2) of some steps,
#: as `bench.training.course` measures it; both null if an epoch has too few steps. `val_loss` and
#: `val_score` are null without a look at inner validation.
EPOCHS = _columns(
    (pa.string(), "trial_id"),
    (pa.int64(), "epoch"),
    (pa.float64(), "train_loss val_loss val_score lr"),
    (pa.int64(), "sample_gradients gradient_evaluations"),
    (pa.float64(), "elapsed_sec samples_per_sec data_wait_sec"),
    (pa.float64(), "step_loss_sd_diff step_norm"),
)

#: One row per trial x case of the test fold x class or region. `case_id` and `group_id` are keyed
#: hashes. Classification: `region` is a class, `label` is 1 if it is the true one, else 0. Several
#: findings: `region` is a finding, `label` is 1 if it is present, 0 if it is not, and null if that
#: is not known. Segmentation: `label` is 1 if the reference contains the region, `prob` the
#: network's probability that the image does. If only one mask is empty, `hd95_mm` and `assd_mm` are
#: the image's diagonal and `nsd_2mm` is 0; if both are, these are 0, 0 and 1. `ref_mm` and
#: `lesion_mm` are diameters of the sphere (2-D: disc) with the size of the reference, and of each
#: of its lesions; `lesion_prob` has the score of each lesion, null if missed, and `false_prob`
#: those of the false candidates. `log_odds` is log(prob / (1 - prob)), which distinguishes
#: probabilities that round to 1; rankings (AUC, FROC) use it.
#: A number: `region` is its name, `truth` and `predicted` are in the unit of the source.
CASES = _columns(
    (pa.string(), "trial_id case_id group_id region"),
    (pa.int64(), "label"),
    (pa.float64(), "prob"),
    (pa.int64(), "tp fp fn tn n_ref n_pred"),
    (pa.float64(), "dice hd95_mm nsd_2mm assd_mm ref_mm"),
    (pa.list_(pa.float64()), "lesion_mm"),
    # Noise gives thousands of candidates per case; probabilities of networks are float32 anyway.
    (pa.list_(pa.float32()), "lesion_prob false_prob"),
    (pa.float64(), "log_odds"),
    (pa.list_(pa.float64()), "lesion_log_odds false_log_odds"),
    (pa.float64(), "truth predicted"),
)

#: Folder of a run -> its schema, in the order of writing: `trials` is the record that a trial is
#: finished, so it comes last.
TABLES: dict[str, pa.Schema] = {
    "metrics": METRICS,
    "epochs": EPOCHS,
    "cases": CASES,
    "trials": TRIALS,
}

#: Columns in which NaN is a measurement (the loss of a diverged trial) and is kept. Elsewhere NaN
#: means undefined and is stored as null.
NAN_COLUMNS = frozenset({"train_loss", "val_loss", "test_loss"})

#: Columns of floats that recur: rates, positions on a voxel grid, scores over few cases, sizes of a
#: case in each trial. zstd finds repeats of whole floats, but not if bytes are split (measured over
#: the reference: 166 kB, split 222, as dictionaries 194).
RECURRING = frozenset({"value", "val_score", "lr", "hd95_mm", "ref_mm", "lesion_mm"})

#: Columns that hold a JSON object as text.
JSON_COLUMNS = frozenset({"hparams", "versions"})
