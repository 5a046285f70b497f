//! Label schemes: what a label sequence says about spans.
//!
//! Labels are `O`, or a prefix of BIO or BIOES and a type; older networks have labels for padding,
//! special and further pieces besides, which are no entities either. One rule reads both schemes: a label
//! carries on the entity of the label before it if the types agree, it is I or E, and the one
//! before it is B or I; every other label but O begins an entity. Illegal sequences therefore
//! still give spans, the same ones as seqeval's default (lenient) reading.

use crate::models::{EntityType, ModelError, Result};

/// Labels outside of entities: `O`, and what UMT and other networks of its time (labels per piece,
/// padding as label 0) add.
const OUTSIDE: [&str; 7] = ["O", "X", "PAD", "[PAD]", "<pad>", "[CLS]", "[SEP]"];

/// Where in an entity a label stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Begin,
    Inside,
    End,
    Single,
}

/// The labels of a tagger, in the order of its emissions.
#[derive(Debug, Clone)]
pub struct LabelSet {
    /// `None` is outside.
    labels: Vec<Option<(Position, usize)>>,
    types: Vec<EntityType>,
}

/// A span of words read from labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordSpan {
    /// First word.
    pub start: usize,
    /// One past the last word.
    pub end: usize,
    /// Index into [`LabelSet::types`].
    pub kind: usize,
}

impl LabelSet {
    /// Reads label names such as `O`, `B-PER`, `S-LOC`, in the order of the emissions.
    ///
    /// # Errors
    /// A name is none of these, or there is no `O`.
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self> {
        let mut set = Self { labels: Vec::new(), types: Vec::new() };
        for name in names {
            let name = name.as_ref();
            let label = match OUTSIDE.contains(&name) {
                true => None,
                false => Some(set.parse_one(name)?),
            };
            set.labels.push(label);
        }
        if names.iter().all(|name| name.as_ref() != "O") {
            return Err(ModelError::Weights("labels without O".to_owned()));
        }
        Ok(set)
    }

    fn parse_one(&mut self, name: &str) -> Result<(Position, usize)> {
        let unknown = || ModelError::Weights(format!("unknown label {name:?}"));
        let (prefix, kind) = name.split_once('-').ok_or_else(unknown)?;
        let position = match prefix {
            "B" => Position::Begin,
            "I" => Position::Inside,
            "E" => Position::End,
            "S" => Position::Single,
            _ => return Err(unknown()),
        };
        let kind = EntityType::parse(kind).ok_or_else(unknown)?;
        let known = self.types.iter().position(|&other| other == kind);
        let index = known.unwrap_or_else(|| {
            self.types.push(kind);
            self.types.len() - 1
        });
        Ok((position, index))
    }

    /// Number of labels.
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// The entity types, in the order in which the labels name them.
    pub fn types(&self) -> &[EntityType] {
        &self.types
    }

    /// Whether `next` carries on the entity that `label` belongs to.
    pub fn continues(&self, label: usize, next: usize) -> bool {
        match (self.labels[label], self.labels[next]) {
            (Some((before, kind)), Some((after, next_kind))) => {
                kind == next_kind
                    && matches!(before, Position::Begin | Position::Inside)
                    && matches!(after, Position::Inside | Position::End)
            }
            _ => false,
        }
    }

    /// The spans of a label sequence, in order.
    pub fn spans(&self, path: &[usize]) -> Vec<WordSpan> {
        let mut spans: Vec<WordSpan> = Vec::new();
        for (at, &label) in path.iter().enumerate() {
            let Some((_, kind)) = self.labels[label] else { continue };
            if at > 0 && self.continues(path[at - 1], label) {
                if let Some(last) = spans.last_mut() {
                    last.end = at + 1;
                }
            } else {
                spans.push(WordSpan { start: at, end: at + 1, kind });
            }
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(names: &[&str], path: &str) -> Vec<(usize, usize, EntityType)> {
        let set = LabelSet::parse(names).unwrap();
        let path: Vec<usize> = path
            .split(' ')
            .map(|label| names.iter().position(|name| name == &label).unwrap())
            .collect();
        set.spans(&path).iter().map(|s| (s.start, s.end, set.types()[s.kind])).collect()
    }

    const BIOES: [&str; 9] =
        ["O", "B-LOC", "I-LOC", "E-LOC", "S-LOC", "B-PER", "I-PER", "E-PER", "S-PER"];
    const BIO: [&str; 5] = ["O", "B-OTHER", "I-OTHER", "B-ORG", "I-ORG"];

    #[test]
    fn bioes_reads_legal_and_illegal_sequences() {
        use EntityType::{Loc, Per};
        for (path, expected) in [
            ("O B-PER I-PER E-PER O S-LOC", vec![(1, 4, Per), (5, 6, Loc)]),
            ("B-PER E-PER B-PER E-PER", vec![(0, 2, Per), (2, 4, Per)]),
            ("S-LOC S-LOC", vec![(0, 1, Loc), (1, 2, Loc)]),
            ("O O", vec![]),
            // Illegal: never closed, never begun, type changes midway, after S or E.
            ("B-PER I-PER O", vec![(0, 2, Per)]),
            ("O I-LOC E-LOC", vec![(1, 3, Loc)]),
            ("B-PER E-LOC", vec![(0, 1, Per), (1, 2, Loc)]),
            ("S-PER E-PER", vec![(0, 1, Per), (1, 2, Per)]),
            ("B-PER E-PER I-PER", vec![(0, 2, Per), (2, 3, Per)]),
            ("B-LOC B-LOC", vec![(0, 1, Loc), (1, 2, Loc)]),
        ] {
            assert_eq!(read(&BIOES, path), expected, "{path}");
        }
    }

    #[test]
    fn bio_reads_legal_and_illegal_sequences() {
        use EntityType::{Misc, Org};
        for (path, expected) in [
            ("B-ORG I-ORG B-ORG O", vec![(0, 2, Org), (2, 3, Org)]),
            ("O I-OTHER I-OTHER", vec![(1, 3, Misc)]),
            ("B-ORG I-OTHER", vec![(0, 1, Org), (1, 2, Misc)]),
        ] {
            assert_eq!(read(&BIO, path), expected, "{path}");
        }
    }

    #[test]
    fn the_label_order_of_umt() {
        use EntityType::{Misc, Per};
        let umt = ["PAD", "O", "B-MISC", "I-MISC", "B-PER", "I-PER", "X", "[CLS]", "[SEP]"];
        assert_eq!(read(&umt, "B-PER I-PER X B-MISC"), [(0, 2, Per), (3, 4, Misc)]);
    }

    #[test]
    fn unknown_labels_are_refused() {
        for names in [
            vec!["O", "Z"],
            vec!["X", "B-PER"],
            vec!["O", "B-TIME"],
            vec!["O", "L-PER"],
            vec!["B-PER"],
        ] {
            assert!(LabelSet::parse(&names).is_err(), "{names:?}");
        }
    }
}
