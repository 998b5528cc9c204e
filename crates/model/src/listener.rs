//! A listener of a run, as it travels between the crates: a descriptor that says of which family it is.
//!
//! The plane knows a run by the listener that its connections arrive on. Which family it has depends on what carries
//! the sandbox: a TCP socket that was made inside its network namespace, or a Unix socket that was mounted into it.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
};

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// On a port.
    Tcp(TcpListener),
    /// On a path.
    Unix(UnixListener),
}

impl Listener {
    /// Whether accepting from it waits.
    ///
    /// # Errors
    /// What the system answers.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.set_nonblocking(nonblocking),
            Self::Unix(listener) => listener.set_nonblocking(nonblocking),
        }
    }

    /// The address of one on a port.
    ///
    /// # Errors
    /// What the system answers, or that it is not on a port.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Unix(_) => Err(io::Error::from(io::ErrorKind::Unsupported)),
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

impl TryFrom<OwnedFd> for Listener {
    type Error = io::Error;

    /// Asks the descriptor what it is; anything but the two is refused.
    fn try_from(fd: OwnedFd) -> io::Result<Self> {
        let tcp = TcpListener::from(fd);
        if tcp.local_addr().is_ok() {
            return Ok(Self::Tcp(tcp));
        }
        let unix = UnixListener::from(OwnedFd::from(tcp));
        unix.local_addr().map(|_| Self::Unix(unix))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_says_what_it_is() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(matches!(Listener::try_from(OwnedFd::from(tcp)).unwrap(), Listener::Tcp(_)));
        let dir = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(dir.path().join("socket")).unwrap();
        let unix = Listener::try_from(OwnedFd::from(unix)).unwrap();
        assert!(matches!(unix, Listener::Unix(_)) && unix.local_addr().is_err());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Listener::try_from(OwnedFd::from(file)).is_err());
    }
}
