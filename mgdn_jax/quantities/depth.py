"""Depth maps for guided super-resolution: the one preparation of training, evaluation and use.

A map has any unit. It is normalised by its limits, enlarged to the photograph's size and given to
the network beside the photograph. How a small map is made of a large one, and which bicubic kernel
works in which direction, follows the published protocol: reduction by an antialiased kernel with
a = -0.5, enlargement by one with a = -0.75.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from mgdn_jax import arguments
from mgdn_jax.errors import InputError

QUANTITY = "depth"
_MEAN = np.array((0.485, 0.456, 0.406), np.float32)  # of ImageNet, as the published network has it
_DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)
_REDUCING, _ENLARGING = -0.5, -0.75


@dataclasses.dataclass(frozen=True)
class DepthPreparation:
    """What a network's card says about its depth maps.

    Attributes:
      scale: how many times as many rows and columns the result has as the map.
      margin: share of the span by which the limits of a small map are widened on either side;
        reduction takes extremes away, and the network's result cannot leave the limits.
    """

    scale: int = 4
    margin: float = 0.02

    def __post_init__(self) -> None:
        """Checks the ranges."""
        whole = isinstance(self.scale, int) and not isinstance(self.scale, bool)
        if not whole or not 1 <= self.scale <= 64:
            raise InputError(f"scale is {self.scale!r}; give a whole number from 1 to 64.")
        real = isinstance(self.margin, int | float) and not isinstance(self.margin, bool)
        if not real or not 0 <= self.margin <= 1:
            raise InputError(f"margin is {self.margin!r}; give a share of the span, 0 to 1.")

    def to_dict(self) -> dict[str, Any]:
        """The mapping that a weight file's card holds, plain JSON."""
        return {"quantity": QUANTITY, "scale": self.scale, "margin": self.margin}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> DepthPreparation:
        """Reads what `to_dict` gave.

        Raises:
          InputError: it is of another quantity, or has a field that is unknown or out of range.
        """
        fields = dict(mapping)
        quantity = fields.pop("quantity", None)
        if quantity != QUANTITY:
            raise InputError(
                f"the preparation is of the quantity {quantity!r}, not of depth; choose weights "
                "that were trained for depth maps."
            )
        names = [field.name for field in dataclasses.fields(cls)]
        if strange := [key for key in fields if key not in names]:
            raise InputError(
                f"the preparation has no field {', '.join(map(str, strange))}; choose from "
                f"{', '.join(names)}."
            )
        return cls(**fields)


@dataclasses.dataclass(frozen=True)
class Limits:
    """The values that become 0 and 1.

    Attributes:
      low: in the map's unit.
      high: likewise, not below `low`.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Checks the order."""
        low, high = arguments.reals("limits", (self.low, self.high))
        if low > high:
            raise InputError(f"the limits are {low:g} and {high:g}; give the lower one first.")

    @property
    def span(self) -> float:
        """What lies between the limits; 0 for a constant map."""
        return self.high - self.low


def limits_of(depth: np.ndarray, margin: float = 0.0) -> Limits:
    """The least and the largest value of a map.

    Args:
      depth: (H, W) in any unit; NaN is left out.
      margin: share of the span by which both move outwards.

    Returns:
      The limits.

    Raises:
      InputError: no value is finite.
    """
    valid = depth[np.isfinite(depth)]
    if not valid.size:
        raise InputError("the depth map has no finite value; give one that measures something.")
    low, high = float(valid.min()), float(valid.max())
    more = margin * (high - low)
    return Limits(low - more, high + more)


def normalised(depth: np.ndarray, limits: Limits) -> np.ndarray:
    """A map between its limits.

    Args:
      depth: any shape, in the unit of the limits.
      limits: what becomes 0 and 1.

    Returns:
      The same shape, float32, not clipped; zeros where the limits are equal.
    """
    if limits.span == 0:
        return np.zeros(depth.shape, np.float32)
    low, span = np.float32(limits.low), np.float32(limits.span)
    return (np.asarray(depth, np.float32) - low) / span


def restored(values: np.ndarray, limits: Limits) -> np.ndarray:
    """The inverse of `normalised`; equal limits give the one value.

    Args:
      values: any shape, 0 for the lower limit and 1 for the upper.
      limits: those of `normalised`.

    Returns:
      The same shape in the unit of the limits, float32.
    """
    return np.asarray(values, np.float32) * np.float32(limits.span) + np.float32(limits.low)


def rgb_input(rgb: np.ndarray) -> np.ndarray:
    """A photograph as the network takes it, with the mean and deviation of ImageNet.

    Args:
      rgb: (H, W, 3) uint8, uint16, or float in [0, 1].

    Returns:
      (H, W, 3) float32, about -2.1 to 2.7.

    Raises:
      InputError: another shape or kind of pixels.
    """
    rgb = np.asarray(rgb)
    if rgb.ndim != 3 or rgb.shape[-1] != 3:
        raise InputError(f"a photograph of shape {rgb.shape} is no (H, W, 3) RGB picture.")
    if rgb.dtype in (np.uint8, np.uint16):
        rgb = rgb.astype(np.float32) / np.float32(np.iinfo(rgb.dtype).max)
    elif not np.issubdtype(rgb.dtype, np.floating):
        raise InputError(f"a photograph of {rgb.dtype} pixels is neither uint8, uint16 nor float.")
    return (rgb.astype(np.float32) - _MEAN) / _DEVIATION


