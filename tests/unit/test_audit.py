"""Smoothing logs: what is clean stays unremarked, the faults of published logs are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, norm

from verifkit.analysis.confidence import clopper_pearson_lower
from verifkit.analysis.smoothing.attainable import Claim
from verifkit.analysis.smoothing.audit import Digits, Rounding, audit
from verifkit.analysis.smoothing.log import Row, mend, read_log, write_rows
from verifkit.analysis.smoothing.noise import Gaussian
from verifkit.errors import OptionError, SuiteError

Print = Callable[[float], str]


def significant(digits: int, mode: str = ROUND_FLOOR) -> Print:
    return lambda radius: str(Context(prec=digits, rounding=mode).create_decimal(Decimal(radius)))


def decimals(digits: int, mode: str = ROUND_FLOOR) -> Print:
    return lambda radius: str(Decimal(radius).quantize(Decimal(1).scaleb(-digits), rounding=mode))


def published(radius: float) -> str:
    """As the released logs print: three significant digits, to nearest, trailing zeros dropped."""
    return f"{radius:.3}"


def made(claim: Claim, to_text: Print, inputs: int = 200, seed: int = 0) -> list[Row]:
    """A log of inputs whose class probabilities spread from 1/2 to 1, by another quantile routine than the audit's."""
    rng, rows = np.random.default_rng(seed), []
    for idx in range(inputs):
        p = 1.0 if idx % 8 == 0 else float(norm.cdf(abs(rng.normal(1.8, 1.5))))
        count = int(rng.binomial(claim.draws, p))
        lower = float(beta.ppf(claim.alpha, count, claim.draws - count + 1))
        label = int(rng.integers(10))
        predict = label if rng.random() < 0.8 else (label + 1) % 10
        if lower < 0.5:
            rows.append(Row(idx, label, -1, Decimal("0.0"), False))
            continue
        radius = Decimal(to_text(claim.sigma * float(norm.ppf(lower))))
        rows.append(Row(idx, label, predict, radius, predict == label))
    return rows


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05])
@pytest.mark.parametrize(
    "to_text",
    [*(decimals(d) for d in (0, 1, 2, 3, 4, 6, 9, 13)), *(significant(d) for d in (1, 2, 3, 4, 8, 15)), repr],
)
def test_radii_rounded_down_to_any_digits_are_clean(alpha: float, to_text: Print) -> None:
    for sigma, n in ((0.25, 100_000), (1.0, 1000)):
        claim = Claim(sigma, n, alpha)
        found = audit(made(claim, to_text), claim)
        assert found.findings == ()
        assert found.claimed.whole
        assert alpha in {fit.alpha for fit in found.fitting} or not found.certified
        assert all(a.printed == a.recomputed >= a.dataset for a in found.accuracy)


def test_floats_cut_by_arithmetic_are_clean() -> None:
    """floor(r * 10^d) / 10^d, printed as Python prints a float: 1.0 where nothing is left behind the point."""
    claim = Claim(0.5, 100_000, 0.001)
    for d in (0, 1, 3, 6):
        rows = made(claim, lambda r, d=d: str(np.floor(r * 10**d) / 10**d))  # type: ignore[misc]
        assert audit(rows, claim).findings == ()


@pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("to_text", [published, significant(3, ROUND_HALF_EVEN), decimals(4, ROUND_HALF_EVEN)])
def test_rounding_to_nearest_is_found(sigma: float, to_text: Print) -> None:
    claim = Claim(sigma, 100_000, 0.001)
    rows = made(claim, to_text)
    found = audit(rows, claim)
    assert [f.what.split(": ")[1].split(" (")[0] for f in found.findings] == ["they were rounded to nearest"]
    assert found.claimed.whole
    assert found.claimed.rounding is Rounding.NEAREST
    flagged = set(found.findings[0].rows)
    assert flagged
    truth = {row.idx: exact for row, exact in zip(rows, made(claim, repr), strict=True)}
    assert all(row.radius > truth[row.idx].radius for row in rows if row.idx in flagged)


