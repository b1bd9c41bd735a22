"""The recommended combination of a run as Python text: for PyTorch, MONAI or nnU-Net.

The text says what was found and how certain it is, and defines what determines a training:
optimizer, schedule, loss, step, budget. What PyTorch or MONAI has in the same form is written by
its name; anything else is imported from MedOptBench, which must then be installed. Names and
settings come from files of a run: they appear in the text as literals or in comments, so none of
them is executed as code.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from results import text
from results.run_folder import Recorded, made_of
from results.tables.axes import label
from results.tables.store import RunError
from results.tables.tasks import answer_of
from results.verdict.combinations import Combination, Contest
from results.verdict.schema import OfDataset

# Optimizers of torch.optim, all settings under torch's names.
TORCH = {
    "sgd": "SGD",
    "sgd_nesterov": "SGD",
    "adagrad": "Adagrad",
    "rmsprop": "RMSprop",
    "adam": "Adam",
    "adamw": "AdamW",
    "lbfgs": "LBFGS",
    "nadam": "NAdam",
    "radam": "RAdam",
    "adafactor": "Adafactor",
}
# Optimizers whose step is not just gradient and update; `averaged`: they put averaged weights into
# the network for evaluation.
STEPS = {
    "lbfgs": "closure",
    "sam": "two_pass",
    "sophia": "create_graph",
    "schedule_free_adamw": "averaged",
    "schedule_free_sgd": "averaged",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of an axis: its name in a study, the settings that the study gives, all settings."""

    name: str
    params: Mapping[str, Any]
    settings: Mapping[str, Any]


