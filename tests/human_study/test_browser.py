"""The study in a real browser. Screenshots go to the folder ``$SCREENSHOTS``, when it is set."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from benchmarks.shapes.scene import random_scene, render
from human_study import folder
from human_study.folder import Study
from human_study.tables import AssignmentRow, ImageRow, JudgmentRow, PairRow
from tests.human_study.serving import Served, serve
from tests.human_study.studies import PLAIN

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize

pytestmark = pytest.mark.slow

PLAN = replace(
    PLAIN,
    title="Which image is better?",
    models=("zebra-7b", "okapi-8b"),
    judgments_per_pair=4,
    gold=1,
    gold_from="zebra-7b",
    gold_every=3,
    qualification=2,
    qualification_passes=1,
    minimum_view_ms=400,
    break_every=6,
)
PROMPTS = 8
WINDOW: ViewportSize = {"width": 1280, "height": 800}
PHONE = (390, 844)
#: Milliseconds that a page may take on a machine that has much else to do.
PATIENCE = 180_000


def shapes_study(root: Path) -> Study:
    """One model draws each prompt, the other something else."""
    prompts = {}
    for number in range(PROMPTS):
        scene = random_scene(random.Random(number), count=2)
        first, second = scene.objects
        prompts[f"p{number}"] = f"a photo of a {first.color} {first.shape} and a {second.color} {second.shape}"
        for model, drawn in (("zebra-7b", scene), ("okapi-8b", random_scene(random.Random(100 + number)))):
            (root / model).mkdir(parents=True, exist_ok=True)
            render(drawn).resize((512, 512)).save(root / model / f"p{number}.png")
    return folder.create(root / "study", PLAN, prompts, {model: root / model for model in PLAN.models})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(shapes_study(tmp_path_factory.mktemp("browser"))) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def photograph(page: Page, name: str) -> None:
    """As wide as the window is, and as wide as a phone."""
    target = os.environ.get("SCREENSHOTS")
    if not target:
        return
    window = page.viewport_size or WINDOW
    for prefix, width, height in (("", window["width"], window["height"]), ("phone-", *PHONE)):
        page.set_viewport_size({"width": width, "height": height})
        idle(page)
        page.wait_for_function("document.getAnimations().every(animation => animation.playState !== 'running')")
        # Streamlit scrolls inside the page, so that the window must be as high as what it shows.
        content = int(page.locator(".stMainBlockContainer").evaluate("element => element.scrollHeight"))
        if page.locator(".pair").count() == 0:  # whose images would grow with it
            page.set_viewport_size({"width": width, "height": max(400, content)})
        page.screenshot(path=Path(target) / f"{prefix}{name}.png")
    page.set_viewport_size(window)


def enter(page: Page, served: Served, name: str, admin: bool = False) -> None:
    page.set_default_timeout(PATIENCE)
    page.goto(served.link(name, admin))
    page.get_by_role("button", name="Begin").click()


def ready(page: Page) -> int:
    """Wait until a vote would be taken; returns the assignment on the page."""
    page.locator(".pair [data-choice=left]:not([disabled])").wait_for()
    return assignment(page)


def idle(page: Page) -> None:
    """Wait until the page's script has run to its end."""
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()


def assignment(page: Page) -> int:
    return int(page.locator(".pair").evaluate("root => root.state.assignment"))


def start(page: Page, served: Served, name: str) -> int:
    enter(page, served, name)
    page.get_by_role("button", name="I agree, and begin").click()
    page.get_by_role("button", name="Start").click()
    return ready(page)


#: What the page has come to after a choice on the pair ``before``: a button's or heading's text, or "pair".
STATE = """before => {
    const texts = [...document.querySelectorAll("button, h1")].map(element => element.textContent);
    const named = ["Start", "Go on", "Thank you"].find(name => texts.some(text => text.includes(name)));
    const root = [...document.querySelectorAll("*")].map(element => element.shadowRoot?.querySelector(".pair"));
    const pair = root.find(found => found?.state && found.state.assignment !== before);
    return named ?? (pair && !pair.querySelector("[data-choice=left]").disabled ? "pair" : null);
}"""


def after(page: Page, before: int) -> str:
    return str(page.wait_for_function(STATE, arg=before).json_value())


def next_pair(page: Page, before: int) -> int:
    assert after(page, before) == "pair"
    return assignment(page)


def stored(served: Served, name: str) -> list[Any]:
    annotator = served.study.store.enrol(name).id
    with served.study.store.reading() as connection:
        return list(
            connection.execute(
                select(
                    JudgmentRow, AssignmentRow.kind, (AssignmentRow.left_image == PairRow.first_image).label("first")
                )
                .join(AssignmentRow, JudgmentRow.assignment_id == AssignmentRow.id)
                .join(PairRow, AssignmentRow.pair_id == PairRow.id)
                .where(AssignmentRow.annotator_id == annotator)
                .order_by(JudgmentRow.id)
            )
        )


