//! Sockets and interfaces, as far as the standard library does not have them, each call with the proof that it is
//! sound. Declared as in `sys.rs`.
#![expect(unsafe_code, reason = "the standard library has no vsock and no interfaces")]

use std::{
    ffi::{CStr, c_int, c_uint, c_ulong, c_void},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use crate::sys::{CLOSE_ON_EXEC, NONBLOCK, done, owned};

/// `struct ifreq`.
#[repr(C, align(8))]
struct InterfaceRequest {
    name: [u8; 16],
    value: [u8; 24],
}

/// `struct sockaddr_vm`.
#[repr(C)]
struct VsockAddress {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    zero: [u8; 4],
}

/// `struct sockaddr_un`.
#[repr(C)]
struct UnixAddress {
    family: u16,
    path: [u8; 108],
}

/// `struct sockaddr_in`.
#[repr(C)]
struct Ipv4Address {
    family: u16,
    port: [u8; 2],
    address: [u8; 4],
    zero: [u8; 8],
}

unsafe extern "C" {
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn connect(fd: c_int, address: *const c_void, length: c_uint) -> c_int;
    fn shutdown(fd: c_int, how: c_int) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
}

/// `ENETUNREACH`
pub const NET_UNREACHABLE: i32 = 101;
/// `EHOSTUNREACH`
pub const HOST_UNREACHABLE: i32 = 113;

const UNIX: u16 = 1;
const INET: u16 = 2;
const VSOCK: u16 = 40;
const STREAM: c_int = 1;
const DATAGRAM: c_int = 2;

/// What became of a connection that is not waited for.
#[derive(Debug)]
pub enum Connecting {
    /// It is there, or will be once the descriptor can be written to.
    Begun(OwnedFd),
    /// The other side accepts no more for now.
    Busy,
}

/// Connects to a port of the machine below this one.
pub fn connect_vsock(cid: u32, port: u32, wait: bool) -> io::Result<Connecting> {
    let address = VsockAddress { family: VSOCK, reserved: 0, port, cid, zero: [0; 4] };
    connect_to(VSOCK, &address, size_of::<VsockAddress>(), wait)
}

/// Connects to a Unix socket.
pub fn connect_unix(path: &str, wait: bool) -> io::Result<Connecting> {
    let mut address = UnixAddress { family: UNIX, path: [0; 108] };
    if path.len() >= address.path.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in address.path.iter_mut().zip(path.bytes()) {
        *to = from;
    }
    connect_to(UNIX, &address, size_of::<UnixAddress>(), wait)
}

/// `T` is one of the address types of this file, whose size is passed.
fn connect_to<T>(family: u16, address: &T, length: usize, wait: bool) -> io::Result<Connecting> {
    let kind = STREAM | CLOSE_ON_EXEC | if wait { 0 } else { NONBLOCK };
    // SAFETY: takes integers.
    let fd = owned(unsafe { socket(family.into(), kind, 0) })?;
    let length = c_uint::try_from(length).unwrap_or_default();
    // SAFETY: the address is a whole one of its family, of the size that is passed, and outlives the call.
    match done(unsafe { connect(fd.as_raw_fd(), std::ptr::from_ref(address).cast(), length) }) {
        Ok(()) => Ok(Connecting::Begun(fd)),
        Err(e) if e.raw_os_error() == Some(IN_PROGRESS) => Ok(Connecting::Begun(fd)),
        Err(e) if e.raw_os_error() == Some(AGAIN) => Ok(Connecting::Busy),
        Err(e) => Err(e),
    }
}

const AGAIN: i32 = 11;
const IN_PROGRESS: i32 = 115;

/// What the kernel answers to a connection to an address of IPv4, without waiting for it.
pub fn connect_answer(address: [u8; 4], port: u16) -> io::Result<()> {
    // SAFETY: takes integers.
    let fd = owned(unsafe { socket(INET.into(), STREAM | CLOSE_ON_EXEC | NONBLOCK, 0) })?;
    let address = Ipv4Address { family: INET, port: port.to_be_bytes(), address, zero: [0; 8] };
    // SAFETY: the address is a whole `struct sockaddr_in` of the size that is passed, and outlives the call.
    done(unsafe { connect(fd.as_raw_fd(), (&raw const address).cast(), size_of::<Ipv4Address>() as c_uint) })
}

/// Says that nothing more will be written.
pub fn end_writing(fd: BorrowedFd<'_>) {
    // SAFETY: takes integers; 1 is SHUT_WR. A descriptor that is no socket is refused, and is closed later.
    let _ = unsafe { shutdown(fd.as_raw_fd(), 1) };
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
}

fn interface_request(fd: BorrowedFd<'_>, request: c_ulong, with: &mut InterfaceRequest) -> io::Result<()> {
    // SAFETY: the requests of the callers read and write one `struct ifreq`, which outlives the call.
    done(unsafe { ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(with)) })
}

fn any_socket() -> io::Result<OwnedFd> {
    // SAFETY: takes integers.
    owned(unsafe { socket(INET.into(), DATAGRAM | CLOSE_ON_EXEC, 0) })
}

fn flags_of(value: [u8; 24]) -> u16 {
    let [a, b, ..] = value;
    u16::from_ne_bytes([a, b])
}

/// The interfaces of this network namespace.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let socket = any_socket()?;
    let mut found = Vec::new();
    for index in 1..=256_i32 {
        let mut request = InterfaceRequest { name: [0; 16], value: [0; 24] };
        for (to, from) in request.value.iter_mut().zip(index.to_ne_bytes()) {
            *to = from;
        }
        // SIOCGIFNAME
        if interface_request(socket.as_fd(), 0x8910, &mut request).is_err() {
            continue;
        }
        let name = request.name;
        let mut request = InterfaceRequest { name, value: [0; 24] };
        // SIOCGIFFLAGS
        interface_request(socket.as_fd(), 0x8913, &mut request)?;
        let name = CStr::from_bytes_until_nul(&name).map(CStr::to_string_lossy).unwrap_or_default().into_owned();
        found.push(Interface { name, up: flags_of(request.value) & 1 != 0 });
    }
    Ok(found)
}

/// Brings the loopback interface up.
pub fn loopback_up() -> io::Result<()> {
    let socket = any_socket()?;
    let mut request = InterfaceRequest { name: [0; 16], value: [0; 24] };
    for (to, from) in request.name.iter_mut().zip(*b"lo") {
        *to = from;
    }
    // IFF_UP and IFF_RUNNING
    for (to, from) in request.value.iter_mut().zip(0x41_u16.to_ne_bytes()) {
        *to = from;
    }
    // SIOCSIFFLAGS
    interface_request(socket.as_fd(), 0x8914, &mut request)
}
