"""Two kinds of attention: across channels over the whole image, and across pixels in windows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from mgdn_jax.layers import forms
from mgdn_jax.layers.conv import Conv2d, DepthwiseConv2d, Linear, depthwise, pointwise
from mgdn_jax.layers.functional import keep
from mgdn_jax.layers.padding import Extent, match_rank, within, zeroed


def weighted(x: Array, pixel_weights: Array | None) -> Array:
    """``x`` times the weight of every pixel, (..., 1); without weights it is ``x`` itself."""
    return x if pixel_weights is None else x * pixel_weights.astype(x.dtype)


def channel_sums(
    q: Float[Array, "b *p c"],
    k: Float[Array, "b *p c"],
    pixel_weights: Float[Array, "b *p 1"] | None = None,
) -> dict[str, Array]:
    """What attention across channels needs of a whole image: plain sums over its pixels.

    Args:
        q: queries.
        k: keys.
        pixel_weights: factor of every pixel (default 1).

    Returns:
        ``{"qk": (b, c, c), "qq": (b, c), "kk": (b, c)}``: the Gram matrix and squared norms, in
        float32 at least.
    """
    b, c = q.shape[0], q.shape[-1]
    wide = jnp.promote_types(q.dtype, jnp.float32)
    qw, kw = (weighted(x, pixel_weights).reshape(b, -1, c) for x in (q, k))
    q, k = q.reshape(b, -1, c), k.reshape(b, -1, c)
    # The full c x c Gram matrix is one large product; heads use its diagonal blocks.
    return {
        "qk": _gram(qw, k),
        "qq": jnp.sum(qw.astype(wide) * q.astype(wide), 1),
        "kk": jnp.sum(kw.astype(wide) * k.astype(wide), 1),
    }


@jax.custom_vjp
def _gram(q: Float[Array, "b p c"], k: Float[Array, "b p d"]) -> Float[Array, "b c d"]:
    """Sums over pixels of outer products, in float32 at least. Reverse mode only."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    return jnp.einsum("bpc,bpd->bcd", q, k, preferred_element_type=wide)


def _gram_bwd(residuals: tuple[Array, ...], g: Array) -> tuple[Array, Array]:
    # Written so that results lie pixel by pixel, like the maps they are gradients of; those that
    # differentiation makes are transposed, and slow to read for whatever follows.
    q, k = (x[0] for x in residuals)
    g = g.astype(q.dtype)
    return jnp.einsum("bpd,bcd->bpc", k, g), jnp.einsum("bpc,bcd->bpd", q, g)


_gram.defvjp(lambda q, k: (_gram(q, k), keep(q, k)), _gram_bwd)


def channel_map(
    sums: dict[str, Array], temperature: Float[Array, " heads"], floor: float = 1e-12
) -> Float[Array, "b c c"]:
    """Attention of the channels of queries (rows) to those of keys (columns), from `channel_sums`.

    A = softmax(t_h (q / max(|q|, floor)) (k / max(|k|, floor))^T) inside each head's block of
    consecutive channels, zero outside the blocks. The squared norms are clamped, so that gradients
    are finite for channels that are zero everywhere (slope 1 / floor there).

    Args:
        sums: as `channel_sums` returns them.
        temperature: t_h, a factor for each head; the number of heads divides c.
        floor: smallest norm that a query or a key is divided by.

    Returns:
        The attention, each row with sum 1.
    """
    c, heads = sums["qk"].shape[-1], temperature.shape[0]
    # A root and a division: the reciprocal root of a CPU is good for fewer digits.
    norms = [jnp.sqrt(jnp.maximum(sums[s], floor**2)) for s in ("qq", "kk")]
    # One division is more accurate than two. But where both norms are at the floor, its gradient
    # would divide by the square of their product, which underflows: there it takes two.
    n_q, n_k = norms[0][:, :, None], norms[1][:, None, :]
    product = n_q * n_k
    by_product = sums["qk"] / jnp.maximum(product, 1e-18)
    cosine = jnp.where(product > 1e-18, by_product, sums["qk"] / n_q / n_k)
    head = np.arange(c) // (c // heads)
    same_head = head[:, None] == head[None, :]
    logits = cosine * match_rank(temperature[head][:, None], cosine)
    return jax.nn.softmax(jnp.where(same_head[None], logits, -jnp.inf), axis=-1)


