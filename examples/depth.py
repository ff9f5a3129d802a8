"""Guided depth super-resolution: a small depth map and a photograph of one view, from file to file.

    python examples/depth.py --workdir depth_example

The scene is drawn here, so that the truth is known: balls before a wall, measured by a sensor with
a quarter of the photograph's resolution that leaves a hole. For files of your own, `load`, the call
and `save` are all that is needed.
"""

import argparse
from pathlib import Path

import numpy as np

import mgdn_jax
from mgdn_jax.io import depth, files
from mgdn_jax.quantities.depth import enlarge, reduce

BALLS = ((60, 70, 40, 1500), (120, 170, 50, 1900), (50, 200, 25, 1200))  # row, column, radius, mm


def draw_scene(height=160, width=256):
    """A photograph, (H, W, 3) uint8, and the depth at each of its pixels, (H, W) in millimetres."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    distance = 2600.0 + 2.0 * columns
    colour = np.full((height, width, 3), (150, 140, 120), np.float32)
    for row, column, radius, place in sorted(BALLS, key=lambda ball: -ball[3]):
        square = radius**2 - (rows - row) ** 2 - (columns - column) ** 2
        inside = square > 0
        distance[inside] = place - 4 * np.sqrt(square[inside])
        shade = 0.4 + 0.6 * np.sqrt(square[inside]) / radius
        colour[inside] = shade[:, None] * rng.uniform(90, 255, 3)
    colour += rng.normal(0, 4, colour.shape)
    return np.rint(colour.clip(0, 255)).astype(np.uint8), distance.astype(np.float32)


def error(found, truth, valid):
    """Root of the mean squared error in millimetres."""
    return float(np.sqrt(np.mean((found - truth)[valid] ** 2)))


def main(arguments=None):
    """Runs the example; returns the errors of plain enlargement and of the network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="mgdn-gdsr4", help="a bundled name or a weight file")
    parser.add_argument("--workdir", type=Path, default=Path("depth_example"))
    options = parser.parse_args(arguments)
    folder = options.workdir

    rgb, truth = draw_scene()
    small = reduce(truth, 4)
    plain = enlarge(small, truth.shape)
    small[5:9, 40:44] = np.nan  # nothing came back from there
    files.write_image(folder / "rgb.png", rgb)
    depth.write_depth(folder / "low.png", small, "mm")  # 16 bits; holes are 0

    upsampler = mgdn_jax.DepthUpsampler.load(options.model)
    result = upsampler(folder / "low.png", folder / "rgb.png")
    for step in result.report.steps:
        print(f"{step['step']:<7} {step['says']}")
    result.save(folder / "high.png")  # or .tif, .npz: floats
    result.save_preview(folder / "look.png")

    valid = ~result.missing
    errors = error(plain, truth, valid), error(result.depth, truth, valid)
    print(f"error   {errors[0]:.1f} mm without the photograph, {errors[1]:.1f} mm with it")
    return errors


if __name__ == "__main__":
    main()
