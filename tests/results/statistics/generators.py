"""Studies whose truth is known, many at once, and what the procedure says of them.

Three kinds, after the simulations that the procedure was chosen by: scores drawn at random without
cases (`drawn`), scores that are means of cases (`of_cases`), and real cross-validation of ridge
classifiers (`ridge`). A study's first axis is N.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from results.statistics import procedure, spread


@dataclass(frozen=True, kw_only=True)
class Studies:
    """(N, m, R, k, S) scores, (N, R, m, m) and (N, m, m) covariances, n patients, (m,) truth."""

    scores: np.ndarray
    by_repeat: np.ndarray | None
    covariance: np.ndarray | None
    patients: int | None
    ratio: float
    truth: np.ndarray
    trained: np.ndarray | None = None  # (N, m): the true mean score of the models trained
    influence: np.ndarray | None = None  # (N, m, n), of few combinations only


@dataclass(frozen=True, kw_only=True)
class Said:
    """Shares: a false winner, the right one, groups with the best, intervals that all cover."""

    false: float
    right: float
    holds: float
    covers: float
    winner: np.ndarray
    variance: np.ndarray
    df: np.ndarray


def judged(studies: Studies, *, alpha: float = 0.05) -> Said:
    """Judge every study by the procedure; `false` where the best is tied counts any winner."""
    n_studies, m, repeats, folds, _ = studies.scores.shape
    found = spread.pairs(
        studies.covariance,
        spread.training_spread(studies.scores, studies.by_repeat),
        factor=spread.mean_variance_factor(folds * repeats, studies.ratio),
        folds=folds,
        patients=studies.patients,
    )
    mean = studies.scores.mean(axis=(2, 3, 4))
    ranking = procedure.rank(mean, found, scale=np.ones(n_studies), field=m, alpha=alpha)
    truth = studies.truth
    leaders = np.flatnonzero(truth == truth.max())
    alone = leaders.size == 1
    right = ranking.claimed & (ranking.best == leaders[0]) & alone
    target = np.array([truth[i] - np.delete(truth, i).max() for i in range(m)])
    covers = ((ranking.low <= target + 1e-12) & (target - 1e-12 <= ranking.high)).all(axis=1)
    return Said(
        false=float((ranking.claimed & ~right).mean()),
        right=float(right.mean()),
        holds=float(ranking.group[:, leaders].any(axis=1).mean()),
        covers=float(covers.mean()),
        winner=ranking.claimed,
        variance=found.variance,
        df=found.df,
    )


def drawn(rng, count, m, *, level=None, sd=1.0, rho=0.2, seeds=3, folds=5, noise=1.0):
    """Scores without cases: fold (sd .02), combination x fold (.01), seed (.01 each).

    `sd` multiplies each combination's own error, `level` moves its mean; errors of two folds
    correlate by `rho`.
    """
    level = np.zeros(m) if level is None else np.asarray(level, float)
    sd = np.broadcast_to(np.asarray(sd, float), m)[:, None]
    error = np.sqrt(1 - rho) * rng.standard_normal((count, m, folds))
    error += np.sqrt(rho) * rng.standard_normal((count, m, 1))
    y = 0.02 * rng.standard_normal((count, 1, folds, 1)) + (noise * 0.01 * sd * error)[..., None]
    # The mean of the seeds is all that counts of them here.
    own = noise * 0.01 / np.sqrt(seeds) * rng.standard_normal((count, m, folds))
    y = y + (sd * own)[..., None] + level[:, None, None]
    return Studies(
        scores=y[:, :, None],
        by_repeat=None,
        covariance=None,
        patients=None,
        ratio=1 / (folds - 1),
        truth=level,
    )


def of_cases(rng, count, m, *, level=None, training=0.1, sd=1.0, patients=200, folds=5, rho=None):
    """Means of cases: a case's sd of .115 a combination, and training's noise of each fold.

    `training`: the variance of training's noise in a fold over that of its cases; the noises of two
    folds correlate by `rho` (None: as Nadeau and Bengio's factor has it). `sd` multiplies each
    combination's noise of training.
    """
    case_sd, each = 0.115, patients // folds
    level = np.zeros(m) if level is None else np.asarray(level, float)
    sd = np.broadcast_to(np.asarray(sd, float), m)[:, None]
    rho = 1 / folds if rho is None else rho
    case = case_sd * rng.standard_normal((count, m, folds, each))
    case += 0.1 * rng.standard_normal((count, 1, folds, each))
    noise = np.sqrt(1 - rho) * rng.standard_normal((count, m, folds))
    noise += np.sqrt(rho) * rng.standard_normal((count, m, 1))
    noise *= case_sd / np.sqrt(each) * np.sqrt(training) * sd
    y = case.mean(axis=3) + noise + level[:, None]
    centred = (
        (case - case.mean(axis=3, keepdims=True)) / (folds * each) * np.sqrt(each / (each - 1))
    )
    phi = centred.reshape(count, m, patients)
    covariance = phi @ np.swapaxes(phi, 1, 2)
    return Studies(
        scores=y[:, :, None, :, None],
        by_repeat=covariance[:, None],
        covariance=covariance,
        patients=patients,
        ratio=1 / (folds - 1),
        truth=level,
    )


def of_task(rng, count, m, fold, case, *, level=None):
    """Equals made of a real task: its tails, its ties, its folds, what training added there.

    `fold` (n,) and `case` (3, n) are those of `replays.tasks`. Patients are drawn anew within each
    fold; of each a combination has the deviation of one of the three models, drawn by chance, so
    all have one expectation. A combination moves in a fold by as much as the models did beyond
    their cases, folds correlated as Nadeau and Bengio have it.
    """
    level = np.zeros(m) if level is None else np.asarray(level, float)
    folds = int(fold.max()) + 1
    means = np.stack([case[:, fold == j].mean(axis=1) for j in range(folds)], axis=1)
    deviation = case - means[:, fold]
    sizes = np.bincount(fold)
    between = means - means.mean(axis=0)
    own = (between - between.mean(axis=1, keepdims=True)).var() * 3 / 2 * folds / (folds - 1)
    shared = deviation.mean(axis=0)
    rest = deviation - shared
    explained = np.mean(
        [(rest[:, fold == j] ** 2).sum() / 2 / (n * (n - 1)) for j, n in enumerate(sizes)]
    )
    noise = np.sqrt(max(own - explained, 0) / (1 - 1 / folds))
    # Two draws are of one model in a third of the cases: without that they differ as models do.
    deviation = shared + np.sqrt(3 / 2) * rest
    moved = np.sqrt(1 - 1 / folds) * rng.standard_normal((count, m, folds))
    moved += np.sqrt(1 / folds) * rng.standard_normal((count, m, 1))
    phi = np.empty((count, m, fold.size))
    scores = np.empty((count, m, folds))
    for j, n_j in enumerate(sizes):
        at = np.flatnonzero(fold == j)
        drawn_patients = rng.choice(at, (count, 1, n_j))
        values = deviation[rng.integers(0, 3, (count, m, n_j)), drawn_patients]
        scores[:, :, j] = values.mean(axis=2)
        centred = values - values.mean(axis=2, keepdims=True)
        phi[:, :, at] = centred / (folds * n_j) * np.sqrt(n_j / (n_j - 1))
    scores += noise * moved + level[:, None]
    covariance = phi @ np.swapaxes(phi, 1, 2)
    return Studies(
        scores=scores[:, :, None, :, None],
        by_repeat=covariance[:, None],
        covariance=covariance,
        patients=fold.size,
        ratio=1 / (folds - 1),
        truth=level,
    )


# n patients, squared distance of the classes by features that all share and by a combination's own,
# and the number of its own features
RIDGE = {
    "mid": (300, 1.0, 0.9, 4),
    "sim": (300, 3.05, 0.15, 4),
    "big": (800, 2.4, 0.9, 4),
    "unstable": (200, 1.0, 0.9, 20),
    "easy": (200, 9.0, 4.0, 4),
}


def ridge(rng, count, m, name, *, gain=0.0, folds=5, seeds=3, leaders=1):
    """Real cross-validation: weighted ridge classifiers, scored by AUC on their test folds.

    4 features that all combinations share and some of each one's own; trained on 64 % of the
    patients (a fifth is tested, a fifth of the rest picks the epoch), with random exponential case
    weights for each seed. The null holds by symmetry; `gain` adds to the squared distance of the
    first `leaders` combinations' own features, and `truth` is by Monte Carlo over these studies:
    the true AUC of every trained model is known, Phi(b mu / (sqrt 2 |b|)).
    """
    n, shared, own, features = RIDGE[name]
    half = n // 2
    label = np.repeat([0, 1], half)
    fold = np.tile(np.arange(half) % folds, 2)
    gains = np.zeros(m)
    gains[:leaders] = gain
    mu = np.zeros((m, 4 + features))
    mu[:, :4] = np.sqrt(shared / 4)
    mu[:, 4:] = np.sqrt((own + gains) / features)[:, None]
    scores = np.empty((count, m, folds, seeds))
    true = np.empty((count, m, folds, seeds))
    covariance = np.empty((count, m, m))
    influence = np.empty((count, m, n)) if m <= 2 else None
    for study in range(count):
        common = rng.standard_normal((1, n, 4))
        x = np.concatenate(
            [np.broadcast_to(common, (m, n, 4)), rng.standard_normal((m, n, features))], axis=2
        )
        x += (label - 0.5)[None, :, None] * mu[:, None, :]
        phi = np.zeros((m, n))
        for j in range(folds):
            rest = np.flatnonzero(fold != j)
            train = np.concatenate(
                [rng.permutation(rest[label[rest] == c])[: round(0.32 * n)] for c in (0, 1)]
            )
            weight = rng.exponential(size=(m, seeds, train.size, 1))
            xt = x[:, None, train]
            weighted = np.swapaxes(weight * xt, -1, -2)
            gram = weighted @ xt + np.eye(4 + features)
            beta = np.linalg.solve(gram, weighted @ (2.0 * label[train] - 1)[:, None])[..., 0]
            true[study, :, j] = ndtr(
                (beta * mu[:, None]).sum(axis=-1) / np.linalg.norm(beta, axis=-1) / np.sqrt(2)
            )
            test = np.flatnonzero(fold == j)
            out = x[:, test] @ np.swapaxes(beta, -1, -2)  # (m, test, seeds)
            high, low = out[:, label[test] == 1], out[:, label[test] == 0]
            above = (high[:, :, None] > low[:, None]).astype(np.float64)
            v10, v01 = above.mean(axis=2), above.mean(axis=1)
            auc = v10.mean(axis=1)
            scores[study, :, j] = auc
            for v, c in ((v10, 1), (v01, 0)):
                p = v.shape[1]
                phi[:, test[label[test] == c]] = (v - auc[:, None]).mean(axis=-1) / (
                    folds * np.sqrt(p * (p - 1))
                )
        covariance[study] = phi @ phi.T
        if influence is not None:
            influence[study] = phi
    level = true.mean(axis=(0, 2, 3))
    truth = np.full(m, level.mean())
    if gain:
        truth[:leaders], truth[leaders:] = level[:leaders].mean(), level[leaders:].mean()
    return Studies(
        scores=scores[:, :, None],
        by_repeat=covariance[:, None],
        covariance=covariance,
        patients=n,
        ratio=0.2 / 0.64,
        truth=truth,
        trained=true.mean(axis=(2, 3)),
        influence=influence,
    )
