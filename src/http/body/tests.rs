use std::convert::Infallible;

use futures_util::stream;

use super::*;

/// Room for 16 bodies of this size.
const LIMIT: usize = 8 * BYTES_PER_PERMIT;

fn reader() -> BodyReader {
    BodyReader::new(LIMIT, Duration::from_secs(60))
}

fn request(headers: &[(&str, &str)], body: Body) -> Request {
    let mut request = Request::post("/");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

/// A body of these bytes that then stalls.
fn stalling(bytes: usize) -> Body {
    let begin = stream::once(async move { Ok::<_, Infallible>(vec![b' '; bytes]) });
    Body::from_stream(begin.chain(stream::pending()))
}

/// A body that must not be asked for.
fn forbidden() -> Body {
    Body::from_stream(stream::once(async {
        if true {
            panic!("the body was read");
        }
        Ok::<_, Infallible>(Vec::new())
    }))
}

#[tokio::test]
async fn a_promise_takes_up_no_memory() {
    let reader = reader();
    let all = reader.free_permits();
    let slow: Vec<_> = (0..64)
        .map(|_| {
            let (reader, announced) = (reader.clone(), LIMIT.to_string());
            let request = request(&[("content-length", &announced)], stalling(1));
            tokio::spawn(async move { reader.read(request).await.is_ok() })
        })
        .collect();
    while reader.free_permits() > all - slow.len() {
        tokio::task::yield_now().await;
    }
    let whole = reader.read(request(&[], Body::from(vec![b' '; LIMIT]))).await;
    assert_eq!(whole.map(|body| body.bytes.len()).ok(), Some(LIMIT));
    slow.iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn whatever_finds_no_room_is_refused_at_once_and_gives_back_its_own() {
    let reader = reader();
    let body = |bytes: usize| request(&[], Body::from(vec![b' '; bytes]));
    let mut held = Vec::new();
    for _ in 0..LARGEST_BODIES {
        held.push(reader.read(body(LIMIT)).await.map(|body| body.room).ok());
    }
    assert_eq!(reader.free_permits(), 0);
    let problem = reader.read(body(1)).await.err().unwrap();
    assert_eq!((problem.code, problem.retry_after.is_some()), (Code::Overloaded, true));
    held.pop();
    assert_eq!(reader.free_permits(), LIMIT / BYTES_PER_PERMIT);
    assert!(reader.read(body(LIMIT)).await.is_ok());
}

#[tokio::test]
async fn the_room_is_held_until_its_last_clone_is_gone() {
    let reader = reader();
    let all = reader.free_permits();
    let body = reader.read(request(&[], Body::from(vec![0; LIMIT]))).await.ok().unwrap();
    let room = body.room.clone();
    drop(body);
    assert_eq!(reader.free_permits(), all - LIMIT / BYTES_PER_PERMIT);
    drop(room);
    assert_eq!(reader.free_permits(), all);
}

#[tokio::test]
async fn a_stalled_body_is_told_when_its_time_is_over() {
    let reader = BodyReader::new(LIMIT, Duration::from_millis(20));
    let begun = std::time::Instant::now();
    let problem = reader.read(request(&[], stalling(10))).await.err().unwrap();
    assert_eq!(problem.code, Code::RequestTimeout);
    let took = begun.elapsed();
    assert!(took < DRAIN_TIMEOUT, "{took:?}: the rest was not waited for");
}

#[tokio::test]
async fn who_waits_to_be_asked_is_not_asked_for_a_body_that_is_refused() {
    let too_long = (LIMIT + 1).to_string();
    for refused in [("content-length", too_long.as_str()), ("content-encoding", "gzip")] {
        let request = request(&[refused, ("expect", "100-continue")], forbidden());
        assert!(reader().read(request).await.is_err(), "{refused:?}");
    }
    discard(request(&[("expect", "100-continue")], forbidden())).await;
}
