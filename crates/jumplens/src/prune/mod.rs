//! Models with fewer blocks, from closed forms: blocks that the predictions can do without are left out, and what they added is
//! folded into the blocks before them, so that what comes out is a model of the same architecture.
//!
//! With f the output of the feed-forward part of the last block l that is kept before a gap, u_l the sum that it is an addend of
//! and u_m that of the last block of the gap, a map T of f is the least squares of f + u_m − u_l, and W ← T·W, b ← T·b + t (the
//! form of ReplaceMe, Shopkhoev et al., arXiv 2505.02819; where the last norm of a block follows its sum, as in BERT, block m's
//! takes the place of block l's). [`Form::Refit`] fits W itself on the hidden units that it reads, which takes nothing more in
//! the checkpoint, and goes on with the blocks behind the gap: each gets the W that leads it back to the whole model's
//! states from those that the shorter model gives it.

mod fit;
mod measure;
mod pass;
mod search;
mod solve;

pub use fit::{Form, Objective};
pub use measure::{Estimate, Figures};

use crate::hub::{ModelFiles, Sources};
use crate::models::{self, KeptBlock, Stored, Transformer};
use crate::nn::Precision;
use crate::plot::{self, Figure, Shorter};
use crate::progress::{Observer, check};
use crate::samples::{self, SampleSource};
use crate::tokenize::Sample;
use crate::words::{Kind, PartKind, Spec};
use crate::{Error, Result};
use fit::{Fitting, fit};
use measure::Held;
use pass::Texts;
use search::{Judged, Search, Span, Spans};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A model as it is found, and the sentences that it is fitted and measured on.
pub struct Whole {
    /// Its files.
    pub files: ModelFiles,
    /// The model.
    pub model: Transformer,
    /// Numbers in its tensors.
    pub parameters: Parameters,
    /// The sentences to fit and to choose on.
    pub train: Vec<Sample>,
    /// Those to measure on.
    pub val: Vec<Sample>,
}

/// Finds the model `name`, and draws its samples.
///
/// # Errors
/// Those of [`models::load`], and of what the samples come from.
pub fn load(
    name: &str,
    source: &SampleSource,
    seed: u64,
    sources: &Sources,
    observer: &dyn Observer,
) -> Result<Whole> {
    let files = ModelFiles::find(name, sources, observer)?;
    let loaded = models::load(&files, Precision::F32)?;
    loaded.notes.iter().for_each(|note| observer.note(note));
    let samples = samples::make(source, seed, &files, loaded.model.spec(), sources, observer)?;
    let parameters =
        Parameters { all: loaded.contents.parameters, by_part: models::part_parameters(&files)? };
    let (train, val) = (samples.train, samples.val);
    Ok(Whole { files, model: loaded.model, parameters, train, val })
}

impl Whole {
    /// Writes the model of the blocks `kept` to `folder`: see [`models::save`].
    pub fn save(
        &self,
        kept: &[KeptBlock],
        stored: Stored,
        folder: &Path,
        observer: &dyn Observer,
    ) -> Result<Vec<PathBuf>> {
        models::save(&self.files, kept, stored, folder, &|| check(observer))
    }

    /// Writes the same to a GGUF file: see [`models::save_gguf`].
    pub fn save_gguf(
        &self,
        kept: &[KeptBlock],
        stored: Stored,
        path: &Path,
        observer: &dyn Observer,
    ) -> Result<()> {
        models::save_gguf(&self.files, kept, stored, path, &|| check(observer))
    }
}

/// How much is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Amount {
    /// So many blocks.
    Blocks(usize),
    /// So many sub-modules: attentions and feed-forward parts.
    Parts(usize),
    /// As many blocks as leave the same top token as the whole model's at this share of the positions.
    Keep(f64),
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// How much is taken out.
    pub amount: Amount,
    /// What becomes of what it added.
    pub form: Form,
    /// How much an error counts at each token.
    pub objective: Objective,
    /// λ as a share of the mean square of a coordinate; `None` takes what misses least on texts that are not fitted on.
    pub ridge: Option<f64>,
    /// Measure other ways of taking out as many blocks beside it.
    pub compare: bool,
    /// Put a map of each position in the place of attentions that are taken out as sub-modules.
    pub linear_attention: bool,
    /// Measure models of so many blocks less too, made in the same way.
    pub sizes: Vec<usize>,
    /// Of the resamples.
    pub seed: u64,
}

