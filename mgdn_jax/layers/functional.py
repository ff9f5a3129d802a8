"""NNX modules as pure functions: a static graph and flat dictionaries of arrays.

A module is split once and dropped; what travels is ``(graphdef, params, stats)``. Parameters are
flat dictionaries from a slash path to an array (``"layers/0/mgdf/attention/query/kernel"``), the
names used in weight files, checkpoints and conversion tables alike.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Flat = dict[str, Any]


def flatten(tree: Mapping[Any, Any]) -> Flat:
    """Makes ``{"a/0/b": leaf}``, sorted by path, of a nested pure dictionary."""
    flat: Flat = {}

    def visit(prefix: str, node: Mapping[Any, Any]) -> None:
        for key, value in node.items():
            path = f"{prefix}/{key}" if prefix else str(key)
            if isinstance(value, Mapping):
                visit(path, value)
            else:
                flat[path] = value

    visit("", tree)
    return dict(sorted(flat.items()))


def unflatten(flat: Mapping[str, Any]) -> dict[Any, Any]:
    """Undoes `flatten`; parts of a path that are digits become integers again (list indices)."""
    tree: dict[Any, Any] = {}
    for path, value in flat.items():
        *parents, last = (int(p) if p.isdigit() else p for p in path.split("/"))
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def below(flat: Flat | None, prefix: str) -> Flat | None:
    """Entries of a flat dictionary under ``prefix/``, without the prefix; None stays None."""
    if flat is None:
        return None
    n = len(prefix) + 1
    return {k[n:]: v for k, v in flat.items() if k.startswith(prefix + "/")}


def above(prefix: str, flat: Flat) -> Flat:
    """Undoes `below`: puts every path under ``prefix/``."""
    return {f"{prefix}/{k}": v for k, v in flat.items()}


def split(module: nnx.Module) -> tuple[nnx.GraphDef, Flat, Flat]:
    """Splits a module into ``(graphdef, params, stats)`` with flat dictionaries of arrays.

    ``stats`` holds every variable that is no `nnx.Param` (running averages); it is often empty.
    """
    graphdef, params, stats = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]  # typed for one filter
    return graphdef, flatten(nnx.to_pure_dict(params)), flatten(nnx.to_pure_dict(stats))


def apply(
    graphdef: nnx.GraphDef, params: Flat, stats: Flat, *args: Any, **kwargs: Any
) -> tuple[Any, Flat]:
    """Calls the network without side effects.

    Args:
        graphdef: static half from `split` or `abstract`.
        params: flat parameters, every leaf present.
        stats: flat running statistics, `{}` where the network has none.
        *args: positional arguments of the module's ``__call__``.
        **kwargs: keyword arguments of the module's ``__call__``.

    Returns:
        ``(outputs, new_stats)``.

    Raises:
        ValueError: leaves are missing or too many.
    """
    module = nnx.merge(graphdef, unflatten(params), unflatten(stats), copy=True)
    outputs = module(*args, **kwargs)
    _, new_stats = nnx.state(module, nnx.Param, ...)
    return outputs, flatten(nnx.to_pure_dict(new_stats))


REMATS = ("none", "dots", "block", "row", "example")
"""Rematerialisation policies: what is kept for the gradient. Whatever is not, is computed again.

- ``"none"`` keeps everything.
- ``"dots"`` keeps the results of matrix products.
- ``"block"`` keeps the inputs of every block.
- ``"row"`` keeps the inputs of every row of blocks.
- ``"example"`` keeps the inputs of every block, and a block takes the examples of a batch one after
  the other. Then only one example at a time is computed again: the least memory, for CPUs.
