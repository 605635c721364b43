//! Models and data sets from the Hugging Face Hub, through the cache that `huggingface_hub` and `transformers` use.
//!
//! A small client of our own over `ureq`, since the crate `hf-hub` (0.5) drops the header that tells a gated model from
//! one that does not exist, neither checks what it fetched nor stops when asked to, appends to a partial file whatever
//! the server sends, and does not know `HF_HUB_OFFLINE`; and its version 1.0 is an asynchronous one of 288 crates.
//!
//! The protocol is that of `huggingface_hub/file_download.py`: `GET /api/models/ID/revision/REV` (`/api/datasets/…`) gives the commit and the
//! list of files, `HEAD /ID/resolve/COMMIT/FILE` (`/datasets/ID/…`) a file's digest and size, `GET` of the same its contents.

use super::cache::{Repo, digest_like, is_commit};
use super::{ModelFiles, RepoKind, ShardIndex, SourceFile, WEIGHTS, tokenizer};
use crate::error::{Error, Result};
use crate::progress::{Observer, check};
use serde::Deserialize;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body, Proxy};

/// The branch that is meant where no revision is given.
const MAIN: &str = "main";
/// The public Hub.
const PUBLIC: &str = "https://huggingface.co";
/// How long a connection, or an answer's beginning, may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a download may stand still.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a download that broke off is gone on with at once, each time only where it has come further.
const RESUMES: usize = 3;
/// Redirects that are followed.
const REDIRECTS: usize = 5;
/// Bytes that are read at a time.
const BUFFER: usize = 1 << 16;
/// The longest list of files that is read.
const LONGEST_LIST: u64 = 64 << 20;

/// Models that go by a shorter name than their full one.
const SHORT_NAMES: [(&str, &str); 6] = [
    ("gpt2", "openai-community/gpt2"),
    ("gpt2-medium", "openai-community/gpt2-medium"),
    ("gpt2-large", "openai-community/gpt2-large"),
    ("gpt2-xl", "openai-community/gpt2-xl"),
    ("bert-base-uncased", "google-bert/bert-base-uncased"),
    ("bert-large-uncased", "google-bert/bert-large-uncased"),
];

/// What a model is called on the Hub: `name` or `org/name`, with `@` and a branch, tag or commit behind it where one is
/// wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// The full name.
    pub id: String,
    /// The branch, tag or commit; `None` means `main`.
    pub revision: Option<String>,
}

impl HubName {
    /// Reads `name`; `None` where it looks like a path, or has characters that no name has.
    pub fn parse(name: &str) -> Option<Self> {
        let word = |text: &str| {
            !text.is_empty()
                && !text.starts_with(['.', '-'])
                && !text.contains("..")
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let (id, revision) = match name.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (name, None),
        };
        // `--` stands for the slash in the cache's folder names.
        let fits = id.split('/').count() <= 2 && id.split('/').all(word) && !id.contains("--");
        let revision_fits = revision.is_none_or(|revision| revision.split('/').all(word));
        let id = SHORT_NAMES.iter().find(|(short, _)| *short == id).map_or(id, |(_, full)| full);
        (fits && revision_fits).then(|| Self { id: id.to_owned(), revision: revision.map(str::to_owned) })
    }

    fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// The full name, and the short one, under which older caches have the model.
    fn ids(&self) -> impl Iterator<Item = &str> {
        let short = SHORT_NAMES.iter().filter(|(_, full)| *full == self.id).map(|(short, _)| *short);
        [&*self.id].into_iter().chain(short)
    }
}

/// Where the Hub is, where its cache is, and who asks.
///
/// A name that is given without a commit is asked of the Hub every time, for the commit that it stands for by now. Where
/// that fails and the cache has an earlier one, this is used and the observer told; files that are in the cache are never
/// fetched again. Errors: [`Error::NoSuchModel`], [`Error::NoSuchRevision`], [`Error::Gated`], [`Error::TokenRefused`],
/// [`Error::NotInModel`], [`Error::NotCached`], [`Error::Network`], [`Error::DamagedDownload`],
/// [`Error::DamagedCache`].
#[derive(Clone, PartialEq, Eq)]
pub struct Hub {
    /// The Hub's address, without a slash at the end.
    pub endpoint: String,
    /// The folder with the `models--…` folders.
    pub cache: PathBuf,
    /// What gated and private models are asked for with.
    pub token: Option<String>,
    /// Nothing is asked of the network: what the cache has is all there is.
    pub offline: bool,
    /// Goes through the proxy that `ALL_PROXY`, `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` describe.
    pub proxy: bool,
}

