//! TLS under a link: a container for the link's own authentication, which happens inside of it.
//!
//! tor-spec, [channels](https://spec.torproject.org/tor-spec/channels.html): TLS 1.2 or 1.3, a certificate with an RSA key
//! (C Tor closes on others), no client certificates, no resumption, a random server name.

pub(crate) mod records;
pub(crate) mod secrets;
pub(crate) mod socket;

use rand::RngExt as _;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;
use tor_cert_x509::{TlsKeyAndCert, X509CertError};
use zeroize::Zeroizing;

/// A TLS key cannot be made or used: our bug.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate for it.
    #[error("making a TLS certificate: {0}")]
    Certificate(#[from] X509CertError),
    /// The TLS library refuses it.
    #[error("setting up TLS: {0}")]
    Config(#[from] rustls::Error),
}

/// The cryptography of all our TLS, whatever the process' default is: AES-128-GCM before AES-256-GCM, which costs a third
/// more for each byte (docs/adr/0009).
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = rustls::crypto::ring::default_provider();
        // Stable: what is neither keeps its place behind.
        provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
            CipherSuite::TLS13_AES_256_GCM_SHA384 | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => 1,
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 2,
            _ => 3,
        });
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}

/// A name that is nobody's: for certificates and for the server name of a connection.
pub fn random_hostname() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut rng = rand::rng();
    let len = rng.random_range(8..=20);
    let name: String = (0..len)
        .map(|_| char::from(LETTERS[usize::from(rng.random::<u8>() & 31)]))
        .collect();
    format!("www.{name}.{}", if rng.random() { "com" } else { "net" })
}

/// A TLS key with its certificate.
pub struct ServerKey {
    certificate: Vec<u8>,
    sha256: [u8; 32],
    key: Zeroizing<Vec<u8>>,
}

impl ServerKey {
    /// Searches a new RSA key: takes a while.
    ///
    /// # Errors
    /// [`TlsError`]: our bug.
    pub fn generate(now: SystemTime) -> Result<Self, TlsError> {
        let made = TlsKeyAndCert::create(&mut rand::rng(), now, &random_hostname(), &random_hostname())?;
        Ok(Self {
            certificate: made
                .certificates_der()
                .first()
                .map(|der| der.to_vec())
                .unwrap_or_default(),
            sha256: *made.link_cert_sha256(),
            key: made.private_key_pkcs8_der()?,
        })
    }

    /// The certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Its SHA-256.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// The server that shows it.
    ///
    /// # Errors
    /// [`TlsError`]: our bug.
    pub fn into_config(self) -> Result<Arc<ServerConfig>, TlsError> {
        let certificate = CertificateDer::from(self.certificate);
        // The configuration keeps its own copy of the key; ours is wiped.
        let key = PrivatePkcs8KeyDer::from(self.key.to_vec());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key.into())?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        // Ours, not the peer's: it is we who pay for each byte.
        config.ignore_client_order = true;
        config.enable_secret_extraction = true;
        Ok(Arc::new(config))
    }
}

/// The client of all links that we open.
pub fn client_config() -> Arc<ClientConfig> {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| Arc::new(client_config_of(&[&TLS13, &TLS12])));
    Arc::clone(&CONFIG)
}

/// A client that knows these versions of TLS.
pub(crate) fn client_config_of(versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let provider = provider();
    let verifier = PossessionOnly(provider.signature_verification_algorithms);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("the provider has suites for both versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_secret_extraction = true;
    config
}

/// A server name for a connection.
pub fn random_server_name() -> ServerName<'static> {
    ServerName::try_from(random_hostname()).expect("made of letters, digits and dots")
}

/// Takes any certificate, as long as the server proves that it holds the key: who that is, the link handshake finds out.
#[derive(Debug)]
struct PossessionOnly(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for PossessionOnly {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        ParsedCertificate::try_from(certificate)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
