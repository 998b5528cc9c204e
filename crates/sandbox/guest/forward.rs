//! Carries bytes between the agent's connections and the three doors.
//!
//! What is carried is never looked at. Memory is bounded by the number of connections; a side that does not read
//! holds up its own connection and no other.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use crate::{
    carrier::{Carrier, DOORS, Door},
    sys::{self, Connecting, GONE, IN, OUT, PollFd},
};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// Bytes that wait in one direction of one connection.
const BUFFER_BYTES: usize = 16 * 1024;
/// Time after which a door that accepted no more is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// One direction: what was read and not yet written.
#[derive(Debug)]
pub struct Flow {
    buffer: Vec<u8>,
    begins: usize,
    ends: usize,
    over: bool,
}

impl Flow {
    /// Nothing has been read.
    pub fn new() -> Self {
        Self { buffer: Vec::new(), begins: 0, ends: 0, over: false }
    }

    fn is_empty(&self) -> bool {
        self.begins == self.ends
    }

    /// Whether there is nothing more to read and everything is written.
    pub fn is_over(&self) -> bool {
        self.over && self.is_empty()
    }

    /// Whether it waits for something to read.
    pub fn reads(&self) -> bool {
        !self.over && self.is_empty()
    }

    /// Whether it waits for room to write.
    pub fn writes(&self) -> bool {
        !self.is_empty()
    }

    /// Reads and writes what can be without waiting. Both descriptors must not block.
    pub fn step(&mut self, mut from: &File, mut to: &File, readable: bool) -> io::Result<()> {
        if readable && self.reads() {
            self.buffer.resize(BUFFER_BYTES, 0);
            match from.read(&mut self.buffer) {
                Ok(0) => self.over = true,
                Ok(n) => (self.begins, self.ends) = (0, n),
                Err(e) if is_not_now(&e) => return Ok(()),
                Err(e) => return Err(e),
            }
            if self.is_over() {
                sys::end_writing(to.as_fd());
            }
        }
        while !self.is_empty() {
            match to.write(self.buffer.get(self.begins..self.ends).unwrap_or_default()) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
                Ok(n) => self.begins += n,
                Err(e) if is_not_now(&e) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A connection of the agent and the one that carries it on.
#[derive(Debug)]
struct Pair {
    agent: File,
    host: File,
    /// The host has not accepted yet.
    connecting: bool,
    up: Flow,
    down: Flow,
}

impl Pair {
    fn interest(&self) -> [PollFd; 2] {
        let want = |fd: &File, reads: bool, writes: bool| {
            let events = if reads { IN } else { 0 } | if writes { OUT } else { 0 };
            // A descriptor of which nothing is wanted is left out: its hang-up would wake the loop again and again.
            PollFd { fd: if events == 0 { -1 } else { fd.as_raw_fd() }, events, revents: 0 }
        };
        if self.connecting {
            return [want(&self.agent, false, false), want(&self.host, false, true)];
        }
        [want(&self.agent, self.up.reads(), self.down.writes()), want(&self.host, self.down.reads(), self.up.writes())]
    }

    /// Whether there is more to carry.
    fn turn(&mut self, agent: i16, host: i16) -> bool {
        if self.connecting {
            self.connecting = host == 0;
            return true;
        }
        let readable = |revents: i16| revents & (IN | GONE) != 0;
        self.up.step(&self.agent, &self.host, readable(agent)).is_ok()
            && self.down.step(&self.host, &self.agent, readable(host)).is_ok()
            && !(self.up.is_over() && self.down.is_over())
    }
}

/// The listeners of the agent and every connection.
#[derive(Debug)]
pub struct Forwarder {
    carrier: Carrier,
    listeners: Vec<(Door, TcpListener)>,
    pairs: Vec<Pair>,
    /// A connection whose door accepted no more, and when it is tried again.
    waiting: Option<(Door, OwnedFd, Instant)>,
}

impl Forwarder {
    /// Listens for the agent.
    pub fn listen(carrier: Carrier) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for door in DOORS {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, door.port))?;
            listener.set_nonblocking(true)?;
            listeners.push((door, listener));
        }
        Ok(Self { carrier, listeners, pairs: Vec::new(), waiting: None })
    }

    /// Adds what is waited for, and says how long at most.
    pub fn watch(&self, fds: &mut Vec<PollFd>) -> Option<Duration> {
        let room = self.waiting.is_none() && self.pairs.len() < CONNECTIONS_MAX;
        for (_, listener) in &self.listeners {
            fds.push(PollFd { fd: if room { listener.as_raw_fd() } else { -1 }, events: IN, revents: 0 });
        }
        fds.extend(self.pairs.iter().flat_map(Pair::interest));
        self.waiting.as_ref().map(|(_, _, at)| at.saturating_duration_since(Instant::now()))
    }

