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
    """Nested pure dictionary -> ``{"a/0/b": leaf}``, sorted by path."""
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
    """Inverse of `flatten`; path parts made of digits become integers again (list indices)."""
    tree: dict[Any, Any] = {}
    for path, value in flat.items():
        *parents, last = (int(p) if p.isdigit() else p for p in path.split("/"))
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def below(flat: Flat | None, prefix: str) -> Flat | None:
    """Entries of a flat dictionary under ``prefix/``, with the prefix removed; None stays None."""
    if flat is None:
        return None
    n = len(prefix) + 1
    return {k[n:]: v for k, v in flat.items() if k.startswith(prefix + "/")}


def above(prefix: str, flat: Flat) -> Flat:
    """Inverse of `below`: every path put under ``prefix/``."""
    return {f"{prefix}/{k}": v for k, v in flat.items()}


def split(module: nnx.Module) -> tuple[nnx.GraphDef, Flat, Flat]:
    """Module -> ``(graphdef, params, stats)`` with flat dictionaries of arrays.

    ``stats`` holds every variable that is no `nnx.Param` (running averages); often empty.
    """
    graphdef, params, stats = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]  # typed for one filter
    return graphdef, flatten(nnx.to_pure_dict(params)), flatten(nnx.to_pure_dict(stats))


def apply(
    graphdef: nnx.GraphDef, params: Flat, stats: Flat, *args: Any, **kwargs: Any
) -> tuple[Any, Flat]:
    """Call the network without side effects.

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
"""What is kept for the gradient: all; results of matrix products; what a block was given; or only
what a row of blocks was given. The less is kept, the more is computed again. With ``"example"`` it
is what a block was given, and blocks work through a batch one example after the other, so that
what is computed again is needed for a single one at a time: least memory, for CPUs."""


def given_alone(remat: str, *beside: Any) -> str:
    """The policy, but ``"block"`` for ``"example"`` where arrays that belong to examples come too.

    Those are of use without gradients only (statistics of a larger picture, padding).
    """
    return "block" if remat == "example" and any(x is not None for x in beside) else remat


def rematerialised(body: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """A block's function that keeps for its gradient what the policy, one of `REMATS`, says.

    For ``"example"`` the block is ``(state, x) -> tree``, of arrays with a leading batch axis.
    """
    if remat == "none":
        return body
    if remat == "example":

        def each(state: Any, xs: Any) -> Any:
            def one(x: Any) -> Any:
                out = body(state, jax.tree.map(lambda leaf: leaf[None], x))
                return jax.tree.map(lambda leaf: leaf[0], out)

            return jax.lax.map(jax.checkpoint(one, prevent_cse=False), xs)

        return each
    policy = jax.checkpoint_policies.dots_saveable if remat == "dots" else None
    return jax.checkpoint(body, prevent_cse=False, policy=policy)


def chain(
    modules: Sequence[nnx.Module],
    call: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any = None,
    xs: Any = None,
    *,
    remat: str = "block",
) -> tuple[Any, Any]:
    """Modules of one structure in turn, as one traced and compiled body: `lax.scan` over them.

    Args:
        modules: alike but for their values, at least one; without running statistics.
        call: ``(module, carry, x) -> (carry, y)``.
        carry: what goes from one to the next; None for modules side by side.
        xs: a tree of arrays with a leading axis of one entry per module.
        remat: what each body keeps for its gradient, one of `REMATS`; ``"row"`` is ``"block"``.
            For ``"example"`` carry, y and an entry of xs are trees with a leading batch axis, and
            whatever else ``call`` uses belongs to no example.

    Returns:
        The last carry and all y, stacked.
    """
    states = [nnx.split(module) for module in modules]
    graphdef = states[0][0]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state for _, state in states))

    def block(state: Any, given: tuple[Any, Any]) -> tuple[Any, Any]:
        return call(nnx.merge(graphdef, state), *given)

    kept = rematerialised(block, remat)

    def body(carry: Any, here: tuple[Any, Any]) -> tuple[Any, Any]:
        state, x = here
        return kept(state, (carry, x))

    return jax.lax.scan(body, carry, (stacked, xs))


def keep(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Residuals of a custom backward pass as new arrays, each under a leading axis of 1.

    Handed on just as they came in, they are mixed up with hoisted constants by JAX 0.10 where the
    function is differentiated inside nested scans. A reshape costs nothing.
    """
    return tuple(x[None] for x in arrays)


def abstract(build: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, Flat, Flat]:
    """Like `split` of ``build()``, but with `jax.ShapeDtypeStruct` leaves: allocates nothing."""
    graphdef, params, stats = nnx.split(nnx.eval_shape(build), nnx.Param, ...)  # type: ignore[misc]

    def shapes(state: Any) -> Flat:
        return {
            k: jax.ShapeDtypeStruct(v.shape, v.dtype)
            for k, v in flatten(nnx.to_pure_dict(state)).items()
        }

    return graphdef, shapes(params), shapes(stats)