# Axes that a recipe writes, or mentions as not written.
_WRITTEN = {"model", "optimizer", "loss", "schedule", "regularizer", "pretrained"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a recipe is made from: one combination on one data set of a run.

    `ignored` is the label of voxels that do not count, None if all count.
    """

    run: str
    contest: Contest
    found: OfDataset
    combination: Combination
    study: Mapping[str, Any]
    model: Entry
    optimizer: Entry
    loss: Entry
    schedule: Entry
    regularizer: Entry
    one_setting: bool
    classes: int | None
    channels: int | None
    dims: int | None
    ignored: int | None

    @property
    def step(self) -> str:
        """The kind of the optimizer's step."""
        return STEPS.get(self.optimizer.name, "plain")

    @property
    def batch(self) -> int:
        """Samples per step."""
        return int(self.combination.scored[0]["batch_size"])

    @property
    def n_train(self) -> int:
        """Cases of a training part, mean over folds."""
        return round(self.combination.mean("n_train_cases") or 0)

    def of_data(self, key: str) -> Any:
        """Return a setting of the data set, or else of the study."""
        entries = self.study.get("data", ())
        own = next((e for e in entries if label(e) == self.contest.dataset), None)
        value = own.get(key) if isinstance(own, Mapping) else None
        return self.study.get(key) if value is None else value


def recipe(run: Path, form: str, *, data: str | None = None, name: str | None = None) -> str:
    """Return the recommended combination of a run as Python text in one of FORMS.

    `data` names the data set if there are several, `name` a combination other than the recommended
    one. Raises RunError if one of them does not exist, nothing is recommended yet, or the form
    cannot express the combination.
    """
    return made_of(run, lambda content: FORMS[form](_recipe(content, data, name)))


def _recipe(run: Recorded, data: str | None, name: str | None) -> Recipe:
    names = [contest.dataset for contest in run.contests]
    if data is None and len(names) > 1:
        raise RunError(f"the run has several data sets: name one as `data` ({', '.join(names)})")
    if data is not None and data not in names:
        raise RunError(f"the run has no data set {data!r}; choices: {', '.join(names)}")
    place = names.index(data) if data else 0
    if not names:
        raise RunError("no trial has finished yet, so nothing is recommended")
    contest, found = run.contests[place], run.verdict["datasets"][place]
    scored = {c.name: c for c in contest.combinations if c.scored}
    chosen = name or found["recommended"]
    if chosen is None:
        raise RunError(
            f"nothing is recommended on {contest.dataset}: {found['reason']} Name a "
            "`combination` to get its recipe anyway."
        )
    if chosen not in scored:
        raise RunError(f"no scored combination {chosen!r}; choices: {', '.join(scored)}")
    combination = scored[chosen]
    about = run.footer.get("data", {}).get(contest.dataset, {})
    hparams = Counter(row["hparams"] for row in combination.scored if row["hparams"])
    entries = {
        axis.column: _entry(run.study, axis.key, combination.entries[axis.column] or axis.plain)
        for axis in run.axes
        if axis.column != "pretrained"
    }
    optimizer = entries["optimizer"]
    if hparams:
        settings = json.loads(hparams.most_common(1)[0][0])
        optimizer = Entry(name=optimizer.name, params=settings, settings=settings)
    regularizer = entries["regularizer"]
    loss, model = entries["loss"], entries["model"]
    if regularizer.name == "label_smoothing":
        loss = _with(loss, "label_smoothing", regularizer.settings.get("amount", 0.1))
    if regularizer.name == "dropout":
        model = _with(model, "dropout", regularizer.settings.get("rate", 0.3))
    return Recipe(
        run=run.path.name,
        contest=contest,
        found=found,
        combination=combination,
        study=run.study,
        model=model,
        optimizer=optimizer,
        loss=loss,
        schedule=entries["schedule"],
        regularizer=regularizer,
        one_setting=len(hparams) < 2,
        classes=len(about["classes"]) if "classes" in about else None,
        channels=len(about["channels"]) if "channels" in about else None,
        dims=len(about["axes"]) if "axes" in about else None,
        ignored=about.get("ignored", {}).get("label"),
    )


def _entry(study: Mapping[str, Any], key: str, said: str | None) -> Entry:
    """Return the entry of an axis that results name `said`."""
    found = next((e for e in study.get(key) or () if label(e) == said), said or "")
    given: Mapping[str, Any] = found if isinstance(found, Mapping) else {"name": str(found)}
    params: Mapping[str, Any] = given.get("params") or {}
    settings = (study.get("resolved") or {}).get(key, {}).get(said) or params
    return Entry(name=str(given["name"]), params=params, settings=settings)


def _with(entry: Entry, name: str, value: Any) -> Entry:
    return Entry(
        name=entry.name,
        params={**entry.params, name: value},
        settings={**entry.settings, name: value},
    )


# ---- pieces of text --------------------------------------------------------------------------


def _comment(said: str) -> str:
    """Return a text as comment lines of at most 100 columns, without its own line breaks."""
    lines, line = [], "#"
    for word in said.split():
        if len(line) + 1 + len(word) > 100 and line != "#":
            lines.append(line)
            line = "#"
        line += f" {word}"
    return "\n".join([*lines, line])


def _literal(value: Any) -> str:
    """Return a value of JSON or YAML as a Python literal; lists as tuples, as optimizers take."""
    if isinstance(value, list | tuple):
        inside = ", ".join(map(_literal, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{str(k)!r}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    raise RunError(f"a setting of the run is not a plain value: {value!r:.80}")


def _arguments(settings: Mapping[str, Any]) -> str:
    """Return `lr=0.1, betas=(0.9, 0.99)`; raises RunError if a name is not an identifier."""
    for name in settings:
        if not str(name).isidentifier():
            raise RunError(f"a setting of the run is not a valid Python name: {name!r:.80}")
    return ", ".join(f"{name}={_literal(value)}" for name, value in settings.items())


def _head(r: Recipe, what: str) -> str:
    found, study = r.found, r.study
    row = next(row for row in found["combinations"] if row["name"] == r.combination.name)
    test = text.scored(row["test_score"], row["test_low"], row["test_high"], found["alpha"])
    recommended = r.combination.name == found["recommended"]
    said = [
        f"{r.combination.name}, {what}. Run {r.run}, {r.contest.dataset} ({r.contest.task}).",
        f"Verdict: {text.STATES[found['state']].lower()}. {found['reason']}"
        if recommended
        else "Chosen by name: the run does not recommend it.",
        f"Its test {text.metric(found['metric'])}: {test}.",
    ]
    if not r.one_setting:
        said.append(
            "It was tuned anew in each fold, and the folds chose different settings: these are the "
            "ones chosen most often."
        )
    augment = r.of_data("augment")
    precision = r.combination.scored[0]["precision"]
    budget = f"{r.of_data('epochs')} epochs of about {r.n_train} training cases ({_end(r)})"
    kept = f"the weights with the best {text.metric(found['metric'])} on inner validation"
    said += [
        f"Intensities: {r.of_data('normalize') or 'automatic'}. Augmentation: "
        + (text.setting(augment) if augment else "automatic")
        + f". Patch: {text.setting(r.of_data('patch'))}.",
        f"Budget: {budget}. Precision: {precision}. Kept: {kept}.",
    ]
    if r.regularizer.name not in ("", "none", "weight_decay", "label_smoothing", "dropout"):
        said.append(
            f"Regularizer {r.regularizer.name}"
            + (f" ({text.setting(r.regularizer.settings)})" if r.regularizer.settings else "")
            + ": not written here."
        )
    said += [
        f"{column} {entry}: not written here."
        for column, entry in r.combination.entries.items()
        if column not in _WRITTEN and entry
    ]
    if r.ignored is not None:
        said.append(
            f"Voxels of label {r.ignored} are of no class: they count neither in the loss nor in "
            "the score."
        )
    if answer_of(r.contest.task) == "number":
        said.append(
            "Targets are the numbers minus the mean of the training part, divided by its standard "
            "deviation."
        )
    if pretrained := r.combination.entries.get("pretrained"):
        said.append(f"It starts from the weights {pretrained}: not written here.")
    if r.study.get("ema"):
        said.append(f"Weights averaged with a decay of {r.study['ema']}: not written here.")
    if study.get("decay_norms") is False:
        said.append("Norms and biases had no weight decay: not written here.")
    return "\n#\n".join(map(_comment, said))


def _end(r: Recipe) -> str:
    """Return what ends a trial: early stopping, if a trial has more looks than its patience."""
    patience = r.study.get("patience")
    looks = [
        row.get("looks") or r.of_data("epochs") or 0
        for row in r.combination.scored
        if row["early_stopping"] is not False
    ]
    if patience is None or max(looks, default=0) <= patience:
        return "all"
    return f"or fewer: a trial ends after {patience} looks without a better score"


def _constants(r: Recipe) -> str:
    epochs = int(r.of_data("epochs") or 1)
    return (
        f"EPOCHS = {epochs}\nBATCH_SIZE = {r.batch}\n"
        f"STEPS = max(EPOCHS * {r.n_train} // BATCH_SIZE, 1)  # the whole budget"
    )


def _model(r: Recipe) -> str:
    run = f" In the run: {r.channels} channels, {r.classes} classes." if r.channels else ""
    return f'''def make_model(in_channels, out_channels, patch):
    """Return the network of MedOptBench, for patches of these sides.{run}"""
    from pathlib import Path

    from bench.study.components import model_row

    row = model_row({r.model.name!r}, {_literal(r.model.params)}, Path(".")).row
    return row.build(
        in_channels=in_channels, out_channels=out_channels, dims=len(patch), patch=tuple(patch)
    )'''


def _optimizer(r: Recipe) -> str:
    settings = r.optimizer.settings
    if r.optimizer.name in TORCH:
        made = f"    return torch.optim.{TORCH[r.optimizer.name]}(params, {_arguments(settings)})"
    else:
        made = f"""    from pathlib import Path

    from bench.study.components import optimizer_row

    row = optimizer_row({r.optimizer.name!r}, {_literal(settings)}, Path(".")).row
    return row.build(params, **{_literal(settings)})"""
    return f'''def make_optimizer(params):
    """Return the optimizer with all the settings that it had in the run."""
{made}'''


def _filled(template: str, settings: Mapping[str, Any]) -> str | None:
    """Return a template with settings as literals; None if the run does not record them all.

    Runs of older versions record only the settings that their study gave.
    """
    wanted = {name for _, name, _, _ in Formatter().parse(template) if name}
    if not wanted <= set(settings):
        return None
    return template.format_map({name: _literal(value) for name, value in settings.items()})


# Schedule -> the factor at `progress` of the part after the warm-up; {name} is a setting.
_SHAPES = {
    "constant": "1.0",
    "warmup": "1.0",
    "step": "{factor} ** sum(progress >= share for share in {at})",
    "cosine": "{floor} + (1 - {floor}) * (1 + math.cos(math.pi * progress)) / 2",
    "warmup_cosine": "{floor} + (1 - {floor}) * (1 + math.cos(math.pi * progress)) / 2",
    "polynomial": "(1 - progress) ** {power}",
    "one_cycle": "(\n        1 + ({start} - 1) * (1 + math.cos(math.pi * progress / {rise})) / 2\n"
    "        if progress < {rise}\n        else {end} + (1 - {end}) * (1 + math.cos(math.pi * "
    "(progress - {rise}) / (1 - {rise}))) / 2\n    )",
}


def _factor(r: Recipe) -> str:
    if r.schedule.name not in _SHAPES:
        raise RunError(f"recipes do not support the schedule {r.schedule.name!r}")
    usual = {"warmup": 0.0} if r.schedule.name == "constant" else {}
    settings = {**usual, **r.schedule.settings}
    shape = _filled(_SHAPES[r.schedule.name], settings)
    if shape is None or "warmup" not in settings:
        raise RunError(
            f"study.yaml does not say every setting of the schedule {r.schedule.name}, since the "
            "run was made by an older version. `medopt run` of the study records them."
        )
    warmup = _literal(settings["warmup"])
    rise = (
        f"    if spent < {warmup}:\n        return min((spent + batch) / {warmup}, 1.0)\n"
        f"    progress = (spent - {warmup}) / (1 - {warmup})\n"
        if settings["warmup"]
        else "    progress = spent\n"
    )
    return f'''def factor(spent, batch=0.0):
    """Return the factor of the rate at a spent share of the budget; a step costs `batch`."""
{rise}    return {shape}'''


# Loss -> its body in plain torch, of `logits` (N, C, ...), `target` (N, ...) int64, `weights` (C,).
_PLAIN = {
    "ce": "return F.cross_entropy(logits, target, label_smoothing={label_smoothing})",
    "ce_smooth": "return F.cross_entropy(logits, target, label_smoothing={label_smoothing})",
    "weighted_ce": "each = F.cross_entropy(\n        logits, target, weights, reduction='none', "
    "label_smoothing={label_smoothing}\n    )\n    return each.mean()",
    "focal": "each = F.cross_entropy(logits, target, reduction='none')\n"
    "    return ((-torch.expm1(-each)).clamp_min(1e-12) ** {gamma} * each).mean()",
    "weighted_focal": "each = F.cross_entropy(logits, target, reduction='none')\n"
    "    shape = (-torch.expm1(-each)).clamp_min(1e-12) ** {gamma}\n"
    "    return (weights[target] * shape * each).mean()",
    "gce": "each = F.cross_entropy(logits, target, reduction='none')\n"
    "    return (-torch.expm1(-{q} * each) / {q}).mean()",
}
# The same by MONAI, for masks, whose target has a channel axis.
_FORM = (
    "include_background=False, softmax=True, to_onehot_y=True, smooth_nr={smooth}, "
    "smooth_dr={smooth}"
)
_MONAI = {
    "dice": f"monai.losses.DiceLoss({_FORM})",
    "jaccard": f"monai.losses.DiceLoss(jaccard=True, {_FORM})",
    "dice_ce": f"monai.losses.DiceCELoss(label_smoothing={{label_smoothing}}, {_FORM})",
    "tversky": f"monai.losses.TverskyLoss(alpha={{alpha}}, beta={{beta}}, {_FORM})",
}


def _loss(r: Recipe, *, by_monai: bool) -> str:
    name = r.loss.name
    if r.ignored is not None:
        return _loss_of_the_others(r)
    body = None
    if by_monai and r.contest.task == "segmentation":
        made = _filled(_MONAI[name], r.loss.settings) if name in _MONAI else None
        body = made and f"import monai\n\n    return {made}(logits, target[:, None])"
    if body is None and name in _PLAIN:
        body = _filled(_PLAIN[name], r.loss.settings)
    if body is None:
        params = _literal(r.loss.params)
        body = f"""from pathlib import Path

    from bench.losses.table import alone
    from bench.study.components import loss_row

    values = loss_row({name!r}, {params}, Path(".")).row.bind({params})
    return values(logits, target, weights, alone).mean()"""
    return f'''def loss_of(logits, target, weights=None):
    """Return the loss of logits (N, C, ...) and classes (N, ...), with class weights (C,) or None.

    The caller handles a network with several outputs (deep supervision).
    """
    {body}'''


def _loss_of_the_others(r: Recipe) -> str:
    """Return the loss of the voxels that count, which no library has in this form."""
    params = _literal(r.loss.params)
    return f'''def loss_of(logits, target, weights=None):
    """Return the loss of logits (N, C, ...) and labels (N, ...), with class weights (C,) or None.

    Voxels with the label given below are of no class and do not count. The caller handles a network
    with several outputs (deep supervision).
    """
    from pathlib import Path

    from bench.losses.supervision import ignoring
    from bench.losses.table import alone
    from bench.study.components import loss_row

    row = loss_row({r.loss.name!r}, {params}, Path(".")).row
    values = ignoring(row, row.bind({params}), {_literal(r.ignored)})
    return values(logits, target, weights, alone).mean()'''


_STEPS = {
    "plain": """optimizer.zero_grad()
    loss = loss_of(model(image), target, weights)
    loss.backward()
{clip}    optimizer.step()
    return float(loss.detach())""",
    "closure": """def closure():
        optimizer.zero_grad()
        loss = loss_of(model(image), target, weights)
        loss.backward()
        return loss

    return optimizer.step(closure).item()""",
    "two_pass": """optimizer.zero_grad()
    loss = loss_of(model(image), target, weights)
    loss.backward()
{clip}    optimizer.first_step(zero_grad=True)
    loss_of(model(image), target, weights).backward()
{clip}    optimizer.second_step()
    return float(loss.detach())""",
    "create_graph": """optimizer.zero_grad()
    loss = loss_of(model(image), target, weights)
    loss.backward(create_graph=True)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())""",
}
_STEPS["averaged"] = _STEPS["plain"]


def _train_step(r: Recipe) -> str:
    norm = r.study.get("clip")
    clip = (
        f"    torch.nn.utils.clip_grad_norm_(model.parameters(), {_literal(float(norm))})\n"
        if norm
        else ""
    )
    more = {
        "averaged": "\n\n    Call optimizer.train() before training and optimizer.eval() before "
        "evaluation: the\n    weights to evaluate are an average.\n    ",
        "closure": " A step evaluates the gradient many times.",
    }.get(r.step, "")
    return f'''def train_step(model, optimizer, image, target, weights=None):
    """Take one step on a batch and return the loss before it.{more}"""
    {_STEPS[r.step].format(clip=clip)}'''


_SCHEDULER = '''def make_scheduler(optimizer):
    """Return the schedule of the learning rate; step it after each training step."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: factor(min(step / STEPS, 1.0), 1 / STEPS)
    )'''


# ---- the three forms -------------------------------------------------------------------------

_IMPORTS = "import math\n\nimport torch\nimport torch.nn.functional as F"


def _joined(parts: Sequence[str]) -> str:
    return "\n\n\n".join(part for part in parts if part) + "\n"


def pytorch(r: Recipe) -> str:
    """Return a combination as plain PyTorch."""
    return _joined(
        [
            f"{_head(r, 'for PyTorch')}\n\n{_IMPORTS}\n\n{_constants(r)}",
            _model(r),
            _optimizer(r),
            _factor(r),
            _SCHEDULER,
            _loss(r, by_monai=False),
            _train_step(r),
        ]
    )


def monai(r: Recipe) -> str:
    """Return a combination with the losses, transforms and inferer of MONAI, if it has them."""
    return _joined(
        [
            f"{_head(r, 'for MONAI')}\n\n{_IMPORTS}\n\n{_constants(r)}",
            _model(r),
            _optimizer(r),
            _factor(r),
            _SCHEDULER,
            _loss(r, by_monai=True),
            _transforms(r),
            _inferer(r) if r.contest.task == "segmentation" else "",
            _train_step(r),
        ]
    )


def _transforms(r: Recipe) -> str:
    augment = r.of_data("augment") or {}
    flips = augment.get("flip", False)
    axes = range(r.dims or 0)
    flipped = [a for a in axes if (flips[a] if isinstance(flips, list) else flips)]
    keys = '["image", "label"]' if r.contest.task == "segmentation" else '["image"]'
    lines = [f"RandFlipd({keys}, prob=0.5, spatial_axis={axis})" for axis in flipped]
    if scale := augment.get("scale"):
        lines.append(f'RandScaleIntensityd(["image"], factors={_literal(scale)}, prob=1.0)')
    if shift := augment.get("shift"):
        lines.append(f'RandShiftIntensityd(["image"], offsets={_literal(shift)}, prob=1.0)')
    other = [
        name
        for name in ("translate", "rotate", "zoom", "noise", "contrast", "gamma")
        if augment.get(name)
    ]
    if flips and r.dims is None:
        other.append("flip")
    missing = f" {', '.join(other)}: not written here." if other else ""
    made = "".join(f"            monai.transforms.{line},\n" for line in lines)
    return f'''def make_transforms():
    """Return the augmentation of normalised images (C, ...) in a dictionary.{missing}"""
    import monai

    return monai.transforms.Compose(
        [
{made}        ]
    )'''


def _inferer(r: Recipe) -> str:
    if r.study.get("inference") == "whole":
        return '''def make_inferer(patch):
    """Return what evaluates whole images in one pass, for a network that takes any size.

    First pad each side to a multiple of the network's down-sampling factor, at least to the patch.
    """
    import monai

    del patch
    return monai.inferers.SimpleInferer()'''
    overlap = _literal(float(r.study.get("overlap", 0.25)))
    return f'''def make_inferer(patch):
    """Return what evaluates whole images, in windows of the training patch."""
    import monai

    return monai.inferers.SlidingWindowInferer(roi_size=tuple(patch), overlap={overlap})'''


def nnunet(r: Recipe) -> str:
    """Return a combination as a trainer of nnU-Net, which keeps its own network and augmentation.

    Raises RunError if nnU-Net's training loop cannot do it.
    """
    if r.contest.task != "segmentation":
        raise RunError(f"nnU-Net only segments, but {r.contest.dataset} is for {r.contest.task}")
    if r.step != "plain":
        raise RunError(
            f"nnU-Net's training step is one gradient and one update, which is not how "
            f"{r.optimizer.name} steps. Use the form pytorch or monai."
        )
    if r.loss.name.startswith("weighted"):
        raise RunError(
            f"the loss {r.loss.name} needs class weights, which nnU-Net does not support"
        )
    foreground = (r.of_data("augment") or {}).get("foreground", 0.5)
    trainer = f'''class nnUNetTrainerMedOpt(nnUNetTrainer):
    """Train with the optimizer, schedule, loss and budget above; the rest is nnU-Net's own.

    Put this file into nnunetv2/training/nnUNetTrainer/ and run with `-tr nnUNetTrainerMedOpt`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.num_epochs = max(math.ceil(STEPS / self.num_iterations_per_epoch), 1)
        self.oversample_foreground_percent = {_literal(float(foreground))}

    def configure_optimizers(self):
        optimizer = make_optimizer(self.network.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda epoch: factor(min(epoch / self.num_epochs, 1.0), 1 / self.num_epochs)
        )
        return optimizer, schedule

    def _build_loss(self):
        loss = Loss()
        if not self.enable_deep_supervision:
            return loss
        scales = self._get_deep_supervision_scales()
        weights = np.array([1 / 2**n for n in range(len(scales))])
        weights[-1] = 1e-6 if self.is_ddp and not self._do_i_compile() else 0
        return DeepSupervisionWrapper(loss, weights / weights.sum())'''
    loss = '''class Loss(torch.nn.Module):
    """The loss as nnU-Net calls it: the target has a channel axis."""

    def forward(self, logits, target):
        return loss_of(logits.float(), target[:, 0].long())'''
    imports = (
        f"{_IMPORTS}\nimport numpy as np\n"
        "from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper\n"
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer"
    )
    return _joined(
        [
            f"{_head(r, 'for nnU-Net')}\n\n{imports}\n\n{_constants(r)}",
            _optimizer(r),
            _factor(r),
            _loss(r, by_monai=True),
            loss,
            trainer,
        ]
    )


#: Form -> the function that writes it.
FORMS: dict[str, Callable[[Recipe], str]] = {"pytorch": pytorch, "monai": monai, "nnunet": nnunet}