def test_the_faults_of_the_released_logs_are_found() -> None:
    """Claimed at .001, made at .01, three significant digits to nearest."""
    claimed = Claim(0.25, 100_000, 0.001)
    rows = made(replace(claimed, alpha=0.01), published, inputs=400)
    found = audit(rows, claimed)
    assert len(found.findings) == 2
    impossible, rounded = found.findings
    assert "cannot arise" in impossible.what
    assert "exceed the largest possible radius, 0.952864" in impossible.what
    assert f"{found.certified} fit alpha = 0.01" in impossible.what
    assert "rounded to nearest (alpha = 0.01)" in rounded.what
    assert found.claimed.matched < 0.9 * found.certified
    assert (found.fitting[0].alpha, found.fitting[0].digits) == (0.01, Digits.SIGNIFICANT)
    assert found.fitting[0].whole
    assert len(impossible.rows) == found.certified - found.claimed.matched


def test_certified_accuracy_is_recomputed_at_the_claimed_alpha() -> None:
    claimed, at = Claim(0.25, 100_000, 0.001), (0.25, 0.5, 0.75, 0.92, 0.96)
    made_at = {a: made(replace(claimed, alpha=a), published if a == 0.01 else repr, inputs=400) for a in (0.01, 0.001)}
    found = audit(made_at[0.01], claimed, radii=at)
    honest = audit(made_at[0.001], claimed, radii=at)  # of the same counts
    for said, true in zip(found.accuracy, honest.accuracy, strict=True):
        assert true.printed - 0.01 <= said.recomputed <= true.printed <= said.printed
        assert said.dataset == pytest.approx(max(0.0, said.recomputed - 3 / 400))
        assert said.simultaneous <= true.simultaneous <= true.printed
    assert found.accuracy[3].recomputed < found.accuracy[3].printed
    assert found.accuracy[4].recomputed == 0 < found.accuracy[4].printed
    assert found.accuracy[2].simultaneous > 0


def test_a_radius_rounded_up_is_found() -> None:
    claim = Claim(0.25, 100_000, 0.001)
    found = audit(made(claim, decimals(4, ROUND_CEILING)), claim)
    assert len(found.findings) == 1
    assert "rounded up" in found.findings[0].what


def test_an_alpha_that_nobody_usually_takes_is_inferred() -> None:
    claim = Claim(0.25, 100_000, 0.001)
    found = audit(made(replace(claim, alpha=0.003), decimals(5)), claim)
    assert [fit.alpha for fit in found.fitting] == [0.003]


def test_a_single_radius_beyond_the_largest_is_found() -> None:
    claim = Claim(0.25, 100_000, 0.001)
    rows = made(claim, decimals(4))
    rows[17] = replace(rows[17], radius=Decimal("0.9529"), predict=rows[17].label, correct=True)
    found = audit(rows, claim)
    assert [f.rows for f in found.findings] == [(17,)]


def test_books_that_do_not_balance_are_found() -> None:
    claim = Claim(0.25, 1000, 0.001)
    clean = made(claim, decimals(4))
    assert audit(clean, claim).findings == ()
    certified = next(k for k, row in enumerate(clean) if row.correct)
    wrong = list(clean)
    wrong[certified] = replace(clean[certified], correct=False)
    assert "label = predict" in audit(wrong, claim).findings[0].what
    wrong[certified] = replace(clean[certified], predict=-1, correct=False)
    assert "abstentions have a radius" in audit(wrong, claim).findings[0].what
    again = audit([*clean, clean[0]], claim)
    assert "more than once" in again.findings[0].what
    assert again.findings[0].rows == (0,)


def test_a_log_of_abstentions_is_clean() -> None:
    rows = [Row(k, 0, -1, Decimal("0.0"), False) for k in range(5)]
    found = audit(rows, Claim(0.25, 5, 0.001))
    assert (found.findings, found.fitting, found.certified) == ((), (), 0)
    assert [a.radius for a in found.accuracy] == [0.0]


def test_draws_too_few_to_certify_make_every_radius_impossible() -> None:
    found = audit([Row(0, 0, 0, Decimal("0.01"), True)], Claim(0.25, 5, 0.001))
    assert "exceed the largest possible radius, 0" in found.findings[0].what


