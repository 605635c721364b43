//! The tables and the headline lines at the end of a run.

use jumplens::eval::tables::{CurveRow, SourceRow};
use jumplens::eval::{LastLayer, Summary};
use jumplens::store::{Manifest, Stage};
use jumplens::words::{BlockCast, Cast};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Columns of a line at most, unless one group needs more.
const WIDTH: usize = 112;

/// Columns under one title, one line a layer.
struct Group {
    title: String,
    heads: Vec<(String, usize)>,
    /// `[layer][column]`.
    lines: Vec<Vec<String>>,
}

impl Group {
    fn width(&self) -> usize {
        self.heads.iter().map(|(_, width)| width).sum()
    }

    /// Of columns of numbers: head, width, and the number of a layer.
    fn new(title: &str, layers: usize, columns: Vec<(String, usize, Column)>) -> Self {
        let line = |layer: usize| columns.iter().map(|(.., column)| column(layer)).collect();
        let lines = (0..layers).map(line).collect();
        let heads = columns.into_iter().map(|(head, width, _)| (head, width)).collect();
        Self { title: title.to_owned(), heads, lines }
    }

    /// This group's part of the line with those `cells`.
    fn row(&self, cells: impl Iterator<Item = String>) -> String {
        let cells = self.heads.iter().zip(cells).map(|((_, width), cell)| format!("{cell:>width$}"));
        format!("  │{}", cells.collect::<String>())
    }
}

/// What a column says of a layer.
type Column<'a> = Box<dyn Fn(usize) -> String + 'a>;

/// A figure as a column has it.
fn number(value: Option<f64>, digits: usize) -> String {
    match value {
        Some(value) if value.abs() >= 1e3 => format!("{value:.1e}"),
        Some(value) => format!("{value:.digits$}"),
        None => String::new(),
    }
}

