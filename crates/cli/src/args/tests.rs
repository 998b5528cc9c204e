//! Every verb, as it is typed and as it is understood; what is refused; and that docs/cli.md has it all.

use clap::{CommandFactory, Parser};

use super::*;

const RUN: &str = "run_01KAMZ0000000000000000000A";
const OPERATOR: &str = "opr_01KAMZ0000000000000000000A";
const OPERATION: &str = "op_01KAMZ0000000000000000000A";

fn parse(line: &str) -> Result<Cli, clap::Error> {
    let words = line.replace("RUN", RUN).replace("OPERATION", OPERATION).replace("OPERATOR", OPERATOR);
    Cli::try_parse_from(std::iter::once("cogward").chain(words.split(' ')))
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

/// The lines that documentation, tests and scripts use: what stops parsing here breaks somebody.
#[test]
fn every_verb_is_understood() {
    for line in [
        "serve",
        "serve --data-dir /tmp/plane --listen 127.0.0.1:0 --log debug --log-format json",
        "serve --log-listen 127.0.0.1:0 --witness https://w.example/=w.example+00000000+AAAA --witness-quorum 1",
        "serve --witness-policy policy.txt",
        "serve --timestamp https://tsa.example/ --timestamp http://127.0.0.1:8318 --timestamp-every 600",
        "evidence timestamp request plane.tsq",
        "evidence timestamp import plane.tsr",
        "witness serve --dir w --name w.example --log plane.vkey --listen 127.0.0.1:0",
        "witness sign - --dir w",
        "witness key --dir w",
        "evidence status -o json",
        "evidence checkpoint --tenant retail",
        "evidence checkpoint export --old 7",
        "evidence checkpoint import cosigned.txt",
        "doctor",
        "doctor --remote -o json",
        "doctor --format json",
        "floor list",
        "floor list --tenant retail -o json",
        "floor set production hardened --reason x",
        "floor set development hardened --tenant retail --reason x",
        "floor clear production --reason x",
        "floor clear development --tenant retail --reason x",
        "floor shortfalls",
        "floor shortfalls --tenant retail --limit 5",
        "operator list",
        "operator add ada --role finance --role legal --reason x",
        "operator add audit --auditor --reason x",
        "operator roles OPERATOR --role finance --reason x",
        "operator roles --reason x",
        "operator revoke OPERATOR --reason x",
        "policy list",
        "policy list --level tier:retail/production --limit 3",
        "policy show active",
        "policy show 3 --level agent:retail/claims --text",
        "policy check policy.cedar --level tenant:retail",
        "policy put policy.cedar --level tenant:retail --reason x",
        "policy approve 3 --level plane --reason x",
        "policy activate 3 --if-revision 7 --reason x",
        "policy activate 3 --if-grants-nothing --reason x",
        "policy diff 5",
        "policy diff 5 --against 3 --level tenant:retail -o json",
        "serve --policy-solver /usr/bin/cvc5",
        "policy deactivate --level tenant:retail --reason x",
        "policy status -o json",
        "policy explain --decision evt_01KAMZ0000000000000000000A --run RUN",
        "policy simulate --version 3 --since 2026-11-22 --until 2026-11-22T08:00:00Z --run RUN --examples 0 -o json",
        "approval list --state pending --run RUN --tenant retail",
        "approval show apr_01KAMZ0000000000000000000A",
        "approval approve apr_01KAMZ0000000000000000000A --reason x",
        "approval deny apr_01KAMZ0000000000000000000A --tenant retail --reason x",
        "serve --policy-four-eyes",
        "operator rotate --reason x",
        "operator rotate OPERATOR --overlap 600 --reason x",
        "verify sandbox",
        "verify sandbox --profile hardened --format junit",
        "verify sandbox --profile hardened --format sarif",
        "verify sandbox --profile standard --format json",
        "agent init claims",
        "agent init claims --directory claims",
        "agent register -f agent.yaml",
        "agent register --file agent.yaml --dry-run --reason first",
        "agent list --tenant retail --limit 3",
        "agent show claims",
        "agent show claims --version 1.2.0 --tenant retail",
        "tool-server add files --reason x --stdio -- /usr/bin/node server.js --flag /data",
        "tool-server add files --approve-tools --stdio -- /usr/bin/node server.js",
        "tool list",
        "tool list files --limit 3",
        "tool show files read_text_file",
        "tool diff files read_text_file --tenant retail",
        "tool approve files read_text_file --reason x",
        "tool approve files read --digest sha256:0000000000000000000000000000000000000000000000000000000000000000 --reason x",
        "tool block files read_text_file --reason x",
        "tool label files read_text_file personal internal --idempotent",
        "tool-server add files --env A=b --credential-env TOKEN --credential-file t --stdio -- /usr/bin/node",
        "tool-server add crm --url https://crm.example/mcp --credential-header X-Key --credential-file -",
        "tool-server list",
        "tool-server show crm",
        "tool-server remove crm --reason over",
        "provider add scripted --script a.json --price demo-model=0.15,0.60 --reason x",
        "provider add openai --kind openai --base-url https://api.openai.com/v1 --credential-file key",
        "provider add claude --kind anthropic --base-url https://api.anthropic.com --price a=b=1,2",
        "provider list",
        "provider show openai",
        "run start claims",
        "run start claims --tenant retail --version 1 --input - --as bo@bank.example --reason x --wait --timeout 5",
        "run list --tenant retail --agent claims --state running --limit 5 -o name",
        "run show RUN -o json",
        "run logs RUN --stream stderr --follow",
        "run suspend RUN --reason x",
        "run resume RUN RUN --reason x --no-wait",
        "run cancel RUN --reason x --timeout 9",
        "run kill RUN --reason x --yes",
        "run watch RUN",
        "evidence show --run RUN --limit 10",
        "evidence export out --tenant retail",
        "evidence checkpoint",
        "evidence search --agent claims --decision block --from 2026-11-01 --to 2026-12-01 --limit 10",
        "evidence search --user anna --tool crm/read --type tool.call.decided --run RUN --tenant retail -o jsonl",
        "evidence export out --run RUN --disclose --reason x",
        "evidence export out --from 2026-11-01 --to 2026-12-01T00:00:00Z",
        "evidence export out --agent claims --from 2026-11-01",
        "evidence prove inclusion 7 --file x.tlog-proof",
        "evidence prove consistency 7 9",
        "evidence prove run RUN",
        "evidence sample commit 00 --tenant retail",
        "evidence sample draw out --nonce 0123456789abcdef --count 60 --size 1000",
        "evidence reindex --reason x",
        "event watch --tenant default --run RUN --cursor c --limit 1 -o jsonl",
        "tenant list",
        "tenant create retail --reason pilot",
        "operation show OPERATION",
        "plane show",
        "login",
        "login --credential-file - --plane http://127.0.0.1:1",
        "evidence redact request --subject a@b --ground gdpr-17-1-b --reason x",
        "evidence redact request --run RUN --ground court-order --tenant retail --reason x",
        "evidence redact request --leaf 7 --field args --ground gdpr-17-1-d --reason x",
        "evidence redact approve red_01KAMZ0000000000000000000A --reason x",
        "evidence redact deny red_01KAMZ0000000000000000000A --reason x",
        "evidence redact execute red_01KAMZ0000000000000000000A --reason x",
        "evidence redact list --state executed --limit 3",
        "evidence redact show red_01KAMZ0000000000000000000A",
        "evidence redact receipt red_01KAMZ0000000000000000000A ./receipt",
        "evidence hold place --agent claims --reason x",
        "evidence hold place --from 2026-10-01 --until 2026-11-01 --reason x",
        "evidence hold confirm hld_01KAMZ0000000000000000000A --reason x",
        "evidence hold release hld_01KAMZ0000000000000000000A --reason x",
        "evidence hold list",
        "evidence hold show hld_01KAMZ0000000000000000000A",
        "evidence keys list --plane-log",
        "evidence keys rotate --reason x",
        "evidence keys rotate --overlap-days 0 --tenant retail --reason x",
        "evidence keys revoke --generation 0 --why compromised --size 7 --reason x",
        "evidence keys confirm evt_01KAMZ0000000000000000000A --plane-log --reason x",
        "evidence retain --dry-run --reason x",
        "login --check",
        "context show",
        "context clear",
        "completions bash",
        "--plane http://127.0.0.1:1 --token-file t --color never run list",
        "run list --plane http://127.0.0.1:1 --token-file t --color never",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn what_is_missing_or_contradicts_itself_is_refused() {
    for line in [
        "run",
        "run kill RUN",
        "run suspend RUN",
        "run resume RUN",
        "run cancel RUN",
        "tool-server remove crm",
        "run kill --reason x",
        "run show nonsense",
        "run show OPERATION",
        "run list --state sleeping",
        "run start Claims",
        "run start ../etc",
        "run start claims --timeout 0",
        "tool-server add files",
        "tool approve files read_text_file",
        "tool approve files read_text_file --digest abc --reason x",
        "tool block files read_text_file",
        "tool label files read_text_file Personal!",
        "tool show files",
        "tool-server add files --stdio",
        "tool-server add files --stdio --url https://x.example -- /bin/true",
        "tool-server add files --url https://x.example -- /bin/true",
        "tool-server add files --env 1=x --stdio -- /bin/true",
        "tool-server add crm --credential secret --url https://x.example",
        "provider add openai",
        "provider add openai --kind openai",
        "provider add openai --base-url https://x.example",
        "provider add a --script s --kind openai --base-url https://x.example",
        "provider add a --script s --price demo",
        "provider add a --script s --price demo=1",
        "provider add a --script s --price demo=1,-2",
        "evidence redact request --ground gdpr-17-1-b --reason x",
        "evidence redact request --subject a --run RUN --ground gdpr-17-1-b --reason x",
        "evidence redact request --subject a --field args --ground gdpr-17-1-b --reason x",
        "evidence redact request --leaf 7 --ground gdpr-17-1-b --reason x",
        "evidence redact request --subject a --ground gdpr-17-1-g --reason x",
        "evidence redact request --subject a --ground gdpr-17-1-b",
        "evidence hold place --reason x",
        "evidence hold place --agent claims --from 2026-10-01 --reason x",
        "evidence hold place --until 2026-10-01 --reason x",
        "evidence keys rotate",
        "evidence keys rotate --overlap-days 367 --reason x",
        "evidence keys rotate --plane-log --tenant retail --reason x",
        "evidence keys revoke --generation 0 --reason x",
        "evidence keys revoke --why lost --reason x",
        "evidence keys confirm --reason x",
        "evidence retain",
        "login --check --credential-file f",
        "--token secret run list",
        "run list -o yaml",
        "serve --listen here",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
    assert!(Cli::try_parse_from(["cogward", "run", "kill", RUN, "--reason", " "]).is_err());
    assert!(Cli::try_parse_from(["cogward", "run", "kill", RUN, "--reason", &"x".repeat(1_001)]).is_err());
}

#[test]
fn values_arrive_where_they_belong() {
    let Command::ToolServer(ToolServer::Add(add)) =
        parse("tool-server add files --stdio -- /usr/bin/node a --url b").unwrap().command
    else {
        panic!()
    };
    assert_eq!(add.command, ["/usr/bin/node", "a", "--url", "b"]);
    assert_eq!(add.server_url, None);

    let Command::Provider(Provider::Add(add)) =
        parse("provider add a --script s --price org/model=x=0.15,0.60").unwrap().command
    else {
        panic!()
    };
    assert_eq!(add.price[0].0, "org/model=x");
    assert_eq!(add.price[0].1.output_per_million.to_string(), "0.60");

    let Command::Run(Run::Start(start)) = parse("run start claims --as bo@bank.example").unwrap().command else {
        panic!()
    };
    assert_eq!(start.tenant.tenant.as_str(), "default");
    assert_eq!(start.as_user.as_deref(), Some("bo@bank.example"));
}

/// The commands of the reference, with every flag, from the definition itself.
fn reference() -> String {
    fn walk(command: &clap::Command, path: &str, text: &mut String) {
        let visible = command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help");
        let verbs: Vec<_> = visible.collect();
        if verbs.is_empty() {
            one(command, path, text);
        }
        for verb in verbs {
            walk(verb, &format!("{path} {}", verb.get_name()), text);
        }
    }
    fn one(command: &clap::Command, path: &str, text: &mut String) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!("### `{path}`\n\n{about}.\n\n"));
        let mut flags = String::new();
        let shown = |a: &&clap::Arg| !a.is_hide_set() && !a.is_global_set() && a.get_id() != "help";
        for argument in command.get_arguments().filter(shown) {
            let value = argument.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
            let takes = argument.get_action().takes_values();
            let name = match (argument.get_long(), argument.get_short(), &value) {
                (Some(long), _, Some(value)) if takes => format!("--{long} {value}"),
                (Some(long), ..) => format!("--{long}"),
                (None, _, Some(value)) => value.to_uppercase(),
                (None, ..) => argument.get_id().to_string().to_uppercase(),
            };
            let help = argument.get_help().map(|h| h.to_string().replace('\n', " ")).unwrap_or_default();
            let default: Vec<_> = argument.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
            let default =
                if default.is_empty() || !takes { String::new() } else { format!(" [{}]", default.join(" ")) };
            let required = if argument.is_required_set() && argument.get_long().is_some() { " (required)" } else { "" };
            flags.push_str(&format!("- `{name}`{required}: {help}{default}\n"));
        }
        if !flags.is_empty() {
            text.push_str(&flags);
            text.push('\n');
        }
        if let Some(after) = command.get_after_help() {
            let after = after.to_string();
            let (prose, examples) = match after.find("Example") {
                Some(at) => after.split_at(at),
                None => (after.as_str(), ""),
            };
            if !prose.trim().is_empty() {
                text.push_str(&format!("{}\n\n", prose.trim()));
            }
            let lines: Vec<_> = examples.lines().skip(1).map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
            if !lines.is_empty() {
                text.push_str(&format!("```console\n{}\n```\n\n", lines.join("\n")));
            }
        }
    }
    let mut text = String::new();
    let mut command = Cli::command();
    command.build();
    walk(&command, "cogward", &mut text);
    text
}

/// `docs/cli.md` is prose by hand and a reference from the definition. Regenerate with UPDATE_DOCS=1.
#[test]
fn the_documentation_has_every_command_and_exit_code() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let mut text = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- reference: begin -->\n", "<!-- reference: end -->");
    let from = text.find(begin).unwrap() + begin.len();
    let to = text.find(end).unwrap();
    let current = format!("\n{}", reference());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        text.replace_range(from..to, &current);
        std::fs::write(&path, &text).unwrap();
    } else {
        assert!(text[from..to] == current, "docs/cli.md is stale: UPDATE_DOCS=1 cargo nextest run -p cogward-cli");
    }
    for (exit, meaning) in crate::exit::Exit::ALL {
        let row = format!("| {} | {meaning} |", exit.code());
        assert!(text.contains(&row), "{row}");
    }
}

