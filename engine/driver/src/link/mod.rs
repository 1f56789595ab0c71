//! Links between nodes, over QUIC (`docs/links.md`).
//!
//! One UDP port per node. With each peer one connection for control and liveness, and for each volume one for
//! writes and one for resync (design section 8), so that no kind of traffic holds another one up. The *link* of a
//! volume is its stream on each of the three; it is up when all are, and down as a whole when one breaks.
//!
//! ```text
//!   node ── send ──> Endpoint ──> per channel: encoder, writer task ──> stream ──> peer
//!   node <─ events ─ Endpoint <── per channel: parser, reader task <── stream <── peer
//! ```
//!
//! | file | noun |
//! |---|---|
//! | `endpoint`, `event` | the interface |
//! | `socket`, `transport`, `tls` | the port, quinn's settings, who is let in |
//! | `accept`, `call` | connections that come and go out, until it is known what they are for |
//! | `peer`, `session`, `probe`, `backoff` | the control connection with a peer, and the links made over it |
//! | `live`, `channel` | links that are up: their streams, readers and writers |
//! | `inbox`, `buffers` | what came in |
//! | `message`, `closing` | what is said beside frames, and how connections end |
//! | `shared`, `task` | what all tasks have in common |
//!
//! Whoever runs it calls [`Endpoint::poll_events`] and [`Endpoint::send`] from one task of the data thread:
//!
//! ```no_run
//! # use evenkeel_driver::link::{Endpoint, LinkEvent};
//! # async fn run(endpoint: Endpoint) {
//! let mut events = Vec::new();
//! loop {
//!     endpoint.events(&mut events).await;
//!     for event in events.drain(..) {
//!         match event {
//!             LinkEvent::Up { .. } => {}      // Event::LinkUp of the volume
//!             LinkEvent::Frame { .. } => {}   // Event::Frame
//!             LinkEvent::Down { .. } => {}    // Event::LinkDown
//!             LinkEvent::Problem { .. } => {} // status
//!         }
//!     }
//!     // then Endpoint::send for each Action::Send of the burst: it leaves in one write per channel
//! }
//! # }
//! ```

mod accept;
mod backoff;
mod buffers;
mod call;
mod channel;
mod closing;
mod endpoint;
mod event;
mod inbox;
mod live;
mod message;
mod peer;
mod probe;
mod session;
mod shared;
mod socket;
mod task;
mod tls;
mod transport;

pub use endpoint::{
    BindError, Connection, Endpoint, EndpointConfig, NameError, PeerAddress, PeerError, PeerStatus,
};
pub use event::{Cause, Ending, LinkEvent, PeerKey, Problem, ProblemCode, VolumeKey};
