//! Many posts at once: read from a file, answered in process or by a server, written to a journal in
//! their order, so that whatever is killed goes on where it stopped.

mod answerer;
mod journal;
mod local;
mod post;
mod remote;
mod run;

pub use answerer::{AnswerError, Answerer};
pub use journal::{Journal, JournalError, Record};
pub use local::{Answered, Local, Prepared};
pub use post::{Boxes, Job, Post, jobs};
pub use remote::Remote;
pub use run::{Progress, run};