def better_side(served: Served, shown: int) -> str:
    """The key for the better image of a gold pair, or of the first model."""
    with served.study.store.reading() as connection:
        left = connection.execute(
            select(AssignmentRow.left_image == PairRow.first_image)
            .join(PairRow, AssignmentRow.pair_id == PairRow.id)
            .where(AssignmentRow.id == shown)
        ).scalar_one()
    return "ArrowLeft" if left else "ArrowRight"


def test_a_whole_study_by_keyboard(served: Served, browser: Browser) -> None:
    page = browser.new_page(viewport=WINDOW)
    sent: list[bytes] = []
    page.on("response", lambda answer: sent.append(answer.url.encode()))
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: sent.append(_bytes(frame))))
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))

    enter(page, served, "whole")
    page.get_by_role("button", name="I agree, and begin").wait_for()
    assert "#" not in page.url  # the link's token is gone from the address
    photograph(page, "consent")
    page.get_by_role("button", name="I agree, and begin").click()
    page.get_by_role("button", name="Start").wait_for()
    photograph(page, "instructions")
    page.keyboard.press("Enter")
    shown = ready(page)
    photograph(page, "pair-quality")

    # Two votes, one taken back, another choice; then the page is loaded anew.
    page.keyboard.press(better_side(served, shown))
    second = next_pair(page, shown)
    page.keyboard.press(better_side(served, second))
    third = next_pair(page, second)
    if next(row.kind for row in reversed(stored(served, "whole"))) != "qualification":
        page.keyboard.press("u")
        assert next_pair(page, third) == second
        page.keyboard.press(better_side(served, second))
        assert next_pair(page, second) == third
    page.reload()
    if after(page, before=-1) == "Start":  # Streamlit may give a page that is loaded anew its old session, or not
        page.get_by_role("button", name="Start").click()
    assert ready(page) == third

    shown, votes, breaks, photographed = third, 2, 0, False
    page.keyboard.press(better_side(served, shown))
    while (state := after(page, shown)) != "Thank you":
        if state == "Go on":
            breaks += 1
            photograph(page, "break")
        if state != "pair":
            page.get_by_role("button", name=state).click()
            page.get_by_role("button", name=state).wait_for(state="detached")
            continue
        votes += 1
        shown = assignment(page)
        if not photographed and page.locator(".prompt").is_visible():
            photographed = True
            photograph(page, "pair-alignment")
            page.keyboard.press("z")
            page.mouse.move(400, 500)
            photograph(page, "zoom")
            page.keyboard.press("z")
        page.keyboard.press(better_side(served, shown))
    votes += 1
    photograph(page, "end")

    rows = stored(served, "whole")
    standing = [row for row in rows if row.id not in {later.supersedes for later in rows}]
    assert len(standing) == votes == 2 * (PROMPTS + 1 + 2)  # both criteria: main, gold, qualification
    assert all(row.choice == ("left" if row.first else "right") for row in standing)
    assert all(row.ms_visible >= 400 and row.page["natural"] == [[512, 512]] * 2 for row in standing)
    assert all(row.page["shown"][0] == row.page["shown"][1] for row in standing)
    assert breaks >= 1
    assert photographed
    assert not errors
    everything = b"".join(sent)
    assert b"/img/" in everything
    for model in PLAN.models:
        assert model.encode() not in everything
    page.close()


def _bytes(frame: str | bytes) -> bytes:
    return frame.encode() if isinstance(frame, str) else frame


@pytest.mark.parametrize("pause", [0, 80, 300])
def test_two_clicks_are_one_vote_and_none_for_an_unseen_pair(served: Served, browser: Browser, pause: int) -> None:
    name = f"clicks {pause}"
    page = browser.new_page()
    first = start(page, served, name)
    page.locator("[data-choice=left]").click()
    if pause:
        page.wait_for_timeout(pause)
    page.mouse.down()  # where the pointer stands: on the button
    page.mouse.up()
    next_pair(page, first)
    page.wait_for_timeout(1000)  # for whatever else the clicks may have set off: nothing tells that it has come
    idle(page)
    rows = stored(served, name)
    page.close()
    assert [row.assignment_id for row in rows] == [first]


