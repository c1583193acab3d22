"""The built documentation in a real browser: no network, no page wider than a phone, no broken link.

`tox run -e site` builds it and runs this. It needs a Chromium that is installed on the machine.
"""

import functools
import os
import re
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from requirements import need

SITE = os.environ.get("MULTISMOOTH_SITE")  # the folder of the built site
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

# Elements of the content that reach past the right edge and that nothing around them lets scroll.
TOO_WIDE = """() => {
  const edge = document.documentElement.clientWidth + 1;
  const content = document.querySelector('.md-content') ?? document.body;
  const scrolls = element => element !== document.body
    && (['auto', 'scroll'].includes(getComputedStyle(element).overflowX) || scrolls(element.parentElement));
  return [...content.querySelectorAll('*')]
    .filter(element => element.getBoundingClientRect().right > edge && !scrolls(element))
    .slice(0, 5).map(element => `${element.tagName}.${element.className} ${element.textContent.slice(0, 60)}`);
}"""
ANCHORS = "() => [...document.querySelectorAll('[id], a[name]')].map(e => e.id || e.getAttribute('name'))"
LINKS = "() => [...document.querySelectorAll('a[href], link[href]')].map(e => e.href)"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    if SITE is None:
        pytest.skip("MULTISMOOTH_SITE names no built site: tox run -e site")
    return Path(SITE)


@pytest.fixture(scope="module")
def address(site):
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(site):
    need("playwright")
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(site):
    found = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    assert len(found) > 20
    return [page for page in found if page != "404.html"]


def visit(browser, address, page):
    """(requests to elsewhere, answers that failed, errors of scripts, wide elements, anchors, links) of a page."""
    tab, requests, answers, errors = browser.new_page(viewport=PHONE), [], [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("response", lambda answer: answers.append((answer.status, answer.url)))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(f"{address}/{page}")
    wide = tab.evaluate(TOO_WIDE)
    tab.set_viewport_size(DESK)
    wide += tab.evaluate(TOO_WIDE)
    anchors, links = set(tab.evaluate(ANCHORS)), tab.evaluate(LINKS)
    tab.close()
    elsewhere = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    failed = [url for status, url in answers if status >= 400]
    return elsewhere, failed, errors, wide, anchors, links


@pytest.fixture(scope="module")
def visited(address, browser, pages):
    return {page: visit(browser, address, page) for page in pages}


def offences(visited, place):
    return {page: found[place] for page, found in visited.items() if found[place]}


def test_no_page_loads_anything_from_the_network(visited):
    assert offences(visited, 0) == {}


def test_whatever_a_page_loads_is_there(visited):
    assert offences(visited, 1) == {}


def test_no_script_fails(visited):
    assert offences(visited, 2) == {}


def test_no_page_is_wider_than_its_window(visited):
    assert offences(visited, 3) == {}


def test_every_link_inside_the_site_leads_somewhere(visited, site, address):
    broken = []
    for page, (*_, links) in visited.items():
        for link in links:
            url, anchor = urldefrag(link)
            if not url.startswith(address):
                continue
            path = unquote(urlsplit(url).path).lstrip("/")
            target = site / path
            target = target / "index.html" if target.is_dir() else target
            name = target.relative_to(site).as_posix()
            if not target.exists() or (anchor and name in visited and unquote(anchor) not in visited[name][4]):
                broken.append((page, link.removeprefix(address)))
    assert broken == []


def test_every_picture_says_what_it_shows(site, pages):
    for page in pages:
        for tag in re.findall(r"<img\b[^>]*>", (site / page).read_text(encoding="utf-8")):
            assert re.search(r'\balt="[^"]', tag), f"{page}: {tag[:120]}"
