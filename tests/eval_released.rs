//! Counts and metrics on the files that the data sets' and RiVEG's authors released, against what
//! is known of them. They are not part of this repository: without them these tests only say so.

use std::path::PathBuf;

use riveg::eval::metrics::{self, Confusion, IouRule, Overlaps, Prf, Share, Task};
use riveg::eval::read::{self, ConllOptions, GmnerPaths};

/// The folder with the data sets; `None` where it is absent.
fn data() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !folder.is_dir() {
        eprintln!("skipped: the data sets are not here");
        return None;
    }
    Some(folder)
}

#[test]
fn riveg_s_released_predictions_are_counted_as_its_authors_count_them() {
    let Some(data) = data() else { return };
    let files = data.join("riveg/statistic");
    let gold = read::riveg_gold(&files.join("GMNER_finall_label.txt")).unwrap();
    let predictions = read::riveg_predictions(&files.join("OFAVE_to_OFAREC_augment.txt")).unwrap();
    let gold = gold.with_posts_of(&predictions);
    let pairs = metrics::pairs(&gold, &predictions, false);
    let overlaps = Overlaps::new(&pairs);
    let mner = metrics::tally(&pairs, &overlaps, Task::Mner, (IouRule::Inclusive, 0.5));
    assert_eq!(mner, Prf { correct: 2187, predicted: 2535, gold: 2542 });
    let percent = |value: f64| (value * 1e4).round() / 100.0;
    assert_eq!(percent(mner.precision()), 86.27);
    assert_eq!(percent(mner.recall()), 86.03);
    assert_eq!(percent(mner.f1()), 86.15);
    let entailment = metrics::confusion(&pairs)["all"];
    let expected =
        Confusion { shown_shown: 777, shown_hidden: 162, hidden_shown: 172, hidden_hidden: 1076 };
    assert_eq!(entailment, expected);
    assert_eq!(percent(entailment.accuracy()), 84.73);
    let bound = metrics::upper_bound(&pairs);
    assert_eq!(percent(bound.precision()), 73.10);
    assert_eq!(percent(bound.recall()), 72.90);
    assert_eq!(percent(bound.f1()), 73.00);
}

#[test]
fn twitter_gmner_has_the_counts_that_are_known() {
    let Some(data) = data() else { return };
    // Tweets, entities, of each type (PER, LOC, ORG, OTHER), shown, with several boxes, without
    // any entity.
    let known = [
        ("train", [7000, 11779, 5019, 1918, 3035, 1807, 4733, 421, 358]),
        ("dev", [1500, 2450, 1072, 407, 595, 376, 991, 85, 87]),
        ("test", [1500, 2543, 1104, 404, 638, 397, 1046, 103, 82]),
    ];
    for (split, expected) in known {
        let set = read::gmner(&GmnerPaths {
            text: data.join(format!("gmner/txt/{split}.txt")),
            boxes: data.join("gmner/xml"),
            options: ConllOptions::default(),
        })
        .unwrap();
        let counts = metrics::count(&set);
        let found = [
            counts.posts,
            counts.entities,
            counts.per,
            counts.loc,
            counts.org,
            counts.misc,
            counts.shown,
            counts.several_boxes,
            counts.without_entity,
        ];
        assert_eq!(found, expected, "{split}");
    }
}

#[test]
fn guessing_reaches_on_twitter_gmner_what_is_known() {
    let Some(data) = data() else { return };
    let set = read::gmner(&GmnerPaths {
        text: data.join("gmner/txt/test.txt"),
        boxes: data.join("gmner/xml"),
        options: ConllOptions::default(),
    })
    .unwrap();
    let guesses = metrics::baselines(&set, IouRule::Strict);
    println!("{guesses:?}");
    assert_eq!(guesses.type_prior, Some(Share { right: 1815, of: 2543 }));
    let constant = guesses.constant_box.unwrap().share;
    assert_eq!(constant.of, 1046);
    assert!((0.37..0.40).contains(&constant.value()), "{constant:?}");
}

#[test]
fn the_plain_conll_sets_are_read() {
    let Some(data) = data() else { return };
    let known = [
        ("twitter2015", [("train", 4000), ("valid", 1000), ("test", 3257)]),
        ("twitter2017", [("train", 3373), ("valid", 723), ("test", 723)]),
    ];
    for (name, splits) in known {
        for (split, posts) in splits {
            let path = data.join(name).join(format!("{split}.txt"));
            let set = read::conll(&path, &ConllOptions::default()).unwrap();
            assert_eq!(set.posts.len(), posts, "{name} {split}");
        }
    }
}

#[test]
fn fine_types_belong_to_every_entity() {
    let Some(data) = data() else { return };
    let fine = Some(data.join("fmnerg/test.txt"));
    let options = ConllOptions { fine, ..ConllOptions::default() };
    let set = read::conll(&data.join("gmner/txt/test.txt"), &options).unwrap();
    assert_eq!(set.entities().filter(|entity| entity.fine.is_some()).count(), 2543);
}
