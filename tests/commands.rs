//! Commands that work through files, as processes, on a corpus of three posts.

mod process;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use process::{Server, riveg};
use serde_json::{Value, json};

/// Posts of the corpus.
const IDS: [&str; 3] = ["collins", "weather", "text"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn corpus() -> PathBuf {
    fixtures().join("corpus/posts.jsonl")
}

/// `riveg predict` for a corpus. Few posts go at a time, so that a run can be stopped in the middle.
fn predict(input: &Path, output: &Path) -> Command {
    let mut command = riveg();
    command.args(["predict", "--device", "cpu", "--max-batch", "1", "--input"]);
    command.arg(input).arg("--output").arg(output);
    command
}

fn eval(data: &Path, out: &Path) -> Command {
    let mut command = riveg();
    command.args(["eval", "--device", "cpu", "--max-batch", "4", "--dataset", "jsonl", "--data"]);
    command.arg(data).arg("--out").arg(out);
    command
}

#[track_caller]
fn succeeded(command: &mut Command) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success(), "{stderr}");
    (stdout, stderr)
}

fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["id"].as_str().unwrap()).collect()
}

/// Answers without the times, which no two runs share.
fn timeless(mut records: Vec<Value>) -> Vec<Value> {
    for record in &mut records {
        if let Some(result) = record.get_mut("result") {
            assert!(result.as_object_mut().unwrap().remove("timings_ms").is_some());
        }
    }
    records
}

#[test]
fn bad_lines_are_told_and_gone_over() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("posts.jsonl"), folder.path().join("answers.jsonl"));
    fs::copy(fixtures().join("astronaut.jpg"), folder.path().join("photo.jpg")).unwrap();
    fs::write(folder.path().join("damaged.jpg"), b"\xff\xd8\xff\xe0 and no more").unwrap();
    let lines = [
        r#"{"id": "good", "text": "Eileen Collins smiles", "image": "photo.jpg"}"#,
        "not JSON",
        "",
        r#"{"id": "no text", "image": "photo.jpg"}"#,
        r#"{"id": "no picture", "text": "Ada", "image": "nowhere.jpg"}"#,
        r#"{"id": "damaged", "text": "Ada", "image": "damaged.jpg"}"#,
        r#"{"id": "option", "text": "Ada", "image": "photo.jpg", "options": {"colour": "red"}}"#,
        r#"{"id": "blank", "text": " ", "image": "photo.jpg"}"#,
        r#"{"text": "Paris without an id", "options": {"task": "mner"}}"#,
    ];
    fs::write(&input, lines.join("\n")).unwrap();
    let (_, told) = succeeded(&mut predict(&input, &output));
    let records = records(&output);
    let outcomes: Vec<_> = records.iter().map(|record| record["error"].is_null()).collect();
    assert_eq!(outcomes, [true, false, false, false, false, false, false, true], "{records:?}");
    // Where no id can be read the line's number stands for it.
    let all = ["good", "2", "4", "no picture", "damaged", "option", "blank", "9"];
    assert_eq!(ids(&records), all);
    for record in records.iter().filter(|record| !record["error"].is_null()) {
        assert!(record["error"]["code"].is_string(), "{record}");
        assert!(told.contains(record["id"].as_str().unwrap()), "{told}");
    }
    assert_eq!(records[0]["result"]["entities"][0]["text"], "Eileen Collins");
    assert!(told.contains("8 posts done, 0 were there, 6 of all failed"), "{told}");
}

#[test]
fn a_run_that_was_killed_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.jsonl");
    succeeded(&mut predict(&corpus(), &whole));
    let expected = timeless(records(&whole));
    assert_eq!(ids(&expected), IDS);
    assert_eq!(expected[1]["result"]["entities"], json!([]));

    let output = folder.path().join("answers.jsonl");
    let mut killed = predict(&corpus(), &output).stderr(Stdio::null()).spawn().unwrap();
    let lines = || fs::read(&output).map_or(0, |text| text.split(|byte| *byte == b'\n').count());
    // A whole line, and what comes after it; or, where nobody looked in time, all of them.
    while lines() < 2 && killed.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    // What a machine that loses its power may leave behind.
    let text = fs::read_to_string(&output).unwrap();
    let first = text.lines().next().unwrap();
    fs::write(&output, format!("{first}\n{{\"id\": \"weather\", \"resu")).unwrap();
    let (_, told) = succeeded(&mut predict(&corpus(), &output));
    assert!(told.contains("2 posts done, 1 were there, 0 of all failed"), "{told}");
    let answers = fs::read_to_string(&output).unwrap();
    assert_eq!(answers.lines().next(), Some(first), "what is there is not done again");
    assert_eq!(timeless(records(&output)), expected);

    // Another corpus' answers are not added to.
    let other = folder.path().join("other.jsonl");
    fs::write(&other, "{\"id\": \"other\", \"text\": \"Ada\", \"options\": {\"task\": \"mner\"}}")
        .unwrap();
    let refused = predict(&other, &output).output().unwrap();
    assert!(!refused.status.success());
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("output of another run"), "{told}");
    assert_eq!(fs::read_to_string(&output).unwrap(), answers);
}

