//! Names become addresses in the plane, once, and the address that was checked is the one that is dialled.
//!
//! One refused address refuses the whole name: a name that answers with a public and a private address
//! is one that somebody prepared, and which of them a client takes would be luck.

use std::{collections::HashMap, fmt, future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use cogward_model::decision::{Refusal, RefusalCode};
use tokio::sync::Semaphore;

use super::{
    address,
    host::HostPort,
    inspect::{InspectionKey, Notices},
};

/// How long a look-up may take.
const LOOKUP_MAX: Duration = Duration::from_secs(5);
/// Look-ups at once in the whole plane. Each may hold a thread for longer than anyone waits for it.
const LOOKUPS_AT_ONCE_MAX: usize = 32;
/// Addresses of one name that are looked at; a name with more is refused.
const ADDRESSES_MAX: usize = 64;

/// What a look-up gives.
pub type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Turns names into addresses. It decides nothing: every address is checked after it.
pub trait Resolve: Send + Sync {
    /// The addresses of a name.
    fn lookup(&self, target: &HostPort) -> Lookup;
}

/// The resolver of the host (`getaddrinfo`).
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn lookup(&self, target: &HostPort) -> Lookup {
        let (host, port) = (target.host.as_str().to_owned(), target.port);
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.take(ADDRESSES_MAX + 1).collect()) })
    }
}

/// What the operator decides about connections outside, beyond what manifests declare.
#[derive(Clone)]
pub struct EgressOptions {
    /// Hosts (canonical names) that are dialled at exactly these addresses, without a look-up and without
    /// the check of addresses: the operator's own word for a service inside. A host still must be declared
    /// by the agent's manifest. Empty in production unless an operator says otherwise.
    pub static_hosts: HashMap<String, Vec<SocketAddr>>,
    /// Who looks up all other names.
    pub resolver: Arc<dyn Resolve>,
    /// What the certificate authorities of runs are derived from. Without it no inspected host is reached.
    pub inspection_key: Option<InspectionKey>,
    /// How inspected hosts are verified; by the roots of the plane's host when nothing is said.
    pub upstream_tls: Option<Arc<rustls::ClientConfig>>,
    /// Who is told of findings at once.
    pub notices: Option<Arc<dyn Notices>>,
}

impl Default for EgressOptions {
    fn default() -> Self {
        Self {
            static_hosts: HashMap::new(),
            resolver: Arc::new(SystemResolver),
            inspection_key: None,
            upstream_tls: None,
            notices: None,
        }
    }
}

impl fmt::Debug for EgressOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EgressOptions").field("static_hosts", &self.static_hosts).finish_non_exhaustive()
    }
}

/// Addresses that may be dialled: checked, or given by the operator. Only this module makes one.
#[derive(Debug, Clone, Default)]
pub struct Reachable(Vec<SocketAddr>);

impl Reachable {
    /// In the order in which they are tried.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0
    }
}

/// Resolves and checks.
#[derive(Debug)]
pub struct Resolver {
    options: EgressOptions,
    slots: Arc<Semaphore>,
}

impl Resolver {
    /// With the operator's options.
    #[must_use]
    pub fn new(options: EgressOptions) -> Self {
        Self { options, slots: Arc::new(Semaphore::new(LOOKUPS_AT_ONCE_MAX)) }
    }

    /// The addresses at which a declared host may be dialled.
    ///
    /// # Errors
    /// A refusal when the name has no address, or one that no agent may reach.
    pub async fn resolve(&self, target: &HostPort) -> Result<Reachable, Refusal> {
        if let Some(addresses) = self.options.static_hosts.get(target.host.as_str()) {
            return Ok(Reachable(addresses.clone()));
        }
        let found = match tokio::time::timeout(LOOKUP_MAX, self.lookup(target)).await {
            Ok(Ok(found)) if !found.is_empty() => found,
            Ok(Ok(_)) => return Err(unresolved("it has no address")),
            Ok(Err(error)) => {
                tracing::debug!(host = %target.host, %error, "look-up failed");
                return Err(unresolved("the look-up failed"));
            }
            Err(_) => return Err(unresolved("the look-up took too long")),
        };
        if found.len() > ADDRESSES_MAX {
            return Err(unresolved("it has too many addresses"));
        }
        for address in &found {
            address::check(address.ip()).map_err(|why| {
                Refusal::new(
                    RefusalCode::AddressRefused,
                    "egress.address",
                    format!("the name `{}` leads to {why}", target.host),
                    "An operator can name the addresses of a service inside; agents cannot reach them by a look-up",
                )
            })?;
        }
        // The port is ours whatever the resolver says.
        Ok(Reachable(found.into_iter().map(|a| SocketAddr::new(a.ip(), target.port)).collect()))
    }

