//! Frames as bytes: the peer protocol (`docs/peer-protocol.md` has it byte by byte).
//!
//! What leaves is asserted to be what a peer accepts; what arrives is believed in nothing: every length, number,
//! id and checksum is looked at, no input panics, and no memory is taken for what a frame merely announces
//! (but for one payload of a frame whose head was right).
//!
//! | file | noun |
//! |---|---|
//! | `limits` | how much one frame may carry |
//! | `kind` | numbers of the frames, and the shape that each must have |
//! | `header` | the first 32 bytes, the two checksums, the session number |
//! | `fields` | little-endian integers, ids, spans, lists |
//! | `body` | the fields of every kind; `hello`, `report`, `verdict` the long ones |
//! | `encoder` | frames into chunks for a vectored send |
//! | `parser`, `payload` | chunks cut anywhere into frames; where payloads are put |
//! | `error` | why bytes are not a frame |

mod body;
mod encoder;
mod error;
mod fields;
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod golden;
mod header;
mod hello;
mod kind;
pub mod limits;
mod parser;
mod payload;
mod report;
#[cfg(test)]
mod tests;
mod verdict;

pub use encoder::Encoder;
pub use error::FrameError;
pub use header::{HEADER_BYTES, MAGIC, PayloadChecksum, SessionNumber};
pub use kind::Kind;
pub use parser::Parser;
pub use payload::{HeapBuffers, PayloadBuffer, PayloadBuffers};
