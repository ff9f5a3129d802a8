"""Meta-gradients: how an outer loss changes with what an inner optimisation was told.

    minimise over phi    L_out(theta'(phi), phi)
    where theta'(phi) =  K steps of an Optax transformation on L_in(theta, phi), from a given theta

`meta_gradient` builds a function that returns L_out and its exact gradient to phi, the inner steps
and the optimiser's state included. Both parameter sets are pytrees, both losses are functions;
what they compute is nobody's business here. Only reverse mode is asked of them, so functions with
a custom backward pass (`jax.custom_vjp`) may take part if that pass can itself be differentiated.

Stopping gradients through the inner step ("first order") is not offered: where phi acts only
through the inner loss, that gradient is identically zero. docs/bilevel.md has the mathematics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mgdn_jax.errors import InputError
from mgdn_jax.subsets import PyTree, Trainable, combine, partition

__all__ = ["MODES", "Auxiliary", "MetaAux", "Solution", "Solver", "combine", "meta_gradient"]
__all__ += ["partition", "scale_by_max_abs"]

MODES = ("unrolled", "mixed_product", "mixed_difference", "implicit")

Scalar = Float[Array, ""]
Loss = Callable[..., Any]


@dataclass(frozen=True)
class Auxiliary:
    """A third set of parameters, psi, that the outer loss needs fitted to the inner ones.

    psi' is psi after `steps` updates on ``loss(psi, theta, batch)`` with the *base* theta, the one
    handed in, and the inner training batch. It does not depend on phi, and no gradient flows
    through it.

    Attributes:
        loss: `(psi, inner, batch) -> scalar`.
        optimiser: an Optax transformation; its state is fresh at every call.
        steps: number of updates, 0 to hand psi on as it is.
        from_aux: the loss is `(psi, aux, batch)` instead, with the inner loss's auxiliary outputs
            at the base theta: the images fused, say, which then need not be made twice.
    """

    loss: Loss
    optimiser: optax.GradientTransformation
    steps: int = 1
    from_aux: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"Auxiliary needs steps of at least 0, got {self.steps}.")


@dataclass(frozen=True)
class Solver:
    """How mode "implicit" solves ``(H + damping I) z = u``; H is the inner Hessian.

    Attributes:
        damping: weight of a proximal term ``damping / 2 |theta - theta_0|^2`` that joins the inner
            loss, theta_0 being the parameters handed in: it makes a non-convex problem
            well-posed. Take 0 only where H is known to be positive definite.
        method: "cg" (conjugate gradients) or "neumann" (the series ``rate sum_i (I - rate (H +
            damping I))^i u``, cut off).
        iterations: most products with H.
        tolerance: stops when ``|u - (H + damping I) z| <= tolerance |u|``.
        rate: step of the Neumann series, below 2 over the largest eigenvalue of H + damping I.
    """

    damping: float
    method: str = "cg"
    iterations: int = 50
    tolerance: float = 1e-6
    rate: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in ("cg", "neumann"):
            raise InputError(f"Solver method is 'cg' or 'neumann', not {self.method!r}.")
        if not self.damping >= 0:
            raise InputError(f"Solver needs a damping of 0 or more, got {self.damping}.")
        if self.iterations < 1:
            raise InputError(f"Solver needs at least 1 iteration, got {self.iterations}.")
        if self.method == "neumann" and not self.rate > 0:
            raise InputError("Solver method 'neumann' needs a rate above 0, e.g. the inner one.")


class Solution(NamedTuple):
    """How mode "implicit" fared; look at it, for nothing raises inside a compiled function.

    Attributes:
        residual: ``|u - (H + damping I) z| / |u|``.
        iterations: products with the Hessian.
        converged: whether the residual is within the tolerance.
        curvature: smallest ``<p, (H + damping I) p> / |p|^2`` met. Conjugate gradients stop where
            it is not positive: the damping is then too small. inf when nothing was to be solved.
        stationarity: norm of the inner gradient (proximal term included) where the implicit
            function theorem was applied. It assumes 0; take more `steps` if this is not small.
    """

    residual: Scalar
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]
    curvature: Scalar
    stationarity: Scalar


class MetaAux(NamedTuple):
    """What else came out of a meta-gradient; None where it does not apply.

    Attributes:
        inner_losses: (K,) inner loss before each step, averaged over devices; in mode "implicit"
            with the proximal term.
        inner_aux: the inner loss's own auxiliary outputs with a leading axis K, of this device.
        outer_aux: the outer loss's own auxiliary output, of this device.
        inner: the adapted parameters, on request (`keep_inner`).
        opt_state: the inner optimiser's state after the last step, on request (`keep_inner`).
        auxiliary: psi'.
        auxiliary_losses: auxiliary loss before each of its steps.
        solution: diagnostics of mode "implicit".
    """

    inner_losses: Float[Array, " k"]
    inner_aux: PyTree
    outer_aux: PyTree
    inner: PyTree
    opt_state: PyTree
    auxiliary: PyTree
    auxiliary_losses: Float[Array, " j"] | None
    solution: Solution | None


# ---- the inner problem ---------------------------------------------------------------------------


class _Descent:
    """A loss over (parameters, source, batch), descended by an Optax transformation.

    Gradients are averaged over `axis_name` before the optimiser sees them, so that every device
    takes the step that one device would take on the whole batch.
    """

    def __init__(self, loss: Loss, optimiser: optax.GradientTransformation, axis_name: str | None):
        self.loss = loss  # -> (scalar, aux)
        self.optimiser = optimiser
        self.axis_name = axis_name

    def mean(self, tree: PyTree) -> PyTree:
        return tree if self.axis_name is None else lax.pmean(tree, self.axis_name)

    def gradient(self, theta: PyTree, source: PyTree, batch: PyTree) -> tuple[PyTree, Any, PyTree]:
        """(averaged gradient, averaged loss, aux of this device)."""
        (loss, aux), gradient = jax.value_and_grad(self.loss, has_aux=True)(theta, source, batch)
        gradient, loss = self.mean((gradient, loss))
        return gradient, loss, aux

    def update(self, theta: PyTree, state: PyTree, gradient: PyTree) -> tuple[PyTree, PyTree]:
        updates, state = self.optimiser.update(gradient, state, theta)
        return optax.apply_updates(theta, updates), state

    def run(
        self, carry: PyTree, source_at: Callable, batch: PyTree, batches: PyTree, steps: int
    ) -> tuple[PyTree, PyTree]:
        """`steps` updates; per-step `batches` (leading axis) take precedence over `batch`.

        Each step is rematerialised: its backward pass keeps the carry alone, (parameters, state),
        and computes the rest again, one step at a time.
        """

        def step(carry: PyTree, own: PyTree) -> tuple[PyTree, PyTree]:
            now = batch if batches is None else own
            gradient, loss, aux = self.gradient(carry[0], source_at(now), now)
            return self.update(carry[0], carry[1], gradient), (loss, aux)

        # Inside a scan nothing can be merged across iterations, so the barrier is not needed.
        step = jax.checkpoint(step, prevent_cse=False)
        return lax.scan(step, carry, batches, length=steps)

    def gradient_of_source(
        self, theta: PyTree, source: PyTree, batch: PyTree
    ) -> tuple[PyTree, Callable[[PyTree], tuple[PyTree]], tuple[Any, PyTree]]:
        """`gradient` as a function of the source: its value, pull-back, (averaged loss, aux).

        The pull-back of v is this device's ``d/dsource <d/dtheta loss(theta, source), v>``.
        """

        def slope(source: PyTree) -> tuple[PyTree, Any]:
            told, gradient = jax.value_and_grad(self.loss, has_aux=True)(theta, source, batch)
            return gradient, told

        gradient, pull, (loss, aux) = jax.vjp(slope, source, has_aux=True)
        gradient, loss = self.mean((gradient, loss))
        return gradient, pull, (loss, aux)

    def hessian(self, theta: PyTree, source: PyTree, batch: PyTree, v: PyTree) -> PyTree:
        """This device's product of the Hessian to theta with v."""
        slope = jax.grad(lambda t: self.loss(t, source, batch)[0])
        return jax.grad(lambda t: optax.tree.vdot(slope(t), v))(theta)

    def difference(
        self, theta: PyTree, source: PyTree, batch: PyTree, v: PyTree, size: float
    ) -> PyTree:
        """`product` to the source by two first-order gradients, a distance `size` either side."""
        norm = optax.tree.norm(v)
        e = size / jnp.where(norm > 0, norm, 1)

        def side(signed: Array) -> PyTree:
            moved = jax.tree.map(lambda t, d: (t + signed * d).astype(t.dtype), theta, v)
            return jax.grad(lambda s: self.loss(moved, s, batch)[0])(source)

        # A loop, so that only one side's activations exist at a time.
        both = lax.map(side, jnp.stack([e, -e]))
        return jax.tree.map(lambda g: ((g[0] - g[1]) / (2 * e)).astype(g.dtype), both)


