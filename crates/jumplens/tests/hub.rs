//! Models from a Hub on loopback, from its cache, and from folders with shards or GPT-2's own tokenizer files.

mod common;
#[path = "common/hub_server.rs"]
mod hub_server;

use common::Checkpoint;
use hub_server::{Model, Server, etag};
use jumplens::Error;
use jumplens::hub::{Hub, HubName, ModelFiles, Sources};
use jumplens::models::{describe, load};
use jumplens::nn::Precision;
use jumplens::progress::{Observer, Silent};
use jumplens::run::{Existing, Run, SampleSource, Settings};
use jumplens::shortcut::{Fits, Pairs};
use jumplens::tokenize::Tokenizer;
use jumplens_assets::{TINY_GPT2, WIKIPEDIA_SAMPLE};
use safetensors::tensor::SafeTensors;
use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const LATER: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// The bundled GPT-2 as a model on a Hub.
fn tiny(commit: &str) -> Model {
    let files = [
        ("config.json", TINY_GPT2.config),
        ("model.safetensors", TINY_GPT2.weights),
        ("tokenizer.json", TINY_GPT2.tokenizer),
        ("README.md", b"never fetched"),
        ("pytorch_model.bin", b"never fetched"),
    ];
    let files = files.map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).into();
    Model { commit: commit.to_owned(), files, gate: None }
}

fn hub(server: &Server, cache: &Path) -> Hub {
    Hub { endpoint: server.endpoint.clone(), ..Hub::new(cache) }
}

fn find_with(name: &str, hub: Hub, observer: &dyn Observer) -> jumplens::Result<ModelFiles> {
    ModelFiles::find(name, &Sources { hub: Some(hub), ..common::sources() }, observer)
}

fn find(name: &str, hub: &Hub) -> jumplens::Result<ModelFiles> {
    find_with(name, hub.clone(), &Silent)
}

/// Keeps what it is told; wants to stop once `stop_at` bytes have come.
#[derive(Default)]
struct Watch {
    total: Cell<u64>,
    advanced: Cell<u64>,
    stop_at: Option<u64>,
    notes: RefCell<Vec<String>>,
}

impl Observer for Watch {
    fn begin(&self, stage: &'static str, total: u64, unit: &'static str) {
        assert_eq!((stage, unit), ("download", "bytes"));
        self.total.set(total);
    }

    fn advance(&self, amount: u64) {
        self.advanced.set(self.advanced.get() + amount);
    }

    fn note(&self, line: &str) {
        self.notes.borrow_mut().push(line.to_owned());
    }

    fn cancelled(&self) -> bool {
        self.stop_at.is_some_and(|at| self.advanced.get() >= at)
    }
}

/// Lenses lie beside one another in one repository, by the names of their models.
#[test]
fn one_file_is_fetched_by_its_name() {
    let lens = include_bytes!("fixtures/lenses/jacobian.pt");
    let files =
        [("toy/jlens/lens.pt".to_owned(), lens.to_vec()), ("other.pt".to_owned(), b"never fetched".to_vec())];
    let model = Model { commit: COMMIT.to_owned(), files: files.into(), gate: None };
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start([("org/lenses", model)]));
    let mut hub = hub(&server, cache.path());
    let name = HubName::parse("org/lenses").unwrap();
    let path = hub.file(&name, "toy/jlens/lens.pt", &Silent).unwrap();
    assert_eq!(fs::read(&path).unwrap(), lens);
    assert_eq!(jumplens::shortcut::Foreign::read(&path).unwrap().pairs.len(), 2);
    assert!(!server.requests().iter().any(|request| request.contains("other")));
    let error = hub.file(&name, "toy/lens.pt", &Silent).unwrap_err();
    assert!(matches!(error, Error::NotInModel { .. }), "{error}");
    hub.offline = true;
    assert_eq!(hub.file(&name, "toy/jlens/lens.pt", &Silent).unwrap(), path);
    assert!(matches!(hub.file(&name, "other.pt", &Silent), Err(Error::NotCached { .. })));
}

