//! Curves as SVG.

use maud::{Markup, html};

use super::SweepRow;

/// The plot's outer size and its margins, in user units.
const SIZE: (f64, f64) = (560.0, 300.0);
const LEFT: f64 = 46.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 10.0;
const RIGHT: f64 = 84.0;
/// Distinct to colour-blind eyes (Okabe and Ito, 2008).
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// F1 by IoU threshold, a curve per task.
pub(super) fn sweep(rows: &[SweepRow]) -> Markup {
    let names: Vec<&str> = rows.first().map(|r| r.f1.keys().copied().collect()).unwrap_or_default();
    let (first, last) = (rows.first().map_or(0.5, |r| r.iou), rows.last().map_or(1.0, |r| r.iou));
    let x = |iou: f64| LEFT + (iou - first) / (last - first).max(1e-9) * (SIZE.0 - LEFT - RIGHT);
    let y = |f1: f64| TOP + (1.0 - f1) * (SIZE.1 - TOP - BOTTOM);
    let points = |name: &str| {
        let point = |row: &SweepRow| format!("{:.1},{:.1}", x(row.iou), y(row.f1[name]));
        rows.iter().map(point).collect::<Vec<_>>().join(" ")
    };
    let ends = ends(rows, &names, y);
    html! {
        svg viewBox=(format!("0 0 {} {}", SIZE.0, SIZE.1)) role="img"
            aria-label="F1 by IoU threshold" {
            @for tick in 0..=5 {
                @let f1 = f64::from(tick) / 5.0;
                line class="grid" x1=(LEFT) x2=(SIZE.0 - RIGHT) y1=(y(f1)) y2=(y(f1)) {}
                text x=(LEFT - 6.0) y=(y(f1) + 4.0) text-anchor="end" { (format!("{:.0}", 100.0 * f1)) }
            }
            @for row in rows {
                text x=(x(row.iou)) y=(SIZE.1 - BOTTOM + 16.0) text-anchor="middle" {
                    (format!("{:.2}", row.iou))
                }
            }
            text x=(SIZE.0 / 2.0) y=(SIZE.1 - 3.0) text-anchor="middle" { "IoU threshold" }
            @for (index, name) in names.iter().enumerate() {
                @let colour = COLOURS[index % COLOURS.len()];
                polyline fill="none" stroke=(colour) stroke-width="2" points=(points(name)) {}
                text fill=(colour) x=(SIZE.0 - RIGHT + 6.0) y=(ends[index] + 4.0) { (name) }
            }
        }
    }
}

/// Where the names of the curves stand: at their ends, but never on one another.
fn ends(rows: &[SweepRow], names: &[&str], y: impl Fn(f64) -> f64) -> Vec<f64> {
    let mut places: Vec<(usize, f64)> = names
        .iter()
        .enumerate()
        .map(|(index, name)| (index, y(rows.last().map_or(0.0, |row| row.f1[name]))))
        .collect();
    places.sort_by(|a, b| a.1.total_cmp(&b.1));
    for i in 1..places.len() {
        places[i].1 = places[i].1.max(places[i - 1].1 + 15.0);
    }
    let over = places.last().map_or(0.0, |last| (last.1 - (SIZE.1 - BOTTOM)).max(0.0));
    places.sort_by_key(|(index, _)| *index);
    places.into_iter().map(|(_, place)| place - over).collect()
}