def _refuse_unsafe(optimiser: optax.GradientTransformation, theta: PyTree) -> None:
    """Tries the optimiser's derivative where single entries of the gradient are exactly 0.

    Such entries are common (dead units), and Adam's sqrt(v) has an infinite slope at v = 0, which
    would end as NaN in the meta-gradient. The first entry of every leaf is 1, the others 0.
    """

    def finite(theta: PyTree, gradient: PyTree) -> Array:
        state = optimiser.init(theta)
        _, pull = jax.vjp(lambda g: optimiser.update(g, state, theta)[0], gradient)
        (slope,) = pull(theta)
        return jnp.all(jnp.stack([jnp.all(jnp.isfinite(s)) for s in jax.tree.leaves(slope)]))

    with jax.ensure_compile_time_eval():
        ones = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), theta)
        spikes = jax.tree.map(lambda x: (jnp.arange(x.size) == 0).reshape(x.shape) * x, ones)
        if not bool(jax.jit(finite)(ones, spikes)):
            raise InputError(
                "the inner optimiser has no finite derivative where an entry of the gradient is 0; "
                "give Adam and its kin a small eps_root, e.g. optax.adam(rate, eps_root=1e-16)."
            )


def _iterate(product: Callable, u: PyTree, solver: Solver) -> tuple[PyTree, Any]:
    """Solves ``product(z) = u`` from z = 0; -> z, (|residual|, iterations, least curvature).

    Conjugate gradients, or the truncated series as ``z <- z + rate (u - product(z))``.
    """
    norm, dot, add_scale = optax.tree.norm, optax.tree.vdot, optax.tree.add_scale
    conjugate = solver.method == "cg"

    def unfinished(state: Any) -> Array:
        _, r, _, count, curvature = state
        far = norm(r) > solver.tolerance * norm(u)
        return (count < solver.iterations) & far & ((curvature > 0) | (not conjugate))

    def body(state: Any) -> Any:
        z, r, p, count, curvature = state
        image = product(p)
        bend, rr = dot(p, image), dot(r, r)
        curvature = jnp.minimum(curvature, bend / dot(p, p))
        # Along a direction of negative curvature there is no step to take: z stays as it is.
        length = jnp.where(bend > 0, rr / bend, 0) if conjugate else solver.rate
        z, r = add_scale(z, length, p), add_scale(r, -length, image)
        p = add_scale(r, dot(r, r) / rr, p) if conjugate else r
        return z, r, p, count + 1, curvature

    start = optax.tree.zeros_like(u), u, u, jnp.int32(0), jnp.full((), jnp.inf, norm(u).dtype)
    z, r, _, count, curvature = lax.while_loop(unfinished, body, start)
    return z, (norm(r), count, curvature)


