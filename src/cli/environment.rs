//! Environment variables as settings, read only by the commands that use them.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

use anyhow::anyhow;

/// Variables by name; an empty one is as good as none.
pub struct Environment(HashMap<String, String>);

impl Environment {
    /// What the process was started with.
    pub fn of_process() -> Self {
        // Names and values that are not text are none of ours.
        let texts = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self(texts.collect())
    }

    #[cfg(test)]
    pub fn of(variables: &[(&str, &str)]) -> Self {
        Self(variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// A variable's value, where it is set.
    ///
    /// # Errors
    /// When it is of another form.
    pub fn read<T: FromStr<Err: Display>>(&self, name: &str) -> anyhow::Result<Option<T>> {
        let Some(value) = self.0.get(name).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        if is_service_link(value) {
            eprintln!(
                "riveg: {name}={value} is a service link of Kubernetes, not a setting; ignored"
            );
            return Ok(None);
        }
        value.parse().map(Some).map_err(|error| anyhow!("{name}={value}: {error}"))
    }
}

/// Kubernetes tells every container of a namespace about its services: where one is called `riveg`,
/// by `RIVEG_PORT=tcp://10.0.0.1:8080`.
fn is_service_link(value: &str) -> bool {
    ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
}