/// A model that was made, or one beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `whole`, `chosen`, or what else was done.
    pub model: String,
    /// Its blocks.
    pub blocks: usize,
    /// The blocks that were taken out, counted from 1 as layers are; a sub-module with its name, such as `5.attn`.
    pub removed: Vec<String>,
    /// Numbers in its tensors.
    pub parameters: u64,
    /// On the validation sentences.
    pub figures: Figures,
    /// Tokens a second through its blocks, here.
    pub tokens_per_second: f64,
}

/// A row of `prune.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableRow {
    /// What was done.
    pub model: String,
    /// Blocks.
    pub blocks: usize,
    /// What was taken out, with blanks between: see [`Row`].
    pub removed: String,
    /// Numbers in its tensors.
    pub parameters: u64,
    /// See [`Figures`].
    pub perplexity: f64,
    /// Lower bound.
    pub perplexity_lo: f64,
    /// Upper bound.
    pub perplexity_hi: f64,
    /// Mean KL(whole ‖ this), nats.
    pub kl: f64,
    /// Lower bound.
    pub kl_lo: f64,
    /// Upper bound.
    pub kl_hi: f64,
    /// Share of the positions with the whole model's top token.
    pub agreement: f64,
    /// Lower bound.
    pub agreement_lo: f64,
    /// Upper bound.
    pub agreement_hi: f64,
    /// Share of them with that among the best 5.
    pub precision_5: f64,
    /// And the best 10.
    pub precision_10: f64,
    /// Mean −ln p of the true token less that of the whole model, nats.
    pub loss_beyond_whole: f64,
    /// Lower bound.
    pub loss_beyond_whole_lo: f64,
    /// Upper bound.
    pub loss_beyond_whole_hi: f64,
    /// The same less that of the model of as many blocks that was chosen.
    pub loss_beyond_chosen: f64,
    /// Lower bound.
    pub loss_beyond_chosen_lo: f64,
    /// Upper bound.
    pub loss_beyond_chosen_hi: f64,
    /// Tokens a second through its blocks.
    pub tokens_per_second: f64,
}

impl TableRow {
    /// All rows.
    pub fn of(rows: &[Row]) -> Vec<Self> {
        let of = |row: &Row| {
            let Figures {
                perplexity,
                kl,
                agreement,
                loss_beyond_whole: added,
                loss_beyond_chosen: beyond,
                ..
            } = row.figures;
            Self {
                model: row.model.clone(),
                blocks: row.blocks,
                removed: row.removed.join(" "),
                parameters: row.parameters,
                perplexity: perplexity.mean,
                perplexity_lo: perplexity.lo,
                perplexity_hi: perplexity.hi,
                kl: kl.mean,
                kl_lo: kl.lo,
                kl_hi: kl.hi,
                agreement: agreement.mean,
                agreement_lo: agreement.lo,
                agreement_hi: agreement.hi,
                precision_5: row.figures.precision_5.mean,
                precision_10: row.figures.precision_10.mean,
                loss_beyond_whole: added.mean,
                loss_beyond_whole_lo: added.lo,
                loss_beyond_whole_hi: added.hi,
                loss_beyond_chosen: beyond.mean,
                loss_beyond_chosen_lo: beyond.lo,
                loss_beyond_chosen_hi: beyond.hi,
                tokens_per_second: row.tokens_per_second,
            }
        };
        rows.iter().map(of).collect()
    }
}

/// A gap: what was taken out between two blocks that stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// The layer before it.
    pub from: usize,
    /// The layer that it led to.
    pub to: usize,
    /// Mean angle between the states of the two layers over π (Gromov et al., arXiv 2403.17887).
    pub angular_distance: f64,
    /// 1 − the mean cosine of the two (block influence, ShortGPT, arXiv 2403.03853).
    pub influence: f64,
}

/// What became of a model.
#[derive(Debug)]
pub struct Pruned {
    /// Its blocks.
    pub kept: Vec<KeptBlock>,
    /// The gaps between them.
    pub gaps: Vec<Gap>,
    /// The whole model, the one that was made, and those beside it.
    pub rows: Vec<Row>,
    /// Tokens that were fitted on.
    pub fitted: usize,
    /// Tokens that the choice was made on.
    pub judged: usize,
    /// Positions that the figures are of.
    pub measured: usize,
    /// What should be known of how it was made.
    pub notes: Vec<String>,
}

/// Bytes that one array of states of all tokens may take: a fit holds six of them.
const STATES: usize = 700 << 20;
/// Tokens that choices are made on, of what to take out and of λ.
const HELD: usize = 3072;
/// How many blocks past the last choice that holds are looked at.
const FURTHER: usize = 3;

