"""The page of an evaluation, as a file and in a real browser."""

import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers_browser import cut, until
from PIL import Image

from mgdn_jax import metrics as ruler
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import album as album_room
from mgdn_jax.evaluation import report
from mgdn_jax.evaluation.album import Album
from mgdn_jax.evaluation.report import write_report
from mgdn_jax.evaluation.scores import Table, common, mean_ranks
from mgdn_jax.evaluation.standing import rank_methods
from mgdn_jax.evaluation.summaries import Summary
from mgdn_jax.io import codec

COLUMNS = ("EN", "SF", "SCD", "MSE", "SSIM_dr255")
NASTY = '</script><img src=x onerror="alert(1)">&amp;\'{{title}}\u2028'


def table(seed, images, columns=COLUMNS):
    rng = np.random.default_rng(seed)
    return Table(columns, {name: dict(zip(columns, rng.uniform(1, 9, len(columns)), strict=True))
                           for name in images})  # fmt: skip


def picture(seed, shape=(48, 64)):
    """A smooth picture, another one for each seed."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    gray = 128 + 100 * np.sin((x + 7 * seed) / 9) * np.cos(y / (5 + seed % 4))
    return np.broadcast_to(gray.reshape(shape[:2] + (1,) * (len(shape) - 2)), shape).astype(
        np.uint8
    )


def write(folder, tables, album=None, baselines=(), elsewhere=(), **options):
    """A page; rows from elsewhere (name to means) average as many images as the tables share."""
    n = len(common(tables).images)
    foreign = [Summary("S", name, n, means) for name, means in dict(elsewhere).items()]
    settings = {
        "title": "A title",
        "command": "mgdn eval a b",
        "versions": {"mgdn_jax": "0.1.0"},
        "variant": "standard",
    }
    place = rank_methods(tables, baselines=baselines, elsewhere=foreign)
    return write_report(folder, standing=place, album=album or Album(0), **(settings | options))


def filled(images, methods, shape=(48, 64)):
    labels = ("a", "b", *methods)
    album = Album(len(images) * len(labels))
    for i, image in enumerate(images):
        for j, label in enumerate(labels):
            album.add(image, label, picture(3 * i + j, shape))
    return album


class Page(HTMLParser):
    """Tags with their attributes, the text of the table of means by rows, and the data."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.rows, self.data = [], [], ""
        self.inside = self.script = None
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "table":
            self.inside = attributes.get("id")
        if self.inside == "means-table" and tag == "tr":
            self.rows.append([])
        if self.inside == "means-table" and tag in ("th", "td"):
            self.rows[-1].append("")
        self.script = attributes if tag == "script" else None

    def handle_endtag(self, tag):
        if tag == "table":
            self.inside = None
        self.script = None

    def handle_data(self, text):
        if self.inside == "means-table" and self.rows and self.rows[-1]:
            self.rows[-1][-1] += text
        if self.script and self.script.get("id") == "data":
            self.data += text

    def json(self):
        return json.loads(self.data)


# ---------------------------------------------------------------------------------- the file


def test_table_of_means_marks_ranks_and_sets_apart(tmp_path):
    tables = {
        "ours": Table(("EN", "MSE", "SF"), {"x": {"EN": 7.0, "MSE": 120.0, "SF": 9.0}}),
        "plain": Table(("EN", "MSE", "SF"), {"x": {"EN": 6.0, "MSE": 240.0, "SF": 9.0}}),
    }
    elsewhere = {
        "theirs": {"EN": 6.5, "MSE": 90.0, "SF": 3.0, "unknown": 1.0},
        "half": {"EN": 5.0},
    }
    page = Page(write(tmp_path, tables, baselines=["plain"], elsewhere=elsewhere))
    head, *rows = page.rows
    assert [h.strip() for h in head] == [
        "method", "mean rank ↓", "EN ↑", "MSE ↓", "SF‡ ↑", "pairs"
    ]  # fmt: skip
    ranks = mean_ranks(
        {"ours": tables["ours"].mean(), "plain": tables["plain"].mean(),
         "theirs": elsewhere["theirs"]}, ("EN", "MSE"))  # fmt: skip
    assert ranks == {"ours": 1.5, "plain": 3.0, "theirs": 1.5}
    assert rows == [
        ["ours", "1.50 (best)", "7.0000 (best)", "120.00 (second best)", "9.0000 (best)", "1"],
        [
            "theirs†", "1.50 (best)", "6.5000 (second best)", "90.00 (best)",
            "3.0000 (second best)", "–",
        ],
        ["plainbaseline", "3.00 (second best)", "6.0000", "240.00", "9.0000 (best)", "1"],
        ["half†", "–", "5.0000", "–", "–", "–"],
    ]  # fmt: skip
    assert [a["class"] for tag, a in page.tags if tag == "tr" and "class" in a] == [
        "measured", "elsewhere", "baseline", "elsewhere"
    ]  # fmt: skip
    assert "Mean rank: the mean over EN, MSE of" in page.text
    assert "‡ SF rewards noise" in page.text
    assert "† Means that were measured elsewhere" in page.text


