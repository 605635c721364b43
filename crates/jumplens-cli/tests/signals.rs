//! A signal ends any command within a moment, wherever it is, with one line that says what is kept and how to go on.
#![cfg(unix)]

mod common;

use common::{SMALL, assert_same_files, assert_same_run, copy_of, files, jumplens, signal, stderr, succeed};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Two seconds are promised; twice that on a machine that does other work too.
const MOST: Duration = Duration::from_secs(4);

/// Waits until the program listens for signals: on Linux it is asked whether it catches `TERM`.
fn until_it_listens(child: &mut Child) {
    const TERM: u64 = 1 << 14;
    if !cfg!(target_os = "linux") {
        return sleep(Duration::from_millis(500));
    }
    let status = format!("/proc/{}/status", child.id());
    let catches = || {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        caught.is_some_and(|caught| u64::from_str_radix(caught.trim(), 16).unwrap() & TERM != 0)
    };
    while !catches() && child.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(1));
    }
}

/// Sends `name` to what `command` starts, once it listens and `delay` is over. It has to end in time, as interrupted if it
/// was not done before: gives what it said then.
#[track_caller]
fn interrupted(mut command: Command, name: &str, delay: Duration) -> Option<String> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until_it_listens(&mut child);
    sleep(delay);
    if child.try_wait().unwrap().is_some() {
        return None;
    }
    signal(&child, name);
    let sent = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if sent.elapsed() > MOST {
            child.kill().unwrap();
            panic!("{command:?} goes on {MOST:?} after {name}");
        }
        sleep(Duration::from_millis(5));
    }
    let output: Output = child.wait_with_output().unwrap();
    let said = stderr(&output);
    if output.status.success() {
        return None;
    }
    assert_eq!(output.status.code(), Some(130), "{command:?}, {name}: {:?} {said}", output.status);
    assert_eq!(said.lines().count(), 1, "{command:?}, {name}: {said}");
    assert!(said.starts_with("error: interrupted; "), "{command:?}, {name}: {said}");
    Some(said)
}

fn quiet(at: &Path, args: &[&str]) -> Command {
    jumplens(at, &[&["-q"], args].concat())
}

/// What commands start from, made once.
fn make_folders(at: &Path) {
    succeed(at, &[&SMALL[..], &["-q", "--out", "run"]].concat());
    for share in ["1/2", "2/2"] {
        let out = &format!("share{}", &share[..1]);
        succeed(at, &["-q", "moments", "--train", "60", "--val", "20", "--shard", share, "--out", out]);
    }
    succeed(at, &[&["-q", "merge"], &SHARES[..], &["--out", "sums.safetensors"]].concat());
    succeed(at, &["-q", "shortcuts", "export", "run", "--out", "exported"]);
}

/// Those that are given again after a signal, for the same bytes.
const COMPARED: [&str; 6] = ["run", "samples", "states", "moments", "merge", "sentences"];

const SHARES: [&str; 2] = ["share1/moments.safetensors", "share2/moments.safetensors"];

const OWN: [&str; 4] = ["--train", "run/states/train", "--val", "run/states/val"];

/// Every command, so that it writes to `out` or to `run`, and what it goes on by.
fn commands() -> Vec<(Vec<&'static str>, &'static str)> {
    let counts = ["--train", "100", "--val", "20", "--pairs", "to-final", "--out", "out"];
    let again = ["--out", "run", "--overwrite"];
    let of_run = |stage: &'static str| [&[stage][..], &again].concat();
    let (resume, anew) = ("`--resume`", "give the command again");
    vec![
        ([&["run"], &counts[..]].concat(), resume),
        ([&["run", "--overwrite", "--seed", "1"], &counts[..6], &["--out", "run"]].concat(), resume),
        ([&["samples"], &counts[..]].concat(), resume),
        ([&["moments"], &counts[..]].concat(), "the same command"),
        ([&["maps"], &counts[..]].concat(), "the same command"),
        (of_run("states"), "`jumplens states --out run`"),
        (["states", "import"].into_iter().chain(OWN).chain(["--out", "out"]).collect(), anew),
        (of_run("fit"), anew),
        ([&["fit", "--ridge", "auto", "--rank", "16"], &again[..]].concat(), anew),
        (of_run("r2"), anew),
        (of_run("evaluate"), anew),
        (vec!["plot", "--out", "run"], anew),
        (vec!["sentences", "--num", "500", "--out", "out"], anew),
        ([&["merge"], &SHARES[..], &["--out", "out"]].concat(), anew),
        (vec!["fit", "--moments", "sums.safetensors", "--out", "out"], anew),
        (vec!["compare", "run", "run", "--out", "out"], anew),
        (vec!["lens", "--run", "run", "The river rises in the mountains and flows to the sea"], anew),
        (vec!["lens", "The river rises in the mountains"], anew),
        (vec!["info", "tiny-bert"], anew),
        (vec!["completions", "bash"], anew),
        (vec!["man"], anew),
        (vec!["doctor", "tiny-gpt2"], anew),
        (vec!["prune", "tiny-gpt2", "--blocks", "2", "--train", "100", "--val", "20", "--out", "out"], anew),
        (
            [&["arena", "tiny-gpt2", "--prompts", "2", "--prompt-tokens", "24"], &counts[..4], &counts[6..]]
                .concat(),
            resume,
        ),
        (vec!["shortcuts", "list", "run"], anew),
        (vec!["shortcuts", "inspect", "run"], anew),
        (vec!["shortcuts", "export", "run", "--out", "out"], anew),
        (vec!["shortcuts", "import", "exported/mat.safetensors", "--out", "out"], anew),
    ]
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").arg(from.join(".")).arg(to).status().unwrap();
    assert!(copied.success());
}

