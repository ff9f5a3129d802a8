"""`Fuser`: pictures in, the fused picture out. Checks, colour, padding, tiles and the jit cache."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mgdn_jax import arguments, image
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import (
    assembly,
    base,
    brackets,
    buckets,
    jobs,
    masks,
    photographs,
    preparation,
    rendering,
    sets,
    stacks,
    tasks,
    tiling,
)
from mgdn_jax.fusing.fused import Fused
from mgdn_jax.fusing.jobs import Job, Progress, Ticks
from mgdn_jax.fusing.options import USUAL, FuseOptions
from mgdn_jax.fusing.preparation import Prepared, Survey
from mgdn_jax.fusing.sources import Sources
from mgdn_jax.io.pixels import from_float, to_float
from mgdn_jax.layers import functional
from mgdn_jax.systems import checks, registry
from mgdn_jax.systems.contract import CONTEXT, EXTENT

Picture = np.ndarray | jax.Array | str | os.PathLike[str]


class Fuser:
    """A network with its weights, ready for pictures of any size, dtype and layout.

    `fuser(a, b)` takes arrays or paths and returns an array as they were; `fuser.network(a, b)`
    is the bare network. Programs are compiled per padded size and kept for the life of the
    object. Pictures of several sizes share a padded size only if asked (`for_sizes`, the option
    `bucket`), and only for networks that can leave the extra padding out of their statistics over
    the whole picture (`has_buckets`).

    Attributes:
      system: name of the system, "mgdn" for instance.
      config: its frozen configuration.
      params: flat dictionary of parameters, on the default device.
      stats: flat dictionary of running statistics, often empty.
      card: what is known about the weights (see docs/use/pictures.md).
      options: what holds where a call says nothing: `card["inference"]`, else what is usual.
      has_buckets: whether the network takes the `bucket` option.
      padded_sizes: what pictures are padded to where a call names no bucket, by size; none at
        first, see `for_sizes`.
      steady: size of the frames of a sequence and the statistics that all of them share; None at
        first, see `steadied`.
    """

    def __init__(
        self,
        system: str,
        config: Any,
        params: Mapping[str, Any],
        stats: Mapping[str, Any] | None = None,
        card: Mapping[str, Any] | None = None,
    ):
        """Binds weights to a network.

        Args:
          system: name of the system.
          config: instance of the system's `Config`.
          params: flat dictionary, slash path to array.
          stats: flat dictionary of running statistics.
          card: notes that travel with the weights.

        Raises:
          InputError: unknown system, the weights do not fit the configuration, or the card asks
            for an option that does not exist.
        """
        graphdef, wanted_params, wanted_stats = registry.abstract(
            system, config.for_use(), arrays=len(params) + len(stats or {})
        )
        checks.check_fit(params, wanted_params, "parameters")
        checks.check_fit(stats or {}, wanted_stats, "statistics")
        self.system = system
        self.config = config
        self.params = {name: jnp.asarray(params[name]) for name in wanted_params}
        self.stats = {name: jnp.asarray((stats or {})[name]) for name in wanted_stats}
        self.card = dict(card or {})
        self.options = FuseOptions.on_card(self.card).otherwise(USUAL)
        takes = registry.network(system).Network.takes
        self._has_context = CONTEXT in takes
        self.has_buckets = EXTENT in takes
        self.steady: tuple[tuple[int, int], dict[str, np.ndarray]] | None = None
        self.padded_sizes: Mapping[buckets.Size, buckets.Size | None] = {}

        # Parameters are arguments, not constants: one compiled program serves all weights.
        def fuse(params, stats, images, abilities):
            (fused, _), _ = functional.apply(graphdef, params, stats, *images, **abilities)
            return fused

        def measure(params, stats, images, weights):
            (_, aux), _ = functional.apply(graphdef, params, stats, *images, pixel_weights=weights)
            return aux.get("context", {})

        def weigh(params, stats, images, abilities):
            (_, aux), _ = functional.apply(graphdef, params, stats, *images, **abilities)
            return aux["weights"]

        self._fuse = jax.jit(fuse)
        self._measure = jax.jit(measure)
        self._weigh = jax.jit(weigh)

    def __repr__(self) -> str:
        name = self.card.get("name", "unnamed")
        return f"Fuser({name!r}, system={self.system!r}, inputs={len(self.config.in_channels)})"

    @property
    def programs(self) -> int:
        """How many programs were compiled to fuse, by this and whatever `for_sizes` made of it."""
        program = self._weigh if self._weighs_all else self._fuse
        return program._cache_size()  # type: ignore[attr-defined]

    def network(self, *images: np.ndarray | jax.Array) -> jax.Array:
        """The bare network: no checks of range, no colour rule, no padding but its own.

        Args:
          *images: (B, H, W, C) float arrays in [0, 1], as many and with as many channels as
            `config.in_channels` says; of a network for sets two or more.

        Returns:
          (B, H, W, config.out_channels) float32, exactly what the network computes.

        Raises:
          InputError: wrong number of images, ranks or channels, or sizes that differ.
        """
        wanted = self._channels_of(len(images))
        images = tuple(
            x if isinstance(x, jax.Array) else arguments.array("an image", x) for x in images
        )
        shapes = [np.shape(x) for x in images]
        if len(shapes) != len(wanted) or any(
            len(shape) != 4 or shape[-1] != channels or shape[:3] != shapes[0][:3]
            for shape, channels in zip(shapes, wanted, strict=True)
        ):
            layout = ", ".join(f"(B, H, W, {channels})" for channels in wanted)
            raise InputError(f"the network takes {layout}, but was given {shapes}.")
        inputs = tuple(jnp.asarray(x, jnp.float32) for x in images)
        return self._call(self._fuse, inputs, {})

    def network_in_tiles(
        self,
        *images: np.ndarray,
        options: FuseOptions | None = None,
        progress: Progress | None = None,
        **changes: Any,
    ) -> np.ndarray:
        """The bare network on one scene of any size: in tiles where it is large.

        Args:
          *images: (H, W, C) float arrays as the network takes them, of any range, as many and
            with as many channels as `config.in_channels` says.
          options: as in a call; those about tiles, padding and `ensemble` count.
          progress: as in a call.
          **changes: as in a call.

        Returns:
          (H, W, config.out_channels) float32, exactly what the network computes.

        Raises:
          InputError: an option that does not fit.
        """
        # A scale of 1: the network alone, also where it weighs its inputs.
        choice = dataclasses.replace(self.resolve(options, **changes), scale=1)
        plan = self._plan(images[0].shape, choice)
        ticks = Ticks(progress, jobs.calls(len(images), len(images), plan, choice))
        job = Job(plan, choice, ticks)
        return rendering.averaged(
            lambda views: self._assemble(views, views, job, None), images, choice.ensemble
        )

    def __call__(
        self,
        *images: Picture,
        options: FuseOptions | None = None,
        progress: Progress | None = None,
        **changes: Any,
    ) -> np.ndarray:
        """Fuses pictures of one scene.

        More than two pictures on a two-input network are a stack; give a focus stack from near to
        far. A network that weighs its inputs (`Config.blends`) weighs all of them at once
        (`photographs`); on weights for exposures they are a bracket (`brackets`). Other networks
        fuse neighbours first, then neighbouring results, a balanced tree over the order given:
        every picture passes ceil(log2 n) networks, where a fold from the left would send the
        first one through n - 1 of them and let its errors grow with each. Results between stages
        stay float32, unclipped and unrounded.

        Args:
          *images: arrays or paths; (H, W) or (H, W, C) with C 1 or 3, or 2 or 4 with alpha last;
            uint8, uint16 or float in [0, 1]; all of one size.
          options: see `FuseOptions`.
          progress: called as (tiles done, tiles in all) after every tile.
          **changes: single options by name, ``tile=512`` or ``stretch="minmax"`` for instance.

        Returns:
          (H, W) or (H, W, C) of the inputs' dtype, or of the widest if they have several; gray if
          all inputs are gray (with the rank of the first), else colour. Alpha is not fused: the
          result is as opaque as the most opaque input at each pixel, and has an alpha channel only
          if all inputs have one. Values are rounded to nearest, not truncated.

        Raises:
          InputError: anything about the inputs or options that does not fit, named.
        """
        fused = self.fuse(*images, options=options, progress=progress, **changes)
        fused.report.raise_warnings()
        return fused.pixels

    def fuse(
        self,
        *images: Picture,
        options: FuseOptions | None = None,
        progress: Progress | None = None,
        has_depth: bool = False,
        **changes: Any,
    ) -> Fused:
        """As a call, but with the report of what was done, and without Python's warnings.

        Args:
          *images: as in a call; of other sizes, types and ranges where options bring them
            together (`register`, `resize`, `range`, ...); functions without arguments are read
            as they are needed.
          options: as in a call.
          progress: as in a call.
          has_depth: whether the number of the sharpest picture is wanted for every pixel.
          **changes: as in a call.

        Raises:
          InputError: as in a call.
        """
        prepared = self.prepare(images, options=options, **changes)
        return self.fuse_prepared([prepared], progress=progress, has_depth=has_depth)[0]

    def prepare(
        self,
        images: Sequence[Picture] | Sources,
        *,
        about: Survey | None = None,
        options: FuseOptions | None = None,
        **changes: Any,
    ) -> Prepared:
        """Looks at the pictures of one scene and decides what the network gets.

        Args:
          images: as `fuse` takes them.
          about: what `preparation.survey` found, where it was made already.
          options: as in a call.
          **changes: as in a call.

        Raises:
          InputError: as in a call.
        """
        tasks.check_pictures(self.card, self.config.in_channels)
        self._check_count(len(images))
        if any(channels not in (1, 3) for channels in self.config.in_channels):
            raise InputError("this network takes more than pictures; use .network().")
        choice = self.resolve(options, **changes)
        profile = choice.profile or "keep"
        sources = images if isinstance(images, Sources) else Sources(images, profile=profile)
        prepared = preparation.prepare(sources, choice, task=self.task, about=about)
        self._plan(prepared.shape, choice, len(prepared))  # options that do not fit, before work
        return prepared

    def batch(
        self,
        groups: Sequence[Sequence[Picture]],
        *,
        options: FuseOptions | None = None,
        progress: Progress | None = None,
        **changes: Any,
    ) -> list[np.ndarray]:
        """Fuses several scenes as one call for each would, in a single run where that is possible.

        It is where all pictures have one size (with buckets, one padded size), none is tiled, and
        each group has just as many as the network takes. Programs are compiled for 1, 2, 4, ...
        pictures; gaps are filled up.

        Args:
          groups: for each scene its pictures, as in a call.
          options: as in a call.
          progress: as in a call.
          **changes: as in a call.

        Returns:
          One result for each group, as a call gives it.

        Raises:
          InputError: as a call, for any of them.
        """
        scenes = [self.prepare(group, options=options, **changes) for group in groups]
        return [fused.pixels for fused in self.fuse_prepared(scenes, progress=progress)]

    def fuse_prepared(
        self,
        scenes: Sequence[Prepared],
        *,
        progress: Progress | None = None,
        has_depth: bool = False,
    ) -> list[Fused]:
        """Fuses what `prepare` made, several scenes in a single run where that is possible.

        Args:
          scenes: of one set of options.
          progress: as in a call.
          has_depth: whether the number of the sharpest picture is wanted for every pixel.

        Returns:
          One result for each scene.
        """
        if not scenes:
            return []
        plans = [self._plan(scene.shape, scene.options, len(scene)) for scene in scenes]
        together = self.steady is None and not (has_depth or self._weighs_all)
        inputs = len(self.config.in_channels)
        if not (together and jobs.is_one_program(scenes, plans, inputs)):
            return [
                self._fuse_alone(scene, plan, progress, has_depth)
                for scene, plan in zip(scenes, plans, strict=True)
            ]
        options = scenes[0].options
        views = rendering.views(options.ensemble)
        ticks = Ticks(progress, len(scenes) * len(views))
        pictures = [[scene.picture(i) for i in range(len(scene))] for scene in scenes]
        parts: list[list[np.ndarray]] = [[] for _ in scenes]
        for view in views:
            results = self._run_together(pictures, plans, view)
            for part, group, plan, result in zip(parts, pictures, plans, results, strict=True):
                keeps = self._keeps_channels(group)
                values = self._channels(result[: plan.height, : plan.width], keeps)
                part.append(np.array(values[view]))
                ticks.tick()
        return [
            Fused(
                scene.finish(self._rendered(part, group, options, scene.dtype, scene.contrast)),
                scene.report,
                scene.labels,
                stretch=str(options.stretch),
            )
            for part, group, scene in zip(parts, pictures, scenes, strict=True)
        ]

    def for_sizes(
        self,
        sizes: Iterable[buckets.Size],
        *,
        options: FuseOptions | None = None,
        **changes: Any,
    ) -> Fuser:
        """This network for pictures of many sizes, which are padded to few (`buckets.choose`).

        Results stay the same up to rounding; at most three programs are compiled for fewer
        than 80 pictures. A size that shares with no other stays as it is, and so do pictures that
        are tiled. Pictures of other sizes take the smallest padded size that holds them, if any.

        Args:
          sizes: heights and widths, one for each picture (`io.files.read_size` looks for them).
          options: as in a call.
          **changes: as in a call. A positive `bucket` in a later call takes the place of this.

        Returns:
          A `Fuser` that shares the weights and the compiled programs of this one; this one itself
          where it cannot leave out padding.
        """
        choice, grid = self.resolve(options, **changes), self.config.grid
        if not self.has_buckets:
            return self
        seen = [
            tiling.seen_size(*size, choice.padding, grid)
            for size in sizes
            if tiling.tile_edge(*size, choice.tile, grid) == 0
        ]
        largest = max((height * width for height, width in seen), default=0)
        fuser = copy.copy(self)
        limit = max(largest, tiling.AUTO_TILE_PIXELS)
        fuser.padded_sizes = buckets.shared(buckets.choose(seen, limit=limit))
        return fuser

    def values(
        self, images: Sequence[Picture] | Sources, *, options: FuseOptions | None = None
    ) -> np.ndarray:
        """What the network makes of a pair, in colour but neither stretched, cut off nor rounded.

        Args:
          images: as `fuse` takes them, as many as the network.
          options: as in a call.

        Returns:
          (H, W, C) float32.

        Raises:
          InputError: as in a call.
        """
        scene = self.prepare(images, options=options)
        plan = self._plan(scene.shape, scene.options)
        job = Job(plan, scene.options, Ticks(None, 0))
        if self._weighs_all:
            return self._fuse_loaded(scene.picture, len(scene), job, None, scene.mask).picture
        pictures = [scene.picture(i) for i in range(len(scene))]

        def fuse(parts: list[np.ndarray], kind: np.dtype | None) -> np.ndarray:
            return self._fuse_scene(parts, job, kind)

        return masks.fused(pictures, scene.masks(), fuse, None, self._feather)

    def _fuse_alone(
        self, prepared: Prepared, plan: tiling.Plan, progress: Progress | None, has_depth: bool
    ) -> Fused:
        """One scene, pair or stack."""
        options, count = prepared.options, len(prepared)
        prepared.report.warn(*plan.remarks(self.config))
        calls = jobs.calls(count, len(self._channels_of(count)), plan, options)
        job = Job(plan, options, Ticks(progress, calls), prepared.contrast)
        result = self._fuse_loaded(
            prepared.picture, count, job, prepared.dtype, prepared.mask, has_depth
        )
        result.note(prepared.report)
        depth = result.depth
        if depth is not None:
            depth = np.asarray(prepared.order, depth.dtype)[depth]
        # Only what the network made of neighbours was stretched, not what a bracket became.
        stretch = "none" if result.blend == "bracket" else str(options.stretch)
        picture = prepared.finish(result.picture)
        return Fused(picture, prepared.report, prepared.labels, depth, stretch)

    def steadied(
        self, scenes: Sequence[Sequence[Picture] | Sources], *, options: FuseOptions | None = None
    ) -> Fuser:
        """This network with one set of statistics for all frames of a sequence.

        Networks that sum over the whole picture answer to a bright thing that walks in with
        another tone everywhere. Pictures of another size, and those in buckets, keep their own.

        Args:
          scenes: a few frames, of one size.
          options: as in a call.

        Returns:
          A `Fuser` that shares weights and programs; this one itself where there is nothing to
          share.

        Raises:
          InputError: as a call, for any of the frames.
        """
        if not self._has_context:
            return self
        total: dict[str, np.ndarray] = {}
        size = None
        for images in scenes:
            scene = self.prepare(images, options=options)
            plan = self._plan(scene.shape, scene.options)
            if plan.bucketed or plan.reduced or size not in (None, scene.shape):
                return self
            size = scene.shape
            pictures = [scene.picture(i) for i in range(len(scene))]
            filled = masks.filled(pictures, scene.masks())
            if self.config.sets:
                filled = [filled[i] for i in sets.order(pictures)]
            sums = assembly.sums(self._reduced(filled), plan, self._measure_tile, lambda: None)
            for name, value in sums.items():
                total[name] = total.get(name, np.float32(0)) + value / np.float32(len(scenes))
        if size is None or not total:
            return self
        fuser = copy.copy(self)
        fuser.steady = size, total
        return fuser

    def same_program(self, prepared: Prepared) -> tuple[Any, ...]:
        """What scenes have in common that are fused in one run: padded size and type.

        Args:
          prepared: pictures of one scene.
        """
        plan = self._plan(prepared.shape, prepared.options, len(prepared))
        return plan.padded, plan.bucketed, prepared.dtype

    def plan(
        self,
        height: int,
        width: int,
        *,
        count: int = 0,
        options: FuseOptions | None = None,
        **changes: Any,
    ) -> tiling.Plan:
        """How a picture of this size would be padded and tiled.

        Args:
          height: rows.
          width: columns.
          count: of pictures; 0 for as many as the network takes.
          options: as in a call.
          **changes: as in a call.

        Raises:
          InputError: an option that does not fit.
        """
        return self._plan((height, width), self.resolve(options, **changes), count)

    def resolve(self, options: FuseOptions | None = None, **changes: Any) -> FuseOptions:
        """The options of a call, what it leaves open taken from `self.options`.

        Raises:
          InputError: an option that does not exist, or a wrong value.
        """
        choice = FuseOptions.read(changes)
        if options is not None:
            choice = choice.otherwise(options)
        return choice.otherwise(self.options)

    def _plan(self, shape: Sequence[int], options: FuseOptions, count: int = 0) -> tiling.Plan:
        return tiling.plan(
            shape[0],
            shape[1],
            options,
            grid=self.config.grid,
            has_context=self._has_context,
            has_buckets=self.has_buckets,
            padded_sizes=self.padded_sizes,
            blends=self.config.blends,
            is_stack=count > len(self._channels_of(count)),
        )

    @property
    def task(self) -> tasks.Task | None:
        """What the weights are for; None where nobody says. Sets are exposures."""
        task = tasks.of_card(self.card)
        return tasks.TASKS["exposure"] if task is None and self.config.sets else task

    def _splits_chroma(self, pictures: Sequence[np.ndarray]) -> bool:
        """Whether the luminance of these is fused, and chroma passes beside it."""
        return rendering.splits_chroma(self.config, pictures)

    @property
    def _feather(self) -> int:
        """Pixels over which a result fades into a picture that is alone."""
        # Networks that choose between pictures have no tone of their own.
        return 0 if self.config.blends else masks.FEATHER

    @property
    def _weighs_all(self) -> bool:
        """Whether the network's weights, not its picture, make the result, of all at once."""
        return self.config.sets or self.config.scales

    def _channels_of(self, count: int) -> tuple[int, ...]:
        """Channels of the inputs when there are so many pictures."""
        wanted = tuple(self.config.in_channels)
        return wanted[:1] * count if self.config.sets and count > len(wanted) else wanted

    def _check_count(self, count: int) -> None:
        wanted = len(self.config.in_channels)
        if count == wanted or (wanted == 2 and count > 2):
            return
        more = " or more" if wanted == 2 else ""
        raise InputError(f"this network fuses {wanted}{more} pictures, but was given {count}.")

    def _run_together(
        self,
        scenes: Sequence[Sequence[np.ndarray]],
        plans: Sequence[tiling.Plan],
        view: rendering.View,
    ) -> np.ndarray:
        """One view of several scenes through the network: (scenes, h, w, C), padding included."""
        # Programs are compiled for powers of two; the last scene fills the gap.
        gap = (1 << (len(scenes) - 1).bit_length()) - len(scenes)
        inputs = [
            self._to_network(
                [to_float(x[view][plan.positions(0, 0)]) for x in self._reduced(scene)],
                self._splits_chroma(scene),
            )
            for scene, plan in zip(scenes, plans, strict=True)
        ]
        stacked = tuple(
            jnp.concatenate([*images, *images[-1:] * gap]) for images in zip(*inputs, strict=True)
        )
        extent = jobs.extent([*plans, *[plans[-1]] * gap])
        return np.asarray(self._call(self._fuse, stacked, extent))[: len(scenes)]

    def _fuse_loaded(
        self,
        load: stacks.Load,
        count: int,
        job: Job,
        dtype: np.dtype | None,
        coverage: stacks.Coverage = stacks.everywhere,
        has_depth: bool = False,
    ) -> photographs.Result:
        """Pictures of one scene that are loaded when they are needed.

        Args:
          load: number -> (H, W, C), C 1 or 3, of any accepted dtype; called up to twice for each.
          count: of pictures.
          job: of the call.
          dtype: of the result; None is float32 as computed.
          coverage: number -> (H, W) bool where the picture is there; None is everywhere.
          has_depth: whether the number of the sharpest picture is wanted for every pixel.

        """
        scene = photographs.Scene(count, load, coverage)
        inputs = len(self._channels_of(count))
        if self._weighs_all and count == inputs:
            return self._fuse_set(scene, job, dtype, has_depth)
        if job.plan.reduced:
            return self._fuse_photographs(scene, job, dtype, has_depth)
        # Other networks say nothing of sharpness: the evidence alone does.
        depth = photographs.fuse(scene, None, has_depth=True).depth if has_depth else None

        def fuse(pictures: list[np.ndarray], kind: np.dtype | None) -> np.ndarray:
            return self._fuse_scene(pictures, job, kind)

        if count > inputs and self.task is tasks.TASKS["exposure"]:  # a bracket
            exposures = [load(number) for number in range(count)]
            channels = max(picture.shape[-1] for picture in exposures)
            exposures = [np.broadcast_to(x, (*x.shape[:2], channels)) for x in exposures]
            covers = [coverage(number) for number in range(count)]
            floats = np.dtype(np.float32)
            blended = brackets.fuse_bracket(exposures, lambda a, b: fuse([a, b], floats), covers)
            return photographs.Result(from_float(blended, dtype), depth, "bracket", job.plan.padded)
        fused = stacks.fuse(load, count, inputs, fuse, dtype, coverage, self._feather)
        return photographs.Result(fused, depth, "network", job.plan.padded)

    def _fuse_set(
        self, scene: photographs.Scene, job: Job, dtype: np.dtype | None, has_depth: bool
    ) -> photographs.Result:
        """All pictures at once: the network weighs them, reduced or whole."""
        options, plan = job.options, job.plan

        def weigh(pictures: list[np.ndarray]) -> np.ndarray:
            if plan.reduced:
                return self._weights(pictures, options)
            return rendering.averaged(
                lambda views: self._assemble(views, views, job, None, weighs=True),
                pictures,
                options.ensemble,
            )

        is_stretched = options.stretch != "none" and dtype is not None
        result = sets.fuse(
            scene,
            weigh,
            size=plan.seen if plan.reduced else None,
            has_scales=self.config.scales,
            has_order=not self.config.sets,
            dtype=None if is_stretched else dtype,
            has_depth=has_depth,
            tick=job.ticks.tick if plan.reduced else lambda: None,
        )
        return job.stretched(result, dtype) if is_stretched else result

    def _fuse_photographs(
        self, scene: photographs.Scene, job: Job, dtype: np.dtype | None, has_depth: bool
    ) -> photographs.Result:
        """Coarse to fine: the network weighs reduced pictures, evidence does the rest."""
        options = job.options
        is_stretched = options.stretch != "none" and dtype is not None
        result = photographs.fuse(
            scene,
            lambda pictures: self._weights(pictures, options),
            inputs=len(self.config.in_channels),
            factor=options.scale or 0,
            dtype=None if is_stretched else dtype,
            has_depth=has_depth,
            tick=job.ticks.tick,
        )
        return job.stretched(result, dtype) if is_stretched else result

    def _weights(self, pictures: Sequence[np.ndarray], options: FuseOptions) -> np.ndarray:
        """(h, w, inputs) weights of float pictures; upright ones are turned to share programs."""
        height, width = pictures[0].shape[:2]
        if height > width:
            turned = self._weights([x.swapaxes(0, 1) for x in pictures], options)
            return turned.swapaxes(0, 1)

        def weigh(images: Sequence[np.ndarray]) -> np.ndarray:
            return np.array(self._call(self._weigh, self._to_network(images), {})[0])

        return rendering.averaged(weigh, pictures, options.ensemble)

    def _fuse_scene(
        self, pictures: Sequence[np.ndarray], job: Job, dtype: np.dtype | None
    ) -> np.ndarray:
        """Pictures of one scene through the network.

        Args:
          pictures: (H, W, C), C 1 or 3, of any accepted dtype.
          job: plan, options and progress.
          dtype: of the result; None is float32 as computed, neither clipped nor rounded nor
            stretched.

        Returns:
          (H, W, C).
        """
        options = job.options
        views = rendering.views(options.ensemble)
        is_stretched = options.stretch != "none" and dtype is not None
        is_based = base.chosen(options, self.config) != "network"
        if not (self._splits_chroma(pictures) or is_stretched or is_based or len(views) > 1):
            # Rows take their final type as they are completed: no second picture is held.
            return self._assemble(pictures, pictures, job, dtype)
        reduced = self._reduced(pictures)
        parts = (
            self._assemble([x[view] for x in reduced], pictures, job, None)[view] for view in views
        )
        return self._rendered(parts, pictures, options, dtype, job.contrast)

    def _rendered(
        self,
        parts: Iterable[np.ndarray],
        pictures: Sequence[np.ndarray],
        options: FuseOptions,
        dtype: np.dtype | None,
        contrast: rendering.Contrast,
    ) -> np.ndarray:
        """The picture of a scene from the results of all views."""
        splits = self._splits_chroma(pictures)
        sources = self._reduced(pictures) if splits else None
        has_colour = any(x.shape[-1] == 3 for x in pictures)
        makes_colour = splits or self.config.out_channels == 3
        channels = 3 if has_colour and makes_colour else 1
        mean = base.replaced(rendering.mean(parts), pictures, base.chosen(options, self.config))
        return rendering.picture(mean, sources, options, dtype, channels, contrast)

    def _assemble(
        self,
        pictures: Sequence[np.ndarray],
        scene: Sequence[np.ndarray],
        job: Job,
        dtype: np.dtype | None,
        *,
        weighs: bool = False,
    ) -> np.ndarray:
        """What the network makes of all tiles of one view, (H, W, C) in `dtype`; or its weights."""
        plan, ticks = job.plan, job.ticks
        abilities: dict[str, Any] = {}
        sums: Mapping[str, np.ndarray] = {}
        if self.steady is not None and self.steady[0] == (plan.height, plan.width):
            sums = self.steady[1]
        elif plan.streamed:
            sums = assembly.sums(pictures, plan, self._measure_tile, ticks.tick)
        if sums:
            abilities = {"context": {k: jnp.asarray(v) for k, v in sums.items()}}
        abilities |= jobs.extent([plan])
        keeps = self._keeps_channels(scene)
        channels = self.config.out_channels if keeps else 1
        channels = len(pictures) if weighs else channels
        splits = self._splits_chroma(scene)
        out = np.empty((plan.height, plan.width, channels), dtype or np.float32)

        def run(tile: list[np.ndarray]) -> np.ndarray:
            inputs = self._to_network([to_float(x) for x in tile], splits)
            values = self._call(self._weigh if weighs else self._fuse, inputs, abilities)
            return np.asarray(values)[0] if weighs else self._channels(np.asarray(values)[0], keeps)

        def write(rows: slice, values: np.ndarray) -> None:
            out[rows] = from_float(values, dtype)

        assembly.assemble(pictures, plan, run, write, ticks.tick)
        return out

    def _measure_tile(self, tile: list[np.ndarray], owned: np.ndarray) -> dict[str, np.ndarray]:
        inputs = self._to_network([to_float(x) for x in tile])
        return self._call(self._measure, inputs, jnp.asarray(owned[None, ..., None]))

    def _reduced(self, pictures: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Pictures as the network sees them, but for what `_to_network` does."""
        return rendering.reduced(self.config, pictures)

    def _keeps_channels(self, scene: Sequence[np.ndarray]) -> bool:
        """Whether all channels of the network's result are of use for this scene."""
        has_colour = self.config.out_channels == 3 and any(x.shape[-1] > 1 for x in scene)
        return has_colour and not self._splits_chroma(scene)

    def _channels(self, values: np.ndarray, keeps: bool) -> np.ndarray:
        """The network's result, reduced to luminance where `_keeps_channels` says no."""
        if values.shape[-1] == 1 or keeps:
            return values
        return np.asarray(image.luminance(values))

    def _to_network(
        self, pictures: Sequence[np.ndarray], splits: bool = False
    ) -> tuple[jax.Array, ...]:
        """Float pictures as NHWC network inputs: gray repeated or colour reduced to luminance."""
        inputs = rendering.inputs(pictures, self._channels_of(len(pictures)), splits)
        return tuple(jnp.asarray(x, jnp.float32) for x in inputs)

    def _call(self, function: Callable, *arguments: Any) -> Any:
        try:
            return jax.block_until_ready(function(self.params, self.stats, *arguments))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                raise InputError(
                    "the pictures do not fit into memory; fuse them in (smaller) tiles."
                ) from None
            raise
