//! Axes on the page, and curves and interval bands between them; and figures that are rows of such panels.

use super::canvas::{Align, BLACK, Canvas, Color, Frame, LABEL, PALE, Point, Stroke, TICK, numbers};
use super::font::text_width;
use super::scale::{Scale, plain};
use super::series::{Curve, Style};

/// A frame on the page with a scale along each side.
pub(super) struct Panel<'a> {
    pub frame: Frame,
    pub x: &'a Scale,
    pub y: &'a Scale,
}

/// Height of a tick's label and its distance below the frame.
const TICK_ROOM: f64 = 40.0;
/// The same with the axis label under it.
pub(super) const AXIS_ROOM: f64 = 78.0;

impl Panel<'_> {
    /// Draws grid, axes and ticks; the labels of the ticks along y where `y_labels`.
    pub fn axes(&self, canvas: &mut Canvas, y_labels: bool) {
        let Frame { left, top, right, bottom } = self.frame;
        let thin = |color, width| Stroke::plain(color, width);
        for (value, label) in &self.x.ticks {
            let x = self.x.position(*value, left, right);
            canvas.line(&[(x, top), (x, bottom)], thin(PALE, 1.0));
            canvas.line(&[(x, bottom), (x, bottom + 7.0)], thin(BLACK, 2.0));
            canvas.text(label, (x, bottom + 24.0), Align::Centre, TICK, BLACK);
        }
        for (value, label) in &self.y.ticks {
            let y = self.y.position(*value, bottom, top);
            canvas.line(&[(left, y), (right, y)], thin(PALE, 1.0));
            canvas.line(&[(left - 7.0, y), (left, y)], thin(BLACK, 2.0));
            if y_labels {
                canvas.text(label, (left - 12.0, y), Align::Right, TICK, BLACK);
            }
        }
        canvas.line(&[(left, top), (left, bottom), (right, bottom)], thin(BLACK, 2.0));
    }

    /// Where (`x`, `y`) stands on the page; `None` outside the frame or where one is not finite.
    pub fn at(&self, x: f64, y: f64) -> Option<Point> {
        let Frame { left, top, right, bottom } = self.frame;
        (self.x.holds(x) && self.y.holds(y))
            .then(|| (self.x.position(x, left, right), self.y.position(y, bottom, top)))
    }

    /// What a group of marks says of the frame they are in.
    pub fn data(&self, id: &str) -> Vec<(&'static str, String)> {
        let Frame { left, top, right, bottom } = self.frame;
        let round = |value: f64| (value * 100.0).round() / 100.0;
        let mut data = vec![
            ("panel", id.to_owned()),
            ("frame", numbers([left, top, right, bottom].map(round))),
            ("x-scale", numbers([self.x.lo, self.x.hi])),
            ("y-scale", numbers([self.y.lo, self.y.hi])),
        ];
        if self.x.log || self.y.log {
            let logs: Vec<_> =
                [("x", self.x.log), ("y", self.y.log)].into_iter().filter(|(_, log)| *log).collect();
            data.push(("log", logs.iter().map(|(axis, _)| *axis).collect::<Vec<_>>().join(" ")));
        }
        data
    }

    /// Shades between the bounds of a curve's marks; a mark whose bounds are not both inside the frame leaves a gap.
    pub fn band(&self, canvas: &mut Canvas, curve: &Curve) {
        if curve.marks.iter().all(|mark| !mark.lo.is_finite() || !mark.hi.is_finite()) {
            return;
        }
        let marks = &curve.marks;
        let data = [
            ("band", curve.id.clone()),
            ("x", numbers(marks.iter().map(|mark| mark.x))),
            ("lo", numbers(marks.iter().map(|mark| mark.lo))),
            ("hi", numbers(marks.iter().map(|mark| mark.hi))),
        ];
        canvas.marks(&data, |canvas| {
            let sides: Vec<_> =
                marks.iter().map(|mark| self.at(mark.x, mark.lo).zip(self.at(mark.x, mark.hi))).collect();
            for run in sides.split(Option::is_none) {
                let (lower, upper): (Vec<_>, Vec<_>) = run.iter().copied().flatten().unzip();
                if lower.len() > 1 {
                    let outline: Vec<_> = lower.into_iter().chain(upper.into_iter().rev()).collect();
                    canvas.area(&outline, curve.style.color, 0.18);
                }
            }
        });
    }

    /// Joins a curve's marks in their order, with a marker at each `every`-th, at the last, and at those that stand alone.
    /// A mark outside the frame or not finite leaves a gap; with `clip` it goes to the nearest end of the scale `shown`.
    pub fn curve(&self, canvas: &mut Canvas, curve: &Curve, every: usize, clip: Option<(f64, f64)>) {
        let data = [
            ("curve", curve.id.clone()),
            ("x", numbers(curve.marks.iter().map(|mark| mark.x))),
            ("y", numbers(curve.marks.iter().map(|mark| mark.y))),
        ];
        let shown = |y: f64| clip.map_or(y, |(lo, hi)| y.clamp(lo, hi));
        let places: Vec<_> = curve.marks.iter().map(|mark| self.at(mark.x, shown(mark.y))).collect();
        canvas.marks(&data, |canvas| {
            for run in places.split(Option::is_none) {
                let run: Vec<_> = run.iter().copied().flatten().collect();
                if run.len() > 1 {
                    canvas.line(&run, curve.style.stroke());
                }
            }
            let there = |index: usize| places.get(index).copied().flatten();
            for (index, place) in places.iter().enumerate() {
                let alone = (index == 0 || there(index - 1).is_none()) && there(index + 1).is_none();
                if let Some(place) = place
                    && (index.is_multiple_of(every.max(1)) || index + 1 == places.len() || alone)
                {
                    canvas.marker(curve.style.marker, *place, curve.style.color);
                }
            }
        });
    }

    /// Shows the marks that lie above the frame as arrows at its upper edge, each with its value beside it, one line
    /// each. The first is on line `line`; returns the line after the last.
    pub fn arrows(&self, canvas: &mut Canvas, curve: &Curve, mut line: usize) -> usize {
        for mark in curve.marks.iter().filter(|mark| mark.y > self.y.hi) {
            let Some((x, top)) = self.at(mark.x, self.y.hi) else { continue };
            let middle = top + 14.0 + 30.0 * line as f64;
            // No figure has room for more, nor is one with so many off its scale worth more.
            if middle + 12.0 > self.frame.bottom {
                break;
            }
            let color = curve.style.color;
            let stroke = Stroke::plain(color, 3.0);
            let head = [(x - 6.0, middle - 3.0), (x, middle - 12.0), (x + 6.0, middle - 3.0)];
            canvas.line(&[(x, middle + 11.0), (x, middle - 11.0)], stroke);
            canvas.line(&head, stroke);
            let value = if mark.y.is_finite() { plain(mark.y, 1) } else { "∞".to_owned() };
            canvas.text_on_white(&value, (x + 14.0, middle), Align::Left, TICK, color);
            line += 1;
        }
        line
    }
}

