//! `riveg predict`: answer for one picture and one text, or for a whole file of them, then stop.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;

use super::output::say;
use super::serve::limits;
use super::settings::{Settings, SettingsArgs};
use super::startup::{self, Bar};
use super::work::{CorpusBar, closed};
use crate::corpus::{self, Answerer, Journal, Local, Prepared};
use crate::http::parse::{self, PostParts};
use crate::http::problem::Problem;
use crate::http::types::PackName;
use crate::overlay::{OverlayItem, overlay_png};
use crate::pipeline::{Answer, Pipeline};
use crate::telemetry;
use crate::vision::Picture;

/// Posts of a corpus that are answered at a time, for each that fits into a batch.
const AHEAD: usize = 2;

/// Answers for one picture and one text, or for a file of posts.
#[derive(Args)]
pub struct PredictArgs {
    #[command(flatten)]
    post: PostArgs,
    /// Answer a corpus instead: one `{"id", "text", "image", "options"}` per line, all but `text`
    /// optional, pictures' paths relative to the file.
    #[arg(
        long,
        value_name = "FILE",
        requires = "output",
        conflicts_with_all = ["image", "text", "options", "overlay"]
    )]
    input: Option<PathBuf>,
    /// Where the corpus's answers go, one `{"id", "result" or "error"}` per line, in order. Where the
    /// file is there already, the run goes on behind its last whole line.
    #[arg(long, value_name = "FILE", requires = "input")]
    output: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// One post.
#[derive(Args)]
struct PostArgs {
    /// The picture: JPEG, PNG, WebP or GIF. May be left out where the options say `"task": "mner"`.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// The text.
    #[arg(long, required_unless_present = "input")]
    text: Option<String>,
    /// The same as the route's `options`, as JSON.
    #[arg(long, value_name = "JSON")]
    options: Option<String>,
    /// Also draw boxes, masks and labels onto the picture, as PNG.
    #[arg(long, value_name = "FILE", requires = "image")]
    overlay: Option<PathBuf>,
}

/// Prints the answer as JSON, the same as the server's; or works through a corpus.
///
/// # Errors
/// When an argument is not legal, the pack cannot be loaded, or a network fails.
pub fn run(args: PredictArgs) -> anyhow::Result<()> {
    let settings = args.settings.resolve_quietly()?;
    telemetry::init_logging(&settings.log, settings.log_format.parse()?)?;
    match (&args.input, &args.output) {
        (Some(input), Some(output)) => many(&settings, input, output),
        _ => one(&settings, args.post),
    }
}

fn one(settings: &Settings, args: PostArgs) -> anyhow::Result<()> {
    let file = args.image.as_deref().map(read).transpose()?;
    let options = args.options.map(|text| parse::json(text.as_bytes())).transpose();
    let parts = PostParts {
        id: Some("predict".to_owned()),
        text: args.text.unwrap_or_default(),
        image: file.map(Into::into),
        options: options.map_err(in_words)?,
    };
    // Before the pack is loaded, so that a mistake is told at once.
    let prepared = Prepared::new(parts, &limits(settings)).map_err(in_words)?;
    let picture = prepared.picture().cloned();
    let local = load(settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let answered = runtime.block_on(local.answer_prepared(prepared)).map_err(in_words)?;
    if let (Some(path), Some(picture)) = (&args.overlay, &picture) {
        write_overlay(path, picture, &answered.answer)?;
    }
    say!("{}", serde_json::to_string_pretty(&answered.response)?)?;
    runtime.block_on(local.shutdown());
    Ok(())
}

fn many(settings: &Settings, input: &Path, output: &Path) -> anyhow::Result<()> {
    let corpus = String::from_utf8(read(input)?).context("the corpus is not UTF-8")?;
    let jobs = corpus::jobs(&corpus, input.parent().unwrap_or(Path::new(".")));
    let mut journal = Journal::open(output, jobs.iter().map(|job| job.id.as_str()))?;
    let answerer = Answerer::Local(Box::new(load(settings)?));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let bar = CorpusBar::new(jobs.len(), "posts");
    let width = AHEAD * settings.max_batch.max(1);
    let work = corpus::run(&jobs, width, &mut journal, &bar, |id, post| {
        let answerer = &answerer;
        async move { answerer.answer(&id, &post).await }
    });
    let before = runtime.block_on(work)?;
    drop(bar);
    let failed = journal.done().iter().filter(|record| record.error.is_some()).count();
    let done = journal.done().len() - before;
    eprintln!(
        "{done} posts done, {before} were there, {failed} of all failed: {}",
        output.display()
    );
    runtime.block_on(closed(answerer));
    Ok(())
}

/// Loads the pack and starts the pipeline.
///
/// # Errors
/// When the pack cannot be loaded.
pub(super) fn load(settings: &Settings) -> anyhow::Result<Local> {
    startup::set_threads(settings.threads)?;
    let started = startup::load(settings, &Bar::new())?;
    let pipeline = Pipeline::start(started.roles(), started.options.clone())?;
    let manifest = &started.pack.manifest;
    Ok(Local {
        pipeline,
        pack: PackName { name: manifest.name.clone(), version: manifest.version.clone() },
        limits: limits(settings),
        threshold: started.options.entailment_threshold,
    })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
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