/// Groups side by side, as many as a line takes; the others below them.
fn tables(groups: &[Group]) -> String {
    let mut text = String::new();
    let mut left = groups;
    while !left.is_empty() {
        let mut width = 5;
        let fits = |group: &&Group| {
            width += group.width() + 3;
            width <= WIDTH
        };
        let (table, others) = left.split_at(left.iter().take_while(fits).count().max(1));
        left = others;
        let mut title = format!("{:5}", "");
        let mut head = format!("{:>5}", "layer");
        for group in table {
            let _ = write!(title, "  │{:^width$}", group.title, width = group.width());
            head += &group.row(group.heads.iter().map(|(head, _)| head.clone()));
        }
        let rule: String = head.chars().map(|c| if c == '│' { '┼' } else { '─' }).collect();
        let _ = writeln!(text, "{}\n{head}\n{rule}", title.trim_end());
        for layer in 0..table.iter().map(|group| group.lines.len()).max().unwrap_or(0) {
            let mut line = format!("{layer:>5}");
            for group in table {
                line += &group.row(group.lines.get(layer).into_iter().flatten().cloned());
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        if !left.is_empty() {
            text.push('\n');
        }
    }
    text
}

/// Layer by layer: r² to the last layer, Precision@1 and surprisal of every cast; then what it comes to, and what can be
/// said of the maps.
pub fn render(
    summary: &Summary,
    sources: &[SourceRow],
    curve: &[CurveRow],
    warnings: &[String],
    manifest: &Manifest,
) -> String {
    let mut text = tables(&casts(summary));
    let predicts = predicts(summary);
    let measures = if predicts { ", Precision@1, surprisal in nats" } else { "" };
    let _ = writeln!(
        text,
        "r² to layer {}{measures}; {} validation sample{}\n",
        summary.n_layers,
        summary.val,
        if summary.val == 1 { "" } else { "s" }
    );
    if let Some(groups) = reliability(sources, curve) {
        text += &tables(&groups);
        let _ = writeln!(text, "r² of mat to layer {} by training samples\n", summary.n_layers);
    }
    for warning in warnings {
        let _ = writeln!(text, "Warning: {warning}");
    }
    if let Some((wins, pairs)) = summary.mat_beats_id {
        let _ = writeln!(text, "mat beats id in r² at {wins} of {pairs} pairs of layers");
    }
    for (mapping, saved) in &summary.layers_saved {
        let share = 100.0 * saved / summary.n_layers as f64;
        let _ = writeln!(
            text,
            "Layers saved at 95 % precision with {mapping}: {saved:.2} of {} ({share:.1} %)",
            summary.n_layers
        );
    }
    let seconds =
        |stage: Stage| manifest.stages.get(&stage).map(|record| format!("{stage} {:.1}", record.seconds));
    let stages: Vec<String> = Stage::ALL.into_iter().filter_map(seconds).collect();
    let total: f64 = manifest.stages.values().map(|record| record.seconds).sum();
    let _ = writeln!(text, "Seconds: {}; {total:.1} in all, {} threads", stages.join(", "), manifest.threads);
    text
}

/// False for a model without a head, which has no predictions.
fn predicts(summary: &Summary) -> bool {
    summary.to_last_layer.iter().any(|row| row.precision_1.is_some())
}

/// A group a cast: `id`, the maps of states, and the casts that run blocks, which have no r².
fn casts(summary: &Summary) -> Vec<Group> {
    let predicts = predicts(summary);
    let layers = summary.n_layers + usize::from(predicts);
    let mut of_states = vec![Cast::Id];
    for LastLayer { mapping, .. } in &summary.to_last_layer {
        if !of_states.contains(mapping) && !matches!(mapping, Cast::Blocks(_)) {
            of_states.push(mapping.clone());
        }
    }
    let group = |cast: Cast| {
        let find = |layer| summary.to_last_layer.iter().find(|row| row.mapping == cast && row.layer == layer);
        let mut columns: Vec<(String, usize, Column)> = Vec::new();
        if !matches!(cast, Cast::Blocks(_)) {
            columns.push(("r²".into(), 8, Box::new(|layer| number(find(layer).and_then(|row| row.r2), 3))));
        }
        if predicts {
            let precision = |layer| number(find(layer).and_then(|row| row.precision_1), 3);
            columns.push(("P@1".into(), 7, Box::new(precision)));
            let surprisal = |layer| number(find(layer).and_then(|row| row.surprisal), 3);
            columns.push(("surpr.".into(), 8, Box::new(surprisal)));
        }
        Group::new(&cast.name(), layers, columns)
    };
    let blocks = BlockCast::ALL
        .map(Cast::Blocks)
        .into_iter()
        .filter(|cast| predicts && summary.to_last_layer.iter().any(|row| row.mapping == *cast));
    of_states.into_iter().chain(blocks).map(group).collect()
}

/// r² by the number of training samples, and what there is to know of each layer's states as a source of maps.
fn reliability(sources: &[SourceRow], curve: &[CurveRow]) -> Option<Vec<Group>> {
    let samples: BTreeSet<usize> = curve.iter().map(|row| row.samples).collect();
    let most = *samples.last()?;
    let find = |from: usize, samples: usize| {
        curve.iter().find(move |row| row.from == from && row.samples == samples)
    };
    let on_val = samples.iter().map(|&samples| -> (String, usize, Column) {
        let column = move |layer| number(find(layer, samples).map(|row| row.r2), 3);
        (samples.to_string(), 8, Box::new(column))
    });
    let on_train = move |layer| number(find(layer, most).map(|row| row.r2_train), 3);
    let share = |layer: usize| number(sources.get(layer).map(|row| 100.0 * row.top_coordinate_share), 1);
    let at_first = |layer: usize| {
        let share = sources.get(layer).and_then(|row| row.first_position_share);
        number(share.map(|share| 100.0 * share), 1)
    };
    let states: Vec<(String, usize, Column)> = vec![
        (
            "rank".into(),
            7,
            Box::new(|layer| sources.get(layer).map_or(String::new(), |row| row.rank.to_string())),
        ),
        (
            "effective".into(),
            11,
            Box::new(|layer| number(sources.get(layer).map(|row| row.effective_rank), 1)),
        ),
        ("condition".into(), 11, Box::new(|layer| number(sources.get(layer).map(|row| row.condition), 1))),
        ("top coord. %".into(), 14, Box::new(share)),
        ("position 0 %".into(), 14, Box::new(at_first)),
    ];
    Some(vec![
        Group::new("validation r²", sources.len(), on_val.collect()),
        Group::new("training", sources.len(), vec![(most.to_string(), 9, Box::new(on_train))]),
        Group::new("states of the layer", sources.len(), states),
    ])
}
