//! From a figure's SVG to the formats it can be had in.

use super::font;
use crate::{Error, Result};
use resvg::{tiny_skia, usvg};

/// A file format of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// SVG with its font embedded.
    Svg,
    /// PDF of vectors, with the glyphs it uses embedded.
    Pdf,
    /// PNG, in the resolution asked for.
    Png,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 3] = [Format::Svg, Format::Pdf, Format::Png];

    /// The file extension.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Svg => "svg",
            Format::Pdf => "pdf",
            Format::Png => "png",
        }
    }

    /// The bytes of a figure in this format; `dpi` is what a PNG has.
    pub(crate) fn render(self, svg: &str, dpi: u32) -> Result<Vec<u8>> {
        match self {
            Format::Svg => Ok(svg.as_bytes().to_vec()),
            Format::Pdf => pdf(svg),
            Format::Png => png(svg, dpi),
        }
    }
}

/// CSS pixels an inch: the unit of a parsed figure.
const PIXELS_AN_INCH: f32 = 96.0;

fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("figure: {error}"))
}

fn parsed(svg: &str) -> Result<usvg::Tree> {
    let options = usvg::Options {
        fontdb: font::database(),
        font_family: font::FAMILY.to_owned(),
        dpi: PIXELS_AN_INCH,
        ..usvg::Options::default()
    };
    usvg::Tree::from_str(svg, &options).map_err(internal)
}

fn pdf(svg: &str) -> Result<Vec<u8>> {
    let page = svg2pdf::PageOptions { dpi: PIXELS_AN_INCH };
    let mut pdf =
        svg2pdf::to_pdf(&parsed(svg)?, svg2pdf::ConversionOptions::default(), page).map_err(internal)?;
    sort_graphics_states(&mut pdf);
    Ok(pdf)
}

/// svg2pdf lists a page's graphics states in the order of a hash map, which is another each time. Sorting the lines of that
/// list moves nothing else in the file, and the same figure gives the same bytes.
fn sort_graphics_states(pdf: &mut [u8]) {
    const LIST: &[u8] = b"/ExtGState <<\n";
    let Some(start) = pdf.windows(LIST.len()).position(|bytes| bytes == LIST) else { return };
    let list = &mut pdf[start + LIST.len()..];
    let Some(end) = list.windows(2).position(|bytes| bytes == b">>") else { return };
    // The last line is the closing bracket's indentation.
    let Some(end) = list[..end].iter().rposition(|byte| *byte == b'\n') else { return };
    let mut lines: Vec<Vec<u8>> = list[..end].split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    lines.sort();
    list[..end].copy_from_slice(&lines.join(&b'\n'));
}

fn png(svg: &str, dpi: u32) -> Result<Vec<u8>> {
    let tree = parsed(svg)?;
    let scale = dpi as f32 / PIXELS_AN_INCH;
    let (width, height) = (tree.size().width() * scale, tree.size().height() * scale);
    let mut pixels =
        tiny_skia::Pixmap::new(width.round() as u32, height.round() as u32).ok_or_else(|| {
            Error::Option(format!("{dpi} dots an inch make a figure of no size that can be drawn"))
        })?;
    // The figure may end within the last row and column of pixels.
    pixels.fill(tiny_skia::Color::WHITE);
    resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixels.as_mut());
    // The page is opaque, so that alpha says nothing.
    let rgb: Vec<u8> = pixels.pixels().iter().flat_map(|p| [p.red(), p.green(), p.blue()]).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, pixels.width(), pixels.height());
    encoder.set_color(png::ColorType::Rgb);
    let per_metre = (f64::from(dpi) / 0.0254).round() as u32;
    let unit = png::Unit::Meter;
    encoder.set_pixel_dims(Some(png::PixelDimensions { xppu: per_metre, yppu: per_metre, unit }));
    let mut writer = encoder.write_header().map_err(internal)?;
    writer.write_image_data(&rgb).map_err(internal)?;
    writer.finish().map_err(internal)?;
    Ok(bytes)
}
