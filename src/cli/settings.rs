//! Settings of `riveg serve` and `riveg predict`: one place for each, from which the flag, the
//! environment variable, the TOML key and the documentation are made.
//!
//! One precedence: flag, then environment variable, then configuration file, then default.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};

/// Turns the literal in the table below into a setting's type.
trait Literal<T> {
    fn value(self) -> T;
}

impl Literal<String> for &str {
    fn value(self) -> String {
        self.to_owned()
    }
}

macro_rules! plain_literals {
    ($($ty:ty),*) => { $(impl Literal<$ty> for $ty { fn value(self) -> $ty { self } })* };
}
plain_literals!(u16, u32, u64, usize);

macro_rules! settings {
    ($( $(#[doc = $doc:literal])+ $name:ident : $ty:ty = $default:literal, $env:literal; )*) => {
        /// Settings as one source gave them; `None` where it said nothing.
        #[derive(Args, Debug, Clone, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct GivenSettings {
            $(
                $(#[doc = $doc])+
                #[doc = concat!("[default: ", $default, "]")]
                #[arg(long, env = $env, hide_env_values = true)]
                pub $name: Option<$ty>,
            )*
        }

        /// Settings in force.
        #[derive(Debug, Clone, Serialize)]
        pub struct Settings {
            $( $(#[doc = $doc])+ pub $name: $ty, )*
        }

        impl GivenSettings {
            /// These settings, and `other`'s where these say nothing.
            fn or(self, other: Self) -> Self {
                Self { $( $name: self.$name.or(other.$name), )* }
            }

            /// Fills the gaps with the defaults.
            fn resolve(self) -> Settings {
                Settings { $( $name: self.$name.unwrap_or_else(|| $default.value()), )* }
            }
        }
    };
}

settings! {
    /// Address to listen on; 0.0.0.0 for every interface.
    host: String = "127.0.0.1", "RIVEG_HOST";
    /// Port to listen on; 0 lets the system choose.
    port: u16 = 8080, "RIVEG_PORT";
    /// Pack to load: a directory, or a name below the models directory.
    pack: String = "nano", "RIVEG_PACK";
    /// Directory in which packs are looked up by name; empty for the built-in places.
    models_dir: String = "", "RIVEG_MODELS_DIR";
    /// Device: auto, cpu, or cuda:N.
    device: String = "auto", "RIVEG_DEVICE";
    /// Data type of the weights on the device: auto, f32, f16 or bf16. auto is f32 on a CPU and
    /// bf16 on a GPU.
    dtype: String = "auto", "RIVEG_DTYPE";
    /// Threads that compute on the CPU; 0 for one per core.
    threads: usize = 0, "RIVEG_THREADS";
    /// Log filter, e.g. info or riveg=debug.
    log: String = "info", "RIVEG_LOG";
    /// Log format: text or json.
    log_format: String = "text", "RIVEG_LOG_FORMAT";
    /// Largest request body in bytes.
    max_body_bytes: usize = 20_971_520, "RIVEG_MAX_BODY_BYTES";
    /// Largest side of a picture in pixels.
    max_image_side: u32 = 16_384, "RIVEG_MAX_IMAGE_SIDE";
    /// Most pixels of one picture.
    max_image_pixels: u64 = 40_000_000, "RIVEG_MAX_IMAGE_PIXELS";
    /// Most decoded pixels held at once by all requests.
    pixel_budget: u64 = 160_000_000, "RIVEG_PIXEL_BUDGET";
    /// Longest text in Unicode code points.
    max_text_chars: usize = 10_000, "RIVEG_MAX_TEXT_CHARS";
    /// Most entities of one request.
    max_entities: usize = 100, "RIVEG_MAX_ENTITIES";
    /// Most items of one batch request.
    max_batch_items: usize = 32, "RIVEG_MAX_BATCH_ITEMS";
    /// Most boxes of one segment request.
    max_boxes: usize = 100, "RIVEG_MAX_BOXES";
    /// Deadline of a request that names none, in milliseconds.
    timeout_ms: u64 = 30_000, "RIVEG_TIMEOUT_MS";
    /// Longest deadline that a request may ask for, in milliseconds.
    max_timeout_ms: u64 = 120_000, "RIVEG_MAX_TIMEOUT_MS";
    /// Longest wait for running requests at shutdown, in milliseconds.
    drain_ms: u64 = 25_000, "RIVEG_DRAIN_MS";
    /// Most open connections.
    max_connections: usize = 1024, "RIVEG_MAX_CONNECTIONS";
    /// Admission: work in flight at once, in billions of multiply-adds; 0 for about eight seconds
    /// of this machine's work, measured while warming up.
    max_inflight_gmac: u64 = 0, "RIVEG_MAX_INFLIGHT_GMAC";
    /// Largest batch of the tagger, the entailer and the grounder.
    max_batch: usize = 16, "RIVEG_MAX_BATCH";
    /// Largest batch of the segmenter's image encoder.
    max_encode_batch: usize = 4, "RIVEG_MAX_ENCODE_BATCH";
    /// Bytes of image embeddings kept for pictures that come again.
    embedding_cache_bytes: usize = 67_108_864, "RIVEG_EMBEDDING_CACHE_BYTES";
    /// Origins that browsers may call from, separated by commas; none when empty.
    allowed_origins: String = "", "RIVEG_ALLOWED_ORIGINS";
}

/// The settings' flags, and the file that gives more of them.
#[derive(Args, Debug, Clone, Default)]
pub struct SettingsArgs {
    /// TOML file with settings; keys are the long flags with `_` for `-`.
    #[arg(long, env = "RIVEG_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    given: GivenSettings,
}

impl SettingsArgs {
    /// The settings in force: flags and environment (clap has put those in order already), then
    /// the file, then the defaults.
    ///
    /// # Errors
    /// When the file cannot be read or holds something that is no setting.
    pub fn resolve(self) -> anyhow::Result<Settings> {
        let file = match &self.config {
            Some(path) => read_file(path)?,
            None => GivenSettings::default(),
        };
        Ok(self.given.or(file).resolve())
    }
}

fn read_file(path: &Path) -> anyhow::Result<GivenSettings> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is not a settings file", path.display()))
}

impl Settings {
    /// The directory in which packs are looked up by name, where one was given.
    pub fn models_dir(&self) -> Option<&Path> {
        (!self.models_dir.is_empty()).then(|| Path::new(&self.models_dir))
    }

    /// The settings as a TOML file that `--config` reads back.
    ///
    /// # Errors
    /// Never in practice: every setting is a number or a string.
    pub fn to_toml(&self) -> anyhow::Result<String> {
        Ok(toml::to_string(self)?)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        settings: SettingsArgs,
    }

    fn resolve(flags: &[&str]) -> Settings {
        let command = Command::parse_from(std::iter::once("riveg").chain(flags.iter().copied()));
        command.settings.resolve().unwrap()
    }

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("riveg.toml");
        std::fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (directory, path)
    }

    #[test]
    fn flag_wins_over_file_wins_over_default() {
        let (_directory, path) = file("port = 1\nhost = \"::1\"");
        let settings = resolve(&["--config", &path, "--port", "2"]);
        assert_eq!((settings.port, settings.host.as_str()), (2, "::1"));
        assert_eq!(settings.max_batch, 16);
    }

    #[test]
    fn what_is_printed_reads_back() {
        let settings = resolve(&["--port", "7", "--allowed-origins", "https://a.example"]);
        let (_directory, path) = file(&settings.to_toml().unwrap());
        assert_eq!(resolve(&["--config", &path]).to_toml().unwrap(), settings.to_toml().unwrap());
    }

    #[test]
    fn a_misspelt_key_is_told() {
        let (_directory, path) = file("prot = 1");
        let command = Command::parse_from(["riveg", "--config", &path]);
        let error = command.settings.resolve().unwrap_err();
        assert!(format!("{error:#}").contains("prot"), "{error:#}");
    }
}
