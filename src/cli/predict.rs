//! `riveg predict`: answer for one picture and one text, then stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;

use super::overlay::{OverlayItem, overlay_png};
use super::serve::limits;
use super::settings::SettingsArgs;
use super::startup::{self, Bar};
use crate::batch::RequestContext;
use crate::http::parse::{self, PostParts};
use crate::http::problem::Problem;
use crate::http::render::{self, Rendering};
use crate::http::types::PackName;
use crate::pipeline::{Answer, Pipeline, Request};
use crate::telemetry;
use crate::vision::{Picture, decode};

/// Answers for one picture and one text.
#[derive(Args)]
pub struct PredictArgs {
    /// The picture: JPEG, PNG, WebP or GIF; may be left out only where the options' task is mner.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// The text.
    #[arg(long)]
    text: String,
    /// The same as the route's `options`, as JSON.
    #[arg(long, value_name = "JSON")]
    options: Option<String>,
    /// Also draw boxes, masks and labels onto the picture, as PNG.
    #[arg(long, value_name = "FILE", requires = "image")]
    overlay: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Prints the answer as JSON, the same as the server's.
///
/// # Errors
/// When an argument is not legal, the pack cannot be loaded, or a network fails.
pub fn run(args: PredictArgs) -> anyhow::Result<()> {
    let settings = args.settings.resolve_quietly()?;
    telemetry::init_logging(&settings.log, settings.log_format.parse()?)?;
    let limits = limits(&settings);
    let options = args.options.map(|text| parse::json(text.as_bytes())).transpose();
    let parts = PostParts {
        id: None,
        text: args.text,
        image: args.image.as_deref().map(read_file).transpose()?,
        options: options.map_err(in_words)?,
    };
    let post = parse::post_of_parts(parts, &limits).map_err(in_words)?;
    let begun = Instant::now();
    let picture = post.image.map(|file| decode(&file, &limits.decode()).map(Arc::new)).transpose();
    let picture = picture.map_err(Problem::from).map_err(in_words)?;
    let decoded = begun.elapsed();
    startup::set_threads(settings.threads)?;
    let started = startup::load(&settings, &Bar::new())?;
    let pipeline = Pipeline::start(started.roles(), started.options.clone())?;
    let request = Request { text: post.text, picture: picture.clone(), options: post.options };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let begun = Instant::now();
    let context = RequestContext::unadmitted("predict".into(), None);
    let answer = runtime.block_on(pipeline.run(request, &context))?;
    if let (Some(path), Some(picture)) = (&args.overlay, &picture) {
        write_overlay(path, picture, &answer)?;
    }
    let manifest = &started.pack.manifest;
    let rendering = Rendering {
        id: "predict".to_owned(),
        pack: PackName { name: manifest.name.clone(), version: manifest.version.clone() },
        image: picture.as_deref().map(Into::into),
        mask_format: post.mask_format,
        decode: decoded,
        total: decoded + begun.elapsed(),
    };
    let response = render::answer(answer, rendering).map_err(in_words)?;
    println!("{}", serde_json::to_string_pretty(&response)?);
    runtime.block_on(pipeline.shutdown());
    Ok(())
}

fn read_file(path: &Path) -> anyhow::Result<Bytes> {
    let file = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(file.into())
}

fn in_words(problem: Problem) -> anyhow::Error {
    anyhow!("{}: {}", problem.code.title(), problem.detail)
}

fn write_overlay(path: &Path, picture: &Picture, answer: &Answer) -> anyhow::Result<()> {
    let items: Vec<_> = answer
        .entities
        .iter()
        .filter_map(|entity| {
            let grounded = entity.grounded.as_ref()?;
            Some(OverlayItem {
                label: format!("{} {} {:.2}", entity.text, entity.kind, grounded.score),
                bbox: grounded.bbox,
                mask: grounded.mask.as_ref().and_then(|mask| mask.rle.as_ref()),
            })
        })
        .collect();
    let png = overlay_png(picture, &items)?;
    std::fs::write(path, png).with_context(|| format!("cannot write {}", path.display()))
}
