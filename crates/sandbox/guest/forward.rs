//! Carries bytes between the agent's connections and the three doors.
//!
//! What is carried is never looked at. Memory is bounded by the number of connections; a side that does not read
//! holds up its own connection and no other.
//!
//! Over Unix sockets the end of one direction is carried on as such. The vsock of a machine monitor knows the end of a
//! whole connection only: there, a connection of which the agent has closed its direction lasts until the agent has
//! closed it altogether, which is looked up, or until the plane has answered.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use crate::{
    carrier::{Carrier, DOORS, Door},
    sockets::{self, Connecting},
    sys::{GONE, IN, OUT, PollFd},
};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// Bytes that wait in one direction of one connection.
const BUFFER_BYTES: usize = 16 * 1024;
/// Time after which a door that accepted no more is tried again.
const RETRY: Duration = Duration::from_millis(20);
/// Time between two looks at whether the agent still has its end of a connection that it sends no more on.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Most bytes of the kernel's table of connections; beyond it every one counts as still there.
const TABLE_BYTES_MAX: u64 = 1024 * 1024;

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

    /// Nothing more is read, and what was read is forgotten.
    fn abandon(&mut self) {
        (self.begins, self.ends, self.over) = (0, 0, true);
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
    /// The agent's port, and the one that it has connected to.
    ports: (u16, u16),
    /// Whether the end of one direction can be carried on.
    halves: bool,
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
        let was_over = (self.up.is_over(), self.down.is_over());
        if self.up.step(&self.agent, &self.host, readable(agent)).is_err() {
            // The plane takes no more; what it has answered before is still the agent's.
            self.up.abandon();
        }
        if self.down.step(&self.host, &self.agent, readable(host)).is_err() {
            return false;
        }
        if self.up.is_over() && !was_over.0 && self.halves {
            sockets::end_writing(self.host.as_fd());
        }
        if self.down.is_over() && !was_over.1 {
            sockets::end_writing(self.agent.as_fd());
        }
        // Without halves the end of the plane's direction was the end of both.
        !(self.down.is_over() && (self.up.is_over() || !self.halves))
    }

    /// Whether only the agent's end of the connection says if anyone still waits for the answer.
    fn is_waiting(&self) -> bool {
        !self.halves && !self.connecting && self.up.is_over()
    }
}

/// The connections in the kernel's tables that a process has a descriptor of: the port on its side, and the other.
/// `None` when they cannot be read, or are too long.
fn held_connections() -> Option<Vec<(u16, u16)>> {
    let mut held = Vec::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let mut text = String::new();
        match File::open(table) {
            Ok(file) => file.take(TABLE_BYTES_MAX).read_to_string(&mut text).ok()?,
            // A kernel without IPv6.
            Err(e) if e.kind() == io::ErrorKind::NotFound && table.ends_with('6') => continue,
            Err(_) => return None,
        };
        if text.len() as u64 >= TABLE_BYTES_MAX {
            return None;
        }
        held.extend(text.lines().skip(1).filter_map(held_connection));
    }
    Some(held)
}

/// One line: number, own address, other address, state, queues, timer, retransmissions, uid, timeout, inode.
fn held_connection(line: &str) -> Option<(u16, u16)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
    let (own, other) = (port(fields.next()?)?, port(fields.next()?)?);
    // What nobody has a descriptor of has the inode 0.
    (fields.nth(6)? != "0").then_some((own, other))
}

