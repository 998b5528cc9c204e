//! A PKCS#11 module and the one thread that calls it.
//!
//! A module is foreign code in this process: a call may hang with the network behind it, and no call can be broken off.
//! So all calls are made by a thread of its own, whoever waits does so for a bounded time, and while a call hangs the
//! next ones are answered at once: they fail. After a failure the token has a rest before it is asked again.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError, mpsc},
    time::{Duration, Instant},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    object::ObjectHandle,
    session::{Session, UserType},
    slot::Slot,
};

use super::{
    error::{TokenError, is_about_pin, needs_session, said},
    pin,
    uri::TokenUri,
};

/// How long a caller waits for a module.
const CALL_MAX: Duration = Duration::from_secs(5);
/// Nobody waits behind a call that takes so long already.
const HANGS_AFTER: Duration = Duration::from_millis(2_500);
/// Calls that wait for the thread.
const WAITING_MAX: usize = 256;
/// The rest after a first failure; each further one doubles it.
const REST: Duration = Duration::from_secs(1);
/// The longest rest of a token that fails.
const REST_MAX: Duration = Duration::from_secs(60);
/// Tokens that are named when the right one is not there.
const NAMED_MAX: usize = 8;

type Job = Box<dyn FnOnce(&mut Library) + Send>;

/// A loaded module.
pub(super) struct Module {
    path: PathBuf,
    jobs: mpsc::SyncSender<Job>,
    /// Since when the thread is in a call.
    busy: Arc<Mutex<Option<Instant>>>,
}

/// A session in which keys are used, and the keys found in it.
pub(super) struct Open {
    pub(super) session: Session,
    /// The token as its label and serial number name it.
    pub(super) name: String,
    pub(super) serial: String,
    pub(super) found: HashMap<[u8; super::ID_BYTES], ObjectHandle>,
}

/// Why one attempt failed.
pub(super) enum Failed {
    /// The answer is final.
    Token(TokenError),
    /// The module said so; a new session may help.
    Call(Error),
}

impl From<TokenError> for Failed {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Call(error)
    }
}

impl Module {
    /// The module of a file. There is one for each in a process: PKCS#11 modules are initialised once.
    pub(super) fn of(path: &Path) -> Result<Arc<Self>, TokenError> {
        static MODULES: OnceLock<Mutex<HashMap<PathBuf, Arc<Module>>>> = OnceLock::new();
        let wrong = |why: String| TokenError::Module { path: path.to_owned(), why };
        let real = path.canonicalize().map_err(|error| wrong(error.to_string()))?;
        let mut modules = MODULES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&real) {
            return Ok(Arc::clone(module));
        }
        let (jobs, waiting) = mpsc::sync_channel::<Job>(WAITING_MAX);
        let busy: Arc<Mutex<Option<Instant>>> = Arc::default();
        let (mut library, since) = (Library::new(real.clone()), Arc::clone(&busy));
        std::thread::Builder::new()
            .name("ledger-token".to_owned())
            .spawn(move || {
                for job in waiting {
                    *since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                    job(&mut library);
                    *since.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
            })
            .map_err(|error| wrong(error.to_string()))?;
        let module = Arc::new(Self { path: real.clone(), jobs, busy });
        modules.insert(real, Arc::clone(&module));
        Ok(module)
    }

    /// Works in a session with a token. Waits for a bounded time.
    pub(super) fn with<T: Send + 'static>(
        &self,
        (uri, marks): (Arc<TokenUri>, PathBuf),
        work: impl Fn(&mut Open) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, TokenError> {
        let silent = || TokenError::Silent { module: self.path.clone(), seconds: CALL_MAX.as_secs() };
        let since = *self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_some_and(|since| since.elapsed() >= HANGS_AFTER) {
            return Err(silent());
        }
        let (reply, answer) = mpsc::sync_channel(1);
        let until = Instant::now() + CALL_MAX;
        let job: Job = Box::new(move |library| {
            // Nobody waits for it any more.
            if Instant::now() < until {
                let _gone = reply.send(library.with(&uri, &marks, &work));
            }
        });
        self.jobs.try_send(job).map_err(|_| silent())?;
        answer.recv_timeout(CALL_MAX).unwrap_or_else(|_| Err(silent()))
    }
}

/// A token that failed and is left alone for a while.
struct Rest {
    until: Instant,
    next: Duration,
    why: TokenError,
}

/// What the thread holds.
struct Library {
    path: PathBuf,
    context: Option<Pkcs11>,
    open: HashMap<Arc<TokenUri>, Open>,
    resting: HashMap<Arc<TokenUri>, Rest>,
}

impl Library {
    fn new(path: PathBuf) -> Self {
        Self { path, context: None, open: HashMap::new(), resting: HashMap::new() }
    }

    fn with<T>(
        &mut self,
        uri: &Arc<TokenUri>,
        marks: &Path,
        work: &impl Fn(&mut Open) -> Result<T, Failed>,
    ) -> Result<T, TokenError> {
        if let Some(rest) = self.resting.get(uri).filter(|rest| Instant::now() < rest.until) {
            return Err(rest.why.clone());
        }
        let mut again = true;
        loop {
            let done = match self.session(uri, marks) {
                Ok(open) => work(open).map_err(|error| (error, open.name.clone())),
                Err(why) => return Err(self.rest(uri, why)),
            };
            let (error, token) = match done {
                Ok(done) => {
                    if self.resting.remove(uri).is_some() {
                        tracing::info!(token = %uri, "the token answers again");
                    }
                    return Ok(done);
                }
                Err((Failed::Token(why), _)) => return Err(why),
                Err((Failed::Call(error), token)) => (error, token),
            };
            let why = TokenError::Call { token, why: said(&error) };
            if !needs_session(&error) {
                return Err(why);
            }
            // What it was may have been the session: one more is tried.
            self.open.remove(uri);
            if !std::mem::take(&mut again) {
                return Err(self.rest(uri, why));
            }
        }
    }

