"""
The statistics behind a verdict: differences with intervals, Holm's correction, paired scores, the ladder.

Nothing here knows what a run is. Every function takes arrays, and most work on whole batches at once: the
last axis holds the seeds (or the questions), the axes before it are independent comparisons. All intervals
are two-sided, 95%.

    welch([3.281, 3.283, 3.280], [3.275, 3.274, 3.277])   difference -> Estimate(value, se, df, low, high, p)
    holm([.01, .04, .03])                                 p values of one family, corrected: [.03 .06 .06]
    paired(bits_a, bits_b)                                difference on the same questions -> Estimate
    mcnemar(right_a, right_b)                             (only a right, only b right, exact p)
    detectable(sd, 3, 3, tests=1)                         the smallest difference that comes out as clear
    fit_power_law(compute, loss)                          E + A C^-alpha -> PowerLaw

Welch's t keeps its promise here: equal schedules are called different in 2.3, 3.5, 4.5% of the cases with 2,
3, 5 seeds a side, where the rule of two standard errors does so in 18, 12, 8%.
"""

import dataclasses
import math

import numpy as np
from scipy import optimize, special
from scipy import stats as scipy_stats

LEVEL = 0.95  # of every interval
SIGNIFICANT = 1 - LEVEL  # "clear" means a corrected p below this
POWER = 0.8  # "four times in five"
ALPHA_BOUNDS = (0.01, 3.0)  # exponents to search; losses of language models have .05 to .5


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and how well it is known. With too few values all but `value` are nan."""

    value: float
    se: float  # standard error
    df: float  # degrees of freedom of the t distribution; inf where the deviation is known (z)
    low: float  # 95% interval
    high: float
    p: float  # of "the true value is 0"


NOTHING = Estimate(*[math.nan] * 6)


@dataclasses.dataclass(frozen=True)
class Part:
    """One independent sample's share in a contrast: its mean enters with `weight`."""

    weight: float
    variance: float  # sample variance of single values, ddof=1; nan for one value
    n: int


def part(weight, values) -> Part:
    """The share of a sample of shape (..., n)."""
    values = np.asarray(values, float)
    n = values.shape[-1]
    if n == 1:  # one value says nothing about its spread
        return Part(weight, np.full(values.shape[:-1], np.nan), n)
    return Part(weight, values.var(axis=-1, ddof=1), n)


def contrast(value, parts: list[Part], sigma: float | None = None) -> Estimate:
    """An estimate that is a weighted sum of independent means, with Satterthwaite's degrees of freedom.

    Two parts with weights 1 and -1 are Welch's t. A known deviation `sigma` of single values makes it a z
    test, which needs one value a side only. Shapes broadcast. Source: Welch 1938, Satterthwaite 1946.
    """
    value = np.asarray(value, float)
    variance = np.zeros_like(value)
    squares = np.zeros_like(value)
    for one in parts:
        single = one.variance if sigma is None else sigma**2
        of_mean = np.square(one.weight) * single / one.n
        variance = variance + of_mean
        if sigma is None and one.n > 1:
            squares = squares + of_mean**2 / (one.n - 1)
    se = np.sqrt(variance)
    # Without any spread the ratios are 0/0 or x/0; the limits are what we want: p is 1 for no difference,
    # else 0.
    with np.errstate(divide='ignore', invalid='ignore'):
        if sigma is None:
            df = variance**2 / squares
            df = np.where(variance == 0, 1.0, df)
        else:
            df = np.where(np.isnan(variance), np.nan, np.inf)
        t = np.where(value == 0, 0.0 * se, np.abs(value) / se)
        p = 2 * special.stdtr(df, -t)
    half = special.stdtrit(df, (1 + LEVEL) / 2) * se
    numbers = (value, se, df, value - half, value + half, p)
    return Estimate(*(number[()] for number in numbers))  # [()]: a single one as a number, not as an array


def welch(a, b, sigma: float | None = None) -> Estimate:
    """mean(a) - mean(b), for samples of shape (..., n) that need not have one size or one deviation."""
    difference = np.mean(a, axis=-1) - np.mean(b, axis=-1)
    return contrast(difference, [part(1.0, a), part(-1.0, b)], sigma)


def holm(p) -> np.ndarray:
    """p values of one family, (..., m), corrected: the chance of one false alarm or more stays below the
    level.

    A nan is no test: it stays nan and doesn't count. Source: Holm 1979.
    """
    p = np.atleast_1d(np.asarray(p, float))
    tests = np.sum(~np.isnan(p), axis=-1, keepdims=True)
    order = np.argsort(p, axis=-1)  # nan last
    ranked = np.take_along_axis(p, order, axis=-1)
    scaled = ranked * np.maximum(1, tests - np.arange(p.shape[-1]))
    corrected = np.minimum(1, np.maximum.accumulate(scaled, axis=-1))
    result = np.empty_like(p)
    np.put_along_axis(result, order, corrected, axis=-1)
    return result


def paired(a, b) -> Estimate:
    """Mean of a - b over the same questions, shape (n,): what one question has in common with itself drops
    out."""
    difference = np.asarray(a, float) - np.asarray(b, float)
    return contrast(difference.mean(axis=-1), [part(1.0, difference)])


