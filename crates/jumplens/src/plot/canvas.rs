//! A white page in units of 0.1 mm (other font sizes make them larger or smaller), and the marks that are put on it, as SVG text.
//!
//! A mark that stands for values carries them in `data-` attributes as the tables have them, on a group around what is
//! drawn: figures can be read back.

use super::font::{self, text_width};
use crate::markup::escaped;
use std::fmt::Write;

/// Font sizes: 8 pt for axis labels and legends, 7 pt for ticks, where a unit is 0.1 mm.
pub(super) const LABEL: f64 = 28.3;
pub(super) const TICK: f64 = 25.0;

/// Red, green, blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Color(pub u8, pub u8, pub u8);

pub(super) const BLACK: Color = Color(0, 0, 0);
pub(super) const WHITE: Color = Color(255, 255, 255);
pub(super) const GREY: Color = Color(110, 110, 110);
pub(super) const PALE: Color = Color(226, 226, 226);

impl std::fmt::Display for Color {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }
}

/// A place on the page; y grows downwards.
pub(super) type Point = (f64, f64);

/// A rectangle on the page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

/// What stands at a point of a curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Marker {
    None,
    Disc,
    Ring,
    Square,
    Triangle,
    Wedge,
    Diamond,
    Cross,
}

/// How a line is drawn: dash and gap lengths, or whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stroke {
    pub color: Color,
    pub width: f64,
    pub dash: Option<(u32, u32)>,
}

impl Stroke {
    /// A whole line.
    pub fn plain(color: Color, width: f64) -> Self {
        Self { color, width, dash: None }
    }
}

/// Which side of a text its point holds; the middle of its capitals is at the point's height.
#[derive(Debug, Clone, Copy)]
pub(super) enum Align {
    Left,
    Centre,
    Right,
}

/// The page of one figure.
pub(super) struct Canvas {
    body: String,
    width: f64,
    height: f64,
}

/// A length on the page, to a thousandth of a millimetre.
fn length(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.to_owned()
}

/// Numbers as an attribute has them, with all their digits.
pub(super) fn numbers(values: impl IntoIterator<Item = f64>) -> String {
    let number = |value: f64| match value.abs() {
        size if size != 0.0 && size.is_finite() && !(1e-5..1e16).contains(&size) => format!("{value:e}"),
        _ => value.to_string(),
    };
    values.into_iter().map(number).collect::<Vec<_>>().join(" ")
}

impl Canvas {
    /// An empty page.
    pub fn new(width: f64, height: f64) -> Self {
        Self { body: String::new(), width, height }
    }

