//! `jumplens lens` as a user sees it.

mod common;

use common::{fail, jumplens, succeed};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

const TEXT: &str = "The capital of France is the city of Paris, which lies on the river Seine";

/// Standard output, with `variables` set and nothing else that colours.
fn shown(at: &Path, args: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = jumplens(at, args);
    for name in ["COLORTERM", "COLUMNS", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_bundled_models_come_with_their_maps() {
    let at = tempfile::tempdir().unwrap();
    let (run, run_args) = (at.path().join("run"), ["run", "--out", "run", "-q"]);
    succeed(at.path(), &[&run_args[..], &["--train", "2000", "--val", "50", "--pairs", "to-final"]].concat());
    let reading = |args: &[&str]| -> serde_json::Value {
        let args = [&["lens", TEXT, "--format", "json", "--layers", "11"], args].concat();
        serde_json::from_str(&succeed(at.path(), &args)).unwrap()
    };
    let (bundled, fitted) = (reading(&[]), reading(&["--run", run.to_str().unwrap()]));
    assert_eq!(bundled["casts"][0]["cast"], "mat");
    assert_eq!(bundled["tokens"], fitted["tokens"]);
    let best = |reading: &serde_json::Value| -> Vec<serde_json::Value> {
        let cells = reading["casts"][0]["cells"][0].as_array().unwrap().iter();
        cells.map(|cell| cell["top"][0]["id"].clone()).collect()
    };
    // Maps from the last layer but one, fitted on fewer samples of the same sentences.
    let (bundled, fitted) = (best(&bundled), best(&fitted));
    let same = bundled.iter().zip(&fitted).filter(|(a, b)| a == b).count();
    assert!(same * 10 >= 8 * bundled.len(), "{same} of {}", bundled.len());
}

#[test]
fn the_table_fits_the_width_and_has_every_position_once() {
    let at = tempfile::tempdir().unwrap();
    for (width, casts) in [("40", "mat"), ("61", "mat,id"), ("100", "mat"), ("300", "mat,id")] {
        let text = succeed(at.path(), &["lens", TEXT, "--width", width, "--cast", casts, "--lambda", "0.2"]);
        let limit: usize = width.parse().unwrap();
        for line in text.lines().filter(|line| line.contains('│')) {
            assert!(line.chars().count() <= limit, "{} in {limit}: {line}", line.chars().count());
        }
        let numbers = text.lines().filter(|line| {
            let cells: Vec<&str> = line.split_whitespace().filter(|cell| *cell != "│").collect();
            !cells.is_empty()
                && line.starts_with("      │")
                && cells.iter().all(|cell| cell.parse::<usize>().is_ok())
        });
        let mut positions: Vec<usize> = numbers
            .flat_map(|line| line.split('│').nth(1).unwrap().split_whitespace())
            .map(|n| n.parse().unwrap())
            .collect();
        positions.dedup();
        let json = succeed(at.path(), &["lens", TEXT, "--format", "json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(positions, (0..json["tokens"].as_array().unwrap().len()).collect::<Vec<_>>(), "{text}");
    }
    let columns = shown(at.path(), &["lens", TEXT], &[("COLUMNS", "50")]);
    assert_eq!(columns, succeed(at.path(), &["lens", TEXT, "--width", "50"]));
}

#[test]
fn colours_are_for_terminals_and_for_those_who_ask() {
    let at = tempfile::tempdir().unwrap();
    let args = ["lens", "The capital of France"];
    let plain = shown(at.path(), &args, &[("COLORTERM", "truecolor"), ("TERM", "xterm")]);
    assert!(!plain.contains('\x1b') && plain.contains('▁'), "not a terminal");
    let forced = shown(at.path(), &args, &[("CLICOLOR_FORCE", "1"), ("COLORTERM", "truecolor")]);
    assert!(forced.contains("\x1b[48;2;") && !forced.contains('▁'));
    let palette = shown(at.path(), &args, &[("CLICOLOR_FORCE", "1"), ("TERM", "xterm-256color")]);
    assert!(palette.contains("\x1b[48;5;") && !palette.contains("\x1b[48;2;"));
    let refused = shown(at.path(), &args, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]);
    assert!(!refused.contains('\x1b'));
}

#[test]
fn text_comes_from_standard_input_too() {
    let at = tempfile::tempdir().unwrap();
    let mut child =
        jumplens(at.path(), &["lens"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{TEXT}\r\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), succeed(at.path(), &["lens", TEXT]));
    fail(at.path(), &["lens"], &["0 tokens"]);
}

#[test]
fn a_masked_token_is_guessed_at_its_position() {
    let at = tempfile::tempdir().unwrap();
    let args = ["lens", "--model", "tiny-bert", "Paris is [MASK] capital of France.", "--format", "json"];
    let json: serde_json::Value = serde_json::from_str(&succeed(at.path(), &args)).unwrap();
    let tokens: Vec<&str> =
        json["tokens"].as_array().unwrap().iter().map(|t| t["text"].as_str().unwrap()).collect();
    let mask = tokens.iter().position(|token| *token == "[MASK]").unwrap();
    assert_eq!((tokens[0], tokens[tokens.len() - 1]), ("[CLS]", "[SEP]"));
    let cells = &json["casts"][0]["cells"];
    assert_eq!(cells[6][mask]["top"][0]["text"], "the");
    assert_eq!(cells.as_array().unwrap().len(), 7);
}

#[test]
fn pages_and_figures_load_nothing_and_act_on_nothing() {
    let at = tempfile::tempdir().unwrap();
    let text = "<script>alert(1)</script> & \u{1b}[31m \"'";
    for format in ["html", "svg"] {
        let out =
            succeed(at.path(), &["lens", text, "--format", format, "--cast", "mat,id", "--lambda", "0.2"]);
        assert!(!out.contains("<script") && !out.contains('\x1b'), "{format}");
        for loads in ["src=", "href=", "url(", "@import"] {
            assert!(!out.contains(loads), "{format}: {loads}");
        }
        assert!(out.contains("&lt;") && out.contains("&amp;"));
    }
}

#[test]
fn what_cannot_be_shown_is_said_in_one_line() {
    let at = tempfile::tempdir().unwrap();
    let lens = |args: &[&str], says: &[&str]| fail(at.path(), &[&["lens", "a b c"], args].concat(), says);
    lens(&["--cast", "mat_attn"], &["no cast `mat_attn`", "`id`, `mat`", "--run"]);
    lens(&["--position", "9"], &["position 9", "the last is"]);
    lens(&["--position", "-9"], &["position"]);
    lens(&["--layers", "13"], &["layer 13", "the last is 12"]);
    lens(&["--layers", "5-2"], &["ranges"]);
    lens(&["--top", "0"], &["top 0"]);
    lens(&["--run", "none"], &["none"]);
    lens(&["--shortcuts", "none"], &["`none`", "check the path"]);
    lens(&["--force"], &["--shortcuts"]);
}

const FRANCE: &str = "The capital of France is";

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_target_is_answered_first_and_in_every_format() {
    let at = tempfile::tempdir().unwrap();
    let text = succeed(at.path(), &["lens", FRANCE, "--target", " the", "--width", "80"]);
    assert!(text.starts_with("·the (token 264), at position 5, ·is\n"), "{text}");
    let reading = json(&succeed(at.path(), &["lens", FRANCE, "--target", " the", "--format", "json"]));
    assert_eq!(reading["positions"], serde_json::json!([5]), "that is where the next token is guessed");
    let casts = reading["casts"].as_array().unwrap();
    assert_eq!(casts.iter().map(|cast| cast["cast"].as_str().unwrap()).collect::<Vec<_>>(), ["mat", "id"]);
    for cast in casts {
        let cells = cast["cells"].as_array().unwrap();
        let rank = |layer: usize| cells[layer][0]["targets"][0]["rank"].as_u64().unwrap();
        let from = (0..13).rev().take_while(|layer| rank(*layer) == 1).last().unwrap();
        assert_eq!(cast["answers"][0][0]["top_1_from"], from);
        let name = cast["cast"].as_str().unwrap();
        let said = if from == 12 {
            "top 1 at the last layer, 12".into()
        } else {
            format!("top 1 from layer {from} on")
        };
        assert!(text.contains(&format!("{name:<3}  {said}")), "{text}");
        assert_eq!(cells.len(), 13);
        for (layer, cells) in cells.iter().enumerate() {
            let is_best = cells[0]["top"][0]["text"] == " the";
            assert_eq!(is_best, rank(layer) == 1, "layer {layer}");
        }
    }
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let html = succeed(at.path(), &["lens", FRANCE, "--target", " the", "--format", "html"]);
    assert!(html.contains("top 1 from layer 3 on") && html.contains("<svg"));
}

#[test]
fn what_a_target_means_is_said() {
    let at = tempfile::tempdir().unwrap();
    let text = succeed(at.path(), &["lens", FRANCE, "--target", " Paris"]);
    assert!(text.contains("`·Paris` is 2 tokens, `·Par` `is`: the first is looked for"), "{text}");
    assert!(text.contains("never top 1: at best rank"), "{text}");
    let output = common::output(at.path(), &["lens", FRANCE, "--target", "the"]);
    assert!(output.status.success());
    let output = common::output(at.path(), &["lens", FRANCE, "--target", "city"]);
    let says = common::stderr(&output);
    assert!(says.contains("a space before it") && says.contains("--target \" city\""), "{says}");
    fail(at.path(), &["lens", FRANCE, "--target", ""], &["no token"]);
    let masked = ["lens", "--model", "tiny-bert", "--target", "the"];
    let guessed = succeed(at.path(), &[&masked[..], &["Paris is [MASK] capital of France."]].concat());
    assert!(guessed.contains("[MASK]") && guessed.contains("top 1 from layer 2 on"), "{guessed}");
    fail(at.path(), &[&masked[..], &["Paris is capital"]].concat(), &["no `[MASK]`"]);
    succeed(at.path(), &[&masked[..], &["Paris is capital", "--position", "1"]].concat());
}

#[test]
fn figures_are_written_as_the_extension_says() {
    let at = tempfile::tempdir().unwrap();
    let target = ["lens", FRANCE, "--target", " the"];
    let starts: [(&str, &[u8]); 3] = [("svg", b"<svg"), ("pdf", b"%PDF"), ("png", b"\x89PNG")];
    for (extension, start) in starts {
        for (name, more) in [("grid", &["lens", FRANCE, "--color-by", "entropy"][..]), ("curve", &target)] {
            let file = format!("{name}.{extension}");
            succeed(at.path(), &[more, &["--out", &file]].concat());
            let bytes = std::fs::read(at.path().join(&file)).unwrap();
            assert!(bytes.starts_with(start), "{file}");
            fail(at.path(), &[more, &["--out", &file]].concat(), &[&file, "--overwrite"]);
            succeed(at.path(), &[more, &["--out", &file, "--overwrite"]].concat());
            assert_eq!(std::fs::read(at.path().join(&file)).unwrap(), bytes, "the same each time");
            // To standard output as well.
            let to_stdout = common::output(at.path(), &[more, &["--format", extension]].concat());
            assert_eq!(to_stdout.stdout, bytes, "{file}");
        }
    }
    let curve = std::fs::read_to_string(at.path().join("curve.svg")).unwrap();
    let reading = json(&succeed(at.path(), &[&target[..], &["--format", "json"]].concat()));
    let ranks: Vec<String> = (0..13)
        .map(|layer| reading["casts"][0]["cells"][layer][0]["targets"][0]["rank"].to_string())
        .collect();
    assert!(curve.contains(&format!("data-y=\"{}\"", ranks.join(" "))), "{ranks:?}");
    // The figures' font has no such letters, and that is said.
    let grid = common::output(at.path(), &["lens", "漢字", "--out", "wide.pdf"]);
    assert!(common::stderr(&grid).contains("characters are not in the figures' font"), "{grid:?}");
    fail(at.path(), &[&target[..], &["--out", "curve.doc"]].concat(), &["curve.doc", ".svg"]);
    fail(at.path(), &[&target[..], &["--out", "curve.svg", "--format", "pdf"]].concat(), &["curve.svg"]);
    fail(at.path(), &[&target[..], &["--position", "0-2", "--format", "svg"]].concat(), &["one position"]);
    fail(at.path(), &["lens", "a", "b", "--format", "svg"], &["2 texts", "--compare"]);
    fail(at.path(), &["lens", "a", "--format", "parquet"], &["--out"]);
}

#[test]
fn two_texts_stand_beside_one_another() {
    let at = tempfile::tempdir().unwrap();
    let (a, b) = (FRANCE, "The king of England was crowned in London in the year");
    for width in ["80", "50", "200"] {
        let text = succeed(at.path(), &["lens", a, "--compare", b, "--width", width, "--cast", "mat,id"]);
        assert!(text.contains(&format!("A: {a}")), "{text}");
        assert!(text.contains("│ A  mat") && text.contains("│ B  id"), "{text}");
        let limit: usize = width.parse().unwrap();
        for line in text.lines().filter(|line| line.contains('│')) {
            assert!(line.chars().count() <= limit, "{} in {limit}: {line}", line.chars().count());
        }
    }
    let both = json(&succeed(at.path(), &["lens", a, "--compare", b, "--format", "json"]));
    let alone = json(&succeed(at.path(), &["lens", b, "--format", "json"]));
    assert_eq!(both["compare"][1], alone);
    let html = succeed(at.path(), &["lens", a, "--compare", b, "--format", "html"]);
    assert!(html.contains("class=\"pair\"") && html.contains("<h2>B: The king"));
    let text = succeed(at.path(), &["lens", a, "--compare", b, "--target", " the", "--width", "80"]);
    assert!(
        text.contains("A mat")
            && text.contains("B id")
            && text.contains("A at position 5, ·is; B at position")
    );
    fail(at.path(), &["lens", a, b, "--compare", "c"], &["--compare", "2 are given"]);
    // What a file looks for in one text is looked for in the other.
    std::fs::write(at.path().join("p.jsonl"), "{\"text\": \"He was\", \"target\": \" born\"}").unwrap();
    let text = succeed(at.path(), &["lens", "--texts", "p.jsonl", "--compare", "She was"]);
    assert!(text.contains("A mat") && text.contains("B mat"), "{text}");
}

#[test]
fn many_texts_are_read_as_each_by_itself() {
    let at = tempfile::tempdir().unwrap();
    let texts = [FRANCE, "He was born in", "A third one"];
    std::fs::write(at.path().join("texts.txt"), texts.join("\r\n")).unwrap();
    succeed(at.path(), &["lens", "--texts", "texts.txt", "--out", "out.jsonl"]);
    let lines = std::fs::read_to_string(at.path().join("out.jsonl")).unwrap();
    let alone: String =
        texts.iter().map(|text| succeed(at.path(), &["lens", text, "--format", "json"])).collect();
    assert_eq!(lines, alone);
    assert_eq!(succeed(at.path(), &[&["lens"], &texts[..], &["--format", "json"]].concat()), alone);
    // Ids are read as they are, and a line's target counts for it alone.
    let ids: Vec<String> = json(alone.lines().nth(1).unwrap())["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token["id"].to_string())
        .collect();
    let of_ids = succeed(at.path(), &["lens", "--ids", &ids.join(","), "--format", "json"]);
    assert_eq!(of_ids, alone.lines().nth(1).unwrap().to_owned() + "\n");
    let prompts =
        format!("{{\"text\": \"{FRANCE}\", \"target\": \" the\"}}\n{{\"ids\": [{}]}}\n", ids.join(","));
    std::fs::write(at.path().join("p.jsonl"), prompts).unwrap();
    let read = succeed(at.path(), &["lens", "--texts", "p.jsonl", "--position", "-1", "--format", "json"]);
    let read: Vec<serde_json::Value> = read.lines().map(json).collect();
    assert_eq!(read[0]["targets"][0]["token"]["text"], " the");
    assert!(read[1].get("targets").is_none());
    succeed(at.path(), &["lens", "--texts", "p.jsonl", "--out", "cells.parquet"]);
    assert!(std::fs::read(at.path().join("cells.parquet")).unwrap().starts_with(b"PAR1"));
    let html = succeed(at.path(), &["lens", "--texts", "texts.txt", "--format", "html"]);
    assert_eq!(html.matches("<section>").count(), 3);
    std::fs::write(at.path().join("bad.jsonl"), "{\"text\": \"a\"}\n{\"txt\": \"a\"}\n").unwrap();
    fail(
        at.path(),
        &["lens", "--texts", "bad.jsonl"],
        &["bad.jsonl", "line 2", "`text`, `ids` and `messages`"],
    );
    fail(at.path(), &["lens", "--ids", "1,x"], &["token ids with commas"]);
    fail(at.path(), &["lens", "--ids", "99999"], &["99999", "vocabulary"]);
}

#[test]
fn a_chat_is_rendered_by_the_models_template() {
    let at = tempfile::tempdir().unwrap();
    fail(at.path(), &["lens", "Hi", "--chat"], &["no chat template", "chat_template.jinja"]);
    let model = common::model(at.path(), "model");
    let template = "{% for m in messages %}\n{{ m.role }}: {{ m.content | trim }}\n{% endfor %}\n{% if add_generation_prompt %}a:{% endif %}";
    let config =
        serde_json::json!({ "chat_template": template, "tokenizer_class": "PreTrainedTokenizerFast" });
    std::fs::write(model.join("tokenizer_config.json"), config.to_string()).unwrap();
    let chat = |more: &[&str]| {
        json(&succeed(
            at.path(),
            &[&["lens", "--model", "model", "--format", "json", "--chat"], more].concat(),
        ))
    };
    let reading = chat(&["  Hi there "]);
    assert_eq!((&reading["text"], &reading["chat"]), (&"user: Hi there\na:".into(), &"  Hi there ".into()));
    // A file of its own comes first.
    std::fs::write(model.join("chat_template.jinja"), "<{{ messages[-1]['content'] }}>").unwrap();
    assert_eq!(chat(&["Hi"])["text"], "<Hi>");
    let messages = "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": \"u\"}]}";
    std::fs::write(at.path().join("chats.jsonl"), messages).unwrap();
    assert_eq!(chat(&["--texts", "chats.jsonl"])["text"], "<u>");
    let lens = ["lens", "--model", "model"];
    fail(at.path(), &[&lens[..], &["--texts", "chats.jsonl"]].concat(), &["--chat"]);
    std::fs::write(model.join("chat_template.jinja"), "{{ raise_exception('no such role') }}").unwrap();
    fail(at.path(), &[&lens[..], &["Hi", "--chat"]].concat(), &["chat_template.jinja", "no such role"]);
}

#[test]
fn colours_say_what_they_are_asked_to() {
    let at = tempfile::tempdir().unwrap();
    let page = |by: &str| succeed(at.path(), &["lens", FRANCE, "--format", "html", "--color-by", by]);
    let pages = ["probability", "entropy", "kl", "rank"].map(page);
    for (page, legend) in
        pages.iter().zip(["probability", "entropy in nats", "KL(model ‖ cast)", "rank of the model"])
    {
        assert!(page.contains(&format!("Colour: {legend}")), "{legend}");
        assert!(page.contains("prefers-color-scheme: dark"));
        assert!(page.contains("·of") && !page.contains(">&nbsp;<") && !page.contains("> of<"));
    }
    assert!((1..4).all(|other| pages[other] != pages[0]));
    let table =
        succeed(at.path(), &["lens", FRANCE, "--color-by", "rank", "--target", " the", "--position", "all"]);
    assert!(table.contains("·the"));
}

/// Only where there are none: the line would be noise beside maps.
#[test]
fn how_to_get_maps_is_said_where_there_are_none() {
    let at = tempfile::tempdir().unwrap();
    common::model(at.path(), "model");
    let said =
        |args: &[&str]| common::stderr(&common::output(at.path(), &[&["lens", FRANCE], args].concat()));
    let line = said(&["--model", "model"]);
    assert!(line.contains("`jumplens run --model model --pairs to-final --out R`"), "{line}");
    assert_eq!(said(&["--model", "tiny-gpt2"]), "");
    assert_eq!(said(&["--model", "model", "--cast", "id"]), "");
}

#[test]
fn tokens_that_do_not_fit_are_said_to_be_there() {
    let at = tempfile::tempdir().unwrap();
    let text = succeed(at.path(), &["lens", FRANCE, "--position", "-1", "--top", "8", "--width", "60"]);
    assert!(text.contains("2 of 8 tokens fit in 60 columns"), "{text}");
    let text = succeed(at.path(), &["lens", FRANCE, "--position", "-1", "--top", "2", "--width", "80"]);
    assert!(!text.contains("tokens fit"), "{text}");
}

/// Layer 0 comes first wherever layers are listed.
#[test]
fn layers_stand_in_one_order() {
    let at = tempfile::tempdir().unwrap();
    let numbers = |text: &str, start: &str, end: &str| -> Vec<usize> {
        let parts = text.split(start).skip(1).filter_map(|part| part.split(end).next()?.trim().parse().ok());
        parts.take(13).collect()
    };
    let rising: Vec<usize> = (0..13).collect();
    let table = succeed(at.path(), &["lens", FRANCE]);
    let firsts: Vec<usize> =
        table.lines().filter_map(|line| line.split('│').next()?.trim().parse().ok()).collect();
    assert_eq!(firsts, rising);
    let html = succeed(at.path(), &["lens", FRANCE, "--format", "html"]);
    assert_eq!(numbers(&html, "<tr><th>", "</th>"), rising);
    let svg = succeed(at.path(), &["lens", FRANCE, "--format", "svg"]);
    assert_eq!(numbers(&svg, "text-anchor=\"end\">", "</text>"), rising);
}
