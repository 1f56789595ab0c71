//! Design rule W4: a failed sync is final.
//!
//! ```text
//!   good ──sync or durable write failed──> failed   (for as long as the disk is open)
//! ```
//!
//! After a failed fsync Linux marks the pages clean and reports the error once. A later sync would succeed and
//! promise data that is gone. A durable write (RWF_DSYNC) ends in the same kernel function and takes the same
//! once-only report away from the next sync, so its failure counts too, except for those errors that only say
//! that this one write found no room.

use std::cell::Cell;

use rustix::io::Errno;

use super::{DiskError, DiskOp, DiskReply};

/// Whether a disk may still be believed.
#[derive(Debug, Default)]
pub(super) struct Health {
    failed: Cell<bool>,
}

/// What the result of an operation says about the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// Its failure concerns this operation alone.
    Ordinary,
    /// Its failure may be that of other writes.
    Sync,
    /// A write with a sync behind it.
    DurableWrite,
}

impl Weight {
    pub(super) fn of(op: &DiskOp) -> Self {
        match op {
            DiskOp::Sync => Self::Sync,
            DiskOp::Write { durable: true, .. } => Self::DurableWrite,
            DiskOp::Write { durable: false, .. }
            | DiskOp::Read { .. }
            | DiskOp::Zero { .. }
            | DiskOp::Map { .. }
            | DiskOp::Prefetch { .. }
            | DiskOp::Extend { .. } => Self::Ordinary,
        }
    }

    fn is_final(self, error: DiskError) -> bool {
        let no_room = matches!(error, DiskError::Os(Errno::NOSPC | Errno::DQUOT | Errno::FBIG));
        match self {
            Self::Ordinary => false,
            Self::Sync => true,
            Self::DurableWrite => !no_room,
        }
    }
}

impl Health {
    pub(super) fn is_failed(&self) -> bool {
        self.failed.get()
    }

    /// What may be told of a result, after what it says about the disk has been noted.
    pub(super) fn judge(
        &self,
        weight: Weight,
        result: Result<DiskReply, DiskError>,
    ) -> Result<DiskReply, DiskError> {
        if self.failed.get() {
            return Err(DiskError::Failed);
        }
        if let Err(error) = result
            && weight.is_final(error)
        {
            tracing::error!(
                %error,
                "a sync failed: written data may be lost, the disk is out of service until it is opened again"
            );
            self.failed.set(true);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_sync_is_final_and_a_full_disk_is_not() {
        let health = Health::default();
        let no_space = || Err(DiskError::Os(Errno::NOSPC));
        let io = || Err(DiskError::Os(Errno::IO));
        assert!(health.judge(Weight::Ordinary, io()).is_err());
        assert!(health.judge(Weight::DurableWrite, no_space()).is_err());
        assert!(!health.is_failed());
        assert!(health.judge(Weight::Ordinary, Ok(DiskReply::Done)).is_ok());

        assert_eq!(health.judge(Weight::Sync, no_space()).unwrap_err(), DiskError::Os(Errno::NOSPC));
        assert!(health.is_failed());
        assert_eq!(health.judge(Weight::Ordinary, Ok(DiskReply::Done)).unwrap_err(), DiskError::Failed);
    }

    #[test]
    fn a_durable_write_that_fails_takes_the_disk_out() {
        let health = Health::default();
        assert!(health.judge(Weight::DurableWrite, Err(DiskError::Os(Errno::IO))).is_err());
        assert!(health.is_failed());
    }
}
