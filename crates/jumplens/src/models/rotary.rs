//! What a `config.json` says of rotary positions, as frequencies.

use serde::Deserialize;
use std::f64::consts::TAU;

/// `rope_parameters`, or the older `rope_scaling`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct RopeParameters {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    pub rope_theta: Option<f64>,
    pub partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    /// By frequency; GGUF files hold the outcome instead of the rule.
    factors: Option<Vec<f64>>,
}

impl RopeParameters {
    /// The angle by position of `columns / 2` pairs of columns. `theta` is what the configuration says elsewhere.
    ///
    /// As `transformers/modeling_rope_utils.py` has it. With `dynamic` the frequencies change beyond the longest
    /// sequence that the model was trained on, which is the longest that is run.
    pub fn frequencies(&self, theta: Option<f64>, columns: usize) -> Result<Vec<f32>, String> {
        let theta = self.rope_theta.or(theta).unwrap_or(10_000.0);
        let plain = (0..columns / 2).map(|i| theta.powf(-2.0 * i as f64 / columns as f64));
        let kind = self.rope_type.as_deref().unwrap_or("default");
        let need = |field: Option<f64>, name: &str| {
            field
                .filter(|value| *value > 0.0)
                .ok_or_else(|| format!("rope type `{kind}` needs `{name}` above 0"))
        };
        let scaled: Vec<f64> = match kind {
            "default" | "dynamic" => plain.collect(),
            "linear" => {
                let factor = need(self.factor, "factor")?;
                plain.map(|frequency| frequency / factor).collect()
            }
            "llama3" => {
                let factor = need(self.factor, "factor")?;
                let low = need(self.low_freq_factor, "low_freq_factor")?;
                let high = need(self.high_freq_factor, "high_freq_factor")?;
                let trained =
                    need(self.original_max_position_embeddings, "original_max_position_embeddings")?;
                let scale = |frequency: f64| {
                    // Turns over the length that the model was first trained on.
                    let turns = trained * frequency / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - kept) * frequency / factor + kept * frequency
                };
                plain.map(scale).collect()
            }
            "factors" => {
                let factors = self.factors.as_deref().unwrap_or_default();
                if factors.len() != columns / 2 {
                    return Err(format!("{} rope factors for {} frequencies", factors.len(), columns / 2));
                }
                plain.zip(factors).map(|(frequency, factor)| frequency / factor).collect()
            }
            other => {
                return Err(format!(
                    "rope type `{other}` is not supported; `default`, `linear`, `dynamic` and `llama3` are"
                ));
            }
        };
        Ok(scaled.into_iter().map(|frequency| frequency as f32).collect())
    }
}
