"""An l1 ball as a box and one more unsafe row, so that a search over boxes needs to know of no ball.

The network gets one more output, the sum of |x_i - center_i| as a sum of ReLUs, and every disjunct one more row, that
sum <= radius: what is unsafe is what is unsafe and in the ball.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from verifkit.analysis.region import Region
from verifkit.analysis.rows import Rows
from verifkit.functions import Relu
from verifkit.maps import Reshape
from verifkit.network import Network
from verifkit.ops import Activation, Affine
from verifkit.weighted_maps import Dense


def without_ball(network: Network, region: Region, rows: Rows) -> tuple[Network, Region, Rows]:
    """An equal question over the bounding box of `region`, a batch of one; the same where it is a box already.

    Raises ValueError for an l2 ball.
    """
    if region.center is None or region.radius is None:
        return network, region, rows
    if region.norm != "1":
        raise ValueError(f"an l{region.norm} ball is not piecewise linear")
    center = np.asarray(region.center, dtype=np.float64).reshape(-1)
    n, m = center.size, math.prod(network.output_shape)
    last, output = len(network.nodes) - 1, network.nodes[-1]
    eye = np.eye(n)
    nodes = (
        *network.nodes,
        Affine(shape=(n,), parents=(0,), name="x", maps=(Reshape(network.input_shape, (n,)),)),
        Affine(
            shape=(2 * n,),
            parents=(last + 1,),
            name="x - center",
            maps=(Dense(np.concatenate([eye, -eye])),),
            bias=np.concatenate([-center, center]),
        ),
        Activation(shape=(2 * n,), parents=(last + 2,), name="|x - center|", function=Relu()),
        Affine(shape=(m,), parents=(last,), name=f"{output.name}, flat", maps=(Reshape(output.shape, (m,)),)),
        Affine(
            shape=(m + 1,),
            parents=(last + 4, last + 3),
            name="outputs and distance",
            maps=(Dense(np.eye(m + 1, m)), Dense(np.eye(m + 1)[:, m:] @ np.ones((1, 2 * n)))),
        ),
    )
    box = Region(region.lower, region.upper)
    return Network(nodes), box, _with_distance(rows, float(np.asarray(region.radius).reshape(-1)[0]))


def _with_distance(rows: Rows, radius: float) -> Rows:
    count, more = rows.bound.size, rows.n_disjuncts
    outputs = np.zeros((count + more, rows.outputs.shape[1] + 1))
    outputs[:count, :-1] = rows.outputs
    outputs[count:, -1] = 1.0
    return replace(
        rows,
        outputs=outputs,
        output_error=None if rows.output_error is None else np.pad(rows.output_error, ((0, more), (0, 1))),
        inputs=None if rows.inputs is None else np.pad(rows.inputs, ((0, more), (0, 0))),
        input_error=None if rows.input_error is None else np.pad(rows.input_error, ((0, more), (0, 0))),
        bound=np.concatenate([rows.bound, np.full(more, radius)]),
        strict=np.concatenate([rows.strict, np.zeros(more, dtype=bool)]),
        disjunct=np.concatenate([rows.disjunct, np.arange(more)]),
    )
