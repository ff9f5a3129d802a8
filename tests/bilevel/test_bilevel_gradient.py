"""Meta-gradients against closed forms, brute force and finite differences; their settings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_problem import (
    ADAM,
    SGD,
    brute,
    gap,
    half_square,
    indirect_loss,
    inner_loss,
    normal,
    outer_loss,
    problem,
    quadratic,
)

from mgdn_jax.bilevel import Auxiliary, RankOne, Solver, check, meta_gradient
from mgdn_jax.errors import InputError

OPTIMISERS = {
    "sgd": SGD,
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": ADAM,
    "clipped, scheduled": optax.chain(
        optax.clip_by_global_norm(0.1), optax.sgd(optax.exponential_decay(0.2, 1, 0.5))
    ),
}


@pytest.mark.parametrize(("mode", "steps"), [("mixed_product", 1), ("unrolled", 3)])
@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.usefixtures("x64")
def test_exact_modes_equal_a_python_loop(name, mode, steps):
    outer, inner, train, test = problem()
    value, gradient = brute(outer, inner, [train] * steps, test, OPTIMISERS[name])
    meta = meta_gradient(
        inner_loss, outer_loss, optimiser=OPTIMISERS[name], steps=steps, mode=mode, keep_inner=True
    )
    ours, ours_gradient, aux = jax.jit(meta)(outer, inner, train, test)
    error = gap(ours_gradient, gradient)
    print(f"{name}, {mode}, K={steps}: {error:.1e}")
    assert error <= 1e-12
    assert abs(float(ours - value)) <= 1e-14
    assert aux.inner_losses.shape == (steps,)
    assert abs(float(aux.inner_losses[0] - inner_loss(inner, outer, train))) <= 1e-14
    # The adapted parameters are those the value belongs to.
    assert abs(float(outer_loss(aux.inner, outer, test) - value)) <= 1e-14


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.usefixtures("x64")
def test_quadratic_in_closed_form(steps):
    # theta_K = phi + c^K (theta - phi) with c = 1 - rate h, so dL/dphi = (1 - c^K) theta_K.
    theta, phi, h, rate = normal(0, 5), normal(1, 5), 0.7, 0.3
    meta = meta_gradient(quadratic, half_square, optimiser=optax.sgd(rate), steps=steps)
    value, gradient, _ = meta(phi, theta, h, 1.0)
    c = (1 - rate * h) ** steps
    adapted = phi + c * (theta - phi)
    assert gap(gradient, (1 - c) * adapted) <= 1e-14
    assert abs(float(value) - 0.5 * float(jnp.sum(adapted**2))) <= 1e-14


@pytest.mark.usefixtures("x64")
def test_quadratic_with_momentum_in_closed_form():
    # e' = e - rate m', m' = mu m + h e: two states, linear in e_0 = theta - phi.
    theta, phi, h, rate, mu = normal(0, 5), normal(1, 5), 0.7, 0.3, 0.9
    advance = np.array([[1 - rate * h, -rate * mu], [h, mu]])
    c = np.linalg.matrix_power(advance, 3)[0, 0]
    meta = meta_gradient(quadratic, half_square, optimiser=optax.sgd(rate, momentum=mu), steps=3)
    _, gradient, _ = meta(phi, theta, h, 1.0)
    assert gap(gradient, (1 - c) * (phi + c * (theta - phi))) <= 1e-14


@pytest.mark.usefixtures("x64")
def test_first_adam_step_in_closed_form():
    # theta' = theta - rate g / (|g| + eps): its slope in g is -rate eps / (|g| + eps)^2.
    theta, phi, h, rate, eps = normal(0, 5), normal(1, 5), 0.7, 0.3, 0.1
    adam = optax.adam(rate, eps=eps, eps_root=1e-30)
    for mode in ("unrolled", "mixed_product"):
        _, gradient, _ = meta_gradient(quadratic, half_square, optimiser=adam, mode=mode)(
            phi, theta, h, 1.0
        )
        g = h * (theta - phi)
        adapted = theta - rate * g / (jnp.abs(g) + eps)
        wanted = adapted * rate * eps * h / (jnp.abs(g) + eps) ** 2
        assert gap(gradient, wanted) <= 1e-12


@pytest.mark.usefixtures("x64")
def test_gradient_equals_central_differences():
    outer, inner, train, test = problem()
    meta = jax.jit(meta_gradient(inner_loss, outer_loss, optimiser=ADAM, steps=3))
    _, gradient, _ = meta(outer, inner, train, test)
    direction = {"weigh": normal(8, 3, 2), "penalty": jnp.asarray(0.5)}

    def at(step):
        return meta(optax.tree.add_scale(outer, step, direction), inner, train, test)[0]

    numeric = float(at(1e-5) - at(-1e-5)) / 2e-5
    analytic = float(optax.tree.vdot(gradient, direction))
    print(f"central difference: {abs(numeric / analytic - 1):.1e}")
    assert abs(numeric / analytic - 1) <= 1e-7


@pytest.mark.usefixtures("x64")
def test_mixed_difference_errs_with_the_square_of_its_step():
    outer, inner, train, test = problem()
    _, exact = brute(outer, inner, [train], test, SGD)
    errors = []
    for size in (0.4, 0.2, 0.1, 0.05):
        meta = meta_gradient(
            inner_loss, outer_loss, optimiser=SGD, mode="mixed_difference", difference=size
        )
        errors.append(gap(jax.jit(meta)(outer, inner, train, test)[1], exact))
    print("mixed_difference:", [f"{e:.1e}" for e in errors])
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert np.all((ratios > 3.6) & (ratios < 4.4))
    assert errors[-1] < 1e-3


def test_mixed_difference_of_a_satisfied_outer_loss_is_zero():
    outer, inner, train, test = problem()
    meta = meta_gradient(
        inner_loss, lambda t, o, b: 0.0 * t["first/bias"].sum(), optimiser=SGD,
        mode="mixed_difference",
    )  # fmt: skip
    gradient = jax.jit(meta)(outer, inner, train, test)[1]
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


@pytest.mark.usefixtures("x64")
def test_first_order_gradient_is_identically_zero():
    outer, inner, train, test = problem()

    def stopped(outer):
        slope = jax.lax.stop_gradient(jax.grad(inner_loss)(inner, outer, train))
        return indirect_loss(optax.tree.add_scale(inner, -0.1, slope), outer, test)

    first_order = jax.jit(jax.grad(stopped))(outer)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(first_order))
    full = jax.jit(meta_gradient(inner_loss, indirect_loss, optimiser=SGD))
    full = full(outer, inner, train, test)[1]
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(full))


CONTRADICTIONS = [
    ({"mode": "first_order"}, "unknown mode 'first_order'; choose one of unrolled"),
    ({"steps": 0}, "steps must be at least 1"),
    ({"mode": "mixed_product", "steps": 2}, "is for steps=1, got 2; take mode 'unrolled'"),
    ({"mode": "mixed_difference", "steps": 3}, "is for steps=1, got 3"),
    ({"mode": "mixed_difference", "difference": 0.0}, "difference must be above 0"),
    ({"mode": "implicit"}, r"needs solver=Solver\(damping=...\)"),
    ({"solver": Solver(damping=1.0)}, "solver belongs to mode 'implicit'"),
    ({"mode": "rank_one", "steps": 2}, "is for steps=1, got 2"),
    ({"rank_one": RankOne()}, "rank_one belongs to mode 'rank_one', not to 'unrolled'"),
    (
        {"mode": "implicit", "solver": Solver(damping=1.0), "batch_per_step": True},
        "leave batch_per_step off",
    ),
]


@pytest.mark.parametrize(("options", "words"), CONTRADICTIONS)
def test_contradictory_settings(options, words):
    with pytest.raises(InputError, match=words):
        meta_gradient(inner_loss, outer_loss, optimiser=SGD, **options)


@pytest.mark.parametrize(("options", "words"), CONTRADICTIONS)
def test_settings_can_be_checked_without_losses(options, words):
    with pytest.raises(InputError, match=words):
        check(**options)


def test_good_settings_pass_the_check():
    fitted = Auxiliary(inner_loss, SGD, from_aux=True)
    check()
    check(steps=3, batch_per_step=True)
    check(mode="mixed_difference", difference=0.1, batch_per_step=True)
    check(mode="implicit", steps=5, solver=Solver(damping=1.0))
    check(mode="rank_one", rank_one=RankOne.published(0.01))
    check(auxiliary=fitted, inner_has_aux=True)
    with pytest.raises(InputError, match="from_aux needs inner_has_aux"):
        check(auxiliary=fitted)


def test_bad_solvers_and_auxiliaries():
    for options, words in (
        ({"damping": -1.0}, "damping of 0 or more"),
        ({"damping": float("nan")}, "damping of 0 or more"),
        ({"damping": 1.0, "method": "lu"}, "'cg' or 'neumann', not 'lu'"),
        ({"damping": 1.0, "iterations": 0}, "at least 1 iteration"),
        ({"damping": 1.0, "method": "neumann"}, "needs a rate above 0"),
    ):
        with pytest.raises(InputError, match=words):
            Solver(**options)
    for options, words in (
        ({"factor": float("inf")}, "a finite factor"),
        ({"epsilon": -1.0}, "an epsilon of 0 or more"),
    ):
        with pytest.raises(InputError, match=words):
            RankOne(**options)
    with pytest.raises(InputError, match="steps of at least 0"):
        Auxiliary(inner_loss, SGD, steps=-1)
    for given in ({}, {"inner_has_aux": True, "batch_per_step": True, "steps": 2}):
        with pytest.raises(InputError, match="from_aux needs inner_has_aux"):
            meta_gradient(
                inner_loss, outer_loss, optimiser=SGD,
                auxiliary=Auxiliary(inner_loss, SGD, from_aux=True), **given,
            )  # fmt: skip
