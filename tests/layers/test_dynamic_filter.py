"""The spatially variant filter against goldens, its definition, and its memory promise.

goldens/fac.npz (channels last) was computed with the published MGDN code in PyTorch: operands,
result and the gradients of sum(y**2); and a ramp image with a one-hot kernel at two taps.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from unchecked import as_users_call

from mgdn_jax.layers import dynamic_filter as module
from mgdn_jax.layers.dynamic_filter import dynamic_filter, dynamic_filter_reference

IMPLEMENTATIONS = ("accumulate", "reference")


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[1] / "goldens" / "fac.npz") as file:
        return {name: jnp.asarray(array) for name, array in file.items()}


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of very few rows, so that small images take the blocked path."""
    monkeypatch.setattr(module, "_BLOCK_SCALARS_CPU", 1)
    monkeypatch.setattr(module, "_UNROLLED_CHANNELS", 2)
    jax.clear_caches()
    yield
    jax.clear_caches()


def operands(shape, taps, groups=1, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(dtype)
    kernels = rng.standard_normal((*shape[:-1], groups * taps)).astype(dtype)
    return jnp.asarray(x), jnp.asarray(kernels)


def gap(got, wanted):
    """Largest difference, over the largest wanted entry."""
    got, wanted = (np.asarray(a, np.float64) for a in (got, wanted))
    assert got.shape == wanted.shape
    return np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-30)


# ---- goldens ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("implementation", "bound"), [("accumulate", 1e-6), ("reference", 5e-6)])
def test_golden_forward_and_gradients(golden, implementation, bound):
    filtered = partial(dynamic_filter, implementation=implementation)
    y = filtered(golden["x"], golden["kernels"])
    error = np.abs(y - golden["y"]).max()
    print(f"{implementation}: forward {error:.1e}")
    assert error <= bound

    gradient = jax.jit(jax.grad(lambda x, k: jnp.sum(filtered(x, k) ** 2), argnums=(0, 1)))
    grads = gradient(golden["x"], golden["kernels"])
    for name, got in zip(("grad_x", "grad_kernels"), grads, strict=True):
        error = gap(got, golden[name])
        print(f"{implementation}: {name} {error:.1e} of the largest entry")
        assert error <= 1e-4


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("tap", [8, 10])
def test_golden_taps_are_row_major_bit_for_bit(golden, tap, implementation):
    ramp = golden["ramp"]
    kernels = jnp.zeros((*ramp.shape[:-1], 49)).at[..., tap].set(1)
    y = dynamic_filter(ramp, kernels, implementation=implementation)
    np.testing.assert_array_equal(y, golden[f"ramp_tap{tap}"])


# ---- against the definition ------------------------------------------------------------------


