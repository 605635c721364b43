//! The figures' behaviour, read off their SVG.

use super::output::Format;
use super::scale::Scale;
use super::*;
use crate::eval::tables::{ExitLayerRow, ExitRow, LayerRow, R2Row, RankRow, SpectrumRow};
use resvg::usvg::roxmltree::{Document, Node};

fn r2_row(mapping: &str, from: usize, to: usize, r2: f64) -> R2Row {
    R2Row { mapping: mapping.into(), from, to, r2, r2_train: r2 }
}

fn layer_row(mapping: &str, layer: usize, value: impl Fn(usize) -> f64) -> LayerRow {
    let share = |place| value(place).clamp(0.0, 1.0);
    LayerRow {
        mapping: mapping.into(),
        layer,
        precision_1: share(0),
        precision_5: share(1),
        precision_10: share(2),
        surprisal: value(3),
        kl: value(4),
        loss: None,
        precision_1_lo: share(0) - 0.02,
        precision_1_hi: share(0) + 0.01,
        precision_5_lo: share(1) - 0.02,
        precision_5_hi: share(1),
        precision_10_lo: share(2),
        precision_10_hi: share(2),
        surprisal_lo: value(3) - 0.1,
        surprisal_hi: value(3) + 0.2,
        kl_lo: 0.0,
        kl_hi: 0.0,
        loss_lo: None,
        loss_hi: None,
    }
}

fn exit_row(mapping: &str, lambda: f64, layers_processed: f64, precision: f64) -> ExitRow {
    ExitRow {
        mapping: mapping.into(),
        lambda,
        layers_processed,
        precision_1: precision,
        precision_5: precision,
        precision_10: precision,
        surprisal: 1.0,
    }
}

const CASTS: [&str; 6] = ["id", "mat", "mat_attn", "mat_ffn", "mat_ln1_ln2", "mat_ridge"];

/// Tables of a model with `last` layers, every value from `value`, which gets a number that is another for each.
fn tables(last: usize, value: impl Fn(usize) -> f64) -> Tables {
    let mut count = 0;
    let mut next = || {
        count += 1;
        value(count)
    };
    let mut tables = Tables::default();
    for mapping in ["mat", "id", "mean"] {
        for from in 0..last {
            for to in from + 1..=last {
                tables.r2.push(r2_row(mapping, from, to, next()));
            }
        }
    }
    for mapping in CASTS {
        for layer in 0..=last {
            let start = (next(), next());
            tables.layers.push(layer_row(mapping, layer, |place| {
                if place < 3 { start.0 + 0.1 * place as f64 } else { start.1 }
            }));
            let (lower_quartile, median) = (1.0, 1.0 + next().abs() * 100.0);
            let upper_quartile = 3.0 * median;
            tables.ranks.push(RankRow {
                mapping: mapping.into(),
                layer,
                median,
                lower_quartile,
                upper_quartile,
                mean_reciprocal: 0.5,
            });
        }
    }
    for mapping in ["mat", "id"] {
        for (step, lambda) in [-1.112, 0.0, 0.2, 0.5, 1.0].into_iter().enumerate() {
            let layers = last as f64 * step as f64 / 4.0;
            tables.early_exit.push(exit_row(mapping, lambda, layers, next().clamp(0.0, 1.0)));
            for layer in 1..=last {
                let share = (next().clamp(0.0, 1.0)) / last as f64;
                let precision_1 = (share > 0.0).then(|| next().clamp(0.0, 1.0));
                tables.exits.push(ExitLayerRow {
                    mapping: mapping.into(),
                    lambda,
                    layer,
                    share,
                    precision_1,
                });
            }
        }
    }
    for from in 0..last {
        for index in 1..=300 {
            let singular_value = next().abs() / index as f64;
            tables.spectra.push(SpectrumRow { from, to: last, index, singular_value });
        }
    }
    tables
}

/// Numbers between 0 and 1 that look random.
fn mixed(count: usize) -> f64 {
    (count as f64 * 0.754_877_666).fract()
}

fn figure(tables: &Tables, name: &str) -> String {
    figures(tables, None, Size::default())
        .into_iter()
        .find(|figure| figure.name == name)
        .expect("the figure is drawn")
        .svg
}

fn names(tables: &Tables) -> Vec<&'static str> {
    figures(tables, None, Size::default()).into_iter().map(|figure| figure.name).collect()
}

/// The numbers of an attribute.
fn numbers(node: Node, name: &str) -> Vec<f64> {
    let text = node.attribute(name).unwrap_or_else(|| panic!("no attribute {name}"));
    text.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

fn points(node: Node) -> Vec<(f64, f64)> {
    let text = node.attribute("points").unwrap();
    let pairs = text.split_whitespace().map(|pair| pair.split_once(',').unwrap());
    pairs.map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).collect()
}

