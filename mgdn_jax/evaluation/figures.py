"""The standard quality figures of one fused picture."""

from __future__ import annotations

import math

import numpy as np

from mgdn_jax import metrics as ruler
from mgdn_jax.evaluation.methods import pixels_of


def figures(fused: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Measures a fused picture against its two sources, on luminance.

    Args:
        fused: `(H, W)` or `(H, W, C)`, C in 1 to 4 (alpha is left out); uint8, uint16, or floats
            in 0..1.
        first: A source of the same size, likewise.
        second: The other source.

    Returns:
        Name to value; NaN for a metric that needs a larger picture.

    Raises:
        InputError: Sizes differ, or floats lie outside of 0..1.
    """
    side = min(fused.shape[:2])
    fits = [name for name in ruler.STANDARD if ruler.METRICS[name].min_side <= side]
    result, one, other = (pixels_of(picture, "a picture") for picture in (fused, first, second))
    values = ruler.evaluate(result, one, other, fits)
    return {name: values.get(name, math.nan) for name in ruler.STANDARD}
