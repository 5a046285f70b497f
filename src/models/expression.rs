//! The form of a referring expression, `{name} ({TYPE})-{expansion}`, read back.

use super::EntityType;

/// The parts of a referring expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expression<'a> {
    /// The entity's name, without the space before the type.
    pub(super) name: &'a str,
    /// Its type.
    pub(super) kind: EntityType,
    /// What the entity is.
    pub(super) expansion: &'a str,
}

impl<'a> Expression<'a> {
    /// Splits `text` at the last place that looks like a type: a name may look like one itself, and
    /// an expansion rarely does. `None` for any other text.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mark = |kind: EntityType| {
            let mark = format!("({kind})-");
            text.rfind(&mark).map(|at| (at, at + mark.len(), kind))
        };
        let (at, end, kind) = EntityType::ALL.into_iter().filter_map(mark).max()?;
        let name = &text[..at];
        let name = name.strip_suffix(' ').unwrap_or(name);
        Some(Self { name, kind, expansion: &text[end..] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_split_at_its_last_type() {
        use EntityType::{Loc, Misc, Per};
        for (text, name, kind, expansion) in [
            ("LeBron James (PER)-an athlete", "LeBron James", Per, "an athlete"),
            ("A (ORG)-b (MISC)-a thing", "A (ORG)-b", Misc, "a thing"),
            ("A (MISC)-b (PER)-a person", "A (MISC)-b", Per, "a person"),
            ("Zoë (LOC)-", "Zoë", Loc, ""),
            ("(PER)-a person", "", Per, "a person"),
        ] {
            assert_eq!(Expression::parse(text), Some(Expression { name, kind, expansion }));
        }
        for text in ["a dog", "x (OTHER)-y", ""] {
            assert_eq!(Expression::parse(text), None);
        }
    }
}
