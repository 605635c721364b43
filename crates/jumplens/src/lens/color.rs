//! From a probability to a colour.

/// Red, green and blue.
pub type Rgb = [u8; 3];

/// *Viridis* of matplotlib (van der Walt and Smith, CC0) at nine evenly spaced points: it rises in lightness throughout,
/// so that it reads in grey and to the colour-blind.
const SCALE: [Rgb; 9] = [
    [68, 1, 84],
    [71, 44, 122],
    [59, 81, 139],
    [44, 113, 142],
    [33, 144, 141],
    [39, 173, 129],
    [92, 200, 99],
    [170, 220, 50],
    [253, 231, 37],
];

/// The background of a cell of that probability, and the colour in which text reads on it.
pub fn color(probability: f32) -> (Rgb, Rgb) {
    let place = probability.clamp(0.0, 1.0) * (SCALE.len() - 1) as f32;
    let below = (place as usize).min(SCALE.len() - 2);
    let share = place - below as f32;
    let mix = |i: usize| {
        let (a, b) = (f32::from(SCALE[below][i]), f32::from(SCALE[below + 1][i]));
        (a + (b - a) * share).round() as u8
    };
    let background = [mix(0), mix(1), mix(2)];
    let light = |text: Rgb| contrast(background, text);
    let (black, white) = ([0; 3], [255; 3]);
    (background, if light(black) > light(white) { black } else { white })
}

/// The contrast ratio of WCAG 2.
fn contrast(a: Rgb, b: Rgb) -> f32 {
    let luminance = |color: Rgb| {
        let linear = color.map(|c| (f32::from(c) / 255.0).powf(2.2));
        0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    };
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_on_every_color_and_lightness_rises() {
        let mut last = -1.0;
        for i in 0..=200 {
            let (background, text) = color(i as f32 / 200.0);
            assert!(contrast(background, text) >= 4.5, "{i}: {}", contrast(background, text));
            let lightness = contrast(background, [0; 3]);
            assert!(lightness > last, "{i}");
            last = lightness;
        }
        assert_eq!(color(-1.0), color(0.0));
        assert_eq!((color(2.0).0, color(0.0).0), (SCALE[8], SCALE[0]));
    }
}
