"""The pictures that benchmarks/faults.py looks at, and what it measures on each.

Two lists: the pictures of test sets in which the faults were seen, which are only looked at, and
pictures of the same kind from train folders or made from nothing, which may be chosen by.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import photographs  # noqa: E402
from mgdn_jax.errors import InputError  # noqa: E402
from mgdn_jax.evaluation import baselines  # noqa: E402
from mgdn_jax.io import files  # noqa: E402
from mgdn_jax.metrics import luminance  # noqa: E402

Planes = Sequence[np.ndarray]
Measure = Callable[[Planes], dict[str, float]]
"""Luminance of the result of each scene, (H, W) in 0..255 -> figures by name."""
LISTS = ("test", "train")
ROLES = {"ivf": ("infrared", "visible"), "mef": ("under", "over"), "mff": ("near", "far")}
GOALS = {
    "share below 225": 0.0,
    "missing": 30.0,
    "largest, sigma 16": 3.0,
    "largest, sigma 32": 3.0,
    "largest move": 3.0,
}
"""What a figure may be at most."""
_PATCH, _AWAY = 16, 48


@dataclasses.dataclass(frozen=True)
class Case:
    """Pictures in which a fault is seen.

    Attributes:
        fault: name of the fault, of `FAULTS`.
        listed: of `LISTS`.
        name: of the picture.
        task: of `ROLES`.
        scenes: one scene, or two of which the second differs in one thing; uint8 pictures each.
        measure: figures of the results of all scenes.
        region: (H, W) bool, where the fault is looked for.
    """

    fault: str
    listed: str
    name: str
    task: str
    scenes: Sequence[Sequence[np.ndarray]]
    measure: Measure
    region: np.ndarray

    def __post_init__(self) -> None:
        if not self.region.any():
            raise InputError(f"{self.name} shows nothing of the fault {self.fault!r}.")


# ------------------------------------------------------------------------------- the measures


def white(visible: np.ndarray) -> np.ndarray:
    """Where the visible picture is white, and so is all within eight pixels; (H, W) bool."""
    return ndimage.minimum_filter(luminance(visible), 17) >= 250


def half_dark(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where one picture is black and the other of a middle gray, four pixels within; bool."""
    planes = np.stack([luminance(first), luminance(second)])
    low, high = planes.min(0), planes.max(0)
    return ndimage.binary_erosion((low <= 16) & (high >= 60) & (high <= 200), iterations=4)


def dark(exposures: Sequence[np.ndarray]) -> np.ndarray:
    """Where the first exposure is black and the last one shows something dark; (H, W) bool."""
    under, over = (ndimage.gaussian_filter(luminance(exposures[k]), 6) for k in (0, -1))
    return ndimage.binary_erosion((under <= 16) & (over >= 40) & (over <= 120), iterations=4)


def blobs(name: str, listed: str, infrared: np.ndarray, visible: np.ndarray) -> Case:
    """White beside a dark infrared: it must stay white."""
    region = white(visible)

    def measure(results: Planes) -> dict[str, float]:
        values = results[0][region]
        share = float((values < 225).mean())
        # A sky that is dull all over is another fault than one with holes.
        depth = float(np.median(values) - values.min())
        return {"lowest": float(values.min()), "share below 225": share, "hole": depth}

    return Case("blobs", listed, name, "ivf", [(infrared, visible)], measure, region)


def sky(name: str, listed: str, infrared: np.ndarray, visible: np.ndarray) -> Case:
    """Black beside gray: how far the result lies below what both say."""
    region = half_dark(infrared, visible)
    planes = np.stack([luminance(infrared), luminance(visible)])[:, region]

    def measure(results: Planes) -> dict[str, float]:
        values = results[0][region]
        gaps = planes.mean(0) - values
        return {
            "below the mean": float(gaps.mean()),
            "95 % below the mean": float(np.percentile(gaps, 95)),
            "below the brighter": float((planes.max(0) - values).mean()),
        }

    return Case("sky", listed, name, "ivf", [(infrared, visible)], measure, region)


def shadows(
    name: str, listed: str, exposures: Sequence[np.ndarray], region: np.ndarray | None = None
) -> Case:
    """A dark place that the last exposure shows: what is left of it."""
    region = dark(exposures) if region is None else region
    best = luminance(exposures[-1])

    def measure(results: Planes) -> dict[str, float]:
        gap = ndimage.gaussian_filter(best - results[0], 8.0)[region]
        return {
            "best exposure": float(best[region].mean()),
            "level": float(results[0][region].mean()),
            "missing": float((best - results[0])[region].mean()),
            "95 % missing": float(np.percentile(gap, 95)),
        }

    return Case("shadows", listed, name, "mef", [tuple(exposures)], measure, region)


