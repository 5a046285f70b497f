//! The executor thread with model stubs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::poll;
use proptest::prelude::*;

use super::executor::lock;
use super::stubs::{Act, Item, Pending, Stub, bench, bench_with, context};
use super::*;

/// Submits and polls once, so that the item is queued.
async fn queue<'a>(
    stage: &'a StageHandle<Item, u32>,
    item: Item,
    ctx: &'a RequestContext,
) -> Pending<'a, Result<Reply<u32>, StageError>> {
    let mut pending: Pending<_> = Box::pin(stage.submit(item, ctx));
    assert!(poll!(&mut pending).is_pending());
    pending
}

#[tokio::test]
async fn items_that_wait_while_the_device_is_busy_share_a_batch() {
    let bench = bench_with(StageSpec::new("early", 0, 3), PanicLimit::default());
    let ctx = context();
    let blocked = bench.block().await;
    let mut pending = Vec::new();
    for id in 1..=5 {
        pending.push(queue(&bench.early, (id, Act::Echo), &ctx).await);
    }
    assert_eq!(bench.metric("riveg_stage_queue_depth{stage=\"early\"}"), 5.0);
    bench.release();
    blocked.await.unwrap();
    let mut sizes = Vec::new();
    for (id, reply) in (1..=5).zip(pending) {
        let reply = reply.await.unwrap();
        assert_eq!(reply.output, id + 100);
        sizes.push(reply.batch_size);
    }
    assert_eq!(sizes, [3, 3, 3, 2, 2]);
    assert_eq!(bench.ran(), [("early", vec![1, 2, 3]), ("early", vec![4, 5])]);
    assert_eq!(bench.metric("riveg_stage_batch_size_count{stage=\"early\"}"), 3.0);
    assert_eq!(bench.metric("riveg_stage_batch_size_sum{stage=\"early\"}"), 6.0);
}

#[tokio::test]
async fn the_later_stage_and_the_earlier_deadline_go_first() {
    let bench = bench_with(StageSpec::new("early", 0, 1), PanicLimit::default());
    let in_minutes = |minutes: u64| Instant::now() + Duration::from_secs(60 * minutes);
    let relaxed = RequestContext::unadmitted("relaxed".into(), Some(in_minutes(20)));
    let urgent = RequestContext::unadmitted("urgent".into(), Some(in_minutes(10)));
    let blocked = bench.block().await;
    let first = queue(&bench.early, (1, Act::Echo), &relaxed).await;
    let second = queue(&bench.early, (2, Act::Echo), &urgent).await;
    let third = queue(&bench.late, (3, Act::Echo), &relaxed).await;
    bench.release();
    blocked.await.unwrap();
    for pending in [first, second, third] {
        pending.await.unwrap();
    }
    assert_eq!(bench.ran(), [("late", vec![3]), ("early", vec![2]), ("early", vec![1])]);
}

#[tokio::test]
async fn a_bad_item_does_not_fail_its_neighbours() {
    for (act, error) in [
        (Act::Fail, StageError::Failed),
        (Act::Panic, StageError::Panicked),
        (Act::Forget, StageError::Failed),
    ] {
        let bench = bench();
        let ctx = context();
        let blocked = bench.block().await;
        let before = queue(&bench.early, (1, Act::Echo), &ctx).await;
        let bad = queue(&bench.early, (2, act), &ctx).await;
        let after = queue(&bench.early, (3, Act::Echo), &ctx).await;
        bench.release();
        blocked.await.unwrap();
        assert_eq!(before.await.unwrap().output, 101);
        assert_eq!(bad.await.unwrap_err(), error);
        assert_eq!(after.await.unwrap().output, 103);
        let batches: Vec<_> = bench.ran().into_iter().map(|(_, ids)| ids).collect();
        assert_eq!(batches, [vec![1, 2, 3], vec![1], vec![2], vec![3]]);
        assert_eq!(bench.metric("riveg_stage_retried_batches_total{stage=\"early\"}"), 1.0);
        assert_eq!(bench.metric("riveg_stage_failed_total{stage=\"early\"}"), 1.0);
        let panics = if act == Act::Panic { 2.0 } else { 0.0 };
        assert_eq!(bench.metric("riveg_stage_panics_total{stage=\"early\"}"), panics);
        assert!(bench.executor.health().is_running());
    }
}

#[tokio::test]
async fn an_item_that_failed_alone_is_not_run_again() {
    let bench = bench();
    let error = bench.late.submit((1, Act::Fail), &context()).await.unwrap_err();
    assert_eq!(error, StageError::Failed);
    assert_eq!(bench.ran(), [("late", vec![1])]);
}

