//! Answers on disk, one JSON object per line, in the order of the jobs.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A line: what became of a job. Either `result` or `error` is there.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Record {
    /// The job's id.
    pub id: String,
    /// The answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Value>,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds other jobs' answers.
    #[error(
        "{path}:{line}: {what}; it is the output of another run: move it away, or name another"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is there.
        what: String,
    },
}

/// A file of records that is only ever added to.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: BufWriter<File>,
    done: Vec<Record>,
}

impl Journal {
    /// Opens the journal of a list of jobs, new or begun by an earlier run. A line that was cut off
    /// in the middle is dropped, so that its job is done again.
    ///
    /// # Errors
    /// When the file cannot be used, or its records are not those of the first of the jobs.
    pub fn open<'a>(
        path: &Path,
        ids: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, JournalError> {
        let failed = |source| JournalError::File { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false);
        let mut file = file.open(path).map_err(failed)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let done = records(path, &text[..whole], ids.into_iter())?;
        file.set_len(whole as u64).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file), done })
    }

    /// The records that were there.
    pub fn done(&self) -> &[Record] {
        &self.done
    }

    /// Adds a record and hands it to the system, so that a killed process does not lose it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, record: Record) -> Result<(), JournalError> {
        let failed = |source| JournalError::File { path: self.path.clone(), source };
        let mut line = serde_json::to_vec(&record).map_err(|e| failed(e.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).and_then(|()| self.file.flush()).map_err(failed)?;
        self.done.push(record);
        Ok(())
    }

    /// All records.
    pub fn into_records(self) -> Vec<Record> {
        self.done
    }
}

fn records<'a>(
    path: &Path,
    text: &[u8],
    mut ids: impl Iterator<Item = &'a str>,
) -> Result<Vec<Record>, JournalError> {
    let mut found = Vec::new();
    for (index, line) in text.split(|&byte| byte == b'\n').filter(|l| !l.is_empty()).enumerate() {
        let foreign = |what| JournalError::Foreign { path: path.to_owned(), line: index + 1, what };
        let record: Record = serde_json::from_slice(line).map_err(|e| foreign(e.to_string()))?;
        match ids.next() {
            Some(id) if id == record.id => found.push(record),
            Some(id) => return Err(foreign(format!("`{}` where `{id}` should be", record.id))),
            None => return Err(foreign("more lines than there are posts".to_owned())),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        Record { id: id.to_owned(), result: Some(Value::from(1)), error: None }
    }

    #[test]
    fn a_killed_run_goes_on_after_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut journal = Journal::open(&path, ["a", "b", "c"]).unwrap();
        journal.add(record("a")).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"{\"id\": \"b\", \"resu"].concat()).unwrap();
        let mut journal = Journal::open(&path, ["a", "b", "c"]).unwrap();
        assert_eq!(journal.done(), [record("a")]);
        journal.add(record("b")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with("\n"));
    }

    #[test]
    fn another_run_s_output_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        Journal::open(&path, ["a"]).unwrap().add(record("a")).unwrap();
        let before = std::fs::read(&path).unwrap();
        for ids in [&["b"][..], &[]] {
            assert!(Journal::open(&path, ids.iter().copied()).is_err());
        }
        std::fs::write(&path, "nonsense\n").unwrap();
        assert!(Journal::open(&path, ["a"]).is_err());
        assert_ne!(before, b"");
    }
}
