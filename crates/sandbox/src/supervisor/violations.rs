//! What was refused, counted by kind; see [`cogward_model::violation`].

pub use cogward_model::violation::Tally as Violations;

#[cfg(test)]
mod tests {
    use cogward_model::violation::{CLASSES, SECCOMP, Severity, severity};

    use crate::native::{seccomp, syscalls};

    fn name(number: i64) -> String {
        seccomp::name(i32::try_from(number).unwrap())
    }

    #[test]
    fn what_standard_lets_through_is_no_attack_in_hardened() {
        for number in syscalls::NOT_IN_HARDENED {
            assert_eq!(severity(SECCOMP, "deny", &name(*number)), Severity::Info, "{}", name(*number));
        }
    }

    #[test]
    fn the_table_of_severities_speaks_of_calls_that_exist() {
        let lists = [syscalls::ALLOWED, syscalls::ALLOWED_HERE, syscalls::NAMED, syscalls::NAMED_HERE];
        let known: Vec<&str> = lists.into_iter().flatten().map(|(_, name)| *name).collect();
        for class in CLASSES.iter().filter(|class| class.layer == SECCOMP) {
            for object in class.of {
                let call = object.split(':').next().unwrap();
                let elsewhere = ["iopl", "ioperm", "mknod", "inotify_init", "sync_file_range"].contains(&call);
                assert!(known.contains(&call) || (cfg!(not(target_arch = "x86_64")) && elsewhere), "{object}");
            }
        }
    }
}
