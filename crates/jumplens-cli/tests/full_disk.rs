//! A full disk costs no earlier result, and nothing half written is taken for whole. Needs the right to mount a tmpfs;
//! without it the tests say so and pass.

mod common;

use common::{SMALL, assert_nothing_partial, assert_same_run, fail, files, succeed};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system below a temporary folder.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        let folder = at.join("disk");
        fs::create_dir(&folder).unwrap();
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&folder).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        eprintln!("SKIPPED: mounting a tmpfs is not permitted here, so no disk can be filled");
        None
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success());
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let mut filler = fs::File::create(self.0.join("filler")).unwrap();
        while filler.write_all(&[1; 4096]).is_ok() {}
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn run_goes_on_once_there_is_space() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let Some(disk) = Disk::mount(at, "300k") else { return };
    let run = [&SMALL[..], &["--out", "disk/run", "--resume"]].concat();
    // Full within the train states, the val states, and the maps.
    for size in ["300k", "860k", "1200k", "3m"] {
        disk.resize(size);
        fail(at, &run, &["cannot write `disk/run/", "No space left", "free some space", "`--resume`"]);
        for (path, bytes) in files(&disk.0.join("run")) {
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
                let value: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
                let ends = value.as_object().unwrap().values().map(|tensor| &tensor["data_offsets"][1]);
                let end = ends.filter_map(serde_json::Value::as_u64).max().unwrap() as usize;
                assert_eq!(bytes.len(), 8 + header + end, "{} is cut short", path.display());
            }
        }
        assert!(!disk.0.join("run/results").exists());
    }
    disk.resize("30m");
    succeed(at, &run);
    succeed(at, &[&SMALL[..], &["--out", "straight"]].concat());
    assert_same_run(&at.join("straight"), &disk.0.join("run"));
    assert_nothing_partial(&disk.0.join("run"));
}

#[test]
fn earlier_results_survive() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let Some(disk) = Disk::mount(at, "30m") else { return };
    let run = [&SMALL[..], &["--out", "disk/run"]].concat();
    succeed(at, &run);
    let before = files(&disk.0.join("run"));
    disk.fill();
    let says = ["cannot write `disk/run/", "No space left", "free some space"];
    fail(at, &[&run[..], &["--overwrite", "--seed", "1"]].concat(), &says);
    for stage in ["states", "fit", "r2", "evaluate"] {
        fail(at, &[stage, "--out", "disk/run", "--overwrite"], &says);
        assert!(files(&disk.0.join("run")) == before, "`{stage}` changed the run");
    }
    fs::remove_file(disk.0.join("filler")).unwrap();
    succeed(at, &["evaluate", "--out", "disk/run", "--overwrite"]);
    succeed(at, &["plot", "--out", "disk/run"]);
    assert!(
        files(&disk.0.join("run/results"))
            .iter()
            .all(|(name, now)| { before[&Path::new("results").join(name)] == *now })
    );
}