/// At moments that a seed chooses, over all of the time that each command takes.
#[test]
fn every_command_ends_soon_wherever_it_is() {
    let base = tempfile::tempdir().unwrap();
    make_folders(base.path());
    let help = succeed(base.path(), &["--help"]);
    let names =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    for name in
        names.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next())
    {
        let is_tried = name == "help" || commands().iter().any(|(args, _)| args[0] == name);
        assert!(is_tried, "`{name}` is not tried");
    }
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (mut tried, mut landed) = (0, 0);
    for (index, (args, goes_on)) in commands().into_iter().enumerate() {
        let straight = tempfile::tempdir().unwrap();
        let mut takes = Duration::from_millis(400);
        if COMPARED.contains(&args[0]) {
            copy(base.path(), straight.path());
            let started = Instant::now();
            succeed(straight.path(), &[&["-q"], &args[..]].concat());
            takes = started.elapsed();
        }
        // All stages of a run, one after another; of the others, one moment each.
        let moments = if args[0] == "run" { 4 } else { 1 };
        for moment in 0..moments {
            let name = ["INT", "TERM"][(index + moment) % 2];
            let at = tempfile::tempdir().unwrap();
            let at = at.path();
            copy(base.path(), at);
            tried += 1;
            let delay = takes.mul_f64((moment as f64 + rng.random_range(0.0..0.9)) / moments as f64);
            let Some(said) = interrupted(quiet(at, &args), name, delay) else { continue };
            landed += 1;
            let kept = at.join("out").join("samples/val.jsonl").exists() || args.contains(&"run");
            assert!(
                said.contains(goes_on) || !kept || said.contains("nothing is kept yet"),
                "{args:?}: {said}"
            );
            // A command that has no `--resume` is not advised to use it.
            assert!(goes_on.contains("--resume") || !said.contains("--resume"), "{args:?}: {said}");
            for (path, bytes) in files(at) {
                let resumed = path.components().any(|part| part.as_os_str() == "states");
                assert!(resumed || path.extension().is_none_or(|e| e != "part"), "{args:?} left {path:?}");
                if !path.starts_with("out") && !path.starts_with("run") {
                    assert!(fs::read(base.path().join(&path)).unwrap() == bytes, "{args:?} changed {path:?}");
                }
            }
            // As it says, to the same end.
            let go_on: Vec<&str> = match args[0] {
                "run" if said.contains("--resume") => args
                    .iter()
                    .map(|arg| if *arg == "--overwrite" { "--resume" } else { arg })
                    .chain((!args.contains(&"--overwrite")).then_some("--resume"))
                    .collect(),
                "states" if said.contains("`jumplens states") => vec!["states", "--out", "run"],
                _ => args.clone(),
            };
            let part = match args[0] {
                "run" => {
                    if args.contains(&"out") {
                        "out"
                    } else {
                        "run"
                    }
                }
                "samples" => "out/samples",
                "states" if args.contains(&"import") => "out/states",
                "states" => "run/states",
                "moments" => "out/moments.safetensors",
                "merge" | "sentences" => "out",
                _ => continue,
            };
            succeed(at, &[&["-q"], &go_on[..]].concat());
            let (left, right) = (straight.path().join(part), at.join(part));
            match left.is_dir() {
                true if args[0] == "run" => assert_same_run(&left, &right),
                true => assert_same_files(&left, &right),
                false => assert!(fs::read(left).unwrap() == fs::read(right).unwrap(), "{args:?}: {part}"),
            }
        }
    }
    eprintln!("{landed} of {tried} signals came before the command was done");
    assert!(landed * 4 > tried, "only {landed} of {tried} signals came before the command was done");
}