class ChannelCrossAttention(nnx.Module):
    """Transposed cross attention: a c x c map per head over all pixels (MGCA, MGDN Sec. 3.2).

    ``query`` comes from the guide, key and value from the operand. Rows of queries and keys are
    L2-normalised over the pixels, so the operation sees the whole image at once. What it needs of
    the image (Gram matrix and norms) are plain sums over pixels, which tiles of a large image can
    add up.
    """

    def __init__(self, features: int, *, heads: int = 6, rngs: nnx.Rngs):
        if features % heads:
            raise ValueError(f"features ({features}) must be divisible by heads ({heads})")
        self.heads = heads
        self.query = Conv2d(features, features, 1, rngs=rngs)
        self.query_local = DepthwiseConv2d(features, 3, rngs=rngs)
        self.key_value = Conv2d(features, 2 * features, 1, rngs=rngs)
        self.key_value_local = DepthwiseConv2d(2 * features, 3, rngs=rngs)
        self.project = Conv2d(features, features, 1, rngs=rngs)
        self.temperature = nnx.Param(jnp.ones((heads,), jnp.float32))

    def __call__(
        self,
        guide: Float[Array, "b h w c"],
        operand: Float[Array, "b h w c"],
        *,
        context: dict[str, Array] | None = None,
        pixel_weights: Float[Array, "b h w 1"] | None = None,
        extent: Extent = None,
    ) -> tuple[Float[Array, "b h w c"], dict[str, Array]]:
        """Attend from the channels of the guide to those of the operand.

        Args:
            guide: features that the query is made of.
            operand: features that key and value are made of.
            context: sums over pixels to use instead of this call's own.
            pixel_weights: weight of every pixel in the returned sums (default 1).
            extent: of the images in the maps, see `Extent`.

        Returns:
            Attended features, and the sums ``{"qk": (b, c, c), "qq": (b, c), "kk": (b, c)}``.
        """
        b, h, w, c = guide.shape
        q = self.query_local(zeroed(self.query(guide), extent)).reshape(b, h * w, c)
        k = self._key_or_value(operand, slice(0, c), extent)
        v = self._key_or_value(operand, slice(c, 2 * c), extent)
        sums = {}
        if context is None or pixel_weights is not None:
            weights = None if pixel_weights is None else pixel_weights.reshape(b, h * w, 1)
            if extent is not None:
                inside = within(guide, extent).reshape(b, h * w, 1)
                q, k = (jnp.where(inside, x, 0) for x in (q, k))
            sums = channel_sums(q, k, weights)
        attention = channel_map(sums if context is None else context, self.temperature[...])
        # Attention and output projection are both linear in v: one matrix per example.
        mix = attention.swapaxes(1, 2) @ self.project.kernel[...][0, 0]
        out = v @ mix.astype(v.dtype)
        out = out + match_rank(self.project.bias[...].astype(v.dtype), out)
        return out.reshape(b, h, w, c), sums

    def _key_or_value(
        self, x: Float[Array, "b h w c"], half: slice, extent: Extent
    ) -> Float[Array, "b p c"]:
        """One of the two, by its half of their common weights: slicing maps would copy them."""
        kernel = self.key_value.kernel[...][0, 0, :, half].astype(x.dtype)
        y = pointwise(x, kernel)
        y = y + match_rank(self.key_value.bias[...][half].astype(x.dtype), y)
        kernel = self.key_value_local.kernel[...][..., half].astype(x.dtype)
        y = depthwise(zeroed(y, extent), kernel)
        y = y.reshape(x.shape[0], -1, x.shape[-1])
        return y + match_rank(self.key_value_local.bias[...][half].astype(x.dtype), y)


def relative_position_index(window: int) -> np.ndarray:
    """Row of the bias table for every (query, key) pair of a window: int (w*w, w*w)."""
    y, x = np.divmod(np.arange(window * window), window)
    dy = y[:, None] - y[None, :] + window - 1
    dx = x[:, None] - x[None, :] + window - 1
    return dy * (2 * window - 1) + dx


