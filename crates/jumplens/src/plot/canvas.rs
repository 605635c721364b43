//! A white page in units of 0.1 mm, and the marks that are put on it, over plotters' SVG backend.

use crate::error::{Error, Result};
use plotters::coord::Shift;
use plotters::element::{Circle, DashedPathElement, Drawable, PathElement, PointCollection, Polygon};
use plotters::prelude::{DrawingArea, IntoDrawingArea, Rectangle, SVGBackend, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontTransform, IntoFont, RGBColor, ShapeStyle, TextStyle};

/// Width of a figure that stands in one column, and of one that stands across two.
pub(super) const COLUMN: u32 = 850;
pub(super) const PAGE: u32 = 1700;
/// Font sizes: 8 pt for axis labels and legends, 7 pt for ticks.
pub(super) const LABEL: f64 = 28.0;
pub(super) const TICK: f64 = 25.0;

pub(super) const BLACK: RGBColor = RGBColor(0, 0, 0);
pub(super) const WHITE: RGBColor = RGBColor(255, 255, 255);
pub(super) const GREY: RGBColor = RGBColor(110, 110, 110);
pub(super) const PALE: RGBColor = RGBColor(226, 226, 226);

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
    Diamond,
}

/// How a line is drawn: dash and gap lengths, or whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stroke {
    pub color: RGBColor,
    pub width: u32,
    pub dash: Option<(i32, i32)>,
}

/// Which side of a text its point holds; its middle line is at the point's height.
#[derive(Debug, Clone, Copy)]
pub(super) enum Align {
    Left,
    Centre,
    Right,
}

/// The page of one figure.
pub(super) struct Canvas<'s> {
    area: DrawingArea<SVGBackend<'s>, Shift>,
}

/// The SVG text of a page of `width` × `height` that `draw` has drawn on.
pub(super) fn render(
    width: u32,
    height: u32,
    draw: impl FnOnce(&Canvas<'_>) -> Result<()>,
) -> Result<String> {
    let mut svg = String::new();
    {
        let canvas = Canvas { area: SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area() };
        canvas.area.fill(&WHITE).map_err(internal)?;
        draw(&canvas)?;
        canvas.area.present().map_err(internal)?;
    }
    Ok(svg)
}

/// The width a text is taken to have: glyphs of the common sans-serif fonts are 0.6 em wide or less on average.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    0.6 * size * text.chars().count() as f64
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("figure: {error}"))
}

fn pixel((x, y): Point) -> (i32, i32) {
    (x.round() as i32, y.round() as i32)
}

impl Canvas<'_> {
    fn put<E>(&self, element: E) -> Result<()>
    where
        E: for<'s> Drawable<SVGBackend<'s>>,
        for<'e> &'e E: PointCollection<'e, (i32, i32)>,
    {
        self.area.draw(&element).map_err(internal)
    }

    /// Connects `points`.
    pub fn line(&self, points: &[Point], stroke: Stroke) -> Result<()> {
        let style = ShapeStyle { color: stroke.color.to_rgba(), filled: false, stroke_width: stroke.width };
        let points: Vec<_> = points.iter().copied().map(pixel).collect();
        match stroke.dash {
            None => self.put(PathElement::new(points, style)),
            Some((dash, gap)) => self.put(DashedPathElement::new(points, dash, gap, style)),
        }
    }

    /// Fills the polygon through `points`.
    pub fn area(&self, points: &[Point], color: RGBColor, opacity: f64) -> Result<()> {
        let points: Vec<_> = points.iter().copied().map(pixel).collect();
        self.put(Polygon::new(points, color.mix(opacity)))
    }

    /// Fills a rectangle.
    pub fn rectangle(&self, frame: Frame, color: RGBColor) -> Result<()> {
        let corners = [pixel((frame.left, frame.top)), pixel((frame.right, frame.bottom))];
        self.put(Rectangle::new(corners, color.filled()))
    }

    /// Writes `text` beside `at`.
    pub fn text(&self, text: &str, at: Point, align: Align, size: f64, color: RGBColor) -> Result<()> {
        // The backend centres lower-case letters; this centres capitals and digits.
        self.write(text, (at.0, at.1 + 0.1 * size), align, size, color, FontTransform::None)
    }

    /// Writes `text` upwards, centred at `at`.
    pub fn text_upwards(&self, text: &str, at: Point, size: f64) -> Result<()> {
        self.write(text, at, Align::Centre, size, BLACK, FontTransform::Rotate270)
    }

    fn write(
        &self,
        text: &str,
        at: Point,
        align: Align,
        size: f64,
        color: RGBColor,
        transform: FontTransform,
    ) -> Result<()> {
        let side = match align {
            Align::Left => HPos::Left,
            Align::Centre => HPos::Center,
            Align::Right => HPos::Right,
        };
        // The backend divides font sizes by 1.24.
        let font = ("sans-serif", size * 1.24).into_font().transform(transform);
        let style = TextStyle::from(font).color(&color).pos(Pos::new(side, VPos::Center));
        self.put(Text::new(text.to_owned(), pixel(at), style))
    }

    /// Puts a marker at `at`.
    pub fn marker(&self, marker: Marker, at: Point, color: RGBColor) -> Result<()> {
        let polygon = |corners: &[Point]| -> Vec<_> {
            corners.iter().map(|(dx, dy)| pixel((at.0 + dx, at.1 + dy))).collect()
        };
        match marker {
            Marker::None => Ok(()),
            Marker::Disc => self.put(Circle::new(pixel(at), 8, color.filled())),
            Marker::Ring => {
                self.put(Circle::new(pixel(at), 8, WHITE.filled()))?;
                self.put(Circle::new(pixel(at), 8, color.stroke_width(3)))
            }
            Marker::Square => {
                let corners = polygon(&[(-7.0, -7.0), (7.0, -7.0), (7.0, 7.0), (-7.0, 7.0), (-7.0, -8.0)]);
                self.put(Polygon::new(corners.clone(), WHITE))?;
                self.put(PathElement::new(corners, color.stroke_width(3)))
            }
            Marker::Triangle => {
                self.put(Polygon::new(polygon(&[(0.0, -11.0), (10.0, 7.0), (-10.0, 7.0)]), color))
            }
            Marker::Diamond => {
                self.put(Polygon::new(polygon(&[(0.0, -11.0), (9.0, 0.0), (0.0, 11.0), (-9.0, 0.0)]), color))
            }
        }
    }
}