def test_a_method_measured_here_and_elsewhere_has_two_rows(tmp_path):
    tables = {"m": Table(("EN",), {"x": {"EN": 7.0}})}
    page = Page(write(tmp_path, tables, elsewhere={"m": {"EN": 6.0}}))
    assert page.rows[1:] == [
        ["m", "1.00 (best)", "7.0000 (best)", "1"],
        ["m†", "2.00 (second best)", "6.0000 (second best)", "–"],
    ]
    data = page.json()
    assert [row["name"] for row in data["methods"] + data["elsewhere"]] == ["m", "m"]


def test_rows_over_other_images_are_not_on_the_page(tmp_path):
    tables = {"m": Table(("EN",), {"x": {"EN": 7.0}})}
    place = rank_methods(tables, elsewhere=[Summary("S", "far", 25, {"EN": 9.0})])
    assert [row.name for row in place.rows] == ["m", "far"]
    settings = {"title": "T", "command": "c", "versions": {}, "variant": "standard"}
    page = Page(write_report(tmp_path, standing=place, album=Album(0), **settings))
    assert [row[0].strip() for row in page.rows] == ["method", "m"]
    assert page.json()["elsewhere"] == []


def test_one_method_needs_neither_marks_nor_ranks(tmp_path):
    page = Page(write(tmp_path, {"only": table(0, ["x"])}))
    assert "mean rank ↓" not in [cell.strip() for cell in page.rows[0]]
    assert "best" not in " ".join(page.rows[1])


def test_what_is_not_finite_is_shown_and_said(tmp_path):
    rows = {
        "x": {"EN": math.nan, "MSE": 1.0},
        "y": {"EN": math.inf, "MSE": 2.0},
        "z": {"EN": 3.0, "MSE": 3.0},
    }
    nothing = {image: {"EN": -math.inf, "MSE": 1.0} for image in rows}
    torn = {"w": "Torn."}
    tables = {"m": Table(("EN", "MSE"), rows), "n": Table(("EN", "MSE"), nothing, torn)}
    page = Page(write(tmp_path, tables))
    cells = {row[0]: row for row in page.rows[1:]}
    assert cells["m"][2] == "3.0000*"  # no mark: the others have no number there
    assert cells["n"][3] == "1.0000 (best)"
    assert "* m: 2 of 3 values of EN are NaN or infinite and left out of the mean." in page.text
    assert "Means and ranks are over the 3 of 4 pairs that every method has" in page.text
    methods = {m["name"]: m for m in page.json()["methods"]}
    assert methods["m"]["values"] == [["NaN", 1.0], ["Infinity", 2.0], [3.0, 3.0], None]
    assert methods["n"]["values"] == [["-Infinity", 1.0]] * 3 + [None]
    assert methods["n"]["failures"] == [None, None, None, "Torn."]


def test_means_are_over_the_pairs_that_all_have(tmp_path):
    full = Table(("EN",), {"x": {"EN": 1.0}, "y": {"EN": 9.0}})
    part = Table(("EN",), {"x": {"EN": 2.0}}, {"y": "Torn."})
    page = Page(write(tmp_path, {"full": full, "part": part}))
    cells = {row[0]: row for row in page.rows[1:]}
    assert cells["full"][2] == "1.0000 (second best)"
    assert cells["part"][2] == "2.0000 (best)"
    apart = {"full": Table(("EN",), {"x": {"EN": 1.0}}), "part": Table(("EN",), {"y": {"EN": 2.0}})}
    text = Page(write(tmp_path, apart)).text
    assert "the methods share none, so nothing is ranked or marked" in text


