//! Settings of `riveg serve` and `riveg predict`: one place for each, from which the flag, the
//! environment variable, the TOML key and the documentation are made.
//!
//! One precedence: flag, then environment variable, then configuration file, then default.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::device::{DeviceName, DtypeName};
use super::environment::Environment;
use crate::http::Origins;
use crate::telemetry::{self, LogFormat};

/// Bounds that only mistakes pass.
const MANY: u64 = 1_000_000;
const GIBIBYTE: u64 = 1 << 30;
const TERA: u64 = 1_000_000_000_000;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

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
                #[doc = concat!("[env: ", $env, "] [default: ", $default, "]")]
                #[arg(long)]
                pub $name: Option<$ty>,
            )*
        }

        /// Settings in force.
        #[derive(Debug, Clone, Serialize)]
        pub struct Settings {
            $( $(#[doc = $doc])+ pub $name: $ty, )*
        }

        impl GivenSettings {
            /// What the environment says.
            fn from_environment(environment: &Environment) -> anyhow::Result<Self> {
                Ok(Self { $( $name: environment.read($env)?, )* })
            }

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
    /// Directory of pulled packs; empty for the user's cache directory.
    cache_dir: String = "", "RIVEG_CACHE_DIR";
    /// Device: auto, cpu, or cuda:N.
    device: String = "auto", "RIVEG_DEVICE";
    /// Data type of the weights on the device: auto, f32, f16 or bf16. auto is what the
    /// pack says for each role, else f32 on a CPU and bf16 on a GPU.
    dtype: String = "auto", "RIVEG_DTYPE";
    /// Whether to refuse a pack that does not fit into the memory that the device has available: on
    /// or off.
    memory_check: String = "on", "RIVEG_MEMORY_CHECK";
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
    /// Origins that browsers may call from, separated by commas, or * for any; none when empty.
    allowed_origins: String = "", "RIVEG_ALLOWED_ORIGINS";
}

/// The settings' flags, and the file that gives more of them.
#[derive(Args, Debug, Clone, Default)]
pub struct SettingsArgs {
    /// TOML file with settings; keys are the long flags with `_` for `-`.
    /// [env: RIVEG_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    given: GivenSettings,
}

impl SettingsArgs {
    /// The settings in force: flags, then the environment, then the file, then the defaults.
    ///
    /// # Errors
    /// When the file cannot be read or holds something that is no setting, or a value is not legal.
    pub fn resolve(self) -> anyhow::Result<Settings> {
        self.resolve_in(&Environment::of_process())
    }

    /// The settings in force, for commands that are quieter than the server unless told otherwise.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn resolve_quietly(self) -> anyhow::Result<Settings> {
        let quiet = GivenSettings { log: Some("warn".to_owned()), ..GivenSettings::default() };
        self.resolve_with(&Environment::of_process(), quiet)
    }

    fn resolve_in(self, environment: &Environment) -> anyhow::Result<Settings> {
        self.resolve_with(environment, GivenSettings::default())
    }

    fn resolve_with(
        self,
        environment: &Environment,
        defaults: GivenSettings,
    ) -> anyhow::Result<Settings> {
        let file = match self.config.or(environment.read("RIVEG_CONFIG")?) {
            Some(path) => read_file(&path)?,
            None => GivenSettings::default(),
        };
        let environment = GivenSettings::from_environment(environment)?;
        let settings = self.given.or(environment).or(file).or(defaults).resolve();
        settings.check()?;
        Ok(settings)
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

    /// The directory of pulled packs, where one was given.
    pub fn cache_dir(&self) -> Option<&Path> {
        (!self.cache_dir.is_empty()).then(|| Path::new(&self.cache_dir))
    }

    /// Where several requests would fail or the server could not start, better to say so at once.
    fn check(&self) -> anyhow::Result<()> {
        self.log_format.parse::<LogFormat>()?;
        telemetry::check_filter(&self.log)?;
        self.device.parse::<DeviceName>()?;
        self.dtype.parse::<DtypeName>()?;
        if !matches!(self.memory_check.as_str(), "on" | "off") {
            bail!("memory_check is {}: use on or off", self.memory_check);
        }
        self.allowed_origins.parse::<Origins>().context("allowed_origins")?;
        for (name, value, range) in [
            ("threads", self.threads as u64, 0..=MANY),
            ("max_body_bytes", self.max_body_bytes as u64, 1..=GIBIBYTE),
            ("max_image_side", self.max_image_side.into(), 1..=MANY),
            ("max_image_pixels", self.max_image_pixels, 1..=TERA),
            ("pixel_budget", self.pixel_budget, 1..=TERA),
            ("max_text_chars", self.max_text_chars as u64, 1..=GIBIBYTE),
            ("max_entities", self.max_entities as u64, 1..=MANY),
            ("max_batch_items", self.max_batch_items as u64, 1..=MANY),
            ("max_boxes", self.max_boxes as u64, 1..=MANY),
            ("timeout_ms", self.timeout_ms, 1..=DAY_MS),
            ("max_timeout_ms", self.max_timeout_ms, 1..=DAY_MS),
            ("drain_ms", self.drain_ms, 0..=DAY_MS),
            ("max_connections", self.max_connections as u64, 1..=MANY),
            ("max_batch", self.max_batch as u64, 1..=4096),
            ("max_encode_batch", self.max_encode_batch as u64, 1..=4096),
        ] {
            if !range.contains(&value) {
                let (least, most) = range.into_inner();
                bail!("{name} is {value}, but must be between {least} and {most}");
            }
        }
        Ok(())
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

    fn try_resolve(flags: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let command = Command::parse_from(std::iter::once("riveg").chain(flags.iter().copied()));
        command.settings.resolve_in(&Environment::of(environment))
    }

    fn resolve(flags: &[&str]) -> Settings {
        try_resolve(flags, &[]).unwrap()
    }

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("riveg.toml");
        std::fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (directory, path)
    }

    #[test]
    fn flag_wins_over_environment_wins_over_file_wins_over_default() {
        let (_directory, path) = file("port = 1\nhost = \"::1\"\nmax_boxes = 3");
        let environment =
            [("RIVEG_CONFIG", path.as_str()), ("RIVEG_PORT", "2"), ("RIVEG_HOST", "::2")];
        let settings = try_resolve(&["--port", "3"], &environment).unwrap();
        assert_eq!((settings.port, settings.host.as_str()), (3, "::2"));
        assert_eq!((settings.max_boxes, settings.max_batch), (3, 16));
        let (_directory, other) = file("max_boxes = 4");
        assert_eq!(try_resolve(&["--config", &other], &environment).unwrap().max_boxes, 4);
    }

    #[test]
    fn only_the_environment_that_is_meant_counts() {
        // What Kubernetes sets for a service that is called riveg, and an empty variable.
        let foreign = [("RIVEG_PORT", "tcp://10.0.0.1:8080"), ("RIVEG_MODELS_DIR", "")];
        let settings = try_resolve(&[], &foreign).unwrap();
        assert_eq!((settings.port, settings.models_dir()), (8080, None));
        let error = try_resolve(&[], &[("RIVEG_PORT", "eighty")]).unwrap_err();
        assert!(format!("{error:#}").contains("RIVEG_PORT"), "{error:#}");
    }

    #[test]
    fn illegal_values_are_told() {
        for (flag, value, words) in [
            ("--max-connections", "0", "max_connections is 0"),
            ("--timeout-ms", "0", "between 1 and 86400000"),
            ("--max-timeout-ms", "18446744073709551615", "max_timeout_ms"),
            ("--max-batch", "0", "max_batch is 0"),
            ("--log-format", "xml", "use text or json"),
            ("--log", "riveg=loud", "log filter"),
            ("--device", "gpu", "use auto, cpu or cuda:N"),
            ("--memory-check", "no", "use on or off"),
            ("--dtype", "f64", "use auto, f32, f16 or bf16"),
            ("--allowed-origins", "a.example", "allowed_origins"),
        ] {
            let error = try_resolve(&[flag, value], &[]).unwrap_err();
            assert!(format!("{error:#}").contains(words), "{flag}: {error:#}");
        }
    }

    #[test]
    fn predicting_is_quiet_unless_told_otherwise() {
        let quiet = GivenSettings { log: Some("warn".to_owned()), ..GivenSettings::default() };
        let log = |flags: &[&str]| {
            let command = Command::parse_from([&["riveg"], flags].concat());
            let settings = command.settings.resolve_with(&Environment::of(&[]), quiet.clone());
            settings.unwrap().log
        };
        assert_eq!((log(&[]), log(&["--log", "info"])), ("warn".to_owned(), "info".to_owned()));
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
        let error = command.settings.resolve_in(&Environment::of(&[])).unwrap_err();
        assert!(format!("{error:#}").contains("prot"), "{error:#}");
    }
}
