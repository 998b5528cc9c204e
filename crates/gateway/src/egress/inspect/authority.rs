//! The certificate authority of one run.
//!
//! Its key is derived from a secret of the plane and the id of the run, so a plane that was started again
//! signs with the key that the agent already trusts, and no key is ever stored. It can sign for the inspected
//! hosts of the run and nothing else (name constraints), only the sandbox of the run trusts it, and it is
//! forgotten with the run.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::{
    hkdf::{HKDF_SHA256, Salt},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use cogward_model::{RunId, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// Clocks that are a little behind still find a certificate valid.
const EARLIER: Duration = Duration::from_secs(300);
/// Beyond the run's time: it may be asked to end, and has its grace period.
const LATER: Duration = Duration::from_secs(3_600);
/// One derived key in 2^32 is out of the curve's range; the next number is taken then.
const ATTEMPTS_MAX: u8 = 4;

/// What the authorities of all runs are derived from. It cannot be printed.
#[derive(Clone)]
pub struct InspectionKey(Arc<Zeroizing<[u8; 32]>>);

impl InspectionKey {
    /// A secret of the plane, the same after every start.
    #[must_use]
    pub fn new(secret: Zeroizing<[u8; 32]>) -> Self {
        Self(Arc::new(secret))
    }
}

impl std::fmt::Debug for InspectionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InspectionKey(..)")
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The plane was not given a key to derive authorities from.
    #[error("this plane has no inspection key")]
    NoKey,
    /// The key could not be derived.
    #[error("the authority of the run could not be derived")]
    Derive,
    /// The time is beyond what a certificate can say.
    #[error("the run's time is beyond what a certificate can say")]
    Time,
    /// The certificate could not be made.
    #[error("the certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The certificate cannot be used by the server.
    #[error("the certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

/// Signs for the inspected hosts of one run.
pub(crate) struct Authority {
    run: RunId,
    hosts: Vec<String>,
    wall_clock: Duration,
    issuer: Issuer<'static, KeyPair>,
    servers: Mutex<HashMap<String, Arc<ServerConfig>>>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("run", &self.run).finish_non_exhaustive()
    }
}

impl Authority {
    pub(crate) fn derive(
        key: &InspectionKey,
        run: RunId,
        hosts: &[&str],
        wall_clock: Duration,
    ) -> Result<Self, AuthorityError> {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let pair = derived(key, run)?;
        let issuer = Issuer::new(described(run, &hosts), pair);
        Ok(Self { run, hosts, wall_clock, issuer, servers: Mutex::default() })
    }

    /// The public certificate, as PEM, valid from `now` for the time of the run.
    pub(crate) fn certificate_pem(&self, now: Timestamp) -> Result<String, AuthorityError> {
        let mut params = described(self.run, &self.hosts);
        (params.not_before, params.not_after) = self.validity(now)?;
        let der = params.self_signed(self.issuer.key())?;
        let text = STANDARD.encode(der.der());
        let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
        Ok(pem)
    }

    /// How the plane meets the agent in the name of `host`.
    pub(crate) fn server(&self, host: &str, now: Timestamp) -> Result<Arc<ServerConfig>, AuthorityError> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = servers.get(host) {
            return Ok(Arc::clone(server));
        }
        let server = Arc::new(self.sign(host, now)?);
        // No more of them than the manifest declares hosts.
        servers.insert(host.to_owned(), Arc::clone(&server));
        Ok(server)
    }

    fn sign(&self, host: &str, now: Timestamp) -> Result<ServerConfig, AuthorityError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        (params.not_before, params.not_after) = self.validity(now)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&pair, &self.issuer)?;
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, private)?;
        // HTTP/2 is not offered: each request is read by one strict parser.
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(server)
    }

    fn validity(&self, now: Timestamp) -> Result<(OffsetDateTime, OffsetDateTime), AuthorityError> {
        let now = now.unix_micros() / 1_000_000;
        let later = self.wall_clock.saturating_add(LATER).as_secs();
        let at = |seconds: u64| {
            let seconds = i64::try_from(seconds).map_err(|_| AuthorityError::Time)?;
            OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| AuthorityError::Time)
        };
        Ok((at(now.saturating_sub(EARLIER.as_secs()))?, at(now.saturating_add(later))?))
    }
}

