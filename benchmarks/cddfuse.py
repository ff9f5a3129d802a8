"""CDDFuse on a CPU against PyTorch eager, one pair of 480x640; memory of its training step.

    python benchmarks/cddfuse.py [--model WEIGHTS] [--rounds 3] [--json]
    python benchmarks/cddfuse.py --memory [--remat none,dots,block,row,example] [--batches 1,2,4,8]

The PyTorch side is the same network in plain `torch.nn.functional` with the same weights (the
full-size network, freshly drawn, unless a file is given), timed alone; ours is a whole `Fuser`
call, colour rule and rounding included. Results are compared first. Each side runs in processes of
its own, on the cores this process may use; rounds alternate between the sides, so that other work
on the machine meets both; the ratio of the medians is the result, and that of processor time stands
beside it, which other work disturbs less. Memory is the peak resident set.

--memory runs nothing: it compiles the training step of both phases for crops of 128x128 and
prints what XLA's own analysis says a step holds (arguments, results and temporaries).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks import memory

CROP = 128


def pair(height: int, width: int) -> list[np.ndarray]:
    """A smooth gray and a noisy colour picture, uint8; the content does not matter for speed."""
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 255, width)[None] * np.ones((height, 1))
    return [ramp.astype(np.uint8), random.integers(0, 256, (height, width, 3)).astype(np.uint8)]


def torch_layers(params: dict, border: str) -> SimpleNamespace:
    """Layers of Restormer in plain PyTorch, by name in our flat parameters.

    Args:
        params: ours; kernels are HWIO, or (4, 4, out, in) of transposed convolutions.
        border: "constant" or "reflect", of all convolutions but those of attention.

    Returns:
        ``weights`` in PyTorch's layout, and functions ``conv(x, name, mode, stride)``,
        ``norm(x, name)``, ``attend(x, name)`` and ``feed_forward(x, name)`` of NCHW maps.
    """
    import torch
    from torch.nn import functional as nn

    weights = {}
    for name, value in params.items():
        x = torch.from_numpy(np.array(value))
        weights[name] = x.permute(3, 2, 0, 1).contiguous() if x.ndim == 4 else x

    def conv(x, name, mode=border, stride=1):
        kernel = weights[f"{name}/kernel"]
        pad = kernel.shape[-1] // 2
        if pad and mode != "constant":
            x, pad = nn.pad(x, (pad,) * 4, mode), 0
        groups = x.shape[1] // kernel.shape[1]
        bias = weights.get(f"{name}/bias")
        return nn.conv2d(x, kernel, bias, stride=stride, padding=pad, groups=groups)

    def norm(x, name):
        scale, bias = (weights[f"{name}/{part}"] for part in ("scale", "bias"))
        y = nn.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), scale, bias)
        return y.permute(0, 3, 1, 2)

    def attend(x, name):
        b, c, h, w = x.shape
        qkv = conv(conv(x, f"{name}/qkv/project"), f"{name}/qkv/local", "constant")
        temperature = weights[f"{name}/temperature"].reshape(-1, 1, 1)
        q, k, v = (y.reshape(b, len(temperature), -1, h * w) for y in qkv.chunk(3, 1))
        q, k = nn.normalize(q, dim=-1), nn.normalize(k, dim=-1)
        mixed = (q @ k.transpose(-2, -1) * temperature).softmax(-1) @ v
        return conv(mixed.reshape(b, c, h, w), f"{name}/project")

    def feed_forward(x, name):
        first, second = conv(conv(x, f"{name}/expand"), f"{name}/local").chunk(2, 1)
        return conv(nn.gelu(first) * second, f"{name}/contract")

    return SimpleNamespace(
        weights=weights, conv=conv, norm=norm, attend=attend, feed_forward=feed_forward
    )


def torch_network(params: dict):
    """The network as a function of infrared and visible (1, 1, H, W), from our flat parameters."""
    import torch
    from torch.nn import functional as nn

    layers = torch_layers(params, "constant")
    conv, norm = layers.conv, layers.norm

    def block(x, name):
        x = x + layers.attend(norm(x, f"{name}/norm1"), f"{name}/attention")
        return x + layers.feed_forward(norm(x, f"{name}/norm2"), f"{name}/feed_forward")

    def row(x, name):
        for i in range(4):
            x = block(x, f"{name}/blocks/{i}")
        return x

    def inverted(x, name):
        x = nn.relu6(conv(x, f"{name}/expand"))
        return conv(nn.relu6(conv(x, f"{name}/local", "reflect")), f"{name}/contract")

    def coupling(z, name):
        z1, z2 = conv(z, f"{name}/shuffle").chunk(2, 1)
        z2 = z2 + inverted(z1, f"{name}/phi")
        z1 = z1 * torch.exp(inverted(z2, f"{name}/rho")) + inverted(z2, f"{name}/eta")
        return torch.cat([z1, z2], 1)

    def encode(x):
        shallow = detail = row(conv(x, "encoder/stem"), "encoder")
        for i in range(3):
            detail = coupling(detail, f"encoder/detail/nodes/{i}")
        return block(shallow, "encoder/base"), detail

    def fuse(a, b):
        (base_b, detail_b), (base_a, detail_a) = encode(b), encode(a)
        base = block(base_a + base_b, "base_fusion")
        detail = coupling(detail_a + detail_b, "detail_fusion/nodes/0")
        x = row(conv(torch.cat([base, detail], 1), "decoder/reduce"), "decoder")
        y = conv(nn.leaky_relu(conv(x, "decoder/narrow"), 0.01), "decoder/last")
        return torch.sigmoid(y + b)

    return fuse


def measure(
    side: str,
    weights: str,
    repeats: int,
    target: str,
    size: str,
    *,
    build: Callable = torch_network,
    channels: int = 1,
) -> dict:
    """One process's work: a first call, whose result is kept, then warm ones.

    Args:
        side: "torch" or "jax".
        weights: of the network.
        repeats: warm calls.
        target: file for the first channel of the result.
        size: of the pair, HEIGHTxWIDTH.
        build: makes PyTorch's function of two pictures from our flat parameters.
        channels: that the luminance of both pictures is repeated to.
    """
    from mgdn_jax import image
    from mgdn_jax.io.pixels import to_float

    pictures = pair(*map(int, size.split("x")))
    if side == "torch":
        import torch

        from mgdn_jax.weights.store import load_weights

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        network = build(load_weights(weights).params)
        planes = [image.luminance(to_float(x if x.ndim == 3 else x[..., None])) for x in pictures]
        planes = [np.repeat(p[None, None, ..., 0], channels, 1) for p in planes]
        inputs = [torch.from_numpy(np.array(p)) for p in planes]

        def call():
            with torch.no_grad():
                return network(*inputs).numpy()[0, 0]

        plane = call()
    else:
        import mgdn_jax

        fuser = mgdn_jax.load(weights)

        def call():
            return fuser(*pictures)

        call()
    seconds, work = [], []
    for _ in range(repeats):
        started = time.perf_counter(), time.process_time()
        call()
        seconds.append(time.perf_counter() - started[0])
        work.append(time.process_time() - started[1])
    peak = memory.peak_megabytes()
    if side == "jax":  # after the peak was read: floats, not rounded to levels
        planes = [np.asarray(image.luminance(to_float(np.atleast_3d(x)))) for x in pictures]
        planes = [np.repeat(p[None], channels, -1) for p in planes]
        plane = np.asarray(fuser.network(*planes))[0, ..., 0]
    np.save(target, plane)
    return {"seconds": seconds, "cpu_seconds": work, "peak_mb": peak}


def speed(
    options: argparse.Namespace,
    script: str = __file__,
    drawn: tuple[str, str] = ("cddfuse", "ivf"),
) -> dict:
    """Both sides in turns; ratios, peaks, and how far the results lie apart.

    Args:
        options: of the command line.
        script: what runs a side.
        drawn: system and preset of a network that is freshly drawn.
    """
    seconds: dict[str, list[float]] = {"jax": [], "torch": []}
    work: dict[str, list[float]] = {"jax": [], "torch": []}
    peaks = dict.fromkeys(seconds, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        weights = options.model
        if weights is None:
            from mgdn_jax.systems import registry
            from mgdn_jax.weights.store import save_weights

            config, _, params, _ = registry.create(*drawn)
            weights = f"{folder}/drawn.safetensors"
            save_weights(weights, system=drawn[0], config=config.to_dict(), params=params)
        targets = {side: f"{folder}/{side}.npy" for side in seconds}
        for _ in range(options.rounds):
            for side, target in targets.items():
                command = [sys.executable, script, "--model", weights, "--side", side]
                command += ["--repeats", str(options.repeats), "--target", target]
                command += ["--size", options.size]
                ran = subprocess.run(command, check=True, capture_output=True, text=True)
                report = json.loads(ran.stdout)
                seconds[side] += report["seconds"]
                work[side] += report["cpu_seconds"]
                peaks[side] = max(peaks[side], report["peak_mb"])
        ours, theirs = (np.load(target) for target in targets.values())
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    fastest = {side: min(values) for side, values in seconds.items()}
    worked = {side: statistics.median(values) for side, values in work.items()}
    return {
        "difference": float(np.abs(ours - theirs).max()),
        "largest": float(np.abs(theirs).max()),
        "torch_over_jax": medians["torch"] / medians["jax"],
        "torch_over_jax_fastest": fastest["torch"] / fastest["jax"],
        "torch_over_jax_cpu": worked["torch"] / worked["jax"],
        "median_s": medians,
        "fastest_s": fastest,
        "median_cpu_s": worked,
        "peak_mb": peaks,
        "load_before": os.getloadavg()[0],
    }


def step_memory(remat: str, phase: str, batch: int) -> float:
    """Bytes that a training step of the default network holds, by XLA's analysis; runs nothing."""
    import jax
    import jax.numpy as jnp

    from mgdn_jax.systems.cddfuse.recipe import Recipe
    from mgdn_jax.training import optimisers
    from mgdn_jax.training.state import init_state
    from mgdn_jax.training.step import make_train_step

    recipe = Recipe({"preset": "ivf", "remat": remat})
    adam = {
        name: optimisers.make_optimiser("adam", 1e-4, clip_norm=0.01, clip_offset=1e-6)
        for name in recipe.networks
    }

    def start(key):
        params, stats = recipe.init(key)
        return init_state(params, stats, adam, ema=False)

    state = jax.eval_shape(start, jax.random.key(0))
    image = jax.ShapeDtypeStruct((batch, CROP, CROP, 1), jnp.float32)
    fed = {"a": image, "b": image, "_index": jax.ShapeDtypeStruct((batch,), jnp.uint32)}
    (trains,) = (p.trains for p in recipe.phases if p.name == phase)
    step = make_train_step(recipe.loss, adam, seed=0, phase=phase, trains=trains)
    # Machine code is not needed: buffers are planned before it is made.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    compiled = jax.jit(step, donate_argnums=0).lower(state, fed).compile(quick)
    sizes = compiled.memory_analysis()
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return held + sizes.temp_size_in_bytes


