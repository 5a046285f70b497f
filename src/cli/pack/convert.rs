//! `riveg pack convert`: write networks as safetensors.

use std::path::PathBuf;

use anyhow::bail;
use candle_core::DType;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::PackArgs;
use crate::cli::output::say;
use crate::models::WrittenAs;
use crate::pack::{self, ConvertObserver, Converted, Role};

/// Names that are listed before the rest is only counted.
const LISTED: usize = 12;

/// What to convert, and to where.
#[derive(Args)]
pub struct ConvertArgs {
    #[command(flatten)]
    pack: PackArgs,
    /// The folder PACK holds one network, for this role, and no manifest.
    #[arg(long)]
    role: Option<RoleName>,
    /// Directory to write to; it must be empty or not there.
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    /// Type of the weights in the new files; without, each tensor's own. With q8, weights of linear
    /// layers become bytes with a scale for each output, and others keep their type.
    #[arg(long)]
    dtype: Option<TypeName>,
    /// List every tensor that was left out.
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum RoleName {
    Tagger,
    Entailer,
    Grounder,
    Segmenter,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Tagger => Self::Tagger,
            RoleName::Entailer => Self::Entailer,
            RoleName::Grounder => Self::Grounder,
            RoleName::Segmenter => Self::Segmenter,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum TypeName {
    F32,
    F16,
    Bf16,
    Q8,
}

impl From<TypeName> for WrittenAs {
    fn from(name: TypeName) -> Self {
        match name {
            TypeName::F32 => Self::Type(DType::F32),
            TypeName::F16 => Self::Type(DType::F16),
            TypeName::Bf16 => Self::Type(DType::BF16),
            TypeName::Q8 => Self::Bytes,
        }
    }
}

/// Converts a pack, or the one network of a folder.
///
/// # Errors
/// When the pack cannot be found, a network cannot be loaded, or a file cannot be read or written.
pub fn run(args: &ConvertArgs) -> anyhow::Result<()> {
    let bar = Bar::new();
    let form = args.dtype.map_or(WrittenAs::Stored, WrittenAs::from);
    let converted = match args.role {
        Some(role) => {
            let folder = PathBuf::from(&args.pack.pack);
            if !folder.is_dir() {
                bail!("with --role, {} has to be a directory", folder.display());
            }
            let role = (role.into(), form);
            vec![pack::convert_folder(&folder, &args.output, role, &bar)?]
        }
        None => pack::convert_pack(&args.pack.directory()?, &args.output, form, &bar)?,
    };
    drop(bar);
    converted.iter().try_for_each(|network| show(network, args.all))
}

fn show(network: &Converted, all: bool) -> anyhow::Result<()> {
    let names = &network.names;
    say!("{:<9} {} -> {}", network.role.name(), network.from.display(), network.to.display())?;
    say!("          {} tensors, every one read by the network, none missing", names.read.len())?;
    show_left_out("buffers that are computed anew", &names.buffers, all)?;
    show_left_out("tensors that the network does not use", &names.unused, all)
}

fn show_left_out(what: &str, names: &[String], all: bool) -> anyhow::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    say!("          left out: {} {what}", names.len())?;
    let listed = if all { names.len() } else { LISTED };
    for name in names.iter().take(listed) {
        say!("            {name}")?;
    }
    match names.len().saturating_sub(listed) {
        0 => Ok(()),
        more => say!("            and {more} more (--all lists them)"),
    }
}

/// One bar, for the network in hand.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:24}] {pos}/{len} tensors") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }
}

impl ConvertObserver for Bar {
    fn network(&self, role: Role) {
        self.0.reset();
        self.0.set_message(role.name());
    }

    fn tensor(&self, index: usize, count: usize) {
        self.0.set_length(count as u64);
        self.0.set_position(index as u64);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
