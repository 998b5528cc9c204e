//! Flaws of the kernel whose range a kernel's number is in.
//!
//! A number proves little: distributions carry fixes under numbers of their own. So this is told and refuses nothing;
//! what refuses is what the probes have done.

use serde::{Deserialize, Serialize};

/// A flaw that this kernel may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownBad {
    /// Its name, such as a CVE number.
    pub id: String,
    /// What it is.
    pub what: String,
    /// What the sandbox does about it.
    pub in_sandbox: String,
    /// What to do.
    pub fix: String,
}

type Release = (u32, u32, u32);

struct Flaw {
    id: &'static str,
    what: &'static str,
    in_sandbox: &'static str,
    /// The first release that has it.
    from: Release,
    /// Each branch (major and minor) with the first of its releases that is mended.
    mended: &'static [Release],
    /// The first release of which every later one is mended.
    until: Release,
}

const FLAWS: [Flaw; 1] = [Flaw {
    id: "CVE-2026-31431",
    what: "Copy Fail: through AF_ALG sockets and splice, a process writes into the page cache of files that it may only \
           read",
    in_sandbox: "AF_ALG sockets are off the list of every profile, so agents do not reach it; `hardened` refuses splice \
                 too. Other programs of this host, and containers with usual system-call profiles, do",
    from: (4, 14, 0),
    mended: &[(6, 18, 22), (6, 19, 12)],
    until: (7, 0, 0),
}];

/// What is known of the kernel with that release.
pub fn known_bad(release: &str) -> Vec<KnownBad> {
    let Some(release) = number(release) else { return Vec::new() };
    let has = |flaw: &&Flaw| {
        let branch = flaw.mended.iter().find(|mended| (mended.0, mended.1) == (release.0, release.1));
        release >= flaw.from && release < flaw.until && branch.is_none_or(|mended| release < *mended)
    };
    FLAWS
        .iter()
        .filter(has)
        .map(|flaw| KnownBad {
            id: flaw.id.to_owned(),
            what: flaw.what.to_owned(),
            in_sandbox: flaw.in_sandbox.to_owned(),
            fix: format!(
                "run {}, or ask the vendor of this kernel whether it carries the fix",
                flaw.mended.iter().map(|(a, b, c)| format!("Linux {a}.{b}.{c}")).collect::<Vec<_>>().join(" or ")
            ),
        })
        .collect()
}

/// The numbers of a release such as `6.18.44-generic`.
pub fn number(release: &str) -> Option<Release> {
    let digits = release.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut parts = digits.split('.').map(str::parse::<u32>);
    let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
    Some((major, minor, parts.next().and_then(Result::ok).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_judged_by_its_branch() {
        for (release, bad) in [
            ("6.18.21", true),
            ("6.18.22", false),
            ("6.18.44-fc-v669", false),
            ("6.19.11-generic", true),
            ("6.19.12", false),
            ("6.8.0-110-generic", true),
            ("6.12.30", true),
            ("7.0.0", false),
            ("7.1", false),
            ("4.13.9", false),
            ("no number", false),
        ] {
            assert_eq!(!known_bad(release).is_empty(), bad, "{release}");
        }
    }

    #[test]
    fn what_is_said_of_a_flaw_is_whole() {
        let [flaw] = known_bad("6.18.5").try_into().unwrap();
        assert!(flaw.in_sandbox.contains("AF_ALG") && flaw.fix.contains("6.18.22") && flaw.id.starts_with("CVE-"));
    }
}
