"""An objective that costs no training: learning curves of any configuration, from the recorded ones.

Numpy, scipy and scikit-learn, so that it can be used from other tools' environments. ``python -m
tests.benchmarks.search.surrogate`` fits it anew to the table and tells how well it foretells curves that it has not
seen, beside trees, which most tabulated benchmarks use.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from mlc_core import SCHEDULER_OF, SchedulerName, lr_factors

TABLE: Final = Path(__file__).with_name("curves.csv")
FITTED: Final = Path(__file__).with_name("surrogate.json")  # the processes' parameters, by epoch
BATCH_SIZES: Final = (16, 32, 64, 80, 128)
SCHEDULERS: Final = ("step", "plateau", "cosine")
DIVERGED: Final = 1.0  # nats, where a recorded fit ended early: more than guessing loses

Row = Mapping[str, Any]
Floats = NDArray[np.float64]


class Surrogate:
    """Curves between the recorded ones, by a Gaussian process for each epoch.

    A scheduler's own parameters act through what it makes of the learning rate: told so, a process foretells the last
    losses of configurations that it has not seen with half the error of trees; without it, it is hardly better than
    they are. Between seeds of one configuration a curve varies as the recorded repetitions do.

    Parameters
    ----------
    table : Path
        As `record` writes it.
    fitted : Path
        As `fit` writes it.

    References
    ----------
    Eggensperger et al., "Efficient Benchmarking of Hyperparameter Optimizers via Surrogates", AAAI 2015: the surrogate
    that cross-validation finds the most accurate.
    """

    def __init__(self, table: Path = TABLE, fitted: Path = FITTED) -> None:
        rows = [row for row in _read(table) if row["drawn"] != "paper"]
        once = [row for row in rows if row["drawn"] != "repeat"]
        self.curves = np.array([_curve(row) for row in once])
        self.epochs = self.curves.shape[1]
        thetas = json.loads(fitted.read_text())
        self._processes = [
            _process(thetas[epoch - 1]).fit(_features(once, epoch), np.log(self.curves[:, epoch - 1]))
            for epoch in range(1, self.epochs + 1)
        ]
        self._seconds = _seconds(rows)
        self.spread = _spread(rows)

    def curve(self, params: Row, seed: int) -> tuple[list[float], float]:
        """Foretell the validation loss of each epoch, and the seconds that one takes.

        Parameters
        ----------
        params : mapping
            As the default study's space names them.
        seed : int
            The same one gives the same curve.
        """
        foretold = np.array([
            process.predict(_features([params], epoch))[0] for epoch, process in enumerate(self._processes, start=1)
        ])  # fmt: skip
        rng = np.random.default_rng([seed, *(np.abs(_features([params], 1)[0]) * 1e6).astype(np.int64)])
        lasting, of_an_epoch = rng.normal(size=1), rng.normal(size=self.epochs)
        noisy = foretold + self.spread * (lasting + of_an_epoch) / math.sqrt(2)
        return np.exp(noisy).tolist(), self._seconds[int(params["batch_size"])]


def fit(table: Path = TABLE, fitted: Path = FITTED) -> None:
    """Fit each epoch's process to the table, and write the parameters."""
    rows = [row for row in _read(table) if row["drawn"] in ("random", "tpe")]
    logs = np.log([_curve(row) for row in rows])
    thetas: list[list[float]] = []
    for epoch in range(1, logs.shape[1] + 1):
        process = _process(thetas[-1] if thetas else None, fitting=True).fit(_features(rows, epoch), logs[:, epoch - 1])
        thetas.append([round(float(one), 4) for one in process.kernel_.theta])
    fitted.write_text(json.dumps(thetas) + "\n")


def read_curves(table: Path = TABLE) -> list[list[float]]:
    """Read the recorded losses by epoch; of what diverged, those before."""
    return [[float(row[key]) for key in row if key.startswith("loss") and row[key]] for row in _read(table)]


def _process(theta: Sequence[float] | None, *, fitting: bool = False) -> GaussianProcessRegressor:
    features = 5 + len(SCHEDULERS) + 2 + 2
    kernel = ConstantKernel(1.0) * Matern(np.full(features, 2.0), (0.05, 100.0), nu=2.5) + WhiteKernel(0.01, (1e-5, 1))
    kernel = kernel if theta is None else kernel.clone_with_theta(np.array(theta))
    optimizer = "fmin_l_bfgs_b" if fitting else None
    return GaussianProcessRegressor(kernel, optimizer=optimizer, normalize_y=True)


