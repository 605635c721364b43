//! The lens shows what `evaluate` measures: the same tokens, surprisal, confidence and exits, from one pass over a text.

mod common;

use jumplens::eval::tables::{ExitRow, read_csv};
use jumplens::hub::ModelFiles;
use jumplens::lens::{CellTable, Input, Reading, Target, Token, View, available};
use jumplens::models::Kind;
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::run::{Existing, Run, SampleSource, Settings};
use jumplens::session::{MapsFrom, Session, Text};
use jumplens::shortcut::{Fits, Pairs};
use jumplens::tokenize::Tokenizer;
use jumplens::tokenize::{Sample, read_samples};
use jumplens::words::Cast;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{ListAccessor, RowAccessor};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use tempfile::TempDir;

/// A run of each bundled model with every kind of cast.
static RUNS: LazyLock<[TempDir; 2]> = LazyLock::new(|| ["tiny-gpt2", "tiny-bert"].map(make));

/// The first of them is causal.
fn runs() -> [Run; 2] {
    let open = |at: &TempDir| Run::open_to_read(&at.path().join("run"), &common::sources(), &Silent).unwrap();
    [open(&RUNS[0]), open(&RUNS[1])]
}

fn make(model: &str) -> TempDir {
    let settings = Settings {
        model: model.into(),
        samples: SampleSource::corpus("wikipedia-sample", 300, 60),
        seed: 3,
        fits: Fits { intercept: true, ..Fits::plain(Pairs::ToFinal) },
        dtype: Precision::F32,
        shard: None,
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut run = Run::begin(&out, &settings, Existing::Refuse, &common::sources(), &Silent).unwrap();
    run.all(&Silent).unwrap();
    folder
}

/// Samples that every cast is compared on.
const SAMPLES: usize = 12;

/// The table's top ten, surprisal and confidence by sample, cast and layer.
type Table = BTreeMap<(usize, String, usize), (Vec<u32>, f32, f32)>;

fn predictions(run: &Run) -> Table {
    let path = run.folder().join("results/predictions.parquet");
    let file = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let rows = file.get_row_iter(None).unwrap().map(|row| {
        let row = row.unwrap();
        let top = row.get_list(3).unwrap();
        let top = (0..top.len()).map(|i| top.get_int(i).unwrap() as u32).collect();
        let key = (row.get_int(0).unwrap() as usize, row.get_string(1).unwrap().clone());
        let layer = row.get_int(2).unwrap() as usize;
        ((key.0, key.1, layer), (top, row.get_float(4).unwrap(), row.get_float(5).unwrap()))
    });
    rows.collect()
}

fn samples(run: &Run) -> Vec<Sample> {
    read_samples(&run.folder().join("samples/val.jsonl"), run.spec()).unwrap()
}

fn readings(run: &Run, casts: &[Cast], samples: &[Sample], view: &View) -> Vec<Reading> {
    let lens = run.lens(run.own_shortcuts().unwrap().as_ref().map(|maps| maps as _), casts).unwrap();
    let input = |sample: &Sample| Input { text: sample.text.clone().unwrap(), ids: sample.ids.clone() };
    let inputs: Vec<Input> = samples.iter().map(input).collect();
    lens.read("model", &inputs, None, view).unwrap()
}

#[test]
fn the_lens_shows_what_evaluate_measures() {
    for run in &runs() {
        let model = &run.manifest().model.as_ref().unwrap().id;
        let (table, samples) = (predictions(run), &samples(run)[..SAMPLES]);
        let casts = available(run.own_shortcuts().unwrap().as_ref().map(|maps| maps as _)).unwrap();
        let readings = readings(run, &casts, samples, &View { top: 10, ..View::default() });
        let mut compared = 0;
        for (index, (sample, reading)) in samples.iter().zip(&readings).enumerate() {
            assert_eq!(reading.positions, (0..sample.ids.len()).collect::<Vec<_>>());
            for cast in &reading.casts {
                assert_eq!(cast.layers, (0..=run.sizes().n_layers).collect::<Vec<_>>());
                for (layer, cells) in cast.cells.iter().enumerate() {
                    let what = format!("{model}, sample {index}, {} from layer {layer}", cast.cast);
                    let (top, surprisal, confidence) = &table[&(index, cast.cast.to_string(), layer)];
                    let cell = &cells[sample.position];
                    let ids: Vec<u32> = cell.top.iter().map(|guess| guess.id).collect();
                    assert_eq!(&ids, top, "{what}");
                    let near = |got: Option<f32>, want: f32| (got.unwrap() - want).abs() < 2e-5;
                    assert!(near(cell.surprisal, *surprisal), "{what}: {:?} {surprisal}", cell.surprisal);
                    assert!(near(cell.confidence, *confidence), "{what}: {:?} {confidence}", cell.confidence);
                    let gap = cell.top[0].probability - cell.top[1].probability;
                    assert!((gap - confidence).abs() < 2e-5, "{what}: {gap} {confidence}");
                    compared += 1;
                }
            }
        }
        assert_eq!(compared, table.len() / 60 * SAMPLES, "{model}");
    }
}

#[test]
fn exits_are_those_of_the_table() {
    let run = &runs()[0];
    let samples = samples(run);
    let rows: Vec<ExitRow> = read_csv(&run.folder().join("results/early_exit.csv")).unwrap();
    let casts = ["id", "mat", "mat+b"].map(Cast::from);
    for lambda in [0.0, 0.3, 0.6] {
        let view = View { lambda: Some(lambda), mean_run: run.mean_run().unwrap(), ..View::default() };
        let readings = readings(run, &casts, &samples, &view);
        for mapping in &casts {
            let exit = |(sample, reading): (&Sample, &Reading)| {
                let cast = reading.casts.iter().find(|cast| &cast.cast == mapping).unwrap();
                cast.exit_layer.as_ref().unwrap()[sample.position]
            };
            let mean = samples.iter().zip(&readings).map(exit).sum::<usize>() as f64 / samples.len() as f64;
            let row = rows.iter().find(|row| &row.mapping == mapping && row.lambda == lambda).unwrap();
            assert_eq!(mean, row.layers_processed, "{mapping} at {lambda}");
        }
    }
}

#[test]
fn a_view_is_a_part_of_the_whole() {
    let run = &runs()[0];
    let casts = [Cast::Id, Cast::MAT];
    let samples = &samples(run)[..1];
    let whole = &readings(run, &casts, samples, &View { lambda: Some(0.2), top: 3, ..View::default() })[0];
    let view =
        View { positions: vec![1, 2], layers: vec![0, 7], lambda: Some(0.2), top: 2, ..View::default() };
    let part = &readings(run, &casts, samples, &view)[0];
    assert_eq!(part.tokens, whole.tokens);
    for (part, whole) in part.casts.iter().zip(&whole.casts) {
        assert_eq!(part.exit_layer.as_ref().unwrap()[..], whole.exit_layer.as_ref().unwrap()[1..3]);
        for (row, layer) in part.cells.iter().zip([0, 7]) {
            for (cell, whole) in row.iter().zip(&whole.cells[layer][1..3]) {
                assert_eq!(cell.top, whole.top[..2]);
                assert_eq!(cell.surprisal, whole.surprisal);
            }
        }
    }
}

#[test]
fn the_runs_own_sentences_are_read_as_the_lens_reads_them() {
    for run in &runs() {
        let model = &run.manifest().model.as_ref().unwrap().id;
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(run.folder().join("results/lens.json")).unwrap()).unwrap();
        let written: Vec<Reading> = serde_json::from_value(json["sentences"].clone()).unwrap();
        let short = |sample: &Sample| sample.ids.len() <= 24;
        let expected: Vec<Sample> = samples(run).into_iter().filter(short).take(5).collect();
        assert_eq!(expected.len(), 5, "the sample has short sentences");
        let shortcuts = run.own_shortcuts().unwrap().unwrap();
        let casts = available(Some(&shortcuts)).unwrap();
        assert!(casts.len() >= 5, "{casts:?}");
        let lens = run.lens(Some(&shortcuts), &casts).unwrap();
        for (written, sample) in written.iter().zip(&expected) {
            let input = Input { text: sample.text.clone().unwrap(), ids: sample.ids.clone() };
            let view = View { top: 5, ..View::default() };
            let reading = lens.read(model, &[input], Some(&run.tokenizer().unwrap()), &view).unwrap();
            assert_eq!(*written, reading[0]);
            // Tokens are spelled so that they make the text again; the masked one is not in it.
            let spelled: String = written.tokens.iter().map(|token| token.text.as_str()).collect();
            match run.spec().unwrap().kind {
                Kind::Causal => assert_eq!(spelled, written.text),
                Kind::Masked => assert!(spelled.contains("[MASK]"), "{spelled}"),
            }
        }
    }
}

