"""What DeFusion learns from: one photograph seen twice, squares of each replaced by noise.

It is a task for the data room: ``data.task = "mgdn_jax.systems.defusion.pretext"``. An example is
drawn first (`draw`: every random number, a `Draws`) and made then (`made`: no random number), so
that other draws make the same example anywhere.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.io.codec import decode_image
from mgdn_jax.systems import fields

Example = dict[str, np.ndarray]
Draw = Callable[[Mapping[str, Any], np.random.Generator, int | None, bool | str | None], Example]

_GREY = np.array([0.2989, 0.587, 0.114], np.float32)
_TRIES = 10
_RATIOS = (3 / 4, 4 / 3)
_LEAST_SHARE, _SPREAD = 0.1, 1.12
_BRIGHTNESS, _CONTRAST, _SATURATION = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Pretext:
    """How two pictures are made of a photograph.

    Attributes:
      factors: least and largest factor of brightness, contrast and saturation, uniform.
      area: least and largest part of the photograph that a crop shows.
      coarse: squares along a side of the coarse grid.
      fine: least and largest number of squares along a side of the two fine grids.
      antialias: crops are reduced by a filter that widens with the factor; the published code ran
        without.
    """

    factors: tuple[float, float] = (0.1, 1.0)
    area: tuple[float, float] = (0.08, 1.0)
    coarse: int = 13
    fine: tuple[int, int] = (26, 27)
    antialias: bool = False

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("factors", "area"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise InputError(f"synthesis.{name} must be two numbers 0 < low <= high <= 1.")
        if not 1 <= self.coarse <= 1024 or not 1 <= self.fine[0] <= self.fine[1] <= 1024:
            raise InputError("synthesis.coarse and fine are numbers of squares from 1 to 1024.")


@dataclasses.dataclass(frozen=True)
class Draws:
    """All that is random in an example.

    Attributes:
      order: in which brightness (0), contrast (1) and saturation (2) are changed; other numbers
        change nothing.
      factors: of the three.
      window: top, left, height and width of the crop.
      grids: 1 keeps, 0 is noise: a coarse and a fine grid of the first picture, the same of the
        second, and one for what neither would show; (n, n) each.
      swaps: whether the two pictures change places.
      normals: (2, h, w, 3) standard normal noise.
    """

    order: Sequence[int]
    factors: Sequence[float]
    window: tuple[int, int, int, int]
    grids: Sequence[np.ndarray]
    swaps: bool
    normals: np.ndarray


def preparation(synthesis: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the card of a network says about files: pictures are only brought to [0, 1]."""
    fields.read(Pretext, synthesis, "synthesis")
    return {}


def make_draw(manifest: Mapping[str, Any], synthesis: Mapping[str, Any] | None) -> Draw:
    """The task as a function of a record of a set of photographs.

    An example has "a" and "b", (h, w, 3), the photograph "target" with noise in its place where
    "mask_a" and "mask_b", (h, w, 1), are 0. All are float32 in [0, 1]. Training crops are resized;
    validation takes the middle of the photograph, or all of it, in its own tones.

    Args:
      manifest: of the set.
      synthesis: fields of `Pretext` that differ from their defaults.

    Raises:
      InputError: a set without photographs, an unknown field or one out of range.
    """
    if "image" not in manifest["roles"]:
        raise InputError(
            f"this task does not fit the set {manifest['set']!r}; use one of photographs:"
            " mgdn data prepare natural --source FOLDER"
        )
    spec = fields.read(Pretext, synthesis, "synthesis")
    return lambda *args: _draw(spec, *args)


