"""HDR deghosting: brackets with true radiance, scored as papers score them.

A method is given three exposures and makes radiance where the middle one is. It is clipped to
[0, 1] and compared with the truth, as it is and after the mu-law (mu = 5000), in float64. The
figure of a set is the mean of its scenes' figures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mgdn_jax.data.scenes import BRACKET, find_brackets, ordered, read_radiance, read_steps
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation.merges import Merge
from mgdn_jax.evaluation.scores import Table
from mgdn_jax.io import codec, files, opening, radiance
from mgdn_jax.io.disk import check_links, write_atomically
from mgdn_jax.io.pixels import without_alpha
from mgdn_jax.metrics.reference import psnr_linear, psnr_mu, ssim_linear, ssim_mu
from mgdn_jax.quantities.radiance import mu_law, relative_times

METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "PSNR_mu": psnr_mu,
    "PSNR_L": psnr_linear,
    "SSIM_mu": ssim_mu,
    "SSIM_L": ssim_linear,
}
"""Columns of a table; HDR-VDP-2 exists for MATLAB alone and is not among them."""


@dataclass(frozen=True)
class Scene:
    """A bracket and its true radiance, as files.

    Attributes:
        name: Title of the row.
        exposures: Paths of three pictures.
        times: Path of their EV steps.
        truth: Path of the radiance.
    """

    name: str
    exposures: tuple[Path, Path, Path]
    times: Path
    truth: Path

    def read(self) -> tuple[list[np.ndarray], tuple[float, ...], np.ndarray]:
        """The pixels.

        Returns:
            Three exposures, short to long, `(H, W, 3)` float32 in [0, 1]; their times relative to
            the shortest; the truth, `(H, W, 3)` float32, whose 1 saturates the shortest.

        Raises:
            InputError: a file cannot be read, or sizes differ.
        """
        text = opening.read_bytes(self.times, "a text file", 2**16)
        steps = read_steps(text, os.fspath(self.times))
        truth = read_radiance(opening.read_bytes(self.truth), os.fspath(self.truth))
        exposures = [_exposure(self.exposures[k]) for k in ordered(steps)]
        for path, picture in zip(self.exposures, exposures, strict=True):
            if picture.shape != truth.shape:
                raise InputError(
                    f"{path} is {picture.shape[1]}x{picture.shape[0]}, but {self.truth} is "
                    f"{truth.shape[1]}x{truth.shape[0]}; a scene's pictures have one size."
                )
        # The truth belongs to times 2^x; here the shortest time is 1.
        scaled = truth * np.float32(2.0 ** min(steps))
        return exposures, relative_times(ev=sorted(steps)), scaled


def find_scenes(folder: str | os.PathLike[str]) -> list[Scene]:
    """The scenes of a folder.

    Args:
        folder: With a subfolder a scene: three exposures, `exposure.txt`, `HDRImg.hdr`.

    Raises:
        InputError: there are none, or one lacks a file.
    """
    return [
        Scene(
            entry["name"],
            (entry["short"], entry["middle"], entry["long"]),
            entry["times"],
            entry[BRACKET[-1]],
        )
        for entry in find_brackets(Path(folder))
    ]


def evaluate_hdr(
    methods: Mapping[str, Merge],
    scenes: Sequence[Scene],
    *,
    save: str | os.PathLike[str] | None = None,
    on_scene: Callable[[str], None] | None = None,
) -> dict[str, Table]:
    """Scores methods on a set.

    Args:
        methods: Name to a callable `(exposures, times) -> (H, W, 3)`, as those of
            `evaluation.merges` and `fusing.deghosting.Deghoster.in_use`.
        scenes: The set.
        save: A folder that receives `METHOD/SCENE.hdr` and `METHOD/SCENE.png`, the picture after
            the mu-law; None for none.
        on_scene: Called with the name of each scene that was measured.

    Returns:
        Method to its table, with the columns `METRICS`.

    Raises:
        InputError: a file cannot be read or written, or a result has another shape.
    """
    tables = {name: Table(tuple(METRICS)) for name in methods}
    for scene in scenes:
        exposures, times, truth = scene.read()
        for name, merge in methods.items():
            result = np.asarray(merge(exposures, times), np.float32)
            if result.shape != truth.shape:
                raise InputError(f"{name} gave {result.shape} for a scene of {truth.shape}.")
            result = result.clip(0, 1)
            tables[name].rows[scene.name] = {
                metric: score(result, truth) for metric, score in METRICS.items()
            }
            if save is not None:
                _write(Path(save) / name, scene.name, result)
        if on_scene is not None:
            on_scene(scene.name)
    return tables


def _write(folder: Path, name: str, result: np.ndarray) -> None:
    picture = np.rint(255 * mu_law(result)).astype(np.uint8)
    try:
        check_links(folder, is_folder=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{name}.hdr", radiance.encode(result))
        write_atomically(folder / f"{name}.png", codec.encode(picture, ".png"))
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}).") from None


def _exposure(path: Path) -> np.ndarray:
    picture = without_alpha(files.read_image(path))
    if picture.ndim == 2 or picture.shape[-1] != 3:
        raise InputError(f"{path} is gray; a bracket has three channels.")
    if picture.dtype == np.float32:
        raise InputError(f"{path} has float pixels; an exposure has 8 or 16 bits.")
    return picture.astype(np.float32) * np.float32(1 / np.iinfo(picture.dtype).max)
