//! Links over real sockets on loopback: what is promised to the node above, and what strangers, liars and recorded
//! datagrams get.
//!
//! Every node runs on a thread and a runtime of its own, as in production, so that one can be killed without a
//! word. `raw` is a peer made by hand: bytes as in `docs/links.md`, none of the code under test.

mod frames;
mod hostile;
mod identity;
mod node;
mod raw;
mod reconnect;
mod relay;
mod replay;
