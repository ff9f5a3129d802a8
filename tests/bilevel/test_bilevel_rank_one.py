"""Mode "rank_one" against its formula; optimisers that need more than gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_problem import SGD, gap, half_square, inner_loss, outer_loss, problem, quadratic

from mgdn_jax.bilevel import Auxiliary, RankOne, Solver, meta_gradient
from mgdn_jax.errors import InputError


def gradients(loss, inner, outer, batch):
    return jax.grad(loss, (0, 1))(inner, outer, batch)


@pytest.mark.parametrize(
    ("form", "factor"),
    [(None, -1.0), (RankOne.derived(), -1.0), (RankOne.published(0.3), 0.3), (RankOne(0.0), 0.0)],
    ids=["default", "derived", "published", "first order"],
)
@pytest.mark.usefixtures("x64")
def test_both_forms_are_what_they_are_named(form, factor):
    outer, inner, train, test = problem()
    f_theta, f_phi = gradients(inner_loss, inner, outer, train)
    outer_theta, outer_phi = gradients(outer_loss, inner, outer, test)
    ratio = optax.tree.vdot(outer_theta, f_theta) / optax.tree.vdot(f_theta, f_theta)
    wanted = jax.tree.map(lambda F, f: F + factor * ratio * f, outer_phi, f_phi)
    meta = meta_gradient(inner_loss, outer_loss, optimiser=SGD, mode="rank_one", rank_one=form)
    value, gradient, aux = jax.jit(meta)(outer, inner, train, test)
    assert gap(gradient, wanted) <= 1e-11  # the derived form has an epsilon
    assert abs(float(value - outer_loss(inner, outer, test))) <= 1e-14
    assert aux.inner_losses.shape == (1,)


def test_a_stationary_inner_point_has_no_second_term():
    meta = meta_gradient(quadratic, half_square, optimiser=SGD, mode="rank_one")
    phi = jnp.asarray([1.0, 2.0])
    _, gradient, _ = meta(phi, phi, 1.0, 1.0)
    assert np.array_equal(gradient, [0.0, 0.0])


@pytest.mark.usefixtures("x64")
def test_one_dimension_has_no_other_curvature():
    """With one parameter and a quadratic fit, rank one is near the exact gradient."""

    def fit(theta, phi, batch):
        return 0.5 * jnp.square(phi * theta - batch)

    def judge(theta, phi, batch):
        del phi
        return 0.5 * jnp.square(theta - batch)

    phi, theta = jnp.asarray(2.0), jnp.asarray(0.5001)  # 1 / 2 is the minimum
    exact = -1.0 / 2.0**2 * (theta - 1.0)  # theta = 1 / phi
    meta = meta_gradient(fit, judge, optimiser=SGD, mode="rank_one", rank_one=RankOne(epsilon=0.0))
    gradient = meta(phi, theta, 1.0, 1.0)[1]
    print(f"rank one {float(gradient):.5f}, exact {float(exact):.5f}")
    assert abs(float(gradient - exact)) <= 1e-3


@pytest.mark.parametrize(
    "optimiser", [optax.lbfgs(), optax.polyak_sgd(), optax.contrib.reduce_on_plateau()]
)
@pytest.mark.parametrize("mode", ["unrolled", "mixed_product", "implicit"])
def test_optimisers_that_need_a_value_are_refused_in_a_sentence(optimiser, mode):
    outer, inner, train, test = problem()
    solver = Solver(damping=1.0) if mode == "implicit" else None
    meta = meta_gradient(inner_loss, outer_loss, optimiser=optimiser, mode=mode, solver=solver)
    with pytest.raises(InputError, match=r"asks for more than a gradient.*optax.sgd\(rate\)\."):
        jax.jit(meta)(outer, inner, train, test)


def test_so_are_those_of_auxiliary_parameters():
    outer, inner, train, test = problem()
    meta = meta_gradient(
        inner_loss, lambda *arguments: outer_loss(*arguments[:3]), optimiser=optax.sgd(0.1),
        auxiliary=Auxiliary(lambda psi, theta, batch: psi**2, optax.lbfgs()),
    )  # fmt: skip
    with pytest.raises(InputError, match="the auxiliary optimiser asks for more than a gradient"):
        jax.jit(meta)(outer, inner, train, test, psi=jnp.ones(()))


def test_lbfgs_without_a_line_search_is_a_step_by_gradients():
    outer, inner, train, test = problem()
    optimiser = optax.chain(optax.scale_by_lbfgs(memory_size=2), optax.scale(-0.1))
    meta = meta_gradient(inner_loss, outer_loss, optimiser=optimiser)
    _, gradient, _ = jax.jit(meta)(outer, inner, train, test)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