#[test]
fn a_mask_in_the_text_is_guessed() {
    let files = ModelFiles::find("tiny-bert", &common::sources(), &Silent).unwrap();
    let model = jumplens::models::load(&files, Precision::F32).unwrap().model;
    let tokenizer = Tokenizer::of_model(files.tokenizer.as_ref(), "tiny-bert", model.spec(), false).unwrap();
    let ids = tokenizer.encode("he was born in [MASK] .").unwrap();
    let masks: Vec<usize> = (0..ids.len()).filter(|i| tokenizer.text_of(ids[*i]) == "[MASK]").collect();
    assert_eq!(masks.len(), 1);
    let whole = tokenizer.encode("he was born in london .").unwrap();
    assert_eq!(ids[..masks[0]], whole[..masks[0]], "what stands before it is the same");
}

/// Ten texts in one session: the head and the maps are packed for the first one, and each reads as it does by itself.
#[test]
fn a_session_packs_once_and_reads_as_the_lens_does() {
    for run in runs() {
        let name = run.manifest().model_name().to_owned();
        let samples = &samples(&run)[..10];
        let view = View { top: 3, ..View::default() };
        let alone = readings(&run, &[Cast::MAT], samples, &view);
        let session = Session::of_run(run, MapsFrom::default(), &Silent).unwrap();
        let choice = session.choose(&[Cast::MAT]).unwrap();
        let head = session.model().head().unwrap();
        let mut packed = None;
        for (sample, alone) in samples.iter().zip(alone) {
            let text = session.text(sample.text.clone().unwrap()).unwrap();
            let input = Input { ids: sample.ids.clone(), ..text.input };
            let reading = session.read(&Text { input, tokens_cut: 0, chat: None }, &choice, &view).unwrap();
            assert_eq!(reading.casts[0].cells.len(), alone.casts[0].cells.len(), "{name}");
            for (cell, alone) in
                reading.casts[0].cells.iter().flatten().zip(alone.casts[0].cells.iter().flatten())
            {
                assert_eq!((cell.top[0].id, cell.surprisal), (alone.top[0].id, alone.surprisal), "{name}");
            }
            let now = head.packed(Precision::F32).unwrap();
            assert!(Arc::ptr_eq(packed.get_or_insert(Arc::clone(&now)), &now), "packed anew for {name}");
        }
        // By its figures, where none is asked for.
        let best = session.choose(&[]).unwrap();
        assert!(best.best.is_some() && best.casts.len() == 1, "{best:?}");
    }
}

