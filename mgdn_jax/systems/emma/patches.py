"""The patches that EMMA's released code cuts its training pictures into, once and at fixed places.

Our loader cuts crops at random places instead, anew in every epoch. For a set as released, cut
pictures, fused ones too, leave out pairs of which either patch `is_flat`, and prepare what remains
as pairs.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Shaped

SIDE, STRIDE = 128, 200


def corners(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Upper left corners (row, column) of the patches of a picture: 6 in 480 x 640."""
    for row in range(0, height - SIDE + 1, STRIDE):
        for column in range(0, width - SIDE + 1, STRIDE):
            yield row, column


def cut(picture: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "n side side *c"]:
    """All patches of a picture, row by row."""
    places = corners(*picture.shape[:2])
    patches = [picture[row : row + SIDE, column : column + SIDE] for row, column in places]
    empty = np.empty((0, SIDE, SIDE, *picture.shape[2:]), picture.dtype)
    return np.stack(patches) if patches else empty


def percentiles(patch: Float[np.ndarray, "..."]) -> tuple[float, float]:
    """The 10th and the 90th percentile, linear between values, as they are compared."""
    low, high = np.percentile(patch, (10, 90))
    return float(low), float(high)


def is_flat(patch: Float[np.ndarray, "..."]) -> bool:
    """Whether the middle four fifths of a patch span less than a tenth of its brightness.

    A patch whose 90th percentile is black has no such share and is not flat, as released.

    Args:
        patch: luminance.
    """
    low, high = percentiles(patch)
    return high != 0 and (high - low) / high < 0.1
