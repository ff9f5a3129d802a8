"""`mgdn eval` on results that were cut, and on scenes of more than two sources."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers_cli import mgdn, save_model, save_pictures

from mgdn_jax import metrics as ruler
from mgdn_jax.evaluation import Pair, Rule, Stored, evaluate_methods
from mgdn_jax.io import files

SHAPE = (52, 60, 3)


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """Two pairs; whole results, results cut to multiples of 16, and cut a little less."""
    monkeypatch.setenv("MGDN_CACHE_DIR", "off")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    names = [f"{folder}/{n}.png" for folder in ("a", "b", "c", "whole") for n in (1, 2)]
    save_pictures(*names, shape=SHAPE)
    for folder, (height, width) in {"cut": (48, 48), "less": (50, 60)}.items():
        for n in (1, 2):
            files.write_image(
                f"{folder}/{n}.png", files.read_image(f"whole/{n}.png")[:height, :width]
            )


def of(name, height=None, width=None):
    return files.read_image(name)[:height, :width]


def test_cut_results_are_scored_on_the_area_that_all_have(capsys):
    command = "eval cut less whole a b --truth c --metrics EN,MI,Qabf,PSNR_gt --crop"
    assert mgdn(f"{command} --json out.json --report page") == 0
    said = capsys.readouterr().out
    assert (
        "2 of 2 scored on the upper left area that all results have (--crop): 1 on 48x48 of" in said
    )
    assert "1 on 48x48 of 60x52, for instance" in said
    assert "if it was reduced" not in said
    content = json.loads(Path("out.json").read_text())
    assert content["cropped"] == {n: {"height": 48, "width": 48} for n in "12"}
    a, b = of("a/2.png", 48, 48), of("b/2.png", 48, 48)
    wanted = ruler.evaluate(of("cut/2.png"), a, b, ("EN", "MI", "Qabf"))
    wanted |= ruler.evaluate_truth(of("cut/2.png"), of("c/2.png", 48, 48), ("PSNR_gt",))
    for method in ("cut", "less", "whole"):
        assert content["methods"][method]["images"]["2"] == wanted
    # Rules fuse the whole pictures and are cut as the others.
    mean = np.maximum(*(ruler.luminance(of(f"{s}/2.png")) for s in "ab")).astype(np.uint8)
    best = ruler.evaluate(mean[:48, :48], a, b, ("EN",))
    assert content["methods"]["base_max"]["images"]["2"]["EN"] == best["EN"]
    page = Path("page/index.html").read_text()
    assert "scored on the upper left area" in page


def test_whole_results_are_scored_as_ever(capsys):
    found = []
    for option in ("", " --crop"):
        assert mgdn(f"eval whole a b --metrics EN,MI --json{option}") == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["methods"] == found[1]["methods"]
    assert found[1]["cropped"] == {}


def test_without_the_flag_the_refusal_names_it(capsys):
    assert mgdn("eval cut a b --metrics EN") == 2
    said = capsys.readouterr().err
    assert "cut/1.png is 48x48 but a/1.png is 60x52" in said
    assert "--crop" in said


def test_a_larger_or_reduced_result(capsys):
    files.write_image("cut/2.png", np.zeros((52, 61), np.uint8))
    files.write_image("cut/1.png", of("whole/1.png")[::2, ::2])
    assert mgdn("eval cut a b --metrics EN --crop --no-baselines") == 1
    said = capsys.readouterr()
    assert "2: cut/2.png is 61x52 but a/2.png is 60x52" in said.err
    assert "1 has the shape of its sources on 30x26 of 60x52: if it was reduced" in said.out


def test_crop_in_python_with_every_kind_of_method():
    pair = Pair("p", "a/1.png", "b/1.png", "c/1.png")

    def fail(*_):
        raise OSError("no")

    seen = {}
    methods = {
        "stored": Stored({"p": "cut/1.png"}),
        "rule": Rule(np.maximum),
        "network": lambda a, b: np.minimum(a, b)[:50],
        "broken": fail,
    }
    tables = evaluate_methods(
        methods,
        [pair],
        metrics=("EN",),
        crop=True,
        on_result=lambda method, name, picture, scores: seen.update({method: picture.shape[:2]}),
    )
    assert seen == dict.fromkeys(("stored", "rule", "network"), (48, 48))
    assert {str(tables[name].areas["p"]) for name in seen} == {"48x48 of 60x52"}
    assert tables["broken"].failures == {"p": "OSError: no"}


@pytest.mark.parametrize("way", ["files", "folders"])
def test_three_sources(capsys, way):
    places = ("a/1.png", "b/1.png", "c/1.png", "whole/1.png")
    words = places if way == "files" else [Path(place).parent for place in places]
    sources, fused = " ".join(map(str, words[:3])), words[3]
    assert mgdn(f"eval {fused} --data {sources} --json") == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content["metrics"]) == ["MEF_SSIM"]
    assert list(content["methods"]) == [Path(fused).stem]
    row = content["methods"][Path(fused).stem]["images"]["1"]
    assert row["MEF_SSIM"] == ruler.mef_ssim(of(places[3]), [of(place) for place in places[:3]])
    assert row["MEF_SSIM"] == ruler.exposure_similarity(
        *(ruler.luminance(of(place)) for place in (places[3], *places[:3]))
    )
    truth = words[0]
    assert mgdn(f"eval {fused} --data {sources} --truth {truth} --metrics MEF_SSIM,EN,PSNR_gt") == 0
    for folder in (*"abc", "whole"):
        Path(f"{folder}/2.png").unlink()
    assert mgdn(f"eval {fused} --data {sources} --metrics EN,MEF_SSIM --report page --quiet") == 0


def test_a_network_fuses_a_stack_of_three(capsys):
    save_model("m.safetensors")
    assert mgdn("eval --model m.safetensors --data a b c --metrics MEF_SSIM,EN --json") == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content["methods"]) == ["m"]
    assert len(content["methods"]["m"]["images"]) == 2


def test_more_sources_in_python():
    pair = Pair("p", "a/1.png", "b/1.png", more=("c/1.png",))
    stored = Stored({"p": "whole/1.png"})
    tables = evaluate_methods({"m": stored}, [pair], metrics=("EN", "MEF_SSIM"))
    two = evaluate_methods({"m": stored}, [Pair("p", "a/1.png", "b/1.png")], metrics=("MEF_SSIM",))
    assert tables["m"].rows["p"]["MEF_SSIM"] != two["m"].rows["p"]["MEF_SSIM"]
    with pytest.raises(ValueError, match="MI compares with two sources, but p has 3"):
        evaluate_methods({"m": stored}, [pair], metrics=("MI",))
    with pytest.raises(ValueError, match="r fuses two pictures, not 3"):
        evaluate_methods({"r": Rule(np.maximum)}, [pair], metrics=("EN",))
