//! A peer made by hand, for the refusals of a real daemon: QUIC and TLS from the libraries, every other byte as
//! `docs/links.md` and `docs/peer-protocol.md` say. It can have the key of a node (from its state folder), or another.

mod relay;

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    sign::{CertifiedKey, SigningKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};

pub use relay::Relay;

/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Numbers of messages on a link's streams, before frames.
pub const GREETING: u8 = 1;
/// "Call me".
pub const KNOCK: u8 = 2;
const VOLUMES: u8 = 3;
const LINK: u8 = 4;
const JOIN: u8 = 5;
const EXPECTING: u8 = 6;
const UP: u8 = 7;

/// What it proves itself with.
#[derive(Debug)]
pub struct Credentials {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// The certificate of one state folder with the key of another (or the same).
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn of(certificate: &Path, key: &Path) -> Result<Self> {
        let read = |folder: &Path, file: &str| {
            let path = folder.join(file);
            fs::read(&path).with_context(|| path.display().to_string())
        };
        let (certificate, key) = (read(certificate, "node.crt")?, read(key, "node.key")?);
        Ok(Self {
            certificate: CertificateDer::from_pem_slice(&certificate)?,
            key: PrivateKeyDer::from_pem_slice(&key)?,
        })
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct Impostor {
    runtime: tokio::runtime::Runtime,
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
}

/// The streams of a link, and its session number.
#[derive(Debug)]
pub struct Link {
    /// Derived from the TLS session.
    pub session: u32,
    /// The control channel.
    pub control: (SendStream, RecvStream),
    /// The connection of the data channel, and its stream.
    pub data: (Connection, SendStream, RecvStream),
    /// Those of the resync channel.
    pub resync: (Connection, SendStream, RecvStream),
}

impl Impostor {
    /// Signs with this key for this certificate, whether they belong together or not; with none at all if `None`.
    ///
    /// # Errors
    /// The key cannot be used, or no socket can be opened.
    pub fn new(credentials: Option<Credentials>) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible));
        let mut config = match credentials {
            Some(Credentials { certificate, key }) => {
                let key: Arc<dyn SigningKey> = rustls::crypto::ring::sign::any_supported_type(&key)?;
                let chosen = Arc::new(CertifiedKey::new(vec![certificate], key));
                config.with_client_cert_resolver(Arc::new(Chosen(chosen)))
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"evenkeel".to_vec()];
        let config = quinn::crypto::rustls::QuicClientConfig::try_from(config)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let endpoint = {
            let _inside = runtime.enter();
            quinn::Endpoint::client("127.0.0.1:0".parse()?)?
        };
        Ok(Self { runtime, endpoint, config: quinn::ClientConfig::new(Arc::new(config)) })
    }

