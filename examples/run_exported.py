"""Run an exported network without mgdn_jax: `mgdn export NAME -o DIR` wrote it.

    pip install jax flatbuffers numpy pillow        # for NAME.jax
    pip install onnxruntime numpy pillow            # for NAME.onnx
    python run_exported.py DIR/NAME.json --check
    python run_exported.py DIR/NAME.json near.jpg far.jpg -o fused.png

NAME.json says what the program takes and what is left to whoever runs it; what this file does with
colour and range is what it says there. Copy this file into your own program and change it.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

LUMA = np.array((0.299, 0.587, 0.114), np.float32)


class Network:
    """An exported network: float32 arrays (B, H, W, C) in, arrays by name out."""

    def __init__(self, about):
        about = Path(about)
        self.about = json.loads(about.read_text())
        self.folder = about.parent
        self.inputs = [entry["name"] for entry in self.about["inputs"]]
        self.outputs = [entry["name"] for entry in self.about["outputs"]]
        path = self.folder / self.about["artefact"]["file"]
        self.platform = "cpu"
        if self.about["kind"] == "jax":
            import jax
            from jax import export

            program = export.deserialize(bytearray(path.read_bytes()))
            self.run = jax.jit(program.call)  # compiled once for each size
            self.platform = jax.default_backend()
        else:
            import onnxruntime

            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            self.run = lambda *arrays: session.run(
                None, dict(zip(self.inputs, arrays, strict=True))
            )

    def __call__(self, *arrays):
        """Outputs by name."""
        arrays = [np.asarray(x, np.float32) for x in arrays]
        for key, place in (("batch", 0), ("height", 1), ("width", 2)):
            wanted = self.about["size"][key]
            if wanted not in ("any", arrays[0].shape[place]):
                sys.exit(f"the program takes a {key} of {wanted}, not {arrays[0].shape[place]}")
        return dict(zip(self.outputs, map(np.asarray, self.run(*arrays)), strict=True))

    def check(self):
        """(name, largest difference to what is expected, what is allowed) of each output."""
        check = self.about["check"]
        with np.load(self.folder / check["file"]) as file:
            results = self(*(file[name] for name in self.inputs))
            step = check["step"]
            place = "cpu" if self.platform == "cpu" else "elsewhere"
            return [
                (
                    name,
                    float(np.abs(results[name][:, ::step, ::step] - file[name]).max()),
                    check["tolerance"][name][place],
                )
                for name in self.outputs
            ]

    def fuse(self, *pictures):
        """Fuses pictures (H, W, 1 or 3) in [0, 1] of one size; the result is in [0, 1]."""
        space = self.about["colour"]["space"]
        if space == "none":
            sys.exit("this network takes no pictures: see `inputs` and `outside` in its json")
        has_colour = any(x.shape[-1] == 3 for x in pictures)
        if space == "rgb":
            arrays = [np.broadcast_to(x, (*x.shape[:2], 3)) for x in pictures]
            fused = self(*(x[None] for x in arrays))["fused"][0]
            fused = self.stretched(fused)
            return fused if has_colour else fused @ LUMA[:, None]
        arrays = [x if x.shape[-1] == 1 else x @ LUMA[:, None] for x in pictures]
        fused = self.stretched(self(*(x[None] for x in arrays))["fused"][0])
        if not has_colour:
            return fused
        planes = [chroma(x) for x in pictures if x.shape[-1] == 3]
        mixed = planes[0] if len(planes) == 1 else mixture(*planes)
        return rgb(fused, mixed)

    def stretched(self, fused):
        """The range of the result, as the network's card has it."""
        name = self.about["stretch"]["name"]
        if name == "fill":
            fused = np.clip(fused, 0, 1)
        low, high = (0.0, 1.0) if name == "none" else (fused.min(), fused.max())
        if name == "robust":
            low, high = np.percentile(fused, (0.1, 99.9))
        return (fused - low) / (high - low) if high > low else fused


def chroma(picture):
    """Cb and Cr, 0.5 where neutral (BT.601, full range)."""
    y = picture @ LUMA[:, None]
    blue, red = (picture[..., 2:] - y) / 1.772, (picture[..., :1] - y) / 1.402
    return 0.5 + np.concatenate([blue, red], -1)


def mixture(first, second):
    """Chroma of two pictures, each weighted by its distance from neutral."""
    w1, w2 = np.abs(first - 0.5), np.abs(second - 0.5)
    total = w1 + w2
    return np.where(total > 0, (w1 * first + w2 * second) / np.where(total > 0, total, 1), 0.5)


def rgb(y, planes):
    """A picture of its luminance and chroma."""
    r, b = y + 1.402 * (planes[..., 1:] - 0.5), y + 1.772 * (planes[..., :1] - 0.5)
    g = (y - LUMA[0] * r - LUMA[2] * b) / LUMA[1]
    return np.concatenate([r, g, b], -1)


def read(path):
    """A picture file as (H, W, 1 or 3) in [0, 1]."""
    picture = Image.open(path)
    pixels = np.asarray(picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB"))
    pixels = pixels.reshape(*pixels.shape[:2], -1).astype(np.float32) / 255
    return pixels[..., :1] if (pixels == pixels[..., :1]).all() else pixels


def main():
    """Reads the arguments; returns the exit code."""
    parser = argparse.ArgumentParser(description="Run an exported network.")
    parser.add_argument("about", help="NAME.json")
    parser.add_argument("pictures", nargs="*", help="in the order of the inputs")
    parser.add_argument("-o", "--output", default="fused.png")
    parser.add_argument("--check", action="store_true", help="run the check pair")
    arguments = parser.parse_args()
    network = Network(arguments.about)
    if arguments.check:
        checked = network.check()
        for name, worst, allowed in checked:
            print(f"{name}: largest difference {worst:.1e}, {allowed:.0e} allowed")
        return 0 if all(worst <= allowed for _, worst, allowed in checked) else 1
    if len(arguments.pictures) != len(network.inputs):
        roles = ", ".join(entry["role"] for entry in network.about["inputs"])
        parser.error(f"give {len(network.inputs)} pictures: {roles}")
    fused = network.fuse(*map(read, arguments.pictures))
    pixels = np.clip(np.rint(fused * 255), 0, 255).astype(np.uint8)
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(arguments.output)
    print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
