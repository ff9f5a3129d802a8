"""From uploads to a result: what is read, proposed, fused, measured and kept."""

import io
import os
import re

import numpy as np
import pytest
from helpers_cli import save_model
from helpers_scenes import focus_pair, to

import mgdn_jax
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import pages
from mgdn_jax.fusing.tasks import TASKS
from mgdn_jax.io import bitmaps, codec, profiles, reading
from mgdn_jax.io.pictures import Labels
from mgdn_jax.serving.demo import samples, studio, wire
from mgdn_jax.serving.demo.proposal import propose
from mgdn_jax.serving.demo.wire import Limits, Request, Upload


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Weights of the fake system."""
    path = tmp_path_factory.mktemp("model") / "fake.safetensors"
    save_model(path)
    return str(path)


@pytest.fixture(scope="module")
def room(model):
    return studio.Studio(studio.offers([model]), Limits(), trust=True)


PAGE = pages.part("demo.html", "mgdn_jax.serving.demo")


def silent(step):
    pass


def uploads(*pictures, suffix=".png", labels=None):
    encoded = [codec.encode(picture, suffix, labels=labels) for picture in pictures]
    return tuple(Upload(f"{k}{suffix}", content) for k, content in enumerate(encoded))


def pair(dtype=np.uint8, height=40, width=60):
    return [to(dtype, x) for x in focus_pair(height=height, width=width)[1:]]


def downloaded(answer):
    kind, content = answer.files[0]
    assert kind == ("image/png" if answer.head["download"].endswith(".png") else "image/tiff")
    return reading.read(io.BytesIO(content), "the result")


# ------------------------------------------------------------------------------------ fusing


def test_a_result_is_what_the_library_gives(room, model):
    first, second = pair()
    said = []
    request = Request(uploads(first, second), "focus", "fake")
    answer = room.fuse(request, lambda step: said.append(step["step"]))
    fuse = mgdn_jax.load(model, trust=True)
    fused = fuse.fuse(first, second, options=TASKS["focus"].options)
    np.testing.assert_array_equal(downloaded(answer).pixels, fused.pixels)
    head = answer.head
    assert (head["height"], head["width"]) == fused.pixels.shape[:2]
    assert head["names"] == ["0.png", "1.png"]
    assert not head["proposed"]
    assert said[:4] == ["reading", "loading", "preparing", "compiling"]
    assert said[-2:] == ["scoring", "encoding"]
    shown = [reading.plain(content, "shown") for _, content in answer.files[1:]]
    wanted = [first, second, fused.pixels]
    for picture, original in zip(shown, wanted, strict=True):
        assert np.abs(picture.astype(float) - original).mean() < 6


def test_scores_are_those_of_the_command_line(room):
    from mgdn_jax.evaluation.figures import figures

    first, second = pair()
    answer = room.fuse(Request(uploads(first, second), "focus", "fake", "none"), silent)
    values = figures(downloaded(answer).pixels, first, second)
    rows = dict(answer.head["scores"]["rows"])
    assert rows.keys() == {f"{name} ↑" for name in values}
    assert float(rows["EN ↑"]) == pytest.approx(values["EN"], abs=1e-3)


def test_profile_and_depth_are_kept(room):
    labels = Labels(profile=profiles.srgb(), dpi=(300.0, 300.0))
    answer = room.fuse(Request(uploads(*pair(np.uint16), labels=labels), "thermal", "fake"), silent)
    picture = downloaded(answer)
    assert picture.pixels.dtype == np.uint16
    assert picture.labels.profile == labels.profile
    assert picture.labels.dpi == pytest.approx((300, 300), abs=0.1)
    assert answer.head["has_profile"]
    shown = reading.read(io.BytesIO(answer.files[-1][1]), "shown")
    assert shown.labels.profile == labels.profile


def test_floats_are_downloaded_as_tiff(room):
    pictures = [np.float32(x) / 255 for x in pair()]
    answer = room.fuse(Request(uploads(*pictures, suffix=".tif"), "thermal", "fake"), silent)
    assert answer.head["download"] == "0_fused.tif"
    assert downloaded(answer).pixels.dtype == np.float32


def test_pages_of_one_file_are_a_stack_without_scores(room):
    from PIL import Image

    pages = [Image.fromarray(np.ascontiguousarray(x)) for x in (*pair(), pair()[0])]
    stream = io.BytesIO()
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:])
    uploads = (Upload("stack.tif", stream.getvalue()),)
    answer = room.fuse(Request(uploads, "focus", "fake"), silent)
    assert len(answer.head["names"]) == 3
    assert len(answer.files) == 1 + 3 + 1
    assert answer.head["scores"]["rows"] == []
    assert "two pictures" in answer.head["scores"]["why"]


def test_large_pictures_have_no_scores(room, monkeypatch):
    monkeypatch.setattr(studio, "MOST_SCORED", 100)
    answer = room.fuse(Request(uploads(*pair()), "focus", "fake"), silent)
    assert "megapixels" in answer.head["scores"]["why"]


def test_without_opencv_pictures_stay_where_they_are_and_that_is_said(room, monkeypatch):
    request = Request(uploads(*pair()), "focus", "fake")
    assert not [w for w in room.fuse(request, silent).head["warnings"] if "OpenCV" in w]
    monkeypatch.setattr(studio, "opencv", lambda: None)
    assert [w for w in room.fuse(request, silent).head["warnings"] if "OpenCV" in w]


def test_what_a_warning_advises_is_on_the_page(room):
    first = reading.plain(samples.SAMPLES["coffee_near.jpg"].content(), "a")[100:300, 100:400]
    files = uploads(first, np.roll(first, 9, 1))
    placings = {}
    for placing in ("none", "register"):
        head = room.fuse(Request(files, "thermal", "fake", placing), silent).head
        placings[placing] = head["warnings"]
        words = "".join(head["warnings"])
        assert all(f"({word})" in PAGE for word in re.findall(r"--[a-z]+", words))
    assert any("9.0 px" in warning for warning in placings["none"])
    assert not any("px" in warning for warning in placings["register"])


def test_nothing_is_left_on_the_disk(room, tmp_path, monkeypatch):
    for name in ("TMPDIR", "TMP", "TEMP"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    room.fuse(Request(uploads(*pair(), pair()[0]), "focus", "fake"), silent)
    assert os.listdir(tmp_path) == []


def test_a_network_with_too_many_programs_is_loaded_anew(model, monkeypatch):
    monkeypatch.setattr(studio, "_MOST_PROGRAMS", 0)
    room = studio.Studio(studio.offers([model]), Limits(), trust=True)
    request = Request(uploads(*pair()), "focus", "fake")
    room.fuse(request, silent)
    before = room._fusers["fake"]
    said = []
    room.fuse(request, lambda step: said.append(step["step"]))
    assert room._fusers["fake"] is not before
    assert "compiling" in said


def test_whoever_left_ends_the_work(room):
    def leave(step):
        if step["step"] == "fusing":
            raise wire.Gone

    with pytest.raises(wire.Gone):
        room.fuse(Request(uploads(*pair()), "focus", "fake"), leave)


# ------------------------------------------------------------------------------- complaints


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ((), "no picture"),
        ((("a.png", None),), "a.png is alone"),
        ((("a.png", None), ("b.png", b"")), "b.png is empty"),
        ((("a.png", None), ("b.png", b"some text in a file of another name\n")), "not an image"),
        ((("a.png", None), ("b.png", b"<!doctype html><p>")), "web page"),
        ((("a.png", None), ("b.png", b"\x89PNG\r\n\x1a\nbroken")), "b.png"),
    ],
)
def test_bad_files_end_in_a_sentence(room, files, word):
    (good,) = uploads(pair()[0])
    given = tuple(Upload(name, good.content if data is None else data) for name, data in files)
    with pytest.raises(InputError, match=word):
        room.fuse(Request(given, "focus", "fake"), silent)


def test_pixels_are_bounded_one_by_one_and_together():
    small, large = uploads(np.zeros((30, 30), np.uint8), np.zeros((50, 50), np.uint8))
    limits = Limits(pixels=2000)
    with pytest.raises(InputError, match=r"1\.png has more than 0.002 megapixels"):
        studio.read([large, small], limits)
    assert len(studio.read([small, small], limits)) == 2
    with pytest.raises(InputError, match=r"0\.png brings the pictures to more than 0.002 meg"):
        studio.read([small, small, small], limits)


def test_200_megapixels_are_refused_by_their_header(monkeypatch):
    from PIL import Image

    stream = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(stream, "PNG")
    (small,) = uploads(np.zeros((30, 30), np.uint8))
    large = Upload("large.png", stream.getvalue())
    assert len(large.content) < 100_000
    monkeypatch.setattr(bitmaps, "_pixels", lambda *arguments: pytest.fail("it was unpacked"))
    with pytest.raises(InputError, match=r"^large\.png has more than 100 megapixels; scale or cut"):
        studio.read([large, small], Limits())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"task": "focusing"}, "no such task"),
        ({"task": "focus", "model": "mgdn-gdsr4"}, "no network"),
        ({"task": "focus", "model": "../../x"}, "no network"),
        ({"task": "focus", "model": "fake", "placing": "up"}, "cannot be placed"),
        ({"model": "fake"}, "choose the task"),
    ],
)
def test_words_that_the_page_does_not_send(room, words, sentence):
    flat = np.full((40, 60), 120, np.uint8)
    with pytest.raises(InputError, match=sentence):
        room.fuse(Request(uploads(flat, flat), **words), silent)


def test_only_networks_for_pictures_are_offered(model):
    offers = {offer.name: offer.task for offer in studio.offers([model])}
    assert next(iter(offers)) == "fake"
    assert offers["mgdn-mff"] == "focus"
    assert not [name for name in offers if "gdsr" in name or "hdr" in name]
    assert {TASKS[task].model for task in TASKS} <= offers.keys()
    with pytest.raises(InputError, match="mgdn depth"):
        studio.offers(["mgdn-gdsr4"])
    with pytest.raises(InputError, match="no model"):
        studio.offers(["mgdn-nff"])


# --------------------------------------------------------------------------------- examples


@pytest.mark.parametrize("example", samples.PAIRS, ids=lambda example: example[2])
def test_examples_show_what_they_are_for(example):
    _, _, task, names = example
    content = [samples.SAMPLES[name].content() for name in names]
    pictures = [reading.read(io.BytesIO(c), n) for c, n in zip(content, names, strict=True)]
    assert len({picture.pixels.shape[:2] for picture in pictures}) == 1
    found = propose(pictures)
    assert found is not None
    assert found.name == task


def test_the_photographs_are_those_of_the_examples(request):
    folder = request.config.rootpath / "examples"
    for name in ("coffee_near.jpg", "coffee_far.jpg"):
        assert samples.SAMPLES[name].content() == (folder / name).read_bytes()


def test_hounsfield_units_and_sizes_that_differ_are_looked_at_too():
    rng = np.random.default_rng(0)
    texture = to(np.uint8, focus_pair()[0])
    gray = rng.integers(0, 256, (60, 90), np.uint8)
    picture = reading.Picture
    assert propose([picture(texture, "a"), picture(gray, "b")]).name == "thermal"
    ct = picture(gray.astype(np.int16) - 100, "ct", unit="HU")
    assert propose([picture(texture, "a"), ct]).name == "medical"
