//! A plane for tests: answers on a port of its own with what a test gave it, and keeps what it was asked.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
};

/// What it was asked.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// What it answers.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub kind: &'static str,
    pub body: Vec<u8>,
    /// Break the connection after the body instead of ending the answer.
    pub cut: bool,
}

pub fn json(status: u16, body: serde_json::Value) -> Answer {
    Answer { status, kind: "application/json", body: body.to_string().into_bytes(), cut: false }
}

pub fn problem(code: cogward_api::ProblemCode) -> Answer {
    let problem = cogward_api::Problem::new(code, "told by the plane").rule("some.rule");
    Answer {
        status: code.status(),
        kind: "application/problem+json",
        body: serde_json::to_vec(&problem).unwrap(),
        cut: false,
    }
}

/// Chooses an answer by the request's line; gets the number of requests with that line before it.
type Choose = Box<dyn Fn(&Asked, usize) -> Answer + Send>;

pub struct Plane {
    url: String,
    pub asked: Arc<Mutex<Vec<Asked>>>,
    pub home: tempfile::TempDir,
}

impl Plane {
    pub fn new(choose: impl Fn(&Asked, usize) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (kept, choose) = (Arc::clone(&asked), Arc::new(Mutex::new(Box::new(choose) as Choose)));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (kept, choose) = (Arc::clone(&kept), Arc::clone(&choose));
                thread::spawn(move || serve(stream, &kept, &choose));
            }
        });
        Self { url, asked, home: tempfile::tempdir().unwrap() }
    }

    /// Answers each request with the next of these, whatever it is.
    pub fn scripted(answers: Vec<Answer>) -> Self {
        let left = Mutex::new(VecDeque::from(answers));
        Self::new(move |_, _| left.lock().unwrap().pop_front().unwrap_or_else(|| json(500, serde_json::json!({}))))
    }

    pub fn cli(&self, line: &str) -> Output {
        self.cli_with(line, &[], b"")
    }

    pub fn cli_with(&self, line: &str, variables: &[(&str, &str)], input: &[u8]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cogward"));
        command
            .args(line.split(' '))
            .env_clear()
            .env("HOME", self.home.path())
            .env("COGWARD_URL", &self.url)
            .env("COGWARD_TOKEN", "cwo_test")
            .envs(variables.iter().copied())
            .current_dir(self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that does not read its input closes the pipe.
        let _closed = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

fn serve(stream: TcpStream, kept: &Mutex<Vec<Asked>>, choose: &Mutex<Choose>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    let mut asked = Asked::default();
    if reader.read_line(&mut asked.line).unwrap_or(0) == 0 {
        return;
    }
    asked.line = asked.line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        asked.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = asked.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    reader.take(length).read_to_end(&mut asked.body).unwrap();
    let before = {
        let mut kept = kept.lock().unwrap();
        let before = kept.iter().filter(|a| a.line == asked.line).count();
        kept.push(asked.clone());
        before
    };
    let answer = choose.lock().unwrap()(&asked, before);
    let length = answer.body.len() + usize::from(answer.cut);
    let head = format!(
        "HTTP/1.1 {} X\r\ncontent-type: {}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n",
        answer.status, answer.kind
    );
    let _gone = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&answer.body));
}

pub fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
