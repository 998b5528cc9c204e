//! What an image of its own keeps from an agent of where its package comes from. Tried where packages come from images.

use super::{Attack, python, shell};

/// The technique.
pub const TECHNIQUE: &str = "package";

/// The attacks.
#[rustfmt::skip]
pub const ATTACKS: &[Attack] = &[
    shell("package.host-path", "find the plane's directories in the table of mounts", "grep -F HOST-DIRECTORY /proc/self/mountinfo"),
    shell("package.host-path-mounts", "find the plane's directories in the list of mounts", "grep -F HOST-DIRECTORY /proc/self/mounts"),
    shell("package.host-path-stats", "find the plane's directories in the statistics of mounts", "grep -F HOST-DIRECTORY /proc/self/mountstats"),
    shell("package.host-files", "share files, and their pages, with the host", "grep ' /app ' /proc/self/mountinfo | grep -v ' - erofs '"),
    shell("package.image", "read the image that the package comes from", "f=$(sed -n 's/.* \\/app .* - erofs \\([^ ]*\\) .*/\\1/p' /proc/self/mountinfo) && test -n \"$f\" && head -c 2048 \"$f\" > /work/image && test -s /work/image"),
    shell("package.write", "write into the package", "echo x > /app/written"),
    shell("package.remount", "make the package writable", "mount -o remount,rw /app"),
    python("package.another-device", "find the package on the file system of the host's programs", "found([d for d in ['/app'] if os.stat(d).st_dev == os.stat('/usr').st_dev])", &[]),
    python("package.host-path-from-python", "find the plane's directories in the table of mounts", "found([l for l in open('/proc/self/mountinfo') if 'HOST-DIRECTORY' in l])", &[]),
];

#[cfg(test)]
mod tests {
    use super::{
        super::{HOST, Means},
        *,
    };

    #[test]
    fn they_name_the_host_as_it_is_replaced() {
        let named = |text: &str| text.contains(HOST);
        let tried = ATTACKS
            .iter()
            .filter(|attack| matches!(attack.means, Means::Shell(text) | Means::Python(text) if named(text)));
        assert_eq!(tried.count(), 4);
        assert!(ATTACKS.iter().all(|attack| attack.technique() == TECHNIQUE));
    }
}
