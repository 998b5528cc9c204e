//! What every store must hold, attacks included. Run over each of them by its own tests.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use cogward_model::{
    Clock, RunId, SystemClock, SystemEntropy, Timestamp,
    id::MemoryId,
    memory::{MemoryQuota, MemoryScope},
};

use crate::{
    item::{Draft, Filter},
    memory::{Memory, MemoryError, MemoryOptions, Question},
    owner::Subject,
    store::{MemoryStore, StoreError, Whose},
    words,
};

/// A clock that the test moves.
#[derive(Debug)]
pub(crate) struct Hands(AtomicU64);

impl Hands {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(1_800_000_000_000_000)))
    }

    fn forward(&self, seconds: u64) {
        self.0.fetch_add(seconds * 1_000_000, Ordering::AcqRel);
    }

    fn back(&self, seconds: u64) {
        self.0.fetch_sub(seconds * 1_000_000, Ordering::AcqRel);
    }
}

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_micros(self.0.load(Ordering::Acquire))
    }
}

/// What the suite needs of a store.
pub(crate) struct Bench {
    /// The store, empty, with vectors of three numbers.
    pub(crate) store: Arc<dyn MemoryStore>,
    /// Whether it bounds the bytes of an owner, and not only the number of its memories.
    pub(crate) counts_bytes: bool,
}

fn memory(bench: &Bench, name: &str, scope: MemoryScope, quota: MemoryQuota, clock: Arc<dyn Clock>) -> Memory {
    let (tenant, name) = ("acme".parse().unwrap(), name.parse().unwrap());
    let options = MemoryOptions { tenant, name, scope, dimensions: Some(3), quota };
    Memory::new(options, Arc::clone(&bench.store), clock, Arc::new(SystemEntropy)).unwrap()
}

fn by(user: Option<&str>, agent: &str) -> Subject {
    let run = RunId::new(&SystemClock, &SystemEntropy);
    Subject { tenant: "acme".parse().unwrap(), run, user: user.map(Into::into), agent: agent.parse().unwrap() }
}

fn text(text: &str) -> Draft {
    Draft { text: text.to_owned(), ..Draft::default() }
}

fn asking(query: &str) -> Question {
    Question { query: Some(query.to_owned()), ..Question::default() }
}

async fn texts(memory: &Memory, who: &Subject) -> Vec<String> {
    let (found, _) = memory.list(who.clone(), Filter::default(), None, Some(50)).await.unwrap();
    found.into_iter().map(|item| item.text).collect()
}

async fn recalled(memory: &Memory, who: &Subject, question: Question) -> Vec<String> {
    memory.recall(who.clone(), question).await.unwrap().into_iter().map(|found| found.item.text).collect()
}

fn missing<T: std::fmt::Debug>(result: Result<T, MemoryError>) -> bool {
    matches!(result, Err(MemoryError::Store(StoreError::Missing)))
}

/// All of it, one part after the other on one store, each in a memory of its own.
pub(crate) async fn all(bench: Bench) {
    scopes(&bench).await;
    ids_of_others(&bench).await;
    looks_alike(&bench).await;
    syntax(&bench).await;
    tags(&bench).await;
    vectors(&bench).await;
    quotas(&bench).await;
    time(&bench).await;
    pages(&bench).await;
    writers(&bench).await;
    forgetting(&bench).await;
}

