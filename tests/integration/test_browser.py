"""The report in a real browser: nothing fails, nothing is wider than the window, tables sort, no request leaves it."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from tests.unit.synthetic_study import two_peaks
from tests.unit.test_report import made_up, render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BEFORE = """<script>
window.errors = [];
addEventListener("error", event => errors.push(event.message || event.target.outerHTML), true);
addEventListener("unhandledrejection", event => errors.push(String(event.reason)));
addEventListener("securitypolicyviolation", event => errors.push(event.blockedURI));
for (const name of ["error", "warn"]) console[name] = (...words) => errors.push(words.join(" "));
</script>"""
AFTER = """<script>
addEventListener("load", () => setTimeout(() => {
  const wide = [...document.querySelectorAll("main > *, main p, main h1, .card, .card *, figure, details, .scroll")]
    .filter(part => part.getBoundingClientRect().right > innerWidth + 1 && !part.closest("svg"))
    .map(part => part.outerHTML.slice(0, 200));
  for (const part of document.querySelectorAll("details")) part.open = true;
  const cut = [...document.querySelectorAll(".scroll")].filter(part => part.scrollWidth > part.clientWidth + 1)
    .map(part => part.querySelector("th").id + " " + part.scrollWidth + " of " + part.clientWidth);
  const clipped = [...document.querySelectorAll("figure > svg")].flatMap(svg => [...svg.querySelectorAll("text")]
    .filter(text => { const inner = text.getBoundingClientRect(), outer = svg.getBoundingClientRect();
      return inner.left < outer.left - 1 || inner.right > outer.right + 1; }).map(text => text.textContent));
  const sorted = {};
  for (const table of document.querySelectorAll("table")) {
    for (const head of table.tHead.querySelectorAll("th")) {
      const texts = () => [...table.tBodies[0].rows].map(row => row.cells[head.cellIndex]?.textContent.trim());
      head.click(); const up = texts(); head.click(); const down = texts();
      sorted[head.id] = { up, down, aria: head.getAttribute("aria-sort") };
    }
  }
  const requests = performance.getEntriesByType("resource").map(entry => entry.name);
  const found = { errors, wide, cut, clipped, sorted, requests, width: innerWidth,
                  page: document.documentElement.scrollWidth };
  const holder = document.createElement("pre");
  holder.id = "found"; holder.textContent = JSON.stringify(found); document.body.append(holder);
}, 200));
</script>"""

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The report of a made-up study, with a script that looks at it."""
    text = render(tmp_path_factory.mktemp("clone"), made_up(tmp_path_factory.mktemp("study"), two_peaks()))
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(text.replace("<head>", f"<head>{BEFORE}").replace("</body>", f"{AFTER}</body>"))
    return path


def look(page: Path, width: int) -> dict:
    """What the page's own script finds, in a frame of this width, for windows cannot be narrower than 500 pixels."""
    frame = page.with_name(f"frame-{width}.html")
    frame.write_text(
        f'<body style="margin: 0"><iframe src="{page.name}" style="border: 0; width: {width}px; height: 900px">'
        "</iframe>"
        '<script>addEventListener("load", () => setTimeout(() => document.body.append('
        'Object.assign(document.createElement("pre"), { id: "found", '
        'textContent: document.querySelector("iframe").contentDocument.getElementById("found").textContent })), 2000));'
        "</script></body>"
    )
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--allow-file-access-from-files",
    ]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={page.parent}/profile-{width}"]
    options += [f"--window-size={max(width, 800)},1000", "--virtual-time-budget=20000", "--dump-dom", frame.as_uri()]
    done = subprocess.run([CHROMIUM, *options], capture_output=True, text=True, timeout=300)
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, f"the page did not come to its end: {done.stderr[-2000:]}"
    return json.loads(unescape(match[1]))


@pytest.fixture(scope="module", params=[1200, 400])
def found(request, page) -> dict:
    seen = look(page, request.param)
    assert seen["width"] == request.param
    return seen


def test_nothing_fails_and_no_request_leaves_the_file(found):
    assert found["errors"] == []
    assert found["requests"] == []


def test_nothing_is_wider_than_the_window(found):
    assert found["wide"] == []
    assert found["page"] <= found["width"]


def test_no_text_of_a_figure_is_clipped(found):
    assert found["clipped"] == []


def test_no_column_is_cut_off_in_a_wide_window(found):
    if found["width"] == 1200:
        assert found["cut"] == []


def test_every_table_sorts_up_and_down(found):
    assert {name.partition("-")[0] for name in found["sorted"]} >= {"verdicts", "runs", "losses", "methods", "costs"}
    for name, column in found["sorted"].items():
        known = [text for text in column["up"] if text not in ("–", "", None)]
        assert [text for text in column["down"] if text not in ("–", "", None)] != known or len(set(known)) <= 1, name
        assert column["aria"] == "descending"
    step = next(column for name, column in found["sorted"].items() if name == "losses-step")
    numbers = [int(text) for text in step["up"]]
    assert numbers == sorted(numbers)
    assert [int(text) for text in step["down"]] == sorted(numbers, reverse=True)
    tokens = next(column for name, column in found["sorted"].items() if name == "runs-tokens")["up"]
    assert tokens[0] != tokens[-1] or len(set(tokens)) == 1
