//! `report.html`: one page that shows a run, with its data, scripts and font inside. It loads nothing.
//!
//! `uplot/` holds uPlot 1.6.32 (MIT), which draws the lines: 51 kB, and its cursor can be moved by keys.

mod compact;

use crate::eval::tables::Tables;
use crate::eval::{Examples, Summary};
use crate::lens::Sentences;
use crate::manifest::MANIFEST;
use crate::markup::escaped;
use crate::plot;
use crate::seal;
use crate::store::Stage;
use crate::words::{BlockCast, Cast, DerivativeCast, EXAMPLES, LENS, RESULTS};
use crate::{Error, Result};
use base64::Engine;
use compact::Texts;
use jumplens_core::cast::Form;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const PAGE: &str = include_str!("page.html");
const STYLES: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const UPLOT: &str = include_str!("uplot/uPlot.iife.min.js");
const UPLOT_STYLES: &str = include_str!("uplot/uPlot.min.css");

/// Tables whose text goes into the page as it is.
const WHOLE: [&str; 5] = ["r2.csv", "layers.csv", "early_exit.csv", "exits.csv", "ranks.csv"];
/// The same, where they are there, of runs that have r².
const OF_MAPS: [&str; 2] = ["sources.csv", "learning_curve.csv"];

/// What the page is made from.
pub(crate) struct Source<'a> {
    /// The run folder, which the page is to lie in.
    pub folder: &'a Path,
    /// Its tables. A table without rows here is left out of the page, whatever its file holds.
    pub tables: &'a Tables,
    /// What the page is called.
    pub title: &'a str,
    /// What its reader must not miss, a line each.
    pub warnings: &'a [String],
    /// What else has to be said of the results, a line each.
    pub notes: &'a [String],
    /// The figures that lie in the run folder.
    pub figures: &'a [PathBuf],
}

/// The page as HTML.
///
/// # Errors
/// [`Error::Io`] or [`Error::Format`] when a file of the run cannot be read.
pub(crate) fn page(source: &Source) -> Result<String> {
    let script = |text: &str| {
        let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text));
        format!("'sha256-{hash}'")
    };
    let filled = [
        ("hashes", format!("{} {}", script(UPLOT), script(SCRIPT))),
        ("title", escaped(source.title)),
        ("styles", format!("{}\n{UPLOT_STYLES}\n{STYLES}", plot::font_face())),
        ("data", in_script(&data(source)?)),
        ("uplot", UPLOT.to_owned()),
        ("page", SCRIPT.to_owned()),
    ];
    // Each place is filled once, from the front, so that what is filled in is never taken for a place.
    let mut rest = PAGE;
    let mut page = String::new();
    for (name, value) in filled {
        let place = format!("{{{{{name}}}}}");
        let (before, after) = rest
            .split_once(place.as_str())
            .ok_or_else(|| Error::Internal(format!("the report has no place for {name}")))?;
        page.push_str(before);
        page.push_str(&value);
        rest = after;
    }
    page.push_str(rest);
    Ok(page)
}

