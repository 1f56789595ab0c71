//! The numbers of the NBD protocol (spec: "Values", and the magics of "Protocol phases"). All are big endian
//! on the wire.

use std::fmt;

/// First eight bytes from the server: `NBDMAGIC`.
pub const INIT_PASSWD: u64 = 0x4e42_444d_4147_4943;
/// Second eight bytes from the server, and the head of every option: `IHAVEOPT`.
pub const IHAVEOPT: u64 = 0x4948_4156_454F_5054;
/// Head of every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Head of every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Head of a request after EXTENDED_HEADERS, which we do not negotiate.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Head of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Head of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Longest string (spec: "Conventions").
pub const STRING_LIMIT: usize = 4096;
/// Payload that every server should take (spec: "Size constraints"): 32 MiB.
pub const DEFAULT_MAX_PAYLOAD: u32 = 1 << 25;

/// Handshake flags, and the client flags with the same values.
pub mod handshake_flag {
    /// FIXED_NEWSTYLE.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// NO_ZEROES.
    pub const NO_ZEROES: u16 = 2;
}

/// Option types.
pub mod option {
    /// NBD_OPT_EXPORT_NAME.
    pub const EXPORT_NAME: u32 = 1;
    /// NBD_OPT_ABORT.
    pub const ABORT: u32 = 2;
    /// NBD_OPT_LIST.
    pub const LIST: u32 = 3;
    /// NBD_OPT_PEEK_EXPORT (withdrawn).
    pub const PEEK_EXPORT: u32 = 4;
    /// NBD_OPT_STARTTLS.
    pub const STARTTLS: u32 = 5;
    /// NBD_OPT_INFO.
    pub const INFO: u32 = 6;
    /// NBD_OPT_GO.
    pub const GO: u32 = 7;
    /// NBD_OPT_STRUCTURED_REPLY.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// NBD_OPT_LIST_META_CONTEXT.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// NBD_OPT_SET_META_CONTEXT.
    pub const SET_META_CONTEXT: u32 = 10;
    /// NBD_OPT_EXTENDED_HEADERS (experimental).
    pub const EXTENDED_HEADERS: u32 = 11;
    /// An option that nobody has defined.
    pub const UNKNOWN: u32 = 0x0BAD_0A11;
}

/// Option reply types.
pub mod option_reply {
    /// NBD_REP_ACK.
    pub const ACK: u32 = 1;
    /// NBD_REP_SERVER.
    pub const SERVER: u32 = 2;
    /// NBD_REP_INFO.
    pub const INFO: u32 = 3;
    /// NBD_REP_META_CONTEXT.
    pub const META_CONTEXT: u32 = 4;
    /// Set in every error.
    pub const ERROR_BIT: u32 = 1 << 31;
    /// NBD_REP_ERR_UNSUP.
    pub const ERR_UNSUP: u32 = ERROR_BIT + 1;
    /// NBD_REP_ERR_POLICY.
    pub const ERR_POLICY: u32 = ERROR_BIT + 2;
    /// NBD_REP_ERR_INVALID.
    pub const ERR_INVALID: u32 = ERROR_BIT + 3;
    /// NBD_REP_ERR_TLS_REQD.
    pub const ERR_TLS_REQD: u32 = ERROR_BIT + 5;
    /// NBD_REP_ERR_UNKNOWN.
    pub const ERR_UNKNOWN: u32 = ERROR_BIT + 6;
    /// NBD_REP_ERR_SHUTDOWN.
    pub const ERR_SHUTDOWN: u32 = ERROR_BIT + 7;
    /// NBD_REP_ERR_TOO_BIG.
    pub const ERR_TOO_BIG: u32 = ERROR_BIT + 9;
}

/// Information types of INFO and GO.
pub mod info {
    /// NBD_INFO_EXPORT.
    pub const EXPORT: u16 = 0;
    /// NBD_INFO_NAME.
    pub const NAME: u16 = 1;
    /// NBD_INFO_DESCRIPTION.
    pub const DESCRIPTION: u16 = 2;
    /// NBD_INFO_BLOCK_SIZE.
    pub const BLOCK_SIZE: u16 = 3;
    /// An information type that nobody has defined.
    pub const UNKNOWN: u16 = 0x4242;
}

/// Transmission flags.
pub mod export_flag {
    /// NBD_FLAG_HAS_FLAGS.
    pub const HAS_FLAGS: u16 = 1;
    /// NBD_FLAG_READ_ONLY.
    pub const READ_ONLY: u16 = 1 << 1;
    /// NBD_FLAG_SEND_FLUSH.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// NBD_FLAG_SEND_FUA.
    pub const SEND_FUA: u16 = 1 << 3;
    /// NBD_FLAG_SEND_TRIM.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// NBD_FLAG_SEND_WRITE_ZEROES.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// NBD_FLAG_SEND_DF.
    pub const SEND_DF: u16 = 1 << 7;
    /// NBD_FLAG_CAN_MULTI_CONN.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// NBD_FLAG_SEND_RESIZE (experimental).
    pub const SEND_RESIZE: u16 = 1 << 9;
    /// NBD_FLAG_SEND_CACHE.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// NBD_FLAG_SEND_FAST_ZERO.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// NBD_FLAG_BLOCK_STATUS_PAYLOAD (experimental), and the bits above that nobody has defined.
    pub const BIT_12_AND_UP: u16 = 0xf000;
}

