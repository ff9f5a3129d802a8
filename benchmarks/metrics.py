"""Processor seconds per metric on one core, and against direct 2-D convolution.

    python benchmarks/metrics.py [fused.png a.png b.png] [--size 480x640] [--repeats 5]
                                 [--markdown FILE]

Without files the triple is a seeded synthetic picture of the given size and two distorted
versions of it. Every repeat starts from images of which nothing has been computed yet. The
windowed metrics are also computed as their formulas are usually written down: each local sum a
2-D convolution with the full kernel (`scipy.signal.convolve2d`, `mode="valid"`). Both give the
same value, which is checked.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy import ndimage, signal

from mgdn_jax import metrics
from mgdn_jax.errors import InputError
from mgdn_jax.io.disk import write_atomically
from mgdn_jax.io.files import read_image

Plane = np.ndarray


def synthetic(height: int, width: int, seed: int = 0) -> tuple[Plane, Plane, Plane]:
    """A fused image and two sources: shapes and texture, one source blurred, one darkened."""
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.standard_normal((height, width)), 1.5) * 60
    shapes = ndimage.zoom(rng.uniform(30, 220, (height // 40 + 2, width // 40 + 2)), 41, order=0)
    x = ndimage.gaussian_filter(shapes[:height, :width], 1.0) + texture
    a = ndimage.gaussian_filter(x, 2.5) + rng.normal(0, 2, x.shape)
    b = 0.6 * x + 20 * np.sin(np.arange(width) / 30) + rng.normal(0, 2, x.shape)
    return tuple(np.rint(np.clip(y, 0, 255)) for y in (x, a, b))


# The same metrics by direct 2-D convolution, nothing shared between calls.


def direct(x: Plane, kernel: Plane) -> Plane:
    """Every window inside the image, the kernel applied as it stands."""
    return signal.convolve2d(x, kernel, mode="valid")


def gaussian(size: int, sigma: float) -> Plane:
    """Normalised `(size, size)` Gaussian."""
    x = np.arange(size) - size // 2
    kernel = np.exp(-(x[:, None] ** 2 + x**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def moments(x: Plane, y: Plane, kernel: Plane) -> tuple[Plane, ...]:
    """Local means, variances and the covariance of two images: five convolutions."""
    m_x, m_y = direct(x, kernel), direct(y, kernel)
    v_x, v_y = direct(x * x, kernel) - m_x**2, direct(y * y, kernel) - m_y**2
    return m_x, m_y, v_x, v_y, direct(x * y, kernel) - m_x * m_y


def ssim_map(x: Plane, y: Plane, kernel: Plane, unbiased: float, c1: float, c2: float) -> Plane:
    """SSIM of every window; `unbiased` is n/(n-1) for sample moments, else 1."""
    m_x, m_y, v_x, v_y, v_xy = moments(x, y, kernel)
    top = (2 * m_x * m_y + c1) * (2 * unbiased * v_xy + c2)
    return top / ((m_x**2 + m_y**2 + c1) * (unbiased * (v_x + v_y) + c2))


def direct_ssim(f: Plane, a: Plane, b: Plane, size: int = 7, level: float = 255.0) -> float:
    """SSIM with the uniform 7x7 window."""
    kernel = np.full((size, size), 1 / size**2)
    c1, c2, unbiased = (0.01 * level) ** 2, (0.03 * level) ** 2, size**2 / (size**2 - 1)
    return sum(float(np.mean(ssim_map(f, s, kernel, unbiased, c1, c2))) for s in (a, b))


def direct_ssim_gauss(f: Plane, a: Plane, b: Plane) -> float:
    """SSIM with the Gaussian 11x11 window."""
    kernel, c1, c2 = gaussian(11, 1.5), 6.5025, 58.5225
    return sum(float(np.mean(ssim_map(f, s, kernel, 1, c1, c2))) for s in (a, b))


def direct_ms_ssim(f: Plane, a: Plane, b: Plane) -> float:
    """MS-SSIM."""
    total = 0.0
    for source in (a, b):
        x, y, product = f, source, 1.0
        for scale, power in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            if scale:
                x, y = (_pool(z) for z in (x, y))
            m_x, m_y, v_x, v_y, v_xy = moments(x, y, gaussian(11, 1.5))
            term = (2 * v_xy + 58.5225) / (v_x + v_y + 58.5225)
            if scale == 4:
                term = term * (2 * m_x * m_y + 6.5025) / (m_x**2 + m_y**2 + 6.5025)
            product *= max(float(np.mean(term)), 0.0) ** power
        total += product
    return total


def _pool(x: Plane) -> Plane:
    x = np.pad(x, [(side % 2, side % 2) for side in x.shape])
    return signal.convolve2d(x, np.full((2, 2), 0.25), mode="valid")[::2, ::2]


def direct_vif(f: Plane, a: Plane, b: Plane) -> float:
    """VIF."""
    total, eps, noise = 0.0, 1e-10, 2.0
    for source in (a, b):
        x, y = source, f
        carried = available = 0.0
        for scale, size in enumerate((17, 9, 5, 3)):
            kernel = gaussian(size, size / 5)
            if scale:
                x, y = direct(x, kernel)[::2, ::2], direct(y, kernel)[::2, ::2]
            _, _, v_x, v_y, v_xy = moments(x, y, kernel)
            v_x, v_y = np.maximum(v_x, 0), np.maximum(v_y, 0)
            gain = v_xy / (v_x + eps)
            rest = v_y - gain * v_xy
            gain, rest = np.where(v_x < eps, 0, gain), np.where(v_x < eps, v_y, rest)
            v_x = np.where(v_x < eps, 0, v_x)
            gain, rest = np.where(v_y < eps, 0, gain), np.where(v_y < eps, 0, rest)
            rest, gain = np.where(gain < 0, v_y, rest), np.maximum(gain, 0)
            rest = np.maximum(rest, eps)
            carried += float(np.sum(np.log10(1 + gain**2 * v_x / (rest + noise))))
            available += float(np.sum(np.log10(1 + v_x / noise)))
        total += carried / available
    return total


def direct_qabf(f: Plane, a: Plane, b: Plane) -> float:
    """Qabf, zeros outside the image."""
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=float)
    strengths, angles = [], []
    for x in (f, a, b):
        s_x = signal.convolve2d(x, sobel, mode="same")
        s_y = signal.convolve2d(x, -sobel.T, mode="same")
        strengths.append(np.sqrt(s_x**2 + s_y**2))
        upright = s_x == 0
        angles.append(np.where(upright, np.pi / 2, np.arctan(s_y / np.where(upright, 1, s_x))))
    top = bottom = 0.0
    for g, angle in zip(strengths[1:], angles[1:], strict=True):
        g_f, larger = strengths[0], np.maximum(g, strengths[0])
        ratio = np.where(g == g_f, g_f, np.minimum(g, g_f) / np.where(larger == 0, 1, larger))
        turn = 1 - np.abs(angle - angles[0]) / (np.pi / 2)
        quality = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5)))
        quality *= 0.9879 / (1 + np.exp(-22 * (turn - 0.8)))
        top, bottom = top + float(np.sum(quality * g)), bottom + float(np.sum(g))
    return top / bottom


def direct_q_y(f: Plane, a: Plane, b: Plane) -> float:
    """Q_Y without its rule for flat regions, of which the synthetic pictures have none."""
    kernel, c = gaussian(7, 1.5), 2e-16
    s_ab, s_af, s_bf = (ssim_map(x, y, kernel, 1, c, c) for x, y in ((a, b), (a, f), (b, f)))
    v_a, v_b = (direct(x * x, kernel) - direct(x, kernel) ** 2 for x in (a, b))
    share = v_a / (v_a + v_b)
    value = np.where(s_ab >= 0.75, share * s_af + (1 - share) * s_bf, np.maximum(s_af, s_bf))
    return float(np.mean(value))


def direct_q_cb(f: Plane, a: Plane, b: Plane) -> float:
    """Q_CB; its filter by Fourier transform is the same in both."""
    height, width = f.shape
    y = (np.arange(height) - height // 2)[:, None] * 2 / height
    x = (np.arange(width) - width // 2) * 2 / width
    r = np.sqrt((width / 30 * x) ** 2 + (height / 30 * y) ** 2)
    response = np.exp(-((r / 15.3870) ** 2)) - 0.7622 * np.exp(-((r / 1.3456) ** 2))
    masked = []
    for image in (f, a, b):
        z = image / 255
        z = np.floor(255 * ((z - z.min()) / (z.max() - z.min())) + 0.5)
        z = np.fft.ifft2(np.fft.ifftshift(np.fft.fftshift(np.fft.fft2(z)) * response)).real
        near, far = (
            signal.convolve2d(z, gaussian_density(31, sigma), mode="same") for sigma in (2, 4)
        )
        contrast = np.abs(near / far - 1)
        masked.append(contrast**3 / (contrast**2 + 0.0001))
    p_f, p_a, p_b = masked
    share = p_a**2 / (p_a**2 + p_b**2)
    q_a, q_b = (np.minimum(p, p_f) / np.maximum(p, p_f) for p in (p_a, p_b))
    return float(np.mean(share * q_a + (1 - share) * q_b))


def gaussian_density(size: int, sigma: float) -> Plane:
    """`(size, size)` samples of the normal density, not normalised."""
    x = np.arange(size) - size // 2
    return np.exp(-(x[:, None] ** 2 + x**2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)


def direct_standard(f: Plane, a: Plane, b: Plane) -> dict[str, float]:
    """The standard set: its windowed metrics directly, the others as they are."""
    windowed = {"VIF": direct_vif, "Qabf": direct_qabf, "SSIM": direct_ssim}
    others = tuple(name for name in metrics.STANDARD if name not in windowed)
    scores = metrics.evaluate(*(metrics.Gray(x) for x in (f, a, b)), others)
    return scores | {name: metric(f, a, b) for name, metric in windowed.items()}


DIRECT: dict[str, Callable[[Plane, Plane, Plane], float | dict[str, float]]] = {
    "STANDARD": direct_standard,
    "SSIM_dr255": direct_ssim,
    "SSIM_gauss": direct_ssim_gauss,
    "MS_SSIM": direct_ms_ssim,
    "VIF": direct_vif,
    "Qabf": direct_qabf,
    "Q_Y": direct_q_y,
    "Q_CB": direct_q_cb,
}


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Median processor time of `repeats` calls after one call to warm caches of code and tables."""
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return float(np.median(times))


