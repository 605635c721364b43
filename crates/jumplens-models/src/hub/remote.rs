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
use crate::files::{create_anew, open_unfinished};
use crate::progress::{Observer, check};
use serde::Deserialize;
use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body, Proxy};

/// The branch that is meant where no revision is given.
const MAIN: &str = "main";
/// The public Hub.
const PUBLIC: &str = "https://huggingface.co";
/// How long a connection, or an answer's beginning, may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take for [`SLOWEST`] bytes, where nothing else is said.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The fewest bytes that have to come within that time, unless that is the end of the answer.
const SLOWEST: u64 = 10_000;
/// How often a download that broke off is gone on with at once, each time only where it has come further.
const RESUMES: usize = 3;
/// Redirects that are followed.
const REDIRECTS: usize = 5;
/// Bytes that are read at a time.
const BUFFER: usize = 1 << 16;
/// The longest list of files that is read.
const LONGEST_LIST: u64 = 64 << 20;
/// The longest of a model's files other than its weights.
const LONGEST_TEXT: u64 = 256 << 20;
/// How often a request that the Hub puts off is made, and for how long in all a command waits.
const TRIES: u32 = 5;
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How often a wait looks whether it was interrupted.
const WAIT_INTERVAL: Duration = Duration::from_millis(50);

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
    /// How long an answer may take for 10 kB, or for its end.
    pub stall_timeout: Duration,
}

impl fmt::Debug for Hub {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, cache, token, offline, proxy, stall_timeout } = self;
        f.debug_struct("Hub")
            .field("endpoint", endpoint)
            .field("cache", cache)
            .field("token", &token.as_ref().map(|_| "…"))
            .field("offline", offline)
            .field("proxy", proxy)
            .field("stall_timeout", stall_timeout)
            .finish()
    }
}

impl Hub {
    /// The public Hub with a cache in `cache`, without a token.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: PUBLIC.to_owned(),
            cache: cache.into(),
            token: None,
            offline: false,
            proxy: false,
            stall_timeout: STALL_TIMEOUT,
        }
    }

    /// As the environment variables say that `huggingface_hub` reads: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`,
    /// `XDG_CACHE_HOME`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`, `HF_HUB_DOWNLOAD_TIMEOUT`; with the proxy they name,
    /// if any.
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
            crate::files::read_to_string(&path).ok()
        });
        let offline = variable("HF_HUB_OFFLINE")
            .is_some_and(|value| ["1", "on", "yes", "true"].contains(&&*value.trim().to_ascii_lowercase()));
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| PUBLIC.to_owned());
        let stall_timeout = variable("HF_HUB_DOWNLOAD_TIMEOUT")
            .and_then(|seconds| seconds.trim().parse().ok())
            .filter(|seconds| *seconds > 0)
            .map_or(STALL_TIMEOUT, Duration::from_secs);
        Self {
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline,
            stall_timeout,
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
        let client = Client::new(self, RepoKind::Model, name, observer);
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
            wanted.extend(listed(tokenizer::CHAT_TEMPLATE).then(|| tokenizer::CHAT_TEMPLATE.to_owned()));
        }
        if weights.ends_with(".json") {
            if absent(weights) {
                client.download(&client.metadata(&commit, weights)?, &repo)?;
            }
            let index = ShardIndex::open(&snapshot.join(weights))?;
            wanted.extend(index.shards().into_iter().map(str::to_owned));
        }

        let mut files = Vec::new();
        for file in wanted.iter().filter(|file| absent(file)) {
            check(observer)?;
            files.push(client.metadata(&commit, file)?);
        }
        client.download_all(&files, &repo)?;
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
        self.chosen(RepoKind::DataSet, name, choose, is_whole, observer)
    }

    /// The file called `file` beside a model's own, fetched where the cache does not have it. [`Error::NotInModel`] where there is
    /// none.
    pub fn file(&self, name: &HubName, file: &str, observer: &dyn Observer) -> Result<PathBuf> {
        let choose = |names: &[String]| match names.iter().any(|name| name == file) {
            true => Ok(vec![file.to_owned()]),
            false => {
                Err(Error::NotInModel { kind: RepoKind::Model, id: name.id.clone(), file: file.to_owned() })
            }
        };
        let is_whole = |there: &[String]| there.iter().any(|name| name == file);
        let found = self.chosen(RepoKind::Model, name, choose, is_whole, observer)?;
        found.paths.into_iter().next().ok_or_else(|| Error::Internal("a file was fetched as none".into()))
    }

    /// As [`data_set`](Self::data_set), of either kind.
    fn chosen(
        &self,
        kind: RepoKind,
        name: &HubName,
        choose: impl Fn(&[String]) -> Result<Vec<String>>,
        is_whole: impl Fn(&[String]) -> bool,
        observer: &dyn Observer,
    ) -> Result<DataSetFiles> {
        let repo = Repo::new(&self.cache, kind, &name.id);
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
                kind,
                id: name.id.clone(),
                revision: name.revision().to_owned(),
                cache: self.cache.clone(),
            });
        }
        let client = Client::new(self, kind, name, observer);
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
        names.sort();
        let wanted = choose(&names)?;
        if let Some(outside) = wanted.iter().find(|name| !is_inside(name)) {
            let message = format!("the list of files has {outside:?}, which is no path inside of a {kind}");
            return Err(network(&client.revision_url(), message));
        }
        let snapshot = repo.snapshot(&commit);
        let mut files = Vec::new();
        for file in wanted.iter().filter(|file| !snapshot.join(file).exists()) {
            check(observer)?;
            files.push(client.metadata(&commit, file)?);
        }
        client.download_all(&files, &repo)?;
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

