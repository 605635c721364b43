//! A lens as an example: all that one takes is in this file and in a line of [`super::LENSES`]. A state is moved by the
//! difference of the layers' means, and not turned: what is left of a map when only its bias is fitted.

use super::{Fit, Source};
use crate::Result;
use jumplens_core::LinearMap;
use jumplens_core::cast::Cast;
use jumplens_core::solver::Maps;

pub(super) struct Shift;

impl Fit for Shift {
    fn cast(&self) -> Cast {
        Cast::from("shift")
    }

    fn fit(&self, source: &Source) -> Result<Maps> {
        let from = source.spread().mean;
        let to = |target| {
            let to = source.target_spread(target).mean;
            let bias = to.iter().zip(&from).map(|(to, from)| (to - from) as f32).collect();
            Ok(LinearMap::identity(from.len()).with_bias(bias)?)
        };
        Ok(Maps { maps: (0..source.targets()).map(to).collect::<Result<_>>()?, lambdas: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{Bundled, BundledCorpus, BundledModel, Sources};
    use crate::nn::Precision;
    use crate::progress::Silent;
    use crate::run::{Existing, Run, SampleSource, Settings};
    use jumplens_core::cast::{Fits, Pairs};

    fn sources() -> Sources {
        let (tiny, sentences) = (jumplens_assets::TINY_GPT2, jumplens_assets::WIKIPEDIA_SAMPLE);
        let (config, weights, tokenizer) = (tiny.config, tiny.weights, tiny.tokenizer);
        let models = vec![BundledModel { name: tiny.name, config, weights, tokenizer }];
        let corpora = vec![BundledCorpus { name: sentences.name, sentences: sentences.sentences }];
        Sources { bundled: Bundled { models, corpora }, ..Default::default() }
    }

    /// Fitted, measured and evaluated beside `mat` without a word about it anywhere else.
    #[test]
    fn a_made_up_lens_is_a_cast_like_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let fits = Fits { lenses: vec![Shift.cast()], ..Fits::plain(Pairs::ToFinal) };
        let settings = Settings {
            model: "tiny-gpt2".into(),
            samples: SampleSource::corpus("wikipedia-sample", 300, 60),
            seed: 0,
            fits: fits.clone(),
            dtype: Precision::F32,
            shard: None,
        };
        let mut run = Run::begin(&out, &settings, Existing::Refuse, &sources(), &Silent).unwrap();
        run.states(&Silent).unwrap();
        run.fit(fits, &Silent).unwrap();
        run.r2(None, &Silent).unwrap();
        run.evaluate(None, &Silent).unwrap();
        let results = |name: &str| std::fs::read_to_string(out.join("results").join(name)).unwrap();
        // On the states it was fitted on no other bias is better, so that it beats the state as it is.
        let train = |cast: &str| -> f64 {
            let table = results("r2.csv");
            let row = table.lines().find(|row| row.starts_with(&format!("{cast},6,12,"))).unwrap();
            row.rsplit(',').next().unwrap().parse().unwrap()
        };
        assert!(train("shift") > train("id") && train("shift") < train("mat"));
        assert!(results("layers.csv").lines().any(|row| row.starts_with("shift,6,")));
    }
}
