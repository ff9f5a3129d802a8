"""MGDN's depth and HDR networks on a CPU: whole calls against PyTorch eager.

    python benchmarks/mgdn.py --task gdsr [--rounds 2] [--repeats 2] [--json]
    python benchmarks/mgdn.py --task hdr [--size 1000x1500]

gdsr enlarges a depth map four times beside a photograph of 480x640, in one piece; hdr merges three
exposures of 1000x1500 in tiles of 500x500 that know nothing of each other. Both as published, with
weights drawn at random. The PyTorch side is the same network in plain `torch.nn.functional`, as it
is published: the dynamic filter writes out the patches of all pixels, the kernels once for each
channel, and their products. Ours is a call as users make it (`DepthUpsampler`, `Deghoster`). Both
sides start from the same arrays and end with the same one, preparation included.

First the two networks are compared on a small input, in a process of its own; more than 1e-5 ends
the run. Then each side runs in fresh processes, on the cores that this process may use; rounds
alternate between the sides, so that other work on the machine meets both. The ratio of the medians
is the result, and that of processor time stands beside it, which other work disturbs less. First
calls (ours compile) are apart. Memory is the peak resident set. PyTorch needs about 10 GB for hdr.
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
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks import memory

SIZES = {"gdsr": "480x640", "hdr": "1000x1500"}
SMALL = {"gdsr": (22, 30), "hdr": (20, 27)}
"""What the comparison runs on: sides that networks have to pad."""
TILE = 500
"""Side of the published tiles of hdr."""
TIMES = (1.0, 4.0, 16.0)
"""Of the exposures, relative to the shortest."""
LARGEST = 1e-5
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# -------------------------------------------------------------------------- the plain network


class Plain:
    """MGDN in PyTorch, from our flat parameters; maps are NCHW, in transformer blocks NHWC."""

    def __init__(self, params: dict[str, np.ndarray], config: dict[str, Any]):
        """Takes the weights.

        Args:
            params: flat dictionary, slash path to array.
            config: fields of `mgdn_jax.systems.mgdn.network.Config`; the heads and forms that are
                not published are not known here.
        """
        import torch

        self.torch, self.nn, self.config = torch, torch.nn.functional, config
        self.weights = {}
        for name, value in params.items():
            x = torch.from_numpy(np.array(value, np.float32))
            if x.ndim == 4:
                x = x.permute(3, 2, 0, 1).contiguous()
            elif name.endswith("kernel"):
                x = x.T.contiguous()
            self.weights[name] = x

    def __call__(self, *images: Any) -> Any:
        """Fuses (1, channels, H, W) tensors; returns (1, out_channels, H, W) in (0, 1)."""
        torch, nn, config = self.torch, self.nn, self.config
        height, width = images[0].shape[2:]
        grow = [-n % config["window"] for n in (width, height)]
        images = tuple(nn.pad(x, (0, grow[0], 0, grow[1]), "reflect") for x in images)
        shared = config["guidance"] == "reference"
        stems = [self.conv(x, f"stems/{0 if shared else i}") for i, x in enumerate(images)]
        features = stems
        for i, (depth, heads) in enumerate(zip(config["depths"], config["heads"], strict=True)):
            features = self.stage(features, f"layers/{i}", depth, heads)
        x = nn.leaky_relu(self.conv(torch.cat(features, 1), "body"), 0.2) + stems[config["skip"]]
        return torch.sigmoid(self.conv(x, "last"))[:, :, :height, :width]

    def conv(self, x: Any, name: str, dilation: int = 1) -> Any:
        """Dense or depthwise, by the shape of the kernel."""
        kernel = self.weights[f"{name}/kernel"]
        groups = x.shape[1] // kernel.shape[1]
        pad = dilation * (kernel.shape[-1] // 2)
        bias = self.weights[f"{name}/bias"]
        return self.nn.conv2d(x, kernel, bias, padding=pad, dilation=dilation, groups=groups)

    def linear(self, x: Any, name: str) -> Any:
        """Over the last axis."""
        return self.nn.linear(x, self.weights[f"{name}/kernel"], self.weights.get(f"{name}/bias"))

    def norm(self, x: Any, name: str) -> Any:
        """Layer normalisation over the last axis."""
        scale, bias = (self.weights[f"{name}/{part}"] for part in ("scale", "bias"))
        return self.nn.layer_norm(x, scale.shape, scale, bias)

    def stage(self, features: list[Any], name: str, depth: int, heads: int) -> list[Any]:
        """Guided filters, fusion through transformer blocks, and the way back to each branch."""
        filtered = self.filtered(features, f"{name}/mgdf")
        x = self.conv(self.torch.cat(filtered, 1), f"{name}/merge").permute(0, 2, 3, 1)
        for j in range(depth):
            shift = self.config["window"] // 2 * (j % 2)
            x = self.block(x, f"{name}/blocks/{j}", heads, shift)
        x = self.conv(x.permute(0, 3, 1, 2), f"{name}/dilated", dilation=2)
        return [
            self.conv(self.torch.cat([x, branch], 1), f"{name}/branches/{i}")
            for i, branch in enumerate(filtered)
        ]

    def filtered(self, features: list[Any], name: str) -> list[Any]:
        """Every branch by a kernel for each pixel, but two convolutions for a reference."""
        if self.config["guidance"] == "mutual":
            first, second = features
            directions = [(first, second, first), (second, first, second)]
        else:
            under, middle, over = features
            directions = [(middle, under, under), (middle, over, over)]
        results = []
        for i, (guide, operand, branch) in enumerate(directions):
            x = self.attended(guide, operand, f"{name}/attention")
            for j in range(2):
                x = self.nn.leaky_relu(self.conv(x, f"{name}/predictors/{i}/convs/{j}"), 0.1)
            kernels = self.conv(x, f"{name}/predictors/{i}/out")
            mixed = self.dynamic_filter(branch, kernels)
            results.append(self.nn.leaky_relu(self.conv(mixed, f"{name}/outs/{i}"), 0.1))
        if self.config["guidance"] == "reference":
            for j in range(2):
                middle = self.nn.leaky_relu(self.conv(middle, f"{name}/reference/{j}"), 0.1)
            results.insert(1, middle)
        return results

    def attended(self, guide: Any, operand: Any, name: str) -> Any:
        """Attention across channels, over all pixels."""
        b, c, h, w = guide.shape
        q = self.conv(self.conv(guide, f"{name}/query"), f"{name}/query_local")
        kv = self.conv(self.conv(operand, f"{name}/key_value"), f"{name}/key_value_local")
        temperature = self.weights[f"{name}/temperature"].reshape(-1, 1, 1)
        q, k, v = (x.reshape(b, len(temperature), -1, h * w) for x in (q, *kv.chunk(2, 1)))
        q, k = self.nn.normalize(q, dim=-1), self.nn.normalize(k, dim=-1)
        attention = (q @ k.transpose(-2, -1) * temperature).softmax(-1)
        return self.conv((attention @ v).reshape(b, c, h, w), f"{name}/project")

    def dynamic_filter(self, x: Any, kernels: Any) -> Any:
        """Every pixel by its kernel of 7x7; patches and kernels are written out, as published."""
        b, c, h, w = x.shape
        framed = self.nn.pad(x, (3,) * 4, "replicate")
        patches = self.nn.unfold(framed, 7).reshape(b, c, 49, h, w)
        repeated = kernels[:, None].repeat(1, c, 1, 1, 1)
        return (patches * repeated).sum(2)

    def block(self, x: Any, name: str, heads: int, shift: int) -> Any:
        """Attention in windows, an MLP, and the local context beside both."""
        normal = self.norm(x, f"{name}/norm1")
        rolled = self.torch.roll(normal, (-shift, -shift), (1, 2)) if shift else normal
        out = self.windows(rolled, f"{name}/attention", heads, shift)
        y = x + (self.torch.roll(out, (shift, shift), (1, 2)) if shift else out)
        hidden = self.nn.gelu(self.linear(self.norm(y, f"{name}/norm2"), f"{name}/expand"))
        y = y + self.linear(hidden, f"{name}/contract")
        return y + self.local(normal.permute(0, 3, 1, 2), f"{name}/local").permute(0, 2, 3, 1)

    def windows(self, x: Any, name: str, heads: int, shift: int) -> Any:
        """Self attention inside windows, with a bias by relative position."""
        b, h, w, c = x.shape
        n = self.config["window"]
        x = x.reshape(b, h // n, n, w // n, n, c).transpose(2, 3).reshape(-1, n * n, c)
        qkv = self.linear(x, f"{name}/qkv").reshape(-1, n * n, 3, heads, c // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        bias = self.weights[f"{name}/position_bias"][self.relative_positions()].permute(2, 0, 1)
        logits = (q * (c // heads) ** -0.5) @ k.transpose(-2, -1) + bias
        masks = self.shift_masks(h, w, shift)
        logits = (logits.reshape(b, -1, *logits.shape[1:]) + masks).reshape(logits.shape)
        out = (logits.softmax(-1) @ v).transpose(1, 2).reshape(-1, n * n, c)
        out = self.linear(out, f"{name}/project").reshape(b, h // n, w // n, n, n, c)
        return out.transpose(2, 3).reshape(b, h, w, c)

    def relative_positions(self) -> Any:
        """Row of the bias table for every query and key of a window."""
        n = self.config["window"]
        y, x = np.divmod(np.arange(n * n), n)
        rows, columns = (z[:, None] - z[None] + n - 1 for z in (y, x))
        return self.torch.from_numpy(rows * (2 * n - 1) + columns)

    def shift_masks(self, h: int, w: int, shift: int) -> Any:
        """(1, windows, 1, tokens, tokens): -100 for pairs that the shift brought together.

        As published, they are made anew in every block, also where no shift leaves them all zero.
        """
        torch, n = self.torch, self.config["window"]
        sides = []
        for size in (h, w):
            place = torch.arange(size)
            region = (place >= size - n).int() + (place >= size - shift).int()
            sides.append(region if shift else torch.zeros_like(region))
        labels = 3 * sides[0][:, None] + sides[1][None]
        labels = labels.reshape(h // n, n, w // n, n).transpose(1, 2).reshape(-1, n * n)
        apart = labels[:, :, None] != labels[:, None]
        return torch.where(apart, -100.0, 0.0)[None, :, None]

    def local(self, x: Any, name: str) -> Any:
        """A bottleneck of convolutions under a gate of the means over all pixels."""
        for j in range(3):
            x = self.conv(x, f"{name}/convs/{j}")
        x = self.nn.leaky_relu(x, 0.2)
        gate = self.nn.relu(self.linear(x.mean((2, 3)), f"{name}/squeeze"))
        return x * self.torch.sigmoid(self.linear(gate, f"{name}/excite"))[..., None, None]


# --------------------------------------------------------------------------- weights and data


def draw_weights(path: str, task: str, **fields: Any) -> None:
    """Writes a weight file of a task's published network, whose results are not near gray.

    Args:
        path: of the file.
        task: of `SIZES`.
        **fields: of the network's configuration that are not the preset's.
    """
    from mgdn_jax.quantities.depth import DepthPreparation
    from mgdn_jax.quantities.radiance import RadiancePreparation
    from mgdn_jax.systems import registry
    from mgdn_jax.weights.store import save_weights

    config = registry.preset("mgdn", task, **fields)
    random = np.random.default_rng(0)
    params = {}
    for name, leaf in registry.abstract("mgdn", config)[1].items():
        part = name.rpartition("/")[2]
        if part == "kernel":
            value = random.uniform(-1.5, 1.5, leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        elif part == "temperature":
            value = random.uniform(1, 6, leaf.shape)
        else:
            value = random.normal(float(part == "scale"), 0.1, leaf.shape)
        params[name] = value.astype(np.float32)
    preparation = DepthPreparation(4) if task == "gdsr" else RadiancePreparation()
    card = {"name": f"{task}, drawn", "preparation": preparation.to_dict()}
    save_weights(path, system="mgdn", config=config.to_dict(), params=params, card=card)


def scene(task: str, height: int, width: int) -> tuple[np.ndarray, ...]:
    """What a call starts from; the content does not matter for speed.

    Returns:
        gdsr: the depth map, (height / 4, width / 4) float32 in metres, and the photograph, (height,
        width, 3) uint8. hdr: three exposures, (height, width, 3) float32 in [0, 1].
    """
    random = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = np.stack([np.sin(x / 9), np.sin(y / 7), np.sin((x + y) / 11)], -1) / 2 + 0.5
    if task == "gdsr":
        low = 1 + waves[::4, ::4, 2][: height // 4, : width // 4]
        return low, random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    light = waves * random.uniform(0.02, 1, waves.shape).astype(np.float32)
    return tuple(np.clip(light * time, 0, 1) ** np.float32(1 / 2.2) for time in TIMES)


def plain_depth(network: Plain, low: np.ndarray, rgb: np.ndarray, margin: float) -> np.ndarray:
    """The whole task in PyTorch: (H, W) depth of a small map and a photograph."""
    torch = network.torch
    least, most = float(low.min()), float(low.max())
    least, most = least - margin * (most - least), most + margin * (most - least)
    mean, deviation = (torch.tensor(x).reshape(3, 1, 1) for x in (_MEAN, _DEVIATION))
    guide = torch.from_numpy(rgb).permute(2, 0, 1).to(torch.float32) / 255
    small = (torch.from_numpy(low)[None, None] - least) / (most - least)
    enlarged = network.nn.interpolate(small, rgb.shape[:2], mode="bicubic", align_corners=False)
    with torch.no_grad():
        values = network(((guide - mean) / deviation)[None], enlarged)[0, 0]
    return (values.clamp(0, 1) * (most - least) + least).numpy()


def plain_radiance(network: Plain, exposures: tuple[np.ndarray, ...], tile: int) -> np.ndarray:
    """The whole task in PyTorch: (H, W, 3) radiance of three exposures, tile by tile."""
    torch = network.torch
    height, width = exposures[0].shape[:2]
    result = torch.empty(3, height, width)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            part = np.s_[top : top + tile, left : left + tile]
            inputs = []
            for exposure, time_open in zip(exposures, TIMES, strict=True):
                ldr = torch.from_numpy(exposure[part]).permute(2, 0, 1)
                inputs.append(torch.cat([ldr, ldr**2.2 / time_open])[None])
            with torch.no_grad():
                result[:, *part] = network(*inputs)[0]
    return result.permute(1, 2, 0).numpy()


# ---------------------------------------------------------------------------------- measuring


def call_of(side: str, task: str, weights: str) -> Any:
    """A whole call of one side, as a function of what `scene` gives; the network is loaded."""
    if side == "torch":
        import torch

        from mgdn_jax.weights.store import load_weights

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        stored = load_weights(weights)
        network = Plain(stored.params, stored.config)
        if task == "gdsr":
            margin = stored.card["preparation"]["margin"]
            return lambda low, rgb: plain_depth(network, low, rgb, margin)
        return lambda *exposures: plain_radiance(network, exposures, TILE)
    import mgdn_jax

    if task == "gdsr":
        upsampler = mgdn_jax.DepthUpsampler(weights)
        return lambda low, rgb: upsampler(low, rgb).depth
    deghoster = mgdn_jax.Deghoster(weights)
    return lambda *exposures: deghoster.predict(exposures, TIMES, published_tiles=True)


def compare(weights: str, size: tuple[int, int]) -> float:
    """How far the results of the two networks on (height, width) lie apart, at most."""
    import mgdn_jax

    fuser = mgdn_jax.load(weights)
    network = Plain(fuser.params, fuser.config.to_dict())
    random = np.random.default_rng(2)
    images = [
        random.random((1, *size, channels), np.float32) for channels in fuser.config.in_channels
    ]
    ours = np.asarray(fuser.network(*images))
    with network.torch.no_grad():
        moved = [network.torch.from_numpy(x).permute(0, 3, 1, 2) for x in images]
        plain = network(*moved).permute(0, 2, 3, 1).numpy()
    return float(np.abs(ours - plain).max())


def measure(options: argparse.Namespace) -> dict:
    """One process's work: a first call, whose result is kept, then warm ones."""
    pictures = scene(options.task, *map(int, options.size.split("x")))
    call = call_of(options.side, options.task, options.weights)
    seconds, work = [], []
    result = None
    for _ in range(1 + options.repeats):
        started = time.perf_counter(), time.process_time()
        result = call(*pictures)
        seconds.append(time.perf_counter() - started[0])
        work.append(time.process_time() - started[1])
    peak = memory.peak_megabytes()
    np.save(options.target, result)
    return {
        "first_s": seconds[0], "seconds": seconds[1:], "cpu_seconds": work[1:], "peak_mb": peak,
    }  # fmt: skip


