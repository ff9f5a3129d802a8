"""The base of a fused picture, its low frequencies of luminance: the network's, or the sources'.

A network that answers to statistics of the whole picture may shift tone over wide areas, which a
rule without learning gets right: out of focus or not, photographs have nearly the same low
frequencies, and of exposures Mertens' weights know which shows a place best. So there is

    result = fused + low(blend - luminance(fused))

in every channel, where low is halved `LEVELS` times and expanded again by the low-pass of a
Laplacian pyramid (Burt and Adelson 1983). Details stay the network's.

It is computed on the whole picture, after all tiles, in pieces whose values do not depend on how
the picture is cut: batches and tiles change nothing but what the network itself makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mgdn_jax.fusing import blending, evidence, pyramids, strips
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.systems.config import SystemConfig

LEVELS = 3
"""Halvings: what is coarser than about 2^3 pixels comes from the sources.

Of 3 to 6, on twelve pairs of collages of training photographs, blurred by disks of radius 3 to 20
(`benchmarks/photographs.scene`), 3 is nearest to the truth by PSNR over the whole picture."""
_BORDERS = pyramids.REFLECTED


def chosen(options: FuseOptions, config: SystemConfig) -> str:
    """Whose low frequencies a result has: networks that blend their sources keep their own."""
    return "network" if config.blends else str(options.base)


def replaced(fused: np.ndarray, pictures: Sequence[np.ndarray], base: str) -> np.ndarray:
    """A result whose low frequencies of luminance are those of a blend of its sources.

    Args:
        fused: (H, W, C) float32, C 1 or 3, in units of [0, 1]; changed in place.
        pictures: the sources, (H, W, 1 or 3) each, uint8, uint16 or floats in [0, 1].
        base: of `options.BASES`: ``"network"`` changes nothing, ``"focus"`` blends by sharpness
            (`evidence`), ``"exposure"`` by Mertens' weights (`blending`).

    Returns:
        `fused`.
    """
    if base == "network":
        return fused
    gap = _BLENDS[base](pictures)
    height, width = gap.shape

    def subtract(rows: slice, columns: slice) -> None:
        gap[rows, columns] -= evidence.luminance(fused[rows, columns])

    strips.spread(subtract, height, width)
    low = _low_pass(gap)
    for rows, columns in strips.pieces(height, width):
        fused[rows, columns] += pyramids.expanded(low, rows, columns, _BORDERS[1])[..., None]
    return fused


def _low_pass(plane: np.ndarray) -> np.ndarray:
    """A plane's low frequencies at half its size: halved `LEVELS` times, expanded but once less."""
    sizes = [plane.shape]
    for _ in range(LEVELS):
        plane = pyramids.shrunk(plane, _BORDERS[0])
        sizes.append(plane.shape)
    for height, width in sizes[-2:0:-1]:
        large = np.empty((height, width), np.float32)

        def work(rows: slice, columns: slice, x: np.ndarray = plane, out=large) -> None:
            out[rows, columns] = pyramids.expanded(x, rows, columns, _BORDERS[1])

        strips.spread(work, height, width)
        plane = large
    return plane


def _by_focus(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Luminance of the sources, each where it is sharp, (H, W) float32."""
    members = [evidence.Evidence(picture) for picture in pictures]
    height, width = pictures[0].shape[:2]
    out = np.empty((height, width), np.float32)

    def work(rows: slice, columns: slice) -> None:
        parts = evidence.weights(members, rows, columns)
        out[rows, columns] = sum(
            part * evidence.luminance(picture[rows, columns])
            for part, picture in zip(parts, pictures, strict=True)
        )

    strips.spread(work, height, width)
    return out


def _by_exposure(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Luminance of the sources under Mertens' weights, scale by scale, (H, W) float32."""
    height, width = pictures[0].shape[:2]
    levels = blending.depth(height, width)
    blend = pyramids.Blend(height, width, levels, _BORDERS)
    weights = blending.normalised(blending.mertens(pictures))
    for picture, weight in zip(pictures, weights, strict=True):
        maps = pyramids.weight_pyramid(weight, levels, _BORDERS)
        blend.add(evidence.luminance(picture), maps)
    return blend.collapse()


_BLENDS = {"focus": _by_focus, "exposure": _by_exposure}
