"""`mgdn export`: a network as a program that runs without this package."""

from __future__ import annotations

import argparse
from typing import Any

from mgdn_jax.cli.measures import add_trust
from mgdn_jax.errors import InputError


def add_export(commands) -> None:
    """`mgdn export`."""
    command = commands.add_parser(
        "export",
        help="write a network as a program that runs without this package",
        description="Writes NAME.jax or NAME.onnx, NAME.json, which says what the program takes "
        "and what it leaves to its user, and NAME.check.npz, a made pair with the result that is "
        "expected. With --check and the NAME.json of an exported network in place of a network, "
        "that one is run on its pair.",
    )
    command.add_argument("model", metavar="NAME|FILE", help="see mgdn models, or a weight file")
    command.add_argument("-o", "--output", metavar="DIR", help="folder of the files")
    command.add_argument(
        "--format",
        choices=("jax", "onnx"),
        help="jax: runs with jax and flatbuffers (usual); onnx: in onnxruntime, slower",
    )
    command.add_argument(
        "--size",
        metavar="HxW|any",
        help="rows and columns of the pictures, 256x320; any: whatever comes (usual)",
    )
    command.add_argument(
        "--batch", type=int, metavar="N", help="pictures at once, of one --size (1)"
    )
    command.add_argument(
        "--platforms",
        metavar="LIST",
        help="what a jax program is for, of cpu, cuda, rocm, tpu (cpu,cuda,tpu)",
    )
    command.add_argument(
        "--check",
        action="store_true",
        help="run the program on its pair; code 1 if the result is not what is expected",
    )
    add_trust(command)
    command.add_argument("--json", action="store_true", help="one JSON object on stdout")
    command.set_defaults(run="export:export")


def export(arguments: argparse.Namespace) -> int:
    """Exports a network, or checks one that was exported.

    Args:
        arguments: as `cli.main.build_parser` parses them.

    Returns:
        0; 1 where a check failed.

    Raises:
        InputError: nothing could be done.
    """
    choices = {
        name: value
        for name in ("format", "size", "batch", "platforms", "system")
        if (value := vars(arguments)[name]) is not None
    }
    if arguments.output is None:
        if not arguments.check:
            raise InputError("there is no place for the files; name a folder with -o.")
        if choices:
            option = next(iter(choices))
            raise InputError(f"--{option} is about a new export; name its folder with -o.")
        return _checked(arguments.model, {}, is_json=arguments.json)
    from mgdn_jax.cli import progress
    from mgdn_jax.serving.export import export as write

    with progress.waiting("exporting", is_silent=arguments.json):
        files = write(arguments.model, arguments.output, trust=arguments.trust_system, **choices)
    done = {
        "artefact": str(files.artefact),
        "about": str(files.about),
        "check": str(files.check),
        "bytes": files.description["artefact"]["bytes"],
    }
    if not arguments.json:
        _tell(files.description, done)
    if arguments.check:
        return _checked(done["about"], done, is_json=arguments.json)
    if arguments.json:
        from mgdn_jax.cli.output import print_json

        print_json(done)
    return 0


def _tell(about: dict[str, Any], done: dict[str, Any]) -> None:
    from mgdn_jax.cli.output import tell

    size = about["size"]
    sides = "any size" if size["height"] == "any" else f"{size['height']}x{size['width']}"
    inputs = ", ".join(f"{x['role']} ({x['channels']})" for x in about["inputs"])
    targets = f", for {', '.join(about['platforms'])}" if about["platforms"] else ""
    tell(f"inputs    {inputs}")
    tell(f"artefact  {done['artefact']}, {done['bytes'] / 1e6:.2f} MB, {sides}{targets}")
    tell(f"about     {done['about']}")


def _checked(about: str, done: dict[str, Any], *, is_json: bool) -> int:
    """Runs a check, says what came of it, and returns the exit code."""
    from mgdn_jax.cli import progress
    from mgdn_jax.cli.output import print_json, tell
    from mgdn_jax.serving import checks

    with progress.waiting("checking", is_silent=is_json):
        result = checks.run(about)
    if is_json:
        print_json({**done, "result": result})
    else:
        verdict = "as expected" if result["passed"] else "NOT as expected"
        tell(
            f"check     {verdict}: largest difference of {result['output']}"
            f" {result['difference']:.1e},"
            f" {result['tolerance']:.0e} allowed"
        )
    return 0 if result["passed"] else 1