fn groups<'d>(node: Node<'d, 'd>, attribute: &'static str) -> impl Iterator<Item = Node<'d, 'd>> {
    node.descendants().filter(move |node| node.has_attribute(attribute))
}

fn texts(svg: &str) -> Vec<String> {
    let document = Document::parse(svg).unwrap();
    let texts = document.descendants().filter(|node| node.has_tag_name("text"));
    texts.map(|node| node.text().unwrap_or_default().to_owned()).collect()
}

fn has_text(svg: &str, text: &str) -> bool {
    texts(svg).iter().any(|there| there == text)
}

fn same(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()))
}

/// What a figure's curve has to show, from the table's rows: x and y by rising x.
fn expected(tables: &Tables, panel: &str, curve: &str) -> (Vec<f64>, Vec<f64>) {
    let mut pairs: Vec<(f64, f64)> = match (panel, curve.split_once(' ')) {
        ("precision_1", Some((mapping, "early"))) => {
            let rows = tables.early_exit.iter().filter(|row| row.mapping.name() == mapping);
            rows.map(|row| (row.layers_processed, row.precision_1)).collect()
        }
        ("singular_value", Some(("layer", layer))) => {
            let layer: usize = layer.parse().unwrap();
            let rows = tables.spectra.iter().filter(|row| row.from == layer);
            rows.map(|row| (row.index as f64, row.singular_value)).collect()
        }
        ("effective_rank", _) => {
            let last = tables.last_layer();
            let of = |from| {
                let values = || {
                    tables.spectra.iter().filter(move |row| row.from == from).map(|row| row.singular_value)
                };
                let total: f64 = values().sum();
                let entropy: f64 =
                    values().map(|v| v / total).map(|p| if p == 0.0 { 0.0 } else { -p * p.ln() }).sum();
                (from as f64, entropy.exp())
            };
            (0..last).map(of).collect()
        }
        ("rank", _) => {
            let rows = tables.ranks.iter().filter(|row| row.mapping.name() == curve);
            rows.map(|row| (row.layer as f64, row.median)).collect()
        }
        ("r2", _) => {
            let last = tables.last_layer();
            let rows = tables.r2.iter().filter(|row| row.mapping.name() == curve && row.to == last);
            rows.map(|row| (row.from as f64, row.r2)).collect()
        }
        (panel, mapping) => {
            let mapping = mapping.map_or(curve, |(mapping, _)| mapping);
            let value = |row: &LayerRow| match panel {
                "precision_1" => row.precision_1,
                "precision_5" => row.precision_5,
                "precision_10" => row.precision_10,
                "surprisal" => row.surprisal,
                other => panic!("no panel {other}"),
            };
            let rows = tables.layers.iter().filter(|row| row.mapping.name() == mapping);
            rows.map(|row| (row.layer as f64, value(row))).collect()
        }
    };
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    pairs.into_iter().unzip()
}

