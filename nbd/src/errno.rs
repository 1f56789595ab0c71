//! The one place that maps errors to NBD error numbers.
//!
//! NBD error numbers are protocol values; they only look like the host's `errno`. Whatever a device reports is
//! first an [`ErrorClass`], and only [`ErrorClass::to_wire`] knows the numbers (spec, section "Error values").

/// What kind of failure a request met. The set is that of the protocol: nothing else can be told to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The export may not be written (EPERM).
    NotPermitted,
    /// The data could not be read or made durable (EIO).
    Io,
    /// No memory for this request (ENOMEM).
    NoMemory,
    /// The request itself is wrong: range, flag or command (EINVAL).
    Invalid,
    /// No room: a write past the end, or a full disk (ENOSPC).
    NoSpace,
    /// The reply cannot have the form that was asked for (EOVERFLOW, only for DF).
    Overflow,
    /// Not faster than writing zeroes (ENOTSUP, only for FAST_ZERO).
    NotSupported,
    /// The export is going away (ESHUTDOWN).
    Shutdown,
}

impl ErrorClass {
    /// The error number of this class on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        match self {
            Self::NotPermitted => 1,
            Self::Io => 5,
            Self::NoMemory => 12,
            Self::Invalid => 22,
            Self::NoSpace => 28,
            Self::Overflow => 75,
            Self::NotSupported => 95,
            Self::Shutdown => 108,
        }
    }

    /// The class of an error that the operating system reported. Unknown ones are [`ErrorClass::Io`]: a client
    /// must never take an unexpected failure for a mistake of its own.
    #[must_use]
    pub fn from_os(error: &std::io::Error) -> Self {
        use rustix::io::Errno;
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Self::NoSpace,
            Some(Errno::NOMEM) => Self::NoMemory,
            Some(Errno::PERM | Errno::ROFS | Errno::ACCESS) => Self::NotPermitted,
            Some(Errno::SHUTDOWN) => Self::Shutdown,
            _ => Self::Io,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn numbers_are_those_of_the_specification() {
        let all = [
            (ErrorClass::NotPermitted, 1),
            (ErrorClass::Io, 5),
            (ErrorClass::NoMemory, 12),
            (ErrorClass::Invalid, 22),
            (ErrorClass::NoSpace, 28),
            (ErrorClass::Overflow, 75),
            (ErrorClass::NotSupported, 95),
            (ErrorClass::Shutdown, 108),
        ];
        for (class, number) in all {
            assert_eq!(class.to_wire(), number, "{class:?}");
        }
    }

    #[test]
    fn quota_and_file_size_limits_are_no_space() {
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
            assert_eq!(ErrorClass::from_os(&errno.into()), ErrorClass::NoSpace);
        }
        assert_eq!(ErrorClass::from_os(&Errno::NXIO.into()), ErrorClass::Io);
        assert_eq!(ErrorClass::from_os(&std::io::Error::other("odd")), ErrorClass::Io);
    }
}
