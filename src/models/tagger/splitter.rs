//! Splits a post into words the way Twitter-GMNER's token files do, keeping code point offsets.
//!
//! The data set's habits, read from its 112,542 training tokens: `#` and `@` stand alone (7,400
//! times) before the tag or handle; punctuation marks and symbols are one word each, also inside
//! contractions (`Trump ' s`, `We ' re`), abbreviations (`U . S .`), times and prices; a hyphen
//! between letters or digits stays inside (`Anheuser-Busch`, `1-0`), a slash between digits too
//! (`9/11`). Deviations, where its files only show an older tokenizer's accidents: a URL is one
//! word (there `http://t.` + `co/…`), a handle with underscores too (there sometimes cut at `_`),
//! and an emoji keeps its variation selector, skin tone, joined parts and second flag letter.

use unicode_segmentation::UnicodeSegmentation;

use crate::models::CharSpan;

/// One word and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word<'a> {
    /// The word, exactly as in the text.
    pub text: &'a str,
    /// Its code points in the text.
    pub span: CharSpan,
}

/// Splits `text` into words. They are in order, never overlap, never cut a grapheme cluster, and
/// leave out nothing but white space and invisible control and format characters.
pub fn split(text: &str) -> Vec<Word<'_>> {
    let units = units(text);
    let mut words = Vec::new();
    let mut at = 0;
    while at < units.len() {
        if units[at].class == Class::Space {
            at += 1;
            continue;
        }
        let end = url_end(text, &units, at).unwrap_or_else(|| word_end(&units, at));
        let (first, last) = (&units[at], &units[end - 1]);
        words.push(Word {
            text: &text[first.byte..last.byte + last.bytes],
            span: CharSpan { start: first.char, end: last.char + last.chars },
        });
        at = end;
    }
    words
}

/// What a grapheme cluster is to the splitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// White space, controls, invisible format characters: never part of a word.
    Space,
    /// A letter, mark or underscore: runs of these make a word.
    Letter,
    /// A digit: as a letter, and may stand around a slash.
    Digit,
    /// An ideograph or hiragana: written without spaces, a word of its own.
    Ideograph,
    /// `-`, which joins letters and digits.
    Hyphen,
    /// `/`, which joins digits.
    Slash,
    /// Anything else: a word of its own.
    Symbol,
}

/// A grapheme cluster with its place in bytes and in code points.
#[derive(Debug)]
struct Unit {
    byte: usize,
    bytes: usize,
    char: usize,
    chars: usize,
    class: Class,
}

fn units(text: &str) -> Vec<Unit> {
    let mut char = 0;
    text.grapheme_indices(true)
        .map(|(byte, cluster)| {
            let chars = cluster.chars().count();
            let unit = Unit { byte, bytes: cluster.len(), char, chars, class: classify(cluster) };
            char += chars;
            unit
        })
        .collect()
}

fn classify(cluster: &str) -> Class {
    if cluster.chars().all(is_invisible) {
        return Class::Space;
    }
    let Some(first) = cluster.chars().next() else { return Class::Space };
    // An enclosing keycap makes an emoji of a digit.
    if cluster.contains('\u{20E3}') {
        return Class::Symbol;
    }
    match first {
        '-' => Class::Hyphen,
        '/' => Class::Slash,
        '_' => Class::Letter,
        c if is_ideograph(c) => Class::Ideograph,
        c if c.is_numeric() => Class::Digit,
        c if c.is_alphabetic() => Class::Letter,
        _ => Class::Symbol,
    }
}

/// White space, controls, and format characters that show nothing by themselves.
fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c, '\u{AD}' | '\u{61C}' | '\u{180E}' | '\u{200B}'..='\u{200F}'
            | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{3041}'..='\u{309F}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
}

/// End of the ordinary word that starts at `start`.
fn word_end(units: &[Unit], start: usize) -> usize {
    let is_text = |class| matches!(class, Class::Letter | Class::Digit);
    if !is_text(units[start].class) {
        return start + 1;
    }
    let class = |i: usize| units.get(i).map_or(Class::Space, |unit| unit.class);
    let mut end = start + 1;
    loop {
        let joins = match class(end) {
            Class::Hyphen => is_text(class(end + 1)),
            Class::Slash => class(end - 1) == Class::Digit && class(end + 1) == Class::Digit,
            _ => false,
        };
        if joins {
            end += 2;
        } else if is_text(class(end)) {
            end += 1;
        } else {
            return end;
        }
    }
}

