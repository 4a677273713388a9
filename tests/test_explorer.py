"""The explorer shows what it is given, as a widget, as a page and in a real browser."""

import base64
import io
import json
import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import av
import nbformat
import numpy as np
import pandas as pd
import pytest
from browser import Browser, find
from PIL import Image

from book import explorer, widget
from stce.clips import Clips
from stce.concepts import Concepts
from stce.supervoxels import Supervoxels
from stce.viz.pictures import EDGE

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "explore.ipynb"
RED, BLUE, GREY = (220, 30, 30), (40, 60, 220), (120, 120, 120)
T, H, W, SIDE = 6, 30, 40, 8


@pytest.fixture(scope="module")
def world():
    """Cubes that move right over grey ground, red in two clips and blue in two.

    In the class of the red ones the cube is the first concept and the ground the second; in that
    of the blue ones there is the cube only.
    """
    frames = np.full((4, T, H, W, 3), GREY, np.uint8)
    labels = np.ones((4, 1, T, H, W), np.uint8)
    for clip, (colour, top) in enumerate([(RED, 1), (RED, 20), (BLUE, 1), (BLUE, 20)]):
        for t in range(T):
            box = np.s_[t, top : top + SIDE, 2 * t : 2 * t + SIDE]
            frames[clip][box], labels[clip, 0][box] = colour, 2
    clips = Clips(frames, [0, 0, 1, 1], list("abcd"), ["p"] * 4, ("red <b>", "blue"))
    table = pd.DataFrame(
        [(v, 0, label) for v in range(4) for label in (1, 2)], columns=["video", "level", "label"]
    )
    # Rows 1, 3, 5, 7 are the cubes; the first concept names row 3 twice, as two levels may.
    members = [("red <b>", 4, row) for row in (3, 3, 1)] + [("red <b>", 7, 0), ("red <b>", 7, 2)]
    members += [("blue", 4, 5), ("blue", 4, 7)]
    rows = pd.DataFrame(members, columns=["class", "concept", "supervoxel"])
    rows["rank"] = rows.groupby(["class", "concept"]).cumcount()
    scores = pd.DataFrame(
        [
            ("red <b>", 7, 2, 0.25, 0.125, 0.5, "chance"),
            ("red <b>", 4, 1, 1.0, 0.875, 1.0, "for"),
            ("blue", 4, 1, 0.75, 0.5, 1.0, "not separable"),
        ],
        columns=["class", "concept", "rank", "score", "ci_low", "ci_high", "verdict"],
    )
    return clips, Supervoxels(labels, table), Concepts(rows, None, {}), scores


@pytest.fixture(scope="module")
def page(world):
    return explorer.page(*world, scale=2)


def data(page):
    """Return what the page knows."""
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)
    return json.loads(text)


def decode(text):
    """Return the frames of a video in base64, (T, H, W, 3)."""
    with av.open(io.BytesIO(base64.b64decode(text))) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def test_page_knows_every_concept_by_rank_and_one_supervoxel_a_clip(page):
    red, blue = data(page)["classes"]
    assert [red["name"], blue["name"]] == ["red <b>", "blue"]
    first, second = red["concepts"]
    assert [first["rank"], first["score"], first["low"], first["sure"]] == [1, 1, 0.875, True]
    assert [second["rank"], second["high"], second["sure"]] == [2, 0.5, False]
    assert first["text"] == (
        "red <b>, concept of rank 1 of 2: score 1.00 (95 % interval 0.88 to 1.00)."
    )
    share = 100 * SIDE**2 / (H * W)
    assert [example["text"] for example in first["examples"]] == [
        f"Supervoxel 1 of 2: clip b, lower left, frames 1 to 6, {share:.1f} % of the clip.",
        f"Supervoxel 2 of 2: clip a, upper left, frames 1 to 6, {share:.1f} % of the clip.",
    ]


def test_video_has_the_overlays_side_by_side(page):
    film = decode(data(page)["classes"][0]["concepts"][0]["examples"][0]["video"])
    assert film.shape == (T, 2 * H, 3 * 2 * W, 3)
    cube, ground = (3, 2 * 24, 2 * 10), (3, 2 * 5, 2 * 30)
    border = (3, 2 * 20 + 1, 2 * 10)
    lit, outlined, raw = np.split(film.astype(int), 3, axis=2)
    for pane, expected in [
        (lit, (RED, np.array(GREY) * 0.3, EDGE)),
        (outlined, (RED, GREY, EDGE)),
        (raw, (RED, GREY, RED)),
    ]:
        for where, colour in zip((cube, ground, border), expected, strict=True):
            assert np.abs(pane[where] - colour).max() < 45, (where, pane[where], colour)


