//! CoNLL files as the tweet data sets write them: `IMGID:<id>`, then a word and its BIO tag per
//! line, then a blank line.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Result, find_images, text, wrong_line};
use crate::eval::gold::{Annotated, DataSet, GoldEntity, GoldPost, kind_named};
use crate::models::{CharSpan, EntityType};

/// What stands between a sentence and the knowledge that RiVEG's files carry behind it.
const END_OF_SENTENCE: &str = "<EOS>";

/// The tag of a word that is knowledge.
const KNOWLEDGE: &str = "X";

/// What may come with a CoNLL file.
#[derive(Debug, Clone, Default)]
pub struct ConllOptions {
    /// The folder with the pictures, `<id>.jpg`.
    pub images: Option<PathBuf>,
    /// FMNERG's file of the same posts: its third column is the fine type.
    pub fine: Option<PathBuf>,
    /// A file of the same posts in the same order with knowledge behind the sentences.
    pub knowledge: Option<PathBuf>,
}

/// One sentence of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sentence {
    /// Its picture's id; empty where the file names none.
    pub id: String,
    /// Its words.
    pub words: Vec<String>,
    /// Their tags in the file's second column.
    pub tags: Vec<String>,
    /// Their tags in the third column; empty where there is none.
    pub fine_tags: Vec<String>,
    /// The words behind `<EOS>`.
    pub knowledge: Vec<String>,
}

/// Reads posts from a CoNLL file.
///
/// # Errors
/// When a file cannot be read, a line is not a word with a tag, or the files that come with it are
/// of other posts.
pub fn conll(path: &Path, options: &ConllOptions) -> Result<DataSet> {
    let found = sentences(path)?;
    let mut posts = Vec::with_capacity(found.len());
    let mut seen: HashMap<String, usize> = HashMap::new();
    for sentence in &found {
        let mut post = post(path, sentence)?;
        // Two tweets may share a picture, but predictions are told apart by id.
        let count = seen.entry(post.id.clone()).or_default();
        *count += 1;
        if *count > 1 {
            post.id = format!("{}~{count}", post.id);
        }
        posts.push(post);
    }
    find_images(&mut posts, options.images.as_deref());
    if let Some(fine) = &options.fine {
        add_fine(&mut posts, &found, fine)?;
    }
    if let Some(knowledge) = &options.knowledge {
        add_knowledge(&mut posts, &found, knowledge)?;
    }
    let annotated = Annotated { fine: options.fine.is_some(), ..Annotated::default() };
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
    Ok(DataSet { name: name.unwrap_or_default(), posts, annotated, questions: false })
}

/// Reads the sentences of a CoNLL file.
///
/// # Errors
/// When it cannot be read or a line is not a word with a tag.
pub fn sentences(path: &Path) -> Result<Vec<Sentence>> {
    let mut found = Vec::new();
    let mut current = Sentence::default();
    let text = text(path)?;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end_matches('\r');
        if let Some(id) = line.strip_prefix("IMGID:") {
            finish(&mut current, &mut found);
            current.id = id.trim().to_owned();
        } else if line.trim().is_empty() {
            finish(&mut current, &mut found);
        } else {
            let mut columns = line.split('\t');
            let (Some(word), Some(tag)) = (columns.next(), columns.next()) else {
                return Err(wrong_line(path, index + 1, "not a word, a tab and a tag"));
            };
            current.push(word, tag, columns.next());
        }
    }
    finish(&mut current, &mut found);
    Ok(found)
}

/// Moves the sentence that ends here to the others.
fn finish(current: &mut Sentence, found: &mut Vec<Sentence>) {
    if !current.words.is_empty() {
        found.push(std::mem::take(current));
    }
}

impl Sentence {
    fn push(&mut self, word: &str, tag: &str, fine: Option<&str>) {
        if tag == KNOWLEDGE {
            if word != END_OF_SENTENCE {
                self.knowledge.push(word.to_owned());
            }
            return;
        }
        self.words.push(word.to_owned());
        self.tags.push(tag.to_owned());
        self.fine_tags.extend(fine.map(str::to_owned));
    }

    /// Its words with a space between.
    pub fn text(&self) -> String {
        self.words.join(" ")
    }

    /// Where the words `first..last` lie in [`Sentence::text`].
    fn chars(&self, first: usize, last: usize) -> CharSpan {
        let length = |words: &[String]| words.iter().map(|w| w.chars().count() + 1).sum::<usize>();
        CharSpan { start: length(&self.words[..first]), end: length(&self.words[..last]) - 1 }
    }

    /// Its entities by words `first..last` and type, as seqeval reads tags when it is not strict:
    /// an `I-` that continues nothing begins an entity.
    pub fn spans(tags: &[String]) -> Vec<(usize, usize, &str)> {
        let mut found: Vec<(usize, usize, &str)> = Vec::new();
        let mut open: Option<(usize, &str)> = None;
        for (index, tag) in tags.iter().enumerate() {
            let (prefix, kind) = tag.split_once('-').unwrap_or((tag, ""));
            let goes_on = prefix == "I" && open.is_some_and(|(_, of)| of == kind);
            if goes_on {
                continue;
            }
            if let Some((first, of)) = open.take() {
                found.push((first, index, of));
            }
            if matches!(prefix, "B" | "I") {
                open = Some((index, kind));
            }
        }
        if let Some((first, of)) = open {
            found.push((first, tags.len(), of));
        }
        found
    }
}