/// Holds every curve of every panel of `svg` against the tables: the numbers it carries, and where it is drawn. Returns how
/// many values that were.
fn check_curves(svg: &str, tables: &Tables) -> usize {
    let document = Document::parse(svg).unwrap();
    let mut checked = 0;
    for panel in groups(document.root(), "data-panel") {
        let id = panel.attribute("data-panel").unwrap();
        let (frame, x_scale, y_scale) =
            (numbers(panel, "data-frame"), numbers(panel, "data-x-scale"), numbers(panel, "data-y-scale"));
        let log = panel.attribute("data-log").unwrap_or_default();
        let place = |value: f64, scale: &[f64], from: f64, to: f64, log: bool| {
            let at = |value: f64| if log { value.ln() } else { value };
            from + (at(value) - at(scale[0])) / (at(scale[1]) - at(scale[0])) * (to - from)
        };
        for curve in groups(panel, "data-curve") {
            let name = curve.attribute("data-curve").unwrap();
            let (xs, ys) = (numbers(curve, "data-x"), numbers(curve, "data-y"));
            let (mut want_x, mut want_y) = expected(tables, id, name);
            if id == "singular_value" {
                // Some of them are drawn.
                assert_eq!((xs[0], *xs.last().unwrap()), (1.0, *want_x.last().unwrap()));
                want_y = xs.iter().map(|x| want_y[*x as usize - 1]).collect();
                want_x = xs.clone();
            }
            if id == "effective_rank" {
                assert!(
                    ys.iter()
                        .zip(&want_y)
                        .all(|(a, b)| (a - b).abs() < 1e-9 * b || (a.is_nan() && b.is_nan()))
                );
                want_y = ys.clone();
            }
            assert!(same(&xs, &want_x) && same(&ys, &want_y), "{id} {name}: {ys:?}, not {want_y:?}");
            checked += ys.len();
            // What is drawn: the points that lie within the scales, joined where they are neighbours.
            let inside = |(x, y): (f64, f64)| {
                let y = if id == "r2" { y.clamp(0.0, 1.0) } else { y };
                let holds = |scale: &[f64], value: f64| value >= scale[0] && value <= scale[1];
                (holds(&x_scale, x) && holds(&y_scale, y)).then(|| {
                    let x = place(x, &x_scale, frame[0], frame[2], log.contains('x'));
                    (x, place(y, &y_scale, frame[3], frame[1], log.contains('y')))
                })
            };
            let places: Vec<_> = xs.iter().copied().zip(ys).map(inside).collect();
            let lines: Vec<Vec<(f64, f64)>> = places
                .split(Option::is_none)
                .map(|run| run.iter().copied().flatten().collect::<Vec<_>>())
                .filter(|run| run.len() > 1)
                .collect();
            let width = |node: &Node| node.attribute("stroke-width") == Some("3.6");
            let drawn = curve.children().filter(|node| node.has_tag_name("polyline")).filter(width);
            let drawn: Vec<_> = drawn.map(points).collect();
            assert_eq!(drawn.len(), lines.len(), "{id} {name}");
            for (drawn, wanted) in drawn.iter().flatten().zip(lines.iter().flatten()) {
                let off = (drawn.0 - wanted.0).abs().max((drawn.1 - wanted.1).abs());
                assert!(off < 0.02, "{id} {name}: {drawn:?}, not {wanted:?}");
            }
        }
    }
    checked
}

#[test]
fn marks_are_where_the_tables_say() {
    let some_missing = |count: usize| if count.is_multiple_of(11) { f64::NAN } else { mixed(count) };
    for last in [1, 2, 12, 48] {
        for tables in
            [tables(last, mixed), tables(last, some_missing), tables(last, |count| 2.0 - 3.0 * mixed(count))]
        {
            for Figure { name, svg } in figures(&tables, None, Size::default()) {
                let checked = check_curves(&svg, &tables);
                let of_layers = (last + 1)
                    * match name {
                        "precision" => 3 * 2,
                        "surprisal" | "rank" => 2,
                        "submodules" => 4 * 4,
                        "variants" => 4 * 2,
                        _ => 0,
                    };
                match name {
                    "early_exit" => assert_eq!(checked, 2 * (last + 1) + 2 * 5),
                    "spectra" => assert!(checked > 50 * last.min(5)),
                    _ => assert_eq!(checked, of_layers, "{name}"),
                }
            }
        }
    }
}

#[test]
fn bands_lie_between_the_bounds() {
    let tables = tables(12, mixed);
    let svg = figure(&tables, "precision");
    let document = Document::parse(&svg).unwrap();
    let mut bands = 0;
    for panel in groups(document.root(), "data-panel") {
        let (frame, scale) = (numbers(panel, "data-frame"), numbers(panel, "data-y-scale"));
        let at = |value: f64| frame[3] + (value - scale[0]) / (scale[1] - scale[0]) * (frame[1] - frame[3]);
        for band in groups(panel, "data-band") {
            let (lo, hi) = (numbers(band, "data-lo"), numbers(band, "data-hi"));
            let rows =
                tables.layers.iter().filter(|row| Some(&*row.mapping.name()) == band.attribute("data-band"));
            let bounds: Vec<_> = rows
                .map(|row| match panel.attribute("data-panel").unwrap() {
                    "precision_1" => (row.precision_1_lo, row.precision_1_hi),
                    "precision_5" => (row.precision_5_lo, row.precision_5_hi),
                    _ => (row.precision_10_lo, row.precision_10_hi),
                })
                .collect();
            assert_eq!(lo.iter().copied().zip(hi).collect::<Vec<_>>(), bounds);
            let inside = bounds.iter().filter(|(lo, hi)| *lo >= scale[0] && *hi <= scale[1]);
            let drawn = band.children().filter(|node| node.has_tag_name("polygon")).flat_map(points);
            let mut drawn: Vec<f64> = drawn.map(|(_, y)| y).collect();
            let mut wanted: Vec<f64> = inside.flat_map(|(lo, hi)| [at(*lo), at(*hi)]).collect();
            drawn.sort_by(f64::total_cmp);
            wanted.sort_by(f64::total_cmp);
            assert_eq!(drawn.len(), wanted.len());
            assert!(drawn.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 0.02));
            bands += 1;
        }
    }
    assert_eq!(bands, 6);
}

