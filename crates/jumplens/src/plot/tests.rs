//! The figures' behaviour, read off their SVG text.

use super::scale::Scale;
use super::*;
use crate::eval::tables::write_csv;

fn r2_row(mapping: &str, from: usize, to: usize, r2: f64) -> R2Row {
    R2Row { mapping: mapping.to_owned(), from, to, r2, r2_train: r2 }
}

fn all_pairs(last: usize, r2: f64) -> Vec<R2Row> {
    let pairs = (0..last).flat_map(|from| (from + 1..=last).map(move |to| (from, to)));
    let of = |mapping: &'static str| pairs.clone().map(move |(from, to)| r2_row(mapping, from, to, r2));
    of("mat").chain(of("id")).collect()
}

fn layer_row(mapping: &str, layer: usize, precision: f64, surprisal: f64) -> LayerRow {
    LayerRow {
        mapping: mapping.to_owned(),
        layer,
        precision_1: precision,
        precision_5: precision,
        precision_10: precision,
        surprisal,
        kl: 0.0,
        loss: None,
        precision_1_lo: precision,
        precision_1_hi: precision,
        precision_5_lo: precision,
        precision_5_hi: precision,
        precision_10_lo: precision,
        precision_10_hi: precision,
        surprisal_lo: surprisal,
        surprisal_hi: surprisal,
        kl_lo: 0.0,
        kl_hi: 0.0,
        loss_lo: None,
        loss_hi: None,
    }
}

fn layer_rows(mappings: &[&str], last: usize, surprisal: impl Fn(usize) -> f64) -> Vec<LayerRow> {
    let row = |mapping: &&str, layer| layer_row(mapping, layer, layer as f64 / last as f64, surprisal(layer));
    mappings
        .iter()
        .flat_map(|mapping| (0..=last).map(|layer| row(mapping, layer)).collect::<Vec<_>>())
        .collect()
}

fn exit_row(mapping: &str, layers_processed: f64, precision: f64) -> ExitRow {
    ExitRow {
        mapping: mapping.to_owned(),
        lambda: 0.0,
        layers_processed,
        precision_1: precision,
        precision_5: precision,
        precision_10: precision,
        surprisal: 1.0,
    }
}

/// The values of an attribute on every element of one kind, in their order.
fn attributes<'s>(svg: &'s str, element: &str, name: &str) -> Vec<&'s str> {
    let (open, name) = (format!("<{element} "), format!(" {name}=\""));
    let elements = svg.lines().filter(|line| line.starts_with(&open));
    elements.filter_map(|line| line.split_once(&name)?.1.split_once('"')).map(|(value, _)| value).collect()
}

fn has_text(svg: &str, text: &str) -> bool {
    svg.lines().any(|line| line == text)
}

/// The fills of the heat maps' cells; with four layers a cell is 155 units wide, or one more.
fn cells_of_four_layers(svg: &str) -> Vec<&str> {
    let (widths, fills) = (attributes(svg, "rect", "width"), attributes(svg, "rect", "fill"));
    let cells = widths.into_iter().zip(fills).filter(|(width, _)| ["155", "156"].contains(width));
    cells.map(|(_, fill)| fill).collect()
}

#[test]
fn heat_maps_leave_the_lower_triangle_blank() {
    let mut rows = all_pairs(4, 0.5);
    rows.push(r2_row("mat", 2, 2, 1.0));
    rows.push(r2_row("mat", 3, 1, 0.9));
    assert_eq!(cells_of_four_layers(&r2(&rows).unwrap()).len(), 2 * (4 + 3 + 2 + 1));
}

#[test]
fn r2_is_clipped_to_the_ends_of_the_colour_scale() {
    let mut rows = all_pairs(4, 0.5);
    (rows[0].r2, rows[1].r2, rows[2].r2, rows[3].r2) = (-1000.0, 0.0, 1.0, f64::NAN);
    let svg = r2(&rows).unwrap();
    assert_eq!(cells_of_four_layers(&svg)[..5], ["#440154", "#440154", "#FDE725", "#6E6E6E", "#21918C"]);
    assert!(has_text(&svg, "≤ 0"));
}