#[tokio::test]
async fn a_lost_device_refuses_everything_for_good() {
    let bench = bench();
    let ctx = context();
    let blocked = bench.block().await;
    let fatal = queue(&bench.late, (1, Act::LoseDevice), &ctx).await;
    let neighbour = queue(&bench.late, (2, Act::Echo), &ctx).await;
    let queued = queue(&bench.early, (3, Act::Echo), &ctx).await;
    bench.release();
    blocked.await.unwrap();
    for pending in [fatal, neighbour, queued] {
        assert_eq!(pending.await.unwrap_err(), StageError::DeviceLost);
    }
    let lost = HealthState::DeviceLost { reason: "the device failed" };
    assert_eq!(bench.executor.health().ended().await, lost);
    let refused = bench.early.submit((4, Act::Echo), &ctx).await.unwrap_err();
    assert_eq!(refused, StageError::DeviceLost);
    assert_eq!(bench.ran(), [("late", vec![1, 2])], "nothing touched the device again");
    assert_eq!(bench.metric("riveg_rejected_total{reason=\"device_lost\"}"), 1.0);
    assert_eq!(bench.metric("riveg_stage_queue_depth{stage=\"early\"}"), 0.0);
    assert_eq!(bench.executor.shutdown().await, lost);
}

#[tokio::test]
async fn too_many_panics_give_the_device_up() {
    let limit = PanicLimit { count: 2, window: Duration::from_secs(3600) };
    let bench = bench_with(StageSpec::new("early", 0, 8), limit);
    let ctx = context();
    for id in 1..=2 {
        let panicked = bench.early.submit((id, Act::Panic), &ctx).await.unwrap_err();
        assert_eq!(panicked, StageError::Panicked);
    }
    let lost = HealthState::DeviceLost { reason: "too many panics" };
    assert_eq!(bench.executor.health().ended().await, lost);
    let refused = bench.early.submit((4, Act::Echo), &ctx).await.unwrap_err();
    assert_eq!(refused, StageError::DeviceLost);
}

#[tokio::test]
async fn panics_between_which_something_goes_well_do_not_add_up() {
    let limit = PanicLimit { count: 2, window: Duration::from_secs(3600) };
    let bench = bench_with(StageSpec::new("early", 0, 8), limit);
    let ctx = context();
    for round in 0..5 {
        let panicked = bench.early.submit((1, Act::Panic), &ctx).await.unwrap_err();
        assert_eq!(panicked, StageError::Panicked);
        // Alone, or run again after a batch that panicked.
        let items = if round % 2 == 0 { vec![Act::Echo] } else { vec![Act::Echo, Act::Panic] };
        let items: Vec<_> = (2..).zip(items).collect();
        let _ = bench.late.submit_all(items, &ctx).await;
    }
    assert!(bench.executor.health().is_running());
}

#[tokio::test]
async fn a_device_lost_in_a_panic_is_lost() {
    let bench = bench();
    let error = bench.early.submit((1, Act::LoseDeviceInPanic), &context()).await.unwrap_err();
    assert_eq!(error, StageError::DeviceLost);
    let lost = HealthState::DeviceLost { reason: "the device failed" };
    assert_eq!(bench.executor.health().ended().await, lost);
}

#[tokio::test]
async fn a_first_item_waits_for_company_as_long_as_its_stage_says() {
    let delay = Duration::from_millis(20);
    let spec = StageSpec { max_delay: delay, ..StageSpec::new("early", 0, 2) };
    let bench = bench_with(spec, PanicLimit::default());
    let ctx = context();
    let alone = bench.early.submit((1, Act::Echo), &ctx).await.unwrap();
    assert!(alone.queued >= delay, "{:?}", alone.queued);
    assert_eq!(alone.batch_size, 1);
}

#[tokio::test]
async fn a_full_batch_waits_for_nothing() {
    let spec = StageSpec { max_delay: Duration::from_secs(3600), ..StageSpec::new("early", 0, 2) };
    let bench = bench_with(spec, PanicLimit::default());
    let ctx = context();
    let first = queue(&bench.early, (2, Act::Echo), &ctx).await;
    // A stage that has no delay does not wait for the other one's either.
    bench.late.submit((3, Act::Echo), &ctx).await.unwrap();
    let second = bench.early.submit((4, Act::Echo), &ctx).await.unwrap();
    assert_eq!((first.await.unwrap().batch_size, second.batch_size), (2, 2));
}

