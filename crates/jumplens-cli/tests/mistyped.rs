//! What a new user mistypes, and what is said then; small runs; and what shells know of the command line.

mod common;

use common::{SMALL, copy_of, fail, jumplens, output, stderr, succeed};
use std::fs;
use std::path::Path;

/// A folder with two small runs in it, `runs/a` and `runs/deep/b`, and a model `my-gpt2`.
fn folder() -> tempfile::TempDir {
    let at = tempfile::tempdir().unwrap();
    for run in ["runs/a", "runs/deep/b"] {
        succeed(at.path(), &["-q", "samples", "--train", "5", "--val", "5", "--out", run]);
    }
    copy_of("tiny-gpt2", at.path(), "my-gpt2");
    at
}

#[test]
fn a_model_that_is_not_there_is_said_to_have_been_looked_for_and_the_likely_one_is_named() {
    let at = folder();
    let looked = "`tiny-gtp2` is no bundled model (`tiny-gpt2`, `tiny-bert`) and no folder or file here";
    for command in [
        &["run", "--model", "tiny-gtp2", "--out", "x"][..],
        &["info", "tiny-gtp2"],
        &["lens", "--model", "tiny-gtp2", "a"],
    ] {
        fail(at.path(), command, &[looked, "did you mean `tiny-gpt2`?", "`HF_HUB_OFFLINE`"]);
    }
    fail(at.path(), &["info", "my-gpt"], &["did you mean `my-gpt2`?"]);
    fail(at.path(), &["info", "./my-gtp2"], &["no model `./my-gtp2`", "did you mean `./my-gpt2`?"]);
    // Nothing is like it.
    let said = stderr(&output(at.path(), &["info", "facebook/opt-125m"]));
    assert!(said.contains("no folder or file here") && !said.contains("did you mean"), "{said}");
    // Without the Hub being there at all.
    let mut online = jumplens(at.path(), &["info", "tiny-gtp2"]);
    let online = online.env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", "http://127.0.0.1:9").output().unwrap();
    let said = stderr(&online);
    assert!(
        said.contains(looked) && said.contains("did you mean `tiny-gpt2`?") && said.contains("127.0.0.1:9"),
        "{said}"
    );
}

#[test]
fn values_of_options_are_guessed() {
    let at = folder();
    for (args, meant) in [
        (&["run", "--pairs", "to-fnal"][..], "to-final"),
        (&["run", "--dtype", "bf61"], "bf16"),
        (&["lens", "--format", "jsn", "a"], "json"),
        (&["plot", "--out", "runs/a", "--only", "precison"], "precision"),
        (&["run", "--corpus", "wikipedia-sampel"], "wikipedia-sample"),
        (&["lens", "--cast", "matt", "a"], "mat"),
        (&["run", "--trian", "5"], "--train"),
        (&["evalute", "--out", "runs/a"], "evaluate"),
    ] {
        fail(at.path(), args, &[&format!("did you mean `{meant}`?")]);
    }
}

#[test]
fn a_folder_that_is_no_run_says_which_are() {
    let at = folder();
    let (a, b) = (Path::new("runs").join("a"), Path::new("runs").join("deep").join("b"));
    let named = format!("these in it are: `{}`, `{}`", a.display(), b.display());
    for command in [
        &["fit", "--out", "runs"][..],
        &["evaluate", "--out", "runs"],
        &["plot", "--out", "runs"],
        &["lens", "--run", "runs", "a"],
        &["compare", "runs/a", "runs", "--out", "x"],
    ] {
        let says: &[&str] = if command[0] == "compare" { &[] } else { &[&named] };
        fail(at.path(), command, says);
    }
    for command in
        [&["fit", "--out", "ruins"][..], &["lens", "--run", "ruins", "a"], &["plot", "--out", "ruins"]]
    {
        fail(at.path(), command, &["there is no folder `ruins`", "did you mean `runs`?"]);
    }
    fail(at.path(), &["plot", "--out", "nothing-like-it"], &["there is no folder `nothing-like-it`"]);
}

#[test]
fn what_is_compared_has_to_be_there() {
    let at = folder();
    succeed(at.path(), &[&SMALL[..], &["-q", "--out", "done"]].concat());
    let words = |other: &str, says: &[&str]| fail(at.path(), &["compare", "done", other, "--out", "x"], says);
    words("nope", &["there is no folder `nope`"]);
    words("dome", &["there is no folder `dome`", "did you mean `done`?"]);
    words("runs", &["`runs`", "these in it are"]);
    words("runs/a", &["`runs/a`", "`states`", "run `jumplens"]);
    words("my-gpt2", &["`my-gpt2`", "not a run folder"]);
}

