"""Where a picture is not there: transparent rims, borders of a warp, holes.

A masked pixel is filled from the other pictures before the network sees it, so that no black rim
is an edge and no statistic counts it. Where one picture alone is there, the result is that picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from mgdn_jax import image
from mgdn_jax.io.pixels import from_float, to_float

FEATHER = 8
"""Pixels over which a network's own tone fades into a picture that is alone."""
_ERODED = 2  # what warps and scalers mix with the colour behind a transparent rim

Mask = np.ndarray


def of_alpha(pixels: np.ndarray) -> Mask | None:
    """(H, W), True where a picture with alpha is there; None where it is everywhere.

    Pixels that are partly transparent hold a colour mixed with what is not there: they count as
    there only in a picture that is hardly opaque anywhere.
    """
    if pixels.ndim != 3 or pixels.shape[-1] not in (2, 4):
        return None
    alpha = pixels[..., -1]
    full = 1.0 if alpha.dtype.kind == "f" else float(np.iinfo(alpha.dtype).max)
    if alpha.min() >= full:
        return None
    there, opaque = alpha > 0, alpha >= 0.98 * full
    if not there.any():
        return there
    mask = opaque if 2 * np.count_nonzero(opaque) >= np.count_nonzero(there) else there
    return None if mask.all() else mask


def union(masks: Sequence[Mask | None]) -> Mask | None:
    """Where any picture is there; None everywhere."""
    total: Mask | None = None
    for mask in masks:
        if mask is None:
            return None
        total = mask.copy() if total is None else total | mask
    return None if total is None or total.all() else total


def trimmed(masks: Sequence[Mask | None]) -> list[Mask | None]:
    """Masks without the pixels next to their rims, where another picture is there instead."""
    if all(mask is None for mask in masks):
        return list(masks)
    box = np.ones((2 * _ERODED + 1,) * 2, bool)
    smaller = [None if m is None else ndimage.binary_erosion(m, box, border_value=1) for m in masks]
    lost: Mask | None = union(smaller)
    if lost is None:
        return smaller
    # Nobody else is there: the rim is better than nothing.
    return [
        s if s is None or m is None else s | (m & ~lost)
        for s, m in zip(smaller, masks, strict=True)
    ]


def filled(pictures: Sequence[np.ndarray], masks: Sequence[Mask | None]) -> list[np.ndarray]:
    """Pictures whose missing pixels are those of the other pictures that are there.

    Where nobody is there, the nearest pixel that is stands in. The mean of the others is taken
    where several are.

    Args:
        pictures: (H, W, C), C 1 or 3, of one dtype.
        masks: one each.

    Returns:
        New arrays where something was filled, else the pictures themselves.
    """
    result = []
    for index, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
        if mask is None:
            result.append(picture)
            continue
        result.append(_filled(index, picture, ~mask, pictures, masks))
    return result


def _filled(
    index: int,
    picture: np.ndarray,
    gap: Mask,
    pictures: Sequence[np.ndarray],
    masks: Sequence[Mask | None],
) -> np.ndarray:
    rows, columns = np.nonzero(gap)
    total = np.zeros((len(rows), picture.shape[-1]), np.float64)
    count = np.zeros(len(rows))
    for other, (pixels, mask) in enumerate(zip(pictures, masks, strict=True)):
        if other == index:
            continue
        there = np.ones(len(rows), bool) if mask is None else mask[rows, columns]
        values = pixels[rows, columns].astype(np.float64)
        if values.shape[-1] != total.shape[-1]:
            values = values.mean(-1, keepdims=True)
        total += np.where(there[:, None], values, 0.0)
        count += there
    new = picture.copy()
    some = count > 0
    mean = total[some] / count[some, None]
    if picture.dtype.kind != "f":
        mean = np.rint(mean)
    new[rows[some], columns[some]] = mean.astype(picture.dtype)
    if not some.all():
        hole = np.zeros(gap.shape, bool)
        hole[rows[~some], columns[~some]] = True
        if not hole.all():
            near = ndimage.distance_transform_edt(hole, return_distances=False, return_indices=True)
            new[hole] = new[near[0][hole], near[1][hole]]
    return new


def alone(masks: Sequence[Mask | None]) -> list[Mask | None]:
    """For each picture, where it is there and no other is; None for nowhere."""
    if all(mask is None for mask in masks):
        return [None] * len(masks)
    shape = next(mask.shape for mask in masks if mask is not None)
    count = np.zeros(shape, np.uint16)
    for mask in masks:
        count += np.uint16(1) if mask is None else mask.astype(np.uint16)
    single = count == 1
    result: list[Mask | None] = []
    for mask in masks:
        here = single if mask is None else single & mask
        result.append(here if here.any() else None)
    return result


def pasted(
    fused: np.ndarray, pictures: Sequence[np.ndarray], masks: Sequence[Mask | None], feather: int
) -> np.ndarray:
    """A result that is the one picture that is there, where only one is.

    Args:
        fused: (H, W, C) float32; changed in place.
        pictures: (H, W, C or 1) sources.
        masks: one each.
        feather: pixels over which the result fades into the picture that is alone.

    Returns:
        `fused`.
    """
    lonely = alone(masks)
    taken = np.zeros(fused.shape[:2], bool)
    for here in lonely:
        if here is not None:
            taken |= here
    for picture, here in zip(pictures, lonely, strict=True):
        if here is None:
            continue
        weight = here.astype(np.float32)
        if feather:  # into what several pictures share, never into what belongs to another alone
            distance = ndimage.distance_transform_edt(~here)
            fade = np.clip(1 - distance / (feather + 1), 0, 1).astype(np.float32)
            weight = np.where(taken, weight, fade)
        rows, columns = np.nonzero(weight)
        share = weight[rows, columns, None]
        values = to_float(picture[rows, columns])
        if values.shape[-1] > fused.shape[-1]:
            values = np.asarray(image.luminance(values))
        fused[rows, columns] = share * values + (1 - share) * fused[rows, columns]
    return fused


def fused(
    pictures: Sequence[np.ndarray],
    masks: Sequence[Mask | None],
    network: Callable[[list[np.ndarray], np.dtype | None], np.ndarray],
    dtype: np.dtype | None,
    feather: int,
) -> np.ndarray:
    """Pictures through a network, some of which are not there everywhere.

    Args:
        pictures: (H, W, C) each; integers beside floats where one is a result of others.
        masks: one each.
        network: pictures and the type of the result, None for floats as computed -> the result.
        dtype: of the result.
        feather: as in `pasted`.
    """
    if all(mask is None for mask in masks):
        return network(list(pictures), dtype)
    rims = trimmed(masks)
    if len({picture.dtype for picture in pictures}) > 1:
        pictures = [to_float(picture) for picture in pictures]
    # Values of the final range, unrounded: a picture that is alone joins them as it is.
    working = None if dtype is None else np.dtype(np.float32)
    result = network(filled(pictures, rims), working)
    return from_float(pasted(result, pictures, rims, feather), dtype)
