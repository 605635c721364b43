//! The scale of one axis and its ticks.

/// One axis: the values at its ends, and its ticks.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    pub lo: f64,
    pub hi: f64,
    pub ticks: Vec<(f64, String)>,
    /// Powers of ten are at even distances.
    pub log: bool,
}

impl Scale {
    /// Layers `0..=last`, with at most about `most` ticks, the last layer among them where a step allows it.
    pub fn layers(last: usize, most: usize) -> Scale {
        let step = layer_step(last, most);
        let ticks = (0..=last).step_by(step).map(|layer| (layer as f64, layer.to_string())).collect();
        Scale { lo: 0.0, hi: last as f64, ticks, log: false }.padded(0.04)
    }

    /// Shares from the greatest fifth below `least`, up to 1.
    pub fn shares(least: f64) -> Scale {
        let first = (5.0 * least).floor().clamp(0.0, 4.0);
        let (step, decimals) = match first as usize {
            0..=2 => (0.2, 1),
            3 => (0.1, 1),
            _ => (0.05, 2),
        };
        let lo = first / 5.0;
        let count = ((1.0 - lo) / step).round() as usize;
        let ticks = (0..=count).map(|tick| lo + step * tick as f64);
        let ticks = ticks.map(|share| (share, plain(share, decimals))).collect();
        Scale { lo, hi: 1.0, ticks, log: false }.padded(0.03)
    }

    /// Shares of a model's depth.
    pub fn depth() -> Scale {
        let ticks = [0.0, 0.5, 1.0].map(|share| (share, plain(share, 1))).to_vec();
        Scale { lo: 0.0, hi: 1.0, ticks, log: false }.padded(0.04)
    }

    /// From the least to the greatest finite value of `values`, with ticks at round numbers.
    pub fn fitting(values: impl Iterator<Item = f64>) -> Scale {
        let (mut lo, mut hi) = extent(values).unwrap_or((0.0, 1.0));
        // A constant, or a spread that rounding swallows, stands in the middle.
        let least = 1e-9 * lo.abs().max(hi.abs()).max(1e-3);
        if hi - lo < least {
            let margin = if lo == 0.0 { 1.0 } else { 0.5 * lo.abs() };
            (lo, hi) = (lo - margin, hi + margin);
        }
        let rough = hi / 8.0 - lo / 8.0;
        let decade = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0].map(|round| round * decade).into_iter().find(|&s| s >= rough);
        let step = step.unwrap_or(10.0 * decade);
        let decimals = (-(step.log10() + 1e-9).floor()).max(0.0) as usize;
        let (first, last) = ((lo / step).ceil() as i64, (hi / step).floor() as i64);
        let ticks = (first..=last).map(|count| count as f64 * step);
        let ticks = ticks.map(|value| (value, plain(value, decimals))).collect();
        Scale { lo, hi, ticks, log: false }.padded(0.04)
    }

    /// From the least to the greatest positive value of `values` in powers of ten, but over `decades` at most: what is
    /// smaller is left out.
    pub fn powers(values: impl Iterator<Item = f64>, decades: i32) -> Scale {
        let (lo, hi) = extent(values.filter(|value| *value > 0.0)).unwrap_or((1.0, 10.0));
        let hi_power = hi.log10();
        let lo_power = lo.log10().max(hi_power - f64::from(decades));
        let margin = (0.04 * (hi_power - lo_power)).max(0.05);
        let (lo, hi) = (lo_power - margin, hi_power + margin);
        let (first, last) = (lo.ceil() as i32, hi.floor() as i32);
        let (lo_value, hi_value) = (10f64.powf(lo), 10f64.powf(hi));
        let within = |value: &f64| (lo_value..=hi_value).contains(value);
        let step = ((last - first) / 5 + 1).max(1) as usize;
        let mut ticks: Vec<f64> =
            (first..=last).step_by(step).map(|power| 10f64.powi(power)).filter(within).collect();
        if ticks.len() < 2 {
            let finer = Scale::fitting([lo_value, hi_value].into_iter()).ticks;
            ticks = finer.into_iter().map(|(value, _)| value).filter(within).collect();
        }
        let ticks = ticks.into_iter().map(|value| (value, power_of_ten(value))).collect();
        Scale { lo: lo_value, hi: hi_value, ticks, log: true }
    }

    fn padded(self, share: f64) -> Scale {
        let margin = if self.hi > self.lo { share * (self.hi - self.lo) } else { 0.5 };
        Scale { lo: self.lo - margin, hi: self.hi + margin, ..self }
    }

    /// Where `value` stands between `start` and `end` on the page.
    pub fn position(&self, value: f64, start: f64, end: f64) -> f64 {
        let at = |value: f64| if self.log { value.log10() } else { value };
        start + (at(value) - at(self.lo)) / (at(self.hi) - at(self.lo)) * (end - start)
    }

    /// True where `value` has a place on the scale.
    pub fn holds(&self, value: f64) -> bool {
        (self.lo..=self.hi).contains(&value)
    }
}

/// The least and the greatest finite value.
pub(super) fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.is_finite()).fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((lo, hi)) => Some((value.min(lo), value.max(hi))),
    })
}

/// The step between ticks over `last` layers: the least that gives about `most` of them, or up to twice that where
/// it then divides `last`.
pub(super) fn layer_step(last: usize, most: usize) -> usize {
    let least = last.div_ceil(most).max(1);
    (least..2 * least).find(|step| last.is_multiple_of(*step)).unwrap_or(least)
}

/// A number with so many decimals, large ones in powers of ten.
pub(super) fn plain(value: f64, decimals: usize) -> String {
    let text = if value.abs() < 1e5 { format!("{value:.decimals$}") } else { format!("{value:.2e}") };
    text.replace('-', "−")
}

/// A round number of a scale in powers of ten.
fn power_of_ten(value: f64) -> String {
    if (0.01..1e5).contains(&value) {
        ((value * 1e9).round() / 1e9).to_string()
    } else {
        format!("{value:.0e}").replace('-', "−")
    }
}
