"""Training: seeded, without touching torch's global state, one objective per way of training."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from verifkit.analysis.sensitivity import sensitivity  # noqa: E402
from verifkit.errors import OptionError  # noqa: E402
from verifkit.io.noise_layer import noise_place, noise_split  # noqa: E402
from verifkit.io.onnx import model_from_bytes  # noqa: E402
from verifkit.training.adversarial import Adversarial  # noqa: E402
from verifkit.training.architecture import Architecture, Classifier, dense  # noqa: E402
from verifkit.training.layers import Conv, Dense, Flatten, MaxPool, Noise, Relu, Reshape, Residual  # noqa: E402
from verifkit.training.loop import Objective, Schedule, train  # noqa: E402
from verifkit.training.noise import GaussianNoise, PrivateNoise, stretching  # noqa: E402
from verifkit.training.standard import cross_entropy  # noqa: E402

SHORT = Schedule(epochs=3, batch_size=16, learning_rate=1e-2)
OBJECTIVES: list[Objective] = [cross_entropy, GaussianNoise(0.5), Adversarial(eps=0.5, steps=2, clip=None)]
objectives = pytest.mark.parametrize("objective", OBJECTIVES, ids=["standard", "noise", "adversarial"])
SMALL = dense(4, (5,), 3)
IMAGE = Architecture((4,), (Reshape((1, 2, 2)), Conv(3, 2, padding=1), Relu(), MaxPool(2, 1), Flatten(), Dense(3)))


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """Three well separated clusters in four dimensions."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, size=90)
    x = 3 * np.eye(3, 4)[y] + 0.3 * rng.standard_normal((90, 4))
    return x.astype(np.float32), y


def same(a: Classifier, b: Classifier) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters, b.parameters, strict=True))


def linear(weight: list[list[float]]) -> Classifier:
    """A classifier of one linear layer without bias."""
    rows = torch.tensor(weight)
    return Classifier(dense(rows.shape[1], (), len(rows)), (rows, torch.zeros(len(rows))))


def mean_loss(classifier: Classifier, x: torch.Tensor, y: torch.Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(classifier(x), y).detach())


@objectives
@pytest.mark.parametrize("architecture", [SMALL, IMAGE], ids=["dense", "conv"])
def test_same_seed_same_parameters(
    architecture: Architecture, objective: Objective, data: tuple[np.ndarray, np.ndarray]
) -> None:
    first, again, other = (
        train(architecture, *data, seed=seed, schedule=SHORT, objective=objective) for seed in (1, 1, 2)
    )
    assert same(first, again)
    assert not same(first, other)


def test_parameters_are_float32_of_the_architecture_and_detached(data: tuple[np.ndarray, np.ndarray]) -> None:
    trained = train(dense(4, (5, 6), 3), *data, seed=0, schedule=SHORT)
    assert [tuple(p.shape) for p in trained.parameters] == [(5, 4), (5,), (6, 5), (6,), (3, 6), (3,)]
    assert {p.dtype for p in trained.parameters} == {torch.float32}
    assert not any(p.requires_grad for p in trained.parameters)


@objectives
def test_global_random_state_is_neither_read_nor_advanced(
    objective: Objective, data: tuple[np.ndarray, np.ndarray]
) -> None:
    trained = []
    for state in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(state)
            before = torch.get_rng_state()
            trained.append(train(IMAGE, *data, seed=0, schedule=SHORT, objective=objective))
            assert torch.equal(before, torch.get_rng_state())
    assert same(*trained)


@pytest.mark.parametrize("objective", OBJECTIVES[1:], ids=["noise", "adversarial"])
def test_another_objective_trains_another_network(objective: Objective, data: tuple[np.ndarray, np.ndarray]) -> None:
    standard = train(SMALL, *data, seed=0, schedule=SHORT)
    assert not same(standard, train(SMALL, *data, seed=0, schedule=SHORT, objective=objective))