def _draw(
    spec: Pretext,
    record: Mapping[str, Any],
    rng: np.random.Generator,
    crop: int | None,
    turned: bool | str | None,
) -> Example:
    name = record["name"]
    shown = name.decode() if isinstance(name, bytes) else str(name)
    image = decode_image(record["image"], f"image of {shown}")
    image = np.repeat(image[..., None], 3, -1) if image.ndim == 2 else image[..., :3]
    photograph = image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    height, width = image.shape[:2]
    if turned is None:
        size = (height, width) if crop is None else (min(crop, height), min(crop, width))
        window = ((height - size[0]) // 2, (width - size[1]) // 2, *size)
        size = size if crop is None else (crop, crop)
        draws = dataclasses.replace(draw(spec, rng, image.shape, size), order=(), window=window)
    else:
        size = (crop or height, crop or width)
        draws = draw(spec, rng, image.shape, size)
        if turned:  # mirrored: upright stays upright
            photograph = photograph[:, ::-1] if rng.random() < 0.5 else photograph
    return made(photograph, draws, size, antialias=spec.antialias)


def draw(
    spec: Pretext, rng: np.random.Generator, shape: Sequence[int], size: tuple[int, int]
) -> Draws:
    """Every random number of an example.

    Args:
      spec: ranges.
      rng: source of every random choice.
      shape: height and width of the photograph.
      size: height and width of the example.
    """
    order = [int(k) for k in rng.permutation(3)]
    factors = [float(rng.uniform(*spec.factors)) for _ in range(3)]
    window = _window(spec.area, rng, shape[0], shape[1])
    fine = [int(rng.integers(spec.fine[0], spec.fine[1] + 1)) for _ in range(2)]
    share = _LEAST_SHARE + rng.random() / _SPREAD
    sizes = [spec.coarse, fine[0], spec.coarse, fine[0]]
    sizes.append((spec.coarse, *fine)[int(rng.choice(3, p=(0.33, 0.33, 0.34)))])
    grids = [rng.random((n, n)) < share for n in sizes]
    swaps = bool(rng.random() >= 0.5)
    normals = rng.standard_normal((2, *size, 3), dtype=np.float32)
    return Draws(order, factors, window, grids, swaps, normals)


def _window(
    area: tuple[float, float], rng: np.random.Generator, height: int, width: int
) -> tuple[int, int, int, int]:
    """A crop of random area and aspect; in the middle where none fits."""
    low, high = _RATIOS
    for _ in range(_TRIES):
        pixels = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        h, w = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h = min(height, max(1, round(width / low)))
    w = min(width, max(1, round(height * high)))
    return (height - h) // 2, (width - w) // 2, h, w


def made(
    photograph: np.ndarray, draws: Draws, size: tuple[int, int], *, antialias: bool = False
) -> Example:
    """The example that draws make of a photograph.

    Args:
      photograph: (H, W, 3) float32 in [0, 1].
      draws: every random number.
      size: height and width of the example.
      antialias: of `resized`.

    Returns:
      "a", "b", "target": (h, w, 3); "mask_a", "mask_b": (h, w, 1); float32.
    """
    toned = jittered(photograph, draws.order, draws.factors)
    clean = resized(toned, draws.window, size, antialias=antialias)
    mask_a, mask_b = masks(draws.grids, size, swaps=draws.swaps)
    noise = np.minimum(np.abs(draws.normals), np.float32(1))
    a, b = (clean * mask + noise[i] * (1 - mask) for i, mask in enumerate((mask_a, mask_b)))
    return {"a": a, "b": b, "target": clean, "mask_a": mask_a, "mask_b": mask_b}


def jittered(image: np.ndarray, order: Sequence[int], factors: Sequence[float]) -> np.ndarray:
    """Brightness, contrast and saturation times their factors, in an order, cut off at 0 and 1.

    Args:
      image: (H, W, 3) float32 in [0, 1].
      order: of `Draws`.
      factors: of the three.
    """
    for kind in order:
        if kind not in (_BRIGHTNESS, _CONTRAST, _SATURATION):
            continue
        factor = np.float32(factors[kind])
        other: Any = np.float32(0)
        if kind != _BRIGHTNESS:
            grey = image @ _GREY
            other = grey.mean(dtype=np.float64).astype(np.float32)
            other = other if kind == _CONTRAST else grey[..., None]
        image = np.clip(factor * image + (1 - factor) * other, 0, 1)
    return image


def resized(
    image: np.ndarray,
    window: tuple[int, int, int, int],
    size: tuple[int, int],
    *,
    antialias: bool = False,
) -> np.ndarray:
    """A window at another size, bilinear, pixels being areas.

    Args:
      image: (H, W, 3) float32.
      window: top, left, height and width.
      size: height and width of the result.
      antialias: the filter is as wide as the pixels of the result.
    """
    top, left, height, width = window
    part = image[top : top + height, left : left + width]
    if (height, width) == size:
        return np.ascontiguousarray(part)
    rows, columns = (_bilinear(n, m, antialias) for n, m in zip((height, width), size, strict=True))
    wide = np.tensordot(rows, part, 1)  # (h, W, 3)
    return np.ascontiguousarray(np.swapaxes(np.tensordot(columns, wide, (1, 1)), 0, 1))


def _bilinear(length: int, target: int, antialias: bool) -> np.ndarray:
    """(target, length) weights along an axis; each row sums to one."""
    scale = length / target
    support = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(target)[:, None] + 0.5) * scale
    distances = np.abs(np.arange(length)[None] + 0.5 - centres) / support
    weights = np.maximum(1 - distances, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def masks(
    grids: Sequence[np.ndarray], size: tuple[int, int], *, swaps: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Where the first and the second picture show the photograph; every pixel is shown by one.

    Args:
      grids: of `Draws`.
      size: height and width.
      swaps: whether the two change places.

    Returns:
      Two (h, w, 1) float32, 0 or 1.
    """
    maps = [_enlarged(np.asarray(grid, bool), size) for grid in grids]
    first, second, other = maps[0] & maps[1], maps[2] & maps[3], maps[4]
    lost = ~(first | second)
    first, second = (np.where(lost, filled, mask) for filled, mask in (
        (other, first), (~other, second)))  # fmt: skip
    pair = (second, first) if swaps else (first, second)
    return pair[0][..., None].astype(np.float32), pair[1][..., None].astype(np.float32)


def _enlarged(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A grid of squares over a picture."""
    rows, columns = (np.arange(m) * n // m for n, m in zip(grid.shape, size, strict=True))
    return grid[rows[:, None], columns[None]]
