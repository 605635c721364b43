//! A Hub on loopback that answers as the public one does: small files behind a redirect within the Hub, large ones
//! behind one to another server, which must never see the token.
#![allow(dead_code, reason = "each test file uses some of it")]

use jumplens::files::{git_sha1, sha256};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A file of at least this many bytes is a large one.
const LARGE: usize = 20_000;

/// A model on the server, or a data set, whose name begins with `datasets/`.
#[derive(Clone, Default)]
pub struct Model {
    pub commit: String,
    pub files: BTreeMap<String, Vec<u8>>,
    /// Where it is gated, the token that opens it.
    pub gate: Option<String>,
}

impl Model {
    /// All files of `folder`.
    pub fn from_folder(folder: &Path, commit: &str) -> Self {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let file = |path: std::path::PathBuf| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())
        };
        Self { commit: commit.to_owned(), files: entries.map(file).collect(), gate: None }
    }
}

/// What the server does; a test may change it as it goes.
#[derive(Default)]
pub struct State {
    pub models: BTreeMap<String, Model>,
    /// Bytes of a large file after which the connection is closed, once for each entry.
    pub break_after: Vec<usize>,
    /// Every connection is closed without an answer.
    pub down: bool,
    /// Large files come with their first byte changed.
    pub corrupt: bool,
    /// Large files are sent whole, whatever range is asked for.
    pub no_ranges: bool,
    /// Bytes of a list or a large file after which the rest comes a byte at a time, once for each entry.
    pub slow_after: Vec<usize>,
    /// Status and headers that a request is answered with, once for each entry.
    pub busy: Vec<(&'static str, Vec<String>)>,
    /// What is said of files instead of their digest and size.
    pub claims: BTreeMap<String, (String, usize)>,
    /// `METHOD /path`, with ` FROM` behind it where a range is asked for.
    pub requests: Vec<String>,
}

pub struct Server {
    pub endpoint: String,
    pub state: Arc<Mutex<State>>,
}

impl Server {
    /// Serves `models` by their full names.
    pub fn start(models: impl IntoIterator<Item = (&'static str, Model)>) -> Self {
        let models = models.into_iter().map(|(id, model)| (id.to_owned(), model)).collect();
        let state = Arc::new(Mutex::new(State { models, ..State::default() }));
        let [hub, contents] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [endpoint, elsewhere] =
            [&hub, &contents].map(|at| format!("http://{}", at.local_addr().unwrap()));
        for (listener, is_hub) in [(hub, true), (contents, false)] {
            let (state, elsewhere) = (state.clone(), elsewhere.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (state, elsewhere) = (state.clone(), elsewhere.clone());
                    std::thread::spawn(move || answer(stream, is_hub, &elsewhere, &state));
                }
            });
        }
        Self { endpoint, state }
    }

    /// The requests until now, which are forgotten.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }
}

/// The name of a blob, as the Hub gives it.
pub fn etag(bytes: &[u8]) -> String {
    if bytes.len() < LARGE { git_sha1(bytes) } else { sha256(bytes) }
}

