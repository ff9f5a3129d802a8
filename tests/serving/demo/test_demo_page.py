"""The page in a real browser: files are dropped, the slider moves by keyboard, the result loads."""

import base64
import io
import pathlib
import re
import threading
import time

import numpy as np
import pytest
from helpers_browser import cut, until
from helpers_cli import save_model

import mgdn_jax
from mgdn_jax.evaluation import pages
from mgdn_jax.fusing.tasks import TASKS
from mgdn_jax.io import codec, profiles, reading
from mgdn_jax.io.pictures import Labels
from mgdn_jax.serving.demo import samples, server, studio, wire
from mgdn_jax.serving.demo.page import page as made_page

PAIRS = {task: names for _, _, task, names in samples.PAIRS}
DROP = """([name, files]) => {
  const carried = new DataTransfer();
  for (const [title, content] of files) {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    carried.items.add(new File([bytes], title));
  }
  const target = document.querySelector(name);
  for (const type of ['dragenter', 'dragover', 'drop']) {
    const options = { bubbles: true, cancelable: true, dataTransfer: carried };
    target.dispatchEvent(new DragEvent(type, options));
  }
}"""


def serve(room, first=""):
    """A server that runs in a thread of its own."""
    networks = list(room.networks.values())
    found = server.Server(room, made_page(networks, room.limits, first), "127.0.0.1", 0)
    threading.Thread(target=found.serve_forever, args=(0.05,), daemon=True).start()
    return found


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The page with a network of one parameter, which is chosen at first."""
    path = tmp_path_factory.mktemp("model") / "fake.safetensors"
    save_model(path)
    limits = wire.Limits(bytes=3_000_000)
    found = serve(studio.Studio(studio.offers([str(path)]), limits, trust=True), "fake")
    yield found
    found.shutdown()
    assert found.stop(20)


@pytest.fixture
def opened(browser):
    """Opens a page at a size; at the end nothing may have been said, or asked of elsewhere."""
    said, asked, contexts = [], [], []

    def visit(found, width=1280, height=900, **options):
        context = browser.new_context(
            viewport={"width": width, "height": height}, reduced_motion="reduce", **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", lambda request: asked.append((request.url, found.url)))
        page.goto(found.url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert said == []
    assert not [url for url, home in asked if not url.startswith((home, "data:", "blob:"))]


def drop(page, files, target="#drop"):
    content = [[name, base64.b64encode(data).decode()] for name, data in files]
    page.evaluate(DROP, [target, content])


def example(task):
    return [(name, samples.SAMPLES[name].content()) for name in PAIRS[task]]


def halved(files):
    """Pictures of half the height and width, without loss."""
    small = [(name, reading.plain(content, name)[::2, ::2]) for name, content in files]
    return [(name, codec.encode_png(pixels)) for name, pixels in small]


def fused(page, seconds=60):
    """Waits for the end of the work; the complaint, or nothing."""
    for _ in range(20 * seconds):
        if page.is_hidden("#progress"):
            return page.text_content("#error")
        page.wait_for_timeout(50)
    pytest.fail("the work never ended")


def saved(page):
    """The file that the page hands out."""
    with page.expect_download() as waiting:
        page.click("#download")
    content = pathlib.Path(waiting.value.path()).read_bytes()
    return waiting.value.suggested_filename, reading.read(io.BytesIO(content), "the download")


@pytest.mark.parametrize("task", TASKS)
def test_two_files_are_dropped_compared_by_keyboard_and_downloaded(opened, quick, task):
    page = opened(quick)
    drop(page, halved(example(task)))
    assert page.locator("#chosen li").count() == 2
    page.click("#fuse")
    assert fused(page) == ""
    assert f"Task: {task}, proposed from the pictures. Network: fake." in page.text_content(
        "#about"
    )
    assert page.evaluate("document.activeElement.id") == "viewer-title"

    width = page.eval_on_selector("#stage", "x => x.clientWidth")
    page.focus("#slider")
    covered = [cut(page)]
    assert covered[0] == pytest.approx(width / 2, abs=1)
    for key in ("ArrowRight", "End"):
        page.keyboard.press(key)
        covered.append(cut(page))
    assert covered == sorted(covered, reverse=True)
    assert page.input_value("#slider") == "100"
    names = page.locator("#pick-left option").all_text_contents()
    assert names == [*sorted(PAIRS[task], key=names.index), "result"]
    assert page.text_content("#pane-right figcaption") == "result"
    assert page.locator("#scores-table tr").count() == 8

    name, picture = saved(page)
    assert re.fullmatch(r"\w+_fused\.png", name)
    assert picture.pixels.dtype == np.uint8
    size = page.eval_on_selector("#pane-right img", "x => [x.naturalHeight, x.naturalWidth]")
    assert list(picture.pixels.shape[:2]) == size


def test_all_of_it_works_by_keyboard_alone(opened, quick):
    page = opened(quick)
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('#samples button')"):
            break
    page.keyboard.press("Enter")
    until(page, "document.activeElement.id === 'fuse'")
    page.keyboard.press("Enter")
    assert fused(page) == ""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "download"
    page.focus("#chosen li:first-child button:nth-child(2)")
    until(page, "document.activeElement.title === 'Move down'")
    first = page.locator("#chosen li .name").first.get_attribute("title")
    page.keyboard.press("Enter")
    assert page.locator("#chosen li .name").last.get_attribute("title") == first
    until(page, "document.activeElement.title === 'Move up'")
    page.locator("#chosen button[title=Remove]").last.press("Enter")
    assert page.locator("#chosen li").count() == 1


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_fits_the_window_before_and_after(opened, quick, width, scheme):
    page = opened(quick, width, 844, has_touch=width == 390, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.set_input_files(
        "#files",
        [{"name": f"{'long name ' * 9}{k}.png", "mimeType": "image/png", "buffer": content}
         for k, (_, content) in enumerate(example("medical"))],
    )  # fmt: skip
    (page.tap if width == 390 else page.click)("#fuse")
    assert fused(page) == ""
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("#stage").bounding_box()["width"] <= width
    page.click("#beside")
    page.locator("#more summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for name in ("#fuse", "#download", "#swap"):
        assert page.locator(name).bounding_box()["height"] >= 40


def test_a_profile_survives(opened, quick):
    labels = Labels(profile=profiles.srgb())
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 65535, (40, 60, 3), np.uint16) for _ in range(2)]
    page = opened(quick)
    drop(page, [(f"{k}.png", codec.encode_png(x, labels)) for k, x in enumerate(pixels)], "h1")
    page.select_option("#task", "thermal")
    page.click("#fuse")
    assert fused(page) == ""
    assert "with its colour profile" in page.text_content("#about")
    _, picture = saved(page)
    assert picture.pixels.dtype == np.uint16
    assert picture.labels.profile == labels.profile


def test_bad_files_end_in_a_sentence(opened, quick):
    page = opened(quick)
    good = example("medical")[0]
    flat = codec.encode_png(np.full((40, 60), 120, np.uint8))
    # A TIFF, which the browser does not try to show: it would unpack 800 MB for a thumbnail.
    large = codec.encode(np.zeros((10_000, 20_000), np.uint8), ".tif")
    cases = (
        ([], "Choose two pictures or more first."),
        ([good], "Not fused: head_ct.png is alone; choose two pictures or more."),
        ([("large.tif", large), good],
         "Not fused: large.tif has more than 100 megapixels; scale or cut it first."),
        ([good, ("notes.png", b"a text file that was renamed\n")],
         "Not fused: notes.png is not an image but text; give the image file."),
        ([good, ("heavy.png", bytes(3_000_000))],
         "The files have more than 2 MB together; choose fewer or smaller ones."),
        ([("a.png", flat), ("b.png", flat)],
         "Not fused: the pictures do not show clearly what they are for; choose the task."),
    )  # fmt: skip
    for files, sentence in cases:
        page.reload()
        drop(page, files)
        page.click("#fuse")
        assert fused(page) == sentence
        assert page.evaluate("document.activeElement.id") == "error"
        assert page.is_hidden("#viewer")
        assert not page.is_disabled("#fuse")


class Slow(studio.Studio):
    """Never ends by itself."""

    ended = False

    def fuse(self, request, say):
        try:
            for done in range(10_000):
                say({"step": "fusing", "done": done % 100, "total": 100})
                time.sleep(0.02)
        finally:
            self.ended = True


def test_work_is_shown_and_can_be_cancelled(opened):
    room = Slow([], wire.Limits())
    found = serve(room)
    page = opened(found)
    drop(page, example("medical"))
    page.click("#fuse")
    until(page, "document.querySelector('#status').textContent.startsWith('Fusing: ')")
    assert page.is_disabled("#fuse")
    assert page.evaluate("document.activeElement.id") == "cancel"
    page.keyboard.press("Enter")
    assert fused(page) == "Cancelled."
    for _ in range(400):
        if room.ended:
            break
        time.sleep(0.02)
    assert room.ended
    page.click("#fuse")
    until(page, "document.querySelector('#status').textContent.startsWith('Fusing: ')")
    found.shutdown()
    assert found.stop(20)
    assert "start mgdn demo again" in fused(page)


def test_text_of_files_enters_as_text(opened, quick):
    page = opened(quick)
    name = "<img src=x onerror=alert(1)>.png"
    drop(page, [(name, content) for _, content in example("medical")])
    page.click("#fuse")
    assert fused(page) == ""
    options = page.locator("#pick-left option").all_text_contents()
    assert options[0] == name
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
def test_bundled_networks_give_what_the_library_gives(opened, task):
    room = studio.Studio(studio.offers(), wire.Limits())
    found = serve(room)
    page = opened(found)
    index = list(PAIRS).index(task)
    page.locator("#samples button").nth(index).click()
    until(page, "document.activeElement.id === 'fuse'")
    page.click("#fuse")
    assert fused(page, 600) == ""
    model = TASKS[task].model
    assert f"Task: {task}, proposed from the pictures. Network: {model}." in page.text_content(
        "#about"
    )
    pictures = [reading.plain(content, name) for name, content in example(task)]
    wanted = mgdn_jax.load(model).fuse(*pictures, options=TASKS[task].options)
    np.testing.assert_array_equal(saved(page)[1].pixels, wanted.pixels)
    found.shutdown()
    assert found.stop(20)


def test_parts_of_the_page_have_no_placeholder_left(quick):
    assert not re.search(rb"\{\{\w+\}\}", quick.page.content)
    assert set(pages.STAGE) == {"picks", "stage", "keys"}
