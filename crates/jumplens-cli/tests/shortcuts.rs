//! `jumplens shortcuts`, and maps that are not for the model they are given to.

mod common;

use common::{SMALL, copy_of, fail, files, output, stderr, succeed};
use jumplens::files::sha256;
use jumplens::seal::KEY;
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jumplens/tests/fixtures/shortcuts").join(name);
    path.display().to_string()
}

/// The tensors of a file: shape and bytes by name.
fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors
        .iter()
        .map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), view.data().to_vec())))
        .collect()
}

/// What a file of maps says of itself.
fn notes(path: &Path) -> serde_json::Value {
    let bytes = fs::read(path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    serde_json::from_str(&metadata.metadata().as_ref().unwrap()["jumplens"]).unwrap()
}

fn run(at: &Path) -> PathBuf {
    succeed(at, &[&SMALL[..], &["--out", "run", "--intercept"]].concat());
    at.join("run")
}

#[test]
fn exported_maps_are_those_of_the_run_and_say_where_they_come_from() {
    let at = tempfile::tempdir().unwrap();
    let run = run(at.path());
    succeed(at.path(), &["shortcuts", "export", "run", "--out", "exported"]);
    let exported = at.path().join("exported");
    let names: Vec<PathBuf> = files(&exported).into_keys().collect();
    assert_eq!(
        names,
        ["README.md", "manifest.json", "mat+b.safetensors", "mat.safetensors"].map(PathBuf::from)
    );
    for (cast, folder) in [("mat", run.join("shortcuts")), ("mat+b", run.join("shortcuts/mat+b"))] {
        let file = exported.join(format!("{cast}.safetensors"));
        let mut own = BTreeMap::new();
        (0..12).for_each(|from| own.extend(tensors(&folder.join(format!("{from:02}.safetensors")))));
        assert_eq!(tensors(&file), own);
        let notes = notes(&file);
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(run.join("manifest.json")).unwrap()).unwrap();
        assert_eq!((&notes["cast"], &notes["origin"]["model"]), (&cast.into(), &"tiny-gpt2".into()));
        assert_eq!(notes["origin"]["weights_sha256"], manifest["model"]["weights_sha256"]);
        assert_eq!(notes["origin"]["corpus_sha256"], manifest["corpus"]["sha256"]);
        assert_eq!(notes["origin"]["last_state"], "block-output");
        assert_eq!((&notes["origin"]["train"], &notes["origin"]["seed"]), (&60.into(), &0.into()));
    }
    let card = fs::read_to_string(exported.join("README.md")).unwrap();
    for says in ["`mat.safetensors`", "tiny-gpt2", "load_file", "| 11 |", "before** a final norm"] {
        assert!(card.contains(says), "no {says} in {card}");
    }
    fail(
        at.path(),
        &["shortcuts", "export", "run", "--out", "exported"],
        &["`exported` holds exported maps"],
    );
    fail(
        at.path(),
        &["shortcuts", "export", "run", "--out", "x", "--cast", "mat_r9"],
        &["`mat_r9`", "`mat+b`"],
    );
}

#[test]
fn exported_maps_come_back_as_they_were() {
    let at = tempfile::tempdir().unwrap();
    run(at.path());
    for format in ["safetensors", "npz"] {
        let out = format!("exported-{format}");
        succeed(at.path(), &["shortcuts", "export", "run", "--out", &out, "--format", format]);
        for (cast, folder) in [("mat", "run/shortcuts"), ("mat+b", "run/shortcuts/mat+b")] {
            let back = format!("back-{format}-{cast}");
            let file = format!("{out}/{cast}.{format}");
            succeed(
                at.path(),
                &["shortcuts", "import", &file, "--out", &back, "--cast", "mat", "--model", "tiny-gpt2"],
            );
            for from in 0..12 {
                let name = format!("{from:02}.safetensors");
                assert_eq!(
                    tensors(&at.path().join(&back).join(&name)),
                    tensors(&at.path().join(folder).join(&name))
                );
            }
        }
    }
    // What the lens shows through an exported file and through the run is the same.
    let lens = |args: &[&str]| {
        let view = ["lens", "A day in May", "--layers", "0,5,12", "--cast", "mat", "--format", "json"];
        let json = succeed(at.path(), &[&view, args].concat());
        serde_json::from_str::<serde_json::Value>(&json).unwrap()["casts"].take()
    };
    assert_eq!(lens(&["--run", "run"]), lens(&["--shortcuts", "exported-safetensors/mat.safetensors"]));
}