def rgb_picture(inputs: Any) -> np.ndarray:
    """The photograph in [0, 1] that `rgb_input` was given, (..., H, W, 3) float32."""
    return np.asarray(inputs) * _DEVIATION + _MEAN


def network_inputs(
    rgb: np.ndarray, low: np.ndarray, limits: Limits
) -> tuple[np.ndarray, np.ndarray]:
    """A photograph and a small map as the two inputs of a network.

    Args:
      rgb: (H, W, 3) as `rgb_input` takes it.
      low: (h, w) small map without holes.
      limits: in the unit of the map.

    Returns:
      (H, W, 3) and (H, W, 1) float32; the map is normalised and enlarged, not clipped.
    """
    height, width = rgb.shape[:2]
    return rgb_input(rgb), enlarge(normalised(low, limits), (height, width))[..., None]


def cropped(array: np.ndarray, scale: int) -> np.ndarray:
    """Cuts rows at the bottom and columns at the right until the scale divides the sides.

    Args:
      array: (H, W) or (H, W, C).
      scale: 1 or more.

    Returns:
      A view.

    Raises:
      InputError: a side is shorter than the scale.
    """
    height, width = (n - n % scale for n in array.shape[:2])
    if not height or not width:
        raise InputError(
            f"a picture of {array.shape[1]}x{array.shape[0]} cannot be reduced by {scale}; "
            "give a larger one or a smaller scale."
        )
    return array[:height, :width]


# ------------------------------------------------------------------------------------ resizing


def reduce(depth: np.ndarray, scale: int) -> np.ndarray:
    """The published degradation: antialiased bicubic with a = -0.5, taps outside left out.

    Equal to Pillow's bicubic on float pixels. Rows and columns that the scale does not divide are
    cut first, as `cropped` does.

    Args:
      depth: (H, W) without holes.
      scale: 1 or more; 1 changes nothing.

    Returns:
      (H // scale, W // scale) float32, not clipped.
    """
    depth = cropped(np.asarray(depth, np.float32), scale)
    return _pillow(depth, (depth.shape[0] // scale, depth.shape[1] // scale))


def enlarge_pillow(low: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarges by the kernel of `reduce`: the "bicubic" row of the literature.

    Args:
      low: (h, w).
      size: (H, W), any.

    Returns:
      (H, W) float32, not clipped.
    """
    return _pillow(np.asarray(low, np.float32), size)


def enlarge(low: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarges as networks take it: bicubic with a = -0.75, half-pixel centres, clamped borders.

    Equal to PyTorch's bicubic without aligned corners or antialiasing.

    Args:
      low: (h, w).
      size: (H, W), any.

    Returns:
      (H, W) float32, not clipped.
    """
    result = np.asarray(low, np.float32)
    for axis in (1, 0):
        count, wanted = result.shape[axis], size[axis]
        centre = (np.arange(wanted) + 0.5) * (count / wanted) - 0.5
        index = np.floor(centre).astype(np.int64)[:, None] + np.arange(-1, 3)
        weights = _cubic(centre[:, None] - index, _ENLARGING)
        result = _gathered(result, axis, index.clip(0, count - 1), weights)
    return result


def _pillow(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    for axis in (1, 0):  # columns first, as Pillow has it, rounded to float32 in between
        count, wanted = array.shape[axis], size[axis]
        if count == wanted:
            continue
        step = count / wanted
        wide = max(step, 1.0)
        centre = (np.arange(wanted) + 0.5) * step
        first = np.floor(centre - 2 * wide + 0.5).astype(np.int64).clip(0)
        last = np.floor(centre + 2 * wide + 0.5).astype(np.int64).clip(None, count)
        index = first[:, None] + np.arange((last - first).max())
        weights = _cubic((index - centre[:, None] + 0.5) / wide, _REDUCING)
        weights = np.where(index < last[:, None], weights, 0.0)
        weights /= weights.sum(1, keepdims=True)
        array = _gathered(array, axis, index.clip(None, count - 1), weights)
    return array


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel of support 2, in float64."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _gathered(array: np.ndarray, axis: int, index: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums along an axis, tap by tap: memory for one result, not for all taps."""
    shape = [1, 1]
    shape[axis] = len(index)
    total: Any = 0.0
    for tap in range(index.shape[1]):
        total = total + weights[:, tap].reshape(shape) * array.take(index[:, tap], axis)
    return total.astype(np.float32)


# --------------------------------------------------------------------------------------- holes


def fill_holes(depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gives every missing pixel the value of the nearest valid one.

    Args:
      depth: (H, W); 0 and what is not finite are missing.

    Returns:
      (H, W) float32 without holes, and (H, W) bool, True where the map is valid.

    Raises:
      InputError: no pixel is valid.
    """
    depth = np.asarray(depth, np.float32)
    valid = np.isfinite(depth) & (depth != 0)
    if valid.all():
        return depth, valid
    if not valid.any():
        raise InputError("the depth map is empty: every pixel is 0 or not a number.")
    index = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    return depth[tuple(index)], valid
