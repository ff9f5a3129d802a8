"""`Fuser`: pictures in, the fused picture out. Checks, colour, padding, tiles and the jit cache."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mgdn_jax import files, image, models, tiling
from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.rendering import CHROMAS, ENSEMBLES, STRETCHES, Rendering, choose

AUTO_TILE_PIXELS = 1_500_000
"""Pictures above this many pixels are tiled unless `tile` says otherwise."""
AUTO_TILE = 512
AUTO_OVERLAP = 64
PADDINGS = ("script", "network")
CONTEXTS = ("global", "local")

Picture = np.ndarray | jax.Array | str | os.PathLike[str]
Progress = Callable[[int, int], None]


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
      card: what is known about the weights (see docs/using.md).
      padding: the padding used where a call names none: `card["inference"]["padding"]`, else
        "network".
      chroma: likewise how colour is treated; `card["inference"]["chroma"]`, else "centred".
      stretch: likewise what becomes of the range; `card["inference"]["stretch"]`, else "none".
      ensemble: likewise over which views it averages; `card["inference"]["ensemble"]`, else "none".
      has_buckets: whether the network takes the `bucket` option (all but MGDN do).
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
            for a padding, chroma, stretch or ensemble that does not exist.
        """
        # What is kept for gradients does not matter, for there are none.
        lean = {"remat": "none"} if hasattr(config, "remat") else {}
        graphdef, wanted_params, wanted_stats = models.abstract(
            system, dataclasses.replace(config, **lean)
        )
        _check_fit(params, wanted_params, "parameters")
        _check_fit(stats or {}, wanted_stats, "statistics")
        self.system = system
        self.config = config
        self.params = {name: jnp.asarray(params[name]) for name in wanted_params}
        self.stats = {name: jnp.asarray((stats or {})[name]) for name in wanted_stats}
        self.card = dict(card or {})
        inference = self.card.get("inference") or {}
        self.padding = inference.get("padding", "network")
        self.chroma = inference.get("chroma", "centred")
        self.stretch = inference.get("stretch", "none")
        self.ensemble = inference.get("ensemble", "none")
        choose("padding on the weights' card", self.padding, PADDINGS)
        choose("chroma on the weights' card", self.chroma, CHROMAS)
        choose("stretch on the weights' card", self.stretch, STRETCHES)
        choose("ensemble on the weights' card", self.ensemble, ENSEMBLES)
        self._window = int(getattr(config, "window", 1))
        call = inspect.signature(models.get(system).Network.__call__)
        self._has_context = {"context", "pixel_weights"} <= set(call.parameters)
        self.has_buckets = "extent" in call.parameters

        # Parameters are arguments, not constants: one compiled program serves all weights.
        def fuse(params, stats, images, context=None, extent=None):
            extra = {} if context is None else {"context": context}
            extra |= {} if extent is None else {"extent": extent}
            (fused, _), _ = functional.apply(graphdef, params, stats, *images, **extra)
            return fused

        def measure(params, stats, images, weights):
            (_, aux), _ = functional.apply(graphdef, params, stats, *images, pixel_weights=weights)
            return aux.get("context", {})

        self._fuse = jax.jit(fuse)
        self._measure = jax.jit(measure)

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
        return self._call(self._fuse, inputs, None, None)

    def __call__(
        self,
        *images: Picture,
        tile: int | None = None,
        overlap: int | None = None,
        padding: str | None = None,
        tile_context: str = "global",
        chroma: str | None = None,
        stretch: str | None = None,
        ensemble: str | None = None,
        bucket: int = 0,
        progress: Progress | None = None,
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
          tile: longest edge of a tile in pixels, a multiple of the network's window (tiles are made
            even, so they may be shorter); 0 never tiles; None is 512 above 1.5 megapixels, else 0.
          overlap: pixels that neighbouring tiles share and blend over, at least; None is 64, or a
            quarter of a tile below 256.
          padding: "script" (mirrored to the next multiple of 8 plus, always at least one row, as
            the published MGDN script does) or "network" (reflected to a multiple of the window,
            as the network does by itself); None is `self.padding`. Global statistics see the
            padding, so this changes the whole picture slightly.
          tile_context: "global" runs all tiles twice, first to sum the network's global
            statistics over the picture, so that tiles agree; "local" lets every tile use its own.
          chroma: for networks that fuse luminance: "centred" (BT.601; two colour pictures mix by
            distance from neutral) or "parity" (the rounded constants and the uncentred mix of
            ReFusion's published code); None is `self.chroma`. A picture whose channels are equal
            everywhere counts as gray.
          stretch: "none" (the network's values), "minmax" (every result of the network spread
            over the full range before colour comes back, which some published figures rest on and
            which discards brightness and contrast; a constant result stays as it is) or "fill"
            (cut off at black and white first, so that contrast never falls, whatever few values
            lie beyond); None is `self.stretch`. Stacks are stretched once, at the end.
          ensemble: "none", or "flips": the mean over the picture as it is and mirrored along
            either axis and both, each turned back, before any stretch: four times the work, and two
            float pictures of the result's size (the geometric self-ensemble of EDSR, Lim et al.
            2017, section 3.4, less its quarter turns); None is `self.ensemble`.
          bucket: an untiled picture is padded to multiples of so many pixels, which the network
            masks out, so that pictures of similar sizes share one compiled program; the result is
            the same up to rounding. 0 does not; where not `has_buckets` it has no effect.
          progress: called as (tiles done, tiles in all) after every tile.

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
        pixels = files.load_pictures(images)
        dtype = pixels[0].dtype
        colours = [files.without_alpha(x) for x in pixels]
        height, width = pixels[0].shape[:2]
        plan = self.plan(
            height,
            width,
            tile=tile,
            overlap=overlap,
            padding=padding,
            tile_context=tile_context,
            bucket=bucket,
        )
        rules = self._rules(chroma, stretch, ensemble)
        calls = 1 if len(self.config.in_channels) == len(pixels) else len(pixels) - 1
        calls *= len(rules.views)
        ticks = _Ticks(progress, calls * plan.tiles * (2 if plan.streamed else 1))
        if len(self.config.in_channels) == len(pixels):
            fused = self._fuse_pictures(colours, plan, dtype, rules, ticks)
        else:
            fused = self._fuse_tree(colours, plan, dtype, rules, ticks)
        return files.like_inputs(fused, pixels)

    def batch(
        self,
        groups: Sequence[Sequence[Picture]],
        *,
        chroma: str | None = None,
        stretch: str | None = None,
        ensemble: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> list[np.ndarray]:
        """Fuses several scenes as one call for each would, in a single run where that is possible.

        It is where all pictures have one size (with buckets, one padded size), none is tiled, and
        each group has just as many as the network takes. Programs are compiled for 1, 2, 4, ...
        pictures; gaps are filled up.

        Args:
          groups: for each scene its pictures, as in a call.
          chroma: as in a call.
          stretch: as in a call.
          ensemble: as in a call.
          progress: as in a call.
          **options: tile, overlap, padding, tile_context and bucket of a call.

        Returns:
          One result for each group, as a call gives it.

        Raises:
          InputError: as a call, for any of them.
        """
        loaded = [files.load_pictures(group) for group in groups]
        plans = [self.plan(*pixels[0].shape[:2], **options) for pixels in loaded]
        wanted = self.config.in_channels
        if (
            len(loaded) == 1
            or {len(pixels) for pixels in loaded} != {len(wanted)}
            or len({plan.padded for plan in plans}) > 1
            or any(plan.tiles > 1 for plan in plans)
            or len({plan.bucketed or (plan.height, plan.width) for plan in plans}) > 1
            or not set(wanted) <= {1, 3}
        ):
            asked: dict[str, Any] = {"chroma": chroma, "stretch": stretch, "ensemble": ensemble}
            return [self(*pixels, **options, **asked, progress=progress) for pixels in loaded]
        rules = self._rules(chroma, stretch, ensemble)
        ticks = _Ticks(progress, len(loaded) * len(rules.views))
        scenes = [[files.without_alpha(x) for x in pixels] for pixels in loaded]
        whole = [self._readied(pictures) for pictures in scenes]
        gap = (1 << (len(loaded) - 1).bit_length()) - len(loaded)
        extent = _extent([*plans, *plans[-1:] * gap])
        results = []
        for view in rules.views:
            inputs = [
                self._to_network(self._read([x[view] for x in pictures], plan, 0, 0))
                for pictures, plan in zip(whole, plans, strict=True)
            ]
            stacked = tuple(
                jnp.concatenate([*parts, *parts[-1:] * gap]) for parts in zip(*inputs, strict=True)
            )
            results.append(np.asarray(self._call(self._fuse, stacked, None, extent)))
        return [
            files.like_inputs(
                self._fuse_pictures(colours, plan, pixels[0].dtype, rules, ticks, pieces), pixels
            )
            for colours, plan, pixels, *pieces in zip(scenes, plans, loaded, *results, strict=False)
        ]

    def kind(self, pictures: Sequence[np.ndarray], **options: Any) -> tuple[Any, ...]:
        """What scenes have in common that `batch` takes in one run: padded size and type.

        Args:
          pictures: of one scene, as `files.load_pictures` gives them.
          **options: tile, overlap, padding, tile_context and bucket of a call.
        """
        return self.plan(*pictures[0].shape[:2], **options).padded, pictures[0].dtype

    def plan(
        self,
        height: int,
        width: int,
        *,
        tile: int | None = None,
        overlap: int | None = None,
        padding: str | None = None,
        tile_context: str = "global",
        bucket: int = 0,
    ) -> tiling.Plan:
        """How a picture of this size would be padded and tiled; arguments as in a call.

        Raises:
          InputError: an option that does not fit.
        """
        padding = padding or self.padding
        choose("padding", padding, PADDINGS)
        choose("tile_context", tile_context, CONTEXTS)
        window = self._window
        if padding == "script":
            grid = np.lcm(8, window)
            padded = [int((n // grid + 1) * grid) for n in (height, width)]
        else:
            padded = [-(-n // window) * window for n in (height, width)]
        if tile is None:
            tile = AUTO_TILE // window * window if height * width > AUTO_TILE_PIXELS else 0
        if bucket < 0:
            raise InputError(f"bucket is {bucket}, but must be 0 or a number of pixels.")
        bucketed = bool(bucket) and tile == 0 and self.has_buckets
        if bucketed:
            padded = [-(-n // bucket) * bucket for n in padded]
        if tile == 0:
            sizes, shared = padded, 0
        else:
            if tile < 2 * window or tile % window:
                raise InputError(
                    f"tile is {tile}, but must be 0 or a multiple of {window} "
                    f"(the network's window) from {2 * window} up."
                )
            default = min(AUTO_OVERLAP, tile // 4) // window * window
            shared = default if overlap is None else overlap
            if not 0 <= shared <= tile - window:
                raise InputError(
                    f"overlap is {shared}, but must lie between 0 and {tile - window} "
                    f"for tiles of {tile}."
                )
            sizes = [tiling.even_size(n, tile, shared, window) for n in padded]
        rows, columns = (
            tiling.cut(n, max(size, window), shared, window)
            for n, size in zip(padded, sizes, strict=True)
        )
        streamed = (
            self._has_context
            and tile_context == "global"
            and len(rows.starts) * len(columns.starts) > 1
        )
        mode = "symmetric" if padding == "script" else "reflect"
        return tiling.Plan(height, width, rows, columns, mode, streamed, bucketed)

    @property
    def _chroma_goes_around(self) -> bool:
        """One-channel networks fuse luminance; chroma passes beside them."""
        return set(self.config.in_channels) == {1} and self.config.out_channels == 1

    def _rules(self, chroma: str | None, stretch: str | None, ensemble: str | None) -> Rendering:
        return Rendering(chroma or self.chroma, stretch or self.stretch, ensemble or self.ensemble)

    def _check_count(self, given: int) -> None:
        wanted = len(self.config.in_channels)
        if given == wanted or (wanted == 2 and given > 2):
            return
        more = " or more" if wanted == 2 else ""
        raise InputError(f"this network fuses {wanted}{more} pictures, but was given {given}.")

    def _fuse_tree(
        self,
        pictures: Sequence[np.ndarray],
        plan: tiling.Plan,
        dtype: np.dtype | None,
        rules: Rendering,
        ticks: _Ticks,
    ) -> np.ndarray:
        """A stack by halves; only the last result takes the final dtype."""
        if len(pictures) == 1:
            return pictures[0]
        middle = (len(pictures) + 1) // 2
        halves = [
            self._fuse_tree(half, plan, None, rules, ticks)
            for half in (pictures[:middle], pictures[middle:])
        ]
        return self._fuse_pictures(halves, plan, dtype, rules, ticks)

    def _fuse_pictures(
        self,
        pictures: Sequence[np.ndarray],
        plan: tiling.Plan,
        dtype: np.dtype | None,
        rules: Rendering,
        ticks: _Ticks,
        pieces: Sequence[np.ndarray] = (),
    ) -> np.ndarray:
        """Tiles (or the one tile) through the network.

        Args:
          pictures: (H, W, C), C 1 or 3, of any accepted dtype.
          plan: how they are cut.
          dtype: of the result; None is float32 as computed, neither clipped nor rounded nor
            stretched.
          rules: for views, range and colour.
          ticks: told after each tile.
          pieces: what the network made of the one tile in every view, if it is known already.

        Returns:
          (H, W, C).
        """
        colour = any(x.shape[-1] == 3 for x in pictures)
        gray = not colour or not (self.config.out_channels == 3 or self._chroma_goes_around)
        views = rules.views
        known: list[np.ndarray | None] = [*pieces] or [None for _ in views]
        stretched = rules.stretch != "none" and dtype is not None
        if not (self._chroma_goes_around or stretched or len(views) > 1):
            return self._assemble(pictures, plan, dtype, gray, ticks, known[0])
        whole = self._readied(pictures)
        mono = gray or self._chroma_goes_around
        parts = (
            self._assemble([x[view] for x in whole], plan, None, mono, ticks, piece)[view]
            for view, piece in zip(views, known, strict=True)
        )
        fused = next(parts)
        for part in parts:
            fused += part
        if len(views) > 1:
            fused /= np.float32(len(views))
        sources = whole if self._chroma_goes_around else None
        return rules.picture(fused, sources, dtype, 1 if gray else 3)

    def _readied(self, pictures: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Pictures as the network sees them, but for what `_to_network` does."""
        return [_gray_if_equal(x) for x in pictures] if self._chroma_goes_around else pictures

    def _assemble(
        self,
        pictures: Sequence[np.ndarray],
        plan: tiling.Plan,
        dtype: np.dtype | None,
        gray: bool,
        ticks: _Ticks,
        known: np.ndarray | None = None,
    ) -> np.ndarray:
        """What the network makes of all tiles, (H, W, 1) if `gray`, else with its channels."""
        context = self._sum_context(pictures, plan, ticks) if plan.streamed else None
        channels = 1 if gray else self.config.out_channels
        out = np.empty((plan.height, plan.width, channels), dtype or np.float32)
        size, starts = plan.rows.size, plan.rows.starts
        band = np.zeros((size, plan.padded[1], out.shape[-1]), np.float32)
        for i, top in enumerate(starts):
            for j, left in enumerate(plan.columns.starts):
                if known is None:
                    inputs = self._to_network(self._read(pictures, plan, i, j))
                    extent = _extent([plan])
                    piece = np.asarray(self._call(self._fuse, inputs, context, extent))[0]
                else:
                    piece = known
                if gray and piece.shape[-1] == 3:
                    piece = np.asarray(image.luminance(piece))
                if plan.tiles == 1:
                    band = piece
                else:
                    weights = plan.rows.weights[i][:, None] * plan.columns.weights[j][None]
                    band[:, left : left + plan.columns.size] += weights[..., None] * piece
                ticks.tick()
            # Rows above the next tile are complete: store them and let the rest move up.
            done = starts[i + 1] - top if i + 1 < len(starts) else size
            bottom = min(top + done, plan.height)
            if bottom > top:
                out[top:bottom] = files.from_float(band[: bottom - top, : plan.width], dtype)
            if i + 1 < len(starts):
                band[: size - done] = band[done:].copy()
                band[size - done :] = 0
        return out

    def _sum_context(
        self, pictures: Sequence[np.ndarray], plan: tiling.Plan, ticks: _Ticks
    ) -> dict[str, jax.Array] | None:
        """First pass: the sums over all pixels, each counted in the one tile that owns it."""
        sums: dict[str, np.ndarray] = {}
        for i in range(len(plan.rows.starts)):
            for j in range(len(plan.columns.starts)):
                inputs = self._to_network(self._read(pictures, plan, i, j))
                owned = plan.rows.owned[i][:, None] * plan.columns.owned[j][None]
                part = self._call(self._measure, inputs, jnp.asarray(owned[None, ..., None]))
                for name, value in part.items():
                    sums[name] = sums.get(name, 0.0) + np.asarray(value, np.float64)
                ticks.tick()
        return {k: jnp.asarray(v, jnp.float32) for k, v in sums.items()} or None

    def _read(self, pictures: Sequence[np.ndarray], plan: tiling.Plan, i: int, j: int):
        return [files.to_float(x[plan.positions(i, j)]) for x in pictures]

    def _to_network(self, pictures: list[np.ndarray]) -> tuple[jax.Array, ...]:
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


def _extent(plans: Sequence[tiling.Plan]) -> np.ndarray | None:
    """Sizes of pictures in their buckets, (B, 2); None without buckets."""
    if not plans[0].bucketed:
        return None
    return np.array([(plan.height, plan.width) for plan in plans], np.int32)


class _Ticks:
    """Counts finished tiles for the caller's progress function."""

    def __init__(self, progress: Progress | None, total: int):
        self._progress, self._total, self._done = progress, total, 0

    def tick(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def _gray_if_equal(picture: np.ndarray) -> np.ndarray:
    """One channel of a colour picture whose channels are equal everywhere; else the picture."""
    return picture[..., :1] if (picture == picture[..., :1]).all() else picture


def _check_fit(given: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    lacking = sorted(wanted.keys() - given.keys())
    foreign = sorted(given.keys() - wanted.keys())
    misshapen = sorted(k for k in wanted.keys() & given.keys() if given[k].shape != wanted[k].shape)
    found = [
        f"{len(names)} {word} ({names[0]})"
        for names, word in ((lacking, "missing"), (foreign, "foreign"), (misshapen, "misshapen"))
        if names
    ]
    if found:
        raise InputError(
            f"the {what} do not fit the network: {', '.join(found)}; convert or train them again."
        )
