//! Arguments of the tools of memory: whatever they say, only the run's own is reached, within the bounds.

use std::sync::Arc;

use cogward_memory::{
    Embedding, Filter, Item, Memory, MemoryOptions, MemoryStore, Owner, Pending, Quota, Space, StoreError, Subject,
    Usage, Whose, tools,
};
use cogward_model::{
    Id, SystemClock, SystemEntropy, Timestamp,
    id::MemoryId,
    memory::{MemoryQuota, MemoryScope},
};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use super::{Class, ITERATIONS, found_out, hold_for, targets::class};
use crate::json;

const WORDS: &[&[u8]] = &[
    b"\"tenant\":\"other\",",
    b"\"user\":\"bob\",",
    b"\"subject\":\"bob\",",
    b"\"filter\":{},",
    b"\"id\":\"mem_00000000000000000000000000\"",
    b"\"limit\":99999999999999999999",
    b"\"ttl_seconds\":-1",
    b"\"embedding\":[1e39,0]",
    b"\"embedding\":[0,0]",
    b"\"tags\":[\"\"]",
    b"\"cursor\":\"0\"",
    b"' OR 1=1 --",
    b"\"*\" NEAR",
];
/// What each tool takes, as the guide has it.
const TAKES: [(&str, &[&str]); 5] = [
    ("remember", &["text", "kind", "tags", "ttl_seconds", "embedding", "id"]),
    ("recall", &["query", "embedding", "kind", "tags", "limit"]),
    ("read", &["id"]),
    ("list", &["kind", "tags", "limit", "cursor"]),
    ("forget", &["id"]),
];

/// A store that is asked for one owner and no other, within the bounds.
#[derive(Debug)]
struct Strict(Owner);

impl Strict {
    fn asked(&self, owner: &Owner, filter: Option<&Filter>, limit: usize) {
        assert_eq!(*owner, self.0, "it is asked for somebody else");
        assert!(limit <= 1_000, "{limit}");
        let words = filter.iter().flat_map(|filter| filter.tags.iter().chain(&filter.kind));
        assert!(words.into_iter().all(|word| (1..=64).contains(&word.len())), "{filter:?}");
    }

    fn some(now: Timestamp) -> Vec<Item> {
        let id: MemoryId = Id::new(&SystemClock, &SystemEntropy);
        let (text, tags) = ("tea at four".to_owned(), std::collections::BTreeSet::new());
        vec![Item { id, text, kind: None, tags, embedding: None, written: now, expires: None }]
    }
}

fn now<T: Send + 'static>(value: T) -> Pending<'static, Result<T, StoreError>> {
    Box::pin(std::future::ready(Ok(value)))
}

impl MemoryStore for Strict {
    fn ready<'a>(&'a self, _: &'a Space) -> Pending<'a, Result<Option<Timestamp>, StoreError>> {
        now(None)
    }
    fn put<'a>(&'a self, owner: &'a Owner, item: &'a Item, _: bool, _: Quota) -> Pending<'a, Result<(), StoreError>> {
        self.asked(owner, None, 0);
        assert!((1..=16 * 1024).contains(&item.text.len()) && item.tags.len() <= 16, "{item:?}");
        let numbers = item.embedding.iter().flat_map(Embedding::numbers);
        assert!(numbers.into_iter().all(|number| number.is_finite()), "{item:?}");
        assert!(item.expires.is_none_or(|expires| expires > item.written), "{item:?}");
        now(())
    }
    fn get<'a>(
        &'a self,
        owner: &'a Owner,
        _: MemoryId,
        at: Timestamp,
    ) -> Pending<'a, Result<Option<Item>, StoreError>> {
        self.asked(owner, None, 0);
        now(Self::some(at).pop())
    }
    fn by_words<'a>(
        &'a self,
        owner: &'a Owner,
        words: &'a [String],
        filter: &'a Filter,
        limit: usize,
        at: Timestamp,
    ) -> Pending<'a, Result<Vec<Item>, StoreError>> {
        self.asked(owner, Some(filter), limit);
        assert!(words.len() <= 32 && words.iter().all(|word| word.chars().all(char::is_alphanumeric)), "{words:?}");
        now(Self::some(at))
    }
    fn by_vector<'a>(
        &'a self,
        owner: &'a Owner,
        vector: &'a Embedding,
        filter: &'a Filter,
        limit: usize,
        at: Timestamp,
    ) -> Pending<'a, Result<Vec<Item>, StoreError>> {
        self.asked(owner, Some(filter), limit);
        assert_eq!(vector.numbers().len(), 2);
        now(Self::some(at))
    }
    fn list<'a>(
        &'a self,
        owner: &'a Owner,
        filter: &'a Filter,
        _: Option<Timestamp>,
        limit: usize,
        at: Timestamp,
    ) -> Pending<'a, Result<Vec<Item>, StoreError>> {
        self.asked(owner, Some(filter), limit);
        now(Self::some(at))
    }
    fn delete<'a>(&'a self, owner: &'a Owner, _: MemoryId, _: Timestamp) -> Pending<'a, Result<bool, StoreError>> {
        self.asked(owner, None, 0);
        now(true)
    }
    fn forget<'a>(&'a self, _: &'a Space, _: &'a Whose) -> Pending<'a, Result<u64, StoreError>> {
        unreachable!("only an operator forgets for a user")
    }
    fn sweep<'a>(&'a self, _: &'a Space, _: Timestamp) -> Pending<'a, Result<u64, StoreError>> {
        now(0)
    }
    fn usage<'a>(&'a self, _: &'a Space) -> Pending<'a, Result<Usage, StoreError>> {
        now(Usage::default())
    }
}