def test_large_pictures_are_averaged_first():
    rng = np.random.default_rng(0)
    large = np.kron(rng.integers(0, 256, (20, 30, 3)), np.ones((100, 100, 1))).astype(np.uint8)
    album = Album(1, limit_bytes=2_000_000)
    album.add("x", "a", large)
    (picture,) = album.pictures["x"].values()
    assert picture.size == (3000, 2000)
    assert picture.scale == 0.5
    shown = codec.decode_image(picture.jpeg, "shown")
    assert shown.shape == (1000, 1500, 3)
    assert np.abs(shown.astype(int) - large[::2, ::2]).mean() < 2


def test_failures_are_listed_by_image(tmp_path):
    good, bad = table(0, ["x", "y"]), table(1, ["x"])
    bad.failures["y"] = "Out of <memory>."
    for each in (good, bad):
        each.failures["z"] = "z.png is torn."
    page = Page(write(tmp_path, {"good": good, "bad": bad}))
    assert "Out of &lt;memory&gt;. <span class='muted'>(bad)" in page.text
    assert page.text.count("z.png is torn. <span class='muted'>(all methods)") == 1
    assert "2 images with failures" in page.text
    assert 'id="failures"' not in Page(write(tmp_path, {"good": table(0, ["x"])})).text


def test_any_name_is_text(tmp_path):
    image, method = NASTY + "\udcff", NASTY + "m"
    broken = Table(COLUMNS, {}, {"y": NASTY})
    path = write(
        tmp_path,
        {method: table(0, [image]), "broken": broken},
        filled([image], [method]),
        title=NASTY,
        command=NASTY,
        versions={NASTY: NASTY},
        source_titles=(NASTY, NASTY),
        remarks=[NASTY],
        elsewhere={NASTY: {"EN": 1.0}},
    )
    page = Page(path)
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert not any(a.get("src") for _, a in page.tags)
    assert not re.search("[<>&\u2028\u2029]", page.data)
    data = page.json()
    assert data["images"] == [image, "y"]
    assert method in [m["name"] for m in data["methods"]]
    assert method in [row[0] for row in page.rows]  # "{{title}}" in it is not filled in
    assert data["sources"] == [NASTY, NASTY]


def test_the_page_names_no_address_and_its_policy_allows_its_script_alone(tmp_path):
    page = Page(write(tmp_path, {"m": table(0, ["x"])}, filled(["x"], ["m"])))
    links = [a.get(key) for _, a in page.tags for key in ("src", "href", "action", "data")]
    assert {link[0] for link in links if link} == {"#"}
    assert "@import" not in page.text
    assert "url(" not in page.text
    assert set(re.findall(r"\w+://[^'\"\s]*", page.text)) == {"http://www.w3.org/2000/svg"}
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; ")
    assert re.search(r"script-src 'sha256-[\w+/=]{44}';", policy)


def test_equal_input_gives_equal_bytes(tmp_path):
    images = [f"p{i}" for i in range(3)]
    for name in ("one", "two"):
        write(tmp_path / name, {"m": table(0, images)}, filled(images, ["m"]))
    one = (tmp_path / "one" / "index.html").read_bytes()
    assert one == (tmp_path / "two" / "index.html").read_bytes()


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write(tmp_path / "new" / "folder", {"m": table(0, ["x"])})
    assert path == tmp_path / "new" / "folder" / "index.html"
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InputError, match=r"index\.html cannot be written \(no space left"):
        write(path.parent, {"m": table(1, ["x"])})
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["index.html"]


