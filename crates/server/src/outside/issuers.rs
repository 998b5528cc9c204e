//! The issuers that are trusted, and their keys.
//!
//! Keys that are fetched are kept for a while, and for a longer while when they cannot be fetched again. A token that
//! names an unknown key makes the plane look again, once a minute at most: anybody can send such a token.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use cogward_identity::access::KeySet;
use cogward_model::{
    TenantName, UpstreamName,
    outside::{IssuerKeys, TrustedIssuer},
};
use cogward_store::{PageRequest, Store, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// How long fetched keys are used before they are fetched again.
const FRESH: Duration = Duration::from_secs(600);
/// How long they are used when they cannot be fetched again.
const STALE: Duration = Duration::from_secs(3_600);
/// Time between two fetches.
const FETCH_EVERY: Duration = Duration::from_secs(60);
/// Longest issuer, and longest URL of keys.
const URL_BYTES_MAX: usize = 512;

/// Every trusted issuer, by tenant and by what its tokens say.
#[derive(Debug, Default)]
pub(crate) struct Issuers {
    by_tenant: RwLock<HashMap<TenantName, HashMap<String, Arc<Trust>>>>,
}

/// One issuer.
#[derive(Debug)]
pub(crate) struct Trust {
    pub(crate) config: TrustedIssuer,
    given: Option<Arc<KeySet>>,
    fetched: Mutex<Fetched>,
    fetching: tokio::sync::Mutex<()>,
    /// Cancelled when it is trusted no more, or otherwise: what its tokens let in ends.
    pub(crate) ended: CancellationToken,
}

#[derive(Debug, Default)]
struct Fetched {
    keys: Option<(Arc<KeySet>, Instant)>,
    tried: Option<Instant>,
}

impl Trust {
    fn new(config: TrustedIssuer) -> Result<Self, cogward_identity::access::KeySetError> {
        let given = match &config.keys {
            IssuerKeys::Given { jwks } => Some(Arc::new(KeySet::read(jwks.as_bytes())?)),
            IssuerKeys::Url { .. } => None,
        };
        Ok(Self {
            config,
            given,
            fetched: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            ended: CancellationToken::new(),
        })
    }

    /// Its keys. With `anew`, a token named one that is not among them.
    pub(crate) async fn keys(&self, anew: bool) -> Option<Arc<KeySet>> {
        if let Some(given) = &self.given {
            return Some(Arc::clone(given));
        }
        if let Some(keys) = self.known(if anew { Duration::ZERO } else { FRESH }) {
            return Some(keys);
        }
        let _turn = self.fetching.lock().await;
        // Somebody else may have fetched them meanwhile.
        if !anew && let Some(keys) = self.known(FRESH) {
            return Some(keys);
        }
        if self.may_try() {
            self.fetch().await;
        }
        self.known(STALE)
    }

    fn known(&self, younger: Duration) -> Option<Arc<KeySet>> {
        let fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.keys.as_ref().filter(|(_, at)| at.elapsed() < younger).map(|(keys, _)| Arc::clone(keys))
    }

    fn may_try(&self) -> bool {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        if fetched.tried.is_some_and(|tried| tried.elapsed() < FETCH_EVERY) {
            return false;
        }
        fetched.tried = Some(Instant::now());
        true
    }

    async fn fetch(&self) {
        let IssuerKeys::Url { url } = &self.config.keys else { return };
        let read = match cogward_gateway::fetch_document(url).await {
            Ok(document) => KeySet::read(&document).map_err(|error| error.to_string()),
            Err(why) => Err(why),
        };
        match read {
            Ok(keys) => {
                let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
                fetched.keys = Some((Arc::new(keys), Instant::now()));
            }
            Err(why) => tracing::warn!(issuer = %self.config.name, why, "the keys of an issuer cannot be fetched"),
        }
    }
}

impl Issuers {
    /// Every issuer that is trusted. One whose keys cannot be read any more is not, and does not keep the plane from
    /// starting.
    pub(crate) async fn open(store: &Store) -> Result<Self, StoreError> {
        let issuers = Self::default();
        let mut tenants = PageRequest { after: None, limit: 500 };
        loop {
            let found = store.tenants(&tenants).await?;
            for tenant in found.items {
                let known = store.issuers(&tenant.name, &PageRequest { after: None, limit: 500 }).await?;
                for row in known.items {
                    let name = row.config.name.clone();
                    if let Err(error) = issuers.put(row.config) {
                        tracing::error!(tenant = %tenant.name, issuer = %name, %error, "an issuer cannot be trusted");
                    }
                }
            }
            match found.next {
                Some(next) => tenants.after = Some(next),
                None => return Ok(issuers),
            }
        }
    }

    /// Trusts an issuer from now on, instead of the one of that name.
    ///
    /// # Errors
    /// What its keys are not.
    pub(crate) fn put(&self, config: TrustedIssuer) -> Result<(), cogward_identity::access::KeySetError> {
        let trust = Arc::new(Trust::new(config)?);
        let mut by_tenant = self.by_tenant.write().unwrap_or_else(PoisonError::into_inner);
        let issuers = by_tenant.entry(trust.config.tenant.clone()).or_default();
        issuers.retain(|_, known| keeps(known, &trust.config.name));
        issuers.insert(trust.config.issuer.clone(), trust);
        Ok(())
    }

    /// Trusts it no more; what its tokens let in ends.
    pub(crate) fn remove(&self, tenant: &TenantName, name: &UpstreamName) {
        let mut by_tenant = self.by_tenant.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(issuers) = by_tenant.get_mut(tenant) {
            issuers.retain(|_, known| keeps(known, name));
            if issuers.is_empty() {
                by_tenant.remove(tenant);
            }
        }
    }

    /// The issuer whose tokens say this.
    pub(crate) fn find(&self, tenant: &TenantName, issuer: &str) -> Option<Arc<Trust>> {
        let by_tenant = self.by_tenant.read().unwrap_or_else(PoisonError::into_inner);
        by_tenant.get(tenant)?.get(issuer).cloned()
    }

    /// What the tokens of a tenant's issuers say, in order, and whether any of them may be bound to nothing.
    pub(crate) fn told(&self, tenant: &TenantName) -> (Vec<String>, bool) {
        let by_tenant = self.by_tenant.read().unwrap_or_else(PoisonError::into_inner);
        let Some(issuers) = by_tenant.get(tenant) else { return (Vec::new(), false) };
        let mut told: Vec<String> = issuers.keys().cloned().collect();
        told.sort();
        (told, issuers.values().any(|trust| trust.config.bearer_in_development))
    }

    /// Whether a tenant has any.
    pub(crate) fn knows(&self, tenant: &TenantName) -> bool {
        self.by_tenant.read().unwrap_or_else(PoisonError::into_inner).contains_key(tenant)
    }
}

fn keeps(known: &Trust, name: &UpstreamName) -> bool {
    let other = known.config.name != *name;
    if !other {
        known.ended.cancel();
    }
    other
}

/// An issuer as it is compared: exactly as its tokens say it.
pub(crate) fn usable_issuer(issuer: &str) -> Result<(), Failure> {
    let refuse = |why: &str| Err(Failure::invalid(format!("the issuer {why}")).rule("issuer"));
    if !(1..=URL_BYTES_MAX).contains(&issuer.len()) || !issuer.bytes().all(|b| b.is_ascii_graphic()) {
        return refuse("is a URL of 1 to 512 characters");
    }
    if issuer.contains(['?', '#', '@']) || !is_safe(issuer) {
        return refuse("is an https URL without a user, a query and a fragment");
    }
    Ok(())
}

/// Keys that can be used, as far as can be said now.
pub(crate) fn usable_keys(keys: &IssuerKeys) -> Result<(), Failure> {
    match keys {
        IssuerKeys::Given { jwks } => {
            let read = KeySet::read(jwks.as_bytes());
            read.map(drop).map_err(|error| Failure::invalid(format!("the keys: {error}")).rule("keys"))
        }
        IssuerKeys::Url { url } if url.len() <= URL_BYTES_MAX && !url.contains('@') && is_elsewhere(url) => Ok(()),
        IssuerKeys::Url { .. } => {
            Err(Failure::invalid("the keys are fetched from an https URL without a user, of another host").rule("keys"))
        }
    }
}

/// Where keys are fetched: not from this host, whose own services anybody with a token could have asked.
fn is_elsewhere(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_this_host = host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback() || address.is_unspecified());
    uri.scheme_str() == Some("https") && !host.is_empty() && !is_this_host
}

