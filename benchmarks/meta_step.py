"""One K = 1 meta pair of ReFusion (form R) on a CPU against plain PyTorch; compile time; memory.

    python benchmarks/meta_step.py [--part pair|memory] [--rounds 9] [--remat example] [--devices 2]

pair: the meta-gradient of P with the temporary step of R, default networks, 4 + 4 examples of
64x64, ours against PyTorch with `create_graph=True` from the same parameters; values are compared
first, then the sides are timed in turns and the ratio of the medians is the result. Ours is timed
twice: jitted for one JAX device with the threads that XLA takes, and mapped over `--devices` parts
of the CPU (1, 2 or 4; by default one a core), as `train.py --cpu_devices` trains.
The time to trace and compile is printed, too. memory: the compiler's count of temporaries at K = 2
and K = 8. `--remat` is `model.remat` of all three networks; configs/refusion.py leaves it at "row".
"""

import argparse
import functools
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from mgdn_jax import bilevel
from mgdn_jax.layers import functional
from mgdn_jax.systems.refusion.recipe import Recipe
from mgdn_jax.training import processes

RATE, SIDE, BATCH = 1e-2, 64, 4
FLOOR = 1e-3


def problem(steps: int, remat: str, axis_name: str | None = None):
    """Our meta-gradient as a function, its arguments, and the recipe."""
    import optax

    model = {"remat": remat}
    recipe = Recipe(model=model, swap=False, norm_floor=FLOOR, black=0.0, inner_steps=steps)
    sgd = optax.sgd(RATE)

    def inner_loss(theta, maps, batch):
        value, (fused, *_) = recipe.inner_loss(theta, {}, maps, batch, 1.0)
        return value, fused

    def outer_loss(theta, phi, batch, psi):
        del phi
        return recipe.outer_loss(psi, recipe.adapted(theta, {}, batch), batch)

    meta = bilevel.meta_gradient(
        inner_loss, outer_loss, optimiser=sgd, steps=steps, mode=recipe.meta.mode,
        propose=recipe.propose, inner_has_aux=True, axis_name=axis_name,
        auxiliary=bilevel.Auxiliary(recipe.auxiliary_loss, sgd, from_aux=True),
    )  # fmt: skip

    def run(theta, phi, psi, train, test):
        return meta(phi, theta, train, test, psi=psi)[:2]

    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name.endswith("kernel"):
            scale = 1 / np.sqrt(np.prod(leaf.shape[:-1]))
            return jnp.asarray(rng.uniform(-scale, scale, leaf.shape), jnp.float32)
        return jnp.full(leaf.shape, 0.25 if "slope" in name else float("bias" not in name))

    shapes, _ = jax.eval_shape(recipe.init, jax.random.key(0))
    params = jax.tree_util.tree_map_with_path(draw, shapes)
    batches = [
        {name: jnp.asarray(rng.random((BATCH, SIDE, SIDE, 1), np.float32)) for name in "ab"}
        for _ in range(2)
    ]
    networks = (params[name] for name in ("fusion", "proposal", "reconstruction"))
    return run, (*networks, *batches)


# ---- the same in plain PyTorch -------------------------------------------------------------------


