//! The table and the headline lines at the end of a run.

use jumplens::eval::Summary;
use jumplens::manifest::{Manifest, STAGES};
use std::fmt::Write;

/// Casts whose r² is shown, then those that run blocks.
const WITH_R2: [&str; 2] = ["id", "mat"];
const BLOCKS: [&str; 3] = ["mat_attn", "mat_ffn", "mat_ln1_ln2"];

/// Layer by layer: r² to the last layer, Precision@1 and surprisal of every cast; then what it comes to.
pub fn render(summary: &Summary, manifest: &Manifest) -> String {
    let mut text = String::new();
    // A model without a head has no predictions.
    let predicts = summary.to_last_layer.iter().any(|row| row.precision_1.is_some());
    let find = |mapping: &str, layer: usize| {
        summary.to_last_layer.iter().find(|row| row.mapping == mapping && row.layer == layer)
    };
    let number = |value: Option<f64>, width: usize, digits: usize| match value {
        Some(value) if value.abs() >= 1e3 => format!("{value:>width$.1e}"),
        Some(value) => format!("{value:>width$.digits$}"),
        None => format!("{:>width$}", ""),
    };
    let mut title = format!("{:5}", "");
    let mut head = format!("{:>5}", "layer");
    let (wide, narrow) = if predicts { (23, 15) } else { (8, 0) };
    for cast in WITH_R2 {
        let _ = write!(title, "  │{cast:^wide$}");
        let _ = write!(head, "  │{:>8}", "r²");
        if predicts {
            let _ = write!(head, "{:>7}{:>8}", "P@1", "surpr.");
        }
    }
    let blocks = if predicts { &BLOCKS[..] } else { &[] };
    for cast in blocks {
        let _ = write!(title, "  │{cast:^narrow$}");
        let _ = write!(head, "  │{:>7}{:>8}", "P@1", "surpr.");
    }
    let rule: String = head.chars().map(|c| if c == '│' { '┼' } else { '─' }).collect();
    let _ = writeln!(text, "{}\n{head}\n{rule}", title.trim_end());
    for layer in 0..summary.n_layers + usize::from(predicts) {
        let mut line = format!("{layer:>5}");
        for (cast, has_r2) in WITH_R2.iter().map(|cast| (cast, true)).chain(blocks.iter().map(|c| (c, false)))
        {
            let row = find(cast, layer);
            line += "  │";
            if has_r2 {
                line += &number(row.and_then(|r| r.r2), 8, 3);
            }
            if predicts {
                line += &number(row.and_then(|r| r.precision_1), 7, 3);
                line += &number(row.and_then(|r| r.surprisal), 8, 3);
            }
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let measures = if predicts { ", Precision@1, surprisal in nats" } else { "" };
    let _ =
        writeln!(text, "r² to layer {}{measures}; {} validation samples\n", summary.n_layers, summary.val);
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
        |stage: &str| manifest.stages.get(stage).map(|record| format!("{stage} {:.1}", record.seconds));
    let stages: Vec<String> = STAGES.iter().filter_map(|stage| seconds(stage)).collect();
    let total: f64 = manifest.stages.values().map(|record| record.seconds).sum();
    let _ = writeln!(text, "Seconds: {}; {total:.1} in all, {} threads", stages.join(", "), manifest.threads);
    text
}
