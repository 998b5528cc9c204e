//! Clients outside, on the real binary: who is let in by a bound token, who is not, and what a stop does to them.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use cogward_model::{Clock as _, SystemClock};
use cogward_testkit::{Agent, Plane, count};
use serde_json::{Value, json};

const ISSUER: &str = "https://id.bank.example/t/retail";
/// What is measured between the order to kill and the end of an answer under way; the whole command is in it.
const KILL_MAX: Duration = Duration::from_secs(5);

/// Echoes, and has a tool that never answers.
const SERVER: &str = r#"
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m: continue
    if m["method"] == "initialize":
        r = {"protocolVersion": m["params"]["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": {"name": "t", "version": "1"}}
    elif m["method"] == "tools/list":
        schema = {"type": "object", "properties": {"text": {"type": "string"}}}
        r = {"tools": [{"name": n, "description": n, "inputSchema": schema} for n in ("echo", "wait", "secret")]}
    elif m["method"] == "tools/call":
        if m["params"]["name"] == "wait": continue
        r = {"content": [{"type": "text", "text": m["params"]["arguments"].get("text", "")}]}
    else:
        print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "error": {"code": -32601, "message": "no"}}), flush=True); continue
    print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": r}), flush=True)
"#;

const DOOR: &str = "  access:\n    outside:\n      - {issuer: corp, clients: [ide, robot], subjects: [alice, robot]}\n";
const GRANTS: &str = "    tools:\n      - {server: tools, allow: [echo, wait]}\n";

fn text(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn hash(bytes: &[u8]) -> String {
    text(digest::digest(&digest::SHA256, bytes))
}

fn now() -> u64 {
    SystemClock.now().unix_micros() / 1_000_000
}

/// A key that signs.
struct Key {
    pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
}

impl Key {
    fn new() -> Result<Self> {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let pkcs8 = made.ok().context("a key")?.as_ref().to_vec();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8).ok().context("a key")?;
        Ok(Self { pair, pkcs8 })
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({ "crv": "P-256", "kty": "EC", "x": text(&point[1..33]), "y": text(&point[33..]) })
    }

    fn thumbprint(&self) -> String {
        let jwk = self.jwk();
        let (x, y) = (jwk["x"].as_str().unwrap_or_default(), jwk["y"].as_str().unwrap_or_default());
        hash(format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#).as_bytes())
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let covered = format!("{}.{}", text(header.to_string()), text(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), covered.as_bytes()).map(text).unwrap_or_default();
        format!("{covered}.{signature}")
    }
}

/// An answer as it came.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let of = |line: &&str| line.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        self.head.lines().find(of).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    }

    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("{self:?}"))
    }
}

/// A plane with a door, an issuer that it trusts and a client.
struct World {
    plane: Plane,
    issuer: Key,
    client: Key,
    /// What clients are told; the address unless the plane was told otherwise.
    base: Option<&'static str>,
}

fn world() -> Result<World> {
    world_with(None, &[])
}

fn world_with(base: Option<&'static str>, issuer_flags: &[&str]) -> Result<World> {
    let mut options = vec!["--mcp-listen", "127.0.0.1:0"];
    options.extend(base.iter().flat_map(|base| ["--mcp-url", base]));
    let plane = Plane::start_serving(env!("CARGO_BIN_EXE_cogward"), &options)?;
    let world = World { plane, issuer: Key::new()?, client: Key::new()?, base };
    let server = world.plane.scratch().join("server.py");
    fs::write(&server, SERVER)?;
    world.plane.ok([
        "tool-server",
        "add",
        "tools",
        "--approve-tools",
        "--reason",
        "test",
        "--stdio",
        "--sandbox",
        "none",
        "--",
        "/usr/bin/python3",
        server.to_str().context("a path")?,
    ])?;
    let (keys, file) = (world.jwks(), world.plane.scratch().join("jwks.json"));
    fs::write(&file, keys.to_string())?;
    let mut add = vec!["issuer", "add", "corp", "--issuer", ISSUER, "--reason", "test"];
    let file = file.to_string_lossy().into_owned();
    add.extend(["--jwks-file", &file]);
    add.extend(issuer_flags);
    world.plane.ok(add)?;
    Ok(world)
}

impl World {
    fn jwks(&self) -> Value {
        let mut jwk = self.issuer.jwk();
        jwk["kid"] = "k1".into();
        json!({ "keys": [jwk] })
    }

