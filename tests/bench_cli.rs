//! `riveg bench` as a command, on networks so small that they take no time.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

fn bench(weights: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_riveg"));
    command.args(["bench", "--random", "tagger=tiny,sam=tiny", "--device", "cpu"]);
    command.arg("--weights").arg(weights);
    command
}

#[test]
fn every_case_is_measured_and_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.json");
    let mut command = bench(directory.path());
    command.args(["--batch", "1,3", "--threads", "1,2", "--repeats", "3", "--peak", "1000"]);
    let output = command.arg("--json").arg(&report).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!((report["schema"].as_u64(), report["device"].as_str()), (Some(1), Some("cpu")));
    let rows = report["results"].as_array().unwrap();
    let cases: Vec<_> = rows
        .iter()
        .map(|row| {
            let number = |name: &str| row[name].as_u64().unwrap();
            (row["stage"].as_str().unwrap(), number("batch"), number("threads"))
        })
        .collect();
    // There is neither an entailer nor a grounder, so a whole post cannot be answered.
    let of = |threads| {
        ["tag", "encode", "segment"]
            .iter()
            .flat_map(move |stage| [(*stage, 1, threads), (stage, 3, threads)])
    };
    assert_eq!(cases, of(1).chain(of(2)).collect::<Vec<_>>());
    assert_eq!(table.lines().count(), 1 + rows.len());
    for row in rows {
        let number = |name: &str| row[name].as_f64().unwrap();
        assert!(0.0 < number("min_ms") && number("min_ms") <= number("median_ms"), "{row}");
        assert!(number("median_ms") <= number("p90_ms"), "{row}");
        assert!(number("gmac") > 0.0 && number("share_of_peak") > 0.0, "{row}");
    }
}

#[test]
fn on_demand_a_case_is_run_for_every_line() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = bench(directory.path());
    command.args(["--stages", "tag,segment", "--batch", "2", "--on-demand"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let about: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
    assert_eq!(about["cases"], serde_json::json!(["tag/2", "segment/2"]));
    let mut ask = child.stdin.take().unwrap();
    for case in ["segment/2", "tag/2", "tag/2"] {
        writeln!(ask, "{case}").unwrap();
        assert!(answers.next().unwrap().unwrap().parse::<f64>().unwrap() > 0.0);
    }
    writeln!(ask, "tag/7").unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn sizes_that_are_not_known_are_refused() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_riveg"));
    let output = command.args(["bench", "--random", "sam=vit-x"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("vit-b"));
}
