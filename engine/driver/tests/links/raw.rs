//! A peer made by hand: QUIC and TLS from the libraries, every other byte as `docs/links.md` says.

use std::{net::SocketAddr, sync::Arc};

use evenkeel_driver::identity::Identity;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    sign::{CertifiedKey, SigningKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::node::PATIENCE;

/// Numbers of messages.
pub(crate) const GREETING: u8 = 1;
pub(crate) const KNOCK: u8 = 2;
pub(crate) const VOLUMES: u8 = 3;
pub(crate) const LINK: u8 = 4;
pub(crate) const JOIN: u8 = 5;
pub(crate) const EXPECTING: u8 = 6;
pub(crate) const UP: u8 = 7;

/// A client that calls whom it likes.
pub(crate) struct Raw {
    runtime: tokio::runtime::Handle,
    /// Ends the thread that drives it.
    _running: tokio::sync::oneshot::Sender<()>,
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
}

/// Signs with one key for the certificate of another.
#[derive(Debug)]
struct Chosen(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Chosen {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Believes everybody.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
    }
}

impl Raw {
    /// With this certificate, signing with this key; with none at all if there is no certificate.
    pub(crate) fn new(certificate: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible));
        let mut config = match certificate {
            Some((certificate, key)) => {
                let key: Arc<dyn SigningKey> =
                    rustls::crypto::ring::sign::any_supported_type(&key).expect("a key");
                // Not asked whether the two belong together.
                config.with_client_cert_resolver(Arc::new(Chosen(Arc::new(CertifiedKey::new(
                    vec![certificate],
                    key,
                )))))
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"evenkeel".to_vec()];
        let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).expect("AES-128-GCM");
        let driven = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let runtime = driven.handle().clone();
        let (running, ended) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || driven.block_on(async { drop(ended.await) }));
        let endpoint = {
            let _inside = runtime.enter();
            quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("bound")
        };
        Self { runtime, _running: running, endpoint, config: quinn::ClientConfig::new(Arc::new(config)) }
    }

    /// With this identity.
    pub(crate) fn of(identity: &Identity) -> Self {
        Self::new(Some((identity.certificate(), identity.private_key())))
    }

    /// Runs something, not for ever.
    pub(crate) fn run<T>(&self, what: &str, run: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, run).await })
            .unwrap_or_else(|_| panic!("{what} takes too long"))
    }

    /// Begins a connection and does not wait for it.
    pub(crate) fn begin(&self, address: SocketAddr) -> quinn::Connecting {
        let _inside = self.runtime.enter();
        self.endpoint.connect_with(self.config.clone(), address, "evenkeel").expect("well-formed")
    }

    /// A connection. That the other side refuses this one's key shows only later.
    pub(crate) fn connect(&self, address: SocketAddr) -> Result<Connection, ConnectionError> {
        let connecting = self.begin(address);
        self.run("a handshake", connecting)
    }

    /// A connection with a first stream on which this was written.
    pub(crate) fn open(&self, address: SocketAddr, first: &[u8]) -> (Connection, SendStream, RecvStream) {
        let connection = self.connect(address).expect("connected");
        let (send, receive) = self.stream(&connection, first);
        (connection, send, receive)
    }

    /// A new stream on which this was written.
    pub(crate) fn stream(&self, connection: &Connection, first: &[u8]) -> (SendStream, RecvStream) {
        self.run("a stream", async {
            let (mut send, receive) = connection.open_bi().await.expect("a stream");
            send.write_all(first).await.expect("written");
            (send, receive)
        })
    }

    pub(crate) fn write(&self, send: &mut SendStream, bytes: &[u8]) {
        self.run("writing", send.write_all(bytes)).expect("written");
    }

    /// The next message: its number and body.
    pub(crate) fn message(&self, receive: &mut RecvStream) -> (u8, Vec<u8>) {
        self.run("a message", async {
            let mut header = [0; 8];
            receive.read_exact(&mut header).await.expect("a header");
            assert_eq!(&header[..2], b"EL");
            let mut body = vec![0; u32::from_le_bytes(header[4..].try_into().expect("4 bytes")) as usize];
            receive.read_exact(&mut body).await.expect("a body");
            (header[2], body)
        })
    }

    /// How the other side closes: code and text.
    pub(crate) fn closed(&self, connection: &Connection) -> (u64, String) {
        match self.run("the end", connection.closed()) {
            ConnectionError::ApplicationClosed(close) => {
                (close.error_code.into_inner(), String::from_utf8_lossy(&close.reason).into_owned())
            }
            ConnectionError::ConnectionClosed(close) => (u64::from(close.error_code), close.to_string()),
            other => panic!("the other side does not close: {other}"),
        }
    }

    /// Greets as `name` in cluster demo, and reads the answer.
    pub(crate) fn greet(
        &self,
        address: SocketAddr,
        name: &str,
        to: &str,
    ) -> (Connection, SendStream, RecvStream) {
        let (connection, send, mut receive) =
            self.open(address, &message(GREETING, &greeting("demo", name, to)));
        assert_eq!(self.message(&mut receive).0, GREETING);
        (connection, send, receive)
    }

    /// A control connection, greeted, with r0 wanted by both, and its first stream.
    pub(crate) fn control(
        &self,
        address: SocketAddr,
        name: &str,
        to: &str,
    ) -> (Connection, SendStream, RecvStream) {
        let (connection, mut send, mut receive) = self.greet(address, name, to);
        self.write(&mut send, &message(VOLUMES, &[&text("r0")[..], &[1]].concat()));
        assert_eq!(self.message(&mut receive), (VOLUMES, [&text("r0")[..], &[1]].concat()));
        (connection, send, receive)
    }

    /// The streams of a link for r0 with this number, by channel, and its session number.
    pub(crate) fn link(&self, address: SocketAddr, control: &Connection, number: u64) -> RawLink {
        let name = text("r0");
        let (send, mut receive) =
            self.stream(control, &message(LINK, &[&number.to_le_bytes()[..], &name].concat()));
        assert_eq!(self.message(&mut receive).0, EXPECTING);
        let mut secret = [0; 20];
        let context = [&number.to_le_bytes()[..], b"r0"].concat();
        control.export_keying_material(&mut secret, b"EXPORTER-evenkeel-link", &context).expect("exported");
        let join = |channel| self.open(address, &message(JOIN, &[&[channel], &secret[4..]].concat()));
        let (data, resync) = (join(1), join(2));
        assert_eq!(self.message(&mut receive).0, UP);
        let session = u32::from_le_bytes(secret[..4].try_into().expect("4 bytes"));
        RawLink { session, control: (send, receive), data, resync }
    }
}

/// A link made by hand.
pub(crate) struct RawLink {
    pub(crate) session: u32,
    pub(crate) control: (SendStream, RecvStream),
    pub(crate) data: (Connection, SendStream, RecvStream),
    pub(crate) resync: (Connection, SendStream, RecvStream),
}

/// A name as bytes.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat()
}

/// A message as bytes.
pub(crate) fn message(number: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).expect("short").to_le_bytes();
    [&[b'E', b'L', number, 0], &len[..], body].concat()
}

/// The body of a greeting, of version 1.
pub(crate) fn greeting(cluster: &str, node: &str, to: &str) -> Vec<u8> {
    [&[1, 0, 1, 0, 0, 0, 0, 0], &[7; 8][..], &text(cluster), &text(node), &text(to)].concat()
}
