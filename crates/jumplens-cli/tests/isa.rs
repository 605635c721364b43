//! The vector instructions that a command computes with.

mod common;

use common::{SMALL, jumplens, stderr};
use jumplens::nn::Isa;
use std::fs;

#[test]
fn each_instruction_set_gives_the_same_results_but_for_last_digits() {
    let folder = tempfile::tempdir().unwrap();
    let mut runs = Vec::new();
    for isa in Isa::available() {
        let tables = ["first", "second"].map(|out| {
            let name = format!("{isa}-{out}");
            let run = [&["-q"], &SMALL[..], &["--out", &name]].concat();
            let ended = jumplens(folder.path(), &run).env("JUMPLENS_ISA", isa.name()).output().unwrap();
            assert!(ended.status.success(), "{}", stderr(&ended));
            let out = folder.path().join(&name);
            let manifest: serde_json::Value =
                serde_json::from_slice(&fs::read(out.join("manifest.json")).unwrap()).unwrap();
            assert_eq!(manifest["isa"], serde_json::json!([isa.name()]));
            fs::read_to_string(out.join("results/layers.csv")).unwrap()
        });
        assert_eq!(tables[0], tables[1], "two runs with `{isa}`");
        runs.push((isa, tables.into_iter().next().unwrap()));
    }
    let numbers =
        |table: &str| -> Vec<f64> { table.split([',', '\n']).filter_map(|cell| cell.parse().ok()).collect() };
    let (first, base) = &runs[0];
    for (isa, table) in &runs[1..] {
        let (got, want) = (numbers(table), numbers(base));
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= 1e-4 * (1.0 + want.abs()), "{isa} {got}, {first} {want}");
        }
    }
}

#[test]
fn what_there_is_not_is_refused_by_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let lacking = Isa::ALL.into_iter().filter(|isa| !isa.is_available()).map(Isa::name);
    for isa in lacking.chain(["sse9", "AVX2"]) {
        for command in [&["info", "tiny-gpt2"][..], &["run", "--out", "R"], &["plot", "--out", "R"]] {
            let ended = jumplens(folder.path(), command).env("JUMPLENS_ISA", isa).output().unwrap();
            let said = stderr(&ended);
            assert_eq!((ended.status.code(), said.lines().count()), (Some(1), 1), "{said}");
            assert!(said.contains(&format!("`{isa}`")) && said.contains("`portable`"), "{said}");
        }
    }
}
