//! The bundled models and sentences, and no Hub.

use jumplens::hub::{Bundled, BundledCorpus, BundledModel, Sources};
use jumplens_assets::{TINY_BERT, TINY_GPT2, WIKIPEDIA_SAMPLE};

pub fn sources() -> Sources {
    let models = [TINY_GPT2, TINY_BERT].map(|model| BundledModel {
        name: model.name,
        config: model.config,
        weights: model.weights,
        tokenizer: model.tokenizer,
    });
    let corpora = vec![BundledCorpus { name: WIKIPEDIA_SAMPLE.name, sentences: WIKIPEDIA_SAMPLE.sentences }];
    Sources { bundled: Bundled { models: models.into(), corpora }, ..Sources::default() }
}