#[test]
fn pairs_to_the_last_layer_only_are_curves() {
    let mut rows: Vec<_> = (0..4).map(|from| r2_row("mat", from, 4, 0.2 * from as f64)).collect();
    rows.extend((0..4).map(|from| r2_row("id", from, 4, -1000.0)));
    rows.push(r2_row("mean", 0, 4, -0.01));
    let svg = r2(&rows).unwrap();
    assert!(has_text(&svg, "r² to layer 4") && has_text(&svg, "≤ 0") && has_text(&svg, "mean"));
    assert!(cells_of_four_layers(&svg).is_empty());
    // The baseline's one row is drawn from the first layer to the last.
    let dots = svg.lines().filter(|line| line.starts_with("<polyline") && line.contains("#6E6E6E")).count();
    assert!(dots > 40, "{dots}");
}

#[test]
fn layers_saved_are_counted_from_the_cheapest_point_with_enough_precision() {
    let layers = layer_rows(&["mat", "id"], 12, |_| 2.0);
    let mut exits = vec![
        exit_row("mat", 12.0, 1.0),
        exit_row("mat", 8.25, 0.949),
        exit_row("mat", 9.5, 0.95),
        exit_row("mat", f64::NAN, 1.0),
        exit_row("mat", 11.0, 0.99),
        exit_row("id", 12.0, 0.94),
    ];
    let svg = early_exit(&exits, &layers).unwrap();
    assert!(has_text(&svg, "mat saves 2.5 layers"));
    assert!(!svg.contains("id saves"));
    exits.push(exit_row("id", 3.0, 0.96));
    assert!(has_text(&early_exit(&exits, &layers).unwrap(), "id saves 9.0 layers"));
}

#[test]
fn a_layer_0_that_dwarfs_the_rest_becomes_an_arrow() {
    let dwarfed =
        layer_rows(&["mat", "id"], 12, |layer| if layer == 0 { 8000.0 } else { 4.0 - layer as f64 / 6.0 });
    let svg = surprisal(&dwarfed).unwrap();
    assert_eq!(svg.lines().filter(|line| *line == "8000.0").count(), 2);
    assert!(has_text(&svg, "2.0"));
    let even = layer_rows(&["mat", "id"], 12, |layer| 4.0 - layer as f64 / 6.0);
    assert!(has_text(&surprisal(&even).unwrap(), "4.0"));
}

#[test]
fn legends_name_what_is_drawn() {
    let svg = submodules(&layer_rows(&["mat", "mat_ffn"], 6, |_| 1.0)).unwrap();
    assert!(has_text(&svg, "mat_ffn") && !has_text(&svg, "mat_attn") && !has_text(&svg, "id"));
}

#[test]
fn figures_do_not_depend_on_the_order_of_rows() {
    let mut pairs = all_pairs(6, 0.3);
    let mut layers = layer_rows(&["id", "mat", "mat_attn"], 6, |layer| 9.0 - layer as f64);
    let mut exits: Vec<_> = (1..7).map(|layer| exit_row("mat", layer as f64, layer as f64 / 6.0)).collect();
    let draw = |pairs: &[_], layers: &[_], exits: &[_]| {
        let by_layer = [precision(layers), surprisal(layers), submodules(layers)].map(Result::unwrap);
        (r2(pairs).unwrap(), by_layer, early_exit(exits, layers).unwrap())
    };
    let first = draw(&pairs, &layers, &exits);
    assert_eq!(first, draw(&pairs, &layers, &exits));
    pairs.reverse();
    layers.reverse();
    exits.reverse();
    assert_eq!(first, draw(&pairs, &layers, &exits));
}