#[test]
fn a_model_is_fetched_once_into_the_layout_of_huggingface_hub() {
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start([("org/tiny", tiny(COMMIT))]));
    let mut hub = hub(&server, cache.path());
    // The test server's contents refuse a request that has it.
    hub.token = Some("secret".into());
    let watch = Watch::default();
    let files = find_with("org/tiny", hub.clone(), &watch).unwrap();
    assert_eq!((&*files.id, files.revision.as_deref()), ("org/tiny", Some(COMMIT)));
    assert_eq!(files.config.bytes(), TINY_GPT2.config);
    assert_eq!(files.weights[0].bytes(), TINY_GPT2.weights);
    let bytes = [TINY_GPT2.config, TINY_GPT2.weights, TINY_GPT2.tokenizer].map(|file| file.len() as u64);
    assert_eq!((watch.total.get(), watch.advanced.get()), (bytes.iter().sum(), bytes.iter().sum()));
    assert!(!server.requests().iter().any(|request| request.contains("README") || request.contains(".bin")));

    let repo = cache.path().join("models--org--tiny");
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let snapshot = repo.join("snapshots").join(COMMIT);
    for (name, bytes) in [("config.json", TINY_GPT2.config), ("model.safetensors", TINY_GPT2.weights)] {
        assert_eq!(fs::read(repo.join("blobs").join(etag(bytes))).unwrap(), bytes);
        #[cfg(unix)]
        assert_eq!(
            fs::read_link(snapshot.join(name)).unwrap(),
            Path::new("../../blobs").join(etag(bytes)),
            "{name}"
        );
        assert_eq!(fs::read(snapshot.join(name)).unwrap(), bytes);
    }

    // Again: only the commit is asked for.
    find("org/tiny", &hub).unwrap();
    assert_eq!(server.requests(), ["GET /api/models/org/tiny/revision/main"]);
    // By its commit: nothing is.
    find(&format!("org/tiny@{COMMIT}"), &hub).unwrap();
    hub.offline = true;
    assert_eq!(find("org/tiny", &hub).unwrap().weights[0].bytes(), TINY_GPT2.weights);
    assert_eq!(server.requests(), [""; 0]);
    // Without the server: with a word about it.
    hub.offline = false;
    server.set(|state| state.down = true);
    let watch = Watch::default();
    assert_eq!(find_with("org/tiny", hub, &watch).unwrap().revision.as_deref(), Some(COMMIT));
    let notes = watch.notes.take();
    assert!(notes.len() == 1 && notes[0].contains(COMMIT) && notes[0].contains("network"), "{notes:?}");
}

