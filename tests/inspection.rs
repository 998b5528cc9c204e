//! Inspected hosts on the real binary: unmodified clients inside a real sandbox, a real TLS server outside,
//! and a credential that the sandbox never holds.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use cogward_testkit::{Agent, Plane, count};
use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const SECRET: &str = "ghp_Sup3rS3cretValue0123456789abcdef";

/// The host: says what it was asked and whether the credential was right; `/v1/echo` reflects everything.
const HOST: &str = r#"
import http.server, json, ssl, sys
class Host(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        said = {"path": self.path, "authorised": self.headers.get("authorization") == "Bearer " + sys.argv[3], "bytes": len(body)}
        if self.path == "/v1/echo":
            said["headers"] = dict(self.headers)
        text = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    do_GET = do_POST = do_DELETE = answer
    def log_message(self, *a):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

struct Outside {
    _dir: tempfile::TempDir,
    server: Child,
    port: u16,
    root: String,
}

impl Drop for Outside {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

fn openssl(dir: &Path, line: &str) -> Result<()> {
    let done = Command::new("openssl").args(line.split(' ')).current_dir(dir).output().context("starting openssl")?;
    ensure!(done.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// A host with a certificate of a root that only the plane is told to trust.
fn outside() -> Result<Outside> {
    let dir = tempfile::tempdir()?;
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(
        dir.path(),
        &format!(
            "req -x509 {key} -days 2 -keyout root.key -out root.pem -subj /CN=test-root \
             -addext keyUsage=critical,keyCertSign"
        ),
    )?;
    openssl(dir.path(), &format!("req -new {key} -keyout key.pem -out csr.pem -subj /CN=host"))?;
    fs::write(dir.path().join("ext"), "subjectAltName=DNS:api.example.com\n")?;
    openssl(
        dir.path(),
        "x509 -req -in csr.pem -CA root.pem -CAkey root.key -CAcreateserial -days 2 -extfile ext -out cert.pem",
    )?;
    fs::write(dir.path().join("host.py"), HOST)?;
    let mut server = Command::new("/usr/bin/python3")
        .args(["host.py", "cert.pem", "key.pem", SECRET])
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(server.stdout.take().context("the host's output")?).read_line(&mut line)?;
    let root = dir.path().join("root.pem").to_string_lossy().into_owned();
    Ok(Outside { port: line.trim().parse().context("the host's port")?, _dir: dir, server, root })
}

fn plane(outside: &Outside) -> Result<Plane> {
    let host = format!("api.example.com=127.0.0.1:{}", outside.port);
    let trust = [("SSL_CERT_FILE", outside.root.as_str())];
    let plane =
        Plane::start_configured(env!("CARGO_BIN_EXE_cogward"), &["--egress-host", &host, "--log", "debug"], &trust)?;
    let stored = plane.cli_with_input(
        ["credential", "add", "github", "--host", "api.example.com", "--credential-file", "-", "--reason", "test"],
        SECRET,
    )?;
    ensure!(stored.status.success(), "{}{}", stored.stdout, stored.stderr);
    Ok(plane)
}

const PERMISSIONS: &str = "    egress:
      - host: api.example.com
        port: 443
        inspect:
          methods: [GET, POST]
          paths: [/v1/*]
          credential: {name: github, env: GITHUB_TOKEN}
";
const ROOM: (&str, &str) = ("memoryMib: 128, pids: 32, workspaceMib: 8", "memoryMib: 768, pids: 128, workspaceMib: 32");

const CLIENTS: &str = r#"
import json, os, subprocess, sys
sys.path.insert(0, "/app/libs")
token = os.environ["GITHUB_TOKEN"]
url = "https://api.example.com/v1/"
said = {"token": token, "environment": "".join(os.environ.values())}

import urllib.error, urllib.request
def ask(path, method="GET", headers=None, data=None):
    try:
        r = urllib.request.Request("https://api.example.com" + path, data=data, method=method, headers=headers or {})
        return urllib.request.urlopen(r, timeout=30).read().decode()
    except urllib.error.HTTPError as e:
        return json.dumps({"status": e.code, **json.loads(e.read())["error"]})
    except Exception as e:
        return json.dumps({"broken": type(e).__name__})
bearer = {"Authorization": "Bearer " + token}
said["urllib"] = json.loads(ask("/v1/urllib", headers=bearer))

import requests
said["requests"] = requests.post(url + "requests", data=b"x" * 100_000, headers=bearer, timeout=30).json()

import httpx
said["httpx"] = httpx.get(url + "httpx", headers=bearer, timeout=30).json()

curl = subprocess.run(["curl", "-sS", "-H", "Authorization: Bearer " + token, url + "curl"], capture_output=True, text=True)
said["curl"] = json.loads(curl.stdout) if curl.returncode == 0 else curl.stderr

node = subprocess.run(["node", "/app/client.js", token], capture_output=True, text=True)
said["node"] = json.loads(node.stdout) if node.returncode == 0 else node.stderr

said["attacks"] = {
    "another path": json.loads(ask("/admin", headers=bearer)),
    "another method": json.loads(ask("/v1/x", method="DELETE")),
    "in the url": json.loads(ask("/v1/x?token=" + token)),
    "in another header": json.loads(ask("/v1/x", headers={"X-Token": token})),
    "fronting": json.loads(ask("/v1/x", headers={"Host": "evil.example.com"})),
    "echo": json.loads(ask("/v1/echo", headers=bearer)),
}
said["files"] = {name: open("/run/cogward/" + name).read() for name in ("ca.pem",)}
said["bundle"] = open("/run/cogward/ca-bundle.pem").read().count("BEGIN CERTIFICATE")
try:
    open("/run/cogward/ca.pem", "a").write("x")
    said["writable"] = True
except OSError:
    said["writable"] = False
open(os.environ["COGWARD_OUTPUT_FILE"], "w").write(json.dumps(said))
"#;

/// What a Node client does that knows the proxy: a tunnel, TLS with the run's own trust, one request.
const NODE: &str = r#"
const http = require("http"), https = require("https");
const proxy = new URL(process.env.HTTPS_PROXY);
http.request({host: proxy.hostname, port: proxy.port, method: "CONNECT", path: "api.example.com:443"})
  .on("connect", (answer, socket) => {
    https.get({host: "api.example.com", path: "/v1/node", socket, agent: false,
               headers: {authorization: "Bearer " + process.argv[2]}}, r => r.pipe(process.stdout));
  }).end();
"#;

#[test]
fn unmodified_clients_reach_an_inspected_host_and_the_secret_stays_outside() -> Result<()> {
    let outside = outside()?;
    let plane = plane(&outside)?;
    let agent = Agent { name: "clients", source: CLIENTS, permissions: PERMISSIONS, changes: &[ROOM] };
    let manifest = plane.write_agent(&agent)?;
    let code = manifest.parent().context("the agent's directory")?.join("code");
    fs::write(code.join("client.js"), NODE)?;
    let vendored = format!("{ROOT}/build/examples/langgraph");
    ensure!(
        Path::new(&vendored).exists(),
        "{vendored} is missing: run scripts/vendor-examples.sh, as `make test` does"
    );
    fs::create_dir(code.join("libs"))?;
    for library in [
        "requests",
        "urllib3",
        "idna",
        "certifi",
        "charset_normalizer",
        "httpx",
        "httpcore",
        "h11",
        "anyio",
        "sniffio",
        "typing_extensions.py",
    ] {
        let from = format!("{vendored}/{library}");
        let copied = Command::new("cp").args(["-r", &from]).arg(code.join("libs")).status()?;
        ensure!(copied.success() || library == "sniffio", "{from} is missing");
    }
    plane.ok(["agent", "register", "-f", &manifest.to_string_lossy()])?;
    let run = plane.start_run("clients")?;
    let said = plane.output(&run)?;
    let text = said.to_string();
    assert_eq!(said["token"], "cogward-placeholder:github");
    assert!(!text.contains(SECRET) && !text.contains(&SECRET[..16]), "{text}");
    for client in ["urllib", "requests", "httpx", "curl", "node"] {
        assert_eq!(said[client]["authorised"], true, "{client}: {text}");
        assert_eq!(said[client]["path"], format!("/v1/{client}"), "{client}: {text}");
    }
    assert_eq!(said["requests"]["bytes"], 100_000);
    let attacks = &said["attacks"];
    for (attack, rule, code) in [
        ("another path", "permissions.egress.inspect", "not_declared"),
        ("another method", "permissions.egress.inspect", "not_declared"),
        ("in the url", "egress.credential", "credential_misused"),
        ("in another header", "egress.credential", "credential_misused"),
        ("fronting", "egress.host_header", "address_refused"),
    ] {
        let answer = (&attacks[attack]["status"], &attacks[attack]["rule"], &attacks[attack]["code"]);
        assert_eq!(answer, (&403.into(), &rule.into(), &code.into()), "{attack}: {text}");
    }
    assert!(attacks["echo"]["broken"].is_string(), "an answer that is broken off: {text}");
    let authority = said["files"]["ca.pem"].as_str().unwrap_or_default();
    assert!(authority.contains("BEGIN CERTIFICATE") && !text.contains("PRIVATE KEY"), "{text}");
    assert!(said["bundle"].as_u64().unwrap_or(0) > 1, "the roots of the sandbox are in the bundle");
    assert_eq!(said["writable"], false);

    let leaves = plane.leaves(&run)?;
    assert_eq!(count(&leaves, "egress.decided", Some("permit")), 6, "five clients and the echo");
    assert_eq!(count(&leaves, "egress.decided", Some("block")), 5);
    assert_eq!(count(&leaves, "security.finding", None), 3);
    let finding = leaves.iter().find(|l| l["type"] == "security.finding").context("a finding")?;
    assert_eq!(finding["severity"], "high");
    let everything = serde_json::to_string(&leaves)? + &plane.log() + &plane.logs(&run, "stderr");
    assert!(!everything.contains(SECRET) && !everything.contains(&SECRET[..16]));
    let state = fs::read(plane.data_dir().join("state.db"))?;
    assert!(!state.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()), "sealed");
    let shown = plane.json(["credential", "show", "github"])?;
    assert_eq!((&shown["host"], &shown["header"]), (&"api.example.com".into(), &"authorization".into()));
    assert!(!shown.to_string().contains(SECRET));
    Ok(())
}

const FAITHFUL: &str = r#"
import os, time, urllib.request
done = 0
while True:
    try:
        r = urllib.request.Request("https://api.example.com/v1/again", headers={"Authorization": "Bearer " + os.environ["GITHUB_TOKEN"]})
        if b'"authorised": true' in urllib.request.urlopen(r, timeout=10).read():
            done += 1
            print("ok", done, flush=True)
    except OSError as e:
        print("not now", e, flush=True)
    time.sleep(0.1)
"#;

#[test]
fn the_trust_of_a_run_survives_its_plane_and_a_credential_can_be_taken_back() -> Result<()> {
    let outside = outside()?;
    let mut plane = plane(&outside)?;
    let run =
        plane.launch(&Agent { name: "faithful", source: FAITHFUL, permissions: PERMISSIONS, changes: &[ROOM] })?;
    plane.said(&run, "ok 1\n")?;
    plane.kill_9()?;
    plane.up()?;
    let before = plane.logs(&run, "stdout").matches("ok ").count();
    plane.said(&run, &format!("ok {}\n", before + 3))?;
    plane.ok(["credential", "remove", "github", "--reason", "it leaked"])?;
    plane.said(&run, "HTTP Error 502")?;
    let leaves = plane.leaves(&run)?;
    let refused = leaves.iter().find(|l| l["rule"] == "egress.credential").context("a refusal for want of it")?;
    assert_eq!(refused["code"], "upstream_unavailable");
    Ok(())
}

#[test]
fn what_cannot_be_inspected_or_is_not_stored_is_not_registered() -> Result<()> {
    let outside = outside()?;
    let plane = plane(&outside)?;
    for (name, permissions, rule) in [
        ("unknown", PERMISSIONS.replace("name: github", "name: gitlab"), "unknown-credential"),
        ("elsewhere", PERMISSIONS.replace("host: api.", "host: other."), "unknown-credential"),
        ("plain", PERMISSIONS.replace("port: 443", "port: 443\n        protocol: http"), "egress-inspect"),
        ("nothing", PERMISSIONS.replace("[GET, POST]", "[]"), "empty"),
        ("lower", PERMISSIONS.replace("[GET, POST]", "[get]"), "method"),
        ("dots", PERMISSIONS.replace("/v1/*", "/v1/../x"), "path"),
        ("reserved", PERMISSIONS.replace("GITHUB_TOKEN", "LD_PRELOAD"), "environment"),
    ] {
        let manifest =
            plane.write_agent(&Agent { name, source: "print(1)\n", permissions: &permissions, changes: &[] })?;
        let refused = plane.cli(["agent", "register", "-f", &manifest.to_string_lossy(), "-o", "json"])?;
        assert_ne!(refused.code(), 0, "{name}: {}", refused.stdout);
        let all = refused.stdout + &refused.stderr;
        assert!(all.contains(rule), "{name}: {all}");
    }
    let path = "/api/v1/tenants/default/credentials/bad";
    let bearer = format!("Bearer {}", plane.token());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    for body in [
        r#"{"host": "169.254.169.254", "credential": "0123456789"}"#,
        r#"{"host": "api.example.com", "credential": "short"}"#,
        r#"{"host": "api.example.com", "header": "host", "credential": "0123456789"}"#,
        r#"{"host": "api.example.com", "credential": "0123456789\r\nX-Evil: 1"}"#,
    ] {
        let (status, answer) = plane.http("PUT", path, &headers, body.as_bytes())?;
        assert_eq!(status, 400, "{body}: {answer}");
        let problem: Value = serde_json::from_str(&answer)?;
        assert_eq!(problem["code"], "invalid_request", "{answer}");
    }
    Ok(())
}

const PAYS: &str = r#"
import time, urllib.error, urllib.request
def ask(path):
    try:
        return 200, urllib.request.urlopen("https://api.example.com" + path, timeout=30).read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()
def say(name, answer):
    print(name, *answer, flush=True)
for name, path in [("first", "/v1/pay?amount=1"), ("again", "/v1/pay?amount=1"), ("more", "/v1/pay?amount=5000"), ("none", "/v1/pay"), ("deeper", "/v1/pay/x?amount=1")]:
    say(name, ask(path))
print("asked", flush=True)
while True:
    others = [ask("/v1/pay?amount=5000")[0] for _ in range(3)] + [ask("/v1/pay")[0]]
    print("others", *others, flush=True)
    if ask("/v1/pay?amount=1")[0] == 200:
        break
    time.sleep(0.05)
say("after", ask("/v1/pay?amount=1"))
print("done", flush=True)
"#;

const CLERKS: &str = r#"@id("all") permit (principal, action, resource);
@id("pays") @escalate("clerk") permit (principal is Cogward::AgentVersion, action == Cogward::Action::"egress", resource)
when { context has request && context.request.path like "/v1/pay*" };
"#;

#[test]
fn an_approval_of_a_request_is_for_its_query_and_its_path() -> Result<()> {
    let outside = outside()?;
    let plane = plane(&outside)?;
    let file = plane.scratch().join("policy.cedar");
    fs::write(&file, CLERKS)?;
    let level = ["--level", "tenant:default", "--reason", "test"];
    let put = plane.json(["policy", "put", &file.to_string_lossy()].into_iter().chain(level))?;
    let digest = put["digest"].as_str().context("a digest")?;
    plane.ok(["policy", "approve", digest].into_iter().chain(level))?;
    plane.ok(["policy", "activate", digest].into_iter().chain(level))?;
    let clerk = plane.ok(["operator", "add", "bo", "--role", "clerk", "--reason", "test"])?.trim().to_owned();
    let run = plane.launch(&Agent { name: "pays", source: PAYS, permissions: PERMISSIONS, changes: &[ROOM] })?;
    plane.said(&run, "asked\n")?;
    let answer = |name: &str| -> Result<(String, Value)> {
        let out = plane.logs(&run, "stdout");
        let line = out.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).context(name.to_owned())?;
        let (status, body) = line.split_once(' ').context("a status and a body")?;
        Ok((status.to_owned(), serde_json::from_str(body)?))
    };
    let waits_for = |name: &str| -> Result<String> {
        let (status, body) = answer(name)?;
        ensure!(status == "403" && body["error"]["code"] == "approval_required", "{name}: {status} {body}");
        Ok(body["error"]["approval"]["id"].as_str().context("an approval")?.to_owned())
    };
    let first = waits_for("first")?;
    assert_eq!(waits_for("again")?, first, "the same request is the same question");
    let others = [waits_for("more")?, waits_for("none")?, waits_for("deeper")?];
    assert!(!others.contains(&first) && others[0] != others[1] && others[1] != others[2], "{first} {others:?}");
    let shown = plane.json(["approval", "show", &first])?;
    assert!(shown["arguments"].as_str().is_some_and(|text| text.contains("amount=1")), "{shown:#}");
    let approve = ["approval", "approve", &first, "--reason", "one is right"];
    let approved = plane.command(approve).env("COGWARD_TOKEN", &clerk).output()?;
    ensure!(approved.status.success(), "{}", String::from_utf8_lossy(&approved.stderr));
    plane.said(&run, "done\n")?;
    let out = plane.logs(&run, "stdout");
    let beside: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("others ")).collect();
    ensure!(!beside.is_empty() && beside.iter().all(|line| *line == "403 403 403 403"), "{out}");
    ensure!(waits_for("after")? != first, "it was for one request: {out}");
    let leaves = plane.leaves(&run)?;
    assert_eq!(count(&leaves, "egress.decided", Some("permit")), 1);
    let told = serde_json::to_string(&leaves)?;
    assert!(told.contains("query") && !told.contains("amount=") && !told.contains("/v1/pay"), "{told}");
    Ok(())
}
