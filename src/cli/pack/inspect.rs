//! `riveg pack inspect`: what a pack is made of.

use std::path::Path;

use candle_core::Device;
use clap::Args;
use serde_json::{Map, Value, json};

use super::PackArgs;
use crate::cli::device::DtypeName;
use crate::cli::output::say;
use crate::pack::{self, FileEntry, Manifest, MemoryPlan, PackError, WeightSummary};

/// Which pack, and how much of it.
#[derive(Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pack: PackArgs,
    /// List every tensor too.
    #[arg(long)]
    tensors: bool,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Data types that the memory is planned for.
const DTYPES: [&str; 3] = ["auto", "f16", "bf16"];

/// Shows a pack; of one that was not pulled, where its files come from.
///
/// # Errors
/// When it cannot be found or read.
pub fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let source = args.pack.source()?;
    let (directory, pulled) = match args.pack.resolve(source.clone()) {
        Ok(directory) => (directory, true),
        Err(error) => match error.downcast_ref() {
            Some(PackError::NotPulled { .. }) => (source, false),
            _ => return Err(error),
        },
    };
    let manifest = Manifest::read(&directory)?;
    let mut weights = Vec::new();
    let mut plans = Vec::new();
    if pulled {
        for file in manifest.files.iter().filter(|file| pack::is_weights(Path::new(&file.path))) {
            weights.push((file, pack::inspect_weights(&directory.join(&file.path))?));
        }
        plans = plans_of(&directory, &manifest)?;
    }
    if args.json {
        let weights = weights.iter().map(|(file, weights)| as_json(file, weights, args.tensors));
        let memory = plans.iter().map(|(dtype, plan)| ((*dtype).to_owned(), json!(plan)));
        let shown = json!({
            "directory": directory, "pulled": pulled, "manifest": manifest,
            "weights": weights.collect::<Vec<_>>(), "memory": memory.collect::<Map<_, _>>(),
        });
        return say!("{}", serde_json::to_string_pretty(&shown)?);
    }
    show(&directory, &manifest)?;
    if !pulled {
        show_sources(&manifest)?;
    }
    for (file, weights) in &weights {
        show_weights(file, weights, args.tensors)?;
    }
    for (dtype, plan) in &plans {
        show_plan(dtype, plan)?;
    }
    Ok(())
}

/// The memory by data type; `auto` on a CPU.
fn plans_of(
    directory: &Path,
    manifest: &Manifest,
) -> anyhow::Result<Vec<(&'static str, MemoryPlan)>> {
    let plan = |name: &'static str| {
        let types = name.parse::<DtypeName>()?.on(&Device::Cpu);
        Ok((name, pack::plan(directory, manifest, types)?))
    };
    DTYPES.into_iter().map(plan).collect()
}

fn as_json(file: &FileEntry, weights: &WeightSummary, tensors: bool) -> Value {
    let mut shown = json!({
        "path": file.path, "bytes": file.bytes, "tensor_count": weights.tensors.len(),
        "parameters": weights.parameters, "dtypes": weights.dtypes(),
    });
    if tensors {
        shown["tensors"] = json!(weights.tensors);
    }
    shown
}

fn show(directory: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    say!("pack      {} {} ({})", manifest.name, manifest.version, manifest.licence)?;
    say!("directory {}", directory.display())?;
    for (role, entry) in manifest.roles() {
        say!("{role:<9} {} in {}", entry.architecture, entry.path.display())?;
    }
    say!("expander  {}", manifest.expander.architecture)
}

fn show_sources(manifest: &Manifest) -> anyhow::Result<()> {
    say!("not here  `riveg pack pull {}` brings", manifest.name)?;
    for file in &manifest.files {
        let from = match (&file.source, &file.note) {
            (Some(source), _) => source.to_string(),
            (None, Some(note)) => note.clone(),
            (None, None) => "beside the manifest".to_owned(),
        };
        say!("          {:<28} {from}", file.path)?;
    }
    Ok(())
}

fn show_weights(file: &FileEntry, weights: &WeightSummary, tensors: bool) -> anyhow::Result<()> {
    say!(
        "weights   {}: {} tensors, {:.2} M parameters as {}, {:.1} MB on disk",
        file.path,
        weights.tensors.len(),
        weights.parameters as f64 / 1e6,
        weights.dtypes().join(", "),
        file.bytes.unwrap_or_default() as f64 / 1e6
    )?;
    for tensor in weights.tensors.iter().filter(|_| tensors) {
        say!("          {} {:?} {}", tensor.name, tensor.shape, tensor.dtype)?;
    }
    Ok(())
}

fn show_plan(dtype: &str, plan: &MemoryPlan) -> anyhow::Result<()> {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    say!(
        "memory    --dtype {dtype:<5}{:>9.1} MB of weights, about {:.0} MB in all",
        megabytes(plan.weights),
        megabytes(plan.total())
    )
}
