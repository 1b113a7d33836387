"""Every rendered page in a browser: from the file system and from a server, in light and dark, on a phone, on paper."""

import re
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit
from urllib.request import url2pathname

import ecgmoe_book as book
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from local_server import serve
from playwright.sync_api import sync_playwright

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
#: Of the sources of modules, which are many and by one template, this one is opened.
SOURCE = "_modules/ecgmoe/cache"


def names():
    """Pages of the built book; index.html only leads to the first of them."""
    found = (path.relative_to(HTML).with_suffix("").as_posix() for path in HTML.rglob("*.html"))
    left_out = re.compile(rf"index|_static/.*|_modules/.*(?<!{SOURCE})")
    return sorted(name for name in found if not left_out.fullmatch(name))


BUILT = (HTML / "index.html").exists()
NAMES = names() if BUILT else [pytest.param("intro", marks=pytest.mark.skip("needs the built book: make book"))]

DESK = {"width": 1280, "height": 900}
PHONE = {"width": 400, "height": 800}
SHEET = {"width": 688, "height": 1000}  # A4 without its margins: 182 mm at 96 pixels an inch
HEAVIEST = 3_000_000  # bytes of a page with its own figures
HEAVIEST_SHARED = 6_000_000  # bytes of what all pages share: MathJax, icons, styles, the index of the search

#: Text with a formula's delimiters in it that is no code.
RAW_FORMULAS = r"""() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode())
    if (/\\[()[\]]/.test(walker.currentNode.data) && !walker.currentNode.parentElement.closest("pre, code, script"))
      found.push(walker.currentNode.data);
  return found;
}"""

#: What reaches beyond the right edge of the window and cannot be scrolled to within a box of its own.
CUT_OFF = """() => [...document.querySelectorAll(".bd-article *:not(svg *)")].filter(element => {
  const box = element.getBoundingClientRect();
  if (!box.width || box.right <= document.documentElement.clientWidth + 1) return false;
  for (let around = element.parentElement; around; around = around.parentElement)
    if (/auto|scroll/.test(getComputedStyle(around).overflowX)) return false;
  return true;
}).map(element => element.outerHTML.slice(0, 100))"""

#: Pixels of the text of the widest caption of a table.
WIDEST_CAPTION = """Math.max(0, ...[...document.querySelectorAll("caption")].map(
  caption => caption.clientWidth - parseFloat(getComputedStyle(caption).paddingRight)
))"""

#: Whether each box that scrolls sideways takes the focus, so that arrow keys move it.
REACHED_BY_KEYBOARD = """() => [...document.querySelectorAll(".bd-article *")].every(box =>
  !/auto|scroll/.test(getComputedStyle(box).overflowX) || box.scrollWidth <= box.clientWidth || box.tabIndex >= 0
)"""


@pytest.fixture(scope="module")
def chromium(browser):
    """One browser for all pages; it finds no host but this machine."""
    with sync_playwright() as playwright:
        flags = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        launched = playwright.chromium.launch(executable_path=browser, args=flags)
        yield launched
        launched.close()


@contextmanager
def visit(chromium, address):
    """Page as a reader sees it who comes for the first time, with formulas set; what went wrong; what it asked for."""
    context = chromium.new_context(viewport=DESK, color_scheme="light", reduced_motion="reduce")
    page, errors, requests = context.new_page(), [], []
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(f"failed: {request.url}"))
    page.on("response", lambda response: response.status >= 400 and errors.append(f"{response.status}: {response.url}"))
    page.on("request", lambda request: requests.append(request.url))
    try:
        page.goto(address)
        page.evaluate("window.MathJax?.startup?.promise.then(() => true)")
        yield SimpleNamespace(page=page, errors=errors, requests=requests)
    finally:
        context.close()


def foreign(requests, home):
    return [url for url in requests if not url.startswith((home, "data:", "blob:"))]


def look(opened, viewport, **media):
    """The page in another window, in other colours or on paper."""
    media = {"color_scheme": "light", "media": "screen"} | media
    opened.page.set_viewport_size(viewport)
    opened.page.emulate_media(**media)
    opened.page.wait_for_selector(f"html[data-theme={media['color_scheme']}]")
    return opened.page


def grave(page, **options):
    """Findings of axe that are serious or critical, with the places."""
    options = {"resultTypes": ["violations"], "preload": False, **options}  # it would fetch styles, from files in vain
    return {
        finding["id"]: [node["html"][:200] for node in finding["nodes"]]
        for finding in Axe().run(page, options=options).response["violations"]
        if finding["impact"] in ("serious", "critical")
    }


@pytest.fixture(scope="module", params=NAMES)
def opened(request, chromium):
    """Each page in turn, opened once from the file system."""
    with visit(chromium, (HTML / f"{request.param}.html").as_uri()) as seen:
        yield SimpleNamespace(name=request.param, **vars(seen))


