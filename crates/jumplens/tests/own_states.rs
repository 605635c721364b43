//! States that another program computed: from every format they become what a run of the same states has, and what is wrong
//! with them is said where it is.

mod common;

use half::{bf16, f16};
use jumplens::lens::View;
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::run::{Existing, Import, Run, SampleSource, Settings};
use jumplens::session::{MapsFrom, Session};
use jumplens::shortcut::{Fits, Pairs};
use jumplens::states::LayerStates;
use jumplens::words::{Cast, LastState};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::{ByteArray, FixedLenByteArray};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use safetensors::tensor::{Dtype, TensorView};
use std::fs;
use std::path::{Path, PathBuf};

const LAYERS: usize = 12;
const D: usize = 128;
const N: [usize; 2] = [150, 30];
const SPLITS: [&str; 2] = ["train", "val"];

/// What a format makes of a value, as f32 again.
type Rounding = fn(f32) -> f32;
/// Values as a format has them in files.
type Bytes = fn(&Vec<f32>) -> Vec<u8>;

/// A run of a bundled model, as far as r².
fn base(at: &Path, model: &str) -> Run {
    let settings = Settings {
        model: model.into(),
        samples: SampleSource::corpus("wikipedia-sample", N[0], N[1]),
        seed: 0,
        fits: Fits::plain(Pairs::All),
        dtype: Precision::F32,
        shard: None,
    };
    let mut run =
        Run::begin(&at.join("base"), &settings, Existing::Refuse, &common::sources(), &Silent).unwrap();
    run.states(&Silent).unwrap();
    run.fit(Fits::plain(Pairs::All), &Silent).unwrap();
    run.r2(None, &Silent).unwrap();
    run
}

/// By split, the states of every layer.
type All = [Vec<Vec<f32>>; 2];

fn states(run: &Path, layers: usize) -> All {
    SPLITS.map(|split| {
        let layer = |layer: usize| {
            let path = run.join(format!("states/{split}/{layer:02}.safetensors"));
            LayerStates::open(&path).unwrap().values().to_vec()
        };
        (0..=layers).map(layer).collect()
    })
}

fn bytes<T, const B: usize>(values: &[f32], to: impl Fn(f32) -> T, le: impl Fn(T) -> [u8; B]) -> Vec<u8> {
    values.iter().flat_map(|value| le(to(*value))).collect()
}

fn npy(values: &[f32], dtype: &str, d: usize) -> Vec<u8> {
    let n = values.len() / d;
    let (fortran, data) = match dtype {
        "<f4" => ("False", bytes(values, |v| v, f32::to_le_bytes)),
        "<f8" => ("False", bytes(values, f64::from, f64::to_le_bytes)),
        "<f2" => ("False", bytes(values, f16::from_f32, f16::to_le_bytes)),
        _ => {
            let columns: Vec<f32> = (0..d).flat_map(|j| (0..n).map(move |i| values[i * d + j])).collect();
            ("True", bytes(&columns, |v| v, f32::to_le_bytes))
        }
    };
    let dtype = if dtype.starts_with('<') { dtype } else { "<f4" };
    let mut header = format!("{{'descr': '{dtype}', 'fortran_order': {fortran}, 'shape': ({n}, {d}), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    file.extend(data);
    file
}

fn write_npz(path: &Path, arrays: &[(String, Vec<u8>)]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, file) in arrays {
        zip.start_file(format!("{name}.npy"), stored).unwrap();
        std::io::Write::write_all(&mut zip, file).unwrap();
    }
    zip.finish().unwrap();
}

