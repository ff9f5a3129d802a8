"""Mode "implicit" against the closed form of ridge regression; its diagnostics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_problem import SGD, gap, normal, ridge

from mgdn_jax.bilevel import Solution, Solver, meta_gradient


@pytest.mark.parametrize(
    "solver",
    [
        Solver(damping=0.0, tolerance=1e-13),
        Solver(damping=0.0, method="neumann", rate=0.4, iterations=500, tolerance=1e-13),
    ],
    ids=["cg", "neumann"],
)
@pytest.mark.usefixtures("x64")
def test_implicit_equals_the_closed_form_of_ridge_regression(solver):
    inner, outer, w, phi, train, test, wanted = ridge()
    meta = meta_gradient(inner, outer, optimiser=SGD, mode="implicit", solver=solver)
    _, gradient, aux = jax.jit(meta)(phi, w, train, test)
    solution = aux.solution
    print(f"{solver.method}: {gap(gradient, wanted):.1e} after {solution.iterations} products")
    assert gap(gradient, wanted) <= 1e-11
    assert bool(solution.converged)
    assert float(solution.residual) <= 1e-13
    assert float(solution.stationarity) <= 1e-14
    assert float(solution.curvature) > 0.5
    if solver.method == "cg":
        assert int(solution.iterations) <= 6  # four dimensions


@pytest.mark.usefixtures("x64")
def test_implicit_finds_the_optimum_first_and_says_when_it_has_not():
    inner, outer, w, phi, train, test, wanted = ridge()
    found = {}
    for steps in (2, 200):
        meta = meta_gradient(
            inner, outer, optimiser=optax.sgd(0.4), steps=steps, mode="implicit",
            solver=Solver(damping=0.0, tolerance=1e-13), keep_inner=True,
        )  # fmt: skip
        _, gradient, aux = jax.jit(meta)(phi, jnp.zeros(4), train, test)
        found[steps] = gap(gradient, wanted), float(aux.solution.stationarity)
        if steps == 200:
            assert gap(aux.inner, w) <= 1e-12
    assert found[200][0] <= 1e-11
    assert found[200][1] <= 1e-13
    assert found[2][0] > 1e-3
    assert found[2][1] > 1e-3


@pytest.mark.usefixtures("x64")
def test_damping_is_a_proximal_term():
    # The gradient is that of the damped problem itself: equal to unrolling it to the end.
    inner, outer, _, phi, train, test, _ = ridge()
    start, damping = normal(9, 4), 0.7

    def damped(w, phi, batch):
        return inner(w, phi, batch) + damping / 2 * jnp.sum((w - start) ** 2)

    wanted = jax.jit(meta_gradient(damped, outer, optimiser=optax.sgd(0.3), steps=200))(
        phi, start, train, test
    )
    solver = Solver(damping=damping, tolerance=1e-13)
    ours = jax.jit(
        meta_gradient(
            inner, outer, optimiser=optax.sgd(0.3), steps=200, mode="implicit", solver=solver
        )
    )(phi, start, train, test)
    assert gap(ours[1], wanted[1]) <= 1e-10
    assert abs(float(ours[0] - wanted[0])) <= 1e-12


def test_implicit_reports_negative_curvature_and_too_few_iterations():
    def saddle(w, phi, batch):
        return 0.5 * (w[0] ** 2 - w[1] ** 2) + phi * w.sum()

    def wish(w, phi, batch):
        return (w * jnp.asarray([1.0, 2.0])).sum()

    def solve(**kwargs):
        meta = meta_gradient(saddle, wish, optimiser=SGD, mode="implicit", solver=Solver(**kwargs))
        return meta(jnp.float32(0.0), jnp.zeros(2), None, None)

    _, gradient, aux = solve(damping=0.1)
    assert not bool(aux.solution.converged)
    assert float(aux.solution.curvature) <= 0
    assert np.isfinite(gradient)
    _, gradient, aux = solve(damping=3.0)  # 1 / 4 + 2 / 2
    assert bool(aux.solution.converged)
    assert abs(float(gradient) + 1.25) <= 1e-5
    aux = solve(damping=3.0, iterations=1)[2]
    assert int(aux.solution.iterations) == 1
    assert not bool(aux.solution.converged)
    assert "ended at a residual of" in aux.solution.fault()


def test_steps_that_diverge_are_a_fault_whatever_the_limits():
    meta = meta_gradient(
        lambda theta, phi, batch: 5 * jnp.sum((theta - phi) ** 2),
        lambda theta, phi, batch: jnp.sum(theta**2),
        optimiser=optax.sgd(0.5), steps=40, mode="implicit", solver=Solver(damping=0.0),
    )  # fmt: skip
    _, _, aux = jax.jit(meta)(jnp.ones(2), jnp.zeros(2), jnp.zeros(1), jnp.zeros(1))
    assert float(aux.solution.stationarity) > 1e24
    assert "the inner steps diverged, their gradient went from 14.1 to " in aux.solution.fault()


def test_a_fault_is_one_sentence():
    good = Solution(
        residual=np.float32(1e-7), iterations=np.int32(3), converged=np.bool_(True),
        curvature=np.float32(0.5), stationarity=np.float32(1e-5), before=np.float32(0.2),
    )  # fmt: skip
    assert good.fault() == ""
    for change, limits, words in (
        ({"curvature": np.float32(-4.3)}, {}, "curvature -4.3 with its damping"),
        ({"curvature": np.float32("nan")}, {}, "is not positive definite"),
        ({"residual": np.float32(0.1)}, {}, "residual of 0.1 after 3 iterations"),
        ({"residual": np.float32("nan")}, {}, "residual of nan"),
        ({"stationarity": np.float32(0.2)}, {"stationarity": 0.1}, "take more inner steps"),
        ({"stationarity": np.float32("inf")}, {}, "the inner steps diverged"),
        ({"stationarity": np.float32(6e26)}, {}, "their gradient went from 0.2 to 6e+26"),
    ):
        fault = good._replace(**change).fault(**limits)
        assert words in fault
        assert fault.count(".") - fault.count(" 0.") - fault.count("-4.") == 1


@pytest.mark.usefixtures("x64")
def test_implicit_never_differentiates_the_optimiser():
    inner, outer, _, phi, train, test, wanted = ridge()
    meta = meta_gradient(
        inner, outer, optimiser=optax.adam(optax.cosine_decay_schedule(0.1, 800)), steps=800,
        mode="implicit", solver=Solver(damping=0.0, tolerance=1e-12),
    )  # fmt: skip
    assert gap(jax.jit(meta)(phi, jnp.zeros(4), train, test)[1], wanted) <= 1e-6
