"""Equal networks written differently get no contradictory verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np

from verifkit.functions import Relu
from verifkit.io.onnx import model_from_network
from verifkit.maps import Identity
from verifkit.network import Network
from verifkit.ops import Affine, Max, Node
from verifkit.query import Query
from verifkit.result import Verdict
from verifkit.testing.checks import DETERMINISTIC, Rule, Trial, applies_to, deterministic
from verifkit.testing.oracle import ToyNet
from verifkit.testing.questions import showing, supported
from verifkit.testing.toys import to_model, to_network
from verifkit.weighted_maps import Scale

COUNT = 16
"""Questions per norm that are asked of every rewriting."""


def permuted(toy: ToyNet, rng: np.random.Generator) -> ToyNet:
    """The same network with the neurons of every hidden layer in another order (skips must be absent)."""
    weights, biases = list(toy.weights), list(toy.biases)
    for k in range(len(weights) - 1):
        order = rng.permutation(len(biases[k])).tolist()
        weights[k] = tuple(weights[k][i] for i in order)
        biases[k] = tuple(biases[k][i] for i in order)
        weights[k + 1] = tuple(tuple(row[i] for i in order) for row in weights[k + 1])
    return ToyNet(tuple(weights), tuple(biases))


def rescaled(toy: ToyNet, rng: np.random.Generator) -> ToyNet:
    """Every hidden neuron times a power of two, and its reader divided by it: relu(s z) = s relu(z)."""
    weights, biases = list(toy.weights), list(toy.biases)
    for k in range(len(weights) - 1):
        scales = [Fraction(2) ** int(s) for s in rng.integers(-3, 4, len(biases[k]))]
        weights[k] = tuple(tuple(v * s for v in row) for row, s in zip(weights[k], scales, strict=True))
        biases[k] = tuple(b * s for b, s in zip(biases[k], scales, strict=True))
        weights[k + 1] = tuple(tuple(v / s for v, s in zip(row, scales, strict=True)) for row in weights[k + 1])
    return ToyNet(tuple(weights), tuple(biases))


def passed_through(toy: ToyNet) -> ToyNet:
    """One more hidden layer that carries each output y as relu(y) - relu(-y)."""
    size = toy.n_outputs
    last, bias = toy.weights[-1], toy.biases[-1]
    both = (*last, *(tuple(-v for v in row) for row in last))
    join = tuple(
        tuple(Fraction(1 if j == i else -1 if j == i + size else 0) for j in range(2 * size)) for i in range(size)
    )
    return ToyNet(
        (*toy.weights[:-1], both, join), (*toy.biases[:-1], (*bias, *(-b for b in bias)), (Fraction(0),) * size)
    )


def split_affine(network: Network) -> Network:
    """Every affine node followed by a doubling, a halving and an identity: exact, and three nodes more."""
    nodes: list[Node] = []
    place: dict[int, int] = {}
    for index, node in enumerate(network.nodes):
        nodes.append(replace(node, parents=tuple(place[p] for p in node.parents)))
        if isinstance(node, Affine):
            for name, linear in (
                ("double", Scale(np.full(node.shape, 2.0))),
                ("halve", Scale(np.full(node.shape, 2.0), divide=True)),
                ("same", Identity(node.shape)),
            ):
                label, at = f"{node.name}/{name}", len(nodes) - 1
                nodes.append(Affine(shape=node.shape, parents=(at,), name=label, origin=(label,), maps=(linear,)))
        place[index] = len(nodes) - 1
    return Network(tuple(nodes))


def _rewritings(toy: ToyNet, rng: np.random.Generator) -> Iterator[tuple[str, ToyNet | Network]]:
    if not toy.skips:
        yield "with its neurons in another order", permuted(toy, rng)
        yield "with its neurons rescaled by powers of two", rescaled(toy, rng)
        yield "with its outputs passed through a ReLU pair", passed_through(toy)
    yield "with its affine nodes split", split_affine(to_network(toy, outer=(1,)))


def equivalent_networks_agree(trial: Trial) -> None:
    """Permuted, rescaled, split and padded copies of a network: never HOLDS of one and VIOLATED of another."""
    for norm in deterministic(trial):
        for number, sample in enumerate(trial.samples(norm, COUNT)):
            verdict = trial.ask(sample.query).verdict
            for what, other in _rewritings(sample.toy, np.random.default_rng([trial.seed, number])):
                model = to_model(other) if isinstance(other, ToyNet) else model_from_network(other, "split")
                again = trial.ask(Query(model, sample.prop)).verdict
                wrong_truth = sample.truth.violated is True and again is Verdict.HOLDS
                if wrong_truth or {verdict, again} == {Verdict.HOLDS, Verdict.VIOLATED}:
                    sentence = f"{verdict} of the network, {again} of the same {what} ({sample.name})"
                    trial.fail("equivalent_networks_agree", sentence, sample.reproducer())


def max_agrees_with_relus(trial: Trial) -> None:
    """A network with `Max`, and the same with max(a, b) = a + relu(b - a): no contradiction."""
    for exhibit in supported(trial.verifier.capabilities):
        if not any(isinstance(node, Max) for node in exhibit.network.nodes):
            continue
        plain = model_from_network(exhibit.network.without_max(), exhibit.name)
        for norm in deterministic(trial):
            for radius in (Fraction(1, 4), Fraction(1, 4096)):
                for violated in (True, False):
                    query = showing(exhibit.name, norm, 1, radius, violated, trial.seed).query
                    verdicts = [trial.ask(q).verdict for q in (query, Query(plain, query.prop))]
                    if set(verdicts) == {Verdict.HOLDS, Verdict.VIOLATED}:
                        sentence = f"{verdicts[0]} of '{exhibit.name}', {verdicts[1]} of it without Max"
                        trial.fail("max_agrees_with_relus", sentence)


def _has_max(trial: Trial) -> bool:
    known = trial.verifier.capabilities
    both = known.operators is None or (Max in known.operators and Relu in known.activations)
    return both and bool(deterministic(trial)) and not known.robustness_only


RULES = (
    Rule("equivalent_networks_agree", equivalent_networks_agree, applies_to(*DETERMINISTIC), soundness=True),
    Rule("max_agrees_with_relus", max_agrees_with_relus, _has_max, soundness=True),
)
