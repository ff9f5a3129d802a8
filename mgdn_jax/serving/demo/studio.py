"""From uploaded pictures to a fused one, with all that the page shows of it."""

from __future__ import annotations

import dataclasses
import io
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.evaluation.album import Album
from mgdn_jax.fusing import tasks
from mgdn_jax.fusing.compile_cache import enable_compilation_cache
from mgdn_jax.fusing.fused import Fused
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.fusing.preparation import Prepared
from mgdn_jax.fusing.resampling import opencv
from mgdn_jax.fusing.sources import Sources
from mgdn_jax.io import codec, guard, reading
from mgdn_jax.io.pictures import Picture
from mgdn_jax.io.pixels import without_alpha
from mgdn_jax.serving.demo.proposal import propose
from mgdn_jax.serving.demo.wire import Answer, Limits, Request, Say, Upload
from mgdn_jax.weights import zoo

PLACINGS: Mapping[str, FuseOptions] = MappingProxyType(
    {
        "": FuseOptions(),
        "align": FuseOptions(align=True),
        "register": FuseOptions(register=True, align=False),
        "resize": FuseOptions(resize=True),
        "none": FuseOptions(align=False),
    }
)
"""How pictures are brought together, by what the page calls it; empty: as the task needs."""

MOST_SCORED = 4_000_000
"""Pictures of more pixels have no scores: measuring takes about two seconds a megapixel."""

_MOST_PROGRAMS = 24  # of a network: every size has its own, and all are kept
_SHOWN_BYTES = 32_000_000  # of the pictures on the page, in base 64


@dataclasses.dataclass(frozen=True)
class Offer:
    """A network that the page offers.

    Attributes:
        name: what the page calls it.
        path: its weight file.
        task: name of the task that it was trained for, or empty.
    """

    name: str
    path: Path
    task: str


def offers(models: Sequence[str] = ()) -> list[Offer]:
    """The networks for pictures: those named, then those that are bundled.

    Args:
        models: bundled names or weight files.

    Raises:
        InputError: no such network, or one for depth maps or radiance.
    """
    found: dict[str, Offer] = {}
    for word in [*models, *zoo.bundled()]:
        path = zoo.resolve(word)
        name = word if word in zoo.bundled() else PurePath(word).stem
        if name in found:
            continue
        about = zoo.describe(path)
        card, channels = about["card"], about["config"].get("in_channels", (1, 1))
        if word in models:
            tasks.check_pictures(card, channels)
        elif tasks.quantity_of(card, channels) != tasks.PICTURES:
            continue
        task = tasks.of_card(card)
        found[name] = Offer(name, path, "" if task is None else task.name)
    return list(found.values())


class Studio:
    """Networks, loaded when they are first needed; it fuses for one caller at a time."""

    def __init__(
        self,
        networks: Sequence[Offer],
        limits: Limits,
        *,
        system: str | None = None,
        trust: bool | str | Collection[str] = False,
    ):
        """Loads nothing yet.

        Args:
            networks: what `offers` lists.
            limits: of requests.
            system: as `mgdn_jax.load` takes it.
            trust: likewise.
        """
        self.networks = {offer.name: offer for offer in networks}
        self.limits = limits
        self._system, self._trust = system, trust
        self._fusers: dict[str, Any] = {}
        self._sizes: set[tuple[Any, ...]] = set()

    def fuse(self, request: Request, say: Say) -> Answer:
        """Fuses the pictures of a request.

        Args:
            request: what the page sends.
            say: is called at each step; what it raises ends the work.

        Raises:
            InputError: anything about the pictures or the request that does not fit.
        """
        started = time.perf_counter()
        say({"step": "reading"})
        pictures = read(request.uploads, self.limits)
        task, is_proposed = _task(request.task, pictures)
        name = request.model or task.model
        if name not in self.networks:
            raise InputError(f"there is no network {name[:100]!r} here; reload the page.")
        if request.placing not in PLACINGS:
            raise InputError("pictures cannot be placed in that way; reload the page.")
        say({"step": "loading", "task": task.name, "model": name})
        fuser = self._fuser(name)
        options = PLACINGS[request.placing].otherwise(task.options)
        is_unplaced = bool(options.align) and not request.placing and opencv() is None
        if is_unplaced:
            options = dataclasses.replace(options, align=False)
        say({"step": "preparing"})
        prepared = fuser.prepare(Sources(pictures), options=options)
        if is_unplaced:
            prepared.report.warn(
                'the pictures were not aligned, which needs OpenCV: pip install "mgdn-jax[align]".'
            )
        fused = self._fused(fuser, name, prepared, say)
        scores = _scores(fused, prepared, say)
        say({"step": "encoding"})
        head = {
            "step": "done",
            "task": task.name,
            "proposed": is_proposed,
            "model": name,
            "scores": scores,
        }
        return _answer(head, fused, prepared, started)

    def _fuser(self, name: str) -> Any:
        fuser = self._fusers.get(name)
        if fuser is None or fuser.programs > _MOST_PROGRAMS:
            logging.getLogger("jax").setLevel(logging.ERROR)
            from mgdn_jax.fusing.loading import load

            enable_compilation_cache()
            path = self.networks[name].path
            is_bundled = zoo.bundled().get(name) == path
            fuser = load(path) if is_bundled else load(path, system=self._system, trust=self._trust)
            self._fusers[name] = fuser
            self._sizes = {size for size in self._sizes if size[0] != name}
        return fuser

    def _fused(self, fuser: Any, name: str, prepared: Prepared, say: Say) -> Fused:
        plan = fuser.plan(*prepared.shape, count=len(prepared), options=prepared.options)
        program = (name, plan.rows.size, plan.columns.size)
        say({"step": "fusing" if program in self._sizes else "compiling"})

        def tick(done: int, total: int) -> None:
            say({"step": "fusing", "done": done, "total": total})

        fused = fuser.fuse_prepared([prepared], progress=tick)[0]
        self._sizes.add(program)
        return fused