    fn run<T>(&self, what: &str, work: impl Future<Output = T>) -> Result<T> {
        let result = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await });
        result.with_context(|| format!("{what} takes too long"))
    }

    /// A connection. That the other side refuses the key shows only later.
    ///
    /// # Errors
    /// The handshake fails.
    pub fn connect(&self, address: SocketAddr) -> Result<Connection> {
        let _inside = self.runtime.enter();
        let connecting = self.endpoint.connect_with(self.config.clone(), address, "evenkeel")?;
        Ok(self.run("a handshake", connecting)??)
    }

    /// Everything that comes back when this is said first, until the other side closes; and its code and text.
    ///
    /// # Errors
    /// The other side does not close.
    pub fn say(&self, connection: &Connection, first: &[u8]) -> Result<(Vec<u8>, u64, String)> {
        let answer = self.run("an answer", async {
            let mut answer = Vec::new();
            if let Ok((mut send, mut receive)) = connection.open_bi().await {
                // Both fail when the connection is closed meanwhile.
                let _ = send.write_all(first).await;
                while let Ok(Some(chunk)) = receive.read_chunk(1 << 16, true).await {
                    answer.extend_from_slice(&chunk.bytes);
                }
            }
            answer
        })?;
        let (code, text) = self.closed(connection)?;
        Ok((answer, code, text))
    }

    /// How the other side closes: code and text. TLS alerts are codes from 0x100 on.
    ///
    /// # Errors
    /// It does not.
    pub fn closed(&self, connection: &Connection) -> Result<(u64, String)> {
        match self.run("the end", connection.closed())? {
            ConnectionError::ApplicationClosed(close) => {
                Ok((close.error_code.into_inner(), String::from_utf8_lossy(&close.reason).into_owned()))
            }
            ConnectionError::ConnectionClosed(close) => Ok((u64::from(close.error_code), close.to_string())),
            other => bail!("the other side does not close: {other}"),
        }
    }

    fn stream(&self, connection: &Connection, first: &[u8]) -> Result<(SendStream, RecvStream)> {
        self.run("a stream", async {
            let (mut send, receive) = connection.open_bi().await?;
            send.write_all(first).await?;
            Ok((send, receive))
        })?
    }

    /// Writes to a stream.
    ///
    /// # Errors
    /// It is closed.
    pub fn write(&self, send: &mut SendStream, bytes: &[u8]) -> Result<()> {
        Ok(self.run("writing", send.write_all(bytes))??)
    }

    fn message(&self, receive: &mut RecvStream) -> Result<(u8, Vec<u8>)> {
        self.run("a message", async {
            let mut header = [0; 8];
            receive.read_exact(&mut header).await?;
            let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
            let mut body = vec![0; usize::try_from(len)?];
            receive.read_exact(&mut body).await?;
            Ok((header[2], body))
        })?
    }

    /// A control connection on which both have greeted and want volume r0.
    ///
    /// # Errors
    /// The other side does not answer so.
    pub fn control(
        &self,
        address: SocketAddr,
        name: &str,
        to: &str,
    ) -> Result<(Connection, SendStream, RecvStream)> {
        let connection = self.connect(address)?;
        let hello = message(GREETING, &greeting("test", name, to));
        let (mut send, mut receive) = self.stream(&connection, &hello)?;
        ensure!(self.message(&mut receive)?.0 == GREETING, "a greeting was due");
        let wanted = [&text("r0")[..], &[1]].concat();
        self.write(&mut send, &message(VOLUMES, &wanted))?;
        let (kind, volumes) = self.message(&mut receive)?;
        ensure!(kind == VOLUMES && volumes == wanted, "it wants r0 too: {volumes:?}");
        Ok((connection, send, receive))
    }

    /// A link for r0 with this number.
    ///
    /// # Errors
    /// The other side does not answer so.
    pub fn link(&self, address: SocketAddr, control: &Connection, number: u64) -> Result<Link> {
        let wanted = message(LINK, &[&number.to_le_bytes()[..], &text("r0")].concat());
        let (send, mut receive) = self.stream(control, &wanted)?;
        ensure!(self.message(&mut receive)?.0 == EXPECTING, "the other two connections are expected");
        let mut secret = [0; 20];
        let context = [&number.to_le_bytes()[..], b"r0"].concat();
        if control.export_keying_material(&mut secret, b"EXPORTER-evenkeel-link", &context).is_err() {
            bail!("no keying material");
        }
        let join = |channel: u8| -> Result<(Connection, SendStream, RecvStream)> {
            let connection = self.connect(address)?;
            let first = message(JOIN, &[&[channel], &secret[4..]].concat());
            let (send, receive) = self.stream(&connection, &first)?;
            Ok((connection, send, receive))
        };
        let (data, resync) = (join(1)?, join(2)?);
        ensure!(self.message(&mut receive)?.0 == UP, "the link is up");
        let session = u32::from_le_bytes([secret[0], secret[1], secret[2], secret[3]]);
        Ok(Link { session, control: (send, receive), data, resync })
    }
}

/// A name as bytes.
fn text(text: &str) -> Vec<u8> {
    let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[len], text.as_bytes()].concat()
}

/// A message as bytes.
#[must_use]
pub fn message(number: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    [&[b'E', b'L', number, 0], &len[..], body].concat()
}

/// The body of a greeting, of version 1.
#[must_use]
pub fn greeting(cluster: &str, node: &str, to: &str) -> Vec<u8> {
    [&[1, 0, 1, 0, 0, 0, 0, 0], &[7; 8][..], &text(cluster), &text(node), &text(to)].concat()
}

/// A frame without payload.
#[must_use]
pub fn frame(kind: u8, session: u32, fields: &[u8]) -> Vec<u8> {
    let len = u32::try_from(fields.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = [&[b'E', b'K', kind, 0], &len[..], &[0; 12], &session.to_le_bytes(), &[0; 8]].concat();
    bytes.extend_from_slice(fields);
    bytes[12..16].fill(0);
    let checksum = crc32fast::hash(&bytes).to_le_bytes();
    bytes[12..16].copy_from_slice(&checksum);
    bytes
}

/// One certificate, whatever the server asks for.
#[derive(Debug)]
struct Chosen(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Chosen {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Takes every server for the right one.
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
