//! quinn's settings. `docs/links.md` has the reasons; the figures behind them are measured.

use std::{sync::Arc, time::Duration};

use quinn::{
    AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig,
    VarInt, congestion::CubicConfig, crypto::rustls::QuicServerConfig,
};
use quinn_proto::HashedConnectionIdGenerator;
use ring::hmac;

use crate::identity::Identity;

/// The largest datagram that is tried: 9,000 bytes of Ethernet without the headers of IPv6 and UDP. Larger ones
/// exist on loopback only.
const DATAGRAM_BYTES_MAX: u16 = 9000 - 48;

/// What every path carries (RFC 9000 section 14): connections begin with it, and look for more.
const DATAGRAM_BYTES_MIN: u16 = 1200;

/// The room that the socket needs for a datagram.
pub(super) const RECEIVE_BYTES: u16 = 9000;

/// A connection attempt that takes longer has failed; also the time for what has to be said first.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Handshakes under way at most; more are not looked at.
pub(super) const HANDSHAKES_MAX: usize = 64;

/// From so many handshakes under way on, a caller first has to show that it gets answers at its address.
pub(super) const HANDSHAKES_BEFORE_RETRY: usize = 16;

/// Settings of every connection.
pub(super) fn transport(idle: Duration, window_bytes: u64) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let window = VarInt::from_u64(window_bytes).unwrap_or(VarInt::MAX);
    let both = VarInt::from_u64(window_bytes.saturating_mul(2)).unwrap_or(VarInt::MAX);
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(DATAGRAM_BYTES_MAX);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(10)).max_ack_delay(Some(Duration::from_millis(1)));
    let mut cubic = CubicConfig::default();
    cubic.initial_window(64 << 10);
    config
        .initial_mtu(DATAGRAM_BYTES_MIN)
        .min_mtu(DATAGRAM_BYTES_MIN)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(cubic))
        .initial_rtt(Duration::from_millis(20))
        .stream_receive_window(window)
        .receive_window(both)
        .send_window(both.into_inner())
        .send_fairness(false)
        .max_concurrent_bidi_streams(VarInt::from_u32(2))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IdleTimeout::try_from(idle).unwrap_or_else(|_| VarInt::MAX.into())))
        .keep_alive_interval(Some(idle / 4));
    Arc::new(config)
}

/// Settings of the listening side.
pub(super) fn server(tls: QuicServerConfig, transport: Arc<TransportConfig>) -> ServerConfig {
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config
        .transport_config(transport)
        .migration(false)
        .max_incoming(HANDSHAKES_MAX)
        .incoming_buffer_size(16 << 10);
    config.incoming_buffer_size_total(1 << 20);
    config
}

/// Settings of the port. Connection ids and reset tokens follow from the node's key, so that a process started
/// again can tell a peer at once that it knows nothing of the connections of its predecessor.
pub(super) fn endpoint(identity: &Identity) -> EndpointConfig {
    let derive = |label: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, identity.private_key().secret_der());
        hmac::sign(&key, label)
    };
    let reset = derive(b"evenkeel stateless reset");
    let ids = derive(b"evenkeel connection ids");
    let ids = u64::from_le_bytes(ids.as_ref()[..8].try_into().expect("8 bytes"));
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset.as_ref())));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config.max_udp_payload_size(RECEIVE_BYTES).expect("RFC 9000 allows 1,200 to 65,527");
    config
}