def read(uploads: Sequence[Upload], limits: Limits) -> list[Picture]:
    """The pictures of files; one file alone is a stack of its pages.

    Args:
        uploads: the files.
        limits: of what they hold.

    Raises:
        InputError: a file that is no picture, too many pixels, or fewer than two pictures.
    """
    pictures: list[Picture] = []
    left = limits.pixels
    for upload in uploads:
        if not upload.content:
            raise InputError(f"{upload.name} is empty; export or download it again.")
        file = io.BytesIO(upload.content)
        with guard.at_most(limits.pixels):
            pages = reading.count(file, upload.name) if len(uploads) == 1 else 1
        for page in range(pages):
            try:
                # What a header declares is refused before there is room made for it.
                with guard.at_most(left):
                    picture = reading.read(file, upload.name, page if pages > 1 else None)
                left -= picture.pixels.shape[0] * picture.pixels.shape[1]
            except guard.TooLargeError:
                if left == limits.pixels:
                    raise
                raise InputError(
                    f"{upload.name} brings the pictures to more than {limits.pixels / 10**6:g} "
                    "megapixels together; choose fewer, or scale them first."
                ) from None
            pictures.append(picture)
    if len(pictures) < 2:
        name = f"{uploads[0].name} is alone" if uploads else "there is no picture"
        raise InputError(f"{name}; choose two pictures or more.")
    return pictures


def _task(name: str, pictures: Sequence[Picture]) -> tuple[tasks.Task, bool]:
    """The task, and whether it was proposed."""
    if name:
        if name not in tasks.TASKS:
            raise InputError("there is no such task; reload the page.")
        return tasks.TASKS[name], False
    task = propose(pictures)
    if task is None:
        raise InputError("the pictures do not show clearly what they are for; choose the task.")
    return task, True


def _shown(fused: Fused, prepared: Prepared) -> np.ndarray:
    """A result as it lies beside the pictures that the network saw."""
    pixels = without_alpha(fused.pixels)
    return pixels if prepared.scale is None else prepared.scale.apply(pixels)


def _scores(fused: Fused, prepared: Prepared, say: Say) -> dict[str, Any]:
    """The standard figures with their arrows, or a sentence why there are none."""
    from mgdn_jax import metrics
    from mgdn_jax.evaluation.figures import figures

    if len(prepared) != 2:
        return {"why": "Scores compare a result with exactly two pictures.", "rows": []}
    if prepared.pixels > MOST_SCORED:
        most = f"{MOST_SCORED / 10**6:g}"
        return {"why": f"Above {most} megapixels only mgdn fuse --score measures.", "rows": []}
    say({"step": "scoring"})
    values = figures(_shown(fused, prepared), prepared.picture(0), prepared.picture(1))
    rows = [[f"{k} {metrics.METRICS[k].arrow}", f"{v:.4g}"] for k, v in values.items()]
    return {"why": "", "rows": rows}


def _answer(head: Mapping[str, Any], fused: Fused, prepared: Prepared, started: float) -> Answer:
    """The result as a file, and all pictures as the page shows them."""
    suffix = ".png" if fused.pixels.dtype in (np.uint8, np.uint16) else ".tif"
    names = [prepared.survey.names[index] for index in prepared.order]
    stem = PurePath(names[0]).stem
    content = codec.encode(fused.pixels, suffix, labels=fused.labels)
    if fused.labels.geometry is not None:
        fused.report.warn(
            f"{suffix} cannot hold the place in the patient or volume; mgdn fuse writes .dcm and "
            ".nii.gz."
        )
    album = Album(len(prepared) + 1, limit_bytes=_SHOWN_BYTES)
    labels = [str(number) for number in range(len(prepared) + 1)]
    for position, index in enumerate(prepared.order):
        profile = prepared.survey.labels[index].profile
        album.add("", labels[position], prepared.picture(position), profile)
    album.add("", labels[-1], _shown(fused, prepared), fused.labels.profile)
    shelf = album.pictures.get("", {})
    kept = [shelf.get(label) for label in labels]
    height, width = prepared.shape
    kind = "image/png" if suffix == ".png" else "image/tiff"
    return Answer(
        {
            **head,
            "width": width,
            "height": height,
            "dtype": str(fused.pixels.dtype),
            "names": names,
            "reduced": [None if p is None else [p.quality, round(p.scale, 4)] for p in kept],
            "has_profile": fused.labels.profile is not None,
            "steps": [step["says"] for step in fused.report.steps],
            "warnings": list(fused.report.warnings),
            "seconds": round(time.perf_counter() - started, 2),
            "download": f"{stem}_fused{suffix}",
        },
        ((kind, content), *(("image/jpeg", b"" if p is None else p.jpeg) for p in kept)),
    )
