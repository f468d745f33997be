"""
The statistics behind a verdict: differences with intervals, Holm's correction, paired scores.

Nothing here knows what a run is. Functions take arrays; the last axis holds the seeds (or the questions), the
axes before it are independent comparisons. All intervals are two-sided, 95%.

    welch([3.281, 3.283, 3.280], [3.275, 3.274, 3.277])   difference of two samples -> Estimate
    paired(losses_a, losses_b)                            of the same seeds or questions -> Estimate
    holm([.01, .04, .03])                                 p values of one family, corrected: [.03 .06 .06]
    mcnemar(right_a, right_b)                             (only a right, only b right, exact p)
    weighted_fit(x, y, error).term(1)                     a least-squares fit -> its slopes, predict(x)

Welch's t keeps its promise here: equal schedules are called different in 2.3, 3.5, 4.5% of the cases with 2,
3, 5 seeds a side, where the rule of two standard errors does so in 18, 12, 8%.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special  # not scipy.stats, which takes a second to import

LEVEL = 0.95  # of every interval
SIGNIFICANT = 1 - LEVEL

@dataclass(frozen=True)
class Interval:
    """A number and its 95% interval; nan for an end that isn't known."""

    value: float
    low: float
    high: float

@dataclass(frozen=True)
class Estimate(Interval):
    """A number and how well it is known. With too few values all but `value` are nan."""

    se: float  # standard error
    df: float  # degrees of freedom of the t distribution; inf where the deviation is known (z)
    p: float  # of "the true value is 0"

def welch(a, b, sigma: float | None = None) -> Estimate:
    """mean(a) - mean(b), for samples of shape (..., n) that need not have one size or one deviation.

    A known deviation `sigma` of single values makes it a z test, which needs one value a side only.
    Source: Welch 1938, Satterthwaite 1946.
    """
    value = np.mean(a, axis=-1) - np.mean(b, axis=-1)
    if sigma is not None:
        variance = sigma**2 / np.shape(a)[-1] + sigma**2 / np.shape(b)[-1]
        return estimate(value, np.full(value.shape, variance), np.inf)
    of_a, of_b = variance_of_mean(a), variance_of_mean(b)
    squares = of_a**2 / max(1, np.shape(a)[-1] - 1) + of_b**2 / max(1, np.shape(b)[-1] - 1)
    with np.errstate(divide='ignore', invalid='ignore'):
        df = (of_a + of_b) ** 2 / squares
    return estimate(value, of_a + of_b, df)

def paired(a, b) -> Estimate:
    """Mean of a - b over the same seeds or questions, shape (..., n): what one has in common with itself
    drops out."""
    difference = np.asarray(a, float) - np.asarray(b, float)
    return estimate(difference.mean(axis=-1), variance_of_mean(difference), difference.shape[-1] - 1)

def variance_of_mean(values) -> np.ndarray:
    """Squared standard error of the mean; nan for one value, which says nothing about its spread."""
    n = np.shape(values)[-1]
    return np.var(values, axis=-1, ddof=1) / n if n > 1 else np.full(np.shape(values)[:-1], np.nan)

def estimate(value, variance, df) -> Estimate:
    """A value of known sampling variance, by Student's t with `df` degrees of freedom."""
    se = np.sqrt(variance)
    # Without any spread df is 0/0 and t is 0/0 or x/0: p is 1 for no difference, else 0.
    df = np.where(variance == 0, 1.0, np.where(np.isnan(variance), np.nan, df))
    with np.errstate(divide='ignore', invalid='ignore'):
        t = np.where(value == 0, 0.0 * se, np.abs(value) / se)
    p = 2 * special.stdtr(df, -t)
    half = special.stdtrit(df, (1 + LEVEL) / 2) * se
    numbers = (value, value - half, value + half, se, df, p)
    return Estimate(*(np.asarray(number)[()] for number in numbers))  # [()]: a single one as a number

def holm(p, tests: int = 0) -> np.ndarray:
    """p values of one family, (..., m), corrected: the chance of one false alarm or more stays below the
    level.

    A nan is no test: it stays nan and doesn't count. `tests`: the size of the family if more are planned
    than have a p by now. Source: Holm 1979.
    """
    p = np.atleast_1d(np.asarray(p, float))
    known = np.sum(~np.isnan(p), axis=-1, keepdims=True)
    order = np.argsort(p, axis=-1)  # nan last
    ranked = np.take_along_axis(p, order, axis=-1)
    scaled = ranked * np.maximum(1, np.maximum(known, tests) - np.arange(p.shape[-1]))
    corrected = np.minimum(1, np.maximum.accumulate(scaled, axis=-1))
    result = np.empty_like(p)
    np.put_along_axis(result, order, corrected, axis=-1)
    return result

def mcnemar(a, b) -> tuple[int, int, float]:
    """Two scorings of the same questions, right or wrong: (only a right, only b right, exact two-sided p)."""
    only_a = int(np.sum(np.greater(a, b)))
    only_b = int(np.sum(np.greater(b, a)))
    # A fair coin's two tails, which are alike; both hold the middle.
    tail = special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)
    return only_a, only_b, min(1.0, 2 * float(tail))

@dataclass(frozen=True)
class Fit:
    """y = x @ slopes + noise, fitted by weighted least squares."""

    slopes: np.ndarray  # (k,)
    covariance: np.ndarray  # (k, k)
    df: int
    noise: float  # variance of a further y of the mean error

    def term(self, k: int) -> Estimate:
        return estimate(self.slopes[k], self.covariance[k, k], self.df)

    def predict(self, x: np.ndarray) -> Estimate:
        """A further y at x, (k,); the interval holds its own noise, too."""
        return estimate(x @ self.slopes, x @ self.covariance @ x + self.noise, self.df)

def weighted_fit(x: np.ndarray, y: np.ndarray, error: np.ndarray) -> Fit:
    """Fit y (n,) by the columns of x (n, k); `error` (n,): relative sizes of the errors of y.

    Their common scale is estimated from what the fit leaves, so n must be above k.
    """
    weights = 1 / np.asarray(error) ** 2
    inverse = np.linalg.inv(x.T @ (weights[:, None] * x))
    slopes = inverse @ (x.T @ (weights * y))
    df = len(y) - x.shape[1]
    scale = float(np.sum(weights * (y - x @ slopes) ** 2)) / df
    return Fit(slopes, scale * inverse, df, scale / float(np.mean(weights)))