def test_bad_calls(tmp_path):
    (tmp_path / "file").touch()
    tables = {"m": table(0, ["x"])}
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"file.*choose a writable folder"):
            write(folder, tables)
    with pytest.raises(InputError, match="at least one method"):
        write(tmp_path, {})
    with pytest.raises(InputError, match="cannot be called 'a'"):
        write(tmp_path, {"a": table(0, ["x"])})
    with pytest.raises(InputError, match="baseline n has no table"):
        write(tmp_path, tables, baselines=["n"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


# ------------------------------------------------------------------------------ the pictures


def test_twenty_noisy_pairs_stay_below_15_megabytes(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3)).astype(np.uint8)
    images, methods = [f"p{i}" for i in range(20)], ["m0", "m1", "m2", "m3"]
    album = Album(120)
    share = 14_000_000 * 3 // 4 // 120
    one = album_room._compress(noise, share)  # 120 times the same work tells no more
    assert one.scale < 1
    monkeypatch.setattr(album_room, "_compress", lambda pixels, budget, labels: one)
    for image in images:
        for label in ("a", "b", *methods):
            album.add(image, label, noise)
    path = write(tmp_path, {m: table(i, images) for i, m in enumerate(methods)}, album)
    size = path.stat().st_size
    print(f"20 pairs, 6 noisy pictures each at {one.scale:.2f} of their sides: {size / 1e6:.1f} MB")
    assert 10_000_000 < size < 15_000_000
    page = Page(path)
    assert sum(p is not None for row in page.json()["pictures"] for p in row) == 120
    assert "120 of them reduced in size; the scores are of the originals." in page.text


def decoded(entry):
    assert entry[0].startswith("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(entry[0].split(",")[1]))) as image:
        return np.asarray(image)


@pytest.mark.parametrize("shape", [(48, 64), (48, 64, 1), (48, 64, 3), (48, 64, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_every_kind_of_pixels_is_shown_alike(tmp_path, shape, dtype):
    pixels = picture(1, shape)
    given = {
        np.dtype(np.uint8): pixels,
        np.dtype(np.uint16): pixels.astype(np.uint16) * 257,
    }.get(np.dtype(dtype), (pixels / 255).astype(dtype))
    album = Album(1)
    album.add("x", "a", given)
    data = Page(write(tmp_path, {"m": table(0, ["x"])}, album)).json()
    entry = data["pictures"][0][0]
    assert entry[1:] == [92, 1.0]
    assert data["sizes"] == [[64, 48]]
    shown = decoded(entry).astype(int)
    expected = pixels if pixels.ndim == 2 else pixels[..., :3]
    expected = expected[..., 0] if expected.shape[-1] == 1 else expected
    error = np.abs(shown - expected).max()
    print(f"JPEG 92 of a smooth picture: {error} of 255")
    assert error <= 6


def test_pixels_that_cannot_be_shown():
    album = Album(1)
    with pytest.raises(InputError, match="m of x has float pixels up to 255"):
        album.add("x", "m", np.full((4, 4), 255.0))
    with pytest.raises(InputError, match=r"m of x is int64 of shape \(4, 4\)"):
        album.add("x", "m", np.zeros((4, 4), int))
    with pytest.raises(InputError, match=r"shape \(4, 4, 5\)"):
        album.add("x", "m", np.zeros((4, 4, 5), np.uint8))
    album.add("x", "m", np.array([[np.nan, 1.2], [-0.1, 0.5]]))  # a network's small overshoot


def test_quality_falls_before_size():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (96, 128)).astype(np.uint8)
    seen = []
    for budget in (9_500, 8_500, 7_500, 4_000, 1_500):
        kept = album_room._compress(noise, budget)
        assert len(kept.jpeg) <= budget
        seen.append((kept.quality, kept.scale == 1))
    assert seen == [(92, True), (85, True), (75, True), (75, False), (75, False)]
    assert album_room._compress(noise, 100) is None


def test_area_averages():
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (12, 30, 3)).astype(np.uint8)
    blocks = pixels.reshape(6, 2, 10, 3, 3).mean(axis=(1, 3))
    assert np.array_equal(album_room._shrink(pixels, 6, 10), np.rint(blocks).astype(np.uint8))
    # Fractions of a pixel: 3 to 2, by hand; the mean stays.
    line = album_room._shrink_rows(np.array([[30], [60], [90]]), 2)
    assert np.allclose(line, [[40], [80]])


def test_a_large_set_keeps_the_first_images_complete(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (160, 160)).astype(np.uint8)
    images = [f"p{i}" for i in range(30)]
    album = Album(90, limit_bytes=400_000)
    for image in images:
        for label in ("a", "b", "m"):
            album.add(image, label, noise)
    page = Page(write(tmp_path, {"m": table(0, images)}, album))
    complete = [all(row) for row in page.json()["pictures"]]
    kept = sum(complete)
    assert 3 <= kept < 30
    assert complete == [True] * kept + [False] * (30 - kept)
    assert not any(any(row) for row in page.json()["pictures"][kept:])
    assert f"{kept} of 30 images have pictures here; all have scores." in page.text
    assert all(row is not None for row in page.json()["methods"][0]["values"])
    assert (tmp_path / "index.html").stat().st_size < 400_000 + 100_000


def test_a_picture_given_twice_counts_once(tmp_path):
    album = Album(2)
    for seed in (0, 1):
        album.add("x", "a", picture(seed))
    data = Page(write(tmp_path, {"m": table(0, ["x"])}, album)).json()
    assert np.abs(decoded(data["pictures"][0][0]).astype(int) - picture(1)).max() <= 6
    assert sum(p is not None for p in data["pictures"][0]) == 1


# ------------------------------------------------------------------------------- the browser

IMAGES = [f"pair {i}" for i in range(1, 13)]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page with everything on it: a failure, NaN, a baseline, a row from elsewhere, odd names."""
    tables = {name: table(i, IMAGES) for i, name in enumerate((NASTY, "net", "base_mean"))}
    del tables["net"].rows["pair 12"]
    tables["net"].failures["pair 12"] = "Out of memory."
    tables["base_mean"].rows["pair 2"]["EN"] = math.nan
    album = filled(IMAGES[:-1], tables, (48, 64, 3))
    path = write(
        tmp_path_factory.mktemp("report"),
        tables,
        album,
        baselines=["base_mean"],
        elsewhere={"theirs": dict.fromkeys(COLUMNS, 5.0), "half": {"EN": 2.0}},
        source_titles=("near", "far"),
        remarks=["A remark."],
        command="mgdn eval " + "a-very-long-argument/" * 20,
    )
    return path.as_uri()


@pytest.fixture
def opened(browser, address):
    """Opens the page at a size; at the end nothing may have been said, asked or gone wrong."""
    said, asked, pages = [], [], []

    def visit(width=1280, height=900, **options):
        context = browser.new_context(
            viewport={"width": width, "height": height}, reduced_motion="reduce", **options
        )
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        pages.append(page)
        return page

    yield visit
    for page in pages:
        page.context.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {address}


def names_of(page, selector="#means-table"):
    return page.eval_on_selector_all(f"{selector} tbody th", "all => all.map(x => x.dataset.value)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_page_opens_quietly_and_fits_the_window(opened, width, scheme):
    page = opened(width, 800, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for section in ("#viewer", "#plots", "#images"):
        assert page.is_visible(section)
    assert page.locator("#plot-cards .plot").count() == len(COLUMNS)
    page.click("#beside")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    bright = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (bright[0] > bright[1]) == (scheme == "dark")


def test_a_wide_table_says_that_it_scrolls(opened):
    page = opened(390, 844)
    frame, box = (page.locator(f"#means {name}") for name in (".frame", ".scroll"))
    hint = page.locator("#means .swipe")
    shadow = "x => getComputedStyle(x, '::after').opacity"
    until(page, "document.querySelector('#means .frame').matches('.wide.more')")
    assert hint.is_visible()
    faded = "getComputedStyle(document.querySelector('#means .frame'), '::after').opacity"
    until(page, f"{faded} === '1'")
    assert frame.bounding_box()["width"] <= 390
    box.evaluate("x => { x.scrollLeft = x.scrollWidth; }")
    until(page, "!document.querySelector('#means .frame').matches('.more')")
    assert not hint.is_visible()
    page = opened(1280)
    assert page.locator("#means .frame").get_attribute("class") == "frame"
    assert page.locator("#means .frame").evaluate(shadow) == "0"
    assert not page.locator("#means .swipe").is_visible()


def test_table_sorts_by_click_and_by_keyboard(opened):
    page = opened()
    head = page.locator("#means-table thead th")
    assert head.nth(1).get_attribute("aria-sort") == "ascending"
    head.nth(2).locator("button").click()  # EN, higher is better: the best first
    assert head.nth(2).get_attribute("aria-sort") == "descending"
    assert head.nth(1).get_attribute("aria-sort") is None
    values = page.eval_on_selector_all(
        "#means-table tbody tr", "all => all.map(x => Number(x.cells[2].dataset.value))"
    )
    assert values == sorted(values, reverse=True)
    page.keyboard.press("Enter")
    assert head.nth(2).get_attribute("aria-sort") == "ascending"
    assert names_of(page)[0] == "half"
    head.nth(1).locator("button").focus()
    page.keyboard.press("Space")
    assert names_of(page)[-1] == "half"  # it has no rank
    page.keyboard.press("Space")
    assert names_of(page)[-1] == "half"


def test_slider_moves_by_keyboard_and_pointer(opened):
    page = opened()
    width = page.eval_on_selector("#stage", "x => x.clientWidth")
    page.focus("#slider")
    middle = cut(page)
    assert middle == pytest.approx(width / 2, abs=1)
    page.keyboard.press("ArrowRight")
    assert page.input_value("#slider") == "51"
    assert cut(page) == pytest.approx(middle - width / 100, abs=1)
    page.keyboard.press("Home")
    assert cut(page) == pytest.approx(width, abs=1)
    page.keyboard.press("End")
    assert cut(page) == pytest.approx(0, abs=1)
    box = page.locator("#stage").bounding_box()
    y = box["y"] + box["height"] - 40
    page.mouse.move(box["x"] + 20, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, y)
    page.mouse.up()
    assert page.input_value("#slider") == "25"
    page.keyboard.press("ArrowLeft")  # the click has put the focus on the picture
    assert page.input_value("#slider") == "24"


def transforms(page):
    return page.eval_on_selector_all(".pane img", "all => all.map(x => x.style.transform)")


def test_zoom_and_pan_are_the_same_on_both_sides(opened):
    page = opened()
    page.focus("#stage")
    page.keyboard.press("b")
    assert page.get_attribute("#beside", "aria-pressed") == "true"
    boxes = [page.locator(f"#pane-{side}").bounding_box() for side in ("left", "right")]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"] + 1
    assert boxes[0]["width"] == pytest.approx(boxes[1]["width"], abs=0.5)
    seen = [transforms(page)[0]]

    def changed():
        left, right = transforms(page)
        assert left == right
        assert left != seen[-1]
        seen.append(left)

    page.keyboard.press("+")
    changed()
    page.click("#zoom-in")
    changed()
    boxes = [page.locator(f"#pane-{side}").bounding_box() for side in ("left", "right")]
    middle = [(b["x"] + b["width"] / 2, b["y"] + b["height"] / 2) for b in boxes]
    page.mouse.move(*middle[1])
    page.mouse.down()
    page.mouse.move(middle[1][0] - 30, middle[1][1] - 20)
    page.mouse.up()
    changed()
    page.mouse.wheel(0, -100)
    for _ in range(500):  # the browser may take its time over a wheel
        if transforms(page)[0] != seen[-1]:
            break
        page.wait_for_timeout(20)
    changed()
    page.keyboard.press("ArrowRight")
    changed()
    assert page.eval_on_selector(".pane img", "x => getComputedStyle(x).imageRendering") == (
        "pixelated"
    )
    page.click("#zoom-one")
    changed()
    assert page.text_content("#zoom") == "100 %"
    assert page.eval_on_selector(".pane img", "x => getComputedStyle(x).imageRendering") == "auto"
    page.mouse.dblclick(*middle[0])
    left, right = transforms(page)
    assert left == right == seen[0]


def test_two_fingers_zoom(opened):
    page = opened(390, 844, has_touch=True)
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before = page.text_content("#zoom")
    session = page.context.new_cdp_session(page)
    for kind, apart in (("Start", 30), ("Move", 45), ("Move", 60), ("End", None)):
        points = [] if apart is None else [{"x": x - apart, "y": y}, {"x": x + apart, "y": y}]
        points = [{**point, "id": i} for i, point in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    session.detach()
    after = page.text_content("#zoom")
    percent = [int(text.split()[0]) for text in (before, after)]
    assert percent[1] == pytest.approx(2 * percent[0], rel=0.02)
    left, right = transforms(page)
    assert left == right


def test_dot_opens_its_image_in_the_viewer(opened):
    page = opened()
    page.locator(".plot").nth(1).scroll_into_view_if_needed()  # it is drawn when it comes near
    dot = page.locator(".plot").nth(1).locator(".dot").last
    image = dot.get_attribute("aria-label").split(",")[0]
    dot.scroll_into_view_if_needed()
    dot.hover()
    assert image in page.text_content("#tip")
    dot.click()
    assert page.locator("#pick-image option:checked").text_content().startswith(image)
    assert abs(page.locator("#viewer").bounding_box()["y"]) < 40
    page.click("#back")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith(image)
    page.keyboard.press("ArrowLeft")  # walks to the dot of the next smaller value
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("Enter")
    assert page.locator("#pick-image option:checked").text_content().startswith(label.split(",")[0])
    assert page.locator("#pick-right option:checked").text_content() in label


def test_viewer_walks_through_the_images_and_shows_their_scores(opened, address):
    page = opened()
    first = page.get_attribute("#pane-right img", "src")
    page.focus("#stage")
    page.keyboard.press("]")
    assert page.input_value("#pick-image") == "1"
    assert page.get_attribute("#pane-right img", "src") != first
    page.keyboard.press("PageUp")
    assert page.get_attribute("#pane-right img", "src") == first
    page.select_option("#pick-left", label="net")
    page.select_option("#pick-right", label="base_mean")
    assert page.text_content("#pane-left figcaption") == "net"
    page.click("#swap")
    assert page.text_content("#pane-left figcaption") == "base_mean"
    head = page.locator("#scores-table thead th").all_text_contents()
    assert head == ["metric", "base_mean", "net", "best"]
    page.select_option("#pick-image", label="pair 2")
    assert page.locator("#scores-table tbody td").first.text_content() == "NaN"
    page.select_option("#pick-image", index=11)  # no pictures, and one method failed
    assert page.text_content("#pane-right .missing") == "Out of memory."
    assert page.is_disabled("#next")


def test_scores_per_image_sort_and_open(opened):
    page = opened()
    assert page.locator("#images-table tbody tr").count() == 12
    page.select_option("#pick-view", value="metric 3")  # MSE: lower is better
    head = page.locator("#images-table thead th")
    head.nth(1).locator("button").click()
    assert head.nth(1).get_attribute("aria-sort") == "ascending"
    values = page.eval_on_selector_all(
        "#images-table tbody tr", "all => all.map(x => Number(x.cells[1].dataset.value))"
    )
    assert values == sorted(values)
    for row in page.locator("#images-table tbody tr").all()[:3]:
        cells = [text for text in row.locator("td").all_text_contents() if text != "failed"]
        shown = [float(text.split()[0]) for text in cells]
        best = row.locator("strong.best").first.text_content()
        assert float(best.split()[0]) == min(shown)
    names = names_of(page, "#images-table")
    page.locator("#images-table tbody tr").nth(4).locator("td").first.click()
    assert page.locator("#pick-image option:checked").text_content().startswith(names[4])
    page.select_option("#pick-view", label="net")
    assert head.count() == 1 + len(COLUMNS)
    head.nth(0).locator("button").click()
    assert names_of(page, "#images-table") == IMAGES  # naturally: 2 before 10
    assert page.locator("#images-table tbody tr").last.locator("td").first.text_content() == (
        "failed"
    )


def test_names_reach_the_page_as_text(opened):
    page = opened()
    assert page.locator("body img[src=x]").count() == 0
    shown = page.locator("#pick-right option").all_text_contents()
    assert any("onerror" in text and "</script>" in text for text in shown)


def test_metric_groups_are_told(tmp_path):
    text = write(tmp_path, {"m": table(0, ["x"])}).read_text()
    for name in COLUMNS:
        assert f"<dt>{ruler.resolve(name).group}</dt>" in text
    assert report.SOURCES == ("a", "b")