/// What real torch made of a file that this program exported (`fixtures/make_shortcut_fixtures.py`), and what it pickled
/// of that.
#[test]
fn torch_reads_what_is_exported_and_what_it_pickles_is_read() {
    let at = tempfile::tempdir().unwrap();
    succeed(at.path(), &["shortcuts", "import", &fixture("reference"), "--out", "maps"]);
    succeed(at.path(), &["shortcuts", "export", "maps", "--out", "exported", "--pairs", "all"]);
    let exported = tensors(&at.path().join("exported/mat.safetensors"));
    assert_eq!(exported, tensors(Path::new(&fixture("exported.safetensors"))), "torch has read another file");
    succeed(at.path(), &["shortcuts", "import", &fixture("repickled"), "--out", "back"]);
    succeed(at.path(), &["shortcuts", "export", "back", "--out", "again", "--pairs", "all"]);
    assert_eq!(tensors(&at.path().join("again/mat.safetensors")), exported);
}

#[test]
fn maps_of_another_model_are_refused_unless_forced() {
    let at = tempfile::tempdir().unwrap();
    run(at.path());
    let other = copy_of("tiny-gpt2", at.path(), "other").join("model.safetensors");
    // The last byte of the last tensor: another model in nothing but its hash.
    let mut weights = fs::read(&other).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    fs::write(&other, weights).unwrap();
    succeed(at.path(), &["samples", "--model", "other", "--train", "60", "--val", "20", "--out", "theirs"]);
    succeed(at.path(), &["states", "--out", "theirs"]);
    let says = ["not for this model", "`tiny-gpt2`", "`other`", "--force"];
    for args in [
        &["r2", "--out", "theirs", "--shortcuts", "run"][..],
        &["evaluate", "--out", "theirs", "--shortcuts", "run/shortcuts"],
        &["lens", "a", "--model", "other", "--shortcuts", "run"],
        &["lens", "a", "--run", "theirs", "--shortcuts", "run"],
    ] {
        fail(at.path(), args, &says);
        let forced = output(at.path(), &[args, &["--force"]].concat());
        assert!(forced.status.success(), "{}", stderr(&forced));
        assert!(stderr(&forced).contains("applied although"), "{}", stderr(&forced));
    }
    succeed(at.path(), &["shortcuts", "export", "run", "--out", "e"]);
    fail(at.path(), &["shortcuts", "import", "e/mat.safetensors", "--model", "other", "--out", "x"], &says);
    assert!(!at.path().join("x").exists());
    fail(
        at.path(),
        &["lens", "a", "--model", "tiny-bert", "--shortcuts", "run"],
        &["12 layers", "6 of width 128"],
    );
    // Its own maps from another place are as good as its own.
    assert_eq!(stderr(&output(at.path(), &["lens", "a", "--shortcuts", "run"])), "");
}

