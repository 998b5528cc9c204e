use std::thread;

use cogward_model::{Id, SystemClock, SystemEntropy};
use proptest::prelude::*;

use super::*;

fn who() -> Who {
    Who {
        tenant: TenantName::default_tenant(),
        run: Id::new(&SystemClock, &SystemEntropy),
        user: Some("ada".into()),
        agent: "reader".parse().unwrap(),
    }
}

fn tracker(key: &str, per: Per) -> Tracker {
    Tracker { key: key.into(), per, within: None, completed: false }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_unix_micros(millis * 1_000)
}

/// Admits when at most `max` are counted.
fn take(history: &History, who: &Who, tracker: &Tracker, max: i64) -> Option<Added> {
    let decided = history.step(who, at(1), |step| {
        (step.value(tracker, 1) <= max).then(|| step.add(vec![(tracker.clone(), 1)]).unwrap())
    });
    decided.unwrap()
}

fn value(history: &History, who: &Who, tracker: &Tracker) -> i64 {
    history.step(who, at(1), |step| step.value(tracker, 0)).unwrap()
}

#[test]
fn of_many_at_once_exactly_the_limit_is_let_through() {
    for per in [Per::Run, Per::User, Per::Agent, Per::Tenant] {
        let (history, who, tracker) = (History::default(), who(), tracker("t", per));
        let admitted: usize = thread::scope(|scope| {
            let tasks: Vec<_> =
                (0..64).map(|_| scope.spawn(|| usize::from(take(&history, &who, &tracker, 5).is_some()))).collect();
            tasks.into_iter().map(|task| task.join().unwrap()).sum()
        });
        assert_eq!(admitted, 5, "{per:?}");
    }
}

#[test]
fn each_counts_for_its_own() {
    let history = History::default();
    let (first, other_run) = (who(), who());
    let other_user = Who { user: Some("bob".into()), ..who() };
    let nobody = Who { user: None, ..who() };
    let elsewhere = Who { tenant: "acme".parse().unwrap(), ..who() };
    for (per, sees) in [
        (Per::Run, [1, 0, 0, 0, 0]),
        (Per::User, [1, 1, 0, 0, 0]),
        (Per::Agent, [1, 1, 1, 1, 0]),
        (Per::Tenant, [1, 1, 1, 1, 0]),
    ] {
        let tracker = tracker(&format!("{per:?}"), per);
        take(&history, &first, &tracker, 1).unwrap();
        let seen = [&first, &other_run, &other_user, &nobody, &elsewhere].map(|who| value(&history, who, &tracker));
        assert_eq!(seen, sees, "{per:?}");
    }
}

#[test]
fn a_run_that_acts_for_nobody_counts_for_itself() {
    let (history, tracker) = (History::default(), tracker("t", Per::User));
    let nobody = Who { user: None, ..who() };
    take(&history, &nobody, &tracker, 1).unwrap();
    assert!(take(&history, &nobody, &tracker, 1).is_none());
    assert!(take(&history, &Who { user: None, ..who() }, &tracker, 1).is_some());
}

#[test]
fn what_had_no_effect_is_given_back_and_what_may_have_had_one_is_not() {
    let (history, who, tracker) = (History::default(), who(), tracker("t", Per::User));
    let first = take(&history, &who, &tracker, 1).unwrap();
    assert!(take(&history, &who, &tracker, 1).is_none(), "in flight counts");
    history.ended(&who, &first, Ended::WithoutEffect, at(2));
    let second = take(&history, &who, &tracker, 1).unwrap();
    history.ended(&who, &second, Ended::Otherwise, at(3));
    assert!(take(&history, &who, &tracker, 1).is_none());
    history.take_back(&who, second);
    assert!(take(&history, &who, &tracker, 1).is_some());
}

