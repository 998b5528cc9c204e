//! The role `supervise`: this same program as the supervisor of one run.
//!
//! It is no command for people and stands in no help text. The plane starts it as
//! `cogward supervise RUN_DIR` with an empty environment.

use std::{ffi::OsString, path::Path, process::ExitCode};

use crate::exit::Exit;

/// Becomes the supervisor when the arguments say so. Must be called before any thread exists.
pub fn supervise(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if arguments.next()? != "supervise" {
        return None;
    }
    let (Some(run_dir), None) = (arguments.next(), arguments.next()) else {
        return Some(Exit::Usage.into());
    };
    Some(cogward_sandbox::supervisor_main(Path::new(&run_dir)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_word_makes_a_supervisor() {
        assert!(supervise(["run", "list"].map(OsString::from).into_iter()).is_none());
        assert!(supervise(std::iter::empty()).is_none());
        for wrong in [vec!["supervise"], vec!["supervise", "a", "b"]] {
            let code = supervise(wrong.into_iter().map(OsString::from));
            assert_eq!(format!("{code:?}"), format!("{:?}", Some(ExitCode::from(2))));
        }
    }
}
