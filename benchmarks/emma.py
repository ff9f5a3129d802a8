"""EMMA's U-Fuser on a CPU against PyTorch eager, one pair of 480x640.

    python benchmarks/emma.py [--model WEIGHTS] [--rounds 3] [--json]

How both are measured is that of benchmarks/cddfuse.py: the same network in plain
`torch.nn.functional` with the same weights (of the published size, freshly drawn, unless a file is
given), timed alone, against a whole `Fuser` call of ours; processes of their own, in turns.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks import cddfuse


def torch_network(params: dict):
    """The network as a function of infrared and visible (1, 1, H, W), from our flat parameters."""
    import torch
    from torch.nn import functional as nn

    layers = cddfuse.torch_layers(params, "reflect")
    conv, norm, weights = layers.conv, layers.norm, layers.weights

    def block(x, name):
        x = whole = conv(x, f"{name}/embed")
        whole = whole + layers.attend(norm(whole, f"{name}/whole/norm1"), f"{name}/whole/attention")
        mixed = norm(whole, f"{name}/whole/norm2")
        whole = whole + layers.feed_forward(mixed, f"{name}/whole/feed_forward")
        for i in range(2):
            inner = nn.relu(conv(x, f"{name}/local/{i}/first"))
            x = x + conv(inner, f"{name}/local/{i}/second")
        return conv(torch.cat([whole, x], 1), f"{name}/join")

    def encode(x, name):
        features = []
        for scale in range(4):
            if scale:
                x = conv(x, f"{name}/down/{scale - 1}/conv", stride=2)
            x = block(x, f"{name}/blocks/{scale}")
            features.append(x)
        return features

    def double(x, name):
        # Stored (4, 4, out, in), so that the layout above is already PyTorch's.
        return nn.relu(nn.conv_transpose2d(x, weights[f"{name}/kernel"], stride=2, padding=1))

    def fuse(a, b):
        pairs = zip(encode(a, "infrared"), encode(b, "visible"), strict=True)
        fused = [block(torch.cat(pair, 1), f"fusion/{s}") for s, pair in enumerate(pairs)]
        x = block(fused[3], "decoder/0")
        for step in range(1, 4):
            x = torch.cat([double(x, f"up/{step - 1}"), fused[3 - step]], 1)
            x = block(x, f"decoder/{step}")
        return torch.sigmoid(conv(x, "last"))

    return fuse


def main() -> None:
    """Prints the ratio and both peaks, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="weights of the published size (default: freshly drawn)")
    parser.add_argument("--size", default="480x640", help="of the pair: HEIGHTxWIDTH, both even")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=("jax", "torch"), help=argparse.SUPPRESS)
    parser.add_argument("--target", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        found = cddfuse.measure(
            *(options.side, options.model, options.repeats, options.target, options.size),
            build=torch_network,
        )
        print(json.dumps(found))
        return
    cddfuse.show(cddfuse.speed(options, __file__, ("emma", "ivf")), options.json)


if __name__ == "__main__":
    main()