#[test]
fn only_after_counts_what_ended_well_and_not_before() {
    let (history, who) = (History::default(), who());
    let tracker = Tracker { completed: true, ..tracker("t", Per::Run) };
    let admit = || history.step(&who, at(1), |step| step.add(vec![(tracker.clone(), 1)])).unwrap().unwrap();
    let (failed, well) = (admit(), admit());
    assert_eq!(value(&history, &who, &tracker), 0, "in flight does not count");
    history.ended(&who, &failed, Ended::Otherwise, at(2));
    assert_eq!(value(&history, &who, &tracker), 0);
    history.ended(&who, &well, Ended::Well, at(2));
    assert_eq!(value(&history, &who, &tracker), 1);
}

#[test]
fn memory_is_bounded_and_what_does_not_fit_is_not_let_through() {
    let (history, mine) = (History::default(), who());
    let windowed = Tracker { within: Some(Duration::from_secs(1)), ..tracker("w", Per::User) };
    let user = |n: usize| Who { user: Some(format!("u{n}").into()), ..mine.clone() };
    // Each user takes one place and one sum.
    for n in 0..KEPT_MAX / 2 {
        history.step(&user(n), at(1), |step| step.add(vec![(windowed.clone(), 1)])).unwrap().unwrap();
    }
    let two = vec![(tracker("a", Per::Run), 1), (windowed.clone(), 1)];
    let full = history.step(&user(KEPT_MAX), at(1), |step| (step.add(two.clone()).err(), step.has_room_for_labels()));
    assert_eq!(full.unwrap(), (Some(HistoryError::Full), false));
    assert_eq!(value(&history, &user(0), &windowed), 1, "nothing is forgotten to make room");
    // What is out of its window makes room.
    let later = history.step(&user(KEPT_MAX), at(10_000), |step| (step.add(two).is_ok(), step.has_room_for_labels()));
    assert_eq!(later.unwrap(), (true, true));
}

#[test]
fn labels_stay_with_the_run() {
    let (history, mine) = (History::default(), who());
    history.reads(&mine, &["personal".to_owned()]);
    history.reads(&mine, &["medical".to_owned()]);
    let labels = |who: &Who| history.step(who, at(1), |step| step.labels().len()).unwrap();
    assert_eq!((labels(&mine), labels(&who())), (2, 0));
    history.forget_run(&mine.tenant, mine.run);
    assert_eq!(labels(&mine), 0);
}

#[test]
fn a_history_that_was_lost_answers_nothing() {
    let (history, who) = (History::default(), who());
    history.lose(&who.tenant);
    assert_eq!(history.step(&who, at(1), |_| ()), Err(HistoryError::Unknown));
    let elsewhere = Who { tenant: "acme".parse().unwrap(), ..who };
    assert_eq!(history.step(&elsewhere, at(1), |_| ()), Ok(()));
}

#[test]
fn a_clock_that_goes_back_frees_nothing() {
    let (history, who) = (History::default(), who());
    let tracker = Tracker { within: Some(Duration::from_secs(60)), ..tracker("t", Per::Run) };
    let book = |time| history.book(&who, vec![(tracker.clone(), 1)], at(time)).unwrap();
    book(100_000);
    book(1);
    assert_eq!(history.step(&who, at(5), |step| step.value(&tracker, 0)), Ok(2));
}

proptest! {
    /// However calls begin and end, what is let through and not given back stays within the limit.
    #[test]
    fn a_limit_holds(steps in prop::collection::vec((0_u8..4, 0_usize..8), 1..200), max in 0_i64..6) {
        let (history, who, tracker) = (History::default(), who(), tracker("t", Per::Agent));
        let (mut open, mut done) = (Vec::new(), 0_i64);
        for (what, which) in steps {
            match what {
                0 | 1 => open.extend(take(&history, &who, &tracker, max)),
                _ if open.is_empty() => {}
                2 => {
                    let added = open.remove(which % open.len());
                    history.ended(&who, &added, Ended::WithoutEffect, at(1));
                }
                _ => {
                    let added = open.remove(which % open.len());
                    history.ended(&who, &added, Ended::Well, at(1));
                    done += 1;
                }
            }
            prop_assert!(open.len() as i64 + done <= max.max(0));
            prop_assert_eq!(value(&history, &who, &tracker), open.len() as i64 + done);
        }
    }
}
