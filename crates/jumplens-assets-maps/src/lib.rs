//! The maps from every layer to the last one of the models in `jumplens-assets`, compiled in so that the lens works at
//! once. The README beside this file says how they were made.

/// The maps of one model.
#[derive(Debug, Clone, Copy)]
pub struct Maps {
    /// The model's name.
    pub model: &'static str,
    /// A file of the cast `mat`, as `jumplens shortcuts export` writes it.
    pub file: &'static [u8],
}

/// Those of `tiny-gpt2`.
pub const TINY_GPT2: Maps =
    Maps { model: "tiny-gpt2", file: include_bytes!("../assets/tiny-gpt2.safetensors") };

/// Those of `tiny-bert`.
pub const TINY_BERT: Maps =
    Maps { model: "tiny-bert", file: include_bytes!("../assets/tiny-bert.safetensors") };