def main() -> None:
    """Prints the table and writes it as Markdown if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", help="fused image, first and second source")
    parser.add_argument("--size", default="480x640", help="of the synthetic picture, HxW")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--markdown", type=Path, help="file to write")
    arguments = parser.parse_args()
    if len(arguments.images) not in (0, 3):
        parser.error("give three images (fused, first source, second source) or none.")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if arguments.images:
        triple = tuple(metrics.luminance(read_image(path)) for path in arguments.images)
    else:
        triple = synthetic(*(int(side) for side in arguments.size.split("x")))
    height, width = triple[0].shape

    def cold(names: tuple[str, ...]) -> dict[str, float]:
        return metrics.evaluate(*(metrics.Gray(x) for x in triple), names)

    lines = [
        f"One core, {height}x{width}, processor time, medians of {arguments.repeats} repeats, "
        "nothing precomputed.",
        "",
        "| metric | seconds | direct 2-D convolution | ratio |",
        "|---|---:|---:|---:|",
    ]
    for name in ("STANDARD", *metrics.ALL):
        names = metrics.STANDARD if name == "STANDARD" else (name,)
        if any(metrics.resolve(n).min_side > min(height, width) for n in names):
            continue
        ours = median_seconds(lambda names=names: cold(names), arguments.repeats)
        theirs = ratio = ""
        if name in DIRECT:
            plain, value = DIRECT[name](*triple), cold(names)
            plain = plain if isinstance(plain, dict) else {name: plain}
            for key, wanted in plain.items():
                if abs(wanted - value[key]) > 1e-9 * max(1, abs(wanted)):
                    raise SystemExit(f"{key}: direct {wanted!r} differs from {value[key]!r}.")
            seconds = median_seconds(lambda name=name: DIRECT[name](*triple), arguments.repeats)
            theirs, ratio = f"{seconds:.3f}", f"{seconds / ours:.1f}"
        title = "**standard set of 8**" if name == "STANDARD" else name
        lines.append(f"| {title} | {ours:.4f} | {theirs} | {ratio} |")
    text = "\n".join(lines) + "\n"
    Console().print(text, markup=False, highlight=False)
    if arguments.markdown:
        write_atomically(arguments.markdown, text.encode())


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