async fn scopes(bench: &Bench) {
    let clock = Hands::new();
    for (number, scope) in MemoryScope::ALL.into_iter().enumerate() {
        let memory = memory(bench, &format!("scope-{number}"), scope, MemoryQuota::default(), clock.clone());
        let who: Vec<Subject> = [("ann", "x"), ("ann", "y"), ("bob", "x"), ("bob", "y")]
            .iter()
            .map(|(user, agent)| by(Some(user), agent))
            .collect();
        for subject in &who {
            let of = format!("tea of {} and {}", subject.user.as_deref().unwrap(), subject.agent);
            memory
                .remember(subject.clone(), Draft { embedding: Some(vec![1.0, 0.0, 0.0]), ..text(&of) })
                .await
                .unwrap();
        }
        let seen = match scope {
            MemoryScope::AgentAndUser | MemoryScope::Run => 1,
            MemoryScope::User | MemoryScope::Agent => 2,
            MemoryScope::Tenant => 4,
        };
        for subject in &who {
            let by_vector = Question { embedding: Some(vec![1.0, 0.1, 0.0]), ..Question::default() };
            let both = Question { embedding: Some(vec![1.0, 0.1, 0.0]), ..asking("tea") };
            for found in [
                texts(&memory, subject).await,
                recalled(&memory, subject, asking("TEA")).await,
                recalled(&memory, subject, by_vector).await,
                recalled(&memory, subject, both).await,
            ] {
                assert_eq!(found.len(), seen, "{scope}: {found:?}");
                let user = subject.user.as_deref().unwrap();
                let own = |text: &String| {
                    (!scope.is_by_user() || text.contains(user))
                        && (!scope.is_by_agent() || text.ends_with(subject.agent.as_str()))
                };
                assert!(found.iter().all(own), "{scope}: {found:?}");
            }
        }
        // Another run of the same agent for the same user, and a run for nobody.
        let again = texts(&memory, &by(Some("ann"), "x")).await.len();
        assert_eq!(again, if scope == MemoryScope::Run { 0 } else { seen }, "{scope}");
        let nobody = memory.recall(by(None, "x"), asking("tea")).await;
        assert_eq!(matches!(nobody, Err(MemoryError::Owner(_))), scope.is_by_user(), "{scope}: {nobody:?}");
        // Another tenant is refused before the store is asked.
        let stranger = Subject { tenant: "other".parse().unwrap(), ..by(Some("ann"), "x") };
        assert!(matches!(memory.recall(stranger, asking("tea")).await, Err(MemoryError::Owner(_))));
    }
    // What was kept under one scope is not found under another, of the same store.
    let wider = memory(bench, "scope-0", MemoryScope::Tenant, MemoryQuota::default(), clock);
    assert_eq!(texts(&wider, &by(Some("ann"), "x")).await, Vec::<String>::new());
}

async fn ids_of_others(bench: &Bench) {
    let memory = memory(bench, "ids", MemoryScope::AgentAndUser, MemoryQuota::default(), Hands::new());
    let (ann, bob) = (by(Some("ann"), "x"), by(Some("bob"), "x"));
    let id = memory.remember(ann.clone(), text("a secret of ann")).await.unwrap().id.to_string();
    let never = MemoryId::new(&SystemClock, &SystemEntropy).to_string();
    for id in [id.as_str(), never.as_str(), "no-id", "", "mem_%", "*", "' OR 1=1 --"] {
        assert!(missing(memory.read(bob.clone(), id).await), "{id}");
        assert!(missing(memory.delete(bob.clone(), id).await), "{id}");
        let over = Draft { replaces: Some(id.to_owned()), ..text("of bob") };
        assert!(missing(memory.remember(bob.clone(), over).await), "{id}");
    }
    assert_eq!(texts(&memory, &bob).await, Vec::<String>::new());
    assert_eq!(memory.read(ann.clone(), &id).await.unwrap().text, "a secret of ann");
    // Its owner can.
    let over = Draft { replaces: Some(id.clone()), ..text("another") };
    assert_eq!(memory.remember(ann.clone(), over).await.unwrap().id.to_string(), id);
    assert_eq!(texts(&memory, &ann).await, ["another"]);
    assert_eq!(recalled(&memory, &ann, asking("secret")).await, Vec::<String>::new());
    memory.delete(ann.clone(), &id).await.unwrap();
    assert!(missing(memory.delete(ann.clone(), &id).await));
    assert!(missing(memory.read(ann, &id).await));
}

