//! `cogward login` and `cogward context`.

use std::io::{BufRead, IsTerminal};

use cogward_api::{WhoAmI, paths};

use super::Session;
use crate::{
    args::{self, Login},
    client::Client,
    exit::{Exit, Failure},
    settings::{self, Context, Settings},
};

/// Keeps a credential, once the plane has said that it is good.
pub fn run(login: &Login, session: &mut Session<'_>) -> Result<Exit, Failure> {
    if login.check {
        let who: WhoAmI = session.client()?.get(paths::WHOAMI)?;
        return session.output.one(&who).map(|()| Exit::Done);
    }
    let mut settings = Settings::resolve(&session.plane, session.variables)?;
    settings.token = Some(match &login.credential.credential_file {
        Some(file) => settings::read_credential(file)?,
        None if std::io::stdin().is_terminal() => ask(session)?,
        None => settings::read_credential(std::path::Path::new("-"))?,
    });
    let context = Context { url: Some(settings.url.clone()), token: settings.token.clone() };
    let who: WhoAmI = Client::new(settings).get(paths::WHOAMI)?;
    let path = settings::write_context(session.variables, &context)?;
    session.output.say(&format!("The credential of {} is kept in {}.", who.name, path.display()));
    session.output.one(&who).map(|()| Exit::Done)
}

/// Asks at the terminal, which does not show what is typed.
fn ask(session: &mut Session<'_>) -> Result<String, Failure> {
    use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
    let failed = |error| Failure::local("cannot ask at the terminal", error);
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).map_err(|e| failed(std::io::Error::from(e)))?;
    let mut quiet = before.clone();
    quiet.local_flags.remove(LocalFlags::ECHO);
    let _unread = write!(session.output.err, "Credential (not shown): ").and_then(|()| session.output.err.flush());
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &quiet).map_err(|e| failed(std::io::Error::from(e)))?;
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    tcsetattr(&stdin, SetArg::TCSANOW, &before).map_err(|e| failed(std::io::Error::from(e)))?;
    session.output.say("");
    read.map_err(failed)?;
    let token = line.trim();
    if token.is_empty() {
        return Err(Failure::usage("no credential was given").next("the plane printed it at its first start"));
    }
    Ok(token.to_owned())
}

/// Shows or forgets what is kept.
pub fn context(command: &args::Context, session: &mut Session<'_>) -> Result<Exit, Failure> {
    match command {
        args::Context::Show => {
            let settings = Settings::resolve(&session.plane, session.variables)?;
            let file = settings::context_path(session.variables);
            if session.output.format == crate::output::Format::Table {
                session.output.line(&format!("PLANE       {} (from {})", settings.url, settings.url_from))?;
                let has = if settings.token.is_some() { "yes" } else { "no" };
                session.output.line(&format!("CREDENTIAL  {has} (from {})", settings.token_from))?;
                session.output.line(&format!("FILE        {}", file.display()))?;
            } else {
                // Never the credential itself.
                session.output.json_line(&serde_json::json!({
                    "url": settings.url,
                    "url_from": settings.url_from,
                    "has_credential": settings.token.is_some(),
                    "credential_from": settings.token_from,
                    "file": file,
                }))?;
            }
        }
        args::Context::Clear => {
            let sentence = if settings::forget_context(session.variables)? {
                "The plane's address and the credential are forgotten."
            } else {
                "Nothing was kept."
            };
            session.output.say(sentence);
        }
    }
    Ok(Exit::Done)
}
