"""LKC-FUNet: a UNet with large kernels, for infrared-visible and medical pairs.

He et al., *Rethinking Normalization Strategies and Convolutional Kernels for Multimodal Image
Fusion* (Pattern Recognition 173, 2026). Both pictures are the two channels of one input; nothing
treats them apart afterwards. Three levels of C = multiplier * features channels each:

    stem -> (residual, large kernel) -> (residual, large) -> (residual, large) -> 2 large
         -> fusion of each level's result with its encoder's, residual, large, ... -> head

Most weights, and most of the work, are in the dense K x K convolutions of the residual blocks.
Which norm sits where is configuration (see `Config` and docs/systems/lkc_funet.md). Group, layer
and instance norms look at the whole image: tiles of a large picture have statistics of their own.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgdn_jax.errors import InputError
from mgdn_jax.layers.conv import Conv2d, DepthwiseConv2d
from mgdn_jax.layers.functional import Flat, largest_channel
from mgdn_jax.layers.large_kernel import LargeKernelConv
from mgdn_jax.layers.mode import EVAL, Mode, drop_path, dropout
from mgdn_jax.layers.norm import NORMS, fold_batch_norm, make_norm
from mgdn_jax.layers.padding import Extent, fill_to_multiple, pad_to_multiple
from mgdn_jax.systems.config import SystemConfig

FUSIONS = ("maf", "concat")
IO_RANGES = ("symmetric", "unit")
_LEVELS = 3

Maps = Float[Array, "b h w c"]


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    """What determines the network.

    Norms are of `mgdn_jax.layers.norm.NORMS`. As published: ``norm_res`` group, ``norm_lk`` layer,
    ``norm_maf`` batch, and ``norm_in`` batch for infrared-visible but most likely instance for
    medical images. The rest are for ablations.

    Attributes:
        features: channels c0 after the first convolution.
        multiplier: C / c0, with C the channels of every level.
        kernels: odd kernel sizes of the levels, finest first, and of the bottleneck (the third
            one's if left out). The first one is that of the stem as well.
        norm_in: norm of the stem.
        norm_res: norm before each convolution of the residual blocks and of the head.
        norm_lk: the four norms of a large-kernel block.
        norm_maf: norms inside the fusions.
        norm_groups: groups of group norms; must divide C, 2 C and C + c0.
        small_kernel: size of a kernel parallel to the large ones, 0 for none (as published).
        fusion: ``"maf"``, multipath adaptive fusion of decoder and encoder, or ``"concat"``, their
            concatenation and a 1x1 convolution.
        dropout: rate in the stem and in the residual blocks, in training.
        drop_path: rate at which large-kernel blocks are skipped in training, example by example.
        io_range: ``"symmetric"``: the network sees and makes [-1, 1], as it was trained;
            ``"unit"``: [0, 1], as the published test script has it.
        order: which picture is channel 0 and which channel 1. Channel 0 is the visible image, or
            CT, PET, SPECT; channel 1 is infrared, or MRI.
        merged: large kernels with their norms folded in (`reparameterise` makes such networks).
        dtype: compute dtype; parameters stay float32.
        in_channels: channels of the two images, fixed: luminance.
        out_channels: channels of the result, fixed: luminance.
    """

    features: int = 32
    multiplier: int = 4
    kernels: tuple[int, ...] = (15, 11, 5, 5)
    norm_in: str = "instance"
    norm_res: str = "group"
    norm_lk: str = "layer"
    norm_maf: str = "batch"
    norm_groups: int = 32
    small_kernel: int = 0
    fusion: str = "maf"
    dropout: float = 0.2
    drop_path: float = 0.2
    io_range: str = "symmetric"
    order: tuple[int, ...] = (1, 0)
    merged: bool = False
    dtype: str = "float32"
    in_channels: tuple[int, ...] = (1, 1)
    out_channels: int = 1

    system: ClassVar[str] = "lkc_funet"

    def __post_init__(self):
        super().__post_init__()
        demand = self.demand
        self.demand_whole("features", "multiplier", "norm_groups")
        odd = all(type(k) is int and k > 0 and k % 2 for k in self.kernels)
        demand(odd and len(self.kernels) in (3, 4), "kernels must be 3 or 4 odd whole numbers")
        for name in ("norm_in", "norm_res", "norm_lk", "norm_maf"):
            demand(getattr(self, name) in NORMS, f"{name} is one of {', '.join(NORMS)}")
        demand(self.width >= 8, "features times multiplier must be at least 8")
        divisible = not any(n % self.norm_groups for n in (self.width, self.width + self.features))
        demand(
            divisible or "group" not in (self.norm_in, self.norm_res, self.norm_lk, self.norm_maf),
            "norm_groups must divide the channels of a level and those plus features",
        )
        demand(
            self.norm_lk != "group" or int(1.5 * self.width) % self.norm_groups == 0,
            "norm_groups must divide one and a half times the channels of a level",
        )
        small = self.small_kernel
        demand(type(small) is int and small >= 0, "small_kernel must be 0 or a whole number")
        demand(
            small == 0 or (small % 2 == 1 and small <= min(self.kernels)),
            "small_kernel must be odd and no larger than the smallest kernel",
        )
        for name in ("dropout", "drop_path"):
            value = getattr(self, name)
            number = isinstance(value, float | int) and not isinstance(value, bool)
            demand(number and 0 <= value < 1, f"{name} must be a number in [0, 1)")
        demand(self.fusion in FUSIONS, f"fusion is one of {', '.join(FUSIONS)}")
        demand(self.io_range in IO_RANGES, f"io_range is one of {', '.join(IO_RANGES)}")
        demand(sorted(self.order) == [0, 1], "order is (0, 1) or (1, 0)")
        demand(type(self.merged) is bool, "merged is true or false")
        self.demand_luminance()

    @property
    def width(self) -> int:
        """Channels C of every level."""
        return self.features * self.multiplier

    @property
    def sees_whole(self) -> bool:
        """The norms do."""
        return True

    @property
    def grid(self) -> int:
        """Sides are padded to multiples of 4, for two halvings."""
        return 4

    def to_range(self, x: Array) -> Array:
        """Values in [0, 1] -> what the network sees."""
        return 2.0 * x - 1.0 if self.io_range == "symmetric" else x

    def from_range(self, y: Array) -> Array:
        """Inverse of `to_range`."""
        return 0.5 * (y + 1.0) if self.io_range == "symmetric" else y


_NARROW = {"features": 8, "norm_groups": 8}

# The small ones are this project's, for a laptop: the same network, narrower.
PRESETS: dict[str, Config] = {
    "ivf": Config(),
    "mif": Config(order=(0, 1)),
    "ivf_small": Config(**_NARROW),  # type: ignore[arg-type]
    "mif_small": Config(**_NARROW, order=(0, 1)),  # type: ignore[arg-type]
}


def large_conv(
    in_features: int,
    out_features: int,
    kernel_size: int,
    *,
    groups: int = 1,
    use_bias: bool = True,
    rngs: nnx.Rngs,
) -> Any:
    """The K x K convolution of all blocks, dense (``groups`` 1) or depthwise."""
    if kernel_size >= 5:
        return LargeKernelConv(
            in_features, out_features, kernel_size, groups=groups, use_bias=use_bias, rngs=rngs
        )
    if groups == 1:
        return Conv2d(in_features, out_features, kernel_size, use_bias=use_bias, rngs=rngs)
    return DepthwiseConv2d(out_features, kernel_size, use_bias=use_bias, rngs=rngs)


class NormConv(nnx.Module):
    """Norm, ReLU, dropout, convolution."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        norm: str,
        *,
        groups: int,
        rate: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.rate = rate
        self.norm = make_norm(norm, in_features, groups)
        self.conv = large_conv(in_features, out_features, kernel_size, rngs=rngs)

    def __call__(self, x: Maps, mode: Mode = EVAL) -> Float[Array, "b h w o"]:
        """Transform; H and W stay."""
        y = dropout(jax.nn.relu(self.norm(x, mode)), self.rate, mode)
        return self.conv(mode.zeroed(y))


class ResidualBlock(nnx.Module):
    """``second(first(x)) + shortcut(x)``, both of them `NormConv`; dropout in the second only."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        config: Config,
        *,
        rngs: nnx.Rngs,
    ):
        common = {"norm": config.norm_res, "groups": config.norm_groups, "rngs": rngs}
        self.first = NormConv(in_features, out_features, kernel_size, **common)  # type: ignore[arg-type]
        self.second = NormConv(
            out_features,
            out_features,
            kernel_size,
            rate=config.dropout,
            **common,  # type: ignore[arg-type]
        )
        same = in_features == out_features
        self.shortcut: Any = None if same else Conv2d(in_features, out_features, 1, rngs=rngs)

    def __call__(self, x: Maps, mode: Mode = EVAL) -> Float[Array, "b h w o"]:
        """Transform; H and W stay."""
        y = self.second(self.first(x, mode), mode)
        return y + (x if self.shortcut is None else self.shortcut(x))


class LargeKernelBlock(nnx.Module):
    """RepLKNet's block: widen to 1.5 C, depthwise K x K, narrow; a norm before and after each.

    Without biases but the norms'. A whole example may skip it in training (`drop_path`).
    """

    def __init__(self, kernel_size: int, config: Config, *, rngs: nnx.Rngs):
        c = config.width
        hidden = int(1.5 * c)
        self.rate = config.drop_path

        def norm(features: int) -> Any:
            return make_norm(config.norm_lk, features, config.norm_groups)

        def depthwise(size: int, *, use_bias: bool) -> Any:
            return large_conv(hidden, hidden, size, groups=hidden, use_bias=use_bias, rngs=rngs)

        self.norm = norm(c)
        self.widen = Conv2d(c, hidden, 1, use_bias=False, rngs=rngs)
        self.widen_norm = norm(hidden)
        self.large = depthwise(kernel_size, use_bias=config.merged)
        self.large_norm: Any = None if config.merged else norm(hidden)
        small = 0 if config.merged else config.small_kernel
        self.small: Any = depthwise(small, use_bias=False) if small else None
        self.small_norm: Any = norm(hidden) if small else None
        self.narrow = Conv2d(hidden, c, 1, use_bias=False, rngs=rngs)
        self.narrow_norm = norm(c)

    def __call__(self, x: Maps, mode: Mode = EVAL) -> Maps:
        """Transform; H and W stay."""
        h = jax.nn.relu(self.widen_norm(self.widen(self.norm(x, mode)), mode))
        h = mode.zeroed(h)
        wide = self.large(h)
        if self.large_norm is not None:
            wide = self.large_norm(wide, mode)
        if self.small is not None:
            wide = wide + self.small_norm(self.small(h), mode)
        h = self.narrow_norm(self.narrow(jax.nn.relu(wide)), mode)
        return x + drop_path(h, self.rate, mode)


class AdaptiveFusion(nnx.Module):
    """Multipath adaptive fusion (MAF) of a decoder's feature x and its encoder's g.

    Channel attention of x and spatial extrema of g decide, pixel by pixel, how much each counts;
    both gate each other, and the result recalibrates x. g reaches the output through that gate
    only.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config.width

        def norm(features: int) -> Any:
            return make_norm(config.norm_maf, features, config.norm_groups)

        self.squeeze = Conv2d(c, c // 8, 1, rngs=rngs)
        self.excite = Conv2d(c // 8, c, 1, rngs=rngs)
        self.spatial = Conv2d(2, 1, 1, rngs=rngs)
        self.spatial_norm = norm(1)
        self.joint_norm = norm(c)
        self.select = Conv2d(c, 2, 1, rngs=rngs)
        self.gate = Conv2d(c, c, 1, rngs=rngs)
        self.gate_norm = norm(c)
        self.out = Conv2d(c, 2 * c, 1, rngs=rngs)

    def __call__(self, x: Maps, g: Maps, mode: Mode = EVAL) -> Float[Array, "b h w 2*c"]:
        """Fuse two features of one shape into one of twice the channels."""
        channels = self.excite(jax.nn.relu(self.squeeze(mode.mean(x))))
        extrema = [jnp.mean(g, -1, keepdims=True), largest_channel(g)]
        space = self.spatial_norm(self.spatial(jnp.concatenate(extrema, -1)), mode)
        joint = self.joint_norm(channels + space, mode)
        share = jax.nn.softmax(self.select(joint), -1)
        xa, ga = x * share[..., :1] + x, g * share[..., 1:] + g
        mixed = jax.nn.sigmoid(ga) * xa + jax.nn.sigmoid(xa) * ga
        return self.out(jax.nn.sigmoid(self.gate_norm(self.gate(mixed), mode)) * x)


class ConcatFusion(nnx.Module):
    """What `AdaptiveFusion` is compared with: concatenation and a 1x1 convolution."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.out = Conv2d(2 * config.width, 2 * config.width, 1, rngs=rngs)

    def __call__(self, x: Maps, g: Maps, mode: Mode = EVAL) -> Float[Array, "b h w 2*c"]:
        """Fuse two features of one shape into one of twice the channels."""
        del mode
        return self.out(jnp.concatenate([x, g], -1))


class EncoderLevel(nnx.Module):
    """Residual block and large-kernel block; then, but for the last level, half the size."""

    def __init__(self, kernel_size: int, config: Config, *, last: bool, rngs: nnx.Rngs):
        c = config.width
        self.residual = ResidualBlock(c, c, kernel_size, config, rngs=rngs)
        self.large = LargeKernelBlock(kernel_size, config, rngs=rngs)
        self.down: Any = None if last else Conv2d(c, c, 3, rngs=rngs)

    def __call__(self, x: Maps, mode: Mode = EVAL) -> tuple[Float[Array, "b h2 w2 c"], Maps]:
        """What the next level gets, and the skip connection."""
        skip = self.large(self.residual(x, mode), mode)
        # A stride of 2 with a border of 1 on every side sees every second row and column.
        return (skip if self.down is None else self.down(mode.zeroed(skip))[:, ::2, ::2]), skip


class DecoderLevel(nnx.Module):
    """Fusion with the encoder's feature, residual block, large-kernel blocks, twice the size.

    The finest level has one large-kernel block and stays at its size, the others have two.
    """

    def __init__(self, kernel_size: int, config: Config, *, last: bool, rngs: nnx.Rngs):
        c = config.width
        kind = AdaptiveFusion if config.fusion == "maf" else ConcatFusion
        self.fusion: Any = kind(config, rngs=rngs)
        self.residual = ResidualBlock(2 * c, c, kernel_size, config, rngs=rngs)
        self.large = nnx.List(
            [LargeKernelBlock(kernel_size, config, rngs=rngs) for _ in range(1 if last else 2)]
        )
        self.up: Any = None if last else Conv2d(c, c, 3, rngs=rngs)

    def __call__(self, x: Maps, skip: Maps, mode: Mode = EVAL) -> Float[Array, "b h2 w2 o"]:
        """Decode; H and W double but for the last level."""
        x = self.residual(self.fusion(x, skip, mode), mode)
        for block in self.large:
            x = block(x, mode)
        if self.up is None:
            return x
        return self.up(jnp.repeat(jnp.repeat(mode.zeroed(x), 2, 1), 2, 2))


class Network(nnx.Module):
    """The whole UNet on two luminance images."""

    takes: ClassVar[frozenset[str]] = frozenset({"extent"})

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        c0, c = config.features, config.width
        kernels, bottleneck = config.kernels[:_LEVELS], config.kernels[-1]
        groups = config.norm_groups
        lasts = [False] * (_LEVELS - 1) + [True]
        self.stem = Conv2d(2, c0, 3, rngs=rngs)
        self.enter = NormConv(
            c0, c, kernels[0], config.norm_in, groups=groups, rate=config.dropout, rngs=rngs
        )
        self.encoder = nnx.List(
            [
                EncoderLevel(k, config, last=last, rngs=rngs)
                for k, last in zip(kernels, lasts, strict=True)
            ]
        )
        self.middle = nnx.List([LargeKernelBlock(bottleneck, config, rngs=rngs) for _ in range(2)])
        self.decoder = nnx.List(
            [
                DecoderLevel(k, config, last=last, rngs=rngs)
                for k, last in zip(kernels[::-1], lasts, strict=True)
            ]
        )
        self.join = ResidualBlock(c + c0, c, kernels[0], config, rngs=rngs)
        self.head = NormConv(c, 1, 3, config.norm_res, groups=groups, rngs=rngs)

    def __call__(
        self,
        a: Float[Array, "b h w 1"],
        b: Float[Array, "b h w 1"],
        *,
        mode: Mode = EVAL,
        extent: Extent = None,
    ) -> tuple[Float[Array, "b h w 1"], dict[str, Any]]:
        """Fuse.

        Args:
            a: first source, luminance in [0, 1], any H and W: infrared, or CT, PET, SPECT. The
                network is not symmetric; ``config.order`` makes of both its two channels.
            b: second source, of the same shape: visible, or MRI.
            mode: how to run; as one is used on pictures if left out.
            extent: (B, 2) height and width of the images in the upper left corners, the rest being
                padding that changes nothing in them; None where they fill everything.

        Returns:
            ``(fused, aux)``: fused (B, H, W, 1) float32, nominally in [0, 1] but not clipped. aux
            has ``raw``, the same in the network's own range; at the padded size, and at each
            level's scale, ``encoded`` (finest first) and ``decoded`` (coarsest first) features,
            and ``bottleneck``.

        Raises:
            ValueError: shapes that differ or do not have one channel.
        """
        _check(a, b)
        h, w = a.shape[1:3]
        dtype = jnp.dtype(self.config.dtype)
        pictures = jnp.concatenate([(a, b)[i] for i in self.config.order], -1)
        x = pad_to_multiple(self.config.to_range(pictures.astype(dtype)), self.config.grid)
        if extent is not None:
            x = fill_to_multiple(x, extent, self.config.grid)
            whole = extent + -extent % self.config.grid
            mode = dataclasses.replace(mode, extent=whole, height=x.shape[1])
        x = first = self.stem(mode.zeroed(x))
        x = self.enter(x, mode)
        encoded, decoded = [], []
        for down in self.encoder:
            x, skip = down(x, mode)
            encoded.append(skip)
        for block in self.middle:
            x = block(x, mode)
        bottleneck = x
        for up, skip in zip(self.decoder, encoded[::-1], strict=True):
            x = up(x, skip, mode)
            decoded.append(x)
        x = self.head(self.join(jnp.concatenate([x, first], -1), mode), mode)
        raw = x[:, :h, :w].astype(jnp.promote_types(x.dtype, jnp.float32))
        aux = {"raw": raw, "encoded": encoded, "bottleneck": bottleneck, "decoded": decoded}
        return self.config.from_range(raw), aux


def reparameterise(config: Config, params: Flat, stats: Flat) -> tuple[Config, Flat, Flat]:
    """The same network with one biased convolution for each large kernel and its batch norm.

    A small kernel beside it, with a norm of its own, is taken in too (RepLKNet's structural
    re-parameterisation). The result equals the network as it is used, not as it trains.

    Args:
        config: with ``norm_lk="batch"``.
        params: flat parameters.
        stats: flat running statistics.

    Returns:
        ``(config, params, stats)`` of the merged network.

    Raises:
        InputError: norms without running statistics, or a network that is merged already.
    """
    if config.merged:
        raise InputError("this network is merged already; use it as it is")
    if config.norm_lk != "batch":
        raise InputError(
            f"large kernels cannot be merged with norm_lk={config.norm_lk!r}, which has no running"
            " statistics; only networks trained with norm_lk='batch' can"
        )
    kept, moments = dict(params), dict(stats)

    def folded(path: str) -> tuple[Float[Array, "b h2 w2 c"], Maps]:
        names = [f"{path}_norm/{name}" for name in ("scale", "bias", "mean", "variance")]
        values = [kept.pop(n) for n in names[:2]] + [moments.pop(n) for n in names[2:]]
        return fold_batch_norm(kept.pop(f"{path}/kernel"), *values)

    for norm in [name for name in params if name.endswith("/large_norm/scale")]:
        block = norm.removesuffix("large_norm/scale")
        kernel, bias = folded(block + "large")
        if config.small_kernel:
            small, more = folded(block + "small")
            border = (kernel.shape[0] - small.shape[0]) // 2
            kernel = kernel + jnp.pad(small, ((border, border), (border, border), (0, 0), (0, 0)))
            bias = bias + more
        kept |= {block + "large/kernel": kernel, block + "large/bias": bias}
    return dataclasses.replace(config, merged=True), dict(sorted(kept.items())), moments


def _check(a: Array, b: Array) -> None:
    for x in (a, b):
        if x.ndim != 4 or x.shape[-1] != 1:
            raise ValueError(f"expected luminance (b, h, w, 1), got {x.shape}")
    if a.shape != b.shape:
        raise ValueError(f"sizes differ: {a.shape[:3]} and {b.shape[:3]}")
