//! `manifest.json` of a run folder that has everything else: the run is opened, and its stages are done again, each with
//! what the manifest says of those before it.
#![no_main]

use jumplens::progress::Silent;
use jumplens::run::Run;
use jumplens::shortcut::Pairs;
use jumplens::store::Stage;
use jumplens_fuzz::{begin, bound, folder, limit, seed, sound, sources};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

/// A run with all its stages but the figures.
static WHOLE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let path = folder.path().join("run");
    let mut run = begin(&path, Pairs::All, None);
    let manifest = |name: &str| seed("manifest", name, &fs::read(path.join("manifest.json")).expect("it is there"));
    manifest("states");
    run.fit(run.manifest().fits.clone(), &Silent).expect("it has states");
    run.moments(&Silent).expect("it has states");
    run.r2(None, &Silent).expect("it has maps");
    run.evaluate(None, &Silent).expect("it has maps");
    manifest("whole");
    folder
});

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folders can be made");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("the folder can be read").path();
        let to = to.join(path.file_name().expect("it has a name"));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("files can be copied");
        }
    }
}

libfuzzer_sys::fuzz_target!(
    init: {
        LazyLock::force(&WHOLE);
    },
    |bytes: &[u8]| {
        limit(4 * bound(bytes.len()));
        let folder = folder(&[("manifest.json", bytes)]);
        if sound(Run::open(&folder, &sources(), &Silent)).is_none() {
            return;
        }
        let manifest = fs::read(folder.join("manifest.json")).expect("it was written");
        copy(&WHOLE.path().join("run"), &folder);
        fs::write(folder.join("manifest.json"), manifest).expect("files can be written");
        // The last ones first, so that they find what the manifest says, and not what the others have written.
        for stage in [Stage::Evaluate, Stage::R2, Stage::Fit, Stage::States] {
            let Some(mut run) = sound(Run::open(&folder, &sources(), &Silent)) else { return };
            sound(run.stage(stage, &Silent));
            sound(run.moments(&Silent));
            sound(run.summary());
        }
    }
);