/// A report without what tells who answered.
fn report(out: &Path) -> Value {
    let text = fs::read_to_string(out.join("report.json")).unwrap();
    let mut report: Value = serde_json::from_str(&text).unwrap();
    assert!(report.as_object_mut().unwrap().remove("source").is_some());
    for file in ["report.md", "report.html"] {
        assert!(!fs::read_to_string(out.join(file)).unwrap().is_empty(), "{file}");
    }
    report
}

#[test]
fn a_pack_a_server_and_a_file_of_answers_are_measured_alike() {
    let folder = tempfile::tempdir().unwrap();
    let out = |name: &str| folder.path().join(name);
    let (shown, _) = succeeded(eval(&corpus(), &out("pack")).args(["--pack", "nano"]));
    assert_eq!(shown.trim(), fs::read_to_string(out("pack").join("report.md")).unwrap().trim());
    let of_pack = report(&out("pack"));
    assert_eq!((&of_pack["failed"], &of_pack["counts"]["posts"]), (&json!(0), &json!(3)));
    let mner = of_pack["tasks"].as_array().unwrap().iter().find(|row| row["task"] == "mner");
    assert_eq!(mner.unwrap()["gold"], 5, "{of_pack}");

    let answers = out("pack").join("predictions.jsonl");
    assert_eq!(ids(&records(&answers)), IDS);
    succeeded(eval(&corpus(), &out("file")).arg("--predictions").arg(&answers));
    assert_eq!(report(&out("file")), of_pack);

    let server = Server::start(&[]);
    succeeded(eval(&corpus(), &out("server")).args(["--url", &server.url]));
    assert_eq!(report(&out("server")), of_pack);
    drop(server);

    // A run that was cut off in the middle of a line does that post again and no other.
    let before = fs::read_to_string(&answers).unwrap();
    let last = before.trim_end().rfind('\n').unwrap() + 1;
    fs::write(&answers, &before[..last + 9]).unwrap();
    succeeded(eval(&corpus(), &out("pack")).args(["--pack", "nano"]));
    assert_eq!(report(&out("pack")), of_pack);
    assert!(fs::read_to_string(&answers).unwrap().starts_with(&before[..last]));
}

#[test]
fn bad_data_are_told_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("gold.jsonl");
    fs::write(
        &data,
        "{\"id\": \"a\", \"text\": \"Ada\", \"gold\": {\"entities\": [{\"start\": 9}]}}\n",
    )
    .unwrap();
    let answers = folder.path().join("answers.jsonl");
    fs::write(&answers, "").unwrap();
    let mut command = eval(&data, &folder.path().join("out"));
    let refused = command.arg("--predictions").arg(&answers).output().unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && told.contains("gold.jsonl"), "{told}");
    assert!(!told.contains("panicked"), "{told}");
    let mut command = eval(&corpus(), &folder.path().join("out"));
    let refused = command.args(["--url", "http://127.0.0.1:9"]).output().unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && told.contains("127.0.0.1:9"), "{told}");
}

/// As `| head` does.
#[test]
fn whoever_stops_reading_is_no_error() {
    let cache = tempfile::tempdir().unwrap();
    for arguments in [
        // More than a pipe holds, so writing fails however late the reader goes.
        &["openapi"][..],
        &["pack", "inspect", "models/nano", "--tensors"],
        &["pack", "verify", "models/nano"],
        &["serve", "--print-config"],
    ] {
        let mut child = riveg()
            .args(arguments)
            .env("RIVEG_CACHE_DIR", cache.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let Output { status, stderr, .. } = child.wait_with_output().unwrap();
        let told = String::from_utf8(stderr).unwrap();
        assert!(status.success() && told.is_empty(), "{arguments:?}: {told}");
    }
}