/// What a legend explains.
pub(super) enum Entry {
    /// A curve, under a name.
    Curve(Style, String),
    /// The shading around the curves, and what it is.
    Shade(Color, &'static str),
}

/// A page from this width on has room for four panels in a row.
const WIDE: f64 = 1300.0;
/// Distance of a legend's rows.
const LEGEND_ROW: f64 = 38.0;
const SAMPLE: f64 = 52.0;

/// Places for a legend's entries in rows as wide as the page, which is `page` wide, from its top: where each begins, and the height in all.
fn legend_places(entries: &[Entry], page: f64) -> (Vec<Point>, f64) {
    let (mut x, mut y) = (16.0, 24.0);
    let mut places = Vec::new();
    for entry in entries {
        let name = match entry {
            Entry::Curve(_, name) => name.as_str(),
            Entry::Shade(_, name) => name,
        };
        let width = SAMPLE + 10.0 + text_width(name, LABEL) + 24.0;
        if x > 16.0 && x + width > page + 14.0 {
            (x, y) = (16.0, y + LEGEND_ROW);
        }
        places.push((x, y));
        x += width;
    }
    (places, if entries.is_empty() { 10.0 } else { y + 0.5 * LEGEND_ROW })
}

/// How high a legend of these entries is on a page that wide.
pub(super) fn legend_height(entries: &[Entry], page: f64) -> f64 {
    legend_places(entries, page).1
}

/// Draws a legend at the top of the page, which is `page` wide.
pub(super) fn legend(canvas: &mut Canvas, entries: &[Entry], page: f64) {
    for (entry, (x, y)) in entries.iter().zip(legend_places(entries, page).0) {
        let name = match entry {
            Entry::Curve(style, name) => {
                canvas.line(&[(x, y), (x + SAMPLE, y)], style.stroke());
                canvas.marker(style.marker, (x + SAMPLE / 2.0, y), style.color);
                name.as_str()
            }
            Entry::Shade(color, name) => {
                canvas
                    .rectangle(Frame { left: x, top: y - 10.0, right: x + SAMPLE, bottom: y + 10.0 }, *color);
                name
            }
        };
        canvas.text(name, (x + SAMPLE + 10.0, y), Align::Left, LABEL, BLACK);
    }
}

/// One panel of a figure.
#[derive(Clone)]
pub(super) struct Facet {
    /// What it is called in `data-panel`.
    pub id: String,
    /// What stands above it.
    pub caption: String,
    pub x: Scale,
    pub x_label: String,
    pub y: Scale,
    pub y_label: String,
    pub curves: Vec<Curve>,
    /// A marker at each of so many marks.
    pub every: usize,
    /// Values beyond these are drawn at them.
    pub clip: Option<(f64, f64)>,
}

/// A figure of panels that share a legend.
pub(super) struct Facets {
    pub facets: Vec<Facet>,
    pub columns: usize,
    /// Height of a panel's frame.
    pub height: f64,
    /// Panels of a row have the scale of its first, which alone has labels.
    pub shared_y: bool,
    /// What the shading is, where there is any.
    pub shade: Option<&'static str>,
}

impl Facets {
    /// The legend: every name once, in the order of the curves.
    fn entries(&self) -> Vec<Entry> {
        let mut names: Vec<&str> = Vec::new();
        let mut entries = Vec::new();
        for curve in self.facets.iter().flat_map(|facet| &facet.curves) {
            if !curve.name.is_empty() && !names.contains(&curve.name.as_str()) {
                names.push(&curve.name);
                entries.push(Entry::Curve(curve.style, curve.name.clone()));
            }
        }
        entries.extend(self.shade.map(|what| Entry::Shade(PALE, what)));
        entries
    }