def mcnemar(a, b) -> tuple[int, int, float]:
    """Two scorings of the same questions, right or wrong: (only a right, only b right, exact two-sided p)."""
    a = np.asarray(a, bool)
    b = np.asarray(b, bool)
    only_a = int(np.sum(a & ~b))
    only_b = int(np.sum(b & ~a))
    if only_a + only_b == 0:
        return 0, 0, 1.0
    return only_a, only_b, float(scipy_stats.binomtest(only_a, only_a + only_b).pvalue)


def critical(df, tests: int = 1):
    """Differences from so many standard errors on are clear, whatever the other `tests` - 1 of the family
    give."""
    return special.stdtrit(df, 1 - SIGNIFICANT / tests / 2)


def detectable(sd: float, n_a: int, n_b: int, tests: int = 1, known: bool = False) -> tuple[float, float]:
    """(the smallest observed difference that is clear; the true difference that is found four times in five).

    `sd` is the deviation of single values, `tests` the size of the family that Holm corrects for: the worst
    of it is taken. `known`: sd is given, not estimated.
    """
    se = sd * math.sqrt(1 / n_a + 1 / n_b)
    df = math.inf if known else n_a + n_b - 2
    if df < 1:
        return math.nan, math.nan
    needed = float(critical(df, tests))
    if known:
        return needed * se, (needed + float(special.ndtri(POWER))) * se

    def missing(shift):  # power at a true difference of `shift` standard errors, minus the one that is wanted
        return scipy_stats.nct.sf(needed, df, shift) - POWER

    return needed * se, float(optimize.brentq(missing, 0, 4 * needed)) * se


# ------------------------------------------------------------------------------------------------------------
# the ladder


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """L(C) = E + A C^-alpha through or near some rungs (compute, mean loss)."""

    E: float
    A: float
    alpha: float
    compute: np.ndarray  # (K,) of the rungs
    n: np.ndarray  # (K,) seeds of each rung, the weights of the fit
    residuals: np.ndarray  # (K,) mean loss minus the curve

    def at(self, compute):
        return self.E + self.A * np.asarray(compute, float) ** -self.alpha

    def weights(self, compute) -> np.ndarray:
        """d L(compute) / d mean loss of each rung, (K, ...): how much a rung's noise moves the curve there.

        The linearization of least squares, j (J'WJ)^-1 J'W, with the columns of J for E, A and alpha.
        Compute counts in units of its geometric mean: else the columns differ by twenty orders of magnitude.
        """
        unit = np.exp(np.mean(np.log(self.compute)))
        jacobian = self._columns(self.compute / unit)
        root = np.sqrt(self.n)
        hat = np.linalg.pinv(jacobian * root[:, None]) * root
        columns = self._columns(np.asarray(compute, float) / unit)
        return np.moveaxis(columns @ hat, -1, 0)

    def _columns(self, z):
        power = z**-self.alpha
        return np.stack([np.ones_like(z), power, -power * np.log(z)], axis=-1)

    def lack_of_fit(self, variances) -> float:
        """p of an F test: do the rungs lie off the curve by more than their seeds scatter? nan where none
        can say.

        `variances` (K,) are the rungs' sample variances over seeds.
        """
        df = len(self.compute) - 3
        error_df = float(np.sum(self.n - 1))
        squares = (self.n - 1) * np.nan_to_num(variances)
        pooled = float(np.sum(squares)) / max(1.0, error_df)
        if df < 1 or error_df < 1 or pooled == 0:
            return math.nan
        off = float(np.sum(self.n * self.residuals**2)) / df
        return float(special.fdtrc(df, error_df, off / pooled))


def fit_power_law(compute, loss, n=None) -> PowerLaw | None:
    """The least squares fit of E + A C^-alpha to three rungs (exact) or more; None where losses don't fall
    that way.

    For each exponent the best E and A are a straight line's, so that only alpha is searched for: no starting
    values, no failed convergence. Weights are the seeds `n` of each rung.
    """
    compute = np.asarray(compute, float)
    loss = np.asarray(loss, float)
    n = np.ones(len(loss)) if n is None else np.asarray(n, float)
    unit = np.exp(np.mean(np.log(compute)))
    z = compute / unit

    def line(log_alpha):
        power = z ** -math.exp(log_alpha)
        center = np.average(power, weights=n)
        away = power - center
        slope = np.sum(n * away * loss) / np.sum(n * away**2)
        return slope, np.average(loss, weights=n) - slope * center, power

    def squares(log_alpha):
        slope, height, power = line(log_alpha)
        return np.sum(n * (loss - height - slope * power) ** 2)

    # A coarse scan finds the valley, Brent's method its bottom.
    bounds = [math.log(alpha) for alpha in ALPHA_BOUNDS]
    grid = np.linspace(*bounds, 60)
    best = int(np.argmin([squares(point) for point in grid]))
    left = grid[max(0, best - 1)]
    right = grid[min(len(grid) - 1, best + 1)]
    found = optimize.minimize_scalar(squares, bounds=(left, right), method='bounded',
                                     options={'xatol': 1e-10})
    A, E, power = line(found.x)
    if not A > 0:
        return None
    alpha = math.exp(found.x)
    residuals = loss - E - A * power
    return PowerLaw(float(E), float(A * unit**alpha), alpha, compute, n, residuals)