fn post(path: &Path, sentence: &Sentence) -> Result<GoldPost> {
    let mut entities = Vec::new();
    for (first, last, name) in Sentence::spans(&sentence.tags) {
        let kind = kind_named(name).ok_or_else(|| {
            super::wrong(path, format!("post {}: `{name}` is no entity type", sentence.id))
        })?;
        entities.push(entity(sentence, first, last, kind));
    }
    let knowledge = (!sentence.knowledge.is_empty()).then(|| sentence.knowledge.join(" "));
    Ok(GoldPost {
        id: sentence.id.clone(),
        text: sentence.text(),
        knowledge,
        entities,
        ..GoldPost::default()
    })
}

fn entity(sentence: &Sentence, first: usize, last: usize, kind: EntityType) -> GoldEntity {
    let named = GoldEntity::named(sentence.words[first..last].join(" "), kind);
    GoldEntity { span: Some(sentence.chars(first, last)), ..named }
}

/// Gives the entities of `posts` the fine types of the same words in another file.
fn add_fine(posts: &mut [GoldPost], sentences: &[Sentence], path: &Path) -> Result<()> {
    let fine = same_words(sentences, path)?;
    for ((post, sentence), fine) in posts.iter_mut().zip(sentences).zip(fine) {
        let spans = Sentence::spans(&fine.fine_tags);
        for entity in &mut post.entities {
            let same = |&&(first, last, _): &&(usize, usize, &str)| {
                entity.span == Some(sentence.chars(first, last))
            };
            entity.fine = spans.iter().find(same).map(|(_, _, name)| (*name).to_owned());
        }
    }
    Ok(())
}

fn add_knowledge(posts: &mut [GoldPost], sentences: &[Sentence], path: &Path) -> Result<()> {
    let found = same_words(sentences, path)?;
    for (post, with) in posts.iter_mut().zip(found) {
        post.knowledge = (!with.knowledge.is_empty()).then(|| with.knowledge.join(" "));
    }
    Ok(())
}

/// The sentences of another file, where they are of the same words in the same order.
fn same_words(sentences: &[Sentence], path: &Path) -> Result<Vec<Sentence>> {
    let others = self::sentences(path)?;
    let differs = |(a, b): (&Sentence, &Sentence)| a.words != b.words;
    if let Some(at) = sentences.iter().zip(&others).position(differs) {
        let what = format!("post {} has other words than {}", at + 1, sentences[at].id);
        return Err(super::wrong(path, what));
    }
    if sentences.len() != others.len() {
        let what = format!("{} posts instead of {}", others.len(), sentences.len());
        return Err(super::wrong(path, what));
    }
    Ok(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.txt");
        std::fs::write(&path, content).unwrap();
        (folder, path)
    }

    const POSTS: &str = "IMGID:7\nÉmile\tB-PER\nof\tO\nNew\tB-LOC\nYork\tI-LOC\n\n\
                         IMGID:7\nhi\tO\t\r\n\nIMGID:8\nx\tI-OTHER\n";

    #[test]
    fn spans_are_code_points_of_the_joined_words() {
        let (_folder, path) = file(POSTS);
        let set = conll(&path, &ConllOptions::default()).unwrap();
        assert_eq!(set.posts.len(), 3);
        assert_eq!(set.posts[0].text, "Émile of New York");
        let [emile, york] = &set.posts[0].entities[..] else { panic!() };
        assert_eq!(emile.span, Some(CharSpan { start: 0, end: 5 }));
        assert_eq!((york.text.as_str(), york.kind), ("New York", EntityType::Loc));
        assert_eq!(york.span, Some(CharSpan { start: 9, end: 17 }));
        assert_eq!(set.posts[1].id, "7~2");
        assert_eq!(set.posts[2].entities[0].kind, EntityType::Misc);
    }

    #[test]
    fn fine_types_and_knowledge_come_from_files_of_the_same_words() {
        let (_a, path) = file("IMGID:7\nAnna\tB-PER\nruns\tO\n");
        let (_b, fine) = file("IMGID:7\nAnna\tB-person\tB-athlete\nruns\tO\tO\n");
        let (_c, known) = file("Anna\tB-PER\nruns\tO\n<EOS>\tX\na\tX\nrunner\tX\n");
        let options = ConllOptions { fine: Some(fine), knowledge: Some(known), images: None };
        let set = conll(&path, &options).unwrap();
        assert_eq!(set.posts[0].entities[0].fine.as_deref(), Some("athlete"));
        assert_eq!(set.posts[0].knowledge.as_deref(), Some("a runner"));
        let (_d, other) = file("Bea\tB-PER\nruns\tO\n");
        let options = ConllOptions { fine: Some(other), ..ConllOptions::default() };
        assert!(conll(&path, &options).is_err());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let (_folder, path) = file("IMGID:7\nAnna\tB-PER\nruns\n");
        let error = conll(&path, &ConllOptions::default()).unwrap_err().to_string();
        assert!(error.contains("test.txt:3"), "{error}");
        let (_folder, path) = file("IMGID:7\nAnna\tB-CAT\n");
        let error = conll(&path, &ConllOptions::default()).unwrap_err().to_string();
        assert!(error.contains("CAT"), "{error}");
    }
}