    /// The page as an SVG document, a unit of it `unit` mm, with `title` above the figure where there is one.
    pub fn finish(self, title: Option<&str>, unit: f64) -> String {
        const TITLE: f64 = 46.0;
        let mut body = self.body;
        let mut height = self.height;
        if let Some(title) = title {
            let mut above = Canvas::new(self.width, TITLE);
            let title = font::fitted(title, self.width - 24.0, LABEL);
            above.text(&title, (self.width / 2.0, 28.0), Align::Centre, LABEL, BLACK);
            body = format!("{}<g transform=\"translate(0 {TITLE})\">\n{body}</g>\n", above.body);
            height += TITLE;
        }
        let (mm_wide, mm_high) = (length(self.width * unit), length(height * unit));
        let (width, height) = (length(self.width), length(height));
        let (family, face) = (font::FAMILY, font::face());
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{mm_wide}mm\" height=\"{mm_high}mm\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"{family}\" fill=\"none\">\n<style>{face}</style>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"{WHITE}\"/>\n{body}</svg>\n"
        )
    }

    /// Draws what stands for values, with `data-` attributes that hold them.
    pub fn marks(&mut self, data: &[(&str, String)], draw: impl FnOnce(&mut Self)) {
        self.body.push_str("<g");
        for (name, value) in data {
            let _ = write!(self.body, " data-{name}=\"{}\"", escaped(value));
        }
        self.body.push_str(">\n");
        draw(self);
        self.body.push_str("</g>\n");
    }

    /// Connects `points`.
    pub fn line(&mut self, points: &[Point], stroke: Stroke) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{},{}", length(*x), length(*y))).collect();
        let Stroke { color, width, dash } = stroke;
        let dash = dash.map_or(String::new(), |(dash, gap)| format!(" stroke-dasharray=\"{dash} {gap}\""));
        let _ = writeln!(
            self.body,
            "<polyline points=\"{}\" stroke=\"{color}\" stroke-width=\"{}\"{dash} stroke-linejoin=\"round\"/>",
            points.join(" "),
            length(width)
        );
    }

    /// Fills the polygon through `points`.
    pub fn area(&mut self, points: &[Point], color: Color, opacity: f64) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{},{}", length(*x), length(*y))).collect();
        let _ = write!(self.body, "<polygon points=\"{}\" fill=\"{color}\"", points.join(" "));
        if opacity < 1.0 {
            let _ = write!(self.body, " fill-opacity=\"{opacity}\"");
        }
        self.body.push_str("/>\n");
    }

    /// Fills a rectangle.
    pub fn rectangle(&mut self, frame: Frame, color: Color) {
        let Frame { left, top, right, bottom } = frame;
        let [x, y, width, height] = [left, top, right - left, bottom - top].map(length);
        let _ = writeln!(
            self.body,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{color}\"/>"
        );
    }

    /// Writes `text` beside `at`.
    pub fn text(&mut self, text: &str, at: Point, align: Align, size: f64, color: Color) {
        self.write(text, (at.0, at.1 + 0.5 * font::CAPITALS * size), align, size, color, "");
    }

    /// Writes `text` upwards, centred at `at`.
    pub fn text_upwards(&mut self, text: &str, at: Point, size: f64) {
        let (x, y) = (length(at.0), length(at.1));
        let at = (at.0, at.1 + 0.5 * font::CAPITALS * size);
        let turn = format!(" transform=\"rotate(-90 {x} {y})\"");
        self.write(text, at, Align::Centre, size, BLACK, &turn);
    }

    fn write(&mut self, text: &str, at: Point, align: Align, size: f64, color: Color, turn: &str) {
        let anchor = match align {
            Align::Left => "",
            Align::Centre => " text-anchor=\"middle\"",
            Align::Right => " text-anchor=\"end\"",
        };
        let (x, y, size) = (length(at.0), length(at.1), length(size));
        let _ = writeln!(
            self.body,
            "<text x=\"{x}\" y=\"{y}\"{anchor} font-size=\"{size}\" fill=\"{color}\"{turn}>{}</text>",
            escaped(&font::shown(text))
        );
    }

    /// As [`Canvas::text`], on a white ground, so that what is behind it does not cross it.
    pub fn text_on_white(&mut self, text: &str, at: Point, align: Align, size: f64, color: Color) {
        let width = text_width(text, size);
        let left = match align {
            Align::Left => at.0,
            Align::Centre => at.0 - width / 2.0,
            Align::Right => at.0 - width,
        };
        let (top, bottom) = (at.1 - 0.55 * size, at.1 + 0.55 * size);
        self.rectangle(Frame { left: left - 4.0, top, right: left + width + 4.0, bottom }, WHITE);
        self.text(text, at, align, size, color);
    }

    /// Puts a marker at `at`.
    pub fn marker(&mut self, marker: Marker, at: Point, color: Color) {
        let corners = |corners: &[Point]| -> Vec<Point> {
            corners.iter().map(|(dx, dy)| (at.0 + dx, at.1 + dy)).collect()
        };
        let closed = |mut points: Vec<Point>| {
            points.push(points[0]);
            points
        };
        let circle = |canvas: &mut Self, fill: Color, edge: &str| {
            let (x, y) = (length(at.0), length(at.1));
            let _ = writeln!(canvas.body, "<circle cx=\"{x}\" cy=\"{y}\" r=\"6.5\" fill=\"{fill}\"{edge}/>");
        };
        match marker {
            Marker::None => {}
            Marker::Disc => circle(self, color, ""),
            Marker::Ring => circle(self, WHITE, &format!(" stroke=\"{color}\" stroke-width=\"3\"")),
            Marker::Square => {
                let square = corners(&[(-6.0, -6.0), (6.0, -6.0), (6.0, 6.0), (-6.0, 6.0)]);
                self.area(&square, WHITE, 1.0);
                self.line(&closed(square), Stroke::plain(color, 3.0));
            }
            Marker::Triangle => self.area(&corners(&[(0.0, -9.0), (8.0, 6.0), (-8.0, 6.0)]), color, 1.0),
            Marker::Wedge => {
                let wedge = corners(&[(0.0, 9.0), (8.0, -6.0), (-8.0, -6.0)]);
                self.area(&wedge, WHITE, 1.0);
                self.line(&closed(wedge), Stroke::plain(color, 3.0));
            }
            Marker::Diamond => {
                let diamond = corners(&[(0.0, -9.0), (7.5, 0.0), (0.0, 9.0), (-7.5, 0.0)]);
                self.area(&diamond, color, 1.0);
            }
            Marker::Cross => {
                for (x, y) in [(6.0, 6.0), (6.0, -6.0)] {
                    self.line(&corners(&[(-x, -y), (x, y)]), Stroke::plain(color, 4.0));
                }
            }
        }
    }
}
