import dataclasses
import pickle

import numpy as np
import pytest

from mgdn_jax import evaluation
from mgdn_jax import metrics as ruler
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import Pair, Rule, Stored, baselines, methods
from mgdn_jax.io import files


def pictures(n, shape=(48, 50, 3), seed=0):
    rng = np.random.default_rng(seed)
    return [
        Pair(f"p{i}", *(rng.integers(0, 256, shape).astype(np.uint8) for _ in range(2)))
        for i in range(n)
    ]


def test_rows_are_the_metrics_of_the_fused_pictures():
    pairs = pictures(2)
    seen = []
    table = evaluation.evaluate_pairs(
        baselines.maximum,
        pairs,
        metrics=("EN", "VIF", "SSIM"),
        on_result=lambda name, fused, scores: seen.append((name, fused.shape, scores["EN"])),
    )
    assert table.columns == ("EN", "VIF", "SSIM_dr255")
    for pair in pairs:
        expected = ruler.evaluate(
            np.maximum(pair.a, pair.b), pair.a, pair.b, ("EN", "VIF", "SSIM_dr255")
        )
        assert table.rows[pair.name] == expected
    assert table.mean()["VIF"] == pytest.approx(np.mean([r["VIF"] for r in table.rows.values()]))
    assert seen == [(p.name, (48, 50, 3), table.rows[p.name]["EN"]) for p in pairs]


def test_the_variant_names_its_columns():
    table = evaluation.evaluate_pairs(
        baselines.mean, pictures(1), metrics=("SSIM", "PSNR"), variant="cddfuse"
    )
    assert table.columns == ("SSIM_dr2", "PSNR_peakF")


def test_a_failing_pair_does_not_lose_the_others(tmp_path):
    pairs = pictures(4)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    pairs[1] = Pair("p1", pairs[1].a, broken)
    calls = []

    def fuse(a, b):
        calls.append(a.shape)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return a[:40] if len(calls) == 3 else a

    table = evaluation.evaluate_pairs(fuse, pairs, metrics=("EN",))
    assert list(table.rows) == ["p0"]
    assert list(table.failures) == ["p1", "p2", "p3"]
    assert "broken.png" in table.failures["p1"]
    assert table.failures["p2"] == "RuntimeError: out of memory"
    assert "of p3 is 50x40" in table.failures["p3"]


def test_a_method_that_fails_leaves_the_other_methods_alone():
    def bad(a, b):
        raise ZeroDivisionError

    tables = evaluation.evaluate_methods(
        {"good": baselines.mean, "bad": bad}, pictures(2), metrics=("EN",)
    )
    assert len(tables["good"].rows) == 2
    assert not tables["good"].failures
    assert len(tables["bad"].failures) == 2
    with pytest.raises(ZeroDivisionError):
        evaluation.evaluate_pairs(bad, pictures(2), metrics=("EN",))


def test_bad_calls():
    pairs = pictures(1)
    with pytest.raises(InputError, match="no image pairs"):
        evaluation.evaluate_pairs(baselines.mean, [])
    with pytest.raises(InputError, match="two image pairs are called p0"):
        evaluation.evaluate_pairs(baselines.mean, pairs * 2, metrics=("EN",))
    with pytest.raises(InputError, match="unknown metric"):
        evaluation.evaluate_pairs(baselines.mean, pairs, metrics=("Q",))


def saved(folder, pairs):
    """The pairs as files, and a folder of results by the maximum."""
    kept = []
    for pair in pairs:
        places = [folder / role / f"{pair.name}.png" for role in ("a", "b")]
        for place, picture in zip(places, (pair.a, pair.b), strict=True):
            files.write_image(place, picture)
        files.write_image(folder / "max" / f"{pair.name}.png", np.maximum(pair.a, pair.b))
        kept.append(Pair(pair.name, *places))
    return kept, Stored({pair.name: folder / "max" / f"{pair.name}.png" for pair in pairs})


def explode(a, b):
    raise ZeroDivisionError("by hand")


def test_processes_give_what_one_gives(tmp_path):
    pairs, stored = saved(tmp_path, pictures(5, (48, 50)))
    (tmp_path / "a" / "p1.png").write_bytes(b"torn")
    files.write_image(tmp_path / "max" / "p3.png", np.zeros((40, 50), np.uint8))
    methods = {
        "stored": stored,
        "rule": Rule(baselines.maximum),
        "here": lambda a, b: np.maximum(a, b),
        "broken": Rule(explode),
    }
    results = []
    for workers in (0, 2):
        heard, done = [], []
        tables = evaluation.evaluate_methods(
            methods,
            pairs,
            metrics=("EN", "VIF"),
            on_result=lambda *told, heard=heard: heard.append((*told[:2], told[2].sum(), told[3])),
            on_pair=done.append,
            workers=workers,
        )
        assert done == ["p0", "p1", "p2", "p3", "p4"]
        results.append((tables, heard))
    assert results[0] == results[1]
    tables, heard = results[0]
    assert list(tables["here"].rows) == list(tables["rule"].rows) == ["p0", "p2", "p3", "p4"]
    assert list(tables["stored"].rows) == ["p0", "p2", "p4"]
    assert tables["rule"].rows == tables["here"].rows
    assert tables["stored"].rows["p4"] == tables["here"].rows["p4"]
    assert "p1.png" in tables["here"].failures["p1"]
    assert "p1.png" in tables["stored"].failures["p1"]
    assert "p3.png is 50x40 but" in tables["stored"].failures["p3"]
    assert tables["broken"].failures["p0"] == "ZeroDivisionError: by hand"
    assert [h[:2] for h in heard[:3]] == [("stored", "p0"), ("rule", "p0"), ("here", "p0")]