/// Everything about the authority but its time. The same for every plane, so that chains stay whole.
fn described(run: RunId, hosts: &[String]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "cogward");
    params.distinguished_name.push(DnType::CommonName, format!("cogward run {run}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: hosts.iter().cloned().map(GeneralSubtree::DnsName).collect(),
        // A list of names says nothing about addresses: none is allowed.
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    params
}

fn derived(key: &InspectionKey, run: RunId) -> Result<KeyPair, AuthorityError> {
    let whole = Salt::new(HKDF_SHA256, b"cogward inspection authority").extract(key.0.as_slice());
    let run = run.to_string();
    for attempt in 0..ATTEMPTS_MAX {
        let info = [run.as_bytes(), &[attempt]];
        let mut scalar = Zeroizing::new([0_u8; 32]);
        let filled = whole.expand(&info, HKDF_SHA256).and_then(|okm| okm.fill(scalar.as_mut_slice()));
        filled.map_err(|_| AuthorityError::Derive)?;
        // RFC 5915: version 1, the scalar, and the curve P-256; the public half is computed from it.
        let mut sec1 = Zeroizing::new(vec![0x30, 0x31, 0x02, 0x01, 0x01, 0x04, 0x20]);
        sec1.extend_from_slice(scalar.as_slice());
        sec1.extend_from_slice(&[0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]);
        let Ok(pair) = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, &sec1) else { continue };
        let document = pair.to_pkcs8v1().map_err(|_| AuthorityError::Derive)?;
        let pkcs8 = PrivatePkcs8KeyDer::from(document.as_ref());
        return Ok(KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ECDSA_P256_SHA256)?);
    }
    Err(AuthorityError::Derive)
}

#[cfg(test)]
mod tests {
    use cogward_model::{Clock, Id, SystemClock, SystemEntropy};
    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        pki_types::{ServerName, UnixTime, pem::PemObject},
    };

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn key(byte: u8) -> InspectionKey {
        InspectionKey::new(Zeroizing::new([byte; 32]))
    }

    /// Whether a client that trusts `root` takes what `signer` shows for `host`, so long after now.
    fn trusts(root: &Authority, signer: &Authority, host: &str, after: Duration) -> bool {
        let mut roots = RootCertStore::empty();
        let pem = root.certificate_pem(SystemClock.now()).unwrap();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        (params.not_before, params.not_after) = signer.validity(SystemClock.now()).unwrap();
        let leaf = params.signed_by(&pair, &signer.issuer).unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(UnixTime::now().as_secs_duration() + after);
        verifier.verify_server_cert(leaf.der(), &[], &name, &[], now).is_ok()
    }

    trait Seconds {
        fn as_secs_duration(&self) -> Duration;
    }
    impl Seconds for UnixTime {
        fn as_secs_duration(&self) -> Duration {
            Duration::from_secs(self.as_secs())
        }
    }

    #[test]
    fn a_plane_that_was_started_again_signs_for_the_same_trust_and_another_run_or_plane_does_not() {
        let run: RunId = Id::new(&SystemClock, &SystemEntropy);
        let other: RunId = Id::new(&SystemClock, &SystemEntropy);
        let hosts = ["api.example.com"];
        let of = |key: &InspectionKey, run| Authority::derive(key, run, &hosts, DAY).unwrap();
        let first = of(&key(1), run);
        assert!(trusts(&first, &of(&key(1), run), hosts[0], Duration::ZERO));
        assert!(!trusts(&first, &of(&key(1), other), hosts[0], Duration::ZERO));
        assert!(!trusts(&first, &of(&key(2), run), hosts[0], Duration::ZERO));
    }

    #[test]
    fn an_authority_is_worth_nothing_for_another_name_or_after_its_run() {
        let run: RunId = Id::new(&SystemClock, &SystemEntropy);
        let authority = Authority::derive(&key(1), run, &["api.example.com"], DAY).unwrap();
        assert!(trusts(&authority, &authority, "api.example.com", Duration::ZERO));
        for elsewhere in ["example.com", "evil.example", "xapi.example.com", "127.0.0.1", "::1"] {
            assert!(!trusts(&authority, &authority, elsewhere, Duration::ZERO), "{elsewhere}");
        }
        assert!(!trusts(&authority, &authority, "api.example.com", DAY + LATER + DAY));
    }

    #[test]
    fn what_is_printed_holds_no_key() {
        let run: RunId = Id::new(&SystemClock, &SystemEntropy);
        let authority = Authority::derive(&key(7), run, &["api.example.com"], DAY).unwrap();
        assert_eq!(format!("{:?}", key(7)), "InspectionKey(..)");
        assert!(!format!("{authority:?}").contains("07"), "{authority:?}");
        assert!(!authority.certificate_pem(SystemClock.now()).unwrap().contains("PRIVATE"));
    }
}
