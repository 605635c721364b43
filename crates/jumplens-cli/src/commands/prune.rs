//! `jumplens prune`: from a model to one of fewer blocks.

use super::Failure;
use crate::args::PruneArgs;
use crate::printer::Printer;
use crate::progress::Progress;
use crate::shell::quoted;
use jumplens::Error;
use jumplens::eval::tables::write_csv;
use jumplens::files::{create_folder, write_atomically};
use jumplens::plot::{Figure, Format, Style, write_figure};
use jumplens::prune::{Estimate, Pruned, Row, TableRow, figure, load, prune};
use jumplens::store::{FolderKind, Room};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Where the smaller model goes.
enum Place {
    Folder(Room),
    /// A GGUF file; its card, figures and table lie beside it.
    File,
}

pub fn run(args: &PruneArgs, printer: &Printer) -> Result<(), Failure> {
    let (sources, progress) = (args.unread.sources(), Progress::new(printer));
    let settings = args.settings();
    let place = place(args, &settings.model)?;
    let whole = load(&settings.model, &settings.samples, settings.seed, &sources, &progress)?;
    let options = args.options(settings.seed);
    let pruned = prune(&whole.model, [&whole.train, &whole.val], &options, &whole.parameters, &progress)?;
    pruned.notes.iter().for_each(|note| printer.note(note));

    let figure = figure(&pruned.rows);
    let rows = TableRow::of(&pruned.rows);
    let out = &args.out;
    let image = figure.as_ref().map(|_| match &place {
        Place::Folder(_) => "figures/prune.png".to_owned(),
        Place::File => {
            out.with_extension("png").file_name().map(|it| it.to_string_lossy().into()).unwrap_or_default()
        }
    });
    let card = card(&settings.model, &whole.files.id, &pruned, &place, image.as_deref());
    match place {
        Place::Folder(room) => {
            let making = room.begin(&progress)?;
            write_csv(&out.join("prune.csv"), &rows)?;
            if let Some(figure) = &figure {
                let figures = out.join("figures");
                create_folder(&figures)?;
                draw(&figures.join("prune"), figure)?;
            }
            whole.save(&pruned.kept, args.stored(), out, &progress)?;
            write_atomically(&out.join("README.md"), card.as_bytes())?;
            making.finish()?;
        }
        Place::File => {
            out.parent().map_or(Ok(()), create_folder)?;
            write_csv(&out.with_extension("csv"), &rows)?;
            figure.iter().try_for_each(|figure| draw(out, figure))?;
            write_atomically(&out.with_extension("md"), card.as_bytes())?;
            whole.save_gguf(&pruned.kept, args.stored(), out, &progress)?;
        }
    }
    printer.result(&table(&pruned))?;
    let model = quoted(out.display().to_string());
    printer.note(&format!(
        "The model is in `{}`; `jumplens lens --model {model} \"TEXT\"` looks into it",
        out.display()
    ));
    Ok(())
}

/// The figure in every format, beside one another.
fn draw(path: &Path, figure: &Figure) -> Result<(), Failure> {
    for format in Format::ALL {
        write_figure(path, figure, format, &Style::default())?;
    }
    Ok(())
}

/// Where it goes, seen to be free.
fn place(args: &PruneArgs, model: &str) -> Result<Place, Failure> {
    if args.parts.is_some() && !args.is_gguf() {
        return Err(Error::Option(
            "no configuration of `transformers` can say that a block has no attention or no feed-forward part: write a file, \
             `--out NAME.gguf`"
                .to_owned(),
        )
        .into());
    }
    if !args.is_gguf() {
        let from = [PathBuf::from(model)];
        return Ok(Place::Folder(Room::check(&args.out, FolderKind::Pruned, &from, args.overwrite)?));
    }
    let files =
        ["gguf", "md", "csv", "svg", "pdf", "png"].map(|extension| args.out.with_extension(extension));
    let drawn = if args.sizes.is_empty() { 3 } else { files.len() };
    if let Some(path) = files[..drawn].iter().find(|path| path.exists() && !args.overwrite) {
        return Err(Error::FileExists { path: path.clone() }.into());
    }
    Ok(Place::File)
}

/// A figure and its interval.
fn with_interval(estimate: &Estimate, digits: usize) -> String {
    format!("{:.digits$} [{:.digits$}, {:.digits$}]", estimate.mean, estimate.lo, estimate.hi)
}