#[test]
fn what_lies_beside_a_tokenizer_is_fetched_with_it() {
    let beside = ["tokenizer_config.json", "added_tokens.json"];
    let mut model = tiny(COMMIT);
    model.files.insert(beside[0].to_owned(), br#"{"add_prefix_space": true}"#.to_vec());
    model.files.insert(beside[1].to_owned(), br#"{"<ent>": 4000}"#.to_vec());
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start([("org/tiny", model)]));
    let mut hub = hub(&server, cache.path());
    let names = |files: &ModelFiles| -> Vec<String> {
        let files = files.tokenizer.as_ref().unwrap().files();
        files.iter().map(|file| file.path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let files = find("org/tiny", &hub).unwrap();
    assert_eq!(names(&files), ["tokenizer.json", beside[0], beside[1]]);
    let digest = files.tokenizer.as_ref().unwrap().sha256();
    let plain =
        ModelFiles::find("tiny-gpt2", &common::sources(), &Silent).unwrap().tokenizer.unwrap().sha256();
    assert_eq!(plain, jumplens::files::sha256(TINY_GPT2.tokenizer));
    assert_ne!(digest, plain);

    // All is known of the commit, that it has no special_tokens_map.json as well.
    server.requests();
    let pinned = format!("org/tiny@{COMMIT}");
    find(&pinned, &hub).unwrap();
    assert_eq!(server.requests(), [""; 0]);
    hub.offline = true;
    let watch = Watch::default();
    let offline = find_with("org/tiny", hub.clone(), &watch).unwrap();
    assert_eq!(offline.tokenizer.unwrap().sha256(), digest);
    assert!(watch.notes.take().is_empty());

    // A cache that was filled by a program that did not ask for them.
    let repo = cache.path().join("models--org--tiny");
    fs::remove_dir_all(repo.join(".no_exist")).unwrap();
    for name in beside {
        fs::remove_file(repo.join("snapshots").join(COMMIT).join(name)).unwrap();
    }
    let watch = Watch::default();
    assert_eq!(names(&find_with("org/tiny", hub.clone(), &watch).unwrap()), ["tokenizer.json"]);
    let notes = watch.notes.take();
    assert!(notes.len() == 1 && notes[0].contains(beside[0]) && notes[0].contains("offline"), "{notes:?}");
    hub.offline = false;
    assert_eq!(find(&pinned, &hub).unwrap().tokenizer.unwrap().sha256(), digest);
}

#[test]
fn short_names_find_older_caches() {
    let at = tempfile::tempdir().unwrap();
    let repo = at.path().join("models--gpt2");
    let snapshot = repo.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    fs::write(snapshot.join("config.json"), TINY_GPT2.config).unwrap();
    fs::write(snapshot.join("model.safetensors"), TINY_GPT2.weights).unwrap();
    let hub = Hub { offline: true, ..Hub::new(at.path()) };
    for name in ["gpt2", "openai-community/gpt2"] {
        assert_eq!(find(name, &hub).unwrap().id, "openai-community/gpt2");
    }
}

#[test]
fn a_download_that_broke_off_is_gone_on_with() {
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start([("org/tiny", tiny(COMMIT))]));
    let hub = hub(&server, cache.path());
    let half = TINY_GPT2.weights.len() / 2;
    let part = cache.path().join("models--org--tiny/blobs").join(etag(TINY_GPT2.weights) + ".incomplete");

    // One time: within the same start.
    server.set(|state| state.break_after = vec![half]);
    let files = find("org/tiny", &hub).unwrap();
    assert_eq!(files.weights[0].bytes(), TINY_GPT2.weights);
    let path = format!("/org/tiny/resolve/{COMMIT}/model.safetensors");
    assert!(server.requests().contains(&format!("GET {path} {half}")));

    // Without a byte more each time it is tried again: an error, and the part is kept.
    drop(files);
    fs::remove_dir_all(cache.path().join("models--org--tiny")).unwrap();
    server.set(|state| state.break_after = vec![half, 0]);
    let Err(Error::Network { url, message }) = find("org/tiny", &hub) else { panic!("no error") };
    assert!(url.ends_with("model.safetensors") && message.contains(&half.to_string()), "{url} {message}");
    assert_eq!(fs::read(&part).unwrap(), TINY_GPT2.weights[..half]);
    server.requests();
    let watch = Watch::default();
    let files = find_with("org/tiny", hub.clone(), &watch).unwrap();
    assert_eq!(files.weights[0].bytes(), TINY_GPT2.weights);
    assert!(server.requests().contains(&format!("GET {path} {half}")));
    assert_eq!(watch.total.get(), watch.advanced.get());
    assert!(watch.total.get() < TINY_GPT2.weights.len() as u64, "the first half was fetched again");

    // A server without ranges sends all of it.
    drop(files);
    fs::remove_dir_all(cache.path().join("models--org--tiny")).unwrap();
    server.set(|state| (state.break_after, state.no_ranges) = (vec![half], true));
    assert_eq!(find("org/tiny", &hub).unwrap().weights[0].bytes(), TINY_GPT2.weights);
}

#[test]
fn a_stopped_download_is_gone_on_with() {
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start([("org/tiny", tiny(COMMIT))]));
    let hub = hub(&server, cache.path());
    let watch = Watch { stop_at: Some(1_000_000), ..Watch::default() };
    assert!(matches!(find_with("org/tiny", hub.clone(), &watch), Err(Error::Interrupted)));
    let part = cache.path().join("models--org--tiny/blobs").join(etag(TINY_GPT2.weights) + ".incomplete");
    let have = fs::metadata(&part).unwrap().len();
    server.requests();
    assert_eq!(find("org/tiny", &hub).unwrap().weights[0].bytes(), TINY_GPT2.weights);
    let resumed = format!("GET /org/tiny/resolve/{COMMIT}/model.safetensors {have}");
    assert!(server.requests().contains(&resumed), "not from {have} on");
}

#[test]
fn damage_is_told_from_other_errors() {
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start([("org/tiny", tiny(COMMIT))]));
    let hub = hub(&server, cache.path());
    server.set(|state| state.corrupt = true);
    let Err(Error::DamagedDownload { expected, got, .. }) = find("org/tiny", &hub) else {
        panic!("no error")
    };
    assert_eq!(expected, etag(TINY_GPT2.weights));
    assert_ne!(expected, got);
    server.set(|state| state.corrupt = false);
    find("org/tiny", &hub).unwrap();
    for bytes in [TINY_GPT2.weights, TINY_GPT2.config] {
        let blob = cache.path().join("models--org--tiny/blobs").join(etag(bytes));
        fs::write(&blob, &bytes[..bytes.len() - 1]).unwrap();
        let Err(Error::DamagedCache { path, .. }) = find("org/tiny", &hub) else { panic!("no error") };
        assert_eq!(path, fs::canonicalize(&blob).unwrap());
        // As the advice says.
        fs::remove_file(&blob).unwrap();
        find("org/tiny", &hub).unwrap();
    }
}

