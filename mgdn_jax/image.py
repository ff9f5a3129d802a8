"""Array maths everybody shares: colour spaces, gradients, windows.

Functions take NumPy or JAX arrays and return the same kind. Images are channel-last in [0, 1].
"""

from typing import Any

import numpy as np

# BT.601 luma weights, full range (the YCbCr of JPEG).
LUMA = (0.299, 0.587, 0.114)


def luminance(image: Any) -> Any:
    """Luminance (..., h, w, 1) of an RGB image (..., h, w, 3); one channel passes through.

    Raises:
        ValueError: neither one nor three channels.
    """
    if image.shape[-1] == 1:
        return image
    if image.shape[-1] != 3:
        raise ValueError(f"expected 1 or 3 channels, got shape {image.shape}")
    return LUMA[0] * image[..., 0:1] + LUMA[1] * image[..., 1:2] + LUMA[2] * image[..., 2:3]


def rgb_to_ycbcr(rgb: Any) -> Any:
    """RGB in [0, 1] -> Y, Cb, Cr in [0, 1], BT.601 full range; neutral chroma is 0.5."""
    xp = rgb.__array_namespace__()
    y = luminance(rgb)
    cb = 0.5 + (rgb[..., 2:3] - y) / (2.0 * (1.0 - LUMA[2]))
    cr = 0.5 + (rgb[..., 0:1] - y) / (2.0 * (1.0 - LUMA[0]))
    return xp.concat([y, cb, cr], axis=-1)


def ycbcr_to_rgb(ycbcr: Any) -> Any:
    """Inverse of `rgb_to_ycbcr`; values may leave [0, 1] for impossible colours."""
    xp = ycbcr.__array_namespace__()
    y, cb, cr = (ycbcr[..., i : i + 1] for i in range(3))
    r = y + 2.0 * (1.0 - LUMA[0]) * (cr - 0.5)
    b = y + 2.0 * (1.0 - LUMA[2]) * (cb - 0.5)
    g = (y - LUMA[0] * r - LUMA[2] * b) / LUMA[1]
    return xp.concat([r, g, b], axis=-1)


def fuse_chroma(first: Any, second: Any) -> Any:
    """Mix two chroma planes, each weighted by its distance from neutral (0.5).

    The usual rule of fusion papers, ``(|c1-128| c1 + |c2-128| c2) / (|c1-128| + |c2-128|)``;
    neutral where both are.
    """
    xp = first.__array_namespace__()
    w1, w2 = abs(first - 0.5), abs(second - 0.5)
    total = w1 + w2
    mixed = (w1 * first + w2 * second) / xp.where(total == 0, xp.ones_like(total), total)
    return xp.where(total == 0, xp.full_like(total, 0.5), mixed)


def fuse_chroma_published(first: Any, second: Any) -> Any:
    """The chroma rule as ReFusion's published code has it, on planes whose neutral value is 0.5.

    ``(c1 |c1 - 0.5| + c2 |c2 - 0.5|) / (|c1 - 0.5| + |c2 - 0.5| + 1e-4)`` in units of 8-bit
    levels: 0 instead of 0.5 where both are neutral, which tints neutral pixels by half a level.
    """
    w1, w2 = abs(first - 0.5), abs(second - 0.5)
    return (first * w1 + second * w2) / (w1 + w2 + 1e-4)


def rgb_to_ycrcb_published(rgb: Any) -> Any:
    """RGB in [0, 255] -> Y, Cr, Cb with the rounded constants of ReFusion's published code.

    Y in [0, 255]; chroma in levels around 0.5 (the code adds the offset of unit-range images).
    """
    xp = rgb.__array_namespace__()
    y = luminance(rgb)
    cr = 0.713 * (rgb[..., 0:1] - y) + 0.5
    cb = 0.564 * (rgb[..., 2:3] - y) + 0.5
    return xp.concat([y, cr, cb], axis=-1)


def ycrcb_published_to_rgb(ycrcb: Any) -> Any:
    """Inverse of `rgb_to_ycrcb_published` to about 0.1 levels; not clipped."""
    xp = ycrcb.__array_namespace__()
    y, cr, cb = ycrcb[..., 0:1], ycrcb[..., 1:2] - 0.5, ycrcb[..., 2:3] - 0.5
    planes = [y + 1.403 * cr, y - 0.714 * cr - 0.344 * cb, y + 1.773 * cb]
    return xp.concat(planes, axis=-1)


def mertens_weight(picture: Any) -> Any:
    """How well each pixel of an exposure shows the scene: contrast, saturation, exposedness.

    The product of the absolute Laplacian of luminance, the deviation of the channels (left out
    for one channel) and a Gaussian of deviation 0.2 around middle gray for every channel, plus
    1e-12. Source: Mertens, Kautz, Van Reeth 2007, all exponents one.

    Args:
        picture: (h, w, 1 or 3) in [0, 1]; mirrored at its border pixels.

    Returns:
        (h, w), at least 1e-12; weights of several exposures are divided by their sum.
    """
    xp = picture.__array_namespace__()
    y = luminance(picture)[..., 0]
    sides = -4.0 * y
    for x, axis in ((y, 0), (y, 1)):
        second = 1 if x.shape[axis] > 1 else 0
        rows = xp.moveaxis(x, axis, 0)
        before = xp.concat([rows[second : second + 1], rows[:-1]], axis=0)
        after = xp.concat([rows[1:], rows[-1 - second : len(rows) - second]], axis=0)
        sides = sides + xp.moveaxis(before + after, 0, axis)
    weight = abs(sides)
    if picture.shape[-1] == 3:
        weight = weight * xp.std(picture, axis=-1)
    return weight * xp.exp(-xp.sum((picture - 0.5) ** 2, axis=-1) / 0.08) + 1e-12


def gaussian_window(size: int, sigma: float) -> np.ndarray:
    """Normalised 1-D Gaussian of odd ``size`` taps, float64; its outer product is the 2-D one."""
    if size % 2 == 0:
        raise ValueError(f"a window needs an odd size, got {size}")
    x = np.arange(size) - size // 2
    window = np.exp(-(x**2) / (2.0 * sigma**2))
    return window / window.sum()


def sobel(image: Any, border: str = "replicate") -> tuple[Any, Any]:
    """Sobel responses along x and y of (..., h, w, c), divided by 8.

    A ramp of slope 1 per pixel answers 1. The border is ``"replicate"`` or ``"zero"`` (black
    around the image, which answers along its edges as the convolutions of networks do).
    """
    xp = image.__array_namespace__()
    keep = {"replicate": 1.0, "zero": 0.0}[border]
    top, bottom = keep * image[..., :1, :, :], keep * image[..., -1:, :, :]
    rows = xp.concat([top, image, bottom], axis=-3)
    rows = xp.concat([keep * rows[..., :, :1, :], rows, keep * rows[..., :, -1:, :]], axis=-2)
    up, mid, down = rows[..., :-2, :, :], rows[..., 1:-1, :, :], rows[..., 2:, :, :]
    smooth_y = (up + 2.0 * mid + down) / 8.0
    slope_y = (down - up) / 8.0
    gx = smooth_y[..., :, 2:, :] - smooth_y[..., :, :-2, :]
    gy = slope_y[..., :, :-2, :] + 2.0 * slope_y[..., :, 1:-1, :] + slope_y[..., :, 2:, :]
    return gx, gy
