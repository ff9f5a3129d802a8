"""Pictures at other positions and sizes: warps with their masks, and resizing.

OpenCV makes the warps where it is installed (extra ``align``), SciPy elsewhere, which is slower.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from scipy import ndimage, sparse

from mgdn_jax.errors import InputError
from mgdn_jax.fusing.transforms import Size, Transform, covered, scaling

INTERPOLATIONS = ("lanczos", "cubic", "linear")
# Source pixels on either side of a position that weigh anything, with splines, too.
_REACH = 8
# OpenCV counts pixels of a side in 16 bits.
_OPENCV_SIDE = 32000
# A picture that is reduced by more than this is reduced by `resize` first, against aliasing.
_REDUCED = 0.75
_LOBES = 3
_BAND_ROWS = 1024


@functools.cache
def opencv() -> Any:
    """The module `cv2`, or None where the extra ``align`` is not installed."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def needed_opencv(purpose: str) -> Any:
    """The module `cv2`.

    Args:
        purpose: what needs it, for the message.

    Raises:
        InputError: the extra ``align`` is not installed.
    """
    cv2 = opencv()
    if cv2 is None:
        raise InputError(f"{purpose} needs OpenCV: pip install 'mgdn-jax[align]'")
    return cv2


# ------------------------------------------------------------------------------- warps


def warp(
    pixels: np.ndarray, transform: Transform, size: Size, *, interpolation: str = "lanczos"
) -> tuple[np.ndarray, np.ndarray]:
    """A moving picture as the reference sees it.

    Args:
        pixels: (H, W) or (H, W, C); integers or floats; two and four channels end in alpha.
        transform: from points of `pixels` to points of the reference.
        size: (height, width) of the reference.
        interpolation: of `INTERPOLATIONS`; values never leave the range of the source's own.

    Returns:
        The picture in `size` and the type of `pixels`, and the mask (height, width) of the pixels
        that the source has: they lie between its pixels, and its alpha is at least half there.
        Alpha is zero outside the mask; colours outside continue those of the rim.

    Raises:
        InputError: the transform was made for other sizes, or sends pixels to infinity.
    """
    if interpolation not in INTERPOLATIONS:
        raise InputError(
            f"interpolation is {interpolation!r}; choose one of {', '.join(INTERPOLATIONS)}."
        )
    source = pixels.shape[:2]
    transform.check_sizes(source, size)
    mask = covered(transform, source, size)
    here = present(pixels)
    if here is not None and not here.all():
        pixels = _filled(pixels, here)
    move = _whole_move(transform)
    if move is not None:
        out = _moved(pixels, move, size)
        there = None if here is None else _moved(here, move, size)
    else:
        there = None if here is None else _there(here, transform, size)
        out = _interpolated(pixels, transform, size, interpolation)
        if here is not None:
            # Finer filters would ring at the edges of what is there.
            out[..., -1] = _interpolated(pixels[..., -1], transform, size, "linear")
    if there is not None:
        mask &= there
        out[..., -1] = np.where(mask, out[..., -1], 0)
    return out, mask


def present(pixels: np.ndarray) -> np.ndarray | None:
    """Where the alpha of a picture is at least half, (H, W) bool; None without alpha."""
    if pixels.ndim == 2 or pixels.shape[-1] not in (2, 4):
        return None
    is_integer = np.issubdtype(pixels.dtype, np.integer)
    return pixels[..., -1] >= (np.iinfo(pixels.dtype).max / 2 if is_integer else 0.5)


def _whole_move(transform: Transform) -> tuple[int, int] | None:
    """Rows and columns of a move by whole pixels; None for every other transform."""
    matrix = transform.matrix
    move = np.round(matrix[:2, 2])
    is_whole = np.array_equal(matrix[:2, :2], np.eye(2)) and not matrix[2, :2].any()
    return (int(move[1]), int(move[0])) if is_whole and (move == matrix[:2, 2]).all() else None


def _moved(pixels: np.ndarray, move: tuple[int, int], size: Size) -> np.ndarray:
    """Pixels moved without arithmetic; the rim goes on outside."""
    rows, columns = (
        np.clip(np.arange(length) - step, 0, limit - 1)
        for length, step, limit in zip(size, move, pixels.shape[:2], strict=True)
    )
    return pixels[rows[:, None], columns]


