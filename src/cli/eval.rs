//! `riveg eval`: measure a pack, a server or a file of predictions on annotated posts.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::output::say;
use super::predict::load;
use super::settings::{Settings, SettingsArgs};
use super::work::{CorpusBar, closed};
use crate::corpus::{self, Answerer, Boxes, Job, Journal, Post, Record, Remote};
use crate::eval::metrics::{self, IouRule};
use crate::eval::prediction::{PredictedPost, Predictions};
use crate::eval::read::{self, CocoQuestions, ConllOptions, GmnerPaths};
use crate::eval::report::{self, Evaluated, MaskOfBox};
use crate::eval::{DataSet, GoldPost, Instance};
use crate::telemetry;

/// Posts under way in this process, for each that fits into a batch.
const AHEAD: usize = 2;
/// Posts under way at a server.
const AT_A_SERVER: usize = 8;

/// The forms of data sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Twitter-GMNER: a folder with `txt/<split>.txt` and `xml/`.
    Gmner,
    /// Twitter-SMNER: a folder with `txt/<split>.txt` and labelme files in `json/`.
    Smner,
    /// One CoNLL file, as Twitter-2015 and Twitter-2017 are.
    Conll,
    /// COCO's instances, `images/` beside the file: asks whether and where the pictures show things.
    Coco,
    /// Our own: the lines of a corpus with `"gold": {"entities": […]}`.
    Jsonl,
    /// The gold labels that RiVEG's authors released.
    Riveg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Rule {
    /// IoU over 0.5, as the paper says.
    Strict,
    /// IoU of 0.5 or more, as the authors' script counts.
    Inclusive,
}

/// Measures a pack, a server (`--url`) or a file of predictions (`--predictions`).
#[derive(Args)]
pub struct EvalArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Ask this server instead of loading a pack.
    #[arg(long, conflicts_with = "predictions")]
    url: Option<String>,
    /// Measure these predictions: what `riveg predict --input` or an earlier evaluation wrote, or
    /// RiVEG's released file.
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// When a box or mask overlaps the gold one enough.
    #[arg(long, value_enum, default_value_t = Rule::Strict)]
    iou_rule: Rule,
    /// Where answers and reports go. A run that was stopped goes on with the answers that are there.
    #[arg(long, value_name = "DIR", default_value = "riveg-eval")]
    out: PathBuf,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// What to measure on.