    fn open(&self, name: &str, changes: &[(&str, &str)]) -> Result<()> {
        let door = format!("{DOOR}  budgets:\n");
        let mut all = vec![("  budgets:\n", door.as_str())];
        all.extend(changes);
        self.plane.register(&Agent { name, source: "", permissions: GRANTS, changes: &all })
    }

    fn address(&self) -> Result<String> {
        let known: Value = serde_json::from_str(&fs::read_to_string(self.plane.data_dir().join("plane.json"))?)?;
        Ok(known["mcp"].as_str().context("the plane says where the door is")?.to_owned())
    }

    fn resource(&self, agent: &str) -> Result<String> {
        match self.base {
            Some(base) => Ok(format!("{base}/t/default/a/{agent}/mcp")),
            None => Ok(format!("http://{}/t/default/a/{agent}/mcp", self.address()?)),
        }
    }

    fn token(&self, agent: &str, change: impl FnOnce(&mut Value)) -> Result<String> {
        let mut claims = json!({
            "iss": ISSUER, "aud": self.resource(agent)?, "sub": "alice", "client_id": "ide", "jti": "token-1",
            "scope": "cogward.mcp", "iat": now(), "exp": now() + 300, "cnf": { "jkt": self.client.thumbprint() },
        });
        change(&mut claims);
        Ok(self.issuer.sign(&json!({ "typ": "at+jwt", "alg": "ES256", "kid": "k1" }), &claims))
    }

    fn proof(&self, method: &str, resource: &str, token: &str) -> String {
        let mut id = [0_u8; 16];
        let _random = aws_lc_rs::rand::fill(&mut id);
        let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": self.client.jwk() });
        let claims =
            json!({ "jti": text(id), "htm": method, "htu": resource, "iat": now(), "ath": hash(token.as_bytes()) });
        self.client.sign(&header, &claims)
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
        let address = self.address()?;
        let mut stream = self.connect(method, path, &address, headers, body)?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        answer(&String::from_utf8_lossy(&all))
    }

    fn connect(&self, method: &str, path: &str, host: &str, headers: &[(&str, &str)], body: &str) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address()?)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len())?;
        Ok(stream)
    }

    /// One message with a token and a fresh proof.
    fn rpc(&self, agent: &str, token: &str, message: &Value) -> Result<Answer> {
        let resource = self.resource(agent)?;
        let proof = self.proof("POST", &resource, token);
        let authorization = format!("DPoP {token}");
        self.send(
            "POST",
            &path(agent),
            &with(&[("authorization", &authorization), ("dpop", &proof)]),
            &message.to_string(),
        )
    }

    fn list(&self, agent: &str, token: &str) -> Result<Answer> {
        self.rpc(agent, token, &modern("tools/list", json!({})))
    }

    fn runs(&self) -> Result<Vec<Value>> {
        let listed = self.plane.json(["run", "list"])?;
        listed.as_array().or_else(|| listed["items"].as_array()).cloned().context("a list")
    }

    /// The rules by which the door refused, with exact sums, when all `total` of them are told.
    fn refused(&self, total: u64) -> Result<Vec<(String, u64)>> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let pack = tempfile::tempdir_in(self.plane.scratch())?.path().join("pack");
            self.plane.ok(["evidence", "export", &pack.to_string_lossy()])?;
            let mut bodies = Vec::new();
            let mut folders = vec![pack];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(&folder)? {
                    let path = entry?.path();
                    if path.is_dir() {
                        folders.push(path);
                        continue;
                    }
                    let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
                    // Leaves are JSON texts, framed by the ledger.
                    for (at, _) in text.match_indices('{') {
                        let mut leaf = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
                        bodies.extend(leaf.next().and_then(Result::ok));
                    }
                }
            }
            let mut sums = std::collections::BTreeMap::new();
            for body in bodies.iter().filter(|body| body["type"] == "outside.refused") {
                let rule = body["rule"].as_str().unwrap_or_default().to_owned();
                *sums.entry(rule).or_insert(0) += body["count"].as_u64().unwrap_or_default();
            }
            if sums.values().sum::<u64>() >= total {
                return Ok(sums.into_iter().collect());
            }
            ensure!(Instant::now() < until, "{sums:?}");
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }
}

fn path(agent: &str) -> String {
    format!("/t/default/a/{agent}/mcp")
}