#[test]
fn numbers_below_zero_get_their_options_own_words() {
    let at = tempfile::tempdir().unwrap();
    for (args, says) in [
        (&["run", "--ridge", "-1"][..], "give a number above 0, or `auto`"),
        (&["run", "--ridge", "-0.5"], "give a number above 0, or `auto`"),
        (&["run", "--rank", "-4"], "give a whole number from 1 on"),
        (&["run", "--train", "-5"], "give a whole number from 0 on"),
        (&["run", "--seed", "-1"], "give a whole number from 0 on"),
        (&["run", "--threads", "-1"], "-1 is not in 1..=1024"),
        (&["plot", "--out", "x", "--dpi", "-3"], "-3 is not in 30..=2400"),
        (&["lens", "a", "--top", "-2"], "give a whole number from 0 on"),
        (&["sentences", "--out", "x", "--num", "-2"], "give a whole number from 0 on"),
    ] {
        fail(at.path(), args, &[says, args[args.len() - 2]]);
        assert!(!stderr(&output(at.path(), args)).contains("unexpected argument"), "{args:?}");
    }
    // Where they mean something they are still read.
    assert!(
        succeed(at.path(), &["lens", "a b c", "--lambda", "-1", "--position", "-1"]).contains("position 2")
    );
}

#[test]
fn ranks_have_to_be_below_the_width() {
    let at = tempfile::tempdir().unwrap();
    let begin =
        |rank: &'static str, out: &'static str| [&SMALL[..], &["--rank", rank, "--out", out]].concat();
    let says = ["maps of rank 128", "128 coordinates", "from 1 to 127"];
    fail(at.path(), &begin("128", "x"), &says);
    fail(at.path(), &begin("64,128", "x"), &says);
    assert!(!at.path().join("x").exists(), "nothing is begun");
    succeed(at.path(), &[&begin("127", "y")[..], &["-q"]].concat());
    fail(at.path(), &["fit", "--out", "y", "--overwrite", "--rank", "500"], &["maps of rank 500"]);
    succeed(
        at.path(),
        &["-q", "moments", "--train", "300", "--val", "20", "--pairs", "to-final", "--out", "sums"],
    );
    fail(at.path(), &["fit", "--moments", "sums/moments.safetensors", "--rank", "128", "--out", "z"], &says);
}

/// Every stage, the lens, sums, exported maps and a comparison, of one training and one validation sample.
#[test]
fn one_sample_is_enough_to_run_and_is_warned_of() {
    for model in ["tiny-gpt2", "tiny-bert"] {
        let at = tempfile::tempdir().unwrap();
        let at = at.path();
        let casts = ["--intercept", "--ridge", "auto", "--rank", "1"];
        let one = ["run", "--model", model, "--train", "1", "--val", "1"];
        let table = succeed(at, &[&one[..], &casts, &["--out", "one", "-q"]].concat());
        assert!(table.contains("; 1 validation sample\n"), "{table}");
        assert!(table.contains("Warning: the maps are fitted on 1 sample,"), "{table}");
        assert!(table.contains("Warning: there is 1 validation sample, which has no spread"), "{table}");
        let page = fs::read_to_string(at.join("one/report.html")).unwrap();
        assert!(page.contains("there is 1 validation sample, which has no spread"));
        let layers = fs::read_to_string(at.join("one/results/layers.csv")).unwrap();
        let last = layers.lines().find(|line| line.starts_with("mat,")).unwrap();
        // Bounds are the figure itself.
        let cells: Vec<&str> = last.split(',').collect();
        assert_eq!((cells[2], cells[2]), (cells[8], cells[9]), "{last}");
        succeed(at, &["-q", "lens", "--run", "one", "a river"]);
        succeed(at, &[&one[..], &["--seed", "1", "--out", "two", "-q"]].concat());
        succeed(at, &["-q", "compare", "one", "two", "--out", "both"]);
        succeed(at, &["-q", "shortcuts", "export", "one", "--out", "maps"]);
        succeed(at, &["-q", "shortcuts", "inspect", "one"]);
        succeed(at, &["-q", "moments", "--model", model, "--train", "1", "--val", "1", "--out", "sums"]);
        succeed(at, &["-q", "fit", "--moments", "sums/moments.safetensors", "--out", "fitted"]);
    }
}

#[test]
fn a_model_is_named_by_its_place_or_by_an_option() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    for command in ["info", "doctor"] {
        let by_place = succeed(at, &[command, "tiny-bert"]);
        assert_eq!(by_place, succeed(at, &[command, "--model", "tiny-bert"]));
        fail(at, &[command], &["MODEL"]);
        fail(at, &[command, "tiny-bert", "--model", "tiny-bert"], &["cannot be used with"]);
    }
    for (name, args) in [("a", &["samples", "tiny-bert"][..]), ("b", &["samples", "--model", "tiny-bert"])] {
        succeed(at, &[args, &["--train", "5", "--val", "5", "--out", name, "-q"]].concat());
    }
    common::assert_same_files(&at.join("a/samples"), &at.join("b/samples"));
    succeed(at, &["-q", "run", "tiny-bert", "--train", "20", "--val", "5"]);
    assert!(at.join("jumplens-runs/tiny-bert/report.html").exists());
    fail(at, &["run", "tiny-bert", "--model", "tiny-gpt2"], &["cannot be used with"]);
}

