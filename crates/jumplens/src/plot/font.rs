//! The font of the figures: a subset of Source Sans 3 (SIL Open Font License 1.1, `font/OFL.txt`), made by
//! `tools/make_figure_font.py`. None is read from the system.

use base64::Engine;
use resvg::usvg::fontdb;
use std::sync::{Arc, LazyLock};
use ttf_parser::Face;

/// What the font is called: the licence reserves `Source` for the unchanged one.
pub(crate) const FAMILY: &str = "Jumplens Sans";
/// Height of capitals and digits in em.
pub(super) const CAPITALS: f64 = 0.66;

const TTF: &[u8] = include_bytes!("font/figures.ttf");
const WOFF2: &[u8] = include_bytes!("font/figures.woff2");

static FACE: LazyLock<Face<'static>> =
    LazyLock::new(|| Face::parse(TTF, 0).expect("the embedded font is a TrueType font"));

/// The CSS rule that brings the font along.
pub(crate) fn face() -> &'static str {
    static RULE: LazyLock<String> = LazyLock::new(|| {
        let data = base64::engine::general_purpose::STANDARD.encode(WOFF2);
        format!("@font-face{{font-family:\"{FAMILY}\";src:url(data:font/woff2;base64,{data})}}")
    });
    &RULE
}

/// The font alone, for what turns SVG into PDF and PNG.
pub(super) fn database() -> Arc<fontdb::Database> {
    static DATABASE: LazyLock<Arc<fontdb::Database>> = LazyLock::new(|| {
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(TTF.to_vec());
        Arc::new(fonts)
    });
    DATABASE.clone()
}

/// `text` with `?` for each character that the font does not have.
pub(crate) fn shown(text: &str) -> String {
    text.chars().map(|char| if FACE.glyph_index(char).is_some() { char } else { '?' }).collect()
}

/// The width of `text` as [`shown`].
pub(crate) fn text_width(text: &str, size: f64) -> f64 {
    let advance = |char| FACE.glyph_index(char).and_then(|glyph| FACE.glyph_hor_advance(glyph)).unwrap_or(0);
    let units: u32 = shown(text).chars().map(|char| u32::from(advance(char))).sum();
    size * f64::from(units) / f64::from(FACE.units_per_em())
}

/// `text`, its middle left out where it is wider than `width`.
pub(super) fn fitted(text: &str, width: f64, size: f64) -> String {
    let chars: Vec<char> = text.chars().collect();
    (0..=chars.len())
        .map(|dropped| {
            let kept = chars.len() - dropped;
            let (head, tail) = (kept.div_ceil(2), kept / 2);
            let dots = if dropped == 0 { "" } else { "…" };
            let head: String = chars[..head].iter().collect();
            let tail: String = chars[chars.len() - tail..].iter().collect();
            format!("{head}{dots}{tail}")
        })
        .find(|text| text_width(text, size) <= width)
        .unwrap_or_default()
}
