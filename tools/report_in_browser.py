"""Open a run's report.html in headless Chromium and use it as a reader would.

    python tools/report_in_browser.py RUN_DIR [--shots DIR]

Needs Chromium (Debian: `chromium-headless-shell` or `chromium`; or its path in CHROMIUM), and nothing but the standard
library. Without a browser it says so and succeeds, except in CI (`CI` set), where it fails. `--shots` keeps screenshots:
light, dark, and at the width of a phone.
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

    def shot(self, path):
        height = self.run("document.documentElement.scrollHeight")
        width = self.run("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
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
    browser.size(1200, 900)
    browser.call("Page.navigate", url=page)
    for _ in range(100):
        if browser.run("document.readyState === 'complete' && document.querySelectorAll('#layers canvas').length > 0"):
            break
        time.sleep(0.05)
    browser.run("document.fonts.ready.then(() => true)")
    time.sleep(0.2)

    sections = browser.run("[...document.querySelectorAll('main section')].map((section) => section.id)")
    wanted = ["headline", "r2", "layers", "early-exit", "agreement", "rank", "spectra", "origin"]
    check("every section is there", all(name in sections for name in wanted), sections)
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
    browser.run("[...document.querySelectorAll('#layers input')].find((box) => box.value === 'mat_ffn').click()")
    check("another cast redraws", browser.run(drawn) > before and browser.run(pixels) != picture)
    shown = browser.run(readout("layers", "mat_ffn"))
    layer = shown["caption"].removeprefix("layer ")
    row = next(row for row in rows["layers"] if row["mapping"] == "mat_ffn" and row["layer"] == layer)
    check("the new cast's number is the table's", near(shown["value"], float(row["precision_1"])), shown)
    picture = browser.run(pixels)
    browser.run(
        "(() => { const menu = document.querySelector('#layers select'); menu.value = 'surprisal';"
        " menu.dispatchEvent(new Event('change')); })()"
    )
    shown = browser.run(readout("layers", "mat_ffn"))
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
    for start, to in ((0, 1), (1, last)):
        x, y = browser.run(
            f"(() => {{ const r = document.querySelector('#r2 rect[data-from=\"{start}\"][data-to=\"{to}\"]')"
            ".getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2]; })()"
        )
        browser.hover(x, y)
        shown = browser.run(readout("r2", "mat"))
        row = next(row for row in rows["r2"] if (row["mapping"], row["from"], row["to"]) == ("mat", str(start), str(to)))
        check(f"hover over {start} to {to}: r² is the table's", near(shown["value"], float(row["r2"])), shown)
    before = browser.run("document.querySelector('#r2 rect[data-from=\"0\"][data-to=\"1\"]').getAttribute('fill')")
    browser.run("[...document.querySelectorAll('#r2 input')].find((box) => box.value === 'id').click()")
    after = browser.run("document.querySelector('#r2 rect[data-from=\"0\"][data-to=\"1\"]').getAttribute('fill')")
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
    shown = browser.run(readout("agreement", "exit here"))
    layer = shown["caption"].removeprefix("layer ")
    row = next(row for row in exits if (row["mapping"], row["lambda"], row["layer"]) == ("mat", "0.2", layer))
    check("another λ shows its numbers", near(shown["value"], float(row["share"])), shown)

    # The table.
    columns = "[...document.querySelectorAll('.results tbody tr')].map((row) => row.children[3].textContent.split(' ')[0])"
    click = "document.querySelector('.results [data-column=\"precision_1\"]').click()"
    browser.run(click)
    rising = [number(text) for text in browser.run(columns)]
    browser.run(click)
    falling = [number(text) for text in browser.run(columns)]
    check("the table sorts both ways", rising == sorted(rising) and falling == sorted(falling, reverse=True))
    check("the table has every row", len(rising) == len(rows["layers"]), len(rising))

    # The lens.
    lens = run / "results" / "lens.json"
    if lens.exists():
        sentence = json.loads(lens.read_text())["sentences"][0]
        cast = sentence["casts"][0]
        cells = browser.run("[...document.querySelectorAll('#lens .lens tbody tr')].reverse().map((row) => [...row.querySelectorAll('td')].map((cell) => cell.textContent))")
        plain = lambda text: HIDDEN.sub(lambda c: f"\\u{{{ord(c[0]):x}}}", text.replace("\n", "⏎").replace("\t", "⇥")) or "∅"
        wanted = [[plain(cell["top"][0]["text"]) if cell["top"] else "–" for cell in row] for row in cast["cells"]]
        check("the lens shows the top tokens", cells == wanted, cells)
        check("text of tokens is no markup", browser.run("document.querySelectorAll('#lens img, #lens script').length === 0 && !window.acted"))

    # Colours, and a narrow window.
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    if shots:
        browser.shot(shots / "light.png")
    browser.run("document.getElementById('theme').click()")
    check("dark colours", browser.run("getComputedStyle(document.body).backgroundColor") != ground)
    if shots:
        browser.shot(shots / "dark.png")
    browser.run("document.getElementById('theme').click()")
    browser.size(375, 800)
    time.sleep(0.3)
    wide = browser.run("document.documentElement.scrollWidth")
    check("nothing is wider than a phone", wide <= 375, wide)
    if shots:
        browser.shot(shots / "phone.png")

    # What the browser had to say.
    requests = [event["params"]["request"]["url"] for event in browser.events if event.get("method") == "Network.requestWillBeSent"]
    outside = [url for url in requests if url != page and not url.startswith("data:") and url != "about:blank"]
    check("nothing is fetched", not outside, outside)
    said = [event["params"] for event in browser.events if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
    said += [
        event["params"] for event in browser.events
        if event.get("method") == "Runtime.consoleAPICalled" and event["params"]["type"] in ("error", "warning", "assert")
    ]
    check("the console is silent", not said, said)


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
