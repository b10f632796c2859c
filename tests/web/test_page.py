import io
import re

import numpy as np
import pytest
from PIL import Image
from serve_helpers import BrightnessPredictor, encoded
from web_helpers import open_page

from fathom.io import read_depth, read_image

pytestmark = pytest.mark.slow

PHOTO = encoded(120, 160, seed=7)
NUMBER = re.compile(r"-?[0-9]+\.[0-9]+")


def upload(page, content=PHOTO, name="room.png"):
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})
    page.wait_for_selector("#facts dt")
    page.wait_for_selector("#busy", state="hidden")


def direct(content=PHOTO):
    return BrightnessPredictor().predict(read_image(content)).values


def read_at(page, x, y):
    """Move the mouse over a pixel of the picture and return what the page says."""
    box = page.locator("#probe").bounding_box()
    page.mouse.move(box["x"] + (x + 0.5) / 160 * box["width"], box["y"] + (y + 0.5) / 120 * box["height"])
    return page.inner_text("#readout")


def test_hovering_reads_the_value_with_its_unit(page):
    upload(page)
    for x, y in [(3, 100), (140, 20)]:
        text = read_at(page, x, y)
        assert re.search(r"Depth [0-9.]+ m\b", text), text
        at = re.search(r"x (\d+), y (\d+)", text)
        expected = direct()[int(at[2]), int(at[1])]
        assert float(NUMBER.search(text)[0]) == pytest.approx(float(expected), abs=0.006)


def test_a_relative_map_says_so_and_offers_no_points(page):
    upload(page)
    page.select_option("#right-source", "relative")
    page.wait_for_selector("#download-note:not([hidden])")
    assert "relative, no unit" in read_at(page, 40, 50)
    assert page.is_disabled("button[data-format=ply]") and page.is_enabled("button[data-format=npy]")


def test_two_models_are_compared(page):
    upload(page)
    page.select_option("#left-source", "relative")
    page.wait_for_selector("#left-tag:text-is('relative')")
    text = read_at(page, 40, 50)
    assert "relative: Nearness" in text and "metric: Depth" in text


@pytest.mark.parametrize("form", ["color", "png16", "npy", "npz", "json", "ply", "glb"])
def test_every_format_is_downloaded(page, tmp_path, form):
    upload(page)
    with page.expect_download() as waiting:
        page.click(f"button[data-format={form}]")
    download = waiting.value
    assert download.suggested_filename.startswith("room")
    path = tmp_path / download.suggested_filename
    download.save_as(path)
    if form in ("npz", "png16"):
        np.testing.assert_allclose(read_depth(path).values, direct(), atol=0 if form == "npz" else 6e-4)
    elif form == "color":
        with Image.open(path) as picture:
            assert picture.size == (160, 120)
    else:
        assert path.stat().st_size > 1000


def test_the_3d_view_turns_by_mouse_and_by_keys(page):
    upload(page)
    page.click("#tab-space")
    page.wait_for_selector("#space-canvas[data-points]")
    assert int(page.get_attribute("#space-canvas", "data-points")) > 5000
    seen = [page.get_attribute("#space-canvas", "data-view")]
    box = page.locator("#space-canvas").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 230, steps=4)
    page.mouse.up()
    page.wait_for_selector(f"#space-canvas:not([data-view='{seen[0]}'])")
    seen.append(page.get_attribute("#space-canvas", "data-view"))
    page.focus("#space-canvas")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector(f"#space-canvas:not([data-view='{seen[1]}'])")
    picture = np.asarray(Image.open(io.BytesIO(page.locator("#space-canvas").screenshot())).convert("RGB"))
    assert picture.std() > 5  # something is drawn
    page.select_option("#shape", "mesh")
    assert page.is_hidden("#space-note")


def test_a_bad_file_shows_why_and_the_page_goes_on(page):
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"this is no picture"})
    page.wait_for_selector("#problem:not([hidden])")
    assert page.get_attribute("#problem", "role") == "alert"
    assert "Not a picture" in page.inner_text("#problem")
    assert page.is_visible("#choose")
    upload(page)
    assert page.is_hidden("#problem")
    page.set_input_files("#file", {"name": "b.png", "mimeType": "image/png", "buffer": PHOTO[:200]})
    page.wait_for_selector("#problem:not([hidden])")
    assert page.inner_text("#file-name") == "room.png"  # the good photo is still there


def test_the_keyboard_alone_is_enough(page):
    upload(page)
    page.focus("#probe")
    page.keyboard.press("ArrowRight")
    first = page.inner_text("#readout")
    page.keyboard.press("Shift+ArrowDown")
    second = page.inner_text("#readout")
    assert first != second and "Depth" in second
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.id") == "split"
    page.keyboard.press("End")
    assert page.get_attribute("#split", "aria-valuenow") == "100"
    page.focus("#tab-map")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-space", "aria-selected") == "true"
    assert page.evaluate("() => document.activeElement.id") == "tab-space"
    page.keyboard.press("ArrowLeft")
    page.focus("#low")
    before = page.inner_text("#low-text")
    for _ in range(200):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("#low-text") != before


def test_everything_that_acts_has_a_name(page):
    upload(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input:not([hidden]), [tabindex='0']")]
            .filter((one) => !(one.ariaLabel || one.innerText.trim() || one.labels?.length))
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.get_attribute("#readout", "aria-live") == "polite"
    assert page.inner_text("#status").startswith("Ready. Depth from")


def test_a_photo_can_be_dropped_pasted_and_taken(page):
    transfer = page.evaluate_handle(
        """(bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
            return transfer;
        }""",
        list(PHOTO),
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    page.wait_for_selector("#file-name:text-is('dropped.png')")
    page.wait_for_selector("#facts dt")
    page.evaluate(
        "(transfer) => window.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer }))", transfer
    )
    page.wait_for_selector("#file-name:text-is('pasted photo')")
    page.click("#again")
    page.click("#shoot")
    page.wait_for_selector("#camera[open]")
    page.wait_for_timeout(500)
    page.click("#snap")
    page.wait_for_selector("#file-name:text-is('camera photo')")
    page.wait_for_selector("#busy", state="hidden")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(browser, address, scheme):
    page = open_page(browser, address, viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
    for step in (lambda: None, lambda: upload(page), lambda: page.click("#tab-space")):
        step()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 384) == (scheme == "dark")
    page.context.close()