    /// Takes its turn with the descriptors that [`Self::watch`] added, in the same order.
    pub fn turn(&mut self, ready: &[PollFd]) {
        let (listeners, pairs) = ready.split_at_checked(self.listeners.len()).unwrap_or_default();
        let mut of_pairs = pairs.chunks_exact(2);
        self.pairs.retain_mut(|pair| match of_pairs.next() {
            Some([agent, host]) => pair.turn(agent.revents, host.revents),
            _ => true,
        });
        if let Some((door, agent, _)) = self.waiting.take_if(|(_, _, at)| Instant::now() >= *at) {
            self.connect(door, agent);
        }
        for place in 0..listeners.len() {
            if listeners.get(place).is_some_and(|fd| fd.revents != 0) {
                self.accept(place);
            }
        }
    }

    fn accept(&mut self, place: usize) {
        while self.waiting.is_none() && self.pairs.len() < CONNECTIONS_MAX {
            let Some((door, listener)) = self.listeners.get(place) else { return };
            let (door, accepted) = (*door, listener.accept());
            match accepted {
                Ok((agent, _)) => self.connect(door, agent.into()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Without a door the agent's connection is closed, as one that nobody listens for would be.
    fn connect(&mut self, door: Door, agent: OwnedFd) {
        match self.carrier.door(door) {
            Ok(Connecting::Begun(host)) => {
                if sys::set_nonblocking(agent.as_fd()).is_ok() {
                    self.pairs.push(Pair {
                        agent: agent.into(),
                        host: host.into(),
                        connecting: true,
                        up: Flow::new(),
                        down: Flow::new(),
                    });
                }
            }
            Ok(Connecting::Busy) => self.waiting = Some((door, agent, Instant::now() + RETRY)),
            Err(_) => {}
        }
    }

    /// Whether everything that the agent has sent is on its way, once there is no agent any more.
    pub fn is_sent(&self) -> bool {
        self.waiting.is_none() && self.pairs.iter().all(|pair| pair.up.is_over())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (UnixStream, File) {
        let (a, b) = UnixStream::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        (a, File::from(OwnedFd::from(b)))
    }

    /// Turns until nothing moves any more.
    fn settle(pair: &mut Pair) -> bool {
        for _ in 0..1000 {
            let mut fds = pair.interest();
            if sys::wait(&mut fds, Some(Duration::ZERO)).unwrap() == 0 {
                return true;
            }
            let [agent, host] = fds;
            if !pair.turn(agent.revents, host.revents) {
                return false;
            }
        }
        panic!("it turns for ever");
    }

    #[test]
    fn the_end_of_one_direction_leaves_the_other_open() {
        let ((mut client, agent), (mut plane, host)) = (pair(), pair());
        let mut pair = Pair { agent, host, connecting: true, up: Flow::new(), down: Flow::new() };
        client.write_all(b"question").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(settle(&mut pair));
        let mut question = String::new();
        plane.read_to_string(&mut question).unwrap();
        plane.write_all(b"answer").unwrap();
        assert!(settle(&mut pair));
        drop(plane);
        assert!(!settle(&mut pair));
        drop(pair);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
    }

    #[test]
    fn a_side_that_does_not_read_costs_one_buffer_and_no_turns() {
        let ((client, agent), (plane, host)) = (pair(), pair());
        client.set_nonblocking(true).unwrap();
        let mut pair = Pair { agent, host, connecting: false, up: Flow::new(), down: Flow::new() };
        let mut sent = 0;
        for _ in 0..200 {
            while let Ok(n) = (&client).write(&[7; 4096]) {
                sent += n;
            }
            assert!(settle(&mut pair));
        }
        assert!(sent > BUFFER_BYTES && pair.up.buffer.len() == BUFFER_BYTES);
        // The writer goes; what it wrote still arrives, whole.
        drop(client);
        assert!(settle(&mut pair));
        plane.set_nonblocking(true).unwrap();
        let (mut received, mut chunk) = (0, [0; 8192]);
        while received < sent {
            match (&plane).read(&mut chunk) {
                Ok(0) => panic!("cut short"),
                Ok(n) => received += n,
                Err(_) => _ = settle(&mut pair),
            }
        }
        assert_eq!(received, sent);
    }
}