#[test]
fn maps_behind_the_final_norm_are_refused() {
    let at = tempfile::tempdir().unwrap();
    run(at.path());
    succeed(at.path(), &["shortcuts", "export", "run", "--out", "e", "--format", "npz", "--cast", "mat"]);
    fn import<'a>(out: &'a str, args: &[&'a str]) -> Vec<&'a str> {
        [&["shortcuts", "import", "e/mat.npz", "--model", "tiny-gpt2", "--out", out], args].concat()
    }
    let behind = ["--last-state", "final-norm-output"];
    fail(at.path(), &import("x", &behind), &["final norm", "--force"]);
    succeed(at.path(), &import("behind", &[&behind[..], &["--force"]].concat()));
    fail(at.path(), &["lens", "a", "--shortcuts", "behind"], &["final norm", "--force"]);
    succeed(at.path(), &import("before", &[]));
    assert_eq!(stderr(&output(at.path(), &["lens", "a", "--shortcuts", "before"])), "");
}

#[test]
fn maps_without_a_record_are_applied_with_a_note() {
    let at = tempfile::tempdir().unwrap();
    run(at.path());
    // As other programs write them: the tensors and nothing else.
    for (path, _) in files(&at.path().join("run/shortcuts")) {
        let path = at.path().join("run/shortcuts").join(path);
        let bytes = fs::read(&path).unwrap();
        let bare = safetensors::serialize(SafeTensors::deserialize(&bytes).unwrap().iter(), None).unwrap();
        fs::write(path, bare).unwrap();
    }
    // Beside a manifest that is the record, as older versions left it, which knew no digests.
    common::edit_manifest(&at.path().join("run"), |manifest| {
        manifest["stages"]["fit"].as_object_mut().unwrap().remove("files");
    });
    assert_eq!(stderr(&output(at.path(), &["lens", "a", "--shortcuts", "run/shortcuts"])), "");
    fail(at.path(), &["lens", "a", "--model", "tiny-bert", "--shortcuts", "run/shortcuts"], &["`tiny-gpt2`"]);
    fs::rename(at.path().join("run/shortcuts"), at.path().join("bare")).unwrap();
    let said = output(at.path(), &["lens", "a", "--shortcuts", "bare"]);
    assert!(said.status.success() && stderr(&said).contains("does not say which model"), "{}", stderr(&said));
}

#[test]
fn foreign_files_become_casts_that_are_evaluated_and_looked_through() {
    let at = tempfile::tempdir().unwrap();
    let import = |from: &str, out: &str| {
        let said = output(at.path(), &["shortcuts", "import", &fixture(from), "--out", out]);
        assert!(said.status.success(), "{}", stderr(&said));
        stderr(&said)
    };
    assert!(import("tuned_lens", "tuned").contains("`tuned`"));
    assert!(import("reference", "reference").contains("18 maps of parts"));
    let listed = succeed(at.path(), &["shortcuts", "list", "reference"]);
    assert!(listed.contains("parts of 3 blocks: attn, ffn, ln1, ln2, res1, res2"), "{listed}");
    assert!(listed.contains("imported from   pickle"), "{listed}");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jumplens/tests/fixtures/pytorch/gpt2");
    let begin = ["samples", "--model", model.to_str().unwrap()];
    for (name, samples) in [("t", 40), ("v", 5)] {
        let line = "{\"ids\": [1, 9, 4, 4, 2, 7, 0], \"position\": 3}\n";
        fs::write(at.path().join(format!("{name}.jsonl")), line.repeat(samples)).unwrap();
    }
    let files = ["--train-samples", "t.jsonl", "--val-samples", "v.jsonl", "--out", "run"];
    succeed(at.path(), &[&begin[..], &files].concat());
    succeed(at.path(), &["states", "--out", "run"]);
    succeed(at.path(), &["evaluate", "--out", "run", "--shortcuts", "tuned"]);
    let layers = fs::read_to_string(at.path().join("run/results/layers.csv")).unwrap();
    assert_eq!(layers.lines().filter(|line| line.starts_with("tuned,")).count(), 3, "{layers}");
    let lens = fs::read_to_string(at.path().join("run/results/lens.json")).unwrap();
    assert!(lens.contains("\"cast\":\"tuned\""));
    fail(
        at.path(),
        &["shortcuts", "import", &fixture("malicious"), "--out", "m"],
        &["posix.system", "refused"],
    );
    assert!(!at.path().join("m").exists());
}

#[test]
fn inspection_tells_the_r2_that_the_run_measured() {
    let at = tempfile::tempdir().unwrap();
    let run = run(at.path());
    let json = succeed(at.path(), &["shortcuts", "inspect", "run", "--cast", "mat", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let maps = json["maps"].as_array().unwrap();
    assert_eq!(maps.len(), 12);
    let table = fs::read_to_string(run.join("results/r2.csv")).unwrap();
    for map in maps {
        let row = table.lines().find(|line| line.starts_with(&format!("mat,{},12,", map["from"]))).unwrap();
        let measured: f64 = row.split(',').nth(3).unwrap().parse().unwrap();
        assert!((measured - map["r2"].as_f64().unwrap()).abs() < 1e-12, "{row}");
        let rank = map["effective_rank"].as_f64().unwrap();
        // 60 samples make no map of a higher rank.
        assert!((1.0..=60.5).contains(&rank), "{rank}");
    }
    let text = succeed(at.path(), &["shortcuts", "inspect", "run", "--cast", "mat"]);
    assert_eq!(text.lines().count(), 13);
    fs::create_dir(at.path().join("empty")).unwrap();
    fail(at.path(), &["shortcuts", "inspect", "empty"], &["no maps in `empty`"]);
    fail(at.path(), &["shortcuts", "list", "empty"], &["no maps in `empty`"]);
    fail(at.path(), &["lens", "a", "--shortcuts", "empty"], &["no maps in `empty`"]);
    fail(at.path(), &["lens", "a", "--run", "run", "--shortcuts", "empty"], &["no maps in `empty`"]);
}

/// An exported file has its digest in it, wherever it goes.
#[test]
fn maps_that_changed_on_their_way_are_refused_by_every_reader() {
    let at = tempfile::tempdir().unwrap();
    run(at.path());
    let at = at.path();
    succeed(at, &["shortcuts", "export", "run", "--out", "e", "--cast", "mat"]);
    let whole = fs::read(at.join("e/mat.safetensors")).unwrap();
    let readers: [&[&str]; 6] = [
        &["lens", "a", "--shortcuts", "sent.safetensors"],
        &["lens", "a", "--run", "run", "--shortcuts", "sent.safetensors"],
        &["evaluate", "--out", "run", "--overwrite", "--shortcuts", "sent.safetensors"],
        &["shortcuts", "list", "sent.safetensors"],
        &["shortcuts", "inspect", "sent.safetensors"],
        &["shortcuts", "import", "sent.safetensors", "--out", "x"],
    ];
    // A sign, and what the file says of its model.
    let model = whole.windows(9).position(|bytes| bytes == b"tiny-gpt2").unwrap();
    for (place, bit) in [(whole.len() - 1, 0x80), (model, 1)] {
        let mut bytes = whole.clone();
        bytes[place] ^= bit;
        fs::write(at.join("sent.safetensors"), bytes).unwrap();
        for reader in readers {
            fail(
                at,
                reader,
                &["`sent.safetensors` was changed or removed since it was written", "get a copy"],
            );
        }
    }
    let key = whole.windows(KEY.len()).position(|bytes| bytes == KEY.as_bytes()).unwrap();
    let mut bytes = whole.clone();
    bytes[key] ^= 1;
    fs::write(at.join("sent.safetensors"), bytes).unwrap();
    fail(at, readers[0], &["`sent.safetensors`", "no digest of itself"]);
    fs::write(at.join("sent.safetensors"), whole).unwrap();
    readers.iter().for_each(|reader| drop(succeed(at, reader)));
}

/// What an earlier version wrote has its digests in the manifest beside it alone.
#[test]
fn maps_without_a_digest_of_themselves_are_read_where_a_manifest_has_it() {
    let at = tempfile::tempdir().unwrap();
    run(at.path());
    let at = at.path();
    let expected = succeed(at, &["lens", "a", "--run", "run"]);
    let mut digests = Vec::new();
    for (path, bytes) in files(&at.join("run/shortcuts")) {
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut json: serde_json::Value = serde_json::from_slice(&bytes[8..header]).unwrap();
        json["__metadata__"].as_object_mut().unwrap().remove(KEY).unwrap();
        let json = json.to_string();
        let bytes = [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &bytes[header..]].concat();
        digests.push((format!("shortcuts/{}", path.display()), sha256(&bytes)));
        fs::write(at.join("run/shortcuts").join(path), bytes).unwrap();
    }
    common::edit_manifest(&at.join("run"), |manifest| {
        for (path, digest) in digests {
            manifest["stages"]["fit"]["files"][path] = digest.into();
        }
    });
    assert_eq!(succeed(at, &["lens", "a", "--run", "run"]), expected);
    succeed(at, &["lens", "a", "--shortcuts", "run/shortcuts"]);
    fs::copy(at.join("run/shortcuts/03.safetensors"), at.join("03.safetensors")).unwrap();
    fail(at, &["shortcuts", "list", "03.safetensors"], &["`03.safetensors`", "no digest of itself"]);
}

#[test]
fn maps_beyond_the_last_layer_are_refused() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    fs::create_dir(at.join("maps")).unwrap();
    let width = 128;
    let mut npy = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    npy.extend(
        format!("{:<117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (128, 128), }").bytes(),
    );
    npy.resize(npy.len() + 4 * width * width, 0);
    fs::write(at.join("maps/0_99.npy"), &npy).unwrap();
    fs::write(at.join("maps/0_12.npy"), &npy).unwrap();
    let says = ["not for this model", "there is one from layer 0 to 99, and the model has 12 layers"];
    let import = ["shortcuts", "import", "maps", "--out", "known", "--model", "tiny-gpt2"];
    fail(at, &import, &[&says[..], &["`maps`"]].concat());
    assert!(!at.join("known").exists());
    succeed(at, &["shortcuts", "import", "maps", "--out", "unknown"]);
    fail(at, &["lens", "a", "--shortcuts", "unknown"], &[&says[..], &["unknown/00.safetensors"]].concat());
    succeed(at, &["samples", "--train", "60", "--val", "20", "--out", "out"]);
    succeed(at, &["states", "--out", "out"]);
    for stage in ["r2", "evaluate"] {
        fail(at, &[stage, "--out", "out", "--shortcuts", "unknown"], &says);
    }
}
