//! The models and the sentences that jumplens runs on when it is given none, compiled in so that it works offline from
//! any folder. The README beside this file says where they come from and under which licence they are.

/// A bundled model, as the bytes of its files in Hugging Face layout.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    /// The name it goes by.
    pub name: &'static str,
    /// `config.json`.
    pub config: &'static [u8],
    /// `model.safetensors`.
    pub weights: &'static [u8],
    /// `tokenizer.json`.
    pub tokenizer: &'static [u8],
    /// `tokenizer_config.json`.
    pub tokenizer_config: &'static [u8],
}

/// Twelve layers of width 128, causal, byte-level BPE of 4,096 tokens.
pub const TINY_GPT2: Model = Model {
    name: "tiny-gpt2",
    config: include_bytes!("../assets/tiny-gpt2/config.json"),
    weights: include_bytes!("../assets/tiny-gpt2/model.safetensors"),
    tokenizer: include_bytes!("../assets/tiny-gpt2/tokenizer.json"),
    tokenizer_config: include_bytes!("../assets/tiny-gpt2/tokenizer_config.json"),
};

/// Six layers of width 128, masked, uncased WordPiece of 4,096 tokens.
pub const TINY_BERT: Model = Model {
    name: "tiny-bert",
    config: include_bytes!("../assets/tiny-bert/config.json"),
    weights: include_bytes!("../assets/tiny-bert/model.safetensors"),
    tokenizer: include_bytes!("../assets/tiny-bert/tokenizer.json"),
    tokenizer_config: include_bytes!("../assets/tiny-bert/tokenizer_config.json"),
};

/// A bundled corpus.
#[derive(Debug, Clone, Copy)]
pub struct Corpus {
    /// The name it goes by.
    pub name: &'static str,
    /// One sentence a line, UTF-8.
    pub sentences: &'static str,
}

/// 12,975 sentences of English Wikipedia, none of which the bundled models were trained on.
pub const WIKIPEDIA_SAMPLE: Corpus =
    Corpus { name: "wikipedia-sample", sentences: include_str!("../assets/wikipedia_sentences.txt") };