#[test]
fn every_verb_that_needs_more_than_a_name_has_an_example() {
    fn leaves<'a>(command: &'a clap::Command, path: String, into: &mut Vec<(String, &'a clap::Command)>) {
        let verbs: Vec<_> = command.get_subcommands().filter(|c| c.get_name() != "help").collect();
        if verbs.is_empty() {
            into.push((path, command));
        } else {
            verbs.into_iter().for_each(|verb| leaves(verb, format!("{path} {}", verb.get_name()), into));
        }
    }
    let command = Cli::command();
    let mut all = Vec::new();
    leaves(&command, "cogward".to_owned(), &mut all);
    assert!(all.len() > 30);
    for (path, command) in all {
        assert!(command.get_about().is_some(), "{path} has no line of help");
        let changes = ["add", "remove", "create", "register", "init", "start", "suspend", "resume", "cancel", "kill"];
        if changes.contains(&command.get_name()) {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Example"), "{path} has no example");
        }
    }
}

/// A page that says what to do must not name a command that is not there.
#[test]
fn the_pages_of_the_problems_name_commands_that_exist() {
    let root = Cli::command();
    let mut named = 0;
    for code in cogward_api::ProblemCode::ALL {
        let page = code.page().replace('\n', " ");
        for (at, mark) in page.match_indices("`cogward ") {
            let rest = &page[at + mark.len()..];
            let line = &rest[..rest.find('`').unwrap()];
            let mut words = line.split(' ').filter(|w| !w.starts_with(['<', '-']));
            let Some(noun) = words.next() else { continue };
            let found = root.find_subcommand(noun).unwrap_or_else(|| panic!("{code}: {line}"));
            if found.has_subcommands() {
                let verb = words.next().unwrap_or_default();
                assert!(found.find_subcommand(verb).is_some(), "{code}: {line}");
            }
            named += 1;
        }
    }
    assert!(named > 15);
}