/// An answer's contents, which may neither stand still nor come so slowly that they may as well.
struct Steady<R> {
    inner: R,
    patience: Duration,
    since: Instant,
    /// Bytes that have come since then.
    came: u64,
}

impl<R> Steady<R> {
    fn new(inner: R, patience: Duration) -> Self {
        Self { inner, patience, since: Instant::now(), came: 0 }
    }
}

impl<R: Read> Read for Steady<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let too_slow = |came: u64, patience: Duration| {
            let seconds = patience.as_secs_f64();
            let message = format!(
                "{came} bytes came in {seconds} s, and at least {SLOWEST} should (`HF_HUB_DOWNLOAD_TIMEOUT` sets the seconds)"
            );
            io::Error::new(io::ErrorKind::TimedOut, message)
        };
        let read = self.inner.read(into).map_err(|error| {
            match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(ureq::Error::Timeout(_)) => too_slow(self.came, self.patience),
                _ => error,
            }
        })?;
        self.came += read as u64;
        if self.since.elapsed() >= self.patience {
            if self.came < SLOWEST && read > 0 {
                return Err(too_slow(self.came, self.patience));
            }
            (self.since, self.came) = (Instant::now(), 0);
        }
        Ok(read)
    }
}

/// Asks the Hub about one model or data set.
struct Client<'a> {
    hub: &'a Hub,
    kind: RepoKind,
    name: &'a HubName,
    agent: Agent,
    observer: &'a dyn Observer,
    /// How long the Hub has made it wait so far.
    waited: Cell<Duration>,
}