#[test]
fn refusals_are_told_apart() {
    let gated = Model { gate: Some("right".into()), ..tiny(COMMIT) };
    let mut bare = tiny(COMMIT);
    bare.files.retain(|name, _| name != "config.json");
    let mut weightless = tiny(COMMIT);
    weightless.files.retain(|name, _| !name.contains("model"));
    let models = [
        ("org/tiny", tiny(COMMIT)),
        ("org/gated", gated),
        ("org/bare", bare),
        ("org/weightless", weightless),
    ];
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start(models));
    let hub = hub(&server, cache.path());
    let with = |token: &str| Hub { token: Some(token.into()), ..hub.clone() };
    assert!(matches!(find("org/none", &hub), Err(Error::NoSuchModel { id, .. }) if id == "org/none"));
    assert!(matches!(
        find("org/tiny@v9", &hub),
        Err(Error::NoSuchRevision { revision, .. }) if revision == "v9"
    ));
    assert!(matches!(find("org/gated", &hub), Err(Error::Gated { with_token: false, .. })));
    assert!(matches!(find("org/gated", &with("wrong")), Err(Error::Gated { with_token: true, .. })));
    assert_eq!(find("org/gated", &with("right")).unwrap().weights[0].bytes(), TINY_GPT2.weights);
    assert!(matches!(find("org/bare", &hub), Err(Error::NotInModel { file, .. }) if file == "config.json"));
    assert!(
        matches!(find("org/weightless", &hub), Err(Error::NoWeights { place }) if place == "org/weightless")
    );
    server.requests();
    let offline = Hub { offline: true, ..hub.clone() };
    assert!(matches!(find("org/tiny", &offline), Err(Error::NotCached { .. })));
    assert_eq!(server.requests(), [""; 0]);
    server.set(|state| state.down = true);
    assert!(matches!(find("org/tiny", &hub), Err(Error::Network { .. })));
    // What looks like a path is nothing to ask for.
    server.requests();
    for name in ["./tiny", "/tiny", "~/tiny", "a/b/c", "", "a//b", "../x", "a b", "C:\\x", "org/tiny@../x"] {
        assert!(matches!(find(name, &hub), Err(Error::UnknownModel { .. })), "{name}");
    }
    assert_eq!(server.requests(), [""; 0]);
}

