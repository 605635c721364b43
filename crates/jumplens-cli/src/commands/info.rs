//! `jumplens info`: what a model is made of.

use super::Failure;
use crate::args::{Format, InfoArgs};
use crate::printer::Printer;
use crate::progress::Progress;
use jumplens::hub::{ModelFiles, SourceFile};
use jumplens::models::{Description, Kind, Spec, describe};
use jumplens::nn::Precision;
use jumplens::run::{MemoryUse, memory_bytes};
use jumplens::shortcut::{self, Pairs};
use jumplens::states;
use serde_json::json;
use std::fmt::Write;

pub fn info(args: &InfoArgs, printer: &Printer) -> Result<(), Failure> {
    let files = ModelFiles::find(args.model.name(), &args.unread.sources(), &Progress::new(printer))?;
    let model = describe(&files)?;
    model.notes.iter().for_each(|note| printer.note(&format!("`{}`: {note}", files.id)));
    match args.format {
        Format::Text => printer.result(&text(args, &files, &model))?,
        Format::Json => printer.json(&json(args, &files, &model))?,
    }
    Ok(())
}

/// Bytes that a run takes: states, all maps, maps to the last layer alone.
fn disk(args: &InfoArgs, spec: &Spec) -> [u64; 3] {
    let maps = |pairs| shortcut::disk_bytes(spec, pairs);
    [states::disk_bytes(spec, args.train as usize, args.val as usize), maps(Pairs::All), maps(Pairs::ToFinal)]
}

/// Bytes of memory that it takes with all maps.
fn memory(args: &InfoArgs, files: &ModelFiles, model: &Description) -> u64 {
    let of = MemoryUse {
        dtype: args.dtype.into(),
        train: args.train as usize,
        val: args.val as usize,
        pairs: Pairs::All,
        has_head: model.has_head,
        threads: rayon::current_num_threads(),
        disk: files.all().iter().map(|file| file.bytes().len() as u64).sum(),
    };
    memory_bytes(&model.spec, &model.contents, &of)
}

fn kind(spec: &Spec) -> &'static str {
    match spec.kind {
        Kind::Causal => "causal",
        Kind::Masked => "masked",
    }
}

/// Its name within the model.
fn name(file: &SourceFile) -> String {
    file.path.file_name().unwrap_or_default().display().to_string()
}

fn text(args: &InfoArgs, files: &ModelFiles, model: &Description) -> String {
    let Description { spec, has_head, contents, .. } = model;
    let dtypes: Vec<String> = match contents.by_dtype.len() {
        1 => contents.by_dtype.keys().cloned().collect(),
        _ => contents.by_dtype.iter().map(|(dtype, count)| format!("{dtype} ({count})")).collect(),
    };
    let head = if *has_head { "" } else { ", without its language-model head" };
    let mut lines = vec![("model", files.id.clone())];
    lines.extend(files.revision.clone().map(|revision| ("revision", revision)));
    lines.extend([
        ("family", spec.family.to_owned()),
        ("kind", format!("{}{head}", kind(spec))),
        ("layers", spec.n_layers.to_string()),
        ("width", spec.d_model.to_string()),
        ("heads", spec.n_heads.to_string()),
        ("vocabulary", spec.vocab_size.to_string()),
        ("longest sequence", spec.max_positions.to_string()),
        ("parameters", contents.parameters.to_string()),
        ("stored as", dtypes.join(", ")),
    ]);
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let [states, all, to_final] = disk(args, spec);
    let dtype = Precision::from(args.dtype);
    lines.extend([
        ("states", format!("{} for {} + {} samples", megabytes(states), args.train, args.val)),
        ("shortcuts", format!("{}, or {} with `--pairs to-final`", megabytes(all), megabytes(to_final))),
        (
            "memory",
            format!(
                "{} at most in {dtype} on {} threads",
                megabytes(memory(args, files, model)),
                rayon::current_num_threads()
            ),
        ),
    ]);
    let mut text = String::new();
    for (what, value) in lines {
        let _ = writeln!(text, "{what:<16}  {value}");
    }
    let rows: Vec<(String, usize, Option<String>)> =
        files.all().into_iter().map(|file| (name(file), file.bytes().len(), sha256(args, file))).collect();
    let wide = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0).max(16);
    let title = if args.no_digests { "" } else { "  sha256" };
    let _ = writeln!(text, "\n{:<wide$}  {:>12}{title}", "file", "bytes");
    for (name, bytes, sha256) in rows {
        let sha256 = sha256.map_or_else(String::new, |sha256| format!("  {sha256}"));
        let _ = writeln!(text, "{name:<wide$}  {bytes:>12}{sha256}");
    }
    text
}

/// The digest of a file, which takes reading it.
fn sha256(args: &InfoArgs, file: &SourceFile) -> Option<String> {
    (!args.no_digests).then(|| file.sha256())
}

fn json(args: &InfoArgs, files: &ModelFiles, model: &Description) -> String {
    let Description { spec, has_head, contents, .. } = model;
    let rows: Vec<_> = files
        .all()
        .into_iter()
        .map(|file| json!({ "name": name(file), "bytes": file.bytes().len(), "sha256": sha256(args, file) }))
        .collect();
    let [states, all, to_final] = disk(args, spec);
    let value = json!({
        "model": files.id,
        "revision": files.revision,
        "family": spec.family,
        "kind": kind(spec),
        "has_head": has_head,
        "n_layers": spec.n_layers,
        "d_model": spec.d_model,
        "n_heads": spec.n_heads,
        "vocab_size": spec.vocab_size,
        "max_positions": spec.max_positions,
        "parameters": contents.parameters,
        "parameters_by_dtype": contents.by_dtype,
        "files": rows,
        "disk_bytes": {
            "train": args.train, "val": args.val, "states": states, "shortcuts_all": all, "shortcuts_to_final": to_final,
        },
        "memory_bytes": memory(args, files, model),
    });
    format!("{value:#}\n")
}