def shift_masks(
    height: int, width: int, window: int, shift: int, extent: Extent = None
) -> tuple[Array | np.ndarray, Array | np.ndarray]:
    """Pairs of tokens that a cyclic shift brought together, one axis at a time.

    With w the window and s the shift, an axis of length n has the regions [0, n-w), [n-w, n-s) and
    [n-s, n), counted on the shifted grid. An axis of a single window is split too, as in the
    reference. Where images end before their maps do, the tokens beyond an end are split off.

    Args:
        height: of the map, a multiple of the window.
        width: likewise.
        window: pixels a side.
        shift: pixels that the map was rolled by, in both directions.
        extent: of the images in the maps, multiples of the window.

    Returns:
        Two boolean arrays, (rows, w*w, w*w) and (columns, w*w, w*w), with an example axis in front
        where there is an extent; a pair is masked where either is true. They stay two because one
        for both would grow with the image.
    """
    y, x = np.divmod(np.arange(window * window), window)

    def different(n: int, offset: np.ndarray, axis: int) -> Array | np.ndarray:
        is_number = not forms.has_symbols([n])
        is_constant = is_number and (forms.are_plain() or not forms.are_compact())
        index = np.arange(n) if is_constant else jnp.arange(n)
        start = (index >= n - shift).astype(np.int8)
        if extent is None:
            region = start + (index >= n - window)
        else:
            region = start[None] + (index[None] >= extent[:, axis, None] - shift)
        label = region.reshape(*region.shape[:-1], n // window, window)[..., offset]
        if forms.are_compact():  # the pairs are many, and would be constants
            label = jnp.asarray(label, jnp.int32)
        return label[..., :, None] != label[..., None, :]

    return different(height, y, 0), different(width, x, 1)


class WindowAttention(nnx.Module):
    """Multi-head self attention inside w x w windows, with relative position bias (Swin)."""

    def __init__(self, features: int, *, heads: int, window: int, rngs: nnx.Rngs):
        if features % heads:
            raise ValueError(f"features ({features}) must be divisible by heads ({heads})")
        self.heads, self.window = heads, window
        self.qkv = Linear(features, 3 * features, rngs=rngs)
        self.project = Linear(features, features, rngs=rngs)
        table = jax.random.normal(rngs.params(), ((2 * window - 1) ** 2, heads), jnp.float32)
        self.position_bias = nnx.Param(0.02 * table)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        apart: tuple[Bool[Array, "*e rows t t"], Bool[Array, "*e cols t t"]] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Attend; H and W must be multiples of the window.

        Args:
            x: feature map, rolled already where windows are shifted.
            apart: pairs of tokens that must not see each other, by row and by column of windows
                (`shift_masks`), for all examples or for each; None lets all tokens of a window see
                each other.
        """
        b, h, w, c = x.shape
        n, d = self.window, c // self.heads
        rows, cols = h // n, w // n
        # (part, head, b, rows, cols, token, channel)
        qkv = self.qkv(x)
        qkv = qkv.reshape(b, rows, n, cols, n, 3, self.heads, d).transpose(5, 6, 0, 1, 3, 2, 4, 7)
        q, k, v = qkv.reshape(3, self.heads, b, rows * cols, n * n, d)
        index: Any = relative_position_index(n)
        if forms.are_compact() and n <= 128:
            index = jnp.asarray(index, jnp.uint16).astype(jnp.int32)
        bias = self.position_bias[...][index].transpose(2, 0, 1)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        logits = jnp.einsum("...qd,...kd->...qk", q * d**-0.5, k).astype(wide)
        logits = logits + bias[:, None, None].astype(wide)
        if apart is not None:
            hidden = apart[0][..., :, None, :, :] | apart[1][..., None, :, :, :]
            hidden = hidden.reshape(*hidden.shape[:-4], rows * cols, n * n, n * n)
            logits = jnp.where(match_rank(hidden, logits), logits - 100.0, logits)
        out = jnp.einsum("...qk,...kd->...qd", jax.nn.softmax(logits, -1).astype(x.dtype), v)
        out = out.reshape(self.heads, b, rows, cols, n, n, d).transpose(1, 2, 4, 3, 5, 0, 6)
        return self.project(out.reshape(b, h, w, c))
