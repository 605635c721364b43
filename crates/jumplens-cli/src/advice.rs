//! What the user can do about an error, in the same line as what went wrong.

use crate::interrupt::{Begun, GoesOn};
use crate::shell::quoted;
use crate::sources::sources;
use jumplens::files::Pointer;
use jumplens::hub::RepoKind;
use jumplens::store::{FolderKind, Found, Stage, look};
use jumplens::words::{Cast, Measure, Note, OfDocuments, Refusal};
use jumplens::{Error, Lacking, SpecialToken};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::Path;

/// The error's message, and what to do next.
pub fn with_advice(error: &Error) -> String {
    match advice(error) {
        Some(advice) => format!("{error}; {advice}"),
        None => error.to_string(),
    }
}

/// The same of a command for `model`, and where that was looked for.
pub fn about(error: &Error, model: Option<&str>) -> String {
    match model.and_then(|model| looked_for(error, model)) {
        Some(looked) => match advice(error) {
            Some(advice) => format!("{error}; {looked}; {advice}"),
            None => format!("{error}; {looked}"),
        },
        None => with_advice(error),
    }
}

/// Where a model that is not there was looked for before the Hub was asked, and what may have been meant.
fn looked_for(error: &Error, model: &str) -> Option<String> {
    let is_asked = match error {
        Error::NoSuchModel { kind, .. } | Error::NotCached { kind, .. } => *kind == RepoKind::Model,
        Error::Network { url, .. } => !url.contains("/datasets/"),
        Error::UnknownModel { .. } => true,
        _ => false,
    };
    let bundled: Vec<&str> = sources().bundled.models.iter().map(|model| model.name).collect();
    if !is_asked || bundled.contains(&model) || Path::new(model).exists() {
        return None;
    }
    let names: Vec<String> = bundled.iter().map(|name| format!("`{name}`")).collect();
    let looked = match error {
        // It says so itself.
        Error::UnknownModel { .. } => String::new(),
        _ => format!("`{model}` is no bundled model ({}) and no folder or file here", names.join(", ")),
    };
    let meant = meant(model, bundled.into_iter().map(str::to_owned).chain(neighbours(Path::new(model))));
    let said = [Some(looked).filter(|looked| !looked.is_empty()), meant];
    let said: Vec<String> = said.into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// `did you mean …?`, where one of the names is close enough.
fn meant(name: &str, names: impl IntoIterator<Item = String>) -> Option<String> {
    let likeness = |other: &String| strsim::normalized_damerau_levenshtein(name, other);
    let nearest = names.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    nearest.filter(|nearest| likeness(nearest) >= ALIKE).map(|nearest| format!("did you mean `{nearest}`?"))
}

/// Names that are no less alike are likely meant.
const ALIKE: f64 = 0.7;
/// Folders and files that are looked at for names, at most.
const LOOKED_AT: usize = 500;

/// What lies where `path` would, as it would be given.
fn neighbours(path: &Path) -> Vec<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Ok(entries) = std::fs::read_dir(folder.unwrap_or(Path::new("."))) else { return Vec::new() };
    let names = entries.take(LOOKED_AT).flatten().map(|entry| entry.file_name());
    names
        .map(|name| {
            folder.map_or_else(|| name.clone().into(), |folder| folder.join(&name)).display().to_string()
        })
        .collect()
}

/// The runs below the folder `path`, which is none itself.
fn runs_below(path: &Path) -> Vec<String> {
    let mut runs = Vec::new();
    let mut left = VecDeque::from([(path.to_owned(), 0)]);
    let mut looked = 0;
    while let Some((folder, depth)) = left.pop_front() {
        let mut entries: Vec<_> =
            std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
        entries.sort();
        for entry in entries.into_iter().filter(|entry| entry.is_dir() && !entry.is_symlink()) {
            looked += 1;
            if looked > LOOKED_AT {
                return runs;
            }
            match look(&entry) {
                Ok(Found::Run(_)) => runs.push(quoted(&entry)),
                _ if depth < 2 => left.push_back((entry, depth + 1)),
                _ => {}
            }
        }
    }
    runs
}

