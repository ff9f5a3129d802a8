"""Exposures of a scene in which something moves, merged into its radiance.

    python examples/hdr.py                                    # on a bracket made here
    python examples/hdr.py short.jpg middle.jpg long.jpg      # on your own; times from EXIF

The bracket made here is the coffee pair's photograph by the light of a lamp, with a ball that
rolls from exposure to exposure. Where the ball is in the result, it is where the middle exposure
shows it, and it is there once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import mgdn_jax
from mgdn_jax.io import files

HERE = Path(__file__).parent
STOPS = (-2.0, 0.0, 2.0)
"""The exposures made here are so far apart."""


def make_bracket(has_ball: bool = True) -> list[np.ndarray]:
    """Three exposures of 8 bits, from short to long."""
    photograph = files.read_image(HERE / "coffee_near.jpg")[::2, ::2] / np.float32(255)
    height, width, _ = photograph.shape
    rows, columns = np.mgrid[:height, :width]
    lamp = np.exp(-((rows - 0.2 * height) ** 2 + (columns - 0.7 * width) ** 2) / 2e3)
    light = photograph**2.2 * (0.4 + 6.0 * lamp[..., None])
    exposures = []
    for number, stop in enumerate(STOPS):
        ball = (rows - 0.7 * height) ** 2 + (columns - (0.3 + 0.1 * number) * width) ** 2 < 300
        scene = np.where(has_ball & ball[..., None], np.float32((0.5, 0.1, 0.05)), light)
        exposures.append(np.rint(255 * np.minimum(scene * 2**stop, 1) ** (1 / 2.2)))
    return [exposure.astype(np.uint8) for exposure in exposures]


def main(argv: Sequence[str] | None = None) -> np.ndarray:
    """Merges, says what was done, and writes the radiance and a picture of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exposures", nargs="*", help="files; none: the bracket made here")
    parser.add_argument("--ev", nargs="+", type=float, help="their steps, where EXIF has no times")
    parser.add_argument("--model", default="mgdn-hdr", help="a bundled name or a weight file")
    parser.add_argument("--out", default="merged", help="name of the two files to write")
    options = parser.parse_args(argv)

    merge = mgdn_jax.Deghoster(options.model)
    if options.exposures:
        merged = merge(options.exposures, ev=options.ev)
    else:
        merged = merge(make_bracket(), ev=STOPS)
    for step in merged.report.steps:
        print(step["says"])
    low, high = np.quantile(merged.radiance, (0.001, 0.999))
    print(f"99.8 % of the radiance lies between {low:.2g} and {high:.2g}")
    merged.save(f"{options.out}.hdr")
    files.write_image(f"{options.out}.png", merged.preview())
    return merged.radiance


if __name__ == "__main__":
    main()
