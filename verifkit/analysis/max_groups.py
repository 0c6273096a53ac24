"""Which entries of a maximum's groups can be the largest, from bounds on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifkit.ops import Max


@dataclass(frozen=True, eq=False)
class MaxGroups:
    """entries (G, w): flat indices into the parent. candidates (G, w): those that may be the largest, never none.

    beyond (G, w): how far the largest of the other candidates may lie above an entry.
    """

    entries: np.ndarray
    candidates: np.ndarray
    beyond: np.ndarray

    @property
    def decided(self) -> np.ndarray:
        """(G,): where one candidate is all there is."""
        return np.asarray(self.candidates.sum(axis=1) == 1)


def max_groups(node: Max, low: np.ndarray, high: np.ndarray) -> MaxGroups:
    """From bounds on the flat parent.

    An entry whose upper bound is at most the best lower bound is never needed; the one with that lower bound always is.
    """
    width = node.groups.shape[-1]
    entries = node.filled_groups.reshape(-1, width)
    padding = node.groups.reshape(-1, width) < 0
    lower, upper = low[entries], high[entries]
    best = lower.argmax(axis=1)
    here = np.arange(entries.shape[0])
    candidates = (upper > lower.max(axis=1, keepdims=True)) & ~padding
    candidates[here, best] = True
    tops = np.where(candidates, upper, -np.inf)
    first = tops.argmax(axis=1)
    highest = tops[here, first]
    tops[here, first] = -np.inf
    others = np.repeat(highest[:, None], width, axis=1)
    others[here, first] = tops.max(axis=1)
    return MaxGroups(entries, candidates, np.where(candidates, np.maximum(others - lower, 0.0), 0.0))
