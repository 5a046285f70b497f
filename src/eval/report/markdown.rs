//! The report as Markdown tables.

use std::fmt::Write;

use super::{Accuracy, Report, Scores};
use crate::eval::metrics::{Masks, Reliability};

/// The report as Markdown.
pub fn markdown(report: &Report) -> String {
    let mut page = format!("# {} on {}\n\n", report.source, report.data_set);
    for table in tables(report) {
        page += &table.markdown();
        page.push('\n');
    }
    page
}

/// A table with its heading.
pub(super) struct Table {
    pub(super) title: &'static str,
    pub(super) columns: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    fn new(title: &'static str, columns: &[&'static str], rows: Vec<Vec<String>>) -> Self {
        Self { title, columns: columns.to_vec(), rows }
    }

    fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n", self.title);
        let mut line = |cells: &[String]| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        };
        line(&self.columns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        line(&vec!["---".to_owned(); self.columns.len()]);
        self.rows.iter().for_each(|row| line(row));
        text
    }
}

/// Every table that has rows.
pub(super) fn tables(report: &Report) -> Vec<Table> {
    let all = [
        data_set(report),
        metrics(report),
        entailment(report),
        grounding(report),
        masks(report),
        fine_types(report),
        calibration(report),
        guesses(report),
        sweep(report),
    ];
    all.into_iter().filter(|table| !table.rows.is_empty()).collect()
}

fn percent(value: f64) -> String {
    format!("{:.2}", 100.0 * value)
}

fn data_set(report: &Report) -> Table {
    let counts = &report.counts;
    let columns =
        ["posts", "with picture", "failed", "entities", "PER", "LOC", "ORG", "MISC", "shown"];
    let numbers = [
        counts.posts,
        counts.with_image,
        report.failed,
        counts.entities,
        counts.per,
        counts.loc,
        counts.org,
        counts.misc,
        counts.shown,
    ];
    Table::new("Data", &columns, vec![numbers.iter().map(ToString::to_string).collect()])
}

fn metrics(report: &Report) -> Table {
    let row = |name: &str, scores: &Scores| {
        let counts = &scores.counts;
        vec![
            name.to_owned(),
            percent(scores.precision),
            percent(scores.recall),
            percent(scores.f1),
            format!("{} of {} / {}", counts.correct, counts.predicted, counts.gold),
        ]
    };
    let mut rows: Vec<_> =
        report.tasks.iter().map(|task| row(task.task.name(), &task.scores)).collect();
    rows.extend(report.mner_by_span.iter().map(|scores| row("MNER by span", scores)));
    let bound = report.gmner_upper_bound.iter();
    rows.extend(bound.map(|scores| row("GMNER, were every box right", scores)));
    Table::new("Metrics", &["metric", "P", "R", "F1", "right of predicted / gold"], rows)
}

fn entailment(report: &Report) -> Table {
    let rows = report.entailment.iter().map(|(group, found)| {
        let c = &found.confusion;
        vec![
            group.clone(),
            percent(found.accuracy),
            percent(found.balanced_accuracy),
            c.shown_shown.to_string(),
            c.shown_hidden.to_string(),
            c.hidden_shown.to_string(),
            c.hidden_hidden.to_string(),
        ]
    });
    let columns = [
        "of the entities found",
        "accuracy",
        "balanced",
        "shown, said so",
        "shown, denied",
        "not shown, said shown",
        "not shown, said so",
    ];
    Table::new("Visual entailment", &columns, rows.collect())
}

fn accuracy_row(name: &str, accuracy: &Accuracy) -> Vec<String> {
    let Accuracy { accuracy, share } = accuracy;
    vec![name.to_owned(), percent(*accuracy), format!("{} of {}", share.right, share.of)]
}

fn grounding(report: &Report) -> Table {
    let rows = report.grounding.iter().map(|(group, found)| accuracy_row(group, found));
    let columns = ["of the shown entities found", "Prec@0.5", "right"];
    Table::new("Visual grounding", &columns, rows.collect())
}

fn masks(report: &Report) -> Table {
    let row = |name: &str, masks: &Masks| {
        vec![
            name.to_owned(),
            masks.count.to_string(),
            percent(masks.mean_iou),
            percent(masks.over_half),
            masks.filled_box.map_or_else(String::new, percent),
        ]
    };
    let mut rows = Vec::new();
    rows.extend(report.masks.iter().map(|masks| row("predicted boxes", masks)));
    rows.extend(report.masks_of_gold_boxes.iter().map(|masks| row("gold boxes", masks)));
    Table::new("Masks", &["made from", "masks", "mean IoU", "IoU > 0.5", "filled box"], rows)
}

fn fine_types(report: &Report) -> Table {
    let rows = report.fine_types.iter().map(|found| accuracy_row("entities found", found));
    Table::new("Fine types", &["of", "accuracy", "right"], rows.collect())
}

fn calibration(report: &Report) -> Table {
    let found = &report.calibration;
    let scores = [
        ("score", &found.score),
        ("entailment_score", &found.entailment_score),
        ("box_score", &found.box_score),
        ("mask_score", &found.mask_score),
    ];
    let row = |name: &str, found: &Reliability| {
        vec![name.to_owned(), format!("{:.3}", found.ece), found.count.to_string()]
    };
    let rows = scores.iter().filter_map(|(name, found)| Some(row(name, found.as_ref()?)));
    Table::new("Calibration", &["score", "expected calibration error", "of"], rows.collect())
}

fn guesses(report: &Report) -> Table {
    let guess = |name: &str, share| accuracy_row(name, &Accuracy::from(share));
    let mut rows = Vec::new();
    let guesses = &report.baselines;
    rows.extend(guesses.type_prior.map(|share| guess("entailment by the type alone", share)));
    rows.extend(guesses.constant_box.map(|found| guess("the best constant box", found.share)));
    Table::new(
        "Guessing, with the best guesses for this very set",
        &["guess", "accuracy", "right"],
        rows,
    )
}

fn sweep(report: &Report) -> Table {
    let names: Vec<&'static str> =
        report.sweep.first().map(|row| row.f1.keys().copied().collect()).unwrap_or_default();
    let rows = report.sweep.iter().map(|row| {
        let f1 = names.iter().map(|name| percent(row.f1[name]));
        std::iter::once(format!("{:.2}", row.iou)).chain(f1).collect()
    });
    let columns: Vec<_> = std::iter::once("IoU").chain(names.iter().copied()).collect();
    Table::new("F1 by IoU threshold", &columns, rows.collect())
}