/// Which runs are in a folder that is none, in words; `None` where there are none.
fn runs_in(path: &Path) -> Option<String> {
    const NAMED: usize = 5;
    let runs = runs_below(path);
    let named: Vec<String> = runs.iter().take(NAMED).map(|run| format!("`{run}`")).collect();
    let more = runs.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!runs.is_empty()).then(|| format!("it is no run, but these in it are: {}{more}", named.join(", ")))
}

/// The note, and how to fix what it says.
pub fn with_remedy(note: &Note) -> String {
    match note {
        Note::NoBf16Products => format!(
            "{note}. `--dtype f32` takes as long, and is more exact; bf16 halves the memory of the weights"
        ),
        Note::FitsNoise { ridge: Some(_), .. } => format!("{note}; more samples (`--train`) would help more"),
        Note::FitsNoise { .. } => format!("{note}: give more with `--train`, or fit with `--ridge auto`"),
        Note::AttentionSink { .. } => format!("{note}; `--skip-first 1` leaves that position out"),
        _ => note.to_string(),
    }
}

/// What clap says in one line, its tips included and the usage left out.
pub fn usage(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let said: Vec<String> = text
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|said| {
            !said.is_empty() && !said.starts_with("Usage:") && !said.starts_with("For more information")
        })
        .collect();
    let said = said.join("; ");
    let said = in_words(said.trim_start_matches("error: "));
    let end = if said.ends_with('?') { "" } else { ";" };
    format!("{said}{end} `--help` lists the options")
}

/// Clap's tips and Rust's messages on numbers as the other messages are worded.
fn in_words(said: &str) -> String {
    let mut said = said.to_owned();
    for kind in ["value", "argument", "subcommand"] {
        let tip = format!("tip: a similar {kind} exists: '");
        if let Some((before, rest)) = said.split_once(&tip)
            && let Some((name, after)) = rest.split_once('\'')
        {
            said = format!("{before}did you mean `{name}`?{after}");
        }
    }
    let numbers = [
        ("invalid digit found in string", "give a whole number from 0 on"),
        ("number too large to fit in target type", "the number is too large"),
        ("invalid float literal", "give a number"),
    ];
    numbers.iter().fold(said, |said, (message, words)| said.replace(message, words))
}

/// The folder that a file is in, as it can be named.
fn folder_of(path: &Path) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).display().to_string()
}

/// What to ask for in the place of what cannot be had.
fn instead(refusal: &Refusal) -> Option<String> {
    let text = match refusal {
        Refusal::WhichLastState { .. } => {
            "say it by `--last-state block-output` or `--last-state final-norm-output`; with `--model` and samples it is seen"
        }
        Refusal::NumberOfShards { shards, .. } => {
            return Some(format!("give `--shards` from 1 to {shards}, or leave it out"));
        }
        Refusal::NoShards { .. } => "leave out `--shards`",
        Refusal::NotInOrder { .. } => "leave out `--lines in-order`",
        Refusal::PagesAreDocuments { .. } => "leave out `--lines sentences`",
        Refusal::NoSentences => "give at least 1 for `--num`",
        Refusal::NobodyCounts => "say by `--model` whose tokens are counted",
        Refusal::NoDocuments { asked, .. } => {
            let option = match asked {
                OfDocuments::Number => "--per-document",
                OfDocuments::ParagraphFinal => "--paragraph-final",
                OfDocuments::Split => "--split-by document",
            };
            return Some(format!("leave out `{option}`, or say `--lines documents`"));
        }
        Refusal::NothingBetween { measure: Measure::Chars, .. } => {
            "give `--min-chars` and `--max-chars` so that one can"
        }
        Refusal::NothingBetween { .. } => "give `--min-tokens` and `--max-tokens` so that one can",
        Refusal::NothingIsMasked { .. } => "leave out `--no-mask`",
        Refusal::AllSkipped { .. } => "give less for `--skip-first`",
        Refusal::NoSamples { .. } => "give at least 1 for `--train` and 1 for `--val`",
        Refusal::SumsToTheLast { .. } | Refusal::ToTheLast { .. } => "use `--pairs to-final`",
        Refusal::NoRidge => "leave out `--ridge`, or name one in `--casts`, such as `mat_ridge`",
        Refusal::NoAttention { .. } => "begin a run whose `--casts` name it, or leave `--casts` out there",
        Refusal::NoMapsOf { .. } => "name some of these, or fit it with `fit --casts`",
        Refusal::NoLens { .. } => "name some of these",
        Refusal::IsADerivative { .. } => {
            "`jumplens fit --lens` does it; `--shortcuts` of `evaluate` and `lens` takes what it writes"
        }
        _ => return None,
    };
    Some(text.to_owned())
}

