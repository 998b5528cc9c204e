//! A credential that comes back in an answer.
//!
//! A host that reflects what it is sent (an echo, a debug page, an error that quotes the request) would hand
//! the secret to the agent. Answers of a host that has a credential are watched for the beginning of it, in
//! clear and in the encodings that such pages use. What is not covered: a host that transforms it otherwise,
//! gives it in pieces over several answers, or sends it on to somewhere else.

use std::{
    collections::VecDeque,
    fmt::Write,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use zeroize::{Zeroize, Zeroizing};

use crate::body::{AgentBody, BrokenStream};

/// So many bytes of a form are enough to know it, and more than would come by chance.
pub(crate) const FORM_BYTES: usize = 24;
/// A run of letters and digits of so many characters is known by itself: no page escapes it.
const RUN_BYTES_MIN: usize = 12;
/// So many runs of one secret are looked for.
const RUNS_MAX: usize = 64;

/// The forms of one secret, as an automaton that reads each byte once.
pub(crate) struct Forms {
    next: Vec<[u16; 256]>,
    ends: Vec<bool>,
}

impl Drop for Forms {
    fn drop(&mut self) {
        self.next.zeroize();
    }
}

impl std::fmt::Debug for Forms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Forms(..)")
    }
}

impl Forms {
    /// Of a secret that is long enough to be one.
    pub(crate) fn of(secret: &str) -> Self {
        let forms = forms(secret.as_bytes());
        let mut built = Self { next: vec![[0; 256]], ends: vec![false] };
        for form in &forms {
            built.add(form);
        }
        built.link();
        built
    }

    fn add(&mut self, form: &[u8]) {
        let mut state = 0_usize;
        for byte in form {
            let known = self.next.get(state).map_or(0, |row| row[usize::from(*byte)]);
            if known != 0 {
                state = usize::from(known);
                continue;
            }
            let Ok(fresh) = u16::try_from(self.next.len()) else { return };
            self.next.push([0; 256]);
            self.ends.push(false);
            if let Some(row) = self.next.get_mut(state) {
                row[usize::from(*byte)] = fresh;
            }
            state = usize::from(fresh);
        }
        if let Some(end) = self.ends.get_mut(state) {
            *end = state != 0;
        }
    }

    /// Where there is no way on, the longest end of what was read that is also a beginning goes on.
    fn link(&mut self) {
        let mut fallback = vec![0_u16; self.next.len()];
        let mut queue: VecDeque<u16> = VecDeque::new();
        for child in self.next.first().into_iter().flatten().filter(|child| **child != 0) {
            queue.push_back(*child);
        }
        while let Some(state) = queue.pop_front() {
            let back = fallback.get(usize::from(state)).copied().unwrap_or(0);
            let (Some(row), Some(behind)) =
                (self.next.get(usize::from(state)).copied(), self.next.get(usize::from(back)).copied())
            else {
                continue;
            };
            if self.ends.get(usize::from(back)).copied().unwrap_or(false)
                && let Some(end) = self.ends.get_mut(usize::from(state))
            {
                *end = true;
            }
            for (byte, (child, other)) in row.iter().zip(behind.iter()).enumerate() {
                if *child == 0 {
                    if let Some(row) = self.next.get_mut(usize::from(state)) {
                        row[byte & 0xff] = *other;
                    }
                } else {
                    if let Some(link) = fallback.get_mut(usize::from(*child)) {
                        *link = *other;
                    }
                    queue.push_back(*child);
                }
            }
        }
    }

    fn step(&self, state: u16, byte: u8) -> u16 {
        self.next.get(usize::from(state)).map_or(0, |row| row[usize::from(byte)])
    }

    fn is_end(&self, state: u16) -> bool {
        self.ends.get(usize::from(state)).copied().unwrap_or(true)
    }

    /// Whether any form stands in these bytes.
    pub(crate) fn stand_in(&self, bytes: &[u8]) -> bool {
        let mut state = 0;
        bytes.iter().any(|byte| {
            state = self.step(state, *byte);
            self.is_end(state)
        })
    }

    /// Whether any form stands in a header.
    pub(crate) fn stand_in_headers(&self, headers: &HeaderMap) -> bool {
        headers.iter().any(|(name, value)| self.stand_in(value.as_bytes()) || self.stand_in(name.as_str().as_bytes()))
    }
}

