//! The cache in front of a stage, with model stubs.

use futures_util::poll;

use super::stubs::{Act, Bench, Item, bench, context};
use super::*;

const fn four_bytes(_value: &u32) -> usize {
    4
}

fn cache(stage: &StageHandle<Item, u32>) -> FlightCache<u32, Item, u32> {
    FlightCache::new(stage.clone(), 8, four_bytes)
}

#[tokio::test]
async fn one_computation_serves_all_and_is_kept() {
    let (bench, ctx) = (bench(), context());
    let cache = cache(&bench.early);
    let blocked = bench.block().await;
    let mut first = Box::pin(cache.get(1, (1, Act::Echo), &ctx));
    let mut second = Box::pin(cache.get(1, (1, Act::Echo), &ctx));
    assert!(poll!(&mut first).is_pending());
    assert!(poll!(&mut second).is_pending());
    bench.release();
    blocked.await.unwrap();
    assert_eq!(first.await.unwrap().output, 101);
    assert_eq!(second.await.unwrap().output, 101);
    let kept = cache.get(1, (1, Act::Echo), &ctx).await.unwrap();
    assert_eq!((kept.output, kept.batch_size), (101, 0));
    assert_eq!(bench.ran(), [("early", vec![1])]);
}

#[tokio::test]
async fn the_least_recently_used_value_makes_room() {
    let (bench, ctx) = (bench(), context());
    let cache = cache(&bench.early);
    for key in [1, 2, 1, 3, 1, 2] {
        cache.get(key, (key, Act::Echo), &ctx).await.unwrap();
    }
    let ran: Vec<_> = bench.ran().into_iter().map(|(_, ids)| ids[0]).collect();
    assert_eq!(ran, [1, 2, 3, 2], "3 displaced 2, as 1 was used since");
}

#[tokio::test]
async fn a_follower_outlives_the_one_who_started() {
    let (bench, ctx) = (bench(), context());
    let cache = cache(&bench.early);
    let soon = std::time::Instant::now() + std::time::Duration::from_millis(1);
    let hasty = RequestContext::unadmitted("hasty".into(), Some(soon));
    let blocked = bench.block().await;
    let mut gone = Box::pin(cache.get(1, (1, Act::Echo), &ctx));
    assert!(poll!(&mut gone).is_pending());
    let mut late = Box::pin(cache.get(2, (2, Act::Echo), &hasty));
    let _ = poll!(&mut late);
    let mut follower = Box::pin(cache.get(1, (1, Act::Echo), &ctx));
    let mut other = Box::pin(cache.get(2, (2, Act::Echo), &ctx));
    assert!(poll!(&mut follower).is_pending());
    assert!(poll!(&mut other).is_pending());
    drop(gone);
    assert_eq!(late.await.unwrap_err(), StageError::DeadlineExceeded);
    bench.release();
    blocked.await.unwrap();
    assert_eq!(follower.await.unwrap().output, 101);
    assert_eq!(other.await.unwrap().output, 102);
}

#[tokio::test]
async fn what_everybody_left_is_not_computed() {
    let (bench, ctx) = (bench(), context());
    let cache = cache(&bench.early);
    let blocked = bench.block().await;
    let mut left = Box::pin(cache.get(1, (1, Act::Echo), &ctx));
    assert!(poll!(&mut left).is_pending());
    drop(left);
    bench.release();
    blocked.await.unwrap();
    assert_eq!(cache.get(1, (1, Act::Echo), &ctx).await.unwrap().output, 101);
    assert_eq!(bench.ran(), [("early", vec![1])]);
}

#[tokio::test]
async fn a_value_is_kept_even_if_everybody_left_while_it_was_computed() {
    let (bench, ctx) = (bench(), context());
    let cache = cache(&bench.early);
    let mut left = Box::pin(cache.get(1, (1, Act::Block), &ctx));
    assert!(poll!(&mut left).is_pending());
    bench.entered();
    drop(left);
    bench.release();
    bench.late.submit((9, Act::Echo), &ctx).await.unwrap();
    let kept = cache.get(1, (1, Act::Echo), &ctx).await.unwrap();
    assert_eq!((kept.output, kept.batch_size), (101, 0));
}

