//! Where a pack's file comes from.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where `riveg pack pull` finds a file.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum Source {
    /// A file of a model hub's repository, at one commit of it.
    Hub(HubSource),
    /// An address.
    Url(UrlSource),
    /// A file of this machine.
    Local(LocalSource),
}

/// A file of a model hub's repository.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct HubSource {
    /// Repository, `owner/name`.
    pub hub: String,
    /// The commit, 40 hexadecimal digits: a branch would be another file tomorrow.
    pub revision: String,
    /// Path in the repository.
    pub file: String,
}

/// A file at an address.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct UrlSource {
    /// Its `https` address.
    pub url: String,
}

/// A file of this machine.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct LocalSource {
    /// Its path; a relative one begins at the manifest's directory.
    pub path: PathBuf,
}

impl Source {
    /// What is wrong with it, where something is.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::Hub(source) => source.check(),
            Self::Url(source) if is_safe(&source.url) => Ok(()),
            Self::Url(source) => Err(format!("`{}` is no https address", source.url)),
            Self::Local(_) => Ok(()),
        }
    }
}

impl HubSource {
    /// Its address at a hub, e.g. `https://huggingface.co`.
    pub(super) fn url(&self, endpoint: &str) -> String {
        let Self { hub, revision, file } = self;
        format!("{}/{hub}/resolve/{revision}/{file}", endpoint.trim_end_matches('/'))
    }

    fn check(&self) -> Result<(), String> {
        let names: Vec<_> = self.hub.split('/').collect();
        if names.len() != 2 || !names.iter().all(|name| is_plain(name)) {
            return Err(format!("`{}` is no hub repository (owner/name)", self.hub));
        }
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if self.revision.len() != 40 || !self.revision.bytes().all(is_hex) {
            let Self { revision, hub, .. } = self;
            return Err(format!("`{revision}` of {hub} is no commit (40 hexadecimal digits)"));
        }
        match self.file.split('/').all(is_plain) {
            true => Ok(()),
            false => Err(format!("`{}` is no path in a hub repository", self.file)),
        }
    }
}

/// Whether bytes and tokens may travel to an address: encrypted, or not leaving this machine.
pub(super) fn is_safe(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return url.starts_with("https://") };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|host| match authority.strip_prefix(host) {
        Some("") => true,
        Some(port) => port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()),
        None => false,
    })
}

/// A name that needs no escaping in an address and leads nowhere else.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.chars().all(plain) && !name.chars().all(|c| c == '.')
}

/// One line by which a lock file knows the source again.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub(HubSource { hub, revision, file }) => {
                write!(f, "hub:{hub}@{revision}:{file}")
            }
            Self::Url(source) => f.write_str(&source.url),
            Self::Local(source) => write!(f, "file:{}", source.path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn hub(hub: &str, revision: &str, file: &str) -> HubSource {
        let own = str::to_owned;
        HubSource { hub: own(hub), revision: own(revision), file: own(file) }
    }

    #[test]
    fn a_hub_file_has_an_address() {
        let source = hub("owner/model", COMMIT, "a/model.safetensors");
        let expected =
            format!("https://hub.example/owner/model/resolve/{COMMIT}/a/model.safetensors");
        assert_eq!(source.url("https://hub.example/"), expected);
        assert!(source.check().is_ok());
    }

    #[test]
    fn what_is_not_pinned_or_leads_elsewhere_is_refused() {
        for (repository, revision, file) in [
            ("model", COMMIT, "f"),
            ("../model", COMMIT, "f"),
            ("owner/model", "main", "f"),
            ("owner/model", &COMMIT[1..], "f"),
            ("owner/model", COMMIT, "../f"),
            ("owner/model", COMMIT, "/f"),
            ("owner/model", COMMIT, "f?x=1"),
        ] {
            assert!(
                hub(repository, revision, file).check().is_err(),
                "{repository} {revision} {file}"
            );
        }
    }

    #[test]
    fn only_this_machine_is_spoken_to_in_the_clear() {
        for safe in [
            "https://a.example/f",
            "http://127.0.0.1:8080/f",
            "http://[::1]:1/",
            "http://localhost/",
        ] {
            assert!(is_safe(safe), "{safe}");
        }
        for unsafe_one in [
            "http://a.example/f",
            "http://127.0.0.1.a.example/",
            "http://localhost@a.example/",
            "http://127.0.0.1:80@a.example/",
            "ftp://a.example/",
            "/etc/passwd",
        ] {
            assert!(!is_safe(unsafe_one), "{unsafe_one}");
        }
    }
}
