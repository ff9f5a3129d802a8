"""What a record becomes: an example of stored, jittered or synthesised pictures.

A task turns (record, generator, crop, turn) into the images of one example. All that is random
comes from the generator it is given.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mgdn_jax.arguments import shown
from mgdn_jax.data.augmentation import MODES, Jitter, augment, crop_around, draw_corner
from mgdn_jax.data.builders import label_ids
from mgdn_jax.data.multiexposure import Exposures, synthesise_multiexposure
from mgdn_jax.data.multifocus import Synthesis, synthesise_multifocus
from mgdn_jax.errors import InputError
from mgdn_jax.image import LUMA
from mgdn_jax.io.codec import decode_image, downscale
from mgdn_jax.systems.fields import fault

# Tasks of pictures that measure something: modules with `make_draw` and `preparation` of their own.
_MEASURED = {"gdsr": "mgdn_jax.data.gdsr", "hdr": "mgdn_jax.data.hdr"}
TASKS = ("mff", "mef", "pairs", *_MEASURED)
_Synthesise = Callable[..., tuple[np.ndarray, ...]]
_SYNTHESES: dict[str, tuple[type[Synthesis] | type[Exposures], _Synthesise]] = {
    "mff": (Synthesis, synthesise_multifocus),
    "mef": (Exposures, synthesise_multiexposure),
}
Example = dict[str, np.ndarray]
# (record, rng, crop, augment) -> uint8 or uint16 images, or float32 ones in [0, 1]. augment True or
# "flips": random crop and turn; False: random crop; None: centre crop, or the whole image where
# crop is None.
Draw = Callable[[Mapping[str, Any], np.random.Generator, int | None, bool | str | None], Example]


def make_draw(
    task: str,
    manifest: Mapping[str, Any],
    channels: int,
    synthesis: Mapping[str, Any] | None,
    jitter: Jitter | Mapping[str, float] | None,
) -> Draw:
    """The task of `make_loader` as a function of a record.

    Raises:
      InputError: a task, synthesis or jitter that there is not, or that does not fit the set.
    """
    module = _module(task)
    if module is not None:
        if jitter not in (None, {}) and _read_jitter(jitter) != Jitter():
            raise InputError(f"jitter belongs to task 'pairs'; leave it out for {task!r}.")
        return module.make_draw(manifest, synthesis)
    segmented = "labels" in manifest["roles"]
    if segmented != (task in _SYNTHESES):
        holds = "pictures with segmentations" if segmented else "pairs"
        fits = " or ".join(map(repr, _SYNTHESES)) if segmented else "'pairs'"
        raise InputError(
            f"task {task!r} does not fit the set {manifest['set']!r}, which holds {holds}; "
            f"use task {fits} or another set."
        )
    vary = _read_jitter(jitter)
    if task == "pairs":
        if synthesis:
            raise InputError("synthesis belongs to tasks 'mff' and 'mef'; stored pairs have none.")
        if vary.parting and "target" in manifest["roles"]:
            name = vary.parting[0]
            raise InputError(
                f"jitter.{name} would part the sources from their target; set it to "
                f"{getattr(Jitter(), name):g} for pairs with targets."
            )
        return lambda *args: _draw_pair(manifest["roles"], channels, vary, *args)
    if vary != Jitter():
        raise InputError(
            f"jitter belongs to task 'pairs'; for {task!r} set its scale, gamma and exposure to 1, "
            "and its noise, clip, contrast and polarity to 0."
        )
    kind, synthesise = _SYNTHESES[task]
    spec = kind(**_fields("synthesis", synthesis, kind))
    return lambda *args: _draw_synthetic(synthesise, spec, task == "mff", channels, *args)


def preparation(task: str, synthesis: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a task does to files before the network sees them, as weights' cards note it.

    Empty for pictures, which are only brought to [0, 1]; else see `mgdn_jax.quantities`.
    """
    module = _module(task)
    return {} if module is None else dict(module.preparation(synthesis))


def _module(task: str) -> Any:
    """The module of a task that has one: ours, or under the task's own dotted name.

    Raises:
      InputError: there is no such task.
    """
    if task in TASKS:
        return importlib.import_module(_MEASURED[task]) if task in _MEASURED else None
    try:
        module = importlib.import_module(task) if "." in task else None
    except (ImportError, ValueError) as error:
        raise InputError(f"data.task is {task!r} ({error}); name a module.") from None
    if module is None or not {"make_draw", "preparation"} <= vars(module).keys():
        raise InputError(
            f"there is no task {task!r} for data; choose one of {', '.join(TASKS)}, or give the"
            " dotted name of a module with make_draw and preparation."
        )
    return module


def views(task: str, manifest: Mapping[str, Any]) -> int:
    """Examples that evaluation draws of each record."""
    return int(importlib.import_module(_MEASURED[task]).views(manifest)) if task == "hdr" else 1


def _read_jitter(jitter: Jitter | Mapping[str, float] | None) -> Jitter:
    return jitter if isinstance(jitter, Jitter) else Jitter(**_fields("jitter", jitter, Jitter))