impl fmt::Debug for Hub {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, cache, token, offline, proxy } = self;
        f.debug_struct("Hub")
            .field("endpoint", endpoint)
            .field("cache", cache)
            .field("token", &token.as_ref().map(|_| "…"))
            .field("offline", offline)
            .field("proxy", proxy)
            .finish()
    }
}

impl Hub {
    /// The public Hub with a cache in `cache`, without a token.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self { endpoint: PUBLIC.to_owned(), cache: cache.into(), token: None, offline: false, proxy: false }
    }

    /// As the environment variables say that `huggingface_hub` reads: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`,
    /// `XDG_CACHE_HOME`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`; with the proxy they name, if any.
    pub fn from_env() -> Self {
        let home = std::env::home_dir().unwrap_or_default();
        Self { proxy: true, ..Self::from_variables(&home, |name| std::env::var(name).ok()) }
    }

    /// As `variable` gives the variables of [`Hub::from_env`], for a user whose home is `home`.
    pub fn from_variables(home: &Path, variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let folder = |name: &str| {
            let value = variable(name)?;
            Some(match value.strip_prefix('~') {
                Some("") => home.to_owned(),
                Some(below) if below.starts_with(['/', '\\']) => home.join(&below[1..]),
                _ => PathBuf::from(value),
            })
        };
        let hf_home = folder("HF_HOME").unwrap_or_else(|| {
            folder("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache")).join("huggingface")
        });
        let token = variable("HF_TOKEN").or_else(|| {
            let path = folder("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
            fs::read_to_string(path).ok()
        });
        let offline = variable("HF_HUB_OFFLINE")
            .is_some_and(|value| ["1", "on", "yes", "true"].contains(&&*value.trim().to_ascii_lowercase()));
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| PUBLIC.to_owned());
        Self {
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline,
            ..Self::new(folder("HF_HUB_CACHE").unwrap_or_else(|| hf_home.join("hub")))
        }
    }

    /// The files of a model, fetched where the cache does not have them.
    pub(super) fn find(&self, name: &HubName, observer: &dyn Observer) -> Result<ModelFiles> {
        if self.offline {
            let files = self.cached(name)?.ok_or_else(|| Error::NotCached {
                kind: RepoKind::Model,
                id: name.id.clone(),
                revision: name.revision().to_owned(),
                cache: self.cache.clone(),
            })?;
            if let (Some(_), unknown @ [_, ..]) = (&files.tokenizer, &self.unknown(name)[..]) {
                let unknown = unknown.join("`, `");
                observer.note(&format!(
                    "the cache has no `{unknown}` of `{}`, and offline it is not known whether the Hub has",
                    name.id
                ));
            }
            return Ok(files);
        }
        // What a commit holds does not change: where all of it is there, there is nothing to ask.
        if is_commit(name.revision())
            && let Some(files) = self.cached(name)?
            && files.tokenizer.is_some()
            && self.unknown(name).is_empty()
        {
            return Ok(files);
        }
        let error = match self.fetch(name, observer) {
            Err(
                error @ (Error::Network { .. }
                | Error::Gated { .. }
                | Error::TokenRefused { .. }
                | Error::NoSuchModel { .. }
                | Error::NoSuchRevision { .. }),
            ) => error,
            done => return done,
        };
        let Some(files) = self.cached(name)? else { return Err(error) };
        let commit = files.revision.as_deref().unwrap_or_default();
        observer.note(&format!("{error}; commit {commit} of `{}` is in the cache, and is used", name.id));
        Ok(files)
    }

    /// The files in the cache, where all that a model needs are there.
    fn cached(&self, name: &HubName) -> Result<Option<ModelFiles>> {
        for id in name.ids() {
            let repo = Repo::new(&self.cache, RepoKind::Model, id);
            if let Some(commit) = repo.commit(name.revision())
                && let Some(files) = repo.open(&commit, &name.id)?
            {
                return Ok(Some(files));
            }
        }
        Ok(None)
    }

    /// What may lie beside the tokenizer, is not in the cache, and may be on the Hub: it was never asked.
    fn unknown(&self, name: &HubName) -> Vec<&'static str> {
        let repos = name.ids().map(|id| Repo::new(&self.cache, RepoKind::Model, id));
        let found = repos.into_iter().find_map(|repo| {
            let commit = repo.commit(name.revision())?;
            repo.snapshot(&commit).join("config.json").exists().then_some((repo, commit))
        });
        let Some((repo, commit)) = found else { return Vec::new() };
        let known = |file: &str| repo.snapshot(&commit).join(file).exists() || repo.is_absent(&commit, file);
        tokenizer::COMPANIONS.into_iter().filter(|file| !known(file)).collect()
    }

    /// Asks the Hub what is there, and fetches what is needed and not in the cache.
    fn fetch(&self, name: &HubName, observer: &dyn Observer) -> Result<ModelFiles> {
        let client = Client::new(self, RepoKind::Model, name);
        let Revision { sha: commit, siblings } = client.revision()?;
        let listed = |file: &str| siblings.iter().any(|sibling| sibling.rfilename == file);
        let repos = || name.ids().map(|id| Repo::new(&self.cache, RepoKind::Model, id));
        let begun = repos().find(|repo| repo.snapshot(&commit).join("config.json").exists());
        let repo = begun.unwrap_or_else(|| Repo::new(&self.cache, RepoKind::Model, &name.id));
        let snapshot = repo.snapshot(&commit);
        let absent = |file: &str| !snapshot.join(file).exists();

        let mut wanted = vec!["config.json".to_owned()];
        let weights = WEIGHTS.into_iter().find(|file| listed(file));
        let weights = weights.ok_or_else(|| Error::NoWeights { place: name.id.clone() })?;
        wanted.push(weights.to_owned());
        let vocabulary = tokenizer::names(listed);
        wanted.extend(vocabulary.iter().map(|file| (*file).to_owned()));
        if !vocabulary.is_empty() {
            for file in tokenizer::COMPANIONS {
                match listed(file) {
                    true => wanted.push(file.to_owned()),
                    false => repo.note_absent(&commit, file)?,
                }
            }
        }
        if weights.ends_with(".json") {
            if absent(weights) {
                client.download(&client.metadata(&commit, weights)?, &repo, observer)?;
            }
            let index = ShardIndex::open(&snapshot.join(weights))?;
            wanted.extend(index.shards().into_iter().map(str::to_owned));
        }

        let mut files = Vec::new();
        for file in wanted.iter().filter(|file| absent(file)) {
            check(observer)?;
            files.push(client.metadata(&commit, file)?);
        }
        client.download_all(&files, &repo, observer)?;
        repo.set_commit(name.revision(), &commit)?;
        let incomplete =
            || Error::Internal(format!("`{}` lacks a file that was fetched", snapshot.display()));
        repo.open(&commit, &name.id)?.ok_or_else(incomplete)
    }
}

