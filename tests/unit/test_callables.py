"""Functions, torch modules and scikit-learn classifiers as models, smoothed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from verifiers.probabilistic.smoothing import Smoothing
from verifkit.errors import ModelError
from verifkit.io.callables import model_from_callable, model_from_sklearn, model_from_torch
from verifkit.io.runtime import OnnxRunner


def halves(x: np.ndarray) -> np.ndarray:
    return np.stack([x.reshape(len(x), -1).sum(axis=1), np.zeros(len(x))], axis=1)


class TestCallable:
    def test_a_plain_function(self) -> None:
        model = model_from_callable(halves, (2, 3), "halves")
        assert (model.n_inputs, model.n_outputs, model.network) == (6, 2, None)
        counts = Smoothing(n=1000).certify(model, np.ones((2, 3)))
        assert (counts.chosen, counts.backend, counts.model_digest) == (0, "callable", model.digest)
        assert model_from_callable(halves, 6).digest == model.digest
        assert model_from_callable(lambda x: -halves(x), 6).digest != model.digest
        assert model_from_callable(halves, 6, digest="a" * 64).digest == "a" * 64

    @pytest.mark.parametrize(
        "call", [lambda x: x.sum(), lambda x: x.reshape(-1)[:2], lambda x: x[:1], lambda x: [["a"], ["b"]], lambda: 0]
    )
    def test_what_gives_no_scores_is_refused(self, call: Any) -> None:
        with pytest.raises(ModelError, match=r"scores of shape|cannot be called"):
            model_from_callable(call, 3)


@pytest.mark.skipif(find_spec("sklearn") is None, reason="the extra 'study' is not installed")
class TestSklearn:
    @pytest.fixture(scope="class")
    @staticmethod
    def digits() -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits

        data = load_digits()
        return data.data / 16, data.target

    def test_a_random_forest_on_digits(self, digits: tuple[np.ndarray, np.ndarray]) -> None:
        from sklearn.ensemble import RandomForestClassifier

        x, y = digits
        rng = np.random.default_rng(0)
        noisy = np.concatenate([x[:1000] + 0.25 * rng.standard_normal((1000, 64)) for _ in range(2)])
        forest = RandomForestClassifier(20, random_state=0).fit(noisy, np.tile(y[:1000], 2))
        model = model_from_sklearn(forest)
        again = model_from_sklearn(RandomForestClassifier(20, random_state=0).fit(noisy, np.tile(y[:1000], 2)))
        assert (model.name, model.digest) == ("RandomForestClassifier", again.digest)
        right = certified = 0
        for i in range(1500, 1520):
            counts = Smoothing(sigma=0.25, n=1000).certify(model, x[i])
            right += counts.chosen == y[i]
            certified += counts.chosen == y[i] and counts.radius >= 0.1
        assert right >= 15
        assert certified >= 12

    def test_decision_functions(self, digits: tuple[np.ndarray, np.ndarray]) -> None:
        from sklearn.linear_model import RidgeClassifier

        x, y = digits
        many = RidgeClassifier().fit(x[:500], y[:500])
        assert (model_from_sklearn(many)(x[:9]).argmax(axis=1) == many.predict(x[:9])).all()
        two = RidgeClassifier().fit(x[:500], y[:500] > 4)
        assert (model_from_sklearn(two)(x[:9]).argmax(axis=1) == two.predict(x[:9])).all()

    def test_scores_of_pairs_are_refused(self, digits: tuple[np.ndarray, np.ndarray]) -> None:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        x, y = digits[0][:300], digits[1][:300]
        pairs = make_pipeline(StandardScaler(), SVC(decision_function_shape="ovo"))
        for labels in (y, y % 3):  # of three classes there are three pairs
            with pytest.raises(ModelError, match=r"not one for each of its .* set decision_function_shape='ovr'"):
                model_from_sklearn(pairs.fit(x, labels))
        assert model_from_sklearn(pairs.fit(x, y > 4)).n_outputs == 2
        assert model_from_sklearn(SVC(break_ties=True).fit(x, y)).n_outputs == 10

    def test_several_labels_are_refused(self, digits: tuple[np.ndarray, np.ndarray]) -> None:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import RidgeClassifier

        x, y = digits[0][:300], digits[1][:300]
        with pytest.raises(ModelError, match="one classifier for each label"):
            model_from_sklearn(RandomForestClassifier(3, random_state=0).fit(x, np.stack([y, y, y], axis=1)))
        with pytest.raises(ModelError, match="one label per input"):
            model_from_sklearn(RidgeClassifier().fit(x, np.stack([y > 4, y > 2], axis=1)))

    def test_scores_must_agree_with_predict(self, digits: tuple[np.ndarray, np.ndarray]) -> None:
        from sklearn.tree import DecisionTreeClassifier

        class Cautious(DecisionTreeClassifier):  # type: ignore[misc]  # scikit-learn has no types
            def predict(self, x: np.ndarray) -> np.ndarray:
                return np.zeros(len(x), dtype=int)

        with pytest.raises(ModelError, match="another class than that of its best score"):
            model_from_sklearn(Cautious(random_state=0).fit(*digits))
        named = DecisionTreeClassifier(random_state=0).fit(digits[0], digits[1].astype(str))
        assert model_from_sklearn(named).n_outputs == 10

    def test_unfitted_is_refused(self) -> None:
        from sklearn.linear_model import RidgeClassifier

        with pytest.raises(ModelError, match="fit it first"):
            model_from_sklearn(RidgeClassifier())


@pytest.mark.skipif(find_spec("torch") is None, reason="the extra 'torch' is not installed")
class TestTorch:
    @staticmethod
    def net(*more: Any) -> Any:
        from torch import manual_seed, nn

        manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), *more, nn.Linear(4 * 36, 3)).eval()

    def test_a_module_is_run_by_onnxruntime_where_it_can_be(self) -> None:
        import torch

        net = self.net()
        model = model_from_torch(net, (1, 8, 8))
        assert isinstance(model.call, OnnxRunner)
        assert model.network is not None
        x = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
        with torch.no_grad():
            expected = net(torch.from_numpy(x.reshape(-1, 1, 8, 8))).numpy()
        np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5)
        assert Smoothing(n=1000).certify(model, np.zeros(64)).backend == "onnxruntime"

    def test_a_module_that_cannot_be_exported_is_called(self) -> None:
        import torch

        class Odd(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                flat = torch.from_numpy(np.sort(x.numpy().reshape(len(x), -1), axis=1))
                return flat[:, :2]

        model = model_from_torch(Odd().eval(), (4,))
        assert not isinstance(model.call, OnnxRunner)
        assert Smoothing(n=1000).certify(model, np.zeros(4)).chosen == 1

    @pytest.mark.parametrize("how", ["bool", "item", "allclose", "loop", "rare"])
    def test_a_module_that_branches_on_values_is_called(self, how: str) -> None:
        """Tracing keeps the branch that zeros take; the other is taken beyond 1e5, where no comparison looks."""
        import torch

        class Turning(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                if how == "loop":
                    return torch.stack([row if row[0] < 1e5 else -row for row in x])
                if how == "item":
                    return x * (1 if x.max().item() < 1e5 else -1)
                if how == "allclose":
                    return x if torch.allclose(x.clamp(max=1e5), x) else -x
                if how == "rare":
                    return x if torch.is_nonzero((x < 1e5).all()) else -x
                return x if (x < 1e5).all() else -x

        model = model_from_torch(Turning().eval(), (2,))
        assert not isinstance(model.call, OnnxRunner)
        np.testing.assert_array_equal(model(np.full((1, 2), 2e5)), np.full((1, 2), -2e5))

    def test_an_export_is_compared_at_several_scales(self) -> None:
        import torch

        class Bent(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                return x.clamp(max=200.0) if torch.onnx.is_in_onnx_export() else x * 1.0

        assert not isinstance(model_from_torch(Bent().eval(), (9,)).call, OnnxRunner)

    def test_half_precision_is_named(self) -> None:
        import torch

        half = model_from_torch(self.net().to(torch.bfloat16), (1, 8, 8), "net")
        assert half.name == "net (bfloat16)"
        assert not isinstance(half.call, OnnxRunner)
        assert half.digest != model_from_torch(self.net(), (1, 8, 8)).digest
        assert Smoothing(n=1000).certify(half, np.zeros(64)).backend == "callable"

    def test_training_mode_is_refused(self) -> None:
        from torch import nn

        net = self.net(nn.Dropout(0.5))
        assert model_from_torch(net, (1, 8, 8)).n_outputs == 3
        with pytest.raises(ModelError, match="in training mode"):
            model_from_torch(net.train(), (1, 8, 8))
        dropping = model_from_callable(lambda x: net(_tensor(x)).detach().numpy(), (1, 8, 8))
        with pytest.raises(ModelError, match="two different answers to one input"):
            Smoothing().certify(dropping, np.ones(64))


def _tensor(x: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(x)