def torch_pair(theta, phi, psi, train, test):
    """A function without arguments: (outer loss, gradient to phi by name), as NumPy."""
    import torch
    from torch.nn import functional as nn

    def moved(params):
        out = {}
        for name, value in params.items():
            x = torch.from_numpy(np.array(value))
            x = x.permute(3, 2, 0, 1).contiguous() if x.ndim == 4 else x
            out[name] = x.requires_grad_()
        return out

    theta, phi, psi = moved(theta), moved(phi), moved(psi)
    train, test = (
        {k: torch.from_numpy(np.array(v)).permute(0, 3, 1, 2).contiguous() for k, v in b.items()}
        for b in (train, test)
    )
    sobel_x = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])[None, None]
    sobel_y = torch.tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]])[None, None]

    def conv(p, x, name):
        kernel = p[f"{name}/kernel"]
        groups = x.shape[1] if kernel.shape[1] == 1 and kernel.shape[0] == x.shape[1] else 1
        return nn.conv2d(x, kernel, padding=kernel.shape[-1] // 2, groups=groups)

    def norm(p, x, name):
        x = x.permute(0, 2, 3, 1)
        x = nn.layer_norm(x, (x.shape[-1],), p[f"{name}/scale"], p[f"{name}/bias"], 1e-5)
        return x.permute(0, 3, 1, 2)

    def qkv(p, x, name):
        return conv(p, conv(p, x, f"{name}/qkv/project"), f"{name}/qkv/local").chunk(3, 1)

    def attend(p, q, k, v, name):
        b, c, h, w = v.shape
        q, k, v = (x.reshape(b, 8, c // 8, h * w) for x in (q, k, v))
        q, k = (nn.normalize(x, dim=-1, eps=FLOOR) for x in (q, k))
        weights = (q @ k.transpose(-2, -1) * p[f"{name}/temperature"].reshape(8, 1, 1)).softmax(-1)
        return conv(p, (weights @ v).reshape(b, c, h, w), f"{name}/project")

    def block(p, x, name):
        y = norm(p, x, f"{name}/norm1")
        x = x + attend(p, *qkv(p, y, f"{name}/attention"), f"{name}/attention")
        y = conv(p, norm(p, x, f"{name}/norm2"), f"{name}/feed_forward/expand")
        u1, u2 = conv(p, y, f"{name}/feed_forward/local").chunk(2, 1)
        return x + conv(p, nn.gelu(u1) * u2, f"{name}/feed_forward/contract")

    def encoded(p, x, i, prefix=""):
        x = conv(p, x, f"{prefix}stems/{i}")
        for j in (0, 1):
            x = block(p, x, f"{prefix}encoders/{i}/{j}")
        return x

    def fuse(p, batch):
        xs = [encoded(p, batch[k], i) for i, k in enumerate("ab")]
        parts = [qkv(p, x, f"fusion/attentions/{i}") for i, x in enumerate(xs)]
        for i in (0, 1):
            q, (_, k, v) = parts[1 - i][0], parts[i]
            xs[i] = xs[i] + attend(p, q, k, v, f"fusion/attentions/{i}")
        y = z = torch.cat(xs, 1)
        gates = conv(p, conv(p, z, "fusion/gates"), "fusion/gates_local").chunk(2, 1)
        for i in (0, 1):
            value = conv(p, conv(p, xs[i], f"fusion/values/{i}"), f"fusion/values_local/{i}")
            y = y + conv(p, nn.gelu(gates[i]) * value, f"fusion/outs/{i}")
        for j in (0, 1):
            y = block(p, y, f"decoder/{j}")
        return torch.sigmoid(conv(p, nn.leaky_relu(conv(p, y, "reduce"), 0.01), "last"))

    def propose(p, a, b, prefix):
        y = torch.cat([encoded(p, x, i, prefix) for i, x in enumerate((a, b))], 1)
        for j in (0, 1):
            y = block(p, y, f"{prefix}joint/{j}")
        y = nn.prelu(conv(p, y, f"{prefix}reduce"), p[f"{prefix}slope"])
        return conv(p, y, f"{prefix}last").softmax(1)

    def strength(x):
        return nn.conv2d(x, sobel_x, padding=1).abs() + nn.conv2d(x, sobel_y, padding=1).abs()

    def weighted(w, a, b, f):
        return (w[:, :1] * (a - f)).square().mean() + (w[:, 1:] * (b - f)).square().mean()

    def inner_loss(theta, phi, batch):
        a, b, f = batch["a"], batch["b"], fuse(theta, batch)
        sa, sb = strength(a), strength(b)
        w, v = propose(phi, a, b, "intensity/"), propose(phi, sa, sb, "gradient/")
        return weighted(w, a, b, f) + weighted(v, sa, sb, strength(f))

    def rebuild(p, f):
        out = []
        for i in (0, 1):
            y = nn.leaky_relu(conv(p, encoded(p, f, i), f"reduce/{i}"), 0.01)
            out.append(torch.sigmoid(conv(p, y, f"last/{i}")))
        return out

    def reconstruction_loss(psi, f, batch):
        rebuilt, loss = rebuild(psi, f), 0.0
        for look in (lambda x: x, strength):
            gaps = [(look(batch[k]) - look(r)).abs() for k, r in zip("ab", rebuilt, strict=True)]
            loss = loss + torch.maximum(*gaps).square().mean()
        return loss

    def call():
        names = list(theta)
        loss = inner_loss(theta, phi, train)
        grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        fast = {n: theta[n] - RATE * g for n, g in zip(names, grads, strict=True)}
        with torch.no_grad():
            fused = fuse(theta, train)
        own = torch.autograd.grad(reconstruction_loss(psi, fused, train), list(psi.values()))
        fitted = {n: (x - RATE * g).detach() for (n, x), g in zip(psi.items(), own, strict=True)}
        outer = reconstruction_loss(fitted, fuse(fast, test), test)
        g = torch.autograd.grad(outer, list(phi.values()))
        return outer.detach().numpy(), {
            n: (x.permute(2, 3, 1, 0) if x.ndim == 4 else x).numpy()
            for n, x in zip(phi, g, strict=True)
        }

    return call


# ---- measuring -----------------------------------------------------------------------------------


def mapped(run, arguments, devices: int):
    """`run` over several devices, and arguments for it: (function, arguments)."""
    theta, phi, psi, *batches = arguments
    place = jax.pmap(lambda tree: tree)

    def repeated(x):
        return jnp.stack([x] * devices)

    def shared(x):
        return x.reshape(devices, x.shape[0] // devices, *x.shape[1:])

    networks = place(jax.tree.map(repeated, (theta, phi, psi)))
    return jax.pmap(run, axis_name="devices"), (*networks, *place(jax.tree.map(shared, batches)))


def pair(rounds: int, remat: str, devices: int) -> None:
    """Values, then times in turns."""
    import torch

    run, arguments = problem(1, remat)
    theirs = torch_pair(*arguments)
    other, h = theirs()
    scale = max(np.abs(x).max() for x in h.values())
    sides = {"ours, 1 device": (jax.jit(run), arguments)}
    if devices > 1:
        several = problem(1, remat, "devices")[0]
        sides[f"ours, {devices} devices"] = mapped(several, arguments, devices)
    calls = {"torch": theirs}
    for name, (function, given) in sides.items():
        start, cpu = time.perf_counter(), time.process_time()
        lowered = function.lower(*given)
        traced = time.perf_counter()
        compiled = lowered.compile()
        end, cpu = time.perf_counter(), time.process_time() - cpu
        print(
            f"{name}: traced in {traced - start:.1f} s, compiled in {end - traced:.1f} s,"
            f" {cpu:.1f} s of CPU"
        )
        value, g = jax.tree.map(np.asarray, compiled(*given))
        if value.ndim:
            value, g = value[0], {n: x[0] for n, x in g.items()}
        worst = max(float(np.abs(g[n] - x).max()) for n, x in h.items()) / scale
        off = abs(float(value) / float(other) - 1)
        print(f"outer loss differs by {off:.1e}, meta-gradient by {worst:.1e} of max|g|")
        assert off < 1e-3
        assert worst < 1e-3
        calls[name] = functools.partial(compiled, *given)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    print(f"{torch.get_num_threads()} threads, medians of {rounds}: {medians}")
    for name in sides:
        ratios = sorted(t / o for t, o in zip(seconds["torch"], seconds[name], strict=True))
        print(
            f"PyTorch / {name}: {medians['torch'] / medians[name]:.2f}"
            f" (round by round {ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def memory(remat: str) -> None:
    """Temporaries at K = 2 and 8; inner steps are a loop, so the program is equally long."""
    sizes = {}
    for steps in (2, 8):
        run, arguments = problem(steps, remat)
        # The code itself is not optimised: that takes minutes and moves no buffer.
        quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
        compiled = jax.jit(run).lower(*arguments).compile(quick)
        sizes[steps] = compiled.memory_analysis().temp_size_in_bytes
        print(f"K = {steps}: {sizes[steps] / 2**20:.0f} MiB", flush=True)
    print(f"K = 8 / K = 2: {sizes[8] / sizes[2]:.2f}")


def main() -> None:
    """Runs one part or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("pair", "memory"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--devices", type=int, choices=(1, 2, 4), help="parts of the CPU")
    parser.add_argument("--remat", default="example", choices=functional.REMATS)
    told = parser.parse_args()
    devices = told.devices or max(n for n in (1, 2, 4) if n <= (os.cpu_count() or 1))
    processes.split_cpu(devices)
    if told.part in (None, "pair"):
        pair(told.rounds, told.remat, devices)
    if told.part in (None, "memory"):
        memory(told.remat)


if __name__ == "__main__":
    main()
