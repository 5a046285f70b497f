//! Expansions without a language model: what an entity is, in words of its type.
//!
//! The paper asks a language model what an entity is; a small pack says it from the predicted
//! fine-grained type (`an athlete`), or from the coarse one (`a person`).

use super::{EntityType, ExpandInput, Expander};

/// Fine types whose name does not read well by itself.
const SPECIAL: [(&str, &str); 6] = [
    ("film_and_television_works", "a film or television work"),
    ("brand_name_products", "a brand product"),
    ("software", "a software product"),
    ("music", "a piece of music"),
    ("art_other", "a work of art"),
    ("location_other", "a place"),
];

/// Expands entities from their types.
#[derive(Debug, Clone, Copy, Default)]
pub struct TypeExpander;

impl Expander for TypeExpander {
    fn expand(&self, input: &ExpandInput) -> String {
        match &input.fine {
            Some(fine) => from_fine(&fine.name),
            None => from_coarse(input.kind).to_owned(),
        }
    }

    fn provenance(&self, input: &ExpandInput) -> &'static str {
        if input.fine.is_some() { "fine_type" } else { "type" }
    }
}

fn from_fine(name: &str) -> String {
    if let Some((_, words)) = SPECIAL.iter().find(|(special, _)| *special == name) {
        return (*words).to_owned();
    }
    let words = name.replace('_', " ");
    let words = words.strip_suffix(" other").unwrap_or(&words);
    let vowel = words.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']);
    format!("{} {words}", if vowel { "an" } else { "a" })
}

fn from_coarse(kind: EntityType) -> &'static str {
    match kind {
        EntityType::Per => "a person",
        EntityType::Loc => "a place",
        EntityType::Org => "an organization",
        EntityType::Misc => "a thing",
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CharSpan, FineType};
    use super::*;

    fn input(kind: EntityType, fine: Option<&str>) -> ExpandInput {
        ExpandInput {
            text: "x".into(),
            entity: "x".to_owned(),
            span: CharSpan { start: 0, end: 1 },
            kind,
            fine: fine.map(|name| FineType { name: name.to_owned(), score: 0.5 }),
        }
    }

    #[test]
    fn fine_types_become_words() {
        for (name, words) in [
            ("athlete", "an athlete"),
            ("city", "a city"),
            ("sports_team", "a sports team"),
            ("educational_institution", "an educational institution"),
            ("person_other", "a person"),
            ("organization_other", "an organization"),
            ("event_other", "an event"),
            ("building_other", "a building"),
            ("product_other", "a product"),
            ("film_and_television_works", "a film or television work"),
            ("brand_name_products", "a brand product"),
            ("software", "a software product"),
            ("music", "a piece of music"),
            ("art_other", "a work of art"),
            ("location_other", "a place"),
            ("medical_thing", "a medical thing"),
        ] {
            let input = input(EntityType::Misc, Some(name));
            assert_eq!(TypeExpander.expand(&input), words);
            assert_eq!(TypeExpander.provenance(&input), "fine_type");
        }
    }

    #[test]
    fn coarse_types_stand_in() {
        for (kind, words) in [
            (EntityType::Per, "a person"),
            (EntityType::Loc, "a place"),
            (EntityType::Org, "an organization"),
            (EntityType::Misc, "a thing"),
        ] {
            let input = input(kind, None);
            assert_eq!(TypeExpander.expand(&input), words);
            assert_eq!(TypeExpander.provenance(&input), "type");
        }
    }
}