fn write_tensors(path: &Path, dtype: Dtype, tensors: &[(String, Vec<u8>)], d: usize) {
    let size = match dtype {
        Dtype::F64 => 8,
        Dtype::F32 => 4,
        _ => 2,
    };
    let view = |(name, data): &'_ (String, Vec<u8>)| -> (String, Vec<usize>) {
        (name.clone(), vec![data.len() / size / d, d])
    };
    let shapes: Vec<_> = tensors.iter().map(view).collect();
    let views = shapes.into_iter().zip(tensors);
    let views = views.map(|((name, shape), (_, data))| (name, TensorView::new(dtype, shape, data).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A column of lists a layer, several row groups.
fn write_parquet(path: &Path, dtype: Dtype, layers: &[Vec<f32>], d: usize) {
    let (kind, group_rows) = match dtype {
        Dtype::F64 => ("double element", 40),
        Dtype::F16 => ("fixed_len_byte_array(2) element (FLOAT16)", 1000),
        _ => ("float element", 64),
    };
    let column = |layer: usize| {
        format!("optional group layer_{layer} (LIST) {{ repeated group list {{ optional {kind}; }} }}")
    };
    let columns: Vec<String> = (0..layers.len()).map(column).collect();
    let schema = format!("message m {{ required binary text (UTF8); {} }}", columns.join(" "));
    let schema = parse_message_type(&schema).unwrap();
    let file = fs::File::create(path).unwrap();
    let properties = WriterProperties::builder().build();
    let mut writer = SerializedFileWriter::new(file, schema.into(), properties.into()).unwrap();
    let n = layers[0].len() / d;
    for first in (0..n).step_by(group_rows) {
        let rows = first..(first + group_rows).min(n);
        let mut group = writer.next_row_group().unwrap();
        let mut number = 0;
        while let Some(mut column) = group.next_column().unwrap() {
            let values = |layer: usize| &layers[layer][rows.start * d..rows.end * d];
            let levels: Vec<i16> = vec![3; rows.len() * d];
            let repeated: Vec<i16> = (0..rows.len() * d).map(|i| i16::from(i % d != 0)).collect();
            let levels = (Some(&levels[..]), Some(&repeated[..]));
            match column.untyped() {
                ColumnWriter::ByteArrayColumnWriter(column) => {
                    let texts = vec![ByteArray::from("a"); rows.len()];
                    column.write_batch(&texts, None, None).unwrap();
                }
                ColumnWriter::FloatColumnWriter(column) => {
                    column.write_batch(values(number - 1), levels.0, levels.1).unwrap();
                }
                ColumnWriter::DoubleColumnWriter(column) => {
                    let values: Vec<f64> = values(number - 1).iter().map(|value| f64::from(*value)).collect();
                    column.write_batch(&values, levels.0, levels.1).unwrap();
                }
                ColumnWriter::FixedLenByteArrayColumnWriter(column) => {
                    let value =
                        |value: &f32| FixedLenByteArray::from(f16::from_f32(*value).to_le_bytes().to_vec());
                    let values: Vec<_> = values(number - 1).iter().map(value).collect();
                    column.write_batch(&values, levels.0, levels.1).unwrap();
                }
                _ => unreachable!(),
            }
            column.close().unwrap();
            number += 1;
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}

/// Writes a split as `format` into `at`, and says where it is and how it rounds.
fn write(at: &Path, format: &str, layers: &[Vec<f32>], d: usize) -> PathBuf {
    let folder = at.to_owned();
    let with_ending = |ending: &str| at.with_extension(ending);
    let f32s = |values: &Vec<f32>| bytes(values, |v| v, f32::to_le_bytes);
    let numbered = layers.iter().enumerate();
    match format {
        "run's layout" => {
            fs::create_dir(&folder).unwrap();
            for (layer, values) in numbered {
                let tensor = [("states".to_owned(), f32s(values))];
                write_tensors(&folder.join(format!("{layer:02}.safetensors")), Dtype::F32, &tensor, d);
            }
            folder
        }
        "npy" | "npy f8" | "npy f2" | "npy columns" => {
            fs::create_dir(&folder).unwrap();
            let dtype = match format {
                "npy" => "<f4",
                "npy f8" => "<f8",
                "npy f2" => "<f2",
                _ => "columns",
            };
            for (layer, values) in numbered {
                fs::write(folder.join(format!("hidden_{layer}.npy")), npy(values, dtype, d)).unwrap();
            }
            fs::write(folder.join("README.txt"), "notes").unwrap();
            folder
        }
        "npz" => {
            let arrays: Vec<_> =
                numbered.map(|(i, values)| (format!("arr_{i}"), npy(values, "<f4", d))).collect();
            write_npz(&with_ending("npz"), &arrays);
            with_ending("npz")
        }
        "safetensors" | "safetensors bf16" | "safetensors f16" | "safetensors f64" => {
            let (dtype, data): (_, Bytes) = match format {
                "safetensors bf16" => {
                    (Dtype::BF16, |values| bytes(values, bf16::from_f32, bf16::to_le_bytes))
                }
                "safetensors f16" => (Dtype::F16, |values| bytes(values, f16::from_f32, f16::to_le_bytes)),
                "safetensors f64" => (Dtype::F64, |values| bytes(values, f64::from, f64::to_le_bytes)),
                _ => (Dtype::F32, |values| bytes(values, |v| v, f32::to_le_bytes)),
            };
            let tensors: Vec<_> = numbered.map(|(i, values)| (format!("layer.{i}"), data(values))).collect();
            write_tensors(&with_ending("safetensors"), dtype, &tensors, d);
            with_ending("safetensors")
        }
        "parquet" | "parquet f64" | "parquet f16" => {
            let dtype = match format {
                "parquet f64" => Dtype::F64,
                "parquet f16" => Dtype::F16,
                _ => Dtype::F32,
            };
            write_parquet(&with_ending("parquet"), dtype, layers, d);
            with_ending("parquet")
        }
        _ => unreachable!(),
    }
}

fn import(states: [PathBuf; 2]) -> Import {
    Import { states, last_state: Some(LastState::BlockOutput), ..Import::default() }
}

fn take_in(out: &Path, import: &Import) -> jumplens::Result<jumplens::manifest::Manifest> {
    Run::import(out, import, false, &common::sources(), &Silent)
}

/// Of a run's states: its r² to the last bit from whatever keeps them, and to the rounding from what does not.
#[test]
fn every_format_gives_the_runs_states_and_r2() {
    let at = tempfile::tempdir().unwrap();
    let run = base(at.path(), "tiny-gpt2");
    let own = states(run.folder(), LAYERS);
    let r2 = fs::read(run.folder().join("results/r2.csv")).unwrap();
    let rounded: [(&str, Rounding); 4] = [
        ("npy f2", |value| f16::from_f32(value).to_f32()),
        ("safetensors f16", |value| f16::from_f32(value).to_f32()),
        ("safetensors bf16", |value| bf16::from_f32(value).to_f32()),
        ("parquet f16", |value| f16::from_f32(value).to_f32()),
    ];
    let exact = [
        "run's layout",
        "npy",
        "npy f8",
        "npy columns",
        "npz",
        "safetensors",
        "safetensors f64",
        "parquet",
        "parquet f64",
    ];
    let exact = exact.map(|format| -> (&str, fn(f32) -> f32) { (format, |value| value) });
    for (number, (format, rounds)) in exact.into_iter().chain(rounded).enumerate() {
        let path = |split: usize| at.path().join(format!("{number}{}", SPLITS[split]));
        let paths = [0, 1].map(|split| write(&path(split), format, &own[split], D));
        let out = at.path().join(format!("imported{number}"));
        let manifest = take_in(&out, &import(paths)).unwrap_or_else(|error| panic!("{format}: {error}"));
        assert_eq!((manifest.train, manifest.val), (N[0], N[1]), "{format}");
        let found = states(&out, LAYERS);
        for (found, own) in found.iter().flatten().zip(own.iter().flatten()) {
            let own: Vec<f32> = own.iter().map(|value| rounds(*value)).collect();
            assert!(*found == own, "{format}");
        }
        if number < 2 {
            let mut run = Run::open(&out, &common::sources(), &Silent).unwrap();
            run.fit(Fits::plain(Pairs::All), &Silent).unwrap();
            run.r2(None, &Silent).unwrap();
            assert_eq!(fs::read(out.join("results/r2.csv")).unwrap(), r2, "{format}");
        }
    }
}

#[test]
fn what_is_wrong_with_states_is_said_where_it_is() {
    let at = tempfile::tempdir().unwrap();
    let d = 4;
    let good = |n: usize, width: usize, layers: usize| -> Vec<Vec<f32>> {
        (0..layers).map(|layer| (0..n * width).map(|i| ((i * 7 + layer * 3) % 11) as f32).collect()).collect()
    };
    let val = write(&at.path().join("val"), "safetensors", &good(9, d, 3), d);
    let mut number = 0;
    let mut refuses = |train: PathBuf, val: &PathBuf, says: &[&str]| {
        number += 1;
        let out = at.path().join(format!("out{number}"));
        let error = take_in(&out, &import([train, val.clone()])).unwrap_err().to_string();
        says.iter().for_each(|say| assert!(error.contains(say), "no `{say}` in: {error}"));
        assert!(!out.exists(), "{error}");
    };
    let folder = |name: &str| at.path().join(name);

    let gaps = write(&folder("gaps"), "npy", &good(20, d, 6), d);
    fs::remove_file(gaps.join("hidden_1.npy")).unwrap();
    fs::remove_file(gaps.join("hidden_4.npy")).unwrap();
    refuses(gaps, &val, &["`", "gaps`", "from 0, the embedding, to 5", "missing are 1, 4"]);

    for (name, value, format, says) in
        [("nan", f32::NAN, "npy", "hidden_1.npy"), ("inf", f32::INFINITY, "parquet", "`layer_1`")]
    {
        let mut layers = good(20, d, 3);
        layers[1][17 * d + 2] = value;
        let path = write(&folder(name), format, &layers, d);
        refuses(path, &val, &[says, "coordinate 2 of sample 17 of layer 1", name.trim_start_matches('n')]);
    }
    let large = folder("large.npy.d");
    fs::create_dir(&large).unwrap();
    for layer in 0..3 {
        let mut file = npy(&[1.0; 8], "<f8", d);
        let end = file.len();
        if layer == 2 {
            file[end - 8..].copy_from_slice(&1e300f64.to_le_bytes());
        }
        fs::write(large.join(format!("{layer}.npy")), file).unwrap();
    }
    refuses(large, &val, &["coordinate 3 of sample 1 of layer 2", "f32"]);

    let mut layers = good(20, d, 3);
    layers[2].truncate(19 * d);
    let uneven = write(&folder("uneven"), "safetensors", &layers, d);
    refuses(uneven, &val, &["layer 2 has 19 samples of width 4, and layer 0 20 of width 4"]);

    let wide = write(&folder("wide"), "npz", &good(20, 5, 3), 5);
    refuses(wide, &val, &["3 layers of width 4, and 3 of width 5 in the training states"]);

    let deep = write(&folder("deep"), "run's layout", &good(20, d, 5), d);
    refuses(deep, &val, &["3 layers of width 4, and 5 of width 4"]);

    let twice = write(&folder("twice"), "npy", &good(20, d, 3), d);
    fs::copy(twice.join("hidden_1.npy"), twice.join("hidden_01.npy")).unwrap();
    refuses(twice, &val, &["layer 1 is there twice"]);

    let mixed = write(&folder("mixed"), "npy", &good(20, d, 3), d);
    fs::copy(mixed.join("hidden_1.npy"), mixed.join("attention_1.npy")).unwrap();
    refuses(mixed, &val, &["`attention_…`, `hidden_…`"]);

    let one = write(&folder("one"), "npy", &good(20, d, 1), d);
    refuses(one, &val, &["layer 0 alone"]);

    fs::create_dir(folder("none")).unwrap();
    fs::write(folder("none").join("notes.txt"), "").unwrap();
    refuses(folder("none"), &val, &["no states"]);

    // A list of another length within a column.
    let ragged = folder("ragged.parquet");
    let schema = "message m { required group layer_0 (LIST) { repeated group list { required float element; } } required group layer_1 (LIST) { repeated group list { required float element; } } }";
    let file = fs::File::create(&ragged).unwrap();
    let schema = parse_message_type(schema).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema.into(), Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for repeated in [[0, 1, 0, 1, 0, 1], [0, 1, 0, 0, 1, 1]] {
        let mut column = group.next_column().unwrap().unwrap();
        let ColumnWriter::FloatColumnWriter(inner) = column.untyped() else { panic!() };
        inner.write_batch(&[1.0; 6], Some(&[1; 6]), Some(&repeated)).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    refuses(ragged.clone(), &ragged, &["row 1 of its column `layer_1`", "1 numbers", "2"]);
}

/// What the bundled GPT-2's final norm makes of rows, by its definition.
fn final_norm() -> impl Fn(&Vec<f32>) -> Vec<f32> {
    let tensors = safetensors::SafeTensors::deserialize(jumplens_assets::TINY_GPT2.weights).unwrap();
    let tensor = |end: &str| -> Vec<f32> {
        let (_, view) = tensors.tensors().into_iter().find(|(name, _)| name.ends_with(end)).unwrap();
        match view.dtype() {
            Dtype::F32 => view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => view.data().as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => {
                view.data().as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
            }
            other => panic!("{other:?}"),
        }
    };
    let (weight, bias) = (tensor("ln_f.weight"), tensor("ln_f.bias"));
    move |values| {
        let row = |row: &[f32]| -> Vec<f32> {
            let mean = row.iter().sum::<f32>() / D as f32;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / D as f32;
            let scale = (variance + 1e-5).sqrt();
            (0..D).map(|i| (row[i] - mean) / scale * weight[i] + bias[i]).collect()
        };
        values.chunks(D).flat_map(row).collect()
    }
}

/// With the model and samples, the numbers say what the last layer is, and whether states are the model's at all.
#[test]
fn the_model_tells_what_states_are() {
    let at = tempfile::tempdir().unwrap();
    let run = at.path().join("base");
    drop(base(at.path(), "tiny-gpt2"));
    let own = states(&run, LAYERS);
    let samples = SPLITS.map(|split| run.join(format!("samples/{split}.jsonl")));
    let normed = final_norm();
    let mut number = 0;
    let mut take = |change: &dyn Fn(&mut Vec<Vec<f32>>), said: Option<LastState>, with_samples: bool| {
        number += 1;
        let paths = [0, 1].map(|split| {
            let mut layers = own[split].clone();
            change(&mut layers);
            write(&at.path().join(format!("{number}{}", SPLITS[split])), "safetensors", &layers, D)
        });
        let import = Import {
            states: paths,
            samples: with_samples.then(|| samples.clone()),
            model: Some("tiny-gpt2".into()),
            last_state: said,
        };
        let out = at.path().join(format!("out{number}"));
        take_in(&out, &import).map(|manifest| (out, manifest.samples.imported().unwrap().last_state))
    };
    let as_they_are = |_: &mut Vec<Vec<f32>>| {};
    let behind = |layers: &mut Vec<Vec<f32>>| layers[LAYERS] = normed(&layers[LAYERS]);
    use LastState::{BlockOutput, FinalNormOutput};

    let (out, last) = take(&as_they_are, None, true).unwrap();
    assert_eq!(last, BlockOutput);
    // The predictions are the run's own.
    Run::open(&run, &common::sources(), &Silent).unwrap().evaluate(None, &Silent).unwrap();
    let mut imported = Run::open(&out, &common::sources(), &Silent).unwrap();
    imported.all(&Silent).unwrap();
    let rows = |run: &Path| -> Vec<String> {
        let text = fs::read_to_string(run.join("results/layers.csv")).unwrap();
        text.lines()
            .filter(|line| line.starts_with("id,") || line.starts_with("mat,"))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(rows(&out).len(), 2 * (LAYERS + 1));
    assert_eq!(rows(&out), rows(&run));
    // And so is the lens.
    let session = Session::of_run(imported, MapsFrom::default(), &Silent).unwrap();
    let text = session.text("The capital of France is".into()).unwrap();
    let choice = session.choose(&[Cast::MAT]).unwrap();
    assert!(session.read(&text, &choice, &View::default()).is_ok());

    let (out, last) = take(&behind, None, true).unwrap();
    assert_eq!(last, FinalNormOutput);
    let mut imported = Run::open(&out, &common::sources(), &Silent).unwrap();
    imported.all(&Silent).unwrap();
    assert!(imported.manifest().warnings()[0].contains("after the final norm"));
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("after the final norm"));
    assert!(!out.join("results/layers.csv").exists());
    let error = imported.evaluate(None, &Silent).unwrap_err().to_string();
    assert!(error.contains("evaluate needs that"), "{error}");
    let error = Session::of_run(imported, MapsFrom::default(), &Silent).err().unwrap().to_string();
    assert!(error.contains("after the final norm"), "{error}");

    let refused = |result: jumplens::Result<(PathBuf, LastState)>, says: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(says), "no `{says}` in: {error}");
    };
    refused(
        take(&behind, Some(BlockOutput), true),
        "said to be the output of the last block, and are what comes out",
    );
    refused(take(&as_they_are, Some(FinalNormOutput), true), "and are the output of the last block");
    refused(take(&|layers| layers.swap(3, 4), None, true), "those of layer 3 of the first 4 samples are not");
    refused(
        take(&|layers| layers.iter_mut().for_each(|layer| layer.rotate_left(D)), None, true),
        "those of layer 0 of",
    );
    refused(
        take(&|layers| drop(layers.pop()), None, true),
        "layers 0 to 11 of width 128, and `tiny-gpt2` has layers 0 to 12",
    );
    refused(
        take(&as_they_are, None, false),
        "may be the last block's output, or come from after the final norm",
    );
    // Where it was said without samples, there are no predictions.
    let (out, _) = take(&as_they_are, Some(BlockOutput), false).unwrap();
    let mut imported = Run::open(&out, &common::sources(), &Silent).unwrap();
    imported.all(&Silent).unwrap();
    let error = imported.evaluate(None, &Silent).unwrap_err().to_string();
    assert!(error.contains("without token ids and positions and evaluate"), "{error}");
}

/// A model without a final norm leaves nothing to be said.
#[test]
fn post_norm_models_have_one_last_state() {
    let at = tempfile::tempdir().unwrap();
    let run = base(at.path(), "tiny-bert");
    let layers = run.sizes().n_layers;
    let own = states(run.folder(), layers);
    let d = run.sizes().d_model;
    let paths = [0, 1].map(|split| write(&at.path().join(SPLITS[split]), "npz", &own[split], d));
    let import = Import { states: paths, model: Some("tiny-bert".into()), ..Import::default() };
    let manifest = take_in(&at.path().join("out"), &import).unwrap();
    assert_eq!(manifest.samples.imported().unwrap().last_state, LastState::BlockOutput);
}