#[tokio::test]
async fn a_failed_flight_fails_who_started_it_but_not_who_joined() {
    let (bench, ctx) = (bench(), context());
    let cache = cache(&bench.early);
    let blocked = bench.block().await;
    let mut first = Box::pin(cache.get(1, (1, Act::FailOnce), &ctx));
    let mut follower = Box::pin(cache.get(1, (1, Act::FailOnce), &ctx));
    assert!(poll!(&mut first).is_pending());
    assert!(poll!(&mut follower).is_pending());
    bench.release();
    blocked.await.unwrap();
    assert_eq!(first.await.unwrap_err(), StageError::Failed);
    assert_eq!(follower.await.unwrap().output, 101);
}

#[tokio::test]
async fn whoever_joined_a_failed_flight_tries_once_more_at_most() {
    let (bench, ctx) = (bench(), context());
    let cache = cache(&bench.early);
    let blocked = bench.block().await;
    let mut pending = Vec::new();
    for _ in 0..5 {
        let mut get = Box::pin(cache.get(1, (1, Act::Fail), &ctx));
        assert!(poll!(&mut get).is_pending());
        pending.push(get);
    }
    bench.release();
    blocked.await.unwrap();
    for reply in futures_util::future::join_all(pending).await {
        assert_eq!(reply.unwrap_err(), StageError::Failed);
    }
    // One flight failed under all of them; how many share the next one is a matter of timing.
    assert!((2..=5).contains(&bench.ran().len()), "{:?}", bench.ran());
}

#[tokio::test]
async fn speculation_waits_for_an_idle_device() {
    let (bench, ctx) = (bench(), context());
    let cache = cache(&bench.late);
    let blocked = bench.block().await;
    let early_start = cache.speculate(1, (1, Act::Echo), &ctx).unwrap();
    let mut work = Box::pin(bench.early.submit((2, Act::Echo), &ctx));
    assert!(poll!(&mut work).is_pending());
    bench.release();
    blocked.await.unwrap();
    work.await.unwrap();
    assert_eq!(cache.get(1, (1, Act::Echo), &ctx).await.unwrap().output, 101);
    assert_eq!(bench.ran(), [("early", vec![2]), ("late", vec![1])], "though `late` ranks higher");
    drop(early_start);
}

#[tokio::test]
async fn asking_for_real_promotes_a_speculation() {
    let (bench, ctx) = (bench(), context());
    let cache = cache(&bench.late);
    let blocked = bench.block().await;
    let _early_start = cache.speculate(1, (1, Act::Echo), &ctx).unwrap();
    let mut work = Box::pin(bench.early.submit((2, Act::Echo), &ctx));
    assert!(poll!(&mut work).is_pending());
    let mut wanted = Box::pin(cache.get(1, (1, Act::Echo), &ctx));
    assert!(poll!(&mut wanted).is_pending());
    bench.release();
    blocked.await.unwrap();
    assert_eq!(wanted.await.unwrap().output, 101);
    work.await.unwrap();
    assert_eq!(bench.ran(), [("late", vec![1]), ("early", vec![2])]);
}

fn outcomes(bench: &Bench) -> [f64; 3] {
    ["hit", "joined", "miss"]
        .map(|o| bench.metric(&format!("riveg_embedding_cache_total{{outcome=\"{o}\"}}")))
}

