"""Is a smoothing log what it says it is? Its radii against those that n draws at alpha can certify.

With n known a certified radius takes one of at most n + 1 values (`attainable`), so each printed one must be the
rounding of one of them. A printed radius stands for every value that its digits could have come from: rounded down, to
nearest or up, to so many decimals or significant digits, trailing zeros perhaps not printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from verifkit.analysis.smoothing.attainable import Claim
from verifkit.analysis.smoothing.ledger import accuracy_lower, holm, p_values
from verifkit.analysis.smoothing.log import ABSTAIN, Row
from verifkit.radius import shorten

ALPHAS = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 5e-4, 1e-4, 1e-5, 1e-6)
"""Tried besides the claimed one."""

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
"""The usual ones of certified accuracy tables."""


class Rounding(StrEnum):
    DOWN = "down"
    NEAREST = "to nearest"
    UP = "up"


class Digits(StrEnum):
    """What all radii of a log have in common. SHOWN: nothing; each is taken by its own digits."""

    DECIMALS = "decimals"
    SIGNIFICANT = "significant digits"
    SHOWN = "digits as shown"


@dataclass(frozen=True, eq=False)
class Fit:
    """How the radii of a log fit one alpha under one reading of their digits.

    places: how many digits the reading takes them to have; None where each row has its own.
    fits: per certified row, whether an attainable radius rounds to it. counts: the least number of draws that the row
    can come from; where it does not fit, the largest that stays below it.
    """

    alpha: float
    rounding: Rounding
    digits: Digits
    places: int | None
    fits: np.ndarray
    counts: np.ndarray

    @property
    def matched(self) -> int:
        return int(np.count_nonzero(self.fits))

    @property
    def whole(self) -> bool:
        return bool(self.fits.all())


@dataclass(frozen=True)
class Finding:
    """Something wrong with a log. rows: idx of each row concerned."""

    what: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Accuracy:
    """Certified accuracy at one radius: as printed; recomputed at the claimed alpha from the least counts that the
    radii can come from; what of that holds for the data set with probability 1 - rho; simultaneous, by Holm at alpha.
    """

    radius: float
    printed: float
    recomputed: float
    dataset: float
    simultaneous: float


@dataclass(frozen=True, eq=False)
class Audit:
    """claimed: the fit at the claimed alpha. fitting: of the alphas tried, each that fits all rows, or the best."""

    claim: Claim
    rows: int
    certified: int
    abstained: int
    claimed: Fit
    fitting: tuple[Fit, ...]
    findings: tuple[Finding, ...]
    accuracy: tuple[Accuracy, ...]
    rho: float


def audit(rows: Sequence[Row], claim: Claim, *, rho: float = 0.001, radii: Sequence[float] | None = None) -> Audit:
    """Audits the rows of a log against its claim. rho: the chance that the data-set column is wrong."""
    certified = [row for row in rows if row.radius > 0]
    printed = _Printed(certified)
    claimed = printed.best(claim)
    fitting = _fitting(printed, claim, claimed)
    explained = fitting[0] if fitting and not claimed.whole else claimed
    counts = claimed.counts if claimed.whole or not fitting else np.min([fit.counts for fit in fitting], axis=0)
    findings = [*_impossible(certified, claim, claimed, fitting), *_overstating(certified, claim, printed, explained)]
    return Audit(
        claim,
        len(rows),
        len(certified),
        sum(row.predict == ABSTAIN for row in rows),
        claimed,
        fitting,
        (*findings, *_bookkeeping(rows)),
        tuple(_accuracy(rows, claim, counts, rho, r) for r in _usual(certified, radii)),
        rho,
    )


class _Printed:
    """The printed radii as numbers, with the unit that their last digit counts under each reading."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.values = np.array([float(row.radius) for row in rows])
        bare = [row.radius.normalize().as_tuple() for row in rows]  # trailing zeros may have been dropped, or added
        last = np.array([int(t.exponent) for t in bare], dtype=float)
        shown = np.array([len(t.digits) for t in bare], dtype=float)
        first = last + shown  # the place above the first digit
        self.places = {
            Digits.DECIMALS: int(-min(last.min(initial=0.0), 0.0)),
            Digits.SIGNIFICANT: int(shown.max(initial=1.0)),
        }
        self.units = {
            Digits.DECIMALS: 10.0 ** np.full(last.size, -float(self.places[Digits.DECIMALS])),
            Digits.SIGNIFICANT: 10.0 ** (first - self.places[Digits.SIGNIFICANT]),
            Digits.SHOWN: 10.0**last,
        }

    def fit(self, claim: Claim, rounding: Rounding, digits: Digits) -> Fit:
        unit = self.units[digits]
        below = {Rounding.DOWN: 0.0, Rounding.NEAREST: 0.5, Rounding.UP: 1.0}[rounding]
        texts, back = np.unique(np.stack([self.values, unit]), axis=1, return_inverse=True)
        low = texts[0] - below * texts[1]
        counts, fits = claim.counts_within(np.where(low > 0, low, np.finfo(float).tiny), low + texts[1])
        return Fit(
            claim.alpha, rounding, digits, self.places.get(digits), fits[back.reshape(-1)], counts[back.reshape(-1)]
        )

    def best(self, claim: Claim, roundings: Sequence[Rounding] = tuple(Rounding)) -> Fit:
        """The reading that most rows fit; of equals the first: down before nearest before up, strict before loose."""
        found = [self.fit(claim, rounding, digits) for rounding in roundings for digits in Digits]
        whole = next((fit for fit in found if fit.whole), None)
        strict = [fit for fit in found if fit.digits is not Digits.SHOWN]
        return whole or max(strict, key=lambda fit: fit.matched)