def test_a_page_opens_from_the_file_system_without_errors_and_without_network(opened):
    assert opened.errors == []
    assert foreign(opened.requests, HTML.as_uri()) == []


def test_formulas_are_set(opened):
    assert opened.page.evaluate(RAW_FORMULAS) == []
    unset = "[...document.querySelectorAll('.math')].filter(math => !math.querySelector('mjx-container')).length"
    assert opened.page.evaluate(unset) == 0
    assert opened.page.locator("mjx-merror, [data-mjx-error]").count() == 0


def test_figures_are_shown_on_white_in_the_dark_too(opened):
    broken = "[...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
    assert opened.page.evaluate(broken) == []
    behind = "[...document.querySelectorAll('figure img')].map(image => getComputedStyle(image).backgroundColor)"
    assert set(look(opened, DESK, color_scheme="dark").evaluate(behind)) <= {"rgb(255, 255, 255)"}


def test_a_page_is_accessible(opened):
    assert grave(look(opened, DESK)) == {}


def test_contrast_is_enough_in_the_dark(opened):
    assert grave(look(opened, DESK, color_scheme="dark"), runOnly=["color-contrast"]) == {}


def test_nothing_is_cut_off_on_a_phone(opened):
    page = look(opened, PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate(WIDEST_CAPTION) <= PHONE["width"]
    page.wait_for_function(REACHED_BY_KEYBOARD)


def test_nothing_is_cut_off_on_paper(opened):
    page = look(opened, SHEET, media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= SHEET["width"]
    assert page.evaluate(CUT_OFF) == []
    around = page.locator("header, .bd-sidebar-primary, .bd-sidebar-secondary, .prev-next-footer, .headerlink")
    assert [part for part in around.all() if part.is_visible()] == []


def test_a_page_is_light_enough_with_its_own_figures(opened):
    """What all pages share a reader loads once, so it counts apart: everything in ``_static``, the search's index."""
    files = {Path(url2pathname(urlsplit(url).path)) for url in opened.requests if url.startswith("file:")}
    shared = {path for path in files if HTML / "_static" in path.parents or path == HTML / "searchindex.js"}
    assert sum(path.stat().st_size for path in files - shared) <= HEAVIEST
    assert sum(path.stat().st_size for path in shared) <= HEAVIEST_SHARED


def test_launch_links_lead_to_the_chapter_where_there_is_a_repository(opened):
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    setting, branch = config["repository"]["url"], config["repository"]["branch"]
    address = book.repository_url(setting)
    links = opened.page.locator(".dropdown-launch-buttons a").evaluate_all("links => links.map(link => link.href)")
    if not address or opened.name.removeprefix("notebooks/") not in CHAPTERS:
        assert links == []
    else:
        forge, repository = re.fullmatch(r"https://(git...)\.com/(.+)", address).groups()
        where = f"gh/{repository}" if forge == "github" else f"gl/{repository.replace('/', '%2F')}"
        wanted = {f"https://mybinder.org/v2/{where}/{branch}?urlpath=lab/tree/{opened.name}.ipynb"}
        if setting and forge == "github":
            wanted.add(f"https://colab.research.google.com/github/{repository}/blob/{branch}/{opened.name}.ipynb")
        assert set(links) == wanted


# --- the book as a whole


@pytest.fixture(scope="module")
def site():
    """Address of the book on a server, below a folder, as a forge publishes it."""
    with serve(HTML.parent) as address:
        yield f"{address}/{HTML.name}"


@pytest.mark.parametrize("name", NAMES)
def test_a_page_opens_from_a_server_without_errors(name, chromium, site):
    with visit(chromium, f"{site}/{name}.html") as seen:
        assert seen.errors == []
        assert foreign(seen.requests, site) == []


@pytest.fixture(params=["files", "server"])
def home(request, site):
    """Address of the folder of the book."""
    if not BUILT:
        pytest.skip("needs the built book: make book")
    return {"files": HTML.as_uri(), "server": site}[request.param]


@pytest.mark.skipif(not BUILT, reason="needs the built book: make book")
def test_every_page_of_the_contents_is_there():
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    entries = [entry for part in toc["parts"] for entry in part["chapters"]]
    wanted = {toc["root"], *(page["file"] for entry in entries for page in (entry, *entry.get("sections", ())))}
    assert wanted | {SOURCE} <= set(NAMES)


def test_the_front_door_leads_to_the_introduction(home, chromium):
    with visit(chromium, f"{home}/intro.html") as seen:
        seen.page.goto(f"{home}/index.html")
        seen.page.wait_for_url(f"{home}/intro.html")


@pytest.mark.parametrize(("word", "page"), [("jupyterlab", "rerun"), ("potassium", "notebooks/01_data")])
def test_the_search_finds_a_word(word, page, home, chromium):
    with visit(chromium, f"{home}/search.html?q={word}") as seen:
        seen.page.wait_for_selector(f"#search-results a[href*='{page}.html']")