    /// Panels of a row on a page that wide: where there is room, four that are asked for in two rows stand in one.
    fn columns(&self, page: f64) -> usize {
        if page >= WIDE && self.facets.len() == 4 { 4 } else { self.columns }
    }

    /// Draws the figure on a page that wide.
    pub fn draw(&self, page: f64) -> Canvas {
        let columns = self.columns(page);
        let entries = self.entries();
        let captions = if self.facets.iter().any(|facet| !facet.caption.is_empty()) { 34.0 } else { 0.0 };
        let rows = self.facets.len().div_ceil(columns).max(1);
        let top = legend_height(&entries, page) + 8.0;
        let row_height = captions + self.height + AXIS_ROOM + 8.0;
        let mut canvas = Canvas::new(page, top + row_height * rows as f64 - 8.0);
        legend(&mut canvas, &entries, page);
        for (frame, facet, labelled) in self.frames(page, top + captions, row_height) {
            facet.draw(&mut canvas, frame, labelled);
        }
        canvas
    }

    /// Where each panel stands, and whether it has labels along y.
    fn frames(&self, page: f64, top: f64, row_height: f64) -> Vec<(Frame, &Facet, bool)> {
        let columns = self.columns(page);
        let labelled = |index: usize| !self.shared_y || index.is_multiple_of(columns);
        // Each column has the room for labels that the widest of its panels takes.
        let rooms: Vec<f64> = (0..columns)
            .map(|column| {
                let panels = self.facets.iter().enumerate().filter(|(index, _)| index % columns == column);
                let rooms =
                    panels.map(|(index, facet)| if labelled(index) { facet.label_room() } else { 22.0 });
                rooms.fold(0.0, f64::max)
            })
            .collect();
        let width = (page - 18.0 - rooms.iter().sum::<f64>()) / columns as f64;
        let place = |index: usize| {
            let (row, column) = (index / columns, index % columns);
            let left = rooms[..=column].iter().sum::<f64>() + width * column as f64;
            let top = top + row_height * row as f64;
            Frame { left, top, right: left + width, bottom: top + self.height }
        };
        self.facets.iter().enumerate().map(|(index, facet)| (place(index), facet, labelled(index))).collect()
    }
}

impl Facet {
    /// Room left of the frame for the labels along y.
    fn label_room(&self) -> f64 {
        let widest = self.y.ticks.iter().map(|(_, label)| text_width(label, TICK)).fold(0.0, f64::max);
        let label = if self.y_label.is_empty() { 0.0 } else { 34.0 };
        12.0 + widest + label + 14.0
    }

    /// Draws the panel into `frame`.
    pub fn draw(&self, canvas: &mut Canvas, frame: Frame, labelled: bool) {
        let Frame { left, top, right, bottom } = frame;
        let panel = Panel { frame, x: &self.x, y: &self.y };
        panel.axes(canvas, labelled);
        let middle = (left + right) / 2.0;
        if !self.caption.is_empty() {
            canvas.text(&self.caption, (middle, top - 20.0), Align::Centre, LABEL, BLACK);
        }
        canvas.text(&self.x_label, (middle, bottom + TICK_ROOM + 18.0), Align::Centre, LABEL, BLACK);
        if labelled && !self.y_label.is_empty() {
            let x = left - self.label_room() + 18.0;
            canvas.text_upwards(&self.y_label, (x, (top + bottom) / 2.0), LABEL);
        }
        canvas.marks(&panel.data(&self.id), |canvas| {
            self.curves.iter().for_each(|curve| panel.band(canvas, curve));
            let mut line = 0;
            for curve in self.curves.iter().rev() {
                panel.curve(canvas, curve, self.every, self.clip);
                line = panel.arrows(canvas, curve, line);
            }
        });
    }
}