#[tokio::test]
async fn a_speculation_that_ran_is_told_once_and_with_its_running_time() {
    let (bench, ctx) = (bench(), context());
    let cache = bench.with_metrics(|| cache(&bench.late));
    let early = cache.speculate(1, (1, Act::Block), &ctx).unwrap();
    bench.entered();
    assert_eq!(outcomes(&bench), [0.0, 0.0, 1.0]);
    bench.release();
    bench.early.submit((2, Act::Echo), &ctx).await.unwrap();
    let claimed = cache.claim(early, 1, (1, Act::Block), &ctx).await.unwrap();
    assert_eq!((claimed.output, claimed.queued), (101, std::time::Duration::ZERO));
    assert!(!claimed.executed.is_zero());
    assert_eq!(outcomes(&bench), [0.0, 0.0, 1.0], "the same request again");
    let kept = cache.get(1, (1, Act::Echo), &ctx).await.unwrap();
    assert!(kept.executed.is_zero(), "another request did not wait for it");
    assert_eq!(outcomes(&bench), [1.0, 0.0, 1.0]);
}

#[tokio::test]
async fn claiming_a_speculation_that_is_queued_promotes_it() {
    let (bench, ctx) = (bench(), context());
    let cache = bench.with_metrics(|| cache(&bench.late));
    let blocked = bench.block().await;
    let early = cache.speculate(1, (1, Act::Echo), &ctx).unwrap();
    let mut claimed = Box::pin(cache.claim(early, 1, (1, Act::Echo), &ctx));
    assert!(poll!(&mut claimed).is_pending());
    let mut work = Box::pin(bench.early.submit((2, Act::Echo), &ctx));
    assert!(poll!(&mut work).is_pending());
    bench.release();
    blocked.await.unwrap();
    assert_eq!(claimed.await.unwrap().output, 101);
    work.await.unwrap();
    assert_eq!(bench.ran(), [("late", vec![1]), ("early", vec![2])]);
    assert_eq!(outcomes(&bench), [0.0, 0.0, 1.0]);
}

#[tokio::test]
async fn a_speculation_that_is_not_needed_is_withdrawn() {
    let (bench, ctx) = (bench(), context());
    let cache = cache(&bench.late);
    let blocked = bench.block().await;
    let early_start = cache.speculate(1, (1, Act::Echo), &ctx);
    drop(early_start);
    bench.release();
    blocked.await.unwrap();
    bench.early.submit((2, Act::Echo), &ctx).await.unwrap();
    assert_eq!(bench.ran(), [("early", vec![2])]);
}

#[tokio::test]
async fn a_flight_whose_executor_dies_lands_all_the_same() {
    let (bench, ctx) = (bench(), context());
    // Weighing happens on the executor's thread, while the reply is delivered.
    let cache =
        FlightCache::new(bench.early.clone(), 8, |_: &u32| std::panic::resume_unwind(Box::new(())));
    let blocked = bench.block().await;
    let mut first = Box::pin(cache.get(1, (1, Act::Echo), &ctx));
    let mut follower = Box::pin(cache.get(1, (1, Act::Echo), &ctx));
    assert!(poll!(&mut first).is_pending());
    assert!(poll!(&mut follower).is_pending());
    bench.release();
    blocked.await.unwrap();
    assert_eq!(first.await.unwrap_err(), StageError::DeviceLost);
    assert_eq!(follower.await.unwrap_err(), StageError::DeviceLost);
    let after = cache.get(1, (1, Act::Echo), &ctx).await;
    assert_eq!(after.unwrap_err(), StageError::DeviceLost, "not the flight that was lost");
    let lost = HealthState::DeviceLost { reason: "the executor failed" };
    assert_eq!(bench.executor.health().ended().await, lost);
}

#[tokio::test]
async fn a_lost_device_ends_every_wait() {
    let (bench, ctx) = (bench(), context());
    let cache = cache(&bench.early);
    let blocked = bench.block().await;
    let mut first = Box::pin(cache.get(1, (1, Act::LoseDevice), &ctx));
    let mut follower = Box::pin(cache.get(1, (1, Act::LoseDevice), &ctx));
    assert!(poll!(&mut first).is_pending());
    assert!(poll!(&mut follower).is_pending());
    bench.release();
    blocked.await.unwrap();
    assert_eq!(first.await.unwrap_err(), StageError::DeviceLost);
    assert_eq!(follower.await.unwrap_err(), StageError::DeviceLost);
}
