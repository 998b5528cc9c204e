use http_body_util::BodyExt;

use super::*;

async fn next(response: &mut Response<AgentBody>) -> Option<String> {
    let frame = response.body_mut().frame().await?.unwrap().into_data().unwrap();
    Some(String::from_utf8(frame.to_vec()).unwrap())
}

#[tokio::test]
async fn a_client_that_comes_back_has_what_it_missed_and_nothing_twice() {
    let log = EventLog::numbered(7, None);
    log.prime();
    let mut first = log.body(None);
    assert_eq!(next(&mut first).await.unwrap(), "id: 7-0\nretry: 1000\ndata: \n\n");
    assert!(log.write(b"{\"a\":\n1}", Weight::Notice, None).await && log.write(b"{}", Weight::Needed, None).await);
    assert_eq!(next(&mut first).await.unwrap(), "id: 7-1\ndata: {\"a\": 1}\n\n");
    drop(first);
    log.finish(b"{\"result\":1}", None);
    let mut again = log.body(Some(1));
    assert_eq!(next(&mut again).await.unwrap(), "id: 7-2\ndata: {}\n\n");
    let mut third = log.body(Some(0));
    assert!(next(&mut again).await.is_none(), "only the last reader reads");
    for wanted in ["id: 7-1\ndata: {\"a\": 1}\n\n", "id: 7-2\ndata: {}\n\n", "id: 7-3\ndata: {\"result\":1}\n\n"] {
        assert_eq!(next(&mut third).await.unwrap(), wanted);
    }
    assert!(next(&mut third).await.is_none());
    log.drained().await;
    assert!(next(&mut log.body(Some(u64::MAX))).await.is_none(), "a place that never was is the end");
}

#[tokio::test]
async fn a_reader_that_is_let_go_reads_what_is_there_and_comes_back_for_the_rest() {
    let log = EventLog::numbered(2, None);
    log.prime();
    let mut first = log.body(None);
    log.part();
    assert!(next(&mut first).await.unwrap().starts_with("id: 2-0\n"));
    assert!(next(&mut first).await.is_none());
    drop(first);
    let mut second = log.body(Some(0));
    log.finish(b"{}", None);
    assert_eq!(next(&mut second).await.unwrap(), "id: 2-1\ndata: {}\n\n");
    assert!(next(&mut second).await.is_none());
}

#[tokio::test]
async fn a_slow_reader_is_waited_for_and_one_that_left_is_not() {
    let log = EventLog::numbered(1, None);
    let mut reader = log.body(None);
    let part = vec![b'x'; STREAM_WAITING_BYTES_MAX / 2 - 64];
    assert!(log.write(&part, Weight::Notice, None).await && log.write(&part, Weight::Notice, None).await);
    let waits = tokio::spawn({
        let (log, part) = (Arc::clone(&log), part.clone());
        async move { log.write(&part, Weight::Notice, None).await }
    });
    tokio::task::yield_now().await;
    assert!(!waits.is_finished() && !log.try_write(&part));
    next(&mut reader).await.unwrap();
    assert!(waits.await.unwrap());
    drop(reader);
    log.left().await;
    assert!(!log.write(&part, Weight::Notice, None).await, "a notice that nobody reads is dropped");
    assert!(log.write(&part, Weight::Needed, None).await, "an answer is not");
}

#[tokio::test]
async fn a_flood_of_small_notices_is_bounded() {
    let log = EventLog::numbered(1, None);
    let written = (0..100_000).filter(|_| log.try_write(b"{}")).count();
    assert!(written <= KEPT_MAX + 1, "{written}");
    let mut reader = log.body(None);
    for _ in 0..written {
        next(&mut reader).await.unwrap();
    }
    assert!(log.state().events.len() <= KEPT_MAX);
    let passing = EventLog::passing(None);
    let mut reader = passing.body(None);
    assert!(passing.write(b"{}", Weight::Notice, None).await);
    assert_eq!(next(&mut reader).await.unwrap(), "data: {}\n\n");
    assert!(passing.state().events.is_empty(), "what cannot be had again is not kept");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_shows_that_it_is_alive() {
    let log = EventLog::passing(None);
    assert_eq!(next(&mut log.body(None)).await.unwrap(), ":\n\n");
}

#[tokio::test]
async fn room_is_given_back_when_the_result_was_read() {
    let rooms = crate::rooms::Rooms::default();
    let room = rooms.answers.of(&cogward_model::TenantName::default_tenant());
    let log = EventLog::passing(None);
    log.finish(b"{}", room.take(100_000).await);
    assert!(room.held() > 0);
    let mut reader = log.body(None);
    drop(next(&mut reader).await);
    assert_eq!(room.held(), 0);
}