/// Request types.
pub mod command {
    /// NBD_CMD_READ.
    pub const READ: u16 = 0;
    /// NBD_CMD_WRITE.
    pub const WRITE: u16 = 1;
    /// NBD_CMD_DISC.
    pub const DISC: u16 = 2;
    /// NBD_CMD_FLUSH.
    pub const FLUSH: u16 = 3;
    /// NBD_CMD_TRIM.
    pub const TRIM: u16 = 4;
    /// NBD_CMD_CACHE.
    pub const CACHE: u16 = 5;
    /// NBD_CMD_WRITE_ZEROES.
    pub const WRITE_ZEROES: u16 = 6;
    /// NBD_CMD_BLOCK_STATUS.
    pub const BLOCK_STATUS: u16 = 7;
    /// NBD_CMD_RESIZE (experimental).
    pub const RESIZE: u16 = 8;
    /// A command that nobody has defined.
    pub const UNKNOWN: u16 = 0x0BAD;
}

/// Command flags.
pub mod command_flag {
    /// No flag.
    pub const NONE: u16 = 0;
    /// NBD_CMD_FLAG_FUA.
    pub const FUA: u16 = 1;
    /// NBD_CMD_FLAG_NO_HOLE.
    pub const NO_HOLE: u16 = 1 << 1;
    /// NBD_CMD_FLAG_DF.
    pub const DF: u16 = 1 << 2;
    /// NBD_CMD_FLAG_REQ_ONE.
    pub const REQ_ONE: u16 = 1 << 3;
    /// NBD_CMD_FLAG_FAST_ZERO.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// NBD_CMD_FLAG_PAYLOAD_LEN (experimental).
    pub const PAYLOAD_LEN: u16 = 1 << 5;
    /// A flag that nobody has defined.
    pub const UNKNOWN: u16 = 1 << 13;
}

/// Structured reply chunk types, and the one flag of a chunk.
pub mod chunk {
    /// NBD_REPLY_FLAG_DONE.
    pub const FLAG_DONE: u16 = 1;
    /// NBD_REPLY_TYPE_NONE.
    pub const NONE: u16 = 0;
    /// NBD_REPLY_TYPE_OFFSET_DATA.
    pub const OFFSET_DATA: u16 = 1;
    /// NBD_REPLY_TYPE_OFFSET_HOLE.
    pub const OFFSET_HOLE: u16 = 2;
    /// NBD_REPLY_TYPE_BLOCK_STATUS.
    pub const BLOCK_STATUS: u16 = 5;
    /// NBD_REPLY_TYPE_ERROR.
    pub const ERROR: u16 = (1 << 15) + 1;
    /// NBD_REPLY_TYPE_ERROR_OFFSET.
    pub const ERROR_OFFSET: u16 = (1 << 15) + 2;
}

/// Status flags of the context `base:allocation`.
pub mod allocation {
    /// NBD_STATE_HOLE.
    pub const HOLE: u32 = 1;
    /// NBD_STATE_ZERO.
    pub const ZERO: u32 = 2;
}

/// The error field of a reply (spec: "Error values"): a number of the protocol, not of the host.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub u32);

impl Errno {
    /// No error.
    pub const OK: Self = Self(0);
    /// NBD_EPERM.
    pub const EPERM: Self = Self(1);
    /// NBD_EIO.
    pub const EIO: Self = Self(5);
    /// NBD_ENOMEM.
    pub const ENOMEM: Self = Self(12);
    /// NBD_EINVAL.
    pub const EINVAL: Self = Self(22);
    /// NBD_ENOSPC.
    pub const ENOSPC: Self = Self(28);
    /// NBD_EOVERFLOW.
    pub const EOVERFLOW: Self = Self(75);
    /// NBD_ENOTSUP.
    pub const ENOTSUP: Self = Self(95);
    /// NBD_ESHUTDOWN.
    pub const ESHUTDOWN: Self = Self(108);

    /// The name in the specification; `None` for a number that a server may not send.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::OK => "OK",
            Self::EPERM => "EPERM",
            Self::EIO => "EIO",
            Self::ENOMEM => "ENOMEM",
            Self::EINVAL => "EINVAL",
            Self::ENOSPC => "ENOSPC",
            Self::EOVERFLOW => "EOVERFLOW",
            Self::ENOTSUP => "ENOTSUP",
            Self::ESHUTDOWN => "ESHUTDOWN",
            Self(_) => return None,
        })
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error {} (not of the protocol)", self.0),
        }
    }
}