def meta_gradient(
    inner_loss: Loss,
    outer_loss: Loss,
    *,
    optimiser: optax.GradientTransformation,
    steps: int = 1,
    mode: str = "unrolled",
    trainable: Trainable = None,
    propose: Callable[[PyTree, PyTree], PyTree] | None = None,
    auxiliary: Auxiliary | None = None,
    batch_per_step: bool = False,
    difference: float = 0.01,
    solver: Solver | None = None,
    axis_name: str | None = None,
    inner_has_aux: bool = False,
    outer_has_aux: bool = False,
    keep_inner: bool = False,
) -> Callable[..., tuple[Scalar, PyTree, MetaAux]]:
    """Builds the function that returns the outer loss and its gradient to the outer parameters.

    Modes (u is the gradient of the outer loss to the adapted parameters, v its pull-back through
    the optimiser's update to the inner gradient; v = -rate u for SGD):

    - "unrolled": exact for any K; steps are rematerialised, so memory grows with K by one copy of
      the inner parameters and optimiser state a step, not by activations.
    - "mixed_product": exact for K = 1, without a graph of the adapted parameters:
      ``d/dphi <d/dtheta L_in(theta, phi), v>``.
    - "mixed_difference": K = 1, the same product by a central difference, with the memory of
      first-order gradients; an approximation whose error shrinks with `difference` squared.
    - "implicit": K steps without a graph, then the implicit function theorem at the point
      reached, which it takes to be stationary: ``-d/dphi <d/dtheta L_in, z>`` with z from
      `Solver`. Check `MetaAux.solution`.

    All modes add the direct gradient of the outer loss to phi, if there is one.

    Args:
        inner_loss: `(inner, outer, batch) -> scalar`; with `propose`, `(inner, context, batch)`.
        outer_loss: `(inner, outer, batch) -> scalar`; with `auxiliary`, called with psi' as a
            fourth argument.
        optimiser: inner Optax transformation. It sees the trained parameters alone.
        steps: K.
        mode: one of `MODES`.
        trainable: which inner parameters the inner steps change; see `partition`.
        propose: `(outer, batch) -> context`, the part of the inner loss that depends on phi and
            the batch but not on theta (ReFusion: weight maps). Computed once a batch, not once a
            step, and differentiated once.
        auxiliary: parameters fitted for the outer loss.
        batch_per_step: the inner training batch has a leading axis K, one batch a step (auxiliary
            step j takes batch j modulo K); otherwise all steps share one batch.
        difference: distance |theta_moved - theta| of "mixed_difference".
        solver: of "implicit", which needs one.
        axis_name: mapped axis over which inner and auxiliary gradients are averaged before each
            update, then the outer value and gradient. Losses must be means over their batch.
        inner_has_aux: the inner loss returns `(scalar, aux)`.
        outer_has_aux: the outer loss returns `(scalar, aux)`.
        keep_inner: put the adapted parameters and the optimiser's state into the result.

    Returns:
        A pure function `(outer, inner, train_batch, test_batch, *, opt_state=None, psi=None) ->
        (value, gradient, MetaAux)`. `inner` itself is not changed. `opt_state` defaults to a fresh
        one, `optimiser.init(partition(inner, trainable)[0])`; psi are the auxiliary parameters.

    Raises:
        InputError: an unknown mode, or settings that contradict each other; and, when the
            function is called, a subset that selects nothing, batches that do not fit `steps`, or
            an optimiser whose derivative is not finite at zero gradients.
    """
    _check(steps, mode, difference, solver, batch_per_step)
    if auxiliary is not None and auxiliary.from_aux and (batch_per_step or not inner_has_aux):
        raise InputError("Auxiliary's from_aux needs inner_has_aux, and one batch for all steps.")
    differentiable: set[Any] = set()

    def source_of(outer: PyTree, batch: PyTree) -> PyTree:
        return outer if propose is None else propose(outer, batch)

    def run(
        outer: PyTree,
        inner: PyTree,
        train_batch: PyTree,
        test_batch: PyTree,
        *,
        opt_state: PyTree = None,
        psi: PyTree = None,
    ) -> tuple[Scalar, PyTree, MetaAux]:
        theta, rest = partition(inner, trainable)
        theta = jax.tree.map(jnp.asarray, theta)
        state = _initial_state(optimiser, theta, opt_state)
        batch, batches = _split_batches(train_batch, steps, batch_per_step)
        kind = str(jax.tree.map(lambda x: (x.shape, x.dtype), theta))
        if mode != "implicit" and kind not in differentiable:
            _refuse_unsafe(optimiser, theta)
            differentiable.add(kind)
        if (auxiliary is None) != (psi is None):
            raise InputError("psi (parameters) and auxiliary (their problem) go together.")

        def fitted(record: PyTree) -> tuple[PyTree, Any]:
            """What `_fit` gives, after the inner steps."""
            if auxiliary is None:
                return None, None
            seen = inner
            if auxiliary.from_aux:  # of the first step, which is the one from the base theta
                seen = jax.tree.map(lambda x: lax.stop_gradient(x[0]), record[1])
            return _fit(auxiliary, psi, seen, (batch, batches), axis_name)

        def loss(theta: PyTree, source: PyTree, batch: PyTree) -> tuple[Any, PyTree]:
            out = inner_loss(combine(theta, rest), source, batch)
            return out if inner_has_aux else (out, None)

        def judge(theta: PyTree, outer: PyTree, psi: PyTree) -> tuple[Any, PyTree]:
            extra = () if auxiliary is None else (psi,)
            out = outer_loss(combine(theta, rest), outer, test_batch, *extra)
            return out if outer_has_aux else (out, None)

        descent = _Descent(loss, optimiser, axis_name)
        solution = None
        if mode == "unrolled":

            def objective(outer: PyTree) -> tuple[Any, Any]:
                shared = None if batches is not None else source_of(outer, batch)

                def source_at(now: PyTree) -> PyTree:
                    return source_of(outer, now) if batches is not None else shared

                carry, record = descent.run((theta, state), source_at, batch, batches, steps)
                own = fitted(record)
                value, outer_aux = judge(carry[0], outer, own[0])
                return value, (carry, record, outer_aux, own)

            (value, out), gradient = jax.value_and_grad(objective, has_aux=True)(outer)
            carry, record, outer_aux, own = out
        else:
            source, pull_source = jax.vjp(lambda outer: source_of(outer, batch), outer)
            if mode == "implicit":
                assert solver is not None
                descent = _Descent(_proximal(loss, theta, solver.damping), optimiser, axis_name)
                carry, record = descent.run((theta, state), lambda _: source, batch, None, steps)
            else:
                # One pass forward and back serves the step and, pulled on later, the product.
                slope, pull_slope, (value, aux) = descent.gradient_of_source(theta, source, batch)
                carry = descent.update(theta, state, slope)
                record = jax.tree.map(lambda x: jnp.asarray(x)[None], (value, aux))
            own = fitted(record)
            judged = jax.value_and_grad(judge, (0, 1), has_aux=True)(carry[0], outer, own[0])
            (value, outer_aux), (u, direct) = judged
            u = descent.mean(u)
            if mode == "implicit":
                z, solution = _solve(descent, carry[0], source, batch, u, solver)
                minus_z = jax.tree.map(jnp.negative, z)
                pull_slope = descent.gradient_of_source(carry[0], source, batch)[1]
                (through,) = pull_slope(minus_z)
            else:
                _, pull = jax.vjp(lambda g: descent.update(theta, state, g)[0], slope)
                (v,) = pull(u)
                if mode == "mixed_product":
                    (through,) = pull_slope(v)
                else:
                    through = descent.difference(theta, source, batch, v, difference)
            gradient = jax.tree.map(jnp.add, direct, pull_source(through)[0])

        value, gradient = descent.mean((value, gradient))
        inner, state = (combine(carry[0], rest), carry[1]) if keep_inner else (None, None)
        losses, inner_aux = record
        psi, psi_losses = own
        aux = MetaAux(losses, inner_aux, outer_aux, inner, state, psi, psi_losses, solution)
        return value, gradient, aux

    return run