#[test]
fn what_hardly_comes_is_given_up_or_gone_on_with() {
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start([("org/tiny", tiny(COMMIT))]));
    let hub = Hub { stall_timeout: Duration::from_secs(1), ..hub(&server, cache.path()) };
    let started = Instant::now();
    server.set(|state| state.slow_after = vec![0]);
    let Err(Error::Network { url, message }) = find("org/tiny", &hub) else { panic!("no error") };
    assert!(url.ends_with("/revision/main") && message.contains("at least 10000"), "{url}: {message}");
    assert!(message.contains("`HF_HUB_DOWNLOAD_TIMEOUT`"), "{message}");
    // A file is asked for again from where it slowed down; the list is quick and the file is not.
    let half = TINY_GPT2.weights.len() / 2;
    server.set(|state| state.slow_after = vec![usize::MAX, half]);
    server.requests();
    assert_eq!(find("org/tiny", &hub).unwrap().weights[0].bytes(), TINY_GPT2.weights);
    let again = format!("GET /org/tiny/resolve/{COMMIT}/model.safetensors ");
    let from =
        server.requests().iter().find_map(|request| request.strip_prefix(&again)?.parse::<usize>().ok());
    assert!(from.is_some_and(|from| (half..half + 1000).contains(&from)), "from {from:?}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn files_of_a_size_that_none_has_are_not_fetched() {
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start([("org/tiny", tiny(COMMIT))]));
    let claim = (etag(TINY_GPT2.config), 1 << 40);
    server.set(|state| drop(state.claims.insert("config.json".to_owned(), claim)));
    let Err(Error::Network { url, message }) = find("org/tiny", &hub(&server, cache.path())) else {
        panic!("no error")
    };
    assert!(url.ends_with("config.json") && message.contains("256 MB at most"), "{message}");
}

#[test]
fn a_busy_hub_is_asked_again_when_it_says() {
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start([("org/tiny", tiny(COMMIT))]));
    let hub = hub(&server, cache.path());
    let busy = |status: &'static str, after: &str| (status, vec![format!("Retry-After: {after}")]);
    let (many, down) = ("429 Too Many Requests", "503 Service Unavailable");
    let date = (
        down,
        vec![
            "Date: Sun, 06 Nov 1994 08:49:59 GMT".to_owned(),
            "Retry-After: Sun, 06 Nov 1994 08:50:00 GMT".to_owned(),
        ],
    );
    server.set(|state| state.busy = vec![busy(many, "1"), date]);
    let (started, watch) = (Instant::now(), Watch::default());
    find_with("org/tiny", hub.clone(), &watch).unwrap();
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
    let notes = watch.notes.take();
    assert_eq!(notes.len(), 2, "{notes:?}");
    for (note, status) in notes.iter().zip([many, down]) {
        assert!(note.contains(&server.endpoint) && note.contains("asks to wait 1 s"), "{note}");
        assert!(note.contains(status), "{note}");
    }

    // In vain: an end comes.
    fs::remove_dir_all(cache.path().join("models--org--tiny")).unwrap();
    server.set(|state| state.busy = vec![busy(many, "0"); 5]);
    server.requests();
    let Err(Error::Network { message, .. }) = find("org/tiny", &hub) else { panic!("no error") };
    assert!(message.contains(many), "{message}");
    assert_eq!(server.requests().len(), 5);
    // For longer than anyone waits.
    server.set(|state| state.busy = vec![busy(many, "3600")]);
    let Err(Error::Network { message, .. }) = find("org/tiny", &hub) else { panic!("no error") };
    assert!(message.contains("3600 s") && message.contains(many), "{message}");
    assert_eq!(server.requests().len(), 1);
    // A wait can be interrupted.
    struct Impatient(Instant);
    impl Observer for Impatient {
        fn cancelled(&self) -> bool {
            self.0.elapsed() > Duration::from_millis(300)
        }
    }
    server.set(|state| state.busy = vec![busy(many, "60")]);
    let started = Instant::now();
    assert!(matches!(find_with("org/tiny", hub, &Impatient(started)), Err(Error::Interrupted)));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn what_has_no_digest_is_said_to_be_unverified() {
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start([("org/tiny", tiny(COMMIT))]));
    let claim = |bytes: &[u8]| ("5f0c-1".to_owned(), bytes.len());
    server.set(|state| drop(state.claims.insert("config.json".to_owned(), claim(TINY_GPT2.config))));
    let watch = Watch::default();
    assert_eq!(
        find_with("org/tiny", hub(&server, cache.path()), &watch).unwrap().config.bytes(),
        TINY_GPT2.config
    );
    let notes = watch.notes.take();
    assert!(
        notes.len() == 1 && notes[0].contains("`config.json` of `org/tiny` could not be verified"),
        "{notes:?}"
    );
}