fn advice(error: &Error) -> Option<String> {
    let text = match error {
        Error::Io { source, path, .. } => match source.kind() {
            ErrorKind::NotFound if path.ends_with("tokenizer.json") => {
                "put the model's tokenizer there, or give token ids by `--train-samples` and `--val-samples`".to_owned()
            }
            ErrorKind::NotFound => "check the path".to_owned(),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                "check its permissions, or choose another place".to_owned()
            }
            ErrorKind::StorageFull => {
                format!("free some space, then {}, or choose another place with `--out`", go_on())
            }
            ErrorKind::FileTooLarge => {
                format!("raise the limit that is set here on the size of files (`ulimit -f`), then {}", go_on())
            }
            #[cfg(unix)]
            _ if source.raw_os_error() == Some(libc::EMFILE) => {
                format!("raise the limit that is set here on open files (`ulimit -n`), then {}", go_on())
            }
            ErrorKind::NotADirectory => "a part of this path is a file, not a folder: choose another".to_owned(),
            ErrorKind::IsADirectory => "give a file".to_owned(),
            ErrorKind::InvalidData => "save it as UTF-8".to_owned(),
            ErrorKind::AlreadyExists => {
                format!("`{}` has to be a folder: choose another `--out`", path.display())
            }
            _ => return None,
        },
        Error::Refused(refusal) => return instead(refusal),
        Error::ImportLacks { lacking: Lacking::LastBlock, .. } => {
            "import states whose last layer is the last block's output, as a hook on that block gives it".to_owned()
        }
        Error::ImportLacks { .. } => {
            "`jumplens states import` into another folder, with `--model`, `--train-samples` and `--val-samples`, takes it in"
                .to_owned()
        }
        Error::Imported { .. } => {
            "import into another folder, or replace them by `--overwrite` of `jumplens states import`".to_owned()
        }
        Error::Core(jumplens_core::Error::Threads { .. }) => {
            format!("ask for fewer with `--threads`, or raise the limits that are set here (`ulimit -a`), then {}", go_on())
        }
        Error::Core(jumplens_core::Error::NoSuchIsa { .. }) => "set `JUMPLENS_ISA` to that, or not at all".to_owned(),
        Error::Format { path, .. } if path.extension().is_some_and(|e| e == "safetensors" || e == "gguf") => {
            "fetch or compute the file again".to_owned()
        }
        Error::Format { .. } => "fix or replace the file".to_owned(),
        Error::RefusedPickle { .. } => {
            "get the model's `model.safetensors` instead, or save its `state_dict()` by itself".to_owned()
        }
        Error::ChangedFile { stage: Stage::Moments, .. } => {
            "`jumplens moments` with its folder as `--out` makes it again".to_owned()
        }
        Error::ChangedFile { .. } => {
            "`jumplens run --resume` with its folder as `--out` makes it again, and whatever depends on it".to_owned()
        }
        Error::ChangedMeanwhile { .. } => "wait until it is whole, then give the command again".to_owned(),
        Error::ChangedFolder { .. } => "get a copy that is whole, or make it again in another folder".to_owned(),
        Error::InsideFolder { .. } => "choose a place outside of it".to_owned(),
        Error::DamagedManifest { ours: true, .. } => {
            "restore it, or update jumplens if a newer version wrote it, or choose another folder; `run`, `samples` and `moments` replace the folder by `--overwrite`"
                .to_owned()
        }
        Error::DamagedManifest { .. } => "choose another folder".to_owned(),
        Error::Locked { .. } => "wait for it to end, or choose another `--out`".to_owned(),
        Error::Shards { .. } => {
            "give one file of each share, all made with the same options".to_owned()
        }
        Error::NoWeights { .. } => "put the model's weights there as one of these".to_owned(),
        Error::MissingShard { index, .. } => {
            format!("put it next to `{}`, or fetch the model again", index.file_name().unwrap_or_default().display())
        }
        Error::ShardLacks { .. } => "fetch the index and the shards again, all of one revision".to_owned(),
        Error::Unread { field, .. } => {
            format!("choose another `--model`, or go on as if it were the default by `--allow-unread {}`", quoted(field))
        }
        Error::Config { .. } => "fix the file, or choose another `--model`".to_owned(),
        Error::UnknownModel { .. } => {
            "check the path, or give a name on the Hugging Face Hub, for example `gpt2` or `org/name@revision`".to_owned()
        }
        Error::NoSuchModel { kind: RepoKind::DataSet, .. } => {
            "check the name, and set `HF_TOKEN` if it is private".to_owned()
        }
        Error::NoSuchModel { .. } => {
            let names: Vec<String> =
                sources().bundled.models.iter().map(|model| format!("`{}`", model.name)).collect();
            format!(
                "check the name, set `HF_TOKEN` if it is private, or give a folder as `--model ./folder`; bundled are {}",
                names.join(", ")
            )
        }
        Error::NoSuchRevision { .. } => "give a branch, a tag or a full commit hash after the `@`".to_owned(),
        Error::NotInModel { kind, .. } => format!("choose another revision or another {kind}"),
        Error::Gated { id, with_token: false, .. } => {
            format!("accept its terms on the page of `{id}`, then set `HF_TOKEN` to a token of your account")
        }
        Error::Gated { id, .. } => format!("accept its terms on the page of `{id}` with that account"),
        Error::TokenRefused { .. } => "make a new token, and set `HF_TOKEN` to it, or leave it out".to_owned(),
        Error::NotCached { .. } => {
            "unset `HF_HUB_OFFLINE` to fetch it, or let `HF_HOME` name the folder that has it".to_owned()
        }
        Error::Network { .. } => {
            "check the connection, the proxy and `HF_ENDPOINT`, then start again: what has come is kept".to_owned()
        }
        Error::DamagedDownload { .. } => "it was thrown away: start again to fetch it once more".to_owned(),
        Error::DamagedCache { .. } => "delete it, then start again to fetch it once more".to_owned(),
        Error::UnknownCorpus { name, .. } => {
            let bundled = sources().bundled.corpora.iter().map(|corpus| corpus.name.to_owned()).collect::<Vec<_>>();
            let meant = meant(name, bundled.into_iter().chain(neighbours(Path::new(name))));
            let otherwise = "check the path, or give a `.txt` file with one sentence a line as `--corpus`";
            meant.map_or_else(|| otherwise.to_owned(), |meant| format!("{meant} Otherwise {otherwise}"))
        }
        Error::NotUtf8 { .. } => "save the file as UTF-8".to_owned(),
        Error::CorpusRow { .. } => "fix or replace the file; nothing was written".to_owned(),
        Error::Damaged { .. } => "fetch the file again; nothing was written".to_owned(),
        Error::NoColumn { others, .. } | Error::NotTexts { others, .. } => match others.texts.len() {
            0 => "give a file that has one".to_owned(),
            1 => "name it by `--text-column`".to_owned(),
            _ => "name one of them by `--text-column`".to_owned(),
        },
        Error::Unsupported { .. } => "write the file again in a form that is read".to_owned(),
        Error::Pointer { pointer: Pointer::GitLfs { .. }, path } => {
            format!("`git lfs pull`, run in `{}`, fetches the file", folder_of(path))
        }
        Error::Pointer { pointer: Pointer::GitAnnex, path } => {
            format!("`git annex get`, run in `{}`, fetches the file", folder_of(path))
        }
        Error::TooFewDrawn { has_more: false, .. } => {
            "ask for fewer, give a larger `--corpus`, or widen the bounds".to_owned()
        }
        Error::TooFewDrawn { .. } => {
            "ask for fewer, give a larger `--corpus`, draw more of each by `--per-document`, or widen the bounds".to_owned()
        }
        Error::TooFewInOrder { .. } => "ask for fewer, or give a larger `--corpus`".to_owned(),
        Error::MissingTensor { .. } | Error::TensorShape { .. } => {
            "check that the weights belong to this model's config.json".to_owned()
        }
        Error::TensorDtype { .. } => "convert the checkpoint to one of these".to_owned(),
        Error::WeightNotFinite { .. } => "the checkpoint is damaged: fetch or convert it again".to_owned(),
        Error::NoEmbedding { text, .. } if text.is_empty() => "use the tokenizer that came with the model".to_owned(),
        Error::NoEmbedding { .. } => "leave the text out, or use the tokenizer that came with the model".to_owned(),
        Error::NoSuchToken { .. } => "give ids of the model's own tokenizer".to_owned(),
        Error::SpecialToken { what: SpecialToken::Mask, .. } => {
            "use the tokenizer the model was trained with, or keep the token at the position by `--no-mask`".to_owned()
        }
        Error::SpecialToken { .. } => "use the tokenizer the model was trained with".to_owned(),
        Error::ForeignShortcuts { .. } => "give maps that were fitted on it, or apply these all the same by `--force`".to_owned(),
        Error::NoCast { cast, there } => {
            let otherwise = "choose one of them, or maps of that cast by `--run` or `--shortcuts`";
            match meant(&cast.name(), there.iter().map(Cast::to_string)) {
                Some(meant) => format!("{meant} Otherwise {otherwise}"),
                None => otherwise.to_owned(),
            }
        }
        Error::NoHead { .. } => {
            "its states, maps and r² can be had; for predictions choose a checkpoint saved with its head".to_owned()
        }
        Error::Sample { .. } => "fix or remove the line".to_owned(),
        Error::EmptyCorpus { .. } => "give a file with at least one".to_owned(),
        Error::TooFewSentences { .. } => "lower `--train` and `--val`, or give a larger `--corpus`".to_owned(),
        Error::Occupied { kind: FolderKind::Run, .. } => {
            "choose another `--out`, go on with it by `--resume` of `jumplens run`, or replace it by `--overwrite`".to_owned()
        }
        Error::Occupied { .. } => "choose another `--out`, or replace it by `--overwrite`".to_owned(),
        Error::OtherKind { path, kind, .. } => format!("choose another folder{}", uses(path, *kind)),
        Error::Unfinished { path, kind } => {
            let command = match kind {
                FolderKind::Run => "run --resume",
                FolderKind::Fitted => "fit --moments",
                FolderKind::Lenses => "fit --lens",
                FolderKind::ImportedMaps => "shortcuts import",
                FolderKind::ExportedMaps => "shortcuts export",
                FolderKind::Comparison => "compare",
                FolderKind::Pruned => "prune",
                FolderKind::Figures => Stage::Plot.name(),
            };
            format!("give the command again that makes it, `jumplens {command} …` with `--out {}`", quoted(path))
        }
        Error::StageDone { path, kind: FolderKind::Fitted, .. } => format!(
            "its r² came with the maps, from the same sums, and is in `{}/results/r2.csv`: nothing is left to do",
            path.display()
        ),
        Error::StageDone { .. } => {
            "nothing is left to do; for other options copy the folder first, or have what is there replaced by `--overwrite`"
                .to_owned()
        }
        Error::Differs { .. } => {
            "leave it out to go on with the run as it began, or choose another `--out`".to_owned()
        }
        Error::FileExists { .. } => "choose another `--out`, or replace it by `--overwrite`".to_owned(),
        Error::NotARun { path } => runs_in(path).unwrap_or_else(|| "choose another `--out`".to_owned()),
        Error::NoFolder { path } => {
            let otherwise = format!("check the path, or run `jumplens samples --out {}` first", quoted(path));
            match meant(&path.display().to_string(), neighbours(path)) {
                Some(meant) => format!("{meant} Otherwise {otherwise}"),
                None => otherwise,
            }
        }
        Error::StageMissing { path, stage: Stage::Samples, .. } if runs_in(path).is_some() => runs_in(path)?,
        Error::StageMissing { path, stage, .. } => {
            format!("run `jumplens {stage} --out {}` first", quoted(path))
        }
        Error::Changed { path, .. } => {
            format!("start again in another folder, or with `--overwrite --out {}`", quoted(path))
        }
        Error::NotFinite { .. } => "every weight is finite: look at that sample, and at the largest weights of the checkpoint".to_owned(),
        error if error.is_bug() => "this is a bug in jumplens, please report it".to_owned(),
        _ => return None,
    };
    Some(text)
}