#[tokio::test]
async fn only_compatible_items_share_a_batch() {
    let bench = bench();
    let ctx = context();
    let blocked = bench.block().await;
    let mut pending = Vec::new();
    for (id, act) in [(1, Act::Echo), (2, Act::EchoApart), (3, Act::Echo), (4, Act::EchoApart)] {
        pending.push((id, queue(&bench.early, (id, act), &ctx).await));
    }
    bench.release();
    blocked.await.unwrap();
    for (id, reply) in pending {
        assert_eq!(reply.await.unwrap().output, id + 100);
    }
    assert_eq!(bench.ran(), [("early", vec![1, 3]), ("early", vec![2, 4])]);
}

#[tokio::test]
async fn what_nobody_waits_for_is_not_run() {
    let bench = bench();
    let ctx = context();
    let blocked = bench.block().await;
    let left = queue(&bench.early, (1, Act::Echo), &ctx).await;
    let stays = queue(&bench.early, (2, Act::Echo), &ctx).await;
    drop(left);
    bench.release();
    blocked.await.unwrap();
    assert_eq!(stays.await.unwrap().batch_size, 1);
    assert_eq!(bench.ran(), [("early", vec![2])]);
    assert_eq!(bench.metric("riveg_cancelled_total{stage=\"early\"}"), 1.0);
    assert_eq!(bench.metric("riveg_deadline_exceeded_total{stage=\"early\"}"), 0.0);
}

#[tokio::test]
async fn what_is_past_its_deadline_is_not_run() {
    let bench = bench();
    let blocked = bench.block().await;
    let late = RequestContext::unadmitted("late".into(), Some(Instant::now()));
    let error = bench.early.submit((1, Act::Echo), &late).await.unwrap_err();
    assert_eq!(error, StageError::DeadlineExceeded, "at once, although the device is held");
    bench.release();
    blocked.await.unwrap();
    bench.early.submit((2, Act::Echo), &context()).await.unwrap();
    assert_eq!(bench.ran(), [("early", vec![2])]);
    assert_eq!(bench.metric("riveg_deadline_exceeded_total{stage=\"early\"}"), 1.0);
    assert_eq!(bench.metric("riveg_cancelled_total{stage=\"early\"}"), 0.0);
}

#[tokio::test]
async fn queues_are_bounded() {
    let spec = StageSpec { capacity: 2, ..StageSpec::new("early", 0, 8) };
    let bench = bench_with(spec, PanicLimit::default());
    let ctx = context();
    let blocked = bench.block().await;
    let first = queue(&bench.early, (1, Act::Echo), &ctx).await;
    let second = queue(&bench.early, (2, Act::Echo), &ctx).await;
    let third = bench.early.submit((3, Act::Echo), &ctx).await.unwrap_err();
    assert_eq!(third, StageError::QueueFull);
    bench.release();
    for pending in [blocked, first, second] {
        pending.await.unwrap();
    }
    assert_eq!(bench.metric("riveg_rejected_total{reason=\"queue_full\"}"), 1.0);
}

#[tokio::test]
async fn items_submitted_at_one_stroke_share_a_batch() {
    let bench = bench();
    let ctx = context();
    let items = (1..=5).map(|id| (id, Act::Echo)).collect();
    let replies = bench.late.submit_all(items, &ctx).await.unwrap();
    let replies: Vec<_> = replies.into_iter().map(|r| (r.output, r.batch_size)).collect();
    assert_eq!(replies, [(101, 5), (102, 5), (103, 5), (104, 5), (105, 5)]);
    let items = vec![(6, Act::Echo), (7, Act::Panic)];
    assert_eq!(bench.late.submit_all(items, &ctx).await.unwrap_err(), StageError::Panicked);
    assert!(bench.late.submit_all(Vec::new(), &ctx).await.unwrap().is_empty());
}

#[tokio::test]
async fn items_that_do_not_all_fit_are_withdrawn_together() {
    let spec = StageSpec { capacity: 2, ..StageSpec::new("early", 0, 8) };
    let bench = bench_with(spec, PanicLimit::default());
    let ctx = context();
    let blocked = bench.block().await;
    let items = (1..=3).map(|id| (id, Act::Echo)).collect();
    assert_eq!(bench.early.submit_all(items, &ctx).await.unwrap_err(), StageError::QueueFull);
    bench.release();
    blocked.await.unwrap();
    bench.late.submit((4, Act::Echo), &ctx).await.unwrap();
    assert_eq!(bench.ran(), [("late", vec![4])]);
    assert_eq!(bench.metric("riveg_cancelled_total{stage=\"early\"}"), 2.0);
}