def tone(
    name: str, listed: str, near: np.ndarray, far: np.ndarray, truth: np.ndarray | None = None
) -> Case:
    """Low frequencies of a focus pair against those of the sources' blends, and of the truth."""
    planes = [luminance(near), luminance(far)]
    weight = baselines.evidence_weight(near, far)
    targets = {"": weight * planes[0] + (1 - weight) * planes[1], " from the mean": sum(planes) / 2}
    if truth is not None:
        targets[" from the truth"] = luminance(truth)

    def measure(results: Planes) -> dict[str, float]:
        figures = {}
        for target, plane in targets.items():
            for sigma in (16, 32):
                gap = np.abs(ndimage.gaussian_filter(results[0] - plane, float(sigma)))
                figures[f"largest{target}, sigma {sigma}"] = float(gap.max())
                figures[f"average{target}, sigma {sigma}"] = float(gap.mean())
        return figures

    return Case("tone", listed, name, "mff", [(near, far)], measure, np.ones(weight.shape, bool))


def still(
    name: str,
    listed: str,
    before: Sequence[np.ndarray],
    after: Sequence[np.ndarray],
) -> Case:
    """Two scenes alike but for a hot thing: patches far from it must not move."""
    changes = [np.any(np.atleast_3d(x != y), -1) for x, y in zip(before, after, strict=True)]
    region = ndimage.distance_transform_edt(~np.any(changes, 0)) > _AWAY
    rows, columns = (n // _PATCH for n in region.shape)

    def patches(plane: np.ndarray) -> np.ndarray:
        cut = plane[: rows * _PATCH, : columns * _PATCH]
        return cut.reshape(rows, _PATCH, columns, _PATCH).mean((1, 3))

    whole = patches(region.astype(float)) == 1

    def measure(results: Planes) -> dict[str, float]:
        moves = np.abs(patches(results[1]) - patches(results[0]))[whole]
        return {"largest move": float(moves.max()), "average move": float(moves.mean())}

    return Case("still", listed, name, "ivf", [before, after], measure, region)


# ------------------------------------------------------------------------------- the pictures


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """Noise of several scales in [0, 1], (H, W)."""
    random = np.random.default_rng(seed)
    plane = sum(
        ndimage.gaussian_filter(random.normal(size=(height, width)), s) * s for s in (1, 2, 7, 20)
    )
    return (plane - plane.min()) / np.ptp(plane)


def _u8(x: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8)


def made_white(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Infrared black but for two warm things, visible with a white sky; 480x640."""
    ground, heat = texture(seed, 480, 640), texture(seed + 1, 480, 640)
    horizon = 110 + 60 * texture(seed + 2, 480, 640)[0]
    down, across = np.mgrid[:480, :640]
    is_sky = down < horizon[None]
    infrared = np.where(is_sky, 0.0, 0.12 * heat)
    for column in (150, 420):
        infrared[(abs(across - column) < 14) & (abs(down - 330) < 50)] = 0.9
    visible = np.where(is_sky, 1.0, 0.1 + 0.5 * ground)
    return _u8(infrared), _u8(visible)


def made_half_dark(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Infrared with a black sky above a bright house, visible with a gray sky; 480x640."""
    ground, noise = texture(seed, 480, 640), texture(seed + 1, 480, 640)
    down, across = np.mgrid[:480, :640]
    is_house = (abs(across - 200) < 130) & (down > 60)
    is_sky = (down < 200) & ~is_house
    infrared = np.where(is_sky, 0.0, np.where(is_house, 0.7 + 0.3 * ground, 0.4 * ground))
    visible = np.where(is_sky, 0.3 + 0.15 * noise, 0.15 + 0.3 * ground)
    return _u8(infrared), _u8(visible)


def made_bracket(seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Exposures at -2.5, 0 and 2.5 EV of one scene with a window and a dark corner; the corner."""
    height, width = 240, 320
    light = np.full((height, width), 0.12)
    light[40:120, 180:280], light[150:, :90] = 3.0, 0.006
    light = ndimage.gaussian_filter(light, 1.0)
    colours = np.stack([texture(seed + k, height, width) for k in range(3)], -1)
    radiance = (0.15 + 0.85 * colours) * light[..., None]
    exposures = [_u8(np.clip(radiance * 2**ev * 2, 0, 1) ** (1 / 2.2)) for ev in (-2.5, 0, 2.5)]
    corner = np.zeros((height, width), bool)
    corner[165:, :75] = True
    return exposures, corner


def made_walk(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A dull still scene, and the same with a small hot thing; infrared and visible each."""
    cool = 0.3 + 0.08 * texture(seed, 200, 280)
    visible = _u8(0.25 + 0.2 * texture(seed + 1, 200, 280))
    hot = cool.copy()
    down, across = np.mgrid[:200, :280]
    hot[(down - 90) ** 2 + (across - 115) ** 2 < 20] = 1.0
    return [_u8(cool), visible], [_u8(hot), visible]


def with_hot_thing(infrared: np.ndarray) -> np.ndarray:
    """A copy with a hot disk, a fortieth of the height wide, at a fifth of both sides."""
    height, width = infrared.shape[:2]
    down, across = np.mgrid[:height, :width]
    hot = infrared.copy()
    hot[(down - height / 5) ** 2 + (across - width / 5) ** 2 < (height / 40) ** 2] = 255
    return hot


def pair(folder: Path, sides: tuple[str, str], name: str) -> list[np.ndarray]:
    """Both pictures of a name.

    Raises:
        InputError: one of them is missing.
    """
    result = []
    for side in sides:
        paths = sorted((folder / side).glob(f"{name}.*"))
        if not paths:
            raise InputError(f"there is no {name} in {folder / side}; give the folder of all sets.")
        result.append(files.read_image(paths[0]))
    return result


IR_VI, UNDER_OVER, NEAR_FAR = ("ir", "vi"), ("under", "over"), ("near", "far")


def _stored_bracket(cases: Path) -> tuple[list[np.ndarray], np.ndarray]:
    names = ("under", "middle", "over")
    exposures = [files.read_image(cases / "bracket" / f"{name}.png") for name in names]
    corner = np.zeros(exposures[0].shape[:2], bool)
    corner[165:, :75] = True
    return exposures, corner


def seen(data: Path, cases: Path | None, faults: Sequence[str]) -> Iterator[Case]:
    """The pictures in which the faults were seen: nothing is chosen by them.

    Args:
        data: folder of all sets.
        cases: where a bracket and a sequence lie, `bracket/under.png` and `sequence/ir/000.png`
            for instance; None makes like ones.
        faults: those that are of interest.
    """
    ivf, lytro = data / "ivf", data / "mff/lytro20"
    if "blobs" in faults:
        yield blobs("MSRS 00633D", "test", *pair(ivf / "msrs5", IR_VI, "00633D"))
    if "sky" in faults:
        yield sky("TNO 18", "test", *pair(ivf / "tno25", IR_VI, "18"))
    if "shadows" in faults:
        exposures, corner = made_bracket(61) if cases is None else _stored_bracket(cases)
        yield shadows("bracket of two", "test", exposures[::2], corner)
        yield shadows("bracket of three", "test", exposures, corner)
    if "tone" in faults:
        for path in sorted((lytro / "near").iterdir()):
            yield tone(path.stem, "test", *pair(lytro, NEAR_FAR, path.stem))
    if "still" in faults:
        walk: Sequence[Sequence[np.ndarray]] = made_walk(71)
        if cases is not None:
            walk = [pair(cases / "sequence", IR_VI, number) for number in ("000", "011")]
        yield still("walk", "test", *walk)
        infrared, visible = pair(ivf / "msrs5", IR_VI, "00881N")
        hot = with_hot_thing(infrared)
        yield still("MSRS 00881N", "test", (infrared, visible), (hot, visible))


def alike(data: Path, faults: Sequence[str]) -> Iterator[Case]:
    """Pictures of the same kind that no test set shows.

    Args:
        data: folder of all sets.
        faults: those that are of interest.
    """
    ivf, natural = data / "ivf", data / "natural/train"
    if "blobs" in faults:
        yield blobs("FLIR_04319", "train", *pair(ivf / "train", IR_VI, "FLIR_04319"))
        yield blobs("flir_03046", "train", *pair(ivf / "train2", IR_VI, "flir_03046"))
        yield blobs("made, white sky", "train", *made_white(11))
    if "sky" in faults:
        yield sky("tno_003", "train", *pair(ivf / "train2", IR_VI, "tno_003"))
        yield sky("m3fd_02523", "train", *pair(ivf / "train2", IR_VI, "m3fd_02523"))
        yield sky("made, half dark", "train", *made_half_dark(21))
    if "shadows" in faults:
        for name in ("WallDrug", "Window", "Venice"):
            yield shadows(name, "train", pair(data / "mef/train30", UNDER_OVER, name))
        exposures, corner = made_bracket(31)
        yield shadows("made bracket of two", "train", exposures[::2], corner)
    if "tone" in faults:
        photos = sorted((natural / "train").glob("*.jpg")) or sorted(natural.glob("*.jpg"))
        for seed, radius in ((1, 3.0), (2, 6.0), (3, 10.0)):
            pictures, truth = photographs.scene(seed, photos, 520, 520, radius)
            yield tone(f"collage, radius {radius:.0f}", "train", *pictures, truth)
    if "still" in faults:
        yield still("made walk", "train", *made_walk(41))
        infrared, visible = pair(ivf / "train2", IR_VI, "msrs_00007N")
        hot = with_hot_thing(infrared)
        yield still("msrs_00007N", "train", (infrared, visible), (hot, visible))