#[test]
fn heat_maps_show_every_pair_of_the_table_and_leave_the_lower_triangle_blank() {
    // matplotlib's viridis at eighths
    const VIRIDIS: [&str; 9] =
        ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
    for last in [1, 4, 12, 48] {
        let mut tables = tables(last, |count| (count % 13) as f64 / 8.0 - 0.25);
        tables.r2[0].r2 = -1e6;
        if last > 1 {
            tables.r2[1].r2 = f64::NAN;
        }
        tables.r2.push(r2_row("mat", last, last, 1.0));
        tables.r2.push(r2_row("mat", last, 0, 0.9));
        let svg = figure(&tables, "r2");
        assert!(has_text(&svg, "≤ 0"));
        let document = Document::parse(&svg).unwrap();
        let mut cells = 0;
        for map in groups(document.root(), "data-heat-map") {
            let mapping = map.attribute("data-heat-map").unwrap();
            let frame = numbers(map, "data-frame");
            let side = (frame[2] - frame[0]) / last as f64;
            for row in groups(map, "data-from") {
                let from = numbers(row, "data-from")[0];
                let rects = row.children().filter(|node| node.has_tag_name("rect"));
                let values = numbers(row, "data-to").into_iter().zip(numbers(row, "data-r2"));
                for ((to, r2), rect) in values.zip(rects) {
                    let find = |row: &&R2Row| {
                        row.mapping.name() == mapping && (row.from as f64, row.to as f64) == (from, to)
                    };
                    let wanted = tables.r2.iter().find(find).expect("a row").r2;
                    assert!(wanted == r2 || wanted.is_nan() && r2.is_nan());
                    let (x, y) = (numbers(rect, "x")[0], numbers(rect, "y")[0]);
                    assert!(
                        (x - frame[0] - side * (to - 1.0)).abs() < 0.01
                            && (y - frame[1] - side * from).abs() < 0.01
                    );
                    let fill = rect.attribute("fill").unwrap();
                    let color =
                        if r2.is_nan() { "#6e6e6e" } else { VIRIDIS[(8.0 * r2.clamp(0.0, 1.0)) as usize] };
                    assert_eq!(fill, color, "{mapping} {from} {to}: {r2}");
                    cells += 1;
                }
            }
        }
        assert_eq!(cells, last * (last + 1));
    }
}

#[test]
fn pairs_to_the_last_layer_only_are_curves() {
    let mut tables = Tables::default();
    tables.r2.extend((0..4).map(|from| r2_row("mat", from, 4, 0.2 * from as f64)));
    tables.r2.extend((0..4).map(|from| r2_row("id", from, 4, -1e6)));
    tables.r2.extend((0..4).map(|from| r2_row("mean", from, 4, -0.01)));
    let svg = figure(&tables, "r2");
    assert!(has_text(&svg, "r² to layer 4") && has_text(&svg, "≤ 0") && has_text(&svg, "mean"));
    assert_eq!(check_curves(&svg, &tables), 12);
}

#[test]
fn ribbons_are_as_high_as_the_share_that_exits() {
    let tables = tables(12, |count| if count.is_multiple_of(5) { 0.0 } else { mixed(count) });
    let svg = figure(&tables, "agreement");
    let document = Document::parse(&svg).unwrap();
    let mut ribbons = 0;
    for ribbon in groups(document.root(), "data-ribbon") {
        let (frame, lambda) = (numbers(ribbon, "data-frame"), numbers(ribbon, "data-lambda")[0]);
        let of = |row: &&ExitLayerRow| {
            Some(&*row.mapping.name()) == ribbon.attribute("data-ribbon")
                && row.lambda == lambda
                && row.share > 0.0
        };
        let rows: Vec<_> = tables.exits.iter().filter(of).collect();
        assert!(same(&numbers(ribbon, "data-share"), &rows.iter().map(|row| row.share).collect::<Vec<_>>()));
        let precision: Vec<_> = rows.iter().map(|row| row.precision_1.unwrap()).collect();
        assert!(same(&numbers(ribbon, "data-precision-1"), &precision));
        let rects: Vec<_> = ribbon.children().filter(|node| node.has_tag_name("rect")).collect();
        assert_eq!(rects.len(), rows.len());
        for (rect, row) in rects.iter().zip(rows) {
            let number = |name| numbers(*rect, name)[0];
            let side = (frame[1] - frame[0]) / 12.0;
            assert!((number("x") - frame[0] - side * (row.layer as f64 - 1.0)).abs() < 0.01);
            assert!((number("height") - frame[3] * row.share.sqrt()).abs() < 0.02);
            assert!((number("y") + number("height") / 2.0 - frame[2]).abs() < 0.02);
        }
        ribbons += 1;
    }
    // Of the chosen λ the tables have 0, 0.2 and 1.
    assert_eq!(ribbons, 6);
}

