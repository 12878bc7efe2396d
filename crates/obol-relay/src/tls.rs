//! TLS under a link: a container for the link's own authentication, which happens inside of it.
//!
//! tor-spec, [channels](https://spec.torproject.org/tor-spec/channels.html): TLS 1.2 or 1.3, a certificate with an RSA key
//! (C Tor closes on others), no client certificates, no resumption, a random server name.

use rand::RngExt as _;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
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

/// The cryptography of all our TLS, whatever the process' default is.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
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
        Ok(Arc::new(config))
    }
}

/// The client of all links that we open.
pub fn client_config() -> Arc<ClientConfig> {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        let provider = provider();
        let verifier = PossessionOnly(provider.signature_verification_algorithms);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("the provider has suites for both versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Arc::new(config)
    });
    Arc::clone(&CONFIG)
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

/// Least and most bytes that [`ReadAhead`] asks of the system at once.
const READ_AHEAD: core::ops::RangeInclusive<usize> = 4 << 10..=64 << 10;

/// A socket that reads ahead: TLS asks for 4 KiB at a time, which would be a call of the system for every eight cells. The
/// buffer is there only while a link is busy: it grows when a read fills it, and goes when a read finds little.
#[derive(Debug)]
pub struct ReadAhead {
    socket: TcpStream,
    buffer: Vec<u8>,
    /// What of the buffer is still to be given out.
    rest: core::ops::Range<usize>,
    /// How much to ask for next time.
    ask: usize,
}

impl ReadAhead {
    /// Around a socket from which nothing was read yet.
    pub fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            buffer: Vec::new(),
            rest: 0..0,
            ask: *READ_AHEAD.start(),
        }
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            if out.remaining() >= this.ask {
                return Pin::new(&mut this.socket).poll_read(cx, out);
            }
            this.buffer.resize(this.ask, 0);
            let mut buffer = ReadBuf::new(&mut this.buffer);
            ready!(Pin::new(&mut this.socket).poll_read(cx, &mut buffer))?;
            let read = buffer.filled().len();
            this.rest = 0..read;
            if read == this.ask {
                this.ask = (this.ask * 2).min(*READ_AHEAD.end());
            } else if read < this.ask / 4 {
                this.ask = (this.ask / 2).max(*READ_AHEAD.start());
            }
        }
        let len = this.rest.len().min(out.remaining());
        out.put_slice(&this.buffer[this.rest.start..this.rest.start + len]);
        this.rest.start += len;
        if this.rest.is_empty() && this.ask == *READ_AHEAD.start() && this.buffer.capacity() > this.ask {
            this.buffer = Vec::new();
            this.rest = 0..0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