def by_hand(x, kernels, size, dilation, border, groups):
    """Explicit loops in float64, sharing nothing with the package."""
    h, w, c = x.shape
    out = np.zeros(x.shape)
    half = size // 2

    def source(i, n):
        if border == "replicate":
            return min(max(i, 0), n - 1)
        if border == "reflect":
            return -i if i < 0 else (2 * (n - 1) - i if i >= n else i)
        return i if 0 <= i < n else None

    for y, x0, channel in np.ndindex(h, w, c):
        group = channel // (c // groups)
        for t in range(size * size):
            row = source(y + (t // size - half) * dilation, h)
            column = source(x0 + (t % size - half) * dilation, w)
            if row is not None and column is not None:
                tap = kernels[y, x0, group * size * size + t]
                out[y, x0, channel] += float(tap) * float(x[row, column, channel])
    return out


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("border", module.BORDERS)
@pytest.mark.parametrize(("size", "dilation", "groups"), [(3, 1, 1), (3, 2, 2), (5, 1, 4)])
def test_definition_by_hand(size, dilation, groups, border, implementation):
    x, kernels = operands((5, 6, 4), size * size, groups)
    wanted = by_hand(np.asarray(x), np.asarray(kernels), size, dilation, border, groups)
    options = {"kernel_size": size, "dilation": dilation, "border": border}
    filtered = jax.jit(partial(dynamic_filter, **options, implementation=implementation))
    error = gap(filtered(x, kernels), wanted)
    print(f"{implementation}: {error:.1e}")
    assert error <= 1e-6


GRID = [
    # shape, size, dilation, groups, borders
    ((9, 11, 6), 7, 1, 1, module.BORDERS),
    ((2, 9, 8, 6), 5, 1, 3, module.BORDERS),
    ((2, 3, 7, 5, 4), 3, 2, 2, module.BORDERS),
    ((2, 13, 14, 3), 7, 2, 1, module.BORDERS),
    ((6, 5, 3), 3, 1, 3, module.BORDERS),
    ((1, 4, 4, 2), 1, 1, 1, module.BORDERS),
    ((1, 4, 4, 2), 1, 3, 2, module.BORDERS),
    ((2, 1, 1, 3), 7, 1, 1, ("replicate", "zero")),
    ((3, 2, 4), 7, 1, 2, ("replicate", "zero")),
    ((1, 1, 9, 2), 5, 2, 1, ("replicate", "zero")),
]
CASES = [(*case, border) for *case, borders in GRID for border in borders]


def errors_against_reference(shape, size, dilation, groups, border):
    x, kernels = operands(shape, size**2, groups)
    cotangent, _ = operands(shape, 1, seed=1)
    options = {"kernel_size": size, "dilation": dilation, "border": border}

    def pulled(function):
        @jax.jit
        def run(x, kernels, cotangent):
            y, pull = jax.vjp(partial(function, **options), x, kernels)
            return y, *pull(cotangent)

        return run(x, kernels, cotangent)

    wanted = pulled(dynamic_filter_reference)
    got = pulled(dynamic_filter)
    errors = [gap(a, b) for a, b in zip(got, wanted, strict=True)]
    print("forward, to x, to kernels: " + ", ".join(f"{e:.1e}" for e in errors))
    return errors


@pytest.mark.parametrize(("shape", "size", "dilation", "groups", "border"), CASES)
def test_equals_reference(shape, size, dilation, groups, border):
    assert max(errors_against_reference(shape, size, dilation, groups, border)) <= 2e-6


@pytest.mark.parametrize(("shape", "size", "dilation", "groups", "border"), CASES[::2])
def test_equals_reference_in_row_blocks(small_blocks, shape, size, dilation, groups, border):
    assert max(errors_against_reference(shape, size, dilation, groups, border)) <= 2e-6


def test_rows_are_split_evenly_and_never_below_the_halo():
    spec = module._Spec(7, 1, "zero", 1, jnp.float32)

    def rows(*shape):
        return module._rows_per_block(shape, 79, 3 << 17, spec)

    assert rows(1, 520, 520) == 9
    assert rows(8, 64, 64) == 8  # 9 would fit, but 8 blocks it takes either way
    assert rows(1, 20, 20) == 20
    assert rows(64, 64, 64) == 6


def test_rows_of_a_block_are_for_the_platform_of_the_program():
    # 5 blocks of 8 rows on a CPU, all 40 at once elsewhere, whatever machine traces it.
    x, kernels = operands((1, 40, 1000, 1), 49)
    lowered = jax.jit(dynamic_filter).trace(x, kernels).lower(lowering_platforms=("cpu", "cuda"))
    case = lowered.as_text().split("stablehlo.case")[-1]
    on_cpu, elsewhere = case.split("}, {")[:2]
    assert "stablehlo.while" in on_cpu
    assert "stablehlo.while" not in elsewhere
    for platform, has_blocks in (("cpu", True), ("cuda", False)):
        text = jax.jit(dynamic_filter).trace(x, kernels).lower(lowering_platforms=(platform,))
        assert ("stablehlo.while" in text.as_text()) == has_blocks


# ---- derivatives -----------------------------------------------------------------------------


@pytest.mark.parametrize("border", module.BORDERS)
@pytest.mark.parametrize(("size", "dilation", "groups"), [(3, 1, 1), (3, 2, 2)])
def test_first_and_second_derivative(small_blocks, size, dilation, groups, border):
    with jax.enable_x64(True):
        x, kernels = operands((2, 7, 6, 4), size * size, groups, dtype=np.float64)
        options = {"kernel_size": size, "dilation": dilation, "border": border}
        filtered = jax.jit(partial(dynamic_filter, **options))
        check_grads(filtered, (x, kernels), order=2, modes=["rev"])


def energy(function, x, kernels):
    """A scalar whose derivatives of all orders are non-trivial."""
    y = function(x, kernels)
    return jnp.sum(jnp.sin(y) * y)


def test_hessian_vector_and_third_derivative():
    with jax.enable_x64(True):
        x, kernels = operands((1, 8, 7, 3), 9, dtype=np.float64)
        direction = operands((1, 8, 7, 3), 9, seed=1, dtype=np.float64)

        def along(scalar):
            def directional(x, kernels):
                grads = jax.grad(scalar, argnums=(0, 1))(x, kernels)
                return sum(jnp.vdot(g, d) for g, d in zip(grads, direction, strict=True))

            return directional

        def derivatives(function):
            scalar = partial(energy, partial(function, kernel_size=3))
            second = jax.grad(along(scalar), argnums=(0, 1))(x, kernels)
            third = jax.grad(along(along(scalar)), argnums=(0, 1))(x, kernels)
            return *second, *third

        got = jax.jit(partial(derivatives, dynamic_filter))()
        wanted = jax.jit(partial(derivatives, dynamic_filter_reference))()
        errors = [gap(a, b) for a, b in zip(got, wanted, strict=True)]
        print("second, third: " + ", ".join(f"{e:.1e}" for e in errors))
        assert max(errors) <= 1e-12


def test_the_three_maps_are_adjoint(golden):
    """<g, F(x, K)> = <G(g, K), x> = <H(g, x), K>."""
    with jax.enable_x64(True):
        x, kernels = operands((2, 9, 8, 6), 25, 2, dtype=np.float64)
        g, _ = operands((2, 9, 8, 6), 1, seed=1, dtype=np.float64)
        for border in module.BORDERS:
            spec = module._Spec(5, 2, border, 2, kernels.dtype)

            @jax.jit
            def products(g, x, kernels, spec=spec):
                return [
                    jnp.vdot(g, module._filter(x, kernels, spec)),
                    jnp.vdot(module._spread(g, kernels, spec), x),
                    jnp.vdot(module._correlate(g, x, spec), kernels),
                ]

            products = products(g, x, kernels)
            np.testing.assert_allclose(products, products[0], rtol=1e-11)


# ---- transformations and dtypes --------------------------------------------------------------


def test_vmap_over_one_operand_or_both(small_blocks):
    xs, ks = operands((3, 9, 8, 4), 9)
    small = partial(dynamic_filter, kernel_size=3)
    gradient = jax.grad(partial(energy, small), argnums=(0, 1))

    @jax.jit
    def run(xs, ks):
        mapped = [
            jax.vmap(small)(xs, ks),
            jax.vmap(small, in_axes=(None, 0))(xs[0], ks)[1],
            jax.vmap(small, in_axes=(0, None), out_axes=2)(xs, ks[0])[:, :, 2],
        ]
        plain = [small(xs, ks), small(xs[0], ks[1]), small(xs[2], ks[0])]
        return mapped, plain, jax.vmap(gradient)(xs, ks), gradient(xs, ks)

    mapped, plain, slopes, wanted_slopes = run(xs, ks)
    for got, wanted in zip(mapped, plain, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    for got, wanted in zip(slopes, wanted_slopes, strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_pmap_and_checkpoint_leave_gradients_alone():
    xs, ks = operands((4, 1, 9, 8, 4), 9)
    gradient = jax.grad(partial(energy, partial(dynamic_filter, kernel_size=3)), argnums=(0, 1))
    saved = jax.checkpoint(partial(dynamic_filter, kernel_size=3))
    wanted = jax.jit(gradient)(xs, ks)
    again = jax.jit(jax.grad(partial(energy, saved), (0, 1)))(xs, ks)
    for got in (jax.pmap(gradient)(xs, ks), again):
        for a, b in zip(got, wanted, strict=True):
            assert gap(a, b) <= 1e-6


@pytest.mark.parametrize(
    ("dtypes", "bound"),
    [
        ((jnp.bfloat16, jnp.bfloat16), 2**-8),
        ((jnp.bfloat16, jnp.float32), 2**-8),
        ((jnp.float32, jnp.bfloat16), 1e-6),
        ((jnp.float16, jnp.float16), 2**-11),
    ],
)
def test_low_precision_rounds_once(dtypes, bound):
    """Sums are float32: results are the float32 ones of the same operands, rounded at the end."""
    x, kernels = (a.astype(d) for a, d in zip(operands((2, 9, 8, 4), 49), dtypes, strict=True))

    @jax.jit
    def pulled(x, kernels, cotangent=None):
        y, pull = jax.vjp(dynamic_filter, x, kernels)
        return y, pull(y if cotangent is None else cotangent)

    y, grads = pulled(x, kernels)
    wide, wanted = pulled(*(a.astype(jnp.float32) for a in (x, kernels, y)))
    assert y.dtype == x.dtype
    assert [g.dtype for g in grads] == [x.dtype, kernels.dtype]
    errors = [gap(y, wide), *(gap(a, b) for a, b in zip(grads, wanted, strict=True))]
    print("forward, to x, to kernels: " + ", ".join(f"{e:.1e}" for e in errors))
    assert errors[0] <= bound
    assert max(errors[1:]) <= 2**-8


# ---- memory ----------------------------------------------------------------------------------


def largest_array(jaxpr):
    """Scalars in the largest intermediate of a jaxpr, inner jaxprs included."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [v.aval.size for v in equation.outvars if hasattr(v.aval, "size")]
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                sizes.append(largest_array(inner))
    return max(sizes)


def second_order(x, kernels):
    def penalty(x, kernels):
        grads = jax.grad(partial(energy, dynamic_filter), argnums=(0, 1))(x, kernels)
        return sum(jnp.sum(g**2) for g in grads)

    return jax.grad(penalty, argnums=(0, 1))(x, kernels)


def first_order(x, kernels):
    return jax.grad(partial(energy, dynamic_filter), argnums=(0, 1))(x, kernels)


@pytest.mark.parametrize("function", [dynamic_filter, first_order, second_order])
def test_never_holds_the_patches(function):
    x, kernels = operands((1, 130, 128, 30), 49)
    patches = 49 * x.size
    largest = largest_array(jax.make_jaxpr(function)(x, kernels).jaxpr)
    memory = jax.jit(function).lower(x, kernels).compile().memory_analysis()
    share = memory.temp_size_in_bytes / (4 * patches)
    print(f"largest array {largest / patches:.3f}, temporaries {share:.3f} of the patches")
    assert largest <= 0.25 * patches
    # The kernels and their gradient are 1/30 of the patches each.
    assert share <= {dynamic_filter: 0.05, first_order: 0.15, second_order: 0.4}[function]


def test_the_definition_does_hold_the_patches():
    """The yardstick of the test above can fail."""
    x, kernels = operands((1, 16, 16, 30), 49)
    assert largest_array(jax.make_jaxpr(dynamic_filter_reference)(x, kernels).jaxpr) >= 49 * x.size


# ---- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [dynamic_filter, dynamic_filter_reference])
@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((8, 8, 4), (8, 8, 16)), {"kernel_size": 4}, "odd"),
        (((8, 8, 4), (8, 8, 49)), {"kernel_size": -1}, "odd"),
        (((8, 8, 4), (8, 8, 49)), {"dilation": 0}, "dilation"),
        (((8, 8, 4), (8, 8, 50)), {}, "groups"),
        (((8, 8, 4), (8, 8, 0)), {}, "groups"),
        (((8, 8, 4), (8, 8, 147)), {}, "groups"),
        (((8, 8, 4), (8, 8, 49)), {"border": "wrap"}, "border"),
        (((8, 8, 4), (8, 9, 49)), {}, "agree"),
        (((2, 8, 8, 4), (8, 8, 49)), {}, "agree"),
        (((8, 4), (8, 49)), {}, "agree"),
        (((3, 8, 4), (3, 8, 49)), {"border": "reflect"}, "reflect border of 3"),
        (((8, 6, 4), (8, 6, 49)), {"border": "reflect", "dilation": 2}, "reflect border of 6"),
    ],
)
def test_refuses(function, shapes, options, message):
    with as_users_call(), pytest.raises(ValueError, match=message):
        function(*(jnp.zeros(shape) for shape in shapes), **options)


def test_refuses_integers_and_unknown_implementations():
    with as_users_call(), pytest.raises(ValueError, match="floating"):
        dynamic_filter(jnp.zeros((8, 8, 4), jnp.uint8), jnp.zeros((8, 8, 49)))
    with pytest.raises(ValueError, match="auto, accumulate, reference"):
        dynamic_filter(jnp.zeros((8, 8, 4)), jnp.zeros((8, 8, 49)), implementation="pallas")