/// Names of users that some store could take for one another, or for all.
async fn looks_alike(bench: &Bench) {
    let memory = memory(bench, "alike", MemoryScope::User, MemoryQuota::default(), Hands::new());
    let users = [
        "ann",
        "Ann",
        "ANN",
        "ann ",
        " ann",
        "a%",
        "%",
        "_nn",
        "*",
        "a*",
        "аnn",
        "ａｎｎ",
        "\u{e9}",
        "e\u{301}",
        "ß",
        "ss",
        "ann'--",
        "\"ann\"",
        "ann\\",
        "ann,bob",
        "[\"ann\"]",
        "{}",
        "null",
        "ann\u{200b}",
        "İ",
        "i\u{307}",
    ];
    for user in users {
        memory.remember(by(Some(user), "x"), text(&format!("of {user}"))).await.unwrap();
    }
    for user in users {
        let who = by(Some(user), "x");
        assert_eq!(texts(&memory, &who).await, [format!("of {user}")]);
        assert_eq!(recalled(&memory, &who, asking("of")).await, [format!("of {user}")]);
    }
}

/// Questions and texts that some store could take for its own language.
async fn syntax(bench: &Bench) {
    let memory = memory(bench, "syntax", MemoryScope::AgentAndUser, MemoryQuota::default(), Hands::new());
    let (ann, bob) = (by(Some("ann"), "x"), by(Some("bob"), "x"));
    memory.remember(ann.clone(), text("ann likes green tea")).await.unwrap();
    memory.remember(bob.clone(), text("bob likes black tea")).await.unwrap();
    let owner = crate::owner::Owner::of(
        crate::owner::Space::new("acme".parse().unwrap(), "syntax".parse().unwrap()),
        MemoryScope::AgentAndUser,
        ann.clone(),
    )
    .unwrap();
    let key = owner.key();
    for query in [
        "tea OR ann",
        "tea\" OR owner:\"x",
        "likes) OR (owner : *",
        "tea* NEAR(likes ann) NOT bob ^ann {owner body}: ann",
        "'; DROP TABLE memory; --",
        "tea' OR '1'='1",
        "tea & ann | !bob <-> :* %",
        "tea\u{0}ann",
        "{\"should\":[{\"key\":\"subject\",\"match\":{\"any\":[\"ann\"]}}]} tea",
        &key,
        &format!("owner : {key} tea"),
        &"tea ".repeat(1_000),
        "ΤΕΑ tea ﬁ İ",
    ] {
        let question = Question { limit: Some(50), ..asking(query) };
        let found = recalled(&memory, &bob, question).await;
        assert!(found.iter().all(|text| text == "bob likes black tea"), "{query}: {found:?}");
        let asked = words::query_words(query);
        let answers = asked.iter().any(|word| ["bob", "likes", "black", "tea"].contains(&word.as_str()));
        assert_eq!(found.is_empty(), !answers, "{query}");
    }
    for none in ["", "   ", "\"*:^", "%_"] {
        let refused = memory.recall(bob.clone(), asking(none)).await;
        assert!(matches!(refused, Err(MemoryError::Invalid(_))), "{none}: {refused:?}");
    }
    assert!(matches!(memory.recall(bob.clone(), asking(&"a".repeat(5_000))).await, Err(MemoryError::Invalid(_))));
    for kept in
        ["'); DELETE FROM memory; --", "\"} , {\"a\": [1]", "line\nline\ttab", "ß İ ﬁ \u{10ffff} 🫖", "\u{feff}bom"]
    {
        memory.remember(bob.clone(), text(kept)).await.unwrap();
        assert_eq!(texts(&memory, &bob).await.first().map(String::as_str), Some(kept));
    }
    for refused in ["", " \n", "a\0b", "a\u{1}b", "\u{85}", &"x".repeat(16 * 1024 + 1)] {
        assert!(matches!(memory.remember(bob.clone(), text(refused)).await, Err(MemoryError::Invalid(_))));
    }
    assert_eq!(texts(&memory, &ann).await, ["ann likes green tea"]);
    // The rarer word weighs more, and only the own texts count.
    assert_eq!(recalled(&memory, &ann, asking("green tea")).await, ["ann likes green tea"]);
}

