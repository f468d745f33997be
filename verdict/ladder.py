"""
A baseline's loss as a function of compute: one run's own curve, or a line through several budgets.

    ladder = Ladder('full depth', rungs)              finished groups of one arm, one per budget
    reference = ladder.reference('flops')
    losses, parts = reference.at([1e17, 2e17])        loss at these FLOPs, and the samples that it is made of

Loss is interpolated in the logarithm of the compute: through two rungs a straight line (which overrates a
run between them, by up to 2% for rungs a factor 2 apart and 7% for 4 at an exponent of .3, by 5% and 22% at
.84, which cpu_growth.py's full depth has), through three the curve E + A C^-alpha that meets them, through
four or more its least squares fit. Beyond the first and the last rung nothing is guessed.
"""

import dataclasses
import math

import numpy as np

from verdict import old_stats as stats
from verdict.old_runs import TUNED, Group

GRID = 60  # places on the compute axis that are searched for a loss, besides the evaluations
FIT_FROM = 4  # rungs; three have a curve that meets them exactly


@dataclasses.dataclass
class Ladder:
    """The finished groups of a baseline arm, one per budget, ascending."""

    arm: str
    rungs: list[Group]

    @property
    def decays(self) -> bool:
        return self.rungs[0].config.lr_schedule != 'constant'

    def nearest(self, group: Group) -> Group:
        """The rung of the group's own budget, else the one whose budget is nearest by ratio."""

        def distance(rung):
            return abs(math.log(rung.budget / group.budget))

        return min(self.rungs, key=distance)

    def reference(self, axis: str) -> 'Reference':
        """The ladder's loss on one axis."""
        # At a constant learning rate every point of the longest run is the end of a shorter one.
        longest = self.rungs[-1]
        is_alike = all(same_tuning(rung, longest) for rung in self.rungs)
        if (
            not self.decays
            and is_alike
            and len(longest.judged) == max(len(rung.judged) for rung in self.rungs)
        ):
            return Reference([longest], axis)
        return Reference(self.rungs, axis)


def same_tuning(a: Group, b: Group) -> bool:
    return all(getattr(a.config, name) == getattr(b.config, name) for name in TUNED)


class Reference:
    """A baseline's loss for any compute on one axis: one rung's own curve, or a line through several
    rungs."""

    def __init__(self, rungs: list[Group], axis: str):
        self.rungs = sorted(rungs, key=lambda rung: rung.end(axis))
        self.axis = axis
        self.compute = np.array([rung.end(axis) for rung in self.rungs])
        self.high = self.compute[-1]
        # One rung is read along its curve, several at their ends only.
        self.low = self.compute[0]
        if len(self.rungs) == 1:
            self.low = self.rungs[0].start(axis)
        self.finals = [stats.part(1.0, rung.finals) for rung in self.rungs]
        self.means = np.array([rung.finals.mean() for rung in self.rungs])
        self.law = self._fit() if len(self.rungs) >= FIT_FROM - 1 else None

    def _fit(self) -> stats.PowerLaw | None:
        law = stats.fit_power_law(self.compute, self.means, [part.n for part in self.finals])
        # Three losses that no such curve meets (the second step down is the bigger one) are joined by
        # straight lines.
        if law and len(self.rungs) < FIT_FROM:
            off = np.abs(law.residuals).max()
            if off > 1e-6 * np.ptp(self.means):
                return None
        return law

    def at(self, x) -> tuple[np.ndarray, list[stats.Part]]:
        """(loss at compute x, the samples that it is made of). x of any shape, within [low, high]."""
        x = np.asarray(x, float)
        if len(self.rungs) == 1:
            losses = self.rungs[0].losses_at(self.axis, x)
            return losses.mean(axis=-1), [stats.part(1.0, losses)]
        if self.law:
            weights = self.law.weights(x)
            value = self.law.at(x)
        else:
            logs = np.log(self.compute)
            weights = []
            for unit in np.eye(len(self.rungs)):  # interpolated, a unit vector gives its rung's share
                weights.append(np.interp(np.log(x), logs, unit))
            value = np.tensordot(self.means, weights, axes=1)
        parts = []
        for weight, final in zip(weights, self.finals):
            # A rung that doesn't count here must not ask for seeds here either.
            variance = np.where(weight == 0, 0.0, final.variance)
            parts.append(stats.Part(weight, variance, final.n))
        return value, parts

    def places(self) -> np.ndarray:
        """Where to look for a loss: a fine grid, and every evaluation in between."""
        evaluations = [self.compute]
        if len(self.rungs) == 1:
            evaluations = own_places(self.rungs[0], self.axis)
        return grid_of(self.low, self.high, evaluations)

    def slope(self, x: float) -> float:
        """d loss / d log compute around x; nan where the reference is a single point."""
        # Over a stretch, not at the point: a single evaluation is noisy.
        a = max(self.low, x / 1.2)
        b = min(self.high, x * 1.2)
        if not a < b:
            return math.nan
        (loss_a, loss_b), _ = self.at(np.array([a, b]))
        return (loss_b - loss_a) / math.log(b / a)


def grid_of(low: float, high: float, evaluations: list[np.ndarray]) -> np.ndarray:
    """Ascending places from low to high: both ends, the evaluations in between, and others by equal
    ratios."""
    logs = np.linspace(math.log(low), math.log(high), GRID)
    inner = np.exp(logs[1:-1])  # the ends themselves are exact
    places = np.unique(np.concatenate([[low, high], inner, *evaluations]))
    return places[(places >= low) & (places <= high)]


def own_places(group: Group, axis: str) -> list[np.ndarray]:
    """The evaluations of a group's seeds on an axis."""
    places = []
    for curve in group.judged:
        x, _ = curve.points(axis)
        places.append(x + group.sunk.get(axis, 0))
    return places
