"""A network with its weights as one program: of JAX's own format, or of ONNX.

What is exported is the bare network, `Fuser.network`: float32 pictures (B, H, W, C) in, the fused
one out, and where the network weighs its inputs their weights as well. Weights are constants of
the program, in half the space where that loses nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.io import opening
from mgdn_jax.layers import forms, functional
from mgdn_jax.systems import registry

FORMATS = ("jax", "onnx")
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
EXTRAS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "jax": ("export", ("flatbuffers",)),
    "onnx": ("onnx", ("jax2onnx", "onnx", "onnxruntime")),
}
"""Which extra a format needs, and the modules in it."""
OPSET = 20
"""Version of ONNX's operations: onnxruntime 1.17 and later run it."""
_UNIFORM = 64
"""Constants of one value with more numbers than these are not written out."""

Size = tuple[int, int, int]
"""Pictures at once, rows, columns."""
Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""Float32 inputs (B, H, W, C) -> outputs, in the order that the description has."""


def check_extra(kind: str) -> None:
    """Finds out whether the libraries of a format are there.

    Args:
        kind: of `FORMATS`.

    Raises:
        InputError: one is not; the extra is named.
    """
    extra, modules = EXTRAS[kind]
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(
                f"export to {kind} needs {module} ({error}): pip install 'mgdn-jax[{extra}]'."
            ) from None


def outputs(fuser: Fuser) -> tuple[str, ...]:
    """Names of what the program of a network returns."""
    return ("fused", "weights") if fuser.config.blends else ("fused",)


def network(fuser: Fuser) -> Callable[..., tuple[jax.Array, ...]]:
    """The bare network as a function: (parameters, statistics, *images) -> `outputs`."""
    config = fuser.config.for_use()
    arrays = len(fuser.params) + len(fuser.stats)
    graphdef = registry.abstract(fuser.system, config, arrays=arrays)[0]
    names = outputs(fuser)

    def call(params: Any, stats: Any, *images: jax.Array) -> tuple[jax.Array, ...]:
        (fused, aux), _ = functional.apply(graphdef, params, stats, *images)
        return (fused, aux["weights"]) if "weights" in names else (fused,)

    return call


def _bound(fuser: Fuser) -> Callable[..., tuple[jax.Array, ...]]:
    """`network` with its weights as constants."""
    call = network(fuser)
    params = {name: _narrow(value) for name, value in fuser.params.items()}
    stats = {name: np.asarray(value) for name, value in fuser.stats.items()}

    def bound(*images: jax.Array) -> tuple[jax.Array, ...]:
        wide = {name: jnp.asarray(value).astype(jnp.float32) for name, value in params.items()}
        return call(wide, stats, *images)

    return bound


def _narrow(value: Any) -> np.ndarray:
    """An array in 16 bits a number where none of them changes by it."""
    wide = np.asarray(value)
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float16)
    return narrow if np.array_equal(narrow.astype(wide.dtype), wide) else wide


def exported(fuser: Fuser, kind: str, size: Size | None, platforms: Sequence[str]) -> bytes:
    """The program of a network, as it is written to a file.

    Args:
        fuser: the network.
        kind: of `FORMATS`.
        size: of the pictures; None for any number and any size.
        platforms: of `PLATFORMS`, that a program of JAX is for.

    Raises:
        InputError: the network cannot be exported so; the message has the reason.
    """
    try:
        if kind == "jax":
            return _jax_program(fuser, size, platforms)
        return _onnx_program(fuser, size)
    except InputError:
        raise
    except Exception as error:  # of a network that is anybody's, by a converter that is not ours
        reason = f"({_reason(error)})"
        if kind == "onnx" and size is None:
            reason = (
                "because its converter cannot work out sizes from other sizes that are not known,"
                f" as padding, windows, reflection and pyramids need it {reason}"
            )
        cure = "give a size, 256x320 for instance" if size is None else "choose another format"
        raise InputError(
            f"this network cannot be exported to {kind} for "
            f"{'any size' if size is None else 'this size'} {reason}; {cure}."
        ) from error


def _reason(error: Exception) -> str:
    """The first line of what an error says, for a sentence."""
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return text[:200].rstrip(".")


def _jax_program(fuser: Fuser, size: Size | None, platforms: Sequence[str]) -> bytes:
    from jax import export

    if size is None:
        batch, height, width = export.symbolic_shape("b, h, w")
    else:
        batch, height, width = size
    channels = fuser.config.in_channels
    inputs = [jax.ShapeDtypeStruct((batch, height, width, c), jnp.float32) for c in channels]
    form = "symbolic" if size is None else "compact"
    with forms.traced(form), _without_places():
        program = export.export(jax.jit(_bound(fuser)), platforms=tuple(platforms))(*inputs)
    return bytes(_tidied(program).serialize())


def _tidied(program: Any) -> Any:
    """A program without what it works out twice: most is arithmetic of sizes that are symbols.

    Args:
        program: of `jax.export`.
    """
    from jax.extend.mlir import ir, passmanager
    from jax.extend.mlir.dialects import stablehlo

    requirement = stablehlo.StablehloCompatibilityRequirement.WEEK_4  # as jax.export has it
    version = stablehlo.get_version_from_compatibility_requirement(requirement)
    with ir.Context() as context:
        stablehlo.register_dialect(context)
        module = stablehlo.deserialize_portable_artifact(context, program.mlir_module_serialized)
        passes = passmanager.PassManager.parse("builtin.module(strip-debuginfo,cse)")
        passes.run(module.operation)
        while _share_calls(module.body, {}):
            passes.run(module.operation)
        code = stablehlo.serialize_portable_artifact(module, version, True)
    return dataclasses.replace(program, mlir_module_serialized=code)


def _share_calls(block: Any, known: Mapping[Any, Any]) -> int:
    """Leaves one of all calls of a function with the same operands, which the passes do not.

    What functions of a network do depends on their operands alone.

    Args:
        block: of operations, in the order in which they run.
        known: operations before the block, by function and operands.

    Returns:
        How many calls are gone.
    """
    seen, gone = dict(known), 0
    for entry in list(block.operations):
        operation = entry.operation
        if operation.name == "func.call":
            key = (str(operation.attributes["callee"]), *operation.operands)
            if key in seen:
                for result, other in zip(operation.results, seen[key].results, strict=True):
                    result.replace_all_uses_with(other)
                operation.erase()
                gone += 1
                continue
            seen[key] = operation
        for region in operation.regions:
            gone += sum(_share_calls(inner, seen) for inner in region.blocks)
    return gone


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Programs do not say from which lines of which files their operations came."""
    limit = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)