def test_noise_is_gaussian_of_the_given_sigma_and_fresh() -> None:
    """An identity network, equal labels: the loss is that of x + sigma n, n the next draw of the generator."""
    identity = linear([[1.0, 0.0], [0.0, 1.0]])
    x, y = torch.zeros(64, 2), torch.zeros(64, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    losses = [float(GaussianNoise(0.5)(identity, x, y, generator)) for _ in range(2)]
    replay = torch.Generator().manual_seed(0)
    for loss in losses:
        noise = 0.5 * torch.randn(64, 2, generator=replay)
        expected = torch.log(1 + torch.exp(noise[:, 1] - noise[:, 0])).mean()
        assert loss == pytest.approx(float(expected), rel=1e-5)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("clip", [(0.0, 1.0), (0.2, 0.8), None])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_perturbed_inputs_stay_in_the_ball_and_in_the_box(clip: tuple[float, float] | None, steps: int) -> None:
    """Exactly: the ball's ends are x - eps and x + eps as float32 has them. Inputs outside the box are left free."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(50, 4, generator=generator)
    y = torch.arange(50) % 3
    moved = Adversarial(eps=0.3, steps=steps, clip=clip).perturb(SMALL.initial(generator), x, y, generator)
    assert (moved >= x - 0.3).all()
    assert (moved <= x + 0.3).all()
    assert not torch.equal(moved, x)
    if clip is not None:
        inside = (x >= clip[0]) & (x <= clip[1])
        assert inside.any()
        assert (moved[inside] >= clip[0]).all()
        assert (moved[inside] <= clip[1]).all()


def test_the_attack_finds_the_worst_corner_of_a_linear_classifier() -> None:
    """There the loss is largest where every input goes against its weight: x - eps sign(w_y - w_other), clipped."""
    classifier = linear([[1.0, -2.0, 0.5], [-1.0, 1.0, 3.0]])
    x = torch.tensor([[0.5, 0.5, 0.5], [0.05, 0.5, 0.98], [0.3, 0.9, 0.2]])
    y = torch.tensor([0, 1, 1])
    for seed in range(5):
        moved = Adversarial(eps=0.1, steps=8).perturb(classifier, x, y, torch.Generator().manual_seed(seed))
        lead = torch.sign(torch.tensor([2.0, -3.0, -2.5]))
        worst = x - 0.1 * torch.where(y[:, None] == 0, lead, -lead)
        torch.testing.assert_close(moved, worst.clamp(0.0, 1.0), rtol=0, atol=1e-7)


def test_the_attack_raises_the_loss_and_more_steps_raise_it_further(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = torch.from_numpy(data[0]), torch.from_numpy(data[1])
    trained = train(IMAGE, *data, seed=0, schedule=Schedule(epochs=20, batch_size=16, learning_rate=1e-2))
    losses = [mean_loss(trained, x, y)]
    for steps in (1, 7):
        attack = Adversarial(eps=0.5, steps=steps, clip=None)
        losses.append(mean_loss(trained, attack.perturb(trained, x, y, torch.Generator().manual_seed(0)), y))
    assert losses[0] < losses[1] < losses[2]


def test_the_adversarial_loss_is_that_of_the_perturbed_inputs_and_alone_gives_gradients() -> None:
    generator = torch.Generator().manual_seed(3)
    classifier, attack = SMALL.initial(generator), Adversarial(eps=0.2)
    x, y = torch.rand(20, 4, generator=generator), torch.arange(20) % 3
    first, again = (torch.Generator().manual_seed(4) for _ in range(2))
    moved = attack.perturb(classifier, x, y, first)
    assert not moved.requires_grad
    assert all(p.grad is None for p in classifier.parameters)
    loss = attack(classifier, x, y, again)
    assert float(loss.detach()) == pytest.approx(mean_loss(classifier, moved, y), rel=1e-6)
    loss.backward()
    assert all(p.grad is not None for p in classifier.parameters)


def test_an_input_is_attacked_alike_whatever_batch_it_is_in() -> None:
    generator = torch.Generator().manual_seed(5)
    classifier = SMALL.initial(generator)
    x, y = torch.rand(8, 4, generator=generator), torch.arange(8) % 3
    attack = Adversarial(eps=0.2)
    whole = attack.perturb(classifier, x, y, torch.Generator().manual_seed(6))
    first = attack.perturb(classifier, x[:1], y[:1], torch.Generator().manual_seed(6))
    torch.testing.assert_close(whole[:1], first, rtol=0, atol=1e-6)


def test_adversarial_training_pays_under_attack() -> None:
    """One robust feature, right nine times in ten, against twenty weak ones that eps turns round: standard training
    relies on the weak ones, adversarial training may not (Tsipras et al., "Robustness may be at odds with accuracy",
    ICLR 2019).
    """
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, size=400)
    robust = 0.8 * (y ^ (rng.random(400) < 0.1)) - 0.4
    weak = 0.05 * (2 * y[:, None] - 1) + 0.05 * rng.standard_normal((400, 20))
    x = np.column_stack([robust, weak]).astype(np.float32)
    attack = Adversarial(eps=0.1, steps=10, clip=None)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    shares = []
    for objective in (cross_entropy, attack):
        schedule = Schedule(epochs=20, batch_size=50, learning_rate=2e-2)
        trained = train(dense(21, (8,), 2), x, y, seed=0, schedule=schedule, objective=objective)
        moved = attack.perturb(trained, inputs, labels, torch.Generator().manual_seed(0))
        shares.append(float((trained(moved).argmax(1) == labels).float().mean()))
    assert shares[0] < 0.1
    assert shares[1] > 0.8


def test_no_epoch_leaves_the_initial_parameters(data: tuple[np.ndarray, np.ndarray]) -> None:
    trained = train(IMAGE, *data, seed=7, schedule=Schedule(epochs=0))
    initial = IMAGE.initial(torch.Generator().manual_seed(7))
    assert same(trained, initial)
    for p in trained.parameters:
        reach = np.sqrt(6 / p[0].numel()) if p.ndim > 1 else 0.0
        assert float(p.abs().max()) <= reach


def test_training_learns_and_weight_decay_shrinks(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    longer = Schedule(epochs=20, batch_size=16, learning_rate=1e-2)
    trained = train(dense(4, (8,), 3), x, y, seed=0, schedule=longer)
    model = model_from_bytes(trained.onnx(), "clusters")
    assert (model(x).argmax(axis=1) == y).mean() > 0.95
    decayed = Schedule(epochs=20, batch_size=16, learning_rate=1e-2, weight_decay=2.0)
    smaller = train(dense(4, (8,), 3), x, y, seed=0, schedule=decayed)

    def size(classifier: Classifier) -> float:
        return sum(float(p.square().sum()) for p in classifier.parameters if p.ndim > 1)

    assert size(smaller) < size(trained)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_a_useless_sigma_is_a_mistake(sigma: float) -> None:
    with pytest.raises(OptionError, match="sigma"):
        GaussianNoise(sigma)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"eps": 0.0}, "positive number as eps"),
        ({"eps": float("nan")}, "positive number as eps"),
        ({"eps": float("inf")}, "positive number as eps"),
        ({"eps": 0.1, "steps": -1}, "steps >= 0"),
        ({"eps": 0.1, "step_size": 0.0}, "step_size > 0"),
        ({"eps": 0.1, "clip": (1.0, 0.0)}, "empty"),
        ({"eps": 0.1, "clip": (0.0, float("nan"))}, "empty"),
    ],
)
def test_a_useless_attack_is_a_mistake(options: dict[str, float], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        Adversarial(**options)  # type: ignore[arg-type]


def test_wrong_data_and_options_are_mistakes(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    for inputs, labels in ((x[0], y), (x, y[:-1]), (x[:0], y[:0]), (x[:, :3], y)):
        with pytest.raises(OptionError, match="training takes"):
            train(SMALL, inputs, labels, seed=0)
    with pytest.raises(OptionError, match="outside"):
        train(dense(4, (5,), 2), x, y, seed=0)
    for options in ({"epochs": -1}, {"batch_size": 0}, {"learning_rate": 0.0}, {"weight_decay": -1.0}):
        with pytest.raises(OptionError, match="training needs"):
            Schedule(**options)


# --- noise after a layer -------------------------------------------------------------------------------------------


def private(mechanism: str, scale: float = 0.1) -> Architecture:
    """Noise after a convolution of 4x4 pixels, before its ReLU."""
    first = (Reshape((1, 4, 4)), Conv(3, kernel=3, stride=2, padding=1))
    return Architecture((16,), (*first, Noise(mechanism, scale), Relu(), Flatten(), Dense(3)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pixels() -> tuple[np.ndarray, np.ndarray]:
    """Three noisy patterns of sixteen pixels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, size=90)
    return (rng.random((3, 16))[y] + 0.1 * rng.standard_normal((90, 16))).astype(np.float32), y


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
def test_the_file_has_the_place_and_no_noise(mechanism: str, pixels: tuple[np.ndarray, np.ndarray]) -> None:
    trained, again, other = (
        train(private(mechanism, scale), *pixels, seed=0, schedule=SHORT, objective=PrivateNoise())
        for scale in (0.1, 0.1, 0.5)
    )
    assert same(trained, again)
    assert not same(trained, other)
    model = model_from_bytes(trained.onnx(), "private")
    assert noise_place(model) == "conv1"
    x = torch.from_numpy(pixels[0])
    np.testing.assert_allclose(model(pixels[0]), trained(x).numpy(), rtol=1e-4, atol=1e-5)
    head = noise_split(model).head
    assert head is not None
    assert head.network is not None
    norm = "1" if mechanism == "laplace" else "2"
    stretch = float(stretching(trained.architecture.layers[:2], trained.parameters, (16,), mechanism))
    assert stretch == pytest.approx(sensitivity(head.network, norm, norm), rel=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
def test_the_noise_has_its_scale_times_what_the_layers_stretch(mechanism: str) -> None:
    """Equal labels and an identity behind: the loss is that of the noise, replayed from the generator."""
    architecture = Architecture((2,), (Dense(2), Noise(mechanism, 0.5), Dense(2)))  # type: ignore[arg-type]
    classifier = Classifier(architecture, (3 * torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2)))
    x, y = torch.zeros(20_000, 2), torch.zeros(20_000, dtype=torch.int64)
    loss = float(PrivateNoise()(classifier, x, y, torch.Generator().manual_seed(0)))
    rng = np.random.default_rng(0)
    drawn = rng.laplace(size=(400_000, 2)) if mechanism == "laplace" else rng.standard_normal((400_000, 2))
    expected = np.log1p(np.exp(1.5 * (drawn[:, 1] - drawn[:, 0]))).mean()
    assert loss == pytest.approx(expected, rel=0.03)