/// What an address names, without its query.
fn decoded(address: &str) -> String {
    let path = address.split('?').next().unwrap_or_default();
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let digits = |rest: &mut std::str::Bytes| String::from_utf8(rest.take(2).collect()).unwrap();
        bytes.push(match byte {
            b'%' => u8::from_str_radix(&digits(&mut rest), 16).unwrap(),
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// One request; a connection that fails is the client's to notice.
fn answer(mut stream: TcpStream, is_hub: bool, elsewhere: &str, state: &Mutex<State>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let request = lines.next()?.ok()?;
    let headers: BTreeMap<String, String> = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    let (method, address) = request.strip_suffix(" HTTP/1.1")?.rsplit_once(' ')?;
    let path = &*decoded(address);
    let from: Option<usize> =
        headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let mut state = state.lock().unwrap();
    let behind = from.map(|from| format!(" {from}")).unwrap_or_default();
    state.requests.push(format!("{method} {address}{behind}"));
    if state.down {
        return None;
    }
    let token = headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let busy = (!state.busy.is_empty()).then(|| state.busy.remove(0));
    let slow_after = Cell::new(None);
    let mut send = |status: &str, headers: &[String], body: &[u8], length: usize| {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let body = if method == "HEAD" { &[] } else { body };
        let (fast, slow) = body.split_at(slow_after.get().map_or(body.len(), |at: usize| at.min(body.len())));
        stream.write_all(fast).ok()?;
        slow.chunks(1).try_for_each(|byte| {
            std::thread::sleep(Duration::from_millis(20));
            stream.write_all(byte).ok()
        })
    };
    if let Some((status, headers)) = busy {
        return send(status, &headers, b"", 0);
    }
    let mut refuse = |status: &str, code: &str| send(status, &[format!("X-Error-Code: {code}")], b"", 0);
    if !is_hub && token.is_some() {
        return refuse("400 Bad Request", "TokenLeaked");
    }
    let listing = path
        .strip_prefix("/api/models/")
        .or_else(|| path.strip_prefix("/api/").filter(|p| p.starts_with("datasets/")));
    let (id, rest) = match listing {
        Some(rest) => rest.split_once("/revision/")?,
        None => {
            path.trim_start_matches("/api/resolve-cache").trim_start_matches('/').split_once("/resolve/")?
        }
    };
    let Some(model) = state.models.get(id).cloned() else {
        return refuse("401 Unauthorized", "RepoNotFound");
    };
    if listing.is_some() {
        if rest != "main" && rest != model.commit {
            return refuse("404 Not Found", "RevisionNotFound");
        }
        let siblings: Vec<_> =
            model.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let text = serde_json::json!({ "sha": model.commit, "siblings": siblings }).to_string();
        slow_after.set((!state.slow_after.is_empty()).then(|| state.slow_after.remove(0)));
        return send("200 OK", &[], text.as_bytes(), text.len());
    }
    if is_hub && model.gate.as_deref().is_some_and(|gate| token != Some(gate)) {
        let status = if token.is_some() { "403 Forbidden" } else { "401 Unauthorized" };
        return refuse(status, "GatedRepo");
    }
    let (_, name) = rest.split_once('/')?;
    let Some(bytes) = model.files.get(name) else { return refuse("404 Not Found", "EntryNotFound") };
    let large = bytes.len() >= LARGE;
    let (etag, size) = state.claims.get(name).cloned().unwrap_or_else(|| (etag(bytes), bytes.len()));
    let commit = format!("X-Repo-Commit: {}", model.commit);
    if is_hub && large {
        let headers = [
            commit,
            format!("Location: {elsewhere}{address}"),
            format!("X-Linked-ETag: \"{etag}\""),
            format!("X-Linked-Size: {size}"),
            "ETag: \"of the redirect\"".to_owned(),
        ];
        return send("302 Found", &headers, b"", 17);
    }
    if is_hub && !path.starts_with("/api/resolve-cache") {
        let location = format!("Location: /api/resolve-cache{address}?from={elsewhere}");
        return send("307 Temporary Redirect", &[commit, location], b"", 0);
    }
    let from = from.filter(|_| !state.no_ranges);
    let mut headers = vec![commit, format!("ETag: \"{etag}\""), format!("X-Linked-Size: {size}")];
    headers
        .extend(from.map(|from| format!("Content-Range: bytes {from}-{}/{}", bytes.len() - 1, bytes.len())));
    let status = if from.is_some() { "206 Partial Content" } else { "200 OK" };
    let mut body = bytes[from.unwrap_or(0)..].to_vec();
    let length = body.len();
    if large && method == "GET" {
        if state.corrupt {
            body[0] ^= 1;
        }
        if !state.break_after.is_empty() {
            body.truncate(state.break_after.remove(0));
        }
        slow_after.set((!state.slow_after.is_empty()).then(|| state.slow_after.remove(0)));
    }
    send(status, &headers, &body, length)
}