/// Takes blocks out of `model`, fits on `train` and measures on `val`.
///
/// # Errors
/// [`Error::NoHead`] where the model makes no predictions, [`Error::Option`] for what cannot be taken out.
pub fn prune(
    model: &Transformer,
    [train, val]: [&[Sample]; 2],
    options: &Options,
    parameters: &Parameters,
    observer: &dyn Observer,
) -> Result<Pruned> {
    let spec = model.spec();
    let n_layers = spec.n_layers;
    if model.head().is_none() {
        return Err(Error::NoHead { model: spec.family.to_owned() });
    }
    if n_layers < 2 {
        return Err(Error::Option("the model has one block: none can be taken out".to_owned()));
    }
    let mut sizes: BTreeSet<usize> = options.sizes.iter().copied().collect();
    if let Amount::Blocks(blocks) = options.amount {
        sizes.insert(blocks);
    }
    if let Some(blocks) = sizes.iter().find(|blocks| !(1..n_layers).contains(*blocks)) {
        return Err(Error::Option(format!(
            "{blocks} blocks cannot be taken out of {n_layers}: from 1 to {} can, since the first stays",
            n_layers - 1
        )));
    }
    if let Amount::Parts(parts) = options.amount {
        check_parts(spec, parts, options)?;
    }
    let mut notes = Vec::new();
    let mut form = options.form;
    if spec.seam().is_none() && form != Form::Drop {
        notes.push(format!(
            "`{}` normalises what its feed-forward parts put out, so that no map of it can stand for what blocks add: blocks are \
             dropped without one",
            spec.family
        ));
        form = Form::Drop;
    }
    let [texts, judged] =
        split(train, spec.kind, spec.d_model, &mut notes)?.map(|samples| Texts::new(samples, spec.kind));
    let fitting = Fitting { form, objective: options.objective, share: options.ridge };
    // Sub-modules are judged as they are dropped.
    let folds = form != Form::Drop && !matches!(options.amount, Amount::Parts(_));
    let search =
        Search::new(model, &texts, &judged, options.objective, (folds, options.linear_attention), observer)?;
    let make = |spans: &Spans| -> Result<(Vec<KeptBlock>, Transformer)> {
        let own: Vec<KeptBlock> = spans.iter().map(|span| search.kept(*span)).collect();
        let kept = fit(model, &own, fitting, [&texts, &judged], observer)?;
        let shorter = model.shorter(&kept)?;
        Ok((kept, shorter))
    };
    let choices = chosen(&search, &sizes, observer)?;
    let (spans, made) = match options.amount {
        Amount::Blocks(blocks) => {
            let spans = choices[&blocks].clone();
            let made = make(&spans)?;
            (spans, made)
        }
        Amount::Parts(parts) => {
            observer.begin("search", parts as u64, "sub-modules");
            let (spans, _) = search.parts(parts, observer)?;
            observer.end();
            let made = make(&spans)?;
            (spans, made)
        }
        Amount::Keep(share) => {
            // Those that are fitted in the end hold more than those on the way: some further ones are tried.
            let below = Cell::new(0);
            let enough = |_: usize, judged: Judged| {
                below.set(if judged.agreement < share { below.get() + 1 } else { 0 });
                below.get() > FURTHER
            };
            observer.begin("search", n_layers as u64 - 1, "blocks");
            let path = search.one_by_one(enough, observer)?;
            observer.end();
            let holds = path.iter().rposition(|(_, judged)| judged.agreement >= share).unwrap_or(0);
            let mut best = None;
            for (spans, _) in &path[holds.max(1)..] {
                let made = make(spans)?;
                let holds_still = holds > 0 && best.is_none() || search.judge(&made.1)?.agreement >= share;
                match holds_still {
                    true => best = Some((spans.clone(), made)),
                    false if best.is_some() => break,
                    false => {}
                }
            }
            best.ok_or_else(|| {
                Error::Option(format!(
                    "no block can be taken out with the model's top token left at a share of {share} of the positions: ask for \
                     less"
                ))
            })?
        }
    };
    let (kept, shorter) = made;
    let own = n_layers - spans.len();
    if !matches!(options.amount, Amount::Parts(_)) {
        sizes.insert(own);
    }
    let rivals = match options.compare && !sizes.is_empty() {
        true => Some(Rivals::new(model, [&texts, &judged], &search, &sizes, options.objective, observer)?),
        false => None,
    };
    let measured = Held::new(val, spec.kind);
    let mut rows: Vec<Row> = Vec::new();
    // The model that was asked for comes first.
    for size in [own].into_iter().chain(sizes.into_iter().filter(|size| *size != own)) {
        let (spans, shorter) = match choices.get(&size).filter(|_| size != own) {
            Some(spans) => (spans, make(spans)?.1),
            None => (&spans, shorter.clone()),
        };
        let whole = search::spans(n_layers, &BTreeSet::new());
        let mut made = vec![("whole", whole, model.clone()), ("chosen", spans.clone(), shorter)];
        if options.compare && matches!(options.amount, Amount::Parts(_)) {
            let kept: Vec<KeptBlock> =
                spans.iter().map(|span| KeptBlock { until: span.block, ..span.kept() }).collect();
            let dropped = spans.iter().map(|span| Span { is_mapped: false, ..*span }).collect();
            made.push(("dropped", dropped, model.shorter(&kept)?));
        }
        if let Some(rivals) = &rivals {
            made.extend(rivals.make(spans)?);
        }
        let all: Vec<&Transformer> = made.iter().map(|(_, _, model)| model).collect();
        observer.begin("measure", measured.positions() as u64, "positions");
        let figures = measured.measure(&all, 1, options.seed, observer)?;
        observer.end();
        let speeds = measured.speeds(&all, observer)?;
        let of_size =
            made.iter().zip(figures).zip(speeds).map(|(((name, spans, made), figures), speed)| Row {
                model: (*name).to_owned(),
                blocks: made.spec().n_layers,
                removed: removed(n_layers, spans),
                parameters: parameters.of(spec, spans),
                figures,
                tokens_per_second: speed,
            });
        let seen = usize::from(!rows.is_empty());
        rows.extend(of_size.skip(seen));
    }
    Ok(Pruned {
        gaps: gaps(&search, &spans)?,
        kept,
        rows,
        fitted: texts.tokens(),
        judged: judged.tokens(),
        measured: measured.positions(),
        notes,
    })
}