def test_page_can_leave_out_overlays_and_examples(world):
    small = data(explorer.page(*world, n_examples=1, overlays=("outline",)))
    assert [overlay["name"] for overlay in small["overlays"]] == ["outline"]
    examples = [c["examples"] for k in small["classes"] for c in k["concepts"]]
    assert [len(e) for e in examples] == [1, 1, 1]
    assert decode(examples[0][0]["video"]).shape == (T, H, W, 3)


def test_odd_sizes_keep_exact_edges_between_overlays(world):
    clips, supervoxels, *rest = world
    odd = Clips(clips.frames[:, :, :29, :39], clips.labels, clips.ids, clips.groups, clips.classes)
    cut = Supervoxels(supervoxels.labels[..., :29, :39], supervoxels.table)
    page = explorer.page(odd, cut, *rest)
    film = decode(data(page)["classes"][0]["concepts"][0]["examples"][0]["video"])
    assert film.shape == (T, 30, 3 * 40, 3)
    assert "--shape: 1.33333; --panes: 3" in page


def test_page_is_the_same_each_time_whole_and_safe(world, page):
    assert explorer.page(*world, scale=2) == page
    assert "://" not in page
    assert "<b>," not in page
    assert "{{" not in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_examples": 0}, "n_examples is 0"),
        ({"overlays": ("glow",)}, "choose some of highlight, outline, raw"),
        ({"overlays": ()}, "choose some of"),
    ],
)
def test_page_refuses_what_it_cannot_show(world, change, message):
    with pytest.raises(ValueError, match=message):
        explorer.page(*world, **change)


@pytest.mark.parametrize("show", [explorer.page, widget.explore])
def test_scores_must_fit_the_concepts(world, show):
    *rest, scores = world
    with pytest.raises(ValueError, match=r"lacks the columns \['ci_low'\]"):
        show(*rest, scores.drop(columns="ci_low"))
    with pytest.raises(ValueError, match="concept 5 of class 'blue'"):
        show(*rest, pd.concat([scores, scores.tail(1).assign(concept=5)]))


def parts(widget):
    """Return the widget's parts: those with a description by it, the others by type."""
    found = {}
    for child in getattr(widget, "children", ()):
        found[getattr(child, "description", "") or type(child).__name__] = child
        found |= parts(child)
    return found


def picture_of(part):
    """Return the PNG, the alternative text and the width of the widget's picture."""
    pattern = r'<img src="data:image/png;base64,(.*?)" alt="(.*?)" width="(\d+)"'
    data, alt, width = re.match(pattern, part["HBox"].children[0].value).groups()
    return base64.b64decode(data), alt, int(width)


def pixels(part):
    return np.asarray(Image.open(io.BytesIO(picture_of(part)[0])).convert("RGB"))


def test_widget_draws_what_is_chosen(world):
    part, seen = parts(widget.explore(*world, width=80)), []
    assert pixels(part).shape == (H, W, 3)
    assert part["Class"].options == ("red <b>", "blue")
    assert part["Concept"].label == "1: score 1.00"
    assert part["Supervoxel"].max == 3
    assert tuple(pixels(part)[24, 4]) == RED
    for name, value in [
        ("Frame", 4),
        ("Overlay", "outline"),
        ("Overlay", "raw"),
        ("Supervoxel", 3),
        ("Overlay", "highlight"),
        ("Concept", 7),
        ("Class", "blue"),
    ]:
        seen.append(picture_of(part)[0])
        part[name].value = value
        assert picture_of(part)[0] not in seen, name
    assert tuple(pixels(part)[4, 10]) == BLUE
    part["Overlay"].value = "side by side"
    assert pixels(part).shape == (H, 3 * W, 3)
    assert picture_of(part)[2] == 2 * 3 * W


def test_widget_says_what_it_shows(world):
    part = parts(widget.explore(*world))
    share = 100 * SIDE**2 / (H * W)
    assert unescape(picture_of(part)[1]) == (
        "red <b>, concept of rank 1 of 2: score 1.00 (95 % interval 0.88 to 1.00). "
        f"Supervoxel 1 of 3: clip b, lower left, frames 1 to 6, {share:.1f} % of the clip. "
        "The supervoxel is lit, the rest of the clip dimmed."
    )
    assert part["HTML"].value.startswith("red &lt;b&gt;, concept")
    part["Class"].value = "blue"
    assert "clip c, upper left" in picture_of(part)[1]
    assert part["Supervoxel"].value == 1


