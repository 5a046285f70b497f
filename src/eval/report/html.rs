//! The report as one page that needs nothing else.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::gallery::{Example, Fault};
use super::markdown::{Table, tables};
use super::{Report, plot};

const STYLE: &str = include_str!("style.css");

/// The report as an HTML page; pictures, curves and style are in it.
pub fn html(report: &Report, examples: &[(Fault, usize, Vec<Example>)]) -> String {
    let title = format!("{} on {}", report.source, report.data_set);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                @for table in tables(report) {
                    (section(&table))
                }
                @if !report.sweep.is_empty() {
                    h2 { "F1 by IoU threshold, drawn" }
                    (plot::sweep(&report.sweep))
                }
                @for (fault, total, examples) in examples {
                    (gallery(*fault, *total, examples))
                }
                footer { "riveg " (report.riveg) }
            }
        }
    };
    page.into_string()
}

fn section(table: &Table) -> Markup {
    html! {
        h2 { (table.title) }
        div.wide {
            table {
                thead { tr { @for name in &table.columns { th { (name) } } } }
                tbody {
                    @for row in &table.rows {
                        tr { @for cell in row { td { (cell) } } }
                    }
                }
            }
        }
    }
}

fn gallery(fault: Fault, total: usize, examples: &[Example]) -> Markup {
    html! {
        h2 { (fault.title()) ": " (total) @if total == 1 { " post" } @else { " posts" } }
        div.gallery {
            @for example in examples {
                figure {
                    @if let Some(picture) = &example.picture {
                        img src=(picture) alt="the picture with what was predicted and what is gold";
                    }
                    figcaption {
                        p { (example.text) }
                        ul { @for note in &example.notes { li { (note) } } }
                        small { (example.id) }
                    }
                }
            }
        }
    }
}
