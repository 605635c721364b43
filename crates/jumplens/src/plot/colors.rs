//! The sequential colour scale: dark to light, so that it reads in grey as well.

use super::canvas::{Align, BLACK, Canvas, Color, Frame, LABEL, Stroke, TICK};

/// matplotlib's viridis at nine even steps.
const VIRIDIS: [Color; 9] = [
    Color(68, 1, 84),
    Color(71, 45, 123),
    Color(59, 82, 139),
    Color(44, 114, 142),
    Color(33, 145, 140),
    Color(40, 174, 128),
    Color(94, 201, 98),
    Color(173, 220, 48),
    Color(253, 231, 37),
];

/// The colour of a share, which is clipped to [0, 1].
pub(super) fn shade(share: f64) -> Color {
    let place = share.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let index = (place as usize).min(VIRIDIS.len() - 2);
    let share = place - index as f64;
    let mix = |a: u8, b: u8| (f64::from(a) + share * (f64::from(b) - f64::from(a))).round() as u8;
    let (Color(r, g, b), Color(r1, g1, b1)) = (VIRIDIS[index], VIRIDIS[index + 1]);
    Color(mix(r, r1), mix(g, g1), mix(b, b1))
}

/// Draws the scale from 0 to 1 with its ticks to the right of `frame`, and `label` beyond.
pub(super) fn color_bar(canvas: &mut Canvas, frame: Frame, lowest: &str, label: &str) {
    const STEPS: usize = 64;
    let height = (frame.bottom - frame.top) / STEPS as f64;
    for step in 0..STEPS {
        let bottom = frame.bottom - height * step as f64;
        let piece = Frame { top: (bottom - height - 1.0).max(frame.top), bottom, ..frame };
        canvas.rectangle(piece, shade(step as f64 / (STEPS - 1) as f64));
    }
    for fifth in 0..=5 {
        let y = frame.bottom - (frame.bottom - frame.top) * f64::from(fifth) / 5.0;
        let text = if fifth == 0 { lowest.to_owned() } else { format!("{:.1}", f64::from(fifth) / 5.0) };
        canvas.line(&[(frame.right, y), (frame.right + 6.0, y)], Stroke::plain(BLACK, 2.0));
        canvas.text(&text, (frame.right + 12.0, y), Align::Left, TICK, BLACK);
    }
    canvas.text(label, (frame.right, frame.top - 24.0), Align::Centre, LABEL, BLACK);
}