def test_an_attainable_radius_is_that_of_its_count() -> None:
    claim = Claim(0.5, 1000, 0.01)
    counts = np.array([0, 1, 500, 540, 900, 999, 1000])
    for count, radius in zip(counts.tolist(), claim.radius(counts), strict=True):
        ours = Gaussian(0.5).radius(clopper_pearson_lower(count, 1000, 0.01)) if count else 0.0
        assert radius == pytest.approx(ours, rel=1e-9)
        assert ours <= radius
    found, there = claim.counts_within(claim.radius(counts[3:]), claim.radius(counts[3:]))
    assert there.all()
    assert found.tolist() == [540, 900, 999, 1000]
    found, there = claim.counts_within(claim.radius(counts[3:]) + 1e-9, claim.radius(counts[3:]) + 2e-9)
    assert not there.any()
    assert found.tolist() == [540, 900, 999, 1000]


@pytest.mark.parametrize(
    ("sigma", "n", "alpha", "match"),
    [
        (0.0, 10, 0.1, "sigma must be a positive"),
        (-1.0, 10, 0.1, "sigma must be a positive"),
        (float("nan"), 10, 0.1, "sigma must be a positive"),
        (1.0, 0, 0.1, "n must be at least 1"),
        (1.0, 10, 0.0, "strictly between 0 and 1"),
        (1.0, 10, 1.0, "strictly between 0 and 1"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused(sigma: float, n: int, alpha: float, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        Claim(sigma, n, alpha)


HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        (HEADER, "has no rows"),
        ("idx\tlabel\tpredict\tcorrect\ttime\n0\t1\t1\t1\t0\n", "no column radius"),
        ("0\t1\t1\t0.5\t1\t0:00:01\n", "no column idx, label"),
        (HEADER + "0\t1\t1\tabc\t1\t0:00:01\n", "line 2: radius is 'abc', not a number"),
        (HEADER + "0\t1\t1\t0.5\t1\t0:00:01\n\n1\tx\t1\t0.5\t1\t0:00:01\n", "line 4: label is 'x'"),
        (HEADER + "0\t1\t1\t-0.5\t1\t0:00:01\n", "radius is -0.5, not a number from 0 on"),
        (HEADER + "0\t1\t1\tnan\t1\t0:00:01\n", "radius is nan"),
        (HEADER + "0\t1\t1\tinf\t1\t0:00:01\n", "radius is inf"),
        (HEADER + "0\t1\t1\t1e999\t1\t0:00:01\n", "radius is 1e999"),
        (HEADER + "0\t1\t-2\t0.5\t0\t0:00:01\n", "predict is -2"),
        (HEADER + "0\t1\t1\t0.5\t2\t0:00:01\n", "correct is 2, not 0 to 1"),
        (HEADER + "0\t1\t1\t0.5\n", "line 2: 4 fields under 6 columns"),
    ],
)
def test_a_file_that_is_no_log_is_one_clear_error(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "log.tsv"
    path.write_text(text)
    with pytest.raises(SuiteError, match=match):
        read_log(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="cannot be read"):
        read_log(tmp_path / "nothing.tsv")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(SuiteError, match="cannot be read as text"):
        read_log(tmp_path / "binary")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    rows = [Row.certified(0, 3, 3, 0.95286439, 1.23456), Row.certified(1, 3, -1, 0.2, 75.0)]
    write_rows(path, rows[:1])
    write_rows(path, rows[1:])
    assert path.read_text() == HEADER + "0\t3\t3\t0.952864\t1\t0:00:01.235000\n1\t3\t-1\t0.0\t0\t0:01:15\n"
    assert read_log(path) == tuple(rows)
    crlf = tmp_path / "crlf.tsv"
    crlf.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_log(crlf) == tuple(rows)


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    write_rows(path, [Row.certified(0, 3, 3, 0.5, 1.0)])
    whole = path.read_bytes()
    path.write_bytes(whole + b"1\t3\t3\t0.")
    mend(path)
    assert path.read_bytes() == whole
    mend(path)
    assert path.read_bytes() == whole
