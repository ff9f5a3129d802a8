"""ReFusion on a CPU against PyTorch eager: one pair of 480x640, each side in processes of its own.

    python benchmarks/refusion.py ReFusion_IVIF.pth [--rounds 3] [--json]

The PyTorch side is the same network in plain `torch.nn.functional`, built here from the published
checkpoint and timed alone; ours is a whole `Fuser` call, colour rule and rounding included. Both
use the cores this process may use. Rounds alternate between the sides, so that other work on the
machine meets both; the ratio of the medians is the result. Memory is the peak resident set.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks import memory

SIZE = (480, 640)


def pair() -> list[np.ndarray]:
    """A smooth gray and a noisy colour picture, uint8; the content does not matter for speed."""
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 255, SIZE[1])[None] * np.ones((SIZE[0], 1))
    return [ramp.astype(np.uint8), random.integers(0, 256, (*SIZE, 3)).astype(np.uint8)]


def torch_network(weights: dict):
    """The fusion network as a function of (1, 2, H, W), from a published state dictionary."""
    import torch
    from torch.nn import functional as nn

    def conv(x, name, groups=1):
        kernel = weights[f"{name}.weight"]
        return nn.conv2d(x, kernel, padding=kernel.shape[-1] // 2, groups=groups)

    def local(x, first, second):
        y = conv(x, first)
        return conv(y, second, groups=y.shape[1])

    def heads(x):
        b, c, h, w = x.shape
        return x.reshape(b, 8, c // 8, h * w)

    def attend(q, k, v, temperature):
        shape = v.shape
        q, k, v = heads(q), heads(k), heads(v)
        q, k = nn.normalize(q, dim=-1), nn.normalize(k, dim=-1)
        scores = (q @ k.transpose(-2, -1) * weights[temperature]).softmax(-1)
        return (scores @ v).reshape(shape)

    def norm(x, name):
        scale, bias = (weights[f"{name}.body.{part}"] for part in ("weight", "bias"))
        y = nn.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), scale, bias)
        return y.permute(0, 3, 1, 2)

    def block(x, name):
        qkv = local(norm(x, f"{name}.norm1"), f"{name}.attn.qkv", f"{name}.attn.qkv_dwconv")
        q, k, v = qkv.chunk(3, 1)
        out = attend(q, k, v, f"{name}.attn.temperature")
        x = x + conv(out, f"{name}.attn.project_out")
        u = local(norm(x, f"{name}.norm2"), f"{name}.ffn.project_in", f"{name}.ffn.dwconv")
        first, second = u.chunk(2, 1)
        return x + conv(nn.gelu(first) * second, f"{name}.ffn.project_out")

    def fuse(x):
        branches = []
        for i in (1, 2):
            y = conv(x[:, i - 1 : i], f"project_in_{i}")
            for j in (0, 1):
                y = block(y, f"encoder{i}.{j}")
            branches.append(y)
        qkv = [
            local(y, f"FM.qkv{i}", f"FM.qkv{i}_dwconv").chunk(3, 1)
            for i, y in enumerate(branches, 1)
        ]
        for i in (0, 1):
            out = attend(qkv[1 - i][0], qkv[i][1], qkv[i][2], f"FM.temperature{i + 1}")
            branches[i] = branches[i] + conv(out, f"FM.project_mid{i + 1}")
        y = z = torch.cat(branches, 1)
        gates = local(z, "FM.project_E", "FM.project_E_d").chunk(2, 1)
        for i in (1, 2):
            value = local(branches[i - 1], f"FM.project_E{i}", f"FM.project_E{i}_d")
            y = y + conv(nn.gelu(gates[i - 1]) * value, f"FM.project_out{i}")
        for j in (0, 1):
            y = block(y, f"decoder.{j}")
        y = nn.leaky_relu(conv(y, "project_out_0"), 0.01)
        return torch.sigmoid(conv(y, "project_out_1"))

    return fuse


def measure(side: str, weights: str, repeats: int) -> dict:
    """One process's work: a first call, then warm ones."""
    from mgdn_jax import image
    from mgdn_jax.io.pixels import to_float

    pictures = pair()
    if side == "torch":
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        state = torch.load(weights, map_location="cpu", weights_only=True)
        network = torch_network(state)
        planes = [image.luminance(to_float(x if x.ndim == 3 else x[..., None])) for x in pictures]
        inputs = torch.from_numpy(np.stack([p[..., 0] for p in planes])[None])

        def call():
            with torch.no_grad():
                return network(inputs).numpy()[0, 0]
    else:
        import mgdn_jax

        fuser = mgdn_jax.load(weights)

        def call():
            return fuser(*pictures)

    call()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    peak = memory.peak_megabytes()
    return {"seconds": seconds, "peak_mb": peak}


def main() -> None:
    """Prints the ratio and both peaks, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="published .pth file of the fusion network")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=("jax", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.checkpoint, options.repeats)))
        return
    import mgdn_jax

    seconds: dict[str, list[float]] = {"jax": [], "torch": []}
    peaks = dict.fromkeys(seconds, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        ours = str(Path(folder) / "ivf.safetensors")
        mgdn_jax.convert(options.checkpoint, ours, system="refusion", preset="ivf")
        for _ in range(options.rounds):
            for side, weights in (("jax", ours), ("torch", options.checkpoint)):
                command = [sys.executable, __file__, weights, "--side", side]
                command += ["--repeats", str(options.repeats)]
                ran = subprocess.run(command, check=True, capture_output=True, text=True)
                report = json.loads(ran.stdout)
                seconds[side] += report["seconds"]
                peaks[side] = max(peaks[side], report["peak_mb"])
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    fastest = {side: min(values) for side, values in seconds.items()}
    report = {
        "torch_over_jax": medians["torch"] / medians["jax"],
        "torch_over_jax_fastest": fastest["torch"] / fastest["jax"],
        "median_s": medians,
        "peak_mb": peaks,
    }
    if options.json:
        print(json.dumps(report))
        return
    print(f"speed, PyTorch time over ours: {report['torch_over_jax']:.2f} (medians), "
          f"{report['torch_over_jax_fastest']:.2f} (fastest)")  # fmt: skip
    print(f"peak memory: ours {peaks['jax']:.0f} MB, PyTorch {peaks['torch']:.0f} MB")


if __name__ == "__main__":
    main()