fn with<'a>(headers: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut all = vec![
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2025-11-25"),
    ];
    all.extend(headers);
    all
}

/// A message of the era with sessions that needs none here: `initialize`, or a list by the stateless era.
fn modern(method: &str, params: Value) -> Value {
    if method == "initialize" {
        return json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } } });
    }
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
}

fn answer(all: &str) -> Result<Answer> {
    let (head, body) = all.split_once("\r\n\r\n").with_context(|| format!("an answer: {all:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("a status")?;
    let mut answer = Answer { status, head: head.to_owned(), body: body.to_owned() };
    if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        let mut rest = body;
        let mut whole = String::new();
        while let Some((size, after)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
            if size == 0 {
                break;
            }
            whole.push_str(after.get(..size).unwrap_or_default());
            rest = after.get(size + 2..).unwrap_or_default();
        }
        answer.body = whole;
    }
    Ok(answer)
}

/// Begins a session, and gives its id.
fn session(world: &World, agent: &str, token: &str) -> Result<String> {
    let begun = world.rpc(agent, token, &modern("initialize", json!({})))?;
    ensure!(begun.status == 200, "{begun:?}");
    Ok(begun.header("mcp-session-id").with_context(|| format!("{begun:?}"))?.to_owned())
}

fn call(world: &World, agent: &str, token: &str, session: &str, name: &str) -> Result<Answer> {
    let resource = world.resource(agent)?;
    let proof = world.proof("POST", &resource, token);
    let authorization = format!("DPoP {token}");
    let message = modern("tools/call", json!({ "name": name, "arguments": { "text": "hello" } }));
    let headers = [("authorization", authorization.as_str()), ("dpop", &proof), ("mcp-session-id", session)];
    world.send("POST", &path(agent), &with(&headers), &message.to_string())
}

#[test]
fn a_real_client_uses_its_tools_through_the_door_and_nothing_else() -> Result<()> {
    let world = world()?;
    world.open("clerk", &[])?;
    let token = world.token("clerk", |_| {})?;
    let python = std::env::var("COGWARD_MCP_CLIENT_PYTHON").context(
        "COGWARD_MCP_CLIENT_PYTHON: a Python with `mcp`; scripts/setup-tests.sh makes it, `make test` names it",
    )?;
    for mode in ["auto", "legacy"] {
        let said = Command::new(&python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/outside/client.py"))
            .env("URL", world.resource("clerk")?)
            .env("TOKEN", &token)
            .env("KEY", STANDARD.encode(&world.client.pkcs8))
            .env("MODE", mode)
            .output()?;
        let out = String::from_utf8_lossy(&said.stdout).into_owned();
        ensure!(said.status.success(), "{mode}: {out}{}\n{}", String::from_utf8_lossy(&said.stderr), world.plane.log());
        let saw: Value = serde_json::from_str(&out)?;
        assert_eq!(saw["tools"], json!(["echo", "wait"]), "{mode}: what is not granted is not there");
        assert_eq!(saw["answer"], "hello");
    }
    let runs = world.runs()?;
    assert_eq!(runs.len(), 1, "one client, one run: {runs:?}");
    let id = runs[0]["id"].as_str().context("an id")?;
    let run = world.plane.run(id)?;
    assert_eq!(run["state"], "running");
    assert_eq!(run["as_user"], "outside:corp:alice");
    assert_eq!(run["outside"], json!({ "issuer": "corp", "client": "ide", "subject": "alice", "binding": "dpop" }));
    assert_eq!(run["usage"]["tool_calls"], 2);
    let leaves = world.plane.leaves(id)?;
    for (kind, name, value) in [
        ("run.requested", "profile", "outside"),
        ("run.requested", "client", "ide"),
        ("run.requested", "binding", "dpop"),
        ("run.started", "profile", "outside"),
        ("sandbox.attested", "profile", "outside"),
        ("outside.token", "issuer", "corp"),
    ] {
        let leaf = leaves.iter().find(|leaf| leaf["type"] == kind).with_context(|| format!("{kind}: {leaves:#?}"))?;
        assert_eq!(leaf[name], value, "{kind}: {leaf:#}");
    }
    assert_eq!(count(&leaves, "tool.call.decided", Some("permit")), 2);
    assert_eq!(count(&leaves, "outside.token", None), 1, "one token, however often it is used");
    let started = leaves.iter().find(|leaf| leaf["type"] == "run.started").context("started")?;
    assert_eq!(started["enforcement"]["sandboxed"], false);

    // The token is nowhere: not in the ledger, not in the state, not in a log.
    let secrets = [token.as_str(), token.rsplit('.').next().unwrap_or_default()];
    let mut places = vec![world.plane.data_dir()];
    let mut files = 0;
    while let Some(place) = places.pop() {
        for entry in fs::read_dir(&place)? {
            let (entry, kind) = {
                let entry = entry?;
                (entry.path(), entry.file_type()?)
            };
            if kind.is_dir() {
                places.push(entry);
            } else if kind.is_file() {
                let bytes = fs::read(&entry)?;
                files += 1;
                for secret in secrets {
                    let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                    assert!(!found, "{}", entry.display());
                }
            }
        }
    }
    assert!(files > 5 && !world.plane.log().contains(secrets[1]));
    Ok(())
}

#[test]
fn a_stranger_learns_where_to_go_and_nothing_of_who_is_there() -> Result<()> {
    let world = world()?;
    world.open("clerk", &[])?;
    let address = world.address()?;
    let metadata = |agent: &str, tenant: &str| {
        let path = format!("/.well-known/oauth-protected-resource/t/{tenant}/a/{agent}/mcp");
        world.send("GET", &path, &[], "")
    };
    let found = metadata("clerk", "default")?;
    assert_eq!(found.status, 200, "{found:?}");
    assert_eq!(
        found.json()?,
        json!({
            "resource": format!("http://{address}/t/default/a/clerk/mcp"),
            "authorization_servers": [ISSUER],
            "scopes_supported": ["cogward.mcp"],
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": ["ES256", "EdDSA", "RS256"],
            "dpop_bound_access_tokens_required": true,
        })
    );
    let nobody = metadata("nobody", "default")?;
    assert_eq!(nobody.body.replace("nobody", "clerk"), found.body);
    for method in ["GET", "POST", "DELETE"] {
        let ours = world.send(method, &path("clerk"), &with(&[]), "{}")?;
        let none = world.send(method, &path("nobody"), &with(&[]), "{}")?;
        assert_eq!((ours.status, none.status), (401, 401), "{method}");
        assert_eq!(ours.body, none.body);
        let challenge = ours.header("www-authenticate").context("a challenge")?;
        assert_eq!(none.header("www-authenticate").unwrap_or_default().replace("nobody", "clerk"), challenge);
        assert_eq!(
            challenge,
            format!(
                "DPoP algs=\"ES256 EdDSA RS256\", resource_metadata=\"http://{address}/.well-known/oauth-protected-resource/t/default/a/clerk/mcp\""
            )
        );
        assert!(ours.header("access-control-allow-origin").is_none());
    }
    // With a token for it: an agent that is not there, one that is closed, and one that does not name the client.
    world.plane.register(&Agent { name: "closed", source: "", permissions: GRANTS, changes: &[] })?;
    let nobody = world.list("nobody", &world.token("nobody", |_| {})?)?;
    let closed = world.list("closed", &world.token("closed", |_| {})?)?;
    let other = world.list("clerk", &world.token("clerk", |claims| claims["client_id"] = "stranger".into())?)?;
    let bob = world.list("clerk", &world.token("clerk", |claims| claims["sub"] = "bob".into())?)?;
    for refused in [&nobody, &closed, &other, &bob] {
        assert_eq!((refused.status, refused.json()?["error"].as_str()), (403, Some("access_denied")), "{refused:?}");
        assert_eq!(refused.body, nobody.body);
    }
    // The host and the origin are the operator's, whatever a request says.
    for (host, origin) in [
        ("evil.example", None),
        ("127.0.0.1", None),
        (address.as_str(), Some("https://evil.example")),
        (&address, Some("null")),
    ] {
        let headers: Vec<_> = origin.iter().map(|origin| ("origin", *origin)).collect();
        let mut stream =
            world.connect("GET", "/.well-known/oauth-protected-resource/t/default/a/clerk/mcp", host, &headers, "")?;
        let mut all = String::new();
        stream.read_to_string(&mut all)?;
        let refused = answer(&all)?;
        assert_eq!(refused.status, 403, "{host} {origin:?}: {refused:?}");
        assert!(!refused.body.contains("evil"));
    }
    let preflight = world.send("OPTIONS", &path("clerk"), &[("access-control-request-method", "POST")], "")?;
    assert_eq!(preflight.status, 405);
    assert!(world.runs()?.is_empty(), "nobody was let in");
    Ok(())
}

#[test]
fn what_is_not_a_bound_token_for_this_door_is_refused_and_counted() -> Result<()> {
    let world = world()?;
    world.open("clerk", &[])?;
    world.open("teller", &[])?;
    let good = world.token("clerk", |_| {})?;
    let resource = world.resource("clerk")?;
    let send = |authorization: &str, proof: Option<&str>| {
        let mut headers = vec![("authorization", authorization)];
        headers.extend(proof.map(|proof| ("dpop", proof)));
        let list = modern("initialize", json!({})).to_string();
        world.send("POST", &path("clerk"), &with(&headers), &list)
    };
    let stranger = Key::new()?;
    let own_key = {
        let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": stranger.jwk() });
        let claims = json!({ "jti": "x", "htm": "POST", "htu": resource, "iat": now(), "ath": hash(good.as_bytes()) });
        stranger.sign(&header, &claims)
    };
    let unbound = world.token("clerk", |claims| drop(claims.as_object_mut().map(|claims| claims.remove("cnf"))))?;
    let teller = world.token("teller", |_| {})?;
    let expired = world.token("clerk", |claims| claims["exp"] = (now() - 1).into())?;
    let foreign = world.token("clerk", |claims| claims["iss"] = "https://evil.example".into())?;
    let forged = {
        let mut parts: Vec<_> = good.split('.').map(str::to_owned).collect();
        let claims = json!({ "iss": ISSUER, "aud": resource, "sub": "root", "client_id": "ide", "jti": "t", "iat": now(),
            "exp": now() + 300, "scope": "cogward.mcp", "cnf": { "jkt": world.client.thumbprint() } });
        parts[1] = text(claims.to_string());
        parts.join(".")
    };
    let proof = |token: &str| world.proof("POST", &resource, token);
    let other_method = world.proof("GET", &resource, &good);
    let other_place = world.proof("POST", &world.resource("teller")?, &good);
    let mut total = 0;
    for (authorization, proof, error, why) in [
        (format!("DPoP {good}"), None, "invalid_dpop_proof", "a stolen token without its key"),
        (format!("Bearer {good}"), None, "invalid_dpop_proof", "a bound token as if it were bound to nothing"),
        (format!("Bearer {good}"), Some(proof(&good)), "invalid_token", "the same with a proof"),
        (format!("DPoP {good}"), Some(own_key), "invalid_dpop_proof", "a key of the thief's own"),
        (format!("DPoP {good}"), Some(other_method), "invalid_dpop_proof", "a proof for another method"),
        (format!("DPoP {good}"), Some(other_place), "invalid_dpop_proof", "a proof for another place"),
        (format!("DPoP {teller}"), Some(proof(&teller)), "invalid_token", "a token for another agent"),
        (format!("DPoP {expired}"), Some(proof(&expired)), "invalid_token", "an expired token"),
        (format!("DPoP {foreign}"), Some(proof(&foreign)), "invalid_token", "another issuer"),
        (format!("DPoP {forged}"), Some(proof(&forged)), "invalid_token", "a forged token"),
        (format!("Bearer {unbound}"), None, "invalid_token", "a token that is bound to nothing"),
        ("DPoP not.a.token".to_owned(), None, "invalid_token", "no token"),
        (format!("DPoP {}", "x".repeat(9_000)), None, "invalid_token", "a huge token"),
        ("Basic YTpi".to_owned(), None, "invalid_token", "another scheme"),
    ] {
        let refused = send(&authorization, proof.as_deref())?;
        total += 1;
        assert_eq!(refused.status, 401, "{why}: {refused:?}");
        assert_eq!(refused.json()?["error"], error, "{why}");
        let challenge = refused.header("www-authenticate").unwrap_or_default();
        assert!(challenge.contains(&format!("error=\"{error}\"")), "{why}: {challenge}");
    }
    let scopeless = world.list("clerk", &world.token("clerk", |claims| claims["scope"] = "openid".into())?)?;
    assert_eq!((scopeless.status, scopeless.json()?["scope"].as_str()), (403, Some("cogward.mcp")));
    assert!(
        scopeless
            .header("www-authenticate")
            .unwrap_or_default()
            .contains("error=\"insufficient_scope\", scope=\"cogward.mcp\"")
    );
    total += 1;
    assert!(world.runs()?.is_empty(), "no run was opened for any of them");

    // One proof, twice.
    let used = proof(&good);
    let authorization = format!("DPoP {good}");
    assert_eq!(send(&authorization, Some(&used))?.status, 200);
    assert_eq!(send(&authorization, Some(&used))?.status, 401);
    total += 1;
    let sums = world.refused(total)?;
    assert_eq!(sums.iter().map(|(_, count)| count).sum::<u64>(), total, "{sums:?}");
    for (rule, count) in
        [("proof.replay", 1), ("proof.missing", 2), ("token.unbound", 1), ("token.issuer", 1), ("token.aud", 1)]
    {
        assert!(sums.contains(&(rule.to_owned(), count)), "{rule}: {sums:?}");
    }
    // Another tenant's door does not take this tenant's issuer.
    world.plane.ok(["tenant", "create", "wealth", "--reason", "test"])?;
    let wealth = format!("http://{}/t/wealth/a/clerk/mcp", world.address()?);
    let token = world.token("clerk", |claims| claims["aud"] = wealth.as_str().into())?;
    let (proof, authorization) = (world.proof("POST", &wealth, &token), format!("DPoP {token}"));
    let headers = with(&[("authorization", &authorization), ("dpop", &proof)]);
    assert_eq!(world.send("POST", "/t/wealth/a/clerk/mcp", &headers, "{}")?.status, 401);
    Ok(())
}

#[test]
fn a_kill_ends_what_a_client_does_and_it_does_not_come_back_by_itself() -> Result<()> {
    let world = world()?;
    world.open("clerk", &[])?;
    let token = world.token("clerk", |_| {})?;
    let begun = session(&world, "clerk", &token)?;
    assert_eq!(call(&world, "clerk", &token, &begun, "echo")?.status, 200);
    let run = world.runs()?[0]["id"].as_str().context("an id")?.to_owned();

    // A call that does not end, and a stream that stays open.
    let (resource, authorization) = (world.resource("clerk")?, format!("DPoP {token}"));
    let address = world.address()?;
    let open = |method: &str, body: &str| {
        let proof = world.proof(method, &resource, &token);
        let headers = [("authorization", authorization.as_str()), ("dpop", &proof), ("mcp-session-id", &begun)];
        world.connect(method, &path("clerk"), &address, &with(&headers), body)
    };
    let mut stream = BufReader::new(open("GET", "")?);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    assert!(line.contains("200"), "{line}");
    let mut waiting = open("POST", &modern("tools/call", json!({ "name": "wait", "arguments": {} })).to_string())?;
    world.plane.run_until(&run, |run| run["usage"]["tool_calls"] == 2)?;
    let ordered = Instant::now();
    world.plane.ok(["run", "kill", &run, "--reason", "test"])?;
    let mut rest = Vec::new();
    // Cut off: the end of the stream, or an error of it.
    let _cut = stream.read_to_end(&mut rest);
    let _cut = waiting.read_to_end(&mut rest);
    let took = ordered.elapsed();
    assert!(took < KILL_MAX, "{took:?}");
    let rest = String::from_utf8_lossy(&rest);
    // Cut off, or told by the plane that it is over where that was faster; never an answer of the tool.
    assert!(!rest.contains("\"result\"") || rest.contains("cogward refused this call"), "{rest}");
    let ended = world.plane.run_until(&run, |run| run["ended"].is_string())?;
    assert_eq!(ended["state"], "killed");

    // It may ask again, with a token that is good: it stays out until an operator starts a run for it.
    let refused = world.list("clerk", &token)?;
    assert_eq!((refused.status, refused.json()?["error"].as_str()), (403, Some("stopped")), "{refused:?}");
    assert_eq!(world.runs()?.len(), 1);
    let other = world.token("clerk", |claims| {
        claims["sub"] = "robot".into();
        claims["client_id"] = "robot".into();
    })?;
    assert_eq!(session(&world, "clerk", &other).map(|_| ()).ok(), Some(()), "another client is another run");
    let started = world.plane.json([
        "run",
        "start",
        "clerk",
        "--outside",
        "corp",
        "--client",
        "ide",
        "--subject",
        "alice",
        "--reason",
        "looked into",
    ])?;
    world.plane.run_until(started["id"].as_str().context("an id")?, |run| run["state"] == "running")?;
    let begun = session(&world, "clerk", &token)?;
    assert_eq!(call(&world, "clerk", &token, &begun, "echo")?.status, 200);
    assert_eq!(world.runs()?.len(), 3);

    // Trust that is withdrawn is withdrawn at once.
    world.plane.ok(["issuer", "remove", "corp", "--reason", "test"])?;
    assert_eq!(call(&world, "clerk", &token, &begun, "echo")?.status, 401);
    // And what its name stands for stays: manifests and the memory of users say the name.
    let keys = world.plane.scratch().join("jwks.json");
    let keys = keys.to_str().context("a path")?;
    let again = ["issuer", "add", "corp", "--issuer", "https://evil.example", "--jwks-file", keys, "--reason", "test"];
    let refused = world.plane.cli(again)?;
    assert!(refused.code() == 5 && refused.stderr.contains("another issuer"), "{}", refused.stderr);
    // Nor does an operator act as one of its users.
    let refused = world.plane.cli(["run", "start", "clerk", "--as", "outside:corp:alice", "--reason", "test"])?;
    assert!(refused.code() != 0 && refused.stderr.contains("those of tokens"), "{}", refused.stderr);
    world.plane.ok(["issuer", "add", "corp", "--issuer", ISSUER, "--jwks-file", keys, "--reason", "test"]).map(drop)
}

#[test]
fn what_a_token_let_in_ends_with_the_token_and_with_the_trust_in_its_issuer() -> Result<()> {
    let world = world()?;
    world.open("clerk", &[])?;
    let long = world.token("clerk", |_| {})?;
    let begun = session(&world, "clerk", &long)?;
    let (resource, address) = (world.resource("clerk")?, world.address()?);
    let open = |token: &str, method: &str, body: &str| {
        let (proof, authorization) = (world.proof(method, &resource, token), format!("DPoP {token}"));
        let headers = [("authorization", authorization.as_str()), ("dpop", &proof), ("mcp-session-id", &begun)];
        world.connect(method, &path("clerk"), &address, &with(&headers), body)
    };
    let message = modern("tools/call", json!({ "name": "wait", "arguments": {} })).to_string();
    let ends = now() + 3;
    let short = world.token("clerk", |claims| claims["exp"] = ends.into())?;
    let (mut stream, mut waiting) = (open(&short, "GET", "")?, open(&short, "POST", &message)?);
    let mut said = Vec::new();
    let _cut = stream.read_to_end(&mut said);
    assert!(String::from_utf8_lossy(&said).starts_with("HTTP/1.1 200"), "{}", String::from_utf8_lossy(&said));
    let mut refused = Vec::new();
    let _cut = waiting.read_to_end(&mut refused);
    assert!((ends..ends + 10).contains(&now()), "it ended when its token did");
    assert!(!String::from_utf8_lossy(&refused).contains("\"result\""));
    // The run goes on for the next token of the same client.
    assert_eq!(call(&world, "clerk", &long, &begun, "echo")?.status, 200);
    assert_eq!(world.runs()?.len(), 1);

    let mut stream = BufReader::new(open(&long, "GET", "")?);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    assert!(line.contains("200"), "{line}");
    let ordered = Instant::now();
    world.plane.ok(["issuer", "remove", "corp", "--reason", "its keys leaked"])?;
    let _cut = stream.read_to_end(&mut said);
    assert!(ordered.elapsed() < KILL_MAX, "{:?}", ordered.elapsed());
    assert_eq!(call(&world, "clerk", &long, &begun, "echo")?.status, 401);
    Ok(())
}

#[test]
fn a_suspended_run_holds_its_client_across_a_restart_of_the_plane() -> Result<()> {
    let mut world = world_with(Some("https://mcp.bank.example"), &[])?;
    world.open("clerk", &[])?;
    let token = world.token("clerk", |_| {})?;
    let begun = session(&world, "clerk", &token)?;
    assert_eq!(call(&world, "clerk", &token, &begun, "echo")?.status, 200);
    let run = world.runs()?[0]["id"].as_str().context("an id")?.to_owned();
    world.plane.ok(["run", "suspend", &run, "--reason", "test"])?;
    let old = world.proof("POST", &world.resource("clerk")?, &token);
    world.plane.kill_9()?;
    world.plane.up()?;
    let until = Instant::now() + Duration::from_secs(60);
    // The memory of what was used is gone with the plane: nobody is let in before that cannot matter any more.
    let mut waited = 0;
    loop {
        let said = world.send("POST", &path("clerk"), &with(&[]), "{}")?;
        if said.status != 503 {
            assert_eq!(said.status, 401, "{said:?}");
            assert!(waited > 0, "the door was open at once");
            break;
        }
        waited += 1;
        ensure!(Instant::now() < until, "the door stays closed: {said:?}");
        std::thread::park_timeout(Duration::from_millis(200));
    }
    let authorization = format!("DPoP {token}");
    let headers = with(&[("authorization", &authorization), ("dpop", &old)]);
    assert_eq!(world.send("POST", &path("clerk"), &headers, "{}")?.status, 401, "a proof from before");
    assert_eq!(world.plane.run(&run)?["state"], "suspended");
    // Its requests are held as those of every suspended run.
    let proof = world.proof("POST", &world.resource("clerk")?, &token);
    let headers = with(&[("authorization", &authorization), ("dpop", &proof)]);
    let list = modern("initialize", json!({})).to_string();
    let mut stream = world.connect("POST", &path("clerk"), &world.address()?, &headers, &list)?;
    let message = call_begins(&mut stream)?;
    assert!(message.starts_with("HTTP/1.1 200"), "beginning a session is no effect: {message}");
    assert_eq!(world.runs()?.len(), 1, "no second run beside the one that is held");
    world.plane.ok(["run", "resume", &run, "--reason", "test"])?;
    let begun = session(&world, "clerk", &token)?;
    assert_eq!(call(&world, "clerk", &token, &begun, "echo")?.status, 200);
    let leaves = world.plane.leaves(&run)?;
    assert_eq!(count(&leaves, "run.adopted", None), 1);
    Ok(())
}

fn call_begins(stream: &mut TcpStream) -> Result<String> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

#[test]
fn a_token_that_is_bound_to_nothing_is_taken_by_the_operator_s_word_and_the_evidence_says_so() -> Result<()> {
    let world = world_with(None, &["--bearer-in-development"])?;
    world.open("clerk", &[])?;
    let unbound = world.token("clerk", |claims| drop(claims.as_object_mut().map(|claims| claims.remove("cnf"))))?;
    let authorization = format!("Bearer {unbound}");
    let list = modern("initialize", json!({})).to_string();
    let taken = world.send("POST", &path("clerk"), &with(&[("authorization", &authorization)]), &list)?;
    assert_eq!(taken.status, 200, "{taken:?}");
    let run = world.runs()?[0]["id"].as_str().context("an id")?.to_owned();
    let leaves = world.plane.leaves(&run)?;
    let requested = leaves.iter().find(|leaf| leaf["type"] == "run.requested").context("requested")?;
    assert_eq!(requested["binding"], "bearer", "the evidence says so");
    // The same client with a bound token: another run, because the first says that it was not.
    session(&world, "clerk", &world.token("clerk", |_| {})?)?;
    let runs = world.runs()?;
    let bindings: Vec<_> = runs.iter().map(|run| run["outside"]["binding"].clone()).collect();
    assert_eq!(bindings, ["dpop", "bearer"]);
    world.plane.run_until(&run, |run| run["state"] == "succeeded")?;
    Ok(())
}

#[test]
fn the_door_is_closed_unless_it_is_asked_for_and_only_on_loopback() -> Result<()> {
    let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
    let known: Value = serde_json::from_str(&fs::read_to_string(plane.data_dir().join("plane.json"))?)?;
    assert!(known.get("mcp").is_none());
    let dir = plane.scratch().join("other").to_string_lossy().into_owned();
    for (flags, why) in [
        (vec!["--mcp-listen", "0.0.0.0:0"], "not a loopback address"),
        (vec!["--mcp-listen", "127.0.0.1:0", "--mcp-url", "http://mcp.bank.example"], "in clear"),
        (vec!["--mcp-listen", "127.0.0.1:0", "--mcp-url", "https://user@mcp.bank.example"], "not a plain URL"),
    ] {
        let mut args = vec!["serve", "--listen", "127.0.0.1:0", "--data-dir", &dir];
        args.extend(flags);
        let refused = plane.cli(args)?;
        assert_ne!(refused.code(), 0);
        assert!(refused.stderr.contains(why) || refused.stderr.contains("plain URL"), "{}", refused.stderr);
    }
    Ok(())
}
