"""Training: seeded, without touching torch's global state, one objective per way of training."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from verifkit.errors import OptionError  # noqa: E402
from verifkit.io.onnx import model_from_network  # noqa: E402
from verifkit.training.dense import DenseWeights, batched_network, forward, initial_layers  # noqa: E402
from verifkit.training.loop import Schedule, train  # noqa: E402
from verifkit.training.noise import GaussianNoise  # noqa: E402

SHORT = Schedule(epochs=3, batch_size=16, learning_rate=1e-2)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """Three well separated clusters in four dimensions."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, size=90)
    x = 3 * np.eye(3, 4)[y] + 0.3 * rng.standard_normal((90, 4))
    return x.astype(np.float32), y


def same(a: DenseWeights, b: DenseWeights) -> bool:
    return all(np.array_equal(p, q) for p, q in zip(a.weights + a.biases, b.weights + b.biases, strict=True))


def test_same_seed_same_weights(data: tuple[np.ndarray, np.ndarray]) -> None:
    for objective in ({}, {"objective": GaussianNoise(0.5)}):
        first, again, other = (
            train(*data, (5,), n_classes=3, seed=seed, schedule=SHORT, **objective) for seed in (1, 1, 2)
        )
        assert same(first, again)
        assert not same(first, other)


def test_weights_are_float32_of_the_sizes_asked_for(data: tuple[np.ndarray, np.ndarray]) -> None:
    trained = train(*data, (5, 6), n_classes=3, seed=0, schedule=SHORT)
    assert [w.shape for w in trained.weights] == [(5, 4), (6, 5), (3, 6)]
    assert [b.shape for b in trained.biases] == [(5,), (6,), (3,)]
    assert {a.dtype for a in trained.weights + trained.biases} == {np.dtype(np.float32)}
    assert trained.n_parameters == 20 + 5 + 30 + 6 + 18 + 3


def test_global_random_state_is_neither_read_nor_advanced(data: tuple[np.ndarray, np.ndarray]) -> None:
    weights = []
    for state in (3, 4):
        with torch.random.fork_rng():
            torch.manual_seed(state)
            before = torch.get_rng_state()
            weights.append(train(*data, (5,), n_classes=3, seed=0, schedule=SHORT, objective=GaussianNoise(0.5)))
            assert torch.equal(before, torch.get_rng_state())
    assert same(*weights)


def test_noise_training_differs_from_standard(data: tuple[np.ndarray, np.ndarray]) -> None:
    standard = train(*data, (5,), n_classes=3, seed=0, schedule=SHORT)
    noisy = train(*data, (5,), n_classes=3, seed=0, schedule=SHORT, objective=GaussianNoise(0.5))
    assert not same(standard, noisy)


def test_noise_is_gaussian_of_the_given_sigma_and_fresh() -> None:
    """An identity network, equal labels: the loss is that of x + sigma n, n the next draw of the generator."""
    layers = [(torch.eye(2), torch.zeros(2))]
    x, y = torch.zeros(64, 2), torch.zeros(64, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    losses = [float(GaussianNoise(0.5)(layers, x, y, generator)) for _ in range(2)]
    replay = torch.Generator().manual_seed(0)
    for loss in losses:
        noise = 0.5 * torch.randn(64, 2, generator=replay)
        expected = torch.log(1 + torch.exp(noise[:, 1] - noise[:, 0])).mean()
        assert loss == pytest.approx(float(expected), rel=1e-5)
    assert losses[0] != losses[1]


def test_no_epoch_leaves_the_initial_layers(data: tuple[np.ndarray, np.ndarray]) -> None:
    trained = train(*data, (5,), n_classes=3, seed=7, schedule=Schedule(epochs=0))
    layers = initial_layers((4, 5, 3), torch.Generator().manual_seed(7))
    assert all(np.array_equal(w, t.detach().numpy()) for w, (t, _) in zip(trained.weights, layers, strict=True))
    assert all(np.abs(w).max() <= np.sqrt(6 / w.shape[1]) for w in trained.weights)


def test_training_learns_and_weight_decay_shrinks(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    longer = Schedule(epochs=20, batch_size=16, learning_rate=1e-2)
    trained = train(x, y, (8,), n_classes=3, seed=0, schedule=longer)
    model = model_from_network(batched_network(trained), "clusters")
    assert (model(x).argmax(axis=1) == y).mean() > 0.95
    decayed = Schedule(epochs=20, batch_size=16, learning_rate=1e-2, weight_decay=2.0)
    smaller = train(x, y, (8,), n_classes=3, seed=0, schedule=decayed)
    assert sum(np.square(w).sum() for w in smaller.weights) < sum(np.square(w).sum() for w in trained.weights)


def test_exported_network_agrees_with_torch_on_batches(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, _ = data
    trained = train(*data, (5, 6), n_classes=3, seed=0, schedule=SHORT)
    network = batched_network(trained)
    layers = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in zip(trained.weights, trained.biases, strict=True)]
    ours = forward(layers, torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(model_from_network(network, "toy")(x), ours, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(network.evaluate(x[:, None].astype(np.float64))[:, 0], ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_a_useless_sigma_is_a_mistake(sigma: float) -> None:
    with pytest.raises(OptionError, match="sigma"):
        GaussianNoise(sigma)


def test_wrong_data_and_options_are_mistakes(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    for inputs, labels in ((x[0], y), (x, y[:-1]), (x[:0], y[:0])):
        with pytest.raises(OptionError, match="training takes"):
            train(inputs, labels, (5,), n_classes=3, seed=0)
    with pytest.raises(OptionError, match="outside"):
        train(x, y, (5,), n_classes=2, seed=0)
    for options in ({"epochs": -1}, {"batch_size": 0}, {"learning_rate": 0.0}, {"weight_decay": -1.0}):
        with pytest.raises(OptionError, match="training needs"):
            Schedule(**options)
