"""Examples of guided depth super-resolution: a photograph, an enlarged small map, the map itself.

The small map is made of a crop of the map by the preparation that evaluation and use share
(`mgdn_jax.quantities.depth`); each crop is normalised by its own least and largest depth, as the
published training has it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mgdn_jax.data.augmentation import MODES, augment, crop_around, draw_corner
from mgdn_jax.errors import InputError
from mgdn_jax.io.codec import decode_image
from mgdn_jax.io.depth import decode_depth
from mgdn_jax.quantities import depth as quantity
from mgdn_jax.systems import fields

Example = dict[str, np.ndarray]
Draw = Callable[[Mapping[str, Any], np.random.Generator, int | None, bool | str | None], Example]

_TRIES = 8
_LEAST = 1e-3  # of the picture's span: what is flatter is noise, which normalising would blow up
_WINDOW = 16  # crops are multiples of it, so that no network has to complete them


@dataclasses.dataclass(frozen=True)
class DepthSynthesis:
    """How small maps are made.

    Attributes:
      scale: how many times as many rows and columns the map has as the small one.
      shrink: photograph and map are reduced by a factor log-uniform in 1 .. shrink before the
        crop, by means over areas; at most 4, and 1 turns it off. Farther views of the same scenes.
      whole_share: part of the crops that is normalised by the limits of the whole picture, as maps
        in use are, in place of their own, as published.
    """

    scale: int = 4
    shrink: float = 1.0
    whole_share: float = 0.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        quantity.DepthPreparation(self.scale)
        real = isinstance(self.shrink, int | float) and not isinstance(self.shrink, bool)
        if not real or not 1 <= self.shrink <= 4:
            raise InputError(f"synthesis.shrink is {self.shrink!r}; use 1 (off) to 4.")
        real = isinstance(self.whole_share, int | float) and not isinstance(self.whole_share, bool)
        if not real or not 0 <= self.whole_share <= 1:
            raise InputError(
                f"synthesis.whole_share is {self.whole_share!r}; give a probability, 0 to 1."
            )


def preparation(synthesis: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the card of a network says that was trained on these examples.

    Args:
      synthesis: fields of `DepthSynthesis` that differ from their defaults.

    Raises:
      InputError: an unknown field or one out of range.
    """
    spec = fields.read(DepthSynthesis, synthesis, "synthesis")
    return quantity.DepthPreparation(spec.scale).to_dict()


def make_draw(manifest: Mapping[str, Any], synthesis: Mapping[str, Any] | None) -> Draw:
    """The task "gdsr" as a function of a record of a set "rgbd".

    An example has "a": (h, w, 3) normalised photograph; "b": (h, w, 1) enlarged normalised small
    map, which may leave [0, 1] a little; "target": (h, w, 1) in [0, 1]; "span": () largest less
    least depth of the crop in the stored unit. All are float32. Holes are filled. A crop is a
    multiple of 16 and of the scale; without one the picture is cut until the scale divides it.

    Args:
      manifest: of the set.
      synthesis: fields of `DepthSynthesis` that differ from their defaults.

    Raises:
      InputError: another set, an unknown field or one out of range.
    """
    if set(manifest["roles"]) != {"rgb", "depth"}:
        raise InputError(
            f"task 'gdsr' does not fit the set {manifest['set']!r}; use one of photographs and "
            "depth maps: mgdn data prepare rgbd --source FOLDER"
        )
    spec = fields.read(DepthSynthesis, synthesis, "synthesis")
    return lambda *args: _draw(spec, *args)


def _draw(
    spec: DepthSynthesis,
    record: Mapping[str, Any],
    rng: np.random.Generator,
    crop: int | None,
    turned: bool | str | None,
) -> Example:
    rgb, depth = _decode(record)
    whole = quantity.limits_of(depth)
    least = _LEAST * whole.span
    if crop is None:
        rgb, depth = (quantity.cropped(x, spec.scale) for x in (rgb, depth))
    else:
        rgb, depth = _window(spec, rgb, depth, rng, crop, turned is None, least)
    if turned:
        mode = 2 * int(rng.integers(MODES // 2)) if turned == "flips" else int(rng.integers(MODES))
        rgb, depth = augment(rgb, mode), augment(depth, mode)
    limits = quantity.limits_of(depth)
    if limits.span <= least:
        depth = np.full_like(depth, limits.low)
        limits = quantity.limits_of(depth)
    if spec.whole_share and rng.random() < spec.whole_share:
        limits = whole
    small = quantity.reduce(depth, spec.scale)
    first, second = quantity.network_inputs(rgb, small, limits)
    target = quantity.normalised(depth, limits)[..., None]
    return {"a": first, "b": second, "target": target, "span": np.asarray(limits.span, np.float32)}


def _window(
    spec: DepthSynthesis,
    rgb: np.ndarray,
    depth: np.ndarray,
    rng: np.random.Generator,
    crop: int,
    centred: bool,
    least: float,
) -> tuple[np.ndarray, np.ndarray]:
    """A square of photograph and map; flat ones are drawn again."""
    multiple = math.lcm(_WINDOW, spec.scale)
    if crop % multiple:
        raise InputError(
            f"crop is {crop}; give a multiple of {multiple} for depth maps at {spec.scale}x."
        )
    side = crop
    if spec.shrink > 1 and not centred:
        drawn = round(crop * math.exp(rng.uniform(0, math.log(spec.shrink))))
        side = max(crop, min(drawn, *depth.shape))
    for _ in range(1 if centred else _TRIES):
        corner = ((n - side) // 2 for n in depth.shape)
        top, left = corner if centred else draw_corner(rng, depth.shape, side)
        part = crop_around(depth, top, left, side, side)
        if part.max() - part.min() > least:
            break
    rgb = crop_around(rgb, top, left, side, side)
    if side == crop:
        return rgb, part
    full = np.iinfo(rgb.dtype).max
    return _area(rgb / np.float32(full), crop).clip(0, 1), _area(part, crop)


def _area(image: np.ndarray, count: int) -> np.ndarray:
    """Means over equal areas, (count, count[, C]) float32 of a larger square."""
    for axis in (0, 1):
        lines = np.moveaxis(image, axis, 0).astype(np.float64)
        sums = np.concatenate([np.zeros_like(lines[:1]), lines.cumsum(0)])
        edge = np.linspace(0, len(lines), count + 1)
        whole = np.minimum(edge.astype(np.int64), len(lines) - 1)
        share = (edge - whole).reshape(-1, *[1] * (image.ndim - 1))
        upto = sums[whole] + share * (sums[whole + 1] - sums[whole])
        means = np.diff(upto, axis=0) * (count / len(lines))
        image = np.moveaxis(means, 0, axis)
    return image.astype(np.float32)


def _decode(record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) in the integers it is stored with, and (H, W) float32 without holes."""
    name = record["name"]
    name = name.decode() if isinstance(name, bytes) else str(name)
    rgb = decode_image(record["rgb"], f"rgb of {name}")
    if rgb.ndim == 2:
        rgb = np.repeat(rgb[..., None], 3, axis=-1)
    return rgb, quantity.fill_holes(decode_depth(record["depth"], f"depth of {name}"))[0]
