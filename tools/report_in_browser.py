"""Open a run's report.html in headless Chromium and use it as a reader would.

    python tools/report_in_browser.py RUN_DIR [--shots DIR]

Needs Chromium (Debian: `chromium-headless-shell` or `chromium`; or its path in CHROMIUM), and nothing but the standard
library. Without a browser it says so and succeeds, except in CI (`CI` set), where it fails. The page is looked at 1280 and
400 pixels wide, in light and in dark colours; `--shots` keeps a screenshot of each, and of each section.
"""

import argparse
import base64
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unicodedata
from pathlib import Path

NAMES = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"]
PASSED, FAILED = [], []
# What the lens shows as escapes: controls, and what changes how its neighbours are shown.
HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]")


class Browser:
    """A browser spoken to over the DevTools protocol through a pair of pipes."""

    def __init__(self, program, profile):
        to_browser, ours_out = os.pipe()
        ours_in, from_browser = os.pipe()

        def pipes():
            # The browser reads commands from descriptor 3 and writes to descriptor 4.
            low, high = os.dup(to_browser), os.dup(from_browser)
            a, b = os.dup2(low, 103), os.dup2(high, 104)
            os.dup2(a, 3)
            os.dup2(b, 4)

        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        arguments += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            [program, *arguments], preexec_fn=pipes, close_fds=False, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self.out, self.into, self.buffer = ours_in, ours_out, b""
        self.count, self.session, self.events = 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def message(self):
        while b"\0" not in self.buffer:
            chunk = os.read(self.out, 1 << 16)
            if not chunk:
                sys.exit("the browser closed its pipe")
            self.buffer += chunk
        line, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(line)

    def call(self, method, **params):
        self.count += 1
        request = {"id": self.count, "method": method, "params": params}
        if self.session:
            request["sessionId"] = self.session
        os.write(self.into, json.dumps(request).encode() + b"\0")
        while True:
            message = self.message()
            if message.get("id") == self.count:
                if "error" in message:
                    sys.exit(f"{method}: {message['error']['message']}")
                return message["result"]
            self.events.append(message)

    def run(self, script):
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            sys.exit(f"{script}: {answer['exceptionDetails']['exception'].get('description')}")
        return answer["result"].get("value")

    def size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)

    def hover(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        time.sleep(0.1)

    def key(self, key):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def colors(self, scheme):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, page):
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=page)
        for _ in range(200):
            if self.run("document.readyState === 'complete' && document.querySelectorAll('#origin').length > 0"):
                break
            time.sleep(0.05)
        self.run("document.fonts.ready.then(() => true)")
        time.sleep(0.2)

    def shot(self, path, section=None):
        width, height = self.run("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        if section:
            clip["y"], clip["height"] = self.run(
                f"(() => {{ const r = document.getElementById('{section}').getBoundingClientRect(); return [r.top + scrollY, r.height]; }})()"
            )
        image = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(image["data"]))

    def close(self):
        self.process.terminate()
        self.process.wait()


def check(name, fine, seen=""):
    (PASSED if fine else FAILED).append(name)
    print(f"{'ok    ' if fine else 'FAILED'} {name}{'' if fine else f': {seen}'}")


def number(text):
    return float(text.replace("−", "-").replace("∞", "inf"))


def near(text, wanted):
    """Whether a number on the page is the table's, as far as it is written out."""
    return text not in ("", "–") and abs(number(text) - wanted) <= max(5.1e-5, 6e-4 * abs(wanted) if "e" in text else 0)


def readout(section, series):
    return (
        f"(() => {{ const row = [...document.querySelectorAll('#{section} .readout tr')]"
        f".find((row) => row.dataset.series === {json.dumps(series)}); return row ? "
        "{value: row.querySelector('.value').textContent, interval: row.querySelector('.interval')?.textContent || '', "
        "caption: row.closest('table').caption.textContent} : null; })()"
    )


