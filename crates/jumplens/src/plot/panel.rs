//! Axes on the page, and curves and interval bands between them.

use super::canvas::{Align, BLACK, Canvas, Frame, LABEL, PALE, Point, Stroke, TICK, text_width};
use super::scale::{Scale, plain};
use super::series::Series;
use crate::error::Result;

/// A frame on the page with a scale along each side.
pub(super) struct Panel<'c, 's> {
    pub canvas: &'c Canvas<'s>,
    pub frame: Frame,
    pub x: Scale,
    pub y: Scale,
}

impl Panel<'_, '_> {
    /// Draws grid, axes, ticks and labels.
    pub fn axes(&self, x_label: &str, y_label: &str) -> Result<()> {
        let Frame { left, top, right, bottom } = self.frame;
        let thin = |color, width| Stroke { color, width, dash: None };
        for (value, label) in &self.x.ticks {
            let x = self.x.position(*value, left, right);
            self.canvas.line(&[(x, top), (x, bottom)], thin(PALE, 1))?;
            self.canvas.line(&[(x, bottom), (x, bottom + 8.0)], thin(BLACK, 2))?;
            self.canvas.text(label, (x, bottom + 26.0), Align::Centre, TICK, BLACK)?;
        }
        for (value, label) in &self.y.ticks {
            let y = self.y.position(*value, bottom, top);
            self.canvas.line(&[(left, y), (right, y)], thin(PALE, 1))?;
            self.canvas.line(&[(left - 8.0, y), (left, y)], thin(BLACK, 2))?;
            self.canvas.text(label, (left - 14.0, y), Align::Right, TICK, BLACK)?;
        }
        self.canvas.line(&[(left, top), (left, bottom), (right, bottom)], thin(BLACK, 2))?;
        self.canvas.text(x_label, ((left + right) / 2.0, bottom + 64.0), Align::Centre, LABEL, BLACK)?;
        let widest = self.y.ticks.iter().map(|(_, label)| text_width(label, TICK)).fold(0.0, f64::max);
        let x = (left - 36.0 - widest).max(20.0);
        self.canvas.text_upwards(y_label, (x, (top + bottom) / 2.0), LABEL)
    }

    /// Where (`x`, `y`) stands on the page; `None` outside the frame or where one is not finite.
    pub fn at(&self, x: f64, y: f64) -> Option<Point> {
        let inside = (self.x.lo..=self.x.hi).contains(&x) && (self.y.lo..=self.y.hi).contains(&y);
        let Frame { left, top, right, bottom } = self.frame;
        inside.then(|| (self.x.position(x, left, right), self.y.position(y, bottom, top)))
    }

    /// Shades between the bounds `(x, lo, hi)`; a point whose bounds are not both inside the frame leaves a gap.
    pub fn band(&self, series: &Series, bounds: &[(f64, f64, f64)]) -> Result<()> {
        let sides: Vec<_> = bounds.iter().map(|&(x, lo, hi)| self.at(x, lo).zip(self.at(x, hi))).collect();
        for run in sides.split(Option::is_none) {
            let (lower, upper): (Vec<_>, Vec<_>) = run.iter().copied().flatten().unzip();
            if lower.len() > 1 {
                let outline: Vec<_> = lower.into_iter().chain(upper.into_iter().rev()).collect();
                self.canvas.area(&outline, series.color, 0.16)?;
            }
        }
        Ok(())
    }

    /// Joins `points` in their order, with a marker at each `every`-th and at the last. A point outside the frame or not
    /// finite leaves a gap.
    pub fn curve(&self, series: &Series, points: &[(f64, f64)], every: usize) -> Result<()> {
        let places: Vec<_> = points.iter().map(|&(x, y)| self.at(x, y)).collect();
        for run in places.split(Option::is_none) {
            let run: Vec<_> = run.iter().copied().flatten().collect();
            if run.len() > 1 {
                self.canvas.line(&run, series.stroke())?;
            }
        }
        for (index, place) in places.iter().enumerate() {
            if let Some(place) = place
                && (index % every.max(1) == 0 || index + 1 == places.len())
            {
                self.canvas.marker(series.marker, *place, series.color)?;
            }
        }
        Ok(())
    }

    /// Shows the points that lie above the frame as arrows at its upper edge, each with its value beside it, one line
    /// each. The first is on line `line`; returns the line after the last.
    pub fn arrows(&self, series: &Series, points: &[(f64, f64)], mut line: usize) -> Result<usize> {
        for &(x, y) in points.iter().filter(|(_, y)| *y > self.y.hi) {
            let Some((x, top)) = self.at(x, self.y.hi) else { continue };
            let middle = top + 14.0 + 34.0 * line as f64;
            let stroke = Stroke { color: series.color, width: 3, dash: None };
            let head = [(x - 7.0, middle - 4.0), (x, middle - 13.0), (x + 7.0, middle - 4.0)];
            self.canvas.line(&[(x, middle + 12.0), (x, middle - 12.0)], stroke)?;
            self.canvas.line(&head, stroke)?;
            self.canvas.text(&plain(y, 1), (x + 16.0, middle), Align::Left, TICK, series.color)?;
            line += 1;
        }
        Ok(line)
    }
}
