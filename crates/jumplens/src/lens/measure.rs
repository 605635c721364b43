//! What the colour of a cell says.

use super::{Cell, Reading};

/// What a cell is coloured by. The lighter the colour, the surer the cast or the nearer to the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Measure {
    /// The probability of the token that is shown.
    #[default]
    Probability,
    /// The entropy of the cast's distribution.
    Entropy,
    /// KL(model ‖ cast).
    Kl,
    /// The rank of the target that was asked for first; where none was, of the model's own token.
    Rank,
}

/// A measure with the ends of its scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coloring {
    measure: Measure,
    /// The value of the darkest colour.
    worst: f64,
}

impl Coloring {
    /// By `measure`, on one scale for all `readings`: probability from 0 to 1, entropy from that of the uniform distribution to
    /// 0, KL from the largest there is to 0, rank from the last to 1 in powers.
    pub fn of(measure: Measure, readings: &[Reading]) -> Self {
        let vocab = readings.iter().map(|reading| reading.vocab_size).max().unwrap_or(0).max(2) as f64;
        let cells = || {
            readings.iter().flat_map(|reading| &reading.casts).flat_map(|cast| cast.cells.iter().flatten())
        };
        let worst = match measure {
            Measure::Probability => 0.0,
            Measure::Entropy => vocab.ln(),
            Measure::Kl => {
                let largest = cells().filter_map(|cell| cell.kl).fold(0f32, f32::max);
                // Rounded up to a tenth; a text that all casts agree on has a scale nonetheless.
                (f64::from(largest) * 10.0).ceil().max(1.0) / 10.0
            }
            Measure::Rank => vocab,
        };
        Self { measure, worst }
    }

    /// Where `cell` stands between the worst, 0, and the best, 1; 0 where it has no prediction.
    pub fn share(&self, cell: &Cell) -> f32 {
        let share = match self.measure {
            Measure::Probability => cell.top.first().map(|guess| f64::from(guess.probability)),
            Measure::Entropy => cell.entropy.map(|entropy| 1.0 - f64::from(entropy) / self.worst),
            Measure::Kl => cell.kl.map(|kl| 1.0 - f64::from(kl) / self.worst),
            Measure::Rank => {
                let rank = cell.targets.first().map_or(cell.rank, |target| target.rank);
                rank.map(|rank| 1.0 - (rank as f64).ln() / self.worst.ln())
            }
        };
        share.unwrap_or(0.0).clamp(0.0, 1.0) as f32
    }

    /// What it is, and the values at the dark and at the light end.
    pub fn legend(&self, reading: &Reading) -> (String, String, String) {
        match self.measure {
            Measure::Probability => ("probability".to_owned(), "0".to_owned(), "1".to_owned()),
            Measure::Entropy => ("entropy in nats".to_owned(), format!("{:.1}", self.worst), "0".to_owned()),
            Measure::Kl => {
                ("KL(model ‖ cast) in nats".to_owned(), format!("{:.1}", self.worst), "0".to_owned())
            }
            Measure::Rank => {
                let whose = match reading.targets.first() {
                    Some(target) => format!("rank of {}", super::shown(&target.token.text)),
                    None => "rank of the model's token".to_owned(),
                };
                (whose, format!("{}", self.worst), "1".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lens::{CastReading, Guess, TargetCell};
    use crate::words::Cast;

    #[test]
    fn the_best_is_the_lightest_whatever_is_measured() {
        let cell = |probability: f32, entropy: f32, kl: f32, rank: usize| Cell {
            top: vec![Guess { id: 0, text: String::new(), probability }],
            entropy: Some(entropy),
            kl: Some(kl),
            rank: Some(rank),
            ..Cell::default()
        };
        let (good, bad) = (cell(1.0, 0.0, 0.0, 1), cell(0.0, 100f32.ln(), 2.31, 100));
        let mut reading = Reading { vocab_size: 100, ..Reading::default() };
        reading.casts = vec![CastReading {
            cast: Cast::Id,
            layers: vec![0],
            cells: vec![vec![good.clone(), bad.clone()]],
            exit_layer: None,
            answers: Vec::new(),
        }];
        for measure in [Measure::Probability, Measure::Entropy, Measure::Kl, Measure::Rank] {
            let coloring = Coloring::of(measure, std::slice::from_ref(&reading));
            assert_eq!(coloring.share(&good), 1.0, "{measure:?}");
            assert!(coloring.share(&bad) < 0.05, "{measure:?}: {}", coloring.share(&bad));
            assert_eq!(coloring.share(&Cell::default()), 0.0);
        }
        let by_rank = Coloring::of(Measure::Rank, &[reading]);
        let asked = Cell { targets: vec![TargetCell { probability: None, rank: Some(10) }], ..good };
        assert!((by_rank.share(&asked) - 0.5).abs() < 1e-6, "10 of 100 is half way in powers");
    }
}