#[tokio::test]
async fn shutting_down_runs_what_is_queued_and_refuses_the_rest() {
    let bench = bench();
    let (early, late, log) = (bench.early.clone(), bench.late.clone(), Arc::clone(&bench.log));
    let release = bench.release.clone();
    let ctx = context();
    let blocked = bench.block().await;
    let first = queue(&early, (1, Act::Echo), &ctx).await;
    let second = queue(&late, (2, Act::Echo), &ctx).await;
    let mut shutdown = Box::pin(bench.executor.shutdown());
    assert!(poll!(&mut shutdown).is_pending());
    let refused = early.submit((3, Act::Echo), &ctx).await.unwrap_err();
    assert_eq!(refused, StageError::ShuttingDown);
    release.send(()).unwrap();
    for pending in [blocked, first, second] {
        pending.await.unwrap();
    }
    assert_eq!(shutdown.await, HealthState::Stopped);
    assert_eq!(*lock(&log), [("late", vec![2]), ("early", vec![1])]);
    let refused = late.submit((4, Act::Echo), &ctx).await.unwrap_err();
    assert_eq!(refused, StageError::ShuttingDown);
}

#[tokio::test]
async fn nothing_is_taken_on_before_the_start() {
    let mut builder = ExecutorBuilder::new();
    let handle = builder.stage(StageSpec::new("early", 0, 8), Stub::unblocking());
    let refused = handle.submit((1, Act::Echo), &context()).await.unwrap_err();
    assert_eq!(refused, StageError::ShuttingDown);
    let _executor = builder.start().unwrap();
    assert_eq!(handle.submit((1, Act::Echo), &context()).await.unwrap().output, 101);
}

#[test]
fn every_series_exists_from_the_start() {
    let bench = bench();
    for series in [
        "riveg_stage_queue_depth{stage=\"early\"}",
        "riveg_stage_failed_total{stage=\"late\"}",
        "riveg_stage_retried_batches_total{stage=\"late\"}",
        "riveg_stage_panics_total{stage=\"early\"}",
        "riveg_cancelled_total{stage=\"early\"}",
        "riveg_deadline_exceeded_total{stage=\"late\"}",
        "riveg_rejected_total{reason=\"shutting_down\"}",
        "riveg_stage_batch_size_count{stage=\"late\"}",
        "riveg_stage_queue_seconds_count{stage=\"late\"}",
        "riveg_stage_execute_seconds_count{stage=\"late\"}",
    ] {
        assert_eq!(bench.metric(series), 0.0, "{series}");
    }
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => Just(Act::Echo),
        1 => Just(Act::Fail),
        1 => Just(Act::FailOnce),
        1 => Just(Act::Panic),
        1 => Just(Act::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever shares its batches, each item gets the reply that it alone deserves.
    #[test]
    fn every_item_gets_its_own_reply(
        plan in prop::collection::vec((act(), any::<bool>(), any::<bool>()), 1..40),
        max_batch in 1..6usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let limit = PanicLimit { count: usize::MAX, ..PanicLimit::default() };
            let bench = bench_with(StageSpec::new("early", 0, max_batch), limit);
            let ctx = context();
            let blocked = bench.block().await;
            let mut kept = Vec::new();
            let mut left = HashSet::new();
            for (id, &(act, late, leaves)) in (1..).zip(&plan) {
                let stage = if late { &bench.late } else { &bench.early };
                let pending = queue(stage, (id, act), &ctx).await;
                if leaves {
                    left.insert(id);
                } else {
                    kept.push((id, act, pending));
                }
            }
            bench.release();
            blocked.await.unwrap();
            for (id, act, pending) in kept {
                let reply = pending.await.map(|reply| reply.output);
                match act {
                    Act::Fail | Act::Forget => assert_eq!(reply, Err(StageError::Failed)),
                    Act::Panic => assert_eq!(reply, Err(StageError::Panicked)),
                    // Fails when it happens to be alone, as nothing is run again then.
                    Act::FailOnce if reply == Err(StageError::Failed) => {}
                    _ => assert_eq!(reply, Ok(id + 100)),
                }
            }
            for (stage, ids) in bench.ran() {
                assert!(ids.len() <= if stage == "early" { max_batch } else { 8 });
                assert!(!ids.iter().any(|id| left.contains(id)), "ran for nobody");
            }
        });
    }
}
