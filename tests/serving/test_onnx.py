"""ONNX programs: equal to the network in onnxruntime, and no larger than need be."""

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_export import small

from mgdn_jax import InputError
from mgdn_jax.serving import checks, programs

pytestmark = pytest.mark.unchecked


def run(fuser, size, sizes, tmp_path):
    """Largest difference to the network."""
    path = tmp_path / "program"
    path.write_bytes(programs.exported(fuser, "onnx", size, ()))
    onnx.checker.check_model(onnx.load(path))
    program = programs.loaded(path, "onnx")
    for shape in sizes:
        inputs = checks.pictures(fuser, shape)
        expected = jax.jit(programs.network(fuser))(fuser.params, fuser.stats, *inputs)
        for got, wanted in zip(program(inputs), expected, strict=True):
            assert np.ptp(wanted) > 1e-3
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.long
def test_refusion_at_any_size(tmp_path):
    run(small("refusion"), None, [(2, 13, 18)], tmp_path)


def test_a_pyramid_at_one_size(tmp_path):
    run(small("pyramid", levels=1), (1, 13, 18), [(1, 13, 18)], tmp_path)


@pytest.mark.long
def test_mgdn_at_one_size(tmp_path):
    run(small("mgdn"), (2, 13, 18), [(2, 13, 18)], tmp_path)


LATE = [pytest.param(system, marks=pytest.mark.long) for system in ("cddfuse", "lkc_funet", "mgdn")]


@pytest.mark.parametrize("system", ["pyramid", *LATE])
def test_other_systems_go_at_one_size(system):
    with pytest.raises(
        InputError, match=r"to onnx for any size because its converter .* give a size"
    ):
        programs.exported(small(system), "onnx", None, ())


def test_a_slim_model_computes_the_same():
    def constant(name, values):
        return numpy_helper.from_array(np.asarray(values, np.float32), name)

    body = helper.make_graph(
        [helper.make_node("Add", ["a long name", "twin"], ["inner"], name="n", doc_string="d")],
        "body",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["a long name"], ["inner two"])],
        "other",
        [],
        [helper.make_tensor_value_info("inner two", TensorProto.FLOAT, None)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["a", "single"], ["a long name"]),
            helper.make_node("ReduceMax", ["a long name"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["is large"], to=TensorProto.BOOL),
            helper.make_node("If", ["is large"], ["c"], then_branch=body, else_branch=other),
            helper.make_node("Add", ["c", "flat"], ["fused"]),
        ],
        "graph",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [200])],
        [helper.make_tensor_value_info("fused", TensorProto.FLOAT, [200])],
        [
            *(constant("single", [2.0]), constant("twin", [2.0]), constant("unused", [3.0] * 50)),
            constant("flat", [0.5] * 200),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    before = onnxruntime.InferenceSession(model.SerializeToString())
    size = model.ByteSize()
    slim = programs.slim(model)
    assert len(slim) < size - 800
    x = np.arange(200, dtype=np.float32)
    after = onnxruntime.InferenceSession(slim)
    np.testing.assert_array_equal(after.run(None, {"a": x})[0], before.run(None, {"a": x})[0])
    np.testing.assert_array_equal(after.run(None, {"a": x})[0], x + 4.5)
