//! RiVEG's text cleaning and its two prompts (`data/ofa_dataset.py`, `snli_ve_dataset.py` and
//! `refcoco_dataset.py` of OFA, with RiVEG's slots).

use crate::models::EntityType;
use crate::models::expression::Expression;

/// Words kept of each text that goes into a prompt.
const MAX_WORDS: usize = 80;

/// The prompt of visual entailment. With a description of the picture:
/// ` can image and text1 " {expression} " imply text2 " {description} "?` (RiVEG fills OFA's two
/// slots in this order); without one, OFA's own form without a caption.
pub fn entailment_prompt(expression: &str, description: Option<&str>) -> String {
    let expression = clean(&as_trained(expression));
    match description {
        Some(description) => format!(
            " can image and text1 \" {expression} \" imply text2 \" {} \"?",
            clean(description)
        ),
        None => format!(" does the image describe \" {expression} \"?"),
    }
}

/// The prompt of visual grounding: ` which region does the text " {expression} " describe?`.
pub fn grounding_prompt(expression: &str) -> String {
    format!(" which region does the text \" {} \" describe?", clean(&as_trained(expression)))
}

/// Turns `Entity (TYPE)-expansion` into the spelling that RiVEG trained with: no space before the
/// bracket, and `OTHER` for `MISC`. Any other text stays as it is.
fn as_trained(expression: &str) -> String {
    let Some(Expression { name, kind, expansion }) = Expression::parse(expression) else {
        return expression.to_owned();
    };
    let kind = match kind {
        EntityType::Misc => "OTHER",
        _ => kind.name(),
    };
    format!("{name}({kind})-{expansion}")
}

/// Cleans one text: lower case, no leading `,.!?*#:;~`, `-` and `/` as spaces, `<person>` as
/// `person`, runs of two and more white-space characters as one space, trimmed, 80 words.
fn clean(text: &str) -> String {
    let lower = text.to_lowercase();
    let replaced = lower
        .trim_start_matches([',', '.', '!', '?', '*', '#', ':', ';', '~'])
        .replace(['-', '/'], " ")
        .replace("<person>", "person");
    let squeezed = squeeze(&replaced);
    let trimmed = squeezed.trim_end_matches('\n').trim_matches(' ');
    trimmed.split(' ').take(MAX_WORDS).collect::<Vec<_>>().join(" ")
}

/// Replaces runs of two and more white-space characters by one space; a single one stays.
fn squeeze(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut run: Option<(char, usize)> = None;
    for c in text.chars() {
        // What Python's `\s` matches: the Unicode property and the four information separators.
        if c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c) {
            run = Some(run.map_or((c, 1), |(first, n)| (first, n + 1)));
            continue;
        }
        flush(&mut out, run.take());
        out.push(c);
    }
    flush(&mut out, run);
    out
}

/// Writes one run of white space.
fn flush(out: &mut String, run: Option<(char, usize)>) {
    match run {
        Some((c, 1)) => out.push(c),
        Some(_) => out.push(' '),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fact_sheets_examples() {
        assert_eq!(clean("Garfield Park(LOC)-A conservatory"), "garfield park(loc) a conservatory");
        assert_eq!(
            entailment_prompt("Garfield Park(LOC)-A conservatory", Some("a greenhouse")),
            " can image and text1 \" garfield park(loc) a conservatory \" imply text2 \" a greenhouse \"?"
        );
        assert_eq!(grounding_prompt("A man"), " which region does the text \" a man \" describe?");
    }

    #[test]
    fn without_a_description_the_prompt_is_ofas_other_form() {
        assert_eq!(
            entailment_prompt("Messi (PER)-an athlete", None),
            " does the image describe \" messi(per) an athlete \"?"
        );
    }

    #[test]
    fn the_wires_spelling_becomes_the_one_of_training() {
        assert_eq!(as_trained("Foo (bar) (MISC)-a thing"), "Foo (bar)(OTHER)-a thing");
        assert_eq!(as_trained("Foo (bar)-baz"), "Foo (bar)-baz");
        assert_eq!(as_trained("A (PER)-b (ORG)-a club"), "A (PER)-b(ORG)-a club");
        assert_eq!(as_trained("Ada (PER)-a person"), "Ada(PER)-a person");
    }

    #[test]
    fn cleaning_keeps_what_the_reference_keeps() {
        assert_eq!(clean("#,!?Go <person>/Team"), "go person team");
        assert_eq!(clean("a \t b\tc\n"), "a b\tc");
        assert_eq!(clean("  a\u{1c}\u{1d}b  "), "a b");
        assert_eq!(clean(""), "");
        // Only the start is stripped, and before the spaces are.
        assert_eq!(clean(" .a."), ".a.");
        assert_eq!(clean(&"w ".repeat(100)).split(' ').count(), 80);
    }
}
