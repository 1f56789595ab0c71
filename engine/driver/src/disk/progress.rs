//! How far a read or write has come, for operations that the kernel did only in part.
//!
//! ```text
//!   running ──part──> running ──rest──> complete
//!      └─nothing moved / error──> failed
//! ```

use rustix::io::Errno;

use super::DiskError;

/// An interrupted operation is tried again this often before it counts as failed; the kernel does not do it
/// more than once or twice.
const RETRIES: u8 = 100;

/// The state of one transfer of `total` bytes.
#[derive(Debug)]
pub(super) struct Progress {
    total: usize,
    done: usize,
    retries_left: u8,
}

/// What to do after the kernel has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Issue the rest.
    Continue,
    /// All bytes have moved.
    Complete,
    /// Give up.
    Fail(DiskError),
}

impl Progress {
    pub(super) fn new(total: usize) -> Self {
        Self { total, done: 0, retries_left: RETRIES }
    }

    /// Bytes that have moved.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// Bytes that have not.
    pub(super) fn left(&self) -> usize {
        self.total - self.done
    }

    /// Takes the kernel's answer to the transfer of [`Progress::left`] bytes. `unit` is the alignment that the
    /// next piece must have: a part of a block that did move is moved again.
    pub(super) fn advance(&mut self, answer: Result<usize, Errno>, unit: usize) -> Step {
        match answer {
            Ok(moved) => {
                assert!(moved <= self.left(), "the kernel moved {moved} of {} bytes", self.left());
                if moved == self.left() {
                    self.done = self.total;
                    return Step::Complete;
                }
                let moved = moved / unit * unit;
                if moved == 0 {
                    return Step::Fail(DiskError::Truncated);
                }
                self.done += moved;
                Step::Continue
            }
            Err(Errno::INTR | Errno::AGAIN) if self.retries_left > 0 => {
                self.retries_left -= 1;
                Step::Continue
            }
            Err(errno) => Step::Fail(DiskError::Os(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        let mut progress = Progress::new(8192);
        assert_eq!(progress.advance(Ok(4096), 512), Step::Continue);
        assert_eq!((progress.done(), progress.left()), (4096, 4096));
        assert_eq!(progress.advance(Err(Errno::INTR), 512), Step::Continue);
        assert_eq!(progress.advance(Ok(700), 512), Step::Continue);
        assert_eq!(progress.done(), 4096 + 512, "a part of a block is moved again");
        assert_eq!(progress.advance(Ok(progress.left()), 512), Step::Complete);
        assert_eq!(progress.left(), 0);
    }

    #[test]
    fn no_progress_fails_instead_of_turning_for_ever() {
        assert_eq!(Progress::new(4096).advance(Ok(0), 512), Step::Fail(DiskError::Truncated));
        assert_eq!(Progress::new(4096).advance(Ok(511), 512), Step::Fail(DiskError::Truncated));
        let mut progress = Progress::new(4096);
        let last = (0..=RETRIES).map(|_| progress.advance(Err(Errno::AGAIN), 512)).last();
        assert_eq!(last, Some(Step::Fail(DiskError::Os(Errno::AGAIN))));
        assert_eq!(progress.advance(Err(Errno::IO), 512), Step::Fail(DiskError::Os(Errno::IO)));
    }
}
