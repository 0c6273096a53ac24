"""Every lowered operator with every accepted attribute, alone and in a residual block: bounds hold samples."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from tests.unit.onnx_cases import CASES
from verifkit.io.onnx import model_from_bytes
from verifkit.testing.sampled_bounds import check_bounds_contain_samples

RADIUS = 0.05


def check(operator: str, step: int) -> int:
    """Bounds on a small box around a random point contain 1000 sampled outputs; returns how many models were tried."""
    tried = 0
    for number, case in enumerate(CASES[operator][::step]):
        for residual in (False, True):
            name = f"{operator} {number * step} {case}"
            model = model_from_bytes(case.build(residual=residual), name)
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            center = rng.standard_normal(model.n_inputs)
            widths = check_bounds_contain_samples(model, center, RADIUS, seed=tried)
            assert np.isfinite(widths.interval), name
            assert np.isfinite(widths.crown), name
            tried += 1
    return tried


@pytest.mark.parametrize("operator", CASES)
def test_some_networks_are_bounded(operator: str) -> None:
    assert check(operator, max(1, len(CASES[operator]) // 4)) >= 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operator", CASES)
def test_every_network_is_bounded(operator: str) -> None:
    assert check(operator, 1) == 2 * len(CASES[operator])