def training(options: argparse.Namespace) -> None:
    """Prints a Markdown table, or JSON, in GB (1e9 bytes)."""
    batches = [int(n) for n in options.batches.split(",")]
    rows: list[dict] = []
    for remat in options.remat.split(","):
        for phase in ("reconstruction", "fusion"):
            held = {}
            for batch in batches:
                held[batch] = step_memory(remat, phase, batch) / 1e9
                print(f"{remat}, {phase}, batch {batch}: {held[batch]:.3f} GB", file=sys.stderr)
            rows.append({"remat": remat, "phase": phase, "gb": held})
    if options.json:
        print(json.dumps(rows))
        return
    print("| remat | phase |" + "".join(f" batch {n} |" for n in batches))
    print("|---|---|" + "---|" * len(batches))
    for row in rows:
        cells = "".join(f" {row['gb'][n]:.2f} |" for n in batches)
        print(f"| `{row['remat']}` | {row['phase']} |{cells}")


def main() -> None:
    """Prints the ratio and both peaks, or the memory of training; or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="weights of a full-size CDDFuse (default: freshly drawn)")
    parser.add_argument("--size", default="480x640", help="of the pair: HEIGHTxWIDTH")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory", action="store_true", help="memory of the training step instead")
    parser.add_argument(
        "--remat", default="none,dots,block,row,example", help="policies, for --memory"
    )
    parser.add_argument("--batches", default="1,2,4,8", help="batch sizes, for --memory")
    parser.add_argument("--side", choices=("jax", "torch"), help=argparse.SUPPRESS)
    parser.add_argument("--target", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        found = measure(options.side, options.model, options.repeats, options.target, options.size)
        print(json.dumps(found))
        return
    if options.memory:
        training(options)
        return
    show(speed(options), options.json)


def show(report: dict, as_json: bool) -> None:
    """Prints what `speed` measured."""
    if as_json:
        print(json.dumps(report))
        return
    print(f"results of up to {report['largest']:.3g} differ by {report['difference']:.1e} at most")
    print(f"speed, PyTorch time over ours: {report['torch_over_jax']:.2f} (medians), "
          f"{report['torch_over_jax_fastest']:.2f} (fastest), "
          f"{report['torch_over_jax_cpu']:.2f} (processor time)")  # fmt: skip
    peaks = report["peak_mb"]
    print(f"peak memory: ours {peaks['jax']:.0f} MB, PyTorch {peaks['torch']:.0f} MB")


if __name__ == "__main__":
    main()
