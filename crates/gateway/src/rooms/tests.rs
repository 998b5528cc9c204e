use std::time::Duration;

use futures_util::{FutureExt, future::join_all};
use proptest::prelude::*;

use super::*;

const MIB: usize = 1024 * 1024;

fn name(text: &str) -> TenantName {
    text.parse().unwrap()
}

#[tokio::test]
async fn room_lives_as_long_as_the_last_slice_of_the_bytes() {
    let house = House::new(96 * MIB, 32 * MIB);
    let room = house.of(&name("bank"));
    let whole = room.hold(Bytes::from(vec![7; 10 * MIB])).await;
    let part = whole.slice(5..6);
    drop(whole);
    assert_eq!((room.held(), house.free()), (10 * MIB, 86 * MIB));
    drop(part);
    assert_eq!((room.held(), house.free()), (0, 96 * MIB));
}

#[tokio::test]
async fn a_run_that_is_full_waits_for_itself_and_for_nobody_else() {
    let house = House::new(192 * MIB, 32 * MIB);
    let (greedy, other) = (house.of(&name("bank")), house.of(&name("bank")));
    let first = greedy.take(20 * MIB).await.unwrap();
    assert!(greedy.take(20 * MIB).now_or_never().is_none());
    assert!(greedy.try_take(20 * MIB).is_none());
    assert!(other.take(20 * MIB).now_or_never().is_some());
    drop(first);
    assert!(greedy.take(20 * MIB).now_or_never().is_some());
}

#[tokio::test]
async fn a_tenant_has_at_most_a_third_of_the_plane_however_many_runs_it_starts() {
    let house = House::new(192 * MIB, 32 * MIB);
    let runs: Vec<Room> = (0..8).map(|_| house.of(&name("bank"))).collect();
    let held: Vec<Held> = runs.iter().filter_map(|run| run.try_take(32 * MIB)).collect();
    assert_eq!(held.len(), 2);
    assert_eq!(house.free(), 128 * MIB, "what was asked for in vain holds nothing");
    assert!(house.of(&name("ministry")).take(32 * MIB).now_or_never().is_some());
}

#[tokio::test]
async fn tenants_that_hold_all_they_can_leave_room_for_the_next_one() {
    let house = House::new(512 * MIB, 32 * MIB);
    let mut held = Vec::new();
    for hog in 0..5 {
        let runs: Vec<Room> = (0..64).map(|_| house.of(&name(&format!("hog-{hog}")))).collect();
        for run in &runs {
            while let Some(room) = run.try_take(256 * UNIT) {
                held.push(room);
            }
        }
        let bank = house.of(&name("bank"));
        assert!(bank.take(16 * MIB).now_or_never().is_some(), "with {} tenants that hold what they can", hog + 1);
    }
    drop(held);
    assert_eq!(house.free(), 512 * MIB);
}

#[tokio::test]
async fn a_large_want_is_not_overtaken_without_end_and_leaves_nothing_behind_when_given_up() {
    let house = House::new(96 * MIB, 32 * MIB);
    let (one, two) = (house.of(&name("bank")), house.of(&name("bank")));
    let first = one.take(20 * MIB).await.unwrap();
    let mut large = Box::pin(two.take(24 * MIB));
    assert!(futures_util::poll!(&mut large).is_pending());
    assert!(one.try_take(MIB).is_none() && one.take(MIB).now_or_never().is_none(), "it comes after the large one");
    drop(first);
    let large = large.await.unwrap();
    assert!(one.try_take(MIB).is_some());
    let mut given_up = Box::pin(one.take(16 * MIB));
    assert!(futures_util::poll!(&mut given_up).is_pending());
    drop(given_up);
    drop(large);
    assert_eq!((one.held(), two.held(), house.free()), (0, 0, 96 * MIB));
}

#[tokio::test]
async fn a_small_memory_still_has_room_for_a_run() {
    let house = House::new(0, 32 * MIB);
    assert!(house.of(&name("bank")).take(32 * MIB).now_or_never().is_some());
}

#[tokio::test]
async fn an_answer_takes_the_largest_room_when_it_outgrows_the_small_and_gives_back_the_rest() {
    let house = House::new(192 * MIB, 32 * MIB);
    let room = house.of(&name("bank"));
    let mut growing = room.answer(None).await.unwrap();
    growing.reach(FREE_ANSWER_BYTES_MAX).await.unwrap();
    assert_eq!(room.held(), 0);
    growing.reach(FREE_ANSWER_BYTES_MAX + 1).await.unwrap();
    assert_eq!(room.held(), RESPONSE_BYTES_MAX);
    let held = growing.finish(3 * MIB).await.unwrap();
    assert_eq!((room.held(), house.free()), (3 * MIB, 189 * MIB));
    let known = room.answer(Some(2 * MIB as u64)).await.unwrap();
    assert_eq!(room.held(), 5 * MIB);
    drop((held, known));
    assert_eq!((room.held(), house.free()), (0, 192 * MIB));
}

/// Sixty answers of 15 MB at once, of which two fit: all come through, whatever the order of their reading.
#[tokio::test(start_paused = true)]
async fn answers_that_do_not_fit_together_come_one_after_the_other() {
    let house = Arc::new(House::new(96 * MIB, 32 * MIB));
    let room = house.of(&name("bank"));
    let answers = (0..60_u64).map(|number| {
        let (room, house) = (room.clone(), Arc::clone(&house));
        async move {
            let mut growing = room.answer(None).await.unwrap();
            for part in 1..=15 {
                growing.reach(part * MIB).await.unwrap();
                tokio::time::sleep(Duration::from_millis(number % 7)).await;
            }
            let held = growing.finish(15 * MIB).await;
            assert!(house.free() >= 64 * MIB);
            tokio::time::sleep(Duration::from_millis(number % 11)).await;
            drop(held);
        }
    });
    tokio::time::timeout(Duration::from_secs(60), join_all(answers)).await.unwrap();
    assert_eq!((room.held(), house.free()), (0, 96 * MIB));
}

proptest! {
    /// Whatever is taken, shrunk and given back, nothing is held twice or lost.
    #[test]
    fn what_is_held_adds_up(steps in prop::collection::vec((0_usize..3, 0_usize..40 * MIB, any::<bool>()), 0..40)) {
        let house = House::new(100 * MIB, 32 * MIB);
        let rooms: Vec<Room> = ["a", "a", "b"].iter().map(|tenant| house.of(&name(tenant))).collect();
        let mut held: Vec<Held> = Vec::new();
        for (run, bytes, end) in steps {
            if end { held.pop(); } else if let Some(mut got) = rooms[run].try_take(bytes) { got.shrink(bytes / 2); held.push(got); }
            let all: usize = held.iter().map(|held| held.share.units * UNIT).sum();
            prop_assert_eq!(house.free(), 100 * MIB - all);
            prop_assert!(rooms.iter().all(|room| room.held() <= 32 * MIB));
            prop_assert!(rooms[0].held() + rooms[1].held() <= 100 * MIB / 3);
        }
    }
}
