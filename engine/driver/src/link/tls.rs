//! TLS 1.3, mutual, with pinned keys.
//!
//! Invariants:
//! - a certificate is believed for its key alone: the SHA-256 of its SubjectPublicKeyInfo must be a configured
//!   one. Names, dates and issuers mean nothing; there is no authority and no clock in it;
//! - the handshake's signature is still checked, with that key: who shows a certificate without having its key is
//!   refused;
//! - no early data and no resumption: every connection looks at the key again, and nothing can be replayed into
//!   one;
//! - one cipher suite, AES-128-GCM, and one key exchange, X25519.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring as suites, verify_tls13_signature},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::identity::{Fingerprint, Identity};

/// What this node's protocol is called in the handshake. Its version is told by the greeting.
const PROTOCOL: &[u8] = b"evenkeel";

/// The name that TLS wants of a server; nobody looks at it.
pub(super) const SERVER_NAME: &str = "evenkeel";

/// What connections are authenticated with.
#[derive(Debug)]
pub(super) struct Tls {
    client: rustls::ClientConfig,
    allowed: Arc<Allowed>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Tls {
    /// For this identity; also the configuration of the listening side.
    pub(super) fn new(identity: &Identity) -> Result<(Self, QuicServerConfig), rustls::Error> {
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms;
        let allowed = Arc::new(Allowed { state: Mutex::default(), algorithms });
        let certificate = vec![identity.certificate()];
        let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(allowed.clone())
            .with_single_cert(certificate.clone(), identity.private_key())?;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        server.max_early_data_size = 0;
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let nobody =
            Arc::new(Expected { fingerprint: identity.fingerprint(), found: Mutex::default(), algorithms });
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(nobody)
            .with_client_auth_cert(certificate, identity.private_key())?;
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_early_data = false;
        client.enable_sni = false;
        let server = QuicServerConfig::try_from(server).expect("the provider has AES-128-GCM");
        Ok((Self { client, allowed, algorithms }, server))
    }

    /// For a call to the node with this key; and what it will have shown instead, if it is another.
    pub(super) fn client(&self, fingerprint: Fingerprint) -> (QuicClientConfig, Arc<Expected>) {
        let expected =
            Arc::new(Expected { fingerprint, found: Mutex::default(), algorithms: self.algorithms });
        let mut client = self.client.clone();
        client.dangerous().set_certificate_verifier(expected.clone());
        (QuicClientConfig::try_from(client).expect("the provider has AES-128-GCM"), expected)
    }

    /// The keys that are let in from now on.
    pub(super) fn allow(&self, keys: BTreeSet<Fingerprint>) {
        self.allowed.lock().keys = keys;
    }

    /// The key that was refused last, if nobody has asked since.
    pub(super) fn take_refused(&self) -> Option<Fingerprint> {
        self.allowed.lock().refused.take()
    }
}

/// The key at the other end of a connection.
pub(super) fn fingerprint_of(connection: &quinn::Connection) -> Option<Fingerprint> {
    let identity = connection.peer_identity()?;
    let certificates = identity.downcast_ref::<Vec<CertificateDer<'static>>>()?;
    Fingerprint::of_certificate(certificates.first()?).ok()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![suites::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![suites::kx_group::X25519],
        ..suites::default_provider()
    })
}

/// TLS 1.2 is switched off; its signatures are never asked for.
fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic))
}

fn unknown_key() -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

/// Checks who calls.
#[derive(Debug)]
struct Allowed {
    state: Mutex<Keys>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug, Default)]
struct Keys {
    keys: BTreeSet<Fingerprint>,
    refused: Option<Fingerprint>,
}

impl Allowed {
    fn lock(&self) -> std::sync::MutexGuard<'_, Keys> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientCertVerifier for Allowed {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let found = Fingerprint::of_certificate(certificate)?;
        let mut state = self.lock();
        if state.keys.contains(&found) {
            return Ok(ClientCertVerified::assertion());
        }
        state.refused = Some(found);
        Err(unknown_key())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Checks who answers.
#[derive(Debug)]
pub(super) struct Expected {
    fingerprint: Fingerprint,
    found: Mutex<Option<Fingerprint>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Expected {
    /// The key that was shown instead of the expected one.
    pub(super) fn found_instead(&self) -> Option<Fingerprint> {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServerCertVerifier for Expected {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = Fingerprint::of_certificate(certificate)?;
        if found == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Err(unknown_key())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
