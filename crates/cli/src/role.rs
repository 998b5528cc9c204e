//! The role `supervise`: this same program as the supervisor of one run.
//!
//! It is no command for people and stands in no help text. The plane starts it as
//! `cogward supervise RUN_DIR` with an empty environment.

use std::{ffi::OsString, path::Path, process::ExitCode};

use crate::exit::Exit;

/// Becomes the supervisor when the arguments say so. Must be called before any thread exists.
pub fn supervise(mut arguments: impl Iterator<Item = OsString>, supervisor: fn(&Path) -> ExitCode) -> Option<ExitCode> {
    if arguments.next()? != "supervise" {
        return None;
    }
    let (Some(run_dir), None) = (arguments.next(), arguments.next()) else {
        return Some(Exit::Usage.into());
    };
    Some(supervisor(Path::new(&run_dir)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_word_makes_a_supervisor() {
        let supervisor = |_: &Path| ExitCode::from(77);
        assert!(supervise(["run", "list"].map(OsString::from).into_iter(), supervisor).is_none());
        assert!(supervise(std::iter::empty(), supervisor).is_none());
        let code = supervise(["supervise", "a"].map(OsString::from).into_iter(), supervisor);
        assert_eq!(format!("{code:?}"), format!("{:?}", Some(ExitCode::from(77))));
        for wrong in [vec!["supervise"], vec!["supervise", "a", "b"]] {
            let code = supervise(wrong.into_iter().map(OsString::from), supervisor);
            assert_eq!(format!("{code:?}"), format!("{:?}", Some(ExitCode::from(2))));
        }
    }
}