/// Files of a data set, in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSetFiles {
    /// The commit they are from.
    pub revision: String,
    /// Their names in the data set, in the order they were chosen in.
    pub names: Vec<String>,
    /// Where they are.
    pub paths: Vec<PathBuf>,
    /// The digests that the Hub gives: SHA-256 for large files, git's SHA-1 for small ones.
    pub digests: Vec<String>,
}

impl Hub {
    /// Files of a data set, fetched where the cache does not have them. `choose` gets the names of all of them, sorted, and
    /// gives those that are wanted. Offline it gets the names of those that are in the cache, and `is_whole` says whether
    /// that is enough.
    pub fn data_set(
        &self,
        name: &HubName,
        choose: impl Fn(&[String]) -> Result<Vec<String>>,
        is_whole: impl Fn(&[String]) -> bool,
        observer: &dyn Observer,
    ) -> Result<DataSetFiles> {
        let repo = Repo::new(&self.cache, RepoKind::DataSet, &name.id);
        let cached = || -> Result<Option<DataSetFiles>> {
            let Some(commit) = repo.commit(name.revision()) else { return Ok(None) };
            let there = repo.files(&commit)?;
            if !is_whole(&there) {
                return Ok(None);
            }
            repo.data_set(&commit, choose(&there)?).map(Some)
        };
        if self.offline {
            return cached()?.ok_or_else(|| Error::NotCached {
                kind: RepoKind::DataSet,
                id: name.id.clone(),
                revision: name.revision().to_owned(),
                cache: self.cache.clone(),
            });
        }
        let client = Client::new(self, RepoKind::DataSet, name);
        let Revision { sha: commit, siblings } = match client.revision() {
            Ok(revision) => revision,
            Err(error @ Error::Network { .. }) => {
                let Some(files) = cached()? else { return Err(error) };
                let (commit, id) = (&files.revision, &name.id);
                observer.note(&format!("{error}; commit {commit} of `{id}` is in the cache, and is used"));
                return Ok(files);
            }
            Err(error) => return Err(error),
        };
        let mut names: Vec<String> = siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        // They become paths.
        names.retain(|name| {
            name.split('/').all(|part| !["", ".", ".."].contains(&part)) && !name.contains('\\')
        });
        names.sort();
        let wanted = choose(&names)?;
        let snapshot = repo.snapshot(&commit);
        let mut files = Vec::new();
        for file in wanted.iter().filter(|file| !snapshot.join(file).exists()) {
            check(observer)?;
            files.push(client.metadata(&commit, file)?);
        }
        client.download_all(&files, &repo, observer)?;
        repo.set_commit(name.revision(), &commit)?;
        repo.data_set(&commit, wanted)
    }
}