/// The beginnings of a secret in the encodings in which it could come back, and its runs of letters and digits.
fn forms(secret: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut all: Vec<Zeroizing<Vec<u8>>> = vec![Zeroizing::new(secret.to_vec())];
    // Base64 reads three bytes at a time: there are three ways for the secret to lie in a longer text.
    for before in 0..3_usize {
        let mut bytes = Zeroizing::new(vec![0; before]);
        bytes.extend_from_slice(secret);
        let (first, last) = ((before * 8).div_ceil(6), (bytes.len() * 8) / 6);
        for engine in [&STANDARD, &URL_SAFE] {
            let text = Zeroizing::new(engine.encode(bytes.as_slice()));
            all.push(Zeroizing::new(text.as_bytes().get(first..last).unwrap_or_default().to_vec()));
        }
    }
    for (plain, escape) in [("", "%X"), ("", "%x"), ("", "x"), ("", "X"), ("\"\\", "\\"), ("\"\\/", "\\")] {
        let mut text = Zeroizing::new(String::new());
        for byte in secret {
            let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
            let written = match escape {
                "%X" | "%x" if unreserved => write!(text, "{}", char::from(*byte)),
                "%X" => write!(text, "%{byte:02X}"),
                "%x" => write!(text, "%{byte:02x}"),
                "x" => write!(text, "{byte:02x}"),
                "X" => write!(text, "{byte:02X}"),
                _ if plain.as_bytes().contains(byte) => write!(text, "\\{}", char::from(*byte)),
                _ => write!(text, "{}", char::from(*byte)),
            };
            if written.is_err() {
                break;
            }
        }
        all.push(Zeroizing::new(text.as_bytes().to_vec()));
    }
    let runs = secret.split(|byte| !byte.is_ascii_alphanumeric()).filter(|run| run.len() >= RUN_BYTES_MIN);
    all.extend(runs.take(RUNS_MAX).map(|run| Zeroizing::new(run.to_vec())));
    all.into_iter()
        .map(|mut form| {
            form.truncate(FORM_BYTES);
            form
        })
        .filter(|form| form.len() >= 8)
        .collect()
}

/// What was held back from the agent because some secret may begin in it.
///
/// How much is held depends on the answer alone, never on the secret: an agent that has its own words sent back
/// would read the secret from where the pieces end.
struct Watch {
    forms: Arc<Forms>,
    state: u16,
    held: BytesMut,
}

/// The secret came back.
struct Echo;

impl Watch {
    /// The bytes that may go on to the agent.
    fn feed(&mut self, bytes: Bytes) -> Result<Bytes, Echo> {
        for byte in &bytes {
            self.state = self.forms.step(self.state, *byte);
            if self.forms.is_end(self.state) {
                return Err(Echo);
            }
        }
        if self.held.is_empty() && could_begin(&bytes) == 0 {
            return Ok(bytes);
        }
        self.held.extend_from_slice(&bytes);
        let free = self.held.len().saturating_sub(could_begin(&self.held));
        Ok(self.held.split_to(free).freeze())
    }

    fn rest(&mut self) -> Bytes {
        self.held.split().freeze()
    }
}

/// How many bytes at the end could be the beginning of a form of any secret. Every form is printed ASCII.
fn could_begin(bytes: &[u8]) -> usize {
    bytes.iter().rev().take(FORM_BYTES - 1).take_while(|byte| byte.is_ascii_graphic()).count()
}

