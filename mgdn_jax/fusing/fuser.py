"""`Fuser`: pictures in, the fused picture out. Checks, colour, padding, tiles and the jit cache."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mgdn_jax import image
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import assembly, jobs, photographs, rendering, stacks, tiling
from mgdn_jax.fusing.jobs import Job, Progress, Ticks
from mgdn_jax.fusing.options import USUAL, FuseOptions
from mgdn_jax.io.pixels import from_float, like_inputs, load_pictures, to_float, without_alpha
from mgdn_jax.layers import functional
from mgdn_jax.systems import registry
from mgdn_jax.systems.contract import CONTEXT, EXTENT

Picture = np.ndarray | jax.Array | str | os.PathLike[str]


class Fuser:
    """A network with its weights, ready for pictures of any size, dtype and layout.

    `fuser(a, b)` takes arrays or paths and returns an array as they were; `fuser.network(a, b)`
    is the bare network. Programs are compiled per padded size and kept for the life of the
    object. Sizes are rounded up to shared buckets only if asked, and only for networks that can
    leave the extra padding out of their statistics over the whole picture (`has_buckets`).

    Attributes:
      system: name of the system, "mgdn" for instance.
      config: its frozen configuration.
      params: flat dictionary of parameters, on the default device.
      stats: flat dictionary of running statistics, often empty.
      card: what is known about the weights (see docs/use/pictures.md).
      options: what holds where a call says nothing: `card["inference"]`, else what is usual.
      has_buckets: whether the network takes the `bucket` option.
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
        graphdef, wanted_params, wanted_stats = registry.abstract(system, config.for_use())
        _check_fit(params, wanted_params, "parameters")
        _check_fit(stats or {}, wanted_stats, "statistics")
        self.system = system
        self.config = config
        self.params = {name: jnp.asarray(params[name]) for name in wanted_params}
        self.stats = {name: jnp.asarray((stats or {})[name]) for name in wanted_stats}
        self.card = dict(card or {})
        self.options = FuseOptions.on_card(self.card).otherwise(USUAL)
        takes = registry.network(system).Network.takes
        self._has_context = CONTEXT in takes
        self.has_buckets = EXTENT in takes

        # Parameters are arguments, not constants: one compiled program serves all weights.
        def fuse(params, stats, images, abilities):
            (fused, _), _ = functional.apply(graphdef, params, stats, *images, **abilities)
            return fused

        def measure(params, stats, images, weights):
            (_, aux), _ = functional.apply(graphdef, params, stats, *images, pixel_weights=weights)
            return aux.get("context", {})

        def weigh(params, stats, images):
            (_, aux), _ = functional.apply(graphdef, params, stats, *images)
            return aux["weights"]

        self._fuse = jax.jit(fuse)
        self._measure = jax.jit(measure)
        self._weigh = jax.jit(weigh)

    def __repr__(self) -> str:
        name = self.card.get("name", "unnamed")
        return f"Fuser({name!r}, system={self.system!r}, inputs={len(self.config.in_channels)})"

    def network(self, *images: np.ndarray | jax.Array) -> jax.Array:
        """The bare network: no checks of range, no colour rule, no padding but its own.

        Args:
          *images: (B, H, W, C) float arrays in [0, 1], as many and with as many channels as
            `config.in_channels` says.

        Returns:
          (B, H, W, config.out_channels) float32, exactly what the network computes.

        Raises:
          InputError: wrong number of images, ranks or channels, or sizes that differ.
        """
        wanted = self.config.in_channels
        shapes = [np.shape(x) for x in images]
        if len(shapes) != len(wanted) or any(
            len(shape) != 4 or shape[-1] != channels or shape[:3] != shapes[0][:3]
            for shape, channels in zip(shapes, wanted, strict=True)
        ):
            layout = ", ".join(f"(B, H, W, {channels})" for channels in wanted)
            raise InputError(f"the network takes {layout}, but was given {shapes}.")
        inputs = tuple(jnp.asarray(x, jnp.float32) for x in images)
        return self._call(self._fuse, inputs, {})

    def __call__(
        self,
        *images: Picture,
        options: FuseOptions | None = None,
        progress: Progress | None = None,
        **changes: Any,
    ) -> np.ndarray:
        """Fuses pictures of one scene.

        More than two pictures on a two-input network are a stack: neighbours are fused first,
        then neighbouring results, a balanced tree over the order given (give a focus stack from
        near to far). Every picture then passes ceil(log2 n) networks, where a fold from the left
        would send the first one through n - 1 of them and let its errors grow with each; and
        neighbours of a focal sweep are what a two-picture network was trained for. Results
        between stages stay float32, unclipped and unrounded.

        Args:
          *images: arrays or paths; (H, W) or (H, W, C) with C 1 or 3, or 2 or 4 with alpha last;
            uint8, uint16 or float in [0, 1]; all of one size and one dtype.
          options: see `FuseOptions`.
          progress: called as (tiles done, tiles in all) after every tile.
          **changes: single options by name, ``tile=512`` or ``stretch="minmax"`` for instance.

        Returns:
          (H, W) or (H, W, C) of the inputs' dtype; gray if all inputs are gray (with the rank of
          the first), else colour. Alpha is not fused: the result is as opaque as the most opaque
          input at each pixel, and has an alpha channel only if all inputs have one. Values are
          rounded to nearest, not truncated.

        Raises:
          InputError: anything about the inputs or options that does not fit, named.
        """
        self._check_count(len(images))
        if any(channels not in (1, 3) for channels in self.config.in_channels):
            raise InputError("this network takes more than pictures; use .network().")
        choice = self.resolve(options, **changes)
        pixels = load_pictures(images)
        colours = [without_alpha(x) for x in pixels]
        plan = self._plan(pixels[0].shape, choice)
        calls = jobs.calls(len(pixels), len(self.config.in_channels), plan, choice)
        job = Job(plan, choice, Ticks(progress, calls))
        result = self._fuse_loaded(colours.__getitem__, len(pixels), job, pixels[0].dtype)
        return like_inputs(result.picture, pixels)

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
        choice = self.resolve(options, **changes)
        loaded = [load_pictures(group) for group in groups]
        plans = [self._plan(pixels[0].shape, choice) for pixels in loaded]
        if not self._is_one_program(loaded, plans):
            return [self(*pixels, options=choice, progress=progress) for pixels in loaded]
        views = rendering.views(choice.ensemble)
        ticks = Ticks(progress, len(loaded) * len(views))
        scenes = [[without_alpha(x) for x in pixels] for pixels in loaded]
        parts: list[list[np.ndarray]] = [[] for _ in scenes]
        for view in views:
            results = self._run_together(scenes, plans, view)
            for part, scene, plan, result in zip(parts, scenes, plans, results, strict=True):
                values = self._channels(result[: plan.height, : plan.width], scene)
                part.append(np.array(values[view]))
                ticks.tick()
        return [
            like_inputs(self._rendered(part, scene, choice, pixels[0].dtype), pixels)
            for part, scene, pixels in zip(parts, scenes, loaded, strict=True)
        ]

    def same_program(
        self,
        pictures: Sequence[np.ndarray],
        *,
        options: FuseOptions | None = None,
        **changes: Any,
    ) -> tuple[Any, ...]:
        """What scenes have in common that `batch` takes in one run: padded size and type.

        Args:
          pictures: of one scene, as `io.pixels.load_pictures` gives them.
          options: as in a call.
          **changes: as in a call.
        """
        plan = self.plan(*pictures[0].shape[:2], options=options, **changes)
        return plan.padded, pictures[0].dtype

    def plan(
        self, height: int, width: int, *, options: FuseOptions | None = None, **changes: Any
    ) -> tiling.Plan:
        """How a picture of this size would be padded and tiled; options as in a call.

        Raises:
          InputError: an option that does not fit.
        """
        return self._plan((height, width), self.resolve(options, **changes))

    def resolve(self, options: FuseOptions | None = None, **changes: Any) -> FuseOptions:
        """The options of a call, what it leaves open taken from `self.options`.

        Raises:
          InputError: an option that does not exist, or a wrong value.
        """
        choice = FuseOptions.read(changes)
        if options is not None:
            choice = choice.otherwise(options)
        return choice.otherwise(self.options)

    def _plan(self, shape: Sequence[int], options: FuseOptions) -> tiling.Plan:
        return tiling.plan(
            shape[0],
            shape[1],
            options,
            grid=self.config.grid,
            has_context=self._has_context,
            has_buckets=self.has_buckets,
            blends=self.config.blends,
        )

    @property
    def _fuses_luminance(self) -> bool:
        """One-channel networks fuse luminance; chroma passes beside them."""
        return set(self.config.in_channels) == {1} and self.config.out_channels == 1

    @property
    def _makes_colour(self) -> bool:
        return self.config.out_channels == 3

    def _check_count(self, count: int) -> None:
        wanted = len(self.config.in_channels)
        if count == wanted or (wanted == 2 and count > 2):
            return
        more = " or more" if wanted == 2 else ""
        raise InputError(f"this network fuses {wanted}{more} pictures, but was given {count}.")

    def _is_one_program(
        self, loaded: Sequence[Sequence[np.ndarray]], plans: Sequence[tiling.Plan]
    ) -> bool:
        """Whether several scenes can go through the network at once."""
        first, wanted = plans[0], self.config.in_channels
        return (
            len(loaded) > 1
            and set(wanted) <= {1, 3}
            and all(len(pixels) == len(wanted) for pixels in loaded)
            and all(plan.tiles == 1 and plan.padded == first.padded for plan in plans)
            and not any(plan.reduced for plan in plans)
            # Without buckets the picture's own size is part of the program.
            and all(
                (plan.bucketed and first.bucketed)
                or (plan.height, plan.width) == (first.height, first.width)
                for plan in plans
            )
        )

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
                [to_float(x[view][plan.positions(0, 0)]) for x in self._reduced(scene)]
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
        if job.plan.reduced:
            return self._fuse_photographs(scene, job, dtype, has_depth)
        # Other networks say nothing of sharpness: the evidence alone does.
        depth = photographs.fuse(scene, None, has_depth=True).depth if has_depth else None

        def fuse(pictures: list[np.ndarray], kind: np.dtype | None) -> np.ndarray:
            return self._fuse_scene(pictures, job, kind)

        inputs = len(self.config.in_channels)
        fused = stacks.fuse(load, count, inputs, fuse, dtype, coverage)
        return photographs.Result(fused, depth, "network", job.plan.padded)

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
        if not is_stretched:
            return result
        channels = result.picture.shape[-1]
        picture = rendering.picture(result.picture, None, options, dtype, channels)
        return dataclasses.replace(result, picture=picture)

    def _weights(self, pictures: Sequence[np.ndarray], options: FuseOptions) -> np.ndarray:
        """(h, w, inputs) weights of float pictures; upright ones are turned to share programs."""
        height, width = pictures[0].shape[:2]
        if height > width:
            turned = self._weights([x.swapaxes(0, 1) for x in pictures], options)
            return turned.swapaxes(0, 1)

        def weigh(images: Sequence[np.ndarray]) -> np.ndarray:
            return np.array(self._call(self._weigh, self._to_network(images))[0])

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
        if not (self._fuses_luminance or is_stretched or len(views) > 1):
            # Rows take their final type as they are completed: no second picture is held.
            return self._assemble(pictures, pictures, job, dtype)
        reduced = self._reduced(pictures)
        parts = (
            self._assemble([x[view] for x in reduced], pictures, job, None)[view] for view in views
        )
        return self._rendered(parts, pictures, options, dtype)

    def _rendered(
        self,
        parts: Iterable[np.ndarray],
        pictures: Sequence[np.ndarray],
        options: FuseOptions,
        dtype: np.dtype | None,
    ) -> np.ndarray:
        """The picture of a scene from the results of all views."""
        sources = self._reduced(pictures) if self._fuses_luminance else None
        has_colour = any(x.shape[-1] == 3 for x in pictures)
        channels = 3 if has_colour and (self._fuses_luminance or self._makes_colour) else 1
        return rendering.picture(rendering.mean(parts), sources, options, dtype, channels)

    def _assemble(
        self,
        pictures: Sequence[np.ndarray],
        scene: Sequence[np.ndarray],
        job: Job,
        dtype: np.dtype | None,
    ) -> np.ndarray:
        """What the network makes of all tiles of one view, (H, W, C) in `dtype`."""
        plan, ticks = job.plan, job.ticks
        abilities: dict[str, Any] = {}
        if plan.streamed:
            sums = assembly.sums(pictures, plan, self._measure_tile, ticks.tick)
            abilities = {"context": {k: jnp.asarray(v) for k, v in sums.items()}} if sums else {}
        abilities |= jobs.extent([plan])
        channels = self.config.out_channels if self._keeps_channels(scene) else 1
        out = np.empty((plan.height, plan.width, channels), dtype or np.float32)

        def run(tile: list[np.ndarray]) -> np.ndarray:
            inputs = self._to_network([to_float(x) for x in tile])
            return self._channels(np.asarray(self._call(self._fuse, inputs, abilities))[0], scene)

        def write(rows: slice, values: np.ndarray) -> None:
            out[rows] = from_float(values, dtype)

        assembly.assemble(pictures, plan, run, write, ticks.tick)
        return out

    def _measure_tile(self, tile: list[np.ndarray], owned: np.ndarray) -> dict[str, np.ndarray]:
        inputs = self._to_network([to_float(x) for x in tile])
        return self._call(self._measure, inputs, jnp.asarray(owned[None, ..., None]))

    def _reduced(self, pictures: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Pictures as the network sees them, but for what `_to_network` does."""
        if not self._fuses_luminance:
            return pictures
        return [rendering.gray_if_equal(x) for x in pictures]

    def _keeps_channels(self, scene: Sequence[np.ndarray]) -> bool:
        """Whether all channels of the network's result are of use for this scene."""
        return self._makes_colour and any(x.shape[-1] == 3 for x in scene)

    def _channels(self, values: np.ndarray, scene: Sequence[np.ndarray]) -> np.ndarray:
        """The network's result, reduced to luminance where the scene is gray."""
        if values.shape[-1] == 1 or self._keeps_channels(scene):
            return values
        return np.asarray(image.luminance(values))

    def _to_network(self, pictures: Sequence[np.ndarray]) -> tuple[jax.Array, ...]:
        """Float pictures as NHWC network inputs: gray repeated or colour reduced to luminance."""
        inputs = []
        for picture, channels in zip(pictures, self.config.in_channels, strict=True):
            if channels == 3 and picture.shape[-1] == 1:
                picture = np.repeat(picture, 3, -1)
            elif channels == 1:
                picture = np.asarray(image.luminance(picture))
            inputs.append(jnp.asarray(picture[None], jnp.float32))
        return tuple(inputs)

    def _call(self, function: Callable, *arguments: Any) -> Any:
        try:
            return jax.block_until_ready(function(self.params, self.stats, *arguments))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                raise InputError(
                    "the pictures do not fit into memory; fuse them in (smaller) tiles."
                ) from None
            raise


def _check_fit(weights: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    both = wanted.keys() & weights.keys()
    faults = {
        "missing": sorted(wanted.keys() - weights.keys()),
        "foreign": sorted(weights.keys() - wanted.keys()),
        "misshapen": sorted(k for k in both if weights[k].shape != wanted[k].shape),
    }
    said = [f"{len(names)} {word} ({names[0]})" for word, names in faults.items() if names]
    if said:
        raise InputError(
            f"the {what} do not fit the network: {', '.join(said)}; convert or train them again."
        )
