//! A model that is ready to be asked: with its tokenizer, its maps, and what is known of them.

use crate::evidence::{Best, Evidence};
use crate::hub::{ModelFiles, SourceFile};
use crate::lens::{Input, Lens, Prompt, Reading, Target, Token, View, Way, available};
use crate::models::{Kind, Transformer, load};
use crate::nn::Precision;
use crate::progress::Observer;
use crate::run::{Run, record_model};
use crate::shortcut::{MapStore, Origin, Shortcuts};
use crate::store::lock::Lock;
use crate::tokenize::Tokenizer;
use crate::words::Cast;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Which maps a session looks through.
#[derive(Debug, Clone, Copy)]
pub struct MapsFrom<'a> {
    /// A run folder, or a folder or file of maps; where none is given, a run's own, or those that come with a bundled model.
    pub path: Option<&'a Path>,
    /// Take maps that were fitted on another model.
    pub force: bool,
    /// The maps that come with a bundled model, by its name.
    pub bundled: fn(&str) -> Option<SourceFile>,
}

impl Default for MapsFrom<'_> {
    /// A run's own.
    fn default() -> Self {
        Self { path: None, force: false, bundled: |_| None }
    }
}

/// A model with its tokenizer and maps. Its head is packed once, and so are the maps of each cast, however many texts are read.
pub struct Session {
    /// A run's, where it was opened to be worked on.
    _lock: Option<Lock>,
    name: String,
    model: Transformer,
    /// What the unembedding's products are done in.
    precision: Precision,
    tokenizer: Option<Tokenizer>,
    shortcuts: Option<Shortcuts>,
    evidence: Evidence,
    mean_run: Option<f64>,
    ways: Mutex<BTreeMap<Cast, Arc<Way>>>,
}

/// The casts that are looked through.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Which.
    pub casts: Vec<Cast>,
    /// Why, where none was asked for and there were figures to go by.
    pub best: Option<Best>,
    /// What has to be said of their maps.
    pub warnings: Vec<String>,
}

/// A text as the model gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The text, and its tokens.
    pub input: Input,
    /// Tokens that were cut off its end, since the model takes no more.
    pub tokens_cut: usize,
    /// What was said, where the text was made of a chat.
    pub chat: Option<String>,
}

impl Session {
    /// Of a run that was opened, to look through its maps or others.
    ///
    /// # Errors
    /// [`Error::NoHead`] where the model makes no predictions, [`Error::Option`] where there are no maps at `maps.path`, and those of
    /// opening maps and the tokenizer.
    pub fn of_run(mut run: Run, maps: MapsFrom, observer: &dyn Observer) -> Result<Self> {
        if maps.force {
            run.force_shortcuts();
        }
        let shortcuts = match maps.path {
            Some(path) => Some(has_maps(run.foreign_shortcuts(path, observer)?, path)?),
            None => run.own_shortcuts()?,
        };
        let path = maps.path.unwrap_or(run.folder());
        let evidence = evidence(path, shortcuts.as_ref(), run.sizes().d_model)?;
        let (mean_run, tokenizer) = (run.mean_run()?, if_there(run.tokenizer())?);
        let (name, precision) = (run.manifest().model_name().to_owned(), run.manifest().dtype);
        let (model, lock) = run.into_model()?;
        let session = Self::new(name, model, precision, tokenizer, shortcuts, evidence, mean_run, observer);
        Ok(Self { _lock: lock, ..session })
    }

    /// Of a model, without a run, its products done in f32.
    ///
    /// # Errors
    /// As of [`Session::of_run`], and those of loading the model.
    pub fn of_model(files: &ModelFiles, maps: MapsFrom, observer: &dyn Observer) -> Result<Self> {
        let loaded = load(files, Precision::F32)?;
        loaded.notes.iter().for_each(|note| observer.note(&format!("`{}`: {note}", files.id)));
        let model = loaded.model;
        let spec = model.spec();
        if model.head().is_none() {
            return Err(Error::NoHead { model: files.id.clone() });
        }
        let tokenizer = if_there(Tokenizer::of_model(files.tokenizer.as_ref(), &files.id, spec, false))?;
        let own = Origin::of_model(&record_model(files), spec.n_layers, spec.d_model);
        let shortcuts = match maps.path {
            Some(path) => {
                let shortcuts = has_maps(Shortcuts::open(path)?, path)?;
                shortcuts.check(&own, maps.force)?.iter().for_each(|note| observer.note(note));
                Some(shortcuts)
            }
            // A folder of that name is another model.
            None if files.is_bundled() => (maps.bundled)(&files.id).map(Shortcuts::in_file).transpose()?,
            None => None,
        };
        let mean_run = match &shortcuts {
            Some(shortcuts) => shortcuts.origins()?.into_iter().find_map(|(_, origin)| origin?.mean_run),
            None => None,
        };
        let path = maps.path.unwrap_or(Path::new(""));
        let evidence = evidence(path, shortcuts.as_ref(), spec.d_model)?;
        let (name, precision) = (files.id.clone(), Precision::F32);
        Ok(Self::new(name, model, precision, tokenizer, shortcuts, evidence, mean_run, observer))
    }