/// Where the library waits for something that never comes.
#[test]
fn a_command_that_hangs_ends_as_well() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let moment = Duration::from_millis(200);
    // A Hub that sends a list of files a byte at a time.
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", hub.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in hub.incoming().flatten() {
            std::thread::spawn(move || {
                let mut begun = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n");
                while begun.is_ok() {
                    sleep(Duration::from_millis(700));
                    begun = stream.write_all(b" ");
                }
            });
        }
    });
    // Pipes that nobody writes to, or where whoever might says nothing.
    for name in ["alone.txt", "silent.txt"] {
        assert!(Command::new("mkfifo").arg(at.join(name)).status().unwrap().success());
    }
    let _writer = fs::File::options().read(true).write(true).open(at.join("silent.txt")).unwrap();
    let cases: [&[&str]; 6] = [
        &["info", "a/b"],
        &["run", "--model", "a/b", "--out", "out"],
        &["sentences", "--corpus", "alone.txt", "--num", "3", "--out", "out"],
        &["run", "--corpus", "silent.txt", "--train", "3", "--val", "3", "--out", "out"],
        &["doctor", "tiny-gpt2", "--corpus", "silent.txt"],
        &["lens"],
    ];
    let before = files_but(at);
    std::thread::scope(|scope| {
        for args in cases {
            let endpoint = &endpoint;
            scope.spawn(move || {
                for name in ["INT", "TERM"] {
                    let mut command = quiet(at, args);
                    command.env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", endpoint).stdin(Stdio::piped());
                    let said = interrupted(command, name, moment).expect("it came to an end");
                    assert!(said.contains("give the command again"), "{args:?}: {said}");
                    assert!(!said.contains("--resume"), "{args:?}: {said}");
                }
            });
        }
    });
    assert_eq!(files_but(at), before);
}

/// The names in a folder, but for the Hub's cache.
fn files_but(at: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.retain(|name| name != "hf");
    names.sort();
    names
}

/// What is to be read whole has to be a file: nothing waits for the end of a pipe.
#[test]
fn a_pipe_in_the_place_of_a_file_is_refused_at_once() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    copy_of("tiny-gpt2", at, "model");
    succeed(at, &["-q", "run", "--train", "24", "--val", "8", "--pairs", "to-final", "--out", "run"]);
    let cases: [(&str, &[&str]); 8] = [
        ("model/config.json", &["info", "model"]),
        ("model/tokenizer.json", &["lens", "--model", "model", "x"]),
        ("model/model.safetensors", &["info", "model"]),
        (
            "samples.jsonl",
            &[
                "samples",
                "--train-samples",
                "samples.jsonl",
                "--val-samples",
                "samples.jsonl",
                "--out",
                "out",
            ],
        ),
        ("maps.safetensors", &["shortcuts", "list", "maps.safetensors"]),
        ("sums.safetensors", &["merge", "sums.safetensors", "--out", "out"]),
        ("run/samples/train.jsonl", &["evaluate", "--out", "run", "--overwrite"]),
        ("run/manifest.json", &["evaluate", "--out", "run", "--overwrite"]),
    ];
    for (file, args) in cases {
        let path = at.join(file);
        let kept = fs::read(&path).ok();
        let _ = fs::remove_file(&path);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let mut child = quiet(at, args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let started = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if started.elapsed() > Duration::from_secs(20) {
                child.kill().unwrap();
                panic!("`{file}` is waited for");
            }
            sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output().unwrap();
        let said = stderr(&output);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{file}: {said}");
        let name = Path::new(file).file_name().unwrap().to_str().unwrap();
        assert!(said.contains(name) && said.contains("not a regular file"), "{file}: {said}");
        fs::remove_file(&path).unwrap();
        kept.into_iter().for_each(|bytes| fs::write(&path, bytes).unwrap());
    }
}

/// A corpus is read once from its beginning to its end, so that another program may write it as it is read.
#[test]
fn a_corpus_may_come_through_a_pipe() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let text: String = (0..50).map(|n| format!("This is sentence number {n} of the corpus.\n")).collect();
    fs::write(at.join("file.txt"), &text).unwrap();
    assert!(Command::new("mkfifo").arg(at.join("pipe.txt")).status().unwrap().success());
    let path = at.join("pipe.txt");
    let writer = std::thread::spawn(move || fs::write(path, text).unwrap());
    let draw = ["--num", "20", "--lines", "sentences", "--out"];
    succeed(at, &[&["-q", "sentences", "--corpus", "pipe.txt"], &draw[..], &["piped"]].concat());
    writer.join().unwrap();
    succeed(at, &[&["-q", "sentences", "--corpus", "file.txt"], &draw[..], &["filed"]].concat());
    assert_eq!(fs::read(at.join("piped")).unwrap(), fs::read(at.join("filed")).unwrap());
}
