//! Hostile bytes against everything that reads what agents send.
//!
//! Each target takes bytes, checks what it can about the reading of them (often against another reader), and says of
//! what class the outcome was. Inputs are seeds of `fuzz/TARGET.txt`, mutated and spliced; an input with an outcome of
//! a new class becomes a seed. Which inputs are made depends on nothing but the seed of the generator, which is
//! printed; a finding is printed as a line for the seeds. `make fuzz` goes on for as long as wanted.

mod access;
mod documents;
mod memories;
mod mutate;
mod questions;
mod targets;

use std::{
    any::Any,
    collections::HashSet,
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use self::mutate::Mutator;

/// Inputs of one target without further wishes.
const ITERATIONS: u64 = 20_000;
/// Seeds that are kept.
const POOL_MAX: usize = 1_024;
const DEFAULT_SEED: u64 = 0x0c06_3a5d;

/// What is said of one reading: a number for its class.
type Class = u64;

/// How far a target was tried.
#[derive(Debug)]
struct Tried {
    inputs: u64,
    classes: usize,
}

/// An input with which something does not hold.
#[derive(Debug)]
struct Finding {
    input: Vec<u8>,
    said: String,
}

/// When to stop.
enum Until {
    Inputs(u64),
    Over(Instant),
}

fn wishes(iterations: u64) -> (u64, Until) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let seed = number("COGWARD_FUZZ_SEED").unwrap_or(DEFAULT_SEED);
    let until = match number("COGWARD_FUZZ_SECONDS") {
        Some(seconds) => Until::Over(Instant::now() + Duration::from_secs(seconds)),
        None => Until::Inputs(iterations),
    };
    (seed, until)
}

/// The seeds in a file: a text a line, `hex:` before bytes, `#` before a remark.
fn seeds(file: &str) -> Vec<Vec<u8>> {
    let lines = file.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| match line.strip_prefix("hex:") {
            Some(hex) => {
                let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
                digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
            }
            None => line.as_bytes().to_vec(),
        })
        .collect()
}

fn hunt(
    (seed, until): (u64, Until),
    seeds: Vec<Vec<u8>>,
    dictionary: &[&[u8]],
    target: impl Fn(&[u8]) -> Class,
) -> Result<Tried, Finding> {
    let mut mutator = Mutator::new(seed, dictionary);
    let mut pool: Vec<Vec<u8>> = Vec::new();
    let mut classes: HashSet<Class> = HashSet::new();
    let mut inputs = 0;
    let mut given = seeds.into_iter();
    loop {
        let over = match until {
            Until::Inputs(most) => inputs >= most,
            // Looking at the clock costs more than many a target.
            Until::Over(at) => inputs % 256 == 0 && Instant::now() >= at,
        };
        let (input, is_seed) = match given.next() {
            Some(seed) => (seed, true),
            None if over => return Ok(Tried { inputs, classes: classes.len() }),
            None => (mutator.next(&pool), false),
        };
        inputs += 1;
        let class = catch_unwind(AssertUnwindSafe(|| target(&input)))
            .map_err(|panic| Finding { input: input.clone(), said: said(panic.as_ref()) })?;
        if classes.insert(class) || is_seed {
            if pool.len() >= POOL_MAX {
                let place = mutator.below(POOL_MAX);
                pool.swap_remove(place);
            }
            pool.push(input);
        }
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::from("hex:"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Tries a target as far as wished, and fails with what was found.
fn hold(name: &str, file: &str, dictionary: &[&[u8]], target: impl Fn(&[u8]) -> Class) {
    hold_for(ITERATIONS, name, file, dictionary, target);
}

/// Likewise, with a number of inputs of its own.
fn hold_for(iterations: u64, name: &str, file: &str, dictionary: &[&[u8]], target: impl Fn(&[u8]) -> Class) {
    let (seed, until) = wishes(iterations);
    match hunt((seed, until), seeds(file), dictionary, target) {
        Ok(tried) => {
            println!("{name}: {} inputs, {} classes of outcomes, seed {seed}", tried.inputs, tried.classes);
            assert!(tried.classes > 1, "{name}: every input looks alike, so nothing is tried");
        }
        Err(Finding { input, said }) => {
            panic!("{name}, seed {seed}: {said}\ninput, for crates/gateway/fuzz/{name}.txt:\n{}", hex(&input))
        }
    }
}

/// What a target finds in parsers with one mistake each, as they have been seen elsewhere.
fn found_out<P>(file: &str, dictionary: &[&[u8]], mistakes: impl IntoIterator<Item = (&'static str, P)>)
where
    P: Fn(&[u8]) -> Class,
{
    for (mistake, target) in mistakes {
        let found = hunt((7, Until::Inputs(ITERATIONS)), seeds(file), dictionary, target);
        assert!(found.is_err(), "{mistake}: {found:?}");
    }
}

#[test]
fn a_planted_panic_is_found() {
    let target = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        if let Some((host, port)) = text.split_once(':') {
            assert!(port != "0" || host.len() < 3, "planted");
            return 1;
        }
        0
    };
    let found = hunt((7, Until::Inputs(ITERATIONS)), seeds(include_str!("../../fuzz/host.txt")), &[b":0"], target);
    assert_eq!(found.unwrap_err().said, "planted");
}

#[test]
fn the_same_seed_makes_the_same_inputs() {
    let made = |seed| {
        let all = std::cell::RefCell::new(Vec::new());
        let target = |bytes: &[u8]| {
            all.borrow_mut().push(bytes.to_vec());
            bytes.len() as u64
        };
        hunt((seed, Until::Inputs(500)), vec![b"a.example:443".to_vec()], &[], target).unwrap();
        all.into_inner()
    };
    assert_eq!(made(1), made(1));
    assert_ne!(made(1), made(2));
}