#[test]
fn layers_saved_are_counted_from_the_cheapest_point_with_enough_precision() {
    let mut tables = tables(12, mixed);
    tables.early_exit = vec![
        exit_row("mat", 1.0, 12.0, 1.0),
        exit_row("mat", 0.2, 8.25, 0.949),
        exit_row("mat", 0.4, 9.5, 0.95),
        exit_row("mat", 0.0, f64::NAN, 1.0),
        exit_row("mat", 0.6, 11.0, 0.99),
        exit_row("id", 1.0, 12.0, 0.94),
    ];
    let svg = figure(&tables, "early_exit");
    assert!(has_text(&svg, "mat saves 2.5 layers"));
    assert!(!svg.contains("id saves"));
    tables.early_exit.push(exit_row("id", 0.5, 3.0, 0.96));
    let svg = figure(&tables, "early_exit");
    assert!(has_text(&svg, "id saves 9.0 layers"));
    let document = Document::parse(&svg).unwrap();
    let saved: Vec<_> = groups(document.root(), "data-saved")
        .map(|bar| (bar.attribute("data-saved").unwrap(), numbers(bar, "data-layers")[0]))
        .collect();
    assert_eq!(saved, [("id", 9.0), ("mat", 2.5)]);
}

#[test]
fn a_layer_0_that_dwarfs_the_rest_becomes_an_arrow() {
    let with = |first: f64| {
        let surprisal = |layer: usize| if layer == 0 { first } else { 4.0 - layer as f64 / 6.0 };
        let rows = |mapping: &'static str| {
            (0..=12).map(move |layer| layer_row(mapping, layer, |_| surprisal(layer)))
        };
        Tables { layers: rows("mat").chain(rows("id")).collect(), ..Tables::default() }
    };
    let dwarfed = figure(&with(8000.0), "surprisal");
    assert_eq!(texts(&dwarfed).iter().filter(|text| *text == "8000.0").count(), 2);
    assert!(has_text(&dwarfed, "2.0"));
    assert!(has_text(&figure(&with(4.0), "surprisal"), "4.0"));
}

#[test]
fn a_cast_that_is_missing_is_left_out_and_the_rest_is_drawn() {
    let whole = tables(6, mixed);
    let without = |cast: &str| Tables {
        r2: whole.r2.iter().filter(|row| row.mapping.name() != cast).cloned().collect(),
        layers: whole.layers.iter().filter(|row| row.mapping.name() != cast).cloned().collect(),
        early_exit: whole.early_exit.iter().filter(|row| row.mapping.name() != cast).cloned().collect(),
        exits: whole.exits.iter().filter(|row| row.mapping.name() != cast).cloned().collect(),
        ranks: whole.ranks.iter().filter(|row| row.mapping.name() != cast).cloned().collect(),
        spectra: Vec::new(),
    };
    let without_mat = without("mat");
    assert_eq!(
        names(&without_mat),
        ["r2", "precision", "surprisal", "submodules", "variants", "early_exit", "agreement", "rank"]
    );
    for Figure { svg, .. } in figures(&without_mat, None, Size::default()) {
        check_curves(&svg, &without_mat);
        assert!(!has_text(&svg, "mat") && !has_text(&svg, "mat, early"));
    }
    let without_attention = figure(&without("mat_attn"), "submodules");
    assert!(has_text(&without_attention, "mat_ffn") && !has_text(&without_attention, "mat_attn"));
}

#[test]
fn a_table_that_is_not_there_leaves_its_figures_out() {
    let whole = tables(6, mixed);
    assert!(names(&Tables::default()).is_empty());
    assert_eq!(names(&Tables { r2: whole.r2.clone(), ..Tables::default() }), ["r2"]);
    let evaluated = Tables { r2: Vec::new(), spectra: Vec::new(), ..whole.clone() };
    assert_eq!(names(&evaluated)[..2], ["precision", "surprisal"]);
    assert!(names(&Tables { layers: Vec::new(), ..whole.clone() }).iter().all(|name| *name != "early_exit"));
    let baseline = whole.r2.iter().filter(|row| row.mapping.name() == "mean").cloned().collect();
    assert!(names(&Tables { r2: baseline, ..Tables::default() }).is_empty());
    let all = [
        "r2",
        "precision",
        "surprisal",
        "submodules",
        "variants",
        "early_exit",
        "agreement",
        "rank",
        "spectra",
    ];
    assert_eq!(names(&whole), all);
}

