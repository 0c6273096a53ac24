"""Writes the VNN-LIB properties of the quick suite: `python -m benchmarks.suites.props.write`.

They go beyond plain robustness and speak of `benchmarks/zoo/digits-2x50.onnx` and the images in
`benchmarks/suites/digits-samples.npz`, where image k is a digit k. Pixels lie in [0, 1].
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from verifkit.input_sets import Box, ball
from verifkit.io.vnnlib import save_property
from verifkit.properties import Constraint, Polyhedron, Property, misclassified

FOLDER = Path(__file__).resolve().parent
SAMPLES = FOLDER.parent / "digits-samples.npz"
N_CLASSES = 10
PIXELS = Box((0,) * 64, (1,) * 64)
CENTRE = (27, 28, 35, 36)
"""The middle 2x2 pixels of the 8x8 image."""


def around(image: np.ndarray, eps: str) -> Box:
    """The l-inf ball of radius `eps` around an image, within [0, 1]."""
    region = ball(image, eps, "inf", PIXELS)
    assert isinstance(region, Box)
    return region


def short_lead(winner: int, loser: int, logits: str = "0", pixels: tuple[int, ...] = ()) -> Polyhedron:
    """Unsafe: y_winner - y_loser <= logits + the sum of `pixels`."""
    row = Constraint(
        outputs=((winner, Fraction(1)), (loser, Fraction(-1))),
        bound=Fraction(logits),
        inputs=tuple((i, Fraction(-1)) for i in pixels),
    )
    return Polyhedron((row,))


def lead_of_8(images: np.ndarray) -> Property:
    """A margin: within 0.05 of the 8, class 8 leads class 3 by more than half a logit."""
    return Property(around(images[8], "0.05"), (short_lead(8, 3, "0.5"),), N_CLASSES)


def centre_of_0(images: np.ndarray) -> Property:
    """Inputs and outputs coupled: the brighter the centre within 0.08 of the 0, the larger class 0's lead stays.

    The 0 leads every class by more than the sum of its four middle pixels.
    """
    unsafe = tuple(short_lead(0, other, pixels=CENTRE) for other in range(1, N_CLASSES))
    return Property(around(images[0], "0.08"), unsafe, N_CLASSES)


def one_is_no_seven(images: np.ndarray) -> Property:
    """Two boxes: near the 1 class 7 never reaches class 1, near the 7 never the other way; eps 0.08."""
    one, seven = around(images[1], "0.08"), around(images[7], "0.08")
    hull = Box(tuple(map(min, one.lower, seven.lower)), tuple(map(max, one.upper, seven.upper)))
    unsafe = (
        Polyhedron(short_lead(1, 7).constraints, one),
        Polyhedron(short_lead(7, 1).constraints, seven),
    )
    return Property(hull, unsafe, N_CLASSES)


def patch_on_8(images: np.ndarray) -> Property:
    """A patch: whatever is painted on the four middle pixels of the 8, it stays an 8. (It does not.)"""
    lower, upper = images[8].copy(), images[8].copy()
    lower[list(CENTRE)], upper[list(CENTRE)] = 0, 1
    return Property(Box(tuple(lower), tuple(upper)), misclassified(8, N_CLASSES), N_CLASSES)


PROPERTIES = {
    "lead-of-8": lead_of_8,
    "centre-of-0": centre_of_0,
    "one-is-no-seven": one_is_no_seven,
    "patch-on-8": patch_on_8,
}


def main() -> None:
    """Write every property beside this file, with what it says as a comment."""
    with np.load(SAMPLES) as samples:
        images = samples["x"]
    for name, build in PROPERTIES.items():
        prop = build(images)
        comment = "\n".join(line.strip() for line in (build.__doc__ or "").strip().splitlines())
        named = Property(prop.input_set, prop.unsafe, prop.n_outputs, comment)
        save_property(named, FOLDER / f"{name}.vnnlib")
        print(f"{name}.vnnlib: {len(prop.unsafe)} disjuncts")


if __name__ == "__main__":
    main()