/// What the Hub says of a revision.
#[derive(Deserialize)]
struct Revision {
    /// The commit.
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

/// A file of a revision.
#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// What the Hub says of a file.
struct RemoteFile {
    name: String,
    commit: String,
    url: String,
    etag: String,
    size: u64,
}

impl RemoteFile {
    /// Bytes that are not on disk yet.
    fn left(&self, repo: &Repo) -> u64 {
        let blob = repo.blob(&self.etag);
        match fs::metadata(incomplete(&blob)) {
            _ if blob.exists() => 0,
            Ok(part) => self.size.saturating_sub(part.len()),
            Err(_) => self.size,
        }
    }
}

/// The name under which `huggingface_hub` too keeps a blob that is not whole.
fn incomplete(blob: &Path) -> PathBuf {
    let mut name = blob.file_name().unwrap_or_default().to_owned();
    name.push(".incomplete");
    blob.with_file_name(name)
}

/// Asks the Hub about one model or data set.
struct Client<'a> {
    hub: &'a Hub,
    kind: RepoKind,
    name: &'a HubName,
    agent: Agent,
}

impl<'a> Client<'a> {
    fn new(hub: &'a Hub, kind: RepoKind, name: &'a HubName) -> Self {
        let config = Agent::config_builder()
            .proxy(hub.proxy.then(Proxy::try_from_env).flatten())
            // Redirects and statuses say more than `ureq` would pass on, see `send` and `refusal`.
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_resolve(Some(ANSWER_TIMEOUT))
            .timeout_connect(Some(ANSWER_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(STALL_TIMEOUT))
            .user_agent(concat!("jumplens/", env!("CARGO_PKG_VERSION")));
        Self { hub, kind, name, agent: config.build().into() }
    }

    /// The address of `path`, its parts put together as they are.
    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.hub.endpoint)
    }

    /// Sends a request and follows redirects: `HEAD` only within the Hub, whose answer has the file's digest, `GET` to
    /// wherever the contents are. The token goes to the Hub alone.
    fn send(&self, head: bool, url: &str, from: u64) -> Result<Response<Body>> {
        let mut at = url.to_owned();
        for _ in 0..=REDIRECTS {
            let mut request = if head { self.agent.head(&at) } else { self.agent.get(&at) };
            if let Some(token) = self.hub.token.as_ref().filter(|_| origin(&at) == origin(&self.hub.endpoint))
            {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|error| network(&at, error))?;
            let Some(location) = header(&response, "location").filter(|_| response.status().is_redirection())
            else {
                return Ok(response);
            };
            let next = match location {
                whole if whole.contains("://") => whole.to_owned(),
                other_host if other_host.starts_with("//") => {
                    format!("{}:{other_host}", at.split(':').next().unwrap_or_default())
                }
                path => format!("{}/{}", origin(&at), path.trim_start_matches('/')),
            };
            if head && origin(&next) != origin(&self.hub.endpoint) {
                return Ok(response);
            }
            at = next;
        }
        Err(network(url, format!("more than {REDIRECTS} redirects")))
    }

    /// What stands behind an answer that is not a success. `file` is the one that was asked for, if any.
    fn refusal(&self, url: &str, response: &Response<Body>, file: Option<&str>) -> Error {
        let (kind, id) = (self.kind, || self.name.id.clone());
        let said = header(response, "x-error-message").unwrap_or_default();
        let status = response.status();
        let no_model = || Error::NoSuchModel { kind, id: id(), endpoint: self.hub.endpoint.clone() };
        match (header(response, "x-error-code"), file) {
            (Some("GatedRepo"), _) => Error::Gated { kind, id: id(), with_token: self.hub.token.is_some() },
            (Some("RevisionNotFound"), _) => {
                Error::NoSuchRevision { kind, id: id(), revision: self.name.revision().to_owned() }
            }
            (Some("RepoNotFound"), _) => no_model(),
            (Some("EntryNotFound"), Some(file)) => {
                Error::NotInModel { kind, id: id(), file: file.to_owned() }
            }
            _ if status == StatusCode::UNAUTHORIZED && said.contains("Invalid credentials") => {
                Error::TokenRefused { endpoint: self.hub.endpoint.clone() }
            }
            // To those without a token the Hub does not say which names there are.
            (None, _) if status == StatusCode::UNAUTHORIZED => no_model(),
            (None, None) if status == StatusCode::NOT_FOUND => no_model(),
            (None, Some(file)) if status == StatusCode::NOT_FOUND => {
                Error::NotInModel { kind, id: id(), file: file.to_owned() }
            }
            _ => network(url, format!("the answer was {status} {said}").trim_end()),
        }
    }

    /// The commit that the name's revision stands for, and its files.
    fn revision(&self) -> Result<Revision> {
        let kind = match self.kind {
            RepoKind::Model => "models",
            RepoKind::DataSet => "datasets",
        };
        let url = self.url(&format!(
            "api/{kind}/{}/revision/{}",
            self.name.id,
            self.name.revision().replace('/', "%2F")
        ));
        let mut response = self.send(false, &url, 0)?;
        if !response.status().is_success() {
            return Err(self.refusal(&url, &response, None));
        }
        let text = response.body_mut().with_config().limit(LONGEST_LIST).read_to_vec();
        let text = text.map_err(|error| network(&url, error))?;
        let revision: Revision = serde_json::from_slice(&text)
            .map_err(|error| network(&url, format!("the answer is not a {}'s: {error}", self.kind)))?;
        // It becomes a folder's name.
        if !is_commit(&revision.sha) {
            return Err(network(&url, format!("`{}` is not a commit", revision.sha)));
        }
        Ok(revision)
    }

    /// Digest and size of a file.
    fn metadata(&self, commit: &str, file: &str) -> Result<RemoteFile> {
        let place = if self.kind == RepoKind::DataSet { "datasets/" } else { "" };
        let url = self.url(&format!("{place}{}/resolve/{commit}/{file}", self.name.id));
        let response = self.send(true, &url, 0)?;
        if !(response.status().is_success() || response.status().is_redirection()) {
            return Err(self.refusal(&url, &response, Some(file)));
        }
        let either =
            |linked: &str, plain: &str| header(&response, linked).or_else(|| header(&response, plain));
        let etag = either("x-linked-etag", "etag").unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        // It becomes a file's name.
        if etag.is_empty() || !etag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(network(&url, format!("the answer's `ETag` is `{etag}`")));
        }
        let size = either("x-linked-size", "content-length").and_then(|size| size.parse().ok());
        let size = size.ok_or_else(|| network(&url, "the answer does not give the file's size"))?;
        Ok(RemoteFile { name: file.to_owned(), commit: commit.to_owned(), url, etag, size })
    }

    /// Puts files into the cache, as one piece of work.
    fn download_all(&self, files: &[RemoteFile], repo: &Repo, observer: &dyn Observer) -> Result<()> {
        if !files.is_empty() {
            observer.begin("download", files.iter().map(|file| file.left(repo)).sum(), "bytes");
            files.iter().try_for_each(|file| self.download(file, repo, observer))?;
            observer.end();
        }
        Ok(())
    }

    /// Puts a file into the cache.
    fn download(&self, file: &RemoteFile, repo: &Repo, observer: &dyn Observer) -> Result<()> {
        let blob = repo.blob(&file.etag);
        if !blob.exists() {
            let _held = repo.lock(&file.etag, observer)?;
            // Whoever held the lock before may have fetched it.
            if !blob.exists() {
                let part = incomplete(&blob);
                let mut resumes = 0;
                while let Err(error) = self.receive(file, &part, observer) {
                    let Broken { error, came } = error;
                    if !came || resumes == RESUMES || !matches!(*error, Error::Network { .. }) {
                        return Err(*error);
                    }
                    resumes += 1;
                }
                let source = SourceFile::open(&part)?;
                if let Some(got) = digest_like(&file.etag, &source)
                    && got != file.etag
                {
                    let _ = fs::remove_file(&part);
                    let (url, expected) = (file.url.clone(), file.etag.clone());
                    return Err(Error::DamagedDownload { url, expected, got });
                }
                drop(source);
                fs::rename(&part, &blob).map_err(Error::io("write", &blob))?;
            }
        }
        repo.link(&file.commit, &file.name, &file.etag)
    }

    /// Appends what is missing to the partial file `path`.
    fn receive(&self, file: &RemoteFile, path: &Path, observer: &dyn Observer) -> Result<(), Broken> {
        let io = |error| Error::io("write", path)(error);
        let mut part = File::options().create(true).append(true).open(path).map_err(io)?;
        let mut have = part.metadata().map_err(io)?.len();
        if have > file.size {
            part.set_len(0).map_err(io)?;
            have = 0;
        }
        if have == file.size {
            return Ok(());
        }
        let response = self.send(false, &file.url, have)?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if have > 0 => {
                let range = header(&response, "content-range").unwrap_or_default();
                if !range.starts_with(&format!("bytes {have}-")) {
                    let message =
                        format!("bytes from {have} on were asked for, and the answer has `{range}`");
                    return Err(network(&file.url, message).into());
                }
            }
            // A server that knows no ranges sends all of it.
            StatusCode::OK => {
                part.set_len(0).map_err(io)?;
                have = 0;
            }
            _ => return Err(self.refusal(&file.url, &response, Some(&file.name)).into()),
        }
        // One byte more than there should be is enough to see that there are too many.
        let mut body = response.into_body().into_reader().take(file.size - have + 1);
        let mut buffer = vec![0; BUFFER];
        let mut came = false;
        loop {
            check(observer)?;
            let message = match body.read(&mut buffer) {
                Ok(0) if have == file.size => return Ok(()),
                Ok(0) => format!("the connection broke off after {have} of {} bytes", file.size),
                Ok(read) if have + read as u64 > file.size => {
                    part.set_len(0).map_err(io)?;
                    format!("more came than the {} bytes that the file has", file.size)
                }
                Ok(read) => {
                    part.write_all(&buffer[..read]).map_err(io)?;
                    have += read as u64;
                    observer.advance(read as u64);
                    came = true;
                    continue;
                }
                Err(error) => {
                    format!("the connection broke off after {have} of {} bytes: {error}", file.size)
                }
            };
            return Err(Broken { error: Box::new(network(&file.url, message)), came });
        }
    }
}

/// Why a download ended early, and whether it had come further until then.
struct Broken {
    error: Box<Error>,
    came: bool,
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self { error: Box::new(error), came: false }
    }
}

fn network(url: &str, message: impl fmt::Display) -> Error {
    Error::Network { url: url.to_owned(), message: message.to_string() }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// Scheme, host and port.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find('/').map_or(url, |end| &url[..host + end])
}
