"""Gaussian processes over configurations, one for each level of training: what short trainings tell of long ones.

Each level's value is a line over the level's below, plus what a process over configurations adds. Numpy and scipy. Not
here: how configurations become points (encoding.py); what is proposed (curve_sampler.py).

References
----------
Kennedy, O'Hagan, "Predicting the output from a complex computer code when fast approximations are available", 2000;
Le Gratiet, Garnier, "Recursive co-kriging model for design of computer experiments with multiple levels of fidelity",
2014: level by level. Rasmussen, Williams, "Gaussian Processes for Machine Learning", 2006: 2.7, explicit basis
functions with a normal prior; 5.4, the gradient of the marginal likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Floats = NDArray[np.float64]

# Means and deviations of the normal priors on the logarithms of what is fitted.
_LENGTH: Final = 0.7  # deviation of a feature's length; its mean is given
_SPREAD: Final = 0.5  # deviation of the process's own; its mean is given
_NOISE: Final = (math.log(0.15), 0.7)  # between seeds, as a share of the spread
_BOUND: Final = 5.0  # deviations from a prior's mean that nothing leaves
_ITERATIONS: Final = 40
# Of the line, before anything is seen: what a level adds, and how much of the level's below it keeps.
_FIRST: Final = 1.0  # deviation of the lowest level's mean, which is near the median of its values
_FALL: Final = (-0.2, 0.7)  # the mean for trainings e times as long
_KEEP: Final = (1.0, 0.3)
_ADDS: Final = 0.2  # spread of what a level's process adds, for trainings e times as long
_UNSEEN: Final = 0.3  # deviation of what a level adds that nobody has reached
_LEAST: Final = 0.05  # spread of the lowest level's values, at least
_JITTER: Final = 1e-6
_ROOT5: Final = math.sqrt(5.0)


@dataclass(frozen=True, slots=True)
class Level:
    """What is known of one level of training."""

    points: Floats  # (n, features)
    values: Floats  # (n,), the lower the better
    below: Floats  # (n,), the same configurations' values at the level below; at the lowest nothing is read of it


class FidelityGp:
    """Posterior of the value at the last level, after each level's parameters have been fitted.

    Parameters
    ----------
    levels : sequence of Level
        The lowest first, which has at least one point; others may have none.
    categories : array of bool, (features,)
        Which features are the same or not, and never near.
    lengths : array, (features,)
        Over which distance each feature is expected to matter.
    ratios : sequence of float
        How many times as long each level's trainings are as those of the level below; at the lowest 1.
    start : sequence of array, optional
        `thetas` of an earlier fit to less of the same study, to begin from.

    Attributes
    ----------
    thetas : list of array
        The fitted parameters of each level that has points.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        categories: NDArray[np.bool_],
        lengths: Floats,
        *,
        ratios: Sequence[float],
        start: Sequence[Floats] = (),
    ) -> None:
        self._logs = [math.log(ratio) for ratio in ratios]
        self._levels: list[_Process | None] = []
        for place, level in enumerate(levels):
            begin = start[place] if place < len(start) else None
            made = (
                _Process(level, categories, lengths, log_ratio=self._logs[place], start=begin)
                if len(level.values)
                else None
            )
            self._levels.append(made)
        self.thetas = [process.theta for process in self._levels if process is not None]

    def predict(self, points: Sequence[Floats], known: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Foretell the last level's values of configurations.

        Parameters
        ----------
        points : sequence of array, (n, features)
            For each level.
        known : sequence of array, (n,)
            For each level its value, NaN where it is not known.

        Returns
        -------
        tuple of array, (n,)
            Means and deviations; of a configuration whose last value is known, that and next to nothing.
        """
        means = variances = np.zeros(len(points[0]))
        for process, log_ratio, there, value in zip(self._levels, self._logs, points, known, strict=True):
            if process is None:
                means = means + _FALL[0] * log_ratio
                variances = variances + (_ADDS * log_ratio) ** 2 + _UNSEEN**2
            else:
                means, variances = process.predict(there, means, variances)
            unknown = np.isnan(value)
            means, variances = np.where(unknown, means, value), np.where(unknown, variances, 0.0)
        return means, np.sqrt(np.maximum(variances, 1e-10))


class _Process:
    """One level's: a line over the level's below, and a process over configurations."""

    def __init__(
        self,
        level: Level,
        categories: NDArray[np.bool_],
        lengths: Floats,
        *,
        log_ratio: float,
        start: Floats | None,
    ) -> None:
        self._points, self._categories, self._lowest = level.points, categories, log_ratio == 0
        if self._lowest:
            self._line, self._trust = np.array([float(np.median(level.values))]), np.array([_FIRST])
            spread = max(float(level.values.std()), _LEAST)
        else:
            self._line = np.array([_FALL[0] * log_ratio, _KEEP[0]])
            self._trust = np.array([_FALL[1], _KEEP[1]])
            spread = _ADDS * log_ratio
        self._basis = self._basis_of(level.below)
        self._residual = level.values - self._basis @ self._line
        self._of_line = (self._basis * self._trust**2) @ self._basis.T
        self._apart = distances(level.points, level.points, categories)
        self._mean = np.array([*np.log(lengths), math.log(spread), _NOISE[0]])
        self._deviation = np.array([*([_LENGTH] * len(lengths)), _SPREAD, _NOISE[1]])
        low, high = self._mean - _BOUND * self._deviation, self._mean + _BOUND * self._deviation
        begin = self._mean if start is None else np.clip(start, low, high)
        bounds = list(zip(low, high, strict=True))
        found = minimize(
            self._loss, begin, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _ITERATIONS}
        )
        self.theta: Floats = found.x
        self._condition()

    def predict(self, points: Floats, below: Floats, uncertain: Floats) -> tuple[Floats, Floats]:
        """Foretell means and variances, given those of the level below."""
        spread = math.exp(2 * self.theta[-2])
        alike = _matern(_radius(distances(points, self._points, self._categories), self.theta))
        basis = self._basis_of(below)
        across = spread * alike + (basis * self._trust**2) @ self._basis.T
        means = basis @ self._line + across @ self._weights
        solved = solve_triangular(self._root, across.T, lower=True)
        variances = spread + np.sum((basis * self._trust) ** 2, axis=1) - np.sum(solved**2, axis=0)
        if not self._lowest:
            kept = self._line + self._trust**2 * (self._basis.T @ self._weights)
            variances = variances + kept[1] ** 2 * uncertain
        return means, np.maximum(variances, 0.0) + spread * math.exp(2 * self.theta[-1])

    def _basis_of(self, below: Floats) -> Floats:
        ones = np.ones(len(below))
        return ones[:, None] if self._lowest else np.stack([ones, below], axis=1)

    def _covariance(self, theta: Floats) -> tuple[Floats, Floats, Floats]:
        """Compute it with the line and noise, with the correlation alone and the radii that this comes from."""
        radius = _radius(self._apart, theta)
        alike = _matern(radius)
        spread = math.exp(2 * theta[-2])
        covariance = spread * alike + self._of_line
        covariance[np.diag_indices_from(covariance)] += spread * math.exp(2 * theta[-1]) + _JITTER
        return covariance, alike, radius

    def _loss(self, theta: Floats) -> tuple[float, Floats]:
        """Negative logarithm of the posterior of theta, and its gradient."""
        covariance, alike, radius = self._covariance(theta)
        try:
            root = cholesky(covariance, lower=True)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(theta)
        inverse = cho_solve((root, True), np.eye(len(covariance)))
        weights = inverse @ self._residual
        spread = math.exp(2 * theta[-2])
        noise = spread * math.exp(2 * theta[-1])
        slope = 0.5 * (inverse - np.outer(weights, weights))
        by_length = spread * slope * (5.0 / 3.0) * (1.0 + _ROOT5 * radius) * np.exp(-_ROOT5 * radius)
        off = (theta - self._mean) / self._deviation
        gradient = off / self._deviation
        gradient[:-2] += np.tensordot(self._apart, by_length, 2) * np.exp(-2.0 * theta[:-2])
        gradient[-2] += 2.0 * (float((slope * alike).sum()) * spread + float(np.trace(slope)) * noise)
        gradient[-1] += 2.0 * float(np.trace(slope)) * noise
        loss = 0.5 * float(self._residual @ weights) + float(np.log(np.diag(root)).sum())
        return loss + 0.5 * float(off @ off), gradient

    def _condition(self) -> None:
        covariance, *_ = self._covariance(self.theta)
        self._root = cholesky(covariance, lower=True)
        self._weights = cho_solve((self._root, True), self._residual)


def distances(first: Floats, second: Floats, categories: NDArray[np.bool_]) -> Floats:
    """Square the distance of each point to each other one, by feature: (features, n, m)."""
    between = first.T[:, :, None] - second.T[:, None, :]
    return np.where(categories[:, None, None], between != 0, between**2)


def _radius(apart: Floats, theta: Floats) -> Floats:
    radius: Floats = np.sqrt(np.tensordot(np.exp(-2.0 * theta[:-2]), apart, 1) + 1e-12)
    return radius


def _matern(radius: Floats) -> Floats:
    """Correlate by a Matern function, twice differentiable (nu = 5/2)."""
    scaled = _ROOT5 * radius
    correlation: Floats = (1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled)
    return correlation
