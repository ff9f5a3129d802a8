"""Arguments of the commands that measure depth and radiance, and of trust in weight files."""

from __future__ import annotations

import argparse

DEPTH_SETS = (
    *("middlebury30", "middlebury2005", "lu6", "nyu", "rgbdd", "metres", "millimetres"),
)  # `evaluation.depth.PROTOCOLS`, which takes a moment to import


def add_trust(command) -> None:
    """Options for weight files whose network is the code of another package."""
    command.add_argument(
        "--trust-system",
        action="store_true",
        help="run the module that a weight file names as its network, where it is none of ours",
    )
    command.add_argument(
        "--system", metavar="MODULE", help="the module to trust, by its dotted name"
    )


def add_eval_depth(commands) -> None:
    """`mgdn eval-depth`."""
    command = commands.add_parser(
        "eval-depth",
        help="score networks that enlarge depth maps",
        description="True depth maps are reduced, enlarged with the photographs beside them, and "
        "compared with themselves, as papers do it. Rules without learning are scored beside the "
        "networks.",
    )
    command.add_argument(
        "--model",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME|FILE",
        help="networks (see mgdn models) or rules: nearest, bilinear, bicubic, bicubic_mgdn, "
        "guided_filter, joint_bilateral",
    )
    add_trust(command)
    command.add_argument(
        "--set",
        required=True,
        choices=DEPTH_SETS,
        help="how it is measured: unit, border and clipping; metres and millimetres are for maps "
        "of yours",
    )
    command.add_argument("--data", required=True, metavar="DIR", help="with rgb/ and depth/")
    command.add_argument(
        "--folders", nargs=2, metavar="SUB", help="the two subfolders, where they are others"
    )
    command.add_argument(
        "--scale", type=int, metavar="N", help="enlargement (that of the first network, else 4)"
    )
    command.add_argument(
        "--no-baselines",
        dest="baselines",
        action="store_false",
        help="score no rules but those that --model names",
    )
    command.add_argument("--csv", metavar="FILE", help="write a row an image and a row of means")
    command.add_argument("--json", action="store_true", help="one JSON object on stdout")
    command.add_argument("--quiet", action="store_true", help="say nothing but errors")
    command.set_defaults(run="eval_depth:evaluate")


def add_eval_hdr(commands) -> None:
    """`mgdn eval-hdr`."""
    command = commands.add_parser(
        "eval-hdr",
        help="score networks that merge exposures of moving scenes",
        description="Brackets are merged and compared with their true radiance, as it is and after "
        "the mu-law. Rules without learning are scored beside the networks.",
    )
    command.add_argument(
        "--model",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME|FILE",
        help="networks (see mgdn models), or rules such as reference_exposure and "
        "reference_or_short_shifted",
    )
    add_trust(command)
    command.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="a folder a scene: three exposures, exposure.txt and HDRImg.hdr",
    )
    command.add_argument(
        "--align",
        action=argparse.BooleanOptionalAction,
        default="shift",
        help="networks get exposures laid on each other by turns as well (extra align), or as they "
        "are; usual are shifts alone, as of mgdn hdr",
    )
    command.add_argument(
        "--no-baselines",
        dest="baselines",
        action="store_false",
        help="score no rules but those that --model names",
    )
    command.add_argument("--csv", metavar="FILE", help="write a row a scene and a row of means")
    command.add_argument(
        "--save", metavar="DIR", help="write METHOD/SCENE.hdr and .png, a picture for the screen"
    )
    command.add_argument("--json", action="store_true", help="one JSON object on stdout")
    command.add_argument("--quiet", action="store_true", help="say nothing but errors")
    command.set_defaults(run="eval_hdr:evaluate")
