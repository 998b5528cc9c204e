//! A block device of a file.
#![expect(unsafe_code, reason = "the loop devices' two ioctls have no safe wrapper")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use nix::libc;
use rustix::fs::{Mode, OFlags};

const LOOP_CTL_GET_FREE: u64 = 0x4C82;
const LOOP_CONFIGURE: u64 = 0x4C0A;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;
/// Between the question for a free device and its use, somebody else may take it.
const ATTEMPTS: u32 = 64;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// Attaches a file to a free device, and names it. It is detached when the last that uses it closes it, whatever
/// happens to us.
pub fn attach(file: BorrowedFd<'_>) -> io::Result<(OwnedFd, String)> {
    attach_with(file, OFlags::RDWR, 0)
}

/// The same of a file that is never written to.
pub fn attach_read_only(file: BorrowedFd<'_>) -> io::Result<(OwnedFd, String)> {
    attach_with(file, OFlags::RDONLY, READ_ONLY)
}

fn attach_with(file: BorrowedFd<'_>, access: OFlags, more: u32) -> io::Result<(OwnedFd, String)> {
    let flags = access | OFlags::CLOEXEC;
    let control = rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let fd = u32::try_from(file.as_raw_fd()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    for _ in 0..ATTEMPTS {
        // SAFETY: takes no argument beyond the request.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _, 0) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let name = format!("/dev/loop{number}");
        let device = rustix::fs::open(&name, flags, Mode::empty())?;
        // SAFETY: a `Config` of zeroes is a valid value: it is plain integers and arrays of them.
        let mut config: Config = unsafe { std::mem::zeroed() };
        config.fd = fd;
        config.info.flags = AUTOCLEAR | DIRECT_IO | more;
        // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which is what `Config` is (its size is checked in
        // the tests) and which outlives the call. The descriptor in it is open: it is borrowed.
        let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, std::ptr::from_ref(&config)) };
        if done == 0 {
            return Ok((device, name));
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EBUSY) => {}
            error => return Err(error),
        }
    }
    Err(io::Error::from(io::ErrorKind::ResourceBusy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_as_large_as_the_kernel_reads() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
    }
}