def test_no_vote_before_both_images_are_there(served: Served, browser: Browser) -> None:
    page = browser.new_page()
    held: list[Any] = []
    page.route("**/img/*", lambda route: held.append(route) if not held else route.continue_())
    enter(page, served, "patient")
    page.get_by_role("button", name="I agree, and begin").click()
    page.get_by_role("button", name="Start").click()
    page.get_by_text("Loading both images").wait_for()
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(1000)
    assert page.locator("[data-choice=left]").is_disabled()
    assert page.locator("[data-choice=skip]").is_disabled()
    held[0].continue_()
    page.locator(".pair.loaded").wait_for()
    loaded = time.monotonic()
    shown = ready(page)
    assert time.monotonic() - loaded >= 0.3  # the study's 400 ms, less what the waiting itself took to notice
    page.keyboard.press("ArrowLeft")
    next_pair(page, shown)
    assert [row.choice for row in stored(served, "patient")] == ["left"]
    page.close()


def test_an_image_that_does_not_load_can_be_skipped_only(served: Served, browser: Browser) -> None:
    page = browser.new_page()
    broken: list[str] = []

    def answer(route: Any) -> None:
        if not broken or route.request.url == broken[0]:
            broken.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    page.route("**/img/*", answer)
    enter(page, served, "unlucky")
    page.get_by_role("button", name="I agree, and begin").click()
    page.get_by_role("button", name="Start").click()
    page.get_by_text("could not be loaded").wait_for()
    assert page.locator("[data-choice=left]").is_disabled()
    shown = assignment(page)
    page.keyboard.press("s")
    next_pair(page, shown)
    assert [row.choice for row in stored(served, "unlucky")] == ["skip"]
    page.close()


def test_on_a_phone_both_images_and_all_choices_are_in_view(served: Served, browser: Browser) -> None:
    width, height = PHONE
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=True, device_scale_factor=2)
    page = context.new_page()
    shown = start(page, served, "phone")
    images = [box for image in page.locator(".pair img").all() if (box := image.bounding_box())]
    assert images[0]["width"] == images[1]["width"] == images[0]["height"]
    assert images[0]["x"] >= 0
    assert images[1]["x"] + images[1]["width"] <= width
    for choice in ("left", "tie", "right"):
        box = page.locator(f"[data-choice={choice}]").bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= height
    page.locator("[data-choice=tie]").tap()
    next_pair(page, shown)
    assert [row.choice for row in stored(served, "phone")] == ["tie"]
    context.close()


def test_prompts_are_text_and_never_markup(served: Served, browser: Browser, tmp_path: Path) -> None:
    root = tmp_path / "html"
    prompts = {}
    for number in range(4):
        prompts[f"p{number}"] = (
            "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
        )
        for model in PLAN.models:
            (root / model).mkdir(parents=True, exist_ok=True)
            render(random_scene(random.Random(number))).save(root / model / f"p{number}.png")
    plan = replace(PLAN, qualification=0, qualification_passes=0, gold=1, criteria=PLAN.criteria[1:])
    study = folder.create(root / "study", plan, prompts, {model: root / model for model in PLAN.models})
    with serve(study) as server:
        page = browser.new_page()
        start(page, server, "reader")
        assert page.locator(".prompt").inner_text() == prompts["p0"]
        assert page.title() == "Image study"
        page.close()


def test_the_administrators_page(served: Served, browser: Browser) -> None:
    served.study.store.enrol("watched")
    page = browser.new_page(viewport=WINDOW)
    enter(page, served, "boss", admin=True)
    page.get_by_text("Agreement so far").wait_for()
    page.get_by_text("median time", exact=True).wait_for()
    photograph(page, "administrator")
    for model in PLAN.models:
        assert model not in page.content()
    page.close()


def test_images_of_the_browser_are_the_files_of_the_study(served: Served, browser: Browser) -> None:
    """What is shown is what was stored: decoded in the browser, every pixel is the file's."""
    from PIL import Image

    page = browser.new_page()
    start(page, served, "pixels")
    token = page.locator(".pair img").first.get_attribute("src")
    shown = page.evaluate(
        """async url => {
            const bitmap = await createImageBitmap(await (await fetch(url)).blob(), {colorSpaceConversion: "none"});
            const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
            const context = canvas.getContext("2d");
            context.drawImage(bitmap, 0, 0);
            return [...context.getImageData(0, 0, bitmap.width, 1).data];
        }""",
        token,
    )
    with served.study.store.reading() as connection:
        digest = connection.execute(
            select(ImageRow.sha256)
            .join(AssignmentRow, AssignmentRow.left_image == ImageRow.id)
            .where(AssignmentRow.left_token == (token or "").removeprefix("/img/"))
        ).scalar_one()
    with Image.open(served.study.image(digest)) as image:
        row = image.convert("RGBA").crop((0, 0, image.width, 1)).tobytes()
    assert bytes(shown) == row
    page.close()
