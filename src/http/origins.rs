//! Which origins a browser's scripts may call from.

use std::str::FromStr;

use axum::http::{HeaderValue, Uri};
use tower_http::cors::AllowOrigin;

/// Origins that browsers may call from; none by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origins {
    /// Pages of this server only.
    #[default]
    Own,
    /// Any.
    Any,
    /// These.
    Listed(Vec<HeaderValue>),
}

/// Text that is no origin.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// Not of an origin's form.
    #[error("`{0}` is not an origin: write it as https://example.org, without a path")]
    Illegal(String),
    /// `*` beside others.
    #[error("`*` allows every origin: leave the others out")]
    AnyAndMore,
}

impl FromStr for Origins {
    type Err = OriginError;

    /// Reads origins that are separated by commas, or `*`.
    fn from_str(text: &str) -> Result<Self, OriginError> {
        let listed: Vec<_> = text.split(',').map(str::trim).filter(|o| !o.is_empty()).collect();
        match &listed[..] {
            [] => Ok(Self::Own),
            ["*"] => Ok(Self::Any),
            several if several.contains(&"*") => Err(OriginError::AnyAndMore),
            several => {
                Ok(Self::Listed(several.iter().map(|o| origin(o)).collect::<Result<_, _>>()?))
            }
        }
    }
}

/// A browser sends scheme, host and port, and nothing else would ever match.
fn origin(text: &str) -> Result<HeaderValue, OriginError> {
    let illegal = || OriginError::Illegal(text.to_owned());
    let parts: Uri = text.parse().map_err(|_| illegal())?;
    let (Some(scheme), Some(authority)) = (parts.scheme_str(), parts.authority()) else {
        return Err(illegal());
    };
    if text != format!("{scheme}://{authority}") || authority.as_str().contains('@') {
        return Err(illegal());
    }
    HeaderValue::from_str(text).map_err(|_| illegal())
}

impl Origins {
    /// What the layer is to answer, where it is wanted at all.
    pub(super) fn allowed(&self) -> Option<AllowOrigin> {
        match self {
            Self::Own => None,
            Self::Any => Some(AllowOrigin::any()),
            Self::Listed(origins) => Some(AllowOrigin::list(origins.iter().cloned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_origin() {
        let parsed = |text: &str| text.parse::<Origins>().map_err(|error| error.to_string());
        for none in ["", " ", ","] {
            assert_eq!(parsed(none), Ok(Origins::Own), "{none:?}");
        }
        assert_eq!(parsed(" * "), Ok(Origins::Any));
        let two = ["https://a.example", "http://localhost:3000"].map(HeaderValue::from_static);
        let text = "https://a.example, http://localhost:3000";
        assert_eq!(parsed(text), Ok(Origins::Listed(two.to_vec())));
        for illegal in [
            "a.example",
            "https://a.example/",
            "https://a.example/path",
            "https://me@a.example",
            "https://",
            "https://a b",
            "null",
        ] {
            assert!(parsed(illegal).unwrap_err().contains(illegal), "{illegal}");
        }
        assert!(parsed("*, https://a.example").unwrap_err().contains('*'));
    }
}