#[test]
fn figures_do_not_depend_on_the_order_of_rows() {
    let mut tables = tables(6, mixed);
    let first = figures(&tables, None, Size::default());
    tables.r2.reverse();
    tables.layers.reverse();
    tables.early_exit.reverse();
    tables.exits.reverse();
    tables.ranks.reverse();
    tables.spectra.reverse();
    assert_eq!(first, figures(&tables, None, Size::default()));
}

#[test]
fn every_mark_stays_on_the_page_whatever_the_values() {
    let odd = [0.0, 1.0, 2.5, -1e6, 1e300, f64::MIN_POSITIVE, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    for last in [1, 2, 7, 48] {
        for (index, &value) in odd.iter().enumerate() {
            for spread in [1, 4] {
                let at = |count: usize| {
                    if count.is_multiple_of(spread) { value } else { odd[(count + index) % 9] }
                };
                let odd = tables(last, at);
                let title = "a/very/long/folder/".repeat(9) + "名前 <&\"";
                let runs = [Overlaid { name: "A", tables: &odd }, Overlaid { name: &title, tables: &odd }];
                for figure in figures(&odd, Some(&title), Size::default()).into_iter().chain(overlay(
                    &runs,
                    None,
                    Size::default(),
                )) {
                    assert_on_page(&figure);
                }
            }
        }
    }
}

fn assert_on_page(Figure { name, svg }: &Figure) {
    let document = Document::parse(svg).unwrap();
    let page = numbers(document.root_element(), "viewBox");
    let on = |x: f64, y: f64| (0.0..=page[2]).contains(&x) && (0.0..=page[3]).contains(&y);
    for node in document.descendants().filter(Node::is_element) {
        if node.has_attribute("points") {
            let off = points(node).into_iter().find(|(x, y)| !on(*x, *y));
            assert!(off.is_none(), "{name}: {off:?}");
        }
        for (x, y) in [("x", "y"), ("cx", "cy")] {
            if node.has_attribute(x) {
                let (x, y) = (numbers(node, x)[0], numbers(node, y)[0]);
                assert!(on(x, y), "{name}: {:?} at {x}, {y}", node.tag_name());
            }
        }
        if node.has_tag_name("text") {
            let text = node.text().unwrap_or_default();
            let width = font::text_width(text, numbers(node, "font-size")[0]);
            assert!(width <= page[2], "{name}: `{text}` is wider than the page");
        }
    }
}

#[test]
fn texts_are_in_the_font_and_large_enough_to_read() {
    for Figure { name, svg } in figures(&tables(12, mixed), Some("tiny-gpt2"), Size::default()) {
        let document = Document::parse(&svg).unwrap();
        let millimetres: f64 =
            document.root_element().attribute("width").unwrap().trim_end_matches("mm").parse().unwrap();
        let unit = millimetres / numbers(document.root_element(), "viewBox")[2];
        for node in document.descendants().filter(|node| node.has_tag_name("text")) {
            assert!(!node.text().unwrap().contains('?'), "{name}: {:?}", node.text());
            let points = numbers(node, "font-size")[0] * unit / 25.4 * 72.0;
            assert!(points >= 7.0, "{name}: {:?} in {points} pt", node.text());
        }
    }
}

#[test]
fn figures_of_any_size_have_it_and_all_of_their_marks() {
    let tables = tables(12, mixed);
    let plain = figures(&tables, None, Size::default());
    for (width, font) in
        [(80.0, 8.0), (80.0, 10.0), (165.0, 8.0), (165.0, 10.0), (60.0, 6.0), (140.0, 9.0), (300.0, 8.0)]
    {
        let size = Size { width, font };
        size.check().unwrap();
        let runs = [Overlaid { name: "a", tables: &tables }, Overlaid { name: "b", tables: &tables }];
        let drawn = figures(&tables, Some("a model"), size);
        assert_eq!(drawn.len(), plain.len());
        for (figure, plain) in drawn.iter().zip(&plain) {
            let count = |figure: &Figure| {
                let document = Document::parse(&figure.svg).unwrap();
                groups(document.root(), "data-curve").count() + groups(document.root(), "data-ribbon").count()
            };
            assert_eq!(count(figure), count(plain), "{}", figure.name);
        }
        for figure in drawn.into_iter().chain(overlay(&runs, None, size)) {
            assert_on_page(&figure);
            let document = Document::parse(&figure.svg).unwrap();
            let root = document.root_element();
            let wide: f64 = root.attribute("width").unwrap().trim_end_matches("mm").parse().unwrap();
            assert_eq!(wide, width, "{}", figure.name);
            let unit = wide / numbers(root, "viewBox")[2];
            let sizes = document.descendants().filter(|node| node.has_tag_name("text"));
            let sizes: Vec<f64> =
                sizes.map(|node| numbers(node, "font-size")[0] * unit / 25.4 * 72.0).collect();
            let largest = sizes.iter().copied().fold(0.0, f64::max);
            assert!((largest - font).abs() < 0.05, "{}: {largest} pt of {font}", figure.name);
            for panel in groups(document.root(), "data-panel") {
                let frame = numbers(panel, "data-frame");
                assert!(frame[2] - frame[0] > 120.0, "{}: {frame:?} at {size:?}", figure.name);
            }
        }
    }
    for (width, font) in [(30.0, 8.0), (80.0, 11.0), (500.0, 8.0), (-80.0, 8.0), (80.0, 0.0), (f64::NAN, 8.0)]
    {
        assert!(Size { width, font }.check().is_err(), "{width} mm, {font} pt");
    }
}

#[test]
fn figures_are_chosen_by_name() {
    let tables = tables(3, mixed);
    let style = |only: &[&str]| Style {
        only: only.iter().map(|name| (*name).to_owned()).collect(),
        ..Style::default()
    };
    let chosen = |only: &[&str]| style(only).chosen(figures(&tables, None, Size::default()));
    let named = |figures: Vec<Figure>| figures.iter().map(|figure| figure.name).collect::<Vec<_>>();
    assert_eq!(named(chosen(&["rank", "r2"]).unwrap()), ["r2", "rank"]);
    assert_eq!(named(chosen(&[]).unwrap()), names(&tables));
    let message = chosen(&["nothing"]).unwrap_err().to_string();
    assert!(message.contains("`nothing`") && message.contains("`r2`, `precision`"), "{message}");
}

#[test]
fn titles_are_on_top_when_asked_for() {
    let tables = tables(12, mixed);
    let title = "Precision@k by layer, tiny-gpt2";
    let plain = figures(&tables, None, Size::default());
    assert!(plain.iter().all(|figure| !figure.svg.contains(title)));
    let titled = figures(&tables, Some("tiny-gpt2"), Size::default());
    assert!(has_text(&titled[1].svg, title));
    assert!(has_text(&figures(&tables, Some(""), Size::default())[1].svg, "Precision@k by layer"));
}

#[test]
fn pdf_is_of_vectors_with_its_font_embedded() {
    for Figure { name, svg } in figures(&tables(12, mixed), None, Size::default()) {
        let pdf = Format::Pdf.render(&svg, 300).unwrap();
        let text = String::from_utf8_lossy(&pdf);
        assert!(text.starts_with("%PDF-") && text.contains("JumplensSans"), "{name}");
        assert_eq!(pdf, Format::Pdf.render(&svg, 300).unwrap(), "{name} in other bytes");
        assert!(text.contains("/FontFile") && !text.contains("/Subtype /Image"), "{name}");
    }
}

#[test]
fn png_has_the_resolution_asked_for_and_its_text() {
    let mut canvas = Canvas::new(800.0, 400.0);
    canvas.text("ℓ′ ² ≤ 0", (400.0, 200.0), canvas::Align::Centre, 60.0, canvas::BLACK);
    let svg = canvas.finish(None, 0.1);
    for dpi in [30, 254, 600] {
        let png = Format::Png.render(&svg, dpi).unwrap();
        let mut reader = png::Decoder::new(png.as_slice()).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let width = (80.0 / 25.4 * f64::from(dpi)).round() as u32;
        assert!(info.width.abs_diff(width) <= 1 && info.height.abs_diff(width / 2) <= 1, "{dpi}: {info:?}");
        let per_metre = reader.info().pixel_dims.unwrap().xppu;
        assert!((f64::from(per_metre) * 0.0254 - f64::from(dpi)).abs() < 0.02);
        let dark = pixels.chunks(3).filter(|pixel| pixel[0] < 128).count() as f64 / (pixels.len() / 3) as f64;
        assert!((0.003..0.05).contains(&dark), "{dpi}: {dark} of the page is dark");
    }
}

#[test]
fn png_is_white_to_its_edges() {
    for height in [400.0, 403.0, 529.0] {
        let png = Format::Png.render(&Canvas::new(800.0, height).finish(None, 0.1), 300).unwrap();
        let mut reader = png::Decoder::new(png.as_slice()).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size()];
        reader.next_frame(&mut pixels).unwrap();
        assert!(pixels.iter().all(|value| *value == 255), "{height}");
    }
}