def test_a_notebook_is_live_where_a_server_names_it(monkeypatch):
    # A real shell would write its history into the reader's home.
    monkeypatch.setattr(widget, "get_ipython", lambda: SimpleNamespace(user_ns={}))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert not widget.is_live()
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/explore.ipynb")
    assert widget.is_live()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if find() is None:
        pytest.skip("no Chromium or Chrome on this machine")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(params=["light", "dark"])
def shown(request, browser, page, tmp_path):
    """The browser with two explorers in one page, still, at the first frame."""
    file = tmp_path / "page.html"
    start = f'<!doctype html><html lang="en" data-theme="{request.param}"><meta charset="utf-8">'
    file.write_text(f"{start}<title>two</title><body>{page}<hr>{page}", encoding="utf-8")
    browser.open(file)
    browser.wait("[...document.querySelectorAll('video')].every((v) => v.readyState == 4)")
    browser.evaluate("document.querySelectorAll('video').forEach((v) => v.pause())")
    step(browser, 1)
    return browser


FIRST = "document.querySelector('.stce-explorer')"


def choose(browser, name, index):
    """Choose from a list of the first explorer, as a reader does."""
    browser.evaluate(
        f"(() => {{ const list = {FIRST}.querySelector('[data-part={name}]'); "
        f"list.value = {index}; list.dispatchEvent(new Event('change')); }})()"
    )
    browser.wait(f"{FIRST}.querySelector('video').readyState == 4")


def step(browser, frame):
    """Go to a frame of the first explorer, counted from 1."""
    browser.evaluate(
        f"(() => {{ const input = {FIRST}.querySelector('[data-part=frame]'); "
        f"input.value = {frame}; input.dispatchEvent(new Event('input')); }})()"
    )
    browser.wait(f"!{FIRST}.querySelector('video').seeking")


def picture(browser):
    return browser.screenshot(".stce-explorer video").astype(int)


def alt(browser):
    return browser.evaluate(f"{FIRST}.querySelector('video').getAttribute('aria-label')")


def text(browser, name):
    return browser.evaluate(f"{FIRST}.querySelector('[data-part={name}]').textContent")


def test_browser_loads_the_page_without_network_or_complaint(shown):
    assert shown.evaluate(f"{FIRST}.querySelector('video').videoWidth") == 3 * 2 * W
    assert shown.evaluate(f"{FIRST}.querySelector('video').videoHeight") == 2 * H
    choose(shown, "class", 1)
    choose(shown, "overlay", 3)
    assert {url.split(":")[0] for url in shown.requests()} <= {"file", "data", "blob"}
    assert any(url.startswith("file:") for url in shown.requests())
    assert shown.complaints() == []


