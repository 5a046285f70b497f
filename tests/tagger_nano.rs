//! The nano pack's tagger on plain sentences, and on the data set's own words where it is present.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use riveg::models::tagger::{TransformerTagger, WordInput};
use riveg::models::{EntityType, TagInput, Tagger};

fn nano() -> TransformerTagger {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/nano/tagger");
    TransformerTagger::load(&dir, &Device::Cpu, DType::F32).unwrap()
}

/// Surface, type and fine type of each entity of `text`.
fn found(tagger: &TransformerTagger, text: &str) -> Vec<(String, EntityType, String)> {
    let input = TagInput { text: text.into(), knowledge: None };
    let entities = tagger.tag(&[input]).unwrap().remove(0);
    let chars: Vec<char> = text.chars().collect();
    entities
        .into_iter()
        .map(|entity| {
            println!("{text:?}: {entity:?}");
            let surface = chars[entity.span.start..entity.span.end].iter().collect();
            (surface, entity.kind, entity.fine.unwrap().name)
        })
        .collect()
}

#[test]
fn plain_sentences() {
    use EntityType::{Loc, Org, Per};
    let tagger = nano();
    let expect = |text: &str, entities: &[(&str, EntityType)]| {
        let found = found(&tagger, text);
        let found: Vec<(&str, EntityType)> =
            found.iter().map(|(surface, kind, _)| (surface.as_str(), *kind)).collect();
        assert_eq!(found, entities, "{text}");
    };
    expect(
        "LeBron James with the Lakers in Los Angeles.",
        &[("LeBron James", Per), ("Lakers", Org), ("Los Angeles", Loc)],
    );
    expect(
        "taylor swift at the wembley stadium",
        &[("taylor swift", Per), ("wembley stadium", Loc)],
    );
    expect("🎾 Roger Federer's serve! https://t.co/abc #tennis", &[("Roger Federer", Per)]);
    expect("A man rides a brown horse on the beach.", &[]);
}

#[test]
fn fine_types_say_what_an_entity_is() {
    let tagger = nano();
    let fine = |text: &str| found(&tagger, text).remove(0).2;
    assert_eq!(fine("LeBron James dunks for the win."), "athlete");
    assert_eq!(fine("A sunny day in Paris"), "city");
}

#[test]
fn a_batch_answers_as_single_texts_do() {
    let tagger = nano();
    let inputs: Vec<TagInput> = [
        ("Adele sings in London tonight", None),
        ("", None),
        ("RT @nflnetwork: Ravens or Steelers? #WhoWillWin", Some("Named entities: Ravens (team)")),
    ]
    .iter()
    .map(|&(text, z)| TagInput { text: text.into(), knowledge: z.map(Into::into) })
    .collect();
    for (input, batched) in inputs.iter().zip(tagger.tag(&inputs).unwrap()) {
        let alone = tagger.tag(std::slice::from_ref(input)).unwrap().remove(0);
        assert_eq!(alone.len(), batched.len());
        for (a, b) in alone.iter().zip(&batched) {
            assert_eq!((a.span, a.kind), (b.span, b.kind));
            assert!((a.score - b.score).abs() < 1e-4);
        }
    }
}

/// A text far over the encoder's length is cut, not refused.
#[test]
fn a_very_long_text_is_cut() {
    let text = "Adele sings. ".repeat(2000);
    let input = TagInput { text: text.into(), knowledge: Some("Adele (singer)".into()) };
    let entities = nano().tag(&[input]).unwrap().remove(0);
    assert!(!entities.is_empty());
}

type Spans = Vec<(usize, usize, EntityType)>;

/// The first `limit` tweets of a CoNLL file with BIO tags.
fn tweets(path: &Path, limit: usize) -> Vec<(Vec<String>, Spans)> {
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("\n\n").filter(|block| !block.trim().is_empty()).take(limit);
    let read = |block: &str| {
        let (mut words, mut spans): (Vec<String>, Spans) = Default::default();
        for (word, tag) in block.lines().filter_map(|line| line.trim_end().split_once('\t')) {
            let at = words.len();
            words.push(word.to_owned());
            match tag.split_once('-') {
                Some(("B", kind)) => spans.push((at, at + 1, EntityType::parse(kind).unwrap())),
                Some(_) => spans.last_mut().unwrap().1 = at + 1,
                None => {}
            }
        }
        (words, spans)
    };
    blocks.map(read).collect()
}

#[test]
fn f1_on_tweets_of_the_dev_split() {
    let shared = std::env::var_os("RIVEG_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let path = shared.join("data/gmner/txt/dev.txt");
    if !path.is_file() {
        println!("skipped: no Twitter-GMNER at {}", path.display());
        return;
    }
    let tweets = tweets(&path, 200);
    let tagger = nano();
    let (mut right, mut predicted, mut gold) = (0, 0, 0);
    for chunk in tweets.chunks(16) {
        let words: Vec<Vec<&str>> =
            chunk.iter().map(|(words, _)| words.iter().map(String::as_str).collect()).collect();
        let inputs: Vec<WordInput> =
            words.iter().map(|words| WordInput { words, knowledge: &[] }).collect();
        for (entities, (_, spans)) in tagger.tag_words(&inputs).unwrap().iter().zip(chunk) {
            let found = entities.iter().map(|entity| (entity.start, entity.end, entity.kind));
            right += found.filter(|span| spans.contains(span)).count();
            predicted += entities.len();
            gold += spans.len();
        }
    }
    let f1 = 200.0 * right as f64 / (predicted + gold) as f64;
    println!("F1 {f1:.2} on {} dev tweets, text alone", tweets.len());
    assert!(f1 > 74.0, "F1 {f1:.2}");
}