    fn new(
        name: String,
        model: Transformer,
        precision: Precision,
        tokenizer: Option<Tokenizer>,
        shortcuts: Option<Shortcuts>,
        evidence: Evidence,
        mean_run: Option<f64>,
        observer: &dyn Observer,
    ) -> Self {
        tokenizer.iter().flat_map(Tokenizer::notes).for_each(|note| observer.note(note));
        let ways = Mutex::default();
        Self { _lock: None, name, model, precision, tokenizer, shortcuts, evidence, mean_run, ways }
    }

    /// The model.
    pub fn model(&self) -> &Transformer {
        &self.model
    }

    /// The model's tokenizer; [`Error::Io`] names the file to put there where there is none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| Error::Io {
            action: "read",
            path: Path::new(&self.name).join("tokenizer.json"),
            source: ErrorKind::NotFound.into(),
        })
    }

    /// The casts that can be looked through.
    pub fn casts(&self) -> Result<Vec<Cast>> {
        available(self.maps())
    }

    /// N of the exit rule, as [`View::mean_run`] takes it.
    pub fn mean_run(&self) -> Option<f64> {
        self.mean_run
    }

    /// The casts that `asked` names; where it names none, the best one by the figures there are; where there are none, `mat`,
    /// or another one that there are maps for, or else `id`.
    pub fn choose(&self, asked: &[Cast]) -> Result<Choice> {
        let there = available(self.maps())?;
        let best = self.evidence.best(&there).filter(|_| asked.is_empty());
        let casts = match &best {
            _ if !asked.is_empty() => asked.to_vec(),
            Some(best) => vec![best.cast.clone()],
            None => {
                let first = there.iter().find(|cast| **cast == Cast::MAT).or(there.get(1));
                vec![first.cloned().unwrap_or(Cast::Id)]
            }
        };
        let warnings = self.evidence.warnings(Some(&casts));
        Ok(Choice { casts, best, warnings })
    }

    /// `text` as the model gets it, cut where it is longer than the model takes.
    pub fn text(&self, text: String) -> Result<Text> {
        self.prompt(Prompt::Text(text))
    }

    /// A prompt as the model gets it. [`Error::Option`] for ids that the model has no embedding for; those of
    /// [`Tokenizer::chat`].
    pub fn prompt(&self, prompt: Prompt) -> Result<Text> {
        let (text, with_special, chat) = match prompt {
            Prompt::Text(text) => (text, true, None),
            Prompt::Chat(messages) => {
                let said =
                    messages.as_array().and_then(|all| all.last()?["content"].as_str().map(str::to_owned));
                (self.tokenizer()?.chat(&messages)?, false, said)
            }
            Prompt::Ids(ids) => {
                let vocab_size = self.model.spec().vocab_size;
                if let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size) {
                    let message = format!("token id {id} is outside the model's vocabulary of {vocab_size}");
                    return Err(Error::Option(message));
                }
                let text = match &self.tokenizer {
                    Some(tokenizer) => ids.iter().map(|id| tokenizer.text_of(*id)).collect(),
                    None => ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
                };
                return Ok(Text { input: Input { text, ids }, tokens_cut: 0, chat: None });
            }
        };
        let (ids, tokens_cut) = self.tokenizer()?.encode_cut(&text, with_special)?;
        Ok(Text { input: Input { text, ids }, tokens_cut, chat })
    }

    /// The token that stands for `text` behind another: its first, where it has several. [`Error::Option`] where it has none.
    pub fn target(&self, text: &str) -> Result<Target> {
        let tokenizer = self.tokenizer()?;
        let tokens = |text: &str| -> Result<Vec<Token>> {
            let ids = tokenizer.encode_bare(text)?;
            Ok(ids.into_iter().map(|id| Token { id, text: tokenizer.text_of(id) }).collect())
        };
        let spelled = |tokens: &[Token]| tokens.iter().map(|token| &*token.text).collect::<String>();
        let mut all = tokens(text)?;
        if spelled(&all) != text {
            // SentencePiece puts a space before a text by itself, so that one that is there already would be two.
            let bare = tokens(text.trim_start())?;
            if spelled(&bare) == text {
                all = bare;
            }
        }
        let Some(token) = all.first().cloned() else {
            return Err(Error::Option(format!("`{text}` has no token that could be looked for")));
        };
        Ok(Target { text: text.to_owned(), token, tokens: if all.len() > 1 { all } else { Vec::new() } })
    }

    /// Where a token is asked for in `text`: behind its end, for masked models at its masks. [`Error::Option`] where it has none.
    pub fn asked_positions(&self, text: &Text) -> Result<Vec<usize>> {
        let ids = &text.input.ids;
        if self.model.spec().kind == Kind::Causal {
            return Ok(ids.len().checked_sub(1).into_iter().collect());
        }
        let mask = self.tokenizer.as_ref().and_then(Tokenizer::mask_token);
        let masks: Vec<usize> = (0..ids.len()).filter(|place| Some(ids[*place]) == mask).collect();
        match masks.is_empty() {
            false => Ok(masks),
            true => Err(Error::Option(
                "the text has no `[MASK]`, where a masked model is asked for a token: put one in, or say at which position"
                    .to_owned(),
            )),
        }
    }

    /// Reads `text` through the casts of `choice`, in one forward pass. [`Error::NoCast`] for a cast that there are no maps for;
    /// [`Error::Option`] where the text or the view cannot be had.
    pub fn read(&self, text: &Text, choice: &Choice, view: &View) -> Result<Reading> {
        let lens = self.lens(&choice.casts)?;
        let inputs = std::slice::from_ref(&text.input);
        let reading = lens.read(&self.name, inputs, self.tokenizer.as_ref(), view)?.pop();
        let reading = reading.ok_or_else(|| Error::Internal("one text was read as none".into()))?;
        Ok(Reading {
            truncated: text.tokens_cut > 0,
            tokens_cut: text.tokens_cut,
            chat: text.chat.clone(),
            chosen: choice.best.as_ref().map(Best::to_string),
            warnings: choice.warnings.clone(),
            ..reading
        })
    }

    fn maps(&self) -> Option<&dyn MapStore> {
        self.shortcuts.as_ref().map(|shortcuts| shortcuts as &dyn MapStore)
    }

    /// The lens through `casts`, whose maps are loaded when they are asked for first.
    fn lens(&self, casts: &[Cast]) -> Result<Lens<'_>> {
        let head = self.model.head().ok_or_else(|| Error::NoHead { model: self.name.clone() })?;
        let ways = || self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        let way = |cast: &Cast| {
            let kept = ways().get(cast).cloned();
            let way = match kept {
                Some(way) => way,
                // Without the lock: a thread that waits for others of its pool may come here again. Of two, one is kept.
                None => {
                    let way = Arc::new(Way::load(&self.model, self.maps(), cast)?);
                    Arc::clone(ways().entry(cast.clone()).or_insert(way))
                }
            };
            Ok((cast.clone(), way))
        };
        let casts = casts.iter().map(way).collect::<Result<_>>()?;
        Ok(Lens::through(&self.model, head, self.precision, casts))
    }
}

