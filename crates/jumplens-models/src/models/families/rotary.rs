//! What a `config.json` says of rotary positions, as frequencies. Agrees with `transformers/modeling_rope_utils.py` of
//! version 5.24.

use crate::fields::parse_fields;
use crate::nn::Rope;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::f64::consts::TAU;

/// The keys of one set of parameters.
const KEYS: [&str; 17] = [
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "short_factor",
    "long_factor",
    "factors",
];

/// One set of parameters, their names kept.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Parameters {
    rope_type: Option<String>,
    /// What `rope_type` was called at first.
    r#type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
    short_factor: Option<Vec<f64>>,
    long_factor: Option<Vec<f64>>,
    /// By frequency; GGUF files hold the outcome instead of the rule.
    factors: Option<Vec<f64>>,
}

/// What a configuration says beside `rope_parameters` and `rope_scaling`.
#[derive(Debug, Clone, Default)]
pub(super) struct Beside {
    /// `rope_theta`, or what a family calls it.
    pub theta: Option<f64>,
    /// `partial_rotary_factor`, or what a family calls it.
    pub partial: Option<f64>,
    /// `original_max_position_embeddings`.
    pub original: Option<f64>,
    /// `max_position_embeddings`.
    pub max_positions: usize,
}

/// The rotary positions of a model: the same in all layers, or by type of layer.
#[derive(Debug, Clone)]
pub(super) struct Rotary {
    /// Type of layer (none where it is all of them), and its parameters.
    sets: Vec<(Option<String>, Parameters)>,
    /// The field that they are in.
    name: &'static str,
    beside: Beside,
    /// What the reader should know of them.
    pub notes: Vec<String>,
}

impl Rotary {
    /// From `rope_parameters` and the older `rope_scaling`, of which one at most says something. `by_layer` is true where
    /// the family has types of layers.
    pub fn read(
        rope_parameters: Option<&Value>,
        rope_scaling: Option<&Value>,
        beside: Beside,
        by_layer: bool,
    ) -> Result<Self, String> {
        let said = |value: Option<&Value>, name: &str| match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) if object.is_empty() => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object.clone())),
            Some(other) => Err(format!("`{name}` is {other}: it has to be an object")),
        };
        let (name, object) =
            match (said(rope_parameters, "rope_parameters")?, said(rope_scaling, "rope_scaling")?) {
                (Some(new), Some(old)) if new != old => {
                    return Err(
                        "`rope_parameters` and `rope_scaling` differ: only one of them can count".to_owned()
                    );
                }
                (Some(object), _) => ("rope_parameters", object),
                (None, Some(object)) => ("rope_scaling", object),
                (None, None) => ("rope_parameters", Map::new()),
            };
        let mut notes = Vec::new();
        let mut sets = Vec::new();
        if object.values().any(Value::is_object) {
            if !by_layer {
                return Err(format!(
                    "`{name}` is by type of layer, and this family's layers are all of one type"
                ));
            }
            for (kind, value) in &object {
                match value {
                    Value::Object(set) => sets.push((Some(kind.clone()), parameters(name, set, &mut notes)?)),
                    // Layers without positions.
                    other => return Err(format!("`{name}`: `{kind}` is {other}, and is not supported")),
                }
            }
        } else {
            sets.push((None, parameters(name, &object, &mut notes)?));
        }
        for (_, set) in &sets {
            set.check(&beside, &mut notes).map_err(|message| format!("`{name}`: {message}"))?;
        }
        Ok(Self { sets, name, beside, notes })
    }

    fn set(&self, layer_type: &str) -> Result<&Parameters, String> {
        let found = self.sets.iter().find(|(kind, _)| kind.as_deref().is_none_or(|kind| kind == layer_type));
        let missing = || format!("`{}` says nothing of layers of type `{layer_type}`", self.name);
        found.map(|(_, set)| set).ok_or_else(missing)
    }

    /// The first share of a head other than all of it that a set asks for, where the share is of the columns that are turned.
    pub fn partial(&self) -> Option<f64> {
        let shares = self.sets.iter().filter(|(_, set)| set.kind() != "proportional");
        shares
            .filter_map(|(_, set)| set.partial_rotary_factor.or(self.beside.partial))
            .find(|share| *share != 1.0)
    }

    /// The longest sequence whose frequencies do not depend on its length, where that is shorter than the longest at all.
    pub fn longest(&self) -> usize {
        let longest = self.sets.iter().filter(|(_, set)| set.kind() == "longrope");
        let longest = longest.map(|(_, set)| set.original(&self.beside) as usize);
        longest.min().unwrap_or(usize::MAX).min(self.beside.max_positions)
    }

    /// For layers of that type, with heads of width `d_head`; a share of their columns is turned where one was asked for.
    pub fn rope(&self, layer_type: &str, d_head: usize) -> Result<Rope, String> {
        let set = self.set(layer_type)?;
        let share = set.partial_rotary_factor.or(self.beside.partial).unwrap_or(1.0);
        if !(0.0..=1.0).contains(&share) {
            return Err(format!(
                "a share of {share} (`partial_rotary_factor`, `rotary_pct`) of every head: it has to be from 0 to 1"
            ));
        }
        let columns = match set.kind() {
            "proportional" => d_head,
            _ => (d_head as f64 * share) as usize,
        };
        if !columns.is_multiple_of(2) {
            return Err(format!(
                "a share of {share} (`partial_rotary_factor`, `rotary_pct`) of heads of width {d_head} (`hidden_size` over \
                 `num_attention_heads`) is no even number \
                 of columns"
            ));
        }
        let (frequencies, scale) = set
            .frequencies(&self.beside, columns, share)
            .map_err(|message| format!("`{}`: {message}", self.name))?;
        let frequencies = frequencies.into_iter().map(|frequency| frequency as f32).collect();
        Ok(Rope::new(frequencies, d_head).scaled_by(scale as f32))
    }
}

