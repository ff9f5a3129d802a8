"""Brackets for HDR deghosting: synthetic ones of radiance pictures, and stored ones.

Both give what `quantities.radiance` prepares: "a", "b", "c", the short, middle and long exposure,
(h, w, 6) each, and "target", (h, w, 3) radiance in [0, 1] where the middle one is.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from mgdn_jax.arguments import shown
from mgdn_jax.data.augmentation import MODES, augment, crop_around, draw_corner
from mgdn_jax.data.brackets import (
    MARGIN,
    Brackets,
    Cutout,
    area_reduced,
    cut_out,
    gain_of,
    limited,
    synthesise_bracket,
    times_of,
)
from mgdn_jax.data.builders import label_ids, open_set
from mgdn_jax.data.scenes import BRACKET, ordered, read_radiance, read_steps
from mgdn_jax.errors import InputError
from mgdn_jax.io.codec import decode_image
from mgdn_jax.quantities.radiance import GAMMA, RadiancePreparation, relative_times
from mgdn_jax.systems.fields import fault

Example = dict[str, np.ndarray]
VIEWS = 16
"""Windows of each radiance picture that an evaluation looks at."""
_RIM = 10  # pixels of stored brackets that training leaves out, where alignment has no source
_CACHE = 256 << 20  # bytes of decoded pictures that are kept
_SURROUNDINGS = 3  # times the window: what the exposure of a synthetic bracket is set by
_MOST_REGIONS = 4096  # numbers that labels may have without being counted anew
_NAMES = ("a", "b", "c")


@dataclasses.dataclass(frozen=True)
class _Sources:
    """Where photographs come from.

    Attributes:
      objects: a set of photographs with segmentations, by name or folder.
      train_split: those that training uses.
      held_out_split: those that evaluation uses.
    """

    objects: str = "natural"
    train_split: str = "train[:95%]"
    held_out_split: str = "train[95%:]"


class _Photograph(NamedTuple):
    """A photograph and its regions.

    Attributes:
      pixels: (H, W, 3) uint8.
      regions: (H, W), from 0.
      brightness: mean log light of each region, less the picture's.
      sizes: pixels of each region.
    """

    pixels: np.ndarray
    regions: np.ndarray
    brightness: np.ndarray
    sizes: np.ndarray


def preparation(synthesis: Mapping[str, Any] | None) -> dict[str, Any]:
    """What cards of networks trained on these examples store."""
    _read(synthesis)
    return RadiancePreparation().to_dict()


def views(manifest: Mapping[str, Any]) -> int:
    """Examples that evaluation draws of each record: a radiance picture has many windows."""
    return VIEWS if tuple(manifest["roles"]) == ("radiance",) else 1


def make_draw(
    manifest: Mapping[str, Any], synthesis: Mapping[str, Any] | None
) -> Callable[[Mapping[str, Any], np.random.Generator, int | None, bool | str | None], Example]:
    """The task "hdr" as a function of a record, see `examples.Draw`.

    Args:
      manifest: of a set of radiance pictures, or of stored brackets.
      synthesis: fields of `Brackets` that differ from their defaults, and `objects`,
        `train_split`, `held_out_split`: the set of photographs (`mgdn data prepare natural`) that
        objects and a part of the scenes are taken from, and its parts. Only for radiance pictures.

    Raises:
      InputError: another set, a field that there is not, or no such set of photographs.
    """
    roles = tuple(manifest["roles"])
    if roles == BRACKET:
        if synthesis:
            raise InputError("synthesis belongs to radiance pictures; stored brackets have none.")
        return _draw_stored
    if roles != ("radiance",):
        raise InputError(
            f"task 'hdr' does not fit the set {manifest['set']!r}; prepare one with mgdn data "
            "prepare hdr or mgdn data prepare brackets."
        )
    spec, sources = _read(synthesis)
    shelf = _Shelf(_CACHE)
    used = {
        held_out: _Photographs(sources.objects, split, shelf)
        for held_out, split in ((False, sources.train_split), (True, sources.held_out_split))
    }
    return functools.partial(_draw_synthetic, spec, used, shelf)


def _read(synthesis: Mapping[str, Any] | None) -> tuple[Brackets, _Sources]:
    """The two kinds of fields."""
    values = {key: value for key, value in dict(synthesis or {}).items() if value is not None}
    words = [field.name for field in dataclasses.fields(_Sources)]
    numbers = [field.name for field in dataclasses.fields(Brackets)]
    if unknown := [key for key in values if key not in words + numbers]:
        raise InputError(
            f"synthesis has no field {', '.join(map(str, unknown))}; choose from "
            f"{', '.join(words + numbers)}."
        )
    for key, value in values.items():
        if key in words:
            fits, wanted = isinstance(value, str), "a name"
        else:
            fits = fault(value, float) is None
            wanted = "a finite number"
        if not fits:
            raise InputError(f"synthesis.{key} is {shown(value)}; give {wanted}.")
    spec = Brackets(**{k: v for k, v in values.items() if k in numbers})
    return spec, _Sources(**{k: v for k, v in values.items() if k in words})


# ------------------------------------------------------------------------------ stored brackets


def _draw_stored(
    record: Mapping[str, Any],
    rng: np.random.Generator,
    crop: int | None,
    turned: bool | str | None,
) -> Example:
    """A bracket as it was taken; one window and one turn for all."""
    name = _name(record)
    stored = [decode_image(record[role], f"{role} of {name}") for role in BRACKET[:3]]
    steps = read_steps(record["times"], f"times of {name}")
    order = ordered(steps)
    truth = read_radiance(record["radiance"], f"radiance of {name}")
    # Radiance was stored for times 2^x; here the shortest time is 1.
    truth = truth * np.float32(2.0 ** min(steps))
    images = [_unit(stored[k]) for k in order] + [truth.clip(0, 1)]
    if crop is not None:
        rim = _RIM if turned is not None and min(truth.shape[:2]) >= crop + 2 * _RIM else 0
        shape = [n - 2 * rim for n in truth.shape[:2]]
        corner = (
            [(n - crop) // 2 for n in shape] if turned is None else draw_corner(rng, shape, crop)
        )
        images = [crop_around(x, corner[0] + rim, corner[1] + rim, crop, crop) for x in images]
    if turned:
        mode = _mode(rng, turned)
        images = [augment(x, mode) for x in images]
    return _example(images[:3], relative_times(ev=[steps[k] for k in order]), images[3])


def _example(exposures: Sequence[np.ndarray], times: Sequence[float], truth: np.ndarray) -> Example:
    inputs = RadiancePreparation().inputs(exposures, times)
    example = dict(zip(_NAMES, inputs, strict=True))
    return {**example, "target": np.ascontiguousarray(truth, np.float32)}


# --------------------------------------------------------------------------- synthetic brackets


def _draw_synthetic(
    spec: Brackets,
    used: Mapping[bool, _Photographs],
    shelf: _Shelf,
    record: Mapping[str, Any],
    rng: np.random.Generator,
    crop: int | None,
    turned: bool | str | None,
) -> Example:
    """Three exposures of a window of a radiance picture, or of a photograph in its place."""
    photographs = used[turned is None]
    times = times_of(rng)
    if crop is not None and rng.random() < spec.photographs_share:
        expansion = rng.uniform(0, spec.expansion)
        scene, view = photographs.window(rng, crop + 2 * MARGIN, expansion)
    else:
        light = _scene(record, shelf)
        if crop is None:
            rows, columns = light.shape[:2]
            view = light[::4, ::4]
            scene = crop_around(light, -MARGIN, -MARGIN, rows + 2 * MARGIN, columns + 2 * MARGIN)
        else:
            scene, view = _window(
                rng, crop + 2 * MARGIN, light.shape, lambda *at: _part(light, *at)
            )
    gain = gain_of(view, times[1], rng)
    side = None if crop is None else crop + 2 * MARGIN
    scene = limited(scene, gain)
    if side is not None:
        scene = area_reduced(scene, side, side)
    if turned:
        scene = augment(scene, _mode(rng, turned))
    still = rng.random() < spec.still_share
    count = 0 if still else int(rng.integers(1, 3))
    cutouts = [photographs.cutout(rng) for _ in range(count)]
    exposures, truth = synthesise_bracket(scene, cutouts, times, rng, spec)
    return _example(exposures, times, truth)


def _window(
    rng: np.random.Generator,
    side: int,
    shape: Sequence[int],
    part: Callable[[int, int, int, int, int], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """A square of up to twice the side, which is to be reduced, and its surroundings, thinned.

    Flat windows are drawn again, twice at most.

    Args:
      rng: source of every random choice.
      side: of what becomes of the window.
      shape: of the picture.
      part: (top, left, height, width, step) to light.
    """
    large = round(side * rng.uniform(1, 2))
    large = max(side, min(large, *shape[:2]))
    top = left = 0
    for _ in range(3):
        top, left = draw_corner(rng, shape, large)
        thin = part(top, left, large, large, max(1, large // 24))
        if np.log2(thin.mean(-1) + 1e-6).std() > 0.4:  # below is a wall or a clear sky
            break
    reach = min(_SURROUNDINGS * large, max(shape[:2]))
    up, before = (
        min(max(0, at - (reach - large) // 2), max(0, n - reach))
        for at, n in ((top, shape[0]), (left, shape[1]))
    )
    height, width = (min(reach, n) for n in shape[:2])
    view = part(up, before, height, width, max(1, min(height, width) // 64))
    return part(top, left, large, large, 1), view


def _part(light: np.ndarray, top: int, left: int, height: int, width: int, step: int) -> np.ndarray:
    return crop_around(light, top, left, height, width)[::step, ::step]


class _Photographs:
    """Photographs with segmentations as scenes and as objects."""

    def __init__(self, dataset: str, split: str, shelf: _Shelf):
        self._source, manifest = open_set(dataset, split)
        if "labels" not in manifest["roles"]:
            raise InputError(
                f"the set {dataset!r} holds no segmentations; name one of photographs "
                "(mgdn data prepare natural) as synthesis.objects."
            )
        self._split = split
        self._shelf = shelf

    def window(
        self, rng: np.random.Generator, side: int, expansion: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """A square of expanded light, and its surroundings, thinned (as `_window`)."""
        photograph = self._any(rng)
        gains = np.exp(expansion * photograph.brightness).astype(np.float32)

        def part(top: int, left: int, height: int, width: int, step: int) -> np.ndarray:
            pixels, regions = (
                crop_around(x, top, left, height, width)[::step, ::step]
                for x in (photograph.pixels, photograph.regions)
            )
            gain = gains[regions]
            if step == 1:
                gain = _softened(gain)
            return _LIGHT[pixels] * gain[..., None]

        return _window(rng, side, photograph.pixels.shape, part)

    def cutout(self, rng: np.random.Generator) -> Cutout:
        """A region of a photograph, neither a speck nor the background."""
        photograph = self._any(rng)
        sizes = photograph.sizes
        low, high = 0.002 * sizes.sum(), 0.25 * sizes.sum()
        fit = np.flatnonzero((sizes > low) & (sizes < high))
        region = (
            int(rng.choice(fit)) if len(fit) else int(np.argmin(np.where(sizes > 0, sizes, np.inf)))
        )
        inside = photograph.regions == region
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        top, left = int(rows[0]), int(columns[0])
        height, width = int(rows[-1]) - top + 7, int(columns[-1]) - left + 7  # 3 on either side
        pixels = crop_around(photograph.pixels, top - 3, left - 3, height, width)
        mask = np.pad(inside, 3)[top : top + height, left : left + width]
        return cut_out(_LIGHT[pixels], mask)

    def _any(self, rng: np.random.Generator) -> _Photograph:
        index = int(rng.integers(len(self._source)))
        return self._shelf.kept((self._split, index), lambda: _photograph(self._source[index]))


def _softened(gain: np.ndarray) -> np.ndarray:
    """Gains of regions without hard edges: three means of five, about a Gaussian of sigma 2.4."""
    for _ in range(3):
        gain = ndimage.uniform_filter(gain, 5, mode="nearest")
    return gain


def _photograph(record: Mapping[str, Any]) -> _Photograph:
    name = _name(record)
    pixels = decode_image(record["image"], f"image of {name}")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, -1)
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    labels = label_ids(decode_image(record["labels"], f"labels of {name}"))
    if labels.max() >= _MOST_REGIONS:
        labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    sizes = np.bincount(labels.ravel())
    means = np.bincount(labels.ravel(), _LOG_LIGHT[pixels].mean(-1).ravel()) / np.maximum(sizes, 1)
    centred = means - (means * sizes).sum() / sizes.sum()
    return _Photograph(pixels, labels, centred, sizes)


def _scene(record: Mapping[str, Any], shelf: _Shelf) -> np.ndarray:
    """(H, W, 3) float32 light of a radiance picture, nothing negative."""
    name = _name(record)
    return shelf.kept(
        ("radiance", name), lambda: read_radiance(record["radiance"], f"radiance of {name}")
    )


# ---------------------------------------------------------------------------------------- tools

# Half a level above nothing, as in `multiexposure`: black is dark, not without light.
_LIGHT = (((np.arange(256) + 0.5) / 255.5) ** GAMMA).astype(np.float32)
_LOG_LIGHT = np.log(_LIGHT)


class _Shelf:
    """Decoded pictures that were used last, up to a number of bytes; for several threads."""

    def __init__(self, room: int):
        self._room = room
        self._held: collections.OrderedDict[Any, tuple[Any, int]] = collections.OrderedDict()
        self._used = 0
        self._lock = threading.Lock()

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """What is kept under a key, or is made and kept."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key][0]
        value = make()
        arrays = value if isinstance(value, tuple) else (value,)
        size = sum(array.nbytes for array in arrays)
        with self._lock:
            if key not in self._held:
                self._held[key] = value, size
                self._used += size
            while self._used > self._room and len(self._held) > 1:
                self._used -= self._held.popitem(last=False)[1][1]
        return value


def _mode(rng: np.random.Generator, turned: bool | str) -> int:
    """A mode of `augment`; the even ones are the flips."""
    return 2 * int(rng.integers(MODES // 2)) if turned == "flips" else int(rng.integers(MODES))


def _name(record: Mapping[str, Any]) -> str:
    name = record["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def _unit(image: np.ndarray) -> np.ndarray:
    """Integers to float32 in [0, 1]."""
    if image.dtype == np.float32:
        return image
    return image.astype(np.float32) * np.float32(1 / np.iinfo(image.dtype).max)