#[test]
fn every_mark_stays_on_the_page_whatever_the_values() {
    let odd = [0.0, 1.0, 2.5, -1000.0, 1e300, f64::MIN_POSITIVE, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    for last in [0, 1, 2, 6, 7, 48] {
        for (index, &value) in odd.iter().enumerate() {
            for spread in [1, 4] {
                let at = |layer: usize| if layer.is_multiple_of(spread) { value } else { odd[layer % 3] };
                let mappings = ["id", "mat", "mat_attn", "mat_ffn", "mat_ln1_ln2"];
                let rows: Vec<_> = mappings
                    .iter()
                    .flat_map(|mapping| {
                        (0..=last).map(move |layer| layer_row(mapping, layer, at(layer), at(layer)))
                    })
                    .collect();
                let exits: Vec<_> =
                    (0..=last).map(|layer| exit_row("mat", at(layer), at(layer + 1))).collect();
                let mut pairs = all_pairs(last, value);
                pairs.push(r2_row("mean", 0, last, odd[(index + 1) % odd.len()]));
                for svg in [
                    r2(&pairs),
                    precision(&rows),
                    surprisal(&rows),
                    submodules(&rows),
                    early_exit(&exits, &rows),
                ] {
                    assert_on_page(&svg.unwrap());
                }
            }
        }
    }
}

fn assert_on_page(svg: &str) {
    let number = |text: &str| text.parse::<f64>().unwrap();
    let (width, height) =
        (number(attributes(svg, "svg", "width")[0]), number(attributes(svg, "svg", "height")[0]));
    for element in ["polyline", "polygon"] {
        for points in attributes(svg, element, "points") {
            for (x, y) in points.split_whitespace().filter_map(|point| point.split_once(',')) {
                let (x, y) = (number(x), number(y));
                assert!((0.0..=width).contains(&x) && (0.0..=height).contains(&y), "{element} at {x}, {y}");
            }
        }
    }
    for (element, x, y) in [("text", "x", "y"), ("circle", "cx", "cy"), ("rect", "x", "y")] {
        for x in attributes(svg, element, x) {
            assert!((0.0..=width).contains(&number(x)), "{element} at x {x}");
        }
        for y in attributes(svg, element, y) {
            assert!((0.0..=height).contains(&number(y)), "{element} at y {y}");
        }
    }
}

#[test]
fn layer_ticks_end_at_the_last_layer_where_a_step_allows_it() {
    for last in [6, 12, 24, 32, 36, 48] {
        let ticks = Scale::layers(last, 8).ticks;
        assert_eq!(ticks.last().unwrap().1, last.to_string());
        assert!((4..=9).contains(&ticks.len()), "{last} layers have {} ticks", ticks.len());
    }
    assert!(Scale::layers(47, 8).ticks.len() <= 9);
}

#[test]
fn value_ticks_are_round_and_inside() {
    for (lo, hi) in [(0.0, 1.0), (2.03, 3.49), (2.1699, 2.1701), (-4.0, 1e7), (5.0, 5.0), (0.0, 0.0)] {
        let scale = Scale::fitting([lo, f64::NAN, hi].into_iter());
        assert!((3..=10).contains(&scale.ticks.len()), "{lo} to {hi}: {:?}", scale.ticks);
        for (value, label) in &scale.ticks {
            assert!((scale.lo..=scale.hi).contains(value), "{lo} to {hi}: {label}");
            let written: f64 = label.parse().unwrap();
            assert!((written - value).abs() <= 1e-3 * (scale.hi - scale.lo), "{value} is written {label}");
        }
    }
}

#[test]
fn a_table_that_is_not_there_leaves_its_figures_out() {
    let folder = tempfile::tempdir().unwrap();
    let (results, plots) = (folder.path().join("results"), folder.path().join("plots"));
    std::fs::create_dir(&results).unwrap();
    std::fs::create_dir(&plots).unwrap();
    let names = |written: Vec<PathBuf>| -> Vec<_> {
        written.iter().map(|path| path.strip_prefix(&plots).unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert!(draw_all(&results, &plots).unwrap().is_empty());
    write_csv(&results.join("r2.csv"), &all_pairs(6, 0.5)).unwrap();
    assert_eq!(names(draw_all(&results, &plots).unwrap()), ["r2.svg"]);
    write_csv(&results.join("layers.csv"), &layer_rows(&["id", "mat"], 6, |_| 1.0)).unwrap();
    assert_eq!(names(draw_all(&results, &plots).unwrap()), ["r2.svg", "precision.svg", "surprisal.svg"]);
    write_csv(&results.join("layers.csv"), &layer_rows(&["id", "mat", "mat_attn"], 6, |_| 1.0)).unwrap();
    write_csv(&results.join("early_exit.csv"), &[exit_row("mat", 6.0, 1.0)]).unwrap();
    let all = ["r2.svg", "precision.svg", "surprisal.svg", "submodules.svg", "early_exit.svg"];
    assert_eq!(names(draw_all(&results, &plots).unwrap()), all);
    assert_eq!(std::fs::read_dir(&plots).unwrap().count(), all.len());
    std::fs::write(results.join("r2.csv"), "mapping,from,to,r2,r2_train\nmat,zero,1,0,0\n").unwrap();
    assert!(matches!(draw_all(&results, &plots), Err(Error::Format { .. })));
}