async fn tags(bench: &Bench) {
    let memory = memory(bench, "tags", MemoryScope::AgentAndUser, MemoryQuota::default(), Hands::new());
    let (ann, bob) = (by(Some("ann"), "x"), by(Some("bob"), "x"));
    let tagged = |kind: &str, tags: &[&str], of: &str| Draft {
        kind: Some(kind.to_owned()),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        embedding: Some(vec![1.0, 0.0, 0.0]),
        ..text(of)
    };
    memory.remember(ann.clone(), tagged("fact", &["home", "work"], "tea one")).await.unwrap();
    memory.remember(ann.clone(), tagged("fact", &["home"], "tea two")).await.unwrap();
    memory.remember(ann.clone(), tagged("plan", &["work"], "tea three")).await.unwrap();
    let filter = |kind: Option<&str>, tags: &[&str]| {
        Filter::new(kind.map(str::to_owned), tags.iter().map(|tag| (*tag).to_owned()).collect()).unwrap()
    };
    for (kind, wanted, found) in [
        (None, &["home"][..], &["tea two", "tea one"][..]),
        (None, &["home", "work"], &["tea one"]),
        (Some("plan"), &[], &["tea three"]),
        (Some("plan"), &["home"], &[]),
        (None, &["hom"], &[]),
        (None, &["%"], &[]),
        (None, &["home\" OR 1=1"], &[]),
        (None, &["tenant"], &[]),
        (Some("FACT"), &[], &[]),
    ] {
        let filter = filter(kind, wanted);
        let (listed, _) = memory.list(ann.clone(), filter.clone(), None, None).await.unwrap();
        let listed: Vec<_> = listed.into_iter().map(|item| item.text).collect();
        assert_eq!(listed, found, "{kind:?} {wanted:?}");
        let question = Question { filter: filter.clone(), ..asking("tea") };
        assert_eq!(recalled(&memory, &ann, question.clone()).await.len(), found.len(), "{wanted:?}");
        let near = Question { query: None, embedding: Some(vec![1.0, 0.0, 0.0]), ..question };
        assert_eq!(recalled(&memory, &ann, near.clone()).await.len(), found.len(), "{wanted:?}");
        assert_eq!(recalled(&memory, &bob, near).await, Vec::<String>::new());
    }
    let many: Vec<String> = (0..17).map(|n| n.to_string()).collect();
    for wrong in [many, vec![String::new()], vec!["a".repeat(65)], vec!["a\0b".to_owned()], vec!["a\nb".to_owned()]] {
        assert!(Filter::new(None, wrong.clone()).is_err());
        let draft = Draft { tags: wrong, ..text("tea") };
        assert!(matches!(memory.remember(ann.clone(), draft).await, Err(MemoryError::Invalid(_))));
    }
}