#[test]
fn names_of_files_are_escaped_and_none_leads_outside() {
    let names = [
        "data/50%.parquet",
        "data/a b?c.parquet",
        "data/naïve.parquet",
        "data/train#1.parquet",
        "data/train.parquet",
    ];
    let files =
        |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), name.as_bytes().to_vec())).collect();
    let set = |names: &[&str]| Model { commit: COMMIT.to_owned(), files: files(names), gate: None };
    let outside =
        ["../a.parquet", "/a.parquet", "a/../../b.parquet", "a\0.parquet", "a\n.parquet", "a\\b.parquet"];
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start([("datasets/org/odd", set(&names))]));
    let hub = hub(&server, cache.path());
    let name = HubName::parse("org/odd").unwrap();
    let fetch = || hub.data_set(&name, |names| Ok(names.to_vec()), |_| true, &Silent);
    let found = fetch().unwrap();
    assert_eq!(found.names, names);
    for (name, path) in names.iter().zip(&found.paths) {
        assert_eq!(fs::read_to_string(path).unwrap(), *name);
    }
    let before = files_below(cache.path());
    for name in outside {
        server.set(|state| drop(state.models.insert("datasets/org/odd".to_owned(), set(&[names[0], name]))));
        let Err(Error::Network { message, .. }) = fetch() else { panic!("{name:?} was taken") };
        assert!(message.contains("no path inside"), "{message}");
    }
    assert_eq!(files_below(cache.path()), before);
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: std::path::PathBuf| if path.is_dir() { files_below(&path) } else { vec![path] };
    let mut files: Vec<_> = entries.flat_map(below).collect();
    files.sort();
    files
}

#[test]
fn a_run_stays_with_its_commit() {
    let (at, server) = (tempfile::tempdir().unwrap(), Server::start([("org/tiny", tiny(COMMIT))]));
    let hub = hub(&server, &at.path().join("cache"));
    let sources = Sources { hub: Some(hub), ..common::sources() };
    let out = at.path().join("out");
    let settings = |model: &str| Settings {
        model: model.into(),
        samples: SampleSource::corpus(WIKIPEDIA_SAMPLE.name, 5, 5),
        seed: 0,
        fits: Fits::plain(Pairs::All),
        dtype: Precision::F32,
        shard: None,
    };
    Run::begin(&out, &settings("org/tiny"), Existing::Refuse, &sources, &Silent).unwrap();
    // The branch moves on to another model.
    server.set(|state| {
        let mut later = tiny(LATER);
        later.files.get_mut("config.json").unwrap().push(b'\n');
        state.models.insert("org/tiny".into(), later);
    });
    let run = Run::open(&out, &sources, &Silent).unwrap();
    assert_eq!(run.manifest().model.as_ref().unwrap().revision.as_deref(), Some(COMMIT));
    drop(run);
    Run::begin(&out, &settings("org/tiny"), Existing::Resume, &sources, &Silent).unwrap();
    let other = Run::begin(&out, &settings("org/tiny@main"), Existing::Resume, &sources, &Silent);
    let Some(Error::Differs { run, here, .. }) = other.err() else { panic!() };
    assert!(run.contains(COMMIT) && here.contains(LATER), "{run}, {here}");
}

/// Writes a checkpoint as two shards with their index.
fn write_shards(checkpoint: &Checkpoint, folder: &Path) {
    checkpoint.write(folder);
    let whole = folder.join("model.safetensors");
    let bytes = fs::read(&whole).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let shard = |name: &str| if name.starts_with("h.") { "blocks.safetensors" } else { "rest.safetensors" };
    for file in ["blocks.safetensors", "rest.safetensors"] {
        let in_shard = tensors.tensors().into_iter().filter(|(name, _)| shard(name) == file);
        fs::write(folder.join(file), safetensors::serialize(in_shard, None).unwrap()).unwrap();
    }
    let map: serde_json::Map<_, _> =
        tensors.names().into_iter().map(|name| (name.to_owned(), shard(name).into())).collect();
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    fs::remove_file(whole).unwrap();
}

