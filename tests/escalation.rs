//! Approvals of stateless clients: a call that waits for a person is answered with what its client has to come again
//! with, and that is good for this call, this approval and one time only.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cogward_testkit::{Agent, Plane};
use serde_json::{Value, json};

/// Sends what the test writes to a file, each as one stateless request, and says each answer on its output.
const DRIVEN: &str = r#"
import json, os, time, urllib.error, urllib.request
def call(name, arguments, can, more, method="tools/call"):
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": can}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": name, "arguments": arguments, "_meta": meta, **more}}
    h = {"content-type": "application/json", "accept": "application/json, text/event-stream",
         "mcp-protocol-version": "2026-07-28", "mcp-method": method, "mcp-name": name}
    try:
        t = urllib.request.urlopen(urllib.request.Request(os.environ["MCP_SERVER_URL"], json.dumps(body).encode(), h), timeout=60).read().decode()
    except urllib.error.HTTPError as error:
        t = error.read().decode()
    if t.startswith(("event:", "data:", "id:", ":")):
        t = [l[5:] for l in t.splitlines() if l.startswith("data:")][-1]
    return json.loads(t)
done = 0
while True:
    text = call("look", {"file": "TODO"}, {}, {})["result"]["content"][0]["text"]
    todo = json.loads(text or '{"n": 0}')
    if todo["n"] > done:
        done = todo["n"]
        print(json.dumps({"n": done, "answer": call(todo["name"], todo["arguments"], todo["can"], todo["more"], todo["method"])}), flush=True)
    time.sleep(0.05)
"#;

fn tool(name: &str, description: &str) -> Value {
    json!({"name": name, "description": description, "inputSchema": {"type": "object",
        "properties": {"to": {"type": "string"}, "scene": {"type": "integer"}, "file": {"type": "string"}}}})
}

fn scenes() -> Value {
    let look = tool("look", "Looks.");
    let prompts = json!([{"name": "greet", "description": "Greets."}]);
    json!([
        {"tools": [tool("pay", "Pays."), look], "prompts": prompts},
        {"tools": [tool("pay", "Pays twice."), look], "prompts": prompts},
    ])
}

/// A plane with a tool server that can be turned, and who approves.
struct Desk {
    plane: Plane,
    state: PathBuf,
    finance: String,
}

/// One run, whose client does what it is told.
struct Client<'a> {
    desk: &'a Desk,
    name: &'static str,
    run: String,
    asked: u64,
    /// Whether it can be asked.
    can: Value,
}

impl Desk {
    fn open(expires: &str) -> Result<Self> {
        let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/hostile-mcp/server.py");
        let (file, state) = (plane.scratch().join("scenes.json"), plane.scratch().join("state"));
        fs::write(&file, scenes().to_string())?;
        let add = ["tool-server", "add", "bank", "--approve-tools", "--reason", "test", "--sandbox", "none", "--stdio"];
        let (file, place) = (file.to_string_lossy().into_owned(), state.to_string_lossy().into_owned());
        plane.ok(add.into_iter().chain(["--", "/usr/bin/python3", program, &file, &place]))?;
        let finance = plane.ok(["operator", "add", "fin", "--role", "finance", "--reason", "test"])?.trim().to_owned();
        let desk = Self { plane, state, finance };
        desk.policy(expires)?;
        Ok(desk)
    }

    fn policy(&self, expires: &str) -> Result<()> {
        let text = format!(
            "@id(\"all\") permit (principal, action, resource);\n@id(\"pays\") @escalate(\"finance\") @expires(\"{expires}\")\n\
             permit (principal, action in Cogward::Action::\"tool_call\", resource == Cogward::Tool::\"bank/pay\");\n\
             @id(\"greets\") @escalate(\"finance\") permit (principal, action == Cogward::Action::\"prompt_get\", resource);\n"
        );
        let file = self.plane.scratch().join("policy.cedar");
        fs::write(&file, text)?;
        let level = ["--level", "tenant:default", "--reason", "test"];
        let put = self.plane.json(["policy", "put", &file.to_string_lossy()].into_iter().chain(level))?;
        let digest = put["digest"].as_str().context("a digest")?.to_owned();
        self.plane.ok(["policy", "approve", &digest].into_iter().chain(level))?;
        self.plane.ok(["policy", "activate", &digest].into_iter().chain(level)).map(drop)
    }

