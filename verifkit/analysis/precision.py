"""In which floats an analysis is done: float64, or float32 where its bounds are as safe and only looser.

The error bounds of `rounding` hold for either. What float32 asks for besides: an input set that float32 numbers contain
(`region.region_of`), rows that are rounded with their error (`rows.Rows.held_in`), and weights that are float32 numbers
as they stand, since `Network.cast` would round others and bound another network.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from verifkit.errors import OptionError
from verifkit.network import Network

Precision = Literal["float64", "float32"]


def check_precision(verifier: str, precision: str) -> None:
    """Raises `OptionError` where it is neither."""
    if precision not in get_args(Precision):
        raise OptionError(f"{verifier}'s precision must be one of {', '.join(get_args(Precision))}, not '{precision}'")


def float_of(precision: Precision) -> type[np.floating[Any]]:
    """NumPy's type of that name."""
    return np.float32 if precision == "float32" else np.float64


def rounding_node(network: Network, precision: Precision) -> str | None:
    """Why the network cannot be analysed in that precision; None if it can."""
    node = network.beyond_float32 if precision == "float32" else None
    if node is None:
        return None
    return f"precision=float32 needs weights that are float32 numbers, and those of node '{node.name}' are not"
