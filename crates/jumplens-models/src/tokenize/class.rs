//! The tokenizer classes of `transformers`: which fields of `tokenizer_config.json` each of them has, and what it makes of
//! them. `models/*/tokenization_*_fast.py` of version 4.49, whose `AutoTokenizer` the tokens are to agree with.

use crate::fields::{Class, Field};

/// The special tokens that have a name, in the order of `SpecialTokensMixin.SPECIAL_TOKENS_ATTRIBUTES`.
pub(super) const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A tokenizer class.
pub(super) struct TokenizerClass {
    /// Its name, without `Fast`, and its fields with their defaults.
    pub fields: Class,
    /// What it can be made of, beside `tokenizer.json`.
    pub made_of: MadeOf,
    /// What becomes of a tokenizer.json's post-processor: where true it gives way to one that puts around a text what
    /// `add_bos_token` and `add_eos_token` say.
    pub sets_template: bool,
    /// Named tokens that are given, or left out, as mere strings.
    pub strings: Strings,
    /// What `add_prefix_space` does beside tokenizer.json.
    pub prefix_space: PrefixSpace,
    /// Fields with more special tokens, which count as the last of `additional_special_tokens`.
    pub more_special: &'static [&'static str],
}

/// The vocabularies that a class can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MadeOf {
    /// None: it needs a tokenizer.json.
    Nothing,
    /// `vocab.txt`.
    WordPieces,
    /// `vocab.json` and `merges.txt`, split as GPT-2 does.
    BytePairs,
    /// The same, put into NFC first, as GPT-NeoX does.
    BytePairsInNfc,
    /// The same, split as Qwen2 does.
    Qwen2BytePairs,
    /// The same, with `cls_token` and `sep_token` around a text.
    RobertaBytePairs,
}

/// What `add_prefix_space` does beside tokenizer.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PrefixSpace {
    /// It, or its default, sets that of GPT-2's pre-tokenizer.
    Set,
    /// It has the tokenizer made anew of a SentencePiece model, which is not read here.
    OfSentencePiece,
}

/// What special tokens become that are given as mere strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strings {
    /// Special tokens, where the tokenizer has none of that name.
    Plain,
    /// Special tokens in any case, found in a text before it is normalized.
    BeforeNormalization,
    /// As plain ones, but `mask_token` takes the white space before it.
    MaskTakesSpace,
}

/// The class called `name`, with or without `Fast`.
pub(super) fn named(name: &str) -> Option<&'static TokenizerClass> {
    let name = name.strip_suffix("Fast").unwrap_or(name);
    CLASSES.iter().find(|class| class.fields.name == name)
}

/// The class of models of that family, where its files name none.
pub(super) fn of_family(family: &str) -> &'static TokenizerClass {
    let name = match family {
        "gpt2" | "opt" => "GPT2Tokenizer",
        "bert" => "BertTokenizer",
        "gpt_neox" => "GPTNeoXTokenizer",
        "llama" | "mistral" => "LlamaTokenizer",
        "qwen2" | "qwen3" => "Qwen2Tokenizer",
        "gemma" | "gemma2" | "gemma3" | "gemma3_text" => "GemmaTokenizer",
        _ => BASE.fields.name,
    };
    named(name).unwrap_or(&BASE)
}

/// The class that takes a tokenizer.json as it stands but for tokens that are added, whatever its model.
pub(super) const BASE: TokenizerClass = class("PreTrainedTokenizer", &[EVERY]);