async fn vectors(bench: &Bench) {
    let memory = memory(bench, "vectors", MemoryScope::AgentAndUser, MemoryQuota::default(), Hands::new());
    let (ann, bob) = (by(Some("ann"), "x"), by(Some("bob"), "x"));
    let at = |of: &str, numbers: [f64; 3]| Draft { embedding: Some(numbers.to_vec()), ..text(of) };
    for (of, numbers) in [("east", [1.0, 0.0, 0.0]), ("north-east", [100.0, 100.0, 0.0]), ("west", [-1.0, 0.0, 0.0])] {
        memory.remember(ann.clone(), at(of, numbers)).await.unwrap();
    }
    memory.remember(ann.clone(), text("nowhere")).await.unwrap();
    memory.remember(bob.clone(), at("east of bob", [1.0, 0.0, 0.0])).await.unwrap();
    let near = |numbers: &[f64]| Question { embedding: Some(numbers.to_vec()), ..Question::default() };
    assert_eq!(recalled(&memory, &ann, near(&[1.0, 0.1, 0.0])).await, ["east", "north-east", "west"]);
    assert_eq!(recalled(&memory, &ann, Question { limit: Some(1), ..near(&[0.5, 0.5, 0.0]) }).await, ["north-east"]);
    assert_eq!(recalled(&memory, &bob, near(&[-1.0, 0.0, 0.0])).await, ["east of bob"]);
    let both = Question { query: Some("nowhere".to_owned()), ..near(&[1.0, 0.1, 0.0]) };
    assert_eq!(recalled(&memory, &ann, both).await.len(), 4);
    for bad in [
        vec![],
        vec![1.0],
        vec![1.0; 4],
        vec![1.0; 100_000],
        vec![f64::NAN, 0.0, 1.0],
        vec![f64::INFINITY; 3],
        vec![1e300; 3],
        vec![0.0; 3],
    ] {
        let refused = memory.recall(ann.clone(), near(&bad)).await;
        assert!(matches!(refused, Err(MemoryError::Embedding(_))), "{:?}", bad.first());
        let draft = Draft { embedding: Some(bad), ..text("bad") };
        assert!(matches!(memory.remember(ann.clone(), draft).await, Err(MemoryError::Embedding(_))));
    }
    assert_eq!(texts(&memory, &ann).await.len(), 4);
}

async fn quotas(bench: &Bench) {
    let few = MemoryQuota { items: Some(3), mib: Some(1), ttl_seconds: None };
    let memory_of =
        |name: &str, quota: MemoryQuota, clock| memory(bench, name, MemoryScope::AgentAndUser, quota, clock);
    let clock = Hands::new();
    let memory = memory_of("few", few, clock.clone());
    let (ann, bob) = (by(Some("ann"), "x"), by(Some("bob"), "x"));
    for n in 0..3 {
        memory.remember(ann.clone(), Draft { ttl_seconds: Some(60), ..text(&format!("n {n}")) }).await.unwrap();
    }
    let full =
        |result: Result<crate::Item, MemoryError>| matches!(result, Err(MemoryError::Store(StoreError::Full(_))));
    assert!(full(memory.remember(ann.clone(), text("one more")).await));
    // Somebody else's is not any fuller for it.
    memory.remember(bob.clone(), text("of bob")).await.unwrap();
    // In the place of another it needs no more room, and what is gone makes some.
    let (items, _) = memory.list(ann.clone(), Filter::default(), None, None).await.unwrap();
    let over = Draft { replaces: Some(items[0].id.to_string()), ttl_seconds: Some(60), ..text("instead") };
    memory.remember(ann.clone(), over).await.unwrap();
    memory.delete(ann.clone(), &items[1].id.to_string()).await.unwrap();
    memory.remember(ann.clone(), Draft { ttl_seconds: Some(60), ..text("room") }).await.unwrap();
    assert!(full(memory.remember(ann.clone(), text("one more")).await));
    clock.forward(61);
    memory.remember(ann.clone(), text("after the others expired")).await.unwrap();
    assert_eq!(texts(&memory, &ann).await, ["after the others expired"]);
    // Short-lived ones do not pile up behind the quota: each that is written removes those before it.
    for n in 0..20 {
        memory.remember(ann.clone(), Draft { ttl_seconds: Some(1), ..text(&format!("short {n}")) }).await.unwrap();
        clock.forward(2);
    }
    assert!(memory.usage().await.unwrap().items <= 4, "one of bob, one that stays, the last, and none before it");

    if bench.counts_bytes {
        let small = MemoryQuota { mib: Some(1), ..MemoryQuota::default() };
        let memory = memory_of("small", small, clock);
        let large = "x".repeat(16 * 1024);
        let mut kept = 0;
        while memory.remember(ann.clone(), text(&large)).await.is_ok() {
            kept += 1;
            assert!(kept <= 64, "the bytes are not bounded");
        }
        assert_eq!(kept, 64);
        memory.remember(bob, text(&large)).await.unwrap();
    }
}

