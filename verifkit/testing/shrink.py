"""Makes a failing sample smaller: fewer disjuncts, rows, skips and neurons, as long as it still goes wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

from verifkit.properties import Property
from verifkit.testing.oracle import ToyNet
from verifkit.testing.samples import Sample, sample_of

SECONDS = 2.0
"""Time for making one sample smaller: a convenience, not worth waiting for."""


def shrink(sample: Sample, still: Callable[[Sample], bool]) -> Sample:
    """The smallest sample found in a greedy search for which `still` is true; `sample` itself at the worst."""
    deadline = time.perf_counter() + SECONDS
    progress = True
    while progress:
        progress = False
        for toy, prop in _smaller(sample.toy, sample.prop):
            if time.perf_counter() > deadline:
                return sample
            candidate = sample_of(sample.name, toy, prop)
            if still(candidate):
                sample, progress = candidate, True
                break
    return sample


def _smaller(toy: ToyNet, prop: Property) -> Iterator[tuple[ToyNet, Property]]:
    for disjunct in prop.unsafe if len(prop.unsafe) > 1 else ():
        yield toy, replace(prop, unsafe=(disjunct,))
    for number, disjunct in enumerate(prop.unsafe):
        fewer = []
        if disjunct.box is not None:
            fewer.append(replace(disjunct, box=None))
        if len(disjunct.constraints) > 1:
            rows = disjunct.constraints
            fewer += [replace(disjunct, constraints=rows[:i] + rows[i + 1 :]) for i in range(len(rows))]
        for smaller in fewer:
            yield toy, replace(prop, unsafe=(*prop.unsafe[:number], smaller, *prop.unsafe[number + 1 :]))
    for skip in toy.skips:
        yield replace(toy, skips=tuple(s for s in toy.skips if s != skip)), prop
    if not toy.skips:
        yield from ((smaller, prop) for smaller in _fewer_neurons(toy))
    for layer, bias in enumerate(toy.biases):
        if any(bias):
            zero = (Fraction(0),) * len(bias)
            yield replace(toy, biases=(*toy.biases[:layer], zero, *toy.biases[layer + 1 :])), prop


def _fewer_neurons(toy: ToyNet) -> Iterator[ToyNet]:
    for layer in range(len(toy.weights) - 1):
        for k in range(len(toy.biases[layer]) if len(toy.biases[layer]) > 1 else 0):
            weights, biases = list(toy.weights), list(toy.biases)
            weights[layer] = weights[layer][:k] + weights[layer][k + 1 :]
            biases[layer] = biases[layer][:k] + biases[layer][k + 1 :]
            weights[layer + 1] = tuple(row[:k] + row[k + 1 :] for row in weights[layer + 1])
            yield ToyNet(tuple(weights), tuple(biases))