def _read(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def _curve(row: Row) -> list[float]:
    losses = [float(row[key]) if row[key] else DIVERGED for key in row if key.startswith("loss")]
    return [min(loss, DIVERGED) for loss in losses]


def _features(rows: Sequence[Row], epoch: int) -> Floats:
    return np.array([_point(row, epoch) for row in rows])


def _point(row: Row, epoch: int) -> list[float]:
    name = str(row["scheduler"])
    own = {key: float(row[key]) for key in ("gamma", "factor") if row.get(key) not in (None, "")}
    own |= {key: int(row[key]) for key in ("step_size", "patience", "t_max") if row.get(key) not in (None, "")}
    kind: Any = SCHEDULER_OF[cast("SchedulerName", name)]
    factors = lr_factors(kind(**{key: own[key] for key in kind.__dataclass_fields__}), epoch)
    lr, late = math.log(float(row["lr"])), factors[-max(1, epoch // 3) :]
    is_plateau = name == "plateau"
    return [
        lr,
        math.log(float(row["weight_decay"])) / 2,
        4 * float(row["dropout"]),
        math.log(float(row["batch_size"])),
        float(row["optimizer"] == "adam"),
        *(float(name == one) for one in SCHEDULERS),
        own["factor"] if is_plateau else 0.5,
        own["patience"] / 5 if is_plateau else 0.5,
        lr + math.log(max(1e-4, sum(factors) / epoch)),
        lr + math.log(max(1e-4, sum(late) / len(late))),
    ]


def _seconds(rows: Sequence[Row]) -> dict[int, float]:
    """Seconds of an epoch by batch size: the quicker ones, as other work on the machine only adds to them."""
    by_size = {size: [float(row["seconds"]) for row in rows if row["batch_size"] == str(size) and row["seconds"]]
               for size in BATCH_SIZES}  # fmt: skip
    return {size: float(np.quantile(seconds, 0.1)) for size, seconds in by_size.items() if seconds}


def _spread(rows: Sequence[Row]) -> float:
    """Standard deviation, between seeds, of a configuration's log loss."""
    groups: dict[tuple[str, ...], list[list[float]]] = {}
    for row in rows:
        groups.setdefault((row["lr"], row["weight_decay"], row["dropout"]), []).append(_curve(row))
    several = [np.log(curves) for curves in groups.values() if len(curves) > 1]
    return float(np.sqrt(np.mean([curves.var(axis=0, ddof=1).mean() for curves in several])))


def main() -> None:
    from rich.console import Console
    from scipy.stats import spearmanr
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.model_selection import KFold

    fit()
    there, say = Surrogate(), Console().print
    rows = [row for row in _read(TABLE) if row["drawn"] in ("random", "tpe")]
    thetas = json.loads(FITTED.read_text())
    say(f"{len(rows)} configurations, spread between seeds {there.spread:.3f} of the log loss")
    say("seconds of an epoch: " + ", ".join(f"{size}: {each:.2f}" for size, each in there._seconds.items()))
    logs = np.log(there.curves)
    for epoch in (1, 2, 4, 8, 12):
        features, known = _features(rows, epoch), logs[:, epoch - 1]
        foretold = {"process": np.zeros(len(rows)), "trees": np.zeros(len(rows))}
        for seen, held in KFold(10, shuffle=True, random_state=0).split(features):
            process = _process(thetas[epoch - 1]).fit(features[seen], known[seen])
            trees = ExtraTreesRegressor(200, random_state=0).fit(features[seen], known[seen])
            foretold["process"][held], foretold["trees"][held] = (
                process.predict(features[held]),
                trees.predict(features[held]),
            )
        final = spearmanr(known, logs.min(axis=1)).statistic
        for name, each in foretold.items():
            error, rank = np.sqrt(np.mean((each - known) ** 2)), spearmanr(each, known).statistic
            say(f"epoch {epoch:2}, {name:7}: error of log loss {error:.3f}, rank correlation {rank:.3f}")
        say(f"epoch {epoch:2}: rank correlation to the best of the curve {final:.3f}")


if __name__ == "__main__":
    main()