fn data(source: &Source) -> Result<Value> {
    let results = source.folder.join(RESULTS);
    let Tables { r2, layers, early_exit, exits, ranks, spectra } = source.tables;
    let there = [r2.is_empty(), layers.is_empty(), early_exit.is_empty(), exits.is_empty(), ranks.is_empty()];
    let mut files = BTreeMap::new();
    for (name, is_empty) in WHOLE.into_iter().zip(there) {
        if !is_empty {
            let path = results.join(name);
            files.insert(name, std::fs::read_to_string(&path).map_err(Error::io("read", &path))?);
        }
    }
    let mut tables: Vec<String> = files.keys().map(|name| format!("{RESULTS}/{name}")).collect();
    tables.extend((!spectra.is_empty()).then(|| format!("{RESULTS}/spectra.csv")));
    for name in OF_MAPS.into_iter().filter(|_| !r2.is_empty()) {
        if let Some(text) = found(&results.join(name), |bytes| Ok(String::from_utf8(bytes)?))? {
            files.insert(name, text);
            tables.push(format!("{RESULTS}/{name}"));
        }
    }
    // Of widths in the thousands the whole spectra would take megabytes.
    let (thinned, effective_rank) = plot::spectra_summary(spectra);
    let predicted = !layers.is_empty();
    let lens: Option<Sentences> = if predicted { json_file(&results.join(LENS))? } else { None };
    let examples: Option<Examples> = if predicted { json_file(&results.join(EXAMPLES))? } else { None };
    let mut texts = Texts::default();
    let lens = lens.map(|read| compact::lens(&read, &mut texts));
    let examples = examples.map(|read| compact::examples(&read, &mut texts));
    let casts = source.tables.casts();
    let mut manifest: Option<Value> = json_file(&source.folder.join(MANIFEST))?;
    // Without the stage that writes the page, so that the page is the same when it is written again.
    if let Some(manifest) = manifest.as_mut().and_then(Value::as_object_mut) {
        manifest.remove(seal::KEY);
        if let Some(stages) = manifest.get_mut("stages").and_then(Value::as_object_mut) {
            stages.remove(Stage::Plot.name());
        }
    }
    Ok(json!({
        "title": source.title,
        "version": env!("CARGO_PKG_VERSION"),
        "warnings": source.warnings,
        "manifest": manifest,
        "summary": summary(source.folder, source.tables)?,
        "notes": source.notes,
        "lens": lens,
        "examples": examples,
        "texts": texts.list(),
        "meanings": casts.iter().map(|cast| (cast.name(), meaning(cast))).collect::<BTreeMap<_, _>>(),
        "files": files,
        "casts": plot::looks(&casts),
        "pair": plot::PAIR,
        "spectra_of": Cast::MAT,
        "spectra": thinned,
        "effective_rank": effective_rank,
        "tables": tables,
        "figures": source.figures.iter().map(|path| relative(source.folder, path)).collect::<Vec<_>>(),
    }))
}

/// The headline figures, where the run has some: those of `tables`, since the file may be of tables that are not current.
fn summary(folder: &Path, tables: &Tables) -> Result<Option<Summary>> {
    Ok(Summary::read(folder)?.map(|summary| summary.with_tables(tables)))
}

