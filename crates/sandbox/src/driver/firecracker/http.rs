//! As much HTTP/1.1 as the machine monitor's socket needs: one request at a time, an answer that is bounded in size
//! and in time.
//!
//! The monitor is trusted until its machine runs. Afterwards an escaped agent may answer in its place, so nothing is
//! believed beyond a status, and nothing is waited for longer than the caller says.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    os::unix::net::UnixStream,
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, SendFlags, recv, send},
};

/// Most bytes of the first line and the headers.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Most bytes of a body.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It was not there in time.
    #[error("there was no answer in time")]
    Late,
    /// It is not one that this client understands.
    #[error("the answer is not one of HTTP/1.1 that is understood: {0}")]
    NotUnderstood(&'static str),
    /// It is larger than anything that is asked for.
    #[error("the answer is too large")]
    TooLarge,
}

impl From<rustix::io::Errno> for HttpError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
}

/// A connection that is kept between requests.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    /// After an answer that was not understood, what follows belongs to nothing.
    usable: bool,
}

impl Client {
    /// Speaks over a connection.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, usable: true })
    }

    /// Asks and waits for the answer. After an error the connection is not used again.
    pub fn ask(&mut self, method: &str, path: &str, body: Option<&str>, until: Instant) -> Result<Answer, HttpError> {
        if !std::mem::replace(&mut self.usable, false) {
            return Err(HttpError::Io(io::Error::from(io::ErrorKind::NotConnected)));
        }
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n");
        if let Some(body) = body {
            request.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        request.push_str(body.unwrap_or_default());
        self.send(request.as_bytes(), until)?;
        let answer = self.receive(until)?;
        self.usable = true;
        Ok(answer)
    }

    fn send(&self, mut bytes: &[u8], until: Instant) -> Result<(), HttpError> {
        while !bytes.is_empty() {
            match send(&self.stream, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(rustix::io::Errno::AGAIN) => wait(self.stream.as_fd(), PollFlags::OUT, until)?,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn receive(&self, until: Instant) -> Result<Answer, HttpError> {
        let mut bytes = Vec::new();
        let mut chunk = [0_u8; 4096];
        loop {
            if let Some(answer) = parse(&bytes)? {
                return Ok(answer);
            }
            match recv(&self.stream, &mut chunk[..], RecvFlags::empty()) {
                Ok((0, _)) => return Err(HttpError::Io(io::Error::from(io::ErrorKind::UnexpectedEof))),
                Ok((count, _)) => bytes.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(rustix::io::Errno::AGAIN) => wait(self.stream.as_fd(), PollFlags::IN, until)?,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            // Also one that sends its answer byte by byte is late in the end.
            if Instant::now() >= until {
                return Err(HttpError::Late);
            }
        }
    }
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags, until: Instant) -> Result<(), HttpError> {
    let left = until.saturating_duration_since(Instant::now());
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
        Ok(0) if Instant::now() >= until => Err(HttpError::Late),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// The answer, once it is whole.
fn parse(bytes: &[u8]) -> Result<Option<Answer>, HttpError> {
    let Some(end) = bytes.windows(4).take(HEAD_BYTES_MAX).position(|w| w == b"\r\n\r\n") else {
        return if bytes.len() >= HEAD_BYTES_MAX { Err(HttpError::TooLarge) } else { Ok(None) };
    };
    let head = bytes.get(..end).and_then(|head| std::str::from_utf8(head).ok());
    let mut lines = head.ok_or(HttpError::NotUnderstood("headers"))?.split("\r\n");
    let status = status(lines.next().unwrap_or_default()).ok_or(HttpError::NotUnderstood("status"))?;
    let mut length = None;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(HttpError::NotUnderstood("headers"))?;
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(HttpError::NotUnderstood("transfer encoding"));
        }
        if name.eq_ignore_ascii_case("content-length") {
            let digits = value.trim();
            let plain = !digits.is_empty() && digits.len() <= 10 && digits.bytes().all(|b| b.is_ascii_digit());
            let value = digits.parse::<usize>().ok().filter(|_| plain && length.is_none());
            length = Some(value.ok_or(HttpError::NotUnderstood("length"))?);
        }
    }
    let length = length.unwrap_or_default();
    if length > BODY_BYTES_MAX {
        return Err(HttpError::TooLarge);
    }
    let body = bytes.get(end + 4..).unwrap_or_default();
    match body.len().cmp(&length) {
        std::cmp::Ordering::Less => Ok(None),
        std::cmp::Ordering::Equal => Ok(Some(Answer { status, body: body.to_vec() })),
        std::cmp::Ordering::Greater => Err(HttpError::NotUnderstood("more than one answer")),
    }
}

fn status(line: &str) -> Option<u16> {
    let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    let (digits, after) = rest.split_at_checked(3)?;
    let status: u16 = digits.parse().ok()?;
    // An interim answer would be followed by another one.
    ((200..=599).contains(&status) && (after.is_empty() || after.starts_with(' '))).then_some(status)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        time::Duration,
    };

    use super::*;

    /// Answers one request with these bytes, in pieces, and then waits for the end of the connection.
    fn asked(answer: &'static [u8], piece: usize) -> Result<Answer, HttpError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            let mut request = [0; 512];
            let n = theirs.read(&mut request).unwrap();
            for part in answer.chunks(piece) {
                let _ = theirs.write_all(part);
            }
            let _ = theirs.shutdown(std::net::Shutdown::Write);
            while matches!(theirs.read(&mut [0; 64]), Ok(n) if n > 0) {}
            String::from_utf8(request[..n].to_vec()).unwrap()
        });
        let result = Client::new(ours).unwrap().ask("PUT", "/x", Some("{}"), Instant::now() + Duration::from_secs(10));
        let request = server.join().unwrap();
        assert!(request.starts_with("PUT /x HTTP/1.1\r\nHost: localhost\r\n") && request.ends_with("\r\n\r\n{}"));
        result
    }

    #[test]
    fn an_answer_in_any_pieces_is_taken() {
        for piece in [1, 3, 1000] {
            let none = asked(b"HTTP/1.1 204 \r\nServer: x\r\nConnection: keep-alive\r\n\r\n", piece).unwrap();
            assert_eq!(none, Answer { status: 204, body: Vec::new() });
            let some = asked(b"HTTP/1.1 400 Bad\r\ncontent-length: 4\r\n\r\n\r\n\r\n", piece).unwrap();
            assert_eq!(some, Answer { status: 400, body: b"\r\n\r\n".to_vec() });
        }
    }

    #[test]
    fn what_is_no_plain_answer_is_refused() {
        for bytes in [
            &b"SSH-2.0-x\r\n\r\n"[..],
            b"HTTP/2 200\r\n\r\n",
            b"HTTP/1.1 99 x\r\n\r\n",
            b"HTTP/1.1 2000 x\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 +20 x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 \xff\r\n\r\n",
        ] {
            let error = asked(bytes, 1000).unwrap_err();
            assert!(matches!(error, HttpError::NotUnderstood(_)), "{error}: {}", String::from_utf8_lossy(bytes));
        }
        let cut = [&b""[..], b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhalf"];
        assert!(cut.into_iter().all(|bytes| matches!(asked(bytes, 1000), Err(HttpError::Io(_)))));
    }

    #[test]
    fn an_answer_without_end_is_refused_by_its_size() {
        static HEAD: [u8; 64 * 1024] = [b'x'; 64 * 1024];
        assert!(matches!(asked(&HEAD, 4096), Err(HttpError::TooLarge)));
        let announced = b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n";
        assert!(matches!(asked(announced, 1000), Err(HttpError::TooLarge)));
    }

    #[test]
    fn one_that_does_not_answer_is_waited_for_only_so_long_and_not_asked_again() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut client = Client::new(ours).unwrap();
        let soon = || Instant::now() + Duration::from_millis(50);
        assert!(matches!(client.ask("GET", "/", None, soon()), Err(HttpError::Late)));
        // The late answer to the first question must not be taken for one to the second.
        theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        assert!(matches!(client.ask("GET", "/", None, soon()), Err(HttpError::Io(_))));
    }
}
