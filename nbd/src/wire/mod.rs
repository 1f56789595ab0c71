//! The bytes of the NBD protocol: numbers, and layouts that never change.
//!
//! Everything is big-endian. This module knows no rules: what a message means, and whether it is allowed, is
//! the business of [`session`](crate::session). Names are those of the spec without the `NBD_` prefixes.

pub mod option;
pub mod transmission;

/// First word of the greeting, ASCII `NBDMAGIC`.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of the greeting and first word of every option, ASCII `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First word of every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// No string in the protocol is longer (spec, "Conventions").
pub const MAX_STRING_BYTES: usize = 4096;
/// Zeroes behind the reply to EXPORT_NAME, unless both sides said NO_ZEROES.
pub const EXPORT_NAME_PADDING_BYTES: usize = 124;

/// What the server says in its greeting.
pub mod handshake_flag {
    /// Options other than EXPORT_NAME are understood.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// The padding after EXPORT_NAME can be left out.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// What the client answers to the greeting.
pub mod client_flag {
    /// The client understands option replies.
    pub const FIXED_NEWSTYLE: u32 = 1 << 0;
    /// The client expects no padding after EXPORT_NAME.
    pub const NO_ZEROES: u32 = 1 << 1;
    /// All flags that a client may set.
    pub const KNOWN: u32 = FIXED_NEWSTYLE | NO_ZEROES;
}

/// What an export can do, told when a client enters it.
pub mod transmission_flag {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH works.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The FUA flag works, and is accepted on every command.
    pub const SEND_FUA: u16 = 1 << 3;
    /// The disk turns.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// TRIM works.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES works, with NO_HOLE.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The DF flag works; only with structured replies.
    pub const SEND_DF: u16 = 1 << 7;
    /// A FLUSH covers all connections.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE is understood.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// WRITE_ZEROES takes FAST_ZERO.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Flags of one request.
pub mod command_flag {
    /// Reply only when stable.
    pub const FUA: u16 = 1 << 0;
    /// WRITE_ZEROES keeps the space allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// READ is answered in one content chunk.
    pub const DF: u16 = 1 << 2;
    /// BLOCK_STATUS is answered with one extent.
    pub const REQ_ONE: u16 = 1 << 3;
    /// WRITE_ZEROES fails unless it is faster than writing.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Types of request.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write; the payload follows the header.
    pub const WRITE: u16 = 1;
    /// Disconnect; there is no reply.
    pub const DISC: u16 = 2;
    /// Make replied writes stable.
    pub const FLUSH: u16 = 3;
    /// Discard.
    pub const TRIM: u16 = 4;
    /// Read ahead.
    pub const CACHE: u16 = 5;
    /// Make a range read as zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// Describe a range in the selected metadata contexts.
    pub const BLOCK_STATUS: u16 = 7;
}
