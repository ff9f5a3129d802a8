"""Exposures that a network weighs all at once: any number, in any order (`Config.sets`).

The network runs once, on all pictures, whole or reduced; its weights at full size blend them, and
where they are meant for it (`Config.scales`) the details of every scale, in a Laplacian pyramid of
full depth. Pictures are put into an order of their own first, dark to bright, so that the order in
which they come changes nothing, not even by rounding.

Every picture is loaded twice, one after the other: once for the network, once to be added up. What
is held at full size does not grow with their number, but for the content of holes (`holes`): where
details are blended scale by scale, the others fill an exposure's holes in its own tone, and its
weights there are those of any exposure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from mgdn_jax import image
from mgdn_jax.fusing import blending, evidence, holes, masks, pyramids, reduction, strips
from mgdn_jax.fusing.photographs import Result, Scene, Weigh
from mgdn_jax.io.pixels import from_float, to_float


def fuse(
    scene: Scene,
    weigh: Weigh,
    *,
    size: tuple[int, int] | None = None,
    has_scales: bool = True,
    has_order: bool = False,
    dtype: np.dtype | None = None,
    has_depth: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> Result:
    """Fuses exposures of one scene.

    Args:
        scene: two or more pictures. Where one is not there, and cannot be filled from the others
            or is not to be (without `has_scales`), its weight is 0.
        weigh: the network, called once, on all pictures: dark to bright, float32, holes filled,
            all with the channels that the result has.
        size: height and width of what the network sees; None is the pictures' own.
        has_scales: whether details are blended scale by scale; else pixel by pixel.
        has_order: whether the network tells its inputs apart: they stay in the order given.
        dtype: of the result; None is float32 in the range of [0, 1], neither clipped nor rounded.
        has_depth: whether the number of the picture with the largest weight is wanted.
        tick: called after each picture, both times, and after the network.
    """
    covers: list[np.ndarray | None] = []
    keys: list[tuple[float, bytes]] = []
    found: dict[int, np.ndarray] = {}
    channels = 1
    for number in range(scene.count):
        picture, cover = scene.load(number), scene.coverage(number)
        keys.append(_key(picture, cover))
        covers.append(cover)
        channels = max(channels, picture.shape[-1])
        shape = picture.shape[:2]
        if cover is None:
            found[number] = _seen(picture, size)
        tick()
    ranks = sorted(range(scene.count), key=keys.__getitem__)
    order = list(range(scene.count)) if has_order else ranks
    whole = holes.Filler(scene.load, masks.trimmed(covers), ranks, has_tone=has_scales)
    found |= {i: _seen(whole.load(i), size) for i in order if i not in found}
    smalls = [np.broadcast_to(found[i], (*found[i].shape[:2], channels)) for i in order]
    weights = np.moveaxis(weigh(smalls), -1, 0)
    seen = smalls[0].shape[:2]
    del smalls, found
    tick()
    shares = _Shares(weights, [whole.covers[i] for i in order], shape)
    sums = _Sums(shape, channels, has_scales)
    depth = _Largest(shape) if has_depth else None
    for place, number in enumerate(order):
        share = shares.of(place)
        sums.add(whole.load(number), share)
        if depth is not None:
            depth.note(share, number, covers[number])
        tick()
    fused = sums.collapsed(dtype)
    return Result(fused, None if depth is None else depth.numbers, "set", seen)


def _seen(picture: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """A picture as the network gets it, float32."""
    return to_float(picture) if size is None else reduction.reduced(picture, *size)


def order(pictures: Sequence[np.ndarray]) -> list[int]:
    """Pictures from dark to bright, equally bright ones by their content, as indices."""
    keys = [_key(picture, None) for picture in pictures]
    return sorted(range(len(pictures)), key=keys.__getitem__)


def _key(picture: np.ndarray, cover: np.ndarray | None) -> tuple[float, bytes]:
    """What pictures are sorted by; it is the same for two only if they are one and the same."""
    content = hashlib.blake2b(np.ascontiguousarray(picture).data)
    if cover is not None:
        content.update(np.packbits(cover).tobytes())
    there = np.ones(1, bool) if cover is None else cover
    light = np.asarray(image.luminance(picture[::4, ::4].astype(np.float64)))[..., 0]
    here = np.broadcast_to(there[::4, ::4] if cover is not None else there, light.shape)
    return float(light[here].mean()) if here.any() else 0.0, content.digest()


class _Shares:
    """The share of each picture at every pixel of full size; they sum to one."""

    def __init__(
        self, weights: np.ndarray, covers: Sequence[np.ndarray | None], shape: tuple[int, int]
    ):
        """Finds out what the weights sum to where pictures are missing.

        Args:
            weights: (n, h, w), at least 0, of any size.
            covers: (H, W) bool where each picture is there; None is everywhere.
            shape: height and width of the pictures.
        """
        self._weights, self._covers, self._shape = weights, list(covers), shape
        somewhere = masks.union(covers)
        if somewhere is not None:  # where nobody is there all have been filled
            self._covers = [None if c is None else c | ~somewhere for c in covers]
        self._total: np.ndarray | None = None
        if any(cover is not None for cover in covers):
            total = np.zeros(shape, np.float32)
            for place in range(len(weights)):
                total += self._raw(place)
            self._total = total

    def of(self, place: int) -> np.ndarray:
        """(H, W) float32 of one picture."""
        share = self._raw(place)
        return share if self._total is None else np.divide(share, self._total, out=share)

    def _raw(self, place: int) -> np.ndarray:
        weights, cover = self._weights[place], self._covers[place]
        out = np.empty(self._shape, np.float32)

        def work(rows: slice, columns: slice) -> None:
            part = evidence.stretched(weights, self._shape, rows, columns)
            if cover is not None:
                part = np.where(cover[rows, columns], part, np.float32(0))
            # Whoever is there alone counts, however little the network thought of it.
            is_there = True if cover is None else cover[rows, columns]
            out[rows, columns] = part + np.where(is_there, np.float32(_LEAST), np.float32(0))

        strips.spread(work, *self._shape)
        return out


_LEAST = 1e-9


class _Sums:
    """Pictures added up under their shares, one sum a channel."""

    def __init__(self, shape: tuple[int, int], channels: int, has_scales: bool):
        levels = blending.depth(*shape) if has_scales else 0
        self._borders = pyramids.REFLECTED
        self._blends = [pyramids.Blend(*shape, levels, self._borders) for _ in range(channels)]
        self._levels, self._scale = levels, 1.0

    def add(self, picture: np.ndarray, share: np.ndarray) -> None:
        """Adds a picture, (H, W, C) of any accepted type."""
        self._scale = float(np.iinfo(picture.dtype).max) if picture.dtype.kind == "u" else 1.0
        maps = pyramids.weight_pyramid(share, self._levels, self._borders)
        for channel, blend in enumerate(self._blends):
            blend.add(picture[..., min(channel, picture.shape[-1] - 1)], maps)

    def collapsed(self, dtype: np.dtype | None) -> np.ndarray:
        """(H, W, C) in a type; ends the sums."""
        planes: list[np.ndarray] = []
        while self._blends:
            plane = self._blends.pop(0).collapse()
            plane *= np.float32(1 / self._scale)
            planes.append(from_float(plane, dtype))
        return np.stack(planes, -1)


class _Largest:
    """The number of the picture whose share is the largest, pixel by pixel."""

    def __init__(self, shape: tuple[int, int]):
        self.numbers = np.zeros(shape, np.uint16)
        self._best = np.full(shape, -1, np.float32)

    def note(self, share: np.ndarray, number: int, cover: np.ndarray | None) -> None:
        """Takes note of one picture's shares where it is there."""
        share = share if cover is None else np.where(cover, share, np.float32(0))
        is_better = share > self._best
        self.numbers[is_better] = number
        np.maximum(self._best, share, out=self._best)
