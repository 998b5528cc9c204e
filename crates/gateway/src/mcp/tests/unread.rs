//! Answers that an agent does not read.

use cogward_model::limits::RUN_ANSWER_BYTES_MAX;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::*;

impl Agent {
    /// Asks for a large answer and reads nothing of it.
    async fn ask_and_leave(&self) -> TcpStream {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": "read_text_file", "arguments": {"path": "large"}}})
        .to_string();
        let head = format!(
            "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nmcp-session-id: {}\r\ncontent-length: {}\r\n\r\n",
            self.session.as_deref().unwrap_or_default(),
            call.len()
        );
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("{head}{call}").as_bytes()).await.unwrap();
        stream
    }
}

/// What a run's unread answers take, looked at until `count` of its calls have ended.
async fn most_held(plane: &Plane, run: RunId, count: usize) -> usize {
    let context = plane.gateway.context(run).unwrap();
    let mut most = 0;
    while plane.ledger.of(EventType::ToolCallCompleted).len() < count {
        most = most.max(context.answers.held());
        tokio::task::yield_now().await;
    }
    most.max(context.answers.held())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_answers_fill_their_run_s_room_and_no_more_and_another_run_is_served() {
    for stream in [false, true] {
        let (server, fake) = fake::http("files").await;
        fake.stream.store(stream, Ordering::SeqCst);
        let plane = Plane::with(vec![server], None, Duration::from_secs(6));
        let (mut greedy, mut other) = (plane.run(100), plane.run(100));
        greedy.greet().await;
        other.greet().await;
        let unread = futures_util::future::join_all((0..6).map(|_| greedy.ask_and_leave())).await;
        let context = plane.gateway.context(greedy.run).unwrap();
        while context.answers.held() <= fake::LARGE {
            tokio::task::yield_now().await;
        }
        let (failed, text) = other.read("large").await.said();
        assert!(!failed && text.len() == fake::LARGE, "while the greedy one is full");
        // Those for which there is no room are given up by the time limit of their call.
        let most = most_held(&plane, greedy.run, 7).await;
        assert!(most <= RUN_ANSWER_BYTES_MAX, "{most}");
        assert!(context.answers.held() > fake::LARGE, "two are there and wait to be read");
        drop(unread);
        while context.answers.held() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(!greedy.read("small").await.said().0, "it goes on when it has let go");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_process_does_not_wait_for_a_run_that_does_not_read() {
    let plane = Plane::with(vec![fake::stdio("files")], None, Duration::from_secs(30));
    let (mut greedy, mut other) = (plane.run(100), plane.run(100));
    greedy.greet().await;
    other.greet().await;
    let unread = futures_util::future::join_all((0..4).map(|_| greedy.ask_and_leave())).await;
    let most = most_held(&plane, greedy.run, 4).await;
    assert!(most <= RUN_ANSWER_BYTES_MAX, "{most}");
    let lost = plane.ledger.of(EventType::ToolCallCompleted).iter().any(
        |event| matches!(field(event, "cause"), Some(Recorded::Text(cause)) if cause.contains("there is no room")),
    );
    assert!(lost, "an answer for which there is no room is lost to its run, and the record says so");
    assert_eq!(other.read("a").await.said(), (false, "read_text_file of a".into()));
    drop(unread);
}
