"""A Gaussian process over configurations and epochs: what short trainings tell of long ones.

Numpy and scipy. Not here: how configurations become points (encoding.py); what is proposed (curve_sampler.py).

References
----------
Swersky, Snoek, Adams, "Multi-Task Bayesian Optimization", NIPS 2013: a coregionalization matrix, here of levels of
training. Klein et al., "Model-based Asynchronous Hyperparameter and Neural Architecture Search", 2020 (MOBSTER): the
same beside asynchronous successive halving. Rasmussen, Williams, "Gaussian Processes for Machine Learning", 2006, 5.4
and 2.7: the gradient of the marginal likelihood; explicit means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from search.encoding import Encoding

Floats = NDArray[np.float64]

# Means and deviations of the normal priors on the logarithms of what is fitted.
_LENGTH: Final = (math.log(0.7), 0.9)  # of a column, whose values lie between 0 and 1
_SCALE: Final = 0.5  # deviation; the mean is the spread of a level's values
_AGREEMENT: Final = (2.0, 1.0)  # of neighbouring levels, as the logit of their correlation
_NOISE: Final = (math.log(0.15), 0.7)  # deviation between seeds, as a share of the spread
_BOUND: Final = 6.0  # deviations from a prior's mean that nothing leaves
_ITERATIONS: Final = 40
_LEAST: Final = 0.05  # spread of a level's values, at least
_FALL: Final = 0.7  # of the mean from a level to one that nobody has reached
_JITTER: Final = (1e-6, 1e-4, 1e-2, 1e-1, 1.0)
_ROOT5: Final = math.sqrt(5.0)


@dataclass(frozen=True, slots=True)
class Observations:
    """What is known: how good some configurations were after some trainings."""

    points: Floats  # (n, columns), from Encoding.place
    levels: NDArray[np.int64]  # (n,), of training, from 0
    values: Floats  # (n,), the lower the better

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class _Kernel:
    """What is fitted, as logarithms: lengths of columns, scales of levels, agreement of levels, noise."""

    columns: int
    levels: int

    def parts(self, theta: Floats) -> tuple[Floats, Floats, float, float]:
        ends = (self.columns, self.columns + self.levels, self.columns + self.levels + 1)
        lengths, scales, agreement, noise = np.split(theta, ends)
        return lengths, scales, float(agreement[0]), float(noise[0])

    def between_levels(self, theta: Floats) -> Floats:
        """Covariance of levels, (levels, levels): the farther apart, the less one tells of the other."""
        _, scales, agreement, _ = self.parts(theta)
        steps = np.arange(self.levels)
        correlation = _sigmoid(agreement) ** np.abs(steps[:, None] - steps[None])
        covariance: Floats = np.exp(scales[:, None] + scales[None]) * correlation
        return covariance


class FidelityGp:
    """Posterior of the values at every level, after its parameters have been fitted.

    Parameters
    ----------
    encoding : Encoding
    levels : int
        How many levels of training there are; the last one is what counts.
    observations : Observations
        At least one.
    start : array, optional
        `theta` of an earlier fit to less of the same study, to begin from.
    refit : bool
        Whether to fit at all; else `start` is taken as it is.

    Attributes
    ----------
    theta : array
        The fitted parameters.
    """

    def __init__(
        self,
        encoding: Encoding,
        levels: int,
        observations: Observations,
        *,
        start: Floats | None = None,
        refit: bool = True,
    ) -> None:
        self._encoding, self._seen = encoding, observations
        self._kernel = _Kernel(len(encoding.columns), levels)
        self._apart = encoding.distances(observations.points, observations.points)
        self._levels = np.unique(observations.levels)
        self._basis = (observations.levels[:, None] == self._levels[None]).astype(float)
        self._mean, self._deviation = self._priors(levels)
        self.theta = self._mean if start is None or len(start) != len(self._mean) else start
        if refit or start is None:
            low, high = self._mean - _BOUND * self._deviation, self._mean + _BOUND * self._deviation
            begin = np.clip(self.theta, low, high)
            options = {"maxiter": _ITERATIONS}
            found = minimize(
                self._loss, begin, jac=True, method="L-BFGS-B", bounds=list(zip(low, high, strict=True)),
                options=options,
            )  # fmt: skip
            self.theta = found.x
        self._condition(levels)

    def predict(self, points: Floats, level: int) -> tuple[Floats, Floats]:
        """Foretell values without noise: means and deviations, each (n,)."""
        lengths, *_ = self._kernel.parts(self.theta)
        alike = _matern(_radius(self._encoding.distances(points, self._seen.points), lengths))
        across = alike * self._between[level][self._seen.levels][None]
        means = self._means[level] + across @ self._weights
        solved = solve_triangular(self._root, across.T, lower=True)
        variances = self._between[level, level] - np.sum(solved**2, axis=0)
        return means, np.sqrt(np.maximum(variances, 1e-10))

    def _priors(self, levels: int) -> tuple[Floats, Floats]:
        values, of = self._seen.values, self._seen.levels
        whole = max(float(values.std()), _LEAST)
        spreads = [max(float(values[of == level].std()), _LEAST) if np.sum(of == level) > 2 else whole
                   for level in range(levels)]  # fmt: skip
        columns = self._kernel.columns
        mean = np.concatenate([np.full(columns, _LENGTH[0]), np.log(spreads), [_AGREEMENT[0]], [_NOISE[0]]])
        deviation = np.concatenate(
            [np.full(columns, _LENGTH[1]), np.full(levels, _SCALE), [_AGREEMENT[1]], [_NOISE[1]]]
        )
        return mean, deviation

    def _loss(self, theta: Floats) -> tuple[float, Floats]:
        """Negative logarithm of the posterior of theta, and its gradient."""
        of, kernel = self._seen.levels, self._kernel
        lengths, _, agreement, noise = kernel.parts(theta)
        between = kernel.between_levels(theta)[of[:, None], of[None]]
        radius = _radius(self._apart, lengths)
        alike = _matern(radius)
        variance = math.exp(2 * noise) * np.diag(between)
        covariance = alike * between
        covariance[np.diag_indices_from(covariance)] += variance + _JITTER[0]
        try:
            root = cholesky(covariance, lower=True)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(theta)
        inverse = cho_solve((root, True), np.eye(len(of)))
        weights = inverse @ (self._seen.values - self._basis @ self._level_means(inverse))
        residual = self._seen.values - self._basis @ self._level_means(inverse)
        loss = 0.5 * float(residual @ weights) + float(np.log(np.diag(root)).sum())
        slope = 0.5 * (inverse - np.outer(weights, weights))
        by_entry, on_diagonal = slope * covariance, np.diag(slope) * variance
        by_length = slope * between * (5.0 / 3.0) * (1.0 + _ROOT5 * radius) * np.exp(-_ROOT5 * radius)
        gradient = np.zeros_like(theta)
        columns, levels = kernel.columns, kernel.levels
        gradient[:columns] = np.tensordot(self._apart, by_length, 2) * np.exp(-2.0 * lengths)
        for level in self._levels:
            gradient[columns + level] = 2.0 * by_entry[of == level].sum()
        steps = np.abs(of[:, None] - of[None])
        gradient[columns + levels] = (by_entry * steps).sum() * (1.0 - _sigmoid(agreement))
        gradient[columns + levels + 1] = 2.0 * on_diagonal.sum()
        off = (theta - self._mean) / self._deviation
        return loss + 0.5 * float(off @ off), gradient + off / self._deviation

    def _level_means(self, inverse: Floats) -> Floats:
        across = self._basis.T @ inverse
        return np.linalg.solve(across @ self._basis + 1e-8 * np.eye(len(self._levels)), across @ self._seen.values)

    def _condition(self, levels: int) -> None:
        of = self._seen.levels
        lengths, _, _, noise = self._kernel.parts(self.theta)
        self._between = self._kernel.between_levels(self.theta)
        covariance = _matern(_radius(self._apart, lengths)) * self._between[of[:, None], of[None]]
        variance = math.exp(2 * noise) * np.diag(self._between)[of]
        for jitter in _JITTER:
            try:
                self._root = cholesky(covariance + np.diag(variance + jitter * np.diag(covariance)), lower=True)
            except np.linalg.LinAlgError:
                continue
            break
        inverse = cho_solve((self._root, True), np.eye(len(of)))
        fitted = self._level_means(inverse)
        self._weights = inverse @ (self._seen.values - self._basis @ fitted)
        means: list[float] = []
        known = dict(zip(self._levels.tolist(), fitted.tolist(), strict=True))
        for level in range(levels):
            means.append(known[level] if level in known else means[-1] - _FALL if means else float(fitted[0]) + _FALL)
        self._means = np.array(means)


def _radius(apart: Floats, lengths: Floats) -> Floats:
    return np.sqrt(np.tensordot(np.exp(-2.0 * lengths), apart, 1) + 1e-12)


def _matern(radius: Floats) -> Floats:
    """Correlate by a Matern function, twice differentiable (nu = 5/2)."""
    scaled = _ROOT5 * radius
    correlation: Floats = (1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled)
    return correlation


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))
