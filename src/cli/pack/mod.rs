//! `riveg pack`: get packs, look into them and check them.

mod convert;
mod inspect;
mod pull;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::environment::Environment;
use super::output::say;
use crate::pack::{self, Cache, FileState, Manifest};

/// Gets packs and looks into them.
#[derive(Subcommand)]
pub enum PackCommand {
    /// Bring a pack's files to this machine: resumable, checked, into a cache.
    Pull(pull::PullArgs),
    /// Show what a pack is made of: roles, architectures, files, parameters, memory.
    Inspect(inspect::InspectArgs),
    /// Compare every file with the size and SHA-256 in the manifest.
    Verify(PackArgs),
    /// Write a pack's networks, or one network, as safetensors: only what is used, checked by name.
    Convert(convert::ConvertArgs),
    /// Write sizes and SHA-256 of the files that lie in the pack into its manifest.
    Lock(PackArgs),
}

/// Which pack.
#[derive(Args)]
pub struct PackArgs {
    /// A directory, or a name below the models directory.
    #[arg(default_value = "nano")]
    pack: String,
    /// Directory in which packs are looked up by name. [env: RIVEG_MODELS_DIR]
    #[arg(long)]
    models_dir: Option<PathBuf>,
    /// Directory of pulled packs. [env: RIVEG_CACHE_DIR] [default: the user's cache directory]
    #[arg(long)]
    cache_dir: Option<PathBuf>,
}

impl PackArgs {
    /// Where the pack's own manifest lies.
    fn source(&self) -> anyhow::Result<PathBuf> {
        let models_dir = given(self.models_dir.as_deref(), "RIVEG_MODELS_DIR")?;
        Ok(pack::locate(&self.pack, models_dir.as_deref())?)
    }

    fn cache(&self) -> anyhow::Result<Cache> {
        let directory = given(self.cache_dir.as_deref(), "RIVEG_CACHE_DIR")?;
        let cache = Cache::open(directory.as_deref());
        cache.context("neither --cache-dir, XDG_CACHE_HOME nor HOME says where the cache is")
    }

    /// As [`Self::directory`], of the manifest in `source`. A pack that needs no pulling is looked at
    /// where there is no place for a cache too.
    fn resolve(&self, source: PathBuf) -> anyhow::Result<PathBuf> {
        match Manifest::read(&source)?.has_sources() {
            true => Ok(self.cache()?.resolve(&source)?),
            false => Ok(source),
        }
    }

    /// Where the pack's files lie: for a pack that has to be pulled, in the cache.
    fn directory(&self) -> anyhow::Result<PathBuf> {
        self.resolve(self.source()?)
    }
}

/// A directory by flag, else by environment variable; an empty one is none.
fn given(flag: Option<&Path>, variable: &str) -> anyhow::Result<Option<PathBuf>> {
    let directory = match flag {
        Some(path) => Some(path.to_owned()),
        None => Environment::of_process().read(variable)?,
    };
    Ok(directory.filter(|path| !path.as_os_str().is_empty()))
}

/// Runs one of the pack commands.
///
/// # Errors
/// When the pack cannot be found or read, or a file is not what the manifest says.
pub fn run(command: PackCommand) -> anyhow::Result<()> {
    match command {
        PackCommand::Pull(args) => pull::run(&args),
        PackCommand::Inspect(args) => inspect::run(&args),
        PackCommand::Convert(args) => convert::run(&args),
        PackCommand::Verify(args) => verify(&args),
        PackCommand::Lock(args) => lock(&args),
    }
}

fn verify(args: &PackArgs) -> anyhow::Result<()> {
    let directory = args.directory()?;
    let manifest = Manifest::read(&directory)?;
    let reports = pack::verify(&directory, &manifest)?;
    for report in &reports {
        say!("{:<40} {}", report.path, report.state)?;
    }
    let bad = reports.iter().filter(|report| report.state != FileState::Good).count();
    if bad > 0 {
        bail!("{bad} of {} files are not what the manifest says", reports.len());
    }
    Ok(())
}

fn lock(args: &PackArgs) -> anyhow::Result<()> {
    for file in pack::lock(&args.directory()?)? {
        let sha256 = file.sha256.unwrap_or_default();
        say!("{sha256}  {:>10}  {}", file.bytes.unwrap_or_default(), file.path)?;
    }
    Ok(())
}