    fn client(&self, name: &'static str) -> Result<Client<'_>> {
        let todo = self.plane.scratch().join(format!("{name}.todo"));
        self.plane.register(&Agent {
            name,
            source: &DRIVEN.replace("TODO", &todo.to_string_lossy()),
            permissions: "    tools:\n      - {server: bank, allow: [pay, look], prompts: [greet]}\n",
            changes: &[("toolCalls: 1000, wallClockSeconds: 120", "toolCalls: 100000, wallClockSeconds: 600")],
        })?;
        let run = self.plane.start_run(name)?;
        Ok(Client { desk: self, name, run, asked: 0, can: json!({"elicitation": {"form": {}}}) })
    }

    fn answer(&self, verb: &str, id: &str) -> Result<()> {
        let mut command = self.plane.command(["approval", verb, id, "--reason", "test"]);
        let done = command.env("COGWARD_TOKEN", &self.finance).output()?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    /// Payments that arrived at the server.
    fn paid(&self) -> usize {
        let calls = fs::read_to_string(format!("{}.calls", self.state.display())).unwrap_or_default();
        calls.lines().filter(|line| line.contains("\"pay\"")).count()
    }

    fn approvals(&self, state: &str) -> Result<Vec<Value>> {
        let list = self.plane.json(["approval", "list", "--state", state])?;
        Ok(list.as_array().context("a list")?.clone())
    }
}

/// What a request that waits is answered with.
struct Waits {
    approval: String,
    state: String,
}

impl Waits {
    fn read(answer: &Value) -> Result<Self> {
        let result = &answer["result"];
        ensure!(result["resultType"] == "input_required", "it does not wait: {answer:#}");
        let asked = &result["inputRequests"]["approval"];
        ensure!(asked["method"] == "elicitation/create" && asked["params"]["mode"] == "form", "{asked:#}");
        ensure!(asked["params"]["requestedSchema"]["type"] == "object", "{asked:#}");
        let message = asked["params"]["message"].as_str().context("a message")?;
        ensure!(message.contains("`finance`") && message.contains("cogward approval show apr_"), "{message}");
        let approval = message.split_whitespace().find(|word| word.starts_with("apr_")).context("an approval")?;
        let approval = approval.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned();
        Ok(Self { approval, state: result["requestState"].as_str().context("a state")?.to_owned() })
    }

    /// The state, with an answer to the question.
    fn with(&self, action: &str) -> Value {
        // What stands in the form is no approval.
        let content = json!({"approved": true, "role": "finance"});
        json!({"requestState": self.state, "inputResponses": {"approval": {"action": action, "content": content}}})
    }
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().or(answer["error"]["message"].as_str()).unwrap_or_default()
}

impl Client<'_> {
    fn send(&mut self, name: &str, arguments: &Value, more: &Value) -> Result<Value> {
        self.ask("tools/call", name, arguments, more)
    }

    fn ask(&mut self, method: &str, name: &str, arguments: &Value, more: &Value) -> Result<Value> {
        self.asked += 1;
        let todo = self.desk.plane.scratch().join(format!("{}.todo", self.name));
        let next = todo.with_extension("next");
        let mut asked = json!({"n": self.asked, "name": name, "arguments": arguments, "can": self.can, "more": more});
        asked["method"] = method.into();
        fs::write(&next, asked.to_string())?;
        fs::rename(next, todo)?;
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let out = self.desk.plane.logs(&self.run, "stdout");
            let mut lines = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(line) = lines.find(|line| line["n"] == self.asked) {
                return Ok(line["answer"].clone());
            }
            if Instant::now() > until {
                let err = self.desk.plane.logs(&self.run, "stderr");
                bail!("no answer\n{out}\n{err}\n{}", self.desk.plane.log());
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn pay(&mut self, to: &str, more: &Value) -> Result<Value> {
        self.send("pay", &json!({ "to": to }), more)
    }

    fn waits(&mut self, to: &str) -> Result<Waits> {
        Waits::read(&self.pay(to, &json!({}))?)
    }

    /// The decisions about payments.
    fn decisions(&self) -> Result<Vec<Value>> {
        let mut leaves = self.desk.plane.leaves(&self.run)?;
        leaves.retain(|leaf| leaf["type"] == "tool.call.decided" && leaf["tool"] == "bank/pay");
        Ok(leaves)
    }
}

#[test]
fn a_stateless_call_waits_with_a_state_and_runs_exactly_once_when_it_is_approved() -> Result<()> {
    let desk = Desk::open("15m")?;
    let mut client = desk.client("clerk")?;
    let first = client.waits("ann")?;
    assert_eq!(desk.approvals("pending")?.len(), 1);
    // What the client's own user says approves nothing: it waits on, with another state, for the same approval.
    let second = Waits::read(&client.pay("ann", &first.with("accept"))?)?;
    assert_eq!(second.approval, first.approval);
    assert_ne!(second.state, first.state);
    // A client that only looks again needs no answer.
    let third = Waits::read(&client.pay("ann", &json!({"requestState": second.state}))?)?;
    assert_eq!((desk.approvals("pending")?.len(), desk.paid()), (1, 0));
    desk.answer("approve", &first.approval)?;
    assert_eq!(desk.paid(), 0, "an approval does nothing by itself");
    let done = client.pay("ann", &third.with("accept"))?;
    assert_eq!((text(&done), done["result"]["resultType"].as_str()), ("pay was called", Some("complete")), "{done:#}");
    assert_eq!(desk.paid(), 1);
    // Played again, any of them.
    for old in [&first, &second, &third] {
        let again = client.pay("ann", &old.with("accept"))?;
        assert_eq!(again["error"]["code"], -32602, "{again:#}");
    }
    assert_eq!((desk.paid(), desk.approvals("pending")?.len()), (1, 0), "nobody is asked because of an old state");
    let decisions = client.decisions()?;
    let permits: Vec<_> = decisions.iter().filter(|decision| decision["decision"] == "permit").collect();
    assert_eq!(permits.len(), 1, "{decisions:#?}");
    assert!(permits[0]["approval"].to_string().contains(&first.approval), "{:#}", permits[0]);
    let refused = decisions.iter().filter(|decision| decision["rule"] == "mcp.requestState").count();
    assert_eq!(refused, 3, "each of them is recorded: {decisions:#?}");
    Ok(())
}

#[test]
fn a_state_is_good_for_its_own_call_of_its_own_run_and_nothing_else() -> Result<()> {
    let desk = Desk::open("15m")?;
    let (mut client, mut thief) = (desk.client("clerk")?, desk.client("thief")?);
    let mine = client.waits("ann")?;
    let theirs = thief.waits("ann")?;
    assert_ne!(mine.approval, theirs.approval);
    desk.answer("approve", &mine.approval)?;
    // Another run, with the very same call.
    let stolen = thief.pay("ann", &mine.with("accept"))?;
    assert_eq!(stolen["error"]["code"], -32602, "{stolen:#}");
    // Other arguments; the same ones written otherwise; another tool.
    let other = client.pay("bob", &mine.with("accept"))?;
    assert_eq!(other["error"]["code"], -32602, "{other:#}");
    let more = client.send("pay", &json!({"to": "ann", "scene": 0}), &mine.with("accept"))?;
    assert_eq!(more["error"]["code"], -32602, "{more:#}");
    let tool = client.send("look", &json!({"to": "ann"}), &mine.with("accept"))?;
    assert_eq!(tool["error"]["code"], -32602, "{tool:#}");
    // Cut, changed, made up.
    let state = mine.state.clone();
    let (cut, rest) = state.split_at(state.len() / 2);
    let turned = if rest.starts_with('A') { 'B' } else { 'A' };
    for forged in [cut.to_owned(), String::new(), format!("{state}AAAA"), format!("{cut}{turned}{}", &rest[1..])] {
        let forged = client.pay("ann", &json!({ "requestState": forged }))?;
        assert_eq!(forged["error"]["code"], -32602, "{forged:#}");
    }
    assert_eq!(desk.paid(), 0);
    // None of that has harmed the state of its own call.
    assert_eq!(text(&client.pay("ann", &mine.with("accept"))?), "pay was called");
    assert_eq!(desk.paid(), 1);
    // Approved, and used by the same call without a state: the state has nothing to wait for any more.
    desk.answer("approve", &theirs.approval)?;
    assert_eq!(text(&thief.pay("ann", &json!({}))?), "pay was called");
    let late = thief.pay("ann", &theirs.with("accept"))?;
    assert!(text(&late).contains("approval.gone"), "{late:#}");
    assert_eq!((desk.paid(), desk.approvals("pending")?.len()), (2, 0));
    Ok(())
}

#[test]
fn a_no_and_a_time_that_is_over_are_refusals_and_who_cannot_be_asked_is_told_at_once() -> Result<()> {
    let desk = Desk::open("15m")?;
    let mut client = desk.client("clerk")?;
    // Denied.
    let denied = client.waits("ann")?;
    desk.answer("deny", &denied.approval)?;
    let said = client.pay("ann", &denied.with("accept"))?;
    assert!(said["result"]["isError"] == true && text(&said).contains("approval_denied"), "{said:#}");
    // The client's user does not want to wait: it has not run, even where it is approved meanwhile.
    let left = client.waits("bob")?;
    desk.answer("approve", &left.approval)?;
    for action in ["decline", "cancel"] {
        let said = client.pay("bob", &left.with(action))?;
        let told = text(&said).contains("did not want to wait") || said["error"]["code"] == -32602;
        assert!(told, "{said:#}");
    }
    assert_eq!(desk.paid(), 0);
    assert_eq!(text(&client.pay("bob", &json!({}))?), "pay was called", "the approval stands");
    // A client that answers by itself all the time gets the plain result before it gives up.
    let mut waits = client.waits("cy")?;
    let mut rounds = 1;
    let plain = loop {
        let answer = client.pay("cy", &waits.with("accept"))?;
        match Waits::read(&answer) {
            Ok(next) => (waits, rounds) = (next, rounds + 1),
            Err(_) => break answer,
        }
        ensure!(rounds < 10, "clients of today give up after ten rounds");
    };
    assert!(plain["result"]["isError"] == true && text(&plain).contains("approval_required"), "{plain:#}");
    // Who cannot be asked, or only by a web page, gets it at once.
    for can in [json!({}), json!({"elicitation": {"url": {}}}), json!({"sampling": {}})] {
        client.can = can;
        let plain = client.pay("cy", &json!({}))?;
        assert!(plain["result"]["isError"] == true && text(&plain).contains(&waits.approval), "{plain:#}");
    }
    // Too late.
    client.can = json!({"elicitation": {}});
    desk.policy("2s")?;
    let late = client.waits("dan")?;
    let until = Instant::now() + Duration::from_secs(30);
    while desk.approvals("expired")?.is_empty() {
        ensure!(Instant::now() < until, "it does not expire");
    }
    let said = client.pay("dan", &late.with("accept"))?;
    assert!(text(&said).contains("approval_expired"), "{said:#}");
    assert_eq!(desk.paid(), 1);
    Ok(())
}

#[test]
fn a_tool_that_is_changed_between_the_question_and_the_yes_does_not_run_under_it() -> Result<()> {
    let desk = Desk::open("15m")?;
    let mut client = desk.client("clerk")?;
    let asked = client.waits("ann")?;
    let listed = desk.plane.json(["tool", "show", "bank", "pay"])?;
    let before = listed["digest"].as_str().context("a digest")?.to_owned();
    // The rug is pulled while the person thinks.
    assert_eq!(text(&client.send("look", &json!({"scene": 1}), &json!({}))?), "look was called");
    desk.answer("approve", &asked.approval)?;
    let refused = client.pay("ann", &asked.with("accept"))?;
    assert!(text(&refused).contains("[not_approved; rule tool.pin]"), "{refused:#}");
    assert_eq!(desk.paid(), 0);
    // Approved in its new wording, it is another call than the one that somebody said yes to.
    desk.plane.ok(["tool", "approve", "bank", "pay", "--reason", "looked"])?;
    let anew = client.waits("ann")?;
    assert_ne!(anew.approval, asked.approval);
    assert_eq!(desk.paid(), 0);
    desk.answer("approve", &anew.approval)?;
    assert_eq!(text(&client.pay("ann", &anew.with("accept"))?), "pay was called");
    assert_eq!(desk.paid(), 1);
    let decisions = client.decisions()?;
    let permit = decisions.iter().find(|decision| decision["decision"] == "permit").context("a permit")?;
    assert_ne!(permit["definition"], before, "the definition of the record is the one that was forwarded");
    assert_eq!(permit["definition"], desk.plane.json(["tool", "show", "bank", "pay"])?["digest"]);
    Ok(())
}

#[test]
fn a_prompt_that_a_person_approves_waits_in_the_same_way() -> Result<()> {
    let desk = Desk::open("15m")?;
    let mut client = desk.client("clerk")?;
    let got = || -> Result<usize> {
        let calls = fs::read_to_string(format!("{}.calls", desk.state.display())).unwrap_or_default();
        Ok(calls.lines().filter(|line| line.contains("prompts/get")).count())
    };
    let waits = Waits::read(&client.ask("prompts/get", "greet", &json!({}), &json!({}))?)?;
    let other = client.ask("prompts/get", "greet", &json!({"who": "ann"}), &waits.with("accept"))?;
    assert_eq!((other["error"]["code"].as_i64(), got()?), (Some(-32602), 0), "{other:#}");
    desk.answer("approve", &waits.approval)?;
    let done = client.ask("prompts/get", "greet", &json!({}), &waits.with("accept"))?;
    assert_eq!(done["result"]["messages"][0]["content"]["text"], "greet was got", "{done:#}");
    let again = client.ask("prompts/get", "greet", &json!({}), &waits.with("accept"))?;
    assert_eq!((again["error"]["code"].as_i64(), got()?), (Some(-32602), 1), "{again:#}");
    // Who cannot be asked is told as ever.
    client.can = json!({});
    let plain = client.ask("prompts/get", "greet", &json!({}), &json!({}))?;
    assert!(text(&plain).contains("approval_required"), "{plain:#}");
    Ok(())
}