#[test]
fn forty_eight_layers_are_drawn_in_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let started = std::time::Instant::now();
    let figures = figures(&tables(48, mixed), None, Size::default());
    let files = write_figures(folder.path(), &figures, &Style::default()).unwrap();
    assert_eq!(files.len(), 27);
    let seconds = started.elapsed().as_secs_f64();
    assert!(seconds < 20.0, "{seconds} s");
}

#[test]
fn runs_of_one_depth_lie_over_one_another_by_layer_and_others_by_share() {
    let (short, long) = (tables(6, mixed), tables(12, |count| mixed(count + 5)));
    let name = |name| move |figure: &Figure| figure.name == name;
    let of = |runs: &[Overlaid]| {
        overlay(runs, None, Size::default()).into_iter().find(name("precision")).unwrap().svg
    };
    let (a, b) = (Overlaid { name: "a", tables: &short }, Overlaid { name: "b", tables: &long });
    for (svg, runs, by_share) in [(of(&[a, b]), [a, b], true), (of(&[a, a]), [a, a], false)] {
        assert!(has_text(&svg, if by_share { "depth ℓ / L" } else { "layer ℓ" }));
        let document = Document::parse(&svg).unwrap();
        let panel = groups(document.root(), "data-panel").next().unwrap();
        let curves: Vec<_> = groups(panel, "data-curve").collect();
        assert_eq!(curves.len(), 4);
        for curve in curves {
            let id = curve.attribute("data-curve").unwrap();
            let (run, mapping) = id.split_once(' ').unwrap();
            let tables = runs.iter().find(|overlaid| overlaid.name == run).unwrap().tables;
            let (x, y) = expected(tables, "precision_1", mapping);
            let last = if by_share { tables.last_layer() as f64 } else { 1.0 };
            assert!(same(&numbers(curve, "data-x"), &x.iter().map(|x| x / last).collect::<Vec<_>>()));
            assert!(same(&numbers(curve, "data-y"), &y));
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
            let written: f64 = label.replace('−', "-").parse().unwrap();
            assert!((written - value).abs() <= 1e-3 * (scale.hi - scale.lo), "{value} is written {label}");
        }
    }
    for (lo, hi) in [(1.0, 50_000.0), (0.02, 130.0), (1e-9, 3.0), (1.0, 1.0), (3.0, 4.0)] {
        let scale = Scale::powers([lo, hi, 0.0, -1.0, f64::NAN].into_iter(), 6);
        assert!((2..=10).contains(&scale.ticks.len()), "{lo} to {hi}: {:?}", scale.ticks);
        for (value, label) in &scale.ticks {
            let written: f64 = label.replace('−', "-").parse().unwrap();
            assert!(
                scale.holds(*value) && (written / value - 1.0).abs() < 1e-9,
                "{value} is written {label}"
            );
        }
        assert!(scale.holds(hi) && (scale.holds(lo) || lo < hi * 1e-6));
    }
}