def _fitting(printed: _Printed, claim: Claim, claimed: Fit) -> tuple[Fit, ...]:
    if not printed.values.size:
        return ()
    alphas = [a for a in dict.fromkeys((*ALPHAS, *_guessed(printed, claim))) if a != claim.alpha]
    tried = [claimed, *(printed.best(replace(claim, alpha=alpha)) for alpha in alphas)]
    most = max(fit.matched for fit in tried)
    order = list(Rounding)
    return tuple(sorted((f for f in tried if f.matched == most), key=lambda f: (order.index(f.rounding), -f.alpha)))


def _guessed(printed: _Printed, claim: Claim) -> list[float]:
    """The alpha of two digits or fewer at which all but j draws agreed on the largest radius, for small j."""
    from scipy.special import betainc, ndtr

    top, unit = printed.values.max(), printed.units[Digits.SIGNIFICANT][printed.values.argmax()]
    wins = claim.draws - np.arange(min(10, claim.draws), dtype=float)
    tails = [betainc(wins, claim.draws - wins + 1.0, ndtr(r / claim.sigma)) for r in (top - unit / 2, top + unit)]
    rounded = [[float(f"{v:.{d}e}") for d in (0, 1)] for v in np.sqrt(tails[0] * tails[1])]
    return [
        next(a for a in pair if low <= a <= high)
        for pair, low, high in zip(rounded, *tails, strict=True)
        if any(low <= a <= high and 0 < a < 1 for a in pair)
    ]


def _impossible(certified: Sequence[Row], claim: Claim, claimed: Fit, fitting: tuple[Fit, ...]) -> list[Finding]:
    if claimed.whole:
        return []
    at = [row for row, fits in zip(certified, claimed.fits, strict=True) if not fits]
    what = (
        f"{len(at)} of {len(certified)} radii cannot arise from n = {claim.draws} draws at alpha = {claim.alpha:g}, "
        f"sigma = {claim.sigma:g}, however they were rounded"
    )
    beyond = sum(float(row.radius) > claim.largest for row in at)
    if beyond:
        what += f"; {beyond} exceed the largest possible radius, {shorten(claim.largest, 6)}"
    if fitting and fitting[0].matched > claimed.matched:
        what += f"; {fitting[0].matched} fit alpha = {fitting[0].alpha:g}"
    return [Finding(what, tuple(row.idx for row in at))]


def _overstating(certified: Sequence[Row], claim: Claim, printed: _Printed, explained: Fit) -> list[Finding]:
    """Rows that the best explanation had to round up: rounding down cannot have printed them."""
    if not certified:
        return []
    actual = replace(claim, alpha=explained.alpha)
    down = printed.best(actual, (Rounding.DOWN,))
    over = explained.fits & ~down.fits
    if explained.rounding is Rounding.DOWN or not over.any():
        return []
    excess = (printed.values - actual.radius(down.counts))[over].max()
    what = (
        f"{np.count_nonzero(over)} of {len(certified)} radii are larger than what was certified: they were rounded "
        f"{explained.rounding} (alpha = {actual.alpha:g}), by up to {shorten(float(excess), 3, up=True)}"
    )
    return [Finding(what, tuple(row.idx for row, bad in zip(certified, over, strict=True) if bad))]


def _bookkeeping(rows: Sequence[Row]) -> list[Finding]:
    found = []
    flagged = tuple(row.idx for row in rows if row.correct != (row.predict == row.label))
    if flagged:
        found.append(Finding(f"{len(flagged)} rows have a 'correct' that is not label = predict", flagged))
    silent = tuple(row.idx for row in rows if row.predict == ABSTAIN and row.radius > 0)
    if silent:
        found.append(Finding(f"{len(silent)} abstentions have a radius", silent))
    repeated = tuple(idx for idx, times in Counter(row.idx for row in rows).items() if times > 1)
    if repeated:
        what = f"{len(repeated)} inputs were certified more than once: each further attempt spends alpha again"
        found.append(Finding(what, repeated))
    return found


def _usual(certified: Sequence[Row], radii: Sequence[float] | None) -> Sequence[float]:
    if radii:
        return radii
    largest = max((float(row.radius) for row in certified), default=0.0)
    return [r for r in RADII if r <= largest] or [0.0]


def _accuracy(rows: Sequence[Row], claim: Claim, least: np.ndarray, rho: float, radius: float) -> Accuracy:
    """least: per certified row, the least count that its radius can come from."""
    inputs = len(rows)
    printed = np.array([float(row.radius) for row in rows])
    correct = np.array([row.correct for row in rows])
    counts = np.zeros(inputs, dtype=np.int64)
    counts[printed > 0] = least
    due = claim.radius(counts)  # of these counts at the claimed alpha
    safe = np.where(due >= printed * (1 - 1e-12), printed, due)
    sure = int(np.count_nonzero(correct & (safe >= radius)))
    together = holm(p_values(counts, claim.draws, claim.sigma, radius), claim.alpha)
    return Accuracy(
        radius,
        float(np.mean(correct & (printed >= radius))),
        sure / inputs,
        accuracy_lower(sure, inputs, claim.alpha, rho),
        float(np.mean(correct & together)),
    )