#[derive(Args)]
struct DataArgs {
    /// The data set's form.
    #[arg(long, value_enum)]
    dataset: Form,
    /// Its file or folder; several files of COCO's form are taken together.
    #[arg(long, value_name = "PATH", required = true)]
    data: Vec<PathBuf>,
    /// Which part of it: the file in `txt/`, or what a COCO image says of itself; there several.
    #[arg(long, value_name = "NAME")]
    split: Vec<String>,
    /// The folder with the posts' pictures, `<id>.jpg`.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// FMNERG's file of the same posts, for fine types.
    #[arg(long, value_name = "FILE")]
    fine: Option<PathBuf>,
    /// A file of the same posts with knowledge behind `<EOS>`, to be handed to the tagger.
    #[arg(long, value_name = "FILE")]
    knowledge: Option<PathBuf>,
    /// Give the gold entities to the pipeline instead of letting it find them.
    #[arg(long)]
    given_entities: bool,
    /// COCO: also ask, as often, for what a picture does not show. Only where everything of every
    /// class is annotated.
    #[arg(long)]
    absent: bool,
    /// Take only the first so many posts.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// Writes `report.json`, `report.md` and `report.html`, and prints the tables.
///
/// # Errors
/// When the data set cannot be read, nobody answers, or a file cannot be written.
pub fn run(args: EvalArgs) -> anyhow::Result<()> {
    let settings = args.settings.resolve_quietly()?;
    telemetry::init_logging(&settings.log, settings.log_format.parse()?)?;
    let mut set = data_set(&args.data)?;
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make {}", args.out.display()))?;
    let answers = match &args.predictions {
        Some(file) => Answers::read(file)?,
        None => Answers::ask(&settings, args.url.as_deref(), &set, &args.out)?,
    };
    set = set.with_posts_of(&answers.predictions);
    let masks = masks_of_boxes(&set, &answers.masks)?;
    let rule = match args.iou_rule {
        Rule::Strict => IouRule::Strict,
        Rule::Inclusive => IouRule::Inclusive,
    };
    let evaluated = Evaluated {
        set: &set,
        predictions: &answers.predictions,
        masks: &masks,
        source: answers.source.clone(),
        rule,
    };
    write(&evaluated, &args.out)
}

fn write(evaluated: &Evaluated, out: &Path) -> anyhow::Result<()> {
    let found = report::report(evaluated);
    let pairs = metrics::pairs(evaluated.set, evaluated.predictions, false);
    let examples = report::examples(&pairs, evaluated.rule);
    let markdown = report::markdown(&found);
    let save = |name: &str, text: &str| {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    save("report.json", &(serde_json::to_string_pretty(&found)? + "\n"))?;
    save("report.md", &markdown)?;
    save("report.html", &report::html(&found, &examples))?;
    say!("{markdown}")?;
    eprintln!("report: {}", out.join("report.html").display());
    Ok(())
}

fn data_set(args: &DataArgs) -> anyhow::Result<DataSet> {
    let [first, others @ ..] = &args.data[..] else { bail!("--data is missing") };
    ensure!(others.is_empty() || args.dataset == Form::Coco, "only COCO takes several --data");
    let options = ConllOptions {
        images: args.images.clone(),
        fine: args.fine.clone(),
        knowledge: args.knowledge.clone(),
    };
    let text = || {
        let [split] = &args.split[..] else { bail!("name one --split, e.g. test") };
        Ok(first.join("txt").join(format!("{split}.txt")))
    };
    let mut set = match args.dataset {
        Form::Gmner => {
            read::gmner(&GmnerPaths { text: text()?, boxes: first.join("xml"), options })?
        }
        Form::Smner => read::labelme(&text()?, &first.join("json"), &options)?,
        Form::Conll => read::conll(first, &options)?,
        Form::Jsonl => read::jsonl(first)?,
        Form::Riveg => read::riveg_gold(first)?,
        Form::Coco => coco(args)?,
    };
    set.questions |= args.given_entities;
    set.posts.truncate(args.limit.unwrap_or(usize::MAX));
    Ok(set)
}

/// Several files of COCO's form as one set.
fn coco(args: &DataArgs) -> anyhow::Result<DataSet> {
    let mut all = DataSet::default();
    let mut names = Vec::new();
    for file in &args.data {
        let questions = CocoQuestions {
            annotations: file.clone(),
            splits: args.split.clone(),
            absent: args.absent,
        };
        let set = read::coco(&questions)?;
        names.push(set.name);
        all.posts.extend(set.posts);
        (all.annotated, all.questions) = (set.annotated, set.questions);
    }
    all.name = names.join(", ");
    Ok(all)
}

/// What was answered, and by whom.
struct Answers {
    predictions: Predictions,
    /// Records of masks made from gold boxes, by post.
    masks: Vec<Record>,
    source: String,
}

impl Answers {
    /// From a file of predictions.
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let predictions = if text.starts_with("Imageid:") {
            read::riveg_predictions(path)?
        } else {
            let records = text.lines().filter(|line| !line.trim().is_empty());
            let records: Result<Vec<Record>, _> = records.map(serde_json::from_str).collect();
            predictions(&records.with_context(|| path.display().to_string())?, None)?
        };
        let source = path.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(Self { predictions, masks: Vec::new(), source: source.unwrap_or_default() })
    }

    /// By asking a server, or a pack that is loaded for it.
    fn ask(
        settings: &Settings,
        url: Option<&str>,
        set: &DataSet,
        out: &Path,
    ) -> anyhow::Result<Self> {
        let posts = posts(set);
        let boxes = boxes(set);
        let ids = |jobs: Vec<&str>, name: &str| Journal::open(&out.join(name), jobs);
        let mut answered =
            ids(posts.iter().map(|job| job.id.as_str()).collect(), "predictions.jsonl")?;
        let mut segmented = ids(boxes.iter().map(|job| job.id.as_str()).collect(), "masks.jsonl")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let answerer = match url {
            Some(url) => Answerer::Remote(runtime.block_on(Remote::connect(url))?),
            None => Answerer::Local(Box::new(load(settings)?)),
        };
        let width = url.map_or(AHEAD * settings.max_batch.max(1), |_| AT_A_SERVER);
        runtime.block_on(async {
            let bar = CorpusBar::new(posts.len(), "posts");
            corpus::run(&posts, width, &mut answered, &bar, |id, post: Post| {
                let answerer = &answerer;
                async move { answerer.answer(&id, &post).await }
            })
            .await?;
            drop(bar);
            let bar = CorpusBar::new(boxes.len(), "pictures with gold boxes");
            corpus::run(&boxes, width, &mut segmented, &bar, |_, boxes: Boxes| {
                let answerer = &answerer;
                async move { answerer.segment(&boxes).await }
            })
            .await
        })?;
        let threshold = set.questions.then(|| answerer.entailment_threshold());
        let source = format!("pack {}", answerer.pack());
        runtime.block_on(closed(answerer));
        let predictions = predictions(answered.done(), threshold)?;
        Ok(Self { predictions, masks: segmented.into_records(), source })
    }
}

/// Answers by their post. With a threshold, what is shown is decided by it.
fn predictions(records: &[Record], threshold: Option<f64>) -> anyhow::Result<Predictions> {
    let mut found = Predictions::new();
    for record in records {
        let read = record.result.as_ref().map(PredictedPost::from_answer).transpose();
        let mut post = read.with_context(|| format!("the answer for {}", record.id))?;
        if let (Some(post), Some(threshold)) = (&mut post, threshold) {
            post.decide(threshold);
        }
        found.insert(record.id.clone(), post);
    }
    Ok(found)
}

/// What to ask for each post.
fn posts(set: &DataSet) -> Vec<Job<Post>> {
    let asked = set.posts.iter().filter(|post| !post.text.trim().is_empty());
    let job = |post: &GoldPost| Job {
        id: post.id.clone(),
        task: Ok(Post {
            text: post.text.clone(),
            image: post.image.clone(),
            options: options(post, set.questions),
        }),
    };
    asked.map(job).collect()
}

fn options(post: &GoldPost, given: bool) -> Value {
    let mut options = json!({});
    if post.image.is_none() {
        options["task"] = json!("mner");
    }
    if let Some(knowledge) = &post.knowledge {
        options["knowledge"] = json!(knowledge);
    }
    if given {
        let entities = post.entities.iter().filter_map(|entity| {
            let span = entity.span?;
            Some(json!({"start": span.start, "end": span.end, "type": entity.kind.name(),
                        "expression": entity.expression}))
        });
        options["entities"] = entities.collect();
        // Every entity gets its box; which are shown is decided afterwards.
        options["entailment_threshold"] = json!(0.0);
    }
    options
}

/// Pictures whose gold boxes are to be turned into masks.
fn boxes(set: &DataSet) -> Vec<Job<Boxes>> {
    let job = |post: &GoldPost| {
        let image = post.image.clone().filter(|_| !post.instances.is_empty())?;
        let edges = |edge: f32| f64::from(edge);
        let bbox = |instance: &Instance| instance.bbox.to_array().map(edges).to_vec();
        let boxes = post.instances.iter().map(bbox).collect();
        Some(Job { id: post.id.clone(), task: Ok(Boxes { image, boxes }) })
    };
    set.posts.iter().filter_map(job).collect()
}

/// The masks of gold boxes beside what they should be.
fn masks_of_boxes<'a>(set: &'a DataSet, records: &[Record]) -> anyhow::Result<Vec<MaskOfBox<'a>>> {
    let mut found = Vec::new();
    for record in records {
        let Some(post) = set.posts.iter().find(|post| post.id == record.id) else { continue };
        let Some(answer) = &record.result else { continue };
        let masks = crate::eval::prediction::masks(answer)
            .with_context(|| format!("the masks of {}", record.id))?;
        ensure!(masks.len() == post.instances.len(), "{}: not a mask for every box", record.id);
        found.extend(
            masks.into_iter().zip(&post.instances).map(|((mask, score), instance)| MaskOfBox {
                instance,
                mask,
                score,
            }),
        );
    }
    Ok(found)
}