def child(options: argparse.Namespace, side: str, weights: str, target: str) -> Any:
    """The report of a fresh process. This one stays small: children inherit its peak."""
    command = [sys.executable, __file__, "--side", side, "--task", options.task]
    command += ["--size", options.size, "--repeats", str(options.repeats)]
    command += ["--weights", weights, "--target", target]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(ran.stdout)


def speed(options: argparse.Namespace) -> dict:
    """Both sides in turns; ratios, peaks, and how far the results lie apart.

    Raises:
        SystemExit: the networks are not the same.
    """
    reports: dict[str, list[dict]] = {"jax": [], "torch": []}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/drawn.safetensors"
        small = child(options, "both", weights, "")
        print(f"small inputs: results differ by {small:.1e} at most", file=sys.stderr)
        if not small <= LARGEST:
            raise SystemExit(f"more than {LARGEST:.0e}: these are not the same networks.")
        targets = {side: f"{folder}/{side}.npy" for side in reports}
        for _ in range(options.rounds):
            for side, target in targets.items():
                reports[side].append(child(options, side, weights, target))
                print(f"{side}: {reports[side][-1]}", file=sys.stderr)
        ours, plain = (np.load(target) for target in targets.values())

    def over(key: str, fold: Any) -> dict[str, float]:
        """Of each side, all processes together."""
        return {
            side: fold(np.concatenate([np.atleast_1d(x[key]) for x in each]).tolist())
            for side, each in reports.items()
        }

    medians, fastest = over("seconds", statistics.median), over("seconds", min)
    worked, peaks = over("cpu_seconds", statistics.median), over("peak_mb", max)
    return {
        "task": options.task,
        "size": options.size,
        "cores": len(os.sched_getaffinity(0)),
        "difference_small": small,
        "difference": float(np.abs(ours - plain).max()),
        "torch_over_jax": medians["torch"] / medians["jax"],
        "torch_over_jax_fastest": fastest["torch"] / fastest["jax"],
        "torch_over_jax_cpu": worked["torch"] / worked["jax"],
        "jax_over_torch_memory": peaks["jax"] / peaks["torch"],
        "median_s": medians,
        "fastest_s": fastest,
        "first_s": over("first_s", statistics.median),
        "median_cpu_s": worked,
        "peak_mb": peaks,
        "load_before": load,
    }