#[test]
fn shorter_models_are_drawn_from_the_whole_one_on() {
    let model = |way: &str, out: usize, loss: f64| Shorter {
        way: way.to_owned(),
        out,
        loss: [loss, loss - 0.01, loss + 0.02],
        agreement: [1.0 - loss, 0.9 - loss, 1.0],
    };
    assert_eq!(shorter(&[model("a", 3, 0.2), model("b", 3, 0.3)]), None);
    let models = [model("a", 3, 0.2), model("b", 3, 0.3), model("a", 1, 0.1), model("b", 1, 0.15)];
    let svg = shorter(&models).unwrap().svg;
    assert!(has_text(&svg, "blocks taken out") && has_text(&svg, "loss added (nats)"));
    let document = Document::parse(&svg).unwrap();
    let panels: Vec<_> = groups(document.root(), "data-panel").collect();
    assert_eq!(panels.len(), 2);
    for (panel, y) in panels.iter().zip([[0.0, 0.1, 0.2], [1.0, 0.9, 0.8]]) {
        let curve = groups(*panel, "data-curve").find(|it| it.attribute("data-curve") == Some("a")).unwrap();
        assert!(same(&numbers(curve, "data-x"), &[0.0, 1.0, 3.0]) && same(&numbers(curve, "data-y"), &y));
    }
    let band = groups(panels[0], "data-band").next().unwrap();
    assert!(same(&numbers(band, "data-hi"), &[0.0, 0.1 + 0.02, 0.2 + 0.02]));
}