/// The token `id` as what is looked for.
fn target(id: u32) -> Target {
    Target { text: String::new(), token: Token { id, text: String::new() }, tokens: Vec::new() }
}

/// With the whole vocabulary shown, its order gives each rank, and its probabilities the entropy.
#[test]
fn ranks_and_entropy_are_those_of_the_whole_distribution() {
    for run in &runs() {
        let vocab = run.spec().unwrap().vocab_size;
        let asked = [0, 17, 600, vocab as u32 - 1];
        let casts = available(run.own_shortcuts().unwrap().as_ref().map(|maps| maps as _)).unwrap();
        let sample = &samples(run)[..1];
        let last = sample[0].ids.len() - 1;
        let view = View {
            top: vocab,
            positions: vec![0, last],
            layers: vec![0, 3, run.spec().unwrap().n_layers],
            targets: asked.map(target).into(),
            ..View::default()
        };
        let reading = &readings(run, &casts, sample, &view)[0];
        let mut compared = 0;
        for cast in &reading.casts {
            let own = &cast.cells[2];
            for (layer, cells) in cast.cells.iter().enumerate() {
                for (place, cell) in cells.iter().enumerate() {
                    assert_eq!(cell.targets.len(), asked.len());
                    if cell.top.is_empty() {
                        assert!(
                            cell.entropy.is_none() && cell.rank.is_none() && cell.targets[0].rank.is_none()
                        );
                        continue;
                    }
                    assert_eq!(cell.top.len(), vocab);
                    let p = |id: u32| {
                        f64::from(cell.top.iter().find(|guess| guess.id == id).unwrap().probability)
                    };
                    let terms =
                        cell.top.iter().map(|guess| f64::from(guess.probability)).filter(|p| *p > 0.0);
                    let entropy: f64 = terms.map(|p| -p * p.ln()).sum();
                    let near = |got: f32, want: f64| (f64::from(got) - want).abs() < 1e-3 + 1e-3 * want;
                    assert!(near(cell.entropy.unwrap(), entropy), "{:?} {entropy}", cell.entropy);
                    let kl: f64 = own[place]
                        .top
                        .iter()
                        .map(|guess| (f64::from(guess.probability), p(guess.id)))
                        .filter(|(own, cast)| *own > 1e-12 && *cast > 1e-30)
                        .map(|(own, cast)| own * (own / cast).ln())
                        .sum();
                    assert!(near(cell.kl.unwrap(), kl), "{} {layer}: {:?} {kl}", cast.cast, cell.kl);
                    let place_of = |id: u32| 1 + cell.top.iter().position(|guess| guess.id == id).unwrap();
                    assert_eq!(cell.rank.unwrap(), place_of(own[place].top[0].id));
                    for (standing, id) in cell.targets.iter().zip(asked) {
                        assert_eq!(standing.rank.unwrap(), place_of(id));
                        assert_eq!(f64::from(standing.probability.unwrap()), p(id));
                        compared += 1;
                    }
                }
            }
        }
        assert!(compared > 100, "{compared}");
    }
}

