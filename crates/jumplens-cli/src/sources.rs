//! Where this program looks names up, and what it brings along.

use jumplens::hub::{Bundled, Hub, SourceFile, Sources};

/// What is bundled, and the Hub as the environment describes it.
pub fn sources() -> Sources {
    Sources { bundled: bundled(), hub: Some(Hub::from_env()), ..Sources::default() }
}

/// The bundled models and corpora, the defaults first.
#[cfg(feature = "bundled")]
fn bundled() -> Bundled {
    use jumplens::hub::{BundledCorpus, BundledModel};
    use jumplens_assets::{TINY_BERT, TINY_GPT2, WIKIPEDIA_SAMPLE};
    let models = [TINY_GPT2, TINY_BERT].map(|model| BundledModel {
        name: model.name,
        config: model.config,
        weights: model.weights,
        tokenizer: model.tokenizer,
    });
    let corpora =
        [WIKIPEDIA_SAMPLE].map(|corpus| BundledCorpus { name: corpus.name, sentences: corpus.sentences });
    Bundled { models: models.into(), corpora: corpora.into() }
}

/// Nothing: the feature `bundled` is off.
#[cfg(not(feature = "bundled"))]
fn bundled() -> Bundled {
    Bundled::default()
}

/// The maps to the last layer that come with a bundled model.
#[cfg(feature = "bundled")]
pub fn bundled_maps(model: &str) -> Option<SourceFile> {
    use jumplens_assets_maps::{TINY_BERT, TINY_GPT2};
    let maps = [TINY_GPT2, TINY_BERT].into_iter().find(|maps| maps.model == model)?;
    Some(SourceFile::bundled(format!("{model}/mat.safetensors"), maps.file))
}

/// None: the feature `bundled` is off.
#[cfg(not(feature = "bundled"))]
pub fn bundled_maps(_: &str) -> Option<SourceFile> {
    None
}