/// End of the URL that starts at `start`, if one does: up to white space, a quotation mark or an
/// angle bracket, without the punctuation that closes a sentence.
fn url_end(text: &str, units: &[Unit], start: usize) -> Option<usize> {
    let rest = &text[units[start].byte..];
    if start > 0 && matches!(units[start - 1].class, Class::Letter | Class::Digit) {
        return None;
    }
    let head = ["https://", "http://", "www."]
        .into_iter()
        .find(|head| rest.get(..head.len()).is_some_and(|s| s.eq_ignore_ascii_case(head)))?;
    let cluster = |i: usize| &text[units[i].byte..units[i].byte + units[i].bytes];
    let stops = |i: usize| {
        units[i].class == Class::Space || matches!(cluster(i), "\"" | "<" | ">" | "“" | "”" | "«")
    };
    let mut end = (start..units.len()).find(|&i| stops(i)).unwrap_or(units.len());
    let closes = |i: usize| {
        matches!(cluster(i), "." | "," | "!" | "?" | ";" | ":" | ")" | "]" | "}" | "'" | "’" | "…")
    };
    while end > start && closes(end - 1) {
        end -= 1;
    }
    (end > start + head.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<&str> {
        split(text).into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn tweets_split_as_the_data_set_does() {
        for (text, expected) in [
            ("RT @nflnetwork: #WhoWillWin", "RT @ nflnetwork : # WhoWillWin"),
            ("Donald Trump's stance", "Donald Trump ' s stance"),
            ("We’re home", "We ’ re home"),
            ("the U.S. Forces", "the U . S . Forces"),
            ("Anheuser-Busch won 1-0 on 9/11", "Anheuser-Busch won 1-0 on 9/11"),
            ("and/or - maybe -", "and / or - maybe -"),
            ("at 10:56 for $2.99!", "at 10 : 56 for $ 2 . 99 !"),
            ("@Football__Tweet hi", "@ Football__Tweet hi"),
            ("so... (yes)", "so . . . ( yes )"),
        ] {
            assert_eq!(words(text), expected.split(' ').collect::<Vec<_>>(), "{text}");
        }
    }

    #[test]
    fn a_url_is_one_word_without_the_closing_punctuation() {
        assert_eq!(
            words("see (https://t.co/1DzVeOJVyM), ok"),
            ["see", "(", "https://t.co/1DzVeOJVyM", ")", ",", "ok"]
        );
        assert_eq!(words("WWW.Example.com/a?b=1."), ["WWW.Example.com/a?b=1", "."]);
        assert_eq!(words("http://"), ["http", ":", "/", "/"]);
        assert_eq!(words("awww.no"), ["awww", ".", "no"]);
    }

    #[test]
    fn emoji_clusters_stay_whole() {
        assert_eq!(words("✌🏼️#Sam"), ["✌🏼️", "#", "Sam"]);
        assert_eq!(words("🇺🇸🇵🇱 👨‍👩‍👧go1️⃣"), ["🇺🇸", "🇵🇱", "👨‍👩‍👧", "go", "1️⃣"]);
    }

    #[test]
    fn marks_and_scripts() {
        assert_eq!(words("Beyonce\u{301}'s"), ["Beyonce\u{301}", "'", "s"]);
        assert_eq!(words("مرحبا، يا القاهرة"), ["مرحبا", "،", "يا", "القاهرة"]);
        assert_eq!(words("\u{200F}שלום\u{200F} עולם"), ["שלום", "עולם"]);
        assert_eq!(words("프로듀스트 東京へ"), ["프로듀스트", "東", "京", "へ"]);
        assert_eq!(words("नमस्ते दुनिया"), ["नमस्ते", "दुनिया"]);
    }

    #[test]
    fn offsets_count_code_points() {
        let found = split("🏀 Beyoncé #NBA");
        let spans: Vec<_> = found.iter().map(|word| (word.span.start, word.span.end)).collect();
        assert_eq!(spans, [(0, 1), (2, 9), (10, 11), (11, 14)]);
    }

    #[test]
    fn nothing_to_find() {
        assert!(split("").is_empty());
        assert!(split(" \t\r\n\u{3000}\u{200B}").is_empty());
    }

    proptest! {
        #[test]
        fn words_cover_everything_visible(text in r"(\PC|[ \n#@'/.,-]|https?://|[a-z]{1,5}|[\x{300}-\x{30F}\x{1F3FB}-\x{1F3FF}\x{200D}\x{FE0F}\x{1F1E6}-\x{1F1FF}]){0,40}") {
            let chars: Vec<char> = text.chars().collect();
            let mut at = 0;
            for word in split(&text) {
                prop_assert!(at <= word.span.start && word.span.start < word.span.end);
                prop_assert!(word.span.end <= chars.len());
                prop_assert!(chars[at..word.span.start].iter().all(|&c| is_invisible(c)));
                let slice: String = chars[word.span.start..word.span.end].iter().collect();
                prop_assert_eq!(slice, word.text);
                at = word.span.end;
            }
            prop_assert!(chars[at..].iter().all(|&c| is_invisible(c)));
        }

        #[test]
        fn words_end_at_cluster_borders(text in r"[a\x{301}\x{1F3FC}\x{200D}\x{1F469}\x{1F1FA} -]{0,20}") {
            let borders: Vec<usize> = text
                .grapheme_indices(true)
                .map(|(byte, _)| text[..byte].chars().count())
                .chain([text.chars().count()])
                .collect();
            for word in split(&text) {
                prop_assert!(borders.contains(&word.span.start) && borders.contains(&word.span.end));
            }
        }
    }
}