async fn time(bench: &Bench) {
    let clock = Hands::new();
    let quota = MemoryQuota { ttl_seconds: Some(100), ..MemoryQuota::default() };
    let memory = memory(bench, "time", MemoryScope::AgentAndUser, quota, clock.clone());
    let ann = by(Some("ann"), "x");
    let kept = |ttl: u64| Draft { ttl_seconds: Some(ttl), embedding: Some(vec![1.0, 0.0, 0.0]), ..text("tea") };
    let short = memory.remember(ann.clone(), kept(10)).await.unwrap();
    // The operator's bound is the larger one's.
    let long = memory.remember(ann.clone(), kept(1_000_000)).await.unwrap();
    assert_eq!(long.expires.unwrap().micros_since(long.written), 100_000_000);
    let without = memory.remember(ann.clone(), text("tea")).await.unwrap();
    assert!(without.expires.is_some());
    clock.forward(10);
    assert!(missing(memory.read(ann.clone(), &short.id.to_string()).await));
    assert!(missing(memory.delete(ann.clone(), &short.id.to_string()).await));
    let over = Draft { replaces: Some(short.id.to_string()), ..text("again") };
    assert!(missing(memory.remember(ann.clone(), over).await));
    assert_eq!(texts(&memory, &ann).await.len(), 2);
    assert_eq!(recalled(&memory, &ann, asking("tea")).await.len(), 2);
    let near = Question { embedding: Some(vec![1.0, 0.0, 0.0]), ..Question::default() };
    assert_eq!(recalled(&memory, &ann, near).await.len(), 1);
    // A clock that is put back brings nothing back.
    clock.back(3_600);
    assert_eq!(texts(&memory, &ann).await.len(), 2);
    assert!(missing(memory.read(ann.clone(), &short.id.to_string()).await));
    let later = memory.remember(ann.clone(), kept(10)).await.unwrap();
    assert!(later.written > without.written);
    // Nor does a plane that starts anew with such a clock, after the last that was written.
    let anew = self::memory(bench, "time", MemoryScope::AgentAndUser, MemoryQuota::default(), clock.clone());
    assert_eq!(texts(&anew, &ann).await.len(), 3);
    assert!(missing(anew.read(ann.clone(), &short.id.to_string()).await));
    for wrong in [0, u64::MAX] {
        assert!(matches!(memory.remember(ann.clone(), kept(wrong)).await, Err(MemoryError::Invalid(_))));
    }
    // What has expired is removed in the end, and counts for nobody.
    clock.forward(7_200);
    memory.remember(ann.clone(), text("last")).await.unwrap();
    assert_eq!(memory.usage().await.unwrap().items, 1);
}

async fn pages(bench: &Bench) {
    let memory = memory(bench, "pages", MemoryScope::AgentAndUser, MemoryQuota::default(), Hands::new());
    let ann = by(Some("ann"), "x");
    for n in 0..7 {
        memory.remember(ann.clone(), text(&format!("n {n}"))).await.unwrap();
    }
    let (mut seen, mut cursor): (Vec<String>, Option<String>) = (Vec::new(), None);
    loop {
        let (items, next) = memory.list(ann.clone(), Filter::default(), cursor.as_deref(), Some(3)).await.unwrap();
        seen.extend(items.into_iter().map(|item| item.text));
        match next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, ["n 6", "n 5", "n 4", "n 3", "n 2", "n 1", "n 0"]);
    for wrong in [0, 51, usize::MAX] {
        let refused = memory.list(ann.clone(), Filter::default(), None, Some(wrong)).await;
        assert!(matches!(refused, Err(MemoryError::Invalid(_))));
    }
    for wrong in ["x", "-1", "1 OR 1=1", ""] {
        let refused = memory.list(ann.clone(), Filter::default(), Some(wrong), None).await;
        assert!(matches!(refused, Err(MemoryError::Invalid(_))), "{wrong}");
    }
}