    /// The look-up goes on after its caller gave up, and keeps its slot until it really ends.
    async fn lookup(&self, target: &HostPort) -> io::Result<Vec<SocketAddr>> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(io::Error::other)?;
        let lookup = self.options.resolver.lookup(target);
        tokio::spawn(async move {
            let found = lookup.await;
            drop(slot);
            found
        })
        .await
        .map_err(io::Error::other)?
    }
}

fn unresolved(why: &str) -> Refusal {
    Refusal::new(
        RefusalCode::UpstreamUnavailable,
        "egress.resolve",
        format!("the declared host could not be resolved: {why}"),
        "Try again later, or have the operator check the name and the plane's resolver",
    )
}

/// Answers from a table, for tests.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct FixedResolver(pub HashMap<String, Vec<std::net::IpAddr>>);

#[cfg(test)]
impl Resolve for FixedResolver {
    fn lookup(&self, target: &HostPort) -> Lookup {
        let found = self.0.get(target.host.as_str()).map(|all| all.iter().map(|ip| SocketAddr::new(*ip, 1)).collect());
        Box::pin(async move { found.ok_or_else(|| io::Error::other("no such name")) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver(answers: &[(&str, &[&str])]) -> Resolver {
        let table = answers
            .iter()
            .map(|(name, ips)| ((*name).to_owned(), ips.iter().map(|ip| ip.parse().unwrap()).collect()))
            .collect();
        Resolver::new(EgressOptions { resolver: Arc::new(FixedResolver(table)), ..EgressOptions::default() })
    }

    async fn ask(resolver: &Resolver, host: &str) -> Result<Reachable, Refusal> {
        resolver.resolve(&HostPort::parse(host, Some(443)).unwrap()).await
    }

    #[tokio::test]
    async fn one_refused_address_refuses_the_name() {
        let resolver = resolver(&[
            ("public.example", &["1.1.1.1", "2606:4700::1"]),
            ("inside.example", &["10.0.0.7"]),
            ("mixed.example", &["1.1.1.1", "10.0.0.7"]),
            ("meta.example", &["169.254.169.254"]),
            ("mapped.example", &["::ffff:169.254.169.254"]),
            ("empty.example", &[]),
            ("localhost", &["127.0.0.1"]),
        ]);
        let found = ask(&resolver, "public.example").await.unwrap();
        assert_eq!(found.addresses(), ["1.1.1.1:443".parse().unwrap(), "[2606:4700::1]:443".parse().unwrap()]);
        for bad in ["inside.example", "mixed.example", "meta.example", "mapped.example", "localhost"] {
            let refusal = ask(&resolver, bad).await.unwrap_err();
            assert_eq!((refusal.code, refusal.rule.as_str()), (RefusalCode::AddressRefused, "egress.address"), "{bad}");
        }
        for gone in ["empty.example", "nowhere.example"] {
            assert_eq!(ask(&resolver, gone).await.unwrap_err().code, RefusalCode::UpstreamUnavailable);
        }
    }

    #[tokio::test]
    async fn the_host_s_own_names_are_refused_by_their_address() {
        let resolver = Resolver::new(EgressOptions::default());
        assert_eq!(ask(&resolver, "localhost").await.unwrap_err().code, RefusalCode::AddressRefused);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_up_that_hangs_is_given_up() {
        struct Hangs;
        impl Resolve for Hangs {
            fn lookup(&self, _: &HostPort) -> Lookup {
                Box::pin(std::future::pending())
            }
        }
        let resolver = Resolver::new(EgressOptions { resolver: Arc::new(Hangs), ..EgressOptions::default() });
        // More than there are slots: those that wait for one are given up too.
        let asked: Vec<_> = (0..LOOKUPS_AT_ONCE_MAX + 8).map(|_| ask(&resolver, "slow.example")).collect();
        for answer in futures_util::future::join_all(asked).await {
            assert_eq!(answer.unwrap_err().rule, "egress.resolve");
        }
    }
}