def _initial_state(optimiser: optax.GradientTransformation, theta: PyTree, given: PyTree) -> PyTree:
    if given is None:
        return optimiser.init(theta)
    wanted: Any = jax.tree.structure(jax.eval_shape(optimiser.init, theta))
    if wanted != jax.tree.structure(given):
        raise InputError(
            "opt_state does not belong to the trained inner parameters; start from "
            "optimiser.init(partition(inner, trainable)[0])."
        )
    return given


def _split_batches(batch: PyTree, steps: int, batch_per_step: bool) -> tuple[PyTree, PyTree]:
    """(the one batch, None), or (None, batches with a leading axis K)."""
    if not batch_per_step:
        return batch, None
    lengths = {jnp.shape(x)[:1] for x in jax.tree.leaves(batch)}
    if lengths != {(steps,)}:
        raise InputError(
            f"batch_per_step: every array of the inner batch needs a leading axis of {steps}, "
            f"one batch a step; found {sorted(n[0] if n else 0 for n in lengths)}."
        )
    return (jax.tree.map(lambda x: x[0], batch), None) if steps == 1 else (None, batch)


def _fit(
    problem: Auxiliary, psi: PyTree, seen: PyTree, batches: tuple[PyTree, PyTree], axis: str | None
) -> tuple[PyTree, Array]:
    """Fits psi to what its loss sees of the inner problem: psi' and the losses on the way to it."""
    batch, batches = batches
    if batches is not None:
        turns = jnp.arange(problem.steps)
        batches = jax.tree.map(lambda x: x[turns % x.shape[0]], batches)
    descent = _Descent(
        lambda psi, _, batch: (problem.loss(psi, seen, batch), None), problem.optimiser, axis
    )
    carry = psi, problem.optimiser.init(psi)
    (psi, _), (losses, _) = descent.run(carry, lambda _: None, batch, batches, problem.steps)
    return psi, losses