def test_nothing_is_gained_by_stretching_more() -> None:
    """Multiplying the layer before the noise and dividing the one behind it leaves the loss as it is."""
    architecture = Architecture((4,), (Dense(3), Noise("gaussian", 0.3), Relu(), Dense(3)))
    generator = torch.Generator().manual_seed(1)
    first, bias, last, end = architecture.initial(generator).detached().parameters
    x, y = torch.rand(50, 4, generator=generator), torch.arange(50) % 3
    losses = [
        float(PrivateNoise()(Classifier(architecture, (c * first, c * bias, last / c, end)), x, y,
                             torch.Generator().manual_seed(2)))
        for c in (1e-3, 1.0, 1e3)
    ]  # fmt: skip
    assert losses == pytest.approx([losses[1]] * 3, rel=1e-3)


def test_noise_in_a_wrong_place_is_a_mistake(pixels: tuple[np.ndarray, np.ndarray]) -> None:
    noise = Noise("gaussian", 0.1)
    for layers in ((Dense(3), noise), (noise, Dense(3), noise, Dense(3))):
        with pytest.raises(OptionError, match="one place"):
            Architecture((4,), layers)
    with pytest.raises(OptionError, match="outside of residual"):
        Architecture((4,), (Residual((Dense(4), noise)), Dense(3)))
    for wrong in (Noise("gaussian", 0.0), Noise("uniform", 0.1), Noise("laplace", float("nan"))):  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="positive scale"):
            Architecture((4,), (wrong, Dense(3)))
    for architecture, match in (
        (dense(16, (5,), 3), "needs a Noise layer"),
        (Architecture((16,), (Dense(5), Relu(), Dense(5), noise, Relu(), Dense(3))), "must be affine"),
    ):
        with pytest.raises(OptionError, match=match):
            train(architecture, *pixels, seed=0, schedule=SHORT, objective=PrivateNoise())


def test_noise_at_the_input_is_that_of_randomized_smoothing(pixels: tuple[np.ndarray, np.ndarray]) -> None:
    plain = Architecture((16,), (Dense(8), Relu(), Dense(3)))
    noisy = Architecture((16,), (Noise("gaussian", 0.4), *plain.layers))
    first = train(plain, *pixels, seed=0, schedule=SHORT, objective=GaussianNoise(0.4))
    second = train(noisy, *pixels, seed=0, schedule=SHORT, objective=PrivateNoise())
    for p, q in zip(first.parameters, second.parameters, strict=True):
        torch.testing.assert_close(p, q)
    assert noise_place(model_from_bytes(second.onnx(), "input")) == "input"