#[test]
fn shards_make_the_same_model() {
    let (whole, shards) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (cache, checkpoint) = (tempfile::tempdir().unwrap(), Checkpoint::random(3));
    checkpoint.write(whole.path());
    write_shards(&checkpoint, shards.path());
    let open = |folder: &Path| {
        ModelFiles::find(folder.to_str().unwrap(), &Sources::default(), &Silent).map(|files| {
            let loaded = load(&files, Precision::F32).unwrap();
            let embedding = loaded.model.head().unwrap().unembedding().flatten_all().unwrap();
            (loaded.contents, embedding.to_vec1::<f32>().unwrap())
        })
    };
    let expected = open(whole.path()).unwrap();
    let numbers: usize = checkpoint.tensors.values().map(|(_, values)| values.len()).sum();
    assert_eq!(expected.0.parameters, numbers as u64);
    assert_eq!(open(shards.path()).unwrap(), expected);

    // From a Hub too, and a shard that is missing in the cache is fetched.
    let server = Server::start([("org/shards", Model::from_folder(shards.path(), COMMIT))]);
    let hub = hub(&server, cache.path());
    let files = find("org/shards", &hub).unwrap();
    assert_eq!(files.weights.len(), 2);
    assert_eq!(load(&files, Precision::F32).unwrap().contents, expected.0);
    assert_eq!(describe(&files).unwrap().contents, expected.0);
    let link = files.weights[0].path.clone();
    drop(files);
    fs::remove_file(&link).unwrap();
    let offline = Hub { offline: true, ..hub.clone() };
    assert!(matches!(find("org/shards", &offline), Err(Error::NotCached { .. })));
    find("org/shards", &hub).unwrap();
}

#[test]
fn indexes_that_do_not_fit_their_shards_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(&Checkpoint::random(3), folder.path());
    let path = folder.path().join("model.safetensors.index.json");
    let whole = fs::read_to_string(&path).unwrap();
    let find = || ModelFiles::find(folder.path().to_str().unwrap(), &Sources::default(), &Silent);
    let with = |tensor: &str, shard: &str| {
        let mut index: serde_json::Value = serde_json::from_str(&whole).unwrap();
        index["weight_map"][tensor] = shard.into();
        fs::write(&path, index.to_string()).unwrap();
    };
    for outside in ["../rest.safetensors", "/etc/passwd", "a/../../b", "C:\\x", "..\\x", "", "."] {
        with("wte.weight", outside);
        let Err(Error::Format { message, .. }) = find() else { panic!("{outside} was not refused") };
        assert!(message.contains("wte.weight"), "{message}");
    }
    with("wte.weight", "third.safetensors");
    assert!(matches!(find(), Err(Error::MissingShard { shard, .. }) if shard == "third.safetensors"));
    for (tensor, shard) in [("wte.weight", "blocks.safetensors"), ("no.such", "rest.safetensors")] {
        with(tensor, shard);
        let Err(Error::ShardLacks { tensor: named, shard: in_shard, .. }) =
            load(&find().unwrap(), Precision::F32).map(|_| ())
        else {
            panic!("no error")
        };
        assert_eq!((&*named, &*in_shard), (tensor, shard));
    }
}