const fn class(name: &'static str, fields: &'static [&'static [Field]]) -> TokenizerClass {
    TokenizerClass {
        fields: Class { name, fields, aliases: &[] },
        made_of: MadeOf::Nothing,
        sets_template: false,
        strings: Strings::Plain,
        prefix_space: PrefixSpace::Set,
        more_special: &[],
    }
}

const fn word_pieces(name: &'static str) -> TokenizerClass {
    TokenizerClass { made_of: MadeOf::WordPieces, ..class(name, &[BERT, EVERY]) }
}

const fn with_template(name: &'static str, fields: &'static [&'static [Field]]) -> TokenizerClass {
    TokenizerClass { sets_template: true, ..class(name, fields) }
}

static CLASSES: [TokenizerClass; 24] = [
    BASE,
    // What transformers 5 calls it.
    class("TokenizersBackend", &[EVERY]),
    word_pieces("BertTokenizer"),
    word_pieces("ConvBertTokenizer"),
    word_pieces("DistilBertTokenizer"),
    word_pieces("DPRContextEncoderTokenizer"),
    word_pieces("DPRQuestionEncoderTokenizer"),
    word_pieces("ElectraTokenizer"),
    word_pieces("LayoutLMTokenizer"),
    word_pieces("LxmertTokenizer"),
    word_pieces("MobileBertTokenizer"),
    word_pieces("RetriBertTokenizer"),
    word_pieces("SqueezeBertTokenizer"),
    TokenizerClass { made_of: MadeOf::BytePairs, ..class("GPT2Tokenizer", &[GPT2, EVERY]) },
    // Its class in Python raises where `add_bos_token` is set.
    TokenizerClass {
        made_of: MadeOf::BytePairs,
        ..class("CodeGenTokenizer", &[&[Field::unread("add_bos_token", "false")], GPT2, EVERY])
    },
    TokenizerClass {
        made_of: MadeOf::BytePairsInNfc,
        ..with_template("GPTNeoXTokenizer", &[&[ADD_NO_BOS], GPT2, ADD_EOS, EVERY])
    },
    TokenizerClass {
        made_of: MadeOf::Qwen2BytePairs,
        strings: Strings::BeforeNormalization,
        ..class("Qwen2Tokenizer", &[QWEN2, EVERY])
    },
    TokenizerClass {
        prefix_space: PrefixSpace::OfSentencePiece,
        ..with_template("LlamaTokenizer", &[LLAMA, ADD_EOS, EVERY])
    },
    TokenizerClass {
        more_special: &["prefix_token", "middle_token", "suffix_token", "eot_token"],
        ..with_template("CodeLlamaTokenizer", &[CODE_LLAMA, ADD_EOS, EVERY])
    },
    with_template("GemmaTokenizer", &[GEMMA, ADD_EOS, EVERY]),
    with_template("CohereTokenizer", &[COHERE, ADD_EOS, EVERY]),
    class("BloomTokenizer", &[ROBERTA, EVERY]),
    TokenizerClass {
        made_of: MadeOf::RobertaBytePairs,
        strings: Strings::MaskTakesSpace,
        ..class("RobertaTokenizer", &[ROBERTA, ROBERTA_ROUND, EVERY])
    },
    TokenizerClass {
        strings: Strings::MaskTakesSpace,
        ..class("XLMRobertaTokenizer", &[ROBERTA, ROBERTA_ROUND, EVERY])
    },
];

const ADD_NO_BOS: Field = Field::optional("add_bos_token", "false");
const ADD_EOS: &[Field] = &[Field::optional("add_eos_token", "false")];

/// Fields that every class has. Those that are unread would have the tokens made of other files or in another way.
const EVERY: &[Field] = &[
    Field::optional("bos_token", "null"),
    Field::optional("eos_token", "null"),
    Field::optional("unk_token", "null"),
    Field::optional("sep_token", "null"),
    Field::optional("pad_token", "null"),
    Field::optional("cls_token", "null"),
    Field::optional("mask_token", "null"),
    Field::optional("additional_special_tokens", "null"),
    Field::optional("extra_special_tokens", "null"),
    Field::optional("added_tokens_decoder", "null"),
    Field::optional("add_prefix_space", "false"),
    Field::read("split_special_tokens", "false"),
    Field::unread("from_slow", "false"),
    Field::unread("fast_tokenizer_files", "null"),
    Field::unread("init_inputs", "[]"),
    Field::unread("fix_mistral_regex", "false"),
    Field::no_effect("add_bos_token"),
    Field::no_effect("add_eos_token"),
    Field::no_effect("auto_map"),
    Field::no_effect("backend"),
    Field::no_effect("chat_template"),
    Field::no_effect("clean_up_tokenization_spaces"),
    Field::no_effect("device_map"),
    Field::no_effect("do_basic_tokenize"),
    Field::no_effect("errors"),
    Field::no_effect("is_local"),
    Field::no_effect("legacy"),
    Field::no_effect("local_files_only"),
    Field::no_effect("max_len"),
    Field::no_effect("max_length"),
    Field::no_effect("merges_file"),
    Field::no_effect("model_input_names"),
    Field::no_effect("model_max_length"),
    Field::no_effect("name_or_path"),
    Field::no_effect("never_split"),
    Field::no_effect("pad_to_multiple_of"),
    Field::no_effect("pad_token_type_id"),
    Field::no_effect("padding"),
    Field::no_effect("padding_side"),
    Field::no_effect("processor_class"),
    Field::no_effect("response_schema"),
    Field::no_effect("return_token_type_ids"),
    Field::no_effect("sp_model_kwargs"),
    Field::no_effect("spaces_between_special_tokens"),
    Field::no_effect("special_tokens_map_file"),
    Field::no_effect("stride"),
    Field::no_effect("tokenizer_class"),
    Field::no_effect("tokenizer_file"),
    Field::no_effect("transformers_version"),
    Field::no_effect("trim_offsets"),
    Field::no_effect("truncation"),
    Field::no_effect("truncation_side"),
    Field::no_effect("truncation_strategy"),
    Field::no_effect("use_default_system_prompt"),
    Field::no_effect("use_fast"),
    Field::no_effect("verbose"),
    Field::no_effect("vocab_file"),
];

const BERT: &[Field] = &[
    Field::optional("unk_token", "\"[UNK]\""),
    Field::optional("sep_token", "\"[SEP]\""),
    Field::optional("pad_token", "\"[PAD]\""),
    Field::optional("cls_token", "\"[CLS]\""),
    Field::optional("mask_token", "\"[MASK]\""),
    Field::read("do_lower_case", "true"),
    Field::read("tokenize_chinese_chars", "true"),
    Field::optional("strip_accents", "null"),
    Field::no_effect("wordpieces_prefix"),
];

const GPT2: &[Field] = &[
    Field::optional("bos_token", "\"<|endoftext|>\""),
    Field::optional("eos_token", "\"<|endoftext|>\""),
    Field::optional("unk_token", "\"<|endoftext|>\""),
    ADD_NO_BOS,
];

const QWEN2: &[Field] = &[
    Field::optional("eos_token", "\"<|endoftext|>\""),
    Field::optional("unk_token", "\"<|endoftext|>\""),
    Field::optional("pad_token", "\"<|endoftext|>\""),
];

const LLAMA: &[Field] = &[
    Field::optional("bos_token", "\"<s>\""),
    Field::optional("eos_token", "\"</s>\""),
    Field::optional("unk_token", "\"<unk>\""),
    Field::optional("add_bos_token", "true"),
    Field::optional("add_prefix_space", "null"),
];

const CODE_LLAMA: &[Field] = &[
    Field::optional("bos_token", "\"<s>\""),
    Field::optional("eos_token", "\"</s>\""),
    Field::optional("unk_token", "\"<unk>\""),
    Field::optional("add_bos_token", "true"),
    Field::optional("prefix_token", "\"▁<PRE>\""),
    Field::optional("middle_token", "\"▁<MID>\""),
    Field::optional("suffix_token", "\"▁<SUF>\""),
    Field::optional("eot_token", "\"▁<EOT>\""),
    // It splits a text that has it in two.
    Field::no_effect("fill_token"),
];

const GEMMA: &[Field] = &[
    Field::optional("bos_token", "\"<bos>\""),
    Field::optional("eos_token", "\"<eos>\""),
    Field::optional("unk_token", "\"<unk>\""),
    Field::optional("pad_token", "\"<pad>\""),
    Field::optional("add_bos_token", "true"),
];

const COHERE: &[Field] = &[
    Field::optional("bos_token", "\"<BOS_TOKEN>\""),
    Field::optional("eos_token", "\"<|END_OF_TURN_TOKEN|>\""),
    Field::optional("unk_token", "\"<UNK>\""),
    Field::optional("add_bos_token", "true"),
    Field::unread("add_prefix_space", "false"),
    Field::no_effect("grounded_generation_template"),
    Field::no_effect("tool_use_template"),
];

const ROBERTA: &[Field] = &[
    Field::optional("bos_token", "\"<s>\""),
    Field::optional("eos_token", "\"</s>\""),
    Field::optional("unk_token", "\"<unk>\""),
    Field::optional("pad_token", "\"<pad>\""),
];

const ROBERTA_ROUND: &[Field] = &[
    Field::optional("sep_token", "\"</s>\""),
    Field::optional("cls_token", "\"<s>\""),
    Field::optional("mask_token", "\"<mask>\""),
];