#[test]
fn shells_complete_and_manuals_are_written() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    for (shell, has) in [
        ("bash", "complete -F _jumplens"),
        ("zsh", "#compdef jumplens"),
        ("fish", "complete -c jumplens"),
        ("powershell", "Register-ArgumentCompleter"),
        ("elvish", "edit:completion"),
    ] {
        let script = succeed(at, &["completions", shell]);
        assert!(script.contains(has) && script.contains("evaluate") && script.contains("resume"), "{shell}");
    }
    fail(at, &["completions", "tcsh"], &["possible values: bash"]);
    let page = succeed(at, &["man"]);
    assert!(page.contains(".TH jumplens 1") && page.contains("jumplens\\-evaluate(1)"), "{page}");
    succeed(at, &["-q", "man", "--out", "man"]);
    let evaluate = fs::read_to_string(at.join("man/jumplens-evaluate.1")).unwrap();
    assert!(
        evaluate.contains(".TH jumplens-evaluate 1") && evaluate.contains("\\-\\-shortcuts"),
        "{evaluate}"
    );
    for page in ["jumplens.1", "jumplens-run.1", "jumplens-shortcuts-export.1"] {
        assert!(at.join("man").join(page).exists(), "{page}");
    }
}

#[test]
fn a_table_that_has_no_room_for_all_tokens_says_so() {
    let at = tempfile::tempdir().unwrap();
    let lens = |width: &str| {
        succeed(at.path(), &["lens", "a b c", "--position", "1", "--top", "5", "--width", width])
    };
    let narrow = lens("70");
    let shown = narrow.lines().find(|line| line.starts_with("    0 │")).unwrap().matches("0.").count();
    assert!(
        (1..5).contains(&shown) && narrow.contains(&format!("{shown} of 5 tokens fit in 70 columns")),
        "{narrow}"
    );
    assert!(!lens("200").contains("tokens fit"));
}

/// Commands are completed as bash does it, where bash is there.
#[test]
fn bash_completes_a_command() {
    let at = tempfile::tempdir().unwrap();
    let script = succeed(at.path(), &["completions", "bash"]);
    fs::write(at.path().join("jumplens.bash"), script).unwrap();
    let ask = "source ./jumplens.bash; COMP_WORDS=(jumplens eval); COMP_CWORD=1; _jumplens jumplens eval jumplens; echo ${COMPREPLY[@]}";
    let Ok(said) = std::process::Command::new("bash").args(["-c", ask]).current_dir(at.path()).output()
    else {
        return;
    };
    assert_eq!(
        String::from_utf8_lossy(&said.stdout).trim(),
        "evaluate",
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
}

#[test]
fn figures_are_drawn_in_other_sizes_and_alone() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    succeed(at, &[&SMALL[..], &["-q", "--out", "run"]].concat());
    let width = |name: &str| {
        let svg = fs::read_to_string(at.join(format!("run/plots/{name}.svg"))).unwrap();
        svg.split_once("width=\"").unwrap().1.split_once("mm\"").unwrap().0.parse::<f64>().unwrap()
    };
    assert_eq!((width("r2"), width("precision")), (80.0, 80.0));
    succeed(at, &["-q", "plot", "--out", "run", "--width", "two-column", "--only", "precision"]);
    assert_eq!((width("r2"), width("precision")), (80.0, 165.0), "the others are left alone");
    let page = fs::read_to_string(at.join("run/report.html")).unwrap();
    assert!(page.contains("plots/r2.pdf") && page.contains("plots/precision.png"));
    succeed(at, &["-q", "plot", "--out", "run", "--width", "120", "--font-size", "10", "--format", "svg"]);
    assert_eq!((width("r2"), width("precision")), (120.0, 120.0));
    let plot = |args: &[&str], says: &[&str]| fail(at, &[&["plot", "--out", "run"], args].concat(), says);
    plot(&["--width", "20"], &["20 mm wide", "64 to 300 mm"]);
    plot(&["--width", "-80"], &["-80 mm wide"]);
    plot(&["--width", "wide"], &["`one-column` or `two-column`"]);
    plot(&["--font-size", "40"], &["40 pt"]);
    plot(&["--only", "variants"], &["`variants`", "there are `r2`, `precision`"]);
    succeed(at, &[&SMALL[..], &["-q", "--seed", "1", "--out", "other"]].concat());
    succeed(
        at,
        &[
            "-q",
            "compare",
            "run",
            "other",
            "--out",
            "both",
            "--width",
            "two-column",
            "--only",
            "rank",
            "--format",
            "svg",
        ],
    );
    assert!(at.join("both/rank.svg").exists() && !at.join("both/r2.svg").exists());
}