/// The bundled GPT-2 with its tokenizer as `vocab.json` and `merges.txt`.
fn with_byte_pairs(folder: &Path, config: Option<&str>) -> Tokenizer {
    let json: serde_json::Value = serde_json::from_slice(TINY_GPT2.tokenizer).unwrap();
    let pair =
        |pair: &serde_json::Value| format!("{} {}\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
    let merges: String = json["model"]["merges"].as_array().unwrap().iter().map(pair).collect();
    fs::write(folder.join("config.json"), TINY_GPT2.config).unwrap();
    fs::write(folder.join("model.safetensors"), TINY_GPT2.weights).unwrap();
    fs::write(folder.join("vocab.json"), json["model"]["vocab"].to_string()).unwrap();
    fs::write(folder.join("merges.txt"), format!("#version: 0.2\n{merges}")).unwrap();
    if let Some(config) = config {
        fs::write(folder.join("tokenizer_config.json"), config).unwrap();
    }
    let files = ModelFiles::find(folder.to_str().unwrap(), &Sources::default(), &Silent).unwrap();
    let model = load(&files, Precision::F32).unwrap().model;
    Tokenizer::open(files.tokenizer.as_ref().unwrap(), model.spec(), true).unwrap()
}

#[test]
fn vocab_json_and_merges_txt_give_the_ids_of_tokenizer_json() {
    let bundled = ModelFiles::find("tiny-gpt2", &common::sources(), &Silent).unwrap();
    let spec = load(&bundled, Precision::F32).unwrap().model.spec().clone();
    let expected = Tokenizer::open(bundled.tokenizer.as_ref().unwrap(), &spec, true).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = with_byte_pairs(folder.path(), None);
    let odd = ["", " ", "a  b\t\u{85}c", "naïve 東京 🙂", "x<|endoftext|>y", "it's 1234 WE'LL"];
    for text in WIKIPEDIA_SAMPLE.sentences.lines().chain(odd) {
        assert_eq!(tokenizer.encode(text).unwrap(), expected.encode(text).unwrap(), "{text}");
    }
    // `<|endoftext|>` has id 0.
    let config =
        r#"{"add_prefix_space": true, "add_bos_token": true, "bos_token": {"content": "<|endoftext|>"}}"#;
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = with_byte_pairs(folder.path(), Some(config));
    for text in ["The river", "x"] {
        let behind = expected.encode(&format!(" {text}")).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), [&[0][..], &behind].concat());
    }
}

#[test]
fn settings_are_those_of_huggingface_hub() {
    let home = tempfile::tempdir().unwrap();
    let at = |below: &str| home.path().join(below);
    let hub = |variables: &[(&str, &str)]| {
        Hub::from_variables(home.path(), |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    };
    let plain = hub(&[]);
    assert_eq!(plain, Hub::new(at(".cache/huggingface/hub")));
    assert_eq!(plain.endpoint, "https://huggingface.co");
    assert_eq!(hub(&[("XDG_CACHE_HOME", "/x")]).cache, Path::new("/x/huggingface/hub"));
    assert_eq!(hub(&[("HF_HOME", "~/h"), ("XDG_CACHE_HOME", "/x")]).cache, at("h/hub"));
    assert_eq!(hub(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")]).cache, Path::new("/c"));
    assert_eq!(hub(&[("HF_ENDPOINT", "http://mirror/hf/")]).endpoint, "http://mirror/hf");
    for (value, offline) in [("1", true), ("TRUE", true), ("yes", true), ("0", false), ("", false)] {
        assert_eq!(hub(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
    }
    fs::create_dir(at("h")).unwrap();
    let patience = |seconds: &str| hub(&[("HF_HUB_DOWNLOAD_TIMEOUT", seconds)]).stall_timeout.as_secs();
    assert_eq!([patience("120"), patience("0"), patience("soon")], [120, 30, 30]);
    fs::write(at("h/token"), "from-file\n").unwrap();
    assert_eq!(hub(&[("HF_HOME", "~/h")]).token.as_deref(), Some("from-file"));
    assert_eq!(hub(&[("HF_HOME", "~/h"), ("HF_TOKEN", " given ")]).token.as_deref(), Some("given"));
    assert!(!format!("{:?}", hub(&[("HF_TOKEN", "secret")])).contains("secret"));
}

#[test]
fn names_are_read_as_the_hub_spells_them() {
    let parse = |name: &str| HubName::parse(name).map(|name| (name.id, name.revision));
    let some = |id: &str, revision: Option<&str>| Some((id.to_owned(), revision.map(str::to_owned)));
    assert_eq!(parse("gpt2"), some("openai-community/gpt2", None));
    assert_eq!(parse("bert-base-uncased@v1"), some("google-bert/bert-base-uncased", Some("v1")));
    assert_eq!(parse("org/na.me_1@refs/pr/3"), some("org/na.me_1", Some("refs/pr/3")));
    assert_eq!(parse("a--b"), None);
    assert_eq!(parse("gpt2@"), None);
}