    /// Leaves the token alone for a while, longer each time.
    fn rest(&mut self, uri: &Arc<TokenUri>, why: TokenError) -> TokenError {
        let rest = self.resting.get(uri).map_or(REST, |rest| rest.next);
        tracing::warn!(error = %why, seconds = rest.as_secs(), "a token is not asked for a while");
        // Some modules know of tokens only what was there when they were initialised. Nobody else may be in it.
        self.open.remove(uri);
        if self.open.is_empty()
            && self.resting.contains_key(uri)
            && let Some(context) = self.context.take()
        {
            if let Err(error) = context.clone().finalize() {
                tracing::warn!(error = %said(&error), "a PKCS#11 module could not be finalised");
            }
            // The library stays loaded: only its state was given back.
            self.context = initialised(context).ok();
        }
        let next = (rest * 2).min(REST_MAX);
        self.resting.insert(Arc::clone(uri), Rest { until: Instant::now() + rest, next, why: why.clone() });
        why
    }

    fn session(&mut self, uri: &Arc<TokenUri>, marks: &Path) -> Result<&mut Open, TokenError> {
        if !self.open.contains_key(uri) {
            let open = self.opened(uri, marks)?;
            self.open.insert(Arc::clone(uri), open);
        }
        let gone = || TokenError::Call { token: uri.to_string(), why: "no session".to_owned() };
        self.open.get_mut(uri).ok_or_else(gone)
    }

    fn context(&mut self) -> Result<Pkcs11, TokenError> {
        let wrong = |error: Error| TokenError::Module { path: self.path.clone(), why: said(&error) };
        if let Some(context) = &self.context {
            return Ok(context.clone());
        }
        let context = Pkcs11::new(&self.path).and_then(initialised).map_err(wrong)?;
        Ok(self.context.insert(context).clone())
    }

    /// Finds the token and logs in, once.
    fn opened(&mut self, uri: &TokenUri, marks: &Path) -> Result<Open, TokenError> {
        let context = self.context()?;
        let slot = slot(&context, uri)?;
        let call = |error: Error| TokenError::Call { token: uri.to_string(), why: said(&error) };
        let info = context.get_token_info(slot).map_err(call)?;
        let (label, serial) = (info.label().trim_end(), info.serial_number().trim_end());
        let name = format!("`{label}` (serial {serial})");
        if info.user_pin_locked() || info.user_pin_final_try() {
            return Err(TokenError::PinLocked { token: name });
        }
        let refused = |why: String| TokenError::PinRefused { token: name.clone(), path: uri.pin_file.clone(), why };
        let pin = pin::read(uri, marks)?.ok_or_else(|| refused("it was refused before".to_owned()))?;
        let session = context.open_rw_session(slot).map_err(call)?;
        match session.login(UserType::User, Some(&pin.secret)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => pin.taken(),
            Err(error) if is_about_pin(&error) => {
                pin.refused();
                return Err(refused(said(&error)));
            }
            Err(error) => return Err(call(error)),
        }
        Ok(Open { session, serial: serial.to_owned(), name, found: HashMap::new() })
    }
}

fn initialised(context: Pkcs11) -> Result<Pkcs11, Error> {
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(context),
        Err(error) => Err(error),
    }
}

/// The slot with the token that is meant, if that is exactly one.
fn slot(context: &Pkcs11, uri: &TokenUri) -> Result<Slot, TokenError> {
    let wrong = |error: Error| TokenError::Module { path: uri.module.clone(), why: said(&error) };
    let (mut fitting, mut others) = (Vec::new(), Vec::new());
    for slot in context.get_slots_with_token().map_err(wrong)? {
        // One that cannot be asked is not the one that is looked for.
        let Ok(info) = context.get_token_info(slot) else { continue };
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found.trim_end());
        let fits = is(&uri.token, info.label())
            && is(&uri.serial, info.serial_number())
            && is(&uri.manufacturer, info.manufacturer_id())
            && is(&uri.model, info.model());
        if fits && info.token_initialized() {
            fitting.push(slot);
        } else if others.len() < NAMED_MAX && info.token_initialized() {
            others.push(format!("`{}` (serial {})", info.label().trim_end(), info.serial_number().trim_end()));
        }
    }
    let named =
        [("labelled", &uri.token), ("of serial", &uri.serial), ("by", &uri.manufacturer), ("of model", &uri.model)];
    let wanted = named.into_iter().filter_map(|(word, value)| Some(format!("{word} `{}`", value.as_ref()?)));
    let wanted = wanted.collect::<Vec<_>>().join(" ");
    match fitting.as_slice() {
        [slot] => Ok(*slot),
        [] => {
            let there = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
            Err(TokenError::NotThere { module: uri.module.clone(), wanted, there })
        }
        _ => Err(TokenError::Several { wanted }),
    }
}