/// The samples that are fitted on, and those at the end that choices are made on, at most a tenth.
fn split<'a>(
    train: &'a [Sample],
    kind: Kind,
    d: usize,
    notes: &mut Vec<String>,
) -> Result<[&'a [Sample]; 2]> {
    if train.len() < 2 {
        return Err(Error::Option("one sentence to fit on is too few: give two or more".to_owned()));
    }
    let mut tokens = 0;
    let is_held = |sample: &&Sample| {
        tokens += sample.ids.len();
        // Of a masked model a sentence is asked once.
        tokens <= HELD * if kind == Kind::Masked { 8 } else { 1 }
    };
    let held = train.iter().rev().take_while(is_held).count();
    let held = held.clamp(1, (train.len() / 10).max(1));
    let (fitted, held) = train.split_at(train.len() - held);
    let most = (STATES / (4 * d)).max(1);
    let mut tokens = 0;
    let fits = |sample: &&Sample| {
        tokens += sample.ids.len();
        tokens <= most
    };
    let count = fitted.iter().take_while(fits).count().max(1);
    if count < fitted.len() {
        notes.push(format!(
            "the first {count} of {} training sentences are fitted on: the states of all their tokens are held in memory",
            fitted.len()
        ));
    }
    Ok([&fitted[..count], held])
}

/// What was taken out, as [`Row`] has it.
fn removed(n_layers: usize, spans: &Spans) -> Vec<String> {
    let mut removed = Vec::new();
    for block in 0..n_layers {
        match spans.iter().find(|span| span.block == block) {
            None => removed.push((block + 1).to_string()),
            Some(span) => removed.extend(span.without.kinds().map(|kind| match kind {
                PartKind::Attention => format!("{}.attn", block + 1),
                _ => format!("{}.ffn", block + 1),
            })),
        }
    }
    removed
}

/// Sees that `parts` sub-modules can be taken out.
fn check_parts(spec: &Spec, parts: usize, options: &Options) -> Result<()> {
    let most = 2 * spec.n_layers - 2;
    let why = if spec.family != "llama" {
        format!(
            "sub-modules can be taken out of Llamas and what is built alike, which llama.cpp's `deci` holds without some, and not of \
             `{}`: take out blocks",
            spec.family
        )
    } else if !(1..=most).contains(&parts) {
        format!("{parts} sub-modules cannot be taken out of {}: from 1 to {most} can", 2 * spec.n_layers)
    } else if options.form == Form::Fold {
        "a sub-module is not folded into another one: take the form `refit` or `drop`".to_owned()
    } else if !options.sizes.is_empty() {
        "other sizes are measured of blocks, not of sub-modules".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::Option(why))
}

fn gaps(search: &Search, spans: &Spans) -> Result<Vec<Gap>> {
    let gaps = spans.iter().filter(|span| span.until > span.block);
    gaps.map(|&Span { block, until, .. }| {
        let (cosine, angle) = search.turn(block + 1, until)?;
        Ok(Gap { from: block + 1, to: until + 1, angular_distance: angle, influence: 1.0 - cosine })
    })
    .collect()
}

