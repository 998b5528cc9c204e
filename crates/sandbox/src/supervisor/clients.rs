//! The planes that are connected: usually one, none while the plane restarts, two for a moment after.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
};

use rustix::fs::{Mode, OFlags};

use crate::{
    native::control,
    protocol::{self, Frame, Request, SOCKET},
};

/// Most connections at once; a further one replaces the oldest.
const CLIENTS_MAX: usize = 4;
/// Most bytes that wait for a client that does not read; it is dropped then and may connect again.
const BACKLOG_BYTES_MAX: usize = 1024 * 1024;

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    gone: bool,
}

/// The socket and its connections.
#[derive(Debug)]
pub struct Clients {
    listener: UnixListener,
    connected: Vec<Client>,
}

impl Clients {
    /// Makes the socket in the run directory.
    ///
    /// It is bound through the directory's descriptor: a socket path is at most 108 bytes, a data directory not.
    pub fn listen(run_dir: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(run_dir, flags, Mode::empty())?;
        match rustix::fs::unlinkat(&dir, SOCKET, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        // The umask of this process makes it 0600.
        let listener = UnixListener::bind(protocol::socket_path(dir.as_fd()))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, connected: Vec::new() })
    }

    /// Takes a connection that was made before this process was.
    pub fn adopt(&mut self, fd: OwnedFd) {
        self.add(UnixStream::from(fd));
    }

    fn add(&mut self, stream: UnixStream) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        if self.connected.len() >= CLIENTS_MAX {
            self.connected.remove(0);
        }
        self.connected.push(Client { stream, incoming: Vec::new(), outgoing: Vec::new(), gone: false });
    }

    /// Accepts who waits, if the kernel says it is our own uid. Answers with how many are new.
    pub fn accept(&mut self) -> usize {
        let mut new = 0;
        while let Ok((stream, _)) = self.listener.accept() {
            let peer = rustix::net::sockopt::socket_peercred(&stream);
            if peer.is_ok_and(|peer| peer.uid == rustix::process::geteuid()) {
                self.add(stream);
                new += 1;
            }
        }
        new
    }

    /// The listening socket and every connection, with whether bytes wait to be written to it.
    pub fn watched(&self) -> (BorrowedFd<'_>, Vec<(BorrowedFd<'_>, bool)>) {
        let streams = self.connected.iter().map(|c| (c.stream.as_fd(), !c.outgoing.is_empty())).collect();
        (self.listener.as_fd(), streams)
    }

    /// Whether anyone is connected.
    pub fn any(&self) -> bool {
        self.connected.iter().any(|c| !c.gone)
    }

    /// Reads what has come. Each request is given with the place of its client.
    pub fn requests(&mut self) -> Vec<(usize, Request)> {
        let mut requests = Vec::new();
        for (place, client) in self.connected.iter_mut().enumerate() {
            let mut chunk = [0; 4096];
            loop {
                match client.stream.read(&mut chunk) {
                    Ok(0) => client.gone = true,
                    Ok(n) => {
                        client.incoming.extend_from_slice(chunk.get(..n).unwrap_or_default());
                        if client.incoming.len() < protocol::FRAME_BYTES_MAX {
                            continue;
                        }
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => client.gone = true,
                }
                break;
            }
            loop {
                match protocol::decode::<Request>(&mut client.incoming) {
                    Ok(Some(request)) => requests.push((place, request)),
                    Ok(None) => break,
                    Err(_) => {
                        client.gone = true;
                        break;
                    }
                }
            }
        }
        requests
    }

    /// Sends a frame to one client.
    pub fn send(&mut self, place: usize, frame: &Frame) {
        if let Some(client) = self.connected.get_mut(place) {
            client.send(frame);
        }
    }

    /// Sends a frame to everyone.
    pub fn broadcast(&mut self, frame: &Frame) {
        for client in &mut self.connected {
            client.send(frame);
        }
    }

    /// Sends the first frame and its descriptors to the newest `count` clients.
    pub fn greet(&mut self, count: usize, hello: &Frame, descriptors: &[BorrowedFd<'_>]) {
        let Ok(bytes) = protocol::encode(hello) else { return };
        let skip = self.connected.len().saturating_sub(count);
        for client in self.connected.iter_mut().skip(skip) {
            // The socket is empty, so a frame of this size is taken whole or the client is not worth keeping.
            if control::send_with(client.stream.as_fd(), &bytes, descriptors).is_err() {
                client.gone = true;
            }
        }
    }

    /// Writes what waits, as far as the sockets take it.
    pub fn flush(&mut self) {
        for client in &mut self.connected {
            client.flush();
        }
    }

    /// Forgets who is gone. The places of the others change.
    pub fn forget_gone(&mut self) {
        self.connected.retain(|c| !c.gone);
    }
}

impl Client {
    fn send(&mut self, frame: &Frame) {
        match protocol::encode(frame) {
            Ok(bytes) if self.outgoing.len() + bytes.len() <= BACKLOG_BYTES_MAX => self.outgoing.extend(bytes),
            _ => self.gone = true,
        }
        self.flush();
    }

    fn flush(&mut self) {
        while !self.outgoing.is_empty() && !self.gone {
            match self.stream.write(&self.outgoing) {
                Ok(n) => drop(self.outgoing.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.gone = true,
            }
        }
    }
}