/// How to go on with the command that is being done once there is nothing in its way.
fn go_on() -> &'static str {
    match Begun::goes_on() {
        GoesOn::ByResume => "go on with `--resume`",
        _ => "give the command again",
    }
}

/// What a folder is good for that is not what was wanted.
fn uses(path: &Path, kind: FolderKind) -> String {
    let path = quoted(path);
    match kind {
        FolderKind::Run => String::new(),
        FolderKind::Fitted => format!(
            "; `jumplens lens --run {path}` looks through its maps, `jumplens evaluate --out RUN --shortcuts {path}` measures \
             them on the states of a run"
        ),
        FolderKind::Lenses | FolderKind::ImportedMaps => format!(
            "; `jumplens shortcuts list {path}` says which maps they are, `--shortcuts {path}` of `lens`, `r2` and `evaluate` \
             applies them"
        ),
        FolderKind::ExportedMaps => {
            "; its files are given to others, or to `--shortcuts` of `lens`, `r2` and `evaluate`".to_owned()
        }
        FolderKind::Comparison => "; its figures and `differences.csv` are there to be looked at".to_owned(),
        FolderKind::Pruned => format!("; it is a model: `--model {path}` of `run` and `lens` takes it"),
        FolderKind::Figures => format!("; `jumplens plot --out {path}` draws its figures again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_end_in_what_can_be_done() {
        let noise = |ridge| Note::FitsNoise {
            layers: 9,
            from: 0,
            last: 12,
            r2_train: 0.734,
            r2: -0.04,
            ridge,
            samples: 300,
            width: 128,
        };
        let fits = "`mat` fits noise from 9 of 12 layers: from layer 0 to 12, r² is 0.73 on the training samples and -0.04 on \
                    the validation samples; 300 samples are 2.3 for each of the 128 coordinates of a state: ";
        let sink = Note::AttentionSink { first_positions: 7, samples: 90, share: 0.956, layers: [1, 11] };
        for (note, said) in [
            (noise(None), format!("{fits}give more with `--train`, or fit with `--ridge auto`")),
            (noise(Some(0.32)), format!("{fits}`mat_ridge` has 0.32; more samples (`--train`) would help more")),
            (
                sink,
                "the 7 of 90 training samples at the first position hold up to 96 % of the spread of the states of layers 1 \
                 to 11 (an attention sink), so that r² and the maps there are mostly about them; `--skip-first 1` leaves \
                 that position out"
                    .to_owned(),
            ),
            (
                Note::NoBf16Products,
                "there are no instructions for bf16 products in use: factors are rounded to bf16 and multiplied as f32. \
                 `--dtype f32` takes as long, and is more exact; bf16 halves the memory of the weights"
                    .to_owned(),
            ),
        ] {
            assert_eq!(with_remedy(&note), said);
        }
    }
}
