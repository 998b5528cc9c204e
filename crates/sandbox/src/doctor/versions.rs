//! Versions of runtimes that have a known way out or are too old to have fixes. A warning, not a refusal: which fixes a
//! vendor has put into an older version, its number does not tell.

/// Why a runtime of a version should be replaced by a newer one; `None` when nothing is known against it.
pub fn warning(name: &str, version: &str) -> Option<&'static str> {
    match name {
        "runc" => {
            let number = numbers(version)?;
            let fixed = if number < [1, 3, 0] { [1, 2, 8] } else { [1, 3, 3] };
            (number < fixed).then_some(
                "it is older than 1.2.8 or 1.3.3, which closed ways out of a container by what is mounted in it \
                 (CVE-2025-31133, CVE-2025-52565, CVE-2025-52881), unless its vendor has put the fixes in",
            )
        }
        "crun" => (numbers(version)? < [1, 20, 0]).then_some(
            "it is older than 1.20, which closed a way out of a container's root (CVE-2025-24965), unless its vendor has \
             put the fix in",
        ),
        // Its releases are days.
        "runsc" => (day(version)? < 20_250_101).then_some(
            "it is from before 2025, and no fix that gVisor has made since is in it; its systrap platform is newer or not \
             yet its default",
        ),
        _ => None,
    }
}

/// The first three numbers of a version such as `1.1.5+ds1-1`; what is missing is 0.
fn numbers(version: &str) -> Option<[u32; 3]> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let first = parts.next()?.ok()?;
    let mut next = || parts.next().and_then(Result::ok).unwrap_or(0);
    Some([first, next(), next()])
}

/// The day of a version such as `release-20240408.0` or `0.0~20221219.0`.
fn day(version: &str) -> Option<u32> {
    let parts = version.split(|c: char| !c.is_ascii_digit());
    parts.filter(|part| part.len() == 8).find_map(|part| part.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_to_be_too_old_is_said() {
        for (name, version, old) in [
            ("runc", "1.1.5+ds1", true),
            ("runc", "1.2.7", true),
            ("runc", "1.2.8", false),
            ("runc", "1.3.0", true),
            ("runc", "1.3.3", false),
            ("runc", "1.4.0-rc.3", false),
            ("crun", "1.8.1", true),
            ("crun", "1.20", false),
            ("runsc", "0.0~20221219.0", true),
            ("runsc", "release-20250319.0", false),
            // What does not say is not judged.
            ("runsc", "VERSION_MISSING", false),
            ("runc", "unknown", false),
            ("kata", "0.1", false),
        ] {
            assert_eq!(warning(name, version).is_some(), old, "{name} {version}");
        }
    }
}