/// HTTPS, or this host, where a test's issuer is.
fn is_safe(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let Some(host) = uri.host().filter(|host| !host.is_empty()) else { return false };
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => ["127.0.0.1", "localhost", "[::1]"].contains(&host),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JWKS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn issuer(tenant: &str, name: &str, url: &str) -> TrustedIssuer {
        TrustedIssuer {
            tenant: tenant.parse().unwrap(),
            name: name.parse().unwrap(),
            issuer: url.to_owned(),
            keys: IssuerKeys::Given { jwks: JWKS.to_owned() },
            bearer_in_development: false,
        }
    }

    #[test]
    fn trust_is_of_one_tenant_and_ends_at_once() {
        let issuers = Issuers::default();
        issuers.put(issuer("retail", "corp", "https://id.example")).unwrap();
        let (retail, wealth) = ("retail".parse().unwrap(), "wealth".parse().unwrap());
        assert!(issuers.find(&wealth, "https://id.example").is_none());
        assert!(issuers.find(&retail, "https://id.example/").is_none());
        let trust = issuers.find(&retail, "https://id.example").unwrap();
        issuers.put(issuer("retail", "corp", "https://id.example")).unwrap();
        assert!(trust.ended.is_cancelled(), "its keys may be others now");
        let trust = issuers.find(&retail, "https://id.example").unwrap();
        issuers.remove(&retail, &"other".parse().unwrap());
        assert!(!trust.ended.is_cancelled());
        issuers.remove(&retail, &"corp".parse().unwrap());
        assert!(trust.ended.is_cancelled() && issuers.find(&retail, "https://id.example").is_none());
        assert!(!issuers.knows(&retail) && issuers.told(&retail).0.is_empty());
    }

    #[test]
    fn an_issuer_is_an_https_url() {
        for good in ["https://id.example", "https://id.example/t/retail/", "http://127.0.0.1:9000"] {
            assert!(usable_issuer(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "id.example",
            "http://id.example",
            "https://u@id.example",
            "https://id.example?x",
            "https://id.example#x",
            "http://127.0.0.1.evil.example",
            "file:///etc/passwd",
            "https://",
        ] {
            assert!(usable_issuer(bad).is_err(), "{bad}");
        }
        for bad in ["http://id.example/jwks", "file:///etc/passwd", "https://u:p@id.example/jwks"] {
            assert!(usable_keys(&IssuerKeys::Url { url: bad.to_owned() }).is_err(), "{bad}");
        }
        assert!(usable_keys(&IssuerKeys::Given { jwks: "{}".to_owned() }).is_err());
    }

    /// Serves documents, one a connection, and counts.
    async fn serving(documents: Vec<String>) -> (String, Arc<std::sync::atomic::AtomicUsize>) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        tokio::spawn(async move {
            for document in documents {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let mut head = [0; 2_048];
                let _ = stream.read(&mut head).await;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", document.len());
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(document.as_bytes()).await;
            }
        });
        (url, asked)
    }

    fn fetched(url: String) -> Trust {
        let keys = IssuerKeys::Url { url };
        Trust::new(TrustedIssuer { keys, ..issuer("retail", "corp", "https://id.example") }).unwrap()
    }

    #[tokio::test]
    async fn keys_are_fetched_once_and_again_for_a_key_that_is_new() {
        let other =
            JWKS.replace("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURg");
        let (url, asked) = serving(vec![JWKS.to_owned(), other]).await;
        let trust = Arc::new(fetched(url));
        let first = trust.keys(false).await.unwrap();
        let all = (0..50).map(|n| {
            let trust = Arc::clone(&trust);
            tokio::spawn(async move { trust.keys(n % 2 == 0).await.is_some() })
        });
        for one in all.collect::<Vec<_>>() {
            assert!(one.await.unwrap());
        }
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1, "tokens with unknown keys ask nobody");
        trust.fetched.lock().unwrap().tried = None;
        let second = trust.keys(true).await.unwrap();
        assert_ne!(first, second, "a minute later the keys that are new are found");
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_document_that_is_no_set_of_keys_replaces_none() {
        let private = JWKS.replace("\"crv\"", "\"d\":\"c2VjcmV0\",\"crv\"");
        let (url, asked) = serving(vec![JWKS.to_owned(), private, "x".repeat(300_000)]).await;
        let trust = fetched(url);
        let first = trust.keys(false).await.unwrap();
        for n in 2..4 {
            trust.fetched.lock().unwrap().tried = None;
            assert_eq!(trust.keys(true).await.unwrap(), first);
            assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), n);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_keys_make_no_more_than_one_fetch_a_minute() {
        let keys = IssuerKeys::Url { url: "http://127.0.0.1:1/jwks".to_owned() };
        let trust = Trust::new(TrustedIssuer { keys, ..issuer("retail", "corp", "https://id.example") }).unwrap();
        assert!(trust.may_try());
        for _ in 0..1_000 {
            assert!(!trust.may_try());
        }
        tokio::time::advance(FETCH_EVERY).await;
        assert!(trust.may_try());
        assert!(trust.keys(true).await.is_none(), "without keys nobody is let in");
    }
}