fn cells(row: &Row) -> [String; 9] {
    let figures = &row.figures;
    let percent = |estimate: &Estimate| {
        with_interval(
            &Estimate { mean: 100.0 * estimate.mean, lo: 100.0 * estimate.lo, hi: 100.0 * estimate.hi },
            1,
        )
    };
    [
        row.model.clone(),
        row.blocks.to_string(),
        format!("{:.1} M", row.parameters as f64 / 1e6),
        with_interval(&figures.perplexity, 2),
        with_interval(&figures.loss_beyond_whole, 3),
        with_interval(&figures.kl, 3),
        percent(&figures.agreement),
        percent(&figures.precision_5),
        format!("{:.0}", row.tokens_per_second),
    ]
}

const HEADS: [&str; 9] = [
    "model",
    "blocks",
    "weights",
    "perplexity",
    "loss added",
    "KL",
    "same top token, %",
    "in best 5, %",
    "tokens/s",
];

/// The table at the end, and the gaps.
fn table(pruned: &Pruned) -> String {
    let mut lines = vec![HEADS.map(str::to_owned)];
    lines.extend(pruned.rows.iter().map(cells));
    let widths: Vec<usize> = (0..HEADS.len())
        .map(|i| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).enumerate();
        let cells: Vec<String> = cells
            .map(
                |(i, (cell, width))| {
                    if i == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text.push_str(&gaps(pruned));
    text
}

fn gaps(pruned: &Pruned) -> String {
    let mut text = String::new();
    for gap in &pruned.gaps {
        let blocks = match gap.to - gap.from {
            1 => format!("block {}", gap.to),
            _ => format!("blocks {} to {}", gap.from + 1, gap.to),
        };
        let _ = writeln!(
            text,
            "{blocks}: out; angular distance {:.3}, block influence {:.3}",
            gap.angular_distance, gap.influence
        );
    }
    for kept in &pruned.kept {
        let part = match (kept.without.attention, kept.without.feed_forward) {
            (true, true) => "attention and feed-forward part",
            (true, false) => "attention",
            (false, true) => "feed-forward part",
            (false, false) => continue,
        };
        let map = kept.attention.as_ref().map_or(String::new(), |map| {
            format!(", a map of {} × {} numbers instead of the attention", map.d_out(), map.d_in())
        });
        let _ = writeln!(text, "block {}: {part} out{map}", kept.block + 1);
    }
    text
}

/// The model card.
fn card(name: &str, id: &str, pruned: &Pruned, place: &Place, image: Option<&str>) -> String {
    let library = if matches!(place, Place::Folder(_)) { "transformers" } else { "gguf" };
    let mut card = format!("---\nlibrary_name: {library}\ntags:\n- pruned\n- jumplens\n---\n\n");
    let (whole, chosen) = (&pruned.rows[0], &pruned.rows[1]);
    let lacks = pruned.kept.iter().any(|kept| kept.without.kinds().next().is_some());
    let (taken, architecture) = if lacks {
        (
            format!("{} sub-modules or blocks were", chosen.removed.len()),
            "llama.cpp's `deci`, a Llama whose blocks differ",
        )
    } else {
        (format!("{} of {} blocks were", whole.blocks - chosen.blocks, whole.blocks), "the model's own")
    };
    let _ = write!(
        card,
        "# {} blocks of {}\n\nMade by `jumplens prune` {} from `{name}`: {taken} taken out, and what they add was folded into the \
         layers that are left, in closed form, on {} tokens. The architecture is {architecture}.\n\n",
        chosen.blocks,
        id.rsplit('/').next().unwrap_or(id),
        env!("CARGO_PKG_VERSION"),
        pruned.fitted,
    );
    let _ = writeln!(card, "| {} |", HEADS.join(" | "));
    let _ = writeln!(card, "|---|{}", "---:|".repeat(HEADS.len() - 1));
    for row in &pruned.rows {
        let _ = writeln!(card, "| {} |", cells(row).join(" | "));
    }
    let _ = write!(
        card,
        "\nOn {} positions of sentences that had no part in making it, with 95 % intervals over sentences, loss and KL in nats, \
         computed in f32 before the weights are rounded to their number format; tokens a second through the blocks, on the machine that made it.\n\n{}",
        pruned.measured,
        gaps(pruned).lines().map(|line| format!("- {line}\n")).collect::<String>()
    );
    if let Some(image) = image {
        let _ = write!(card, "\n![What is lost by how many blocks are taken out]({image})\n");
    }
    let word = |word: String| if word.starts_with("--") { word } else { quoted(&word) };
    let command: Vec<String> = std::env::args().skip(1).map(word).collect();
    let _ = write!(card, "\n```sh\njumplens {}\n```\n", command.join(" "));
    card
}