def _filled(pixels: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Colours that grow by `_REACH` pixels over what is not there; alpha stays.

    Interpolation beside a transparent rim would otherwise mix in the colour below transparency.
    """
    out, here = pixels.copy(), here.copy()
    colours = out[..., :-1]
    ahead, behind, all_of = slice(1, None), slice(None, -1), slice(None)
    ways = [((ahead, all_of), (behind, all_of)), ((behind, all_of), (ahead, all_of))]
    ways += [(to[::-1], source[::-1]) for to, source in ways]
    for _ in range(_REACH):
        for to, source in ways:
            grown = here[source] & ~here[to]
            colours[to][grown] = colours[source][grown]
            here[to] |= grown
    return out


def _there(here: np.ndarray, transform: Transform, size: Size) -> np.ndarray:
    """Where all of the four source pixels around a position are there."""
    share = _interpolated(here.astype(np.float32), transform, size, "linear")
    # OpenCV places positions to 1/32 pixel, so that a neighbour weighs 0.03 or nothing.
    return share > 1.0 - 1e-3


def _interpolated(
    pixels: np.ndarray, transform: Transform, size: Size, interpolation: str
) -> np.ndarray:
    scale = _smallest_scale(transform, pixels.shape[:2])
    if scale < _REDUCED:
        source = pixels.shape[:2]
        height, width = (max(1, round(length * scale)) for length in source)
        reduced = resize(pixels, (height, width))
        back = scaling((height, width), source)
        inner = Transform(transform.matrix @ back.matrix)
        return _interpolated_plainly(reduced, inner, size, interpolation)
    return _interpolated_plainly(pixels, transform, size, interpolation)


def _smallest_scale(transform: Transform, size: Size) -> float:
    """By how much the transform reduces lengths at the middle of a picture, at most."""
    middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    steps = transform.apply(middle + 0.5 * np.array([[1, 0], [0, 1]]))
    steps -= transform.apply(middle - 0.5 * np.array([[1, 0], [0, 1]]))
    return float(np.linalg.svd(steps, compute_uv=False)[-1])


def _interpolated_plainly(
    pixels: np.ndarray, transform: Transform, size: Size, interpolation: str
) -> np.ndarray:
    """Interpolated without a filter against aliasing, in the source's type and range."""
    back = np.linalg.inv(transform.matrix)
    cv2 = opencv()
    work = pixels
    if pixels.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        work = pixels.astype(np.float64)
    if cv2 is not None and max(*pixels.shape[:2], *size) <= _OPENCV_SIDE:
        out = _warped_by_opencv(cv2, np.ascontiguousarray(work), back, size, interpolation)
    else:
        out = _warped_by_scipy(work, back, size, interpolation)
    out = out.reshape(*size, *pixels.shape[2:])
    if np.issubdtype(out.dtype, np.floating):
        low, high = pixels.min(), pixels.max()
        np.clip(out, low, high, out=out)
        if np.issubdtype(pixels.dtype, np.integer):
            np.rint(out, out=out)
    return out.astype(pixels.dtype, copy=False)


def _warped_by_opencv(
    cv2: Any, pixels: np.ndarray, back: np.ndarray, size: Size, interpolation: str
) -> np.ndarray:
    """`pixels` at the positions to which `back` takes the points of a picture of `size`."""
    way = {
        "lanczos": cv2.INTER_LANCZOS4,
        "cubic": cv2.INTER_CUBIC,
        "linear": cv2.INTER_LINEAR,
    }[interpolation]
    is_affine = not back[2, :2].any()
    act = cv2.warpAffine if is_affine else cv2.warpPerspective
    matrix = back[:2] / back[2, 2] if is_affine else back
    return act(
        pixels,
        matrix,
        (size[1], size[0]),
        flags=way | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _warped_by_scipy(
    pixels: np.ndarray, back: np.ndarray, size: Size, interpolation: str
) -> np.ndarray:
    """What `_warped_by_opencv` does, by splines; cubic ones stand for Lanczos' filter, too."""
    order = 1 if interpolation == "linear" else 3
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    kind = pixels.dtype if np.issubdtype(pixels.dtype, np.floating) else np.dtype(np.float32)
    out = np.empty((*size, planes.shape[-1]), kind)
    columns = np.arange(size[1], dtype=np.float64)
    for channel in range(planes.shape[-1]):
        plane = planes[..., channel].astype(kind)
        if order > 1:
            plane = ndimage.spline_filter(plane, order, output=np.float64, mode="mirror")
        for top in range(0, size[0], _BAND_ROWS):
            rows = np.arange(top, min(top + _BAND_ROWS, size[0]), dtype=np.float64)[:, None]
            x, y, w = (form[0] * columns + form[1] * rows + form[2] for form in back)
            at = np.clip(y / w, 0, plane.shape[0] - 1), np.clip(x / w, 0, plane.shape[1] - 1)
            out[top : top + _BAND_ROWS, :, channel] = ndimage.map_coordinates(
                plane, at, order=order, prefilter=False, mode="mirror"
            )
    if np.issubdtype(pixels.dtype, np.integer):
        limits = np.iinfo(pixels.dtype)
        return np.rint(np.clip(out, limits.min, limits.max)).astype(pixels.dtype)
    return out


# ------------------------------------------------------------------------------ resizing


def resize(pixels: np.ndarray, size: Size) -> np.ndarray:
    """A picture in another size, by Lanczos' filter, which widens where pixels are joined.

    Args:
        pixels: (H, W) or (H, W, C); integers or floats; two and four channels end in alpha, which
            weighs the colours.
        size: (height, width).

    Returns:
        The picture in `size`, in the type of `pixels` and within the range of its values.

    Raises:
        InputError: `size` has no pixels.
    """
    if min(size) < 1:
        raise InputError(f"the size {size[1]}x{size[0]} has no pixels; give at least 1x1.")
    if pixels.shape[:2] == tuple(size):
        return pixels
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    has_alpha = planes.shape[-1] in (2, 4) and pixels.ndim == 3
    weights = [_lanczos_matrix(old, new) for old, new in zip(planes.shape, size, strict=False)]
    out = np.empty((*size, planes.shape[-1]), pixels.dtype)
    alpha = planes[..., -1].astype(np.float32) if has_alpha else None
    shares = None if alpha is None else _resized(alpha, *weights)
    for channel in range(planes.shape[-1]):
        plane = planes[..., channel].astype(np.float32)
        is_colour = channel < planes.shape[-1] - 1
        if alpha is not None and shares is not None and is_colour:
            resized = _resized(plane * alpha, *weights)
            resized = np.divide(resized, shares, out=np.zeros_like(resized), where=shares > 0)
        else:
            resized = _resized(plane, *weights)
        low, high = planes[..., channel].min(), planes[..., channel].max()
        np.clip(resized, np.float32(low), np.float32(high), out=resized)
        if np.issubdtype(pixels.dtype, np.integer):
            np.rint(resized, out=resized)
        out[..., channel] = resized
    return out.reshape(*size, *pixels.shape[2:])


def _resized(plane: np.ndarray, rows: Any, columns: Any) -> np.ndarray:
    """Both directions of one plane, float32."""
    return (columns @ (rows @ plane).T).T


def _lanczos_matrix(old: int, new: int) -> Any:
    """Weights (new, old) of Lanczos' filter with three lobes, sparse float32, rows of sum one."""
    scale = old / new
    width = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale - 0.5
    count = int(np.ceil(2 * _LOBES * width)) + 1
    taps = np.ceil(centres - _LOBES * width).astype(np.int64)[:, None] + np.arange(count)
    away = (taps - centres[:, None]) / width
    weights = np.where(np.abs(away) < _LOBES, np.sinc(away) * np.sinc(away / _LOBES), 0.0)
    weights *= (taps >= 0) & (taps < old)
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(new), count)
    entries = (weights.astype(np.float32).ravel(), (rows, np.clip(taps, 0, old - 1).ravel()))
    matrix = sparse.csr_matrix(entries, shape=(new, old))
    matrix.eliminate_zeros()
    return matrix


def reduced_luminance(pixels: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Luminance in [0, 1] with at most `side` pixels a side, by the means of square blocks.

    Cheap rather than exact: where blocks are large, every second of their rows counts.

    Args:
        pixels: (H, W) or (H, W, C), any type; alpha counts for nothing.
        side: of the result at most, in pixels.

    Returns:
        (h, w) float32, and the (x, y) factors from its coordinates to those of `pixels`:
        ``full = factor * reduced + (factor - 1) / 2``.
    """
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    channels = 3 if planes.shape[-1] >= 3 else 1
    step = max(1, -(-max(planes.shape[:2]) // side))
    height, width = (max(1, length // step) for length in planes.shape[:2])
    used = planes[: height * step, : width * step]
    if step == 1:
        joined: Any = used.astype(np.float32)
    else:
        stride = 2 if step >= 6 else 1
        chosen = range(stride // 2, step, stride)
        is_float = np.issubdtype(planes.dtype, np.floating)
        joined = np.zeros((height, *used.shape[1:]), np.float32 if is_float else np.uint32)
        for row in chosen:
            joined += used[row::step]
        joined = joined.astype(np.float32) / np.float32(len(chosen))
    weights = np.zeros((step, planes.shape[-1]), np.float32)
    weights[:, :channels] = (0.299, 0.587, 0.114) if channels == 3 else 1.0
    weights /= step
    if np.issubdtype(planes.dtype, np.integer):
        weights /= np.iinfo(planes.dtype).max
    luminance = joined.reshape(height * width, -1) @ weights.ravel()
    return luminance.reshape(height, width), np.array([step, step], np.float64)
