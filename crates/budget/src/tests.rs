use std::{sync::Arc, thread};

use proptest::prelude::*;

use super::*;

fn tokens(tokens: u64) -> Amounts {
    Amounts { tokens, ..Amounts::default() }
}

fn scopes(names: &[&str]) -> Arc<[Scope]> {
    names.iter().map(|n| Scope::from_record(n)).collect()
}

#[test]
fn a_refused_scope_holds_nothing_on_the_others() {
    let budgets = Budgets::new();
    let both = scopes(&["run:a", "agent:t/x"]);
    budgets.open(both[0].clone(), tokens(100));
    budgets.open(both[1].clone(), tokens(10));
    let error = budgets.reserve(&both, tokens(50)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the agent budget of tokens is 10: 0 used, 0 held by calls in flight, and this call may need 50"
    );
    assert_eq!(budgets.balance(&both[0]).held, Amounts::default());
}

#[test]
fn a_scope_without_a_limit_refuses() {
    let budgets = Budgets::new();
    let scope = scopes(&["run:a"]);
    budgets.charge(&scope[0], tokens(1));
    assert!(matches!(budgets.reserve(&scope, tokens(1)), Err(ReserveError::UnknownScope(_))));
}

#[test]
fn an_exhausted_part_does_not_stop_calls_that_do_not_use_it() {
    let budgets = Budgets::new();
    let scope = scopes(&["run:a"]);
    budgets.open(scope[0].clone(), Amounts { tokens: 5, tool_calls: 1, ..Amounts::default() });
    let held = budgets.reserve(&scope, tokens(5)).unwrap();
    budgets.settle(held, tokens(5));
    assert!(budgets.reserve(&scope, Amounts { tool_calls: 1, ..Amounts::default() }).is_ok());
    assert!(budgets.reserve(&scope, tokens(1)).is_err());
}

#[test]
fn no_interleaving_of_threads_overspends() {
    let budgets = Arc::new(Budgets::new());
    let scope = scopes(&["run:a"]);
    budgets.open(scope[0].clone(), tokens(1_000));
    let granted: u64 = thread::scope(|threads| {
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let (budgets, scope) = (Arc::clone(&budgets), Arc::clone(&scope));
                threads.spawn(move || {
                    let mut granted = 0;
                    for _ in 0..500 {
                        if let Ok(held) = budgets.reserve(&scope, tokens(7)) {
                            granted += 7;
                            budgets.settle(held, tokens(7));
                        }
                    }
                    granted
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().unwrap()).sum()
    });
    assert_eq!(granted, 994, "142 calls of 7 fit into 1,000, and not one more");
    assert_eq!(budgets.balance(&scope[0]).used, tokens(994));
}

proptest! {
    /// Whatever calls come, whatever they settle at within their worst case, a limit is never passed.
    #[test]
    fn used_and_held_stay_within_the_limit(limit in 0_u64..10_000, calls in prop::collection::vec((0_u64..2_000, 0_u64..2_000, any::<bool>()), 0..60)) {
        let budgets = Budgets::new();
        let scope = scopes(&["run:a"]);
        budgets.open(scope[0].clone(), tokens(limit));
        let mut in_flight = Vec::new();
        for (worst, actual, wait) in calls {
            if let Ok(held) = budgets.reserve(&scope, tokens(worst)) {
                if wait { in_flight.push(held) } else { budgets.settle(held, tokens(actual.min(worst))) }
            }
            let balance = budgets.balance(&scope[0]);
            prop_assert!(balance.used.tokens + balance.held.tokens <= limit);
        }
        for held in in_flight {
            let worst = held.amounts();
            budgets.settle(held, worst);
        }
        let balance = budgets.balance(&scope[0]);
        prop_assert_eq!(balance.held, Amounts::default());
        prop_assert!(balance.used.tokens <= limit);
    }
}
