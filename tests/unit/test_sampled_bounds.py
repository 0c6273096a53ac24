"""The check of bounds against samples: it passes sound bounds, and catches whatever is off, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from verifkit.io.onnx import model_from_network
from verifkit.model import Model
from verifkit.network import dense_network
from verifkit.testing import sampled_bounds
from verifkit.testing.sampled_bounds import check_bounds_contain_samples

CENTER, RADIUS = np.array([0.25, -0.5, 0.125]), 0.25


@pytest.fixture(scope="module")
def model() -> Model:
    rng = np.random.default_rng(5)
    weights = [rng.standard_normal(s) for s in ((6, 3), (5, 6), (2, 5))]
    network = dense_network(weights, [rng.standard_normal(len(w)) for w in weights])
    return model_from_network(network, "dense")


def test_sound_bounds_pass(model: Model) -> None:
    widths = check_bounds_contain_samples(model, CENTER, RADIUS)
    assert 0 < widths.sampled <= widths.crown <= widths.interval < np.inf
    assert widths == check_bounds_contain_samples(model, CENTER.reshape(1, 3), [RADIUS] * 3)


def test_a_point_passes(model: Model) -> None:
    assert check_bounds_contain_samples(model, CENTER, 0.0).interval < 1e-12


def narrowed(bounds: Any, index: int) -> Any:
    """The bounds with those of one node cut by a millionth of their width."""
    lower, upper = bounds[index]
    return [*bounds[:index], (lower, upper - 1e-6 * (upper - lower)), *bounds[index + 1 :]]


@pytest.mark.parametrize("index", [1, 2, 3])
def test_one_intermediate_bound_is_off(model: Model, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Corners are sampled, so that the first layer's bounds, which are exact, may not lose anything."""
    real = sampled_bounds.analyse

    def wrong(*arguments: Any, **named: Any) -> Any:
        found = real(*arguments, **named)
        shrunk = [
            (low, high - 0.6 * (high - low)) if k == index else (low, high)
            for k, (low, high) in enumerate(found.bounds)
        ]
        return replace(found, bounds=shrunk)

    monkeypatch.setattr(sampled_bounds, "analyse", wrong)
    with pytest.raises(AssertionError, match=f"CROWN's intermediate bounds of node {index} "):
        check_bounds_contain_samples(model, CENTER, RADIUS)


def test_a_millionth_is_noticed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sampled_bounds.propagate
    monkeypatch.setattr(sampled_bounds, "propagate", lambda *a: narrowed(real(*a), 1))
    with pytest.raises(AssertionError, match=r"interval's bounds of node 1 .*do not contain a sampled value at entry"):
        check_bounds_contain_samples(model, CENTER, RADIUS)


def test_a_line_is_off(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sampled_bounds.analyse

    def wrong(*arguments: Any, **named: Any) -> Any:
        found = real(*arguments, **named)
        lines = {k: replace(v, upper_offset=v.upper_offset - 1e-3) for k, v in found.lines.items()}
        return replace(found, lines=lines)

    monkeypatch.setattr(sampled_bounds, "analyse", wrong)
    with pytest.raises(AssertionError, match=r"CROWN's lines of node 2 .*Activation"):
        check_bounds_contain_samples(model, CENTER, RADIUS)


def test_the_models_own_outputs_count(model: Model) -> None:
    other = replace(model, call=lambda x: np.asarray(model.call(x)) + 100)
    with pytest.raises(AssertionError, match="interval's bounds of the output"):
        check_bounds_contain_samples(other, CENTER, RADIUS)


def test_a_model_without_a_network(model: Model) -> None:
    with pytest.raises(AssertionError, match="'dense' has no network"):
        check_bounds_contain_samples(replace(model, network=None), CENTER, RADIUS)
