//! One file over HTTP: resumed where an earlier attempt stopped, hashed as it arrives.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
};
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use super::{
    Fetched, Known, PullError, PullObserver, PullOptions, Token, part_of, remove_if_there,
};
use crate::pack::source::is_safe;

const CONNECT: Duration = Duration::from_secs(30);
/// A connection over which nothing comes for so long is given up, and the file resumed.
const SILENCE: Duration = Duration::from_secs(60);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 10;
const CHUNK: usize = 1 << 17;

/// What to download.
pub(super) struct Request<'a> {
    /// The address.
    pub(super) url: String,
    /// Sent to that address's host only.
    pub(super) token: Option<&'a Token>,
    /// What the file is known to be.
    pub(super) known: &'a Known,
    /// Where it goes once it is whole and right.
    pub(super) to: &'a Path,
}

/// Downloads files.
pub(super) struct Downloader {
    agent: Agent,
    attempts: u32,
    backoff: Duration,
}

impl Downloader {
    pub(super) fn new(options: &PullOptions) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("riveg/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE));
        Self {
            agent: config.build().new_agent(),
            attempts: options.attempts.max(1),
            backoff: options.backoff,
        }
    }

    /// The file at its place. As long as bytes arrive, broken connections are resumed.
    pub(super) fn download(
        &self,
        request: &Request,
        observer: &dyn PullObserver,
    ) -> Result<Fetched, PullError> {
        let mut part = Part::open(request)?;
        let mut failures = 0;
        loop {
            let before = part.bytes;
            let error = match self.attempt(request, &mut part, observer) {
                Ok(()) => return part.finish(request),
                Err(error) => error,
            };
            failures = if part.bytes > before { 1 } else { failures + 1 };
            if !error.may_pass() || failures >= self.attempts {
                return Err(error);
            }
            let wait = self.backoff.saturating_mul(1 << (failures - 1).min(16));
            let wait = wait.min(LONGEST_BACKOFF);
            observer.retry(&error.to_string(), wait);
            std::thread::sleep(wait);
        }
    }

    fn attempt(
        &self,
        request: &Request,
        part: &mut Part,
        observer: &dyn PullObserver,
    ) -> Result<(), PullError> {
        if request.known.bytes.is_some_and(|bytes| bytes == part.bytes && bytes > 0) {
            return Ok(());
        }
        let mut response = self.open(request, part)?;
        let status = response.status().as_u16();
        match status {
            200 => part.restart(validator(response.headers()))?,
            206 if range_begins(response.headers()) == Some(part.bytes) && part.bytes > 0 => {}
            // What is here does not fit what is there: from the beginning.
            206 | 416 => {
                part.restart(None)?;
                return Err(PullError::Connection("the server resumes elsewhere".to_owned()));
            }
            _ => return Err(refused(request, status)),
        }
        let expected = number(response.headers().get(CONTENT_LENGTH)).map(|n| n + part.bytes);
        if let (Some(found), Some(expected)) = (expected, request.known.bytes)
            && found != expected
        {
            return Err(PullError::WrongSize { found, expected });
        }
        part.receive(response.body_mut(), expected.or(request.known.bytes), observer)
    }

    /// The answer at the end of all redirects.
    fn open(&self, request: &Request, part: &Part) -> Result<Response<Body>, PullError> {
        let refuse = |what| PullError::Redirect { url: request.url.clone(), what };
        let mut url = request.url.clone();
        if !is_safe(&url) {
            return Err(PullError::Connection(format!("{url} is no https address")));
        }
        for _ in 0..=MAX_REDIRECTS {
            let mut call = self.agent.get(&url).header("Accept-Encoding", "identity");
            if let Some(Token(token)) = request.token.filter(|_| same_host(&url, &request.url)) {
                call = call.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            if part.bytes > 0 {
                call = call.header(RANGE, format!("bytes={}-", part.bytes));
                if let Some(validator) = &part.validator {
                    call = call.header(IF_RANGE, validator);
                }
            }
            let response = call.call().map_err(|error| connection(&request.url, &error))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let location = location.ok_or_else(|| refuse("to nowhere"))?;
            url = absolute(&url, location);
            if !is_safe(&url) || (request.url.starts_with("https://") && url.starts_with("http://"))
            {
                return Err(refuse("to an address that is not https"));
            }
        }
        Err(refuse("without end"))
    }
}

fn connection(url: &str, error: &ureq::Error) -> PullError {
    match error {
        // Of a redirect, and those hold signatures.
        ureq::Error::BadUri(_) => {
            PullError::Redirect { url: url.to_owned(), what: "to no address" }
        }
        error => PullError::Connection(format!("{url}: {error}")),
    }
}

fn refused(request: &Request, status: u16) -> PullError {
    let url = request.url.clone();
    match (status, request.token) {
        (404 | 410, _) => PullError::NotFound { url },
        (401 | 403, None) => PullError::Unauthorized {
            url,
            who: "strangers; a private or gated hub repository needs a token in HF_TOKEN",
            status,
        },
        (401 | 403, Some(_)) => {
            PullError::Unauthorized { url, who: "the owner of the token in HF_TOKEN", status }
        }
        _ => PullError::Status { url, status },
    }
}

fn same_host(a: &str, b: &str) -> bool {
    let origin = |url: &str| url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    origin(a) == origin(b)
}

/// A redirect's target as an address of its own.
fn absolute(base: &str, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    let origin = base.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    match location.strip_prefix("//") {
        Some(rest) => format!("{}://{rest}", base.split("://").next().unwrap_or("https")),
        None if location.starts_with('/') => format!("{origin}{location}"),
        None => match base.rsplit_once('/') {
            Some((folder, _)) if folder.len() >= origin.len() => format!("{folder}/{location}"),
            _ => format!("{origin}/{location}"),
        },
    }
}

fn number(value: Option<&ureq::http::HeaderValue>) -> Option<u64> {
    value?.to_str().ok()?.parse().ok()
}

/// First byte of a partial answer.
fn range_begins(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    range.split('-').next()?.parse().ok()
}

/// By what the server knows this very content again: a strong entity tag, or its date.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    text(ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| text(LAST_MODIFIED))
}