/// A tokenizer that there is: token ids need none.
fn if_there(tokenizer: Result<Tokenizer>) -> Result<Option<Tokenizer>> {
    match tokenizer {
        Err(Error::Io { path, source, .. })
            if source.kind() == ErrorKind::NotFound && path.ends_with("tokenizer.json") =>
        {
            Ok(None)
        }
        found => found.map(Some),
    }
}

/// Maps that were asked for have to be there, of states or of parts.
fn has_maps(shortcuts: Shortcuts, path: &Path) -> Result<Shortcuts> {
    match available(Some(&shortcuts))?.len() {
        // `id` alone takes none.
        1 => Err(Error::Option(format!("no maps in `{}`: check the path", path.display()))),
        _ => Ok(shortcuts),
    }
}

/// What is known of the maps: where `path` is a run folder, by its results, else by what the files say of themselves.
fn evidence(path: &Path, shortcuts: Option<&Shortcuts>, d_model: usize) -> Result<Evidence> {
    let Some(shortcuts) = shortcuts else { return Ok(Evidence::default()) };
    if let Some(evidence) = Evidence::of_maps(path, d_model)? {
        return Ok(evidence);
    }
    let origin = shortcuts.origins()?.into_iter().find_map(|(_, origin)| origin);
    Ok(origin.map_or_else(Evidence::default, |origin| Evidence::of_origin(&origin)))
}