/// The listeners of the agent and every connection.
#[derive(Debug)]
pub struct Forwarder {
    carrier: Carrier,
    listeners: Vec<(Door, TcpListener)>,
    pairs: Vec<Pair>,
    /// A connection whose door accepted no more, and when it is tried again.
    waiting: Option<(Door, TcpStream, Instant)>,
    /// When it is looked at next whether the agent has still its ends.
    look: Instant,
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
        Ok(Self { carrier, listeners, pairs: Vec::new(), waiting: None, look: Instant::now() })
    }

    /// Adds what is waited for, and says how long at most.
    pub fn watch(&self, fds: &mut Vec<PollFd>) -> Option<Duration> {
        let room = self.waiting.is_none() && self.pairs.len() < CONNECTIONS_MAX;
        for (_, listener) in &self.listeners {
            fds.push(PollFd { fd: if room { listener.as_raw_fd() } else { -1 }, events: IN, revents: 0 });
        }
        fds.extend(self.pairs.iter().flat_map(Pair::interest));
        let look = self.pairs.iter().any(Pair::is_waiting).then_some(self.look);
        let retry = self.waiting.as_ref().map(|(_, _, at)| *at);
        let next = [look, retry].into_iter().flatten().min();
        next.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Takes its turn with the descriptors that [`Self::watch`] added, in the same order.
    pub fn turn(&mut self, ready: &[PollFd]) {
        let (listeners, pairs) = ready.split_at_checked(self.listeners.len()).unwrap_or_default();
        let mut of_pairs = pairs.chunks_exact(2);
        self.pairs.retain_mut(|pair| match of_pairs.next() {
            Some([agent, host]) => pair.turn(agent.revents, host.revents),
            _ => true,
        });
        if self.look <= Instant::now() && self.pairs.iter().any(Pair::is_waiting) {
            self.look = Instant::now() + LOOK_EVERY;
            if let Some(held) = held_connections() {
                self.pairs.retain(|pair| !pair.is_waiting() || held.contains(&pair.ports));
            }
        }
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
                Ok((agent, _)) => self.connect(door, agent),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Without a door the agent's connection is closed, as one that nobody listens for would be.
    fn connect(&mut self, door: Door, agent: TcpStream) {
        match self.carrier.door(door) {
            Ok(Connecting::Begun(host)) => {
                if let (Ok(()), Ok(address)) = (agent.set_nonblocking(true), agent.peer_addr()) {
                    self.pairs.push(Pair {
                        agent: OwnedFd::from(agent).into(),
                        host: host.into(),
                        connecting: true,
                        ports: (address.port(), door.port),
                        halves: self.carrier.has_halves(),
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

    fn carried(agent: File, host: File, halves: bool) -> Pair {
        Pair { agent, host, connecting: true, ports: (1, 2), halves, up: Flow::new(), down: Flow::new() }
    }

    /// Turns until nothing moves any more.
    fn settle(pair: &mut Pair) -> bool {
        for _ in 0..1000 {
            let mut fds = pair.interest();
            if crate::sys::wait(&mut fds, Some(Duration::ZERO)).unwrap() == 0 {
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
        let mut pair = carried(agent, host, true);
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
        let mut pair = carried(agent, host, true);
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
    #[test]
    fn where_there_are_no_halves_the_answer_to_one_that_sends_no_more_still_comes() {
        let ((mut client, agent), (mut plane, host)) = (pair(), pair());
        let mut pair = carried(agent, host, false);
        client.write_all(b"question").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(settle(&mut pair) && pair.is_waiting());
        plane.set_nonblocking(true).unwrap();
        let mut question = [0; 64];
        assert_eq!(plane.read(&mut question).unwrap(), 8);
        assert_eq!(plane.read(&mut question).unwrap_err().kind(), io::ErrorKind::WouldBlock, "no end was carried on");
        plane.write_all(b"answer").unwrap();
        drop(plane);
        assert!(!settle(&mut pair));
        drop(pair);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
    }

    #[test]
    fn an_answer_that_comes_before_all_was_asked_is_carried_whole() {
        let ((mut client, agent), (mut plane, host)) = (pair(), pair());
        let mut pair = carried(agent, host, true);
        plane.write_all(b"too large").unwrap();
        drop(plane);
        client.write_all(&[7; 100_000]).unwrap();
        while settle(&mut pair) {}
        drop(pair);
        let mut answer = Vec::new();
        // The end may be a reset: there is something left that nobody has read.
        let _ = client.read_to_end(&mut answer);
        assert_eq!(answer, b"too large");
    }

    #[test]
    fn a_connection_is_there_as_long_as_a_process_has_it() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ports = (client.local_addr().unwrap().port(), listener.local_addr().unwrap().port());
        let (server, _) = listener.accept().unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(held_connections().unwrap().contains(&ports));
        drop(client);
        assert!(!held_connections().unwrap().contains(&ports));
        drop(server);
        for line in
            ["", "0: x y", "0: 0100007F:XX 0100007F:01 05 a b c d e 7", "0: 0100007F:0102 0100007F:01 05 a b c d"]
        {
            assert_eq!(held_connection(line), None, "{line}");
        }
    }
}