def test_browser_shows_another_concept_supervoxel_class_and_overlay(shown):
    seen, said = [picture(shown)], [alt(shown)]
    assert said[0].startswith("red <b>, concept of rank 1 of 2: score 1.00")
    for name, index in [("concept", 1), ("example", 1), ("class", 1), ("overlay", 2)]:
        choose(shown, name, index)
        step(shown, 1)
        new = picture(shown)
        assert np.abs(new - seen[-1]).max() > 60, name
        assert alt(shown) not in said, name
        assert alt(shown) == f"{text(shown, 'about')} {text(shown, 'seen')}"
        seen.append(new)
        said.append(alt(shown))
    # Raw: a blue cube at the upper left, grey elsewhere.
    height, width = seen[-1].shape[:2]
    assert np.abs(seen[-1][height * 5 // H, width * 4 // W] - BLUE).max() < 45
    assert np.abs(seen[-1][height // 2, width // 2] - GREY).max() < 20
    # The second explorer has stayed as it was.
    others = "document.querySelectorAll('.stce-explorer video')[1].getAttribute('aria-label')"
    assert shown.evaluate(others) == said[0]


def test_browser_steps_through_the_frames(shown):
    choose(shown, "overlay", 2)
    step(shown, 1)
    assert text(shown, "count") == f"1 of {T}"
    first = picture(shown)
    shown.evaluate(f"{FIRST}.querySelector('[data-part=next]').click()")
    shown.wait(f"{FIRST}.querySelector('[data-part=count]').textContent == '2 of {T}'")
    # The cube has left its first two columns.
    at = first.shape[0] * 24 // H, first.shape[1] * 1 // W
    assert np.abs(first[at] - RED).max() < 45
    assert np.abs(picture(shown)[at] - GREY).max() < 45
    for _ in range(2):
        shown.evaluate(f"{FIRST}.querySelector('[data-part=back]').click()")
        shown.wait(f"!{FIRST}.querySelector('video').seeking")
    assert text(shown, "count") == f"{T} of {T}"


def test_browser_chooses_by_bar_and_by_keyboard(shown):
    bars = f"[...{FIRST}.querySelectorAll('.bar')].map((b) => b.getAttribute('class'))"
    assert shown.evaluate(bars) == ["bar chosen", "bar unsure"]
    shown.evaluate(
        f"{FIRST}.querySelectorAll('.hit')[1].dispatchEvent(new Event('click', {{bubbles: true}}))"
    )
    assert shown.evaluate(bars) == ["bar", "bar unsure chosen"]
    assert "rank 2 of 2" in alt(shown)
    assert shown.evaluate(f"{FIRST}.querySelector('[data-part=concept]').value") == "1"
    assert "rank 2 is marked" in shown.evaluate(
        f"{FIRST}.querySelector('svg').getAttribute('aria-label')"
    )
    for _ in range(2):  # to the list of classes, then to that of concepts
        shown.press("Tab", 9)
    focus = "document.activeElement.closest('label').textContent.trim().split(' ')[0]"
    assert shown.evaluate(focus) == "Concept"
    shown.press("ArrowUp", 38)
    shown.wait(f"{FIRST}.querySelector('[data-part=about]').textContent.includes('rank 1 of 2')")


def luminance(colour):
    values = np.array([float(v) for v in re.findall(r"[\d.]+", colour)[:3]]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    """Return the contrast of two CSS colours as WCAG defines it."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_browser_text_and_marks_stand_out(shown):
    style = "getComputedStyle(document.querySelector('.stce-explorer{}')).{}"
    ground = shown.evaluate(style.format("", "backgroundColor"))
    dark = shown.evaluate("document.documentElement.dataset.theme") == "dark"
    assert (luminance(ground) < 0.1) == dark
    for selector in (" label", " select", " button", " b", " [data-part=seen]", " .legend"):
        assert contrast(shown.evaluate(style.format(selector, "color")), ground) > 7, selector
    assert contrast(shown.evaluate(style.format(" svg text", "fill")), ground) > 7
    for selector in (" .bar.chosen", " .pointer"):
        assert contrast(shown.evaluate(style.format(selector, "fill")), ground) > 3, selector
    assert contrast(shown.evaluate(style.format(" .bar.unsure", "stroke")), ground) > 3


def test_browser_fits_a_narrow_window(browser, page, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(f'<!doctype html><html lang="en"><body>{page}', encoding="utf-8")
    browser.open(file, width=360)
    choose(browser, "overlay", 3)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360


def test_browser_shows_the_stored_notebooks_view(browser, tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
    (view,) = [o.data["text/html"] for o in outputs if "stce-explorer" in str(o.get("data"))]
    file = tmp_path / "page.html"
    file.write_text(f'<!doctype html><meta charset="utf-8"><body>{view}', encoding="utf-8")
    browser.open(file)
    browser.wait("document.querySelector('video').readyState == 4")
    assert browser.evaluate("document.querySelector('video').videoWidth") > 0
    said = set()
    for name in ("class", "concept"):
        last = browser.evaluate(f"document.querySelector('[data-part={name}]').length") - 1
        assert last > 0
        before = picture(browser)
        choose(browser, name, last)
        assert np.abs(picture(browser) - before).max() > 60
        said.add(alt(browser))
    assert len(said) == 2
    assert browser.complaints() == []
    assert {url.split(":")[0] for url in browser.requests()} <= {"file", "data", "blob"}


def test_browser_shows_the_first_concept_without_scripts(browser, page, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(f'<!doctype html><html lang="en"><body>{page}', encoding="utf-8")
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(file)
        browser.wait("document.querySelector('video').readyState == 4")
        assert browser.evaluate("document.querySelector('img').naturalWidth") > 300
        assert browser.evaluate("document.querySelector('img').alt") == alt(browser)
        assert browser.evaluate("document.querySelector('.choices').offsetHeight") == 0
        assert "rank 1 of 2" in text(browser, "about")
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