def _proximal(loss: Loss, anchor: PyTree, damping: float) -> Loss:
    def damped(theta: PyTree, source: PyTree, batch: PyTree) -> tuple[Any, PyTree]:
        value, aux = loss(theta, source, batch)
        way = optax.tree.norm(optax.tree.sub(theta, anchor), squared=True)
        return value + damping / 2 * way, aux

    return damped


def _solve(
    descent: _Descent, theta: PyTree, source: PyTree, batch: PyTree, u: PyTree, solver: Any
) -> tuple[PyTree, Solution]:
    """Solves ``(H + damping I) z = u`` for z; the damping is in the loss, hence in H, already."""

    def product(z: PyTree) -> PyTree:
        return descent.mean(descent.hessian(theta, source, batch, z))

    z, (left, count, curvature) = _iterate(product, u, solver)
    size = optax.tree.norm(u)
    residual = left / jnp.where(size > 0, size, 1)
    stationarity = optax.tree.norm(descent.gradient(theta, source, batch)[0])
    return z, Solution(residual, count, residual <= solver.tolerance, curvature, stationarity)


def _check(
    steps: int, mode: str, difference: float, solver: Solver | None, batch_per_step: bool
) -> None:
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}; choose one of {', '.join(MODES)}.")
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}.")
    if mode.startswith("mixed") and steps != 1:
        raise InputError(f"mode {mode!r} is for steps=1, got {steps}; take mode 'unrolled'.")
    if not difference > 0:
        raise InputError(f"difference must be above 0, got {difference}.")
    if mode == "implicit" and solver is None:
        raise InputError("mode 'implicit' needs solver=Solver(damping=...).")
    if mode != "implicit" and solver is not None:
        raise InputError(f"solver belongs to mode 'implicit', not to {mode!r}; leave it out.")
    if mode == "implicit" and batch_per_step:
        raise InputError("mode 'implicit' needs one inner batch; leave batch_per_step off.")


def scale_by_max_abs() -> optax.GradientTransformation:
    """Divides updates by the largest absolute entry of all leaves; zeros stay zeros.

    ReFusion's outer step is ``phi <- phi - eta g / max_i |g_i|``:
    ``optax.chain(scale_by_max_abs(), optax.scale_by_learning_rate(eta))``. To average the
    gradients of several pairs first, wrap that chain in `optax.MultiSteps`.
    """

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        del params
        largest = optax.tree.norm(updates, ord=jnp.inf)
        divisor = jnp.where(largest == 0, 1, largest)
        return jax.tree.map(lambda x: (x / divisor).astype(x.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