def use(browser, run, shots):
    rows = {name: list(csv.DictReader(open(run / "results" / f"{name}.csv"))) for name in ("r2", "layers", "early_exit")}
    page = (run / "report.html").resolve().as_uri()
    browser.size(1280, 900)
    browser.colors("light")
    browser.open(page)

    sections = browser.run("[...document.querySelectorAll('main section')].map((section) => section.id)")
    wanted = ["headline", "r2", "layers", "early-exit", "agreement", "rank", "spectra", "origin"]
    has = {name: (run / "results" / name).exists() for name in ("lens.json", "examples.json", "learning_curve.csv")}
    wanted += [name for name, file in (("browse", "examples.json"), ("trust", "learning_curve.csv")) if has[file]]
    check("every section is there", all(name in sections for name in wanted), sections)
    if has["lens.json"]:
        check("the lens comes first", sections[0] == "lens", sections)
    check("the font is embedded", browser.run("document.fonts.check('14px \"Jumplens Sans\"')"))

    # Hovering over the layers' chart.
    browser.run("document.querySelector('#layers').scrollIntoView()")
    box = browser.run(
        "(() => { const r = document.querySelector('#layers .u-over').getBoundingClientRect();"
        " return [r.left, r.top, r.width, r.height]; })()"
    )
    seen = {}
    for share in (0.02, 0.3, 0.55, 0.98):
        browser.hover(box[0] + share * box[2], box[1] + box[3] / 2)
        for cast in ("mat", "id"):
            shown = browser.run(readout("layers", cast))
            layer = shown["caption"].removeprefix("layer ")
            row = next(row for row in rows["layers"] if row["mapping"] == cast and row["layer"] == layer)
            seen[layer] = shown["value"]
            check(f"hover at layer {layer}: Precision@1 of {cast} is the table's", near(shown["value"], float(row["precision_1"])), shown)
            lo, hi = (number(part) for part in shown["interval"].strip("[]").split(", "))
            fine = abs(lo - float(row["precision_1_lo"])) < 6e-5 and abs(hi - float(row["precision_1_hi"])) < 6e-5
            check(f"hover at layer {layer}: the interval of {cast} is the table's", fine, shown)
    check("the cursor reaches several layers", len(seen) >= 3, seen)

    # Another measure, another cast: the chart is drawn again.
    drawn = "Number(document.querySelector('#layers .chart').dataset.drawn)"
    pixels = "document.querySelector('#layers canvas').toDataURL()"
    before, picture = browser.run(drawn), browser.run(pixels)
    other = next((row["mapping"] for row in reversed(rows["layers"]) if row["mapping"] not in ("mat", "id")), None)
    # Where there is no other, one of the two goes, and comes again.
    for click in [other] if other else ["id", "id"]:
        browser.run(f"[...document.querySelectorAll('#layers input')].find((box) => box.value === {json.dumps(click)}).click()")
        check("another cast redraws", browser.run(drawn) > before)
    other = other or "mat"
    check("it is in the picture", other == "mat" or browser.run(pixels) != picture)
    shown = browser.run(readout("layers", other))
    layer = shown["caption"].removeprefix("layer ")
    row = next(row for row in rows["layers"] if row["mapping"] == other and row["layer"] == layer)
    check("the new cast's number is the table's", near(shown["value"], float(row["precision_1"])), shown)
    picture = browser.run(pixels)
    browser.run(
        "(() => { const menu = document.querySelector('#layers select'); menu.value = 'surprisal';"
        " menu.dispatchEvent(new Event('change')); })()"
    )
    shown = browser.run(readout("layers", other))
    check("another measure redraws with its numbers", near(shown["value"], float(row["surprisal"])) and browser.run(pixels) != picture, shown)

    # Keys.
    browser.run("document.querySelector('#layers .chart').focus()")
    browser.key("Home")
    first = browser.run(readout("layers", "mat"))["caption"]
    browser.key("ArrowRight")
    second = browser.run(readout("layers", "mat"))["caption"]
    browser.key("End")
    end = browser.run(readout("layers", "mat"))["caption"]
    last = max(int(row["layer"]) for row in rows["layers"])
    check("keys go through the layers", (first, second, end) == ("layer 0", "layer 1", f"layer {last}"), (first, second, end))

    # The heat map.
    browser.run("document.querySelector('#r2').scrollIntoView()")
    pairs = [(int(row["from"]), int(row["to"])) for row in rows["r2"] if row["mapping"] == "mat"]
    for start, to in (pairs[0], pairs[len(pairs) // 2]):
        x, y = browser.run(
            f"(() => {{ const r = document.querySelector('#r2 rect[data-from=\"{start}\"][data-to=\"{to}\"]')"
            ".getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2]; })()"
        )
        browser.hover(x, y)
        shown = browser.run(readout("r2", "mat"))
        row = next(row for row in rows["r2"] if (row["mapping"], row["from"], row["to"]) == ("mat", str(start), str(to)))
        check(f"hover over {start} to {to}: r² is the table's", near(shown["value"], float(row["r2"])), shown)
    fill = f"document.querySelector('#r2 rect[data-from=\"{pairs[-1][0]}\"][data-to=\"{pairs[-1][1]}\"]').getAttribute('fill')"
    before = browser.run(fill)
    browser.run("[...document.querySelectorAll('#r2 input')].find((box) => box.value === 'id').click()")
    after = browser.run(fill)
    check("another cast colours the heat map anew", before != after, (before, after))

    # Early exit: another k.
    browser.run("[...document.querySelectorAll('#early-exit input')].find((box) => box.value === 'precision_5').click()")
    shown = browser.run(readout("early-exit", "mat, early"))
    lam = shown["interval"].removeprefix("λ = ")
    row = next(row for row in rows["early_exit"] if row["mapping"] == "mat" and float(row["lambda"]) == float(lam))
    check("another k shows its numbers", near(shown["value"], float(row["precision_5"])), shown)

    # Another λ.
    browser.run(
        "(() => { const menu = document.querySelector('#agreement select'); menu.value = '0.2';"
        " menu.dispatchEvent(new Event('change')); })()"
    )
    exits = list(csv.DictReader(open(run / "results" / "exits.csv")))
    shown = browser.run(readout("agreement", "exited up to here"))
    layer = shown["caption"].removeprefix("layer ")
    up_to = sum(
        float(row["share"]) for row in exits
        if (row["mapping"], row["lambda"]) == ("mat", "0.2") and int(row["layer"]) <= int(layer)
    )
    check("the curve of exits adds up", near(shown["value"], up_to), (shown, up_to))
    shown = browser.run(readout("agreement", "exit here"))
    row = next(row for row in exits if (row["mapping"], row["lambda"], row["layer"]) == ("mat", "0.2", layer))
    check("another λ shows its numbers", near(shown["value"], float(row["share"])), shown)

    # The learning curve.
    if has["learning_curve.csv"]:
        curve = list(csv.DictReader(open(run / "results" / "learning_curve.csv")))
        browser.run(
            "(() => { const menu = document.querySelector('#trust select'); menu.value = '1';"
            " menu.dispatchEvent(new Event('change')); })()"
        )
        browser.run("document.querySelector('#trust .chart').focus()")
        browser.key("End")
        most = max((row for row in curve if row["from"] == "1"), key=lambda row: int(row["samples"]))
        for series, column in (("validation", "r2"), ("training", "r2_train")):
            shown = browser.run(readout("trust", series))
            fine = near(shown["value"], float(most[column])) and shown["caption"].endswith(most["samples"])
            check(f"the learning curve shows r² of {series}", fine, (shown, most))

    # The table.
    columns = "[...document.querySelectorAll('#headline .results tbody tr')].map((row) => row.children[3].textContent.split(' ')[0])"
    click = "document.querySelector('.results [data-column=\"precision_1\"]').click()"
    browser.run(click)
    rising = [number(text) for text in browser.run(columns)]
    browser.run(click)
    falling = [number(text) for text in browser.run(columns)]
    check("the table sorts both ways", rising == sorted(rising) and falling == sorted(falling, reverse=True))
    check("the table has every row", len(rising) == len(rows["layers"]), len(rising))

    lens(browser, run, page)
    samples(browser, run)
    words(browser)
    contents(browser, sections)
    addresses(browser, page)

    for width, height in ((1280, 900), (400, 800)):
        for scheme in ("light", "dark"):
            look(browser, page, width, height, scheme, shots)
    paper(browser, page, shots)

    # The button for the other colours.
    browser.size(1280, 900)
    browser.colors("light")
    browser.open(page)
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.run("document.getElementById('theme').click()")
    check("dark colours at a click", browser.run("getComputedStyle(document.body).backgroundColor") != ground)

    # What the browser had to say.
    requests = [event["params"]["request"]["url"] for event in browser.events if event.get("method") == "Network.requestWillBeSent"]
    outside = [url for url in requests if url.split("#")[0] != page and not url.startswith("data:") and url != "about:blank"]
    check("nothing is fetched", not outside, outside)
    said = [event["params"] for event in browser.events if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
    said += [
        event["params"] for event in browser.events
        if event.get("method") == "Runtime.consoleAPICalled" and event["params"]["type"] in ("error", "warning", "assert")
    ]
    check("the console is silent", not said, said)


def tile(text):
    """A token as a tile shows it."""
    spelled = {"\n": "\\n", "\t": "\\t", "\r": "\\r", " ": "·"}
    shown = "".join(spelled.get(c) or (f"\\u{{{ord(c):x}}}" if HIDDEN.match(c) or c.isspace() else c) for c in text)
    if unicodedata.combining(shown[:1] or "x"):
        shown = "◌" + shown
    return shown or "∅"


def lens(browser, run, page):
    """The lens: every cast that is fitted, all its tokens, the casts side by side."""
    if not (run / "results" / "lens.json").exists():
        return
    sentence = json.loads((run / "results" / "lens.json").read_text())["sentences"][0]
    offered = browser.run("[...document.querySelectorAll('#lens input')].map((box) => box.value)")
    check("the lens offers every cast of the sentences", offered == [cast["cast"] for cast in sentence["casts"]], offered)
    evaluated = {row["mapping"] for row in csv.DictReader(open(run / "results" / "layers.csv"))}
    if (run / "results" / "examples.json").exists():
        check("these are all that were evaluated", set(offered) == evaluated, (offered, evaluated))
    grid = "[...document.querySelectorAll('#lens .figure .lens tbody tr')]"
    for cast in sentence["casts"]:
        browser.run(f"[...document.querySelectorAll('#lens input')].find((box) => box.value === {json.dumps(cast['cast'])}).click()")
        cells = browser.run(f"{grid}.map((row) => [...row.querySelectorAll('td')].map((cell) => cell.textContent))")
        wanted = [[tile(cell["top"][0]["text"]) if cell["top"] else "–" for cell in row] for row in cast["cells"]]
        check(f"the lens shows the top tokens of {cast['cast']}", cells == wanted, (cells, wanted))
    check("text of tokens is no markup", browser.run("document.querySelectorAll('#lens img, #lens script').length === 0 && !window.acted"))
    # A tile by keys: its tokens with their probabilities.
    browser.run(f"{grid}[1].querySelector('td').focus()")
    browser.key("ArrowDown")
    at = browser.run("[document.activeElement.dataset.row, document.activeElement.dataset.column]")
    check("arrow keys go down a layer", at == ["2", "0"], at)
    shown = browser.run("[...document.querySelectorAll('#lens .readout tr:not(.also)')].map((row) => [...row.children].map((cell) => cell.textContent))")
    top = sentence["casts"][-1]["cells"][2][0]["top"]
    fine = len(shown) == len(top) and all(
        text == tile(guess["text"]) and abs(float(share.rstrip(" %")) / 100 - guess["probability"]) < 6e-4
        for (text, share), guess in zip(shown, top)
    )
    check("a tile tells its tokens and probabilities", fine, (shown, top))
    # And by a pointer that moves.
    browser.run("document.querySelector('#lens').scrollIntoView()")
    x, y = browser.run(f"(() => {{ const r = {grid}[0].querySelectorAll('td')[1].getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2]; }})()")
    browser.hover(x - 2, y)
    browser.hover(x, y)
    shown = browser.run("document.querySelector('#lens .readout caption').textContent")
    check("the pointer tells of the tile that it is on", shown.endswith(f"from layer 0, at 1 ({tile(sentence['tokens'][1]['text'])})"), shown)
    browser.run(f"document.activeElement.blur(); {grid}[2].querySelector('td').focus()")
    heads = browser.run("[...document.querySelectorAll('#lens > div:last-of-type th[scope=col]')].map((head) => head.textContent)")
    check("every cast stands next to the others at that position", heads[1:] == offered, heads)


def samples(browser, run):
    """Browsing of single samples, held against the predictions."""
    if not (run / "results" / "examples.json").exists():
        return
    examples = json.loads((run / "results" / "examples.json").read_text())
    texts = {int(token): text for token, text in examples["texts"].items()}
    count = browser.run("document.querySelectorAll('#browse select option').length")
    check("the samples are there, and said to be the first", count == len(examples["samples"]) and f"first {count} of {examples['of']}" in browser.run("document.querySelector('#browse .note').textContent"), count)
    heads = browser.run("[...document.querySelectorAll('#browse .lens th[scope=col]')].map((head) => head.textContent)")
    check("every cast has a column", heads == ["layer"] + [cast["cast"] for cast in examples["casts"]], heads)
    for index in (0, 1):
        if index >= count:
            break
        if index:
            browser.run("[...document.querySelectorAll('#browse button')].find((button) => button.textContent === 'Next').click()")
        cells = browser.run("[...document.querySelectorAll('#browse .lens tbody tr')].map((row) => [...row.querySelectorAll('td')].map((cell) => cell.textContent))")
        own = examples["casts"][0]["cells"][index][-1]["top"][0]
        mark = lambda cell: "–" if not cell["top"] else tile(texts[cell["top"][0]]) + (" ✓" if cell["top"][0] == own else "")
        wanted = [[mark(cast["cells"][index][layer]) for cast in examples["casts"]] for layer in range(len(cells))]
        check(f"the predictions for sample {index} are those of the run", cells == wanted, (cells, wanted))
        sample = examples["samples"][index]
        marked = browser.run("document.querySelector('#browse mark').textContent")
        check(f"the token of sample {index} is marked in its text", marked == tile(texts[sample["ids"][sample["position"]]]), marked)


def words(browser):
    """Words are explained where they stand, by keys and by touch."""
    sections = browser.run("[...document.querySelectorAll('main section:not(#origin)')].map((section) => section.id)")
    for section in sections:
        found = f"document.querySelector('#{section} details.words')"
        terms = browser.run(f"{found} ? [...{found}.querySelectorAll('dt')].length : 0")
        check(f"the words of {section} are explained", terms >= 2, terms)
    text = " ".join(browser.run("[...document.querySelectorAll('main dt, main dd')].map((node) => node.textContent)"))
    for word in ("r²", "Precision@k", "surprisal", "early exit", "layer", "cast", "KL", "λ"):
        check(f"{word} is explained", word in text)
    missing = browser.run("[...document.querySelectorAll('.words dd')].filter((node) => !node.textContent || node.textContent === 'undefined').length")
    check("no explanation is empty", missing == 0, missing)
    opened = f"document.querySelector('#{sections[0]} details').open"
    browser.run(f"document.querySelector('#{sections[0]} summary').focus()")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    browser.call("Input.dispatchKeyEvent", type="keyUp", key="Enter", code="Enter", windowsVirtualKeyCode=13)
    check("a list of words opens by keys", browser.run(opened))
    browser.run(f"document.querySelector('#{sections[0]} summary').scrollIntoView({{ block: 'center' }})")
    x, y = browser.run(f"(() => {{ const r = document.querySelector('#{sections[0]} summary').getBoundingClientRect(); return [r.left + 20, r.top + r.height / 2]; }})()")
    browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
    browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    time.sleep(0.5)
    check("and closes by touch", not browser.run(opened))
    browser.call("Emulation.setTouchEmulationEnabled", enabled=False)


def contents(browser, sections):
    """The list of contents."""
    links = browser.run("[...document.querySelectorAll('#contents a')].map((link) => link.getAttribute('href').slice(1))")
    check("the contents list every section", links == sections, links)
    browser.run("document.querySelector('#contents a[href=\"#early-exit\"]').click()")
    top = browser.run("document.querySelector('#early-exit').getBoundingClientRect().top")
    check("a link leads to its section", abs(top) < 40 and browser.run("location.hash").startswith("#early-exit"), top)


def addresses(browser, page):
    """An address holds what was chosen: another window with it shows the same."""
    chosen = (
        "[...document.querySelectorAll('main input:checked')].map((box) => box.name + '=' + box.value)"
        ".concat([...document.querySelectorAll('main select')].map((menu) => menu.value))"
        ".concat([...document.querySelectorAll('main [aria-sort]')].map((head) => head.getAttribute('aria-sort')))"
        ".concat([...document.querySelectorAll('#lens .readout caption, #browse .sentence')].map((node) => node.textContent))"
    )
    before, hash = browser.run(chosen), browser.run("location.hash")
    browser.open(page)
    usual = browser.run(chosen)
    browser.open(page + hash)
    check("an address holds the view", browser.run(chosen) == before and before != usual, (hash, browser.run(chosen), before))
    check("and the section", abs(browser.run("document.querySelector('#early-exit').getBoundingClientRect().top")) < 40)
    browser.open(page + "#none&lens.cast=nothing&layers.measure=%E0%A4&lens.layer=999&lens.position=-5&browse.sample=1e9&sort=x&=&r2.cast")
    check("an address of nothing shows what is usual", browser.run(chosen)[:6] == usual[:6] and browser.run("document.querySelectorAll('main section').length") > 7)


# The least contrast between the text of tiles and what is behind it, of every colour as the browser mixes it.
CONTRAST = """(() => {
  const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const bytes = (color) => { paint.clearRect(0, 0, 1, 1); paint.fillStyle = color; paint.fillRect(0, 0, 1, 1); return [...paint.getImageData(0, 0, 1, 1).data]; };
  const light = (color) => {
    const [r, g, b] = bytes(color).map((value) => value / 255).map((value) => (value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  let least = 99;
  for (const tile of document.querySelectorAll('td, dd, .note, .card span')) {
    let behind = tile;
    while (behind && getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
    const [a, b] = [light(getComputedStyle(tile).color), light(getComputedStyle(behind || document.body).backgroundColor)].sort((a, b) => b - a);
    least = Math.min(least, (a + .05) / (b + .05));
  }
  return least;
})()"""

# What is out of order: the layers of every grid and table, and of the heat map's rows, from layer 0 down.
ORDER = """(() => {
  const rising = (numbers) => numbers.length > 0 && numbers.every((value, place) => place === 0 || value > numbers[place - 1]) && numbers[0] === 0;
  const wrong = [];
  for (const grid of document.querySelectorAll('table.lens')) {
    if (!rising([...grid.querySelectorAll('tbody th')].map((head) => Number(head.textContent)))) wrong.push(grid.textContent.slice(0, 60));
  }
  for (const table of document.querySelectorAll('table.results')) {
    const column = [...table.querySelectorAll('thead th')].findIndex((head) => head.textContent === 'layer');
    const lists = new Map();
    for (const row of table.querySelectorAll('tbody tr')) {
      const cast = column > 0 ? row.children[0].textContent : '';
      lists.set(cast, (lists.get(cast) || []).concat(Number(row.children[column].textContent)));
    }
    for (const [cast, layers] of lists) if (!rising(layers)) wrong.push(cast + layers);
  }
  const rows = new Map([...document.querySelectorAll('#r2 rect[data-from]')].map((cell) => [Number(cell.dataset.from), Number(cell.getAttribute('y'))]));
  if (!rising([...rows].sort((a, b) => a[1] - b[1]).map(([from]) => from))) wrong.push('heat map');
  return wrong;
})()"""


def look(browser, page, width, height, scheme, shots):
    """The page as it is first seen at that size and in those colours."""
    name = f"{width} px, {scheme}"
    browser.size(width, height)
    browser.colors(scheme)
    browser.open(page)
    dark = browser.run("document.documentElement.dataset.theme")
    check(f"{name}: colours are those of the system", dark == scheme, dark)
    wide = browser.run("document.documentElement.scrollWidth")
    check(f"{name}: nothing is wider than the window", wide <= width, wide)
    empty = browser.run("[...document.querySelectorAll('table.lens td, table.lens th, .readout th, mark')].filter((tile) => !tile.textContent.trim()).length")
    check(f"{name}: no tile is empty", empty == 0, empty)
    wrong = browser.run(ORDER)
    check(f"{name}: layers go down from layer 0", not wrong, wrong)
    least = browser.run(CONTRAST)
    check(f"{name}: text can be read on its ground", least >= 4.5, least)
    small = browser.run("[...document.querySelectorAll('button:not(thead button), select, summary, #contents a')].filter((one) => one.getBoundingClientRect().height < 24).map((one) => one.textContent.slice(0, 20))")
    check(f"{name}: what is touched is large enough", not small, small)
    undrawn = browser.run("[...document.querySelectorAll('.chart canvas')].filter((canvas) => canvas.getBoundingClientRect().width < 200).length")
    check(f"{name}: charts are drawn", undrawn == 0, undrawn)
    if shots:
        browser.shot(shots / f"{width}-{scheme}.png")
        for section in browser.run("[...document.querySelectorAll('main section')].map((section) => section.id)"):
            browser.shot(shots / f"{width}-{scheme}-{section}.png", section)


def paper(browser, page, shots):
    """On paper: light, everything open, nothing cut off by a scrolling box, no controls."""
    browser.size(760, 1000)
    browser.colors("dark")
    browser.open(page)
    browser.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.run("dispatchEvent(new Event('beforeprint'))")
    visible = browser.run("[...document.querySelectorAll('#contents, .controls, #theme, summary')].filter((one) => one.getBoundingClientRect().height > 0).length")
    check("paper has no controls", visible == 0, visible)
    check("paper is white", browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)")
    closed = browser.run("document.querySelectorAll('details.words:not([open])').length")
    check("on paper the words are explained", closed == 0, closed)
    cut = browser.run("[...document.querySelectorAll('.scroll')].filter((box) => box.scrollHeight > box.clientHeight + 2).length")
    check("on paper nothing is cut off", cut == 0, cut)
    wide = browser.run("document.documentElement.scrollWidth")
    check("paper is wide enough", wide <= 760, wide)
    if shots:
        browser.shot(shots / "print.png")
    browser.run("dispatchEvent(new Event('afterprint'))")
    check("after printing it is as before", browser.run("document.documentElement.dataset.theme") == "dark")
    browser.call("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": "light"}])
    printed = base64.b64decode(browser.call("Page.printToPDF", printBackground=True)["data"])
    check("it can be printed", printed.startswith(b"%PDF") and len(printed) > 20_000, len(printed))
    if shots:
        (shots / "print.pdf").write_bytes(printed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--shots", type=Path)
    args = parser.parse_args()
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        message = f"no browser: none of {', '.join(NAMES)} is on the PATH"
        if os.environ.get("CI"):
            sys.exit(message)
        print(f"skipped, {message}")
        return
    if args.shots:
        args.shots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(program, profile)
        try:
            use(browser, args.run, args.shots)
        finally:
            browser.close()
    print(f"{len(PASSED)} passed, {len(FAILED)} failed")
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()