impl<'a> Client<'a> {
    fn new(hub: &'a Hub, kind: RepoKind, name: &'a HubName, observer: &'a dyn Observer) -> Self {
        let config = Agent::config_builder()
            .proxy(hub.proxy.then(Proxy::try_from_env).flatten())
            // Redirects and statuses say more than `ureq` would pass on, see `send` and `refusal`.
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_resolve(Some(ANSWER_TIMEOUT))
            .timeout_connect(Some(ANSWER_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(hub.stall_timeout))
            .user_agent(concat!("jumplens/", env!("CARGO_PKG_VERSION")));
        let waited = Cell::new(Duration::ZERO);
        Self { hub, kind, name, agent: config.build().into(), observer, waited }
    }

    /// The address of `path`, the name of a file that may have any character in it.
    fn url(&self, path: &str) -> String {
        format!("{}/{}", self.hub.endpoint, escaped(path))
    }

    fn revision_url(&self) -> String {
        let kind = match self.kind {
            RepoKind::Model => "models",
            RepoKind::DataSet => "datasets",
        };
        let revision = escaped(self.name.revision()).replace('/', "%2F");
        format!("{}/{revision}", self.url(&format!("api/{kind}/{}/revision", self.name.id)))
    }

    /// Sends a request, again where the Hub says that it has too much to do, as often and as late as it likes within
    /// [`TRIES`] and [`LONGEST_WAIT`].
    fn send(&self, head: bool, url: &str, from: u64) -> Result<Response<Body>> {
        let mut tries = 1;
        loop {
            let response = self.send_once(head, url, from)?;
            let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
            if !busy.contains(&response.status()) || tries == TRIES {
                return Ok(response);
            }
            let asked = retry_after(&response);
            let wait = asked.unwrap_or(Duration::from_secs(1 << tries.min(6)));
            let status = response.status();
            if self.waited.get() + wait > LONGEST_WAIT {
                let message = format!(
                    "the answer was {status}, to be asked again in {} s, which is more than the {} s that are waited in all",
                    wait.as_secs(),
                    LONGEST_WAIT.as_secs()
                );
                return Err(network(url, message));
            }
            let place = &self.hub.endpoint;
            self.observer.note(&match asked {
                Some(wait) => format!("{place} asks to wait {} s ({status})", wait.as_secs()),
                None => format!("{place} has too much to do ({status}): waiting {} s", wait.as_secs()),
            });
            self.waited.set(self.waited.get() + wait);
            let until = Instant::now() + wait;
            while Instant::now() < until {
                check(self.observer)?;
                std::thread::sleep(WAIT_INTERVAL.min(until.saturating_duration_since(Instant::now())));
            }
            tries += 1;
        }
    }

    /// Sends a request and follows redirects: `HEAD` only within the Hub, whose answer has the file's digest, `GET` to
    /// wherever the contents are. The token goes to the Hub alone.
    fn send_once(&self, head: bool, url: &str, from: u64) -> Result<Response<Body>> {
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
            let next = redirected(&at, location);
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
        let url = self.revision_url();
        let response = self.send(false, &url, 0)?;
        if !response.status().is_success() {
            return Err(self.refusal(&url, &response, None));
        }
        let mut body = Steady::new(response.into_body().into_reader(), self.hub.stall_timeout);
        let (mut text, mut buffer) = (Vec::new(), vec![0; BUFFER]);
        loop {
            check(self.observer)?;
            match body.read(&mut buffer).map_err(|error| network(&url, error))? {
                0 => break,
                read => text.extend_from_slice(&buffer[..read]),
            }
            if text.len() as u64 > LONGEST_LIST {
                let message = format!("the list of files is longer than {} MB", LONGEST_LIST >> 20);
                return Err(network(&url, message));
            }
        }
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
        if [".json", ".txt"].iter().any(|ending| file.ends_with(ending)) && size > LONGEST_TEXT {
            let message = format!(
                "the file has {size} bytes by the answer, and one of its kind {} MB at most",
                LONGEST_TEXT >> 20
            );
            return Err(network(&url, message));
        }
        Ok(RemoteFile { name: file.to_owned(), commit: commit.to_owned(), url, etag, size })
    }

    /// Puts files into the cache, as one piece of work.
    fn download_all(&self, files: &[RemoteFile], repo: &Repo) -> Result<()> {
        if !files.is_empty() {
            self.observer.begin("download", files.iter().map(|file| file.left(repo)).sum(), "bytes");
            files.iter().try_for_each(|file| self.download(file, repo))?;
            self.observer.end();
        }
        Ok(())
    }

    /// Puts a file into the cache.
    fn download(&self, file: &RemoteFile, repo: &Repo) -> Result<()> {
        let blob = repo.blob(&file.etag);
        if !blob.exists() {
            let _held = repo.lock(&file.etag, self.observer)?;
            // Whoever held the lock before may have fetched it.
            if !blob.exists() {
                let part = incomplete(&blob);
                let mut resumes = 0;
                while let Err(error) = self.receive(file, &part) {
                    let Broken { error, came } = error;
                    if !came || resumes == RESUMES || !matches!(*error, Error::Network { .. }) {
                        return Err(*error);
                    }
                    resumes += 1;
                }
                let source = SourceFile::open(&part)?;
                match digest_like(&file.etag, &source) {
                    Some(got) if got != file.etag => {
                        let _ = fs::remove_file(&part);
                        let (url, expected) = (file.url.clone(), file.etag.clone());
                        return Err(Error::DamagedDownload { url, expected, got });
                    }
                    Some(_) => {}
                    None => self.observer.note(&format!(
                        "`{}` of `{}` could not be verified: {} gives no digest of it (its `ETag` is `{}`)",
                        file.name, self.name.id, self.hub.endpoint, file.etag
                    )),
                }
                drop(source);
                fs::rename(&part, &blob).map_err(Error::io("write", &blob))?;
            }
        }
        repo.link(&file.commit, &file.name, &file.etag)
    }

    /// Appends what is missing to the partial file `path`.
    fn receive(&self, file: &RemoteFile, path: &Path) -> Result<(), Broken> {
        let io = |error| Error::io("write", path)(error);
        let begun = open_unfinished(path).map_err(io)?;
        let mut part = begun.map_or_else(|| create_anew(path), Ok).map_err(io)?;
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
        let body = response.into_body().into_reader().take(file.size - have + 1);
        let mut body = Steady::new(body, self.hub.stall_timeout);
        let mut buffer = vec![0; BUFFER];
        let mut came = false;
        loop {
            check(self.observer)?;
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
                    self.observer.advance(read as u64);
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
    url[host..].find(['/', '?', '#']).map_or(url, |end| &url[..host + end])
}

/// The parts of a path as they may stand in an address: all but letters, digits and `-._~` by their bytes.
fn escaped(path: &str) -> String {
    path.bytes().fold(String::with_capacity(path.len()), |mut text, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(byte.into())
            }
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text
    })
}

/// Where the answer of `at` leads whose header says `location`: an address, or what it is from there.
fn redirected(at: &str, location: &str) -> String {
    let scheme = location.find([':', '/', '?', '#']).filter(|end| location[*end..].starts_with("://"));
    let path = &at[..at.find(['?', '#']).unwrap_or(at.len())];
    match location {
        whole if scheme.is_some() => whole.to_owned(),
        host if host.starts_with("//") => format!("{}:{host}", at.split(':').next().unwrap_or_default()),
        whole if whole.starts_with('/') => format!("{}{whole}", origin(at)),
        query if query.starts_with('?') => format!("{path}{query}"),
        name => {
            let folder =
                path[origin(at).len()..].rfind('/').map_or("", |end| &path[..origin(at).len() + end]);
            format!("{}/{name}", if folder.is_empty() { origin(at) } else { folder })
        }
    }
}

/// True for a name that is a path inside of a folder, whichever system that is on.
fn is_inside(name: &str) -> bool {
    name.split('/').all(|part| !["", ".", ".."].contains(&part))
        && !name.contains(|c: char| c == '\\' || c == ':' || c.is_control())
}

/// How long an answer asks to be waited for: seconds, or a date, which is held against that of the answer itself.
fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let said = header(response, "retry-after")?.trim();
    if let Ok(seconds) = said.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let (until, now) = (seconds_of(said)?, seconds_of(header(response, "date")?)?);
    Some(Duration::from_secs(until.saturating_sub(now)))
}

