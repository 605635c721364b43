"""Make the font of the figures: a subset of Source Sans 3, under a name of its own.

    pip install fonttools brotli
    python tools/make_figure_font.py SourceSans3-Regular.ttf

writes `figures.ttf` (for PDF and PNG) and `figures.woff2` (embedded in every SVG) to `crates/jumplens/src/plot/font/`.
The licence reserves the name `Source`, so that a changed font has to be called something else.
"""

import sys
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

NAME = "Jumplens Sans"
# Latin with its accents for the names of models and folders, Greek for symbols.
RANGES = [(0x20, 0x7E), (0xA0, 0xFF), (0x391, 0x3A9), (0x3B1, 0x3C9)]
SYMBOLS = "ℓ′″‘’“”–—…≤≥≈→←−·±√∞"

font = TTFont(sys.argv[1])
options = Options()
options.hinting = False
options.layout_features = []
options.name_IDs = [0, 1, 2, 3, 4, 5, 6, 13, 14]
options.notdef_outline = True
subsetter = Subsetter(options)
subsetter.populate(unicodes=[u for lo, hi in RANGES for u in range(lo, hi + 1)], text=SYMBOLS)
subsetter.subset(font)
for record in font["name"].names:
    names = {1: NAME, 2: "Regular", 3: NAME, 4: NAME, 6: NAME.replace(" ", "") + "-Regular"}
    if record.nameID in names:
        record.string = names[record.nameID]
folder = Path(__file__).parent.parent / "crates/jumplens/src/plot/font"
folder.mkdir(exist_ok=True)
font.save(folder / "figures.ttf")
font.flavor = "woff2"
font.save(folder / "figures.woff2")
