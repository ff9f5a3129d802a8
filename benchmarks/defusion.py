"""DeFusion on a CPU against PyTorch eager, one pair of 480x640.

    python benchmarks/defusion.py [--preset b] [--rounds 3] [--json]

The PyTorch side is the same network in plain `torch.nn.functional` with the same weights (freshly
drawn, unless a file is given), border included, timed alone; ours is a whole `Fuser` call, colour
rule and rounding included. How it is measured: `benchmarks/cddfuse.py`, whose functions do it.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import cddfuse

BORDER = 16


def torch_network(params: dict):
    """Form B as a function of two pictures (1, 3, H, W), from our flat parameters."""
    import numpy as np
    import torch
    from torch.nn import functional as nn

    weights = {}
    for name, value in params.items():
        x = torch.from_numpy(np.array(value))
        weights[name] = x.permute(3, 2, 0, 1).contiguous() if x.ndim == 4 else x

    def depth(row):
        found = [re.match(rf"{row}/blocks/(\d+)/", name) for name in weights]
        return 1 + max(int(match[1]) for match in found if match)

    def conv(x, name):
        kernel = weights[f"{name}/kernel"]
        groups = x.shape[1] // kernel.shape[1]
        pad = kernel.shape[-1] // 2
        return nn.conv2d(x, kernel, weights.get(f"{name}/bias"), padding=pad, groups=groups)

    def attend(x, name):
        first, second = nn.relu(conv(x, name)).chunk(2, 1)
        mean = nn.adaptive_avg_pool2d(first + second, 1)
        scores = conv(nn.relu(conv(mean, f"{name}/squeeze")), f"{name}/excite")
        shares = scores.reshape(len(x), 2, -1, 1, 1).softmax(1)
        return shares[:, 0] * first + shares[:, 1] * second

    def block(x, name, stride, smooths):
        y = attend(nn.relu(conv(x, f"{name}/narrow")), f"{name}/attention")
        if smooths:
            y = nn.avg_pool2d(y, 3, stride, 1)
        if stride > 1:
            x = nn.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
        if f"{name}/shortcut/kernel" in weights:
            x = conv(x, f"{name}/shortcut")
        return nn.relu(conv(y, f"{name}/widen") + x)

    def run(x, row, stride=1, smooths=False):
        for i in range(depth(row)):
            first = i == 0
            x = block(x, f"{row}/blocks/{i}", stride if first else 1, smooths and first)
        return x

    def encode(x):
        rows = "parts/encoder/rows"
        maps = [run(nn.relu(conv(x, "parts/encoder/stem")), f"{rows}/0", smooths=True)]
        x = run(nn.max_pool2d(maps[0], 3, 2, 1), f"{rows}/1")
        maps.append(x)
        for i in (2, 3):
            x = run(x, f"{rows}/{i}", 2, True)
            maps.append(x)
        return maps

    def decode(code, skips, maps, name):
        x = code
        for i in range(4):
            if i:
                x = nn.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
                x = nn.interpolate(x, size=maps[3 - i].shape[2:])
            x = run(torch.cat([x, *skips[i]], 1) if skips[i] else x, f"parts/{name}/rows/{i}")
        return x

    def fuse(a, b):
        height, width = a.shape[2:]
        first, second = (encode(nn.pad(x, (BORDER,) * 4, "reflect")) for x in (a, b))
        code = run(torch.cat([first[3], second[3]], 1), "parts/ensembler")
        pairs = [[first[i], second[i]] for i in (3, 2, 1)]
        common = decode(code, [*pairs, []], first, "common")
        alone = [
            decode(code, [[maps[3]], [maps[2]], [maps[1]], []], maps, "unique")
            for maps in (first, second)
        ]
        fused = nn.relu(conv(alone[0] + alone[1] + common, "rule/project"))
        return fused[:, :, BORDER : BORDER + height, BORDER : BORDER + width]

    return fuse


def main() -> None:
    """Prints the ratio and both peaks, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="weights of form B (default: freshly drawn)")
    parser.add_argument("--preset", default="b", help="which network is drawn: b or small")
    parser.add_argument("--size", default="480x640", help="of the pair: HEIGHTxWIDTH")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=("jax", "torch"), help=argparse.SUPPRESS)
    parser.add_argument("--target", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side = options.side, options.model, options.repeats, options.target, options.size
        print(json.dumps(cddfuse.measure(*side, build=torch_network, channels=3)))
        return
    report = cddfuse.speed(options, os.path.abspath(__file__), ("defusion", options.preset))
    cddfuse.show(report, options.json)


if __name__ == "__main__":
    main()
