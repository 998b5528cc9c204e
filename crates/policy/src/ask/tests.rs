use proptest::prelude::*;

use super::*;
use crate::{
    Value,
    slice::tests::{agent, facts, tool},
};

fn ask(deed: Deed) -> Ask {
    let head = Head { principal: agent("acme", "clerk", Tier::Production), deed, labels: BTreeSet::from(["a".into()]) };
    Ask::new(Arc::new(head), facts())
}

#[test]
fn the_recorded_form_is_fixed() {
    let mut ask = ask(tool("bank", "pay", true));
    ask.facts.budget = None;
    ask.facts.labels = None;
    ask.facts.arguments = Some(Record::from([("b".into(), Value::Long(1)), ("a".into(), Value::Bool(true))]));
    // This text is in ledgers: it can get members, and what is in it keeps its meaning.
    let digest = format!("sha256:{}", "01".repeat(32));
    let want = [
        r#"{"head":{"principal":{"agent":{"tenant":"acme","agent":"clerk","version":"1.0.0","digest":""#,
        &digest,
        r#"","tier":"production","autonomy":"supervised","delegators":["acme/boss"]}},"#,
        r#""deed":{"tool_call":{"server":"bank","tool":"pay","pinned":true}},"labels":["a"]},"#,
        r#""facts":{"at_ms":1795424400000,"subject":"ada","arguments":{"a":true,"b":1}}}"#,
    ];
    assert_eq!(ask.to_json().unwrap(), want.concat());
}

#[test]
fn what_is_too_long_is_not_recorded() {
    let mut long = ask(tool("bank", "pay", true));
    long.facts.arguments = Some(Record::from([("a".into(), Value::Text("x".repeat(ASK_BYTES_MAX)))]));
    assert!(matches!(long.to_json(), Err(AskError::TooLong(_))));
    assert!(Ask::from_json(&"x".repeat(ASK_BYTES_MAX + 1)).is_err());
    assert!(Ask::from_json(r#"{"head":{},"facts":{}}"#).is_err());
    let unknown = ask(tool("bank", "pay", true)).to_json().unwrap().replace("\"at_ms\"", "\"more\":1,\"at_ms\"");
    assert!(Ask::from_json(&unknown).is_err());
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Long),
        any::<i64>().prop_map(|n| Value::Decimal(crate::value::Decimal::from_ten_thousandths(n))),
        "\\PC{0,8}".prop_map(Value::Text),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Set),
            proptest::collection::btree_map("[a-z]{1,4}", inner, 0..4).prop_map(Value::Record),
        ]
    })
}

proptest! {
    #[test]
    fn an_ask_comes_back_from_its_text(
        arguments in proptest::option::of(proptest::collection::btree_map("[a-z]{1,4}", value(), 0..4)),
        model in "\\PC{0,12}",
        history in proptest::collection::btree_map("[a-z ]{1,12}", any::<i64>(), 0..3),
    ) {
        let mut ask = ask(Deed::ModelCall { provider: "p".parse().unwrap(), model });
        ask.facts.arguments = arguments;
        ask.facts.history = history;
        let text = ask.to_json().unwrap();
        let back = Ask::from_json(&text).unwrap();
        prop_assert_eq!(&back, &ask);
        prop_assert_eq!(back.to_json().unwrap(), text);
    }
}
