"""What lies far from the rest of a corpus."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_ENOUGH = 50  # values; fewer make no distribution


def usual_range(values: Sequence[float], limit: float, least_spread: float) -> tuple[float, float] | None:
    """Return the lowest and highest value at most `limit` deviations from the median, None for too few values.

    The deviation is the median absolute one, scaled as a normal distribution's (1.4826), since the outliers looked for
    would inflate a standard deviation; it is `least_spread` at least, for in a very even corpus all would be outliers.
    """
    if len(values) < _ENOUGH:
        return None
    found = np.asarray(values, dtype=np.float64)
    center = float(np.median(found))
    reach = limit * max(1.4826 * float(np.median(np.abs(found - center))), least_spread)
    return center - reach, center + reach