/// Numbers in the tensors of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// In all of them.
    pub all: u64,
    /// In those of each part of each block.
    pub by_part: Vec<Vec<u64>>,
}

impl Parameters {
    /// In those of a model of `spans` of the one of `spec`: of an attention and of a feed-forward part the norm before it goes as
    /// well.
    fn of(&self, spec: &Spec, spans: &Spans) -> u64 {
        let is_gone = |span: &Span, part: usize| {
            let kind = |part: usize| spec.parts.get(part).map(|part| part.kind);
            let gone = |part: usize| span.without.kinds().any(|it| kind(part) == Some(it));
            gone(part)
                || kind(part) == Some(PartKind::Norm) && gone(part + 1) && !(span.is_mapped && part == 0)
        };
        let all: u64 = self.by_part.iter().flatten().sum();
        let kept = spans.iter().map(|span| {
            let parts = self.by_part[span.block].iter().enumerate();
            let kept: u64 = parts.filter(|(part, _)| !is_gone(span, *part)).map(|(_, count)| *count).sum();
            kept + if span.is_mapped { (spec.d_model * spec.d_model) as u64 } else { 0 }
        });
        self.all - all + kept.sum::<u64>()
    }
}

/// What else could be done with as many blocks less.
struct Rivals<'a> {
    model: &'a Transformer,
    texts: [&'a Texts; 2],
    search: &'a Search<'a>,
    /// The best blocks to drop, by how many.
    dropped: BTreeMap<usize, Spans>,
    observer: &'a dyn Observer,
}

impl<'a> Rivals<'a> {
    fn new(
        model: &'a Transformer,
        texts: [&'a Texts; 2],
        search: &'a Search<'a>,
        sizes: &BTreeSet<usize>,
        objective: Objective,
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        let dropping = Search::new(model, texts[0], texts[1], objective, (false, false), observer)?;
        let dropped = chosen(&dropping, sizes, observer)?;
        Ok(Self { model, texts, search, dropped, observer })
    }

    /// Models without as many blocks as `spans` leaves out, each with what it is called and what was taken out.
    fn make(&self, spans: &Spans) -> Result<Vec<(&'static str, Spans, Transformer)>> {
        let n_layers = self.model.spec().n_layers;
        let out = n_layers - spans.len();
        let by_angle = self.search.by_angle(out)?;
        let mut wanted =
            vec![("dropped", &self.dropped[&out], Form::Drop), ("dropped, by angle", &by_angle, Form::Drop)];
        if self.model.spec().seam().is_some() {
            wanted.push(("folded, by angle", &by_angle, Form::Fold));
            wanted.push(("folded, same blocks", spans, Form::Fold));
        }
        let make = |(name, spans, form): (&'static str, &Spans, Form)| {
            let fitting = Fitting { form, objective: Objective::Mse, share: Some(0.0) };
            let own: Vec<KeptBlock> = spans.iter().map(Span::kept).collect();
            let kept = fit(self.model, &own, fitting, self.texts, self.observer)?;
            Ok((name, spans.clone(), self.model.shorter(&kept)?))
        };
        wanted.into_iter().map(make).collect()
    }
}

/// The blocks to take out, by how many: one by one, or in one span, whichever costs less.
fn chosen(
    search: &Search,
    sizes: &BTreeSet<usize>,
    observer: &dyn Observer,
) -> Result<BTreeMap<usize, Spans>> {
    let Some(most) = sizes.last().copied() else { return Ok(BTreeMap::new()) };
    observer.begin("search", (most + sizes.len()) as u64, "blocks");
    let path = search.one_by_one(|gone, _| gone == most, observer)?;
    let mut chosen = BTreeMap::new();
    for out in sizes {
        let (spans, judged) = search.one_span(*out, observer)?;
        let by_one = &path[*out];
        chosen.insert(*out, if judged.kl <= by_one.1.kl { spans } else { by_one.0.clone() });
    }
    observer.end();
    Ok(chosen)
}

/// The figure of how much is lost by how many blocks were taken out; nothing where that is one number.
pub fn figure(rows: &[Row]) -> Option<Figure> {
    let whole = rows.first()?.blocks;
    let values = |estimate: Estimate| [estimate.mean, estimate.lo, estimate.hi];
    let shorter = |row: &Row| Shorter {
        way: row.model.clone(),
        out: whole - row.blocks,
        loss: values(row.figures.loss_beyond_whole),
        agreement: values(row.figures.agreement),
    };
    plot::shorter(&rows[1..].iter().map(shorter).collect::<Vec<_>>())
}
