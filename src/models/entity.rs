//! What a tagger finds in a text.

use std::fmt;

/// The four coarse types of Twitter-GMNER. `OTHER` of that data set is `MISC` here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntityType {
    /// A person.
    Per,
    /// A place.
    Loc,
    /// An organisation.
    Org,
    /// Anything else with a name.
    Misc,
}

impl EntityType {
    /// All types, in the order of the wire format's documentation.
    pub const ALL: [Self; 4] = [Self::Per, Self::Loc, Self::Org, Self::Misc];

    /// The name on the wire: `PER`, `LOC`, `ORG`, `MISC`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Per => "PER",
            Self::Loc => "LOC",
            Self::Org => "ORG",
            Self::Misc => "MISC",
        }
    }

    /// Reads a type name as data sets write it; `OTHER` means `MISC`.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "PER" => Some(Self::Per),
            "LOC" => Some(Self::Loc),
            "ORG" => Some(Self::Org),
            "MISC" | "OTHER" => Some(Self::Misc),
            _ => None,
        }
    }
}

impl fmt::Display for EntityType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A range of Unicode code points of a text as it was sent; `end` is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CharSpan {
    /// First code point.
    pub start: usize,
    /// One past the last code point.
    pub end: usize,
}

/// A fine-grained type, e.g. `athlete`, and its probability.
#[derive(Debug, Clone, PartialEq)]
pub struct FineType {
    /// The label as the pack names it, e.g. `sports_team`.
    pub name: String,
    /// Probability in `0..=1`.
    pub score: f32,
}

/// One named entity found in a text.
#[derive(Debug, Clone, PartialEq)]
pub struct TaggedEntity {
    /// Where in the text.
    pub span: CharSpan,
    /// Its coarse type.
    pub kind: EntityType,
    /// Probability of the whole span with its type, in `0..=1`.
    pub score: f32,
    /// Its fine type, where the tagger has a head for it.
    pub fine: Option<FineType>,
}