/// What `read` makes of a file, where it is there.
fn found<T>(
    path: &Path,
    read: impl FnOnce(Vec<u8>) -> std::result::Result<T, Box<dyn std::error::Error>>,
) -> Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => read(bytes).map(Some).map_err(Error::format(path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// The value of a JSON file, where it is there.
fn json_file<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    found(path, |bytes| Ok(serde_json::from_slice(&bytes)?))
}

/// What a cast does, in a sentence for those who read its name for the first time.
fn meaning(cast: &Cast) -> String {
    match cast {
        Cast::Id => {
            "the state of the layer as it is, read by the model's own head (the logit lens)".to_owned()
        }
        Cast::Mean => "a baseline for r²: the mean of the training states of the later layer".to_owned(),
        Cast::Map { intercept, form } => {
            let bias = if *intercept { " and a bias" } else { "" };
            let how = match form {
                Form::Plain => "fitted by least squares".to_owned(),
                Form::Ridge => "fitted by ridge regression, which keeps its entries small".to_owned(),
                Form::Rank(rank) => format!("of rank {rank}, fitted by least squares"),
            };
            format!("the state times a matrix{bias}, {how}, to the state of the last layer")
        }
        Cast::Blocks(block) => {
            let what = match block {
                BlockCast::Attn => "attention",
                BlockCast::Ffn => "feed-forward network",
                BlockCast::Norms => "norms",
            };
            format!("every later block is run, with its {what} replaced by a linear map")
        }
        Cast::Derivative(cast) => {
            let of = match cast {
                DerivativeCast::Jacobian => "",
                DerivativeCast::Tangent => ", at the same position",
                DerivativeCast::Relevance => ", denominators of norms and activations of gates held",
            };
            format!("the state times the mean derivative of the last layer's state{of}")
        }
        Cast::Tuned => "the maps of a tuned lens".to_owned(),
        Cast::Other(_) => "maps from elsewhere".to_owned(),
    }
}

/// `path` as a link from a page in `folder`.
fn relative(folder: &Path, path: &Path) -> String {
    let path = path.strip_prefix(folder).unwrap_or(path);
    path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// JSON that nothing in a script element takes for its end, or for a comment.
fn in_script(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::tables::{R2Row, SpectrumRow, write_csv};

    const EVIL: &str = "</script><img src=x onerror=alert(1)><!-- {{data}} & \u{2028}";

    fn made(title: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let results = folder.path().join("results");
        std::fs::create_dir(&results).unwrap();
        let r2 = vec![R2Row { mapping: "mat".into(), from: 0, to: 1, r2: f64::NAN, r2_train: -1e6 }];
        write_csv(&results.join("r2.csv"), &r2).unwrap();
        let spectra =
            (1..=2000).map(|index| SpectrumRow { from: 0, to: 1, index, singular_value: 1.0 }).collect();
        let tables = Tables { r2, spectra, ..Tables::default() };
        let figures = [folder.path().join("plots").join("r2.svg")];
        let warnings = [format!("{title} predicts badly")];
        let (folder, tables) = (folder.path(), &tables);
        page(&Source { folder, tables, title, warnings: &warnings, notes: &[], figures: &figures }).unwrap()
    }

    fn embedded(page: &str) -> Value {
        let (_, rest) = page.split_once("id=\"data\">").unwrap();
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    }

    #[test]
    fn names_cannot_become_markup() {
        let page = made(EVIL);
        assert!(!page.contains("<img"));
        assert_eq!(page.matches("</script>").count(), 3);
        assert_eq!(embedded(&page)["title"], EVIL);
        assert_eq!(embedded(&page)["warnings"][0], format!("{EVIL} predicts badly"));
    }

    #[test]
    fn tables_are_in_the_page_as_they_are() {
        let page = made("a");
        let data = embedded(&page);
        assert_eq!(data["files"]["r2.csv"], "mapping,from,to,r2,r2_train\nmat,0,1,NaN,-1000000.0\n");
        assert_eq!(data["tables"], json!(["results/r2.csv", "results/spectra.csv"]));
        assert_eq!(data["figures"], json!(["plots/r2.svg"]));
        let rank = data["effective_rank"][0][1].as_f64().unwrap();
        assert!((rank - 2000.0).abs() < 1e-6, "{rank}");
        assert!(data["spectra"]["0"].as_array().unwrap().len() < 200);
    }

    #[test]
    fn scripts_are_those_that_the_policy_names() {
        let page = made("a");
        let policy = page.split_once("script-src ").unwrap().1.split_once("\">").unwrap().0;
        let scripts: Vec<&str> =
            page.split("<script>").skip(1).map(|rest| rest.split_once("</script>").unwrap().0).collect();
        let hashes: Vec<String> = scripts
            .iter()
            .map(|text| {
                format!("'sha256-{}'", base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text)))
            })
            .collect();
        assert_eq!(policy, hashes.join(" "));
    }

    #[test]
    fn nothing_is_loaded() {
        let page = made("a");
        let outside = page.match_indices("https://").map(|(at, _)| &page[at..(at + 40).min(page.len())]);
        let outside: Vec<_> = outside.filter(|link| !link.starts_with("https://arxiv.org/")).collect();
        // uPlot's header names its home.
        assert!(
            outside.iter().all(|link| link.starts_with("https://github.com/leeoniya/uPlot")),
            "{outside:?}"
        );
    }
}