struct World {
    memory: Memory,
    subject: Subject,
    runtime: Runtime,
}

impl World {
    fn new() -> Self {
        let (tenant, name) = ("retail".parse().expect("a tenant"), "notes".parse().expect("a name"));
        let space = Space::new(tenant, name);
        let subject = Subject {
            tenant: space.tenant().clone(),
            run: Id::new(&SystemClock, &SystemEntropy),
            user: Some("ann".into()),
            agent: "clerk".parse().expect("an agent"),
        };
        let owner = Owner::of(space.clone(), MemoryScope::AgentAndUser, subject.clone()).expect("an owner");
        let options = MemoryOptions {
            tenant: space.tenant().clone(),
            name: space.store().clone(),
            scope: MemoryScope::AgentAndUser,
            dimensions: Some(2),
            quota: MemoryQuota::default(),
        };
        let memory = Memory::new(options, Arc::new(Strict(owner)), Arc::new(SystemClock), Arc::new(SystemEntropy));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { memory: memory.expect("a memory"), subject, runtime }
    }

    /// The result of a call; nothing where it is none of a tool.
    fn call(&self, subject: Subject, params: &[u8]) -> Option<Value> {
        let answer = self.runtime.block_on(tools::call(&self.memory, subject, params));
        Some(serde_json::from_slice(&answer.ok()?).expect("a result is JSON"))
    }
}

fn called(call: impl Fn(&[u8]) -> Option<Value>, bytes: &[u8]) -> Class {
    if json::check(bytes).is_err() {
        return class("not read");
    }
    let Some(result) = call(bytes) else { return class("no call") };
    let params: Value = serde_json::from_slice(bytes).expect("a call is JSON");
    let failed = result["isError"].as_bool().expect("it says whether it failed");
    let said = result["content"][0]["text"].as_str().expect("it says something");
    if !failed {
        let tool = params["name"].as_str().expect("it has a tool");
        let (_, takes) = TAKES.iter().find(|(name, _)| *name == tool).expect("a tool that there is");
        let given = params["arguments"].as_object().into_iter().flatten().map(|(key, _)| key.as_str());
        given.for_each(|key| assert!(takes.contains(&key), "`{key}` was taken by {tool}"));
        return class((tool, params["arguments"].as_object().map_or(0, serde_json::Map::len)));
    }
    class(said.chars().take(40).collect::<String>())
}

#[test]
fn memory() {
    let world = World::new();
    hold_for(ITERATIONS / 2, "memory", include_str!("../../fuzz/memory.txt"), WORDS, |bytes| {
        called(|params| world.call(world.subject.clone(), params), bytes)
    });
}

#[test]
fn a_memory_with_a_mistake_is_found_out() {
    let world = World::new();
    type Call<'a> = Box<dyn Fn(&[u8]) -> Option<Value> + 'a>;
    let user_of = |params: &[u8]| -> Option<Arc<str>> {
        let params: Value = serde_json::from_slice(params).ok()?;
        Some(params["arguments"]["user"].as_str()?.into())
    };
    let mistakes: [(&str, Call<'_>); 3] = [
        (
            "what it does not know it passes over",
            Box::new(|params| {
                let mut params: Value = serde_json::from_slice(params).ok()?;
                let name = params["name"].as_str()?.to_owned();
                let (_, takes) = TAKES.iter().find(|(known, _)| *known == name)?;
                params["arguments"].as_object_mut()?.retain(|key, _| takes.contains(&key.as_str()));
                world.call(world.subject.clone(), params.to_string().as_bytes())
            }),
        ),
        (
            "the user is whom the call names",
            Box::new(|params| {
                let user = user_of(params).or_else(|| world.subject.user.clone());
                let mut params: Value = serde_json::from_slice(params).ok()?;
                params["arguments"].as_object_mut()?.shift_remove("user");
                world.call(Subject { user, ..world.subject.clone() }, params.to_string().as_bytes())
            }),
        ),
        (
            "a result without a word on how it went",
            Box::new(|params| {
                let mut result = world.call(world.subject.clone(), params)?;
                result.as_object_mut()?.shift_remove("isError");
                Some(result)
            }),
        ),
    ];
    let wrong = mistakes.into_iter().map(|(mistake, call)| (mistake, move |bytes: &[u8]| called(&call, bytes)));
    found_out(include_str!("../../fuzz/memory.txt"), WORDS, wrong);
}