/// A file that is still growing.
struct Part {
    path: PathBuf,
    file: File,
    bytes: u64,
    hasher: Sha256,
    validator: Option<String>,
}

impl Part {
    /// What an earlier pull left. Where neither a hash nor the server could tell whether the rest
    /// belongs to it, it is thrown away.
    fn open(request: &Request) -> Result<Self, PullError> {
        let path = part_of(request.to);
        let validator = fs::read_to_string(tag_of(&path)).ok();
        let open =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = open.map_err(PullError::write)?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0);
        let mut buffer = vec![0; CHUNK];
        loop {
            match file.read(&mut buffer).map_err(PullError::Read)? {
                0 => break,
                read => {
                    hasher.update(&buffer[..read]);
                    bytes += read as u64;
                }
            }
        }
        let mut part = Self { path, file, bytes, hasher, validator };
        let unsure = part.validator.is_none() && request.known.sha256.is_none();
        if unsure || request.known.bytes.is_some_and(|expected| bytes > expected) {
            part.restart(None)?;
        }
        Ok(part)
    }

    fn restart(&mut self, validator: Option<String>) -> Result<(), PullError> {
        match &validator {
            Some(validator) => {
                fs::write(tag_of(&self.path), validator).map_err(PullError::write)?
            }
            None => remove_if_there(&tag_of(&self.path))?,
        }
        self.file = File::create(&self.path).map_err(PullError::write)?;
        (self.bytes, self.hasher, self.validator) = (0, Sha256::new(), validator);
        Ok(())
    }

    fn receive(
        &mut self,
        body: &mut Body,
        expected: Option<u64>,
        observer: &dyn PullObserver,
    ) -> Result<(), PullError> {
        let mut reader = body.with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(self.broken(expected, &error)),
            };
            self.file.write_all(&buffer[..read]).map_err(PullError::write)?;
            self.hasher.update(&buffer[..read]);
            self.bytes += read as u64;
            observer.progress(self.bytes, expected);
        }
        match expected {
            Some(expected) if self.bytes < expected => {
                Err(PullError::Short { found: self.bytes, expected })
            }
            _ => Ok(()),
        }
    }

    fn broken(&self, expected: Option<u64>, error: &std::io::Error) -> PullError {
        match expected {
            Some(expected) => PullError::Short { found: self.bytes, expected },
            None => PullError::Connection(format!("after {} bytes: {error}", self.bytes)),
        }
    }

    /// Moves the whole file to its place, or throws it away where it is another one.
    fn finish(self, request: &Request) -> Result<Fetched, PullError> {
        let digest = self.hasher.finalize();
        let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let fetched = Fetched { bytes: self.bytes, sha256 };
        remove_if_there(&tag_of(&self.path))?;
        if let Err(error) = request.known.check(&fetched) {
            remove_if_there(&self.path)?;
            return Err(error);
        }
        self.file.sync_all().map_err(PullError::write)?;
        fs::rename(&self.path, request.to).map_err(PullError::write)?;
        Ok(fetched)
    }
}

/// Beside an unfinished file: the validator of its content.
fn tag_of(part: &Path) -> PathBuf {
    part.with_extension("tag")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_may_be_relative() {
        let base = "https://a.example/x/y";
        for (location, expected) in [
            ("https://b.example/z", "https://b.example/z"),
            ("//b.example/z", "https://b.example/z"),
            ("/z", "https://a.example/z"),
            ("z", "https://a.example/x/z"),
        ] {
            assert_eq!(absolute(base, location), expected);
        }
        assert_eq!(absolute("https://a.example", "z"), "https://a.example/z");
    }

    #[test]
    fn a_token_stays_with_its_host() {
        assert!(same_host("https://a.example/x", "https://a.example/y/z"));
        for other in ["https://a.example:8443/x", "https://b.example/x", "http://a.example/x"] {
            assert!(!same_host(other, "https://a.example/x"), "{other}");
        }
        assert!(!format!("{:?}", Token::new("hf_secret".to_owned())).contains("secret"));
    }
}