/// An answer's body that is broken off before a secret goes through. Trailers are dropped.
pub(super) struct Watched {
    inner: Option<AgentBody>,
    watch: Watch,
    found: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Watched {
    /// Calls `found` when the secret came.
    pub(super) fn new(inner: AgentBody, forms: Arc<Forms>, found: impl FnOnce() + Send + Sync + 'static) -> Self {
        let watch = Watch { forms, state: 0, held: BytesMut::new() };
        Self { inner: Some(inner), watch, found: Some(Box::new(found)) }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BrokenStream;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenStream>>> {
        loop {
            let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
            let Poll::Ready(frame) = Pin::new(inner).poll_frame(cx) else { return Poll::Pending };
            match frame {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    match self.watch.feed(data) {
                        Ok(free) if free.has_remaining() => return Poll::Ready(Some(Ok(Frame::data(free)))),
                        Ok(_) => {}
                        Err(Echo) => {
                            self.inner = None;
                            if let Some(found) = self.found.take() {
                                found();
                            }
                            let cause = "the answer held the credential".to_owned();
                            return Poll::Ready(Some(Err(BrokenStream(cause))));
                        }
                    }
                }
                Some(Err(error)) => {
                    self.inner = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.inner = None;
                    let rest = self.watch.rest();
                    return Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.watch.held.is_empty() && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let held = u64::try_from(self.watch.held.len()).unwrap_or(u64::MAX);
        let inner = self.inner.as_ref().map(Body::size_hint).unwrap_or_else(|| SizeHint::with_exact(0));
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(held));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "ghp_A/b+c\"d=0123456789abcdefghijklmnop";

    fn through(secret: &str, pieces: &[&[u8]]) -> Result<Vec<u8>, ()> {
        let mut watch = Watch { forms: Arc::new(Forms::of(secret)), state: 0, held: BytesMut::new() };
        let mut all = Vec::new();
        for piece in pieces {
            all.extend_from_slice(&watch.feed(Bytes::copy_from_slice(piece)).map_err(|Echo| ())?);
        }
        all.extend_from_slice(&watch.rest());
        Ok(all)
    }

    #[test]
    fn it_is_known_in_every_form_and_at_every_place() {
        let hex: String = SECRET.bytes().map(|b| format!("{b:02x}")).collect();
        let percent: String =
            SECRET
                .bytes()
                .map(|b| {
                    if b.is_ascii_alphanumeric() || b == b'_' { char::from(b).to_string() } else { format!("%{b:02X}") }
                })
                .collect();
        let json = serde_json::json!(SECRET).to_string();
        let mut forms = vec![SECRET.to_owned(), hex.clone(), hex.to_uppercase(), json.replace('/', "\\/"), json];
        forms.extend([percent.replace("%2F", "%2f").replace("%2B", "%2b"), percent]);
        forms.push(SECRET.replace('/', "&#x2F;").replace('+', "&#43;").replace('"', "&quot;"));
        forms.push(SECRET.replace(|c: char| !c.is_ascii_alphanumeric(), "\\u002f"));
        for before in ["", "u", "us", "use", "x-access-token:"] {
            forms.push(STANDARD.encode(format!("{before}{SECRET}")));
            forms.push(URL_SAFE.encode(format!("{before}{SECRET} and more")));
        }
        let watched = Forms::of(SECRET);
        for form in forms {
            let body = format!("{{\"you sent\": \"{form}\"}}");
            assert!(watched.stand_in(body.as_bytes()), "{form}");
            let single: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
            assert_eq!(through(SECRET, &single), Err(()), "{form}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-echo", format!("Bearer {SECRET}").parse().unwrap());
        assert!(watched.stand_in_headers(&headers));
    }

    #[test]
    fn nothing_waits_that_cannot_be_a_beginning() {
        let mut watch = Watch { forms: Arc::new(Forms::of(SECRET)), state: 0, held: BytesMut::new() };
        assert_eq!(watch.feed(Bytes::from_static(b"data: hello\n\n")).ok().unwrap(), "data: hello\n\n");
        assert_eq!(watch.feed(Bytes::from_static(b"data: ghp_")).ok().unwrap(), "data: ");
        assert_eq!(watch.feed(Bytes::from_static(b"x y")).ok().unwrap(), "ghp_x ");
        assert_eq!(watch.feed(Bytes::from_static(&[b'a'; 40])).ok().unwrap().len(), 41 - (FORM_BYTES - 1));
        assert_eq!(watch.rest().len(), FORM_BYTES - 1);
    }

    /// The pieces as the agent gets them; none when the secret was found.
    fn pieces(secret: &str, text: &[u8], cuts: &[usize]) -> Option<Vec<Bytes>> {
        let mut watch = Watch { forms: Arc::new(Forms::of(secret)), state: 0, held: BytesMut::new() };
        let (mut all, mut rest) = (Vec::new(), text);
        for cut in cuts {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            all.push(watch.feed(Bytes::copy_from_slice(piece)).ok()?);
            rest = after;
        }
        all.push(watch.feed(Bytes::copy_from_slice(rest)).ok()?);
        all.push(watch.rest());
        Some(all)
    }

    proptest! {
        /// An agent that has prefixes of what it guesses sent back learns nothing from how the answer is cut.
        #[test]
        fn the_pieces_say_nothing_of_the_secret(
            one in "[!-~]{8,40}", other in "[!-~]{8,40}", noise in "[ -~\\n\u{e9}]{0,40}",
            guessed in 0_usize..30, cuts in proptest::collection::vec(0_usize..12, 0..20)
        ) {
            let guess = &one[..guessed.min(one.len())];
            for text in [format!("{noise}{guess}"), format!("{noise}{guess}{noise}"), format!("{guess}{guess} {noise}")] {
                let text = text.as_bytes();
                if let (Some(with_one), Some(with_other)) = (pieces(&one, text, &cuts), pieces(&other, text, &cuts)) {
                    prop_assert_eq!(&with_one, &with_other);
                    prop_assert_eq!(with_one.concat(), text);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_same_is_found_as_by_a_plain_search(
            text in "[abc]{0,60}", secret in "[abc]{8,30}", cuts in proptest::collection::vec(1_usize..9, 0..20)
        ) {
            let bytes = text.as_bytes();
            let mut pieces = Vec::new();
            let mut at = 0;
            for cut in cuts {
                let end = (at + cut).min(bytes.len());
                pieces.push(&bytes[at..end]);
                at = end;
            }
            pieces.push(&bytes[at..]);
            let plain = forms(secret.as_bytes()).iter().any(|f| bytes.windows(f.len()).any(|w| w == f.as_slice()));
            match through(&secret, &pieces) {
                Ok(all) => { prop_assert!(!plain); prop_assert_eq!(all, bytes); }
                Err(()) => prop_assert!(plain),
            }
        }
    }
}
