"""Gray images as the metrics see them: float64, 0..255, with a memory of intermediate results.

Every metric of this room is a pure function of `(H, W)` arrays. Most of its work concerns one
image alone (histogram, Sobel responses, local moments) and one source is judged against many
fused images, so a metric also takes `Gray`, an image that keeps such intermediate results. Where a
docstring ends in "kept", its result is one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mgdn_jax import arguments
from mgdn_jax.errors import InputError
from mgdn_jax.image import LUMA

Plane: TypeAlias = NDArray[np.float64]
T = TypeVar("T")


class Gray:
    """A gray image in 0..255 and the intermediate results that metrics have had of it.

    Attributes:
        pixels: `(H, W)` float64; must not be written to.
    """

    __slots__ = ("_kept", "pixels")

    def __init__(self, image: ArrayLike) -> None:
        """Wraps an array.

        Args:
            image: `(H, W)`, any real dtype, values in 0..255.

        Raises:
            InputError: if the array is not two-dimensional, is empty or holds NaN or infinity.
        """
        pixels = np.array(image, dtype=np.float64)
        if pixels.ndim != 2 or pixels.size == 0:
            raise InputError(
                f"a metric needs gray images of shape (H, W), got {pixels.shape}: "
                "convert colour with mgdn_jax.metrics.luminance first."
            )
        if not np.isfinite(pixels).all():
            raise InputError(
                "an image to be measured holds NaN or infinite values: repair it first."
            )
        pixels.flags.writeable = False
        self.pixels: Plane = pixels
        self._kept: dict[Any, Any] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def keep(self, key: Any, compute: Callable[[], T]) -> T:
        """Returns the result stored under `key`, computing it on the first call."""
        if key not in self._kept:
            self._kept[key] = compute()
        result: T = self._kept[key]
        return result


GrayLike: TypeAlias = ArrayLike | Gray


def as_gray(image: GrayLike) -> Gray:
    """Returns `image` itself if it is a `Gray`, else wraps it."""
    return image if isinstance(image, Gray) else Gray(image)


def checked(metric: str, *images: GrayLike, min_side: int = 1) -> tuple[Gray, ...]:
    """Wraps the images of one metric call and checks their sizes.

    Args:
        metric: Name for the messages.
        *images: Fused image and sources.
        min_side: Smallest height and width for which the metric is defined.

    Returns:
        The images as `Gray`, in the given order.

    Raises:
        InputError: if shapes differ or a side is shorter than `min_side`.
    """
    grays = tuple(as_gray(image) for image in images)
    shapes = {gray.shape for gray in grays}
    if len(shapes) > 1:
        listed = ", ".join(f"{h}x{w}" for h, w in (gray.shape for gray in grays))
        raise InputError(
            f"{metric} needs images of one size, got {listed} (height x width): "
            "resize or crop them to match."
        )
    height, width = grays[0].shape
    if min(height, width) < min_side:
        raise InputError(
            f"{metric} needs images of at least {min_side}x{min_side} pixels, "
            f"got {height}x{width}: leave this metric out or use larger images."
        )
    return grays


def luminance(image: ArrayLike) -> Plane:
    """Gray, integer-valued version of a picture, as the reference evaluators read it.

    Colour becomes `round(0.299 R + 0.587 G + 0.114 B)` in float32, ties to even; gray is kept.
    Floating-point input is clipped to 0..255 and rounded first, as writing it to an 8-bit file
    would do (entropy and mutual information treat every distinct value as a symbol of its own).

    Args:
        image: `(H, W)`, `(H, W, 1)` or `(H, W, 3)`; uint8, uint16 (divided by 257), bool
            (times 255) or floating point in 0..255.

    Returns:
        `(H, W)` float64 with integers in 0..255.

    Raises:
        InputError: on other shapes or dtypes, on NaN, and on floating-point images that
            evidently live in 0..1.
    """
    array = arguments.array("an image to be measured", image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise InputError(
            f"an image to be measured has shape {array.shape}: give (H, W) or (H, W, 3)."
        )
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = np.rint(array / 257.0)
    elif np.issubdtype(array.dtype, np.floating) or array.dtype.kind == "V":
        array = array.astype(np.float64)  # kind V: bfloat16 as ml_dtypes stores it
        if not np.isfinite(array).all():
            raise InputError(
                "an image to be measured holds NaN or infinite values: repair it first."
            )
        if array.max() <= 1 and bool(np.any(array != np.rint(array))):
            raise InputError(
                "an image to be measured holds fractions within 0..1: multiply it by 255, "
                "the metrics are defined on 0..255."
            )
        array = np.rint(np.clip(array, 0, 255))
    elif np.issubdtype(array.dtype, np.integer):
        array = np.clip(array, 0, 255)
    else:
        raise InputError(
            f"an image to be measured has dtype {array.dtype}: give uint8 or float in 0..255."
        )
    if array.ndim == 2:
        return array.astype(np.float64)
    # Green, blue, red, each product fused with the sum so far: the order of the reference's image
    # library. Another one moves pixels that lie on the border of two levels, which shows in the
    # fourth digit of MSE on the PET pictures. The detour through float64 is that fused rounding.
    gray = np.zeros(array.shape[:2], np.float32)
    for channel in (1, 2, 0):
        product = array[..., channel].astype(np.float64) * np.float64(np.float32(LUMA[channel]))
        gray = (gray + product).astype(np.float32)
    return np.rint(gray).astype(np.float64)


def is_constant(x: Plane) -> bool:
    """True if every pixel holds the same value (exactly, not up to rounding)."""
    return bool(x.min() == x.max())


def min_max(x: Plane) -> Plane:
    """Stretches to 0..255: `floor(255 (x - min)/(max - min) + 0.5)`.

    An image of zeros stays as it is; any other constant image becomes NaN (0/0), as in the
    MATLAB code that several metrics come from.
    """
    low, high = float(x.min()), float(x.max())
    if low == high:
        return np.zeros_like(x) if low == 0 else np.full_like(x, np.nan)
    return np.floor(255 * ((x - low) / (high - low)) + 0.5)


def stretched(image: Gray) -> Gray | None:
    """The image after `min_max`, kept; None if it is constant and not zero."""

    def compute() -> Gray | None:
        pixels = min_max(image.pixels)
        return None if np.isnan(pixels[0, 0]) else Gray(pixels)

    return image.keep("stretched", compute)