def test_an_order_goes_out_and_an_outcome_comes_back(tmp_path):
    """Both are whole and sealed, and both can be sent to another process."""
    (pair,), stored = saved(tmp_path, pictures(1, (8, 8)))
    made = {"stored": stored, "rule": Rule(baselines.maximum), "bad": lambda a, b: explode(a, b)}
    for is_kept in (True, False):
        order = methods._order(pair, made, ("EN",), is_kept)
        before = dict(order.made)
        outcome = pickle.loads(pickle.dumps(methods._measure(pickle.loads(pickle.dumps(order)))))
        assert order.made == before
        assert outcome.name == "p0"
        assert outcome.scores.keys() == {"stored", "rule"}
        assert outcome.scores["stored"] == outcome.scores["rule"]
        assert str(outcome.failures["bad"]) == "by hand"
        assert outcome.pictures.keys() == (outcome.scores.keys() if is_kept else set())
        for thing, name in ((order, "made"), (outcome, "scores")):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(thing, name, {})


def kill(a, b):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_one_sentence(tmp_path):
    pairs, _ = saved(tmp_path, pictures(3, (8, 8)))
    with pytest.raises(InputError, match="ended by the system"):
        evaluation.evaluate_methods({"killer": Rule(kill)}, pairs, metrics=("EN",), workers=1)


def test_pictures_of_files_may_be_float_deep_or_transparent(tmp_path):
    rng = np.random.default_rng(0)
    plain = rng.integers(0, 256, (2, 12, 12)).astype(np.uint8)
    wanted = ruler.evaluate(plain[0], plain[0], plain[1], ("EN", "MI"))
    alpha = np.full((12, 12, 1), 7, np.uint8)
    forms = {
        "deep.png": lambda x: x.astype(np.uint16) * 257,
        "float.tif": lambda x: x.astype(np.float32) / 255,
        "clear.png": lambda x: np.concatenate([x[..., None]] * 3 + [alpha], -1),
    }
    for name, form in forms.items():
        places = [tmp_path / role / name for role in ("f", "a", "b")]
        for place, picture in zip(places, (plain[0], *plain), strict=True):
            files.write_image(place, form(picture))
        for method in (Stored({"x": places[0]}), lambda a, b: a):
            table = evaluation.evaluate_pairs(method, [("x", *places[1:])], metrics=("EN", "MI"))
            assert table.rows["x"] == pytest.approx(wanted, abs=1e-12)


def test_what_a_metric_needs_is_demanded(tmp_path):
    pairs = pictures(1, (12, 12))
    with pytest.raises(InputError, match=r"the result of p0 is 12x12, too small for VIF \(41\)"):
        evaluation.evaluate_pairs(baselines.mean, pairs, metrics=("EN", "VIF"))
    with pytest.raises(InputError, match="MI needs the two sources of x"):
        evaluation.evaluate_pairs(Stored({"x": "f.png"}), [Pair("x", None, None)], metrics=("MI",))
    with pytest.raises(InputError, match="has no picture called p0"):
        evaluation.evaluate_pairs(Stored({}), pairs, metrics=("EN",))


def test_ground_truth_beside_the_sources_or_alone(tmp_path):
    rng = np.random.default_rng(0)
    a, b, truth, fused = rng.integers(0, 256, (4, 24, 26)).astype(np.uint8)
    wanted = ruler.evaluate_truth(fused, truth)
    files.write_image(tmp_path / "truth.png", truth)
    method = {"m": lambda *_: fused}
    both = evaluation.evaluate_methods(
        method, [Pair("x", a, b, tmp_path / "truth.png")], metrics=(*wanted, "MI")
    )
    assert both["m"].rows["x"] == wanted | ruler.evaluate(fused, a, b, ("MI",))
    files.write_image(tmp_path / "fused.png", fused)
    alone = evaluation.evaluate_pairs(
        Stored({"x": tmp_path / "fused.png"}), [Pair("x", None, None, truth)], metrics=[*wanted]
    )
    assert alone.rows["x"] == wanted
    with pytest.raises(InputError, match="needs the ground truth of x"):
        evaluation.evaluate_methods(method, [("x", a, b)], metrics=[*wanted])
    with pytest.raises(InputError, match="take different pixels"):
        evaluation.evaluate_pairs(
            lambda *_: fused, [Pair("x", a, b, truth)], metrics=("RMSE_cm", "MI")
        )


def test_depth_and_radiance_are_compared_as_they_are(tmp_path):
    depth = np.linspace(0.7, 7.7, 400, dtype=np.float32).reshape(20, 20)
    for name, values in (("truth", depth), ("made", depth + np.float32(0.02))):
        files.write_image(tmp_path / f"{name}.tif", values)
    pair = Pair("x", None, None, tmp_path / "truth.tif")
    made = Stored({"x": tmp_path / "made.tif"})
    table = evaluation.evaluate_pairs(made, [pair], metrics=("RMSE_cm",))
    assert table.rows["x"]["RMSE_cm"] == pytest.approx(2.0, abs=1e-4)
    files.write_image(tmp_path / "made.tif", np.zeros((20, 20), np.uint16))
    with pytest.raises(InputError, match=r"made.tif is uint16; depth in metres"):
        evaluation.evaluate_pairs(made, [pair], metrics=("RMSE_cm",))
    deep = np.linspace(0, 65535, 1200).astype(np.uint16).reshape(20, 20, 3)
    files.write_image(tmp_path / "made.png", deep)
    result = evaluation.evaluate_pairs(
        Stored({"x": tmp_path / "made.png"}),
        [Pair("x", None, None, (deep / 65535.0).astype(np.float32))],
        metrics=("PSNR_mu",),
    )
    assert result.rows["x"]["PSNR_mu"] > 100