"""


def per_example_policy(remat: str, has_example_arrays: bool) -> str:
    """The policy for a block that may take further arrays with an entry for each example.

    ``"example"`` runs a block over the examples of its input alone, so with further arrays (sums of
    a larger picture, pixel weights, extents) it becomes ``"block"``. Those arrays serve inference,
    where no gradient is taken and both policies do the same.

    Args:
        remat: one of `REMATS`.
        has_example_arrays: whether there are further arrays.

    Returns:
        One of `REMATS`.
    """
    return "block" if remat == "example" and has_example_arrays else remat


def rematerialised(body: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """Puts a rematerialisation policy around a function.

    Args:
        body: any pure function; for ``"example"`` it is ``(state, x) -> y``, where x and y are
            trees of arrays with a leading batch axis.
        remat: one of `REMATS`; ``"row"`` does the same as ``"block"``.

    Returns:
        A function of the same arguments and results.
    """
    if remat == "none":
        return body
    if remat == "example":

        def over_examples(state: Any, xs: Any) -> Any:
            def example(x: Any) -> Any:
                y = body(state, jax.tree.map(lambda leaf: leaf[None], x))
                return jax.tree.map(lambda leaf: leaf[0], y)

            return jax.lax.map(jax.checkpoint(example, prevent_cse=False), xs)

        return over_examples
    policy = jax.checkpoint_policies.dots_saveable if remat == "dots" else None
    return jax.checkpoint(body, prevent_cse=False, policy=policy)


def chain(
    modules: Sequence[Any],
    call: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any = None,
    xs: Any = None,
    *,
    remat: str = "block",
) -> tuple[Any, Any]:
    """Runs modules of one structure in turn; they are traced and compiled once (`jax.lax.scan`).

    Args:
        modules: at least one, or lists of modules (`nnx.List`); they differ in their values only
            and have no running statistics.
        call: ``(module, carry, x) -> (carry, y)``.
        carry: what one module passes on to the next; None for modules side by side.
        xs: a tree of arrays whose leading axis has an entry for each module.
        remat: what each module keeps for its gradient, one of `REMATS`; ``"row"`` does the same as
            ``"block"``. For ``"example"`` carry, y and an entry of xs are trees of arrays with a
            leading batch axis, and ``call`` uses no other array that has one.

    Returns:
        The last carry, and all y, stacked.
    """
    states = [nnx.split(module) for module in modules]
    graphdef = states[0][0]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state for _, state in states))

    def block(state: Any, carry_and_x: tuple[Any, Any]) -> tuple[Any, Any]:
        return call(nnx.merge(graphdef, state), *carry_and_x)

    checkpointed = rematerialised(block, remat)

    def body(carry: Any, state_and_x: tuple[Any, Any]) -> tuple[Any, Any]:
        state, x = state_and_x
        return checkpointed(state, (carry, x))

    return jax.lax.scan(body, carry, (stacked, xs))


@jax.custom_vjp
def largest_channel(x: Any) -> jax.Array:
    """Maximum over the last axis, which stays; its derivative goes to the first of equal entries.

    The derivative of `jnp.max` compares the entries with the maximum again. Where a compiler
    computes them twice in two ways, none is equal, and it divides by 0. Here the place is kept.
    Reverse mode only (to any order).
    """
    return jnp.max(x, -1, keepdims=True)


def _largest_channel_fwd(x: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return largest_channel(x), (jnp.argmax(x, -1, keepdims=True), jnp.zeros((0, x.shape[-1])))


def _largest_channel_bwd(residuals: Any, g: Any) -> tuple[jax.Array]:
    place, like = residuals
    channels = jax.lax.broadcasted_iota(
        place.dtype, (*place.shape[:-1], like.shape[-1]), g.ndim - 1
    )
    return (jnp.where(channels == place, g, 0),)


largest_channel.defvjp(_largest_channel_fwd, _largest_channel_bwd)


def keep(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Residuals of a custom backward pass as new arrays, each with a leading axis of length 1.

    Where a function is differentiated inside nested scans, JAX 0.10 mixes up residuals that are its
    very arguments with hoisted constants. A reshape costs nothing and prevents that.
    """
    return tuple(x[None] for x in arrays)


class _Stream(nnx.RngStream):
    """The keys of `nnx.RngStream`, at a cost that does not grow with what was traced before.

    The original counts by ``count[...] += 1``, which asks for the placement of a traced value; JAX
    answers with an error that tells the value's whole history, and Flax drops it. DeFusion
    took eight times as long to outline, most of it for such messages.
    """

    def __call__(self) -> jax.Array:
        count = self.count.get_value()
        self.count.set_value(count + 1)
        return jax.random.fold_in(self.key.get_value(), count)


class Rngs(nnx.Rngs):
    """`nnx.Rngs` of one default stream, with the same keys, quick where networks are traced.

    Args:
        key: a PRNG key or a seed.
    """

    def __init__(self, key: jax.Array | int):
        super().__init__(key)
        self.default: nnx.RngStream = _Stream(key, tag="default")


def abstract(build: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, Flat, Flat]:
    """`split` of ``build()`` with `jax.ShapeDtypeStruct` leaves; allocates nothing."""
    graphdef, params, stats = nnx.split(nnx.eval_shape(build), nnx.Param, ...)  # type: ignore[misc]

    def shapes(state: Any) -> Flat:
        return {
            k: jax.ShapeDtypeStruct(v.shape, v.dtype)
            for k, v in flatten(nnx.to_pure_dict(state)).items()
        }

    return graphdef, shapes(params), shapes(stats)