/// Many at once: nothing is lost, and the quota is not passed by being quick.
async fn writers(bench: &Bench) {
    let quota = MemoryQuota { items: Some(10), ..MemoryQuota::default() };
    let memory = Arc::new(memory(bench, "writers", MemoryScope::AgentAndUser, quota, Hands::new()));
    let mut tasks = Vec::new();
    for user in ["ann", "bob"] {
        for n in 0..16 {
            let memory = Arc::clone(&memory);
            tasks.push(tokio::spawn(async move {
                let kept = memory.remember(by(Some(user), "x"), text(&format!("{user} {n}"))).await;
                match kept {
                    Ok(_) => true,
                    Err(MemoryError::Store(StoreError::Full(_))) => false,
                    Err(error) => panic!("{error}"),
                }
            }));
        }
    }
    let mut kept = 0;
    for task in tasks {
        kept += usize::from(task.await.unwrap());
    }
    assert_eq!(kept, 20);
    for user in ["ann", "bob"] {
        let found = texts(&memory, &by(Some(user), "x")).await;
        assert_eq!(found.len(), 10);
        assert!(found.iter().all(|text| text.starts_with(user)), "{found:?}");
    }
}

async fn forgetting(bench: &Bench) {
    let clock = Hands::new();
    let shared = memory(bench, "forgotten", MemoryScope::Tenant, MemoryQuota::default(), clock.clone());
    let own = memory(bench, "forgotten", MemoryScope::AgentAndUser, MemoryQuota::default(), clock.clone());
    let other = memory(bench, "kept", MemoryScope::AgentAndUser, MemoryQuota::default(), clock.clone());
    let (ann, bob) = (by(Some("ann"), "x"), by(Some("bob"), "x"));
    for who in [&ann, &bob] {
        for memory in [&shared, &own, &other] {
            memory.remember(who.clone(), text("tea")).await.unwrap();
        }
    }
    own.remember(by(Some("ann"), "y"), Draft { ttl_seconds: Some(1), ..text("tea") }).await.unwrap();
    clock.forward(2);
    assert_eq!(own.usage().await.unwrap().items, 5);
    for nobody in ["", "%", "An", "ANN", "*", "ann "] {
        assert_eq!(own.forget(&Whose::User(nobody.to_owned())).await.unwrap(), 0, "{nobody}");
    }
    // Whatever the scope, whatever the agent, expired or not: all that was written for the user.
    assert_eq!(own.forget(&Whose::User("ann".to_owned())).await.unwrap(), 3);
    assert_eq!(own.forget(&Whose::User("ann".to_owned())).await.unwrap(), 0);
    assert_eq!(texts(&own, &ann).await, Vec::<String>::new());
    assert_eq!(recalled(&own, &ann, asking("tea")).await, Vec::<String>::new());
    assert_eq!(texts(&shared, &bob).await, ["tea"]);
    assert_eq!(texts(&own, &bob).await, ["tea"]);
    assert_eq!(texts(&other, &ann).await, ["tea"]);
    assert_eq!(own.forget(&Whose::Everybody).await.unwrap(), 2);
    assert_eq!(own.usage().await.unwrap().items, 0);
    assert_eq!(other.usage().await.unwrap().items, 2);
}

/// The Python of the tests of memory, with a PostgreSQL and Qdrant's engine.
pub(crate) fn python() -> std::path::PathBuf {
    let set = std::env::var_os("COGWARD_TEST_MEMORY_PYTHON").map(std::path::PathBuf::from);
    let path = set.unwrap_or_else(|| {
        let home = std::env::var_os("HOME").map(std::path::PathBuf::from).unwrap_or_default();
        home.join(".cache/cogward/venvs/memory/bin/python")
    });
    assert!(path.exists(), "{} is missing: scripts/setup-tests.sh makes it", path.display());
    path
}