def _fields(name: str, given: Any, kind: type) -> dict[str, Any]:
    """A mapping as keyword arguments of a dataclass of numbers and pairs; None is the default."""
    if given is None:
        return {}
    if not hasattr(given, "items"):
        raise InputError(f"{name} is {given!r}; give a block of fields.")
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    values = {key: value for key, value in dict(given).items() if value is not None}
    if unknown := [key for key in values if key not in fields]:
        raise InputError(
            f"{name} has no field {', '.join(map(str, unknown))}; choose from {', '.join(fields)}."
        )
    for key, value in values.items():
        pair = isinstance(fields[key], tuple)
        numbers = value if pair and isinstance(value, list | tuple) else (value,)
        real = all(fault(number, float) is None for number in numbers)
        if not real or len(numbers) != (2 if pair else 1):
            wanted = "two finite numbers" if pair else "a finite number"
            raise InputError(f"{name}.{key} is {shown(value)}; give {wanted}.")
        values[key] = tuple(numbers) if pair else value
    return values


def _draw_synthetic(
    synthesise: _Synthesise,
    spec: Synthesis | Exposures,
    either_first: bool,
    channels: int,
    record: Mapping[str, Any],
    rng: np.random.Generator,
    crop: int | None,
    turned: bool | str | None,
) -> Example:
    """A synthetic pair or bracket; only the crop and its surroundings are ever worked on."""
    image = _decode(record, "image", channels)
    if image.dtype == np.uint16:
        image = image * np.float32(1 / 257)
    labels = label_ids(decode_image(record["labels"], f"labels of {_name(record)}"))
    margin = 0
    if crop is not None:
        margin = spec.reach
        if turned is None:
            top, left = ((n - crop) // 2 for n in labels.shape)
            halve = False
        else:
            halve, top, left = _choose_window(image, rng, crop, margin)
        scale = 2 if halve else 1
        side = scale * (crop + 2 * margin)
        image, labels = (
            crop_around(x, top - scale * margin, left - scale * margin, side, side)
            for x in (image, labels)
        )
        if halve:
            image = image.reshape(side // 2, 2, side // 2, 2, -1).mean((1, 3), dtype=np.float32)
            labels = labels[::2, ::2]
    if turned:
        mode = _draw_mode(rng, turned)
        image, labels = augment(image, mode), augment(labels, mode)
    *sources, target = synthesise(image, labels, rng, spec, margin=margin)
    if either_first and rng.random() < 0.5:
        sources.reverse()
    return {**dict(zip("abc", sources, strict=False)), "target": target}


def _choose_window(
    image: np.ndarray, rng: np.random.Generator, crop: int, margin: int
) -> tuple[bool, int, int]:
    """Whether to halve the scale, and the corner; flat windows are drawn again, twice at most."""
    halve = bool(rng.random() < 0.25) and min(image.shape[:2]) >= 2 * (crop + margin)
    side = 2 * crop if halve else crop
    for _ in range(3):
        top, left = draw_corner(rng, image.shape, side)
        part = image[max(top, 0) : top + side : 2, max(left, 0) : left + side, -1]
        steps = np.abs(np.diff(part.astype(np.float32), axis=1))
        if (
            steps.size and steps.mean() > 2.5
        ):  # of 255: below is sky and the like, which teaches nothing about focus
            break
    return halve, top, left


def _draw_pair(
    roles: list[str],
    channels: int,
    vary: Jitter,
    record: Mapping[str, Any],
    rng: np.random.Generator,
    crop: int | None,
    turned: bool | str | None,
) -> Example:
    """A stored pair: one window and one turn for all its images."""
    images = {role: _decode(record, role, channels) for role in roles}
    if crop is not None:
        shape = images["a"].shape
        side = vary.side(rng, shape, crop)
        corner = ((n - side) // 2 for n in shape[:2])
        top, left = corner if turned is None else draw_corner(rng, shape, side)
        images = {r: _unit(crop_around(x, top, left, side, side)) for r, x in images.items()}
        if side > crop:
            images = {r: downscale(x, crop, crop) for r, x in images.items()}
    if turned:
        mode = _draw_mode(rng, turned)
        images = {r: augment(x, mode) for r, x in images.items()}
    return vary.sources({r: _unit(x) for r, x in images.items()}, rng)


def _draw_mode(rng: np.random.Generator, turned: bool | str) -> int:
    """A mode of `augment`; the even ones are the flips, which leave rows rows."""
    return 2 * int(rng.integers(MODES // 2)) if turned == "flips" else int(rng.integers(MODES))


def _name(record: Mapping[str, Any]) -> str:
    name = record["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def _decode(record: Mapping[str, Any], role: str, channels: int) -> np.ndarray:
    """(H, W, channels) in the integers it is stored with; luma is float32 of the same range."""
    image = decode_image(record[role], f"{role} of {_name(record)}")
    if image.ndim == 2:
        image = image[..., None]
        return np.repeat(image, 3, axis=-1) if channels == 3 else image
    if channels == 3:
        return image
    luma = image.astype(np.float32) @ np.array(LUMA, np.float32)[:, None]
    return np.rint(luma).astype(image.dtype)


def finish(images: Mapping[str, np.ndarray], index: int) -> Example:
    """Integers to float32 in [0, 1], and the index."""
    example: Example = {key: _unit(x) for key, x in images.items()}
    example["_index"] = np.asarray(index % 2**32, np.uint32)
    return example


def _unit(image: np.ndarray) -> np.ndarray:
    """Integers to float32 in [0, 1]; floats are there already."""
    if image.dtype == np.float32:
        return image
    return image.astype(np.float32) * np.float32(1 / np.iinfo(image.dtype).max)
