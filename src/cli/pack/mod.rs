//! `riveg pack`: get packs, look into them and check them.

mod pull;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::environment::Environment;
use crate::pack::{self, Cache, FileState, Manifest};

/// Gets packs and looks into them.
#[derive(Subcommand)]
pub enum PackCommand {
    /// Bring a pack's files to this machine: resumable, checked, into a cache.
    Pull(pull::PullArgs),
    /// Show what a pack is made of: roles, architectures, files, parameters, memory.
    Inspect(InspectArgs),
    /// Compare every file with the size and SHA-256 in the manifest.
    Verify(PackArgs),
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

/// Which pack, and how much of it.
#[derive(Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pack: PackArgs,
    /// List every tensor too.
    #[arg(long)]
    tensors: bool,
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

    /// Where the pack's files lie: for a pack that has to be pulled, in the cache.
    fn directory(&self) -> anyhow::Result<PathBuf> {
        Ok(self.cache()?.resolve(&self.source()?)?)
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
        PackCommand::Inspect(args) => inspect(&args),
        PackCommand::Verify(args) => verify(&args),
        PackCommand::Lock(args) => lock(&args),
    }
}

fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let directory = args.pack.directory()?;
    let manifest = Manifest::read(&directory)?;
    println!("pack      {} {} ({})", manifest.name, manifest.version, manifest.licence);
    println!("directory {}", directory.display());
    for (role, entry) in [
        ("tagger", &manifest.tagger),
        ("entailer", &manifest.entailer),
        ("grounder", &manifest.grounder),
        ("segmenter", &manifest.segmenter),
    ] {
        println!("{role:<9} {} in {}", entry.architecture, entry.path.display());
    }
    println!("expander  {}", manifest.expander.architecture);
    let mut all = 0;
    for file in manifest.files.iter().filter(|file| file.path.ends_with(".safetensors")) {
        let summary = pack::inspect_weights(&directory.join(&file.path))?;
        all += summary.parameters;
        println!(
            "weights   {}: {} tensors, {:.2} M parameters, {:.1} MB on disk",
            file.path,
            summary.tensors.len(),
            summary.parameters as f64 / 1e6,
            file.bytes.unwrap_or_default() as f64 / 1e6
        );
        if args.tensors {
            for tensor in &summary.tensors {
                println!("          {} {:?} {}", tensor.name, tensor.shape, tensor.dtype);
            }
        }
    }
    println!(
        "memory    {:.2} M parameters: {:.1} MB as f32, {:.1} MB as f16 or bf16",
        all as f64 / 1e6,
        all as f64 * 4.0 / 1e6,
        all as f64 * 2.0 / 1e6
    );
    Ok(())
}

fn verify(args: &PackArgs) -> anyhow::Result<()> {
    let directory = args.directory()?;
    let manifest = Manifest::read(&directory)?;
    let reports = pack::verify(&directory, &manifest)?;
    for report in &reports {
        println!("{:<40} {}", report.path, report.state);
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
        println!("{sha256}  {:>10}  {}", file.bytes.unwrap_or_default(), file.path);
    }
    Ok(())
}
