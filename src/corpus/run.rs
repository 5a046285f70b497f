//! Working through a list of jobs.

use std::future::Future;

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::answerer::AnswerError;
use super::journal::{Journal, Record};
use super::post::Job;

/// Somebody who likes to know how far the work is.
pub trait Progress {
    /// So many of the jobs are done, by an earlier run too.
    fn done(&self, jobs: usize);
    /// A job that failed.
    fn failed(&self, id: &str, error: &Value);
}

/// Does the jobs that `journal` does not have yet, up to `width` at a time, and adds what became of
/// them in the order of the list. The number of jobs that were done before.
///
/// # Errors
/// When nothing can be answered any more or the journal cannot be written: whatever is in the
/// journal then stays there, and the next run goes on behind it.
pub async fn run<T, F>(
    jobs: &[Job<T>],
    width: usize,
    journal: &mut Journal,
    progress: &dyn Progress,
    answer: impl Fn(String, T) -> F,
) -> anyhow::Result<usize>
where
    T: Clone,
    F: Future<Output = Result<Value, AnswerError>>,
{
    let before = journal.done().len();
    let answer = &answer;
    let work = jobs[before..].iter().map(|job| async move {
        let outcome = match &job.task {
            Ok(task) => answer(job.id.clone(), task.clone()).await,
            Err(what) => {
                Err(AnswerError::Post(json!({"code": "malformed_request", "detail": what})))
            }
        };
        (job.id.clone(), outcome)
    });
    let mut answers = stream::iter(work).buffered(width.max(1));
    progress.done(before);
    while let Some((id, outcome)) = answers.next().await {
        let record = match outcome {
            Ok(result) => Record { id, result: Some(result), error: None },
            Err(AnswerError::Post(error)) => {
                progress.failed(&id, &error);
                Record { id, result: None, error: Some(error) }
            }
            Err(AnswerError::Fatal(error)) => return Err(error),
        };
        journal.add(record)?;
        progress.done(journal.done().len());
    }
    Ok(before)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use anyhow::anyhow;

    use super::*;

    struct Quiet;

    impl Progress for Quiet {
        fn done(&self, _: usize) {}
        fn failed(&self, _: &str, _: &Value) {}
    }

    fn jobs() -> Vec<Job<u64>> {
        let mut jobs: Vec<_> = (0..6).map(|n| Job { id: format!("j{n}"), task: Ok(n) }).collect();
        jobs[2].task = Err("bad line".to_owned());
        jobs
    }

    fn open(path: &std::path::Path, jobs: &[Job<u64>]) -> Journal {
        Journal::open(path, jobs.iter().map(|job| job.id.as_str())).unwrap()
    }

    /// Later jobs finish first, one fails, the run dies in the middle: the next one does the rest,
    /// each once, in order.
    #[tokio::test]
    async fn nothing_is_lost_or_done_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let jobs = jobs();
        let asked = RefCell::new(Vec::new());
        let answer = |dies: bool| {
            let asked = &asked;
            move |_: String, n: u64| async move {
                tokio::time::sleep(Duration::from_millis(12 - 2 * n)).await;
                if n == 4 && dies {
                    return Err(AnswerError::Fatal(anyhow!("gone")));
                }
                asked.borrow_mut().push(n);
                Ok(json!(n))
            }
        };
        let mut journal = open(&path, &jobs);
        assert!(run(&jobs, 2, &mut journal, &Quiet, answer(true)).await.is_err());
        drop(journal);
        let mut journal = open(&path, &jobs);
        assert_eq!(journal.done().len(), 4);
        asked.borrow_mut().retain(|n| *n < 4);
        assert_eq!(run(&jobs, 2, &mut journal, &Quiet, answer(false)).await.unwrap(), 4);
        let mut asked = asked.into_inner();
        asked.sort_unstable();
        assert_eq!(asked, [0, 1, 3, 4, 5]);
        let records = journal.into_records();
        let ids: Vec<_> = records.iter().map(|record| record.id.as_str()).collect();
        assert_eq!(ids, ["j0", "j1", "j2", "j3", "j4", "j5"]);
        assert!(records[2].error.as_ref().unwrap()["detail"] == "bad line");
        assert_eq!(records[5].result, Some(json!(5)));
    }
}