def _onnx_program(fuser: Fuser, size: Size | None) -> bytes:
    import jax2onnx

    batch, height, width = ("B", "H", "W") if size is None else size
    inputs = [(batch, height, width, c) for c in fuser.config.in_channels]
    with forms.traced("plain"), _silent():
        model = jax2onnx.to_onnx(
            _bound(fuser),
            inputs,
            model_name=fuser.system,
            opset=OPSET,
            input_names=names(len(inputs)),
            output_names=outputs(fuser),
        )
    return slim(model)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The converter's remarks on what it leaves out are nobody's concern here."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def names(count: int) -> list[str]:
    """Names of so many inputs: a, b, c, ..."""
    return [chr(ord("a") + i) for i in range(count)]


def slim(model: Any) -> bytes:
    """An ONNX model without what only its converter needs: notes, types, constants of no use.

    Equal constants are kept once, and those of one value are expanded when they are needed. Values
    inside get short names; those of inputs and outputs stay.

    Args:
        model: the `onnx.ModelProto`; it is changed.
    """
    ports = [*model.graph.input, *model.graph.output]
    short = {"": ""} | {port.name: port.name for port in ports}  # "": an operand that is left out
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        _slim_constants(graph, short)
        graph.ClearField("value_info")
        for owner in (graph, *graph.node, *graph.initializer):
            owner.ClearField("doc_string")
            owner.ClearField("metadata_props")
        for node in graph.node:
            node.ClearField("name")
            for values in (node.input, node.output):
                values[:] = [short.setdefault(x, f"_{len(short):x}") for x in values]
            graphs += [a.g for a in node.attribute if a.HasField("g")]
        for entry in (*graph.initializer, *graph.input, *graph.output):
            entry.name = short.setdefault(entry.name, f"_{len(short):x}")
    model.ClearField("metadata_props")
    return bytes(model.SerializeToString())


def _slim_constants(graph: Any, short: dict[str, str]) -> None:
    """Keeps what is used of a graph's constants, each once.

    Args:
        graph: an `onnx.GraphProto`; it is changed.
        short: new name of each value; those of constants that are gone are added.
    """
    import onnx
    from onnx import helper, numpy_helper

    used = _names_used(graph)
    results = {entry.name for entry in graph.output}
    first: dict[bytes, str] = {}
    kept, expanded = [], []
    for constant in graph.initializer:
        name = constant.name
        if name not in used:
            continue
        constant.ClearField("name")
        content = constant.SerializeToString(deterministic=True)
        if content in first and name not in results:
            short[name] = short.setdefault(first[content], f"_{len(short):x}")
            continue
        first.setdefault(content, name)
        values = numpy_helper.to_array(constant)
        if values.size > _UNIFORM and (values == values.flat[0]).all():
            shape = numpy_helper.from_array(np.array(values.shape, np.int64), f"{name} shape")
            value = numpy_helper.from_array(values.reshape(-1)[:1], f"{name} value")
            kept += [shape, value]
            expanded.append(helper.make_node("Expand", [value.name, shape.name], [name]))
        else:
            kept.append(onnx.TensorProto.FromString(content))
            kept[-1].name = name
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    graph.ClearField("initializer")
    graph.initializer.extend(kept)
    graph.ClearField("node")
    graph.node.extend([*expanded, *nodes])


def _names_used(graph: Any) -> set[str]:
    """Names of values that a graph's operations read, those of graphs in it included."""
    used = {entry.name for entry in graph.output}
    for node in graph.node:
        used.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                used |= _names_used(attribute.g)
    return used


def loaded(path: str | os.PathLike[str], kind: str) -> Run:
    """The program in a file, ready to run on this machine.

    Args:
        path: the file.
        kind: of `FORMATS`.

    Raises:
        InputError: it cannot be read, or the libraries that run it are not there.
    """
    check_extra(kind)
    with opening.opened(path, "an exported network") as file:
        content = file.read()
    try:
        return opened(content, kind)
    except Exception as error:  # of a file that may hold anything
        raise InputError(
            f"{os.fspath(path)} is no exported network, or damaged ({_reason(error)}); export it "
            "again."
        ) from None


def opened(content: bytes, kind: str) -> Run:
    """A program as `exported` makes it, ready to run on this machine."""
    return _jax_run(content) if kind == "jax" else _onnx_run(content)


def _jax_run(content: bytes) -> Run:
    from jax import export

    program = jax.jit(export.deserialize(bytearray(content)).call)
    return lambda inputs: [np.asarray(x) for x in program(*inputs)]


def _onnx_run(content: bytes) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def platform(kind: str) -> str:
    """Where `loaded` runs programs of a format."""
    return jax.default_backend() if kind == "jax" else "cpu"