/// A date as HTTP has it, `Sun, 06 Nov 1994 08:49:37 GMT`, in seconds since the year 0 (RFC 9110, 5.6.7).
fn seconds_of(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let [day, month, year, time, "GMT"] = date.split_once(", ")?.1.split(' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    let number = |text: &str| text.parse::<u64>().ok().filter(|number| *number < 10_000);
    let [hours, minutes, seconds] = time.split(':').collect::<Vec<_>>()[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    // Years from March on, so that the day that some years have more comes last.
    let (year, month) =
        if month < 2 { (number(year)?.checked_sub(1)?, month + 10) } else { (number(year)?, month - 2) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + number(day)?;
    Some(((days * 24 + number(hours)?) * 60 + number(minutes)?) * 60 + number(seconds)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_rfc_3986_says() {
        // `urllib.parse.urljoin` of Python, on all of them.
        let at = "https://hub.co/a/b?c=d/e#f";
        for (location, expected) in [
            ("https://cdn.co/x?y=z", "https://cdn.co/x?y=z"),
            ("//cdn.co/x", "https://cdn.co/x"),
            ("/x?to=https://cdn.co/y", "https://hub.co/x?to=https://cdn.co/y"),
            ("x", "https://hub.co/a/x"),
            ("x?to=https://cdn.co/y", "https://hub.co/a/x?to=https://cdn.co/y"),
            ("?to=https://cdn.co/y", "https://hub.co/a/b?to=https://cdn.co/y"),
            ("x/y:z", "https://hub.co/a/x/y:z"),
        ] {
            assert_eq!(redirected(at, location), expected, "{location}");
        }
        assert_eq!(redirected("https://hub.co", "x"), "https://hub.co/x");
        assert_eq!(redirected("https://hub.co?a=/b", "/x"), "https://hub.co/x");
        assert_eq!(origin("https://hub.co?a=https://other.co/"), "https://hub.co");
    }

    #[test]
    fn names_are_escaped_as_by_urllib() {
        // `urllib.parse.quote` of Python.
        for (name, expected) in [
            ("data/train-00000-of-00002.parquet", "data/train-00000-of-00002.parquet"),
            ("train#1.parquet", "train%231.parquet"),
            ("a b?c%d&e+f", "a%20b%3Fc%25d%26e%2Bf"),
            ("naïve/東京~_.", "na%C3%AFve/%E6%9D%B1%E4%BA%AC~_."),
        ] {
            assert_eq!(escaped(name), expected);
        }
    }

    #[test]
    fn only_paths_inside_are_taken() {
        for inside in ["a", "data/train#1.parquet", "a b/..c", "naïve"] {
            assert!(is_inside(inside), "{inside}");
        }
        for outside in
            ["", "/a", "a/", "..", "a/../b", "a//b", "./a", "a\\b", "C:a", "a\0b", "a\nb", "a\u{85}"]
        {
            assert!(!is_inside(outside), "{outside:?}");
        }
    }

    #[test]
    fn dates_differ_by_seconds() {
        let seconds = |date: &str| seconds_of(date);
        // `calendar.timegm` of Python, less that of the first.
        let first = seconds("Thu, 01 Jan 1970 00:00:00 GMT").unwrap();
        for (date, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Tue, 29 Feb 2000 23:59:59 GMT", 951_868_799),
            ("Wed, 01 Mar 2000 00:00:00 GMT", 951_868_800),
            ("Mon, 28 Feb 2101 12:00:00 GMT", 4_139_035_200),
        ] {
            assert_eq!(seconds(date).unwrap() - first, expected, "{date}");
        }
        for odd in
            ["", "soon", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Nov 1994 08:49 GMT", "a, b c d e:f:g GMT"]
        {
            assert_eq!(seconds(odd), None, "{odd}");
        }
    }
}