#[test]
fn an_answer_is_over_all_layers_whichever_are_shown() {
    let run = &runs()[0];
    let sample = &samples(run)[..1];
    let whole = &readings(run, &[Cast::MAT], sample, &View::default())[0];
    let last = sample[0].ids.len() - 1;
    let own = whole.casts[0].cells.last().unwrap()[last].top[0].id;
    let view = View { positions: vec![last], layers: vec![1], targets: vec![target(own)], ..View::default() };
    let part = &readings(run, &[Cast::MAT], sample, &view)[0];
    let answer = &part.casts[0].answers[0][0];
    let best = |layer: usize| whole.casts[0].cells[layer][last].top[0].id == own;
    let from = (0..=12).rev().take_while(|layer| best(*layer)).last();
    assert_eq!(answer.top_1_from, from);
    assert_eq!(answer.top_1_layers, (0..=12).filter(|layer| best(*layer)).collect::<Vec<_>>());
    assert_eq!((answer.model_rank, part.casts[0].cells.len()), (Some(1), 1));
}

#[test]
fn a_table_of_cells_has_what_the_readings_have() {
    let run = &runs()[0];
    let samples = &samples(run)[..2];
    let mut table_of = Vec::new();
    let mut table = CellTable::new(&mut table_of).unwrap();
    let view = View { targets: vec![target(5), target(9)], ..View::default() };
    let mut all = readings(run, &[Cast::MAT, Cast::Id], &samples[..1], &view);
    all.extend(readings(run, &[Cast::MAT], &samples[1..], &View::default()));
    all.iter().for_each(|reading| table.add(reading).unwrap());
    table.finish().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cells.parquet");
    std::fs::write(&path, table_of).unwrap();
    let file = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut rows = file.get_row_iter(None).unwrap().map(Result::unwrap);
    for (text, reading) in all.iter().enumerate() {
        for cast in &reading.casts {
            for (layer, cells) in cast.layers.iter().zip(&cast.cells) {
                for (position, cell) in reading.positions.iter().zip(cells) {
                    for target in 0..reading.targets.len().max(1) {
                        let row = rows.next().unwrap();
                        assert_eq!(row.get_int(0).unwrap() as usize, text);
                        assert_eq!(*row.get_string(1).unwrap(), cast.cast.to_string());
                        let place = (row.get_int(2).unwrap() as usize, row.get_int(3).unwrap() as usize);
                        assert_eq!(place, (*layer, *position));
                        assert_eq!(row.get_int(4).unwrap() as u32, reading.tokens[*position].id);
                        assert_eq!(row.get_int(6).unwrap() as u32, cell.top[0].id);
                        assert_eq!(*row.get_string(7).unwrap(), cell.top[0].text);
                        assert_eq!(row.get_float(8).unwrap(), cell.top[0].probability);
                        assert_eq!(Some(row.get_float(11).unwrap()), cell.entropy);
                        match cell.targets.get(target) {
                            Some(standing) => {
                                assert_eq!(row.get_int(14).unwrap(), [5, 9][target]);
                                assert_eq!(Some(row.get_float(16).unwrap()), standing.probability);
                                assert_eq!(Some(row.get_int(17).unwrap() as usize), standing.rank);
                            }
                            None => assert!(row.get_int(14).is_err() && row.get_int(17).is_err()),
                        }
                    }
                }
            }
        }
    }
    assert!(rows.next().is_none());
}