def main(argv: list[str] | None = None) -> None:
    """Prints ratios, peaks and differences, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=tuple(SIZES), required=True)
    parser.add_argument("--size", help="of the result, HEIGHTxWIDTH (default: the task's own)")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side")
    parser.add_argument("--repeats", type=int, default=2, help="warm calls in each process")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=("jax", "torch", "both"), help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    parser.add_argument("--target", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.size = options.size or SIZES[options.task]
    if options.side == "both":
        draw_weights(options.weights, options.task)
        print(json.dumps(compare(options.weights, SMALL[options.task])))
        return
    if options.side:
        print(json.dumps(measure(options)))
        return
    report = speed(options)
    if options.json:
        print(json.dumps(report))
        return
    print(f"{options.task}, {options.size}: results differ by {report['difference']:.1e} at most")
    print(f"speed, PyTorch time over ours: {report['torch_over_jax']:.2f} (medians), "
          f"{report['torch_over_jax_fastest']:.2f} (fastest), "
          f"{report['torch_over_jax_cpu']:.2f} (processor time)")  # fmt: skip
    medians, first, peaks = (report[key] for key in ("median_s", "first_s", "peak_mb"))
    for side, name in (("jax", "ours"), ("torch", "PyTorch")):
        print(f"{name}: {medians[side]:.1f} s a call, the first {first[side]:.1f} s; peak memory "
              f"{peaks[side]:.0f} MB")  # fmt: skip
    print(f"memory, ours over PyTorch's: {report['jax_over_torch_memory']:.2f}")


if __name__ == "__main__":
    main()
