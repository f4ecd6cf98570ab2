"""An objective that costs no training: learning curves of any configuration, from the recorded ones.

Numpy and scikit-learn alone, so that it can be used from other tools' environments. ``python
tests/benchmarks/search/surrogate.py`` tells how well it foretells curves that it has not seen.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

TABLE: Final = Path(__file__).with_name("curves.csv")
BATCH_SIZES: Final = (16, 32, 64, 80, 128)
SCHEDULERS: Final = ("step", "plateau", "cosine")
# What the space may ask for; a branch parameter of another scheduler than the chosen one changes nothing.
BRANCHES: Final[Mapping[str, Sequence[str]]] = {
    "step": ("step_size", "gamma"), "plateau": ("factor", "patience"), "cosine": ("t_max",)
}  # fmt: skip
TREES: Final = 200
DIVERGED: Final = 1.0  # nats, where a recorded fit ended early: more than guessing loses


class Surrogate:
    """Curves between the recorded ones, by extremely randomized trees over all epochs at once.

    Another kind of model than any of the compared searches fits, so that none is at home in it. Trees without
    bootstrap give back each recorded curve as it was, and nothing below the lowest. Between seeds of one configuration
    a curve varies as the recorded repetitions do.

    Parameters
    ----------
    table : Path
        As `record` writes it.

    References
    ----------
    Eggensperger et al., "Efficient Benchmarking of Hyperparameter Optimizers via Surrogates", AAAI 2015: trees
    are the surrogates that keep the ranking of optimizers. Geurts et al., "Extremely randomized trees", 2006.
    """

    def __init__(self, table: Path = TABLE) -> None:
        self.rows = [row for row in _read(table) if row["drawn"] != "paper"]
        once = [row for row in self.rows if row["drawn"] != "repeat"]
        features, self.curves = np.array([_features(row) for row in once]), np.array([_curve(row) for row in once])
        self.epochs = self.curves.shape[1]
        self._trees = ExtraTreesRegressor(TREES, random_state=0).fit(features, np.log(self.curves))
        self._seconds = _seconds(self.rows)
        self._spread = _spread(self.rows)

    def curve(self, params: Mapping[str, Any], seed: int) -> tuple[list[float], float]:
        """Foretell the validation loss of each epoch, and the seconds that one takes.

        Parameters
        ----------
        params : mapping
            As the default study's space names them.
        seed : int
            The same one gives the same curve.
        """
        foretold = self._trees.predict(np.array([_features(params)]))[0]
        rng = np.random.default_rng([seed, *np.abs(np.array(_features(params)) * 1e6).astype(np.int64)])
        lasting, of_an_epoch = rng.normal(size=1), rng.normal(size=self.epochs)
        noisy = foretold + self._spread * (0.7 * lasting + 0.7 * of_an_epoch)
        return np.exp(noisy).tolist(), self._seconds[int(params["batch_size"])]


def read_curves(table: Path = TABLE) -> list[list[float]]:
    """Read the recorded losses by epoch; of what diverged, those before."""
    return [[float(row[key]) for key in row if key.startswith("loss") and row[key]] for row in _read(table)]


def _read(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def _curve(row: Mapping[str, str]) -> list[float]:
    losses = [float(row[key]) if row[key] else DIVERGED for key in row if key.startswith("loss")]
    return [min(loss, DIVERGED) for loss in losses]


def _features(params: Mapping[str, Any]) -> list[float]:
    scheduler = str(params["scheduler"])
    branch = [float(params[key]) if name == scheduler else -1.0 for name in SCHEDULERS for key in BRANCHES[name]]
    return [
        math.log(float(params["lr"])),
        math.log(float(params["weight_decay"])),
        float(params["dropout"]),
        math.log(float(params["batch_size"])),
        float(params["optimizer"] == "adam"),
        *(float(scheduler == name) for name in SCHEDULERS),
        *branch,
    ]


def _seconds(rows: Sequence[Mapping[str, str]]) -> dict[int, float]:
    """Seconds of an epoch by batch size: the quicker ones, as other work on the machine only adds to them."""
    by_size = {size: [float(row["seconds"]) for row in rows if row["batch_size"] == str(size) and row["seconds"]]
               for size in BATCH_SIZES}  # fmt: skip
    return {size: float(np.quantile(seconds, 0.25)) for size, seconds in by_size.items() if seconds}


def _spread(rows: Sequence[Mapping[str, str]]) -> float:
    """Standard deviation, between seeds, of a configuration's log loss."""
    groups: dict[tuple[float, ...], list[list[float]]] = {}
    for row in rows:
        groups.setdefault(tuple(_features(row)), []).append(_curve(row))
    several = [np.log(curves) for curves in groups.values() if len(curves) > 1]
    return float(np.sqrt(np.mean([curves.var(axis=0, ddof=1).mean() for curves in several]))) if several else 0.04


def main() -> None:
    from scipy.stats import spearmanr
    from sklearn.model_selection import KFold

    there = Surrogate()
    features = np.array([_features(row) for row in there.rows if row["drawn"] != "repeat"])
    logs = np.log(there.curves)
    foretold = np.zeros_like(logs)
    for seen, held in KFold(10, shuffle=True, random_state=0).split(features):
        trees = ExtraTreesRegressor(TREES, random_state=0).fit(features[seen], logs[seen])
        foretold[held] = trees.predict(features[held])
    print(f"{len(logs)} configurations, spread between seeds {there._spread:.3f} of the log loss")
    print("seconds of an epoch: " + ", ".join(f"{size}: {each:.2f}" for size, each in there._seconds.items()))
    for epoch in (1, 2, 4, 8, 12):
        error = np.sqrt(np.mean((foretold - logs)[:, epoch - 1] ** 2))
        rank = spearmanr(foretold[:, epoch - 1], logs[:, epoch - 1]).statistic
        final = spearmanr(logs[:, epoch - 1], logs.min(axis=1)).statistic
        print(f"epoch {epoch:2}: error of log loss {error:.3f}, rank correlation {rank:.3f}; to the best {final:.3f}")


if __name__ == "__main__":
    main()