/// The parameters in `object`, the value of `name`.
fn parameters(
    name: &str,
    object: &Map<String, Value>,
    notes: &mut Vec<String>,
) -> Result<Parameters, String> {
    let unknown: Vec<String> =
        object.keys().filter(|key| !KEYS.contains(&key.as_str())).map(|key| format!("`{key}`")).collect();
    if !unknown.is_empty() {
        notes.push(format!("nothing reads these of `{name}`: {}", unknown.join(", ")));
    }
    parse_fields(object).map_err(|message| format!("`{name}`: {message}"))
}

impl Parameters {
    fn kind(&self) -> &str {
        self.rope_type.as_deref().or(self.r#type.as_deref()).unwrap_or("default")
    }

    fn theta(&self, beside: &Beside) -> f64 {
        self.rope_theta.or(beside.theta).unwrap_or(10_000.0)
    }

    /// Tokens of the sequences that the model was first trained on.
    fn original(&self, beside: &Beside) -> f64 {
        let said = beside.original.or(self.original_max_position_embeddings);
        said.unwrap_or(beside.max_positions as f64)
    }

    /// What contradicts itself.
    fn check(&self, beside: &Beside, notes: &mut Vec<String>) -> Result<(), String> {
        if let (Some(new), Some(old)) = (&self.rope_type, &self.r#type)
            && new != old
        {
            return Err(format!("`rope_type` is `{new}` and `type`, its older name, is `{old}`"));
        }
        if let (Some(inner), Some(outer)) = (self.original_max_position_embeddings, beside.original)
            && inner != outer
        {
            return Err(format!(
                "`original_max_position_embeddings` is {outer}, and {inner} among the parameters of RoPE"
            ));
        }
        if let (Some(inner), Some(outer)) = (self.rope_theta, beside.theta)
            && inner != outer
        {
            notes.push(format!(
                "`rope_theta` is {inner} in `rope_parameters` and {outer} next to it: the former is used, as transformers 5 \
                 does"
            ));
        }
        let theta = self.theta(beside);
        if !(theta > 0.0 && theta.is_finite()) {
            return Err(format!("`rope_theta` is {theta}: it has to be above 0"));
        }
        Ok(())
    }

    /// The angle by position of `columns / 2` pairs of columns, and what cosines and sines are multiplied by.
    ///
    /// With `dynamic` the frequencies change beyond the longest sequence that the model was trained on, and with `longrope`
    /// beyond that of its first training: longer ones are not run ([`Rotary::longest`]).
    fn frequencies(&self, beside: &Beside, columns: usize, share: f64) -> Result<(Vec<f64>, f64), String> {
        let (kind, theta) = (self.kind(), self.theta(beside));
        let plain = (0..columns / 2).map(|i| theta.powf(-2.0 * i as f64 / columns as f64));
        let above_zero = |value: Option<f64>, name: &str| {
            value
                .filter(|value| *value > 0.0)
                .ok_or_else(|| format!("rope type `{kind}` needs `{name}` above 0"))
        };
        let original = || above_zero(Some(self.original(beside)), "original_max_position_embeddings");
        let divided = |factors: Option<&[f64]>, name: &str| -> Result<Vec<f64>, String> {
            let factors = factors.unwrap_or_default();
            if factors.len() != columns / 2 || factors.iter().any(|factor| *factor <= 0.0) {
                return Err(format!(
                    "rope type `{kind}` needs `{name}` of {} numbers above 0, and has {}",
                    columns / 2,
                    factors.len()
                ));
            }
            Ok(plain.clone().zip(factors).map(|(frequency, factor)| frequency / factor).collect())
        };
        Ok(match kind {
            "default" | "dynamic" => (plain.collect(), 1.0),
            "linear" => {
                let factor = above_zero(self.factor, "factor")?;
                (plain.map(|frequency| frequency / factor).collect(), 1.0)
            }
            "llama3" => {
                let factor = above_zero(self.factor, "factor")?;
                let low = above_zero(self.low_freq_factor, "low_freq_factor")?;
                let high = above_zero(self.high_freq_factor, "high_freq_factor")?;
                if high <= low {
                    return Err(format!(
                        "`high_freq_factor` is {high}: it has to be above `low_freq_factor`, which is {low}"
                    ));
                }
                let trained = original()?;
                let scale = |frequency: f64| {
                    // Turns over the length that the model was first trained on.
                    let turns = trained * frequency / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - kept) * frequency / factor + kept * frequency
                };
                (plain.map(scale).collect(), 1.0)
            }
            "yarn" => self.yarn(beside, original()?, columns)?,
            "longrope" => {
                let trained = original()?;
                let factor = self.factor.unwrap_or(beside.max_positions as f64 / trained);
                let otherwise = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / trained.ln()).sqrt() };
                (
                    divided(self.short_factor.as_deref(), "short_factor")?,
                    self.attention_factor.unwrap_or(otherwise),
                )
            }
            "proportional" => {
                let factor = above_zero(Some(self.factor.unwrap_or(1.0)), "factor")?;
                let turned = (share * columns as f64 / 2.0) as usize;
                (plain.enumerate().map(|(i, f)| if i < turned { f / factor } else { 0.0 }).collect(), 1.0)
            }
            "factors" => (divided(self.factors.as_deref(), "factors")?, 1.0),
            other => {
                return Err(format!(
                    "`rope_type` `{other}` is not supported; `default`, `linear`, `dynamic`, `llama3`, `yarn`, `longrope` \
                     and `proportional` are"
                ));
            }
        })
    }

    /// YaRN (Peng et al., arXiv 2309.00071): fast pairs as they are, slow ones divided, a ramp between.
    fn yarn(&self, beside: &Beside, trained: f64, columns: usize) -> Result<(Vec<f64>, f64), String> {
        let theta = self.theta(beside);
        let factor = self.factor.unwrap_or(beside.max_positions as f64 / trained);
        if !(factor > 0.0 && theta != 1.0) {
            return Err(format!(
                "rope type `yarn` needs `factor` above 0, and another `rope_theta` than {theta}"
            ));
        }
        let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let is_said = |value: Option<f64>| value.filter(|value| *value != 0.0);
        let attention_factor =
            match (self.attention_factor, is_said(self.mscale), is_said(self.mscale_all_dim)) {
                (Some(said), ..) => said,
                (None, Some(mscale), Some(all)) => magnitude(mscale) / magnitude(all),
                _ => magnitude(1.0),
            };
        // The pair that turns so often over the length of the first training.
        let pair = |turns: f64| columns as f64 * (trained / (turns * TAU)).ln() / (2.0 * theta.ln());
        let (low, high) =
            (pair(is_said(self.beta_fast).unwrap_or(32.0)), pair(is_said(self.beta_slow).unwrap_or(1.0)));
        let (low, high) = match self.truncate {
            Some(false) => (low, high),
            _ => (low.floor(), high.ceil()),
        };
        let (low, mut high) = (low.max(0.0), high.min(columns as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let frequency = |i: usize| {
            let slow = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            let plain = theta.powf(-2.0 * i as f64 / columns as f64);
            plain / factor * slow + plain * (1.0 - slow)
        };
        Ok(((0..columns / 2).map(frequency).collect(), attention_factor))
    }
}
